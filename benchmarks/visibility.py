"""
How long after it was recorded a record can be read in another process: ``python -m benchmarks.visibility [SECONDS]``.

One process records 5,000 records a second; this one asks its own query for the newest, again and again, and notes for each
record how old it was when it was first seen. Both clocks are the machine's one monotonic clock. Prints p50, p99 and the largest.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rfs.monitoring import info
from rfs.monitoring.monitor import Monitor, use_monitor

RATE = 5_000  # records per second
GOAL_SECONDS = 0.050
PAGE = 1_000


def record(directory: str, seconds: float) -> None:
    """Record at `RATE` for *seconds*, each record with the moment at which its call began."""
    monitor = Monitor(service_name="visibility", directory=Path(directory))
    with use_monitor(monitor):
        monitor.start()
        began = time.monotonic()
        for number in range(int(RATE * seconds)):
            while (left := began + number / RATE - time.monotonic()) > 0:
                time.sleep(left)
            info("seen", number=number, at=time.monotonic())
        monitor.stop()


def measure(seconds: float) -> dict[str, float]:
    """Return p50, p99 and the largest delay in seconds, how many records were seen, and how many queries it took."""
    delays: list[float] = []
    queries = 0
    with tempfile.TemporaryDirectory() as directory:
        monitor = Monitor(service_name="visibility", directory=Path(directory))
        monitor.start()
        command = [sys.executable, "-m", "benchmarks.visibility", "record", directory, str(seconds)]
        last = -1
        with subprocess.Popen(command) as recorder:
            while recorder.poll() is None:
                records = monitor.query.records(limit=PAGE)
                now = time.monotonic()  # after the answer: what the query itself takes counts
                queries += 1
                newest = last
                for one in records:
                    number = one.context.get("number")
                    if isinstance(number, int) and number > last:
                        delays.append(now - float(str(one.context["at"])))
                        newest = max(newest, number)
                last = newest
                time.sleep(0.001)
        monitor.stop()
    delays.sort()
    count = len(delays)
    assert count >= RATE * seconds * 0.9, f"only {count} of {RATE * seconds:.0f} records were seen"
    p50, p99 = (delays[math.ceil(q * count) - 1] for q in (0.5, 0.99))
    return {"p50": p50, "p99": p99, "max": delays[-1], "records": count, "queries": queries}


def main(arguments: list[str]) -> None:
    """Measure, or be the one that records."""
    if arguments[:1] == ["record"]:
        record(arguments[1], float(arguments[2]))
        return
    print(json.dumps(measure(float(arguments[0]) if arguments else 10.0)))


if __name__ == "__main__":
    main(sys.argv[1:])
