"""Stores and their tables."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path

from app.api.v1.errors import api_error
from app.core.dependencies import ServiceDep, manager
from app.models.schemas import StoreView, TokenView
from rfs.web.fastapi import FastAPIResult, handle_result

router = APIRouter(prefix="/stores", tags=["Stores"])


@router.get("")
@handle_result
async def list_stores(service: ServiceDep) -> FastAPIResult[list[StoreView]]:
    """List the stores; open to everybody, like the signs above their doors."""
    return (await service.catalogue.stores()).map_error(api_error)


@router.post("/{store_id}/tables/{number}/token", dependencies=[Depends(manager)])
@handle_result
async def create_table_token(
    service: ServiceDep, store_id: str, number: Annotated[int, Path(ge=1, le=10_000)]
) -> FastAPIResult[TokenView]:
    """Get the token that the tablet of a table orders with."""
    return (await service.accounts.table_token(store_id, number)).map_error(api_error)
