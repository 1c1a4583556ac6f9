"""
Who may see the dashboard.

Default deny: being on the same machine grants nothing. Three keys open it: a one-time token (printed with the start address),
which becomes a session cookie; the configured token as ``Authorization: Bearer``; or the host's own ``access`` function.

Sessions and one-time tokens are kept where all workers find them: one small file each in ``access`` below the Monitor's
directory. Without a directory they are kept in this process.
"""

from __future__ import annotations

import asyncio
import hmac
import inspect
import secrets
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from rfs.monitoring.dashboard_api import SECURITY_HEADERS
from rfs.monitoring.monitor import SYSTEM_CLOCK, Clock
from rfs.web.fastapi._exchange import count_internal_error
from rfs.web.fastapi._keys import FileKeys, Keys, MemoryKeys

__all__ = ["LOOPBACK_HOSTS", "DashboardAccess"]

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")

SESSION_COOKIE = "rfs_session"
_READING = frozenset({"GET", "HEAD", "OPTIONS"})

T = TypeVar("T")
Access = Callable[[Request], bool | Awaitable[bool]]


class DashboardAccess:
    """
    Guards an ASGI app, the dashboard's, that is mounted in a host's.

    Args:
        app: What is guarded.
        token: The configured token; empty: there is none.
        access: The host's own decision; an exception of it denies.
        allowed_hosts:
            Host names, without port, under which the dashboard may be asked for; ``"*"`` is any. Keeps a foreign page from
            reaching it under a name that was pointed at this machine (DNS rebinding).
        clock: Decides when a session ends: 30 minutes after its last use, 12 hours after its start.
        directory:
            Where all workers of the service find its sessions and one-time tokens, asked at each use; None keeps them in this
            process. Where it cannot be used they are kept in this process too, and the fault is counted.

    Every response carries `SECURITY_HEADERS`, denied ones too. What writes must be same-origin and JSON.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str = "",
        access: Access | None = None,
        allowed_hosts: Sequence[str] = LOOPBACK_HOSTS,
        clock: Clock = SYSTEM_CLOCK,
        directory: Callable[[], Path | None] = lambda: None,
    ) -> None:
        self.app = app
        self._token = _digest(token) if token else None
        self._access = access
        self._hosts = frozenset(host.lower().strip("[]") for host in allowed_hosts)
        self._clock = clock
        self._directory = directory
        self._memory = MemoryKeys(clock.monotonic)
        self._files: tuple[Path, FileKeys] | None = None
        self._start_token = b""

    def new_start_token(self) -> str:
        """
        A new one-time token; the one that was made here before no longer works.

        It opens one session, at any worker, for as long as this process or a fork of it lives, and for 12 hours at least.
        """
        token = secrets.token_urlsafe(32)
        if self._start_token:
            self._ask(lambda keys: keys.redeem(self._start_token))
        self._start_token = _digest(token)
        self._put(lambda keys: keys.issue(self._start_token))
        return token

    async def allows(self, connection: HTTPConnection) -> bool:
        """Whether the sender of this request may see everything."""
        if self._has_bearer(connection.headers) or await self._has_session(connection):
            return True
        if self._access is None:
            return False
        try:
            answer = self._access(connection if isinstance(connection, Request) else Request(connection.scope))
            return bool(await answer if inspect.isawaitable(answer) else answer)
        except Exception as exc:  # noqa: BLE001 - a broken decision denies, and is counted
            count_internal_error("web.access", exc)
            return False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or deny it."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return

        async def guarded_send(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": list(message.get("headers", ()))}
                headers = MutableHeaders(raw=message["headers"])
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
            await send(message)

        request = Request(scope, receive)
        denied = self.refused(request) or await self._enter(request)
        if denied is not None:
            await denied(scope, receive, guarded_send)
        else:
            await self.app(scope, receive, guarded_send)

    def refused(self, request: Request) -> Response | None:
        """The response to what no key opens, a foreign host name or a write that another site may have sent; else None."""
        host = request.headers.get("host", "")
        if "*" not in self._hosts and _name_of(host) not in self._hosts:
            return _deny(request, 400, "host_not_allowed")
        if request.method in _READING:
            return None
        site = request.headers.get("sec-fetch-site")
        origin = request.headers.get("origin")
        if (site is not None and site != "same-origin") or (origin is not None and urlsplit(origin).netloc != host):
            return _deny(request, 403, "cross_site")
        # A browser sends at least one of them with a write; only a program that brings its own key may send neither.
        if site is None and origin is None and not self._has_bearer(request.headers):
            return _deny(request, 403, "cross_site")
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return _deny(request, 415, "json_only")
        return None

    async def _enter(self, request: Request) -> Response | None:
        if await self.allows(request):
            return None
        # Only the address that was printed opens a session, and only by being opened.
        tokens = parse_qs(request.scope.get("query_string", b"").decode("latin-1")).get("token", [])
        if request.method == "GET" and tokens:
            token = _digest(tokens[0])
            if await self._in_thread(lambda: self._ask(lambda keys: keys.redeem(token))):
                return await self._open_session(request)
        return _deny(request, 401, "token_used" if tokens else "no_key")

    async def _open_session(self, request: Request) -> Response:
        session = secrets.token_urlsafe(32)
        await self._in_thread(lambda: self._put(lambda keys: keys.open(_digest(session))))
        # A page and not a redirect: after a link from another site, a browser would leave a Strict cookie out of the
        # redirected request. It goes to the same address without the token.
        response = HTMLResponse(
            '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0;url=./"><title>RFS</title>'
            '<p><a href="./">대시보드 열기 · Open the dashboard</a></p>'
        )
        response.set_cookie(
            SESSION_COOKIE,
            session,
            path=request.scope.get("root_path", "") or "/",
            httponly=True,
            samesite="strict",
            secure=request.scope.get("scheme") == "https",
        )
        return response

    def _has_bearer(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        return (
            self._token is not None
            and scheme.lower() == "bearer"
            and hmac.compare_digest(_digest(token.strip()), self._token)
        )

    async def _has_session(self, connection: HTTPConnection) -> bool:
        cookie = connection.cookies.get(SESSION_COOKIE)
        if not cookie:
            return False
        session = _digest(cookie)
        return await self._in_thread(lambda: self._ask(lambda keys: keys.use(session)))

    # Keys: shared where there is a directory, and always this process's own

    def _shared(self) -> FileKeys | None:
        directory = self._directory()
        if directory is None:
            return None
        if self._files is None or self._files[0] != directory:
            self._files = directory, FileKeys(directory / "access", self._clock.monotonic)
        return self._files[1]

    def _ask(self, question: Callable[[Keys], bool]) -> bool:
        """Whether one of the places says yes."""
        if question(self._memory):
            return True
        try:
            shared = self._shared()
            return shared is not None and question(shared)
        except OSError as exc:
            count_internal_error("web.access", exc)
            return False

    def _put(self, store: Callable[[Keys], None]) -> None:
        """Keep something where all workers find it, or where that cannot be, here."""
        try:
            shared = self._shared()
            if shared is not None:
                store(shared)
                return
        except OSError as exc:
            count_internal_error("web.access", exc)
        store(self._memory)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Do *work* where a disk that hangs does not hold up the host's event loop; without a directory, at once."""
        return work() if self._directory() is None else await asyncio.to_thread(work)


