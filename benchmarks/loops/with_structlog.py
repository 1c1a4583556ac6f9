"""structlog as its own page on performance sets it up: a filtering logger, orjson, bytes. Not masked; written to the null device."""

from __future__ import annotations

import orjson
import structlog
from structlog.contextvars import bind_contextvars, clear_contextvars

from benchmarks.corpus import CORRELATION_ID, ORDER_IDS, RING
from benchmarks.worker import timed

structlog.configure(
    cache_logger_on_first_use=True,
    wrapper_class=structlog.make_filtering_bound_logger(20),
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.JSONRenderer(serializer=orjson.dumps),
    ],
    logger_factory=structlog.BytesLoggerFactory(open("/dev/null", "wb")),  # noqa: SIM115 - kept open as a log is
)
_log = structlog.get_logger()


def _record(count: int) -> None:
    info = _log.info
    bind_contextvars(correlation_id=CORRELATION_ID)
    for number in range(count):
        info("Order placed", order_id=ORDER_IDS[number & RING], table="T12", items=3, amount_won=12500, takeaway=False)
    clear_contextvars()


def _record_below_level(count: int) -> None:
    debug = _log.bind().debug  # of the level's own class
    for _ in range(count):
        debug("Menu looked up", table="T12", hit=True)


LOOPS = {"record": timed(_record), "below_level": timed(_record_below_level)}
