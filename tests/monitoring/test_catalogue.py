"""The catalogue: one writer, one epoch, one version; what is damaged is set aside and RFS starts all the same."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import pairwise
from pathlib import Path
from time import monotonic

import pytest

from rfs.errors import StaleLeaderError, StoreError
from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._store import Window
from rfs.monitoring._store import catalogue as module
from rfs.monitoring._store.catalogue import Catalogue, CatalogueReader, connect, file_system
from rfs.monitoring._store.ranges import WindowReader
from rfs.monitoring._store.windows import WindowWriter
from tests.faults.processes import size

NOW = 1_800_000_000
ORDERS = SeriesKey("orders_total", ())


class Problems:
    """What was told of."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def __call__(self, code: str, text: str) -> None:
        self.told.append((code, text))

    @property
    def codes(self) -> list[str]:
        return [code for code, _ in self.told]


@pytest.fixture
def problems() -> Problems:
    return Problems()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalogue.db"


def opened(path: Path, problems: Problems, epoch: int = 1) -> Catalogue:
    return Catalogue(path, epoch=epoch, on_problem=problems, now=lambda: NOW)


@pytest.fixture
def catalogue(path: Path, problems: Problems) -> Iterator[Catalogue]:
    made = opened(path, problems)
    yield made
    made.close()


def count(catalogue: Catalogue, sequence: int, amount: float = 1.0, second: int = NOW) -> None:
    """Keep one window of one counter."""
    writer = WindowWriter(catalogue, on_problem=lambda code, text: None)
    with catalogue.turn() as turn:
        assert catalogue.take(turn, "p", sequence)
        writer.put(turn, Window(second, {ORDERS: amount}))


def counted(path: Path) -> float | None:
    reading = CatalogueReader(path)
    try:
        return (
            WindowReader(reading, on_problem=lambda code, text: None)
            .at(None, NOW)
            .increases([ORDERS], 0, NOW + 86_400)[0]
        )
    finally:
        reading.close()


def known(reading: CatalogueReader) -> tuple[SeriesKey, ...]:
    return WindowReader(reading, on_problem=lambda code, text: None).at(None, NOW).series("others_total")


class TestBeingMade:
    def test_is_seen_whole_or_not_at_all(self, tmp_path: Path) -> None:
        """
        A catalogue that comes to be while a reader looks whether it is one: there is nothing yet, and nobody else's.
        """
        path = tmp_path / "catalogue.db"
        path.touch()
        reader, writer = connect(path, "ro"), connect(path, "rw")
        writer.execute("PRAGMA busy_timeout = 0")
        tries: list[str] = []

        def make(statement: str) -> None:
            if "user_version" in statement and not tries:
                tries.append(statement)
                with suppress(sqlite3.OperationalError):  # it has to wait until the reader has looked
                    writer.execute("CREATE TABLE meta (name, value)")

        reader.set_trace_callback(make)

        assert module.check_version(reader, path) == 0
        assert tries
        reader.close()
        writer.close()


