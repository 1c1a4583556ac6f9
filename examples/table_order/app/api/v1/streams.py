"""
The stream of a store: every change of its orders, as server-sent events.

An event's id is its number in the store, so a client that comes back with
``Last-Event-ID`` misses nothing and gets nothing twice. An event counts as sent
when the client's connection took it; one that did not is counted as failed, the
stream is closed, and the client asks for it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Header
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.v1.errors import api_error
from app.core.dependencies import ServiceDep, StaffDep
from app.core.metrics import ApplicationMetrics
from app.models.schemas import EventView
from app.services.feed import End, Subscription
from rfs.core.result import Failure

router = APIRouter(prefix="/stores/{store_id}/stream", tags=["Streams"])


class EventStream(Response):
    """Sends a subscription's events until either side ends it, then closes it."""

    media_type = "text/event-stream"

    def __init__(
        self,
        subscription: Subscription,
        metrics: ApplicationMetrics,
        *,
        heartbeat_seconds: float,
        send_timeout_seconds: float,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._subscription = subscription
        self._metrics = metrics
        self._heartbeat_seconds = heartbeat_seconds
        self._send_timeout_seconds = send_timeout_seconds

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        watcher = asyncio.create_task(self._watch(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if await self._write(send, self._greeting()):
                await self._pump(send)
            if self._subscription.ended is not End.CLIENT_LEFT:
                await self._write(send, b"", more=False)
        finally:
            watcher.cancel()
            self._subscription.close()

    def _greeting(self) -> bytes:
        """Comes at once, so that a client knows where it stands; ``reset`` tells it to read the orders anew."""
        cursor = self._subscription.cursor
        if self._subscription.reset:
            return f"id: {cursor}\nevent: reset\ndata: {{}}\n\n".encode()
        return f": from {cursor}\n\n".encode()

    async def _pump(self, send: Send) -> None:
        while (events := await self._subscription.next(self._heartbeat_seconds)) is not None:
            if not events:
                if not await self._write(send, b": heartbeat\n\n"):
                    return
                continue
            taken = await self._write(send, render(events))
            if not taken or self._subscription.ended is End.CLIENT_LEFT:
                self._metrics.events_failed(len(events))
                return
            self._subscription.advance(events)
            self._metrics.events_sent(len(events))

    async def _write(self, send: Send, body: bytes, *, more: bool = True) -> bool:
        """Hand *body* to the connection; False if it does not take it in time."""
        try:
            async with asyncio.timeout(self._send_timeout_seconds):
                await send({"type": "http.response.body", "body": body, "more_body": more})
        except OSError:  # TimeoutError is one
            self._subscription.end(End.CLIENT_LEFT)
            return False
        return True

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._subscription.end(End.CLIENT_LEFT)


def render(events: Sequence[EventView]) -> bytes:
    """*events* in the form of the EventSource standard."""
    return "".join(f"id: {one.sequence}\nevent: order\ndata: {one.model_dump_json()}\n\n" for one in events).encode()


def parse_last_event_id(text: str | None) -> int | None:
    """The number that a client sends when it comes back; -1, which no event has, for what is none."""
    if text is None:
        return None
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else -1


@router.get("", response_class=Response, responses={200: {"content": {"text/event-stream": {}}}})
async def stream_orders(
    service: ServiceDep,
    caller: StaffDep,
    store_id: str,
    last_event_id: Annotated[str | None, Header(max_length=64)] = None,
) -> Response:
    """Hold the stream of a store; send ``Last-Event-ID`` to go on where a former one ended."""
    opened = await service.feed.subscribe(caller, store_id, parse_last_event_id(last_event_id))
    if isinstance(opened, Failure):
        raise api_error(opened.error)
    return EventStream(
        opened.value,
        service.metrics,
        heartbeat_seconds=service.settings.SSE_HEARTBEAT_INTERVAL,
        send_timeout_seconds=service.settings.SSE_SEND_TIMEOUT_SECONDS,
    )
