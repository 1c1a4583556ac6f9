"""Assertions on Results, chains and collections; data, marks and the context of a test."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

import pytest
from dirty_equals import IsInt, IsPartialDict, IsPositiveInt, IsStr
from hypothesis import given
from hypothesis import strategies as st

from rfs.core.result import Failure, Result, Success
from rfs.errors import MockError, MockTargetError, StepTimeoutError
from rfs.monitoring import collect_metric, default_monitor, log_result_operation
from rfs.monitoring.metrics import MetricType
from rfs.reactive import FluxResult, MonoResult
from rfs.testing.result_helpers import (
    ResultTestDataFactory,
    assert_flux_failure_count,
    assert_flux_result_stats,
    assert_flux_success_count,
    assert_flux_success_rate,
    assert_flux_success_values,
    assert_flux_total_count,
    assert_mono_result_error,
    assert_mono_result_failure,
    assert_mono_result_success,
    assert_mono_result_timeout,
    assert_mono_result_value,
    assert_result_error,
    assert_result_failure,
    assert_result_success,
    assert_result_value,
    flux_test,
    mock_result_service,
    mono_test,
    performance_test,
    result_test,
    result_test_context,
)
from rfs.testing.virtual_time import VirtualTime
from tests.testing.programs.wrong import seen

pytest_plugins = ["pytester"]

PLUGIN = () if entry_points(group="pytest11", name="rfs") else ("-p", "rfs.testing.fixtures")
HERE = "tests/testing/test_result_helpers.py"


class SoldOutError(Exception):
    code = "SOLD_OUT"


class CodedError(Exception):
    """Says nothing but its code."""

    def __init__(self, code: str) -> None:
        super().__init__()
        self.code = code


@dataclass
class Order:
    number: int
    dishes: list[str]


class Kitchen:
    async def cook(self, dish: str) -> Result[str, str]:
        return Success(f"real {dish}")

    def stock(self, dish: str) -> Result[int, str]:
        return Success(0)


kitchen = Kitchen()
NOTHING: Any = Success(None)
EMPTY: Any = ()


async def sold_out(_: object) -> Result[int, SoldOutError]:
    return Failure(SoldOutError("rice"))


def message_of(assertion: Callable[..., object], *args: Any, **kwargs: Any) -> str:
    """What an assertion says that fails, where the test asks and not inside of itself."""
    with pytest.raises(AssertionError) as caught:
        assertion(*args, **kwargs)
    assert seen(caught.value) == []
    return str(caught.value)


async def message_of_async(assertion: Awaitable[object]) -> str:
    """What an assertion says that is awaited and fails, where the test asks and not inside of itself."""
    with pytest.raises(AssertionError) as caught:
        await assertion
    assert seen(caught.value) == []
    return str(caught.value)


class TestResultSuccess:
    def test_returns_the_value(self) -> None:
        """
        A Success passes, of whatever value, and of its type if one is asked for.
        """
        assert assert_result_success(Success(7)) == 7
        assert assert_result_success(NOTHING) is None
        assert assert_result_success(Success(7), int) == 7
        assert assert_result_success(Success(7), expected_type=(str, int)) == 7

    def test_failure_is_shown(self) -> None:
        """
        A Failure fails, and the message has its error and its code.
        """
        assert message_of(assert_result_success, Failure(SoldOutError("rice"))).splitlines() == [
            "expected a Success, got Failure(SoldOutError('rice'))",
            "    code: SOLD_OUT",
        ]

    def test_other_type_is_shown(self) -> None:
        """
        A value of another type fails, and the message has both types.
        """
        assert message_of(assert_result_success, Success("7"), int) == (
            "expected a Success of int, got one of str: Success('7')"
        )
        assert message_of(assert_result_success, Success(None), (int, str)) == (
            "expected a Success of int or str, got one of NoneType: Success(None)"
        )

    async def test_forgotten_await_is_told(self) -> None:
        """
        What has still to be awaited is no Result, and the message says what is missing.
        """
        work = sold_out(1)

        told = message_of(assert_result_success, work)

        assert told.startswith("expected a Result, got coroutine (an await is missing): <coroutine object sold_out")
        await work
        assert message_of(assert_result_success, 7) == "expected a Result, got int: 7"


class TestResultFailure:
    def test_returns_the_error(self) -> None:
        """
        A Failure passes, of whatever error, and of its type if one is asked for.
        """
        error = SoldOutError("rice")

        assert assert_result_failure(Failure(error)) is error
        assert assert_result_failure(Failure(NOTHING.value)) is None
        assert assert_result_failure(Failure(error), expected_error_type=SoldOutError) is error
        assert assert_result_failure(Failure(error), (OSError, Exception)) is error

    def test_success_is_shown(self) -> None:
        """
        A Success fails, and the message has its value.
        """
        assert message_of(assert_result_failure, Success(7)) == "expected a Failure, got Success(7)"

    def test_other_type_is_shown(self) -> None:
        """
        An error of another type fails, and the message has both types and the code.
        """
        assert message_of(assert_result_failure, Failure(SoldOutError("rice")), OSError).splitlines() == [
            "expected a Failure of OSError, got one of SoldOutError: Failure(SoldOutError('rice'))",
            "    code: SOLD_OUT",
        ]


class TestResultValue:
    def test_returns_the_value(self) -> None:
        """
        An equal value passes, ``None`` included.
        """
        assert assert_result_value(Success([1, 2]), [1, 2]) == [1, 2]
        assert assert_result_value(NOTHING, None) is None

    def test_difference_is_shown(self) -> None:
        """
        Another value fails, and the message leads to the place that differs.
        """
        told = message_of(assert_result_value, Success(Order(7, ["a", "b"])), Order(8, ["a", "c"]))

        assert told.splitlines() == [
            "the value is not as expected:",
            "    .number: expected 8, got 7",
            "    .dishes[1]: expected 'c', got 'b'",
        ]
        assert message_of(assert_result_value, Success(7), None) == (
            "the value is not as expected:\n    value: expected None, got 7"
        )

    def test_failure_is_shown(self) -> None:
        """
        A Failure fails as it does where a Success is expected.
        """
        assert message_of(assert_result_value, Failure("x"), "x").startswith("expected a Success, got Failure('x')")

    def test_matchers_match(self) -> None:
        """
        Matchers of other libraries are as good as values, in whole and in part.
        """
        order = {"number": 7, "dish": "bibimbap", "price": 0.1 + 0.2}

        assert_result_value(Success(order), {"number": IsPositiveInt(), "dish": IsStr(), "price": pytest.approx(0.3)})
        assert_result_value(Success(order), IsPartialDict(number=7))
        assert message_of(assert_result_value, Success(order), {**order, "dish": IsInt()}) == (
            "the value is not as expected:\n    ['dish']: expected IsInt(), got 'bibimbap'"
        )


class TestResultError:
    def test_class_is_a_type(self) -> None:
        """
        Given a class, or several, the error is of it; given nothing, any Failure will do.
        """
        error = SoldOutError("rice")

        assert assert_result_error(Failure(error), SoldOutError) is error
        assert assert_result_error(Failure(error), expected_error_type=(OSError, SoldOutError)) is error
        assert assert_result_error(Failure(error)) is error
        assert message_of(assert_result_error, Failure(error), OSError).startswith(
            "expected a Failure of OSError, got one of"
        )

    def test_anything_else_is_the_error(self) -> None:
        """
        Given a value or a matcher, also one that is written without parentheses, the error equals it.
        """
        assert assert_result_error(Failure("SOLD_OUT"), "SOLD_OUT") == "SOLD_OUT"
        assert assert_result_error(Failure("SOLD_OUT"), IsStr(regex="SOLD_.*")) == "SOLD_OUT"
        assert assert_result_error(Failure("SOLD_OUT"), IsStr) == "SOLD_OUT"
        assert assert_result_error(Failure(EMPTY), EMPTY) == ()
        assert assert_result_error(Failure(("rice", 1)), (IsStr, 1)) == ("rice", 1)
        assert assert_result_error(Failure((int, 1)), (int, 1)) == (int, 1)
        assert assert_result_error(Failure(None)) is None
        assert message_of(assert_result_error, Failure("x"), EMPTY).startswith("the error is not as expected:")

    def test_difference_is_shown(self) -> None:
        """
        Another error fails, and the message has the difference and the code.
        """
        assert message_of(assert_result_error, Failure({"code": "A"}), {"code": "B"}).splitlines() == [
            "the error is not as expected:",
            "    ['code']: expected 'B', got 'A'",
            "Failure({'code': 'A'})",
            "    code: dict",
        ]

    def test_success_is_shown(self) -> None:
        """
        A Success fails.
        """
        assert message_of(assert_result_error, Success(7), "x") == "expected a Failure, got Success(7)"


class TestMono:
    chain = MonoResult.from_value(7).bind_async_result(sold_out)

    async def test_each_passes_where_it_is_so(self) -> None:
        """
        Each assertion runs the chain once, and returns what it ended in; any awaitable of a Result is as good.
        """
        assert await assert_mono_result_success(MonoResult.from_value(7), int) == 7
        assert await assert_mono_result_success(kitchen.cook("rice")) == "real rice"
        assert isinstance(await assert_mono_result_failure(self.chain, SoldOutError), SoldOutError)
        assert await assert_mono_result_value(MonoResult.from_value(7), IsPositiveInt()) == 7
        assert isinstance(await assert_mono_result_error(self.chain, SoldOutError), SoldOutError)
        assert await assert_mono_result_error(MonoResult.from_error("x"), "x") == "x"

    async def test_failure_is_told_with_its_step_and_origin(self) -> None:
        """
        A chain that fails is told with code, step, and the line inside the step.
        """
        told = await message_of_async(assert_mono_result_success(self.chain))

        assert re.fullmatch(
            r"expected a Success, got Failure\(SoldOutError\('rice'\)\)\n"
            r"    code: SOLD_OUT\n    step: sold_out\n"
            rf"    made at: {HERE}:\d+ in sold_out",
            told,
        )

    async def test_each_tells_where_a_failure_was_made(self) -> None:
        """
        Whichever assertion runs the chain remembers that, also the one of a time limit.
        """

        async def too_late(_: object) -> Result[int, TimeoutError]:
            return Failure(TimeoutError())

        for assertion in (
            assert_mono_result_success(self.chain),
            assert_mono_result_failure(self.chain, OSError),
            assert_mono_result_value(self.chain, 7),
            assert_mono_result_error(self.chain, "x"),
            assert_mono_result_timeout(self.chain, 0),
        ):
            assert re.search(rf"made at: {HERE}:\d+ in sold_out$", await message_of_async(assertion))
        late = assert_mono_result_timeout(MonoResult.from_value(1).bind_async_result(too_late), 5)
        assert re.search(r"it came after 0\.\d{3} s: (.|\n)*\.too_late$", await message_of_async(late))

    async def test_each_fails_where_it_is_not(self) -> None:
        """
        The messages are those of the assertions on Results.
        """
        seven = MonoResult.from_value(7)

        assert await message_of_async(assert_mono_result_failure(seven)) == "expected a Failure, got Success(7)"
        assert await message_of_async(assert_mono_result_value(seven, 8)) == (
            "the value is not as expected:\n    value: expected 8, got 7"
        )
        assert (await message_of_async(assert_mono_result_error(self.chain, "x"))).startswith(
            "the error is not as expected:\n    value: expected 'x', got SoldOutError('rice')\nFailure("
        )

    async def test_result_that_is_there_is_told_apart(self) -> None:
        """
        A Result needs no waiting, and the message names the assertion to take.
        """
        there: Any = Success(7)

        assert await message_of_async(assert_mono_result_success(there)) == (
            "expected a MonoResult or an awaitable of a Result, got Success; for a Result that is there, use the assertion "
            "without `mono`: Success(7)"
        )
        seven: Any = 7
        assert await message_of_async(assert_mono_result_success(seven)) == (
            "expected a MonoResult or an awaitable of a Result, got int: 7"
        )


class TestMonoTimeout:
    @staticmethod
    def slow(seconds: float) -> MonoResult[str, Any]:
        async def work() -> Result[str, Any]:
            await asyncio.sleep(seconds)
            return Success("late")

        return MonoResult.from_async_result(work)

    def test_limit_passes(self) -> None:
        """
        A chain that its limit ends passes, at that time, and the error is returned.
        """

        async def test() -> tuple[Any, float]:
            began = time.monotonic()
            error = await assert_mono_result_timeout(self.slow(7200).timeout(3600), 3600)
            return error, time.monotonic() - began

        error, took = VirtualTime().run(test())

        assert isinstance(error, StepTimeoutError)
        assert took == pytest.approx(3600)

    @pytest.mark.parametrize(
        "error",
        [
            TimeoutError(),
            "the bank timed out",
            "Timed Out",
            "Timeout of the bank",
            "TIMEOUT",
            CodedError("GATEWAY_TIMEOUT"),
            CodedError("timeout"),
        ],
    )
    def test_limit_of_somebody_else_passes(self, error: object) -> None:
        """
        A time limit is known by its error's class or text, wherever it was.
        """

        async def work() -> Result[str, Any]:
            await asyncio.sleep(5)
            return Failure(error)

        assert VirtualTime().run(assert_mono_result_timeout(MonoResult(work), 5)) == error

    @pytest.mark.parametrize(
        ("seconds", "told"),
        [
            (4.375, "expected a time limit of 5 s, but it came after 4.375 s: Failure(StepTimeoutError("),
            (4.5, ""),
            (5.5, ""),
            (5.625, "expected a time limit of 5 s, but it was one of 5.625 s: Failure(StepTimeoutError("),
        ],
    )
    def test_a_tenth_more_or_less_is_the_same(self, seconds: float, told: str) -> None:
        """
        A limit that is a tenth too early or too late is the one that is meant; what is further off is not.
        """
        assertion = assert_mono_result_timeout(self.slow(9).timeout(seconds), 5)

        if told:
            assert VirtualTime().run(message_of_async(assertion)).startswith(told)
        else:
            assert VirtualTime().run(assertion).seconds == seconds

    def test_is_given_up_after_twice_the_time_and_five_seconds(self) -> None:
        """
        At 25 s where 10 s are expected; a limit at 24 s is still waited for.
        """

        async def test(chain: MonoResult[Any, Any]) -> tuple[str, float]:
            began = time.monotonic()
            return await message_of_async(assert_mono_result_timeout(chain, 10)), time.monotonic() - began

        given_up, took = VirtualTime().run(test(self.slow(26)))
        late, _ = VirtualTime().run(test(self.slow(24)))

        assert given_up == "expected a time limit of 10 s, but it still ran after 25 s"
        assert took == pytest.approx(25)
        assert late == "expected a time limit of 10 s, but after 24.000 s it was Success('late')"

    def test_whatever_else_fails(self) -> None:
        """
        Success, another failure, a limit that is too early or another one, and a chain without an end are no time limit of 5 s.
        """

        async def for_ever() -> Result[str, Any]:
            await asyncio.Event().wait()
            return Success("never")

        def told(chain: MonoResult[Any, Any]) -> str:
            return VirtualTime().run(message_of_async(assert_mono_result_timeout(chain, 5))).splitlines()[0]

        assert told(self.slow(5)) == "expected a time limit of 5 s, but after 5.000 s it was Success('late')"
        assert told(MonoResult.from_error("x")) == "expected a time limit of 5 s, but it failed otherwise: Failure('x')"
        assert told(self.slow(9).timeout(4)).startswith(
            "expected a time limit of 5 s, but it came after 4.000 s: Failure(StepTimeoutError("
        )
        assert told(self.slow(9).timeout(6)).startswith("expected a time limit of 5 s, but it was one of 6 s: Failure(")
        assert told(MonoResult(for_ever)) == "expected a time limit of 5 s, but it still ran after 15 s"

    async def test_timeout_error_of_the_work_is_not_taken_for_giving_up(self) -> None:
        """
        What the awaited work raises itself is raised.
        """

        async def raises() -> Result[str, str]:
            raise TimeoutError("its own")

        with pytest.raises(TimeoutError, match="its own"):
            await assert_mono_result_timeout(raises(), 5)

    @pytest.mark.parametrize("seconds", [-1.0, float("inf"), float("nan")])
    async def test_limit_that_is_none_is_refused(self, seconds: float) -> None:
        """
        The expected limit is a time.
        """
        with pytest.raises(ValueError, match=r"^timeout_seconds must be a finite number of seconds, 0 or more, not "):
            await assert_mono_result_timeout(MonoResult.from_value(1), seconds)


class TestFlux:
    flux: FluxResult[int, str] = FluxResult([Success(1), Failure("x"), Success(2), Success(3)])

    async def test_each_passes_where_it_is_so(self) -> None:
        """
        Counts, rate and values as they are pass.
        """
        assert_flux_result_stats(self.flux, expected_success=3, expected_failures=1)
        assert_flux_success_count(self.flux, 3)
        assert_flux_failure_count(self.flux, 1)
        assert_flux_total_count(self.flux, 4)
        assert_flux_success_rate(self.flux, 0.75)
        assert_flux_success_rate(self.flux, 0.76, tolerance=0.01)
        assert_flux_success_rate(self.flux, 0.5, tolerance=0.25)
        assert_flux_success_rate(self.flux, 0.74)
        assert_flux_success_rate(self.flux, 0.76)
        assert_flux_success_rate(self.flux, 0.75, tolerance=0)
        assert await assert_flux_success_values(self.flux, [1, IsPositiveInt(), 3]) == [1, 2, 3]

    @pytest.mark.parametrize(
        ("assertion", "arguments", "first"),
        [
            (assert_flux_result_stats, (2, 1), "expected 2 successes and 1 failures, got 3 successes and 1 failures"),
            (assert_flux_result_stats, (3, 2), "expected 3 successes and 2 failures, got 3 successes and 1 failures"),
            (assert_flux_success_count, (4,), "expected 4 successes, got 3 successes and 1 failures"),
            (assert_flux_failure_count, (0,), "expected 0 failures, got 3 successes and 1 failures"),
            (assert_flux_total_count, (3,), "expected 3 results, got 3 successes and 1 failures"),
            (
                assert_flux_success_rate,
                (0.77,),
                "expected a success rate of 0.77 ± 0.01, got 0.75: 3 successes and 1 failures",
            ),
            (
                assert_flux_success_rate,
                (0.7611,),
                "expected a success rate of 0.7611 ± 0.01, got 0.75: 3 successes and 1 failures",
            ),
            (
                assert_flux_success_rate,
                (0.5, 0.249),
                "expected a success rate of 0.5 ± 0.249, got 0.75: 3 successes and 1 failures",
            ),
        ],
    )
    def test_each_fails_where_it_is_not(
        self, assertion: Callable[..., object], arguments: tuple[Any, ...], first: str
    ) -> None:
        """
        A message has both counts, and the Failures with their places and codes.
        """
        assert message_of(assertion, self.flux, *arguments).splitlines() == [
            first,
            "[1] Failure('x')",
            "    code: UNKNOWN",
        ]

    def test_values_fail_at_once(self) -> None:
        """
        Other values fail, with the difference, and without being awaited.
        """
        assert message_of(assert_flux_success_values, self.flux, [1, 2]).splitlines() == [
            "the values are not as expected:",
            "    [2]: not expected, got 3",
            "of 3 successes and 1 failures",
            "[1] Failure('x')",
            "    code: UNKNOWN",
        ]

    def test_many_failures_are_cut(self) -> None:
        """
        Of a thousand Failures five are shown, and a number.
        """
        told = message_of(assert_flux_total_count, FluxResult.from_results([Failure(n) for n in range(1000)]), 1)

        assert told.count("Failure(") == 5
        assert told.endswith("... and 995 more")

    @pytest.mark.parametrize("failures", [4, 5, 6])
    def test_five_failures_are_shown(self, failures: int) -> None:
        """
        Each with its place in the whole; of six, one is left out.
        """
        mixed: FluxResult[int, int] = FluxResult.from_results(
            [Success(0), *(Failure(number) for number in range(failures))]
        )

        assert message_of(assert_flux_success_count, mixed, 2).splitlines() == [
            f"expected 2 successes, got 1 successes and {failures} failures",
            *(
                line
                for number in range(min(failures, 5))
                for line in (f"[{number + 1}] Failure({number})", "    code: int")
            ),
            *(["... and 1 more"] if failures > 5 else []),
        ]

    def test_rate_has_four_digits(self) -> None:
        """
        A third is 0.3333.
        """
        third: FluxResult[int, str] = FluxResult.from_results([Success(1), Failure("x"), Failure("x")])

        assert message_of(assert_flux_success_rate, third, 0.5).startswith(
            "expected a success rate of 0.5 ± 0.01, got 0.3333: 1 successes and 2 failures\n[1] Failure('x')"
        )

    def test_stream_that_was_not_awaited_is_told(self) -> None:
        """
        A stream has no counts yet.
        """
        stream: Any = FluxResult.from_iterable_async([1], sold_out)

        assert message_of(assert_flux_total_count, stream, 1) == (
            "expected a FluxResult, got ResultStream (an await is missing): ResultStream(max_concurrent=10, fail_fast=False)"
        )
        there: Any = [1]
        assert message_of(assert_flux_total_count, there, 1) == "expected a FluxResult, got list: [1]"


class TestVirtualTime:
    def test_drives_the_latency_of_mocks(self) -> None:
        """
        Entered around a test, the toolkit's clock waits out the latency of async and plain methods alike.
        """

        async def cooked() -> Result[str, str]:
            with mock_result_service("kitchen", "cook") as mock:
                mock.return_success("late").with_latency(3600)
                return await kitchen.cook("rice")

        with VirtualTime():
            began = time.monotonic()
            with mock_result_service("kitchen", "stock") as mock:
                mock.return_success(9).with_latency(60)
                assert kitchen.stock("rice") == Success(9)
            after_stock = time.monotonic()
            assert asyncio.run(cooked()) == Success("late")
            after_cook = time.monotonic()

        assert (after_stock - began, after_cook - after_stock) == pytest.approx((60, 3600))


class TestFactory:
    def test_makes_results_chains_and_collections(self) -> None:
        """
        What is created is what its name says.
        """
        make = ResultTestDataFactory()

        assert make.create_success_result(1) == Success(1)
        assert make.create_failure_result("x") == Failure("x")
        assert make.create_success_results(values=[1, 2]) == [Success(1), Success(2)]
        assert make.create_failure_results(errors=["x", "y"]) == [Failure("x"), Failure("y")]
        assert make.create_mixed_flux([1, 2], ["x"]).to_list() == [Success(1), Success(2), Failure("x")]
        assert make.create_all_success_flux([1, 2]).to_list() == [Success(1), Success(2)]
        assert make.create_all_failure_flux(["x"]).to_list() == [Failure("x")]

    async def test_chains_run(self) -> None:
        """
        A chain ends in its value or error, as often as it is run.
        """
        success, failure = ResultTestDataFactory.create_success_mono(1), ResultTestDataFactory.create_failure_mono("x")

        assert [await success, await success, await failure] == [Success(1), Success(1), Failure("x")]

    def test_numbers_run_on(self) -> None:
        """
        Each factory counts from 1, and derived ones do, too.
        """

        class Users(ResultTestDataFactory):
            def name(self) -> str:
                return f"user{self.sequence()}"

        one, other = Users(), Users()

        assert [one.name(), one.name(), other.name()] == ["user1", "user2", "user1"]

    @given(st.integers(0, 200), st.floats(0, 1))
    def test_split_is_exact_and_even(self, total: int, rate: float) -> None:
        """
        Of any number the share is exact, in whole and, within one, in every beginning.
        """
        results = ResultTestDataFactory.create_mixed_results(total, rate, lambda i: i, lambda i: -i)
        successes = round(total * rate)

        assert [result.unwrap() if result.is_success() else -result.unwrap_error() for result in results] == list(
            range(total)
        )
        assert sum(result.is_success() for result in results) == successes
        so_far = 0
        for index, result in enumerate(results):
            so_far += result.is_success()
            assert abs(so_far - (index + 1) * successes / total) < 1

    @pytest.mark.parametrize(("total", "rate"), [(-1, 0.5), (10, 1.1), (10, -0.1), (10, float("nan"))])
    def test_impossible_split_is_refused(self, total: int, rate: float) -> None:
        """
        A share is from 0 to 1.
        """
        with pytest.raises(ValueError, match=rf"^of {total} results a share of {rate} cannot be successes$"):
            ResultTestDataFactory.create_mixed_results(total, rate, str, str)

    def test_no_results_at_all(self) -> None:
        """
        None is a number, too.
        """
        assert ResultTestDataFactory.create_mixed_results(0, 0, str, str) == []
        assert ResultTestDataFactory.create_mixed_results(2, 0, str, str) == [Failure("0"), Failure("1")]
        assert ResultTestDataFactory.create_mixed_results(2, 1, str, str) == [Success("0"), Success("1")]


class TestMarks:
    TESTS = """
        import pytest
        from rfs.testing.result_helpers import flux_test, mono_test, performance_test, result_test

        @result_test
        def test_result():
            pass

        @mono_test
        @pytest.mark.parametrize("number", [1, 2])
        async def test_mono(number):
            assert number

        @performance_test(max_duration_ms=60_000)
        @flux_test
        def test_flux(tmp_path):
            assert tmp_path

        @performance_test
        async def test_performance():
            pass

        @performance_test()
        def test_performance_called():
            pass

        @performance_test(max_duration_ms=0)
        def test_slow():
            pass

        @performance_test(max_duration_ms=0)
        async def test_slow_async():
            pass
    """

    @pytest.mark.parametrize(
        ("mark", "passed", "failed"),
        [
            ("result_test", 1, 0),
            ("mono_test", 2, 0),
            ("flux_test", 1, 0),
            ("performance_test", 3, 2),
            ("not performance_test", 3, 0),
        ],
    )
    def test_select_their_tests(self, pytester: pytest.Pytester, mark: str, passed: int, failed: int) -> None:
        """
        Each is a mark that pytest knows, beside other marks and fixtures, on plain and async tests; slow ones fail.
        """
        pytester.makepyfile(self.TESTS)

        run = pytester.runpytest(*PLUGIN, "--strict-markers", "-o", "asyncio_mode=auto", "-m", mark)

        run.assert_outcomes(passed=passed, failed=failed, deselected=8 - passed - failed)
        if failed:
            run.stdout.re_match_lines([r".*test_slow took [\d.]+ ms, more than 0 ms", r".*test_slow_async took "])

    def test_what_is_marked(self) -> None:
        """
        The function itself, which keeps its name; the limit is the mark's argument.
        """

        def work() -> None: ...

        async def work_async() -> None: ...

        def marks(test: Any) -> list[tuple[str, dict[str, object]]]:
            return [(mark.name, mark.kwargs) for mark in test.pytestmark if not mark.args]

        for mark in (result_test, mono_test, flux_test, performance_test):

            def test() -> None: ...

            assert mark(test) is test
            assert marks(test) == [(mark.__name__, {})]
        for limited in (performance_test(max_duration_ms=5)(work), performance_test(max_duration_ms=5)(work_async)):
            assert marks(limited) == [("performance_test", {"max_duration_ms": 5})]
            assert limited.__name__ in {"work", "work_async"}

    def test_limit_of_a_duration(self) -> None:
        """
        What takes just as long as it may passes, with its answer; what takes longer is told, plain or async.
        """

        @performance_test(max_duration_ms=500)
        def work(seconds: float) -> str:
            time.sleep(seconds)
            return "done"

        @performance_test(max_duration_ms=500)
        async def work_async(*, seconds: float) -> str:
            await asyncio.sleep(seconds)
            return "done"

        with VirtualTime():
            assert work(0.5) == "done"
            assert message_of(work, 0.501) == "work took 501.0 ms, more than 500 ms"
            assert asyncio.run(work_async(seconds=0.499)) == "done"
            told = asyncio.run(message_of_async(work_async(seconds=1.5)))
        assert told == "work_async took 1500.0 ms, more than 500 ms"


class TestFixture:
    def test_mocks_until_the_test_has_ended(self, pytester: pytest.Pytester) -> None:
        """
        `result_mocker_factory` finds the service from where the test stands, and the next test has the real one.
        """
        pytester.makepyfile("""
            from rfs.core.result import Success

            class Kitchen:
                def stock(self, dish):
                    return Success(0)

            def test_mocked(result_mocker_factory):
                kitchen = Kitchen()
                result_mocker_factory("kitchen", "stock").return_success(9)
                assert kitchen.stock("rice") == Success(9)
                result_mocker_factory(kitchen_of_all, "stock").return_success(9)

            kitchen_of_all = Kitchen()

            def test_gone():
                assert kitchen_of_all.stock("rice") == Success(0)
        """)

        pytester.runpytest(*PLUGIN).assert_outcomes(passed=2)

    def test_swallowed_mistake_is_told_after_the_test(self, pytester: pytest.Pytester) -> None:
        """
        That a mock had no answer is told also where the code under test has swallowed it.
        """
        pytester.makepyfile(
            shop="""
            class Kitchen:
                def stock(self, dish):
                    return 0

            kitchen = Kitchen()

            def order():
                try:
                    return kitchen.stock("rice")
                except Exception:
                    return "swallowed"
            """,
            test_shop="""
            import shop

            def test_order(result_mocker_factory):
                result_mocker_factory("shop.kitchen", "stock")
                assert shop.order() == "swallowed"
            """,
        )

        run = pytester.runpytest(*PLUGIN)

        run.assert_outcomes(passed=1, errors=1)
        run.stdout.fnmatch_lines(["E  *MockError: the mock was called and has no answer*(shop.kitchen.stock)"])


@log_result_operation("kitchen.cook")
async def cook(dish: str) -> Result[str, str]:
    """Code under test."""
    collect_metric("dishes_cooked", 1, MetricType.COUNTER)
    return await kitchen.cook(dish)


class TestContext:
    async def test_gives_a_monitor_of_its_own(self) -> None:
        """
        What is recorded inside of the block is counted there, and nowhere else.
        """
        before = default_monitor()

        async with result_test_context() as context:
            context.setup_metrics_collection()
            await cook("rice")
            await cook("rice")
            inside = default_monitor()
            metrics = context.get_collected_metrics()

        assert inside is context.monitor
        assert default_monitor() is before
        assert (metrics["dishes_cooked"], metrics["result_success_total"]) == (2, 2)
        assert context.monitor.service_name == "test"
        assert context.service_mocks == {}

    async def test_what_was_measured(self) -> None:
        """
        The increase of counters, the last value of gauges, how often histograms and timers were measured.
        """
        async with result_test_context() as context:
            for amount in (3, 5):
                collect_metric("plates", amount, MetricType.COUNTER)
                collect_metric("waiting", amount, MetricType.GAUGE)
                collect_metric("weight", amount, MetricType.HISTOGRAM)
                collect_metric("oven", amount, MetricType.TIMER)
            metrics = context.get_collected_metrics()

        assert {name: metrics[name] for name in ("plates", "waiting", "weight", "oven")} == {
            "plates": 8,
            "waiting": 5,
            "weight": 2,
            "oven": 2,
        }

    async def test_mocks_services_until_it_ends(self) -> None:
        """
        Services named at the start or later answer as told, and are themselves afterwards.
        """
        async with result_test_context({"kitchen.cook": Success("mocked")}) as context:
            mocks = context.setup_service_mocks({"kitchen.stock": Failure("none left")})

            assert await cook("rice") == Success("mocked")
            assert kitchen.stock("rice") == Failure("none left")
            context.assert_service_called("kitchen.cook")
            mocks["kitchen.stock"].assert_called_once_with("rice")

        assert await cook("rice") == Success("real rice")
        assert vars(kitchen) == {}

    async def test_service_that_was_not_called_is_told(self) -> None:
        """
        Not called, and not mocked, are two messages.
        """
        async with result_test_context({"kitchen.cook": Success("mocked")}) as context:
            assert message_of(context.assert_service_called, "kitchen.cook") == (
                "expected kitchen.cook to be called; it was not"
            )
            assert message_of(context.assert_service_called, "kitchen.wash") == (
                "kitchen.wash is not mocked; these are: kitchen.cook"
            )
            context.setup_service_mocks({"kitchen.stock": Success(1), f"{__name__}.kitchen.stock": Success(2)})
            assert message_of(context.assert_service_called, "kitchen.wash") == (
                f"kitchen.wash is not mocked; these are: kitchen.cook, kitchen.stock, {__name__}.kitchen.stock"
            )
            assert kitchen.stock("rice") == Success(2)
        async with result_test_context() as context:
            assert message_of(context.assert_service_called, "cook") == "cook is not mocked; these are: none"

    async def test_name_without_a_method_is_refused(self) -> None:
        """
        A mock needs a service and a method.
        """
        with pytest.raises(MockTargetError, match=r"^mock of kitchen: write it as `service\.method`$") as caught:
            async with result_test_context({"kitchen": Success(1)}):
                pass  # pragma: no cover

        assert seen(caught.value) == []

    async def test_answer_that_is_no_result_is_told(self) -> None:
        """
        A plain value in the place of a Result is a mistake of the test.
        """
        answer: Any = "mocked"

        async with result_test_context({"kitchen.stock": answer}):
            with pytest.raises(MockError, match="the side effect must return a Result, not str"):
                kitchen.stock("rice")

    async def test_prints_its_records(self, capsys: pytest.CaptureFixture[str]) -> None:
        """
        With logging set up, the block's records are JSON lines.
        """
        async with result_test_context() as context:
            context.setup_logging(level="DEBUG")
            await cook("rice")

        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
        assert {line["operation"] for line in lines} == {"kitchen.cook"}

    @pytest.mark.parametrize(
        ("level", "printed"),
        [({}, {"INFO"}), ({"level": "DEBUG"}, {"DEBUG", "INFO"}), ({"level": "ERROR"}, set[str]())],
    )
    async def test_prints_from_a_level_on(
        self, level: dict[str, Any], printed: set[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """
        It is INFO, if nothing else is said.
        """

        @log_result_operation("kitchen.peel", log_level="DEBUG")
        async def peel() -> Result[str, str]:
            return Success("peeled")

        async with result_test_context() as context:
            context.setup_logging(**level)
            await peel()
            await cook("rice")

        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
        assert {line["level"] for line in lines} == printed

    async def test_exception_ends_it_all(self) -> None:
        """
        A test that fails leaves neither mock nor monitor behind.
        """
        before = default_monitor()

        with pytest.raises(ZeroDivisionError):
            async with result_test_context({"kitchen.cook": Success("mocked")}):
                raise ZeroDivisionError

        assert default_monitor() is before
        assert vars(kitchen) == {}

    async def test_measurement_beyond_its_limit_fails(self) -> None:
        """
        Where performance is tracked, what took too long fails the test at its end; elsewhere there is nothing to track.
        """

        async def measured(*durations_ms: float) -> None:
            async with result_test_context(performance_tracking=True) as context:
                assert context.performance_data == []
                context.performance_data += [
                    {"duration_ms": each, "max_duration_ms": 10, "is_within_limit": each <= 10} for each in durations_ms
                ]

        await measured(9)
        assert await message_of_async(measured(11)) == "it took 11.0 ms, more than 10 ms"
        assert await message_of_async(measured(9, 12.34, 13)) == "it took 12.3 ms, more than 10 ms"
        async with result_test_context() as context:
            assert context.performance_data is None
