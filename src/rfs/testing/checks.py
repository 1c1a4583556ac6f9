"""
What ``rfs check`` runs: a file of checks, in TOML, of three kinds.

``rule_test``: alert rules, given made-up series over a time of their own, fire when they should and not else. ``contract``: the
calls of an operation that a store has made the spans, log entries, metrics and codes that they must make, and no others.
``performance``: functions are no slower than their baseline.

A file is read whole, and every fault of it is told with its line, before anything runs. Nothing here prints.
"""

from __future__ import annotations

import asyncio
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from fnmatch import fnmatchcase
from functools import partial
from importlib import import_module
from inspect import iscoroutine
from itertools import takewhile
from math import inf
from operator import is_not
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, NamedTuple, TypeAlias, cast
from xml.etree import ElementTree as ET

import msgspec

from rfs.errors import CheckFileError, MetricDefinitionError, QueryError, TimeRangeError
from rfs.monitoring._capture.instruments import MetricType
from rfs.monitoring._capture.record import LogRecord
from rfs.monitoring._query import DURATIONS, ERRORS_BY_TYPE, FAILURES, SUCCESSES, Query, parse_time_range
from rfs.monitoring.alerts import Alert, Rule
from rfs.monitoring.monitor import Monitor, use_monitor
from rfs.testing.performance import assert_baseline
from rfs.testing.virtual_time import VirtualTime

__all__ = ["Outcome", "Problem", "annotation_lines", "junit", "read_checks", "run_checks"]

_MOST_STEPS = 100_000  # evaluations of one rule test
_MOST_RECORDS = 1_000_000  # that contracts are held against
_PAGE = 10_000
_PATIENCE_SECONDS = 600.0
_BY_ITSELF = (SUCCESSES, FAILURES, DURATIONS, ERRORS_BY_TYPE, "operations_active")  # what every operation measures
_SAID_OTHERWISE = ("operation_start", "operation", "request_start", "request", "alert")


# --- what a file holds ----------------------------------------------------------------------------------------------

Duration: TypeAlias = str | int | float


