"""
Logging of Results: operations, steps and plain messages as records under one correlation id.

`log_result_operation` makes one call of a function one operation: a record when it starts, one when it ends (which is its
span), the measurements that tell how often, how long and how well, and a context that everything inside it inherits.
Chains of `MonoResult` add their steps with ``log_step``, ``log_error`` and ``log_performance``.

Every function here acts on the default Monitor, never raises into its caller, never blocks, and is safe from any thread.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import re
import sys
from asyncio import CancelledError
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from enum import StrEnum
from json.encoder import encode_basestring_ascii as _ascii_json
from pathlib import Path
from threading import Condition, Lock, Thread, get_ident
from time import perf_counter
from typing import Any, ParamSpec, TextIO, TypeVar, cast

import msgspec

from rfs.core.result import Failure, Result, Success, error_code, is_expected
from rfs.monitoring import monitor as _monitors
from rfs.monitoring._capture.record import LogRecord, ResultLogEntry, read_record
from rfs.monitoring._capture.segments import Frame
from rfs.monitoring.context import (
    Context,
    CorrelationContext,
    activate,
    bind,
    current,
    get_correlation_id,
    propagate,
    start_context,
    with_correlation_id,
)
from rfs.monitoring.masking import ErrorInfo, JsonValue, is_sensitive
from rfs.monitoring.monitor import Monitor, OperationInstruments, default_monitor
from rfs.reactive import FluxResult, MonoResult, StepEvent, set_step_observer

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
E = TypeVar("E")

# OpenTelemetry's name for where an operation is defined: a dotted path, in the record of each failure. No parameter has such a name.
FUNCTION_FIELD = "code.function.name"

_MAX_SINK_RECORDS = 10_000
_SLOW_RENDER_SECONDS = 0.01


class LogLevel(StrEnum):
    """How severe a record is."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"
    CRITICAL = "CRITICAL"

    @property
    def number(self) -> int:
        """The standard library's number: 10 for DEBUG … 50 for CRITICAL."""
        return _LEVEL_NUMBERS[self.value]


_LEVEL_NUMBERS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}


def level_number(level: LogLevel | str | int) -> int:
    """
    The standard library's number of a level given as `LogLevel`, name or number.

    Raises:
        ValueError: There is no such level.
    """
    if isinstance(level, int):
        return level
    number = _LEVEL_NUMBERS.get(str(level).upper())
    if number is None:
        raise ValueError(f"log level {str(level)!r} is none of {', '.join(_LEVEL_NUMBERS)}")
    return number


# Setting up


def configure_result_logging(
    level: LogLevel | str | int = LogLevel.INFO,
    include_stack_trace: bool = True,
    include_performance_data: bool = True,
    correlation_header: str = "X-Correlation-ID",
    *,
    stream: TextIO | str | None = "stdout",
) -> None:
    """
    Set up what is recorded, and print it as JSON lines. May be called again; the last call holds.

    Args:
        level: The lowest level that is recorded.
        include_stack_trace: Whether records of failures that hold an exception carry its (masked) stack trace.
        include_performance_data: Whether ``log_performance`` and finished operations carry the process' memory use.
        correlation_header: The request header that brings a correlation id and the response header that returns it.
        stream: Where JSON lines go: ``"stdout"`` (the `sys.stdout` of this moment), a text stream, or None for nowhere.

    Lines are written by a thread of their own; if the stream does not take them, records are dropped for it and
    counted (``rfs_dropped_total{signal="stream"}``), and nobody waits.

    Raises:
        ValueError: There is no such level, or the header is not an HTTP token.
    """
    number = level_number(level)
    if not correlation_header or not correlation_header.replace("-", "").replace("_", "").isalnum():
        raise ValueError(f"correlation_header {correlation_header!r} is not the name of an HTTP header")
    monitor = default_monitor()
    monitor.level = number
    monitor.include_stack_trace = include_stack_trace
    monitor.include_performance_data = include_performance_data
    monitor.correlation_header = correlation_header
    with _configuring:
        for sink in [sink for sink in monitor.sinks if isinstance(sink, StreamSink)]:
            monitor.remove_sink(sink)
        target = sys.stdout if isinstance(stream, str) else stream
        if target is not None:
            monitor.add_sink(StreamSink(monitor, target))
            monitor.start()


