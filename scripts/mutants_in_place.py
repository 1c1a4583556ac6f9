"""
Puts a mutant into the place of the code itself: what the changed modules import, in the tests and in processes that these start.

By itself mutmut puts a call of its own before each function, which reads the environment and goes on to the function or the mutant.
rfs.testing reads stacks (who made this Failure? who looks at it?) and measures times, so its tests would see those calls. Here a
function gets the code of its mutant, once, and nothing is added to it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

MutantDict = dict[str, Any]

called: set[str] = set()  # the functions whose calls have been noted
_mutated: list[tuple[FunctionType, MutantDict]] = []
_names: dict[CodeType, str] = {}


class _Mutants(dict[str, Any]):
    """Filled in below the function, and puts the one that the environment names into its place."""

    def __init__(self, function: FunctionType) -> None:
        super().__init__()
        self._function = function

    def __setitem__(self, name: str, mutant: Any) -> None:
        super().__setitem__(name, mutant)
        if f"{self._function.__module__}.{name}" == os.environ.get("MUTANT_UNDER_TEST"):
            replace(self._function, mutant)


def in_place(mutants: MutantDict, *_: object, **__: object) -> Callable[[FunctionType], FunctionType]:
    """Stand in for the decorator that mutmut puts before each function it changes."""
    variables = sys._getframe(1).f_globals
    name = next(name for name, value in variables.items() if value is mutants)

    def noted(function: FunctionType) -> FunctionType:
        variables[name] = _Mutants(function)
        _mutated.append((function, variables[name]))
        _names[function.__code__] = f"{function.__module__}.{name.removeprefix('mutants_').removesuffix('__mutmut')}"
        return function

    return noted


def put(wanted: str) -> None:
    """Put the mutant of the name *wanted* into its place."""
    home, _, name = wanted.rpartition(".")
    for function, mutants in _mutated:
        if function.__module__ == home and name in mutants:
            replace(function, mutants[name])


def replace(function: FunctionType, mutant: Any) -> None:
    """Let *function* do what *mutant* does."""
    mutant = getattr(mutant, "__func__", mutant)
    code = function.__code__
    function.__code__ = mutant.__code__.replace(co_name=code.co_name, co_qualname=code.co_qualname)
    function.__defaults__, function.__kwdefaults__ = mutant.__defaults__, mutant.__kwdefaults__


def note_calls(path: str) -> None:
    """Write the names of the functions that are called to the file *path*, as mutmut has them."""

    def noted(frame: FrameType, _: str, __: object) -> None:
        name = _names.get(frame.f_code)
        if name is not None and name not in called:
            called.add(name)
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(f"{name}\n")

    os.environ["MUTANT_CALLS"] = path
    threading.settrace(noted)
    sys.settrace(noted)


if "MUTANT_CALLS" in os.environ:  # by the process that started this one
    note_calls(os.environ["MUTANT_CALLS"])
