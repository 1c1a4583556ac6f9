"""What is let go of a store's records: the oldest whole chunks, by age and by size, and to make room on a full disk."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfs.errors import RetentionError, StoreError
from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.segments import NOTHING_WAITS, Frame
from rfs.monitoring._store import EVERYTHING, Window
from rfs.monitoring._store import records as records_module
from rfs.monitoring._store import retention as module
from rfs.monitoring._store.catalogue import Catalogue
from rfs.monitoring._store.chunks import OPEN_SUFFIX, SEALED_SUFFIX, ChunkReader, ChunkWriter
from rfs.monitoring._store.local import LocalStore
from rfs.monitoring._store.retention import (
    CHUNKS,
    RESERVE,
    RESERVE_BYTES,
    ROOM_BYTES,
    Freed,
    RecordRetention,
)
from rfs.monitoring._store.windows import WindowWriter
from rfs.monitoring._totals import Totals
from rfs.monitoring.retention import Retention
from rfs.testing.virtual_time import VirtualTime
from tests.faults.processes import Process, names_in
from tests.faults.tools import Tmpfs, tmpfs
from tests.monitoring.chunks import contents, opened, record, run_of, sealed
from tests.monitoring.led import no_problem

SECOND = 1_000_000_000
NOW = 1_800_000_000
DAY = 86_400


def frames_at(second: int, count: int = 3, bytes_each: int = 0) -> list[Frame]:
    return [record(second * SECOND + each, message=os.urandom(bytes_each // 2).hex()) for each in range(count)]


class Kept:
    """The chunks of a store, and who lets them go."""

    def __init__(self, path: Path, **policy: float) -> None:
        self.path = path
        self.clock = VirtualTime(NOW)
        self.chunks = path / CHUNKS
        with opened(self.chunks):
            pass
        self.retention = RecordRetention(path, Retention(**policy), lambda: self.clock.now.timestamp())  # type: ignore[arg-type]

    def add(self, name: str, second: int, *, bytes_each: int = 0) -> str:
        with opened(self.chunks) as directory:
            return sealed(directory, name, frames_at(second, bytes_each=bytes_each))

    def names(self) -> list[str]:
        return [name.removesuffix(SEALED_SUFFIX) for name in names_in(self.chunks)]

    def bytes(self) -> int:
        return sum((self.chunks / name).stat().st_size for name in names_in(self.chunks))


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


class TestPolicy:
    @pytest.mark.parametrize("limit", Retention.__struct_fields__)
    @pytest.mark.parametrize("value", [-1, math.nan])
    def test_a_limit_that_is_none(self, limit: str, value: float) -> None:
        """
        A negative limit, or one that is no number, is refused by name.
        """
        with pytest.raises(RetentionError, match=limit):
            Retention(**{limit: value})  # type: ignore[arg-type]

    def test_one_for_records_and_windows(self) -> None:
        """
        By default records are kept for a week and 2 GiB, and each tier of windows longer than the finer one.
        """
        policy = Retention()

        assert (policy.records_seconds, policy.records_bytes) == (7 * DAY, 2 << 30)
        ages = [policy.age(width) for width in (1, 10, 60, 3_600)]
        assert ages == sorted(ages)


class TestKeep:
    @settings(max_examples=60)
    @given(
        st.lists(st.tuples(st.integers(0, 20), st.integers(0, 4)), max_size=8),
        st.integers(0, 20),
        st.integers(0, 12_000),
    )
    def test_equals_a_plain_list(
        self, tmp_path_factory: pytest.TempPathFactory, made: list[tuple[int, int]], days: int, limit: int
    ) -> None:
        """
        Whatever chunks there are: one cycle leaves the longest run of newest ones that keeps both limits, and says what went.
        """
        kept = Kept(tmp_path_factory.mktemp("s"), records_seconds=days * DAY, records_bytes=limit)
        for number, (age, size) in enumerate(made):
            kept.add(f"{number:03}", NOW - age * DAY, bytes_each=1_000 * size)
        by_age = sorted((-age, f"{number:03}") for number, (age, _) in enumerate(made))
        sizes = {name: (kept.chunks / (name + SEALED_SUFFIX)).stat().st_size for _, name in by_age}
        expected = list(by_age)
        while expected and (-expected[0][0] > days or sum(sizes[name] for _, name in expected) > limit):
            expected.pop(0)

        freed = kept.retention.keep()

        assert kept.names() == sorted(name for _, name in expected)
        gone = by_age[: len(by_age) - len(expected)]
        lost = sum(sizes[name] for _, name in gone)
        assert freed == Freed(len(gone), 3 * len(gone), lost, kept.bytes(), freed.has_room)
        assert kept.retention.keep()[:4] == (0, 0, 0, kept.bytes())

    def test_what_is_being_written_stays(self, tmp_path: Path) -> None:
        """
        The open chunk is counted, and stays even if it alone is too old and too large.
        """
        kept = Kept(tmp_path, records_seconds=0, records_bytes=0)
        kept.add("a", NOW)
        with opened(kept.chunks) as directory:
            writer = ChunkWriter(directory, "b", 5)
            writer.add([run_of(frames_at(NOW - DAY))])

            freed = kept.retention.keep()

            assert names_in(kept.chunks) == ["b" + OPEN_SUFFIX]
            assert (freed.chunks, freed.left_bytes) == (1, writer.size)
            writer.close()
            writer.reader.close()


class TestB20Sizes:
    def test_are_those_of_the_disk(self, kept: Kept) -> None:
        """
        What others have removed or added since the last time is neither missed nor remembered: sizes equal the listing.
        """
        for number in range(4):
            kept.add(f"{number}", NOW - number, bytes_each=2_000)
        assert kept.retention.keep().left_bytes == kept.bytes()

        (kept.chunks / ("2" + SEALED_SUFFIX)).unlink()
        kept.add("5", NOW)
        # One that was written anew under its name, as when something was erased from it.
        (kept.chunks / ("3" + SEALED_SUFFIX)).unlink()
        kept.add("3", NOW - 8 * DAY)

        freed = kept.retention.keep()

        assert (freed.chunks, freed.left_bytes) == (1, kept.bytes())
        assert RecordRetention(kept.path, Retention(), lambda: NOW).keep().left_bytes == kept.bytes()

    def test_a_draft_that_was_left_goes(self, kept: Kept) -> None:
        """
        A draft counts while it may be written, and goes once it has been the same for a minute: a killed process has left it.
        """
        kept.add("a", NOW)
        left, written = kept.chunks / ".b.77", kept.chunks / ".c.78"
        left.write_bytes(bytes(1_000))
        seen: list[tuple[int, bool, bool]] = []
        for length in (500, 600, 700):
            written.write_bytes(bytes(length))
            seen.append((kept.retention.keep().left_bytes - kept.bytes(), left.exists(), written.exists()))
            kept.clock.advance(30)

        assert seen == [(0, True, True), (0, True, True), (0, False, True)]
        kept.clock.advance(29)
        assert kept.retention.keep().left_bytes == kept.bytes()
        assert written.exists()
        kept.clock.advance(1)
        assert kept.retention.keep().left_bytes == kept.bytes()
        assert kept.names() == ["a"]

    def test_a_draft_that_was_left_makes_room(self, kept: Kept) -> None:
        """
        On a full disk it goes before any chunk does.
        """
        kept.add("a", NOW)
        (kept.chunks / ".b.77").write_bytes(bytes(1_000))
        kept.retention.keep()
        kept.clock.advance(60)

        freed = kept.retention.make_room()

        assert kept.names() == ["a"]
        assert (freed.chunks, freed.left_bytes) == (0, kept.bytes())


class TestC2AheadForAMoment:
    def test_is_believed_the_second_time(self, kept: Kept) -> None:
        """
        A clock that is a year ahead is believed when it still is at the next call, and not before.
        """
        kept.add("a", NOW)

        kept.clock.jump(365 * DAY)
        assert kept.retention.keep().chunks == 0
        kept.clock.jump(60 - 365 * DAY)
        assert kept.retention.keep().chunks == 0
        kept.clock.jump(365 * DAY)
        kept.retention.keep()
        assert kept.retention.keep().chunks == 1

    def test_what_cannot_be_read_is_left_alone(self, tmp_path: Path) -> None:
        """
        B25. A chunk of a newer version, or none at all, is neither removed nor does it push out others.
        """
        kept = Kept(tmp_path, records_bytes=8_000)
        kept.add("a", NOW, bytes_each=1_000)
        (kept.chunks / ("b" + SEALED_SUFFIX)).write_bytes(bytes(1 << 16))

        assert kept.retention.keep().chunks == 0
        assert kept.names() == ["a", "b"]

    def test_one_that_cannot_be_removed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        If a chunk cannot be removed, the others are nevertheless, and it is said.
        """
        kept = Kept(tmp_path, records_seconds=60)
        for name in "abc":
            kept.add(name, NOW - DAY)
        unlink = os.unlink

        def failing(file: str, **more: Any) -> None:
            if file.startswith("a"):
                raise PermissionError(1, "Operation not permitted", file)
            unlink(file, **more)

        monkeypatch.setattr(os, "unlink", failing)

        with pytest.raises(PermissionError, match="not permitted"):
            kept.retention.keep()

        assert kept.names() == ["a"]

    def test_another_was_quicker(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A chunk that another leader removes at the same moment is gone, and nothing more.
        """
        kept = Kept(tmp_path, records_bytes=0)
        for name in "ab":
            kept.add(name, NOW)
        unlink = os.unlink

        def twice(file: str, **more: Any) -> None:
            unlink(file, **more)
            unlink(file, **more)

        monkeypatch.setattr(os, "unlink", twice)

        assert kept.retention.keep().left_bytes == 0
        assert kept.names() == []


class TestB28Reading:
    def test_goes_on_when_it_is_let_go(self, tmp_path: Path) -> None:
        """
        Who is reading a chunk when it is too old reads it to its end.
        """
        kept = Kept(tmp_path, records_seconds=60)
        file = kept.add("a", NOW - DAY)
        with opened(kept.chunks) as directory:
            expected = contents(directory, file)
            reader = ChunkReader(directory, file)

            assert kept.retention.keep().chunks == 1

            assert list(reader.read()) == expected
            reader.close()

    def test_goes_on_without_it_on_a_full_disk(self, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Who is reading a chunk that makes room has the rest without it: no exception, and no word of damage.
        """
        monkeypatch.setattr(module, "ROOM_BYTES", 1 << 60)
        file = kept.add("a", NOW)
        with opened(kept.chunks) as directory:
            reader = ChunkReader(directory, file)

            assert kept.retention.make_room().chunks == 1

            assert list(reader.read()) == []
            assert reader.damage == []
            reader.close()


class TestReserve:
    def test_is_made_when_there_is_room(self, kept: Kept) -> None:
        """
        A file of 4 MiB that really takes them; one that a kill has left half made is made whole.
        """
        (kept.path / RESERVE).write_bytes(b"")

        assert kept.retention.keep().has_room

        status = (kept.path / RESERVE).stat()
        assert status.st_size == RESERVE_BYTES <= status.st_blocks * 512
        assert kept.retention.keep().has_room

    @pytest.mark.parametrize("error", ["EDQUOT", "EFBIG"])
    def test_a_quota(self, kept: Kept, error: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        B4. Space that only a quota denies is made, too; a limit on the size of files is none that letting go would help.
        """
        kept.add("a", NOW)
        code = getattr(errno, error)

        def denied(*_: object) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "posix_fallocate", denied)

        if error == "EDQUOT":
            assert kept.retention.make_room()[:2] == (1, 3)
        else:
            with pytest.raises(OSError, match="too large"):
                kept.retention.make_room()
            assert kept.names() == ["a"]
        assert not (kept.path / RESERVE).exists()


SIZE = 64 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Tmpfs]:
    with tmpfs(tmp_path / "m", size=SIZE) as mounted:
        yield mounted


def refused(write: Callable[[int], None]) -> str:
    """Write until the store cannot; say why."""
    for number in range(3_000):
        try:
            write(number)
        except StoreError as error:
            return error.code
    return ""


@pytest.mark.fault
class TestB2FullDisk:
    def test_makes_room_by_the_oldest(self, disk: Tmpfs) -> None:
        """
        On a full disk the catalogue refuses with S102; then so many of the oldest chunks go that it works again, with a new reserve,
        although a reader still has them open.
        """
        kept = Kept(disk.path)
        catalogue = Catalogue(disk.path / "catalogue.sqlite", epoch=1, on_problem=no_problem, now=lambda: NOW)
        assert kept.retention.keep().has_room
        writer = WindowWriter(catalogue, on_problem=no_problem)
        for number in range(30):
            kept.add(f"{number:02}", NOW + number, bytes_each=1 << 20)
        with opened(kept.chunks) as directory:
            readers = [ChunkReader(directory, name) for name in names_in(kept.chunks)]
        disk.fill()

        def write(number: int) -> None:
            with catalogue.turn() as turn:
                writer.put(
                    turn, Window(NOW + number, {SeriesKey("n_total", (("n", str(n)),)): n / 7 for n in range(2_000)})
                )

        assert refused(write) == "S102"
        before = kept.names()

        freed = kept.retention.make_room()

        assert 0 < freed.chunks < 30
        assert kept.names() == before[freed.chunks :]
        assert freed.has_room
        assert (disk.path / RESERVE).stat().st_size == RESERVE_BYTES
        assert disk.free()[0] >= ROOM_BYTES
        write(3_600)
        for reader in readers:
            reader.close()
        catalogue.close()

    def test_the_reserve_alone(self, disk: Tmpfs) -> None:
        """
        Where others take all the space, the reserve lets the windows' oldest blocks go, and what comes next goes on; when space
        returns, there is a reserve again.
        """
        kept = Kept(disk.path)
        catalogue = Catalogue(disk.path / "catalogue.sqlite", epoch=1, on_problem=no_problem, now=lambda: NOW)
        writer = WindowWriter(catalogue, on_problem=no_problem)
        begin = NOW - NOW % DAY

        def write(second: int) -> None:
            with catalogue.turn() as turn:
                values = {
                    SeriesKey("n_total", (("n", str(n)),)): 1 + (second * 7 + n * 13) % 1_000 / 7 for n in range(500)
                }
                writer.put(turn, Window(second, values))

        for minute in range(150):
            write(begin + 60 * minute)
            while not writer.maintain(60.0):
                pass
        assert kept.retention.keep().has_room
        disk.fill()
        second = begin + 60 * 150
        assert refused(lambda number: write(second + number)) == "S102"

        freed = kept.retention.make_room()
        assert not freed.has_room
        assert disk.free()[0] >= RESERVE_BYTES
        before = catalogue.used_bytes()
        writer.make_room()

        assert catalogue.used_bytes() < before
        write(second + 3_600)
        assert not kept.retention.keep().has_room
        (disk.path / "filler").unlink()
        assert kept.retention.keep().has_room
        catalogue.close()

    def test_a_store_goes_on(self, disk: Tmpfs, clock: VirtualTime, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        The leader's store on a full disk: the oldest records make room for the newest, nothing else is lost, and when space returns
        there is a reserve again.
        """
        monkeypatch.setattr(records_module, "SEAL_BYTES", 4 << 20)
        said: list[str] = []
        store = LocalStore(
            disk.path,
            retention=None,
            now_seconds=lambda: clock.now.timestamp(),
            monotonic=clock.monotonic,
            on_problem=lambda code, _: said.append(code),
        )
        store.lead(1, is_first=True)

        def keep(number: int) -> bool:
            clock.advance(10)
            return store.keep([run_of(frames_at(NOW + number, 2, 1 << 20), source=f"{number}.segment")], at_once=True)

        def numbers() -> list[int]:
            reader = store.at(None, lambda _text: NOTHING_WAITS)
            found = reader.records(EVERYTHING, limit=1_000)
            return sorted({one.frame.time_ns // SECOND - NOW for one in found})

        store.write(Totals({}, {}, {}, {}, {}, []), is_whole=True)
        assert (store.path / RESERVE).exists()
        kept = [number for number in range(30) if keep(number)]
        assert numbers() == kept == list(range(30))
        disk.fill()

        for number in range(30, 40):
            while not keep(number):
                pass

        left = numbers()
        assert "S102" in said
        assert 0 < left[0] < 30
        assert left == list(range(left[0], 40))
        (disk.path / "filler").unlink()
        clock.advance(60)
        store.write(Totals({}, {}, {}, {}, {}, []), is_whole=True)
        assert (store.path / RESERVE).stat().st_size == RESERVE_BYTES
        assert store.at(None, lambda _text: NOTHING_WAITS).statistics()["evicted_records"] == 2 * left[0]
        store.close()

    def test_no_room_for_files(self, disk: Tmpfs) -> None:
        """
        B3. Where there is space and no further file can be made, chunks make room as well.
        """
        kept = Kept(disk.path)
        for number in range(30):
            kept.add(f"{number:02}", NOW + number)
        status = os.statvfs(disk.path)
        disk.resize(nr_inodes=status.f_files - status.f_favail)
        assert disk.free()[1] == 0

        freed = kept.retention.make_room()

        assert 0 < freed.chunks < 30
        assert freed.has_room
        assert disk.free()[1] >= 10


class TestCounted:
    def test_by_whoever_leads(self, tmp_path: Path, clock: VirtualTime, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        What went is counted, over all leaders and for every reader; what could not be counted at once is later.
        """
        nothing = Totals({}, {}, {}, {}, {}, [])
        said: list[str] = []

        def opened_store() -> LocalStore:
            return LocalStore(
                tmp_path,
                retention=Retention(records_seconds=60),
                now_seconds=lambda: clock.now.timestamp(),
                monotonic=clock.monotonic,
                on_problem=lambda code, _: said.append(code),
            )

        def grow_old(store: LocalStore, records: int) -> None:
            frames = frames_at(int(clock.now.timestamp()), records)
            assert store.keep([run_of(frames, source=f"{clock.elapsed_seconds:.0f}.segment")], at_once=True)
            store.seal()
            clock.advance(120)
            store.write(nothing, is_whole=True)

        def evicted() -> float:
            return reader.at(None, lambda _text: NOTHING_WAITS).statistics()["evicted_records"]

        reader = opened_store()
        counts = []
        for epoch, records in enumerate((3, 4), 1):
            store = opened_store()
            store.lead(epoch, is_first=epoch == 1)
            store.write(nothing, is_whole=True)
            counts.append(evicted())
            grow_old(store, records)
            if epoch == 1:
                store.close()

        def refuse() -> None:
            raise StoreError("x", "no space", "S102")

        with monkeypatch.context() as full:
            assert store._writing is not None
            full.setattr(store._writing.catalogue, "turn", refuse)
            grow_old(store, 5)
        during = evicted()
        clock.advance(120)
        store.write(nothing, is_whole=True)

        assert counts == [0, 3]
        assert (during, evicted()) == (7, 12)
        assert "S102" in said
        store.close()
        reader.close()


@pytest.mark.fault
class TestB29Killed:
    def test_at_every_step(self, tmp_path: Path) -> None:
        """
        Killed before any of its calls, by age and on a full disk, the next one finds whole chunks, none too many, and goes on.
        """
        with Process("retention", tmp_path) as process:
            steps: dict[str, int] = process.answer()

        assert min(steps.values()) > 10
        for way, count in steps.items():
            for step in range(1, count + 1):
                path = tmp_path / way / str(step)
                names = names_in(path / CHUNKS)
                assert names == [f"{number}{SEALED_SUFFIX}" for number in range(8 - len(names), 8)]
                kept = RecordRetention(path, Retention(records_seconds=60), lambda: NOW)
                assert kept.keep().has_room
                with opened(path / CHUNKS) as directory:
                    assert (
                        names_in(path / CHUNKS) == [f"{number}{SEALED_SUFFIX}" for number in range(4, 8)]
                        or way == "full"
                    )
                    for name in names_in(path / CHUNKS):
                        assert len(contents(directory, name)) == 3
