"""FAULTS.md §2.B, rows B13 to B17 and B19 for the store as a whole: whatever has been done to its files, a Monitor starts on it."""

from __future__ import annotations

import mmap
import os
import random
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from rfs.monitoring.monitor import Monitor
from rfs.testing.virtual_time import VirtualTime
from tests.faults.hosts import show
from tests.faults.processes import names_in, size
from tests.faults.programs.days import EACH, turn_times
from tests.faults.stores import END, Days, Sample, Seen, days_under_shim, sample, start
from tests.monitoring.test_chunks_fuzz import read_frames

pytestmark = pytest.mark.fault


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


CATALOGUE = "store/catalogue.sqlite"
LOG = f"{CATALOGUE}-wal"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sample]:
    """A store that a killed leader has left, made once and never changed."""
    with days_under_shim(tmp_path_factory.mktemp("shim")) as days:
        yield sample(days)


class After(NamedTuple):
    """What comes of a store that was injured."""

    seen: Seen
    lost: set[int]
    aside: dict[str, bytes]  # what is in quarantine: name → content


def injured(kept: Sample, injure: Callable[[Path], object], *, ended: bool = False) -> After:
    """Injure a copy of *kept*, and start on it; *ended*: of what a leader that was not killed has left of it, which has no log."""
    folder = kept.folder.parent / "injured"
    shutil.copytree(kept.folder, folder)
    try:
        if ended:
            with closing(sqlite3.connect(folder / CATALOGUE)) as connection:  # which is the last one to be closed
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            assert not (folder / LOG).exists()
        injure(folder)
        seen = start(folder)
        quarantine = folder / "store" / "quarantine"
        aside = {name: (quarantine / name).read_bytes() for name in names_in(quarantine)}
    finally:
        shutil.rmtree(folder)
    everything = kept.pending.union(*kept.numbers.values())
    assert seen.seconds < 5
    assert len(seen.numbers) == len(set(seen.numbers))
    assert set(seen.numbers) <= everything
    return After(seen, everything - set(seen.numbers), aside)


def overwrite(file: str, content: bytes, at: int = 0) -> Callable[[Path], object]:
    def injure(folder: Path) -> None:
        with (folder / file).open("r+b") as opened_file:
            opened_file.seek(at)
            opened_file.write(content)

    return injure


def assert_catalogue_aside(kept: Sample, after: After) -> None:
    """The catalogue alone was moved away, under its time, and all records are served."""
    assert after.lost == set()
    assert [name.startswith("catalogue.sqlite.2") for name in after.aside] == [True]
    assert any(each.startswith("S110") for each in after.seen.said)
    assert (after.seen.counted or 0) <= kept.total


def assert_chunk_aside(kept: Sample, after: After, file: str, content: bytes) -> None:
    """That chunk alone was moved away, under its time and as it was, which was said; nothing else is missing."""
    assert after.lost <= kept.numbers[file]
    assert [name.startswith(Path(file).name + ".2") for name in after.aside] == [True]
    assert [*after.aside.values()] == [content]
    assert any(each.startswith("S113") and "set aside" in each for each in after.seen.said)
    assert after.seen.counted == after.seen.measured == kept.total


class TestB13BadMagic:
    def test_of_the_catalogue(self, kept: Sample) -> None:
        """
        The catalogue with four bytes overwritten is in quarantine as it was; a new one is begun.
        """
        after = injured(kept, overwrite(CATALOGUE, b"\0\0\0\0"), ended=True)

        assert_catalogue_aside(kept, after)
        assert all(content[:4] == b"\0\0\0\0" for content in after.aside.values())

    def test_of_a_chunk(self, kept: Sample) -> None:
        """
        Likewise each chunk, sealed or open; its records are in the one that has its place.
        """
        for file in kept.numbers:
            after = injured(kept, overwrite(file, b"\0\0\0\0"))

            assert_chunk_aside(kept, after, file, b"\0\0\0\0" + (kept.folder / file).read_bytes()[4:])
            assert after.lost == set()


