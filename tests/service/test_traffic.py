from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

import app.traffic as traffic_package
from app.traffic.client import Client
from app.traffic.evening import LOGIN, ORDERS, STATUS, STREAM, Evening
from rfs.testing.fixtures import Telemetry
from tests.service.harness import FAR_SECONDS, PASSWORD, Running, eventually, until

HOME = Path(traffic_package.__file__).parents[2]


@pytest.mark.postgres
class TestEvening:
    async def test_the_page_shows_exactly_what_was_sent(self, running_service: Running, telemetry: Telemetry) -> None:
        """
        When the evening has drained, the page's figures are the generator's own counts: requests by method, route and
        status, orders by status, failures by code, and events of the streams.
        """
        async with Client(running_service.address) as client:
            tally = await Evening(client, password=PASSWORD, rate=25, seed=18, pace=0.01, parties=14).run()
        assert tally.unanswered == 0
        assert len(tally.failures) >= 2, "an evening without refusals proves nothing"

        page = Page(running_service, telemetry)
        await eventually(page.requests, dict(tally.requests))
        assert await page.counter("orders_total", "status") == dict(tally.orders)
        assert await page.total("orders_created_total") == tally.orders["created"]
        assert await page.failures() == dict(tally.failures)
        assert await page.total("sse_events_sent_total") == tally.events["order"] == tally.orders.total()
        assert await page.total("sse_events_failed_total") == 0
        assert (tally.events_missed, tally.events_repeated) == (0, 0)
        telemetry.assert_health()

    async def test_behaves_like_a_restaurant(self, running_service: Running) -> None:
        """
        Every order ends served or cancelled; there are refusals of every kind that life brings, and nobody stays logged in.
        """
        async with Client(running_service.address) as client:
            tally = await Evening(client, password=PASSWORD, rate=25, seed=4, pace=0.01, parties=14).run()

        orders = tally.orders
        assert orders["created"] == orders["served"] + orders["cancelled"] > 14
        assert orders["cancelled"] + tally.failures["INVALID_STATUS_TRANSITION"] > 0
        assert {"SOLD_OUT", "UNKNOWN_TABLE"} <= set(tally.failures)
        assert set(tally.failures) <= {"SOLD_OUT", "UNKNOWN_TABLE", "INVALID_STATUS_TRANSITION", "INVALID_CREDENTIALS"}
        assert tally.requests["GET", STREAM, 200] == 3
        assert tally.requests["POST", LOGIN, 200] >= 6
        assert tally.requests["POST", ORDERS, 200] == orders["created"]
        assert tally.requests["POST", STATUS, 200] == orders.total() - orders["created"]
        assert running_service.service.feed.stream_count == 0

    async def test_the_same_seed_brings_the_same_guests(self, running_service: Running) -> None:
        """
        Two evenings of one seed want the same orders; another seed wants others.
        """

        async def first_orders(seed: int) -> list[tuple[str, bytes]]:
            wanted: list[tuple[str, bytes]] = []

            async def note(request: httpx.Request) -> None:
                if request.headers.get("Idempotency-Key", "").endswith("-first"):
                    wanted.append((request.url.path, request.content))

            async with Client(running_service.address) as client:
                client._http.event_hooks["request"].append(note)
                await Evening(client, password=PASSWORD, rate=25, seed=seed, pace=0.001, parties=3).run()
            return sorted(wanted)

        first = await first_orders(5)

        assert await first_orders(5) == first
        assert await first_orders(6) != first

    async def test_it_drains_when_the_doors_close(self, running_service: Running) -> None:
        """
        An endless evening whose doors close finishes what it began.
        """
        async with Client(running_service.address) as client:
            # Few guests: how many come before the third is served is what then has to be drained.
            evening = Evening(client, password=PASSWORD, rate=8, seed=2, pace=0.005)
            dining = asyncio.create_task(evening.run())
            await until(lambda: evening.tally.orders["served"] >= 3)
            evening.close_doors()
            tally = await asyncio.wait_for(dining, FAR_SECONDS)

        assert tally.orders["created"] == tally.orders["served"] + tally.orders["cancelled"]

    async def test_breaking_it_off_leaves_nobody(self, running_service: Running) -> None:
        """
        An evening that is cancelled has no guest, cook or stream left.
        """
        before = asyncio.all_tasks()
        async with Client(running_service.address) as client:
            evening = Evening(client, password=PASSWORD, rate=25, seed=2, pace=0.01)
            dining = asyncio.create_task(evening.run())
            await until(lambda: evening.tally.orders["accepted"] >= 3)
            dining.cancel()
            await asyncio.gather(dining, return_exceptions=True)

            assert not evening._guests | evening._cooks
        await until(lambda: running_service.service.feed.stream_count == 0)
        ours = {task for task in asyncio.all_tasks() - before if "app/traffic" in str(task.get_coro())}
        assert not ours

    async def test_a_wrong_password_is_said(self, running_service: Running) -> None:
        """
        Without the right password it ends with a sentence.
        """
        async with Client(running_service.address) as client:
            with pytest.raises(RuntimeError, match=r"cannot log in: is DEMO_PASSWORD the service's\?"):
                await Evening(client, password="not-this-one").run()


