"""
The store in ClickHouse: for many machines and services in one database.

`append` hands a batch to an `Outbox` and returns: True means that it was accepted, not yet that ClickHouse has it. What waits is in
memory alone: while ClickHouse is down it waits for as long as there is room, and a killed process loses what it had not sent. Every
answer of this process begins with sending what it has appended.

Nothing is counted twice. A record is known by its place (see `Run`): it is kept once even if another leader delivers it again. Of
windows the same batches carry the same deduplication token, so that an attempt may be repeated whose answer was lost.

The tables, which anybody may read with SQL (see docs/how-to/clickhouse.md): ``records`` has a column per field of a record,
``windows`` a row per series and second in which it changed, and ``minutes`` their sums, which long ranges are answered from.
``series`` names what there is. Times are UTC.
"""

from __future__ import annotations

import logging
import re
import socket
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from itertools import chain
from math import ceil
from threading import Lock
from typing import Any, NamedTuple, Protocol, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from rfs.errors import CursorError, StoreError
from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.pace import breathe, pieces
from rfs.monitoring._capture.record import RecordData, decode_record, encode_record
from rfs.monitoring._capture.segments import Frame, Run
from rfs.monitoring._capture.sketch import Sketch, sum_of
from rfs.monitoring._store import Batch, Kind, StoredRecord, Wanted, Window
from rfs.monitoring._store.deadline import check_deadline
from rfs.monitoring._store.outbox import Group, Outbox
from rfs.monitoring.masking import ErrorInfo

try:
    import clickhouse_connect
    from clickhouse_connect.driver.exceptions import ClickHouseError
    from urllib3.exceptions import HTTPError
except ImportError as error:
    raise ImportError("the ClickHouse store needs an optional package: pip install 'rfs[clickhouse]'") from error

MINUTE = 60
DAY = 86_400
SECONDS_DAYS = 3  # so long `windows` are kept; what is older is answered to the minute
_SECONDS_SURE = (SECONDS_DAYS - 1) * DAY  # ClickHouse drops a day when all of it is over
_LONG_SECONDS = 600  # from here on whole minutes come from `minutes`
_CONNECT_SECONDS = 3
_ANSWER_SECONDS = 10
_QUERY_SECONDS = 5  # the server gives up a query that takes longer
_FLUSH_SECONDS = 1.0
_CLOSE_SECONDS = 1.5
_LATEST_SECONDS = 60  # without any window for so long nobody is there who would know a gauge's value
_MAX_ROWS = 10_000  # of one insert: more would hold the interpreter for too long
_LONGEST_FAULT = 300

_LABELS = "Map(LowCardinality(String), LowCardinality(String))"
_BUCKETS = "Map(Int32, UInt64)"
_KIND = "Enum8('window' = 0, 'counter' = 1, 'gauge' = 2, 'histogram' = 3)"
_TOKENS = "non_replicated_deduplication_window = 10000"
_REPLICATED_TOKENS = "replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800"

