"""Records of a local store: what processes record, a leader imports, and any process reads, at any moment and after any kill."""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random
from threading import Event, Lock, Thread
from typing import Any, Self
from unittest import mock
from zlib import crc32

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from rfs.errors import CursorError, QueryTimeoutError, StoreFileError
from rfs.monitoring._capture.pace import breathe
from rfs.monitoring._capture.segments import Frame, Mark, Run, SegmentReader, Segments, Waiting
from rfs.monitoring._store import EVERYTHING, StoredRecord, Wanted, chunks
from rfs.monitoring._store import deadline as deadlines
from rfs.monitoring._store import records as records_module
from rfs.monitoring._store.chunks import SEALED_SUFFIX, ChunkReader
from rfs.monitoring._store.records import RecordReader, RecordWriter
from rfs.testing.virtual_time import VirtualTime
from tests.faults.processes import Process as RealProcess
from tests.faults.processes import eventually, names_in, size
from tests.faults.programs.record_writer import KEPT, map_segments
from tests.monitoring.chunks import opened, record
from tests.monitoring.test_windows import in_memory

MIB = 1 << 20


class Process:
    """What is recorded in one segment, and what a process that reads it has mapped."""

    def __init__(self, name: str, block_count: int = 8) -> None:
        self.segments = Segments.in_memory(name, block_count)

    def append(self, frame: Frame) -> bool:
        return self.segments.append(
            frame.time_ns,
            frame.level,
            frame.flags,
            frame.correlation_id.encode(),
            frame.operation.encode(),
            frame.payload,
        )

    def reader(self) -> SegmentReader:
        return SegmentReader(self.segments.memory, name=self.segments.name)


class Site:
    """A store in *path*, and processes that record."""

    def __init__(self, path: Path, clock: VirtualTime, processes: int = 1) -> None:
        self.path = path
        self.clock = clock
        self.problems: list[tuple[str, str]] = []
        self.processes = [Process(f"{number}-a.0.segment") for number in range(processes)]

    def reader(self) -> Any:
        return Seen(self)

    @property
    def chunks(self) -> list[str]:
        return names_in(self.path / "chunks")

    def told(self, code: str, text: str) -> None:
        self.problems.append((code, text))


