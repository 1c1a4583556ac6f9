"""
Health: is the process alive, and may it be sent traffic.

Neither asks about alerts: a red alert must not make an orchestrator restart what still serves.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse

from app.core.database import Database, get_database

router = APIRouter(tags=["Health"])


@router.get("/health")
async def health_check() -> dict[str, str]:
    """기본 헬스 체크 - the application answers."""
    return {"status": "healthy"}


@router.get("/health/ready", responses={503: {"description": "Not ready"}})
async def readiness_check(database: Annotated[Database, Depends(get_database)]) -> JSONResponse:
    """준비 상태 체크 - whether traffic may be sent: 503 while the database is away, within 2 s."""
    refusal = await database.check()
    body: dict[str, Any] = {"status": "ready", "checks": {"database": "connected"}}
    if refusal is not None:
        body = {"status": "not_ready", "checks": {"database": f"error: {refusal.message}"}}
    return JSONResponse(body, status_code=200 if refusal is None else 503)


@router.get("/health/live")
async def liveness_check() -> dict[str, str]:
    """생존 상태 체크 - the process is alive, whatever it depends on."""
    return {"status": "alive"}
