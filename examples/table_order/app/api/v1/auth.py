"""Logging in and out."""

from __future__ import annotations

from fastapi import APIRouter

from app.api.v1.errors import api_error
from app.core.dependencies import PrincipalDep, ServiceDep
from app.models.schemas import Login, Revocation, Revoked, TokenView
from rfs.web.fastapi import FastAPIResult, handle_result

router = APIRouter(prefix="/auth", tags=["Auth"])


@router.post("/login")
@handle_result
async def login(service: ServiceDep, body: Login) -> FastAPIResult[TokenView]:
    """Get a token for a name and a password."""
    return (await service.accounts.login(body)).map_error(api_error)


@router.post("/logout")
@handle_result
async def logout(service: ServiceDep, principal: PrincipalDep) -> FastAPIResult[Revoked]:
    """Give up the token that this request carries."""
    return (await service.accounts.revoke(principal, principal.token_id)).map_error(api_error)


@router.post("/revocations")
@handle_result
async def revoke(service: ServiceDep, principal: PrincipalDep, body: Revocation) -> FastAPIResult[Revoked]:
    """Take a token back: a manager those of the store, the admin all."""
    return (await service.accounts.revoke(principal, body.token_id)).map_error(api_error)
