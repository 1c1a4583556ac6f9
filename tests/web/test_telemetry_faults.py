"""Telemetry may fail, the host may not: whatever breaks inside RFS, every response stays as it is, byte for byte."""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncIterator, Generator, Iterator
from types import ModuleType
from typing import Any

import pytest
from fastapi import FastAPI, WebSocket
from fastapi.sse import EventSourceResponse
from starlette.responses import StreamingResponse

from rfs.core.result import Failure, Result, Success
from rfs.monitoring import context, masking, monitor, result_logging, traces
from rfs.monitoring._capture import cells, instruments, record, segments, sketch
from rfs.reactive import MonoResult
from rfs.testing.virtual_time import VirtualTime
from rfs.web.fastapi import (
    APIError,
    ExceptionToResultMiddleware,
    FastAPIResult,
    PerformanceMetricsMiddleware,
    RequestLoggingMiddleware,
    handle_result,
    install,
)
from tests.web.asgi import Message, request, websocket

TELEMETRY: tuple[ModuleType, ...] = (
    context,
    traces,
    monitor,
    masking,
    result_logging,
    cells,
    instruments,
    record,
    segments,
    sketch,
)

# Part of the host's own program: what it calls by itself, and what only shapes its functions when they are declared.
DECLARATIONS = {"log_result_operation", "use_monitor", "propagate", "create_logging_mono"}

ID = "req-1"
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
REQUESTS = [
    ("GET", "/orders/7", {"X-Correlation-ID": ID}),
    ("GET", "/orders/7", {"X-Correlation-ID": ID, "X-Request-ID": "other", "traceparent": TRACEPARENT}),
    ("GET", "/orders/7", {"X-Request-ID": ID}),
    ("GET", "/orders/missing", {"X-Correlation-ID": ID}),
    ("GET", "/orders/broken", {"X-Correlation-ID": ID}),
    ("GET", "/orders/raised", {"X-Correlation-ID": ID}),
    ("GET", "/annotated/7", {"X-Correlation-ID": ID}),
    ("GET", "/annotated/broken", {"X-Correlation-ID": ID}),
    ("GET", "/unhandled", {"X-Correlation-ID": ID}),
    ("GET", "/down", {"X-Correlation-ID": ID}),
    ("POST", "/sync", {"X-Correlation-ID": ID}),
    ("GET", "/sync", {"X-Correlation-ID": ID}),
    ("GET", "/nowhere", {"X-Correlation-ID": ID}),
    ("GET", "/stream", {"X-Correlation-ID": ID}),
    ("GET", "/events", {"X-Correlation-ID": ID}),
    ("GET", "/health/ready", {"X-Correlation-ID": ID}),
    ("GET", "/monitoring/", {"X-Correlation-ID": ID}),
]


def service() -> FastAPI:
    """A service with every way to answer, under everything that RFS can put around it."""
    app = FastAPI()

    @result_logging.log_result_operation("orders.find")
    async def find(order_id: str) -> Result[str, APIError]:
        async def look() -> Result[str, APIError]:
            if order_id == "raised":
                raise RuntimeError("secret")
            if order_id == "broken":
                return Failure(ValueError("secret"))  # type: ignore[arg-type] # what must not be shown
            return Success(order_id) if order_id == "7" else Failure(APIError.not_found("주문", order_id))

        chain: MonoResult[str, APIError] = MonoResult(look).log_step("look", "looked").log_error("look_failed")
        return await chain.to_result()

    @app.get("/orders/{order_id}")
    @handle_result
    async def order(order_id: str) -> Result[str, APIError]:
        return await find(order_id)

    @app.get("/annotated/{order_id}")
    async def annotated(order_id: str) -> FastAPIResult[str]:
        return await find(order_id)

    @app.get("/unhandled")
    async def unhandled() -> None:
        raise RuntimeError("secret")

    @app.get("/down")
    async def down() -> None:
        raise ConnectionRefusedError("secret")

    @app.get("/sync")
    def sync() -> dict[str, int]:
        return {"table": 7}

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[str]:
            yield "a"
            yield "b"

        return StreamingResponse(parts())

    @app.get("/events", response_class=EventSourceResponse)
    async def events() -> AsyncIterator[dict[str, int]]:
        yield {"order": 1}

    @app.websocket("/socket")
    async def socket(connection: WebSocket) -> None:
        await connection.accept()
        await connection.send_text(await connection.receive_text())
        await connection.close()

    async def failing_check() -> str | None:
        raise ConnectionRefusedError("secret")

    app.add_middleware(RequestLoggingMiddleware)
    app.add_middleware(PerformanceMetricsMiddleware)
    app.add_middleware(ExceptionToResultMiddleware)
    install(app, allowed_hosts=["testserver"], readiness_checks={"database": failing_check})
    return app


