"""
One rerun of a performance test in a process of its own: ``record PATH`` or ``check PATH``, on the core that a third word names.

Checks the code as it was, and a fifth slower, and prints what came of both, a line each.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from time import perf_counter

from rfs.core.result import Result, Success
from rfs.testing.performance import CannotTellWarning, assert_baseline, record_baseline


def order(table: int) -> Result[str, str]:
    """What a service does all day, some microseconds of it."""
    lines = {f"{table}-{number}": number * 3 for number in range(4)}
    return Success(lines).map(lambda made: sorted(made)).bind(lambda names: Success(f"{names[0]}:{len(names)}"))


def orders(count: int) -> Callable[[], object]:
    def place() -> None:
        for table in range(count):
            order(table)

    return place


def main() -> None:
    what, path, *core = sys.argv[1:]
    if core:
        os.sched_setaffinity(0, {int(core[0])})
    if what == "record":
        record_baseline(orders(100), "orders", path)
        return
    warnings.simplefilter("error", CannotTellWarning)
    for count in (100, 120):
        began = perf_counter()
        try:
            said = f"within: {assert_baseline(orders(count), 'orders', path)}"
        except AssertionError as error:
            said = f"beyond: {error}"
        except CannotTellWarning as warning:
            said = f"told: {warning}"
        sys.stdout.write(f"{said.replace(chr(10), ' ')} (after {perf_counter() - began:.2f} s)\n")


if __name__ == "__main__":
    main()
