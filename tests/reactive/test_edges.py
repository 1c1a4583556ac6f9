"""What a chain does where nothing was asked for, at the ends of what may be asked for, and what it then shows."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from random import Random
from typing import Any
from unittest.mock import Mock

import pytest

from rfs.core.result import Failure, Result, Success
from rfs.errors import StepTimeoutError
from rfs.reactive import FluxResult, MonoResult, ResultStream, _chain
from rfs.testing.virtual_time import VirtualTime
from tests.reactive.conftest import told


class Pauses:
    """A sleep that takes no time and knows how long it was to be."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


class Crowd:
    """An async function that waits until nobody else comes, and knows how many there were at once."""

    def __init__(self) -> None:
        self.running = self.most = self.calls = 0

    async def __call__(self, n: int = 0) -> Result[int, str]:
        self.calls += 1
        self.running += 1
        self.most = max(self.most, self.running)
        for _ in range(50):
            await asyncio.sleep(0)
        self.running -= 1
        return Success(n)


async def fails(_: object = None) -> Result[Any, str]:
    return Failure("sold out")


@pytest.mark.usefixtures("virtual_time")
class TestRetryByDefault:
    async def test_without_a_pause_nobody_sleeps(self) -> None:
        """
        No pause was asked for: the runs follow one another at once.
        """
        pauses = Pauses()

        await MonoResult(fails).retry(2, sleep=pauses)
        await MonoResult(fails).retry_on_failure(2, sleep=pauses)

        assert pauses.seconds == []

    async def test_pause_doubles_up_to_a_minute(self) -> None:
        """
        Each pause is twice as long as the one before it, and none longer than 60 s.
        """
        pauses = Pauses()

        await MonoResult(fails).retry(5, backoff_seconds=7, sleep=pauses)

        assert pauses.seconds == [7, 14, 28, 56, 60]

    async def test_delay_grows_up_to_an_hour(self) -> None:
        """
        retry_on_failure waits an hour at most, or as long as its first delay, if that is longer.
        """
        pauses = Pauses()

        await MonoResult(fails).retry_on_failure(3, delay=1700, backoff=2, sleep=pauses)
        await MonoResult(fails).retry_on_failure(2, delay=5000, backoff=2, sleep=pauses)

        assert pauses.seconds == [1700, 3400, 3600, 5000, 5000]

    async def test_no_retry_is_one_run(self) -> None:
        """
        retry(0) runs the chain once.
        """
        runs: list[int] = []

        async def source() -> Result[int, str]:
            runs.append(1)
            return Failure("x")

        assert await MonoResult(source).retry(0) == Failure("x")
        assert runs == [1]

    def test_endless_growth_is_refused(self) -> None:
        """
        A multiplier without end makes no schedule.
        """
        with pytest.raises(ValueError, match="multiplier must be a finite number, 1 or more, not inf"):
            MonoResult(fails).retry(1, multiplier=float("inf"))


class TestConcurrencyByDefault:
    async def test_ten_at_once(self) -> None:
        """
        Where no bound is given, ten calls run at once.
        """
        crowds = [Crowd() for _ in range(4)]
        many = FluxResult.from_values(range(30))

        await FluxResult.from_iterable_async(range(30), crowds[0])
        await ResultStream(range(30), crowds[1])
        await many.parallel_map_async(crowds[2])
        await MonoResult.parallel_map_async([MonoResult(crowds[3]) for _ in range(30)])

        assert [crowd.most for crowd in crowds] == [10] * 4

    async def test_one_at_once_is_a_bound(self) -> None:
        """
        One at once is the least that can be asked for.
        """
        crowd = Crowd()

        flux = await FluxResult.from_iterable_async(range(5), crowd, max_concurrent=1).batch_collect(batch_size=1)

        assert flux == FluxResult.from_values(range(5))
        assert crowd.most == 1

    async def test_a_batch_is_a_hundred(self) -> None:
        """
        batch_collect has a hundred items under way at most, if the stream may run as many.
        """
        crowd = Crowd()

        await FluxResult.from_iterable_async(range(150), crowd, max_concurrent=150).batch_collect()

        assert crowd.most == 100

    def test_rate_of_none_is_none(self) -> None:
        """
        Of no Results none went well, and that is no error.
        """
        assert FluxResult.empty().success_rate() == 0.0


