"""
Health routes: alive, ready, and why not.

Liveness asks nobody else. Readiness runs all checks at once, each with its own time limit, and answers 503 if one fails. What a
check says about its failure is shown only to those who may see the dashboard; everybody else sees which check it was. They alone
see how the monitoring does, too, which never makes a service unready: whatever becomes of it, the service serves.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from rfs.monitoring._capture.live import ALIVE_SUFFIX, is_locked
from rfs.monitoring.monitor import Monitor
from rfs.web.fastapi._exchange import count_internal_error

__all__ = ["HEALTH_PATHS", "health_router", "monitoring_health"]

HEALTH_PATHS = ("/health", "/health/live", "/health/ready")
CHECK_TIMEOUT_SECONDS = 1.0

Check = Callable[[], Awaitable[str | None]]
Allows = Callable[[Request], Awaitable[bool]]


def health_router(
    checks: Mapping[str, Check],
    *,
    allows: Allows,
    monitor: Callable[[], Monitor],
    timeout_seconds: float = CHECK_TIMEOUT_SECONDS,
) -> APIRouter:
    """
    The routes ``/health``, ``/health/live`` and ``/health/ready``.

    Args:
        checks: By name. A check that returns is passed (its text, if any, is shown: ``"connected"``); one that raises, or is
            not done in time, fails.
        allows: Who sees the details.
        monitor: Where a check that begins to fail, or to pass again, is recorded.
        timeout_seconds: Per check, and for the decision who sees the details.
    """
    router = APIRouter(tags=["Health"], include_in_schema=False)
    failing: dict[str, str] = {}

    @router.get("/health")
    async def health(request: Request) -> dict[str, Any]:
        return {
            "status": "healthy",
            **await monitoring_health(request, allows=allows, monitor=monitor, timeout_seconds=timeout_seconds),
        }

    @router.get("/health/live")
    async def live() -> dict[str, str]:
        return {"status": "alive"}

    @router.get("/health/ready")
    async def ready(request: Request) -> JSONResponse:
        monitoring, outcomes = await asyncio.gather(
            monitoring_health(request, allows=allows, monitor=monitor, timeout_seconds=timeout_seconds),
            asyncio.gather(*map(run, checks.values())),
        )
        said = dict(zip(checks, outcomes, strict=True))
        for name, (passed, text) in said.items():
            _note(monitor, failing, name, None if passed else text)
        everything = all(passed for passed, _ in said.values())
        shown: dict[str, Any] = {}
        for name, (passed, text) in said.items():
            shown[name] = text if passed else f"error: {_masked(monitor, text)}" if monitoring else "error"
        body = {"status": "ready" if everything else "not_ready", "checks": shown, **monitoring}
        return JSONResponse(body, 200 if everything else 503, None if everything else {"Retry-After": "1"})

    async def run(check: Check) -> tuple[bool, str]:
        try:
            async with asyncio.timeout(timeout_seconds):
                return True, await check() or "ok"
        except TimeoutError:
            return False, f"no answer within {timeout_seconds:g} s"
        except Exception as exc:  # noqa: BLE001 - whatever a check raises, it has failed
            return False, f"{type(exc).__name__}: {exc}"

    return router


async def monitoring_health(
    request: Request, *, allows: Allows, monitor: Callable[[], Monitor], timeout_seconds: float = CHECK_TIMEOUT_SECONDS
) -> dict[str, Any]:
    """
    How the monitoring does, as ``{"monitoring": {…}}`` for a health route's body; empty for those who may not see it.

    ``status`` is ``ok``, ``degraded`` (``degraded`` says why) or ``unknown``; ``pid`` is the worker that answers, ``leader`` the
    process that collects for all of them, ``processes`` how many live. Never raises; a decision of *allows* that takes longer
    than *timeout_seconds* is no.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            if not await allows(request):
                return {}
    except Exception as exc:  # noqa: BLE001 - who cannot be told from a stranger is one
        count_internal_error("web.health", exc)
        return {}
    shown: dict[str, Any] = {"status": "unknown", "pid": os.getpid()}
    try:
        watched = monitor()
        capture, leader = watched.capture_state, watched.leadership
        shown |= {
            "status": "degraded" if capture.degraded else "ok",
            "mode": capture.mode,
            "degraded": capture.degraded or None,
            "leader": {"pid": leader.pid, "epoch": leader.epoch, "is_self": leader.is_self} if leader.pid else None,
            "processes": _live_processes(watched),
        }
    except Exception as exc:  # noqa: BLE001 - telemetry may fail, the answer may not
        count_internal_error("web.health", exc)
    return {"monitoring": shown}


def _live_processes(monitor: Monitor) -> int:
    directory = monitor.capture.directory
    if directory is None:
        return 1
    alive = 0
    for name in directory.names():
        if name.endswith(ALIVE_SUFFIX):
            with suppress(FileNotFoundError):
                watched = directory.watch(name)
                alive += is_locked(watched)
                os.close(watched)
    return alive


def _note(monitor: Callable[[], Monitor], failing: dict[str, str], name: str, fault: str | None) -> None:
    """Record a check whose outcome has changed: a probe each second must not fill the log."""
    if (fault is not None) == (name in failing):
        return
    try:
        if fault is None:
            del failing[name]
            monitor().log(logging.INFO, "Readiness check passes again", logger="rfs.web", fields={"check": name})
        else:
            failing[name] = fault
            fields = {"check": name, "fault": fault}
            monitor().log(logging.ERROR, "Readiness check fails", logger="rfs.web", outcome="failed", fields=fields)
    except Exception as exc:  # noqa: BLE001 - telemetry may fail, the answer may not
        count_internal_error("web.health", exc)


def _masked(monitor: Callable[[], Monitor], text: str) -> str:
    try:
        return monitor().masker.text(text)
    except Exception as exc:  # noqa: BLE001 - what cannot be masked is not shown
        count_internal_error("web.health", exc)
        return "[masked:error]"
