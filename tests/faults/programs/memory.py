"""
One of the loads of test_memory.py, on an event loop that is watched: ``memory.py load size report [alone]``.

*alone* starts nothing: what the same load makes the loop wait without a thread of ours is the baseline. The report is a file,
since standard output may be what hangs. All figures are this process' own.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from rfs.monitoring import counter, default_monitor, start_monitoring, stop_monitoring
from rfs.monitoring.result_logging import configure_result_logging, info

SLICE = 100  # turns between two looks of the loop at its other tasks: under a millisecond
RECORDS_PER_SECOND = 2_000
WATCH_SECONDS = 0.002
STORE_RECORDS = 60_000


def rss_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def label_sets(size: int) -> None:
    orders = counter("orders_total")
    for begin in range(0, size, SLICE):
        for number in range(begin, min(begin + SLICE, size)):
            orders.inc(1, user=f"user {number}")
        await asyncio.sleep(0)


async def storm(size: int) -> None:
    for begin in range(0, size, SLICE):
        for _ in range(begin, min(begin + SLICE, size)):
            info("storm")
        await asyncio.sleep(0)


async def hang(size: int) -> None:
    """Record *size* seconds long at an ordinary rate, each record with a text of its own."""
    began = time.monotonic()
    made = 0
    while (now := time.monotonic() - began) < size:
        while made < now * RECORDS_PER_SECOND:
            info(f"record {made}", order_id=made, table="T12", note="x" * 100)
            made += 1
        await asyncio.sleep(0.002)


LOADS: dict[str, Callable[[int], Coroutine[Any, Any, None]]] = {"label_sets": label_sets, "storm": storm, "hang": hang}


def waited_for_cores() -> float:
    """How many seconds the threads of this process could have run and had no core, in all."""
    waited = 0
    for thread in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            waited += int((thread / "schedstat").read_text().split()[1])
    return waited / 1e9


async def watch(lags: list[float], own: list[float]) -> None:
    """Note by how much the loop is late, and by how much of that no thread was waiting for a core that others had."""
    while True:
        waited, before = waited_for_cores(), time.monotonic()
        await asyncio.sleep(WATCH_SECONDS)
        lag = time.monotonic() - before - WATCH_SECONDS
        lags.append(lag)
        own.append(max(0.0, lag - (waited_for_cores() - waited)))


async def main(load: str, size: int, *, alone: bool) -> dict[str, object]:
    if not alone:
        start_monitoring()
    if load == "hang":
        # The store is full before anything hangs: what it holds at its bound is not the sink's growth.
        for number in range(STORE_RECORDS):
            info(f"earlier {number}", order_id=number, table="T12", note="x" * 100)
            if not number % 2_000:
                default_monitor().query.books()
        configure_result_logging()
    counter("warm_total").inc(1, a="b")
    for number in range(100):
        info(f"warm {number}")
    monitor = default_monitor()
    monitor.query.books()
    before, peak = rss_mib(), 0.0
    lags: list[float] = []
    own: list[float] = []
    watching = asyncio.create_task(watch(lags, own))
    working = asyncio.create_task(LOADS[load](size))
    began = time.monotonic()
    while not working.done():
        peak = max(peak, rss_mib())
        await asyncio.sleep(0.02)
    await working
    took = time.monotonic() - began
    assert not watching.done()
    watching.cancel()
    peak = max(peak, rss_mib())
    deadline = time.monotonic() + 10
    books = monitor.query.books()["records"]
    while books["in_flight"] and time.monotonic() < deadline:
        books = monitor.query.books()["records"]
    orders = [one.value for one in counter("orders_total").series()] if load == "label_sets" else []
    dropped = {
        ",".join(value for _, value in one.key.labels): one.value
        for one in monitor.counter("rfs_dropped_total").series()
    }
    lags.sort()
    own.sort()
    began = time.monotonic()
    stop_monitoring()
    return {
        "growth_mib": peak - before,
        "lag_p99_seconds": lags[int(len(lags) * 0.99)],
        "lag_max_seconds": lags[-1],
        "own_lag_p99_seconds": own[int(len(own) * 0.99)],
        "own_lag_max_seconds": own[-1],
        "looks": len(lags),
        "took_seconds": took,
        "stop_seconds": time.monotonic() - began,
        "books": books,
        "dropped": dropped,
        "series": len(orders),
        "sum": sum(orders),
    }


if __name__ == "__main__":
    told = asyncio.run(main(sys.argv[1], int(sys.argv[2]), alone=sys.argv[4:] == ["alone"]))
    Path(sys.argv[3]).write_text(json.dumps(told))
