"""
The live files of all processes, read as one: totals and records, from any process at any instant.

The total of a counter is what living and dead processes have in their cells files, plus what has been folded. Folding
a dead process moves its sums into the file ``totals-<epoch>`` and its copy (see `_folded`) and names it there, each in one rename;
then its files go. A reader takes the folded sums, then the files of all processes that are not named in them, then looks whether the
folded sums are still the same: so each process counts exactly once, whatever the leader does meanwhile. Cells files that a living
process has closed (see `cells`) are folded in the same way, each under its own name.

A series with labels that no process has any more, because all have forgotten it or an hour ago the last one died, is dropped from
the totals. It ends as if its service had: should it come back, it begins at zero, which is what readers of counters are made for.
Its sum could not be kept for ever, and dropping it earlier, while some process still has it, would make it go backwards.

Only the totals of the highest epoch count. A leader that was stopped and comes back writes those of its own, which nobody
reads any more; and it removes no file before it has seen that its epoch is still the highest.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Collection, Iterable
from collections.abc import Set as AbstractSet
from contextlib import suppress
from enum import IntEnum
from functools import lru_cache
from itertools import chain
from math import inf
from typing import NamedTuple

import msgspec

from rfs.errors import LiveFileError
from rfs.monitoring._capture.capture import Capture
from rfs.monitoring._capture.cells import EXEMPLAR_CELLS, CellsReader, MetricEntry, Region, Series, SeriesKey
from rfs.monitoring._capture.files import HEADER_BYTES
from rfs.monitoring._capture.instruments import IDLE_SECONDS, MetricType, may_be_forgotten
from rfs.monitoring._capture.live import (
    ALIVE_SUFFIX,
    CELLS_SUFFIX,
    SEGMENT_SUFFIX,
    LiveDirectory,
    is_locked,
    process_of,
    release_lock,
    take_lock,
    was_running,
)
from rfs.monitoring._capture.pace import pieces
from rfs.monitoring._capture.readings import NOTHING_READ, Octave, SketchReading
from rfs.monitoring._capture.segments import Frame, Mark, Run, SegmentReader, Segments, Waiting
from rfs.monitoring._capture.sketch import BUCKETS_PER_OCTAVE
from rfs.monitoring._folded import (
    COPY,
    COPY_IS_USED,
    TOTALS,
    Folded,
    FoldedFiles,
    folded_names,
    pack_folded,
    read_folded,
    set_aside,
    unpack_folded,
)
from rfs.monitoring._foreign import MAX_FOLDED_SAMPLES, REFUSED, ForeignSums
from rfs.monitoring._totals import Exemplar, Metric, Totals

LEASE_SECONDS = 1.5
MAX_LEFT_SERIES = 20_000  # with labels, and of dead processes alone; the longest dead go first
# Of what a leader has imported before we came, so much is read again: as much as the store in memory keeps, the newest first.
READ_AGAIN_BYTES = 16 << 20
MAX_DEAD_SEGMENTS = (
    8  # segments of dead processes that stay readable where no store on disk has them; the oldest go first
)
HELD_BYTES = (
    16 << 20
)  # of records that no chunk has yet, so much is held; what is beyond is read anew for each question
CORRUPT = SeriesKey("rfs_corrupt_frames_total", (("file", "segment"),))
PRODUCED = SeriesKey("rfs_produced_total", (("signal", "records"),))
LEADER = "leader-"
ALERTS = "alerts-"  # what the leader of an epoch tells of alerts, see `_standing`
_HEARTBEAT_AT = 1024
_WRITTEN_AT = _HEARTBEAT_AT + 8  # a byte that is 0 until a leader has written to the store; older leaders have none
_UNABLE_AT = _WRITTEN_AT + 1  # a byte that is 1 once the leader has found that it cannot
_PRECEDENCE_AT = _UNABLE_AT + 1  # a byte: the `Precedence` of the leader
_WANTED_AT = _PRECEDENCE_AT + 1  # when one of a higher one has last asked for the lead, by CLOCK_MONOTONIC
_WANTED_BY_AT = _WANTED_AT + 8  # and a byte: that one's
_EXEMPLAR_TRIES = 3  # it changes once a second
_LEADER_BYTES = _WANTED_BY_AT + 1
WINDOWS_AT = _LEADER_BYTES + 7 & ~7  # how many windows the store has had, u64; older leaders have none
_ASK_AGAIN_SECONDS = 60.0  # after the lead was handed over to a process that then could not make the file of its epoch
_WORDS = struct.Struct("=QQ")
_DOUBLES = struct.Struct("=dd")
_TABLE_BYTES = 2 * HEADER_BYTES


class Precedence(IntEnum):
    """Who leads where several could: of two, the higher one."""

    WORKER = 0
    HELPER = 1  # a process that a worker has started to lead for it
    SERVER = 2  # ``rfs serve``


class Leadership(NamedTuple):
    """Who leads; in epoch 0 it is not known, or it is this process itself because it records in memory."""

    epoch: int
    pid: int
    process: str
    is_self: bool


_NOBODY = Leadership(0, 0, "", is_self=False)


class Killed(NamedTuple):
    """A process that has died without having been stopped: how many records of it were found, and how many are missing."""

    process: str
    pid: int
    records: int
    lost: int


class Pending(NamedTuple):
    """Records that are not marked as imported, and the marks to be set once all of them are kept: see `LiveReader.pending`."""

    runs: list[Run]
    marks: dict[str, list[Mark]]  # per segment
    is_all: bool  # not cut off at the limit


_encode = msgspec.msgpack.Encoder().encode
_decode_leader = msgspec.msgpack.Decoder(tuple[str, int]).decode


class _Process:
    """What is mapped of another process."""

    def __init__(self) -> None:
        self.cells = CellsReader()
        self.segments: dict[str, SegmentReader] = {}
        self.unread: list[str] = []  # segments that nobody has asked for yet: a scrape needs none
        self.watch = -1
        self.names: set[str] = set()
        self.is_newer = False  # it has files that only a newer version can read

    def alive(self) -> bool:
        return self.watch >= 0 and is_locked(self.watch)

    def lacks_cells(self) -> bool:
        """Whether it has been mapped without a file that there must be."""
        return self.watch >= 0 and self.cells.lacks_files(has_begun=bool(self.segments or self.unread))

    def fault(self) -> str:
        """What of a dead process is not there any more, or cannot be read; empty if all is."""
        self.cells.recover()
        if self.lacks_cells():
            return "a file of its sums is missing or cannot be read"
        if self.cells.damaged_entries:
            return f"{self.cells.damaged_entries} of its series are damaged"
        if not self.segments and records_kept(self.cells.series) > 0:
            return "the file of its records is missing or cannot be read"
        return ""

    def close(self) -> None:
        if self.watch >= 0:
            os.close(self.watch)
            self.watch = -1


class LiveReader:
    """
    Reads what all processes of *capture*'s directory record; in memory mode, this process alone.

    Args:
        on_problem: Told once of each live file that is damaged (``S113``) or of a newer version (``S112``), and left out.

    Not safe to use from two threads at once.
    """

    def __init__(self, capture: Capture, on_problem: Callable[[str, str], None] = lambda _code, _text: None) -> None:
        self._capture = capture
        self._on_problem = on_problem
        self.refused: dict[str, str] = {}  # files that are there and cannot be read, and why
        self.after_fork()

    def after_fork(self) -> None:
        """In a forked child: nothing is mapped yet."""
        self._processes: dict[str, _Process] = {}
        self._taken: set[str] = set()
        self._own = CellsReader()
        self._own_regions: list[Region] = []
        self._own_segment: tuple[object, SegmentReader] | None = None
        self._forget_folded()
        self._is_blind = False  # there are files that could not be read, and may have series
        self._directory: LiveDirectory | None = None

    def forget_files(self) -> None:
        """Let go of all files, for one who led, and will seldom be asked now: they are mapped again when it is."""
        for process in self._processes.values():
            process.close()
        self._processes = {}
        self._own = CellsReader()
        self._own_regions = []

    def _forget_folded(self) -> None:
        self._folded_in: LiveDirectory | None = self._capture.directory
        self._folded_identity: tuple[int, ...] = ()
        self._folded_faults: dict[str, str] = {}
        self._generation = self._wrote = 0  # that was read last; the epoch whose files this reader has written
        self._is_short = False  # what is folded is not all of it, for neither file can be read
        self._is_safe = False  # both files have it
        self._hold(Folded())

    def _hold(self, folded: Folded) -> None:
        self._folded = folded
        self._folded_counters = {SeriesKey(name, labels): value for name, labels, value in folded.counters}
        self._folded_sketches = {SeriesKey(name, labels): value for name, labels, value in folded.sketches}
        self._left = {SeriesKey(name, labels): since for name, labels, since in folded.left}

    # Cells

    def read(self) -> Totals:
        """The totals of this instant."""
        while True:
            identity = self._load_folded()
            self.refresh()
            totals = self._add_up()
            if self._identify_folded() == identity:
                return totals

    @property
    def is_whole(self) -> bool:
        """Whether the last reading had all files: one that cannot be read may hold series that then seem to be gone."""
        return not (self._is_blind or self._is_short)

    @property
    def is_short(self) -> bool:
        """Whether the sums of dead processes cannot be read now."""
        self._load_folded()
        return self._is_short

    def others(self) -> Totals:
        """What all but this process have measured so far."""
        self._load_folded()
        self.refresh()
        return self._add_up(own=False)

    def living(self) -> int:
        """How many processes are alive, this one included; as of the last reading."""
        return 1 + sum(process.alive() for process in self._processes.values())

    def _count_damage(self, totals: Totals, readers: Iterable[SegmentReader]) -> int:
        damaged = sum(reader.corrupt_frames for reader in readers)
        if damaged:
            totals.counters[CORRUPT] = totals.counters.get(CORRUPT, 0.0) + damaged
        return damaged

    def _add_up(self, *, own: bool = True) -> Totals:
        totals = Totals({}, dict(self._folded_counters), {}, dict(self._folded_sketches), {}, [], self._is_short)
        for name, type_name, help_text in self._folded.metrics:
            totals.metrics[name] = Metric(name, MetricType(type_name), help_text)
        gauges: dict[SeriesKey, dict[str, tuple[float, float, str]]] = {}
        foreign = ForeignSums(self._folded.foreign)
        across: dict[str, str] = {}
        folded = set(self._folded.processes)
        sources = [(process, str(one)) for one, process in self._processes.items() if one not in folded]
        for reader, name, alive in (
            *([(self._own, self._capture.process, True)] if own else []),
            *((process.cells, name, process.alive()) for process, name in sources),
        ):
            reader.refresh()
            add_cells(totals, reader)
            add_exemplars(totals, reader)
            foreign.add(reader.foreign, name.partition("-")[0] if alive else None)
            if alive:
                for series in reader.gauges:
                    written_at = series.cells[series.at + 1]
                    if written_at:
                        across[series.key.name] = series.metric.across
                        by_process = gauges.setdefault(series.key, {})
                        # A series that has gone elsewhere is there twice for a moment.
                        if name not in by_process or written_at >= by_process[name][0]:
                            by_process[name] = written_at, series.cells[series.at], name.partition("-")[0]
        totals.foreign = foreign.families()
        for process, _ in sources:
            if process.watch >= 0:  # else it was folded, its damage too, and only its segment is left
                self._count_damage(totals, process.segments.values())
        if own:
            self._count_damage(totals, self._own_segments())
        # In the order of their last writes, so that the last of several series is the latest.
        for key, values in sorted(gauges.items(), key=lambda item: max(item[1].values())[0]):
            _merge_gauge(totals, key, list(values.values()), across[key.name])
        return totals

    def refresh(self) -> None:
        """Find the files that have come and gone; for `records`, which reads those that are known."""
        regions = list(self._capture.registry.cells.regions.values())
        if len(regions) != len(self._own_regions) or any(
            one is not other for one, other in zip(regions, self._own_regions, strict=False)
        ):
            self._own = CellsReader()
            self._own_regions = regions
            for region in self._own_regions:
                self._own.add(region.memory, "own cells")
        directory = self._capture.directory
        if directory is not self._directory:
            for process in self._processes.values():
                process.close()
            self._processes = {}
            self._directory = directory
        if directory is None:
            return
        own = self._capture.process
        names = directory.names()
        there: dict[str, set[str]] = {}
        folded = set(self._folded.files)
        closed = self._capture.closed  # ours, but read as others read them
        for name in sorted(names):
            one = process_of(name)
            if (
                (one != own or name in closed)
                and "-" in one
                and name.endswith((ALIVE_SUFFIX, CELLS_SUFFIX, SEGMENT_SUFFIX))
                and name not in folded
            ):
                there.setdefault(one, set()).add(name)
        closed.intersection_update(names)
        for one, files in there.items():
            process = self._processes.setdefault(one, _Process())
            if any(name.endswith(CELLS_SUFFIX) for name in process.names - files):  # folded: the others are read anew
                process.cells = CellsReader()
                process.names = {name for name in process.names & files if not name.endswith(CELLS_SUFFIX)}
            for name in files - process.names:
                process.names.add(name)
                if name.endswith(SEGMENT_SUFFIX):
                    process.unread.append(name)
                else:
                    self._map(directory, process, name)
        self.refused = {name: fault for name, fault in self.refused.items() if name in names}
        self._is_blind = (
            any(not name.endswith(SEGMENT_SUFFIX) for name in self.refused)
            or any(files - self._processes[one].names for one, files in there.items())
            or self._are_lacking(self._folded.processes)
        )
        for one, process in tuple(self._processes.items()):
            files = there.get(one, set())
            if not files:
                self._processes.pop(one).close()
            elif not any(name.endswith((ALIVE_SUFFIX, CELLS_SUFFIX)) for name in files):
                # Folded: only its segment is left, which stays readable for a while. (One that has just begun is alive
                # before its cells are in sight.)
                process.cells = CellsReader()
                process.names &= files
                process.close()

    def _map(self, directory: LiveDirectory, process: _Process, name: str) -> None:
        try:
            if name.endswith(ALIVE_SUFFIX):
                process.watch = directory.watch(name)
            elif name.endswith(CELLS_SUFFIX):
                process.cells.add(directory.map(name), name)
            else:
                process.segments[name] = SegmentReader(directory.map(name), name=name)
        except OSError:
            process.names.discard(name)  # it is gone, or nothing is left to map it with: tried again the next time
        except LiveFileError as error:
            process.is_newer = process.is_newer or error.is_newer
            self._refuse(name, error, "S112" if error.is_newer else "S113")

    def _refuse(self, name: str, error: Exception, code: str = "S113") -> None:
        if name not in self.refused:
            self._on_problem(code, f"live file {name} is left out: {error}")
        self.refused[name] = str(error)

    def _identify_folded(self) -> tuple[int, ...]:
        directory = self._capture.directory
        if directory is None:
            return ()
        epoch = highest_epoch(directory.names(), TOTALS)
        if not epoch:
            return ()
        return epoch, *(part for name in folded_names(epoch) for part in directory.identify(name))

    def _load_folded(self) -> tuple[int, ...]:
        directory = self._capture.directory
        if directory is not self._folded_in:
            self._forget_folded()
        while True:
            identity = self._identify_folded()
            if identity == self._folded_identity or directory is None:
                return identity
            found = read_folded(directory, identity[0]) if identity else FoldedFiles(None, 0, {}, is_safe=False)
            if found is None:
                continue  # the next leader has just replaced them
            # Generations of an epoch rise. A lower one is an old file that somebody has put there.
            is_old = identity[:1] == self._folded_identity[:1] and found.generation < self._generation
            is_lost = found.folded is None or is_old
            # The leader who writes them knows what was in them; of others what they have read last is the most that is known.
            self._is_short = is_lost and self._wrote != (identity or self._folded_identity)[0]
            self._is_safe = found.is_safe and not is_lost
            for name, fault in found.faults.items():
                if name not in self._folded_faults:
                    rest = "what else is known of its sums stands in for it" if is_lost else COPY_IS_USED
                    self._on_problem("S113", f"live file {name} is left out: it {fault}; {rest}")
            self._folded_faults = found.faults
            self._folded_identity = identity
            if found.folded is not None and not is_lost:
                self._generation = found.generation
                self._hold(found.folded)

    # Records: either `records` and `mark_imported`, or `pending`, `mark` and `waiting`

    def records(self) -> list[Frame]:
        """The records of all processes since the last time, in order of time; for a store in memory."""
        if self._directory is not None:
            self._map_segments(self._directory, READ_AGAIN_BYTES)
        found = [reader.read() for reader in self._segments()]
        for process in self._processes.values():
            if process.segments and not process.alive():
                found += [reader.finish() for reader in process.segments.values()]
        return found[0] if len(found) == 1 else sorted(chain.from_iterable(found), key=_time_of)

    def pending(self, limit_bytes: int) -> Pending:
        """
        The records of all processes that are not marked as imported, about *limit_bytes* of them; for the leader of a store on disk.

        Each record has the same place in every process.
        """
        found: list[Run] = []
        marks: dict[str, list[Mark]] = {}
        for reader, is_dead in self._mapped_segments():
            runs = reader.unimported(limit_bytes, is_dead=is_dead)
            limit_bytes -= sum(run.end - run.offsets[0] for run in runs)
            found += runs
            ours = reader.marks()
            if ours:
                marks[reader.name] = ours
        return Pending(found, marks, is_all=limit_bytes > 0)

    def waiting(self, text: bytes = b"", held_bytes: int = HELD_BYTES) -> Waiting:
        """
        All records of all processes that are not marked as imported, or, of those that are not held yet, those with *text*; for
        whoever asks.

        What was recorded before `refresh` and is not in here was in a chunk, and synced, before this was called. Without a text,
        about *held_bytes* are held from one question to the next: to look for a text is quicker than to read.
        """
        held: list[Run] = []
        beyond: list[tuple[SegmentReader, bool]] = []
        for reader, is_dead in self._mapped_segments():
            runs = reader.unimported(0 if text else held_bytes, is_dead=is_dead)
            held_bytes -= sum(run.end - run.offsets[0] for run in runs)
            held += runs
            if (text or held_bytes <= 0) and not reader.is_exhausted:
                beyond.append((reader.probe(), is_dead))
        return Waiting(held, beyond, text)

    def _mapped_segments(self) -> list[tuple[SegmentReader, bool]]:
        if self._directory is not None:
            self._map_segments(self._directory, 0)
        return self._known_segments()

    def _known_segments(self) -> list[tuple[SegmentReader, bool]]:
        """All segments, and whether the process is dead."""
        found: list[tuple[SegmentReader, bool]] = []
        for process in self._processes.values():
            if process.segments:
                is_dead = not process.alive()
                found += [(reader, is_dead) for reader in process.segments.values()]
        own = self._own_reader()
        return found if own is None else [*found, (own, False)]

    def _map_segments(self, directory: LiveDirectory, room: int) -> None:
        found = [(process, name) for process in self._processes.values() for name in process.unread]
        if len(found) > 1:
            found.sort(key=lambda each: directory.modified(each[1]), reverse=True)
        for process, name in found:
            process.unread.remove(name)
            self._map(directory, process, name)
            reader = process.segments.get(name)
            if reader is not None and room > 0:
                room -= reader.used_bytes
            elif reader is not None:
                reader.resume()

    def _segments(self) -> list[SegmentReader]:
        others = [reader for process in self._processes.values() for reader in process.segments.values()]
        return others + self._own_segments()

    def _own_segments(self) -> list[SegmentReader]:
        if self._capture.memory_reader is not None:
            return [self._capture.memory_reader]
        own = self._own_reader()
        return [] if own is None else [own]

    def _own_reader(self) -> SegmentReader | None:
        # Not the one of `Capture`: where that stands, the capture goes on when it takes records from memory into a file.
        segments = self._capture.segments
        if not isinstance(segments, Segments):
            return None
        if self._own_segment is None or self._own_segment[0] is not segments.memory:
            self._own_segment = segments.memory, SegmentReader(segments.memory, name=segments.name)
        return self._own_segment[1]

    def mark_imported(self) -> int:
        """The leader's part: publish what `records` has returned, so that it may be overwritten; return how many are new."""
        directory = self._capture.directory
        marked = 0
        for process in self._processes.values():
            for name, reader in process.segments.items():
                if directory is not None and reader.unmarked:
                    with suppress(OSError, LiveFileError):
                        marked += reader.mark_imported(directory.map(name, writable=True))
        capture = self._capture
        if capture.memory_reader is not None:
            marked += capture.memory_reader.mark_imported()
        elif self._own_segment is not None:
            marked += self._own_segment[1].mark_imported()
        return marked

    def mark(self, pending: Pending) -> int:
        """The leader's part: publish that all records of *pending* are kept, and nothing read since; return how many are new."""
        directory = self._capture.directory
        own = self._own_segment[1] if self._own_segment is not None else None
        marked = 0
        for name, marks in pending.marks.items():
            if own is not None and name == own.name:
                marked += own.mark_imported(marks=marks)
            elif directory is not None:
                for process in tuple(self._processes.values()):
                    if name in process.segments:
                        with suppress(OSError, LiveFileError):  # it is gone, or tried again the next time
                            marked += process.segments[name].mark_imported(directory.map(name, writable=True), marks)
        return marked

    # Folding

    def hurt(self, dead: Iterable[str]) -> dict[str, str]:
        """Which of the *dead* have not left all that they had, and why."""
        found = {one: process.fault() for one in dead if (process := self._processes.get(one)) is not None}
        return {one: fault for one, fault in found.items() if fault}

    def take_dead(self) -> list[str]:
        """
        The leader's part: the processes that are dead, each now ours to fold. They make no more files and records.

        Those of a newer version are left to a leader of that version.
        """
        known = set(self._folded.processes)
        taken = [
            one
            for one, process in self._processes.items()
            if one not in known and not process.is_newer and process.watch >= 0 and take_lock(process.watch)
        ]
        self._taken.update(taken)
        return taken

    def leave_dead(self) -> None:
        """When another process leads: let it have the dead that were taken here, and are not folded yet."""
        for one in self._taken:
            process = self._processes.get(one)
            if process is not None and process.watch >= 0:
                release_lock(process.watch)
        self._taken.clear()

    def fold(
        self,
        taken: list[str],
        lease: Lease,
        lost: SeriesKey,
        now: float,
        *,
        lacked: Totals | None = None,
        in_flight: float = 0.0,
        is_imported: bool = False,
    ) -> list[Killed]:
        """
        The leader's part: add the sums of the dead and of closed files to the folded ones, each exactly once, and remove the files.

        If one file of the folded sums is damaged, both are written anew. If both are, totals are short; then *lacked* is what is known
        beyond these, and becomes part of the folded sums. Without it nothing is done. Likewise where dead ones are `hurt`; *in_flight* is
        then how many records are on their way, which is the most that those can have lost. It is less than none if they have not
        left how many they had produced.

        *lost* is the counter of records that were begun and not committed, *now* the monotonic clock. Call it after `refresh` and
        `records` or `pending`, which have found the last that *taken* have left; who has left more than the limit is folded later.
        *is_imported*: what is marked is in a store on disk, so segments of the dead go when all of them is marked. Return those that
        were killed.
        """
        directory = self._capture.directory
        killed: list[Killed] = []
        if directory is None or not lease.held:
            return killed
        self._load_folded()
        if self._is_short and lacked is None:
            return killed
        self.refresh()  # what the totals have of living processes' files is not to be folded twice
        names = directory.names()
        there = {process_of(name) for name in names if not name.endswith(SEGMENT_SUFFIX)}
        known = set(self._folded.processes)
        dead = {
            one: process
            for one in taken
            if one in there
            and one not in known
            and (process := self._processes.get(one)) is not None
            and all(reader.is_exhausted for reader in process.segments.values())
        }
        hurt = self.hurt(dead)
        if hurt and (lacked is None or self._is_blind_beside(hurt)):
            dead = {one: process for one, process in dead.items() if one not in hurt}
            hurt = {}
        finished = {one for one in known if one not in there}
        closed = self._closed_files(directory, known | dead.keys())
        files = [name for name in self._folded.files if name in names]
        due = not self._is_blind and any(now - since >= IDLE_SECONDS for since in self._left.values())
        is_own = self._folded_identity[:1] == (lease.epoch,)
        is_safe = is_own and self._is_safe
        if is_safe and not (dead or finished or closed or due) and len(files) == len(self._folded.files):
            self._remove(lease, directory, known & there, files, is_imported=is_imported)
            return killed
        totals = Totals({}, dict(self._folded_counters), {}, dict(self._folded_sketches), {}, [])
        for name, type_name, help_text in self._folded.metrics:
            totals.metrics[name] = Metric(name, MetricType(type_name), help_text)
        if (self._is_short or hurt) and lacked is not None:
            totals = totals.plus(lacked)
        foreign = ForeignSums(self._folded.foreign)
        for name, process in dead.items():
            process.cells.refresh()
            add_cells(totals, process.cells)
            refused = foreign.add(process.cells.foreign, None, limit=MAX_FOLDED_SAMPLES)
            if refused:
                totals.counters[REFUSED] = totals.counters.get(REFUSED, 0.0) + refused
            found = sum(reader.total_frames for reader in process.segments.values())
            damaged = self._count_damage(totals, process.segments.values())
            missing = max(0, int(records_kept(process.cells.series)) - found - damaged)
            if name in hurt:  # how many of them are in the store is not known any more
                missing = min(missing, max(0, int(in_flight)))
                in_flight -= missing
            if missing:
                totals.counters[lost] = totals.counters.get(lost, 0.0) + missing
            if was_running(process.watch):
                killed.append(Killed(name, int(name.partition("-")[0]), found, missing))
        if hurt and in_flight < 0:  # what was delivered had been produced
            totals.counters[PRODUCED] = totals.counters.get(PRODUCED, 0.0) - in_flight
        for reader in closed:
            add_cells(totals, reader)
            files += reader.names()
        left = self._drop_left(totals, known | dead.keys(), closed, now)
        folded = Folded(
            processes=[*(known - finished), *dead],
            metrics=[(metric.name, metric.type, metric.help) for metric in totals.metrics.values()],
            counters=[(key.name, key.labels, value) for key, value in totals.counters.items()],
            sketches=[(key.name, key.labels, value) for key, value in totals.sketches.items()],
            foreign=foreign.folded(),
            files=files,
            left=[(key.name, key.labels, since) for key, since in left.items()],
        )
        self._write_folded(directory, lease.epoch, folded)
        for name, fault in hurt.items():
            self._on_problem("S113", f"process {name} is dead, and {fault}; what it had measured last may be missing")
        self._remove(lease, directory, set(folded.processes), files, is_imported=is_imported)
        return killed

    def _is_blind_beside(self, hurt: Collection[str]) -> bool:
        """Whether files of others than these dead cannot be read: what is missing is not all of these."""
        others = (name for name in self.refused if process_of(name) not in hurt)
        return any(not name.endswith(SEGMENT_SUFFIX) for name in others) or self._are_lacking(
            {*hurt, *self._folded.processes}
        )

    def _are_lacking(self, passed_over: Collection[str]) -> bool:
        """Whether others than these have cells that are not there."""
        return any(process.lacks_cells() for one, process in self._processes.items() if one not in passed_over)

    def _write_folded(self, directory: LiveDirectory, epoch: int, folded: Folded) -> None:
        for name, fault in self._folded_faults.items():
            self._set_aside(directory, name, fault)
        if self._is_short:
            self._on_problem(
                "S113",
                f"the sums of dead processes are made anew of what is known, in {len(folded.counters) + len(folded.sketches)} series:"
                " what the last second added, and what was prometheus_client's, may be missing",
            )
        content = pack_folded(folded, self._generation + 1)
        for name in folded_names(epoch):
            directory.write(name, [content])
        identity = self._identify_folded()
        if identity[:1] == (epoch,):  # else another has followed
            self._generation, held = unpack_folded(content, f"{TOTALS}{epoch}")
            self._hold(held)
            self._folded_identity, self._wrote = identity, epoch
            self._folded_faults, self._is_short, self._is_safe = {}, False, True

    def _set_aside(self, directory: LiveDirectory, name: str, fault: str) -> None:
        from rfs.monitoring._store.records import QUARANTINE
        from rfs.monitoring._store.sealing import STORE  # which bring zstandard

        if self._capture.path is not None:
            folder = self._capture.path / STORE / QUARANTINE
            with suppress(OSError):  # a full disk must not keep the sums from being whole again
                set_aside(directory, name, folder)
                self._on_problem("S113", f"live file {name} {fault}; set aside in {folder}")

    def _closed_files(self, directory: LiveDirectory, gone: AbstractSet[str]) -> list[CellsReader]:
        """The closed files of every process that is not *gone* as a whole, not yet folded."""
        found: list[CellsReader] = []
        for one, process in self._processes.items():
            names = process.cells.names() if one == self._capture.process else process.cells.closed()
            if names and one not in gone:
                reader = CellsReader()
                try:
                    for name in names:
                        reader.add(directory.map(name), name)
                except (OSError, LiveFileError):
                    continue  # all of them or none, since they refer to one another: the next time
                reader.refresh()
                found.append(reader)
        return found

    def _drop_left(
        self, totals: Totals, gone: AbstractSet[str], closed: list[CellsReader], now: float
    ) -> dict[SeriesKey, float]:
        """Drop the series that nobody has had for an hour from *totals*; return the others that nobody has, and since when."""
        self.refresh()
        self._own.refresh()
        had = {series.key for series in self._own.series}
        for one, process in self._processes.items():
            if one not in gone and one != self._capture.process:  # of this one only closed files are there
                process.cells.refresh()
                had.update(series.key for series in process.cells.open_series())
        left = {key: min(since, now) for key, since in self._left.items() if key not in had}
        for reader in closed:
            for series in reader.series:
                if series.key not in had:  # forgotten: the process has seen it rest for an hour
                    left.setdefault(series.key, now - IDLE_SECONDS)
        for key in (*totals.counters, *totals.sketches):
            if key not in had and may_be_forgotten(key):
                left.setdefault(key, now)
        if self._is_blind:  # whatever we cannot see may be in use there
            return left
        dropped = {key for key, since in left.items() if now - since >= IDLE_SECONDS}
        dropped.update(sorted(left, key=left.__getitem__)[: max(0, len(left) - MAX_LEFT_SERIES)])
        for key in dropped:
            totals.counters.pop(key, None)
            totals.sketches.pop(key, None)
            del left[key]
        return left

    def _remove(
        self, lease: Lease, directory: LiveDirectory, folded: set[str], files: list[str], *, is_imported: bool
    ) -> None:
        names = directory.names()
        if not lease.still_highest(names):
            return
        for name in names:
            if (
                (process_of(name) in folded and not name.endswith(SEGMENT_SUFFIX))
                or name in files
                or (name.startswith((TOTALS, LEADER, ALERTS)) and _epoch_of(name) < lease.epoch)
            ):
                directory.unlink(name)
        alive = {process_of(name) for name in names if name.endswith(ALIVE_SUFFIX)} - folded
        read = {name: reader for process in self._processes.values() for name, reader in process.segments.items()}
        dead = [name for name in names if name in read and process_of(name) not in alive]
        if is_imported:
            dead = [name for name in dead if read[name].is_exhausted and not read[name].marks()]
        else:
            dead.sort(key=directory.modified)
            del dead[max(0, len(dead) - MAX_DEAD_SEGMENTS) :]
        for name in dead:
            directory.unlink(name)


