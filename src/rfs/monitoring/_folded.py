"""
The sums of dead processes, as they are kept on the disk.

They are in two files, ``totals-<epoch>`` and ``totals-<epoch>.copy``, each of them

    magic 8 · version u32 · crc32 u32 of all else · generation u64 · MessagePack of `Folded`

and each replaced in one rename, one after the other. What the sums were taken from is removed after both have them. So whenever the
leader is killed, and whichever one is damaged, the other one, or the one of the higher generation, fits the files that are there.

Nothing is synced, as no live file is: a machine that loses power may lose both. Then, and when both are damaged, what the store has
counted stands in for them; see `LiveReader.fold`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from struct import Struct
from typing import NamedTuple
from zlib import crc32

import msgspec

from rfs.errors import LiveFileError
from rfs.monitoring._capture.cells import Labels, SeriesKey
from rfs.monitoring._capture.instruments import MetricType
from rfs.monitoring._capture.live import LiveDirectory
from rfs.monitoring._capture.readings import Octave, SketchReading
from rfs.monitoring._foreign import FoldedSample

TOTALS = "totals-"
COPY = ".copy"
COPY_IS_USED = "the other copy is used"  # said of one of two that is damaged: nothing is missing
VERSION = 2  # the first had neither checksum nor copy
_MAGIC = b"RFSTOTAL"
_START = Struct("<8sIIQ")
_CRC_AT = 12


class Folded(msgspec.Struct):
    """The sums of dead processes."""

    processes: list[str] = []
    metrics: list[tuple[str, str, str]] = []  # name, type, help
    counters: list[tuple[str, Labels, float]] = []
    sketches: list[tuple[str, Labels, SketchReading]] = []
    foreign: list[FoldedSample] = []
    files: list[str] = []  # of living processes
    left: list[tuple[str, Labels, float]] = []  # series that no process has any more, and since when (CLOCK_MONOTONIC)


class FoldedFiles(NamedTuple):
    """What was found of the two files of an epoch."""

    folded: Folded | None  # None: neither can be read
    generation: int
    faults: dict[str, str]  # by file
    is_safe: bool  # both are whole, and have the same


def octave_out(octave: Octave) -> list[float]:
    return list(octave.buckets)


def octave_in(_kind: type, buckets: Iterable[float]) -> Octave:
    try:
        return Octave.of(buckets)
    except struct.error as error:
        raise ValueError("no octave") from error  # which makes a DecodeError of it


_encode = msgspec.msgpack.Encoder(enc_hook=octave_out).encode
_decode = msgspec.msgpack.Decoder(Folded, dec_hook=octave_in).decode


def pack_folded(folded: Folded, generation: int) -> bytes:
    """The content of either file."""
    body = _encode(folded)
    head = _START.pack(_MAGIC, VERSION, 0, generation)
    return _START.pack(_MAGIC, VERSION, _crc(head, body), generation) + body


def unpack_folded(content: bytes, name: str) -> tuple[int, Folded]:
    """
    The generation and the sums of the file *name* with this *content*.

    Raises:
        LiveFileError: It is damaged, or of another version.
    """
    if len(content) < _START.size:
        raise LiveFileError(name, f"has {len(content)} bytes; even its header takes {_START.size}")
    magic, version, crc, generation = _START.unpack_from(content)
    if magic != _MAGIC:
        raise LiveFileError(name, f"begins with {magic!r}, not {_MAGIC!r}")
    if crc != _crc(content, content[_START.size :]):
        raise LiveFileError(name, "is damaged: its checksum does not fit")
    if version != VERSION:
        raise LiveFileError(name, f"has version {version}; this library reads version {VERSION}")
    try:
        folded = _decode(content[_START.size :])
        for _, type_name, _ in folded.metrics:
            MetricType(type_name)
    except ValueError as error:  # what cannot be decoded, not even a text in it
        raise LiveFileError(name, f"cannot be read: {error}") from error
    return generation, folded


def _crc(head: bytes, body: bytes) -> int:
    return crc32(body, crc32(head[_CRC_AT + 4 : _START.size], crc32(head[:_CRC_AT])))


def folded_series(content: bytes, name: str) -> list[SeriesKey]:
    """The series of which the file *name*, with this *content*, has sums. Raises LiveFileError."""
    _, folded = unpack_folded(content, name)
    own = (*folded.counters, *folded.sketches, *folded.left)
    return [*(SeriesKey(*one[:2]) for one in own), *(SeriesKey(*one[4:6]) for one in folded.foreign)]


def folded_names(epoch: int) -> tuple[str, str]:
    """The two files, in the order in which they are written."""
    return f"{TOTALS}{epoch}{COPY}", f"{TOTALS}{epoch}"


def read_folded(directory: LiveDirectory, epoch: int) -> FoldedFiles | None:
    """What the files of *epoch* have; None if neither is there. Never raises."""
    found: dict[bytes, tuple[int, Folded]] = {}  # mostly they are the same
    faults: dict[str, str] = {}
    whole = 0
    for name in folded_names(epoch):
        try:
            content = directory.read(name)
            if content not in found:
                found[content] = unpack_folded(content, name)
            whole += 1
        except FileNotFoundError:
            continue
        except LiveFileError as error:
            faults[name] = error.fault
        except OSError as error:
            faults[name] = f"cannot be read: {error.strerror}"
    if not found:
        return FoldedFiles(None, 0, faults, is_safe=False) if faults else None
    generation, folded = max(found.values(), key=lambda one: one[0])
    return FoldedFiles(folded, generation, faults, is_safe=whole > len(found))


def set_aside(directory: LiveDirectory, name: str, folder: Path) -> None:
    """
    Keep what the damaged file *name* has in *folder*, which may lie on another file system. Raises OSError.

    It stays where it is until it is replaced: that there was one must not be forgotten before its sums are known again.
    """
    stamp = datetime.fromtimestamp(directory.modified(name) / 1e9, UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    content = directory.read(name)
    for each in (folder.parent, folder):
        each.mkdir(mode=0o700, exist_ok=True)
    target = folder / f"{name}.{stamp}"
    target.touch(mode=0o600)
    target.write_bytes(content)
