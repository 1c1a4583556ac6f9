"""
Writes days of windows into a catalogue and dies on the way: ``catalogue MODE FOLDER WITNESS [FIRST STEP]``.

* ``once``: the whole story, in FOLDER itself.
* ``sweep``: the story again and again, each time in a new process and folder, killed before its *FIRST*-th statement, then *STEP*
  further on, until one lives to the end. Answered with the numbers of the statements.
* ``migrate``: the same for opening a database of version 1 with a library of version 2.

The witness is told the statement's number (0 in ``once``) and the sequence of each window, after it was kept.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from pathlib import Path
from struct import Struct

from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.readings import Octave, SketchReading
from rfs.monitoring._capture.sketch import Sketch
from rfs.monitoring._store import Window
from rfs.monitoring._store import catalogue as module
from rfs.monitoring._store.catalogue import Catalogue
from rfs.monitoring._store.windows import WindowWriter
from rfs.monitoring._totals import Totals
from rfs.monitoring.retention import Retention
from tests.faults.processes import reply

KEPT = Struct("<II")
BEGIN = 1_800_000_000 // 86_400 * 86_400 + 30
STEPS = [20] * 7 + [3_600] + [20] * 4 + [-50] + [86_400] + [20] * 4 + [3 * 86_400] + [20] * 4
RETENTION = Retention(second=60, ten_seconds=600, minute=3_600, hour=2 * 86_400)
NEXT_VERSION = """
    ALTER TABLE cuts ADD COLUMN reason TEXT NOT NULL DEFAULT '';
    CREATE INDEX cuts_by_reason ON cuts (reason);
    UPDATE cuts SET reason = 'age';
"""


def windows() -> list[Window]:
    """The story: a counter, a gauge and a histogram each, and one series that is seen only in the beginning."""
    told: list[Window] = []
    second = BEGIN
    for number, step in enumerate(STEPS):
        second += step
        counters = {SeriesKey("requests_total", ()): 1.0 + number}
        if number < 5:
            counters[SeriesKey("early_total", ())] = 1.0
        waits = Sketch(1, 1.0, 0, 1.0, 1.0, {0: 1})
        told.append(Window(second, counters, {SeriesKey("open", ()): float(number)}, {SeriesKey("waits", ()): waits}))
    return told


def totals() -> list[Totals]:
    """What the live files have at the end of each window of the story; the early series leaves them after a while."""
    told: list[Totals] = []
    counters: dict[SeriesKey, float] = {}
    for number, window in enumerate(windows()):
        for key, increase in window.counters.items():
            counters[key] = counters.get(key, 0.0) + increase
        if number == 12:
            del counters[SeriesKey("early_total", ())]
        measured = number + 1.0
        waits = SketchReading(measured, measured, 0.0, 1.0, 1.0, {0: Octave.of([measured, *[0.0] * 63])}, {})
        told.append(Totals({}, dict(counters), dict(window.gauges), {SeriesKey("waits", ()): waits}, {}, []))
    return told


def problem(code: str, text: str) -> None:
    raise AssertionError(f"{code}: {text}")


def tell(folder: Path, witness: int, statement: int) -> None:
    catalogue = Catalogue(folder / "catalogue.db", epoch=1, on_problem=problem, now=lambda: BEGIN)
    writer = WindowWriter(catalogue, on_problem=problem, retention=RETENTION)
    for sequence, (window, live) in enumerate(zip(windows(), totals(), strict=True)):
        with catalogue.turn() as turn:
            writer.write(turn, live, window.second)
        os.write(witness, KEPT.pack(statement, sequence))
        writer.maintain(60.0)
    catalogue.close()


def migrate(folder: Path) -> None:
    module._SCHEMA = (*module._SCHEMA, NEXT_VERSION)
    Catalogue(folder / "catalogue.db", epoch=1, on_problem=problem, now=lambda: BEGIN).close()


def die_before(statement: int) -> None:
    """Let this process be killed before it has SQLite run its *statement*-th statement."""
    connect, left = module.connect, [statement]

    def count(_: str) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(path: Path, mode: str) -> sqlite3.Connection:
        connection = connect(path, mode)
        connection.set_trace_callback(count)
        return connection

    module.connect = counted


def main() -> None:
    mode, folder, witness = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    if mode == "once":
        tell(folder, witness, 0)
        reply("done")
        return
    statement, step = int(sys.argv[4]), int(sys.argv[5])
    swept: list[int] = []
    while True:
        place = folder / str(statement)
        place.mkdir()
        if mode == "migrate":
            tell(place, witness, statement)
        child = os.fork()
        if not child:
            die_before(statement)
            if mode == "migrate":
                migrate(place)
            else:
                tell(place, witness, statement)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        swept.append(statement)
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        statement += step
    reply(swept)


if __name__ == "__main__":
    main()
