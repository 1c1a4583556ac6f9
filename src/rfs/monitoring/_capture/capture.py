"""
Capture: where this process records, which is files of the live directory, or memory of its own.

Recording works from the start, in memory. `Capture.attach` moves it into files, `Capture.after_fork` gives a child files of its
own, and whenever a file cannot be had, the same code goes on in memory, ``degraded`` says why, and `Capture.mend` tries again.
"""

from __future__ import annotations

import errno
import itertools
import os
import time
from collections.abc import Callable
from contextlib import suppress
from mmap import mmap
from pathlib import Path
from typing import Literal
from weakref import finalize

import msgspec

from rfs.errors import LiveDirectoryError
from rfs.monitoring._capture.cells import FILE_BYTES, LAYOUT, anonymous_cells
from rfs.monitoring._capture.files import ALIVE_MAGIC, CELLS_MAGIC, SEGMENT_MAGIC, Header, pack_header
from rfs.monitoring._capture.instruments import Registry
from rfs.monitoring._capture.live import (
    ALIVE_SUFFIX,
    CELLS_SUFFIX,
    SCRUB_REQUEST,
    SEGMENT_SUFFIX,
    LiveDirectory,
    boot_id,
    free_space,
    mark_running,
)
from rfs.monitoring._capture.segments import SEGMENT_BYTES, SegmentReader, Segments, segment_layout

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
_SCRUB_SECONDS = 60
_LEFTOVER_ROUNDS = 5  # a thread that was just appending is done long before as many rounds of `mend`


class CaptureState(msgspec.Struct, frozen=True):
    """Where a process records; ``degraded`` is empty, or says why it is memory although a directory was chosen."""

    mode: Literal["directory", "memory"]
    degraded: str


