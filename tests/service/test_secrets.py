from __future__ import annotations

from collections.abc import Callable

import pytest

from app.core.config import Settings
from rfs.testing.fixtures import Telemetry
from tests.service.harness import API, SECRET_KEY, running

pytestmark = pytest.mark.postgres

CANARY = "canary-5f1e9c07d2ab"


class TestCanaries:
    async def test_none_comes_out(
        self, settings: Callable[..., Settings], telemetry: Telemetry, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """
        A secret in headers, query, body and nested data of requests is neither on stdout, nor on the page, nor in its API.
        """
        async with running(settings(LOG_STDOUT=True, LOG_LEVEL="DEBUG")) as service:
            headers = {
                "Authorization": f"Bearer {CANARY}",
                "Cookie": f"session={CANARY}",
                "X-Api-Key": CANARY,
                "X-Correlation-ID": f"not an id {CANARY}",
            }
            login = {"store_id": "hanok", "username": "manager", "password": CANARY}
            await service.http.get(f"{API}/stores", params={"token": CANARY}, headers=headers)
            await service.http.get(f"{API}/stores/hanok/menu", headers=headers)
            await service.http.post(f"{API}/auth/login", json=login, headers=headers)
            await service.http.post(f"{API}/auth/login", json={"password": {"nested": [CANARY]}}, headers=headers)
            await service.http.post(f"{API}/auth/login", content=CANARY, headers=headers)
            pages = [
                (await service.call("GET", f"/monitoring/{path}", store=None, user="admin")).text
                for path in ("api/overview", "api/records?limit=500&min_level=0", "errors/top", "metrics", "dashboard")
            ]
            admin = await service.token(None, "admin")

        telemetry.assert_record(message="Request completed", route=f"{API}/auth/login", status_code=401)
        telemetry.assert_no_secret(CANARY, SECRET_KEY, admin)
        out, err = capfd.readouterr()
        assert "Request completed" in out
        for told in (out, err, *pages):
            assert CANARY not in told
            assert SECRET_KEY not in told
            assert admin not in told
