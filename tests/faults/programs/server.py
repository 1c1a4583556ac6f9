"""
One worker of a small FastAPI service: ``server SHARED_SOCKET ORACLE_FILE``; prints the port of its own socket, then serves both.

It is observed by `install` alone. What really happened it appends to the oracle file, one line and one ``write`` at a time:

* ``b <number>``: a request has come;
* ``a <number>``: the service has counted it itself (``orders_read_total`` and ``order_wait_seconds``);
* ``c <number> <status>``: the middleware has counted it, and the last byte of the answer goes out now.

So a request that a kill cut off is known to have been counted or not, unless the kill fell between the count and its line.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException

from rfs.monitoring import counter, histogram
from rfs.web.fastapi import install
from tests.faults.processes import reply

Message = MutableMapping[str, Any]

# Declared before `install` says where numbers are kept, as a service's own modules do.
orders_read = counter("orders_read_total", "Orders looked up", labels=["kind"])
order_waits = histogram("order_wait_seconds", "How long the guest has waited")


def wait_of(number: int) -> float:
    """How long the guest of order *number* has waited, in seconds."""
    return number % 1000 / 8  # eighths: their sum is exact whatever the order of adding


def make_app(say: Callable[[str], None]) -> FastAPI:
    """Return the service."""
    app = FastAPI()
    install(app)

    def count(kind: str, number: int) -> None:
        orders_read.inc(1, kind=kind)
        order_waits.observe(wait_of(number))
        say(f"a {number}\n")

    @app.get("/orders/{number}")
    async def read_order(number: int) -> dict[str, int]:
        count("loop", number)
        return {"number": number}

    @app.get("/menu/{number}")
    def read_menu(number: int) -> dict[str, int]:
        count("thread", number)
        return {"number": number}

    @app.get("/sold-out/{number}")
    async def order_sold_out(number: int) -> dict[str, int]:
        count("refused", number)
        raise HTTPException(409, "sold out")

    return app


class Witnessed:
    """The app, and around all of it the lines ``b`` and ``c``."""

    def __init__(self, app: FastAPI, say: Callable[[str], None]) -> None:
        self._app = app
        self._say = say

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        number = scope.get("path", "").rpartition("/")[2]
        if not number.isdigit():
            await self._app(scope, receive, send)
            return
        status = 0

        async def witnessed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif not message.get("more_body", False):
                self._say(f"c {number} {status}\n")
            await send(message)

        self._say(f"b {number}\n")
        await self._app(scope, receive, witnessed)


def main(shared: int, oracle: str) -> None:
    """Serve until SIGTERM."""
    file = os.open(oracle, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def say(line: str) -> None:
        os.write(file, line.encode())

    own = socket.create_server(("127.0.0.1", 0))
    app = Witnessed(make_app(say), say)
    config = uvicorn.Config(app, access_log=False, log_level="warning", timeout_graceful_shutdown=5)
    reply(own.getsockname()[1])
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=shared), own])


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
