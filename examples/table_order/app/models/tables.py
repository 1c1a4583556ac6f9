"""
What the service keeps, one class per table.

Everything that belongs to a store carries its ``store_id`` in the primary key or
in every query's condition; :class:`OrderEvent` is the outbox that the streams
read. Its sequence is counted in the store's own row, under that row's lock, so
the events of one store become visible in their order and without a gap.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import CheckConstraint, DateTime, ForeignKey, ForeignKeyConstraint, Index, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class OrderStatus(StrEnum):
    """Where an order is on its way to the table."""

    CREATED = "created"
    ACCEPTED = "accepted"
    COOKING = "cooking"
    SERVED = "served"
    CANCELLED = "cancelled"


class Role(StrEnum):
    """What the holder of a token may do; all but the admin belong to one store."""

    ADMIN = "admin"  # of the service: its figures and its dashboard, no store's orders
    MANAGER = "manager"  # of a store: everything in it
    KITCHEN = "kitchen"  # of a store: orders and the stream
    TABLE = "table"  # of a store: orders of one table


class Base(DeclarativeBase):
    """Base of all tables."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: DateTime(timezone=True)}


class Store(Base):
    __tablename__ = "stores"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    last_event: Mapped[int] = mapped_column(default=0)


class DiningTable(Base):
    __tablename__ = "dining_tables"

    store_id: Mapped[str] = mapped_column(ForeignKey("stores.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)


class MenuItem(Base):
    __tablename__ = "menu_items"
    __table_args__ = (
        CheckConstraint("stock >= 0", name="stock_not_negative"),
        CheckConstraint("price_won >= 0", name="price_not_negative"),
    )

    store_id: Mapped[str] = mapped_column(ForeignKey("stores.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    category: Mapped[str]
    price_won: Mapped[int]
    stock: Mapped[int]


class Account(Base):
    __tablename__ = "accounts"
    __table_args__ = (UniqueConstraint("store_id", "username", postgresql_nulls_not_distinct=True),)

    id: Mapped[int] = mapped_column(primary_key=True)
    store_id: Mapped[str | None] = mapped_column(ForeignKey("stores.id"))
    username: Mapped[str]
    password_hash: Mapped[str]
    role: Mapped[str]


class AccessToken(Base):
    """A token that was given out. One that is not here, or is revoked, opens nothing."""

    __tablename__ = "access_tokens"

    id: Mapped[str] = mapped_column(primary_key=True)
    subject: Mapped[str]
    role: Mapped[str]
    store_id: Mapped[str | None] = mapped_column(ForeignKey("stores.id"))
    table_number: Mapped[int | None]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    revoked_at: Mapped[datetime | None]


class Order(Base):
    __tablename__ = "orders"
    __table_args__ = (
        ForeignKeyConstraint(["store_id", "table_number"], ["dining_tables.store_id", "dining_tables.number"]),
        UniqueConstraint("store_id", "idempotency_key"),
        Index("orders_by_store", "store_id", "created_at"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    store_id: Mapped[str]
    table_number: Mapped[int]
    status: Mapped[str]
    total_won: Mapped[int]
    idempotency_key: Mapped[str | None]
    request_digest: Mapped[str]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    lines: Mapped[list[OrderLine]] = relationship(lazy="raise", order_by="OrderLine.position")


class OrderLine(Base):
    __tablename__ = "order_lines"

    order_id: Mapped[UUID] = mapped_column(ForeignKey("orders.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    item_number: Mapped[int]
    name: Mapped[str]
    price_won: Mapped[int]
    quantity: Mapped[int]


class OrderEvent(Base):
    __tablename__ = "order_events"

    store_id: Mapped[str] = mapped_column(ForeignKey("stores.id"), primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[UUID] = mapped_column(ForeignKey("orders.id"))
    table_number: Mapped[int]
    status: Mapped[str]
    total_won: Mapped[int]
    occurred_at: Mapped[datetime]
