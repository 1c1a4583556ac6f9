"""
How long the longest recording call takes while records are let go: ``python -m benchmarks.retaining 1000000 5`` prints figures.

One thread records into a directory, some 15,000 times a second, and each call is timed. In every second round the store's retention runs in the
same process meanwhile and lets go all of that many records; in the others it does not. The machine itself holds a call up now and then,
so only the difference tells anything.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import NamedTuple

from benchmarks.corpus import past
from benchmarks.storing import BATCH, Rfs
from rfs.monitoring import Monitor
from rfs.monitoring._store.retention import CHUNKS, RecordRetention
from rfs.monitoring.monitor import use_monitor
from rfs.monitoring.result_logging import info
from rfs.monitoring.retention import Retention

SECONDS = 1.0  # of a round
BURST = 100  # calls without a pause
PAUSE_SECONDS = 0.005
GOAL_SECONDS = 0.001


class Round(NamedTuple):
    """The longest call in seconds, how many there were, and how long retention took."""

    longest: float
    calls: int
    retained: float


def record(seconds: float) -> tuple[float, int]:
    """Record for so long; return how long the longest call took, and how many there were."""
    longest, calls = 0.0, 0
    clock = time.perf_counter
    ends = clock() + seconds
    while clock() < ends:
        for _ in range(BURST):
            began = clock()
            info("recorded", order_id="ord_7", table=7)
            longest = max(longest, clock() - began)
        calls += BURST
        time.sleep(PAUSE_SECONDS)
    return longest, calls


def one_round(store: Path, *, retains: bool) -> Round:
    """Record for `SECONDS`; after a third of that, if it *retains*, let go all that is in *store*."""
    took = 0.0

    def retain() -> None:
        nonlocal took
        time.sleep(SECONDS / 3)
        began = time.perf_counter()
        freed = RecordRetention(store, Retention(records_bytes=0), time.time).keep()
        took = time.perf_counter() - began
        assert freed.records, freed

    thread = Thread(target=retain)
    if retains:
        thread.start()
    longest, calls = record(SECONDS)
    if retains:
        thread.join()
    return Round(longest, calls, took)


def measure(count: int, rounds: int) -> dict[str, list[Round]]:
    """Return the rounds with retention of *count* records, and those without."""
    told: dict[str, list[Round]] = {"with": [], "without": []}
    with tempfile.TemporaryDirectory(prefix="rfs-bench-") as folder:
        kept = Rfs(Path(folder, "kept"))
        records = past(count)
        while batch := list(islice(records, BATCH)):
            kept.keep(kept.runs(batch))
        kept.finish()
        monitor = Monitor(service_name="retaining", directory=Path(folder, "live"), storm_limit=1e12)
        with use_monitor(monitor):
            monitor.start()
            record(SECONDS)
            for _ in range(rounds):
                store = Path(folder, "copy")
                shutil.copytree(kept.chunks, store / CHUNKS)
                told["without"].append(one_round(store, retains=False))
                told["with"].append(one_round(store, retains=True))
                shutil.rmtree(store)
            monitor.stop()
    return told


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), int(sys.argv[2]))))
