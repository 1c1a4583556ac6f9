"""What the leader keeps goes to a store elsewhere, too: once, whoever records it and whoever leads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from rfs.errors import StoreError
from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._store import Batch, Kind
from rfs.monitoring._store.memory import MemoryStore
from rfs.monitoring.alerts import AlertCondition, Rule, RuleStatus
from rfs.monitoring.monitor import Monitor
from rfs.testing.virtual_time import VirtualTime

VISITS = SeriesKey("visits_total", ())


class Elsewhere(MemoryStore):
    """A store on another machine, as far as can be told here."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Batch] = []
        self.is_closed = False

    def append(self, batch: Batch) -> bool:
        self.batches.append(batch)
        return super().append(batch)

    def close(self) -> None:
        self.is_closed = True

    def visits(self) -> float | None:
        return self.increases([VISITS], 0, 1e12)[0]


def lead(monitor: Monitor) -> None:
    """Do what the leader's thread does in a second, and let nothing wait for more."""
    monitor._leader._capture_and_lead(is_new=False)
    monitor.tick()
    local = monitor._leader._local
    assert local is not None
    monitor._leader._import(local, at_once=True)


def payloads(batches: Sequence[Batch]) -> int:
    return sum(len(run.frames) for batch in batches for run in batch.runs)


class TestForwarding:
    def test_of_several_processes_once(self, tmp_path: Path) -> None:
        """
        What two processes record arrives once, from the one that leads; and so does what comes after another leads.
        """
        there = Elsewhere()
        first = Monitor(service_name="shop", directory=tmp_path, forward_to=there, clock=VirtualTime())
        second = Monitor(service_name="shop", directory=tmp_path, forward_to=there, clock=VirtualTime())
        for process in (first, second):
            process.counter("visits_total").inc(3)
            process.log(20, "came")

        lead(first)
        second.tick()
        assert there.visits() == 6
        assert payloads(there.batches) == 2

        first.stop()
        second.counter("visits_total").inc(1)
        second.log(20, "went")
        lead(second)
        second.stop()

        assert there.visits() == 7
        assert payloads(there.batches) == 3
        assert there.is_closed

    def test_in_memory(self) -> None:
        """
        A process without a directory forwards what it records itself.
        """
        there = Elsewhere()
        monitor = Monitor(forward_to=there)
        monitor.counter("visits_total").inc(2)
        monitor.log(20, "came")

        monitor.tick()
        monitor.stop()

        assert there.visits() == 2
        assert payloads(there.batches) == 1

    def test_what_it_refuses_is_said(self, tmp_path: Path) -> None:
        """
        A store elsewhere that refuses takes nothing away from the one in the directory.
        """

        class Refuses(Elsewhere):
            def append(self, batch: Batch) -> bool:
                raise StoreError("there", "is of a newer version", "S112")

        monitor = Monitor(service_name="shop", directory=tmp_path, forward_to=Refuses(), clock=VirtualTime())
        monitor.counter("visits_total").inc(2)

        lead(monitor)

        assert monitor.query.increase("visits_total", "1h") == 2
        assert any("S112" in text for text in monitor._diagnostics)
        monitor.stop()


class Shared(Elsewhere):
    """One that many machines write into."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def kinds(self) -> Mapping[str, Kind]:
        return {"tables_open": "gauge"}

    def latest(self, keys: Sequence[SeriesKey]) -> float | None:
        self.asked += 1
        return 7.0


class TestForAllMachines:
    def test_rules_are_read_every_five_seconds(self) -> None:
        """
        What many machines have sent is asked for less often than what is at hand.
        """
        store, clock = Shared(), VirtualTime()
        monitor = Monitor(forward_to=store, clock=clock)
        monitor.answer_for_all_machines()
        monitor.alerts.set_rule(Rule("full", "tables_open", AlertCondition.GREATER_THAN, 5))

        asked: list[int] = []
        for _ in range(11):
            monitor.beat()
            asked.append(store.asked)
            clock.advance(1)

        assert asked == [1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3]
        assert not any(batch.window for batch in store.batches)
        assert payloads(store.batches) == 1  # of the alert
        assert monitor.query.series_count is None
        assert [alert.rule_name for alert in monitor.alerts.active()] == ["full"]
        monitor.stop()

    def test_a_fault_is_met_once_a_round(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A server that hangs is asked for the first rule, and the others do not wait for it as well.
        """
        store, clock, asked = Shared(), VirtualTime(), list[str]()

        def kinds() -> Mapping[str, Kind]:
            asked.append("kinds")
            raise StoreError("clickhouse", "timed out", "S116")

        monkeypatch.setattr(store, "kinds", kinds)
        monitor = Monitor(forward_to=store, clock=clock)
        monitor.answer_for_all_machines()
        for name in ("full", "fuller", "fullest"):
            monitor.alerts.set_rule(Rule(name, "tables_open", AlertCondition.GREATER_THAN, 5))

        monitor.beat()

        assert asked == ["kinds"]
        assert {state.status for state in monitor.alerts.states().values()} == {RuleStatus.ERROR}
        monkeypatch.undo()
        clock.advance(5)
        monitor.beat()
        assert {state.status for state in monitor.alerts.states().values()} == {RuleStatus.FIRING}
        monitor.stop()
