"""Starts the server of `server.py`, once per run, and makes stores on it."""

from __future__ import annotations

import atexit
import importlib
import json
import subprocess
import tempfile
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest

from benchmarks import environments
from tests.clickhouse.server import PASSWORD, USER

_SERVICES = count()
TABLES = ("records", "windows", "minutes", "series")


class Server:
    """A running server."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._address = f"http://127.0.0.1:{port}"

    def url(self, database: str = "rfs") -> str:
        """What `ClickHouseStore.from_url` is given."""
        return f"clickhouse://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/{database}"

    def faults(self, **faults: list[str]) -> None:
        """What happens to the next inserts by table, see server.py."""
        urlopen(Request(f"{self._address}/-/faults", json.dumps(faults).encode()), timeout=10).close()

    def seen(self) -> list[dict[str, Any]]:
        """The inserts that came since the last time."""
        with urlopen(f"{self._address}/-/seen", timeout=10) as answer:
            found: list[dict[str, Any]] = json.load(answer)
            return found

    def client(self, database: str = "rfs") -> Any:
        """A client that sees everything."""
        import clickhouse_connect

        return clickhouse_connect.get_client(
            host="127.0.0.1", port=self.port, username=USER, password=PASSWORD, database=database
        )


@cache
def server() -> Server:
    """The server; the test is skipped where it cannot be had."""
    pytest.importorskip("clickhouse_connect")
    fault = environments.prepare("chdb")
    if fault:
        pytest.skip(f"the environment of chdb cannot be made: {fault}")
    folder = tempfile.TemporaryDirectory(prefix="rfs-clickhouse-")
    program = Path(__file__).with_name("server.py")
    process = subprocess.Popen(
        [environments.python_of("chdb"), program, folder.name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def stop() -> None:
        process.communicate()  # whose standard input then ends
        folder.cleanup()

    atexit.register(stop)
    assert process.stdout is not None
    found = Server(int(process.stdout.readline()))
    clickhouse = importlib.import_module("rfs.monitoring._store.clickhouse")
    clickhouse._FLUSH_SECONDS = 30.0  # type: ignore[attr-defined]  # on a busy machine, too, a test sees what it has appended
    make(found)
    return found


def make(server: Server, database: str = "rfs") -> None:
    """Make the tables, and let them keep whatever time the tests make up."""
    from rfs.monitoring._store.clickhouse import ClickHouseStore

    store = ClickHouseStore.from_url(server.url(database), service="nobody")
    store.kinds()
    store.close()
    client = server.client(database)
    for table in TABLES:
        client.command(f"ALTER TABLE {table} REMOVE TTL")
    client.close()


def store() -> Any:
    """A store of a service of its own."""
    from rfs.monitoring._store.clickhouse import ClickHouseStore

    return ClickHouseStore.from_url(server().url(), service=f"service-{next(_SERVICES)}")
