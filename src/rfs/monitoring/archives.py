"""
Archives: history that is put aside, as a folder or at any URL that fsspec knows, and brought back or read where it lies.

An archive is laid out as a store is, ``catalogue.sqlite`` and ``chunks/``, and has a manifest, ``manifest.json``, with the length
and the SHA-256 of each file, and its own. It holds the sealed chunks of which no record is younger than a given time, as they are,
encrypted or not, and the windows of the whole days (UTC) of before, of each tier that is still kept. The manifest is written last: a
folder without one is no archive, and archiving anew overwrites what a killed process has left there.

Each verb works beside a service that runs. What it does to the store's catalogue it does in short turns, under the epoch of whoever
leads. All of them may be called again after a kill, and then go on.

Restored records and windows are subject to the store's `Retention` as ever: what is older than it allows is better read with
`ArchiveReader`, or restored into a directory of its own.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from time import time
from typing import Any, BinaryIO, Protocol, Self, cast

import msgspec

from rfs.errors import ArchiveError, StaleLeaderError, StoreError, StoreFileError
from rfs.monitoring._capture.pace import breathe
from rfs.monitoring._capture.segments import NOTHING_WAITS
from rfs.monitoring._store import StoredRecord, Wanted
from rfs.monitoring._store.catalogue import Catalogue, CatalogueReader, connect
from rfs.monitoring._store.chunks import SEALED_SUFFIX, ChunkReader
from rfs.monitoring._store.forking import DatabaseLock
from rfs.monitoring._store.keys import KeyRing
from rfs.monitoring._store.listing import ChunkList, Listed
from rfs.monitoring._store.local import CATALOGUE, LocalReader
from rfs.monitoring._store.ranges import WindowReader
from rfs.monitoring._store.records import RecordReader
from rfs.monitoring._store.retention import CHUNKS
from rfs.monitoring._store.windows import DAY, WindowWriter

__all__ = ["ArchiveReader", "ArchivedFile", "Manifest", "Progress", "archive", "read_manifest", "restore", "verify"]

VERSION = 1
MANIFEST = "manifest.json"

_PIECE_BYTES = 1 << 20
_PATIENCE_SECONDS = 30.0  # for the leader's longest turn

Progress = Callable[[int, int, str], object]
"""Told how many bytes are done, of how many, and what is being done: ``archive``, ``verify``, ``delete`` or ``restore``."""


class ArchivedFile(msgspec.Struct, frozen=True):
    """
    A file of an archive: what is in it is from *since_ns* to *until_ns*, both included, in unix nanoseconds.

    ``name`` is that of the store; ``revision`` says how often it was changed since it was archived.
    """

    name: str
    bytes: int
    sha256: str
    since_ns: int
    until_ns: int
    records: int = 0
    revision: int = 0

    @property
    def path(self) -> str:
        """Where in the archive it lies: of each revision somewhere else."""
        stem, _, suffix = self.name.rpartition(".")
        return f"{stem}.{self.revision}.{suffix}" if self.revision else self.name


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """
    What an archive is.

    ``before`` is the time that was given: no record is of then or later; ``windows_until`` is the unix second at which the day begins
    up to which windows are in it (0: none are).
    """

    version: int = VERSION
    service: str
    created: datetime
    before: datetime
    windows_until: int
    files: list[ArchivedFile]

    @property
    def chunks(self) -> list[ArchivedFile]:
        """The files of records."""
        return [file for file in self.files if file.name != CATALOGUE]


class _Signed(msgspec.Struct):
    archive: msgspec.Raw
    sha256: str


# Where archives are


class _Place(Protocol):
    """Where an archive is, or will be."""

    def reading(self, name: str) -> BinaryIO:
        """The file of that name, open; raises FileNotFoundError."""
        ...

    def writing(self, name: str) -> AbstractContextManager[BinaryIO]:
        """A new file; it is there at the end of the block."""
        ...

    def names(self) -> list[str]:
        """All files that lie there."""
        ...

    def remove(self, name: str) -> None:
        """Remove the file of that name; raises FileNotFoundError."""
        ...


class _Folder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def reading(self, name: str) -> BinaryIO:
        return (self.path / name).open("rb")

    @contextmanager
    def writing(self, name: str) -> Generator[BinaryIO]:
        path = self.path / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        with _private(part) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _sync(path.parent)

    def names(self) -> list[str]:
        return [str(path.relative_to(self.path)) for path in self.path.rglob("*") if path.is_file()]

    def remove(self, name: str) -> None:
        (self.path / name).unlink()


class _FileSystem(Protocol):
    def open(self, path: str, mode: str) -> BinaryIO: ...

    def makedirs(self, path: str, *, exist_ok: bool) -> None: ...

    def find(self, path: str) -> list[str]: ...

    def invalidate_cache(self) -> None: ...

    def rm_file(self, path: str) -> None: ...


class _Remote:
    def __init__(self, url: str) -> None:
        try:
            url_to_fs = import_module("fsspec.core").url_to_fs  # published without types
        except ImportError as error:
            raise ArchiveError(url, "needs an optional package: pip install 'rfs[archive]'") from error
        system, root = cast("tuple[_FileSystem, str]", url_to_fs(url))
        self._system = system
        self._root = root.rstrip("/")

    def reading(self, name: str) -> BinaryIO:
        return self._system.open(f"{self._root}/{name}", "rb")

    @contextmanager
    def writing(self, name: str) -> Generator[BinaryIO]:
        path = f"{self._root}/{name}"
        self._system.makedirs(path.rpartition("/")[0], exist_ok=True)
        with self._system.open(path, "wb") as file:
            yield file

    def names(self) -> list[str]:
        self._system.invalidate_cache()
        return [path.removeprefix(f"{self._root}/") for path in self._system.find(self._root)]

    def remove(self, name: str) -> None:
        self._system.rm_file(f"{self._root}/{name}")


def _private(path: Path) -> BinaryIO:
    """A new file that nobody else may read."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb")


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _place(target: str | Path) -> _Place:
    return _Remote(target) if isinstance(target, str) and "://" in target else _Folder(Path(target))


