"""What the tests of recording share: a clock that is moved by hand, counted ids, an isolated Monitor."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from rfs.monitoring.monitor import Monitor, use_monitor


class ManualClock:
    """A clock that stands still until it is moved; wall clock and monotonic clock move together."""

    def __init__(self, start_seconds: float = 1_800_000_000.0) -> None:
        self.now_ns = int(start_seconds * 1e9)

    def time_ns(self) -> int:
        return self.now_ns

    def monotonic(self) -> float:
        return self.now_ns / 1e9

    def advance(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)


class CountedIds:
    """Ids that count: 1, 2, 3, …"""

    def __init__(self) -> None:
        self.made = 0

    def trace_id(self) -> str:
        self.made += 1
        return f"{self.made:032x}"

    def span_id(self) -> str:
        self.made += 1
        return f"{self.made:016x}"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def monitor(clock: ManualClock) -> Iterator[Monitor]:
    """The default Monitor of this test: its own registry and store, a manual clock, counted ids."""
    made = Monitor(service_name="test", clock=clock, ids=CountedIds())
    with use_monitor(made):
        yield made
    made.stop()


@pytest.fixture
def switching_often() -> Iterator[None]:
    """Threads are switched a thousand times as often as usual, so that what is not atomic shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)
