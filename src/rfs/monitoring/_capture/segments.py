"""
Segments: records in preallocated memory, from the call that made them to the leader that imports them.

The memory (a file that other processes map, or anonymous memory of the same layout) begins with a header page and a
table page; the rest is blocks. Each thread writes into a block of its own, so emitting takes no lock, no queue and no
I/O, and a fork or a signal handler can find none held. A frame is

    sync u32 · size u32 · crc32 u32 · time_ns i64 · level u8 · flags u8 · id bytes u8 · operation bytes u8
    · id · operation · payload

padded to 8 bytes. ``size`` counts what follows the CRC, without the padding; the CRC covers the padding, too, and
begins with the size and the block's sequence, so that nothing of an earlier use of the block can pass for a frame of
this one. The first word, sync and size, is written last: a frame is there when its word is. Its place is taken and its
bytes are copied in one stretch of code without a call, in which CPython neither switches threads nor runs signal
handlers nor raises what another thread sent: only a killed process can leave a torn frame, as the last of its block.

The table has three words for each block: ``sequence``, which rises with every use of a block (0: never used, or being
made ready; the block's own first word repeats it, in case the table is damaged), ``end``, where the frames end, once
nothing will be added to them, and ``progress``, in which the leader publishes how far it has read: sequence << 28 |
frames << 15 | offset / 8, one word, so that it cannot be torn. A block is used again when all of it was imported. When
there is none because nobody imports, records are shed by level, DEBUG first.

Words are the machine's own, which is little-endian wherever this runs.
"""

from __future__ import annotations

import mmap
import os
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from errno import EAGAIN
from itertools import count
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is a class
from threading import local
from typing import NamedTuple
from zlib import crc32

import msgspec

from rfs.errors import LiveFileError
from rfs.monitoring._capture.files import HEADER_BYTES, SEGMENT_MAGIC, Header, pack_header, read_header
from rfs.monitoring._capture.pace import breathe

BLOCK_BYTES = 128 << 10
BLOCK_COUNT = 124
MAX_FRAME_BYTES = BLOCK_BYTES - 8
HAS_ERROR = 1  # flag: the record describes a failure
FROM_SINK = 2  # flag: made inside a sink

_TABLE_BYTES = 4096
_BLOCKS_AT = HEADER_BYTES + _TABLE_BYTES
_TABLE = (
    HEADER_BYTES >> 3
)  # in words, as the following: all sequences, then all ends, then all progresses, and at the end of the page
_IMPORTS = (
    _BLOCKS_AT >> 3
) - 2  # changes whenever progress was published: then it is worth looking for blocks to use again
_REUSED = (_BLOCKS_AT >> 3) - 1  # how many frames were in blocks that have been used again
_MAX_BLOCKS = (_IMPORTS - _TABLE) // 3

_HEAD = Struct("<qBBBB")  # time, level, flags, id bytes, operation bytes: what follows sync, size and CRC
_HEAD_BYTES = _HEAD.size
_FRAME_HEAD_BYTES = 12 + _HEAD_BYTES  # 24
_pack_head = _HEAD.pack
_unpack_head = _HEAD.unpack_from
_unpack_whole_head = Struct("<IIIqBBBB").unpack_from  # sync, size, CRC, and the same
_ZEROS = bytes(BLOCK_BYTES)
_PADDING = tuple(bytes(-length % 8) for length in range(8))

# The share of blocks that must be free before a new one is opened for a record of a level.
_SHED_BELOW = ((10, 0.5), (20, 0.25), (30, 0.125))
_REFUSALS_PER_SCAN = 64  # of a full segment, while nothing seems to have changed
_FRAMES_PER_BREATH = 100  # read in a tenth of a millisecond
_COPIED_BYTES = 32 << 10  # of a block at once: Python cuts pieces of bytes more quickly than of shared memory
_COPY_TRIES = 100  # each takes some 20 µs, and a block is used anew after some 100 records


def segment_bytes(block_count: int = BLOCK_COUNT) -> int:
    """How long the memory of a segment is."""
    return _BLOCKS_AT + block_count * BLOCK_BYTES


SEGMENT_BYTES = segment_bytes()  # 15.5 MiB; pages that were never used cost no memory


class Frame(msgspec.Struct, frozen=True, gc=False):
    """
    One committed record, its payload not yet decoded.

    Not seen by the garbage collector: a store holds tens of thousands of them, and none can be part of a cycle.
    """

    time_ns: int
    level: int
    flags: int
    correlation_id: str
    operation: str
    payload: bytes


class Run(NamedTuple):
    """
    Consecutive records of one block of a segment. Where a record was written first is what it is known by for ever.

    Args:
        source: Name of the segment's file; never used for another one.
        sequence: Which use of the block it was.
        offsets: Where each of *frames* begins in the block, rising.
        end: Where the next record will begin.
        frames: The records.
    """

    source: str
    sequence: int
    offsets: Sequence[int]
    end: int
    frames: Sequence[Frame]

    def only(self, numbers: Sequence[int]) -> Run:
        """The records of these *numbers* alone, which rise."""
        if len(numbers) == len(self.frames):
            return self
        return self._replace(
            offsets=[self.offsets[number] for number in numbers], frames=[self.frames[number] for number in numbers]
        )


