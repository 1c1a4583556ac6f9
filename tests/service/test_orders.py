from __future__ import annotations

import asyncio
from itertools import pairwise, product
from uuid import uuid4

import pytest
from dirty_equals import IsOneOf

from app.models.tables import OrderStatus
from app.services.orders import TRANSITIONS
from rfs.testing.fixtures import Telemetry
from tests.service.harness import API, Running

pytestmark = pytest.mark.postgres

ORDERS = f"{API}/stores/hanok/orders"
WAY = ["created", "accepted", "cooking", "served"]


def body(table: int = 1, *lines: tuple[int, int]) -> dict[str, object]:
    wanted = [{"item_number": item, "quantity": quantity} for item, quantity in lines or [(1, 1)]]
    return {"table_number": table, "lines": wanted}


async def stock(service: Running, item: int, store: str = "hanok") -> int:
    menu = (await service.call("GET", f"{API}/stores/{store}/menu", store=store)).json()
    return int(next(one["stock"] for one in menu if one["number"] == item))


class TestPlacing:
    async def test_is_priced_from_the_menu_and_taken_off_the_stock(self, running_service: Running) -> None:
        """
        An order costs what the menu says, and its portions are gone.
        """
        before = await stock(running_service, 1)

        reply = await running_service.call("POST", ORDERS, json=body(3, (1, 2), (6, 1), (1, 1)))

        order = reply.json()
        assert (reply.status_code, order["status"], order["table_number"]) == (200, "created", 3)
        assert order["total_won"] == 3 * 9_000 + 6_000
        assert [(line["item_number"], line["quantity"]) for line in order["lines"]] == [(1, 3), (6, 1)]
        assert await stock(running_service, 1) == before - 3

    @pytest.mark.parametrize(
        ("table", "line", "status", "code"),
        [
            (1, (8, 20), 409, "SOLD_OUT"),
            (1, (99, 1), 404, "UNKNOWN_ITEM"),
            (99, (1, 1), 404, "UNKNOWN_TABLE"),
        ],
    )
    async def test_what_guests_cause_is_a_typed_code(
        self,
        running_service: Running,
        telemetry: Telemetry,
        table: int,
        line: tuple[int, int],
        status: int,
        code: str,
    ) -> None:
        """
        Sold out, unknown item and unknown table each have a code, change nothing, and wake nobody.
        """
        reply = await running_service.call("POST", ORDERS, json=body(table, (2, 1), line))

        assert (reply.status_code, reply.json()["code"]) == (status, code)
        assert await stock(running_service, 2) == 400
        telemetry.assert_metric("result_error_by_type_total", 1)
        telemetry.assert_metric("result_error_by_type_total", 1, operation="orders.place", error_code=code)
        telemetry.assert_no_record(level=IsOneOf("ERROR", "CRITICAL"))

    async def test_sold_out_says_how_many_are_left(self, running_service: Running) -> None:
        """
        The guest learns what could still be had.
        """
        reply = await running_service.call("POST", ORDERS, json=body(1, (8, 7)))

        assert reply.json()["details"] == {"item_number": 8, "left": 6, "wanted": 7}

    async def test_the_last_portion_goes_to_one(self, running_service: Running) -> None:
        """
        Twenty tables that want the last six portions at once get six, and the stock ends at nothing.
        """
        wanted = [running_service.call("POST", ORDERS, json=body(table % 12 + 1, (8, 1))) for table in range(20)]

        replies = await asyncio.gather(*wanted)

        assert sorted(reply.status_code for reply in replies) == [200] * 6 + [409] * 14
        assert await stock(running_service, 8) == 0

    @pytest.mark.parametrize(
        "wrong",
        [{"table_number": 1, "lines": []}, {"table_number": 0, "lines": [{"item_number": 1}]}, {"table_number": 1}],
    )
    async def test_a_malformed_order_is_refused_by_field(
        self, running_service: Running, wrong: dict[str, object]
    ) -> None:
        """
        What is no order at all is 422.
        """
        reply = await running_service.call("POST", ORDERS, json=wrong)

        assert reply.status_code == 422


