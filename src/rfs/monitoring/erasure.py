"""
Erasing what is known of a person: every record of a subject, out of every file of a service's directory, or out of an archive.

A record is of a subject if its correlation id is the subject's id, or if one of its fields with a name like ``user_id`` has it as value,
however deep. Afterwards no byte search in the directory finds the record. What was on a disk before can be found on it until the file
system uses the place again; who must exclude that encrypts the records (see `encryption`).

An id does not belong into a label of a metric. Where one is in a label all the same, another text takes its place, and the numbers stay,
so that sums are those of before. But not while a process still has the series, or an hour after that: what of it has been counted
would be counted again. Then the receipt says so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from math import inf
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import cast

import msgspec

from rfs.errors import LiveFileError, StoreError, StoreFileError
from rfs.monitoring._capture.cells import CellsReader, SeriesKey
from rfs.monitoring._capture.live import CELLS_SUFFIX, SCRUB_REQUEST, live_path, process_of
from rfs.monitoring._capture.record import decode_record
from rfs.monitoring._capture.segments import Frame, SegmentReader
from rfs.monitoring._folded import TOTALS, folded_series
from rfs.monitoring._store.catalogue import CatalogueReader
from rfs.monitoring._store.chunks import OPEN_SUFFIX, SEALED_SUFFIX, ChunkReader, alone_in, chunk_files, rewrite
from rfs.monitoring._store.keys import KeyRing
from rfs.monitoring._store.local import CATALOGUE
from rfs.monitoring._store.records import QUARANTINE
from rfs.monitoring._store.retention import CHUNKS
from rfs.monitoring._store.sealing import POLL_SECONDS, STORE, is_alive, seal_open, segment_files
from rfs.monitoring._store.windows import decode_labels
from rfs.monitoring.archives import MANIFEST, ArchivedFile, make_single, read_manifest, revise, with_windows

__all__ = ["SUBJECT_FIELDS", "Erased", "erase"]

_ASK_AGAIN_SECONDS = 30.0
_DISTINCT_BYTES = 6  # an id of fewer is found in any file by chance
SUBJECT_FIELDS = ("user_id", "subject_id")


class Erased(msgspec.Struct):
    """
    The receipt.

    Args:
        records: How many records were erased, by file.
        removed: Files of what had been set aside as damaged that held the id, and are gone.
        mentions: How many records hold the id elsewhere, in a message for example, and were kept. ``anywhere`` erases them, too.
        left: Where the subject still is, and why, a line each; empty if it is nowhere.
        unsearched: What nobody could read, damaged or encrypted with a key that is not at hand, a line each.
    """

    records: dict[str, int] = {}
    removed: list[str] = []
    mentions: int = 0
    left: list[str] = []
    unsearched: list[str] = []

    def __str__(self) -> str:
        lines = [f"{sum(self.records.values())} records erased"]
        lines += (f"  {count} from {file}" for file, count in self.records.items())
        lines += (f"  removed {file}" for file in self.removed)
        if self.mentions:
            lines.append(f"{self.mentions} records that mention the id elsewhere were kept")
        lines += (f"LEFT {where}" for where in self.left)
        lines += (f"NOT SEARCHED {what}" for what in self.unsearched)
        return "\n".join(lines)


class _Subject:
    """Tells whose a record is."""

    def __init__(self, identity: str, fields: Collection[str], *, anywhere: bool) -> None:
        self.identity = identity
        self.needle = identity.encode("utf-8", "surrogatepass")
        self._fields = frozenset(fields)
        self._anywhere = anywhere

    def owns(self, frame: Frame) -> bool:
        """Whether the record is the subject's; one that cannot be decoded is if it has the id anywhere."""
        if frame.correlation_id == self.identity:
            return True
        if self._anywhere and self.needle in frame.payload:
            return True
        try:
            data = decode_record(frame.payload)
        except msgspec.DecodeError:
            return self.needle in frame.payload
        return data.correlation_id == self.identity or self._is_in(data.fields, is_named=False)

    def label_in(self, key: SeriesKey) -> str | None:
        """The label of a series that holds the id, or the series' whole name; None if it does not hold it."""
        for label, value in key.labels:
            if value == self.identity or self._is_part_of(value):
                return f"label {label!r} of {key.name}"
        if any(map(self._is_part_of, (key.name, *(label for label, _ in key.labels)))):
            return f"the name of {key.name} or a label of it"
        return None

    def without(self, key: SeriesKey, other: str) -> SeriesKey:
        """The series with *other* for the id where that is a label, or with ``anywhere`` in one."""
        return SeriesKey(key.name, tuple((label, self._replaced(value, other)) for label, value in key.labels))

    def _replaced(self, value: str, other: str) -> str:
        if value == self.identity:
            return other
        return value.replace(self.identity, other) if self._anywhere and self._is_part_of(value) else value

    def _is_part_of(self, text: str) -> bool:
        return len(self.needle) >= _DISTINCT_BYTES and self.identity in text

    def _is_in(self, value: object, *, is_named: bool) -> bool:
        if isinstance(value, dict):
            named = cast("dict[object, object]", value)
            return any(self._is_in(each, is_named=is_named or name in self._fields) for name, each in named.items())
        if isinstance(value, list):
            return any(self._is_in(each, is_named=is_named) for each in cast("list[object]", value))
        return is_named and not isinstance(value, bool) and str(value) == self.identity


