"""Hosts: processes that record on command (`programs/host.py`), and what is asked of every one of them."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rfs.monitoring.monitor import Monitor
from tests.faults.processes import Process, environment, eventually
from tests.faults.programs.host import NUMBER


@contextmanager
def host(directory: Path | str, *, more: dict[str, str] | None = None, **options: Any) -> Generator[Process]:
    """A host that records into *directory* and is ready; at the end, it still runs and has said nothing fatal."""
    with Process("host", "WITNESS", env=environment(RFS_DIR=str(directory), **(more or {})), **options) as process:
        assert process.answer() == "ready"
        yield process
        assert process.status is None, process.errors()
        assert "Traceback" not in process.errors()


def show(text: str) -> None:
    """Leave a measurement in the test's output (`pytest -rP` shows it)."""
    sys.stdout.write(f"{text}\n")


def witnessed(process: Process) -> list[int]:
    return [number for (number,) in NUMBER.iter_unpack(process.witnessed())]


def burst(process: Process, first: int, count: int, **more: Any) -> dict[str, Any]:
    """Let it record, see that every call returned, and return how long they took."""
    said: dict[str, Any] = process.ask(do="burst", id="b", first=first, count=count, **more)
    assert witnessed(process) == list(range(first, first + count))
    return said


def terminate(process: Process) -> None:
    """Send SIGTERM, and a command: a signal that comes just before it begins to wait for one is noticed when there is one."""
    process.send(signal.SIGTERM)
    process.tell(do="look")


def look(process: Process) -> dict[str, Any]:
    said: dict[str, Any] = process.ask(do="look", id="b")
    return said


def well(process: Process) -> dict[str, Any] | None:
    """What it says, once it records into files and nothing is degraded."""
    said = look(process)
    return said if said["mode"] == "directory" and not said["degraded"] else None


def said(process: Process, code: str) -> int:
    """How many lines with *code* it has written to standard error, once there is one; never more than one in 10 s."""
    eventually(lambda: code in process.errors(), says=process.errors)
    lines = sum(line.startswith(code) for line in process.errors().splitlines())
    assert lines <= 1 + process.age_seconds / 10
    return lines


def assert_recovers(process: Process, repair: Callable[[], object]) -> None:
    """
    Within two looks of the capture after itself, which it does twice a second, *repair* makes it well; that is within 1 s.

    Counted in looks, because a machine that is busy with other things stretches every second.
    """
    before = look(process)["well"]
    repair()
    began, looks = time.monotonic(), look(process)["mends"]
    seen = eventually(
        lambda: now if (now := well(process)) and now["well"] != before else None, says=lambda: look(process)
    )
    assert seen is not None
    after, at = seen["well"]
    show(f"well again {at - began:.2f} s after the repair, at look {after - looks}")
    assert after - looks <= 2


def assert_keeps_all(process: Process, count: int) -> None:
    """The records 0 to *count* are found once each, and the counter is exact."""
    seen = look(process)
    assert seen["numbers"] == list(range(count))
    assert seen["total"] == count


def assert_read_elsewhere(directory: Path, numbers: list[int], total: int) -> None:
    """Another process reads the same: here, the test's own Monitor."""
    reader = Monitor(service_name="rfs", directory=directory)

    def counted() -> float:
        return sum(value for key, value in reader.query.totals().counters.items() if key.name == "host_total")

    try:
        eventually(lambda: counted() == total, says=counted)
        found = {record.context["n"] for record in reader.query.records_by_correlation_id("b", 100_000)}
        assert set(numbers) <= found
    finally:
        reader.stop()
