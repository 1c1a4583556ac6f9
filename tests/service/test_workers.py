"""Several workers, each a process of its own: whichever is asked tells of all of them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

import app
from app.traffic.client import Client
from app.traffic.evening import STREAM, Evening
from app.traffic.tally import Tally
from tests.service.harness import FAR_SECONDS, PASSWORD, SECRET_KEY
from tests.service.test_launcher import eventually, gone, launched

pytestmark = [pytest.mark.postgres, pytest.mark.fault]

HOME = Path(str(app.__path__[0])).parent
TOKEN = "a-dashboard-token-of-the-tests"


@contextmanager
def connected(address: str, headers: dict[str, str], count: int = 2) -> Generator[dict[int, Worker]]:
    """For each of *count* workers one connection that leads to it, by process id."""
    with ExitStack() as stack:
        found: dict[int, Worker] = {}
        deadline = time.monotonic() + FAR_SECONDS
        while len(found) < count:
            assert time.monotonic() < deadline, f"of {count} workers only {set(found)} answer"
            http = httpx.Client(base_url=address, headers=headers, trust_env=False, timeout=FAR_SECONDS)
            worker = Worker(stack.enter_context(http))
            found.setdefault(worker.monitoring()["pid"], worker)
        yield found


class Worker:
    """What one worker tells."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def monitoring(self) -> dict[str, Any]:
        """How it says that the monitoring does."""
        told: dict[str, Any] = self._http.get("/health/ready").json()["monitoring"]
        return told

    def requests(self) -> dict[tuple[str, str, int], int]:
        """Requests by method, route and status."""
        found: Counter[tuple[str, str, int]] = Counter()
        text = self._http.get("/monitoring/prometheus").raise_for_status().text
        for labels, value in re.findall(r"^http_requests_total\{(.*)\} (\S+)$", text, re.MULTILINE):
            label = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            found[label["method"], label["route"], int(label["status"])] += int(float(value))
        return {key: count for key, count in found.items() if count}

    def page(self) -> dict[str, float]:
        """The sums that the page shows."""
        total = self._http.get("/monitoring/api/overview?time_range=1h").raise_for_status().json()["requests"]["total"]
        counters = self._http.get("/monitoring/metrics?hours=1").raise_for_status().json()["counters"]
        names = ("orders_created_total", "sse_events_sent_total", "sse_events_failed_total")
        return {"requests": total or 0, **{name: counters[name] for name in names}}

    def failures(self) -> dict[str, int]:
        """Refused requests by code."""
        found: Counter[str] = Counter()
        for error in self._http.get("/monitoring/errors/top?limit=100&time_range=1h").raise_for_status().json():
            found[error["error_code"]] += error["count"]
        return dict(found)


def settled(read: Callable[[], Any], expected: Any) -> None:
    """Read until it is what is expected; at the end, compare so that the difference is shown."""
    deadline = time.monotonic() + FAR_SECONDS
    while (found := read()) != expected and time.monotonic() < deadline:
        time.sleep(0.05)
    assert found == expected


def tells_exactly(worker: Worker, tally: Tally) -> None:
    """Assert that *worker* shows what the generator counted on its side of the wire, no more and no less."""
    settled(worker.requests, dict(tally.requests))
    settled(
        worker.page,
        {
            "requests": tally.requests.total(),
            "orders_created_total": tally.orders["created"],
            "sse_events_sent_total": tally.events["order"],
            "sse_events_failed_total": 0,
        },
    )
    settled(worker.failures, dict(tally.failures))


async def evening(address: str, password: str, **options: Any) -> Tally:
    async with Client(address) as client:
        return await Evening(client, password=password, rate=25, pace=0.01, **options).run()


