"""What the tests of the dashboard share: a Monitor on a clock moved by hand, and a bare app with the router."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

import httpx
import pytest
from fastapi import FastAPI

from rfs.monitoring.dashboard_api import create_router
from rfs.monitoring.monitor import Monitor, use_monitor
from rfs.testing.virtual_time import VirtualTime
from tests.dashboard.workload import INDICATORS, work


@pytest.fixture
def clock() -> VirtualTime:
    """Stands still until the test moves it."""
    return VirtualTime(datetime(2027, 1, 15, 8, tzinfo=UTC))


@pytest.fixture
def monitor(clock: VirtualTime) -> Iterator[Monitor]:
    """The default Monitor of this test; it is not started, so nothing happens that the test does not do."""
    made = Monitor(service_name="table order", clock=clock)
    with use_monitor(made):
        yield made
    made.stop()


@pytest.fixture
def busy(monitor: Monitor, clock: VirtualTime) -> Monitor:
    """The Monitor after the evening's work."""
    work(monitor, clock)
    return monitor


@pytest.fixture
async def client(monitor: Monitor) -> AsyncIterator[httpx.AsyncClient]:
    """Asks a bare app that has nothing but the router."""
    app = FastAPI()
    app.include_router(create_router(monitor=lambda: monitor, indicators=INDICATORS), prefix="/monitoring")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test/monitoring") as made:
        yield made
