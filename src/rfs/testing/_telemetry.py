"""
What a test asks of the telemetry of the code under test: one object, `Telemetry`, which the fixture of that name hands out.

It has a Monitor of its own, in memory, in the place of the default one; a clock that steps; ids that count. What is asserted
is named by a subset: what is not named may be anything, and what is named may be a value, a mapping or a list of such, or any
object whose ``==`` answers, such as those of dirty-equals.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import fields
from difflib import get_close_matches
from inspect import currentframe
from itertools import count
from textwrap import indent
from threading import RLock
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, cast
from unittest.mock import ANY

import msgspec

from rfs.monitoring._capture.cells import Labels, SeriesKey
from rfs.monitoring._capture.instruments import INTERNAL_ERRORS, is_own
from rfs.monitoring._capture.pace import unpaced
from rfs.monitoring._capture.record import LogRecord
from rfs.monitoring._capture.sketch import sum_of
from rfs.monitoring._spans import Span, build_trace
from rfs.monitoring._totals import Totals
from rfs.monitoring.alerts import Alert
from rfs.monitoring.context import activate, current
from rfs.monitoring.masking import Masker
from rfs.monitoring.monitor import Monitor, use_monitor
from rfs.testing._messages import describe, difference, fail
from rfs.testing._snapshots import Normalise, TestSnapshots, render
from rfs.testing._unhandled import Watch
from rfs.testing.blocking import LoopWatch, assert_loop_not_blocked

if TYPE_CHECKING:
    from rfs.testing.virtual_time import VirtualTime

START_SECONDS: Final = 1_800_000_000.0  # of every test's clock: 2027-01-15T08:00:00Z
_STEP_NS: Final = 1_000_000
_MOST_RECORDS: Final = 100_000  # what a query gives at most
_MOST_SHOWN: Final = 20
_ABSENT: Final = "<absent>"
_FIRST_INEXACT: Final = 2.0**53  # whole numbers from there on may be others


class SteppingClock:
    """
    A clock that goes on by `advance`, and by a millisecond each time the wall clock is read: for each record at least once.

    So no two records are of the same instant, and what one thread does takes as long in each run. The monotonic clock is the
    same one, and reading it moves nothing. Safe from any thread.
    """

    def __init__(self, start_seconds: float = START_SECONDS) -> None:
        self._now_ns = self._start_ns = round(start_seconds * 1e9)
        self._lock = RLock()  # a signal handler may record while its own thread reads the clock

    def time_ns(self) -> int:
        """Nanoseconds since the epoch, a millisecond later than at the last reading."""
        with self._lock:
            self._now_ns += _STEP_NS
            return self._now_ns

    def monotonic(self) -> float:
        """The same instant, in seconds since the clock was made."""
        return (self._now_ns - self._start_ns) / 1e9

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass."""
        with self._lock:
            self._now_ns += round(seconds * 1e9)


class CountedIds:
    """Ids that count, in hexadecimal: trace 1, 2, 3, … and span 1, 2, 3, …"""

    def __init__(self) -> None:
        self._traces = count(1)
        self._spans = count(1)

    def trace_id(self) -> str:
        """32 digits."""
        return f"{next(self._traces):032x}"

    def span_id(self) -> str:
        """16 digits."""
        return f"{next(self._spans):016x}"


