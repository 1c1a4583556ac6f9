"""What the tests of the dashboard share: a Monitor on a clock moved by hand, and a bare app with the router."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from fastapi import FastAPI

from rfs.monitoring.dashboard_api import create_router
from rfs.monitoring.monitor import Monitor, use_monitor
from tests.dashboard.workload import INDICATORS, work
from tests.monitoring.conftest import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still until the test moves it."""
    return ManualClock()


@pytest.fixture
def monitor(clock: ManualClock) -> Iterator[Monitor]:
    """The default Monitor of this test; it is not started, so nothing happens that the test does not do."""
    made = Monitor(service_name="table order", clock=clock)
    with use_monitor(made):
        yield made
    made.stop()


@pytest.fixture
def busy(monitor: Monitor, clock: ManualClock) -> Monitor:
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
