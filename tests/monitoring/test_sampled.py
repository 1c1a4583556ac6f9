"""What live totals have beyond what a catalogue has of them: written once, whoever leads; and seen by readers before it is."""

from __future__ import annotations

import math
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import product
from math import inf
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from rfs.errors import StoreError
from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.readings import Octave, SketchReading
from rfs.monitoring._capture.sketch import Sketch
from rfs.monitoring._store import Window
from rfs.monitoring._store.catalogue import Catalogue, CatalogueReader
from rfs.monitoring._store.ranges import WindowReader, WindowsAt
from rfs.monitoring._store.windows import WindowWriter
from rfs.monitoring._totals import Totals
from tests.faults.processes import size
from tests.monitoring.led import no_problem
from tests.monitoring.test_windows import in_memory

HOUR = 3_600
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


class Kept:
    """A catalogue with who leads, who may follow, and who reads."""

    def __init__(self, folder: Path, on_problem: Callable[[str, str], None] = no_problem, *, epoch: int = 1) -> None:
        self.path = folder / "catalogue.db"
        self.on_problem = on_problem
        self.epoch = epoch
        self.lead()
        self.reading = CatalogueReader(self.path)
        self.reader = WindowReader(self.reading, on_problem=on_problem)

    def close(self) -> None:
        self.reading.close()
        self.catalogue.close()

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
    made.close()


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
        assert now.series("orders_total") == (ORDERS, LOST)
        assert now.kinds() == {"orders_total": "counter", "connections": "gauge", "wait_seconds": "histogram"}

    def test_one_that_begins_again_takes_nothing_from_others(self, kept: Kept) -> None:
        """
        Of two histograms one is at zero again, which is not written yet: of the other all is there that it has measured since.
        """
        other = SeriesKey("wait_seconds", (("route", "/"),))
        for second in (NOW, NOW + 60):
            kept.write(live(sketches={WAITS: reading(*[2.0] * 9), other: reading(2.0)}), second)
        kept.maintain()
        now = kept.at(live(sketches={WAITS: reading(), other: reading(2.0, 2.0, 3.0)}), NOW + 61)

        together = now.distribution([WAITS, other], NOW + 60, NOW + 62)

        assert buckets(together) == buckets(sketch_of([2.0, 3.0]))

    def test_series_of_a_metric_stand_together(self, kept: Kept) -> None:
        """
        Of two metrics, whose series come in turns, each has a group for itself: a question about one reads half of the blocks.
        """
        counters = {SeriesKey(f"{name}_total", (("n", f"{n}"),)): 1.0 for n in range(64) for name in ("one", "other")}

        kept.write(live(counters), NOW)

        with kept.reading.snapshot() as connection:
            assert connection is not None
            groups = connection.execute("SELECT name, count(DISTINCT id / 64) FROM series WHERE kind = 0 GROUP BY name")
            assert dict(groups.fetchall()) == {"one_total": 1, "other_total": 1}

    def test_neither_known_is_no_spike(self, kept: Kept) -> None:
        """
        Whoever has read the totals just before a series was found to have begun again is not told its whole past as news.
        """
        kept.write(live({ORDERS: 500.0}, {}, {WAITS: reading(*[1.0] * 9)}), NOW)
        before = kept.at(live({ORDERS: 500.0}, {}, {WAITS: reading(*[1.0] * 9)}), NOW + 60.9)
        kept.write(live(), NOW + 60)
        kept.maintain()

        assert before.increases([ORDERS], NOW + 30, NOW + 62) == [0.0]
        assert before.sketches([WAITS], NOW + 30, NOW + 62) == [Sketch()]

    def test_long_ago(self, kept: Kept) -> None:
        """
        Totals that were read minutes ago say nothing that the catalogue does not know better.
        """
        kept.write(live({ORDERS: 5.0}), NOW)
        old = kept.at(live({ORDERS: 6.0}), NOW + 0.5)
        for second in range(10, 200, 10):
            kept.write(live({ORDERS: 6.0 + second}), NOW + second)
            kept.maintain()
            assert old.increases([ORDERS], NOW, NOW + 1) == [6.0 if second < 60 else 5.0]

    def test_series_that_could_not_be_seen_for_a_while(self, kept: Kept) -> None:
        """
        A series of a file that could not be read, while others moved, is not counted again when it is seen again.
        """
        kept.write(live({ORDERS: 5.0, LOST: 2.0}), NOW)
        for second in range(1, 5):
            assert kept.write(live({ORDERS: 5.0 + second}), NOW + second, whole=False).counters == {ORDERS: 1.0}

        assert kept.write(live({ORDERS: 10.0, LOST: 2.0}), NOW + 5).counters == {ORDERS: 1.0}
        assert kept.write(live({ORDERS: 11.0, LOST: 3.0}), NOW + 6).counters == {ORDERS: 1.0, LOST: 1.0}

    def test_a_series_that_is_gone_while_others_stay(self, kept: Kept) -> None:
        """
        Of series that have moved for a while the one that is gone begins again at zero when it is back, and the others go on.
        """
        for second in range(3):
            kept.write(live({ORDERS: 5.0 + second, LOST: 2.0 + second}), NOW + second)

        assert kept.write(live({ORDERS: 8.0}), NOW + 3).counters == {ORDERS: 1.0}
        assert kept.write(live({ORDERS: 9.0}), NOW + 4).counters == {ORDERS: 1.0}
        assert kept.write(live({ORDERS: 10.0, LOST: 4.0}), NOW + 5).counters == {ORDERS: 1.0, LOST: 4.0}
        assert kept.lifetimes() == {ORDERS: 10.0, LOST: 8.0}

    def test_rounding_is_no_measurement(self, kept: Kept) -> None:
        """
        A sum of fractions that is lower by its last digits, because it was added up in another order, did not begin again.
        """
        sums = [0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1]
        assert sums[0] > sums[1]
        kept.write(live({ORDERS: sums[0]}), NOW)

        for second in (1, 2):
            assert kept.write(live({ORDERS: sums[1]}), NOW + second).counters == {}
            kept.follow()
        assert kept.at(live({ORDERS: sums[1]}), NOW + 3).increases([ORDERS], NOW + 1, NOW + 4) == [0.0]
        assert kept.lifetimes() == {ORDERS: sums[0]}

    def test_not_all_could_be_read(self, kept: Kept) -> None:
        """
        Where files could not be read, what is missing did not begin again, and is not counted twice when it is back.
        """
        kept.write(live({ORDERS: 5.0, LOST: 2.0}, {}, {WAITS: reading(1.0, 2.0)}), NOW)
        kept.write(live({ORDERS: 3.0}, {}, {WAITS: reading(1.0)}), NOW + 1, whole=False)
        kept.write(live({ORDERS: 6.0, LOST: 2.0}, {}, {WAITS: reading(1.0, 2.0, 3.0)}), NOW + 2)

        assert kept.lifetimes() == {ORDERS: 6.0, LOST: 2.0, WAITS: reading(1.0, 2.0, 3.0).since(None)}

    def test_a_clock_that_is_set_back(self, kept: Kept) -> None:
        """
        By a little: seconds stand still, and the present has all that is new. By more: it is another time.
        """
        kept.write(live({ORDERS: 1.0}), NOW + 100)
        now = kept.at(live({ORDERS: 4.0}), NOW + 95)

        assert kept.write(live({ORDERS: 3.0}), NOW + 95).second == NOW + 100
        assert now.increases([ORDERS], NOW + 90, NOW + 96) == [4.0]
        assert kept.write(live({ORDERS: 5.0}), NOW + 30).second == NOW + 30

    def test_more_series_than_are_kept(self, kept: Kept) -> None:
        """
        What a series that was refused had measured before there was room is not told as news.
        """
        said: list[str] = []
        kept.writer = WindowWriter(kept.catalogue, on_problem=lambda code, text: said.append(code), max_series=1)
        totals = live({ORDERS: 5.0, LOST: 7.0}, {}, {WAITS: reading(1.0)})
        kept.write(totals, NOW)
        assert kept.at(totals, NOW + 1).increases([ORDERS, LOST], NOW, NOW + 2) == [5.0, None]
        assert kept.at(totals, NOW + 1).sketches([WAITS], NOW, NOW + 2) == [None]

        kept.follow()
        kept.write(totals, NOW + 1)
        after = kept.at(live({ORDERS: 5.0, LOST: 8.0}, {}, {WAITS: reading(1.0, 2.0)}), NOW + 2)

        assert said == ["S115"]
        assert after.increases([ORDERS, LOST], NOW, NOW + 3) == [5.0, 1.0]
        assert [(found or Sketch()).count for found in after.sketches([WAITS], NOW, NOW + 3)] == [1]


