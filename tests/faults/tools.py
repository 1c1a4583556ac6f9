"""
What the fault tests injure processes with: full and read-only file systems, a hanging one, failing calls, a moved clock.

Each tool can tell that its fault fired, because a fault that was never injected leaves every test green.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from struct import Struct

import pytest

from tests.faults import passthrough
from tests.faults.processes import FAR_SECONDS, eventually

HERE = Path(__file__).resolve().parent
NOBODY = 65534
_WORD = Struct("<q")
_DENIED = ("ermission denied", "not permitted", "No such device")  # a container may be denied it, root or not


def needs(*programs: str, root: bool = False) -> None:
    """Skip the test with the reason where a program or the right to mount is missing; CI takes that for a failure."""
    if root and os.geteuid() != 0:
        pytest.skip("needs root, to mount")
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"needs the program {program}")


# File systems


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False, timeout=FAR_SECONDS)
    if done.returncode and any(reason in done.stderr for reason in _DENIED):
        pytest.skip(f"needs the right to mount: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr


def _unmount(path: Path) -> None:
    # Lazily: a process under test may still have a file there.
    subprocess.run(["umount", "-l", str(path)], capture_output=True, check=False, timeout=FAR_SECONDS)


class Tmpfs:
    """A file system in memory, of a size and a number of files that can be changed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def resize(self, **options: int) -> None:
        """Set ``size`` (bytes) or ``nr_inodes``."""
        said = ",".join(f"{name}={value}" for name, value in options.items())
        _mount("-o", f"remount,{said}", str(self.path))

    def free(self) -> tuple[int, int]:
        """Bytes and files that still fit."""
        status = os.statvfs(self.path)
        return status.f_bavail * status.f_frsize, status.f_favail

    def fill(self, name: str = "filler") -> None:
        """Take all space that is left; delete the file to give it back."""
        with (self.path / name).open("wb", buffering=0) as file:
            # What fits in part is written in part.
            while left := self.free()[0]:
                file.write(bytes(min(left, 1 << 20)))


@contextmanager
def tmpfs(path: Path, **options: int) -> Generator[Tmpfs]:
    """Mount a tmpfs at *path*, with ``size`` in bytes and ``nr_inodes``."""
    needs("mount", "umount", root=True)
    path.mkdir(parents=True, exist_ok=True)
    said = ",".join(f"{name}={value}" for name, value in options.items())
    _mount("-t", "tmpfs", "-o", f"mode=0700,{said}", "tmpfs", str(path))
    try:
        yield Tmpfs(path)
    finally:
        _unmount(path)


@contextmanager
def read_only(folder: Path, path: Path) -> Generator[Path]:
    """Show *folder* at *path*, where nobody, root included, can write."""
    needs("mount", "umount", root=True)
    path.mkdir(parents=True, exist_ok=True)
    _mount("--bind", str(folder), str(path))
    try:
        _mount("-o", "remount,bind,ro", str(path))
        yield path
    finally:
        _unmount(path)


class Mode(IntEnum):
    """How the pass-through file system behaves."""

    OK = passthrough.OK
    HANG = passthrough.HANG
    SLOW = passthrough.SLOW
    EIO = passthrough.EIO
    ENOSPC = passthrough.ENOSPC


class FaultyDisk:
    """A file system in user space that hangs, is slow or fails on command."""

    def __init__(self, path: Path, folder: Path, control: mmap.mmap) -> None:
        self.path = path
        self.folder = folder  # what it shows, reachable whatever the mode
        self._control = control

    @property
    def mode(self) -> Mode:
        """How it behaves now; may be set at any time."""
        return Mode(self._control[0])

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._control[0] = mode

    @property
    def touched(self) -> int:
        """How many operations met a mode other than OK: the proof that the fault fired."""
        found: int = _WORD.unpack_from(self._control, 8)[0]
        return found


@contextmanager
def faulty_disk(place: Path) -> Generator[FaultyDisk]:
    """Mount the pass-through file system below *place*."""
    needs("fusermount3", root=True)
    if not Path("/dev/fuse").exists():
        pytest.skip("needs /dev/fuse")
    folder, path, control = place / "behind", place / "disk", place / "control"
    folder.mkdir(parents=True)
    path.mkdir()
    control.write_bytes(bytes(passthrough.CONTROL.size))
    with control.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), passthrough.CONTROL.size)
    log = place / "passthrough.log"
    with log.open("wb") as said:
        server = subprocess.Popen(
            [sys.executable, str(HERE / "passthrough.py"), str(folder), str(path), str(control)],
            stdout=said,
            stderr=said,
        )
    try:
        eventually(lambda: path.is_mount() or server.poll() is not None, says=log.read_text)
        if server.poll() is not None and any(reason in log.read_text() for reason in _DENIED):
            pytest.skip(f"needs the right to mount FUSE: {log.read_text().strip()}")
        assert server.poll() is None, log.read_text()
        yield FaultyDisk(path, folder, mapped)
    finally:
        mapped[0] = Mode.OK
        _unmount(path)
        # Its end also ends every call that waits for it.
        server.kill()
        server.wait(FAR_SECONDS)


