"""
Query: the only way to read what was recorded.

Alerts, the dashboard, reports and the summary functions all come here. Every answer is up to date: what has been recorded
and not yet collected is collected first. Counters are increases within the range; what is not known is None (NaN where the
documents want a number), never 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from functools import reduce
from math import ceil, nan
from typing import Any, NamedTuple, cast

from rfs.errors import TimeRangeError
from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.instruments import MetricType
from rfs.monitoring._capture.record import LogRecord, read_record
from rfs.monitoring._capture.segments import HAS_ERROR
from rfs.monitoring._capture.sketch import Sketch
from rfs.monitoring._store import Moment, Point, Reader, StoredRecord, Wanted
from rfs.monitoring._totals import Totals

SUCCESSES = "result_success_total"
FAILURES = "result_failure_total"
DURATIONS = "result_duration_ms"
ERRORS_BY_TYPE = "result_error_by_type_total"

TimeRange = str | int | float | tuple[datetime, datetime]
Distribution = Sketch  # what a reader sees of a histogram: count, sum, min, max, mean, quantile(q)

_LONGEST_SECONDS = 30 * 86_400
_ALLOWED = "use '30s', '15m', '1h', '7d', a number of minutes, or two aware datetimes; from 1 s to 30 d"
_TEXT_RANGE = re.compile(r"([0-9]{1,9})([smhdw])\Z")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_MAX_ERROR_RECORDS = 2_000  # decoded for samples of messages
_MAX_STEPS = 2_000
_DIGITS = re.compile(r"\d+")


class Range(NamedTuple):
    """A range of time: the last *seconds* (then *start* is None), or from *start* to *end* in unix seconds."""

    seconds: float
    start: float | None
    end: float | None

    def bounds(self, now: float) -> tuple[float, float]:
        """The half-open range in unix seconds."""
        if self.start is not None and self.end is not None:
            return self.start, self.end
        # What is being recorded this very second belongs to the range.
        return now - self.seconds, now + 1

    @property
    def label(self) -> str:
        """A short name: ``1h``, ``15m``, ``90s``."""
        for unit in ("d", "h", "m"):
            if self.seconds % _UNIT_SECONDS[unit] == 0:
                return f"{int(self.seconds // _UNIT_SECONDS[unit])}{unit}"
        return f"{self.seconds:g}s"


def parse_time_range(value: object) -> Range:
    """
    Read a `TimeRange`: ``"30s"``, ``"15m"``, ``"1h"``, ``"7d"``, a number of minutes, or two aware datetimes.

    Raises:
        TimeRangeError: It is none of these, or not from 1 s to 30 d long.
    """
    fault = TimeRangeError(value, _ALLOWED)
    start = end = None
    if isinstance(value, str):
        match = _TEXT_RANGE.match(value.strip())
        if match is None:
            raise fault
        seconds = float(int(match[1]) * _UNIT_SECONDS[match[2]])
    elif isinstance(value, tuple):
        given = cast("tuple[object, ...]", value)
        moments = [one.timestamp() for one in given if isinstance(one, datetime) and one.tzinfo is not None]
        if len(given) != 2 or len(moments) != 2:
            raise fault
        start, end = moments
        seconds = end - start
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value * 60.0
    else:
        raise fault
    if not 1 <= seconds <= _LONGEST_SECONDS:
        raise fault
    return Range(seconds, start, end)


@dataclass(slots=True)
class OperationMetrics:
    """
    How one operation did within a range of time, as the plan documents it; what is unknown is NaN.

    ``success_rate`` is a share from 0 to 1; ``error_breakdown`` maps error codes to counts, ``top_errors`` pairs messages
    (masked, digits replaced by N) with counts, from the records that are still kept; ``hourly_distribution`` maps the
    hour of the day in the query's zone to requests.
    """

    operation_name: str
    time_window: str

    total_requests: int
    successful_requests: int
    failed_requests: int
    success_rate: float

    avg_response_time_ms: float
    p50_response_time_ms: float
    p90_response_time_ms: float
    p99_response_time_ms: float
    max_response_time_ms: float

    error_breakdown: dict[str, int]
    top_errors: list[tuple[str, int]]

    avg_memory_usage_mb: float = nan
    avg_cpu_usage_percent: float = nan

    hourly_distribution: dict[int, int] = field(default_factory=dict)

    p95_response_time_ms: float = nan
    throughput_per_second: float = nan


@dataclass(frozen=True, slots=True)
class ErrorSummary:
    """
    Failures of one operation with one code and type within a range of time.

    ``message`` (masked) and ``last_seen`` are of the newest one whose record is still kept, else None.
    """

    operation: str
    error_code: str
    error_type: str
    count: int
    message: str | None
    last_seen: datetime | None
    correlation_id: str | None


class Query:
    """
    Reads what one Monitor has recorded.

    Args:
        collect: What there is to answer from now; called before every answer.
        totals: What has been measured up to now, without collecting it.
        now: The present in unix seconds.
        zone: In which the hours of ``hourly_distribution`` are counted.

    Safe from any thread.
    """

    def __init__(
        self,
        *,
        collect: Callable[[], Moment],
        totals: Callable[[], Totals],
        now: Callable[[], float],
        service_name: Callable[[], str],
        statistics: Callable[[Totals], Mapping[str, Mapping[str, float]]],
        zone: tzinfo = UTC,
    ) -> None:
        self._collect = collect
        self._totals = totals
        self._now = now
        self._service_name = service_name
        self._statistics = statistics
        self.zone = zone

    def settled(self, moment: Moment | None = None) -> Query:
        """
        A Query over what has been recorded up to now (or to that *moment*, just collected), whose present stands still.

        For several answers that are shown side by side: they are of one moment, and collecting is paid for once.
        """
        moment = moment or self._collect()
        now = self._now()
        settled = copy(self)
        settled._collect = lambda: moment
        settled._totals = lambda: moment.totals
        settled._now = lambda: now
        return settled

    # Metrics

    def metric_type(self, name: str) -> MetricType | None:
        """The type of metric *name*; None if there is no such metric."""
        metric = self._totals().metrics.get(name)  # which needs no collecting
        return _type_of(self._collect(), name) if metric is None else metric.type

    def totals(self) -> Totals:
        """What all processes have measured since the service began; for expositions. All else is within a range of time."""
        return self._totals()

    def label_values(self, name: str, label: str) -> list[str]:
        """All values of *label* of metric *name*, sorted; the absent label is the empty one and left out."""
        return sorted(
            {value for key in self._collect().reader.series(name) for one, value in key.labels if one == label}
        )

    def increase(
        self, name: str, time_range: TimeRange = "5m", labels: Mapping[str, str] | None = None
    ) -> float | None:
        """By how much counter *name* (the series with these *labels*) grew; None if there is no such counter."""
        moment = self._collect()
        if _type_of(moment, name) is not MetricType.COUNTER:
            return None
        bounds = parse_time_range(time_range).bounds(self._now())
        return sum(increase for _, increase in _increases(moment.reader, name, labels, *bounds))

    def increase_by(
        self, name: str, label: str, time_range: TimeRange = "1h", labels: Mapping[str, str] | None = None
    ) -> dict[str, float]:
        """The increase of counter *name* per value of *label*, largest first; those that did not grow are left out."""
        reader = self._collect().reader
        bounds = parse_time_range(time_range).bounds(self._now())
        sums: dict[str, float] = {}
        for key, increase in _increases(reader, name, labels, *bounds):
            value = dict(key.labels).get(label, "")
            sums[value] = sums.get(value, 0.0) + increase
        return {value: total for value, total in sorted(sums.items(), key=lambda item: -item[1]) if total}

    def distribution(
        self, name: str, time_range: TimeRange = "5m", labels: Mapping[str, str] | None = None
    ) -> Distribution | None:
        """What histogram *name* (all series with these *labels* together) measured; None if there is no such histogram."""
        moment = self._collect()
        if _type_of(moment, name) not in (MetricType.HISTOGRAM, MetricType.TIMER):
            return None
        return _distribution(moment.reader, name, labels, *parse_time_range(time_range).bounds(self._now()))

    def latest(self, name: str, labels: Mapping[str, str] | None = None) -> float | None:
        """The value of gauge *name*: of the series with these *labels*, the one written last; None if no living process has written it."""
        wanted = set((labels or {}).items())
        gauges = self._totals().gauges
        found = [value for key, value in gauges.items() if key.name == name and wanted <= set(key.labels)]
        return found[-1] if found else None

    def points(
        self, name: str, time_range: TimeRange, step_seconds: float, labels: Mapping[str, str] | None = None
    ) -> list[Point]:
        """
        Metric *name* in steps of *step_seconds*: increase of a counter, last value of a gauge, count of a histogram.

        A step in which nothing was collected is a gap: None. There are at most 2,000 steps; finer ones are widened.
        """
        reader = self._collect().reader
        start, end = parse_time_range(time_range).bounds(self._now())
        step = max(step_seconds, (end - start) / _MAX_STEPS, 1.0)
        start = start // step * step  # steps begin at round times, so that a live chart does not jitter
        lines = reader.points(_matching(reader, name, labels), start, end, step)
        return [
            Point(start + index * step, reduce(_plus, values)) for index, values in enumerate(zip(*lines, strict=True))
        ]

    def summary(self, time_range: TimeRange = 60) -> dict[str, Any]:
        """
        All metrics over all their labels: ``counters``, ``gauges``, ``histograms``, ``timers``.

        Counters are increases within the range, ints where they are whole. A histogram has count, sum, min, max, mean,
        p50, p90, p95 and p99. One without measurements is not listed; asked for by name, its count is 0 and the rest
        NaN. A gauge never written is left out.
        """
        moment = self._collect()
        totals, reader = moment
        parsed = parse_time_range(time_range)
        now = self._now()
        bounds = parsed.bounds(now)
        counters: dict[str, float] = {}
        gauges: dict[str, float] = {}
        histograms, timers = _Measured(), _Measured()
        for name in dict.fromkeys((*totals.metrics, *reader.kinds())):
            metric_type = _type_of(moment, name)
            if metric_type is MetricType.COUNTER:
                counters[name] = _whole(sum(increase for _, increase in _increases(reader, name, None, *bounds)))
            elif metric_type is not MetricType.GAUGE:
                section = timers if metric_type is MetricType.TIMER else histograms
                section.declared.add(name)
                sketch = _distribution(reader, name, None, *bounds)
                if sketch.count:
                    section[name] = _figures(sketch)
        for key, value in totals.gauges.items():
            gauges[key.name] = _whole(value)  # they are in the order of their last writes
        return {
            "counters": counters,
            "gauges": gauges,
            "histograms": histograms,
            "timers": timers,
            "time_range_minutes": _whole(parsed.seconds / 60),
            "generated_at": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }

    @property
    def series_count(self) -> int:
        """How many series there are, over all metrics."""
        totals = self._totals()
        return len(totals.counters) + len(totals.gauges) + len(totals.sketches)

    # Operations and errors

    def operations(self, time_range: TimeRange = "1h") -> list[OperationMetrics]:
        """Every operation that ended within the range, the busiest first."""
        moment = self.settled()
        names = {value for name in (SUCCESSES, FAILURES, DURATIONS) for value in moment.label_values(name, "operation")}
        found = (moment._operation(name, time_range) for name in names)
        return sorted(
            (one for one in found if one is not None and one.total_requests),
            key=lambda one: (-one.total_requests, one.operation_name),
        )

    def operation(self, name: str, time_range: TimeRange = "1h") -> OperationMetrics | None:
        """How operation *name* did; None if none of that name is known."""
        return self.settled()._operation(name, time_range)

    def _operation(self, name: str, time_range: TimeRange) -> OperationMetrics | None:
        reader = self._collect().reader
        labels = {"operation": name}
        keys = [key for metric in (SUCCESSES, FAILURES, DURATIONS) for key in _matching(reader, metric, labels)]
        parsed = parse_time_range(time_range)
        succeeded = self.increase(SUCCESSES, time_range, labels) or 0.0
        failed = self.increase(FAILURES, time_range, labels) or 0.0
        if not keys and not (succeeded or failed):
            return None
        start, end = parsed.bounds(self._now())
        durations = _distribution(reader, DURATIONS, labels, start, end)
        total = int(succeeded + failed)
        codes = self.increase_by(ERRORS_BY_TYPE, "error_code", time_range, labels)
        return OperationMetrics(
            operation_name=name,
            time_window=parsed.label,
            total_requests=total,
            successful_requests=int(succeeded),
            failed_requests=int(failed),
            success_rate=succeeded / total if total else nan,
            avg_response_time_ms=durations.mean,
            p50_response_time_ms=durations.quantile(0.50),
            p90_response_time_ms=durations.quantile(0.90),
            p95_response_time_ms=durations.quantile(0.95),
            p99_response_time_ms=durations.quantile(0.99),
            max_response_time_ms=durations.max if durations.count else nan,
            error_breakdown={code: int(count) for code, count in codes.items()},
            top_errors=self._top_messages(reader, name, start, end) if failed else [],
            hourly_distribution=self._hours(reader, labels, start, end),
            throughput_per_second=total / parsed.seconds,
        )

    def _top_messages(self, reader: Reader, operation: str, start: float, end: float) -> list[tuple[str, int]]:
        counts: dict[str, int] = {}
        wanted = Wanted(operation=operation, flags=HAS_ERROR, since_ns=_to_ns(start), until_ns=_to_ns(end))
        for record in self._read(reader.records(wanted, limit=_MAX_ERROR_RECORDS)):
            if record.kind == "operation" and record.error is not None:
                message = _DIGITS.sub("N", record.error.message)
                counts[message] = counts.get(message, 0) + 1
        return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:10]

    def _hours(self, reader: Reader, labels: Mapping[str, str], start: float, end: float) -> dict[int, int]:
        hours: dict[int, int] = {}
        keys = [key for name in (SUCCESSES, FAILURES) for key in _matching(reader, name, labels)]
        for begin in range(int(start // 3_600 * 3_600), ceil(end), 3_600):
            increase = sum(one or 0.0 for one in reader.increases(keys, max(begin, start), min(begin + 3_600, end)))
            if increase:
                hour = datetime.fromtimestamp(begin, self.zone).hour
                hours[hour] = hours.get(hour, 0) + int(increase)
        return dict(sorted(hours.items()))

    def top_errors(self, limit: int = 10, time_range: TimeRange = "1h") -> list[ErrorSummary]:
        """The most frequent failures by operation, code and type; counts are exact, messages are samples."""
        reader = self._collect().reader
        start, end = parse_time_range(time_range).bounds(self._now())
        counts: dict[tuple[str, str, str], int] = {}
        for key, increase in _increases(reader, ERRORS_BY_TYPE, None, start, end):
            labels = dict(key.labels)
            group = labels.get("operation", ""), labels.get("error_code", ""), labels.get("error_type", "")
            if increase:
                counts[group] = counts.get(group, 0) + int(increase)
        top = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:limit]
        samples = self._samples(reader, {group for group, _ in top}, start, end)
        return [
            ErrorSummary(
                operation=group[0],
                error_code=group[1],
                error_type=group[2],
                count=count,
                message=sample.error.message if sample is not None and sample.error is not None else None,
                last_seen=sample.timestamp if sample is not None else None,
                correlation_id=sample.correlation_id if sample is not None else None,
            )
            for group, count in top
            for sample in (samples.get(group),)
        ]

    def _samples(
        self, reader: Reader, wanted: set[tuple[str, str, str]], start: float, end: float
    ) -> dict[tuple[str, str, str], LogRecord]:
        samples: dict[tuple[str, str, str], LogRecord] = {}
        if not wanted:
            return samples
        errors = Wanted(flags=HAS_ERROR, since_ns=_to_ns(start), until_ns=_to_ns(end))
        for record in self._read(reader.records(errors, limit=_MAX_ERROR_RECORDS)):
            if record.error is not None:
                group = (record.operation, record.error.code, record.error.type)
                if group in wanted and group not in samples:
                    samples[group] = record
                    if len(samples) == len(wanted):
                        break
        return samples

    # Records

    def records(
        self,
        *,
        limit: int = 100,
        min_level: int = 0,
        operation: str | None = None,
        before: str | None = None,
        correlation_id: str | None = None,
    ) -> list[LogRecord]:
        """
        The newest records that pass all filters, newest first; *before*, the ``cursor`` of the last one, goes on after it.

        Raises:
            CursorError: *before* is no cursor.
        """
        wanted = Wanted(min_level=min_level, operation=operation, correlation_id=correlation_id)
        return list(self._read(self._collect().reader.records(wanted, limit=limit, before=before)))

    def records_by_correlation_id(self, correlation_id: str, limit: int = 10_000) -> list[LogRecord]:
        """All records of one correlation id that are still kept (the newest *limit*), oldest first."""
        records = self.records(limit=limit, correlation_id=correlation_id)
        records.reverse()
        records.sort(key=lambda record: record.timestamp)
        return records

    def _read(self, stored: Iterable[StoredRecord]) -> Iterable[LogRecord]:
        service_name = self._service_name()
        return (read_record(record.cursor, record.frame.payload, service_name) for record in stored)

    def books(self) -> dict[str, dict[str, float]]:
        """
        Per signal what was produced, and where it went: produced = delivered + the dropped, exactly.

        ``evicted`` are those of the delivered records that the store has had to forget since, its bound being reached.
        """
        moment = self._collect()
        books = {signal: dict(entries) for signal, entries in self._statistics(moment.totals).items()}
        evicted = moment.reader.statistics().get("evicted_records")
        if evicted:
            books["records"]["evicted"] = evicted
        return books


def _type_of(moment: Moment, name: str) -> MetricType | None:
    metric = moment.totals.metrics.get(name)
    if metric is not None:
        return metric.type
    kind = moment.reader.kinds().get(name)  # nobody has declared it since the service began, but there is history
    return None if kind is None else MetricType(kind)


def _matching(reader: Reader, name: str, labels: Mapping[str, str] | None) -> list[SeriesKey]:
    keys = reader.series(name)
    if not labels:
        return keys
    wanted = {(label, value) for label, value in labels.items() if value}
    absent = {label for label, value in labels.items() if not value}
    return [key for key in keys if wanted <= set(key.labels) and not any(label in absent for label, _ in key.labels)]


def _increases(
    reader: Reader, name: str, labels: Mapping[str, str] | None, start: float, end: float
) -> list[tuple[SeriesKey, float]]:
    keys = _matching(reader, name, labels)
    return [(key, increase or 0.0) for key, increase in zip(keys, reader.increases(keys, start, end), strict=True)]


def _distribution(reader: Reader, name: str, labels: Mapping[str, str] | None, start: float, end: float) -> Sketch:
    total = Sketch()
    for part in reader.sketches(_matching(reader, name, labels), start, end):
        if part is not None and part.count:
            total.add(part)
    return total


def _to_ns(seconds: float) -> int:
    return ceil(seconds * 1e9)


def _plus(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other


def _whole(value: float) -> float:
    return int(value) if value == value and abs(value) < 2**53 and value == int(value) else value


class _Measured(dict[str, dict[str, float]]):
    """
    Distributions by metric name. One that measured nothing is not listed, so that the summary is strict JSON; asked for
    by name its count is 0 and the rest NaN, so that a reader of the documents' keys needs no special case.
    """

    def __init__(self) -> None:
        super().__init__()
        self.declared: set[str] = set()

    def __missing__(self, name: str) -> dict[str, float]:
        if name not in self.declared:
            raise KeyError(name)
        return _figures(Sketch())


def _figures(sketch: Sketch) -> dict[str, float]:
    empty = not sketch.count
    return {
        "count": sketch.count,
        "sum": nan if empty else sketch.sum,
        "min": nan if empty else sketch.min,
        "max": nan if empty else sketch.max,
        "mean": sketch.mean,
        "p50": sketch.quantile(0.50),
        "p90": sketch.quantile(0.90),
        "p95": sketch.quantile(0.95),
        "p99": sketch.quantile(0.99),
    }
