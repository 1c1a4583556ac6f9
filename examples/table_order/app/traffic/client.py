"""A client of the service that counts what it does."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, cast

import httpx

from app.traffic.tally import Tally

API: Final = "/api/v1"
_ATTEMPTS: Final = 8
# Waiting for a connection of our own is no answer of the service, so it has no limit.
_TIMEOUT: Final = httpx.Timeout(10, pool=None)
_GREETING: Final = ": from "


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: its status and JSON body."""

    status: int
    body: Any

    @property
    def ok(self) -> bool:
        """Whether the service did what it was asked."""
        return self.status < 400

    @property
    def code(self) -> str | None:
        """Why it did not."""
        return None if self.ok or not isinstance(self.body, dict) else cast("dict[str, str]", self.body).get("code")


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One event of a store's stream."""

    sequence: int
    kind: str
    data: dict[str, Any]


class Client:
    """
    Talks to the service at *base_url* and counts it in ``tally``.

    Raises:
        ValueError: *base_url* is not on this machine. Traffic is for trying things out, not for other people's servers.
    """

    def __init__(self, base_url: str, *, retry_seconds: float = 0.5) -> None:
        if not _is_loopback(httpx.URL(base_url).host):
            raise ValueError(f"traffic goes to this machine only, not to {base_url!r}")
        self.tally = Tally()
        self._retry_seconds = retry_seconds
        limits = httpx.Limits(max_connections=100, max_keepalive_connections=40)
        self._http = httpx.AsyncClient(base_url=base_url, limits=limits, timeout=_TIMEOUT, trust_env=False)

    async def call(
        self,
        method: str,
        route: str,
        *,
        token: str | None = None,
        body: object = None,
        key: str | None = None,
        **path: object,
    ) -> Reply | None:
        """
        Send one request; *route* is the template that *path* fills.

        While the service is away (no answer, or 503) the request is sent again,
        each attempt counted; None if it stays away.
        """
        headers: dict[str, str] = {}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if key is not None:
            headers["Idempotency-Key"] = key
        for _ in range(_ATTEMPTS):
            try:
                response = await self._http.request(method, route.format(**path), headers=headers, json=body)
            except httpx.TransportError:
                self.tally.unanswered += 1
            else:
                reply = Reply(response.status_code, _json(response.content))
                self.tally.answered(method, route, reply.status, reply.code)
                if reply.status != 503:
                    return reply
            await asyncio.sleep(self._retry_seconds)
        return None

    async def stream(
        self, route: str, *, token: str, last_event_id: int | None, **path: object
    ) -> AsyncIterator[StreamEvent]:
        """
        Hold a stream and yield its events until it ends; the first is ``open``, with the number it goes on from.

        Raises:
            httpx.TransportError: the service went away.
        """
        headers = {"Authorization": f"Bearer {token}"}
        if last_event_id is not None:
            headers["Last-Event-ID"] = str(last_event_id)
        timeout = httpx.Timeout(connect=10, read=None, write=10, pool=None)
        async with self._http.stream("GET", route.format(**path), headers=headers, timeout=timeout) as response:
            if response.status_code != 200:
                reply = Reply(response.status_code, _json(await response.aread()))
                self.tally.answered("GET", route, reply.status, reply.code)
                return
            self.tally.answered("GET", route, 200, None)
            fields: dict[str, str] = {}
            async for line in response.aiter_lines():
                name, _, value = line.partition(": ")
                if line.startswith(_GREETING):
                    yield StreamEvent(int(line.removeprefix(_GREETING)), "open", {})
                elif line and name:
                    fields[name] = value
                elif not line:
                    if "event" in fields:
                        yield _event(fields)
                    fields.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._http.aclose()


def _event(fields: Mapping[str, str]) -> StreamEvent:
    return StreamEvent(int(fields["id"]), fields["event"], json.loads(fields["data"]))


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
