"""
The keys that records are kept with, and changing them.

`KeyRing` reads a file of keys; ``RFS_STORE_KEYS`` names that of a service. A new first line counts for all that is written from then on;
`rotate` brings what was written before to that key, too, after which the others may be taken out of the file.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rfs.errors import ArchiveError, StoreFileError
from rfs.monitoring._store.chunks import ChunkReader, alone_in, chunk_files, rewrite
from rfs.monitoring._store.keys import KeyRing
from rfs.monitoring._store.retention import CHUNKS
from rfs.monitoring._store.sealing import STORE, seal_open
from rfs.monitoring.archives import MANIFEST

__all__ = ["KeyRing", "Rotated", "rotate"]


class Rotated(NamedTuple):
    """
    What one call of `rotate` has done.

    Args:
        chunks: How many files were rewritten.
        records: How many records in them are encrypted with the first key now, and were not before.
        in_use: How many records are encrypted with each key now, by its id; those in clear under the empty one. A key that is not
            here may be taken out of the file.
        failed: What could not be read or written, a line each.
    """

    chunks: int
    records: int
    in_use: dict[str, int]
    failed: list[str]


def rotate(
    directory: Path,
    keys: KeyRing,
    *,
    wait_seconds: float = 10.0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Rotated:
    """
    Encrypt all records of a service's *directory* with the first of *keys*, those that are in clear included.

    The service may run meanwhile; it has *wait_seconds* to finish the file that it is writing, which is left out otherwise. Killed at any
    step, nothing is lost, and the next call goes on. A record whose key is not among *keys* stays as it is. An archive keeps its keys.

    Args:
        on_progress: Told after each file how many are done, and how many there are.

    Raises:
        ArchiveError: It is an archive.
        OSError: There is no store, or its directory cannot be read.
    """
    if (directory / MANIFEST).is_file():
        raise ArchiveError(
            str(directory), "keeps the keys that it was made with: restore it, rotate them there, and archive anew"
        )
    path = directory / STORE / CHUNKS
    first = keys.first
    rewritten = records = 0
    in_use: dict[str, int] = {}
    failed: list[str] = []
    if not seal_open(directory, keys, time.monotonic() + wait_seconds):
        failed.append(f"{path}: the service did not finish the file that it is writing within {wait_seconds:g} s")
    with alone_in(path) as chunks:
        files = chunk_files([each.name for each in path.iterdir()])
        for done, file in enumerate(files, 1):
            try:
                chunk = ChunkReader(chunks, file, keys)
                if chunk.is_sealed:
                    numbers = {
                        number
                        for number, entry in enumerate(chunk.frames)
                        if entry.notes.key != first.id and chunk.rows(entry) is not None
                    }
                    if numbers:
                        records += rewrite(chunks, chunk, first, numbers=numbers, keeps=lambda _: True)
                        rewritten += 1
                        failed += map(str, chunk.damage)
                        chunk.close()
                        chunk = ChunkReader(chunks, file, keys)
                    else:
                        failed += map(str, chunk.damage)
                for entry in chunk.frames:
                    if entry.notes.records:
                        in_use[entry.notes.key] = in_use.get(entry.notes.key, 0) + entry.notes.records
                chunk.close()
            except (OSError, StoreFileError) as error:
                failed.append(f"{path / file}: {error}")
            if on_progress is not None:
                on_progress(done, len(files))
    return Rotated(rewritten, records, in_use, failed)