class Telemetry:
    """
    Records, spans, metrics, alerts and health of one test, and what is asserted of them.

    Inside its ``with`` block ``monitor`` is the default Monitor of the process, for all threads and tasks. One process runs one
    test at a time (as pytest-xdist does); what a test leaves running records into the next one's.

    Every ``assert_…`` raises AssertionError itself, so that it holds under ``python -O`` too.
    """

    def __init__(
        self,
        watch: Watch | None = None,
        snapshots: TestSnapshots | None = None,
        clock: SteppingClock | VirtualTime | None = None,
    ) -> None:
        self.clock = SteppingClock() if clock is None else clock
        self.monitor = Monitor(service_name="test", clock=self.clock, ids=CountedIds(), storm_limit=float("inf"))
        self._watch = Watch() if watch is None else watch
        self._begins_watch = watch is None
        self._snapshots = snapshots
        self._left = ExitStack()
        if not isinstance(self.clock, SteppingClock):
            self.clock.drive(self.monitor)

    def __enter__(self) -> Self:
        self._left.callback(self.monitor.stop)
        self._left.enter_context(use_monitor(self.monitor))
        if self._begins_watch:
            self._left.enter_context(self._watch)
        self._left.callback(activate, current())
        activate(None)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._left.close()

    # Time

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass: at the end of each of them alert rules are evaluated, and callbacks that are due have run."""
        if not isinstance(self.clock, SteppingClock):
            self.clock.advance(seconds)  # which drives the Monitor
            return
        began = self.clock.monotonic()
        with unpaced():
            for passed in (*range(1, int(seconds) + 1), seconds):
                # What reading the clock has added meanwhile is part of it, or hours would be longer.
                self.clock.advance(max(0.0, began + passed - self.clock.monotonic()))
                self.monitor.beat()
        self.monitor.alerts.flush()

    # What there is

    @property
    def records(self) -> list[LogRecord]:
        """All records, oldest first."""
        return self.monitor.query.records(limit=_MOST_RECORDS)[::-1]

    @property
    def spans(self) -> list[Span]:
        """All operations and requests, whether they have ended or not, in the order of their starts."""
        by_id: dict[str, list[LogRecord]] = {}
        for record in self.records:
            if record.span_id:
                by_id.setdefault(record.correlation_id, []).append(record)
        traces = (build_trace(number, records, truncated=False) for number, records in by_id.items())
        spans = (span for trace in traces for outermost in trace.spans for _, span in outermost.walk())
        return sorted((span for span in spans if span.kind), key=lambda span: span.started)

    @property
    def alerts(self) -> list[Alert]:
        """All that happened to alert rules, oldest first: ``event`` says what."""
        return self.monitor.alerts.history()[::-1]

    @property
    def health(self) -> dict[str, Any]:
        """
        How recording itself does.

        ``status`` is ``ok``, or ``degraded`` if something was lost or refused: ``internal_errors``, ``rejected`` and ``dropped``
        say how much, ``problems`` what RFS would print about it. ``mode`` is where it records, ``degraded`` why it is memory
        although it should not be.
        """
        state = self.monitor.capture_state
        lost = {name: self._sum(metric) for name, metric in _LOSSES.items()}
        status = "degraded" if state.degraded or any(lost.values()) else "ok"
        problems = self.monitor.diagnostics
        return {"status": status, "mode": state.mode, "degraded": state.degraded, **lost, "problems": problems}

    def _sum(self, metric: str) -> float:
        return sum(value for key, value in self.monitor.query.totals().counters.items() if key.name == metric)

    # Assertions

    def assert_record(self, **expected: object) -> LogRecord:
        """
        Return the first record that has all of *expected*.

        A name that is no attribute of `LogRecord` is one of its ``context``: ``assert_record(message="Cooked", dish="bulgogi")``.

        Raises:
            AssertionError: There is none; it shows the nearest one and all others.
        """
        __tracebackhide__ = True
        return cast("LogRecord", _first("record", self.records, expected))

    def assert_records(self, *expected: Mapping[str, object], **among: object) -> list[LogRecord]:
        """
        Return all records, or those that have all of *among*, if they are *expected*, in this order and no others.

        Each is named as for `assert_record`: ``assert_records({"message": "Retrying"}, {"message": "Gave up"}, level="WARNING")``.
        """
        __tracebackhide__ = True
        records = self.records
        found = [record for record in records if _matches(among, record)]
        if not _matches(list(expected), found):
            shown = list(map(_projection, found, expected))
            more = [_line(record) for record in found[len(expected) :]]
            which = f"records with {_labels(among)}" if among else "records"
            fail(
                f"the {which} are not these {len(expected)}, there are {len(found)}:\n"
                f"{indent(difference([dict(each) for each in expected], shown + more), '  ')}\n{_listed('record', records)}"
            )
        return found

    def assert_no_record(self, **unexpected: object) -> None:
        """Fail if a record has all of *unexpected*."""
        __tracebackhide__ = True
        _none("record", self.records, unexpected)

    def assert_span(self, **expected: object) -> Span:
        """
        Return the first span that has all of *expected*: attributes of `Span`.

        ``children=[{"operation": "charge"}]`` means exactly one child, which may have more than is named.
        """
        __tracebackhide__ = True
        return cast("Span", _first("span", self.spans, expected))

    def assert_no_span(self, **unexpected: object) -> None:
        """Fail if a span has all of *unexpected*."""
        __tracebackhide__ = True
        _none("span", self.spans, unexpected)

    def assert_metric(self, name: str, expected: object = ANY, /, **labels: object) -> None:
        """
        Fail unless metric *name*, over all series that have these *labels*, is *expected*.

        A counter is the sum since the test began, a gauge what was written last, a histogram a mapping of ``count``, ``sum``,
        ``min``, ``max``, ``mean``, ``p50``, ``p95`` and ``p99``. ``None`` means that it was not measured; a counter that is there
        and has counted nothing is 0, too.
        """
        __tracebackhide__ = True
        totals = self.monitor.query.totals()

        def asked_for(keys: Iterable[SeriesKey]) -> list[SeriesKey]:
            return [key for key in keys if key.name == name and _matches(labels, dict(key.labels))]

        measured = _measured(totals, asked_for(_keys(totals)))
        is_idle = measured is None and bool(asked_for(totals.counters))
        if expected is ANY:
            is_met = measured is not None
        else:
            is_met = _matches(expected, measured) or (is_idle and _matches(expected, 0.0))
        if is_met:
            return
        what = f"metric {name!r}" + (f" with {_labels(labels)}" if labels else "")
        names = sorted({key.name for key in _keys(totals) if not is_own(key.name)})
        if measured is None:
            near = [] if name in names else get_close_matches(name, names)
            heading = f"{what} was not measured" + (f"; did you mean {near[0]!r}?" if near else "")
        elif isinstance(expected, Mapping):
            wanted = dict(cast("Mapping[str, object]", expected))
            heading = f"{what} is not as expected:\n{indent(difference(wanted, _projection(measured, wanted)), '  ')}"
        else:
            heading = f"{what} is {_number(measured)}, not {expected!r}"
        lines = metric_lines(totals, [name] if name in names else names)
        fail("\n".join([heading, "measured:", *lines[:_MOST_SHOWN]] if lines else [heading, "nothing was measured"]))

    def assert_alert(self, rule_name: str, /, event: object = "fire", **expected: object) -> Alert:
        """Return the first alert of rule *rule_name* with this *event* that has all of *expected*: attributes of `Alert`."""
        __tracebackhide__ = True
        return cast("Alert", _first("alert", self.alerts, {"rule_name": rule_name, "event": event, **expected}))

    def assert_no_alert(self, **unexpected: object) -> None:
        """Fail if an alert that fired has all of *unexpected*; without any, if one fired at all."""
        __tracebackhide__ = True
        _none("alert", self.alerts, {"event": "fire", **unexpected})

    def assert_health(self, **expected: object) -> None:
        """Fail unless `health` has all of *expected*; without any, unless nothing was lost or refused."""
        __tracebackhide__ = True
        expected = expected or {"status": "ok"}
        health = self.health
        if not _matches(expected, health):
            shown = "\n".join(f"{name}: {value!r}" for name, value in health.items())
            fail(
                f"health is not as expected:\n{indent(difference(expected, _projection(health, expected)), '  ')}\n"
                f"all of it:\n{indent(shown, '  ')}"
            )

    # All of it as a text

    def text(self, *, normalise: Iterable[Normalise] = ()) -> str:
        """Records, those of alerts among them, and metrics as a text that is the same in each run: see `rfs.testing._snapshots`."""
        totals = self.monitor.query.totals()
        names = {key.name for key in _keys(totals) if not is_own(key.name)}
        return render(self.records, metric_lines(totals, names, values=False), normalise)

    def assert_snapshot(
        self, expected: str | None = None, *, name: str = "", normalise: Iterable[Normalise] = ()
    ) -> None:
        """
        Fail unless `text` is what it was when the snapshot was written.

        Args:
            expected: The snapshot itself, which stands in the test; by default it is in a file in ``__snapshots__`` beside it.
            name: Tells several snapshots of one test apart; without names they are numbered.
            normalise: Functions from text to text, applied one after the other, for what else differs from run to run.

        ``pytest --rfs-update-snapshots`` writes both kinds as they are now.
        """
        __tracebackhide__ = True
        if self._snapshots is None:
            raise TypeError("snapshots are kept for tests: ask for the fixture `telemetry`")
        self._snapshots.compare(self.text(normalise=normalise), expected, name, currentframe())

    # What must not be

    def assert_no_secret(self, *secrets: str) -> None:
        """
        Fail if anything that was recorded looks like a secret, or holds one of *secrets* in any of the usual encodings.

        Searched with the built-in rules, whatever rules the code under test records by.

        Raises:
            MaskingError: One of *secrets* is too short to be told from other text.
        """
        __tracebackhide__ = True
        masker = Masker()
        for secret in secrets:
            masker.register_secret(secret)
        leaks = [leak for name, value in self._texts() for leak in _leaks(masker, name, value)]
        if leaks:
            shown = "\n".join(f"{where}: {masked}" for where, masked in leaks[:_MOST_SHOWN])
            fail(f"{_count(len(leaks), 'secret')} recorded, masked here:\n{indent(shown, '  ')}")

    def _series(self) -> list[SeriesKey]:
        """All series that there are, measured or not, but for those of RFS's own books."""
        totals = self.monitor.query.totals()
        return [key for key in (*totals.counters, *totals.gauges, *totals.sketches) if not is_own(key.name)]

    def _texts(self) -> Iterable[tuple[str, object]]:
        for number, record in enumerate(self.records, 1):
            where = f"record {number} ({record.message[:40]!r})"
            error = None if record.error is None else msgspec.structs.asdict(record.error)
            yield f"{where} message", record.message
            yield f"{where} correlation_id", record.correlation_id
            yield f"{where} context", record.context
            yield f"{where} error", error
        for key in self._series():
            if key.labels:
                yield f"metric {key.name}", dict(key.labels)
        for text in self.monitor.diagnostics:
            yield "diagnostics", text

    def assert_no_unhandled_failure(self) -> None:
        """Fail now if a Failure was let go of that nobody looked at; at the end of the test it is asked anyway."""
        __tracebackhide__ = True
        said = self._watch.message()
        if said:
            fail(said)

    def allow_unhandled_failures(self) -> None:
        """Let this test pass whatever Failures nobody looks at."""
        self._watch.allow()

    @contextmanager
    def no_new_series(self) -> Generator[None]:
        """Fail if the block makes a series that was not there before: what grows with traffic belongs into a field."""
        __tracebackhide__ = True
        before = set(self._series())
        yield
        new = [key for key in self._series() if key not in before]
        if new:
            shown = "\n".join(f"{key.name}{_braced(key.labels)}" for key in new[:_MOST_SHOWN])
            fail(f"{_count(len(new), 'new series', '')}:\n{indent(shown, '  ')}")

    def no_blocked_loop(self, at_most_seconds: float = 0.1) -> AbstractContextManager[LoopWatch]:
        """
        Fail if something inside the block keeps the running event loop from turning for longer: `assert_loop_not_blocked`.

        Entered in a coroutine. Measured in real time, whatever clock is in place.
        """
        return assert_loop_not_blocked(at_most_seconds=at_most_seconds)


