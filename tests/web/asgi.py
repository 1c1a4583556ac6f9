"""
A client of one ASGI app, without a server: each message is in the test's hands.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
App = Callable[[Any, Any, Any], Awaitable[None]]

DEADLINE_SECONDS = 10.0


@dataclass
class Answer:
    """What the app sent, and the exception that left it."""

    messages: list[Message] = field(default_factory=list)
    raised: BaseException | None = None

    @property
    def status(self) -> int:
        return int(next(m["status"] for m in self.messages if m["type"].endswith("response.start")))

    @property
    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        start = next(m for m in self.messages if m["type"] in {"http.response.start", "websocket.accept"})
        return list(start["headers"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode().lower(): value.decode() for name, value in self.raw_headers}

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.messages if m["type"] == "http.response.body")

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


def scope_of(
    method: str, target: str, headers: Mapping[str, str] | list[tuple[bytes, bytes]] | None = None, **extra: Any
) -> Scope:
    """The scope of one HTTP request; *extra* overrides its parts."""
    path, _, query = target.partition("?")
    given = (
        headers
        if isinstance(headers, list)
        else [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    )
    if not any(name == b"host" for name, _ in given):
        given = [(b"host", b"testserver"), *given]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": given,
        "client": ("192.0.2.7", 50000),
        "server": ("testserver", 80),
        **extra,
    }


async def request(
    app: App,
    method: str,
    target: str,
    *,
    headers: Mapping[str, str] | list[tuple[bytes, bytes]] | None = None,
    json_body: object = None,
    body: bytes = b"",
    leave_after: int | None = None,
    **extra: Any,
) -> Answer:
    """
    Send one request and return the whole answer.

    *leave_after* body messages the client closes the connection. An exception that leaves the app is kept, not raised.
    """
    scope = scope_of(method, target, headers, **extra)
    if json_body is not None:
        body = json.dumps(json_body).encode()
        scope["headers"] = [*scope["headers"], (b"content-type", b"application/json")]
    answer = Answer()
    gone = asyncio.Event()
    asked = False

    async def receive() -> Message:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": body, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if gone.is_set():
            return  # like a server whose client has left
        answer.messages.append(message)
        chunks = sum(m["type"] == "http.response.body" for m in answer.messages)
        if leave_after is not None and chunks >= leave_after:
            gone.set()
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            gone.set()

    async with asyncio.timeout(DEADLINE_SECONDS):
        try:
            await app(scope, receive, send)
        except Exception as exc:  # noqa: BLE001 - the test looks at it
            answer.raised = exc
    return answer


async def get(app: App, target: str, **arguments: Any) -> Answer:
    """GET *target*."""
    return await request(app, "GET", target, **arguments)


async def websocket(app: App, target: str, texts: list[str], headers: Mapping[str, str] | None = None) -> Answer:
    """Open a WebSocket, send *texts*, close."""
    scope = scope_of("GET", target, headers, type="websocket", scheme="ws", subprotocols=[])
    del scope["method"]
    incoming: list[Message] = [
        {"type": "websocket.connect"},
        *({"type": "websocket.receive", "text": text} for text in texts),
        {"type": "websocket.disconnect", "code": 1000},
    ]
    answer = Answer()

    async def receive() -> Message:
        return incoming.pop(0)

    async def send(message: Message) -> None:
        answer.messages.append(message)

    async with asyncio.timeout(DEADLINE_SECONDS):
        try:
            await app(scope, receive, send)
        except Exception as exc:  # noqa: BLE001 - the test looks at it
            answer.raised = exc
    return answer


@asynccontextmanager
async def running(app: App) -> AsyncIterator[dict[str, Any]]:
    """Run the app's lifespan around the block; yields the lifespan's state."""
    incoming: asyncio.Queue[Message] = asyncio.Queue()
    outgoing: asyncio.Queue[Message] = asyncio.Queue()
    state: dict[str, Any] = {}
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": state}
    task = asyncio.create_task(_call(app, scope, incoming.get, outgoing.put))
    try:
        await incoming.put({"type": "lifespan.startup"})
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert (await outgoing.get())["type"] == "lifespan.startup.complete"
        yield state
        await incoming.put({"type": "lifespan.shutdown"})
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert (await outgoing.get())["type"] == "lifespan.shutdown.complete"
            await task
    finally:
        task.cancel()


async def _call(app: App, *arguments: Any) -> None:
    await app(*arguments)
