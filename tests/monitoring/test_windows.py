"""Windows in a catalogue: whatever is appended, rolled up, let go, killed and opened again, answers are those of a plain list."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rfs.errors import StoreError
from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.sketch import Sketch
from rfs.monitoring._store import Point, Window
from rfs.monitoring._store.catalogue import Catalogue, CatalogueReader, connect
from rfs.monitoring._store.windows import COUNTER, GAUGE, HISTOGRAM, Retention, WindowReader, WindowWriter
from tests.faults.processes import size

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
    return Path(tempfile.mkdtemp(prefix="rfs-windows-", dir=place if place.is_dir() else None))


def no_problem(code: str, text: str) -> None:
    raise AssertionError(f"{code}: {text}")


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
        return self.reader.increases([key], start, end)[0]

    def sketch(self, key: SeriesKey, start: float, end: float) -> Sketch | None:
        return self.reader.sketches([key], start, end)[0]


KEYS = [SeriesKey("requests_total", (("n", str(n)),)) for n in range(3)]
GAUGES = [SeriesKey("open", (("n", str(n)),)) for n in range(2)]
HISTOGRAMS = [SeriesKey("wait_seconds", (("n", str(n)),)) for n in range(2)]


class History(RuleBasedStateMachine):
    """The windows that were appended, as a list; and the catalogue that must give the same answers."""

    @initialize(short=st.booleans())
    def begin(self, short: bool) -> None:
        self.folder = in_memory()
        self.retention = Retention(second=120, ten_seconds=HOUR, minute=3 * HOUR) if short else Retention()
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
        data=st.data(),
    )
    def append(self, steps: list[int], data: st.DataObject) -> None:
        for step in steps:
            self.second += step
            self._append(data, self.second, st.dictionaries(st.sampled_from(GAUGES), st.integers(-5, 9).map(float)))

    @rule(back=st.integers(1, 5_000), data=st.data())
    def append_late(self, back: int, data: st.DataObject) -> None:
        """A clock that was set back; what a gauge then was, and when, no clock can tell."""
        self._append(data, max(NOW, self.second - back), st.just({}))

    def _append(
        self, data: st.DataObject, second: int, gauges: st.SearchStrategy[dict[SeriesKey, float]]
    ) -> None:
        counters = st.dictionaries(st.sampled_from(KEYS), st.integers(0, 300).map(float))
        values = st.lists(st.sampled_from([0.0, 0.001, -2.5, 1.0, 40.0, 41.0, 1e9]), min_size=1, max_size=4)
        sketches = st.dictionaries(st.sampled_from(HISTOGRAMS), values.map(lambda found: sketch(*found)))
        window = Window(second, data.draw(counters), data.draw(gauges), data.draw(sketches))
        assert self.kept.append(len(self.windows), window)
        self.windows.append(window)
        self.newest = max(self.newest, second)

    @precondition(lambda self: self.windows)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        sequence = data.draw(st.integers(0, len(self.windows) - 1))
        assert not self.kept.append(sequence, self.windows[sequence])

    @rule()
    def maintain(self) -> None:
        self.kept.maintain()

    @precondition(lambda self: self.windows)
    @rule(after=st.integers(1, 60))
    def interrupt(self, after: int) -> None:
        """Upkeep that fails in the middle of a statement changes nothing by halves."""
        connection = self.kept.catalogue._connection
        assert connection is not None
        left = iter(range(after))
        connection.set_progress_handler(lambda: next(left, None) is None, 20)
        try:
            self.kept.writer.maintain(10.0)
        except StoreError:
            pass
        finally:
            connection.set_progress_handler(None, 0)

    @rule()
    def reopen(self) -> None:
        self.kept.close()
        self.kept = Kept(self.folder, retention=self.retention)

    @rule()
    def crash(self) -> None:
        """What is in the files at this moment is what a killed process leaves."""
        copy = in_memory()
        for name in ("catalogue.db", "catalogue.db-wal"):
            if (self.folder / name).exists():
                shutil.copy(self.folder / name, copy / name)
        self.kept.close()
        shutil.rmtree(self.folder)
        self.folder = copy
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
            for key, found in zip(KEYS, self.kept.reader.increases(KEYS, start, end), strict=True):
                known = any(key in window.counters for window in self.windows)
                assert found == (sum(window.counters.get(key, 0.0) for window in within) if known else None)
        whole = self.kept.increase(KEYS[0], marks[0], marks[-1])
        if whole is not None:
            assert whole == sum(self.kept.increase(KEYS[0], *pair) or 0.0 for pair in pairwise(marks))
        found_sketch = self.kept.sketch(HISTOGRAMS[0], marks[0], marks[-1])
        assert (found_sketch or Sketch()) == pytest_sum(self._within(marks[0], marks[-1]), HISTOGRAMS[0])

    @precondition(lambda self: self.windows)
    @rule(data=st.data(), step=st.sampled_from([1, 5, 10, 60, 300, HOUR]))
    def points(self, data: st.DataObject, step: int) -> None:
        """Points are the list's, step by step; a step without a window is a gap."""
        near = data.draw(st.sampled_from(self.windows)).second
        start = (near - data.draw(st.integers(0, 20)) * step) // step * step
        end = start + step * data.draw(st.integers(1, 60))
        if step % self.kept.reader.resolution(start):
            return  # coarser than it is asked for

        for key in (KEYS[0], GAUGES[0], HISTOGRAMS[0]):
            found = self.kept.reader.points(key, start, end, step)
            assert found == [
                Point(time, self._at(key, time, time + step)) for time in range(start, end, step)
            ], (key, step)
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
        for found in self.kept.reader.quantiles(HISTOGRAMS[:1], 0.95, start, end, step):
            for time, value in found:
                within = [one for one in self.windows if time <= one.second < time + step]
                expected = pytest_sum(within, HISTOGRAMS[0])
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
            total = pytest_sum(self.windows, key)
            assert found.get(key) == (total if total.count else None)


def pytest_sum(windows: list[Window], key: SeriesKey) -> Sketch:
    """What *key* measured in all *windows*, with a sum that is right to the last digits only."""
    total = Sketch()
    for window in windows:
        if key in window.sketches:
            total.add(window.sketches[key])
    total.sum = pytest.approx(total.sum)
    return total


History.TestCase.settings = settings(
    max_examples=size(whole=20_000, small=300),
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


class TestHistory(History.TestCase):  # type: ignore[misc, valid-type, name-defined]
    """The state machine, run."""
