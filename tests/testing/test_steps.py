"""Steps, values, failures, retries, time and cancellation of chains and streams; and how each failure reads (FEATURES L3)."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from enum import StrEnum
from textwrap import dedent
from typing import Any

import pytest
from dirty_equals import IsPositive, IsStr

from rfs.core.result import Failure, Result, Success
from rfs.reactive import FluxResult, MonoResult
from rfs.testing import steps
from rfs.testing.steps import READ_AHEAD, StepVerifier
from rfs.testing.virtual_time import VirtualTime
from tests.testing.conftest import watched
from tests.testing.programs.wrong import seen


class Code(StrEnum):
    DECLINED = "DECLINED"


class DeclinedError(Exception):
    code = Code.DECLINED


@pytest.fixture(scope="module", autouse=True)
def clock() -> Iterator[VirtualTime]:
    """Virtual time for all of these tests: no hour takes any."""
    with VirtualTime() as clock:
        yield clock


def verify(verifier: StepVerifier) -> float:
    """Return how many seconds it took, to the microsecond."""
    began = time.monotonic()
    asyncio.run(watched(verifier.verify_complete()))
    return round(time.monotonic() - began, 6)


def message(verifier: StepVerifier) -> str:
    """How *verifier* fails."""
    with pytest.raises(AssertionError) as caught:
        verify(verifier)
    assert [each for each in seen(caught.value) if each.startswith("rfs.testing.steps.")] == []
    return str(caught.value)


class Work:
    """Takes a second; the first *failures* times it fails."""

    def __init__(self, failures: int = 0, seconds: float = 1.0) -> None:
        self.failures = failures
        self.seconds = seconds
        self.calls = 0

    async def __call__(self, *_: object) -> Result[str, DeclinedError]:
        self.calls += 1
        await asyncio.sleep(self.seconds)
        return Failure(DeclinedError("no funds")) if self.calls <= self.failures else Success("paid")


async def find_table() -> Result[int, str]:
    return Success(7)


def order(failures: int = 0, retries: int = 3) -> MonoResult[str, Any]:
    """Finds a table, then takes a second to charge; pauses 2, 4, ... seconds between the attempts."""
    return (
        MonoResult.from_async_result(find_table)
        .log_step("found")
        .bind_async_result(Work(failures), name="charge")
        .retry(retries, backoff_seconds=2)
        .map(str.upper, name="upper")
        .log_step("done")
    )


async def numbers(*pauses: float, error: Exception | None = None) -> AsyncIterator[int]:
    """Gives 1, 2, ... each after its pause."""
    for number, pause in enumerate(pauses, 1):
        await asyncio.sleep(pause)
        yield number
    if error is not None:
        raise error


def breaks(value: object) -> Any:
    raise ZeroDivisionError(value)


def raises() -> Any:
    raise LookupError("no rice")


async def breaks_later(value: object) -> Any:
    raise KeyError(value)


async def no_result(value: object) -> Any:
    return value


VALUE, ERROR = MonoResult.from_value, MonoResult.from_error
SLOW = "step 'charge' timed out: its timeout of 5 s is over"

SEEN: dict[str, tuple[Callable[[], MonoResult[Any, Any]], list[str]]] = {
    "map": (lambda: VALUE(1).map(str, name="text"), ["step 'text' ok: Success('1')", "Success('1')"]),
    "bug": (
        lambda: VALUE(1).map(breaks).map(str),
        ["step 'breaks' failed: Failure(ZeroDivisionError(1))", "Failure(ZeroDivisionError(1))"],
    ),
    "bind_result": (
        lambda: VALUE(1).bind_result(lambda n: Success(n + 1), name="plus").bind_result(Failure, name="fails"),
        ["step 'plus' ok: Success(2)", "step 'fails' failed: Failure(2)", "Failure(2)"],
    ),
    "bind_async_result": (
        lambda: VALUE(1).bind_async_result(breaks_later),
        ["step 'breaks_later' failed: Failure(KeyError(1))", "Failure(KeyError(1))"],
    ),
    "no result": (
        lambda: VALUE(1).bind_async_result(no_result),
        [
            "step 'no_result' failed: Failure(TypeError('the function given to no_result must return a Result, not int'))",
            "Failure(TypeError('the function given to no_result must return a Result, not int'))",
        ],
    ),
    "filter": (
        lambda: VALUE(1).filter(bool, "x").filter(lambda n: not n, "y"),
        ["step 'filter' failed: Failure('y')", "Failure('y')"],
    ),
    "map_error": (lambda: ERROR("x").map_error(str.upper), ["step 'map_error' failed: Failure('X')", "Failure('X')"]),
    "recover": (lambda: ERROR("x").recover(len), ["step 'recover' recovered: Success(1)", "Success(1)"]),
    "recover of others": (lambda: ERROR("x").recover(len, on_codes="Y"), ["Failure('x')"]),
    "on_error_return_value": (
        lambda: ERROR("x").on_error_return_value(2),
        ["step 'on_error_return_value' recovered: Success(2)", "Success(2)"],
    ),
    "on_error_return_result": (
        lambda: ERROR("x").on_error_return_result(lambda _: Failure("z")),
        ["step 'on_error_return_result' failed: Failure('z')", "Failure('z')"],
    ),
    "fallback": (lambda: ERROR("x").fallback(VALUE(4)), ["step 'fallback' recovered: Success(4)", "Success(4)"]),
    "fallback that fails": (
        lambda: ERROR("x").fallback(ERROR("w")),
        ["step 'fallback' failed: Failure('w')", "Failure('w')"],
    ),
    "zip": (lambda: VALUE(1).zip(VALUE(2)), ["step 'zip' ok: Success((1, 2))", "Success((1, 2))"]),
    "first_success": (
        lambda: ERROR("x").first_success(VALUE(3)),
        ["step 'first_success' ok: Success(3)", "Success(3)"],
    ),
    "first_success of none": (
        lambda: ERROR("x").first_success(ERROR("y")),
        ["step 'first_success' failed: Failure(['x', 'y'])", "Failure(['x', 'y'])"],
    ),
    "first_success that changes nothing": (lambda: VALUE(1).first_success(VALUE(3)), ["Success(1)"]),
    "tap": (lambda: VALUE(1).tap(lambda _: None), ["Success(1)"]),
    "logged": (
        lambda: (
            ERROR("x")
            .log_step("a")
            .log_step("b")
            .log_error("c")
            .recover(len)
            .log_performance("d")
            .log_step("e")
            .log_error("f")
        ),
        [
            "step 'a' failed: Failure('x')",
            "step 'b' skipped: Failure('x')",
            "step 'c' skipped: Failure('x')",
            "step 'recover' recovered: Success(1)",
            "step 'd' recovered: Success(1)",
            "step 'e' recovered: Success(1)",
            "step 'f' ok: Success(1)",
            "Success(1)",
        ],
    ),
    "logged where nothing changes": (
        lambda: VALUE(1).log_step("a").filter(bool, "x").tap(str).recover(len).on_error_return_value(2).log_step("b"),
        ["step 'a' ok: Success(1)", "step 'b' ok: Success(1)", "Success(1)"],
    ),
    "operators that raise": (
        lambda: MonoResult.from_callable(raises).recover(breaks).on_error_return_result(breaks_later),
        [
            "step 'raises' failed: Failure(LookupError('no rice'))",
            "step 'recover' failed: Failure(ZeroDivisionError(LookupError('no rice')))",
            "step 'on_error_return_result' failed: Failure(KeyError(ZeroDivisionError(LookupError('no rice'))))",
            "Failure(KeyError(ZeroDivisionError(LookupError('no rice'))))",
        ],
    ),
    "operator without a Result": (
        lambda: ERROR("x").on_error_return_result(no_result),
        [
            f"{step}Failure(TypeError('the function given to on_error_return_result must return a Result, not str'))"
            for step in ("step 'on_error_return_result' failed: ", "")
        ],
    ),
    "timeout": (
        lambda: MonoResult.from_async_result(Work(seconds=60), name="charge").timeout(5).log_step("late"),
        [
            "step 'charge' cancelled",
            *(f'step {name!r} failed: Failure(StepTimeoutError("{SLOW}"))' for name in ("timeout", "late")),
            f'Failure(StepTimeoutError("{SLOW}"))',
        ],
    ),
    "cache": (
        lambda: MonoResult.from_async_result(find_table).cache().map(str),
        ["step 'find_table' ok: Success(7)", "step 'str' ok: Success('7')", "Success('7')"],
    ),
}


class TestSteps:
    @pytest.mark.parametrize("name", SEEN)
    def test_what_is_seen_of_a_chain(self, name: str) -> None:
        """
        Each step with its outcome and Result, operators where they change something, and the Result of the whole.
        """
        chain, lines = SEEN[name]

        told = message(StepVerifier(chain()).expect_count(2)).split("  before it:\n")[1]

        assert re.findall(r"^    [\d.]+ s  (.*)$", told, re.MULTILINE) == lines

    def test_each_retry_has_its_number(self) -> None:
        """
        Of a retry within a retry, too: the outer one begins the inner one anew, which counts from 1 again.
        """
        mono = MonoResult.from_async_result(Work(3), name="charge").retry(1).map_error(str).retry(1).map(str.upper)

        told = message(StepVerifier(mono).expect_retry(3).expect_value("paid"))

        charge, retry = (
            "step 'charge' failed: Failure(DeclinedError('no funds'))",
            "after Failure(DeclinedError('no funds'))",
        )
        assert re.findall(r"s  (.*)$", told, re.MULTILINE) == [
            "Success('PAID')",
            charge,
            f"retry 1 {retry}",
            charge,
            "step 'map_error' failed: Failure('no funds')",
            "retry 1 after Failure('no funds')",
            charge,
            f"retry 1 {retry}",
            "step 'charge' ok: Success('paid')",
            "step 'upper' ok: Success('PAID')",
        ]

    def test_a_retried_order(self) -> None:
        """
        Steps, retries with their pauses, the value and the end, to the second: 1 + 2 + 1 + 4 + 1 of virtual time.
        """
        took = verify(
            StepVerifier(order(failures=2))
            .expect_step("find_table", "ok", 7)
            .expect_step("found")
            .expect_step("charge", "failed", DeclinedError)
            .within(1, at_least=1)
            .expect_retry()
            .within(2, at_least=2)
            .expect_step("charge", "failed")
            .expect_no_event(4)
            .expect_retry()
            .within(0)
            .expect_step("charge")
            .expect_step("upper", expected="PAID")
            .expect_step("done")
            .expect_value("PAID")
        )

        assert took == 9

    def test_steps_may_be_left_out(self) -> None:
        """
        What nobody asks for may happen, as long as it is a step.
        """
        verify(StepVerifier(order()).expect_step("done").expect_value("PAID"))
        verify(StepVerifier(order()).expect_value("PAID"))

    def test_logged_steps_have_their_outcomes(self) -> None:
        """
        A logged step after a Failure has failed, the next is skipped, and one after a recovery is recovered.
        """
        mono = MonoResult.from_error("x").log_step("a").log_step("b").recover(lambda _: 1).log_step("c").log_step("d")

        verify(
            StepVerifier(mono)
            .expect_step("a", "failed", "x")
            .expect_step("b", "skipped")
            .expect_step("recover", "recovered", 1)
            .expect_step("c", "recovered")
            .expect_step("d")
            .expect_value(1)
        )

    @pytest.mark.parametrize("kind", ["map", "bind_result", "bind_async_result"])
    def test_a_step_that_raises_has_failed(self, kind: str) -> None:
        """
        A bug in a step is a step that failed, with the exception that was raised, and a defect in the end.
        """

        def step(value: int) -> Any:
            raise ZeroDivisionError(value)

        mono: MonoResult[Any, Any] = getattr(MonoResult.from_value(1), kind)(step)

        verify(StepVerifier(mono).expect_step("step", "failed", ZeroDivisionError).expect_failure(defect=True))

    def test_operators_are_steps_where_they_change_something(self) -> None:
        """
        A filter that lets pass tells nothing; one that does not is a step that failed.
        """
        mono = MonoResult.from_value(1).filter(lambda n: n > 1, "small")

        verify(StepVerifier(mono).expect_step("filter", "failed", "small").expect_failure("small"))
        assert "before it: nothing" in message(StepVerifier(MonoResult.from_value(2).filter(bool, "zero")))

    def test_steps_inside_of_operators_are_seen(self) -> None:
        """
        A timeout, a cache, a zip and a race hide nothing of the chain they are called on.
        """
        start = MonoResult.from_async_result(find_table)
        other = MonoResult.from_value(8)

        for mono in (start.timeout(5), start.cache(), start.zip(other), start.first_success(other)):
            verify(StepVerifier(mono).expect_step("find_table").expect_value())

    def test_what_was_there_from_the_start_is_retried(self) -> None:
        """
        A chain that begins with a Result is watched inside of an operator as any other: it runs, and its retry is seen.
        """
        mapped: list[str] = []

        def renamed(error: str) -> str:
            mapped.append(error)
            return "y"

        mono = MonoResult.from_error("x").retry(1).map_error(renamed)

        verify(StepVerifier(mono).expect_retry().expect_step("map_error", "failed", "y").expect_failure("y"))

        assert mapped == ["x"]

    def test_a_fault_of_the_verifier_is_no_failure(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Where the verifier itself cannot go on it raises, and does not take that for what the chain does.
        """

        def broken(*_: object) -> None:
            raise LookupError("a bug")

        monkeypatch.setattr(steps, "_watched", broken)

        with pytest.raises(LookupError, match="a bug"):
            verify(StepVerifier(MonoResult.from_value(1)).expect_failure())

    def test_a_timeout_is_a_step_and_its_step_is_cancelled(self) -> None:
        """
        The step that was too slow is cancelled at the limit, and named by the error, as without a verifier.
        """
        mono = MonoResult.from_async_result(Work(seconds=60), name="charge").timeout(5)

        verify(
            StepVerifier(mono)
            .expect_step("charge", "cancelled")
            .within(5, at_least=5)
            .expect_step("timeout", "failed")
            .expect_failure(lambda error: error.step == "charge", code="TIMEOUT", defect=False)
        )

    def test_a_timeout_that_interrupts_no_step_names_the_last(self) -> None:
        """
        Where a step answers its own cancellation the error says what it says without a verifier.
        """

        async def stubborn() -> Result[str, str]:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return Success("late")
            return Success("never")

        mono = MonoResult.from_async_result(stubborn).timeout(5)

        verify(StepVerifier(mono).expect_failure(lambda error: error.step == "stubborn", code="TIMEOUT"))

    def test_steps_are_no_events(self) -> None:
        """
        Where nothing is expected, steps may come, and at the last instant anything.
        """
        took = verify(
            StepVerifier(order())
            .expect_no_event(0.5)
            .expect_no_event(0.5)
            .expect_step("found")
            .within(0)
            .expect_value("PAID")
            .within(0)
        )

        assert took == 1

    def test_what_is_done_first_finds_the_source_begun(self) -> None:
        """
        Before the first expectation the source has had a turn; the same function may be asked for plainly and as async.
        """
        work = Work()
        calls: list[int] = []

        verify(StepVerifier(MonoResult(work)).then(lambda: calls.append(work.calls)).expect_value("paid"))

        assert calls == [1]

    def test_the_limits_of_several_are_those_of_the_last(self) -> None:
        """
        Two retries after 1 + 2 + 1 + 4 seconds: the first of them may come sooner.
        """
        verify(StepVerifier(order(failures=2)).expect_retry(2).within(8, at_least=8).expect_value())

    def test_the_chain_itself_is_not_changed(self) -> None:
        """
        A cached chain that was verified is cached; the next run of it calls nothing.
        """
        work = Work()
        mono = MonoResult.from_async_result(work, name="charge").cache()

        verify(StepVerifier(mono).expect_step("charge").expect_value("paid"))
        verify(StepVerifier(mono).expect_value("paid").within(0))

        assert work.calls == 1

    def test_a_verifier_is_run_again(self) -> None:
        """
        Each run has its own attempts, and adding to a verifier leaves the one it was made of as it was.
        """
        work = Work()
        found = StepVerifier(MonoResult.from_async_result(work, name="charge")).expect_step("charge")
        whole = found.expect_value("paid")

        verify(whole)
        verify(whole)

        assert work.calls == 2
        assert "expectation 2 of 2, verify_complete()" in message(found)


