"""The monitoring routes: what they answer after a known evening's work, and what they refuse."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import httpx
import pytest
from fastapi import FastAPI
from pydantic import TypeAdapter

from rfs.errors import MetricDefinitionError, QueryBusyError, QueryTimeoutError, StoreError, TimeRangeError
from rfs.monitoring import dashboard_api
from rfs.monitoring.alerts import Alert, AlertCondition, Rule
from rfs.monitoring.dashboard_api import SECURITY_HEADERS, Indicator
from rfs.monitoring.monitor import Monitor, use_monitor
from rfs.testing.virtual_time import VirtualTime

pytestmark = pytest.mark.filterwarnings("error")

READINGS = (
    "/health",
    "/metrics",
    "/dashboard",
    "/operations/order.create/metrics",
    "/health/result-patterns",
    "/errors/top",
    "/api/overview",
    "/api/records",
    "/api/records/table-3",
)


def strict(text: str) -> Any:
    """Parse JSON as the standard has it: no NaN, no Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def within_one_percent(value: float) -> Any:
    """The accuracy that percentiles are promised with."""
    return pytest.approx(value, rel=0.01)


class TestHealth:
    async def test_off_is_degraded(self, client: httpx.AsyncClient) -> None:
        """
        A monitor that does not run watches nothing, and says so.
        """
        body = (await client.get("/health")).json()

        assert body == {
            "status": "degraded",
            "active_alerts": 0,
            "critical_alerts": 0,
            "monitoring_active": False,
            "timestamp": "2027-01-15T08:00:00.000Z",
        }

    @pytest.mark.parametrize(("severity", "status"), [("warning", "healthy"), ("critical", "degraded")])
    async def test_only_a_critical_alert_degrades(
        self, client: httpx.AsyncClient, busy: Monitor, severity: str, status: str
    ) -> None:
        """
        A warning is counted and leaves the service healthy; a critical alert degrades it.
        """
        busy.alerts.set_rule(
            Rule("failures", "result_failure_total", AlertCondition.GREATER_THAN, 2, severity=severity)
        )
        busy.start()
        busy.query.books()
        busy.alerts.evaluate(busy.clock.monotonic())

        body = (await client.get("/health")).json()

        assert (body["status"], body["active_alerts"]) == (status, 1)


class TestAlertsOfOtherProcesses:
    """Of a service with a rule that fires, in a directory: the process that evaluates it, and one that does not."""

    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        return tmp_path

    @pytest.fixture
    def monitor(self, clock: VirtualTime, directory: Path) -> Iterator[Monitor]:
        """Evaluates nothing; it was started, as far as can be seen."""
        made = Monitor(service_name="table order", clock=clock, directory=directory)
        with patch.object(Monitor, "running", new=True):
            yield made
        made.stop()

    @pytest.fixture
    def leader(self, monitor: Monitor, clock: VirtualTime, directory: Path) -> Iterator[Monitor]:
        made = Monitor(service_name="table order", clock=clock, directory=directory)
        made.alerts.set_rule(Rule("queue", "queued", AlertCondition.GREATER_THAN, 2, severity="critical"))
        made.gauge("queued").set(3)
        made.beat()
        yield made
        made.stop()

    async def test_are_answered(self, client: httpx.AsyncClient, leader: Monitor) -> None:
        """
        The routes of a process that evaluates no rule have the alerts of the one that does.
        """
        health = strict((await client.get("/health")).text)
        overview = strict((await client.get("/api/overview")).text)
        dashboard = strict((await client.get("/dashboard")).text)
        patterns = strict((await client.get("/health/result-patterns")).text)

        assert (health["status"], health["active_alerts"], health["critical_alerts"]) == ("degraded", 1, 1)
        assert patterns["status"] == "degraded"
        assert overview["health"]["active_alerts"] == overview["alert_rules"] == 1
        assert overview["alerts"] == dashboard["active_alerts"] == [dict(alert) for alert in leader.alerts.active()]

    async def test_unknown_is_null(self, client: httpx.AsyncClient) -> None:
        """
        Where nobody tells, neither "healthy" nor 0 is said.
        """
        health = strict((await client.get("/health")).text)
        overview = strict((await client.get("/api/overview")).text)
        dashboard = strict((await client.get("/dashboard")).text)
        patterns = strict((await client.get("/health/result-patterns")).text)

        assert health["status"] == patterns["status"] == overview["health"]["status"] == "unknown"
        assert health["active_alerts"] is health["critical_alerts"] is None
        assert overview["alerts"] is overview["alert_rules"] is dashboard["active_alerts"] is None
        assert dashboard["system_status"]["alerts_known"] is False