class TestTurns:
    def test_all_or_nothing(self, catalogue: Catalogue, path: Path) -> None:
        """
        What is done in a turn that fails has not happened, names of series included.
        """
        writer = WindowWriter(catalogue, on_problem=lambda code, text: None)

        def fail() -> None:
            with catalogue.turn() as turn:
                catalogue.take(turn, "p", 0)
                writer.put(turn, Window(NOW, {ORDERS: 5.0}))
                raise KeyError

        with pytest.raises(KeyError):
            fail()
        assert counted(path) is None

        with catalogue.turn() as turn:
            assert catalogue.take(turn, "p", 0)
            writer.put(turn, Window(NOW, {ORDERS: 7.0}))
        assert counted(path) == 7.0

    def test_a_batch_is_taken_once(self, catalogue: Catalogue) -> None:
        """
        A sequence of a process is taken if none as high was; processes are told apart.
        """
        with catalogue.turn() as turn:
            taken = [catalogue.take(turn, *one) for one in (("p", 0), ("p", 0), ("q", 0), ("p", 4), ("p", 3), ("p", 5))]

        assert taken == [True, False, True, True, False, True]

    def test_only_so_many_processes_are_remembered(self, catalogue: Catalogue) -> None:
        """
        Of a thousand processes the last batch is known; the one that began first is forgotten first.
        """
        with catalogue.turn() as turn:
            for number in range(1_001):
                catalogue.take(turn, f"p{number}", 3)
            assert catalogue.take(turn, "p0", 3)
            assert not catalogue.take(turn, "p1000", 3)

    def test_threads_take_turns(self, catalogue: Catalogue, path: Path) -> None:
        """
        Several threads of the leader may write; each turn is whole.
        """
        writer = WindowWriter(catalogue, on_problem=lambda code, text: None)
        failed: list[BaseException] = []

        def write(thread: int) -> None:
            for sequence in range(50):
                try:
                    with catalogue.turn() as turn:
                        catalogue.take(turn, f"p{thread}", sequence)
                        writer.put(turn, Window(NOW + sequence * 3, {ORDERS: 1.0}))
                    writer.maintain(1.0)
                except BaseException as error:  # noqa: BLE001 - for the main thread to see
                    failed.append(error)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert not failed
        assert counted(path) == 200.0


class TestOneWriter:
    def test_a_later_leader_has_written(self, path: Path, problems: Problems, catalogue: Catalogue) -> None:
        """
        A leader that was stopped and comes back writes nothing any more, and cannot open the database either.
        """
        count(catalogue, 0)
        later = opened(path, problems, epoch=2)

        with pytest.raises(StaleLeaderError, match="epoch 1, but epoch 2 leads"):
            count(catalogue, 1)
        with pytest.raises(StaleLeaderError):
            opened(path, problems, epoch=1)

        count(later, 1)
        assert counted(path) == 2.0
        later.close()

    def test_nobody_else_at_the_same_time(self, path: Path, problems: Problems, catalogue: Catalogue) -> None:
        """
        While another process is in a turn, or checkpoints, this one is refused at once, and may try again.
        """
        other = os.open(path.with_name("catalogue.db.lock"), os.O_RDWR)
        fcntl.flock(other, fcntl.LOCK_EX)
        try:
            for write in (lambda: count(catalogue, 0), catalogue.checkpoint, lambda: opened(path, problems)):
                with pytest.raises(StoreError, match="only the leader may") as raised:
                    write()
                assert raised.value.code == "S109"
        finally:
            os.close(other)

        count(catalogue, 0)
        assert counted(path) == 1.0

    def test_nowhere(self, path: Path, problems: Problems) -> None:
        """
        B10. In a folder that does not exist nothing can be opened, and the error says so.
        """
        with pytest.raises(StoreError, match="lock cannot be taken") as raised:
            opened(path / "nowhere" / "catalogue.db", problems)

        assert raised.value.code == "S105"

    def test_closed_and_used_again(self, path: Path, catalogue: Catalogue) -> None:
        """
        Closing twice is once, and a further turn opens it again.
        """
        count(catalogue, 0)
        catalogue.close()
        catalogue.close()

        count(catalogue, 1)

        assert counted(path) == 2.0

    def test_only_the_owner_may_read(self, path: Path, catalogue: Catalogue) -> None:
        """
        Database, log and lock belong to one user alone.
        """
        count(catalogue, 0)

        assert {entry.name: entry.stat().st_mode & 0o777 for entry in path.parent.iterdir()} == dict.fromkeys(
            ["catalogue.db", "catalogue.db-wal", "catalogue.db-shm", "catalogue.db.lock"], 0o600
        )


