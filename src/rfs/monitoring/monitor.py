"""
Monitor: one object behind everything.

It holds the cells and segments that recording writes into, the store, the leader that moves one into the other, the
query that reads them, the masker and the alert rules. The functions of `rfs.monitoring` act on the default one;
tests make their own and put it in place with `use_monitor`.

Recording works from the first call and needs nothing started. `Monitor.start` starts the one thread that collects for sinks
and evaluates alert rules.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from math import inf
from pathlib import Path
from threading import get_ident
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

# In a forked child its handler comes before ours.
import rfs.monitoring._store.forking  # noqa: F401  # pyright: ignore[reportUnusedImport]
from rfs.errors import LiveFileError, QueryTimeoutError, RfsError, StoreError
from rfs.monitoring._capture.capture import Capture, CaptureState
from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.foreign import SampleKey
from rfs.monitoring._capture.instruments import (
    INTERNAL_ERRORS,
    MAX_SERIES,
    OVERFLOW_LABEL,
    BoundHistogram,
    Counter,
    Gauge,
    Histogram,
    MetricType,
    Registry,
)
from rfs.monitoring._capture.live import MEMORY, default_directory
from rfs.monitoring._capture.record import RecordData, encode_record
from rfs.monitoring._capture.segments import FROM_SINK, HAS_ERROR, MAX_FRAME_BYTES
from rfs.monitoring._capture.storm import DEFAULT_LIMIT, Storms
from rfs.monitoring._foreign import REFUSED, ForeignMirror
from rfs.monitoring._leader import BUSY_SECONDS, Leader, Sink, books_of
from rfs.monitoring._live import Killed, Leadership, Precedence
from rfs.monitoring._query import DURATIONS, ERRORS_BY_TYPE, FAILURES, MAX_SECONDS, SUCCESSES, Query
from rfs.monitoring._standing import FRESH_SECONDS, Standing, read_standing, tell_standing
from rfs.monitoring._store import Moment, SharedStore, Store
from rfs.monitoring._store.deadline import deadline
from rfs.monitoring._totals import ForeignFamily, Totals
from rfs.monitoring.alerts import Alert, AlertManager, Rule, Sample, default_aggregation
from rfs.monitoring.context import RANDOM_IDS, Context, Ids, RandomIds, current
from rfs.monitoring.masking import ErrorInfo, JsonValue, Masker

if TYPE_CHECKING:
    from rfs.monitoring._helper import Helper
    from rfs.monitoring.retention import Retention

INFO = 20
UNNAMED = "rfs"
STOP_SECONDS = 2.0  # for everything together: leader, sinks, alert callbacks
_ALERT_RULES = SeriesKey("rfs_alert_rules", ())
_MAX_CODES_PER_OPERATION = 100
_MAX_DIAGNOSTICS = 128
_DAMAGE = ("S110", "S113", "S114")
_DIAGNOSTIC_SECONDS = 10.0
_FOREIGN_SECONDS = 1.0
_CLOCK_STEP_SECONDS = 1.0  # what is less is a clock being set right little by little
_STEADY_SECONDS = (
    60.0  # so long an alert rule's value is not read anew while nothing is measured and its window is empty
)
_MISSED_RULES_SECONDS = 10.0  # processes that start, or are replaced, do not declare at the same moment
_FORWARDED_SECONDS = 5.0  # as long as what is forwarded waits for more, mostly
_FORGET_EVERY_SECONDS = 300.0  # so much longer than the hour it may take until an idle series is forgotten
_LATEST_NS = 2**63 - 1
_LARGEST_PAYLOAD = MAX_FRAME_BYTES - 1024  # leaves room for the frame's own fields


class Clock(Protocol):
    """Tells the time. Tests hand in one that they move."""

    def time_ns(self) -> int:
        """The wall clock, in nanoseconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """A clock that never goes back, in seconds; the source of every duration."""
        ...


class SystemClock:
    """The machine's clocks."""

    time_ns = staticmethod(time.time_ns)
    monotonic = staticmethod(time.monotonic)


SYSTEM_CLOCK = SystemClock()


class Listener(Protocol):
    """Whom a Monitor that leads for another process tells what that one would have found by itself."""

    def tell_values(self, read: Callable[[Rule], Sample], declared: float) -> None:
        """Tell what *read* says of its rules, once a second while the Monitor leads; *declared*: how many rules a process has."""
        ...

    def tell_problems(self, problems: Iterable[str]) -> None:
        """Tell all that the Monitor would have printed on standard error so far."""
        ...


class OperationInstruments:
    """The series of one operation, bound once: what `log_result_operation` and `collect_result_metric` measure with."""

    __slots__ = ("_monitor", "_operation", "active", "durations_ms", "failures", "successes")

    def __init__(self, monitor: Monitor, operation: str) -> None:
        self._monitor = monitor
        self._operation = operation
        self.successes = monitor.successes.labels(operation=operation)
        self.failures = monitor.failures.labels(operation=operation)
        self.durations_ms = monitor.durations_ms.labels(operation=operation)
        self.active = monitor.active.labels(operation=operation)

    def count_failure(self, *, expected: bool) -> None:
        """Count one failure; one that belongs to normal business is a series of its own."""
        if expected:
            self._monitor.failures.inc(1, operation=self._operation, expected="true")
        else:
            self.failures.inc()