class TestDocumentedRoutes:
    async def test_metrics_are_the_summary(self, client: httpx.AsyncClient, busy: Monitor) -> None:
        """
        ``/metrics?hours=2`` is the summary of 120 minutes.
        """
        body = strict((await client.get("/metrics", params={"hours": 2})).text)

        assert body["time_range_minutes"] == 120
        assert body["counters"]["result_success_total"] == 12
        assert body["counters"]["result_failure_total"] == 3
        assert body["histograms"]["result_duration_ms"]["count"] == 15

    async def test_unknown_is_null(self, client: httpx.AsyncClient, busy: Monitor, clock: VirtualTime) -> None:
        """
        An operation that did not run within the range has no rate and no p95: null, not NaN and not 0.
        """
        busy.query.books()
        clock.advance(3 * 3600)

        body = strict((await client.get("/operations/order.create/metrics")).text)

        assert body["total_requests"] == 0
        assert body["success_rate"] is body["p95_response_time_ms"] is body["max_response_time_ms"] is None

    async def test_dashboard_has_the_documented_keys(self, client: httpx.AsyncClient, busy: Monitor) -> None:
        """
        ``/dashboard`` is what ``get_dashboard_data`` returns.
        """
        body = strict((await client.get("/dashboard")).text)

        assert set(body) == {"metrics_summary", "active_alerts", "alert_rules", "system_status"}
        assert body["system_status"]["monitoring_active"] is False
        assert body["metrics_summary"]["counters"]["result_failure_total"] == 3

    async def test_operation(self, client: httpx.AsyncClient, busy: Monitor) -> None:
        """
        An operation answers with the plan's names and the numbers of the evening.
        """
        body = strict((await client.get("/operations/order.create/metrics")).text)

        assert body["operation_name"] == "order.create"
        assert body["time_window"] == "1h"
        assert (body["total_requests"], body["successful_requests"], body["failed_requests"]) == (10, 7, 3)
        assert body["success_rate"] == 0.7
        assert body["p50_response_time_ms"] == within_one_percent(10)
        assert body["p95_response_time_ms"] == within_one_percent(10)
        assert body["p99_response_time_ms"] == within_one_percent(10)
        assert body["error_breakdown"] == {"SOLD_OUT": 2, "TIMEOUT": 1}
        assert body["avg_memory_usage_mb"] is None

    async def test_operation_with_a_slash(self, client: httpx.AsyncClient, busy: Monitor) -> None:
        """
        An operation's name may contain slashes.
        """
        body = (await client.get("/operations/menu/list/metrics", params={"time_range": "15m"})).json()

        assert (body["operation_name"], body["total_requests"]) == ("menu/list", 5)

    async def test_operation_never_measured(self, client: httpx.AsyncClient, busy: Monitor) -> None:
        """
        An operation that nobody ever measured is 404, not a row of zeros.
        """
        response = await client.get("/operations/order.eat/metrics")

        assert response.status_code == 404
        assert response.json()["message"] == "no operation 'order.eat' was ever measured"

    async def test_result_patterns(self, client: httpx.AsyncClient, busy: Monitor) -> None:
        """
        The health of Results: 15 in all, 3 failed, all of them orders.
        """
        body = strict((await client.get("/health/result-patterns")).text)

        assert (body["operations"], body["total_results"]) == (2, 15)
        assert (body["success_total"], body["failure_total"], body["success_rate"]) == (12, 3, 0.8)
        assert body["failing_operations"] == [
            {"operation_name": "order.create", "total": 10, "failed": 3, "failure_ratio": 0.3}
        ]
        assert body["top_error_codes"] == {"SOLD_OUT": 2, "TIMEOUT": 1}

    async def test_result_patterns_of_nothing(self, client: httpx.AsyncClient, monitor: Monitor) -> None:
        """
        Without a single Result there is no success rate.
        """
        body = strict((await client.get("/health/result-patterns")).text)

        assert (body["total_results"], body["success_rate"]) == (0, None)

    async def test_top_errors(self, client: httpx.AsyncClient, busy: Monitor) -> None:
        """
        The most frequent failure is first, with a sample of its text and a way to its records.
        """
        body = strict((await client.get("/errors/top")).text)

        assert [(one["operation"], one["error_code"], one["count"]) for one in body] == [
            ("order.create", "SOLD_OUT", 2),
            ("order.create", "TIMEOUT", 1),
        ]
        assert body[0]["message"] == "the soup is sold out"
        assert body[0]["correlation_id"] == "table-4"

    async def test_top_errors_are_limited(self, client: httpx.AsyncClient, busy: Monitor) -> None:
        """
        ``limit`` cuts the list.
        """
        body = (await client.get("/errors/top", params={"limit": 1})).json()

        assert len(body) == 1