# Copying


class _Work:
    """Tells how far it is."""

    def __init__(self, told: Progress | None, what: str, total_bytes: int) -> None:
        self._told = told
        self._what = what
        self._total_bytes = total_bytes
        self._done_bytes = 0
        self.add(0)

    def add(self, count: int) -> None:
        self._done_bytes += count
        if self._told is not None:
            self._told(min(self._done_bytes, self._total_bytes), self._total_bytes, self._what)


def _copied(source: BinaryIO, to: BinaryIO | None, work: _Work) -> tuple[int, str]:
    """Copy, or only read; return how many bytes that were, and their SHA-256."""
    digest, length = sha256(), 0
    while piece := source.read(_PIECE_BYTES):
        digest.update(piece)
        length += len(piece)
        if to is not None:
            to.write(piece)
        work.add(len(piece))
        breathe()
    return length, digest.hexdigest()


def _fetched(place: _Place, file: ArchivedFile, to: Path | None, work: _Work) -> bool:
    """Read a file of an archive, into *to* if that is given; whether it is as the manifest says."""
    with ExitStack() as stack:
        try:
            source = stack.enter_context(place.reading(file.path))
        except FileNotFoundError:
            return False
        found = _copied(source, None if to is None else stack.enter_context(_private(to)), work)
    return found == (file.bytes, file.sha256)


# Archiving


def archive(
    store: Path,
    target: str | Path,
    *,
    before: datetime,
    service: str = "",
    delete: bool = False,
    progress: Progress | None = None,
    now: Callable[[], float] = time,
) -> Manifest:
    """
    Write an archive of what the store in the directory *store* has of before that time.

    Args:
        target: A folder, or a URL for fsspec. An archive that is there already, of the same *before*, is taken as it is.
        before: With its time zone.
        service: Whose store it is; noted in the manifest.
        delete: Then remove from the store what has been archived, and read back.

    Raises:
        ArchiveError: At *target* is another archive, or what was written there is not what is read back.
        StoreError: The store cannot be read, or for *delete* not be written.
        OSError: *target* cannot be written.
    """
    if before.tzinfo is None:
        raise ArchiveError(str(target), f"cannot be made of before {before}, which has no time zone")
    place = _place(target)
    try:
        manifest = _read_manifest(place, target)
    except FileNotFoundError:
        manifest = _write(store, place, before, service, progress, now)
    if manifest.before != before:
        fault = f"is an archive of before {manifest.before.isoformat()} already; give the same time, or another target"
        raise ArchiveError(str(target), fault)
    if delete:
        verify(target, progress=progress)
        _delete(store, manifest, progress)
    return manifest


