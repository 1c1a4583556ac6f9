"""What holds for all tests of chains: they leave no task behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest


@pytest.fixture(autouse=True)
async def no_task_left() -> AsyncIterator[None]:
    """A test ends with nothing at work in its event loop."""
    yield
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"left behind: {left}"
