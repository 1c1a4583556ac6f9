"""
The live directory: where the processes of one service and user find one another's files.

A file is made under a temporary name, preallocated, given its header, locked, and only then renamed into sight, so that whoever
sees it sees all of it. Which process is alive is said by the kernel: each holds an exclusive ``flock`` on a small file of its own,
which is never mapped, since the descriptor that ``mmap`` keeps may outlive a fork in a child's memory.

The directory belongs to this user alone (0700), its files are 0600, and a symbolic link is never followed.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from weakref import finalize

from rfs.errors import LiveDirectoryError, LiveFileError
from rfs.monitoring._capture.files import ALIVE_MAGIC, HEADER_BYTES, read_header

ALIVE_SUFFIX = ".alive"
CELLS_SUFFIX = ".cells"
SEGMENT_SUFFIX = ".segment"
SCRUB_REQUEST = "scrub.request"  # asks every process to clear what of its records is in the store
MEMORY = ":memory:"  # as a directory's name: none

_OPEN = os.O_CLOEXEC | os.O_NOFOLLOW


def default_directory(service: str) -> Path:
    """Where a service keeps its files unless ``RFS_DIR`` says otherwise: ``$XDG_STATE_HOME/rfs/<service>``."""
    state = os.environ.get("XDG_STATE_HOME", "")
    home = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    name = "".join(character if character.isalnum() or character in "-_." else "_" for character in service)
    return home / "rfs" / (name.strip(".")[:100] or "rfs")


def boot_id() -> str:
    """What tells one run of this machine's kernel from the next."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def process_of(name: str) -> str:
    """The process that the file *name* belongs to."""
    return name.partition(".")[0]


def live_path(directory: Path) -> Path:
    """Where the live files of the service's *directory* are: in ``live`` below it, unless ``RFS_LIVE_DIR`` names a place."""
    own = os.environ.get("RFS_LIVE_DIR", "")
    return Path(own) if own else directory / "live"


def free_space(directory: Path) -> tuple[int, int] | None:
    """Bytes and files for which there is room where the live files of *directory* are, or would be; None if it cannot be told."""
    path = live_path(directory)
    for place in (path, *path.parents):
        try:
            status = os.statvfs(place)
        except FileNotFoundError:
            continue
        except OSError:
            return None
        return status.f_bavail * status.f_frsize, status.f_favail
    return None


