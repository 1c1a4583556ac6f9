"""Who takes precedence leads: asked for politely, handed over between two turns, given back at the end."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from errno import ENOSPC
from pathlib import Path
from typing import Any
from weakref import ref

import pytest

from rfs.monitoring import _live
from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._live import Lease, LiveReader, Precedence
from rfs.monitoring.alerts import AlertCondition, Rule
from rfs.monitoring.monitor import Monitor
from rfs.testing.virtual_time import VirtualTime

MakeMonitor = Callable[[], Monitor]


@pytest.fixture
def process(tmp_path: Path, clock: VirtualTime) -> Iterator[MakeMonitor]:
    """Makes a further process of the service, as far as the others can tell; its turns are `Monitor.beat`."""
    with ExitStack() as stack:

        def make() -> Monitor:
            made = Monitor(service_name="orders", directory=tmp_path, clock=clock)
            stack.callback(made.stop)
            return made

        yield make


def leads(monitor: Monitor) -> bool:
    monitor.beat()
    return monitor.leadership.is_self


def import_if_leading(monitor: Monitor) -> None:
    """Bring into chunks what is recorded, however little it is."""
    local = monitor._leader._find_store()
    if local is not None and local.leads:
        monitor._leader._import(local, at_once=True)


class TestHandingOver:
    def test_at_the_next_turn_of_who_leads(self, process: MakeMonitor) -> None:
        """
        Who takes precedence asks, who leads hands over at its next turn, and nobody else comes in between.
        """
        worker, other, server = process(), process(), process()
        assert leads(worker)
        assert not leads(other)

        server.take_precedence()

        assert not leads(server)
        assert not leads(worker)
        assert not leads(other)
        assert leads(server)
        assert not leads(worker)
        assert not leads(other)
        assert worker.leadership.process == server.leadership.process

    def test_nothing_is_lost_or_counted_twice(self, process: MakeMonitor, clock: VirtualTime) -> None:
        """
        What was measured and recorded before, while nobody led and after is there once.
        """
        worker, server = process(), process()
        counted = worker.counter("orders_total").labels()

        def work(message: str) -> None:
            counted.inc()
            worker.log(20, message)
            clock.advance(1)

        work("before")
        assert leads(worker)
        server.take_precedence()
        for turn in range(3):
            work(f"turn {turn}")
            for monitor in (server, worker):
                monitor.beat()
                import_if_leading(monitor)
        work("after")
        assert leads(server)
        import_if_leading(server)

        assert [record.message for record in server.query.records()] == [
            "after",
            "turn 2",
            "turn 1",
            "turn 0",
            "before",
        ]
        assert server.query.totals().counters[SeriesKey("orders_total", ())] == 5
        assert server.query.increase("orders_total", "1h") == 5
        books = server.query.books()["records"]
        assert (books["produced"], books["delivered"], books["in_flight"]) == (5, 5, 0)

    def test_one_that_does_not_take_precedence_waits(self, process: MakeMonitor) -> None:
        """
        Without precedence a process follows as long as the leader lives.
        """
        worker, other = process(), process()
        assert leads(worker)

        assert not any(leads(other) for _ in range(5))
        assert leads(worker)

    def test_of_two_the_first_stays(self, process: MakeMonitor) -> None:
        """
        One that takes precedence does not take the lead from another that does.
        """
        first, second = process(), process()
        first.take_precedence()
        second.take_precedence()
        assert leads(first)

        assert not any(leads(second) or not leads(first) for _ in range(5))


class TestAfterwards:
    def test_nothing_is_left_of_leading(self, process: MakeMonitor, clock: VirtualTime) -> None:
        """
        Who has handed over keeps nothing of what it led with, not even until the garbage collector comes: its requests would be dearer for
        that. It answers as before.
        """
        worker, server = process(), process()
        worker.counter("orders_total").labels(route="/orders").inc()
        worker.histogram("wait_seconds").labels().observe(1)
        worker.beat()
        clock.advance(1)
        worker.counter("orders_total").labels(route="/orders").inc()
        worker.beat()
        local = worker._leader._find_store()
        assert local is not None
        assert local._writing is not None
        held: list[ref[Any]] = [
            ref(each)
            for each in (local._writing, local._writing._windows, local._writing.catalogue, local._windows._kept)
        ]
        held += [ref(each.cells) for each in worker._leader.live._processes.values()]
        server.take_precedence()
        del local

        gc.disable()
        try:
            while not leads(server):
                worker.beat()
            worker.beat()
            assert [each() for each in held] == [None] * len(held)
        finally:
            gc.enable()
        assert len(held) > 3
        assert worker.query.increase("orders_total", "1h") == 2
        assert worker.query.totals().counters[SeriesKey("orders_total", (("route", "/orders"),))] == 2


class TestGivingBack:
    def test_when_it_stops(self, process: MakeMonitor) -> None:
        """
        When the process that took precedence stops, another leads at its next turn.
        """
        worker, server = process(), process()
        server.take_precedence()
        assert leads(server)
        assert not leads(worker)

        server.stop()

        assert leads(worker)

    def test_when_it_dies_before_it_led(self, process: MakeMonitor, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        If who asked for the lead does not take it, it is free again when the lease has run out since it was last asked for.
        """
        worker, server = Lease(process().capture), Lease(process().capture)
        assert worker.keep()
        server.precedence = Precedence.SERVER
        assert not server.keep()

        assert not worker.keep()
        assert not worker.keep()
        monkeypatch.setattr(_live, "LEASE_SECONDS", 0)
        assert worker.keep()

    def test_that_cannot_write_does_not_ask(self, process: MakeMonitor) -> None:
        """
        One that takes precedence and cannot use the store, being of an older version, leaves the lead where it is.
        """
        worker, server = Lease(process().capture), Lease(process().capture)
        assert worker.keep()
        server.precedence = Precedence.SERVER
        server.can_write = False

        assert not server.keep()
        assert worker.keep()