class TestB14ZeroedPageOrTruncated:
    def test_of_the_catalogue(self, kept: Sample) -> None:
        """
        With a page of zeros, or cut in the middle, it is in quarantine for whoever wants to save what is in it.
        """
        for injure in (
            overwrite(CATALOGUE, bytes(4_096), at=2 * 4_096),
            lambda folder: os.truncate(folder / CATALOGUE, 5 * 4_096 + 100),
        ):
            assert_catalogue_aside(kept, injured(kept, injure, ended=True))


class TestB16EmptyOrForeignFile:
    @pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0" + bytes(9_000)], ids=["empty", "picture"])
    def test_in_the_place_of_a_file(self, kept: Sample, content: bytes) -> None:
        """
        In the place of the catalogue or a chunk: it is told from ours, said, and set aside, but for an empty catalogue, which is begun.
        """
        after = injured(kept, lambda folder: (folder / CATALOGUE).write_bytes(content), ended=True)
        if content:
            assert_catalogue_aside(kept, after)
        else:
            assert after.aside == {}
            assert any(each.startswith("S110") for each in after.seen.said)
        for file in kept.numbers:
            after = injured(kept, lambda folder, file=file: (folder / file).write_bytes(content))  # type: ignore[misc]
            assert_chunk_aside(kept, after, file, content)


