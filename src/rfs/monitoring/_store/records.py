"""
The records of a local store: chunks in the directory ``chunks``, written by the leader alone, read by every process.

A record is in its segment until it is marked there, which is after it is in a chunk, and on the disk. So whoever asks the segments
first (`LiveReader.waiting`) and the chunks then finds each record in at least one of them, whatever the leader does meanwhile; and
what he finds in both he knows by its place (see `Run`). `RecordReader.records` does so.

There is one order: by time, newest first; of one time, what no chunk has yet comes first, then by the place in the chunks, whose
names rise with every new one. A cursor says where in that order a page has ended. What no chunk had yet may be in one when the next
page is asked for, so its cursor tells, by digests, which records of that one time have been returned.

**One writer.** A leader that was stopped, and taken for dead, may go on at any step. From the moment when it has taken over it
always has an open chunk, the next one being made before the last one is sealed; and its successor takes all that are open, until
there is none left. So whatever it adds is in a chunk that it does not have any more, `ChunkWriter.sync` tells it so, and it
lets go of everything.
"""

from __future__ import annotations

import os
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from errno import EDQUOT, EFBIG, EMFILE, ENFILE, ENOENT, ENOSPC, ESTALE
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock
from hashlib import blake2b
from heapq import nlargest
from operator import attrgetter
from pathlib import Path
from threading import Lock
from typing import NamedTuple
from weakref import finalize

from msgspec.structs import replace

from rfs.errors import CursorError, StaleLeaderError, StoreError, StoreFileError
from rfs.monitoring._capture.pace import breathe
from rfs.monitoring._capture.segments import NOTHING_WAITS, Frame, Run, Waiting
from rfs.monitoring._store import StoredRecord, Wanted
from rfs.monitoring._store.chunks import (
    SEALED_SUFFIX,
    Chunk,
    ChunkReader,
    ChunkWriter,
    Found,
    Imported,
    Matches,
    Place,
    chunk_files,
    newest,
    rewrite,
)
from rfs.monitoring._store.deadline import check_deadline
from rfs.monitoring._store.keys import KeyRing
from rfs.monitoring._store.listing import ChunkList, Listed
from rfs.monitoring._store.retention import CHUNKS

QUARANTINE = "quarantine"
FLUSH_BYTES = 128 << 10
FLUSH_SECONDS = 10.0
SEAL_BYTES = 32 << 20
SEAL_SECONDS = 3_600.0
RETRY_SECONDS = 1.0
MAX_READERS = 64  # sealed chunks that are held open
MAX_NOTES = 40_000  # and their frames, of which something is kept in memory: half a kilobyte each

_MATCHES_AT_LEAST = 1_000  # that are held before all but the newest are let go
_LISTINGS = 20  # of a directory that is not twice the same, or whose chunks lose what was seen in them
_NO_SPACE = (ENOSPC, EDQUOT, EFBIG)
_NO_DESCRIPTOR = (EMFILE, ENFILE)
_TAKEN_BY_ANOTHER = (ESTALE, ENOENT)
_NAME = re.compile(r"([0-9a-f]{16})-[0-9a-f]{8}")
_IN_CHUNK = re.compile(r"c(-?\d{1,19})\.([^./]+)\.(\d{1,19})\.(\d{1,19})((?:\.[0-9a-f]{16})*)")
_NOT_YET = re.compile(r"p(-?\d{1,19})((?:\.[0-9a-f]{16})+)")

Problem = Callable[[str, str], None]


class Statistics(NamedTuple):
    """What the chunks are: bytes as the file system says, and the time of the oldest record (None: there is none)."""

    records: int
    bytes: int
    oldest_ns: int | None


class _Cursor(NamedTuple):
    """
    Where a page has ended: at *place*, or, if that has no chunk, among those that no chunk had yet. *returned* are such of its time
    that have been returned, as far as they have not been seen in a chunk since.
    """

    place: Place
    returned: Counter[str]

    @classmethod
    def parsed(cls, text: object) -> _Cursor:
        if isinstance(text, str):
            if match := _IN_CHUNK.fullmatch(text):
                time_ns, chunk, at, row, digests = match.groups()
                return cls(Place(int(time_ns), chunk, int(at), int(row)), Counter(digests.split(".")[1:]))
            if match := _NOT_YET.fullmatch(text):
                return cls(Place(int(match[1]), "", 0, 0), Counter(match[2].split(".")[1:]))
        raise CursorError(text)


