from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any
from uuid import uuid4

import jwt
import pytest
from dirty_equals import HasAttributes, IsOneOf
from hypothesis import given
from hypothesis import strategies as st

from app.core.config import Settings
from app.core.security import Passwords, Principal, Tokens
from app.models.tables import Role
from app.services.refusals import Code
from rfs.testing.fixtures import Telemetry
from rfs.testing.generators import texts
from rfs.testing.result_helpers import assert_result_error, assert_result_value
from rfs.testing.virtual_time import VirtualTime
from tests.service.harness import API, PASSWORD, SECRET_KEY, Running, eventually, running

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


REFUSED = HasAttributes(code=Code.INVALID_TOKEN)


class TestTokens:
    def test_a_token_is_good_for_its_hours(self) -> None:
        """
        A token of 16 hours opens until the last second and not one longer.
        """
        clock = VirtualTime(NOON)
        tokens = Tokens(SECRET_KEY, timedelta(hours=16), lambda: clock.now)
        principal = tokens.principal("kitchen", Role.KITCHEN, store_id="hanok")
        signed = tokens.sign(principal)

        clock.advance(16 * 3600 - 1)
        assert_result_value(tokens.read(signed), principal)

        clock.advance(1)
        assert_result_error(tokens.read(signed), REFUSED)

    @given(
        st.builds(
            Principal,
            token_id=st.uuids().map(lambda one: one.hex),
            subject=st.text(min_size=1, max_size=64),
            role=st.sampled_from(Role),
            store_id=st.none() | st.text(min_size=1, max_size=64),
            table_number=st.none() | st.integers(1, 10_000),
            expires_at=st.datetimes(datetime(2027, 1, 1), datetime(2030, 1, 1)).map(  # noqa: DTZ001 - made aware next
                lambda one: one.replace(microsecond=0, tzinfo=UTC)
            ),
        )
    )
    def test_reading_undoes_signing(self, principal: Principal) -> None:
        """
        Who signed a token for somebody reads the same somebody from it.
        """
        tokens = Tokens(SECRET_KEY, timedelta(hours=16), lambda: NOON)

        assert_result_value(tokens.read(tokens.sign(principal)), principal)

    @given(texts() | st.binary(max_size=60).map(lambda one: one.hex()))
    def test_what_is_no_token_is_refused(self, text: str) -> None:
        """
        Any text is answered with a Failure, never with an exception.
        """
        assert_result_error(Tokens(SECRET_KEY, timedelta(hours=16)).read(text), REFUSED)

    @pytest.mark.parametrize(
        ("claims", "options"),
        [
            ({}, {"key": "another-key-that-is-also-quite-long-0123"}),
            ({}, {"key": None, "algorithm": "none"}),
            ({}, {"algorithm": "HS512"}),
            ({"role": "owner"}, {}),
            ({"exp": "soon"}, {}),
            ({"exp": 10**18}, {}),
            ({"jti": None}, {}),
        ],
    )
    def test_forged_tokens_are_refused(self, claims: dict[str, Any], options: dict[str, Any]) -> None:
        """
        Another key, another algorithm, no signature and strange claims open nothing.
        """
        good = {"sub": "admin", "jti": "0" * 32, "role": "admin", "iat": 1, "exp": 4_000_000_000}
        how = {"key": SECRET_KEY, "algorithm": "HS256", **options}
        if how["algorithm"] == "HS512":
            how["key"] = SECRET_KEY * 2
        forged = jwt.encode({**good, **claims}, **how) if claims.get("jti", "") is not None else _without("jti", good)

        assert_result_error(Tokens(SECRET_KEY, timedelta(hours=16)).read(forged), REFUSED)


def _without(claim: str, claims: dict[str, Any]) -> str:
    return jwt.encode({key: value for key, value in claims.items() if key != claim}, SECRET_KEY, algorithm="HS256")


class TestPasswords:
    async def test_the_right_one_and_no_other(self) -> None:
        """
        A password matches its hash; another, a broken hash and no account do not.
        """
        passwords = Passwords()
        kept = await passwords.hash("open sesame")

        assert await passwords.verify(kept, "open sesame")
        assert not await passwords.verify(kept, "open barley")
        assert not await passwords.verify("no hash", "open sesame")
        assert not await passwords.verify(None, "open sesame")
        assert kept.startswith("$argon2id$")


