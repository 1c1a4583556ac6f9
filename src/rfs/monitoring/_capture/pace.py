"""
Pace: long work in pieces, between which other threads have the interpreter.

A thread that computes gives the interpreter up only after 5 ms, and whoever waits for it waits as long each time: an event loop
feels that once per turn. So whatever goes over all series or records pauses every millisecond.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from math import inf
from time import monotonic, sleep
from typing import TypeVar

_WORK_SECONDS = 0.001
_PAUSE_SECONDS = 1e-5  # any time at all hands the interpreter over; 0 would not

Item = TypeVar("Item")

_paused_at = 0.0  # by whichever thread: then all others had their chance


def breathe() -> None:
    """Let whoever waits for the interpreter have it, if nobody had the chance for a millisecond."""
    global _paused_at  # noqa: PLW0603 - two threads that meet here both pause, or one of them does: either is right
    if monotonic() - _paused_at > _WORK_SECONDS:
        sleep(_PAUSE_SECONDS)
        _paused_at = monotonic()


@contextmanager
def unpaced() -> Generator[None]:
    """Let nobody have it inside the block, in any thread: for a test that does days at once, and waits for nobody."""
    global _paused_at  # noqa: PLW0603 - see breathe
    _paused_at = inf
    try:
        yield
    finally:
        _paused_at = 0.0


def pieces(items: Iterable[Item], size: int = 50) -> Iterator[Sequence[Item]]:
    """*items*, *size* at a time, with a chance to `breathe` between. Nobody may change *items* meanwhile."""
    rest = iter(items)
    while piece := list(islice(rest, size)):
        yield piece
        breathe()
