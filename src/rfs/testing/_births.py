"""
Where Failures are made.

A Failure is two words of memory and does not know its place of birth. While
somebody asks for it, each new one of the process is noted here with its place:
the innermost line outside of RFS, and the step of the chain that ran it.
Otherwise making a Failure costs what it always costs.

No Failure is kept alive by its entry. The newest `KEPT` births are remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from inspect import currentframe
from pathlib import Path
from threading import Lock
from types import CodeType, FrameType
from typing import Any, NamedTuple

from rfs.core import result
from rfs.core.result import Failure
from rfs.reactive import _chain

__all__ = ["KEPT", "Birth", "birth_of", "path", "place", "remembered"]

KEPT = 10_000


class Birth(NamedTuple):
    """Where a Failure was made."""

    origin: str  # ``file:line in function``, "" where a task of RFS made it
    step: str  # of the chain that ran it, "" outside of chains
    chain: str  # its name, "" if it has none
    by_way_of: tuple[str, ...]  # the functions given to ``map_error`` since, in order


# By `id`. An address that is used again gets a new entry, because every Failure comes by here. Single steps of CPython, so that no
# lock is needed: a finalizer may make a Failure in the midst of one.
_births: dict[int, Birth] = {}
_asked_for = 0

on_birth: Callable[[Failure[Any], Birth | None], None] | None = None
"""Told of each Failure that is noted, and where it was made; belongs to `rfs.testing._unhandled`."""
_lock = Lock()

_core: Any = result
_set_error: Callable[[Failure[Any], object], None] = _core._set_error
_MACHINERY = ("rfs.core.", "rfs.reactive.", "rfs.testing.")
_EXECUTE: CodeType = _chain.execute.__code__
_MAP_ERROR: CodeType = vars(Failure)["map_error"].__code__


@contextmanager
def remembered() -> Generator[None]:
    """
    Note where each Failure is made, in all threads, until the block is left.

    Blocks may nest and overlap; with the last one, all is forgotten.
    """
    global _asked_for  # noqa: PLW0603 - there is one class Failure in a process
    with _lock:
        _asked_for += 1
        _core._set_error = _noted
    try:
        yield
    finally:
        with _lock:
            _asked_for -= 1
            if _asked_for == 0:
                _core._set_error = _set_error
                _births.clear()


def birth_of(failure: Failure[Any]) -> Birth | None:
    """Return where *failure* was made; ``None`` if nobody asked for it then, or too many were made since."""
    return _births.get(id(failure))


def place(code: CodeType, line: int) -> str:
    """Return ``file:line in function``."""
    return f"{path(code.co_filename)}:{line} in {code.co_qualname}"


def path(filename: str) -> str:
    """Return *filename* as one reads it best: relative to the working directory if it lies below it."""
    with suppress(OSError, ValueError):  # the directory is gone; the file lies elsewhere
        return str(Path(filename).relative_to(Path.cwd()))
    return filename


def _noted(failure: Failure[Any], error: object) -> None:
    _set_error(failure, error)
    birth = _born_at(currentframe())
    note(failure, birth)
    told = on_birth
    if told is not None:
        told(failure, birth)


def note(failure: Failure[Any], birth: Birth | None) -> None:
    """Remember that *failure* was made there."""
    number = id(failure)
    _births.pop(number, None)  # the newest are last
    if birth is not None:
        _births[number] = birth
    if len(_births) > KEPT:
        with suppress(RuntimeError, KeyError):  # another thread has just noted one, and drops the oldest itself
            del _births[next(iter(_births))]


def _born_at(frame: FrameType | None) -> Birth | None:
    """Read a birth off the stack; ``None`` where it tells nothing."""
    origin = step = chain = ""
    by_way_of: tuple[str, ...] = ()
    while frame is not None and not (origin and step):
        code = frame.f_code
        if code is _MAP_ERROR and not origin:
            by_way_of = (_defined(frame.f_locals["f"]), *by_way_of)
            before = birth_of(frame.f_locals["self"])
            if before is not None:
                return before._replace(by_way_of=(*before.by_way_of, *by_way_of))
        elif code is _EXECUTE:
            if not step:
                step = _chain.name_of(frame.f_locals["kind"], frame.f_locals["call"])
                run = frame.f_locals["run"]
                chain = run.chain if run is not None else ""
        else:
            module = str(frame.f_globals.get("__name__"))
            if module.startswith("asyncio."):
                break  # below are those who run the loop, and not those who started the task
            if not origin and not module.startswith(_MACHINERY):
                origin = place(code, frame.f_lineno)
        frame = frame.f_back
    return Birth(origin, step, chain, by_way_of) if origin or step else None


def _defined(function: object) -> str:
    code = getattr(function, "__code__", None)
    return place(code, code.co_firstlineno) if isinstance(code, CodeType) else repr(function)