class TestShownOptions:
    def test_recovery_shows_its_codes(self) -> None:
        """
        An operator for some errors says for which, in order; one for all says nothing.
        """
        limited = MonoResult(fails).recover(str, on_codes=["B", "A"]).fallback(fails, on_codes="C")

        assert [step.options for step in limited.steps[1:]] == [{"on_codes": ["A", "B"]}, {"on_codes": ["C"]}]
        assert [step.options for step in MonoResult(fails).recover(str).fallback(fails).steps[1:]] == [{}, {}]

    def test_retry_shows_its_schedule(self) -> None:
        """
        A retry shows how often, and the pauses if there are any.
        """
        paused = MonoResult(fails).retry(3, backoff_seconds=2, jitter=Random(1), on_codes=["B", "A"])

        assert MonoResult(fails).retry(3).steps[1].options == {"max_retries": 3}
        assert paused.steps[1].options == {
            "max_retries": 3,
            "backoff_seconds": 2,
            "multiplier": 2.0,
            "max_backoff_seconds": 60.0,
            "jitter": True,
            "on_codes": ["A", "B"],
        }
        assert MonoResult(fails).retry(1, backoff_seconds=2).steps[1].options["jitter"] is False

    def test_operators_over_several_chains_count_them(self) -> None:
        """
        A zip and a race show how many others run beside the chain.
        """
        one: MonoResult[Any, Any] = MonoResult(fails)

        assert str(one.zip(one, one).steps[-1]) == "zip(others=2)"
        assert str(one.first_success(one).steps[-1]) == "first_success(others=1)"
        assert str(one.cache().steps[-1]) == "cache()"
        assert [step.name for step in one.zip(one).steps] == ["fails", "zip"]
        assert [step.name for step in one.first_success(one).steps] == ["fails", "first_success"]
        assert [step.name for step in one.cache().steps] == ["fails", "cache"]

    def test_logged_step_shows_its_threshold(self) -> None:
        """
        An entry says from when on it is made, if it is not always.
        """
        chain: MonoResult[Any, Any] = MonoResult(fails).log_step("paid").log_performance("all").log_performance(100)

        assert [str(step) for step in chain.steps[1:]] == [
            "log_step(paid)",
            "log_performance(all)",
            "log_performance(performance, threshold_ms=100)",
        ]

    def test_every_operator_is_named_by_its_method(self) -> None:
        """
        Whatever was called to build the chain is found in it.
        """
        one: MonoResult[Any, Any] = MonoResult.from_callable(lambda: 1)
        names = ["filter", "map_error", "recover", "fallback", "on_error_return_result", "on_error_return_value"]
        names += ["tap", "do_on_success", "do_on_error", "log_error", "log_performance"]
        chain: Any = one.filter(bool, "x").map_error(str).recover(str).fallback(one).on_error_return_result(Success)
        chain = (
            chain.on_error_return_value(1).tap().do_on_success(str).do_on_error(str).log_error("a").log_performance()
        )

        assert [step.operator for step in chain.steps] == ["from_callable", *names]
        assert one.steps[0].name == "from_callable"
        assert MonoResult.from_callable(fails).steps[0].name == "fails"

    def test_empty_name_is_none(self) -> None:
        """
        A step that is named "" keeps its function's name, or has none as a lambda; a chain that is named "" has no name.
        """
        chain: MonoResult[Any, Any] = MonoResult(fails, name="").bind_result(Success, "").name("")
        of_lambdas: MonoResult[Any, Any] = (
            MonoResult.from_async_result(lambda: fails(), "")
            .map(lambda value: value, "")
            .bind_result(lambda value: Success(value), "")
            .bind_async_result(lambda value: fails(value), "")
        )

        assert repr(chain) == "MonoResult(from_async_result(fails) → bind_result(Success))"
        assert repr(of_lambdas) == "MonoResult(from_async_result() → map() → bind_result() → bind_async_result())"
        assert repr(MonoResult(lambda: fails(), "")) == "MonoResult(from_async_result())"


class TestEntryByDefault:
    async def test_nothing_is_made_up(self, observer: Mock) -> None:
        """
        An entry of a chain without a name says no more than it was told.
        """
        await MonoResult(fails).log_step("paid").log_error("failed").log_performance()

        events = told(observer)

        assert [(each.kind, each.chain, each.step, each.message, each.details) for each in events] == [
            ("step", "", "paid", "", None),
            ("error", "", "failed", "", None),
            ("performance", "", "performance", "", None),
        ]
        assert [each.level for each in events] == [None, None, None]

    async def test_threshold_makes_it_a_warning(self, observer: Mock) -> None:
        """
        What took longer than it should is worth a WARNING.
        """
        await MonoResult(fails).log_performance(0)

        assert [(each.level, each.details) for each in told(observer)] == [(30, {"threshold_ms": 0})]

    async def test_first_retry_is_told(self, observer: Mock) -> None:
        """
        What needed a second attempt says so, beside its own details, which are not changed.
        """
        outcomes: list[Any] = [Failure("x"), Success(1)]
        details = {"table": 7}

        async def source() -> Any:
            return outcomes.pop(0)

        await MonoResult(source).retry(1).log_step("paid", details=details).log_performance("all", 0)

        paid, performance = told(observer)

        assert paid.details == {"table": 7, "attempts": 2}
        assert performance.details == {"attempts": 2, "threshold_ms": 0}
        assert details == {"table": 7}


