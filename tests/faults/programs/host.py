"""
A host that records on command while its files are injured: ``host WITNESS [newer]``; the environment says where it records.
Said to be newer, it has a library whose live files, chunks and catalogue are each of the version after this one's.

It writes the number of each record to the witness pipe after the call that recorded it has returned. The commands:

* ``{"do": "burst", "id": …, "first": n, "count": n, "level": n, "pad": n}``: records the numbers, and adds 1 to ``host_total`` for each.
* ``{"do": "until", "id": …, "first": n, "seconds": n}``: the same for a time.
* ``{"do": "look", "id": …}``: what RFS says here, and which numbers are found.
* ``{"do": "total"}``: ``host_total``, as an exposition has it; ``{"do": "books"}``: what was produced, and where it went.
* ``{"do": "order", "id": …}``: the numbers in the order in which they came in, as the dashboard lists them.
* ``{"do": "series", "metrics": n, "labels": n}``: makes series.
* ``{"do": "alert", "name": …, "above": n, "file": …}``: a rule on ``host_total`` whose callback adds ``<name> <event>`` to the file.
* ``{"do": "overview"}``: what the dashboard's API answers here.
* ``{"do": "flush"}``: answered when no callback of a rule is at work any more.
* ``{"do": "stuck"}``: how much lies in the pipe of ``print_to_nobody``.
* ``{"do": "print_to_nobody"}``: from now on, prints every record into a pipe that is never read; SIGTERM ends it as `sys.exit` does,
  and when the interpreter begins to end, before RFS is stopped, it answers once more.
* ``{"do": "fork", "id": …, "count": n}``: lets a child record the numbers 0 to *count*; answers with what it saw.
* ``{"do": "exit", "how": "return" | "_exit" | "segfault"}``.

The longest and the 99th percentile of the calls are answered with each burst, in seconds.
"""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import fcntl
import os
import signal
import sys
import termios
import time
from array import array
from json import dumps, loads
from struct import Struct
from typing import Any

from rfs.monitoring import Alert, CorrelationContext, Rule, configure_result_logging, counter, log
from rfs.monitoring._capture import files
from rfs.monitoring._store import catalogue, chunks
from rfs.monitoring.monitor import Monitor, default_monitor
from tests.faults.processes import reply
from tests.faults.programs.catalogue import NEXT_VERSION

NUMBER = Struct("<I")


