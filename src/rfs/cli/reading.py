"""
The commands that ask: ``logs``, ``trace``, ``errors``, ``ops``. All of it is read through `Query`, from store and live files.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from rfs.cli.output import (
    UNKNOWN,
    WIDE,
    Output,
    clock_time,
    day_time,
    fields_text,
    milliseconds,
    tell,
    to_json,
    visible,
)
from rfs.cli.places import find_directory
from rfs.errors import RfsError
from rfs.monitoring._capture.record import LogRecord
from rfs.monitoring._query import ErrorGroup, OperationMetrics, Query
from rfs.monitoring._reading import open_directory
from rfs.monitoring._spans import Span

_PAGE = 1_000
_FOLLOW_SECONDS = 0.25
_OVERLAP = timedelta(seconds=1)  # in which records of several threads and processes may come out of order
_LONGEST = timedelta(days=30)  # that a range of time may be
_MOST_AT_ONCE = 10_000  # records of one look while following

_LEVEL_STYLES = {"DEBUG": "dim", "WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold red"}
_SAID_BY_SPAN = ("operation_start", "operation", "request_start", "request")  # what a span's own line says already
_DEEPEST = 40  # columns of indentation
_PATIENCE_SECONDS = 60.0  # of a person who asks; a service has less
_OPERATION_COLUMNS = 28  # at most


@contextmanager
def opened(directory: Path | None, service: str) -> Generator[Query]:
    """The Query of what is in the directory that the command line has named."""
    with open_directory(find_directory(directory, service), on_problem=tell) as query:
        yield query


# Logs


class Asked(NamedTuple):
    """Which records are asked for."""

    min_level: int
    operation: str | None
    correlation_id: str | None
    since: datetime | None
    until: datetime | None

    def newest(self, query: Query, limit: int, before: str | None = None) -> list[LogRecord]:
        """The newest *limit* of them that are older than the record of that cursor, oldest first."""
        found: list[LogRecord] = []
        time_range = self._time_range()
        while len(found) < limit:
            wanted = min(_PAGE, limit - len(found))
            with query.bounded(_PATIENCE_SECONDS):
                page = query.records(
                    limit=wanted,
                    min_level=self.min_level,
                    operation=self.operation,
                    correlation_id=self.correlation_id,
                    time_range=time_range,
                    before=before,
                )
            found += page
            if len(page) < wanted:
                break
            before = page[-1].cursor
        found.reverse()
        return found

    def _time_range(self) -> tuple[datetime, datetime] | None:
        if self.since is None and self.until is None:
            return None
        until = self.until or datetime.now(UTC) + timedelta(minutes=1)
        return self.since or until - _LONGEST, until


class _Lines:
    """Records as lines in a terminal, their columns as wide as they have had to be so far."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._operation_columns = 0
        self._day = ""

    def show(self, records: list[LogRecord]) -> None:
        """Show *records* below those that were shown before."""
        output = self._output
        widest = max((cell_len(visible(record.operation)) for record in records), default=0)
        self._operation_columns = max(self._operation_columns, min(widest, _OPERATION_COLUMNS))
        table = self._table()
        for record in records:
            day = day_time(record.timestamp)[:10]
            if day != self._day:
                self._day = day
                output.show(table)
                output.show(Text(f"{day} UTC", style="dim"))
                table = self._table()
            row = [
                Text(clock_time(record.timestamp), style="dim"),
                Text(record.level, style=_LEVEL_STYLES.get(record.level, "")),
                Text(visible(record.operation)),
                _message(record, with_id=output.width < WIDE),
            ]
            if output.width >= WIDE:
                row.append(Text(visible(record.correlation_id), style="dim"))
            table.add_row(*row)
        output.show(table)

    def _table(self) -> Table:
        table = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False, expand=True)
        table.add_column(width=12, no_wrap=True)
        table.add_column(width=8, no_wrap=True)
        table.add_column(width=max(1, self._operation_columns), overflow="fold")
        table.add_column(ratio=1, overflow="fold")
        if self._output.width >= WIDE:
            table.add_column(max_width=36, overflow="fold")
        return table


def _message(record: LogRecord, *, with_id: bool, with_duration: bool = True) -> Text:
    text = Text(visible(record.message))
    error = record.error
    if error is not None:
        text.append(f"  {visible(error.code)}: {visible(error.message)}", style="red")
    if with_duration and record.duration_ms is not None:
        text.append(f"  {milliseconds(record.duration_ms)}", style="cyan")
    if record.context:
        text.append(f"  {fields_text(record.context)}", style="dim")
    if with_id and record.correlation_id and record.level in ("WARNING", "ERROR", "CRITICAL"):
        text.append(f"  id={visible(record.correlation_id)}", style="dim")
    return text