class TestB25NewerCatalogue:
    def test_a_newer_one_is_refused_and_kept(self, path: Path, problems: Problems) -> None:
        """
        A database of a newer version is neither changed nor set aside; the message names both versions and what to do.
        """
        opened(path, problems).close()
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript("UPDATE meta SET value = 999 WHERE name = 'version'; PRAGMA user_version = 999")
        before = path.read_bytes()

        for refused in (lambda: opened(path, problems), lambda: known(CatalogueReader(path))):
            with pytest.raises(
                StoreError, match=r"has version 999; this library reads up to version 1.*upgrade rfs"
            ) as raised:
                refused()
            assert raised.value.code == "S112"

        assert path.read_bytes() == before
        assert not problems.told


class TestVersions:
    def test_an_older_one_is_brought_up_to_date(
        self, path: Path, problems: Problems, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        A database of an older version is migrated when the leader opens it, and keeps all it had; until then readers find nothing.
        """
        older = opened(path, problems)
        count(older, 0, 4.0)
        older.close()
        monkeypatch.setattr(module, "_SCHEMA", (*module._SCHEMA, "ALTER TABLE cuts ADD COLUMN reason TEXT;"))
        assert counted(path) is None

        opened(path, problems).close()

        assert counted(path) == 4.0
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (2,)

    def test_an_old_engine_is_refused(self, path: Path, problems: Problems, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        An SQLite that lacks what is needed is named.
        """
        monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 31, 1))

        with pytest.raises(StoreError, match=r"needs SQLite 3\.37"):
            opened(path, problems)


def damaged(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "header":
        content[3:7] = b"\0\0\0\0"
    elif how == "picture":
        content = bytearray(b"\xff\xd8\xff\xe0" + bytes(5_000))
    elif how == "truncated":
        del content[5_000:]
    elif how == "zeroed page":
        content[4_096 * 2 : 4_096 * 3] = bytes(4_096)
    elif how == "version":
        content[60:64] = (7).to_bytes(4, "big")
    path.write_bytes(content)


def assert_set_aside(path: Path, problems: Problems, how: str) -> None:
    """Damaged that way, it is moved to quarantine under its time, said, and a new one is begun."""
    made = opened(path, problems)
    count(made, 0)
    made.close()
    damaged(path, how)
    wrong = path.read_bytes()

    again = opened(path, problems)

    assert problems.codes == ["S110"]
    assert "is damaged" in problems.told[0][1]
    (kept,) = (path.parent / "quarantine").iterdir()
    assert kept.name == "catalogue.db.20270115T080000.000000Z"
    assert kept.read_bytes() == wrong
    count(again, 0, 3.0)
    assert counted(path) == 3.0
    again.close()


class TestB13BadHeader:
    @pytest.mark.parametrize("how", ["header", "version"])
    def test_set_aside_at_the_start(self, path: Path, problems: Problems, how: str) -> None:
        """
        A database whose magic, or whose version in the header, is wrong: set aside, never deleted.
        """
        assert_set_aside(path, problems, how)


class TestB16ForeignFile:
    def test_a_picture(self, path: Path, problems: Problems) -> None:
        """
        What is no database at all: set aside, never deleted.
        """
        assert_set_aside(path, problems, "picture")

    def test_another_programs_database(self, path: Path, problems: Problems) -> None:
        """
        A database of somebody else is not written to.
        """
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)")

        opened(path, problems).close()

        (kept,) = (path.parent / "quarantine").iterdir()
        with closing(sqlite3.connect(kept)) as connection:
            assert connection.execute("SELECT x FROM theirs").fetchall() == [(1,)]

    def test_an_empty_file(self, path: Path, problems: Problems) -> None:
        """
        In an empty file, which is what a death at the very beginning leaves, a database is begun.
        """
        path.touch()

        made = opened(path, problems)
        count(made, 0)
        made.close()

        assert counted(path) == 1.0
        assert not problems.told