def _write(
    store: Path, place: _Place, before: datetime, service: str, progress: Progress | None, now: Callable[[], float]
) -> Manifest:
    files: list[ArchivedFile] = []
    with _scratch(store) as scratch:
        windows = _copy_windows(store, scratch / CATALOGUE, int(before.timestamp()))
        chunks = _chunks_before(store, before)
        sizes = [entry.bytes for entry in chunks]
        work = _Work(progress, "archive", sum(sizes) + ((scratch / CATALOGUE).stat().st_size if windows else 0))
        if windows:
            with (scratch / CATALOGUE).open("rb") as source:
                length, digest = _sent(place, CATALOGUE, source, work)
            files.append(ArchivedFile(CATALOGUE, length, digest, windows[0] * 10**9, windows[1] * 10**9 - 1))
        for chunk in chunks:
            try:
                source = (store / chunk.name).open("rb")
            except FileNotFoundError:
                continue  # retention was quicker
            with source:
                length, digest = _sent(place, chunk.name, source, work)
            if length == chunk.bytes:  # else it was let go while it was read
                files.append(msgspec.structs.replace(chunk, sha256=digest))
    created = datetime.fromtimestamp(now(), UTC)
    until = windows[1] if windows else 0
    manifest = Manifest(service=service, created=created, before=before, windows_until=until, files=files)
    _write_manifest(place, manifest)
    return manifest


def _write_manifest(place: _Place, manifest: Manifest) -> None:
    content = msgspec.json.format(msgspec.json.encode(manifest))
    signed = b'{"archive": ' + content + b', "sha256": "' + sha256(content).hexdigest().encode() + b'"}\n'
    with place.writing(MANIFEST) as file:
        file.write(signed)


def _sent(place: _Place, name: str, source: BinaryIO, work: _Work) -> tuple[int, str]:
    with place.writing(name) as file:
        return _copied(source, file, work)


@contextmanager
def _scratch(store: Path) -> Generator[Path]:
    """
    An empty folder on the store's own disk, where SQLite works, gone afterwards; what one that was killed has left there goes first.

    Raises:
        ArchiveError: Another process has it.
    """
    path = store / ".unfinished"
    path.mkdir(mode=0o700, exist_ok=True)
    with _opened(path) as directory:
        assert directory is not None  # noqa: S101 - it was made
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fault = "another process works on it at this moment"
            raise ArchiveError(str(store), fault) from None
        _empty(path)
        try:
            yield path
        finally:
            _empty(path)
            path.rmdir()


def _empty(path: Path) -> None:
    for found in path.iterdir():
        shutil.rmtree(found) if found.is_dir() else found.unlink()


def _chunks_before(store: Path, before: datetime) -> list[ArchivedFile]:
    """The sealed chunks of which all records are of before that time; their checksums are still to be found out."""
    limit_ns = int(before.timestamp() * 1e6) * 1_000
    found: list[ArchivedFile] = []
    with _opened(store / CHUNKS) as directory:
        if directory is None:
            return found
        for name in sorted(path.name for path in (store / CHUNKS).glob(f"[!.]*{SEALED_SUFFIX}")):
            with suppress(
                FileNotFoundError, StoreFileError
            ):  # gone meanwhile; or not to be read, and it stays where it is
                chunk = ChunkReader(directory, name)
                if chunk.last_ns < limit_ns:
                    size = (store / CHUNKS / name).stat().st_size
                    found.append(
                        ArchivedFile(f"{CHUNKS}/{name}", size, "", chunk.first_ns, chunk.last_ns, chunk.records)
                    )
                chunk.close()
            breathe()
    return found