class Host:
    """Does what it is told."""

    def __init__(self, monitor: Monitor, witness: int) -> None:
        self.monitor = monitor
        self.witness = witness
        self.counted = counter("host_total").labels()
        self.mends = (
            0  # how often the capture has looked after itself; and after how many, and when, it was last well again
        )
        self.well = (0, 0.0)
        self._mend = monitor.capture.mend
        vars(monitor.capture)["mend"] = self.mend

    def mend(self) -> None:
        """In the place of `Capture.mend`: count it, and note when it has made things well."""
        capture = self.monitor.capture
        before = capture.degraded, capture.process
        self._mend()
        self.mends += 1
        if capture.directory is not None and not capture.degraded and before != ("", capture.process):
            self.well = self.mends, time.monotonic()

    def record(self, number: int, level: int, taken: list[float], pad: int = 100) -> None:
        """Record *number*, and say so afterwards."""
        began = time.perf_counter()
        self.counted.inc()
        log(level, "host", n=number, pad="x" * pad)
        taken.append(time.perf_counter() - began)
        os.write(self.witness, NUMBER.pack(number))

    def burst(self, *, id: str, first: int, count: int, level: int = 20, pad: int = 100) -> dict[str, Any]:  # noqa: A002
        """Record *count* numbers."""
        taken: list[float] = []
        with CorrelationContext(id):
            for number in range(first, first + count):
                self.record(number, level, taken, pad)
        return figures(taken)

    def until(self, *, id: str, seconds: float, first: int = 0) -> dict[str, Any]:  # noqa: A002
        """Record a number each millisecond for *seconds*."""
        taken: list[float] = []
        end = time.monotonic() + seconds
        with CorrelationContext(id):
            while time.monotonic() < end:
                self.record(first + len(taken), 20, taken)
                time.sleep(0.001)
        return figures(taken)

    def order(self, *, id: str) -> list[int]:  # noqa: A002
        """The numbers that came in, the last one last."""
        return [record.context["n"] for record in self.monitor.query.records(limit=100_000, correlation_id=id)][::-1]

    def series(self, *, metrics: int, labels: int) -> int:
        """Add 1 to each of so many series, and return how many there are."""
        for metric in range(metrics):
            family = counter(f"host_series_{metric}_total")
            for label in range(labels):
                family.inc(1, n=str(label))
        return metrics * labels

    def alert(self, *, name: str, above: int, file: str) -> str:
        """Have a rule that is told to *file*."""
        fd = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

        def tell(alert: Alert) -> None:
            os.write(fd, f"{name} {alert['event']}\n".encode())

        return self.monitor.alerts.set_rule(Rule(name, "host_total", "greater_than", above), tell)

    def overview(self) -> dict[str, Any]:
        """The answer that the page shows."""
        from fastapi import FastAPI  # which most hosts do not need
        from httpx import ASGITransport, AsyncClient

        from rfs.monitoring.dashboard_api import create_router

        app = FastAPI()
        app.include_router(create_router(monitor=lambda: self.monitor), prefix="/monitoring")

        async def get() -> dict[str, Any]:
            async with AsyncClient(transport=ASGITransport(app), base_url="http://host") as client:
                answer: dict[str, Any] = (await client.get("/monitoring/api/overview")).json()
                return answer

        return asyncio.run(get())

    def flush(self) -> bool:
        """Wait for the callbacks."""
        return self.monitor.alerts.flush()

    def stuck(self) -> int:
        """How many bytes lie in the pipe that nobody reads."""
        held = array("i", [0])
        fcntl.ioctl(self.unread, termios.FIONREAD, held)
        return held[0]

    def print_to_nobody(self) -> str:
        """Have a sink that hangs."""
        self.unread, end = os.pipe()
        configure_result_logging(stream=os.fdopen(end, "w"))
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        atexit.register(reply, "ending")
        return "done"

    def fork(self, *, id: str, count: int) -> dict[str, Any]:  # noqa: A002
        """Let a child record, and end without a word to the parent's files."""
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            self.burst(id=id, first=0, count=count)
            os.write(write, dumps({**self.look(id=id), "pid": os.getpid()}).encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as answer:
            said: dict[str, Any] = loads(answer.read())
        assert os.waitpid(child, 0)[1] == 0
        return said

    def total(self) -> float:
        """What has been counted, by all processes."""
        totals = self.monitor.query.totals()
        return sum(value for key, value in totals.counters.items() if key.name == "host_total")

    def books(self) -> dict[str, float]:
        """What became of the records of all processes."""
        return dict(self.monitor.query.books()["records"])

    def look(self, *, id: str = "") -> dict[str, Any]:  # noqa: A002
        """What RFS says in this process."""
        monitor = self.monitor
        records = monitor.query.records_by_correlation_id(id, 100_000) if id else []
        state, leadership = monitor.capture_state, monitor.leadership
        totals = monitor.query.totals()
        return {
            "numbers": [record.context["n"] for record in records],
            "told": [record.context for record in monitor.query.records(limit=1000) if record.logger == "rfs.capture"],
            "gauges": {key.name: value for key, value in totals.gauges.items() if key.name.startswith("rfs_")},
            "mends": self.mends,
            "well": self.well,
            "times": [record.timestamp.timestamp() for record in records],
            "total": self.total(),
            "books": monitor.query.books()["records"],
            "mode": state.mode,
            "degraded": state.degraded,
            "leads": leadership.is_self,
            "epoch": leadership.epoch,
            "evaluated": monitor.alerts.evaluation_age_seconds(),
            "leader_pid": leadership.pid,
        }


def figures(taken: list[float]) -> dict[str, Any]:
    """How long calls took."""
    taken = sorted(taken)
    return {"calls": len(taken), "longest": taken[-1], "p99": taken[len(taken) * 99 // 100]}


def upgrade() -> None:
    """Be the next version of RFS, as far as the formats of files go."""
    files.VERSION += 1
    chunks.VERSION += 1
    catalogue._SCHEMA = (*catalogue._SCHEMA, NEXT_VERSION)


def main(witness: str, version: str = "") -> None:
    """Answer until told to exit."""
    if version:
        upgrade()
    monitor = default_monitor()
    monitor.start()
    host = Host(monitor, int(witness))
    reply("ready")
    for line in sys.stdin:
        command = loads(line)
        do = command.pop("do")
        if do == "exit":
            if command["how"] == "_exit":
                os._exit(3)
            if command["how"] == "segfault":
                ctypes.string_at(0)
            return
        reply(getattr(host, do)(**command))


if __name__ == "__main__":
    main(*sys.argv[1:])
