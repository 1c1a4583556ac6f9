"""Coroutines in virtual time, which leave no task behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

from rfs.testing.virtual_time import VirtualTime

T = TypeVar("T")
Virtual = Callable[[Coroutine[Any, Any, Any]], Any]


async def watched(work: Coroutine[Any, Any, T]) -> T:
    """Await *work*, and see that it leaves no task behind."""
    try:
        return await work
    finally:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"left behind: {left}"


@pytest.fixture(scope="session")
def virtual() -> Virtual:
    """Run a coroutine in a virtual time of its own, and see that it leaves no task behind."""

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        return VirtualTime().run(watched(work))

    return run