def _digest(frame: Frame) -> str:
    return blake2b(frame.payload + bytes((frame.level, frame.flags)), digest_size=8).hexdigest()


class _Sealed:
    """What is known of a sealed chunk while it is closed."""

    def __init__(self, owner: RecordReader, reader: ChunkReader, number: int) -> None:
        self._owner = owner
        self.number = number  # of the file, as the directory says
        self.file = reader.file
        self.records = reader.records
        self.has_header = reader.has_header
        self.first_ns, self.last_ns = reader.first_ns, reader.last_ns

    def opened(self) -> ChunkReader | None:
        """Its reader, or None, and why is said."""
        return self._owner.reader_of(self.file)


class RecordReader:
    """
    Reads the records of the store at *path*. Safe from any thread; a forked child makes its own.

    Args:
        path: The store's directory. What is not there yet has no records.
        on_problem: Told once of each what is damaged (``S113``), of a newer version (``S112``), encrypted with a key that is not at
            hand (``K104``) or cannot be read (``S105``, ``S107``: no descriptors). All of that is left out.
        keys: For what is encrypted.
    """

    def __init__(self, path: Path, *, on_problem: Problem, keys: KeyRing | None = None) -> None:
        self.path = path
        self.keys = keys
        self._on_problem = on_problem
        self._lock = Lock()
        self._directory = -1
        self._listed: dict[str, int] = {}  # what is in the directory; another number is another file
        self._sealed: dict[str, _Sealed] = {}
        self._open: dict[str, ChunkReader] = {}
        self._readers: OrderedDict[str, ChunkReader] = OrderedDict()  # of sealed ones, the one used last at the end
        self._matches = Matches()
        self._refused: dict[str, StoreFileError] = {}
        self._said: set[tuple[str, object]] = set()

    def close(self) -> None:
        """Let go of all files; twice is once. It may be used again."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        self._sealed.clear()
        self._open.clear()
        self._readers.clear()
        self._refused.clear()
        if self._directory >= 0:
            self._directory = -1
            self._closing()

    # Which chunks there are

    def _opened_directory(self) -> int:
        path = self.path / CHUNKS
        if self._directory >= 0 and not _leads_to(path, self._directory):
            self._forget()
        if self._directory < 0:
            self._directory = _open_directory(path)
            self._closing = finalize(self, os.close, self._directory)
        return self._directory

    def files(self) -> list[str]:
        """The chunks' files, one of each chunk, in order of their names; none if there is no directory. Raises OSError."""
        try:
            with os.scandir(self.path / CHUNKS) as entries:
                self._listed = {entry.name: entry.inode() for entry in entries}
        except FileNotFoundError:
            self._listed = {}
        return chunk_files(self._listed)

    def sealed(self) -> list[_Sealed]:
        """The sealed chunks as they are now."""
        with self._lock:
            self._look()
            return list(self._sealed.values())

    def refused(self) -> dict[str, StoreFileError]:
        """The files that are no chunks which this version reads."""
        with self._lock:
            self._look()
            return dict(self._refused)

    def headless(self) -> list[str]:
        """The files whose header is damaged."""
        with self._lock:
            self._look()
            both: list[_Sealed | ChunkReader] = [*self._sealed.values(), *self._open.values()]
            return [chunk.file for chunk in both if not chunk.has_header]

    def torn(self) -> dict[str, int]:
        """Of each file that is not sealed, how many bytes at its end are no frame."""
        with self._lock:
            self._look()
            return {file: reader.torn_bytes for file, reader in self._open.items() if reader.torn_bytes}

    def _chunks(self) -> list[_Sealed | ChunkReader]:
        """All chunks as they are now."""
        with self._lock:
            self._look()
            return [*self._sealed.values(), *(reader.still() for reader in self._open.values())]

    def _look(self) -> None:
        """
        Find out what there is. Raises OSError where the directory cannot be read.

        A file that is renamed meanwhile may be missing in a listing: only one that is the same twice is believed.
        """
        files = self.files()
        for _ in range(_LISTINGS):
            is_whole = not files or self._update(files)
            before, files = files, self.files()
            if is_whole and files == before:
                break
        if not files:
            self._sealed.clear()
            self._open.clear()
            self._readers.clear()
            self._refused.clear()

    def _update(self, files: list[str]) -> bool:
        """Open what is new and let go of what is not in *files*; False if one of them is not there any more."""
        directory = self._opened_directory()
        there = set(files)
        for known in (self._sealed, self._open, self._readers, self._refused):
            for file in known.keys() - there:
                del known[file]
        listed = self._listed
        for file in [file for file, chunk in self._sealed.items() if listed.get(file) != chunk.number]:
            del self._sealed[file]  # it was rewritten
            self._readers.pop(file, None)
        is_whole = True
        for file in files:
            if file in self._sealed or file in self._refused:
                continue
            try:
                reader = self._open.pop(file, None)
                if reader is None or not reader.refresh():
                    reader = ChunkReader(directory, file, self.keys, self._matches)
            except FileNotFoundError:
                is_whole = False
            except StoreFileError as error:
                self._refused[file] = error
                self._say(file, None, "S112" if error.is_newer else "S113", str(error))
            except OSError as error:
                self._say(
                    file, error.errno, _code(error), f"{self.path / CHUNKS / file} cannot be read: {error.strerror}"
                )
            else:
                if reader.is_sealed:
                    self._sealed[file] = _Sealed(self, reader, listed.get(file, 0))
                    self._keep(reader)
                else:
                    self._open[file] = reader
                breathe()
        return is_whole

    def reader_of(self, file: str) -> ChunkReader | None:
        """The reader of a sealed chunk; None if it is gone, or cannot be read, which is said."""
        with self._lock:
            reader = self._readers.get(file)
            if reader is not None:
                self._readers.move_to_end(file)
                return reader
            try:
                reader = ChunkReader(self._opened_directory(), file, self.keys, self._matches)
            except FileNotFoundError:
                return None
            except StoreFileError as error:
                self._say(file, None, "S112" if error.is_newer else "S113", str(error))
                return None
            except OSError as error:
                self._say(
                    file, error.errno, _code(error), f"{self.path / CHUNKS / file} cannot be read: {error.strerror}"
                )
                return None
            self._keep(reader)
            return reader

    def _keep(self, reader: ChunkReader) -> None:
        self._say_damage(reader)
        self._readers[reader.file] = reader
        notes = sum(len(one.frames) for one in self._readers.values())
        while len(self._readers) > 1 and (len(self._readers) > MAX_READERS or notes > MAX_NOTES):
            _, oldest = self._readers.popitem(last=False)
            notes -= len(oldest.frames)
            self._say_damage(oldest)

    def _say_damage(self, reader: ChunkReader) -> None:
        locked = reader.locked
        for damage in reader.damage:
            code = "K104" if damage in locked else "S113"
            self._say(reader.name, (code, damage.at), code, f"{self.path / CHUNKS}: {damage}; left out")

    def _say(self, file: str, what: object, code: str, text: str) -> None:
        if (file, what) not in self._said:
            self._said.add((file, what))
            self._on_problem(code, text)

    # Answers

    def records(
        self,
        wanted: Wanted,
        *,
        limit: int,
        before: str | None = None,
        waiting: Waiting = NOTHING_WAITS,
    ) -> list[StoredRecord]:
        """
        The newest *limit* records that are *wanted*, newest first; *before*, a cursor, goes on with the page after that record.

        *waiting* is what `LiveReader.waiting` gave before this is called.

        Raises:
            CursorError: *before* is no cursor.
            QueryTimeoutError: The deadline of this thread is over, see `deadline`.
            OSError: The directory cannot be read.
        """
        cursor = None if before is None else _Cursor.parsed(before)
        place, returned = (None, Counter[str]()) if cursor is None else cursor
        wanted_until = wanted.until_ns if place is None else min(wanted.until_ns, place.time_ns + 1)
        most = limit + returned.total()
        waiting_until = min(wanted_until, place.time_ns) if place and place.chunk else wanted_until
        runs = _newest_waiting(waiting, replace(wanted, until_ns=waiting_until), most)
        frames, found = list[Frame](), list[Found]()
        for _ in range(_LISTINGS):
            chunks = self._chunks()  # only now: what was imported while the segments were read is in there
            frames = _newest_first(without(runs, chunks))[:most]
            found = newest(
                chunks,
                limit=most,
                min_level=wanted.min_level,
                operation=wanted.operation,
                correlation_id=wanted.correlation_id,
                flags=wanted.flags,
                since_ns=max(wanted.since_ns, frames[-1].time_ns) if len(frames) == most > 0 else wanted.since_ns,
                until_ns=wanted_until,
                before=place if place and place.chunk else None,
            )
            # What has been taken back from a chunk meanwhile is in the segments, and was left out of what was found there.
            if all(isinstance(chunk, _Sealed) or chunk.has_all() for chunk in chunks):
                break
        with self._lock:
            for reader in (*self._open.values(), *self._readers.values()):
                self._say_damage(reader)
        return _page(frames, found, limit, cursor, returned)

    def statistics(self) -> Statistics:
        """How much there is. Raises OSError where the directory cannot be read."""
        with self._lock:
            self._look()
            chunks: list[_Sealed | ChunkReader] = [*self._sealed.values(), *self._open.values()]
            size = 0
            with suppress(FileNotFoundError), os.scandir(self.path / CHUNKS) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        size += entry.stat(follow_symlinks=False).st_size
            oldest = min((chunk.first_ns for chunk in chunks if chunk.records), default=None)
            return Statistics(sum(chunk.records for chunk in chunks), size, oldest)


