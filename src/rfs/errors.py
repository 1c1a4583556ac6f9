"""
What RFS raises on purpose.

::

    RfsError
     ├─ MetricDefinitionError  (ValueError)    a metric that cannot exist
     ├─ TimeRangeError         (ValueError)    a time range that cannot be read
     ├─ AlertRuleError         (ValueError)    an alert rule that cannot be watched
     ├─ MaskingError           (ValueError)    a pattern, key or secret that cannot be used
     ├─ LiveFileError          (ValueError)    a file of the live directory that cannot be read
     ├─ LiveDirectoryError     (OSError)       a live directory that cannot be used
     ├─ StoreFileError         (ValueError)    a file of the store that cannot be used
     ├─ StoreError             (OSError)       a store that cannot be used
     ├─ ArchiveError           (ValueError)    an archive that cannot be made, read or restored
     ├─ BackupError            (ValueError)    a backup that cannot be made or is not as it was made
     ├─ RetentionError         (ValueError)    a limit that nothing can be kept by
     ├─ StaleLeaderError       (RuntimeError)  a process that has lost the lead and still writes
     ├─ QueryError             (ValueError)    a question that cannot be answered as it was asked
     ├─ QueryTimeoutError      (RuntimeError)  a question that took too long
     ├─ QueryBusyError         (RuntimeError)  a question too many at once
     ├─ OperationNotFoundError (LookupError)   an operation that was never measured
     ├─ StepTimeoutError       (TimeoutError)  a step that took too long
     ├─ MockTargetError        (LookupError)   a method to mock that is not there, or not for sure
     ├─ MockError              (AssertionError) a mock that was called and has no answer
     ├─ CheckFileError         (ValueError)    a file of checks that cannot be read
     ├─ ReplayError            (ValueError)    a failure that no test can be made of
     └─ UnwrapError            (ValueError)    the other kind of Result was asked for

Every class also derives from the standard error it refines, keeps its parts as
attributes, builds its own sentence from them, and survives pickling. Nothing
here imports anything.
"""

from __future__ import annotations

__all__ = [
    "AlertRuleError",
    "ArchiveError",
    "BackupError",
    "CheckFileError",
    "CursorError",
    "DirectoryNotFoundError",
    "LiveDirectoryError",
    "LiveFileError",
    "MaskingError",
    "MetricDefinitionError",
    "MockError",
    "MockTargetError",
    "OperationNotFoundError",
    "QueryBusyError",
    "QueryError",
    "QueryTimeoutError",
    "ReplayError",
    "RetentionError",
    "RfsError",
    "StaleLeaderError",
    "StepTimeoutError",
    "StoreError",
    "StoreFileError",
    "TimeRangeError",
    "UnwrapError",
]


class RfsError(Exception):
    """Base of every error that RFS raises on purpose."""


class MetricDefinitionError(RfsError, ValueError):
    """A metric's name, labels or options cannot be used; *fault* says why."""

    def __init__(self, name: str, fault: str) -> None:
        super().__init__(name, fault)
        self.name = name
        self.fault = fault

    def __str__(self) -> str:
        return f"metric {self.name!r}: {self.fault}"


class TimeRangeError(RfsError, ValueError):
    """A time range cannot be read; *fault* says why and names the allowed range."""

    def __init__(self, value: object, fault: str) -> None:
        super().__init__(value, fault)
        self.value = value
        self.fault = fault

    def __str__(self) -> str:
        return f"time range {self.value!r}: {self.fault}"


class AlertRuleError(RfsError, ValueError):
    """The *field* of an alert rule cannot be used; *fault* says why."""

    def __init__(self, rule_name: str, field: str, fault: str) -> None:
        super().__init__(rule_name, field, fault)
        self.rule_name = rule_name
        self.field = field
        self.fault = fault

    def __str__(self) -> str:
        return f"alert rule {self.rule_name!r}: {self.field}: {self.fault}"


class MaskingError(RfsError, ValueError):
    """A pattern, key or secret handed to the masker cannot be used; *fault* says why, and never shows a secret."""

    def __init__(self, subject: str, fault: str) -> None:
        super().__init__(subject, fault)
        self.subject = subject
        self.fault = fault

    def __str__(self) -> str:
        return f"masking: {self.subject}: {self.fault}"


