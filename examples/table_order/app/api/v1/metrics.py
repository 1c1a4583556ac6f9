"""The service's figures as JSON, for its admin."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends

from app.core.dependencies import ServiceDep, get_current_admin

router = APIRouter(tags=["Metrics"])


@router.get("/metrics", dependencies=[Depends(get_current_admin)])
async def get_metrics(service: ServiceDep) -> dict[str, Any]:
    """애플리케이션 메트릭 조회 (관리자 전용) - since the process started; a time nobody measured yet is null."""
    metrics = service.metrics
    return {
        "requests": {
            "total": metrics.total_requests,
            "by_endpoint": metrics.requests_by_endpoint,
            "by_status": metrics.requests_by_status,
        },
        "performance": {
            "avg_response_time_ms": metrics.avg_response_time_ms,
            "p95_response_time_ms": metrics.response_time_percentile_ms(95),
            "p99_response_time_ms": metrics.response_time_percentile_ms(99),
        },
        "sse": {
            "active_connections": metrics.active_sse_connections,
            "total_events_sent": metrics.total_sse_events_sent,
        },
        "business": {
            "orders_created": metrics.orders_created,
            "orders_by_status": metrics.orders_by_status,
        },
    }