class Capture:
    """
    The cells (through the registry) and segments that this process writes into.

    Args:
        service: The service's name, asked when files are made.
        on_problem: Told what keeps records and numbers in this process' memory, with its code: ``RFS-S102`` no space,
            ``RFS-S107`` no descriptor, ``RFS-S105`` anything else.

    Only ``segments.append`` and measuring are for any thread; the rest is for one at a time.
    """

    def __init__(self, registry: Registry, *, service: Callable[[], str], on_problem: Callable[[str], None]) -> None:
        self.registry = registry
        self.directory: LiveDirectory | None = None
        self.process = _new_process()
        self.degraded = ""
        self.is_scrubbing = False  # somebody waits for what was imported to be overwritten
        self._asked_ns = 0
        self._running = False
        self._said = ("", "")  # why, and how it was said
        self._service = service
        self._on_problem = on_problem
        self._planned: Path | None = None
        self._lock = -1
        self._serials = itertools.count()
        self._memories = itertools.count()
        self._leftovers: list[tuple[SegmentReader, int]] = []
        self._cells_names: dict[int, str] = {}  # number of a region → its file
        self.closed: set[str] = set()  # our files that nobody writes into any more, and that may be folded already
        self.segments: Segments | _FirstRecord
        self.memory_reader: SegmentReader | None
        self._record_in_memory()

    @property
    def state(self) -> CaptureState:
        """Where this process records now."""
        return CaptureState("memory" if self.directory is None else "directory", self.degraded)

    def attach(self, path: Path) -> None:
        """
        Record into files of the directory *path* from now on, with all that was recorded so far. Never raises.
        """
        self._planned = path
        self._enter(keep=True)

    def look_into(self, path: Path) -> None:
        """
        See the files of the directory *path*, and record into none of them.

        Raises:
            LiveDirectoryError: Others may write into it, or it is somebody else's.
            OSError: It cannot be opened.
        """
        self.directory = LiveDirectory(path)

    @property
    def path(self) -> Path | None:
        """The directory that has been chosen, if it can be used or not."""
        return self._planned

    def after_fork(self, path: Path | None) -> None:
        """In a forked child: record as a new process, with nothing of the parent's, into files of *path* if it is given."""
        self._planned = path
        self._running = False
        self._let_go()  # only closed: the lock is the parent's
        if self.directory is not None:
            self.directory.close()
            self.directory = None
        self.process = _new_process()
        self._serials = itertools.count()
        self._leftovers = []
        self._cells_names = {}
        self.closed = set()
        self._record_in_memory()
        if self._planned is None or not self._enter(keep=False):
            self.registry.move(anonymous_cells, keep=False)

    def mend(self) -> None:
        """Once a second: look whether the directory is still there, and try to leave memory again."""
        leftovers, self._leftovers = self._leftovers, []
        for reader, rounds in leftovers:
            self._take_over(reader)
            if rounds > 1:
                self._leftovers.append((reader, rounds - 1))
        if self._planned is None:
            return
        directory = self.directory
        asked_ns = 0 if directory is None else directory.modified(SCRUB_REQUEST)
        # A request that is older was left by somebody who was killed.
        self.is_scrubbing = asked_ns > time.time_ns() - _SCRUB_SECONDS * 1e9
        if self.is_scrubbing and isinstance(self.segments, Segments):
            self.segments.scrub(close=asked_ns != self._asked_ns)
        self._asked_ns = asked_ns
        if directory is not None and not (directory.intact() and directory.has(self.process + ALIVE_SUFFIX)):
            # Somebody removed the directory or our file. What is mapped is still ours: it goes on in new files.
            self._leave()
            directory = None
        was_degraded = bool(self.degraded)
        if directory is None:
            self._enter(keep=True)
        elif was_degraded and self.memory_reader is not None:
            self._record_into_files()
        waiting = self.segments
        if was_degraded and self.directory is not None:
            if isinstance(waiting, _FirstRecord):
                self.make_segment(waiting)  # now: whether there is room for it decides whether we are well
            if self.memory_reader is None:
                self.degraded = ""

    def mark_running(self, *, running: bool) -> None:
        """Say that this process is to be stopped some time, or was: one that dies in between has been killed. Never raises."""
        self._running = running
        if self._lock >= 0:
            with suppress(OSError):
                mark_running(self._lock, running=running)

    def renew(self) -> bool:
        """
        Let all labelled series go on in new cells, so that those that the registry has forgotten are left behind.

        In a directory the sums stay behind as well, and the leader folds them; in memory they come along. Returns False if
        there is no room for it: then nothing has happened.
        """
        cells = self.registry.cells
        number = cells.next_ageing()
        memory = anonymous_cells(number) if self.directory is None else self._file_of_cells(number)
        if memory is None:
            return False
        left = cells.renew(memory, number)
        self.registry.renew({id(region.cells): region.number not in self._cells_names for region in left})
        for region in left:
            del cells.regions[region.number]
            if region.number in self._cells_names:
                self.closed.add(self._cells_names.pop(region.number))
        cells.close(number)
        return True

    def close(self) -> None:
        """Say that this process is gone; what it has recorded stays for the leader. Recording goes on working."""
        self._let_go()

    def _hold(self, lock: int) -> None:
        self._lock = lock
        self._closing = finalize(self, os.close, lock)
        self._closing.atexit = False  # what is recorded until the very end is a living process'

    def _let_go(self) -> None:
        if self._lock >= 0:
            self._lock = -1
            self._closing()

    def _enter(self, *, keep: bool) -> bool:
        directory: LiveDirectory | None = None
        made: list[str] = []
        try:
            assert self._planned is not None  # noqa: S101 - the callers have made sure
            directory = LiveDirectory(self._planned)
            other = directory.other_service(self._service())
            if other is not None:
                raise other
            lock = directory.live(self.process, pack_header(ALIVE_MAGIC, self._header(0, {})))
            self._hold(lock)
            mark_running(lock, running=self._running)
            memories = {
                number: self._cells_file(directory, number, made) for number in tuple(self.registry.cells.regions)
            }
        except OSError as error:
            self._say(error)
            self._cells_names = {}
            self._let_go()
            if directory is not None:
                for name in (*made, self.process + ALIVE_SUFFIX):
                    directory.discard(name)
                directory.close()
            return False
        self.directory = directory

        def make(number: int) -> mmap:
            return memories.pop(number, None) or self._further_cells(number)

        self.registry.move(make, keep=keep)
        for name in made:
            with suppress(OSError):
                directory.publish(name)
        self.degraded = ""
        self._record_into_files()
        return True

    def _leave(self) -> None:
        self._cells_names = {}
        if self.directory is not None:
            self.directory.close()
            self.directory = None
        self._let_go()
        segments = self.segments
        if isinstance(segments, Segments) and self.memory_reader is None:
            # They are no file any more, but memory they are: their records are not lost.
            self.memory_reader = SegmentReader(segments.memory, name=segments.name)
            self.memory_reader.resume()
        self.process = _new_process()

    def _header(self, number: int, layout: dict[str, int]) -> Header:
        return Header(self.process, os.getpid(), boot_id(), self._service(), time.time_ns(), number, layout)

    def _cells_file(self, directory: LiveDirectory, number: int, made: list[str]) -> mmap:
        name = f"{self.process}.{next(self._serials)}{CELLS_SUFFIX}"
        memory = directory.create(name, FILE_BYTES, pack_header(CELLS_MAGIC, self._header(number, LAYOUT)))
        made.append(name)
        self._cells_names[number] = name
        return memory

    def _further_cells(self, number: int) -> mmap:
        # After some thousand series, once: the only file that is ever made while something is measured.
        memory = self._file_of_cells(number)
        return memory if memory is not None else anonymous_cells(number)

    def _file_of_cells(self, number: int) -> mmap | None:
        directory = self.directory
        if directory is None:
            return None
        made: list[str] = []
        try:
            memory = self._cells_file(directory, number, made)
            directory.publish(made[0])
        except OSError as error:
            self._cells_names.pop(number, None)
            self._say(error)
            return None
        return memory

    def _record_in_memory(self) -> None:
        self.segments = segments = Segments.in_memory(f"{self.process}.memory-{next(self._memories)}")
        self.memory_reader = SegmentReader(segments.memory, name=segments.name)

    def _record_into_files(self) -> None:
        reader, self.memory_reader = self.memory_reader, None
        self.segments = _FirstRecord(self)
        if reader is not None:
            reader.catch_up()  # what a leader here has imported from memory is in its store
            self._take_over(reader)
            self._leftovers.append((reader, _LEFTOVER_ROUNDS))

    def _take_over(self, reader: SegmentReader) -> None:
        for frame in reader.read():
            self.segments.append(
                frame.time_ns,
                frame.level,
                frame.flags,
                frame.correlation_id.encode(),
                frame.operation.encode(),
                frame.payload,
            )

    def make_segment(self, waiting: _FirstRecord) -> Segments:
        """In the place of *waiting*, a segment in the directory, or, if there is no room for one, in memory."""
        directory = self.directory
        if directory is not None:
            name = f"{self.process}.{next(self._serials)}{SEGMENT_SUFFIX}"
            try:
                header = pack_header(SEGMENT_MAGIC, self._header(0, segment_layout()))
                made = Segments(directory.create(name, SEGMENT_BYTES, header), name)
                if self.segments is waiting:
                    self.segments = made  # nothing calls between the two: of two first records one makes the segment
                    directory.publish(name)
                    return made
                directory.discard(name)
            except OSError as error:
                self._say(error)
        if self.segments is waiting:
            self._record_in_memory()
        return self.segments if isinstance(self.segments, Segments) else Segments.in_memory(self.process)

    def _say(self, error: OSError) -> None:
        reason = str(error) if isinstance(error, LiveDirectoryError) else f"{self._planned}: {error.strerror or error}"
        self.degraded = f"recording in this process' memory: {reason}"
        if reason != self._said[0]:  # the same words for as long as it lasts, however much is free
            code = "S102" if error.errno in _NO_SPACE else "S107" if error.errno in _NO_DESCRIPTOR else "S105"
            free = free_space(self._planned) if code == "S102" and self._planned is not None else None
            room = f" ({free[0]} bytes and {free[1]} files free)" if free is not None else ""
            self._said = reason, f"RFS-{code} {self.degraded}{room}"
        self._on_problem(self._said[1])


class _FirstRecord:
    """Stands where the segment will be, until there is something to keep in it."""

    half_full = False

    def __init__(self, capture: Capture) -> None:
        self._capture = capture

    def append(
        self, time_ns: int, level: int, flags: int, correlation_id: bytes, operation: bytes, payload: bytes
    ) -> bool:
        """Make the segment and keep the record in it; see `Segments.append`."""
        segments = self._capture.segments
        if segments is self:
            segments = self._capture.make_segment(self)
        return segments.append(time_ns, level, flags, correlation_id, operation, payload)


def _new_process() -> str:
    return f"{os.getpid()}-{os.urandom(8).hex()}"