@pytest.mark.postgres
class TestLogin:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"password": "not-this-9f3a"},
            {"username": "nobody"},
            {"store_id": "pocha", "username": "admin"},
            {"store_id": "x"},
        ],
    )
    async def test_refusals_do_not_tell_what_was_wrong(
        self, running_service: Running, telemetry: Telemetry, wrong: dict[str, str]
    ) -> None:
        """
        A wrong store, name and password get the same answer, and an ERROR record without the password.
        """
        body = {"store_id": "hanok", "username": "manager", "password": PASSWORD, **wrong}

        reply = await running_service.http.post(f"{API}/auth/login", json=body)

        assert (reply.status_code, reply.json()["code"]) == (401, "INVALID_CREDENTIALS")
        assert reply.headers["WWW-Authenticate"] == "Bearer"
        asked = {"store_id": body["store_id"], "username": body["username"]}
        telemetry.assert_records({"message": "Login refused", **asked}, level=IsOneOf("ERROR", "CRITICAL"))
        telemetry.assert_span(operation="accounts.login", outcome="failed", error={"code": Code.INVALID_CREDENTIALS})
        telemetry.assert_no_secret(body["password"])

    async def test_tokens_live_sixteen_hours(self, running_service: Running) -> None:
        """
        A login is good for 16 hours unless the settings say otherwise.
        """
        body = {"store_id": "hanok", "username": "manager", "password": PASSWORD}

        reply = (await running_service.http.post(f"{API}/auth/login", json=body)).json()

        lifetime = datetime.fromisoformat(reply["expires_at"]) - datetime.now(UTC)
        assert timedelta(hours=15, minutes=59) < lifetime <= timedelta(hours=16)

    async def test_neither_key_nor_token_is_recorded(self, running_service: Running, telemetry: Telemetry) -> None:
        """
        No record holds the signing key or a token that was given out.
        """
        token = await running_service.token("hanok", "manager")
        await running_service.call("GET", f"{API}/stores/hanok/menu")

        telemetry.assert_record(message="Request completed", route=f"{API}/stores/{{store_id}}/menu")
        telemetry.assert_no_secret(token, SECRET_KEY)


@pytest.mark.postgres
class TestRevoking:
    async def test_a_given_up_token_opens_nothing(self, running_service: Running) -> None:
        """
        After logout the very next request is refused.
        """
        await running_service.call("POST", f"{API}/auth/logout")

        reply = await running_service.call("GET", f"{API}/stores/hanok/menu")

        assert (reply.status_code, reply.json()["code"]) == (401, "INVALID_TOKEN")

    async def test_another_worker_refuses_it_too(self, settings: Callable[..., Settings]) -> None:
        """
        What one worker revoked, a second one refuses at once, and it ends the stream that it holds.
        """
        async with running(settings()) as one, running(settings()) as other:
            token = await one.token("hanok", "kitchen")
            async with other.stream(token=token) as stream:
                await one.call("POST", f"{API}/auth/logout", user="kitchen")

                headers = {"Authorization": f"Bearer {token}"}
                reply = await other.http.get(f"{API}/stores/hanok/menu", headers=headers)
                async with asyncio.timeout(2):
                    await stream.end()

        assert reply.status_code == 401

    @pytest.mark.parametrize(
        ("store", "user", "status"),
        [("hanok", "manager", 200), (None, "admin", 200), ("hanok", "kitchen", 404), ("pocha", "manager", 404)],
    )
    async def test_who_may_revoke_a_tables_token(
        self, running_service: Running, store: str | None, user: str, status: int
    ) -> None:
        """
        The manager of the store and the admin may; to others the token does not even exist.
        """
        given = (await running_service.call("POST", f"{API}/stores/hanok/tables/1/token")).json()
        headers = {"Authorization": f"Bearer {given['access_token']}"}
        body = {"token_id": given["token_id"]}

        reply = await running_service.call("POST", f"{API}/auth/revocations", store=store, user=user, json=body)

        after = await running_service.http.get(f"{API}/stores/hanok/menu", headers=headers)
        assert (reply.status_code, after.status_code) == (status, 401 if status == 200 else 200)

    async def test_a_signed_token_that_was_never_given_out_is_refused(self, running_service: Running) -> None:
        """
        Whoever learns the key still cannot make a token that the database does not know.
        """
        tokens = Tokens(SECRET_KEY, timedelta(hours=1))
        forged = tokens.sign(tokens.principal("manager", Role.MANAGER, store_id="hanok"))

        reply = await running_service.http.get(
            f"{API}/stores/hanok/menu", headers={"Authorization": f"Bearer {forged}"}
        )

        assert reply.status_code == 401


