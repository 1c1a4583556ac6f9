"""The reference service as the tests run it: in the test's own loop, on a real socket and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from app.core.config import Settings
from app.core.dependencies import Service
from app.main import create_app

PASSWORD = "correct horse battery"
SECRET_KEY = "a-secret-key-of-the-tests-0123456789abcdef"
API = "/api/v1"
NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"  # for services whose database is mocked
FAR_SECONDS = 20.0


def make_settings(database_url: str, **overrides: Any) -> Settings:
    """Settings of a quiet service that looks often and, on a slow machine, is patient."""
    values: dict[str, Any] = {
        "DATABASE_URL": database_url,
        "SECRET_KEY": SECRET_KEY,
        "DEMO_PASSWORD": PASSWORD,
        "LOG_STDOUT": False,
        "SSE_POLL_SECONDS": 0.1,
        "DB_POOL_SIZE": 10,
        "DB_REQUEST_WAIT_SECONDS": 30,
        "DB_STATEMENT_TIMEOUT_SECONDS": 30,
        "DB_SLOW_QUERY_SECONDS": 60,
        **overrides,
    }
    return Settings(_env_file=None, **values)


@dataclass
class Running:
    """A service that listens, and a client of it."""

    app: FastAPI
    server: uvicorn.Server
    address: str
    http: httpx.AsyncClient
    tokens: dict[tuple[str | None, str], str] = field(default_factory=dict)

    @property
    def service(self) -> Service:
        """The parts of the application."""
        part: Service = self.app.state.service
        return part

    async def token(self, store_id: str | None, username: str) -> str:
        """The token of an account, logged in once."""
        if (store_id, username) not in self.tokens:
            body = {"store_id": store_id, "username": username, "password": PASSWORD}
            reply = await self.http.post(f"{API}/auth/login", json=body)
            assert reply.status_code == 200, reply.text
            self.tokens[store_id, username] = reply.json()["access_token"]
        return self.tokens[store_id, username]

    async def call(
        self, method: str, path: str, *, store: str | None = "hanok", user: str = "manager", **options: Any
    ) -> httpx.Response:
        """Send a request as an account of *store*."""
        headers = {"Authorization": f"Bearer {await self.token(store, user)}", **options.pop("headers", {})}
        return await self.http.request(method, path, headers=headers, **options)

    async def place(self, store: str = "hanok", table: int = 1, item: int = 1, quantity: int = 1) -> dict[str, Any]:
        """Place an order that works."""
        body = {"table_number": table, "lines": [{"item_number": item, "quantity": quantity}]}
        reply = await self.call("POST", f"{API}/stores/{store}/orders", store=store, json=body)
        assert reply.status_code == 200, reply.text
        order: dict[str, Any] = reply.json()
        return order

    async def move(self, order: dict[str, Any], status: str) -> httpx.Response:
        """Ask for a status."""
        path = f"{API}/stores/{order['store_id']}/orders/{order['id']}/status"
        return await self.call("POST", path, store=order["store_id"], json={"status": status})

    @asynccontextmanager
    async def stream(
        self, store: str = "hanok", last_event_id: str | None = None, token: str | None = None
    ) -> AsyncGenerator[Stream]:
        """Hold the stream of a store; it is open when the block begins."""
        headers = {"Authorization": f"Bearer {token or await self.token(store, 'kitchen')}"}
        if last_event_id is not None:
            headers["Last-Event-ID"] = last_event_id
        async with self.http.stream("GET", f"{API}/stores/{store}/stream", headers=headers) as response:
            if response.status_code == 200:
                stream = Stream(response)
                await stream.next()  # the greeting
            else:
                await response.aread()
                stream = Stream(response)
            yield stream


class Stream:
    """The blocks of a server-sent event stream, and, iterated over, its order events."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.greeting: dict[str, str] = {}
        self._lines = response.aiter_lines()

    async def next(self) -> dict[str, str] | None:
        """The next block: its fields, a comment's under ""; None at the end."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(FAR_SECONDS):
            async for line in self._lines:
                if line:
                    name, _, value = line.partition(":")
                    fields[name] = value.strip()
                else:
                    self.greeting = self.greeting or fields
                    return fields
        return None

    def __aiter__(self) -> Stream:
        """Order events, heartbeats passed over, until the stream ends."""
        return self

    async def __anext__(self) -> dict[str, Any]:
        """The data of the next one, its id under ``id``."""
        while (block := await self.next()) is not None:
            if block.get("event") == "order":
                return {**json.loads(block["data"]), "id": int(block["id"])}
        raise StopAsyncIteration

    async def end(self) -> None:
        """Wait until the service ends the stream."""
        while await self.next() is not None:
            pass


@asynccontextmanager
async def running(settings: Settings, *, prepared: bool = True) -> AsyncGenerator[Running]:
    """Run the service; with *prepared*, its database is ready when the block begins."""
    app = create_app(settings)
    listener = socket.create_server(("127.0.0.1", 0))
    # asyncio does this only for sockets whose protocol number is set, which costs each answer 40 ms here.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="on", timeout_graceful_shutdown=3)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(_serve(server, listener))
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    await until(lambda: server.started or serving.done())
    if serving.done():
        await serving
    service: Service = app.state.service
    if prepared:
        async with asyncio.timeout(FAR_SECONDS):
            await service.database.wait_prepared()
    async with httpx.AsyncClient(base_url=address, timeout=FAR_SECONDS, trust_env=False) as http:
        try:
            yield Running(app, server, address, http)
        finally:
            service.feed.end_all()
            server.should_exit = True
            await serving


async def _serve(server: uvicorn.Server, listener: socket.socket) -> None:
    with listener:
        try:
            await server.serve(sockets=[listener])
        except SystemExit as error:
            # In a task it would end the loop of all tests.
            raise RuntimeError(f"the service did not start: status {error.code}") from None


async def until(condition: Callable[[], bool], seconds: float = FAR_SECONDS) -> None:
    """Wait for *condition*; fail when it does not come true."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def eventually(read: Callable[[], Awaitable[Any]], expected: Any, seconds: float = FAR_SECONDS) -> None:
    """Read until it is what is expected; at the end, compare so that the difference is shown."""
    try:
        async with asyncio.timeout(seconds):
            while await read() != expected:
                await asyncio.sleep(0.02)
    except TimeoutError:
        assert await read() == expected
