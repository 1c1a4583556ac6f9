"""Stores and what they offer."""

from __future__ import annotations

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.database import Database
from app.models.schemas import MenuItemView, StoreView
from app.models.tables import MenuItem, Store
from app.services.refusals import Code, Refusal
from rfs.core.result import Failure, Result, Success
from rfs.monitoring.result_logging import log_result_operation


class Catalogue:
    """The verbs on stores and menus. Holds no state of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @log_result_operation("catalogue.stores")
    async def stores(self) -> Result[list[StoreView], Refusal]:
        """Return all stores, by name."""

        async def find(session: AsyncSession) -> Result[list[StoreView], Refusal]:
            found = await session.scalars(select(Store).order_by(Store.name))
            return Success([StoreView(id=store.id, name=store.name) for store in found])

        return await self._database.run(find)

    @log_result_operation("catalogue.menu")
    async def menu(self, store_id: str) -> Result[list[MenuItemView], Refusal]:
        """Return what a store offers, sold out or not."""

        async def find(session: AsyncSession) -> Result[list[MenuItemView], Refusal]:
            query = select(MenuItem).where(MenuItem.store_id == store_id).order_by(MenuItem.number)
            return Success([_view(item) for item in await session.scalars(query)])

        return await self._database.run(find)

    @log_result_operation("catalogue.set_stock")
    async def set_stock(self, store_id: str, item_number: int, stock: int) -> Result[MenuItemView, Refusal]:
        """Say how many portions of an item there are."""

        async def change(session: AsyncSession) -> Result[MenuItemView, Refusal]:
            item = MenuItem.store_id == store_id, MenuItem.number == item_number
            changed = await session.scalar(update(MenuItem).where(*item).values(stock=stock).returning(MenuItem))
            if changed is None:
                details = {"item_number": item_number}
                return Failure(Refusal(Code.UNKNOWN_ITEM, "The menu has no such item", details))
            return Success(_view(changed))

        return await self._database.run(change)


def _view(item: MenuItem) -> MenuItemView:
    return MenuItemView(
        number=item.number, name=item.name, category=item.category, price_won=item.price_won, stock=item.stock
    )
