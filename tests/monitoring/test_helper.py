"""Helpers: a worker that is busy leading lets a process of its own lead, and evaluates its rules with what that one tells."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from errno import EMFILE
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfs.monitoring import _helper
from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.instruments import INTERNAL_ERRORS
from rfs.monitoring._helper import Channel, Helper, Setting, Told, Watched
from rfs.monitoring._helping import Helping, lead_for
from rfs.monitoring._leader import BUSY_SECONDS, Load
from rfs.monitoring._store.memory import MemoryStore
from rfs.monitoring.alerts import Alert, AlertCondition, Rule, RuleStatus, Sample
from rfs.monitoring.monitor import Monitor
from rfs.monitoring.retention import Retention
from rfs.testing.faults import in_fork
from rfs.testing.virtual_time import VirtualTime
from tests.faults.processes import Process, environment, eventually

BUSY = Rule("busy", "orders_total", AlertCondition.GREATER_THAN, 5, cooldown_seconds=0)


@pytest.fixture(autouse=True)
def _may_be_helped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RFS_HELPER")


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Channel]]:
    one, other = map(Channel, socket.socketpair())
    yield one, other
    one.close()
    other.close()


class TestChannel:
    @given(st.lists(st.integers(0, 300_000), max_size=6))
    def test_messages_come_whole_and_in_order(self, sizes: list[int]) -> None:
        """
        Whatever their sizes, and however little is read at once.
        """
        one, other = map(Channel, socket.socketpair())
        sent = [Told(problems=[f"{number}" + "x" * size]) for number, size in enumerate(sizes)]
        found: list[Told] = []
        for message in sent:
            while not one.send(message):
                found += map(_helper._decode_told, other.receive())
        while len(found) < len(sent):
            one.send(Told())  # pushes on what is left, and may itself be one more
            found += map(_helper._decode_told, other.receive())
        assert found[: len(sent)] == sent
        one.close()
        other.close()

    def test_who_does_not_listen_misses_some(self, pair: tuple[Channel, Channel]) -> None:
        """
        Nobody waits for the other end, nothing piles up, and what comes through is whole.
        """
        one, other = pair
        taken = sum(one.send(Told(problems=["x" * 10_000])) for _ in range(1_000))
        assert 0 < taken < 1_000
        assert len(one._outgoing) <= 10_100
        found = [_helper._decode_told(each) for each in other.receive()]
        assert taken - 1 <= len(found) <= taken
        assert {each.problems[0] for each in found} == {"x" * 10_000}

    def test_the_other_end_is_gone(self, pair: tuple[Channel, Channel]) -> None:
        """
        It is seen when something is sent, read or waited for; also by a host that dies of SIGPIPE otherwise.
        """
        one, other = pair
        other.send(Told())
        other.close()
        before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        try:
            assert not one.send(Told())
        finally:
            signal.signal(signal.SIGPIPE, before)
        assert one.is_gone
        one.wait(60)
        assert len(one.receive()) == 1


class Team:
    """A worker and its helper in one process, whose turns are `Monitor.beat`."""

    def __init__(self, path: Path, clock: VirtualTime) -> None:
        self.clock = clock
        self.worker, self.second = (Monitor(service_name="orders", directory=path, clock=clock) for _ in range(2))
        self.helping_monitor = Monitor(service_name="orders", directory=path, clock=clock)
        ours, theirs = map(Channel, socket.socketpair())
        helper = self.worker._helper
        assert helper is not None
        self.helper = helper
        helper._channel = ours
        helper._process = SimpleNamespace(pid=7, wait=lambda _: 0, kill=lambda: None)  # type: ignore[assignment] # it is none
        self.channel, self.helping = theirs, Helping(theirs)
        self.helping_monitor.lead_for(self.helping)
        theirs.send(Told())

    def turn(self, seconds: float = 1.0) -> None:
        """A second of all: the helper's first."""
        self.clock.advance(seconds)
        self.helping.hear()
        self.helping_monitor.beat()
        self.worker._hear()
        self.worker.beat()

    def stop(self) -> None:
        for monitor in (self.worker, self.helping_monitor, self.second):
            monitor.stop()
        self.channel.close()


@pytest.fixture
def team(tmp_path: Path, clock: VirtualTime) -> Iterator[Team]:
    made = Team(tmp_path, clock)
    yield made
    made.stop()


