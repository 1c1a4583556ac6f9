"""
Archives or restores, and is killed on the way: ``archiving VERB FOLDER``.

Each time in a folder of its own, ``FOLDER/NUMBER``, before the call of the system or the statement of SQLite that has the number; then
further on, until it lives to the end. ``FOLDER/whole`` is what there was before. Answered with the numbers.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rfs.monitoring._store import catalogue as catalogue_module
from rfs.monitoring.archives import archive, restore
from tests.faults.processes import reply, size
from tests.monitoring.chunks import record
from tests.monitoring.test_archives import BEGIN, DAY, Kept, at, window

CALLS = ("open", "unlink", "fsync", "link", "mkdir", "rename", "replace", "rmdir", "ftruncate", "close")
BEFORE = at(BEGIN + 3 * DAY)


def die_before(number: int) -> None:
    """Let this process be killed before its *number*-th step."""
    left = [number]

    def step(*_: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            step()
            return original(*arguments, **more)

        return call

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))

    connect = catalogue_module.connect

    def connected(path: Path, mode: str) -> sqlite3.Connection:
        connection = connect(path, mode)
        connection.set_trace_callback(step)
        return connection

    catalogue_module.connect = connected


def main(verb: str, folder: Path) -> None:
    store = Kept(folder / "whole" / "store")
    for day in range(5):
        second = BEGIN + day * DAY
        store.put(*(window(second + offset, day + offset) for offset in (100, 130, 4_000)))
        store.seal(f"{day}", [record((second + each) * 10**9) for each in range(20)])
    store.put(window(BEGIN + 5 * DAY + 10, 1))
    store.close()
    if verb == "restore":
        shutil.copytree(folder / "whole", folder / "less")
        archive(folder / "less" / "store", folder / "less" / "a", before=BEFORE, delete=True)
    numbers: list[int] = []
    status, number = 1, 1
    while status:
        path = folder / str(number)
        shutil.copytree(folder / ("less" if verb == "restore" else "whole"), path)
        child = os.fork()
        if not child:
            die_before(number)
            if verb == "restore":
                restore(path / "a", path / "store")
            else:
                archive(path / "store", path / "a", before=BEFORE, delete=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert not status or os.WIFSIGNALED(status)
        numbers.append(number)
        number += size(whole=1, small=23)
    reply(numbers)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