@contextmanager
def _opened(path: Path) -> Generator[int | None]:
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        yield directory
    finally:
        os.close(directory)


def _copy_windows(store: Path, to: Path, before: int) -> tuple[int, int] | None:
    """Make a catalogue at *to* of the windows of the days before; return from and to which second they are, or None if there are none."""
    with closing(CatalogueReader(store / CATALOGUE)) as reader, reader.snapshot() as source:
        if source is None:
            return None
        until = before - before % DAY
        # What is not in blocks yet stays, and what there are no hours of, and all that is younger.
        for question in (_IN_NO_BLOCK, _IN_NO_HOUR):
            (oldest,) = source.execute(question).fetchone()
            until = until if oldest is None else min(until, oldest - oldest % DAY)
        (since,) = source.execute("SELECT min(start) FROM blocks WHERE start < ?", (until,)).fetchone()
        if since is None:
            return None
        with closing(_catalogue(to, 0)) as catalogue:
            for table, condition in _ARCHIVED:
                _copy_rows(source, catalogue, table, condition, until)
        make_single(to)
    return since, until


_IN_NO_BLOCK = "SELECT min(second) FROM journal"
_IN_NO_HOUR = "SELECT min(start) FROM blocks WHERE width = 60 AND span = 60"
# Lifetime totals tell what a gauge was at the beginning of its first window.
_ARCHIVED = (("series", ""), ("totals", ""), ("cuts", ""), ("blocks", "WHERE start < ?"))


def _copy_rows(source: sqlite3.Connection, to: Catalogue, table: str, condition: str, until: int) -> None:
    rows = source.execute(f"SELECT * FROM {table} {condition}", (until,) if condition else ())  # noqa: S608 - as above
    insert = f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows.description))})"  # noqa: S608
    while some := rows.fetchmany(200):
        with to.turn() as turn:
            turn.executemany(insert, some)
        breathe()


def make_single(path: Path) -> None:
    """Leave the database at *path* as one file that can be read where nothing can be written."""
    with DatabaseLock(), closing(connect(path, "rw")) as connection:
        connection.execute("PRAGMA journal_mode = DELETE").fetchall()
    path.with_name(path.name + ".lock").unlink(missing_ok=True)


# Reading, and checking


def _read_manifest(place: _Place, target: str | Path) -> Manifest:
    with place.reading(MANIFEST) as file:
        content = file.read()
    try:
        signed = msgspec.json.decode(content, type=_Signed)
        if sha256(signed.archive).hexdigest() != signed.sha256:
            raise ArchiveError(str(target), f"has a damaged {MANIFEST}: its checksum is wrong")
        version = msgspec.json.decode(signed.archive, type=dict[str, Any])["version"]
        if version > VERSION:
            fault = f"has version {version}; this library reads up to version {VERSION}. Upgrade rfs here"
            raise ArchiveError(str(target), fault)
        return msgspec.json.decode(signed.archive, type=Manifest)
    except (ValueError, KeyError, TypeError) as error:
        raise ArchiveError(str(target), f"has a damaged {MANIFEST}: {error}") from error


def read_manifest(target: str | Path) -> Manifest:
    """
    What the archive at *target* is, without reading more of it.

    Raises:
        ArchiveError: There is none, or its manifest is damaged.
        OSError: *target* cannot be read.
    """
    return _found(target)[1]


def verify(target: str | Path, *, progress: Progress | None = None) -> Manifest:
    """
    Read all of an archive; return its manifest.

    Raises:
        ArchiveError: There is none, or a file of it is missing or was changed; it names all that are.
        OSError: *target* cannot be read.
    """
    place, manifest = _found(target)
    _check(target, manifest, lambda file, work: _fetched(place, file, None, work), progress, "verify")
    return manifest


def _found(target: str | Path) -> tuple[_Place, Manifest]:
    place = _place(target)
    try:
        return place, _read_manifest(place, target)
    except FileNotFoundError:
        raise ArchiveError(
            str(target), f"has no {MANIFEST}: archiving was not finished, or nothing was archived"
        ) from None


