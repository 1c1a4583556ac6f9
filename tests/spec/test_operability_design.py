"""
Each example of the operability design does what it and its comments promise.

The order is the document's own. The code under test is the reference
service; the names, calls and answers are the document's.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dirty_equals import Contains, IsNumber, IsStr
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.api.v1 import health, metrics
from app.core.config import PROFILES, Settings, SettingsError, load_settings
from app.core.database import get_database, get_db
from app.core.dependencies import get_current_admin
from app.core.logging import JSONFormatter, setup_logging
from app.core.metrics import ApplicationMetrics
from app.main import create_app
from app.middleware.error_handler import ErrorHandlerMiddleware
from app.middleware.logging_middleware import RequestLoggingMiddleware
from rfs.testing.fixtures import Telemetry

SECRET_KEY = "k" * 40
DATABASE_URL = "postgresql+asyncpg://user:password@localhost:5432/tableorder"


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """The root logger; what a test sets up there is taken away again."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment without any of the service's settings, in a folder without a `.env`."""
    for key in Settings.model_fields:
        monkeypatch.delenv(key, raising=False)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


@pytest.fixture
def service(no_settings: pytest.MonkeyPatch) -> FastAPI:
    """The service's application; its lifespan has not begun, so it has connected to nothing."""
    return create_app(load_settings(DATABASE_URL=DATABASE_URL, SECRET_KEY=SECRET_KEY))


