"""MonoResult: lazy chains (FEATURES A1, A2, A7)."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfs.core.result import Failure, Result, Success
from rfs.reactive import MonoResult, set_step_observer
from rfs.testing.fixtures import Telemetry
from rfs.testing.generators import results
from rfs.testing.result_helpers import (
    ResultServiceMocker,
    assert_mono_result_error,
    assert_mono_result_failure,
    assert_mono_result_value,
    assert_result_failure,
)
from rfs.testing.virtual_time import VirtualTime

numbers = results(st.integers(), st.text())
kleislis = st.functions(like=lambda n: n, returns=numbers, pure=True)


async def doubled(n: int) -> Result[int, str]:
    return Success(2 * n)


async def sold_out(_: object = None) -> Result[int, str]:
    return Failure("sold out")


def never(*_: object) -> Any:
    pytest.fail("a function was called that must not be")


def divide_by_zero(*_: object) -> Any:
    return 1 // 0


async def divided(*_: object) -> Result[int, str]:
    raise ZeroDivisionError


class TestLaziness:
    async def test_building_calls_nothing(self) -> None:
        """
        Every constructor and operator can be put together without a single call.
        """
        mono: Any = MonoResult.from_async_result(never)
        other: Any = MonoResult(never)
        (
            mono.map(never)
            .bind_result(never)
            .bind_async_result(never, name="x", timeout_seconds=1)
            .filter(never, "x")
            .map_error(never)
            .recover(never)
            .fallback(other)
            .on_error_return_result(never)
            .tap(never, never)
            .timeout(1)
            .retry(3, sleep=never)
            .cache()
            .zip(other)
            .first_success(other)
            .log_step("x")
            .log_error("x")
            .log_performance("x")
            .name("x")
        )
        MonoResult.from_callable(never)

    async def test_each_run_is_a_run(self) -> None:
        """
        Awaiting and to_result() each run the source once, every time.
        """
        source = ResultServiceMocker("kitchen", "cook").return_success(1)
        mono: MonoResult[int, str] = MonoResult(source)

        assert await mono == await mono.to_result() == Success(1)
        assert source.call_count == 2

    async def test_chain_goes_on_from_any_of_its_parts(self) -> None:
        """
        A chain that is extended twice is two chains; neither changes the other.
        """
        start = MonoResult.from_value(3)
        one, other = start.map(lambda n: n + 1), start.bind_async_result(doubled)

        assert [await one, await other, await start] == [Success(4), Success(6), Success(3)]

    async def test_class_is_kept(self) -> None:
        """
        Every method returns a new object of the class it was called on.
        """

        class Own(MonoResult[Any, Any]):
            pass

        own = Own(sold_out)
        made = [
            own.map(str),
            own.bind_result(Success),
            own.bind_async_result(doubled),
            own.filter(bool, "x"),
            own.map_error(str),
            own.recover(str),
            own.fallback(own),
            own.tap(),
            own.timeout(1),
            own.retry(1),
            own.cache(),
            own.zip(own),
            own.first_success(own),
            own.name("x"),
            own.log_step("x"),
            Own.from_value(1),
            Own.from_error(1),
            Own.from_result(Success(1)),
            Own.from_async_result(doubled),  # type: ignore[arg-type]
            Own.from_callable(str),
        ]

        assert {type(mono) for mono in made} == {Own}
        assert own not in made


class TestBeginnings:
    async def test_fixed_outcomes(self) -> None:
        """
        A value, an error or a Result can begin a chain.
        """
        await assert_mono_result_value(MonoResult.from_value(None), None)
        await assert_mono_result_error(MonoResult.from_error("x"), "x")
        await assert_mono_result_value(MonoResult.from_result(Success(1)), 1)

    async def test_from_callable_takes_plain_and_async_functions(self) -> None:
        """
        A function that returns a value, or an awaitable of one, begins a chain.
        """

        async def seven() -> int:
            return 7

        await assert_mono_result_value(MonoResult.from_callable(seven), 7)
        await assert_mono_result_value(MonoResult.from_callable(lambda: 7), 7)
        await assert_mono_result_error(MonoResult.from_callable(divide_by_zero), ZeroDivisionError)

    async def test_step_may_return_a_chain(self) -> None:
        """
        What an async step returns is awaited, also when it is a MonoResult.
        """
        mono = MonoResult.from_value(1).bind_async_result(lambda n: MonoResult.from_value(n + 1))

        await assert_mono_result_value(mono, 2)


class TestSteps:
    async def test_value_side(self) -> None:
        """
        Values go through map, map_result, bind_result, bind_async_result and filter in order.
        """
        mono = (
            MonoResult.from_value(1)
            .map(lambda n: n + 1)
            .map_result(lambda n: n * 10)
            .bind_result(lambda n: Success(n + 1))
            .bind_async_result(doubled)
            .filter(lambda n: n == 42, "wrong")
        )

        await assert_mono_result_value(mono, 42)
        await assert_mono_result_error(mono.filter(lambda n: n == 0, "wrong"), "wrong")

    async def test_after_a_failure_no_value_step_is_called(self) -> None:
        """
        A step after a Failure is called 0 times, and the same error arrives.
        """
        error = ["sold out"]
        mono: MonoResult[Any, Any] = (
            MonoResult.from_error(error)
            .map(never)
            .bind_result(never)
            .bind_async_result(never)
            .filter(never, "x")
            .do_on_success(never)
        )

        assert await assert_mono_result_failure(mono) is error

    async def test_after_a_success_no_error_step_is_called(self) -> None:
        """
        The error side is passed over as long as all goes well.
        """
        mono: MonoResult[Any, Any] = (
            MonoResult.from_value(1)
            .map_error(never)
            .recover(never)
            .fallback(MonoResult(never))
            .on_error_return_result(never)
            .on_error_return_value(5)
            .do_on_error(never)
        )

        await assert_mono_result_value(mono, 1)

    async def test_error_side(self) -> None:
        """
        map_error translates; recover, fallback and the on_error methods lead back to a value.
        """
        failed = MonoResult(sold_out)

        async def remembered(error: str) -> Result[str, str]:
            return Success(error.upper())

        await assert_mono_result_error(failed.map_error(len), 8)
        await assert_mono_result_value(failed.recover(len), 8)
        await assert_mono_result_value(failed.fallback(MonoResult.from_value(2)), 2)
        await assert_mono_result_value(failed.fallback(lambda: doubled(4)), 8)
        await assert_mono_result_value(failed.on_error_return_result(lambda e: Success(e + "!")), "sold out!")
        await assert_mono_result_value(failed.on_error_return_result(remembered), "SOLD OUT")
        await assert_mono_result_value(failed.on_error_return_value(None), None)

    async def test_recovery_can_be_limited_to_codes(self) -> None:
        """
        Recover and fallback leave errors of other codes as they are.
        """
        failed = MonoResult.from_error(KeyError("table"))

        await assert_mono_result_error(failed.recover(lambda _: 1, on_codes="ValueError"), KeyError)
        await assert_mono_result_value(failed.recover(lambda _: 1, on_codes="KeyError"), 1)
        await assert_mono_result_value(failed.fallback(MonoResult.from_value(2), on_codes=["X", "KeyError"]), 2)
        await assert_mono_result_error(failed.fallback(MonoResult(never), on_codes={"X"}), KeyError)


class TestDefects:
    @pytest.mark.parametrize(
        "add",
        [
            lambda mono: mono.map(divide_by_zero),
            lambda mono: mono.bind_result(divide_by_zero),
            lambda mono: mono.bind_async_result(divide_by_zero),
            lambda mono: mono.bind_async_result(divided),
            lambda mono: mono.filter(divide_by_zero, "x"),
            lambda mono: mono.bind_result(Failure).map_error(divide_by_zero),
            lambda mono: mono.bind_result(Failure).recover(divide_by_zero),
            lambda mono: mono.bind_result(Failure).fallback(divide_by_zero),
            lambda mono: mono.bind_result(Failure).on_error_return_result(divide_by_zero),
            lambda _: MonoResult(divide_by_zero),
            lambda _: MonoResult(divided),
        ],
    )
    async def test_raising_step_never_escapes(self, add: Callable[[Any], MonoResult[Any, Any]]) -> None:
        """
        Whichever function raises, the Result is a defect that holds the exception with its traceback.
        """
        failed: Any = await add(MonoResult.from_value(1))

        error = assert_result_failure(failed, ZeroDivisionError)
        assert failed.is_defect
        assert error.__traceback__ is not None

    async def test_defect_keeps_nothing_alive_but_itself(self) -> None:
        """
        When the Result of a raising step is let go, all it held goes at once, without the garbage collector.
        """

        class Row:
            pass

        alive: weakref.WeakSet[Row] = weakref.WeakSet()

        async def raises(_: object) -> Result[int, str]:
            row = Row()
            alive.add(row)
            raise ValueError

        mono = MonoResult.from_value(1).bind_async_result(raises).map(str).retry(1).timeout(5).recover(divide_by_zero)
        gc.disable()
        try:
            result = await mono
            assert len(alive) > 0
            del result
            assert len(alive) == 0
        finally:
            gc.enable()

    async def test_declared_failure_is_no_defect(self) -> None:
        """
        A Failure that a step returned is told apart from a bug.
        """
        failed: Any = await MonoResult(sold_out)

        assert not failed.is_defect

    async def test_step_that_forgot_its_result_is_named(self) -> None:
        """
        A step that returns no Result is a defect whose text names the step.
        """

        async def forgetful(_: int) -> Any:
            return 5

        start: MonoResult[Any, Any] = MonoResult.from_value(1)
        given: Any = 5
        async_error = await assert_mono_result_error(start.bind_async_result(forgetful), TypeError)
        error = await assert_mono_result_error(start.bind_result(lambda _: None), TypeError)  # type: ignore[arg-type, return-value]
        given_error = await assert_mono_result_error(MonoResult.from_result(given), TypeError)

        assert str(async_error) == "the function given to forgetful must return a Result, not int"
        assert str(error) == "the function given to bind_result must return a Result, not NoneType"
        assert "from_result must return a Result, not int" in str(given_error)

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit])
    async def test_what_is_no_exception_passes_through(self, kind: type[BaseException]) -> None:
        """
        The very object that a step raised comes out of the chain.
        """
        escaping = kind("out")

        def leave(*_: object) -> Any:
            raise escaping

        start: Any = MonoResult.from_value(1)
        mono: MonoResult[Any, Any]
        for mono in (
            MonoResult(leave),
            start.map(leave),
            start.bind_async_result(leave, name="x"),
            start.tap(leave),
            start.bind_result(Failure).recover(leave),
            start.map(leave).timeout(5).retry(2),
        ):
            with pytest.raises(kind) as caught:
                await mono
            assert caught.value is escaping


class TestTap:
    async def test_sees_value_or_error(self) -> None:
        """
        tap, inspect, do_on_success and do_on_error look at one side each, plain or async.
        """
        seen: list[object] = []

        async def see(thing: object) -> None:
            seen.append(thing)

        value, error = MonoResult.from_value(1), MonoResult.from_error("x")
        await assert_mono_result_value(
            value.tap(seen.append, never).inspect(seen.append).do_on_success(see).do_on_error(never), 1
        )
        await assert_mono_result_error(error.tap(never, seen.append).inspect(never).do_on_error(see), "x")
        assert seen == [1, 1, 1, "x", "x"]

    async def test_can_never_alter_the_result(self, telemetry: Telemetry) -> None:
        """
        A tap that raises leaves the Result identical and is counted once by where it was.
        """
        result = Success([1])

        assert await MonoResult.from_result(result).tap(divide_by_zero) is result
        telemetry.assert_metric("telemetry_internal_errors_total", 1, where="reactive.tap")
        telemetry.assert_health(internal_errors=1)

    async def test_who_records_is_told_the_very_error(self, observer: Mock) -> None:
        """
        What a tap raises is handed on as it is, with the word for where it was.
        """
        broken = ValueError("x")

        def raises(_: object) -> None:
            raise broken

        await assert_mono_result_value(MonoResult.from_value(1).tap(raises), 1)

        observer.internal_error.assert_called_once_with("reactive.tap", broken)

    async def test_side_that_nobody_looks_at_is_no_error(self, observer: Mock) -> None:
        """
        A tap with a function for one side has nothing to do on the other, and nothing goes wrong there.
        """
        await assert_mono_result_value(MonoResult.from_value(1).tap(on_error=never).do_on_error(never).tap(), 1)
        await assert_mono_result_error(MonoResult.from_error("x").tap(never).do_on_success(never).tap(), "x")

        observer.internal_error.assert_not_called()

    async def test_observer_can_never_alter_the_result(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        An observer that raises, at the step and at the report of it too, changes nothing.
        """

        class Broken:
            def step(self, event: object) -> None:
                raise RuntimeError("step")

            def internal_error(self, where: str, error: BaseException) -> None:
                raise RuntimeError("internal_error")

        from rfs.reactive import _observer

        monkeypatch.setattr(_observer, "unreported", 40)
        previous = set_step_observer(Broken())
        try:
            await assert_mono_result_value(MonoResult.from_value(1).log_step("x").tap(divide_by_zero), 1)
        finally:
            set_step_observer(previous)

        assert _observer.unreported == 42


