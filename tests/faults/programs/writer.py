"""
Records in bursts on command, and bears witness: ``writer DIRECTORY WITNESS``.

Each thread writes the number of a record to the witness pipe after the call that recorded it has returned. The commands:

* ``{"do": "burst", "id": …, "threads": n, "count": n}``: each thread records the numbers 1 to *count* (0: until it is killed)
  under the correlation id ``<id>.<thread>`` and adds 1 to ``burst_total`` before each. Answered when all are done.
* ``{"do": "pace"}``: from now on records now and then; ``{"do": "calls", "times": […]}``: how long, in seconds, the calls took
  that began between each two of these times of CLOCK_MONOTONIC, which all processes share.
* ``{"do": "observe", "values": […]}``, ``{"do": "leadership"}``, ``{"do": "total", "name": …}``, ``{"do": "books"}``,
  ``{"do": "numbers", "id": …}``, ``{"do": "past"}``: answered with what this process knows.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from itertools import count as numbers_from
from itertools import pairwise
from pathlib import Path
from struct import Struct
from typing import Any

from rfs.monitoring import CorrelationContext, counter, histogram, info
from rfs.monitoring.monitor import Monitor, use_monitor
from tests.faults.processes import reply

ACKNOWLEDGEMENT = Struct("<II")  # thread, number: written whole, being shorter than PIPE_BUF

paces: list[Pace] = []


def burst(witness: int, identity: str, thread: int, count: int) -> None:
    """Record, and say so after each."""
    total = counter("burst_total").labels()
    with CorrelationContext(f"{identity}.{thread}"):
        for number in range(1, count + 1) if count else numbers_from(1):
            total.inc()
            info("burst", number=number)
            os.write(witness, ACKNOWLEDGEMENT.pack(thread, number))


class Pace:
    """Records every two milliseconds, and times each call."""

    def __init__(self) -> None:
        self._calls: list[tuple[float, float]] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(0.002)  # the pace itself: nothing is waited for
            began = time.monotonic()
            info("paced", pad="x" * 100)
            self._calls.append((began, time.monotonic() - began))

    def calls(self, times: list[float]) -> list[list[float]]:
        """How long the calls between each two of *times* took; all are then forgotten."""
        calls, self._calls = self._calls, []
        return [[took for began, took in calls if begin <= began < end] for begin, end in pairwise(times)]


def run(monitor: Monitor, witness: int, command: dict[str, Any]) -> Any:
    """Do what is asked and return the answer."""
    match command["do"]:
        case "burst":
            threads = [
                threading.Thread(target=burst, args=(witness, command["id"], number, command["count"]))
                for number in range(command["threads"])
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return "done"
        case "pace":
            paces.append(Pace())
            return "pacing"
        case "calls":
            return paces[0].calls(command["times"])
        case "observe":
            observed = histogram("observed_size").labels()
            for value in command["values"]:
                observed.observe(value)
            return "done"
        case "leadership":
            leadership = monitor.leadership
            return {"epoch": leadership.epoch, "pid": leadership.pid, "is_self": leadership.is_self}
        case "total":
            counters = monitor.query.totals().counters
            return sum(value for key, value in counters.items() if key.name == command["name"])
        case "books":
            return monitor.query.books()["records"]
        case "numbers":
            records = monitor.query.records_by_correlation_id(command["id"])
            return [record.context["number"] for record in records]
        case "past":
            query = monitor.query
            distribution = query.distribution("size", "1h")
            return {
                "increase": query.increase("before_total", "1h"),
                "moments": [point.value for point in query.points("before_total", "1h", 1) if point.value],
                "distribution": distribution.count if distribution is not None else None,
                "records": sum(record.message == "it happened" for record in query.records(limit=1000)),
            }
        case unknown:
            raise ValueError(f"no such command: {unknown}")


def main(directory: str, witness: int) -> None:
    """Serve commands until standard input ends."""
    monitor = Monitor(service_name="bursts", directory=Path(directory))
    with use_monitor(monitor):
        monitor.start()
        reply("ready")
        for line in sys.stdin:
            reply(run(monitor, witness, json.loads(line)))
        monitor.stop()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
