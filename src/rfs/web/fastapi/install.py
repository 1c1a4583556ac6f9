"""
One call that makes a FastAPI app observable.

``install(app)`` puts the request middleware around the app, answers Results and exceptions, adds health routes, mounts the
protected dashboard, and starts and stops the `Monitor` with the app.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from rfs.monitoring.monitor import Monitor, default_monitor, plan_default_directory
from rfs.web.fastapi.access import LOOPBACK_HOSTS, Access, DashboardAccess
from rfs.web.fastapi.exposition import EXPOSITION_PATH, Exposition, answers_already
from rfs.web.fastapi.health import HEALTH_PATHS, Check, health_router
from rfs.web.fastapi.middleware import ASGIApp, OutermostMiddleware
from rfs.web.fastapi.response_helpers import answer_unhandled, serve_results

if TYPE_CHECKING:
    from rfs.monitoring.dashboard_api import Indicator

__all__ = ["Installation", "install"]

TOKEN_VARIABLE = "RFS_DASHBOARD_TOKEN"
SCRAPE_TOKEN_VARIABLE = "RFS_SCRAPE_TOKEN"
_INSTALLATION = "rfs_installation"


class Installation:
    """
    What `install` did to an app.

    ``dashboard_path`` is where the dashboard is mounted, empty if it is not.
    """

    def __init__(self, app: FastAPI, access: DashboardAccess, dashboard_path: str) -> None:
        self.app = app
        self.access = access
        self.dashboard_path = dashboard_path
        self._start_path = ""

    @property
    def dashboard_start_path(self) -> str:
        """
        The path that opens the dashboard once, at any worker; its token is made at the first reading.

        Read before a server forks its workers, it is the same path in all of them.
        """
        return self._start_path or self.rotate_token() if self.dashboard_path else ""

    def rotate_token(self) -> str:
        """
        Make a new one-time token, and return the path that it opens.

        ``dashboard_start_path`` is that path; the one before no longer works. Open sessions stay open.
        """
        self._start_path = f"{self.dashboard_path}/?token={self.access.new_start_token()}"
        return self._start_path


def install(
    app: FastAPI,
    *,
    service_name: str | None = None,
    dashboard: bool = True,
    dashboard_path: str = "/monitoring",
    dashboard_token: str | None = None,
    scrape_token: str | None = None,
    access: Access | None = None,
    allowed_hosts: Sequence[str] = LOOPBACK_HOSTS,
    indicators: Sequence[Indicator] = (),
    health: bool = True,
    readiness_checks: Mapping[str, Check] | None = None,
    exclude_paths: Sequence[str] = HEALTH_PATHS,
    monitor: Monitor | None = None,
) -> Installation:
    """
    Make *app* observable.

    Call it before or after routes, handlers and middleware are added, but before the app starts. Called again for the same app it
    changes nothing and returns the same Installation. The app's lifespan, routes and exception handlers are kept, and win where
    they overlap with ours: a catch-all route also catches ``/health`` and the dashboard.

    Args:
        service_name: The name on records; by default the Monitor's.
        dashboard: Whether to mount it.
        dashboard_path: Where.
        dashboard_token: Opens the dashboard as ``Authorization: Bearer``; by default from ``RFS_DASHBOARD_TOKEN``.
        scrape_token: Opens ``/metrics/prometheus`` and ``<dashboard_path>/prometheus``, and nothing else, as
            ``Authorization: Bearer``; by default from ``RFS_SCRAPE_TOKEN``. Who may see the dashboard may see them without it.
        access: The service's own decision who may see the dashboard, sync or async.
        allowed_hosts: Host names under which the dashboard may be asked for; ``"*"`` is any.
        indicators: The numbers that the page shows first.
        health: Whether to add ``/health``, ``/health/live`` and ``/health/ready``.
        readiness_checks: By name; each raises if the service is not ready, within 1 s. They run at once.
        exclude_paths: Not measured, and recorded only when not answered 2xx or 3xx.
        monitor: Where everything is recorded; by default the default one.

    Raises:
        ValueError: *dashboard_path* does not begin with ``/``, or is ``/``.
        RuntimeError: The app has already started.
    """
    known = getattr(app.state, _INSTALLATION, None)
    if isinstance(known, Installation):
        return known
    if dashboard and (not dashboard_path.startswith("/") or not dashboard_path.strip("/")):
        raise ValueError(f"dashboard_path must begin with '/' and name a place below it, not {dashboard_path!r}")
    if app.middleware_stack is not None:
        raise RuntimeError("install(app) must be called before the app starts")
    dashboard_path = dashboard_path.rstrip("/")

    def the_monitor() -> Monitor:
        return monitor if monitor is not None else default_monitor()

    if service_name is not None:
        the_monitor().service_name = service_name
    if monitor is None:
        plan_default_directory()
    guard = DashboardAccess(
        # Without a dashboard it still decides who is told why the service is not ready.
        dashboard_app(the_monitor, indicators) if dashboard else app,
        token=os.environ.get(TOKEN_VARIABLE, "") if dashboard_token is None else dashboard_token,
        access=access,
        allowed_hosts=allowed_hosts,
        directory=lambda: the_monitor().directory,
    )
    exposition = Exposition(
        the_monitor, guard, os.environ.get(SCRAPE_TOKEN_VARIABLE, "") if scrape_token is None else scrape_token
    )
    installation = Installation(app, guard, dashboard_path if dashboard else "")
    setattr(app.state, _INSTALLATION, installation)

    serve_results(app)
    adopt_active_span = not silence_native_telemetry(app)
    run_monitor_with(app, the_monitor)

    build_stack = app.build_middleware_stack

    def build_observed_stack() -> ASGIApp:
        # At this moment the app is complete: whatever the host has declared, before or after, comes first.
        if health:
            app.include_router(health_router(readiness_checks or {}, allows=guard.allows, monitor=the_monitor))
        silent = [dashboard_path] if dashboard else []
        if not answers_already(app, EXPOSITION_PATH):
            app.add_route(EXPOSITION_PATH, exposition.answer, include_in_schema=False)
            silent.append(EXPOSITION_PATH)
        if dashboard:
            app.add_route(f"{dashboard_path}/prometheus", exposition.answer, include_in_schema=False)
            app.mount(dashboard_path, guard)
        serve_results(app)
        if 500 not in app.exception_handlers:
            app.exception_handlers.setdefault(Exception, answer_unhandled)
        return OutermostMiddleware(
            build_stack(),
            exclude_paths=exclude_paths,
            silent_prefixes=silent,
            adopt_active_span=adopt_active_span,
            monitor=monitor,
        )

    # Not add_middleware: that would put us inside the framework's error handler, whose responses would have no id.
    app.build_middleware_stack = build_observed_stack  # type: ignore[method-assign]
    return installation


def dashboard_app(the_monitor: Callable[[], Monitor], indicators: Sequence[Indicator] = ()) -> ASGIApp:
    """The dashboard without its guard."""
    # Loaded here, because the page's module itself is written on top of FastAPI and is not needed without a dashboard.
    dashboard_api = import_module("rfs.monitoring.dashboard_api")
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    silence_native_telemetry(app)
    app.include_router(dashboard_api.create_router(monitor=the_monitor, indicators=indicators))
    serve_results(app)
    app.exception_handlers.setdefault(Exception, answer_unhandled)
    return app


def silence_native_telemetry(app: FastAPI) -> bool:
    """
    Switch FastAPI's own OpenTelemetry signals off (it has them since 0.158): one server span per request, and it is ours.

    Returns whether nobody else makes one: False where OpenTelemetry's instrumentation has already been put in.
    """
    settings: dict[str, object] | None = getattr(app, "_telemetry", None)
    if settings is not None:
        settings.update(tracing=False, metrics=False, logs=False, operation_spans=False)
    return not getattr(app, "_is_instrumented_by_opentelemetry", False)


def run_monitor_with(app: FastAPI, the_monitor: Callable[[], Monitor]) -> None:
    """Start the Monitor before the app's own start-up and stop it after its shutdown; one that already ran is left running."""
    original = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncGenerator[Any]:
        monitor = the_monitor()
        ours = not monitor.running
        if ours:
            monitor.start()
        try:
            async with original(app) as state:
                yield state
        finally:
            if ours:
                await asyncio.to_thread(monitor.stop)

    app.router.lifespan_context = lifespan
