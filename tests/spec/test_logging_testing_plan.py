"""
Each example of the logging and testing plan does what it promises.

The order is the plan's. The code is written anew; what it imports, how it calls it and what it expects is the plan's. Its first
example shows what shall no longer be written, and promises nothing.
"""

from __future__ import annotations

import asyncio
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from dirty_equals import IsPartialDict
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel

from rfs.core.result import Failure, Result, Success
from rfs.monitoring.dashboard_api import create_router
from rfs.monitoring.metrics import OperationMetrics, ResultMetricsCollector
from rfs.monitoring.result_logging import (
    CorrelationContext,
    ResultLogEntry,
    bind,
    log_result_operation,
    query_logs_by_correlation_id,
)
from rfs.reactive.flux_result import FluxResult
from rfs.reactive.mono_result import MonoResult
from rfs.testing.fixtures import Telemetry
from rfs.testing.result_helpers import (
    ResultServiceMocker,
    assert_flux_result_stats,
    assert_mono_result_timeout,
    assert_result_error,
    assert_result_success,
    mock_result_service,
)
from rfs.testing.virtual_time import VirtualTime
from rfs.web.fastapi import FastAPIResult
from rfs.web.fastapi.errors import APIError, ErrorCode
from rfs.web.fastapi.response_helpers import handle_result

app = FastAPI()
app.include_router(create_router(), prefix="/monitoring")


class UserResponse(BaseModel):
    """What the endpoint answers."""

    user_id: str


class UserService:
    """The service of the plan's example; nobody gets as far as here."""

    async def get_user_async(self, user_id: str) -> Result[UserResponse, Exception]:
        """Not reached: the tests mock it."""
        raise NotImplementedError(user_id)


user_service = UserService()
sample_user = UserResponse(user_id="123")


def validate_user_response(user: UserResponse) -> Result[UserResponse, APIError]:
    """The chain's second step."""
    return Success(user)


@app.get("/users/{user_id}")
@handle_result
@log_result_operation("user_retrieval")
async def get_user(user_id: str) -> Result[UserResponse, APIError]:
    """The plan's endpoint."""
    return await (
        MonoResult.from_async_result(lambda: user_service.get_user_async(user_id))
        .log_step("user_service_call")
        .bind_result(lambda user: validate_user_response(user))
        .log_step("user_validation")
        .map_error(lambda e: APIError.from_service_error(e))
        .log_error("user_retrieval_error")
        .timeout(5.0)
        .to_result()
    )


class TestTargetPattern:
    @pytest.mark.asyncio
    async def test_get_user_success(self, telemetry: Telemetry) -> None:
        """
        The mock answers instead of the service, the Result is of the asked type, and the call is remembered.
        """
        with mock_result_service("user_service", "get_user_async") as mock_svc:
            mock_svc.return_success(sample_user)

            result = await get_user("123")

            assert_result_success(result, UserResponse)
            assert result.unwrap().user_id == "123"
            mock_svc.assert_called_once_with("123")
        telemetry.assert_metric("result_success_total", 1, operation="user_retrieval")

    @pytest.mark.asyncio
    async def test_get_user_not_found(self) -> None:
        """
        The error is of the asked type, and keeps its code.
        """
        with mock_result_service("user_service", "get_user_async") as mock_svc:
            mock_svc.return_error(APIError.not_found("사용자", "123"))

            result = await get_user("123")

            assert_result_error(result, APIError)
            assert result.unwrap_error().code == ErrorCode.NOT_FOUND

    async def test_service_is_itself_afterwards(self) -> None:
        """
        Behind the block the endpoint reaches the service again.
        """
        with mock_result_service("user_service", "get_user_async"):
            pass

        assert (await get_user("123")).is_failure()
        assert vars(user_service) == {}

    async def test_its_steps_are_logged(self) -> None:
        """
        The decorator logs the operation, `log_step` the steps by their names, and `log_error` a failure alone.
        """

        async def steps(correlation_id: str) -> list[tuple[str, str]]:
            async with CorrelationContext(correlation_id):
                (await get_user("123")).is_failure()
            logged = query_logs_by_correlation_id(correlation_id)
            assert {record.operation for record in logged} == {"user_retrieval"}
            return [(record.step, record.outcome) for record in logged if record.step]

        with mock_result_service("user_service", "get_user_async") as mock_svc:
            mock_svc.return_sequence([Success(sample_user), Failure(APIError.not_found("사용자", "123"))])

            found, missing = await steps("found"), await steps("missing")

        assert found == [("user_service_call", "ok"), ("user_validation", "ok")]
        assert missing[0] == ("user_service_call", "failed")
        assert missing[-1] == ("user_retrieval_error", "failed")


class PerformanceMetrics(BaseModel):
    """What the plan's endpoint reports."""

    success_rate: float
    slowest_ms: float
    errors: dict[str, int]
    per_second: float


