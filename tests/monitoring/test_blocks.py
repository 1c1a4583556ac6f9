"""Blocks give back what was put in, bit for bit; sketches by rank are sketches."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfs.monitoring._capture.sketch import Sketch
from rfs.monitoring._store.blocks import (
    BlockError,
    Codec,
    Measured,
    SketchBlock,
    ValueBlock,
    measured,
    pack_sketches,
    pack_values,
    sketch_of,
    together,
)

WIDTHS = st.sampled_from([1, 10, 60, 3_600])
START = 1_800_000_000
FAR = 1 << 62
SLOTS = st.integers(0, 63)
NUMBERS = st.one_of(
    st.floats(),
    st.integers(-(1 << 60), 1 << 60).map(float),
    st.integers(-999, 999).map(lambda number: number / 10),
    st.integers(0, 20).map(float),
)
MEASUREMENTS = st.lists(
    st.one_of(st.floats(-1e300, 1e300, allow_subnormal=False), st.sampled_from([0.0, 1.0, 1.0, 2.5])),
    min_size=1,
    max_size=30,
)


def sketch(values: list[float]) -> Sketch:
    made = Sketch(count=len(values), sum=math.fsum(values))
    for value in values:
        if value == 0:
            made.zero += 1
            continue
        buckets = made.positive if value > 0 else made.negative
        index = math.ceil(64 * math.log2(abs(value)))
        buckets[index] = buckets.get(index, 0) + 1
    made.bound_extremes()
    return made


def bits(values: Iterable[float]) -> bytes:
    return array("d", values).tobytes()


@st.composite
def times(draw: st.DrawFn, width: int) -> list[int]:
    first = START - START % width
    slots = draw(st.one_of(st.sets(st.integers(0, 3_599), min_size=1, max_size=40), st.integers(1, 60).map(range)))
    return [first + width * slot for slot in sorted(slots)]


@st.composite
def value_series(draw: st.DrawFn, width: int) -> dict[int, tuple[list[int], list[float]]]:
    series: dict[int, tuple[list[int], list[float]]] = {}
    for slot in draw(st.sets(SLOTS, min_size=1, max_size=5)):
        at = draw(times(width))
        kind = draw(
            st.sampled_from([NUMBERS, st.integers(0, 20).map(float), st.integers(0, 999).map(lambda n: n / 10)])
        )
        series[slot] = at, draw(st.lists(kind, min_size=len(at), max_size=len(at)))
    return series


class TestValues:
    @given(st.data(), WIDTHS)
    def test_bit_for_bit(self, data: st.DataObject, width: int) -> None:
        """
        Any numbers come back as they were, -0.0, NaN and the infinities included, each series by itself.
        """
        series = data.draw(value_series(width))
        codec = Codec()

        block = ValueBlock(codec.unpack(codec.pack(pack_values(series, width))), width)

        assert set(block) == set(series)
        for slot, (at, values) in series.items():
            found = block.get(slot)
            assert found is not None
            assert list(found[0]) == at
            assert bits(found[1]) == bits(values)

    @given(st.data(), WIDTHS, st.integers(0, 3_700), st.integers(0, 3_700))
    def test_sums_of_a_range(self, data: st.DataObject, width: int, one: int, other: int) -> None:
        """
        The sums of a range are those of the points in it, whether the block has one time or many.
        """
        series = data.draw(
            value_series(width).filter(lambda found: all(math.isfinite(sum(values)) for _, values in found.values()))
        )
        start, end = (START + width * offset for offset in sorted((one, other)))

        found = dict(ValueBlock(pack_values(series, width), width).sums(start, end, set(series)))

        for slot, (at, values) in series.items():
            within = [value for time, value in zip(at, values, strict=True) if start <= time < end]
            assert found.get(slot, 0) == pytest.approx(sum(within))

    @pytest.mark.parametrize("second", [0, 2_147_483_600, 253_402_300_799])
    def test_any_year(self, second: int) -> None:
        """
        C4. A clock may say 1970, 2038 or 9999.
        """
        series = {4: ([second, second + 1], [1.0, 2.0])}
        points = {4: ([second, second + 1], [measured(sketch([1.0])), measured(sketch([2.0]))])}

        found = ValueBlock(pack_values(series, 1), 1).get(4)
        part = SketchBlock(pack_sketches(points, 1), 1).get(4, 0, FAR)

        assert found is not None
        assert list(found[0]) == [second, second + 1]
        assert part is not None
        assert list(part.times) == [second, second + 1]

    def test_regular_gauges_take_two_bytes(self) -> None:
        """
        A gauge with a decimal place, and one of bytes, take at most two bytes per point (FEATURES: J4).
        """
        at = list(range(START, START + 60))
        percent = [40 + (n * 7919 % 201 - 100) / 10 for n in range(60)]
        resident = [2e8 + 4_096 * (n * 31 % 17) for n in range(60)]
        block = pack_values({slot: (at, percent if slot % 2 else resident) for slot in range(64)}, 1)

        assert len(Codec().pack(block)) <= 2 * 60 * 64


class TestSketches:
    @given(st.data(), WIDTHS)
    def test_bit_for_bit(self, data: st.DataObject, width: int) -> None:
        """
        Every point comes back as it was.
        """
        series: dict[int, tuple[list[int], list[Measured]]] = {}
        for slot in data.draw(st.sets(SLOTS, min_size=1, max_size=4)):
            at = data.draw(times(width))[:6]
            series[slot] = at, [measured(sketch(data.draw(MEASUREMENTS))) for _ in at]
        codec = Codec()

        block = SketchBlock(codec.unpack(codec.pack(pack_sketches(series, width))), width)

        assert set(block) == set(series)
        for slot, (at, points) in series.items():
            part = block.get(slot, 0, FAR)
            assert part is not None
            assert list(part.times) == at
            assert part.points() == points
            for index, point in enumerate(points):
                assert part.columns.count(part.first + index) == sum(point.counts)
        assert block.get(next(slot for slot in range(64) if slot not in series), 0, FAR) is None

    @given(st.lists(MEASUREMENTS, min_size=1, max_size=5), st.floats(0, 1), st.integers(0, 5), st.integers(0, 5))
    def test_a_part_of_it(self, all_values: list[list[float]], q: float, one: int, other: int) -> None:
        """
        Of a range the points are the same, and so are their quantiles.
        """
        sketches = [sketch(values) for values in all_values]
        at = [START + 7 * index for index in range(len(sketches))]
        content = pack_sketches(
            {3: (at, [measured(each) for each in sketches]), 5: ([START], [measured(sketches[0])])}, 1
        )
        begin, end = sorted((one, other))

        part = SketchBlock(content, 1).get(3, START + 7 * begin, START + 7 * end)

        expected = sketches[begin:end]
        assert (part is None) == (not expected)
        if part is not None:
            assert [sketch_of([point]) for point in part.points()] == expected
            total = sketch_of([together(part.points())])
            total.sum = cast("float", pytest.approx(total.sum, abs=1e290))
            assert sketch_of([part.total()]) == total
            for index, each in enumerate(expected, part.first):
                assert part.columns.quantile(index, q) == each.quantile(q)

    def test_very_many_buckets(self) -> None:
        """
        E13. A point may have more buckets than anybody would think of.
        """
        ranks = list(range(-327_000, -257_000))
        point = Measured(1.0, -1.0, 1.0, ranks, [1] * len(ranks))

        part = SketchBlock(pack_sketches({0: ([START, START + 1], [point, point])}, 1), 1).get(0, 0, FAR)

        assert part is not None
        assert part.points() == [point, point]
        assert part.total().counts == [2] * len(ranks)

    @given(st.lists(MEASUREMENTS, min_size=1, max_size=6))
    def test_by_rank_is_the_same(self, all_values: list[list[float]]) -> None:
        """
        Several added by rank are what they are added as sketches.
        """
        expected = Sketch()
        for values in all_values:
            expected.add(sketch(values))

        found = sketch_of([together([measured(sketch(values)) for values in all_values])])

        expected.sum = cast("float", pytest.approx(expected.sum, abs=1e290))
        assert found == expected


class TestB15DamagedBytes:
    @given(st.data())
    def test_any_byte(self, data: st.DataObject) -> None:
        """
        Whatever byte is changed, the block is refused as a whole, and never read wrongly.
        """
        codec = Codec()
        content = pack_values(data.draw(value_series(1)), 1)
        packed = bytearray(codec.pack(content))
        at = data.draw(st.integers(0, len(packed) - 1))
        packed[at] ^= data.draw(st.integers(1, 255))

        try:
            found = codec.unpack(bytes(packed))
        except BlockError:
            return
        assert found == content  # some bits of a header mean nothing


class TestNoBlock:
    @given(st.binary(max_size=300))
    @pytest.mark.parametrize("kind", [ValueBlock, SketchBlock])
    def test_is_refused(self, kind: type[ValueBlock | SketchBlock], content: bytes) -> None:
        """
        Bytes that are no block are refused with the one error that is for it.
        """
        try:
            kind(content, 1)
        except BlockError:
            return
        assert content[:1] in (b"\0", b"\1")

    def test_impossible_length(self) -> None:
        """
        A block that claims to be larger than any is refused before memory is taken for it.
        """
        packed = bytearray(Codec().pack(bytes(300)))
        claimed = b"\x28\xb5\x2f\xfd\xe4" + (1 << 60).to_bytes(8, "little") + bytes(packed[6:])

        with pytest.raises(BlockError, match="impossible size"):
            Codec().unpack(claimed)
