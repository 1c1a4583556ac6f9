"""
Sketches: distributions with a guaranteed relative error, which can be added up.

A positive value v falls into bucket ceil(64 * log2(v)), so bucket i covers (2**((i-1)/64), 2**(i/64)]
and any quantile is known to within 0.55 % without anybody choosing bounds. Negative values have the
mirrored range, zero a bucket of its own. This is the exponential histogram of OpenTelemetry's data model at
scale 6, which Prometheus' native histograms share (Masson, Rim, Lee: DDSketch, VLDB 2019, gives the bound).

A `Sketch` is plain data: the difference of two instants of one series, or the sum of several series.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from math import ceil, inf, log2, nan

import msgspec

BUCKETS_PER_OCTAVE = 64
_GROWTH = math.pow(2.0, 1.0 / BUCKETS_PER_OCTAVE)
_CENTRE = 2.0 / (1.0 + _GROWTH)


def bucket_upper_bound(index: int) -> float:
    """The inclusive upper bound of bucket *index*, in the metric's unit."""
    return math.pow(2.0, index / BUCKETS_PER_OCTAVE)


def bucket_centre(index: int) -> float:
    """The point of bucket *index* with the least relative error to both its ends."""
    return bucket_upper_bound(index) * _CENTRE


class Sketch(msgspec.Struct):
    """
    A distribution: bucket index → count, for positive and for negative values.

    ``min`` and ``max`` are exact if the extremes were new in the interval, else within the
    sketch's error. Adding is associative and commutative.
    """

    count: int = 0
    sum: float = 0.0
    zero: int = 0
    min: float = inf
    max: float = -inf
    positive: dict[int, int] = {}
    negative: dict[int, int] = {}

    def observe(self, value: float) -> None:
        """Count one positive, finite measurement; for those that measure seldom, and in one thread."""
        self.count += 1
        self.sum += value
        self.min = min(self.min, value)
        self.max = max(self.max, value)
        index = ceil(log2(value) * BUCKETS_PER_OCTAVE)
        self.positive[index] = self.positive.get(index, 0) + 1

    def add(self, other: Sketch) -> None:
        """Add *other* into this one."""
        self.count += other.count
        self.sum += other.sum
        self.zero += other.zero
        self.min = min(self.min, other.min)
        self.max = max(self.max, other.max)
        for mine, theirs in ((self.positive, other.positive), (self.negative, other.negative)):
            if not mine:
                mine.update(theirs)
                continue
            for index, count in theirs.items():
                mine[index] = mine.get(index, 0) + count

    @property
    def mean(self) -> float:
        """The arithmetic mean; NaN when nothing was measured."""
        return self.sum / self.count if self.count else nan

    def quantile(self, q: float) -> float:
        """
        The value below which the share *q* (0 to 1) lies, within 1 % relative error; NaN when nothing was measured.

        The nearest rank, ``ceil(q * count)``: type 1 of Hyndman and Fan (1996), always a value that was measured.
        """
        if not self.count:
            return nan
        if q <= 0:
            return self.min
        if q >= 1:
            return self.max
        rank = max(0, ceil(q * self.count - 1e-9) - 1)  # 0.07 * 100 is a little more than 7
        seen = 0
        for index in sorted(self.negative, reverse=True):
            seen += self.negative[index]
            if seen > rank:
                return self._clamp(-bucket_centre(index))
        seen += self.zero
        if seen > rank:
            return self._clamp(0.0)
        for index in sorted(self.positive):
            seen += self.positive[index]
            if seen > rank:
                return self._clamp(bucket_centre(index))
        return self.max

    def _clamp(self, value: float) -> float:
        return min(max(value, self.min), self.max)

    def bound_extremes(self) -> None:
        """Set min and max from the outermost buckets, for an interval whose exact extremes are not known."""
        if self.positive:
            self.max = bucket_centre(max(self.positive))
        elif self.zero:
            self.max = 0.0
        elif self.negative:
            self.max = -bucket_centre(min(self.negative))
        if self.negative:
            self.min = -bucket_centre(max(self.negative))
        elif self.zero:
            self.min = 0.0
        elif self.positive:
            self.min = bucket_centre(min(self.positive))


def sum_of(parts: Iterable[Sketch | None]) -> Sketch:
    """All *parts* in one; None is a histogram that is not known."""
    total = Sketch()
    for part in parts:
        if part is not None and part.count:
            total.add(part)
    return total