def format_performance_report(metrics: OperationMetrics) -> Result[PerformanceMetrics, APIError]:
    """The chain's second step."""
    return Success(
        PerformanceMetrics(
            success_rate=metrics.success_rate,
            slowest_ms=metrics.max_response_time_ms,
            errors=metrics.error_breakdown,
            per_second=metrics.throughput_per_second,
        )
    )


@app.get("/analytics/performance")
async def get_performance_metrics() -> FastAPIResult[PerformanceMetrics]:
    """The plan's endpoint; its errors are RFS's own, which the web layer turns into APIErrors."""
    return await cast(
        "MonoResult[PerformanceMetrics, APIError]",
        ResultMetricsCollector.instance()
        .get_operation_metrics("user_retrieval", time_range="1h")
        .bind_result(lambda metrics: format_performance_report(metrics)),
    )


@pytest.fixture
def retrievals() -> None:
    """Three users that were found, and one that was not."""
    with mock_result_service("user_service", "get_user_async") as mock_svc:
        mock_svc.return_sequence([*[Success(sample_user)] * 3, Failure(APIError.not_found("사용자", "123"))])
        found = [asyncio.run(get_user("123")).is_success() for _ in range(4)]
    assert found == [True, True, True, False]


class TestMonitoringPattern:
    @pytest.mark.usefixtures("retrievals")
    def test_an_endpoint_reports_what_was_measured(self) -> None:
        """
        Shares of success and failure, durations, errors by type and throughput were measured by the decorator alone.
        """
        with TestClient(app) as client:
            report = client.get("/analytics/performance").json()

        assert (report["success_rate"], report["errors"]) == (0.75, {"NOT_FOUND": 1})
        assert report["slowest_ms"] > 0
        assert report["per_second"] > 0


class TestSchemas:
    def test_log_entry(self) -> None:
        """
        An entry has the plan's fields in the plan's order, and its defaults.
        """
        entry = ResultLogEntry(
            timestamp=datetime(2025, 9, 5, tzinfo=UTC),
            correlation_id="req-1",
            operation_name="user_retrieval",
            step_name=None,
            result_type="success",
            processing_time_ms=12.5,
        )

        assert [(field.name, getattr(entry, field.name)) for field in fields(entry)] == [
            ("timestamp", datetime(2025, 9, 5, tzinfo=UTC)),
            ("correlation_id", "req-1"),
            ("operation_name", "user_retrieval"),
            ("step_name", None),
            ("result_type", "success"),
            ("processing_time_ms", 12.5),
            ("success_type", None),
            ("error_type", None),
            ("error_code", None),
            ("error_message", None),
            ("user_id", None),
            ("request_id", None),
            ("service_name", "rfs-framework"),
            ("environment", "production"),
            ("memory_usage_mb", None),
            ("cpu_usage_percent", None),
            ("metadata", {}),
        ]

    async def test_log_entry_of_an_operation(self) -> None:
        """
        What is logged can be had as such an entry.
        """
        with mock_result_service("user_service", "get_user_async") as mock_svc:
            mock_svc.return_error(APIError.not_found("사용자", "123"))
            async with CorrelationContext("req-1"):
                bind(user_id="7")
                (await get_user("123")).is_failure()

        entry = query_logs_by_correlation_id("req-1")[-1].entry

        assert entry is not None
        assert (entry.correlation_id, entry.operation_name, entry.result_type) == ("req-1", "user_retrieval", "error")
        assert (entry.error_type, entry.error_code, entry.user_id) == ("APIError", "NOT_FOUND", "7")
        assert entry.processing_time_ms >= 0

    def test_operation_metrics(self) -> None:
        """
        The metrics of an operation have the plan's fields; what the plan does not name comes after them or has a default.
        """
        planned = {
            "operation_name": "user_retrieval",
            "time_window": "1h",
            "total_requests": 4,
            "successful_requests": 3,
            "failed_requests": 1,
            "success_rate": 0.75,
            "avg_response_time_ms": 2.0,
            "p50_response_time_ms": 1.0,
            "p90_response_time_ms": 3.0,
            "p99_response_time_ms": 4.0,
            "max_response_time_ms": 4.0,
            "error_breakdown": {"NOT_FOUND": 1},
            "top_errors": [("not found", 1)],
            "avg_memory_usage_mb": 64.0,
            "avg_cpu_usage_percent": 7.5,
            "hourly_distribution": {9: 4},
        }
        arguments: Any = planned

        metrics = OperationMetrics(**arguments)

        assert {name: getattr(metrics, name) for name in planned} == planned
        assert [field.name for field in fields(metrics)][: len(planned)] == list(planned)