# Per version what leads there from the version before. Each statement may be repeated: two processes may meet here, and one may
# be killed in between.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        f"""
        CREATE TABLE IF NOT EXISTS records (
            service LowCardinality(String),
            host LowCardinality(String),
            time DateTime64(9, 'UTC') CODEC(Delta, ZSTD(3)),
            source LowCardinality(String) COMMENT 'with block and offset: where the record was written first',
            block UInt64 CODEC(Delta, ZSTD(3)),
            offset UInt32 CODEC(Delta, ZSTD(3)),
            level UInt8 COMMENT '10 DEBUG, 20 INFO, 30 WARNING, 40 ERROR, 50 CRITICAL',
            flags UInt8 COMMENT '1 describes a failure, 2 was made inside a sink',
            kind LowCardinality(String),
            logger LowCardinality(String),
            operation LowCardinality(String),
            step LowCardinality(String),
            message String CODEC(ZSTD(3)),
            correlation_id String CODEC(ZSTD(3)),
            trace_id String CODEC(ZSTD(3)),
            span_id String CODEC(ZSTD(3)),
            parent_span_id String CODEC(ZSTD(3)),
            outcome LowCardinality(String),
            duration_seconds Nullable(Float64) CODEC(ZSTD(3)),
            fields String COMMENT 'JSON' CODEC(ZSTD(3)),
            error_type LowCardinality(String),
            error_code LowCardinality(String),
            error_message String CODEC(ZSTD(3)),
            error_stack Nullable(String) CODEC(ZSTD(3)),
            error_expected Bool,
            error_is_defect Bool,
            payload Nullable(String) COMMENT 'MessagePack, where the columns do not say all' CODEC(ZSTD(3)),
            INDEX by_correlation_id correlation_id TYPE bloom_filter(0.001) GRANULARITY 1,
            INDEX by_trace_id trace_id TYPE bloom_filter(0.001) GRANULARITY 1,
            INDEX by_level level TYPE minmax GRANULARITY 1
        )
        ENGINE = ReplacingMergeTree
        PARTITION BY toDate(time)
        ORDER BY (service, time, source, block, offset)
        TTL toDateTime(time) + INTERVAL 14 DAY
        SETTINGS {_TOKENS}, ttl_only_drop_parts = 1
        """,
        f"""
        CREATE TABLE IF NOT EXISTS windows (
            service LowCardinality(String),
            host LowCardinality(String),
            process LowCardinality(String),
            sequence UInt64 COMMENT 'of the batch, in its process' CODEC(Delta, ZSTD(3)),
            name LowCardinality(String) COMMENT 'empty: a window was closed in this second',
            labels {_LABELS} CODEC(ZSTD(3)),
            series UInt64 COMMENT 'stands for name and labels' CODEC(ZSTD(3)),
            kind {_KIND},
            second DateTime('UTC') CODEC(Delta, ZSTD(3)),
            value Float64 COMMENT 'increase of a counter, value of a gauge, sum of a histogram' CODEC(ZSTD(3)),
            count UInt64 CODEC(ZSTD(3)),
            zero UInt64 CODEC(ZSTD(3)),
            min Float64 CODEC(ZSTD(3)),
            max Float64 CODEC(ZSTD(3)),
            positive {_BUCKETS} COMMENT 'bucket i holds up to 2^(i/64)' CODEC(ZSTD(3)),
            negative {_BUCKETS} CODEC(ZSTD(3))
        )
        ENGINE = MergeTree
        PARTITION BY toDate(second)
        ORDER BY (service, name, series, second)
        TTL second + INTERVAL {SECONDS_DAYS} DAY
        SETTINGS {_TOKENS}, ttl_only_drop_parts = 1
        """,
        f"""
        CREATE TABLE IF NOT EXISTS minutes (
            service LowCardinality(String),
            name LowCardinality(String),
            labels {_LABELS} CODEC(ZSTD(3)),
            series UInt64 CODEC(ZSTD(3)),
            kind {_KIND},
            minute DateTime('UTC') CODEC(Delta, ZSTD(3)),
            value SimpleAggregateFunction(sum, Float64) COMMENT 'not of gauges' CODEC(ZSTD(3)),
            last SimpleAggregateFunction(max, Tuple(DateTime('UTC'), UInt64, Float64))
                COMMENT 'second, sequence and value of the last window' CODEC(ZSTD(3)),
            count SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(3)),
            zero SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(3)),
            min SimpleAggregateFunction(min, Float64) CODEC(ZSTD(3)),
            max SimpleAggregateFunction(max, Float64) CODEC(ZSTD(3)),
            positive SimpleAggregateFunction(sumMap, {_BUCKETS}) CODEC(ZSTD(3)),
            negative SimpleAggregateFunction(sumMap, {_BUCKETS}) CODEC(ZSTD(3))
        )
        ENGINE = AggregatingMergeTree
        PARTITION BY toYYYYMM(minute)
        ORDER BY (service, name, series, minute)
        TTL minute + INTERVAL 400 DAY
        SETTINGS {_TOKENS}
        """,
        f"""
        CREATE TABLE IF NOT EXISTS series (
            service LowCardinality(String),
            name LowCardinality(String),
            series UInt64,
            kind {_KIND},
            labels {_LABELS},
            last SimpleAggregateFunction(max, DateTime('UTC'))
        )
        ENGINE = AggregatingMergeTree
        ORDER BY (service, name, series)
        TTL last + INTERVAL 400 DAY
        SETTINGS {_TOKENS}
        """,
        """
        CREATE MATERIALIZED VIEW IF NOT EXISTS windows_to_minutes TO minutes AS
        SELECT service, name, any(windows.labels) AS labels, series, any(windows.kind) AS kind,
            toStartOfMinute(second) AS minute, sum(windows.value) AS value,
            max((second, sequence, windows.value)) AS last, sum(windows.count) AS count, sum(windows.zero) AS zero,
            min(windows.min) AS min, max(windows.max) AS max,
            sumMap(windows.positive) AS positive, sumMap(windows.negative) AS negative
        FROM windows GROUP BY service, name, series, minute
        """,
        """
        CREATE MATERIALIZED VIEW IF NOT EXISTS windows_to_series TO series AS
        SELECT service, name, series, any(windows.kind) AS kind, any(windows.labels) AS labels, max(second) AS last
        FROM windows WHERE name != '' GROUP BY service, name, series
        """,
    ),
)
_VERSIONS = "CREATE TABLE IF NOT EXISTS schema_versions (version UInt32, since DateTime('UTC')) ENGINE = MergeTree ORDER BY version"

_RECORD_COLUMNS = {
    "service": "LowCardinality(String)",
    "host": "LowCardinality(String)",
    "source": "LowCardinality(String)",
    "block": "UInt64",
    "offset": "UInt32",
    "time": "DateTime64(9, 'UTC')",
    "level": "UInt8",
    "flags": "UInt8",
    "correlation_id": "String",
    "operation": "LowCardinality(String)",
    "payload": "Nullable(String)",
    "kind": "LowCardinality(String)",
    "logger": "LowCardinality(String)",
    "step": "LowCardinality(String)",
    "message": "String",
    "trace_id": "String",
    "span_id": "String",
    "parent_span_id": "String",
    "outcome": "LowCardinality(String)",
    "duration_seconds": "Nullable(Float64)",
    "fields": "String",
    "error_type": "LowCardinality(String)",
    "error_code": "LowCardinality(String)",
    "error_message": "String",
    "error_stack": "Nullable(String)",
    "error_expected": "Bool",
    "error_is_defect": "Bool",
}
_WINDOW_COLUMNS = {
    "service": "LowCardinality(String)",
    "host": "LowCardinality(String)",
    "process": "LowCardinality(String)",
    "sequence": "UInt64",
    "second": "DateTime('UTC')",
    "name": "LowCardinality(String)",
    "labels": _LABELS,
    "series": "UInt64",
    "kind": _KIND,
    "value": "Float64",
    "count": "UInt64",
    "zero": "UInt64",
    "min": "Float64",
    "max": "Float64",
    "positive": _BUCKETS,
    "negative": _BUCKETS,
}
_SELECT_RECORD = ", ".join(
    f"toUnixTimestamp64Nano({name})" if name == "time" else name for name in list(_RECORD_COLUMNS)[2:]
)
_SELECT_SKETCH = "sum(count), sum(value), sum(zero), min(min), max(max), sumMap(positive), sumMap(negative)"
_STEP = "toInt64(floor((toUnixTimestamp(second) - {start:Float64}) / {step:Float64})) AS step"
_WHERE = "service = {service:String} AND name IN {names:Array(String)} AND series IN {series:Array(UInt64)}"
_CURSOR = re.compile(r"(-?[0-9]{1,19})\.([0-9]{1,20})\.([0-9]{1,10})\.(.{1,200})\Z", re.DOTALL)
_NO_SERIES = 0  # the number of the rows that say that a window was closed


class _Result(Protocol):
    @property
    def result_rows(self) -> Sequence[Sequence[Any]]: ...


class Client(Protocol):
    """What is used of a client of clickhouse-connect."""

    database: str | None

    def command(self, cmd: str, /) -> Any:
        """Do what has no rows for an answer."""
        ...

    def query(
        self,
        query: str,
        /,
        parameters: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None,
        *,
        column_formats: dict[str, str | dict[str, str]] | None = None,
    ) -> _Result:
        """Ask."""
        ...

    def insert(
        self,
        table: str,
        data: Sequence[Sequence[Any]],
        /,
        *,
        column_names: Sequence[str],
        column_type_names: Sequence[str],
        settings: dict[str, Any],
    ) -> Any:
        """Insert rows."""
        ...

    def close(self) -> None:
        """Let go of the connections."""
        ...


_Figures = Mapping[int, Sequence[Any]]  # by step
_NOTHING: _Figures = {}


def _tell_nobody(_code: str, _text: str) -> None:
    pass


class ClickHouseStore:
    """
    The `Store` on a ClickHouse server.

    Args:
        connect: Makes a client whose database is there; called by the first who needs one, and after failures again.
        service: Whose records and windows these are. Other services in the same database are not seen.
        name: What errors call the server; no secret may be in it.
        max_waiting_bytes: About how much memory may be taken by what ClickHouse has not taken yet.
        delay_seconds: How long a batch waits for others, so that there are few inserts; this process' own answers never wait.
        now: The present in unix seconds.
        on_problem: Told a code and a text when ClickHouse cannot be reached (``S116``), when it holds a schema of a newer version
            (``S112``), and when something was lost because of that (``S117``).

    Nothing is connected to before something is appended or asked. Safe from any thread.

    Raises (every method that answers):
        StoreError: ClickHouse cannot be reached or refuses (``S116``), or its schema is of a newer version (``S112``).
    """

    def __init__(
        self,
        connect: Callable[[], Client],
        *,
        service: str,
        name: str = "clickhouse",
        max_waiting_bytes: int = 64 << 20,
        delay_seconds: float = 5.0,
        now: Callable[[], float] = time.time,
        on_problem: Callable[[str, str], None] = _tell_nobody,
    ) -> None:
        self._connect = connect
        self._service = service
        self._host = socket.gethostname()
        self._name = name
        self._now = now
        self._outbox = Outbox(
            self._deliver, max_bytes=max_waiting_bytes, delay_seconds=delay_seconds, on_problem=on_problem
        )
        self._begin()

    @classmethod
    def from_url(
        cls, url: str, *, service: str, on_problem: Callable[[str, str], None] = _tell_nobody
    ) -> ClickHouseStore:
        """
        The store at ``clickhouse://user:password@host:port/database`` (HTTP), or ``clickhouses://…`` (HTTPS).

        Port and database may be left out: 8123 or 8443, and ``rfs``. The database is made if it is not there.
        ``?delay_seconds=…`` and ``?max_waiting_bytes=…`` are the arguments of that name.

        Raises:
            ValueError: *url* is not such a URL; the text does not repeat it, for there may be a password in it.
        """
        address = _Address.of(url)
        return cls(address.connect, service=service, name=address.name, on_problem=on_problem, **address.options)

    def _begin(self) -> None:
        self._lock = Lock()  # of what follows
        self._kept: dict[str, int] = {}  # process → highest sequence accepted
        self._connecting = Lock()
        self._client: Client | None = None

    def after_fork(self) -> None:
        self._inherited = self._client  # its connections are the parent's: they are neither used nor closed
        self._begin()
        self._outbox.after_fork()

    def append(self, batch: Batch) -> bool:
        """
        Accept *batch*; False, and nothing is changed, if this process' batch of that sequence was accepted already.

        Never waits for the network.

        Raises:
            StoreError: The schema is of a newer version (``S112``), as the last attempt to send has shown.
        """
        failure = self._outbox.failure
        if isinstance(failure, StoreError) and failure.code == "S112":
            raise failure
        with self._lock:
            if batch.sequence <= self._kept.get(batch.process, -1):
                return False
            self._kept[batch.process] = batch.sequence
        self._outbox.put(batch)
        return True

    def flush(self, timeout_seconds: float) -> bool:
        """Send all that was appended; False if that was not possible within *timeout_seconds*."""
        return self._outbox.flush(timeout_seconds)

    def close(self) -> None:
        """Send what was appended, within two seconds; what cannot be sent by then is lost and counted. Twice is once."""
        self._outbox.close(_CLOSE_SECONDS)
        client, self._client = self._client, None
        if client is not None:
            client.close()

    # To and from the server

    @contextmanager
    def _connected(self) -> Generator[Client]:
        """A client whose schema is this version's; whatever fails is a StoreError."""
        try:
            client = self._client
            if client is None:
                with self._connecting:
                    client = self._client or self._prepared()
                    self._client = client
            yield client
        except StoreError:
            raise
        except (ClickHouseError, HTTPError, OSError) as error:
            raise StoreError(self._name, _fault(error), "S116") from error

    def _prepared(self) -> Client:
        client = self._connect()
        try:
            _migrate(client, self._name)
        except BaseException:
            client.close()
            raise
        return client

    def _ask(self, sql: str, **parameters: Any) -> Sequence[Sequence[Any]]:
        self._outbox.flush(_FLUSH_SECONDS)
        check_deadline()
        with self._connected() as client:
            settings = {"max_execution_time": _QUERY_SECONDS}
            found = client.query(
                sql,
                parameters={"service": self._service, **parameters},
                settings=settings,
                column_formats={"payload": "bytes"},
            )
            return found.result_rows

    def _deliver(self, group: Group) -> None:
        runs = list(chain.from_iterable(batch.runs for batch in group.batches))
        self._insert("records", _RECORD_COLUMNS, self._record_rows(runs), group.token)
        windows = ((batch, batch.window) for batch in group.batches if batch.window is not None)
        self._insert("windows", _WINDOW_COLUMNS, self._window_rows(windows), group.token)

    def _insert(self, table: str, columns: Mapping[str, str], rows: Iterable[Sequence[Any]], token: str) -> None:
        for number, piece in enumerate(pieces(rows, _MAX_ROWS)):
            settings = {
                "insert_deduplication_token": f"{self._service}/{token}/{number}",
                "insert_deduplicate": 1,
                "deduplicate_blocks_in_dependent_materialized_views": 1,
                "async_insert": 0,  # the answer says that it is kept ...
                "distributed_foreground_insert": 1,  # ... by the shards
            }
            with self._connected() as client:
                client.insert(
                    table,
                    list(piece),
                    column_names=list(columns),
                    column_type_names=list(columns.values()),
                    settings=settings,
                )

    def _record_rows(self, runs: Iterable[Run]) -> Iterator[Sequence[Any]]:
        for run in runs:
            for offset, frame in zip(run.offsets, run.frames, strict=True):
                yield (self._service, self._host, run.source, run.sequence, offset, *_row_of(frame))
                breathe()

    def _window_rows(self, windows: Iterable[tuple[Batch, Window]]) -> Iterator[Sequence[Any]]:
        for batch, window in windows:
            head = (self._service, self._host, batch.process, batch.sequence, window.second)
            yield (*head, "", {}, _NO_SERIES, "window", 1.0, *_EMPTY)
            for kind, values in (("counter", window.counters), ("gauge", window.gauges)):
                for key, value in values.items():
                    yield (*head, key.name, dict(key.labels), _number_of(key), kind, value, *_EMPTY)
                    breathe()
            for key, one in window.sketches.items():
                figures = (one.sum, one.count, one.zero, one.min, one.max, one.positive, one.negative)
                yield (*head, key.name, dict(key.labels), _number_of(key), "histogram", *figures)
                breathe()

    # Answers

    def kinds(self) -> Mapping[str, Kind]:
        sql = "SELECT name, argMax(kind, last) FROM series WHERE service = {service:String} GROUP BY name ORDER BY name"
        return {name: cast("Kind", kind) for name, kind in self._ask(sql)}

    def series(self, name: str) -> tuple[SeriesKey, ...]:
        sql = "SELECT series, any(labels) FROM series WHERE service = {service:String} AND name = {name:String} GROUP BY series"
        found = self._ask(sql, name=name)
        return tuple(sorted(SeriesKey(name, tuple(sorted(labels.items()))) for _, labels in found))

    def increases(self, keys: Sequence[SeriesKey], start: float, end: float) -> list[float | None]:
        known = self._known(keys, "counter")
        found = self._sums("sum(value)", known, start, end)
        return [found.get(number, (0.0,))[0] if number in known else None for number in map(_number_of, keys)]

    def increase(self, keys: Sequence[SeriesKey], start: float, end: float) -> float:
        return sum((one or 0.0 for one in self.increases(keys, start, end)), 0.0)

    def sketches(self, keys: Sequence[SeriesKey], start: float, end: float) -> list[Sketch | None]:
        known = self._known(keys, "histogram")
        found = self._sums(_SELECT_SKETCH, known, start, end)
        numbers = map(_number_of, keys)
        return [_sketch_of(found.get(number)) if number in known else None for number in numbers]

    def distribution(self, keys: Sequence[SeriesKey], start: float, end: float) -> Sketch:
        return sum_of(self.sketches(keys, start, end))

    def points(
        self, keys: Sequence[SeriesKey], start: float, end: float, step_seconds: float
    ) -> list[list[float | None]]:
        steps = _Steps(start, end, step_seconds)
        known = self._known(keys)
        by_step = self._steps("sum(value), max(last), sum(count)", known, steps)
        seen = by_step.get(_NO_SERIES, _NOTHING)
        gauges = {number: key for number, (key, kind) in known.items() if kind == "gauge"}
        before = {number: last[2] for number, last in self._last_before(gauges, steps.first).items()}
        lines: list[list[float | None]] = []
        for number in map(_number_of, keys):
            if number not in known:
                lines.append([None] * steps.count)
                continue
            own = by_step.get(number, _NOTHING)
            line: list[float | None] = []
            value = before.get(number)
            for step in range(steps.count):
                total, last, count = own.get(step, (0.0, None, 0))
                if number in gauges:
                    value = value if last is None else last[2]
                else:
                    value = float(count) if known[number][1] == "histogram" else total
                line.append(value if step in seen else None)
            lines.append(line)
        return lines

    def latest(self, keys: Sequence[SeriesKey]) -> float | None:
        gauges = self._known(keys, "gauge")
        now = int(self._now()) + 1
        is_alive = self._ask(
            "SELECT 1 FROM windows WHERE service = {service:String} AND name = '' "
            "AND second >= toDateTime({since:UInt32}, 'UTC') LIMIT 1",
            since=now - _LATEST_SECONDS,
        )
        if not gauges or not is_alive:
            return None
        found = self._last_before({number: key for number, (key, _) in gauges.items()}, now)
        return max(found.values())[2] if found else None

    def quantiles(
        self, keys: Sequence[SeriesKey], q: float, start: float, end: float, step_seconds: float
    ) -> list[list[float | None]]:
        steps = _Steps(start, end, step_seconds)
        by_step = self._steps(_SELECT_SKETCH, self._known(keys, "histogram"), steps)
        lines: list[list[float | None]] = []
        for number in map(_number_of, keys):
            line: list[float | None] = [None] * steps.count
            for step, figures in by_step.get(number, _NOTHING).items():
                line[step] = _sketch_of(figures).quantile(q)
                check_deadline()
                breathe()
            lines.append(line)
        return lines

    def distributions(
        self, keys: Sequence[SeriesKey], start: float, end: float, step_seconds: float
    ) -> list[Sketch | None]:
        steps = _Steps(start, end, step_seconds)
        known = self._known(keys, "histogram")
        if not known:
            return [None] * steps.count
        by_step = self._steps(_SELECT_SKETCH, known, steps, series=f"if(series = {_NO_SERIES}, 0, 1)")
        seen = by_step.get(0, _NOTHING)
        found = by_step.get(1, _NOTHING)
        return [_sketch_of(found.get(step)) if step in seen else None for step in range(steps.count)]

    def records(self, wanted: Wanted, *, limit: int, before: str | None = None) -> list[StoredRecord]:
        conditions = [
            "service = {service:String}",
            "time >= fromUnixTimestamp64Nano({since:Int64})",
            "time < fromUnixTimestamp64Nano({until:Int64})",
        ]
        parameters: dict[str, object] = {"since": wanted.since_ns, "until": wanted.until_ns, "limit": limit}
        for condition, name, value in (
            ("level >= {level:UInt8}", "level", wanted.min_level),
            ("bitAnd(flags, {flags:UInt8}) = {flags:UInt8}", "flags", wanted.flags),
            ("operation = {operation:String}", "operation", wanted.operation),
            ("correlation_id = {correlation_id:String}", "correlation_id", wanted.correlation_id),
        ):
            if value or value == "":
                conditions.append(condition)
                parameters[name] = value
        if before is not None:
            at, block, offset, source = _read_cursor(before)
            at_cursor = "fromUnixTimestamp64Nano({at:Int64})"
            conditions += [
                f"time <= {at_cursor}",
                f"(time, source, block, offset) < ({at_cursor}, {{source:String}}, {{block:UInt64}}, {{offset:UInt32}})",
            ]
            parameters.update(at=at, block=block, offset=offset, source=source)
        sql = (
            f"SELECT {_SELECT_RECORD} FROM records WHERE {' AND '.join(conditions)} "  # noqa: S608 - conditions of this module
            "ORDER BY service DESC, time DESC, source DESC, block DESC, offset DESC "
            "LIMIT 1 BY time, source, block, offset LIMIT {limit:UInt32}"
        )
        return [_record_of(row) for row in self._ask(sql, **parameters)]

    def statistics(self) -> Mapping[str, float]:
        """
        Figures of this service's records, and of the outbox of this process.

        ``record_bytes`` is what the table ``records`` takes on the disk, all services together; ``evicted_records`` are those that
        this process could not send.
        """
        sent = self._outbox.statistics()
        ((records, oldest),) = self._ask(
            "SELECT count(), toUnixTimestamp64Nano(min(time)) FROM records WHERE service = {service:String}"
        )
        ((size,),) = self._ask(
            "SELECT sum(total_bytes) FROM system.tables WHERE database = currentDatabase() AND name = 'records'"
        )
        ((first,),) = self._ask(
            "SELECT toUnixTimestamp(min(minute)) FROM minutes WHERE service = {service:String} AND name = ''"
        )
        now = self._now()
        horizons = [now - first] if first else []
        horizons += [now - oldest / 1e9] if records else []
        return {
            "records": records,
            "record_bytes": size or 0,
            "evicted_records": sent["dropped_records"],
            "horizon_seconds": max(0.0, *horizons, 0.0),
            **sent,
        }

    def _known(self, keys: Sequence[SeriesKey], kind: Kind | None = None) -> dict[int, tuple[SeriesKey, Kind]]:
        """Which of *keys* are known (and of this kind), by number."""
        by_number = {_number_of(key): key for key in keys}
        if not by_number:
            return {}
        sql = f"SELECT series, argMax(kind, last) FROM series WHERE {_WHERE} GROUP BY series"  # noqa: S608 - as above
        names = list({key.name for key in keys})
        found = self._ask(sql, names=names, series=list(by_number))
        return {number: (by_number[number], own) for number, own in found if kind in (None, own)}

    def _rows(self, parts: Sequence[_Part]) -> tuple[str, dict[str, object]]:
        """What makes up a range, as one subquery."""
        columns = "value, count, zero, min, max, positive, negative"
        selects: list[str] = []
        parameters: dict[str, object] = {}
        for number, (table, start, end) in enumerate(parts):
            time, last = ("minute", "last") if table == "minutes" else ("second", "(second, sequence, value) AS last")
            selects.append(
                f"SELECT series, {time} AS second, {last}, {columns} FROM {table} WHERE {_WHERE} "  # noqa: S608 - as above
                f"AND {time} >= toDateTime({{from_{number}:UInt32}}, 'UTC') "
                f"AND {time} < toDateTime({{until_{number}:UInt32}}, 'UTC')"
            )
            parameters |= {f"from_{number}": start, f"until_{number}": end}
        return " UNION ALL ".join(selects), parameters

    def _sums(
        self, what: str, known: Mapping[int, tuple[SeriesKey, Kind]], start: float, end: float
    ) -> dict[int, Sequence[Any]]:
        """Of each series *what* the range comes to."""
        parts = _parts(start, end, self._now())
        if not known or not parts:
            return {}
        rows, parameters = self._rows(parts)
        names = list({key.name for key, _ in known.values()})
        sql = f"SELECT series, {what} FROM ({rows}) GROUP BY series"  # noqa: S608 - as above
        return {number: figures for number, *figures in self._ask(sql, names=names, series=list(known), **parameters)}

    def _steps(
        self, what: str, known: Mapping[int, tuple[SeriesKey, Kind]], steps: _Steps, series: str = "series"
    ) -> dict[int, dict[int, Sequence[Any]]]:
        """Of each series, and of `_NO_SERIES`, and step *what* it comes to; steps without any row are left out."""
        rows, parameters = self._rows(steps.parts(self._now()))
        names = ["", *{key.name for key, _ in known.values()}]
        sql = f"SELECT {series} AS series, {_STEP}, {what} FROM ({rows}) GROUP BY series, step"  # noqa: S608 - as above
        found: dict[int, dict[int, Sequence[Any]]] = {}
        for number, step, *figures in self._ask(
            sql,
            names=names,
            series=[_NO_SERIES, *known],
            start=steps.start,
            step=steps.seconds,
            **parameters,
        ):
            found.setdefault(number, {})[step] = figures
        return found

    def _last_before(self, gauges: Mapping[int, SeriesKey], second: int) -> dict[int, tuple[Any, int, float]]:
        """Of each series when it was written last, with the batch of that second, and its value then."""
        if not gauges:
            return {}
        minute = second - second % MINUTE
        rows, parameters = self._rows([_Part("minutes", 0, minute), _Part("windows", minute, second)])
        sql = f"SELECT series, max(last) FROM ({rows}) GROUP BY series"  # noqa: S608 - as above
        names = list({key.name for key in gauges.values()})
        return {number: tuple(last) for number, last in self._ask(sql, names=names, series=list(gauges), **parameters)}