class TestB17ForeignLog:
    """The pages of another database's log are not taken for pages of this one."""

    @pytest.fixture
    def log(self, path: Path, problems: Problems, tmp_path: Path) -> bytes:
        """Of somebody else; beside it, *path* is a database with one window that has none."""
        made = opened(path, problems)
        count(made, 0)
        made.close()
        with closing(sqlite3.connect(tmp_path / "theirs.db")) as connection:
            connection.executescript(
                "PRAGMA journal_mode = WAL; CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)"
            )
            return (tmp_path / "theirs.db-wal").read_bytes()

    def test_set_aside_alone(self, path: Path, problems: Problems, log: bytes) -> None:
        """
        It is in quarantine as it was and said, and the database is what it was without it.
        """
        content = path.read_bytes()
        path.with_name(path.name + "-wal").write_bytes(log)

        again = opened(path, problems)

        assert not again.is_new
        assert problems.codes == ["S114"]
        (kept,) = (path.parent / "quarantine").iterdir()
        assert kept.name == "catalogue.db.20270115T080000.000000Z-wal"
        assert str(kept) in problems.told[0][1]
        assert kept.read_bytes() == log
        count(again, 1, 3.0)
        assert counted(path) == 4.0
        again.close()
        assert len(path.read_bytes()) == len(content)

    def test_of_another_store(self, path: Path, problems: Problems) -> None:
        """
        Of a store like this one, whose pages fit: it is told by its identity, which is in each log's first turn.
        """
        theirs = path.with_name("theirs.db")
        for database, amount in ((path, 1.0), (theirs, 8.0)):
            made = opened(database, problems)
            for minute in range(60):
                count(made, minute, amount, NOW + minute)
                if minute == 30:
                    made.rebuild()
            if database is path:
                made.close()
        log = theirs.with_name(theirs.name + "-wal").read_bytes()
        made.close()
        path.with_name(path.name + "-wal").write_bytes(log)

        again = opened(path, problems)

        assert problems.codes == ["S114"]
        assert "it is of another store" in problems.told[0][1]
        (kept,) = (path.parent / "quarantine").iterdir()
        assert kept.read_bytes() == log
        count(again, 60, 3.0)
        assert counted(path) == 63.0
        again.close()

    def test_of_this_store_as_it_was(self, path: Path, problems: Problems) -> None:
        """
        A log that the database has had before, and had in itself already: what came later is not lost by it.
        """
        made = opened(path, problems)
        count(made, 0)
        made.checkpoint()
        count(made, 1)
        before = path.with_name(path.name + "-wal").read_bytes()
        for sequence in range(2, 5):
            made.checkpoint()
            count(made, sequence)
        made.close()
        path.with_name(path.name + "-wal").write_bytes(before)

        again = opened(path, problems)

        assert problems.codes == ["S114"]
        assert "it is number 2, and the database has had 5" in problems.told[0][1]
        count(again, 5)
        assert counted(path) == 6.0
        again.close()

    def test_own_one(self, path: Path, problems: Problems) -> None:
        """
        Whatever was checkpointed and whoever has written: a database's own log is its own.
        """
        made = opened(path, problems)
        count(made, 0)
        made.checkpoint()
        count(made, 1)
        other = opened(path, problems)  # the process that restores an archive
        count(other, 2)
        other.rebuild()
        other.close()
        count(made, 3)
        made.after_fork()  # as if it was killed: nothing is brought into the database

        again = opened(path, problems)

        count(again, 4)
        assert counted(path) == 5.0
        assert problems.codes == []
        again.close()

    def test_beside_a_damaged_database(self, path: Path, problems: Problems, log: bytes) -> None:
        """
        Where the database is damaged without it, too, both are set aside, together.
        """
        damaged(path, "truncated")
        content = path.read_bytes()
        path.with_name(path.name + "-wal").write_bytes(log)

        again = opened(path, problems)

        assert again.is_new
        assert problems.codes == ["S110"]
        kept = {each.name: each.read_bytes() for each in (path.parent / "quarantine").iterdir()}
        name = "catalogue.db.20270115T080000.000000Z"
        assert kept == {name: content, f"{name}-wal": log}
        again.close()


