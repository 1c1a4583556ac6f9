"""The service's name for RFS's request log: pure ASGI, 128-bit ids, and valid ids of the client kept."""

from __future__ import annotations

from rfs.web.fastapi import RequestLoggingMiddleware

__all__ = ["RequestLoggingMiddleware"]