class _Part(NamedTuple):
    """Of a table the rows from *start* to before *end*, in unix seconds."""

    table: str
    start: int
    end: int


def _sure_since(now: float) -> int:
    """From when on each second is kept."""
    return _minute_from(now - _SECONDS_SURE)


def _parts(start: float, end: float, now: float) -> list[_Part]:
    """The range as seconds and whole minutes; where seconds are gone, the minutes count that begin within it."""
    first, last, sure = _to_second(start), _to_second(end), _sure_since(now)
    if first >= sure and last - first < _LONG_SECONDS:
        parts = [_Part("windows", first, last)]
    else:
        begin = _minute_from(first)
        until = _minute_from(last) if last <= sure else last - last % MINUTE
        parts = [_Part("minutes", begin, until), _Part("windows", max(begin, until, sure), last)]
        if first >= sure:
            parts.append(_Part("windows", first, begin))
    return [part for part in parts if part.start < part.end]


class _Steps:
    """The steps of a time series."""

    def __init__(self, start: float, end: float, seconds: float) -> None:
        self.start = start
        self.seconds = seconds
        self.count = max(1, ceil((end - start) / seconds))
        self.first = _to_second(start)

    def parts(self, now: float) -> list[_Part]:
        end = _to_second(self.start + self.count * self.seconds)
        if self.start % MINUTE == 0 and self.seconds % MINUTE == 0:
            return [_Part("minutes", self.first, end)]
        sure = min(max(_sure_since(now), self.first), end)
        return [_Part("minutes", self.first, sure), _Part("windows", sure, end)]