class Series(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one series is at each interval; see `expand`."""

    metric: str
    type: Literal["counter", "gauge", "histogram"]
    values: str
    labels: dict[str, str] = {}


class Expectation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which alerts stand *at* a time after the beginning, and of what callbacks were told since the expectation before."""

    at: Duration
    firing: list[str]
    told: list[str] | None = None


class RuleTest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One scenario for the alert rules."""

    name: str
    series: list[Series]
    expect: list[Expectation]
    interval: Duration = "10s"


class Names(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What there must be, and what else there may be: anything, if nothing is said. ``*`` and ``?`` stand for any characters."""

    must: list[str] = []
    may: list[str] | None = None

    def missing(self, found: Iterable[str]) -> list[str]:
        """Those that must be and are not."""
        there = list(found)
        return [name for name in self.must if not any(fnmatchcase(each, name) for each in there)]

    def not_allowed(self, found: Iterable[str]) -> list[str]:
        """Those that are and may not be."""
        if self.may is None:
            return []
        allowed = [*self.must, *self.may]
        return [each for each in found if not any(fnmatchcase(each, name) for name in allowed)]


class Contract(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an operation promises of its telemetry."""

    operation: str
    codes: Names = Names()
    spans: Names = Names()
    logs: Names = Names()
    metrics: Names = Names()


class Performance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function that takes no argument, and the file with its baseline; see `rfs.testing.performance.assert_baseline`."""

    name: str
    function: str
    baseline: str
    by: float = 0.10


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rules: str | None = None
    rule_test: list[RuleTest] = []
    contract: list[Contract] = []
    performance: list[Performance] = []


class CheckFile(NamedTuple):
    """A file of checks that has been read, with the line of each of its keys."""

    path: str
    content: _Content
    lines: dict[_Place, int]
    rules: list[Rule]
    functions: list[Callable[[], object]]  # of the performance checks

    def line(self, *place: str | int) -> int:
        """Where that is, or what it is in."""
        while place:
            for known in (place, (*place, 0)):
                if known in self.lines:
                    return self.lines[known]
            place = place[:-1]
        return 0

    def refusal(self, fault: str, *place: str | int) -> CheckFileError:
        """Say what is wrong there."""
        return CheckFileError(self.path, self.line(*place), fault)


_Place: TypeAlias = tuple[str | int, ...]
_HEADER = re.compile(r"\s*(\[\[?)\s*([\w.-]+)\s*\]")
_KEY = re.compile(r"\s*([\w-]+)\s*=")


def read_checks(path: Path) -> CheckFile:
    """
    Read a file of checks, and import the rules that it names.

    Raises:
        CheckFileError: It cannot be used; the message says where, why and what to do.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise CheckFileError(str(path), 0, "is no text in UTF-8; write it anew") from None
    except OSError as error:
        raise CheckFileError(str(path), 0, f"cannot be read: {error.strerror}") from error
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)\Z", str(error))
        line = len(text.splitlines()) if found is None or found[1] is None else int(found[1])
        raise CheckFileError(str(path), line, f"is no TOML: {str(error).rpartition(' (at')[0]}") from None
    file = CheckFile(str(path), _Content(), _lines_of(text), [], [])
    try:
        content = msgspec.convert(data, _Content)
    except msgspec.ValidationError as error:
        raise _refused(file, str(error)) from None
    if not (content.rule_test or content.contract or content.performance):
        raise file.refusal("has no checks; write [[rule_test]], [[contract]] or [[performance]]")
    if content.rule_test and content.rules is None:
        raise file.refusal('rules are missing; say where they are: rules = "shop.alerts:RULES"', "rule_test")
    file = file._replace(
        content=content,
        rules=[] if content.rules is None else _rules_of(file, content.rules),
        functions=[_function_of(file, index, each) for index, each in enumerate(content.performance)],
    )
    for index, test in enumerate(content.rule_test):
        _Scenario(file, index, test)  # says what is wrong with it
    return file


def _lines_of(text: str) -> dict[_Place, int]:
    """Where each table and key begins. `tomllib` does not tell; a key within a text of several lines may be taken for one."""
    lines: dict[_Place, int] = {}
    sizes: Counter[_Place] = Counter()
    table: _Place = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = ()
            *within, last = header[2].split(".")
            for part in within:
                table = (*table, part)
                if sizes[table]:
                    table = (*table, sizes[table] - 1)
            table = (*table, last)
            if header[1] == "[[":
                sizes[table] += 1
                table = (*table, sizes[table] - 1)
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            lines.setdefault((*table, key[1]), number)
    return lines


_KNOWN: dict[str, type[msgspec.Struct]] = {
    "rule_test": RuleTest,
    "series": Series,
    "expect": Expectation,
    "contract": Contract,
    "performance": Performance,
    "codes": Names,
    "spans": Names,
    "logs": Names,
    "metrics": Names,
}


def _refused(file: CheckFile, fault: str) -> CheckFileError:
    """A fault that msgspec has found, with its line, and with what there can be in the place of what cannot."""
    said, _, at = fault.partition(" - at `")
    place: list[str | int] = []
    for name, index in re.findall(r"\.(\w+)|\[(\d+)\]", at):
        place.append(name or int(index))
    names = [part for part in place if isinstance(part, str)]
    if field := re.search(r"unknown field `(.*)`", said):
        kind = _KNOWN[names[-1]] if names else _Content
        known = ", ".join(each.name for each in msgspec.structs.fields(kind))
        return file.refusal(f"there is no {field[1]!r} here; there are {known}", *place, field[1])
    if field := re.search(r"missing required field `(.*)`", said):
        return file.refusal(f"{field[1]!r} is missing", *place)
    if said.startswith("Invalid enum value"):
        return file.refusal(f"{names[-1]}: {said[19:]} is none; write counter, gauge or histogram", *place)
    what = said[:1].lower() + said[1:].replace("`", "")
    return file.refusal(f"{names[-1]}: {what}", *place)


def _imported(file: CheckFile, path: str, *place: str | int) -> Any:
    """What is at ``module:name``."""
    module, _, name = path.partition(":")
    if not (module and name):
        raise file.refusal(f"{place[-1]}: {path!r} is no module:name, as shop.orders:place is one", *place)
    try:
        found: object = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:
        fault = f"{place[-1]}: {path} cannot be imported: {type(error).__name__}: {error}; run this where {module} is"
        raise file.refusal(fault, *place) from error
    return found


def _rules_of(file: CheckFile, path: str) -> list[Rule]:
    """The rules at ``module:name``: a Rule, several, or a function that declares them on the default monitor."""
    found = _imported(file, path, "rules")
    if callable(found):
        try:
            with use_monitor(Monitor()) as monitor:
                found = found()
        except Exception as error:
            raise file.refusal(f"rules: {path}() has raised {type(error).__name__}: {error}", "rules") from error
        found = monitor.alerts.rules() or found
    if isinstance(found, Rule):
        return [found]
    rules = list(cast("Iterable[object]", found)) if isinstance(found, Iterable) else []
    if not rules or not all(isinstance(rule, Rule) for rule in rules):
        fault = f"rules: {path} is no list of Rule, and no function that declares some"
        raise file.refusal(fault, "rules")
    return cast("list[Rule]", rules)


def _function_of(file: CheckFile, index: int, performance: Performance) -> Callable[[], object]:
    place = ("performance", index, "function")
    found = _imported(file, performance.function, *place)
    if not callable(found):
        raise file.refusal(f"function: {performance.function} cannot be called", *place)
    return cast("Callable[[], object]", found)


def _seconds(value: Duration) -> float:
    """
    A length of time as people write it: ``"90s"``, ``"5m"``, or seconds.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(value, str):
        if not 0 <= value < inf:
            raise ValueError(f"must be 0 seconds or more, not {value}")
        return float(value)
    try:
        return parse_time_range(value).seconds
    except TimeRangeError:
        raise ValueError(f"{value!r} is no length of time, as '90s', '5m' or a number of seconds is one") from None


def _written(seconds: float) -> str:
    """So many seconds without an exponent, which nobody would write."""
    return f"{seconds:.12g}"


# --- outcomes -------------------------------------------------------------------------------------------------------


class Problem(NamedTuple):
    """One way in which a check has failed, and the line that says what should be."""

    line: int
    text: str


class Outcome(NamedTuple):
    """What came of one check; without problems it has passed."""

    kind: str
    name: str
    file: str
    line: int
    seconds: float
    problems: tuple[Problem, ...]


def run_checks(
    files: Sequence[CheckFile], opened: Callable[[], AbstractContextManager[Query]], time_range: str
) -> Iterator[Outcome]:
    """
    Run all checks, in their order.

    Args:
        opened: Opens the store that contracts are held against; called only if there are some.
        time_range: How far back contracts look.

    Raises:
        RfsError: The store cannot be opened or read.
    """
    for file in files:
        for index, test in enumerate(file.content.rule_test):
            yield _timed(file, "rule_test", index, test.name, _Scenario(file, index, test).run())
    if any(file.content.contract for file in files):
        with opened() as query, query.bounded(_PATIENCE_SECONDS):
            run = _Run(query, time_range)
            for file in files:
                for index, contract in enumerate(file.content.contract):
                    yield _timed(file, "contract", index, contract.operation, _broken(file, index, contract, run))
    for file in files:
        for index, each in enumerate(file.content.performance):
            yield _timed(file, "performance", index, each.name, _slower(file, index, each, file.functions[index]))


def _timed(file: CheckFile, kind: str, index: int, name: str, problems: Iterator[Problem]) -> Outcome:
    began = perf_counter()
    found = tuple(problems)
    return Outcome(kind, name, file.path, file.line(kind, index), perf_counter() - began, found)


# --- tests of rules -------------------------------------------------------------------------------------------------

_STEP = re.compile(r"(?:(_)|([+-]?\d+(?:\.\d+)?)(?:([+-]\d+(?:\.\d+)?))?)(?:x(\d+))?\Z")


def expand(notation: str) -> list[float | None]:
    """
    The values of a series, one per interval, None where there is none.

    As `promtool` writes them: ``1 2 _`` are two values and a gap, ``5x3`` is 5 and three more of it, ``0+10x3`` is 0, 10, 20, 30,
    ``_x3`` are three gaps.

    Raises:
        ValueError: It cannot be read.

    >>> expand("0+10x3 _ 7")
    [0.0, 10.0, 20.0, 30.0, None, 7.0]
    """
    values: list[float | None] = []
    for part in notation.split():
        match = _STEP.match(part)
        if match is None or (match[3] and match[4] is None):
            raise ValueError(f"{part!r} is no value; write 5, 5x3, 0+10x3, _ or _x3")
        times = int(match[4] or 0)
        if len(values) + times > _MOST_STEPS:
            raise ValueError(f"there are more than {_MOST_STEPS:,}; write fewer")
        if match[1]:
            values += [None] * max(1, times)
        else:
            values += [float(match[2]) + step * float(match[3] or 0) for step in range(times + 1)]
    if not values:
        raise ValueError("there are none; write 5, 5x3, 0+10x3, _ or _x3")
    return values


class _Scenario:
    """A test of rules that can be run; a fault in it is said when it is made."""

    def __init__(self, file: CheckFile, index: int, test: RuleTest) -> None:
        self._file, self._index, self._test = file, index, test
        try:
            self._interval = _seconds(test.interval)
        except ValueError as fault:
            raise file.refusal(f"interval: {fault}", "rule_test", index, "interval") from None
        if not 1 <= self._interval <= 86_400:
            raise file.refusal("interval: must be 1 second to 1 day", "rule_test", index, "interval")
        monitor = Monitor()  # to see whether the metrics can be declared
        self._series = [self._values(monitor, number, series) for number, series in enumerate(test.series)]
        self._expected: list[tuple[int, int, Expectation]] = []  # the step, its place in the file
        names = {rule.name for rule in file.rules}
        last = -1
        for number, expected in enumerate(test.expect):
            place = ("rule_test", index, "expect", number)
            try:
                seconds = _seconds(expected.at)
            except ValueError as fault:
                raise file.refusal(f"at: {fault}", *place, "at") from None
            step = round(seconds / self._interval)
            if abs(step * self._interval - seconds) > 1e-6:
                around, every = _written(step * self._interval), _written(self._interval)
                raise file.refusal(
                    f"at: rules are not evaluated then, but every {every} s; write {around}s", *place, "at"
                )
            if step <= last:
                raise file.refusal("at: must be later than the expectation before", *place, "at")
            if step > _MOST_STEPS:
                raise file.refusal(f"at: is after {step:,} evaluations; {_MOST_STEPS:,} are the most", *place, "at")
            last = step
            told = [_name_told(each) for each in expected.told or ()]
            for key, named in (("firing", expected.firing), ("told", told)):
                for name in named:
                    if name not in names:
                        known = ", ".join(sorted(names))
                        raise file.refusal(f"{key}: there is no rule {name!r}; there are {known}", *place, key)
            self._expected.append((step, number, expected))
        if not self._expected:
            nothing = "expect: there is nothing to expect; write [[rule_test.expect]]"
            raise file.refusal(nothing, "rule_test", index, "expect")

    def _values(self, monitor: Monitor, number: int, series: Series) -> list[float | None]:
        place = ("rule_test", self._index, "series", number)
        try:
            values = expand(series.values)
        except ValueError as fault:
            raise self._file.refusal(f"values: {fault}", *place, "values") from None
        known = [0.0, *(value for value in values if value is not None)]
        if series.type == "counter" and known != sorted(known):
            raise self._file.refusal(
                "values: a counter begins at 0 and never falls; write its totals, or use a gauge", *place, "values"
            )
        try:
            self._declared(monitor, series)
        except MetricDefinitionError as error:
            raise self._file.refusal(f"metric: {error}", *place, "metric") from None
        return values

    @staticmethod
    def _declared(monitor: Monitor, series: Series) -> Callable[[float], None]:
        match series.type:
            case "counter":
                counter = monitor.counter(series.metric).labels(**series.labels)
                return counter.inc
            case "gauge":
                return monitor.gauge(series.metric).labels(**series.labels).set
            case _:
                return monitor.histogram(series.metric).labels(**series.labels).observe

    def run(self) -> Iterator[Problem]:
        """Let the time pass, and tell what is not as expected."""
        clock = VirtualTime()
        monitor = Monitor(clock=clock)
        for rule in self._file.rules:
            monitor.alerts.set_rule(rule)
        writers = [self._declared(monitor, series) for series in self._test.series]
        totals = [0.0] * len(writers)
        expected = {step: (number, each) for step, number, each in self._expected}
        told: list[str] = []
        last: Alert | None = None
        for step in range(self._expected[-1][0] + 1):
            for at, values in enumerate(self._series):
                value = values[step] if step < len(values) else None
                if value is None:
                    continue
                if self._test.series[at].type == "counter":
                    value, totals[at] = value - totals[at], value
                writers[at](value)
            monitor.tick()
            history = monitor.alerts.history()
            fresh = list(takewhile(partial(is_not, last), history))
            told += [f"{each.event} {each.rule_name}" for each in reversed(fresh) if each.event in ("fire", "resolve")]
            last = history[0] if history else None
            if step in expected:
                number, each = expected[step]
                yield from self._differences(monitor, number, each, told)
                told = []
            clock.advance(self._interval)

    def _differences(self, monitor: Monitor, number: int, expected: Expectation, told: list[str]) -> Iterator[Problem]:
        place = ("rule_test", self._index, "expect", number)
        firing = {alert.rule_name for alert in monitor.alerts.active()}
        states = monitor.alerts.states()
        when = expected.at if isinstance(expected.at, str) else f"{_written(expected.at)}s"
        for name in sorted(firing.symmetric_difference(expected.firing)):
            state = states[name]
            value = "unknown" if state.value is None else f"{state.value:g}"
            rule = next(rule for rule in self._file.rules if rule.name == name)
            should = "should not fire" if name in firing else "should fire"
            text = f"at {when} {name!r} {should}: it is {state.status.value}, its value is {value} ({rule!r})"
            yield Problem(self._file.line(*place, "firing"), text)
        if expected.told is not None and told != expected.told:
            text = f"until {when} callbacks were told {_listed(told)}, not {_listed(expected.told)}"
            yield Problem(self._file.line(*place, "told"), text)


def _name_told(told: str) -> str:
    verb, _, name = told.partition(" ")
    return name if verb in ("fire", "resolve") else told


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names)) or "nothing"