_LOSSES: Final = {
    "internal_errors": INTERNAL_ERRORS,
    "rejected": "rfs_rejected_total",
    "dropped": "rfs_dropped_total",
}
_MASK: Final = re.compile(r"\[masked:[^\]]*\]")
_RECORD_FIELDS: Final = frozenset(each.name for each in fields(LogRecord)) | {"entry"}


# Subsets


def _matches(expected: object, actual: object) -> bool:
    """Whether *actual* has all that *expected* names."""
    if isinstance(expected, Mapping):
        named = cast("Mapping[str, object]", expected)
        return all(_matches(value, _get(actual, name)) for name, value in named.items())
    if isinstance(expected, list | tuple) and isinstance(actual, Sequence) and not isinstance(actual, str):
        wanted, there = cast("Sequence[object]", expected), cast("Sequence[object]", actual)
        return len(wanted) == len(there) and all(map(_matches, wanted, there))
    # A matcher that is written without its parentheses is a class, too.
    if isinstance(expected, type) and type(expected).__eq__ is type.__eq__ and isinstance(actual, str):
        return expected.__name__ == actual  # error={"type": ValueError}
    return actual is not _ABSENT and bool(expected == actual)


def _get(actual: object, name: str) -> object:
    """What *actual* has under *name*."""
    if isinstance(actual, Mapping) and not isinstance(actual, Alert):  # which has all of its mapping as attributes
        return cast("Mapping[str, object]", actual).get(name, _ABSENT)
    if isinstance(actual, LogRecord) and name not in _RECORD_FIELDS:
        return actual.context.get(name, _ABSENT)
    return getattr(actual, name, _ABSENT)