class TestStreams:
    def test_values_and_failures_in_order(self) -> None:
        """
        A collection, a stream and an async iterator are verified alike.
        """
        flux: FluxResult[int, str] = FluxResult.from_results([Success(1), Failure("x"), Success(3)])

        async def cook(number: int) -> Result[int, str]:
            return Failure("x") if number == 2 else Success(number)

        async def results() -> AsyncIterator[Result[int, str]]:
            for result in flux:
                yield result

        for source in (flux, FluxResult.from_iterable_async([1, 2, 3], cook), results()):
            verify(StepVerifier(source).expect_value(1).expect_failure("x").expect_value(3))

    def test_plain_values_and_an_exception(self) -> None:
        """
        An async iterator needs no Results; what it raises is a failure, a defect, and the last thing.
        """
        verify(
            StepVerifier(numbers(1, 2, error=OSError("gone")))
            .expect_values(1, 2)
            .within(3, at_least=3)
            .expect_failure(OSError, defect=True)
        )

    def test_an_iterator_that_cannot_be_closed(self) -> None:
        """
        What has nothing but items is read all the same, and need not be closed.
        """

        class Numbers:
            def __init__(self) -> None:
                self.given = 0

            def __aiter__(self) -> Numbers:
                return self

            async def __anext__(self) -> int:
                if self.given == 2:
                    raise StopAsyncIteration
                self.given += 1
                return self.given

        verify(StepVerifier(Numbers()).expect_values(1, 2))

    def test_awaitables(self) -> None:
        """
        A function that returns a Result, a FluxResult or a value is awaited.
        """
        sources = FluxResult.from_async_results([find_table, find_table])

        verify(StepVerifier(find_table()).expect_value(7))
        verify(StepVerifier(sources).expect_values(7, 7))
        verify(StepVerifier(asyncio.sleep(1, "plain")).expect_value("plain").within(1, at_least=1))

    def test_time_passes_while_nobody_looks(self) -> None:
        """
        After then_await what has come meanwhile is there, with the time at which it came.
        """
        took = verify(
            StepVerifier(numbers(1, 1, 1)).then_await(2.5).expect_values(1, 2).within(0).expect_count(1).within(0.5)
        )

        assert took == 3

    def test_an_endless_stream_is_cancelled(self) -> None:
        """
        A stream that never waits is read ahead by so many values, and is closed when it is cancelled.
        """
        given: list[int] = []
        closed: list[bool] = []

        async def endless() -> AsyncIterator[int]:
            try:
                while True:
                    given.append(len(given))
                    yield given[-1]
            finally:
                closed.append(True)

        verify(StepVerifier(endless()).expect_values(0, 1).expect_count(2000).then_cancel())

        assert closed == [True]
        assert 2002 <= len(given) <= 2002 + READ_AHEAD
        given.clear()
        verify(StepVerifier(endless()).then_await(1).then_cancel())
        assert len(given) == READ_AHEAD

    def test_something_is_done_meanwhile(self) -> None:
        """
        `then` calls a function, plain or async, between two expectations.
        """
        queue: asyncio.Queue[int] = asyncio.Queue()

        async def received() -> AsyncIterator[int]:
            while number := await queue.get():
                yield number

        async def put_three() -> None:
            await queue.put(3)

        verify(
            StepVerifier(received())
            .expect_no_event(10)
            .then(lambda: queue.put_nowait(2))
            .expect_value(2)
            .then(put_three)
            .expect_value(3)
            .then(lambda: queue.put_nowait(0))
        )


