"""What the tests of chunks share: records as the capture makes them, runs of them, and an open directory."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path

from rfs.monitoring._capture.record import RecordData, encode_record
from rfs.monitoring._capture.segments import Frame, Run
from rfs.monitoring._store.chunks import ChunkReader, ChunkWriter

SOURCE = "1-a.0.segment"
STEP = 64  # bytes from record to record in a block, for runs that no real segment has had


def record(
    time_ns: int, *, level: int = 20, flags: int = 0, identity: str = "id", operation: str = "op", message: str = ""
) -> Frame:
    """A record as `Monitor.keep` hands it to a segment and the leader reads it there."""
    data = RecordData(
        time_ns, level, "log", "shop", operation, "", message, identity, "", "", "", "", None, {"number": time_ns}, None
    )
    return Frame(time_ns, level, flags, identity, operation, encode_record(data))


def run_of(frames: Sequence[Frame], *, source: str = SOURCE, sequence: int = 1, first: int = 0) -> Run:
    """*frames* as if they were the records *first* and following of a block."""
    places = [8 + STEP * number for number in range(first, first + len(frames) + 1)]
    return Run(source, sequence, places[:-1], places[-1], frames)


def by_time(frames: Iterable[Frame]) -> list[Frame]:
    return sorted(frames, key=lambda frame: (frame.time_ns, frame.flags, frame.payload))


@contextmanager
def opened(path: Path) -> Generator[int]:
    """A descriptor of the directory *path*."""
    path.mkdir(exist_ok=True)
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield directory
    finally:
        os.close(directory)


def sealed(directory: int, name: str, frames: Sequence[Frame]) -> str:
    """The file of a new chunk with these records."""
    writer = ChunkWriter(directory, name, 5)
    writer.add([run_of(frames)])
    file = writer.seal()
    writer.reader.close()
    return file


def contents(directory: int, file: str) -> list[Frame]:
    """All records that can be read of a chunk, in order of time."""
    reader = ChunkReader(directory, file)
    try:
        return by_time(reader.read())
    finally:
        reader.close()
