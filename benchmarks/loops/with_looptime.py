"""looptime: an event loop that sleeps in no time."""

from __future__ import annotations

import gc

from looptime import new_event_loop

from benchmarks.worker import sleeps


def _sleep(count: int) -> float:
    gc.collect()
    loop = new_event_loop()
    try:
        return loop.run_until_complete(sleeps(count))
    finally:
        loop.close()


LOOPS = {"virtual_sleep": _sleep}