def _projection(actual: object, expected: object) -> object:
    """Of *actual*, what *expected* names."""
    if isinstance(expected, Mapping) and actual is not None and actual is not _ABSENT:
        named = cast("Mapping[str, object]", expected)
        return {name: _projection(_get(actual, name), value) for name, value in named.items()}
    if isinstance(expected, list | tuple) and isinstance(actual, Sequence) and not isinstance(actual, str):
        wanted, there = cast("Sequence[object]", expected), cast("Sequence[object]", actual)
        some = list(map(_projection, there, wanted))
        return some + [_line(each) for each in there[len(some) :]]
    return actual


def _first(what: str, found: Sequence[object], expected: Mapping[str, object]) -> object:
    __tracebackhide__ = True
    for each in found:
        if _matches(expected, each):
            return each
    return _tell_nearest(what, found, expected)


def _tell_nearest(what: str, found: Sequence[object], expected: Mapping[str, object]) -> NoReturn:
    __tracebackhide__ = True
    if not found:
        fail(f"no {what} has {_labels(expected)}: there is none at all")
    nearest = max(found, key=lambda each: sum(_matches(value, _get(each, name)) for name, value in expected.items()))
    number = next(index for index, each in enumerate(found, 1) if each is nearest)
    fail(
        f"no {what} has {_labels(expected)}; nearest is {what} {number}:\n"
        f"{indent(difference(dict(expected), _projection(nearest, expected)), '  ')}\n{_listed(what, found)}"
    )


