"""
What a service did, from inside its own process: results, logs, traces, metrics and alerts under one correlation id.

The names that most programs need are here; each lives in the module that it is imported from.
"""

from rfs.monitoring.alerts import Alert, AlertCondition, Rule
from rfs.monitoring.context import CorrelationContext, bind, get_correlation_id, propagate, with_correlation_id
from rfs.monitoring.metrics import (
    MetricType,
    ResultMetricsCollector,
    collect_flux_result_metric,
    collect_metric,
    collect_result_metric,
    counter,
    create_alert_rule,
    gauge,
    get_dashboard_data,
    get_metrics_summary,
    histogram,
    setup_default_alerts,
    start_monitoring,
    stop_monitoring,
)
from rfs.monitoring.monitor import Monitor, default_monitor, use_monitor
from rfs.monitoring.result_logging import (
    LogLevel,
    ResultLogEntry,
    ResultLogger,
    RfsHandler,
    configure_result_logging,
    create_logging_mono,
    critical,
    debug,
    error,
    info,
    log,
    log_result_operation,
    query_logs_by_correlation_id,
    warning,
)

__all__ = [
    "Alert",
    "AlertCondition",
    "CorrelationContext",
    "LogLevel",
    "MetricType",
    "Monitor",
    "ResultLogEntry",
    "ResultLogger",
    "ResultMetricsCollector",
    "RfsHandler",
    "Rule",
    "bind",
    "collect_flux_result_metric",
    "collect_metric",
    "collect_result_metric",
    "configure_result_logging",
    "counter",
    "create_alert_rule",
    "create_logging_mono",
    "critical",
    "debug",
    "default_monitor",
    "error",
    "gauge",
    "get_correlation_id",
    "get_dashboard_data",
    "get_metrics_summary",
    "histogram",
    "info",
    "log",
    "log_result_operation",
    "propagate",
    "query_logs_by_correlation_id",
    "setup_default_alerts",
    "start_monitoring",
    "stop_monitoring",
    "use_monitor",
    "warning",
    "with_correlation_id",
]
