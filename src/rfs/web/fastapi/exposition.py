"""
The routes that Prometheus scrapes.

Default deny. The scrape token, as ``Authorization: Bearer``, opens the exposition and nothing else; who may see the
dashboard may see this, too. A token in a query string opens nothing. Requests that the token opens may use any host name,
because a browser cannot be made to send it.

Scrapes at the same time share one rendering, which is done in a worker thread of their own.
"""

from __future__ import annotations

import asyncio
import gzip
import hmac
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

from rfs.monitoring.exporters.prometheus import accepts_gzip, exposition, negotiate
from rfs.monitoring.monitor import Monitor
from rfs.web.fastapi._exchange import count_internal_error
from rfs.web.fastapi.access import DashboardAccess

__all__ = ["EXPOSITION_PATH", "Exposition", "answers_already"]

EXPOSITION_PATH = "/metrics/prometheus"

# Quick rather than small: most of what can be gained is gained, in a third of the time.
_GZIP_LEVEL = 1
_HEADERS = {
    "Cache-Control": "no-store",
    "Vary": "Accept, Accept-Encoding, Authorization, Cookie",
    "X-Content-Type-Options": "nosniff",
}
# Not the host's threads: those may all be busy when somebody looks.
_renderings: RunVar[CapacityLimiter] = RunVar("rfs_exposition_renderings")
_RENDERINGS_AT_ONCE = 4  # one for each format, plain or compressed

_Kind = tuple[str, bool]  # content type, and whether it is compressed


class Exposition:
    """
    Answers scrapes with the totals of all processes.

    Args:
        monitor: Whose totals.
        guard: Decides about everybody who does not bring the token.
        token: The scrape token; empty: there is none.
    """

    def __init__(self, monitor: Callable[[], Monitor], guard: DashboardAccess, token: str = "") -> None:
        self._monitor = monitor
        self._guard = guard
        self._token = _digest(token) if token else None
        self._running: dict[_Kind, asyncio.Task[bytes | None]] = {}

    async def answer(self, request: Request) -> Response:
        """The response to one scrape: 200, 401, 400 for a foreign host name, 503 if there is a fault in RFS itself."""
        if not self._has_token(request):
            if not await self._guard.allows(request):
                return _deny()
            refused = self._guard.refused(request)
            if refused is not None:
                return refused
        kind = (
            negotiate(",".join(request.headers.getlist("accept"))),
            accepts_gzip(",".join(request.headers.getlist("accept-encoding"))),
        )
        body = await self._shared(kind)
        if body is None:
            return Response("RFS could not render the metrics\n", 503, {**_HEADERS, "Retry-After": "1"}, "text/plain")
        headers = {**_HEADERS, "Content-Type": kind[0]}
        if kind[1]:
            headers["Content-Encoding"] = "gzip"
        return Response(body, headers=headers)

    def _has_token(self, request: Request) -> bool:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        return (
            self._token is not None
            and scheme.lower() == "bearer"
            and hmac.compare_digest(_digest(token.strip()), self._token)
        )

    async def _shared(self, kind: _Kind) -> bytes | None:
        """The bytes that a rendering under way will give; without one, a new one's."""
        task = self._running.get(kind)
        if task is None or task.done() or task.get_loop() is not asyncio.get_running_loop():
            task = self._running[kind] = asyncio.create_task(self._render(kind))
        # A scraper that hangs up must not take the answer away from the others.
        return await asyncio.shield(task)

    async def _render(self, kind: _Kind) -> bytes | None:
        try:
            limiter = _renderings.get()
        except LookupError:
            limiter = CapacityLimiter(_RENDERINGS_AT_ONCE)
            _renderings.set(limiter)
        monitor = self._monitor()

        def render() -> bytes:
            body, _ = exposition(monitor, kind[0])
            return gzip.compress(body, _GZIP_LEVEL, mtime=0) if kind[1] else body

        try:
            return await to_thread.run_sync(render, limiter=limiter)
        except Exception as exc:  # noqa: BLE001 - counted; the service goes on, and the scraper asks again
            count_internal_error("web.exposition", exc, monitor)
            return None


def answers_already(app: FastAPI, path: str) -> bool:
    """Whether *app* has a route of its own for ``GET`` *path*."""
    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": path, "root_path": "", "headers": []}
    return any(route.matches(dict(scope))[0] is Match.FULL for route in app.router.routes)


def _digest(secret: str) -> bytes:
    """What is kept and compared of a secret."""
    return sha256(secret.encode("utf-8", "surrogateescape")).digest()


def _deny() -> Response:
    body = {
        "error_code": "NO_KEY",
        "detail": "The metrics are protected.",
        "what_to_do": "Send the scrape token (RFS_SCRAPE_TOKEN) as 'Authorization: Bearer …'.",
    }
    return JSONResponse(body, 401, {**_HEADERS, "WWW-Authenticate": 'Bearer realm="rfs"'})
