"""
Finds the Failures that nobody looked at.

`rfs.core.result` knows nothing of this and pays nothing for it. While a `Watch` lasts, each Failure gets, when its birth is
noted, a class that stands in for its own: ``isinstance``, ``match`` and every attribute ask it first, and the first question
of somebody who looks gives it its own class back. One that dies still in that class was looked at by nobody. It holds no
Failure, so that it keeps nothing alive that the program has let go of.

Who looks is told by the frame that asks. What `log_result_operation` and logged steps read to record it, and what chains ask
to go on past their steps, is not looking; taking up, mapping the error, comparing, counting and matching are. A Failure that
a chain drops because it was told to (a retry, a race, a time limit) was taken care of by that. One that is still held at the
end, by a cache or a module's constant, was handed on.

What differs meanwhile: ``type(failure) is Failure`` is false until somebody has looked. Failures of a class derived from
Failure are not watched.
"""

# pyright: reportPrivateUsage=false, reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# - this is about the insides of a Failure, and asks for them past all types.

from __future__ import annotations

import gc
import sys
from contextlib import ExitStack
from textwrap import indent
from types import FrameType
from typing import Any, Final, NamedTuple, Self, cast

from rfs.core import result as core
from rfs.core.result import Failure
from rfs.testing import _births
from rfs.testing._births import Birth
from rfs.testing._messages import describe

_PASSES_ON: Final = frozenset({"map", "bind", "flat_map", "filter"})  # the Failure itself is what these give
_RECORDERS: Final = (
    "rfs.monitoring.result_logging",
    "rfs.monitoring.monitor",
    "rfs.monitoring.masking",
    "asyncio.base_futures",  # shows a task with its result; `asyncio.run` has its own shown, by `signal.signal`, to nobody
)
_CHAIN: Final = "rfs.reactive._chain"

_Defect: Any = core._Defect
_set_class: Any = object.__dict__["__class__"].__set__
_get: Any = object.__getattribute__


class Unhandled(NamedTuple):
    """A Failure that nobody looked at, or one like it, and where it was made."""

    failure: Failure[Any]
    birth: Birth | None  # unknown where none of the code that ran is the program's own


class _Watched(NamedTuple):
    birth: Birth | None
    watch: Watch


# By `id`: an entry goes when its Failure has been looked at, or dies; in the second, when another one has its address, or nobody
# watches any more. Single steps of CPython, so that no lock is needed, and a finalizer in the midst of one finds no lock held.
_unseen: dict[int, _Watched] = {}
_went_through_a_chain: set[int] = set()
_watches: list[Watch] = []


def _module(frame: FrameType | None) -> str:
    """The module whose code runs in *frame*; where C's code has called there is none."""
    return "" if frame is None else str(frame.f_globals.get("__name__"))


def _made(failure: Any, birth: Birth | None) -> None:
    kind: type = type(failure)
    watches = _watches[-1:]  # none, if the last has just ended while another thread was on its way here
    if watches and (kind is Failure or kind is _Defect):
        _went_through_a_chain.discard(id(failure))  # one that was looked at, and had this address
        _unseen[id(failure)] = _Watched(birth, watches[0])
        _set_class(failure, _Unseen if kind is Failure else _UnseenDefect)


def _looks(frame: FrameType | None, failure: object, name: str = "") -> bool:
    """Whether the code of *frame*, which asks *failure* for *name*, or compares, hashes or shows it, looks at it."""
    if name in _PASSES_ON:
        return False
    while frame is not None and _module(frame) == "rfs.core.result":
        if frame.f_code.co_name == "sequence":
            return False
        frame = frame.f_back
    if frame is not None and _module(frame) == _CHAIN:
        _went_through_a_chain.add(id(failure))
        return name != "__class__" and frame.f_code.co_name not in {"tell", "chosen"}
    while frame is not None and (_module(frame).startswith("rfs.reactive.") or _module(frame) == "reprlib"):
        frame = frame.f_back
    return _module(frame) not in _RECORDERS


