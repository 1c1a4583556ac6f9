"""
Query against brute force: what 100,000 generated events come to, by plain loops over a list, over every store of the contract.

The events of four hours are handed to a store as two processes' windows, one each ten seconds; for ten minutes nobody was there.
"""

from __future__ import annotations

import random
import shutil
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from math import ceil, inf, log2, nan
from typing import NamedTuple

import pytest

from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.record import RecordData, encode_record
from rfs.monitoring._capture.segments import HAS_ERROR, Frame
from rfs.monitoring._capture.sketch import Sketch
from rfs.monitoring._query import DURATIONS, ERRORS_BY_TYPE, FAILURES, SUCCESSES, Prefix, Query, TimeRange, TimeSeries
from rfs.monitoring._store import Moment, Store, Window
from rfs.monitoring._totals import Totals
from rfs.monitoring.masking import ErrorInfo
from tests.monitoring.test_store_contract import NAMES, STORES, batch
from tests.monitoring.test_windows import in_memory

COUNT = 100_000
NOW = 1_800_000_000  # a whole minute, 13:20 UTC
BEGAN = NOW - 4 * 3_600
GAP = range(NOW - 9_000, NOW - 8_400)
EVERY_SECONDS = 10
NOTHING = Totals({}, {}, {}, {}, {}, [])
OPEN = "connections"
REQUESTS = "http_requests_total"
OPERATIONS = {"orders.place": 40.0, "orders.list": 4.0, "pay": 250.0, "menu/list": 1.0, "kitchen.cook": 900.0}
CODES = {
    "orders.place": ["SOLD_OUT", "TIMEOUT"],
    "pay": ["DECLINED", "TIMEOUT", "ValueError"],
    "kitchen.cook": ["FIRE"],
}


class Event(NamedTuple):
    """One finished operation."""

    second: int
    process: str
    operation: str
    code: str  # of a failure, else empty
    expected: bool
    duration_ms: float
    status: str
    number: int

    @property
    def error_type(self) -> str:
        return "ValueError" if self.code == "ValueError" else "str"

    @property
    def time_ns(self) -> int:
        return self.second * 10**9 + self.number

    @property
    def message(self) -> str:
        return f"{self.code.lower()} at table {self.number % 7}"

    @property
    def step(self) -> str:
        return ("check", "charge")[self.number % 2] if self.operation == "pay" else ""

    @property
    def origin(self) -> str | None:
        return f"app/pay.py:{10 + self.number % 3} in charge" if self.code == "ValueError" else None

    @property
    def correlation_id(self) -> str:
        return f"req-{self.number // 5}"


