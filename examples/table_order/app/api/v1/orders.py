"""Orders of a store."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query

from app.api.v1.errors import api_error
from app.core.dependencies import AnybodyDep, ServiceDep, forbidden, staff
from app.models.schemas import NewOrder, OrderView, StatusChange
from app.models.tables import OrderStatus
from rfs.web.fastapi import FastAPIResult, handle_result

router = APIRouter(prefix="/stores/{store_id}/orders", tags=["Orders"])


IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=8,
        max_length=128,
        pattern=r"^[A-Za-z0-9._:\-]+$",
        description="Makes it safe to send the same order again: one key, one order",
    ),
]


@router.post("")
@handle_result
async def place_order(
    service: ServiceDep, caller: AnybodyDep, store_id: str, body: NewOrder, idempotency_key: IdempotencyKey = None
) -> FastAPIResult[OrderView]:
    """Place an order; a table's token orders for its own table only, staff for every one."""
    if caller.table_number is not None and caller.table_number != body.table_number:
        raise forbidden(caller, "The token belongs to another table", store_id)
    placed = await service.orders.place(store_id, body, idempotency_key)
    return placed.map(lambda placement: placement.order).map_error(api_error)


@router.get("")
@handle_result
async def list_orders(
    service: ServiceDep,
    caller: AnybodyDep,
    store_id: str,
    status: OrderStatus | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> FastAPIResult[list[OrderView]]:
    """List the newest orders; a table sees its own."""
    found = await service.orders.list(store_id, status=status, table_number=caller.table_number, limit=limit)
    return found.map_error(api_error)


@router.get("/{order_id}")
@handle_result
async def get_order(service: ServiceDep, caller: AnybodyDep, store_id: str, order_id: UUID) -> FastAPIResult[OrderView]:
    """Read one order; a table only one of its own."""
    return (await service.orders.get(store_id, order_id, caller.table_number)).map_error(api_error)


@router.post("/{order_id}/status", dependencies=[Depends(staff)])
@handle_result
async def change_status(
    service: ServiceDep, store_id: str, order_id: UUID, body: StatusChange
) -> FastAPIResult[OrderView]:
    """Move an order on: created, accepted, cooking, served; or cancelled, until it is cooked."""
    return (await service.orders.change_status(store_id, order_id, body.status)).map_error(api_error)
