"""
Readings: what a reader sees of a histogram's cells at one instant, and what was measured between two instants.

Nothing here is on the recording path. Readings are never changed, so processes' ones are added up by sharing their parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from math import inf
from operator import add
from struct import Struct

import msgspec

from rfs.monitoring._capture.sketch import BUCKETS_PER_OCTAVE, Sketch, bucket_centre

_BUCKETS_RAW = Struct(f"{BUCKETS_PER_OCTAVE}d")
_unpack_buckets = _BUCKETS_RAW.unpack
_NO_BUCKETS = bytes(_BUCKETS_RAW.size)
_DEEPEST_SUM = 50  # thousands of processes may be added up, but Python calls itself a thousand times at most


class Octave:
    """
    The 64 buckets of one octave at one instant: *raw* is their cells' bytes, or else it is the sum of two *parts*.

    Only what is asked for is added up: an exposition wants halves, a window the buckets that have changed.
    """

    __slots__ = ("_depth", "_parts", "_quarters", "raw")

    def __init__(self, raw: bytes, parts: tuple[Octave, Octave] | None = None) -> None:
        self.raw = raw
        self._parts = parts
        self._depth: int = parts[0]._depth + 1 if parts is not None else 0
        self._quarters: tuple[float, float, float, float] | None = None

    @classmethod
    def of(cls, buckets: Iterable[float]) -> Octave:
        """The octave of these 64 buckets."""
        return cls(_BUCKETS_RAW.pack(*buckets))

    def plus(self, other: Octave) -> Octave:
        """The sum of this octave and that of one more process."""
        one = self if self._depth < _DEEPEST_SUM else Octave.of(self.buckets)
        return Octave(b"", (one, other))

    @property
    def buckets(self) -> Sequence[float]:
        """How many measurements are in each."""
        if self._parts is None:
            return _unpack_buckets(self.raw)
        one, other = self._parts
        return list(map(add, one.buckets, other.buckets))

    def compare(self, before: Octave | None, first: int, found: list[tuple[int, bytes, bytes]]) -> None:
        """
        Add to *found* what tells the difference to *before* (None: nothing): *first* as it is given, and the cells now and then.

        Of sums only the parts are added that are not the same, each by itself: their differences add up.
        """
        if self is before:
            return
        if self._parts is not None and (before is None or before._parts is not None):
            befores = (None, None) if before is None or before._parts is None else before._parts
            for part, part_before in zip(self._parts, befores, strict=True):
                part.compare(part_before, first, found)
        else:
            found.append((first, self._cells(), _NO_BUCKETS if before is None else before._cells()))

    def _cells(self) -> bytes:
        return self.raw if self._parts is None else _BUCKETS_RAW.pack(*self.buckets)

    @property
    def quarters(self) -> tuple[float, float, float, float]:
        """How many are in the first bucket, in the other 31 of the lower half, in the first of the upper half, in the rest."""
        quarters = self._quarters
        if quarters is None:
            if self._parts is None:
                buckets = _unpack_buckets(self.raw)
                quarters = buckets[0], sum(buckets[1:32]), buckets[32], sum(buckets[33:])
            else:
                one, other = self._parts
                a, b, c, d = one.quarters
                e, f, g, h = other.quarters
                quarters = a + e, b + f, c + g, d + h
            self._quarters = quarters
        return quarters


class SketchReading(msgspec.Struct, frozen=True):
    """A histogram's cells at one instant, by octave number; where nothing has changed, `Octave`s are those of the last reading."""

    count: float
    total: float
    zero: float
    minimum: float
    maximum: float
    positive: dict[int, Octave]
    negative: dict[int, Octave]

    @classmethod
    def of(cls, sketch: Sketch) -> SketchReading:
        """The cells of a histogram that has measured *sketch* and nothing else."""
        return cls(
            sketch.count,
            sketch.sum,
            sketch.zero,
            sketch.min,
            sketch.max,
            _octaves_of(sketch.positive),
            _octaves_of(sketch.negative),
        )

    def plus(self, other: SketchReading) -> SketchReading:
        """Add what another process measured of the same series."""
        return SketchReading(
            self.count + other.count,
            self.total + other.total,
            self.zero + other.zero,
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
            _octaves_together(self.positive, other.positive),
            _octaves_together(self.negative, other.negative),
        )

    def since(self, before: SketchReading | None) -> Sketch:
        """What was measured between *before* (None: the start) and this reading."""
        if before is None:
            before = NOTHING_READ
        positive = _bucket_increases(self.positive, before.positive)
        negative = _bucket_increases(self.negative, before.negative)
        zero = int(self.zero - before.zero)
        sketch = Sketch(
            # Counted from the buckets: a measurement may fall between the reading of two blocks.
            count=zero + sum(positive.values()) + sum(negative.values()),
            sum=self.total - before.total,
            zero=zero,
            positive=positive,
            negative=negative,
        )
        sketch.bound_extremes()
        if sketch.count and self.count:
            # A new extreme of the series is an exact extreme of the interval.
            if self.minimum < before.minimum:
                sketch.min = self.minimum
            if self.maximum > before.maximum:
                sketch.max = self.maximum
            sketch.min = max(sketch.min, self.minimum)
            sketch.max = min(sketch.max, self.maximum)
        return sketch

    def lacking(self, known: Sketch) -> SketchReading | None:
        """What *known*, of which this was a part, has in buckets where there is less here; None if that is nothing."""
        mine = self.since(None)
        positive, more = _less_than(mine.positive, known.positive)
        negative, more_negative = _less_than(mine.negative, known.negative)
        zero = max(0, known.zero - mine.zero)
        count = zero + sum(positive.values()) + sum(negative.values())
        if not count:
            return None
        # What was measured here since, in buckets where nothing is lacking, is no part of the sum of *known*.
        total = known.sum - mine.sum + more - more_negative
        return SketchReading.of(Sketch(count, total, zero, known.min, known.max, positive, negative))


