"""
What keeping a service's past costs, and what asking for it: ``python -m benchmarks.storing rfs 1000000`` is one keeper.

It answers each line on standard input with a line. ``{"do": "keep", "records": n}`` keeps the next *n* records of `corpus.past`, in
batches as a collector would, each durable as far as its keeper promises that; making the records, their MessagePack or text, is not
counted. ``{"do": "finish"}`` brings all into the form in which it is asked for. ``{"do": "ask", "question": q}`` asks once. Each
answer tells the process' CPU time, all threads together (``cpu``), and the time that it took (``wall``). ``{"do": "page"}`` asks for all
that a page of the day shows.

Needs the standard library alone and the keeper, because every peer's environment runs it.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from itertools import islice
from math import ceil, log2
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, Protocol

from benchmarks.corpus import DAY, RECORDS_PER_ID, START_NS, Past, past

BATCH = 10_000
LOOKUPS = 60
NOBODY = "0" * 32
SECOND_NS = 1_000_000_000
END = START_NS // SECOND_NS + DAY  # when all is asked
HOUR = 3_600
ITEMS = 360  # of each one a counter and a gauge, so that there are 1,000 series

# What every keeper is asked; the first three have goals of their own, the others are what a page shows of a day.
LOOKUP, TOP_ERRORS, P95_BY_MINUTE = "id", "top errors", "p95 by minute"
PAGE = ("operations", "by time", "errors", "newest errors", "newest", "one operation")

Rows = list[Any]


class Spent(NamedTuple):
    """Seconds: of the process' CPU, all threads together, and of the clock on the wall."""

    cpu: float
    wall: float


