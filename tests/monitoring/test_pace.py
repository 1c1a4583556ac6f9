"""Pace: whoever goes over all series or records lets the other threads have the interpreter each millisecond."""

from __future__ import annotations

from itertools import count

import pytest

from rfs.monitoring._capture import pace
from rfs.monitoring._capture.pace import pieces
from rfs.monitoring.monitor import Monitor


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
