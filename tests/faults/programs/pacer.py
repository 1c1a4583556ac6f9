"""
Records at a rate: ``pacer``; the environment says where.

* ``{"do": "pace", "rate": n, "seconds": n}``: as many records a second, in bursts of a few milliseconds; answers how long calls took.
* ``{"do": "books"}``: answered with what this process knows.
"""

from __future__ import annotations

import sys
import time
from array import array
from json import loads
from typing import Any

from rfs.monitoring import info
from rfs.monitoring.monitor import default_monitor
from tests.faults.processes import reply

_BURST_SECONDS = 0.004


def pace(rate: int, seconds: float) -> dict[str, Any]:
    """Record, and time each call."""
    taken = array("d")
    began, count = time.monotonic(), round(rate * seconds)
    while len(taken) < count:
        for _ in range(min(round(rate * _BURST_SECONDS), count - len(taken))):
            start = time.perf_counter()
            info("paced", n=len(taken), pad="x" * 100)
            taken.append(time.perf_counter() - start)
        time.sleep(max(0.0, began + len(taken) / rate - time.monotonic()))  # the pace itself
    took, ordered = time.monotonic() - began, sorted(taken)
    return {"calls": count, "took": took, "longest": ordered[-1], "p99": ordered[count * 99 // 100]}


def main() -> None:
    monitor = default_monitor()
    monitor.start()
    reply("ready")
    for line in sys.stdin:
        command = loads(line)
        if command["do"] == "pace":
            reply(pace(command["rate"], command["seconds"]))
        else:
            reply(monitor.query.books()["records"])


if __name__ == "__main__":
    main()
