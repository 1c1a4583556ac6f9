"""
One of several processes that each take themselves for the leader: ``rival PATH COUNT``.

It opens the catalogue, answers, and at the first line on standard input writes COUNT windows as fast as it can, with a checkpoint now
and then; what is refused it tries again. Answers how often it was refused.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rfs.errors import StoreError
from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._store import Window
from rfs.monitoring._store.catalogue import Catalogue
from rfs.monitoring._store.windows import WindowWriter
from tests.faults.processes import reply

BEGIN = 1_800_000_000
SERVED = SeriesKey("served_total", ())


def problem(code: str, text: str) -> None:
    raise AssertionError(f"{code}: {text}")


def main(path: str, count: int) -> None:
    catalogue = Catalogue(Path(path), epoch=1, on_problem=problem, now=lambda: BEGIN, patience_seconds=5.0)
    catalogue._patience_seconds = 0.0
    writer = WindowWriter(catalogue, on_problem=problem)
    reply("ready")
    sys.stdin.readline()
    kept = refused = 0
    while kept < count:
        try:
            with catalogue.turn() as turn:
                writer.put(turn, Window(BEGIN + kept, {SERVED: 1.0}))
            kept += 1
            if kept % 10 == 0:
                catalogue.checkpoint()
        except StoreError as error:
            assert error.code == "S109", error  # noqa: PT017 - in a program, not in a test
            refused += 1
            time.sleep(0.0005)  # lets the other one in
    reply({"refused": refused})


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