def _none(what: str, found: Sequence[object], unexpected: Mapping[str, object]) -> None:
    __tracebackhide__ = True
    marked = [_matches(unexpected, each) for each in found]
    if any(marked):
        number = marked.index(True) + 1
        fail(f"there is {what} {number} with {_labels(unexpected)}:\n{_listed(what, found, marked)}")


# How it is shown


def _listed(what: str, found: Sequence[object], marked: Sequence[bool] = ()) -> str:
    """One line for each, those *marked* with an arrow; of many the last, which a test mostly is about."""
    lines = [
        f"{'>' if index < len(marked) and marked[index] else ' '} {index + 1:>3} {_line(each)}"
        for index, each in enumerate(found)
    ]
    left_out = [f"  … {len(lines) - _MOST_SHOWN} before"] if len(lines) > _MOST_SHOWN else []
    return "\n".join([f"all {what}s:", *left_out, *lines[-_MOST_SHOWN:]])


def _line(each: object) -> str:
    if isinstance(each, LogRecord):
        where = " ".join(part for part in (each.operation, each.step) if part)
        code = f" {each.error.code}: {each.error.message}" if each.error is not None else ""
        context = f" {dict(each.context)!r}" if each.context else ""
        return f"{each.level:<8} {each.message!r} {each.kind}{f' of {where}' if where else ''}{code}{context}"
    if isinstance(each, Span):
        took = "still running" if each.duration_ms is None else f"{each.duration_ms:g} ms"
        code = each.error.code if each.error is not None else ""
        return " ".join(part for part in (each.kind, each.operation, each.outcome, code, took) if part)
    return each.message if isinstance(each, Alert) else describe(each)


