"""
Records and leads until it is killed: ``record_writer DIRECTORY WITNESS``.

The records go into a segment of its own beside the store; whoever comes next imports what is left in it. After each record that was
kept, its number goes to the witness pipe; the first one is the number of those that the predecessors have recorded.
"""

from __future__ import annotations

import mmap
import os
import sys
import time
from contextlib import suppress
from itertools import count
from pathlib import Path
from random import Random
from struct import Struct

from rfs.monitoring._capture.files import SEGMENT_MAGIC, Header, pack_header
from rfs.monitoring._capture.segments import SegmentReader, Segments, segment_bytes, segment_layout
from rfs.monitoring._store.records import RecordReader, RecordWriter
from tests.monitoring.chunks import record

KEPT = Struct("<I")  # written whole, being shorter than PIPE_BUF
SUFFIX = ".segment"
BLOCKS = 4


def make_segment(path: Path) -> Segments:
    """A segment in the new file *path*."""
    header = pack_header(SEGMENT_MAGIC, Header(path.stem, os.getpid(), "", "", 0, 0, segment_layout(BLOCKS)))
    hidden = path.with_name("." + path.name)
    with hidden.open("w+b") as file:
        file.write(header)
        file.truncate(segment_bytes(BLOCKS))
        memory = mmap.mmap(file.fileno(), 0)
    hidden.rename(path)
    return Segments(memory, path.name)


def map_segments(path: Path) -> list[SegmentReader]:
    """Readers of all segments of *path*, which may mark."""
    readers: list[SegmentReader] = []
    for each in sorted(path.glob("[0-9]*" + SUFFIX)):
        with each.open("r+b") as file:
            readers.append(SegmentReader(mmap.mmap(file.fileno(), 0), name=each.name))
    return readers


def main(path: Path, first: int, witness: int) -> None:
    """Record and lead until killed."""
    chance = Random(first)
    segments = make_segment(path / f"{first:09}{SUFFIX}")
    readers = map_segments(path)
    reader = RecordReader(path, on_problem=fail)
    # An hour of it lasts 4 ms, so that chunks are sealed.
    began = time.monotonic()
    writer = RecordWriter(
        reader,
        now_ns=time.time_ns,
        monotonic=lambda: began + (time.monotonic() - began) * 1e6,
        on_problem=fail,
    )
    for number in count(first):
        made = record(number, message="x" * chance.randrange(3_000))
        while not segments.append(
            made.time_ns, made.level, made.flags, made.correlation_id.encode(), made.operation.encode(), made.payload
        ):
            lead(writer, readers)
        os.write(witness, KEPT.pack(number))
        if not chance.randrange(20):
            lead(writer, readers)


def lead(writer: RecordWriter, readers: list[SegmentReader]) -> None:
    """Import what is pending, as a leader does."""
    runs = [run for one in readers for run in one.unimported(16 << 20)]
    marks = [one.marks() for one in readers]
    if writer.keep(runs, flush=True):
        for one, ours in zip(readers, marks, strict=True):
            one.mark_imported(marks=ours)


def fail(code: str, text: str) -> None:
    """Nothing here is a problem, but for half a frame that the predecessor was killed over."""
    if code == "S113" and "which a kill has left" in text:
        return
    with suppress(OSError):
        sys.stderr.write(f"{code} {text}\n")
    os._exit(3)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