def _check(
    target: str | Path,
    manifest: Manifest,
    is_whole: Callable[[ArchivedFile, _Work], bool],
    progress: Progress | None,
    what: str,
) -> None:
    work = _Work(progress, what, sum(file.bytes for file in manifest.files))
    faulty = [file.name for file in manifest.files if not is_whole(file, work)]
    if faulty:
        raise ArchiveError(str(target), f"is damaged: {', '.join(faulty)} missing, or not as when archived")


# Writing beside a leader


def _catalogue(path: Path, epoch: int) -> Catalogue:
    def refuse(code: str, text: str) -> None:
        raise StoreError(str(path), text, code)

    return Catalogue(path, epoch=epoch, on_problem=refuse, now=time, patience_seconds=_PATIENCE_SECONDS)


def with_windows(store: Path, work: Callable[[WindowWriter], object]) -> None:
    """Do *work*, which may be done again, under the epoch of whoever leads."""
    _with_catalogue(store, lambda catalogue: work(WindowWriter(catalogue, on_problem=_pass_over)))


def _with_catalogue(store: Path, work: Callable[[Catalogue], object]) -> None:
    while True:
        with closing(CatalogueReader(store / CATALOGUE)) as reader, reader.snapshot() as source:
            found = source and source.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
        with closing(_catalogue(store / CATALOGUE, found[0] if found else 0)) as catalogue, suppress(StaleLeaderError):
            work(catalogue)
            return


def _with_list(store: Path, work: Callable[[ChunkList], object]) -> None:
    """Likewise, on the list of chunks, if there is one; else the next leader makes it."""
    if (store / CATALOGUE).exists():
        _with_catalogue(store, lambda catalogue: work(ChunkList(catalogue)))


def _pass_over(code: str, text: str) -> None:
    """What is damaged is left out, and whoever reads the store says so."""


def _delete(store: Path, manifest: Manifest, progress: Progress | None) -> None:
    work = _Work(progress, "delete", sum(file.bytes for file in manifest.chunks))
    if manifest.windows_until:
        with_windows(store, lambda writer: writer.forget_before(manifest.windows_until))
    doomed: list[ArchivedFile] = []
    for file in manifest.chunks:
        with suppress(FileNotFoundError), (store / file.name).open("rb") as source:
            if _copied(source, None, work) == (file.bytes, file.sha256):
                doomed.append(file)  # else it was changed since, as when something was erased from it
    if doomed:
        _with_list(store, lambda chunks: chunks.forget([_chunk_name(file) for file in doomed]))
    for file in doomed:
        (store / file.name).unlink(missing_ok=True)


def _chunk_name(file: ArchivedFile) -> str:
    return file.name.rpartition("/")[2].removesuffix(SEALED_SUFFIX)


# Restoring


def restore(target: str | Path, store: Path, *, progress: Progress | None = None) -> Manifest:
    """
    Bring what is in an archive back into the store in the directory *store*, which may be new, or that of a service that runs.

    Everything is read and checked before anything is changed. What the store has already stays as it is, so restoring again changes
    nothing. Of several archives, restore the newest first: a fine tier of windows that has nothing between the archive and what is kept
    is left out, and a coarser one stands for it.

    Raises:
        ArchiveError: There is none, or it is damaged.
        StoreError: The catalogue cannot be written; what has been restored stays, and it may be tried again.
        OSError: A file cannot be read or written; likewise.
    """
    place, manifest = _found(target)
    chunks = store / CHUNKS
    chunks.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _scratch(store) as scratch:
        (scratch / CHUNKS).mkdir()
        _check(
            target, manifest, lambda file, work: _fetched(place, file, scratch / _safe(file), work), progress, "restore"
        )
        for file in manifest.chunks:
            with (scratch / file.name).open("rb") as fetched:
                os.fsync(fetched.fileno())
            with suppress(FileExistsError):
                os.link(scratch / file.name, store / file.name)
        _sync(chunks)
        if manifest.windows_until:
            _catalogue(scratch / CATALOGUE, 0).close()  # one of an older version becomes one of ours
            with closing(CatalogueReader(scratch / CATALOGUE)) as reader:
                with_windows(store, lambda writer: _restore_windows(writer, reader, manifest.windows_until))
        restored = [Listed(_chunk_name(file), file.records, 0) for file in manifest.chunks]
        if restored:
            _with_list(store, lambda chunks: chunks.note(restored))
    return manifest