NOTHING_READ = SketchReading(0.0, 0.0, 0.0, inf, -inf, {}, {})


def _octaves_of(buckets: Mapping[int, int]) -> dict[int, Octave]:
    counts: dict[int, list[float]] = {}
    for index, count in buckets.items():
        counts.setdefault(index >> 6, [0.0] * BUCKETS_PER_OCTAVE)[index & 63] += count
    return {number: Octave.of(found) for number, found in counts.items()}


def _less_than(mine: Mapping[int, int], known: Mapping[int, int]) -> tuple[dict[int, int], float]:
    """How much less *mine* have than *known*, by bucket; and what those come to that have more."""
    less = {index: count - mine.get(index, 0) for index, count in known.items() if count > mine.get(index, 0)}
    more = sum(bucket_centre(index) * max(0, count - known.get(index, 0)) for index, count in mine.items())
    return less, more


def _octaves_together(one: dict[int, Octave], other: dict[int, Octave]) -> dict[int, Octave]:
    together = dict(one)
    for number, octave in other.items():
        mine = one.get(number)
        together[number] = octave if mine is None else mine.plus(octave)
    return together


def _bucket_increases(now: dict[int, Octave], before: dict[int, Octave]) -> dict[int, int]:
    """By bucket, rising; buckets that have not changed are not there."""
    found: list[tuple[int, bytes, bytes]] = []
    for number in sorted(now):
        now[number].compare(before.get(number), number << 6, found)
    increases: dict[int, int] = {}
    if not found:
        return increases
    # Most buckets rest. Which do not is told by the bits that differ, of all of them at once.
    firsts, after, earlier = zip(*found, strict=True)
    cells, cells_before = b"".join(after), b"".join(earlier)
    differing = int.from_bytes(cells, "little") ^ int.from_bytes(cells_before, "little")
    moved = memoryview(differing.to_bytes(len(cells), "little")).cast("Q").tolist()
    counts, counts_before = memoryview(cells).cast("d"), memoryview(cells_before).cast("d")
    for at in compress(range(len(moved)), moved):
        bucket = firsts[at >> 6] + (at & 63)
        increases[bucket] = increases.get(bucket, 0) + int(counts[at] - counts_before[at])
    return increases if all(increases.values()) else {bucket: each for bucket, each in increases.items() if each}