def _to_second(moment: float) -> int:
    return ceil(min(max(moment, 0), (1 << 32) - MINUTE))


def _minute_from(second: float) -> int:
    return max(0, ceil(second / MINUTE) * MINUTE)


def _number_of(key: SeriesKey) -> int:
    """Stands for *key* in the tables; two of a million series share one with a probability of 1 to 37 million."""
    text = "\0".join((key.name, *chain.from_iterable(key.labels)))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") or 1


_EMPTY: tuple[Any, ...] = (0, 0, 0.0, 0.0, {}, {})


def _sketch_of(figures: Sequence[Any] | None) -> Sketch:
    if figures is None or not figures[0]:
        return Sketch()
    count, total, zero, minimum, maximum, positive, negative = figures
    return Sketch(count, total, zero, minimum, maximum, dict(positive), dict(negative))


# Records as rows


_encode_json = msgspec.json.Encoder().encode
_decode_fields = msgspec.json.Decoder(dict[str, Any]).decode
_UNREADABLE: tuple[Any, ...] = ("", "", "", "", "", "", "", "", None, "{}", "", "", "", None, False, False)


def _row_of(frame: Frame) -> Sequence[Any]:
    """The columns from ``time`` on. The payload is among them only if the others do not say all."""
    head = (frame.time_ns, frame.level, frame.flags, frame.correlation_id, frame.operation)
    try:
        data = decode_record(frame.payload)
        fields = _encode_json(data.fields).decode()
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError):
        return (*head, frame.payload, *_UNREADABLE)
    one = data.error
    error = (
        ("", "", "", None, False, False)
        if one is None
        else (one.type, one.code, one.message, one.stack_trace, one.expected, one.is_defect)
    )
    ids = (data.trace_id, data.span_id, data.parent_span_id)
    tail = (data.kind, data.logger, data.step, data.message, *ids, data.outcome, data.duration_seconds, fields, *error)
    is_all = _payload_of((*head, *tail)) == frame.payload
    return (*head, None if is_all else frame.payload, *tail)


