"""
Middleware: context, request log, request metrics and the server span, in one pass.

`RequestMiddleware` does all of it; it is pure ASGI, for any ASGI app. The classes with the documents' names are it, with some
of its duties switched off. However many of them are in one app, each duty is done once per request, by the outermost that has it.

What a request leaves behind:

* the headers ``X-Request-ID`` and ``X-Correlation-ID`` on every response, a valid inbound one kept;
* records ``Request started`` and, when the last byte is handed to the server, ``Request completed``, which is also the server's span;
* ``http_requests_total``, ``http_request_duration_seconds``, ``http_requests_active``; an event stream instead counts in
  ``http_streams_active`` and ``http_stream_duration_seconds``, because its end says nothing about latency.

The query string, headers and bodies are never recorded. Nothing here raises into the app, and a fault of ours changes no byte.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.websockets import WebSocketDisconnect

from rfs.monitoring.context import RANDOM_IDS, Context, activate, current, is_valid_correlation_id, start_context
from rfs.monitoring.masking import JsonValue
from rfs.monitoring.monitor import Monitor, default_monitor
from rfs.web.fastapi._exchange import SCOPE_KEY, Exchange, correlation_id_of, count_internal_error, record_fault
from rfs.web.fastapi._routes import method_label, route_template
from rfs.web.fastapi.errors import APIError, error_body
from rfs.web.fastapi.response_helpers import CLIENT_CLOSED, PROCESSING_TIME, answer_unhandled

if TYPE_CHECKING:
    from rfs.monitoring._capture.instruments import BoundCounter, BoundGauge, BoundHistogram

__all__ = [
    "ErrorHandlerMiddleware",
    "ExceptionToResultMiddleware",
    "PerformanceMetricsMiddleware",
    "RequestLoggingMiddleware",
    "RequestMiddleware",
    "ResultLoggingMiddleware",
    "setup_result_middleware",
]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_REQUEST_ID = b"x-request-id"
_STREAMS = (b"text/event-stream", b"application/jsonl", b"application/x-ndjson", b"multipart/x-mixed-replace")
_ID_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-")

_LOG, _METRICS, _TIMING = 1, 2, 4


class _Series:
    """The metric series of one Monitor, bound on first use."""

    __slots__ = (
        "_durations",
        "_ended",
        "_requests",
        "_stream_durations",
        "monitor",
        "requests_active",
        "streams_active",
    )

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self._requests = monitor.counter("http_requests_total", "HTTP requests answered")
        self._durations = monitor.histogram(
            "http_request_duration_seconds", "From the first byte in to the last byte out"
        )
        self._stream_durations = monitor.histogram("http_stream_duration_seconds", "How long event streams stayed open")
        self.requests_active: BoundGauge = monitor.gauge(
            "http_requests_active", "HTTP requests being answered"
        ).labels()
        self.streams_active: BoundGauge = monitor.gauge("http_streams_active", "Event streams that are open").labels()
        self._ended: dict[tuple[str, str, int, bool], tuple[BoundCounter, BoundHistogram]] = {}

    def ended(self, method: str, route: str, status: int, stream: bool) -> tuple[BoundCounter, BoundHistogram]:
        key = (method, route, status, stream)
        bound = self._ended.get(key)
        if bound is None:
            counter = self._requests.labels(method=method, route=route, status=str(status))
            if stream:
                bound = counter, self._stream_durations.labels(route=route)
            else:
                bound = counter, self._durations.labels(method=method, route=route)
            self._ended[key] = bound
        return bound


class RequestMiddleware:
    """
    Everything that RFS does around a request.

    Args:
        app: The ASGI app to wrap. This middleware works at any place in a stack; outermost it sees most.
        exclude_paths: Paths that are not measured, and recorded only when they are not answered 2xx or 3xx.
        silent_prefixes: Paths (and all below) that are neither measured nor recorded; they still get their ids.
        slow_request_threshold: In seconds. A slower request is recorded as WARNING; None: none is.
        adopt_active_span: Whether an OpenTelemetry span that is already active is this request's parent.
        monitor: Where to record; by default the default one of that moment.
    """

    duties = _LOG | _METRICS

    def __init__(
        self,
        app: ASGIApp,
        *,
        exclude_paths: Iterable[str] = (),
        silent_prefixes: Iterable[str] = (),
        slow_request_threshold: float | None = None,
        adopt_active_span: bool = False,
        monitor: Monitor | None = None,
    ) -> None:
        self.app = app
        self._excluded = frozenset(exclude_paths)
        self._silent = tuple(prefix.rstrip("/") for prefix in silent_prefixes)
        self._slow_seconds = slow_request_threshold
        self._adopt_active_span = adopt_active_span
        self._monitor = monitor
        self._series: _Series | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, with everything around it."""
        kind = scope["type"]
        if kind != "http" and kind != "websocket":  # noqa: PLR1714 - every request comes here
            await self.app(scope, receive, send)
            return
        duties = self.duties
        outer = scope.get(SCOPE_KEY)
        if isinstance(outer, _Visit):
            duties &= ~outer.all_duties
            if not duties:
                await self.app(scope, receive, send)
                return
            outer.all_duties |= duties
        visit = self._arrive(scope, send, duties, outer if isinstance(outer, _Visit) else None)
        scope[SCOPE_KEY] = visit
        previous = visit.enter()
        try:
            await self.app(scope, receive, visit.send)
        except BaseException as exc:
            visit.left(exc)
            raise
        else:
            visit.left(None)
        finally:
            visit.leave(previous)
            if outer is not None:
                scope[SCOPE_KEY] = outer

    def _arrive(self, scope: Scope, send: Send, duties: int, outer: _Visit | None) -> _Visit:
        path = scope["path"]
        quiet = False
        if self._silent and path.startswith(self._silent) and self._is_silent(path):
            duties &= ~(_LOG | _METRICS)
        elif path in self._excluded:
            duties &= ~_METRICS
            quiet = True
        monitor = self._monitor
        try:
            if monitor is None:
                monitor = default_monitor()
            series = self._series
            if series is None or series.monitor is not monitor:
                series = self._series = _Series(monitor)
        except Exception as exc:  # noqa: BLE001 - telemetry may fail, the answer may not
            count_internal_error("web.monitor", exc)
            series = None
        visit = _Visit(scope, send, duties, quiet, self._slow_seconds, monitor, series)
        visit.all_duties = self.duties
        if outer is None:
            self._identify(visit, scope)
        else:
            visit.correlation_id, visit.request_id = outer.correlation_id, outer.request_id
            visit.context = outer.context
            visit.echoes = False
        visit.arrive()
        return visit

    def _is_silent(self, path: str) -> bool:
        return any(path == prefix or path.startswith(prefix + "/") for prefix in self._silent)

    def _identify(self, visit: _Visit, scope: Scope) -> None:
        request_id = correlation = traceparent = None
        custom = b"x-correlation-id"
        monitor = visit.monitor
        if monitor is not None and monitor.correlation_header != "X-Correlation-ID":
            custom = monitor.correlation_header.lower().encode("latin-1", "replace")
        visit.correlation_header = custom
        for name, value in scope["headers"]:
            if name == custom:
                correlation = value
            elif name == _REQUEST_ID:
                request_id = value
            elif name == b"traceparent":
                traceparent = value
        given_correlation = correlation.decode("latin-1") if correlation is not None else None
        given_request = request_id.decode("latin-1") if request_id is not None else None
        try:
            if given_request is not None and not is_valid_correlation_id(given_request):
                given_request = None
                _reject(monitor)
            if given_correlation is not None and not is_valid_correlation_id(given_correlation):
                given_correlation = None
                _reject(monitor)
            parent = traceparent.decode("latin-1") if traceparent is not None else None
            if self._adopt_active_span:
                parent = _active_traceparent() or parent
            ids = monitor.ids if monitor is not None else RANDOM_IDS
            if parent is None:
                # What `start_context` would make of it, and its server span, in one: most requests come here.
                trace_id = ids.trace_id()
                correlation_id = given_correlation or given_request or trace_id
                context = Context(correlation_id, trace_id, ids.span_id(), "", "", {})
            else:
                context = start_context(given_correlation or given_request, parent, ids).child("", ids.span_id())
            visit.context = context
            visit.correlation_id = context.correlation_id
        except Exception as exc:  # noqa: BLE001 - telemetry may fail, the answer may not
            count_internal_error("web.context", exc, monitor)
            # The ids are part of the answer: they must not depend on what has just failed.
            given_request = _kept(given_request)
            visit.correlation_id = _kept(given_correlation) or given_request or f"{id(visit):032x}"
        visit.request_id = given_request or visit.correlation_id


