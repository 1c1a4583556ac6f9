from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Annotated

import httpx
import pytest
from fastapi import Depends, FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from app.api.v1.metrics import calculate_percentile
from app.core.config import Settings
from app.core.database import get_db
from app.core.logging import JSONFormatter, setup_logging
from app.core.metrics import ApplicationMetrics
from app.main import INDICATORS
from app.middleware.error_handler import ErrorHandlerMiddleware
from app.middleware.logging_middleware import RequestLoggingMiddleware
from app.models.tables import OrderStatus
from rfs.testing.fixtures import Telemetry
from tests.service.harness import API, Running, running


class TestApplicationMetrics:
    def test_what_is_recorded_is_read_back(self, telemetry: Telemetry) -> None:
        """
        The document's figures, from one source: requests by endpoint and status, times, streams, orders.
        """
        metrics = ApplicationMetrics()
        metrics.record_request("/orders", 200, 10.0)
        metrics.record_request("/orders", 404, 20.0)
        metrics.record_request("/menu", 200, 30.0)
        metrics.order_entered(OrderStatus.CREATED)
        metrics.order_entered(OrderStatus.ACCEPTED)
        metrics.streams_open(3)
        metrics.events_sent(5)
        metrics.events_failed(1)

        assert metrics.total_requests == 3
        assert metrics.requests_by_endpoint == {"/orders": 2, "/menu": 1}
        assert metrics.requests_by_status == {200: 2, 404: 1}
        assert metrics.response_times is not None
        assert metrics.response_times.mean == pytest.approx(0.020)
        assert calculate_percentile(metrics.response_times, 99) == pytest.approx(30, rel=0.02)
        assert metrics.active_sse_connections == 3
        assert metrics.total_sse_events_sent == 5
        assert metrics.orders_created == 1
        assert metrics.orders_by_status == {"created": 1, "accepted": 1}
        telemetry.assert_metric("http_requests_total", 1, method="_OTHER", route="/orders", status="404")
        telemetry.assert_metric("http_request_duration_seconds", {"count": 3, "max": 0.03})
        telemetry.assert_health()

    def test_before_anything_happened(self, telemetry: Telemetry) -> None:
        """
        Counts are 0; a time that nobody measured is unknown, not 0.
        """
        metrics = ApplicationMetrics()
        metrics.declare()

        assert (metrics.total_requests, metrics.orders_created, metrics.active_sse_connections) == (0, 0, 0)
        assert metrics.response_times is None
        assert calculate_percentile(metrics.response_times, 95) is None
        telemetry.assert_metric("orders_created_total", 0)

    def test_may_have_a_monitor_of_its_own(self, telemetry: Telemetry) -> None:
        """
        With a Monitor handed in, the default one stays untouched.
        """
        own = Telemetry()

        ApplicationMetrics(own.monitor).order_entered(OrderStatus.CREATED)

        own.assert_metric("orders_created_total", 1)
        telemetry.assert_metric("orders_created_total", None)


@pytest.mark.postgres
class TestEndpoint:
    async def test_has_the_documented_shape(self, running_service: Running) -> None:
        """
        ``/metrics`` has the document's four sections, and its figures are what happened.
        """
        await running_service.place()
        await running_service.call("GET", f"{API}/stores/hanok/orders/00000000-0000-0000-0000-000000000000")

        body = (await running_service.call("GET", "/metrics", store=None, user="admin")).json()

        orders = f"{API}/stores/{{store_id}}/orders"
        # The request that asks is not answered yet.
        assert body["requests"] == {
            "total": 4,
            "by_endpoint": {f"{API}/auth/login": 2, orders: 1, f"{orders}/{{order_id}}": 1},
            "by_status": {"200": 3, "404": 1},
        }
        assert set(body["performance"]) == {"avg_response_time_ms", "p95_response_time_ms", "p99_response_time_ms"}
        assert all(value > 0 for value in body["performance"].values())
        assert body["sse"] == {"active_connections": 0, "total_events_sent": 0}
        assert body["business"] == {"orders_created": 1, "orders_by_status": {"created": 1}}


@pytest.mark.postgres
class TestIndicators:
    def test_are_the_documented_ones(self) -> None:
        """
        The table of the design document: six thresholds and what is only watched.
        """
        thresholds = {indicator.key: indicator.threshold for indicator in INDICATORS}

        assert thresholds == {
            "avg_response_time": 0.5,
            "p95_response_time": 1.0,
            "p99_response_time": 2.0,
            "error_rate": 0.01,
            "sse_connections": None,
            "sse_send_failure_rate": 0.001,
            "orders_per_hour": None,
        }

    async def test_are_on_the_page(self, running_service: Running) -> None:
        """
        The page's API shows each of them with its value, in two languages.
        """
        async with running_service.stream() as stream:
            await running_service.place()
            await anext(stream)

            overview = (await running_service.call("GET", "/monitoring/api/overview", store=None, user="admin")).json()

        shown = {indicator["key"]: indicator for indicator in overview["indicators"]}
        assert list(shown) == [indicator.key for indicator in INDICATORS]
        assert shown["orders_per_hour"]["value"] == 1
        assert shown["sse_connections"]["value"] == 1
        assert shown["error_rate"]["value"] == 0
        assert shown["avg_response_time"]["value"] > 0
        assert all(indicator["title"]["ko"] and indicator["title"]["en"] for indicator in shown.values())