def _payload_of(columns: Sequence[Any]) -> bytes:
    """The record that these columns, all but the payload, came from."""
    time_ns, level, _flags, correlation_id, operation, kind, logger, step, message, *rest = columns
    trace_id, span_id, parent_span_id, outcome, duration_seconds, fields, *error = rest
    return encode_record(
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
            _decode_fields(fields),
            ErrorInfo(*error) if error[0] else None,
        )
    )


def _record_of(row: Sequence[Any]) -> StoredRecord:
    source, block, offset, time_ns, level, flags, correlation_id, operation, payload, *tail = row
    if payload is None:
        payload = _payload_of((time_ns, level, flags, correlation_id, operation, *tail))
    cursor = f"{time_ns}.{block}.{offset}.{source}"
    return StoredRecord(cursor, Frame(time_ns, level, flags, correlation_id, operation, payload))


def _read_cursor(cursor: str) -> tuple[int, int, int, str]:
    match = _CURSOR.match(cursor)
    if match is None:
        raise CursorError(cursor)
    at, block, offset = int(match[1]), int(match[2]), int(match[3])
    if not (-(1 << 63) <= at < 1 << 63 and block < 1 << 64 and offset < 1 << 32):
        raise CursorError(cursor)
    return at, block, offset, match[4]


# The server


