"""What the dashboard is asked for by a page of 24 hours, and how long each answer takes, JSON and all, without a network."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fastapi import FastAPI

from rfs.monitoring import Monitor
from rfs.monitoring.dashboard_api import create_router


class Pages:
    """
    The dashboard's routes over *monitor*.

    Args:
        operation: One that there is.
        correlation_id: Likewise.
    """

    def __init__(self, monitor: Monitor, operation: str, correlation_id: str) -> None:
        self._app = FastAPI()
        self._app.include_router(create_router(monitor=lambda: monitor))
        self._runner = asyncio.Runner()
        day = "time_range=24h"
        self.paths = {
            "overview": f"/api/overview?{day}",
            "overview of an hour": "/api/overview?time_range=1h",
            "metrics": "/metrics?hours=24",
            "operation": f"/operations/{operation}/metrics?{day}",
            "result patterns": "/health/result-patterns",
            "top errors": f"/errors/top?{day}",
            "newest records": "/api/records",
            "newest warnings": "/api/records?min_level=30",
            "of an operation": f"/api/records?operation={operation}",
            "of an id": f"/api/records/{correlation_id}",
            "health": "/health",
        }

    def seconds(self, name: str) -> float:
        """Ask for one of ``paths``, and return how long that took by the clock; also if it was given up after 2 s."""
        began = time.perf_counter()
        status, body = self._runner.run(self._get(self.paths[name]))
        took = time.perf_counter() - began
        assert status == 200 or b"not answered within" in body, (name, status, body[:500])
        return took

    async def _get(self, path: str) -> tuple[int, bytes]:
        status, body = 0, b""

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            nonlocal status, body
            status = message.get("status", status)
            body += message.get("body", b"")

        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(b"host", b"127.0.0.1")],
            "server": ("127.0.0.1", 80),
            "client": ("127.0.0.1", 1),
        }
        await self._app(scope, receive, send)
        return status, body
