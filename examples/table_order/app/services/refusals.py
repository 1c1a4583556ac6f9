"""
Why the service does not do what it was asked: typed, so that they can be counted.

A :class:`Refusal` knows nothing of HTTP; ``app.api.v1.errors`` gives each code its status.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Code(StrEnum):
    """Reasons, as clients see them."""

    SOLD_OUT = "SOLD_OUT"
    UNKNOWN_STORE = "UNKNOWN_STORE"
    UNKNOWN_TABLE = "UNKNOWN_TABLE"
    UNKNOWN_ITEM = "UNKNOWN_ITEM"
    UNKNOWN_ORDER = "UNKNOWN_ORDER"
    UNKNOWN_TOKEN = "UNKNOWN_TOKEN"
    INVALID_STATUS_TRANSITION = "INVALID_STATUS_TRANSITION"
    IDEMPOTENCY_KEY_REUSED = "IDEMPOTENCY_KEY_REUSED"
    INVALID_CREDENTIALS = "INVALID_CREDENTIALS"
    INVALID_TOKEN = "INVALID_TOKEN"
    FORBIDDEN = "FORBIDDEN"
    STREAM_LIMIT = "STREAM_LIMIT"
    DATABASE_UNAVAILABLE = "DATABASE_UNAVAILABLE"
    DATABASE_BUSY = "DATABASE_BUSY"
    STATEMENT_TIMEOUT = "STATEMENT_TIMEOUT"


_OUR_FAULT = frozenset({Code.DATABASE_UNAVAILABLE, Code.DATABASE_BUSY, Code.STATEMENT_TIMEOUT})


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refusal; *message* and *details* are for the client and hold nothing internal."""

    code: Code
    message: str
    details: Mapping[str, object] = field(default_factory=dict[str, object])

    @property
    def expected(self) -> bool:
        """Whether the one who asked caused it, so that nobody needs to be woken."""
        return self.code not in _OUR_FAULT
