"""picologging with a formatter that renders JSON by orjson. Not masked; written to the null device."""

from __future__ import annotations

from contextvars import ContextVar

import orjson
import picologging

from benchmarks.corpus import CORRELATION_ID, ORDER_IDS, RING
from benchmarks.worker import timed

_correlation_id = ContextVar("correlation_id", default="")


class _JsonFormatter(picologging.Formatter):
    def format(self, record: picologging.LogRecord) -> str:
        line = {
            "message": record.msg,
            "level": record.levelname,
            "timestamp": record.created,
            "correlation_id": _correlation_id.get(),
            **record.args,
        }
        return orjson.dumps(line).decode()


_handler = picologging.StreamHandler(open("/dev/null", "w"))  # noqa: SIM115 - kept open as a log is
_handler.setFormatter(_JsonFormatter())
_log = picologging.getLogger("bench")
_log.setLevel(picologging.INFO)
_log.addHandler(_handler)


def _record(count: int) -> None:
    info = _log.info
    token = _correlation_id.set(CORRELATION_ID)
    for number in range(count):
        info(
            "Order placed",
            {
                "order_id": ORDER_IDS[number & RING],
                "table": "T12",
                "items": 3,
                "amount_won": 12500,
                "takeaway": False,
            },
        )
    _correlation_id.reset(token)


def _record_below_level(count: int) -> None:
    debug = _log.debug
    for _ in range(count):
        debug("Menu looked up", {"table": "T12", "hit": True})


LOOPS = {"record": timed(_record), "below_level": timed(_record_below_level)}
