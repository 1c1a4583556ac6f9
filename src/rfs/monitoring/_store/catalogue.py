"""
The catalogue: the SQLite database of a local store, and how it is written safely.

One process writes, the leader: each transaction begins by looking whether a later leader has written, and then ends at once. A
file lock keeps two processes from writing or checkpointing at the same time, whoever leads, because SQLite before 3.51.3
may then damage a database in WAL mode. Readers open the file read-only, which never checkpoints.

A commit outlives the process' death at once, and the machine's from the next `checkpoint` on. A database that is damaged is
set aside under ``quarantine/``, and a new one is begun; a log that is not the database's own is set aside alone; one of a newer
version is refused and left as it is. SQLite ties a log to no database, so the first turn that a log has writes into it whose it is.

Who reads for long keeps the log from being cut, and nobody can end another process' reading. So the log is bounded by refusing to
write once it has 48 MiB: what was measured meanwhile is in the first window after the reader has ended.

Nothing but SQLite may open and close the file in a process that uses it: closing it would end SQLite's own locks.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep
from urllib.parse import quote

from rfs.errors import StaleLeaderError, StoreError
from rfs.monitoring._store.forking import DatabaseLock, check_usable

APPLICATION_ID = 0x52465331  # "RFS1"
_ENGINE = (3, 37)  # the first with STRICT tables; RETURNING came before
_CHECK_SECONDS = 1.0  # spent at most at the start on looking for damage
_BUSY_SECONDS = 0.2
_RETRY_SECONDS = 0.005
_WAL_BYTES = 16 << 20  # from here on the log is also cut
_MAX_WAL_BYTES = 48 << 20  # and from here on it must be, before anything more is written
_MAX_PROCESSES = 1_000  # whose last batch is remembered; the longest silent go first
_SPARE_PAGES = 1_024  # that stay in the file for what comes next
WITHOUT_LOG = "ro&immutable=1"
_NETWORK = frozenset({"9p", "afs", "ceph", "cifs", "glusterfs", "nfs", "nfs4", "smb2", "smb3", "smbfs", "virtiofs"})

# Each script brings the schema from the version that is its index to the next one.
_SCHEMA: tuple[str, ...] = (
    """
    PRAGMA application_id = 0x52465331; -- APPLICATION_ID
    CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    -- names: how often series came and went; full: whether some were ever refused
    INSERT INTO meta VALUES ('epoch', 0), ('version', 0), ('names', 0), ('full', 0);
    CREATE TABLE batches (process TEXT PRIMARY KEY, sequence INTEGER NOT NULL, turn INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE series (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL, labels TEXT NOT NULL, kind INTEGER NOT NULL, UNIQUE (name, labels, kind)
    ) STRICT;
    CREATE TABLE totals (grp INTEGER PRIMARY KEY, payload BLOB NOT NULL) STRICT;
    CREATE TABLE retired (
        name TEXT NOT NULL, labels TEXT NOT NULL, kind INTEGER NOT NULL, payload BLOB NOT NULL, PRIMARY KEY (name, labels, kind)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE journal (id INTEGER PRIMARY KEY AUTOINCREMENT, second INTEGER NOT NULL, payload BLOB NOT NULL) STRICT;
    CREATE TABLE blocks (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        width INTEGER NOT NULL,
        grp INTEGER NOT NULL,
        start INTEGER NOT NULL,
        span INTEGER NOT NULL,
        payload BLOB NOT NULL
    ) STRICT;
    CREATE INDEX blocks_by_group ON blocks (width, grp, start, span);
    CREATE TABLE cuts (width INTEGER PRIMARY KEY, second INTEGER NOT NULL) STRICT;
    """,
)
# What has come since that nobody else needs: a library that does not know it goes on beside one that does.
_ADDITION = """
    -- identity: of this database, by chance; logs: how many it has had; listed: up to which epoch `chunks` is right
    INSERT OR IGNORE INTO meta VALUES ('identity', random()), ('logs', 0), ('listed', 0);
    -- what there should be of each chunk; see `listing`
    CREATE TABLE IF NOT EXISTS chunks (
        name TEXT PRIMARY KEY, records INTEGER NOT NULL, bytes INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
"""


class Catalogue:
    """
    The database, open for writing.

    Args:
        path: Of the database; its folder exists.
        epoch: Under which this process leads.
        on_problem: Told the code and the text of what is wrong and was overcome: ``S110``, damaged and set aside; ``S111``, the log
            cannot be cut yet, because somebody reads; ``S114``, the log was another database's and set aside.
        now: Unix time in seconds.
        patience_seconds: How long a turn waits for another process that writes at this moment, such as one that restores an archive.

    Raises:
        StoreError: It cannot be opened, is of a newer version (``S112``), lies on a network file system (``S120``), or
            another process went on writing (``S109``).
        StaleLeaderError: A later leader has written.

    Safe from any thread; one turn at a time.
    """

    def __init__(
        self,
        path: Path,
        *,
        epoch: int,
        on_problem: Callable[[str, str], None],
        now: Callable[[], float],
        patience_seconds: float = _BUSY_SECONDS,
    ) -> None:
        self.path = path
        self.is_new = False  # begun by this object: nothing was there, or it was damaged and has been set aside
        self.generation = 0  # rises when what a reader of this object remembers of the database may be wrong
        self.epoch = epoch
        self._on_problem = on_problem
        self._now = now
        self._patience_seconds = patience_seconds
        self._lock = DatabaseLock()
        self._lock_file = -1
        self._connection: sqlite3.Connection | None = None
        self._identity = (0, 0)
        self._committed: list[Callable[[], None]] = []
        self._data_version = 0  # SQLite's: another one when somebody else has written
        self._is_signed = False  # the log says whose it is
        check_place(path)
        with self._lock, self._alone():
            self._open()

    def after_fork(self) -> None:
        """In a forked child: never touch the parent's connection again, nor hold its lock; a turn here would open its own."""
        if self._connection is not None:
            _inherited.append(self._connection)
        self._connection = None
        if self._lock_file >= 0:
            os.close(self._lock_file)  # else this process would keep what its parent has locked, even after its death
            self._lock_file = -1
        self._lock = DatabaseLock()

    def close(self) -> None:
        """Bring all into the database file and close it; twice is once. A further turn opens it again."""
        with self._lock:
            if self._connection is not None:
                with suppress(StoreError), self._alone():
                    self._discard()
            if self._lock_file >= 0:
                os.close(self._lock_file)
                self._lock_file = -1

    # Turns

    @contextmanager
    def turn(self) -> Generator[sqlite3.Connection]:
        """
        One transaction: all that is done within happens, or nothing.

        Raises:
            StaleLeaderError: A later leader has written.
            StoreError: It could not be written; it may be possible later, with what the message says. A database that
                was found damaged has been set aside, and the next turn begins a new one.
        """
        with self._lock, self._alone():
            connection = self._current()
            if self.log_bytes > _MAX_WAL_BYTES:
                try:
                    self._cut(connection)
                except sqlite3.Error as error:
                    raise self._translated(error) from error
            self._committed = []
            try:
                connection.execute("BEGIN IMMEDIATE")
                self._check_epoch(connection)
                (version,) = connection.execute("PRAGMA data_version").fetchone()
                if version != self._data_version:
                    self._data_version = version
                    self.generation += 1
                    self._is_signed = False
                if not self._is_signed:
                    connection.execute("UPDATE meta SET value = value + 1 WHERE name = 'logs'")
                yield connection
                connection.execute("COMMIT")
                self._is_signed = True
            except BaseException as error:
                self.generation += 1
                if not _rolled_back(connection):
                    self._discard()
                if isinstance(error, sqlite3.Error | UnicodeDecodeError):
                    raise self._translated(error) from error
                raise
            committed, self._committed = self._committed, []  # who is called knows the catalogue, too
            for call in committed:
                call()

    def when_committed(self, call: Callable[[], None]) -> None:
        """Within a turn: call this once the turn is committed; if it is not, never."""
        self._committed.append(call)

    def _current(self) -> sqlite3.Connection:
        if self._connection is not None and self._identity != _identity(self.path):
            # Removed or replaced by somebody: what is there now is another database.
            self._discard()
        if self._connection is None:
            self._open()
        assert self._connection is not None  # noqa: S101 - `_open` raises otherwise
        return self._connection

    def _check_epoch(self, connection: sqlite3.Connection) -> None:
        (current,) = connection.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone() or (None,)
        if not isinstance(current, int):
            raise _NotOursError("its epoch is missing")
        if current > self.epoch:
            raise StaleLeaderError(str(self.path), self.epoch, current)
        if current < self.epoch:
            # The list of chunks is right if it was under the epoch before: nobody has led meanwhile who does not know it.
            followed = "UPDATE meta SET value = ? WHERE name = 'epoch' OR (name = 'listed' AND value = ?)"
            connection.execute(followed, (self.epoch, current))

    @contextmanager
    def _alone(self) -> Generator[None]:
        """Hold the lock without which no process writes or checkpoints."""
        path = self.path.with_name(self.path.name + ".lock")
        try:
            if self._lock_file >= 0 and os.fstat(self._lock_file).st_nlink == 0:
                os.close(self._lock_file)
                self._lock_file = -1
            if self._lock_file < 0:
                self._lock_file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            deadline = monotonic() + self._patience_seconds
            while not _locked(self._lock_file):
                if monotonic() > deadline:
                    raise BlockingIOError
                sleep(_RETRY_SECONDS)
        except BlockingIOError as error:
            raise StoreError(str(self.path), "another process is writing to it; only the leader may", "S109") from error
        except OSError as error:
            raise StoreError(str(self.path), f"its lock cannot be taken: {error}", "S105") from error
        try:
            yield
        finally:
            fcntl.flock(self._lock_file, fcntl.LOCK_UN)

    # Opening

    def _open(self) -> None:
        try:
            try:
                self._look_for_damage()
                self._prepare(self._connect())
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                if not _is_damage(error):
                    raise
                self._set_aside(str(error))
                self._prepare(self._connect())
        except (sqlite3.Error, OSError) as error:
            self._discard()
            if isinstance(error, StoreError):
                raise
            raise self._translated(error) from error
        except BaseException:
            self._discard()
            raise

    def _look_for_damage(self) -> None:
        """
        A log with which the database is damaged, or another one, and without which it is not, is not its own: it alone is set aside.
        """
        try:
            _look_for_damage(self.path)
            _compare_log(self.path)
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if not (_is_damage(error) and self.log_bytes):
                raise
            (log,) = self._move_aside("-wal")
            try:
                _look_for_damage(self.path)
            except BaseException:
                log.rename(
                    self.path.with_name(self.path.name + "-wal")
                )  # whose it is cannot be told: they stay together
                raise
            text = f"the log of {self.path.name} is not its own ({error}); set aside as {log}"
            self._on_problem("S114", f"{text}, and what it should have had is counted again")

    def _connect(self) -> sqlite3.Connection:
        self.generation += 1
        self._is_signed = False
        with suppress(FileExistsError):  # made here, so that nobody else may read it from the beginning
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        connection = self._connection = connect(self.path, "rw")
        self._identity = _identity(self.path)
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        version = check_version(connection, self.path)
        if not version:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            self.is_new = True
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        # A checkpoint is a turn of its own, under the lock. Between two of them a commit is in the log, which is not synced:
        # a machine that loses power loses it, but the database stays whole.
        connection.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA cache_size = -1024")
        connection.execute("PRAGMA temp_store = MEMORY")
        for step in range(version, len(_SCHEMA)):
            connection.execute("BEGIN IMMEDIATE")
            try:
                for statement in _statements(_SCHEMA[step]):
                    connection.execute(statement)
                connection.execute("UPDATE meta SET value = ? WHERE name = 'version'", (step + 1,))
                connection.execute(f"PRAGMA user_version = {step + 1}")
                connection.execute("COMMIT")
            except BaseException:
                _rolled_back(connection)
                raise
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in _statements(_ADDITION):
                connection.execute(statement)
            self._check_epoch(connection)
            connection.execute("COMMIT")
        except BaseException:
            _rolled_back(connection)
            raise

    def _set_aside(self, fault: str) -> None:
        self._discard()
        # The log first: left alone beside a new database it would be taken for that one's.
        self._move_aside("-wal", "")
        folder = self.path.parent / "quarantine"
        self._on_problem("S110", f"{self.path.name} is damaged ({fault}); set aside in {folder}, a new one is begun")

    def _move_aside(self, *suffixes: str) -> list[Path]:
        """Move the files of the database with these suffixes, as far as there is anything in them, and return where they are now."""
        folder = self.path.parent / "quarantine"
        folder.mkdir(mode=0o700, exist_ok=True)
        stamp = datetime.fromtimestamp(self._now(), UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        moved: list[Path] = []
        for suffix in suffixes:
            file = self.path.with_name(self.path.name + suffix)
            with suppress(FileNotFoundError):
                if file.stat().st_size:
                    moved.append(file.rename(folder / f"{self.path.name}.{stamp}{suffix}"))
                else:
                    file.unlink()
        self.path.with_name(self.path.name + "-shm").unlink(missing_ok=True)
        return moved

    def _discard(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _translated(self, error: sqlite3.Error | OSError | UnicodeDecodeError) -> StoreError:
        path = str(self.path)
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        # A file that we may write to, and SQLite will not: its header says so, wrongly.
        if _is_damage(error) or (code == sqlite3.SQLITE_READONLY and os.access(self.path, os.W_OK)):
            try:
                self._set_aside(str(error))
            except OSError as other:
                return StoreError(path, f"is damaged ({error}) and cannot be set aside: {other}", "S110")
            return StoreError(path, f"was damaged ({error}), and has been set aside", "S110")
        if code == sqlite3.SQLITE_FULL:
            return StoreError(
                path, "no space is left; what is there is kept, and writing goes on when there is space", "S102"
            )
        if code == sqlite3.SQLITE_BUSY:
            return StoreError(path, "another process is writing to it; only the leader may", "S109")
        return StoreError(path, f"cannot be written: {error}", "S105")

    # Batches: to be called within a turn

    @staticmethod
    def take(turn: sqlite3.Connection, process: str, sequence: int) -> bool:
        """Note that batch *sequence* of *process* is kept; False if it, or a later one, was before."""
        found = turn.execute("SELECT sequence FROM batches WHERE process = ?", (process,)).fetchone()
        if found is not None:
            if sequence <= found[0]:
                return False
            turn.execute("UPDATE batches SET sequence = ? WHERE process = ?", (sequence, process))
            return True
        (newest,) = turn.execute("SELECT coalesce(max(turn), 0) FROM batches").fetchone()
        turn.execute("INSERT INTO batches VALUES (?, ?, ?)", (process, sequence, newest + 1))
        turn.execute("DELETE FROM batches WHERE turn <= ?", (newest + 1 - _MAX_PROCESSES,))
        return True

    # Upkeep

    def checkpoint(self) -> None:
        """
        Bring what was committed into the database file, on the disk; give some of what is free in it back.

        Raises:
            StoreError: It could not be; all that was committed is there nevertheless.
        """
        with self._lock, self._alone():
            connection = self._current()
            try:
                (free,) = connection.execute("PRAGMA freelist_count").fetchone()
                if free > 2 * _SPARE_PAGES:
                    connection.execute(f"PRAGMA incremental_vacuum({_SPARE_PAGES})").fetchall()
                if self.log_bytes > _WAL_BYTES:
                    self._cut(connection)
                else:
                    self._is_signed = False
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            except sqlite3.Error as error:
                raise self._translated(error) from error
            except _BeingReadError as error:
                self._on_problem(error.code, str(error))  # as much of it as can be is in the database file

    def _cut(self, connection: sqlite3.Connection) -> None:
        self._is_signed = False
        (is_busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_busy:
            size, most = self.log_bytes >> 20, _MAX_WAL_BYTES >> 20
            fault = f"somebody has been reading it for long, so its log stays: {size} MiB; with {most} MiB windows wait"
            raise _BeingReadError(str(self.path), fault, "S111")

    def rebuild(self) -> None:
        """
        Write the whole database file anew, and empty the log: what was deleted is in no byte of either any more.

        Raises:
            StoreError: It could not be, because somebody reads, or for want of space; all that was committed is there nevertheless.
        """
        with self._lock, self._alone():
            connection = self._current()
            self._is_signed = False
            try:
                connection.execute("PRAGMA temp_store = FILE")  # the copy is as large as the database
                connection.execute("VACUUM")
                connection.execute("PRAGMA temp_store = MEMORY")
                (is_busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.Error as error:
                raise self._translated(error) from error
            if is_busy:
                raise StoreError(str(self.path), "its log cannot be emptied while it is read; try again", "S109")

    @property
    def log_bytes(self) -> int:
        """How large the log of what is not yet in the database file is."""
        try:
            return self.path.with_name(self.path.name + "-wal").stat().st_size
        except OSError:
            return 0

    def used_bytes(self) -> int:
        """How much of the database file is in use."""
        with self._lock, self._alone():
            connection = self._current()
            try:
                (pages,) = connection.execute("PRAGMA page_count").fetchone()
                (free,) = connection.execute("PRAGMA freelist_count").fetchone()
                (size,) = connection.execute("PRAGMA page_size").fetchone()
            except sqlite3.Error as error:
                raise self._translated(error) from error
            return int((pages - free) * size)


class CatalogueReader:
    """
    The database, open for reading, in any process; opened anew when it has been replaced.

    Safe from any thread; one answer at a time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begin()

    def _begin(self) -> None:
        self._lock = DatabaseLock()
        self._connection: sqlite3.Connection | None = None
        self._identity = (0, 0)
        self.opened = 0  # how often; what was remembered of the one before is void

    def after_fork(self) -> None:
        """In a forked child: leave the parent's connection alone and open one's own."""
        if self._connection is not None:
            _inherited.append(self._connection)
        self._begin()

    def close(self) -> None:
        """Close it; twice is once, and reading opens it again."""
        with self._lock:
            self._discard()

    def _discard(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    @contextmanager
    def snapshot(self) -> Generator[sqlite3.Connection | None]:
        """
        The database as it was at one moment; None if there is none.

        Raises:
            StoreError: It cannot be read: it is damaged (``S110``), of a newer version (``S112``), or the disk fails.
        """
        with self._lock:
            try:
                connection = self._current()
                if connection is None:
                    yield None
                    return
                connection.execute("BEGIN")
                try:
                    yield connection
                finally:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
            except (sqlite3.Error, UnicodeDecodeError) as error:
                self._discard()
                code = "S110" if _is_damage(error) else "S105"
                raise StoreError(str(self.path), f"cannot be read: {error}", code) from error

    def _current(self) -> sqlite3.Connection | None:
        identity = _identity(self.path)
        if identity != self._identity or self._connection is None:
            self._discard()
            self._identity = identity
            if identity == (0, 0):
                return None
            self._connection = connect(self.path, "ro")
            self.opened += 1
            try:
                version = check_version(self._connection, self.path)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_READONLY:
                    raise
                version = 0  # whoever began it was killed in the middle: it must be rolled back first
            if version < len(_SCHEMA):
                self._discard()  # the leader has it in hand
                return None
        return self._connection


_inherited: list[sqlite3.Connection] = []  # of parents: closing them here could touch files that are not ours


def check_place(path: Path) -> None:
    """
    Make sure that a database at *path* can be relied upon.

    Raises:
        StoreError: It lies on a network file system (``S120``), or SQLite is too old here, or cannot be used (``S105``).
    """
    check_usable(str(path))
    if sqlite3.sqlite_version_info < _ENGINE:
        needed = ".".join(map(str, _ENGINE))
        raise StoreError(str(path), f"needs SQLite {needed}; this Python has {sqlite3.sqlite_version}", "S105")
    system = file_system(path)
    if system in _NETWORK:
        raise StoreError(
            str(path),
            f"lies on a network file system ({system}), where locks cannot be relied upon; choose a local directory",
            "S120",
        )


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """
    Open the database at *path*, which exists; *mode* is ``rw``, ``ro``, or `WITHOUT_LOG`, while nobody writes: as it is in the database
    file alone. Transactions are begun by hand. See `DatabaseLock`.

    Raises:
        StoreError: SQLite cannot be used in this process (``S105``).
    """
    check_usable(str(path))
    return sqlite3.connect(
        f"file:{quote(str(path))}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=_BUSY_SECONDS,
    )


def nothing() -> sqlite3.Connection:
    """A catalogue in memory with nothing in it, for who finds none."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    for script in (*_SCHEMA, _ADDITION):
        connection.executescript(script)
    return connection


def check_version(connection: sqlite3.Connection, path: Path) -> int:
    """
    The version of the schema; 0 if nothing is there yet.

    Raises:
        StoreError: It is newer than this library (``S112``).
        sqlite3.DatabaseError: It is no database, or somebody else's.
    """
    connection.execute("BEGIN")  # all of one moment: the leader may be making it just now
    try:
        return _version(connection, path)
    finally:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")


def _version(connection: sqlite3.Connection, path: Path) -> int:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if not (application or version or tables):
        return 0
    if application != APPLICATION_ID:
        raise _NotOursError("it belongs to another program")
    (noted,) = connection.execute("SELECT value FROM meta WHERE name = 'version'").fetchone() or (0,)
    if noted != version or version < 1:
        raise _NotOursError(f"its version is {version} and {noted}")
    if version > len(_SCHEMA):
        raise StoreError(
            str(path),
            f"has version {version}; this library reads up to version {len(_SCHEMA)}. "
            "It is left as it is: upgrade rfs here, or choose another directory",
            "S112",
        )
    return int(version)


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _rolled_back(connection: sqlite3.Connection) -> bool:
    with suppress(sqlite3.Error):
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    return not connection.in_transaction


class _BeingReadError(StoreError):
    pass


class _NotOursError(sqlite3.DatabaseError):
    sqlite_errorcode = sqlite3.SQLITE_NOTADB


def _is_damage(error: BaseException) -> bool:
    if isinstance(error, UnicodeDecodeError):  # a text, or the message about one
        return True
    code = getattr(error, "sqlite_errorcode", 0)
    if code == sqlite3.SQLITE_IOERR_SHORT_READ:  # it ends within a page
        return True
    code &= 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CONSTRAINT) or (
        # A table or column that is missing, or the version in the header: the schema was damaged.
        code == sqlite3.SQLITE_ERROR and any(word in str(error) for word in ("no such", "unsupported file format"))
    )


def _look_for_damage(path: Path) -> None:
    if not path.exists():
        return
    # Read-only: the last one to close a database brings its log into it, whosever log that is.
    with closing(connect(path, "ro")) as connection:
        deadline = monotonic() + _CHECK_SECONDS
        connection.set_progress_handler(lambda: monotonic() > deadline, 10_000)
        said = "ok"
        try:
            if check_version(connection, path):
                (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.OperationalError as error:
            # Of the latter kind is one whose maker was killed in the middle: who writes rolls that back, and nothing is in it.
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_READONLY):
                raise
        if said != "ok":
            raise _NotOursError(said)


def _compare_log(path: Path) -> None:
    """Raise `_NotOursError` where the database with its log is another one than without, or an earlier state of it."""
    own, with_log = (_signature(path, mode) for mode in (WITHOUT_LOG, "ro"))
    if own is None or with_log is None or not own[0]:
        return
    if with_log[0] != own[0]:
        raise _NotOursError("it is of another store")
    if with_log[1] < own[1]:
        raise _NotOursError(f"it is number {with_log[1]}, and the database has had {own[1]}")


def _signature(path: Path, mode: str) -> tuple[int, int] | None:
    """The identity of the database, 0 if it has none, and how many logs it has had; None if that cannot be read."""
    with suppress(sqlite3.Error, UnicodeDecodeError), closing(connect(path, mode)) as connection:
        found = dict(connection.execute("SELECT name, value FROM meta WHERE name IN ('identity', 'logs')").fetchall())
        return found.get("identity", 0), found.get("logs", 0)
    return None


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _identity(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_dev, status.st_ino


def file_system(path: Path, mounts: Sequence[str] | None = None) -> str:
    """The type of the file system on which *path* lies, by the kernel's list of *mounts*; empty if that cannot be told."""
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        except OSError:
            return ""
    place, found, longest = path.resolve(), "", -1
    for line in mounts:
        mount, _, rest = line.partition(" - ")
        # 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw
        point = Path(mount.split()[4].replace("\\040", " "))
        if place.is_relative_to(point) and len(str(point)) >= longest:
            found, longest = rest.split()[0], len(str(point))
    return found
