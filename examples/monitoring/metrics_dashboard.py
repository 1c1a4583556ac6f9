"""
A service that measures itself, and the page that shows it.

``python examples/monitoring/metrics_dashboard.py`` prints the link that opens the page, and takes orders until Ctrl-C, or until
``--seconds`` are over. It records into memory, so nothing of it is left.
"""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from enum import StrEnum
from random import Random
from socket import create_server, socket

import uvicorn
from fastapi import FastAPI

from rfs.core.result import Failure, Result, Success
from rfs.monitoring import (
    AlertCondition,
    MetricType,
    Monitor,
    collect_metric,
    create_alert_rule,
    get_metrics_summary,
    log_result_operation,
    use_monitor,
)
from rfs.monitoring.dashboard_api import Indicator
from rfs.web.fastapi import install

INDICATORS = (
    Indicator("takings", "Takings in 5 min, won", "5분 매출(원)", "takings_won_total", "increase"),
    Indicator("waiting", "Guests waiting", "대기 중인 손님", "guests_waiting", "latest", threshold=25),
)


class Refusal(StrEnum):
    """Why there is no order."""

    SOLD_OUT = "SOLD_OUT"
    CARD_DECLINED = "CARD_DECLINED"


@log_result_operation("orders.place", expected=[Refusal.SOLD_OUT])
async def place_order(dish: str, guests: int, cooking_seconds: float) -> Result[int, Refusal]:
    """How often it was called, how well and how fast: that is measured by its decorator. What it took is measured here."""
    await asyncio.sleep(cooking_seconds)
    if dish == "naengmyeon":
        return Failure(Refusal.SOLD_OUT)
    if guests == 8:
        return Failure(Refusal.CARD_DECLINED)
    won = 9000 * guests
    collect_metric("takings_won_total", won, MetricType.COUNTER, {"dish": dish})
    return Success(won)


async def evening() -> None:
    """Let guests come, some ten times a second, until it is cancelled."""
    chance = Random(7)  # noqa: S311 - guards nothing
    waiting = 20
    while True:
        waiting = min(30, max(0, waiting + chance.choice([-1, 1])))
        collect_metric("guests_waiting", waiting)
        (dish,) = chance.choices(["bibimbap", "bulgogi", "naengmyeon"], [5, 4, 1])
        await place_order(dish, chance.randint(1, 8), chance.uniform(0, 0.2))


@asynccontextmanager
async def traffic(_: FastAPI) -> AsyncGenerator[None]:
    """The evening lasts as long as the app."""
    guests = asyncio.create_task(evening())
    yield
    guests.cancel()


async def serve(app: FastAPI, listener: socket, seconds: float) -> None:
    """Answer on *listener* until *seconds* are over, or somebody presses Ctrl-C."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))

    def end() -> None:
        server.should_exit = True

    asyncio.get_running_loop().call_later(seconds, end)
    await server.serve(sockets=[listener])


def main() -> None:
    """Serve, and say at the end what was measured."""
    parser = ArgumentParser(description="A service that measures itself, and the page that shows it.")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument("--seconds", type=float, default=600, help="how long, if nobody presses Ctrl-C")
    arguments = parser.parse_args()

    with use_monitor(Monitor(service_name="a kitchen")), create_server(("127.0.0.1", arguments.port)) as listener:
        app = FastAPI(lifespan=traffic)
        page = install(app, indicators=INDICATORS).dashboard_start_path
        create_alert_rule(
            "a long queue",
            "guests_waiting",
            AlertCondition.GREATER_THAN,
            25,
            callback=lambda alert: print(alert.message, flush=True),
        )
        print(f"dashboard: http://127.0.0.1:{listener.getsockname()[1]}{page}", flush=True)
        with suppress(KeyboardInterrupt):
            asyncio.run(serve(app, listener, arguments.seconds))

        measured = get_metrics_summary()["counters"]
        print(f"took {measured.get('takings_won_total', 0):,.0f} won in {measured['result_success_total']:.0f} orders")


if __name__ == "__main__":
    main()
