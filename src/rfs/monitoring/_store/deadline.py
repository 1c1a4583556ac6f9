"""
The time that a question may take.

Nobody can stop a thread that reads, so it looks at the clock itself: `Query` sets the deadline of the thread that asks, and whatever
takes long on its behalf calls `check_deadline` now and then. What was recorded lately is collected without a deadline, since
records that were taken from their place must come into the store.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from threading import local
from time import monotonic

from rfs.errors import QueryTimeoutError


class _Running(local):
    until: float | None = None
    seconds = 0.0


_running = _Running()


class deadline:  # noqa: N801 - a `with` block that each alert rule is in each second: a generator takes three times as long
    """Let what this thread does inside the block take *seconds*."""

    __slots__ = ("_before", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        self._before = _running.until, _running.seconds
        _running.until, _running.seconds = monotonic() + self._seconds, self._seconds

    def __exit__(self, *_: object) -> None:
        _running.until, _running.seconds = self._before


@contextmanager
def no_deadline() -> Generator[None]:
    """Inside the block there is none; afterwards as much time is left as there was."""
    until, began = _running.until, monotonic()
    _running.until = None
    try:
        yield
    finally:
        if until is not None:
            _running.until = until + monotonic() - began


def check_deadline() -> None:
    """
    Do nothing, where the question that this thread answers has time left or there is none.

    Raises:
        QueryTimeoutError: Its time is over.
    """
    if _running.until is not None and monotonic() >= _running.until:
        raise QueryTimeoutError(_running.seconds)