class Lease:
    """
    Who leads: the process that made the file of the highest epoch, as long as it lives and its heart beats.

    The heart is CLOCK_MONOTONIC, which all processes of a machine share and nobody sets. A file of an epoch can be made once,
    so of many who want to follow a dead leader one does.

    A process of a higher precedence asks who leads for the lead, in the file of his epoch. He hands it over at his next heartbeat, when
    he is in the midst of nothing, and nobody of a lower one takes it as long as the asker asks.
    """

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self.precedence = Precedence.WORKER
        self._asks_from = 0.0
        self._handed_over = 0  # the epoch that was this process' until another one asked for the lead
        self.epoch = 0
        self.is_first = False  # this process leads, and nobody has led before it here
        self.has_written = False  # it, or one before it here, has written to the store
        self.windows = 0  # that the store has had by then
        self.can_write = True  # this process can use the store, as far as is known
        self._beats = -1
        self._seen = _NOBODY

    def after_fork(self) -> None:
        """In a forked child: whatever the parent leads, this process does not."""
        self.precedence = Precedence.WORKER
        self._handed_over = 0
        self._step_down()
        self._seen = _NOBODY

    @property
    def leadership(self) -> Leadership:
        """Who leads, as `keep` has last seen it."""
        if self._capture.directory is None:
            return Leadership(0, os.getpid(), self._capture.process, is_self=True)
        return self._seen

    @property
    def held(self) -> bool:
        """Whether this process leads; `keep` finds out."""
        return self._capture.directory is None or self.epoch > 0

    def keep(self, *, may_follow: bool = True, above: Callable[[], int] = int) -> bool:
        """
        Stay or, if *may_follow*, become the leader where nobody leads; return whether this process leads. Raises OSError.

        Who can write the store takes over from who cannot, being of an older version. *above* says which epochs are used up elsewhere:
        live files may be lost, and begin anew beside a store that has outlived them.
        """
        capture = self._capture
        directory = capture.directory
        if directory is None:
            self.release()
            self._seen = _NOBODY
            return True
        names = directory.names()
        highest = highest_epoch(names, LEADER)
        if self.epoch and highest == self.epoch:
            if not self._is_wanted(os.pread(self._beats, _LEADER_BYTES, 0)):
                self._beat()
                return True
            self.release()
            self._handed_over = highest
        self._step_down()
        if (highest and self._beating(directory, highest)) or not may_follow:
            return False
        if highest and highest == self._handed_over:
            # Who has asked did not come. No file is made, for which there may be no room.
            has_written, windows = self._was_written(directory, highest)
            return self._lead(directory, highest, is_first=False, has_written=has_written, windows=windows)
        used = max(highest, highest_epoch(names, TOTALS))
        epoch = max(used, above()) + 1
        who = _encode((capture.process, os.getpid()))
        content = len(who).to_bytes(2, "little") + who
        has_written, windows = self._was_written(directory, highest) if used else (False, 0)
        content = content.ljust(_HEARTBEAT_AT, b"\0") + bytes(8) + bytes([has_written, False, self.precedence])
        content = content.ljust(WINDOWS_AT, b"\0") + windows.to_bytes(8, "little")
        try:
            if not directory.claim(f"{LEADER}{epoch}", content):
                return False
        except OSError:
            self._asks_from = time.monotonic() + _ASK_AGAIN_SECONDS
            raise
        return self._lead(directory, epoch, is_first=not used, has_written=has_written, windows=windows)

    def _lead(self, directory: LiveDirectory, epoch: int, *, is_first: bool, has_written: bool, windows: int) -> bool:
        self._beats = directory.watch(f"{LEADER}{epoch}")
        self.epoch = epoch
        self.is_first, self.has_written, self.windows = is_first, has_written, windows
        self._seen = Leadership(epoch, os.getpid(), self._capture.process, is_self=True)
        os.pwrite(self._beats, bytes(_LEADER_BYTES - _WANTED_AT), _WANTED_AT)
        self._beat()
        return True

    def note_written(self, windows: int) -> None:
        """
        Let who follows know that there is a store that knows what the live files have measured, and has had so many windows.

        Raises OSError.
        """
        if self._beats >= 0:
            os.pwrite(self._beats, windows.to_bytes(8, "little"), WINDOWS_AT)
            if not self.has_written:
                os.pwrite(self._beats, b"\1", _WRITTEN_AT)
                self.has_written = True

    def _was_written(self, directory: LiveDirectory, epoch: int) -> tuple[bool, int]:
        """Whether anybody has written, and how many windows the store had had; 0 is not known."""
        try:
            content = directory.read(f"{LEADER}{epoch}")
        except OSError:
            return True, 0
        windows = int.from_bytes(content[WINDOWS_AT : WINDOWS_AT + 8], "little")
        return content[_WRITTEN_AT : _WRITTEN_AT + 1] != b"\0", windows

    def still_highest(self, names: list[str]) -> bool:
        """Whether nobody has followed this leader."""
        return highest_epoch(names, LEADER) == self.epoch

    def release(self) -> None:
        """Stop leading: another may follow at once."""
        if self._beats >= 0:
            with suppress(OSError):
                os.pwrite(self._beats, bytes(8), _HEARTBEAT_AT)
        self._step_down()

    def _step_down(self) -> None:
        if self._beats >= 0:
            os.close(self._beats)
        self._beats = -1
        self.epoch = 0

    def _beat(self) -> None:
        if not self.can_write:
            os.pwrite(self._beats, b"\1", _UNABLE_AT)
        os.pwrite(self._beats, time.monotonic_ns().to_bytes(8, "little"), _HEARTBEAT_AT)

    def _beating(self, directory: LiveDirectory, epoch: int) -> bool:
        try:
            content = directory.read(f"{LEADER}{epoch}")
            leader = read_heartbeat(content)
        except (OSError, ValueError):
            return False
        self._seen = Leadership(epoch, leader.pid, leader.process, is_self=False)
        if self.can_write and content[_UNABLE_AT : _UNABLE_AT + 1] == b"\1":
            return False
        if self._is_wanted(content):
            return True
        if not _lives(directory, leader.process):
            return False
        is_beating = leader.is_beating(time.monotonic_ns())
        may_ask = self.can_write and time.monotonic() >= self._asks_from
        # A leader of an older version, whose file has no such byte, would not hear it.
        if is_beating and may_ask and _byte(content, _PRECEDENCE_AT, Precedence.SERVER) < self.precedence:
            self._ask_for_lead(directory, epoch)
        return is_beating

    def _ask_for_lead(self, directory: LiveDirectory, epoch: int) -> None:
        with suppress(OSError):
            file = directory.watch(f"{LEADER}{epoch}")
            try:
                os.pwrite(file, time.monotonic_ns().to_bytes(8, "little") + bytes([self.precedence]), _WANTED_AT)
            finally:
                os.close(file)

    def _is_wanted(self, content: bytes) -> bool:
        """Whether a process of a higher precedence than this one has just asked for the lead of who wrote *content*."""
        asked_ns = int.from_bytes(content[_WANTED_AT : _WANTED_AT + 8], "little")
        is_outranked = _byte(content, _WANTED_BY_AT, Precedence.WORKER) > self.precedence
        return asked_ns > 0 and is_outranked and 0 <= time.monotonic_ns() - asked_ns < LEASE_SECONDS * 1e9