class _Address(NamedTuple):
    """Where a server is, and as whom it is asked."""

    name: str
    arguments: dict[str, Any]
    database: str
    options: dict[str, Any]

    @classmethod
    def of(cls, url: str) -> _Address:
        fault = ValueError(
            "a ClickHouse store is named clickhouse://user:password@host:port/database, or clickhouses://…"
        )
        try:
            parts = urlsplit(url)
            port, host = parts.port, parts.hostname
            query = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
            options: dict[str, Any] = {}
            if "delay_seconds" in query:
                options["delay_seconds"] = float(query.pop("delay_seconds"))
            if "max_waiting_bytes" in query:
                options["max_waiting_bytes"] = int(query.pop("max_waiting_bytes"))
        except ValueError:
            raise fault from None  # its text may have a part of the URL
        database = parts.path.strip("/") or "rfs"
        if (
            parts.scheme not in {"clickhouse", "clickhouses"}
            or not host
            or query
            or not re.fullmatch(r"[A-Za-z_][A-Za-z_0-9]*", database)
        ):
            raise fault
        is_secure = parts.scheme == "clickhouses"
        arguments = {
            "host": host,
            "port": port or (8443 if is_secure else 8123),
            "username": unquote(parts.username or "default"),
            "password": unquote(parts.password or ""),
            "secure": is_secure,
        }
        return cls(f"{parts.scheme}://{host}:{arguments['port']}/{database}", arguments, database, options)

    def connect(self) -> Client:
        """Make a client, and the database if it is not there."""
        drivers = logging.getLogger("clickhouse_connect")
        if drivers.level == logging.NOTSET:
            drivers.setLevel(logging.ERROR)  # what it warns of, at every attempt, is told by a StoreError
        made: object = clickhouse_connect.get_client(  # pyright: ignore[reportUnknownMemberType] - its **kwargs have no type
            **self.arguments,
            compress="zstd",
            connect_timeout=_CONNECT_SECONDS,
            send_receive_timeout=_ANSWER_SECONDS,
            autogenerate_session_id=False,  # a session answers one question at a time
            form_encode_query_params=True,  # a list of series is too long for a URL
            query_retries=0,
            dedicated_pool=True,  # a forked child must not find the parent's connections in one that all share
        )
        client = cast("Client", made)
        if not client.command(f"EXISTS DATABASE {self.database}"):  # whoever may not make one may use what is there
            client.command(f"CREATE DATABASE IF NOT EXISTS {self.database}")
        client.database = self.database
        return client


