"""
Health: is the process alive, and may it be sent traffic.

Neither asks about alerts or about the monitoring: neither must make an orchestrator restart what still serves. Who may see the
dashboard is also told how the monitoring does, and which worker answers.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from app.core.database import Database, get_database
from rfs.monitoring.monitor import default_monitor
from rfs.web.fastapi.health import monitoring_health

router = APIRouter(tags=["Health"])


@router.get("/health")
async def health_check(request: Request) -> dict[str, Any]:
    """기본 헬스 체크 - the application answers."""
    return {"status": "healthy", **await _monitoring(request)}


@router.get("/health/ready", responses={503: {"description": "Not ready"}})
async def readiness_check(request: Request, database: Annotated[Database, Depends(get_database)]) -> JSONResponse:
    """준비 상태 체크 - whether traffic may be sent: 503 while the database is away, within 2 s."""
    refusal, monitoring = await asyncio.gather(database.check(), _monitoring(request))
    body: dict[str, Any] = {"status": "ready", "checks": {"database": "connected"}}
    if refusal is not None:
        body = {"status": "not_ready", "checks": {"database": f"error: {refusal.message}"}}
    return JSONResponse({**body, **monitoring}, status_code=200 if refusal is None else 503)


@router.get("/health/live")
async def liveness_check() -> dict[str, str]:
    """생존 상태 체크 - the process is alive, whatever it depends on."""
    return {"status": "alive"}


async def _monitoring(request: Request) -> dict[str, Any]:
    return await monitoring_health(
        request, allows=request.app.state.installation.access.allows, monitor=default_monitor
    )