class TestConfigureAlerts:
    RULE: ClassVar = {
        "name": "failures",
        "metric_name": "result_failure_total",
        "condition": "greater_than",
        "threshold": 2,
    }

    async def test_creates_a_rule(self, client: httpx.AsyncClient, monitor: Monitor) -> None:
        """
        What is posted is a rule from then on.
        """
        response = await client.post("/alerts/configure", json=self.RULE)

        assert (response.status_code, response.json()) == (200, "alert rule 'failures' created")
        assert monitor.alerts.rules() == [Rule("failures", "result_failure_total", AlertCondition.GREATER_THAN, 2)]

    async def test_updates_only_what_is_given(self, client: httpx.AsyncClient, monitor: Monitor) -> None:
        """
        To move a threshold is not to reset the rest of the rule.
        """
        monitor.alerts.set_rule(
            Rule(
                "failures", "result_failure_total", AlertCondition.GREATER_THAN, 2, severity="critical", for_seconds=60
            )
        )

        response = await client.post("/alerts/configure", json={**self.RULE, "threshold": 9})

        (rule,) = monitor.alerts.rules()
        assert response.json() == "alert rule 'failures' updated"
        assert (rule.threshold, rule.severity, rule.for_seconds) == (9, "critical", 60)

    async def test_same_again_changes_nothing(self, client: httpx.AsyncClient, monitor: Monitor) -> None:
        """
        The same rule twice is one rule.
        """
        await client.post("/alerts/configure", json=self.RULE)

        response = await client.post("/alerts/configure", json={**self.RULE, "condition": "GREATER_THAN"})

        assert response.json() == "alert rule 'failures' unchanged"

    async def test_keeps_the_callback(self, client: httpx.AsyncClient, busy: Monitor) -> None:
        """
        A rule whose threshold was moved over HTTP still calls who asked to be called.
        """
        told: list[Alert] = []
        busy.alerts.set_rule(Rule("failures", "result_failure_total", AlertCondition.GREATER_THAN, 99), told.append)

        await client.post("/alerts/configure", json=self.RULE)
        busy.query.books()
        busy.alerts.evaluate(busy.clock.monotonic())
        busy.alerts.close(5)

        assert [alert["status"] for alert in told] == ["firing"]

    @pytest.mark.parametrize(
        ("changed", "name"),
        [
            ({"name": ""}, "name"),
            ({"name": "a\nb"}, "name"),
            ({"name": None}, "name"),
            ({"metric_name": "1a"}, "metric_name"),
            ({"condition": "above"}, "condition"),
            ({"threshold": "much"}, "threshold"),
            ({"threshold": None}, "threshold"),
            ({"window_seconds": 0}, "window_seconds"),
            ({"for_seconds": -1}, "for_seconds"),
            ({"severity": "loud"}, "severity"),
            ({"aggregation": "p101"}, "aggregation"),
            ({"clear_threshold": 3}, "clear_threshold"),
            ({"labels": {"operation": 1}}, "labels.operation"),
            ({"labels": {"1": "x"}}, "labels"),
            ({"runbook_url": "javascript:alert(1)"}, "runbook_url"),
            ({"callback": "os.system"}, "callback"),
        ],
    )
    async def test_names_the_field_that_is_wrong(
        self, client: httpx.AsyncClient, monitor: Monitor, changed: dict[str, object], name: str
    ) -> None:
        """
        A rule that cannot be watched is refused by 422 with the field, and is not there afterwards.
        """
        response = await client.post("/alerts/configure", json={**self.RULE, **changed})

        assert response.status_code == 422
        assert response.json()["details"]["field"] == name
        assert monitor.alerts.rules() == []

    @pytest.mark.parametrize(
        ("content", "name"),
        [
            (b'{"name":"a","metric_name":"m","condition":"equal","threshold":NaN}', "threshold"),
            (b'{"name":"a","metric_name":"m","condition":"equal","threshold":1e999}', "threshold"),
            (b"{", "body"),
            (b"[]", "body"),
            (b"", "body"),
        ],
    )
    async def test_a_body_that_is_no_rule(
        self, client: httpx.AsyncClient, monitor: Monitor, content: bytes, name: str
    ) -> None:
        """
        Broken JSON and numbers that are none are refused too.
        """
        response = await client.post("/alerts/configure", content=content, headers={"content-type": "application/json"})

        assert response.status_code == 422
        assert response.json()["details"]["field"] == name
        assert monitor.alerts.rules() == []


