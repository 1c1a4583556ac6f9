"""
Passwords and tokens.

A token is a signed JWT that names a row of ``access_tokens``; the row decides
whether it still opens anything, so a revoked one is refused from the next
request on. Passwords are kept as argon2id hashes.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import jwt
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from app.models.tables import Role
from app.services.refusals import Code, Refusal
from rfs.core.result import Failure, Result, Success

_ALGORITHM: Final = "HS256"
_CLAIMS: Final = ("sub", "jti", "role", "iat", "exp")
# The least that OWASP accepts for argon2id: 19 MiB, 2 passes, one lane; about 15 ms.
_HASHER: Final = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


def utc_now() -> datetime:
    """The clock of the service, unless another is handed in."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks, as the token says and the database confirmed."""

    token_id: str
    subject: str
    role: Role
    store_id: str | None
    table_number: int | None
    expires_at: datetime


class Tokens:
    """Signs and reads tokens. Safe from any thread."""

    def __init__(self, secret_key: str, lifetime: timedelta, now: Callable[[], datetime] = utc_now) -> None:
        self._secret_key = secret_key
        self._lifetime = lifetime
        self._now = now

    def principal(
        self, subject: str, role: Role, *, store_id: str | None = None, table_number: int | None = None
    ) -> Principal:
        """A principal with a fresh token id, whose token expires a lifetime from now."""
        expires_at = (self._now() + self._lifetime).replace(microsecond=0)
        return Principal(secrets.token_hex(16), subject, role, store_id, table_number, expires_at)

    def sign(self, principal: Principal) -> str:
        """Return the JWT of *principal*."""
        claims: dict[str, Any] = {
            "sub": principal.subject,
            "jti": principal.token_id,
            "role": principal.role.value,
            "store": principal.store_id,
            "table": principal.table_number,
            "iat": int(self._now().timestamp()),
            "exp": int(principal.expires_at.timestamp()),
        }
        return jwt.encode(  # pyright: ignore[reportUnknownMemberType]  # a key type of an optional package
            claims, self._secret_key, algorithm=_ALGORITHM
        )

    def read(self, token: str) -> Result[Principal, Refusal]:
        """Check signature, form and expiry. Whether the token was revoked, the database knows."""
        try:
            claims = jwt.decode(  # pyright: ignore[reportUnknownMemberType]
                token,
                self._secret_key,
                algorithms=[_ALGORITHM],
                # Expiry is compared below, with the clock that was handed in.
                options={"require": list(_CLAIMS), "verify_exp": False, "verify_iat": False},
            )
            principal = _principal(claims)
        except (jwt.InvalidTokenError, ValueError, TypeError, OverflowError, OSError):
            return Failure(Refusal(Code.INVALID_TOKEN, "The token is not valid"))
        if principal.expires_at <= self._now():
            return Failure(Refusal(Code.INVALID_TOKEN, "The token has expired"))
        return Success(principal)


def _principal(claims: Mapping[str, Any]) -> Principal:
    store, table = claims.get("store"), claims.get("table")
    return Principal(
        token_id=str(claims["jti"]),
        subject=str(claims["sub"]),
        role=Role(claims["role"]),
        store_id=None if store is None else str(store),
        table_number=None if table is None else int(table),
        expires_at=datetime.fromtimestamp(int(claims["exp"]), UTC),
    )


class Passwords:
    """Hashes and checks passwords in threads, two at a time: each takes 19 MiB and 15 ms."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(2)
        # Compared when there is no such account, so that the answer takes as long as for a real one.
        self._nobody = _HASHER.hash(secrets.token_hex(16))

    async def hash(self, password: str) -> str:
        """Return the argon2id hash of *password*."""
        async with self._turn:
            return await asyncio.to_thread(_HASHER.hash, password)

    async def verify(self, password_hash: str | None, password: str) -> bool:
        """Whether *password* is the one; None for an account that does not exist is always False."""
        async with self._turn:
            matches = await asyncio.to_thread(_verify, password_hash or self._nobody, password)
        return matches and password_hash is not None


def _verify(password_hash: str, password: str) -> bool:
    try:
        return _HASHER.verify(password_hash, password)
    except (VerificationError, InvalidHashError):
        return False