class QueryError(RfsError, ValueError):
    """A question cannot be answered as it was asked: the *argument* that is at fault, and why."""

    def __init__(self, argument: str, fault: str) -> None:
        super().__init__(argument, fault)
        self.argument = argument
        self.fault = fault

    def __str__(self) -> str:
        return f"query: {self.argument}: {self.fault}"


class QueryTimeoutError(RfsError, RuntimeError):
    """A question was not answered within its *seconds* and was given up."""

    # No TimeoutError: that is an OSError, and what reads a store would take it for a fault of the disk.
    code = "TIMEOUT"

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds

    def __str__(self) -> str:
        return f"query: not answered within {self.seconds:g} s; ask for a shorter range, larger steps, or fewer records or groups"


class QueryBusyError(RfsError, RuntimeError):
    """As many questions as may be asked *at_once* were being answered, and none of them ended within *seconds*."""

    code = "SERVICE_UNAVAILABLE"

    def __init__(self, at_once: int, seconds: float) -> None:
        super().__init__(at_once, seconds)
        self.at_once = at_once
        self.seconds = seconds

    def __str__(self) -> str:
        return f"query: {self.at_once} others were being answered for {self.seconds:g} s; ask again in a moment"


class OperationNotFoundError(RfsError, LookupError):
    """No operation of that *name* was ever measured."""

    code = "NOT_FOUND"
    expected = True

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"no operation {self.name!r} was ever measured"


class StepTimeoutError(RfsError, TimeoutError):
    """
    A step, or a whole chain, was not done in time and has been cancelled.

    Args:
        step: Name of the step that was running when the time was over.
        seconds: The time it was given.

    """

    code = "TIMEOUT"

    def __init__(self, step: str, seconds: float) -> None:
        # One argument: given two, OSError would take them for errno and strerror.
        super().__init__(f"step {step!r} timed out: its timeout of {seconds:g} s is over")
        self.step = step
        self.seconds = seconds

    def __reduce__(self) -> tuple[type[StepTimeoutError], tuple[str, float]]:
        return type(self), (self.step, self.seconds)


class MockTargetError(RfsError, LookupError):
    """The method *target*, ``service.method``, cannot be mocked; *fault* says why and what to do."""

    def __init__(self, target: str, fault: str) -> None:
        super().__init__(target, fault)
        self.target = target
        self.fault = fault

    def __str__(self) -> str:
        return f"mock of {self.target}: {self.fault}"


class MockError(RfsError, AssertionError):
    """The mock of *target*, ``service.method``, was called and has no answer; *fault* says why."""

    def __init__(self, target: str, fault: str) -> None:
        super().__init__(target, fault)
        self.target = target
        self.fault = fault

    def __str__(self) -> str:
        return f"{self.fault} ({self.target})"


class UnwrapError(RfsError, ValueError):
    """
    ``unwrap()`` met a Failure, or ``unwrap_error()`` a Success.

    Args:
        method: The method that was called.
        held: What the Result held instead. An exception is also the ``__cause__``.

    """

    def __init__(self, method: str, held: object) -> None:
        super().__init__(method, held)
        self.method = method
        self.held = held

    @property
    def error(self) -> object:
        """The Failure's error; ``None`` if it was a Success."""
        return self.held if self.method == "unwrap" else None

    def __str__(self) -> str:
        kind = "Failure" if self.method == "unwrap" else "Success"
        try:
            held = repr(self.held)
        except Exception:  # noqa: BLE001 - a broken repr must not hide which call failed
            held = f"<{type(self.held).__name__}>"
        return f"{self.method}() on {kind}({held})"


class LiveFileError(RfsError, ValueError):
    """A file of the live directory cannot be read; *fault* says why and what to do. ``is_newer``: it is of a newer version, and whole."""

    def __init__(self, name: str, fault: str, is_newer: bool = False) -> None:
        super().__init__(name, fault, is_newer)
        self.name = name
        self.fault = fault
        self.is_newer = is_newer

    def __str__(self) -> str:
        return f"live file {self.name}: {self.fault}"


class LiveDirectoryError(RfsError, OSError):
    """A directory cannot hold live files; *fault* says why and what to do."""

    def __init__(self, path: str, fault: str) -> None:
        # One argument: given two, OSError would take them for errno and strerror.
        super().__init__(f"live directory {path}: {fault}")
        self.path = path
        self.fault = fault

    def __reduce__(self) -> tuple[type[LiveDirectoryError], tuple[str, str]]:
        return type(self), (self.path, self.fault)


