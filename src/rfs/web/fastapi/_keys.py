"""
Keys to the dashboard: one-time start tokens and sessions.

Of a secret only its SHA-256 comes here. `MemoryKeys` keeps it in this process. `FileKeys` keeps one small file per key in a
directory that belongs to this user alone, so that every worker knows the same keys; removing a start token's file is its one use,
which the kernel grants to one process only.

Both are bounded: 16 sessions and 32 start tokens; the oldest makes room.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from struct import Struct
from typing import NamedTuple, Protocol

SESSION_IDLE_SECONDS = 30 * 60.0
SESSION_SECONDS = 12 * 3600.0
START_SECONDS = 12 * 3600.0  # a start token's least life; it lives on as long as the process that made it
MAX_SESSIONS = 16
MAX_START_TOKENS = 32

_START = "start-"
_SESSION = "session-"
_HIDDEN = ".new-"
_HIDDEN_SECONDS = 60.0  # what is hidden for longer was left behind by a process that was killed while it wrote
_ENTRY = Struct("<dd36s")  # began, last used (seconds of the monotonic clock), and the boot that this clock counts from
_USED = Struct("<d")
_OPEN = os.O_CLOEXEC | os.O_NOFOLLOW


class Keys(Protocol):
    """
    Start tokens and sessions, each named by its digest. Safe from any thread.

    Every method may raise OSError if it keeps them outside this process.
    """

    def issue(self, start: bytes) -> None:
        """Keep a start token until it is redeemed."""
        ...

    def redeem(self, start: bytes) -> bool:
        """Use a start token up; whether it was good: True for one caller only."""
        ...

    def open(self, session: bytes) -> None:
        """Begin a session."""
        ...

    def use(self, session: bytes) -> bool:
        """Whether the session is open; if it is, it was used now."""
        ...


class MemoryKeys:
    """Keys of this process. A forked child has copies of its parent's."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._starts: dict[bytes, None] = {}
        self._sessions: dict[bytes, tuple[float, float]] = {}  # digest → (began, last used)

    def issue(self, start: bytes) -> None:
        """Keep a start token."""
        _make_room(self._starts, MAX_START_TOKENS)
        self._starts[start] = None

    def redeem(self, start: bytes) -> bool:
        """Use a start token up."""
        return self._starts.pop(start, b"") is None

    def open(self, session: bytes) -> None:
        """Begin a session."""
        _make_room(self._sessions, MAX_SESSIONS)
        now = self._now()
        self._sessions[session] = (now, now)

    def use(self, session: bytes) -> bool:
        """Whether the session is open."""
        times = self._sessions.get(session)
        if times is None:
            return False
        now = self._now()
        if _is_over(*times, now):
            self._sessions.pop(session, None)
            return False
        self._sessions[session] = (times[0], now)
        return True


