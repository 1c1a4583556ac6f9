"""What endpoints ask for: the service's parts, and who is calling."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Path, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.api.v1.errors import api_error
from app.core.config import Settings
from app.core.database import Database
from app.core.metrics import ApplicationMetrics
from app.core.security import Passwords, Principal
from app.models.tables import Role
from app.services.accounts import Accounts
from app.services.catalogue import Catalogue
from app.services.feed import Feed
from app.services.orders import Orders
from app.services.refusals import Code, Refusal
from rfs.core.result import Failure
from rfs.monitoring import result_logging
from rfs.monitoring.context import bind

_bearer = HTTPBearer(auto_error=False, description="The token of a login, or of a table")


@dataclass(frozen=True, slots=True)
class Service:
    """The parts of one running service; the application keeps it as ``app.state.service``."""

    settings: Settings
    metrics: ApplicationMetrics
    database: Database
    passwords: Passwords
    accounts: Accounts
    catalogue: Catalogue
    orders: Orders
    feed: Feed


def get_service(request: Request) -> Service:
    """The application's parts."""
    return cast("Service", request.app.state.service)


ServiceDep = Annotated[Service, Depends(get_service)]


async def get_principal(
    service: ServiceDep, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Principal:
    """
    Who is calling.

    Raises:
        APIError: 401 without a valid token, 503 if nobody can say because the database is away.
    """
    if credentials is None:
        raise api_error(Refusal(Code.INVALID_TOKEN, "A token is needed"))
    found = await service.accounts.authenticate(credentials.credentials)
    if isinstance(found, Failure):
        if found.error.expected:
            result_logging.error("Token refused", reason=found.error.message)
        raise api_error(found.error)
    return found.value


PrincipalDep = Annotated[Principal, Depends(get_principal)]


async def get_current_admin(principal: PrincipalDep) -> Principal:
    """The admin of the service; anybody else is 403."""
    if principal.role is not Role.ADMIN:
        raise forbidden(principal, "Only the admin of the service may do this")
    return principal


def in_store(*roles: Role) -> Callable[..., Awaitable[Principal]]:
    """
    A dependency: the caller, who belongs to the store in the path and has one of *roles*; anybody else is 403.

    It is the only way by which an endpoint of a store gets to know its caller.
    """

    async def check(principal: PrincipalDep, store_id: Annotated[str, Path(max_length=64)]) -> Principal:
        if principal.store_id != store_id:
            raise forbidden(principal, "The token belongs to another store", store_id)
        if principal.role not in roles:
            raise forbidden(principal, "The token's role may not do this", store_id)
        bind(store_id=store_id, user_id=principal.subject)
        return principal

    return check


manager = in_store(Role.MANAGER)
staff = in_store(Role.MANAGER, Role.KITCHEN)
anybody = in_store(Role.MANAGER, Role.KITCHEN, Role.TABLE)

StaffDep = Annotated[Principal, Depends(staff)]
AnybodyDep = Annotated[Principal, Depends(anybody)]


def forbidden(principal: Principal, message: str, store_id: str | None = None) -> Exception:
    """Write down who wanted what, and return the 403 to raise."""
    result_logging.warning(
        "Access refused", reason=message, user_id=principal.subject, own_store=principal.store_id, store_id=store_id
    )
    return api_error(Refusal(Code.FORBIDDEN, message))
