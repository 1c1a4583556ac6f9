"""Windows in a catalogue: whatever is appended, rolled up, let go, killed and opened again, answers are those of a plain list."""

from __future__ import annotations

import math
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rfs.errors import StoreError
from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.sketch import Sketch
from rfs.monitoring._store import Point, Window
from rfs.monitoring._store.catalogue import Catalogue, CatalogueReader
from rfs.monitoring._store.ranges import WindowReader
from rfs.monitoring._store.windows import WindowWriter
from rfs.monitoring.retention import Retention
from tests.faults.processes import size
from tests.monitoring.led import no_problem

NOW = 1_800_000_000 // 86_400 * 86_400
HOUR, DAY = 3_600, 86_400
ORDERS = SeriesKey("orders_total", (("status", "created"),))
LOST = SeriesKey("orders_total", (("status", "lost"),))
OPEN = SeriesKey("connections", ())
WAITS = SeriesKey("wait_seconds", ())


def sketch(*values: float) -> Sketch:
    made = Sketch(count=len(values), sum=math.fsum(values), min=min(values), max=max(values))
    for value in values:
        if value == 0:
            made.zero += 1
            continue
        buckets = made.positive if value > 0 else made.negative
        index = math.ceil(64 * math.log2(abs(value)))
        buckets[index] = buckets.get(index, 0) + 1
    return made


def in_memory() -> Path:
    """A new folder where syncing a file takes no time."""
    place = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix=f"rfs-tests-{os.getpid()}-", dir=place if place.is_dir() else None))


class Kept:
    """A catalogue with its writer and its reader, and how the leader would use them."""

    def __init__(
        self,
        folder: Path,
        *,
        retention: Retention | None = None,
        on_problem: Callable[[str, str], None] = no_problem,
        epoch: int = 1,
        max_series: int = 50_000,
    ) -> None:
        self.path = folder / "catalogue.db"
        self.catalogue = Catalogue(self.path, epoch=epoch, on_problem=on_problem, now=lambda: NOW)
        self.writer = WindowWriter(self.catalogue, on_problem=on_problem, retention=retention, max_series=max_series)
        self.reading = CatalogueReader(self.path)
        self.reader = WindowReader(self.reading, on_problem=on_problem)
        self.at = self.reader.at(None, NOW)

    def append(self, sequence: int, window: Window, process: str = "p") -> bool:
        with self.catalogue.turn() as turn:
            if not self.catalogue.take(turn, process, sequence):
                return False
            self.writer.put(turn, window)
            return True

    def maintain(self) -> None:
        while not self.writer.maintain(10.0):
            pass

    def close(self) -> None:
        self.reading.close()
        self.catalogue.close()

    def increase(self, key: SeriesKey, start: float, end: float) -> float | None:
        return self.at.increases([key], start, end)[0]

    def sketch(self, key: SeriesKey, start: float, end: float) -> Sketch | None:
        return self.at.sketches([key], start, end)[0]

    def points(self, key: SeriesKey, start: float, end: float, step: float) -> list[Point]:
        (values,) = self.at.points([key], start, end, step)
        return [Point(start + index * step, value) for index, value in enumerate(values)]


KEYS = [SeriesKey("requests_total", (("n", str(n)),)) for n in range(3)]
GAUGES = [SeriesKey("open", (("n", str(n)),)) for n in range(2)]
HISTOGRAMS = [SeriesKey("wait_seconds", (("n", str(n)),)) for n in range(2)]


