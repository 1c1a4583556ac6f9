"""
Cells: 8-byte sums in preallocated memory, and the directory that names them.

A counter, a gauge, a sketch bucket and the books are all cells of type float64. Adding to one is
``cells[i] = cells[i] + amount`` in code that makes no call between the read and the write: CPython
(3.10 to 3.13, with its GIL) switches threads only at calls and backward jumps, so the sum is exact
under any number of threads and there is no lock that a fork or a signal handler could find held.
The price: integers are exact up to 2**53 only.

The memory is a file that other processes map and read, or anonymous memory of the same layout: a header page (see `files`), the
directory, the cells. An entry of the directory, 8-byte aligned, is

    size u32 · crc32 u32 · cell u64 · MessagePack array, padded

and its first word is written last. Cells and entry are taken and written in one stretch without a call, so that no thread, signal
handler or exception comes between; only a killed process can leave an entry half written, and then nothing was measured in it.

Nothing is ever taken back from a file. Those from `AGEING_FROM` on hold the host's labelled series, some of which nobody will write
again, and are left behind as a whole: `Cells.renew` begins a new file, every series that is still in use goes on there, from zero,
and what is in the closed files is folded into the totals as the sums of dead processes are. Which files are closed is said by the
last word of a later one's header page: all from `AGEING_FROM` up to below that number.
"""

from __future__ import annotations

import itertools
import mmap
import os
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

import msgspec

from rfs.errors import LiveFileError
from rfs.monitoring._capture.files import CELLS_MAGIC, HEADER_BYTES, Header, pack_header, read_header
from rfs.monitoring._capture.pace import pieces

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CELL_BYTES = 8
DIRECTORY_BYTES = 128 << 10
FILE_BYTES = 512 << 10  # header, directory, and 48,640 cells; pages that nobody touches cost no memory
AGEING_FROM = 1_024  # the number of the first file of series that may be forgotten
MAX_FILES = 128  # 64 MiB: the end of the memory that cells may ever take in one process

_ENTRY_HEAD_BYTES = 16

_CLOSED_WORD = HEADER_BYTES // CELL_BYTES - 1

LAYOUT = {"directory": HEADER_BYTES, "cells": HEADER_BYTES + DIRECTORY_BYTES, "end": FILE_BYTES}

# What an entry names; the first element of its array.
METRIC = 1  # id, type, name, help, across
SERIES = 2  # metric id, [label, value, label, value, …]; cell: its first
OCTAVE = 3  # region and cell of the series, octave, negative; cell: the first of its 64 buckets
EXEMPLAR = 4  # region and cell of the series; cell: the first of its 6
FOREIGN = 5  # family, type, help, unit, sample, [label, value, …]; cell: the value, then whether it is there

# An exemplar: value, unix time in seconds, trace id (two words), span id, check. The check is the sum of the others, as words of 64
# bits times 1, 3, 5, 7, 9. Whoever reads some of the words before and some after a change, in whatever order another processor shows
# them, finds a check that does not fit, even where ids resemble one another. All zero: none yet.
EXEMPLAR_CELLS = 6

encode_entry = msgspec.msgpack.Encoder().encode
_decode_entry = msgspec.msgpack.Decoder(list[Any]).decode


Labels = tuple[tuple[str, str], ...]  # sorted by name, without empty values


class SeriesKey(NamedTuple):
    """One label set of one metric, the same in every process."""

    name: str
    labels: Labels


class Block(NamedTuple):
    """A run of cells: ``cells[at]`` to ``cells[at + n - 1]`` of a region, all zero at first."""

    cells: memoryview[float]
    at: int
    region: int


class Region:
    """The memory of one cells file, and how much of it is taken."""

    __slots__ = (
        "cell_limit",
        "cells",
        "entry_limit",
        "memory",
        "metrics",
        "next_cell",
        "next_entry",
        "number",
        "view",
        "words",
    )

    def __init__(self, memory: mmap.mmap, number: int) -> None:
        self.memory = memory
        self.number = number
        self.view = memoryview(memory)
        self.words = self.view.cast("Q")
        self.cells = self.view.cast("d")
        self.next_entry = LAYOUT["directory"]
        self.next_cell = LAYOUT["cells"] // CELL_BYTES
        self.entry_limit = LAYOUT["cells"]
        self.cell_limit = len(self.cells)
        self.metrics: dict[str, int] = {}  # name → the id of its METRIC entry in this file


