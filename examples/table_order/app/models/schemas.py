"""What goes over the wire. Times are aware UTC, money is in won."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from app.models.tables import OrderStatus, Role

_Name = Annotated[str, Field(min_length=1, max_length=64)]


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NewLine(_Wire):
    """So many of one thing."""

    item_number: int = Field(ge=1, le=10_000)
    quantity: int = Field(1, ge=1, le=20)


class NewOrder(_Wire):
    """What a table wants."""

    table_number: int = Field(ge=1, le=10_000)
    lines: list[NewLine] = Field(min_length=1, max_length=30)


class StatusChange(_Wire):
    """The status that an order is to enter."""

    status: OrderStatus


class StockChange(_Wire):
    """How many portions there are now."""

    stock: int = Field(ge=0, le=100_000)


class Login(_Wire):
    """Without a store, the account of the service's admin."""

    store_id: _Name | None = None
    username: _Name
    password: SecretStr = Field(min_length=1, max_length=128)


class Revocation(_Wire):
    """The token to revoke."""

    token_id: str = Field(pattern="^[0-9a-f]{32}$")


class StoreView(_Wire):
    """A store as guests see it."""

    id: str
    name: str


class MenuItemView(_Wire):
    """A dish or drink; ``stock`` is what can still be ordered."""

    number: int
    name: str
    category: str
    price_won: int
    stock: int


class LineView(_Wire):
    """One line of an order, with the name and price it was ordered at."""

    item_number: int
    name: str
    price_won: int
    quantity: int


class OrderView(_Wire):
    """An order as it stands."""

    id: UUID
    store_id: str
    table_number: int
    status: OrderStatus
    total_won: int
    lines: list[LineView]
    created_at: datetime
    updated_at: datetime


class TokenView(_Wire):
    """A token; send it as ``Authorization: Bearer``."""

    access_token: str
    token_type: str = "bearer"
    token_id: str
    role: Role
    store_id: str | None
    table_number: int | None
    expires_at: datetime


class Revoked(_Wire):
    """The token that opens nothing any more."""

    token_id: str


class EventView(_Wire):
    """One entry of a store's stream; ``sequence`` counts from 1 without a gap."""

    sequence: int
    order_id: UUID
    table_number: int
    status: OrderStatus
    total_won: int
    occurred_at: datetime
