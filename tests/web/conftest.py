"""What the tests of the web layer share."""

from __future__ import annotations

import pytest

from rfs.testing.fixtures import Telemetry


@pytest.fixture(autouse=True)
def telemetry(telemetry: Telemetry) -> Telemetry:
    """Every test has it, asked for or not."""
    return telemetry
