"""What keeps the event loop from turning is named, whichever loop it is; what only waits is not."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from rfs.testing import blocking
from rfs.testing.blocking import LoopWatch, assert_loop_not_blocked

LIBRARY = Path(threading.__file__).parent
LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


def cook_in_the_loop() -> None:
    time.sleep(0.5)  # the fault


def in_a_library() -> None:
    threading.Event().wait(0.25)  # the fault


def deep(calls: int) -> None:
    if calls:
        deeper(calls)
    else:
        in_a_library()


def deeper(calls: int) -> None:
    deep(calls - 1)


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

    def test_each_time_is_said(self) -> None:
        """
        Of several times the message tells how many there were, and the longest.
        """

        async def work() -> None:
            with assert_loop_not_blocked(at_most_seconds=0.0625) as watch:
                for call in (cook_in_the_loop, in_a_library, in_a_library):
                    call()
                    await asyncio.sleep(0.05)
                watched.append(watch)

        watched: list[LoopWatch] = []
        with pytest.raises(AssertionError) as caught:
            run(work())

        (watch,) = watched
        longest = max(watch.blocked)
        first = str(caught.value).splitlines()[0]
        assert first == (
            f"the event loop was blocked {len(watch.blocked)} times, at most {longest.seconds * 1e3:.0f} ms, "
            f"allowed are 62.5 ms, by {longest.where}"
        )
        assert longest.where.endswith(" cook_in_the_loop")
        assert str(caught.value) == f"{first}\n{longest.stack}".rstrip()

    def test_by_a_library_is_the_fault_of_who_called_it(self) -> None:
        """
        What is named is the innermost line of somebody's own, below those of the standard library.
        """

        async def work() -> None:
            with LoopWatch(at_most_seconds=0.05) as watch:
                await asyncio.sleep(0)
                deep(6)
                await asyncio.sleep(0)
            (found,) = watch.blocked

            lines = found.stack.splitlines()
            line = in_a_library.__code__.co_firstlineno + 1
            assert found.where == f"{__file__}:{line} in_a_library"
            assert "signaled = self._cond.wait(timeout)" in found.stack
            assert sum(each.startswith("  File ") for each in lines) == 12
            assert lines[-2].startswith(f'  File "{threading.__file__}", line ')
            assert 0.05 < found.seconds < 5

        run(work())

    @pytest.mark.parametrize(
        ("path", "is_named"),
        [
            (f"{LIBRARY}/site-packages/slow.py", True),
            (f"{LIBRARY}/dist-packages/slow.py", True),
            (f"{LIBRARY}/slow.py", False),
            ("<frozen slow>", False),
            ("/srv/slow.py", True),
        ],
    )
    def test_by_what_was_installed_is_the_fault_of_that(self, path: str, is_named: bool) -> None:
        """
        Packages that were installed are somebody's own, wherever they are; the standard library, frozen or not, is not.
        """
        names: dict[str, Any] = {}
        exec(compile("import threading\ndef wait():\n    threading.Event().wait(0.2)", path, "exec"), names)

        async def work() -> None:
            with LoopWatch(at_most_seconds=0.05) as watch:
                await asyncio.sleep(0)
                names["wait"]()
                await asyncio.sleep(0)
            where = watch.blocked[0].where
            assert where == f"{path}:3 wait" if is_named else where.startswith(f"{__file__}:")

        run(work())

    def test_by_what_was_seen_most_often(self) -> None:
        """
        Of a time in which several calls ran, the one that ran longest is named, with its own stack.
        """

        def briefly() -> None:
            time.sleep(0.06)

        async def work() -> None:
            with LoopWatch(at_most_seconds=0.1) as watch:
                await asyncio.sleep(0)
                briefly()
                cook_in_the_loop()
                briefly()
                await asyncio.sleep(0)
            found = max(watch.blocked)
            assert found.where.endswith(" cook_in_the_loop")
            assert found.stack.endswith("in cook_in_the_loop\n    time.sleep(0.5)  # the fault\n")

        run(work())

    def test_by_what_nobody_could_look_at(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Where no stack could be seen that is told, without one.
        """

        class Blind(LoopWatch):
            def _look(self, loop: asyncio.AbstractEventLoop, ident: int, native: int) -> None:
                super()._look(loop, 0, native)

        monkeypatch.setattr(blocking, "LoopWatch", Blind)
        watches: list[LoopWatch] = []

        async def work() -> None:
            with assert_loop_not_blocked() as watch:
                watches.append(watch)
                await asyncio.sleep(0)
                cook_in_the_loop()

        with pytest.raises(AssertionError, match=r"by a call that let no other thread run$"):
            run(work())

        assert [(each.where, each.stack) for each in watches[0].blocked] == [
            ("a call that let no other thread run", "")
        ]

    def test_what_was_waited_for_a_core_does_not_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Here the loop's thread waits for a core half of the time, so a call blocks the loop for half as long as it takes.
        """
        began, asked = time.monotonic(), set[int]()

        def waited(native: int) -> float:
            asked.add(native)
            return 1000 + (time.monotonic() - began) / 2

        monkeypatch.setattr(blocking, "_waited_seconds", waited)

        async def work() -> None:
            with LoopWatch(at_most_seconds=0.1) as watch:
                await asyncio.sleep(0)
                since = time.monotonic()
                cook_in_the_loop()
                took = time.monotonic() - since
                await asyncio.sleep(0)
            found = max(watch.blocked)
            assert 0.3 * took < found.seconds < 0.7 * took

        run(work())

        assert asked == {threading.get_native_id()}

    def test_what_a_thread_waited_is_asked_of_the_system(self) -> None:
        """
        To the nanosecond; of a thread that there is not, nothing is known.
        """
        native = threading.get_native_id()

        def waited_ns() -> int:
            return int(Path(f"/proc/self/task/{native}/schedstat").read_text().split()[1])

        before, found, after = waited_ns(), blocking._waited_seconds(native), waited_ns()

        assert before <= round(found * 1e9) <= after
        assert blocking._waited_seconds(0) == 0

    def test_by_a_library_alone_is_told_with_its_own_line(self) -> None:
        """
        Where nobody's code is on the stack the innermost line is named.
        """
        watches: list[LoopWatch] = []

        async def work() -> None:
            with LoopWatch(at_most_seconds=0.05) as watch:
                watches.append(watch)
                asyncio.get_running_loop().call_later(0.02, threading.Event().wait, 0.3)
                await asyncio.sleep(0.1)

        thread = threading.Thread(target=asyncio.run, args=(work(),))
        thread.start()
        thread.join()

        assert [each.where.partition(":")[0] for each in watches[0].blocked] == [threading.__file__]
        assert watches[0].blocked[0].where.endswith(" Condition.wait")

    def test_from_a_tenth_of_a_second_on(self) -> None:
        """
        Without a limit that is what is allowed, for the watch and the assertion alike.
        """

        async def work() -> None:
            with assert_loop_not_blocked() as watch:
                assert watch.at_most_seconds == LoopWatch().at_most_seconds == 0.1
                (thread,) = [each for each in threading.enumerate() if each.name == "rfs-loop-watch"]
                assert thread.daemon
                cook_in_the_loop()
            assert not thread.is_alive()

        with pytest.raises(AssertionError, match=r" ms, allowed are 100 ms, by "):
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
