"""Records of a local store: what processes record, a leader imports, and any process reads, at any moment and after any kill."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from rfs.errors import CursorError
from rfs.monitoring._capture.segments import Frame, Mark, Run, SegmentReader, Segments
from rfs.monitoring._store import EVERYTHING, StoredRecord, Wanted
from rfs.monitoring._store.records import RecordReader, RecordWriter
from tests.faults.processes import names_in, size
from tests.monitoring.chunks import record
from tests.monitoring.conftest import ManualClock

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

    def __init__(self, path: Path, clock: ManualClock, processes: int = 1) -> None:
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
        self.records = RecordReader(site.path, monotonic=site.clock.monotonic, on_problem=site.told)
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
        answer = self.records.records(wanted, limit=limit, before=before, pending=runs)
        assert answer.unread_ns is None
        return answer.records

    def times(self, **asked: Any) -> list[int]:
        return [one.frame.time_ns for one in self.page(**asked)]

    def close(self) -> None:
        self.writer.close()
        self.records.close()


@pytest.fixture
def site(tmp_path: Path, clock: ManualClock) -> Site:
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

    def test_every_process_answers_alike(self, tmp_path: Path, clock: ManualClock) -> None:
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
    @settings(max_examples=size(whole=2_000, small=150), suppress_health_check=[HealthCheck.function_scoped_fixture])
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
        site = Site(tmp_path_factory.mktemp("s"), ManualClock(), processes=2)
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
        self.path = Path(tempfile.mkdtemp())
        self.clock = ManualClock()
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


TestStore = Store.TestCase
TestStore.settings = settings(
    max_examples=size(whole=2_000, small=60),
    stateful_step_count=25,
    suppress_health_check=list(HealthCheck),
    deadline=None,
)
