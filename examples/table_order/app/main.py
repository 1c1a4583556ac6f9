"""
The application, wired in one place.

``app.main:app`` is built on first use, from the settings of the environment;
:func:`create_app` builds one from settings that are handed in.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter, FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware

from app.api.v1 import auth, health, menu, metrics, orders, stores, streams
from app.core.config import Settings, load_settings
from app.core.database import Database
from app.core.dependencies import Service
from app.core.logging import setup_logging
from app.core.metrics import metrics as figures
from app.core.security import Passwords, Tokens
from app.models.tables import Role
from app.services.accounts import Accounts
from app.services.catalogue import Catalogue
from app.services.feed import Feed
from app.services.orders import Orders
from app.services.seed import seeding
from rfs.core.result import is_success
from rfs.monitoring.dashboard_api import Indicator
from rfs.monitoring.metrics import setup_default_alerts
from rfs.monitoring.monitor import default_monitor
from rfs.web.fastapi import install

_REQUESTS: Final = "http_requests_total"
_DURATIONS: Final = "http_request_duration_seconds"

INDICATORS: Final = (
    Indicator(
        "avg_response_time",
        "Average response time",
        "평균 응답 시간",
        _DURATIONS,
        "mean",
        unit="seconds",
        threshold=0.5,
    ),
    Indicator(
        "p95_response_time", "P95 response time", "P95 응답 시간", _DURATIONS, "p95", unit="seconds", threshold=1.0
    ),
    Indicator(
        "p99_response_time", "P99 response time", "P99 응답 시간", _DURATIONS, "p99", unit="seconds", threshold=2.0
    ),
    Indicator(
        "error_rate",
        "Error rate (5xx)",
        "에러율 (5xx)",
        _REQUESTS,
        "ratio",
        denominator=_REQUESTS,
        labels={"status": "5*"},
        unit="ratio",
        threshold=0.01,
    ),
    Indicator("sse_connections", "SSE connections", "활성 SSE 연결 수", "sse_connections", unit="connections"),
    Indicator(
        "sse_send_failure_rate",
        "SSE send failures",
        "SSE 이벤트 전송 실패율",
        "sse_events_failed_total",
        "ratio",
        window="1h",
        denominator="sse_events_total",
        unit="ratio",
        threshold=0.001,
    ),
    Indicator(
        "orders_per_hour",
        "Orders per hour",
        "시간당 주문 수",
        "orders_created_total",
        "increase",
        window="1h",
        unit="orders",
    ),
)


def create_app(settings: Settings) -> FastAPI:
    """Build the application. It connects to nothing and starts nothing before its lifespan begins."""
    service = build_service(settings)
    app = FastAPI(
        title=settings.APP_NAME, version=settings.APP_VERSION, debug=False, lifespan=_lifespan(service, settings)
    )
    app.state.service = service
    for part in (health.router, metrics.router):
        app.include_router(part)
    api = APIRouter(prefix="/api/v1")
    for part in (auth.router, stores.router, menu.router, orders.router, streams.router):
        api.include_router(part)
    app.include_router(api)
    if settings.CORS_ORIGINS:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.CORS_ORIGINS,
            allow_methods=["GET", "POST", "PUT"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "X-Correlation-ID"],
            expose_headers=["X-Correlation-ID", "X-Request-ID"],
        )
    app.state.installation = install(
        app,
        service_name=settings.APP_NAME,
        access=_admin_may_see,
        indicators=INDICATORS,
        health=False,  # the service has its own
    )
    return app


def build_service(settings: Settings) -> Service:
    """Make the service's parts and hand them to one another."""
    database = Database(settings)
    tokens = Tokens(settings.SECRET_KEY, timedelta(hours=settings.ACCESS_TOKEN_EXPIRE_HOURS))
    passwords = Passwords()
    feed = Feed(
        database,
        figures,
        poll_seconds=settings.SSE_POLL_SECONDS,
        streams_per_store=settings.SSE_MAX_CONNECTIONS_PER_STORE,
    )
    return Service(
        settings=settings,
        metrics=figures,
        database=database,
        passwords=passwords,
        accounts=Accounts(database, tokens, passwords),
        catalogue=Catalogue(database),
        orders=Orders(database, figures),
        feed=feed,
    )


def _lifespan(service: Service, settings: Settings) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        setup_logging(settings.LOG_LEVEL, recorded=True, printed=settings.LOG_STDOUT)
        masker = default_monitor().masker
        masker.register_secret(settings.SECRET_KEY)
        demo_password = settings.DEMO_PASSWORD.get_secret_value() if settings.DEMO_PASSWORD is not None else None
        service.metrics.declare()
        setup_default_alerts()
        work = asyncio.create_task(_background(service, demo_password))
        try:
            with _streams_end_on_signal(service.feed):
                yield
        finally:
            service.feed.end_all()
            work.cancel()
            with suppress(asyncio.CancelledError):
                await work
            await service.database.close()

    return lifespan


async def _background(service: Service, demo_password: str | None) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(service.database.prepare(seeding(service.passwords, demo_password)))
        tasks.create_task(service.feed.run())


@contextmanager
def _streams_end_on_signal(feed: Feed) -> Generator[None]:
    """
    Let SIGTERM and SIGINT end the streams before the server acts on them.

    A server that stops waits for open requests first and tells the application
    after; without this a stream would hold it up until its patience is over.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # no signals here; whoever stops the server ends the streams
        return
    loop = asyncio.get_running_loop()
    former: dict[signal.Signals, Any] = {}

    def end(number: int, frame: FrameType | None) -> None:
        with suppress(RuntimeError):  # the loop is closed already
            loop.call_soon_threadsafe(feed.end_all)
        handler = former[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number in (signal.SIGTERM, signal.SIGINT):
        former[number] = signal.getsignal(number)
        if callable(former[number]):  # default actions stay: nobody waits for streams then
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in former.items():
            if signal.getsignal(number) is end:
                signal.signal(number, handler)


async def _admin_may_see(request: Request) -> bool:
    """The dashboard is open to the admin's token, beside the link that the launcher prints."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        return False
    service: Service = request.app.state.service
    found = await service.accounts.authenticate(token)
    return is_success(found) and found.value.role is Role.ADMIN


if TYPE_CHECKING:
    app: FastAPI
else:

    def __getattr__(name: str) -> FastAPI:
        """Build ``app`` when a server first asks: importing this module needs no environment."""
        if name != "app":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()["app"] = built = create_app(load_settings())
        return built