class TestB14ZeroedOrTruncated:
    @pytest.mark.parametrize("how", ["truncated", "zeroed page"])
    def test_set_aside_at_the_start(self, path: Path, problems: Problems, how: str) -> None:
        """
        A database that was cut, or has a page of zeros: set aside, never deleted.
        """
        assert_set_aside(path, problems, how)

    def test_while_it_is_written(self, path: Path, problems: Problems, catalogue: Catalogue) -> None:
        """
        Damage that is met while writing fails that turn and says so; the next turn is in a new database.
        """
        for sequence in range(30):
            count(catalogue, sequence, second=NOW + 60 * sequence)
        catalogue.checkpoint()
        with path.open("r+b") as file:  # it stays the same file; nobody else in this process has it open but SQLite
            file.seek(4_096)
            file.write(os.urandom(200_000))
        catalogue._connection.execute("PRAGMA shrink_memory")  # type: ignore[union-attr] # or it would go on with what it remembers

        with pytest.raises(StoreError) as raised:
            count(catalogue, 30)
        assert raised.value.code == "S110"
        count(catalogue, 30, 2.0)

        assert counted(path) == 2.0
        assert problems.codes == ["S110"]


class TestB15DamagedBlock:
    def test_one_damaged_block(self, path: Path, catalogue: Catalogue, problems: Problems) -> None:
        """
        A block with one wrong bit costs what is in it; it is said, and all else is answered.
        """
        writer = WindowWriter(catalogue, on_problem=problems)
        for minute in range(4):
            count(catalogue, minute, second=NOW + 60 * minute)
        while not writer.maintain(10.0):
            pass
        with catalogue.turn() as turn:
            (payload,) = turn.execute(
                "SELECT payload FROM blocks WHERE width = 60 AND start = ? AND grp = 0", (NOW,)
            ).fetchone()
            wrong = payload[:-6] + bytes([payload[-6] ^ 1]) + payload[-5:]
            turn.execute("UPDATE blocks SET payload = ? WHERE width = 60 AND start = ? AND grp = 0", (wrong, NOW))
            turn.execute("UPDATE journal SET payload = x'00' WHERE second = ?", (NOW + 180,))
        reader = WindowReader(CatalogueReader(path), on_problem=problems)

        assert reader.at(None, NOW).increases([ORDERS], NOW, NOW + 240) == [2.0]
        assert problems.codes == ["S113", "S113"]
        assert reader.damaged == 2

        for minute in (4, 70):  # upkeep leaves out the same, and goes on
            count(catalogue, minute, second=NOW + 60 * minute)
        while not writer.maintain(10.0):
            pass
        assert writer.damaged == 2
        assert reader.at(None, NOW).increases([ORDERS], NOW, NOW + 86_400) == [4.0]


class TestMutatedDatabases:
    """Rows B13 to B16, at random."""

    def test_open_and_take_windows(self, tmp_path: Path, problems: Problems) -> None:
        """
        Whatever bytes are wrong, the database or a new one is open within 5 s and takes windows.
        """
        source = tmp_path / "source.db"
        made = opened(source, problems)
        writer = WindowWriter(made, on_problem=problems)
        for minute in range(80):
            count(made, minute, second=NOW + 60 * minute)
        while not writer.maintain(10.0):
            pass
        made.close()
        content = source.read_bytes()
        chance = random.Random(20_261_121)
        untouched = set_aside = 0
        met: set[str] = set()

        for number in range(size(whole=10_000, small=150)):
            folder = tmp_path / "mutated"
            folder.mkdir()
            path = folder / "catalogue.db"
            wrong = bytearray(content)
            for _ in range(chance.choice((1, 1, 3, 40))):
                at = chance.randrange(len(wrong)) if number % 3 else chance.randrange(200)
                wrong[at] = chance.randrange(256)
            if number % 7 == 0:
                del wrong[chance.randrange(len(wrong)) :]
            path.write_bytes(wrong)
            told, began = Problems(), monotonic()

            again = opened(path, told)
            for _ in range(2):  # damage may be met only now
                try:
                    count(again, 100, second=NOW + 6_000)
                    WindowWriter(again, on_problem=told).maintain(10.0)
                    break
                except StoreError as error:
                    met.add(error.code)
            assert counted(path) is not None
            assert monotonic() - began < 5
            set_aside += (folder / "quarantine").exists()
            untouched += not told.told
            again.close()
            shutil.rmtree(folder)

        assert met <= {"S110"}
        assert set_aside > 20
        assert untouched > 20


