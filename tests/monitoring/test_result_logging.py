"""Operations, steps and messages as records: complete, once, under one id, and never at the host's cost."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
from collections.abc import Iterator
from enum import Enum
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Annotated, Any
from unittest.mock import ANY

import pytest
from dirty_equals import IsNumeric

from rfs.core.result import Failure, Result, Success
from rfs.monitoring import debug, error, info, log, warning
from rfs.monitoring.context import CorrelationContext, bind, current
from rfs.monitoring.masking import Sensitive
from rfs.monitoring.metrics import collect_result_metric
from rfs.monitoring.result_logging import (
    LoggingMonoResult,
    LogLevel,
    ResultLogger,
    RfsHandler,
    configure_result_logging,
    create_logging_mono,
    critical,
    describe_value,
    level_number,
    log_result_operation,
    memory_usage_mb,
    query_logs_by_correlation_id,
)
from rfs.reactive import FluxResult, MonoResult
from rfs.testing.fixtures import Telemetry
from rfs.testing.result_helpers import assert_mono_result_value, assert_result_value
from rfs.testing.virtual_time import VirtualTime


class Code(Enum):
    SOLD_OUT = "SOLD_OUT"
    BROKEN = "BROKEN"


class OrderError(Exception):
    def __init__(self, code: Code, *, expected: bool = False) -> None:
        super().__init__(f"order refused: {code.value}")
        self.code = code
        self.expected = expected


class TestOperation:
    async def test_start_and_end(self, telemetry: Telemetry, virtual_time: VirtualTime) -> None:
        """
        An operation is two records: its start with the arguments by name, its end with duration and result's type.
        """

        @log_result_operation("user_processing")
        async def process(user_id: str, *, retries: int = 0) -> Result[dict[str, int], str]:
            virtual_time.advance(0.25)
            return Success({"a": 1, "b": 2})

        with CorrelationContext("req_12345"):
            await assert_mono_result_value(process("123", retries=2), {"a": 1, "b": 2})

        start, end = telemetry.assert_records(
            {"operation": "user_processing", "correlation_id": "req_12345", "level": "INFO", "error": None},
            {"message": "Operation completed", "outcome": "ok", "duration_ms": 250.0, "error": None},
        )
        assert start.to_dict()["message"] == "Operation started"
        assert start.to_dict()["timestamp"].endswith("Z")
        assert start.context == {"user_id": "123", "retries": 2}
        assert end.context == {"result_type": "dict", "result_size": 2}

    def test_measures_by_itself(self, telemetry: Telemetry, virtual_time: VirtualTime) -> None:
        """
        Successes, failures by code and durations are counted exactly for a scripted workload.
        """

        @log_result_operation("order")
        def order(number: int) -> Result[int, OrderError]:
            virtual_time.advance(0.1)
            return Success(number) if number % 3 else Failure(OrderError(Code.SOLD_OUT))

        for number in range(9):
            order(number)

        telemetry.assert_metric("result_success_total", 6, operation="order")
        telemetry.assert_metric("result_failure_total", 3, operation="order")
        telemetry.assert_metric("result_error_by_type_total", 3, operation="order", error_code="SOLD_OUT")
        telemetry.assert_metric("result_duration_ms", {"count": 9, "sum": pytest.approx(900)}, operation="order")
        telemetry.assert_metric("operations_active", 0, operation="order")

    def test_is_not_counted_twice(self, telemetry: Telemetry) -> None:
        """
        A `collect_result_metric` of the same name inside the call takes the place of the decorator's measurement; one of
        another name does not.
        """

        @log_result_operation("user_service.get_user")
        def get_user(*, other: bool) -> Result[str, str]:
            result: Result[str, str] = Success("kim")
            name = "user_service.other" if other else "user_service.get_user"
            collect_result_metric(name, result, 5.0, labels={"service": "user_service"})
            return result

        get_user(other=False)
        telemetry.assert_metric("result_success_total", 1)
        get_user(other=True)
        telemetry.assert_metric("result_success_total", 3)

    def test_a_failure_tells_its_code_and_level(self, telemetry: Telemetry) -> None:
        """
        A failure is one record at ERROR with type, code and message; an expected one is not at ERROR, but is counted.
        """

        @log_result_operation("order", expected=["NOT_FOUND", Code.BROKEN])
        def order(failure: object) -> Result[int, object]:
            return Failure(failure)

        order(OrderError(Code.SOLD_OUT))
        order(OrderError(Code.SOLD_OUT, expected=True))
        order(OrderError(Code.BROKEN))
        order("free text")

        start = {"kind": "operation_start"}
        refused = {"code": "SOLD_OUT", "message": "order refused: SOLD_OUT", "is_defect": False}
        telemetry.assert_records(
            start, {"kind": "operation", "level": "ERROR", "error": refused},
            start, {"kind": "operation", "level": "INFO", "error": {"code": "SOLD_OUT"}},
            start, {"kind": "operation", "level": "INFO", "error": {"code": "BROKEN"}},
            start, {"kind": "operation", "level": "ERROR", "error": {"code": "UNKNOWN"}},
        )  # fmt: skip
        telemetry.assert_metric("result_failure_total", 4, operation="order")

    def test_an_exception_goes_on_and_is_a_defect(self, telemetry: Telemetry) -> None:
        """
        What the function raises is raised on, unchanged, and recorded with its stack trace as a defect.
        """
        raised = ZeroDivisionError("by nothing")

        @log_result_operation("divide")
        def divide() -> None:
            raise raised

        with pytest.raises(ZeroDivisionError) as caught:
            divide()

        assert caught.value is raised
        end = telemetry.assert_record(kind="operation", level="ERROR", error={"is_defect": True})
        assert end.error is not None
        assert end.error.stack_trace is not None
        assert "ZeroDivisionError: by nothing" in end.error.stack_trace
        telemetry.assert_metric("result_failure_total", 1, operation="divide")

    async def test_cancellation_is_neither(self, telemetry: Telemetry) -> None:
        """
        A cancelled operation is recorded as cancelled, counted as nothing, and the cancellation goes on.
        """

        @log_result_operation("wait")
        async def wait() -> None:
            await asyncio.Event().wait()

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        telemetry.assert_records(
            {"kind": "operation_start"}, {"message": "Operation cancelled", "outcome": "cancelled", "level": "INFO"}
        )
        telemetry.assert_metric("result_failure_total", None)
        telemetry.assert_metric("result_success_total", None)
        telemetry.assert_metric("operations_active", 0)

    def test_the_defect_in_a_failure_is_marked(self, telemetry: Telemetry) -> None:
        """
        A Failure that holds a caught exception is told apart from the domain's failures.
        """

        @log_result_operation("parse")
        def parse() -> Result[int, Exception]:
            return Success("x").map(int)

        parse()

        telemetry.assert_record(kind="operation", error={"type": ValueError, "is_defect": True})

    def test_nested_operations_are_a_tree(self, telemetry: Telemetry) -> None:
        """
        An operation inside another is its child span, in the same trace, and plain messages belong to the inner one.
        """

        @log_result_operation("inner")
        def inner() -> None:
            info("hello")

        @log_result_operation("outer")
        def outer() -> None:
            inner()

        outer()

        parent = telemetry.assert_span(
            operation="outer",
            parent_span_id="",
            children=[{"operation": "inner", "records": [{}, {"kind": "log", "message": "hello"}, {}]}],
        )
        (child,) = parent.children
        found = telemetry.records
        assert {record.trace_id for record in found} == {parent.trace_id} == {child.trace_id}
        assert len({record.correlation_id for record in found}) == 1
        assert current() is None

    def test_takes_any_function(self, telemetry: Telemetry) -> None:
        """
        Methods, extra positional arguments, plain results, None and FluxResults are operations, too.
        """

        class Service:
            @log_result_operation("method")
            def method(self, user_id: str) -> list[str]:
                return [user_id]

        @log_result_operation("many")
        def many(*numbers: int, **options: int) -> None:
            return None

        @log_result_operation("batch")
        def batch(items: list[Result[int, str]]) -> FluxResult[int, str]:
            return FluxResult(items)

        assert Service().method("7") == ["7"]
        many(1, 2, limit=3)
        batch([Success(1), Failure("x")])
        batch([Failure("x")])

        assert telemetry.assert_record(kind="operation_start", operation="method").context == {"user_id": "7"}
        assert telemetry.assert_record(kind="operation_start", operation="many").context == {"args": [1, 2], "limit": 3}
        telemetry.assert_metric("result_success_total", 1, operation="batch")
        telemetry.assert_metric("result_failure_total", 1, operation="batch")

    def test_options(self, telemetry: Telemetry, virtual_time: VirtualTime) -> None:
        """
        Arguments can be left out, the result included (masked), the logger named, a slow success be a warning.
        """

        @log_result_operation(
            "login", include_args=False, include_result=True, logger_name="auth", performance_threshold_ms=100
        )
        def login(password: str) -> Result[dict[str, str], str]:
            virtual_time.advance(0.2)
            return Success({"user": "kim", "password": password})

        login("hunter2-secret")

        start, end = telemetry.assert_records({}, {"logger": "auth", "level": "WARNING"})
        assert start.context == {}
        assert end.context["result"] == {"user": "kim", "password": "[masked:key]"}
        telemetry.assert_no_secret("hunter2-secret")

    def test_sensitive_parameters_are_never_shown(self, telemetry: Telemetry) -> None:
        """
        An argument whose annotation says that it is sensitive is recorded as masked, whatever its name and value.
        """

        @log_result_operation("visit")
        def visit(patient: Annotated[str, Sensitive], ward: str) -> None:
            return None

        visit("Kim", ward="3")
        visit(patient="Kim", ward="3")

        started = {"kind": "operation_start", "patient": "[masked:type]", "ward": "3"}
        ended = {"kind": "operation"}
        telemetry.assert_records(started, ended, started, ended)

    def test_below_the_level_nothing_is_recorded_but_all_is_counted(self, telemetry: Telemetry) -> None:
        """
        The level is about records; measurements do not depend on it.
        """

        @log_result_operation("quiet", log_level="DEBUG")
        def quiet() -> Result[int, str]:
            return Success(1)

        quiet()

        telemetry.assert_records()
        telemetry.assert_metric("result_success_total", 1, operation="quiet")

    @pytest.mark.parametrize("bad", ["", None, 7])
    def test_needs_a_name(self, bad: Any) -> None:
        """
        An operation without a name is an error where it is declared.
        """
        with pytest.raises(ValueError, match="operation_name"):
            log_result_operation(bad)

    def test_codes_are_bounded(self, telemetry: Telemetry) -> None:
        """
        Of one operation a hundred codes become labels; further ones share one, and the sum stays right.
        """
        for number in range(150):
            telemetry.monitor.count_error("order", "OrderError", f"CODE_{number}")

        codes = telemetry.monitor.query.increase_by("result_error_by_type_total", "error_code")

        assert len(codes) == 101
        assert codes["rfs_overflow"] == 50

    def test_failure_says_where_its_function_is(self, telemetry: Telemetry) -> None:
        """
        The record of a failure has the dotted path of what was called; that of a success has none.
        """

        @log_result_operation("order")
        def order(dish: str) -> Result[str, str]:
            return Success(dish) if dish else Failure("no dish")

        order("bibimbap")
        order("")

        telemetry.assert_no_record(outcome="ok", **{"code.function.name": ANY})
        telemetry.assert_record(outcome="failed", **{"code.function.name": f"{__name__}.{order.__qualname__}"})

    @pytest.mark.parametrize(
        ("spec", "path"), [(ModuleSpec("shop.run", None), "shop.run.order"), (None, "serve.order")]
    )
    def test_function_of_a_program_is_where_it_can_be_imported_from(
        self, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch, spec: ModuleSpec | None, path: str
    ) -> None:
        """
        In a program that runs as a module or as a script, it is told by the name of that, and not as `__main__`.
        """
        program = ModuleType("__main__")
        program.__spec__, program.__file__ = spec, "/srv/serve.py"
        monkeypatch.setitem(sys.modules, "__main__", program)

        def order() -> Result[str, str]:
            return Failure("no dish")

        order.__module__, order.__qualname__ = "__main__", "order"
        log_result_operation("order")(order)()

        telemetry.assert_record(outcome="failed", **{"code.function.name": path})


class TestNeverTheHostsProblem:
    @pytest.mark.parametrize("broken", ["keep", "operation"])
    def test_a_fault_of_ours_changes_nothing(
        self, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch, broken: str
    ) -> None:
        """
        With an exception in our own code the decorated function's result is unchanged, and the fault is counted.
        """

        def fail(*_args: object, **_kwargs: object) -> None:
            raise RuntimeError("ours")

        @log_result_operation("order")
        def order() -> Result[int, str]:
            return Success(1)

        monkeypatch.setattr(telemetry.monitor, broken, fail)

        assert_result_value(order(), 1)
        assert current() is None
        telemetry.assert_metric("telemetry_internal_errors_total")

    @pytest.mark.usefixtures("telemetry")
    @pytest.mark.parametrize("broken", ["current", "start_context", "activate", "default_monitor"])
    def test_not_even_without_a_context(self, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
        """
        Whatever of ours an operation reaches for first may be broken: its result is unchanged.
        """

        def fail(*_args: object, **_kwargs: object) -> None:
            raise RuntimeError("ours")

        @log_result_operation("order")
        def order() -> Result[int, str]:
            return Success(1)

        monkeypatch.setattr(f"rfs.monitoring.result_logging.{broken}", fail)

        assert_result_value(order(), 1)

    def test_a_fault_while_encoding_is_counted(self, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A record that could not be made is a counted fault, and nothing is raised.
        """
        monkeypatch.setattr(telemetry.monitor.masker, "text", lambda _text: 1 / 0)

        telemetry.monitor.log(20, "hello")
        monkeypatch.undo()

        telemetry.assert_metric("telemetry_internal_errors_total", 1, where="log")

    def test_values_are_taken_at_the_call(self, telemetry: Telemetry) -> None:
        """
        What is changed after the call does not change the record.
        """
        items = ["bibimbap"]

        info("ordered", items=items)
        items.append("soju")

        telemetry.assert_records({"message": "ordered", "items": ["bibimbap"]})


