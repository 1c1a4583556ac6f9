"""
Operations, steps, plain messages and what the standard library's ``logging`` is told, under one correlation id.

``python examples/monitoring/basic_logging.py`` takes two orders. It prints each record as a line of JSON, the card numbers
masked, and at the end what happened at the second table.
"""

from __future__ import annotations

import asyncio
import logging
from enum import StrEnum

from rfs.core.result import Failure, Result, Success
from rfs.monitoring import (
    CorrelationContext,
    RfsHandler,
    configure_result_logging,
    create_logging_mono,
    info,
    log_result_operation,
    query_logs_by_correlation_id,
    stop_monitoring,
)

terminal = logging.getLogger("terminal")  # as in a library that knows nothing of RFS


class Refusal(StrEnum):
    """Why there is no order."""

    CARD_DECLINED = "CARD_DECLINED"


async def reserve(dish: str) -> Result[int, Refusal]:
    """Set a portion of *dish* aside, and say what it costs in won."""
    return Success({"bibimbap": 9000, "bulgogi": 18_000}[dish])


async def charge(won: int, card_number: str) -> Result[int, Refusal]:
    """Take the money."""
    if card_number.endswith("0004"):
        terminal.warning("terminal %d declined %d won", 3, won)
        return Failure(Refusal.CARD_DECLINED)
    return Success(won)


@log_result_operation("orders.place", expected=[Refusal.CARD_DECLINED])
async def place_order(dish: str, card_number: str) -> Result[int, Refusal]:
    """Its start, its end, its duration and its arguments are recorded, those that are secret masked."""
    info("order came in", dish=dish)
    return await (
        create_logging_mono(lambda: reserve(dish))
        .log_step("reserved")
        .bind_async_result(lambda won: charge(won, card_number))
        .log_step("charged")
        .log_error("no order")
    )


async def two_tables_order() -> None:
    """Each under a correlation id of its own, which is on all records that are made inside."""
    async with CorrelationContext("table-1"):
        await place_order("bibimbap", "4111 1111 1111 1111")
    async with CorrelationContext("table-2"):
        await place_order("bulgogi", "5500 0000 0000 0004")


def main() -> None:
    """Record and print, and read back."""
    configure_result_logging()
    terminal.addHandler(RfsHandler())
    asyncio.run(two_tables_order())
    stop_monitoring()  # the last line is printed; what was recorded can still be read

    print("\nwhat happened at table-2:")
    for record in query_logs_by_correlation_id("table-2"):
        code = f" ({record.error.code})" if record.error is not None else ""
        print(f"  {record.level:<8} {record.step or record.message}{code}")


if __name__ == "__main__":
    main()
