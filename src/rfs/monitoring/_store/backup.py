"""
Backups: a copy of a service's directory, made while the service runs, that can be verified.

Copying the files one by one, as ``cp -r`` does, gives a directory of many moments, in which things are missing or count twice. Here the
order makes sure of it: the catalogue first, as it is at one moment; then how far the chunks reach; then the live files; then the chunks,
so far. What is brought from the one to the other meanwhile is in both copies, and recognised: a window is what the live totals have
beyond those that the catalogue has counted, and a record is known by its place. The live files of all processes are taken between two
imports if it can be. Segments come before the cells that count their records, and what a process has recorded between the two is not
counted in the copy, so that the books balance. So the copy is what a kill of all processes at one moment would have left, but that they
do not count as killed.

A backup is read as any directory is, and a service that is started in a copy of it goes on from there. It shares no file with the
store. Encrypted chunks stay encrypted, and the keys are not in it. What is in quarantine is left out.
"""

from __future__ import annotations

import mmap
import os
import shutil
import sqlite3
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from time import time

import msgspec

from rfs.errors import BackupError, LiveFileError
from rfs.monitoring._capture.cells import CellsReader
from rfs.monitoring._capture.files import ALIVE_MAGIC, HEADER_BYTES, read_header
from rfs.monitoring._capture.live import ALIVE_SUFFIX, CELLS_SUFFIX, SEGMENT_SUFFIX, live_path, process_of
from rfs.monitoring._capture.pace import breathe
from rfs.monitoring._capture.segments import SegmentReader
from rfs.monitoring._folded import TOTALS
from rfs.monitoring._live import LEADER, PRODUCED, WINDOWS_AT, records_kept
from rfs.monitoring._store.catalogue import CatalogueReader
from rfs.monitoring._store.chunks import SEALED_SUFFIX, chunk_files
from rfs.monitoring._store.listing import listed
from rfs.monitoring._store.local import CATALOGUE
from rfs.monitoring._store.retention import CHUNKS
from rfs.monitoring._store.sealing import STORE

VERSION = 1
MANIFEST = "backup.json"

_PIECE_BYTES = 1 << 20
_PAGES = 2_000  # of the catalogue, copied at a time
_TRIES = 50  # to find a moment between two imports
_LIVE = "live"
_LISTINGS = 10  # chunks are renamed when they are sealed
_TOO_QUICK = "is being changed too quickly; try again"

Progress = Callable[[int, int, str], object]
"""Told how many bytes are done, of how many, and what is being done: ``backup`` or ``verify``."""


class BackupFile(msgspec.Struct, frozen=True):
    """A file of a backup, named from its directory on."""

    name: str
    bytes: int
    sha256: str


