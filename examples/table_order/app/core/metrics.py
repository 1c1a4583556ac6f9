"""
The service's figures, under the names that its design document gives them.

Nothing is counted here twice: a figure is an instrument of RFS, and what this
module returns is what RFS's one read path says. Requests are counted by the
middleware that RFS installs; :meth:`ApplicationMetrics.record_request` adds the
ones that did not come over HTTP.
"""

from __future__ import annotations

from typing import Final, Protocol

from app.models.tables import OrderStatus
from rfs.monitoring.monitor import Monitor, default_monitor

SINCE_START: Final = "30d"  # the longest range there is; this process is younger
_NOT_HTTP: Final = "_OTHER"


class Times(Protocol):
    """What is known of many durations without keeping each: exact to 1 %."""

    @property
    def mean(self) -> float: ...

    def quantile(self, q: float, /) -> float: ...


class ApplicationMetrics:
    """
    What the service measures, and what it has measured since it started.

    Args:
        monitor: Where to; None means RFS's default one, looked up at each use.

    The verbs never raise and may be called from any thread.
    """

    def __init__(self, monitor: Monitor | None = None) -> None:
        self._given = monitor

    @property
    def _monitor(self) -> Monitor:
        return self._given or default_monitor()

    def declare(self) -> None:
        """Make the figures known, so that they read 0 and not unknown before the first guest."""
        monitor = self._monitor
        monitor.counter("orders_created_total", "Orders placed").inc(0)
        entered = monitor.counter("orders_total", "Orders that entered a status", ("status",))
        for status in OrderStatus:
            entered.inc(0, status=status.value)
        monitor.gauge("sse_connections", "Streams open now", across="sum").set(0)
        monitor.counter("sse_events_total", "Events that streams tried to send").inc(0)
        monitor.counter("sse_events_sent_total", "Events that streams handed over").inc(0)
        monitor.counter("sse_events_failed_total", "Events that a stream could not hand over").inc(0)

    def record_request(self, endpoint: str, status_code: int, duration_ms: float) -> None:
        """Count a request that no middleware saw; *endpoint* is a route's template, not a path with ids."""
        labels = {"method": _NOT_HTTP, "route": endpoint}
        monitor = self._monitor
        requests = monitor.counter("http_requests_total", labels=("method", "route", "status"))
        requests.inc(1, **labels, status=str(status_code))
        durations = monitor.histogram("http_request_duration_seconds", labels=("method", "route"))
        durations.observe(duration_ms / 1000, **labels)

    def order_entered(self, status: OrderStatus) -> None:
        """Count an order that entered *status*."""
        monitor = self._monitor
        if status is OrderStatus.CREATED:
            monitor.counter("orders_created_total").inc()
        monitor.counter("orders_total", labels=("status",)).inc(1, status=status.value)

    def streams_open(self, count: int) -> None:
        """Say how many streams are open in this process; what is shown is the sum over all of them."""
        self._monitor.gauge("sse_connections", across="sum").set(count)

    def events_sent(self, count: int) -> None:
        """Count events that a client's connection took."""
        self._monitor.counter("sse_events_total").inc(count)
        self._monitor.counter("sse_events_sent_total").inc(count)

    def events_failed(self, count: int) -> None:
        """Count events that a client's connection did not take; it can ask for them again."""
        self._monitor.counter("sse_events_total").inc(count)
        self._monitor.counter("sse_events_failed_total").inc(count)

    @property
    def total_requests(self) -> int:
        """Requests answered."""
        return self._total("http_requests_total")

    @property
    def requests_by_endpoint(self) -> dict[str, int]:
        """Requests answered, by route template."""
        return self._by("http_requests_total", "route")

    @property
    def requests_by_status(self) -> dict[int, int]:
        """Requests answered, by HTTP status."""
        return {int(status): count for status, count in self._by("http_requests_total", "status").items()}

    @property
    def response_times(self) -> Times | None:
        """How long the requests took, in seconds, streams left out; None before the first."""
        times = self._monitor.query.distribution("http_request_duration_seconds", SINCE_START)
        return None if times is None or times.count == 0 else times

    @property
    def active_sse_connections(self) -> int:
        """Streams open now, at all workers."""
        return int(self._monitor.query.latest("sse_connections") or 0)

    @property
    def total_sse_events_sent(self) -> int:
        """Events that streams handed over."""
        return self._total("sse_events_sent_total")

    @property
    def orders_created(self) -> int:
        """Orders placed."""
        return self._total("orders_created_total")

    @property
    def orders_by_status(self) -> dict[str, int]:
        """How many orders ever entered each status."""
        return self._by("orders_total", "status")

    def _total(self, name: str) -> int:
        return int(self._monitor.query.increase(name, SINCE_START) or 0)

    def _by(self, name: str, label: str) -> dict[str, int]:
        return {value: int(count) for value, count in self._monitor.query.increase_by(name, label, SINCE_START).items()}


metrics = ApplicationMetrics()
