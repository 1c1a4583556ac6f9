"""
The tree of what happened under one correlation id, put together from its records.

A span is what records share a ``span_id``: an operation or a request from its start to its end, with the steps and log lines in
between. Nothing here reads a store.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from rfs.monitoring._capture.record import LogRecord
from rfs.monitoring.masking import ErrorInfo

_STARTS = ("operation_start", "request_start")
_ENDS = ("operation", "request")


@dataclass(slots=True)
class Span:
    """
    One operation, one request, or what was recorded outside of both.

    ``operation`` is empty where only log lines are known, ``duration_ms`` None and ``outcome`` empty where no end is: it still
    runs, was killed, or its last record is no longer kept. ``records`` are those made directly in it, oldest first; ``children``
    are the spans opened in it, in the order of their starts.
    """

    span_id: str
    trace_id: str
    parent_span_id: str
    operation: str
    kind: str
    started: datetime
    duration_ms: float | None
    outcome: str
    error: ErrorInfo | None
    records: list[LogRecord] = field(default_factory=list[LogRecord])
    children: list[Span] = field(default_factory=list["Span"])

    def walk(self) -> Iterator[tuple[int, Span]]:
        """The span itself and all below it, each with its depth and before its children."""
        waiting: list[tuple[int, Span]] = [(0, self)]
        while waiting:
            depth, span = waiting.pop()
            yield depth, span
            waiting += ((depth + 1, child) for child in reversed(span.children))


@dataclass(frozen=True, slots=True)
class Trace:
    """
    What is kept of one correlation id.

    ``spans`` are the outermost ones in the order of their starts: one for each request or entry, and each span whose parent
    belongs to another service or is no longer kept. ``duration_ms`` is from the first to the last moment that is known.
    """

    correlation_id: str
    spans: list[Span]
    records: int
    duration_ms: float
    truncated: bool  # there are more records than were read; the oldest are missing


def build_trace(correlation_id: str, records: Sequence[LogRecord], *, truncated: bool) -> Trace:
    """The tree of *records*, which are all of *correlation_id*, oldest first."""
    by_id: dict[str, list[LogRecord]] = {}
    for record in records:
        by_id.setdefault(record.span_id, []).append(record)
    spans = {span_id: _span(span_id, found) for span_id, found in by_id.items()}
    ordered = sorted(spans.values(), key=lambda span: span.started)
    parents = {span.span_id: spans[span.parent_span_id] for span in ordered if span.parent_span_id in spans}
    for span_id in _closing_circles(ordered, parents):
        del parents[span_id]
    outermost: list[Span] = []
    for span in ordered:
        parent = parents.get(span.span_id)
        if parent is None:
            outermost.append(span)
        else:
            parent.children.append(span)
    began = min((span.started for span in ordered), default=None)
    ended = max((_ended(span) for span in ordered), default=None)
    whole = 0.0 if began is None or ended is None else (ended - began) / timedelta(milliseconds=1)
    return Trace(correlation_id, outermost, len(records), round(whole, 3), truncated)


def _span(span_id: str, records: list[LogRecord]) -> Span:
    end = next((record for record in reversed(records) if record.kind in _ENDS), None)
    start = next((record for record in records if record.kind in _STARTS), None)
    known = end or start
    first = records[0]
    started = first.timestamp if start is None else start.timestamp
    if start is None and end is not None and end.duration_ms is not None:
        started = min(started, end.timestamp - timedelta(milliseconds=end.duration_ms))
    return Span(
        span_id=span_id,
        trace_id=first.trace_id,
        parent_span_id=first.parent_span_id,
        operation="" if known is None else known.operation,
        kind="" if known is None else known.kind.removesuffix("_start"),
        started=started,
        duration_ms=None if end is None else end.duration_ms,
        outcome="" if end is None else end.outcome,
        error=None if end is None else end.error,
        records=records,
    )


def _closing_circles(ordered: Sequence[Span], parents: Mapping[str, Span]) -> list[str]:
    """The spans that are their own ancestors, one of each circle: ids that came from outside may say anything."""
    found: list[str] = []
    met: dict[str, int] = {}  # span id → from which span on the way it was met first
    for way, span in enumerate(ordered):
        at: Span | None = span
        while at is not None and at.span_id not in met:
            met[at.span_id] = way
            at = parents.get(at.span_id)
        if at is not None and met[at.span_id] == way:
            found.append(at.span_id)
    return found


def _ended(span: Span) -> datetime:
    last = span.records[-1].timestamp
    return last if span.duration_ms is None else max(last, span.started + timedelta(milliseconds=span.duration_ms))
