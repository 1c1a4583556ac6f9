"""The hand-over of history: a new process answers about the past as the others do."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfs.errors import LiveFileError
from rfs.monitoring import counter, histogram, warning
from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.readings import Octave, SketchReading
from rfs.monitoring._capture.segments import Frame
from rfs.monitoring._capture.sketch import Sketch
from rfs.monitoring._history import pack_history, unpack_history
from rfs.monitoring._store import EVERYTHING, Wanted, Window
from rfs.monitoring._store.memory import MemoryStore
from rfs.monitoring._totals import Totals
from rfs.monitoring.monitor import Monitor, use_monitor
from tests.faults.processes import Process, eventually, names_in
from tests.monitoring.conftest import ManualClock
from tests.monitoring.test_store_contract import batch, increase, measured

NOW = 1_800_000_000
ORDERS = SeriesKey("orders_total", (("status", "created"),))
OPEN = SeriesKey("connections", ())
WAITS = SeriesKey("wait_seconds", ())
NOTHING = Totals({}, {}, {}, {}, {}, [])


def frame(number: int, level: int = 20) -> Frame:
    return Frame(NOW * 10**9 + number, level, 0, f"id{number % 3}", "op", f"{number}".encode())


def sketch(bucket: int) -> Sketch:
    return Sketch(count=1, sum=2.0, min=1.0, max=3.0, positive={bucket: 1})


def taken_over(store: MemoryStore, into: MemoryStore | None = None) -> MemoryStore:
    """A store that has gone on from *store*, by way of a file's bytes."""
    new = MemoryStore() if into is None else into
    snapshot, _ = unpack_history(b"".join(pack_history(store.snapshot(), NOTHING)), "a history")
    new.take_over(snapshot)
    return new


def answers(store: MemoryStore, start: int, end: int) -> list[Any]:
    return [
        increase(store, ORDERS, start, end),
        measured(store, WAITS, start, end),
        store.points([ORDERS, OPEN, WAITS], start, end, 7),
        [record.frame for record in store.records(EVERYTHING, limit=1000)],
        [record.frame for record in store.records(Wanted(min_level=30), limit=1000)],
        [record.frame for record in store.records(Wanted(correlation_id="id1"), limit=1000)],
        store.series("orders_total"),
    ]


class TestStore:
    @settings(max_examples=60)
    @given(
        st.lists(
            st.tuples(st.integers(0, 9_000), st.integers(0, 5), st.integers(-3, 3), st.integers(0, 3)), max_size=150
        ),
        st.integers(0, 9_000),
        st.integers(1, 9_000),
    )
    def test_answers_are_equal(self, seconds: list[tuple[int, int, int, int]], start: int, length: int) -> None:
        """
        Whatever windows and records a store has been given, one that takes it over answers alike, also after the next window.
        """
        store = MemoryStore(max_points=300, max_sketch_points=100)
        for number, (second, orders, connections, waits) in enumerate(sorted(seconds)):
            window = Window(NOW + second, {ORDERS: orders}, {OPEN: connections}, {WAITS: sketch(waits)})
            store.append(batch("p", number, [frame(number, 10 * waits)], window))

        new = taken_over(store, MemoryStore(max_points=300, max_sketch_points=100))
        bounds = NOW + start, NOW + start + length
        assert answers(new, *bounds) == answers(store, *bounds)

        for one in (store, new):
            one.append(batch("q", 0, [frame(9_999)], Window(NOW + 9_001, {ORDERS: 1}, {}, {WAITS: sketch(1)})))
        assert answers(new, *bounds) == answers(store, *bounds)
        assert new.statistics() == store.statistics()

    def test_the_giver_goes_on_by_itself(self) -> None:
        """
        A snapshot is of its instant: what the giver is given later does not come into it.
        """
        store = MemoryStore()
        store.append(batch("p", 0, [frame(1)], Window(NOW, {ORDERS: 1}, {}, {WAITS: sketch(1)})))
        snapshot = store.snapshot()
        store.append(batch("p", 1, [frame(2)], Window(NOW, {ORDERS: 1}, {}, {WAITS: sketch(2)})))
        store.append(batch("p", 2, [], Window(NOW + 1, {ORDERS: 1}, {}, {WAITS: sketch(2)})))

        new = MemoryStore()
        new.take_over(snapshot)

        assert increase(new, ORDERS, NOW, NOW + 9) == 1
        assert (measured(new, WAITS, NOW, NOW + 9) or Sketch()).count == 1
        assert [one.frame for one in new.records(EVERYTHING, limit=9)] == [frame(1)]

    def test_records_that_both_have_are_there_once(self) -> None:
        """
        The new store's records that the other has, too, are not doubled; those it alone has come last; equal ones count.
        """
        store, new = MemoryStore(), MemoryStore()
        twin = frame(3)
        store.append(batch("p", 0, [frame(1), frame(2), twin, twin]))
        new.append(batch("n", 0, [frame(2), twin, twin, twin, frame(4)]))
        seen = int(new.records(EVERYTHING, limit=1)[0].cursor)

        taken_over(store, new)

        kept = new.records(EVERYTHING, limit=99)
        assert [one.frame for one in reversed(kept)] == [frame(1), frame(2), twin, twin, twin, frame(4)]
        assert min(int(one.cursor) for one in kept) > seen

    def test_a_smaller_store_keeps_its_bounds(self) -> None:
        """
        What is taken over is thinned out and evicted as if it had been appended.
        """
        store = MemoryStore()
        for number in range(400):
            store.append(batch("p", number, [frame(number)], Window(NOW + number, {ORDERS: 1})))

        new = taken_over(store, MemoryStore(max_points=100, max_records=64))

        assert new.statistics()["points"] <= 100
        assert new.statistics()["records"] <= 64
        reach = int(new.statistics()["horizon_seconds"])
        assert increase(new, ORDERS, NOW + 400 - min(reach, 50), NOW + 400) == min(reach, 50)


