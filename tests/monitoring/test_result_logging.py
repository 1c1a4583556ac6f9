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

import pytest

from rfs.core.result import Failure, Result, Success
from rfs.monitoring import debug, error, info, log, warning
from rfs.monitoring._capture.record import LogRecord
from rfs.monitoring.context import CorrelationContext, bind, current
from rfs.monitoring.masking import Sensitive
from rfs.monitoring.metrics import collect_result_metric
from rfs.monitoring.monitor import Monitor
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
from tests.monitoring.conftest import ManualClock


class Code(Enum):
    SOLD_OUT = "SOLD_OUT"
    BROKEN = "BROKEN"


class OrderError(Exception):
    def __init__(self, code: Code, *, expected: bool = False) -> None:
        super().__init__(f"order refused: {code.value}")
        self.code = code
        self.expected = expected


def records(monitor: Monitor) -> list[LogRecord]:
    return monitor.query.records(limit=1000)[::-1]


def counted(monitor: Monitor, name: str, **labels: str) -> float | None:
    return monitor.query.increase(name, "1h", labels)


class TestOperation:
    async def test_start_and_end(self, monitor: Monitor, clock: ManualClock) -> None:
        """
        An operation is two records: its start with the arguments by name, its end with duration and result's type.
        """

        @log_result_operation("user_processing")
        async def process(user_id: str, *, retries: int = 0) -> Result[dict[str, int], str]:
            clock.advance(0.25)
            return Success({"a": 1, "b": 2})

        with CorrelationContext("req_12345"):
            assert await process("123", retries=2) == Success({"a": 1, "b": 2})

        start, end = records(monitor)
        line = start.to_dict()
        assert line["message"] == "Operation started"
        assert (line["operation"], line["level"], line["correlation_id"]) == ("user_processing", "INFO", "req_12345")
        assert line["context"] == {"user_id": "123", "retries": 2}
        assert line["timestamp"].endswith("Z")
        assert (end.message, end.outcome, end.duration_ms) == ("Operation completed", "ok", 250.0)
        assert end.context == {"result_type": "dict", "result_size": 2}
        assert start.error is end.error is None

    def test_measures_by_itself(self, monitor: Monitor, clock: ManualClock) -> None:
        """
        Successes, failures by code and durations are counted exactly for a scripted workload.
        """

        @log_result_operation("order")
        def order(number: int) -> Result[int, OrderError]:
            clock.advance(0.1)
            return Success(number) if number % 3 else Failure(OrderError(Code.SOLD_OUT))

        for number in range(9):
            order(number)

        assert counted(monitor, "result_success_total", operation="order") == 6
        assert counted(monitor, "result_failure_total", operation="order") == 3
        assert counted(monitor, "result_error_by_type_total", operation="order", error_code="SOLD_OUT") == 3
        durations = monitor.query.distribution("result_duration_ms", "1h", {"operation": "order"})
        assert durations is not None
        assert durations.count == 9
        assert durations.sum == pytest.approx(900)
        assert monitor.query.latest("operations_active", {"operation": "order"}) == 0

    def test_is_not_counted_twice(self, monitor: Monitor) -> None:
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
        assert counted(monitor, "result_success_total") == 1
        get_user(other=True)
        assert counted(monitor, "result_success_total") == 3

    def test_a_failure_tells_its_code_and_level(self, monitor: Monitor) -> None:
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

        ends = [record for record in records(monitor) if record.kind == "operation"]
        assert [(end.level, end.error.code) for end in ends if end.error] == [
            ("ERROR", "SOLD_OUT"),
            ("INFO", "SOLD_OUT"),
            ("INFO", "BROKEN"),
            ("ERROR", "UNKNOWN"),
        ]
        assert ends[0].error is not None
        assert ends[0].error.message == "order refused: SOLD_OUT"
        assert not ends[0].error.is_defect
        assert counted(monitor, "result_failure_total", operation="order") == 4

    def test_an_exception_goes_on_and_is_a_defect(self, monitor: Monitor) -> None:
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
        end = records(monitor)[-1]
        assert end.level == "ERROR"
        assert end.error is not None
        assert end.error.is_defect
        assert end.error.stack_trace is not None
        assert "ZeroDivisionError: by nothing" in end.error.stack_trace
        assert counted(monitor, "result_failure_total", operation="divide") == 1

    async def test_cancellation_is_neither(self, monitor: Monitor) -> None:
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

        end = records(monitor)[-1]
        assert (end.message, end.outcome, end.level) == ("Operation cancelled", "cancelled", "INFO")
        assert counted(monitor, "result_failure_total") == counted(monitor, "result_success_total") == 0
        assert monitor.query.latest("operations_active") == 0

    def test_the_defect_in_a_failure_is_marked(self, monitor: Monitor) -> None:
        """
        A Failure that holds a caught exception is told apart from the domain's failures.
        """

        @log_result_operation("parse")
        def parse() -> Result[int, Exception]:
            return Success("x").map(int)

        parse()

        end = records(monitor)[-1]
        assert end.error is not None
        assert (end.error.type, end.error.is_defect) == ("ValueError", True)

    def test_nested_operations_are_a_tree(self, monitor: Monitor) -> None:
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

        by_kind = {(record.kind, record.operation): record for record in records(monitor)}
        parent, child = by_kind["operation", "outer"], by_kind["operation", "inner"]
        message = by_kind["log", "inner"]
        assert child.parent_span_id == parent.span_id == by_kind["operation_start", "outer"].span_id
        assert parent.parent_span_id == ""
        assert {record.trace_id for record in by_kind.values()} == {parent.trace_id}
        assert {record.correlation_id for record in by_kind.values()} == {parent.correlation_id}
        assert message.span_id == child.span_id
        assert current() is None

    def test_takes_any_function(self, monitor: Monitor) -> None:
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

        started = {one.operation: dict(one.context) for one in records(monitor) if one.kind == "operation_start"}
        assert started["method"] == {"user_id": "7"}
        assert started["many"] == {"args": [1, 2], "limit": 3}
        assert counted(monitor, "result_success_total", operation="batch") == 1
        assert counted(monitor, "result_failure_total", operation="batch") == 1

    def test_options(self, monitor: Monitor, clock: ManualClock) -> None:
        """
        Arguments can be left out, the result included (masked), the logger named, a slow success be a warning.
        """

        @log_result_operation(
            "login", include_args=False, include_result=True, logger_name="auth", performance_threshold_ms=100
        )
        def login(password: str) -> Result[dict[str, str], str]:
            clock.advance(0.2)
            return Success({"user": "kim", "password": password})

        login("hunter2-secret")

        start, end = records(monitor)
        assert start.context == {}
        assert end.logger == "auth"
        assert end.level == "WARNING"
        assert end.context["result"] == {"user": "kim", "password": "[masked:key]"}

    def test_sensitive_parameters_are_never_shown(self, monitor: Monitor) -> None:
        """
        An argument whose annotation says that it is sensitive is recorded as masked, whatever its name and value.
        """

        @log_result_operation("visit")
        def visit(patient: Annotated[str, Sensitive], ward: str) -> None:
            return None

        visit("Kim", ward="3")
        visit(patient="Kim", ward="3")

        started = [one.context for one in records(monitor) if one.kind == "operation_start"]
        assert started == [{"patient": "[masked:type]", "ward": "3"}] * 2

    def test_below_the_level_nothing_is_recorded_but_all_is_counted(self, monitor: Monitor) -> None:
        """
        The level is about records; measurements do not depend on it.
        """

        @log_result_operation("quiet", log_level="DEBUG")
        def quiet() -> Result[int, str]:
            return Success(1)

        quiet()

        assert records(monitor) == []
        assert counted(monitor, "result_success_total", operation="quiet") == 1

    @pytest.mark.parametrize("bad", ["", None, 7])
    def test_needs_a_name(self, bad: Any) -> None:
        """
        An operation without a name is an error where it is declared.
        """
        with pytest.raises(ValueError, match="operation_name"):
            log_result_operation(bad)

    def test_codes_are_bounded(self, monitor: Monitor) -> None:
        """
        Of one operation a hundred codes become labels; further ones share one, and the sum stays right.
        """
        for number in range(150):
            monitor.count_error("order", "OrderError", f"CODE_{number}")

        codes = monitor.query.increase_by("result_error_by_type_total", "error_code")

        assert len(codes) == 101
        assert codes["rfs_overflow"] == 50

    def test_failure_says_where_its_function_is(self, monitor: Monitor) -> None:
        """
        The record of a failure has the dotted path of what was called; that of a success has none.
        """

        @log_result_operation("order")
        def order(dish: str) -> Result[str, str]:
            return Success(dish) if dish else Failure("no dish")

        order("bibimbap")
        order("")

        ends = [record.context.get("code.function.name") for record in records(monitor) if record.kind == "operation"]
        assert ends == [None, f"{__name__}.{order.__qualname__}"]

    @pytest.mark.parametrize(
        ("spec", "path"), [(ModuleSpec("shop.run", None), "shop.run.order"), (None, "serve.order")]
    )
    def test_function_of_a_program_is_where_it_can_be_imported_from(
        self, monitor: Monitor, monkeypatch: pytest.MonkeyPatch, spec: ModuleSpec | None, path: str
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

        assert records(monitor)[-1].context["code.function.name"] == path


class TestNeverTheHostsProblem:
    @pytest.mark.parametrize("broken", ["keep", "operation"])
    def test_a_fault_of_ours_changes_nothing(
        self, monitor: Monitor, monkeypatch: pytest.MonkeyPatch, broken: str
    ) -> None:
        """
        With an exception in our own code the decorated function's result is unchanged, and the fault is counted.
        """

        def fail(*_args: object, **_kwargs: object) -> None:
            raise RuntimeError("ours")

        @log_result_operation("order")
        def order() -> Result[int, str]:
            return Success(1)

        monkeypatch.setattr(monitor, broken, fail)

        assert order() == Success(1)
        assert current() is None
        assert (counted(monitor, "telemetry_internal_errors_total") or 0) >= 1

    @pytest.mark.parametrize("broken", ["current", "start_context", "activate", "default_monitor"])
    def test_not_even_without_a_context(self, monitor: Monitor, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
        """
        Whatever of ours an operation reaches for first may be broken: its result is unchanged.
        """

        def fail(*_args: object, **_kwargs: object) -> None:
            raise RuntimeError("ours")

        @log_result_operation("order")
        def order() -> Result[int, str]:
            return Success(1)

        monkeypatch.setattr(f"rfs.monitoring.result_logging.{broken}", fail)

        assert order() == Success(1)

    def test_a_fault_while_encoding_is_counted(self, monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A record that could not be made is a counted fault, and nothing is raised.
        """
        monkeypatch.setattr(monitor.masker, "text", lambda _text: 1 / 0)

        monitor.log(20, "hello")
        monkeypatch.undo()

        assert counted(monitor, "telemetry_internal_errors_total", where="log") == 1

    def test_values_are_taken_at_the_call(self, monitor: Monitor) -> None:
        """
        What is changed after the call does not change the record.
        """
        items = ["bibimbap"]

        info("ordered", items=items)
        items.append("soju")

        assert records(monitor)[0].context == {"items": ["bibimbap"]}


class TestMessages:
    def test_levels(self, monitor: Monitor) -> None:
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
        monitor.level = 10
        debug("yes")

        assert [(one.message, one.level) for one in records(monitor)] == [
            ("a", "INFO"), ("b", "WARNING"), ("c", "ERROR"), ("d", "CRITICAL"), ("e", "ERROR"), ("f", "WARNING"),
            ("g", "INFO"), ("yes", "DEBUG"),
        ]  # fmt: skip
        failed = records(monitor)[2].error
        assert failed is not None
        assert (failed.type, failed.message) == ("ValueError", "x")

    def test_fields_of_the_request_and_of_the_call(self, monitor: Monitor) -> None:
        """
        What was bound to the request is on every record; the call's own field wins.
        """
        with CorrelationContext("req"):
            bind(user_id="7", table=1)
            info("ordered", table=2)
            info("plain")

        ordered, plain = query_logs_by_correlation_id("req")
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
    async def test_each_step_is_a_record(self, monitor: Monitor) -> None:
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

        assert result == Success([1, 2, 3])
        found = query_logs_by_correlation_id("req")
        assert [(one.kind, one.step, one.outcome) for one in found] == [
            ("step", "initial_processing", "ok"),
            ("step", "validation", "ok"),
            ("performance", "total_processing_time", "ok"),
        ]
        first, second, performance = found
        assert first.message == "데이터 초기 처리 완료"
        assert (first.context["result_type"], first.context["result_size"]) == ("dict", 1)
        assert (second.context["result_type"], second.context["result_size"]) == ("list", 3)
        assert performance.context["memory_usage_mb"] == pytest.approx(memory_usage_mb(), rel=0.5)
        assert all(one.duration_ms is not None for one in found)

    async def test_a_failure_is_one_error(self, monitor: Monitor) -> None:
        """
        ``log_error`` is one record at ERROR, for a Failure only, with its code.
        """

        async def fail() -> Result[int, OrderError]:
            return Failure(OrderError(Code.SOLD_OUT))

        await create_logging_mono(fail, "ordering").log_error("ordering_failed").to_result()

        (found,) = [one for one in records(monitor) if one.kind == "error"]
        assert (found.level, found.step, found.outcome) == ("ERROR", "ordering_failed", "failed")
        assert found.error is not None
        assert found.error.code == "SOLD_OUT"

    async def test_a_failed_step_does_not_claim_success(self, monitor: Monitor) -> None:
        """
        What the caller says of a step is said when it went well; a failed or skipped one says that.
        """

        async def fail() -> Result[int, str]:
            return Failure("no")

        chain = create_logging_mono(fail).log_step("store", "주문 저장 완료").log_step("send", "주문 전송 완료")
        await chain.to_result()

        assert [(one.step, one.outcome, one.message) for one in records(monitor)] == [
            ("store", "failed", "Step failed"),
            ("send", "skipped", "Step skipped"),
        ]

    async def test_levels_and_details_of_steps(self, monitor: Monitor) -> None:
        """
        A step may bring details or a level; below the Monitor's level it is no record.
        """

        async def ok() -> Result[int, str]:
            return Success(1)

        chain = MonoResult.from_async_result(ok).name("chain")
        await chain.log_step("detailed", {"table": 7}).log_step("quiet", LogLevel.DEBUG).to_result()

        (found,) = records(monitor)
        assert (found.step, found.context["table"], found.context["chain"]) == ("detailed", 7, "chain")

    def test_is_a_chain_of_its_own_kind(self) -> None:
        """
        Every method of a logging chain gives a logging chain.
        """

        async def ok() -> Result[int, str]:
            return Success(1)

        chain = create_logging_mono(ok, "named").map(str).log_step("x")

        assert type(chain) is LoggingMonoResult


class TestEntries:
    def test_finished_operations_have_the_plans_entry(self, monitor: Monitor, clock: ManualClock) -> None:
        """
        The record of a finished operation carries a ResultLogEntry with exactly the documented fields; a start has none.
        """

        @log_result_operation("order")
        def order(user_id: str) -> Result[int, OrderError]:
            clock.advance(0.05)
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
    def stream(self, monitor: Monitor) -> io.StringIO:
        text = io.StringIO()
        configure_result_logging(stream=text)
        return text

    def test_one_strict_json_object_per_line(self, monitor: Monitor, stream: io.StringIO) -> None:
        """
        Whatever is recorded comes out as one JSON object on one line, Korean as it is.
        """
        info("주문 생성\nsecond line", amount=float("nan"), note="\u2028\x00")
        info("plain")

        monitor.stop()

        lines = stream.getvalue().splitlines()
        first, second = (json.loads(line, parse_constant=pytest.fail) for line in lines)
        assert first["message"] == "주문 생성\nsecond line"
        assert first["context"]["amount"] == "NaN"
        assert first["schema_version"] == 1
        assert second["message"] == "plain"
        assert "주문 생성" in lines[0]

    def test_configuring_again_replaces(self, monitor: Monitor, stream: io.StringIO) -> None:
        """
        The last call holds: no line is printed twice, and the settings are its own.
        """
        again = io.StringIO()
        configure_result_logging(LogLevel.WARNING, False, False, "X-Request-Trace", stream=again)

        info("no")
        error("yes", exception=ValueError("x"))
        monitor.stop()

        assert stream.getvalue() == ""
        (line,) = again.getvalue().splitlines()
        assert "stack_trace" not in json.loads(line)["error"]
        assert monitor.correlation_header == "X-Request-Trace"

    def test_a_broken_stream_is_counted(self, monitor: Monitor) -> None:
        """
        A stream that was closed costs its lines and nothing else; what was lost is counted.
        """
        text = io.StringIO()
        configure_result_logging(stream=text)
        text.close()

        info("lost here, kept in the store")
        monitor.stop()

        assert counted(monitor, "rfs_dropped_total", signal="stream") == 1
        assert counted(monitor, "telemetry_internal_errors_total", where="stream") == 1
        assert len(records(monitor)) == 1

    def test_a_stream_that_hangs_blocks_nobody(self, monitor: Monitor) -> None:
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
            monitor.query.records(limit=1)
        release.set()

        assert (counted(monitor, "rfs_dropped_total", signal="stream") or 0) >= 4_000

    def test_default_is_the_standard_output_of_the_moment(
        self, monitor: Monitor, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """
        Without a stream lines go to standard output; with None nowhere.
        """
        configure_result_logging()
        info("shown")
        monitor.stop()
        configure_result_logging(stream=None)
        info("not shown")
        monitor.stop()

        assert [json.loads(line)["message"] for line in capsys.readouterr().out.splitlines()] == ["shown"]

    @pytest.mark.parametrize("header", ["", "a b", "X:Y", "X\r\nY"])
    def test_a_bad_header_is_refused(self, monitor: Monitor, header: str) -> None:
        """
        A header name that no HTTP message could carry is an error.
        """
        with pytest.raises(ValueError, match="correlation_header"):
            configure_result_logging(correlation_header=header)


class TestStandardLogging:
    @pytest.fixture
    def logger(self, monitor: Monitor) -> Iterator[logging.Logger]:
        logger = logging.getLogger("shop.orders")
        handler = RfsHandler()
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        yield logger
        logger.removeHandler(handler)

    def test_records_of_other_libraries_join(self, monitor: Monitor, logger: logging.Logger) -> None:
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

    def test_exceptions(self, monitor: Monitor, logger: logging.Logger) -> None:
        """
        ``logger.exception`` brings type, message and stack trace.
        """
        try:
            raise ValueError("x")
        except ValueError:
            logger.exception("failed")

        found = records(monitor)[0].error
        assert found is not None
        assert found.type == "ValueError"
        assert found.stack_trace is not None

    def test_wrong_arguments_raise_nothing(self, monitor: Monitor) -> None:
        """
        A format that does not fit its arguments is still a record.
        """
        RfsHandler().handle(logging.makeLogRecord({"msg": "%d items", "args": ("many",), "levelno": 30}))

        assert records(monitor)[0].message == "%d items <unformattable arguments>"
        assert records(monitor)[0].logger == "<no name>"
        assert records(monitor)[0].context["formatting_error"] == "TypeError"


class TestResultLogger:
    def test_a_life_in_several_calls(self, monitor: Monitor) -> None:
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
