from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from tempfile import mkdtemp
from threading import Thread

import httpx
import psutil
import pytest

import app
from app.serve import _address
from tests.service.harness import API, FAR_SECONDS

pytestmark = [pytest.mark.postgres, pytest.mark.fault]

HOME = Path(str(app.__path__[0])).parent


@dataclass
class Launched:
    """A launcher that has printed where everything is."""

    process: subprocess.Popen[str]
    banner: str
    lines: Queue[str]
    home: Path
    started_seconds: float

    @property
    def address(self) -> str:
        return _found(r"Health +(http://\S+)/health/ready", self.banner)

    @property
    def dashboard(self) -> str:
        return _found(r"Dashboard +(http://\S+)", self.banner)

    @property
    def password(self) -> str:
        return _found(r"password (\S+)\n", self.banner)

    def family(self) -> list[psutil.Process]:
        """All processes of the run."""
        launcher = psutil.Process(self.process.pid)
        return [launcher, *launcher.children(recursive=True)]

    def server(self) -> psutil.Process:
        """The PostgreSQL that all others of its kind are children of."""
        return next(one for one in self.family() if one.name() == "postgres" and one.ppid() == self.process.pid)

    def token(self) -> str:
        body = {"store_id": "hanok", "username": "kitchen", "password": self.password}
        reply = httpx.post(f"{self.address}{API}/auth/login", json=body, trust_env=False)
        return str(reply.json()["access_token"])


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match, f"{pattern!r} is not in {text}"
    return match[1]


def eventually(condition: Callable[[], bool], seconds: float = FAR_SECONDS) -> None:
    """Wait for *condition*."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


def gone(family: list[psutil.Process]) -> bool:
    """Whether none of them runs."""
    return not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


@contextmanager
def launched(**environment: str) -> Generator[Launched]:
    """Start the launcher as ``make run`` does, and read what it prints until it is ready."""
    home = Path(mkdtemp(prefix="run", dir="/tmp"))
    home.chmod(0o755)
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "app.run"],
        cwd=HOME,
        env={**_without_settings(), "PORT": "0", "TMPDIR": str(home), "LOG_STDOUT": "false", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    lines: Queue[str] = Queue()
    assert process.stdout is not None
    reader = Thread(target=_read, args=(process.stdout, lines), daemon=True)
    reader.start()
    try:
        banner = ""
        while "Records" not in banner:
            try:
                banner += lines.get(timeout=FAR_SECONDS)
            except Empty:
                pytest.fail(f"it said no more than: {banner}")
        yield Launched(process, banner, lines, home, time.monotonic() - started)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(FAR_SECONDS)
        reader.join(FAR_SECONDS)
        process.stdout.close()
        for left in sorted(home.rglob("*"), reverse=True):
            left.rmdir() if left.is_dir() and not left.is_symlink() else left.unlink()
        home.rmdir()


def _read(source: Iterable[str], lines: Queue[str]) -> None:
    for line in source:
        lines.put(line)


def _without_settings() -> dict[str, str]:
    keys = {"DATABASE_URL", "SECRET_KEY", "DEMO_PASSWORD", "RATE", "SEED", "TRAFFIC", "HOST", "PORT", "APP_ENV"}
    return {key: value for key, value in os.environ.items() if key not in keys}


class TestAddress:
    @pytest.mark.parametrize(
        ("host", "told"),
        [
            ("127.0.0.1", "http://127.0.0.1:80"),
            ("0.0.0.0", "http://127.0.0.1:80"),
            ("::", "http://[::1]:80"),
            ("shop.example", "http://shop.example:80"),
        ],
    )
    def test_is_one_that_a_browser_here_can_open(self, host: str, told: str) -> None:
        """
        Listening everywhere is no address; what is shown leads here.
        """
        assert _address(host, 80) == told


class TestRun:
    def test_from_the_first_line_to_ctrl_c(self) -> None:
        """
        It says where everything is, the dashboard's link opens, traffic flows; Ctrl-C with an open stream ends it all within
        5 s with status 0, and neither a process nor a file is left.
        """
        with launched(RATE="20") as run:
            page = httpx.get(run.dashboard, trust_env=False, follow_redirects=True)
            assert page.status_code == 200
            assert httpx.get(f"{run.address}/health/ready", trust_env=False).status_code == 200
            assert httpx.get(f"{run.address}/monitoring/api/overview", trust_env=False).status_code in {401, 403}
            headers = {"Authorization": f"Bearer {run.token()}"}
            with httpx.stream(
                "GET", f"{run.address}{API}/stores/hanok/stream", headers=headers, trust_env=False, timeout=FAR_SECONDS
            ) as stream:
                lines = stream.iter_lines()
                assert next(line for line in lines if line.startswith("event: order"))
                family = run.family()
                assert {"postgres", "python"} <= {one.name().rstrip("0123456789.") for one in family}

                stopped = time.monotonic()
                run.process.send_signal(signal.SIGINT)
                for _ in lines:
                    pass
            assert run.process.wait(FAR_SECONDS) == 0
            seconds = time.monotonic() - stopped
            eventually(lambda: gone(family), 1)

            assert seconds < 5
            assert list(run.home.iterdir()) == []

    def test_without_traffic(self) -> None:
        """
        ``TRAFFIC=0`` runs the service and nobody else; SIGTERM ends it like Ctrl-C.
        """
        with launched(TRAFFIC="0") as run:
            family = run.family()
            assert "Traffic      none" in run.banner
            assert not [one for one in family if "app.traffic" in " ".join(one.cmdline())]

            run.process.send_signal(signal.SIGTERM)

            assert run.process.wait(5) == 0
            eventually(lambda: gone(family), 1)

    def test_its_database_comes_back(self) -> None:
        """
        A PostgreSQL that is killed is started again, and the service is ready again, without a restart.
        """
        with (
            launched(TRAFFIC="0") as run,
            httpx.Client(base_url=run.address, trust_env=False, timeout=FAR_SECONDS) as client,
        ):
            run.server().kill()
            eventually(lambda: client.get("/health/ready").status_code == 503, 2)
            eventually(lambda: client.get("/health/ready").status_code == 200)
            assert run.token()

    def test_killed_outright_it_takes_all_with_it(self) -> None:
        """
        After SIGKILL of the launcher neither PostgreSQL nor the traffic lives on.
        """
        with launched() as run:
            eventually(lambda: any("app.traffic" in " ".join(one.cmdline()) for one in run.family()))
            family = run.family()

            run.process.kill()
            run.process.wait(FAR_SECONDS)

            eventually(lambda: gone(family))

    def test_a_port_that_is_taken_is_named(self) -> None:
        """
        It says which port, and what to do, and ends with status 2 before it starts anything.
        """
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]

            ended = subprocess.run(
                [sys.executable, "-m", "app.run"],
                cwd=HOME,
                env={**_without_settings(), "PORT": str(port)},
                capture_output=True,
                text=True,
                timeout=FAR_SECONDS,
                check=False,
            )

        assert ended.returncode == 2
        assert ended.stderr == f"cannot listen on 127.0.0.1 port {port}: Address already in use. Set HOST or PORT\n"