class Cells:
    """
    Hands out runs of zeroed cells, each with its name in the directory, and never takes one back.

    Args:
        make: Returns the memory of file *n*, zeroed but for its header; never raises.

    Safe from any thread and from signal handlers. ``allocate`` returns None when the bound of
    memory is reached; the caller then measures into its overflow series.
    """

    __slots__ = ("_ageing", "_ageing_numbers", "_ids", "_make", "_region", "regions")

    def __init__(self, make: Callable[[int], mmap.mmap]) -> None:
        self._make = make
        self._ids = itertools.count(1)
        self._ageing_numbers = itertools.count(AGEING_FROM + 1)
        self._region = Region(make(0), 0)
        self._ageing = Region(make(AGEING_FROM), AGEING_FROM)
        self.regions = {0: self._region, AGEING_FROM: self._ageing}  # by number

    def allocate(
        self, count: int, describe: Callable[[Region], bytes], *, own: bool = False, ageing: bool = False
    ) -> Block | None:
        """
        Return *count* fresh cells, named by the entry that *describe* gives for the region; None when all memory is spent.

        The last file is for RFS's *own* books, which no label of the host crowds out. *ageing* cells are left behind by `renew`.
        """
        limit = MAX_FILES if own else MAX_FILES - 1
        while True:
            region = self._ageing if ageing else self._region
            if len(self.regions) > limit:
                return None
            block = self._take(region, count, describe(region))
            if block is not None:
                return block
            if region is not (self._ageing if ageing else self._region):
                continue
            if len(self.regions) >= limit:
                return None
            number = next(self._ageing_numbers) if ageing else region.number + 1
            fresh = Region(self._make(number), number)
            if ageing:
                if region is self._ageing:
                    self._ageing = fresh
                    self.regions[number] = fresh
            elif region is self._region:
                self._region = fresh
                self.regions[number] = fresh

    def next_ageing(self) -> int:
        """The number of the next file for ageing cells; each is given once."""
        return next(self._ageing_numbers)

    def renew(self, memory: mmap.mmap, number: int) -> list[Region]:
        """
        Hand out ageing cells of *memory*, which is file *number*, from now on; return the regions before it, which are full by that.

        Whoever asks a region for its ``entry_limit`` and finds it 0 has cells that are being left.
        """
        self._ageing = fresh = Region(memory, number)
        self.regions[number] = fresh
        left = [region for region in tuple(self.regions.values()) if AGEING_FROM <= region.number < number]
        for region in left:
            region.entry_limit = 0
        return left

    def close(self, number: int) -> None:
        """Say, where others read it, that nobody writes into the ageing cells before file *number* any more."""
        self._ageing.words[_CLOSED_WORD] = number

    def declare(self, name: str, fields: tuple[str, str, str]) -> None:
        """Name a metric that has no series yet, so that readers know it."""
        self.metric_id(self._region, name, fields)

    def metric_id(self, region: Region, name: str, fields: tuple[str, str, str]) -> int:
        """What names metric *name* (its type, help and across) in the entries of *region*."""
        known = region.metrics.get(name)
        if known is None:
            known = next(self._ids)
            type_name, help_text, across = fields
            if self._take(region, 0, encode_entry([METRIC, known, type_name, name, help_text, across])) is None:
                region.entry_limit = 0  # full: what refers to this entry must not fit either
            region.metrics[name] = known
        return known

    def _take(self, region: Region, count: int, entry: bytes) -> Block | None:
        word = crc32(entry) << 32 | len(entry)
        body = entry + bytes(-len(entry) % 8)
        needed = _ENTRY_HEAD_BYTES + len(body)
        limit = region.cell_limit
        # From here to the return nothing calls: no other thread and no signal handler gets in between.
        at = region.next_cell
        end = at + count
        start = region.next_entry
        if end > limit or start + needed > region.entry_limit:
            return None
        region.next_cell = end
        region.next_entry = start + needed
        region.view[start + _ENTRY_HEAD_BYTES : start + needed] = body
        region.words[(start >> 3) + 1] = at
        region.words[start >> 3] = word
        return Block(region.cells, at, region.number)

    def move(self, make: Callable[[int], mmap.mmap]) -> dict[int, memoryview[float]]:
        """
        Go on in other memory: the directories are copied, the cells are zero. Returns ``id(old cells)`` → new cells.

        Whoever holds old cells must take over what is in them and then use the new ones, at the same index.
        """
        made = {number: Region(make(number), number) for number in tuple(self.regions)}
        moved: dict[int, memoryview[float]] = {}
        while len(moved) < len(self.regions):
            for number in tuple(self.regions):
                if number not in made:  # another thread has just filled the last one
                    made[number] = Region(make(number), number)
                if self.regions[number] is not made[number]:
                    self._move(self.regions[number], made[number], moved)
        self._make = make
        return moved

    def _move(self, old: Region, new: Region, moved: dict[int, memoryview[float]]) -> None:
        new.metrics = old.metrics
        # In one stretch without a call: what others allocate goes before it into the old memory, after it into the new.
        taken = old.next_entry
        new.view[HEADER_BYTES:taken] = old.view[HEADER_BYTES:taken]
        new.next_entry = taken
        new.next_cell = old.next_cell
        old.entry_limit = 0
        self.regions[new.number] = new
        if old is self._region:
            self._region = new
        elif old is self._ageing:
            self._ageing = new
        moved[id(old.cells)] = new.cells


