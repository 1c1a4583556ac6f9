"""
Segments: records in preallocated memory, from the call that made them to the leader that collects them.

The memory (a file that other processes map, or anonymous memory of the same layout) begins with a header page and a table of
blocks; the rest is the blocks. Each thread writes into a block of its own, handed out by one atomic step, so emitting takes no lock, no
queue and no I/O, and a fork or a signal handler can find none held. A frame is

    sync u32 · size u32 · crc32 u32 · time_ns i64 · level u8 · flags u8 · id bytes u8 · operation bytes u8 · id · operation · payload

padded to 8 bytes; ``size`` counts what follows the CRC. The first word is written last: a frame is there when its word is. Place, bytes
and word are written in one stretch without a call, so that only a killed process can leave a torn frame, at the end of its block. The
CRC begins with the block's sequence, so that nothing of an earlier use of the block can pass for a frame of this one.

Of a block the table holds two words: ``sequence``, which its owner writes when it opens the block (0 while it is made ready), and ``progress``,
in which the leader publishes how far it has read: sequence << 28 | frames << 15 | offset / 8, one word so that it cannot be torn.
When no block is free because nobody collects, records are shed by level, DEBUG first.
"""

from __future__ import annotations

import mmap
import os
from collections import deque
from struct import Struct
from threading import Thread, current_thread, local
from zlib import crc32

import msgspec

from rfs.errors import LiveFileError
from rfs.monitoring._capture.files import HEADER_BYTES, SEGMENT_MAGIC, Header, pack_header, read_header

BLOCK_BYTES = 128 << 10
BLOCK_COUNT = 124
_TABLE_BYTES = 4096
_BLOCKS_AT = HEADER_BYTES + _TABLE_BYTES
SEGMENT_BYTES = _BLOCKS_AT + BLOCK_COUNT * BLOCK_BYTES  # 15.5 MiB; pages that were never used cost no memory
MAX_FRAME_BYTES = BLOCK_BYTES
_REUSED = (_BLOCKS_AT >> 3) - 1  # the table's last word: frames of blocks that have been used again
HAS_ERROR = 1  # flag: the record describes a failure

_HEAD = Struct("<qBBBB")  # after sync, size and crc
_FRAME_HEAD_BYTES = 12 + _HEAD.size  # 24
_CRC = Struct("<I")
_ZEROS = bytes(BLOCK_BYTES)

# The share of blocks that must be free before a new one is opened for a record of a level.
_SHED_BELOW = ((10, 0.5), (20, 0.25), (30, 0.125))

# What has become of a block, for its owner.
_FREE, _OPEN, _CLOSED = 0, 1, 2


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


def segment_layout(block_count: int = BLOCK_COUNT) -> dict[str, int]:
    """The layout for a new segment's header; the sync word is random, so that no record's text can hold a frame."""
    return {
        "blocks": _BLOCKS_AT,
        "block_bytes": BLOCK_BYTES,
        "block_count": block_count,
        "sync": int.from_bytes(os.urandom(4), "little") | 1,
    }


class _Writer:
    """A thread's place in its block. Only its own thread (or a signal handler on it) moves ``position``."""

    __slots__ = ("block", "limit", "position", "sequence", "start", "thread")

    def __init__(self, block: int, start: int, sequence: int, thread: Thread) -> None:
        self.block = block
        self.start = start
        self.position = start
        self.limit = start + BLOCK_BYTES
        self.sequence = sequence
        self.thread = thread


