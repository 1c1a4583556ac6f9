"""
What keeping a service's past costs, and finding a request in it: ``python -m benchmarks.storing rfs 1000000`` prints figures.

`corpus.past` is handed over in batches as a collector would, each batch durable as far as its keeper promises that. ``seconds`` are
the process' CPU time for keeping, all threads together; making the records, their MessagePack or JSON, is not counted. ``bytes`` are
all files together. ``lookups`` are wall-clock seconds, each for all records of one id, among them one that there is not.

Needs the standard library alone and the keeper, because every peer's environment runs it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import import_module
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, Protocol

from benchmarks.corpus import RECORDS_PER_ID, Past, past

BATCH = 10_000
CHUNK_BYTES = 16 << 20
LOOKUPS = 60
GOAL_PER_SECOND, GOAL_BYTES = 700_000, 40
GOAL_SECONDS = {1_000_000: 0.004, 10_000_000: 0.020}


class Keeper(Protocol):
    """One way of keeping records in a directory."""

    def prepare(self, records: list[Past]) -> Any:
        """What `keep` is given; not counted."""
        ...

    def keep(self, prepared: Any) -> None:
        """Keep a batch."""
        ...

    def finish(self) -> None:
        """Bring everything into the form in which it is looked up; counted."""
        ...

    def find(self, correlation_id: str) -> int:
        """How many records of that id there are, each read."""
        ...


class Chunks:
    """RFS: record chunks."""

    def __init__(self, path: Path) -> None:
        self._chunks: Any = import_module("rfs.monitoring._store.chunks")
        segments = import_module("rfs.monitoring._capture.segments")
        self._frame, self._run = segments.Frame, segments.Run
        record = import_module("rfs.monitoring._capture.record")
        self._data, self._encode = record.RecordData, record.encode_record
        self._directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self._sealed: list[Any] = []
        self._blocks = 0
        self._open()

    def _open(self) -> None:
        self._writer = self._chunks.ChunkWriter(self._directory, f"{len(self._sealed):06}", 0)

    def prepare(self, records: list[Past]) -> Any:
        """Runs of as many records as are in a block of a segment."""
        frames = []
        for one in records:
            data = self._data(*one[:3], "rfs.operation", *one[3:7], one.correlation_id, *one[7:], error=None)
            frames.append(self._frame(one.time_ns, one.level, 0, one.correlation_id, one.operation, self._encode(data)))
        runs = []
        for at in range(0, len(frames), 400):
            some = frames[at : at + 400]
            self._blocks += 1
            places = range(8, 8 + 300 * len(some), 300)
            name = f"1234-0123456789abcdef.{self._blocks % 4}.segment"
            runs.append(self._run(name, self._blocks, places, 8 + 300 * len(some), some))
        return runs

    def keep(self, prepared: Any) -> None:
        """Add, sync, and seal what is full."""
        self._writer.add(prepared)
        self._writer.sync()
        if self._writer.size >= CHUNK_BYTES:
            self.finish()
            self._open()

    def finish(self) -> None:
        """Seal."""
        self._sealed.append(self._chunks.ChunkReader(self._directory, self._writer.seal()))

    def find(self, correlation_id: str) -> int:
        """Ask the indexes, and decompress one frame."""
        return len(self._chunks.newest(self._sealed, limit=100, correlation_id=correlation_id))


def as_json(one: Past) -> str:
    """Return a record as its line of JSON."""
    line = {key: value for key, value in one._asdict().items() if value not in ("", None)}
    return json.dumps(line, separators=(",", ":"))


class SqliteRows:
    """A row for each record, as embedded tools keep them; what is filtered by has columns, and two indexes."""

    def __init__(self, path: Path) -> None:
        self._database = import_module("sqlite3").connect(path / "past.sqlite")
        self._database.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
            "CREATE TABLE records (time_ns INTEGER, level INTEGER, operation TEXT, id TEXT, line TEXT);"
            "CREATE INDEX by_id ON records (id); CREATE INDEX by_time ON records (time_ns);"
        )

    def prepare(self, records: list[Past]) -> Any:
        """Rows."""
        return [(one.time_ns, one.level, one.operation, one.correlation_id, as_json(one)) for one in records]

    def keep(self, prepared: Any) -> None:
        """One transaction."""
        with self._database:
            self._database.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?)", prepared)

    def finish(self) -> None:
        """Empty the write-ahead log."""
        self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def find(self, correlation_id: str) -> int:
        """Ask the index."""
        return len(self._database.execute("SELECT line FROM records WHERE id = ?", (correlation_id,)).fetchall())


class DuckDb:
    """A table with a column for each field, read from lines of JSON, which is how it takes many rows without another package."""

    def __init__(self, path: Path) -> None:
        self._path = path / "batch.json"
        self._database = import_module("duckdb").connect(str(path / "past.duckdb"))
        self._types = {
            "time_ns": "BIGINT",
            "level": "UTINYINT",
            **dict.fromkeys(("kind", "operation", "step", "message", "correlation_id"), "VARCHAR"),
            **dict.fromkeys(("span_id", "parent_span_id", "outcome"), "VARCHAR"),
            "duration_seconds": "DOUBLE",
            "fields": "VARCHAR",
        }
        columns = ", ".join(f"{name} {kind}" for name, kind in self._types.items())
        self._database.execute(f"CREATE TABLE records ({columns})")

    def prepare(self, records: list[Past]) -> Any:
        """Lines of JSON."""
        return "\n".join(map(as_json, records))

    def keep(self, prepared: Any) -> None:
        """One statement."""
        self._path.write_text(prepared)
        self._database.execute(f"INSERT INTO records SELECT * FROM read_json('{self._path}', columns = {self._types})")

    def finish(self) -> None:
        """Compress what is in the log."""
        self._path.unlink()
        self._database.execute("CHECKPOINT")

    def find(self, correlation_id: str) -> int:
        """Scan the column."""
        query = "SELECT * FROM records WHERE correlation_id = ?"
        return len(self._database.execute(query, [correlation_id]).fetchall())


# Environment and keeper by the name in the table.
SUBJECTS: dict[str, tuple[str, type[Chunks | SqliteRows | DuckDb]]] = {
    "rfs": ("rfs", Chunks),
    "SQLite rows": ("rfs", SqliteRows),
    "DuckDB": ("duckdb", DuckDb),
}


def _batches(count: int) -> Iterator[list[Past]]:
    records = past(count)
    while batch := list(islice(records, BATCH)):
        yield batch


def measure(subject: str, count: int) -> dict[str, Any]:
    """Keep *count* records, look some up, and return the figures."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        keeper: Keeper = SUBJECTS[subject][1](path)
        seconds = 0.0
        wanted: list[str] = []
        chance = Random(5)
        for batch in _batches(count):
            prepared = keeper.prepare(batch)
            before = time.process_time()
            keeper.keep(prepared)
            seconds += time.process_time() - before
            wanted += (chance.choice(batch).correlation_id for _ in range(LOOKUPS * BATCH // count + 1))
        before = time.process_time()
        keeper.finish()
        seconds += time.process_time() - before
        size = sum(one.stat().st_size for one in path.iterdir())
        chance.shuffle(wanted)
        lookups = []
        for identity in [*wanted[: LOOKUPS - 1], "0" * 32]:
            began = time.perf_counter()
            found = keeper.find(identity)
            lookups.append(time.perf_counter() - began)
            assert found == (0 if identity == "0" * 32 else RECORDS_PER_ID), (identity, found)
    return {"records": count, "seconds": seconds, "bytes": size, "lookups": lookups}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
