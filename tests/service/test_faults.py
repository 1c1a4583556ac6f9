from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx
import pytest
from dirty_equals import Contains, HasAttributes, IsNumber, IsOneOf
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.config import Settings
from app.core.database import refusal_of
from app.core.dependencies import Service
from app.embedded_postgres import EmbeddedPostgres
from app.main import build_service
from app.services.refusals import Code, Refusal
from app.traffic.client import Client
from app.traffic.evening import Evening
from rfs.core.result import Result, Success
from rfs.testing.fixtures import Telemetry
from rfs.testing.result_helpers import assert_mono_result_error, assert_mono_result_value
from rfs.testing.steps import StepVerifier
from tests.service.harness import API, FAR_SECONDS, PASSWORD, Running, eventually, make_settings, running, until

pytestmark = [pytest.mark.postgres, pytest.mark.fault]

ORDERS = f"{API}/stores/hanok/orders"
ORDER = {"table_number": 1, "lines": [{"item_number": 1, "quantity": 1}]}
SERIOUS = IsOneOf("WARNING", "ERROR", "CRITICAL")
INTERNALS = ("asyncpg", "sqlalchemy", "postgres", "socket", "/tmp", "errno", "traceback", "select", "insert", "update")


@pytest.fixture
def mortal() -> Generator[EmbeddedPostgres]:
    """A PostgreSQL that the test may kill."""
    with EmbeddedPostgres() as server:
        yield server


@asynccontextmanager
async def served_by(server: EmbeddedPostgres, **overrides: Any) -> AsyncGenerator[Running]:
    """A service on the server's first database."""
    limits = {"DB_REQUEST_WAIT_SECONDS": 1.5, "DB_STATEMENT_TIMEOUT_SECONDS": 2}
    async with running(make_settings(server.url(), **{**limits, **overrides})) as service:
        yield service


def assert_tells_nothing(body: str) -> None:
    """No word of the machinery is in *body*."""
    assert not [word for word in INTERNALS if word in body.lower()], body


