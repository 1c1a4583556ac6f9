"""
FAULTS.md §2.C: clocks that jump, differ or talk nonsense cost no record and make no duration negative.

The wall clock is moved under a running process by a preloaded library (`shim.c`); the monotonic one is left alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from rfs.monitoring.monitor import Monitor, use_monitor
from tests.faults.processes import Process, environment
from tests.faults.tools import Shim, build_shim

pytestmark = pytest.mark.fault

HOUR = 3_600.0
TEN_YEARS = 10 * 365 * 86_400.0


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def shim(library: Path, tmp_path: Path) -> Shim:
    return Shim(library, tmp_path / "control")


@pytest.fixture
def process(shim: Shim) -> Iterator[Process]:
    """A program whose wall clock can be moved."""
    with Process("clock", env=environment(RFS_DIR=":memory:", **shim.variables)) as running:
        yield running


def jump(process: Process, shim: Shim, seconds: float) -> None:
    """Work, move the clock by *seconds* from the true time, work again; the process' own clocks are the proof."""
    before = process.ask(do="work", numbers=[1, 2])
    shim.move_clock(seconds)
    after = process.ask(do="work", numbers=[3, 4])
    assert after["wall"] - before["wall"] == pytest.approx(seconds, abs=30)
    assert 0 < after["monotonic"] - before["monotonic"] < 30
    assert shim.asked > 0


class TestC1AnHourBack:
    def test_order_durations_and_sums(self, process: Process, shim: Shim) -> None:
        """
        After a step of an hour back, records keep the order in which they came, no duration is negative, all are counted.
        """
        jump(process, shim, -HOUR)

        seen = process.ask(do="look")

        assert len(seen["durations_ms"]) == 4
        assert all(1 <= duration < 10_000 for duration in seen["durations_ms"])
        assert all(newer > older for newer, older in pairwise(seen["newest_first"]))
        assert seen["books"]["produced"] == seen["books"]["delivered"]


class TestC2TenYearsAhead:
    def test_nothing_is_wiped(self, process: Process, shim: Shim) -> None:
        """
        Ten years ahead and back again, every record is still there and every operation counted.
        """
        jump(process, shim, TEN_YEARS)
        process.ask(do="look")  # collected while the clock is wrong
        shim.move_clock(0)
        process.ask(do="work", numbers=[5])

        seen = process.ask(do="look")

        assert len(seen["durations_ms"]) == 5
        assert max(seen["wall"]) - min(seen["wall"]) > TEN_YEARS - HOUR  # the step was recorded as it was
        assert all(0 <= duration < 10_000 for duration in seen["durations_ms"])
        assert "evicted" not in seen["books"]


class NonsenseClock:
    """A wall clock that returns, or raises, what it was given."""

    def __init__(self, now: object) -> None:
        self.now = now

    def time_ns(self) -> int:
        if isinstance(self.now, Exception):
            raise self.now
        return self.now  # type: ignore[return-value] # that is the point

    def monotonic(self) -> float:
        return time.monotonic()


class TestC4NonsenseTimes:
    @pytest.mark.parametrize(
        "now",
        [
            -62_167_219_200 * 10**9,  # year 0
            253_402_300_800 * 10**9,  # year 10000
            1 << 70,
            float("nan"),
            "yesterday",
            None,
            OSError("no clock"),
        ],
        ids=["year 0", "year 10000", "too large", "NaN", "text", "None", "raises"],
    )
    def test_never_reaches_the_host(self, now: object) -> None:
        """
        Whatever the wall clock says, recording and measuring do not raise, and what is recorded afterwards is there.
        """
        clock = NonsenseClock(time.time_ns())
        monitor = Monitor(service_name="faults", clock=clock)
        with use_monitor(monitor):
            monitor.log(20, "before")
            clock.now = now
            monitor.log(20, "during")
            monitor.counter("nonsense_total").inc()
            clock.now = time.time_ns()
            monitor.log(20, "after")

            messages = [record.message for record in monitor.query.records()]

        assert {"before", "after"} <= set(messages)
        books = monitor.query.books()["records"]
        dropped = sum(count for name, count in books.items() if name.startswith("dropped_"))
        assert books["produced"] == books["delivered"] + dropped