def without(runs: Sequence[Run], chunks: Iterable[Chunk]) -> list[Run]:
    """*runs* without the records that *chunks* hold. Only chunks of those times are opened."""
    times = [frame.time_ns for run in runs for frame in run.frames]
    if not times:
        return []
    since_ns, until_ns = min(times), max(times) + 1
    near = (chunk.opened() for chunk in chunks if chunk.first_ns < until_ns and chunk.last_ns >= since_ns)
    imported = Imported(
        [reader for reader in near if reader is not None],
        {run.source for run in runs},
        since_ns=since_ns,
        until_ns=until_ns,
    )
    return [rest for rest in map(imported.rest, runs) if rest.frames]


def _newest_waiting(waiting: Waiting, wanted: Wanted, most: int) -> list[Run]:
    """What is *wanted* of them: all, or at least the newest *most*. Raises QueryTimeoutError."""
    found: list[Run] = []
    for piece in waiting.pieces():
        check_deadline()
        found += _admitted(piece, wanted)
        if sum(len(run.frames) for run in found) > 2 * most + _MATCHES_AT_LEAST:
            times = (frame.time_ns for run in found for frame in run.frames)
            wanted = replace(wanted, since_ns=nlargest(max(most, 1), times)[-1])
            found = _admitted(found, wanted)
    return found


