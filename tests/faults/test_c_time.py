"""
FAULTS.md §2.C: clocks that jump, differ or talk nonsense cost no record and make no duration negative.

The wall clock is moved under a running process by a preloaded library (`shim.c`); the monotonic one is left alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rfs.monitoring.monitor import Monitor, use_monitor
from tests.faults.hosts import burst, host, look
from tests.faults.processes import Process, environment, eventually
from tests.faults.tools import Shim, build_shim, needs

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
    process.ask(do="look")  # collected before the clock moves
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
        assert seen["newest_first"] == [4, 3, 2, 1]
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


class TestC1C2TheStepIsTold:
    @pytest.mark.parametrize("seconds", [-HOUR, TEN_YEARS])
    def test_in_a_gauge(self, shim: Shim, tmp_path: Path, seconds: float) -> None:
        """
        `rfs_clock_step_seconds` is 0 as long as the wall clock goes with the monotonic one, and then the step.
        """
        with host(tmp_path / "rfs", more=shim.variables) as process:
            eventually(lambda: look(process)["gauges"].get("rfs_clock_step_seconds") == 0)

            shim.move_clock(seconds)

            eventually(lambda: look(process)["gauges"]["rfs_clock_step_seconds"] != 0)
            assert look(process)["gauges"]["rfs_clock_step_seconds"] == pytest.approx(seconds, abs=30)
            assert shim.asked


class TestC3ClocksThatDiffer:
    def test_eight_workers_up_to_ten_seconds_apart(self, library: Path, tmp_path: Path) -> None:
        """
        Workers whose clocks differ by up to 10 s see the same records in the same order, and the same sums.

        Each record has its own worker's time, and its place is by that; those of one worker are in the order in which they came.
        """
        skews = [-5, -4, -2, -1, 1, 2, 4, 5]
        shims = [Shim(library, tmp_path / f"control{worker}") for worker in range(len(skews))]
        for shim, skew in zip(shims, skews, strict=True):
            shim.move_clock(skew)
        with ExitStack() as stack:
            workers = [stack.enter_context(host(tmp_path / "rfs", more=shim.variables)) for shim in shims]
            came: list[int] = []
            truly: dict[int, tuple[float, float]] = {}  # from when to when a worker was recording
            for worker in (3, 6, 0, 7, 2, 5, 1, 4):  # the order of no clock
                began = time.time()
                burst(workers[worker], 100 * worker, 100)
                truly[worker] = began, time.time()
                came += range(100 * worker, 100 * worker + 100)
                one, *others = (process.ask(do="order", id="b") for process in workers)
                assert all(other == one for other in others)
                assert sorted(one) == sorted(came)
                assert [number for number in one if number // 100 == worker] == came[-100:]

            for process in workers:
                seen = look(process)
                assert seen["total"] == len(came)
                assert sorted(seen["numbers"]) == sorted(came)
                for number, said in zip(seen["numbers"], seen["times"], strict=True):
                    began, ended = truly[number // 100]
                    assert began <= said - skews[number // 100] <= ended
        assert all(shim.asked for shim in shims)


class TestC5AfterAReboot:
    def test_the_dead_of_the_last_boot_count_once(self, tmp_path: Path) -> None:
        """
        Simulated by another boot id in the second process' own mount namespace: sums go on, nothing counts twice or is negative.
        """
        needs("unshare", "mount", root=True)
        identity = tmp_path / "boot_id"
        identity.write_text("11111111-2222-3333-4444-555555555555\n")
        mount = f'mount --bind {identity} /proc/sys/kernel/random/boot_id && exec "$0" "$@"'
        launch = ["unshare", "-m", "--propagation", "private", "sh", "-c", mount, sys.executable, "-m"]
        with host(tmp_path / "rfs") as first:
            burst(first, 0, 100)
        with host(tmp_path / "rfs", launch=launch) as second:
            burst(second, 100, 100)
            seen = look(second)

            assert seen["total"] == 200
            assert set(range(100, 200)) <= set(seen["numbers"])
            headers = b"".join(
                file.read_bytes()[:4096] for file in (tmp_path / "rfs" / "live").glob(f"{second.pid}-*.alive")
            )
            assert identity.read_bytes().strip() in headers


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
        Whatever the wall clock says, recording and measuring do not raise, and every record is there, with the time it came at.
        """
        began = int(time.time())  # a record's time has microseconds, this one nanoseconds
        clock = NonsenseClock(time.time_ns())
        monitor = Monitor(service_name="faults", clock=clock)
        with use_monitor(monitor):
            monitor.log(20, "before")
            clock.now = now
            monitor.log(20, "during")
            monitor.counter("nonsense_total").inc()
            clock.now = time.time_ns()
            monitor.log(20, "after")

            records = monitor.query.records()

        assert sorted(record.message for record in records) == ["after", "before", "during"]
        assert all(began <= record.timestamp.timestamp() <= time.time() for record in records)
        books = monitor.query.books()["records"]
        assert books["produced"] == books["delivered"] == 3
