"""
One process per environment: loads its loops once and runs one whenever it is told to.

``python -m benchmarks.worker structlog`` answers each line ``{"loop": name, "count": n}`` on standard input with a line
``{"seconds": process CPU time of n operations}``. Needs the standard library alone, because every peer's environment runs it.

A loop is a function that takes a count, does that many operations, and returns the CPU time that its process spent on
them, all threads together. What it prepares beforehand is not counted.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from importlib import import_module
from typing import Any

Loop = Callable[[int], float]


def timed(body: Callable[[int], object]) -> Loop:
    """Return the loop of a plain function that does *n* operations."""

    def loop(count: int) -> float:
        gc.collect()
        before = time.process_time()
        body(count)
        return time.process_time() - before

    return loop


def timed_async(body: Callable[[int], Coroutine[Any, Any, object]]) -> Loop:
    """Return the loop of an async function that does *n* operations; starting and closing asyncio is not counted."""

    async def within(count: int) -> float:
        before = time.process_time()
        await body(count)
        return time.process_time() - before

    def loop(count: int) -> float:
        gc.collect()
        return asyncio.run(within(count))

    return loop


async def sleeps(count: int) -> float:
    """Sleep *count* times for 10 s, and return the CPU time that it took: of a loop whose time passes by itself."""
    before = time.process_time()
    for _ in range(count):
        await asyncio.sleep(10)
    return time.process_time() - before


def timed_in_threads(body: Callable[[int], object], threads: int) -> Loop:
    """Return the loop of a plain function that *threads* threads run at once, each its share of the operations."""

    def loop(count: int) -> float:
        gate = threading.Barrier(threads + 1)

        def work() -> None:
            gate.wait()
            body(count // threads)
            gate.wait()

        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        gc.collect()
        before = time.process_time()
        gate.wait()
        gate.wait()
        spent = time.process_time() - before
        for worker in workers:
            worker.join()
        return spent

    return loop


def main(subject: str) -> None:
    """Serve the loops of *subject* until standard input ends."""
    # What a library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    loops: dict[str, Loop] = import_module(f"benchmarks.loops.with_{subject}").LOOPS
    answers.write(json.dumps(sorted(loops)) + "\n")
    for line in sys.stdin:
        asked = json.loads(line)
        answers.write(json.dumps({"seconds": loops[asked["loop"]](asked["count"])}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
