"""
The record: one log entry or finished span, as it is kept and as it is read back.

For an operation the log entry and the span are the same record. It is encoded once, at the call, as a MessagePack array
(the fields of `RecordData` in their order), and decoded when somebody asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from rfs.monitoring.masking import ErrorInfo

SCHEMA_VERSION = 1

_LEVEL_NAMES = {10: "DEBUG", 20: "INFO", 30: "WARNING", 40: "ERROR", 50: "CRITICAL"}


def level_name(level: int) -> str:
    """``DEBUG`` … ``CRITICAL``: the highest named level that *level* reaches."""
    name = _LEVEL_NAMES.get(level)
    if name is not None:
        return name
    return _LEVEL_NAMES[max(10, min(50, level // 10 * 10))]


class RecordData(msgspec.Struct, array_like=True, gc=False):
    """What is kept of a record. Everything in it has been masked."""

    time_ns: int
    level: int
    kind: str
    logger: str
    operation: str
    step: str
    message: str
    correlation_id: str
    trace_id: str
    span_id: str
    parent_span_id: str
    outcome: str
    duration_seconds: float | None
    fields: dict[str, Any]
    error: ErrorInfo | None


encode_record = msgspec.msgpack.Encoder().encode
decode_record = msgspec.msgpack.Decoder(RecordData).decode
UNREADABLE = (msgspec.DecodeError, ValueError)  # what decoding raises: the second where a text is no text


@dataclass(slots=True)
class ResultLogEntry:
    """A finished step or operation, as the plan documents it. What is unknown is None."""

    timestamp: datetime
    correlation_id: str
    operation_name: str
    step_name: str | None

    result_type: Literal["success", "error"]
    processing_time_ms: float

    success_type: str | None = None

    error_type: str | None = None
    error_code: str | None = None
    error_message: str | None = None

    user_id: str | None = None
    request_id: str | None = None
    service_name: str = "rfs-framework"
    environment: str = "production"

    memory_usage_mb: float | None = None
    cpu_usage_percent: float | None = None

    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LogRecord:
    """
    A record as it is read: masked, its context as plain JSON values.

    ``operation`` is the dotted name of the operation, ``error`` is None unless the record describes a failure,
    ``duration_ms`` None unless something ended with it. ``kind`` is ``log``, ``operation_start``, ``operation``, ``step``,
    ``error``, ``performance``, ``request_start``, ``request`` or ``alert``. ``cursor`` names this record where it was read, and
    lets a reader go on from there; it means nothing else.
    """

    cursor: str
    timestamp: datetime
    level: str
    logger: str
    kind: str
    operation: str
    step: str
    message: str
    correlation_id: str
    trace_id: str
    span_id: str
    parent_span_id: str
    outcome: str
    duration_ms: float | None
    context: Mapping[str, Any]
    error: ErrorInfo | None
    service_name: str

    @property
    def entry(self) -> ResultLogEntry | None:
        """The plan's `ResultLogEntry` if this record describes a finished step or operation, else None."""
        if self.outcome not in ("ok", "failed", "recovered") or self.duration_ms is None:
            return None
        context = self.context
        return ResultLogEntry(
            timestamp=self.timestamp,
            correlation_id=self.correlation_id,
            operation_name=self.operation,
            step_name=self.step or None,
            result_type="error" if self.outcome == "failed" else "success",
            processing_time_ms=self.duration_ms,
            success_type=_text(context.get("result_type")),
            error_type=self.error.type if self.error else None,
            error_code=self.error.code if self.error else None,
            error_message=self.error.message if self.error else None,
            user_id=_text(context.get("user_id")),
            request_id=_text(context.get("request_id")) or self.correlation_id or None,
            service_name=self.service_name,
            environment=_text(context.get("environment")) or "production",
            memory_usage_mb=_number(context.get("memory_usage_mb")),
            metadata=dict(context),
        )

    def to_dict(self) -> dict[str, Any]:
        """The content of this record's JSON line: the documents' keys, empty ones left out."""
        line: dict[str, Any] = {
            "timestamp": self.timestamp.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "level": self.level,
            "logger": self.logger,
            "message": self.message,
            "correlation_id": self.correlation_id,
            "operation": self.operation,
            "step": self.step,
            "kind": self.kind,
            "outcome": self.outcome,
            "trace_id": self.trace_id,
            "span_id": self.span_id,
            "parent_span_id": self.parent_span_id,
        }
        line = {key: value for key, value in line.items() if value != ""}
        if self.duration_ms is not None:
            line["duration_ms"] = self.duration_ms
        if self.context:
            line["context"] = dict(self.context)
        if self.error is not None:
            line["error"] = {
                key: value for key, value in msgspec.structs.asdict(self.error).items() if value is not None
            }
        line["service"] = self.service_name
        line["schema_version"] = SCHEMA_VERSION
        return line


def read_record(cursor: str, payload: bytes, service_name: str) -> LogRecord:
    """Decode a kept record. One that cannot be decoded is shown as such: it must not hide the others."""
    try:
        data = decode_record(payload)
    except UNREADABLE:
        data = RecordData(0, 40, "log", "rfs", "", "", "<unreadable record>", "", "", "", "", "", None, {}, None)
    duration = data.duration_seconds
    return LogRecord(
        cursor=cursor,
        timestamp=datetime.fromtimestamp(data.time_ns / 1e9, UTC),
        level=level_name(data.level),
        logger=data.logger,
        kind=data.kind,
        operation=data.operation,
        step=data.step,
        message=data.message,
        correlation_id=data.correlation_id,
        trace_id=data.trace_id,
        span_id=data.span_id,
        parent_span_id=data.parent_span_id,
        outcome=data.outcome,
        duration_ms=None if duration is None else round(duration * 1000, 3),
        context=data.fields,
        error=data.error,
        service_name=service_name,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
