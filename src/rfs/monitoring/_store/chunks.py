"""
Chunks: the files that records are kept in for days, written by the leader alone.

A chunk is a header, frames of some hundred to a thousand records, and, once it is sealed, an index and a footer. While it is written
it is called ``<name>.open``, and ``<name>.chunk`` when it is sealed; a sealed chunk never changes, but another file may take its name
(see `rewrite`). A frame is

    mark 4 · chunk's id u64 · crc32 u32 · format u32 · notes bytes u32 · stored bytes u32 · raw bytes u32 · notes · stored

The CRC covers all but the mark and itself. The id is random and different for each chunk, so that no record's text can pass for a
frame. ``format`` is 0, or 1 if the frame is encrypted. The notes (MessagePack, `Notes`) tell what is in the frame, so
that most frames are never decompressed; also the hashes of the ids, because an open chunk has no index. ``stored`` is, compressed
with zstd, a flags byte and a level byte for each record and then a MessagePack array of the records as they were encoded at the call,
in order of time. What else is known of a record is in there and is not kept twice.

The index is for finding an id: 256 buckets by the first byte of its 24-bit hash, each the sorted other two bytes of all hashes and then
the number of the frame for each. The footer repeats all notes, without the hashes, and has the buckets' lengths and CRCs. Lengths are
believed only as far as the file and `_LARGEST_BYTES` go. What is damaged costs its own records: a frame, which is skipped; a bucket or the index, then
frames are searched; the footer or the header, then the reader walks from frame to frame.

**Encrypted.** With keys (see `keys`), ``stored`` is encrypted, and what is in clear is bound to it: the chunk's id, the head and the
notes, which name the key. So nobody without the key can read a record, or change one unnoticed; a frame that is gone as a whole,
or is there twice, is not noticed. What stays in clear is how many records there are, of which times and levels, whether one describes
a failure, how large a frame is, and which process wrote it. Hashes of ids and operations are keyed, those of each chunk in another way.
Frames whose key is not at hand are left out, and reported as damage until it is.

**Killed at any step.** A record is identified by where it was written first: the segment's file, the sequence of its block's
use, and its offset there (see `Run`). The notes of each frame say which stretches it holds; so a frame and the fact that it was
imported are one write. The leader first adds runs, then calls `ChunkWriter.sync`, and only then marks them as imported in their
segments. Killed before the frame is whole, the frame was never there: the next leader reads the records again from where
the segment is marked. Killed later, it reads them again, too, and `Imported.rest`, which has asked all chunks, leaves out what any
frame that can be read holds. Sealing writes the footer behind the frames and then renames the file; until then the footer is ignored,
and left out by the next writer. This holds for power cuts too, whatever the disk had of what was not synced: each frame speaks for
itself alone.

**Stopped, and back again.** A leader that was taken for dead may still write. So a writer never goes on in a file that another has
opened: it renames it to ``<name>.taken``, copies what is whole into a file of its own, and lets that have the name. Whatever the other one
writes from then on is lost with its file, and its `ChunkWriter.sync` says so, so that it marks nothing as imported; whatever it had
synced before was there when it was copied.

Words are little-endian, as the machine is wherever this runs.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from errno import EEXIST, EIO, ENOENT, EOPNOTSUPP, ESTALE
from fcntl import LOCK_EX, flock
from heapq import heapify, heappop, heappush, heapreplace
from itertools import accumulate, count
from operator import attrgetter
from pathlib import Path
from struct import Struct
from threading import Lock
from typing import NamedTuple, Protocol
from weakref import finalize
from zlib import crc32

import msgspec
import zstandard

from rfs.errors import StoreFileError
from rfs.monitoring._capture.pace import breathe
from rfs.monitoring._capture.record import UNREADABLE
from rfs.monitoring._capture.segments import Frame, Run
from rfs.monitoring._store.deadline import check_deadline
from rfs.monitoring._store.keys import SEALED_BYTES, Key, KeyRing

VERSION = 1
OPEN_SUFFIX = ".open"
TAKEN_SUFFIX = ".taken"
SEALED_SUFFIX = ".chunk"
_REWRITING_SUFFIX = ".rewriting"
FRAME_BYTES = 256 << 10  # of records, before they are compressed

_MAGIC = b"RFSCHUNK"
_HEADER = Struct("<8sIQqI")  # magic, version, id, created_ns, crc32
_MARK = b"RFSf"
_ENCRYPTED = 1  # the only bit of ``format``
_HEAD = Struct("<4sQIIIII")
_TAIL = Struct("<IIIIQ8s")  # crc32 of what follows it and of the body, version, body's stored and raw bytes, id, magic
_TAIL_MAGIC = b"RFSFOOT\n"
_LARGEST_BYTES = 16 << 20  # of any part of a frame: what claims more is damaged
_MOST_FRAMES = 1 << 14  # the index has two bytes for a frame's number, and the footer stays small
_SEARCHED_BYTES = 1 << 18
_BUCKETS = 256
# A segment has the first 255 bytes of an id; a character that was cut there is among the last three.
_HASHED_BYTES = 252
_RECORD = b"\x9f"  # how a record begins in MessagePack: as an array of 15
_EVERYTHING = 1 << 62
_FEW = 64  # records of a frame
_REMEMBERED_BYTES = 400  # of a frame or a record, beside its payload

# Of records 1 % smaller than level 3 is by itself, and quicker: tables of 96 KiB stay in the processor's cache, its own of 768 KiB do
# not, and a frame is no more than 256 KiB.
_COMPRESSION = zstandard.ZstdCompressionParameters(compression_level=3, min_match=5, hash_log=14, chain_log=13)


class Place(NamedTuple):
    """Where a record is kept. Places are in order of time, are the same in every process, and stay the same."""

    time_ns: int
    chunk: str  # its name without suffix
    at: int  # of the frame in the file
    row: int


class Found(NamedTuple):
    """A record that passed all filters."""

    place: Place
    frame: Frame


class Damage(NamedTuple):
    """Bytes of a file that cannot be read; *records* is how many were in there, or None if nothing tells."""

    file: str
    at: int
    end: int
    records: int | None
    fault: str

    def __str__(self) -> str:
        many = "an unknown number of records" if self.records is None else f"{self.records} records"
        return f"{self.file}: bytes {self.at} to {self.end} ({many}) {self.fault}"


Sources = list[tuple[str, list[tuple[int, int, int]]]]  # per segment: sequence of the block, from offset, to offset


class Notes(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What is known of a frame without decompressing it."""

    records: int
    first_ns: int
    last_ns: int
    levels: bytes  # each level that is there, rising
    flags: int  # those of all records together
    operations: bytes  # u16 each: the hash of each operation that is there, rising; keyed if there is a key
    sources: msgspec.Raw  # `Sources`, not decoded: seldom asked for, and of all frames together thousands of lists
    key: str = ""  # the id of the key that the frame is encrypted with
    ids: bytes | None = None  # `_pack_ids`; not in memory, nor in a footer, which has an index