@pytest.mark.postgres
class TestDependencies:
    async def test_an_endpoint_may_have_a_session(self, running_service: Running) -> None:
        """
        ``Depends(get_db)`` lends a session for the length of a request, as the document's readiness check uses it.
        """
        app = FastAPI()
        app.state.service = running_service.service

        @app.get("/stores")
        async def count(db: Annotated[AsyncSession, Depends(get_db)]) -> int:
            return int((await db.execute(text("SELECT count(*) FROM stores"))).scalar_one())

        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            assert (await client.get("/stores")).json() == 3


@pytest.mark.postgres
class TestApplication:
    async def test_watches_itself_from_the_start(self, running_service: Running, telemetry: Telemetry) -> None:
        """
        The default alert rules are there when the service is.
        """
        assert len(telemetry.monitor.alerts.rules()) >= 3

    async def test_is_open_to_the_configured_origins(self, settings: Callable[..., Settings]) -> None:
        """
        A page of a configured origin may ask, another may not.
        """
        async with running(settings(CORS_ORIGINS="http://localhost:3000")) as service:
            ours = await service.http.get(f"{API}/stores", headers={"Origin": "http://localhost:3000"})
            theirs = await service.http.get(f"{API}/stores", headers={"Origin": "http://localhost:4000"})

        assert ours.headers["access-control-allow-origin"] == "http://localhost:3000"
        assert "access-control-allow-origin" not in theirs.headers

    async def test_describes_itself(self, running_service: Running) -> None:
        """
        OpenAPI shows the success model of an order, and the key that makes it safe to send it again.
        """
        schema = (await running_service.http.get("/openapi.json")).json()

        place = schema["paths"][f"{API}/stores/{{store_id}}/orders"]["post"]
        assert place["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("/OrderView")
        assert "idempotency-key" in [parameter["name"].lower() for parameter in place["parameters"]]

    @pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
    async def test_health_is_for_everybody(self, running_service: Running, path: str) -> None:
        """
        Probes need no token and are not counted as requests.
        """
        assert (await running_service.http.get(path)).status_code == 200
        assert running_service.service.metrics.total_requests == 0


class TestLogging:
    def test_a_line_has_the_documented_keys(self) -> None:
        """
        The formatter's object: time in UTC, level, logger, message, place, context, exception; nothing more.
        """
        record = logging.makeLogRecord({"name": "shop", "levelname": "INFO", "msg": "주문 %s", "args": ("생성",)})
        record.store_id, record.request_id, record.other = "hanok", "r-1", "x"

        line = json.loads(JSONFormatter().format(record))

        assert set(line) == {
            "timestamp", "level", "logger", "message", "module", "function", "line", "store_id", "request_id",
        }  # fmt: skip
        assert (line["message"], line["store_id"]) == ("주문 생성", "hanok")
        assert line["timestamp"].endswith("+00:00")

    def test_an_exception_and_a_secret(self, telemetry: Telemetry) -> None:
        """
        The stack is in the line, what must not be known is not.
        """
        telemetry.monitor.masker.register_secret("canary-71c2")
        try:
            raise ValueError("password=canary-71c2")
        except ValueError as error:
            record = logging.makeLogRecord({"msg": "it was canary-71c2", "exc_info": (type(error), error, None)})

        line = JSONFormatter().format(record)

        assert "ValueError" in json.loads(line)["exception"]
        assert "canary-71c2" not in line

    def test_setting_up_twice_prints_once(self, capsys: pytest.CaptureFixture[str]) -> None:
        """
        However often it is set up, a message is one line of JSON.
        """
        setup_logging("INFO")
        setup_logging("INFO")

        logging.getLogger("shop").info("one line")
        logging.getLogger("shop").debug("none")

        (line,) = capsys.readouterr().out.splitlines()
        assert json.loads(line)["message"] == "one line"

    def test_recorded_messages_are_kept_under_their_id(self, telemetry: Telemetry) -> None:
        """
        In the service, what any logger says is a record of RFS.
        """
        setup_logging("INFO", recorded=True, printed=False)

        logging.getLogger("shop").warning("stock is low", extra={"store_id": "hanok"})

        telemetry.assert_records({"level": "WARNING", "message": "stock is low", "logger": "shop", "store_id": "hanok"})
        assert logging.getLogger("sqlalchemy.engine").level == logging.WARNING

    def test_a_level_that_is_none(self) -> None:
        """
        A wrong level is named.
        """
        with pytest.raises(ValueError, match="log level 'loud' is none of DEBUG"):
            setup_logging("loud")


class TestMiddleware:
    def test_the_documents_classes_do_what_it_says(self, telemetry: Telemetry) -> None:
        """
        Mounted by hand: every answer has a request id, and an unhandled exception is told by the document's body alone.
        """

        async def fine(_: Request) -> JSONResponse:
            return JSONResponse({})

        async def broken(_: Request) -> JSONResponse:
            raise RuntimeError("internal detail")

        app = Starlette(routes=[Route("/fine", fine), Route("/broken", broken)])
        app.add_middleware(ErrorHandlerMiddleware)
        app.add_middleware(RequestLoggingMiddleware)
        client = TestClient(app, raise_server_exceptions=False)

        good, bad = client.get("/fine"), client.get("/broken")

        assert good.headers["X-Request-ID"] != bad.headers["X-Request-ID"]
        assert bad.status_code == 500
        assert bad.json()["detail"] == "내부 서버 오류가 발생했습니다"
        assert bad.json()["error_code"] == "INTERNAL_ERROR"
        assert "internal detail" not in bad.text
        telemetry.assert_span(kind="request", operation="GET /fine", outcome="ok")
        telemetry.assert_record(message="Unhandled exception", error={"type": RuntimeError, "is_defect": True})
