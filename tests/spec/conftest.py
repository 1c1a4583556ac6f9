"""What the documents' examples need around them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from rfs.testing.fixtures import Telemetry


@pytest.fixture(autouse=True)
def telemetry(telemetry: Telemetry) -> Telemetry:
    """Every test has it, asked for or not: the module functions of the documents act on its Monitor."""
    return telemetry


@pytest.fixture
def json_lines(telemetry: Telemetry, capsys: pytest.CaptureFixture[str]) -> Callable[[], list[dict[str, Any]]]:
    """Returns what the logging wrote to stdout, parsed; the Monitor is stopped first, which prints what is pending."""

    def read() -> list[dict[str, Any]]:
        telemetry.monitor.stop()
        return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]

    return read