class TestChainName:
    async def test_stays_whatever_is_added(self, observer: Mock) -> None:
        """
        A chain keeps its name through all that is added behind it, until it is given another.
        """
        chain: MonoResult[Any, Any] = (
            MonoResult(fails).name("order").log_step("one").map(str).log_step("two").retry(0).log_step("three")
        )

        await chain
        await chain.name("bill")

        assert [each.chain for each in told(observer)] == ["order"] * 3 + ["bill"] * 3
        assert repr(chain).startswith("MonoResult('order': ")
        assert repr(chain.name("bill")).startswith("MonoResult('bill': ")


class TestEntryTimes:
    async def test_each_kind_measures_from_its_own_beginning(self, virtual_time: VirtualTime, observer: Mock) -> None:
        """
        A step begins where the logged one before it ended, a performance entry where the chain began.
        """

        async def takes(seconds: int) -> Result[int, str]:
            virtual_time.advance(seconds)
            return Success(seconds + 1)

        chain = MonoResult.from_value(1).bind_async_result(takes).log_step("one").bind_async_result(takes)
        began_ns = virtual_time.time_ns()

        await chain.log_step("two").log_performance("all")

        assert [(each.step, each.duration_seconds, each.started_at_ns - began_ns) for each in told(observer)] == [
            ("one", 1, 0),
            ("two", 2, 10**9),
            ("all", 3, 0),
        ]


class TestAround:
    async def test_operator_around_other_steps(self) -> None:
        """
        An operator can be put around other steps: it does to them what it did to its own, and shows them.
        """
        retry = MonoResult(fails).retry(2)._steps[-1][1]
        calls: list[str] = []

        async def counted() -> Result[int, str]:
            calls.append("call")
            return Failure("x")

        steps: _chain.Steps = ((_chain.ASYNC_OPERATOR, retry.around(MonoResult(counted)._steps)),)

        assert await _chain.execute(steps) == Failure("x")
        assert calls == ["call"] * 3
        assert [step.name for step in _chain.shown(steps)] == ["counted", "retry"]


@pytest.mark.usefixtures("virtual_time")
class TestCause:
    async def test_timeout_is_caused_by_the_limit(self) -> None:
        """
        The error of a limit has asyncio's TimeoutError as its cause, whether the limit is one step's or the chain's.
        """

        async def wait() -> Result[int, str]:
            await asyncio.sleep(60)
            return Success(1)

        for mono in (MonoResult(wait).timeout(0), MonoResult(wait, timeout_seconds=0)):
            error: Any = (await mono).get_error()
            assert isinstance(error, StepTimeoutError)
            assert isinstance(error.__cause__, TimeoutError)

    async def test_late_answer_of_a_limited_step_names_it(self) -> None:
        """
        A step that answers after its own limit is named in the error.
        """

        async def stubborn() -> Result[int, str]:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
            return Success(1)

        error: Any = (await MonoResult(stubborn, name="slow", timeout_seconds=0)).get_error()

        assert (error.step, error.__cause__) == ("slow", None)


class TestHash:
    def test_results_decide(self) -> None:
        """
        Collections that differ are no burden to one another in a set.
        """
        assert len({hash(FluxResult.from_values([n])) for n in range(3)}) == 3


@pytest.mark.usefixtures("virtual_time")
class TestCacheAtTheSameMoment:
    async def test_one_who_comes_as_the_work_ends_does_not_begin_it_anew(self) -> None:
        """
        The work has ended, and those who waited for it have not gone on yet: who comes now gets what came of it.
        """
        crowd = Crowd()
        mono = MonoResult(crowd).cache()
        first = asyncio.ensure_future(mono.to_result())
        runs: list[Result[int, str]] = []

        async def come_after(rounds: int) -> None:
            for _ in range(rounds):
                await asyncio.sleep(0)
            runs.append(await mono)

        await asyncio.gather(*(come_after(rounds) for rounds in range(100)))

        assert await first == Success(0)
        assert runs == [Success(0)] * 100
        assert crowd.calls == 1

    @pytest.mark.parametrize("rounds", range(6))
    async def test_one_who_comes_as_the_work_is_torn_takes_the_new_one_along(self, rounds: int) -> None:
        """
        New work belongs to who asked for it: when they go it is cancelled, whoever waited for what came before.
        """

        class Torn(BaseException):
            pass

        ended: list[str] = []
        calls: list[None] = []

        async def source() -> Result[int, str]:
            calls.append(None)
            try:
                await asyncio.sleep(1 if len(calls) == 1 else 60)
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise
            ended.append("torn")
            raise Torn

        async def come_late() -> None:
            await asyncio.sleep(1)
            for _ in range(rounds):
                await asyncio.sleep(0)
            with suppress(Torn):  # it came too early
                await mono
            await mono

        mono = MonoResult(source).cache()
        early = [asyncio.ensure_future(mono.to_result()) for _ in range(3)]
        late = asyncio.ensure_future(come_late())
        await asyncio.wait(early)
        await asyncio.sleep(10)
        late.cancel()
        await asyncio.wait([late])

        assert [type(one.exception()) for one in early] == [Torn] * 3
        assert ended == ["torn", "cancelled"]
