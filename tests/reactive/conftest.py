"""What holds for all tests of chains: they leave no task behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection

import pytest


@pytest.fixture(autouse=True)
async def no_task_left() -> AsyncIterator[None]:
    """A test ends with nothing at work in its event loop."""
    yield
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"left behind: {left}"


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
