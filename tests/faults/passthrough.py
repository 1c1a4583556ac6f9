"""
A file system in user space that hands everything on to a folder, and hangs or fails on command. A program of its own.

`python passthrough.py FOLDER MOUNT_POINT CONTROL`: the control file's first byte is the mode, its second word counts the
operations that the mode touched; both may be mapped and changed at any time. Files on it can be mapped and shared, because
the kernel keeps their pages. It lives for `LIFE_SECONDS` at most: its end is the only thing that ends a call that waits for it.
"""

# A file system is made of the system's calls.
# ruff: noqa: PTH101, PTH102, PTH104, PTH106, PTH108, PTH115, PTH211

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from struct import Struct
from typing import Any

OK, HANG, SLOW, EIO, ENOSPC = range(5)
SLOW_SECONDS = 0.05
LIFE_SECONDS = 90
CONTROL = Struct("<qq")  # mode, how many operations it touched

_STAT = ("st_atime_ns", "st_ctime_ns", "st_mtime_ns", "st_gid", "st_uid", "st_mode", "st_nlink", "st_size", "st_ino")
_STATFS = (
    "f_bavail",
    "f_bfree",
    "f_blocks",
    "f_bsize",
    "f_favail",
    "f_ffree",
    "f_files",
    "f_flag",
    "f_frsize",
    "f_namemax",
)
_WRITING = frozenset({"create", "write", "fallocate", "truncate", "mkdir", "rename", "fsync", "flush"})
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class Passthrough:
    """The operations, each under the mode of the moment."""

    use_ns = True

    def __init__(self, folder: str, control: mmap.mmap) -> None:
        self._folder = folder
        self._control = control

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name.startswith("_") or name in {"use_ns", "init", "destroy"}:
            return found
        return self._under_mode(name, found)

    def _under_mode(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            mode = self._mode()
            if mode == HANG or (mode != OK and name in _WRITING):
                self._control[8:16] = (int.from_bytes(self._control[8:16], "little") + 1).to_bytes(8, "little")
            while self._mode() == HANG:
                time.sleep(0.01)
            if name in _WRITING:
                if mode == SLOW:
                    time.sleep(SLOW_SECONDS)
                elif mode == EIO:
                    raise OSError(errno.EIO, name)
                elif mode == ENOSPC and name not in {"fsync", "flush", "truncate"}:
                    raise OSError(errno.ENOSPC, name)
            return operation(*arguments)

        return run

    def _mode(self) -> int:
        return self._control[0]

    def _path(self, path: str) -> str:
        return self._folder + path

    def init(self, path: str) -> None:
        pass

    def destroy(self, path: str) -> None:
        pass

    def getattr(self, path: str, file: int | None = None) -> dict[str, int]:
        found = os.lstat(self._path(path))
        stat = {name.removesuffix("_ns"): getattr(found, name) for name in _STAT}
        return {**stat, "st_blocks": found.st_blocks}

    def readdir(self, path: str, file: int) -> list[tuple[str, dict[str, int], int]]:
        with os.scandir(self._path(path)) as entries:
            return [(entry.name, {"st_ino": entry.inode()}, 0) for entry in entries]

    def opendir(self, path: str) -> int:
        return 0

    def releasedir(self, path: str, file: int) -> int:
        return 0

    def open(self, path: str, flags: int) -> int:
        return os.open(self._path(path), flags)

    def create(self, path: str, mode: int, flags: int) -> int:
        return os.open(self._path(path), flags | os.O_CREAT, mode)

    def read(self, path: str, size: int, offset: int, file: int) -> bytes:
        return os.pread(file, size, offset)

    def write(self, path: str, data: bytes, offset: int, file: int) -> int:
        return os.pwrite(file, data, offset)

    def fallocate(self, path: str, mode: int, offset: int, size: int, file: int) -> int:
        if _libc.fallocate(file, mode, offset, size):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return 0

    def truncate(self, path: str, length: int, file: int | None = None) -> int:
        os.truncate(self._path(path), length)
        return 0

    def flush(self, path: str, file: int) -> int:
        return 0

    def fsync(self, path: str, datasync: int, file: int) -> int:
        os.fsync(file)
        return 0

    def release(self, path: str, file: int) -> int:
        os.close(file)
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        os.mkdir(self._path(path), mode)
        return 0

    def rmdir(self, path: str) -> int:
        os.rmdir(self._path(path))
        return 0

    def unlink(self, path: str) -> int:
        os.unlink(self._path(path))
        return 0

    def rename(self, old: str, new: str) -> int:
        os.rename(self._path(old), self._path(new))
        return 0

    def link(self, target: str, source: str) -> int:
        os.link(self._path(source), self._path(target))
        return 0

    def symlink(self, target: str, source: str) -> int:
        os.symlink(source, self._path(target))
        return 0

    def readlink(self, path: str) -> str:
        return os.readlink(self._path(path))

    def chmod(self, path: str, mode: int) -> int:
        os.chmod(self._path(path), mode)
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        os.chown(self._path(path), uid, gid, follow_symlinks=False)
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        os.utime(self._path(path), ns=times or (time.time_ns(),) * 2)
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self._path(path))
        return {name: getattr(found, name) for name in _STATFS}


def main(folder: str, mount_point: str, control: str) -> None:
    """Serve until it is unmounted or killed."""
    from mfusepy import FUSE

    signal.alarm(LIFE_SECONDS)
    with Path(control).open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), CONTROL.size)
    FUSE(
        Passthrough(folder, mapped),
        mount_point,
        foreground=True,
        allow_other=True,
        fsname="rfs-passthrough",
        use_ino=True,
        attr_timeout=0,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