class TestCancellation:
    def test_it_meets_the_running_step(self) -> None:
        """
        The innermost step that was running is named, inside of a timeout and a retry, too.
        """
        mono = MonoResult.from_async_result(Work(seconds=60), name="charge").retry(2).timeout(30)

        took = verify(StepVerifier(mono).then_await(5).then_cancel().expect_cancelled("charge"))

        assert took == 5

    def test_it_meets_nothing_of_what_ended_before(self) -> None:
        """
        A step that was cancelled at its time limit is not the one that a later cancellation meets.
        """
        slow = MonoResult.from_async_result(Work(seconds=60), name="charge").timeout(5)
        retried = StepVerifier(slow.retry(1, backoff_seconds=20, max_backoff_seconds=20)).then_await(10).then_cancel()

        verify(retried.expect_cancelled("retry"))
        verify(retried.expect_cancelled())
        assert message(retried.expect_cancelled("charge")) == (
            "expectation 3 of 4, expect_cancelled('charge'): it met 'retry'\n"
            "  came: 10 s  the cancellation, in step 'retry'\n"
            "  before it:\n"
            "    10 s  step 'retry' cancelled"
        )

    def test_it_may_meet_no_step(self) -> None:
        """
        A stream has none.
        """
        for seconds in (10, 5):  # after a value, and before there is one
            stream = numbers(9, 9)
            assert message(StepVerifier(stream).then_await(seconds).then_cancel().expect_cancelled("x")) == (
                "expectation 3 of 4, expect_cancelled('x'): it met no step\n"
                f"  came: {seconds} s  the cancellation\n"
                "  before it: nothing"
            )

    def test_it_need_not_be_expected(self) -> None:
        """
        Who cancels has said how it ends.
        """
        verify(StepVerifier(numbers(1, 1, 1)).expect_value(1).then_cancel())

    def test_a_source_may_cancel_itself(self) -> None:
        """
        A chain that raises CancelledError has ended so, and this must be expected.
        """

        async def gives_up() -> Result[int, str]:
            raise asyncio.CancelledError

        mono = MonoResult.from_async_result(gives_up)

        verify(StepVerifier(mono).expect_cancelled("gives_up"))
        assert "verify_complete(): something else came\n  came: 0 s  the cancellation, in step 'gives_up'" in message(
            StepVerifier(mono)
        )

    def test_whoever_is_slow_to_let_go_is_waited_for(self) -> None:
        """
        After then_cancel the source has ended.
        """
        began = time.monotonic()
        ended: list[float] = []

        async def slow() -> Result[int, str]:
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(3)
                ended.append(round(time.monotonic() - began, 6))
            return Success(1)

        verify(
            StepVerifier(MonoResult.from_async_result(slow))
            .then_await(1)
            .then_cancel()
            .then(lambda: ended.append(0))
            .expect_cancelled("slow")
        )

        assert ended == [4, 0]

    def test_a_failed_verification_leaves_nothing_running(self) -> None:
        """
        Whatever is wrong, the source has ended when it is told; `watched` sees to it.
        """
        assert "nothing like it came within 60 s" in message(StepVerifier(numbers(3600)).expect_value(1))

    async def test_a_cancelled_verification_ends_the_source(self) -> None:
        """
        Who cancels the test cancels what it verifies.
        """
        closed: list[bool] = []

        async def waits() -> AsyncIterator[int]:
            try:
                await asyncio.Event().wait()
                yield 1
            finally:
                closed.append(True)

        task = asyncio.create_task(StepVerifier(waits()).expect_value(1).verify_complete())
        await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert closed == [True]

    async def test_a_stream_is_closed_by_the_verifier(self) -> None:
        """
        It is closed when the verification returns, though somebody still holds it.
        """
        closed: list[bool] = []

        async def endless() -> AsyncGenerator[int, None]:
            try:
                while True:
                    yield 1
            finally:
                closed.append(True)

        stream = endless()
        await StepVerifier(stream).expect_value(1).then_cancel().verify_complete()

        assert closed == [True]
        await stream.aclose()

    def test_what_is_no_exception_is_not_waited_out(self) -> None:
        """
        So does one that raises it while the verifier waits, at that moment.
        """

        class Stop(BaseException):
            pass

        async def stops() -> AsyncIterator[int]:
            if await asyncio.sleep(5, result=True):
                raise Stop
            yield 1

        began = time.monotonic()
        with pytest.raises(Stop):
            verify(StepVerifier(stops()).expect_value())

        assert time.monotonic() - began == 5

    async def test_what_is_no_exception_passes_through(self) -> None:
        """
        A source that raises what is neither an Exception nor a cancellation makes the verifier raise it, and at once.
        """

        class Stop(BaseException):
            pass

        async def stops() -> AsyncIterator[int]:
            yield 1
            raise Stop

        with pytest.raises(Stop):
            await StepVerifier(stops()).expect_values(1, 2).verify_complete()