def spent(work: Callable[[], object]) -> Spent:
    """Do *work*, and return what it took."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return Spent(time.process_time() - cpu, time.perf_counter() - wall)


class Keeper(Protocol):
    """One way of keeping records in a directory."""

    def prepare(self, records: list[Past]) -> Any:
        """What `keep` is given; not counted."""
        ...

    def keep(self, prepared: Any) -> None:
        """Keep a batch."""
        ...

    def finish(self) -> None:
        """Bring everything into the form in which it is asked for; counted."""
        ...

    def bytes(self) -> int:
        """How large all of it is."""
        ...

    def ask(self, question: str, correlation_id: str) -> Rows:
        """Answer one of the questions; only that for an id needs one."""
        ...


# RFS


class Windows:
    """
    What RFS adds up of the same requests: 1,000 series, in windows of 10 s, and of 1 s in the last hour.

    A service closes a window each second; those of longer ago are in slots of 10 s by then.
    """

    def __init__(self) -> None:
        cells = import_module("rfs.monitoring._capture.cells")
        self._store = import_module("rfs.monitoring._store")
        self._sketch = import_module("rfs.monitoring._capture.sketch").Sketch
        self._key: Any = cells.SeriesKey
        self._keys: dict[tuple[str, ...], Any] = {}
        self._open: Any = None

    def _of(self, name: str, **labels: str) -> Any:
        known = (name, *labels.values())
        if known not in self._keys:
            self._keys[known] = self._key(name, tuple(sorted(labels.items())))
        return self._keys[known]

    def add(self, records: list[Past]) -> Iterator[Any]:
        """Count *records*; yield the windows that are over."""
        for one in records:
            if one.kind not in {"operation", "request"}:
                continue
            second = one.time_ns // SECOND_NS
            second -= second % (1 if second >= END - HOUR else 10)
            if self._open is None or self._open.second != second:
                yield from self.rest()
                self._open = self._store.Window(second, {}, {}, {})
            self._count(self._open, one)

    def rest(self) -> Iterator[Any]:
        """Yield the window that is still open."""
        if self._open is not None:
            yield self._open
            self._open = None

    def _count(self, window: Any, one: Past) -> None:
        operation, failed = one.operation, one.outcome == "failed"
        if one.kind == "operation":
            name = "result_failure_total" if failed else "result_success_total"
            counted = [self._of(name, operation=operation)]
            if failed:
                name = "result_error_by_type_total"
                counted.append(self._of(name, operation=operation, error_type="OrderError", error_code=one.code))
            measured = self._of("result_duration_ms", operation=operation)
            factor = 1e3
        else:
            item = str(one.fields["amount"] % ITEMS)
            window.gauges[self._of("stock", item=item)] = one.fields["table"]
            route = "/" + operation
            status = "422" if failed else "200"
            counted = [
                self._of("menu_views_total", item=item),
                self._of("http_requests_total", method="POST", route=route, status=status),
            ]
            measured = self._of("http_request_duration_seconds", method="POST", route=route)
            factor = 1.0
        for key in counted:
            window.counters[key] = window.counters.get(key, 0.0) + 1.0
        value = (one.duration_seconds or 0.0) * factor
        bucket = ceil(64 * log2(value))
        window.sketches.setdefault(measured, self._sketch()).add(
            self._sketch(count=1, sum=value, min=value, max=value, positive={bucket: 1})
        )


class Rfs:
    """A local store: record chunks, and the windows beside them, from which what is added up is answered."""

    def __init__(self, path: Path) -> None:
        segments = import_module("rfs.monitoring._capture.segments")
        self._frame, self._run, self._has_error = segments.Frame, segments.Run, segments.HAS_ERROR
        record = import_module("rfs.monitoring._capture.record")
        self._data, self._encode = record.RecordData, record.encode_record
        self._error = import_module("rfs.monitoring.masking").ErrorInfo
        local = import_module("rfs.monitoring._store.local")
        records = import_module("rfs.monitoring._store.records")
        catalogue = import_module("rfs.monitoring._store.catalogue")
        windows = import_module("rfs.monitoring._store.windows")
        ranges = import_module("rfs.monitoring._store.ranges")
        self._wanted = import_module("rfs.monitoring._store").Wanted
        self._now = float(START_NS // SECOND_NS)
        self._path = path
        store = path / local.STORE
        self.chunks = store / records.CHUNKS
        self._reader = records.RecordReader(store, on_problem=print)
        self._records = records.RecordWriter(
            self._reader, now_ns=lambda: int(self._now * 1e9), monotonic=lambda: self._now, on_problem=print
        )
        self._records.take_over()
        self._catalogue = catalogue.Catalogue(store / local.CATALOGUE, epoch=1, on_problem=print, now=lambda: self._now)
        self._writer = windows.WindowWriter(self._catalogue, on_problem=print)
        snapshots = catalogue.CatalogueReader(store / local.CATALOGUE)
        self._answers = ranges.WindowReader(snapshots, on_problem=print).at(None, END)
        self._windows = Windows()
        self.windows = 0
        self.windows_cpu = 0.0
        self._blocks = 0
        self._pages: Any = None
        self._clock: Any = None

    def prepare(self, records: list[Past]) -> Any:
        """Runs of records; the windows are written here, for they are counted apart."""
        self._put(self._windows.add(records))
        return self.runs(records)

    def runs(self, records: list[Past]) -> Any:
        """Runs of as many records as are in a block of a segment."""
        self._now = records[-1].time_ns / SECOND_NS
        frames = []
        for one in records:
            error = self._error("OrderError", one.code, "refused", None, expected=True, is_defect=False)
            data = self._data(*one[:3], "rfs.operation", *one[3:7], "", *one[7:12], error=error if one.code else None)
            flags = self._has_error if one.code else 0
            frames.append(
                self._frame(one.time_ns, one.level, flags, one.correlation_id, one.operation, self._encode(data))
            )
        runs = []
        for at in range(0, len(frames), 400):
            some = frames[at : at + 400]
            self._blocks += 1
            places = range(8, 8 + 300 * len(some), 300)
            name = f"1234-0123456789abcdef.{self._blocks % 4}.segment"
            runs.append(self._run(name, self._blocks, places, 8 + 300 * len(some), some))
        return runs

    def _put(self, windows: Iterator[Any]) -> None:
        for window in windows:
            before = time.process_time()
            self.windows += 1
            with self._catalogue.turn() as turn:
                self._writer.put(turn, window)
            self._writer.maintain()
            self.windows_cpu += time.process_time() - before

    def keep(self, prepared: Any) -> None:
        """Pack, and sync."""
        assert self._records.keep(prepared, flush=True)

    def finish(self) -> None:
        """Nothing: the newest chunk stays open, as it does in a service."""

    def bytes(self) -> int:
        """The chunks."""
        self._put(self._windows.rest())
        return sum(one.stat().st_size for one in self.chunks.iterdir())

    def ask(self, question: str, correlation_id: str) -> Rows:
        """By indexes, and from windows."""
        if question == LOOKUP:
            return self._reader.records(self._wanted(correlation_id=correlation_id), limit=100)
        if question == TOP_ERRORS:
            keys = self._answers.series("result_error_by_type_total")
            counts: Counter[tuple[str, str]] = Counter()
            for key, count in zip(keys, self._answers.increases(keys, END - HOUR, END), strict=True):
                labels = dict(key.labels)
                counts[labels["operation"], labels["error_code"]] += int(count)
            found = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            return [(*labels, count) for labels, count in found[:10] if count]
        keys = self._answers.series("result_duration_ms")
        lines = self._answers.quantiles(keys, 0.95, END - HOUR, END, 60)
        return [
            (dict(key.labels)["operation"], (END - HOUR) // 60 + minute, value / 1e3)
            for key, line in zip(keys, lines, strict=True)
            for minute, value in enumerate(line)
            if value is not None
        ]

    def page(self) -> dict[str, float]:
        """What the dashboard's queries take, by the clock, in a Monitor on the same directory."""
        if self._pages is None:
            self._clock = import_module("benchmarks.history").Clock(END * SECOND_NS)
            monitor = import_module("rfs.monitoring").Monitor(
                service_name="bench", clock=self._clock, directory=self._path
            )
            newest = self._reader.records(self._wanted(), limit=1)[0].frame
            pages = import_module("benchmarks.pages").Pages
            self._pages = pages(monitor, newest.operation, newest.correlation_id)
        self._clock.now_ns += SECOND_NS  # a page is drawn anew each second
        return {name: self._pages.seconds(name) for name in self._pages.paths}