def _safe(file: ArchivedFile) -> str:
    """
    The name of a file of an archive.

    Raises:
        ArchiveError: It is none that an archive has, but leads elsewhere.
    """
    folder, _, name = file.name.rpartition("/")
    if file.name != CATALOGUE and (folder != CHUNKS or name.startswith(".") or not name.endswith(SEALED_SUFFIX)):
        raise ArchiveError(file.name, "is no name of a file of an archive")
    return file.name


def _restore_windows(writer: WindowWriter, reader: CatalogueReader, until: int) -> None:
    with reader.snapshot() as archived:
        assert archived is not None  # noqa: S101 - it was made, and checked
        for _ in writer.restore(archived, until):
            breathe()


# Changing it


def revise(
    target: str | Path,
    change: Callable[[Path, ArchivedFile], ArchivedFile | None],
    *,
    on_damaged: Callable[[ArchivedFile], object],
) -> None:
    """
    Let *change* make something else of the files of an archive.

    It is given each, checked, in a folder of its own, and returns the file itself if it has left it as it is, another one to take its
    place, of which the length, the checksum and the revision are found out here, or None if it is to go. What is damaged stays, and is
    told to *on_damaged*.

    What is new is written beside what it stands for; then the manifest changes at once, and what it no longer names goes. So the
    archive is whole whenever this is killed, and the next call removes what that has left.

    Raises:
        ArchiveError: There is none, or another process works on it.
        OSError: A file cannot be read or written; then nothing was changed.
    """
    place, manifest = _found(target)
    files: list[ArchivedFile] = []
    work = _Work(None, "", 0)
    with _copies(place) as folder:
        (folder / CHUNKS).mkdir()
        for file in manifest.files:
            copy = folder / _safe(file)
            if not _fetched(place, file, copy, work):
                on_damaged(file)
                files.append(file)
                continue
            changed = change(folder, file)
            if changed is not None and changed is not file:
                changed = msgspec.structs.replace(changed, revision=file.revision + 1)
                with copy.open("rb") as source:
                    length, digest = _sent(place, changed.path, source, work)
                changed = msgspec.structs.replace(changed, bytes=length, sha256=digest)
            if changed is not None:
                files.append(changed)
            copy.unlink()
        if files != manifest.files:
            _write_manifest(place, msgspec.structs.replace(manifest, files=files))
    named = {file.path for file in files}
    for name in place.names():
        if name not in named and _is_of_an_archive(name):
            place.remove(name)


@contextmanager
def _copies(place: _Place) -> Generator[Path]:
    """An empty folder, gone afterwards; of an archive in a folder it is on the same disk, and for one process at a time."""
    if isinstance(place, _Folder):
        with _scratch(place.path) as folder:
            yield folder
    else:
        with TemporaryDirectory(prefix="rfs-archive-") as made:
            yield Path(made)


def _is_of_an_archive(name: str) -> bool:
    """Whether that is the name of a file of any revision, whole or being written."""
    folder, _, own = name.rpartition("/")
    return (folder == CHUNKS and SEALED_SUFFIX in own) or (not folder and own.startswith(CATALOGUE.partition(".")[0]))


# Reading it where it lies