def logs(query: Query, output: Output, asked: Asked, *, limit: int, before: str | None, follow: bool) -> None:
    """Show the newest records; with *follow*, then show what is being recorded, until Ctrl-C."""
    records = asked.newest(query, limit, before)
    lines = _Lines(output)
    _show(output, lines, records)
    if not records and not follow:
        output.note("no records")
    elif len(records) == limit and not follow:
        output.note(f"older ones: --before {records[0].cursor}")
    if follow:
        try:
            _follow(query, output, lines, asked, records)
        except KeyboardInterrupt:
            return


def _show(output: Output, lines: _Lines, records: list[LogRecord]) -> None:
    if output.is_json:
        output.objects({**record.to_dict(), "cursor": record.cursor} for record in records)
    elif records:
        lines.show(records)


def _follow(query: Query, output: Output, lines: _Lines, asked: Asked, shown: list[LogRecord]) -> None:
    # A record moves from a live file into the store, where its cursor is another one: so it is known again by all it says.
    known = Counter(to_json(record.to_dict()) for record in shown)
    since = max((record.timestamp for record in shown), default=datetime.now(UTC)) - _OVERLAP
    while True:
        time.sleep(_FOLLOW_SECONDS)
        found = asked._replace(since=since).newest(query, _MOST_AT_ONCE)
        counted: Counter[str] = Counter()
        fresh: list[LogRecord] = []
        for record in found:
            key = to_json(record.to_dict())
            counted[key] += 1
            if counted[key] > known[key]:
                fresh.append(record)
        known = counted
        _show(output, lines, fresh)
        if found:  # a record of the future must not hide those of the present
            since = max(since, min(found[-1].timestamp, datetime.now(UTC)) - _OVERLAP)


# Traces


def trace(query: Query, output: Output, correlation_id: str) -> None:
    """
    Show what happened under *correlation_id*.

    Raises:
        RfsError: Nothing is known of it.
    """
    with query.bounded(_PATIENCE_SECONDS):
        found = query.trace(correlation_id)
    if not found.spans:
        raise RfsError(f"no record has the correlation id {correlation_id!r}; it may be older than what is kept")
    spans = [span for outermost in found.spans for _, span in outermost.walk()]
    if output.is_json:
        # Flat: a tree as deep as a recursion has been could not be written, nor read.
        output.objects(
            [
                {
                    "correlation_id": found.correlation_id,
                    "duration_ms": found.duration_ms,
                    "truncated": found.truncated,
                    "spans": [_span_object(span) for span in spans],
                }
            ]
        )
        return
    began = found.spans[0].started
    known = [span for span in spans if span.operation]
    failed = sum(span.outcome == "failed" for span in known)
    head = Text.assemble(
        (visible(found.correlation_id), "bold"), f"  {day_time(began)} UTC  {milliseconds(found.duration_ms)}"
    )
    head.append(f"  {_many(len(known), 'span')}, {_many(found.records, 'record')}")
    if failed:
        head.append(f", {failed} failed", style="red")
    if found.truncated:
        head.append(", the oldest are not shown", style="yellow")
    output.show(head)
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False, expand=True)
    table.add_column(justify="right", no_wrap=True, style="dim")
    table.add_column(justify="right", no_wrap=True, style="cyan")
    table.add_column(ratio=1, overflow="fold")
    for outermost in found.spans:
        _add_span(table, outermost, began)
    output.show(table)


def _span_object(span: Span) -> dict[str, object]:
    return {
        "span_id": span.span_id,
        "parent_span_id": span.parent_span_id,
        "trace_id": span.trace_id,
        "operation": span.operation,
        "kind": span.kind,
        "started": span.started,
        "duration_ms": span.duration_ms,
        "outcome": span.outcome,
        "error": span.error,
        "records": [record.to_dict() for record in span.records],
    }


def _add_span(table: Table, outermost: Span, began: datetime) -> None:
    """A line for each span, and below it what was logged in it and the spans it opened, in the order of time."""
    waiting: list[tuple[str, Span | LogRecord]] = [("", outermost)]
    while waiting:
        indent, item = waiting.pop()
        if isinstance(item, LogRecord):
            _add_row(table, item.timestamp - began, item.duration_ms, indent, _log_line(item))
            continue
        inside = indent
        if item.operation:
            _add_row(table, item.started - began, item.duration_ms, indent, _span_line(item))
            inside += "  "
        lines = [record for record in item.records if record.kind not in _SAID_BY_SPAN]
        parts: list[Span | LogRecord] = sorted([*lines, *item.children], key=_began)
        waiting += ((inside, part) for part in reversed(parts))


def _add_row(table: Table, after: timedelta, duration_ms: float | None, indent: str, text: Text) -> None:
    # Folded, a long text stays to the right of its indentation. What is nested deeper than a screen is wide stays on it.
    line = Table.grid(padding=0, expand=True)
    line.add_column(width=min(len(indent), _DEEPEST))
    line.add_column(ratio=1, overflow="fold")
    line.add_row("", text)
    offset = f"+{after / timedelta(milliseconds=1):,.1f}"
    table.add_row(offset, "" if duration_ms is None else milliseconds(duration_ms), line)