class FileKeys:
    """
    Keys of all processes that use *directory*.

    Args:
        directory: Made at the first use, 0700. One that is a symbolic link, or not this user's alone, is refused (OSError).
        now: The monotonic clock, which all processes of a machine share, in seconds.

    A start token is good as long as the process that issued it, or a fork of that process, lives, and for 12 hours at least;
    a session ends 30 minutes after its last use and 12 hours after its start. Both end with the machine.
    """

    def __init__(self, directory: Path, now: Callable[[], float]) -> None:
        self._directory = directory
        self._now = now
        self._boot = _boot_id()
        self._release: Callable[[], object] = _nothing

    def issue(self, start: bytes) -> None:
        """Keep a start token; the one that was issued before by this object lives no longer than its 12 hours."""
        with self._folder() as folder:
            fd = self._create(folder, _START + start.hex())
            self._release()
            # The lock says that we live, and the descriptor holds it.
            self._release = weakref.finalize(self, os.close, fd)
            self._tidy(folder, _START, MAX_START_TOKENS)

    def redeem(self, start: bytes) -> bool:
        """Use a start token up."""
        name = _START + start.hex()
        with self._folder() as folder:
            found = self._read(folder, name)
            if found is None:
                return False
            try:
                os.unlink(name, dir_fd=folder)
            except FileNotFoundError:
                return False  # another was faster
            return found.good

    def open(self, session: bytes) -> None:
        """Begin a session."""
        with self._folder() as folder:
            os.close(self._create(folder, _SESSION + session.hex()))
            self._tidy(folder, _SESSION, MAX_SESSIONS)

    def use(self, session: bytes) -> bool:
        """Whether the session is open."""
        name = _SESSION + session.hex()
        with self._folder() as folder:
            found = self._read(folder, name)
            if found is None:
                return False
            if not found.good:
                _unlink(folder, name)
                return False
            # Into the file that is there: a session that another process has just closed must not come back.
            with _opened(name, os.O_WRONLY, folder) as fd:
                if fd is not None:
                    os.pwrite(fd, _USED.pack(self._now()), _USED.size)
                return fd is not None

    @contextmanager
    def _folder(self) -> Generator[int]:
        try:
            folder = os.open(self._directory, _OPEN | os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            self._directory.parent.mkdir(0o700, parents=True, exist_ok=True)
            self._directory.mkdir(0o700, exist_ok=True)
            folder = os.open(self._directory, _OPEN | os.O_RDONLY | os.O_DIRECTORY)
        try:
            status = os.fstat(folder)
            if status.st_uid != os.geteuid() or status.st_mode & 0o077:
                raise PermissionError(f"{self._directory} must belong to this user alone (0700); its keys are not used")
            yield folder
        finally:
            os.close(folder)

    def _create(self, folder: int, name: str) -> int:
        """Make the file of a key that begins now; return its descriptor, locked."""
        hidden = _HIDDEN + secrets.token_hex(8)
        fd = os.open(hidden, _OPEN | os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
        try:
            now = self._now()
            os.pwrite(fd, _ENTRY.pack(now, now, self._boot), 0)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Seen only when it is whole.
            os.rename(hidden, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            os.close(fd)
            _unlink(folder, hidden)
            raise
        return fd

    def _read(self, folder: int, name: str) -> _Found | None:
        with _opened(name, os.O_RDONLY, folder) as fd:
            if fd is None:
                return None
            content = os.pread(fd, _ENTRY.size, 0)
            if len(content) != _ENTRY.size:
                return _Found(0.0, good=False, held=False)
            began, used, boot = _ENTRY.unpack(content)
            held = name.startswith(_START) and _is_locked(fd)
        now = self._now()
        over = _is_over(began, used, now) if name.startswith(_SESSION) else now - began > START_SECONDS
        return _Found(began, good=held or (boot == self._boot and not over), held=held)

    def _tidy(self, folder: int, kind: str, most: int) -> None:
        """Remove what is over, and the oldest beyond *most*; those whose maker lives go last."""
        left: list[tuple[bool, float, str]] = []
        for name in os.listdir(folder):
            if name.startswith(_HIDDEN):
                with suppress(FileNotFoundError):
                    if time.time() - os.stat(name, dir_fd=folder).st_mtime > _HIDDEN_SECONDS:
                        os.unlink(name, dir_fd=folder)
            elif name.startswith(kind) and (found := self._read(folder, name)) is not None:
                if found.good:
                    left.append((found.held, found.began, name))
                else:
                    _unlink(folder, name)
        for *_, name in sorted(left)[: max(0, len(left) - most)]:
            _unlink(folder, name)


class _Found(NamedTuple):
    """What the file of a key says."""

    began: float
    good: bool
    held: bool  # the process that made it lives


def _is_over(began: float, used: float, now: float) -> bool:
    return now - used > SESSION_IDLE_SECONDS or now - began > SESSION_SECONDS


def _make_room(keys: dict[bytes, None] | dict[bytes, tuple[float, float]], most: int) -> None:
    while len(keys) >= most:
        del keys[next(iter(keys))]


@contextmanager
def _opened(name: str, flags: int, folder: int) -> Generator[int | None]:
    """A descriptor of the file *name*, None if it is not there (any more)."""
    try:
        fd = os.open(name, _OPEN | flags, dir_fd=folder)
    except FileNotFoundError:
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)


def _is_locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _unlink(folder: int, name: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def _boot_id() -> bytes:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()[:36].ljust(36, b"\0")
    except OSError:
        return bytes(36)


def _nothing() -> None:
    pass
