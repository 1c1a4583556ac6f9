"""Query: what is read equals what was recorded; what is not known is said to be unknown."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from rfs.core.result import Failure, Success
from rfs.errors import TimeRangeError
from rfs.monitoring._capture.instruments import MetricType
from rfs.monitoring._capture.segments import Segments
from rfs.monitoring._query import parse_time_range
from rfs.monitoring._store import StoredRecord
from rfs.monitoring._store.memory import MemoryStore
from rfs.monitoring._totals import Totals
from rfs.monitoring.alerts import AlertCondition, Rule
from rfs.monitoring.metrics import collect_metric, collect_result_metric, counter, gauge, histogram
from rfs.monitoring.monitor import Monitor
from rfs.testing.virtual_time import VirtualTime

NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001 - what must be refused


class TestTimeRange:
    @pytest.mark.parametrize(
        ("value", "seconds", "label"),
        [("30s", 30, "30s"), ("15m", 900, "15m"), ("1h", 3600, "1h"), ("1d", 86400, "1d"), ("1w", 604800, "7d"), (60, 3600, "1h"),
         (1.5, 90, "90s")],
    )  # fmt: skip
    def test_spellings(self, value: Any, seconds: float, label: str) -> None:
        """
        A range is a text, or a number of minutes, and knows its short name.
        """
        parsed = parse_time_range(value)

        assert (parsed.seconds, parsed.label) == (seconds, label)

    def test_two_datetimes(self) -> None:
        """
        Two aware datetimes are a half-open range; their zones do not matter.
        """
        start = datetime(2026, 9, 3, 15, 30, tzinfo=UTC)
        end = (start + timedelta(hours=1)).astimezone(timezone(timedelta(hours=9)))

        assert parse_time_range((start, end)).bounds(0) == (start.timestamp(), start.timestamp() + 3600)

    @pytest.mark.parametrize(
        "bad",
        ["", "1", "h", "1y", "0s", "-1h", "99999y", "1h'--", "31d", 0, -5, 1e9, math.nan, True, None, [], "1.5h", "٣h",
         (NAIVE, NAIVE + timedelta(days=1)), (1, 2), ()],
    )  # fmt: skip
    def test_what_is_none_of_these_is_refused(self, bad: Any) -> None:
        """
        Anything else is a clear error that shows the value and what is allowed.
        """
        with pytest.raises(TimeRangeError, match="from 1 s to 30 d") as caught:
            parse_time_range(bad)

        assert caught.value.value is bad


class TestSummary:
    def test_counters_are_increases_in_the_range(self, monitor: Monitor, clock: VirtualTime) -> None:
        """
        A counter shows what was added within the range, over all labels, as an integer where it is whole.
        """
        orders = counter("orders_total")
        orders.inc(3, status="new")
        monitor.query.summary(1)
        clock.advance(600)
        orders.inc(2, status="new")
        orders.inc(0.5, status="old")

        assert monitor.query.summary(60)["counters"]["orders_total"] == 5.5
        recent = monitor.query.summary("5m")
        assert recent["counters"]["orders_total"] == 2.5
        assert recent["time_range_minutes"] == 5
        whole = monitor.query.summary(60)["counters"]["result_success_total"]
        assert whole == 0
        assert isinstance(whole, int)

    def test_histograms_and_timers_have_sections_of_their_own(self, monitor: Monitor) -> None:
        """
        A histogram has nine figures; what was not measured is NaN, its count 0.
        """
        for value in (100.0, 200.0, 300.0):
            collect_metric("response_time_ms", value, MetricType.HISTOGRAM)
        collect_metric("query_ms", 5, MetricType.TIMER)

        summary = monitor.query.summary()

        figures = summary["histograms"]["response_time_ms"]
        assert (figures["count"], figures["sum"], figures["min"], figures["max"], figures["mean"]) == (
            3,
            600,
            100,
            300,
            200,
        )
        assert figures["p50"] == pytest.approx(200, rel=0.01)
        assert summary["timers"]["query_ms"]["count"] == 1
        empty = summary["histograms"]["result_duration_ms"]
        assert empty["count"] == 0
        assert math.isnan(empty["p95"])
        with pytest.raises(KeyError):
            summary["histograms"]["nobody_declared_this"]

    def test_gauges_show_the_last_write(self, monitor: Monitor, clock: VirtualTime) -> None:
        """
        Over several label sets the newest value counts; a gauge that was never written is not there.
        """
        gauge("never_written")
        gauge("connections").set(5, store="a")
        gauge("connections").set(7, store="b")

        gauges = monitor.query.summary()["gauges"]

        assert gauges == {"connections": 7}


class TestSingleMetrics:
    def test_unknown_is_none(self, monitor: Monitor) -> None:
        """
        Of a metric that does not exist, or is of another type, nothing is known; of a declared counter 0 is.
        """
        counter("orders_total")
        query = monitor.query

        assert query.increase("nothing") is None
        assert query.increase("orders_total") == 0
        assert query.latest("orders_total") is None
        assert query.distribution("orders_total") is None
        assert query.distribution("nothing") is None
        assert query.metric_type("nothing") is None
        assert query.points("nothing", "1m", 10) == []

    def test_by_labels(self, monitor: Monitor) -> None:
        """
        Labels select series; an empty value selects those without the label.
        """
        orders = counter("orders_total")
        orders.inc(1)
        orders.inc(2, store="a", status="new")
        orders.inc(4, store="b", status="new")
        query = monitor.query

        assert query.increase("orders_total", "1m", {"status": "new"}) == 6
        assert query.increase("orders_total", "1m", {"store": "a", "status": "new"}) == 2
        assert query.increase("orders_total", "1m", {"store": ""}) == 1
        assert query.increase_by("orders_total", "store") == {"b": 4, "a": 2, "": 1}
        assert query.label_values("orders_total", "store") == ["a", "b"]
        assert query.increases("orders_total", ("status", "store")) == {("new", "b"): 4, ("new", "a"): 2, ("", ""): 1}
        gauge("connections").set(1, store="a")
        gauge("connections").set(2, store="b")
        assert query.latest_by("connections", "store") == {"a": 1, "b": 2}
        assert query.latest("connections", {"store": "a"}) == 1
        assert query.latest("connections", {"store": "c"}) is None

    def test_points_follow_the_clock(self, monitor: Monitor, clock: VirtualTime) -> None:
        """
        Per step its increase, over all series; before anything was collected there is a gap.
        """
        orders = counter("orders_total")
        for minute in range(3):
            orders.inc(1, store="a")
            orders.inc(minute, store="b")
            monitor.query.summary()
            clock.advance(60)
        monitor.query.summary()

        values = [point.value for point in monitor.query.points("orders_total", "5m", 60)]

        assert values == [None, None, 1.0, 2.0, 3.0, 0.0]

    def test_a_distribution_over_all_series(self, monitor: Monitor) -> None:
        """
        Series of one histogram add up, or are taken apart by labels.
        """
        waits = histogram("wait_seconds")
        waits.observe(1.0, store="a")
        waits.observe(3.0, store="b")
        query = monitor.query

        whole, part = query.distribution("wait_seconds"), query.distribution("wait_seconds", "1m", {"store": "b"})

        assert whole is not None
        assert part is not None
        assert (whole.count, whole.sum, whole.min, whole.max) == (2, 4.0, 1.0, 3.0)
        assert (part.count, part.mean) == (1, 3.0)

    def test_distributions_of_groups(self, monitor: Monitor) -> None:
        """
        Several distributions are asked for as one question: of the groups that are named, as far as there are any.
        """
        waits = histogram("wait_seconds")
        for store, seconds in (("a", 1.0), ("b", 2.0), ("b", 4.0), ("c", 8.0)):
            waits.observe(seconds, store=store, till=str(seconds))
        query = monitor.query

        found = query.distributions("wait_seconds", ("store",), "1m", [("a",), ("b",), ("d",)])

        assert {group: (one.count, one.sum) for group, one in found.items()} == {("a",): (1, 1.0), ("b",): (2, 6.0)}
        assert query.distributions("nothing", ("store",), "1m", [("a",)]) == {}


class TestOperations:
    def test_all_fields(self, monitor: Monitor, clock: VirtualTime) -> None:
        """
        Every figure of an operation equals what was scripted; what nobody measures is NaN.
        """
        for number in range(90):
            collect_result_metric("pay", Success(number), 10.0)
        for number in range(10):
            collect_result_metric("pay", Failure(ValueError(f"no card {number}")), 100.0)

        found = monitor.query.operation("pay", "1h")

        assert found is not None
        assert (found.operation_name, found.time_window) == ("pay", "1h")
        assert (found.total_requests, found.successful_requests, found.failed_requests) == (100, 90, 10)
        assert found.success_rate == 0.9
        assert found.avg_response_time_ms == pytest.approx(19.0)
        assert found.p50_response_time_ms == pytest.approx(10, rel=0.01)
        assert found.p99_response_time_ms == pytest.approx(100, rel=0.01)
        assert found.max_response_time_ms == 100
        assert found.error_breakdown == {"ValueError": 10}
        assert found.throughput_per_second == pytest.approx(100 / 3600)
        assert sum(found.hourly_distribution.values()) == 100
        assert math.isnan(found.avg_cpu_usage_percent)

    def test_unknown_and_idle(self, monitor: Monitor, clock: VirtualTime) -> None:
        """
        An operation nobody ran is unknown; one that did not run within the range has no success rate.
        """
        collect_result_metric("pay", Success(1), 10.0)
        monitor.query.summary()
        clock.advance(600)

        idle = monitor.query.operation("pay", "1m")

        assert monitor.query.operation("refund") is None
        assert idle is not None
        assert idle.total_requests == 0
        assert math.isnan(idle.success_rate)
        assert math.isnan(idle.max_response_time_ms)
        assert monitor.query.operations("1m") == []
        assert [one.operation_name for one in monitor.query.operations("1h")] == ["pay"]

    def test_hours_are_those_of_the_zone(self, monitor: Monitor, clock: VirtualTime) -> None:
        """
        Requests are counted in the hour of the configured zone.
        """
        monitor.query.zone = timezone(timedelta(hours=9))
        hour = datetime.fromtimestamp(clock.time_ns() / 1e9, UTC).hour
        collect_result_metric("pay", Success(1), 10.0)
        monitor.query.summary()
        clock.advance(3600)
        collect_result_metric("pay", Success(1), 10.0)
        collect_result_metric("pay", Success(1), 10.0)

        found = monitor.query.operation("pay", "3h")

        assert found is not None
        assert found.hourly_distribution == {(hour + 9) % 24: 1, (hour + 10) % 24: 2}

    def test_one_moment(self, monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        However many operations there are, what was recorded is collected once for all of them, and once for the rules of a tick.
        """
        for number in range(5):
            monitor.measure_result(f"operation {number}", 12.0, failed=number > 2)
            monitor.alerts.set_rule(
                Rule(f"rule {number}", "result_failure_total", AlertCondition.GREATER_THAN, 0, cooldown_seconds=0)
            )
        readings: list[Totals] = []
        read = monitor._leader.live.read

        def count() -> Totals:
            readings.append(read())
            return readings[-1]

        monkeypatch.setattr(monitor._leader.live, "read", count)

        assert len(monitor.query.operations()) == 5
        assert len(readings) == 1
        monitor.tick()
        assert len(monitor.alerts.active()) == 5
        assert len(readings) == 2


