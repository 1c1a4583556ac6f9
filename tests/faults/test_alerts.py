"""What the workers of a service say of its alerts, while the one that evaluates them fires, is stopped and is killed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.hosts import burst, look
from tests.faults.processes import Process, environment, eventually

pytestmark = pytest.mark.fault

UNKNOWN: dict[str, Any] = {
    "status": "unknown",
    "active_alerts": None,
    "critical_alerts": None,
    "monitoring_active": True,
}


def health(process: Process) -> dict[str, Any]:
    """What its page says above all else."""
    said: dict[str, Any] = process.ask(do="overview")["health"]
    return {name: value for name, value in said.items() if name != "timestamp"}


def follows(process: Process) -> None:
    """Let it evaluate the rules in the other one's place; it says what it finds itself, and nothing else before."""
    eventually(lambda: health(process) == UNKNOWN or look(process)["leads"], says=lambda: health(process))
    eventually(lambda: health(process)["active_alerts"] == 1, says=lambda: health(process))
    assert look(process)["leads"]


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[tuple[Process, Process]]:
    """Two with one rule: the one that evaluates it, and the other."""
    env = environment(RFS_DIR=str(tmp_path / "rfs"))
    with Process("host", "WITNESS", env=env) as first, Process("host", "WITNESS", env=env) as second:
        for process in (first, second):
            assert process.answer() == "ready"
            process.ask(do="alert", name="many", above=5, file=str(tmp_path / "told"))
        eventually(lambda: look(first)["leads"] != look(second)["leads"])
        yield (first, second) if look(first)["leads"] else (second, first)


class TestTwoWorkers:
    def test_say_the_same(self, workers: tuple[Process, Process]) -> None:
        """
        Whichever worker is asked: nothing is active, then an alert fires; its rule and value are the same.
        """
        leader, other = workers
        none = {"status": "healthy", "active_alerts": 0, "critical_alerts": 0, "monitoring_active": True}
        eventually(lambda: health(leader) == health(other) == none, says=lambda: (health(leader), health(other)))

        burst(other, 0, 10)

        eventually(lambda: health(leader)["active_alerts"] == health(other)["active_alerts"] == 1)
        shown = [process.ask(do="overview")["alerts"] for process in workers]
        assert [(alert["rule_name"], alert["current_value"]) for (alert,) in shown] == [("many", 10)] * 2
        for (alert,) in shown:
            del alert["timestamp"], alert["started_at"]  # of another evaluation, perhaps; reckoned anew by each
        assert shown[0] == shown[1]
        assert look(leader)["leads"]

    def test_do_not_know_while_nobody_evaluates(self, workers: tuple[Process, Process]) -> None:
        """
        Who evaluates the rules is stopped: what it has told is unknown, until the other one evaluates them. When it comes back it
        says what that one says.
        """
        leader, other = workers
        burst(other, 0, 10)
        eventually(lambda: health(other)["active_alerts"] == 1)

        leader.send(signal.SIGSTOP)
        follows(other)
        leader.send(signal.SIGCONT)

        eventually(lambda: not look(leader)["leads"])
        eventually(lambda: health(leader)["active_alerts"] == 1)
        assert look(other)["leads"]

    def test_do_not_believe_the_dead(self, workers: tuple[Process, Process]) -> None:
        """
        After ``kill -9`` of who evaluates them, the other one does not know at once, and soon evaluates them itself.
        """
        leader, other = workers
        burst(other, 0, 10)
        eventually(lambda: health(other)["active_alerts"] == 1)

        leader.kill()

        now = health(other)  # before it looks who lives, or after it has followed
        assert now == UNKNOWN or look(other)["leads"]
        follows(other)