class Seen:
    """A process that reads, and may lead."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.segments = [process.reader() for process in site.processes]
        self.made = 0
        self.records = RecordReader(site.path, on_problem=site.told)
        self.writer = RecordWriter(
            self.records, now_ns=site.clock.time_ns, monotonic=site.clock.monotonic, on_problem=site.told
        )

    def pending(self) -> tuple[list[Run], list[list[Mark]]]:
        runs: list[Run] = []
        for one in self.segments:
            runs += one.unimported(16 * MIB)
        return runs, [one.marks() for one in self.segments]

    def lead(self, *, flush: bool = True) -> bool:
        runs, marks = self.pending()
        kept = self.writer.keep(runs, flush=flush)
        if kept:
            for one, ours in zip(self.segments, marks, strict=True):
                one.mark_imported(marks=ours)
        return kept

    def page(
        self, wanted: Wanted = EVERYTHING, *, limit: int = 10_000, before: str | None = None
    ) -> list[StoredRecord]:
        runs, _ = self.pending()
        return self.records.records(wanted, limit=limit, before=before, waiting=Waiting(runs))

    def times(self, **asked: Any) -> list[int]:
        return [one.frame.time_ns for one in self.page(**asked)]

    def close(self) -> None:
        self.writer.close()
        self.records.close()


@pytest.fixture
def site(tmp_path: Path, clock: VirtualTime) -> Site:
    return Site(tmp_path / "store", clock)


def emit(site: Site, first: int, count: int, process: int = 0, **fields: Any) -> list[int]:
    for number in range(first, first + count):
        assert site.processes[process].append(record(number, **fields))
    return list(range(first, first + count))


class TestImport:
    def test_due_by_time_by_size_and_at_once(self, site: Site) -> None:
        """
        Little is kept after ten seconds, 128 KiB at once, and anything when it is asked for; nothing before.
        """
        leader = site.reader()
        emit(site, 0, 3)
        assert not leader.lead(flush=False)
        site.clock.advance(9.9)
        assert not leader.lead(flush=False)
        site.clock.advance(0.2)
        assert leader.lead(flush=False)

        emit(site, 10, 1)
        assert not leader.lead(flush=False)
        emit(site, 11, 70, message="x" * 2_000)
        assert leader.lead(flush=False)

        emit(site, 100, 1)
        assert leader.lead(flush=True)
        assert not leader.pending()[0]
        assert len(leader.page()) == 75

    def test_every_process_answers_alike(self, tmp_path: Path, clock: VirtualTime) -> None:
        """
        Whoever is asked, and whenever it began: records of all processes, imported or not, newest first and once.
        """
        site = Site(tmp_path, clock, processes=3)
        leader, other = site.reader(), site.reader()
        for number in range(9):
            emit(site, number, 1, process=number % 3)
        assert other.times() == list(range(9))[::-1]
        leader.lead()
        emit(site, 9, 3)

        late = site.reader()
        for one in (leader, other, late):
            assert one.times() == list(range(12))[::-1]
        assert [len(each.unimported(MIB)) for each in late.segments] == [1, 0, 0]


class TestPaging:
    @settings(max_examples=size(whole=2_000, small=150))
    @given(
        st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 2)), max_size=30),
        st.integers(1, 4),
        st.integers(0, 30),
    )
    def test_each_once_while_records_come_and_are_imported(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        made: list[tuple[int, bool, int]],
        limit: int,
        there: int,
    ) -> None:
        """
        Page after page, records of equal time among them, while more are recorded and imported: what was there first comes once.
        """
        site = Site(tmp_path_factory.mktemp("s"), VirtualTime(), processes=2)
        leader, other = site.reader(), site.reader()
        rest = iter(list(enumerate(made)))

        def go_on() -> bool:
            step = next(rest, None)
            if step is None:
                return False
            number, (time, lead, process) = step
            site.processes[process % 2].append(record(time, message=f"{number // 2}"))
            if lead:
                leader.lead()
            return True

        for _ in range(there):
            go_on()
        expected = [one.frame.payload for one in other.page()]
        assert len(expected) == min(there, len(made))
        found: list[StoredRecord] = []
        before: str | None = None
        while page := other.page(limit=limit, before=before):
            found += page
            before = page[-1].cursor
            go_on()

        payloads = [one.frame.payload for one in found]
        assert [one.frame.time_ns for one in found] == sorted((one.frame.time_ns for one in found), reverse=True)
        for each in set(expected):
            assert payloads.count(each) >= expected.count(each)
        everything = [record(time, message=f"{number // 2}").payload for number, (time, *_) in enumerate(made)]
        for each in set(payloads):
            assert payloads.count(each) <= everything.count(each)
        leader.close()
        other.close()

    @pytest.mark.parametrize("cursor", ["", "7", "c1.a.2", "p1", "p1.xy", "c1.a/b.2.3", "c1.a.2.3.4", None])
    def test_no_cursor(self, site: Site, cursor: Any) -> None:
        """
        What is no cursor is refused.
        """
        if cursor is None:
            return
        with pytest.raises(CursorError):
            site.reader().records.records(EVERYTHING, limit=1, before=cursor)


class Killed(BaseException):
    """Ends a leader of the test between two steps."""


STEPS = ("open", "pwrite", "ftruncate", "fdatasync", "fsync", "rename", "link", "unlink", "stat", "scandir")


class AtStep:
    """At the *number*-th call of one of the functions that leave traces, *act* happens; then the call itself."""

    def __init__(self, number: int, act: Callable[[], None]) -> None:
        self.number = number
        self.act = act
        self.stack = ExitStack()

    def __enter__(self) -> Self:
        for name in STEPS:
            self.stack.enter_context(mock.patch.object(os, name, self.watched(getattr(os, name))))
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def watched(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            self.number -= 1
            if not self.number:
                self.act()
            return original(*arguments, **more)

        return call


def kill() -> None:
    raise Killed


class Store(RuleBasedStateMachine):
    """
    Three processes record; any of them leads when it thinks that it should, is killed at any step, or stopped there while
    another one leads. The model is a list.
    """

    def __init__(self) -> None:
        super().__init__()
        self.path = in_memory()
        self.clock = VirtualTime()
        self.site = Site(self.path, self.clock, processes=3)
        self.seen = [self.site.reader() for _ in range(3)]
        self.made: list[bytes] = []

    def teardown(self) -> None:
        for one in self.seen:
            one.close()
        shutil.rmtree(self.path)

    @rule(
        process=st.integers(0, 2), time=st.integers(0, 20), count=st.integers(1, 3), length=st.sampled_from([1, 50_000])
    )
    def append(self, process: int, time: int, count: int, length: int) -> None:
        for _ in range(count):
            made = record(time, message=f"{len(self.made)}" + "x" * length)
            if self.site.processes[process].append(made):
                self.made.append(made.payload)

    @rule(process=st.integers(0, 2))
    def lead(self, process: int) -> None:
        self.seen[process].lead()

    @rule(process=st.integers(0, 2), number=st.integers(1, 60))
    def killed_while_leading(self, process: int, number: int) -> None:
        with AtStep(number, kill), suppress(Killed):
            self.seen[process].lead()
        self.seen[process] = self.site.reader()  # what the killed one had open is let go as the kernel would do it

    @rule(process=st.integers(0, 2), other=st.integers(1, 2), number=st.integers(1, 60))
    def stopped_while_leading(self, process: int, other: int, number: int) -> None:
        successor = self.seen[(process + other) % 3]

        def lead() -> None:
            self.look(successor)
            for _ in range(3):
                successor.lead()

        with AtStep(number, lead):
            self.seen[process].lead()

    @rule(process=st.integers(0, 2), looker=st.integers(0, 2), number=st.integers(1, 60))
    def read_while_leading(self, process: int, looker: int, number: int) -> None:
        if looker != process:
            with AtStep(number, lambda: self.look(self.seen[looker])):
                self.seen[process].lead()

    @rule(process=st.integers(0, 2), other=st.integers(1, 2), number=st.integers(1, 30))
    def stopped_while_reading(self, process: int, other: int, number: int) -> None:
        with AtStep(number, lambda: self.seen[(process + other) % 3].lead() and None):
            self.look(self.seen[process])

    @rule(seconds=st.sampled_from([5, 3_700]))
    def pass_time(self, seconds: int) -> None:
        self.clock.advance(seconds)

    def look(self, seen: Seen) -> None:
        found = Counter(one.frame.payload for one in seen.page())
        assert found == Counter(self.made)

    @invariant()
    def every_record_once(self) -> None:
        """
        Whoever is asked at any moment has every record once.
        """
        for one in (*self.seen, late := self.site.reader()):
            self.look(one)
        late.close()
        assert not self.site.problems


Store.TestCase.settings = settings(
    max_examples=size(whole=2_000, small=60),
    stateful_step_count=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    deadline=None,
)


@pytest.mark.slow  # dozens of lives of three processes
class TestStore(Store.TestCase):  # type: ignore[misc, valid-type]
    """The state machine, run."""


@pytest.mark.fault
class TestB19KilledWhileImporting:
    def test_every_record_is_there_once(self, tmp_path: Path) -> None:
        """
        ``kill -9`` of a real leader at any moment: any process finds every record once, and the next leader goes on.
        """
        chance = Random(3)
        made = 0
        rounds = size(whole=100, small=6)
        for _ in range(rounds):
            with RealProcess("record_writer", tmp_path, made, "WITNESS") as process:
                said = b""
                while len(said) < KEPT.size * chance.randrange(1, 600):
                    said += eventually(process.witnessed, says=process.errors)
                for _ in range(chance.randrange(5_000)):
                    breathe()
                process.kill()
                said += process.witnessed()
            numbers = [number for (number,) in KEPT.iter_unpack(said)]
            assert numbers == list(range(made, made + len(numbers)))
            found = self.answer(tmp_path)
            # The last one may have been kept, and not been told.
            made = max(found) + 1
            assert numbers[-1] + 1 <= made <= numbers[-1] + 2
            assert found == Counter(range(made))
        assert len([name for name in names_in(tmp_path / "chunks") if name.endswith(SEALED_SUFFIX)]) > rounds

    def answer(self, path: Path) -> Counter[int]:
        """The times of all records that are found, page by page."""
        problems: list[tuple[str, str]] = []
        reader = RecordReader(path, on_problem=lambda code, text: problems.append((code, text)))
        runs = [run for one in map_segments(path) for run in one.unimported(1 << 30)]
        found: Counter[int] = Counter()
        before: str | None = None
        while page := reader.records(EVERYTHING, limit=500, before=before, waiting=Waiting(runs)):
            found.update(one.frame.time_ns for one in page)
            before = page[-1].cursor
        reader.close()
        assert not problems
        return found


def failing(number: int) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


class TestB5NotWritten:
    def test_goes_on_soon(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A second after the disk can be written again, whatever its error was, all is kept; it is not tried more often than that.
        """
        leader = site.reader()
        emit(site, 0, 5)
        leader.lead()
        emit(site, 5, 100, message="x" * 2_000)
        with monkeypatch.context() as broken:
            broken.setattr(os, "pwrite", failing(errno.EIO))
            assert not leader.lead(flush=False)
        assert not leader.lead(flush=False)

        site.clock.advance(1.1)
        assert leader.lead(flush=False)
        assert not leader.pending()[0]
        assert leader.times() == list(range(105))[::-1]

    def test_taken_back_while_it_is_read(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        What a reader has found in a chunk, and the leader takes back because it could not be synced, is answered from the segments.
        """
        leader, other = site.reader(), site.reader()
        emit(site, 0, 5)
        leader.lead()
        emit(site, 5, 5)
        newest, seen = chunks.newest, list[int]()

        def take_back(*arguments: Any, **asked: Any) -> Any:
            if not seen:
                release.set()
                thread.join()
            seen.append(1)
            return newest(*arguments, **asked)

        added, release = Event(), Event()

        def sync(_fd: int) -> None:
            added.set()
            release.wait(20)
            raise OSError(errno.EIO, "cannot sync")

        with monkeypatch.context() as broken:
            broken.setattr(os, "fdatasync", sync)
            thread = Thread(target=leader.lead)
            thread.start()
            assert added.wait(20)
            broken.setattr(records_module, "newest", take_back)
            assert other.times() == list(range(10))[::-1]
        assert len(seen) > 1
        assert [code for code, _ in site.problems] == ["S105"]

    def test_hard_links_that_are_other_files(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        On a file system where a second name of a file seems to be another file, nobody can tell whose a chunk is: that is said, and
        records stay in the segments.
        """
        leader = site.reader()
        emit(site, 0, 5)

        def copy(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
            with opened_at(source, src_dir_fd, "rb") as old, opened_at(target, dst_dir_fd, "xb") as new:
                shutil.copyfileobj(old, new)

        with monkeypatch.context() as broken:
            broken.setattr(os, "link", copy)
            assert not leader.lead()
            assert not leader.lead()
        assert leader.times() == [4, 3, 2, 1, 0]
        (problem,) = site.problems
        assert problem[0] == "S105"
        assert "hard link" in problem[1]
        assert leader.lead()
        assert site.reader().times() == [4, 3, 2, 1, 0]


def opened_at(name: str, directory: int, mode: str) -> Any:
    return open(name, mode, opener=lambda path, flags: os.open(path, flags, 0o600, dir_fd=directory))


class TestB6NotSynced:
    def test_goes_into_another_chunk(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        What could not be synced goes into another chunk, once, and what cannot be synced at all stays in the segments.
        """
        leader = site.reader()
        emit(site, 0, 5)
        assert leader.lead()
        emit(site, 5, 5)
        fdatasync = os.fdatasync
        synced: list[int] = []

        def once(fd: int) -> None:
            synced.append(fd)
            if len(synced) == 1:
                raise OSError(errno.EIO, "cannot sync")
            fdatasync(fd)

        with monkeypatch.context() as broken:
            broken.setattr(os, "fdatasync", once)
            assert leader.lead()
        assert len(synced) == 2
        assert leader.times() == site.reader().times() == list(range(10))[::-1]
        assert not leader.pending()[0]

        emit(site, 10, 5)
        with monkeypatch.context() as broken:
            broken.setattr(os, "fdatasync", failing(errno.EIO))
            assert not leader.lead()
            assert not leader.lead()
        assert len(leader.pending()[0]) == 1
        assert site.problems == [("S105", f"records stay in the live files: {site.path}: Input/output error")]
        assert site.reader().times() == list(range(15))[::-1]
        assert leader.lead()
        assert site.reader().times() == list(range(15))[::-1]
        assert len(site.chunks) == 1


class TestB1NoSpaceForRecords:
    @pytest.mark.parametrize("step", ["pwrite", "fstatvfs"])
    def test_stay_in_the_segments(self, site: Site, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        On a full disk records stay in the segments, which is said once; a second after there is space again all is kept.
        """
        leader = site.reader()
        emit(site, 0, 5)
        leader.lead()
        emit(site, 5, 50, message="x" * 2_000)

        def full(fd: int) -> Any:
            return os.statvfs_result((4096, 4096, 9, 1, 1, 9, 9, 9, 0, 255))

        with monkeypatch.context() as broken:
            broken.setattr(os, step, full if step == "fstatvfs" else failing(errno.ENOSPC))
            for _ in range(5):
                assert not leader.lead(flush=False)
                site.clock.advance(3)
        assert site.problems == [("S102", f"records stay in the live files: {site.path}: No space left on device")]
        assert site.reader().times() == list(range(55))[::-1]
        assert leader.lead(flush=False)
        assert not leader.pending()[0]
        assert site.reader().times() == list(range(55))[::-1]


def beside_a_chunk(site: Site, suffix: str, content: Callable[[bytes], bytes]) -> tuple[str, bytes, list[str]]:
    """
    Put a file among the chunks with what *content* makes of a whole one's header, and let two leaders come and read.

    The rest is there all the same; return its name, what is in it, and the codes of what was said: once, however often it was met.
    """
    leader = site.reader()
    emit(site, 0, 5)
    leader.lead()
    wrong = content((site.path / "chunks" / site.chunks[0]).read_bytes()[:32])
    name = "0000000000000001-00000000" + suffix
    (site.path / "chunks" / name).write_bytes(wrong)

    for _ in range(3):
        assert leader.times() == [4, 3, 2, 1, 0]
    said = [code for code, _ in site.problems]
    successor = site.reader()
    successor.records = leader.records
    emit(site, 5, 1)
    assert successor.lead()
    assert successor.times() == [5, 4, 3, 2, 1, 0]
    return name, wrong, said


def assert_in_quarantine(site: Site, name: str, content: bytes) -> None:
    (aside,) = names_in(site.path / "quarantine")
    assert aside.startswith(name + ".2027")
    assert (site.path / "quarantine" / aside).read_bytes() == content
    assert name not in site.chunks


@pytest.mark.parametrize("suffix", [".chunk", ".open"])
class TestB13BadHeaderOfChunk:
    def test_is_set_aside(self, site: Site, suffix: str) -> None:
        """
        A chunk whose magic is overwritten is said once and set aside by the next leader, never deleted.
        """
        name, wrong, said = beside_a_chunk(site, suffix, lambda head: b"\0\0\0\0" + head[4:])

        assert said == ["S113"]
        assert_in_quarantine(site, name, wrong)


@pytest.mark.parametrize("suffix", [".chunk", ".open"])
class TestB16NoChunk:
    @pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0" + bytes(5_000)], ids=["empty", "picture"])
    def test_is_set_aside(self, site: Site, suffix: str, content: bytes) -> None:
        """
        What is no chunk at all is said once and set aside by the next leader, never deleted.
        """
        name, wrong, said = beside_a_chunk(site, suffix, lambda _: content)

        assert said == ["S113"]
        assert_in_quarantine(site, name, wrong)


@pytest.mark.parametrize("suffix", [".chunk", ".open"])
class TestB25NewerChunk:
    def test_stays(self, site: Site, suffix: str) -> None:
        """
        A chunk of a newer version is said once and left as it is.
        """

        def newer(head: bytes) -> bytes:
            head = head[:8] + (int.from_bytes(head[8:12], "little") + 1).to_bytes(4, "little") + head[12:28]
            return head + crc32(head).to_bytes(4, "little")

        name, wrong, said = beside_a_chunk(site, suffix, newer)

        assert said == ["S112"]
        assert (site.path / "chunks" / name).read_bytes() == wrong
        assert not names_in(site.path / "quarantine")


class TestB15DamagedFrame:
    def test_is_said_once(self, site: Site) -> None:
        """
        A damaged frame costs its records, which is said once, whichever chunk is asked how often; the rest is there.
        """
        leader = site.reader()
        for first in (0, 5, 10):
            emit(site, first, 5)
            leader.lead()
        site.clock.advance(3_700)
        leader.lead()
        (sealed,) = [site.path / "chunks" / name for name in site.chunks if name.endswith(SEALED_SUFFIX)]
        with opened(sealed.parent) as directory:
            at = ChunkReader(directory, sealed.name).frames[1].at
        content = bytearray(sealed.read_bytes())
        content[at + 60] ^= 1
        sealed.write_bytes(content)

        late = site.reader()
        for _ in range(3):
            assert late.times() == [14, 13, 12, 11, 10, 4, 3, 2, 1, 0]
        assert [code for code, _ in site.problems] == ["S113"]
        assert "5 records" in site.problems[0][1]


class TestB28ChunkRemoved:
    def test_between_two_pages(self, site: Site) -> None:
        """
        Chunks that retention removes, between pages too, are gone from the answer, and nothing else is.
        """
        leader = site.reader()
        for first in (0, 5, 10):
            emit(site, first, 5)
            leader.lead()
            site.clock.advance(3_700)
            leader.lead()
        late = site.reader()
        page = late.page(limit=7)
        (site.path / "chunks" / site.chunks[0]).unlink()

        assert [one.frame.time_ns for one in page] == [14, 13, 12, 11, 10, 9, 8]
        assert late.times(before=page[-1].cursor) == [7, 6, 5]
        assert not site.problems


class TestB20Statistics:
    def test_are_those_of_the_files(self, site: Site) -> None:
        """
        Records, bytes and the oldest time are what the files have, at every moment.
        """
        leader = site.reader()
        assert leader.records.statistics() == (0, 0, None)
        for first in (100, 5, 300):
            emit(site, first, 5)
            leader.lead()
            site.clock.advance(3_700)
            leader.lead()
        (site.path / "chunks" / ".left.17").write_bytes(bytes(1_000))

        found = site.reader().records.statistics()

        assert found == (15, sum((site.path / "chunks" / name).stat().st_size for name in site.chunks), 5)


class TestB11Replaced:
    def test_leader_and_readers_follow(self, site: Site) -> None:
        """
        When somebody removes the chunks, leader and readers go on in the new directory, with what has not been imported.
        """
        leader, other = site.reader(), site.reader()
        emit(site, 0, 5)
        leader.lead()
        assert other.times() == [4, 3, 2, 1, 0]
        (site.path / "chunks").rename(site.path / "moved")
        emit(site, 5, 2)

        assert other.times() == [6, 5]
        assert leader.lead()
        assert leader.times() == other.times() == [6, 5]
        assert len(names_in(site.path / "moved")) == 1


class TestManyChunks:
    def test_few_are_held_open(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Of many sealed chunks only so many are open, and all are found.
        """
        monkeypatch.setattr(records_module, "MAX_READERS", 3)
        leader = site.reader()
        for first in range(12):
            emit(site, first, 1)
            leader.lead()
            site.clock.advance(3_700)
            leader.lead()
        late = site.reader()
        before = len(names_in(Path("/proc/self/fd")))

        assert late.times() == list(range(12))[::-1]
        assert late.times(wanted=Wanted(since_ns=2, until_ns=4)) == [3, 2]
        assert len(names_in(Path("/proc/self/fd"))) - before <= 5  # the directory, the one that is open, and three

    @pytest.mark.parametrize("is_known", [True, False])
    @pytest.mark.parametrize(
        ("number", "codes"), [(errno.EMFILE, ["S107"]), (errno.EIO, ["S105"]), (errno.ENOENT, []), (None, ["S113"])]
    )
    def test_one_cannot_be_opened(
        self, site: Site, monkeypatch: pytest.MonkeyPatch, number: int | None, codes: list[str], is_known: bool
    ) -> None:
        """
        A chunk that cannot be opened, at first or again, is left out of the answer, which is said once; then it is there again.
        """
        monkeypatch.setattr(records_module, "MAX_READERS", 1)
        leader = site.reader()
        for first in range(3):
            emit(site, first, 1)
            leader.lead()
            site.clock.advance(3_700)
            leader.lead()
        late = site.reader()
        if is_known:
            assert late.times() == [2, 1, 0]
        spoiled = site.chunks[1]
        refused: list[str] = []

        def refuse(directory: int, file: str, *_: object) -> ChunkReader:
            if file != spoiled:
                return ChunkReader(directory, file)
            refused.append(file)
            if number is None:
                raise StoreFileError(file, "is spoiled")
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as broken:
            broken.setattr(records_module, "ChunkReader", refuse)
            for _ in range(3):
                assert late.times() == [2, 0]

        assert refused
        assert [code for code, _ in site.problems] == codes
        if number is not None:
            assert late.times() == [2, 1, 0]

    @pytest.mark.parametrize(
        "asked", [EVERYTHING, Wanted(operation="nobody"), Wanted(correlation_id="nobody")], ids=str
    )
    def test_time_is_up(self, site: Site, asked: Wanted, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        When the time of the question is over, reading ends in the midst of the chunks; the next question has its answer.
        """
        leader = site.reader()
        for first in range(6):
            emit(site, 2 * first, 2)
            leader.lead()
            site.clock.advance(3_700)
            leader.lead()
        opened: list[str] = []
        reader_of = RecordReader.reader_of

        def counted(reader: RecordReader, file: str) -> ChunkReader | None:
            opened.append(file)
            return reader_of(reader, file)

        late = site.reader()
        monkeypatch.setattr(RecordReader, "reader_of", counted)
        late.page(asked)
        whole = len(opened)
        opened.clear()

        def over(reader: RecordReader, file: str) -> ChunkReader | None:
            deadlines._running.until = 0.0  # what `deadline` gives back
            return counted(reader, file)

        monkeypatch.setattr(RecordReader, "reader_of", over)
        with pytest.raises(QueryTimeoutError), deadlines.deadline(30):
            late.page(asked)

        assert len(opened) == 1 < whole
        monkeypatch.setattr(RecordReader, "reader_of", reader_of)
        assert late.times() == list(range(12))[::-1]


class TestThreads:
    def test_many_ask_while_one_leads(self, site: Site, switching_often: None) -> None:
        """
        Threads that share a reader each find every record once, while the leader imports and seals.
        """
        leader = site.reader()
        site.clock.advance(1)
        made = Event()
        faults: list[object] = []
        lock = Lock()

        def ask() -> None:
            while not made.is_set():
                with lock:
                    count, (runs, _) = leader.made, leader.pending()
                found = leader.records.records(EVERYTHING, limit=10_000, waiting=Waiting(runs))
                if sorted(one.frame.time_ns for one in found) != list(range(max(count, len(found)))):
                    faults.append((count, len(found)))

        leader.made = 0
        threads = [Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for number in range(60):
                with lock:
                    emit(site, number, 1)
                    leader.made = number + 1
                    runs, marks = leader.pending()
                assert leader.writer.keep(runs, flush=True)
                with lock:
                    leader.segments[0].mark_imported(marks=marks[0])
                if number % 7 == 0:
                    site.clock.advance(3_700)
        finally:
            made.set()
            for thread in threads:
                thread.join()

        assert not faults
        assert not site.problems
