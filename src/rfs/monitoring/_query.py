"""
Query: the only way to read what was recorded.

Alerts, the dashboard, reports and the summary functions all come here. Every answer is up to date: what has been recorded
and not yet collected is collected first. Counters are increases within the range; what is not known is None (NaN where the
documents want a number), never 0.

Reading keeps within bounds, so that it cannot do to the host what recording must not: so many questions at once, so long, so many
steps, groups and records. A question that would pass them is refused with an error that says which.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from functools import lru_cache, partial, reduce, wraps
from math import ceil, floor, inf, isfinite, nan
from threading import BoundedSemaphore, local
from time import monotonic
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar, cast

from rfs.errors import QueryBusyError, QueryError, TimeRangeError
from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.instruments import MetricType
from rfs.monitoring._capture.record import LogRecord, read_record
from rfs.monitoring._capture.segments import HAS_ERROR
from rfs.monitoring._capture.sketch import Sketch, sum_of
from rfs.monitoring._spans import Trace, build_trace
from rfs.monitoring._store import EVER_NS, Moment, Point, Reader, StoredRecord, Wanted
from rfs.monitoring._store.deadline import check_deadline, deadline, no_deadline
from rfs.monitoring._totals import Totals

P = ParamSpec("P")
R = TypeVar("R")

SUCCESSES = "result_success_total"
FAILURES = "result_failure_total"
DURATIONS = "result_duration_ms"
ERRORS_BY_TYPE = "result_error_by_type_total"

MAX_AT_ONCE = 4
MAX_SECONDS = 2.0
MAX_STEPS = 2_000
MAX_ROWS = 1_000  # groups or records, unless more are asked for
MAX_ROWS_ASKED_FOR = 100_000

TimeRange = str | int | float | tuple[datetime, datetime]
Group = tuple[str, ...]  # the values of the labels that tell groups apart
Distribution = Sketch  # what a reader sees of a histogram: count, sum, min, max, mean, quantile(q)

_LONGEST_SECONDS = 30 * 86_400
_ALLOWED = "use '30s', '15m', '1h', '7d', a number of minutes, or two aware datetimes; from 1 s to 30 d"
_TEXT_RANGE = re.compile(r"([0-9]{1,9})([smhdw])\Z")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_WAIT_SECONDS = 0.5  # for one of those that are being answered to end
_MAX_ERROR_RECORDS = 2_000  # decoded for samples of messages
_MAX_MESSAGES = 10_000  # records whose messages are counted,
_MESSAGES_SECONDS = 0.01  # ... as far as that goes in this time: of a rare operation each is in a frame of its own
_FIRST_PAGE = 20  # of failures; each further one is twice as long,
_SHORT_PAGE = 8  # ... or so long, if time is short
_HOUR = 3_600
_RECORDS_PER_LOOK = 256  # at the clock
_MAX_SELECTED = 1_000  # questions with labels whose series are remembered
_DIGITS = re.compile(r"\d+")
# Steps that people read well, and that the tiers of a store are made of; the first is used that gives not too many.
_ROUND_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400)
_USUAL_STEPS = 300
_QUANTILE = re.compile(r"p([0-9]{1,2}(?:\.[0-9]{1,3})?)\Z")
_FRAME = re.compile(r'^  File "(.*)", line ([0-9]+), in (.*)$', re.MULTILINE)
_GROUP_MEMBER = "\n  +----------------"


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
    fault = partial(TimeRangeError, value, _ALLOWED)
    start = end = None
    if isinstance(value, str):
        seconds = _text_seconds(value)
    elif isinstance(value, tuple):
        given = cast("tuple[object, ...]", value)
        moments = [one.timestamp() for one in given if isinstance(one, datetime) and one.tzinfo is not None]
        if len(given) != 2 or len(moments) != 2:
            raise fault()
        start, end = moments
        seconds = end - start
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value * 60.0
    else:
        raise fault()
    if not 1 <= seconds <= _LONGEST_SECONDS:
        raise fault()
    return Range(seconds, start, end)


@lru_cache(maxsize=256)  # each rule asks for its window each second
def _text_seconds(text: str) -> float:
    match = _TEXT_RANGE.match(text.strip())
    return 0.0 if match is None else float(int(match[1]) * _UNIT_SECONDS[match[2]])


@dataclass(slots=True)
class OperationMetrics:
    """
    How one operation did within a range of time, as the plan documents it; what is unknown is NaN.

    ``success_rate`` is a share from 0 to 1; ``error_breakdown`` maps error codes to counts, ``top_errors`` pairs messages
    (masked, digits replaced by N) with counts, from as many of the newest failures' records as can be read in 10 ms;
    ``hourly_distribution`` maps the hour of the day in the query's zone to requests.
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


class Prefix(NamedTuple):
    """As a filter: the series that have the label, with a value that begins with *text*."""

    text: str


LabelFilter = Mapping[str, str | Prefix]  # an empty value selects the series without the label


class Line(NamedTuple):
    """One group of a `TimeSeries`: its labels, its value over all steps together, and its value in each of them."""

    labels: dict[str, str]
    total: float | None
    values: list[float | None]


class TimeSeries(NamedTuple):
    """
    A metric over time.

    ``start`` is the unix time at which the first step begins; there is one value per step of ``step_seconds``, None where nothing
    is known. ``lines`` are in the order of their totals, the largest first; ``groups`` says how many there are, shown or not.
    """

    start: float
    step_seconds: float
    lines: list[Line]
    groups: int

    @property
    def times(self) -> list[float]:
        """When each step begins, in unix seconds."""
        return (
            [self.start + index * self.step_seconds for index in range(len(self.lines[0].values))] if self.lines else []
        )


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


