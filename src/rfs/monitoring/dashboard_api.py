"""
The monitoring routes, and the page that shows what they answer.

``router`` is a plain router: a host mounts it under its own protection
(``app.include_router(router, prefix="/monitoring")``), ``install(app)`` mounts
one protected. It guards nothing itself. Nothing in ``rfs.monitoring`` imports
this module: it belongs to the web layer and is kept where the documents name it.

Everything is read through the monitor's ``query``, in a worker thread and never
more than four readings at once, so that looking does not hold up the host. What
is unknown is null, never 0 and never NaN. A request that cannot be read is
answered by 422 with ``details.field``. Percentiles come from sketches with at
most 1 % relative error; durations are in milliseconds where the name says so.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from itertools import zip_longest
from math import ceil, isfinite
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec
from anyio import CapacityLimiter, move_on_after, to_thread
from anyio.lowlevel import RunVar
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, field_validator
from typing_extensions import TypedDict

from rfs.errors import (
    AlertRuleError,
    CursorError,
    MetricDefinitionError,
    QueryBusyError,
    QueryError,
    QueryTimeoutError,
    StoreError,
    TimeRangeError,
)
from rfs.monitoring._query import (
    DURATIONS,
    ERRORS_BY_TYPE,
    FAILURES,
    MAX_ROWS_ASKED_FOR,
    SUCCESSES,
    Prefix,
    parse_time_range,
)
from rfs.monitoring.alerts import Aggregation, AlertCondition, NoData, Rule, Severity
from rfs.monitoring.context import is_valid_correlation_id
from rfs.monitoring.metrics import MetricType, get_dashboard_data
from rfs.monitoring.monitor import Monitor, default_monitor

if TYPE_CHECKING:
    from rfs.monitoring._capture.record import LogRecord
    from rfs.monitoring._query import Distribution, Group
    from rfs.monitoring._query import Query as MonitorQuery
    from rfs.monitoring._standing import Standing

__all__ = ["AlertConfiguration", "Indicator", "create_router", "router"]

_T = TypeVar("_T")

_READINGS_AT_ONCE = 4
_POINTS = 60  # of one sparkline, whatever its range
_MOST_ROWS = 50  # of operations and of routes; how many there are is always told
_MOST_TRENDS = 20  # rows with a sparkline
_LONGEST_MESSAGE = 400  # characters of a message in a list; the record itself has all
_MOST_RECORDS = 1000
_MOST_HOURS = 720
_HIGHEST_LEVEL = 100
_BOUNDS = {"limit": (1, _MOST_RECORDS), "hours": (1, _MOST_HOURS), "min_level": (0, _HIGHEST_LEVEL)}

_RATE_WINDOW = "1m"
_RATE_SECONDS = 60

SECURITY_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "accelerometer=(), camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cache-Control": "no-store",
}

_ASSETS = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "messages.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


# --- what a host configures -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Indicator:
    """
    One number that a service wants to see on its page, and the bound it should stay below.

    Args:
        key: Stable name in the JSON.
        title_en: Heading in English.
        title_ko: Heading in Korean.
        metric: The metric that is read.
        kind:
            ``increase`` of a counter, ``latest`` value of a gauge, ``ratio`` of the increases of two counters, or
            ``mean``, ``p95``, ``p99`` of a histogram.
        window: The time it looks back: ``"5m"``, ``"1h"``.
        denominator: For a ratio, the metric below the line.
        labels:
            Which series count. One value may end in ``*``, and the series it matches are added up: ``{"status": "5*"}``
            of a counter, ``{"store": "*"}`` of a gauge (without it, a gauge is its series that was written last).
        denominator_labels: The same, for the denominator.
        unit:
            ``seconds``, ``milliseconds``, ``ratio`` and ``bytes`` are written out on the page; another word is only in the
            JSON, since the title says it in both languages. A ratio is always ``ratio``.
        threshold: In the metric's unit. The indicator is over when its value is not below it; None: only watched.

    Raises:
        MetricDefinitionError: A part is missing or contradicts another; the message says which.
        TimeRangeError: *window* cannot be read.
    """

    key: str
    title_en: str
    title_ko: str
    metric: str
    kind: Literal["increase", "latest", "ratio", "mean", "p95", "p99"] = "latest"
    window: str = "5m"
    denominator: str = ""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    denominator_labels: Mapping[str, str] = field(default_factory=dict[str, str])
    unit: str = ""
    threshold: float | None = None

    def __post_init__(self) -> None:
        if not (self.key and self.title_en and self.title_ko and self.metric):
            raise MetricDefinitionError(self.metric, "an indicator needs key, title_en, title_ko and metric")
        if (self.kind == "ratio") != bool(self.denominator):
            raise MetricDefinitionError(self.metric, "a ratio, and nothing else, needs a denominator")
        if self.threshold is not None and not isfinite(self.threshold):
            raise MetricDefinitionError(self.metric, f"threshold must be finite, not {self.threshold}")
        for labels in (self.labels, self.denominator_labels):
            starred = [label for label, value in labels.items() if value.endswith("*")]
            if len(starred) > 1:
                raise MetricDefinitionError(self.metric, f"only one label may end in *, not {', '.join(starred)}")
            if starred and self.kind in {"mean", "p95", "p99"}:
                raise MetricDefinitionError(self.metric, f"label {starred[0]!r}: a histogram cannot be read with *")
        parse_time_range(self.window)


class AlertConfiguration(BaseModel):
    """
    An alert rule as ``POST alerts/configure`` takes it: the fields of `Rule`, checked there.

    If there is a rule of that name, fields left out keep their value.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    metric_name: str
    condition: AlertCondition
    threshold: FiniteFloat
    labels: dict[str, str] = Field(default_factory=dict, max_length=64)
    aggregation: Aggregation | None = None
    window_seconds: FiniteFloat = 300
    for_seconds: FiniteFloat = 0
    keep_firing_for_seconds: FiniteFloat = 0
    clear_threshold: FiniteFloat | None = None
    cooldown_seconds: FiniteFloat = 300
    no_data: NoData = NoData.KEEP
    severity: Severity = Severity.WARNING
    runbook_url: str = Field(default="", max_length=2000)

    @field_validator("condition", "aggregation", "no_data", "severity", mode="before")
    @classmethod
    def _in_any_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value


