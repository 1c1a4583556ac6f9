"""Pace: whoever goes over all series or records lets the other threads have the interpreter each millisecond."""

from __future__ import annotations

from itertools import count

import pytest

from rfs.monitoring._capture import pace, segments
from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.pace import pieces
from rfs.monitoring._capture.segments import Frame, SegmentReader, Segments
from rfs.monitoring._capture.sketch import Sketch
from rfs.monitoring._store import Window, memory
from rfs.monitoring._store.memory import MemoryStore
from rfs.monitoring.monitor import Monitor
from tests.monitoring.test_store_contract import batch


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, by a clock that goes 0.6 ms at each look."""
    made: list[float] = []
    looks = count(1)
    monkeypatch.setattr(pace, "sleep", made.append)
    monkeypatch.setattr(pace, "monotonic", lambda: next(looks) * 0.0006)
    monkeypatch.setattr(pace, "_paused_at", 0.0)
    return made


class TestPieces:
    @pytest.mark.parametrize("length", [0, 1, 49, 50, 51, 1_000])
    def test_all_in_order(self, length: int) -> None:
        """
        Put together, the pieces are what was given.
        """
        assert [item for piece in pieces(range(length)) for item in piece] == list(range(length))

    def test_pauses_by_time(self, pauses: list[float]) -> None:
        """
        Pieces of 0.6 ms: a pause after every second one, each of more than no time, which would hand nothing over.
        """
        assert len(list(pieces(range(1_000)))) == 20

        assert len(pauses) in (9, 10)
        assert min(pauses) > 0

    def test_unpaced(self, pauses: list[float]) -> None:
        """
        For a test's clock there is no pause, and afterwards there are as before.
        """
        with pace.unpaced():
            assert len(list(pieces(range(1_000)))) == 20
        assert not pauses

        list(pieces(range(1_000)))
        assert pauses


class TestCollecting:
    @pytest.mark.parametrize("kind", ["counters", "histograms", "records"])
    def test_is_interrupted(self, kind: str, pauses: list[float]) -> None:
        """
        Collecting a thousand series or records that are new pauses several times, so that no event loop waits for its end.
        """
        monitor = Monitor(storm_limit=1e12)
        for number in range(1_000):
            if kind == "counters":
                monitor.counter("seen_total").inc(1, number=number)
            elif kind == "histograms":
                monitor.histogram("wait_seconds").observe(1.5, number=number)
            else:
                monitor.log(20, f"record {number}")

        monitor.query.books()

        assert len(pauses) >= 10
        assert monitor.query.books()["records"]["in_flight"] == 0


class TestOneStep:
    @pytest.fixture
    def breaths(self, monkeypatch: pytest.MonkeyPatch) -> list[None]:
        """One for each time that the reader or the store itself, not `pieces`, has asked whether to pause."""
        taken: list[None] = []
        for module in (segments, memory):
            monkeypatch.setattr(module, "breathe", lambda: taken.append(None))
        return taken

    def test_a_block_is_not_read_in_one_go(self, breaths: list[None]) -> None:
        """
        A block holds some milliseconds' worth of records: a thousand are read a hundred at a time, and all of them.
        """
        kept = Segments.in_memory(block_count=1)
        for number in range(1_000):
            kept.append(number, 20, 0, b"id", b"operation", b"")

        frames = SegmentReader(kept.memory, name="test").read()

        assert [frame.time_ns for frame in frames] == list(range(1_000))
        assert len(breaths) >= 10

    def test_many_are_not_evicted_in_one_go(self, breaths: list[None]) -> None:
        """
        Ten times what a store may keep comes at once: the rest is evicted a thousand at a time.
        """
        store = MemoryStore(max_records=1_000)

        store.append(batch("process", 0, [Frame(number, 20, 0, "", "", b"") for number in range(10_000)]))

        assert store.statistics()["evicted_records"] >= 9_000
        assert len(breaths) >= 9

    @pytest.mark.parametrize("kind", ["counters", "sketches"])
    def test_series_are_not_thinned_out_in_one_go(self, kind: str, breaths: list[None]) -> None:
        """
        Twenty series that have as many points as they may between two compactions: a breath after each of them.
        """
        store = MemoryStore()
        keys = [SeriesKey(f"metric_{number}", ()) for number in range(20)]

        for second in range(64):
            window = Window(second)
            if kind == "counters":
                window.counters.update(dict.fromkeys(keys, 1.0))
            else:
                window.sketches.update({key: Sketch() for key in keys})
            store.append(batch("process", second, [], window))

        assert len(breaths) >= 20