@pytest.mark.usefixtures("virtual_time")
class TestTogether:
    async def test_zip_runs_at_the_same_time(self, virtual_time: VirtualTime) -> None:
        """
        Three chains of 1, 2 and 3 s are joined after 3 s, in order.
        """
        joined = after(3, Success("a")).zip(after(1, Success("b")), after(2, Success("c")))

        await assert_mono_result_value(joined, ("a", "b", "c"))
        assert virtual_time.elapsed_seconds == 3

    async def test_zip_ends_at_the_first_failure(self, virtual_time: VirtualTime) -> None:
        """
        The first Failure to come is the Result; the others are cancelled and gone.
        """
        cancelled: list[str] = []

        joined = after(9, Success(1), cancelled).zip(after(1, Failure("early")), after(2, Failure("late")))

        await assert_mono_result_error(joined, "early")
        assert virtual_time.elapsed_seconds == 1
        assert cancelled == ["cancelled"]

    async def test_first_success_takes_the_first_to_come(self, virtual_time: VirtualTime) -> None:
        """
        Failures are waited out, the first Success wins, the rest is cancelled.
        """
        cancelled: list[str] = []

        race = after(1, Failure("x")).first_success(after(3, Success("c"), cancelled), after(2, Success("b")))

        await assert_mono_result_value(race, "b")
        assert virtual_time.elapsed_seconds == 2
        assert cancelled == ["cancelled"]

    async def test_first_success_of_failures_is_all_errors(self) -> None:
        """
        Without a Success, the errors come in the order of the chains.
        """
        race = after(2, Failure("a")).first_success(after(1, Failure("b")))

        await assert_mono_result_error(race, ["a", "b"])

    @pytest.mark.parametrize("kind", [KeyError, asyncio.CancelledError, BaseException])
    async def test_what_escapes_from_one_is_raised_as_it_is(self, kind: type[BaseException]) -> None:
        """
        An Exception is a Failure; anything else cancels the others and comes out unwrapped.
        """
        cancelled: list[str] = []
        escaping = kind("out")

        joined = after(9, Success(1), cancelled).zip(after(1, escaping))
        if isinstance(escaping, Exception):
            await assert_mono_result_error(joined, escaping)
        else:
            with pytest.raises(kind):
                await joined

        assert cancelled == ["cancelled"]

    async def test_parallel_map_async_keeps_order_and_bound(self) -> None:
        """
        Results are in the order of the chains; no more than max_concurrent run at once.
        """
        running, most = 0, 0

        async def work(n: int) -> Result[int, str]:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(10 - n)
            running -= 1
            return Success(n) if n % 3 else Failure(str(n))

        monos: list[MonoResult[int, str]] = [MonoResult(lambda n=n: work(n)) for n in range(10)]  # type: ignore[misc]

        found = await MonoResult.parallel_map_async(monos, max_concurrent=3)

        assert found == [Success(n) if n % 3 else Failure(str(n)) for n in range(10)]
        assert most == 3
        assert await MonoResult.parallel_map_async([], max_concurrent=3) == []

    async def test_bound_must_be_positive(self) -> None:
        """
        A bound with which nothing could run is refused, by name and value.
        """
        with pytest.raises(ValueError, match="max_concurrent must be at least 1, not 0"):
            await MonoResult.parallel_map_async([], 0)


