"""One call makes an app observable, and leaves the rest of it alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from dirty_equals import IsOneOf
from fastapi import FastAPI, Request, Response
from starlette.responses import PlainTextResponse

from rfs.monitoring.dashboard_api import Indicator
from rfs.testing.fixtures import Telemetry
from rfs.web.fastapi import APIError, install
from tests.web.asgi import get, request, running

HEADERS = {"X-Correlation-ID": "req-1"}
STARTED = {"message": "Request started", "correlation_id": "req-1"}
COMPLETED = {"message": "Request completed", "correlation_id": "req-1"}


class TestInstall:
    @pytest.mark.parametrize("when", ["before", "after"])
    async def test_before_or_after_routes(self, telemetry: Telemetry, when: str) -> None:
        """
        It does not matter whether routes come before or after it.
        """
        app = FastAPI()
        if when == "before":
            install(app)
        app.add_api_route("/a", lambda: "a")
        if when == "after":
            install(app)

        answer = await get(app, "/a", headers=HEADERS)

        assert (answer.json(), answer.headers["x-request-id"]) == ("a", "req-1")
        telemetry.assert_records(STARTED, COMPLETED)

    async def test_twice(self, telemetry: Telemetry) -> None:
        """
        The second call changes nothing and returns what the first did, even when the app has started.
        """
        app = FastAPI()
        app.add_api_route("/a", lambda: "a")

        first = install(app)
        second = install(app, dashboard=False, health=False)
        await get(app, "/a", headers=HEADERS)
        third = install(app)

        assert first is second is third
        telemetry.assert_records(STARTED, COMPLETED)
        assert [getattr(route, "path", "") for route in app.routes].count("/monitoring") == 1

    async def test_too_late(self) -> None:
        """
        An app that has already answered cannot be wrapped any more, and says so.
        """
        app = FastAPI()
        await get(app, "/")

        with pytest.raises(RuntimeError, match="before the app starts"):
            install(app)

    @pytest.mark.parametrize("path", ["", "/", "//", "monitoring"])
    def test_dashboard_path(self, path: str) -> None:
        """
        The dashboard needs a place of its own.
        """
        with pytest.raises(ValueError, match="dashboard_path"):
            install(FastAPI(), dashboard_path=path)

    async def test_without_a_dashboard(self) -> None:
        """
        Switched off, there is none, and no start address.
        """
        app = FastAPI()

        installation = install(app, dashboard=False)

        assert (installation.dashboard_path, installation.dashboard_start_path) == ("", "")
        assert (await get(app, "/monitoring/")).status == 404

    def test_service_name(self, telemetry: Telemetry) -> None:
        """
        The name is the Monitor's; without one its own stays.
        """
        install(FastAPI(), dashboard=False)
        assert telemetry.monitor.service_name == "test"

        install(FastAPI(), dashboard=False, service_name="table-order")
        assert telemetry.monitor.service_name == "table-order"

    async def test_a_monitor_of_its_own(self, telemetry: Telemetry) -> None:
        """
        An app may have its own Monitor; the default one then sees nothing.
        """
        own, app = Telemetry(), FastAPI()
        install(app, monitor=own.monitor)
        app.add_api_route("/a", lambda: "a")

        await get(app, "/a", headers=HEADERS)

        own.assert_records(STARTED, COMPLETED)
        telemetry.assert_records()

    async def test_indicators(self) -> None:
        """
        The service's indicators are on its page.
        """
        app = FastAPI()
        indicator = Indicator("orders", "Orders per hour", "시간당 주문 수", "orders_total", "increase", "1h")
        install(app, dashboard_token="t" * 20, allowed_hosts=["testserver"], indicators=[indicator])

        overview = await get(app, "/monitoring/api/overview", headers={"Authorization": f"Bearer {'t' * 20}"})

        assert [shown["key"] for shown in overview.json()["indicators"]] == ["orders"]

    async def test_the_dashboard_does_not_observe_itself(self, telemetry: Telemetry) -> None:
        """
        Looking at the dashboard leaves no record and no measurement.
        """
        app = FastAPI()
        install(app, dashboard_token="t" * 20, allowed_hosts=["testserver"])

        for path in ("/monitoring/", "/monitoring/api/overview", "/monitoring/nowhere"):
            await get(app, path, headers={"Authorization": f"Bearer {'t' * 20}"})
        await get(app, "/monitoring/")

        telemetry.assert_records()
        telemetry.assert_metric("http_requests_total", None)


class TestTheHostWins:
    async def test_routes(self) -> None:
        """
        A route of the host under our path is the host's; the rest of the path is ours.
        """
        app = FastAPI()
        install(app, allowed_hosts=["testserver"])

        @app.get("/monitoring/health")
        async def own() -> str:
            return "mine"

        assert (await get(app, "/monitoring/health")).json() == "mine"
        assert (await get(app, "/monitoring/metrics")).status == 401

    @pytest.mark.parametrize("when", ["before", "after"])
    @pytest.mark.parametrize("key", [Exception, 500])
    async def test_its_handler_of_all_exceptions(self, telemetry: Telemetry, key: Any, when: str) -> None:
        """
        A host with its own handler for whatever goes wrong keeps it; the exception is recorded all the same.
        """
        app = FastAPI()
        if when == "before":
            install(app)

        @app.exception_handler(key)
        async def own(request: Request, exc: Exception) -> Response:
            return PlainTextResponse("ours is nicer", 500)

        @app.get("/")
        async def endpoint() -> None:
            raise RuntimeError("broken")

        if when == "after":
            install(app)

        answer = await get(app, "/", headers=HEADERS)

        assert (answer.text, answer.raised) == ("ours is nicer", None)
        assert answer.headers["x-request-id"] == "req-1"
        fault = {"message": "Unhandled exception", "error": {"type": RuntimeError}}
        telemetry.assert_records(fault, correlation_id="req-1", error=~IsOneOf(None))

    async def test_its_handler_of_our_errors(self) -> None:
        """
        A host that answers an APIError in its own way keeps doing so.
        """
        app = FastAPI()

        @app.exception_handler(APIError)
        async def own(request: Request, exc: APIError) -> Response:
            return PlainTextResponse(exc.message, 418)

        @app.get("/")
        async def endpoint() -> None:
            raise APIError.conflict("order", "served")

        install(app)

        assert ((await get(app, "/")).status, (await get(app, "/")).text) == (418, "served")

    async def test_debug_mode(self) -> None:
        """
        An app in debug mode shows its tracebacks: that is what it asked for.
        """
        app = FastAPI(debug=True)
        install(app)

        @app.get("/")
        async def endpoint() -> None:
            raise RuntimeError("broken")

        answer = await get(app, "/", headers=HEADERS)

        assert "RuntimeError: broken" in answer.text
        assert answer.headers["x-request-id"] == "req-1"

    async def test_middleware(self) -> None:
        """
        The host's middleware works, whenever it was added; ours is outside of it.
        """
        app = FastAPI()
        install(app)

        @app.middleware("http")
        async def mark(request: Request, call_next: Any) -> Response:
            response: Response = await call_next(request)
            response.headers["X-Mine"] = "yes"
            return response

        answer = await get(app, "/nowhere", headers=HEADERS)

        assert (answer.headers["x-mine"], answer.headers["x-request-id"]) == ("yes", "req-1")

    def test_openapi(self) -> None:
        """
        Of ours nothing is in the host's OpenAPI.
        """
        app = FastAPI()
        app.add_api_route("/a", lambda: "a")
        before = app.openapi()
        app.openapi_schema = None
        install(app)
        app.build_middleware_stack()

        assert app.openapi() == before


class TestLifespan:
    async def test_the_monitor_runs_with_the_app(self, telemetry: Telemetry) -> None:
        """
        The Monitor starts before the host's start-up and stops after its shutdown; the host's state is handed on.
        """
        monitor = telemetry.monitor
        seen: list[tuple[str, bool]] = []

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
            seen.append(("startup", monitor.running))
            yield {"mine": "yes"}
            seen.append(("shutdown", monitor.running))

        app = FastAPI(lifespan=lifespan)
        install(app)

        async with running(app) as state:
            assert monitor.running
            assert state["mine"] == "yes"

        assert seen == [("startup", True), ("shutdown", True)]
        assert not monitor.running

    async def test_one_that_already_ran(self, telemetry: Telemetry) -> None:
        """
        Who started the Monitor stops it: one that already ran goes on.
        """
        telemetry.monitor.start()
        app = FastAPI()
        install(app)

        async with running(app):
            pass

        assert telemetry.monitor.running

    async def test_again(self, telemetry: Telemetry) -> None:
        """
        An app may start, stop and start again.
        """
        app = FastAPI()
        install(app)

        for _ in range(2):
            async with running(app):
                assert telemetry.monitor.running
            assert not telemetry.monitor.running


class TestNativeTelemetry:
    @pytest.fixture
    def spans(self) -> list[str]:
        """The spans that anybody makes through the provider that is handed to FastAPI."""
        return []

    @pytest.fixture
    def app(self, spans: list[str]) -> FastAPI:
        trace = pytest.importorskip("opentelemetry.trace")

        class Tracer(trace.NoOpTracer):  # type: ignore[misc, name-defined]
            def start_span(self, name: str, *args: Any, **kwargs: Any) -> Any:
                spans.append(name)
                return super().start_span(name, *args, **kwargs)

        class Provider(trace.TracerProvider):  # type: ignore[misc, name-defined]
            def get_tracer(self, *args: Any, **kwargs: Any) -> Any:
                return Tracer()

        app = FastAPI(telemetry={"tracer_provider": Provider()})
        app.add_api_route("/a", lambda: "a")
        return app

    async def test_bare(self, app: FastAPI, spans: list[str]) -> None:
        """
        Left alone, FastAPI makes a server span of its own. (If this fails, the next test proves nothing.)
        """
        await get(app, "/a")

        assert spans

    async def test_one_server_span(self, app: FastAPI, spans: list[str], telemetry: Telemetry) -> None:
        """
        Installed, there is one server span per request, and it is ours.
        """
        install(app)

        await get(app, "/a", headers=HEADERS)

        assert spans == []
        telemetry.assert_span(kind="request", operation="GET /a", outcome="ok")

    async def test_somebody_elses_is_adopted(self, app: FastAPI, telemetry: Telemetry) -> None:
        """
        Where OpenTelemetry's own instrumentation is around the app, the request joins its span.
        """
        trace = pytest.importorskip("opentelemetry.trace")
        parent = trace.NonRecordingSpan(trace.SpanContext(7, 9, is_remote=False, trace_flags=trace.TraceFlags(1)))
        setattr(app, "_is_instrumented_by_opentelemetry", True)  # noqa: B010 - the mark that it leaves
        install(app)

        with trace.use_span(parent):
            await get(app, "/a", headers=HEADERS)

        trace_id = f"{7:032x}"
        telemetry.assert_records(STARTED | {"trace_id": trace_id}, COMPLETED | {"trace_id": trace_id})


class TestRequestBodies:
    async def test_pass_untouched(self) -> None:
        """
        What a client sends arrives as it was sent.
        """
        app = FastAPI()
        install(app)

        @app.post("/")
        async def endpoint(request: Request) -> Response:
            return Response(await request.body())

        assert (await request(app, "POST", "/", body=bytes(range(256)))).body == bytes(range(256))