class TestDatabaseKilled:
    async def test_while_traffic_runs(self, mortal: EmbeddedPostgres) -> None:
        """
        PostgreSQL dies in the middle of an evening: not ready within 2 s, alive all the while, orders refused with 503, an
        id and no internals; when it comes back, everything goes on without a restart and no kitchen has missed an order.
        """
        async with served_by(mortal) as service, Client(service.address, retry_seconds=0.1) as client:
            evening = Evening(client, password=PASSWORD, rate=10, seed=7, pace=0.02)
            await service.token("hanok", "manager")
            guests = asyncio.create_task(evening.run())
            await until(lambda: evening.tally.orders["served"] >= 3)

            mortal.kill()
            async with asyncio.timeout(2):
                ready = await service.http.get("/health/ready")
            alive = await service.http.get("/health/live")
            async with asyncio.timeout(2):
                order = await service.call("POST", ORDERS, json=ORDER)

            assert (ready.status_code, ready.json()["status"]) == (503, "not_ready")
            assert_tells_nothing(ready.json()["checks"]["database"].replace("database", ""))
            assert (alive.status_code, alive.json()) == (200, {"status": "alive"})
            assert order.status_code == 503
            assert order.json()["code"] in {"DATABASE_UNAVAILABLE", "DATABASE_BUSY"}
            assert order.headers["X-Correlation-ID"] in order.text
            assert_tells_nothing(order.json()["message"].replace("database", ""))

            away = ("DATABASE_UNAVAILABLE", "DATABASE_BUSY")
            await until(lambda: any(evening.tally.failures[code] for code in away))
            mortal.start()

            async def readiness() -> int:
                return (await service.http.get("/health/ready")).status_code

            await eventually(readiness, 200, seconds=5)
            served = evening.tally.orders["served"]
            assert (await service.call("POST", ORDERS, json=ORDER)).status_code == 200
            await until(lambda: evening.tally.orders["served"] > served + 3)
            evening.close_doors()
            tally = await asyncio.wait_for(guests, FAR_SECONDS)

            assert (tally.events_missed, tally.events_repeated, tally.unanswered) == (0, 0, 0)

    async def test_between_two_orders_costs_none(self, mortal: EmbeddedPostgres) -> None:
        """
        A server that was killed and is back is used by the very next order: connections are tried before they are lent.
        """
        async with served_by(mortal) as service:
            await asyncio.gather(*(service.place(table=table + 1) for table in range(5)))
            mortal.kill()
            mortal.start()

            assert (await service.place())["status"] == "created"

    async def test_an_order_is_committed_or_refused(self, mortal: EmbeddedPostgres) -> None:
        """
        Whoever was told 200 finds the order after the crash; who sends a refused one again under its key has it once.
        """
        async with served_by(mortal) as service:
            await service.token("hanok", "manager")

            async def order(number: int) -> tuple[int, int]:
                headers = {"Idempotency-Key": f"order-number-{number}"}
                return number, (await service.call("POST", ORDERS, json=ORDER, headers=headers)).status_code

            placing = [asyncio.create_task(order(number)) for number in range(20)]
            await asyncio.wait(placing, return_when=asyncio.FIRST_COMPLETED)
            mortal.kill()
            answers = await asyncio.gather(*placing)
            mortal.start()

            async def readiness() -> int:
                return (await service.http.get("/health/ready")).status_code

            await eventually(readiness, 200, seconds=5)
            assert {status for _, status in answers} <= {200, 503}
            again = [await order(number) for number, status in answers if status == 503]
            listed = (await service.call("GET", ORDERS, params={"limit": 200})).json()

            assert {status for _, status in again} <= {200}
            assert len(listed) == 20

    async def test_at_the_start_it_waits(self, mortal: EmbeddedPostgres) -> None:
        """
        A service without a database starts, says that it is not ready, and is when the database comes.
        """
        mortal.stop()
        async with running(make_settings(mortal.url()), prepared=False) as service:
            assert (await service.http.get("/health/live")).status_code == 200
            assert (await service.http.get("/health/ready")).status_code == 503
            body = {"store_id": "hanok", "username": "manager", "password": PASSWORD}
            assert (await service.http.post(f"{API}/auth/login", json=body)).status_code == 503

            mortal.start()

            async def readiness() -> dict[str, Any]:
                answer: dict[str, Any] = (await service.http.get("/health/ready")).json()
                return answer

            await eventually(readiness, {"status": "ready", "checks": {"database": "connected"}})
            assert (await service.place())["status"] == "created"

    async def test_streams_stay_and_go_on(self, mortal: EmbeddedPostgres) -> None:
        """
        A kitchen's stream lives through the crash, with heartbeats, and shows the next order.
        """
        async with served_by(mortal, SSE_HEARTBEAT_INTERVAL=0.1) as service, service.stream() as stream:
            mortal.kill()
            beats = [await stream.next() for _ in range(3)]
            mortal.start()
            order = await service.place()

            assert beats == [{"": "heartbeat"}] * 3
            assert (await anext(stream))["order_id"] == order["id"]