# --- what is answered -------------------------------------------------------------------------------------------------

# One value per step, the oldest first; the last step is the present one. None: nothing was collected in it.
Points = list[float | None]


class Problem(TypedDict):
    """Body of every answer that is not 2xx."""

    code: str
    message: str
    details: dict[str, object]
    timestamp: str


class HealthBody(TypedDict):
    """
    ``degraded`` means: monitoring is off, or an alert of critical severity fires, whichever process evaluates the rules.

    ``unknown``, with null for both numbers: no process tells which alerts are active.
    """

    status: Literal["healthy", "degraded", "unknown"]
    active_alerts: int | None
    critical_alerts: int | None
    monitoring_active: bool
    timestamp: str


class OperationBody(TypedDict):
    """One operation in a time range, with the documented names."""

    operation_name: str
    time_window: str
    total_requests: int
    successful_requests: int
    failed_requests: int
    success_rate: float | None
    throughput_per_second: float | None
    avg_response_time_ms: float | None
    p50_response_time_ms: float | None
    p90_response_time_ms: float | None
    p95_response_time_ms: float | None
    p99_response_time_ms: float | None
    max_response_time_ms: float | None
    error_breakdown: dict[str, int]
    top_errors: list[tuple[str, int]]
    avg_memory_usage_mb: float | None
    avg_cpu_usage_percent: float | None
    hourly_distribution: dict[int, int]


class ErrorBody(TypedDict):
    """One kind of failure of one operation; message, time and id are of the newest one whose record is still kept."""

    operation: str
    error_code: str
    error_type: str
    message: str | None
    count: int
    last_seen: str | None
    correlation_id: str | None


class FailingOperation(TypedDict):
    """An operation that failed at least once within the range."""

    operation_name: str
    total: int
    failed: int
    failure_ratio: float | None


class ResultPatternHealth(TypedDict):
    """How Results go over the last hour: all operations together, and those that fail."""

    status: Literal["healthy", "degraded", "unknown"]
    time_range: str
    operations: int
    total_results: int
    success_total: int
    failure_total: int
    success_rate: float | None
    failing_operations: list[FailingOperation]
    top_error_codes: dict[str, int]
    timestamp: str


class Latency(TypedDict):
    """How long requests or operations took, in milliseconds; null where none ended within the range."""

    mean_ms: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    max_ms: float | None


class Traffic(Latency):
    """
    Requests or operations of one kind.

    ``total``, ``failed`` (of requests: answered 5xx) and the percentiles are over the asked range, ``per_second`` over
    the last minute, ``active`` is now. ``points`` are increases per step, null where nothing was collected.
    """

    total: float | None
    failed: float | None
    error_ratio: float | None
    per_second: float | None
    active: float | None
    points: Points
    failed_points: Points


