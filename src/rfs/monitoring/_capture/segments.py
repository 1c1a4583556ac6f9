"""
Segments: records in preallocated memory, from the call that made them to the leader that collects them.

The memory is cut into blocks. Each thread writes into a block of its own, handed out by one atomic step, so
emitting takes no lock, no queue and no I/O, and a fork or a signal handler can find none held. A frame is

    length u32 · crc32 u32 · time_ns i64 · level u8 · flags u8 · id bytes u8 · operation bytes u8 · 4 spare · id · operation · payload

padded to 8 bytes. Its length is written last: a frame is there when its length is. The reader checks the CRC and
loses only a damaged frame. When the blocks run out because nobody collects, records are shed by level, DEBUG first.

In this version the memory is anonymous and belongs to one process.
"""

from __future__ import annotations

import mmap
from collections import deque
from struct import Struct
from threading import Lock, Thread, current_thread, local
from zlib import crc32

import msgspec

SEGMENT_BYTES = 16 << 20  # pages that were never used cost nothing
BLOCK_BYTES = 128 << 10
MAX_FRAME_BYTES = BLOCK_BYTES

_HEADER = Struct("<IqBBBB4x")  # after the length: crc, time, level, flags, id bytes, operation bytes
_HEADER_BYTES = 4 + _HEADER.size  # 24, so that every frame starts on 8 bytes
HAS_ERROR = 1  # flag: the record describes a failure

# The share of blocks that must be free before a new one is opened for a record of a level.
_SHED_BELOW = ((10, 0.5), (20, 0.25), (30, 0.125))


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


class _Writer:
    """A thread's place in its block. Only its own thread (or a signal handler on it) moves ``position``."""

    __slots__ = ("closed", "limit", "position", "read", "start", "thread")

    def __init__(self, start: int, thread: Thread) -> None:
        self.start = start
        self.position = start
        self.limit = start + BLOCK_BYTES
        self.read = start
        self.closed = False
        self.thread = thread


class Segments:
    """
    Collects records of all threads of a process; `drain` takes them out.

    ``append`` never raises, never waits, and is safe from any thread and signal handler. ``drain`` is for readers: they
    exclude one another by a lock that no writer ever takes.
    """

    def __init__(self, size_bytes: int = SEGMENT_BYTES) -> None:
        self._block_count = size_bytes // BLOCK_BYTES
        self._memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._view = memoryview(self._memory)
        self._lengths = self._view.cast("I")
        self._reset()

    def _reset(self) -> None:
        self._free: deque[int] = deque(index * BLOCK_BYTES for index in range(self._block_count))
        self._open: deque[_Writer] = deque()
        self._local = local()
        self._drain_lock = Lock()
        self.corrupt_frames = 0

    def after_fork(self) -> None:
        """In a forked child: forget the parent's records, which the parent still has."""
        for writer in tuple(self._open):
            self._zero(writer.start, BLOCK_BYTES)
        self._reset()

    @property
    def half_full(self) -> bool:
        """Whether less than half of the blocks are free, so that DEBUG records are being shed."""
        return 2 * len(self._free) < self._block_count

    def append(
        self, time_ns: int, level: int, flags: int, correlation_id: bytes, operation: bytes, payload: bytes
    ) -> bool:
        """Keep one record; False when it was shed because the segment is full or the record is too large."""
        body = correlation_id + operation + payload
        size = len(body)
        padded = (_HEADER_BYTES + size + 7) & ~7
        try:
            writer = self._local.writer
        except AttributeError:
            writer = None
        while True:
            if writer is not None:
                # No call between these lines: a signal handler that appends gets the next place.
                position = writer.position
                end = position + padded
                if end <= writer.limit:
                    writer.position = end
                    break
            if padded > MAX_FRAME_BYTES:
                return False
            writer = self._next_block(level, writer)
            if writer is None:
                return False
        start = position + _HEADER_BYTES
        self._view[start : start + size] = body
        _HEADER.pack_into(
            self._memory, position + 4, crc32(body), time_ns, level, flags, len(correlation_id), len(operation)
        )
        self._lengths[position >> 2] = size + 1  # commits; never 0, which means "not yet"
        return True

    def _next_block(self, level: int, full: _Writer | None) -> _Writer | None:
        for highest, share in _SHED_BELOW:
            if level <= highest:
                if len(self._free) < share * self._block_count:
                    return None
                break
        try:
            start = self._free.pop()  # the last one given back: few pages are ever touched
        except IndexError:
            return None
        writer = _Writer(start, current_thread())
        self._open.append(writer)
        self._local.writer = writer
        if full is not None:
            full.closed = True
        return writer

    def drain(self, limit: int = 1 << 30) -> list[Frame]:
        """
        Take out up to about *limit* committed frames, in order of time.

        A frame that a thread has begun but not committed holds back only what the same thread wrote after it.
        """
        with self._drain_lock:
            frames: list[Frame] = []
            for writer in tuple(self._open):
                self._read(writer, frames)
                if writer.closed or not writer.thread.is_alive():
                    self._retire(writer)
                if len(frames) >= limit:
                    break
        frames.sort(key=_time_of)
        return frames

    def _read(self, writer: _Writer, frames: list[Frame]) -> None:
        at, limit, lengths, view, unpack = writer.read, writer.limit, self._lengths, self._view, _HEADER.unpack_from
        while at + _HEADER_BYTES <= limit:
            committed = lengths[at >> 2]
            if not committed:
                break
            crc, time_ns, level, flags, id_bytes, operation_bytes = unpack(view, at + 4)
            start = at + _HEADER_BYTES
            end = start + committed - 1
            at = (end + 7) & ~7
            if crc32(view[start:end]) != crc:
                self.corrupt_frames += 1
                continue
            operation_start = start + id_bytes
            payload_start = operation_start + operation_bytes
            frames.append(
                Frame(
                    time_ns,
                    level,
                    flags,
                    str(view[start:operation_start], "utf-8", "replace"),
                    str(view[operation_start:payload_start], "utf-8", "replace"),
                    bytes(view[payload_start:end]),
                )
            )
        writer.read = at

    def _retire(self, writer: _Writer) -> None:
        if writer.read < writer.position:
            return  # a frame is still being written (or was torn by the death of its thread: then it stays, bounded)
        self._open.remove(writer)
        self._zero(writer.start, writer.position - writer.start)
        self._free.append(writer.start)

    def _zero(self, start: int, count: int) -> None:
        self._view[start : start + count] = bytes(count)


def _time_of(frame: Frame) -> int:
    return frame.time_ns
