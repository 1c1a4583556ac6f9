"""A service in a process of its own, for the tests of the command line to ask about."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.processes import Process, environment

ORDERS = 30  # 10 are declined, and 4 more break


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Process]]:
    """The directory of a service that has taken `ORDERS` orders, and its process, which still runs."""
    directory = tmp_path_factory.mktemp("state") / "rfs" / "orders"
    with Process("orders", env=environment(RFS_DIR=str(directory), RFS_SERVICE_NAME="orders")) as process:
        assert process.answer() == "ready"
        process.ask(do="place", first=0, count=ORDERS)
        yield directory, process


@pytest.fixture
def directory(service: tuple[Path, Process]) -> Path:
    return service[0]
