"""What the middleware does around a request: ids, log, metrics, errors."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest
from dirty_equals import Contains, IsOneOf, IsStr
from fastapi import APIRouter, FastAPI, HTTPException, Request, Response, WebSocket
from fastapi.sse import EventSourceResponse
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Host, Mount, Route, Router
from starlette.staticfiles import StaticFiles

from rfs.monitoring.context import bind, current
from rfs.monitoring.monitor import Monitor
from rfs.monitoring.result_logging import configure_result_logging, info
from rfs.testing.fixtures import Telemetry
from rfs.testing.virtual_time import VirtualTime
from rfs.web.fastapi import (
    APIError,
    ErrorHandlerMiddleware,
    ExceptionToResultMiddleware,
    PerformanceMetricsMiddleware,
    RequestLoggingMiddleware,
    RequestMiddleware,
    ResultLoggingMiddleware,
    install,
    setup_result_middleware,
)
from tests.web.asgi import App, Message, get, request, scope_of, websocket

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"
ID = "req-1"
HEADERS = {"X-Correlation-ID": ID}
STARTED, DONE = {"message": "Request started"}, {"message": "Request completed"}


def service() -> FastAPI:
    """A service with every kind of answer, installed."""
    app = FastAPI()
    install(app, dashboard=False)

    @app.get("/orders/{order_id}")
    async def order(order_id: int) -> dict[str, int]:
        if order_id == 404:
            raise HTTPException(404, "no such order")
        if order_id == 500:
            raise RuntimeError("secret: the order is broken")
        if order_id == 503:
            raise ConnectionRefusedError("secret: postgres://user:hunter2@db")
        return {"order": order_id}

    @app.post("/orders")
    async def create(request: Request) -> Response:
        return Response(await request.body(), 201)

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[str]:
            for part in ("a", "b", "c"):
                yield part

        return StreamingResponse(parts())

    @app.get("/endless")
    async def endless() -> StreamingResponse:
        async def parts() -> AsyncIterator[str]:
            yield "a"
            await asyncio.Event().wait()

        return StreamingResponse(parts())

    @app.get("/half")
    async def half() -> StreamingResponse:
        async def parts() -> AsyncIterator[str]:
            yield "a"
            raise RuntimeError("broken in the middle")

        return StreamingResponse(parts())

    @app.get("/events", response_class=EventSourceResponse)
    async def events() -> AsyncIterator[dict[str, int]]:
        yield {"order": 1}
        await asyncio.Event().wait()

    @app.get("/few-events", response_class=EventSourceResponse)
    async def few_events() -> AsyncIterator[dict[str, int]]:
        yield {"order": 1}

    @app.websocket("/socket")
    async def socket(connection: WebSocket) -> None:
        await connection.accept()
        while True:
            await connection.send_text(await connection.receive_text())

    @app.websocket("/closed")
    async def closed(connection: WebSocket) -> None:
        await connection.close()

    return app


async def _call(app: App, *arguments: Any) -> None:
    await app(*arguments)


KINDS = [
    ("GET", "/orders/7", 200),
    ("HEAD", "/openapi.json", 200),
    ("GET", "/orders/404", 404),
    ("GET", "/orders/x", 422),
    ("GET", "/orders/500", 500),
    ("GET", "/orders/503", 503),
    ("GET", "/nowhere", 404),
    ("DELETE", "/orders/7", 405),
    ("GET", "/stream", 200),
    ("GET", "/few-events", 200),
    ("OPTIONS", "/orders/7", 405),
    ("BREW", "/orders/7", 405),
]


class TestIds:
    @pytest.mark.parametrize(("method", "target", "status"), KINDS)
    async def test_echoed_on_every_response(self, method: str, target: str, status: int) -> None:
        """
        Every response, errors, streams and HEAD included, carries the inbound id under both names.
        """
        answer = await request(service(), method, target, headers=HEADERS)

        assert answer.status == status
        assert answer.headers["x-correlation-id"] == answer.headers["x-request-id"] == ID
        assert len([name for name, _ in answer.raw_headers if name == b"x-request-id"]) == 1

    async def test_made_where_there_is_none(self) -> None:
        """
        Without an inbound id a request gets one of 128 bits, each its own.
        """
        app = service()

        ids = {(await get(app, "/orders/7")).headers["x-request-id"] for _ in range(5)}

        assert len(ids) == 5
        assert all(len(bytes.fromhex(made)) == 16 for made in ids)

    async def test_both_given(self, telemetry: Telemetry) -> None:
        """
        Two different valid ids are both kept; records are found under the correlation id and name the other.
        """
        answer = await get(service(), "/orders/7", headers={"X-Request-ID": "r-1", "X-Correlation-ID": "c-1"})

        assert (answer.headers["x-request-id"], answer.headers["x-correlation-id"]) == ("r-1", "c-1")
        telemetry.assert_records({"correlation_id": "c-1", "request_id": "r-1"}, **DONE)

    async def test_request_id_alone(self, telemetry: Telemetry) -> None:
        """
        A request id alone is the correlation id, too.
        """
        answer = await get(service(), "/orders/7", headers={"X-Request-ID": "r-1"})

        assert (answer.headers["x-request-id"], answer.headers["x-correlation-id"]) == ("r-1", "r-1")
        telemetry.assert_records({"correlation_id": "r-1", "outcome": "ok"}, **DONE)

    @pytest.mark.parametrize("bad", ["", "a b", "x" * 65, "a\r\nSet-Cookie: x", "a\tb", "é", '"quoted"', "<script>"])
    @pytest.mark.parametrize("header", ["X-Correlation-ID", "X-Request-ID"])
    async def test_invalid_one_is_replaced(self, telemetry: Telemetry, header: str, bad: str) -> None:
        """
        An id that could not be echoed, logged and looked up is replaced, and that is counted.
        """
        answer = await get(service(), "/orders/7", headers={header: bad})

        made = answer.headers["x-correlation-id"]
        assert made != bad
        assert len(bytes.fromhex(made)) == 16
        assert answer.headers["x-request-id"] == made
        telemetry.assert_metric("rfs_rejected_total", 1, metric="correlation_id")

    @given(st.binary(max_size=80))
    async def test_whatever_comes_in_goes_out_clean(self, value: bytes) -> None:
        """
        For any header value the echoed id is one that a header can carry.
        """
        app = RequestMiddleware(PlainTextResponse("ok"), monitor=Monitor())

        answer = await get(app, "/", headers=[(b"x-correlation-id", value)])

        echoed = answer.headers["x-correlation-id"]
        assert 1 <= len(echoed) <= 64
        assert set(echoed) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-")

    async def test_the_hosts_own_header_stays(self) -> None:
        """
        A response that has an id of its own keeps it.
        """
        app = FastAPI()
        install(app, dashboard=False)

        @app.get("/")
        async def endpoint() -> Response:
            return PlainTextResponse("ok", headers={"X-Request-ID": "mine"})

        answer = await get(app, "/", headers=HEADERS)

        assert [value for name, value in answer.raw_headers if name == b"x-request-id"] == [b"mine"]
        assert answer.headers["x-correlation-id"] == ID

    async def test_a_response_that_is_reused(self) -> None:
        """
        A Response object that answers many requests does not gather their ids.
        """
        app = RequestMiddleware(PlainTextResponse("ok"))

        await get(app, "/")
        answer = await get(app, "/", headers=HEADERS)

        assert [value for name, value in answer.raw_headers if name == b"x-request-id"] == [ID.encode()]

    async def test_header_of_ones_own(self, telemetry: Telemetry) -> None:
        """
        The configured correlation header is read and answered.
        """
        configure_result_logging(correlation_header="X-Trace", stream=None)

        answer = await get(service(), "/orders/7", headers={"X-Trace": "t-1"})

        assert answer.headers["x-trace"] == "t-1"
        telemetry.assert_records({"correlation_id": "t-1", "outcome": "ok"}, **DONE)

    async def test_traceparent(self, telemetry: Telemetry) -> None:
        """
        An inbound trace is joined: the server's span is a child of the caller's.
        """
        await get(service(), "/orders/7", headers={**HEADERS, "traceparent": TRACEPARENT})

        telemetry.assert_records(
            {"trace_id": TRACE_ID, "parent_span_id": SPAN_ID, "span_id": ~IsOneOf("", SPAN_ID)}, **DONE
        )

    @pytest.mark.parametrize(
        "bad", ["", "00-0-0-0", f"ff-{TRACE_ID}-{SPAN_ID}-01", f"00-{'0' * 32}-{SPAN_ID}-01", "é", "0" * 9000]
    )
    async def test_broken_traceparent(self, telemetry: Telemetry, bad: str) -> None:
        """
        A traceparent that breaks the grammar starts a new trace.
        """
        await get(service(), "/orders/7", headers={**HEADERS, "traceparent": bad})

        new_trace = IsStr(regex="[0-9a-f]{32}") & ~IsOneOf(TRACE_ID)
        telemetry.assert_records({"trace_id": new_trace, "parent_span_id": ""}, **DONE)


class TestRequestLog:
    @pytest.mark.usefixtures("virtual_time")
    async def test_both_lines(self, telemetry: Telemetry) -> None:
        """
        One line when a request comes in and one when it is done, with what the documents name.
        """
        app = FastAPI()
        install(app, dashboard=False)

        @app.get("/tables/{table}")
        async def table(table: str) -> str:
            await asyncio.sleep(0.25)
            return table

        await get(app, "/tables/A7?token=secret", headers=HEADERS)

        common = {"request_id": ID, "method": "GET", "path": "/tables/A7", "client_ip": "192.0.2.7"}
        started, done = telemetry.assert_records(
            {**STARTED, "kind": "request_start", "level": "INFO"},
            {
                **DONE,
                "kind": "request",
                "level": "INFO",
                "outcome": "ok",
                "operation": "GET /tables/{table}",
                "duration_ms": 250.0,
            },
            correlation_id=ID,
        )
        assert started.context == common
        assert done.context == {**common, "route": "/tables/{table}", "status_code": 200, "response_bytes": 4}
        assert started.span_id == done.span_id != ""

    @pytest.mark.parametrize(("method", "target", "status"), KINDS)
    async def test_one_completed_line(self, telemetry: Telemetry, method: str, target: str, status: int) -> None:
        """
        Whatever the answer, there is exactly one completed line, and it has the status.
        """
        await request(service(), method, target, headers=HEADERS)

        outcome, level = ("failed", "ERROR") if status >= 500 else ("ok", "INFO")
        telemetry.assert_records(
            {"status_code": status, "outcome": outcome, "level": level, "correlation_id": ID}, **DONE
        )

    async def test_an_unhandled_exception(self, telemetry: Telemetry) -> None:
        """
        An exception that nobody handled is recorded once, with its stack; it ends at the edge of the app.
        """
        answer = await get(service(), "/orders/500", headers=HEADERS)

        fault = {"type": RuntimeError, "is_defect": True, "stack_trace": Contains("raise RuntimeError")}
        telemetry.assert_records(
            STARTED | {"error": None},
            {"message": "Unhandled exception", "error": fault},
            DONE | {"error": None},
            correlation_id=ID,
        )
        assert answer.raised is None

    async def test_broken_in_the_middle(self, telemetry: Telemetry) -> None:
        """
        A stream that breaks is one failed line, and the exception reaches the server, which must cut the connection.
        """
        answer = await get(service(), "/half", headers=HEADERS)

        assert isinstance(answer.raised, BaseException)
        assert answer.messages[-1]["more_body"] is True
        telemetry.assert_records({"outcome": "failed", "status_code": 200, "response_bytes": 1}, **DONE)

    @pytest.mark.parametrize("target", ["/events", "/endless"])
    async def test_client_leaves(self, telemetry: Telemetry, target: str) -> None:
        """
        A client that leaves in the middle of a stream is one line: cancelled, not failed.
        """
        answer = await get(service(), target, headers=HEADERS, leave_after=1)

        assert answer.raised is None
        telemetry.assert_records({"outcome": "cancelled", "level": "INFO", "status_code": 200}, **DONE)

    @pytest.mark.parametrize("server_says_so", [False, True])
    async def test_client_leaves_before_the_answer(self, telemetry: Telemetry, server_says_so: bool) -> None:
        """
        A client that leaves while it sends its body is one line with 499 and no fault, whatever its server makes of it.
        """
        app = service()

        async def receive() -> Message:
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if server_says_so:
                raise OSError("the client is gone")

        await app(scope_of("POST", "/orders", HEADERS), receive, send)

        telemetry.assert_records(
            STARTED | {"error": None},
            DONE | {"error": None, "outcome": "cancelled", "status_code": 499, "level": "INFO"},
        )

    async def test_cancelled_by_the_server(self, telemetry: Telemetry) -> None:
        """
        A request that the server cancels is one line, and the cancellation goes on.
        """
        app = FastAPI()
        install(app, dashboard=False)
        begun = asyncio.Event()

        @app.get("/")
        async def endpoint() -> None:
            begun.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(get(app, "/", headers=HEADERS))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        telemetry.assert_records({"outcome": "cancelled", "status_code": 499}, **DONE)

    async def test_recorded_before_the_client_knows(self, telemetry: Telemetry) -> None:
        """
        When the last byte leaves, its request is already counted and recorded.
        """
        app = service()
        last = 0

        async def receive() -> Message:
            return {"type": "http.request", "body": b""}

        async def send(message: Message) -> None:
            nonlocal last
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                last += 1
                telemetry.assert_metric("http_requests_total", 1)
                telemetry.assert_records({"outcome": "ok"}, **DONE)

        await app(scope_of("GET", "/orders/7", HEADERS), receive, send)

        assert last == 1

    @pytest.mark.parametrize(("status", "expected"), [(200, 0), (302, 0), (404, 1), (503, 1)])
    async def test_excluded_paths(self, telemetry: Telemetry, status: int, expected: int) -> None:
        """
        An excluded path is not measured; it is recorded only when it is not well.
        """
        app = RequestMiddleware(PlainTextResponse("", status), exclude_paths=["/health"])

        answer = await get(app, "/health", headers=HEADERS)

        telemetry.assert_records(*[DONE] * expected)
        telemetry.assert_metric("http_requests_total", None)
        assert answer.headers["x-request-id"] == ID

    @pytest.mark.parametrize(("path", "seen"), [("/quiet", 0), ("/quiet/below", 0), ("/quieter", 2)])
    async def test_silent_prefixes(self, telemetry: Telemetry, path: str, seen: int) -> None:
        """
        What is silent leaves no trace, but has its ids; a name that only begins alike is not silent.
        """
        app = RequestMiddleware(PlainTextResponse("", 500 if not seen else 200), silent_prefixes=["/quiet/"])

        answer = await get(app, path, headers=HEADERS)

        telemetry.assert_records(*[{"correlation_id": ID}] * seen)
        assert answer.headers["x-request-id"] == ID

    async def test_secrets_in_the_path(self, telemetry: Telemetry) -> None:
        """
        A registered secret in a path is masked; headers and the query string are not recorded at all.
        """
        telemetry.monitor.masker.register_secret("hunter2-hunter2")

        await get(
            service(),
            "/orders/hunter2-hunter2?key=canary-query",
            headers={**HEADERS, "Authorization": "Bearer canary-header", "Cookie": "s=canary-cookie"},
        )

        telemetry.assert_records(STARTED, DONE, correlation_id=ID)
        telemetry.assert_no_secret("hunter2-hunter2", "canary-query", "canary-header", "canary-cookie")

    async def test_level(self, telemetry: Telemetry) -> None:
        """
        Below the Monitor's level nothing is recorded; measurements go on.
        """
        telemetry.monitor.level = logging.ERROR

        await get(service(), "/orders/7", headers=HEADERS)
        await get(service(), "/orders/500", headers=HEADERS)

        telemetry.assert_records({"message": "Unhandled exception"}, DONE)
        telemetry.assert_metric("http_requests_total", 2)


class TestMetrics:
    async def test_red(self, telemetry: Telemetry) -> None:
        """
        Requests are counted by method, route and status, and timed by method and route.
        """
        app = service()
        for target in ("/orders/1", "/orders/2", "/orders/404"):
            await get(app, target)

        labels = {"method": "GET", "route": "/orders/{order_id}"}
        telemetry.assert_metric("http_requests_total", 2, **labels, status="200")
        telemetry.assert_metric("http_requests_total", 1, **labels, status="404")
        telemetry.assert_metric("http_request_duration_seconds", {"count": 3}, **labels)
        telemetry.assert_metric("http_requests_active", 0)

    async def test_active(self, telemetry: Telemetry) -> None:
        """
        While requests are answered, they are counted as active.
        """
        app = FastAPI()
        install(app, dashboard=False)
        begun, go_on = asyncio.Barrier(4), asyncio.Event()

        @app.get("/")
        async def endpoint() -> None:
            await begun.wait()
            await go_on.wait()

        tasks = [asyncio.create_task(get(app, "/")) for _ in range(3)]
        await begun.wait()
        telemetry.assert_metric("http_requests_active", 3)
        go_on.set()
        await asyncio.gather(*tasks)

        telemetry.assert_metric("http_requests_active", 0)

    async def test_ten_thousand_addresses(self, telemetry: Telemetry) -> None:
        """
        Random addresses and methods are one series.
        """
        app = FastAPI()
        install(app, dashboard=False, exclude_paths=())

        await request(app, "M0", "/0/x")
        with telemetry.no_new_series():
            for number in range(1, 10_000):
                await request(app, f"M{number}", f"/{number}/x")

        telemetry.assert_metric("http_requests_total", 10_000)
        telemetry.assert_metric("http_requests_total", 10_000, route="__unmatched__", method="_OTHER")

    async def test_streams_are_apart(self, telemetry: Telemetry, virtual_time: VirtualTime) -> None:
        """
        An event stream is counted, and timed as a stream; it never enters the latency of requests.
        """
        app = service()
        begun = asyncio.Event()

        async def receive() -> Message:
            await asyncio.Event().wait()
            return {}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body":
                begun.set()

        streaming = asyncio.create_task(_call(app, scope_of("GET", "/events", HEADERS), receive, send))
        await begun.wait()
        telemetry.assert_metric("http_streams_active", 1)
        telemetry.assert_metric("http_requests_active", 0)
        await virtual_time.sleep(3600)
        streaming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await streaming

        telemetry.assert_metric("http_streams_active", 0)
        telemetry.assert_metric("http_requests_total", 1, route="/events")
        telemetry.assert_metric("http_stream_duration_seconds", {"count": 1, "max": 3600}, route="/events")
        telemetry.assert_metric("http_request_duration_seconds", None, route="/events")

    async def test_another_monitor(self) -> None:
        """
        The middleware records where the default Monitor is at that moment.
        """
        app = service()
        for _ in range(2):
            with Telemetry() as one:
                await get(app, "/orders/7")
                one.assert_metric("http_requests_total", 1)


class TestWebSocket:
    async def test_a_conversation(self, telemetry: Telemetry) -> None:
        """
        A WebSocket is one request that was answered 101, timed as a stream; its client's leaving is no fault.
        """
        answer = await websocket(service(), "/socket", ["a", "b"], HEADERS)

        assert [message.get("text") for message in answer.messages[1:]] == ["a", "b"]
        telemetry.assert_records({"operation": "GET /socket", "outcome": "cancelled", "status_code": 101}, **DONE)
        telemetry.assert_metric("http_streams_active", 0)
        telemetry.assert_metric("http_requests_total", 1, status="101")

    async def test_refused(self, telemetry: Telemetry) -> None:
        """
        A WebSocket that is not accepted is a 403.
        """
        await websocket(service(), "/closed", [], HEADERS)

        telemetry.assert_records({"outcome": "ok", "status_code": 403}, **DONE)

    async def test_ended_without_a_word(self, telemetry: Telemetry) -> None:
        """
        A handler that returns, and one that answers by HTTP, leave one line each.
        """

        async def silent(scope: Any, receive: Any, send: Any) -> None:
            if scope["path"] == "/http":
                await send({"type": "websocket.http.response.start", "status": 418, "headers": []})
                await send({"type": "websocket.http.response.body", "body": b""})

        app = RequestMiddleware(silent)
        await websocket(app, "/", [], HEADERS)
        answer = await websocket(app, "/http", [], {"X-Correlation-ID": "other"})

        telemetry.assert_records(
            {"correlation_id": ID, "status_code": 499}, {"correlation_id": "other", "status_code": 418}, **DONE
        )
        assert (b"x-request-id", b"other") in answer.messages[0]["headers"]


class TestRoutes:
    @staticmethod
    def app() -> FastAPI:
        """Routes in all the places where they can be."""

        async def endpoint(request: Request) -> Response:
            return PlainTextResponse("ok")

        async def api_endpoint() -> str:
            return "ok"

        deep, middle, outer = APIRouter(prefix="/deep"), APIRouter(prefix="/{tenant}"), APIRouter()
        deep.add_api_route("/{item}", api_endpoint)
        deep.add_route("/deep/plain/{item}", endpoint)  # Starlette's own knows no prefix
        middle.include_router(deep)
        outer.include_router(middle, prefix="/v1")
        mounted = FastAPI()
        mounted.add_api_route("/items/{item}", api_endpoint)
        mounted.include_router(deep, prefix="/in")
        app = FastAPI()
        app.include_router(outer, prefix="/api")
        app.mount("/mounted", mounted)
        app.mount("/tenants/{tenant}", Starlette(routes=[Route("/{item}", endpoint, methods=["GET", "PUT"])]))
        app.mount("/nested", Router([Mount("/inner", routes=[Route("/{item:int}", endpoint)])]))
        app.mount("/files", StaticFiles(directory="."))
        app.router.routes.append(Host("other.example", PlainTextResponse("other")))
        app.add_route("/plain/{item:path}", endpoint)
        app.add_api_route("/methods/{item}", api_endpoint, methods=["PUT"])
        return app

    @pytest.mark.parametrize("root_path", ["", "/proxy"])
    @pytest.mark.parametrize(
        ("target", "template"),
        [
            ("/api/v1/acme/deep/7", "/api/v1/{tenant}/deep/{item}"),
            ("/api/v1/acme/deep/plain/7", "/api/v1/{tenant}/deep/plain/{item}"),
            ("/mounted/items/7", "/mounted/items/{item}"),
            ("/mounted/in/deep/7", "/mounted/in/deep/{item}"),
            ("/mounted/nowhere", "__unmatched__"),
            ("/tenants/acme/7", "/tenants/{tenant}/{item}"),
            ("/nested/inner/7", "/nested/inner/{item}"),
            ("/nested/inner/x", "__unmatched__"),
            ("/files/pyproject.toml", "/files/{path}"),
            ("/plain/a/b/c", "/plain/{item}"),
            ("/methods/7", "/methods/{item}"),
            ("/nowhere", "__unmatched__"),
        ],
    )
    async def test_template(self, telemetry: Telemetry, target: str, template: str, root_path: str) -> None:
        """
        The label is the route as it was declared, with all prefixes, wherever it was declared.
        """
        app = self.app()
        install(app, dashboard=False)

        await get(app, root_path + target, root_path=root_path, headers=HEADERS)

        telemetry.assert_records({"route": template}, **DONE)

    @pytest.mark.parametrize(("target", "template"), [("/plain/a", "/plain/{item}"), ("/files/x", "/files/{path}")])
    async def test_answered_before_routing(self, telemetry: Telemetry, target: str, template: str) -> None:
        """
        What a middleware answered has the route that it kept the request from.
        """
        app = self.app()
        install(app, dashboard=False)

        @app.middleware("http")
        async def refuse(request: Request, call_next: Any) -> Response:
            return PlainTextResponse("no", 401)

        await get(app, target, headers=HEADERS)

        telemetry.assert_records({"route": template}, **DONE)

    async def test_an_app_without_routes(self, telemetry: Telemetry) -> None:
        """
        Any ASGI app can be wrapped.
        """
        await get(RequestMiddleware(PlainTextResponse("ok")), "/x", headers=HEADERS)

        telemetry.assert_records({"route": "__unmatched__"}, **DONE)


class TestDuties:
    async def test_each_once(self, telemetry: Telemetry) -> None:
        """
        Middleware by all its names around an installed app: still one line and one measurement per request.
        """
        app = service()
        for middleware in (RequestLoggingMiddleware, ResultLoggingMiddleware, PerformanceMetricsMiddleware):
            app.add_middleware(middleware)

        answer = await get(app, "/orders/7", headers=HEADERS)

        telemetry.assert_records(STARTED, DONE)
        telemetry.assert_metric("http_requests_total", 1)
        assert answer.headers["x-processing-time-ms"].isdigit()
        assert len([name for name, _ in answer.raw_headers if name == b"x-request-id"]) == 1

    @pytest.mark.parametrize(
        ("middleware", "records", "measured", "timed"),
        [
            (RequestMiddleware, 2, True, False),
            (RequestLoggingMiddleware, 2, False, False),
            (ResultLoggingMiddleware, 2, False, True),
            (PerformanceMetricsMiddleware, 0, True, False),
        ],
    )
    async def test_alone(
        self, telemetry: Telemetry, middleware: type[RequestMiddleware], records: int, measured: bool, timed: bool
    ) -> None:
        """
        Each name does what the documents say of it, and no more.
        """
        answer = await get(middleware(PlainTextResponse("ok")), "/", headers=HEADERS)

        telemetry.assert_records(*[{"correlation_id": ID}] * records)
        telemetry.assert_metric("http_requests_total", 1 if measured else None)
        assert ("x-processing-time-ms" in answer.headers) is timed
        assert answer.headers["x-request-id"] == ID

    async def test_log_and_metrics_apart(self, telemetry: Telemetry) -> None:
        """
        Two middlewares that share the work leave what one would.
        """
        app = RequestLoggingMiddleware(PerformanceMetricsMiddleware(PlainTextResponse("ok")))

        await get(app, "/", headers=HEADERS)

        telemetry.assert_records(STARTED, DONE)
        telemetry.assert_metric("http_requests_total", 1)

    @pytest.mark.usefixtures("virtual_time")
    async def test_slow_requests(self, telemetry: Telemetry) -> None:
        """
        A request over the threshold is a WARNING that says so; one at it is not.
        """

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.sleep(float(scope["path"][1:]))
            await PlainTextResponse("ok")(scope, receive, send)

        app = RequestMiddleware(slow, slow_request_threshold=1.0)
        await get(app, "/1.5", headers={"X-Correlation-ID": "slow"})
        await get(app, "/1.0", headers={"X-Correlation-ID": "fast"})

        telemetry.assert_records(
            {"correlation_id": "slow", "level": "WARNING", "slow": True, "duration_ms": 1500},
            {"correlation_id": "fast", "level": "INFO", "duration_ms": 1000},
            **DONE,
        )

    async def test_other_scopes_pass(self) -> None:
        """
        A lifespan is none of its business.
        """
        seen: list[str] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            seen.append(scope["type"])

        nothing: Any = None
        for middleware in (RequestMiddleware, ErrorHandlerMiddleware):
            await middleware(app)({"type": "lifespan"}, nothing, nothing)

        assert seen == ["lifespan"] * 2

    async def test_a_file_by_path(self, telemetry: Telemetry) -> None:
        """
        A server that sends files by their path ends the request with that message.
        """

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.pathsend", "path": "/dev/null"})

        await get(RequestMiddleware(app), "/", headers=HEADERS)

        telemetry.assert_records({"outcome": "ok"}, **DONE)

    async def test_no_answer(self, telemetry: Telemetry) -> None:
        """
        An app that returns without an answer has failed.
        """

        async def app(scope: Any, receive: Any, send: Any) -> None: ...

        await get(RequestMiddleware(app), "/", headers=HEADERS)

        telemetry.assert_records({"outcome": "failed"}, **DONE)

    async def test_an_active_span_is_adopted(self, telemetry: Telemetry) -> None:
        """
        Where OpenTelemetry has already begun a span, the request is its child.
        """
        trace = pytest.importorskip("opentelemetry.trace")
        parent = trace.NonRecordingSpan(
            trace.SpanContext(int(TRACE_ID, 16), int(SPAN_ID, 16), is_remote=False, trace_flags=trace.TraceFlags(1))
        )
        app = RequestMiddleware(PlainTextResponse("ok"), adopt_active_span=True)

        with trace.use_span(parent):
            await get(app, "/", headers=HEADERS)
        await get(app, "/", headers={"X-Correlation-ID": "alone"})

        telemetry.assert_records(
            {"correlation_id": ID, "trace_id": TRACE_ID, "parent_span_id": SPAN_ID},
            {"correlation_id": "alone", "trace_id": ~IsOneOf(TRACE_ID)},
            **DONE,
        )


class TestErrors:
    async def test_unhandled(self) -> None:
        """
        The documented body, the correlation id, and nothing of the exception.
        """
        answer = await get(service(), "/orders/500", headers=HEADERS)

        assert answer.json() == {
            "detail": "내부 서버 오류가 발생했습니다",
            "error_code": "INTERNAL_ERROR",
            "correlation_id": ID,
        }

    async def test_dependency_down(self) -> None:
        """
        An exception that says that something cannot be reached is 503.
        """
        answer = await get(service(), "/orders/503", headers=HEADERS)

        assert (answer.status, answer.json()["error_code"]) == (503, "SERVICE_UNAVAILABLE")
        assert answer.headers["retry-after"] == "1"
        assert "secret" not in answer.text

    async def test_error_handler_alone(self, telemetry: Telemetry) -> None:
        """
        The documents' ErrorHandlerMiddleware around any app: answers, records, ends it.
        """

        async def broken(scope: Any, receive: Any, send: Any) -> None:
            raise RuntimeError("secret")

        answer = await get(ErrorHandlerMiddleware(broken), "/")

        assert (answer.status, answer.raised) == (500, None)
        assert answer.json() == {"detail": "내부 서버 오류가 발생했습니다", "error_code": "INTERNAL_ERROR"}
        telemetry.assert_records({"error": {"type": RuntimeError}}, level="ERROR")

    async def test_error_handler_after_the_beginning(self) -> None:
        """
        An answer that has begun cannot be taken back: the exception goes on.
        """

        async def broken(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            raise RuntimeError("late")

        answer = await get(ErrorHandlerMiddleware(broken), "/")

        assert isinstance(answer.raised, RuntimeError)

    @pytest.mark.parametrize("debug", [False, True])
    async def test_exception_to_result(self, debug: bool) -> None:
        """
        ``code``, ``message``, ``details``, ``timestamp``, ``path``; the exception's text only in debug mode.
        """

        async def broken(scope: Any, receive: Any, send: Any) -> None:
            raise ValueError("secret")

        answer = await get(ExceptionToResultMiddleware(broken, debug=debug), "/place")

        body = answer.json()
        assert (answer.status, body["code"], body["path"]) == (500, "INTERNAL_SERVER_ERROR", "/place")
        assert set(body) == {"code", "message", "details", "timestamp", "path"}
        assert ("secret" in answer.text) is debug

    async def test_exception_to_result_keeps_an_api_error(self) -> None:
        """
        A raised APIError keeps its own status.
        """

        async def broken(scope: Any, receive: Any, send: Any) -> None:
            raise APIError.not_found("사용자", "7")

        answer = await get(ExceptionToResultMiddleware(broken), "/")

        assert (answer.status, answer.json()["code"]) == (404, "NOT_FOUND")


class TestSetup:
    async def test_all(self, telemetry: Telemetry) -> None:
        """
        One call adds log, metrics and error answers.
        """
        app = FastAPI()
        setup_result_middleware(
            app,
            logging_config={"exclude_paths": ["/quiet"]},
            exception_config={"debug": True},
            metrics_config={"slow_request_threshold": 1.0},
        )

        @app.get("/boom")
        async def boom() -> None:
            raise ValueError("told in debug mode")

        answer = await get(app, "/boom", headers=HEADERS)

        assert (answer.status, answer.json()["code"]) == (500, "INTERNAL_SERVER_ERROR")
        assert "told in debug mode" in answer.json()["message"]
        assert answer.headers["x-request-id"] == ID
        assert "x-processing-time-ms" in answer.headers
        telemetry.assert_records({"status_code": 500}, **DONE)
        telemetry.assert_metric("http_requests_total", 1, status="500")

    async def test_none(self, telemetry: Telemetry) -> None:
        """
        What is switched off is not there.
        """
        app = FastAPI()
        setup_result_middleware(app, enable_logging=False, enable_exception_handling=False, enable_metrics=False)

        await get(app, "/", headers=HEADERS)

        assert app.user_middleware == []
        telemetry.assert_records()

    def test_a_wrong_key_is_told_at_once(self) -> None:
        """
        A configuration with an unknown key fails where it is written.
        """
        with pytest.raises(TypeError, match="excluded"):
            setup_result_middleware(FastAPI(), logging_config={"excluded": ["/"]})


class TestContextInside:
    async def test_records_of_the_service_are_the_requests(self, telemetry: Telemetry) -> None:
        """
        What an endpoint logs has the ids of the request and the fields bound so far.
        """
        app = FastAPI()
        install(app, dashboard=False)

        @app.get("/")
        async def endpoint() -> None:
            bind(store="A")
            info("order created")

        await get(app, "/", headers=HEADERS)

        started, created, done = telemetry.assert_records(
            STARTED, {"message": "order created"}, DONE, correlation_id=ID
        )
        assert created.context == {"store": "A"}
        assert started.trace_id == created.trace_id == done.trace_id

    async def test_nothing_is_left_to_the_garbage_collector(self) -> None:
        """
        When a request is over, all of it is gone: a server holds the scope, and nothing in the scope holds the server.
        """

        class Server:
            def __init__(self) -> None:
                self.scope = scope_of("GET", "/orders/7")

            async def receive(self) -> Message:
                return {"type": "http.request", "body": b""}

            async def send(self, message: Message) -> None: ...

        app = service()
        await get(app, "/orders/7")
        gc.collect()
        gc.disable()
        try:
            server = Server()
            gone = weakref.ref(server)
            await app(server.scope, server.receive, server.send)
            del server

            assert gone() is None
        finally:
            gc.enable()

    async def test_a_word_after_the_end(self) -> None:
        """
        What an app sends after it has returned goes nowhere, and harms nobody.
        """
        late: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            late.append(send)
            await PlainTextResponse("ok")(scope, receive, send)

        answer = await get(RequestMiddleware(app), "/")
        await late[0]({"type": "http.response.body", "body": b"late"})

        assert answer.text == "ok"

    async def test_an_outer_context_comes_back(self) -> None:
        """
        An app called from inside of another request (in a test, in a gateway) leaves that one's context as it was.
        """
        inner = RequestMiddleware(PlainTextResponse("ok"))
        seen: list[Any] = []

        async def outer(scope: Any, receive: Any, send: Any) -> None:
            seen.append(current())
            await get(inner, "/")
            seen.append(current())
            await PlainTextResponse("ok")(scope, receive, send)

        app: App = RequestMiddleware(outer)
        await get(app, "/")

        assert seen[0] is seen[1] is not None