class Requests(Traffic):
    """All requests; ``client_errors`` were answered 4xx, ``streams`` are open now and in none of the other numbers."""

    client_errors: float | None
    client_error_ratio: float | None
    streams: float | None


class OperationRow(Traffic):
    """One operation."""

    operation: str


class RouteRow(Traffic):
    """One route by method and template; how many of its requests are active is not known."""

    method: str
    route: str


class IndicatorBody(TypedDict):
    """An `Indicator` and what it reads; ``watch`` means known and without a threshold."""

    key: str
    title: dict[str, str]
    metric: str
    kind: str
    unit: str
    window: str
    value: float | None
    threshold: float | None
    state: Literal["ok", "over", "unknown", "watch"]
    points: Points


class RecordRow(TypedDict):
    """A record in a list: its message is cut, its fields are left out."""

    cursor: str
    timestamp: str
    level: str
    logger: str
    kind: str
    operation: str
    step: str
    message: str
    correlation_id: str
    outcome: str
    duration_ms: float | None
    error_code: str


class Overview(TypedDict):
    """
    Everything that the page's first view shows, of one instant.

    ``alerts`` are those of the whole service, of hundreds the first; ``alert_rules`` is how many are evaluated. Both are null
    where ``health`` does not know of alerts.
    """

    service: str
    timestamp: str
    time_range: str
    range_seconds: float
    step_seconds: float
    health: HealthBody
    requests: Requests
    operations_total: Traffic
    operations: list[OperationRow]
    operations_known: int
    routes: list[RouteRow]
    routes_known: int
    errors: list[ErrorBody]
    alerts: list[dict[str, Any]] | None
    alert_rules: int | None
    indicators: list[IndicatorBody]
    records: list[RecordRow]
    books: dict[str, dict[str, float]]


class RecordsBody(TypedDict):
    """Records as their JSON lines have them, each with its cursor."""

    records: list[dict[str, Any]]


class CorrelationBody(TypedDict):
    """All kept records of one correlation id, oldest first; *truncated* when there are more than fit."""

    correlation_id: str
    records: list[dict[str, Any]]
    truncated: bool


# --- reading ----------------------------------------------------------------------------------------------------------


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _now(monitor: Monitor) -> str:
    return _iso(datetime.fromtimestamp(monitor.clock.time_ns() / 1e9, UTC))