class TestOverview:
    async def test_requests(self, client: httpx.AsyncClient, busy: Monitor) -> None:
        """
        Twenty requests, one of them 503 and two 404, two still running.
        """
        requests = strict((await client.get("/api/overview")).text)["requests"]

        assert (requests["total"], requests["failed"], requests["error_ratio"]) == (20, 1, 0.05)
        assert (requests["client_errors"], requests["client_error_ratio"]) == (2, 0.1)
        assert requests["per_second"] == pytest.approx(20 / 60)
        assert (requests["active"], requests["streams"]) == (2, None)
        assert requests["p50_ms"] == within_one_percent(100)
        assert requests["p99_ms"] == within_one_percent(3000)
        assert (requests["points"][-1], requests["failed_points"][-1]) == (20, 1)
        assert set(requests["points"][:-1]) == {None}

    async def test_operations(self, client: httpx.AsyncClient, busy: Monitor) -> None:
        """
        Operations are listed by how busy they are, and added up.
        """
        body = strict((await client.get("/api/overview", params={"time_range": "5m"})).text)

        orders, menu = body["operations"]
        assert (orders["operation"], orders["total"], orders["failed"]) == ("order.create", 10, 3)
        assert orders["error_ratio"] == 0.3
        assert orders["p95_ms"] == within_one_percent(10)
        assert orders["active"] == 0
        assert orders["points"][-1] == 10
        assert (menu["operation"], menu["total"], menu["error_ratio"]) == ("menu/list", 5, 0)
        together = body["operations_total"]
        assert (together["total"], together["failed"], together["error_ratio"]) == (15, 3, 0.2)
        assert together["per_second"] == 15 / 60
        assert body["operations_known"] == 2

    async def test_routes(self, client: httpx.AsyncClient, busy: Monitor) -> None:
        """
        A route is its method and template.
        """
        body = strict((await client.get("/api/overview")).text)

        (route,) = body["routes"]
        assert (route["method"], route["route"], route["total"]) == ("POST", "/orders/{id}", 20)
        assert (route["failed"], route["error_ratio"]) == (1, 0.05)
        assert body["routes_known"] == 1

    async def test_range_is_left(self, client: httpx.AsyncClient, busy: Monitor, clock: VirtualTime) -> None:
        """
        What is older than the range is not in it; the rate is the last minute's.
        """
        busy.query.books()
        clock.advance(120)

        five = strict((await client.get("/api/overview", params={"time_range": "5m"})).text)
        one = strict((await client.get("/api/overview", params={"time_range": "1m"})).text)

        assert (five["requests"]["total"], five["requests"]["per_second"]) == (20, 0)
        assert (one["requests"]["total"], one["requests"]["error_ratio"], one["requests"]["p50_ms"]) == (0, None, None)
        assert one["operations"] == []

    async def test_indicators(self, client: httpx.AsyncClient, busy: Monitor) -> None:
        """
        An indicator is ok or over by its threshold, only watched without one, and unknown is a state of its own.
        """
        found = {one["key"]: one for one in strict((await client.get("/api/overview")).text)["indicators"]}

        assert list(found) == ["p95", "errors", "orders", "connections", "never"]
        assert (found["p95"]["state"], found["p95"]["value"]) == ("ok", within_one_percent(0.1))
        assert (found["errors"]["state"], found["errors"]["value"]) == ("over", 0.05)
        assert (found["orders"]["state"], found["orders"]["value"]) == ("watch", 7)
        assert (found["connections"]["state"], found["connections"]["value"]) == ("watch", 7)
        assert (found["never"]["state"], found["never"]["value"]) == ("unknown", None)
        assert found["errors"]["title"] == {"en": "Error ratio (5xx)", "ko": "오류율 (5xx)"}
        assert found["errors"]["points"][-1] == 0.05

    async def test_nothing_measured_is_unknown(self, client: httpx.AsyncClient, monitor: Monitor) -> None:
        """
        A service that has measured nothing shows no numbers at all, rather than zeros.
        """
        body = strict((await client.get("/api/overview")).text)

        for part in (body["requests"], body["operations_total"]):
            for name in ("total", "failed", "error_ratio", "per_second", "active", "p50_ms", "p95_ms", "p99_ms"):
                assert part[name] is None, name
        assert body["operations"] == body["routes"] == body["errors"] == body["records"] == body["alerts"] == []
        assert {one["state"] for one in body["indicators"]} == {"unknown"}

    async def test_requests_that_are_no_counter_are_unknown(self, client: httpx.AsyncClient, monitor: Monitor) -> None:
        """
        Where a host has a metric of another type under the name, how many requests there were is not known, and not 0.
        """
        monitor.gauge("http_requests_total").set(7)

        requests = strict((await client.get("/api/overview")).text)["requests"]

        for name in ("total", "failed", "client_errors", "per_second", "error_ratio"):
            assert requests[name] is None, name

    async def test_alerts(self, client: httpx.AsyncClient, busy: Monitor) -> None:
        """
        An active alert is shown with its value and rule.
        """
        busy.alerts.set_rule(Rule("failures", "result_failure_total", AlertCondition.GREATER_THAN, 2))
        busy.query.books()
        busy.alerts.evaluate(busy.clock.monotonic())

        body = strict((await client.get("/api/overview")).text)

        (alert,) = body["alerts"]
        assert (alert["rule_name"], alert["current_value"], alert["threshold"]) == ("failures", 3, 2)
        assert (alert["status"], alert["condition"]) == ("firing", "greater_than")
        assert (body["alert_rules"], body["health"]["active_alerts"]) == (1, 1)

    async def test_records_of_a_level(self, client: httpx.AsyncClient, busy: Monitor) -> None:
        """
        ``min_level`` and ``limit`` choose the records; the newest are first.
        """
        body = strict((await client.get("/api/overview", params={"min_level": 30, "limit": 2})).text)

        assert [(one["correlation_id"], one["error_code"]) for one in body["records"]] == [
            ("table-5", "TIMEOUT"),
            ("table-4", "SOLD_OUT"),
        ]

    async def test_long_messages_are_cut(self, client: httpx.AsyncClient, monitor: Monitor) -> None:
        """
        A long message is cut in the list, and whole in the record.
        """
        monitor.log(20, "soup " * 1000)

        row = (await client.get("/api/overview")).json()["records"][0]
        whole = (await client.get("/api/records")).json()["records"][0]

        assert len(row["message"]) == 400
        assert row["message"].endswith("…")
        assert len(whole["message"]) == 5000

    async def test_books_balance(self, client: httpx.AsyncClient, busy: Monitor) -> None:
        """
        Everything that was produced is delivered by the time it is shown.
        """
        records = strict((await client.get("/api/overview")).text)["books"]["records"]

        assert records["produced"] == records["delivered"] == busy.query.books()["records"]["produced"] > 0

    def test_is_of_one_moment(self, busy: Monitor) -> None:
        """
        What happens while an overview is being read is in the next one, not in half of this one.
        """
        settled = busy.query.settled()

        busy.counter("http_requests_total").inc(1, method="GET", route="/late", status="200")

        assert settled.increase("http_requests_total", "5m") == 20
        assert busy.query.increase("http_requests_total", "5m") == 21

    async def test_looking_changes_nothing(self, client: httpx.AsyncClient, busy: Monitor) -> None:
        """
        The dashboard does not observe itself: the second look sees what the first saw.
        """
        first = (await client.get("/api/overview")).json()
        second = (await client.get("/api/overview")).json()

        assert first == second