# Peers


def as_json(one: Past) -> str:
    """Return a record as its line of JSON."""
    line = {key: value for key, value in one._asdict().items() if value not in ("", None)}
    return json.dumps(line, separators=(",", ":"))


def as_text(one: Past) -> str:
    """Return a record as a line of values between tabs."""
    values = ("\\N" if value is None else str(value) for value in one._replace(fields={}))
    return "\t".join(values).replace("{}", json.dumps(one.fields, separators=(",", ":")))


# The questions in SQL, from one table of records; what a dialect has its own words for is filled in.
SQL = {
    TOP_ERRORS: """SELECT operation, code, count(*) FROM records WHERE code <> '' AND {hour} GROUP BY operation, code
        ORDER BY 3 DESC, 1, 2 LIMIT 10""",
    "errors": """SELECT operation, code, count(*), max(time_ns) FROM records WHERE code <> ''
        GROUP BY operation, code ORDER BY 3 DESC, 1, 2 LIMIT 10""",
    P95_BY_MINUTE: """SELECT operation, {minute}, {p95} FROM records WHERE kind = 'operation' AND {hour} GROUP BY 1, 2""",
    "operations": """SELECT operation, count(*), sum(code <> ''), avg(duration_seconds), {p50}, {p95}, {p99} FROM records
        WHERE kind = 'operation' GROUP BY operation ORDER BY operation""",
    "by time": """SELECT time_ns {div} 1440000000000, count(*), sum(code <> '') FROM records WHERE kind = 'operation'
        GROUP BY 1 ORDER BY 1""",
    "one operation": """SELECT time_ns {div} 3600000000000, code, count(*) FROM records
        WHERE kind = 'operation' AND operation = 'orders.op7' GROUP BY 1, 2 ORDER BY 1, 2""",
    "newest": "SELECT * FROM records ORDER BY time_ns DESC LIMIT 50",
    "newest errors": "SELECT * FROM records WHERE level >= 40 ORDER BY time_ns DESC LIMIT 50",
    LOOKUP: "SELECT * FROM records WHERE correlation_id = '{id}'",
}
_LAST_HOUR = f"time_ns >= {(END - HOUR) * SECOND_NS} AND time_ns < {END * SECOND_NS}"