class TestB17LostLog:
    """What the log had is in the live files too: a window is what they have beyond what the catalogue has counted."""

    def _assert_nothing_lost(self, kept: Sample, after: After, at: str) -> None:
        assert after.lost == set(), at
        assert (after.seen.counted, after.seen.measured) == (kept.total, kept.total), at
        assert after.aside == {}, at

    @pytest.mark.slow
    def test_cut_at_every_frame(self, kept: Sample) -> None:
        """
        Cut where a frame ends, and a byte before and behind that: no increment and no record is lost or counted twice.
        """
        log = (kept.folder / LOG).read_bytes()
        frame = 24 + int.from_bytes(log[8:12], "big")
        ends = range(32, len(log) + 1, frame)
        assert len(ends) > 20
        for number in range(0, len(ends), size(whole=1, small=len(ends) // 2)):
            for end in (ends[number] - 1, ends[number], ends[number] + 1):
                after = injured(kept, lambda folder, end=end: os.truncate(folder / LOG, end))  # type: ignore[misc]
                self._assert_nothing_lost(kept, after, f"cut at {end}")

    def test_deleted(self, kept: Sample) -> None:
        """
        Without its log the catalogue is as it was at the last checkpoint; the rest is counted again, once.
        """
        self._assert_nothing_lost(kept, injured(kept, lambda folder: (folder / LOG).unlink()), "deleted")

    @pytest.mark.parametrize("left", [0.0, 0.5])
    def test_is_said(self, tmp_path: Path, left: float) -> None:
        """
        How many windows are gone with the log, or with its end: a leader says in its live file how many it has written.
        """
        folder, clock = tmp_path / "days", VirtualTime(END - 9)
        monitor = Monitor(service_name="days", directory=folder, clock=clock)
        for _ in range(5):
            monitor.counter("made_total").inc()
            monitor._leader.beat()
            clock.advance(1)
        shutil.copytree(folder, tmp_path / "copy")  # of it nobody lives
        monitor.stop()
        log = tmp_path / "copy" / LOG
        os.truncate(log, int(log.stat().st_size * left))

        seen = start(tmp_path / "copy")

        (said,) = seen.said
        found = re.search(r"^S114 .*: the last (\d+) windows are gone with the log", said)
        assert found
        assert int(found[1]) == 4 if not left else 0 < int(found[1]) < 4
        assert seen.counted == 5

    def test_there(self, kept: Sample) -> None:
        """
        With its log nothing is lost, and nothing is said.
        """
        after = injured(kept, lambda _folder: None)

        self._assert_nothing_lost(kept, after, "there")
        assert after.seen.said == []

    def test_of_another_database(self, kept: Sample, tmp_path: Path) -> None:
        """
        A log that belongs to another program's database is set aside alone, and said; what the right one had is counted again.
        """
        with closing(connect_other(tmp_path / "other.sqlite")):
            log = (tmp_path / "other.sqlite-wal").read_bytes()
        assert len(log) > 4_096

        after = injured(kept, lambda folder: (folder / LOG).write_bytes(log))

        ((name, content),) = after.aside.items()
        assert name.startswith("catalogue.sqlite.2")
        assert name.endswith("-wal")
        assert content == log
        assert after.seen.said[-1].startswith("S114")  # before the leader came, the reader may have met it
        self._assert_nothing_lost(kept, after._replace(aside={}), "another's")

    @pytest.mark.slow
    def test_chunks_cut_at_every_frame(self, kept: Sample) -> None:
        """
        A chunk that is cut where a frame ends, and a byte before and behind: what is before the cut is there, and what is missing is said.
        """
        cuts = missing = 0
        for file, numbers in kept.numbers.items():
            path = kept.folder / file
            places = read_frames(path.read_bytes())
            for place in places[:: size(whole=1, small=max(1, len(places) // 2))]:
                for at in (place.end - 1, place.end, place.end + 1):
                    behind = {
                        number for each in places if each.end > at for time in each.times for number in made_at(time)
                    }
                    after = injured(kept, lambda folder, file=file, at=at: os.truncate(folder / file, at))  # type: ignore[misc]
                    assert after.lost <= numbers & behind, f"{file} cut at {at}"
                    assert not after.lost or after.seen.said, f"{file} cut at {at}"
                    assert (after.seen.counted, after.seen.measured) == (kept.total, kept.total)
                    cuts += 1
                    missing += bool(after.lost)
        assert cuts > 5
        assert missing


class TestB19Ledger:
    """The catalogue missing, and ahead of the chunks; corrupt it is in B13 and B14, behind them in B17."""

    def test_missing(self, kept: Sample) -> None:
        """
        Without a catalogue and its log the chunks are read anew: no record is lost, and it is said.
        """

        def injure(folder: Path) -> None:
            (folder / CATALOGUE).unlink()
            (folder / LOG).unlink()

        after = injured(kept, injure)

        assert after.lost == set()
        assert after.aside == {}
        assert any(each.startswith("S110") for each in after.seen.said)

    def test_ahead_of_the_chunks(self, kept: Sample) -> None:
        """
        Where a chunk is gone whose records it has counted, that is said, no others are missing, and all are still counted.
        """
        for file, numbers in kept.numbers.items():
            after = injured(kept, lambda folder, file=file: (folder / file).unlink())  # type: ignore[misc]

            assert after.lost <= numbers, file
            assert f"{Path(file).stem} is gone, and {len(numbers)} records with it" in after.seen.said[0], file
            assert after.seen.counted == after.seen.measured == kept.total


def made_at(time_ns: int) -> range:
    """The numbers that were made at that time."""
    turn = turn_times().index(time_ns // 10**9)
    return range(turn * EACH, turn * EACH + EACH)


def connect_other(path: Path) -> sqlite3.Connection:
    """Another database, with as many pages in its log."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.execute("CREATE TABLE theirs (x)")
    connection.executemany("INSERT INTO theirs VALUES (?)", [(f"{n}" * 500,) for n in range(100)])
    return connection


class TestMutatedStores:
    """Rows B13 to B17 and B19 at random: whatever has been done to the files of a store."""

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
            assert seen.said or not lost, what
            if all(
                each.startswith(("store/chunks", "store/reserve")) or each.endswith(".segment")
                for each in (file, *exchanged)
            ):
                assert (seen.counted, seen.measured) == (kept.total, kept.total), what
            elif all(each.startswith("store/") for each in (file, *exchanged)):
                assert (seen.counted or 0) <= kept.total, what
                assert seen.said or seen.counted == kept.total, what
            elif how.startswith("delete"):
                # What else is done to a cell cannot be noticed: it is a sum, and has no checksum.
                assert (seen.counted or 0) <= kept.total, what
                assert (seen.measured or 0) <= kept.total, what
                assert seen.said or (seen.counted, seen.measured) == (kept.total, kept.total), what
            told += bool(seen.said)
        assert told > size(whole=2_000, small=100)
        show(f"{slowest:.2f} s the slowest start, {told} have said something")