class TestMocker:
    async def test_remembers_its_calls(self) -> None:
        """
        Made with the names of service and method, it counts calls and keeps their arguments.
        """
        mocker = ResultServiceMocker("user_service", "get_user_async")

        assert (mocker.service_name, mocker.method_name) == ("user_service", "get_user_async")
        assert (mocker.call_count, mocker.call_args_history) == (0, [])
        assert mocker.return_success("found") is mocker
        assert await mocker("123", deep=True) == Success("found")
        assert (mocker.call_count, mocker.call_args_history) == (1, [(("123",), {"deep": True})])
        mocker.assert_called_once_with("123", deep=True)
        with pytest.raises(AssertionError):
            mocker.assert_called_once_with("124", deep=True)

    async def test_returns_errors(self) -> None:
        """
        Told an error, it answers with a Failure of it.
        """
        mocker = ResultServiceMocker("user_service", "get_user_async")

        assert await mocker.return_error("NOT_FOUND")() == Failure("NOT_FOUND")

    async def test_returns_a_sequence(self) -> None:
        """
        Told a sequence, it answers with one after the other; the call after the last is a Failure that says so.
        """
        mocker = ResultServiceMocker("user_service", "get_user_async").return_sequence([Success(1), Failure("x")])

        assert [await mocker(), await mocker()] == [Success(1), Failure("x")]
        exhausted = await mocker()

        assert exhausted.is_failure()
        assert str(exhausted.unwrap_error()).startswith("Mock sequence exhausted")


class TestAssertions:
    def test_result_success(self) -> None:
        """
        A Success passes, one of another type or a Failure does not.
        """
        assert_result_success(Success("x"))
        assert_result_success(Success("x"), expected_type=str)
        with pytest.raises(AssertionError, match="got one of str"):
            assert_result_success(Success("x"), int)
        with pytest.raises(AssertionError, match="SOLD_OUT"):
            assert_result_success(Failure("SOLD_OUT"))

    def test_result_error(self) -> None:
        """
        A Failure passes, one of another type or a Success does not.
        """
        assert_result_error(Failure(KeyError("x")))
        assert_result_error(Failure(KeyError("x")), expected_error_type=LookupError)
        with pytest.raises(AssertionError, match="got one of KeyError"):
            assert_result_error(Failure(KeyError("x")), OSError)
        with pytest.raises(AssertionError, match=r"Success\(7\)"):
            assert_result_error(Success(7))

    def test_flux_result_stats(self) -> None:
        """
        Both counts pass together or not at all.
        """
        flux_result: FluxResult[int, str] = FluxResult([Success(1), Failure("x"), Success(2)])

        assert_flux_result_stats(flux_result, expected_success=2, expected_failures=1)
        with pytest.raises(AssertionError):
            assert_flux_result_stats(flux_result, expected_success=2, expected_failures=2)
        with pytest.raises(AssertionError):
            assert_flux_result_stats(flux_result, expected_success=3, expected_failures=1)

    def test_mono_result_timeout(self) -> None:
        """
        A chain passes if its time limit ends it, and not if nothing takes too long.
        """

        async def slow() -> Result[str, str]:
            await asyncio.sleep(6)
            return Success("late")

        VirtualTime().run(assert_mono_result_timeout(MonoResult(slow).timeout(5.0), timeout_seconds=5.0))
        with pytest.raises(AssertionError, match=r"Success\('late'\)"):
            VirtualTime().run(assert_mono_result_timeout(MonoResult(slow).timeout(100), timeout_seconds=5.0))


@pytest.mark.usefixtures("retrievals")
class TestDashboardApi:
    def test_operation_metrics(self) -> None:
        """
        An operation's metrics are asked for by its name and a range of time.
        """
        with TestClient(app) as client:
            body = client.get("/monitoring/operations/user_retrieval/metrics", params={"time_range": "1h"}).json()

        assert set(body) >= {field.name for field in fields(OperationMetrics)}
        assert (body["total_requests"], body["successful_requests"], body["failed_requests"]) == (4, 3, 1)

    def test_health_of_result_patterns(self) -> None:
        """
        The health of all Results says how many there were, and which operations fail.
        """
        with TestClient(app) as client:
            body = client.get("/monitoring/health/result-patterns").json()

        assert (body["success_total"], body["failure_total"], body["success_rate"]) == (3, 1, 0.75)
        assert body["failing_operations"] == [IsPartialDict(operation_name="user_retrieval", failed=1)]

    def test_top_errors(self) -> None:
        """
        The most frequent errors are a list, no longer than its limit.
        """
        with TestClient(app) as client:
            body = client.get("/monitoring/errors/top", params={"limit": 10, "time_range": "1h"}).json()

        assert body == [IsPartialDict(operation="user_retrieval", error_code="NOT_FOUND", count=1)]

    def test_alert_thresholds(self, telemetry: Telemetry) -> None:
        """
        A threshold that is posted is a rule, and the answer is a text.
        """
        rule = {"name": "lost users", "metric_name": "result_failure_total", "condition": "greater_than"}

        with TestClient(app) as client:
            answer = client.post("/monitoring/alerts/configure", json={**rule, "threshold": 5}).json()

        assert answer == "alert rule 'lost users' created"
        assert [(each.name, each.threshold) for each in telemetry.monitor.alerts.rules()] == [("lost users", 5.0)]
