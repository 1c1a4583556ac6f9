"""
Days of a service, each in a process of its own: ``days`` under the shim, commands on standard input, one JSON answer each.

``{"folder": …, "first": n, "is_newer": …}``: a child records the rest of the story into *folder*, from its *first*-th turn on, and
leads; the answer is how it ended, and which turns and numbers it had reached by then. ``count`` turns at most. All that a leader does
is done, when its thread would, but by one thread: so a step of the shim is the same step each time. If it *is_newer* the
child has a library whose catalogue has another schema.

The wall clock and the monotonic one are the story's; each turn adds to a counter, measures a histogram and records. *witnessed* are the
numbers of which the calls had returned.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from struct import Struct
from typing import Any

from rfs.monitoring._store import catalogue
from rfs.monitoring.monitor import Monitor
from rfs.monitoring.retention import Retention
from rfs.testing.virtual_time import VirtualTime
from tests.faults.processes import reply
from tests.faults.programs.catalogue import NEXT_VERSION

BEGIN = 1_800_000_000 // 86_400 * 86_400 + 30
STEPS = [1, 1, 20, 40, 20, 3_600, 20, 40, 7_200, 86_400, 30, 40, 3_600, 3 * 86_400, 40, 40]  # seconds between the turns
EACH = 5  # numbers per turn
KEPT_SECONDS = 90_000
RETENTION = Retention(records_seconds=KEPT_SECONDS, second=60, ten_seconds=600, minute=2 * 86_400, hour=400 * 86_400)
TOLD = Struct("<II")  # turn, number


def turn_times() -> list[int]:
    """When each turn is, in unix seconds."""
    times, now = list[int](), BEGIN
    for step in STEPS:
        now += step
        times.append(now)
    return times


def tell(folder: Path, first: int, count: int, witness: int) -> None:
    """The story from its *first*-th turn on."""
    clock = VirtualTime(BEGIN)
    monitor = Monitor(service_name="days", clock=clock, directory=folder, retention=RETENTION)
    leader, made, wait = monitor._leader, monitor.counter("made_total").labels(), monitor.histogram("waits").labels()
    times = turn_times()
    for turn in range(first, min(first + count, len(times))):
        clock.advance(times[turn] - clock.now.timestamp())
        for number in range(turn * EACH, turn * EACH + EACH):
            made.inc()
            monitor.log(20, "made", fields={"number": number, "pad": "x" * 1_000})
            wait.observe(1.0 + number % 3)
            os.write(witness, TOLD.pack(turn, number))
        leader._capture_and_lead(is_new=False)
        leader.sample()
        clock.advance(0.5)
        local = leader._local
        assert local is not None
        leader._import(local, at_once=True)
    leader._finish()
    monitor._print_diagnostics(at_the_end=True)


def run(command: dict[str, Any]) -> dict[str, Any]:
    """One command."""
    read, witness = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        if command.get("is_newer"):
            catalogue._SCHEMA = (*catalogue._SCHEMA, NEXT_VERSION)
        tell(Path(command["folder"]), command["first"], command.get("count", len(STEPS)), witness)
        os._exit(0)
    os.close(witness)
    with os.fdopen(read, "rb") as told:
        witnessed = list(TOLD.iter_unpack(told.read()))
    _, status = os.waitpid(child, 0)
    return {"status": os.waitstatus_to_exitcode(status), "witnessed": witnessed}


def main() -> None:
    """Answer until standard input ends."""
    for line in sys.stdin:
        reply(run(json.loads(line)))


if __name__ == "__main__":
    main()
