"""The HTTP side of refusals: a status for each code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from app.services.refusals import Code, Refusal
from rfs.web.fastapi.errors import APIError

STATUS: Final[Mapping[Code, int]] = {
    Code.SOLD_OUT: 409,
    Code.UNKNOWN_STORE: 404,
    Code.UNKNOWN_TABLE: 404,
    Code.UNKNOWN_ITEM: 404,
    Code.UNKNOWN_ORDER: 404,
    Code.UNKNOWN_TOKEN: 404,
    Code.INVALID_STATUS_TRANSITION: 409,
    Code.IDEMPOTENCY_KEY_REUSED: 422,
    Code.INVALID_CREDENTIALS: 401,
    Code.INVALID_TOKEN: 401,
    Code.FORBIDDEN: 403,
    Code.STREAM_LIMIT: 429,
    Code.DATABASE_UNAVAILABLE: 503,
    Code.DATABASE_BUSY: 503,
    Code.STATEMENT_TIMEOUT: 503,
}


def api_error(error: object) -> APIError:
    """What a client is told: of a refusal everything, of anything else nothing but that it happened."""
    if not isinstance(error, Refusal):
        return APIError.from_failure(error)
    headers: dict[str, str] = {}
    if "retry_after_seconds" in error.details:
        headers["Retry-After"] = str(error.details["retry_after_seconds"])
    if error.code in {Code.INVALID_TOKEN, Code.INVALID_CREDENTIALS}:
        headers["WWW-Authenticate"] = "Bearer"
    return APIError(error.code.value, error.message, error.details, STATUS[error.code], headers=headers)