class TestVirtualTime:
    def test_hours_take_no_time(self) -> None:
        """
        In the toolkit's virtual time a chain that pauses for hours is verified to the second.
        """
        work = Work(failures=1, seconds=3600)
        mono = MonoResult.from_async_result(work, name="charge").retry(
            1, backoff_seconds=7200, max_backoff_seconds=7200
        )

        verify(
            StepVerifier(mono)
            .then_await(3600)
            .expect_step("charge", "failed")
            .expect_no_event(7200)
            .expect_retry()
            .within(0)
            .then_await(3600)
            .expect_step("charge")
            .expect_value("paid")
            .within(0)
        )

        assert work.calls == 2

    @pytest.mark.parametrize(
        ("pause", "at_least", "told"),
        [
            (1.0, 1.0, ""),
            (1.0000005, 0.0, ""),
            (1.00005, 0.0, "it came after 1.00005 s, not within 1 s"),
            (1.0005, 0.0, "it came after 1.0005 s, not within 1 s"),
            (1.002, 0.0, "nothing like it came within 1 s"),
            (0.9999995, 1.0, ""),
            (0.9995, 1.0, "it came after 0.9995 s already, not 1 s"),
        ],
    )
    def test_to_the_microsecond(self, pause: float, at_least: float, told: str) -> None:
        """
        What comes a microsecond too late or too soon is in time, for timers are rounded; what comes a little later is told so.
        """
        verifier = StepVerifier(numbers(pause)).expect_value(1).within(1, at_least=at_least)

        if told:
            assert message(verifier).splitlines()[0].endswith(f": {told}")
        else:
            verify(verifier)

    def test_patience(self) -> None:
        """
        An expectation waits for a minute by default, and for no longer than it was told; an event of just then is in time.
        """
        verify(StepVerifier(numbers(60)).expect_value(1))
        verify(StepVerifier(numbers(7), patience_seconds=7).expect_value(1))
        assert message(StepVerifier(numbers(61)).expect_value(1)) == (
            "expectation 1 of 2, expect_value(1): nothing like it came within 60 s\n  before it: nothing"
        )
        assert message(StepVerifier(numbers(8), patience_seconds=7).expect_value(1)) == (
            "expectation 1 of 2, expect_value(1): nothing like it came within 7 s\n  before it: nothing"
        )
        verify(StepVerifier(numbers(61)).expect_value(1).within(100))