def _digest(secret: str) -> bytes:
    """What is kept and compared of a secret."""
    return sha256(secret.encode("utf-8", "surrogateescape")).digest()


def _name_of(host: str) -> str:
    """The name in a Host header, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


# Why a request was denied: in Korean, in English, and what to do about it.
_REASONS = {
    "no_key": (
        "이 대시보드는 접근이 제한되어 있습니다.",
        "This dashboard is protected.",
        "Open the start address that the service printed, or send the configured token as 'Authorization: Bearer …'.",
    ),
    "token_used": (
        "이 주소는 이미 사용되었거나 유효하지 않습니다.",
        "This start address has been used or is not valid.",
        "Ask the service for a new one (restart it, or Installation.rotate_token()).",
    ),
    "host_not_allowed": (
        "허용되지 않은 호스트 이름입니다.",
        "This host name is not allowed.",
        "Add the name to install(app, allowed_hosts=[…]), or to rfs serve by --allowed-host.",
    ),
    "cross_site": (
        "다른 사이트에서 온 요청은 받지 않습니다.",
        "A request from another site is not taken.",
        "Send it from the dashboard itself, or with the configured token as 'Authorization: Bearer …'.",
    ),
    "json_only": (
        "JSON 본문만 받습니다.",
        "Only JSON is taken.",
        "Send the body with 'Content-Type: application/json'.",
    ),
}


def _deny(request: Request, status: int, reason: str) -> Response:
    korean, english, remedy = _REASONS[reason]
    headers = {"WWW-Authenticate": 'Bearer realm="rfs"'} if status == 401 else None
    if "text/html" in request.headers.get("accept", ""):
        page = (
            f'<!doctype html><meta charset="utf-8"><title>RFS</title><h1>{escape(korean)}</h1>'
            f"<p>{escape(english)}</p><p>{escape(remedy)}</p>"
        )
        return HTMLResponse(page, status, headers)
    return JSONResponse({"error_code": reason.upper(), "detail": english, "what_to_do": remedy}, status, headers)