def _labels(expected: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in expected.items())


def _braced(labels: Labels) -> str:
    inside = ",".join(f'{name}="{value}"' for name, value in labels)
    return f"{{{inside}}}" if inside else ""


def _count(number: int, what: str, plural: str = "s") -> str:
    return f"{number} {what}{plural if number != 1 else ''}"


def _number(value: object) -> str:
    if not isinstance(value, float):
        return repr(value)
    return f"{value:.0f}" if value.is_integer() and abs(value) < _FIRST_INEXACT else f"{value:g}"


# Metrics


def _keys(totals: Totals) -> list[SeriesKey]:
    """The series of all metrics: those of counters and histograms that were never measured are not among them."""
    measured = [key for key, value in totals.counters.items() if value]
    return [*measured, *totals.gauges, *(key for key, reading in totals.sketches.items() if reading.count)]


def _measured(totals: Totals, keys: Sequence[SeriesKey]) -> float | dict[str, float] | None:
    """What the series *keys* of one metric have measured together; None if there are none."""
    if not keys:
        return None
    if keys[0] in totals.gauges:
        return totals.gauges[keys[-1]]
    if keys[0] in totals.counters:
        return sum(totals.counters[key] for key in keys)
    sketch = sum_of(totals.sketches[key].since(None) for key in keys)
    shares = {f"p{share}": sketch.quantile(share / 100) for share in (50, 95, 99)}
    return {
        "count": sketch.count,
        "sum": sketch.sum,
        "min": sketch.min,
        "max": sketch.max,
        "mean": sketch.mean,
        **shares,
    }


def metric_lines(totals: Totals, names: Collection[str], *, values: bool = True) -> list[str]:
    """One line for each series of the metrics *names*; of histograms all figures, or without *values* the count."""
    lines: list[str] = []
    for key in (key for key in _keys(totals) if key.name in names):
        measured = _measured(totals, [key])
        if isinstance(measured, dict):
            shown = " ".join(
                f"{name}={_number(value)}" for name, value in measured.items() if values or name == "count"
            )
        else:
            shown = _number(measured)
        lines.append(f"  {key.name}{_braced(key.labels)} {shown}")
    return sorted(lines)


# Secrets


def _leaks(masker: Masker, where: str, value: object) -> Iterable[tuple[str, str]]:
    """Each text in *value* in which *masker* would mask something that is not masked yet, with its place and as it would be."""
    if isinstance(value, str):
        masked = masker.text(value)
        if "[masked" in masked and _MASK.sub("", masked) != _MASK.sub("", value):
            yield where, masked
    elif isinstance(value, Mapping):
        for name, item in cast("Mapping[str, object]", value).items():
            shown = masker.fields({name: item}).get(name)
            is_mask = isinstance(item, str) and _MASK.fullmatch(item) is not None
            if isinstance(shown, str) and shown.startswith("[masked") and not is_mask:
                yield f"{where}.{name}", shown  # under such a key whatever it is would be a secret
            else:
                yield from _leaks(masker, f"{where}.{name}", item)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(cast("Sequence[object]", value)):
            yield from _leaks(masker, f"{where}[{index}]", item)
