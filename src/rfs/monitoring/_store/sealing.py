"""
Sealing the chunk that is being written, for who works on sealed chunks and is not the leader.

While a service runs, its leader is asked: by a file ``seal.request`` in the store's directory, which it removes when all that had been
recorded before is in chunks that are sealed. Where no service runs, what it has left in its segments is imported here.
"""

from __future__ import annotations

import os
import time
from contextlib import closing, suppress
from mmap import ACCESS_WRITE, mmap
from pathlib import Path

from rfs.errors import LiveFileError, StoreFileError
from rfs.monitoring._capture.live import ALIVE_SUFFIX, SEGMENT_SUFFIX, is_locked, live_path
from rfs.monitoring._capture.segments import SegmentReader
from rfs.monitoring._store.chunks import (
    OPEN_SUFFIX,
    SEALED_SUFFIX,
    ChunkReader,
    ChunkWriter,
    Imported,
    alone_in,
    chunk_files,
)
from rfs.monitoring._store.keys import KeyRing
from rfs.monitoring._store.retention import CHUNKS

STORE = "store"  # within the service's directory
SEAL_REQUEST = "seal.request"
POLL_SECONDS = 0.05


def is_alive(live: Path, process: str) -> bool:
    """Whether that process of the live directory runs."""
    try:
        fd = os.open(live / f"{process}{ALIVE_SUFFIX}", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return is_locked(fd)
    finally:
        os.close(fd)


def is_served(directory: Path) -> bool:
    """Whether a process of the service runs that has this *directory*."""
    live = live_path(directory)
    return any(is_alive(live, path.name.removesuffix(ALIVE_SUFFIX)) for path in live.glob(f"*{ALIVE_SUFFIX}"))


def segment_files(directory: Path) -> list[Path]:
    """The segments of all processes, living and dead."""
    return sorted(path for path in live_path(directory).glob(f"*{SEGMENT_SUFFIX}") if not path.name.startswith("."))


def seal_open(directory: Path, keys: KeyRing | None, deadline: float) -> bool:
    """
    Let all that was recorded before be in sealed chunks, for which there is a directory afterwards.

    Return False if a service runs and has not done so by *deadline*, on the monotonic clock. Raises OSError: FileNotFoundError where
    neither a store nor live files are, and nothing is made.
    """
    if live_path(directory).is_dir() or (directory / STORE).is_dir():  # no leader may have come to make the rest
        for folder in (directory / STORE, directory / STORE / CHUNKS):
            folder.mkdir(mode=0o700, exist_ok=True)
    if not is_served(directory):
        with alone_in(directory / STORE / CHUNKS) as chunks:
            _seal(directory, chunks, keys)
        return True
    request = directory / STORE / SEAL_REQUEST
    request.touch(0o600)
    while request.exists():
        if time.monotonic() > deadline:
            request.unlink(missing_ok=True)
            return False
        time.sleep(POLL_SECONDS)
    return True


def _seal(directory: Path, chunks: int, keys: KeyRing | None) -> None:
    """Import what dead processes have left, and seal all chunks."""
    now_ns = time.time_ns()
    sealed: list[ChunkReader] = []
    writers: list[ChunkWriter] = []
    for file in chunk_files([each.name for each in (directory / STORE / CHUNKS).iterdir()]):
        with suppress(StoreFileError):  # what is no chunk stays where it is
            if file.endswith(SEALED_SUFFIX):
                sealed.append(ChunkReader(chunks, file))
            else:
                writers.append(ChunkWriter(chunks, file.rpartition(".")[0], now_ns, keys))
    segments = segment_files(directory)
    imported = Imported([*sealed, *(writer.reader for writer in writers)], {path.name for path in segments})
    for path in segments:
        with (
            suppress(LiveFileError),
            path.open("r+b") as live,
            closing(mmap(live.fileno(), 0, access=ACCESS_WRITE)) as memory,
        ):
            reader = SegmentReader(memory, name=path.name)
            try:
                reader.resume()
                runs = [rest for run in reader.last_runs() if (rest := imported.rest(run)).frames]
                if runs and not writers:
                    writers.append(ChunkWriter(chunks, f"{now_ns:016x}-{os.urandom(4).hex()}", now_ns, keys))
                if runs:
                    writers[-1].add(runs)
                    writers[-1].sync()
                reader.mark_imported()
            finally:
                reader.close()
    for writer in writers:
        if writer.reader.frames:
            writer.seal()
        else:
            os.unlink(writer.name + OPEN_SUFFIX, dir_fd=chunks)
            writer.close()
    for chunk in sealed:
        chunk.close()