class TestB11Removed:
    def test_removed_under_us(self, path: Path, catalogue: Catalogue) -> None:
        """
        A database that is deleted while it is in use is begun anew with the next turn, and readers follow.
        """
        reading = CatalogueReader(path)
        reader = WindowReader(reading, on_problem=lambda code, text: None)
        count(catalogue, 0, 5.0)
        assert reader.at(None, NOW).increases([ORDERS], 0, NOW + 1) == [5.0]
        for entry in path.parent.iterdir():
            entry.unlink()

        assert reader.at(None, NOW).increases([ORDERS], 0, NOW + 1) == [None]
        count(catalogue, 0, 2.0)

        assert reader.at(None, NOW).increases([ORDERS], 0, NOW + 1) == [2.0]
        reading.close()


class TestReaders:
    def test_what_is_no_database(self, path: Path) -> None:
        """
        A reader says that it cannot read what is damaged, and goes on when the leader has set it aside.
        """
        path.write_bytes(b"no database at all" * 1_000)
        reading = CatalogueReader(path)

        with pytest.raises(StoreError, match="cannot be read") as raised:
            known(reading)
        assert raised.value.code == "S110"

        opened(path, Problems()).close()
        assert known(reading) == ()
        reading.close()

    def test_nothing_there(self, path: Path) -> None:
        """
        Where there is no database, nothing is known, and none is made.
        """
        reading = CatalogueReader(path)
        reader = WindowReader(reading, on_problem=lambda code, text: None)

        assert known(reading) == ()
        assert reader.at(None, NOW).series("orders_total") == ()
        assert reader.at(None, NOW).increases([ORDERS], 0, NOW) == [None]
        assert reader.at(None, NOW).sketches([ORDERS], 0, NOW) == [None]
        assert reader.at(None, NOW).points([ORDERS], NOW, NOW + 2, 1) == [[None, None]]
        assert reader.at(None, NOW).quantiles([ORDERS], 0.5, NOW, NOW + 2, 1) == [[None, None]]
        assert reader.lifetimes() == []
        assert set(reader.statistics().values()) == {0}
        assert reader.resolution(NOW) == 1
        assert not path.exists()

    def test_never_checkpoints(self, path: Path, problems: Problems) -> None:
        """
        A reader that is the last one to close leaves the log to the writer, so that two processes never checkpoint at once.
        """
        catalogue = opened(path, problems)
        count(catalogue, 0)
        copy = path.parent / "copy"
        copy.mkdir()
        for name in ("catalogue.db", "catalogue.db-wal"):  # as a killed writer leaves it
            shutil.copy(path.with_name(name), copy / name)
        log = (copy / "catalogue.db-wal").read_bytes()

        assert counted(copy / "catalogue.db") == 1.0

        assert (copy / "catalogue.db-wal").read_bytes() == log
        catalogue.close()