class Page:
    """The figures as the page's API and the read path behind it tell them."""

    def __init__(self, service: Running, telemetry: Telemetry) -> None:
        self._service = service
        self._query = telemetry.monitor.query

    async def overview(self) -> dict[str, Any]:
        reply = await self._service.call("GET", "/monitoring/api/overview?time_range=1h", store=None, user="admin")
        assert reply.status_code == 200, reply.text
        body: dict[str, Any] = reply.json()
        return body

    async def requests(self) -> dict[tuple[str, str, int], int]:
        """By method, route and status; without the login that this reading needs."""
        await self._service.token(None, "admin")
        found: Counter[tuple[str, str, int]] = Counter()
        for route in self._query.label_values("http_requests_total", "route"):
            for method in self._query.label_values("http_requests_total", "method"):
                labels = {"route": route, "method": method}
                for status, count in self._query.increase_by("http_requests_total", "status", "1h", labels).items():
                    found[method, route, int(status)] += int(count)
        assert sum(found.values()) == (await self.overview())["requests"]["total"]
        found["POST", LOGIN, 200] -= 1
        return dict(found)

    async def counter(self, name: str, label: str) -> dict[str, int]:
        return {key: int(value) for key, value in self._query.increase_by(name, label, "1h").items()}

    async def total(self, name: str) -> int:
        reply = await self._service.call("GET", "/monitoring/metrics?hours=1", store=None, user="admin")
        return int(reply.json()["counters"][name])

    async def failures(self) -> dict[str, int]:
        reply = await self._service.call(
            "GET", "/monitoring/errors/top?limit=100&time_range=1h", store=None, user="admin"
        )
        found: Counter[str] = Counter()
        for error in reply.json():
            found[error["error_code"]] += error["count"]
        return dict(found)


class TestClient:
    @pytest.mark.parametrize("url", ["http://example.com", "http://10.0.0.1:8000", "http://localhost.example.com"])
    def test_goes_nowhere_else(self, url: str) -> None:
        """
        Traffic to another machine is refused before it begins.
        """
        with pytest.raises(ValueError, match="traffic goes to this machine only"):
            Client(url)

    @pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf"), 1001])
    def test_a_rate_that_is_none(self, rate: float) -> None:
        """
        A rate must be a positive number that this machine could bear.
        """
        with pytest.raises(ValueError, match="RATE is orders per second"):
            Evening(Client("http://127.0.0.1:1"), password="", rate=rate)

    async def test_counts_what_got_no_answer(self) -> None:
        """
        Where nobody listens, each attempt is counted as unanswered.
        """
        async with Client("http://127.0.0.1:1", retry_seconds=0) as client:
            assert await client.call("GET", "/health") is None

        assert client.tally.unanswered == 8
        assert not client.tally.requests


@pytest.mark.postgres
class TestProgram:
    async def test_prints_what_it_counted(self, running_service: Running) -> None:
        """
        ``python -m app.traffic`` ends with its counts as one line of JSON, and status 0 when it drained.
        """
        arguments = ["--base-url", running_service.address, "--rate", "25", "--pace", "0.002", "--parties", "6"]
        program = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "app.traffic", *arguments, cwd=HOME, stdout=subprocess.PIPE, env=_environment()
        )
        output, _ = await asyncio.wait_for(program.communicate(), FAR_SECONDS)

        counted = json.loads(output.splitlines()[-1])
        assert (program.returncode, counted["drained"]) == (0, True)
        assert counted["orders"]["created"] >= 6

    async def test_leaves_when_it_is_told(self, running_service: Running) -> None:
        """
        SIGTERM closes the doors; past its patience it leaves, and says that it did not drain.
        """
        arguments = ["--base-url", running_service.address, "--rate", "25", "--pace", "100", "--patience", "0.2"]
        program = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "app.traffic", *arguments, cwd=HOME, stdout=subprocess.PIPE, env=_environment()
        )
        metrics = running_service.service.metrics
        await until(lambda: metrics.orders_created >= 3)
        program.send_signal(signal.SIGTERM)
        output, _ = await asyncio.wait_for(program.communicate(), 5)

        assert program.returncode == 1
        assert json.loads(output.splitlines()[-1])["drained"] is False


def _environment() -> dict[str, str]:
    return {**os.environ, "DEMO_PASSWORD": PASSWORD, "PYTHONPATH": str(HOME)}