# --- contracts ------------------------------------------------------------------------------------------------------


class _Run:
    """What was recorded within a range of time."""

    def __init__(self, query: Query, time_range: str) -> None:
        self.query, self.time_range = query, time_range
        self.spans: dict[str, list[LogRecord]] = {}  # what was recorded in each
        self.calls: dict[str, list[LogRecord]] = {}  # the ends of each operation's calls
        self.children: dict[str, list[str]] = {}  # the operations that each span has called
        before: str | None = None
        for _ in range(_MOST_RECORDS // _PAGE):
            page = query.records(limit=_PAGE, time_range=time_range, before=before)
            for record in page:
                if record.kind == "operation":
                    self.calls.setdefault(record.operation, []).append(record)
                    self.children.setdefault(record.parent_span_id, []).append(record.operation)
                elif record.kind not in _SAID_OTHERWISE:
                    self.spans.setdefault(record.span_id, []).append(record)
            if len(page) < _PAGE:
                return
            before = page[-1].cursor
        raise QueryError("range", f"there are more than {_MOST_RECORDS:,} records in it; ask for a shorter one")


def _broken(file: CheckFile, index: int, contract: Contract, run: _Run) -> Iterator[Problem]:
    """What the calls of an operation have made that its contract has not, or have not made that it has."""
    calls = run.calls.get(contract.operation)
    if not calls:
        text = f"{contract.operation!r} was not called within {run.time_range}; record a run that does, or look further back"
        yield Problem(file.line("contract", index, "operation"), text)
        return
    called = {call.span_id: run.children.get(call.span_id, []) for call in calls}
    logged = {call.span_id: [each.step or each.message for each in run.spans.get(call.span_id, [])] for call in calls}
    for key, faults in (
        ("codes", _wrong_codes(contract.codes, calls)),
        ("spans", _wrong_names(contract.spans, calls, called, "call")),
        ("logs", _wrong_names(contract.logs, calls, logged, "log")),
        ("metrics", _wrong_metrics(contract, run)),
    ):
        for text in faults:
            yield Problem(file.line("contract", index, key), text)


def _wrong_codes(names: Names, calls: Sequence[LogRecord]) -> Iterator[str]:
    failed: dict[str, list[LogRecord]] = {}
    for call in calls:
        if call.error is not None:
            failed.setdefault(call.error.code, []).append(call)
    for code in names.missing(failed):
        yield f"no call failed with {code!r}; record one that does"
    for code in names.not_allowed(failed):
        yield f"{len(failed[code])} of {len(calls)} calls failed with {code!r}, which they may not{_id(failed[code][0])}"


def _wrong_names(names: Names, calls: Sequence[LogRecord], made: Mapping[str, list[str]], verb: str) -> Iterator[str]:
    succeeded = [call for call in calls if call.outcome == "ok"]  # one that fails need not come so far
    if names.must and not succeeded:
        yield f"no call succeeded, so it cannot be seen what it must {verb}; record one that does"
    missing: dict[str, list[LogRecord]] = {}
    strange: dict[str, list[LogRecord]] = {}
    for call in succeeded:
        for name in names.missing(made[call.span_id]):
            missing.setdefault(name, []).append(call)
    for call in calls:
        for name in dict.fromkeys(names.not_allowed(made[call.span_id])):
            strange.setdefault(name, []).append(call)
    for name, without in missing.items():
        yield f"{len(without)} of {len(succeeded)} calls that succeeded did not {verb} {name!r}{_id(without[0])}"
    for name, having in strange.items():
        yield f"{len(having)} of {len(calls)} calls {verb} {name!r}, which they may not{_id(having[0])}"


def _wrong_metrics(contract: Contract, run: _Run) -> Iterator[str]:
    query, operation = run.query, contract.operation
    known = list(query.totals().metrics)
    measured = [name for name in known if operation in query.label_values(name, "operation")]
    for pattern in contract.metrics.must:
        if not any(_is_measured(run, name, operation) for name in known if fnmatchcase(name, pattern)):
            yield f"{pattern!r} was not measured within {run.time_range}"
    for name in contract.metrics.not_allowed(name for name in measured if name not in _BY_ITSELF):
        yield f"{name!r} is measured of it, which may not be"


def _id(record: LogRecord) -> str:
    return f" (rfs trace {record.correlation_id})" if record.correlation_id else ""


def _is_measured(run: _Run, name: str, operation: str) -> bool:
    """Whether a metric was written in the run: for the operation, if it has a label that says which."""
    query = run.query
    operations = query.label_values(name, "operation")
    if operations and operation not in operations:
        return False
    labels = {"operation": operation} if operations else None
    match query.metric_type(name):
        case MetricType.COUNTER:
            return bool(query.increase(name, run.time_range, labels))
        case MetricType.GAUGE:
            # Not `latest`: the processes that have set it may have ended since.
            points = query.points(name, run.time_range, 3_600, labels)
            return any(point.value is not None for point in points)
        case _:
            distribution = query.distribution(name, run.time_range, labels)
            return distribution is not None and distribution.count > 0


# --- performance ----------------------------------------------------------------------------------------------------


def _slower(file: CheckFile, index: int, performance: Performance, function: Callable[[], object]) -> Iterator[Problem]:
    """How a function is slower than its baseline."""
    path = Path(file.path).parent / performance.baseline
    try:
        measured: object = assert_baseline(function, performance.name, path, by=performance.by)
        if iscoroutine(measured):
            asyncio.run(measured)
    except AssertionError as error:
        yield Problem(file.line("performance", index, "baseline"), str(error))
    except Exception as error:  # noqa: BLE001 - whatever a stranger's function raises, other checks go on
        text = f"cannot be measured: {type(error).__name__}: {error}"
        yield Problem(file.line("performance", index), text)


# --- what others read -----------------------------------------------------------------------------------------------

_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(outcomes: Sequence[Outcome]) -> bytes:
    """The outcomes as JUnit XML."""
    failed = sum(bool(outcome.problems) for outcome in outcomes)
    seconds = sum(outcome.seconds for outcome in outcomes)
    totals = {"tests": str(len(outcomes)), "failures": str(failed), "errors": "0", "time": f"{seconds:.3f}"}
    root = ET.Element("testsuites", {"name": "rfs check", **totals})
    suite = ET.SubElement(root, "testsuite", {"name": "rfs check", **totals})
    for outcome in outcomes:
        case = ET.SubElement(
            suite,
            "testcase",
            {
                "classname": outcome.kind,
                "name": _xml(outcome.name),
                "file": _xml(outcome.file),
                "line": str(outcome.line),
                "time": f"{outcome.seconds:.3f}",
            },
        )
        if outcome.problems:
            failure = ET.SubElement(case, "failure", {"message": _xml(outcome.problems[0].text)})
            failure.text = _xml("\n".join(f"{outcome.file}:{each.line}: {each.text}" for each in outcome.problems))
    ET.indent(root)
    return cast("bytes", ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _xml(text: str) -> str:
    return _NOT_IN_XML.sub("\ufffd", text)


def annotation_lines(file: str, problems: Iterable[Problem], title: str) -> list[str]:
    """One line per problem that GitHub, and what reads the same, shows beside the line of the file."""
    return [
        f"::error file={_property(file)},line={max(1, each.line)},title={_property(title)}::{_message(each.text)}"
        for each in problems
    ]


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