class TestB28ReadDuringUpkeep:
    def test_while_upkeep_goes_on(self, path: Path, catalogue: Catalogue, problems: Problems) -> None:
        """
        While blocks are made, merged and let go, a reader's answer is that of one moment: the sum never goes back.
        """
        writer = WindowWriter(catalogue, on_problem=problems)
        sums: list[float] = []
        over = threading.Event()

        def read() -> None:
            while not over.is_set():
                sums.append(counted(path) or 0.0)

        thread = threading.Thread(target=read)
        thread.start()
        for minute in range(200):
            with catalogue.turn() as turn:
                writer.put(turn, Window(NOW + 60 * minute, {ORDERS: 1.0}))
            writer.maintain(10.0)
        over.set()
        thread.join()

        assert all(one <= other for one, other in pairwise([*sums, counted(path) or 0.0]))
        assert sums[-1] > 1


class TestB23LongReader:
    def test_the_log_is_cut(self, path: Path, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A log that has grown because somebody read for long is cut as soon as nobody does.
        """
        monkeypatch.setattr(module, "_WAL_BYTES", 100_000)
        with closing(connect(path, "ro")) as slow:
            slow.execute("BEGIN")
            slow.execute("SELECT * FROM meta").fetchall()
            for sequence in range(50):
                count(catalogue, sequence)
            catalogue.checkpoint()
            assert catalogue.log_bytes > 100_000

        catalogue.checkpoint()

        assert catalogue.log_bytes == 0


class TestForks:
    def test_a_child_leaves_it_alone(self, path: Path, catalogue: Catalogue) -> None:
        """
        A forked child that ends in the ordinary way takes nothing from its parent, and can read with a connection of its own.
        """
        count(catalogue, 0)
        reading = CatalogueReader(path)
        assert known(reading) == ()
        child = os.fork()
        if not child:
            catalogue.after_fork()
            reading.after_fork()
            os._exit(0 if known(reading) == () and counted(path) == 1.0 else 1)
        _, status = os.waitpid(child, 0)

        assert status == 0
        count(catalogue, 1)
        assert counted(path) == 2.0
        reading.close()

    def test_a_child_does_not_keep_the_lock(self, path: Path, catalogue: Catalogue, problems: Problems) -> None:
        """
        A child that was forked in the middle of a turn does not keep others from writing when its parent is long done.
        """
        ready, go = os.pipe(), os.pipe()
        with catalogue.turn() as turn:
            catalogue.take(turn, "p", 0)
            child = os.fork()
            if not child:
                catalogue.after_fork()
                os.write(ready[1], b".")
                os.read(go[0], 1)
                os._exit(0)
            os.read(ready[0], 1)
        catalogue.close()

        opened(path, problems, epoch=2).close()

        os.write(go[1], b".")
        assert os.waitpid(child, 0)[1] == 0
        for end in (*ready, *go):
            os.close(end)


MOUNTS = """\
22 28 0:21 / /proc rw,nosuid - proc proc rw
28 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 28 0:40 / /srv rw,relatime shared:1 - nfs4 server:/srv rw
41 40 0:41 / /srv/my\\040disk rw,relatime - xfs /dev/vdb rw
"""


class TestFileSystems:
    @pytest.mark.parametrize(
        ("path", "system"),
        [("/var/lib/x.db", "ext4"), ("/srv/x.db", "nfs4"), ("/srv/my disk/x.db", "xfs"), ("/srvs/x.db", "ext4")],
    )
    def test_told_by_the_nearest_mount(self, path: str, system: str) -> None:
        """
        The file system is that of the mount point with the longest name above the path.
        """
        assert file_system(Path(path), MOUNTS.splitlines()) == system

    def test_a_network_is_refused(self, path: Path, problems: Problems, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        B32. On a network file system no database is begun; the message says what to do.
        """
        monkeypatch.setattr(module, "file_system", lambda path: "nfs4")

        with pytest.raises(StoreError, match=r"network file system \(nfs4\).*choose a local directory") as raised:
            opened(path, problems)

        assert raised.value.code == "S120"
        assert not path.exists()