class TestTwoWorkers:
    def test_each_tells_of_both(self) -> None:
        """
        After an evening at two workers each page shows exactly what the generator counted, and names the same leader.
        """
        with launched(TRAFFIC="0") as run:
            headers = run.visitor()
            with connected(run.address, headers) as before:
                pids = set(before)
                tally = asyncio.run(evening(run.address, run.password, seed=18, parties=10))
                assert tally.unanswered == 0
                assert tally.failures, "an evening without refusals proves nothing"

                for worker in before.values():
                    tells_exactly(worker, tally)
            # Anew: a connection that was idle for five seconds is closed, and the next one may lead to the other.
            with connected(run.address, headers) as after:
                told = [worker.monitoring() for worker in after.values()]

        assert pids == run_pids(told)
        assert {one["status"] for one in told} == {"ok"}
        assert {one["mode"] for one in told} == {"directory"}
        assert len({one["leader"]["pid"] for one in told}) == 1
        assert [one["leader"]["is_self"] for one in told].count(True) == 1

    def test_one_is_killed_in_the_middle(self) -> None:
        """
        A worker is killed in the middle of an evening: what any worker shows never goes back, counts nothing twice, and at
        the end is what the generator counted, but for the requests that were cut off; the sums of both workers are the same.
        The page of the one that lived through it is right, and the new one's page is the same.
        """
        with launched(TRAFFIC="0") as run:
            headers = run.visitor()
            seen: list[float] = []

            async def dine() -> tuple[Tally, int, int]:
                async with Client(run.address, retry_seconds=0.1) as client:
                    guests = Evening(client, password=run.password, rate=15, seed=7, pace=0.01, parties=14)
                    dining = asyncio.create_task(guests.run())
                    async with asyncio.timeout(60):
                        while guests.tally.orders["served"] < 3:
                            await asyncio.sleep(0.01)
                    victim, survivor = sorted(run.workers())
                    os.kill(victim, signal.SIGKILL)
                    async with httpx.AsyncClient(headers=headers, base_url=run.address, trust_env=False) as page:
                        while not dining.done():
                            try:
                                reply = await page.get("/monitoring/api/overview?time_range=1h")
                            except httpx.TransportError:
                                continue
                            seen.append(reply.json()["requests"]["total"])
                            await asyncio.sleep(0.05)
                    return await dining, victim, survivor

            tally, victim, survivor = asyncio.run(asyncio.wait_for(dine(), 120))
            eventually(lambda: len(run.workers()) == 2)
            assert victim not in run.workers()
            with connected(run.address, headers) as workers:
                assert set(workers) == run.workers()
                one, other = workers.values()
                settled(lambda: without_streams(other.requests()) == without_streams(one.requests()), expected=True)
                shown = without_streams(one.requests())
                everything = sum(one.requests().values())
                page = workers.pop(survivor).page()
                (new,) = workers.values()
                settled(new.page, page)

        counted = without_streams(dict(tally.requests))
        assert seen == sorted(seen)
        assert len(seen) > 3
        # A request that was cut off may have been counted before its answer was lost, and is never counted twice.
        extra = Counter(shown)
        extra.subtract(counted)
        assert min(extra.values(), default=0) >= 0
        assert 0 <= extra.total() <= tally.unanswered
        assert page["requests"] == everything
        assert tally.orders["created"] <= page["orders_created_total"] <= tally.orders["created"] + tally.unanswered
        assert (tally.events_missed, tally.events_repeated) == (0, 0)


def run_pids(told: list[dict[str, Any]]) -> set[int]:
    return {one["pid"] for one in told}


def without_streams(requests: dict[tuple[str, str, int], int]) -> dict[tuple[str, str, int], int]:
    """A stream is counted when it ends; of one that its worker's death ended, nobody knows."""
    return {key: count for key, count in requests.items() if key[1] != STREAM}


class TestGunicorn:
    def test_preloaded(self, database_url: str, tmp_path: Path) -> None:
        """
        Under ``gunicorn --preload`` two uvicorn workers, forked from one loaded application, serve an evening, and each shows
        exactly what the generator counted; SIGTERM ends it with nobody left.
        """
        with gunicorn(database_url, tmp_path) as (master, address):
            with connected(address, {"Authorization": f"Bearer {TOKEN}"}) as workers:
                family = [master, *master.children(recursive=True)]
                assert set(workers) == {one.pid for one in master.children()}
                tally = asyncio.run(evening(address, PASSWORD, seed=18, parties=6))
                assert tally.unanswered == 0
                for worker in workers.values():
                    tells_exactly(worker, tally)
                assert all(worker.monitoring()["processes"] >= 2 for worker in workers.values())

            master.terminate()
            assert master.wait(FAR_SECONDS) == 0
            eventually(lambda: gone(family), 1)


@contextmanager
def gunicorn(database_url: str, directory: Path) -> Generator[tuple[psutil.Popen, str]]:
    """Start the README's command, and wait until it listens."""
    environment = {
        **os.environ,
        "DATABASE_URL": database_url,
        "SECRET_KEY": SECRET_KEY,
        "DEMO_PASSWORD": PASSWORD,
        "LOG_STDOUT": "false",
        "RFS_DIR": str(directory / "rfs"),
        "RFS_SERVICE_NAME": "Table Order Service",
        "RFS_DASHBOARD_TOKEN": TOKEN,
    }
    command = [sys.executable, "-m", "gunicorn", "app.main:app", "--preload", "--workers", "2"]
    command += ["--worker-class", "uvicorn_worker.UvicornWorker", "--bind", "127.0.0.1:0", "--no-control-socket"]
    log = directory / "log"
    with log.open("wb") as said:
        process = psutil.Popen(command, cwd=HOME, env=environment, stdout=said, stderr=subprocess.STDOUT)
    try:
        eventually(lambda: "Listening at: http" in log.read_text() or process.poll() is not None)
        address = re.search(r"Listening at: (http://\S+)", log.read_text())
        assert address, log.read_text()
        yield process, address[1]
    finally:
        if process.poll() is None:
            for one in [*process.children(recursive=True), process]:
                one.kill()
        process.wait(FAR_SECONDS)