class SqliteRows:
    """A row for each record, as embedded tools keep them: a line of JSON, and columns of what is asked for; three indexes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database = import_module("sqlite3").connect(path / "past.sqlite")
        self._database.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
            "CREATE TABLE records (time_ns INTEGER, level INTEGER, kind TEXT, operation TEXT, correlation_id TEXT,"
            " duration_seconds REAL, code TEXT, line TEXT);"
            "CREATE INDEX by_id ON records (correlation_id); CREATE INDEX by_time ON records (time_ns);"
            "CREATE INDEX by_fault ON records (time_ns) WHERE level >= 40;"
        )

    def prepare(self, records: list[Past]) -> Any:
        """Rows."""
        return [
            (*one[:2], one.kind, one.operation, one.correlation_id, one.duration_seconds, one.code, as_json(one))
            for one in records
        ]

    def keep(self, prepared: Any) -> None:
        """One transaction."""
        with self._database:
            self._database.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?)", prepared)

    def finish(self) -> None:
        """Empty the write-ahead log."""
        self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def bytes(self) -> int:
        """The file."""
        return sum(one.stat().st_size for one in self._path.iterdir())

    def ask(self, question: str, correlation_id: str) -> Rows:
        """By the indexes; quantiles, which SQLite does not have, by rank."""
        if question in {P95_BY_MINUTE, "operations"}:
            group, wanted = "operation", "0.5, 0.95, 0.99"
            if question == P95_BY_MINUTE:
                group, wanted = "operation, time_ns / 60000000000", "0.95"
            return self._by_rank(group, wanted, _LAST_HOUR if question == P95_BY_MINUTE else "true")
        query = SQL[question].format(id=correlation_id, div="/", hour=_LAST_HOUR)
        if question in {TOP_ERRORS, "errors"}:
            query = query.replace("code <> ''", "level >= 40")  # which there is an index of
        return self._database.execute(query).fetchall()

    def _by_rank(self, group: str, wanted: str, where: str) -> Rows:
        shares = [float(one) for one in wanted.split(", ")]
        of_rank = ", ".join(
            f"max(duration_seconds) FILTER (WHERE rank = max(1, (many * {round(share * 100)} + 99) / 100))"
            for share in shares
        )
        more = "" if len(shares) == 1 else "count(*), sum(code <> ''), avg(duration_seconds), "
        query = (
            f"SELECT {group}, {more}{of_rank} FROM (SELECT *, row_number() OVER part AS rank, count(*) OVER"
            f" (PARTITION BY {group}) AS many FROM records WHERE kind = 'operation' AND {where}"
            f" WINDOW part AS (PARTITION BY {group} ORDER BY duration_seconds)) GROUP BY {group}"
        )
        return self._database.execute(query).fetchall()


class DuckDb:
    """A table with a column for each field, in order of time, and no index; read from lines of text, which needs no other package."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database = import_module("duckdb").connect(str(path / "past.duckdb"))
        self._types = {
            "time_ns": "BIGINT",
            "level": "UTINYINT",
            **dict.fromkeys(("kind", "operation", "step", "message", "correlation_id"), "VARCHAR"),
            **dict.fromkeys(("span_id", "parent_span_id", "outcome"), "VARCHAR"),
            "duration_seconds": "DOUBLE",
            "fields": "VARCHAR",
            "code": "VARCHAR",
        }
        columns = ", ".join(f"{name} {kind}" for name, kind in self._types.items())
        self._database.execute(f"CREATE TABLE records ({columns})")

    def prepare(self, records: list[Past]) -> Any:
        """Lines of text."""
        return "\n".join(map(as_text, records))

    def keep(self, prepared: Any) -> None:
        """One statement."""
        batch = self._path / "batch"
        batch.write_text(prepared)
        how = r"delim = '\t', header = false, quote = '', escape = '', nullstr = '\N', auto_detect = false"
        self._database.execute(f"INSERT INTO records SELECT * FROM read_csv('{batch}', columns = {self._types}, {how})")
        batch.unlink()

    def finish(self) -> None:
        """Compress what is in the log."""
        self._database.execute("CHECKPOINT")

    def bytes(self) -> int:
        """The file."""
        return sum(one.stat().st_size for one in self._path.iterdir())

    def ask(self, question: str, correlation_id: str) -> Rows:
        """Scan the columns."""
        quantiles = {f"p{q}": f"quantile_disc(duration_seconds, 0.{q})" for q in (50, 95, 99)}
        query = SQL[question].format(
            id=correlation_id, div="//", hour=_LAST_HOUR, minute="time_ns // 60000000000", **quantiles
        )
        return self._database.execute(query.replace("sum(code <> '')", "count_if(code <> '')")).fetchall()


