"""
Puts the one mutant that mutmut asks for into the place of the code itself: a pytest plugin for scripts/mutants.py.

By itself mutmut puts a call of its own before each function, which reads the environment and goes on to the function or the mutant.
rfs.testing reads stacks (who made this Failure? who looks at it?) and measures times, so its tests would see those calls. Here a
function gets the code of its mutant, once, before the tests, and nothing is added to it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import CodeType, FrameType, FunctionType
from typing import Any

import mutmut.mutation.trampoline as mutmuts_own
import pytest
from mutmut.state import state
from mutmut.stats import record_trampoline_hit

Mutants = Mapping[str, Any]

_mutated: list[tuple[FunctionType, Mutants]] = []
_names: dict[CodeType, str] = {}


def _in_place(mutants: Mutants, *_: object, **__: object) -> Callable[[FunctionType], FunctionType]:
    def noted(function: FunctionType) -> FunctionType:
        _mutated.append((function, mutants))  # which are filled in below the function
        return function

    return noted


mutmuts_own.wrap_in_trampoline = _in_place  # type: ignore[assignment] # it stands in on purpose


def pytest_configure(config: pytest.Config) -> None:
    """Do what mutmut asks for by the environment: fail, note which functions are called, or run a mutant."""
    for folder in config.getini("testpaths"):  # tests/core is for rfs.core
        package = f"rfs.{Path(folder).name}"
        for module in iter_modules(import_module(package).__path__, f"{package}."):
            import_module(module.name)
    wanted = os.environ.get("MUTANT_UNDER_TEST", "")
    home, _, wanted_name = wanted.rpartition(".")
    for function, mutants in _mutated:
        names = [name for name in mutants if name != "_mutmut_orig"]
        _names[function.__code__] = f"{function.__module__}.{names[0].rpartition('__mutmut_')[0]}"
        if function.__module__ == home and wanted_name in mutants:
            _replace(function, mutants[wanted_name])
    if wanted == "fail":
        pytest.exit("mutmut wants to see that", returncode=1)
    if wanted == "stats":
        threading.settrace(_noted)
        sys.settrace(_noted)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what is quick first: most mutants die of it."""
    items.sort(key=lambda item: state().duration_by_test.get(item.nodeid, 0.0))


def _replace(function: FunctionType, mutant: Any) -> None:
    mutant = getattr(mutant, "__func__", mutant)
    code: CodeType = function.__code__
    function.__code__ = mutant.__code__.replace(co_name=code.co_name, co_qualname=code.co_qualname)
    function.__defaults__, function.__kwdefaults__ = mutant.__defaults__, mutant.__kwdefaults__


def _noted(frame: FrameType, _: str, __: object) -> None:
    name = _names.get(frame.f_code)
    if name is not None:
        record_trampoline_hit(name)
