"""
What the loops of all environments record and measure: the same values, from one seed, made before any clock starts.

Every order id is new to whoever remembers the last few thousand texts; the other fields repeat, as they do in a service.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice, repeat
from random import Random
from typing import Any, NamedTuple

_random = Random(20240229)

RING = (1 << 15) - 1  # `number & RING` is an index into the lists below

ORDER_IDS = [f"ord_{_random.getrandbits(40):010x}" for _ in range(RING + 1)]
SECONDS = [_random.lognormvariate(-4.0, 1.0) for _ in range(RING + 1)]  # median 18 ms
CORRELATION_ID = "req_8f14e45fceea167a"


OPERATIONS = [f"orders.op{number}" for number in range(20)]
CODES = [f"E{number}" for number in range(8)]
RECORDS_PER_ID = 5
DAY = 86_400
START_NS = 1_800_000_000 // DAY * DAY * 1_000_000_000
_KINDS = ("request_start", "operation_start", "step", "operation", "request")
_MESSAGES = ("Request started", "Operation started", "Step completed", "Operation completed", "Request completed")
_STEPS = ("validate", "reserve", "charge", "save")


class Past(NamedTuple):
    """A record of a service's past: of a request there are `RECORDS_PER_ID`, and about 250 bytes of JSON of each."""

    time_ns: int
    level: int
    kind: str
    operation: str
    step: str
    message: str
    correlation_id: str
    span_id: str
    parent_span_id: str
    outcome: str
    duration_seconds: float | None
    fields: dict[str, Any]
    code: str


def past(count: int) -> Iterator[Past]:
    """Return the same *count* records each time, a day's, in order of time: of `OPERATIONS`, and 3 % of the requests fail."""
    chance = Random(20240301)
    bits, below = chance.getrandbits, chance.randrange
    step_ns = DAY * 1_000_000_000 // count
    for number in range(count):
        kind = number % RECORDS_PER_ID
        if not kind:
            identity, span, parent = f"{bits(128):032x}", f"{bits(64):016x}", f"{bits(64):016x}"
            operation = OPERATIONS[below(20)]
            code = CODES[below(8) & below(8)] if chance.random() < 0.03 else ""
            user, order = f"user-{below(50_000)}", f"ord_{bits(40):010x}"
        yield Past(
            START_NS + number * step_ns + below(step_ns),
            40 if code and kind == 3 else 20,
            _KINDS[kind],
            operation,
            _STEPS[below(4)] if kind == 2 else "",
            _MESSAGES[kind],
            identity,
            span,
            parent,
            "" if kind < 2 else "failed" if code else "ok",
            None if kind < 2 else SECONDS[bits(15)],
            {"index": 1, "result_type": "Order"}
            if kind == 2
            else {"user_id": user, "order_id": order, "table": below(40), "amount": below(100_000)},
            code if kind == 3 else "",
        )


def durations(count: int) -> Iterator[float]:
    """Return *count* of `SECONDS`, over and over; getting at them costs next to nothing."""
    return islice(chain.from_iterable(repeat(SECONDS)), count)