class TestBusyDatabase:
    async def test_a_request_does_not_wait_for_ever(self, settings: Callable[..., Settings]) -> None:
        """
        With every connection taken, a request is told 503 and when to come back, within 2 s; then all is well again.
        """
        async with running(settings(DB_POOL_SIZE=1, DB_MAX_OVERFLOW=0, DB_REQUEST_WAIT_SECONDS=0.5)) as service:
            await service.token("hanok", "manager")
            await service.service.feed.read("hanok", 0)
            async with service.service.database.session():
                async with asyncio.timeout(2):
                    order = await service.call("POST", ORDERS, json=ORDER)
                async with asyncio.timeout(2):
                    ready = await service.http.get("/health/ready")

            assert (order.status_code, order.json()["code"]) == (503, "DATABASE_BUSY")
            assert order.headers["Retry-After"] == "1"
            assert ready.status_code == 503
            assert (await service.call("POST", ORDERS, json=ORDER)).status_code == 200

    async def test_a_statement_does_not_run_for_ever(self, settings: Callable[..., Settings]) -> None:
        """
        An order that waits for a lock longer than the limit is told 503, within the limit and a little.
        """

        def is_refusal(reply: httpx.Response) -> bool:
            told = reply.status_code, reply.json()["code"], reply.headers["Retry-After"]
            return told == (503, "STATEMENT_TIMEOUT", "1")

        async with running(settings(DB_STATEMENT_TIMEOUT_SECONDS=0.3)) as service:
            await service.token("hanok", "manager")
            async with service.service.database.session() as holder:
                await holder.execute(text("LOCK TABLE menu_items IN ACCESS EXCLUSIVE MODE"))

                answer = StepVerifier(service.call("POST", ORDERS, json=ORDER)).expect_value(is_refusal)
                await answer.within(2, at_least=0.3).verify_complete()

            assert (await service.call("POST", ORDERS, json=ORDER)).status_code == 200

    async def test_deadlocks_are_tried_again(self, service: Service, telemetry: Telemetry) -> None:
        """
        A transaction that PostgreSQL sacrifices is done again, with a WARNING, and the guest sees nothing of it.
        """
        attempts = 0

        async def work(session: AsyncSession) -> Result[int, Refusal]:
            nonlocal attempts
            attempts += 1
            if attempts < 3:
                await session.execute(text("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40P01'; END $$"))
            return Success(attempts)

        await assert_mono_result_value(service.database.run(work), 3)

        retrying = {"level": "WARNING", "message": "Retrying a transaction", "sqlstate": "40P01"}
        telemetry.assert_records({**retrying, "attempt": 1}, {**retrying, "attempt": 2}, level=SERIOUS)

    async def test_a_fourth_time_is_one_too_many(self, service: Service, telemetry: Telemetry) -> None:
        """
        After three attempts the fault is a refusal, and an ERROR.
        """

        async def work(session: AsyncSession) -> Result[None, Refusal]:
            await session.execute(text("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40001'; END $$"))
            return Success(None)

        unavailable = HasAttributes(code=Code.DATABASE_UNAVAILABLE)
        await assert_mono_result_error(service.database.run(work), unavailable)

        telemetry.assert_records(
            {"message": "Retrying a transaction", "attempt": 1},
            {"message": "Retrying a transaction", "attempt": 2},
            {"level": "ERROR", "message": "Database fault", "sqlstate": "40001"},
            level=SERIOUS,
        )

    async def test_slow_queries_are_written_down(self, settings: Callable[..., Settings], telemetry: Telemetry) -> None:
        """
        A query that takes longer than the limit is a WARNING with its text, and without its values.
        """
        service = build_service(settings(DB_SLOW_QUERY_SECONDS=0.05))
        async with service.database.session() as session:
            await session.execute(text("SELECT pg_sleep(0.06), :secret"), {"secret": "customer-0042"})
        await service.database.close()

        slow = {"statement": Contains("pg_sleep"), "duration_ms": IsNumber(ge=50)}
        telemetry.assert_records({"level": "WARNING", "context": slow}, message="Slow query")
        telemetry.assert_no_secret("customer-0042")


class TestDebug:
    @pytest.mark.parametrize(("debug", "told"), [(True, True), (False, False)])
    async def test_tells_every_query(
        self, settings: Callable[..., Settings], telemetry: Telemetry, debug: bool, told: bool
    ) -> None:
        """
        With DEBUG each query is a record at level DEBUG, without its values; without it, none is.
        """
        async with running(settings(DEBUG=debug, LOG_LEVEL="DEBUG")) as service:
            await service.place()

        telemetry.assert_no_record(message="Query", level=~IsOneOf("DEBUG"))
        if told:
            telemetry.assert_record(message="Query", statement=Contains("INSERT INTO orders"))
        else:
            telemetry.assert_no_record(message="Query")


class TestFaultsAsRefusals:
    @pytest.mark.parametrize(
        ("fault", "code"),
        [
            (ConnectionRefusedError("/tmp/secret"), Code.DATABASE_UNAVAILABLE),
            (FileNotFoundError("/tmp/secret"), Code.DATABASE_UNAVAILABLE),
            (TimeoutError(), Code.DATABASE_BUSY),
            (asyncpg.TooManyConnectionsError("secret"), Code.DATABASE_BUSY),
            (asyncpg.QueryCanceledError("secret"), Code.STATEMENT_TIMEOUT),
            (asyncpg.CannotConnectNowError("secret"), Code.DATABASE_UNAVAILABLE),
            (DBAPIError("SELECT secret", {}, asyncpg.QueryCanceledError("secret")), Code.STATEMENT_TIMEOUT),
        ],
    )
    def test_each_kind_has_its_code_and_tells_nothing(self, fault: BaseException, code: Code) -> None:
        """
        What the driver says stays with us.
        """
        refusal = refusal_of(fault)

        assert refusal.code is code
        assert not refusal.expected
        assert "secret" not in json.dumps([refusal.message, dict(refusal.details)])