class DirectoryNotFoundError(RfsError, FileNotFoundError):
    """There is nothing of a service in the directory *path*."""

    def __init__(self, path: str) -> None:
        # One argument: given two, OSError would take them for errno and strerror.
        super().__init__(f"no service has recorded into {path}; name its directory (RFS_DIR)")
        self.path = path

    def __reduce__(self) -> tuple[type[DirectoryNotFoundError], tuple[str]]:
        return type(self), (self.path,)


class StoreFileError(RfsError, ValueError):
    """A file of the store cannot be used; *fault* says why and what to do. ``is_newer``: it is of a newer version, and not damaged."""

    def __init__(self, name: str, fault: str, is_newer: bool = False) -> None:
        super().__init__(name, fault, is_newer)
        self.name = name
        self.fault = fault
        self.is_newer = is_newer

    def __str__(self) -> str:
        return f"store file {self.name}: {self.fault}"


class StoreError(RfsError, OSError):
    """A store cannot be used, or not now; *fault* says why and what to do, *code* is that of its message (``S102``: no space)."""

    def __init__(self, path: str, fault: str, code: str) -> None:
        # One argument: given two, OSError would take them for errno and strerror.
        super().__init__(f"store {path}: {fault}")
        self.path = path
        self.fault = fault
        self.code = code

    def __reduce__(self) -> tuple[type[StoreError], tuple[str, str, str]]:
        return type(self), (self.path, self.fault, self.code)


class ArchiveError(RfsError, ValueError):
    """The archive at *target* cannot be made, read or restored; *fault* says why and what to do."""

    def __init__(self, target: str, fault: str) -> None:
        super().__init__(target, fault)
        self.target = target
        self.fault = fault

    def __str__(self) -> str:
        return f"archive {self.target}: {self.fault}"


class BackupError(RfsError, ValueError):
    """A backup cannot be made of or at *path*, or what is there is not what was made; *fault* says why and what to do."""

    def __init__(self, path: str, fault: str) -> None:
        super().__init__(path, fault)
        self.path = path
        self.fault = fault

    def __str__(self) -> str:
        return f"backup: {self.path} {self.fault}"


class RetentionError(RfsError, ValueError):
    """The *limit* of a retention is no length of time and no number of bytes, but *value*."""

    def __init__(self, limit: str, value: object) -> None:
        super().__init__(limit, value)
        self.limit = limit
        self.value = value

    def __str__(self) -> str:
        return f"retention: {self.limit} must be 0 or more, not {self.value!r}"


class StaleLeaderError(RfsError, RuntimeError):
    """A process wrote to a store as the leader of *epoch*, but that of *current* leads by now; nothing was written."""

    def __init__(self, path: str, epoch: int, current: int) -> None:
        super().__init__(path, epoch, current)
        self.path = path
        self.epoch = epoch
        self.current = current

    def __str__(self) -> str:
        return f"store {self.path}: written to with epoch {self.epoch}, but epoch {self.current} leads; nothing was written"


class CursorError(RfsError, ValueError):
    """A *cursor* that was handed in to go on reading after is none that this store has given out."""

    def __init__(self, cursor: object) -> None:
        super().__init__(cursor)
        self.cursor = cursor

    def __str__(self) -> str:
        return f"no cursor: {self.cursor!r}; use the `cursor` of a record that was returned, or none to begin at the newest"


class CheckFileError(RfsError, ValueError):
    """A file of checks cannot be used: *fault* says what is wrong at *line* (0 if it is no line) and what to do."""

    def __init__(self, path: str, line: int, fault: str) -> None:
        super().__init__(path, line, fault)
        self.path = path
        self.line = line
        self.fault = fault

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.fault}" if self.line else f"{self.path}: {self.fault}"


class ReplayError(RfsError, ValueError):
    """No test can be made of *subject*, a failure that was asked for; *fault* says why and what to do."""

    def __init__(self, subject: str, fault: str) -> None:
        super().__init__(subject, fault)
        self.subject = subject
        self.fault = fault

    def __str__(self) -> str:
        return f"replay: {self.subject}: {self.fault}"