class TestMessages:
    def test_levels(self, telemetry: Telemetry) -> None:
        """
        Every verb records at its level; below the Monitor's level nothing is.
        """
        debug("no")
        info("a")
        warning("b")
        error("c", exception=ValueError("x"))
        critical("d")
        log(LogLevel.ERROR, "e")
        log("warning", "f")
        log(20, "g", number=1)
        telemetry.monitor.level = 10
        debug("yes")

        telemetry.assert_records(
            {"message": "a", "level": "INFO"},
            {"message": "b", "level": "WARNING"},
            {"message": "c", "level": "ERROR", "error": {"type": ValueError, "message": "x"}},
            {"message": "d", "level": "CRITICAL"},
            {"message": "e", "level": "ERROR"},
            {"message": "f", "level": "WARNING"},
            {"message": "g", "level": "INFO"},
            {"message": "yes", "level": "DEBUG"},
        )

    def test_fields_of_the_request_and_of_the_call(self, telemetry: Telemetry) -> None:
        """
        What was bound to the request is on every record; the call's own field wins.
        """
        with CorrelationContext("req"):
            bind(user_id="7", table=1)
            info("ordered", table=2)
            info("plain")

        ordered, plain = telemetry.assert_records({"correlation_id": "req"}, {"correlation_id": "req"})
        assert ordered.context == {"user_id": "7", "table": 2}
        assert plain.context == {"user_id": "7", "table": 1}

    def test_unknown_level(self) -> None:
        """
        A level that does not exist is an error that names those that do.
        """
        with pytest.raises(ValueError, match="'LOUD' is none of DEBUG, INFO"):
            level_number("LOUD")
        assert LogLevel.ERROR.number == level_number("error") == level_number(40) == 40


