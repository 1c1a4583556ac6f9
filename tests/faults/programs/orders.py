"""
A service that takes orders, in a process of its own: `python -m tests.faults.programs.orders`; where and who is said by RFS_….

It answers commands: ``place`` *count* orders, from number *first* on; ``say`` a message; ``count`` and record for so many
seconds; ``stop``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

import rfs.monitoring as rfs
from rfs.core.result import Failure, Result, Success
from rfs.monitoring.monitor import default_monitor
from tests.faults.processes import eventually, reply


@rfs.log_result_operation("재고.확인")
def check(number: int) -> Result[int, str]:
    rfs.info("재고 확인", item="김밥", number=number)
    return Success(number)


@rfs.log_result_operation("payment.charge")
async def charge(number: int) -> Result[int, str]:
    if number % 3 == 2:
        return Failure("CARD_DECLINED")
    if number % 5 == 4:
        raise ValueError("결제 서버가 응답하지 않습니다")
    return Success(number)


@rfs.log_result_operation("orders.place")
async def place(number: int) -> Result[int, str]:
    check(number)
    rfs.warning("the kitchen is busy", table=number)
    return await charge(number)


def place_all(first: int, count: int) -> None:
    for number in range(first, first + count):
        with rfs.with_correlation_id(f"order-{number:04d}"):
            try:
                asyncio.run(place(number))
            except ValueError:
                continue


def count_for(seconds: float) -> int:
    """Count and record; each record says how many there are."""
    counted = rfs.counter("counted_total")
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        number += 1
        counted.inc()
        rfs.error("counted", number=number, process=os.getpid())
        if number % 100 == 0:
            time.sleep(0.02)  # of one call site only some thousands a second are kept
    return number


def main() -> None:
    monitor = default_monitor()
    monitor.start()
    eventually(lambda: monitor.leadership.epoch)
    reply("ready")
    for line in sys.stdin:
        command: dict[str, Any] = json.loads(line)
        match command["do"]:
            case "place":
                place_all(command["first"], command["count"])
                reply(command["count"])
            case "say":
                rfs.log(command.get("level", "info"), command["message"], **command.get("fields", {}))
                reply("said")
            case "count":
                reply(count_for(command["seconds"]))
            case _:
                monitor.stop()
                reply("stopped")
                return


if __name__ == "__main__":
    main()
