"""
The road to PostgreSQL: bounded waits, and faults as values.

A request waits at most ``DB_REQUEST_WAIT_SECONDS`` for a connection and a
statement runs at most ``DB_STATEMENT_TIMEOUT_SECONDS``; what takes longer, like a
server that is gone, becomes a :class:`Refusal` that says so and nothing more.
The pool tries a connection before it lends it, so a server that comes back is
used again without a restart.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, Final, TypeVar, cast

import asyncpg  # pyright: ignore[reportMissingTypeStubs]  # published without types
from fastapi import Depends, Request
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from app.core.config import Settings
from app.models.tables import Base
from app.services.refusals import Code, Refusal
from rfs.core.result import Failure, Result, is_success
from rfs.monitoring import result_logging

T = TypeVar("T")

# All that SQLAlchemy, the driver and the socket raise over a server that is gone, full or slow.
DATABASE_FAULTS: Final = (DBAPIError, PoolTimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)

_ATTEMPTS: Final = 3
_PREPARE_PAUSE_SECONDS: Final = 0.5
_RETRIED_STATES: Final = frozenset({"40001", "40P01"})  # serialization failure, deadlock
_CANCELLED_STATE: Final = "57014"  # by the statement's time-out
_FULL_STATE: Final = "53300"  # too many connections
_PREPARE_LOCK: Final = 0x7461626C  # one worker at a time makes the tables
_STARTED: Final = "table_order.started"


class Database:
    """The engine of one process and one event loop. Building it connects to nothing."""

    def __init__(self, settings: Settings) -> None:
        self._request_wait_seconds = settings.DB_REQUEST_WAIT_SECONDS
        self._slow_query_seconds = settings.DB_SLOW_QUERY_SECONDS
        self._tells_queries = settings.DEBUG
        statement_seconds = settings.DB_STATEMENT_TIMEOUT_SECONDS
        self._engine = create_async_engine(
            settings.DATABASE_URL.replace("postgresql://", "postgresql+asyncpg://", 1),
            pool_size=settings.DB_POOL_SIZE,
            max_overflow=settings.DB_MAX_OVERFLOW,
            pool_timeout=settings.DB_POOL_TIMEOUT,
            pool_pre_ping=True,
            hide_parameters=True,  # an error must not quote a customer's data
            connect_args={
                "timeout": settings.DB_REQUEST_WAIT_SECONDS,
                # The server's own limit comes first; this one is for a server that hangs.
                "command_timeout": statement_seconds + 0.5,
                "server_settings": {
                    "statement_timeout": str(round(statement_seconds * 1000)),
                    "application_name": "table_order",
                },
            },
        )
        self._sessions = async_sessionmaker(self._engine, expire_on_commit=False)
        self._prepared = asyncio.Event()
        self._watch_queries()

    @property
    def prepared(self) -> bool:
        """Whether tables and first data are known to be there."""
        return self._prepared.is_set()

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[AsyncSession]:
        """
        Lend a session that has its connection; what is not committed is rolled back.

        Raises:
            TimeoutError: no connection was free within ``DB_REQUEST_WAIT_SECONDS``.
            DBAPIError, asyncpg.PostgresError, OSError: the server is not there.
        """
        async with self._sessions() as session:
            async with asyncio.timeout(self._request_wait_seconds):
                await session.connection()
            yield session

    async def run(self, work: Callable[[AsyncSession], Awaitable[Result[T, Refusal]]]) -> Result[T, Refusal]:
        """
        Do *work* in one transaction: a Success is committed, a Failure rolled back.

        A deadlock or serialization failure is tried again, up to three times in
        all; *work* must therefore do nothing outside the session. A fault of the
        database is a Failure; whatever else *work* raises passes through.
        """
        attempt = 1
        while True:
            try:
                async with self.session() as session:
                    result = await work(session)
                    if is_success(result):
                        await session.commit()
                    elif isinstance(result.error, DATABASE_FAULTS):
                        # A chain of steps hands on what was raised in it as a value.
                        raise result.error
                    return result
            except DATABASE_FAULTS as error:
                if attempt < _ATTEMPTS and _sqlstate(error) in _RETRIED_STATES:
                    result_logging.warning("Retrying a transaction", attempt=attempt, sqlstate=_sqlstate(error))
                    attempt += 1
                    continue
                refusal = refusal_of(error)
                result_logging.error(
                    "Database fault",
                    code=refusal.code.value,
                    error_type=type(error).__name__,
                    sqlstate=_sqlstate(error),
                )
                return Failure(refusal)

    async def check(self) -> Refusal | None:
        """Ask the server for a sign of life; None is good. Answers within the wait of a request and half a second."""
        try:
            async with asyncio.timeout(self._request_wait_seconds + 0.4), self.session() as session:
                await session.execute(text("SELECT 1"))
        except DATABASE_FAULTS as error:
            return refusal_of(error)
        if not self.prepared:
            return Refusal(Code.DATABASE_UNAVAILABLE, "The database is being prepared")
        return None

    async def prepare(self, seed: Callable[[AsyncSession], Awaitable[None]]) -> None:
        """
        Make the tables and let *seed* fill an empty database; try until it is done.

        Runs beside the service, which starts without a database and says in its
        readiness that it is not ready.
        """
        attempt = 1
        while not self.prepared:
            try:
                async with self.session() as session:
                    await session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _PREPARE_LOCK})
                    connection = await session.connection()
                    await connection.run_sync(Base.metadata.create_all)
                    await seed(session)
                    await session.commit()
                self._prepared.set()
            except DATABASE_FAULTS as error:
                result_logging.warning(
                    "Retrying to prepare the database", attempt=attempt, error_type=type(error).__name__
                )
                attempt += 1
                await asyncio.sleep(_PREPARE_PAUSE_SECONDS)

    async def open_listener(self) -> Any:
        """Open a connection of the driver's own, outside the pool, which has no notion of listening."""
        parts = self._engine.url
        connect = cast("Callable[..., Awaitable[Any]]", asyncpg.connect)  # pyright: ignore[reportUnknownMemberType]
        return await connect(
            user=parts.username,
            password=parts.password,
            host=parts.host or parts.query.get("host"),
            port=parts.port,
            database=parts.database,
            timeout=self._request_wait_seconds,
            server_settings={"application_name": "table_order listener"},
        )

    async def wait_prepared(self) -> None:
        """Wait until :meth:`prepare` has done its work."""
        await self._prepared.wait()

    async def close(self) -> None:
        """Close all connections. May be called twice."""
        # A server that is gone cannot be told goodbye.
        with suppress(*DATABASE_FAULTS):
            await self._engine.dispose()

    def _watch_queries(self) -> None:
        engine = self._engine.sync_engine

        def before(connection: Connection, *_: Any) -> None:
            connection.info[_STARTED] = time.monotonic()

        def after(connection: Connection, _cursor: object, statement: str, *_: Any) -> None:
            seconds = time.monotonic() - connection.info[_STARTED]
            if seconds >= self._slow_query_seconds:
                result_logging.warning("Slow query", statement=statement, duration_ms=round(seconds * 1000, 1))
            elif self._tells_queries:
                result_logging.debug("Query", statement=statement, duration_ms=round(seconds * 1000, 1))

        event.listen(engine, "before_cursor_execute", before)
        event.listen(engine, "after_cursor_execute", after)


def refusal_of(error: BaseException) -> Refusal:
    """Tell a fault of the database from its kind; the text holds nothing of the error's own."""
    state = _sqlstate(error)
    if state == _CANCELLED_STATE:
        return Refusal(Code.STATEMENT_TIMEOUT, "The database took too long", {"retry_after_seconds": 1})
    if isinstance(error, PoolTimeoutError | TimeoutError) or state == _FULL_STATE:
        return Refusal(Code.DATABASE_BUSY, "The service is busy", {"retry_after_seconds": 1})
    return Refusal(Code.DATABASE_UNAVAILABLE, "The database is not available", {"retry_after_seconds": 2})


def _sqlstate(error: BaseException) -> str:
    """The five characters by which PostgreSQL names a fault, "" if it did not speak."""
    source = error.orig if isinstance(error, DBAPIError) else error
    return str(getattr(source, "sqlstate", None) or "")


def get_database(request: Request) -> Database:
    """Dependency: the application's database."""
    return cast("Database", request.app.state.service.database)


async def get_db(database: Annotated[Database, Depends(get_database)]) -> AsyncIterator[AsyncSession]:
    """Dependency: a session for the length of one request."""
    async with database.session() as session:
        yield session
