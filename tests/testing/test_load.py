"""A load comes when it comes, whatever became of the requests before; and how it reads that it was not borne."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count, pairwise
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfs.core.result import Failure, Result, Success
from rfs.monitoring._capture.sketch import Sketch
from rfs.testing.load import LoadReport, arrivals, assert_load, generate_load, run_at_once
from tests.testing.conftest import Virtual


def hanging(begins: float, ends: float) -> Callable[[], Awaitable[None]]:
    """A service that answers within 1 ms, but hangs for a while, in seconds after its first call."""
    first: float | None = None

    async def serve() -> None:
        nonlocal first
        time = asyncio.get_running_loop().time()
        first = time if first is None else first
        now = time - first
        await asyncio.sleep(ends - now if begins <= now < ends else 0.001)

    return serve


class TestArrivals:
    def test_evenly(self) -> None:
        """
        Without a seed requests come at equal distances, from second 0 on.
        """
        assert list(arrivals(4, 1.5)) == [0.0, 0.25, 0.5, 0.75, 1.0, 1.25]
        assert list(arrivals(0.5, 4)) == [0.0, 2.0]
        assert list(arrivals(4, 0.5)) == [0.0, 0.25]

    @given(st.integers(0, 1_000))
    def test_as_strangers(self, seed: int) -> None:
        """
        With a seed they come at random, as many as they should be, the same each time.
        """
        times = list(arrivals(1_000, 2, seed=seed))

        assert 1_700 < len(times) < 2_300
        assert all(0 < one < other < 2 for one, other in pairwise(times))
        assert len({round(other - one, 6) for one, other in pairwise(times)}) > 500
        assert times == list(arrivals(1_000, 2, seed=seed))

    @pytest.mark.parametrize(("rate", "seconds"), [(0, 1), (1, 0), (-1, 1)])
    def test_misuse(self, rate: float, seconds: float) -> None:
        """
        No rate and no time is refused.
        """
        with pytest.raises(ValueError, match=rf"^load: rate and seconds must be positive, not {rate} and {seconds}$"):
            arrivals(rate, seconds)


class TestLoad:
    def test_quick_service(self, virtual: Virtual) -> None:
        """
        A service that keeps up: each request begins when it was meant to, and both kinds of latency are the same.
        """
        report = virtual(generate_load(hanging(9, 9), rate=100, seconds=2))

        assert report.count == report.succeeded == 200
        assert report.failed == report.unanswered == 0
        assert report.latency(0.5) == pytest.approx(0.001, rel=0.01)
        assert report.latency(0.999) == pytest.approx(report.service_times.quantile(0.999))
        assert report.seconds == pytest.approx(1.991)
        assert report.per_second == pytest.approx(200 / 1.991)

    def test_not_fooled_by_a_hang(self, virtual: Virtual) -> None:
        """
        A service that hangs for 0.5 s of 5 s keeps a tenth of its callers waiting, half of them for more than 0.25 s, though few
        requests are under way in that time. What a closed loop would report, the time from the real begin, hides nearly all of it.
        """
        report = virtual(generate_load(hanging(1.995, 2.495), rate=100, seconds=5, max_concurrent=1))

        assert report.count == 500
        assert report.latency(0.95) > 0.2
        assert report.latency(0.89) < 0.1
        assert report.latencies.max == pytest.approx(0.5, abs=0.01)
        assert report.service_times.quantile(0.99) == pytest.approx(0.001, rel=0.01)

    def test_bounded(self, virtual: Virtual) -> None:
        """
        No more than `max_concurrent` are under way; who waits for a place waits, and that is latency.
        """
        under_way = most = 0

        async def serve() -> None:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0.1)
            under_way -= 1

        report = virtual(generate_load(serve, rate=100, seconds=1, max_concurrent=5))

        # 5 at once of 0.1 s each: 50 a second, where 100 come.
        assert most == 5
        assert report.count == 100
        assert report.seconds == pytest.approx(2.04)
        assert report.latencies.max == pytest.approx(1.05, abs=0.06)

    def test_failures_are_counted(self, virtual: Virtual) -> None:
        """
        Failures and exceptions are failed requests, by code; the load goes on.
        """
        numbers = count()

        async def serve() -> Result[int, Exception]:
            number = next(numbers)
            if number % 5 == 0:
                raise LookupError("no rice")
            return Failure(TimeoutError()) if number % 5 == 1 else Success(number)

        report = virtual(generate_load(serve, rate=100, seconds=1))

        assert (report.succeeded, report.failed, report.unanswered) == (60, 40, 0)
        assert report.errors == {"LookupError": 20, "TimeoutError": 20}

    def test_no_answer(self, virtual: Virtual) -> None:
        """
        What never answers is given up, those that nobody was free for included, and all count with what they have waited.
        """

        async def hangs() -> None:
            await asyncio.Event().wait()

        report = virtual(generate_load(hangs, rate=10, seconds=1, max_concurrent=4, grace_seconds=2))

        assert (report.succeeded, report.failed, report.unanswered) == (0, 10, 10)
        assert report.errors == {"unanswered": 10}
        assert report.latencies.count == 10
        assert report.latencies.max == pytest.approx(3.0)
        assert report.latencies.min == pytest.approx(2.1)
        assert report.per_second == 0

    def test_defaults(self, virtual: Virtual) -> None:
        """
        If nothing else is said a hundred are under way at the most, and answers are waited for five seconds after the last arrival.
        """
        begun = count()

        async def hangs() -> None:
            next(begun)
            await asyncio.Event().wait()

        report = virtual(generate_load(hangs, rate=150, seconds=1))

        assert (next(begun), report.rate) == (100, 150)
        assert report.unanswered == report.failed == 150
        assert report.seconds == pytest.approx(6.0)
        assert report.latencies.max == pytest.approx(6.0)
        assert (report.service_times.min, report.service_times.max) == pytest.approx((6 - 149 / 150, 6.0))

    def test_as_strangers(self, virtual: Virtual) -> None:
        """
        With a seed requests begin when `arrivals` says with that seed.
        """
        begun: list[float] = []

        async def serve() -> None:
            begun.append(asyncio.get_running_loop().time())

        async def test() -> float:
            began = asyncio.get_running_loop().time()
            await generate_load(serve, rate=20, seconds=2, seed=7)
            return began

        began = virtual(test())

        assert [at - began for at in begun] == pytest.approx(list(arrivals(20, 2, seed=7)), abs=1e-6)

    def test_an_answer_at_once(self, virtual: Virtual) -> None:
        """
        What takes no time that the clock can tell took a nanosecond.
        """

        async def serve() -> None:
            """Answer at once."""

        report = virtual(generate_load(serve, rate=1, seconds=1))

        assert (report.latencies.max, report.service_times.max) == (1e-9, 1e-9)
        assert (report.seconds, report.per_second) == (0.0, 0.0)

    def test_cancelled(self, virtual: Virtual) -> None:
        """
        Cancelling the load cancels its requests: no task is left, which `virtual` asserts.
        """

        async def test() -> None:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(generate_load(hanging(0, 99), rate=10, seconds=10), 1.0)

        virtual(test())

    def test_closed_loop(self, virtual: Virtual) -> None:
        """
        As many as there are go through as fast as they can.
        """
        report = virtual(run_at_once(hanging(9, 9), 100, 10))

        assert report.count == 100
        assert report.seconds == pytest.approx(0.010)
        assert report.rate == inf
        assert virtual(run_at_once(hanging(9, 9), 4, 1)).seconds == pytest.approx(0.004)

    @pytest.mark.parametrize(
        "start", [lambda f: generate_load(f, rate=1, seconds=1, max_concurrent=0), lambda f: run_at_once(f, 1, 0)]
    )
    def test_misuse(self, start: Callable[..., Any], virtual: Virtual) -> None:
        """
        Nobody at all under way is refused.
        """
        with pytest.raises(ValueError, match=r"^load: max_concurrent must be positive, not 0$"):
            virtual(start(hanging(9, 9)))


def report() -> LoadReport:
    made = LoadReport(rate=100, seconds=2.0, succeeded=197, failed=3, unanswered=1, errors={"B": 1, "A": 2})
    for _ in range(200):
        made.latencies.observe(0.020)
    return made


class TestReport:
    def test_says_milliseconds(self) -> None:
        """
        What took a little less than a second is said to the millisecond.
        """
        made = LoadReport(rate=1, seconds=1.0, succeeded=1)
        made.latencies.observe(0.996)

        assert str(made).splitlines()[1] == "latency p50 996 ms, p90 996 ms, p99 996 ms, p99.9 996 ms, longest 996 ms"
        with pytest.raises(AssertionError, match=r"^p50 is 996 ms, allowed are 995 ms\n"):
            assert_load(made, at_most_seconds={0.5: 0.995})

    def test_of_no_requests(self) -> None:
        """
        Nothing was measured, and nothing succeeded in no time.
        """
        assert str(LoadReport(rate=2.5)).splitlines() == [
            "0 requests, meant 2.5 a second, succeeded 0 a second in 0 s",
            "latency unknown",
            "0 failed, 0 of them unanswered",
        ]


class TestAssertLoad:
    def test_borne(self) -> None:
        """
        A load within its limits passes, and one that is exactly at them; without limits any load that had no failure.
        """
        assert_load(report(), at_most_seconds={0.5: 0.021, 0.999: 0.021}, at_most_failed=3, at_least_per_second=98)
        assert_load(report(), at_most_seconds={0.5: 0.020}, at_most_failed=3, at_least_per_second=98.5)
        assert_load(LoadReport(rate=1))

    def test_message(self) -> None:
        """
        A failure says all that was broken, and then what the load was.
        """
        with pytest.raises(AssertionError) as caught:
            assert_load(report(), at_most_seconds={0.5: 0.030, 0.99: 0.010}, at_least_per_second=99)

        assert str(caught.value).splitlines() == [
            "p99 is 20 ms, allowed are 10 ms",
            "3 failed, allowed are 0",
            "98.5 a second succeeded, asked are 99",
            "of this load:",
            "  200 requests, meant 100 a second, succeeded 98.5 a second in 2 s",
            "  latency p50 20 ms, p90 20 ms, p99 20 ms, p99.9 20 ms, longest 20 ms",
            "  3 failed, 1 of them unanswered",
            "  A: 2, B: 1",
        ]

    def test_unknown_is_beyond_its_limit(self) -> None:
        """
        A load of no requests has no latency, so none that is short enough.
        """
        with pytest.raises(AssertionError, match=r"p99 is nan ms(.|\n)*latency unknown"):
            assert_load(LoadReport(rate=1), at_most_seconds={0.99: 1.0})


class TestSketch:
    @given(st.lists(st.floats(1e-9, 1e6), min_size=1, max_size=50))
    def test_observes(self, values: list[float]) -> None:
        """
        A sketch that measurements are put into one by one knows count, sum and extremes, and its median within 1 %.
        """
        sketch = Sketch()
        for value in values:
            sketch.observe(value)

        assert sketch.count == len(values)
        assert sketch.sum == pytest.approx(sum(values))
        assert (sketch.min, sketch.max) == (min(values), max(values))
        assert sketch.quantile(0.5) == pytest.approx(sorted(values)[(len(values) - 1) // 2], rel=0.01)
