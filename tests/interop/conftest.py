"""A real Prometheus, and what the tests ask it."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

DEADLINE_SECONDS = 30.0

T = TypeVar("T")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def eventually(ask: Callable[[], T | None], what: str) -> T:
    """What *ask* gives as soon as it gives something; a refused connection is nothing yet."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            answer = ask()
        except (URLError, ConnectionError):
            answer = None
        if answer is not None:
            return answer
        assert time.monotonic() < deadline, f"not within {DEADLINE_SECONDS:.0f} s: {what}"
        time.sleep(0.05)


class Prometheus:
    """One that scrapes a target each second."""

    def __init__(self, port: int) -> None:
        self._address = f"http://127.0.0.1:{port}"

    def get(self, path: str, **parameters: object) -> Any:
        with urlopen(f"{self._address}/api/v1/{path}?{urlencode(parameters)}", timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, text: str) -> dict[tuple[tuple[str, str], ...], float]:
        """An instant query's result by labels, without those that Prometheus adds."""
        found = {}
        for one in self.get("query", query=text)["result"]:
            labels = {name: value for name, value in one["metric"].items() if name not in {"instance", "job"}}
            found[tuple(sorted(labels.items()))] = float(one["value"][1])
        return found

    def target(self) -> Any:
        """How the last scrape went; None before the first."""
        targets = self.get("targets")["activeTargets"]
        return targets[0] if targets and targets[0]["health"] != "unknown" else None


@pytest.fixture
def scraping(tmp_path: Path) -> Iterator[Callable[[int, str], Prometheus]]:
    """Start a Prometheus that scrapes ``/metrics/prometheus`` at a port of this machine, with a token."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed (Debian package prometheus)")
    with _started(tmp_path) as start:
        yield start


@contextmanager
def _started(folder: Path) -> Iterator[Callable[[int, str], Prometheus]]:
    processes: list[subprocess.Popen[bytes]] = []

    def start(target_port: int, token: str) -> Prometheus:
        port = free_port()
        (folder / "prometheus.yml").write_text(
            json.dumps(  # which is YAML, too
                {
                    "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
                    "scrape_configs": [
                        {
                            "job_name": "test",
                            "metrics_path": "/metrics/prometheus",
                            "authorization": {"credentials": token},
                            "static_configs": [{"targets": [f"127.0.0.1:{target_port}"]}],
                        }
                    ],
                }
            )
        )
        log = (folder / "prometheus.log").open("wb")
        processes.append(
            subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'tsdb'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                    "--enable-feature=exemplar-storage",
                ],
                stdout=log,
                stderr=log,
            )
        )
        log.close()
        prometheus = Prometheus(port)
        eventually(lambda: prometheus.target(), "a first scrape")
        return prometheus

    try:
        yield start
    finally:
        for process in processes:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