def after(seconds: float, outcome: Any, cancelled: list[str] | None = None) -> MonoResult[Any, Any]:
    """Make a chain that takes that long and then returns, or raises, *outcome*."""

    async def source() -> Any:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            if cancelled is not None:
                cancelled.append("cancelled")
            raise
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return MonoResult(source)


class TestShowing:
    def test_steps_are_data(self) -> None:
        """
        A chain lists what it was built of, with names and options, those inside of a timeout too.
        """
        mono = (
            MonoResult.from_async_result(sold_out)
            .bind_async_result(doubled, timeout_seconds=2)
            .bind_async_result(lambda n: doubled(n), name="again")
            .timeout(5)
            .retry(2, backoff_seconds=0.5, on_codes={"TIMEOUT"})
            .fallback(MonoResult.from_value(1), on_codes="TIMEOUT")
            .log_step("done")
            .name("order")
        )

        assert [(step.operator, step.name) for step in mono.steps] == [
            ("from_async_result", "sold_out"),
            ("bind_async_result", "doubled"),
            ("bind_async_result", "again"),
            ("timeout", "timeout"),
            ("retry", "retry"),
            ("fallback", "fallback"),
            ("log_step", "done"),
        ]
        assert mono.steps[1].options == {"timeout_seconds": 2}
        assert mono.steps[4].options["on_codes"] == ["TIMEOUT"]

    def test_repr_reads_like_the_chain(self) -> None:
        """
        The repr of a chain is its name and its steps.
        """
        mono = MonoResult(sold_out, name="find").map(str).timeout(5).log_performance("all", 100).name("order")

        assert repr(mono) == (
            "MonoResult('order': from_async_result(find) → map(str) → timeout(seconds=5)"
            " → log_performance(all, threshold_ms=100))"
        )
        assert repr(MonoResult(lambda: sold_out())) == "MonoResult(from_async_result())"
        named = (
            MonoResult.from_async_result(sold_out, "a")
            .map(abs, "b")
            .bind_result(Success, "c")
            .bind_async_result(doubled, "d")
        )
        assert [step.name for step in named.steps] == ["a", "b", "c", "d"]
        assert repr(MonoResult.from_value(1)) == "MonoResult(from_value())"
        assert repr(MonoResult.from_error(1)) == "MonoResult(from_error())"


class TestLaws:
    @given(numbers, kleislis, kleislis)
    async def test_chain_is_as_good_as_result(
        self, result: Result[int, str], f: Callable[[int], Result[int, str]], g: Callable[[int], Result[int, str]]
    ) -> None:
        """
        Binding in a chain, plain or async, gives what binding the Result gives; grouping does not matter.
        """

        def async_of(h: Callable[[int], Result[int, str]]) -> Callable[[int], Awaitable[Result[int, str]]]:
            async def called(n: int) -> Result[int, str]:
                return h(n)

            return called

        start = MonoResult.from_result(result)
        expected = result.bind(f).bind(g)
        assert await start.bind_result(f).bind_result(g) == expected
        assert await start.bind_async_result(async_of(f)).bind_async_result(async_of(g)) == expected
        grouped = start.bind_async_result(lambda n: MonoResult.from_result(f(n)).bind_async_result(async_of(g)))
        assert await grouped == expected
        assert await start.bind_async_result(MonoResult.from_value) == result