class _Visit(Exchange):
    """One request on its way through, and its answer on the way back."""

    __slots__ = (
        "_began",
        "_bytes",
        "_ended",
        "_measured",
        "_quiet",
        "_said",
        "_scope",
        "_send",
        "_series",
        "_slow_seconds",
        "_started",
        "_status",
        "_stream",
        "all_duties",
        "answered",
        "correlation_header",
        "deserted",
        "duties",
        "echoes",
        "path",
        "root_path",
    )

    def __init__(
        self,
        scope: Scope,
        send: Send,
        duties: int,
        quiet: bool,
        slow_seconds: float | None,
        monitor: Monitor | None,
        series: _Series | None,
    ) -> None:
        super().__init__("", "", None, monitor)
        self.correlation_header = b"x-correlation-id"
        self.echoes = True
        self.duties = self.all_duties = duties
        self.path: str = scope["path"]
        self.root_path: str = scope.get("root_path", "")
        self._scope = scope
        self._send = send
        self._quiet = quiet
        self._said: dict[str, JsonValue] | None = None  # masked, for both records
        self._slow_seconds = slow_seconds
        self._series = series
        self._status = 0
        self._bytes = 0
        self._stream = False
        self._began = False  # the answer
        self._ended = False
        self.answered = False  # whole
        self.deserted = False  # the client left, and the server said so
        self._measured = False
        self._started = 0.0

    # On the way in

    def enter(self) -> Context | None:
        """Make this request's context the current one; the previous one is given back to `leave`."""
        try:
            previous = current()
            if self.context is not None:
                activate(self.context)
        except Exception as exc:  # noqa: BLE001 - telemetry may fail, the answer may not
            count_internal_error("web.context", exc, self.monitor)
            return None
        return previous

    def leave(self, previous: Context | None) -> None:
        """Put the *previous* context back."""
        # The server holds the scope and the scope this visit: without the ways back all of it goes when the request does.
        # A circle would wait for the garbage collector, which cost 25 µs per request on uvicorn.
        del self._scope
        self._send = _nowhere
        try:
            if self.context is not None:
                activate(previous)
        except Exception as exc:  # noqa: BLE001 - telemetry may fail, the answer may not
            count_internal_error("web.context", exc, self.monitor)

    def arrive(self) -> None:
        """Count and record that the request came in."""
        monitor, series = self.monitor, self._series
        if monitor is None or series is None:
            return
        scope = self._scope
        if "app" in scope:
            scope.setdefault("rfs_app", scope["app"])  # a mounted app will put itself there; see `route_template`
        try:
            self._started = monitor.clock.monotonic()
            if self.duties & _METRICS:
                series.requests_active.inc()
                self._measured = True
            if self.duties & _LOG and not self._quiet and monitor.level <= logging.INFO:
                said = self._said = self._what_it_says(monitor)
                self._record(monitor, logging.INFO, "request_start", "Request started", "", "", None, said)
        except Exception as exc:  # noqa: BLE001 - telemetry may fail, the answer may not
            count_internal_error("web.arrive", exc, monitor)

    # On the way out

    async def send(self, message: Message) -> None:
        """ASGI's ``send``: adds the ids to the answer's head, and sees its end."""
        kind = message["type"]
        if kind == "http.response.start":
            self._status = message["status"]
            self._began = True
            message = self._with_ids(message)
        elif kind == "http.response.body":
            self._bytes += len(message.get("body", b""))
            # The last byte: everything is recorded before the client can know that it has its answer.
            if not message.get("more_body", False):
                self.answered = True
                self.complete("")
        elif kind == "websocket.accept":
            self._status = 101
            self._began = True
            message = self._with_ids(message)
            self._become_stream()
        elif kind == "websocket.close":
            if not self._began:
                self._status = 403
            self.complete("")
        elif kind == "http.response.pathsend":
            self.complete("")
        elif kind == "websocket.http.response.start":
            self._status = message["status"]
            message = self._with_ids(message)
        try:
            await self._send(message)
        except OSError:
            self.deserted = True
            raise

    def _with_ids(self, message: Message) -> Message:
        headers: list[tuple[bytes, bytes]] = list(message.get("headers", ()))
        correlation_header = self.correlation_header
        has_request_id = has_correlation_id = not self.echoes
        timed = not self.duties & _TIMING
        for name, value in headers:
            if name == b"content-type":
                if value.startswith(_STREAMS):
                    self._become_stream()
            elif name == _REQUEST_ID:
                has_request_id = True
            elif name == correlation_header:
                has_correlation_id = True
            elif name == b"x-processing-time-ms":
                timed = True
        if not has_request_id:
            headers.append((_REQUEST_ID, self.request_id.encode("latin-1")))
        if not has_correlation_id:
            headers.append((correlation_header, self.correlation_id.encode("latin-1")))
        if not timed:
            headers.append((PROCESSING_TIME.lower().encode(), str(int(self._elapsed() * 1000)).encode()))
        return {**message, "headers": headers}

    def _become_stream(self) -> None:
        if self._stream:
            return
        self._stream = True
        if self._measured and self._series is not None:
            try:
                self._series.requests_active.inc(-1)
                self._series.streams_active.inc()
            except Exception as exc:  # noqa: BLE001 - telemetry may fail, the answer may not
                count_internal_error("web.stream", exc, self.monitor)

    def left(self, exc: BaseException | None) -> None:
        """The app has returned or raised."""
        if self._ended:
            return
        if exc is None:
            if self._scope["type"] == "websocket":
                self.complete("")
            else:
                # An answer that was begun and not ended: the client is gone.
                self.complete("cancelled" if self._began else "failed")
        elif self.deserted or not isinstance(exc, Exception) or isinstance(exc, ClientDisconnect | WebSocketDisconnect):
            self.complete("cancelled")
        else:
            self.complete("failed")

    def _elapsed(self) -> float:
        try:
            return self.monitor.clock.monotonic() - self._started if self.monitor is not None else 0.0
        except Exception as exc:  # noqa: BLE001 - telemetry may fail, the answer may not
            count_internal_error("web.clock", exc, self.monitor)
            return 0.0

    def complete(self, outcome: str) -> None:
        """Measure and record the request, once. *outcome* is told by the status where it is empty."""
        if self._ended:
            return
        self._ended = True
        monitor, series, scope = self.monitor, self._series, self._scope
        if monitor is None or series is None or not self.duties & (_LOG | _METRICS):
            return
        try:
            now = monitor.clock.monotonic()
            elapsed = now - self._started
            status = self._status or (500 if outcome == "failed" else CLIENT_CLOSED)
            if status == CLIENT_CLOSED:
                outcome = "cancelled"
            method = _method(scope)
            label = method_label(method)
            route = route_template(scope, self.path, self.root_path)
            if self._measured:
                (series.streams_active if self._stream else series.requests_active).inc(-1)
                requests, durations = series.ended(label, route, status, self._stream)
                requests.inc()
                durations.observe(elapsed)
                context = self.context
                if now >= durations.exemplar_due and context is not None and context.sampled:
                    time_ns = monitor.clock.time_ns()
                    durations.keep_exemplar(elapsed, now, time_ns, context.trace_id, context.span_id)
            if not self.duties & _LOG or (self._quiet and status < 400):
                return
            slow = self._slow_seconds is not None and elapsed > self._slow_seconds and not self._stream
            if status >= 500 or outcome == "failed":
                level, outcome = logging.ERROR, "failed"
            else:
                level, outcome = logging.WARNING if slow else logging.INFO, outcome or "ok"
            if level < monitor.level:
                return
            fields = self._said or self._what_it_says(monitor)
            fields["route"] = route
            fields["status_code"] = status
            fields["response_bytes"] = self._bytes
            if slow:
                fields["slow"] = True
            operation = f"{label} {route}"
            self._record(monitor, level, "request", "Request completed", operation, outcome, elapsed, fields)
        except Exception as exc:  # noqa: BLE001 - telemetry may fail, the answer may not
            count_internal_error("web.complete", exc, monitor)

    def _what_it_says(self, monitor: Monitor) -> dict[str, JsonValue]:
        """What the request itself says, masked; a request id that is the correlation id, too, is on the record anyway."""
        scope, masked = self._scope, monitor.masker.text
        client, request_id = scope.get("client"), self.request_id
        return {
            "request_id": request_id if request_id == self.correlation_id else masked(request_id),
            "method": masked(_method(scope)),
            "path": masked(self.path),
            "client_ip": masked(client[0]) if client else None,
        }

    def _record(
        self,
        monitor: Monitor,
        level: int,
        kind: str,
        message: str,
        operation: str,
        outcome: str,
        seconds: float | None,
        fields: dict[str, JsonValue],
    ) -> None:
        context = self.context
        if context is not None:
            operation = operation or context.operation
            if context.fields:
                fields = {**monitor.masker.fields(context.fields), **fields}
        monitor.keep(context, level, kind, "rfs.web", operation, "", message, outcome, seconds, fields, None)


