"""An evening's work that the tests of the dashboard know by heart, on a clock that is moved by hand."""

from __future__ import annotations

from rfs.core.result import Failure, Result, Success
from rfs.monitoring.dashboard_api import Indicator
from rfs.monitoring.monitor import Monitor
from rfs.monitoring.result_logging import CorrelationContext, log_result_operation
from rfs.testing.virtual_time import VirtualTime


class OrderError(Exception):
    """A failure with a code, as a service has them."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


INDICATORS = (
    Indicator(
        "p95", "p95 response time", "P95 응답 시간", "http_request_duration_seconds", "p95", unit="seconds", threshold=1
    ),
    Indicator(
        "errors",
        "Error ratio (5xx)",
        "오류율 (5xx)",
        "http_requests_total",
        "ratio",
        labels={"status": "5*"},
        denominator="http_requests_total",
        threshold=0.01,
    ),
    Indicator("orders", "Orders per hour", "시간당 주문 수", "orders_total", "increase", window="1h"),
    Indicator("connections", "SSE connections", "SSE 연결 수", "sse_connections", labels={"store": "*"}),
    Indicator("never", "Never measured", "측정된 적 없음", "never_total", "increase", threshold=5),
)


def work(monitor: Monitor, clock: VirtualTime) -> None:
    """
    Ten orders of 10 ms, of which two are sold out and one times out; five looks at the menu of 2 ms; twenty requests.

    All of it within one second of the clock. The orders' correlation ids are ``table-0`` … ``table-9``.
    """

    @log_result_operation("order.create")
    def create(number: int) -> Result[int, OrderError]:
        clock.advance(0.010)
        if number in (3, 4):
            return Failure(OrderError("SOLD_OUT", "the soup is sold out"))
        if number == 5:
            return Failure(OrderError("TIMEOUT", "the kitchen did not answer"))
        return Success(number)

    @log_result_operation("menu/list")
    def menu() -> Result[str, OrderError]:
        clock.advance(0.002)
        return Success("soup")

    requests = monitor.counter("http_requests_total")
    durations = monitor.histogram("http_request_duration_seconds")
    for number in range(10):
        with CorrelationContext(f"table-{number}"):
            create(number)
    for _ in range(5):
        menu()
    for status, seconds in [("200", 0.1)] * 17 + [("404", 0.1)] * 2 + [("503", 3.0)]:
        requests.inc(1, method="POST", route="/orders/{id}", status=status)
        durations.observe(seconds, method="POST", route="/orders/{id}")
    monitor.gauge("http_requests_active").set(2)
    monitor.counter("orders_total").inc(7)
    monitor.gauge("sse_connections").set(3, store="a")
    monitor.gauge("sse_connections").set(4, store="b")