class TestErrors:
    def test_grouped_counted_and_sampled(self, monitor: Monitor) -> None:
        """
        Failures are counted by operation, code and type, and the newest one is shown as a sample.
        """
        for number in range(3):
            collect_result_metric("pay", Failure(ValueError()), 1.0)
            monitor.log(
                40, "Operation failed", operation="pay", kind="operation", error=ValueError(f"no card {number}")
            )
        collect_result_metric("ship", Failure("lost"), 1.0)

        first, second = monitor.query.top_errors(limit=5)

        assert (first.operation, first.error_code, first.error_type, first.count) == (
            "pay",
            "ValueError",
            "ValueError",
            3,
        )
        assert first.message == "no card 2"
        assert first.last_seen is not None
        assert (second.operation, second.error_code, second.count, second.message) == ("ship", "UNKNOWN", 1, None)
        assert len(monitor.query.top_errors(limit=1)) == 1

    def test_messages_are_normalised(self, monitor: Monitor) -> None:
        """
        Messages that differ in their numbers are one entry of an operation's top errors.
        """
        for number in range(4):
            collect_result_metric("pay", Failure(ValueError()), 1.0)
            monitor.log(
                40, "Operation failed", operation="pay", kind="operation", error=ValueError(f"no card {number}")
            )

        found = monitor.query.operation("pay")

        assert found is not None
        assert found.top_errors == [("no card N", 4)]

    def test_reads_no_more_than_it_shows(self, monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Among many failures of one group the newest few are enough for its sample.
        """
        read = _read_records(monkeypatch)
        _fail_often(monitor, 500)

        assert monitor.query.top_errors()[0].message == "no card 499"
        assert sum(read) <= 20

    @pytest.mark.parametrize(("seconds", "fewest", "most"), [(0.0, 20, 20), (math.inf, 500, 500)])
    def test_messages_are_counted_while_there_is_time(
        self, monitor: Monitor, monkeypatch: pytest.MonkeyPatch, seconds: float, fewest: int, most: int
    ) -> None:
        """
        When its time is up, an operation's messages are those of its newest failures.
        """
        monkeypatch.setattr("rfs.monitoring._query._MESSAGES_SECONDS", seconds)
        _fail_often(monitor, 500)

        found = monitor.query.operation("pay")

        assert found is not None
        assert found.failed_requests == 500
        assert fewest <= found.top_errors[0][1] <= most


def _fail_often(monitor: Monitor, times: int) -> None:
    for number in range(times):
        collect_result_metric("pay", Failure(ValueError()), 1.0)
        monitor.log(40, "Operation failed", operation="pay", kind="operation", error=ValueError(f"no card {number}"))


def _read_records(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many records each reading of the store in memory gives, from now on."""
    read: list[int] = []
    records = MemoryStore.records

    def counting(*args: Any, **options: Any) -> list[StoredRecord]:
        found = records(*args, **options)
        read.append(len(found))
        return found

    monkeypatch.setattr(MemoryStore, "records", counting)
    return read


class TestRecords:
    def test_newest_first_and_by_id_oldest_first(self, monitor: Monitor, clock: VirtualTime) -> None:
        """
        The list of records begins with the newest, the records of one id with the oldest.
        """
        from rfs.monitoring.context import CorrelationContext

        with CorrelationContext("req"):
            for number in range(3):
                monitor.log(20, f"step {number}")
                clock.advance(1)

        assert [one.message for one in monitor.query.records(limit=2)] == ["step 2", "step 1"]
        assert [one.message for one in monitor.query.records_by_correlation_id("req")] == ["step 0", "step 1", "step 2"]


class TestBooks:
    def test_a_damaged_record_is_in_the_books(self, monitor: Monitor) -> None:
        """
        A record that was damaged in memory is counted as dropped for that, and the books balance all the same.
        """
        monitor.log(20, "first")
        monitor.log(20, "damaged")
        segments = monitor.capture.segments
        assert isinstance(segments, Segments)
        at = bytes(segments.memory).index(b"damaged")
        segments.memory[at] = 0

        monitor.query.records()  # a frame that does not fit together is looked at twice
        books = monitor.query.books()["records"]

        assert (books["produced"], books["delivered"], books["dropped_corrupt_frame"]) == (2, 1, 1)
        assert books["in_flight"] == 0

    def test_balance(self, monitor: Monitor) -> None:
        """
        What was produced is delivered or dropped with a reason; nothing is left over.
        """
        for _ in range(10):
            monitor.log(20, "kept")
        monitor.log(20, "too large", fields={f"k{n}": "x" * 4_000 for n in range(60)})

        books = monitor.query.books()["records"]

        assert books["produced"] == 11
        assert books["in_flight"] == 0
        assert books["produced"] == books["delivered"] + sum(v for k, v in books.items() if k.startswith("dropped_"))
        assert len(monitor.query.records(limit=100)) == books["delivered"]

    def test_what_the_store_forgot_is_in_the_books(self, clock: VirtualTime) -> None:
        """
        A full store forgets its oldest records, and says how many; before that it says nothing.
        """
        monitor = Monitor(clock=clock, store=MemoryStore(max_records=3))
        monitor.log(20, "one")
        assert "evicted" not in monitor.query.books()["records"]

        for _ in range(4):
            monitor.log(20, "more")

        assert monitor.query.books()["records"]["evicted"] == 2
