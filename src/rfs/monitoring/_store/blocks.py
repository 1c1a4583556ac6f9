"""
Blocks: the points of up to 64 series within a span of time, as one compressed run of bytes.

A point belongs to a slot of its tier: its time is the unix second in which the slot begins. Every column of a series is as
narrow as its values allow, and whole columns are packed and unpacked at once, because Python takes longer for one number than
zstd for a hundred. Each block ends in a checksum; a damaged one is refused as a whole.

Histograms are kept by *rank*: one number per bucket that rises with the value, over negative ones, zero and positive ones. So
the buckets of a point are one sorted run, and a quantile is one search in their running sum.

Nothing here does I/O, or knows what a series is called.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import accumulate, pairwise
from math import ceil, inf
from operator import sub
from struct import Struct
from typing import NamedTuple

import zstandard

from rfs.monitoring._capture.pace import breathe
from rfs.monitoring._capture.readings import SketchReading
from rfs.monitoring._capture.sketch import Sketch, bucket_centre

MAX_BLOCK_BYTES = 64 << 20  # unpacked; a damaged length must not take the memory
_LEVEL = 3
_ORIGIN = 1 << 18  # rank of the positive bucket 0; buckets of doubles have indices within ±68,800
_MAX_WHOLE = float(1 << 52)  # a thousand times the difference of two such fits into 64 bits
_SCALES = (1, 10, 100, 1000)

# A column's code: its type in the low bits, then whether it is differences, then the power of ten that its values were scaled by.
_TYPES = "bhiqd"
_DOUBLE = _TYPES.index("d")
_WIDTHS = tuple(array(one).itemsize for one in _TYPES)
_IS_DIFFERENCES = 8
_SCALE_SHIFT = 4
_WIDEST = 1 << 14  # ranks that a list is made for
_EVERY = 7  # of times: every slot from the first on, and no column


class Measured(NamedTuple):
    """What a histogram measured within one slot, at least once: the ranks of the buckets that it fell into, rising, and how often."""

    sum: float
    min: float
    max: float
    ranks: Sequence[int]
    counts: Sequence[int]


ValuePoints = tuple[Sequence[int], Sequence[float]]  # times, rising, and their values
SketchPoints = tuple[Sequence[int], Sequence[Measured]]


class BlockError(ValueError):
    """These bytes are no block: they were damaged."""


class Codec:
    """Compresses and decompresses with a checksum. Not safe to use from two threads at once."""

    def __init__(self) -> None:
        self._compress = zstandard.ZstdCompressor(_LEVEL, write_checksum=True).compress
        self._decompress = zstandard.ZstdDecompressor().decompress

    def pack(self, content: bytes) -> bytes:
        """Compress *content*."""
        return self._compress(content)

    def unpack(self, packed: bytes) -> bytes:
        """
        Undo `pack`.

        Raises:
            BlockError: *packed* was damaged.
        """
        try:
            if not 0 <= zstandard.frame_content_size(packed) <= MAX_BLOCK_BYTES:
                raise BlockError("has an impossible size")
            return self._decompress(packed)
        except zstandard.ZstdError as error:
            raise BlockError(str(error)) from error


# Ranks


def measured(sketch: Sketch) -> Measured:
    """*sketch* by rank; it has measured something."""
    ranks: list[int] = []
    counts: list[int] = []
    if sketch.negative:
        indexes = sorted(sketch.negative, reverse=True)
        ranks += [-_ORIGIN - index for index in indexes]
        counts += [sketch.negative[index] for index in indexes]
    if sketch.zero:
        ranks.append(0)
        counts.append(sketch.zero)
    indexes = sorted(sketch.positive)
    ranks += [_ORIGIN + index for index in indexes]
    counts += [sketch.positive[index] for index in indexes]
    return Measured(sketch.sum, sketch.min, sketch.max, ranks, counts)


def together(parts: Sequence[Measured]) -> Measured:
    """All *parts*, of which there is one at least, as one."""
    if len(parts) == 1:
        return parts[0]
    counts = _counts(parts)
    ranks = sorted(counts)
    return Measured(
        sum(part.sum for part in parts),
        min(part.min for part in parts),
        max(part.max for part in parts),
        ranks,
        [counts[rank] for rank in ranks],
    )


def compact(part: Measured) -> Measured:
    """The same in little memory."""
    return part._replace(ranks=array("i", part.ranks), counts=array("q", part.counts))


def sketch_of(parts: Sequence[Measured]) -> Sketch:
    """The sketch of all *parts* together; what `beyond` found missing is taken from the others."""
    counts = _counts(parts)
    if counts and min(counts.values()) <= 0:  # `beyond` has taken them back
        counts = {rank: count for rank, count in counts.items() if count > 0}
    total = Sketch(count=sum(counts.values()), zero=counts.pop(0, 0))
    ranks = sorted(counts)  # so that who looks for quantiles has little to sort
    above = bisect_left(ranks, 0)
    total.positive = {rank - _ORIGIN: counts[rank] for rank in ranks[above:]}
    total.negative = {-rank - _ORIGIN: counts[rank] for rank in ranks[:above]}
    for part in parts:
        total.sum += part.sum
        total.min = min(total.min, part.min)
        total.max = max(total.max, part.max)
    return total


def beyond(reading: SketchReading, before: Measured | None) -> Measured | None:
    """
    What *reading* has measured beyond *before* (None: nothing); None if that is nothing.

    Where *before* knows of more, counts are negative; extremes are those of `SketchReading.since`.
    """
    counts: dict[int, int] = {}
    for sign, octaves in ((1, reading.positive), (-1, reading.negative)):
        for number, octave in octaves.items():
            first = sign * ((number << 6) + _ORIGIN)
            for offset, count in enumerate(octave.buckets):
                if count:
                    counts[first + sign * offset] = int(count)
    if reading.zero:
        counts[0] = int(reading.zero)
    least, largest = inf, -inf
    total = reading.total
    if before is not None:
        known = counts.get
        for rank, count in zip(before.ranks, before.counts, strict=True):
            counts[rank] = known(rank, 0) - count
        least, largest, total = before.min, before.max, total - before.sum
    ranks = sorted(rank for rank, count in counts.items() if count)
    if not ranks:
        return None
    risen = [rank for rank in ranks if counts[rank] > 0]
    low, high = (value_of(risen[0]), value_of(risen[-1])) if risen else (inf, -inf)
    if risen and reading.count:
        low = reading.minimum if reading.minimum < least else max(low, reading.minimum)
        high = reading.maximum if reading.maximum > largest else min(high, reading.maximum)
    return Measured(total, low, high, ranks, [counts[rank] for rank in ranks])


def count_of(reading: SketchReading) -> int:
    """How many measurements are in the buckets of *reading*: at most those under way more than its count."""
    octaves = (*reading.positive.values(), *reading.negative.values())
    return int(reading.zero + sum(sum(octave.quarters) for octave in octaves))


def _counts(parts: Sequence[Measured]) -> dict[int, int]:
    if not parts:
        return {}
    lengths = [len(part.ranks) for part in parts]
    largest = lengths.index(max(lengths))
    counts = dict(zip(parts[largest].ranks, parts[largest].counts, strict=True))
    known = counts.get
    for index, part in enumerate(parts):
        if index != largest:
            for rank, count in zip(part.ranks, part.counts, strict=True):
                counts[rank] = known(rank, 0) + count
    return counts


def value_of(rank: int) -> float:
    """The value that stands for the bucket of *rank*."""
    if rank > 0:
        return bucket_centre(rank - _ORIGIN)
    return -bucket_centre(-rank - _ORIGIN) if rank else 0.0


# Columns


def _pack_whole(numbers: Sequence[int]) -> tuple[int, bytes]:
    """The code and the bytes of a column of whole numbers within ±2**63."""
    low, high = (min(numbers), max(numbers)) if numbers else (0, 0)
    largest = max(-low - 1, high)
    code = 0 if largest < 1 << 7 else 1 if largest < 1 << 15 else 2 if largest < 1 << 31 else 3
    return code, _by_plane(array(_TYPES[code], numbers).tobytes(), _WIDTHS[code])


def _pack_column(values: Sequence[float]) -> tuple[int, bytes]:
    """The code and the bytes of a column of any numbers, exactly."""
    exact = array("d", values)
    for scale, factor in enumerate(_SCALES):
        whole = _whole(exact, factor)
        if whole is None:
            continue
        differences = [whole[0], *map(sub, whole[1:], whole)]
        # Gauges change by little; increases of counters are small themselves.
        code, packed = _pack_whole(whole)
        of_differences, packed_differences = _pack_whole(differences)
        if len(packed_differences) < len(packed):
            return of_differences | _IS_DIFFERENCES | scale << _SCALE_SHIFT, packed_differences
        return code | scale << _SCALE_SHIFT, packed
    return _DOUBLE, _by_plane(exact.tobytes(), 8)


def _whole(values: array[float], factor: int) -> list[int] | None:
    """*values* times *factor*, if these are whole numbers from which the very same bits come back."""
    if not -_MAX_WHOLE < min(values) <= max(values) < _MAX_WHOLE:  # NaN, too, is not
        return None
    try:
        if factor == 1:
            whole = list(map(int, values))
            back = array("d", whole)
        else:
            whole = [round(value * factor) for value in values]
            back = array("d", [number / factor for number in whole])
    except ValueError:  # a NaN among others
        return None
    return whole if back.tobytes() == values.tobytes() else None


def _unpack_array(code: int, content: bytes) -> array[int]:
    numbers: array[int] = array(_TYPES[code & 7])
    numbers.frombytes(_by_number(content, _WIDTHS[code & 7]))
    return numbers


def _unpack_whole(code: int, content: bytes) -> list[int]:
    return _unpack_array(code, content).tolist()


def _unpack_column(code: int, content: bytes) -> Sequence[float]:
    if code == _DOUBLE:
        doubles = array("d")
        doubles.frombytes(_by_number(content, 8))
        return doubles
    numbers = _unpack_whole(code, content)
    if code & _IS_DIFFERENCES:
        numbers = list(accumulate(numbers))
    factor = _SCALES[code >> _SCALE_SHIFT]
    return numbers if factor == 1 else [number / factor for number in numbers]


def _by_plane(content: bytes, width: int) -> bytes:
    # First the lowest bytes of all numbers, and so on: what is alike stands together.
    return content if width == 1 else b"".join([content[plane::width] for plane in range(width)])


def _by_number(content: bytes, width: int) -> bytes | bytearray:
    if width == 1:
        return content
    numbers, length = bytearray(len(content)), len(content) // width
    for plane in range(width):
        numbers[plane::width] = content[plane * length : (plane + 1) * length]
    return numbers


def _width(code: int) -> int:
    return _WIDTHS[code & 7]


# Blocks. One whose series all have a single point, at one time, is kept across them: as if it were one series, whose points are
# the slots in the group. Else each series stands for itself.

_ACROSS = b"\1"
_APART = b"\0"
_TIME = Struct("<q")
_VALUES_HEAD = Struct("<BHBBq")  # slot in the group, points, codes of the two columns, first time in slots of the tier
_SKETCH_HEAD = Struct(
    "<BHIHHqiBBBB"
)  # …, points, entries, given minima and maxima, first time, middle rank, codes of 4 columns


def single_time(series: Mapping[int, tuple[Sequence[int], Sequence[object]]]) -> int | None:
    """The time that is all that the points of *series* have; None if there are others."""
    times = {tuple(times[:2]) for times, _ in series.values()}
    if len(times) != 1:
        return None
    (found,) = times
    return found[0] if len(found) == 1 else None


def pack_values(series: Mapping[int, ValuePoints], width: int) -> bytes:
    """
    The block of counters or gauges, by their slot in the group; not yet compressed.

    Args:
        series: Not empty. Times are multiples of *width*, and rise; no series is without points.
        width: Seconds per slot of the tier.
    """
    time = single_time(series)
    if time is None:
        return _APART + _pack_values(series, width)
    slots = sorted(series)
    return _ACROSS + _TIME.pack(time) + _pack_values({0: (slots, [series[slot][1][0] for slot in slots])}, 1)


def _pack_values(series: Mapping[int, ValuePoints], width: int) -> bytes:
    heads, columns = [len(series).to_bytes(2, "little")], list[bytes]()
    for slot, (times, values) in series.items():
        breathe()
        time_code, packed_times = _pack_times(times, width)
        code, packed = _pack_column(values)
        heads.append(_VALUES_HEAD.pack(slot, len(times), time_code, code, times[0] // width))
        columns += packed_times, packed
    return b"".join(heads + columns)


def _pack_times(times: Sequence[int], width: int) -> tuple[int, bytes]:
    if times[-1] - times[0] == (len(times) - 1) * width:
        return _EVERY, b""
    return _pack_whole([(after - before) // width for before, after in pairwise(times)])


def _times_bytes(points: int, code: int) -> int:
    return 0 if code == _EVERY else (points - 1) * _width(code)


def _unpack_times(content: bytes, points: int, code: int, first: int, width: int) -> Sequence[int]:
    if code == _EVERY:
        return range(first * width, (first + points) * width, width)
    return list(accumulate([step * width for step in _unpack_whole(code, content)], initial=first * width))


def _within(times: Sequence[int], start: int, end: int) -> tuple[int, int]:
    return bisect_left(times, start), bisect_left(times, end)


class ValueBlock:
    """
    What `pack_values` made, read as far as it is asked for.

    Raises:
        BlockError: *content* is no such block.
    """

    def __init__(self, content: bytes, width: int) -> None:
        self._content = content
        self._time: int | None = None
        self._across: dict[int, float] = {}
        self._parts: dict[int, tuple[int, ...]] = {}
        try:
            begin = 1
            if content[:1] == _ACROSS:
                (self._time,) = _TIME.unpack_from(content, 1)
                begin, width = 1 + _TIME.size, 1
            self._width = width
            at = begin + 2 + int.from_bytes(content[begin : begin + 2], "little") * _VALUES_HEAD.size
            for slot, points, time_code, code, first in _VALUES_HEAD.iter_unpack(content[begin + 2 : at]):
                self._parts[slot] = at, points, time_code, code, first
                at += _times_bytes(points, time_code) + points * _width(code)
        except (struct.error, IndexError) as error:
            raise BlockError(str(error)) from error
        if at != len(content):
            raise BlockError("has a wrong length")
        if self._time is not None:
            self._across = dict(zip(*self._part(self._parts[0]), strict=True))

    def _part(self, part: tuple[int, ...]) -> ValuePoints:
        at, points, time_code, code, first = part
        values_at = at + _times_bytes(points, time_code)
        times = _unpack_times(self._content[at:values_at], points, time_code, first, self._width)
        return times, _unpack_column(code, self._content[values_at : values_at + points * _width(code)])

    def __iter__(self) -> Iterator[int]:
        """The slots of the series in it."""
        return iter(self._parts if self._time is None else self._across)

    def get(self, slot: int) -> ValuePoints | None:
        """The points of one series; None if it has none here."""
        if self._time is not None:
            value = self._across.get(slot)
            return None if value is None else ((self._time,), (value,))
        part = self._parts.get(slot)
        return None if part is None else self._part(part)

    def sums(self, start: int, end: int, slots: AbstractSet[int]) -> Iterator[tuple[int, float]]:
        """Per series, of those with these *slots*, the sum of its values from *start* to before *end*."""
        if self._time is None:
            for slot in slots & self._parts.keys():
                yield slot, sum_within(*self._part(self._parts[slot]), start, end)
        elif start <= self._time < end:
            for slot in slots & self._across.keys():
                yield slot, self._across[slot]


def sum_within(times: Sequence[int], values: Sequence[float], start: int, end: int) -> float:
    """The sum of *values* whose *times* are from *start* to before *end*."""
    if not times or (start <= times[0] and times[-1] < end):
        return sum(values)
    first, last = _within(times, start, end)
    return sum(values[first:last])


def pack_sketches(series: Mapping[int, SketchPoints], width: int) -> bytes:
    """The block of histograms; else as `pack_values`."""
    time = single_time(series)
    if time is None:
        return _APART + _pack_sketches(series, width)
    slots = sorted(series)
    return _ACROSS + _TIME.pack(time) + _pack_sketches({0: (slots, [series[slot][1][0] for slot in slots])}, 1)


def _pack_sketches(series: Mapping[int, SketchPoints], width: int) -> bytes:
    heads, columns = [len(series).to_bytes(2, "little")], list[bytes]()
    for slot, (times, points) in series.items():
        breathe()
        lengths: list[int] = []
        ranks: list[int] = []
        counts: list[int] = []
        minima, maxima = _Given(), _Given()
        for index, point in enumerate(points):
            lengths.append(len(point.ranks))
            ranks += point.ranks
            counts += point.counts
            minima.note(index, point.min, value_of(point.ranks[0]))
            maxima.note(index, point.max, value_of(point.ranks[-1]))
        time_code, packed_times = _pack_times(times, width)
        sum_code, packed_sums = _pack_column([point.sum for point in points])
        middle = (min(ranks) + max(ranks)) // 2
        rank_code, packed_ranks = _pack_whole([rank - middle for rank in ranks])
        count_code, packed_counts = _pack_whole(counts)
        codes = time_code, sum_code, rank_code, count_code
        sizes = len(times), len(ranks), len(minima.at), len(maxima.at)
        heads.append(_SKETCH_HEAD.pack(slot, *sizes, times[0] // width, middle, *codes))
        columns += packed_times, packed_sums, minima.packed(), maxima.packed()
        columns += array("I", lengths).tobytes(), packed_ranks, packed_counts
    return b"".join(heads + columns)


class _Given:
    """Extremes that do not follow from the outermost bucket."""

    def __init__(self) -> None:
        self.at = array("H")
        self._values = array("d")

    def note(self, index: int, value: float, follows: float) -> None:
        if value != follows:
            self.at.append(index)
            self._values.append(value)

    def packed(self) -> bytes:
        return self.at.tobytes() + self._values.tobytes()


class SketchColumns:
    """Points of histograms, by index."""

    __slots__ = ("_counts", "_ends", "_maxima", "_middle", "_minima", "_ranks", "_running", "_sums")

    def __init__(
        self,
        sums: Sequence[float],
        ends: Sequence[int],
        middle: int,
        ranks: array[int],
        counts: array[int],
        minima: Mapping[int, float],
        maxima: Mapping[int, float],
    ) -> None:
        self._sums = sums
        self._ends = ends  # point i has the entries from the i-th to before the next
        self._middle = middle
        self._ranks = ranks  # less the middle one
        self._counts = counts
        self._running: list[int] | None = None  # the sum of the counts before each entry, once it is asked for
        self._minima = minima
        self._maxima = maxima

    def count(self, index: int) -> int:
        """How often point *index* measured."""
        return sum(self._counts[self._ends[index] : self._ends[index + 1]])

    def quantile(self, index: int, q: float) -> float:
        """`Sketch.quantile` of point *index*."""
        begin, end = self._ends[index], self._ends[index + 1]
        low, high = self._minima.get(index), self._maxima.get(index)
        if q <= 0 or q >= 1:
            given, entry = (low, begin) if q <= 0 else (high, end - 1)
            return value_of(self._middle + self._ranks[entry]) if given is None else given
        running = self._running
        if running is None:
            running = self._running = list(accumulate(self._counts, initial=0))
        before = running[begin]
        wanted = max(1, ceil(q * (running[end] - before) - 1e-9))  # 0.07 * 100 is a little more than 7
        entry = bisect_left(running, before + wanted, begin + 1, end + 1) - 1
        value = value_of(self._middle + self._ranks[entry])
        if low is not None and value < low:
            value = low
        return high if high is not None and value > high else value

    def total(self, first: int, last: int) -> Measured:
        """What the points from *first* to before *last* measured; there is one at least."""
        ends = self._ends
        ranks, counts = self._ranks[ends[first] : ends[last]], self._counts[ends[first] : ends[last]]
        lowest, highest = min(ranks), max(ranks)
        points = range(first, last)
        if last - first == 1 or highest - lowest > _WIDEST:
            return together(list(map(self.point, points)))
        # A list is quicker than a dict, and this is what a summary of many histograms spends its time with.
        sums = [0] * (highest - lowest + 1)
        for rank, count in zip(ranks, counts, strict=True):
            sums[rank - lowest] += count
        found = [(rank, count) for rank, count in enumerate(sums, self._middle + lowest) if count]
        lows = [value for index in points if (value := self._minima.get(index)) is not None]
        highs = [value for index in points if (value := self._maxima.get(index)) is not None]
        if len(lows) < len(points):
            least = min(self._ranks[ends[index]] for index in points if index not in self._minima)
            lows.append(value_of(self._middle + least))
        if len(highs) < len(points):
            largest = max(self._ranks[ends[index + 1] - 1] for index in points if index not in self._maxima)
            highs.append(value_of(self._middle + largest))
        total = sum(self._sums[first:last])
        return Measured(total, min(lows), max(highs), [rank for rank, _ in found], [count for _, count in found])

    def point(self, index: int) -> Measured:
        """What point *index* measured."""
        begin, end = self._ends[index], self._ends[index + 1]
        middle = self._middle
        ranks = [middle + rank for rank in self._ranks[begin:end]]
        low, high = self._minima.get(index), self._maxima.get(index)
        return Measured(
            self._sums[index],
            value_of(ranks[0]) if low is None else low,
            value_of(ranks[-1]) if high is None else high,
            ranks,
            self._counts[begin:end].tolist(),
        )


class SketchPart(NamedTuple):
    """Points of one series of a `SketchBlock`: their times, and the index in *columns* of the first."""

    times: Sequence[int]
    columns: SketchColumns
    first: int

    def points(self) -> list[Measured]:
        """What was measured at each of the times."""
        return list(map(self.columns.point, range(self.first, self.first + len(self.times))))

    def total(self) -> Measured:
        """What was measured at all of them."""
        return self.columns.total(self.first, self.first + len(self.times))


class SketchBlock:
    """
    What `pack_sketches` made, read as far as it is asked for.

    Raises:
        BlockError: *content* is no such block.
    """

    def __init__(self, content: bytes, width: int) -> None:
        self._content = content
        self._time: int | None = None
        self._across: dict[int, int] = {}  # slot → index of its point
        self._columns: SketchColumns | None = None
        self._parts: dict[int, tuple[int, tuple[int, ...]]] = {}
        self._read: dict[int, SketchPart] = {}  # by slot what was asked for: whoever keeps a block asks again
        try:
            begin = 1
            if content[:1] == _ACROSS:
                (self._time,) = _TIME.unpack_from(content, 1)
                begin, width = 1 + _TIME.size, 1
            self._width = width
            at = begin + 2 + int.from_bytes(content[begin : begin + 2], "little") * _SKETCH_HEAD.size
            for slot, *head in _SKETCH_HEAD.iter_unpack(content[begin + 2 : at]):
                points, entries, minima, maxima, _, _, time_code, sum_code, rank_code, count_code = head
                self._parts[slot] = at, tuple(head)
                at += _times_bytes(points, time_code) + points * (_width(sum_code) + 4) + 10 * (minima + maxima)
                at += entries * (_width(rank_code) + _width(count_code))
        except (struct.error, IndexError) as error:
            raise BlockError(str(error)) from error
        if at != len(content):
            raise BlockError("has a wrong length")
        if self._time is not None:
            slots, self._columns, _ = self._part(*self._parts[0])
            self._across = {slot: index for index, slot in enumerate(slots)}

    def _part(self, at: int, head: tuple[int, ...]) -> SketchPart:
        points, entries, minima, maxima, first_time, middle, time_code, sum_code, rank_code, count_code = head
        content = self._content
        end = at + _times_bytes(points, time_code)
        times = _unpack_times(content[at:end], points, time_code, first_time, self._width)
        at, end = end, end + points * _width(sum_code)
        sums = _unpack_column(sum_code, content[at:end])
        at, end = end, end + 10 * minima
        low = _unpack_given(content[at:end], minima)
        at, end = end, end + 10 * maxima
        high = _unpack_given(content[at:end], maxima)
        at, end = end, end + 4 * points
        ends = list(accumulate(array("I", content[at:end]), initial=0))
        at, end = end, end + entries * _width(rank_code)
        ranks = _unpack_array(rank_code, content[at:end])
        counts = _unpack_array(count_code, content[end : end + entries * _width(count_code)])
        columns = SketchColumns(sums, ends, middle, ranks, counts, low, high)
        return SketchPart(times, columns, 0)

    def __iter__(self) -> Iterator[int]:
        """The slots of the series in it."""
        return iter(self._parts if self._time is None else self._across)

    def get(self, slot: int, start: int, until: int) -> SketchPart | None:
        """The points of one series from *start* to before *until*; None if it has none here."""
        if self._time is not None and self._columns is not None:
            index = self._across.get(slot)
            return (
                None
                if index is None or not start <= self._time < until
                else SketchPart((self._time,), self._columns, index)
            )
        part = self._read.get(slot)
        if part is None:
            if slot not in self._parts:
                return None
            part = self._read[slot] = self._part(*self._parts[slot])
        first, last = _within(part.times, start, until)
        return SketchPart(part.times[first:last], part.columns, first) if first < last else None


def _unpack_given(content: bytes, count: int) -> dict[int, float]:
    if not count:
        return {}
    return dict(zip(array("H", content[: 2 * count]), array("d", content[2 * count :]), strict=True))
