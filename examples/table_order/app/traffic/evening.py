"""
An evening in three restaurants.

Guests come in bursts, order a few rounds, now and then something that has just
sold out; a waiter types a wrong table; somebody cancels. Each kitchen holds the
stream of its store and cooks what it sees there: accepted, cooking, served, and
sometimes the button is pressed twice. Managers fill up the stock, the admin looks
at the figures. Every refusal comes about as it would in life; none is asked for.

The same seed makes the same guests with the same wishes; what they get depends on
who is first, as in life.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Coroutine
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import httpx

from app.traffic.client import API, Client, Reply
from app.traffic.tally import Tally

STORES: Final = f"{API}/stores"
LOGIN: Final = f"{API}/auth/login"
LOGOUT: Final = f"{API}/auth/logout"
TABLE_TOKEN: Final = f"{API}/stores/{{store_id}}/tables/{{number}}/token"
MENU: Final = f"{API}/stores/{{store_id}}/menu"
STOCK: Final = f"{API}/stores/{{store_id}}/menu/{{number}}/stock"
ORDERS: Final = f"{API}/stores/{{store_id}}/orders"
STATUS: Final = f"{API}/stores/{{store_id}}/orders/{{order_id}}/status"
STREAM: Final = f"{API}/stores/{{store_id}}/stream"

_TABLES: Final = 12
_ORDERS_PER_ARRIVAL: Final = 3.3  # mean, over bursts of tables and their rounds
_WAVE_SECONDS: Final = 600.0
_MAX_PARTIES: Final = 200
_OPENING_SECONDS: Final = 30.0
_SPECIAL: Final = "특선"


@dataclass
class _Store:
    """One store as its staff and tablets know it."""

    id: str
    manager: str
    kitchen: str
    tables: dict[int, str] = field(default_factory=dict)
    menu: list[dict[str, Any]] = field(default_factory=list)
    changes: int = 0  # answers of the service that must each become an event
    last_event: int | None = None
    seen: int = 0  # events that the kitchen got
    news: asyncio.Event = field(default_factory=asyncio.Event)
    listening: asyncio.Event = field(default_factory=asyncio.Event)


class Evening:
    """
    Traffic against one service, until it is drained or stopped.

    Args:
        rate: Orders per second, on average over ten minutes, all stores together.
        seed: Decides who comes and what they want.
        pace: Factor on the time that guests think and cooks cook; small in tests.
        parties: Close the doors after so many groups of guests; None leaves them open.
    """

    def __init__(
        self,
        client: Client,
        *,
        password: str,
        rate: float = 2.0,
        seed: int = 1,
        pace: float = 1.0,
        parties: int | None = None,
    ) -> None:
        if not (math.isfinite(rate) and 0 < rate <= 1000):
            raise ValueError(f"RATE is orders per second, above 0 and at most 1000, not {rate}")
        self._client = client
        self._password = password
        self._rate = rate
        self._seed = seed
        self._evening = secrets.token_hex(4)  # another evening of the same seed brings other orders
        self._pace = pace
        self._parties = parties
        self._stores: list[_Store] = []
        self._doors_closed = asyncio.Event()
        self._staff_may_go = asyncio.Event()
        self._guests: set[asyncio.Task[None]] = set()
        self._cooks: set[asyncio.Task[None]] = set()

    @property
    def tally(self) -> Tally:
        """What was sent and got so far."""
        return self._client.tally

    def close_doors(self) -> None:
        """Let nobody in any more; :meth:`run` then drains and returns."""
        self._doors_closed.set()

    async def run(self) -> Tally:
        """
        Open the stores, receive guests until the doors close, and drain.

        When it returns, every order is served or cancelled, every kitchen has
        seen every change, all streams are closed and the staff has logged out.
        """
        await self._open()
        try:
            await self._work()
        finally:
            # Nobody is left when it is broken off.
            left = self._guests | self._cooks
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        for store in self._stores:
            for token in (store.kitchen, store.manager):
                await self._client.call("POST", LOGOUT, token=token)
        return self.tally

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as staff:
            for store in self._stores:
                staff.create_task(self._hold_stream(store))
                staff.create_task(self._manage(store))
            staff.create_task(self._administrate())
            for store in self._stores:
                # A kitchen that came late would never hear of the first orders.
                if not await _wait(store.listening, _OPENING_SECONDS):
                    raise RuntimeError(f"the kitchen of {store.id} gets no stream")
            await self._receive_guests()
            await self._drain()
            self._staff_may_go.set()

    # The staff

    async def _open(self) -> None:
        reply = await self._client.call("GET", STORES)
        if reply is None or not reply.ok:
            raise RuntimeError("the service lists no stores: is it running?")
        for listed in reply.body:
            store_id = listed["id"]
            manager, kitchen = await self._login(store_id, "manager"), await self._login(store_id, "kitchen")
            if manager is None or kitchen is None:
                raise RuntimeError(f"the staff of {store_id} cannot log in: is DEMO_PASSWORD the service's?")
            store = _Store(store_id, manager, kitchen)
            for number in range(1, _TABLES + 1):
                token = await self._client.call(
                    "POST", TABLE_TOKEN, token=store.manager, store_id=store_id, number=number
                )
                if token is not None and token.ok:
                    store.tables[number] = token.body["access_token"]
            menu = await self._client.call("GET", MENU, token=store.kitchen, store_id=store_id)
            store.menu = menu.body if menu is not None and menu.ok else []
            self._stores.append(store)
        if not any(store.tables and store.menu for store in self._stores):
            raise RuntimeError(
                "the service has no store with tables and a menu: set DEMO_PASSWORD for an empty database"
            )

    async def _login(self, store_id: str | None, username: str) -> str | None:
        body = {"store_id": store_id, "username": username, "password": self._password}
        reply = await self._client.call("POST", LOGIN, body=body)
        return str(reply.body["access_token"]) if reply is not None and reply.ok else None

    async def _hold_stream(self, store: _Store) -> None:
        """Keep the kitchen's stream open, going on after the last event when it breaks, and cook."""
        reading = asyncio.create_task(self._read_stream(store))
        try:
            await self._staff_may_go.wait()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read_stream(self, store: _Store) -> None:
        while True:
            try:
                events = self._client.stream(
                    STREAM, token=store.kitchen, last_event_id=store.last_event, store_id=store.id
                )
                async for event in events:
                    if event.kind != "open":
                        self.tally.events[event.kind] += 1
                    if event.kind == "order":
                        self._see(store, event.sequence, event.data)
                    store.last_event = event.sequence
                    store.listening.set()
            except httpx.TransportError:
                self.tally.unanswered += 1
            await asyncio.sleep(0.5)

    def _see(self, store: _Store, sequence: int, order: dict[str, Any]) -> None:
        if store.last_event is not None:
            self.tally.events_missed += max(0, sequence - store.last_event - 1)
            self.tally.events_repeated += sequence <= store.last_event
        store.seen += 1
        store.news.set()
        if order["status"] == "created":
            self._start(self._cooks, self._cook(store, order["order_id"]))

    async def _cook(self, store: _Store, order_id: str) -> None:
        """Take an order through the kitchen."""
        chance = _chance(f"{self._seed}/cook/{order_id}")
        for status, slowest in (("accepted", 4.0), ("cooking", 6.0), ("served", 15.0)):
            await self._while_away(chance.uniform(0.2, slowest))
            reply = await self._change_status(store, store.kitchen, order_id, status)
            if reply is None or not reply.ok:
                return  # cancelled in the meantime
        if chance.random() < 0.03:
            await self._change_status(store, store.kitchen, order_id, "served")  # the button, once more

    async def _manage(self, store: _Store) -> None:
        """Fill up what runs low; the special of the day only once in a while."""
        chance = _chance(f"{self._seed}/manager/{store.id}")
        first_stock = {item["number"]: item["stock"] for item in store.menu}
        while not await self._over(chance.uniform(20, 40)):
            menu = await self._client.call("GET", MENU, token=store.manager, store_id=store.id)
            items: list[dict[str, Any]] = menu.body if menu is not None and menu.ok else []
            for item in items:
                low = (
                    item["stock"] < 30 if item["category"] != _SPECIAL else item["stock"] == 0 and chance.random() < 0.2
                )
                if low:
                    number = item["number"]
                    stock = {"stock": first_stock.get(number, 100)}
                    await self._client.call(
                        "PUT", STOCK, token=store.manager, body=stock, store_id=store.id, number=number
                    )

    async def _administrate(self) -> None:
        """Look at the figures now and then; fingers slip on passwords."""
        chance = _chance(f"{self._seed}/admin")
        while not await self._over(chance.uniform(5, 25)):
            if chance.random() < 0.25:
                slip = {"store_id": None, "username": "admin", "password": self._password[:-1]}
                await self._client.call("POST", LOGIN, body=slip)
            token = await self._login(None, "admin")
            if token is not None:
                await self._client.call("GET", "/metrics", token=token)
                await self._client.call("POST", LOGOUT, token=token)

    # The guests

    async def _receive_guests(self) -> None:
        chance = _chance(f"{self._seed}/door")
        loop = asyncio.get_running_loop()
        opened = loop.time()
        arrived = 0
        while not self._doors_closed.is_set() and arrived != self._parties:
            wave = 1 + 0.5 * math.sin(2 * math.pi * (loop.time() - opened) / _WAVE_SECONDS)
            gap = chance.expovariate(self._rate * wave / _ORDERS_PER_ARRIVAL)
            if await _wait(self._doors_closed, gap):
                return
            for _ in range(min(chance.choice((1, 1, 2, 3)), (self._parties or arrived + 3) - arrived)):
                arrived += 1
                if len(self._guests) < _MAX_PARTIES:
                    self._start(self._guests, self._dine(arrived))

    async def _dine(self, party: int) -> None:
        """One group of guests at one table: a few rounds, and then home."""
        chance = _chance(f"{self._seed}/party/{party}")
        store = chance.choice([store for store in self._stores if store.tables and store.menu])
        table = chance.choice(sorted(store.tables))
        for drinks in range(chance.choice((1, 1, 2, 3))):
            if drinks:
                await self._while_away(chance.uniform(5, 40))
            await self._order_round(store, table, chance, f"{self._evening}-{party}-{drinks}")
        if chance.random() < 0.3:
            await self._client.call("GET", ORDERS, token=store.tables[table], store_id=store.id)

    async def _order_round(self, store: _Store, table: int, chance: Random, name: str) -> None:
        wanted = chance.sample(store.menu, k=min(len(store.menu), chance.randint(1, 4)))
        lines = [{"item_number": item["number"], "quantity": chance.choice((1, 1, 1, 2, 2, 3))} for item in wanted]
        slip = chance.random() < 0.03
        if slip:
            # The waiter takes the order and types the table next door's next door.
            await self._place(store, store.manager, table + _TABLES, lines, f"{name}-slip")
        reply = await self._place(store, store.tables[table], table, lines, f"{name}-first")
        if reply is not None and reply.code == "SOLD_OUT":
            sold_out = reply.body["details"]["item_number"]
            rest = [line for line in lines if line["item_number"] != sold_out]
            if rest:
                reply = await self._place(store, store.tables[table], table, rest, f"{name}-second")
        if reply is not None and reply.ok and chance.random() < 0.04:
            await self._while_away(chance.uniform(0.5, 6))
            # The waiter is asked to cancel; the kitchen may have been faster.
            await self._change_status(store, store.manager, reply.body["id"], "cancelled")

    async def _place(
        self, store: _Store, token: str, table: int, lines: list[dict[str, Any]], name: str
    ) -> Reply | None:
        body = {"table_number": table, "lines": lines}
        reply = await self._client.call("POST", ORDERS, token=token, body=body, key=f"order-{name}", store_id=store.id)
        self._note(store, reply)
        return reply

    async def _change_status(self, store: _Store, token: str, order_id: str, status: str) -> Reply | None:
        path = {"store_id": store.id, "order_id": order_id}
        reply = await self._client.call("POST", STATUS, token=token, body={"status": status}, **path)
        self._note(store, reply)
        return reply

    def _note(self, store: _Store, reply: Reply | None) -> None:
        if reply is not None and reply.ok:
            self.tally.orders[reply.body["status"]] += 1
            store.changes += 1

    # The end

    async def _drain(self) -> None:
        await self._finish(self._guests)
        for store in self._stores:
            # Cooks start when the kitchen sees an order, so first let it see all of them.
            while store.seen < store.changes or self._cooks:
                store.news.clear()
                await self._finish(self._cooks)
                if store.seen < store.changes:
                    await store.news.wait()

    async def _finish(self, tasks: set[asyncio.Task[None]]) -> None:
        while tasks:
            await asyncio.gather(*tasks)

    def _start(self, tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _while_away(self, seconds: float) -> None:
        await asyncio.sleep(seconds * self._pace)

    async def _over(self, seconds: float) -> bool:
        """Wait so long, or until the staff may go; whether it may."""
        return await _wait(self._staff_may_go, seconds * self._pace)


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def _chance(name: str) -> Random:
    """Dice that fall the same for the same *name*."""
    return Random(name)  # noqa: S311 - guests' wishes are no secrets
