"""What a service is otherwise observed with: structlog for the records, prometheus_client for RED, OpenTelemetry for the span."""

from __future__ import annotations

from time import perf_counter

import orjson
import structlog
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from structlog.contextvars import bind_contextvars, clear_contextvars

from benchmarks.corpus import CORRELATION_ID, ORDER_IDS, RING
from benchmarks.worker import timed_async


class _NullExporter(SpanExporter):
    def export(self, spans: object) -> SpanExportResult:  # noqa: ARG002 - dropped
        return SpanExportResult.SUCCESS


_provider = TracerProvider()
_provider.add_span_processor(BatchSpanProcessor(_NullExporter()))
_tracer = _provider.get_tracer("bench")

_registry = CollectorRegistry()
_active = Gauge("operations_active", "", ["operation"], registry=_registry).labels("order.place")
_ended = Counter("operations", "", ["operation", "outcome"], registry=_registry)
_succeeded, _failed = _ended.labels("order.place", "ok"), _ended.labels("order.place", "failed")
_durations = Histogram("operation_duration_seconds", "", ["operation"], registry=_registry).labels("order.place")

structlog.configure(
    cache_logger_on_first_use=True,
    wrapper_class=structlog.make_filtering_bound_logger(20),
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.JSONRenderer(serializer=orjson.dumps),
    ],
    logger_factory=structlog.BytesLoggerFactory(open("/dev/null", "wb")),  # noqa: SIM115 - kept open as a log is
)
_log = structlog.get_logger()


async def _place_order(order_id: str, table: str) -> str:
    with _tracer.start_as_current_span("order.place") as span:
        _active.inc()
        started = perf_counter()
        context = span.get_span_context()
        trace_id, span_id = f"{context.trace_id:032x}", f"{context.span_id:016x}"
        _log.info(
            "Operation started",
            operation="order.place",
            trace_id=trace_id,
            span_id=span_id,
            order_id=order_id,
            table=table,
        )
        try:
            result = order_id
        except Exception:
            _failed.inc()
            raise
        else:
            _succeeded.inc()
        finally:
            seconds = perf_counter() - started
            _durations.observe(seconds)
            _active.dec()
        _log.info("Operation completed", operation="order.place", trace_id=trace_id, span_id=span_id, seconds=seconds)
        return result


async def _operate(count: int) -> None:
    bind_contextvars(correlation_id=CORRELATION_ID)
    for number in range(count):
        await _place_order(ORDER_IDS[number & RING], "T12")
    clear_contextvars()


LOOPS = {"operation": timed_async(_operate)}
