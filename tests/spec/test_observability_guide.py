"""
Each example of the observability guide does what it and its comments promise.

The order is the guide's own. The code is written anew; what it imports, how
it calls it and what it expects is the guide's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest

from rfs.core.result import Failure, Result, Success
from rfs.monitoring.metrics import (
    AlertCondition,
    MetricType,
    collect_flux_result_metric,
    collect_metric,
    collect_result_metric,
    create_alert_rule,
    get_dashboard_data,
    get_metrics_summary,
    setup_default_alerts,
    start_monitoring,
    stop_monitoring,
)
from rfs.monitoring.result_logging import (
    CorrelationContext,
    LogLevel,
    configure_result_logging,
    create_logging_mono,
    get_correlation_id,
    log_result_operation,
    query_logs_by_correlation_id,
    with_correlation_id,
)
from rfs.reactive.flux_result import FluxResult
from rfs.reactive.mono_result import MonoResult
from rfs.testing.fixtures import Telemetry

JsonLines = Callable[[], list[dict[str, Any]]]


async def succeed(value: Any) -> Result[Any, str]:
    """A step that works."""
    return Success(value)


async def fail(value: Any) -> Result[Any, str]:
    """A step that fails for a reason of the trade."""
    return Failure("CARD_DECLINED")


class TestBasicLogging:
    def test_configures_json_lines(self, json_lines: JsonLines) -> None:
        """
        After the documented call, an operation writes JSON objects to stdout.
        """
        configure_result_logging(
            level=LogLevel.INFO,
            include_stack_trace=True,
            include_performance_data=True,
            correlation_header="X-Correlation-ID",
        )

        @log_result_operation("configured")
        def work() -> Result[int, str]:
            return Success(1)

        work()

        assert {line["operation"] for line in json_lines()} == {"configured"}

    def test_level_holds_back_what_is_below(self, json_lines: JsonLines) -> None:
        """
        A configured level keeps lower records off stdout.
        """
        configure_result_logging(level=LogLevel.ERROR)

        @log_result_operation("quiet")
        def work() -> Result[int, str]:
            return Success(1)

        work()

        assert json_lines() == []


class TestAutomaticOperationLogging:
    async def test_first_line_of_an_operation(self, json_lines: JsonLines) -> None:
        """
        The first line says that the operation started, with its arguments by name and the request's id.
        """
        configure_result_logging(level=LogLevel.INFO)

        @log_result_operation("user_processing")
        async def process_user_data(user_id: str) -> Result[dict[str, str], str]:
            return await (
                MonoResult.from_async_result(lambda: succeed({"id": user_id}))
                .bind_async_result(lambda user: succeed(user))
                .bind_async_result(lambda user: succeed(user | {"vip": "no"}))
                .to_result()
            )

        async with CorrelationContext("req_12345"):
            result = await process_user_data("123")

        first = json_lines()[0]
        assert result == Success({"id": "123", "vip": "no"})
        assert {key: first[key] for key in ("correlation_id", "operation", "level", "message")} == {
            "correlation_id": "req_12345",
            "operation": "user_processing",
            "level": "INFO",
            "message": "Operation started",
        }
        assert first["context"] == {"user_id": "123"}
        assert first["timestamp"].endswith("Z")
        assert datetime.fromisoformat(first["timestamp"]).tzinfo is not None


class TestStepLogging:
    async def test_each_step_is_recorded(self) -> None:
        """
        Each step leaves a record with its name, message, duration and the form of its value.
        """

        async def complex_operation(data: dict[str, int]) -> Result[Any, Any]:
            return await (
                create_logging_mono(lambda: succeed(data))
                .log_step("initial_processing", "first pass done")
                .bind_async_result(lambda result: succeed([result]))
                .log_step("validation", "validated")
                .bind_async_result(lambda result: succeed("x" * 20))
                .log_step("transformation", "transformed")
                .log_performance("total_processing_time")
                .log_error("processing_failed")
                .to_result()
            )

        with CorrelationContext("steps"):
            result = await complex_operation({"a": 1, "b": 2})

        records = {record.step: record for record in query_logs_by_correlation_id("steps")}
        assert result == Success("x" * 20)
        assert set(records) == {"initial_processing", "validation", "transformation", "total_processing_time"}
        assert records["validation"].message == "validated"
        assert all(record.duration_ms is not None and record.duration_ms >= 0 for record in records.values())
        assert records["initial_processing"].context["result_type"] == "dict"
        assert records["initial_processing"].context["result_size"] == 2
        assert records["transformation"].context["result_size"] == 20

    async def test_a_failure_is_recorded_once(self) -> None:
        """
        `log_error` leaves one ERROR record that says what went wrong; steps that never ran are not claimed to have.
        """
        with CorrelationContext("failed"):
            result = await (
                create_logging_mono(lambda: succeed(1))
                .log_step("first", "done")
                .bind_async_result(fail)
                .log_step("second", "never")
                .log_error("processing_failed")
                .to_result()
            )

        assert result == Failure("CARD_DECLINED")
        errors = [record for record in query_logs_by_correlation_id("failed") if record.level == "ERROR"]
        assert [record.step for record in errors] == ["processing_failed"]
        assert errors[0].error is not None
        assert errors[0].error.message == "CARD_DECLINED"


class TestCorrelation:
    async def test_all_of_a_request_shares_one_id(self) -> None:
        """
        Everything inside the context has its id, and the id can be sent on.
        """
        sent: dict[str, str] = {}

        @log_result_operation("step")
        async def process_step(number: int) -> Result[int, str]:
            return Success(number)

        async def handle_request(request_id: str) -> None:
            async with CorrelationContext(request_id):
                for number in (1, 2, 3):
                    await process_step(number)
                sent["X-Correlation-ID"] = get_correlation_id()

        await asyncio.gather(handle_request("req_a"), handle_request("req_b"))

        logged = query_logs_by_correlation_id("req_a")
        assert {record.correlation_id for record in logged} == {"req_a"}
        assert len([record for record in logged if record.message == "Operation started"]) == 3
        assert sent["X-Correlation-ID"] in {"req_a", "req_b"}

    def test_with_correlation_id(self) -> None:
        """
        `with_correlation_id` gives the same context by another name, and the previous id returns.
        """
        with with_correlation_id("outer"):
            with with_correlation_id("inner"):
                inner = get_correlation_id()
            outer = get_correlation_id()

        assert (inner, outer) == ("inner", "outer")
        assert get_correlation_id() not in {"inner", "outer"}


class TestBasicMetrics:
    def test_three_kinds(self) -> None:
        """
        A counter adds up over its labels, a histogram spreads, a gauge keeps the last value.
        """
        start_monitoring()

        collect_metric("api_requests_total", 1, MetricType.COUNTER, labels={"endpoint": "/users", "method": "GET"})
        collect_metric("api_requests_total", 2, MetricType.COUNTER, labels={"endpoint": "/users", "method": "PUT"})
        collect_metric("response_time_ms", 250.5, MetricType.HISTOGRAM, labels={"endpoint": "/users"})
        collect_metric("active_connections", 44, MetricType.GAUGE)
        collect_metric("active_connections", 45, MetricType.GAUGE)

        summary = get_metrics_summary()
        assert summary["counters"]["api_requests_total"] == 3
        assert summary["gauges"]["active_connections"] == 45
        assert summary["histograms"]["response_time_ms"]["max"] == 250.5
        assert summary["histograms"]["response_time_ms"]["count"] == 1
        stop_monitoring()


class TestResultMetrics:
    async def test_four_metrics_from_one_call(self) -> None:
        """
        One call counts success or failure, duration, and the failure's type.
        """

        async def monitored_operation(source: Callable[[Any], Any]) -> Result[Any, Any]:
            started = time.perf_counter()
            result: Result[Any, Any] = await MonoResult.from_async_result(lambda: source(1)).timeout(5.0).to_result()
            collect_result_metric("user_processing", result, (time.perf_counter() - started) * 1000)
            return result

        await monitored_operation(succeed)
        await monitored_operation(succeed)
        await monitored_operation(fail)

        summary = get_metrics_summary()
        assert summary["counters"]["result_success_total"] == 2
        assert summary["counters"]["result_failure_total"] == 1
        assert summary["counters"]["result_error_by_type_total"] == 1
        assert summary["histograms"]["result_duration_ms"]["count"] == 3

    async def test_a_timeout_is_a_failure(self) -> None:
        """
        The chain's `timeout` ends it with a Failure, which is counted as one.
        """

        async def never() -> Result[int, str]:
            await asyncio.Event().wait()
            return Success(1)

        result = await MonoResult.from_async_result(never).timeout(0.01).to_result()
        collect_result_metric("user_processing", result, 10.0)

        assert result.is_failure()
        assert get_metrics_summary()["counters"]["result_failure_total"] == 1


class TestBatchMetrics:
    async def test_five_metrics_of_a_batch(self) -> None:
        """
        A batch counts its items, its successes and failures, the rate and the duration.
        """

        async def process_item(item: int) -> Result[int, str]:
            return Success(item) if item % 4 else Failure("MULTIPLE_OF_FOUR")

        flux_result = await FluxResult.from_iterable_async(range(1, 41), process_item).batch_collect(
            batch_size=10, max_concurrent=3
        )
        collect_flux_result_metric("batch_processing", flux_result, 12.5)

        summary = get_metrics_summary()
        assert summary["counters"]["flux_result_total_items"] == 40
        assert summary["counters"]["flux_result_success_items"] == 30
        assert summary["counters"]["flux_result_failure_items"] == 10
        assert summary["gauges"]["flux_result_success_rate"] == 0.75
        assert summary["histograms"]["flux_result_duration_ms"]["count"] == 1

    async def test_no_more_than_asked_for_at_once(self) -> None:
        """
        `max_concurrent` bounds how many items are worked on at the same time.
        """
        running = highest = 0

        async def process_item(item: int) -> Result[int, str]:
            nonlocal running, highest
            running += 1
            highest = max(highest, running)
            await asyncio.sleep(0)
            running -= 1
            return Success(item)

        flux_result = await FluxResult.from_iterable_async(range(30), process_item).batch_collect(
            batch_size=10, max_concurrent=3
        )

        assert flux_result.count_success() == 30
        assert highest == 3


class TestAlertRules:
    def test_callbacks_are_called(self, telemetry: Telemetry) -> None:
        """
        More than 50 failures fire the custom rule, and its lambda is given the alert.
        """
        calls: list[Any] = []
        setup_default_alerts()
        create_alert_rule(
            name="high_error_rate",
            metric_name="result_failure_total",
            condition=AlertCondition.GREATER_THAN,
            threshold=50.0,
            callback=lambda alert: calls.append(alert),
        )
        create_alert_rule(
            name="slow_api_response",
            metric_name="result_duration_ms",
            condition=AlertCondition.GREATER_THAN,
            threshold=5000.0,
            callback=lambda alert: pytest.fail("nothing was slow"),
        )
        start_monitoring()

        for _ in range(51):
            collect_result_metric("checkout", Failure("DOWN"), 1.0)

        telemetry.advance(1)
        (call,) = calls
        assert call["rule_name"] == "high_error_rate"
        assert call["current_value"] == 51.0
        telemetry.assert_alert("high_error_rate", current_value=51.0, threshold=50.0)
        telemetry.assert_no_alert(rule_name="slow_api_response")

    def test_default_rules_are_listed(self) -> None:
        """
        The defaults watch failures, durations and the success rate of batches.
        """
        setup_default_alerts()
        setup_default_alerts()

        watched = [rule["metric_name"] for rule in get_dashboard_data()["alert_rules"]]
        assert sorted(watched) == ["flux_result_success_rate", "result_duration_ms", "result_failure_total"]


class TestAlertCallback:
    def test_async_handler_gets_the_documented_keys(self, telemetry: Telemetry) -> None:
        """
        An async handler is awaited, with one object that reads like the documented dict.
        """
        calls: list[dict[str, Any]] = []

        async def custom_alert_handler(alert_data: Any) -> None:
            info = {
                "metric": alert_data["metric_name"],
                "current_value": alert_data["current_value"],
                "threshold": alert_data["threshold"],
                "timestamp": alert_data["timestamp"],
            }
            await asyncio.sleep(0)
            calls.append(info)

        create_alert_rule(
            name="critical_system_failure",
            metric_name="result_failure_total",
            condition=AlertCondition.GREATER_THAN,
            threshold=100.0,
            callback=custom_alert_handler,
        )
        start_monitoring()

        for _ in range(101):
            collect_result_metric("checkout", Failure("DOWN"), 1.0)

        telemetry.advance(1)
        (call,) = calls
        assert call.pop("timestamp") is not None
        assert call == {"metric": "result_failure_total", "current_value": 101.0, "threshold": 100.0}


class TestMetricsSummary:
    def test_documented_keys(self) -> None:
        """
        The counters and the distribution of durations are read by the documented keys.
        """
        for duration in range(1, 100):
            collect_result_metric("checkout", Success(1), float(duration))
        collect_result_metric("checkout", Failure("DOWN"), 100.0)

        metrics = get_metrics_summary(time_range_minutes=60)

        assert metrics["counters"]["result_success_total"] == 99
        assert metrics["counters"]["result_failure_total"] == 1
        times = metrics["histograms"]["result_duration_ms"]
        assert f"{times['mean']:.2f}ms" == "50.50ms"
        assert times["p95"] == pytest.approx(95, rel=0.01)
        assert f"{times['max']:.2f}ms" == "100.00ms"

    def test_the_two_counters_are_there_before_any_traffic(self) -> None:
        """
        A fresh service can be asked too: nothing has succeeded and nothing has failed yet.
        """
        counters = get_metrics_summary(time_range_minutes=60)["counters"]

        assert counters["result_success_total"] == 0
        assert counters["result_failure_total"] == 0


class TestDashboardData:
    def test_documented_shape(self) -> None:
        """
        The four sections, and the system's state, have the documented keys and types.
        """
        start_monitoring()
        collect_metric("active_connections", 45, MetricType.GAUGE)

        dashboard = get_dashboard_data()

        assert set(dashboard) >= {"metrics_summary", "active_alerts", "alert_rules", "system_status"}
        assert dashboard["metrics_summary"]["gauges"]["active_connections"] == 45
        assert dashboard["active_alerts"] == []
        assert dashboard["alert_rules"] == []
        status = dashboard["system_status"]
        assert status["monitoring_active"] is True
        assert isinstance(status["total_metrics"], int)
        assert status["timestamp"].endswith("Z")

    def test_says_when_monitoring_is_off(self) -> None:
        """
        Before the start and after the stop the state is not called active.
        """
        before = get_dashboard_data()["system_status"]["monitoring_active"]
        start_monitoring()
        stop_monitoring()
        stop_monitoring()

        assert before is False
        assert get_dashboard_data()["system_status"]["monitoring_active"] is False


class TestFastApiEndpoints:
    def test_an_own_app_can_serve_the_data(self) -> None:
        """
        The three documented endpoints answer JSON built from the same functions, also where nothing was measured yet.
        """
        from fastapi import FastAPI
        from fastapi.testclient import TestClient

        app = FastAPI()

        @app.get("/monitoring/health", response_model=None)
        async def health_check() -> dict[str, Any]:
            dashboard = get_dashboard_data()
            healthy = dashboard["system_status"]["monitoring_active"] and len(dashboard["active_alerts"]) == 0
            return {
                "status": "healthy" if healthy else "degraded",
                "active_alerts": len(dashboard["active_alerts"]),
                "timestamp": dashboard["system_status"]["timestamp"],
            }

        @app.get("/monitoring/metrics", response_model=None)
        async def get_metrics(hours: int = 1) -> dict[str, Any]:
            return get_metrics_summary(time_range_minutes=hours * 60)

        @app.get("/monitoring/dashboard", response_model=None)
        async def monitoring_dashboard() -> dict[str, Any]:
            return get_dashboard_data()

        start_monitoring()
        collect_metric("active_connections", 45, MetricType.GAUGE)

        with TestClient(app) as client:
            health = client.get("/monitoring/health").json()
            metrics = client.get("/monitoring/metrics", params={"hours": 2}).json()
            dashboard = client.get("/monitoring/dashboard").json()

        assert health["status"] == "healthy"
        assert health["active_alerts"] == 0
        assert metrics["time_range_minutes"] == 120
        assert metrics["gauges"] == {"active_connections": 45}
        assert dashboard["system_status"]["monitoring_active"] is True


class TestServiceMetrics:
    async def test_a_method_can_be_observed(self) -> None:
        """
        A decorated method that also measures itself is counted once, not twice.
        """

        class UserService:
            def __init__(self) -> None:
                self.service_name = "user_service"

            async def _fetch_user_from_db(self, user_id: str) -> Result[dict[str, str], str]:
                return Success({"id": user_id})

            @log_result_operation("user_service.get_user")
            async def get_user(self, user_id: str) -> Result[dict[str, str], str]:
                started = time.perf_counter()
                result = await self._fetch_user_from_db(user_id)
                duration = (time.perf_counter() - started) * 1000
                collect_result_metric(
                    f"{self.service_name}.get_user", result, duration, labels={"service": self.service_name}
                )
                return result

        with CorrelationContext("service"):
            await UserService().get_user("42")

        assert get_metrics_summary()["counters"]["result_success_total"] == 1
        assert query_logs_by_correlation_id("service")[0].context == {"user_id": "42"}


@dataclass(frozen=True)
class Order:
    """What a customer buys."""

    amount: float
    category: str


class TestBusinessMetrics:
    async def test_orders_and_revenue(self) -> None:
        """
        Orders are counted, revenue adds up, values spread, categories are told apart.
        """

        @log_result_operation("order_processing")
        async def process_order(order: Order) -> Result[Order, str]:
            result: Result[Order, str] = await (
                MonoResult.from_async_result(lambda: succeed(order))
                .bind_async_result(lambda o: succeed(o))
                .bind_async_result(lambda o: succeed(o))
                .bind_async_result(lambda o: succeed(o))
                .to_result()
            )
            if result.is_success():
                collect_metric("orders_processed_total", 1, MetricType.COUNTER)
                collect_metric("revenue_total", order.amount, MetricType.COUNTER)
                collect_metric("order_value", order.amount, MetricType.HISTOGRAM)
                collect_metric("orders_by_category", 1, MetricType.COUNTER, labels={"category": order.category})
            return result

        for order in (Order(12.5, "drink"), Order(30.0, "food"), Order(7.5, "drink")):
            await process_order(order)

        summary = get_metrics_summary()
        assert summary["counters"]["orders_processed_total"] == 3
        assert summary["counters"]["revenue_total"] == 50.0
        assert summary["histograms"]["order_value"]["sum"] == pytest.approx(50.0)
        assert summary["counters"]["orders_by_category"] == 3


class TestPerformanceProfiling:
    async def test_tracks_also_what_raises(self) -> None:
        """
        The documented tracker measures a computation whether it returns or raises; a dotted name is kept.
        """

        @asynccontextmanager
        async def performance_tracker(operation_name: str) -> AsyncIterator[None]:
            started = time.perf_counter()
            try:
                yield
            finally:
                duration_ms = (time.perf_counter() - started) * 1000
                collect_metric(f"{operation_name}.duration_ms", duration_ms, MetricType.HISTOGRAM)
                collect_metric(f"{operation_name}.memory_usage_mb", -0.5, MetricType.HISTOGRAM)

        async with performance_tracker("heavy_computation"):
            await asyncio.sleep(0)
        with pytest.raises(ZeroDivisionError):
            async with performance_tracker("heavy_computation"):
                raise ZeroDivisionError

        histograms = get_metrics_summary()["histograms"]
        assert histograms["heavy_computation.duration_ms"]["count"] == 2
        assert histograms["heavy_computation.memory_usage_mb"]["min"] == -0.5


class TestLayeredMonitoring:
    def test_three_layers(self) -> None:
        """
        Infrastructure, application and business figures stand side by side under dotted names.
        """
        collect_metric("system.cpu_usage", 12.5, MetricType.GAUGE)
        collect_metric("system.memory_usage", 40.0, MetricType.GAUGE)
        collect_metric("app.requests_per_second", 120, MetricType.GAUGE)
        collect_metric("app.error_rate", 0.1, MetricType.GAUGE)
        collect_metric("business.active_users", 7, MetricType.GAUGE)
        collect_metric("business.transactions_total", 3, MetricType.COUNTER)

        summary = get_metrics_summary()
        assert summary["gauges"] == {
            "system.cpu_usage": 12.5,
            "system.memory_usage": 40.0,
            "app.requests_per_second": 120,
            "app.error_rate": 0.1,
            "business.active_users": 7,
        }
        assert summary["counters"]["business.transactions_total"] == 3


class TestSlaMonitoring:
    async def test_violation_is_reported(self) -> None:
        """
        The documented check works on a fresh service, and reports once failures exceed the target.
        """
        calls: list[list[str]] = []

        @log_result_operation("sla_check")
        async def check_sla_compliance() -> Result[dict[str, bool], str]:
            counters = get_metrics_summary(time_range_minutes=60)["counters"]
            failures = counters["result_failure_total"]
            total = counters["result_success_total"] + failures
            error_rate = failures / total * 100 if total > 0 else 0
            violations = [f"Error rate {error_rate:.2f}% exceeds target 0.1%"] if error_rate > 0.1 else []
            if violations:
                calls.append(violations)
            return Success({"sla_compliant": len(violations) == 0})

        fresh = await check_sla_compliance()
        collect_result_metric("checkout", Failure("DOWN"), 1.0)
        after = await check_sla_compliance()

        assert fresh == Success({"sla_compliant": True})
        assert after == Success({"sla_compliant": False})
        # The check itself is an operation: its first run is the one success.
        assert calls == [["Error rate 50.00% exceeds target 0.1%"]]


class TestIncidentResponse:
    async def test_a_rule_made_during_an_incident_fires(self, telemetry: Telemetry) -> None:
        """
        A rule created while the service runs watches from then on; EQUAL compares a gauge's last value.
        """
        calls: list[Any] = []
        start_monitoring()

        @log_result_operation("circuit_breaker_check")
        async def circuit_breaker_monitoring() -> None:
            counters = get_metrics_summary(time_range_minutes=5)["counters"]
            failures = counters["result_failure_total"]
            failure_rate = failures / (failures + counters["result_success_total"]) * 100
            if failure_rate > 50:
                collect_metric("circuit_breaker_status", 1, MetricType.GAUGE)
                create_alert_rule(
                    name="circuit_breaker_activated",
                    metric_name="circuit_breaker_status",
                    condition=AlertCondition.EQUAL,
                    threshold=1.0,
                    callback=lambda alert: calls.append(alert),
                )

        collect_result_metric("checkout", Failure("DOWN"), 1.0)
        await circuit_breaker_monitoring()

        telemetry.advance(1)
        assert [call["metric_name"] for call in calls] == ["circuit_breaker_status"]


class TestLogAnalysis:
    def test_a_request_can_be_read_back(self) -> None:
        """
        All records of one id come oldest first, with the error's text and traceback where one happened.
        """

        @log_result_operation("checkout")
        def checkout() -> Result[int, str]:
            raise LookupError("no such basket")

        with CorrelationContext("req_12345"), pytest.raises(LookupError):
            checkout()
        with CorrelationContext("other"):
            pass

        logs = query_logs_by_correlation_id("req_12345")
        printed = [f"[{entry.timestamp}] {entry.operation}: {entry.message}" for entry in logs]
        errors = [entry.error for entry in logs if entry.error]
        assert len(printed) == 2
        assert printed[0].endswith("checkout: Operation started")
        assert [entry.timestamp for entry in logs] == sorted(entry.timestamp for entry in logs)
        assert errors[0].message == "no such basket"
        assert "LookupError" in (errors[0].stack_trace or "")


class TestPerformanceAnalysis:
    def test_slow_operations_are_found(self) -> None:
        """
        Every histogram has p95, max and count, so that the slow ones can be picked out.
        """
        collect_metric("checkout.duration_ms", 6000.0, MetricType.HISTOGRAM)
        collect_metric("menu.duration_ms", 3.0, MetricType.HISTOGRAM)

        slow = {
            operation: f"P95: {stats['p95']:.2f}ms Max: {stats['max']:.2f}ms Count: {stats['count']}"
            for operation, stats in get_metrics_summary()["histograms"].items()
            if stats["p95"] > 5000
        }

        assert list(slow) == ["checkout.duration_ms"]
        assert slow["checkout.duration_ms"].endswith("Max: 6000.00ms Count: 1")