class Monitor:
    """
    Records, keeps, answers and alerts for one service in one process.

    Args:
        service_name: The name on every JSON line.
        clock: Where time comes from.
        ids: Where trace and span ids come from.
        store: Where collected records and windows are kept; by default in the directory, or without one in memory, bounded.
        forward_to: A store elsewhere, for many machines, that gets all that is kept here: a `ClickHouseStore`. Closed by ``stop``.
        retention: How long the store in the directory keeps what.
        masker: What no secret gets past; by default the built-in rules.
        level: The lowest level that is recorded, as the standard library numbers them (20 is INFO).
        storm_limit: How many log records a second one call site may make; see `rfs.monitoring._capture.storm`.
        directory: Where all processes of the service record, and find one another; by default the memory of this one.

    Every recording method is safe from any thread, signal handler and event loop; it never raises, never blocks,
    and does no I/O. ``start`` and ``stop`` may be called twice.
    """

    def __init__(
        self,
        *,
        service_name: str = UNNAMED,
        clock: Clock = SYSTEM_CLOCK,
        ids: Ids = RANDOM_IDS,
        store: Store | None = None,
        forward_to: Store | None = None,
        retention: Retention | None = None,
        masker: Masker | None = None,
        level: int = INFO,
        storm_limit: float = DEFAULT_LIMIT,
        directory: Path | str | None = None,
    ) -> None:
        self.service_name = service_name
        self.clock = clock
        self.ids = ids
        self.level = level
        self.include_stack_trace = True
        self.include_performance_data = True
        self.correlation_header = "X-Correlation-ID"
        self.masker = masker if masker is not None else Masker()
        self._diagnostics: dict[str, list[Any]] = {}
        self._diagnosed_at = 0.0
        self._clock_offset: float | None = None  # between the wall clock and the monotonic one
        self._dropped_before = 0.0
        self._forgot_at = 0.0
        self._evaluated_at = -inf
        self._far_fault: RfsError | None = None  # of the store elsewhere, since the rules were last evaluated
        self._missed_rules_since: float | None = None
        self._operations: dict[str, OperationInstruments] = {}
        self._error_codes: dict[str, set[str]] = {}

        self.registry = Registry(self.reject, self.masker.text)
        self.capture = Capture(self.registry, service=self._own_name, on_problem=self._degraded)
        self._rejected = self.counter("rfs_rejected_total", "Measurements that were not taken")
        self._masked = self.counter("rfs_masked_total", "Secrets masked, by rule")
        self._truncated = self.counter("rfs_truncated_total", "Values cut, by bound")
        self._hook_faults = self.counter("rfs_hook_faults_total", "Faults of checks and sinks handed in, by reason")
        if self.masker.on_count is None:
            self.masker.on_count = self._count_masked
        self._internal_errors = self.counter(INTERNAL_ERRORS, "Faults inside RFS itself")
        self._produced = self.counter("rfs_produced_total", "What was handed to RFS").labels(signal="records")
        self._delivered = self.counter("rfs_delivered_total", "What reached the store").labels(signal="records")
        self._suppressed = self.counter("rfs_suppressed_total", "What one call site made too much of").labels(
            signal="records"
        )
        self._storms = Storms(clock.monotonic, storm_limit)
        self._dropped = self.counter("rfs_dropped_total", "What was dropped, and why")
        self._corrupt = self.counter("rfs_store_corrupt_total", "Damage in files, as who leads has met it")
        self._pipeline = self.gauge(
            "rfs_pipeline_state",
            "0 well, 1 degraded to memory or without a thread, 2 half full, 3 dropping",
            across="max",
        ).labels()
        self._unclean = self.gauge(
            "rfs_prev_shutdown_unclean",
            "1 if a process was killed instead of stopped, as its successor has seen",
            across="max",
        ).labels()
        self._alert_rules = self.gauge(
            _ALERT_RULES.name, "Alert rules that are declared, in the process that declares the most", across="max"
        ).labels()
        self._clock_step = self.gauge(
            "rfs_clock_step_seconds", "By how much the wall clock has last jumped; 0 if it has not"
        ).labels()
        self.successes = self.counter(SUCCESSES, "Operations that returned a Success")
        self.failures = self.counter(FAILURES, "Operations that returned a Failure or raised")
        self.durations_ms = self.histogram(DURATIONS, "How long operations took, in milliseconds")
        self.errors_by_type = self.counter(ERRORS_BY_TYPE, "Failures by operation, error type and error code")
        self.active = self.gauge("operations_active", "Operations that have begun and not ended", across="sum")

        self._leader = Leader(
            self.capture,
            store,
            forward_to=forward_to,
            retention=retention,
            now_seconds=self._now_seconds,
            monotonic=clock.monotonic,
            on_tick=self.tick,
            on_turn=self._hear,
            on_delivered=self._delivered.inc,
            on_dropped=lambda count: self._dropped.inc(count, signal="records", reason="store_full"),
            on_folded=self._tell_killed,
            on_problem=self._tell_problem,
            on_error=self.internal_error,
        )
        self.in_sink = self._leader.in_sink
        self._ask(self._leader.collect, books_of)
        self._steady: dict[str, tuple[Rule, Sample]] = {}  # what is the same until something is measured
        self._steady_since: tuple[float | None, float] = None, 0.0  # since when nothing was; since when these are
        self._still_seconds = 0.0  # by the wall clock
        self.alerts = AlertManager(
            read=self._read_for_rule,
            clock=clock,
            on_internal_error=self.internal_error,
            on_event=self._record_alert,
        )
        self._forward_to = forward_to
        self._retention = retention
        self._helper: Helper | None = None
        self._listener: Listener | None = None
        self._heard: dict[str, tuple[Rule, Sample]] = {}  # while the rules are evaluated with what the helper has told
        self._answers_for_all = False
        self._foreign = ForeignMirror(self._publish_foreign, self.internal_error)
        self._foreign_refused = 0
        self._planned: Path | None = None
        _monitors.add(self)
        if directory is not None:
            self.use_directory(directory)

    def _now_seconds(self) -> float:
        return self.clock.time_ns() / 1e9

    def _ask(
        self,
        collect: Callable[[], Moment],
        statistics: Callable[[Totals], Mapping[str, Mapping[str, float]]],
        latest: Callable[[Sequence[SeriesKey]], float | None] | None = None,
    ) -> None:
        self.query, self._rules = (
            Query(
                collect=collect,
                totals=self._leader.totals,
                latest=latest,
                now=self._now_seconds,
                service_name=lambda: self.service_name,
                statistics=statistics,
            )
            for _ in range(2)  # one is for the rules alone: however many look at the dashboard, they are evaluated
        )
        self._rule_query = self._rules

    # Where

    def use_directory(self, directory: Path | str) -> None:
        """
        Record into *directory*, with all other processes of this service, from now on and with all that was recorded so far.

        If it cannot be used this process records in memory, `capture_state` says why, and it is tried again each second
        once the Monitor runs. Never raises.
        """
        # Not first in the thread: a child that is forked while a thread imports waits for that import for ever.
        from rfs.monitoring._helper import Helper

        self._planned = Path(directory)
        if self._helper is None:
            self._helper = Helper(self.diagnose)
        self.capture.attach(self._planned)
        self._leader.attached()

    def plan_directory(self, directory: Path) -> None:
        """Use *directory* from `start` on, and in a forked child at once: until then nobody else has to see anything."""
        self._planned = directory

    @property
    def directory(self) -> Path | None:
        """The directory that was chosen; None if this process records in memory."""
        return self._planned

    @property
    def capture_state(self) -> CaptureState:
        """Whether this process records into the directory or in memory, and why."""
        return self.capture.state

    @property
    def leadership(self) -> Leadership:
        """Which process leads: imports, folds the dead and evaluates alert rules."""
        return self._leader.leadership

    def take_precedence(self) -> None:
        """
        Lead, as soon as this Monitor runs, whoever of the directory leads now: for a process that does nothing else, as ``rfs serve``.

        Who leads hands over within a second. Of several that take precedence, one leads. The process must declare the service's
        alert rules: who leads evaluates its own.
        """
        self._leader.precedence = Precedence.SERVER

    def lead_for(self, listener: Listener) -> None:
        """
        Lead in the place of a worker, who hears from *listener* what the rules' values are and what went wrong, and evaluates them itself.
        """
        self._listener = listener
        self._leader.precedence = Precedence.HELPER

    @property
    def helper_pid(self) -> int:
        """Of the process that leads for this one, see `rfs.monitoring._helper`; 0 if there is none."""
        return 0 if self._helper is None else self._helper.pid

    def answer_for_all_machines(self) -> None:
        """
        Answer questions, and evaluate alert rules, from what all machines forward to the store that this Monitor forwards to.

        What this process records goes there as before; what it measures does not, for it is none of the machines. Rules are evaluated
        every five seconds, for what others measure takes that long to come. `Query.totals` stay those of this process. Call it before
        ``start``.

        Raises:
            ValueError: This Monitor forwards to no store of many machines, or has a directory, where it would lead.
        """
        if self._planned is not None:
            raise ValueError(f"this Monitor has a directory of its own, {self._planned}")
        store = self._forward_to
        if not isinstance(store, SharedStore):
            raise ValueError(  # noqa: TRY004 - it is no argument
                "this Monitor has no `forward_to` that many machines write into, such as the ClickHouse that RFS_STORE names"
            )
        moment = Moment(Totals({}, {}, {}, {}, {}, []), store)
        self._answers_for_all = True
        self._leader.forwards_windows = False
        self._ask(lambda: moment, lambda _: {}, store.latest)

    def _own_name(self) -> str:
        # Nobody has named it yet: such a process is a stranger to none.
        return "" if self.service_name == UNNAMED else self.service_name

    def _degraded(self, reason: str) -> None:
        self.diagnose(reason)

    def _tell_problem(self, code: str, text: str) -> None:
        said = f"RFS-{code} {text}"
        if code in _DAMAGE and said not in self._diagnostics and self._leader.leadership.is_self:
            self._corrupt.inc()  # once for all processes, each of which meets it
        self.diagnose(said)

    # Life

    @property
    def running(self) -> bool:
        """Whether records are collected for sinks and alert rules evaluated."""
        return self._leader.running

    def start(self) -> None:
        """Start collecting and evaluating alert rules; does nothing if it runs. At exit the interpreter stops it."""
        if self._planned is not None and self.capture.path is None:
            self.use_directory(self._planned)
        self._leader.start()
        if self._leader.running:
            self.capture.mark_running(running=True)
        else:
            self._pipeline.set(1)
        atexit.unregister(self.stop)
        atexit.register(self.stop)

    def stop(self) -> None:
        """
        Stop, deliver what the sinks still hold, within 2 s in all; does nothing if it does not run.

        What is forwarded to another store gets 2 s of its own, and then no more.
        """
        deadline = time.monotonic() + STOP_SECONDS
        if self.running:
            self._foreign.refresh(_FOREIGN_SECONDS / 2)
        self._leader.stop(STOP_SECONDS / 2)
        if self._helper is not None:
            self._helper.stop(max(0.1, (deadline - time.monotonic()) / 2))  # it brings home what came last
        self.capture.mark_running(running=False)
        for sink in self._leader.sinks:
            sink.close(max(0.1, (deadline - time.monotonic()) / 2))
        self._leader.sinks.clear()
        self.alerts.close(max(0.1, deadline - time.monotonic()))
        if self._forward_to is not None:
            self._forward_to.close()
        self._print_diagnostics(at_the_end=True)
        atexit.unregister(self.stop)

    @property
    def sinks(self) -> tuple[Sink, ...]:
        """Who is handed every collected record."""
        return tuple(self._leader.sinks)

    def add_sink(self, sink: Sink) -> None:
        """Let *sink* have every record that is collected from now on, but for those that a sink makes while it is handed some."""
        self._leader.collect()
        self._leader.sinks.append(sink)

    def remove_sink(self, sink: Sink) -> None:
        """Take *sink* away and close it."""
        if sink in self._leader.sinks:
            self._leader.collect()
            self._leader.sinks.remove(sink)
            sink.close(STOP_SECONDS)

    def after_fork(self) -> None:
        """In a forked child: start anew, with nothing of the parent's pending records, thread and locks."""
        self.capture.after_fork(self._planned)
        self._storms.after_fork()
        self._leader.after_fork()
        if self._helper is not None:
            self._helper.after_fork()
        self.query.after_fork()
        self._rules.after_fork()
        self._foreign.after_fork()
        self._foreign_refused = 0
        if self._planned is not None:
            self._leader.attached()
        if isinstance(self.ids, RandomIds):
            self.ids.after_fork()

    # Declaring

    def counter(self, name: str, help: str = "", labels: Iterable[str] = ()) -> Counter:  # noqa: A002 - the field's own name
        """
        Declare counter *name*; declared twice, it is the same one.

        Raises:
            MetricDefinitionError: Name or label malformed, or the name belongs to another type.
        """
        metric = self.registry.declare(MetricType.COUNTER, name, help, labels)
        assert isinstance(metric, Counter)  # noqa: S101 - narrows what declare() made certain
        return metric

    def gauge(
        self,
        name: str,
        help: str = "",  # noqa: A002 - the field's own name
        labels: Iterable[str] = (),
        across: str = "latest",
    ) -> Gauge:
        """
        Declare gauge *name*; declared twice, it is the same one.

        *across* says how the values of several processes become one: ``latest`` written, ``sum``, ``min``, ``max``, or
        ``per_worker`` with a label of its own.

        Raises:
            MetricDefinitionError: Name or label malformed, or the name belongs to another type.
        """
        metric = self.registry.declare(MetricType.GAUGE, name, help, labels, across)
        assert isinstance(metric, Gauge)  # noqa: S101 - narrows what declare() made certain
        return metric

    def histogram(self, name: str, help: str = "", labels: Iterable[str] = ()) -> Histogram:  # noqa: A002 - the field's own name
        """
        Declare histogram *name*; declared twice, it is the same one.

        Raises:
            MetricDefinitionError: Name or label malformed, or the name belongs to another type.
        """
        metric = self.registry.declare(MetricType.HISTOGRAM, name, help, labels)
        assert isinstance(metric, Histogram)  # noqa: S101 - narrows what declare() made certain
        return metric

    def operation(self, name: str) -> OperationInstruments:
        """The bound series of operation *name*."""
        try:
            return self._operations[name]
        except KeyError:
            made = OperationInstruments(self, name)
            # Of more operations than a metric has series, most share the overflow series.
            return self._operations.setdefault(name, made) if len(self._operations) < MAX_SERIES else made

    # Registries of prometheus_client

    def include_registry(self, registry: object) -> None:
        """
        Let every exposition, whichever worker answers, hold the samples of *registry* too, those of all workers.

        Args:
            registry: A ``prometheus_client.CollectorRegistry``, or anything with its ``collect()``. The library's default one
                is included without being asked as soon as the host has imported it.

        It is collected once a second while the Monitor runs, and when this process is asked for an exposition; never by what
        records. Counters, histograms and summaries are added up over processes, and keep what dead ones counted up to their
        last second. Of any other type each living worker's sample is there, labelled ``worker``. Call it in each process.
        """
        self._foreign.include(registry)

    def refresh_foreign(self) -> None:
        """Bring what this process' foreign registries hold up to date, within a second at most. Runs the host's collectors."""
        self._foreign.refresh(_FOREIGN_SECONDS)

    def _publish_foreign(self, families: list[ForeignFamily], before: Mapping[SampleKey, float]) -> None:
        refused = self.registry.foreign.publish(families, before)
        if refused > self._foreign_refused:  # the same ones are refused each time, and counted once
            self._dropped.inc(refused - self._foreign_refused, **dict(REFUSED.labels))
            self._foreign_refused = refused

    # Recording

    def log(
        self,
        level: int,
        message: str,
        *,
        operation: str = "",
        logger: str = "rfs",
        step: str = "",
        fields: Mapping[str, object] | None = None,
        error: object = None,
        is_defect: bool = False,
        duration_seconds: float | None = None,
        outcome: str = "",
        kind: str = "log",
        context: Context | None = None,
        template: str | None = None,
    ) -> None:
        """
        Keep one record. Never raises, never blocks; below the Monitor's level it does nothing.

        Args:
            fields: Rendered by type and masked now, so that what is mutated later does not change the record.
            error: What a Failure holds, or an exception; with a stack trace if the Monitor includes them.
            duration_seconds: From a monotonic clock.
            context: Whose ids the record carries; the current one by default.
            template: What *message* was made from, if that is known: it tells the call site better.
        """
        if level < self.level:
            return
        try:
            if context is None:
                context = current()
            if context is not None:
                if not operation:
                    operation = context.operation
                if context.fields:
                    fields = {**context.fields, **fields} if fields else context.fields
            # Operations, requests and steps are told by their kind: how many there are, traffic decides.
            if kind == "log" and not self._storms.allow(logger, operation, level, template or message):
                self._produced.inc()
                self._suppressed.inc()
                return
            masker = self.masker
            self.keep(
                context,
                level,
                kind,
                logger,
                operation,
                step,
                masker.text(message),
                outcome,
                duration_seconds,
                masker.fields(fields) if fields else {},
                None if error is None else masker.error(error, stack=self.include_stack_trace, is_defect=is_defect),
            )
        except Exception as failure:  # noqa: BLE001 - the host comes first; counted and shown
            self.internal_error("log", failure)

    def keep(
        self,
        context: Context | None,
        level: int,
        kind: str,
        logger: str,
        operation: str,
        step: str,
        message: str,
        outcome: str,
        duration_seconds: float | None,
        fields: dict[str, JsonValue],
        error: ErrorInfo | None,
    ) -> None:
        """Keep one record in which nothing is left to mask. What RFS says itself comes here without `log`; may raise."""
        if context is None:
            correlation_id = trace_id = span_id = parent_span_id = ""
        else:
            correlation_id, trace_id = context.correlation_id, context.trace_id
            span_id, parent_span_id = context.span_id, context.parent_span_id
        try:
            time_ns = self.clock.time_ns()
        except Exception:  # noqa: BLE001 - a clock that was handed in
            time_ns = -1
        if time_ns.__class__ is not int or not 0 <= time_ns <= _LATEST_NS:
            time_ns = max(0, time.time_ns())  # the system's own, which is when it came
            self.internal_error("clock", ValueError("the wall clock says no time in nanoseconds"))
        payload = encode_record(
            RecordData(
                time_ns,
                level,
                kind,
                logger,
                operation,
                step,
                message,
                correlation_id,
                trace_id,
                span_id,
                parent_span_id,
                outcome,
                duration_seconds,
                fields,
                error,
            )
        )
        flags = HAS_ERROR if error is not None else 0
        if self.in_sink and get_ident() in self.in_sink:
            flags |= FROM_SINK
            self._hook_faults.inc(1, reason="reentrant")
        self._produced.inc()
        if len(payload) > _LARGEST_PAYLOAD:
            self._dropped.inc(1, signal="records", reason="record_too_large")
        elif not self.capture.segments.append(
            time_ns,
            level,
            flags,
            correlation_id.encode(),
            operation.encode(),
            payload,
        ):
            self._dropped.inc(1, signal="records", reason="level_shed")

    def measure_result(
        self,
        operation: str,
        duration_ms: float,
        labels: Mapping[str, str] | None = None,
        *,
        failed: bool,
        expected: bool = False,
    ) -> None:
        """Count one finished operation and its duration. Never raises."""
        context = current()
        if labels:
            everything = {"operation": operation, **labels}
            durations = self.durations_ms.child(everything)
            if durations is not None:
                durations.observe(duration_ms)
                if context is not None:
                    self._trace(durations, duration_ms, context)
            if expected:
                everything["expected"] = "true"
            (self.failures if failed else self.successes).inc(1, **everything)
            return
        instruments = self.operation(operation)
        durations = instruments.durations_ms
        durations.observe(duration_ms)
        if context is not None:
            self._trace(durations, duration_ms, context)
        if failed:
            instruments.count_failure(expected=expected)
        else:
            instruments.successes.inc()

    def _trace(self, durations: BoundHistogram, duration_ms: float, context: Context) -> None:
        now = self.clock.monotonic()
        if now >= durations.exemplar_due and context.sampled:
            durations.keep_exemplar(duration_ms, now, self.clock.time_ns(), context.trace_id, context.span_id)

    def count_error(self, operation: str, error_type: str, code: str) -> None:
        """
        Count one failure. Never raises.

        Of one operation at most 100 different codes become labels; further ones are counted as ``rfs_overflow``.
        """
        if operation not in self._error_codes and len(self._error_codes) >= MAX_SERIES:
            operation = OVERFLOW_LABEL
        codes = self._error_codes.setdefault(operation, set())
        if code not in codes:
            if len(codes) >= _MAX_CODES_PER_OPERATION:
                error_type = code = "rfs_overflow"
            codes.add(code)
        self.errors_by_type.inc(1, operation=operation, error_type=error_type, error_code=code)

    def reject(self, metric: object, reason: str) -> None:
        """Count a measurement that was not taken, and say so once per metric and reason. Never raises."""
        if metric == "rfs_rejected_total":
            return  # its own overflow: the sum is kept, there is nothing else to say
        name = metric if isinstance(metric, str) else type(metric).__name__
        self._rejected.inc(1, metric=name[:200], reason=reason)
        text = f"RFS-E131 metric {name[:200]!r}: rejected ({reason})"
        if reason == "cardinality_limit" and (crowded := self.registry.get(name)) is not None:
            text += f"; label {crowded.crowded_by!r} has the most values, further series are one: {OVERFLOW_LABEL}"
        self.diagnose(text)

    def internal_error(self, where: str, error: BaseException) -> None:
        """Count a fault of RFS itself, and say so. Never raises."""
        try:
            self._internal_errors.inc(1, where=where)
            self.diagnose(f"RFS-E100 {where}: {type(error).__name__}: {self.masker.text(_plain_text(error))}")
        except Exception:  # noqa: BLE001, S110 - the last resort of all last resorts has nowhere to report to
            pass

    def diagnose(self, text: str) -> None:
        """Have *text*, which begins with its code, printed on standard error some time. Never raises or waits."""
        # Printed by the leader's thread: stderr may be a pipe that nobody reads.
        entry = self._diagnostics.get(text)
        if entry is not None:
            entry[0] += 1
        elif len(self._diagnostics) < _MAX_DIAGNOSTICS:
            self._diagnostics[text] = [1, False]

    @property
    def diagnostics(self) -> list[str]:
        """What there is to say, and was said, about faults and refusals, each text once."""
        return list(self._diagnostics)

    def _print_diagnostics(self, *, at_the_end: bool = False) -> None:
        """Print one line of each code, *at_the_end* all that is left to say; or let the listener have all."""
        if self._listener is not None:
            self._listener.tell_problems(self._diagnostics)
            self._diagnosed_at = self.clock.monotonic()
            return
        codes: set[str] = set()
        for text, entry in tuple(self._diagnostics.items()):
            count, said = entry
            code = text.partition(" ")[0]
            if count and (at_the_end or code not in codes):
                codes.add(code)
                # Now the last of its code: the next time another text has its turn.
                self._diagnostics[text] = self._diagnostics.pop(text)
                times = f" (repeated {count}x)" if count > 1 or said else ""
                entry[0], entry[1] = 0, True
                sys.stderr.write(f"{text}{times}\n")
        self._diagnosed_at = self.clock.monotonic()

    def _count_masked(self, name: str, label: str) -> None:
        if name == self._masked.name:
            self._masked.inc(1, rule=label)
        elif name == self._hook_faults.name:
            self._hook_faults.inc(1, reason=label)
        else:
            self._truncated.inc(1, bound=label)

    # The leader's tick

    def tick(self) -> None:
        """What each process' own thread does each second: collect, evaluate the alert rules, say what went wrong."""
        now = self.clock.monotonic()
        if now - self._forgot_at >= _FORGET_EVERY_SECONDS:
            self._forgot_at = now
            self._forget_idle(now)
        self._report_storms()
        if self._foreign.due(time.monotonic()):
            self._foreign.refresh()
        self._count_rules()
        moment = self._leader.sample()
        if moment is not None and self._leader.leads():
            declared = moment.totals.gauges.get(_ALERT_RULES, 0)
            if self._listener is None:
                self._miss_rules(declared)
            self._evaluate(moment, now, declared)
        self._let_help()
        self._watch_pipeline()
        self._watch_clock()
        if self._diagnostics and self.clock.monotonic() - self._diagnosed_at >= _DIAGNOSTIC_SECONDS:
            self._print_diagnostics()

    def _evaluate(self, moment: Moment, now: float, declared: float) -> None:
        if self._answers_for_all:
            if now - self._evaluated_at < _FORWARDED_SECONDS:
                return
            self._far_fault = None
            self._rule_query = self._rules.settled()
        else:
            self._rule_query = self._rules.settled(moment)  # all rules see the same one
            self._keep_steady()
        self._evaluated_at = now
        with self._rules.bounded():  # a place is taken once, not for each rule: nobody else asks there
            if self._listener is None:
                self.alerts.evaluate(self.clock.monotonic())
                self._tell_standing()
            else:
                self._listener.tell_values(self._read_for_listener, declared)

    def _let_help(self) -> None:
        """Let a helper lead from now on, if that is worth a process; and tell the one there is which rules there are."""
        helper, directory = self._helper, self._planned
        if helper is None or directory is None:
            return
        # A server is a process of its own; a store that is elsewhere, or a clock that was handed in, another process does not have.
        if (
            self._leader.busy_seconds >= BUSY_SECONDS
            and helper.may_start
            and self._leader.precedence is Precedence.WORKER
            and self._forward_to is None
            and self.clock is SYSTEM_CLOCK
        ):
            helper.start(str(directory), self.service_name, self._retention)
        if helper.pid:
            helper.tell(self.alerts.rules())

    def _hear(self) -> None:
        """Evaluate the rules with what the helper has told, if it has told something."""
        heard = None if self._helper is None else self._helper.hear()
        if heard is None:
            return
        self._miss_rules(heard.declared)
        self._heard = heard.samples
        self._rule_query = self._rules  # for a rule that was declared at this moment
        try:
            self.alerts.evaluate(self.clock.monotonic())
        finally:
            self._heard = {}
        self._tell_standing()

    def standing_alerts(self) -> Standing | None:
        """
        Which alerts stand, whichever process of the directory evaluates the rules; None: nobody knows at the moment.

        Who evaluates them knows by himself, and has told all others. Reads a small file; never raises.
        """
        age = self.alerts.evaluation_age_seconds()
        if self._planned is None:  # nobody but this process evaluates its rules
            is_known = age is not None or not self.alerts.rule_count
        else:
            is_known = age is not None and age < FRESH_SECONDS
        if is_known:
            return Standing.of(self.alerts.active(), self.alerts.rule_count)
        directory = self.capture.directory
        if directory is None:
            return None
        try:
            return read_standing(directory, time.monotonic_ns())
        except LiveFileError as error:
            text = f"live file {error.name} {error.fault}; which alerts stand is not known here"
            self._tell_problem("S112" if error.is_newer else "S113", text)
            return None

    def _tell_standing(self) -> None:
        """Tell the other processes of the directory which alerts stand; what cannot be told they do not know."""
        directory, epoch = self.capture.directory, self.leadership.epoch
        if directory is None or not epoch:
            return
        try:
            standing = Standing.of(self.alerts.active(), self.alerts.rule_count)
            tell_standing(directory, epoch, standing, now_ns=time.monotonic_ns(), time_ns=self.clock.time_ns())
        except OSError:
            pass  # no space, or no directory: `Capture.mend` says so
        except Exception as error:  # noqa: BLE001 - such as a label that no file can hold; the thread goes on
            self.internal_error("alerts.tell", error)

    def _read_for_listener(self, rule: Rule) -> Sample:
        try:
            return self._read_for_rule(rule)
        except Exception as error:  # noqa: BLE001 - whatever fails is the rule's state ERROR there, and counted here
            self.internal_error("alerts.read", error)
            return Sample(None, type(error).__name__)

    def beat(self) -> None:
        """
        Do in this thread, at once, what the Monitor's own thread does in a second: lead, hand on, `tick`. Never raises.

        For a test's clock, instead of `start`: `rfs.testing.virtual_time.VirtualTime.drive` calls it.
        """
        self._leader.beat()

    def _keep_steady(self) -> None:
        """
        Forget what the rules' values were, if they may be others now.

        A window in which nothing was measured, and nothing since, is as empty a second later. Not for ever: the store lets go of old
        series some day; and not if the wall clock went back, for then there is something in the window again.
        """
        still, now = self._leader.still_since, self._now_seconds()
        seconds = 0.0 if still is None else now - still
        since, kept_since = self._steady_since
        if still is None or still != since or seconds < self._still_seconds or now - kept_since >= _STEADY_SECONDS:
            self._steady.clear()
            self._steady_since = still, now
        self._still_seconds = seconds

    def _count_rules(self) -> None:
        if self.alerts.rule_count != (self._alert_rules.value or 0):
            self._alert_rules.set(self.alerts.rule_count)

    def _miss_rules(self, declared: float) -> None:
        known = self.alerts.rule_count
        now = self.clock.monotonic()
        if known >= declared:
            self._missed_rules_since = None
        elif self._missed_rules_since is None:
            self._missed_rules_since = now
        elif now - self._missed_rules_since >= _MISSED_RULES_SECONDS:
            what_to_do = ": rfs serve --import MODULE" if self._leader.precedence is Precedence.SERVER else ""
            self.diagnose(
                f"RFS-A101 alert rules are not evaluated: a process of {self.service_name} declares {declared:.0f}, and this one "
                f"(pid {os.getpid()}), which leads, has {known}; let it declare them, too{what_to_do}"
            )

    def _watch_pipeline(self) -> None:
        dropped = sum(series.value for series in self._dropped.series())
        state = 3 if dropped > self._dropped_before else 2 if self.capture.segments.half_full else 0
        self._pipeline.set(state or int(bool(self.capture.degraded)))
        self._dropped_before = dropped

    def _watch_clock(self) -> None:
        before, self._clock_offset = self._clock_offset, self._now_seconds() - self.clock.monotonic()
        if before is not None:
            step = self._clock_offset - before
            if abs(step) >= _CLOCK_STEP_SECONDS:
                self._clock_step.set(step)
            elif self._clock_step.value is None:
                self._clock_step.set(0)

    def _tell_killed(self, killed: list[Killed]) -> None:
        for one in killed:
            text = f"Process {one.pid} was killed: {one.records} records of it were found, {one.lost} were lost"
            fields: dict[str, JsonValue] = {"pid": one.pid, "last_sequence": one.records, "lost": one.lost}
            self.keep(None, 30, "log", "rfs.capture", "", "", text, "", None, fields, None)
        if killed:
            self._unclean.set(1)
        elif self._unclean.value is None:
            self._unclean.set(0)

    def _forget_idle(self, now: float) -> None:
        # What we hold bound is not in use for that alone.
        self._operations = {name: one for name, one in self._operations.items() if not one.durations_ms.is_idle(now)}
        self._leader.forget_idle(now)

    def _report_storms(self) -> None:
        for site in self._storms.report():
            what = self.masker.text(site.message) if site.message else "<texts that are made anew each time>"
            fields: dict[str, JsonValue] = {"suppressed": site.times, "message": what, "level": site.level}
            text = f"Suppressed {site.times} records: {what}"
            self.keep(None, 30, "log", site.logger, site.operation, "", text, "", None, fields, None)

    def _read_for_rule(self, rule: Rule) -> Sample:
        heard = self._heard.get(rule.name)
        if heard is not None and heard[0] is rule:
            return heard[1]
        known = self._steady.get(rule.name)
        if known is not None and known[0] is rule:
            return known[1]
        if self._far_fault is not None:
            raise self._far_fault  # asked for each rule, a server that hangs would hold this thread for minutes
        try:
            sample = self._read_sample(rule)
        except (StoreError, QueryTimeoutError) as error:
            if self._answers_for_all:
                self._far_fault = error
            raise
        # A second for the one that is under way, and one because windows are as fine as that.
        if self._still_seconds > rule.window_seconds + 2:
            self._steady[rule.name] = rule, sample
        return sample

    def _read_sample(self, rule: Rule) -> Sample:
        query = self._rule_query
        with deadline(MAX_SECONDS):
            metric_type = query.metric_type(rule.metric_name)
            if metric_type is None:
                return Sample(None)
            aggregation = rule.aggregation or default_aggregation(metric_type)
            value = self._aggregate(rule, metric_type, aggregation)
        return value if isinstance(value, Sample) else Sample(value, None, aggregation)

    def _aggregate(self, rule: Rule, metric_type: MetricType, aggregation: str) -> float | Sample | None:
        query, labels = self._rule_query, rule.labels or None
        window = f"{max(1, round(rule.window_seconds))}s"
        if metric_type is MetricType.GAUGE and aggregation == "last":
            return query.latest(rule.metric_name, labels)
        if metric_type is MetricType.COUNTER and aggregation in ("increase", "rate"):
            increase = query.increase(rule.metric_name, window, labels)
            return increase if increase is None or aggregation == "increase" else increase / rule.window_seconds
        distribution = query.distribution(rule.metric_name, window, labels)
        if distribution is None or aggregation == "last":
            return Sample(None, f"a {metric_type} cannot be compared by {aggregation}", aggregation)
        if aggregation == "increase":
            return float(distribution.count)
        if aggregation == "rate":
            return distribution.count / rule.window_seconds
        if not distribution.count:
            return None
        return distribution.mean if aggregation == "mean" else distribution.quantile(int(aggregation[1:]) / 100)

    def _record_alert(self, alert: Alert) -> None:
        level = 30 if alert["event"] in ("fire", "error") else INFO
        self.log(level, alert.message, logger="rfs.alerts", kind="alert", fields=alert.to_dict())