class TestChains:
    async def test_each_step_is_a_record(self, telemetry: Telemetry) -> None:
        """
        Every named step is one record with message, type and size of its value; performance has the memory in use.
        """

        async def ok(value: Any) -> Result[Any, str]:
            return Success(value)

        with CorrelationContext("req"):
            result = await (
                create_logging_mono(lambda: ok({"a": 1}))
                .log_step("initial_processing", "데이터 초기 처리 완료")
                .bind_async_result(lambda value: ok([1, 2, 3]))
                .log_step("validation")
                .log_performance("total_processing_time")
                .log_error("processing_failed")
                .to_result()
            )

        assert_result_value(result, [1, 2, 3])
        step = {"kind": "step", "outcome": "ok", "correlation_id": "req"}
        *steps, performance = telemetry.assert_records(
            {
                **step,
                "step": "initial_processing",
                "message": "데이터 초기 처리 완료",
                "result_type": "dict",
                "result_size": 1,
            },
            {**step, "step": "validation", "result_type": "list", "result_size": 3},
            {"kind": "performance", "step": "total_processing_time", "outcome": "ok", "correlation_id": "req"},
        )
        assert performance.context["memory_usage_mb"] == pytest.approx(memory_usage_mb(), rel=0.5)
        assert all(each.duration_ms is not None for each in (*steps, performance))

    async def test_a_failure_is_one_error(self, telemetry: Telemetry) -> None:
        """
        ``log_error`` is one record at ERROR, for a Failure only, with its code.
        """

        async def fail() -> Result[int, OrderError]:
            return Failure(OrderError(Code.SOLD_OUT))

        await create_logging_mono(fail, "ordering").log_error("ordering_failed").to_result()

        telemetry.assert_records(
            {
                "kind": "error",
                "level": "ERROR",
                "step": "ordering_failed",
                "outcome": "failed",
                "error": {"code": "SOLD_OUT"},
            }
        )

    async def test_a_failed_step_does_not_claim_success(self, telemetry: Telemetry) -> None:
        """
        What the caller says of a step is said when it went well; a failed or skipped one says that.
        """

        async def fail() -> Result[int, str]:
            return Failure("no")

        chain = create_logging_mono(fail).log_step("store", "주문 저장 완료").log_step("send", "주문 전송 완료")
        await chain.to_result()

        telemetry.assert_records(
            {"step": "store", "outcome": "failed", "message": "Step failed"},
            {"step": "send", "outcome": "skipped", "message": "Step skipped"},
        )

    async def test_levels_and_details_of_steps(self, telemetry: Telemetry) -> None:
        """
        A step may bring details or a level; below the Monitor's level it is no record.
        """

        async def ok() -> Result[int, str]:
            return Success(1)

        chain = MonoResult.from_async_result(ok).name("chain")
        await chain.log_step("detailed", {"table": 7}).log_step("quiet", LogLevel.DEBUG).to_result()

        telemetry.assert_records({"step": "detailed", "table": 7, "chain": "chain"})

    def test_is_a_chain_of_its_own_kind(self) -> None:
        """
        Every method of a logging chain gives a logging chain.
        """

        async def ok() -> Result[int, str]:
            return Success(1)

        chain = create_logging_mono(ok, "named").map(str).log_step("x")

        assert type(chain) is LoggingMonoResult