class Segments:
    """
    Keeps the records of all threads of this process, in *memory* that begins with a segment's header.

    ``append`` never raises, never waits, and is safe from any thread and signal handler.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        self.memory = memory
        self._view = memoryview(memory)
        self._words = self._view.cast("Q")
        layout = read_header(self._view, SEGMENT_MAGIC, "own segment").layout
        self._count = layout["block_count"]
        self._sync = layout["sync"]
        self._free: deque[int] = deque(range(self._count))
        self._states = [_FREE] * self._count
        self._writers: list[_Writer | None] = [None] * self._count
        self._last_sequence = 0
        self._local = local()
        self._local_readers: list[SegmentReader] = []

    @classmethod
    def in_memory(cls, process: str = "memory", block_count: int = BLOCK_COUNT) -> Segments:
        """Make segments in memory of this process alone."""
        memory = mmap.mmap(-1, _BLOCKS_AT + block_count * BLOCK_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        header = pack_header(SEGMENT_MAGIC, Header(process, os.getpid(), "", "", 0, 0, segment_layout(block_count)))
        memory[: len(header)] = header
        return cls(memory)

    @property
    def half_full(self) -> bool:
        """Whether less than half of the blocks are free, so that DEBUG records are being shed."""
        if 2 * len(self._free) < self._count:
            self._reclaim()
        return 2 * len(self._free) < self._count

    def hold_for(self, reader: SegmentReader) -> None:
        """Reuse no block that *reader*, which reads this memory in this process, has not read to its end."""
        self._local_readers = [*self._local_readers, reader]

    def append(
        self, time_ns: int, level: int, flags: int, correlation_id: bytes, operation: bytes, payload: bytes
    ) -> bool:
        """Keep one record; False when it was shed because the segment is full or the record is too large."""
        body = (
            _HEAD.pack(time_ns, level, flags, len(correlation_id), len(operation))
            + correlation_id
            + operation
            + payload
        )
        size = len(body)
        padding = bytes(-(12 + size) % 8)
        needed = 12 + size + len(padding)
        word = size << 32 | self._sync
        view, words = self._view, self._words
        try:
            writer = self._local.writer
        except AttributeError:
            writer = None
        while True:
            if writer is not None:
                tail = _CRC.pack(crc32(body, writer.sequence & 0xFFFFFFFF)) + body + padding
                # From here to the return nothing calls: a signal handler that appends gets the next place.
                position = writer.position
                end = position + needed
                if end <= writer.limit:
                    writer.position = end
                    view[position + 8 : end] = tail
                    words[position >> 3] = word
                    return True
            if needed > MAX_FRAME_BYTES:
                return False
            writer = self._next_block(level, writer)
            if writer is None:
                return False

    def _next_block(self, level: int, full: _Writer | None) -> _Writer | None:
        if 2 * len(self._free) < self._count:
            self._reclaim()
        for highest, share in _SHED_BELOW:
            if level <= highest:
                if len(self._free) < share * self._count:
                    return None
                break
        try:
            block = self._free.popleft()  # the oldest first: other processes can read it for as long as possible
        except IndexError:
            return None
        start = _BLOCKS_AT + block * BLOCK_BYTES
        entry = (HEADER_BYTES >> 3) + 2 * block
        old = self._writers[block]
        used = old.position - start if old is not None else 0
        words = self._words
        # What the block held stays counted: a reader that comes later must know how many frames there ever were.
        frames = words[entry + 1] >> 15 & 0x1FFF
        words[entry] = 0
        words[_REUSED] += frames
        words[entry + 1] = 0
        self._view[start : start + used] = _ZEROS[:used]
        sequence = self._last_sequence = self._last_sequence + 1
        writer = _Writer(block, start, sequence, current_thread())
        self._writers[block] = writer
        self._states[block] = _OPEN
        words[entry] = sequence
        self._local.writer = writer
        if full is not None:
            self._states[full.block] = _CLOSED
        return writer

    def _reclaim(self) -> None:
        words, states = self._words, self._states
        for block, writer in enumerate(self._writers):
            if writer is None or states[block] == _FREE:
                continue
            if states[block] == _OPEN and writer.thread.is_alive():
                continue
            offset = writer.position - writer.start
            progress = words[(HEADER_BYTES >> 3) + 2 * block + 1]
            if progress >> 28 != writer.sequence or (progress & 0x7FFF) << 3 != offset:
                continue
            if not all(reader.has_read(block, writer.sequence, offset) for reader in self._local_readers):
                continue
            state = states[block]
            if state != _FREE and self._writers[block] is writer:
                states[block] = _FREE  # nothing calls since the test: no other thread gives it back as well
                self._free.append(block)


class _Cursor:
    """How far a reader has come in one block."""

    __slots__ = ("doubtful", "frames", "offset", "sequence")

    def __init__(self) -> None:
        self.sequence = 0
        self.offset = 0
        self.frames = 0
        self.doubtful = -1


class SegmentReader:
    """
    Reads a segment: the own one, another living process', or a dead one's.

    Not safe to use from two threads at once. Damage costs the damaged frames: they are skipped and counted in
    ``corrupt_frames``; a frame that a killed process left half written is counted in ``torn_frames``.

    Raises:
        LiveFileError: *memory* is no segment that this version reads.
    """

    def __init__(self, memory: mmap.mmap, *, name: str) -> None:
        self._memory = memory
        self._view = memoryview(memory)
        self.header = read_header(self._view, SEGMENT_MAGIC, name)
        layout = self.header.layout
        self._at, self._bytes, self._count = (layout.get(key, 0) for key in ("blocks", "block_bytes", "block_count"))
        self._sync = layout.get("sync", 0)
        table_end = HEADER_BYTES + 16 * self._count
        if (
            not 0 < self._count <= 1 << 16
            or not _FRAME_HEAD_BYTES <= self._bytes <= 1 << 18
            or self._at < table_end
            or (self._at | self._bytes) % 8
            or self._at + self._count * self._bytes > len(self._view)
            or not 0 < self._sync < 1 << 32
        ):
            raise LiveFileError(name, f"has a layout that does not fit its {len(self._view)} bytes: {layout}")
        self._words = self._view[: len(self._view) & ~7].cast("Q")
        self._sync_bytes = _CRC.pack(self._sync)
        self._cursors = [_Cursor() for _ in range(self._count)]
        self.frames_read = 0
        self.corrupt_frames = 0
        self.torn_frames = 0

    def read(self) -> list[Frame]:
        """The frames committed since the last time, in order of time."""
        return self._read(final=False)

    def finish(self) -> list[Frame]:
        """Everything that is left of a process that is dead."""
        return self._read(final=True)

    def resume(self) -> None:
        """Begin where the leader has come to, instead of at what is still there."""
        for block, cursor in enumerate(self._cursors):
            progress = self._words[(HEADER_BYTES >> 3) + 2 * block + 1]
            cursor.sequence = progress >> 28
            cursor.frames = progress >> 15 & 0x1FFF
            cursor.offset = (progress & 0x7FFF) << 3

    def has_read(self, block: int, sequence: int, offset: int) -> bool:
        """Whether this reader has come to *offset* in that use of the block."""
        cursor = self._cursors[block]
        return cursor.sequence == sequence and cursor.offset >= offset

    @property
    def total_frames(self) -> int:
        """How many frames the process has ever committed; of a dead one, after `finish`."""
        return self._words[(self._at >> 3) - 1] + sum(cursor.frames for cursor in self._cursors)

    def mark_imported(self, table: mmap.mmap | None = None) -> int:
        """
        Publish how far this reader has read, for the owner to reuse the blocks; return how many frames that are more than before.

        *table* is a writable mapping of the file's beginning, by default the memory itself. Frames that a predecessor has
        published already are not counted again.
        """
        marked = 0
        target = self._words if table is None else memoryview(table).cast("Q")
        for block, cursor in enumerate(self._cursors):
            if not cursor.sequence:
                continue
            entry = (HEADER_BYTES >> 3) + 2 * block
            word = cursor.sequence << 28 | cursor.frames << 15 | cursor.offset >> 3
            before = self._words[entry + 1]
            if word != before and self._words[entry] == cursor.sequence:
                frames = before >> 15 & 0x1FFF if before >> 28 == cursor.sequence else 0
                if cursor.frames >= frames:
                    target[entry + 1] = word
                    marked += cursor.frames - frames
        return marked

    def _read(self, *, final: bool) -> list[Frame]:
        found: list[Frame] = []
        words = self._words
        entry = HEADER_BYTES >> 3
        for block, cursor in enumerate(self._cursors):
            sequence = words[entry + 2 * block]
            if not sequence:
                continue
            start = self._at + block * self._bytes
            if sequence != cursor.sequence:
                cursor.sequence, cursor.offset, cursor.frames, cursor.doubtful = sequence, 0, 0, -1
            if not final and (cursor.offset >= self._bytes or not words[(start + cursor.offset) >> 3]):
                continue
            before = cursor.offset, cursor.frames, self.corrupt_frames, self.torn_frames
            frames = self._read_block(start, cursor, final=final)
            if words[entry + 2 * block] != sequence:
                # Its owner has begun to use it anew: what was read may be anything. (It had been imported before.)
                cursor.offset, cursor.frames, self.corrupt_frames, self.torn_frames = before
                continue
            found += frames
        self.frames_read += len(found)
        found.sort(key=_time_of)
        return found

    def _read_block(self, start: int, cursor: _Cursor, *, final: bool) -> list[Frame]:
        frames: list[Frame] = []
        words, limit, seed = self._words, start + self._bytes, cursor.sequence & 0xFFFFFFFF
        at = start + cursor.offset
        while at + _FRAME_HEAD_BYTES <= limit:
            word = words[at >> 3]
            if not word and not final:
                break
            frame = self._frame(at, limit, word, seed)
            if frame is None:
                if not final and cursor.doubtful != at:
                    cursor.doubtful = at  # another processor may not have shown us all of it yet
                    break
                following = self._resynchronise(at + 8, limit, seed)
                if following is None:
                    if final:
                        torn = any(words[at >> 3 : limit >> 3])
                        self.corrupt_frames += 1 if torn and word else 0
                        self.torn_frames += 1 if torn and not word else 0
                        at = limit
                    break
                self.corrupt_frames += 1
                at = following
                continue
            frames.append(frame)
            cursor.frames += 1
            at += 12 + (word >> 32) + 7 & ~7
        cursor.offset = at - start
        return frames

    def _frame(self, at: int, limit: int, word: int, seed: int) -> Frame | None:
        size = word >> 32
        body = at + 12
        if word & 0xFFFFFFFF != self._sync or not _HEAD.size <= size <= limit - body:
            return None
        view = self._view
        content = bytes(view[body : body + size])
        if crc32(content, seed) != _CRC.unpack_from(view, at + 8)[0]:
            return None
        time_ns, level, flags, id_bytes, operation_bytes = _HEAD.unpack_from(content)
        operation_at = _HEAD.size + id_bytes
        payload_at = operation_at + operation_bytes
        return Frame(
            time_ns,
            level,
            flags,
            str(content[_HEAD.size : operation_at], "utf-8", "replace"),
            str(content[operation_at:payload_at], "utf-8", "replace"),
            content[payload_at:],
        )

    def _resynchronise(self, at: int, limit: int, seed: int) -> int | None:
        while True:
            at = self._memory.find(self._sync_bytes, at, limit)
            if at < 0:
                return None
            if at % 8 == 0 and self._frame(at, limit, self._words[at >> 3], seed) is not None:
                return at
            at += 1


def _time_of(frame: Frame) -> int:
    return frame.time_ns
