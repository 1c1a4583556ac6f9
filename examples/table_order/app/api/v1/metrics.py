"""The service's figures as JSON, for its admin."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends

from app.core.dependencies import ServiceDep, get_current_admin
from app.core.metrics import Times

router = APIRouter(tags=["Metrics"])


@router.get("/metrics", dependencies=[Depends(get_current_admin)])
async def get_metrics(service: ServiceDep) -> dict[str, Any]:
    """애플리케이션 메트릭 조회 (관리자 전용) - since the process started; a time nobody measured yet is null."""
    metrics = service.metrics
    times = metrics.response_times
    return {
        "requests": {
            "total": metrics.total_requests,
            "by_endpoint": metrics.requests_by_endpoint,
            "by_status": metrics.requests_by_status,
        },
        "performance": {
            "avg_response_time_ms": None if times is None else round(times.mean * 1000, 2),
            "p95_response_time_ms": calculate_percentile(times, 95),
            "p99_response_time_ms": calculate_percentile(times, 99),
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


def calculate_percentile(data: Times | None, percentile: float) -> float | None:
    """The milliseconds within which *percentile* percent of the requests were answered; None if there were none."""
    return None if data is None else round(data.quantile(percentile / 100) * 1000, 2)