class TestMatching:
    @pytest.mark.parametrize(
        "expected",
        [5, int, lambda value: value > 4, IsPositive, IsPositive(), pytest.approx(5.0)],
        ids=["value", "type", "predicate", "matcher class", "matcher", "approx"],
    )
    def test_ways_to_say_it(self, expected: object) -> None:
        """
        A value, a type, a predicate, or whatever equals.
        """
        verify(StepVerifier(MonoResult.from_value(5)).expect_value(expected))
        verify(StepVerifier(MonoResult.from_error(5)).expect_failure(expected))

    def test_a_function_may_be_the_value(self) -> None:
        """
        The very object that is expected matches, whatever it would say if it was called.
        """

        def no(_: object) -> bool:
            return False

        verify(StepVerifier(MonoResult.from_value(no)).expect_value(no))

    def test_items_are_values_and_failures(self) -> None:
        """
        Both are counted where items are, and neither steps nor retries.
        """
        flux: FluxResult[int, str] = FluxResult.from_results([Success(1), Failure("x"), Success(3)])

        verify(StepVerifier(flux).expect_count(3))
        assert message(StepVerifier(order(1)).expect_count(1)).startswith(
            "expectation 1 of 2, expect_count(1): something else came\n  came: 3 s  retry 1 after"
        )

    @pytest.mark.parametrize("code", ["DECLINED", Code.DECLINED])
    def test_codes(self, code: object) -> None:
        """
        A code is a text or an Enum member.
        """
        verify(StepVerifier(MonoResult.from_error(DeclinedError("x"))).expect_failure(DeclinedError, code=code))


