"""
A `LocalStore` behind the `Store` Protocol, for tests.

The store takes no batches: its leader shows it the live totals and the records of all processes, again and again. So a batch is first
measured and recorded, in memory, and then the leader has its turn. A batch that comes again is shown again, and the store must find
nothing new in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.readings import NOTHING_READ, SketchReading
from rfs.monitoring._capture.segments import Run, Waiting
from rfs.monitoring._store import Batch, Store, Window
from rfs.monitoring._store.local import LocalStore
from rfs.monitoring._totals import Totals

NOTHING = Totals({}, {}, {}, {}, {}, [])


def no_problem(code: str, text: str) -> None:
    raise AssertionError(f"{code}: {text}")


def after(before: Totals, window: Window) -> Totals:
    """The live totals once *window* has happened, too."""
    counters, sketches = dict(before.counters), dict[SeriesKey, SketchReading](before.sketches)
    for key, increase in window.counters.items():
        counters[key] = counters.get(key, 0.0) + increase
    for key, sketch in window.sketches.items():
        sketches[key] = sketches.get(key, NOTHING_READ).plus(SketchReading.of(sketch))
    return Totals({}, counters, {**before.gauges, **window.gauges}, sketches, {}, [])


class Led:
    """The store in *directory*, its leader, and a service whose clock stands at the newest window's second."""

    def __init__(self, directory: Path, now: int) -> None:
        self._now = float(now)
        self._totals = NOTHING
        self._runs: Sequence[
            Run
        ] = ()  # of the last batch: not marked as imported yet, so they are in the segments, too
        self._taken: set[tuple[str, int]] = set()
        self._store = LocalStore(
            directory,
            retention=None,
            now_seconds=lambda: self._now,
            monotonic=lambda: self._now,
            on_problem=no_problem,
        )
        self._store.lead(1, is_first=True)

    def append(self, batch: Batch) -> bool:
        """See `Store`."""
        is_new = (batch.process, batch.sequence) not in self._taken
        self._taken.add((batch.process, batch.sequence))
        if batch.window is not None:
            self._now = float(batch.window.second)
            if is_new:
                self._totals = after(self._totals, batch.window)
            self._store.write(self._totals, is_whole=True)
        self._runs = batch.runs
        assert self._store.keep(batch.runs, at_once=True)
        return is_new

    def close(self) -> None:
        """See `Store`."""
        self._store.close()

    def __getattr__(self, question: str) -> Any:
        return getattr(self._store.at(self._totals, lambda _text: Waiting(self._runs)), question)


def local_store(directory: Path, now: int) -> Store:
    """One that has nothing yet."""
    return cast("Store", Led(directory, now))