def segment_layout(block_count: int = BLOCK_COUNT) -> dict[str, int]:
    """The layout for a new segment's header; the sync word is random, so that no record's text can hold a frame."""
    return {
        "blocks": _BLOCKS_AT,
        "block_bytes": BLOCK_BYTES,
        "block_count": block_count,
        "sync": int.from_bytes(os.urandom(4), "little") | 1,
    }


def _read_layout(memory: memoryview, name: str) -> Header:
    header = read_header(memory, SEGMENT_MAGIC, name)
    layout = header.layout
    at, size, blocks, sync = (layout.get(key, 0) for key in ("blocks", "block_bytes", "block_count", "sync"))
    if (
        at != _BLOCKS_AT
        or not 0 < blocks <= _MAX_BLOCKS
        or not 8 + _FRAME_HEAD_BYTES <= size <= 1 << 18
        or size % 8
        or not 0 < sync < 1 << 32
        or at + blocks * size > len(memory)
    ):
        raise LiveFileError(name, f"has a layout that does not fit its {len(memory)} bytes: {layout}")
    return header


class Mark(NamedTuple):
    """How far a use of a block was read: to *offset*, with *frames* records before it."""

    block: int
    sequence: int
    offset: int
    frames: int


class _Writer:
    """A thread's place in its block. Once it is closed, ``limit`` is ``position``: nothing can be added."""

    __slots__ = ("closed", "limit", "position", "seed", "sequence", "start")

    def __init__(self, start: int, sequence: int) -> None:
        self.start = start
        self.position = start + 8
        self.limit = start + BLOCK_BYTES
        self.sequence = sequence
        self.seed = sequence & 0xFFFFFFFF
        self.closed = False