def _divide(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def _known(value: float | None) -> float | None:
    return None if value is None or not isfinite(value) else value


def _rate(increase: float | None) -> float | None:
    return None if increase is None else increase / _RATE_SECONDS


def _selected(labels: Mapping[str, str]) -> dict[str, str | Prefix]:
    return {label: Prefix(value[:-1]) if value.endswith("*") else value for label, value in labels.items()}


def _latest(query: MonitorQuery, metric: str, labels: Mapping[str, str]) -> float | None:
    starred = next((label for label, value in labels.items() if value.endswith("*")), None)
    if starred is None:
        return query.latest(metric, labels)
    prefix = labels[starred].removesuffix("*")
    named = (value for value in query.label_values(metric, starred) if value.startswith(prefix))
    known = [value for one in named if (value := query.latest(metric, {**labels, starred: one})) is not None]
    return sum(known) if known else None


def _points(query: MonitorQuery, metric: str, window: str, step: float, labels: Mapping[str, str]) -> Points:
    """Increase per step (last value of a gauge); with a starred label, the sum over the values it matches."""
    return [point.value for point in query.points(metric, window, step, _selected(labels))]


def _sum_points(lines: Iterable[Points]) -> Points:
    # By the end: lines that were read a moment apart may differ by one step at their beginning.
    sums: Points = []
    for line in lines:
        sums = [_sum(one, other) for one, other in zip_longest(reversed(sums), reversed(line))][::-1]
    return sums


def _sum(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other


def _divide_points(part: Points, whole: Points) -> Points:
    pairs = zip_longest(reversed(whole), reversed(part))
    return [_divide(above or 0, below) for below, above in pairs][::-1]


def _step(window: str) -> float:
    return max(1.0, ceil(parse_time_range(window).seconds / _POINTS))


class _Moment:
    """A Query at one moment; a distribution is added up once, however many of its figures are shown."""

    def __init__(self, query: MonitorQuery) -> None:
        self.query = query.settled()
        self._distributions: dict[tuple[str, str, frozenset[tuple[str, str]]], Distribution | None] = {}

    def distribution(self, metric: str, window: str, labels: Mapping[str, str]) -> Distribution | None:
        key = (metric, window, frozenset(labels.items()))
        if key not in self._distributions:
            self._distributions[key] = self.query.distribution(metric, window, labels)
        return self._distributions[key]


def _latency(seen: Distribution | None, to_ms: float) -> Latency:
    if seen is None or not seen.count:
        return Latency(mean_ms=None, p50_ms=None, p95_ms=None, p99_ms=None, max_ms=None)
    return Latency(
        mean_ms=seen.mean * to_ms,
        p50_ms=seen.quantile(0.50) * to_ms,
        p95_ms=seen.quantile(0.95) * to_ms,
        p99_ms=seen.quantile(0.99) * to_ms,
        max_ms=seen.max * to_ms,
    )


class _Http(NamedTuple):
    """What the HTTP requests of a window came to, by method, route and status; asked for once and added up for each view."""

    counts: Mapping[Group, float]
    recent: Mapping[Group, float]
    lines: Mapping[Group, Points]


def _http(query: MonitorQuery, window: str) -> _Http:
    metric, by = "http_requests_total", ("method", "route", "status")
    counts, recent = query.increases(metric, by, window), query.increases(metric, by, _RATE_WINDOW)
    return _Http(counts, recent, _lines(query, metric, window, by))


def _requests(moment: _Moment, window: str, http: _Http) -> Requests:
    query = moment.query
    is_known = query.metric_type("http_requests_total") is MetricType.COUNTER
    total = sum(http.counts.values()) if is_known else None
    by_class = {number: _of_class(http.counts, number) if is_known else None for number in "45"}
    return Requests(
        total=total,
        failed=by_class["5"],
        error_ratio=_divide(by_class["5"], total),
        client_errors=by_class["4"],
        client_error_ratio=_divide(by_class["4"], total),
        per_second=_rate(sum(http.recent.values())) if is_known else None,
        active=query.latest("http_requests_active"),
        streams=query.latest("http_streams_active"),
        points=_sum_points(http.lines.values()),
        failed_points=_sum_points(line for (*_, status), line in http.lines.items() if status.startswith("5")),
        **_latency(moment.distribution("http_request_duration_seconds", window, {}), 1000),
    )


def _of_class(counts: Mapping[Group, float], number: str) -> float:
    """The requests whose status begins with *number*."""
    return sum(count for (*_, status), count in counts.items() if status.startswith(number))


# Rows are asked for together, and always of all series: others would read the same windows again.


def _lines(query: MonitorQuery, metric: str, window: str, by: Sequence[str]) -> dict[Group, Points]:
    """Increase per step, per values of the labels *by*."""
    found = query.series(metric, window, _step(window), by=by, top=MAX_ROWS_ASKED_FOR)
    return {tuple(line.labels.values()): line.values for line in found.lines}


def _routes(query: MonitorQuery, window: str, http: _Http) -> tuple[list[RouteRow], int]:
    counts: dict[Group, float] = {}
    recent: dict[Group, float] = {}
    failures: dict[Group, float] = {}
    lines: dict[Group, list[Points]] = {}
    for (*route, status), count in http.counts.items():
        group = tuple(route)
        counts[group] = counts.get(group, 0) + count
        failures[group] = failures.get(group, 0) + (count if status.startswith("5") else 0)
    for (*route, _), count in http.recent.items():
        group = tuple(route)
        recent[group] = recent.get(group, 0) + count
    for (*route, _), line in http.lines.items():
        lines.setdefault(tuple(route), []).append(line)
    busiest = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = busiest[:_MOST_ROWS]
    by = ("method", "route")
    took = query.distributions("http_request_duration_seconds", by, window, [group for group, _ in shown])
    rows = [
        RouteRow(
            method=group[0],
            route=group[1],
            total=total,
            failed=failures[group],
            error_ratio=_divide(failures[group], total),
            per_second=_rate(recent.get(group, 0)),
            active=None,
            points=_sum_points(lines[group]) if rank < _MOST_TRENDS else [],
            failed_points=[],
            **_latency(took.get(group), 1000),
        )
        for rank, (group, total) in enumerate(shown)
    ]
    return rows, len(busiest)


def _operations(moment: _Moment, window: str) -> tuple[list[OperationRow], int, Traffic]:
    # By the counters and not by query.operations(), which also reads records: this is asked for every second.
    query, by = moment.query, ("operation",)
    succeeded, failed = _by_operation(query, SUCCESSES, window), _by_operation(query, FAILURES, window)
    recent = _added(_by_operation(query, SUCCESSES, _RATE_WINDOW), _by_operation(query, FAILURES, _RATE_WINDOW))
    totals = _added(succeeded, failed)
    busiest = sorted(totals.items(), key=lambda item: (-item[1], item[0]))
    shown = busiest[:_MOST_ROWS]
    took = query.distributions(DURATIONS, by, window, [(name,) for name, _ in shown])
    succeeded_lines, failed_lines = _lines(query, SUCCESSES, window, by), _lines(query, FAILURES, window, by)
    known = query.latest_by("operations_active", "operation")
    active = {name: known[name] for name in totals if name in known}
    rows: list[OperationRow] = []
    for rank, (name, total) in enumerate(shown):
        failed_points = failed_lines.get((name,), []) if rank < _MOST_TRENDS else []
        succeeded_points = succeeded_lines.get((name,), []) if rank < _MOST_TRENDS else []
        rows.append(
            OperationRow(
                operation=name,
                total=total,
                failed=failed.get(name, 0),
                error_ratio=_divide(failed.get(name, 0), total),
                per_second=_rate(recent.get(name, 0)),
                active=active.get(name),
                points=_sum_points([succeeded_points, failed_points]),
                failed_points=failed_points,
                **_latency(took.get((name,)), 1),
            )
        )
    failed_points = _sum_points(failed_lines.values())
    together = Traffic(
        total=sum(totals.values()) if totals else None,
        failed=sum(failed.values()) if totals else None,
        error_ratio=_divide(sum(failed.values()), sum(totals.values())),
        per_second=_rate(sum(recent.values())) if totals else None,
        active=sum(active.values()) if active else None,
        points=_sum_points([*succeeded_lines.values(), failed_points]),
        failed_points=failed_points,
        **_latency(moment.distribution(DURATIONS, window, {}), 1),
    )
    return rows, len(busiest), together


def _by_operation(query: MonitorQuery, metric: str, window: str) -> dict[str, float]:
    return query.increase_by(metric, "operation", window)


def _added(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in {*one, *other}}


def _indicator(moment: _Moment, indicator: Indicator) -> IndicatorBody:
    query, metric, window, labels = moment.query, indicator.metric, indicator.window, indicator.labels
    value: float | None
    points: Points
    if indicator.kind in {"mean", "p95", "p99"}:
        seen = moment.distribution(metric, window, labels)
        points = []  # the road keeps no percentile per step
        if seen is None or not seen.count:
            value = None
        else:
            value = seen.mean if indicator.kind == "mean" else seen.quantile(0.95 if indicator.kind == "p95" else 0.99)
    elif indicator.kind == "ratio":
        value = _divide(
            query.increase(metric, window, _selected(labels)),
            query.increase(indicator.denominator, window, _selected(indicator.denominator_labels)),
        )
        points = _divide_points(
            _points(query, metric, window, _step(window), labels),
            _points(query, indicator.denominator, window, _step(window), indicator.denominator_labels),
        )
    else:
        counted = indicator.kind == "increase"
        value = query.increase(metric, window, _selected(labels)) if counted else _latest(query, metric, labels)
        points = _points(query, metric, window, _step(window), labels)
    value = _known(value)
    state: Literal["ok", "over", "unknown", "watch"]
    if value is None:
        state = "unknown"
    elif indicator.threshold is None:
        state = "watch"
    else:
        state = "ok" if value < indicator.threshold else "over"
    return IndicatorBody(
        key=indicator.key,
        title={"en": indicator.title_en, "ko": indicator.title_ko},
        metric=metric,
        kind=indicator.kind,
        unit="ratio" if indicator.kind == "ratio" else indicator.unit,
        window=window,
        value=value,
        threshold=indicator.threshold,
        state=state,
        points=points,
    )


def _record_row(record: LogRecord) -> RecordRow:
    message = record.message
    return RecordRow(
        cursor=record.cursor,
        timestamp=_iso(record.timestamp),
        level=record.level,
        logger=record.logger,
        kind=record.kind,
        operation=record.operation,
        step=record.step,
        message=message if len(message) <= _LONGEST_MESSAGE else message[: _LONGEST_MESSAGE - 1] + "…",
        correlation_id=record.correlation_id,
        outcome=record.outcome,
        duration_ms=record.duration_ms,
        error_code="" if record.error is None else record.error.code,
    )


def _whole_record(record: LogRecord) -> dict[str, Any]:
    return {"cursor": record.cursor, **record.to_dict()}


def _health(monitor: Monitor, standing: Standing | None) -> HealthBody:
    status: Literal["healthy", "degraded", "unknown"] = "healthy"
    if not monitor.running or (standing is not None and standing.critical):
        status = "degraded"
    elif standing is None:
        status = "unknown"
    return HealthBody(
        status=status,
        active_alerts=None if standing is None else standing.active,
        critical_alerts=None if standing is None else standing.critical,
        monitoring_active=monitor.running,
        timestamp=_now(monitor),
    )


def _top_errors(query: MonitorQuery, limit: int, window: str) -> list[ErrorBody]:
    return [
        ErrorBody(
            operation=error.operation,
            error_code=error.error_code,
            error_type=error.error_type,
            message=error.message,
            count=error.count,
            last_seen=None if error.last_seen is None else _iso(error.last_seen),
            correlation_id=error.correlation_id or None,
        )
        for error in query.top_errors(limit, window)
    ]


# --- answering --------------------------------------------------------------------------------------------------------


def _json(body: object, status_code: int = 200) -> Response:
    # msgspec writes NaN and the infinities as null, which is what they mean here.
    return Response(msgspec.json.encode(body), status_code, media_type="application/json")


def _problem(status_code: int, code: str, message: str, **details: object) -> Response:
    return _json(Problem(code=code, message=message, details=details, timestamp=_iso(datetime.now(UTC))), status_code)


def _refusal(name: str, fault: str) -> Response:
    return _problem(422, "VALIDATION_ERROR", f"{name}: {fault}", field=name, fault=fault)


def _not_now(message: str) -> Response:
    response = _problem(503, "SERVICE_UNAVAILABLE", message)
    response.headers["Retry-After"] = "1"
    return response


def _first_fault(error: RequestValidationError) -> tuple[str, str]:
    """Name the first field that cannot be used, and what is allowed; what was sent is not repeated."""
    fault = error.errors()[0]
    path = fault["loc"][1:] if fault["type"] != "json_invalid" else ()
    name = ".".join(map(str, path)) or str(fault["loc"][0])
    bounds = _BOUNDS.get(name)
    return name, fault["msg"] if bounds is None else f"must be a whole number from {bounds[0]} to {bounds[1]}"


class _NotKnownError(Exception):
    """Nothing of that name was ever measured."""


class _Route(APIRoute):
    """Gives every answer the browser controls, and every refusal one shape that names the field."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                response = await handle(request)
            except RequestValidationError as error:
                response = _refusal(*_first_fault(error))
            except TimeRangeError as error:
                response = _refusal("time_range", error.fault)
            except CursorError:
                response = _refusal("before", "must be the cursor of a record that was answered")
            except QueryError as error:
                response = _refusal(error.argument, error.fault)
            except (QueryBusyError, QueryTimeoutError) as error:
                response = _not_now(str(error))
            except StoreError:
                response = _not_now("the store cannot be read at the moment")
            except AlertRuleError as error:
                response = _refusal(error.field, error.fault)
            except _NotKnownError as error:
                response = _problem(404, "NOT_FOUND", str(error))
            for name, value in SECURITY_HEADERS.items():
                response.headers.setdefault(name, value)
            return response

        return answer


@cache
def _asset(name: str) -> bytes:
    return files("rfs.monitoring").joinpath("dashboard", name).read_bytes()


def _serve(name: str) -> Response:
    return Response(_asset(name), media_type=_ASSETS[name])


_PATIENCE_SECONDS = 2.5  # a little more than a query takes by itself at most
_readings: RunVar[CapacityLimiter] = RunVar("rfs_dashboard_readings")


async def _read(reading: Callable[[], _T]) -> _T:
    try:
        limiter = _readings.get()
    except LookupError:
        limiter = CapacityLimiter(_READINGS_AT_ONCE)
        _readings.set(limiter)
    # What reads a disk that hangs cannot be stopped. It keeps its place under the limiter, so that not all threads hang some day.
    with move_on_after(_PATIENCE_SECONDS):
        return await to_thread.run_sync(reading, limiter=limiter, abandon_on_cancel=True)
    raise QueryTimeoutError(_PATIENCE_SECONDS)


_Limit = Annotated[int, Query(ge=1, le=_MOST_RECORDS)]
_Level = Annotated[int, Query(ge=0, le=_HIGHEST_LEVEL, description="as the standard library numbers them")]
_TimeRange = Annotated[str, Query(description="30s, 15m, 1h, 7d: from 1 second to 30 days")]


class _Dashboard:
    """The routes over one monitor, which is asked for at each request: tests and hosts may replace the default one."""

    def __init__(self, monitor: Callable[[], Monitor], indicators: Sequence[Indicator]) -> None:
        self._monitor = monitor
        self._indicators = tuple(indicators)

    async def page(self) -> Response:
        """The page."""
        return _serve("index.html")

    async def asset(self, name: Literal["page.css", "page.js", "messages.js", "icon.svg"]) -> Response:
        """What the page loads; there is nothing else to be had here."""
        return _serve(name)

    async def health(self) -> Response:
        """Whether the service does its work, and the number of its active alerts."""

        def reading() -> HealthBody:
            monitor = self._monitor()
            return _health(monitor, monitor.standing_alerts())

        return _json(await _read(reading))

    async def metrics(self, hours: Annotated[int, Query(ge=1, le=_MOST_HOURS)] = 1) -> Response:
        """All metrics over the last *hours*, as ``get_metrics_summary`` gives them."""
        return _json(await _read(lambda: self._monitor().query.summary(hours * 60)))

    async def dashboard(self) -> Response:
        """
        Metrics of the last hour, active alerts, rules and the monitoring itself, as ``get_dashboard_data`` gives them; alerts are null
        where they are not known.
        """

        def reading() -> dict[str, Any]:
            data = get_dashboard_data(self._monitor())
            return data if data["system_status"]["alerts_known"] else {**data, "active_alerts": None}

        return _json(await _read(reading))

    async def operation(
        self, operation_name: Annotated[str, Path(max_length=1000)], time_range: _TimeRange = "1h"
    ) -> Response:
        """One operation in a time range; 404 if it was never measured."""

        def reading() -> dict[str, object]:
            query = self._monitor().query
            found = query.operation(operation_name, time_range)
            if found is None:
                raise _NotKnownError(f"no operation {operation_name!r} was ever measured")
            return asdict(found)

        return _json(await _read(reading))

    async def result_patterns(self) -> Response:
        """How Results went over the last hour."""

        def reading() -> ResultPatternHealth:
            monitor = self._monitor()
            with monitor.query.bounded():
                return answer(monitor, monitor.query.settled())

        def answer(monitor: Monitor, query: MonitorQuery) -> ResultPatternHealth:
            succeeded, failed = _by_operation(query, SUCCESSES, "1h"), _by_operation(query, FAILURES, "1h")
            totals = _added(succeeded, failed)
            total, failures = sum(totals.values()), sum(failed.values())
            return ResultPatternHealth(
                status=_health(monitor, monitor.standing_alerts())["status"],
                time_range="1h",
                operations=len(totals),
                total_results=int(total),
                success_total=int(total - failures),
                failure_total=int(failures),
                success_rate=_divide(total - failures, total),
                failing_operations=[
                    FailingOperation(
                        operation_name=name,
                        total=int(totals[name]),
                        failed=int(count),
                        failure_ratio=_divide(count, totals[name]),
                    )
                    for name, count in list(failed.items())[:10]
                ],
                top_error_codes={
                    code: int(count)
                    for code, count in list(query.increase_by(ERRORS_BY_TYPE, "error_code", "1h").items())[:10]
                },
                timestamp=_now(monitor),
            )

        return _json(await _read(reading))

    async def top_errors(self, limit: _Limit = 10, time_range: _TimeRange = "1h") -> Response:
        """The most frequent failures by operation and code."""
        return _json(await _read(lambda: _top_errors(self._monitor().query, limit, time_range)))

    async def configure_alert(self, configuration: AlertConfiguration) -> Response:
        """Create the rule, or update the one of that name, whose callback stays; the answer says which."""

        def change() -> str:
            alerts = self._monitor().alerts
            given = configuration.model_dump(exclude_unset=True)
            known = next((rule for rule in alerts.rules() if rule.name == configuration.name), None)
            rule = Rule(**given) if known is None else replace(known, **given)
            return f"alert rule {rule.name!r} {alerts.set_rule(rule)}"

        return _json(await _read(change))

    async def overview(
        self,
        time_range: _TimeRange = "15m",
        min_level: _Level = 0,
        limit: _Limit = 50,
    ) -> Response:
        """Everything that the page's first view shows; *limit* and *min_level* are for its records."""

        def reading() -> Overview:
            monitor = self._monitor()
            with monitor.query.bounded():
                return answer(monitor, _Moment(monitor.query))

        def answer(monitor: Monitor, moment: _Moment) -> Overview:
            query = moment.query
            seconds = parse_time_range(time_range).seconds
            operations, operations_known, together = _operations(moment, time_range)
            http = _http(query, time_range)
            routes, routes_known = _routes(query, time_range, http)
            standing = monitor.standing_alerts()
            return Overview(
                service=monitor.service_name,
                timestamp=_now(monitor),
                time_range=time_range,
                range_seconds=seconds,
                step_seconds=_step(time_range),
                health=_health(monitor, standing),
                requests=_requests(moment, time_range, http),
                operations_total=together,
                operations=operations,
                operations_known=operations_known,
                routes=routes,
                routes_known=routes_known,
                errors=_top_errors(query, 10, time_range),
                alerts=None if standing is None else [dict(alert) for alert in standing.alerts],
                alert_rules=None if standing is None else standing.rules,
                indicators=[_indicator(moment, indicator) for indicator in self._indicators],
                records=[_record_row(record) for record in query.records(limit=limit, min_level=min_level)],
                books=query.books(),
            )

        return _json(await _read(reading))

    async def records(
        self,
        limit: _Limit = 100,
        min_level: _Level = 0,
        operation: Annotated[str | None, Query(max_length=1000)] = None,
        correlation_id: Annotated[str | None, Query(max_length=64)] = None,
        before: Annotated[
            str | None, Query(max_length=200, description="the cursor of the last record of a page")
        ] = None,
    ) -> Response:
        """The newest records first, whole; *before* goes on with those after it."""

        def reading() -> RecordsBody:
            found = self._monitor().query.records(
                limit=limit, min_level=min_level, operation=operation, correlation_id=correlation_id, before=before
            )
            return RecordsBody(records=[_whole_record(record) for record in found])

        return _json(await _read(reading))

    async def records_of(self, correlation_id: str) -> Response:
        """All kept records of one correlation id, the oldest first, whole."""
        if not is_valid_correlation_id(correlation_id):
            allowed = "a correlation id has 1 to 64 of A-Z a-z 0-9 . _ : -"
            message = f"correlation_id: {allowed}"
            return _problem(422, "VALIDATION_ERROR", message, field="correlation_id", fault=allowed)

        def reading() -> CorrelationBody:
            found = self._monitor().query.records_by_correlation_id(correlation_id)
            return CorrelationBody(
                correlation_id=correlation_id,
                records=[_whole_record(record) for record in found[:_MOST_RECORDS]],
                truncated=len(found) > _MOST_RECORDS,
            )

        return _json(await _read(reading))


def create_router(
    *, monitor: Callable[[], Monitor] = default_monitor, indicators: Sequence[Indicator] = ()
) -> APIRouter:
    """
    Make a router over *monitor*, for a page that shows *indicators* in their order.

    Has no prefix and no protection. Its links are relative, so any prefix and ``root_path`` will do; the page itself
    is at the prefix followed by a slash.
    """
    dashboard = _Dashboard(monitor, indicators)
    problems: dict[int | str, dict[str, Any]] = {422: {"model": Problem}}
    unknown: dict[int | str, dict[str, Any]] = {**problems, 404: {"model": Problem}}
    made = APIRouter(route_class=_Route, tags=["monitoring"])
    made.add_api_route("/", dashboard.page, include_in_schema=False)
    made.add_api_route("/assets/{name}", dashboard.asset, include_in_schema=False)
    made.add_api_route("/health", dashboard.health, response_model=HealthBody)
    made.add_api_route("/metrics", dashboard.metrics, response_model=dict[str, Any], responses=problems)
    made.add_api_route("/dashboard", dashboard.dashboard, response_model=dict[str, Any])
    made.add_api_route(
        "/operations/{operation_name:path}/metrics",
        dashboard.operation,
        response_model=OperationBody,
        responses=unknown,
    )
    made.add_api_route("/health/result-patterns", dashboard.result_patterns, response_model=ResultPatternHealth)
    made.add_api_route("/errors/top", dashboard.top_errors, response_model=list[ErrorBody], responses=problems)
    made.add_api_route(
        "/alerts/configure", dashboard.configure_alert, methods=["POST"], response_model=str, responses=problems
    )
    made.add_api_route("/api/overview", dashboard.overview, response_model=Overview, responses=problems)
    made.add_api_route("/api/records", dashboard.records, response_model=RecordsBody, responses=problems)
    made.add_api_route(
        "/api/records/{correlation_id:path}", dashboard.records_of, response_model=CorrelationBody, responses=problems
    )
    return made


router = create_router()