def _plain_text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - an exception whose __str__ raises
        return "<no text>"


# One Monitor for the module functions

_monitors: WeakSet[Monitor] = WeakSet()
_made: Monitor | None = None  # by ourselves, not by `use_monitor`
default: Monitor | None = None  # read directly where a call to `default_monitor` would be felt


def default_monitor() -> Monitor:
    """The Monitor that the module functions act on; made at the first call."""
    return default if default is not None else _make_default()


def _make_default() -> Monitor:
    global default, _made  # noqa: PLW0603 - the one module-level convenience; tests replace it
    # A handler that records at some kHz would make one Monitor in the midst of another's making, until the stack ends.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        if default is None:
            directory = os.environ.get("RFS_DIR", MEMORY)
            made = Monitor(
                service_name=os.environ.get("RFS_SERVICE_NAME", UNNAMED),
                directory=None if directory in ("", MEMORY) else directory,
                forward_to=_forward_to(os.environ.get("RFS_STORE", "")),
            )
            if default is None:
                default = _made = made
        return default
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _forward_to(url: str) -> Store | None:
    if not url:
        return None
    from rfs.monitoring._store.clickhouse import ClickHouseStore

    def tell(code: str, text: str) -> None:
        if _made is not None:
            _made.diagnose(f"RFS-{code} {text}")

    try:
        return ClickHouseStore.from_url(url, service=os.environ.get("RFS_SERVICE_NAME", UNNAMED), on_problem=tell)
    except ValueError as error:  # who records must not fail over a setting
        sys.stderr.write(f"RFS-S116 RFS_STORE: {error}; nothing is forwarded\n")
        return None


def plan_default_directory() -> None:
    """
    Let the default Monitor record into its service's directory from its start on, unless ``RFS_DIR`` has decided.

    A Monitor that `use_monitor` has put in place is left as it is.
    """
    monitor = default_monitor()
    if monitor is _made and monitor.directory is None and os.environ.get("RFS_DIR") is None:
        monitor.plan_directory(default_directory(monitor.service_name))


@contextmanager
def use_monitor(monitor: Monitor) -> Generator[Monitor]:
    """Make *monitor* the default one inside the ``with`` block. For tests; affects all threads."""
    global default  # noqa: PLW0603 - see _make_default
    before = default
    default = monitor
    try:
        yield monitor
    finally:
        default = before


def _after_fork() -> None:
    for monitor in tuple(_monitors):
        monitor.after_fork()


os.register_at_fork(after_in_child=_after_fork)

__all__ = [
    "SYSTEM_CLOCK",
    "Clock",
    "Monitor",
    "OperationInstruments",
    "SystemClock",
    "default_monitor",
    "use_monitor",
]
