"""
What can be said of a median from measurements that are disturbed.

The interval of a median is made of two of the measurements themselves, by the sign test (Conover: Practical
Nonparametric Statistics, 3rd ed., 3.2; Hahn and Meeker: Statistical Intervals, 5.2). It assumes nothing about how a
disturbance is distributed but that it meets both sides of a comparison alike, so a few rounds that took ten times as
long are no more to it than rounds that were a little slow.

Looking again and again until the interval decides would find a difference some day where there is none. So the number
of looks is fixed, and each gets its share of the error that is allowed (Bonferroni; Jennison and Turnbull: Group
Sequential Methods, 2.2, on why a sequence of looks needs it).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import comb, inf
from statistics import median
from typing import NamedTuple

LOOKS = (64, 96, 128, 192, 256, 384, 512, 768, 1536, 3072)  # rounds after which it is asked whether they decide
ERROR = 0.001  # of all looks together, on either side
_EACH = ERROR / len(LOOKS)
_BLOCK = 8
_SLOWER = 1.2


class Interval(NamedTuple):
    """A median, and between what it lies unless the error that is allowed has happened."""

    median: float
    low: float
    high: float


def settled(ratios: Sequence[float], references: Sequence[float]) -> list[float]:
    """
    Those of the *ratios* that were taken while the machine was in its best state.

    A processor whose other half is somebody else's, or that is hot, is slower for a while, and not by the same share for all
    code: 8 % between two programs were seen. The second quickest of eight rounds of the reference tells such a state, which
    no interruption hides. Nothing is chosen by how the operation did, nor by how often the reference was interrupted: either
    would move the median.
    """
    blocks = [
        (ratios[at : at + _BLOCK], sorted(references[at : at + _BLOCK])[:2][-1]) for at in range(0, len(ratios), _BLOCK)
    ]
    bound = _SLOWER * min(state for _, state in blocks)
    return [each for block, state in blocks if state <= bound for each in block]


@cache
def _outside(count: int) -> int | None:
    """How many of *count* measurements may be left out at either end; None where there are too few to say anything."""
    left, chance = None, 0.0
    for rank in range(count // 2):
        chance += comb(count, rank) / 2**count
        if chance > _EACH:
            break
        left = rank
    return left


def median_interval(measured: Sequence[float]) -> Interval:
    """The median of at least one measurement with its interval, which is endless while there are too few."""
    ranked = sorted(measured)
    outside = _outside(len(ranked))
    if outside is None:
        return Interval(median(ranked), -inf, inf)
    return Interval(median(ranked), ranked[outside], ranked[-1 - outside])