# Calls and the clock


class Call(IntEnum):
    """What the shim can let fail; the order is that of `enum call` in shim.c."""

    FALLOCATE = 0
    MMAP = 1
    OPEN = 2
    WRITE = 3
    RENAME = 4
    FTRUNCATE = 5
    MKDIR = 6
    SYNC = 7


SHORT = -1  # in the place of an error: a write takes only half of what it is given
_STEPS = 2 + 4 * len(Call)


class Shim:
    """The preloaded library of one or more processes: start them with its ``variables``, then change it at any time."""

    def __init__(self, library: Path, control: Path, part: str = "") -> None:
        size = 8 * (_STEPS + 2)
        control.write_bytes(bytes(size))
        with control.open("r+b") as file:
            self._table = mmap.mmap(file.fileno(), size)
        self.variables = {"LD_PRELOAD": str(library), "RFS_SHIM": str(control), "RFS_SHIM_PATH": part}

    def _get(self, word: int) -> int:
        found: int = _WORD.unpack_from(self._table, 8 * word)[0]
        return found

    def _set(self, word: int, value: int) -> None:
        self._table[8 * word : 8 * word + 8] = _WORD.pack(value)

    def move_clock(self, seconds: float) -> None:
        """Let the wall clock differ from the machine's by *seconds*; the monotonic one stays."""
        self._set(0, round(seconds * 1e9))

    @property
    def asked(self) -> int:
        """How often the wall clock was read through the shim."""
        return self._get(1)

    def fail(self, call: Call, error: int, times: int = -1, *, after: int = 0) -> None:
        """Let *call* fail with *error*, *after* so many, *times* times (-1: until told otherwise); error 0 heals it."""
        self._set(2 + 4 * call, 0)
        self._set(3 + 4 * call, times)
        self._set(5 + 4 * call, after)
        self._set(2 + 4 * call, error)

    def failed(self, call: Call) -> int:
        """How often *call* was made to fail: the proof that the fault fired."""
        return self._get(4 + 4 * call)

    def kill_at(self, step: int) -> None:
        """
        Let the process that comes to the *step*-th step from now on be killed before it; 0: nobody is.

        A step is a call that changes what is on the disk: that writes, syncs, creates, cuts, renames or removes.
        """
        self._set(_STEPS + 1, 0)
        self._set(_STEPS, step)

    @property
    def steps(self) -> int:
        """How many steps there were since `kill_at`: as many as it was told if somebody was killed."""
        return self._get(_STEPS + 1)


def build_shim(folder: Path) -> Path:
    """Compile the shim; skips the test where there is no compiler."""
    needs("gcc")
    library = folder / "shim.so"
    command = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(library), "shim.c", "-ldl"]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False, timeout=FAR_SECONDS)
    assert done.returncode == 0, done.stderr
    return library


def strace_prefix(output: Path, inject: str) -> list[str]:
    """The words before a command that let strace inject *inject* (``fallocate:error=EDQUOT``) and write to *output*."""
    needs("strace")
    tried = subprocess.run(
        ["strace", "-qq", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False, timeout=FAR_SECONDS
    )
    if tried.returncode:
        pytest.skip(f"needs the right to trace: {tried.stderr.strip()}")
    call = inject.partition(":")[0]
    return ["strace", "-f", "-qq", "-o", str(output), "-e", f"trace={call}", "-e", f"inject={inject}"]


def strace_injected(output: Path) -> int:
    """How many calls strace has made to fail."""
    return len(re.findall(r"\(INJECTED\)", output.read_text(errors="replace")))


# Limits and users, set by a launcher before the program begins

_LAUNCHER = """
import os, resource, runpy, sys
kind, soft = sys.argv[1].split("=")
if kind == "USER":
    import importlib
    importlib.import_module(sys.argv[2])  # while this user may still read it
    os.setgroups([]); os.setgid(int(soft)); os.setuid(int(soft))
else:
    number = getattr(resource, "RLIMIT_" + kind)
    resource.setrlimit(number, (int(soft), resource.getrlimit(number)[1]))
module = sys.argv[2]
sys.argv = sys.argv[2:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def limited(limit: str) -> list[str]:
    """
    The command that runs a module, its name to be added, under a limit.

    Args:
        limit: ``FSIZE=65536``, ``NOFILE=20``, ``AS=…`` (soft, as `setrlimit` takes them), or ``USER=65534``.
    """
    return [sys.executable, "-c", _LAUNCHER, limit]


def tmpfs_magic(path: Path) -> bool:
    """Whether *path* lies on a tmpfs, asked of the kernel."""
    buffer = ctypes.create_string_buffer(256)
    assert ctypes.CDLL(None).statfs(os.fsencode(path), buffer) == 0
    return int(_WORD.unpack_from(buffer)[0]) == 0x01021994