class _Entry(msgspec.Struct, gc=False):
    """A frame's place in the file."""

    at: int
    end: int
    notes: Notes
    hashes: array[int] | None = (
        None  # of the ids; without an index, and if its notes do not tell: once it was asked for
    )


class _Footer(msgspec.Struct, array_like=True, frozen=True):
    created_ns: int
    frames: list[tuple[int, int, Notes]]  # from, to
    damaged: list[tuple[int, int]]
    index_at: int
    bucket_lengths: bytes  # u32 each
    bucket_crcs: bytes
    unindexed: list[int] = []  # frames whose ids nobody could read when the index was made, for want of the key


class _RecordHead(msgspec.Struct, array_like=True, gc=False):
    """The beginning of `RecordData`: as much of a record as a segment's frame tells."""

    time_ns: int
    level: int
    kind: msgspec.Raw
    logger: msgspec.Raw
    operation: str
    step: msgspec.Raw
    message: msgspec.Raw
    correlation_id: str


_encode = msgspec.msgpack.Encoder().encode
_decode_notes = msgspec.msgpack.Decoder(Notes).decode
_decode_footer = msgspec.msgpack.Decoder(_Footer).decode
_decode_sources = msgspec.msgpack.Decoder(Sources).decode
_decode_rows = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_decode_heads = msgspec.msgpack.Decoder(list[_RecordHead]).decode
_decode_head = msgspec.msgpack.Decoder(_RecordHead).decode
_decode_wrapped = msgspec.msgpack.Decoder(msgspec.msgpack.Ext).decode
_decode_frame = msgspec.msgpack.Decoder(tuple[int, int, int, str, str, bytes]).decode
_time_of = attrgetter("time_ns")
_WRAPPED = 1  # MessagePack's type number of a record that is kept with all that its frame told


_Filtered = tuple[int, int, int, int, str | None]  # the file's number, where the frame is; level, flags and operation
Hash = Callable[[bytes], int]  # 32 bits of a correlation id or an operation


def _hash(text: str, hashed: Hash = crc32) -> int:
    return hashed(text.encode("utf-8", "surrogatepass")[:_HASHED_BYTES])


# Reading


class _Rows:
    """The records of a frame, decompressed; decoded one by one as they are asked for."""

    def __init__(self, raw: bytes, records: int) -> None:
        self.flags = raw[:records]
        self.levels = raw[records : 2 * records]
        self.array = raw[2 * records :]
        self.rows = _decode_rows(self.array)
        if len(self.rows) != records or len(self.levels) != records:
            raise ValueError(f"has {len(self.rows)} records, not {records} as noted")

    def numbers_with(self, text: str) -> list[int]:
        """The rows in which *text* is somewhere; falling."""
        needle = text.encode("utf-8", "surrogatepass")
        ends = list(accumulate(map(len, self.rows), initial=len(self.array) - sum(map(len, self.rows))))[1:]
        numbers: list[int] = []
        at = self.array.find(needle)
        while at >= 0:
            number = bisect_right(ends, at)
            numbers.append(number)
            at = self.array.find(needle, ends[number]) if number < len(ends) else -1
        return numbers[::-1]

    def frame(self, row: int, unknown_ns: int) -> Frame:
        """The record; of one that cannot be decoded only what can be told."""
        content = bytes(self.rows[row])
        level, flags = self.levels[row], self.flags[row]
        try:
            if content[:1] != _RECORD:
                return Frame(*_decode_frame(_decode_wrapped(content).data))
            head = _decode_head(content)
            return Frame(head.time_ns, level, flags, head.correlation_id, head.operation, content)
        except UNREADABLE:
            return Frame(unknown_ns, level, flags, "", "", content)

    def hashes(self, hashed: Hash) -> array[int]:
        """The hashes of the ids that are there, sorted, 24 bits each."""
        try:
            ids = {head.correlation_id for head in _decode_heads(self.array)}
        except UNREADABLE:
            ids = {self.frame(row, 0).correlation_id for row in range(len(self.rows))}
        return _hashes_of(ids, hashed)


def _hashes_of(ids: set[str], hashed: Hash) -> array[int]:
    return array("I", sorted({_hash(one, hashed) >> 8 for one in ids if one}))


class Matches:
    """
    Which records of a frame passed a filter, of frames and filters that were asked for last: those who watch the newest failures ask
    the same frames again each second. Only where they were few, and never for an id. Safe from any thread.

    Args:
        limit: Bytes of records, and about as many as it takes to remember that there are none.
    """

    def __init__(self, limit: int = 4 << 20) -> None:
        self._limit = limit
        self._lock = Lock()
        self._known: OrderedDict[_Filtered, tuple[Notes, list[tuple[int, Frame]], int]] = OrderedDict()
        self.bytes = 0

    def get(self, filtered: _Filtered, notes: Notes) -> list[tuple[int, Frame]] | None:
        """Rows and records, the newest first; None if they are not remembered, or another frame is there now."""
        with self._lock:
            known = self._known.get(filtered)
            if known is None or known[0] != notes:
                return None
            self._known.move_to_end(filtered)
            return known[1]

    def put(self, filtered: _Filtered, notes: Notes, found: list[tuple[int, Frame]]) -> None:
        """Remember what was *found*."""
        size = _REMEMBERED_BYTES + sum(len(frame.payload) + _REMEMBERED_BYTES for _, frame in found)
        with self._lock:
            before = self._known.pop(filtered, None)
            self.bytes += size - (0 if before is None else before[2])
            self._known[filtered] = notes, found, size
            while self.bytes > self._limit:
                self.bytes -= self._known.popitem(last=False)[1][2]


def _pack_ids(hashes: array[int]) -> bytes:
    """Sorted hashes of ids: the lowest bytes of all, then the middle ones, then the highest."""
    words = hashes.tobytes()
    return words[::4] + words[1::4] + words[2::4]


