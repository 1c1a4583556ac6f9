"""
The first data of an empty database: three stores with tables, a menu and accounts.

For trying the service out: only with the setting ``DEMO_PASSWORD``, which becomes
the password of every account.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.security import Passwords
from app.models.tables import Account, DiningTable, MenuItem, Role, Store

TABLES_PER_STORE: Final = 12


class DemoStore(NamedTuple):
    """A store of the demonstration."""

    id: str
    name: str
    menu: tuple[tuple[str, str, int, int], ...]  # name, category, price in won, stock


class DemoAccount(NamedTuple):
    """An account of the demonstration."""

    store_id: str | None
    username: str
    role: Role


STORES: Final = (
    DemoStore(
        "hanok",
        "한옥집",
        (
            ("김치찌개", "식사", 9_000, 400),
            ("된장찌개", "식사", 8_500, 400),
            ("비빔밥", "식사", 10_000, 400),
            ("불고기 정식", "식사", 16_000, 300),
            ("해물파전", "안주", 14_000, 150),
            ("막걸리", "음료", 6_000, 500),
            ("식혜", "음료", 3_500, 500),
            ("오늘의 갈비찜", "특선", 28_000, 6),
        ),
    ),
    DemoStore(
        "pocha",
        "골목포차",
        (
            ("떡볶이", "분식", 6_000, 500),
            ("순대", "분식", 7_000, 400),
            ("모둠튀김", "분식", 8_000, 400),
            ("어묵탕", "안주", 9_000, 300),
            ("닭꼬치", "안주", 4_000, 500),
            ("소주", "음료", 5_000, 800),
            ("맥주", "음료", 5_500, 800),
            ("한정 산낙지", "특선", 25_000, 5),
        ),
    ),
    DemoStore(
        "bada",
        "바다횟집",
        (
            ("광어회", "회", 45_000, 200),
            ("우럭매운탕", "식사", 38_000, 200),
            ("회덮밥", "식사", 13_000, 400),
            ("새우튀김", "안주", 18_000, 300),
            ("알탕", "식사", 12_000, 300),
            ("청하", "음료", 6_000, 600),
            ("사이다", "음료", 2_500, 800),
            ("자연산 전복", "특선", 50_000, 4),
        ),
    ),
)

ACCOUNTS: Final = (
    DemoAccount(None, "admin", Role.ADMIN),
    *(DemoAccount(store.id, role.value, role) for store in STORES for role in (Role.MANAGER, Role.KITCHEN)),
)


def seeding(passwords: Passwords, demo_password: str | None) -> Callable[[AsyncSession], Awaitable[None]]:
    """
    Return the function that fills an empty database and leaves any other alone.

    *demo_password* becomes that of every account; None leaves an empty database empty.
    """

    async def seed(session: AsyncSession) -> None:
        if demo_password is None or await session.scalar(select(func.count()).select_from(Store)):
            return
        for store in STORES:
            session.add(Store(id=store.id, name=store.name, last_event=0))
        await session.flush()
        for store in STORES:
            session.add_all(DiningTable(store_id=store.id, number=n + 1) for n in range(TABLES_PER_STORE))
            session.add_all(
                MenuItem(store_id=store.id, number=n, name=name, category=category, price_won=price, stock=stock)
                for n, (name, category, price, stock) in enumerate(store.menu, start=1)
            )
        for account in ACCOUNTS:
            password_hash = await passwords.hash(demo_password)
            session.add(
                Account(
                    store_id=account.store_id,
                    username=account.username,
                    role=account.role,
                    password_hash=password_hash,
                )
            )

    return seed