class TestIdempotency:
    async def test_duplicates_at_once_make_one_order(self, running_service: Running) -> None:
        """
        Ten copies of one request that arrive together give one order, one row and one count.
        """
        before = await stock(running_service, 2)
        key = {"Idempotency-Key": "tablet-7-order-1"}

        copies = [running_service.call("POST", ORDERS, json=body(1, (2, 1)), headers=key) for _ in range(10)]
        replies = await asyncio.gather(*copies)

        assert {reply.status_code for reply in replies} == {200}
        assert len({reply.json()["id"] for reply in replies}) == 1
        assert await stock(running_service, 2) == before - 1
        assert running_service.service.metrics.orders_created == 1

    async def test_another_order_under_the_same_key_is_refused(self, running_service: Running) -> None:
        """
        A key belongs to what it was first sent with.
        """
        key = {"Idempotency-Key": "tablet-7-order-2"}
        await running_service.call("POST", ORDERS, json=body(1, (2, 1)), headers=key)

        reply = await running_service.call("POST", ORDERS, json=body(1, (2, 2)), headers=key)

        assert (reply.status_code, reply.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")

    async def test_keys_are_each_stores_own(self, running_service: Running) -> None:
        """
        Two stores may use the same key, and neither learns of the other's order.
        """
        key = {"Idempotency-Key": "tablet-1-order-1"}

        ours = await running_service.call("POST", ORDERS, json=body(), headers=key)
        theirs = await running_service.call(
            "POST", f"{API}/stores/pocha/orders", store="pocha", json=body(), headers=key
        )

        assert ours.json()["id"] != theirs.json()["id"]


class TestStatus:
    async def test_goes_from_the_kitchen_to_the_table(self, running_service: Running) -> None:
        """
        Created, accepted, cooking, served; each is counted once.
        """
        order = await running_service.place()

        answers = [await running_service.move(order, status) for status in WAY[1:]]

        assert [answer.json()["status"] for answer in answers] == WAY[1:]
        assert running_service.service.metrics.orders_by_status == dict.fromkeys(WAY, 1)

    async def test_every_other_way_is_refused(self, running_service: Running) -> None:
        """
        Of the 25 pairs of statuses exactly the five of the machine are possible.
        """
        for held, wanted in product(OrderStatus, OrderStatus):
            order = await running_service.place()
            for step in ["cancelled"] if held is OrderStatus.CANCELLED else WAY[1 : WAY.index(held) + 1]:
                await running_service.move(order, step)

            reply = await running_service.move(order, wanted)

            if wanted in TRANSITIONS[held]:
                assert reply.json()["status"] == wanted
            else:
                assert (reply.status_code, reply.json()["code"]) == (409, "INVALID_STATUS_TRANSITION")
                assert reply.json()["details"] == {"from": held, "to": wanted}

    async def test_a_cancelled_order_gives_its_portions_back(self, running_service: Running) -> None:
        """
        What nobody cooks can be ordered again.
        """
        before = await stock(running_service, 8)
        order = await running_service.place(item=8, quantity=4)

        await running_service.move(order, "cancelled")

        assert await stock(running_service, 8) == before

    async def test_two_cooks_cannot_both_accept(self, running_service: Running) -> None:
        """
        Of eight taps on the same button one is the one that counts.
        """
        order = await running_service.place()

        replies = await asyncio.gather(*(running_service.move(order, "accepted") for _ in range(8)))

        assert sorted(reply.status_code for reply in replies) == [200] + [409] * 7

    async def test_an_unknown_order_is_not_found(self, running_service: Running) -> None:
        """
        An id that the store does not have is 404.
        """
        reply = await running_service.call("GET", f"{ORDERS}/{uuid4()}")

        assert (reply.status_code, reply.json()["code"]) == (404, "UNKNOWN_ORDER")


class TestReading:
    async def test_lists_newest_first(self, running_service: Running) -> None:
        """
        The list begins with the newest order, and can be narrowed to a status.
        """
        orders = [await running_service.place(table=table) for table in (1, 2, 3)]
        await running_service.move(orders[1], "accepted")

        everything = (await running_service.call("GET", ORDERS)).json()
        accepted = (await running_service.call("GET", ORDERS, params={"status": "accepted"})).json()

        assert [order["table_number"] for order in everything] == [3, 2, 1]
        assert all(newer["created_at"] >= older["created_at"] for newer, older in pairwise(everything))
        assert [order["id"] for order in accepted] == [orders[1]["id"]]

    async def test_a_table_sees_its_own(self, running_service: Running) -> None:
        """
        The tablet of table 2 neither lists, reads nor makes orders of table 1.
        """
        order = await running_service.place(table=1)
        path = f"{API}/stores/hanok/tables/2/token"
        token = (await running_service.call("POST", path)).json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}

        listed = await running_service.http.get(ORDERS, headers=headers)
        read = await running_service.http.get(f"{ORDERS}/{order['id']}", headers=headers)
        placed = await running_service.http.post(ORDERS, json=body(1), headers=headers)

        assert listed.json() == []
        assert (read.status_code, placed.status_code) == (404, 403)


class TestRecords:
    async def test_one_id_leads_from_the_request_to_its_steps(
        self, running_service: Running, telemetry: Telemetry
    ) -> None:
        """
        Under the id of the answer are the request, the operation and its steps, with the store.
        """
        reply = await running_service.call("POST", ORDERS, json=body())

        telemetry.assert_records(
            {"message": "Operation started"},
            {"message": "주문 저장 완료", "step": "placed"},
            {"message": "Operation completed"},
            operation="orders.place",
            correlation_id=reply.headers["X-Correlation-ID"],
            store_id="hanok",
        )
        telemetry.assert_span(
            kind="request",
            operation=f"POST {API}/stores/{{store_id}}/orders",
            outcome="ok",
            records=[{"message": "Request started"}, {"message": "Request completed", "status_code": 200}],
            children=[{"operation": "orders.place", "outcome": "ok"}],
        )
