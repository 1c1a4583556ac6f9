"""
How records are let go.

They go by whole chunks, the oldest first, and a chunk goes by being unlinked: that takes no space, and a kill leaves it there or
gone. The chunk that is being written stays; a draft of one, which has a hidden name, goes when it has not changed for a minute.
Sizes are those of the directory's listing at each call and are never kept, so they are right whatever happened before. Who reads a
chunk that is removed reads it to its end.

**A full disk.** `RecordRetention.keep` sees to a file of `RESERVE_BYTES` in the store's directory that nothing is in. When something
could not be written for want of space, `RecordRetention.make_room` gives it up first, for the catalogue needs space even to let
something go; then the oldest chunks go until `ROOM_BYTES` are free beside a new reserve. These are also emptied, because a file
that somebody has open takes its space until it is closed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from rfs.errors import StoreFileError
from rfs.monitoring._capture.pace import breathe
from rfs.monitoring._store.chunks import OPEN_SUFFIX, SEALED_SUFFIX, TAKEN_SUFFIX, ChunkReader
from rfs.monitoring.retention import Retention

CHUNKS = "chunks"  # the directory that they are in
RESERVE = "reserve"
RESERVE_BYTES = 4 << 20
ROOM_BYTES = 16 << 20  # as much as the catalogue's log grows to before it is cut
_ROOM_FILES = 16
_DRAFT_SECONDS = 60  # for which a draft has not changed when it is taken for one that a killed process has left
_LEAP_SECONDS = (
    3_600  # by which a clock may be ahead of the call before; one that is ahead for a moment must not empty the store
)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class Freed(NamedTuple):
    """
    What one call of `RecordRetention` has let go, and what is left.

    ``left_bytes`` is how large all chunks are now, the open one and drafts included. ``has_room`` says whether the reserve is there:
    if it is not, the disk is all but full.
    """

    chunks: int
    records: int
    bytes: int
    left_bytes: int
    has_room: bool


class _Sealed(NamedTuple):
    file: str
    identity: tuple[int, int]  # of the file, and when it was written
    bytes: int
    last_ns: int
    records: int

    @property
    def name(self) -> str:
        return self.file.removesuffix(SEALED_SUFFIX)


def _nobody(_names: list[str]) -> None:
    pass


class RecordRetention:
    """
    Lets go the chunks of the store in the directory *path*; for the leader's thread.

    Args:
        now: Unix time in seconds.
        forget: Handed the names of chunks before they go, so that nobody misses them.

    Chunks that cannot be read, or only by a newer version, are neither removed nor counted. Two that do this at the same time, because
    one was taken for dead, remove what one would have.

    Raises (both methods):
        OSError: The directory cannot be read, or a chunk cannot be removed; the others have been.
    """

    def __init__(
        self,
        path: Path,
        policy: Retention,
        now: Callable[[], float],
        forget: Callable[[list[str]], None] = _nobody,
    ) -> None:
        self._path = path
        self._forget = forget
        self._policy = policy
        self._now = now
        self._seen_now = now()
        self._known: dict[str, _Sealed] = {}
        self._drafts: dict[str, tuple[tuple[int, ...], float]] = {}  # what each was like, and since when

    def keep(self) -> Freed:
        """Keep the policy's limits, both of them; to be called once a minute."""
        now = self._now()
        believed, self._seen_now = min(now, self._seen_now + _LEAP_SECONDS), now
        limit_bytes = self._policy.records_bytes
        oldest_ns = (believed - self._policy.records_seconds) * 1e9
        with self._chunks() as directory:
            sealed, left_bytes, left_drafts = self._listed(directory, now)
            doomed: list[_Sealed] = []
            for chunk in sealed:
                if chunk.last_ns >= oldest_ns and left_bytes <= limit_bytes:
                    break
                doomed.append(chunk)
                left_bytes -= chunk.bytes
            if doomed:
                self._forget([chunk.name for chunk in doomed])
            _remove(directory, [*left_drafts, *(chunk.file for chunk in doomed)])
        return Freed(*_sums(doomed), left_bytes, self._has_reserve() or self._make_reserve())

    def make_room(self) -> Freed:
        """
        Make room on a full disk, by chunks that the policy would have kept; to be called when a `StoreError` says ``S102``.

        Afterwards what could not be written may be tried again, even if ``has_room`` is False and others need all the space that there
        is: there is as much as the reserve was.
        """
        with suppress(FileNotFoundError):
            (self._path / RESERVE).unlink()
        doomed: list[_Sealed] = []
        with self._chunks() as directory:
            sealed, left_bytes, left_drafts = self._listed(directory, self._now())
            _remove(directory, left_drafts)
            waiting = iter(sealed)
            while not (has_room := self._make_reserve()) and (chunk := next(waiting, None)) is not None:
                self._forget([chunk.name])
                _remove_and_empty(directory, chunk)
                doomed.append(chunk)
                left_bytes -= chunk.bytes
        return Freed(*_sums(doomed), left_bytes, has_room)

    @contextmanager
    def _chunks(self) -> Generator[int]:
        directory = os.open(self._path / CHUNKS, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield directory
        finally:
            os.close(directory)

    def _listed(self, directory: int, now: float) -> tuple[list[_Sealed], int, list[str]]:
        """The sealed chunks, the oldest first; the bytes of all chunks and drafts; and the drafts, not counted, that nobody writes."""
        found: list[_Sealed] = []
        open_bytes = 0
        left: list[str] = []
        before, self._drafts = self._drafts, {}
        with os.scandir(directory) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.name.startswith("."):
                        status = entry.stat(follow_symlinks=False)
                        like = status.st_ino, status.st_size, status.st_mtime_ns
                        known, since = before.get(entry.name, (like, now))
                        self._drafts[entry.name] = like, since if known == like else now
                        if known == like and now - since >= _DRAFT_SECONDS:
                            left.append(entry.name)
                        else:
                            open_bytes += status.st_size
                    elif entry.name.endswith(SEALED_SUFFIX):
                        chunk = self._sealed(directory, entry)
                        found += () if chunk is None else (chunk,)
                    elif entry.name.endswith((OPEN_SUFFIX, TAKEN_SUFFIX)):
                        open_bytes += entry.stat(follow_symlinks=False).st_size
                breathe()
        self._known = {chunk.file: chunk for chunk in found}
        found.sort(key=lambda chunk: (chunk.last_ns, chunk.file))
        return found, open_bytes + sum(chunk.bytes for chunk in found), left

    def _sealed(self, directory: int, entry: os.DirEntry[str]) -> _Sealed | None:
        status = entry.stat(follow_symlinks=False)
        identity = status.st_ino, status.st_mtime_ns
        known = self._known.get(entry.name)
        if known is not None and known.identity == identity:
            return known
        try:
            reader = ChunkReader(directory, entry.name)
        except (StoreFileError, OSError):  # whoever reads records says so
            return None
        try:
            return _Sealed(entry.name, identity, status.st_size, reader.last_ns, reader.records)
        finally:
            reader.close()

    def _has_reserve(self) -> bool:
        try:
            return (self._path / RESERVE).stat().st_size == RESERVE_BYTES
        except FileNotFoundError:
            return False

    def _make_reserve(self) -> bool:
        """Make the reserve, if there is room for it and more; return whether it is there."""
        status = os.statvfs(self._path)
        if status.f_bavail * status.f_frsize < RESERVE_BYTES + ROOM_BYTES:
            return False
        if status.f_files and status.f_favail < _ROOM_FILES:
            return False
        path = self._path / RESERVE
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.posix_fallocate(fd, 0, RESERVE_BYTES)
            finally:
                os.close(fd)
        except OSError as error:  # a quota, of which the file system says nothing
            path.unlink(missing_ok=True)
            if error.errno not in _NO_SPACE:
                raise
            return False
        return True


def _sums(chunks: Iterable[_Sealed]) -> tuple[int, int, int]:
    """How many chunks these are, and their records and bytes."""
    counted = [(chunk.records, chunk.bytes) for chunk in chunks]
    return len(counted), sum(records for records, _ in counted), sum(size for _, size in counted)


def _remove(directory: int, files: Iterable[str]) -> None:
    failed: OSError | None = None
    for file in files:
        try:
            os.unlink(file, dir_fd=directory)
        except FileNotFoundError:
            pass  # another has done it
        except OSError as error:
            failed = failed or error
        breathe()
    if failed is not None:
        raise failed


def _remove_and_empty(directory: int, chunk: _Sealed) -> None:
    with suppress(FileNotFoundError):
        fd = os.open(chunk.file, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory)
        try:
            os.unlink(chunk.file, dir_fd=directory)
            os.ftruncate(fd, 0)
        finally:
            os.close(fd)
    breathe()