TOLD: list[tuple[Callable[[StepVerifier], StepVerifier], str]] = [
    (lambda v: v.expect_step("charge", "failed", KeyError), "expect_step('charge', 'failed', expected=KeyError)"),
    (lambda v: v.expect_step("charge", "failed").within(0.5), "expect_step('charge', 'failed').within(0.5)"),
    (lambda v: v.expect_step("charge", "ok", "paid"), "expect_step('charge', expected='paid')"),
    (lambda v: v.expect_step("charge"), "expect_step('charge')"),
    (lambda v: v.expect_retry().within(0.5), "expect_retry().within(0.5)"),
    (lambda v: v.expect_retry(1).within(0.5), "expect_retry().within(0.5)"),
    (lambda v: v.expect_retry(5), "expect_retry(5)"),
    (lambda v: v.expect_value(), "expect_value()"),
    (lambda v: v.expect_value(None), "expect_value(None)"),
    (lambda v: v.expect_value(is_even), "expect_value(is_even)"),
    (lambda v: v.expect_value(lambda _: True), "expect_value(the predicate)"),
    (lambda v: v.expect_values(1, str, "둘"), "expect_values(1, str, '둘')"),
    (lambda v: v.expect_failure(OSError), "expect_failure(OSError)"),
    (lambda v: v.expect_failure(code=Code.DECLINED, defect=True), "expect_failure(code='DECLINED', defect=True)"),
    (lambda v: v.expect_failure("x", code="A", defect=False), "expect_failure('x', code='A', defect=False)"),
    (lambda v: v.expect_count(3), "expect_count(3)"),
    (lambda v: v.expect_no_event(9), "expect_no_event(9)"),
    (lambda v: v.expect_no_event(9.5), "expect_no_event(9.5)"),
    (lambda v: v.expect_cancelled(), "expect_cancelled()"),
    (lambda v: v.expect_cancelled("charge"), "expect_cancelled('charge')"),
    (lambda v: v.expect_cancelled().within(2), "expect_cancelled().within(2)"),
    (lambda v: v.expect_cancelled().within(2, at_least=1), "expect_cancelled().within(2, at_least=1)"),
    (lambda v: v.then_await(1).then(list).expect_cancelled(), "expect_cancelled()"),
]