class TestRules:
    def test_are_the_workers(self, team: Team) -> None:
        """
        While the helper leads, the worker's rules fire, are active and resolve in the worker, and each is recorded once.
        """
        told: list[Alert] = []
        team.worker.alerts.set_rule(BUSY, told.append)
        orders = team.worker.counter("orders_total").labels()
        team.worker.beat()
        assert team.worker.leadership.is_self
        for _ in range(3):
            team.turn()
        assert team.helping_monitor.leadership.is_self
        assert team.worker.alerts.states()["busy"].status is RuleStatus.INACTIVE

        orders.inc(6)
        for _ in range(3):
            team.turn()
        assert team.worker.alerts.flush()
        assert [each.event for each in told] == ["fire"]
        assert [each.rule.name for each in team.worker.alerts.active()] == ["busy"]
        team.turn(400)
        for _ in range(3):
            team.turn()
        assert team.worker.alerts.flush()
        assert [each.event for each in told] == ["fire", "resolve"]

        assert team.helping_monitor.alerts.rule_count == 0
        said = [record.message for record in team.worker.query.records() if record.logger == "rfs.alerts"]
        assert len(said) == len(set(said)) > 1

    def test_what_stands_is_known_to_all(self, team: Team) -> None:
        """
        While the helper leads, its worker tells the other processes which alerts stand, the helper itself among them.
        """
        team.worker.alerts.set_rule(BUSY)
        team.worker.counter("orders_total").inc(6)
        for _ in range(4):
            team.turn()
        assert team.helping_monitor.leadership.is_self

        for each in (team.worker, team.second, team.helping_monitor):
            standing = each.standing_alerts()
            assert standing is not None
            assert [alert.rule_name for alert in standing.alerts] == ["busy"]
            assert standing.rules == 1

    def test_that_change(self, team: Team) -> None:
        """
        A rule that is declared, changed or removed is the helper's a second later; a value of another one is not taken for its.
        """
        gauge = team.worker.gauge("queue_length").labels()
        gauge.set(7)
        for _ in range(3):
            team.turn()
        team.worker.alerts.set_rule(Rule("long", "queue_length", AlertCondition.GREATER_THAN, 5))
        for _ in range(3):
            team.turn()
        assert team.worker.alerts.states()["long"].value == 7

        team.worker.alerts.set_rule(Rule("long", "no_such_metric", AlertCondition.GREATER_THAN, 5))
        team.helping_monitor.beat()  # of the rule before
        team.worker._hear()
        team.worker.beat()
        for _ in range(2):
            team.turn()
        state = team.worker.alerts.states()["long"]
        assert (state.value, state.status) == (None, RuleStatus.NO_DATA)

        team.worker.alerts.remove_rule("long")
        for _ in range(2):
            team.turn()
        assert not team.worker.alerts.states()
        assert team.helping._watched[1] == []

    def test_declared_at_this_moment(self, team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A rule that comes between the helper's values and their use is read by the worker itself.
        """
        team.worker.gauge("queue_length").labels().set(7)
        team.worker.alerts.set_rule(Rule("long", "queue_length", AlertCondition.GREATER_THAN, 5))
        for _ in range(3):
            team.turn()
        evaluate = team.worker.alerts.evaluate

        def declare(now: float) -> None:
            team.worker.alerts.set_rule(Rule("longer", "queue_length", AlertCondition.GREATER_THAN, 6))
            evaluate(now)

        team.clock.advance(1)
        team.helping_monitor.beat()
        monkeypatch.setattr(team.worker.alerts, "evaluate", declare)
        team.worker._hear()
        assert team.worker.alerts.states()["longer"].value == 7

    def test_that_cannot_be_read(self, team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        What fails in the helper is the rule's state ERROR in the worker, and counted.
        """
        team.worker.alerts.set_rule(BUSY)

        def fail(_rule: Rule) -> Sample:
            raise RuntimeError("not now")

        monkeypatch.setattr(team.helping_monitor, "_read_sample", fail)
        for _ in range(3):
            team.turn()
        state = team.worker.alerts.states()["busy"]
        assert (state.status, state.error) == (RuleStatus.ERROR, "RuntimeError")
        key = SeriesKey(INTERNAL_ERRORS, (("where", "alerts.read"),))
        assert team.worker.query.totals().counters[key] >= 1

    def test_that_the_worker_does_not_have(self, team: Team) -> None:
        """
        Rules that another worker declares, and this one does not, are told of by this one, once.
        """
        for name in ("one", "two"):
            team.second.alerts.set_rule(Rule(name, "orders_total", AlertCondition.GREATER_THAN, 5))
        team.worker.alerts.set_rule(BUSY)
        for _ in range(14):
            team.second.beat()
            team.turn()

        (told,) = team.worker.diagnostics
        assert told.startswith("RFS-A101 alert rules are not evaluated: a process of orders declares 2, and this one")
        assert not team.helping_monitor.diagnostics


class TestProblems:
    def test_are_said_by_the_worker(self, team: Team, capsys: pytest.CaptureFixture[str]) -> None:
        """
        What the helper finds wrong is among the worker's diagnostics and printed by it, once.
        """
        team.helping_monitor.diagnose("RFS-S102 no space")
        for _ in range(25):
            team.turn()
        assert team.worker.diagnostics == ["RFS-S102 no space"]
        assert capsys.readouterr().err == "RFS-S102 no space\n"


class TestPrecedence:
    def test_workers_follow_helpers_and_helpers_servers(self, team: Team) -> None:
        """
        A helper takes the lead from workers, none of which takes it back; ``rfs serve`` takes it from the helper for good.
        """
        team.worker.beat()
        for _ in range(4):
            team.turn()
            team.second.beat()
        assert team.helping_monitor.leadership.is_self

        server = team.second
        server.take_precedence()
        for _ in range(6):
            team.turn()
            server.beat()
        assert server.leadership.is_self
        assert not team.helping_monitor.leadership.is_self

    def test_another_workers_helper_is_not_asked(self, team: Team) -> None:
        """
        Of two helpers the one that leads goes on.
        """
        for _ in range(3):
            team.turn()
        team.second.lead_for(Helping(team.channel))
        for _ in range(4):
            team.second.beat()
            team.turn()
        assert team.helping_monitor.leadership.is_self


class TestLoad:
    def test_counts_whole_busy_spans(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        It is busy as long as each five seconds took more of the thread than its share; one that did not begins anew.
        """
        times = {"monotonic": 0.0, "thread_time": 0.0}
        monkeypatch.setattr(time, "monotonic", lambda: times["monotonic"])
        monkeypatch.setattr(time, "thread_time", lambda: times["thread_time"])
        load = Load()
        found: list[float] = []
        for used in (*[0.02] * 11, *[0.001] * 5, *[0.02] * 5):
            times["monotonic"] += 1
            times["thread_time"] += used
            found.append(load.busy_seconds())
        assert found == [0.0] * 4 + [5.0] * 5 + [10.0] * 5 + [0.0] * 5 + [5.0] * 2


class TestWhoIsHelped:
    @pytest.fixture
    def started(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
        calls: list[tuple[Any, ...]] = []
        monkeypatch.setattr(Helper, "start", lambda _self, *arguments: calls.append(arguments))
        return calls

    def tick(self, monitor: Monitor, seconds: float = BUSY_SECONDS) -> None:
        monitor.beat()
        monitor._leader.busy_seconds = seconds
        monitor.tick()
        monitor.stop()

    def test_who_is_busy(self, tmp_path: Path, started: list[tuple[Any, ...]]) -> None:
        """
        A worker that has been busy leading for ten seconds, with what its Monitor was told.
        """
        retention = Retention(minute=7)
        self.tick(Monitor(service_name="orders", directory=tmp_path, retention=retention))
        assert started == [(str(tmp_path), "orders", retention)]

    @pytest.mark.parametrize("what", ["idle", "in memory", "a clock", "forwards", "a server", "RFS_HELPER"])
    def test_nobody_else(
        self,
        what: str,
        tmp_path: Path,
        clock: VirtualTime,
        started: list[tuple[Any, ...]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        Nobody who is not, records in memory, was handed a clock or a store elsewhere, is a process of its own already, or said never.
        """
        more: dict[str, Any] = {"directory": tmp_path}
        match what:
            case "in memory":
                more.clear()
            case "a clock":
                more["clock"] = clock
            case "forwards":
                more["forward_to"] = MemoryStore()
            case "RFS_HELPER":
                monkeypatch.setenv("RFS_HELPER", "never")
            case _:
                pass
        monitor = Monitor(service_name="orders", **more)
        if what == "a server":
            monitor.take_precedence()
        self.tick(monitor, BUSY_SECONDS - 5 if what == "idle" else BUSY_SECONDS)
        assert not started


class TestNoProcess:
    def helper(self) -> tuple[Helper, list[str]]:
        said: list[str] = []
        return Helper(said.append), said

    def test_no_descriptor_is_left(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """
        Nor where there is none for the pair.
        """
        helper, said = self.helper()

        def fail() -> None:
            raise OSError(EMFILE, "Too many open files")

        monkeypatch.setattr(socket, "socketpair", fail)
        helper.start(str(tmp_path), "orders", None)
        assert said[0].endswith("Too many open files")

    @pytest.mark.parametrize("executable", ["", "/usr/sbin/uwsgi", "/no/such/python3"])
    def test_cannot_be_started(self, executable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """
        Where Python is built into another program, or cannot be run, that is said once, and not tried again.
        """
        helper, said = self.helper()
        monkeypatch.setattr(sys, "executable", executable)
        helper.start(str(tmp_path), "orders", None)

        assert [text.partition(":")[0] for text in said] == [
            "RFS-A102 no process can be started to lead in this one's place, which goes on"
        ]
        assert (helper.pid, helper.may_start) == (0, False)

    @pytest.mark.parametrize("script", ["exit 3", "exec sleep 600"])
    def test_says_nothing(self, script: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """
        One that ends before it has greeted, or does not greet at all, is ended, and none is tried again.
        """
        helper, said = self.helper()
        program = tmp_path / "python-like"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(program))
        if "sleep" in script:
            monkeypatch.setattr(_helper, "_GREETING_SECONDS", 0.0)
        helper.start(str(tmp_path), "orders", None)
        process = helper._process
        assert process is not None

        eventually(lambda: helper.hear() or said)

        assert said[0].startswith("RFS-A102")
        assert not helper.may_start
        assert process.returncode == (3 if "exit" in script else -signal.SIGKILL)

    def test_speaks_otherwise(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """
        One of another RFS than the worker's, which was upgraded meanwhile, does not begin.
        """
        helper, said = self.helper()
        monkeypatch.setattr(_helper, "PROTOCOL", 0)
        helper.start(str(tmp_path / "orders"), "orders", None)

        eventually(lambda: helper.hear() or said)

        assert not (tmp_path / "orders").exists()
        assert not helper.may_start

    def test_one_that_ended_may_be_followed(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """
        One that has done its work and then ended is followed by another, not before a minute.
        """
        helper, said = self.helper()
        helper.start(str(tmp_path / "orders"), "orders", None)
        eventually(lambda: helper.hear() or helper._has_greeted)
        psutil.Process(helper.pid).kill()
        eventually(lambda: helper.hear() or not helper.pid)

        assert not said
        assert not helper.may_start
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + 61)
        assert helper.may_start


class TestItsLife:
    def lead(self, path: Path, *, parent: int | None = None) -> tuple[Channel, Thread]:
        ours, theirs = map(Channel, socket.socketpair())
        setting = Setting(_helper.PROTOCOL, str(path), "orders", None, os.getppid() if parent is None else parent)
        thread = Thread(target=lead_for, args=(setting, theirs))
        thread.start()
        return ours, thread

    def test_ends_with_the_channel(self, tmp_path: Path) -> None:
        """
        It greets, tells once a second while it leads, and ends when the other end is closed.
        """
        ours, thread = self.lead(tmp_path)
        found: list[Told] = []

        def newest() -> Told | None:
            found.extend(map(_helper._decode_told, ours.receive()))
            return found[-1] if found else None

        eventually(newest)
        ours.send(Watched(3, [BUSY.to_dict()]))
        eventually(lambda: (told := newest()) and told.version)
        ours.close()
        thread.join(20)

        assert not thread.is_alive()
        assert found[0] == Told()
        assert found[-1] == Told(3, [Sample(None)], 0)

    def test_ends_with_its_parent(self, tmp_path: Path) -> None:
        """
        Also where somebody else, a child of the worker's, has the channel open.
        """
        ours, thread = self.lead(tmp_path, parent=1 << 22)
        thread.join(20)
        assert not thread.is_alive()
        ours.close()

    def test_ends_without_the_lead(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        One that does not lead for a minute, for another one does, is of no use.
        """
        server = Monitor(service_name="orders", directory=tmp_path)
        server.take_precedence()
        server.start()
        eventually(lambda: server.leadership.is_self)
        monkeypatch.setattr("rfs.monitoring._helping._USELESS_SECONDS", 0.2)
        ours, thread = self.lead(tmp_path)
        thread.join(20)
        assert not thread.is_alive()
        assert server.leadership.is_self
        server.stop()
        ours.close()


class TestFork:
    def test_the_child_has_none(self, tmp_path: Path) -> None:
        """
        A forked child of a worker with a helper has no helper, and the worker keeps its own.
        """
        monitor = Monitor(service_name="orders", directory=tmp_path)
        with ExitStack() as stack:
            stack.callback(monitor.stop)
            helper = monitor._helper
            assert helper is not None
            helper.start(str(tmp_path), "orders", None)
            eventually(lambda: helper.hear() or helper._has_greeted)
            pid = helper.pid

            assert in_fork(lambda: (monitor.helper_pid, helper._process)) == (0, None)
            assert helper.hear() is None
            assert helper.pid == pid
        assert not psutil.pid_exists(pid)


@pytest.mark.fault
class TestRealProcesses:
    def helped(self, stack: ExitStack, path: Path) -> tuple[Process, int]:
        worker = stack.enter_context(Process("helped", path, env=environment(RFS_HELPER="")))
        worker.tell(do="help")
        return worker, worker.answer()["pid"]

    def messages(self, path: Path) -> list[str]:
        """All that is there, read from outside."""
        monitor = Monitor(service_name="orders", directory=path)
        found = [record.message for record in monitor.query.records(limit=1_000) if record.message.startswith("order ")]
        assert monitor.query.totals().counters[SeriesKey("orders_total", ())] == len(found)
        monitor.stop()
        return sorted(found, key=lambda text: int(text.split()[1]))

    def test_leads_alerts_and_brings_home(self, tmp_path: Path) -> None:
        """
        The helper leads, the worker's callback is called, and when the worker stops, all is in the store and the helper gone.
        """
        with ExitStack() as stack:
            worker, pid = self.helped(stack, tmp_path)
            worker.tell(do="record", first=0, count=40)
            assert worker.answer() == {"told": "fire"}
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(pid, number)
            worker.tell(do="leadership")
            assert worker.answer()["leader"] == pid
            worker.tell(do="stop")
            assert worker.answer() == {"stopped": True}
            eventually(lambda: not psutil.pid_exists(pid))

            chunks = [path for path in (tmp_path / "store" / "chunks").iterdir() if path.suffix in {".open", ".chunk"}]
            assert sum(path.stat().st_size for path in chunks) > 500
        assert self.messages(tmp_path) == [f"order {number}" for number in range(40)]

    def test_is_as_urgent_as_its_worker(self, tmp_path: Path) -> None:
        """
        It has the worker's priority: with a lower one it starves where all cores are busy, and the lead goes to and fro.
        """
        with ExitStack() as stack:
            worker, pid = self.helped(stack, tmp_path)
            assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, worker.pid)

    def test_killed_while_it_leads(self, tmp_path: Path) -> None:
        """
        ``kill -9`` of the helper: the worker leads again at once, and nothing is lost or there twice.
        """
        with ExitStack() as stack:
            worker, pid = self.helped(stack, tmp_path)
            worker.tell(do="record", first=0, count=4)
            os.kill(pid, signal.SIGKILL)
            worker.tell(do="record", first=4, count=36)

            def leader() -> bool:
                worker.tell(do="leadership")
                said = worker.answer()
                return said.get("leader") == worker.pid and not said["helper"]

            assert worker.answer() == {"told": "fire"}
            eventually(leader)
        assert self.messages(tmp_path) == [f"order {number}" for number in range(40)]

    def test_its_worker_is_killed(self, tmp_path: Path) -> None:
        """
        ``kill -9`` of the worker: its helper brings home what it has left, gives the lead back, and ends.
        """
        with ExitStack() as stack:
            worker, pid = self.helped(stack, tmp_path)
            worker.tell(do="record", first=0, count=4)
            worker.tell(do="leadership")
            worker.answer()
            worker.kill()
            eventually(lambda: not psutil.pid_exists(pid))
            other = Monitor(service_name="orders", directory=tmp_path)
            other.beat()
            assert other.leadership.is_self
            other.stop()
        assert self.messages(tmp_path) == [f"order {number}" for number in range(4)]
