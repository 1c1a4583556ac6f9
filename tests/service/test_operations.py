"""
What each operation returns, logs, measures and traces: asked of the service's parts, without its HTTP side.

Those of `TestWithoutADatabase` and `TestEndpoints` have none: what the database or a service would answer, a mock does.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any
from uuid import UUID

import httpx
import pytest
import pytest_asyncio
from dirty_equals import Contains, HasAttributes, IsOneOf
from fastapi import FastAPI

from app.api.v1.errors import STATUS
from app.core.dependencies import Service
from app.core.security import Principal
from app.main import build_service, create_app
from app.models.schemas import Login, NewLine, NewOrder, OrderView, Revoked, TokenView
from app.models.tables import OrderStatus, Role
from app.services.orders import Placement
from app.services.refusals import Code, Refusal
from rfs.core.result import Result
from rfs.monitoring import setup_default_alerts
from rfs.reactive import FluxResult
from rfs.testing.fixtures import Telemetry
from rfs.testing.generators import TestDataFactory
from rfs.testing.result_helpers import (
    assert_flux_failure_count,
    assert_flux_result_stats,
    assert_mono_result_error,
    assert_mono_result_success,
    assert_mono_result_value,
)
from rfs.testing.virtual_time import VirtualTime
from tests.service.harness import API, NOWHERE, PASSWORD, SECRET_KEY, make_settings

ORDERS = f"{API}/stores/{{store_id}}/orders"
NOBODYS = UUID(int=7)
SPECIAL = 8  # the dish of which there are six
BUSY = Refusal(Code.DATABASE_BUSY, "The service is busy", {"retry_after_seconds": 1})
data = TestDataFactory(seed=7)


def order(table_number: int = 1, *lines: tuple[int, int]) -> NewOrder:
    """An order of *lines*: item and portions; by default one of the first item."""
    wanted = [NewLine(item_number=item, quantity=quantity) for item, quantity in lines or [(1, 1)]]
    return NewOrder(table_number=table_number, lines=wanted)


@pytest.mark.postgres
class TestPlacing:
    async def test_an_order(self, service: Service, telemetry: Telemetry) -> None:
        """
        It is priced from the menu; its operation has one step, is counted and timed, and recording lost nothing.
        """
        placing = service.orders.place("hanok", order(3, (1, 2), (6, 1)))

        placement = await assert_mono_result_success(placing, Placement)

        assert (placement.order.total_won, placement.replayed) == (2 * 9_000 + 6_000, False)
        telemetry.assert_records(
            {"message": "Operation started", "store_id": "hanok"},
            {"message": "주문 저장 완료", "step": "placed"},
            {"message": "Operation completed", "outcome": "ok", "result_type": "Placement"},
        )
        telemetry.assert_span(operation="orders.place", outcome="ok", error=None, children=[])
        telemetry.assert_metric("orders_created_total", 1)
        telemetry.assert_metric("orders_total", 1, status="created")
        telemetry.assert_metric("result_success_total", 1, operation="orders.place")
        telemetry.assert_metric("result_duration_ms", {"count": 1}, operation="orders.place")
        telemetry.assert_metric("result_failure_total", None)
        telemetry.assert_health()

    async def test_all_that_an_order_tells(self, service: Service, telemetry: Telemetry) -> None:
        """
        Word for word; ``pytest --rfs-update-snapshots`` writes it anew where it changes.
        """
        await assert_mono_result_success(service.orders.place("hanok", order(3, (1, 2)), "tablet-3-order-1"))

        telemetry.assert_snapshot("""
            records
              INFO operation_start orders.place: Operation started
                correlation=<id 1> span=<id 2>
                key: 'tablet-3-order-1'
                store_id: 'hanok'
                wanted: {lines: [{item_number: 1, quantity: 2}], table_number: 3}
              INFO step orders.place/placed -> ok <duration>: 주문 저장 완료
                correlation=<id 1> span=<id 2>
                index: 1
                result_type: 'Placement'
              INFO operation orders.place -> ok <duration>: Operation completed
                correlation=<id 1> span=<id 2>
                result_type: 'Placement'
            metrics
              operations_active{operation="orders.place"} 0
              orders_created_total 1
              orders_total{status="created"} 1
              result_duration_ms{operation="orders.place"} count=1
              result_success_total{operation="orders.place"} 1
        """)

    @pytest.mark.parametrize(
        ("wanted", "code", "details"),
        [
            (order(1, (SPECIAL, 7)), Code.SOLD_OUT, {"item_number": SPECIAL, "left": 6, "wanted": 7}),
            (order(1, (99, 1)), Code.UNKNOWN_ITEM, {"item_number": 99}),
            (order(99), Code.UNKNOWN_TABLE, {"table_number": 99}),
        ],
        ids=lambda value: value if isinstance(value, Code) else "",
    )
    async def test_what_guests_cause(
        self, service: Service, telemetry: Telemetry, wanted: NewOrder, code: Code, details: dict[str, object]
    ) -> None:
        """
        A refusal says what could be had; it is a failed operation of its code, expected, and nothing that wakes anybody.
        """
        refusal = HasAttributes(code=code, details=details, expected=True)

        await assert_mono_result_error(service.orders.place("hanok", wanted), refusal)

        telemetry.assert_span(operation="orders.place", outcome="failed", error={"code": code})
        telemetry.assert_record(message="Operation failed", level="INFO", expected=True)
        telemetry.assert_no_record(level=IsOneOf("WARNING", "ERROR", "CRITICAL"))
        telemetry.assert_metric("result_failure_total", 1, operation="orders.place", expected="true")
        telemetry.assert_metric("result_error_by_type_total", 1, error_type="Refusal", error_code=code)
        telemetry.assert_metric("orders_created_total", None)

    async def test_the_same_again(self, service: Service, telemetry: Telemetry) -> None:
        """
        Under the same key the second operation succeeds too, with the first one's order, and no second order is counted.
        """
        first = await assert_mono_result_success(service.orders.place("hanok", order(), "tablet-7-order-1"))

        again = await assert_mono_result_success(service.orders.place("hanok", order(), "tablet-7-order-1"))

        assert (again.order, again.replayed) == (first.order, True)
        telemetry.assert_metric("result_success_total", 2, operation="orders.place")
        telemetry.assert_metric("orders_created_total", 1)

    async def test_many_want_the_last_ones(self, service: Service, telemetry: Telemetry) -> None:
        """
        Of twenty orders at once for a dish of which there are six, six succeed, and each of the others says why not.
        """

        def place(table: int) -> Awaitable[Result[Placement, Refusal]]:
            return service.orders.place("hanok", order(table % 12 + 1, (SPECIAL, 1)))

        placed = await FluxResult.from_iterable_async(range(20), place)

        assert_flux_result_stats(placed, expected_success=6, expected_failures=14)
        telemetry.assert_metric("orders_created_total", 6)
        telemetry.assert_metric("result_error_by_type_total", 14)
        telemetry.assert_metric("result_error_by_type_total", 14, error_code=Code.SOLD_OUT)

    async def test_an_evening_makes_no_series(self, service: Service, telemetry: Telemetry) -> None:
        """
        After the first order, further ones, at whichever table and under whichever key, are counted where it was.
        """
        await assert_mono_result_success(service.orders.place("hanok", order(), "tablet-1-order-1"))

        with telemetry.no_new_series():
            for table in range(2, 10):
                placing = service.orders.place("hanok", order(table, (table - 1, 1)), f"tablet-{table}-order-1")
                await assert_mono_result_success(placing)


@pytest.mark.postgres
class TestChangingStatus:
    async def test_from_the_kitchen_to_the_table(self, service: Service, telemetry: Telemetry) -> None:
        """
        Each step on the way is an operation with its own step and is counted under the status that was entered.
        """
        placed = await assert_mono_result_success(service.orders.place("hanok", order()))
        way = [OrderStatus.ACCEPTED, OrderStatus.COOKING, OrderStatus.SERVED]

        for status in way:
            changing = service.orders.change_status("hanok", placed.order.id, status)
            assert (await assert_mono_result_success(changing, OrderView)).status is status

        telemetry.assert_records(*[{"message": "주문 상태 변경 완료"}] * 3, step="changed")
        for status in way:
            telemetry.assert_metric("orders_total", 1, status=status)
        telemetry.assert_metric("orders_created_total", 1)

    async def test_against_the_way(self, service: Service, telemetry: Telemetry) -> None:
        """
        A status that cannot be entered is refused with where the order stands, and is counted for no status.
        """
        placed = await assert_mono_result_success(service.orders.place("hanok", order()))
        refusal = HasAttributes(code=Code.INVALID_STATUS_TRANSITION, details={"from": "created", "to": "served"})

        changing = service.orders.change_status("hanok", placed.order.id, OrderStatus.SERVED)
        await assert_mono_result_error(changing, refusal)

        telemetry.assert_span(operation="orders.change_status", outcome="failed")
        telemetry.assert_no_record(step="changed", outcome="ok")
        telemetry.assert_metric("orders_total", 1)
        telemetry.assert_metric("orders_total", None, status="served")

    async def test_nobodys(self, service: Service, telemetry: Telemetry) -> None:
        """
        Changing and reading an order that the store does not have fail alike, each as its own operation.
        """
        unknown = HasAttributes(code=Code.UNKNOWN_ORDER, details={"order_id": str(NOBODYS)})

        await assert_mono_result_error(service.orders.change_status("hanok", NOBODYS, OrderStatus.ACCEPTED), unknown)
        await assert_mono_result_error(service.orders.get("hanok", NOBODYS), unknown)

        for operation in ("orders.change_status", "orders.get"):
            telemetry.assert_metric("result_error_by_type_total", 1, operation=operation, error_code="UNKNOWN_ORDER")


@pytest.mark.postgres
class TestAccounts:
    async def test_a_token_from_login_to_logout(self, service: Service, telemetry: Telemetry) -> None:
        """
        It opens until it is revoked; the operations show in the telemetry, and password, key and token do not.
        """
        login = Login(store_id="hanok", username="manager", password=PASSWORD)

        token = await assert_mono_result_success(service.accounts.login(login), TokenView)
        opened = service.accounts.authenticate(token.access_token)
        manager = await assert_mono_result_success(opened, Principal)
        revoking = service.accounts.revoke(manager, token.token_id)
        await assert_mono_result_value(revoking, Revoked(token_id=token.token_id))
        closed = service.accounts.authenticate(token.access_token)
        await assert_mono_result_error(closed, HasAttributes(code=Code.INVALID_TOKEN, message="The token was revoked"))

        assert (manager.subject, manager.role, manager.store_id) == ("manager", Role.MANAGER, "hanok")
        for operation in ("accounts.login", "accounts.revoke"):
            telemetry.assert_span(operation=operation, outcome="ok")
        telemetry.assert_metric("result_success_total", 1, operation="accounts.authenticate")
        telemetry.assert_metric("result_failure_total", 1, operation="accounts.authenticate", expected="true")
        telemetry.assert_no_span(operation="accounts.authenticate")  # of every request: recorded at DEBUG alone
        telemetry.assert_no_secret(PASSWORD, SECRET_KEY, token.access_token)

    @pytest.mark.parametrize(
        "changed", [{"password": "not-this-9f3a"}, {"username": "nobody"}, {"store_id": "pocha-2"}]
    )
    async def test_a_refused_login(self, service: Service, telemetry: Telemetry, changed: dict[str, str]) -> None:
        """
        Whatever was wrong, the refusal is the same one; who tried is one ERROR record, the password is in none.
        """
        asked = {"store_id": "hanok", "username": "manager", "password": PASSWORD, **changed}

        await assert_mono_result_error(
            service.accounts.login(Login.model_validate(asked)),
            Refusal(Code.INVALID_CREDENTIALS, "Store, name or password is wrong"),
        )

        who = {"store_id": asked["store_id"], "username": asked["username"]}
        telemetry.assert_records({"message": "Login refused", "operation": "accounts.login", **who}, level="ERROR")
        telemetry.assert_no_secret(asked["password"])


VERBS: dict[str, Callable[[Service], Awaitable[Result[Any, Refusal]]]] = {
    "orders.place": lambda service: service.orders.place("hanok", order()),
    "orders.change_status": lambda service: service.orders.change_status("hanok", NOBODYS, OrderStatus.ACCEPTED),
    "orders.get": lambda service: service.orders.get("hanok", NOBODYS),
    "orders.list": lambda service: service.orders.list("hanok"),
    "catalogue.stores": lambda service: service.catalogue.stores(),
    "catalogue.menu": lambda service: service.catalogue.menu("hanok"),
    "catalogue.set_stock": lambda service: service.catalogue.set_stock("hanok", 1, 9),
    "accounts.login": lambda service: service.accounts.login(Login(username="admin", password=PASSWORD)),
    "accounts.table_token": lambda service: service.accounts.table_token("hanok", 1),
    "accounts.revoke": lambda service: service.accounts.revoke(data.build(Principal), "0" * 32),
    "feed.subscribe": lambda service: service.feed.subscribe(data.build(Principal), "hanok", None),
}


class TestWithoutADatabase:
    @pytest.fixture
    def service(self, result_mocker_factory: Callable[..., Any]) -> Service:
        """One whose database is busy whenever it is asked."""
        made = build_service(make_settings(NOWHERE))
        result_mocker_factory(made.database, "run").return_error(BUSY)
        return made

    @pytest.mark.parametrize("operation", VERBS)
    async def test_each_verb_hands_the_refusal_on(self, service: Service, telemetry: Telemetry, operation: str) -> None:
        """
        It returns what the database said, and is one failed operation that nobody has caused: an ERROR, of which alerts know.
        """
        await assert_mono_result_error(VERBS[operation](service), BUSY)

        telemetry.assert_span(operation=operation, outcome="failed", error={"code": "DATABASE_BUSY"})
        telemetry.assert_records({"message": "Operation failed", "operation": operation}, level="ERROR")
        telemetry.assert_metric("result_failure_total", 1, operation=operation)
        telemetry.assert_metric("result_failure_total", None, expected="true")
        telemetry.assert_metric("result_error_by_type_total", 1, operation=operation, error_code="DATABASE_BUSY")

    async def test_somebody_is_called_once(self, service: Service, telemetry: Telemetry) -> None:
        """
        More than ten such failures are one alert; when they have passed out of its window, it is resolved.
        """
        setup_default_alerts()

        failed = await FluxResult.from_iterable_async(range(11), lambda _: service.orders.place("hanok", order()))
        assert_flux_failure_count(failed, 11)
        telemetry.advance(2)
        telemetry.assert_alert("high_failure_count", current_value=11)
        telemetry.advance(600)

        telemetry.assert_alert("high_failure_count", "resolve")
        assert [alert.event for alert in telemetry.alerts].count("fire") == 1

    async def test_nobody_is_called_for_what_guests_cause(
        self, telemetry: Telemetry, result_mocker_factory: Callable[..., Any]
    ) -> None:
        """
        However often a dish is sold out, no alert fires.
        """
        setup_default_alerts()
        service = build_service(make_settings(NOWHERE))
        run = result_mocker_factory(service.database, "run").return_error(
            Refusal(Code.SOLD_OUT, "The item is sold out")
        )

        failed = await FluxResult.from_iterable_async(range(50), lambda _: service.orders.place("hanok", order()))
        telemetry.advance(2)

        assert (run.call_count, failed.count_failures()) == (50, 50)
        telemetry.assert_no_alert()


@pytest.fixture(scope="module")
def app() -> FastAPI:
    """The application: one for all tests that ask for it, for it keeps nothing."""
    with Telemetry():
        return create_app(make_settings(NOWHERE))


class TestEndpoints:
    """What is between a request and its operation, which is mocked."""

    @pytest_asyncio.fixture
    async def client(
        self, app: FastAPI, result_mocker_factory: Callable[..., Any]
    ) -> AsyncGenerator[httpx.AsyncClient]:
        """A client whose token is the manager's."""
        manager = data.build(Principal, subject="manager", role=Role.MANAGER, store_id="hanok", table_number=None)
        result_mocker_factory(app.state.service.accounts, "authenticate").return_success(manager)
        headers = {"Authorization": "Bearer any"}
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as made:
            yield made

    async def test_an_order_arrives_as_it_was_sent(
        self, app: FastAPI, client: httpx.AsyncClient, telemetry: Telemetry, result_mocker_factory: Callable[..., Any]
    ) -> None:
        """
        The operation is asked for exactly the order and its key, and what it gives is the answer.
        """
        placed = data.build(OrderView, store_id="hanok")
        place = result_mocker_factory(app.state.service.orders, "place")
        place.return_success(Placement(placed, replayed=False))

        reply = await client.post(
            f"{API}/stores/hanok/orders",
            json=order(3, (1, 2)).model_dump(),
            headers={"Idempotency-Key": "tablet-3-order-1"},
        )

        assert OrderView.model_validate(reply.json()) == placed
        place.assert_called_once_with("hanok", order(3, (1, 2)), "tablet-3-order-1")
        telemetry.assert_record(message="Request completed", status_code=200, user_id="manager", store_id="hanok")

    @pytest.mark.parametrize("code", Code)
    async def test_each_refusal_has_its_status(
        self,
        app: FastAPI,
        client: httpx.AsyncClient,
        telemetry: Telemetry,
        result_mocker_factory: Callable[..., Any],
        code: Code,
    ) -> None:
        """
        Whatever an operation refuses is told by its code and status, and the request is counted under that status.
        """
        refusal = Refusal(code, "No", {"retry_after_seconds": 5})
        result_mocker_factory(app.state.service.orders, "place").return_error(refusal)

        reply = await client.post(f"{API}/stores/hanok/orders", json=order().model_dump())

        status = STATUS[code]
        assert (reply.status_code, reply.json()["code"], reply.headers["Retry-After"]) == (status, code, "5")
        outcome = "failed" if status >= 500 else "ok"
        telemetry.assert_span(kind="request", operation=f"POST {ORDERS}", outcome=outcome)
        telemetry.assert_metric("http_requests_total", 1)
        telemetry.assert_metric("http_requests_total", 1, method="POST", route=ORDERS, status=str(status))

    async def test_what_is_no_refusal_stays_inside(
        self, app: FastAPI, client: httpx.AsyncClient, telemetry: Telemetry, result_mocker_factory: Callable[..., Any]
    ) -> None:
        """
        An exception inside an operation is a 500 that says nothing of it; the record has its type and its stack.
        """
        place = result_mocker_factory(app.state.service.orders, "place")
        place.inject_fault(LookupError("row 7 of menu_items"))

        reply = await client.post(f"{API}/stores/hanok/orders", json=order().model_dump())

        assert (reply.status_code, "menu_items" in reply.text) == (500, False)
        telemetry.assert_record(
            level="ERROR", error={"type": LookupError, "is_defect": True, "stack_trace": Contains("menu_items")}
        )

    async def test_a_slow_operation_is_a_slow_request(
        self,
        app: FastAPI,
        client: httpx.AsyncClient,
        telemetry: Telemetry,
        virtual_time: VirtualTime,
        result_mocker_factory: Callable[..., Any],
    ) -> None:
        """
        A menu that takes three seconds is a request of three seconds; the test takes none.
        """
        menu = result_mocker_factory(app.state.service.catalogue, "menu")
        menu.return_success([]).with_latency(3)

        reply = await client.get(f"{API}/stores/hanok/menu")

        assert reply.json() == []
        telemetry.assert_metric("http_request_duration_seconds", {"count": 1, "min": 3, "max": 3})
        telemetry.assert_span(kind="request", operation=f"GET {API}/stores/{{store_id}}/menu", duration_ms=3000)