class TestFaults:
    def test_who_cannot_follow_asks_no_more(self, process: MakeMonitor, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        If there is no room for the file of a new epoch, who led leads on in his own, and is not asked again for a minute.
        """
        first, second = process(), process()
        worker, server = Lease(first.capture), Lease(second.capture)
        assert worker.keep()
        server.precedence = Precedence.SERVER
        assert not server.keep()
        assert not worker.keep()

        def claim(*_: object) -> bool:
            raise OSError(ENOSPC, "No space left on device")

        for directory in (first.capture.directory, second.capture.directory):
            monkeypatch.setattr(directory, "claim", claim)
        with pytest.raises(OSError, match="No space"):
            server.keep()
        monkeypatch.setattr(_live, "LEASE_SECONDS", 0)
        assert worker.keep()
        monkeypatch.undo()
        assert worker.epoch == 1

        assert not any(server.keep() or not worker.keep() for _ in range(5))
        server._asks_from = 0.0  # a minute later
        assert not server.keep()
        assert not worker.keep()
        assert server.keep()

    def test_an_older_leader_is_not_asked(self, process: MakeMonitor, tmp_path: Path) -> None:
        """
        The file of a leader that knows of no precedence stays as it is.
        """
        worker, server = Lease(process().capture), Lease(process().capture)
        assert worker.keep()
        (file,) = (tmp_path / "live").glob("leader-*")
        os.truncate(file, 1_032)
        server.precedence = Precedence.SERVER

        assert not server.keep()
        assert file.stat().st_size == 1_032

    def test_a_fork_does_not_take_precedence(self, process: MakeMonitor) -> None:
        """
        The child of a process that takes precedence is one like any other.
        """
        worker, server = Lease(process().capture), Lease(process().capture)
        assert worker.keep()
        server.precedence = Precedence.SERVER

        server.after_fork()

        assert not server.keep()
        assert worker.keep()

    def test_the_dead_are_left_to_who_leads(self, process: MakeMonitor) -> None:
        """
        Dead processes that who led has taken, and not folded, are taken by who leads then.
        """
        worker, server, dead = process(), process(), process()
        dead.log(20, "hello")
        dead.capture.close()
        readers = [LiveReader(each.capture) for each in (worker, server)]
        for reader in readers:
            reader.refresh()

        assert len(readers[0].take_dead()) == 1
        assert not readers[1].take_dead()
        readers[0].leave_dead()
        assert len(readers[1].take_dead()) == 1
        assert not readers[0].take_dead()


class TestRules:
    def test_that_who_leads_does_not_know_are_told(self, process: MakeMonitor, clock: VirtualTime) -> None:
        """
        The process that leads says, after ten seconds of it, how many alert rules of the service it does not evaluate.
        """
        worker, server = process(), process()
        for name in ("busy", "broken"):
            worker.alerts.set_rule(Rule(name, "orders_total", AlertCondition.GREATER_THAN, 5))
        server.take_precedence()
        assert leads(server)
        worker.beat()
        server.beat()
        clock.advance(9)
        server.beat()
        assert not server.diagnostics

        clock.advance(2)
        server.beat()

        (told,) = server.diagnostics
        assert told.startswith("RFS-A101 alert rules are not evaluated: a process of orders declares 2, and this one")
        assert "which leads, has 0" in told
        assert server.query.latest("rfs_alert_rules") == 2
        assert not worker.diagnostics

    def test_that_it_knows(self, process: MakeMonitor) -> None:
        """
        Where all declare the same rules nothing is said.
        """
        worker, server = process(), process()
        for monitor in (worker, server):
            monitor.alerts.set_rule(Rule("busy", "orders_total", AlertCondition.GREATER_THAN, 5))
        server.take_precedence()

        for _ in range(3):
            server.beat()
            worker.beat()

        assert not server.diagnostics