class History(RuleBasedStateMachine):
    """The windows that were appended, as a list; and the catalogue that must give the same answers."""

    retention = Retention()

    @initialize()
    def begin(self) -> None:
        self.folder = in_memory()
        self.kept = Kept(self.folder, retention=self.retention)
        self.windows: list[Window] = []
        self.second = NOW + 1_000
        self.newest = 0

    def teardown(self) -> None:
        if hasattr(self, "kept"):
            self.kept.close()
            shutil.rmtree(self.folder)

    @rule(
        steps=st.lists(st.sampled_from([0, 1, 1, 1, 7, 60, 599, HOUR, 30 * HOUR]), min_size=1, max_size=8),
        keeps_up=st.booleans(),
        data=st.data(),
    )
    def append(self, steps: list[int], keeps_up: bool, data: st.DataObject) -> None:
        for step in steps:
            self.second += step
            self._append(data, self.second, st.dictionaries(st.sampled_from(GAUGES), st.integers(-5, 9).map(float)))
            if keeps_up:
                self.kept.maintain()
        if self.windows:
            repeated = data.draw(st.integers(0, len(self.windows) - 1))
            assert not self.kept.append(repeated, self.windows[repeated])

    @precondition(lambda self: self.windows)
    @rule(back=st.sampled_from([1, 30, 61, 700, HOUR, 4_000, 40 * HOUR]), data=st.data())
    def append_late(self, back: int, data: st.DataObject) -> None:
        """A clock that was set back; what a gauge then was, and when, no clock can tell."""
        near = data.draw(st.sampled_from(self.windows)).second
        self._append(data, max(NOW, near - near % back), st.just({}))

    def _append(self, data: st.DataObject, second: int, gauges: st.SearchStrategy[dict[SeriesKey, float]]) -> None:
        counters = st.dictionaries(st.sampled_from(KEYS), st.integers(0, 300).map(float))
        values = st.lists(st.sampled_from([0.0, 0.001, -2.5, 1.0, 40.0, 41.0, 1e9]), min_size=1, max_size=4)
        sketches = st.dictionaries(st.sampled_from(HISTOGRAMS), values.map(lambda found: sketch(*found)))
        window = Window(second, data.draw(counters), data.draw(gauges), data.draw(sketches))
        assert self.kept.append(len(self.windows), window)
        self.windows.append(window)
        self.newest = max(self.newest, second)

    @rule(after=st.none() | st.integers(1, 60))
    def maintain(self, after: int | None) -> None:
        """Upkeep; if it fails in the middle of a statement, nothing has changed by halves."""
        if after is None:
            self.kept.maintain()
            return
        connection = self.kept.catalogue._connection
        if connection is None:
            return
        left = iter(range(after))
        connection.set_progress_handler(lambda: next(left, None) is None, 20)
        with suppress(StoreError):
            self.kept.writer.maintain(10.0)
        with suppress(sqlite3.ProgrammingError):  # it was closed, because it could not even be rolled back
            connection.set_progress_handler(None, 0)

    @rule(is_killed=st.booleans())
    def reopen(self, is_killed: bool) -> None:
        """What is in the files at any moment is what a killed process leaves."""
        if is_killed:
            copy = in_memory()
            for name in ("catalogue.db", "catalogue.db-wal"):
                if (self.folder / name).exists():
                    shutil.copy(self.folder / name, copy / name)
            self.kept.close()
            shutil.rmtree(self.folder)
            self.folder = copy
        self.kept.close()
        self.kept = Kept(self.folder, retention=self.retention)

    # What must hold

    def _within(self, start: float, end: float) -> list[Window]:
        # As exact as the store says that it is at both ends.
        fine = self.kept.reader.resolution
        first = -(-start // fine(start)) * fine(start)
        last = end if end > self.newest else -(-end // fine(end - 1)) * fine(end - 1)
        return [window for window in self.windows if first <= window.second < last]

    @precondition(lambda self: self.windows)
    @rule(data=st.data())
    def range_of_time(self, data: st.DataObject) -> None:
        """Sums of any range are those of the list; and adjacent ranges add up."""
        moments = st.one_of(
            st.integers(NOW - 10, self.newest + 100),
            st.sampled_from([window.second for window in self.windows]).flatmap(
                lambda second: st.sampled_from([second, second + 1, second // 60 * 60, second // HOUR * HOUR])
            ),
        )
        marks = sorted(data.draw(st.lists(moments, min_size=2, max_size=3)))
        for start, end in pairwise(marks):
            within = self._within(start, end)
            for key, found in zip(KEYS, self.kept.at.increases(KEYS, start, end), strict=True):
                known = any(key in window.counters for window in self.windows)
                assert found == (sum(window.counters.get(key, 0.0) for window in within) if known else None)
        whole = self.kept.increase(KEYS[0], marks[0], marks[-1])
        if whole is not None:
            assert whole == sum(self.kept.increase(KEYS[0], *pair) or 0.0 for pair in pairwise(marks))
        found_sketch = self.kept.sketch(HISTOGRAMS[0], marks[0], marks[-1])
        assert (found_sketch or Sketch()) == sum_of(self._within(marks[0], marks[-1]), HISTOGRAMS[0])

    @precondition(lambda self: self.windows)
    @rule(data=st.data())
    def points(self, data: st.DataObject) -> None:
        """Points are the list's, step by step; a step without a window is a gap."""
        near = data.draw(st.sampled_from(self.windows)).second
        before, steps = data.draw(st.integers(0, 3)), data.draw(st.integers(1, 20))
        for step in (1, 5, 10, 60, 300, HOUR):
            start = (near - before * step) // step * step
            if step % self.kept.reader.resolution(start) == 0:  # else it is finer than what is kept
                self._points(start, start + step * steps, step)

    def _points(self, start: int, end: int, step: int) -> None:
        for key in (KEYS[0], GAUGES[0], HISTOGRAMS[0]):
            found = self.kept.points(key, start, end, step)
            assert found == [Point(time, self._at(key, time, time + step)) for time in range(start, end, step)], (
                key,
                step,
            )
        self._quantiles(start, end, step)

    def _at(self, key: SeriesKey, start: int, end: int) -> float | None:
        within = [window for window in self.windows if start <= window.second < end]
        is_known = any(key in {**window.counters, **window.gauges, **window.sketches} for window in self.windows)
        if not within or not is_known:
            return None
        if key in KEYS:
            return sum(window.counters.get(key, 0.0) for window in within)
        if key in HISTOGRAMS:
            return float(sum(window.sketches[key].count for window in within if key in window.sketches))
        earlier = [window for window in self.windows if window.second < end and key in window.gauges]
        return max(enumerate(earlier), key=lambda one: (one[1].second, one[0]))[1].gauges[key] if earlier else None

    def _quantiles(self, start: int, end: int, step: int) -> None:
        for found in self.kept.at.quantiles(HISTOGRAMS[:1], 0.95, start, end, step):
            for time, value in zip(range(start, end, step), found, strict=True):
                within = [one for one in self.windows if time <= one.second < time + step]
                expected = sum_of(within, HISTOGRAMS[0])
                assert value == (expected.quantile(0.95) if expected.count else None)

    @invariant()
    def lifetimes(self) -> None:
        """The totals of all time are those of all windows, whatever was let go."""
        if not hasattr(self, "windows"):
            return
        found = {life.key: life.value for life in self.kept.reader.lifetimes()}
        for key in KEYS:
            amounts = [window.counters[key] for window in self.windows if key in window.counters]
            assert found.get(key) == (sum(amounts) if amounts else None)
        for key in HISTOGRAMS:
            total = sum_of(self.windows, key)
            assert found.get(key) == (total if total.count else None)


def sum_of(windows: list[Window], key: SeriesKey) -> Sketch:
    """What *key* measured in all *windows*; of its sum the last digits may differ."""
    total = Sketch()
    for window in windows:
        if key in window.sketches:
            total.add(window.sketches[key])
    total.sum = cast("float", pytest.approx(total.sum))
    return total


class ShortHistory(History):
    """The same with tiers that soon end."""

    retention = Retention(second=120, ten_seconds=HOUR, minute=3 * HOUR)


for machine in (History, ShortHistory):
    machine.TestCase.settings = settings(
        max_examples=size(whole=10_000, small=150),
        stateful_step_count=12,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.slow  # hundreds of lives of a catalogue
class TestHistory(History.TestCase):  # type: ignore[misc, valid-type]
    """The state machine, run."""


@pytest.mark.slow  # and hundreds that forget
class TestShortHistory(ShortHistory.TestCase):  # type: ignore[misc, valid-type]
    """As above."""


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path)
    yield made
    made.close()


class TestContract:
    """What the contract of stores says of windows."""

    def test_a_gap_is_none_and_silence_is_zero(self, kept: Kept) -> None:
        """
        Where nothing was collected the value is unknown, also after the process was started anew; where nothing happened it is 0.
        """
        kept.append(0, Window(NOW, {ORDERS: 1.0}))
        kept.append(1, Window(NOW + 1))
        kept.append(0, Window(NOW + 3, {ORDERS: 2.0}), process="q")

        values = [point.value for point in kept.points(ORDERS, NOW - 1, NOW + 5, 1)]

        assert values == [None, 1.0, 0.0, None, 2.0, None]
        assert [point.value for point in kept.points(OPEN, NOW, NOW + 1, 1)] == [None]

    def test_unknown_is_none(self, kept: Kept) -> None:
        """
        Of what was never measured nothing is known; a counter that is known at 0 has not grown.
        """
        kept.append(0, Window(NOW, {ORDERS: 0.0}))

        assert kept.increase(LOST, 0, NOW + 10) is None
        assert kept.increase(ORDERS, 0, NOW + 10) == 0
        assert kept.sketch(WAITS, 0, NOW + 10) is None
        assert kept.at.series("orders_total") == (ORDERS,)

    def test_steps_of_any_length(self, kept: Kept) -> None:
        """
        Steps need not be whole seconds, nor begin at one.
        """
        for second in range(6):
            kept.append(second, Window(NOW + second, {ORDERS: 1.0}))

        assert kept.points(ORDERS, NOW - 0.5, NOW + 5.5, 1.5) == [
            Point(NOW - 0.5, 1.0),
            Point(NOW + 1.0, 2.0),
            Point(NOW + 2.5, 1.0),
            Point(NOW + 4.0, 2.0),
        ]

    def test_a_gauge_that_was_set_long_ago(self, kept: Kept) -> None:
        """
        A gauge keeps its value until it is set again, however long ago that was.
        """
        kept.append(0, Window(NOW, gauges={OPEN: 3.0}))
        kept.append(1, Window(NOW + 3_700, gauges={OPEN: 8.0}))
        kept.append(2, Window(NOW + 5 * DAY, {ORDERS: 1.0}))
        kept.append(3, Window(NOW + 5 * DAY + 90, {ORDERS: 1.0}))
        kept.maintain()

        def at(second: int) -> float | None:
            return kept.points(OPEN, second, second + 60, 60)[0].value

        assert at(NOW + 5 * DAY) == 8.0
        kept.append(4, Window(NOW + 5 * DAY + 120, gauges={OPEN: 1.0}))
        assert at(NOW + 5 * DAY) == 8.0
        assert at(NOW + 5 * DAY + 120) == 1.0
        kept.append(5, Window(NOW + 3_600 + 30, {ORDERS: 1.0}))
        assert at(NOW + 3_600) == 3.0

    def test_of_a_gauge_that_came_late_the_last_word_counts(self, kept: Kept) -> None:
        """
        Of two values in one slot, one from a block of its hour and one that came later, that counts which was written last.
        """
        kept.append(4, Window(NOW - 60, gauges={OPEN: 5.0}), process="q")
        kept.append(5, Window(NOW - 60, gauges={OPEN: 6.0}), process="q")
        kept.append(6, Window(NOW - 59), process="q")
        assert kept.points(OPEN, NOW - 59, NOW - 58, 1) == [Point(NOW - 59, 6.0)]
        kept.append(0, Window(NOW + 10, gauges={OPEN: 1.0}))
        kept.append(1, Window(NOW + HOUR))
        kept.maintain()
        kept.append(2, Window(NOW + 20, gauges={OPEN: 2.0}))
        kept.append(3, Window(NOW + HOUR + 60))
        kept.maintain()

        assert kept.points(OPEN, NOW, NOW + 60, 60) == [Point(NOW, 2.0)]

    def test_a_name_of_two_kinds(self, kept: Kept) -> None:
        """
        A metric whose type was changed is one series of each kind, and listed once.
        """
        key = SeriesKey("size", ())
        kept.append(0, Window(NOW, {key: 2.0}))
        kept.append(1, Window(NOW + 1, {}, {}, {key: sketch(1.0, 2.0)}))

        assert kept.at.series("size") == (key,)
        assert kept.increase(key, NOW, NOW + 2) == 2.0
        assert (kept.sketch(key, NOW, NOW + 2) or Sketch()).count == 2

    def test_each_tier_gives_the_same(self, kept: Kept) -> None:
        """
        Sums are the same from slots of a second, ten seconds, a minute and an hour, and quantiles within 1 % of what was measured.
        """
        measured: list[float] = []
        for second in range(0, 2 * HOUR, 5):
            values = [0.5 + (second * 31 + n * 17) % 1_000 / 10 for n in range(3)]
            measured += values
            kept.append(second, Window(NOW + second, {ORDERS: 0.1}, {}, {WAITS: sketch(*values)}))
        kept.append(2 * HOUR, Window(NOW + 2 * HOUR))
        kept.maintain()
        measured.sort()

        for step in (1, 10, 60, HOUR):
            points = kept.points(ORDERS, NOW, NOW + 2 * HOUR, step)
            assert sum(point.value or 0.0 for point in points) == pytest.approx(0.1 * 2 * HOUR / 5)
            counts = kept.points(WAITS, NOW, NOW + 2 * HOUR, step)
            assert sum(point.value or 0 for point in counts) == len(measured)
        for q in (0.5, 0.9, 0.99):
            found = kept.sketch(WAITS, NOW, NOW + 2 * HOUR)
            exact = measured[math.ceil(q * len(measured)) - 1]
            assert found is not None
            assert found.quantile(q) == pytest.approx(exact, rel=0.01)
            ((point,),) = kept.at.quantiles([WAITS], q, NOW, NOW + 2 * HOUR, 2 * HOUR)
            assert point == found.quantile(q)

    def test_extremes_of_a_quantile(self, kept: Kept) -> None:
        """
        The shares 0 and 1 are the least and the largest that was measured.
        """
        kept.append(0, Window(NOW, sketches={WAITS: sketch(-3.0, 0.0, 7.7)}))
        kept.append(1, Window(NOW + 60))
        kept.maintain()

        assert [kept.at.quantiles([WAITS], q, NOW, NOW + 1, 1)[0][0] for q in (0, 1)] == [-3.0, 7.7]


class TestRetention:
    def test_by_age(self, tmp_path: Path) -> None:
        """
        Each tier reaches back as far as it is told to; the sums stay, as coarse as the slots are.
        """
        kept = Kept(tmp_path, retention=Retention(second=600, ten_seconds=2 * HOUR, minute=DAY, hour=10 * DAY))
        minutes = 30 * 60
        for minute in range(minutes):
            kept.append(minute, Window(NOW + 60 * minute + minute % 60, {ORDERS: 1.0}))
            kept.writer.maintain(10.0)
        end = NOW + 60 * minutes

        assert [kept.reader.resolution(end - age) for age in (500, 1_500, 4 * HOUR, 28 * HOUR)] == [1, 10, 60, HOUR]
        assert kept.increase(ORDERS, 0, end) == minutes
        assert kept.increase(ORDERS, NOW + 5 * HOUR, end) == minutes - 300
        assert kept.increase(ORDERS, NOW + 5 * HOUR - 1, end) == minutes - 300
        assert kept.increase(ORDERS, NOW + 4 * HOUR + 1, end) == minutes - 300
        assert kept.reader.statistics()["horizon_seconds"] == 60 * minutes - 60 + (minutes - 1) % 60
        kept.close()

    def test_a_clock_that_is_years_ahead_for_a_moment(self, kept: Kept) -> None:
        """
        C2. A window of ten years ahead lets a tenth of each tier go at most, not everything.
        """
        hours = 40 * 24
        for hour in range(hours):
            kept.append(hour, Window(NOW + HOUR * hour, {ORDERS: 1.0}))
            if hour % 24 == 0:
                kept.maintain()
        kept.maintain()
        before = kept.increase(ORDERS, 0, NOW + HOUR * hours)
        assert before == hours

        kept.append(hours, Window(NOW + 3_650 * DAY, {ORDERS: 1.0}))
        kept.maintain()
        for minute in range(3):
            kept.append(hours + 1 + minute, Window(NOW + HOUR * hours + 60 * minute, {ORDERS: 1.0}))
            kept.maintain()

        found = kept.increase(ORDERS, 0, NOW + HOUR * hours)
        assert found is not None
        assert 0.85 * hours < found < hours
        assert kept.increase(ORDERS, NOW + HOUR * hours, NOW + HOUR * hours + 180) == 3

    def test_what_comes_too_late_for_minutes_is_in_its_hour(self, kept: Kept) -> None:
        """
        A window of so long ago that minutes are gone counts in its hour; one of before all tiers in the lifetime's total alone.
        """
        for day in (0, 200, 450):
            kept.append(day, Window(NOW + DAY * day, {ORDERS: 1.0}))
            kept.append(day + 1, Window(NOW + DAY * day + 60, {ORDERS: 1.0}))
            kept.maintain()

        for sequence, day in ((1_000, 300), (1_001, 1)):
            kept.append(sequence, Window(NOW + DAY * day + 100, {ORDERS: 5.0}))
        kept.append(1_002, Window(NOW + DAY * 450 + 200))
        kept.maintain()

        assert kept.increase(ORDERS, NOW + DAY * 300, NOW + DAY * 301) == 5
        assert kept.increase(ORDERS, 0, NOW + DAY * 100) == 0
        assert [life.value for life in kept.reader.lifetimes()] == [6 + 10]


class TestSeries:
    def test_idle_series_leave_their_total(self, tmp_path: Path) -> None:
        """
        A series of which no block speaks any more is not listed; its total stays, and goes on should it come back.
        """
        kept = Kept(tmp_path, retention=Retention(second=60, ten_seconds=HOUR, minute=HOUR, hour=DAY))
        gone = [SeriesKey("orders_total", (("n", str(n)),)) for n in range(3)]
        kept.append(0, Window(NOW, dict.fromkeys(gone, 2.0), {OPEN: 4.0}, {WAITS: sketch(1.0)}))
        for hour in range(1, 80):
            kept.append(hour, Window(NOW + HOUR * hour, {LOST: 1.0}))
            kept.maintain()

        assert kept.at.series("orders_total") == (LOST,)
        assert kept.at.series("wait_seconds") == ()
        lives = {life.key: life.value for life in kept.reader.lifetimes()}
        assert lives == {**dict.fromkeys(gone, 2.0), OPEN: 4.0, WAITS: sketch(1.0), LOST: 79.0}

        kept.append(100, Window(NOW + HOUR * 80, {gone[1]: 3.0}, {}, {WAITS: sketch(2.0)}))
        kept.append(101, Window(NOW + HOUR * 80 + 60))
        kept.maintain()
        lives = {life.key: life.value for life in kept.reader.lifetimes()}
        assert lives[gone[1]] == 5.0
        assert lives[gone[0]] == 2.0
        assert lives[WAITS] == sketch(1.0, 2.0)
        assert kept.increase(gone[1], NOW, NOW + HOUR * 81) == 3.0
        kept.close()

    def test_more_than_are_taken(self, tmp_path: Path) -> None:
        """
        Beyond the bound no series is added; what they measured is counted as refused, and said once.
        """
        said: list[str] = []
        kept = Kept(tmp_path, max_series=5, on_problem=lambda code, text: said.append(code))
        keys = [SeriesKey("orders_total", (("n", str(n)),)) for n in range(8)]

        for second in range(2):
            kept.append(second, Window(NOW + second, dict.fromkeys(keys, 1.0), {}, {WAITS: sketch(1.0)}))

        assert kept.at.series("orders_total") == tuple(keys[:5])
        assert kept.writer.refused == 8
        assert said == ["S115"]
        kept.close()

    def test_many_groups(self, kept: Kept) -> None:
        """
        Hundreds of series of each kind keep to themselves, in every tier.
        """
        counters = [SeriesKey(f"c{n % 7}", (("n", str(n)),)) for n in range(200)]
        gauges = [SeriesKey(f"g{n % 7}", (("n", str(n)),)) for n in range(150)]
        waits = [SeriesKey(f"h{n % 7}", (("n", str(n)),)) for n in range(60)]
        for minute in range(3):
            window = Window(
                NOW + 60 * minute,
                {key: float(n) for n, key in enumerate(counters)},
                {key: float(n + minute) for n, key in enumerate(gauges)},
                {key: sketch(*([1.0] * (n + 1))) for n, key in enumerate(waits)},
            )
            kept.append(minute, window)
        kept.maintain()

        assert kept.at.increases(counters, NOW, NOW + 180) == [3.0 * n for n in range(200)]
        assert [(found or Sketch()).count for found in kept.at.sketches(waits, NOW, NOW + 180)] == [
            3 * (n + 1) for n in range(60)
        ]
        assert kept.points(gauges[149], NOW, NOW + 180, 60) == [Point(NOW + 60 * n, 149.0 + n) for n in range(3)]


class TestUpkeep:
    def test_what_comes_late_reaches_the_hours_before_its_minutes_go(self, tmp_path: Path) -> None:
        """
        A late window is in the slots of hours before the minutes that it came into are let go, even in the same upkeep.
        """
        kept = Kept(tmp_path, retention=Retention(second=60, ten_seconds=1.5 * HOUR, minute=1.5 * HOUR))
        seconds = [0, 60, 2 * HOUR, 9_000 - 30, 1_800, 9_000 + 30]
        for sequence, second in enumerate(seconds):
            kept.append(sequence, Window(NOW + second, {ORDERS: 1.0}))
            if second != 1_800:
                kept.maintain()

        assert kept.reader.resolution(NOW) == HOUR
        assert kept.increase(ORDERS, NOW, NOW + HOUR) == 3
        kept.close()

    def test_another_database_in_between(self, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        B11. If the database is removed while blocks are made, they do not get into the one that is begun after it.
        """
        kept.append(0, Window(NOW, {ORDERS: 1.0}))
        kept.append(1, Window(NOW + 60, {ORDERS: 2.0}))
        pack = kept.writer._blocks

        def pack_meanwhile(*arguments: Any) -> Iterator[Any]:
            if kept.path.exists() and kept.increase(ORDERS, 0, NOW + 1) == 1:
                kept.path.unlink()
                kept.append(0, Window(NOW + 120, {ORDERS: 4.0}))
            return pack(*arguments)

        monkeypatch.setattr(kept.writer, "_blocks", pack_meanwhile)
        kept.maintain()

        assert kept.increase(ORDERS, 0, NOW + DAY) == 4
        assert [life.value for life in kept.reader.lifetimes()] == [4]

    def test_in_pieces(self, kept: Kept) -> None:
        """
        Upkeep that is given no time does one step, says that it is not done, and goes on the next time; answers are the same.
        """
        for minute in range(130):
            kept.append(minute, Window(NOW + 60 * minute, {ORDERS: 1.0}, {}, {WAITS: sketch(1.0)}))

        calls = 0
        while not kept.writer.maintain(0.0):
            calls += 1
            assert kept.increase(ORDERS, NOW, NOW + DAY) == 130
        assert calls > 130
        assert kept.reader.statistics()["journal_rows"] == 1

    def test_nothing_to_do(self, kept: Kept) -> None:
        """
        Without windows there is nothing to keep up.
        """
        assert kept.writer.maintain()