class Backup(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup is; ``created`` is when it was begun, and all that was recorded before is in it."""

    version: int = VERSION
    service: str
    created: datetime
    files: list[BackupFile]

    @property
    def bytes(self) -> int:
        """How large it is."""
        return sum(file.bytes for file in self.files)


def backup(
    directory: Path, target: Path, *, progress: Progress | None = None, now: Callable[[], float] = time
) -> Backup:
    """
    Make *target* a backup of the service's *directory*, whether the service runs or not.

    Args:
        target: A directory that is not there yet, or is empty. After an error what was written there is removed.

    Raises:
        BackupError: There is nothing in *directory* to be copied, or *target* cannot be used.
        StoreError: The catalogue cannot be read.
        OSError: A file cannot be read or written.
    """
    live, store = live_path(directory), directory / STORE
    if not live.is_dir() and not store.is_dir():
        raise BackupError(str(directory), "is no directory of a service: it has neither live files nor a store")
    _make_target(directory, target)
    try:
        with closing(_Copier(target, progress, _size_of(live) + _size_of(store))) as copier:
            created = datetime.fromtimestamp(now(), UTC)
            copier.catalogue(store / CATALOGUE)
            service = copier.live_files(live, store / CHUNKS)
            copier.chunks(store / CHUNKS)
            made = Backup(service=service, created=created, files=sorted(copier.files, key=lambda file: file.name))
            copier.write(MANIFEST, msgspec.json.format(msgspec.json.encode(made)))
            copier.sync()
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    return made


def verify(target: Path, *, progress: Progress | None = None) -> Backup:
    """
    Read all of the backup at *target*; return what it is.

    Raises:
        BackupError: It is none, was never finished, or a file of it is missing, was changed or added; it names all that are.
        OSError: *target* cannot be read.
    """
    try:
        made = msgspec.json.decode((target / MANIFEST).read_bytes(), type=Backup)
    except FileNotFoundError:
        raise BackupError(str(target), f"has no {MANIFEST}: it is no backup, or was never finished") from None
    except ValueError as error:  # what cannot be decoded, not even a text in it
        raise BackupError(str(target), f"has a damaged {MANIFEST}: {error}") from error
    if made.version > VERSION:
        fault = f"has version {made.version}; this library reads up to version {VERSION}. Upgrade rfs here"
        raise BackupError(str(target), fault)
    done = 0
    faulty: list[str] = []
    for file in made.files:
        digest, length = sha256(), 0
        with suppress(FileNotFoundError), (target / file.name).open("rb") as source:
            while piece := source.read(_PIECE_BYTES):
                digest.update(piece)
                length += len(piece)
                breathe()
        if (length, digest.hexdigest()) != (file.bytes, file.sha256):
            faulty.append(file.name)
        done += file.bytes
        if progress is not None:
            progress(done, made.bytes, "verify")
    known = {file.name for file in made.files}
    there = (str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    faulty += sorted(name for name in there if name not in known and name != MANIFEST)
    if faulty:
        fault = f"is not as it was made: {', '.join(faulty)} missing, changed or added. A service may have been started in it"
        raise BackupError(str(target), fault)
    return made


def _make_target(directory: Path, target: Path) -> None:
    if target.resolve().is_relative_to(directory.resolve()):
        raise BackupError(
            str(target), f"is inside {directory}; choose a directory elsewhere, on another disk if there is one"
        )
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(target.iterdir()):
        raise BackupError(str(target), "is not empty; name a directory that is not there yet")
    target.chmod(0o700)


def _size_of(path: Path) -> int:
    size = 0
    for found in path.rglob("*"):
        with suppress(OSError):
            if found.is_file():
                size += min(found.stat().st_size, found.stat().st_blocks * 512)
    return size


class _Copier:
    """Copies into *target*, and knows what it has copied."""

    def __init__(self, target: Path, progress: Progress | None, total_bytes: int) -> None:
        self._target = target
        self._progress = progress
        self._total_bytes = total_bytes
        self._done_bytes = 0
        self.files: list[BackupFile] = []
        self._sealed: list[str] = []
        # Chunks that are being written: the descriptor, and how far they are copied.
        self._open: dict[str, tuple[int, int]] = {}

    def close(self) -> None:
        """Let go of the chunks; twice is once."""
        while self._open:
            os.close(self._open.popitem()[1][0])

    @contextmanager
    def _writing(self, name: str) -> Generator[int]:
        path = self._target / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            yield fd
            os.fsync(fd)
        finally:
            os.close(fd)

    def write(self, name: str, content: bytes) -> None:
        """Make the file *name*."""
        with self._writing(name) as fd:
            _write_all(fd, content)

    def sync(self) -> None:
        """Bring the names of all files to the disk."""
        for path in (*{(self._target / file.name).parent for file in self.files}, self._target, self._target.parent):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def _note(self, name: str) -> None:
        """Take the file *name*, which is whole now, into the manifest."""
        digest, length = sha256(), 0
        with (self._target / name).open("rb") as source:
            while piece := source.read(_PIECE_BYTES):
                digest.update(piece)
                length += len(piece)
                breathe()
        self.files.append(BackupFile(name, length, digest.hexdigest()))

    def _tell(self, count: int) -> None:
        self._done_bytes = min(self._total_bytes, self._done_bytes + count)
        if self._progress is not None:
            self._progress(self._done_bytes, self._total_bytes, "backup")

    # The catalogue

    def catalogue(self, path: Path) -> None:
        """Copy the database, as it is at one moment, into one file that is read without making others."""
        name = f"{STORE}/{path.name}"
        with closing(CatalogueReader(path)) as reader, reader.snapshot() as source:
            if source is None:
                return
            with self._writing(name):
                pass  # so that it is private from the beginning
            (page_bytes,) = source.execute("PRAGMA page_size").fetchone()
            done = 0

            def told(_: int, left: int, pages: int) -> None:
                nonlocal done
                self._tell(max(0, pages - left - done) * page_bytes)
                done = pages - left

            with closing(sqlite3.connect(self._target / name)) as to:
                source.backup(to, pages=_PAGES, progress=told, sleep=0)
                (said,) = to.execute("PRAGMA quick_check(1)").fetchone()
                if said != "ok":
                    raise BackupError(str(path), f"is damaged and cannot be copied: {said}")
                if listed(to):
                    to.execute("DELETE FROM chunks")  # they are copied later
                    to.commit()
                to.execute("PRAGMA journal_mode = DELETE").fetchall()
        self._note(name)

    # Live files

    def live_files(self, live: Path, chunks: Path) -> str:
        """Copy what all processes have, as if it were of one moment, for the *chunks* as they are then; return the service's name."""
        counted = _counted(live)
        for _ in range(_TRIES):
            before = _state(live)
            self._note_chunks(chunks)  # what is in them is in the segments still, or marked as imported
            names = self._copy_live(live)
            if names is not None and _state(live) == before:
                break
        else:
            # Imports follow one another too quickly. Nothing is lost or counted twice, but the books of the copy have some records
            # as delivered that it has not marked so, and some in chunks that it has not counted.
            names = self._copy_live(live)
            self._note_chunks(chunks)
        if names is None:
            raise BackupError(str(live), _TOO_QUICK)
        self._balance(counted)
        service = ""
        for name in names:
            self._note(f"{_LIVE}/{name}")
            if name.endswith(ALIVE_SUFFIX):
                with suppress(LiveFileError):
                    head = (self._target / _LIVE / name).read_bytes()
                    service = read_header(head, ALIVE_MAGIC, name).service or service
        return service

    def _copy_live(self, live: Path) -> list[str] | None:
        """Copy the live files that there are, and return their names; None if one has gone meanwhile."""
        shutil.rmtree(self._target / _LIVE, ignore_errors=True)
        try:
            names = sorted(_live_names(live), key=_copied_when)
        except FileNotFoundError:
            return []  # the service was never started since it was restored
        for name in names:
            try:
                fd = os.open(live / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                return None
            try:
                with self._writing(f"{_LIVE}/{name}") as to:
                    _copy_live_file(fd, to, name)
            finally:
                os.close(fd)
            breathe()
        return names

    def _balance(self, counted: dict[str, float]) -> None:
        """
        Let no process have produced what it has recorded between the copies of its segment and its cells, but not less than *counted*,
        which was before both: what was missing by then is missing in the copy as well.
        """
        live = self._target / _LIVE
        found: dict[str, int] = {}
        for path in live.glob("*" + SEGMENT_SUFFIX):
            with suppress(LiveFileError), path.open("rb") as file, _mapped(file.fileno(), path.name) as segment:
                for _ in segment.pieces(is_dead=True):
                    breathe()
                process = process_of(path.name)
                found[process] = found.get(process, 0) + segment.total_frames + segment.corrupt_frames
        for process, records in found.items():  # who has no segment records in memory
            with ExitStack() as files:
                cells = _read_cells(live, process, files, is_writable=True)
                kept = records_kept(cells.series)
                uncounted = min(kept - records, kept - counted.get(process, 0.0))
                for series in cells.counters:
                    if series.key == PRODUCED:
                        cut = max(0.0, min(uncounted, series.cells[series.at]))
                        series.cells[series.at] -= cut
                        uncounted -= cut

    # Chunks

    def _note_chunks(self, path: Path) -> None:
        """Find out which chunks there are; of those that are being written no more is copied than there is now."""
        for _ in range(_LISTINGS):
            self.close()
            names = _chunk_names(path)
            with suppress(FileNotFoundError):  # sealed meanwhile
                for name in names:
                    if not name.endswith(SEALED_SUFFIX):
                        fd = os.open(path / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                        self._open[name] = fd, os.fstat(fd).st_size
                if _chunk_names(path) == names:
                    self._sealed = [name for name in names if name not in self._open]
                    return
        raise BackupError(str(path), _TOO_QUICK)

    def chunks(self, path: Path) -> None:
        """Copy the chunks that there were when the live files were copied."""
        for name, (fd, length) in self._open.items():
            self._copy_chunk(fd, length, name)
        for name in self._sealed:
            with suppress(FileNotFoundError):  # let go meanwhile
                fd = os.open(path / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    self._copy_chunk(fd, os.fstat(fd).st_size, name)
                finally:
                    os.close(fd)

    def _copy_chunk(self, fd: int, length: int, chunk: str) -> None:
        digest, name = sha256(), f"{STORE}/{CHUNKS}/{chunk}"
        with self._writing(name) as to:
            at = 0
            while at < length and (piece := os.pread(fd, min(_PIECE_BYTES, length - at), at)):
                _write_all(to, piece)
                digest.update(piece)
                at += len(piece)
                self._tell(len(piece))
                breathe()
        self.files.append(BackupFile(name, at, digest.hexdigest()))


def _chunk_names(path: Path) -> list[str]:
    try:
        return chunk_files([found.name for found in path.iterdir()])
    except FileNotFoundError:
        return []


def _counted(live: Path) -> dict[str, float]:
    """By process, how many records it has been given and has neither dropped nor suppressed."""
    counted: dict[str, float] = {}
    for process in {process_of(name) for name in _live_names(live) if name.endswith(CELLS_SUFFIX)}:
        with ExitStack() as files, suppress(FileNotFoundError):  # folded meanwhile
            counted[process] = records_kept(_read_cells(live, process, files).series)
    return counted


def _read_cells(live: Path, process: str, files: ExitStack, *, is_writable: bool = False) -> CellsReader:
    """The cells of *process*, mapped for as long as they are read. Raises FileNotFoundError if one is not there any more."""
    cells = CellsReader()
    for name in _live_names(live):
        if name.endswith(CELLS_SUFFIX) and process_of(name) == process:
            fd = os.open(live / name, (os.O_RDWR if is_writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NOFOLLOW)
            files.callback(os.close, fd)
            if is_writable:
                files.callback(os.fsync, fd)
            with suppress(LiveFileError, ValueError):  # damaged, or empty
                access = mmap.ACCESS_WRITE if is_writable else mmap.ACCESS_READ
                cells.add(mmap.mmap(fd, 0, access=access), name)
    cells.refresh()
    return cells


def _state(live: Path) -> tuple[object, ...]:
    """What changes when records are imported, or processes folded."""
    found: list[object] = []
    for name in sorted(_live_names(live)):
        with suppress(OSError, LiveFileError):
            if name.startswith(TOTALS):
                status = (live / name).stat()
                found.append((name, status.st_ino, status.st_mtime_ns))
            elif name.endswith(SEGMENT_SUFFIX):
                fd = os.open(live / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    with _mapped(fd, name) as reader:
                        found.append((name, reader.imports))
                finally:
                    os.close(fd)
    return tuple(found)


def _live_names(live: Path) -> list[str]:
    try:
        names = [path.name for path in live.iterdir()]
    except FileNotFoundError:
        return []
    kinds = (ALIVE_SUFFIX, CELLS_SUFFIX, SEGMENT_SUFFIX)
    return [
        name
        for name in names
        if not name.startswith(".") and (name.endswith(kinds) or name.startswith((LEADER, TOTALS)))
    ]


def _copied_when(name: str) -> tuple[int, str]:
    # Records before the cells that count them: what is counted and not there is not counted then, the other way would be a debt.
    return (0 if name.endswith(SEGMENT_SUFFIX) else 1 if name.endswith(CELLS_SUFFIX) else 2), name


@contextmanager
def _mapped(fd: int, name: str) -> Generator[SegmentReader]:
    if os.fstat(fd).st_size < HEADER_BYTES:
        raise LiveFileError(name, "is too short")
    with mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as memory, closing(SegmentReader(memory, name=name)) as reader:
        yield reader


def _copy_live_file(fd: int, to: int, name: str) -> None:
    if name.endswith(SEGMENT_SUFFIX):
        with suppress(LiveFileError), _mapped(fd, name) as reader:  # what is no segment is copied as it is
            reader.copy_to(to)
            return
    # One read, from the beginning to the end: what names something is in front of it and is written after it.
    content = bytearray(os.pread(fd, os.fstat(fd).st_size, 0))
    if name.endswith(ALIVE_SUFFIX):
        content[HEADER_BYTES:] = bytes(len(content) - HEADER_BYTES)  # nobody has killed it
    elif name.startswith(LEADER):
        # The catalogue was copied before: that it has fewer windows is no loss.
        content[WINDOWS_AT : WINDOWS_AT + 8] = bytes(len(content[WINDOWS_AT : WINDOWS_AT + 8]))
    used = content.rstrip(b"\0")
    _write_all(to, used)
    os.ftruncate(to, len(content))


def _write_all(fd: int, content: bytes | bytearray) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(fd, left) :]