def _byte(content: bytes, at: int, otherwise: int) -> int:
    return content[at] if len(content) > at else otherwise


class Heartbeat(NamedTuple):
    """What the file of an epoch says: who made it, and when he has last been there, by CLOCK_MONOTONIC."""

    process: str
    pid: int
    beat_ns: int

    def is_beating(self, now_ns: int) -> bool:
        """Whether he was there within the lease."""
        return 0 <= now_ns - self.beat_ns < LEASE_SECONDS * 1e9


def read_heartbeat(content: bytes) -> Heartbeat:
    """Read the file of an epoch; raises ValueError if it is damaged: msgspec's for what cannot be decoded, or Python's for a text."""
    process, pid = _decode_leader(content[2 : 2 + int.from_bytes(content[:2], "little")])
    return Heartbeat(process, pid, int.from_bytes(content[_HEARTBEAT_AT : _HEARTBEAT_AT + 8], "little"))


def leading_epoch(directory: LiveDirectory, now_ns: int) -> int:
    """The epoch of who leads by CLOCK_MONOTONIC's *now_ns*: he lives, and his heart beats; 0: nobody does. Raises OSError."""
    epoch = highest_epoch(directory.names(), LEADER)
    try:
        leader = read_heartbeat(directory.read(f"{LEADER}{epoch}"))
    except ValueError:
        return 0
    return epoch if leader.is_beating(now_ns) and _lives(directory, leader.process) else 0