class TestRecords:
    async def test_one_correlation_id(self, client: httpx.AsyncClient, busy: Monitor) -> None:
        """
        All records of one id come oldest first and whole, those of others do not.
        """
        body = strict((await client.get("/api/records/table-3")).text)

        assert (body["correlation_id"], body["truncated"]) == ("table-3", False)
        assert {record["correlation_id"] for record in body["records"]} == {"table-3"}
        assert [record["timestamp"] for record in body["records"]] == sorted(r["timestamp"] for r in body["records"])
        assert body["records"][-1]["error"]["code"] == "SOLD_OUT"

    async def test_unknown_id_has_no_records(self, client: httpx.AsyncClient, busy: Monitor) -> None:
        """
        An id that nobody used has an empty list.
        """
        assert (await client.get("/api/records/nobody")).json()["records"] == []

    async def test_what_is_no_cursor(self, client: httpx.AsyncClient, busy: Monitor) -> None:
        """
        What no answer has given as a cursor is refused, and not repeated in the answer.
        """
        response = await client.get("/api/records", params={"before": "<script>"})

        assert response.status_code == 422
        assert response.json()["details"]["field"] == "before"
        assert "script" not in response.text

    @pytest.mark.parametrize("name", ["a b", "a/b", "%3Cscript%3E", "x" * 65, "%00", "ㄱ"])
    async def test_what_is_no_id(self, client: httpx.AsyncClient, monitor: Monitor, name: str) -> None:
        """
        What cannot be a correlation id is refused, and not repeated in the answer.
        """
        response = await client.get(f"/api/records/{name}")

        assert response.status_code == 422
        assert response.json()["details"]["field"] == "correlation_id"

    async def test_filters(self, client: httpx.AsyncClient, busy: Monitor) -> None:
        """
        Records are chosen by operation, level and id, and limited; the cursor of the last goes on with the next page.
        """
        of_menu = (await client.get("/api/records", params={"operation": "menu/list"})).json()["records"]
        failed = (await client.get("/api/records", params={"min_level": 30, "limit": 2})).json()["records"]
        of_table = (await client.get("/api/records", params={"correlation_id": "table-1"})).json()["records"]

        assert {record["operation"] for record in of_menu} == {"menu/list"}
        assert [record["correlation_id"] for record in failed] == ["table-5", "table-4"]
        next_page = {"min_level": 30, "limit": 2, "before": failed[-1]["cursor"]}
        more = (await client.get("/api/records", params=next_page)).json()["records"]
        assert [record["correlation_id"] for record in more] == ["table-3"]
        assert {record["correlation_id"] for record in of_table} == {"table-1"}