def erase(
    directory: str | Path,
    subject: str,
    *,
    fields: Collection[str] = SUBJECT_FIELDS,
    anywhere: bool = False,
    keys: KeyRing | None = None,
    wait_seconds: float = 10.0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Erased:
    """
    Erase every record of *subject* from a service's *directory*: from chunks, from what was set aside, and from live files. Or from an
    archive, in a folder or at a URL: see `archives.revise`.

    The service may run meanwhile: its processes are asked to finish the file that they are writing and to clear their live files, for
    which they have *wait_seconds*. What they record of the subject from then on is not erased. Killed at any step, nothing else is lost,
    and the next call goes on.

    Args:
        fields: The fields whose value is a subject's id.
        anywhere: Whether a record that holds the id anywhere, in a message or an address, is the subject's, too.
        keys: For what is encrypted.
        on_progress: Told with each file how many are done, and how many there are.

    Raises:
        ValueError: *subject* is empty.
        ArchiveError: There is no archive at the URL, its manifest is damaged, or another process works on it.
        OSError: There is no store, or its directory cannot be read.
    """
    if not subject:
        raise ValueError("a subject's id cannot be empty")
    whose = _Subject(subject, fields, anywhere=anywhere)
    done = Erased()
    if (isinstance(directory, str) and "://" in directory) or (Path(directory) / MANIFEST).is_file():
        _erase_archive(directory, whose, keys, done, on_progress)
    else:
        _erase_directory(Path(directory), whose, keys, done, wait_seconds, on_progress)
    return done


def _erase_directory(
    directory: Path,
    whose: _Subject,
    keys: KeyRing | None,
    done: Erased,
    wait_seconds: float,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    deadline = time.monotonic() + wait_seconds
    is_settled = seal_open(directory, keys, deadline)
    with alone_in(directory / STORE / CHUNKS) as chunks:
        _erase_chunks(directory / STORE / CHUNKS, chunks, whose, keys, done, on_progress)
    _erase_quarantine(directory / STORE / QUARANTINE, whose, keys, done)
    _scrub(directory, whose, done, deadline)
    _erase_labels(directory, whose, done)
    if not is_settled:
        done.left.append(
            f"{directory / STORE / CHUNKS}: the file that the service is writing, if it has records of the subject"
        )


def _erase_archive(
    target: str | Path,
    whose: _Subject,
    keys: KeyRing | None,
    done: Erased,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    files = read_manifest(target).files

    def change(folder: Path, file: ArchivedFile) -> ArchivedFile | None:
        if on_progress is not None:
            on_progress(files.index(file), len(files))
        if file.name == CATALOGUE:
            try:
                is_changed = _erase_archived_labels(folder, f"{target}", whose, done)
            except StoreError as error:
                done.unsearched.append(f"{target}: {file.name}: {error.fault}")
                return file
            return msgspec.structs.replace(file) if is_changed else file
        with alone_in(folder / CHUNKS) as chunks:
            name = file.name.rpartition("/")[2]
            if not _erase_chunk(chunks, name, f"{target}", whose, keys, done):
                return file
            with closing(ChunkReader(chunks, name, keys)) as chunk:
                if not chunk.records and not chunk.damage:
                    return None
                return msgspec.structs.replace(
                    file, since_ns=chunk.first_ns, until_ns=chunk.last_ns, records=chunk.records
                )

    revise(target, change, on_damaged=lambda file: done.unsearched.append(f"{target}: {file.name} is damaged"))
    if on_progress is not None:
        on_progress(len(files), len(files))


def _erase_chunks(
    path: Path,
    chunks: int,
    whose: _Subject,
    keys: KeyRing | None,
    done: Erased,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Erase from the sealed chunks of a directory that `alone_in` has given."""
    files = [file for file in chunk_files([each.name for each in path.iterdir()]) if file.endswith(SEALED_SUFFIX)]
    for number, file in enumerate(files, 1):
        _erase_chunk(chunks, file, str(path), whose, keys, done)
        if on_progress is not None:
            on_progress(number, len(files))


def _erase_chunk(chunks: int, file: str, where: str, whose: _Subject, keys: KeyRing | None, done: Erased) -> bool:
    """Erase from one sealed chunk; whether there was anything."""
    try:
        chunk = ChunkReader(chunks, file, keys)
    except (OSError, StoreFileError) as error:
        done.unsearched.append(f"{where}/{file}: {error}")
        return False
    try:
        found, mentions = _frames_of(chunk, whose)
        done.mentions += mentions
        done.unsearched += (f"{where}: {damage}" for damage in chunk.damage)
        if found:
            first = None if keys is None else keys.first
            rewrite(chunks, chunk, first, numbers=found, keeps=lambda frame: not whose.owns(frame))
            done.records[file] = sum(found.values())
        return bool(found)
    except OSError as error:
        done.left.append(f"{where}/{file}: cannot be rewritten: {error}")
        return False
    finally:
        chunk.close()


def _frames_of(chunk: ChunkReader, whose: _Subject) -> tuple[dict[int, int], int]:
    """The numbers of the frames with records of the subject, how many there are in each, and how many others mention it."""
    found: dict[int, int] = {}
    mentions = 0
    for number, entry in enumerate(chunk.frames):
        rows = chunk.rows(entry)
        if rows is None:
            continue
        # A number has another form in a record than in a text.
        candidates = range(entry.notes.records) if whose.identity.isdecimal() else rows.numbers_with(whose.identity)
        for row in candidates:
            frame = rows.frame(row, entry.notes.first_ns)
            if whose.owns(frame):
                found[number] = found.get(number, 0) + 1
            else:
                mentions += whose.needle in frame.payload
    return found, mentions


def _erase_quarantine(path: Path, whose: _Subject, keys: KeyRing | None, done: Erased) -> None:
    """Remove what was set aside and holds the subject's id; nobody reads it but a person."""
    if not path.is_dir():
        return
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for file in sorted(each.name for each in path.iterdir() if each.is_file()):
            try:
                holds = _has_bytes(path / file, whose.needle)
                if not holds and SEALED_SUFFIX not in file and OPEN_SUFFIX not in file:
                    continue
                holds = holds or _holds_records(ChunkReader(folder, file, keys), whose, path, done)
            except (OSError, StoreFileError) as error:
                done.unsearched.append(f"{path / file}: {error}")
                continue
            if holds:
                (path / file).unlink()
                done.removed.append(f"{QUARANTINE}/{file}")
        os.fsync(folder)
    finally:
        os.close(folder)


def _holds_records(chunk: ChunkReader, whose: _Subject, path: Path, done: Erased) -> bool:
    with closing(chunk):
        found, mentions = _frames_of(chunk, whose)
        if not found and not mentions:
            done.unsearched += (f"{path}: {damage}" for damage in chunk.damage)
            if chunk.torn_bytes:
                done.unsearched.append(f"{path / chunk.file}: {chunk.torn_bytes} bytes at its end cannot be read")
        return bool(found or mentions)


def _has_bytes(path: Path, needle: bytes) -> bool:
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return False
        with closing(mmap(file.fileno(), 0, access=ACCESS_READ)) as memory:
            return memory.find(needle) >= 0


def _scrub(directory: Path, whose: _Subject, done: Erased, deadline: float) -> None:
    """Clear the live files, or have them cleared by the processes that write into them."""
    live = live_path(directory)
    request = live / SCRUB_REQUEST
    asked_at = -inf
    try:
        while left := list(_uncleared(live, segment_files(directory), whose)):
            if time.monotonic() > deadline:
                done.left += left
                break
            if time.monotonic() - asked_at > _ASK_AGAIN_SECONDS:
                asked_at = time.monotonic()
                request.touch(0o600)
            time.sleep(POLL_SECONDS)
    finally:
        request.unlink(missing_ok=True)


def _uncleared(live: Path, files: Iterable[Path], whose: _Subject) -> Iterator[str]:
    """Where records of the subject still are; the files of dead processes are cleared here, when all of them is in chunks."""
    for path in files:
        with suppress(FileNotFoundError, LiveFileError), path.open("rb") as file:
            with closing(mmap(file.fileno(), 0, access=ACCESS_READ)) as memory:
                reader = SegmentReader(memory, name=path.name)
                try:
                    frames = reader.finish()
                    if not any(map(whose.owns, frames)) and not _has_remains(memory, frames, whose.needle):
                        continue
                    if is_alive(live, process_of(path.name)):
                        yield f"{path}: a process that runs has not cleared it"
                        continue
                    emptied = reader.emptied()
                    reader.resume()
                    if reader.finish():
                        yield f"{path}: records that no leader has imported"
                        continue
                finally:
                    reader.close()
                size = len(memory)
            hidden = path.with_name(f".{path.name}.{os.getpid()}")
            with open(hidden, "xb", opener=_private) as new:
                new.write(emptied)
                new.truncate(size)
            hidden.rename(path)


def _has_remains(memory: mmap, frames: Iterable[Frame], needle: bytes) -> bool:
    """Whether the id is in *memory*, and in none of its *frames*: a process is just overwriting it, or was killed when it wrote it."""
    return (
        len(needle) >= _DISTINCT_BYTES
        and memory.find(needle) >= 0
        and not any(needle in frame.payload for frame in frames)
    )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


# Labels


def _erase_labels(directory: Path, whose: _Subject, done: Erased) -> None:
    """Rename the series that hold the subject's id in a label, and report those that cannot be renamed now."""
    catalogue = directory / STORE / CATALOGUE
    try:
        if _catalogue_series(catalogue):
            try:
                with_windows(catalogue.parent, lambda writer: writer.rename(_renaming(whose, live_path(directory))))
            except StoreError as error:
                done.left.append(f"{catalogue}: what labels were is in it still: {error.fault}")
        for label in _labels(_catalogue_series(catalogue), whose):
            done.left.append(f"{catalogue}: {label}; {_IN_CATALOGUE}")
    except StoreError as error:
        done.unsearched.append(f"{catalogue}: {error.fault}")
    for path in sorted(live_path(directory).glob("[!.]*")):
        try:
            for label in _labels(_live_series(path), whose):
                done.left.append(f"{path}: {label}; {_IN_LIVE}")
        except FileNotFoundError:
            pass  # what it had is in another by now, or gone
        except (OSError, LiveFileError, ValueError) as error:
            done.unsearched.append(f"{path}: {error}")


def _erase_archived_labels(folder: Path, where: str, whose: _Subject, done: Erased) -> bool:
    """The same in the catalogue of an archive; whether something was renamed. Raises StoreError."""
    path = folder / CATALOGUE
    with_windows(folder, lambda _: None)  # one of an older version becomes one of ours
    before = _catalogue_series(path)
    with_windows(folder, lambda writer: writer.rename(_renaming(whose, None)))
    after = _catalogue_series(path)
    done.left += (f"{where}: {label}; {_IN_CATALOGUE}" for label in _labels(after, whose))
    if after != before:
        make_single(path)
    return after != before


_IN_LIVE = "it goes an hour after it was last written, or with the live directory while the service is stopped; call again then"
_IN_CATALOGUE = "call again when no live file has it; where a label is more than the id, with `anywhere`"


def _renaming(whose: _Subject, live: Path | None) -> Callable[[Collection[SeriesKey]], Mapping[SeriesKey, SeriesKey]]:
    """What says for `WindowWriter.rename` which series get another name: none that the *live* files have."""

    def names(every: Collection[SeriesKey]) -> Mapping[SeriesKey, SeriesKey]:
        other = f"erased-{os.urandom(4).hex()}"
        new = {key: renamed for key in every if (renamed := whose.without(key, other)) != key}
        if not new or live is None:
            return new
        # What has been folded is looked at last: a file of cells that is gone by then is in there.
        files = sorted(live.glob("[!.]*"), key=lambda path: path.name.startswith(TOTALS))
        try:
            # By metrics, because a gauge of each process has a label more in the catalogue.
            in_use = {key.name for path in files for key in _live_series(path) if whose.label_in(key) is not None}
        except (OSError, LiveFileError):
            return {}  # it may be in what cannot be read
        return {key: renamed for key, renamed in new.items() if key.name not in in_use}

    return names


def _labels(found: Iterable[SeriesKey], whose: _Subject) -> list[str]:
    return sorted({label for key in found if (label := whose.label_in(key)) is not None})


def _catalogue_series(path: Path) -> list[SeriesKey]:
    """Every series that has a name in the catalogue; raises StoreError."""
    with closing(CatalogueReader(path)) as reader, reader.snapshot() as source:
        if source is None:
            return []
        rows = source.execute("SELECT name, labels FROM series UNION ALL SELECT name, labels FROM retired").fetchall()
    return [_key(*row) for row in rows]


def _key(name: str, labels: str) -> SeriesKey:
    try:
        return SeriesKey(name, decode_labels(labels))
    except msgspec.DecodeError:
        return SeriesKey(name, (("", labels),))


def _live_series(path: Path) -> list[SeriesKey]:
    """The series that a file of the live directory names; raises OSError and LiveFileError."""
    if path.name.startswith(TOTALS):
        return folded_series(path.read_bytes(), path.name)
    if not path.name.endswith(CELLS_SUFFIX):
        return []
    with path.open("rb") as file:
        memory = mmap(file.fileno(), 0, access=ACCESS_READ)
    reader = CellsReader()
    reader.add(memory, path.name)
    reader.refresh()
    found = -1, 0
    while found != (now := (len(reader.series), reader.damaged_entries)):
        found = now
        reader.refresh()  # a damaged entry is passed only when it is met again
    if reader.damaged_entries:
        raise LiveFileError(path.name, f"has {reader.damaged_entries} damaged entries")
    return [*(one.key for one in reader.series), *(SeriesKey(one.sample, one.labels) for one in reader.foreign)]
