"""Sketches: every quantile within 1 % of the truth, whatever the distribution."""

from __future__ import annotations

import math
import random
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfs.monitoring._capture.cells import CellsReader
from rfs.monitoring._capture.instruments import Histogram, MetricType, Registry
from rfs.monitoring._capture.readings import Octave, SketchReading
from rfs.monitoring._capture.sketch import Sketch
from rfs.monitoring._live import read_sketch

finite = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e292, max_value=1e292)
MEASUREMENTS = st.lists(finite, max_size=8)


def new_histogram() -> Histogram:
    metric = Registry(lambda *_: None, lambda text: text).declare(MetricType.HISTOGRAM, "wait_seconds")
    assert isinstance(metric, Histogram)
    return metric


def reading_of(waits: Histogram) -> SketchReading:
    waits.labels()
    reader = CellsReader()
    reader.add(waits.collector.cells.regions[0].memory, "test")
    reader.refresh()
    return read_sketch(reader.series[0])


def sketch_of(values: list[float]) -> Sketch:
    waits = new_histogram()
    for value in values:
        waits.observe(value)
    return reading_of(waits).since(None)


def exact_quantile(values: list[float], q: float) -> float:
    return sorted(values)[max(0, math.ceil(q * len(values) - 1e-9) - 1)]


_random = random.Random(7)
DISTRIBUTIONS = {
    "lognormal": [_random.lognormvariate(3, 2) for _ in range(5_000)],
    "bimodal": [_random.gauss(10, 1) if _random.random() < 0.7 else _random.gauss(900, 30) for _ in range(5_000)],
    "constant": [42.0] * 500,
    "negative and zero": [_random.choice([0.0, -_random.expovariate(0.01), _random.random()]) for _ in range(5_000)],
    "nine decades": [10 ** _random.uniform(-4, 5) for _ in range(5_000)],
}


class TestAccuracy:
    @pytest.mark.parametrize("name", DISTRIBUTIONS)
    @pytest.mark.parametrize("q", [0.0, 0.01, 0.25, 0.5, 0.9, 0.95, 0.99, 1.0])
    def test_quantiles_are_within_one_percent(self, name: str, q: float) -> None:
        """
        Any quantile of any of these distributions is within 1 % of the exact one.
        """
        values = DISTRIBUTIONS[name]

        estimate = sketch_of(values).quantile(q)

        assert estimate == pytest.approx(exact_quantile(values, q), rel=0.01, abs=1e-300)

    @given(st.lists(finite, min_size=1, max_size=50), st.floats(0, 1))
    def test_within_one_percent_for_any_values(self, values: list[float], q: float) -> None:
        """
        Also for values that nobody would measure.
        """
        assert sketch_of(values).quantile(q) == pytest.approx(exact_quantile(values, q), rel=0.01, abs=1e-300)


class TestExactParts:
    @given(st.lists(finite, min_size=1, max_size=50))
    def test_count_and_extremes_are_exact(self, values: list[float]) -> None:
        """
        Of everything measured since the start, count, minimum and maximum are exact.
        """
        sketch = sketch_of(values)

        assert (sketch.count, sketch.min, sketch.max) == (len(values), min(values), max(values))

    @pytest.mark.parametrize("value", [1.1e292, -1.1e292, 10**400])
    def test_no_sum_can_overflow(self, value: float) -> None:
        """
        A measurement so large that their sum could become infinite is rejected.
        """
        rejected: list[tuple[str, str]] = []
        metric = Registry(lambda *seen: rejected.append(seen), lambda text: text).declare(
            MetricType.HISTOGRAM, "wait_seconds"
        )
        assert isinstance(metric, Histogram)

        metric.observe(value)

        assert metric.labels().count == 0
        assert rejected == [("wait_seconds", "invalid_value")]

    def test_nothing_measured_is_unknown(self) -> None:
        """
        Without a measurement mean and quantiles are NaN, not 0.
        """
        assert math.isnan(Sketch().mean)
        assert math.isnan(Sketch().quantile(0.5))