class MetricEntry(NamedTuple):
    """A metric as a process declared it."""

    type: str
    name: str
    help: str
    across: str


class Series:
    """A series as a reader finds it: where its cells are, in one process."""

    __slots__ = ("at", "cells", "exemplars", "file", "key", "metric", "octaves", "read", "together")

    def __init__(self, key: SeriesKey, metric: MetricEntry, cells: memoryview[float], at: int, file: int) -> None:
        self.key = key
        self.file = file  # its number
        self.metric = metric
        self.cells = cells
        self.at = at
        self.octaves: list[tuple[bool, int, memoryview[float], int]] = []  # negative, number, cells, first
        self.exemplars: list[tuple[memoryview[int], int]] = []  # of two threads that made one each, one writes
        # A reader's own: the last reading, and what it made with other processes' one. Most series rest most of the time.
        self.read: Any = None
        self.together: Any = None


class ForeignEntry(NamedTuple):
    """A sample of a registry that is not ours, as a process mirrors it."""

    family: str
    type: str
    help: str
    unit: str
    sample: str
    labels: Labels
    cells: memoryview[float]
    at: int


class CellsReader:
    """
    Reads the cells files of one process, also while it writes them.

    Not safe to use from two threads at once. A damaged entry is skipped and counted in ``damaged_entries``.
    """

    def __init__(self) -> None:
        self.series: list[Series] = []
        self.counters: list[Series] = []  # of these, as the following
        self.gauges: list[Series] = []
        self.sketches: list[Series] = []
        self.foreign: list[ForeignEntry] = []
        self.traced: list[Series] = []  # those with an exemplar
        self.damaged_entries = 0
        self._files: list[_File] = []
        self._by_cell: dict[tuple[int, int], Series] = {}
        self.metrics: dict[tuple[int, int], MetricEntry] = {}  # by region and id
        self._of_type = {"counter": self.counters, "gauge": self.gauges}
        self._waiting: list[tuple[_File, int, list[Any]]] = []

    def add(self, memory: mmap.mmap, name: str) -> Header:
        """
        Read one more file of the process.

        Raises:
            LiveFileError: It is no cells file that this version reads.
        """
        file = _File(memory, name)
        self._files.append(file)
        return file.header

    def names(self) -> list[str]:
        """The names of all files."""
        return [file.name for file in self._files]

    def closed(self) -> list[str]:
        """The names of the files that nobody writes any more; all they refer to is among them."""
        below = max((file.words[_CLOSED_WORD] for file in self._files), default=0)
        return [file.name for file in self._files if AGEING_FROM <= file.header.number < below]

    def lacks_files(self, *, has_begun: bool) -> bool:
        """
        Whether a file is missing: the plain ones are made one after another, and one for ageing series is always there once the process
        *has_begun*.
        """
        closed = set(self.closed())
        numbers = {file.header.number for file in self._files if file.name not in closed}
        plain = {number for number in numbers if number < AGEING_FROM}
        if not numbers:
            return has_begun
        return plain != set(range(max(1, len(plain)))) or (has_begun and plain == numbers)

    def recover(self) -> None:
        """Of a process that is dead: read on behind what is damaged. (A living one may be writing there.)"""
        self.refresh()
        self.refresh()  # what was doubtful is damaged
        while sum(file.skip_damage() for file in self._files):
            self.refresh()

    def open_series(self) -> list[Series]:
        """The series that are not in closed files."""
        below = max((file.words[_CLOSED_WORD] for file in self._files), default=0)
        return [series for series in self.series if not AGEING_FROM <= series.file < below]

    def refresh(self) -> None:
        """Find what has been named since the last time."""
        for file in self._files:
            if file.words[file.read_to >> 3]:
                for piece in pieces(file.entries()):
                    for at, entry in piece:
                        self._take(file, at, entry)
                self.damaged_entries = sum(each.damaged for each in self._files)
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for owner, at, entry in waiting:
                self._take(owner, at, entry)

    def _take(self, file: _File, at: int, entry: Sequence[Any]) -> None:
        number = file.header.number
        kind = entry[0]
        if kind == METRIC:
            self.metrics[number, entry[1]] = MetricEntry(*entry[2:6])
        elif kind == SERIES:
            metric = self.metrics.get((number, entry[1]))
            if metric is None:
                file.damaged += 1
                return
            series = Series(SeriesKey(metric.name, _pairs(entry[2])), metric, file.cells, at, number)
            self._by_cell[number, at] = series
            self.series.append(series)
            self._of_type.get(metric.type, self.sketches).append(series)
        elif kind in (OCTAVE, EXEMPLAR):
            owner = self._by_cell.get((entry[1], entry[2]))
            if owner is None:
                self._waiting.append((file, at, list(entry)))  # of a series in a file that is not read yet
            elif kind == OCTAVE:
                owner.octaves.append((entry[4], entry[3], file.cells, at))
            elif at + EXEMPLAR_CELLS <= len(file.words):
                if not owner.exemplars:
                    self.traced.append(owner)
                owner.exemplars.append((file.words, at))
        elif kind == FOREIGN:
            with suppress(TypeError, ValueError):  # of another shape than this version knows: left out
                family, type_name, help_text, unit, sample, labels = entry[1:7]
                if at + 1 < len(file.cells):
                    found = ForeignEntry(family, type_name, help_text, unit, sample, _pairs(labels), file.cells, at)
                    self.foreign.append(found)
        # An entry of a kind that this version does not know belongs to a newer one, which reads it.