class LiveDirectory:
    """
    An open live directory. All its methods work on the directory that was opened, even if its path leads elsewhere by now.

    Args:
        directory: The service's directory. The live files are in ``live`` below it, unless ``RFS_LIVE_DIR`` names a
            (memory-backed) place for them. Made, with its parents, if it is not there.

    Raises:
        LiveDirectoryError: It is a symbolic link, or others may write into it.
        OSError: It cannot be made or opened.

    Safe from any thread; a forked child must not use its parent's.
    """

    def __init__(self, directory: Path) -> None:
        self.path = path = live_path(directory)
        if path.parent == directory:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            _check(directory, 0o022)
        os.makedirs(path, mode=0o700, exist_ok=True)
        _check(path, 0o077)
        self._fd = os.open(path, _OPEN | os.O_RDONLY | os.O_DIRECTORY)
        self._closing = finalize(self, os.close, self._fd)
        self._closing.atexit = False
        status = os.fstat(self._fd)
        self._identity = status.st_dev, status.st_ino

    def intact(self) -> bool:
        """Whether the path still leads to this directory."""
        try:
            status = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def names(self) -> list[str]:
        """The names of all files that are in sight."""
        # Opened anew: a descriptor and its copies share one place in the listing, so two threads would each get a part of it.
        fd = os.open(".", _OPEN | os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._fd)
        try:
            return [name for name in os.listdir(fd) if not name.startswith(".")]
        finally:
            os.close(fd)

    def has(self, name: str) -> bool:
        """Whether there is a file *name*."""
        try:
            os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except OSError:
            return False
        return True

    def identify(self, name: str) -> tuple[int, int, int]:
        """What changes whenever the file *name* is replaced; zeros if it is not there."""
        try:
            status = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except OSError:
            return 0, 0, 0
        return status.st_ino, status.st_mtime_ns, status.st_size

    def modified(self, name: str) -> int:
        """When the file *name* was last written to, in nanoseconds; 0 if it is not there."""
        return self.identify(name)[1]

    def create(self, name: str, size: int, header: bytes) -> mmap.mmap:
        """
        Make the file *name* of *size* bytes, all of them allocated; return its shared memory. Raises OSError.

        The file is not yet in sight: `publish` it.
        """
        hidden = f".{name}"
        fd = os.open(hidden, _OPEN | os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._fd)
        try:
            # Allocated now, a page can be missing never: writing into a hole of a full disk would end the process (SIGBUS).
            os.posix_fallocate(fd, 0, size)
            os.pwrite(fd, header, 0)
            memory = mmap.mmap(fd, size)
            # A first touch makes its own page, not also the 31 around it: most processes use few.
            memory.madvise(mmap.MADV_RANDOM)
            return memory
        except BaseException:
            with suppress(OSError):
                os.unlink(hidden, dir_fd=self._fd)
            raise
        finally:
            os.close(fd)

    def live(self, process: str, header: bytes) -> int:
        """Make the file that says that *process* is alive as long as the returned descriptor is open. Raises OSError."""
        name = process + ALIVE_SUFFIX
        fd = os.open(f".{name}", _OPEN | os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._fd)
        try:
            os.pwrite(fd, header.ljust(HEADER_BYTES, b"\0"), 0)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.publish(name)
        except BaseException:
            os.close(fd)
            self.discard(name)
            raise
        return fd

    def publish(self, name: str) -> None:
        """Let the file that `create` made be seen."""
        os.rename(f".{name}", name, src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def discard(self, name: str) -> None:
        """Remove the file *name*, in sight or not yet; one that is not there is no error."""
        for each in (name, f".{name}"):
            with suppress(OSError):
                os.unlink(each, dir_fd=self._fd)

    def map(self, name: str, *, writable: bool = False) -> mmap.mmap:
        """
        Map the whole file *name*.

        Raises:
            OSError: It is not there (any more).
            LiveFileError: It is too short to be a live file.
        """
        fd = os.open(name, _OPEN | (os.O_RDWR if writable else os.O_RDONLY), dir_fd=self._fd)
        try:
            size = os.fstat(fd).st_size
            if size < HEADER_BYTES:
                raise LiveFileError(name, f"has {size} bytes; even its header takes {HEADER_BYTES}")
            return mmap.mmap(fd, size, access=mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ)
        finally:
            os.close(fd)

    def read(self, name: str) -> bytes:
        """The contents of the small file *name*; raises OSError."""
        fd = os.open(name, _OPEN | os.O_RDONLY, dir_fd=self._fd)
        with open(fd, "rb") as file:
            return file.read()

    def write(self, name: str, parts: Iterable[bytes]) -> None:
        """Replace the small file *name* as a whole: whoever reads it sees the old or the new one. Raises OSError."""
        hidden = f".{name}.{os.getpid()}"
        fd = os.open(hidden, _OPEN | os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=self._fd)
        try:
            with open(fd, "wb") as file:
                file.writelines(parts)
            os.rename(hidden, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except BaseException:
            with suppress(OSError):
                os.unlink(hidden, dir_fd=self._fd)
            raise

    def claim(self, name: str, content: bytes) -> bool:
        """Make the small file *name*, content and all, unless it is there: of many who try, one gets True. Raises OSError."""
        hidden = f".{name}.{os.getpid()}"
        fd = os.open(hidden, _OPEN | os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=self._fd)
        try:
            with open(fd, "wb") as file:
                file.write(content)
            os.link(hidden, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except FileExistsError:
            return False
        finally:
            with suppress(OSError):
                os.unlink(hidden, dir_fd=self._fd)
        return True

    def unlink(self, name: str) -> None:
        """Remove *name*; one that is not there is no error."""
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)

    def watch(self, name: str) -> int:
        """A descriptor of the file *name*, for `is_locked`; close it in the end. Raises OSError."""
        return os.open(name, _OPEN | os.O_RDWR, dir_fd=self._fd)

    def other_service(self, service: str) -> LiveDirectoryError | None:
        """Who else lives here: a living process of a service of another name, as an error that names it and its pid."""
        for name in self.names():
            if not name.endswith(ALIVE_SUFFIX):
                continue
            with suppress(OSError, LiveFileError):
                fd = self.watch(name)
                try:
                    header = read_header(os.pread(fd, HEADER_BYTES, 0), ALIVE_MAGIC, name)
                    if header.service and service and header.service != service and is_locked(fd):
                        fault = f"belongs to service {header.service!r} (pid {header.pid}), not to {service!r}"
                        return LiveDirectoryError(str(self.path), f"{fault}; give each its own RFS_DIR")
                finally:
                    os.close(fd)
        return None

    def service(self) -> str:
        """The name of the service whose files these are; empty if none of them tells."""
        for name in self.names():
            if name.endswith(ALIVE_SUFFIX):
                with suppress(OSError, LiveFileError):
                    header = read_header(self.read(name)[:HEADER_BYTES], ALIVE_MAGIC, name)
                    if header.service:
                        return header.service
        return ""

    def close(self) -> None:
        """Let go of the directory, as forgetting it does. Twice is once."""
        self._closing()


def mark_running(fd: int, *, running: bool) -> None:
    """Write into the file that `LiveDirectory.live` has made whether its process would have to be stopped. Raises OSError."""
    os.pwrite(fd, bytes([running]), HEADER_BYTES)


def was_running(fd: int) -> bool:
    """Whether the process whose file *fd* watches was started and not stopped: of a dead one, that it was killed."""
    return os.pread(fd, 1, HEADER_BYTES) == b"\1"


def is_locked(fd: int) -> bool:
    """Whether a living process holds the lock of the file that *fd* watches."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def take_lock(fd: int) -> bool:
    """Take a dead process' lock for good, so that nobody else does what must be done once; False if somebody has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def release_lock(fd: int) -> None:
    """Let somebody else have what `take_lock` took."""
    fcntl.flock(fd, fcntl.LOCK_UN)


def _check(path: Path, forbidden: int) -> None:
    status = os.stat(path, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        raise LiveDirectoryError(str(path), "is a symbolic link; name the directory itself")
    if not stat.S_ISDIR(status.st_mode):
        raise LiveDirectoryError(str(path), "is no directory")
    if status.st_uid != os.geteuid():
        raise LiveDirectoryError(
            str(path),
            f"belongs to user id {status.st_uid}, not to this process' {os.geteuid()}; choose another RFS_DIR",
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & forbidden:
        raise LiveDirectoryError(str(path), f"has mode {mode:04o}, so others may use it; chmod 700 it")