def _lives(directory: LiveDirectory, process: str) -> bool:
    try:
        watch = directory.watch(process + ALIVE_SUFFIX)
    except OSError:
        return False
    try:
        return is_locked(watch)
    finally:
        os.close(watch)


def highest_epoch(names: list[str], prefix: str) -> int:
    """The highest epoch that a file of that kind names; 0 if there is none."""
    return max((_epoch_of(name) for name in names if name.startswith(prefix)), default=0)


def _epoch_of(name: str) -> int:
    text = name.rpartition("-")[2].removesuffix(COPY)
    return int(text) if text.isdecimal() else 0


def add_cells(totals: Totals, reader: CellsReader) -> None:
    """Add the counters and histograms of one process to *totals*, and what it declared of all its metrics."""
    counters, sketches, metrics = totals.counters, totals.sketches, totals.metrics
    for declared in reader.metrics.values():
        if declared.name not in metrics and (metric := _metric(declared)) is not None:
            metrics[declared.name] = metric
    for piece in pieces(reader.counters, 200):
        for series in piece:
            key = series.key
            counters[key] = counters.get(key, 0.0) + series.cells[series.at]
    for piece in pieces(reader.sketches):
        for series in piece:
            key = series.key
            reading = read_sketch(series)
            before = sketches.get(key)
            if before is not None:
                last = series.together
                if last is None or last[0] is not before or last[1] is not reading:
                    last = series.together = before, reading, before.plus(reading)
                reading = last[2]
            sketches[key] = reading


