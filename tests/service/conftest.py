from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Generator
from itertools import count
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from app.core.config import Settings
from app.core.dependencies import Service
from app.embedded_postgres import EmbeddedPostgres
from app.main import build_service
from rfs.testing.fixtures import Telemetry
from tests.service.harness import Running, make_settings, running

_names = count(1)


@pytest.fixture(scope="session")
def postgres() -> Generator[EmbeddedPostgres]:
    """One server for all tests; each gets a database of its own."""
    with EmbeddedPostgres() as server:
        yield server


@pytest.fixture(autouse=True)
def telemetry(telemetry: Telemetry) -> Generator[Telemetry]:
    """Every test has it, asked for or not, and leaves the root logger as it was."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield telemetry
    root.handlers[:] = handlers
    root.setLevel(level)


async def _execute(server: EmbeddedPostgres, statement: str) -> None:
    connection = await asyncpg.connect(user="postgres", database="postgres", host=str(server.directory / "s"))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def filled(postgres: EmbeddedPostgres) -> str:
    """The name of a database with three stores, which the others are copies of."""

    async def fill() -> None:
        await _execute(postgres, "CREATE DATABASE filled")
        async with running(make_settings(postgres.url("filled"))):
            pass

    with Telemetry():
        asyncio.run(fill())
    return "filled"


@pytest_asyncio.fixture
async def database_url(postgres: EmbeddedPostgres, filled: str) -> AsyncGenerator[str]:
    """The address of a fresh database with three stores."""
    name = f"test_{next(_names)}"
    await _execute(postgres, f"CREATE DATABASE {name} TEMPLATE {filled}")
    yield postgres.url(name)
    postgres.start()
    await _execute(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def settings(database_url: str) -> Callable[..., Settings]:
    """Makes settings for the test's database."""

    def make(**overrides: Any) -> Settings:
        return make_settings(database_url, **overrides)

    return make


@pytest_asyncio.fixture
async def service(settings: Callable[..., Settings]) -> AsyncGenerator[Service]:
    """The parts of a service, without its HTTP side, on the test's database."""
    made = build_service(settings())
    yield made
    await made.database.close()


@pytest_asyncio.fixture
async def running_service(settings: Callable[..., Settings]) -> AsyncGenerator[Running]:
    """A service that listens."""
    async with running(settings()) as service:
        yield service
