"""The contract that every `Store` keeps. A new store joins by one more entry in ``STORES``."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.segments import HAS_ERROR, Frame
from rfs.monitoring._capture.sketch import Sketch
from rfs.monitoring._store import Batch, Point, Store, Window
from rfs.monitoring._store.memory import DAY, MemoryStore

STORES: dict[str, Callable[[], Store]] = {"memory": MemoryStore}

ORDERS = SeriesKey("orders_total", (("status", "created"),))
WAITS = SeriesKey("wait_seconds", ())
OPEN = SeriesKey("connections", ())
NOW = 1_800_000_000


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Store:
    return STORES[request.param]()


def frame(time_ns: int = 1, *, identifier: str = "a", level: int = 20, operation: str = "op", flags: int = 0) -> Frame:
    return Frame(time_ns, level, flags, identifier, operation, f"{time_ns}".encode())


def sketch(*octave_buckets: int) -> Sketch:
    made = Sketch(count=len(octave_buckets), sum=1.0 * len(octave_buckets), min=1.0, max=2.0)
    for bucket in octave_buckets:
        made.positive[bucket] = made.positive.get(bucket, 0) + 1
    return made


def counted(store: Store, amounts: dict[int, float]) -> None:
    for sequence, (second, amount) in enumerate(amounts.items()):
        store.append(Batch("p", sequence, [], Window(second, {ORDERS: amount})))


class TestIdempotence:
    def test_a_batch_is_kept_once(self, store: Store) -> None:
        """
        The same batch handed over again changes nothing, and the answer says so.
        """
        batch = Batch("p", 0, [frame()], Window(NOW, {ORDERS: 2}, {OPEN: 5}, {WAITS: sketch(3)}))

        assert store.append(batch)
        assert not store.append(batch)

        assert len(store.records(limit=10)) == 1
        assert store.increase(ORDERS, NOW, NOW + 1) == 2
        assert (store.sketch(WAITS, NOW, NOW + 1) or Sketch()).count == 1

    def test_processes_are_told_apart(self, store: Store) -> None:
        """
        The same sequence of another process is another batch, and its counters add up.
        """
        for process in ("p", "q"):
            assert store.append(Batch(process, 0, [frame()], Window(NOW, {ORDERS: 1})))

        assert store.increase(ORDERS, NOW, NOW + 1) == 2

    @settings(max_examples=50)
    @given(st.lists(st.tuples(st.sampled_from("pq"), st.integers(0, 5)), max_size=30))
    @pytest.mark.parametrize("name", STORES)
    def test_any_order_of_repeats(self, name: str, calls: list[tuple[str, int]]) -> None:
        """
        However often and mixed batches are repeated, each is counted at most once.
        """
        store, kept = STORES[name](), 0

        for process, sequence in calls:
            kept += store.append(Batch(process, sequence, [frame()], Window(NOW, {ORDERS: 1})))

        assert (store.increase(ORDERS, NOW, NOW + 1) or 0) == kept == len(store.records(limit=100))


class TestRecords:
    def test_newest_first_with_rising_sequences(self, store: Store) -> None:
        """
        Records come newest first; the sequence of the last one continues with the page after.
        """
        store.append(Batch("p", 0, [frame(n) for n in range(1, 6)], None))

        page = store.records(limit=2)
        rest = store.records(limit=9, before_sequence=page[-1].sequence)

        assert [one.frame.time_ns for one in page + rest] == [5, 4, 3, 2, 1]
        assert sorted(one.sequence for one in page + rest) == [one.sequence for one in reversed(page + rest)]

    def test_filters(self, store: Store) -> None:
        """
        Level, operation, correlation id, flags and time each narrow the answer, and together, too.
        """
        frames = [
            frame(1, level=20),
            frame(2, level=40, flags=HAS_ERROR),
            frame(3, identifier="b", operation="other", level=40, flags=HAS_ERROR),
        ]
        store.append(Batch("p", 0, frames, None))

        def times(**filters: object) -> list[int]:
            return [one.frame.time_ns for one in store.records(limit=9, **filters)]  # type: ignore[arg-type]

        assert times(min_level=40) == [3, 2]
        assert times(operation="op") == [2, 1]
        assert times(correlation_id="b") == [3]
        assert times(correlation_id="nobody") == []
        assert times(flags=HAS_ERROR, operation="op") == [2]
        assert times(since_ns=2) == [3, 2]
        assert times(flags=HAS_ERROR, correlation_id="a") == [2]
        assert times(min_level=30, flags=HAS_ERROR) == [3, 2]


class TestCounters:
    def test_increase_within_a_half_open_range(self, store: Store) -> None:
        """
        What happened in the first second of the range counts, what happened in the second of its end does not.
        """
        counted(store, {NOW: 1, NOW + 1: 2, NOW + 2: 4})

        assert store.increase(ORDERS, NOW, NOW + 2) == 3
        assert store.increase(ORDERS, NOW + 1, NOW + 3) == 6
        assert store.increase(ORDERS, NOW - 100, NOW + 100) == 7
        assert store.increase(ORDERS, NOW + 10, NOW + 20) == 0

    def test_the_first_increment_of_a_new_series_counts(self, store: Store) -> None:
        """
        A series that appears with its first increment has grown by it.
        """
        counted(store, {NOW: 5})

        assert store.increase(ORDERS, NOW - 60, NOW + 1) == 5

    def test_unknown_is_none(self, store: Store) -> None:
        """
        A series that was never measured has no increase, no distribution, no value and no points; not 0.
        """
        assert store.increase(ORDERS, 0, NOW) is None
        assert store.sketch(WAITS, 0, NOW) is None
        assert store.points(ORDERS, NOW, NOW + 2, 1) == [Point(NOW, None), Point(NOW + 1, None)]
        assert store.series("orders_total") == []

    def test_a_day_adds_up(self, store: Store) -> None:
        """
        Over 20 hours of one increment a second, thinning out old points loses no increment.
        """
        seconds = 20 * 3_600
        counted(store, {NOW + second: 1.0 for second in range(0, seconds, 7)})

        end = NOW + seconds
        assert store.increase(ORDERS, NOW, end) == len(range(0, seconds, 7))
        hours = [store.increase(ORDERS, end - hours * 3_600, end) or 0 for hours in (1, 5, 10)]
        assert hours == pytest.approx([3_600 / 7, 5 * 3_600 / 7, 10 * 3_600 / 7], abs=10)

    def test_a_clock_that_goes_back_loses_nothing(self, store: Store) -> None:
        """
        Increments dated before the newest window are kept with it.
        """
        counted(store, {NOW + 5: 1, NOW: 2, NOW + 6: 4})

        assert store.increase(ORDERS, NOW, NOW + 10) == 7


class TestGaugesAndHistograms:
    def test_the_last_value_of_a_gauge(self, store: Store) -> None:
        """
        A gauge's value is the one written last.
        """
        store.append(Batch("p", 0, [], Window(NOW, gauges={OPEN: 3})))
        store.append(Batch("p", 1, [], Window(NOW + 1, gauges={OPEN: 2})))

        assert store.points(OPEN, NOW, NOW + 2, 1) == [Point(NOW, 3.0), Point(NOW + 1, 2.0)]

    def test_distributions_add_up_over_a_range(self, store: Store) -> None:
        """
        The distribution of a range is the sum of what its seconds measured, the same second twice included.
        """
        for sequence, (second, bucket) in enumerate([(NOW, 1), (NOW, 2), (NOW + 1, 2), (NOW + 5, 9)]):
            store.append(Batch("p", sequence, [], Window(second, sketches={WAITS: sketch(bucket)})))

        found = store.sketch(WAITS, NOW, NOW + 2)

        assert found is not None
        assert (found.count, found.positive, found.sum) == (3, {1: 1, 2: 2}, 3.0)

    def test_old_distributions_keep_their_sum(self, store: Store) -> None:
        """
        Hours later, thinned out, nothing measured is missing.
        """
        seconds = range(0, 3 * 3_600, 5)
        for sequence, second in enumerate(seconds):
            store.append(Batch("p", sequence, [], Window(NOW + second, sketches={WAITS: sketch(sequence % 7)})))

        found = store.sketch(WAITS, NOW, NOW + 3 * 3_600)

        assert found is not None
        assert found.count == len(seconds) == sum(found.positive.values())


class TestPoints:
    def test_per_step_by_kind(self, store: Store) -> None:
        """
        Per step a counter's increase, a gauge's last value, a histogram's count.
        """
        for sequence, second in enumerate((NOW, NOW + 1, NOW + 2, NOW + 3)):
            window = Window(second, {ORDERS: 1}, {OPEN: sequence}, {WAITS: sketch(1, 2)})
            store.append(Batch("p", sequence, [], window))

        assert store.points(ORDERS, NOW, NOW + 4, 2) == [Point(NOW, 2.0), Point(NOW + 2, 2.0)]
        assert store.points(OPEN, NOW, NOW + 4, 2) == [Point(NOW, 1.0), Point(NOW + 2, 3.0)]
        assert store.points(WAITS, NOW, NOW + 4, 2) == [Point(NOW, 4.0), Point(NOW + 2, 4.0)]

    def test_a_gap_is_none_and_silence_is_zero(self, store: Store) -> None:
        """
        Where nothing was collected the value is unknown; where nothing happened it is 0.
        """
        store.append(Batch("p", 0, [], Window(NOW, {ORDERS: 1})))
        store.append(Batch("p", 1, [], Window(NOW + 1)))

        values = [point.value for point in store.points(ORDERS, NOW - 1, NOW + 3, 1)]

        assert values == [None, 1.0, 0.0, None]
        assert [point.value for point in store.points(SeriesKey("connections", ()), NOW, NOW + 1, 1)] == [None]


class TestBounds:
    def test_records_are_a_ring(self) -> None:
        """
        In memory the oldest records go first, by number and by bytes, and are counted.
        """
        store = MemoryStore(max_records=3)
        small = MemoryStore(max_record_bytes=4)

        for one in (store, small):
            one.append(Batch("p", 0, [frame(n, identifier=f"id{n}") for n in range(10, 15)], None))

        assert [one.frame.time_ns for one in store.records(limit=9)] == [14, 13, 12]
        assert store.records(limit=9, correlation_id="id10") == []
        assert store.records(limit=9, min_level=40) == []
        assert store.statistics()["evicted_records"] == 2
        assert len(small.records(limit=9)) == 2

    def test_evicted_errors_are_gone(self) -> None:
        """
        An error that left the ring is in no answer any more, whichever filter asks for it.
        """
        store = MemoryStore(max_records=2)

        for sequence in range(4):
            error = frame(sequence, level=40, flags=HAS_ERROR)
            store.append(Batch("p", sequence, [error], None))

        assert [one.frame.time_ns for one in store.records(limit=9, min_level=40)] == [3, 2]
        assert [one.frame.time_ns for one in store.records(limit=9, flags=HAS_ERROR)] == [3, 2]

    def test_points_are_bounded_and_sums_stay_right(self) -> None:
        """
        With more series than the bound of points allows, the store forgets the oldest seconds, says how far back it reaches,
        and what it still covers adds up.
        """
        store = MemoryStore(max_points=500, max_sketch_points=50)
        keys = [SeriesKey("orders_total", (("n", str(n)),)) for n in range(20)]

        for second in range(200):
            counters = dict.fromkeys(keys, 1.0)
            store.append(Batch("p", second, [], Window(NOW + second, counters, {OPEN: second}, {WAITS: sketch(1)})))

        figures = store.statistics()
        assert figures["points"] <= 500
        assert figures["sketch_points"] <= 50
        reach = int(figures["horizon_seconds"])
        assert 1 <= reach < 200
        assert store.increase(keys[0], NOW + 200 - reach, NOW + 200) == reach

    def test_series_that_have_nothing_left_are_forgotten(self) -> None:
        """
        With labels that change for days the store keeps those of the last day, and forgets the others, name and all.
        """
        store = MemoryStore()
        for minute in range(3 * 24 * 60):
            key = SeriesKey("orders_total", (("n", str(minute)),))
            waits = SeriesKey("wait_seconds", (("n", str(minute)),))
            store.append(Batch("p", minute, [], Window(NOW + 60 * minute, {key: 1.0}, {}, {waits: sketch(1)})))

        now = NOW + 3 * DAY
        kept = store.series("orders_total")
        assert 1440 <= len(kept) <= 1460
        assert 1440 <= len(store.series("wait_seconds")) <= 1460
        assert sum(store.increase(key, now - DAY, now) or 0 for key in kept) == 1440
        assert store.statistics()["points"] == len(kept)

    def test_reaches_back_again_once_there_is_room(self) -> None:
        """
        After a storm of labels the store forgets early; when they are gone it keeps more again, and says how much truly.
        """
        store = MemoryStore(max_points=500)
        keys = [SeriesKey("storm_total", (("n", str(n)),)) for n in range(20)]
        for second in range(200):
            store.append(Batch("p", second, [], Window(NOW + second, dict.fromkeys(keys, 1.0))))
        short = store.statistics()["horizon_seconds"]

        calm = range(200, 200 + DAY, 300)
        for second in calm:
            store.append(Batch("p", second, [], Window(NOW + second, {ORDERS: 1.0})))
            reach = store.statistics()["horizon_seconds"]
            expected = sum(1 for one in calm if second - reach <= one <= second)
            assert store.increase(ORDERS, NOW + second - reach, NOW + second + 1) == expected

        assert short < 200
        assert store.statistics()["horizon_seconds"] > DAY / 2
