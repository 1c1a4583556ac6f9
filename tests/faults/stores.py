"""Stores of days that real leaders have left: how they are made, killed, asked and started on."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rfs.monitoring._capture.record import read_record
from rfs.monitoring._live import CORRUPT
from rfs.monitoring._reading import open_directory
from rfs.monitoring.monitor import Monitor
from rfs.testing.virtual_time import VirtualTime
from tests.faults.processes import Process, environment, names_in
from tests.faults.programs.days import EACH, KEPT_SECONDS, turn_times
from tests.faults.tools import Shim, build_shim
from tests.monitoring.chunks import contents, opened
from tests.monitoring.test_windows import in_memory

END = turn_times()[-1] + 1


class Answers(NamedTuple):
    """What a reader is told of the story."""

    numbers: list[int]
    counted: float
    measured: int
    said: list[str]


def ask(folder: Path, now: float) -> Answers:
    """Open *folder* as a reader from outside, and ask for everything."""
    said: list[str] = []

    def problem(code: str, text: str) -> None:
        said.append(f"{code} {text}")

    with open_directory(folder, on_problem=problem, now_seconds=lambda: now) as query:
        waits = query.distribution("waits", "10d")
        return Answers(
            sorted(record.context["number"] for record in query.records(limit=1_000) if record.message == "made"),
            query.increase("made_total", "10d") or 0.0,
            0 if waits is None else waits.count,
            said,
        )


class Days:
    """The program `days` under the shim, and folders for its stories."""

    def __init__(self, process: Process, shim: Shim, folder: Path) -> None:
        self.process = process
        self.shim = shim
        self.folder = folder

    def tell(self, folder: Path, *, first: int = 0, kill_at: int = 1 << 40, **more: Any) -> dict[str, Any]:
        """Let a child tell the story; it ends, or is killed at that step."""
        self.shim.kill_at(kill_at)
        told: dict[str, Any] = self.process.ask(folder=str(folder), first=first, **more)
        assert told["status"] == (0 if self.shim.steps < kill_at else -signal.SIGKILL), self.process.errors()
        return told


@contextmanager
def days_under_shim(place: Path, part: str = "") -> Generator[Days]:
    """
    The program `days` under the shim, built in *place*, and a folder in memory.

    Args:
        part: Faults and steps are those of files whose path contains it; empty: of all in the folder.
    """
    folder = in_memory()
    shim = Shim(build_shim(place), place / "control", part or str(folder))
    try:
        with Process("days", env=environment(**shim.variables)) as process:
            yield Days(process, shim, folder)
    finally:
        shutil.rmtree(folder)


def must_be_kept(count: int, now: float) -> set[int]:
    """Of the first *count* numbers those that are too young for retention."""
    return {number for number in range(count) if turn_times()[number // EACH] >= now - KEPT_SECONDS}


class Sample(NamedTuple):
    """A store that processes have left, the last of them killed; which numbers are in which file, and how many there are in all."""

    folder: Path
    files: list[str]
    numbers: dict[str, set[int]]
    pending: set[int]  # in the segment alone
    total: int


def numbers_in(chunks: Path, file: str) -> set[int]:
    with opened(chunks) as directory:
        return {
            int(record.context["number"])
            for frame in contents(directory, file)
            if (record := read_record("", frame.payload, "")).message == "made"
        }


def sample(days: Days) -> Sample:
    folder = days.folder / "sample"
    days.tell(folder, count=9)
    count = 9 * EACH + len(days.tell(folder, first=9, kill_at=330)["witnessed"])
    found = ask(folder, END)
    assert found.counted == count
    assert not found.said
    chunks = folder / "store" / "chunks"
    numbers = {f"store/chunks/{file}": numbers_in(chunks, file) for file in names_in(chunks)}
    pending = set(found.numbers).difference(*numbers.values())
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert len(numbers) > 1
    assert pending
    assert "store/catalogue.sqlite-wal" in files
    return Sample(folder, files, numbers, pending, count)


class Seen(NamedTuple):
    """What a Monitor that has started on a store says."""

    numbers: list[int]
    counted: float | None
    measured: int | None
    said: list[str]
    seconds: float


def start(folder: Path) -> Seen:
    """Start a Monitor on the store in *folder*, let it lead, and ask for everything."""
    said: list[str] = []
    clock = VirtualTime(END)
    began = time.monotonic()

    def problem(code: str, text: str) -> None:
        said.append(f"{code} {text}")

    monitor = Monitor(service_name="days", clock=clock)
    leader = monitor._leader
    leader._on_problem = leader.live._on_problem = problem
    monitor.use_directory(folder)
    try:
        for _ in range(2):
            leader._capture_and_lead(is_new=False)
            monitor.tick()
            clock.advance(1)
        query = monitor.query
        records = query.records(limit=1_000)
        waits = query.distribution("waits", "10d")
        query.points("made_total", "10d", 3_600)
        seconds = time.monotonic() - began
        said.extend(monitor._diagnostics)
        corrupt = query.totals().counters.get(CORRUPT, 0.0)
        if corrupt:
            said.append(f"{CORRUPT.name} {corrupt}")
        return Seen(
            sorted(record.context["number"] for record in records if record.message == "made"),
            query.increase("made_total", "10d"),
            None if waits is None else waits.count,
            said,
            seconds,
        )
    finally:
        monitor.stop()
        leader._finish()