def add_exemplars(totals: Totals, reader: CellsReader) -> None:
    """Let the newest exemplar of each series be the one of *totals*."""
    for series in reader.traced:
        for words, at in tuple(series.exemplars):
            found = _read_exemplar(words, at)
            if found is not None:
                known = totals.exemplars.get(series.key)
                if known is None or known.time_seconds < found.time_seconds:
                    totals.exemplars[series.key] = found


def _read_exemplar(words: memoryview[int], at: int) -> Exemplar | None:
    for _ in range(_EXEMPLAR_TRIES):
        value, seconds, high, low, span, check = words[at : at + EXEMPLAR_CELLS]
        if not seconds:
            return None
        if value + 3 * seconds + 5 * high + 7 * low + 9 * span & 0xFFFF_FFFF_FFFF_FFFF == check:
            measured, time_seconds = _DOUBLES.unpack(_WORDS.pack(value, seconds))
            return Exemplar(measured, f"{high:016x}{low:016x}", f"{span:016x}" if span else "", time_seconds)
    return None  # written just then each time; or by a process that was killed amid it


@lru_cache(maxsize=4096)  # asked of each metric each second
def _metric(declared: MetricEntry) -> Metric | None:
    """None: its type is one of a newer version."""
    try:
        return Metric(declared.name, MetricType(declared.type), declared.help)
    except ValueError:
        return None