_configuring = Lock()  # held by those who configure at once, never by those who record


class StreamSink:
    """Prints records as JSON lines on a text stream, from a thread of its own; what the stream does not take is dropped."""

    def __init__(self, monitor: Monitor, stream: TextIO) -> None:
        self._monitor = monitor
        self._stream = stream
        self._frames: deque[Frame] = deque()
        self._changed = Condition()
        self._closing = False
        self._dropped = monitor.counter("rfs_dropped_total").labels(signal="stream", reason="queue_full")
        self._thread: Thread | None = None
        self._writing = 0
        self._pid = 0
        encoding = (getattr(stream, "encoding", None) or "utf-8").lower().replace("_", "-")
        self._takes_all = encoding in ("utf-8", "utf8", "utf-16", "utf-32")

    def put(self, frames: list[Frame]) -> None:
        """Queue *frames* for printing; what does not fit is dropped, the newest first, and counted."""
        if self._pid != os.getpid():  # first use, or a forked child, which inherits no thread and no queued record
            self._pid = os.getpid()
            self._frames, self._changed = deque(), Condition()
            thread = Thread(target=self._run, name="rfs-stream", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # no more threads: what is queued is bounded, and printed when there is one
                self._pid = 0
                self._monitor.internal_error("stream", error)
                self._dropped.inc(len(frames))
                return
            self._thread = thread
        with self._changed:
            room = _MAX_SINK_RECORDS - len(self._frames)
            self._frames.extend(frames[:room])
            if len(frames) > room:
                self._dropped.inc(len(frames) - room)
            self._changed.notify()

    def close(self, timeout_seconds: float) -> None:
        """Print what is queued, for at most *timeout_seconds*."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None and self._pid == os.getpid():
            self._thread.join(timeout_seconds)
            if self._thread.is_alive():
                left = len(self._frames) + self._writing
                self._monitor.counter("rfs_dropped_total").inc(left, signal="stream", reason="shutdown")
                self._monitor.diagnose(f"RFS-X110 shutdown: {left} records left that the stream did not take")

    def _run(self) -> None:
        in_sink, thread = self._monitor.in_sink, get_ident()
        while True:
            with self._changed:
                while not self._frames and not self._closing:
                    self._changed.wait()
                frames = list(self._frames)
                self._frames.clear()
                self._writing = len(frames)
                if not frames and self._closing:
                    return
            try:
                name = self._monitor.service_name
                lines = "".join(json_line(read_record("", frame.payload, name)) + "\n" for frame in frames)
                in_sink.add(thread)
                self._stream.write(lines if self._takes_all else escape_json(lines))
                self._stream.flush()
            except Exception as error:  # noqa: BLE001 - a closed stream, a full disk: counted, and we go on
                self._monitor.internal_error("stream", error)
                self._dropped.inc(len(frames))
            finally:
                in_sink.discard(thread)


_encode_json = msgspec.json.Encoder().encode
# JSON may hold these as they are, but readers that split lines as Unicode does would split inside the object.
_LINE_BREAKS = str.maketrans({"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def json_line(record: LogRecord) -> str:
    """One strict JSON object on one line by anybody's idea of a line, without its newline."""
    return _encode_json(record.to_dict()).decode().translate(_LINE_BREAKS)


_BEYOND_ASCII = re.compile("[^\0-\x7f]")


def escape_json(text: str) -> str:
    """The same JSON with ASCII characters alone, for a stream that takes no others."""
    return _BEYOND_ASCII.sub(lambda match: _ascii_json(match[0])[1:-1], text)


# Plain messages


def log(level: LogLevel | str | int, message: str, /, **fields: object) -> None:
    """Record *message* with structured *fields* at *level*."""
    default_monitor().log(level_number(level), message, fields=fields)


def debug(message: str, /, **fields: object) -> None:
    """Record *message* at DEBUG."""
    monitor = _monitors.default or default_monitor()
    if monitor.level <= 10:
        monitor.log(10, message, fields=fields)


def info(message: str, /, **fields: object) -> None:
    """Record *message* at INFO."""
    monitor = _monitors.default or default_monitor()
    if monitor.level <= 20:
        monitor.log(20, message, fields=fields)


def warning(message: str, /, **fields: object) -> None:
    """Record *message* at WARNING."""
    default_monitor().log(30, message, fields=fields)


def error(message: str, /, *, exception: BaseException | None = None, **fields: object) -> None:
    """Record *message* at ERROR, with what is known of *exception*."""
    default_monitor().log(40, message, fields=fields, error=exception)


def critical(message: str, /, *, exception: BaseException | None = None, **fields: object) -> None:
    """Record *message* at CRITICAL, with what is known of *exception*."""
    default_monitor().log(50, message, fields=fields, error=exception)


class RfsHandler(logging.Handler):
    """
    Hands records of the standard library's `logging` to RFS, with the correlation id of where they were made.

    ``logging.getLogger().addHandler(RfsHandler())``. What was passed as ``extra`` becomes fields, masked like all others.
    Takes no lock, so it can neither hang at a fork nor deadlock in a signal handler.
    """

    _STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

    def __init__(self, monitor: Monitor | None = None, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        self._monitor = monitor

    def createLock(self) -> None:  # noqa: N802 - the standard library's name
        """No lock: recording needs none."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        """Record *record*; never raises."""
        monitor = self._monitor if self._monitor is not None else default_monitor()
        if record.levelno < monitor.level:
            return
        try:
            fields = {key: value for key, value in vars(record).items() if key not in self._STANDARD}
            fields.update(module=record.module, function=record.funcName, line=record.lineno)
            began = perf_counter()
            try:
                message = record.getMessage()
            except Exception as fault:  # noqa: BLE001 - the arguments' own __str__, or a wrong format
                message = f"{record.msg if isinstance(record.msg, str) else '<message>'} <unformattable arguments>"
                fields["formatting_error"] = type(fault).__name__
            if perf_counter() - began > _SLOW_RENDER_SECONDS:
                monitor.counter("rfs_slow_render_total", "Messages whose arguments took over 10 ms to format").inc()
            monitor.log(
                record.levelno,
                message,
                logger=record.name if isinstance(cast("object", record.name), str) else "<no name>",
                fields=fields,
                error=record.exc_info[1] if record.exc_info else None,
                template=record.msg if isinstance(record.msg, str) else None,
            )
        except Exception as fault:  # noqa: BLE001 - the host comes first; counted
            monitor.internal_error("logging_handler", fault)


# Operations


def log_result_operation(
    operation_name: str,
    *,
    log_level: LogLevel | str | int = LogLevel.INFO,
    include_args: bool = True,
    include_result: bool = False,
    logger_name: str = "rfs.operation",
    performance_threshold_ms: float | None = None,
    expected: Iterable[object] = (),
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """
    Make each call of the decorated function (async or plain) an operation.

    Recorded are "Operation started" with the arguments by name, and "Operation completed", "Operation failed" or
    "Operation cancelled" with the duration. Measured are ``result_success_total``, ``result_failure_total``,
    ``result_duration_ms`` and ``result_error_by_type_total``; a `collect_result_metric` for the same operation inside the
    call takes the place of this measurement. What the function returns or raises goes on unchanged.

    Args:
        operation_name: Low in number: it becomes a label.
        log_level: Of the start and the success. A failure is recorded at ERROR, an expected one at *log_level*.
        include_args: Whether the arguments are recorded, masked; ``self`` and ``cls`` never are, and of one annotated
            ``Annotated[..., Sensitive]`` only that it was there.
        include_result: Whether the value of a Success is recorded, masked; its type and size are in any case.
        logger_name: The ``logger`` of the records.
        performance_threshold_ms: A success slower than this is recorded at WARNING.
        expected: Error codes (or enum members) that belong to normal business. Errors with ``expected = True`` do anyway.

    Raises:
        ValueError: No operation name, or no such level.
    """
    if not isinstance(cast("object", operation_name), str) or not operation_name:
        raise ValueError(f"operation_name must be a non-empty str, not {operation_name!r}")
    level = level_number(log_level)
    expected_codes = frozenset(
        error_code(code) if not isinstance(code, str) or hasattr(code, "value") else code for code in expected
    )
    threshold = None if performance_threshold_ms is None else performance_threshold_ms / 1000

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        names = _parameter_names(function) if include_args else ()
        operation = _Operation(
            operation_name, level, names, include_args, include_result, logger_name, threshold, expected_codes
        )
        operation.sensitive = _sensitive_parameters(function)
        operation.function = _path_of(function)
        begin, end = operation.begin, operation.end

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def observed_async(*args: P.args, **kwargs: P.kwargs) -> object:
                running = begin(args, kwargs)
                try:
                    result = await function(*args, **kwargs)
                except BaseException as raised:
                    end(running, None, raised)
                    raise
                end(running, result, None)
                return result

            return cast("Callable[P, R]", observed_async)

        @functools.wraps(function)
        def observed(*args: P.args, **kwargs: P.kwargs) -> R:
            running = begin(args, kwargs)
            try:
                result = function(*args, **kwargs)
            except BaseException as raised:
                end(running, None, raised)
                raise
            end(running, result, None)
            return result

        return observed

    return decorate


def internal_error(where: str, failure: BaseException) -> None:
    """Count a fault of RFS on the default Monitor, if that much still works. Never raises."""
    with suppress(Exception):
        default_monitor().internal_error(where, failure)


class _Running:
    """One call of an operation, from its start to its end."""

    __slots__ = ("context", "measured", "monitor", "previous", "series", "started")

    def __init__(
        self, monitor: Monitor, context: Context, previous: Context | None, series: OperationInstruments, started: float
    ) -> None:
        self.monitor = monitor
        self.context = context
        self.previous = previous
        self.series = series
        self.started = started
        self.measured = False  # by collect_result_metric, inside the call

    def leave(self) -> None:
        """Go back to the context that the call came from."""
        self.context.state = None  # no cycle is left to the garbage collector
        activate(self.previous)


class _Operation:
    """What the decorator knows of a function; begins and ends its calls. Neither ever raises."""

    def __init__(
        self,
        name: str,
        level: int,
        parameters: tuple[str, ...],
        include_args: bool,
        include_result: bool,
        logger: str,
        threshold_seconds: float | None,
        expected: frozenset[str],
    ) -> None:
        self._name = name
        self._level = level
        self._has_receiver = parameters[:1] in (("self",), ("cls",))
        self._parameters = parameters[1:] if self._has_receiver else parameters
        self._include_args = include_args
        self._include_result = include_result
        self._logger = logger
        self._threshold_seconds = threshold_seconds
        self._expected = expected
        self.sensitive: frozenset[str] = frozenset()  # parameters annotated as Sensitive
        self.function = ""  # where it is defined, as a dotted path

    def begin(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> _Running | None:
        running = None
        try:
            monitor = _monitors.default or default_monitor()
            previous = current()
            parent = previous if previous is not None else start_context(ids=monitor.ids)
            context = parent.child(self._name, monitor.ids.span_id())
            running = _Running(monitor, context, previous, monitor.operation(self._name), monitor.clock.monotonic())
            context.state = running
            activate(context)
            if self._level >= monitor.level:
                given = self._arguments(args, kwargs) if self._include_args else {}
                self._record(running, self._level, "operation_start", "Operation started", "", None, given)
            running.series.active.inc()  # last: what fails above is not running
        except Exception as failure:  # noqa: BLE001 - the host comes first; counted
            internal_error("operation_begin", failure)
            with suppress(Exception):
                if running is not None:
                    running.leave()
            return None
        return running

    def end(self, running: _Running | None, result: object, raised: BaseException | None) -> None:
        if running is None:
            return
        monitor = running.monitor
        try:
            running.leave()
            now = monitor.clock.monotonic()
            seconds = now - running.started
            running.series.active.dec()
            if raised is not None and isinstance(raised, _CANCELLATIONS):
                if monitor.level <= 20:
                    self._record(running, 20, "operation", "Operation cancelled", "cancelled", seconds, {})
                return
            succeeded, held, is_defect = _outcome(result) if raised is None else (False, raised, True)
            if not running.measured:
                durations = running.series.durations_ms
                durations.observe(seconds * 1000)
                context = running.context
                if now >= durations.exemplar_due and context.sampled:
                    time_ns = monitor.clock.time_ns()
                    durations.keep_exemplar(seconds * 1000, now, time_ns, context.trace_id, context.span_id)
            if succeeded:
                if not running.measured:
                    running.series.successes.inc()
                slow = self._threshold_seconds is not None and seconds > self._threshold_seconds
                level = max(30, self._level) if slow else self._level
                if level >= monitor.level:
                    self._record_success(running, level, seconds, result)
                return
            code = error_code(held)
            expected = not is_defect and (is_expected(held) or code in self._expected)
            if not running.measured:
                running.series.count_failure(expected=expected)
                count_error(monitor, self._name, held, code)
            level = self._level if expected else 40
            if level >= monitor.level:
                info = monitor.masker.error(
                    held if held is not None else "None", stack=monitor.include_stack_trace, is_defect=is_defect
                )
                fields: dict[str, object] = {"expected": True} if expected else {}
                self._record(running, level, "operation", "Operation failed", "failed", seconds, fields, info)
        except Exception as failure:  # noqa: BLE001 - the host comes first; counted
            internal_error("operation_end", failure)

    def _record(
        self,
        running: _Running,
        level: int,
        kind: str,
        message: str,
        outcome: str,
        seconds: float | None,
        fields: dict[str, object],
        error: ErrorInfo | None = None,
    ) -> None:
        monitor, context = running.monitor, running.context
        if context.fields:
            fields = {**context.fields, **fields}
        masked = monitor.masker.fields(fields) if fields else {}
        if error is not None:
            masked[FUNCTION_FIELD] = self.function  # our own words: nothing to mask
        monitor.keep(context, level, kind, self._logger, self._name, "", message, outcome, seconds, masked, error)

    def _record_success(self, running: _Running, level: int, seconds: float, result: object) -> None:
        value = cast("Success[object]", result).value if isinstance(result, Success) else result
        fields = describe_value(value)
        if self._include_result:
            fields["result"] = value
        elif not running.context.fields:
            # Type and size are our own words: nothing to mask.
            monitor, kept = running.monitor, cast("dict[str, JsonValue]", fields)
            monitor.keep(
                running.context, level, "operation", self._logger, self._name, "",
                "Operation completed", "ok", seconds, kept, None,
            )  # fmt: skip
            return
        self._record(running, level, "operation", "Operation completed", "ok", seconds, fields)

    def _arguments(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, object]:
        names = self._parameters
        if self._has_receiver:
            args = args[1:]
        fields = dict(zip(names, args))  # noqa: B905 - saying strict=False costs as much as the rest of the line
        if len(args) > len(names):
            fields["args"] = args[len(names) :]
        if kwargs:
            fields.update(kwargs)
        for name in self.sensitive:
            if name in fields:
                fields[name] = _SENSITIVE
        return fields


def _outcome(result: object) -> tuple[bool, object, bool]:
    """Whether an operation that returned *result* succeeded, else what its failure holds and whether that is a defect."""
    if isinstance(result, Success):
        return True, None, False
    if isinstance(result, FluxResult):
        batch = cast("FluxResult[object, object]", result)
        result = None if batch.count_success() else next(iter(batch), None)
    if isinstance(result, Failure):
        failure = cast("Failure[object]", result)
        return False, failure.error, failure.is_defect
    return True, None, False


def _path_of(function: Callable[..., object]) -> str:
    """The dotted path that *function* can be imported by, also out of a program; '' if it tells none."""
    module: object = getattr(function, "__module__", None)
    name: object = getattr(function, "__qualname__", None)
    if not (isinstance(module, str) and isinstance(name, str)):
        return ""
    if module == "__main__":
        main = sys.modules[module]
        spec = getattr(main, "__spec__", None)  # that of `python -m`; a script has none
        module = Path(getattr(main, "__file__", None) or module).stem if spec is None else spec.name
    return f"{module}.{name}"


def _parameter_names(function: Callable[..., object]) -> tuple[str, ...]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # builtins without a signature
        return ()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(parameter.name for parameter in parameters if parameter.kind in positional)


def _sensitive_parameters(function: Callable[..., object]) -> frozenset[str]:
    """The parameters whose annotation carries `rfs.monitoring.masking.Sensitive`."""
    annotations = getattr(function, "__annotations__", {})
    module = sys.modules.get(getattr(function, "__module__", ""))
    return frozenset(name for name, annotation in annotations.items() if is_sensitive(annotation, module))


_CANCELLATIONS = (CancelledError, GeneratorExit)
_SENSITIVE = "[masked:type]"  # as the masker marks what its type says is secret

_name_of: Callable[[type], str] = type.__dict__["__name__"].__get__  # past any metaclass that answers differently
_SIZED = (str, bytes, list, tuple, dict, set, frozenset)


def describe_value(value: object) -> dict[str, object]:
    """The type of a value, and the size of a built-in one (characters, bytes or items); never runs the value's own code."""
    kind = type(value)
    fields: dict[str, object] = {"result_type": _name_of(kind)}
    if kind in _SIZED:
        fields["result_size"] = len(cast("str", value))
    return fields


def count_error(monitor: Monitor, operation: str, held: object, code: str) -> None:
    """Count one failure by operation, type and code; the code is a label, a free text never is."""
    kind = held if isinstance(held, type) else type(held)
    monitor.count_error(operation, kind.__name__, code)


def operation_is_measured(operation: str) -> None:
    """Told by `collect_result_metric`: the running operation of that name measures itself no more."""
    context = current()
    if context is not None and context.operation == operation and isinstance(context.state, _Running):
        context.state.measured = True


# Chains


class LoggingMonoResult(MonoResult[T, E]):
    """A MonoResult made for logging its steps; every MonoResult has the same three methods."""


def create_logging_mono(
    source: Callable[[], Awaitable[Result[T, E]]], operation_name: str = ""
) -> LoggingMonoResult[T, E]:
    """A chain that begins with *source*, ready for ``log_step``, ``log_error`` and ``log_performance``."""
    mono: LoggingMonoResult[T, E] = LoggingMonoResult(source)
    return mono.name(operation_name) if operation_name else mono


class _StepRecorder:
    """Turns what chains tell of their steps into records; fills the observer that `rfs.reactive` declares."""

    def step(self, event: StepEvent) -> None:
        monitor = default_monitor()
        failed = event.outcome == "failed"
        level = event.level
        if level is None:
            level = 20
            if failed and (event.kind == "error" or event.is_defect):
                level = 20 if is_expected(event.error) and not event.is_defect else 40
        if level < monitor.level:
            return
        fields: dict[str, object] = {"index": event.index}
        if event.chain:
            fields["chain"] = event.chain
        if event.details:
            fields.update(event.details)
        succeeded = event.outcome in ("ok", "recovered")
        if succeeded:
            fields.update(describe_value(event.value))
        if event.kind == "performance" and monitor.include_performance_data:
            fields["memory_usage_mb"] = memory_usage_mb()
        monitor.log(
            level,
            # What the caller says of the step is true of one that went well only.
            event.message if event.message and succeeded else _STEP_MESSAGES[event.outcome],
            logger="rfs.step",
            kind=event.kind,
            step=event.step,
            outcome=event.outcome,
            duration_seconds=event.duration_seconds,
            fields=fields,
            error=event.error if failed else None,
            is_defect=event.is_defect,
        )

    def internal_error(self, where: str, error: BaseException) -> None:
        default_monitor().internal_error(where, error)


_STEP_MESSAGES = {
    "ok": "Step completed",
    "failed": "Step failed",
    "skipped": "Step skipped",
    "recovered": "Step recovered",
}

set_step_observer(_StepRecorder(), is_enabled=lambda level: level >= default_monitor().level)

_STATM = Path("/proc/self/statm")
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20 if hasattr(os, "sysconf") else 0.0


def memory_usage_mb() -> float | None:
    """The resident memory of this process in MiB; None where the system does not tell."""
    try:
        return round(int(_STATM.read_bytes().split()[1]) * _PAGE_MB, 3)
    except (OSError, ValueError, IndexError):
        return None


class ResultLogger:
    """
    Logs an operation whose start and end are not one function call.

    Args:
        name: The ``logger`` of its records.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def start_operation(self, operation: str, metadata: Mapping[str, object] | None = None) -> str:
        """Record that *operation* started; gives the correlation id its records carry."""
        self._log(20, "Operation started", operation, metadata, kind="operation_start")
        return get_correlation_id()

    def log_step(
        self, step: str, duration_ms: float, status: str = "ok", details: Mapping[str, object] | None = None
    ) -> None:
        """Record one finished step."""
        failed = status not in ("ok", "success", "completed")
        self._log(
            40 if failed else 20, f"Step {step}", "", details, step=step, kind="step",
            outcome="failed" if failed else "ok", seconds=duration_ms / 1000,
        )  # fmt: skip

    def log_performance(self, operation: str, duration_ms: float, succeeded: int = 0, failed: int = 0) -> None:
        """Record how long *operation* took and how many of its items succeeded and failed."""
        fields = {"succeeded": succeeded, "failed": failed, "memory_usage_mb": memory_usage_mb()}
        self._log(20, f"Performance of {operation}", operation, fields, kind="performance", seconds=duration_ms / 1000)

    def log_result(self, operation: str, result: Result[Any, Any]) -> None:
        """Record how *operation* ended."""
        succeeded, held, is_defect = _outcome(result)
        if succeeded:
            self._log(
                20, "Operation completed", operation, describe_value(result.unwrap()), kind="operation", outcome="ok"
            )
        else:
            self.log_error(operation, held, is_defect=is_defect)

    def log_error(self, operation: str, error: object, *, is_defect: bool = False) -> None:
        """Record a failure of *operation* at ERROR."""
        default_monitor().log(
            40, "Operation failed", operation=operation, logger=self.name, kind="operation", outcome="failed",
            error=error, is_defect=is_defect,
        )  # fmt: skip

    def complete_operation(self, operation: str, status: str = "success") -> None:
        """Record that *operation* is over."""
        ok = status in ("ok", "success", "completed")
        self._log(
            20 if ok else 40, f"Operation {status}", operation, None, kind="operation", outcome="ok" if ok else "failed"
        )

    def _log(
        self,
        level: int,
        message: str,
        operation: str,
        fields: Mapping[str, object] | None,
        *,
        kind: str,
        step: str = "",
        outcome: str = "",
        seconds: float | None = None,
    ) -> None:
        default_monitor().log(
            level, message, operation=operation, logger=self.name, step=step, fields=fields, kind=kind, outcome=outcome,
            duration_seconds=seconds,
        )  # fmt: skip


# Reading back


def query_logs_by_correlation_id(correlation_id: str) -> list[LogRecord]:
    """All records of one correlation id, oldest first; what was recorded a moment ago is there."""
    return default_monitor().query.records_by_correlation_id(correlation_id)


__all__ = [
    "Context",
    "CorrelationContext",
    "ErrorInfo",
    "LogLevel",
    "LogRecord",
    "LoggingMonoResult",
    "ResultLogEntry",
    "ResultLogger",
    "RfsHandler",
    "StreamSink",
    "bind",
    "configure_result_logging",
    "create_logging_mono",
    "critical",
    "debug",
    "error",
    "get_correlation_id",
    "info",
    "json_line",
    "log",
    "log_result_operation",
    "propagate",
    "query_logs_by_correlation_id",
    "warning",
    "with_correlation_id",
]