FAILED: dict[str, tuple[Callable[[], StepVerifier], str]] = {
    "step that came otherwise": (
        lambda: StepVerifier(order(1)).expect_step("found").expect_step("charge").expect_retry(),
        """
        expectation 2 of 4, expect_step('charge'): the step came, but it was failed
          came: 1 s  step 'charge' failed: Failure(DeclinedError('no funds'))
              code: DECLINED
          before it:
            0 s  step 'find_table' ok: Success(7)
            0 s  step 'found' ok: Success(7)
        """,
    ),
    "step with another value": (
        lambda: StepVerifier(order()).expect_step("found", expected=8),
        """
        expectation 1 of 2, expect_step('found', expected=8): value: expected 8, got 7
          came: 0 s  step 'found' ok: Success(7)
          before it:
            0 s  step 'find_table' ok: Success(7)
        """,
    ),
    "step that does not come": (
        lambda: StepVerifier(order()).expect_step("done").expect_step("found"),
        """
        expectation 2 of 3, expect_step('found'): something else came
          came: 1 s  Success('PAID')
        """,
    ),
    "retry that nobody expects": (
        lambda: StepVerifier(order(1)).expect_value("PAID"),
        """
        expectation 1 of 2, expect_value('PAID'): something else came
          came: 3 s  retry 1 after Failure(DeclinedError('no funds'))
              code: DECLINED
          before it:
            0 s  step 'find_table' ok: Success(7)
            0 s  step 'found' ok: Success(7)
            1 s  step 'charge' failed: Failure(DeclinedError('no funds'))
        """,
    ),
    "retry that does not come": (
        lambda: StepVerifier(order(1)).expect_retry(2),
        """
        expectation 1 of 2, expect_retry(2): something else came
          came: 4 s  Success('PAID')
        """,
    ),
    "another value": (
        lambda: StepVerifier(MonoResult.from_value({"menu": 1})).expect_value({"menu": 2}),
        """
        expectation 1 of 2, expect_value({'menu': 2}): ['menu']: expected 2, got 1
          came: 0 s  Success({'menu': 1})
          before it: nothing
        """,
    ),
    "value of another type": (
        lambda: StepVerifier(MonoResult.from_value(1)).expect_value(str),
        "expectation 1 of 2, expect_value(str): expected str, got int",
    ),
    "value that a predicate refuses": (
        lambda: StepVerifier(MonoResult.from_value(1)).expect_value(is_even),
        "expectation 1 of 2, expect_value(is_even): is_even says no",
    ),
    "value that a matcher refuses": (
        lambda: StepVerifier(MonoResult.from_value(1)).expect_value(IsStr()),
        "expectation 1 of 2, expect_value(IsStr()): value: expected IsStr(), got 1",
    ),
    "one of several values": (
        lambda: StepVerifier(numbers(1, 1, 1)).expect_values(1, 5, 3),
        """
        expectation 1 of 2, expect_values(1, 5, 3): value: expected 5, got 2
          came: 2 s  Success(2)
          before it:
            1 s  Success(1)
        """,
    ),
    "failure in place of a value": (
        lambda: StepVerifier(MonoResult.from_error("SOLD OUT")).expect_value(),
        """
        expectation 1 of 2, expect_value(): something else came
          came: 0 s  Failure('SOLD OUT')
        """,
    ),
    "value in place of a failure": (
        lambda: StepVerifier(MonoResult.from_value(1)).expect_failure(),
        "expectation 1 of 2, expect_failure(): something else came\n  came: 0 s  Success(1)",
    ),
    "failure of another code": (
        lambda: StepVerifier(MonoResult.from_error(DeclinedError())).expect_failure(code="SOLD_OUT"),
        "expectation 1 of 2, expect_failure(code='SOLD_OUT'): its code is 'DECLINED', not 'SOLD_OUT'",
    ),
    "failure that is no defect": (
        lambda: StepVerifier(MonoResult.from_error("x")).expect_failure("x", defect=True),
        "expectation 1 of 2, expect_failure('x', defect=True): it is no defect",
    ),
    "failure that is a defect": (
        lambda: StepVerifier(MonoResult.from_value(0).map(lambda n: 1 // n)).expect_failure(defect=False),
        "expectation 1 of 2, expect_failure(defect=False): it is a defect",
    ),
    "failure of another type": (
        lambda: StepVerifier(MonoResult.from_error(KeyError("x"))).expect_failure(OSError),
        "expectation 1 of 2, expect_failure(OSError): expected OSError, got KeyError",
    ),
    "too few": (
        lambda: StepVerifier(numbers(1, 1)).expect_count(3),
        "expectation 1 of 2, expect_count(3): something else came\n  came: 2 s  the end",
    ),
    "too many": (
        lambda: StepVerifier(numbers(1, 1)).expect_count(1),
        "expectation 2 of 2, verify_complete(): something else came\n  came: 2 s  Success(2)",
    ),
    "retry of what nothing came before": (
        lambda: StepVerifier(MonoResult.from_error("x").retry(1)).expect_failure(),
        "expectation 1 of 2, expect_failure(): something else came\n  came: 0 s  retry 1\n  before it: nothing",
    ),
    "event soon after": (
        lambda: StepVerifier(numbers(1.25, 0.5)).expect_value(1).expect_no_event(1.5),
        """
        expectation 2 of 3, expect_no_event(1.5): something came after 0.5 s
          came: 1.75 s  Success(2)
          before it:
            1.25 s  Success(1)
        """,
    ),
    "event while nobody looked": (
        lambda: StepVerifier(numbers(1)).then_await(2).expect_no_event(1),
        "expectation 2 of 3, expect_no_event(1): something came after 0 s\n  came: 1 s  Success(1)",
    ),
    "event that is next to at once": (
        lambda: StepVerifier(numbers(0.0000004, 0.0000003)).expect_value(1),
        """
        expectation 2 of 2, verify_complete(): something else came
          came: 1e-06 s  Success(2)
          before it:
            0 s  Success(1)
        """,
    ),
    "event where none is expected": (
        lambda: StepVerifier(numbers(1, 1)).expect_value(1).expect_no_event(1.5),
        """
        expectation 2 of 3, expect_no_event(1.5): something came after 1 s
          came: 2 s  Success(2)
          before it:
            1 s  Success(1)
        """,
    ),
    "too late": (
        lambda: StepVerifier(numbers(1, 2)).expect_value(1).expect_value(2).within(1.5),
        """
        expectation 2 of 3, expect_value(2).within(1.5): nothing like it came within 1.5 s
          before it:
            1 s  Success(1)
        """,
    ),
    "too late, while nobody looked": (
        lambda: StepVerifier(numbers(1, 2)).expect_values(1, 2).within(2.5),
        "expectation 1 of 2, expect_values(1, 2).within(2.5): nothing like it came within 2.5 s",
    ),
    "a little too late": (
        lambda: StepVerifier(numbers(1.0005)).expect_value(1).within(1),
        """
        expectation 1 of 2, expect_value(1).within(1): it came after 1.0005 s, not within 1 s
          came: 1.0005 s  Success(1)
          before it: nothing
        """,
    ),
    "too soon": (
        lambda: StepVerifier(numbers(1)).expect_value(1).within(5, at_least=2),
        """
        expectation 1 of 2, expect_value(1).within(5, at_least=2): it came after 1 s already, not 2 s
          came: 1 s  Success(1)
          before it: nothing
        """,
    ),
    "never": (
        lambda: StepVerifier(numbers(3600), patience_seconds=10).expect_value(1),
        "expectation 1 of 2, expect_value(1): nothing like it came within 10 s\n  before it: nothing",
    ),
    "cancellation of another step": (
        lambda: StepVerifier(order()).then_cancel().expect_cancelled("found"),
        "expectation 2 of 3, expect_cancelled('found'): it met 'charge'\n  came: 0 s  the cancellation, in step 'charge'",
    ),
    "cancellation that comes too late": (
        lambda: StepVerifier(MonoResult.from_value(1)).then_await(1).then_cancel().expect_cancelled(),
        "expectation 3 of 4, expect_cancelled(): something else came\n  came: 0 s  Success(1)",
    ),
    "something after the cancellation": (
        lambda: StepVerifier(order()).then_await(0.5).then_cancel().expect_cancelled("charge").expect_value(),
        "expectation 4 of 5, expect_value(): nothing comes any more",
    ),
    "value that nobody expects": (
        lambda: StepVerifier(MonoResult.from_value(1)),
        "expectation 1 of 1, verify_complete(): something else came\n  came: 0 s  Success(1)\n  before it: nothing",
    ),
}


def is_even(number: int) -> bool:
    return number % 2 == 0


class TestMessages:
    @pytest.mark.parametrize(("expect", "text"), TOLD)
    def test_names_the_expectation_as_it_was_written(
        self, expect: Callable[[StepVerifier], StepVerifier], text: str
    ) -> None:
        """
        With what was given, and without what was not.
        """
        assert f", {text}: " in message(expect(StepVerifier(order(1))))

    @pytest.mark.parametrize("name", FAILED)
    def test_tells_which_what_came_and_what_before(self, name: str) -> None:
        """
        The expectation by its number and text, what came in its place, and what before, each with its time.
        """
        verifier, text = FAILED[name]

        told = message(verifier())

        assert told.startswith(dedent(text).strip()), told

    def test_a_long_stream_is_told_by_its_end(self) -> None:
        """
        A message shows the twenty events before the one that was wrong.
        """
        told = message(StepVerifier(FluxResult.from_values(range(500))).expect_count(400))

        assert told.count("Success") == 21
        assert "Success(399)" in told
        assert "Success(379)" not in told


class TestMisuse:
    def test_unknown_step(self) -> None:
        """
        A step that the chain does not have could never come; what was meant is named.
        """
        with pytest.raises(
            ValueError, match=r"expect_step\('chrage'\): the chain has no such step; did you mean 'charge'"
        ):
            StepVerifier(order()).expect_step("chrage")
        with pytest.raises(ValueError, match=r"no such step; it has 'find_table', 'found', 'charge', 'retry', 'upper'"):
            StepVerifier(order()).expect_step("x")

    def test_unknown_outcome(self) -> None:
        """
        So could an outcome that is none.
        """
        outcome: Any = "success"
        with pytest.raises(
            ValueError, match="outcome must be one of ok, failed, recovered, skipped, cancelled, not 'success'"
        ):
            StepVerifier(order()).expect_step("found", outcome)

    def test_streams_show_no_steps(self) -> None:
        """
        Of a stream neither steps nor retries can be seen.
        """
        stream = StepVerifier(FluxResult.empty())
        expects: list[Callable[[], StepVerifier]] = [lambda: stream.expect_step("x"), stream.expect_retry]
        for expect in expects:
            with pytest.raises(
                TypeError, match=r"^expect_(step|retry): only a MonoResult shows its steps, FluxResult does not$"
            ):
                expect()

    def test_nothing_that_can_be_expected_of(self) -> None:
        """
        A plain value, or the function that should have been called, is refused.
        """
        for source, kind in ((5, "int"), (find_table, "function")):
            told = f"^nothing can be expected of {kind}: it is no chain, stream or awaitable$"
            with pytest.raises(TypeError, match=told):
                StepVerifier(source)

    @pytest.mark.parametrize(
        ("misuse", "told"),
        [
            (lambda v: v.within(1), "within() limits the expectation before it, and there is none"),
            (lambda v: v.then_await(1).within(1), "within() limits the expectation before it, and there is none"),
            (lambda v: v.expect_value().within(-1), "within must be a finite number of seconds, 0 or more, not -1"),
            (lambda v: v.then_await(-1), "then_await must be a finite number of seconds, 0 or more, not -1"),
            (lambda v: v.then_await(float("nan")), "then_await must be a finite number of seconds, 0 or more, not nan"),
            (lambda v: v.expect_no_event(-1), "expect_no_event must be a finite number of seconds, 0 or more, not -1"),
            (lambda v: v.expect_value().within(1, at_least=2), "within(1): at_least must be from 0 to that, not 2"),
            (lambda v: v.expect_value().within(1, at_least=-1), "within(1): at_least must be from 0 to that, not -1"),
            (lambda v: v.expect_retry(0), "expect_retry: times must be at least 1, not 0"),
            (lambda v: v.expect_count(0), "expect_count: count must be at least 1, not 0"),
            (
                lambda v: StepVerifier(order(), patience_seconds=-1),
                "patience_seconds must be a finite number of seconds, 0 or more, not -1",
            ),
        ],
    )
    def test_impossible_times(self, misuse: Callable[[StepVerifier], object], told: str) -> None:
        """
        A limit of nothing, a duration that is none and no retry at all are refused when they are said.
        """
        with pytest.raises(ValueError, match=re.escape(told)) as caught:
            misuse(StepVerifier(order()))

        assert str(caught.value) == told