class TestDamage:
    def test_a_row_of_totals(self, tmp_path: Path) -> None:
        """
        A damaged row of totals costs the lifetimes of its group. Nobody is told the past of its series as news, whoever leads.
        """
        said: list[str] = []
        for finder in ("reader", "upkeep", "follower"):
            folder = tmp_path / finder
            folder.mkdir()
            kept = Kept(folder, on_problem=lambda code, text: said.append(code))
            totals = live({ORDERS: 500.0, LOST: 10.0}, {OPEN: 3.0}, {WAITS: reading(1.0, 2.0)})
            kept.write(totals, NOW)
            kept.write(totals, NOW + 60)
            kept.maintain()
            with kept.catalogue.turn() as turn:
                turn.execute("UPDATE totals SET payload = x'00' WHERE grp % 4 IN (0, 2)")
            if finder == "upkeep":
                kept.write(live({ORDERS: 501.0, LOST: 10.0}, {OPEN: 3.0}, {WAITS: reading(1.0, 2.0)}), NOW + 61)
                kept.write(live({ORDERS: 501.0, LOST: 10.0}, {OPEN: 3.0}, {WAITS: reading(1.0, 2.0)}), NOW + 120)
                kept.maintain()
            elif finder == "follower":
                kept.follow()
            totals = live({ORDERS: 502.0, LOST: 11.0}, {OPEN: 3.0}, {WAITS: reading(1.0, 2.0, 3.0)})

            for second in range(121, 400, 40):
                now = kept.at(totals, NOW + second)
                for found in (*now.increases([ORDERS, LOST], NOW + 1, NOW + second + 1),):
                    assert found is not None
                    assert found <= 2.0
                (waits,) = now.sketches([WAITS], NOW + 1, NOW + second + 1)
                assert waits is not None
                assert waits.count <= 1
                kept.write(totals, NOW + second)
                kept.maintain()
            assert kept.at(totals, NOW + 400).increases([ORDERS], NOW, NOW + 1) == [500.0]
            later = live({ORDERS: 503.0, LOST: 11.0}, {OPEN: 3.0}, {WAITS: reading(1.0, 2.0, 3.0, 4.0)})
            assert kept.at(later, NOW + 400).increases([ORDERS], NOW + 400, NOW + 401) == [1.0]
            assert [one.count for one in kept.at(later, NOW + 400).sketches([WAITS], NOW + 400, NOW + 401) if one] == [
                1
            ]
            assert set(said) == {"S113"}
            kept.close()

    def test_a_row_of_the_journal(self, tmp_path: Path) -> None:
        """
        What a damaged row of the journal had is in the next window, once it is missed.
        """
        said: list[str] = []
        kept = Kept(tmp_path, on_problem=lambda code, text: said.append(code))
        kept.write(live({ORDERS: 5.0}), NOW)
        kept.write(live({ORDERS: 8.0}), NOW + 1)
        with kept.catalogue.turn() as turn:
            turn.execute("UPDATE journal SET payload = x'00' WHERE second = ?", (NOW + 1,))
        kept.write(live({ORDERS: 8.0}), NOW + 60)
        kept.maintain()

        assert kept.write(live({ORDERS: 9.0}), NOW + 61).counters == {ORDERS: 4.0}
        assert kept.lifetimes() == {ORDERS: 9.0}
        assert said
        kept.close()