class Segments:
    """
    Keeps the records of all threads of this process, in *memory* that begins with a segment's header.

    ``append`` never raises, never waits, and is safe from any thread and signal handler. A forked child must make
    segments of its own. *name* is the file's, or one that no other segment has: with it, records are known by their places.

    Raises:
        LiveFileError: *memory* does not begin with a segment's header, or is shorter than that says.
    """

    def __init__(self, memory: mmap.mmap, name: str = "own segment") -> None:
        self.memory = memory
        self.name = name
        self._view = memoryview(memory)
        layout = _read_layout(self._view, name).layout
        if layout["block_bytes"] != BLOCK_BYTES:
            raise LiveFileError(name, f"has blocks of {layout['block_bytes']} bytes, not {BLOCK_BYTES}")
        self._count = blocks = layout["block_count"]
        self._sync = layout["sync"]
        whole = self._view[: len(self._view) & ~7]
        self._words = whole.cast("Q")
        self._crcs = whole.cast("I")
        self._writers: list[_Writer | None] = [None] * blocks  # whose block it is, or None: it is free
        self._used = [0] * blocks  # bytes that a free block's last use has left in it
        self._sequences = count(1)
        self._next = 0  # the free block at or after this one is the next to be used
        self._opened = 0
        self._refused = 0
        self._scanned: tuple[int, ...] = ()
        self._local = local()
        self._held: tuple[SegmentReader, ...] = ()

    @classmethod
    def in_memory(cls, name: str = "memory", block_count: int = BLOCK_COUNT) -> Segments:
        """Make segments in memory of this process alone."""
        memory = mmap.mmap(-1, segment_bytes(block_count), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        header = pack_header(SEGMENT_MAGIC, Header(name, os.getpid(), "", "", 0, 0, segment_layout(block_count)))
        memory[: len(header)] = header
        return cls(memory, name)

    @property
    def half_full(self) -> bool:
        """Whether less than half of the blocks can be used, so that DEBUG records are being shed."""
        return self._free_blocks() * 2 < self._count

    def hold_for(self, reader: SegmentReader) -> None:
        """Use no block again that *reader*, which reads this memory in this process, has not read to its end."""
        self._held = (*self._held, reader)

    def release(self, reader: SegmentReader) -> None:
        """Wait for *reader* no more; one that was never held for is no error."""
        self._held = tuple(one for one in self._held if one is not reader)

    def append(
        self, time_ns: int, level: int, flags: int, correlation_id: bytes, operation: bytes, payload: bytes
    ) -> bool:
        """
        Keep one record, with at most 255 bytes of each id.

        False when it was shed because the segment is full, or does not fit into a frame.
        """
        id_bytes = len(correlation_id)
        operation_bytes = len(operation)
        size = _HEAD_BYTES + id_bytes + operation_bytes + len(payload)
        try:
            content = b"".join(
                (
                    _pack_head(time_ns, level, flags, id_bytes, operation_bytes),
                    correlation_id,
                    operation,
                    payload,
                    _PADDING[(12 + size) & 7],
                )
            )
        except StructError:  # an id of more than 255 bytes, a level of more than 255
            if id_bytes <= 255 and operation_bytes <= 255:
                return False
            return self.append(time_ns, level, flags, correlation_id[:255], operation[:255], payload)
        needed = 12 + len(content)
        word = size << 32 | self._sync
        view, crcs, words = self._view, self._crcs, self._words
        try:
            writer = self._local.writer
        except AttributeError:
            writer = None
        while True:
            if writer is not None:
                crc = crc32(content, writer.seed ^ size)
                # Nothing calls from here to the return.
                at = writer.position
                end = at + needed
                if end <= writer.limit:
                    writer.position = end
                    view[at + 12 : end] = content
                    crcs[(at >> 2) + 2] = crc
                    words[at >> 3] = word
                    return True
            if needed > MAX_FRAME_BYTES:
                return False
            writer = self._next_block(level, writer)
            if writer is None:
                return False

    def _next_block(self, level: int, full: _Writer | None) -> _Writer | None:
        """Open a block for this thread and close *full*; None when there is none for a record of *level*."""
        own = self._local
        current: _Writer | None = getattr(own, "writer", None)
        if current is not full:
            return current  # a signal handler has just opened it
        free = self._free_blocks()
        share = next((share for highest, share in _SHED_BELOW if level <= highest), 0.0)
        if not free or free < share * self._count:
            self._refused += 1
            return None
        writers, used, words, view = self._writers, self._used, self._words, self._view
        while True:
            try:
                block = writers.index(None, self._next)
            except ValueError:
                try:
                    block = writers.index(None)
                except ValueError:
                    return None
            dirty = used[block]
            zeros = _ZEROS if dirty == BLOCK_BYTES else _ZEROS[:dirty]
            start = _BLOCKS_AT + block * BLOCK_BYTES
            sequence = next(self._sequences)
            writer = _Writer(start, sequence)
            entry = _TABLE + block
            end_entry = entry + self._count
            progress_entry = end_entry + self._count
            head = start >> 3
            # Nothing calls from here to the return: no other thread takes the same block, and no exception loses it.
            if writers[block] is None and used[block] == dirty:
                writers[block] = writer
                # With its sequence gone no reader looks into the block. Its frames stay counted.
                words[head] = 0
                words[entry] = 0
                words[_REUSED] = words[_REUSED] + (words[progress_entry] >> 15 & 0x1FFF)
                words[progress_entry] = 0
                words[end_entry] = 0
                view[start : start + dirty] = zeros
                words[entry] = sequence
                words[head] = sequence
                own.writer = writer
                self._next = block + 1
                self._opened += 1
                if full is not None and not full.closed:
                    full.closed = True
                    full.limit = full.position
                    words[_TABLE + self._count + (full.start - _BLOCKS_AT) // BLOCK_BYTES] = full.position - full.start
                return writer

    def scrub(self, *, close: bool) -> None:
        """
        Overwrite with zeros what blocks still hold of records of which all were imported, and read by who they are held for.

        To *close* blocks lets their threads go on in others, so that what is in them now can be overwritten once it was imported. For
        one thread at a time.
        """
        writers, used, words, view = self._writers, self._used, self._words, self._view
        if close:
            for block in range(self._count):
                writer = writers[block]
                # Nothing calls in these lines, as in `_reclaim`: its thread has no time to add to it.
                if writer is not None and not writer.closed:
                    writer.closed = True
                    writer.limit = writer.position
                    words[_TABLE + self._count + block] = writer.position - writer.start
        self._reclaim(closed=True)
        for block in range(self._count):
            dirty = used[block]
            if not dirty:
                continue
            zeros = _ZEROS[:dirty]
            start = _BLOCKS_AT + block * BLOCK_BYTES
            entry = _TABLE + block
            end_entry = entry + self._count
            progress_entry = end_entry + self._count
            head = start >> 3
            # Nothing calls from here on, as in `_next_block`: nobody takes the block meanwhile.
            if writers[block] is None and used[block] == dirty:
                words[head] = 0
                words[entry] = 0
                words[_REUSED] = words[_REUSED] + (words[progress_entry] >> 15 & 0x1FFF)
                words[progress_entry] = 0
                words[end_entry] = 0
                view[start : start + dirty] = zeros
                used[block] = 0

    def _free_blocks(self) -> int:
        """How many blocks are free, after a look for more if they get few."""
        free = self._writers.count(None)
        if free * 2 > self._count:
            return free
        state = (
            self._opened,
            self._words[_IMPORTS],
            self._refused // _REFUSALS_PER_SCAN,
            *(reader.frames_read for reader in self._held),
        )
        if state != self._scanned:
            self._scanned = state
            self._reclaim(closed=True)
            free = self._writers.count(None)
            if free * 2 <= self._count:
                # Many threads have blocks that they have not filled, or are dead. One that writes again opens another.
                self._reclaim(closed=False)
                free = self._writers.count(None)
        return free

    def _reclaim(self, *, closed: bool) -> None:
        """Free the blocks of which all was imported; those that are still open only if not *closed*."""
        writers, used, words, blocks = self._writers, self._used, self._words, self._count
        for block in range(blocks):
            writer = writers[block]
            if writer is None or (closed and not writer.closed):
                continue
            position = writer.position
            offset = position - writer.start
            progress = words[_TABLE + 2 * blocks + block]
            if progress >> 28 != writer.sequence or (progress & 0x7FFF) << 3 != offset:
                continue
            if not all(reader.has_read(block, writer.sequence, offset) for reader in self._held):
                continue
            # Nothing calls in these lines: its thread has no time to add to it, and nobody else to free it as well.
            if writers[block] is writer and writer.position == position:
                writer.closed = True
                writer.limit = position
                words[_TABLE + blocks + block] = offset
                used[block] = offset
                writers[block] = None


class _Cursor:
    """How far a reader has come in one block."""

    __slots__ = ("at", "block", "counted", "done", "doubtful", "frames", "judged", "sequence", "start")

    def __init__(self, block: int, start: int) -> None:
        self.block = block
        self.start = start
        self.begin(0)

    def begin(self, sequence: int) -> None:
        """Stand at the beginning of that use of the block."""
        self.at = self.start + 8
        self.frames = 0
        self.doubtful = 0  # where damage was seen that may be only late
        self.counted = 0  # how many damaged frames from ``at`` on have been counted already
        self.done = False  # nothing will follow
        self.judged = False  # `finish` has looked at what follows, and no frame was there
        self.sequence = sequence

    def twin(self) -> _Cursor:
        """Another one that stands here."""
        # By hand: `copy` takes ten times as long, and there are a hundred in each segment.
        twin = _Cursor.__new__(_Cursor)
        twin.block, twin.start, twin.at, twin.sequence = self.block, self.start, self.at, self.sequence
        twin.frames, twin.doubtful, twin.counted = self.frames, self.doubtful, self.counted
        twin.done, twin.judged = self.done, self.judged
        return twin


class SegmentReader:
    """
    Reads a segment: the own one, another living process', or a dead one's. *memory* may be read-only.

    Not safe to use from two threads at once. Damage costs the damaged frames: they are skipped and counted in
    ``corrupt_frames``; a frame that a killed process left half written is counted in ``torn_frames``. A block that its owner
    uses again before this reader has come to it is lost to this reader only; what holds it for the leader is
    `mark_imported`, and `Segments.hold_for` for the others of the same process.

    Raises:
        LiveFileError: *memory* is no segment that this version reads.
    """

    def __init__(self, memory: mmap.mmap | bytes | bytearray | memoryview, *, name: str) -> None:
        self._view = memoryview(memory).cast("B")
        self.name = name
        self.header = _read_layout(self._view, name)
        layout = self.header.layout
        self._block_bytes, self._count, self._sync = layout["block_bytes"], layout["block_count"], layout["sync"]
        whole = self._view[: len(self._view) & ~7]
        self._words = whole.cast("Q")
        self._crcs = whole.cast("I")
        self._table = self._words[_TABLE : _TABLE + self._count]
        self._sync_bytes = self._sync.to_bytes(4, "little")
        self._cursors = [_Cursor(block, _BLOCKS_AT + block * self._block_bytes) for block in range(self._count)]
        self._known = [0] * self._count  # the sequences that ``_pending`` was made of
        self._pending: list[_Cursor] = []
        self.unmarked = False  # whether anything was read that `mark_imported` has not published
        self.is_exhausted = False  # nothing is left of a process that is dead
        self._ahead: list[Run] = []
        self._imports = -1  # as they were when ``_ahead`` was last compared with the marks
        self.frames_read = 0
        self.corrupt_frames = 0
        self.torn_frames = 0

    def close(self) -> None:
        """Let go of the memory, so that it can be closed. The counts stay, reading is over."""
        for view in (self._table, self._crcs, self._words, self._view):
            view.release()

    def read(self, limit: int = 1 << 30) -> list[Frame]:
        """
        Return what was committed since the last time, in order of time, but about *limit* frames at most.

        Of one thread, what is returned now was written before what is returned later.
        """
        return _sorted(self.runs(limit))

    def runs(self, limit: int = 1 << 30, *, limit_bytes: int = 1 << 30) -> list[Run]:
        """
        What `read` returns, block by block, with the places of the records: for who must know a record again.

        It stops with the first hundred frames that make *limit_bytes* full.
        """
        # A block of the table as it is now is read to its end, unless it is the one that its thread still writes into.
        self._follow_table()
        runs: list[Run] = []
        finished = False
        for cursor in self._pending:
            kept = piece = 0
            while kept == piece and limit > 0 and limit_bytes > 0:  # there may be more in the block
                piece = min(limit, _FRAMES_PER_BREATH)
                at = cursor.at
                kept = self._keep_run(runs, cursor, *self._read_block(cursor, piece))
                limit -= kept
                limit_bytes -= cursor.at - at
                breathe()
            finished |= cursor.done
        if finished:
            self._pending = [cursor for cursor in self._pending if not cursor.done]
        return runs

    def _follow_table(self) -> None:
        sequences = self._table.tolist()
        if sequences != self._known:
            for cursor, sequence in zip(self._cursors, sequences, strict=True):
                if sequence and cursor.sequence != sequence:
                    cursor.begin(sequence)
            self._known = sequences
            self._pending = [cursor for cursor in self._cursors if cursor.sequence and not cursor.done]
            self._pending.sort(key=_sequence_of)

    def unimported(self, limit_bytes: int, *, is_dead: bool = False) -> list[Run]:
        """
        What was committed and no mark covers, whoever marks; *is_dead*: with all that `finish` finds.

        It is read once and kept until it is marked, about *limit_bytes* of it: what is beyond is read when there is room. Not to be
        mixed with `read`, `runs` and `finish`.
        """
        imports = self._words[_IMPORTS]
        if imports != self._imports:
            self._imports = imports
            self.catch_up()
            self._ahead = self._unmarked(self._ahead)
        room = limit_bytes - sum(run.end - run.offsets[0] for run in self._ahead)
        if room > 0:
            found = self.runs(limit_bytes=room)
            room -= sum(run.end - run.offsets[0] for run in found)
            self._ahead += found
            if is_dead and room > 0:
                self._ahead += self.last_runs()
        return self._ahead[:]

    def probe(self) -> SegmentReader:
        """Another reader that stands where this one stands, and holds nothing: for `pieces`, which this one does not notice."""
        probe = copy(self)
        probe._cursors = [cursor.twin() for cursor in self._cursors]
        probe._known, probe._ahead = [], []
        return probe

    def pieces(self, text: bytes = b"", *, is_dead: bool = False) -> Iterator[list[Run]]:
        """
        What follows, piece by piece; of blocks that do not contain *text* nothing is read. *is_dead*: with all that `finish` finds.
        """
        self._follow_table()
        for cursor in self._cursors:
            end = cursor.start + self._block_bytes
            if text and cursor.sequence and not cursor.done and text not in bytes(self._view[cursor.at : end]):
                cursor.at = end - 8  # where no frame can begin
                cursor.done = cursor.judged = True
        while runs := self.runs(limit_bytes=self._block_bytes):
            yield runs
        if is_dead:
            yield self.last_runs()

    def catch_up(self) -> None:
        """Pass over what is marked as imported."""
        self._follow_table()
        progresses = self._words[_TABLE + 2 * self._count : _TABLE + 3 * self._count].tolist()
        for cursor, progress in zip(self._cursors, progresses, strict=True):
            offset = (progress & 0x7FFF) << 3
            if (
                cursor.sequence
                and progress >> 28 == cursor.sequence
                and cursor.at - cursor.start < offset <= self._block_bytes
            ):
                cursor.at = cursor.start + offset
                cursor.frames = progress >> 15 & 0x1FFF

    def _unmarked(self, runs: list[Run]) -> list[Run]:
        """What of *runs* is in the blocks still, and not marked."""
        reached: dict[int, int] = {}
        progresses = self._words[_TABLE + 2 * self._count : _TABLE + 3 * self._count].tolist()
        for cursor, sequence, progress in zip(self._cursors, self._table.tolist(), progresses, strict=True):
            for named in (sequence, self._words[cursor.start >> 3]):
                reached[named] = (progress & 0x7FFF) << 3 if progress >> 28 == named else 0
        return [rest for run in runs if (rest := _behind(run, reached.get(run.sequence, run.end))).frames]

    def finish(self) -> list[Frame]:
        """
        Return everything that is left of a process that is dead, and judge what cannot be read.

        Said too early it does no harm but to the counts of damage.
        """
        return _sorted(self.last_runs())

    def last_runs(self) -> list[Run]:
        """What `finish` returns, block by block, with the places of the records."""
        runs: list[Run] = []
        table = self._table.tolist()
        for cursor in self._cursors:
            if cursor.sequence and not table[cursor.block] and not self._words[cursor.start >> 3]:
                cursor.begin(0)  # it was scrubbed: the header counts its frames
        last_named = max((block for block, sequence in enumerate(table) if sequence), default=-1)
        for cursor in self._cursors:
            named = table[cursor.block], self._words[cursor.start >> 3]
            sequence = named[0] or named[1]
            if not sequence:
                if cursor.block > last_named:
                    break  # blocks are first used in their order: what follows has not been touched, and shall not be by us
                continue
            if cursor.sequence in named:
                cursor.sequence = sequence
            else:
                cursor.begin(sequence)
            if not cursor.judged or self._words[cursor.at >> 3]:
                # Where table and block differ, one is damaged: the frames themselves say which.
                seeds = [name & 0xFFFFFFFF for name in set(named) if name]
                self._keep_run(runs, cursor, *self._finish_block(cursor, seeds))
                breathe()
        self.is_exhausted = True
        return runs

    def _keep_run(self, runs: list[Run], cursor: _Cursor, offsets: list[int], frames: list[Frame]) -> int:
        if frames:
            runs.append(Run(self.name, cursor.sequence, offsets, cursor.at - cursor.start, frames))
        self.frames_read += len(frames)
        return len(frames)

    def has_read(self, block: int, sequence: int, offset: int) -> bool:
        """Whether this reader has come to *offset* in that use of the block."""
        cursor = self._cursors[block]
        return cursor.sequence == sequence and cursor.at - cursor.start >= offset

    @property
    def total_frames(self) -> int:
        """How many frames the process has ever committed, but for damaged ones; of a dead one, after `finish`."""
        return self._words[_REUSED] + sum(cursor.frames for cursor in self._cursors)

    def emptied(self) -> bytes:
        """How a segment begins that has held as many frames and holds none any more; of a dead process, after `finish`."""
        table = bytes(_TABLE_BYTES - 8) + self.total_frames.to_bytes(8, "little")
        return self._view[:HEADER_BYTES].tobytes() + table

    @property
    def used_bytes(self) -> int:
        """How long the blocks are that hold frames; one that is still written counts as a whole."""
        ends = self._words[_TABLE + self._count : _TABLE + 2 * self._count].tolist()
        used = (end for sequence, end in zip(self._table.tolist(), ends, strict=True) if sequence)
        return sum(min(end or self._block_bytes, self._block_bytes) for end in used)

    @property
    def imports(self) -> int:
        """Another number whenever progress has been published."""
        return self._words[_IMPORTS]

    def resume(self) -> None:
        """Begin where the last `mark_imported`, of any process, has left."""
        progresses = self._words[_TABLE + 2 * self._count : _TABLE + 3 * self._count].tolist()
        self._known = self._table.tolist()
        for cursor, sequence, progress in zip(self._cursors, self._known, progresses, strict=True):
            cursor.begin(sequence)
            offset = (progress & 0x7FFF) << 3
            if sequence and progress >> 28 == sequence and 8 <= offset <= self._block_bytes:
                cursor.at = cursor.start + offset
                cursor.frames = progress >> 15 & 0x1FFF
        self._pending = [cursor for cursor in self._cursors if cursor.sequence]
        self._pending.sort(key=_sequence_of)

    def marks(self) -> list[Mark]:
        """How far this reader has read, where that is farther than what is marked; for `mark_imported`."""
        progresses = self._words[_TABLE + 2 * self._count : _TABLE + 3 * self._count].tolist()
        return [
            mark
            for mark, progress in zip(map(_mark_of, self._cursors), progresses, strict=True)
            if mark.sequence and (progress >> 28 != mark.sequence or (progress & 0x7FFF) << 3 < mark.offset)
        ]

    def mark_imported(self, table: mmap.mmap | None = None, marks: Iterable[Mark] | None = None) -> int:
        """
        Publish how far this reader has read, or had read when `marks` was asked, for the owner to use the blocks again.

        Return how many frames have been published that were not before.

        *table* is a writable mapping of the file's first pages, by default the memory itself.
        """
        if marks is None:
            if not self.unmarked:
                return 0
            marks = map(_mark_of, self._cursors)
            self.unmarked = False
        if table is None:
            return self._mark(self._words, marks)
        with memoryview(table) as view, view[:_BLOCKS_AT] as beginning, beginning.cast("Q") as words:
            return self._mark(words, marks)

    def copy_to(self, fd: int) -> None:
        """
        Write into the empty file *fd* what is here now, as if the process had been killed at this moment, between two records.

        The process may go on meanwhile: of what a thread writes then there is nothing, or the beginning. Raises OSError.
        """
        words, count, size = self._words, self._count, self._block_bytes
        table = words[: _BLOCKS_AT >> 3].tolist()
        newest = max(table[_TABLE : _TABLE + count])
        for block in range(count):
            start = _BLOCKS_AT + block * size
            for _ in range(_COPY_TRIES):
                entry = [_TABLE + column * count + block for column in range(3)]
                sequence, end, progress = (words[at] for at in entry)
                content = self._view[start : start + size].tobytes() if sequence else b""
                if words[entry[0]] == sequence:
                    break
            else:
                raise OSError(EAGAIN, "is written too quickly to be copied; try again", self.name)
            if sequence > newest:  # begun since: what is in front of it may have been written behind us
                sequence = end = progress = 0
            for at, word in zip(entry, (sequence, end, progress), strict=True):
                table[at] = word
            if sequence:
                os.pwrite(fd, content[: end or self._end_of_frames(content)], start)
            breathe()
        # Of a block that was used anew after it was copied the frames count twice here: none of them is thought to be lost.
        table[_REUSED] = words[_REUSED]
        os.pwrite(fd, array("Q", table).tobytes(), 0)
        os.ftruncate(fd, len(self._view))

    def _end_of_frames(self, block: bytes) -> int:
        """Where the first frame would begin that is not there yet; the block's own end where that cannot be told."""
        at = 8
        while at + _FRAME_HEAD_BYTES <= len(block):
            sync, size = int.from_bytes(block[at : at + 4], "little"), int.from_bytes(block[at + 4 : at + 8], "little")
            if not sync:
                return at
            if sync != self._sync:  # damaged: what follows is for its reader to judge
                break
            at += (12 + size + 7) & ~7
        return len(block)

    def _mark(self, target: memoryview[int], marks: Iterable[Mark]) -> int:
        first = _TABLE + 2 * self._count
        marked = 0
        changed = False
        for mark in marks:
            sequence = mark.sequence
            if not sequence or sequence >> 36:  # more than a progress can hold: damaged
                continue
            entry = first + mark.block
            offset = mark.offset >> 3
            before = target[entry]
            known = before >> 28 == sequence
            if (known and before & 0x7FFF >= offset) or target[_TABLE + mark.block] != sequence:
                continue
            target[entry] = sequence << 28 | min(mark.frames, 0x1FFF) << 15 | offset
            changed = True
            marked += mark.frames - (before >> 15 & 0x1FFF if known else 0)
        if changed:
            target[_IMPORTS] = (target[_IMPORTS] + 1) & 0xFFFFFFFF
        return marked

    def _read_block(self, cursor: _Cursor, limit: int) -> tuple[list[int], list[Frame]]:
        offsets: list[int] = []
        frames: list[Frame] = []
        words = self._words
        block_end = cursor.start + self._block_bytes
        # Asked before the words are: once it is said where the frames end, all of them are there.
        offset = words[_TABLE + self._count + cursor.block]
        closed = 8 <= offset <= self._block_bytes and not offset & 7
        stop = cursor.start + offset if closed else block_end
        seed = cursor.sequence & 0xFFFFFFFF
        seeds = (seed,)
        at = cursor.at
        while at + _FRAME_HEAD_BYTES <= stop and len(frames) < limit:
            word = words[at >> 3]
            if not word and not closed:
                break  # nothing more yet
            behind = self._read_whole(at, stop, seed, limit, offsets, frames) if word else at
            if behind != at:
                at = behind
                continue
            frame = self._frame(at, block_end, word, seeds) if word else None
            if frame is not None:  # longer than what is copied at once
                offsets.append(at)
                frames.append(frame)
                at += (12 + (word >> 32) + 7) & ~7
                continue
            if self._table[cursor.block] != cursor.sequence:
                break  # not damage: its owner has begun to use it anew
            if cursor.doubtful != at:
                cursor.doubtful = at  # another processor may not have shown us all of it yet
                break
            following = self._resynchronise(at + 8, stop, seeds)
            damaged = self._count_damaged(at, stop if following is None else following)
            self.corrupt_frames += max(0, damaged - cursor.counted)
            cursor.counted = 0
            if following is not None:
                at = following
            elif closed:
                at = stop
            else:
                cursor.counted = damaged  # where the next frame will be, only it can say
                break
        self.unmarked |= cursor.at != at
        cursor.at = at
        cursor.frames += len(frames)
        cursor.done = at + _FRAME_HEAD_BYTES > block_end or (closed and at + _FRAME_HEAD_BYTES > stop)
        start = cursor.start
        return [offset - start for offset in offsets], frames

    def _read_whole(self, at: int, stop: int, seed: int, limit: int, offsets: list[int], frames: list[Frame]) -> int:
        """
        Add the frames from *at* on, as many as are whole and stand one behind the other in a short piece, up to *limit* in all; where the
        next one begins, of which nothing is said. This is where a leader spends its time: nothing is called that need not be.
        """
        copied = self._view[at : min(at + _COPIED_BYTES, stop)].tobytes()
        last = len(copied) - _FRAME_HEAD_BYTES
        sync = self._sync
        operations: dict[bytes, str] = {}  # a few, again and again
        begin = 0
        while begin <= last and len(frames) < limit:
            found, size, crc, time_ns, level, flags, id_bytes, operation_bytes = _unpack_whole_head(copied, begin)
            end = begin + ((19 + size) & ~7)
            if (
                found != sync
                or size < _HEAD_BYTES
                or end > len(copied)
                or crc32(copied[begin + 12 : end], seed ^ size) != crc
            ):
                break
            id_at = begin + _FRAME_HEAD_BYTES
            operation_at = id_at + id_bytes
            payload_at = operation_at + operation_bytes
            encoded = copied[operation_at:payload_at]
            operation = operations.get(encoded)
            if operation is None:
                operation = operations[encoded] = encoded.decode("utf-8", "replace")
            correlation_id = copied[id_at:operation_at].decode("utf-8", "replace")
            payload = copied[payload_at : begin + 12 + size]
            frames.append(Frame(time_ns, level, flags, correlation_id, operation, payload))
            offsets.append(at + begin)
            begin = end
        return at + begin

    def _finish_block(self, cursor: _Cursor, seeds: list[int]) -> tuple[list[int], list[Frame]]:
        offsets: list[int] = []
        frames: list[Frame] = []
        words = self._words
        stop = cursor.start + self._block_bytes
        at = cursor.at
        while at + _FRAME_HEAD_BYTES <= stop:
            word = words[at >> 3]
            frame = self._frame(at, stop, word, seeds) if word else None
            if frame is not None:
                offsets.append(at - cursor.start)
                frames.append(frame)
                cursor.frames += 1
                cursor.judged = False
                at += (12 + (word >> 32) + 7) & ~7
                continue
            rest = bytes(self._view[at:stop])
            if not word and _ZEROS.startswith(rest):
                cursor.judged = True  # nearly always: nothing has been begun
                break
            following = self._resynchronise(at + 8, stop, seeds)
            if following is not None:
                rest = rest[: following - at]
            if following is not None or word or self._next_sync(rest, 8) >= 0:
                damaged = self._count_damaged(at, at + len(rest))
                self.corrupt_frames += max(0, damaged - cursor.counted)
                cursor.counted = damaged
            elif not cursor.judged and rest.count(0) != len(rest):
                self.torn_frames += 1
            if following is None:
                cursor.judged = True
                break
            cursor.counted = 0
            at = following
        self.unmarked |= cursor.at != at
        cursor.at = at
        return offsets, frames

    def _frame(self, at: int, stop: int, word: int, seeds: tuple[int, ...] | list[int]) -> Frame | None:
        size = word >> 32
        end = at + ((12 + size + 7) & ~7)
        if word & 0xFFFFFFFF != self._sync or size < _HEAD_BYTES or end > stop:
            return None
        content = self._view[at + 12 : end].tobytes()
        crc = self._crcs[(at >> 2) + 2]
        for seed in seeds:
            if crc32(content, seed ^ size) == crc:
                break
        else:
            return None
        time_ns, level, flags, id_bytes, operation_bytes = _unpack_head(content)
        operation_at = _HEAD_BYTES + id_bytes
        payload_at = operation_at + operation_bytes
        return Frame(
            time_ns,
            level,
            flags,
            content[_HEAD_BYTES:operation_at].decode("utf-8", "replace"),
            content[operation_at:payload_at].decode("utf-8", "replace"),
            content[payload_at:size],
        )

    def _resynchronise(self, at: int, stop: int, seeds: tuple[int, ...] | list[int]) -> int | None:
        rest = bytes(self._view[at:stop])
        found = self._next_sync(rest, 0)
        while found >= 0:
            if self._frame(at + found, stop, self._words[(at + found) >> 3], seeds) is not None:
                return at + found
            found = self._next_sync(rest, found + 8)
        return None

    def _count_damaged(self, at: int, stop: int) -> int:
        """How many frames have been between *at* and *stop*: as many as have left a sync word, and the first."""
        gap = bytes(self._view[at:stop])
        damaged = 1
        found = self._next_sync(gap, 8)
        while found >= 0:
            damaged += 1
            found = self._next_sync(gap, found + 8)
        return damaged

    def _next_sync(self, where: bytes, at: int) -> int:
        while True:
            at = where.find(self._sync_bytes, at)
            if at < 0 or not at & 7:
                return at
            at += 1


class Waiting(NamedTuple):
    """
    Records that are not marked as imported; to be read once, by any thread.

    Args:
        held: Those that were read before.
        beyond: Segments that have others, and whether the process is dead.
        text: Of the others only those are asked for that contain it.
    """

    held: Sequence[Run] = ()
    beyond: Sequence[tuple[SegmentReader, bool]] = ()
    text: bytes = b""

    def pieces(self) -> Iterator[Sequence[Run]]:
        """All of them, and more: what is near a record with the text comes with it."""
        yield self.held
        for probe, is_dead in self.beyond:
            yield from probe.pieces(self.text, is_dead=is_dead)


NOTHING_WAITS = Waiting()


def _behind(run: Run, offset: int) -> Run:
    first = bisect_left(run.offsets, offset)
    return run._replace(offsets=run.offsets[first:], frames=run.frames[first:]) if first else run


def _sorted(runs: list[Run]) -> list[Frame]:
    frames: list[Frame] = []
    for run in runs:
        frames += run.frames
    frames.sort(key=_time_of)
    return frames


def _time_of(frame: Frame) -> int:
    return frame.time_ns


def _sequence_of(cursor: _Cursor) -> int:
    return cursor.sequence


def _mark_of(cursor: _Cursor) -> Mark:
    return Mark(cursor.block, cursor.sequence, cursor.at - cursor.start, cursor.frames)