def _admitted(runs: Iterable[Run], wanted: Wanted) -> list[Run]:
    admitted = [run.only([number for number, frame in enumerate(run.frames) if wanted.admits(frame)]) for run in runs]
    return [run for run in admitted if run.frames]


def _newest_first(runs: Iterable[Run]) -> list[Frame]:
    found = [
        (frame.time_ns, run.source, run.sequence, offset, frame)
        for run in runs
        for offset, frame in zip(run.offsets, run.frames, strict=True)
    ]
    found.sort(key=lambda each: each[:4], reverse=True)
    return [each[4] for each in found]


def _page(
    waiting: list[Frame], found: list[Found], limit: int, cursor: _Cursor | None, returned: Counter[str]
) -> list[StoredRecord]:
    """The first *limit* of both lists together that have not been *returned*."""
    both: list[tuple[Frame, Place | None]] = [(frame, None) for frame in waiting]
    both += [(frame, place) for place, frame in found]
    both.sort(key=lambda each: each[0].time_ns, reverse=True)  # stable: what no chunk has comes first
    page: list[StoredRecord] = []
    left = Counter[str](returned)
    time_ns, digests = (None, []) if cursor is None else (cursor.place.time_ns, sorted(returned.elements()))
    for frame, place in both:
        if len(page) == limit:
            break
        if frame.time_ns != time_ns:
            time_ns, digests, left = frame.time_ns, [], Counter[str]()
        if left:
            digest = _digest(frame)
            if left[digest] > 0:
                left[digest] -= 1
                continue
        if place is None:
            digests.append(_digest(frame))
            text = f"p{time_ns}.{'.'.join(digests)}"
        else:
            text = ".".join((f"c{time_ns}", place.chunk, f"{place.at}", f"{place.row}", *sorted(left.elements())))
        page.append(StoredRecord(text, frame))
    return page


