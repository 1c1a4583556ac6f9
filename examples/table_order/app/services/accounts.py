"""Who may come in: accounts, the tokens that they get, and taking tokens back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.database import Database
from app.core.security import Passwords, Principal, Tokens, utc_now
from app.models.schemas import Login, Revoked, TokenView
from app.models.tables import AccessToken, Account, DiningTable, Role
from app.services.refusals import Code, Refusal
from rfs.core.result import Failure, Result, Success
from rfs.monitoring import result_logging
from rfs.monitoring.result_logging import LogLevel, log_result_operation

REVOKED_CHANNEL: Final = "token_revoked"


class Accounts:
    """The verbs on accounts and tokens. For one event loop."""

    def __init__(
        self, database: Database, tokens: Tokens, passwords: Passwords, now: Callable[[], datetime] = utc_now
    ) -> None:
        self._database = database
        self._tokens = tokens
        self._passwords = passwords
        self._now = now

    @log_result_operation("accounts.login", include_args=False)
    async def login(self, login: Login) -> Result[TokenView, Refusal]:
        """Give a token for a name and a password; an unknown name takes as long as a wrong password."""
        found = await self._database.run(lambda session: _find_account(session, login))
        if isinstance(found, Failure):
            return found
        account = found.value
        password_hash = None if account is None else account.password_hash
        matches = await self._passwords.verify(password_hash, login.password.get_secret_value())
        if account is None or not matches:
            result_logging.error("Login refused", store_id=login.store_id, username=login.username)
            return Failure(Refusal(Code.INVALID_CREDENTIALS, "Store, name or password is wrong"))
        return await self._give(self._tokens.principal(account.username, Role(account.role), store_id=account.store_id))

    @log_result_operation("accounts.table_token")
    async def table_token(self, store_id: str, table_number: int) -> Result[TokenView, Refusal]:
        """Give the token that a table's tablet orders with."""
        table = await self._database.run(lambda session: _find_table(session, store_id, table_number))
        if isinstance(table, Failure):
            return table
        subject = f"table-{table_number}"
        return await self._give(
            self._tokens.principal(subject, Role.TABLE, store_id=store_id, table_number=table_number)
        )

    @log_result_operation("accounts.authenticate", log_level=LogLevel.DEBUG, include_args=False)
    async def authenticate(self, token: str) -> Result[Principal, Refusal]:
        """Tell who holds *token*: signature and expiry first, then whether it still opens anything."""
        claimed = self._tokens.read(token)
        if isinstance(claimed, Failure):
            return claimed
        principal = claimed.value

        async def confirm(session: AsyncSession) -> Result[Principal, Refusal]:
            token_row = await session.get(AccessToken, principal.token_id)
            if token_row is None or token_row.revoked_at is not None:
                return Failure(Refusal(Code.INVALID_TOKEN, "The token was revoked"))
            return Success(principal)

        return await self._database.run(confirm)

    @log_result_operation("accounts.revoke", include_args=False)
    async def revoke(self, principal: Principal, token_id: str) -> Result[Revoked, Refusal]:
        """
        Take a token back, from the next request on; its open stream ends too.

        Everybody may give up the own token, a manager those of the store, an admin all.
        """

        async def work(session: AsyncSession) -> Result[Revoked, Refusal]:
            token = await session.get(AccessToken, token_id)
            if token is None or not _may_revoke(principal, token):
                return Failure(Refusal(Code.UNKNOWN_TOKEN, "There is no such token", {"token_id": token_id}))
            first = AccessToken.id == token_id, AccessToken.revoked_at.is_(None)
            await session.execute(update(AccessToken).where(*first).values(revoked_at=self._now()))
            await session.execute(select(func.pg_notify(REVOKED_CHANNEL, token_id)))
            return Success(Revoked(token_id=token_id))

        return await self._database.run(work)

    async def _give(self, principal: Principal) -> Result[TokenView, Refusal]:
        async def keep(session: AsyncSession) -> Result[None, Refusal]:
            session.add(
                AccessToken(
                    id=principal.token_id,
                    subject=principal.subject,
                    role=principal.role,
                    store_id=principal.store_id,
                    table_number=principal.table_number,
                    expires_at=principal.expires_at,
                    revoked_at=None,
                )
            )
            return Success(None)

        kept = await self._database.run(keep)
        return kept.map(lambda _: self._view(principal))

    def _view(self, principal: Principal) -> TokenView:
        return TokenView(
            access_token=self._tokens.sign(principal),
            token_id=principal.token_id,
            role=principal.role,
            store_id=principal.store_id,
            table_number=principal.table_number,
            expires_at=principal.expires_at,
        )


async def _find_account(session: AsyncSession, login: Login) -> Result[Account | None, Refusal]:
    same_store = Account.store_id.is_not_distinct_from(login.store_id)
    return Success(await session.scalar(select(Account).where(same_store, Account.username == login.username)))


async def _find_table(session: AsyncSession, store_id: str, table_number: int) -> Result[DiningTable, Refusal]:
    table = await session.get(DiningTable, (store_id, table_number))
    if table is None:
        details = {"table_number": table_number}
        return Failure(Refusal(Code.UNKNOWN_TABLE, "The store has no such table", details))
    return Success(table)


def _may_revoke(principal: Principal, token: AccessToken) -> bool:
    if token.id == principal.token_id or principal.role is Role.ADMIN:
        return True
    return principal.role is Role.MANAGER and token.store_id == principal.store_id