@cache
def events() -> list[Event]:
    chance = random.Random(4)
    names, medians = list(OPERATIONS), list(OPERATIONS.values())
    drawn: list[tuple[int, str, str, str, bool, float, str]] = []
    while len(drawn) < COUNT:
        second = BEGAN + EVERY_SECONDS * chance.randrange(1, 4 * 3_600 // EVERY_SECONDS + 1)
        index = min(int(chance.expovariate(0.7)), len(names) - 1)
        operation = names[index]
        codes = CODES.get(operation)
        failed = codes is not None and chance.random() < 0.15
        code = chance.choice(codes) if failed and codes else ""
        took = medians[index] * chance.lognormvariate(0, 0.8)
        status = chance.choice(["500", "503", "409"]) if failed else "200"
        if second not in GAP:
            drawn.append((second, chance.choice("ab"), operation, code, code == "SOLD_OUT", took, status))
    drawn.sort(key=lambda one: one[:2])
    return [Event(*one, number) for number, one in enumerate(drawn)]


def sketch_of(values: Iterable[float]) -> Sketch:
    made = Sketch()
    for value in values:
        bucket = ceil(64 * log2(value))
        made.add(Sketch(1, value, 0, value, value, {bucket: 1}))
    return made


def open_at(second: int, process: str) -> float:
    return (second // EVERY_SECONDS * 7 + len(process)) % 50


def records_of(event: Event) -> Iterator[Frame]:
    trace = f'Traceback (most recent call last):\n  File "app/main.py", line 3, in main\n  File "{event.origin}'
    trace = trace.replace(":1", '", line 1').replace(" in charge", ", in charge") + "\nValueError: no"
    error = ErrorInfo(
        event.error_type, event.code, event.message, trace if event.origin else None, event.expected, False
    )
    span = f"{event.number:016x}"
    common = "rfs.operation", event.operation
    ids = event.correlation_id, "trace", span, "", "failed"
    if event.step:
        step = RecordData(event.time_ns, 40, "step", *common, event.step, "Step failed", *ids, 0.001, {}, error)
        yield Frame(event.time_ns, 40, HAS_ERROR, event.correlation_id, event.operation, encode_record(step))
    end = RecordData(
        event.time_ns, 40, "operation", *common, "", "Operation failed", *ids, event.duration_ms / 1e3, {}, error
    )
    yield Frame(event.time_ns, 40, HAS_ERROR, event.correlation_id, event.operation, encode_record(end))


def fill(store: Store) -> None:
    by_window: dict[tuple[int, str], list[Event]] = defaultdict(list)
    for event in events():
        by_window[event.second, event.process].append(event)
    sequences: Counter[str] = Counter()
    for second in range(BEGAN, NOW + 1, EVERY_SECONDS):
        for process in "ab":
            if second in GAP:
                continue
            window, measured, frames = Window(second), defaultdict[SeriesKey, list[float]](list), list[Frame]()
            window.gauges[SeriesKey(OPEN, (("process", process),))] = open_at(second, process)
            for event in by_window[second, process]:
                operation = ("operation", event.operation)
                keys = [SeriesKey(REQUESTS, (operation, ("status", event.status)))]
                if event.code:
                    expected = (("expected", "true"),) if event.expected else ()
                    keys.append(SeriesKey(FAILURES, (*expected, operation)))
                    labels = (("error_code", event.code), ("error_type", event.error_type), operation)
                    keys.append(SeriesKey(ERRORS_BY_TYPE, labels))
                    frames += records_of(event)
                else:
                    keys.append(SeriesKey(SUCCESSES, (operation,)))
                for key in keys:
                    window.counters[key] = window.counters.get(key, 0.0) + 1
                measured[SeriesKey(DURATIONS, (operation,))].append(event.duration_ms)
            window.sketches.update((key, sketch_of(values)) for key, values in measured.items())
            assert store.append(batch(process, sequences[process], frames, window))
            sequences[process] += 1


@pytest.fixture(scope="module", params=NAMES)
def query(request: pytest.FixtureRequest) -> Iterator[Query]:
    folder = in_memory()
    with closing(STORES[request.param](folder)) as store:
        fill(store)
        store.statistics()  # a store that sends in the background has sent all then
        yield Query(
            collect=lambda: Moment(NOTHING, store),
            totals=lambda: NOTHING,
            now=lambda: float(NOW),
            service_name=lambda: "oracle",
            statistics=lambda _: {"records": {}},
        )
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def _unhurried(query: Query) -> Iterator[None]:
    """What is asked here is whether answers are right; a busy machine may take its time."""
    with query.bounded(seconds=120):
        yield


Chooses = Callable[[Event], bool]


def chosen(start: float, end: float, chooses: Chooses = lambda _: True) -> list[Event]:
    return [event for event in events() if start <= event.second < end and chooses(event)]


def quantile(values: Iterable[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[max(0, ceil(q * len(ordered) - 1e-9) - 1)] if ordered else nan


SEEN = [second for second in range(BEGAN, NOW + 1, EVERY_SECONDS) if second not in GAP]


def is_seen(start: float, end: float) -> bool:
    return bisect_left(SEEN, end) > bisect_left(SEEN, start)


def check(
    found: TimeSeries,
    group: Callable[[Event], tuple[str, ...]],
    chooses: Chooses,
    figure: Callable[[list[Event]], float | None],
) -> None:
    """Every line and step of *found* against *figure* of the events in it, and gaps against when nobody was there."""
    times = [found.start + index * found.step_seconds for index in range(len(found.lines[0].values))]
    assert found.times == times
    groups = {group(event) for event in events() if chooses(event)}
    assert found.groups == len(groups)
    assert len({tuple(line.labels.values()) for line in found.lines}) == len(found.lines)
    by_step: dict[tuple[tuple[str, ...], int], list[Event]] = defaultdict(list)
    for event in events():
        if chooses(event):
            by_step[group(event), int((event.second - found.start) // found.step_seconds)].append(event)
    gaps = 0
    for line in found.lines:
        own = tuple(line.labels.values())
        assert own in groups
        for index, (time, value) in enumerate(zip(times, line.values, strict=True)):
            if is_seen(time, time + found.step_seconds):
                expected = figure(by_step[own, index])
                assert value == (None if expected is None else pytest.approx(expected, rel=0.01)), (own, time)
            else:
                gaps += 1
                assert value is None, (own, time)
        whole = [one for (of, index), some in by_step.items() if of == own and index >= 0 for one in some]
        expected = figure(whole)
        assert line.total == (None if expected is None else pytest.approx(expected, rel=0.01)), own
    if found.start < GAP.start:
        assert gaps


@pytest.mark.parametrize("step", [60, None])
class TestSeries:
    def test_increases(self, query: Query, step: float | None) -> None:
        """
        Per step and group a counter grew by as many events as there were, exactly; in the gap nothing is known.
        """
        found = query.series(REQUESTS, "4h", step, by=("operation", "status"))

        check(found, lambda event: (event.operation, event.status), lambda _: True, len)

    def test_rates(self, query: Query, step: float | None) -> None:
        """
        A rate is the increase per second of the step that has passed, and over all the seconds that are known.
        """
        server_errors = {"status": Prefix("5")}
        (line,) = query.series(REQUESTS, "4h", step, labels=server_errors).lines
        found = query.series(REQUESTS, "4h", step, labels=server_errors, aggregation="rate")

        times = [event.second for event in events() if event.status[0] == "5"]
        passed: list[float] = []
        for time, increase, rate in zip(found.times, line.values, found.lines[0].values, strict=True):
            until = time + found.step_seconds
            if is_seen(time, until):
                passed.append(min(until, NOW + 1) - time)
                assert increase == bisect_left(times, until) - bisect_left(times, time)
                assert rate == pytest.approx((increase or 0) / passed[-1])
            else:
                assert increase is rate is None
        assert found.lines[0].total == pytest.approx(len(times) / sum(passed))

    @pytest.mark.parametrize("aggregation", ["count", "mean", "max", "min", "sum", "p50", "p95", "p99", None])
    def test_what_was_measured(self, query: Query, step: float | None, aggregation: str | None) -> None:
        """
        Counts and sums are exact, quantiles within 1 %, per operation; a quantile of nothing is unknown.
        """

        def figure(some: list[Event]) -> float | None:
            values = [event.duration_ms for event in some]
            match aggregation:
                case "count":
                    return len(values)
                case "sum":
                    return sum(values)
                case _ if not values:
                    return None
                case "mean":
                    return sum(values) / len(values)
                case "max" | "min":
                    return max(values) if aggregation == "max" else min(values)
                case _:
                    return quantile(values, int((aggregation or "p95")[1:]) / 100)

        found = query.series(DURATIONS, "4h", step, by=("operation",), aggregation=aggregation)

        check(found, lambda event: (event.operation,), lambda _: True, figure)

    def test_of_several_histograms_together(self, query: Query, step: float | None) -> None:
        """
        The quantile of a group is that of everything its series have measured, not a mean of their quantiles.
        """
        found = query.series(DURATIONS, "4h", step, labels={"operation": Prefix("orders")}, aggregation="p90")

        check(
            found,
            lambda _: (),
            lambda event: event.operation.startswith("orders"),
            lambda some: quantile([event.duration_ms for event in some], 0.9) if some else None,
        )

    def test_gauges(self, query: Query, step: float | None) -> None:
        """
        Per step the last value, added up over a group's series.
        """
        found = query.series(OPEN, "4h", step)
        apart = query.series(OPEN, "4h", step, by=("process",))

        assert {line.labels["process"] for line in apart.lines} == {"a", "b"}
        (line,) = found.lines
        for time, value in zip(found.times, line.values, strict=True):
            last = (
                SEEN[bisect_left(SEEN, time + found.step_seconds) - 1]
                if is_seen(time, time + found.step_seconds)
                else None
            )
            assert value == (None if last is None else open_at(last, "a") + open_at(last, "b"))

    def test_ratio(self, query: Query, step: float | None) -> None:
        """
        Failures of all, per operation and step; where nothing ended nothing is known.
        """
        found = query.ratio(FAILURES, (FAILURES, SUCCESSES), "4h", step, by=("operation",))

        def figure(some: list[Event]) -> float | None:
            return sum(event.code != "" for event in some) / len(some) if some else None

        check(found, lambda event: (event.operation,), lambda _: True, figure)

    def test_ratio_by_labels(self, query: Query, step: float | None) -> None:
        """
        One counter's series by one label's values.
        """
        found = query.ratio(REQUESTS, REQUESTS, "4h", step, part_labels={"status": Prefix("5")})

        check(
            found,
            lambda _: (),
            lambda _: True,
            lambda some: sum(event.status[0] == "5" for event in some) / len(some) if some else None,
        )


class TestTop:
    @pytest.mark.parametrize("top", [1, 3, 100])
    def test_the_largest_groups(self, query: Query, top: int) -> None:
        """
        The top groups are those with the largest totals, in their order; how many there are is told.
        """
        counts = Counter((event.operation, event.status) for event in chosen(NOW - 3_600, NOW + 1))

        found = query.series(REQUESTS, "1h", 60, by=("operation", "status"), top=top)

        expected = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:top]
        assert [(tuple(line.labels.values()), line.total) for line in found.lines] == expected
        assert found.groups == len(counts)

    @pytest.mark.parametrize("aggregation", ["p95", "mean", "count", "rate"])
    def test_by_what_was_measured(self, query: Query, aggregation: str) -> None:
        """
        Of histograms the top are those with the largest figure over the whole range.
        """
        whole = query.series(DURATIONS, "1h", 60, by=("operation",), aggregation=aggregation)

        found = query.series(DURATIONS, "1h", 60, by=("operation",), aggregation=aggregation, top=2)

        assert [line.labels for line in found.lines] == [line.labels for line in whole.lines[:2]]
        for line, same in zip(found.lines, whole.lines, strict=False):  # ClickHouse adds up in another order each time
            assert [line.total, *line.values] == pytest.approx([same.total, *same.values])
        totals = [line.total or 0 for line in whole.lines]
        assert totals == sorted(totals, reverse=True)

    def test_gauges_and_ratios(self, query: Query) -> None:
        """
        Of gauges the top have the largest last value, of ratios the largest share.
        """
        (gauge,) = query.series(OPEN, "1h", 60, by=("process",), top=1).lines
        (ratio,) = query.ratio(FAILURES, (FAILURES, SUCCESSES), "1h", 60, by=("operation",), top=1).lines

        assert gauge.total == max(open_at(NOW, "a"), open_at(NOW, "b"))
        ended = Counter(event.operation for event in chosen(NOW - 3_600, NOW + 1))
        failed = Counter(event.operation for event in chosen(NOW - 3_600, NOW + 1, lambda event: event.code != ""))
        shares = {operation: failed[operation] / many for operation, many in ended.items()}
        assert (ratio.labels["operation"], ratio.total) == max(shares.items(), key=lambda item: item[1])


RANGES: list[TimeRange] = [
    "4h",
    "1h",
    (datetime.fromtimestamp(NOW - 12_000, UTC), datetime.fromtimestamp(NOW - 600, UTC)),
]


class TestFigures:
    @pytest.mark.parametrize("time_range", RANGES)
    @pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=9)), timezone(timedelta(hours=5, minutes=30))])
    def test_operation_metrics(
        self, query: Query, time_range: TimeRange, zone: timezone, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        All fields of OperationMetrics are what the events come to, in any zone; one by one and all at once.
        """
        monkeypatch.setattr("rfs.monitoring._query._MESSAGES_SECONDS", inf)
        start, end = _bounds(time_range)
        query.zone = zone

        for name in OPERATIONS:
            found = query.operation(name, time_range)
            own = [event for event in chosen(start, end) if event.operation == name]
            failures = [event for event in own if event.code]
            took = [event.duration_ms for event in own]
            messages = Counter(event.message.replace(str(event.number % 7), "N") for event in failures)
            hours = Counter(datetime.fromtimestamp(event.second, zone).hour for event in own)
            assert found is not None
            assert found.operation_name == name
            assert (found.total_requests, found.successful_requests, found.failed_requests) == (
                len(own),
                len(own) - len(failures),
                len(failures),
            )
            assert found.success_rate == (len(own) - len(failures)) / len(own)
            assert found.avg_response_time_ms == pytest.approx(sum(took) / len(took), rel=1e-6)
            assert [
                found.p50_response_time_ms,
                found.p90_response_time_ms,
                found.p95_response_time_ms,
                found.p99_response_time_ms,
                found.max_response_time_ms,
            ] == pytest.approx([quantile(took, q) for q in (0.5, 0.9, 0.95, 0.99, 1.0)], rel=0.01)
            assert found.error_breakdown == Counter(event.code for event in failures)
            assert dict(found.top_errors) == messages
            assert found.hourly_distribution == hours
            assert found.throughput_per_second == pytest.approx(len(own) / (end - start), rel=0.001)

        everything = query.operations(time_range)
        counts = Counter(event.operation for event in chosen(start, end))
        assert [(one.operation_name, one.total_requests) for one in everything] == counts.most_common()
        assert [one.hourly_distribution for one in everything] == [
            one.hourly_distribution
            for name, _ in counts.most_common()
            if (one := query.operation(name, time_range)) is not None
        ]
        query.zone = UTC

    @pytest.mark.parametrize("time_range", RANGES)
    def test_summary_and_increases(self, query: Query, time_range: TimeRange) -> None:
        """
        Counters are integers that equal the number of events, distributions have their counts and sums.
        """
        own = chosen(*_bounds(time_range))
        took = [event.duration_ms for event in own]

        found = query.summary(time_range)

        assert found["counters"] == {
            REQUESTS: len(own),
            SUCCESSES: sum(event.code == "" for event in own),
            FAILURES: sum(event.code != "" for event in own),
            ERRORS_BY_TYPE: sum(event.code != "" for event in own),
        }
        assert all(isinstance(value, int) for value in found["counters"].values())
        figures = found["histograms"][DURATIONS]
        assert figures["count"] == len(took)
        assert figures["sum"] == pytest.approx(sum(took), rel=1e-6)
        assert [figures[one] for one in ("min", "max", "mean", "p50", "p90", "p95", "p99")] == pytest.approx(
            [min(took), max(took), sum(took) / len(took), *(quantile(took, q) for q in (0.5, 0.9, 0.95, 0.99))],
            rel=0.01,
        )
        by_status = query.increase_by(REQUESTS, "status", time_range)
        assert by_status == Counter(event.status for event in own)
        assert list(by_status.values()) == sorted(by_status.values(), reverse=True)
        expected = query.increase(FAILURES, time_range, {"expected": "true"})
        assert expected == sum(event.expected for event in own)
        unexpected = query.increase(FAILURES, time_range, {"expected": ""})
        assert unexpected == sum(event.code != "" and not event.expected for event in own)


class TestErrors:
    def test_groups(self, query: Query) -> None:
        """
        Counts by operation, code and type are exact; first and last seen are to the record; steps, origins and samples are those
        of the newest records.
        """
        failures = [event for event in chosen(NOW - 3_600, NOW + 1) if event.code]
        counts = Counter((event.operation, event.code, event.error_type) for event in failures)

        groups = query.error_groups(limit=100, time_range="1h", samples=2)

        assert {(one.operation, one.error_code, one.error_type): one.count for one in groups} == counts
        assert [one.count for one in groups] == sorted(counts.values(), reverse=True)
        newest = newest_failures(NOW - 3_600, 2_000)
        for group in groups:
            own = [event for event in failures if (event.operation, event.code) == (group.operation, group.error_code)]
            assert group.last_seen.timestamp() == pytest.approx(own[-1].time_ns / 1e9, abs=1e-3)
            assert group.first_seen.timestamp() == pytest.approx(own[0].time_ns / 1e9, abs=15)
            places = Counter(
                (event.step, event.origin)
                for event in newest
                if (event.operation, event.code) == (group.operation, group.error_code)
            )
            assert {(place.step, place.origin): place.records for place in group.places} == places
            for place in group.places:
                last = next(
                    event for event in reversed(own) if (event.step, event.origin) == (place.step, place.origin)
                )
                assert len(place.samples) == min(2, place.records)
                assert (place.samples[0].message, place.samples[0].correlation_id) == (
                    last.message,
                    last.correlation_id,
                )

    def test_top_errors(self, query: Query) -> None:
        """
        The most frequent ones, each with the message of its newest record.
        """
        failures = [event for event in chosen(NOW - 3_600, NOW + 1) if event.code]
        counts = Counter((event.operation, event.code, event.error_type) for event in failures)

        found = query.top_errors(3, "1h")

        assert [one.count for one in found] == [many for _, many in counts.most_common(3)]
        for one in found:
            newest = next(
                event
                for event in reversed(failures)
                if (event.operation, event.code) == (one.operation, one.error_code)
            )
            assert (one.message, one.correlation_id) == (newest.message, newest.correlation_id)


class TestRecords:
    @pytest.mark.parametrize("limit", [997, 5_000])
    def test_pages(self, query: Query, limit: int) -> None:
        """
        Page by page all records of an operation in a range are there, newest first, each once.
        """
        expected = [
            event.number
            for event in reversed(
                chosen(NOW - 7_200, NOW + 1, lambda event: event.operation == "pay" and event.code != "")
            )
            for _ in ("operation", "step")
        ]

        found: list[int] = []
        page = query.records(limit=limit, operation="pay", time_range="2h", failed=True)
        while page:
            found += (int(record.span_id, 16) for record in page)
            page = query.records(limit=limit, operation="pay", time_range="2h", failed=True, before=page[-1].cursor)

        assert found == expected

    def test_by_id(self, query: Query) -> None:
        """
        Of an id all records are there, oldest first, and as a tree their spans.
        """
        some = [event for event in events() if event.code][-50:]

        for event in some:
            same = [
                one
                for one in events()[max(0, event.number - 5) : event.number + 5]
                if one.code and one.correlation_id == event.correlation_id
            ]
            records = query.records_by_correlation_id(event.correlation_id)
            assert [int(record.span_id, 16) for record in records] == [
                one.number for one in same for _ in range(2 if one.step else 1)
            ]
            trace = query.trace(event.correlation_id)
            assert [int(span.span_id, 16) for span in trace.spans] == [
                one.number for one in sorted(same, key=lambda one: one.time_ns - one.duration_ms * 1e6)
            ]
            assert trace.records == len(records)


def newest_failures(start: float, records: int) -> list[Event]:
    """The failures that this many of the newest records tell of; of the oldest perhaps not all was read."""
    found: list[Event] = []
    for event in reversed(events()):
        if event.code and event.second >= start:
            if records <= 0:
                return found[:-1]
            found.append(event)
            records -= 2 if event.step else 1
    return found


def _bounds(time_range: TimeRange) -> tuple[float, float]:
    if isinstance(time_range, tuple):
        start, end = time_range
        return start.timestamp(), end.timestamp()
    return NOW - {"1h": 3_600, "4h": 14_400}[str(time_range)], NOW + 1
