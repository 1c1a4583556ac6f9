"""What the tests of recording share: a clock that is moved by hand, and a Monitor of the test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rfs.monitoring.monitor import Monitor, use_monitor
from rfs.testing.fixtures import Telemetry
from rfs.testing.virtual_time import VirtualTime


@pytest.fixture
def clock() -> VirtualTime:
    """It is not entered, so it stands still until it is moved."""
    return VirtualTime(1_800_000_000)


@pytest.fixture
def monitor(clock: VirtualTime) -> Iterator[Monitor]:
    """The default Monitor of this test: as a host has it, but for the clock."""
    made = Monitor(service_name="test", clock=clock)
    with use_monitor(made):
        yield made
    made.stop()


@pytest.fixture
def telemetry(telemetry: Telemetry) -> Telemetry:
    """What is recorded of a Failure is the matter here, not who looks at it."""
    telemetry.allow_unhandled_failures()
    return telemetry