def _is_let_go_as_told(number: int, frame: FrameType | None) -> bool:
    """Whether RFS lets go of it in *frame*, as it was told to: what a chain went past, or what a stream that was left had ready."""
    if _module(frame) == "contextlib":  # the stream is being closed
        return _module(frame and frame.f_back).startswith("rfs.reactive.")
    # What has not been through the chain is a variable of one of its steps.
    return number in _went_through_a_chain and _module(frame).startswith("rfs.reactive.")


class _Unseen(core._Result[Any, Any]):
    """Stands in for `Failure` until somebody looks."""

    __slots__ = ("error",)

    _stands_for: Any = Failure

    def __getattribute__(self, name: str) -> Any:
        number, stands_for = id(self), _own_class(self)
        if number in _unseen and _looks(sys._getframe().f_back, self, name):
            _unseen.pop(number, None)
        if name == "__class__":
            return stands_for  # and no other class yet: `isinstance` compares the answer with what it saw before
        if number not in _unseen:
            _set_class(self, stands_for)
            return getattr(self, name)
        if name == "error":
            return _get(self, name)
        found = getattr(stands_for, name)
        return found.__get__(self) if hasattr(found, "__get__") else found

    def __eq__(self, other: object) -> bool:
        return bool(_own(self) == other)

    def __hash__(self) -> int:
        return hash(_own(self))

    def __str__(self) -> str:
        return str(_own(self))

    def __repr__(self) -> str:
        return repr(_own(self))

    def __del__(self) -> None:
        number = id(self)
        watched = _unseen.pop(number, None)
        if watched is not None and not _is_let_go_as_told(number, sys._getframe().f_back):
            watched.watch.found.append(Unhandled(_copy(self), watched.birth))


class _UnseenDefect(_Unseen):
    """Stands in for a defect."""

    __slots__ = ()

    _stands_for: Any = _Defect


def _own_class(unseen: object) -> Any:
    """The class that it has once somebody has looked, which another thread may be doing."""
    kind = type(unseen)
    return getattr(kind, "_stands_for", kind)


def _own(unseen: Any) -> Failure[Any]:
    """The Failure of its own class, looked at by who has called the method that calls this."""
    if id(unseen) in _unseen and _looks(sys._getframe(1).f_back, unseen):
        _unseen.pop(id(unseen), None)
    if id(unseen) not in _unseen:
        _set_class(unseen, _own_class(unseen))
        return cast("Failure[Any]", unseen)
    return _copy(unseen)


def _copy(unseen: Any) -> Failure[Any]:
    """A Failure of its own class that nobody watches."""
    made: Any = Failure.__new__(_own_class(unseen))
    _births._set_error(made, _get(unseen, "error"))
    return cast("Failure[Any]", made)


class Watch:
    """
    Watches all Failures of this process that are made inside the ``with`` block, in whatever thread or task.

    Watches may be nested: a Failure belongs to the innermost.
    """

    def __init__(self) -> None:
        self.found: list[Unhandled] = []
        self.allowed = False
        self._left = ExitStack()

    def __enter__(self) -> Self:
        _watches.append(self)
        self._left.enter_context(_births.remembered())
        _births.on_birth = _made
        return self

    def __exit__(self, *exc_info: object) -> None:
        _watches.remove(self)
        if not _watches:
            _births.on_birth = None
            _went_through_a_chain.clear()
        self._left.close()
        for number, watched in tuple(_unseen.items()):
            if watched.watch is self:
                del _unseen[number]

    def allow(self) -> None:
        """Let the test pass whatever nobody looks at."""
        self.allowed = True

    def unhandled(self) -> list[Unhandled]:
        """The Failures that nobody looked at and nobody holds any more, oldest first."""
        if any(watched.watch is self for watched in tuple(_unseen.values())):
            gc.collect()  # a cycle (an exception, its traceback, a frame) may be all that holds them
        return list(self.found)

    def message(self) -> str:
        """Each Failure that nobody looked at, with its code and where it was made; empty if there is none, or they are allowed."""
        found = [] if self.allowed else self.unhandled()
        if not found:
            return ""
        what = "1 Failure" if len(found) == 1 else f"{len(found)} Failures"
        with _births.remembered():  # what is noted here belongs to copies, and is forgotten again
            for one in found:
                _births.note(one.failure, one.birth)
            shown = [indent(describe(one.failure), "  ") for one in found]
        return "\n".join([f"{what} that nobody looked at:", *shown])
