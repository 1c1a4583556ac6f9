"""Timeouts, retries, caching and cancellation, in virtual time (FEATURES A2, A4, A5)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from enum import Enum
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfs.core.result import Failure, Result, Success, error_code
from rfs.errors import StepTimeoutError
from rfs.reactive import MonoResult
from rfs.testing.result_helpers import (
    assert_mono_result_error,
    assert_mono_result_failure,
    assert_mono_result_timeout,
    assert_mono_result_value,
    assert_result_failure,
    assert_result_value,
)
from rfs.testing.virtual_time import VirtualTime

pytestmark = pytest.mark.usefixtures("virtual_time")


class Work:
    """Takes *seconds* and notes what happens to it, in seconds since it was made."""

    def __init__(self, seconds: float, outcome: Any = None) -> None:
        self.seconds = seconds
        self.outcome = Success("done") if outcome is None else outcome
        self.started: list[float] = []
        self.ended: list[tuple[str, float]] = []
        self._made = time.monotonic()

    async def __call__(self, *_: object) -> Result[Any, Any]:
        self.started.append(self._now())
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            # A step may need time to let go; a timeout waits for it.
            await asyncio.sleep(0.25)
            self.ended.append(("cancelled", self._now()))
            raise
        self.ended.append(("done", self._now()))
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        outcome: Result[Any, Any] = self.outcome
        return outcome

    def _now(self) -> float:
        return time.monotonic() - self._made


class TestTimeout:
    async def test_running_step_is_cancelled_awaited_and_named(self) -> None:
        """
        timeout(5) at virtual second 5 gives TIMEOUT with the step's name; the work has ended by then.
        """
        slow = Work(60)
        mono = MonoResult.from_value(1).bind_async_result(Work(1)).bind_async_result(slow, name="charge").map(str)

        failed: Any = await mono.timeout(5)

        error = assert_result_failure(failed, StepTimeoutError)
        assert (error.step, error.seconds, error_code(error)) == ("charge", 5, "TIMEOUT")
        assert not failed.is_defect
        assert slow.ended == [("cancelled", 5.25)]

    def test_text_satisfies_both_documents(self) -> None:
        """
        One document looks for "timeout", the other for "timed out".
        """
        text = str(StepTimeoutError("charge", 5))

        assert "timeout" in text
        assert "timed out" in text

    async def test_in_time_nothing_changes(self) -> None:
        """
        What ends within the limit comes out as it is, Success, Failure or defect, the step's own TimeoutError too.
        """
        own = TimeoutError("the database's own")

        await assert_mono_result_value(MonoResult(Work(4)).timeout(5), "done")
        await assert_mono_result_error(MonoResult(Work(4, Failure("x"))).timeout(5), "x")
        for mono in (MonoResult(Work(4, own)).timeout(5), MonoResult(Work(4, own), timeout_seconds=5)):
            failed: Any = await mono
            assert assert_result_failure(failed) is own
            assert failed.is_defect

    async def test_a_single_step_can_have_its_own(self, virtual_time: VirtualTime) -> None:
        """
        timeout_seconds limits one step; the others take what they take.
        """
        start = MonoResult(Work(10))

        error = await assert_mono_result_failure(start.bind_async_result(Work(10), timeout_seconds=2), StepTimeoutError)

        assert (error.step, error.seconds) == ("bind_async_result", 2)
        assert virtual_time.elapsed_seconds == 12.25
        await assert_mono_result_value(start.bind_async_result(Work(1), name="quick", timeout_seconds=2), "done")

    async def test_first_step_can_have_its_own(self, virtual_time: VirtualTime) -> None:
        """
        Whichever way a chain begins with an async function, that step can be given a limit, with a name or without.
        """
        for mono in (
            MonoResult(Work(10), timeout_seconds=2),
            MonoResult.from_async_result(Work(10), timeout_seconds=2),
            MonoResult.from_async_result(Work(10), "find", 2),
        ):
            assert isinstance(await assert_mono_result_timeout(mono, 2), StepTimeoutError)
        assert virtual_time.elapsed_seconds == 3 * 2.25

    async def test_late_answer_is_too_late(self) -> None:
        """
        A step that makes an answer of its own cancellation has timed out all the same.
        """

        async def stubborn(*_: object) -> Result[str, str]:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return Success("late")
            return Success("never")

        for mono in (MonoResult(stubborn).timeout(5), MonoResult(stubborn, timeout_seconds=5)):
            assert isinstance(await assert_mono_result_timeout(mono, 5), StepTimeoutError)

    async def test_inner_timeout_can_be_recovered_from(self) -> None:
        """
        After an inner timeout the chain goes on, and an outer one names the step it meets.
        """
        mono = MonoResult(Work(60), name="first").timeout(1).on_error_return_value(2)

        error = await assert_mono_result_failure(
            mono.bind_async_result(Work(60), name="second").timeout(5), StepTimeoutError
        )

        assert error.step == "second"

    async def test_names_the_operator_that_waits(self) -> None:
        """
        Where time runs out between the steps, in the pause of a retry, the operator is named.
        """
        mono = MonoResult.from_error("x").retry(3, backoff_seconds=10).timeout(5)

        error = await assert_mono_result_failure(mono, StepTimeoutError)

        assert error.step == "retry"

    @pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
    def test_limit_must_be_a_duration(self, seconds: float) -> None:
        """
        A limit that is no duration is refused when the chain is built.
        """
        mono = MonoResult.from_value(1)

        with pytest.raises(ValueError, match="timeout must be a finite number of seconds"):
            mono.timeout(seconds)
        with pytest.raises(ValueError, match="timeout_seconds must be a finite number of seconds"):
            MonoResult(Work(1), timeout_seconds=seconds)


class TestCancellation:
    @pytest.mark.usefixtures("telemetry")  # where a logged step tells its step
    @pytest.mark.parametrize(
        "wrap",
        [
            lambda mono: mono,
            lambda mono: mono.timeout(50),
            lambda mono: mono.retry(5),
            lambda mono: mono.cache(),
            lambda mono: mono.zip(MonoResult(Work(40))),
            lambda mono: mono.first_success(MonoResult(Work(40))),
            lambda mono: mono.tap().log_step("x").timeout(50).retry(2).cache(),
        ],
    )
    async def test_outer_cancellation_reaches_the_step_and_comes_back(self, wrap: Callable[[Any], Any]) -> None:
        """
        A cancelled chain cancels its step once, waits for it, and is itself cancelled; nothing is left.
        """
        slow = Work(60)

        running = asyncio.ensure_future(wrap(MonoResult(slow)).to_result())
        await asyncio.sleep(3)
        running.cancel("enough")
        with pytest.raises(asyncio.CancelledError):
            await running

        assert slow.ended == [("cancelled", 3.25)]
        assert slow.started == [0]

    async def test_foreign_timeout_sees_its_own_cancellation(self, virtual_time: VirtualTime) -> None:
        """
        asyncio.timeout around a chain raises TimeoutError, as it does around any coroutine.
        """
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await MonoResult(Work(60)).timeout(50).retry(3).cache()

        assert virtual_time.elapsed_seconds == 3.25

    async def test_second_cancellation_waits_too(self) -> None:
        """
        Work that is slow to end is waited for, also when the waiting is cancelled.
        """
        slow = Work(60)

        running = asyncio.ensure_future(MonoResult(slow).zip(MonoResult(Work(40))).to_result())
        await asyncio.sleep(3)
        running.cancel()
        await asyncio.sleep(0.1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

        assert slow.ended == [("cancelled", 3.25)]

    @pytest.mark.parametrize("together", ["zip", "first_success"])
    async def test_cancellation_is_not_lost_while_the_others_are_let_go(self, together: str) -> None:
        """
        It is decided already, and what goes on beside is waited for: who is cancelled then is cancelled.
        """
        slow = Work(60)
        decided = Work(1, Failure("x") if together == "zip" else Success("x"))

        running = asyncio.ensure_future(getattr(MonoResult(slow), together)(MonoResult(decided)).to_result())
        await asyncio.sleep(1.1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

        assert slow.ended == [("cancelled", 1.25)]

    @given(st.lists(st.integers(4, 40), min_size=1, max_size=4), st.integers(0, 96))
    async def test_at_any_moment(self, eighths: list[int], moment: int) -> None:
        """
        Wherever in the chain a cancellation hits, each step ran at most once, no later one began, and no task is left.
        """
        steps = [Work(eighth / 8) for eighth in eighths]  # of a second: floats add them up exactly
        mono: Any = MonoResult.from_value(0)
        for step in steps:
            mono = mono.bind_async_result(step)

        running = asyncio.ensure_future(mono.timeout(100).to_result())
        await asyncio.sleep(moment / 8)
        running.cancel()
        await asyncio.wait([running])

        begun = [len(step.started) for step in steps]
        assert begun == sorted(begun, reverse=True)
        assert max(begun) <= 1
        assert running.cancelled() or moment >= sum(eighths)
        assert asyncio.all_tasks() == {asyncio.current_task()}


class Fault(Enum):
    BUSY = "BUSY"
    GONE = "GONE"


class TestRetry:
    async def test_makes_exactly_four_calls_at_the_scheduled_times(self) -> None:
        """
        retry(3) with exponential back-off makes 4 calls, 1, 2 and 4 s apart, and gives the last Failure.
        """
        busy = Work(0, Failure(Fault.BUSY))

        await assert_mono_result_error(MonoResult(busy).retry(3, backoff_seconds=1), Fault.BUSY)

        assert busy.started == [0, 1, 3, 7]

    async def test_pause_is_bounded(self) -> None:
        """
        The pauses grow by the multiplier up to max_backoff_seconds.
        """
        busy = Work(0, Failure(Fault.BUSY))

        await MonoResult(busy).retry(4, backoff_seconds=1, multiplier=3, max_backoff_seconds=5)

        assert busy.started == [0, 1, 4, 9, 14]

    @given(st.integers(0, 2**32))
    async def test_jitter_is_a_random_part_of_the_pause(self, seed: int) -> None:
        """
        With the same seed the schedule is the same, and no pause is longer than without jitter.
        """
        pauses: list[float] = []

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)

        await MonoResult.from_error("x").retry(3, backoff_seconds=1, jitter=Random(seed), sleep=sleep)

        schedule = Random(seed)
        assert pauses == [schedule.uniform(0, longest) for longest in (1, 2, 4)]

    async def test_only_listed_codes_are_retried(self) -> None:
        """
        An error of another code is given back at once.
        """

        class Changing:
            def __init__(self) -> None:
                self.calls = 0

            async def __call__(self) -> Result[int, Fault]:
                self.calls += 1
                return Failure(Fault.BUSY if self.calls < 3 else Fault.GONE)

        for codes in (Fault.BUSY, "BUSY", ["BUSY"], {Fault.BUSY, "OTHER"}):
            source = Changing()
            await assert_mono_result_error(MonoResult(source).retry(9, on_codes=codes), Fault.GONE)
            assert source.calls == 3

    async def test_success_ends_it(self, virtual_time: VirtualTime) -> None:
        """
        The first Success is the Result, and a raising step is retried like a failing one.
        """
        outcomes: list[Any] = [ValueError("1"), Failure("2"), Success(3), Success(4)]

        async def source() -> Any:
            outcome = outcomes.pop(0)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        mono: MonoResult[int, Any] = MonoResult(source)
        await assert_mono_result_value(mono.retry_on_failure(max_retries=9, delay=2), 3)

        assert outcomes == [Success(4)]
        assert virtual_time.elapsed_seconds == 4

    async def test_each_attempt_can_have_its_own_time_limit(self, virtual_time: VirtualTime) -> None:
        """
        A timeout before a retry limits an attempt, one behind it all of them.
        """
        slow = Work(60)

        error = await assert_mono_result_failure(
            MonoResult(slow, name="call").timeout(2).retry(2, on_codes="TIMEOUT"), StepTimeoutError
        )
        assert str(error) == "step 'call' timed out: its timeout of 2 s is over"
        assert slow.started == [0, 2.25, 4.5]

        await MonoResult(slow).timeout(2).retry(9).timeout(5)
        assert virtual_time.elapsed_seconds == 6.75 + 5.25

    @pytest.mark.parametrize(
        ("options", "fault"),
        [
            ({"max_retries": -1}, "max_retries must be 0 or more, not -1"),
            ({"max_retries": 1, "multiplier": 0.5}, "multiplier must be a finite number, 1 or more, not 0.5"),
            ({"max_retries": 1, "backoff_seconds": -1}, "backoff_seconds must be a finite number of seconds"),
            ({"max_retries": 1, "max_backoff_seconds": float("nan")}, "max_backoff_seconds must be a finite number"),
        ],
    )
    def test_bad_policy_is_refused(self, options: Any, fault: str) -> None:
        """
        A policy that makes no sense is refused when the chain is built, by name and value.
        """
        with pytest.raises(ValueError, match=fault):
            MonoResult.from_value(1).retry(**options)


class TestCache:
    async def test_runs_once(self) -> None:
        """
        The second run calls nothing, whether the first went well or not.
        """
        for outcome in (Success(1), Failure("x")):
            work = Work(1, outcome)
            mono = MonoResult(work).cache()

            assert await mono == await mono.map(lambda n: n) == outcome
            assert len(work.started) == 1

    async def test_concurrent_runs_share_the_work(self) -> None:
        """
        A hundred who ask at the same time wait for one piece of work.
        """
        work = Work(5)
        mono = MonoResult(work).cache()

        assert set(await asyncio.gather(*(mono.to_result() for _ in range(100)))) == {Success("done")}
        assert work.started == [0]

    async def test_cancelled_first_one_does_not_disturb_the_others(self) -> None:
        """
        Whoever began it may go; the work is finished for those who stay.
        """
        work = Work(5)
        mono = MonoResult(work).cache()

        first, second = (asyncio.ensure_future(mono.to_result()) for _ in range(2))
        await asyncio.sleep(1)
        first.cancel()

        await assert_mono_result_value(second, "done")
        assert first.cancelled()
        assert work.ended == [("done", 5)]

    async def test_last_one_takes_the_work_along(self) -> None:
        """
        When all have gone the work is cancelled; the next run begins it anew.
        """
        work = Work(5)
        mono = MonoResult(work).cache()

        runs = [asyncio.ensure_future(mono.to_result()) for _ in range(2)]
        await asyncio.sleep(1)
        for run in runs:
            run.cancel()
        await asyncio.wait(runs)
        assert work.ended == [("cancelled", 1.25)]

        await assert_mono_result_value(mono, "done")
        assert len(work.started) == 2

    async def test_limit_of_one_is_not_the_limit_of_all(self) -> None:
        """
        One caller's timeout leaves the shared work to the patient ones.
        """
        mono = MonoResult(Work(5)).cache()

        hasty, patient = await asyncio.gather(mono.timeout(1).to_result(), mono.to_result())

        assert error_code(assert_result_failure(hasty)) == "TIMEOUT"
        assert_result_value(patient, "done")

    async def test_what_escapes_is_not_kept(self) -> None:
        """
        Work that was torn down from inside is raised to all, and begun anew by the next run.
        """

        class Torn(BaseException):
            pass

        outcomes: list[Any] = [Torn(), Success(2)]

        async def source() -> Any:
            await asyncio.sleep(1)
            outcome = outcomes.pop(0)
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        mono: MonoResult[Any, Any] = MonoResult(source).cache()
        torn = await asyncio.gather(mono.to_result(), mono.to_result(), return_exceptions=True)

        assert [type(outcome) for outcome in torn] == [Torn, Torn]
        await assert_mono_result_value(mono, 2)
