"""
The dashboard and the exposition on a server of their own: what ``rfs serve`` runs.

Who asks here is not measured: it is no request of the service.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI

from rfs.monitoring.monitor import Monitor
from rfs.web.fastapi.access import LOOPBACK_HOSTS, DashboardAccess
from rfs.web.fastapi.exposition import EXPOSITION_PATH, Exposition
from rfs.web.fastapi.health import health_router
from rfs.web.fastapi.install import dashboard_app, run_monitor_with, silence_native_telemetry

__all__ = ["create_app"]


def create_app(
    monitor: Monitor,
    *,
    dashboard_token: str = "",
    scrape_token: str = "",
    allowed_hosts: Sequence[str] = LOOPBACK_HOSTS,
) -> tuple[FastAPI, DashboardAccess]:
    """
    Return an app whose root is *monitor*'s dashboard, and who guards it; the Monitor runs as long as the app does.

    Args:
        dashboard_token: Opens the dashboard as ``Authorization: Bearer``; empty: there is none.
        scrape_token: Opens ``/metrics/prometheus``, and nothing else; empty: there is none.
        allowed_hosts: Host names under which the dashboard may be asked for; ``"*"`` is any.
    """

    def the_monitor() -> Monitor:
        return monitor

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    guard = DashboardAccess(
        dashboard_app(the_monitor),
        token=dashboard_token,
        allowed_hosts=allowed_hosts,
        directory=lambda: monitor.directory,
    )
    silence_native_telemetry(app)
    run_monitor_with(app, the_monitor)
    app.include_router(health_router({}, allows=guard.allows, monitor=the_monitor))
    app.add_route(EXPOSITION_PATH, Exposition(the_monitor, guard, scrape_token).answer, include_in_schema=False)
    app.mount("/", guard)
    return app, guard
