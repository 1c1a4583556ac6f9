"""
Forks again and again while three threads and a signal handler record: ``forking DIRECTORY FORKS``; prints what it saw as JSON.

Every child records one record, adds 1 to a counter and asks a question, and has one second for it; one that takes longer is
dumped, killed by its pid and counted as hung. Every tenth leaves as a program does that comes to its end, the others at once.

After every `BATCH` forks the parent looks up what was recorded since and compares it with what it knows was recorded.
"""

from __future__ import annotations

import faulthandler
import os
import random
import select
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType

from rfs.monitoring import CorrelationContext, counter, info
from rfs.monitoring.monitor import Monitor, use_monitor
from tests.faults.processes import reply

BATCH = 50
THREADS = 3
RECORDS_PER_TURN = 10  # of each thread, per fork
SIGNALS_PER_SECOND = 200
CHILD_SECONDS = 1.0
FAR_SECONDS = 20.0
MID_RECORD = 7  # the exit status of a child whose parent was inside a recording call when it was forked


class Recorders:
    """Three threads that record at their quickest around each fork."""

    def __init__(self) -> None:
        self.inside = [False] * THREADS  # whether that thread is inside a recording call
        self.recorded = [0] * THREADS
        self.batch = 0
        self._turns = [threading.Semaphore(0) for _ in range(THREADS)]
        self._done = threading.Semaphore(0)
        for number in range(THREADS):
            threading.Thread(target=self._run, args=(number,), daemon=True).start()

    def _run(self, number: int) -> None:
        total = counter("thread_records_total").labels()
        while True:
            self._turns[number].acquire()
            with CorrelationContext(f"thread.{number}.{self.batch}"):
                for _ in range(RECORDS_PER_TURN):
                    self.inside[number] = True
                    info("from a thread", number=self.recorded[number])
                    total.inc()
                    self.inside[number] = False
                    self.recorded[number] += 1
            self._done.release()

    def begin(self) -> None:
        for turn in self._turns:
            turn.release()

    def end(self) -> None:
        for _ in range(THREADS):
            assert self._done.acquire(timeout=FAR_SECONDS), "a recording thread of the parent hangs"


class Signals:
    """A handler that records, wherever the main thread is, forking included."""

    def __init__(self) -> None:
        self.recorded = 0
        self.batch = 0
        self._pid = os.getpid()
        self._total = counter("signal_records_total").labels()
        signal.signal(signal.SIGALRM, self._record)

    def _record(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            return  # a signal that was pending when the child was made: the parent's own handler runs, too
        # First of all: the next signal may interrupt this handler.
        own = self.recorded
        self.recorded = own + 1
        with CorrelationContext(f"signal.{self.batch}"):
            info("from a signal handler", number=own)
        self._total.inc()

    def start(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 1 / SIGNALS_PER_SECOND, 1 / SIGNALS_PER_SECOND)

    def stop(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)


def live_child(monitor: Monitor, number: int, batch: int) -> None:
    """What a child does with its life."""
    with CorrelationContext(f"child.{batch}"):
        info("from a child", number=number)
    counter("child_records_total").inc()
    monitor.query.totals()


def ended(pid: int) -> int | None:
    """Return the exit status of a child, or None if it hangs; it is then dumped and killed."""
    handle = os.pidfd_open(pid)
    try:
        hung = not _readable(handle, CHILD_SECONDS)
        if hung:
            os.kill(pid, signal.SIGUSR1)  # it says where it is
            _readable(handle, CHILD_SECONDS)
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(handle)
    _, status = os.waitpid(pid, 0)
    return None if hung else os.waitstatus_to_exitcode(status)


def _readable(handle: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if poll.poll(left * 1000):
            return True
    return False


def wrong(monitor: Monitor, identity: str, expected: set[int]) -> list[str]:
    """What is wrong with the records of a correlation id: those that are missing, and those that are there twice."""
    deadline = time.monotonic() + FAR_SECONDS
    while True:
        records = monitor.query.records_by_correlation_id(identity)
        found = Counter(int(str(record.context["number"])) for record in records)
        if set(found) >= expected or time.monotonic() > deadline:
            break
        time.sleep(0.01)
    return [
        f"{identity}: {number} is there {found[number]} times"
        for number in sorted(expected | set(found))
        if found[number] != (number in expected)
    ]


def main(directory: str, forks: int) -> None:
    """Fork, look, and report."""
    monitor = Monitor(service_name="forks", directory=Path(directory))
    faulthandler.register(signal.SIGUSR1)
    with use_monitor(monitor):
        monitor.start()
        reply("ready")
        report = storm(monitor, Path(directory) / "live", forks)
        reply(report)
        sys.stdin.read()  # lives on, so that others can look at its files
        monitor.stop()


def storm(monitor: Monitor, live: Path, forks: int) -> dict[str, object]:
    """Return what was seen."""
    seed = random.Random(3)
    sys.setswitchinterval(1e-5)  # threads take turns inside recording calls, not between them
    recorders, signals = Recorders(), Signals()
    hung, mid_record, most_files = 0, 0, 0
    faults: list[str] = []
    statuses: Counter[int] = Counter()
    thread_starts, signal_start, first = [0] * THREADS, 0, 0
    longest = 0.0
    signals.start()
    for number in range(forks):
        recorders.begin()
        for _ in range(seed.randrange(4_000)):  # a moment anywhere within the threads' turn
            pass
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            inside = any(recorders.inside)
            live_child(monitor, number, number // BATCH)
            if number % 10 == 9:
                sys.exit(MID_RECORD if inside else 0)  # through `finally`, `with` and atexit
            os._exit(MID_RECORD if inside else 0)
        status = ended(pid)
        longest = max(longest, time.monotonic() - began)
        if status is None:
            hung += 1
        else:
            statuses[status] += 1
            mid_record += status == MID_RECORD
        recorders.end()
        if number % BATCH == BATCH - 1 or number == forks - 1:
            signals.stop()
            reply({"forked": number + 1})  # it goes on
            most_files = max(most_files, sum(1 for _ in live.iterdir()))
            batch = number // BATCH
            faults += wrong(monitor, f"child.{batch}", set(range(first, number + 1)))
            faults += wrong(monitor, f"signal.{batch}", set(range(signal_start, signals.recorded)))
            for thread in range(THREADS):
                expected = set(range(thread_starts[thread], recorders.recorded[thread]))
                faults += wrong(monitor, f"thread.{thread}.{batch}", expected)
            thread_starts, signal_start, first = list(recorders.recorded), signals.recorded, number + 1
            recorders.batch = signals.batch = batch + 1
            signals.start()
    signals.stop()
    deadline = time.monotonic() + FAR_SECONDS
    while monitor.query.books()["records"]["in_flight"] and time.monotonic() < deadline:
        time.sleep(0.1)  # few records wait for more, ten seconds at most
    counters = monitor.query.totals().counters
    return {
        "pid": os.getpid(),
        "hung": hung,
        "mid_record": mid_record,
        "statuses": statuses,
        "longest_child_seconds": longest,
        "most_files": most_files,
        "faults": faults[:20],
        "counted": {
            name: sum(value for key, value in counters.items() if key.name == f"{name}_records_total")
            for name in ("child", "thread", "signal")
        },
        "recorded": {"child": forks, "thread": sum(recorders.recorded), "signal": signals.recorded},
        "books": monitor.query.books()["records"],
    }


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
