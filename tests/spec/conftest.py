"""
What the documents' examples need around them: a monitor of their own, and a way to wait for a callback.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rfs.monitoring.monitor import Monitor, use_monitor

DEADLINE_SECONDS = 10.0


@pytest.fixture(autouse=True)
def monitor() -> Iterator[Monitor]:
    """A monitor that this test alone writes to; its module functions act on it."""
    monitor = Monitor(service_name="spec")
    with use_monitor(monitor):
        yield monitor
    monitor.stop()


class Calls(list[Any]):
    """Collects what a callback on another thread was given."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()

    def __call__(self, value: object) -> None:
        """Keep *value* and wake whoever waits."""
        with self._changed:
            self.append(value)
            self._changed.notify_all()

    def wait_for(self, count: int = 1) -> None:
        """Return when *count* calls have arrived; fail after a generous deadline."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self) >= count, DEADLINE_SECONDS), f"{len(self)} of {count} calls"


@pytest.fixture
def calls() -> Calls:
    """An empty list of calls."""
    return Calls()


@pytest.fixture
def json_lines(monitor: Monitor, capsys: pytest.CaptureFixture[str]) -> Callable[[], list[dict[str, Any]]]:
    """Returns what the logging wrote to stdout, parsed; the monitor is stopped first, which prints what is pending."""

    def read() -> list[dict[str, Any]]:
        monitor.stop()
        return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]

    return read
