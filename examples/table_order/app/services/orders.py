"""
Orders: from the table to the kitchen and back.

Every verb is one transaction, and its answer a Result: what guests cause (sold
out, unknown table, wrong status) is a typed :class:`Refusal`. Each change writes
its entry for the stream in the same transaction, so the two cannot disagree.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final
from uuid import UUID, uuid4

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import selectinload

from app.core.database import Database
from app.core.metrics import ApplicationMetrics
from app.core.security import utc_now
from app.models.schemas import LineView, NewOrder, OrderView
from app.models.tables import DiningTable, MenuItem, Order, OrderEvent, OrderLine, OrderStatus, Store
from app.services.refusals import Code, Refusal
from rfs.core.result import Failure, Result, Success
from rfs.monitoring.result_logging import create_logging_mono, log_result_operation

EVENTS_CHANNEL: Final = "order_events"

TRANSITIONS: Final[Mapping[OrderStatus, frozenset[OrderStatus]]] = {
    OrderStatus.CREATED: frozenset({OrderStatus.ACCEPTED, OrderStatus.CANCELLED}),
    OrderStatus.ACCEPTED: frozenset({OrderStatus.COOKING, OrderStatus.CANCELLED}),
    OrderStatus.COOKING: frozenset({OrderStatus.SERVED}),
    OrderStatus.SERVED: frozenset(),
    OrderStatus.CANCELLED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Placement:
    """The order, and whether an earlier request with the same key had placed it."""

    order: OrderView
    replayed: bool


@dataclass(frozen=True, slots=True)
class _Draft:
    """A request to order, before anything is known about it."""

    store_id: str
    wanted: NewOrder
    key: str | None

    @property
    def digest(self) -> str:
        """Tells two requests under one key apart."""
        return hashlib.sha256(self.wanted.model_dump_json().encode()).hexdigest()

    @property
    def quantities(self) -> list[tuple[int, int]]:
        """Item and portions, by item: rows locked in one order cannot deadlock."""
        counted: Counter[int] = Counter()
        for line in self.wanted.lines:
            counted[line.item_number] += line.quantity
        return sorted(counted.items())


class Orders:
    """The verbs on orders. For one event loop; holds no state of its own."""

    def __init__(self, database: Database, metrics: ApplicationMetrics, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._metrics = metrics
        self._now = now

    @log_result_operation("orders.place")
    async def place(self, store_id: str, wanted: NewOrder, key: str | None = None) -> Result[Placement, Refusal]:
        """
        Place an order and take its portions off the stock.

        *key* is the client's ``Idempotency-Key``: the same key with the same order
        gives the order that it placed first.
        """
        work = partial(self._place, _Draft(store_id, wanted, key))
        return await (
            create_logging_mono(lambda: self._database.run(work))
            .log_step("placed", "주문 저장 완료")
            .do_on_success(self._count_placement)
            .to_result()
        )

    @log_result_operation("orders.change_status")
    async def change_status(self, store_id: str, order_id: UUID, status: OrderStatus) -> Result[OrderView, Refusal]:
        """Let an order enter *status*; a cancelled one gives its portions back."""
        work = partial(self._change_status, store_id, order_id, status)
        return await (
            create_logging_mono(lambda: self._database.run(work))
            .log_step("changed", "주문 상태 변경 완료")
            .do_on_success(lambda order: self._metrics.order_entered(order.status))
            .to_result()
        )

    @log_result_operation("orders.get")
    async def get(self, store_id: str, order_id: UUID, table_number: int | None = None) -> Result[OrderView, Refusal]:
        """Return one order; with *table_number*, only if it is of that table."""

        async def find(session: AsyncSession) -> Result[OrderView, Refusal]:
            order = await _load(session, store_id, order_id)
            if order is None or (table_number is not None and order.table_number != table_number):
                return _unknown_order(order_id)
            return Success(_view(order))

        return await self._database.run(find)

    @log_result_operation("orders.list")
    async def list(
        self, store_id: str, *, status: OrderStatus | None = None, table_number: int | None = None, limit: int = 50
    ) -> Result[list[OrderView], Refusal]:
        """Return the newest orders of a store, newest first."""

        async def find(session: AsyncSession) -> Result[list[OrderView], Refusal]:
            query = select(Order).where(Order.store_id == store_id).options(selectinload(Order.lines))
            if status is not None:
                query = query.where(Order.status == status)
            if table_number is not None:
                query = query.where(Order.table_number == table_number)
            found = await session.scalars(query.order_by(Order.created_at.desc()).limit(limit))
            return Success([_view(order) for order in found])

        return await self._database.run(find)

    async def _place(self, draft: _Draft, session: AsyncSession) -> Result[Placement, Refusal]:
        return await (
            create_logging_mono(lambda: self._find_table(session, draft))
            .bind_async_result(lambda _: self._claim(session, draft))
            .bind_async_result(lambda order_id: self._fill(session, draft, order_id))
            .to_result()
        )

    async def _find_table(self, session: AsyncSession, draft: _Draft) -> Result[None, Refusal]:
        if await session.get(DiningTable, (draft.store_id, draft.wanted.table_number)) is not None:
            return Success(None)
        if await session.get(Store, draft.store_id) is None:
            return Failure(Refusal(Code.UNKNOWN_STORE, "There is no such store", {"store_id": draft.store_id}))
        details = {"table_number": draft.wanted.table_number}
        return Failure(Refusal(Code.UNKNOWN_TABLE, "The store has no such table", details))

    async def _claim(self, session: AsyncSession, draft: _Draft) -> Result[UUID | None, Refusal]:
        """Insert the order's row; None if its key has one already. Waits for a twin that is being placed."""
        now = self._now()
        row = insert(Order).values(
            id=uuid4(),
            store_id=draft.store_id,
            table_number=draft.wanted.table_number,
            status=OrderStatus.CREATED,
            total_won=0,
            idempotency_key=draft.key,
            request_digest=draft.digest,
            created_at=now,
            updated_at=now,
        )
        unless_claimed = row.on_conflict_do_nothing(index_elements=["store_id", "idempotency_key"])
        return Success(await session.scalar(unless_claimed.returning(Order.id)))

    async def _fill(self, session: AsyncSession, draft: _Draft, order_id: UUID | None) -> Result[Placement, Refusal]:
        if order_id is None:
            return await self._replay(session, draft)
        total_won = 0
        for position, (item_number, quantity) in enumerate(draft.quantities):
            reserved = await self._reserve(session, draft.store_id, item_number, quantity)
            if isinstance(reserved, Failure):
                return reserved
            line = reserved.value
            session.add(OrderLine(order_id=order_id, position=position, **line.model_dump()))
            total_won += line.price_won * line.quantity
        await session.execute(update(Order).where(Order.id == order_id).values(total_won=total_won))
        await session.flush()
        order = await _load(session, draft.store_id, order_id)
        if order is None:
            return _unknown_order(order_id)
        await self._publish(session, order)
        return Success(Placement(_view(order), replayed=False))

    async def _replay(self, session: AsyncSession, draft: _Draft) -> Result[Placement, Refusal]:
        query = select(Order).where(Order.store_id == draft.store_id, Order.idempotency_key == draft.key)
        order = (await session.scalars(query.options(selectinload(Order.lines)))).one()
        if order.request_digest != draft.digest:
            return Failure(Refusal(Code.IDEMPOTENCY_KEY_REUSED, "The Idempotency-Key was used for another order"))
        return Success(Placement(_view(order), replayed=True))

    async def _reserve(
        self, session: AsyncSession, store_id: str, item_number: int, quantity: int
    ) -> Result[LineView, Refusal]:
        """Take portions off the stock, or say why not."""
        item = MenuItem.store_id == store_id, MenuItem.number == item_number
        taken = (
            update(MenuItem)
            .where(*item, MenuItem.stock >= quantity)
            .values(stock=MenuItem.stock - quantity)
            .returning(MenuItem.name, MenuItem.price_won)
        )
        row = (await session.execute(taken)).one_or_none()
        if row is not None:
            return Success(LineView(item_number=item_number, name=row.name, price_won=row.price_won, quantity=quantity))
        left = await session.scalar(select(MenuItem.stock).where(*item))
        details = {"item_number": item_number}
        if left is None:
            return Failure(Refusal(Code.UNKNOWN_ITEM, "The menu has no such item", details))
        return Failure(Refusal(Code.SOLD_OUT, "The item is sold out", {**details, "left": left, "wanted": quantity}))

    async def _change_status(
        self, store_id: str, order_id: UUID, status: OrderStatus, session: AsyncSession
    ) -> Result[OrderView, Refusal]:
        order = await _load(session, store_id, order_id, for_update=True)
        if order is None:
            return _unknown_order(order_id)
        if status not in TRANSITIONS[OrderStatus(order.status)]:
            details = {"from": str(order.status), "to": str(status)}
            return Failure(Refusal(Code.INVALID_STATUS_TRANSITION, "The order cannot enter this status", details))
        order.status = status
        order.updated_at = self._now()
        if status is OrderStatus.CANCELLED:
            for line in sorted(order.lines, key=lambda line: line.item_number):
                item = MenuItem.store_id == store_id, MenuItem.number == line.item_number
                await session.execute(update(MenuItem).where(*item).values(stock=MenuItem.stock + line.quantity))
        await self._publish(session, order)
        return Success(_view(order))

    async def _publish(self, session: AsyncSession, order: Order) -> None:
        """Add the change to the store's outbox; the last act of a transaction, for it holds the store's row until the end."""
        await session.flush()
        counted = update(Store).where(Store.id == order.store_id).values(last_event=Store.last_event + 1)
        sequence = await session.scalar(counted.returning(Store.last_event))
        entry = {
            "store_id": order.store_id,
            "sequence": sequence,
            "order_id": order.id,
            "table_number": order.table_number,
            "status": order.status,
            "total_won": order.total_won,
            "occurred_at": order.updated_at,
        }
        await session.execute(insert(OrderEvent).values(entry))
        await session.execute(select(func.pg_notify(EVENTS_CHANNEL, order.store_id)))

    def _count_placement(self, placement: Placement) -> None:
        if not placement.replayed:
            self._metrics.order_entered(OrderStatus.CREATED)


async def _load(session: AsyncSession, store_id: str, order_id: UUID, *, for_update: bool = False) -> Order | None:
    query = select(Order).where(Order.id == order_id, Order.store_id == store_id).options(selectinload(Order.lines))
    return (await session.scalars(query.with_for_update() if for_update else query)).one_or_none()


def _unknown_order(order_id: UUID) -> Failure[Refusal]:
    return Failure(Refusal(Code.UNKNOWN_ORDER, "The store has no such order", {"order_id": str(order_id)}))


def _view(order: Order) -> OrderView:
    lines = [
        LineView(item_number=line.item_number, name=line.name, price_won=line.price_won, quantity=line.quantity)
        for line in order.lines
    ]
    return OrderView(
        id=order.id,
        store_id=order.store_id,
        table_number=order.table_number,
        status=OrderStatus(order.status),
        total_won=order.total_won,
        lines=lines,
        created_at=order.created_at,
        updated_at=order.updated_at,
    )
