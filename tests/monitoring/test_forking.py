"""Forks and SQLite: who forks waits for who uses SQLite, and a child never hangs in it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event, Thread
from weakref import WeakSet

import pytest

from rfs.errors import StoreError
from rfs.monitoring import monitor as monitors
from rfs.monitoring._store import forking as module
from rfs.monitoring._store.catalogue import Catalogue, CatalogueReader
from rfs.monitoring._store.forking import DatabaseLock, check_usable
from rfs.monitoring.monitor import Monitor
from rfs.testing.faults import in_fork
from tests.faults.processes import eventually, size


@pytest.fixture(autouse=True)
def _no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Monitors that other tests have left do not begin anew in each child."""
    monkeypatch.setattr(monitors, "_monitors", WeakSet())


@contextmanager
def another_inside() -> Iterator[None]:
    """While another thread uses SQLite for long."""
    entered, leave = Event(), Event()

    def use() -> None:
        with DatabaseLock():
            entered.set()
            leave.wait()

    thread = Thread(target=use)
    thread.start()
    entered.wait()
    try:
        yield
    finally:
        leave.set()
        thread.join()


def ask_own_database() -> int:
    with closing(sqlite3.connect(":memory:")) as connection:
        (found,) = connection.execute("SELECT 7").fetchone()
    return int(found)


class TestWhoForks:
    def test_no_child_hangs_in_sqlite(self, tmp_path: Path) -> None:
        """
        A thread writes into the catalogue and another one reads it all the time; children use databases of their own, and the
        same one, at once. (Without the lock some of a hundred hang.)
        """
        path, stopping = tmp_path / "catalogue.db", Event()
        catalogue = Catalogue(path, epoch=1, on_problem=lambda _code, _text: None, now=lambda: 1_800_000_000)
        text = "x" * 500
        turns = reads = 0

        def write() -> None:
            nonlocal turns
            while not stopping.is_set():
                with catalogue.turn() as turn:
                    turn.executemany("INSERT INTO batches VALUES (?, 0, 0)", [(f"{n}{text}",) for n in range(50)])
                    turn.execute("DELETE FROM batches")
                turns += 1

        def read() -> None:
            nonlocal reads
            with closing(CatalogueReader(path)) as reader:
                while not stopping.is_set():
                    with reader.snapshot() as connection:
                        assert connection is not None
                        connection.execute("SELECT count(*), max(process) FROM batches").fetchone()
                    reads += 1

        def use() -> tuple[int, int]:
            with closing(CatalogueReader(path)) as reader, reader.snapshot() as connection:
                assert connection is not None
                (epoch,) = connection.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
            return ask_own_database(), int(epoch)

        threads = [Thread(target=write), Thread(target=read)]
        for thread in threads:
            thread.start()
        try:
            eventually(lambda: turns > 1 and reads > 1)
            said = [in_fork(use) for _ in range(size(whole=2_000, small=100))]
        finally:
            stopping.set()
            for thread in threads:
                thread.join()
            catalogue.close()

        assert set(said) == {(7, 1)}
        assert turns > 50
        assert reads > 50

    def test_does_not_wait_for_ever(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        If somebody is inside for long the child is made nevertheless. It, and its own children, are kept from SQLite and told why.
        """
        monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.01)

        def told() -> str:
            with pytest.raises(StoreError) as caught:
                check_usable("a")
            assert str(os.getpid()) in caught.value.fault
            return caught.value.code

        with another_inside():
            assert in_fork(told) == "S105"
            assert in_fork(lambda: in_fork(told)) == "S105"

        check_usable("a")
        in_fork(lambda: check_usable("a"))

    def test_a_monitor_goes_on_without_its_store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        In such a child a Monitor records into the directory, where others find it, and answers of what it sees itself.
        """
        monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.01)
        monitor = Monitor(service_name="forked", directory=tmp_path)
        monitor.start()
        monitor.log(20, "parent")

        def work() -> tuple[list[str], str]:
            monitor.log(20, "child")
            found = [record.message for record in monitor.query.records()]
            monitor.stop()
            return found, monitor._leader.store_fault

        with another_inside():
            found, fault = in_fork(work)

        assert "child" in found
        assert "which was forked while another thread used SQLite for long" in fault
        assert {"parent", "child"} <= {record.message for record in monitor.query.records()}
        monitor.stop()

    def test_may_be_inside_itself(self) -> None:
        """
        A thread that forks while it uses a database waits for nobody; the child goes on where it was, and forks again.
        """

        def work() -> int:
            with lock:
                return in_fork(ask_own_database)

        lock, outer = DatabaseLock(), DatabaseLock()
        with outer:
            assert in_fork(work) == 7
        assert in_fork(work) == 7


class TestWhoComes:
    def test_waits_until_the_fork_is_done(self) -> None:
        """
        Who wants to use SQLite while somebody forks waits; one who uses it may go deeper, or the fork would wait for him.
        """
        gate, told = module._Gate(), list[str]()
        closed, go_on = Event(), Event()
        thread = gate.enter()

        def fork() -> None:
            gate.close()
            told.append("forks")
            closed.set()
            go_on.wait()
            told.append("has forked")
            gate.open()

        def come() -> None:
            gate.leave(gate.enter())
            told.append("uses it")

        forks, comes = Thread(target=fork), Thread(target=come)
        forks.start()
        eventually(lambda: gate._forking == 1)
        comes.start()
        gate.leave(gate.enter())
        told.append("goes deeper")
        gate.leave(thread)
        closed.wait()
        go_on.set()
        forks.join()
        comes.join()

        assert gate._is_empty
        assert told == ["goes deeper", "forks", "has forked", "uses it"]

    def test_a_signal_handler_may_fork_meanwhile(self) -> None:
        """
        One that comes while its thread enters or leaves does not wait for that thread.
        """
        gate = module._Gate()
        with gate._changed:
            gate.close()
            gate.open()

        gate.leave(gate.enter())

    @pytest.mark.parametrize("step", ["enter", "leave"])
    def test_an_interrupt_leaves_nothing_locked(self, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        What a signal handler raises while a thread enters or leaves does not keep others from the database for ever.
        """
        lock = DatabaseLock()

        def interrupted(*_: int) -> int:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(module, "_gate", module._Gate())
            patched.setattr(module._gate, step, interrupted)
            with pytest.raises(KeyboardInterrupt), lock:
                pass

        assert not lock._lock.locked()