async def everything(app: FastAPI) -> list[list[Message]]:
    """All messages that the service sends, for each request."""
    answers = [await request(app, method, target, headers=headers) for method, target, headers in REQUESTS]
    answers.append(await websocket(app, "/socket", ["hello"], {"X-Correlation-ID": ID}))
    return [answer.messages for answer in answers]


def targets() -> Iterator[tuple[str, object, str]]:
    """Every function and method of the telemetry: its name, its owner and the attribute that holds it."""
    for module in TELEMETRY:
        for name, member in vars(module).items():
            if getattr(member, "__module__", None) != module.__name__ or name in DECLARATIONS:
                continue
            if inspect.isfunction(member):
                yield f"{module.__name__}.{name}", module, name
            elif inspect.isclass(member) and not issubclass(member, BaseException) and not inspect.isabstract(member):
                for method, function in vars(member).items():
                    if inspect.isfunction(function) and not method.startswith("__") and not _is_protocol(member):
                        yield f"{module.__name__}.{name}.{method}", member, method
    yield "rfs.monitoring.context.current", context, "current"


def _is_protocol(kind: type) -> bool:
    return bool(getattr(kind, "_is_protocol", False))


class InjectedError(Exception):
    """The fault."""


def inject(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> list[None]:
    """Let *name* of *owner* raise, wherever it has been imported to; returns what grows with each call."""
    original = getattr(owner, name)
    called: list[None] = []

    def broken(*args: object, **kwargs: object) -> Any:
        called.append(None)
        raise InjectedError

    if not isinstance(owner, ModuleType):
        monkeypatch.setattr(owner, name, broken)
        return called
    for module in [module for key, module in sys.modules.items() if key.startswith("rfs.")]:
        for attribute, value in list(vars(module).items()):
            if value is original:
                monkeypatch.setattr(module, attribute, broken)
    return called


@pytest.fixture(autouse=True)
def standing_still() -> Generator[None]:
    """Times in bodies and headers do not move, however long it takes."""
    with VirtualTime(patience=600) as clock, clock.hold("the time stands still"):
        yield


class TestByteIdentical:
    async def test_whatever_breaks(self) -> None:
        """
        With an exception injected into any one function of the telemetry, all responses are what they were without.

        Each time once with a Monitor that has seen nothing yet, and once with one at work.
        """
        app = service()
        expected = await everything(app)
        changed: dict[str, int] = {}
        reached = 0

        for name, owner, attribute in targets():
            with monitor.use_monitor(monitor.Monitor()):
                for _ in range(2):
                    with pytest.MonkeyPatch.context() as patch:
                        called = inject(patch, owner, attribute)
                        answers = await everything(app)
                    reached += bool(called)
                    if answers != expected:
                        changed[name] = sum(a != b for a, b in zip(answers, expected, strict=True))

        assert changed == {}
        assert reached > 50  # else nothing was proven

    async def test_all_at_once(self) -> None:
        """
        The same holds when everything is broken together, but for the counter of such faults.
        """
        app = service()
        expected = await everything(app)

        with pytest.MonkeyPatch.context() as patch, monitor.use_monitor(monitor.Monitor()):
            for _, owner, attribute in list(targets()):
                if attribute != "internal_error":
                    inject(patch, owner, attribute)

            assert await everything(app) == expected
