"""What keeps the event loop from turning is named, whichever loop it is; what only waits is not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from rfs.testing.blocking import LoopWatch, assert_loop_not_blocked

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


def cook_in_the_loop() -> None:
    time.sleep(0.5)  # the fault


def run(
    work: Coroutine[Any, Any, None], loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(work)


class TestBlocked:
    @pytest.mark.parametrize("loop", LOOPS)
    def test_message(self, loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        """
        A call that sleeps in the loop is named with its line and its stack, and for how long it was.
        """

        async def work() -> None:
            with assert_loop_not_blocked(at_most_seconds=0.1):
                await asyncio.sleep(0)
                cook_in_the_loop()
                await asyncio.sleep(0)

        with pytest.raises(AssertionError) as caught:
            run(work(), loop)

        first, *stack = str(caught.value).splitlines()
        assert first.startswith("the event loop was blocked for ")
        assert f" ms, allowed are 100 ms, by {__file__}:" in first
        assert first.endswith(" cook_in_the_loop")
        assert stack[-2].lstrip().startswith(f'File "{__file__}"')
        assert "time.sleep(0.5)  # the fault" in stack[-1]

    def test_each_time(self) -> None:
        """
        Each time is kept, and the longest is told; the block goes on meanwhile.
        """

        async def work() -> None:
            with LoopWatch(at_most_seconds=0.1) as watch:
                for _ in range(2):
                    cook_in_the_loop()
                    await asyncio.sleep(0.05)
            # What it waited for a core does not count, so on a busy machine it may be less than it slept.
            assert 1 <= len(watch.blocked) <= 2
            assert all(each.seconds > 0.1 for each in watch.blocked)
            assert {each.where.rpartition(" ")[2] for each in watch.blocked} == {"cook_in_the_loop"}

        run(work())

    def test_at_the_very_end(self) -> None:
        """
        It is noticed also if the block ends before the loop turns again.
        """

        async def work() -> None:
            with assert_loop_not_blocked(at_most_seconds=0.1):
                await asyncio.sleep(0)
                cook_in_the_loop()

        with pytest.raises(AssertionError, match="cook_in_the_loop"):
            run(work())

    def test_own_error_passes(self) -> None:
        """
        A block that fails by itself says why it did.
        """

        async def work() -> None:
            with assert_loop_not_blocked(at_most_seconds=0.1):
                cook_in_the_loop()
                raise LookupError("no rice")

        with pytest.raises(LookupError, match="no rice"):
            run(work())


class TestNotBlocked:
    @pytest.mark.parametrize("loop", LOOPS)
    def test_waiting_and_working(self, loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        """
        A loop that waits, or does a lot in small steps, is not blocked, and neither is one whose threads sleep.
        """

        async def work() -> None:
            with assert_loop_not_blocked(at_most_seconds=1.0):
                await asyncio.sleep(0.05)
                await asyncio.to_thread(cook_in_the_loop)
                for _ in range(1_000):
                    sum(range(1_000))
                    await asyncio.sleep(0)

        run(work(), loop)
