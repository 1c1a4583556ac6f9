"""What the tests of the web layer share: a Monitor of their own, with a clock that is moved by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rfs.monitoring.monitor import Monitor, use_monitor


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_seconds = 1_800_000_000.0

    def time_ns(self) -> int:
        return round(self.now_seconds * 1e9)

    def monotonic(self) -> float:
        return self.now_seconds

    def advance(self, seconds: float) -> None:
        self.now_seconds += seconds


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(autouse=True)
def monitor(clock: ManualClock) -> Iterator[Monitor]:
    """The default Monitor of this test."""
    made = Monitor(service_name="test", clock=clock)
    with use_monitor(made):
        yield made
    made.stop()
