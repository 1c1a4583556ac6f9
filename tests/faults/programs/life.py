"""
What the tests of a process' life cycle run in processes of their own: `python -m tests.faults.programs.life ROW COUNT`.

Each row prints one JSON object: what the program itself counted while it ran, beside what RFS says.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import itertools
import json
import random
import signal
import sys
import threading
import time
from collections import Counter
from typing import Any

import rfs.monitoring as rfs
from rfs.monitoring._store.memory import MemoryStore
from rfs.monitoring.monitor import Monitor, default_monitor, use_monitor

ATTEMPT_SECONDS = 20.0


def found(source: str) -> Counter[int]:
    """How often each number of *source* is among the records, by the query."""
    query = default_monitor().query
    there: Counter[int] = Counter()
    with query.bounded(seconds=60):
        page = query.records(limit=20_000)
        while page:
            there.update(record.context["n"] for record in page if record.context.get("source") == source)
            page = query.records(limit=20_000, before=page[-1].cursor)
    return there


def compare(source: str, returned: list[int]) -> dict[str, Any]:
    """What was returned from, against what is there."""
    there = found(source)
    return {
        "returned": len(returned),
        "lost": sorted(set(returned) - set(there))[:10],
        "twice": [n for n, times in there.items() if times > 1][:10],
        "more": len(set(there) - set(returned)),
    }


def say(**facts: Any) -> None:
    """Print the facts, and the books."""
    sys.stdout.write(json.dumps({**facts, "books": default_monitor().query.books()["records"]}) + "\n")
    sys.stdout.flush()


def a12(_: int) -> None:
    """Records at exit, before and after RFS has stopped itself."""

    def emit(number: int) -> None:
        rfs.info("at exit", source="exit", n=number)
        said.append((number, default_monitor().running))

    said: list[tuple[int, bool]] = []
    atexit.register(lambda: say(said=said, found=sorted(found("exit"))))  # the last of all
    atexit.register(emit, 2)  # what is registered first runs last: RFS is stopped by then
    default_monitor().start()
    atexit.register(emit, 1)


def a13(_: int) -> None:
    """Threads that still record when the interpreter ends."""
    begun = threading.Barrier(5)

    def emit() -> None:
        begun.wait()
        for n in itertools.count():
            rfs.info("still here", n=n)
            rfs.counter("still_total").inc()

    default_monitor().start()
    for _ in range(4):
        threading.Thread(target=emit, daemon=True).start()
    begun.wait()
    say()


def a14(count: int) -> None:
    """Finalisers that record, run by the collector wherever it happens to start."""
    returned: list[int] = []
    numbers = itertools.count()

    class Cycle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            n = next(numbers)
            rfs.info("finalised", source="gc", n=n)
            rfs.counter("finalised_total").inc()
            returned.append(n)

    gc.set_threshold(5, 2, 2)
    inside = 0
    for n in range(count):
        Cycle()
        before = len(returned)
        rfs.info("outer", n=n, parts=[{"deep": [n, str(n)]} for _ in range(3)])
        inside += len(returned) > before  # finalised while our own call ran
        if n % 100 == 0:
            default_monitor().query.books()
    gc.set_threshold(700, 10, 10)
    gc.collect()
    say(**compare("gc", returned), inside=inside, counted=rfs.counter("finalised_total").labels().value)


def a15(hertz: int) -> None:
    """A signal handler that records, at *hertz*, into a loop that records."""
    handled: list[int] = []
    looped: list[int] = []
    numbers = itertools.count()

    def handle(*_: object) -> None:
        n = next(numbers)  # a handler may itself be interrupted
        rfs.warning("signal", source="signal", n=n)
        rfs.counter("signals_total").inc()
        handled.append(n)

    rfs.info("the first record makes the Monitor")
    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 1 / hertz, 1 / hertz)
    deadline = time.monotonic() + ATTEMPT_SECONDS
    while (len(handled) < hertz and len(handled) < 1000) and time.monotonic() < deadline:
        n = len(looped)
        rfs.info("loop", source="loop", n=n)
        looped.append(n)
        if n % 200 == 0:
            rfs.counter("turns_total").inc()
            default_monitor().query.books()
        if len(looped) > 15_000:
            time.sleep(0.001)
    signal.setitimer(signal.ITIMER_REAL, 0)
    counted = rfs.counter("signals_total").labels().value
    say(signal=compare("signal", handled), loop=compare("loop", looped), counted=counted)


def a20(count: int) -> None:
    """KeyboardInterrupt at a random place of a thread that records."""
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
    raise_in.argtypes = (ctypes.c_ulong, ctypes.py_object)
    chance = random.Random(20)
    returned: list[int] = []
    numbers = itertools.count()
    caught = [0]
    stop = threading.Event()

    def emit() -> None:
        while not stop.is_set():
            try:
                while not stop.is_set():
                    n = next(numbers)
                    rfs.info("interrupted", source="async", n=n, parts={"a": [n]})
                    returned.append(n)
                    rfs.counter("interrupted_total").inc()
                    if n % 64 == 0:
                        time.sleep(0.004)  # stays below what one site may record
            except KeyboardInterrupt:
                caught[0] += 1

    sys.setswitchinterval(1e-5)
    thread = threading.Thread(target=emit)
    thread.start()
    deadline = time.monotonic() + ATTEMPT_SECONDS
    raised = 0
    while caught[0] < count and time.monotonic() < deadline:
        before = caught[0]
        raised += raise_in(thread.ident or 0, KeyboardInterrupt)
        # The next one only when this one has arrived: a second one would replace it.
        while caught[0] == before and time.monotonic() < deadline and thread.is_alive():
            time.sleep(chance.random() * 1e-4)
        time.sleep(chance.random() * 5e-4)
        if caught[0] % 100 == 0:
            default_monitor().query.books()  # collects, before the segment is full
    stop.set()
    thread.join(5)
    alive = thread.is_alive()
    rfs.info("afterwards", source="after", n=1)
    say(**compare("async", returned), raised=raised, caught=caught[0], alive=alive, after=sorted(found("after")))


def main(row: str, count: str) -> None:
    """Run one row; where it records more than a store keeps, with a store that keeps more."""
    rows = {"a12": a12, "a13": a13, "a14": a14, "a15": a15}
    if row == "a20":
        with use_monitor(Monitor(store=MemoryStore(max_records=10**7, max_record_bytes=10**10))):
            a20(int(count))
    else:
        rows[row](int(count))


if __name__ == "__main__":
    main(*sys.argv[1:])
