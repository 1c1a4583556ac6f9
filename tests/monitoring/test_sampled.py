"""What live totals have beyond what a catalogue has of them: written once, whoever leads; and seen by readers before it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path

import pytest

from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.readings import Octave, SketchReading
from rfs.monitoring._capture.sketch import Sketch
from rfs.monitoring._store import Window
from rfs.monitoring._store.catalogue import Catalogue, CatalogueReader
from rfs.monitoring._store.ranges import WindowReader, WindowsAt
from rfs.monitoring._store.windows import WindowWriter
from rfs.monitoring._totals import Totals

NOW = 1_800_000_000 // 86_400 * 86_400
ORDERS = SeriesKey("orders_total", (("status", "created"),))
LOST = SeriesKey("orders_total", (("status", "lost"),))
OPEN = SeriesKey("connections", ())
WAITS = SeriesKey("wait_seconds", ())


def reading(*values: float) -> SketchReading:
    """The cells of a histogram that has measured *values*."""
    positive: dict[int, list[float]] = {}
    negative: dict[int, list[float]] = {}
    for value in values:
        if value:
            index = math.ceil(64 * math.log2(abs(value)))
            octaves = positive if value > 0 else negative
            octaves.setdefault(index >> 6, [0.0] * 64)[index & 63] += 1
    return SketchReading(
        float(len(values)),
        math.fsum(values),
        float(values.count(0.0)),
        min(values, default=inf),
        max(values, default=-inf),
        {number: Octave.of(buckets) for number, buckets in positive.items()},
        {number: Octave.of(buckets) for number, buckets in negative.items()},
    )


def live(
    counters: dict[SeriesKey, float] | None = None,
    gauges: dict[SeriesKey, float] | None = None,
    sketches: dict[SeriesKey, SketchReading] | None = None,
) -> Totals:
    return Totals({}, counters or {}, gauges or {}, sketches or {}, {}, [])


def no_problem(code: str, text: str) -> None:
    raise AssertionError(f"{code}: {text}")


class Kept:
    """A catalogue with who leads, who may follow, and who reads."""

    def __init__(self, folder: Path, on_problem: Callable[[str, str], None] = no_problem) -> None:
        self.path = folder / "catalogue.db"
        self.on_problem = on_problem
        self.epoch = 1
        self.lead()
        self.reader = WindowReader(CatalogueReader(self.path), on_problem=on_problem)

    def follow(self) -> None:
        """Another leader."""
        self.catalogue.close()
        self.epoch += 1
        self.lead()

    def lead(self) -> None:
        self.catalogue = Catalogue(self.path, epoch=self.epoch, on_problem=self.on_problem, now=lambda: NOW)
        self.writer = WindowWriter(self.catalogue, on_problem=self.on_problem)

    def write(self, totals: Totals, second: int, *, adopt: bool = False, whole: bool = True) -> Window:
        with self.catalogue.turn() as turn:
            return self.writer.write(turn, totals, second, adopt=adopt, whole=whole)

    def maintain(self) -> None:
        while not self.writer.maintain(10.0):
            pass

    def at(self, totals: Totals | None, second: float) -> WindowsAt:
        return self.reader.at(totals, second)

    def lifetimes(self) -> dict[SeriesKey, float | Sketch]:
        return {life.key: life.value for life in self.reader.lifetimes()}


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path)
    yield made
    made.catalogue.close()


class TestWrite:
    def test_what_is_beyond(self, kept: Kept) -> None:
        """
        A window is what the totals have beyond the last one, of whoever wrote it.
        """
        kept.write(live({ORDERS: 5.0, LOST: 0.0}, {OPEN: 2.0}, {WAITS: reading(1.0, 2.0)}), NOW)
        first = kept.write(live({ORDERS: 7.0, LOST: 0.0}, {OPEN: 2.0}, {WAITS: reading(1.0, 2.0, 2.0)}), NOW + 1)
        kept.follow()
        second = kept.write(live({ORDERS: 8.0, LOST: 1.0}, {OPEN: 3.0}, {WAITS: reading(1.0, 2.0, 2.0, 9.0)}), NOW + 2)
        third = kept.write(live({ORDERS: 8.0, LOST: 1.0}, {OPEN: 3.0}, {WAITS: reading(1.0, 2.0, 2.0, 9.0)}), NOW + 3)

        assert (first.counters, first.gauges) == ({ORDERS: 2.0}, {})
        assert first.sketches[WAITS].positive == {64: 1}
        assert (second.counters[ORDERS], second.counters[LOST], second.gauges) == (1.0, 1.0, {OPEN: 3.0})
        assert second.sketches[WAITS].max == 9.0
        assert second.sketches[WAITS].count == 1
        assert third == Window(NOW + 3)
        assert kept.lifetimes()[ORDERS] == 8.0

    def test_began_again(self, kept: Kept) -> None:
        """
        A total that has fallen began again at zero; one that is gone and comes back did, too, even if it is larger then.
        """
        changes: list[Callable[[], None]] = [lambda: None, kept.follow, kept.maintain]
        for change in changes:
            kept.write(live({ORDERS: 5.0}, {}, {WAITS: reading(1.0, 2.0)}), NOW)
            change()
            fallen = kept.write(live({ORDERS: 2.0}, {}, {WAITS: reading(8.0)}), NOW + 60)
            kept.write(live(), NOW + 61)
            change()
            back = kept.write(live({ORDERS: 6.0}, {}, {WAITS: reading(4.0, 8.0, 16.0)}), NOW + 121)
            kept.write(live(), NOW + 122)

            assert (fallen.counters, back.counters) == ({ORDERS: 2.0}, {ORDERS: 6.0})
            assert fallen.sketches[WAITS].positive == {192: 1}
            assert back.sketches[WAITS].count == 3
        assert kept.lifetimes()[ORDERS] == 3 * 13.0

    def test_head(self, kept: Kept) -> None:
        """
        A reader sees what is not yet written, of series that the catalogue does not know, too.
        """
        kept.write(live({ORDERS: 5.0}, {OPEN: 1.0}, {WAITS: reading(1.0)}), NOW)
        now = kept.at(live({ORDERS: 9.0, LOST: 1.0}, {OPEN: 4.0}, {WAITS: reading(1.0, 2.0)}), NOW + 1.5)

        assert now.increases([ORDERS, LOST], NOW, NOW + 2.5) == [9.0, 1.0]
        assert now.increases([ORDERS, LOST], NOW + 1, NOW + 2.5) == [4.0, 1.0]
        assert now.increases([ORDERS, LOST], NOW, NOW + 1) == [5.0, 0.0]
        assert now.points([ORDERS, OPEN, WAITS, LOST], NOW, NOW + 3, 1) == [
            [5.0, 4.0, None],
            [1.0, 4.0, None],
            [1.0, 1.0, None],
            [0.0, 1.0, None],
        ]
        assert [(found or Sketch()).count for found in now.sketches([WAITS], NOW, NOW + 2)] == [2]
        assert now.quantiles([WAITS], 1.0, NOW, NOW + 2, 1) == [[1.0, 2.0]]
        assert [(found or Sketch()).count for found in now.distributions([WAITS], NOW, NOW + 3, 1)] == [1, 1, 0]
        assert now.series("orders_total") == [ORDERS, LOST]
        assert now.kinds() == {"orders_total": "counter", "connections": "gauge", "wait_seconds": "histogram"}
