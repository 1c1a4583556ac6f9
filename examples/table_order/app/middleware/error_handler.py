"""The service's name for RFS's handler of exceptions that nobody handled: a 500 that tells nothing internal."""

from __future__ import annotations

from rfs.web.fastapi import ErrorHandlerMiddleware

__all__ = ["ErrorHandlerMiddleware"]
