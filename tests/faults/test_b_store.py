"""
FAULTS.md §2.B for the store as a whole: leaders that are processes, killed and injured, over a directory of days.

Rows that are shown of a part alone are with that part: `test_catalogue` here; in `tests.monitoring` `test_catalogue`, `test_chunks`,
`test_records`, `test_retention`, `test_archives` and the tests of what was mutated (`*_fuzz`).
"""

from __future__ import annotations

import mmap
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rfs.monitoring._capture.record import read_record
from rfs.monitoring._live import CORRUPT
from rfs.monitoring._reading import open_directory
from rfs.monitoring._store import catalogue
from rfs.monitoring.monitor import Monitor
from tests.faults.hosts import assert_keeps_all, burst, host, look, said, show
from tests.faults.processes import Process, environment, eventually, names_in, size
from tests.faults.programs.catalogue import VERSION_2
from tests.faults.programs.days import EACH, KEPT_SECONDS, STEPS, turn_times
from tests.faults.tools import Shim, build_shim, tmpfs
from tests.monitoring.chunks import contents, opened
from tests.monitoring.conftest import ManualClock
from tests.monitoring.test_windows import in_memory

pytestmark = pytest.mark.fault

STEP_COUNT = 900  # of the story, at least
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


@pytest.fixture
def days(tmp_path: Path) -> Iterator[Days]:
    folder = in_memory()
    shim = Shim(build_shim(tmp_path), tmp_path / "control", str(folder))
    try:
        with Process("days", env=environment(**shim.variables)) as process:
            yield Days(process, shim, folder)
    finally:
        shutil.rmtree(folder)


