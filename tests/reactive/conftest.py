"""What the tests of chains share: they leave no task behind, and may stand in for who records their steps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from unittest.mock import Mock, create_autospec

import pytest

from rfs.reactive import StepEvent, StepObserver, set_step_observer
from rfs.testing.virtual_time import VirtualTime


@pytest.fixture(autouse=True)
async def no_task_left() -> AsyncIterator[None]:
    """A test ends with nothing at work in its event loop."""
    yield
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"left behind: {left}"


@pytest.fixture
def observer(virtual_time: VirtualTime) -> Iterator[Mock]:
    """In the recorder's place: for what an event says and a record, which `telemetry` shows, does not."""
    made = create_autospec(StepObserver, instance=True)
    previous = set_step_observer(made, monotonic_clock=virtual_time.monotonic, utc_clock_ns=virtual_time.time_ns)
    yield made
    set_step_observer(previous)


def told(observer: Mock) -> list[StepEvent]:
    """All events that it was told."""
    return [call.args[0] for call in observer.step.call_args_list]
