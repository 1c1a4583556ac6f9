"""
The contract that every `Store` keeps. A new store joins by one more entry in ``STORES``.

A store is given batches by `append` and asked by the Protocol's methods; nothing else of it is known here.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfs.errors import CursorError
from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.segments import HAS_ERROR, Frame, Run
from rfs.monitoring._capture.sketch import Sketch
from rfs.monitoring._store import EVERYTHING, Batch, Store, StoredRecord, Wanted, Window
from rfs.monitoring._store.memory import DAY, MemoryStore
from tests.clickhouse.engine import store as clickhouse_store
from tests.monitoring.led import local_store

NOW = 1_800_000_000
# Each makes a store that has nothing yet, in an empty directory of its own.
STORES: dict[str, Callable[[Path], Store]] = {
    "memory": lambda _directory: MemoryStore(),
    "local": lambda directory: local_store(directory, NOW),
    "clickhouse": lambda _directory: clickhouse_store(),
}
NAMES = [pytest.param(name, marks=pytest.mark.clickhouse if name == "clickhouse" else ()) for name in STORES]

ORDERS = SeriesKey("orders_total", (("status", "created"),))
WAITS = SeriesKey("wait_seconds", ())
OPEN = SeriesKey("connections", ())


@pytest.fixture(params=NAMES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with closing(STORES[request.param](tmp_path)) as made:
        yield made


def frame(time_ns: int = 1, *, identifier: str = "a", level: int = 20, operation: str = "op", flags: int = 0) -> Frame:
    return Frame(time_ns, level, flags, identifier, operation, f"{time_ns}".encode())


def batch(process: str, sequence: int, frames: Sequence[Frame], window: Window | None = None) -> Batch:
    """A batch whose records are all there is in one use of a block."""
    runs = [
        Run(f"{process}.segment", sequence + 1, [64 * n + 8 for n in range(len(frames))], 64 * len(frames) + 8, frames)
    ]
    return Batch(process, sequence, runs if frames else [], window)


def increase(store: Store, key: SeriesKey, start: float, end: float) -> float | None:
    (found,) = store.increases([key], start, end)
    return found


def measured(store: Store, key: SeriesKey, start: float, end: float) -> Sketch | None:
    (found,) = store.sketches([key], start, end)
    return found


def points(store: Store, key: SeriesKey, start: float, end: float, step: float) -> list[float | None]:
    (found,) = store.points([key], start, end, step)
    return found


def times_of(records: Sequence[StoredRecord]) -> list[int]:
    return [one.frame.time_ns for one in records]


def sketch(*octave_buckets: int) -> Sketch:
    made = Sketch(count=len(octave_buckets), sum=1.0 * len(octave_buckets), min=1.0, max=2.0)
    for bucket in octave_buckets:
        made.positive[bucket] = made.positive.get(bucket, 0) + 1
    return made


def counted(store: Store, amounts: dict[int, float]) -> None:
    for sequence, (second, amount) in enumerate(amounts.items()):
        store.append(batch("p", sequence, [], Window(second, {ORDERS: amount})))


class TestIdempotence:
    def test_a_batch_is_kept_once(self, store: Store) -> None:
        """
        The same batch handed over again changes nothing, and the answer says so.
        """
        once = batch("p", 0, [frame()], Window(NOW, {ORDERS: 2}, {OPEN: 5}, {WAITS: sketch(3)}))

        assert store.append(once)
        assert not store.append(once)

        assert len(store.records(EVERYTHING, limit=10)) == 1
        assert increase(store, ORDERS, NOW, NOW + 1) == 2
        assert (measured(store, WAITS, NOW, NOW + 1) or Sketch()).count == 1

    def test_processes_are_told_apart(self, store: Store) -> None:
        """
        The same sequence of another process is another batch, and its counters add up.
        """
        for process in ("p", "q"):
            assert store.append(batch(process, 0, [frame()], Window(NOW, {ORDERS: 1})))

        assert increase(store, ORDERS, NOW, NOW + 1) == 2

    @settings(max_examples=50)
    @given(st.lists(st.tuples(st.sampled_from("pq"), st.integers(0, 5)), max_size=30))
    @pytest.mark.parametrize("name", NAMES)
    def test_any_order_of_repeats(self, name: str, calls: list[tuple[str, int]]) -> None:
        """
        However often and mixed batches are repeated, each is counted at most once.
        """
        with TemporaryDirectory() as directory, closing(STORES[name](Path(directory))) as store:
            kept = 0
            for process, sequence in calls:
                kept += store.append(batch(process, sequence, [frame()], Window(NOW, {ORDERS: 1})))

            assert (increase(store, ORDERS, NOW, NOW + 1) or 0) == kept == len(store.records(EVERYTHING, limit=100))


class TestRecords:
    def test_newest_first_and_page_by_page(self, store: Store) -> None:
        """
        Records come newest first; the cursor of the last one goes on with the page after it.
        """
        store.append(batch("p", 0, [frame(n) for n in range(1, 6)]))

        page = store.records(EVERYTHING, limit=2)
        rest = store.records(EVERYTHING, limit=9, before=page[-1].cursor)

        assert times_of(page) == [5, 4]
        assert times_of(rest) == [3, 2, 1]
        assert store.records(EVERYTHING, limit=9, before=rest[-1].cursor) == []
        assert len({one.cursor for one in page + rest}) == 5

    def test_several_runs_in_order_of_time(self, store: Store) -> None:
        """
        What several threads and processes have written in the same batch comes in the order of time.
        """
        runs = [
            Run("p.segment", 1, [8, 72], 136, [frame(1), frame(4)]),
            Run("q.segment", 1, [8, 72], 136, [frame(2), frame(3)]),
        ]

        store.append(Batch("p", 0, runs, None))

        assert times_of(store.records(EVERYTHING, limit=9)) == [4, 3, 2, 1]

    def test_pages_while_more_comes_in(self, store: Store) -> None:
        """
        Who reads on page by page sees what was there at the beginning, each once, whatever comes meanwhile.
        """
        store.append(batch("p", 0, [frame(n) for n in range(1, 8)]))

        seen = store.records(EVERYTHING, limit=3)
        for sequence in range(1, 4):
            store.append(batch("p", sequence, [frame(10 * sequence)]))
            seen += store.records(EVERYTHING, limit=2, before=seen[-1].cursor)

        assert times_of(seen) == [7, 6, 5, 4, 3, 2, 1]

    @settings(max_examples=50)
    @given(
        st.lists(st.tuples(st.sampled_from([20, 30, 40]), st.sampled_from("ab"), st.sampled_from("op")), max_size=40),
        st.integers(1, 7),
        st.builds(
            Wanted,
            min_level=st.sampled_from([0, 30, 40]),
            operation=st.sampled_from([None, "o", "p"]),
            correlation_id=st.sampled_from([None, "a", "b"]),
            since_ns=st.integers(0, 40),
            until_ns=st.integers(0, 41),
        ),
    )
    @pytest.mark.parametrize("name", NAMES)
    def test_any_filter_in_any_pages(
        self, name: str, written: list[tuple[int, str, str]], limit: int, wanted: Wanted
    ) -> None:
        """
        Whatever is asked for and however long the pages are: together they are what passes the filter, newest first.
        """
        frames = [
            frame(time, level=level, identifier=identifier, operation=operation)
            for time, (level, identifier, operation) in enumerate(written)
        ]
        expected = [
            one.time_ns
            for one in reversed(frames)
            if one.level >= wanted.min_level
            and wanted.operation in (None, one.operation)
            and wanted.correlation_id in (None, one.correlation_id)
            and wanted.since_ns <= one.time_ns < wanted.until_ns
        ]
        with TemporaryDirectory() as directory, closing(STORES[name](Path(directory))) as store:
            for sequence, at in enumerate(range(0, len(frames), 5)):
                store.append(batch("p", sequence, frames[at : at + 5]))

            found: list[int] = []
            page = store.records(wanted, limit=limit)
            while page:
                found += times_of(page)
                page = store.records(wanted, limit=limit, before=page[-1].cursor)

        assert found == expected

    def test_filters(self, store: Store) -> None:
        """
        Level, operation, correlation id, flags and time each narrow the answer, and together, too.
        """
        frames = [
            frame(1, level=20),
            frame(2, level=40, flags=HAS_ERROR),
            frame(3, identifier="b", operation="other", level=40, flags=HAS_ERROR),
        ]
        store.append(batch("p", 0, frames))

        def times(wanted: Wanted) -> list[int]:
            return times_of(store.records(wanted, limit=9))

        assert times(Wanted(min_level=40)) == [3, 2]
        assert times(Wanted(operation="op")) == [2, 1]
        assert times(Wanted(correlation_id="b")) == [3]
        assert times(Wanted(correlation_id="nobody")) == []
        assert times(Wanted(flags=HAS_ERROR, operation="op")) == [2]
        assert times(Wanted(since_ns=2)) == [3, 2]
        assert times(Wanted(since_ns=2, until_ns=3)) == [2]
        assert times(Wanted(flags=HAS_ERROR, correlation_id="a")) == [2]
        assert times(Wanted(min_level=30, flags=HAS_ERROR)) == [3, 2]

    @pytest.mark.parametrize("cursor", ["", "x", "-1", "１", "1.5", "9" * 99, "5; DROP TABLE records", "\0"])
    def test_what_is_no_cursor_is_refused(self, store: Store, cursor: str) -> None:
        """
        A cursor that the store cannot have given out is refused, not guessed at.
        """
        store.append(batch("p", 0, [frame(1)]))

        with pytest.raises(CursorError) as refused:
            store.records(EVERYTHING, limit=1, before=cursor)

        assert refused.value.cursor == cursor


class TestCounters:
    def test_increase_within_a_half_open_range(self, store: Store) -> None:
        """
        What happened in the first second of the range counts, what happened in the second of its end does not.
        """
        counted(store, {NOW: 1, NOW + 1: 2, NOW + 2: 4})

        assert increase(store, ORDERS, NOW, NOW + 2) == 3
        assert increase(store, ORDERS, NOW + 1, NOW + 3) == 6
        assert increase(store, ORDERS, NOW - 100, NOW + 100) == 7
        assert increase(store, ORDERS, NOW + 10, NOW + 20) == 0

    def test_the_first_increment_of_a_new_series_counts(self, store: Store) -> None:
        """
        A series that appears with its first increment has grown by it.
        """
        counted(store, {NOW: 5})

        assert increase(store, ORDERS, NOW - 60, NOW + 1) == 5

    def test_unknown_is_none(self, store: Store) -> None:
        """
        A series that was never measured has no increase, no distribution, no value and no points; not 0.
        """
        assert increase(store, ORDERS, 0, NOW) is None
        assert measured(store, WAITS, 0, NOW) is None
        assert points(store, ORDERS, NOW, NOW + 2, 1) == [None, None]
        assert store.quantiles([WAITS], 0.5, NOW, NOW + 2, 1) == [[None, None]]
        assert store.series("orders_total") == ()
        assert store.kinds() == {}

    def test_many_series_in_one_question(self, store: Store) -> None:
        """
        Answers come in the order of the series that were asked for, unknown ones and repeated ones in their places.
        """
        keys = [SeriesKey("orders_total", (("n", str(n)),)) for n in range(300)]
        store.append(batch("p", 0, [], Window(NOW, {key: n + 1.0 for n, key in enumerate(keys)})))
        asked = [keys[299], ORDERS, keys[0], keys[0]]

        assert store.increases(asked, NOW, NOW + 1) == [300.0, None, 1.0, 1.0]
        assert store.points(asked, NOW, NOW + 1, 1) == [[300.0], [None], [1.0], [1.0]]
        assert store.increases([], NOW, NOW + 1) == []
        assert sorted(store.series("orders_total")) == sorted(keys)

    def test_what_each_metric_is(self, store: Store) -> None:
        """
        Every metric that a window has told of is known with its kind, a counter that stands at 0 too.
        """
        store.append(batch("p", 0, [], Window(NOW, {ORDERS: 0.0}, {OPEN: 1}, {WAITS: sketch(1)})))

        assert store.kinds() == {"orders_total": "counter", "connections": "gauge", "wait_seconds": "histogram"}
        assert increase(store, ORDERS, NOW, NOW + 1) == 0

    def test_a_day_adds_up(self, store: Store) -> None:
        """
        Over 20 hours of one increment a second, thinning out old points loses no increment.
        """
        seconds = 20 * 3_600
        counted(store, {NOW + second: 1.0 for second in range(0, seconds, 7)})

        end = NOW + seconds
        assert increase(store, ORDERS, NOW, end) == len(range(0, seconds, 7))
        hours = [increase(store, ORDERS, end - hours * 3_600, end) or 0 for hours in (1, 5, 10)]
        assert hours == pytest.approx([3_600 / 7, 5 * 3_600 / 7, 10 * 3_600 / 7], abs=10)

    def test_a_clock_that_goes_back_loses_nothing(self, store: Store) -> None:
        """
        Increments dated before the newest window are kept with it.
        """
        counted(store, {NOW + 5: 1, NOW: 2, NOW + 6: 4})

        assert increase(store, ORDERS, NOW, NOW + 10) == 7


class TestGaugesAndHistograms:
    def test_the_last_value_of_a_gauge(self, store: Store) -> None:
        """
        A gauge's value is the one written last.
        """
        store.append(batch("p", 0, [], Window(NOW, gauges={OPEN: 3})))
        store.append(batch("p", 1, [], Window(NOW + 1, gauges={OPEN: 2})))

        assert points(store, OPEN, NOW, NOW + 2, 1) == [3.0, 2.0]

    def test_distributions_add_up_over_a_range(self, store: Store) -> None:
        """
        The distribution of a range is the sum of what its seconds measured, the same second twice included.
        """
        for sequence, (second, bucket) in enumerate([(NOW, 1), (NOW, 2), (NOW + 1, 2), (NOW + 5, 9)]):
            store.append(batch("p", sequence, [], Window(second, sketches={WAITS: sketch(bucket)})))

        found = measured(store, WAITS, NOW, NOW + 2)

        assert found is not None
        assert (found.count, found.positive, found.sum) == (3, {1: 1, 2: 2}, 3.0)

    def test_several_histograms_as_one(self, store: Store) -> None:
        """
        What several histograms measured together is the sum of all that are known.
        """
        other, unknown = WAITS._replace(labels=(("n", "2"),)), WAITS._replace(labels=(("n", "3"),))
        store.append(batch("p", 0, [], Window(NOW, sketches={WAITS: sketch(1), other: sketch(2)})))
        store.append(batch("p", 1, [], Window(NOW + 1, sketches={other: sketch(2)})))

        found = store.distribution([WAITS, other, unknown], NOW, NOW + 2)

        assert (found.count, found.positive, found.sum) == (3, {1: 1, 2: 2}, 3.0)

    def test_several_counters_as_one(self, store: Store) -> None:
        """
        What several counters together grew by is the sum of all that are known; of none it is 0.
        """
        other, unknown = ORDERS._replace(labels=(("n", "2"),)), ORDERS._replace(labels=(("n", "3"),))
        store.append(batch("p", 0, [], Window(NOW, {ORDERS: 5.0, other: 2.0})))
        store.append(batch("p", 1, [], Window(NOW + 1, {other: 3.0})))

        assert store.increase([ORDERS, other, unknown], NOW, NOW + 2) == 10.0
        assert store.increase([ORDERS, other], NOW + 1, NOW + 2) == 3.0
        assert store.increase([unknown], NOW, NOW + 2) == store.increase([], NOW, NOW + 2) == 0.0

    def test_old_distributions_keep_their_sum(self, store: Store) -> None:
        """
        Hours later, thinned out, nothing measured is missing.
        """
        seconds = range(0, 3 * 3_600, 5)
        for sequence, second in enumerate(seconds):
            store.append(batch("p", sequence, [], Window(NOW + second, sketches={WAITS: sketch(sequence % 7)})))

        found = measured(store, WAITS, NOW, NOW + 3 * 3_600)

        assert found is not None
        assert found.count == len(seconds) == sum(found.positive.values())


class TestPoints:
    def test_per_step_by_kind(self, store: Store) -> None:
        """
        Per step a counter's increase, a gauge's last value, a histogram's count.
        """
        for sequence, second in enumerate((NOW, NOW + 1, NOW + 2, NOW + 3)):
            window = Window(second, {ORDERS: 1}, {OPEN: sequence}, {WAITS: sketch(1, 2)})
            store.append(batch("p", sequence, [], window))

        assert points(store, ORDERS, NOW, NOW + 4, 2) == [2.0, 2.0]
        assert points(store, OPEN, NOW, NOW + 4, 2) == [1.0, 3.0]
        assert points(store, WAITS, NOW, NOW + 4, 2) == [4.0, 4.0]

    def test_a_gap_is_none_and_silence_is_zero(self, store: Store) -> None:
        """
        Where nothing was collected the value is unknown; where nothing happened it is 0.
        """
        store.append(batch("p", 0, [], Window(NOW, {ORDERS: 1})))
        store.append(batch("p", 1, [], Window(NOW + 1)))

        assert points(store, ORDERS, NOW - 1, NOW + 3, 1) == [None, 1.0, 0.0, None]
        assert points(store, OPEN, NOW, NOW + 1, 1) == [None]

    def test_distributions_and_quantiles_per_step(self, store: Store) -> None:
        """
        Per step several histograms are one distribution, empty where nothing was measured and None in a gap; a quantile is None
        in both.
        """
        other = SeriesKey("wait_seconds", (("n", "2"),))
        store.append(batch("p", 0, [], Window(NOW, {}, {}, {WAITS: sketch(1, 2), other: sketch(9)})))
        store.append(batch("p", 1, [], Window(NOW + 1, {}, {}, {WAITS: sketch(5)})))
        store.append(batch("p", 2, [], Window(NOW + 2)))

        together = store.distributions([WAITS, other], NOW, NOW + 4, 1)
        medians = store.quantiles([WAITS, other], 0.5, NOW, NOW + 4, 1)

        assert [None if one is None else one.count for one in together] == [3, 1, 0, None]
        assert [one.positive for one in together if one is not None] == [{1: 1, 2: 1, 9: 1}, {5: 1}, {}]
        assert medians == [
            [sketch(1, 2).quantile(0.5), sketch(5).quantile(0.5), None, None],
            [sketch(9).quantile(0.5), None, None, None],
        ]

    def test_steps_that_do_not_divide_the_range(self, store: Store) -> None:
        """
        The last step reaches past the end; of a range shorter than a step there is one.
        """
        for sequence in range(10):
            store.append(batch("p", sequence, [], Window(NOW + sequence, {ORDERS: 1})))

        assert points(store, ORDERS, NOW, NOW + 7, 3) == [3.0, 3.0, 3.0]
        assert points(store, ORDERS, NOW, NOW + 1, 3) == [3.0]


class TestLife:
    def test_close_twice_is_once(self, store: Store) -> None:
        """
        A store can be let go of twice, also right after it was made.
        """
        store.close()
        store.close()

    def test_says_how_large_it_is(self, store: Store) -> None:
        """
        The figures that every store has are there from the beginning, and count what it keeps.
        """
        nothing = store.statistics()
        store.append(batch("p", 0, [frame(1), frame(2)]))
        figures = store.statistics()

        assert {"records", "record_bytes", "horizon_seconds"} <= nothing.keys()
        assert (nothing["records"], nothing.get("evicted_records", 0)) == (0, 0)
        assert figures["records"] == 2
        assert figures["record_bytes"] > 0


class TestBounds:
    def test_records_are_a_ring(self) -> None:
        """
        In memory the oldest records go first, by number and by bytes, and are counted.
        """
        store = MemoryStore(max_records=3)
        small = MemoryStore(max_record_bytes=4)

        for one in (store, small):
            one.append(batch("p", 0, [frame(n, identifier=f"id{n}") for n in range(10, 15)]))

        assert times_of(store.records(EVERYTHING, limit=9)) == [14, 13, 12]
        assert store.records(Wanted(correlation_id="id10"), limit=9) == []
        assert store.records(Wanted(min_level=40), limit=9) == []
        assert store.statistics()["evicted_records"] == 2
        assert len(small.records(EVERYTHING, limit=9)) == 2

    def test_records_are_nothing_to_the_garbage_collector(self) -> None:
        """
        However many records memory holds, a collection of garbage, which stops all threads, has no more to look at.
        """
        store = MemoryStore()
        frames = [frame(n, level=40) for n in range(2_000)]
        gc.collect()
        before = len(gc.get_objects())

        store.append(batch("p", 0, frames))

        gc.collect()
        assert len(store.records(EVERYTHING, limit=2_001)) == 2_000
        assert len(gc.get_objects()) - before < 200

    def test_evicted_errors_are_gone(self) -> None:
        """
        An error that left the ring is in no answer any more, whichever filter asks for it.
        """
        store = MemoryStore(max_records=2)

        for sequence in range(4):
            error = frame(sequence, level=40, flags=HAS_ERROR)
            store.append(batch("p", sequence, [error]))

        assert times_of(store.records(Wanted(min_level=40), limit=9)) == [3, 2]
        assert times_of(store.records(Wanted(flags=HAS_ERROR), limit=9)) == [3, 2]

    def test_points_are_bounded_and_sums_stay_right(self) -> None:
        """
        With more series than the bound of points allows, the store forgets the oldest seconds, says how far back it reaches,
        and what it still covers adds up.
        """
        store = MemoryStore(max_points=500, max_sketch_points=50)
        keys = [SeriesKey("orders_total", (("n", str(n)),)) for n in range(20)]

        for second in range(200):
            counters = dict.fromkeys(keys, 1.0)
            store.append(batch("p", second, [], Window(NOW + second, counters, {OPEN: second}, {WAITS: sketch(1)})))

        figures = store.statistics()
        assert figures["points"] <= 500
        assert figures["sketch_points"] <= 50
        reach = int(figures["horizon_seconds"])
        assert 1 <= reach < 200
        assert increase(store, keys[0], NOW + 200 - reach, NOW + 200) == reach

    def test_series_that_have_nothing_left_are_forgotten(self) -> None:
        """
        With labels that change for days the store keeps those of the last day, and forgets the others, name and all.
        """
        store = MemoryStore()
        for minute in range(3 * 24 * 60):
            key = SeriesKey("orders_total", (("n", str(minute)),))
            waits = SeriesKey("wait_seconds", (("n", str(minute)),))
            store.append(batch("p", minute, [], Window(NOW + 60 * minute, {key: 1.0}, {}, {waits: sketch(1)})))

        now = NOW + 3 * DAY
        kept = store.series("orders_total")
        assert 1440 <= len(kept) <= 1460
        assert 1440 <= len(store.series("wait_seconds")) <= 1460
        assert sum(increase(store, key, now - DAY, now) or 0 for key in kept) == 1440
        assert store.statistics()["points"] == len(kept)

    def test_reaches_back_again_once_there_is_room(self) -> None:
        """
        After a storm of labels the store forgets early; when they are gone it keeps more again, and says how much truly.
        """
        store = MemoryStore(max_points=500)
        keys = [SeriesKey("storm_total", (("n", str(n)),)) for n in range(20)]
        for second in range(200):
            store.append(batch("p", second, [], Window(NOW + second, dict.fromkeys(keys, 1.0))))
        short = store.statistics()["horizon_seconds"]

        calm = range(200, 200 + DAY, 300)
        for second in calm:
            store.append(batch("p", second, [], Window(NOW + second, {ORDERS: 1.0})))
            reach = store.statistics()["horizon_seconds"]
            expected = sum(1 for one in calm if second - reach <= one <= second)
            assert increase(store, ORDERS, NOW + second - reach, NOW + second + 1) == expected

        assert short < 200
        assert store.statistics()["horizon_seconds"] > DAY / 2
