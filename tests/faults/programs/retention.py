"""
Lets records go and is killed on the way, before the first, the second, … of the system's calls: ``retention FOLDER``.

Each time in a folder of its own, ``FOLDER/WAY/STEP``, where *WAY* is ``old`` (by age, half of eight chunks) or ``full`` (to make room).
Answered with how many steps each way had.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rfs.monitoring._store import retention as module
from rfs.monitoring._store.retention import CHUNKS, RecordRetention
from rfs.monitoring.retention import Retention
from tests.faults.processes import reply
from tests.monitoring.chunks import opened, record, sealed

NOW = 1_800_000_000
CALLS = ("open", "unlink", "ftruncate", "posix_fallocate", "close")


def die_before(step: int) -> None:
    """Let this process be killed before its *step*-th call of the system."""
    left = [step]

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **more)

        return call

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))


def act(path: Path, way: str, step: int) -> None:
    retention = RecordRetention(path, Retention(records_seconds=60), lambda: NOW)
    if way == "full":
        module.ROOM_BYTES = 1 << 60
    die_before(step)
    if way == "full":
        retention.make_room()
    else:
        retention.keep()


def main(folder: Path) -> None:
    steps: dict[str, int] = {}
    for way in ("old", "full"):
        status, step = 1, 0
        while status:
            step += 1
            path = folder / way / str(step)
            path.mkdir(parents=True)
            with opened(path / CHUNKS) as directory:
                for number in range(8):
                    second = NOW - (1_000 if number < 4 else 0) + number
                    sealed(directory, str(number), [record(second * 10**9 + each) for each in range(3)])
            child = os.fork()
            if not child:
                act(path, way, step)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            assert not status or os.WIFSIGNALED(status)
        steps[way] = step
    reply(steps)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
