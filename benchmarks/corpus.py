"""
What the loops of all environments record and measure: the same values, from one seed, made before any clock starts.

Every order id is new to whoever remembers the last few thousand texts; the other fields repeat, as they do in a service.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice, repeat
from random import Random

_random = Random(20240229)

RING = (1 << 15) - 1  # `number & RING` is an index into the lists below

ORDER_IDS = [f"ord_{_random.getrandbits(40):010x}" for _ in range(RING + 1)]
SECONDS = [_random.lognormvariate(-4.0, 1.0) for _ in range(RING + 1)]  # median 18 ms
CORRELATION_ID = "req_8f14e45fceea167a"


def durations(count: int) -> Iterator[float]:
    """Return *count* of `SECONDS`, over and over; getting at them costs next to nothing."""
    return islice(chain.from_iterable(repeat(SECONDS)), count)