class OutermostMiddleware(RequestMiddleware):
    """
    `RequestMiddleware` outside even the framework's own error handler: what `install` puts around an app.

    An exception that was answered ends here: it is in the records with its masked stack, and the server's log would print it
    unmasked. One whose answer was not completed goes on, so that the server breaks the connection.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, and let nothing out of it that has been dealt with."""
        try:
            await super().__call__(scope, receive, send)
        except ClientDisconnect:
            return  # nobody is left to be answered; recorded as cancelled
        except Exception as exc:
            visit = scope.get(SCOPE_KEY)
            if not isinstance(visit, _Visit) or scope["type"] != "http":
                raise
            if not visit.deserted and not (record_fault(scope, "Unhandled exception", exc) and visit.answered):
                raise


class RequestLoggingMiddleware(RequestMiddleware):
    """The request log of the operability design: ids, ``Request started``, ``Request completed``."""

    duties = _LOG


class ResultLoggingMiddleware(RequestMiddleware):
    """The request log, and ``X-Processing-Time-MS`` on every response."""

    duties = _LOG | _TIMING


class PerformanceMetricsMiddleware(RequestMiddleware):
    """Request metrics; with *slow_request_threshold* (seconds) also one WARNING per slow request."""

    duties = _METRICS


class ErrorHandlerMiddleware:
    """
    Answers exceptions that nobody handled by ``detail`` and ``error_code``: 503 if something cannot be reached, else 500.

    The exception is recorded with its masked stack and ends here, unless the answer had already begun.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on; answer if it raises."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = False

        async def watch(message: Message) -> None:
            nonlocal began
            began = began or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except Exception as exc:
            if began or isinstance(exc, ClientDisconnect):
                raise
            response = await self.answer(Request(scope), exc)
            await response(scope, receive, send)

    async def answer(self, request: Request, exc: Exception) -> ASGIApp:
        """The response for *exc*."""
        return await answer_unhandled(request, exc)


class ExceptionToResultMiddleware(ErrorHandlerMiddleware):
    """
    Answers exceptions that nobody handled like a failed Result: ``code``, ``message``, ``details``, ``timestamp``, ``path``.

    Args:
        debug: Whether the client is told the exception's own text. Only where every client may know everything.
    """

    def __init__(self, app: ASGIApp, *, debug: bool = False) -> None:
        super().__init__(app)
        self._debug = debug

    async def answer(self, request: Request, exc: Exception) -> ASGIApp:
        """The response for *exc*."""
        told = APIError.from_failure(exc)
        if told is not exc:
            record_fault(request.scope, "Unhandled exception", exc)
            if self._debug:
                told = APIError(told.code, f"{type(exc).__name__}: {exc}", told.details, told.status_code)
        body = {**error_body(told, correlation_id_of(request.scope)), "path": request.scope["path"]}
        return JSONResponse(body, told.status_code, told.headers)


def setup_result_middleware(
    app: FastAPI,
    *,
    enable_logging: bool = True,
    enable_exception_handling: bool = True,
    enable_metrics: bool = True,
    logging_config: Mapping[str, Any] | None = None,
    exception_config: Mapping[str, Any] | None = None,
    metrics_config: Mapping[str, Any] | None = None,
) -> None:
    """
    Add the middleware one by one, for an app that is not given to `install` whole.

    Args:
        logging_config: Arguments of `ResultLoggingMiddleware`.
        exception_config: Arguments of `ExceptionToResultMiddleware`.
        metrics_config: Arguments of `PerformanceMetricsMiddleware`.

    Raises:
        TypeError: A configuration has an unknown key.
    """
    wanted: list[tuple[bool, Any, Mapping[str, Any]]] = [
        (enable_exception_handling, ExceptionToResultMiddleware, exception_config or {}),
        (enable_metrics, PerformanceMetricsMiddleware, metrics_config or {}),
        (enable_logging, ResultLoggingMiddleware, logging_config or {}),
    ]
    for enabled, middleware, arguments in wanted:
        if enabled:
            middleware(app, **arguments)  # a wrong argument is told now, not at the first request
            app.add_middleware(middleware, **arguments)


async def _nowhere(message: Message) -> None:
    """Where a message goes that is sent after the app has returned: the server would not take it either."""


def _method(scope: Scope) -> str:
    method: str = scope.get("method", "GET")  # a WebSocket's handshake is a GET
    return method


def _reject(monitor: Monitor | None) -> None:
    """Count an inbound id that cannot be kept."""
    if monitor is not None:
        monitor.reject("correlation_id", "invalid_value")


def _kept(given: str | None) -> str:
    """*given* if it may be echoed: the rule of `is_valid_correlation_id`, without asking it."""
    return given if given and len(given) <= 64 and _ID_CHARACTERS.issuperset(given) else ""


def _active_traceparent() -> str | None:
    """The OpenTelemetry span that is active now, if its package is loaded and there is one."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    span = trace.get_current_span().get_span_context()
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{int(span.trace_flags):02x}" if span.is_valid else None