class TestNotNow:
    @pytest.mark.parametrize(
        "path", ["/api/overview", "/api/records", "/metrics", "/errors/top", "/health/result-patterns"]
    )
    @pytest.mark.parametrize(
        ("error", "told"),
        [
            (QueryBusyError(4, 0.5), "query: 4 others were being answered for 0.5 s; ask again in a moment"),
            (QueryTimeoutError(2), "query: not answered within 2 s"),
            (StoreError("/var/lib/secret/store", "cannot be read", "S113"), "the store cannot be read at the moment"),
        ],
    )
    async def test_is_told_to_come_again(
        self,
        client: httpx.AsyncClient,
        monitor: Monitor,
        monkeypatch: pytest.MonkeyPatch,
        path: str,
        error: Exception,
        told: str,
    ) -> None:
        """
        What cannot be answered now is 503 with the reason and when to ask again; where the store is is nobody's business.
        """

        def refuse() -> None:
            raise error

        monkeypatch.setattr(monitor.query, "_collect", refuse)

        response = await client.get(path)

        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
        assert response.headers["cache-control"] == "no-store"
        body = strict(response.text)
        assert body["code"] == "SERVICE_UNAVAILABLE"
        assert body["message"].startswith(told)
        assert "secret" not in response.text
        assert (await client.get("/health")).status_code == 200