class _File:
    """One cells file under a reader, and how far its directory has been read."""

    __slots__ = ("_doubtful", "_limit", "cells", "damaged", "header", "name", "read_to", "view", "words")

    def __init__(self, memory: mmap.mmap, name: str) -> None:
        self.name = name
        self.view = memoryview(memory)
        self.header = header = read_header(self.view, CELLS_MAGIC, name)
        directory, cells, end = (header.layout.get(key, 0) for key in ("directory", "cells", "end"))
        if not HEADER_BYTES <= directory < cells <= end <= len(self.view) or (directory | cells | end) % CELL_BYTES:
            raise LiveFileError(name, f"has a layout that does not fit its {len(self.view)} bytes: {header.layout}")
        self.words = self.view[:end].cast("Q")
        self.cells = self.view[:end].cast("d")
        self.read_to = directory
        self.damaged = 0
        self._limit = cells
        self._doubtful = 0

    def entries(self) -> Iterator[tuple[int, list[Any]]]:
        """The entries from ``read_to`` on, which moves; with the cell that each names."""
        words, view, start, limit = self.words, self.view, self.read_to, self._limit
        while start + _ENTRY_HEAD_BYTES <= limit:
            word = words[start >> 3]
            size = word & 0xFFFFFFFF
            body = start + _ENTRY_HEAD_BYTES
            if not word or body + size > limit:
                break  # nothing more yet; or a damaged size, behind which nothing can be found
            payload = bytes(view[body : body + size])
            at = words[(start >> 3) + 1]
            entry: object = None
            if crc32(payload) == word >> 32 and at < len(words):
                with suppress(msgspec.DecodeError):
                    entry = _decode_entry(payload)
            elif self._doubtful != start:
                self._doubtful = start  # another processor may not have shown us all of it yet
                break
            following = body + (size + 7 & ~7)
            if isinstance(entry, list) and entry:
                self.read_to = start = following
                yield at, entry
            else:
                self.read_to = start = self._whole_behind(start) or following  # its size may be what is damaged
                self.damaged += 1

    def skip_damage(self) -> bool:
        """Whether a whole entry is behind where reading has stopped: it goes on there."""
        found = self._whole_behind(self.read_to)
        if found:
            self.read_to = found
            self.damaged += 1
        return bool(found)

    def _whole_behind(self, at: int) -> int:
        """Where the next whole entry begins; 0 if there is none."""
        words, view, limit = self.words, self.view, self._limit
        for start in range(at + CELL_BYTES, limit - _ENTRY_HEAD_BYTES, CELL_BYTES):
            word = words[start >> 3]
            body, size = start + _ENTRY_HEAD_BYTES, word & 0xFFFFFFFF
            if size and body + size <= limit and crc32(view[body : body + size]) == word >> 32:
                return start
        return 0


def anonymous_cells(number: int) -> mmap.mmap:
    """Memory for a region that no other process reads."""
    # MAP_PRIVATE: after a fork the child's additions are its own.
    memory = mmap.mmap(-1, FILE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    header = pack_header(CELLS_MAGIC, Header("memory", os.getpid(), "", "", 0, number, LAYOUT))
    memory[: len(header)] = header
    return memory


def _pairs(flat: Sequence[str]) -> Labels:
    return tuple(zip(flat[::2], flat[1::2], strict=True))