class ArchiveReader(LocalReader):
    """
    Answers from an archive that is not restored; a `Reader`, of what the archive has.

    One in a folder is read where it is. Of one elsewhere the windows are fetched at once, and the records chunk by chunk as they are
    asked for, into a temporary folder; what is fetched is checked.

    Args:
        keys: For records that are encrypted.
        on_problem: Told the code and the text of what is damaged and left out.
        now: Unix time in seconds.

    Raises:
        ArchiveError: There is none, or its windows are not as when archived.
        OSError: It cannot be read.

    Safe from any thread. `close` gives everything back; so does the end of a ``with`` block.
    """

    def __init__(
        self,
        target: str | Path,
        *,
        keys: KeyRing | None = None,
        on_problem: Callable[[str, str], None] = _pass_over,
        now: Callable[[], float] = time,
    ) -> None:
        self._place, self.manifest = _found(target)
        self._on_problem = on_problem
        self._lock = Lock()
        self._closing = ExitStack()
        self._missing: list[ArchivedFile] = []  # the newest first
        with ExitStack() as stack:
            windows_file = next((file for file in self.manifest.files if file.name == CATALOGUE), None)
            catalogue = CATALOGUE if windows_file is None else windows_file.path
            path = self._place.path if isinstance(self._place, _Folder) else None
            if path is None or not self._is_as_a_store(path, catalogue):
                path = Path(stack.enter_context(TemporaryDirectory(prefix="rfs-archive-")))
                catalogue = CATALOGUE
                (path / CHUNKS).mkdir()
                self._missing = sorted(self.manifest.chunks, key=lambda file: -file.until_ns)
                if windows_file is not None:
                    if not _fetched(self._place, windows_file, path / CATALOGUE, _Work(None, "", 0)):
                        raise ArchiveError(str(target), f"is damaged: {CATALOGUE} missing, or not as when archived")
                    _catalogue(path / CATALOGUE, 0).close()
            self._path = path
            snapshots = stack.enter_context(closing(CatalogueReader(path / catalogue)))
            windows = WindowReader(snapshots, on_problem=on_problem)
            records = RecordReader(path, on_problem=on_problem, keys=keys)
            stack.enter_context(closing(records))
            self._closing = stack.pop_all()
        super().__init__(windows.at(None, now()), windows.statistics, records, lambda _text: NOTHING_WAITS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all files; twice is once."""
        self._closing.close()

    def _is_as_a_store(self, path: Path, catalogue: str) -> bool:
        """
        Whether it can be read in *path* as it is: else what is in the manifest is copied, and a catalogue of an older version made
        a new one in the copy.
        """
        found = {f"{CHUNKS}/{file.name}" for file in (path / CHUNKS).glob(f"[!.]*{SEALED_SUFFIX}")}
        if found != {file.path for file in self.manifest.chunks}:
            return False  # some are missing, or are of a revision that is not finished, or left by it
        if not self.manifest.windows_until:
            return True
        with closing(CatalogueReader(path / catalogue)) as reader, reader.snapshot() as windows:
            return windows is not None

    def records(self, wanted: Wanted, *, limit: int, before: str | None = None) -> list[StoredRecord]:
        """As `Reader.records`; what it needs is fetched first."""
        while True:
            found = super().records(wanted, limit=limit, before=before)
            oldest_ns = found[-1].frame.time_ns if len(found) >= limit > 0 else wanted.since_ns
            if not self._fetch(max(wanted.since_ns, oldest_ns), wanted.until_ns):
                return found

    def _fetch(self, since_ns: int, until_ns: int) -> bool:
        """Fetch the newest chunk that is missing and has records of that time; False if there is none."""
        with self._lock:
            for file in self._missing:
                if file.until_ns < since_ns or file.since_ns >= until_ns:
                    continue
                part = self._path / (file.name.rpartition("/")[2] + ".part")
                if _fetched(self._place, file, part, _Work(None, "", 0)):
                    part.rename(self._path / _safe(file))
                else:
                    self._on_problem(
                        "S113", f"{file.name} of the archive is missing, or not as when archived; left out"
                    )
                self._missing.remove(file)
                return True
        return False

    def statistics(self) -> Mapping[str, float]:
        """As `Reader.statistics`; ``records`` and ``record_bytes`` are those of the manifest."""
        chunks = self.manifest.chunks
        counted = {"records": sum(file.records for file in chunks), "record_bytes": sum(file.bytes for file in chunks)}
        return {**super().statistics(), **counted}
