"""Health routes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI

from rfs.monitoring.monitor import Monitor
from rfs.testing.fixtures import Telemetry
from rfs.web.fastapi import install
from rfs.web.fastapi.health import health_router
from tests.web.asgi import get

TOKEN = "configured-token-of-this-test"


async def connected() -> str | None:
    return "connected"


async def fine() -> str | None:
    return None


async def broken() -> str | None:
    raise ConnectionRefusedError("password=hunter2-hunter2 refused by 10.0.0.7")


async def hangs() -> str | None:
    await asyncio.Event().wait()
    return None


def app_with(**checks: Any) -> FastAPI:
    app = FastAPI()
    install(app, dashboard_token=TOKEN, readiness_checks=checks)
    return app


KEY = {"Authorization": f"Bearer {TOKEN}"}
DEGRADED = "the directory is full: records stay in memory"


class Watched(Monitor):
    """A Monitor that says of itself what it is told to say."""

    capture_state: Any = SimpleNamespace(mode="directory", degraded="")
    leadership: Any = SimpleNamespace(epoch=3, pid=4711, process="4711-x", is_self=False)


class TestMonitoring:
    @pytest.fixture
    def watched(self) -> Iterator[Watched]:
        monitor = Watched(service_name="test")
        yield monitor
        monitor.stop()

    @pytest.mark.parametrize("path", ["/health", "/health/ready"])
    async def test_is_shown_to_those_who_may_see_it(self, watched: Watched, path: str) -> None:
        """
        Who may see the dashboard is told mode, leader and number of processes; a stranger is told nothing new.
        """
        app = FastAPI()
        install(app, dashboard_token=TOKEN, monitor=watched)

        told, stranger = await get(app, path, headers=KEY), await get(app, path)

        assert told.json()["monitoring"] == {
            "status": "ok",
            "pid": os.getpid(),
            "mode": "directory",
            "degraded": None,
            "leader": {"pid": 4711, "epoch": 3, "is_self": False},
            "processes": 1,
        }
        assert "monitoring" not in stranger.json()

    async def test_of_a_monitor_with_a_directory(self, tmp_path: Path) -> None:
        """
        With a directory it names this process as the leader once it has started, and counts the processes that live.
        """
        monitor = Monitor(service_name="test", directory=tmp_path)
        app = FastAPI()
        install(app, dashboard_token=TOKEN, monitor=monitor)
        monitor.start()
        try:
            async with asyncio.timeout(20):
                while not monitor.leadership.epoch:
                    await asyncio.sleep(0.01)
            told = (await get(app, "/health/ready", headers=KEY)).json()["monitoring"]
        finally:
            monitor.stop()

        assert (told["status"], told["mode"], told["processes"]) == ("ok", "directory", 1)
        assert (told["leader"]["pid"], told["leader"]["is_self"]) == (os.getpid(), True)
        assert told["leader"]["epoch"] >= 1

    async def test_degraded_is_said_and_serves(self, watched: Watched) -> None:
        """
        A capture that is degraded is said, with the reason, and makes nothing red: the service serves.
        """
        watched.capture_state = SimpleNamespace(mode="memory", degraded=DEGRADED)
        app = FastAPI()
        install(app, dashboard_token=TOKEN, monitor=watched)

        answers = {path: await get(app, path, headers=KEY) for path in ("/health", "/health/live", "/health/ready")}

        assert {answer.status for answer in answers.values()} == {200}
        assert answers["/health/ready"].json()["status"] == "ready"
        for path in ("/health", "/health/ready"):
            told = answers[path].json()["monitoring"]
            assert (told["status"], told["mode"], told["degraded"]) == ("degraded", "memory", DEGRADED)

    async def test_that_cannot_say_is_unknown(self, watched: Watched) -> None:
        """
        A Monitor that breaks while it is asked costs its state, not the answer.
        """
        watched.leadership = None
        app = FastAPI()
        install(app, dashboard_token=TOKEN, monitor=watched)

        answer = await get(app, "/health/ready", headers=KEY)

        assert (answer.status, answer.json()["monitoring"]["status"]) == (200, "unknown")

    async def test_liveness_never_asks(self) -> None:
        """
        Liveness asks neither the Monitor nor who it is that asks.
        """
        asked: list[object] = []

        def decide(request: object) -> bool:
            asked.append(request)
            return True

        app = FastAPI()
        install(app, access=decide)

        assert (await get(app, "/health/live")).json() == {"status": "alive"}
        assert asked == []

    async def test_a_decision_that_takes_too_long_is_no(self) -> None:
        """
        A host's decision that hangs holds no probe up: the details are left out.
        """

        async def undecided(request: object) -> bool:
            await asyncio.Event().wait()
            return True

        app = FastAPI()
        app.include_router(health_router({}, allows=undecided, monitor=Monitor, timeout_seconds=0.01))

        assert (await get(app, "/health/ready")).json() == {"status": "ready", "checks": {}}


class TestHealth:
    async def test_documented_answers(self) -> None:
        """
        The three routes answer as the documents say.
        """
        app = app_with(database=connected, disk=fine)

        assert (await get(app, "/health")).json() == {"status": "healthy"}
        assert (await get(app, "/health/live")).json() == {"status": "alive"}
        ready = await get(app, "/health/ready")
        assert ready.status == 200
        assert ready.json() == {"status": "ready", "checks": {"database": "connected", "disk": "ok"}}

    async def test_not_ready(self) -> None:
        """
        One check that fails is 503 with the documented body; a stranger is told which, not why.
        """
        answer = await get(app_with(database=broken, disk=fine), "/health/ready")

        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert answer.json() == {"status": "not_ready", "checks": {"database": "error", "disk": "ok"}}

    async def test_details_for_those_who_may_see_them(self, telemetry: Telemetry) -> None:
        """
        Who may see the dashboard is told why, with secrets masked.
        """
        telemetry.monitor.masker.register_secret("hunter2-hunter2")

        answer = await get(app_with(database=broken), "/health/ready", headers={"Authorization": f"Bearer {TOKEN}"})

        said = answer.json()["checks"]["database"]
        assert said.startswith("error: ConnectionRefusedError")
        assert "hunter2" not in answer.text

    async def test_liveness_asks_nobody(self) -> None:
        """
        A dependency that is down does not make the process dead.
        """
        app = app_with(database=broken)

        assert (await get(app, "/health/live")).status == (await get(app, "/health")).status == 200

    async def test_at_once_and_in_time(self) -> None:
        """
        Checks run at once, each with its own limit: ten that hang take as long as one.
        """
        begun = 0
        begun_when_one_ended: list[int] = []

        async def one_of_ten() -> str | None:
            nonlocal begun
            begun += 1
            try:
                return await hangs()
            finally:
                begun_when_one_ended.append(begun)

        async def allowed(request: object) -> bool:
            return True

        app = FastAPI()
        app.include_router(
            health_router(
                {f"c{number}": one_of_ten for number in range(10)},
                allows=allowed,
                monitor=Monitor,
                timeout_seconds=0.05,
            )
        )

        answer = await get(app, "/health/ready")

        assert answer.json()["checks"]["c9"] == "error: no answer within 0.05 s"
        assert begun_when_one_ended == [10] * 10

    async def test_a_change_is_recorded_once(self, telemetry: Telemetry) -> None:
        """
        A check that begins to fail is one record, and one when it passes again, however often it is asked.
        """
        down = True

        async def check() -> str | None:
            return await broken() if down else "connected"

        app = app_with(database=check)
        for _ in range(3):
            await get(app, "/health/ready")
        down = False
        for _ in range(3):
            await get(app, "/health/ready")

        telemetry.assert_records(
            {"level": "ERROR", "message": "Readiness check fails"},
            {"level": "INFO", "message": "Readiness check passes again"},
            check="database",
        )

    async def test_telemetry_that_is_broken(self) -> None:
        """
        A Monitor that cannot record or mask costs the details, not the answer.
        """

        def no_monitor() -> Monitor:
            raise RuntimeError("no monitor")

        async def allowed(request: object) -> bool:
            return True

        app = FastAPI()
        app.include_router(health_router({"database": broken}, allows=allowed, monitor=no_monitor))

        answer = await get(app, "/health/ready")

        assert (answer.status, answer.json()["checks"]) == (503, {"database": "error: [masked:error]"})

    async def test_not_observed(self, telemetry: Telemetry) -> None:
        """
        Probes are neither measured nor, while all is well, recorded.
        """
        app = app_with()
        for path in ("/health", "/health/live", "/health/ready"):
            await get(app, path)

        telemetry.assert_records()
        telemetry.assert_metric("http_requests_total", None)

    async def test_the_hosts_routes_win(self) -> None:
        """
        A host that has its own health route keeps it, whether it was declared before or after.
        """
        app = FastAPI()
        install(app)

        @app.get("/health/ready")
        async def own() -> str:
            return "mine"

        assert (await get(app, "/health/ready")).json() == "mine"
        assert (await get(app, "/health/live")).json() == {"status": "alive"}

    @pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
    async def test_without(self, path: str) -> None:
        """
        Switched off, they are not there.
        """
        app = FastAPI()
        install(app, health=False)

        assert (await get(app, path)).status == 404
