"""A loop whose time is virtual, and an observer that remembers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterator
from typing import Any

import pytest

from rfs.reactive import StepEvent, set_step_observer


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """When nothing is left to do now, time jumps to what comes next: no test waits."""

    # What the stubs do not show of asyncio.BaseEventLoop.
    _ready: Collection[asyncio.Handle]
    _scheduled: Collection[asyncio.TimerHandle]

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        if not self._ready:
            self._now = max(self._now, min((h.when() for h in self._scheduled if not h.cancelled()), default=0.0))
        super()._run_once()  # type: ignore[misc]


async def _watched(work: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await work
    finally:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"left behind: {left}"


@pytest.fixture(scope="session")
def virtual() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Run a coroutine from virtual second 0, and see that it leaves no task behind."""

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            return runner.run(_watched(work))

    return run


class Observed:
    """What a chain told, and what could not be told."""

    def __init__(self) -> None:
        self.events: list[StepEvent] = []
        self.internal_errors: Counter[str] = Counter()

    def step(self, event: StepEvent) -> None:
        self.events.append(event)

    def internal_error(self, where: str, error: BaseException) -> None:
        self.internal_errors[where] += 1

    def told(self) -> list[tuple[str, str]]:
        return [(event.step, event.outcome) for event in self.events]


@pytest.fixture
def observed() -> Iterator[Observed]:
    """Stand in for the recorder; its clock is the running loop's."""
    seen = Observed()
    previous = set_step_observer(seen, monotonic_clock=lambda: asyncio.get_running_loop().time())
    yield seen
    set_step_observer(previous)