@dataclass(frozen=True, slots=True)
class ErrorSample:
    """One failure: its message (masked), when it was recorded, and the id under which all about it is found."""

    message: str
    timestamp: datetime
    correlation_id: str


@dataclass(frozen=True, slots=True)
class ErrorPlace:
    """
    Where failures of a group came from, as far as their records tell.

    ``step`` is the step of a chain that failed first, empty where no chain tells. ``origin`` is ``file:line in function``: the last
    frame of the exception's traceback; None for what was returned and not raised, or recorded without its traceback.
    ``records`` is how many of the records that were read are of this place, ``samples`` are the newest of them.
    """

    step: str
    origin: str | None
    records: int
    first_seen: datetime
    last_seen: datetime
    samples: list[ErrorSample]


@dataclass(frozen=True, slots=True)
class ErrorGroup:
    """
    Failures of one operation with one code and type within a range of time, and where they came from.

    ``count`` is exact: it comes from the windows, not from the records, of which some may have been dropped or forgotten.
    ``first_seen`` and ``last_seen`` are to the record where it is kept, else to the step of the windows. ``places`` are the steps
    and origins of the newest records, the most frequent first; empty where no record is kept.
    """

    operation: str
    error_code: str
    error_type: str
    count: int
    first_seen: datetime
    last_seen: datetime
    places: list[ErrorPlace]


class _Here(local):
    is_inside = False


class _Slots:
    """How many questions are being answered, and whether this thread is inside one."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """None is. In a forked child those of the parent's threads have no end."""
        self.free = BoundedSemaphore(MAX_AT_ONCE)
        self.here = _Here()