class ClickHouse:
    """ClickHouse's engine in process: a MergeTree in order of time, small sets of values as such, and a filter of ids."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._session = import_module("chdb.session").Session(str(path / "past"))
        self._types = {
            "time_ns": "Int64 CODEC(Delta, ZSTD)",
            "level": "UInt8",
            **dict.fromkeys(("kind", "operation", "step", "message"), "LowCardinality(String)"),
            **dict.fromkeys(("correlation_id", "span_id", "parent_span_id"), "String CODEC(ZSTD)"),
            "outcome": "LowCardinality(String)",
            "duration_seconds": "Nullable(Float64) CODEC(ZSTD)",
            "fields": "String CODEC(ZSTD)",
            "code": "LowCardinality(String)",
        }
        columns = ", ".join(f"{name} {kind}" for name, kind in self._types.items())
        self._session.query("CREATE DATABASE past")
        self._session.query("USE past")
        self._session.query(
            f"CREATE TABLE records ({columns}, INDEX by_id correlation_id TYPE bloom_filter GRANULARITY 1)"
            " ENGINE MergeTree ORDER BY time_ns"
        )

    def prepare(self, records: list[Past]) -> Any:
        """Lines of text."""
        return "\n".join(map(as_text, records))

    def keep(self, prepared: Any) -> None:
        """One statement, one part; the engine merges them by itself."""
        batch = self._path / "batch"
        batch.write_text(prepared)
        types = ", ".join(f"{name} {kind.partition(' ')[0]}" for name, kind in self._types.items())
        self._session.query(f"INSERT INTO records SELECT * FROM file('{batch}', TSV, '{types}')")
        batch.unlink()

    def finish(self) -> None:
        """Nothing: it is merged in the background, whenever it likes."""

    def bytes(self) -> int:
        """The parts that count."""
        found = self._session.query("SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND table = 'records'")
        return int(str(found))

    def ask(self, question: str, correlation_id: str) -> Rows:
        """Scan the columns, but for ids the parts that the filter leaves."""
        # Of a hundred values its p95 is the 96th, that of the others the 95th.
        quantiles = {f"p{q}": f"quantileExact(0.{q} - 1e-9)(duration_seconds)" for q in (50, 95, 99)}
        query = SQL[question].format(
            id=correlation_id, div="DIV", hour=_LAST_HOUR, minute="time_ns DIV 60000000000", **quantiles
        )
        return [json.loads(line) for line in self._session.query(query, "JSONCompactEachRow").bytes().splitlines()]


# Environment and keeper by the name in the table.
SUBJECTS: dict[str, tuple[str, Callable[[Path], Keeper]]] = {
    "rfs": ("rfs", Rfs),
    "SQLite rows": ("rfs", SqliteRows),
    "DuckDB": ("duckdb", DuckDb),
    "ClickHouse engine": ("chdb", ClickHouse),
}


class Told:
    """Does what it is told with one keeper of *count* records."""

    def __init__(self, keeper: Keeper, count: int) -> None:
        self._keeper = keeper
        self._records = past(count)
        self._chance = Random(5)
        self._some = max(1, LOOKUPS * BATCH // count)
        self._ids: list[str] = [NOBODY]

    def keep(self, records: int) -> dict[str, Any]:
        """Keep the next *records*."""
        cpu = wall = 0.0
        while records and (batch := list(islice(self._records, min(BATCH, records)))):
            records -= len(batch)
            prepared = self._keeper.prepare(batch)
            took = spent(partial(self._keeper.keep, prepared))
            cpu, wall = cpu + took.cpu, wall + took.wall
            self._ids += (one.correlation_id for one in self._chance.sample(batch, self._some))
        return {"cpu": cpu, "wall": wall}

    def finish(self) -> dict[str, Any]:
        """Finish, and say how large it is."""
        took = spent(self._keeper.finish)
        told = {**took._asdict(), "bytes": self._keeper.bytes()}
        self._chance.shuffle(self._ids)
        if isinstance(self._keeper, Rfs):
            told |= {"windows": self._keeper.windows, "windows_cpu": self._keeper.windows_cpu}
        return told

    def ask(self, question: str) -> dict[str, Any]:
        """Ask; for an id each time for another one, of which there are all records or none."""
        identity = self._ids[-1]
        if question == LOOKUP:
            self._ids.insert(0, self._ids.pop())
        rows: Rows = []
        took = spent(lambda: rows.extend(self._keeper.ask(question, identity)))
        if question == LOOKUP:
            assert len(rows) == (0 if identity == NOBODY else RECORDS_PER_ID), (identity, len(rows))
            rows = []
        return {**took._asdict(), "rows": rows}

    def page(self) -> dict[str, float]:
        """Ask for all that a page of the day shows; return how long each of it took by the clock."""
        if isinstance(self._keeper, Rfs):
            return self._keeper.page()
        return {name: spent(partial(self._keeper.ask, name, NOBODY)).wall for name in PAGE}


def main(subject: str, count: int) -> None:
    """Serve one keeper until standard input ends."""
    with tempfile.TemporaryDirectory(prefix="rfs-bench-") as folder:
        told = Told(SUBJECTS[subject][1](Path(folder)), count)
        print(json.dumps("ready"), flush=True)
        for line in sys.stdin:
            order = json.loads(line)
            print(json.dumps(getattr(told, order.pop("do"))(**order)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