class TestFile:
    def _content(self) -> bytes:
        store = MemoryStore()
        store.append(
            batch("p", 0, [frame(1), frame(2)], Window(NOW, {ORDERS: 2}, {OPEN: 1}, {WAITS: sketch(4)})),
        )
        reading = SketchReading(1.0, 2.0, 0.0, 2.0, 2.0, {1: Octave.of([0.0] * 63 + [1.0])}, {})
        totals = Totals({}, {ORDERS: 2.0}, {}, {WAITS: reading}, {}, [])
        return b"".join(pack_history(store.snapshot(), totals))

    def test_totals_come_along(self) -> None:
        """
        Counters and histograms come out as they went in: they are what the next window is counted from.
        """
        _, totals = unpack_history(self._content(), "a history")

        assert totals.counters == {ORDERS: 2.0}
        assert list(totals.sketches[WAITS].positive[1].buckets) == [0.0] * 63 + [1.0]

    def test_cut_anywhere(self) -> None:
        """
        A file that ends anywhere is refused by name, or is whole up to there; nothing else is raised.
        """
        content = self._content()
        refused: list[str] = []
        for length in range(len(content)):
            try:
                unpack_history(content[:length], "a history")
            except LiveFileError as error:
                refused.append(str(error))

        assert len(refused) > len(content) / 2
        assert all("a history" in error for error in refused)

    def test_every_byte_damaged(self) -> None:
        """
        Whatever byte is damaged, it is refused by name or read; nothing else is raised.
        """
        content = self._content()
        refused = 0
        for at in range(len(content)):
            damaged = bytearray(content)
            damaged[at] ^= 0xFF
            try:
                unpack_history(bytes(damaged), "a history")
            except LiveFileError:
                refused += 1

        assert refused > len(content) / 4

    def test_of_another_version(self) -> None:
        """
        Another version is refused by name and number.
        """
        content = self._content().replace(b"\xa7version\x01", b"\xa7version\x02", 1)

        with pytest.raises(LiveFileError, match=r"a history.*version 2"):
            unpack_history(content, "a history")


@pytest.mark.fault
class TestProcesses:
    def test_a_new_process_knows_the_past(self, tmp_path: Path) -> None:
        """
        What happened before a process was there, it tells as the one does that was there: ranges, single moments, records.
        """
        clock = ManualClock(time.time() - 150)
        old = Monitor(service_name="bursts", directory=tmp_path, clock=clock)
        with use_monitor(old):
            for _ in range(5):
                counter("before_total").inc(2)
                histogram("size").observe(7.0)
                warning("it happened")
                old.query.books()
                clock.advance(30)
        old.start()
        try:
            eventually(lambda: old.leadership.is_self)
            with Process("writer", tmp_path, "WITNESS") as new:
                assert new.answer() == "ready"
                told = eventually(lambda: _knows(new, "distribution"), says=lambda: new.ask(do="past"))
                new.ask(do="burst", id="now", threads=1, count=3)
                assert new.ask(do="past") == told
                assert new.ask(do="total", name="burst_total") == 3
            eventually(lambda: old.query.increase("burst_total") == 3)
        finally:
            old.stop()

        assert told == {"increase": 10, "moments": [2, 2, 2, 2, 2], "distribution": 5, "records": 5}
        assert not [name for name in names_in(tmp_path / "live") if name.endswith((".joining", ".history"))]

    def test_the_new_one_of_a_killed_leader(self, tmp_path: Path) -> None:
        """
        The leader is killed and replaced at once: another that knows the past leads, and the new process learns it from there.
        """
        with ExitStack() as stack:
            clock = ManualClock(time.time() - 30)
            leader = stack.enter_context(Process("writer", tmp_path, "WITNESS"))
            assert leader.answer() == "ready"
            eventually(lambda: leader.ask(do="leadership")["is_self"])
            witness = Monitor(service_name="bursts", directory=tmp_path, clock=clock)
            with use_monitor(witness):
                counter("before_total").inc(2)
                witness.query.books()
            clock.advance(30)
            stack.callback(witness.stop)
            witness.start()
            eventually(lambda: witness.leadership.pid == leader.pid)

            leader.kill()
            new = stack.enter_context(Process("writer", tmp_path, "WITNESS"))
            assert new.answer() == "ready"
            eventually(lambda: witness.leadership.is_self)
            told = eventually(lambda: _knows(new, "increase"), says=lambda: new.ask(do="past"))

        assert told["increase"] == 2


def _knows(process: Process, first: str) -> Any:
    told = process.ask(do="past")
    return told if told[first] else None  # what is asked after it is known, too