def _code(error: OSError) -> str:
    return "S102" if error.errno in _NO_SPACE else "S107" if error.errno in _NO_DESCRIPTOR else "S105"


def _nobody(_runs: Sequence[Run]) -> None:
    pass


class RecordWriter:
    """
    The leader's part: keeps records in chunks. For one thread, of the process that leads.

    Args:
        reader: Of the same store, and of this process.
        now_ns: The wall clock.
        monotonic: The monotonic clock.
        on_problem: Told, once for as long as it lasts, why records stay in the segments: ``S102`` no space, ``S107`` no descriptor,
            ``S105`` anything else; and of what was damaged and set aside, or is gone (``S113``).
        on_kept: Handed the records that are newly on the disk.
        chunk_list: By which chunks are missed that are gone.
    """

    def __init__(
        self,
        reader: RecordReader,
        *,
        now_ns: Callable[[], int],
        monotonic: Callable[[], float],
        on_problem: Problem,
        on_kept: Callable[[Sequence[Run]], None] = _nobody,
        chunk_list: ChunkList | None = None,
    ) -> None:
        self._reader = reader
        self._now_ns = now_ns
        self._monotonic = monotonic
        self._on_problem = on_problem
        self._on_kept = on_kept
        self._list = chunk_list
        self._taken_over: dict[str, Listed | None] | None = None  # what there was then, still to be compared
        self._noted: dict[str, int] = {}  # up to which byte each chunk is
        self._directory = -1
        self._writer: ChunkWriter | None = None
        self._began_at = 0.0
        self._left: list[ChunkWriter] = []  # to be sealed
        self._since: float | None = None  # since when something waits
        self._retry_at = 0.0
        self._said = ""

    @property
    def _writers(self) -> list[ChunkWriter]:
        return [*self._left, *([self._writer] if self._writer is not None else [])]

    def close(self) -> None:
        """Let go of the chunks as they are; whoever leads next takes them over. Twice is once."""
        for writer in self._writers:
            writer.close()
        self._left = []
        self._writer = None
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1

    def take_over(self) -> None:
        """
        Take over what others have left. `keep` does it when it is due; it may be done earlier, and again. Raises OSError.

        From then on nobody who has led before can add anything.
        """
        self.close()
        try:
            self._take_over()
        except BaseException:
            self.close()
            raise

    def _take_over(self) -> None:
        folder = self._reader.path / CHUNKS
        if not folder.is_dir():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in (self._reader.path, self._reader.path.parent):
                _sync_directory(path)
        self._directory = _open_directory(folder)
        for file, size in self._reader.torn().items():
            text = f"{folder}: {file}: {size} bytes at its end, which a kill has left or which are damaged; left out"
            self._on_problem("S113", text)
        for file in self._reader.headless():
            with suppress(OSError):  # whoever leads next will try it again
                self._replace(file)
        tried: set[str] = set()
        # Again and again: whoever is followed now may just have begun another one.
        while (names := self._open_names() - tried) or self._writer is None:
            for name in sorted(names, reverse=True):
                with suppress(
                    FileExistsError
                ):  # somebody has sealed it, or taken it just now: then it will be taken from him
                    self._take(name)
                    tried.add(name)
            if self._writer is None:
                tried.add(self._begin().name)
        self._set_aside()
        self._taken_over = self._there()
        self._note()
        self._seal_left()

    def _there(self) -> dict[str, Listed | None]:
        """The chunks that there are, and what is known of them."""
        there: dict[str, Listed | None] = dict.fromkeys(map(_name_of, self._reader.files()))
        sealed = (Listed(_name_of(chunk.file), chunk.records, 0) for chunk in self._reader.sealed())
        there.update((one.name, one) for one in (*sealed, *self._own()))
        return there

    def _own(self) -> list[Listed]:
        return [Listed(each.name, each.reader.records, each.size) for each in self._writers]

    def _open_names(self) -> set[str]:
        return {_name_of(file) for file in self._reader.files() if not file.endswith(SEALED_SUFFIX)}

    def _take(self, name: str) -> None:
        try:
            writer = self._chunk(name)
        except StoreFileError:
            return  # the reader refuses it, too
        age = max(0.0, (self._now_ns() - writer.reader.created_ns) / 1e9) if writer.reader.frames else 0.0
        is_newest = all(_name_of(file) <= name for file in self._reader.files())
        if self._writer is None and is_newest and not self._is_to_be_sealed(writer, age):
            self._writer = writer
            self._began_at = self._monotonic() - age
        else:
            self._left.append(writer)

    def _is_to_be_sealed(self, writer: ChunkWriter, age: float) -> bool:
        return bool(writer.reader.frames) and (writer.size >= SEAL_BYTES or writer.is_full or age >= SEAL_SECONDS)

    def _chunk(self, name: str, created_ns: int = 0) -> ChunkWriter:
        return ChunkWriter(self._directory, name, created_ns or self._now_ns(), self._reader.keys)

    def _begin(self) -> ChunkWriter:
        """
        Begin a new chunk, if nobody has taken those that there are: else nobody might take the new one either. Raises OSError.
        """
        before = self._writers
        files = self._reader.files()
        last = _NAME.match(files[-1]) if files else None
        created_ns = max(self._now_ns(), int(last[1], 16) + 1 if last else 0)
        writer = self._chunk(f"{created_ns:016x}-{os.urandom(4).hex()}", created_ns)
        try:
            for each in before:
                each.must_be_ours()
        except OSError:
            writer.close()
            self.close()
            raise
        self._left = before
        self._writer = writer
        self._began_at = self._monotonic()
        return writer

    def _aside(self, file: str) -> Path:
        folder = self._reader.path / QUARANTINE
        folder.mkdir(mode=0o700, exist_ok=True)
        stamp = datetime.fromtimestamp(self._now_ns() / 1e9, UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        return folder / f"{file}.{stamp}"

    def _set_aside(self) -> None:
        """Move what is no chunk out of the way."""
        for file, error in self._reader.refused().items():
            if not error.is_newer:
                with suppress(OSError):  # whoever leads next will try it again
                    aside = (self._reader.path / CHUNKS / file).rename(self._aside(file))
                    self._on_problem("S113", f"{error}; set aside in {aside.parent}")

    def _replace(self, file: str) -> None:
        """
        Move a chunk whose header is damaged out of the way: if it is sealed, another with all its frames takes its place; what is open
        is about to be copied by who takes it over. Raises OSError.
        """
        path, aside = self._reader.path / CHUNKS / file, self._aside(file)
        os.link(path, aside)
        try:
            if file.endswith(SEALED_SUFFIX):
                flock(self._directory, LOCK_EX | LOCK_NB)
                reader = self._reader.reader_of(file)
                if reader is not None:
                    rewrite(self._directory, reader, None, numbers=(), keeps=bool)
        except OSError:
            aside.unlink()
            raise
        finally:
            flock(self._directory, LOCK_UN)
        self._on_problem("S113", f"{path} has a damaged header; set aside in {aside.parent}, and its frames copied")

    # Keeping

    def keep(self, runs: Sequence[Run], *, flush: bool = False) -> bool:
        """
        Keep *runs*, all that is pending. True: all of them are in chunks and on the disk, and may be marked as imported.

        False: it is not due yet (less than 128 KiB, since less than 10 s, and not to *flush*), or it failed. Then nothing is kept here:
        hand them in again, with what has come since. Never raises OSError.
        """
        now = self._monotonic()
        if runs and self._since is None:
            self._since = now
        is_due = flush or sum(run.end - run.offsets[0] for run in runs) >= FLUSH_BYTES
        is_due |= self._since is not None and now - self._since >= FLUSH_SECONDS
        if runs and not is_due:
            return False
        if now < self._retry_at and not flush:
            return False
        try:
            if self._writer is not None and not _leads_to(self._reader.path / CHUNKS, self._directory):
                self.close()
            if self._writer is None or self._writer.failed:
                self.take_over()
            if runs:
                self._import(runs)
            self._note()
            self._roll_over()
        except OSError as error:
            self._retry_at = now + RETRY_SECONDS
            if error.errno in _TAKEN_BY_ANOTHER:
                self.close()
            else:
                self._say(error)
            return False
        self._since = None
        self._said = ""
        return True

    def miss(self) -> None:
        """Say which chunks are gone since they were kept. Raises OSError where the directory cannot be read."""
        if self._writer is not None and self._taken_over is None:
            # One that is being rewritten may be missing in a listing.
            files = {*self._reader.files(), *self._reader.files()}
            with suppress(StoreError, StaleLeaderError):
                self._compare(dict.fromkeys(map(_name_of, files)))

    def _note(self) -> None:
        """Miss what is not there of what there was before, and note what was added since; if it cannot be now, next time."""
        with suppress(StoreError, StaleLeaderError):  # who writes windows meets it, too
            if self._taken_over is not None:
                self._compare(self._taken_over)
                self._noted, self._taken_over = {}, None
            own = {writer.name: writer.size for writer in self._writers if writer.reader.frames}
            if own != self._noted and self._list is not None:
                self._list.note(one for one in self._own() if one.records)
                self._noted = own

    def _compare(self, there: dict[str, Listed | None]) -> None:
        for fault in self._list.compare(there) if self._list is not None else ():
            self._on_problem("S113", f"{self._reader.path / CHUNKS}: {fault}")

    def _import(self, runs: Sequence[Run]) -> None:
        try:
            self._add(runs)
        except OSError as error:
            if error.errno in _TAKEN_BY_ANOTHER or not self._opened().failed:
                raise
            # Nobody knows what of it is on the disk, and that descriptor will not tell: what had been synced goes into another file.
            self.take_over()
            self._add(runs)

    def _add(self, runs: Sequence[Run]) -> None:
        writer = self._opened()
        own = [each.reader for each in self._writers]
        rest = without(_joined(runs), [*self._reader.sealed(), *own])
        size = sum(run.end - run.offsets[0] for run in rest)
        status = os.fstatvfs(self._directory)
        if status.f_bavail * status.f_frsize < size // 8:  # spares packing it again and again
            raise OSError(ENOSPC, os.strerror(ENOSPC))
        writer.add(rest)
        writer.sync()
        if rest:
            self._on_kept(rest)

    def _opened(self) -> ChunkWriter:
        if self._writer is None:
            raise OSError(ESTALE, "another writer has taken the chunk")
        return self._writer

    def _roll_over(self) -> None:
        if self._is_to_be_sealed(self._opened(), self._monotonic() - self._began_at):
            with suppress(OSError):  # then it goes on in this one
                if any(writer.failed for writer in self._left):
                    self.take_over()
                else:
                    self._begin()
        self._seal_left()

    def seal(self) -> bool:
        """Seal all that has been kept; what follows goes into another chunk. False: it could not be done now. Never raises OSError."""
        try:
            if self._writer is None:
                self.take_over()
            if self._writer is not None and self._writer.reader.frames:
                self._begin()
            self._seal_left()
        except OSError as error:
            if error.errno in _TAKEN_BY_ANOTHER:
                self.close()
            else:
                self._say(error)
            return False
        return not self._left

    def _seal_left(self) -> None:
        """Seal what nothing more is added to. What cannot be sealed will be when a chunk is full the next time, or by who follows."""
        for writer in tuple(self._left):
            try:
                writer.seal()
            except OSError as error:
                if error.errno in _TAKEN_BY_ANOTHER:
                    self.close()
                    return
            else:
                self._left.remove(writer)

    def _say(self, error: OSError) -> None:
        text = f"{self._reader.path}: {error.strerror}"
        if text != self._said:
            self._said = text
            self._on_problem(_code(error), f"records stay in the live files: {text}")


def _joined(runs: Sequence[Run]) -> list[Run]:
    """*runs*, but one for those that follow one another in a block: the notes of a frame get shorter."""
    joined: list[Run] = []
    for run in sorted(runs, key=attrgetter("source", "sequence", "end")):
        last = joined[-1] if joined else None
        if last is not None and (last.source, last.sequence, last.end) == (run.source, run.sequence, run.offsets[0]):
            joined[-1] = last._replace(
                offsets=[*last.offsets, *run.offsets], end=run.end, frames=[*last.frames, *run.frames]
            )
        else:
            joined.append(run)
    return joined


def _open_directory(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)


def _leads_to(path: Path, directory: int) -> bool:
    """Whether *path* is the directory that has been opened, and nobody has put another one there."""
    try:
        named = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    own = os.fstat(directory)
    return (named.st_dev, named.st_ino) == (own.st_dev, own.st_ino)


def _name_of(file: str) -> str:
    return file.rpartition(".")[0]


def _sync_directory(path: Path) -> None:
    directory = _open_directory(path)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
