"""
Which call blocked the event loop.

A thread asks the loop for a sign of life, ten times per limit. While none comes, it looks at the stack of the loop's
thread again and again; when one comes, the silence is known, and so is what ran meanwhile. What that thread waited for a
core is taken off (Linux tells), because a busy machine is no call's fault. It works for every event loop, uvloop's too.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import NamedTuple, Self

from rfs.testing._messages import fail

__all__ = ["Blocked", "LoopWatch", "assert_loop_not_blocked"]

THREAD_NAME = "rfs-loop-watch"
_DEEPEST = 12  # frames that a message shows
_UNSEEN = "a call that let no other thread run"
_LIBRARY = str(Path(threading.__file__).parent)


class Blocked(NamedTuple):
    """One time that the loop did not turn."""

    seconds: float  # without those that its thread waited for a core
    where: str  # the innermost line outside of the standard library that was seen most often: ``file:line function``
    stack: str  # one of the stacks that were seen there, the outermost call first; empty if none could be


class LoopWatch:
    """
    Watches the running event loop of the thread that enters it. Enter and leave it inside of a coroutine, once.

    Args:
        at_most_seconds:
            A silence that is longer is kept in ``blocked``. It is measured from the last sign of life that was asked for, so
            up to a tenth of this may be missed of it.

    Costs the loop one short callback per look, and the process one thread.
    """

    def __init__(self, *, at_most_seconds: float = 0.1) -> None:
        self.at_most_seconds = at_most_seconds
        self.blocked: list[Blocked] = []
        self._stopped = threading.Event()
        self._thread: threading.Thread

    def __enter__(self) -> Self:
        loop, ident, native = asyncio.get_running_loop(), threading.get_ident(), threading.get_native_id()
        self._thread = threading.Thread(target=self._run, args=(loop, ident, native), name=THREAD_NAME, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self, loop: asyncio.AbstractEventLoop, ident: int, native: int) -> None:
        while not self._stopped.wait(self.at_most_seconds / 10):
            self._look(loop, ident, native)

    def _look(self, loop: asyncio.AbstractEventLoop, ident: int, native: int) -> None:
        alive, ended = threading.Event(), 0.0
        seen, stacks = Counter[str](), dict[str, str]()

        def answer() -> None:
            nonlocal ended
            ended = monotonic()
            alive.set()

        waited = _waited_seconds(native)
        try:
            loop.call_soon_threadsafe(answer)
        except RuntimeError:  # closed
            return
        began = monotonic()
        # Who leaves waits for this thread inside of the loop, which can give no sign then.
        while not alive.wait(self.at_most_seconds / 10) and not self._stopped.is_set():
            frame = sys._current_frames().get(ident)  # pyright: ignore[reportPrivateUsage] - documented, and the only way
            if frame is not None:
                where = _where(frame)
                seen[where] += 1
                if where not in stacks:
                    stacks[where] = "".join(traceback.format_stack(frame)[-_DEEPEST:])
            del frame  # and with it whatever its calls hold
        seconds = (ended or monotonic()) - began - (_waited_seconds(native) - waited)
        if seconds > self.at_most_seconds:
            where = seen.most_common(1)[0][0] if seen else _UNSEEN
            self.blocked.append(Blocked(seconds, where, stacks.get(where, "")))


def _waited_seconds(native: int) -> float:
    """How long the thread has waited for a core; 0 where the system does not tell."""
    try:
        return int(Path(f"/proc/self/task/{native}/schedstat").read_bytes().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def _where(frame: FrameType) -> str:
    """The innermost line of somebody's own code, else the innermost line."""
    at: FrameType | None = frame
    while at is not None:
        name = at.f_code.co_filename
        if not name.startswith((_LIBRARY, "<frozen")) or "-packages" in name:
            break
        at = at.f_back
    at = at or frame
    return f"{at.f_code.co_filename}:{at.f_lineno} {at.f_code.co_qualname}"


@contextmanager
def assert_loop_not_blocked(*, at_most_seconds: float = 0.1) -> Generator[LoopWatch]:
    """
    While this lasts, nothing keeps the running event loop from turning for longer.

    Raises:
        AssertionError: It did; the message names the call and shows its stack. Not if the block ends with an error of its own.
    """
    __tracebackhide__ = True
    with LoopWatch(at_most_seconds=at_most_seconds) as watch:
        yield watch
    if watch.blocked:
        longest = max(watch.blocked)
        times = f"{len(watch.blocked)} times, at most" if len(watch.blocked) > 1 else "for"
        fail(
            f"the event loop was blocked {times} {longest.seconds * 1e3:.0f} ms, allowed are {at_most_seconds * 1e3:g} ms, "
            f"by {longest.where}\n{longest.stack}".rstrip()
        )
