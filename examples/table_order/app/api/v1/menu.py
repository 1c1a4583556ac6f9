"""What a store offers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path

from app.api.v1.errors import api_error
from app.core.dependencies import ServiceDep, anybody, manager
from app.models.schemas import MenuItemView, StockChange
from rfs.web.fastapi import FastAPIResult, handle_result

router = APIRouter(prefix="/stores/{store_id}/menu", tags=["Menu"])


@router.get("", dependencies=[Depends(anybody)])
@handle_result
async def get_menu(service: ServiceDep, store_id: str) -> FastAPIResult[list[MenuItemView]]:
    """Read the menu."""
    return (await service.catalogue.menu(store_id)).map_error(api_error)


@router.put("/{number}/stock", dependencies=[Depends(manager)])
@handle_result
async def set_stock(
    service: ServiceDep,
    store_id: str,
    number: Annotated[int, Path(ge=1, le=10_000)],
    body: StockChange,
) -> FastAPIResult[MenuItemView]:
    """Say how many portions there are."""
    return (await service.catalogue.set_stock(store_id, number, body.stock)).map_error(api_error)
