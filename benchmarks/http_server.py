"""
One JSON route on uvicorn with uvloop and httptools, observed in one of several ways.

``python -m benchmarks.http_server bare`` prints its port and serves until standard input ends. With ``--profile`` it then
prints where the time went. The variants `rfs`, `rfs_printed` and `rfs_worker` run in RFS' own environment, the others in that of `stack`;
`bare` in both. `rfs_worker` is one of several in the directory that ``RFS_DIR`` names, with 1,000 series of counters, 100 of histograms and 20
alert rules; it tells under ``/leads`` whether it leads, itself or by its helper, and which process that is.
Logs go to the null device, so that no terminal is measured.
"""

from __future__ import annotations

import cProfile
import os
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import uvicorn
from fastapi import FastAPI


def _rfs(app: FastAPI) -> None:
    from rfs.web.fastapi import install

    install(app)


def _rfs_printed(app: FastAPI) -> None:
    from rfs.monitoring import configure_result_logging

    configure_result_logging(stream=open(os.devnull, "w"))  # noqa: SIM115 - kept open as a log is
    _rfs(app)


def declare_rules() -> None:
    """The rules of `rfs_worker`, which never fire."""
    from rfs.monitoring import AlertCondition, create_alert_rule

    for number in range(10):
        for metric in (f"bench_{number}_requests_total", f"bench_{number}_wait_seconds"):
            create_alert_rule(metric, metric, AlertCondition.GREATER_THAN, 1e12)


def _rfs_worker(app: FastAPI) -> None:
    from benchmarks.corpus import SECONDS
    from benchmarks.exposed import counters, histograms
    from rfs.monitoring import default_monitor

    _rfs(app)
    declare_rules()
    monitor = default_monitor()
    counted = [monitor.counter(f"{metric}_total", "Requests").labels(route=route) for metric, route, _ in counters()]
    waits = [monitor.histogram(metric, "Wait").labels(route=route) for metric, route, _ in histograms()]

    class Measuring:
        """Every request moves two series, so that under load all of them move each second."""

        def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
            self.app = app
            self.numbers = count()

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            number = next(self.numbers)
            counted[number % 1_000].inc()
            waits[number % 100].observe(SECONDS[number % len(SECONDS)])
            await self.app(scope, receive, send)

    app.add_middleware(Measuring)

    @app.get("/leads")
    async def leads() -> tuple[str, int]:
        leader, helper = monitor.leadership, monitor.helper_pid
        return "itself" if leader.is_self else "by its helper" if helper and leader.pid == helper else "", helper


def _access_log(app: FastAPI) -> None:
    """Structlog with orjson, one line per request with its correlation id, as a pure ASGI middleware."""
    from time import perf_counter

    import orjson
    import structlog
    from asgi_correlation_id import CorrelationIdMiddleware, correlation_id

    structlog.configure(
        cache_logger_on_first_use=True,
        wrapper_class=structlog.make_filtering_bound_logger(20),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(serializer=orjson.dumps),
        ],
        logger_factory=structlog.BytesLoggerFactory(open(os.devnull, "wb")),  # noqa: SIM115 - kept open as a log is
    )
    log = structlog.get_logger()

    class AccessLog:
        def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                await self.app(scope, receive, send)
                return
            started = perf_counter()
            status = 0

            async def watch(message: Any) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            try:
                await self.app(scope, receive, watch)
            finally:
                log.info(
                    "request",
                    correlation_id=correlation_id.get(),
                    method=scope["method"],
                    path=scope["path"],
                    client=scope["client"][0],
                    status=status,
                    seconds=perf_counter() - started,
                )

    app.add_middleware(AccessLog)
    app.add_middleware(CorrelationIdMiddleware)


def _metrics(app: FastAPI) -> None:
    from prometheus_fastapi_instrumentator import Instrumentator

    Instrumentator().instrument(app).expose(app)


def _traces(app: FastAPI) -> None:
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class NullExporter(SpanExporter):
        def export(self, spans: object) -> SpanExportResult:  # noqa: ARG002 - dropped
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(NullExporter()))
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider, exclude_spans=["send", "receive"])


def _all_three(app: FastAPI) -> None:
    _access_log(app)
    _metrics(app)
    _traces(app)


VARIANTS: dict[str, Callable[[FastAPI], None]] = {
    "bare": lambda _: None,
    "rfs": _rfs,
    "rfs_printed": _rfs_printed,
    "rfs_worker": _rfs_worker,
    "access_log": _access_log,
    "metrics": _metrics,
    "all_three": _all_three,
}


def make_app(variant: str) -> FastAPI:
    """Return the app with its one route."""
    app = FastAPI()

    @app.get("/orders/{order_id}")
    async def read_order(order_id: int) -> dict[str, object]:
        return {"order_id": order_id, "table": "T12", "status": "cooking", "amount_won": 12500}

    VARIANTS[variant](app)
    return app


def main(variant: str, profiled: bool) -> None:
    """Serve *variant* on a free port of the loopback interface until standard input ends."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)  # from here on connections wait for the server, should they be earlier
    config = uvicorn.Config(make_app(variant), loop="uvloop", http="httptools", access_log=False, log_level="warning")
    server = uvicorn.Server(config)

    def stop_at_end_of_input() -> None:
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=stop_at_end_of_input, daemon=True).start()
    print(listener.getsockname()[1], flush=True)
    if not profiled:
        server.run(sockets=[listener])
        return
    from benchmarks.profiling import spent_by_function

    profile = cProfile.Profile()
    profile.runcall(server.run, sockets=[listener])
    print(spent_by_function(profile, "read_order"), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], "--profile" in sys.argv)