class TestHangs:
    async def test_a_disk_that_hangs_holds_up_no_other_request(
        self, client: httpx.AsyncClient, monitor: Monitor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        An answer that never comes is 503 after a while, and what needs none is served meanwhile.
        """
        is_over, has_begun = threading.Event(), threading.Event()

        def hang() -> None:
            has_begun.set()
            is_over.wait(60)

        monkeypatch.setattr(monitor.query, "_collect", hang)
        monkeypatch.setattr(dashboard_api, "_PATIENCE_SECONDS", 0.2)
        try:
            hung = asyncio.create_task(client.get("/errors/top"))
            while not has_begun.is_set():
                await asyncio.sleep(0)

            assert (await client.get("/health")).status_code == 200
            assert not hung.done() or (await hung).status_code == 503
            assert (await hung).status_code == 503
            assert strict((await hung).text)["message"].startswith("query: not answered within 0.2 s")
        finally:
            is_over.set()


class TestBounds:
    @pytest.mark.parametrize("route", ["/errors/top", "/api/overview", "/api/records"])
    @pytest.mark.parametrize("limit", ["0", "-1", "1001", "1000000000", "NaN", "1;drop", "", "1.5"])
    async def test_limit(self, client: httpx.AsyncClient, monitor: Monitor, route: str, limit: str) -> None:
        """
        A limit is a whole number from 1 to 1000, and the refusal says so.
        """
        response = await client.get(route, params={"limit": limit})

        assert response.status_code == 422
        assert response.json()["message"] == "limit: must be a whole number from 1 to 1000"

    @pytest.mark.parametrize("hours", ["0", "-5", "721", "1e3", "one"])
    async def test_hours(self, client: httpx.AsyncClient, monitor: Monitor, hours: str) -> None:
        """
        Hours are a whole number from 1 to 720.
        """
        response = await client.get("/metrics", params={"hours": hours})

        assert response.status_code == 422
        assert response.json()["message"] == "hours: must be a whole number from 1 to 720"

    @pytest.mark.parametrize("route", ["/operations/order.create/metrics", "/errors/top", "/api/overview"])
    @pytest.mark.parametrize(
        "time_range", ["0s", "99999y", "1h'--", "-1h", "31d", "", "1", "NaN", "1h 2h", "９m", "9" * 8000 + "s"]
    )
    async def test_time_range(self, client: httpx.AsyncClient, busy: Monitor, route: str, time_range: str) -> None:
        """
        A time range that cannot be read, or is not from 1 s to 30 d, is refused with the field and what is allowed.
        """
        response = await client.get(route, params={"time_range": time_range})

        assert response.status_code == 422
        details = response.json()["details"]
        assert details["field"] == "time_range"
        assert "from 1 s to 30 d" in details["fault"]

    async def test_edges_are_allowed(self, client: httpx.AsyncClient, busy: Monitor) -> None:
        """
        The bounds themselves are within.
        """
        for route in (
            "/metrics?hours=1",
            "/metrics?hours=720",
            "/errors/top?limit=1&time_range=1s",
            "/errors/top?limit=1000&time_range=30d",
            "/api/overview?time_range=30d",
        ):
            assert (await client.get(route)).status_code == 200, route


class TestHost:
    async def test_at_most_four_readings_at_once(self, client: httpx.AsyncClient, monitor: Monitor) -> None:
        """
        Fifty visitors do not take the host's worker threads: four of them read, the others wait.
        """
        reading, most, lock = 0, 0, threading.Lock()
        full = threading.Barrier(4)
        books = monitor.query.books

        def slow() -> dict[str, dict[str, float]]:
            nonlocal reading, most
            with lock:
                reading += 1
                most = max(most, reading)
            with suppress(threading.BrokenBarrierError):
                full.wait(5)
            with lock:
                reading -= 1
            return books()

        monitor.query.settled = lambda moment=None: monitor.query  # type: ignore[method-assign]
        monitor.query.books = slow  # type: ignore[method-assign]
        responses = await asyncio.gather(*(client.get("/api/overview") for _ in range(12)))

        assert {response.status_code for response in responses} == {200}
        assert most == 4

    async def test_an_error_of_ours_is_the_hosts_500(self, client: httpx.AsyncClient, monitor: Monitor) -> None:
        """
        A fault in reading is not dressed up as an empty answer.
        """
        monitor.query.top_errors = None  # type: ignore[method-assign,assignment]

        with pytest.raises(TypeError):
            await client.get("/errors/top")


class TestAnswers:
    async def test_every_answer_has_the_browser_controls(self, client: httpx.AsyncClient, busy: Monitor) -> None:
        """
        Page, assets, readings and refusals carry the same headers, which are those that ``install`` sets.
        """
        for route in (
            "/",
            "/assets/page.js",
            "/assets/nothing",
            "/errors/top?limit=0",
            "/operations/x/metrics",
            *READINGS,
        ):
            response = await client.get(route)
            missing = {name for name, value in SECURITY_HEADERS.items() if response.headers.get(name) != value}
            assert not missing, route

    @pytest.mark.parametrize("route", READINGS)
    async def test_answers_are_as_documented(self, client: httpx.AsyncClient, busy: Monitor, route: str) -> None:
        """
        Each answer has exactly the shape that OpenAPI shows, without a key more.
        """
        declared = {
            made.path: made.response_model  # type: ignore[attr-defined]
            for made in dashboard_api.router.routes
            if getattr(made, "response_model", None) is not None
        }
        template = {
            "/operations/order.create/metrics": "/operations/{operation_name:path}/metrics",
            "/api/records/table-3": "/api/records/{correlation_id:path}",
        }.get(route, route)
        busy.alerts.set_rule(Rule("failures", "result_failure_total", AlertCondition.GREATER_THAN, 2))

        body = strict((await client.get(route)).text)

        TypeAdapter(declared[template]).validate_python(body)
        model = declared[template]
        if hasattr(model, "__annotations__"):
            assert set(body) == set(TypeAdapter(model).json_schema()["properties"])

    async def test_assets_are_a_closed_list(self, client: httpx.AsyncClient) -> None:
        """
        Nothing but the page's own files is served.
        """
        for name in ("../dashboard_api.py", "..%2fdashboard_api.py", "index.html", "page.js%00", "messages.json"):
            assert (await client.get(f"/assets/{name}")).status_code in (404, 422), name

    async def test_address_without_the_slash(self, client: httpx.AsyncClient) -> None:
        """
        The prefix alone leads to the page, whose links are relative to the slash.
        """
        response = await client.get("http://test/monitoring")

        assert response.status_code == 307
        assert response.headers["location"] == "http://test/monitoring/"

    async def test_media_types(self, client: httpx.AsyncClient) -> None:
        """
        Each file has its type, without which a browser told ``nosniff`` runs nothing.
        """
        types = {
            name: (await client.get(name)).headers["content-type"]
            for name in ("/", "/assets/page.css", "/assets/page.js", "/assets/messages.js", "/assets/icon.svg")
        }

        assert list(types.values()) == [
            "text/html; charset=utf-8",
            "text/css; charset=utf-8",
            "text/javascript; charset=utf-8",
            "text/javascript; charset=utf-8",
            "image/svg+xml",
        ]

    async def test_default_monitor_is_asked_at_each_request(self, monitor: Monitor) -> None:
        """
        The plain router shows whichever Monitor is the default one at the time.
        """
        app = FastAPI()
        app.include_router(dashboard_api.router, prefix="/watch")
        transport = httpx.ASGITransport(app)

        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            before = (await client.get("/watch/api/overview")).json()["service"]
            with use_monitor(Monitor(service_name="another")):
                after = (await client.get("/watch/api/overview")).json()["service"]

        assert (before, after) == ("table order", "another")

    async def test_openapi_shows_shapes_and_refusals(self, monitor: Monitor) -> None:
        """
        The documented routes are in OpenAPI with their bodies; the page is not.
        """
        app = FastAPI()
        app.include_router(dashboard_api.router, prefix="/monitoring")

        schema = app.openapi()

        operation = schema["paths"]["/monitoring/operations/{operation_name}/metrics"]["get"]["responses"]
        assert operation["200"]["content"]["application/json"]["schema"]["$ref"].endswith("OperationBody")
        assert operation["422"]["content"]["application/json"]["schema"]["$ref"].endswith("Problem")
        assert "/monitoring/" not in schema["paths"]


class TestIndicator:
    @pytest.mark.parametrize(
        ("options", "fault"),
        [
            ({"key": ""}, "needs key"),
            ({"title_ko": ""}, "needs key"),
            ({"kind": "ratio"}, "denominator"),
            ({"denominator": "b_total"}, "denominator"),
            ({"threshold": float("nan")}, "finite"),
            ({"kind": "p95", "labels": {"route": "/a*"}}, "histogram"),
            ({"labels": {"a": "*", "b": "*"}}, "only one label"),
        ],
    )
    def test_refuses_what_makes_no_sense(self, options: dict[str, Any], fault: str) -> None:
        """
        An indicator that could never be read is refused where it is declared.
        """
        good: dict[str, Any] = {"key": "a", "title_en": "A", "title_ko": "가", "metric": "a_total"}

        with pytest.raises(MetricDefinitionError, match=fault):
            Indicator(**{**good, **options})

    def test_refuses_a_window_that_cannot_be_read(self) -> None:
        """
        So is one with a window that is none.
        """
        with pytest.raises(TimeRangeError):
            Indicator("a", "A", "가", "a_total", window="yesterday")