KEYS = [SeriesKey("requests_total", (("n", str(n)),)) for n in range(3)]
GAUGES = [SeriesKey("open", (("n", str(n)),)) for n in range(2)]
HISTOGRAMS = [SeriesKey("wait_seconds", (("n", str(n)),)) for n in range(2)]
WINDOWS = [1, 10, 59, 61, 300, HOUR, 3 * HOUR]  # seconds that an alert rule looks back on
VALUES = [0.0, 0.001, -2.5, 1.0, 40.0, 41.0, 1e9]

Change = tuple[int, SeriesKey, float]  # second, series, increase or measured value or gauge's value


class Truth(NamedTuple):
    """What has happened, as far as it is known at one moment."""

    written: list[Change]  # at the seconds of their windows
    pending: list[tuple[SeriesKey, float]]  # since the last window
    seen: set[int]
    gauges: dict[SeriesKey, float]
    known: set[SeriesKey]

    def at(self, second: int) -> list[Change]:
        return [*self.written, *((second, *one) for one in self.pending)]


class Service(RuleBasedStateMachine):
    """The live totals of a service whose leaders change at any time, and what each moment's readers must be told."""

    @initialize()
    def begin(self) -> None:
        self.folder = in_memory()
        self.kept = Kept(self.folder)
        self.now = NOW + 1_000.0
        self.truth = Truth([], [], set(), {}, set())
        self.counters: dict[SeriesKey, float] = {}
        self.measured: dict[SeriesKey, list[float]] = {}
        self.gone: set[SeriesKey] = set()  # series that have left and not been missed yet
        self.held: tuple[WindowsAt, Truth, float] | None = None
        self.is_lost = False  # the database; nobody has written since
        self.write()

    def teardown(self) -> None:
        if hasattr(self, "kept"):
            self.kept.close()
            shutil.rmtree(self.folder)

    def totals(self) -> Totals:
        sketches = {key: reading(*values) for key, values in self.measured.items()}
        return live(dict(self.counters), dict(self.truth.gauges), sketches)

    @rule(
        counts=st.dictionaries(st.sampled_from(KEYS), st.integers(0, 300).map(float)),
        values=st.dictionaries(st.sampled_from(HISTOGRAMS), st.lists(st.sampled_from(VALUES), min_size=1, max_size=3)),
        gauges=st.dictionaries(st.sampled_from(GAUGES), st.integers(-5, 9).map(float)),
    )
    def measure(
        self,
        counts: dict[SeriesKey, float],
        values: dict[SeriesKey, list[float]],
        gauges: dict[SeriesKey, float],
    ) -> None:
        self._measure(counts, values, gauges)

    def _measure(
        self, counts: dict[SeriesKey, float], values: dict[SeriesKey, list[float]], gauges: dict[SeriesKey, float]
    ) -> None:
        for key, amount in counts.items():
            if key not in self.gone:
                self.counters[key] = self.counters.get(key, 0.0) + amount
                self.truth.pending.append((key, amount))
        for key, found in values.items():
            if key not in self.gone:
                self.measured[key] = [*self.measured.get(key, []), *found]
                self.truth.pending.extend((key, value) for value in found)
        self.truth.gauges.update(gauges)
        self.truth.known.update(counts.keys() & self.counters.keys(), values.keys() & self.measured.keys(), gauges)

    @rule(step=st.sampled_from([0.0, 0.3, 1.0, 1.0, 7.2, 60.0, 599.0, HOUR]))
    def wait(self, step: float) -> None:
        self.now += step

    @rule()
    def write(self) -> None:
        window = self.kept.write(self.totals(), int(self.now))
        for key, amount in window.counters.items():
            assert amount == sum(one for name, one in self.truth.pending if name == key)
        second = window.second
        pending = [*self.truth.pending, *self.truth.gauges.items()]
        self.truth = Truth(
            [*self.truth.written, *((second, *one) for one in pending)],
            [],
            self.truth.seen | {second},
            self.truth.gauges,
            self.truth.known,
        )
        self.gone.clear()
        self.is_lost = False

    @rule()
    def write_in_vain(self) -> None:
        """The turn fails after all; what was written is not."""
        with suppress(KeyError), self.kept.catalogue.turn() as turn:
            self.kept.writer.write(turn, self.totals(), int(self.now))
            raise KeyError

    @precondition(lambda self: not self.is_lost)
    @rule(key=st.sampled_from(KEYS), amount=st.integers(1, 9).map(float))
    def put(self, key: SeriesKey, amount: float) -> None:
        """A window that somebody else has closed."""
        with self.kept.catalogue.turn() as turn:
            self.kept.writer.put(turn, Window(int(self.now), {key: amount}))
        written = [*self.truth.written, (int(self.now), key, amount)]
        self.truth.known.add(key)
        self.truth = self.truth._replace(written=written, seen=self.truth.seen | {int(self.now)})
        self.held = None  # its head knows nothing of that

    @rule()
    def follow(self) -> None:
        if not self.is_lost:
            self.kept.follow()

    @rule()
    def kill(self) -> None:
        """What is in the files at any moment is what a killed leader leaves."""
        if self.is_lost:
            return
        copy = in_memory()
        for name in ("catalogue.db", "catalogue.db-wal"):
            shutil.copy(self.folder / name, copy / name)
        self.kept.close()
        shutil.rmtree(self.folder)
        self.folder, self.held = copy, None
        self.kept = Kept(copy, epoch=self.kept.epoch + 1)

    @rule(after=st.none() | st.integers(1, 60))
    def maintain(self, after: int | None) -> None:
        connection = self.kept.catalogue._connection
        if after is None or connection is None:
            self.kept.maintain()
            return
        left = iter(range(after))
        connection.set_progress_handler(lambda: next(left, None) is None, 20)
        with suppress(StoreError):
            self.kept.writer.maintain(10.0)
        with suppress(sqlite3.ProgrammingError):
            connection.set_progress_handler(None, 0)

    @rule(key=st.sampled_from([*KEYS, *HISTOGRAMS]))
    def leave(self, key: SeriesKey) -> None:
        """A series that rested for an hour is forgotten by its process; the next window misses it."""
        self.now += HOUR
        self.write()
        self.counters.pop(key, None)
        self.measured.pop(key, None)
        self.gone.add(key)

    @rule(key=st.sampled_from(KEYS))
    def begin_again(self, key: SeriesKey) -> None:
        """A series is back before anybody has missed it."""
        self.write()
        if self.counters.get(key, 0.0) > 1:
            self.counters[key] = 1.0
            self.held = None  # what is counted within the same second is told to it, too
            self.truth.pending.append((key, 1.0))
            self.write()

    @rule(is_adopted=st.booleans())
    def lose(self, is_adopted: bool) -> None:
        """The database is gone. Its writer goes on from what it has written; another one takes the totals as known."""
        self.write()
        self.maintain(None)
        for entry in self.folder.iterdir():
            entry.unlink()
        self.held, self.is_lost = None, True
        self.truth = Truth([], [], set(), self.truth.gauges, {*self.truth.gauges, *self.counters, *self.measured})
        if is_adopted:
            self.kept.close()
            self.kept = Kept(self.folder, epoch=self.kept.epoch + 1)
            self.kept.write(self.totals(), int(self.now), adopt=True)
            self.truth.written.extend((int(self.now), *one) for one in self.truth.gauges.items())
            self.truth.seen.add(int(self.now))
            self.is_lost = False

    # What readers are told

    @rule()
    def hold(self) -> None:
        """A reader that has read the totals now, and asks later."""
        truth = Truth(
            list(self.truth.written),
            list(self.truth.pending),
            set(self.truth.seen),
            dict(self.truth.gauges),
            set(self.truth.known),
        )
        self.held = self.kept.at(self.totals(), self.now), truth, self.now

    @precondition(lambda self: not self.is_lost)
    @rule(data=st.data())
    def ask(self, data: st.DataObject) -> None:
        self._ask(data, self.kept.at(self.totals(), self.now), self.truth, self.now)

    @precondition(lambda self: not self.is_lost)
    @rule(
        seconds=st.integers(1, 12),
        counts=st.dictionaries(st.sampled_from(KEYS), st.integers(0, 300).map(float)),
        values=st.dictionaries(st.sampled_from(HISTOGRAMS), st.lists(st.sampled_from(VALUES), min_size=1, max_size=3)),
    )
    def watch(self, seconds: int, counts: dict[SeriesKey, float], values: dict[SeriesKey, list[float]]) -> None:
        """Who has just written asks the catalogue alone, each second anew, and is told what anybody is told."""
        for second in range(seconds):
            self.now += 1
            if second % 3 != 2:
                self._measure(counts, values, {})
            self.write()
            own, plain = self.kept.at(None, self.now), self.kept.at(self.totals(), self.now)
            for keys, back in product((tuple(KEYS), KEYS[1:]), WINDOWS):
                found = own.increase(keys, self.now - back, self.now + 1)
                assert found == sum(one or 0.0 for one in plain.increases(keys, self.now - back, self.now + 1))
            for keys, back in product((tuple(HISTOGRAMS), HISTOGRAMS[1:]), WINDOWS):
                together = own.distribution(keys, self.now - back, self.now + 1)
                expected = plain.distribution(keys, self.now - back, self.now + 1)
                assert buckets(together) == buckets(expected)
                assert together.sum == pytest.approx(expected.sum, abs=1e-3)
                assert (together.min, together.max) == pytest.approx((expected.min, expected.max), rel=0.011)
            assert own.series("requests_total") == plain.series("requests_total")

    @precondition(lambda self: self.held is not None and not self.is_lost)
    @rule(data=st.data())
    def ask_held(self, data: st.DataObject) -> None:
        assert self.held is not None
        reader, truth, now = self.held
        is_same_minute = int(self.now) // 60 == int(now) // 60  # else it may be in blocks already: see `test_long_ago`
        # Of a series that has come since, at zero, it may be told that it is not known, or that nothing was added.
        if is_same_minute and self.truth.known <= truth.known:
            self._ask(data, reader, truth, now)

    def _ask(self, data: st.DataObject, reader: WindowsAt, truth: Truth, now: float) -> None:
        fine = self.kept.reader.resolution
        changes = truth.at(int(now))
        start = data.draw(st.sampled_from([0, 1, 59, 61, 300, HOUR, 3 * HOUR]).map(lambda back: int(now) - back))
        end = data.draw(st.sampled_from([int(now) + 1, now + 1, int(now) + 60, int(now) - 30]))
        first = -(-start // fine(start)) * fine(start)
        last = end if end > now else -(-end // fine(end - 1)) * fine(end - 1)
        for key, found in zip(KEYS, reader.increases(KEYS, start, end), strict=True):
            within = [amount for second, one, amount in changes if one == key and first <= second < last]
            assert found == (sum(within) if key in truth.known else None), key
        for key, sketch in zip(HISTOGRAMS, reader.sketches(HISTOGRAMS, start, end), strict=True):
            values = [value for second, one, value in changes if one == key and first <= second < last]
            assert buckets(sketch) == (buckets(sketch_of(values)) if key in truth.known else None), key
            assert sketch is None or sketch.sum == pytest.approx(math.fsum(values), abs=1e-3)
        grown = [amount for second, one, amount in changes if one in KEYS and first <= second < last]
        assert reader.increase(KEYS, start, end) == sum(grown)
        everything = [value for second, one, value in changes if one in HISTOGRAMS and first <= second < last]
        together = reader.distribution(HISTOGRAMS, start, end)
        assert buckets(together) == buckets(sketch_of(everything))
        assert together.sum == pytest.approx(math.fsum(everything), abs=1e-3)
        step = data.draw(st.sampled_from([1, 5, 60, 300]))
        start = (int(now) - data.draw(st.integers(0, 5)) * step) // step * step
        if step % fine(start) == 0:
            self._ask_points(reader, changes, truth, int(now), range(start, start + 6 * step, step))

    def _ask_points(self, reader: WindowsAt, changes: list[Change], truth: Truth, now: int, times: range) -> None:
        keys = [*KEYS, *GAUGES, *HISTOGRAMS]
        seen = {(second - times.start) // times.step for second in {*truth.seen, now}}
        asked = times.start, times.stop, times.step
        distributions = reader.distributions(HISTOGRAMS, *asked)
        quantiles = reader.quantiles(HISTOGRAMS, 0.5, *asked)
        for key, points in zip(keys, reader.points(keys, *asked), strict=True):
            for index, found in enumerate(points):
                begin, end = times[index], times[index] + times.step
                within = [value for second, one, value in changes if one == key and begin <= second < end]
                expected: float | None = sum(within)
                if key in HISTOGRAMS:
                    expected = len(within)
                    middle = sketch_of(within).quantile(0.5) if within else None
                    told = quantiles[HISTOGRAMS.index(key)][index]
                    assert told == (None if middle is None else pytest.approx(middle, rel=0.02, abs=1e-9))
                elif key in GAUGES:
                    set_to = [value for second, one, value in changes if one == key and second < end]
                    expected = set_to[-1] if set_to else None
                    if begin <= now and key in truth.gauges and now < end:
                        expected = truth.gauges[key]
                    elif now < begin:
                        expected = None
                assert found == (expected if index in seen and key in truth.known else None), (key, index)
        for index, merged in enumerate(distributions):
            begin, end = times[index], times[index] + times.step
            within = [value for second, one, value in changes if one in HISTOGRAMS and begin <= second < end]
            assert buckets(merged) == (buckets(sketch_of(within)) if index in seen else None)


def sketch_of(values: list[float]) -> Sketch:
    return reading(*values).since(None)


def buckets(sketch: Sketch | None) -> object:
    return None if sketch is None else (sketch.count, sketch.zero, sketch.positive, sketch.negative)


Service.TestCase.settings = settings(
    max_examples=size(whole=10_000, small=60),
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.slow  # dozens of lives of a service
class TestService(Service.TestCase):  # type: ignore[misc, valid-type]
    """The state machine, run."""
