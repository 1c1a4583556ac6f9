"""What failed, and what happened under one id: groups of failures with their places, and traces as trees."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfs.core.result import Failure, Result, Success
from rfs.errors import OperationNotFoundError, QueryTimeoutError, TimeRangeError
from rfs.monitoring import CorrelationContext, collect_result_metric, info, log_result_operation
from rfs.monitoring._capture.record import LogRecord
from rfs.monitoring._spans import build_trace
from rfs.monitoring.metrics import ResultMetricsCollector
from rfs.monitoring.monitor import Monitor
from rfs.reactive import MonoResult
from rfs.testing.result_helpers import assert_mono_result_value, assert_result_error, assert_result_value
from rfs.testing.virtual_time import VirtualTime


class CardError(Exception):
    """What a step raises."""

    code = "CARD"


class Refusal(NamedTuple):
    """What a step returns."""

    code: str
    message: str = ""


def check(amount: int) -> Result[int, Refusal]:
    return Failure(Refusal("EMPTY")) if amount == 0 else Success(amount)


def charge(amount: int) -> int:
    if amount > 100:
        raise CardError(f"no cover for {amount}")
    return amount


@log_result_operation("pay")
async def pay(amount: int) -> Result[int, object]:
    chain = MonoResult.from_value(amount).bind_result(check).log_step("check").map(charge).log_step("charge")
    return await chain.log_error("pay")


class TestErrorGroups:
    async def test_step_and_origin(self, monitor: Monitor, clock: VirtualTime) -> None:
        """
        Failures of an operation are told apart by the step that failed and the line that raised, each with its newest samples.
        """
        began = clock.now
        for amount in (500, 0, 600, 7):
            with CorrelationContext(f"order-{amount}"):
                await pay(amount)
            clock.advance(1)

        card, empty = monitor.query.error_groups(time_range="5m")

        assert (card.operation, card.error_code, card.error_type, card.count) == ("pay", "CARD", "CardError", 2)
        (place,) = card.places
        assert place.origin is not None
        assert place.origin.startswith(f"{__file__}:")
        assert place.origin.endswith(" in charge")
        assert (place.step, place.records) == ("charge", 2)
        assert [(one.message, one.correlation_id) for one in place.samples] == [
            ("no cover for 600", "order-600"),
            ("no cover for 500", "order-500"),
        ]
        assert (card.first_seen, card.last_seen) == (began, began + timedelta(seconds=2))
        assert (empty.error_code, empty.count) == ("EMPTY", 1)
        assert [(one.step, one.origin, one.records) for one in empty.places] == [("check", None, 1)]

    def test_counts_without_records(self, monitor: Monitor, clock: VirtualTime) -> None:
        """
        Failures of which no record was kept are counted, and seen to the step of the windows; nothing is said of their places.
        """
        for _ in range(3):
            collect_result_metric("pay", Failure("LOST"), 1.0)
            monitor.query.books()
            clock.advance(60)

        (group,) = monitor.query.error_groups(time_range="5m")

        assert (group.count, group.places) == (3, [])
        assert group.last_seen - group.first_seen == timedelta(seconds=120)

    def test_of_one_operation(self, monitor: Monitor) -> None:
        """
        Asked for one operation, the others' failures are left out.
        """
        for name in ("pay", "ship"):
            collect_result_metric(name, Failure("LOST"), 1.0)

        assert [one.operation for one in monitor.query.error_groups(operation="ship")] == ["ship"]
        assert monitor.query.error_groups(operation="cook") == []

    def test_the_origin_is_that_of_the_error_itself(self, monitor: Monitor) -> None:
        """
        Neither the cause behind an error nor the members of a group are taken for where it came from.
        """

        def cause() -> None:
            raise KeyError("behind")

        @log_result_operation("wrap")
        def wrap() -> Result[int, str]:
            try:
                cause()
            except KeyError as error:
                raise ExceptionGroup("several", [ValueError("member"), error]) from error
            return Success(1)

        with pytest.raises(ExceptionGroup):
            wrap()

        ((place,),) = (group.places for group in monitor.query.error_groups())
        assert place.origin is not None
        assert place.origin.endswith("in TestErrorGroups.test_the_origin_is_that_of_the_error_itself.<locals>.wrap")


class TestTrace:
    async def test_a_tree_with_durations(self, monitor: Monitor, clock: VirtualTime) -> None:
        """
        Operations inside operations are spans inside spans, in the order of their starts, with what was recorded in each.
        """

        @log_result_operation("inner")
        def inner(seconds: float) -> Result[int, Refusal]:
            info("at work")
            clock.advance(seconds)
            return Success(1) if seconds < 2 else Failure(Refusal("SLOW"))

        @log_result_operation("outer")
        def outer() -> Result[int, Refusal]:
            inner(1)
            clock.advance(0.5)
            return inner(2)

        with CorrelationContext("tree"):
            info("before")
            outer()

        trace = monitor.query.trace("tree")

        spans = [span for outermost in trace.spans for span in outermost.walk()]
        assert [(depth, span.operation, span.duration_ms, span.outcome) for depth, span in spans] == [
            (0, "", None, ""),
            (1, "outer", 3500.0, "failed"),
            (2, "inner", 1000.0, "ok"),
            (2, "inner", 2000.0, "failed"),
        ]
        last = spans[-1][1]
        assert [record.message for record in last.records] == ["Operation started", "at work", "Operation failed"]
        assert last.error is not None
        assert last.error.code == "SLOW"
        assert (trace.duration_ms, trace.truncated, trace.records) == (3500.0, False, 9)

    def test_what_is_not_there(self, monitor: Monitor) -> None:
        """
        An id that nobody used has no spans; of one with too many records it is told that the oldest are missing.
        """
        with CorrelationContext("many"):
            for _ in range(5):
                info("one of many")

        assert monitor.query.trace("nobody").spans == []
        cut = monitor.query.trace("many", limit=3)
        assert (cut.truncated, cut.records) == (True, 3)

    def test_an_operation_that_still_runs(self, monitor: Monitor) -> None:
        """
        A span without an end has no duration and no outcome; what was opened in it is below it all the same.
        """
        found: list[tuple[str, float | None, int]] = []

        @log_result_operation("inner")
        def inner() -> Result[int, str]:
            return Success(1)

        @log_result_operation("outer")
        def outer() -> Result[int, str]:
            inner()
            (span,) = monitor.query.trace("running").spans
            found.append((span.operation, span.duration_ms, len(span.children)))
            return Success(1)

        with CorrelationContext("running"):
            outer()

        assert found == [("outer", None, 1)]

    @given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
    def test_any_parents(self, links: list[tuple[int, int]]) -> None:
        """
        Whatever ids say, circles and orphans included: each span is in the tree once, and no walk is endless.
        """
        when = datetime(2026, 1, 1, tzinfo=UTC)
        records = [
            LogRecord(
                str(number), when + timedelta(seconds=number), "INFO", "x", "log", "", "", "m", "id", "t",
                str(own), str(parent), "", None, {}, None, "test",
            )
            for number, (own, parent) in enumerate(links)
        ]  # fmt: skip

        trace = build_trace("id", records, truncated=False)

        found = [span.span_id for outermost in trace.spans for _, span in outermost.walk()]
        assert sorted(found) == sorted({str(own) for own, _ in links})


class TestCollector:
    async def test_as_the_plan_uses_it(self, monitor: Monitor) -> None:
        """
        The metrics of an operation are a chain that goes on with a report.
        """
        collect_result_metric("user_retrieval", Success(1), 12.0)
        collect_result_metric("user_retrieval", Failure("GONE"), 8.0)

        report = await (
            ResultMetricsCollector.instance()
            .get_operation_metrics("user_retrieval", time_range="1h")
            .bind_result(lambda metrics: Success(f"{metrics.total_requests}: {metrics.success_rate:.0%}"))
        )

        assert_result_value(report, "2: 50%")

    async def test_read_when_awaited(self, monitor: Monitor) -> None:
        """
        Building the chain reads nothing; each run reads what is there then.
        """
        chain = ResultMetricsCollector(monitor).get_operation_metrics("pay").map(lambda metrics: metrics.total_requests)

        first = await chain
        collect_result_metric("pay", Success(1), 1.0)

        assert_result_error(first, OperationNotFoundError)
        await assert_mono_result_value(chain, 1)

    async def test_what_cannot_be_read(self, monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A range that is none is refused at once; an answer that takes too long is a Failure, and no defect.
        """

        def too_slow(*_: object) -> None:
            raise QueryTimeoutError(2)

        collector = ResultMetricsCollector(monitor)
        monkeypatch.setattr(monitor.query, "operation", too_slow)

        with pytest.raises(TimeRangeError):
            collector.get_operation_metrics("pay", time_range="soon")
        failure: Any = await collector.get_operation_metrics("pay")

        assert_result_error(failure, QueryTimeoutError)
        assert not failure.is_defect
