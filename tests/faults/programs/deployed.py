"""
A worker of one version of RFS beside those of another: ``deployed SOURCE NAME WITNESS``; the environment says where it records.

*SOURCE* is where its library must lie. That may be an old one (see `test_b_versions`), so nothing is asked of it here that has not been
there since.

A thread works on one number after the other. Each is an operation under the correlation id ``NAME-number`` that adds 1 to ``worked_total``,
observes its `wait_of` in ``waits`` and records ``worked``; the number is written to the witness pipe after the call has returned. The
commands:

* ``{"do": "go"}``: begins, with the number after the last one; ``{"do": "rest"}``: answered with how many there are, once none is under way.
* ``{"do": "look"}``: whether this process leads, and what is in flight of the records of all.
* ``{"do": "stop"}``: as a service ends.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from struct import Struct
from threading import Event, Thread
from typing import Any

import rfs
from rfs.core.result import Failure, Result, Success
from rfs.monitoring import CorrelationContext, counter, default_monitor, histogram, log_result_operation, warning
from tests.faults.processes import reply

NUMBER = Struct("<I")
OPERATION = "deploy.work"
FAILS_EACH = 4  # so many numbers
PACE_SECONDS = 0.002


def wait_of(number: int) -> float:
    """What is observed for it."""
    return (1 + number % 1_000) / 8  # eighths: their sum is exact whatever the order of adding


class Worker:
    """Works, in a thread of its own."""

    def __init__(self, name: str, witness: int) -> None:
        self.name = name
        self.made = 0
        self._witness = witness
        self._worked = counter("worked_total", "Numbers", labels=["worker"])
        self._waits = histogram("waits", "What each number has waited", labels=["worker"])
        self._resting = Event()
        self._thread: Thread | None = None

    @log_result_operation(OPERATION)
    def work(self, number: int) -> Result[int, str]:
        """Count, measure and record *number*."""
        self._worked.inc(1, worker=self.name)
        self._waits.observe(wait_of(number), worker=self.name)
        warning("worked", number=number)
        return Success(number) if number % FAILS_EACH else Failure("SOLD_OUT")

    def go(self) -> str:
        """Begin; twice is once."""
        if self._thread is None:
            self._resting.clear()
            self._thread = Thread(target=self._run)
            self._thread.start()
        return "going"

    def rest(self) -> int:
        """End."""
        self._resting.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        return self.made

    def look(self) -> dict[str, Any]:
        """What RFS says in this process; the store is not asked, for an older version may be unable to read it."""
        totals = default_monitor().query.totals().counters
        found = {key.name: value for key, value in totals.items() if ("signal", "records") in key.labels}
        produced, delivered = found.get("rfs_produced_total", 0.0), found.get("rfs_delivered_total", 0.0)
        lost = found.get("rfs_lost_on_crash_total", 0.0)
        return {"leads": default_monitor().leadership.is_self, "in_flight": produced - delivered - lost}

    def _run(self) -> None:
        while not self._resting.wait(PACE_SECONDS):
            with CorrelationContext(f"{self.name}-{self.made}"):
                self.work(self.made)
            os.write(self._witness, NUMBER.pack(self.made))
            self.made += 1


def main(source: str, name: str, witness: str) -> None:
    """Answer until told to stop."""
    assert Path(rfs.__file__).is_relative_to(source), rfs.__file__
    default_monitor().start()
    worker = Worker(name, int(witness))
    reply("ready")
    for line in sys.stdin:
        match json.loads(line)["do"]:
            case "go":
                reply(worker.go())
            case "rest":
                reply(worker.rest())
            case "look":
                reply(worker.look())
            case _:
                worker.rest()
                default_monitor().stop()
                reply(worker.made)
                return


if __name__ == "__main__":
    main(*sys.argv[1:])