def _began(item: Span | LogRecord) -> datetime:
    return item.timestamp if isinstance(item, LogRecord) else item.started


_MARKS = {"ok": ("✓", "green"), "recovered": ("✓", "yellow"), "failed": ("✗", "bold red")}


def _span_line(span: Span) -> Text:
    mark, style = _MARKS.get(span.outcome, ("…", "yellow"))
    text = Text.assemble(
        (f"{mark} ", style), (visible(span.operation), "bold red" if span.outcome == "failed" else "bold")
    )
    if span.error is not None:
        text.append(f"  {visible(span.error.code)}: {visible(span.error.message)}", style="red")
    elif not span.outcome:
        text.append("  no end is known", style="yellow")
    return text


def _log_line(record: LogRecord) -> Text:
    text = Text(f"{record.level:<8} ", style=_LEVEL_STYLES.get(record.level, ""))
    if record.step:
        text.append(f"{visible(record.step)}: ")
    text.append_text(_message(record, with_id=False, with_duration=False))
    return text


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


# Errors


def errors(query: Query, output: Output, time_range: str, *, operation: str | None, limit: int) -> None:
    """Show the most frequent failures in groups, each with where it came from and an example."""
    with query.bounded(_PATIENCE_SECONDS):
        groups = query.error_groups(limit, time_range, operation=operation)
    if output.is_json:
        output.objects(groups)
        return
    if not groups:
        output.note(f"nothing has failed within {time_range}")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", expand=True)
    table.add_column("count", justify="right", no_wrap=True)
    table.add_column("failure", ratio=1, overflow="fold")
    is_wide = output.width >= WIDE
    if is_wide:
        table.add_column("first seen (UTC)", no_wrap=True)
    table.add_column("last seen (UTC)", no_wrap=True)
    for group in groups:
        first = (day_time(group.first_seen),) if is_wide else ()
        table.add_row(f"{group.count:,}", _failure(group), *first, day_time(group.last_seen))
    output.show(table)


def _failure(group: ErrorGroup) -> RenderableType:
    head = Text.assemble((visible(group.operation), "bold"), " ", (visible(group.error_code), "red"))
    if group.error_type not in ("str", group.error_code):
        head.append(f" {visible(group.error_type)}", style="dim")
    lines: list[RenderableType] = [head]
    for place in group.places:
        where = [part for part in (place.step and f"step {place.step}", place.origin) if part]
        text = Text(f"{visible(', '.join(where))}: " if where else "", style="dim")
        for sample in place.samples[:1]:
            text.append(visible(sample.message), style="not dim")
            if sample.correlation_id:
                text.append(f"  id={visible(sample.correlation_id)}")
        lines.append(Padding(text, (0, 0, 0, 2)))
    return Group(*lines)


# Operations


def operations(query: Query, output: Output, time_range: str, *, operation: str | None) -> None:
    """Show every operation, or one of them, as `OperationMetrics`."""
    with query.bounded(_PATIENCE_SECONDS):
        one = None if operation is None else query.operation(operation, time_range)
        found = query.operations(time_range) if operation is None else [] if one is None else [one]
    if operation is not None and not found:
        raise RfsError(f"no operation {operation!r} is known; `rfs ops` lists those that there are")
    if output.is_json:
        output.objects(found)
        return
    if not found:
        output.note(f"no operation ended within {time_range}")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    widest = max(cell_len(visible(each.operation_name)) for each in found)
    table.add_column("operation", min_width=min(widest, _OPERATION_COLUMNS), overflow="fold")
    for heading in ("requests", "success", "p50", "p95", "p99"):
        table.add_column(heading, justify="right", no_wrap=True)
    is_wide = output.width >= WIDE
    if is_wide:
        table.add_column("max", justify="right", no_wrap=True)
        table.add_column("per s", justify="right", no_wrap=True)
    table.add_column("errors", overflow="fold")
    for each in found:
        wide = (milliseconds(each.max_response_time_ms), _rate(each.throughput_per_second)) if is_wide else ()
        table.add_row(
            visible(each.operation_name),
            f"{each.total_requests:,}",
            _share(each),
            milliseconds(each.p50_response_time_ms),
            milliseconds(each.p95_response_time_ms),
            milliseconds(each.p99_response_time_ms),
            *wide,
            ", ".join(f"{visible(code)} {count:,}" for code, count in each.error_breakdown.items()),
        )
    output.show(table)


def _share(metrics: OperationMetrics) -> Text:
    share = metrics.success_rate
    if share != share:
        return Text(UNKNOWN)
    # 99.996 % is not 100 %.
    percent = min(100 * share, 99.99) if metrics.failed_requests else 100.0
    return Text(f"{percent:.4g} %", style="red" if share < 0.95 else "yellow" if share < 1 else "green")


def _rate(value: float) -> str:
    return UNKNOWN if value != value else f"{value:.3g}"
