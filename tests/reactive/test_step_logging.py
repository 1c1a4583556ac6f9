"""log_step, log_error and log_performance (FEATURES A6, A7, A10)."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from enum import Enum
from typing import Any

import pytest

from rfs.core.result import Failure, Result, Success
from rfs.reactive import MonoResult, StepEvent, _observer, set_step_observer, step_observer

Virtual = Callable[..., Any]


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


class TestOutcomes:
    def test_each_step_is_one_entry_of_its_outcome(self, virtual: Virtual, observed: Any) -> None:
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

        assert virtual(mono.to_result()) == Success("0")
        assert observed.told() == [
            ("first", "ok"),
            ("second", "failed"),
            ("third", "skipped"),
            ("fourth", "recovered"),
            ("fifth", "ok"),
        ]

    def test_failed_recovery_is_a_failed_step(self, virtual: Virtual, observed: Any) -> None:
        """
        A fallback that fails too has run: the step is not skipped.
        """
        mono = MonoResult(sold_out).log_step("order").fallback(MonoResult(sold_out)).log_step("other place")

        virtual(mono.to_result())

        assert observed.told() == [("order", "failed"), ("other place", "failed")]

    def test_entry_tells_what_there_is(self, virtual: Virtual, observed: Any) -> None:
        """
        An entry has the chain, the step, its place, its value, and the time since the entry before it.
        """
        mono = (
            MonoResult(one_second)
            .bind_async_result(one_second)
            .log_step("placed", "order placed", details={"table": 7}, level=Level.WARNING)
            .bind_async_result(sold_out)
            .log_step("paid")
            .name("order")
        )

        virtual(mono.to_result())
        placed, paid = observed.events

        assert placed == StepEvent(
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
            started_at_ns=placed.started_at_ns,
        )
        assert (paid.index, paid.outcome, paid.error, paid.duration_seconds, paid.level) == (
            4,
            "failed",
            "sold out",
            1,
            None,
        )
        assert mono.steps[placed.index].name == "placed"
        assert paid.started_at_ns >= placed.started_at_ns > 1_600_000_000_000_000_000

    @pytest.mark.parametrize(
        ("given", "message", "details", "level"),
        [
            ("order placed", "order placed", None, None),
            ({"table": 7}, "", {"table": 7}, None),
            (40, "", None, 40),
            (Level.DEBUG, "", None, 10),
        ],
    )
    def test_second_argument_is_known_by_its_type(
        self, virtual: Virtual, observed: Any, given: Any, message: str, details: object, level: int | None
    ) -> None:
        """
        The documents hand in a message, a dict or a level; each goes where it belongs.
        """
        virtual(MonoResult(one_second).log_step("x", given).to_result())

        (event,) = observed.events
        assert (event.message, event.details, event.level) == (message, details, level)

    def test_unknown_level_is_refused(self) -> None:
        """
        A level that is none is refused when the chain is built.
        """
        with pytest.raises(ValueError, match="level must be one of DEBUG, INFO, WARNING, ERROR, CRITICAL, not LOUD"):
            MonoResult.from_value(1).log_step("x", Level.LOUD)


class TestErrors:
    def test_only_failures_are_told(self, virtual: Virtual, observed: Any) -> None:
        """
        log_error is silent after a Success and tells a Failure once, with its error.
        """
        virtual(MonoResult(one_second).log_error("order_failed").to_result())
        assert observed.events == []

        virtual(MonoResult(sold_out).map(str).log_error("order_failed", "no such dish").to_result())
        (event,) = observed.events
        assert (event.kind, event.step, event.error, event.is_defect) == ("error", "order_failed", "sold out", False)
        assert (event.message, event.duration_seconds) == ("no such dish", 1)

    def test_defects_say_so(self, virtual: Virtual, observed: Any) -> None:
        """
        A recorder can tell a bug from a failure of the domain, and reads whether that one is expected.
        """

        class SoldOutError:
            expected = True

        virtual(MonoResult(one_second).map(lambda n: n / 0).log_error("x").to_result())
        virtual(MonoResult.from_error(SoldOutError()).log_error("x").to_result())

        assert [event.is_defect for event in observed.events] == [True, False]
        assert isinstance(observed.events[0].error, ZeroDivisionError)


class TestPerformance:
    def test_tells_the_time_since_the_start(self, virtual: Virtual, observed: Any) -> None:
        """
        log_performance measures the whole chain, whatever was logged in between.
        """
        mono = MonoResult(one_second).log_step("x").bind_async_result(one_second).log_performance("total")

        virtual(mono.to_result())

        event = observed.events[-1]
        assert (event.kind, event.step, event.duration_seconds, event.outcome) == ("performance", "total", 2, "ok")

    def test_threshold_keeps_fast_ones_quiet(self, virtual: Virtual, observed: Any) -> None:
        """
        Given milliseconds, only what takes as long is told, as a WARNING.
        """
        virtual(MonoResult(one_second).log_performance(1000).log_performance("x", threshold_ms=1001).to_result())

        (event,) = observed.events
        assert (event.step, event.level, event.details) == ("performance", 30, {"threshold_ms": 1000})


class TestInsideOfOperators:
    def test_each_attempt_is_told(self, virtual: Virtual, observed: Any) -> None:
        """
        A step inside of a retry is told at each run, and what follows says how many there were.
        """
        outcomes: list[Any] = [Failure("x"), Failure("x"), Success(1)]

        async def source() -> Any:
            return outcomes.pop(0)

        mono: MonoResult[Any, Any] = MonoResult(source).log_step("call").retry(5).log_step("done").name("order")
        virtual(mono.to_result())

        assert observed.told() == [("call", "failed"), ("call", "failed"), ("call", "ok"), ("done", "ok")]
        assert observed.events[-1].details == {"attempts": 3}
        assert {event.chain for event in observed.events} == {"order"}
        assert [event.index for event in observed.events] == [1, 1, 1, 3]

    def test_cached_steps_are_told_once(self, virtual: Virtual, observed: Any) -> None:
        """
        What is not run again is not told again.
        """
        mono = MonoResult(one_second).log_step("work").cache().log_step("after").name("order")

        async def twice() -> None:
            await mono
            await mono

        virtual(twice())
        assert observed.told() == [("work", "ok"), ("after", "ok"), ("after", "ok")]
        assert {event.chain for event in observed.events} == {"order"}

    def test_timeout_is_told_behind_it(self, virtual: Virtual, observed: Any) -> None:
        """
        A step that the limit cut short tells nothing; the entry behind the limit tells the timeout.
        """
        mono = (
            MonoResult(one_second).log_step("a").bind_async_result(one_second).log_step("b").timeout(1.5).log_step("c")
        )

        virtual(mono.to_result())

        assert observed.told() == [("a", "ok"), ("c", "failed")]

    def test_chains_at_the_same_time_do_not_mix(self, virtual: Virtual, observed: Any) -> None:
        """
        One chain run a hundred times at once has a hundred starts, not one.
        """
        mono = MonoResult(one_second).log_step("x")

        async def main() -> None:
            await asyncio.gather(*(mono.to_result() for _ in range(100)))

        virtual(main())
        assert [event.duration_seconds for event in observed.events] == [1] * 100


class TestObserver:
    def test_level_that_is_off_makes_no_event(self, virtual: Virtual) -> None:
        """
        What is not worth telling is not even made; a failure is asked about as an ERROR.
        """
        seen: list[StepEvent] = []
        asked: list[int] = []

        class Recorder:
            def step(self, event: StepEvent) -> None:
                seen.append(event)

            def internal_error(self, where: str, error: BaseException) -> None:
                pytest.fail(where)

        def is_enabled(level: int) -> bool:
            asked.append(level)
            return level >= 40

        mono = (
            MonoResult(one_second).log_step("a").log_step("b", 10).map(lambda n: n / 0).log_step("c").log_step("d", 30)
        )
        previous = set_step_observer(Recorder(), is_enabled=is_enabled)
        try:
            virtual(mono.to_result())
        finally:
            set_step_observer(previous)

        assert asked == [20, 10, 40, 30]
        assert [event.step for event in seen] == ["c"]

    def test_broken_gate_changes_nothing(self, observed: Any, virtual: Virtual) -> None:
        """
        Whatever is handed in beside the observer can never alter a Result either.
        """
        previous = set_step_observer(observed, is_enabled=lambda level: level < 1 / 0)
        try:
            assert virtual(MonoResult(one_second).log_step("a").to_result()) == Success(1)
        finally:
            set_step_observer(previous)

        assert observed.internal_errors == {"reactive.observer": 1}

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
        previous, before = set_step_observer(None), _observer.unreported
        try:
            assert await MonoResult.from_value(1).log_step("x").log_step("y").tap(lambda n: n / 0) == Success(1)
        finally:
            set_step_observer(previous)

        assert _observer.unreported == before + 2

    def test_recorder_that_does_not_set_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A module that is loaded already, and was taken out again, leaves a silent observer.
        """
        monkeypatch.setattr(_observer, "RECORDER", "json")
        previous = set_step_observer(None)
        try:
            step_observer().step(StepEvent("step", "", "x", 0, "ok", "", None, 0.0, 1, None, False, None, 0))
        finally:
            set_step_observer(previous)

    def test_setting_gives_back_the_previous_one(self, observed: Any) -> None:
        """
        A test that stands in for the recorder can put it back.
        """
        assert set_step_observer(None) is observed
        assert set_step_observer(observed) is None
        assert step_observer() is observed