def read_sketch(series: Series) -> SketchReading:
    """A histogram's cells at this instant; the same object as the last time if nothing was measured since."""
    cells, head = series.cells, series.at
    count = cells[head]
    last: SketchReading | None = series.read
    # The count is written last: with the same count and sum, nothing has been measured but what was under way. (Unless it was
    # then that the first measurement of an octave was counted before the octave was found here.)
    total = cells[head + 1]
    octaves = tuple(series.octaves)
    if (
        last is not None
        and last.count == count
        and last.total == total
        and len(octaves) <= len(last.positive) + len(last.negative)
    ):
        return last
    positive: dict[int, Octave] = {}
    negative: dict[int, Octave] = {}
    was = NOTHING_READ if last is None else last
    for is_negative, number, memory, at in octaves:
        target, known = (negative, was.negative) if is_negative else (positive, was.positive)
        raw = memory[at : at + BUCKETS_PER_OCTAVE].tobytes()
        if number in target and not any(raw):
            continue  # two threads have raced for this octave: the cells of one stay zero
        octave = known.get(number)
        target[number] = octave if octave is not None and octave.raw == raw else Octave(raw)
    series.read = reading = SketchReading(
        count,
        total,
        cells[head + 2],
        cells[head + 3] if count else inf,
        cells[head + 4] if count else -inf,
        positive,
        negative,
    )
    return reading


def _merge_gauge(totals: Totals, key: SeriesKey, values: list[tuple[float, float, str]], across: str) -> None:
    if across == "per_worker":
        for _, value, pid in values:
            labels = tuple(sorted((*key.labels, ("worker", pid))))
            totals.gauges[SeriesKey(key.name, labels)] = value
    elif across == "sum":
        totals.gauges[key] = sum(value for _, value, _ in values)
    elif across in ("min", "max"):
        totals.gauges[key] = (min if across == "min" else max)(value for _, value, _ in values)
    else:
        totals.gauges[key] = max(values)[1]


def records_kept(found: list[Series]) -> float:
    """How many records a process was given and has neither dropped nor suppressed."""
    kept = 0.0
    for series in found:
        if dict(series.key.labels).get("signal") == "records":
            if series.key == PRODUCED:
                kept += series.cells[series.at]
            elif series.key.name in ("rfs_dropped_total", "rfs_suppressed_total"):
                kept -= series.cells[series.at]
    return kept


def _time_of(frame: Frame) -> int:
    return frame.time_ns