class TestEntries:
    def test_finished_operations_have_the_plans_entry(self, telemetry: Telemetry, virtual_time: VirtualTime) -> None:
        """
        The record of a finished operation carries a ResultLogEntry with exactly the documented fields; a start has none.
        """

        @log_result_operation("order")
        def order(user_id: str) -> Result[int, OrderError]:
            virtual_time.advance(0.05)
            return Failure(OrderError(Code.SOLD_OUT))

        with CorrelationContext("req"):
            bind(user_id="7")
            order("7")

        start, end = query_logs_by_correlation_id("req")
        assert start.entry is None
        entry = end.entry
        assert entry is not None
        assert (entry.result_type, entry.processing_time_ms, entry.operation_name) == ("error", 50.0, "order")
        assert (entry.error_type, entry.error_code, entry.user_id) == ("OrderError", "SOLD_OUT", "7")
        assert (entry.request_id, entry.success_type, entry.cpu_usage_percent) == ("req", None, None)


class TestStreams:
    @pytest.fixture
    def stream(self, telemetry: Telemetry) -> io.StringIO:
        text = io.StringIO()
        configure_result_logging(stream=text)
        return text

    def test_one_strict_json_object_per_line(self, telemetry: Telemetry, stream: io.StringIO) -> None:
        """
        Whatever is recorded comes out as one JSON object on one line, Korean as it is.
        """
        info("주문 생성\nsecond line", amount=float("nan"), note="\u2028\x00")
        info("plain")

        telemetry.monitor.stop()

        lines = stream.getvalue().splitlines()
        first, second = (json.loads(line, parse_constant=pytest.fail) for line in lines)
        assert first["message"] == "주문 생성\nsecond line"
        assert first["context"]["amount"] == "NaN"
        assert first["schema_version"] == 1
        assert second["message"] == "plain"
        assert "주문 생성" in lines[0]

    def test_configuring_again_replaces(self, telemetry: Telemetry, stream: io.StringIO) -> None:
        """
        The last call holds: no line is printed twice, and the settings are its own.
        """
        again = io.StringIO()
        configure_result_logging(LogLevel.WARNING, False, False, "X-Request-Trace", stream=again)

        info("no")
        error("yes", exception=ValueError("x"))
        telemetry.monitor.stop()

        assert stream.getvalue() == ""
        (line,) = again.getvalue().splitlines()
        assert "stack_trace" not in json.loads(line)["error"]
        assert telemetry.monitor.correlation_header == "X-Request-Trace"

    def test_a_broken_stream_is_counted(self, telemetry: Telemetry) -> None:
        """
        A stream that was closed costs its lines and nothing else; what was lost is counted.
        """
        text = io.StringIO()
        configure_result_logging(stream=text)
        text.close()

        info("lost here, kept in the store")
        telemetry.monitor.stop()

        telemetry.assert_metric("rfs_dropped_total", 1, signal="stream")
        telemetry.assert_metric("telemetry_internal_errors_total", 1, where="stream")
        telemetry.assert_records({"message": "lost here, kept in the store"})

    def test_a_stream_that_hangs_blocks_nobody(self, telemetry: Telemetry) -> None:
        """
        While the stream takes nothing, recording and reading go on, and what does not fit is counted.
        """
        import threading

        release = threading.Event()

        class Hanging(io.StringIO):
            def write(self, text: str) -> int:
                release.wait(10)
                return len(text)

        configure_result_logging(stream=Hanging())
        for site in range(2):
            for _ in range(12_000):
                info(f"x{site}")
            telemetry.monitor.query.records(limit=1)
        release.set()

        telemetry.assert_metric("rfs_dropped_total", IsNumeric(ge=4_000), signal="stream")

    def test_default_is_the_standard_output_of_the_moment(
        self, telemetry: Telemetry, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """
        Without a stream lines go to standard output; with None nowhere.
        """
        configure_result_logging()
        info("shown")
        telemetry.monitor.stop()
        configure_result_logging(stream=None)
        info("not shown")
        telemetry.monitor.stop()

        assert [json.loads(line)["message"] for line in capsys.readouterr().out.splitlines()] == ["shown"]

    @pytest.mark.parametrize("header", ["", "a b", "X:Y", "X\r\nY"])
    def test_a_bad_header_is_refused(self, telemetry: Telemetry, header: str) -> None:
        """
        A header name that no HTTP message could carry is an error.
        """
        with pytest.raises(ValueError, match="correlation_header"):
            configure_result_logging(correlation_header=header)


class TestStandardLogging:
    @pytest.fixture
    def logger(self, telemetry: Telemetry) -> Iterator[logging.Logger]:
        logger = logging.getLogger("shop.orders")
        handler = RfsHandler()
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        yield logger
        logger.removeHandler(handler)

    def test_records_of_other_libraries_join(self, telemetry: Telemetry, logger: logging.Logger) -> None:
        """
        A record of the standard library has our shape: message, logger, extra as fields, masked, and the correlation id.
        """
        with CorrelationContext("req"):
            logger.warning("slow query %d ms", 700, extra={"rows": 3, "password": "hunter2"})
            logger.debug("below the level")

        (found,) = query_logs_by_correlation_id("req")
        assert (found.message, found.level, found.logger) == ("slow query 700 ms", "WARNING", "shop.orders")
        assert found.context["rows"] == 3
        assert found.context["password"] == "[masked:key]"
        assert found.context["function"] == "test_records_of_other_libraries_join"

    def test_exceptions(self, telemetry: Telemetry, logger: logging.Logger) -> None:
        """
        ``logger.exception`` brings type, message and stack trace.
        """
        try:
            raise ValueError("x")
        except ValueError:
            logger.exception("failed")

        found = telemetry.assert_record(message="failed", error={"type": ValueError, "message": "x"})
        assert found.error is not None
        assert found.error.stack_trace is not None

    def test_wrong_arguments_raise_nothing(self, telemetry: Telemetry) -> None:
        """
        A format that does not fit its arguments is still a record.
        """
        RfsHandler().handle(logging.makeLogRecord({"msg": "%d items", "args": ("many",), "levelno": 30}))

        telemetry.assert_records(
            {
                "message": "%d items <unformattable arguments>",
                "logger": "<no name>",
                "formatting_error": "TypeError",
            }
        )


class TestResultLogger:
    def test_a_life_in_several_calls(self, telemetry: Telemetry) -> None:
        """
        The ancestor's logger records start, steps, performance, result, error and end under one id.
        """
        logger = ResultLogger("orders")
        with CorrelationContext("req"):
            assert logger.start_operation("order", {"table": 7}) == "req"
            logger.log_step("validate", 1.5, "ok", {"items": 2})
            logger.log_step("pay", 3.0, "failed")
            logger.log_performance("order", 12.0, 1, 1)
            logger.log_result("order", Success([1]))
            logger.log_result("order", Failure(OrderError(Code.BROKEN)))
            logger.complete_operation("order")
            logger.complete_operation("order", "aborted")

        found = query_logs_by_correlation_id("req")
        assert [(one.kind, one.level) for one in found] == [
            ("operation_start", "INFO"), ("step", "INFO"), ("step", "ERROR"), ("performance", "INFO"),
            ("operation", "INFO"), ("operation", "ERROR"), ("operation", "INFO"), ("operation", "ERROR"),
        ]  # fmt: skip
        assert {one.logger for one in found} == {"orders"}
        assert found[1].duration_ms == 1.5


class TestDescribing:
    def test_sizes_only_of_builtins(self) -> None:
        """
        Of a built-in value type and size are told, of any other the type; its own ``__len__`` is not run.
        """

        class Trap(list[int]):
            def __len__(self) -> int:
                raise RuntimeError

        assert describe_value("abc") == {"result_type": "str", "result_size": 3}
        assert describe_value(7) == {"result_type": "int"}
        assert describe_value(Trap()) == {"result_type": "Trap"}

    def test_memory_is_unknown_where_the_system_does_not_tell(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Without /proc the memory in use is None, not 0.
        """

        def missing(*_args: object, **_kwargs: object) -> None:
            raise FileNotFoundError

        monkeypatch.setattr("pathlib.Path.read_bytes", missing)

        assert memory_usage_mb() is None