class TestMerging:
    @given(st.lists(finite, max_size=40), st.lists(finite, max_size=40))
    def test_two_merged_are_one_stream(self, ours: list[float], theirs: list[float]) -> None:
        """
        Two sketches added give what one sketch of all the values gives.
        """
        merged = sketch_of(ours)
        merged.add(sketch_of(theirs))
        whole = sketch_of(ours + theirs)

        assert (merged.count, merged.positive, merged.negative, merged.zero) == (
            whole.count,
            whole.positive,
            whole.negative,
            whole.zero,
        )
        assert (merged.min, merged.max) == (whole.min, whole.max)

    @given(st.lists(finite, max_size=30), st.lists(finite, min_size=1, max_size=30))
    def test_the_difference_of_two_readings_is_what_came_between(self, before: list[float], after: list[float]) -> None:
        """
        What was measured between two readings is their difference; its extremes are within 1 %.
        """
        waits = new_histogram()
        for value in before:
            waits.observe(value)
        first = reading_of(waits)
        for value in after:
            waits.observe(value)

        between = reading_of(waits).since(first)

        expected = sketch_of(after)
        assert (between.count, between.positive, between.negative) == (
            expected.count,
            expected.positive,
            expected.negative,
        )
        assert between.max == pytest.approx(max(after), rel=0.01, abs=1e-300)
        assert between.min == pytest.approx(min(after), rel=0.01, abs=1e-300)


class TestSums:
    @given(
        before=st.lists(MEASUREMENTS, min_size=2, max_size=3),
        after=st.lists(MEASUREMENTS, min_size=3, max_size=3),
        is_folded=st.booleans(),
    )
    def test_the_difference_of_two_sums(
        self, before: list[list[float]], after: list[list[float]], is_folded: bool
    ) -> None:
        """
        What several processes have measured between two sums of their readings is what each has, though one has come since or
        their order is another.
        """
        everyone = [new_histogram() for _ in after]
        for waits, values in zip(everyone, before, strict=False):
            for value in values:
                waits.observe(value)
        first = [reading_of(waits) for waits in everyone]
        for waits, values in zip(everyone, after, strict=True):
            for value in values:
                waits.observe(value)
        last = [reading_of(waits) for waits in everyone]

        then = reduce(SketchReading.plus, first[: len(before)])
        now = reduce(SketchReading.plus, last[::-1] if is_folded else last)
        between = now.since(then)

        expected = sketch_of([value for values in after for value in values])
        assert (between.count, between.zero) == (expected.count, expected.zero)
        assert (between.positive, between.negative) == (expected.positive, expected.negative)

    def test_thousands_of_processes_add_up(self) -> None:
        """
        What 3,000 processes have measured is added up, though Python itself goes only a thousand calls deep.
        """
        waits = new_histogram()
        waits.observe(0.3)
        one = reading_of(waits)

        together = one
        for _ in range(2_999):
            together = together.plus(one)

        assert together.count == 3_000
        assert together.since(None).positive == {math.ceil(64 * math.log2(0.3)): 3_000}
        assert [sum(octave.quarters) for octave in together.positive.values()] == [3_000]

    @given(
        st.lists(st.integers(0, 1000), min_size=64, max_size=64),
        st.lists(st.integers(0, 1000), min_size=64, max_size=64),
    )
    def test_quarters_are_sums_of_buckets(self, one: list[int], other: list[int]) -> None:
        """
        The quarters of an octave, and of a sum of two, are what their buckets add up to.
        """
        for octave, counts in (
            (Octave.of(one), one),
            (Octave.of(one).plus(Octave.of(other)), [mine + theirs for mine, theirs in zip(one, other, strict=True)]),
        ):
            assert list(octave.buckets) == counts
            assert octave.quarters == (counts[0], sum(counts[1:32]), counts[32], sum(counts[33:]))