def _bounded(method: Callable[Concatenate[Query, P], R]) -> Callable[Concatenate[Query, P], R]:
    """Answer within the bounds of `Query.bounded`."""

    @wraps(method)
    def answer(self: Query, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if self._slots.here.is_inside:  # pyright: ignore[reportPrivateUsage] # it wraps methods of the class
            return method(self, *args, **kwargs)
        with self.bounded():
            return method(self, *args, **kwargs)

    return answer


class Query:
    """
    Reads what one Monitor has recorded.

    Args:
        collect: What there is to answer from now; called before every answer.
        totals: What has been measured up to now, without collecting it.
        latest: Which of these gauges' values was written last, where the totals are not of those that are asked about.
        now: The present in unix seconds.
        zone: In which the hours of ``hourly_distribution`` are counted.

    Raises (every method that reads more than the present):
        TimeRangeError: A time range cannot be read.
        QueryError: Another argument cannot be used; it is named.
        QueryTimeoutError: The answer took more than 2 s.
        QueryBusyError: Four others were being answered, for half a second.
        StoreError: The store cannot be read.

    Safe from any thread.
    """

    def __init__(
        self,
        *,
        collect: Callable[[], Moment],
        totals: Callable[[], Totals],
        latest: Callable[[Sequence[SeriesKey]], float | None] | None = None,
        now: Callable[[], float],
        service_name: Callable[[], str],
        statistics: Callable[[Totals], Mapping[str, Mapping[str, float]]],
        zone: tzinfo = UTC,
    ) -> None:
        self._collect = collect
        self._totals = totals
        self._latest = latest
        self._now = now
        self._service_name = service_name
        self._statistics = statistics
        self._slots = _Slots()
        self._selected: dict[tuple[object, ...], tuple[tuple[SeriesKey, ...], tuple[SeriesKey, ...]]] = {}
        self.zone = zone

    def after_fork(self) -> None:
        """In a forked child: nobody is being answered."""
        self._slots.begin()

    def settled(self, moment: Moment | None = None) -> Query:
        """
        A Query over what has been recorded up to now (or to that *moment*, just collected), whose present stands still.

        For several answers that are shown side by side: they are of one moment, and collecting is paid for once.
        """
        moment = moment or self._moment()
        now = self._now()
        settled = copy(self)
        settled._moment = lambda: moment  # type: ignore[method-assign] # nothing is collected, so no deadline stands still
        settled._totals = lambda: moment.totals
        settled._now = lambda: now
        return settled

    @contextmanager
    def bounded(self, seconds: float = MAX_SECONDS) -> Generator[None]:
        """
        Ask several questions as one: inside the block they take *seconds* together, and one of the four places.

        Each question by itself is asked in such a block; so this is also the way to let one take longer.

        Raises:
            QueryBusyError: None of four that were being answered has ended for half a second.
        """
        slots = self._slots
        if slots.here.is_inside:
            yield
            return
        free = slots.free
        if not free.acquire(timeout=_WAIT_SECONDS):
            raise QueryBusyError(MAX_AT_ONCE, _WAIT_SECONDS)
        slots.here.is_inside = True
        try:
            with deadline(seconds):
                yield
        finally:
            slots.here.is_inside = False
            free.release()

    def _moment(self) -> Moment:
        with no_deadline():
            moment = self._collect()
        check_deadline()
        return moment

    # Metrics

    @_bounded
    def metric_type(self, name: str) -> MetricType | None:
        """The type of metric *name*; None if there is no such metric, neither now nor in what is kept of the past."""
        metric = self._totals().metrics.get(name)  # which needs no collecting
        return _type_of(self._moment(), name) if metric is None else metric.type

    def totals(self) -> Totals:
        """What all processes have measured since the service began; for expositions. All else is within a range of time."""
        return self._totals()

    @_bounded
    def label_values(self, name: str, label: str) -> list[str]:
        """All values of *label* of metric *name*, sorted; the absent label is the empty one and left out."""
        reader = self._moment().reader
        return sorted({value for key in reader.series(name) for one, value in key.labels if one == label})

    @_bounded
    def increase(self, name: str, time_range: TimeRange = "5m", labels: LabelFilter | None = None) -> float | None:
        """By how much counter *name* (the series with these *labels*) grew; None if there is no such counter."""
        moment = self._moment()
        if _type_of(moment, name) is not MetricType.COUNTER:
            return None
        bounds = parse_time_range(time_range).bounds(self._now())
        found = moment.reader.increase(self._matching(moment.reader, name, labels), *bounds)
        check_deadline()
        return found

    def increase_by(
        self, name: str, label: str, time_range: TimeRange = "1h", labels: LabelFilter | None = None
    ) -> dict[str, float]:
        """The increase of counter *name* per value of *label*, largest first; those that did not grow are left out."""
        return {value: total for (value,), total in self.increases(name, (label,), time_range, labels).items()}

    @_bounded
    def increases(
        self, name: str, by: Sequence[str], time_range: TimeRange = "1h", labels: LabelFilter | None = None
    ) -> dict[Group, float]:
        """As `increase_by`, per values of several labels."""
        reader = self._moment().reader
        bounds = parse_time_range(time_range).bounds(self._now())
        sums = _sums(reader, _groups(_matching(reader, name, labels), by), *bounds)
        return {group: total for group, total in sorted(sums.items(), key=lambda item: -item[1]) if total}

    @_bounded
    def distribution(
        self, name: str, time_range: TimeRange = "5m", labels: LabelFilter | None = None
    ) -> Distribution | None:
        """What histogram *name* (all series with these *labels* together) measured; None if there is no such histogram."""
        moment = self._moment()
        if _type_of(moment, name) not in (MetricType.HISTOGRAM, MetricType.TIMER):
            return None
        bounds = parse_time_range(time_range).bounds(self._now())
        found = moment.reader.distribution(self._matching(moment.reader, name, labels), *bounds)
        check_deadline()
        return found

    def _matching(self, reader: Reader, name: str, labels: LabelFilter | None) -> Sequence[SeriesKey]:
        """As `_matching` below; what a rule asks each second is found once, as long as the metric's series are the same object."""
        if not labels:
            return reader.series(name)
        keys, question = reader.series(name), (name, *labels.items())
        known = self._selected.get(question)
        if known is None or known[0] is not keys:
            known = keys, tuple(filter(_filter(labels), keys))
            if len(self._selected) >= _MAX_SELECTED:
                self._selected.clear()
            self._selected[question] = known
        return known[1]

    @_bounded
    def distributions(
        self, name: str, by: Sequence[str], time_range: TimeRange, groups: Collection[Group]
    ) -> dict[Group, Distribution]:
        """As `distribution`, per values of the labels *by*: of those *groups* that there are."""
        moment = self._moment()
        if _type_of(moment, name) not in (MetricType.HISTOGRAM, MetricType.TIMER):
            return {}
        found = _groups(_matching(moment.reader, name, None), by)
        wanted = {group: found[group] for group in groups if group in found}
        return _sketches(moment.reader, wanted, *parse_time_range(time_range).bounds(self._now()))

    def latest(self, name: str, labels: LabelFilter | None = None) -> float | None:
        """The value of gauge *name*: of the series with these *labels*, the one written last; None if no living process has written it."""
        if self._latest is not None:
            with self.bounded():
                return self._latest(_matching(self._moment().reader, name, labels))
        selects = _filter(labels)
        found = [value for key, value in self._totals().gauges.items() if key.name == name and selects(key)]
        return found[-1] if found else None

    def latest_by(self, name: str, label: str) -> dict[str, float]:
        """As `latest`, per value of *label*."""
        if self._latest is not None:
            with self.bounded():
                groups = _groups(self._moment().reader.series(name), [label])
                values = {value: self._latest(keys) for (value,), keys in groups.items()}
            return {value: latest for value, latest in values.items() if latest is not None}
        gauges = self._totals().gauges
        return {dict(key.labels).get(label, ""): value for key, value in gauges.items() if key.name == name}

    @_bounded
    def points(
        self, name: str, time_range: TimeRange, step_seconds: float, labels: LabelFilter | None = None
    ) -> list[Point]:
        """
        Metric *name* in steps of *step_seconds*: increase of a counter, last value of a gauge, count of a histogram.

        As `series` without groups, but that an unknown metric has no points.
        """
        reader = self._moment().reader
        steps = self._steps(time_range, step_seconds)
        lines = reader.points(_matching(reader, name, labels), steps.start, steps.end, steps.seconds)
        return [Point(steps.at(index), reduce(_plus, values)) for index, values in enumerate(zip(*lines, strict=True))]

    @_bounded
    def series(
        self,
        name: str,
        time_range: TimeRange = "1h",
        step_seconds: float | None = None,
        *,
        labels: LabelFilter | None = None,
        by: Sequence[str] = (),
        aggregation: str | None = None,
        top: int | None = None,
    ) -> TimeSeries:
        """
        Metric *name* over time, in groups.

        Args:
            step_seconds:
                Steps begin at round times, so the first and the last may reach past the range. By default it is chosen for at
                most 300 steps. More than 2,000 are never given: then steps are made longer by a whole number.
            labels: Which series count.
            by: The labels whose values tell the groups apart; without, all series are one group.
            aggregation:
                Of a counter ``increase`` (the default) or ``rate`` (per second; of the last step, of the seconds that have
                passed); of a gauge ``last``, added up over a group's series; of a histogram ``count``, ``rate``, ``sum``,
                ``mean``, ``min``, ``max``, or a quantile within 1 %: ``p50``, ``p95`` (the default), ``p99.9``.
            top: So many groups with the largest totals; by default at most 1,000.

        A step is None where no window was closed (nobody was there to measure), and where an aggregation has nothing to go by: a
        quantile of no measurements. Silence of a counter is 0. A metric that nobody knows has no groups.
        """
        moment = self._moment()
        top = _rows("top", MAX_ROWS if top is None else top)
        steps = self._steps(time_range, step_seconds)
        metric_type = _type_of(moment, name)
        if metric_type is None:
            return TimeSeries(steps.start, steps.seconds, [], 0)
        way = _way(metric_type, aggregation)
        groups = _groups(_matching(moment.reader, name, labels), by)
        if metric_type in (MetricType.HISTOGRAM, MetricType.TIMER):
            lines = _measured_lines(moment.reader, groups, way, steps, top)
        else:
            lines = _counted_lines(moment.reader, groups, way, steps, top)
        return TimeSeries(steps.start, steps.seconds, _ranked(lines, by)[:top], len(groups))

    @_bounded
    def ratio(
        self,
        part: str | Sequence[str],
        whole: str | Sequence[str],
        time_range: TimeRange = "1h",
        step_seconds: float | None = None,
        *,
        labels: LabelFilter | None = None,
        part_labels: LabelFilter | None = None,
        by: Sequence[str] = (),
        top: int | None = None,
    ) -> TimeSeries:
        """
        The increase of the counters *part* per increase of the counters *whole*: failures of all, misses of all lookups.

        Args:
            part: A name, or several that are added up.
            whole: The same.
            labels: Which series count, of both.
            part_labels: Which series of *part* count, beside *labels*.

        The rest is as in `series`. A step in which *whole* did not grow is None, since 0 of 0 is nothing known.
        """
        reader = self._moment().reader
        top = _rows("top", MAX_ROWS if top is None else top)
        steps = self._steps(time_range, step_seconds)
        above = _counts(reader, part, {**(labels or {}), **(part_labels or {})}, by, steps)
        below = _counts(reader, whole, labels, by, steps)
        lines: _Lines = {}
        for group, counts in below.items():
            parts = above.get(group, [0.0] * steps.size)
            lines[group] = (
                _share(_added(parts), _added(counts)),
                [_share(one or 0.0, all_of_them) for one, all_of_them in zip(parts, counts, strict=True)],
            )
        return TimeSeries(steps.start, steps.seconds, _ranked(lines, by)[:top], len(below))

    def _steps(self, time_range: TimeRange, step_seconds: float | None) -> _Steps:
        parsed = parse_time_range(time_range)
        now = self._now()
        start, end = parsed.bounds(now)
        if parsed.start is None:
            end = floor(now) + 1
        if step_seconds is None:
            step: float = next((one for one in _ROUND_STEPS if (end - start) / one <= _USUAL_STEPS), _ROUND_STEPS[-1])
        elif not (isfinite(step_seconds) and step_seconds > 0):
            raise QueryError("step_seconds", f"must be a positive number of seconds, not {step_seconds}")
        else:
            step = max(1.0, step_seconds)
        step *= max(1, ceil((end - start) / step / (MAX_STEPS - 1)))
        start = start // step * step  # steps begin at round times, so that a live chart does not jitter
        return _Steps(start, step, max(1, ceil((end - start) / step)), floor(now) + 1)

    @_bounded
    def summary(self, time_range: TimeRange = 60) -> dict[str, Any]:
        """
        All metrics over all their labels: ``counters``, ``gauges``, ``histograms``, ``timers``.

        Counters are increases within the range, ints where they are whole. A histogram has count, sum, min, max, mean,
        p50, p90, p95 and p99. One without measurements is not listed; asked for by name, its count is 0 and the rest
        NaN. A gauge never written is left out.
        """
        moment = self._moment()
        totals, reader = moment
        parsed = parse_time_range(time_range)
        now = self._now()
        bounds = parsed.bounds(now)
        counters: dict[str, float] = {}
        gauges: dict[str, float] = {}
        histograms, timers = _Measured(), _Measured()
        kinds = reader.kinds()
        for name in dict.fromkeys((*totals.metrics, *kinds)):
            metric = totals.metrics.get(name)
            metric_type = MetricType(kinds[name]) if metric is None else metric.type
            if metric_type is MetricType.COUNTER:
                counters[name] = _whole(sum(increase for _, increase in _increases(reader, name, None, *bounds)))
            elif metric_type is not MetricType.GAUGE:
                section = timers if metric_type is MetricType.TIMER else histograms
                section.declared.add(name)
                sketch = reader.distribution(reader.series(name), *bounds)
                check_deadline()
                if sketch.count:
                    section[name] = _figures(sketch)
            elif self._latest is not None and (value := self._latest(reader.series(name))) is not None:
                gauges[name] = _whole(value)
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
    def series_count(self) -> int | None:
        """How many series there are, over all metrics; None where the totals are not of those that are asked about."""
        if self._latest is not None:
            return None
        totals = self._totals()
        return len(totals.counters) + len(totals.gauges) + len(totals.sketches)

    # Operations and errors

    @_bounded
    def operations(self, time_range: TimeRange = "1h") -> list[OperationMetrics]:
        """Every operation that ended within the range, the busiest first."""
        found = [one for one in self._operations(None, time_range) if one.total_requests]
        return sorted(found, key=lambda one: (-one.total_requests, one.operation_name))

    @_bounded
    def operation(self, name: str, time_range: TimeRange = "1h") -> OperationMetrics | None:
        """How operation *name* did; None if none of that name is known."""
        found = self._operations(name, time_range)
        return found[0] if found else None

    def _operations(self, name: str | None, time_range: TimeRange) -> list[OperationMetrics]:
        """All of them or the one, from one question per metric however many there are."""
        reader = self._moment().reader
        parsed = parse_time_range(time_range)
        start, end = parsed.bounds(self._now())
        labels = None if name is None else {"operation": name}
        ended = {metric: _by_operation(_matching(reader, metric, labels)) for metric in (SUCCESSES, FAILURES)}
        succeeded, failed = (_sums(reader, ended[metric], start, end) for metric in (SUCCESSES, FAILURES))
        durations = _sketches(reader, _by_operation(_matching(reader, DURATIONS, labels)), start, end)
        codes: dict[str, dict[str, float]] = {}
        for key, increase in _increases(reader, ERRORS_BY_TYPE, labels, start, end):
            if increase:
                labels_of = dict(key.labels)
                of_operation = codes.setdefault(labels_of.get("operation", ""), {})
                code = labels_of.get("error_code", "")
                of_operation[code] = of_operation.get(code, 0.0) + increase
        messages = self._messages(reader, name, start, end) if any(failed.values()) else {}
        hours = self._hours(reader, ended, start, end)
        found: list[OperationMetrics] = []
        for one in dict.fromkeys((*succeeded, *failed, *durations)):
            good, bad = succeeded.get(one, 0.0), failed.get(one, 0.0)
            total, took = int(good + bad), durations.get(one, Sketch())
            breakdown = sorted(codes.get(one, {}).items(), key=lambda item: -item[1])
            found.append(
                OperationMetrics(
                    operation_name=one,
                    time_window=parsed.label,
                    total_requests=total,
                    successful_requests=int(good),
                    failed_requests=int(bad),
                    success_rate=good / total if total else nan,
                    avg_response_time_ms=took.mean,
                    p50_response_time_ms=took.quantile(0.50),
                    p90_response_time_ms=took.quantile(0.90),
                    p95_response_time_ms=took.quantile(0.95),
                    p99_response_time_ms=took.quantile(0.99),
                    max_response_time_ms=took.max if took.count else nan,
                    error_breakdown={code: int(count) for code, count in breakdown},
                    top_errors=messages.get(one, []),
                    hourly_distribution=hours.get(one, {}),
                    throughput_per_second=total / parsed.seconds,
                )
            )
        return found

    def _messages(
        self, reader: Reader, operation: str | None, start: float, end: float
    ) -> dict[str, list[tuple[str, int]]]:
        """Per operation the ten most frequent messages of the newest failures."""
        counts: dict[str, dict[str, int]] = {}
        for record in self._errors(reader, operation, start, end, _MAX_MESSAGES, _MESSAGES_SECONDS):
            if record.kind == "operation" and record.error is not None:
                message = _DIGITS.sub("N", record.error.message)
                of_operation = counts.setdefault(record.operation, {})
                of_operation[message] = of_operation.get(message, 0) + 1
        return {one: sorted(found.items(), key=lambda item: (-item[1], item[0]))[:10] for one, found in counts.items()}

    def _hours(
        self, reader: Reader, ended: Mapping[str, Mapping[str, list[SeriesKey]]], start: float, end: float
    ) -> dict[str, dict[int, int]]:
        """Per operation the requests by hour of the day in the zone."""
        keys = [key for by_name in ended.values() for found in by_name.values() for key in found]
        hours: dict[str, dict[int, int]] = {}

        def add(begin: float, increases: Iterable[float | None]) -> None:
            hour = datetime.fromtimestamp(begin, self.zone).hour
            for key, increase in zip(keys, increases, strict=True):
                if increase:
                    of_operation = hours.setdefault(dict(key.labels).get("operation", ""), {})
                    of_operation[hour] = of_operation.get(hour, 0) + int(increase)

        offset = datetime.fromtimestamp(start, self.zone).utcoffset()
        shift = 0.0 if offset is None else offset.total_seconds()  # not all zones are whole hours away
        first = min(ceil((start + shift) / _HOUR) * _HOUR - shift, end)
        whole = int((end - first) // _HOUR)
        last = first + whole * _HOUR
        add(start, reader.increases(keys, start, first))
        if whole:
            for index, increases in enumerate(zip(*reader.points(keys, first, last, _HOUR), strict=True)):
                add(first + index * _HOUR, increases)
        add(last, reader.increases(keys, last, end))
        return {one: dict(sorted(found.items())) for one, found in hours.items()}

    @_bounded
    def top_errors(self, limit: int = 10, time_range: TimeRange = "1h") -> list[ErrorSummary]:
        """The most frequent failures by operation, code and type; counts are exact, messages are samples."""
        reader = self._moment().reader
        start, end = parse_time_range(time_range).bounds(self._now())
        top = _most_frequent(_error_counts(reader, None, start, end), _rows("limit", limit))
        samples = self._samples(reader, {group for group, _ in top}, start, end)
        return [
            ErrorSummary(
                *group,
                count=count,
                message=sample.error.message if sample is not None and sample.error is not None else None,
                last_seen=sample.timestamp if sample is not None else None,
                correlation_id=sample.correlation_id if sample is not None else None,
            )
            for group, (count, _) in top
            for sample in (samples.get(group),)
        ]

    def _samples(self, reader: Reader, wanted: set[_ErrorKey], start: float, end: float) -> dict[_ErrorKey, LogRecord]:
        samples: dict[_ErrorKey, LogRecord] = {}
        if not wanted:
            return samples
        for record in self._errors(reader, None, start, end):
            if record.error is not None:
                group = (record.operation, record.error.code, record.error.type)
                if group in wanted and group not in samples:
                    samples[group] = record
                    if len(samples) == len(wanted):
                        break
        return samples

    @_bounded
    def error_groups(
        self, limit: int = 20, time_range: TimeRange = "1h", *, operation: str | None = None, samples: int = 3
    ) -> list[ErrorGroup]:
        """
        The most frequent failures by operation, code and type, and by the step and the origin that they came from.

        Counts and what is first and last come from the windows. Step, origin and samples are in records alone (of up to 2,000
        of the newest failures): a label for each of them would multiply the series of every service for a few of its failures.

        Args:
            operation: Of this operation alone.
            samples: So many of each place.
        """
        reader = self._moment().reader
        start, end = parse_time_range(time_range).bounds(self._now())
        top = _most_frequent(_error_counts(reader, operation, start, end), _rows("limit", limit))
        steps = self._steps(time_range, None)
        keys = [key for _, (_, found) in top for key in found]
        grown = dict(zip(keys, reader.points(keys, steps.start, steps.end, steps.seconds), strict=True))
        records = _one_per_failure(list(self._errors(reader, operation, start, end)))
        groups: list[ErrorGroup] = []
        for group, (count, found) in top:
            own = records.get(group, [])
            seen = [index for index in range(steps.size) if any(grown[key][index] for key in found)]
            first, last = (steps.at(index) for index in ((seen[0], seen[-1]) if seen else (0, 0)))
            oldest, newest = (record.timestamp.timestamp() for _, record in (own[-1], own[0])) if own else (inf, -inf)
            # A record is collected up to a step later than it was made.
            first = oldest if oldest < first + steps.seconds else first
            last = newest if newest >= last - steps.seconds else last
            groups.append(
                ErrorGroup(
                    *group,
                    count=count,
                    first_seen=datetime.fromtimestamp(first, UTC),
                    last_seen=datetime.fromtimestamp(last, UTC),
                    places=_places(own, samples),
                )
            )
        return groups

    def _errors(
        self,
        reader: Reader,
        operation: str | None,
        start: float,
        end: float,
        limit: int = _MAX_ERROR_RECORDS,
        seconds: float = inf,
    ) -> Iterable[LogRecord]:
        """
        The newest records of failures, newest first, *limit* at most; they are read page by page, as they are asked for.

        No further page is begun after *seconds*.
        """
        wanted = Wanted(operation=operation, flags=HAS_ERROR, since_ns=_to_ns(start), until_ns=_to_ns(end))
        ends = monotonic() + seconds
        before, page = None, _FIRST_PAGE
        while limit > 0:
            found = reader.records(wanted, limit=min(page, limit), before=before)
            yield from self._read(found)
            if len(found) < page or monotonic() >= ends:
                break
            limit, before = limit - page, found[-1].cursor
            # If time is short, the last page must not take long, however quick the ones before were.
            page = 2 * page if seconds == inf else _SHORT_PAGE

    # Records

    @_bounded
    def records(
        self,
        *,
        limit: int = 100,
        min_level: int = 0,
        operation: str | None = None,
        before: str | None = None,
        correlation_id: str | None = None,
        time_range: TimeRange | None = None,
        failed: bool = False,
    ) -> list[LogRecord]:
        """
        The newest records that pass all filters, newest first.

        Args:
            limit: At most 100,000.
            before: The ``cursor`` of the last record of a page; goes on with those after it. What comes in meanwhile is not seen.
            time_range: When they were made; by default all that are kept.
            failed: Only those that describe a failure.

        Raises:
            CursorError: *before* is no cursor.
        """
        moment = self._moment()
        start, end = (0.0, inf) if time_range is None else parse_time_range(time_range).bounds(self._now())
        wanted = Wanted(
            min_level=min_level,
            operation=operation,
            correlation_id=correlation_id,
            flags=HAS_ERROR if failed else 0,
            since_ns=_to_ns(start),
            until_ns=_to_ns(end),
        )
        return list(self._read(moment.reader.records(wanted, limit=_rows("limit", limit), before=before)))

    @_bounded
    def records_by_correlation_id(self, correlation_id: str, limit: int = 10_000) -> list[LogRecord]:
        """All records of one correlation id that are still kept (the newest *limit*), oldest first."""
        records = self.records(limit=limit, correlation_id=correlation_id)
        records.reverse()
        records.sort(key=lambda record: record.timestamp)
        return records

    @_bounded
    def trace(self, correlation_id: str, limit: int = 10_000) -> Trace:
        """What happened under *correlation_id* as a tree of spans, from its newest *limit* records; empty if there are none."""
        records = self.records_by_correlation_id(correlation_id, limit)
        return build_trace(correlation_id, records, truncated=len(records) == limit)

    def _read(self, stored: Sequence[StoredRecord]) -> Iterable[LogRecord]:
        service_name = self._service_name()
        for index, record in enumerate(stored):
            if index % _RECORDS_PER_LOOK == 0:
                check_deadline()
            yield read_record(record.cursor, record.frame.payload, service_name)

    @_bounded
    def books(self) -> dict[str, dict[str, float]]:
        """
        Per signal what was produced, and where it went: produced = delivered + the dropped, exactly.

        ``evicted`` are those of the delivered records that the store has let go since, being too old or too many.
        """
        moment = self._moment()
        books = {signal: dict(entries) for signal, entries in self._statistics(moment.totals).items()}
        evicted = moment.reader.statistics().get("evicted_records")
        if evicted:
            books.setdefault("records", {})["evicted"] = evicted
        return books


def _type_of(moment: Moment, name: str) -> MetricType | None:
    metric = moment.totals.metrics.get(name)
    if metric is not None:
        return metric.type
    kind = moment.reader.kinds().get(name)  # nobody has declared it since the service began, but there is history
    return None if kind is None else MetricType(kind)


def _rows(argument: str, asked_for: int) -> int:
    if not 1 <= asked_for <= MAX_ROWS_ASKED_FOR:
        raise QueryError(argument, f"must be from 1 to {MAX_ROWS_ASKED_FOR:,}, not {asked_for}; go on with `before`")
    return asked_for


# Series and groups of them

_Lines = dict[Group, tuple[float | None, list[float | None]]]


class _Steps(NamedTuple):
    start: float
    seconds: float
    size: int
    now: float  # when what has been measured ends

    @property
    def end(self) -> float:
        return self.at(self.size)

    def at(self, index: int) -> float:
        return self.start + index * self.seconds

    def passed(self, index: int) -> float:
        """How many seconds of this step are over."""
        return max(1.0, min(self.seconds, self.now - self.at(index)))


def _filter(labels: LabelFilter | None) -> Callable[[SeriesKey], bool]:
    exact = {(label, value) for label, value in (labels or {}).items() if value and not isinstance(value, Prefix)}
    absent = {label for label, value in (labels or {}).items() if not value}
    prefixes = [(label, value.text) for label, value in (labels or {}).items() if isinstance(value, Prefix)]

    def selects(key: SeriesKey) -> bool:
        if not (exact <= set(key.labels)) or any(label in absent for label, _ in key.labels):
            return False
        return all(
            any(one == label and value.startswith(text) for one, value in key.labels) for label, text in prefixes
        )

    return selects


def _matching(reader: Reader, name: str, labels: LabelFilter | None) -> Sequence[SeriesKey]:
    keys = reader.series(name)
    return list(filter(_filter(labels), keys)) if labels else keys


def _groups(keys: Iterable[SeriesKey], by: Sequence[str]) -> dict[Group, list[SeriesKey]]:
    groups: dict[Group, list[SeriesKey]] = {}
    for key in keys:
        values = dict(key.labels) if by else {}
        groups.setdefault(tuple(values.get(label, "") for label in by), []).append(key)
    return groups


def _by_operation(keys: Iterable[SeriesKey]) -> dict[str, list[SeriesKey]]:
    return {operation: found for (operation,), found in _groups(keys, ("operation",)).items()}


def _way(metric_type: MetricType, aggregation: str | None) -> str:
    """The aggregation that is meant, if a metric of this type has it."""
    known: tuple[str, ...]
    if metric_type is MetricType.COUNTER:
        known, usual = ("increase", "rate"), "increase"
    elif metric_type is MetricType.GAUGE:
        known, usual = ("last",), "last"
    else:
        known, usual = ("count", "rate", "sum", "mean", "min", "max", "p50", "p90", "p95", "p99"), "p95"
        if aggregation is not None and _QUANTILE.match(aggregation):
            return aggregation
    if aggregation is None:
        return usual
    if aggregation not in known:
        raise QueryError("aggregation", f"of a {metric_type} must be one of {', '.join(known)}, not {aggregation!r}")
    return aggregation


def _counted_lines(
    reader: Reader, groups: Mapping[Group, list[SeriesKey]], way: str, steps: _Steps, top: int
) -> _Lines:
    if way != "last" and len(groups) > top:
        # What they come to is less to reckon than their steps.
        sums = _sums(reader, groups, steps.start, steps.end)
        groups = {group: groups[group] for group in sorted(sums, key=lambda one: (-sums[one], one))[:top]}
    lines: _Lines = {}
    for group, values in _point_sums(reader, groups, steps).items():
        if way == "last":
            lines[group] = next((value for value in reversed(values) if value is not None), None), values
        elif way == "increase":
            lines[group] = _added(values), values
        else:
            lines[group] = _rates(values, steps)
    return lines


def _measured_lines(
    reader: Reader, groups: Mapping[Group, list[SeriesKey]], way: str, steps: _Steps, top: int
) -> _Lines:
    wholes = _sketches(reader, groups, steps.start, steps.end)
    figure = _figure(way)
    if len(groups) > top:
        ranks = {group: _or_none(figure(whole)) for group, whole in wholes.items()}
        groups = {group: groups[group] for group in sorted(groups, key=lambda one: _rank(ranks[one], one))[:top]}
    if way in ("count", "rate"):
        counts = _point_sums(reader, groups, steps)
        if way == "rate":
            return {group: _rates(values, steps) for group, values in counts.items()}
        return {group: (_added(values), values) for group, values in counts.items()}
    lines: _Lines = {}
    single = [keys[0] for keys in groups.values() if len(keys) == 1] if _QUANTILE.match(way) else []
    quantiles: dict[SeriesKey, list[float | None]] = {}
    if single:
        share = _share_of(way)
        quantiles = dict(
            zip(single, reader.quantiles(single, share, steps.start, steps.end, steps.seconds), strict=True)
        )
    for group, keys in groups.items():
        if keys[0] in quantiles and len(keys) == 1:
            values = quantiles[keys[0]]
        else:
            parts = reader.distributions(keys, steps.start, steps.end, steps.seconds)
            values = [None if part is None else _or_none(figure(part)) for part in parts]
            check_deadline()
        lines[group] = _or_none(figure(wholes[group])), values
    return lines


def _share_of(quantile: str) -> float:
    return float(quantile[1:]) / 100


def _figure(way: str) -> Callable[[Sketch], float]:
    """What is read off a distribution; NaN where nothing was measured, but of counts and sums."""
    match way:
        case "count" | "rate":
            return lambda sketch: sketch.count
        case "sum":
            return lambda sketch: sketch.sum
        case "mean":
            return lambda sketch: sketch.mean
        case "min":
            return lambda sketch: sketch.min
        case "max":
            return lambda sketch: sketch.max
        case _:
            share = _share_of(way)
            return lambda sketch: sketch.quantile(share)


def _or_none(value: float) -> float | None:
    return value if isfinite(value) else None


def _rates(increases: list[float | None], steps: _Steps) -> tuple[float | None, list[float | None]]:
    """Over all the seconds that are known of, and per step."""
    known = sum(steps.passed(index) for index, value in enumerate(increases) if value is not None)
    total = _added(increases)
    rates = [None if value is None else value / steps.passed(index) for index, value in enumerate(increases)]
    return None if total is None else total / known, rates


def _ranked(lines: _Lines, by: Sequence[str]) -> list[Line]:
    ordered = sorted(lines.items(), key=lambda item: _rank(item[1][0], item[0]))
    return [Line(dict(zip(by, group, strict=True)), total, values) for group, (total, values) in ordered]


def _rank(total: float | None, group: Group) -> tuple[float, Group]:
    return (inf if total is None else -total), group


def _counts(
    reader: Reader, names: str | Sequence[str], labels: LabelFilter | None, by: Sequence[str], steps: _Steps
) -> dict[Group, list[float | None]]:
    keys = [key for name in ((names,) if isinstance(names, str) else names) for key in _matching(reader, name, labels)]
    return _point_sums(reader, _groups(keys, by), steps)


def _point_sums(
    reader: Reader, groups: Mapping[Group, list[SeriesKey]], steps: _Steps
) -> dict[Group, list[float | None]]:
    keys = [key for found in groups.values() for key in found]
    lines = iter(reader.points(keys, steps.start, steps.end, steps.seconds))
    check_deadline()
    return {
        group: [reduce(_plus, values) for values in zip(*(next(lines) for _ in found), strict=True)]
        for group, found in groups.items()
    }


_Name = TypeVar("_Name", str, Group)


def _sums(reader: Reader, groups: Mapping[_Name, list[SeriesKey]], start: float, end: float) -> dict[_Name, float]:
    keys = [key for found in groups.values() for key in found]
    increases = iter(reader.increases(keys, start, end))
    check_deadline()
    return {group: sum(next(increases) or 0.0 for _ in found) for group, found in groups.items()}


def _sketches(reader: Reader, groups: Mapping[_Name, list[SeriesKey]], start: float, end: float) -> dict[_Name, Sketch]:
    keys = [key for found in groups.values() for key in found]
    parts = iter(reader.sketches(keys, start, end))
    check_deadline()
    return {group: sum_of(next(parts) for _ in found) for group, found in groups.items()}


def _increases(
    reader: Reader, name: str, labels: LabelFilter | None, start: float, end: float
) -> list[tuple[SeriesKey, float]]:
    keys = _matching(reader, name, labels)
    found = reader.increases(keys, start, end)
    check_deadline()
    return [(key, increase or 0.0) for key, increase in zip(keys, found, strict=True)]


# Errors

_ErrorKey = tuple[str, str, str]  # operation, code, type
_Failure = tuple[str, LogRecord]  # the step that failed, and the record of the failure


def _error_counts(
    reader: Reader, operation: str | None, start: float, end: float
) -> dict[_ErrorKey, tuple[int, list[SeriesKey]]]:
    counts: dict[_ErrorKey, tuple[int, list[SeriesKey]]] = {}
    labels = None if operation is None else {"operation": operation}
    for key, increase in _increases(reader, ERRORS_BY_TYPE, labels, start, end):
        if increase:
            of_key = dict(key.labels)
            group = of_key.get("operation", ""), of_key.get("error_code", ""), of_key.get("error_type", "")
            before, keys = counts.get(group, (0, []))
            counts[group] = before + int(increase), [*keys, key]
    return counts


def _most_frequent(
    counts: Mapping[_ErrorKey, tuple[int, list[SeriesKey]]], limit: int
) -> list[tuple[_ErrorKey, tuple[int, list[SeriesKey]]]]:
    return sorted(counts.items(), key=lambda item: (-item[1][0], item[0]))[:limit]


def _one_per_failure(records: Sequence[LogRecord]) -> dict[_ErrorKey, list[_Failure]]:
    """
    By group the failures that *records* (newest first) tell of.

    A failing step, the operation that ends with it, and what is logged about it in between, are one: they share span and code.
    """
    newest: dict[tuple[str, str, str], LogRecord] = {}
    steps: dict[tuple[str, str, str], str] = {}
    for record in records:
        if record.error is not None:
            place = record.trace_id, record.span_id or record.cursor, record.error.code
            newest.setdefault(place, record)
            if record.step:
                steps[place] = (
                    record.step
                )  # in the end the oldest: what comes after the step that failed only says so again
    if len(records) == _MAX_ERROR_RECORDS:
        newest.popitem()  # the oldest, whose step is perhaps among those that were not read
    failures: dict[_ErrorKey, list[_Failure]] = {}
    for place, record in newest.items():
        if record.error is not None:
            group = record.operation, record.error.code, record.error.type
            failures.setdefault(group, []).append((steps.get(place, ""), record))
    return failures


def _places(failures: Iterable[_Failure], samples: int) -> list[ErrorPlace]:
    by_place: dict[tuple[str, str | None], list[LogRecord]] = {}
    for step, record in failures:
        by_place.setdefault((step, _origin(record)), []).append(record)
    places = [
        ErrorPlace(
            step=step,
            origin=origin,
            records=len(records),
            first_seen=records[-1].timestamp,
            last_seen=records[0].timestamp,
            samples=[
                ErrorSample("" if one.error is None else one.error.message, one.timestamp, one.correlation_id)
                for one in records[: max(0, samples)]
            ],
        )
        for (step, origin), records in by_place.items()
    ]
    return sorted(places, key=lambda place: (-place.records, place.step, place.origin or ""))


def _origin(record: LogRecord) -> str | None:
    trace = None if record.error is None else record.error.stack_trace
    if not trace:
        return None
    # Causes come before the error itself, the members of a group after it.
    frames = _FRAME.findall(trace.partition(_GROUP_MEMBER)[0])
    return "{}:{} in {}".format(*frames[-1]) if frames else None


# Figures


def _to_ns(seconds: float) -> int:
    return ceil(min(seconds * 1e9, EVER_NS))


def _added(values: Iterable[float | None]) -> float | None:
    """The sum of what is known; None if nothing is."""
    return reduce(_plus, values, None)


def _share(part: float | None, whole: float | None) -> float | None:
    return (part or 0.0) / whole if whole else None


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
