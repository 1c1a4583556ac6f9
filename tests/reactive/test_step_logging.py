"""log_step, log_error and log_performance (FEATURES A6, A7, A10)."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from enum import Enum
from typing import Any
from unittest.mock import Mock

import pytest

from rfs.core.result import Failure, Result, Success
from rfs.errors import StepTimeoutError
from rfs.reactive import MonoResult, StepEvent, _observer, set_step_observer, step_observer
from rfs.testing.fixtures import Telemetry
from rfs.testing.result_helpers import (
    ResultServiceMocker,
    assert_mono_result_error,
    assert_mono_result_success,
    assert_mono_result_value,
)
from rfs.testing.virtual_time import VirtualTime
from tests.reactive.conftest import told


class Level(Enum):
    DEBUG = "debug"
    WARNING = "warning"
    LOUD = "loud"


async def one_second(value: Any = 1) -> Result[Any, str]:
    await asyncio.sleep(1)
    return Success(value)


async def sold_out(_: object = None) -> Result[Any, str]:
    await asyncio.sleep(1)
    return Failure("sold out")


@pytest.mark.usefixtures("virtual_time")
class TestOutcomes:
    async def test_each_step_is_one_entry_of_its_outcome(self, telemetry: Telemetry) -> None:
        """
        ok, failed, skipped and recovered steps are told apart, and none is told twice.
        """
        mono = (
            MonoResult(one_second)
            .log_step("first")
            .bind_async_result(sold_out)
            .log_step("second")
            .bind_async_result(one_second)
            .log_step("third")
            .on_error_return_value(0)
            .log_step("fourth")
            .map(str)
            .log_step("fifth")
        )

        await assert_mono_result_value(mono, "0")

        telemetry.assert_records(
            {"step": "first", "outcome": "ok"},
            {"step": "second", "outcome": "failed"},
            {"step": "third", "outcome": "skipped"},
            {"step": "fourth", "outcome": "recovered"},
            {"step": "fifth", "outcome": "ok"},
        )

    async def test_failed_recovery_is_a_failed_step(self, telemetry: Telemetry) -> None:
        """
        A fallback that fails too has run: the step is not skipped.
        """
        mono = MonoResult(sold_out).log_step("order").fallback(MonoResult(sold_out)).log_step("other place")

        await assert_mono_result_error(mono, "sold out")

        telemetry.assert_records({"step": "order", "outcome": "failed"}, {"step": "other place", "outcome": "failed"})

    async def test_event_tells_what_there_is(self, virtual_time: VirtualTime, observer: Mock) -> None:
        """
        An event has the chain, the step, its place, its value or error, when it began, and how long it took: a step since
        the one before it, an error since the start of the chain.
        """
        mono = (
            MonoResult(one_second)
            .bind_async_result(one_second)
            .log_step("placed", "order placed", details={"table": 7}, level=Level.WARNING)
            .bind_async_result(sold_out)
            .log_step("paid")
            .log_error("order_failed", "no such dish")
            .name("order")
        )
        began_ns = virtual_time.time_ns()

        await mono

        assert told(observer) == [
            StepEvent(
                kind="step",
                chain="order",
                step="placed",
                index=2,
                outcome="ok",
                message="order placed",
                details={"table": 7},
                duration_seconds=2,
                value=1,
                error=None,
                is_defect=False,
                level=30,
                started_at_ns=began_ns,
            ),
            StepEvent(
                kind="step",
                chain="order",
                step="paid",
                index=4,
                outcome="failed",
                message="",
                details=None,
                duration_seconds=1,
                value=None,
                error="sold out",
                is_defect=False,
                level=None,
                started_at_ns=began_ns + 2 * 10**9,
            ),
            StepEvent(
                kind="error",
                chain="order",
                step="order_failed",
                index=5,
                outcome="failed",
                message="no such dish",
                details=None,
                duration_seconds=3,
                value=None,
                error="sold out",
                is_defect=False,
                level=None,
                started_at_ns=began_ns,
            ),
        ]
        assert mono.steps[2].name == "placed"

    @pytest.mark.parametrize(
        ("given", "message", "details", "level"),
        [
            ("order placed", "order placed", None, None),
            ({"table": 7}, "", {"table": 7}, None),
            (40, "", None, 40),
            (Level.DEBUG, "", None, 10),
        ],
    )
    async def test_second_argument_is_known_by_its_type(
        self, observer: Mock, given: Any, message: str, details: object, level: int | None
    ) -> None:
        """
        The documents hand in a message, a dict or a level; each goes where it belongs.
        """
        await MonoResult(one_second).log_step("x", given)

        (event,) = told(observer)
        assert (event.message, event.details, event.level) == (message, details, level)

    def test_unknown_level_is_refused(self) -> None:
        """
        A level that is none is refused when the chain is built.
        """
        with pytest.raises(ValueError, match="level must be one of DEBUG, INFO, WARNING, ERROR, CRITICAL, not LOUD"):
            MonoResult.from_value(1).log_step("x", Level.LOUD)


@pytest.mark.usefixtures("virtual_time")
class TestErrors:
    async def test_only_failures_are_told(self, telemetry: Telemetry) -> None:
        """
        log_error is silent after a Success and tells a Failure once, with its error.
        """
        await assert_mono_result_success(MonoResult(one_second).log_error("order_failed"))
        telemetry.assert_records()

        await assert_mono_result_error(MonoResult(sold_out).map(str).log_error("order_failed"), "sold out")
        telemetry.assert_records(
            {
                "kind": "error",
                "step": "order_failed",
                "level": "ERROR",
                "duration_ms": 1000,
                "error": {"message": "sold out", "is_defect": False},
            }
        )

    async def test_defects_say_so(self, telemetry: Telemetry) -> None:
        """
        A recorder can tell a bug from a failure of the domain, and reads whether that one is expected.
        """

        class SoldOutError:
            expected = True

        await assert_mono_result_error(MonoResult(one_second).map(lambda n: n / 0).log_error("x"), ZeroDivisionError)
        await assert_mono_result_error(MonoResult.from_error(SoldOutError()).log_error("x"), SoldOutError)

        telemetry.assert_records(
            {"level": "ERROR", "error": {"type": ZeroDivisionError, "is_defect": True, "expected": False}},
            {"level": "INFO", "error": {"type": SoldOutError, "is_defect": False, "expected": True}},
        )


@pytest.mark.usefixtures("virtual_time")
class TestPerformance:
    async def test_tells_the_time_since_the_start(self, telemetry: Telemetry) -> None:
        """
        log_performance measures the whole chain, whatever was logged in between.
        """
        mono = MonoResult(one_second).log_step("x").bind_async_result(one_second).log_performance("total")

        await mono

        telemetry.assert_records(
            {"step": "x"}, {"kind": "performance", "step": "total", "duration_ms": 2000, "outcome": "ok"}
        )

    async def test_threshold_keeps_fast_ones_quiet(self, telemetry: Telemetry) -> None:
        """
        Given milliseconds, only what takes as long is told, as a WARNING.
        """
        await MonoResult(one_second).log_performance(1000).log_performance("x", threshold_ms=1001)

        telemetry.assert_records({"step": "performance", "level": "WARNING", "threshold_ms": 1000})


@pytest.mark.usefixtures("virtual_time")
class TestInsideOfOperators:
    async def test_each_attempt_is_told(self, telemetry: Telemetry) -> None:
        """
        A step inside of a retry is told at each run, and what follows says how many there were.
        """
        source = ResultServiceMocker("kitchen", "cook").return_sequence([Failure("x"), Failure("x"), Success(1)])
        mono: MonoResult[Any, Any] = MonoResult(source).log_step("call").retry(5).log_step("done").name("order")

        await assert_mono_result_value(mono, 1)

        failed = {"step": "call", "outcome": "failed", "chain": "order", "index": 1}
        telemetry.assert_records(
            failed,
            failed,
            {"step": "call", "outcome": "ok", "chain": "order", "index": 1},
            {"step": "done", "outcome": "ok", "chain": "order", "index": 3, "attempts": 3},
        )

    async def test_cached_steps_are_told_once(self, telemetry: Telemetry) -> None:
        """
        What is not run again is not told again.
        """
        mono = MonoResult(one_second).log_step("work").cache().log_step("after").name("order")

        await mono
        await mono

        after = {"step": "after", "outcome": "ok", "chain": "order"}
        telemetry.assert_records({"step": "work", "outcome": "ok", "chain": "order"}, after, after)

    async def test_zip_and_race_go_on_with_the_chain_they_are_called_on(self, telemetry: Telemetry) -> None:
        """
        What is told before a zip or a race has the name of the chain around it, and what is behind measures from there; the
        others keep their own.
        """
        first = MonoResult(one_second).log_step("first")
        drinks = MonoResult(sold_out).log_step("drinks").name("drinks").recover(len)

        await first.zip(drinks).log_step("behind").name("order")
        await first.first_success(drinks).log_step("behind").name("order")

        once = [
            {"step": "first", "chain": "order", "duration_ms": 1000},
            {"step": "drinks", "chain": "drinks", "duration_ms": 1000},
            {"step": "behind", "chain": "order", "duration_ms": 0},
        ]
        telemetry.assert_records(*once, *once)

    async def test_timeout_is_told_behind_it(self, telemetry: Telemetry) -> None:
        """
        A step that the limit cut short tells nothing; the entry behind the limit tells the timeout.
        """
        mono = (
            MonoResult(one_second).log_step("a").bind_async_result(one_second).log_step("b").timeout(1.5).log_step("c")
        )

        await assert_mono_result_error(mono, StepTimeoutError)

        telemetry.assert_records({"step": "a", "outcome": "ok"}, {"step": "c", "outcome": "failed"})

    async def test_chains_at_the_same_time_do_not_mix(self, telemetry: Telemetry) -> None:
        """
        One chain run a hundred times at once has a hundred starts, not one.
        """
        mono = MonoResult(one_second).log_step("x")

        await asyncio.gather(*(mono.to_result() for _ in range(100)))

        telemetry.assert_records(*[{"step": "x", "duration_ms": 1000}] * 100)


class TestObserver:
    async def test_level_that_is_off_makes_no_event(self, observer: Mock) -> None:
        """
        What is not worth telling is not even made; a failure is asked about as an ERROR.
        """
        asked: list[int] = []

        def is_enabled(level: int) -> bool:
            asked.append(level)
            return level >= 40

        mono = (
            MonoResult(one_second).log_step("a").log_step("b", 10).map(lambda n: n / 0).log_step("c").log_step("d", 30)
        )
        set_step_observer(observer, is_enabled=is_enabled)

        await mono

        assert asked == [20, 10, 40, 30]
        assert [event.step for event in told(observer)] == ["c"]
        observer.internal_error.assert_not_called()

    async def test_broken_gate_changes_nothing(self, observer: Mock) -> None:
        """
        Whatever is handed in beside the observer can never alter a Result either.
        """
        set_step_observer(observer, is_enabled=lambda level: level < 1 / 0)

        await assert_mono_result_value(MonoResult(one_second).log_step("a"), 1)

        (where, error), _ = observer.internal_error.call_args
        assert (where, type(error)) == ("reactive.observer", ZeroDivisionError)
        assert observer.internal_error.call_count == 1

    def test_chain_that_logs_nothing_never_touches_it(self) -> None:
        """
        Neither building nor running such a chain, failing and retried, loads rfs.monitoring.
        """
        program = (
            "import asyncio, sys\n"
            "from rfs.reactive import MonoResult\n"
            "mono = MonoResult.from_value(1).map(lambda n: n / 0).retry(1).timeout(1).tap(on_error=str).cache()\n"
            "assert asyncio.run(mono.name('x').to_result()).is_failure()\n"
            "assert not any(name.startswith('rfs.monitoring') for name in sys.modules), sys.modules\n"
        )

        subprocess.run([sys.executable, "-c", program], check=True, timeout=60)

    def test_first_logged_step_loads_the_recorder(self) -> None:
        """
        The recorder is there as soon as it is needed, without anybody importing it.
        """
        program = (
            "import asyncio, sys\n"
            "from rfs.reactive import MonoResult, step_observer\n"
            "asyncio.run(MonoResult.from_value(1).log_step('x').to_result())\n"
            "assert 'rfs.monitoring.result_logging' in sys.modules\n"
            "assert type(step_observer()).__module__ == 'rfs.monitoring.result_logging'\n"
        )

        subprocess.run([sys.executable, "-c", program], check=True, timeout=60)

    async def test_missing_recorder_is_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Where the recorder cannot be loaded the chain goes on, and what was not told can be counted.
        """
        monkeypatch.setattr(_observer, "RECORDER", "rfs.no_such_module")
        monkeypatch.setattr(_observer, "unreported", 40)
        previous = set_step_observer(None)
        try:
            await assert_mono_result_value(MonoResult.from_value(1).log_step("x").log_step("y").tap(lambda n: n / 0), 1)
        finally:
            set_step_observer(previous)

        assert _observer.unreported == 42

    def test_recorder_that_does_not_set_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A module that is loaded already, and was taken out again, leaves a silent observer.
        """
        monkeypatch.setattr(_observer, "RECORDER", "json")
        previous, before = set_step_observer(None), _observer.unreported
        try:
            step_observer().step(StepEvent("step", "", "x", 0, "ok", "", None, 0.0, 1, None, False, None, 0))
        finally:
            assert set_step_observer(previous) is None

        assert _observer.unreported == before

    def test_setting_gives_back_the_previous_one(self, observer: Mock) -> None:
        """
        A test that stands in for the recorder can put it back.
        """
        assert set_step_observer(None) is observer
        assert set_step_observer(observer) is None
        assert step_observer() is observer