def _unpack_ids(packed: bytes) -> array[int]:
    words, count = bytearray(len(packed) // 3 * 4), len(packed) // 3
    for plane in range(3):
        words[plane::4] = packed[plane * count : (plane + 1) * count]
    return array("I", bytes(words))


class ChunkReader:
    """
    Reads a chunk, sealed or still being written.

    Args:
        directory: Descriptor of the directory that it is in; stays open as long as `refresh` is called.
        file: Its name with its suffix.
        keys: For what is encrypted. Of a frame whose key is not among them, ``damage`` says so as long as that is the case.
        matches: What is remembered of this and other chunks.

    What a frame is asked for, and its damage, is safe from any thread; `refresh` is for one at a time. The file is held open until the
    reader is forgotten, so that whoever reads may go on when it has been removed.

    Raises:
        OSError: It cannot be opened or read.
        StoreFileError: It is no chunk, or one of a newer version, or nothing of it can be read. It has not been changed.
    """

    def __init__(self, directory: int, file: str, keys: KeyRing | None = None, matches: Matches | None = None) -> None:
        self.file = file
        self._keys = keys
        self._matches = matches or Matches(0)
        self._directory = directory
        self.name, _, suffix = file.rpartition(".")
        self.is_sealed = "." + suffix == SEALED_SUFFIX
        self._fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory)
        self._closing = finalize(self, os.close, self._fd)
        self.created_ns = 0
        self.id: int | None = None
        self.has_header = True  # which is not damaged
        self.end = 0  # of the last whole frame
        self.torn_bytes = 0  # behind it, in a chunk that is not sealed, and no footer: being written, or left by a kill
        self.frames: list[_Entry] = []  # is never changed, but replaced: by a longer one, as a rule
        self.first_ns = self.last_ns = 0  # times of the oldest and the newest record
        self._found: list[Damage] = []
        self._damaged: set[int] = set()
        self.keys_used: set[str] = set()  # ids; "" is that of what is in clear
        self._locked: dict[str, Damage] = {}  # by the id of the key that is missing
        self._hashers: dict[str, Hash] = {"": crc32}  # by the id of a key
        self._unindexed: list[int] = []
        self._lengths: list[int] = []
        self._crcs: list[int] = []
        self._bucket_at: list[int] = []
        self._kept: ChunkReader | None = None  # whose file this one reads
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file now, if nobody else can be reading it. Twice is once."""
        self._closing()

    def opened(self) -> ChunkReader:
        """The reader itself: it is open."""
        return self

    def still(self) -> ChunkReader:
        """What is there now: `refresh` of this reader does not change what that one finds."""
        if self.is_sealed:
            return self
        one = copy(self)
        one._kept = self
        return one

    def _begin(self) -> None:
        status = os.fstat(self._fd)
        self._number, size = status.st_ino, status.st_size
        fault = self._read_header(os.pread(self._fd, _HEADER.size, 0))
        begin = _HEADER.size
        has_footer = self.is_sealed and self._read_footer(size)
        if not has_footer:
            if fault:  # then it may be shorter, too
                begin = self._resynchronise(0, size) or begin
            self._walk(begin, size)
        if fault and not self.frames:
            raise StoreFileError(self.file, fault)
        self.has_header = not fault
        if fault:
            self._report(0, begin, 0, "are a damaged header")
        if self.is_sealed and not has_footer:
            self._report(self.end, size, None, "should be the index and the footer, and are not")

    def _read_header(self, header: bytes) -> str:
        """Read it and return "", or what is wrong with it."""
        if len(header) < _HEADER.size:
            return f"has {len(header)} bytes; even a chunk's header takes {_HEADER.size}"
        magic, version, identity, created_ns, crc = _HEADER.unpack(header)
        if magic != _MAGIC:
            return f"begins with {magic!r}, not {_MAGIC!r}"
        if crc != crc32(header[:-4]):
            return "has a damaged header"
        self._check_version(version)
        self.id, self.created_ns = identity, created_ns
        return ""

    def _check_version(self, version: int) -> None:
        if version > VERSION:
            fault = f"has version {version}; this library reads up to version {VERSION}. Upgrade rfs here"
            raise StoreFileError(self.file, fault, is_newer=True)

    def _read_footer(self, size: int) -> bool:
        found = self._footer(size)
        if found is None:
            return False
        self.id, footer, self._lengths, self._crcs = found
        self.created_ns = footer.created_ns
        self.extend([_Entry(at, end, notes) for at, end, notes in footer.frames], footer.index_at)
        for at, end in footer.damaged:
            self._report(at, end, None, "were damaged before the chunk was sealed")
        self._unindexed = footer.unindexed
        self._bucket_at = list(accumulate((4 * length for length in self._lengths), initial=footer.index_at))
        return True

    def _footer(self, size: int) -> tuple[int, _Footer, list[int], list[int]] | None:
        """The chunk's id, its footer, and the lengths and CRCs of the buckets; None if the file does not end with a whole one."""
        tail = os.pread(self._fd, _TAIL.size, max(0, size - _TAIL.size))
        if len(tail) < _TAIL.size:
            return None
        crc, version, stored, raw, identity, magic = _TAIL.unpack(tail)
        body_at = size - _TAIL.size - stored
        if magic != _TAIL_MAGIC or body_at < 0 or raw > _LARGEST_BYTES:
            return None
        body = os.pread(self._fd, stored, body_at)
        if crc32(body, crc32(tail[4:])) != crc or (self.id is not None and identity != self.id):
            return None
        self._check_version(version)
        try:
            footer = _decode_footer(_decompress(body, raw))
            lengths, crcs = (array("I", words) for words in (footer.bucket_lengths, footer.bucket_crcs))
        except (ValueError, zstandard.ZstdError):
            return None
        if len(lengths) != _BUCKETS or len(crcs) != _BUCKETS or footer.index_at + 4 * sum(lengths) != body_at:
            return None
        return identity, footer, list(lengths), list(crcs)

    def refresh(self) -> bool:
        """
        Find the frames that have been added to a chunk that is being written.

        Return whether its name still leads to this file. If not, it was sealed, another writer has taken it, or it was rewritten or
        removed, and nothing more comes: a new reader is due. Raises OSError.
        """
        if self.is_sealed:
            return self.is_named()
        size = os.fstat(self._fd).st_size
        if not self._has_all(size):  # a writer has taken back what we had seen
            self.frames, self._found, self._damaged, self._locked, self.end = [], [], set(), {}, 0
            self._begin()
        elif size > self.end:
            self._walk(max(self.end, _HEADER.size), size)
        return self.is_named()

    def has_all(self) -> bool:
        """
        Whether all frames that were found are still there: of a chunk that is being written, a writer that found no space, or could not
        sync, takes back what may have been seen. Raises OSError.
        """
        return self._has_all(os.fstat(self._fd).st_size)

    def _has_all(self, size: int) -> bool:
        last = self.frames[-1] if self.frames else None
        seen = None if last is None else self._read_frame(last.at, size)
        return size >= self.end and (last is None or (seen is not None and seen.notes == last.notes))

    def extend(self, entries: list[_Entry], end: int) -> None:
        """Know of further frames, the last of which ends at *end*."""
        if entries:
            notes = [entry.notes for entry in entries if entry.notes.records]
            if notes:
                has_records = any(entry.notes.records for entry in self.frames)
                first_ns, last_ns = min(one.first_ns for one in notes), max(one.last_ns for one in notes)
                self.first_ns = min(self.first_ns, first_ns) if has_records else first_ns
                self.last_ns = max(self.last_ns, last_ns) if has_records else last_ns
            self.keys_used.update(entry.notes.key for entry in entries)
            self.frames = [*self.frames, *entries]  # a new one: see `still`
        self.end = end

    def _walk(self, at: int, size: int) -> None:
        """Find the frames from *at* on."""
        entries: list[_Entry] = []
        damaged: list[tuple[int, int]] = []
        while at < size:
            entry = self._read_frame(at, size)
            if entry is None:
                following = self._resynchronise(at + 1, size)
                if following is None:
                    break  # being written, or never finished
                damaged.append((at, following))
                at = following
                continue
            entries.append(entry)
            at = entry.end
            breathe()
        for begin, end in damaged:
            self._report(begin, end, None, "are damaged")
        self.extend(entries, at)
        self.torn_bytes = 0 if self.is_sealed or self._only_wants_its_name(at, size) else size - at

    def _only_wants_its_name(self, at: int, size: int) -> bool:
        """Whether index and footer are all that is behind the last frame: whoever was sealing it was killed before it was renamed."""
        found = self._footer(size) if at < size else None
        return found is not None and found[1].index_at == at

    def _read_frame(self, at: int, size: int) -> _Entry | None:
        content = self._content(at, size)
        return None if content is None else content[0]

    def _content(self, at: int, size: int) -> tuple[_Entry, bytes, int, bytes] | None:
        """
        The frame at *at*, what is stored in it, how long that is when it is decompressed, and what it is bound to if it is encrypted;
        None if it is not whole.
        """
        head = os.pread(self._fd, _HEAD.size, at)
        if len(head) < _HEAD.size:
            return None
        mark, identity, crc, form, notes_bytes, stored_bytes, raw_bytes = _HEAD.unpack(head)
        behind = at + _HEAD.size
        end = behind + notes_bytes + stored_bytes
        if mark != _MARK or end > size or max(notes_bytes, stored_bytes, raw_bytes) > _LARGEST_BYTES:
            return None
        if identity != (identity if self.id is None else self.id):
            return None
        content = os.pread(self._fd, end - behind, behind)
        if crc32(content, crc32(head[16:], crc32(head[4:12]))) != crc or form > _ENCRYPTED:
            return None
        try:
            notes = _decode_notes(content[:notes_bytes])
            hashes = None if notes.ids is None else _unpack_ids(notes.ids)
        except UNREADABLE:
            return None
        if form != (_ENCRYPTED if notes.key else 0):
            return None
        self.id = identity
        entry = _Entry(at, end, msgspec.structs.replace(notes, ids=None), hashes)
        return entry, content[notes_bytes:], raw_bytes, _bound(head, content[:notes_bytes])

    def _resynchronise(self, at: int, size: int) -> int | None:
        """Where the next whole frame begins."""
        wanted = _MARK if self.id is None else _MARK + self.id.to_bytes(8, "little")
        while at < size:
            window = os.pread(self._fd, _SEARCHED_BYTES, at)
            found = window.find(wanted)
            while found >= 0:
                if self._read_frame(at + found, size) is not None:
                    return at + found
                found = window.find(wanted, found + 1)
            if len(window) < _SEARCHED_BYTES:
                break
            at += len(window) - len(wanted) + 1
            breathe()
        return None

    def copy_to(self, fd: int) -> None:
        """Copy all frames, and what is between them, behind the header of another file."""
        at, to = min(_HEADER.size, self.frames[0].at), _HEADER.size
        while piece := os.pread(self._fd, min(_SEARCHED_BYTES, self.end - at), at):
            _write_all(fd, piece, to)
            at, to = at + len(piece), to + len(piece)
            breathe()

    def _report(self, at: int, end: int, records: int | None, fault: str) -> None:
        if at not in self._damaged and os.fstat(self._fd).st_nlink:  # what was removed for its space has been emptied
            self._damaged.add(at)
            self._found.append(Damage(self.file, at, end, records, fault))

    @property
    def damage(self) -> list[Damage]:
        """What has been found so far."""
        return [*self._found, *self.locked]

    @property
    def locked(self) -> list[Damage]:
        """What is encrypted with a key that was not at hand when it was needed last; no other damage."""
        return [*self._locked.values()]

    def bytes_at(self, at: int, end: int) -> bytes:
        """The bytes of the file from *at* to *end*. Raises OSError."""
        return os.pread(self._fd, end - at, at)

    def is_named(self) -> bool:
        """Whether the file still has its name. Raises OSError."""
        try:
            named = os.stat(self.file, dir_fd=self._directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        own = os.fstat(self._fd)
        return (named.st_dev, named.st_ino) == (own.st_dev, own.st_ino)

    def _key(self, identity: str) -> Key | None:
        """The key of that id; None if it is not at hand, which is reported, once for all frames."""
        key = None if self._keys is None else self._keys.get(identity)
        if key is not None:
            self._locked.pop(identity, None)
        elif identity not in self._locked:
            locked = [one for one in tuple(self.frames) if one.notes.key == identity]
            if locked:  # else they have been taken back meanwhile
                records = sum(one.notes.records for one in locked)
                fault = f"are encrypted with key {identity!r}, which is not at hand"
                self._locked[identity] = Damage(self.file, locked[0].at, locked[-1].end, records, fault)
        return key

    def _hasher(self, key: str) -> Hash | None:
        """What the hashes of a frame with that key are made with; None if it is not at hand."""
        found = self._hashers.get(key)
        if found is None:
            known = self._key(key)
            if known is None or self.id is None:
                return None
            found = self._hashers[key] = known.hasher(self.id)
        return found

    @property
    def records(self) -> int:
        """How many records are in the frames, those included that have been found damaged since."""
        return sum(entry.notes.records for entry in self.frames)

    def rows(self, entry: _Entry) -> _Rows | None:
        """Decrypt and decompress a frame; None if it is damaged or its key is not at hand, which is reported."""
        key = None
        if entry.notes.key:
            key = self._key(entry.notes.key)
            if key is None:
                return None
        try:
            content = self._content(entry.at, entry.end)
            if content is not None and content[0].end == entry.end:
                _, stored, raw_bytes, bound = content
                if key is not None:
                    stored = key.decrypt(stored, bound)
                return _Rows(_decompress(stored, raw_bytes), entry.notes.records)
            fault = "are damaged"
        except (ValueError, zstandard.ZstdError) as error:
            fault = f"are damaged: {error}"
        except OSError as error:
            fault = f"cannot be read: {error.strerror}"
        if any(entry is one for one in self.frames):  # else they have been taken back meanwhile
            self._report(entry.at, entry.end, entry.notes.records, fault)
        return None

    def matching(
        self, entry: _Entry, *, min_level: int, flags: int, operation: str | None, correlation_id: str | None
    ) -> Iterable[tuple[int, Frame]]:
        """
        Rows and records of a frame that pass these filters, the newest first; decoded as they are asked for, if they are many.

        Nothing if it is damaged or its key is not at hand, which is reported.
        """
        notes = entry.notes
        filtered = self._number, entry.at, min_level, flags, operation
        is_remembered = correlation_id is None and (not notes.key or self._key(notes.key) is not None)
        known = self._matches.get(filtered, notes) if is_remembered else None
        if known is not None:
            return known
        rows = self.rows(entry)
        if rows is None:
            return ()
        text = correlation_id or operation
        numbers = [
            row
            for row in (rows.numbers_with(text) if text else range(notes.records - 1, -1, -1))
            if rows.levels[row] >= min_level and rows.flags[row] & flags == flags
        ]
        every = ((row, rows.frame(row, notes.first_ns)) for row in numbers)
        found = (
            (row, frame)
            for row, frame in every
            if (correlation_id is None or frame.correlation_id == correlation_id)
            and (operation is None or frame.operation == operation)
        )
        if not is_remembered or len(numbers) > _FEW:
            return found
        few = list(found)
        self._matches.put(filtered, notes, few)
        return few

    def read(self) -> Iterator[Frame]:
        """All records that can be read, frame by frame."""
        for entry in tuple(self.frames):
            rows = self.rows(entry)
            if rows is not None:
                for row in range(entry.notes.records):
                    yield rows.frame(row, entry.notes.first_ns)
            breathe()

    def with_id(self, correlation_id: str) -> list[_Entry]:
        """
        The frames in which records of that id may be; of those that have none, one in some thousand, and those whose key is not at
        hand.
        """
        frames = tuple(self.frames)
        keys = tuple(self.keys_used)
        wanted = {key: _hash(correlation_id, hashed) >> 8 for key in keys if (hashed := self._hasher(key)) is not None}
        if not self._bucket_at:
            return [
                one for one in frames if one.notes.key not in wanted or _holds(self.hashes(one), wanted[one.notes.key])
            ]
        numbers = set(self._unindexed)
        if len(wanted) < len(keys):
            numbers.update(number for number, one in enumerate(frames) if one.notes.key not in wanted)
        for one in wanted.values():
            found = self._look_up(one)
            if found is None:
                return list(frames)
            numbers.update(found)
        return [frames[number] for number in sorted(numbers) if number < len(frames)]

    def with_operation(self, operation: str) -> Callable[[Notes], bool]:
        """What tells of a frame's notes whether a record of that operation may be in it."""
        wanted = {
            key: _hash(operation, hashed) & 0xFFFF
            for key in tuple(self.keys_used)
            if (hashed := self._hasher(key)) is not None
        }

        def may_be(notes: Notes) -> bool:
            one = wanted.get(notes.key)
            return one is None or _holds(memoryview(notes.operations).cast("H"), one)

        return may_be

    def _look_up(self, wanted: int) -> Sequence[int] | None:
        bucket, key = wanted >> 16, wanted & 0xFFFF
        length, at = self._lengths[bucket], self._bucket_at[bucket]
        try:
            content = os.pread(self._fd, 4 * length, at)
        except OSError:
            content = b""
        if len(content) != 4 * length or crc32(content) != self._crcs[bucket]:
            self._report(at, at + 4 * length, 0, "are a damaged part of the index")
            return None
        words = memoryview(content).cast("H")
        first = bisect_left(words, key, 0, length)
        return words[length + first : length + bisect_right(words, key, first, length)].tolist()

    def hashes(self, entry: _Entry) -> array[int]:
        """The hashes of the ids in a frame; none if it is damaged or its key is not at hand."""
        if entry.hashes is None:
            hashed = self._hasher(entry.notes.key)
            rows = self.rows(entry)
            breathe()
            if hashed is None or (rows is None and entry.notes.key in self._locked):
                return array("I")  # for now
            entry.hashes = array("I") if rows is None else rows.hashes(hashed)
        return entry.hashes


def _bound(head: bytes, notes: bytes) -> bytes:
    """What of a frame is in clear, and must be as it was when the frame was encrypted."""
    return head[4:12] + head[16:] + notes


def _decompress(stored: bytes, raw_bytes: int) -> bytes:
    # What the stream itself says is what the library allocates.
    told = zstandard.frame_content_size(stored)
    if told != raw_bytes or raw_bytes > _LARGEST_BYTES:
        raise ValueError(f"{told} bytes when decompressed, not {raw_bytes}")
    return zstandard.ZstdDecompressor().decompress(stored, max_output_size=raw_bytes)


class Chunk(Protocol):
    """A chunk that is opened when it is its turn."""

    @property
    def first_ns(self) -> int:
        """The time of its oldest record."""
        ...

    @property
    def last_ns(self) -> int:
        """The time of its newest record."""
        ...

    def opened(self) -> ChunkReader | None:
        """Its reader; None if it is gone, or cannot be read."""
        ...


def newest(
    chunks: Iterable[Chunk],
    *,
    limit: int,
    min_level: int = 0,
    operation: str | None = None,
    correlation_id: str | None = None,
    flags: int = 0,
    since_ns: int = 0,
    until_ns: int = _EVERYTHING,
    before: Place | None = None,
) -> list[Found]:
    """
    The newest records of all *chunks* that pass all filters, newest first (*flags*: all of these bits set).

    *until_ns* is the first time that is too late. *before* goes on with the page after that place, whatever has been added since.
    Frames are read from the newest on, and none that the notes rule out. Safe from any thread; damage is reported by the chunks.

    Raises:
        QueryTimeoutError: The deadline of this thread is over, see `deadline`.
    """
    if before is not None:
        until_ns = min(until_ns, before.time_ns + 1)
    best: list[tuple[Place, Frame]] = []  # a heap: the oldest first
    # Chunks and frames, the one with the newest record first; a chunk makes way for its frames.
    numbers = count()  # so that nothing else is ever compared
    waiting: list[tuple[int, int, Chunk, _Entry | None]] = [
        (-chunk.last_ns, next(numbers), chunk, None)
        for chunk in chunks
        if chunk.first_ns < until_ns and chunk.last_ns >= since_ns
    ]
    heapify(waiting)
    while waiting and limit > 0:
        last, _, waited, entry = heappop(waiting)
        oldest = best[0][0] if len(best) == limit else None
        if oldest is not None and -last < oldest.time_ns:
            break
        check_deadline()
        chunk = waited.opened()
        if chunk is None:
            continue
        if entry is None:
            may_be = None if operation is None else chunk.with_operation(operation)
            for one in chunk.frames if not correlation_id else chunk.with_id(correlation_id):
                notes = one.notes
                if (
                    notes.last_ns >= since_ns
                    and notes.first_ns < until_ns
                    and notes.levels[-1:] >= bytes((min(min_level, 255),))
                    and notes.flags & flags == flags
                    and (may_be is None or may_be(notes))
                ):
                    heappush(waiting, (-notes.last_ns, next(numbers), chunk, one))
            continue
        for row, frame in chunk.matching(
            entry, min_level=min_level, flags=flags, operation=operation, correlation_id=correlation_id
        ):
            place = Place(frame.time_ns, chunk.name, entry.at, row)
            if len(best) == limit and place < best[0][0]:
                break  # rows are in order of time
            if since_ns <= frame.time_ns < until_ns and (before is None or place < before):
                (heappush if len(best) < limit else heapreplace)(best, (place, frame))
        breathe()
    best.sort(reverse=True)
    return [Found(*each) for each in best]


def _holds(words: Sequence[int], wanted: int) -> bool:
    at = bisect_left(words, wanted)
    return at < len(words) and words[at] == wanted


# Writing


class ChunkWriter:
    """
    Writes a chunk. For one thread, of one process.

    Args:
        directory: Descriptor of the directory that it is in.
        name: Its name without suffix. If there is an open chunk of that name, it is gone on with behind its last whole frame, and
            whoever else was writing it (see above) does so in vain.
        created_ns: Said in a new one's header.
        keys: What is added is encrypted with the first of them, if there are any.

    ``reader`` reads what has been added, without reading it again.

    Raises:
        OSError: It cannot be made, opened or read, or another process has taken it at the same time; FileExistsError if it is sealed.
        StoreFileError: What is there is no chunk that this version goes on with. It has not been changed.
    """

    def __init__(self, directory: int, name: str, created_ns: int, keys: KeyRing | None = None) -> None:
        self.name = name
        self._keys = keys
        self._directory = directory
        self._file = name + OPEN_SUFFIX
        self._fd = _make(directory, name, created_ns)
        try:
            self.reader = ChunkReader(directory, self._file, keys)
        except BaseException:
            os.close(self._fd)
            raise
        assert self.reader.id is not None  # noqa: S101 - `_make` has written the header
        self._packer = Packer(self.reader.id)
        self._synced = len(self.reader.frames)  # `_make` has synced what it has copied
        self._is_named = False  # for sure, after a power cut
        self._is_dirty = False  # there may be something behind the last frame
        self.failed = False

    @property
    def size(self) -> int:
        """How long the file is; about as much as it will be when it is sealed."""
        return self.reader.end

    @property
    def is_full(self) -> bool:
        """Whether it has as many frames as a chunk should have."""
        return len(self.reader.frames) >= _MOST_FRAMES

    def add(self, runs: Iterable[Run]) -> int:
        """
        Keep the records of *runs*; return how many that were. A payload is what `encode_record` has made of the same time, level,
        operation and id as the frame tells; any other is kept together with those.

        Readers see all of it or, if the process is killed meanwhile, the first frames of it. After an OSError (there is no space)
        nothing of it is there, and it may be tried again.
        """
        end = self.reader.end
        contents: list[bytes] = []
        entries: list[_Entry] = []
        for some in _in_frames(runs):
            content, notes, hashes = self._pack(some)
            contents.append(content)
            entries.append(_Entry(end, end + len(content), notes, hashes))
            end += len(content)
            breathe()
        if not entries:
            return 0
        self._write(b"".join(contents))
        self.reader.extend(entries, end)
        return sum(entry.notes.records for entry in entries)

    def _pack(self, runs: list[Run]) -> tuple[bytes, Notes, array[int]]:
        frames = list(runs[0].frames)
        sources: dict[str, list[tuple[int, int, int]]] = {}
        for run in runs:
            if run is not runs[0]:
                frames += run.frames
            sources.setdefault(run.source, []).append((run.sequence, run.offsets[0], run.end))
        frames.sort(key=_time_of)
        return self._packer.frame(frames, list(sources.items()), None if self._keys is None else self._keys.first)

    def _write(self, content: bytes) -> None:
        """Write *content* behind the last frame, or leave nothing there."""
        if self.failed:
            raise OSError(EIO, "could not be synced; write another chunk", self._file)
        at = self.reader.end
        if self._is_dirty:
            os.ftruncate(self._fd, at)
        self._is_dirty = True
        try:
            _write_all(self._fd, content, at)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._fd, self.reader.end)
                self._is_dirty = False
            raise
        self._is_dirty = False

    def sync(self) -> None:
        """
        Return when all that was added is on the disk: now it may be marked as imported.

        After an OSError, nobody knows what is, or another writer has taken the chunk; so what was added since the last time has been taken back and is to be imported again,
        into another chunk. ``failed`` is then True, and this one takes nothing more; a new writer can go on with it.
        """
        reader = self.reader
        if self.failed or (self._synced == len(reader.frames) and self._is_named):
            return
        try:
            os.fdatasync(self._fd)
            if not self._is_named:
                os.fsync(self._directory)
            self.must_be_ours()
        except OSError:
            self.failed = True
            reader.end = reader.frames[self._synced].at if self._synced < len(reader.frames) else reader.end
            reader.frames = reader.frames[: self._synced]
            with suppress(OSError):
                os.ftruncate(self._fd, reader.end)
            raise
        self._synced = len(reader.frames)
        self._is_named = True

    def must_be_ours(self) -> None:
        """Raise OSError (ESTALE, ENOENT) if another writer has taken the chunk."""
        named, own = os.stat(self._file, dir_fd=self._directory, follow_symlinks=False), os.fstat(self._fd)
        if (named.st_dev, named.st_ino) != (own.st_dev, own.st_ino):
            raise OSError(ESTALE, "another writer has taken the chunk", self._file)

    def seal(self) -> str:
        """
        Write index and footer, and let the file have its final name, which is returned. Nothing can be added any more.

        Whenever it is killed, the chunk is as it was, or sealed. After an OSError it is as it was, and unless that came from syncing
        (see `sync`), it may be tried again or gone on with.
        """
        self.sync()
        reader = self.reader
        for entry in reader.frames:
            reader.hashes(entry)
        locked = reader.locked
        damaged = [(damage.at, damage.end) for damage in reader.damage if damage not in locked]
        self._write(self._packer.end(reader.created_ns, list(reader.frames), damaged, reader.end))
        self._is_dirty = True  # until it has its name, this is no footer
        try:
            os.fsync(self._fd)
            self.must_be_ours()
        except OSError:
            self.failed = True
            raise
        sealed = self.name + SEALED_SUFFIX
        os.rename(self._file, sealed, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        with suppress(OSError):  # a rename that a power cut undoes is done again
            os.fsync(self._directory)
        self.close()
        return sealed

    def close(self) -> None:
        """Let go of the file, as it is; ``reader`` goes on reading. Twice is once."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Packer:
    """Makes the frames of a chunk, and its end. For one thread."""

    def __init__(self, chunk: int) -> None:
        self._chunk = chunk
        self._compress = zstandard.ZstdCompressor(compression_params=_COMPRESSION).compress
        self._hashers: dict[str, Hash] = {}

    def frame(
        self, frames: list[Frame], sources: Sources | msgspec.Raw, key: Key | None
    ) -> tuple[bytes, Notes, array[int]]:
        """
        A frame of *frames*, which are in order of time, and came from *sources*; its notes; and the hashes of its ids.

        One that has no frames any more still says that they were imported.
        """
        hashed: Hash = crc32
        if key is not None:
            hashed = self._hashers.get(key.id) or self._hashers.setdefault(key.id, key.hasher(self._chunk))
        levels = bytes([frame.level for frame in frames])
        flags = bytes([frame.flags for frame in frames])
        raw = _pack_rows(flags + levels, frames)
        stored = self._compress(raw)
        all_flags = 0
        for each in set(flags):
            all_flags |= each
        notes = Notes(
            len(frames),
            frames[0].time_ns if frames else 0,
            frames[-1].time_ns if frames else 0,
            bytes(sorted(set(levels))),
            all_flags,
            array(
                "H", sorted({_hash(one, hashed) & 0xFFFF for one in {frame.operation for frame in frames}})
            ).tobytes(),
            sources if isinstance(sources, msgspec.Raw) else msgspec.Raw(_encode(sources)),
            "" if key is None else key.id,
        )
        hashes = _hashes_of({frame.correlation_id for frame in frames}, hashed)
        packed = _encode(msgspec.structs.replace(notes, ids=_pack_ids(hashes)))
        form, length = (0, len(stored)) if key is None else (_ENCRYPTED, len(stored) + SEALED_BYTES)
        head = _HEAD.pack(_MARK, self._chunk, 0, form, len(packed), length, len(raw))
        if key is not None:
            stored = key.encrypt(stored, _bound(head, packed))
        crc = crc32(stored, crc32(packed, crc32(head[16:], crc32(head[4:12]))))
        content = b"".join((head[:12], crc.to_bytes(4, "little"), head[16:], packed, stored))
        return content, notes, hashes

    def end(self, created_ns: int, entries: list[_Entry], damaged: list[tuple[int, int]], at: int) -> bytes:
        """Index and footer, to be written *at* that place; for entries without ``hashes`` the index cannot answer."""
        buckets: list[list[int]] = [[] for _ in range(_BUCKETS)]
        for number, entry in enumerate(entries):
            for one in entry.hashes or ():
                buckets[one >> 16].append((one & 0xFFFF) << 16 | number)
            breathe()
        index: list[bytes] = []
        for bucket in buckets:
            bucket.sort()
            index.append(array("H", (*(one >> 16 for one in bucket), *(one & 0xFFFF for one in bucket))).tobytes())
            breathe()
        footer = _Footer(
            created_ns,
            [(entry.at, entry.end, entry.notes) for entry in entries],
            damaged,
            at,
            array("I", map(len, buckets)).tobytes(),
            array("I", map(crc32, index)).tobytes(),
            [number for number, entry in enumerate(entries) if entry.hashes is None],
        )
        raw = _encode(footer)
        body = self._compress(raw)
        tail = _TAIL.pack(0, VERSION, len(body), len(raw), self._chunk, _TAIL_MAGIC)[4:]
        return b"".join((*index, body, crc32(body, crc32(tail)).to_bytes(4, "little"), tail))


def _pack_header(identity: int, created_ns: int) -> bytes:
    """How a chunk begins."""
    header = _HEADER.pack(_MAGIC, VERSION, identity, created_ns, 0)[:-4]
    return header + crc32(header).to_bytes(4, "little")


def _make(directory: int, name: str, created_ns: int) -> int:
    """A descriptor of the file ``<name>.open``, which nobody else has; in it what is whole of the chunk that had that name."""
    # Opened anew: a descriptor and its copies share one place in the listing, so two threads would each get a part of it.
    listed = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        names = os.listdir(listed)
    finally:
        os.close(listed)
    if name + SEALED_SUFFIX in names:
        raise FileExistsError(EEXIST, "is sealed", name + SEALED_SUFFIX)
    for left in names:
        if left.startswith(f".{name}."):  # by one who was killed here; should he live, he has lost
            os.unlink(left, dir_fd=directory)
    before = _take(directory, name, names)
    identity = int.from_bytes(os.urandom(8), "little") if before is None or before.id is None else before.id
    header = _pack_header(identity, before.created_ns if before and before.frames else created_ns)
    hidden = f".{name}.{os.getpid()}"
    fd = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        _write_all(fd, header, 0)
        if before is not None and before.frames:
            before.copy_to(fd)
        os.fsync(fd)
        _must_share(directory, hidden)
        os.link(hidden, name + OPEN_SUFFIX, src_dir_fd=directory, dst_dir_fd=directory)
        if before is not None:
            os.fsync(directory)
            os.unlink(before.file, dir_fd=directory)
            before.close()
    except BaseException:
        os.close(fd)
        raise
    finally:
        with suppress(OSError):
            os.unlink(hidden, dir_fd=directory)
    return fd


def _must_share(directory: int, file: str) -> None:
    """Raise OSError if a second name of a file leads to another one here: then nobody could tell whose a chunk is."""
    second = f"{file}.same"
    os.link(file, second, src_dir_fd=directory, dst_dir_fd=directory)
    try:
        one, other = (os.stat(name, dir_fd=directory, follow_symlinks=False) for name in (file, second))
        if (one.st_dev, one.st_ino) != (other.st_dev, other.st_ino):
            raise OSError(EOPNOTSUPP, "a hard link is another file on this file system", second)
    finally:
        os.unlink(second, dir_fd=directory)


def _take(directory: int, name: str, names: list[str]) -> ChunkReader | None:
    """The open chunk of that name, when nobody can add to it any more."""
    named, taken = name + OPEN_SUFFIX, name + TAKEN_SUFFIX
    if named in names:
        ChunkReader(directory, named).close()  # what is no chunk stays where it is
        if taken in names:  # it has been copied already
            os.unlink(taken, dir_fd=directory)
        os.rename(named, taken, src_dir_fd=directory, dst_dir_fd=directory)
    elif taken not in names:
        return None
    return ChunkReader(directory, taken)


def _write_all(fd: int, content: bytes, at: int) -> None:
    left = memoryview(content)
    while left:
        written = os.pwrite(fd, left, at)
        left, at = left[written:], at + written


def _in_frames(runs: Iterable[Run]) -> Iterator[list[Run]]:
    """Runs whose records together are as much as a frame should hold; long ones are cut."""
    some: list[Run] = []
    room = FRAME_BYTES
    for run in runs:
        sizes = list(accumulate([len(frame.payload) for frame in run.frames], initial=0))
        at, length = 0, len(run.frames)
        while at < length:
            fitting = bisect_right(sizes, sizes[at] + room) - 1
            if fitting <= at and some:  # not even one more
                yield some
                some, room = [], FRAME_BYTES
                continue
            fitting = max(fitting, at + 1)
            end = run.end if fitting == length else run.offsets[fitting]
            some.append(Run(run.source, run.sequence, run.offsets[at:fitting], end, run.frames[at:fitting]))
            room -= sizes[fitting] - sizes[at]
            at = fitting
    if some:
        yield some


def _pack_rows(columns: bytes, frames: list[Frame]) -> bytes:
    """*columns*, and a MessagePack array of the payloads; one that would not come out again as it went in is wrapped."""
    payloads = [frame.payload for frame in frames]
    head = columns + b"\xdd" + len(payloads).to_bytes(4, "big")
    packed = b"".join((head, *payloads))
    if {payload[:1] for payload in payloads} == {_RECORD}:
        with suppress(*UNREADABLE):
            rows = _decode_rows(memoryview(packed)[len(columns) :])
            if list(map(len, rows)) == list(map(len, payloads)):
                return packed
    return b"".join((head, *(frame.payload if _is_row(frame.payload) else _wrapped(frame) for frame in frames)))


def _is_row(payload: bytes) -> bool:
    if payload[:1] != _RECORD:
        return False
    try:
        _decode_head(payload)
    except UNREADABLE:
        return False
    return True


def _wrapped(frame: Frame) -> bytes:
    fields = frame.time_ns, frame.level, frame.flags, frame.correlation_id, frame.operation, frame.payload
    return _encode(msgspec.msgpack.Ext(_WRAPPED, _encode(fields)))


# Rewriting


@contextmanager
def alone_in(path: Path) -> Generator[int]:
    """
    A descriptor of the directory *path*, whose lock is held: one process at a time rewrites chunks, or moves them elsewhere.

    Waits for who does so now. Raises OSError.
    """
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flock(directory, LOCK_EX)
        for name in os.listdir(path):
            if name.startswith(".") and name.endswith(_REWRITING_SUFFIX):  # its writer was killed
                os.unlink(name, dir_fd=directory)
        yield directory
    finally:
        os.close(directory)


def rewrite(
    directory: int, chunk: ChunkReader, key: Key | None, *, numbers: Collection[int], keeps: Callable[[Frame], bool]
) -> int:
    """
    Let another file have the name of a sealed *chunk*, in a directory that `alone_in` has given: of the frames with these *numbers*
    only the records that this *keeps*, encrypted with *key*, and all else bit by bit, what is damaged and what nobody can read now
    included. Return how many records were kept of those frames.

    The chunk keeps its id, and says of the same records that they were imported. Whenever it is killed, the chunk is as it was, or
    rewritten. Who reads the old file reads it to its end; `ChunkReader.refresh` tells that there is another.

    Raises:
        OSError: It could not be written or read, or was removed meanwhile; it is as it was.
    """
    assert chunk.id is not None  # noqa: S101 - it has frames
    packer = Packer(chunk.id)
    hidden = f".{chunk.name}{_REWRITING_SUFFIX}"
    fd = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        _write_all(fd, _pack_header(chunk.id, chunk.created_ns), 0)
        at = read = _HEADER.size
        kept = 0
        entries: list[_Entry] = []
        damaged: list[tuple[int, int]] = []
        for number, entry in enumerate(chunk.frames):
            if entry.at > read:
                content = chunk.bytes_at(read, entry.at)
                _write_all(fd, content, at)
                damaged.append((at, at + len(content)))
                at += len(content)
            read = entry.end
            if number in numbers:
                rows = chunk.rows(entry)
                if rows is None:
                    raise OSError(EIO, "could be read before, and cannot now", chunk.file)
                every = (rows.frame(row, entry.notes.first_ns) for row in range(entry.notes.records))
                frames = [frame for frame in every if keeps(frame)]
                content, notes, hashes = packer.frame(frames, entry.notes.sources, key)
                entries.append(_Entry(at, at + len(content), notes, hashes))
                kept += len(frames)
            else:
                content = chunk.bytes_at(entry.at, entry.end)
                chunk.hashes(entry)
                entries.append(_Entry(at, at + len(content), entry.notes, entry.hashes))
            _write_all(fd, content, at)
            at += len(content)
            breathe()
        _write_all(fd, packer.end(chunk.created_ns, entries, damaged, at), at)
        os.fsync(fd)
        if not chunk.is_named():
            raise FileNotFoundError(ENOENT, "was removed while it was rewritten", chunk.file)
        os.rename(hidden, chunk.file, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with suppress(OSError):
            os.unlink(hidden, dir_fd=directory)
        raise
    finally:
        os.close(fd)
    os.fsync(directory)
    return kept


# Importing


def chunk_files(names: Collection[str]) -> list[str]:
    """Of the files of a directory those that are to be read, one of each chunk: what a killed process has left is passed over."""
    best: dict[str, str] = {}
    for suffix in (TAKEN_SUFFIX, OPEN_SUFFIX, SEALED_SUFFIX):
        for name in names:
            if name.endswith(suffix) and not name.startswith("."):
                best[name.removesuffix(suffix)] = name
    return sorted(best.values())


def _sources_of(notes: Notes) -> Sources:
    try:
        return _decode_sources(notes.sources)
    except UNREADABLE:  # no writer makes that; its records are imported again if they are still there
        return []


class Imported:
    """
    What *chunks* hold of some segments: for the first import of a leader, whose predecessor may have been killed after it had
    added runs and before it had marked them.

    Args:
        chunks: All chunks. The open ones have been taken over before, each by a `ChunkWriter`: what another has left in them may
            not be on the disk yet.
        sources: The segments that there are. What the chunks hold of others is of no interest.
        since_ns: The time of the oldest record that will be asked for.
        until_ns: The first time that is too late.
    """

    def __init__(
        self,
        chunks: Iterable[ChunkReader],
        sources: Collection[str],
        *,
        since_ns: int = -_EVERYTHING,
        until_ns: int = _EVERYTHING,
    ) -> None:
        self._stretches: dict[tuple[str, int], list[tuple[int, int]]] = {}
        for chunk in chunks:
            for entry in chunk.frames:
                if entry.notes.last_ns < since_ns or entry.notes.first_ns >= until_ns:
                    continue
                for source, stretches in _sources_of(entry.notes):
                    if source in sources:
                        for sequence, start, end in stretches:
                            self._stretches.setdefault((source, sequence), []).append((start, end))

    def rest(self, run: Run) -> Run:
        """*run* without the records that are in a chunk already."""
        stretches = self._stretches.get((run.source, run.sequence))
        if not stretches:
            return run
        stretches.sort()
        starts = [start for start, _ in stretches]
        ends = list(accumulate((end for _, end in stretches), max))  # how far those that begin up to here reach
        kept = [
            number
            for number, offset in enumerate(run.offsets)
            if not (before := bisect_right(starts, offset)) or offset >= ends[before - 1]
        ]
        return run.only(kept)