_SHARD_BY = {"records": "cityHash64(source, block)", "windows": "series", "minutes": "series", "series": "series"}
_TABLE = re.compile(r"\s*CREATE TABLE IF NOT EXISTS (\w+) (.*)\sENGINE = (\w+)(.*)", re.DOTALL)
_VIEW = re.compile(r"\s*CREATE MATERIALIZED VIEW IF NOT EXISTS (\w+) TO (\w+) (.*)FROM windows(.*)", re.DOTALL)


def cluster_schema(cluster: str) -> list[str]:
    """
    The statements that make the tables on *cluster*, as its ``remote_servers`` name it: to be run once, in the store's database.

    Each table is replicated within a shard and has a Distributed one of its name in front, so that a store may talk to any server.
    The servers' macros must have ``shard`` and ``replica``.
    """
    path = "'/clickhouse/tables/{place}/{{database}}/{table}', '{{replica}}'"
    statements: list[str] = []
    for statement in (_VERSIONS, *chain.from_iterable(MIGRATIONS)):
        if match := _TABLE.match(statement):
            table, columns, kind, rest = match.groups()
            name = f"{table}_local" if table in _SHARD_BY else table
            # Every server has to know the version.
            arguments = path.format(place="{shard}" if table in _SHARD_BY else "all", table=name)
            rest = rest.replace(_TOKENS, _REPLICATED_TOKENS)
            statements.append(
                f"CREATE TABLE {name} ON CLUSTER {cluster} {columns} ENGINE = Replicated{kind}({arguments}){rest}"
            )
            if table in _SHARD_BY:
                engine = f"Distributed({cluster}, currentDatabase(), {name}, {_SHARD_BY[table]})"
                statements.append(f"CREATE TABLE {table} ON CLUSTER {cluster} AS {name} ENGINE = {engine}")
        elif match := _VIEW.match(statement):
            view, target, select, rest = match.groups()
            statements.append(
                f"CREATE MATERIALIZED VIEW {view} ON CLUSTER {cluster} TO {target}_local {select}FROM windows_local AS windows{rest}"
            )
    return [*statements, f"INSERT INTO schema_versions VALUES ({len(MIGRATIONS)}, now())"]  # noqa: S608 - as above


def _migrate(client: Client, name: str) -> None:
    """
    Bring the schema up to this version.

    Raises:
        StoreError: It is of a newer one (``S112``); nothing was changed.
    """
    if not client.command("EXISTS TABLE schema_versions"):
        client.command(_VERSIONS)
    version = int(client.query("SELECT max(version) FROM schema_versions").result_rows[0][0])
    if version > len(MIGRATIONS):
        fault = f"has schema version {version}, and this RFS knows {len(MIGRATIONS)} at most; update RFS"
        raise StoreError(name, fault, "S112")
    for number, statements in enumerate(MIGRATIONS[version:], version + 1):
        for statement in statements:
            client.command(statement)
        client.command(f"INSERT INTO schema_versions VALUES ({number}, now())")  # noqa: S608 - a number of this module


def _fault(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= _LONGEST_FAULT else text[:_LONGEST_FAULT] + "…"