@pytest.mark.postgres
class TestStoresAreApart:
    async def test_no_door_of_a_store_opens_to_another(self, running_service: Running, telemetry: Telemetry) -> None:
        """
        Every role of store A, at every endpoint of store B: 403, written down, and nothing changed.
        """
        order = await running_service.place(store="pocha")
        path = f"{API}/stores/pocha"
        doors: list[tuple[str, str, object]] = [
            ("GET", f"{path}/menu", None),
            ("PUT", f"{path}/menu/1/stock", {"stock": 0}),
            ("POST", f"{path}/tables/1/token", None),
            ("GET", f"{path}/orders", None),
            ("POST", f"{path}/orders", {"table_number": 1, "lines": [{"item_number": 1, "quantity": 1}]}),
            ("GET", f"{path}/orders/{order['id']}", None),
            ("POST", f"{path}/orders/{order['id']}/status", {"status": "cancelled"}),
            ("GET", f"{path}/stream", None),
        ]
        table = (await running_service.call("POST", f"{API}/stores/hanok/tables/1/token")).json()["access_token"]
        running_service.tokens["hanok", "table"] = table
        callers = [("hanok", "manager"), ("hanok", "kitchen"), ("hanok", "table"), (None, "admin")]

        for (store, user), (method, door, body) in product(callers, doors):
            reply = await running_service.call(method, door, store=store, user=user, json=body)
            assert (reply.status_code, reply.json()["code"]) == (403, "FORBIDDEN"), (user, method, door)
        for method, door, body in doors:
            assert (await running_service.http.request(method, door, json=body)).status_code == 401, (method, door)

        kept = await running_service.call("GET", f"{path}/orders", store="pocha")
        assert [(one["id"], one["status"]) for one in kept.json()] == [(order["id"], "created")]
        told = {"level": "WARNING", "reason": "The token belongs to another store", "store_id": "pocha"}
        telemetry.assert_records(*[told] * len(callers) * len(doors), message="Access refused")

    async def test_an_order_cannot_be_reached_through_the_own_store(self, running_service: Running) -> None:
        """
        The id of another store's order leads nowhere in one's own.
        """
        order = await running_service.place(store="pocha")

        read = await running_service.call("GET", f"{API}/stores/hanok/orders/{order['id']}")
        moved = await running_service.call(
            "POST", f"{API}/stores/hanok/orders/{order['id']}/status", json={"status": "accepted"}
        )

        assert (read.status_code, moved.status_code) == (404, 404)

    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [
            ("PUT", "menu/1/stock", {"stock": 9}),
            ("POST", "tables/1/token", None),
            ("GET", "stream", None),
            ("POST", f"orders/{uuid4()}/status", {"status": "accepted"}),
        ],
    )
    async def test_a_table_may_not_do_the_staffs_work(
        self, running_service: Running, method: str, path: str, body: object
    ) -> None:
        """
        A tablet orders and looks; stock, tokens, the stream and the kitchen's buttons are not for it.
        """
        token = (await running_service.call("POST", f"{API}/stores/hanok/tables/1/token")).json()["access_token"]

        reply = await running_service.http.request(
            method, f"{API}/stores/hanok/{path}", json=body, headers={"Authorization": f"Bearer {token}"}
        )

        assert reply.status_code == 403


@pytest.mark.postgres
class TestAdmin:
    @pytest.mark.parametrize(("store", "user", "status"), [(None, "admin", 200), ("hanok", "manager", 403)])
    async def test_the_figures_are_the_admins(
        self, running_service: Running, store: str | None, user: str, status: int
    ) -> None:
        """
        ``/metrics`` answers the admin of the service alone.
        """
        reply = await running_service.call("GET", "/metrics", store=store, user=user)

        assert reply.status_code == status
        assert (await running_service.http.get("/metrics")).status_code == 401

    async def test_the_admins_token_opens_the_dashboard(self, running_service: Running) -> None:
        """
        The page's API takes the admin's token; a manager's, and none, it refuses.
        """
        page = "/monitoring/api/overview"

        async def status(user: str, store: str | None) -> int:
            return (await running_service.call("GET", page, store=store, user=user)).status_code

        assert await status("admin", None) == 200
        assert await status("manager", "hanok") in {401, 403}
        assert (await running_service.http.get(page)).status_code in {401, 403}

    async def test_a_revoked_admin_sees_no_dashboard(self, running_service: Running) -> None:
        """
        Within a second of the logout the dashboard is closed to the token.
        """
        await running_service.token(None, "admin")
        await running_service.call("POST", f"{API}/auth/logout", store=None, user="admin")

        async def status() -> int:
            reply = await running_service.call("GET", "/monitoring/api/overview", store=None, user="admin")
            return reply.status_code

        await eventually(status, 401, seconds=1)