def must_be_kept(count: int, now: float) -> set[int]:
    """Of the first *count* numbers those that are too young for retention."""
    return {number for number in range(count) if turn_times()[number // EACH] >= now - KEPT_SECONDS}


class TestLeaderKilledAtAnyStep:
    """B19, B26 and B29 for all that a leader does: import, sealing, roll-up, retention, migration."""

    @pytest.mark.slow
    def test_nothing_is_lost_and_nothing_there_twice(self, days: Days) -> None:
        """
        Killed before any call that changes the disk: all of which the calls had returned is found once, by a reader at once, and when
        the next leader has gone on to the end.
        """
        whole = days.tell(days.folder / "whole")
        assert [number for _, number in whole["witnessed"]] == list(range(EACH * len(STEPS)))
        assert days.shim.steps > STEP_COUNT
        seen = ask(days.folder / "whole", END)
        assert seen.counted == seen.measured == EACH * len(STEPS)
        assert must_be_kept(EACH * len(STEPS), END) <= set(seen.numbers)
        assert 0 not in seen.numbers
        shutil.rmtree(days.folder / "whole")

        for step in range(1, STEP_COUNT, size(whole=1, small=71)):
            folder = days.folder / f"at{step}"
            before = days.tell(folder, kill_at=step)["witnessed"]
            turn = before[-1][0] if before else 0
            made, amount = self._assert_all_there(folder, len(before), turn_times()[turn], f"step {step}")
            days.tell(folder, first=turn + 1)
            self._assert_at_the_end(folder, made, amount, turn + 1, f"after step {step}")
            shutil.rmtree(folder)

    @pytest.mark.slow
    def test_while_it_migrates(self, days: Days, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        B26. Killed before any such call with a library of a newer schema, from its first one on: the same.
        """
        turn = len(STEPS) // 2
        count = EACH * turn
        base = days.folder / "base"
        days.tell(base, count=turn)
        days.tell(base, first=turn, count=0)  # so what the one before has left in its live files is folded
        schema = (*catalogue._SCHEMA, VERSION_2)
        versions: set[int] = set()
        for step in range(size(whole=1, small=35), 110, size(whole=1, small=11)):
            folder = days.folder / f"at{step}"
            shutil.copytree(base, folder)
            before = days.tell(folder, first=turn, kill_at=step, version=2)["witnessed"]
            with closing(catalogue.connect(folder / "store" / "catalogue.sqlite", "ro")) as connection:
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                versions.add(version)
            with monkeypatch.context() as patch:
                patch.setattr(catalogue, "_SCHEMA", schema[:version])
                now = turn_times()[turn + (len(before) - 1) // EACH if before else turn]
                made, amount = self._assert_all_there(folder, count + len(before), now, f"step {step}")
            days.tell(folder, first=turn + 1, version=2)
            with monkeypatch.context() as patch:
                patch.setattr(catalogue, "_SCHEMA", schema)
                self._assert_at_the_end(folder, made, amount, turn + 1, f"after step {step}")
            shutil.rmtree(folder)
        assert versions == {1, 2}

    def _assert_all_there(self, folder: Path, count: int, now: float, at: str) -> tuple[int, float]:
        """
        Of *count* numbers each is there once; return what is: one that was being made may be, too.
        """
        if not (folder / "live").is_dir() and not (folder / "store").is_dir():
            assert not count
            return 0, 0.0
        found = ask(folder, now)
        made = found.numbers[-1] + 1 if found.numbers else 0
        assert made in (count, count + 1), at
        assert found.numbers == list(range(made - len(found.numbers), made)), at
        assert must_be_kept(made, now) <= set(found.numbers), at
        assert found.counted in (count, count + 1), at
        assert found.measured in (count, count + 1), at
        assert not found.said, at
        return made, found.counted

    def _assert_at_the_end(self, folder: Path, made: int, amount: float, turn: int, at: str) -> None:
        """Of what had been *made*, and what the rest of the story from *turn* on makes, each is there once."""
        all_made = [*range(made), *range(turn * EACH, len(STEPS) * EACH)]
        found = ask(folder, END)
        assert found.numbers == all_made[-len(found.numbers) :], at
        assert must_be_kept(len(STEPS) * EACH, END) & set(all_made) <= set(found.numbers), at
        assert found.counted == amount + (len(STEPS) - turn) * EACH, at
        assert not found.said, at


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


def mutate(chance: random.Random, folder: Path, file: str, files: list[str]) -> tuple[str, list[str]]:
    """Injure *file*; return how, and which other one."""
    path = folder / file
    how = chance.choice(["flip", "flip", "flip", "bytes", "zero", "cut", "grow", "swap", "delete", "exchange"])
    length = path.stat().st_size
    # What is in the beginning means more: headers, tables, the first pages.
    at = chance.randrange(length) if chance.random() < 0.6 else chance.randrange(min(length, 4_096))
    if how == "delete":
        path.unlink()
    elif how == "exchange":
        other = chance.choice([each for each in files if each != file])
        path.rename(folder / "spare")
        (folder / other).rename(path)
        (folder / "spare").rename(folder / other)
        return f"exchange {file} and {other}", [other]
    else:
        with path.open("r+b") as opened_file, mmap.mmap(opened_file.fileno(), 0) as content:
            if how == "flip":
                content[at] ^= 1 << chance.randrange(8)
            elif how == "bytes":
                for _ in range(chance.randrange(1, 20)):
                    content[chance.randrange(length)] = chance.randrange(256)
            elif how == "zero":
                end = min(length, at + chance.choice([4, 64, 512, 4_096]))
                content[at:end] = bytes(end - at)
            elif how == "swap":
                size_ = min(64, length // 2)
                one, two = chance.randrange(length - size_ + 1), chance.randrange(length - size_ + 1)
                content[one : one + size_], content[two : two + size_] = (
                    content[two : two + size_],
                    content[one : one + size_],
                )
        if how == "cut":
            os.truncate(path, at)
        elif how == "grow":
            with path.open("ab") as appended:
                appended.write(chance.randbytes(chance.choice([1, 100, 5_000])))
    return f"{how} {file} at {at}", []


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
    clock = ManualClock(END)
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


class TestMutatedStores:
    """B13 to B17, B19: whatever has been done to the files of a store."""

    @pytest.mark.slow
    def test_start_and_lose_what_was_damaged(self, days: Days) -> None:
        """
        A Monitor starts within 5 s, has all records and measurements but those of the damaged file, no record twice, none that
        was not made, and says what is missing.
        """
        kept = sample(days)
        everything = kept.pending.union(*kept.numbers.values())
        slowest = 0.0
        told = 0
        for seed in range(size(whole=10_000, small=500)):
            chance = random.Random(seed)
            folder = days.folder / "mutant"
            shutil.copytree(kept.folder, folder)
            file = chance.choice([each for each in kept.files if (folder / each).stat().st_size])
            how, exchanged = mutate(chance, folder, file, kept.files)
            what = f"mutant {seed}: {how}"
            try:
                seen = start(folder)
            except BaseException as error:
                error.add_note(what)
                raise
            finally:
                shutil.rmtree(folder)
            slowest = max(slowest, seen.seconds)
            assert seen.seconds < 5, what
            assert len(seen.numbers) == len(set(seen.numbers)), what
            assert set(seen.numbers) <= everything, what
            lost = everything - set(seen.numbers)
            injured = kept.numbers.get(file, kept.pending if file.endswith(".segment") else set())
            for other in exchanged:
                injured = injured | kept.numbers.get(other, kept.pending if other.endswith(".segment") else set())
            assert lost <= injured, what
            # A chunk that is not there any more was let go, for all that anybody can know.
            assert seen.said or not lost or " delete " in what, what
            if all(
                each.startswith(("store/chunks", "store/reserve")) or each.endswith(".segment")
                for each in (file, *exchanged)
            ):
                assert (seen.counted, seen.measured) == (kept.total, kept.total), what
            elif all(each.startswith("store/") for each in (file, *exchanged)):
                assert (seen.counted or 0) <= kept.total, what
                assert seen.said or seen.counted == kept.total or " delete " in what, what
            told += bool(seen.said)
        assert told > size(whole=2_000, small=100)
        show(f"{slowest:.2f} s the slowest start, {told} have said something")


def numbers_of_host(folder: Path) -> list[int]:
    """The numbers that a reader from outside finds, each as often as it is there."""
    with open_directory(folder, on_problem=lambda _code, _text: None) as query:
        return sorted(record.context["n"] for record in query.records_by_correlation_id("b", 100_000))


def chunk_bytes(folder: Path) -> int:
    chunks = folder / "store" / "chunks"
    return sum((chunks / name).stat().st_size for name in names_in(chunks))


class TestB2FullDisk:
    def test_the_service_goes_on_and_the_store_heals(self, tmp_path: Path) -> None:
        """
        While nobody can write, every call returns and readers find what is newest; when space returns the store takes in what has
        waited, untold, and all is there once.
        """
        with tmpfs(tmp_path / "m", size=96 << 20) as disk:
            folder = disk.path / "d"
            with host(folder) as process:
                burst(process, 0, 200)
                eventually(lambda: (folder / "store" / "reserve").exists(), says=process.errors)
                disk.fill()
                (folder / "store" / "reserve").unlink()
                disk.fill("more")
                before = chunk_bytes(folder)
                burst(process, 200, 2_000)
                said(process, "RFS-S102")
                assert look(process)["numbers"][-2_000:] == list(range(200, 2_200))
                disk.fill("rest")
                (disk.path / "filler").unlink()
                (disk.path / "more").unlink()
                (disk.path / "rest").unlink()

                eventually(lambda: chunk_bytes(folder) > before, says=process.errors)
                burst(process, 2_200, 100)
                assert_keeps_all(process, 2_300)
            assert numbers_of_host(folder) == list(range(2_300))


class TestRestart:
    def test_history_is_there_and_the_gap_is_one(self, tmp_path: Path) -> None:
        """
        A process that comes after another one answers with what that has measured, and of the time in between with None, not 0.
        """
        folder = tmp_path / "d"
        with host(folder) as process:
            burst(process, 0, 50)
            eventually(lambda: look(process)["leads"])
            eventually(lambda: (folder / "store" / "catalogue.sqlite").exists())
            burst(process, 50, 50)
        ended = time.time()
        eventually(lambda: time.time() > ended + 3)

        with host(folder) as process:
            burst(process, 100, 20)
            assert_keeps_all(process, 120)
            with open_directory(folder, on_problem=lambda code, text: None) as query:
                assert query.increase("host_total", "5m") == 120
                gap = [
                    point.value for point in query.points("host_total", "5m", 1) if ended + 1 <= point.time <= ended + 2
                ]
            assert gap
            assert set(gap) == {None}