class TestStructuredLogging:
    def test_documented_keys(self) -> None:
        """
        A line is one JSON object with the documented keys, and the context that was handed along.
        """
        record = logging.LogRecord("orders", logging.INFO, "orders.py", 7, "주문 %d", (42,), None, "place")
        record.store_id, record.request_id, record.user_id = "store-a", "req-1", "kim"

        line = json.loads(JSONFormatter().format(record))

        timestamp = line.pop("timestamp")
        assert timestamp.endswith("+00:00")
        assert line == {
            "level": "INFO",
            "logger": "orders",
            "message": "주문 42",
            "module": "orders",
            "function": "place",
            "line": 7,
            "store_id": "store-a",
            "request_id": "req-1",
            "user_id": "kim",
        }

    def test_korean_stays_readable(self) -> None:
        """
        Korean text is written as it is, not as escapes.
        """
        record = logging.LogRecord("orders", logging.INFO, "orders.py", 7, "주문 생성", (), None)

        assert "주문 생성" in JSONFormatter().format(record)

    def test_exception(self) -> None:
        """
        A logged exception is in the line, with its traceback.
        """
        try:
            raise LookupError("no such table")
        except LookupError:
            record = logging.LogRecord("orders", logging.ERROR, "orders.py", 7, "failed", (), sys.exc_info())

        assert "LookupError: no such table" in json.loads(JSONFormatter().format(record))["exception"]

    def test_setup(self, root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
        """
        After the setup the root logger prints JSON to stdout, and the two talkative loggers are at WARNING.
        """
        setup_logging("INFO")
        logging.getLogger("orders").info("주문 생성", extra={"store_id": "store-a"})
        logging.getLogger("orders").debug("unseen")

        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [(line["message"], line["store_id"]) for line in lines] == [("주문 생성", "store-a")]
        assert root_logger.level == logging.INFO
        assert logging.getLogger("sqlalchemy.engine").level == logging.WARNING
        assert logging.getLogger("uvicorn.access").level == logging.WARNING


class TestRequestLoggingMiddleware:
    def test_two_lines_and_a_header(self, telemetry: Telemetry) -> None:
        """
        A request leaves a line when it starts and one when it is done, under the id that the response carries.
        """
        app = FastAPI()
        app.add_middleware(RequestLoggingMiddleware)

        @app.get("/tables/{table}")
        async def table(table: int) -> dict[str, int]:
            return {"table": table}

        response = TestClient(app).get("/tables/7")

        telemetry.assert_records(
            {"message": "Request started", "method": "GET", "path": "/tables/7", "client_ip": IsStr},
            {"message": "Request completed", "status_code": 200, "duration_ms": IsNumber(ge=0)},
            correlation_id=response.headers["X-Request-ID"],
        )


class TestHealthChecks:
    def test_alive(self, service: FastAPI) -> None:
        """
        The basic and the liveness check answer whatever the database does.
        """
        client = TestClient(service)

        assert client.get("/health").json() == {"status": "healthy"}
        assert client.get("/health/live").json() == {"status": "alive"}

    def test_ready(self, service: FastAPI) -> None:
        """
        With a database that answers, the service is ready.
        """

        class Answers:
            async def check(self) -> None:
                """Nothing is wrong."""

        service.dependency_overrides[get_database] = Answers

        response = TestClient(service).get("/health/ready")

        assert response.status_code == 200
        assert response.json() == {"status": "ready", "checks": {"database": "connected"}}

    def test_not_ready(self, service: FastAPI) -> None:
        """
        Without one, the documented body says so, and the status too, so that no orchestrator sends traffic.
        """
        response = TestClient(service).get("/health/ready")

        body = response.json()
        assert response.status_code == 503
        assert body["status"] == "not_ready"
        assert body["checks"]["database"].startswith("error: ")
        assert "password" not in response.text

    def test_routers_and_dependency_are_where_the_document_says(self) -> None:
        """
        The modules offer the documented router, tag and session dependency.
        """
        assert health.router.tags == ["Health"]
        assert metrics.router.tags == ["Metrics"]
        assert callable(get_db)


class TestApplicationMetrics:
    def test_records_requests(self) -> None:
        """
        A recorded request is in the total, and under its endpoint and status.
        """
        figures = ApplicationMetrics()

        figures.record_request("/orders", 201, 12.0)
        figures.record_request("/orders", 409, 8.0)
        figures.record_request("/menu", 200, 10.0)

        assert figures.total_requests == 3
        assert figures.requests_by_endpoint == {"/orders": 2, "/menu": 1}
        assert figures.requests_by_status == {200: 1, 201: 1, 409: 1}
        assert figures.response_times is not None
        assert figures.response_times.mean == pytest.approx(0.010, rel=0.01)

    def test_other_figures_start_at_nothing(self) -> None:
        """
        Streams and orders are counted from 0.
        """
        figures = ApplicationMetrics()
        figures.declare()

        assert figures.response_times is None
        assert figures.active_sse_connections == 0
        assert figures.total_sse_events_sent == 0
        assert figures.orders_created == 0
        assert figures.orders_by_status == {}


class TestMetricsEndpoint:
    def test_admin_only(self, service: FastAPI) -> None:
        """
        Without an admin's token the figures are not shown.
        """
        assert TestClient(service).get("/metrics").status_code == 401

    def test_documented_body(self, service: FastAPI) -> None:
        """
        The body has the four documented groups with all their keys.
        """
        service.dependency_overrides[get_current_admin] = lambda: None
        figures: ApplicationMetrics = service.state.service.metrics
        for duration_ms in range(1, 101):
            figures.record_request("/orders", 201, float(duration_ms))

        body: dict[str, dict[str, Any]] = TestClient(service).get("/metrics").json()

        assert set(body) == {"requests", "performance", "sse", "business"}
        assert set(body["requests"]) == {"total", "by_endpoint", "by_status"}
        assert set(body["sse"]) == {"active_connections", "total_events_sent"}
        assert set(body["business"]) == {"orders_created", "orders_by_status"}
        assert body["requests"]["by_endpoint"]["/orders"] == 100
        assert body["performance"]["avg_response_time_ms"] == pytest.approx(50.5, rel=0.01)
        assert body["performance"]["p95_response_time_ms"] == pytest.approx(95, rel=0.02)
        assert body["performance"]["p99_response_time_ms"] == pytest.approx(99, rel=0.02)
        assert body["performance"]["p99_response_time_ms"] == metrics.calculate_percentile(figures.response_times, 99)

    def test_nothing_measured_is_unknown(self) -> None:
        """
        A percentile of no requests is not 0 but unknown.
        """
        assert metrics.calculate_percentile(None, 95) is None


class TestSettings:
    def test_documented_defaults(self, no_settings: pytest.MonkeyPatch) -> None:
        """
        With the two required settings alone, all others have the documented defaults.
        """
        no_settings.setenv("DATABASE_URL", DATABASE_URL)
        no_settings.setenv("SECRET_KEY", SECRET_KEY)

        settings = load_settings()

        assert settings.APP_NAME == "Table Order Service"
        assert settings.APP_VERSION == "1.0.0"
        assert settings.DEBUG is False
        assert settings.LOG_LEVEL == "INFO"
        assert (settings.DB_POOL_SIZE, settings.DB_MAX_OVERFLOW, settings.DB_POOL_TIMEOUT) == (5, 10, 30)
        assert settings.ACCESS_TOKEN_EXPIRE_HOURS == 16
        assert settings.CORS_ORIGINS == []
        assert (settings.SSE_HEARTBEAT_INTERVAL, settings.SSE_MAX_CONNECTIONS_PER_STORE) == (30, 100)

    @pytest.mark.parametrize("missing", ["DATABASE_URL", "SECRET_KEY"])
    def test_two_are_required(self, no_settings: pytest.MonkeyPatch, missing: str) -> None:
        """
        A service without its database or its key does not start, and says which is missing.
        """
        present = {"DATABASE_URL": DATABASE_URL, "SECRET_KEY": SECRET_KEY}
        del present[missing]

        with pytest.raises(SettingsError, match=missing):
            load_settings(**present)

    @pytest.mark.parametrize("url", ["postgresql://u:p@db/app", "postgresql+asyncpg://u:p@db/app"])
    def test_postgresql_is_taken(self, no_settings: pytest.MonkeyPatch, url: str) -> None:
        """
        Both documented forms of a PostgreSQL address are taken.
        """
        assert load_settings(DATABASE_URL=url, SECRET_KEY=SECRET_KEY).DATABASE_URL.endswith("@db/app")

    def test_another_database_is_refused(self, no_settings: pytest.MonkeyPatch) -> None:
        """
        Another kind of database is refused, by the key's name.
        """
        with pytest.raises(SettingsError, match="DATABASE_URL"):
            load_settings(DATABASE_URL="sqlite:///orders.db", SECRET_KEY=SECRET_KEY)

    def test_origins_are_parted_by_commas(self, no_settings: pytest.MonkeyPatch) -> None:
        """
        The environment's text becomes the list of origins.
        """
        no_settings.setenv("CORS_ORIGINS", "http://localhost:3000, https://shop.example.com")

        settings = load_settings(DATABASE_URL=DATABASE_URL, SECRET_KEY=SECRET_KEY)

        assert settings.CORS_ORIGINS == ["http://localhost:3000", "https://shop.example.com"]

    def test_case_matters(self, no_settings: pytest.MonkeyPatch) -> None:
        """
        A setting in lower case is not that setting.
        """
        no_settings.setenv("app_name", "Another")

        assert load_settings(DATABASE_URL=DATABASE_URL, SECRET_KEY=SECRET_KEY).APP_NAME == "Table Order Service"

    def test_read_from_a_file(self, no_settings: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """
        A `.env` in the working folder is read.
        """
        text = f"DATABASE_URL={DATABASE_URL}\nSECRET_KEY={SECRET_KEY}\nDB_POOL_SIZE=9\n"
        (tmp_path / ".env").write_text(text)

        assert load_settings().DB_POOL_SIZE == 9

    def test_module_level_settings(self, no_settings: pytest.MonkeyPatch) -> None:
        """
        `from app.core.config import settings` gives the settings of the environment.
        """
        from app.core import config

        no_settings.setenv("DATABASE_URL", DATABASE_URL)
        no_settings.setenv("SECRET_KEY", SECRET_KEY)
        no_settings.setenv("APP_NAME", "Evening")
        no_settings.delattr(config, "settings", raising=False)

        assert config.settings.APP_NAME == "Evening"
        no_settings.delattr(config, "settings")


class TestEnvironmentFiles:
    def test_template(self) -> None:
        """
        The template has every documented key, with the documented value.
        """
        folder = Path(__file__).resolve().parents[2] / "examples" / "table_order"
        lines = (folder / ".env.example").read_text(encoding="utf-8").splitlines()
        template = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))

        assert (
            template.items()
            >= {
                "APP_NAME": "Table Order Service",
                "DEBUG": "false",
                "LOG_LEVEL": "INFO",
                "DATABASE_URL": DATABASE_URL,
                "DB_POOL_SIZE": "5",
                "DB_MAX_OVERFLOW": "10",
                "SECRET_KEY": "your-secret-key-here-change-in-production",
                "ACCESS_TOKEN_EXPIRE_HOURS": "16",
                "CORS_ORIGINS": "http://localhost:3000",
                "SSE_HEARTBEAT_INTERVAL": "30",
                "SSE_MAX_CONNECTIONS_PER_STORE": "100",
            }.items()
        )

    def test_three_environments(self) -> None:
        """
        The profiles differ exactly as the document's table says.
        """
        table = {
            "development": (True, "DEBUG", 5, 5, 10),
            "staging": (False, "INFO", 10, 10, 50),
            "production": (False, "INFO", 20, 20, 100),
        }
        keys = ("DEBUG", "LOG_LEVEL", "DB_POOL_SIZE", "DB_MAX_OVERFLOW", "SSE_MAX_CONNECTIONS_PER_STORE")

        assert {name: tuple(profile[key] for key in keys) for name, profile in PROFILES.items()} == table


class TestErrorHandlerMiddleware:
    def test_client_is_told_nothing_internal(self, telemetry: Telemetry) -> None:
        """
        An unhandled exception is the documented 500, and the record has what the client must not see.
        """
        app = FastAPI()
        app.add_middleware(ErrorHandlerMiddleware)
        app.add_middleware(RequestLoggingMiddleware)

        @app.get("/orders")
        async def orders() -> None:
            raise LookupError("the kitchen's printer is on fire")

        response = TestClient(app, raise_server_exceptions=False).get("/orders")

        body = response.json()
        assert response.status_code == 500
        assert body["detail"] == "내부 서버 오류가 발생했습니다"
        assert body["error_code"] == "INTERNAL_ERROR"
        assert "printer" not in response.text
        telemetry.assert_record(
            correlation_id=response.headers["X-Request-ID"],
            level="ERROR",
            message="Unhandled exception",
            path="/orders",
            method="GET",
            error={"message": Contains("printer is on fire"), "stack_trace": Contains("LookupError")},
        )
