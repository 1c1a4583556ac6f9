"""
Faults for code under test: calls that are late, fail or never happen; a disk that is full; a fork.

Each tells how often it fired, because a fault that was never injected leaves every test green. Stand-ins for whole services
have faults of their own (`rfs.testing.result_helpers`), and the clock jumps in `rfs.testing.virtual_time`.
"""

from __future__ import annotations

import asyncio
import builtins
import errno
import io
import os
import pickle
import re
import selectors
import signal
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from functools import wraps
from inspect import iscoroutinefunction
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast
from unittest import mock

from rfs.testing._messages import fail

__all__ = ["Fired", "Injector", "full_disk", "in_fork"]

P = ParamSpec("P")
T = TypeVar("T")


class Fired:
    """How often a fault happened."""

    def __init__(self) -> None:
        self.fired = 0


class Injector(Fired):
    """
    Makes faulty functions of good ones, plain or async: ``client.send = Injector(error=TimeoutError())(client.send)``.

    Args:
        latency_seconds: How long a faulty call waits first.
        error: What it then raises, or returns if it is no exception (a Failure); without it the call goes through.
        drop: The function is not called, and ``None`` is returned, as of a message that is lost.
        share: Of the calls, how many are faulty: 0 to 1.
        seed: Which ones; the same seed, the same calls.

    Raises:
        ValueError: *share* is no share, or both *error* and *drop* are given.
    """

    def __init__(
        self,
        *,
        latency_seconds: float = 0.0,
        error: object = None,
        drop: bool = False,
        share: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= share <= 1:
            raise ValueError(f"faults: share must be 0 to 1, not {share}")
        if drop and error is not None:
            raise ValueError("faults: a call that is dropped has no error; give error or drop")
        self._latency_seconds = latency_seconds
        self._error: Any = error
        kind = error if isinstance(error, type) else type(error)
        self._raises = issubclass(kind, BaseException)
        self._answers = drop or error is not None
        self._share = share
        self._chance = Random(seed)  # noqa: S311 - guards nothing

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """Return *function* with this fault."""
        real: Callable[..., Any] = function
        if iscoroutinefunction(real):

            @wraps(real)
            async def afaulty(*args: Any, **kwargs: Any) -> Any:
                if not self._fires():
                    return await real(*args, **kwargs)
                await asyncio.sleep(self._latency_seconds)
                return self._answer() if self._answers else await real(*args, **kwargs)

            return cast("Callable[P, T]", afaulty)

        @wraps(real)
        def faulty(*args: Any, **kwargs: Any) -> Any:
            if not self._fires():
                return real(*args, **kwargs)
            if self._latency_seconds:
                time.sleep(self._latency_seconds)
            return self._answer() if self._answers else real(*args, **kwargs)

        return cast("Callable[P, T]", faulty)

    def _fires(self) -> bool:
        fires = self._chance.random() < self._share
        self.fired += fires
        return fires

    def _answer(self) -> Any:
        if self._raises:
            raise self._error
        return self._error


_MAKES = re.compile(r"^[rbt+]*[wax+][bt+]*$")  # a mode that writes; encodings are no modes


@contextmanager
def full_disk(directory: Path | str) -> Generator[Fired]:
    """
    Below *directory* nothing takes space any more: it fails with ``ENOSPC``. For this process, all of its threads.

    That is: opening a file for writing (``open``, ``os.open`` that creates), ``os.mkdir``, and of files that are open
    ``os.write``, ``os.pwrite`` and ``os.posix_fallocate``. What C code writes for itself (SQLite, a buffered file that was
    open before) is not reached, nor a module that has taken such a function by name. Linux only.
    """
    place, fired = os.path.realpath(directory), Fired()

    def opened(fd: int) -> Path:
        return Path(f"/proc/self/fd/{fd}").readlink()

    def is_below(path: Any, dir_fd: int | None) -> bool:
        if isinstance(path, int):
            path = opened(path)
            if not path.is_absolute():  # a pipe, a socket
                return False
        elif dir_fd is not None:
            path = opened(dir_fd) / os.fsdecode(path)
        found = os.path.realpath(os.fsdecode(path))
        return found == place or found.startswith(place + os.sep)

    def full(real: Callable[..., Any], takes_space: Callable[[Any], bool] | None = None) -> Callable[..., Any]:
        @wraps(real)
        def call(*args: Any, **kwargs: Any) -> Any:
            path, *options = [*args, *kwargs.values()]
            if (takes_space is None or takes_space(options)) and is_below(path, kwargs.get("dir_fd")):
                fired.fired += 1
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            return real(*args, **kwargs)

        return call

    def writes(options: list[Any]) -> bool:
        return any(isinstance(each, str) and _MAKES.search(each) is not None for each in options)

    def creates(options: list[Any]) -> bool:
        return bool(options[0] & os.O_CREAT)

    with ExitStack() as stack:
        for owner, name, call in (
            (builtins, "open", full(builtins.open, writes)),
            (io, "open", full(builtins.open, writes)),
            (os, "open", full(os.open, creates)),
            *((os, name, full(getattr(os, name))) for name in ("mkdir", "write", "pwrite", "posix_fallocate")),
        ):
            stack.enter_context(mock.patch.object(owner, name, call))
        yield fired


class _Raised(NamedTuple):
    """What a child says in the place of an answer."""

    text: str


def in_fork(function: Callable[[], T], *, at_most_seconds: float = 30.0) -> T:
    """
    Call *function* in a forked child and return what it returns, which can be pickled.

    The child ends at once afterwards, without the parent's exit handlers; one that takes longer than *at_most_seconds*
    hangs, as children do that need a lock which a thread of the parent held, and is killed.

    Raises:
        AssertionError: It raised, hung, or died; the message says which, and shows its traceback.
    """
    __tracebackhide__ = True
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        _answer(function, write)
    os.close(write)
    said, hung, until = b"", False, time.monotonic() + at_most_seconds
    with selectors.DefaultSelector() as ready, os.fdopen(read, "rb", 0) as answers:
        ready.register(answers, selectors.EVENT_READ)
        while not hung:
            if not ready.select(max(0.0, until - time.monotonic())):
                hung = True
                os.kill(child, signal.SIGKILL)
            elif part := answers.read(1 << 16):
                said += part
            else:
                break
    _, status = os.waitpid(child, 0)
    if hung:
        fail(f"the child hung: it had not answered after {at_most_seconds:g} s")
    if not said:
        fail(f"the child died without an answer, with status {os.waitstatus_to_exitcode(status)}")
    answer: Any = pickle.loads(said)  # noqa: S301 - from our own child
    if isinstance(answer, _Raised):
        fail(f"the child raised:\n{answer.text}")
    return cast("T", answer)


def _answer(
    function: Callable[[], object], write: int
) -> None:  # pragma: no cover - the child's, which measures nothing
    try:
        try:
            said = pickle.dumps(function())
        except BaseException:  # noqa: BLE001 - whatever it was, the parent tells
            said = pickle.dumps(_Raised(traceback.format_exc()))
        with os.fdopen(write, "wb") as answers:
            answers.write(said)
    finally:
        os._exit(0)
