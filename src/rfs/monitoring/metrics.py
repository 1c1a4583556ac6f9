"""
Metrics: measure, summarise, and set alert rules, on the default Monitor.

`counter`, `gauge` and `histogram` declare instruments and raise `MetricDefinitionError` for a bad declaration.
`collect_metric` declares and measures in one and never raises: what it can't take is counted as rejected.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from rfs.core.result import Failure, Result, Success, error_code, is_expected
from rfs.errors import (
    MetricDefinitionError,
    OperationNotFoundError,
    QueryBusyError,
    QueryTimeoutError,
    RfsError,
    StoreError,
)
from rfs.monitoring._capture.instruments import (
    BoundCounter,
    BoundGauge,
    BoundHistogram,
    Counter,
    Gauge,
    Histogram,
    MetricType,
)
from rfs.monitoring._query import (
    ErrorGroup,
    ErrorSummary,
    OperationMetrics,
    Prefix,
    Query,
    TimeRange,
    TimeSeries,
    parse_time_range,
)
from rfs.monitoring.alerts import Alert, AlertCondition, Rule
from rfs.monitoring.monitor import Monitor, default_monitor
from rfs.monitoring.result_logging import count_error, operation_is_measured
from rfs.reactive import FluxResult, MonoResult

# Declaring


def counter(name: str, help: str = "", labels: Iterable[str] = ()) -> Counter:  # noqa: A002 - the field's own name
    """
    Declare a counter: a sum that only grows.

    Args:
        name: Ends in its unit and ``_total``: ``orders_total``, ``sent_bytes_total``.
        labels: If given, no other label names are taken. Label values should be few.

    Raises:
        MetricDefinitionError: Name or label malformed, or the name belongs to another type.

    >>> counter("orders_total", labels=["status"]).labels(status="created").inc()
    """
    return default_monitor().counter(name, help, labels)


def gauge(name: str, help: str = "", labels: Iterable[str] = ()) -> Gauge:  # noqa: A002 - the field's own name
    """Declare a gauge: a value that goes up and down, unknown until it is written. Raises as `counter` does."""
    return default_monitor().gauge(name, help, labels)


def histogram(name: str, help: str = "", labels: Iterable[str] = ()) -> Histogram:  # noqa: A002 - the field's own name
    """Declare a histogram: a distribution, any quantile of which is known within 1 %. Raises as `counter` does."""
    return default_monitor().histogram(name, help, labels)


# Measuring


def collect_metric(
    name: str,
    value: float,
    metric_type: MetricType = MetricType.GAUGE,
    labels: Mapping[str, str | int | bool] | None = None,
    metadata: Mapping[str, object] | None = None,
) -> None:
    """
    Measure *value* for metric *name*, which is declared by its first use.

    Never raises: a bad name, label or value, or a name that belongs to another type, is counted in
    ``rfs_rejected_total`` and said once. Safe from any thread.

    Args:
        value: Added to a counter (finite, not negative), the new value of a gauge, one measurement of a histogram or timer.
        labels: Few different values each: a name, not a number of a customer.
        metadata: Recorded at DEBUG beside the measurement, for what is too varied to be a label.
    """
    monitor = default_monitor()
    try:
        metric = monitor.registry.get(name)
        if metric is None or metric.type is not metric_type:
            metric = monitor.registry.declare(MetricType(metric_type), name)
        if labels is None:
            labels = {}
        if isinstance(metric, Counter):
            metric.inc(value, **labels)
        elif isinstance(metric, Gauge):
            metric.set(value, **labels)
        else:
            metric.observe(value, **labels)
        if metadata and monitor.level <= 10:
            monitor.log(10, f"Metric {name}", logger="rfs.metrics", fields={"value": value, **labels, **metadata})
    except MetricDefinitionError:
        monitor.reject(name, "invalid_name")
    except Exception:  # noqa: BLE001 - hostile arguments: counted, never the host's problem
        monitor.reject(name, "invalid_value")


def collect_result_metric(
    operation: str, result: Result[Any, Any], duration_ms: float, labels: Mapping[str, str] | None = None
) -> None:
    """
    Measure one finished operation from its Result: successes, failures (by type and code) and its duration.

    Inside a function decorated with ``log_result_operation`` for the same operation this takes the place of the
    decorator's own measurement, so that nothing is counted twice. Never raises.

    Args:
        duration_ms: From a monotonic clock, in milliseconds.
        labels: Further labels of the counters and the histogram.
    """
    monitor = default_monitor()
    try:
        if isinstance(result, Failure):
            expected = not result.is_defect and is_expected(result.error)
            monitor.measure_result(operation, duration_ms, labels, failed=True, expected=expected)
            count_error(monitor, operation, result.error, error_code(result.error))
        else:
            monitor.measure_result(operation, duration_ms, labels, failed=False)
        operation_is_measured(operation)
    except Exception as error:  # noqa: BLE001 - the host comes first; counted
        monitor.internal_error("collect_result_metric", error)


def collect_flux_result_metric(
    operation: str, flux_result: FluxResult[Any, Any], duration_ms: float, labels: Mapping[str, str] | None = None
) -> None:
    """
    Measure one finished batch: items, successes and failures (counters), success rate (gauge, 0 to 1), duration.

    An empty batch leaves the success rate as it was: it has none. Never raises.
    """
    monitor = default_monitor()
    try:
        everything = {"operation": operation, **(labels or {})}
        total, succeeded = flux_result.count_total(), flux_result.count_success()
        monitor.counter("flux_result_total_items").inc(total, **everything)
        monitor.counter("flux_result_success_items").inc(succeeded, **everything)
        monitor.counter("flux_result_failure_items").inc(total - succeeded, **everything)
        if total:
            monitor.gauge("flux_result_success_rate").set(succeeded / total, **everything)
        monitor.histogram("flux_result_duration_ms").observe(duration_ms, **everything)
    except Exception as error:  # noqa: BLE001 - the host comes first; counted
        monitor.internal_error("collect_flux_result_metric", error)


# Life


def start_monitoring() -> None:
    """Start collecting for sinks and evaluating alert rules each second. Measuring and recording work without it."""
    default_monitor().start()


def stop_monitoring() -> None:
    """Stop what `start_monitoring` started, within 2 s; what was measured stays readable."""
    default_monitor().stop()


# Reading


def get_metrics_summary(time_range_minutes: TimeRange = 60) -> dict[str, Any]:
    """
    All metrics over all their labels, within the last minutes (or any range that `parse_time_range` reads).

    Sections ``counters`` (increases), ``gauges`` (last values), ``histograms`` and ``timers`` (count, sum, min, max, mean,
    p50, p90, p95, p99; one that measured nothing is not listed, and asked for by name it is 0 and NaN), and ``time_range_minutes``, ``generated_at``.

    Raises:
        TimeRangeError: Not a range of time, or not from 1 s to 30 d.
    """
    return default_monitor().query.summary(time_range_minutes)


def get_dashboard_data(monitor: Monitor | None = None) -> dict[str, Any]:
    """
    The summary of the last hour, active alerts, alert rules and the state of the monitoring itself.

    The alerts are those of the whole service, whichever process evaluates the rules. No alert is listed, too, where
    ``["system_status"]["alerts_known"]`` is false: no process tells which there are.
    """
    monitor = monitor if monitor is not None else default_monitor()
    moment = monitor.query.settled()
    standing = monitor.standing_alerts()
    return {
        "metrics_summary": moment.summary(60),
        "active_alerts": [] if standing is None else [dict(alert) for alert in standing.alerts],
        "alert_rules": [rule.to_dict() for rule in monitor.alerts.rules()],
        "system_status": {
            "monitoring_active": monitor.running,
            "alerts_known": standing is not None,
            "total_metrics": moment.series_count,
            "timestamp": datetime.fromtimestamp(monitor.clock.time_ns() / 1e9, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
        },
    }


# Alert rules


def create_alert_rule(
    name: str,
    metric_name: str,
    condition: AlertCondition,
    threshold: float,
    callback: Callable[[Alert], object] | None = None,
    **options: Any,
) -> Rule:
    """
    Set an alert rule; it is evaluated each second once monitoring is started.

    Idempotent by name: the same rule again changes nothing but the callback, a different one replaces it. A counter is
    compared by its increase in 5 min, a histogram by its p95 in 5 min, a gauge by its last value, unless *options* say otherwise.

    Args:
        callback: Called with an `Alert` when the rule fires and when it resolves: plain or async, on a thread of its own,
            for at most 10 s; what it raises is counted and changes nothing else.
        options: Further fields of `Rule`: ``for_seconds``, ``cooldown_seconds``, ``window_seconds``, ``aggregation``,
            ``labels``, ``severity``, …

    Raises:
        AlertRuleError: A field is wrong; the message says which, with which value, and what is allowed.
    """
    rule = Rule(name, metric_name, condition, threshold, **options)
    default_monitor().alerts.set_rule(rule, callback)
    return rule


def setup_default_alerts() -> list[Rule]:
    """
    Set the three rules every service can start with: failures > 10, p95 > 5,000 ms, batch success rate < 0.8.

    Expected failures (a dish is sold out) do not count for the first: they belong to a healthy evening.
    """
    unexpected = {"expected": ""}
    return [
        create_alert_rule(
            "high_failure_count", "result_failure_total", AlertCondition.GREATER_THAN, 10.0, labels=unexpected
        ),
        create_alert_rule("slow_operations", "result_duration_ms", AlertCondition.GREATER_THAN, 5000.0),
        create_alert_rule("low_batch_success_rate", "flux_result_success_rate", AlertCondition.LESS_THAN, 0.8),
    ]


# The ancestor's class names


class ResultMetricsCollector:
    """
    The metrics of a Monitor as one object; without an argument, those of the default Monitor. It has no state of its own.
    """

    def __init__(self, monitor: Monitor | None = None) -> None:
        self._own = monitor

    @classmethod
    def instance(cls) -> ResultMetricsCollector:
        """The collector of the default Monitor."""
        return cls()

    @property
    def monitor(self) -> Monitor:
        """The Monitor it reads."""
        return self._own if self._own is not None else default_monitor()

    @property
    def query(self) -> Query:
        """The one read path."""
        return self.monitor.query

    def get_metrics_summary(self, time_range_minutes: TimeRange = 60) -> dict[str, Any]:
        """See `get_metrics_summary`."""
        return self.query.summary(time_range_minutes)

    def get_operation_metrics(
        self, operation_name: str, time_range: TimeRange = "1h"
    ) -> MonoResult[OperationMetrics, RfsError]:
        """
        How operation *operation_name* did, as a chain: read when it is awaited, in a thread, so that no event loop waits for it.

        Returns:
            A Failure holds `OperationNotFoundError` if it was never measured, or what kept it from being read:
            `QueryTimeoutError`, `QueryBusyError` or `StoreError`.

        Raises:
            TimeRangeError: At once, if *time_range* cannot be read.
        """
        parse_time_range(time_range)

        def read() -> Result[OperationMetrics, RfsError]:
            try:
                found = self.query.operation(operation_name, time_range)
            except (QueryBusyError, QueryTimeoutError, StoreError) as error:
                return Failure(error)
            return Failure(OperationNotFoundError(operation_name)) if found is None else Success(found)

        return MonoResult.from_async_result(lambda: asyncio.to_thread(read), name="get_operation_metrics")


class ResultAlertManager:
    """The alert rules of a collector's Monitor, under the ancestor's names. It has no state of its own."""

    def __init__(self, collector: ResultMetricsCollector | None = None) -> None:
        self._collector = collector if collector is not None else ResultMetricsCollector.instance()

    def add_alert_rule(
        self,
        name: str,
        metric_name: str,
        condition: AlertCondition,
        threshold: float,
        callback: Callable[[Alert], object] | None = None,
    ) -> Rule:
        """Set a rule; see `create_alert_rule`."""
        rule = Rule(name, metric_name, condition, threshold)
        self._collector.monitor.alerts.set_rule(rule, callback)
        return rule

    def get_alert_rules(self) -> list[dict[str, Any]]:
        """The rules as dicts: name, metric_name, condition, threshold, enabled and more."""
        return [{**rule.to_dict(), "enabled": True} for rule in self._collector.monitor.alerts.rules()]

    def get_active_alerts(self) -> list[dict[str, Any]]:
        """The alerts that are firing now; as `get_dashboard_data` lists them."""
        standing = self._collector.monitor.standing_alerts()
        return [] if standing is None else [alert.to_dict() for alert in standing.alerts]


__all__ = [
    "Alert",
    "AlertCondition",
    "BoundCounter",
    "BoundGauge",
    "BoundHistogram",
    "Counter",
    "ErrorGroup",
    "ErrorSummary",
    "Gauge",
    "Histogram",
    "MetricType",
    "OperationMetrics",
    "Prefix",
    "ResultAlertManager",
    "ResultMetricsCollector",
    "Rule",
    "TimeSeries",
    "collect_flux_result_metric",
    "collect_metric",
    "collect_result_metric",
    "counter",
    "create_alert_rule",
    "gauge",
    "get_dashboard_data",
    "get_metrics_summary",
    "histogram",
    "parse_time_range",
    "setup_default_alerts",
    "start_monitoring",
    "stop_monitoring",
]
