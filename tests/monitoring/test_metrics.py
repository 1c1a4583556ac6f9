"""The documents' metric functions: they measure exactly, never raise, and say what they could not take."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest

from rfs.core.result import Failure, Success
from rfs.errors import AlertRuleError, MetricDefinitionError, TimeRangeError
from rfs.monitoring.metrics import (
    AlertCondition,
    MetricType,
    ResultAlertManager,
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
from rfs.monitoring.monitor import Monitor
from rfs.reactive import FluxResult
from rfs.testing.fixtures import Telemetry


class TestCollectMetric:
    def test_the_guides_three_kinds(self, telemetry: Telemetry) -> None:
        """
        A counter adds up, a gauge keeps the last value, a histogram has its figures.
        """
        for _ in range(2):
            collect_metric("api_requests_total", 1, MetricType.COUNTER, labels={"endpoint": "/users", "method": "GET"})
        collect_metric("response_time_ms", 250.5, MetricType.HISTOGRAM, labels={"endpoint": "/users"})
        collect_metric("active_connections", 45, MetricType.GAUGE)
        collect_metric("active_connections", 44)

        summary = get_metrics_summary()

        assert summary["counters"]["api_requests_total"] == 2
        assert summary["gauges"]["active_connections"] == 44
        assert summary["histograms"]["response_time_ms"]["max"] == 250.5

    def test_names_with_dots(self, telemetry: Telemetry) -> None:
        """
        The guide's dotted names are metric names.
        """
        collect_metric("heavy_computation.duration_ms", 12.5, MetricType.HISTOGRAM)
        collect_metric("system.cpu_usage", 40.0, MetricType.GAUGE)

        assert get_metrics_summary()["gauges"]["system.cpu_usage"] == 40

    @pytest.mark.parametrize("name", ["", "1a", "a b", None, 7, "x" * 10_000, ["list"]])
    def test_a_bad_name_raises_nothing(self, telemetry: Telemetry, name: Any) -> None:
        """
        A bad name is counted as rejected; nothing is raised.
        """
        collect_metric(name, 1)

        telemetry.assert_metric("rfs_rejected_total", 1)

    @pytest.mark.parametrize("value", [-1, math.nan, math.inf, True, "1", None, Decimal(1), object()])
    def test_a_bad_value_is_counted(self, telemetry: Telemetry, value: Any) -> None:
        """
        What is no amount is counted as rejected, and the sum stays as it was.
        """
        collect_metric("orders_total", 2, MetricType.COUNTER)

        collect_metric("orders_total", value, MetricType.COUNTER)

        assert get_metrics_summary()["counters"]["orders_total"] == 2
        telemetry.assert_metric("rfs_rejected_total", 1, metric="orders_total")

    def test_another_type_is_counted(self, telemetry: Telemetry) -> None:
        """
        The first use fixes the type; another type later is rejected.
        """
        collect_metric("orders_total", 2, MetricType.COUNTER)

        collect_metric("orders_total", 2, MetricType.GAUGE)
        collect_metric("orders_total", 2, "nonsense")  # type: ignore[arg-type]

        assert get_metrics_summary()["counters"]["orders_total"] == 2
        telemetry.assert_metric("rfs_rejected_total", 2, metric="orders_total")

    def test_hostile_labels_raise_nothing(self, telemetry: Telemetry) -> None:
        """
        Labels that are no mapping of names are rejected and counted.
        """
        collect_metric("orders_total", 1, MetricType.COUNTER, labels={1: "x"})  # type: ignore[dict-item]
        collect_metric("orders_total", 1, MetricType.COUNTER, labels={"a b": "x"})

        telemetry.assert_metric("rfs_rejected_total", 2, metric="orders_total")

    def test_metadata_is_recorded_at_debug(self, telemetry: Telemetry) -> None:
        """
        What is too varied for a label becomes a record, if DEBUG is recorded.
        """
        collect_metric("orders_total", 1, MetricType.COUNTER, metadata={"order_id": 7})
        telemetry.monitor.level = 10
        collect_metric("orders_total", 1, MetricType.COUNTER, metadata={"order_id": 8})

        (record,) = telemetry.assert_records({})
        assert record.context == {"value": 1, "order_id": 8}

    def test_rejections_are_said_once(self, telemetry: Telemetry, capsys: pytest.CaptureFixture[str]) -> None:
        """
        On stderr there is one line per fault, with a count; not one per measurement.
        """
        for _ in range(5):
            collect_metric("1a", 1)

        telemetry.monitor.stop()

        assert capsys.readouterr().err == "RFS-E131 metric '1a': rejected (invalid_name) (repeated 5x)\n"

    def test_the_label_that_has_too_many_values_is_named(
        self, telemetry: Telemetry, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """
        When a metric overflows, its name and the label with the most values are said once, and counted.
        """
        for number in range(2_005):
            collect_metric("visits_total", 1, MetricType.COUNTER, {"page": f"page {number % 7}", "user": str(number)})

        telemetry.monitor.stop()

        assert capsys.readouterr().err == (
            "RFS-E131 metric 'visits_total': rejected (cardinality_limit); label 'user' has the most values, "
            "further series are one: rfs_overflow (repeated 6x)\n"
        )
        telemetry.assert_metric("rfs_rejected_total", 6, metric="visits_total", reason="cardinality_limit")


class TestDeclaring:
    def test_a_bad_declaration_raises(self, telemetry: Telemetry) -> None:
        """
        Declaring is loud: the error names the metric and the fault.
        """
        with pytest.raises(MetricDefinitionError, match="metric '1a': a metric name starts with a letter"):
            counter("1a")
        with pytest.raises(MetricDefinitionError, match="label 'a b' must start"):
            histogram("wait_seconds", labels=["a b"])
        counter("orders_total")
        with pytest.raises(MetricDefinitionError, match="is a counter already"):
            gauge("orders_total")


class TestResultMetrics:
    def test_success_and_failure(self, telemetry: Telemetry) -> None:
        """
        A Result becomes a count, a duration and, if it failed, a count by type and code.
        """
        collect_result_metric("user_processing", Success(1), 10.0)
        collect_result_metric("user_processing", Failure(ValueError("x")), 30.0, labels={"service": "user"})

        summary = get_metrics_summary()
        assert summary["counters"]["result_success_total"] == 1
        assert summary["counters"]["result_failure_total"] == 1
        assert summary["histograms"]["result_duration_ms"]["mean"] == 20
        telemetry.assert_metric("result_error_by_type_total", 1)
        telemetry.assert_metric("result_error_by_type_total", 1, error_code="ValueError")
        telemetry.assert_metric("result_failure_total", 1, service="user")

    def test_batches(self, telemetry: Telemetry) -> None:
        """
        A batch becomes items, successes, failures, a rate and a duration; an empty one has no rate.
        """
        collect_flux_result_metric("batch", FluxResult([Success(1), Success(2), Success(3), Failure("x")]), 40.0)
        collect_flux_result_metric("batch", FluxResult([]), 1.0)

        summary = get_metrics_summary()
        assert summary["counters"]["flux_result_total_items"] == 4
        assert summary["counters"]["flux_result_success_items"] == 3
        assert summary["counters"]["flux_result_failure_items"] == 1
        assert summary["gauges"]["flux_result_success_rate"] == 0.75
        assert summary["histograms"]["flux_result_duration_ms"]["count"] == 2

    def test_what_is_no_result_raises_nothing(self, telemetry: Telemetry) -> None:
        """
        Wrong arguments are a counted fault, not an exception.
        """
        collect_result_metric("op", Success(1), "long", labels=7)  # type: ignore[arg-type]
        collect_flux_result_metric("op", 7, 1.0)  # type: ignore[arg-type]

        telemetry.assert_metric("telemetry_internal_errors_total", 2)

    def test_both_counters_are_there_before_any_traffic(self, telemetry: Telemetry) -> None:
        """
        The guide's SLA example adds them up at any time.
        """
        counters = get_metrics_summary(time_range_minutes=60)["counters"]

        assert counters["result_success_total"] + counters["result_failure_total"] == 0


class TestDashboardData:
    def test_shape(self, telemetry: Telemetry) -> None:
        """
        The documented structure, with real values.
        """
        create_alert_rule("r", "result_failure_total", AlertCondition.GREATER_THAN, 50.0)
        collect_metric("a_total", 1, MetricType.COUNTER)

        data = get_dashboard_data()

        assert set(data) == {"metrics_summary", "active_alerts", "alert_rules", "system_status"}
        assert data["active_alerts"] == []
        assert [rule["name"] for rule in data["alert_rules"]] == ["r"]
        assert data["system_status"]["monitoring_active"] is False
        assert data["system_status"]["total_metrics"] >= 1
        assert data["system_status"]["timestamp"].endswith("Z")

    def test_starting_and_stopping_twice(self, telemetry: Telemetry) -> None:
        """
        Started it is active; starting and stopping again changes nothing.
        """
        start_monitoring()
        start_monitoring()
        assert get_dashboard_data()["system_status"]["monitoring_active"] is True

        stop_monitoring()
        stop_monitoring()
        assert get_dashboard_data()["system_status"]["monitoring_active"] is False


class TestAlerts:
    def test_fires_and_resolves(self, telemetry: Telemetry) -> None:
        """
        A counter is compared by its increase in 5 min: it fires when exceeded and resolves when the window has passed.
        """
        create_alert_rule("high_error_rate", "result_failure_total", AlertCondition.GREATER_THAN, 2.0)
        for _ in range(3):
            collect_result_metric("op", Failure("x"), 1.0)

        telemetry.advance(1)
        (active,) = get_dashboard_data()["active_alerts"]
        assert (active["rule_name"], active["current_value"], active["threshold"]) == ("high_error_rate", 3.0, 2.0)
        telemetry.advance(320)

        assert get_dashboard_data()["active_alerts"] == []
        telemetry.assert_records({"kind": "alert", "status": "firing"}, {"kind": "alert", "status": "resolved"})

    @pytest.mark.parametrize(
        ("aggregation", "value"),
        [(None, 300.0), ("p50", 200.0), ("p99", 300.0), ("mean", 200.0), ("increase", 3.0), ("rate", 0.01)],
    )
    def test_aggregations_of_a_histogram(self, telemetry: Telemetry, aggregation: str | None, value: float) -> None:
        """
        A histogram is compared by its p95 in 5 min, or as the rule says.
        """
        options: dict[str, Any] = {} if aggregation is None else {"aggregation": aggregation}
        create_alert_rule("r", "wait_ms", AlertCondition.GREATER_THAN, 0.0, **options)
        for wait in (100.0, 200.0, 300.0):
            collect_metric("wait_ms", wait, MetricType.HISTOGRAM)

        telemetry.advance(1)

        (active,) = telemetry.monitor.alerts.active()
        assert active["current_value"] == pytest.approx(value, rel=0.01)

    def test_gauges_and_rates(self, telemetry: Telemetry) -> None:
        """
        A gauge is compared by its last value, a counter also per second.
        """
        create_alert_rule("status", "circuit_breaker_status", AlertCondition.EQUAL, 1.0)
        create_alert_rule(
            "rate", "orders_total", AlertCondition.GREATER_THAN, 0.5, aggregation="rate", window_seconds=10
        )
        collect_metric("circuit_breaker_status", 1.0)
        collect_metric("orders_total", 10, MetricType.COUNTER)

        telemetry.advance(1)

        assert {alert["rule_name"]: alert["current_value"] for alert in telemetry.monitor.alerts.active()} == {
            "status": 1.0,
            "rate": 1.0,
        }

    @pytest.mark.parametrize(
        ("metric_type", "aggregation"),
        [(MetricType.COUNTER, "p95"), (MetricType.GAUGE, "increase"), (MetricType.HISTOGRAM, "last")],
    )
    def test_an_unfit_aggregation_is_an_error_state(
        self, telemetry: Telemetry, metric_type: MetricType, aggregation: str
    ) -> None:
        """
        A rule that asks a metric for what it hasn't got is in error, never silently fine.
        """
        collect_metric("m", 1, metric_type)
        create_alert_rule("r", "m", AlertCondition.GREATER_THAN, 0.0, aggregation=aggregation)

        telemetry.advance(1)

        assert str(telemetry.monitor.alerts.states()["r"].status) == "error"

    def test_a_bad_rule_is_refused(self, telemetry: Telemetry) -> None:
        """
        A rule with a wrong field is a clear error that names rule and field.
        """
        with pytest.raises(AlertRuleError, match=r"alert rule 'r': threshold"):
            create_alert_rule("r", "m", AlertCondition.GREATER_THAN, math.nan)

    def test_defaults_are_idempotent(self, telemetry: Telemetry) -> None:
        """
        The three default rules may be set again, and a healthy service fires none.
        """
        setup_default_alerts()
        setup_default_alerts()
        collect_result_metric("op", Success(1), 10.0)
        telemetry.advance(1)

        assert len(telemetry.monitor.alerts.rules()) == 3
        telemetry.assert_no_alert()

    def test_an_evening_of_expected_failures_is_healthy(self, telemetry: Telemetry) -> None:
        """
        Failures that belong to normal business are counted and alert nobody; as many unexpected ones do.
        """

        class SoldOutError(Exception):
            expected = True

        setup_default_alerts()
        for _ in range(20):
            collect_result_metric("order", Failure(SoldOutError()), 10.0)
            collect_result_metric("order", Failure(SoldOutError()), 10.0, labels={"store": "a"})
        telemetry.advance(1)
        telemetry.assert_no_alert()
        telemetry.assert_metric("result_failure_total", 40)

        for _ in range(11):
            collect_result_metric("order", Failure(ValueError()), 10.0)
        telemetry.advance(1)

        assert [alert["rule_name"] for alert in telemetry.monitor.alerts.active()] == ["high_failure_count"]


class TestAncestorsClasses:
    def test_join_the_default_monitor(self, telemetry: Telemetry) -> None:
        """
        The classes have no state of their own: what the functions do, they show.
        """
        collect_result_metric("op", Success(1), 10.0)
        collector = ResultMetricsCollector.instance()
        manager = ResultAlertManager(collector)
        manager.add_alert_rule("r", "result_success_total", AlertCondition.GREATER_THAN, 0.0)
        telemetry.advance(1)

        assert collector.monitor is telemetry.monitor
        assert collector.get_metrics_summary()["counters"]["result_success_total"] == 1
        (rule,) = manager.get_alert_rules()
        assert (rule["name"], rule["threshold"], rule["enabled"]) == ("r", 0.0, True)
        assert [alert["rule_name"] for alert in manager.get_active_alerts()] == ["r"]

    def test_may_have_a_monitor_of_their_own(self, telemetry: Telemetry) -> None:
        """
        Given a Monitor, they show that one.
        """
        own = Monitor()

        assert ResultMetricsCollector(own).monitor is own


class TestRanges:
    def test_a_bad_range_is_refused(self, telemetry: Telemetry) -> None:
        """
        A range that is none is a clear error.
        """
        with pytest.raises(TimeRangeError):
            get_metrics_summary(time_range_minutes=0)
