"""
The local store: days of history in a directory, written by the leader, read by every process.

``<directory>/store`` holds the catalogue (windows, see `windows`) and the chunks (records, see `records`). What has been measured and
recorded since the leader's last turn is not in there; so each answer joins things that fit together without a seam: the
catalogue's snapshot, the live totals of this moment less what that snapshot has counted of them, and the records that are still in
segments less those that a chunk has. Whichever process answers, nothing is missing and nothing is there twice.

The leader never waits for a disk while it holds a lock that a reader needs, and a failure to write loses nothing: the next window that
can be written holds what has been measured since the last one, and records stay in their segments.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import NamedTuple, TypeVar

from rfs.errors import StaleLeaderError, StoreError
from rfs.monitoring._capture.segments import Run, Waiting
from rfs.monitoring._store import StoredRecord, Wanted, Window
from rfs.monitoring._store.catalogue import Catalogue, CatalogueReader, check_place
from rfs.monitoring._store.keys import KeyRing
from rfs.monitoring._store.listing import ChunkList
from rfs.monitoring._store.ranges import WindowReader, WindowsAt
from rfs.monitoring._store.records import RecordReader, RecordWriter
from rfs.monitoring._store.retention import CHUNKS, RecordRetention
from rfs.monitoring._store.sealing import SEAL_REQUEST, STORE
from rfs.monitoring._store.windows import MINUTE, WindowWriter
from rfs.monitoring._totals import Totals, lacking
from rfs.monitoring.retention import Retention

CATALOGUE = "catalogue.sqlite"
Found = TypeVar("Found")
_RETENTION_SECONDS = 60.0
_COUNT_EVICTED = "INSERT INTO meta VALUES ('evicted', ?1) ON CONFLICT (name) DO UPDATE SET value = value + ?1"
_ROOM_SECONDS = 5.0  # between two attempts to make room on a full disk


def _nobody(_written: object) -> None:
    pass


class _Setting(NamedTuple):
    """Where a store is, and what it lives on."""

    path: Path
    retention: Retention
    now_seconds: Callable[[], float]
    monotonic: Callable[[], float]
    on_problem: Callable[[str, str], None]
    on_window: Callable[[Window], None]
    on_kept: Callable[[Sequence[Run]], None]


class LocalStore:
    """
    The store in *directory*: for all to read, and for the leader to write.

    Args:
        on_problem: Told the code and the text of what is wrong; the same is told again as often as it is met.
        on_window: Handed each window that this process has written.
        on_kept: Handed the records that this process has brought onto the disk.

    Raises:
        StoreError: It cannot be used here at all: it lies on a network file system (``S120``), is of a newer version (``S112``), or
            this Python's SQLite is too old (``S105``), or the keys that ``RFS_STORE_KEYS`` names cannot be used (``K101`` and following).

    `at` and what it returns are safe from any thread; the rest is for the leader's thread.
    """

    def __init__(
        self,
        directory: Path,
        *,
        retention: Retention | None,
        now_seconds: Callable[[], float],
        monotonic: Callable[[], float],
        on_problem: Callable[[str, str], None],
        on_window: Callable[[Window], None] = _nobody,
        on_kept: Callable[[Sequence[Run]], None] = _nobody,
    ) -> None:
        self.path = directory / STORE
        self._setting = _Setting(
            self.path, retention or Retention(), now_seconds, monotonic, on_problem, on_window, on_kept
        )
        self._database = self.path / CATALOGUE
        check_place(self._database)
        self._snapshots = CatalogueReader(self._database)
        try:
            with self._snapshots.snapshot():
                pass  # it is of no newer version
        except StoreError as error:
            if error.code != "S110":
                raise
            on_problem(error.code, str(error))  # records are there all the same, and who leads sets it aside
        self._windows = WindowReader(self._snapshots, on_problem=on_problem)
        self._keys = KeyRing.of_environment()
        self._records = RecordReader(self.path, on_problem=on_problem, keys=self._keys)
        self._writing: _Writing | None = None
        self.is_newer = False  # another process has brought it to a version that this library cannot write

    def after_fork(self) -> None:
        """In a forked child: touch nothing of the parent's again; make another one."""
        self._snapshots.after_fork()
        if self._writing is not None:
            self._writing.catalogue.after_fork()

    def close(self) -> None:
        """Let go of all files; twice is once."""
        self.resign()
        self._snapshots.close()
        self._records.close()

    # Reading

    def at(self, totals: Totals | None, waiting: Callable[[bytes], Waiting]) -> LocalReader:
        """
        What answers, with the live *totals* of this moment (None: there are none) and what is *waiting* when it is asked: see
        `LiveReader.waiting`.
        """
        now = self._setting.now_seconds()
        if totals is not None and self._writing is not None and self._writing.has_counted(totals, now):
            totals = None
        windows = self._windows.at(totals, now)
        return LocalReader(windows, self._windows.statistics, self._records, waiting)

    def lacking(self, totals: Totals) -> Totals | None:
        """
        What has been counted of the live totals beyond *totals*, which are short; None, which is said, if that cannot be read now.
        """
        try:
            return lacking(totals, *self._windows.sampled())
        except StoreError as error:
            self._setting.on_problem(error.code, str(error))
            return None

    def epoch(self) -> int:
        """Under which epoch has been written last; 0 if nothing has, or it cannot be read."""
        with suppress(StoreError), self._snapshots.snapshot() as connection:
            if connection is not None:
                for (epoch,) in connection.execute("SELECT value FROM meta WHERE name = 'epoch'"):
                    return int(epoch)
        return 0

    # Leading

    @property
    def leads(self) -> bool:
        """Whether this process writes."""
        return self._writing is not None

    def lead(self, epoch: int, *, is_first: bool, has_written: bool = False, windows: int = 0) -> None:
        """
        Write from now on, as the leader of *epoch*; nothing happens if it does. If it cannot be now, that is said: call it again.

        *is_first*: nobody has led over these live files before, so all that they have measured is new. *has_written*: somebody has, and
        has written; if there is no store, or one that is damaged, what they have measured was in the one before. *windows*: how many the
        store has had by then; if it is not of so many any more, that is said, and they are counted again.
        """
        if self._writing is not None and self._writing.epoch == epoch:
            return
        self.resign()
        setting = self._setting
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # not there yet, with live files elsewhere
            for folder in (self.path, self.path / CHUNKS):
                folder.mkdir(mode=0o700, exist_ok=True)
            catalogue = Catalogue(self._database, epoch=epoch, on_problem=setting.on_problem, now=setting.now_seconds)
        except StaleLeaderError:
            return  # the lease will tell
        except StoreError as error:
            self.is_newer = error.code == "S112"
            setting.on_problem(error.code, str(error))
            return
        except OSError as error:
            setting.on_problem("S105", f"store {self.path}: {error.strerror}")
            return
        self.is_newer = False
        self._writing = _Writing(setting, self._records, catalogue, epoch, is_first=is_first, has_written=has_written)
        self._writing.look_for_lost(windows)

    def resign(self) -> None:
        """Write no more; twice is once."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.close()
            self._windows.forget()  # whoever does not lead will seldom be asked

    def write(self, totals: Totals, *, is_whole: bool) -> int:
        """
        Write what *totals* have beyond what is counted already, and let go what is too old; once a second.

        *is_whole*: no live file was left out of *totals*. Return how many windows the store has had by then; 0: it could not be written
        now, which is said, and is part of the next window.

        Raises:
            StaleLeaderError: Another process leads by now.
        """
        windows = 0 if self._writing is None else self._writing.write(totals, is_whole=is_whole)
        if self._keys is not None and self._keys.fault is not None:
            self._setting.on_problem(*self._keys.fault)
        return windows

    def keep(self, runs: Sequence[Run], *, at_once: bool = False) -> bool:
        """
        Keep *runs* in chunks, if they are enough or *at_once*. True: they are on the disk, and may be marked as imported.
        """
        return self._writing is not None and self._writing.records.keep(runs, flush=at_once)

    @property
    def is_asked_to_seal(self) -> bool:
        """Whether somebody waits for all that has been recorded to be in sealed chunks; see `sealing`."""
        return (self.path / SEAL_REQUEST).exists()

    def seal(self) -> None:
        """Seal what was kept, and say so to who has asked for it. If it cannot be now, that is said."""
        if self._writing is not None and self._writing.records.seal():
            (self.path / SEAL_REQUEST).unlink(missing_ok=True)


class _Writing:
    """What the leader has of the store."""

    def __init__(
        self,
        setting: _Setting,
        reader: RecordReader,
        catalogue: Catalogue,
        epoch: int,
        *,
        is_first: bool,
        has_written: bool,
    ) -> None:
        self.epoch = epoch
        self.catalogue = catalogue
        chunk_list = ChunkList(catalogue)
        self.records = RecordWriter(
            reader,
            now_ns=lambda: int(setting.now_seconds() * 1e9),
            monotonic=setting.monotonic,
            on_problem=self._tell,
            on_kept=setting.on_kept,
            chunk_list=chunk_list,
        )
        self._list = chunk_list
        self._setting = setting
        self._windows = WindowWriter(catalogue, on_problem=setting.on_problem, retention=setting.retention)
        self._retention = RecordRetention(setting.path, setting.retention, setting.now_seconds, self._forget)
        self._adopts = catalogue.is_new and has_written
        if self._adopts:
            setting.on_problem(
                "S110", f"store {setting.path}: the catalogue of the windows is gone; a new one is begun"
            )
        self._begins_anew = is_first and not catalogue.is_new
        self._kept_minute = -1
        self._counted: tuple[Totals, int] | None = None
        self._kept_at = self._made_room_at = -inf
        self._evicted = 0  # records that went, and are not counted in the catalogue

    def close(self) -> None:
        self.records.close()
        self.catalogue.close()
        # They know this object, too: it would all stay, seconds of a thousand series, until the garbage collector comes some day.
        del self.records, self._windows, self._retention

    def look_for_lost(self, windows: int) -> None:
        """Say so if the store had *windows* and has fewer: the log of the catalogue was cut or is gone, and what is left is whole."""
        lost = 0
        with suppress(StoreError, StaleLeaderError), self.catalogue.turn() as turn:
            lost = 0 if self.catalogue.is_new else windows - _windows(turn)
        if lost > 0:
            text = f"store {self._setting.path}: the last {lost} windows are gone with the log of the catalogue, or its end"
            self._setting.on_problem("S114", f"{text}; what they had is counted again from the live files")

    def write(self, totals: Totals, *, is_whole: bool) -> int:
        second, windows = int(self._setting.now_seconds()), 0
        try:
            if self._begins_anew:
                with self.catalogue.turn() as turn:
                    self._windows.write(turn, _NOTHING, second)  # whatever has the same name now has begun at zero
                self._begins_anew = False
            with self.catalogue.turn() as turn:
                window = self._windows.write(turn, totals, second, adopt=self._adopts, whole=is_whole)
                written = _windows(turn)
            windows = written
            self._counted = (totals, window.second) if is_whole else None
            self._setting.on_window(window)
            minute = window.second // MINUTE  # there is something to be done when another one begins
            if minute != self._kept_minute and self._windows.maintain():
                self._kept_minute = minute
        except StoreError as error:
            self._tell(error.code, str(error))
        self._retain()
        self._count_evicted()
        return windows

    def has_counted(self, totals: Totals, now: float) -> bool:
        """Whether these very *totals* were written, and in no second that is still to come (a clock was set back)."""
        return self._counted is not None and self._counted[0] is totals and self._counted[1] <= now

    def _retain(self) -> None:
        now = self._setting.monotonic()
        if now - self._kept_at >= _RETENTION_SECONDS:
            self._kept_at = now
            try:
                self._evicted += self._retention.keep().records
                self.records.miss()
            except OSError as error:
                self._setting.on_problem("S105", f"store {self._setting.path}: {error.strerror}")

    def _forget(self, chunks: list[str]) -> None:
        with suppress(StoreError):  # on a full disk they go all the same
            self._list.forget(chunks)

    def _count_evicted(self) -> None:
        if self._evicted:
            with suppress(StoreError):  # what is wrong with it has been said
                with self.catalogue.turn() as turn:
                    turn.execute(_COUNT_EVICTED, (self._evicted,))
                self._evicted = 0

    def _tell(self, code: str, text: str) -> None:
        self._setting.on_problem(code, text)
        now = self._setting.monotonic()
        if code == "S102" and now - self._made_room_at >= _ROOM_SECONDS:
            self._made_room_at = now
            try:
                freed = self._retention.make_room()
                self._evicted += freed.records
                if not freed.has_room:
                    self._windows.make_room()
            except StaleLeaderError:
                pass  # the next turn tells
            except StoreError as error:
                self._setting.on_problem(error.code, str(error))
            except OSError as error:
                self._setting.on_problem("S105", f"store {self._setting.path}: {error.strerror}")


def _windows(turn: sqlite3.Connection) -> int:
    """How many windows the journal has had."""
    (count,) = turn.execute("SELECT seq FROM sqlite_sequence WHERE name = 'journal'").fetchone() or (0,)
    return int(count)


_NOTHING = Totals({}, {}, {}, {}, {}, [])


class LocalReader:
    """What answers from a `LocalStore` and the live files, as of one moment; see `Reader`."""

    def __init__(
        self,
        windows: WindowsAt,
        figures: Callable[[], Mapping[str, float]],
        records: RecordReader,
        waiting: Callable[[bytes], Waiting],
    ) -> None:
        self.kinds = windows.kinds
        self.series = windows.series
        self.increases = windows.increases
        self.increase = windows.increase
        self.sketches = windows.sketches
        self.distribution = windows.distribution
        self.points = windows.points
        self.quantiles = windows.quantiles
        self.distributions = windows.distributions
        self._figures = figures
        self._records = records
        self._waiting = waiting

    def records(self, wanted: Wanted, *, limit: int, before: str | None = None) -> list[StoredRecord]:
        waiting = self._waiting(wanted.text)
        return self._in_chunks(lambda: self._records.records(wanted, limit=limit, before=before, waiting=waiting))

    def statistics(self) -> Mapping[str, float]:
        """
        Of the windows ``series``, ``blocks``, ``journal_rows``, ``horizon_seconds``; ``records`` and ``record_bytes`` of the chunks, and
        ``evicted_records``: how many have been let go for age or size, or because the disk was full.
        """
        found = self._in_chunks(self._records.statistics)
        return {**self._figures(), "records": found.records, "record_bytes": found.bytes}

    def _in_chunks(self, ask: Callable[[], Found]) -> Found:
        try:
            return ask()
        except OSError as error:
            raise StoreError(str(self._records.path), f"cannot be read: {error.strerror}", "S105") from error
