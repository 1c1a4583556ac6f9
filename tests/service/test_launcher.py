from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from tempfile import mkdtemp
from threading import Thread

import httpx
import psutil
import pytest

import app
from app.run import _own_directory
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
    state: Path

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
        for one in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess):
                if one.name() == "postgres":
                    return one
        raise AssertionError("no PostgreSQL runs")

    def has_traffic(self) -> bool:
        """Whether somebody sends requests."""
        for one in self.family():
            with suppress(psutil.NoSuchProcess):
                if "app.traffic" in " ".join(one.cmdline()):
                    return True
        return False

    def workers(self) -> set[int]:
        """The process ids of those that serve: forks of the launcher, under its own command line."""
        launcher = psutil.Process(self.process.pid)
        found: set[int] = set()
        for one in launcher.children():
            with suppress(psutil.NoSuchProcess):
                if one.status() != psutil.STATUS_ZOMBIE and one.cmdline() == launcher.cmdline():
                    found.add(one.pid)
        return found

    def said(self) -> str:
        """What the launcher has said since its banner."""
        said = ""
        with suppress(Empty):
            while True:
                said += self.lines.get_nowait()
        return said

    def visitor(self) -> dict[str, str]:
        """Open the dashboard's link; the headers that a browser sends from then on."""
        opened = httpx.get(self.dashboard, trust_env=False)
        assert opened.status_code == 200
        return {"Cookie": opened.headers["set-cookie"].partition(";")[0]}

    @contextmanager
    def connected(self, headers: dict[str, str]) -> Generator[dict[int, httpx.Client]]:
        """For each worker a client whose one connection leads to it."""
        with ExitStack() as stack:
            found: dict[int, httpx.Client] = {}
            deadline = time.monotonic() + FAR_SECONDS
            while set(found) != self.workers():
                assert time.monotonic() < deadline, f"only {set(found)} of {self.workers()} answer"
                client = stack.enter_context(
                    httpx.Client(base_url=self.address, headers=headers, trust_env=False, timeout=FAR_SECONDS)
                )
                found.setdefault(client.get("/health").json()["monitoring"]["pid"], client)
            yield found

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
    for one in family:
        with suppress(psutil.NoSuchProcess):  # it may go between two looks
            if one.is_running() and one.status() != psutil.STATUS_ZOMBIE:
                return False
    return True


@contextmanager
def launched(**environment: str) -> Generator[Launched]:
    """Start the launcher as ``make run`` does, and read what it prints until it is ready."""
    home = Path(mkdtemp(prefix="run", dir="/tmp"))
    home.chmod(0o755)
    state = Path(mkdtemp(prefix="state", dir="/tmp"))
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "app.run"],
        cwd=HOME,
        env={
            **_without_settings(),
            "PORT": "0",
            "TMPDIR": str(home),
            "LOG_STDOUT": "false",
            "RFS_DIR": str(state),
            **environment,
        },
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
        yield Launched(process, banner, lines, home, time.monotonic() - started, state)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(FAR_SECONDS)
        reader.join(FAR_SECONDS)
        process.stdout.close()
        for left in sorted(home.rglob("*"), reverse=True):
            left.rmdir() if left.is_dir() and not left.is_symlink() else left.unlink()
        home.rmdir()
        shutil.rmtree(state)


def _read(source: Iterable[str], lines: Queue[str]) -> None:
    for line in source:
        lines.put(line)


def _without_settings() -> dict[str, str]:
    keys = {
        "DATABASE_URL",
        "SECRET_KEY",
        "DEMO_PASSWORD",
        "RATE",
        "SEED",
        "TRAFFIC",
        "HOST",
        "PORT",
        "APP_ENV",
        "WORKERS",
    }
    keys |= {"RFS_DIR", "RFS_LIVE_DIR"}
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


class TestDirectory:
    def test_two_runs_do_not_share_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A second run beside the first keeps RFS's files in a directory of its own; a run after it takes up the first one's.
        """
        monkeypatch.delenv("RFS_DIR", raising=False)

        with _own_directory(tmp_path / "state"):
            first = os.environ["RFS_DIR"]
            with _own_directory(tmp_path / "state"):
                second = os.environ["RFS_DIR"]
        with _own_directory(tmp_path / "state"):
            third = os.environ["RFS_DIR"]

        assert (first, second, third) == (*(str(tmp_path / "state" / name) for name in ("rfs", "rfs-2")), first)
        assert Path(first).stat().st_mode & 0o777 == 0o700

    def test_that_cannot_be_made(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """
        Where no directory can be made the run says so and goes on with memory.
        """
        monkeypatch.delenv("RFS_DIR", raising=False)
        (tmp_path / "state").write_text("a file")

        with _own_directory(tmp_path / "state"):
            assert os.environ["RFS_DIR"] == ":memory:"

        assert "RFS keeps its files in memory" in capsys.readouterr().err


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
            eventually(run.has_traffic)
            family = run.family()

            run.process.kill()
            run.process.wait(FAR_SECONDS)

            eventually(lambda: gone(family))

    def test_two_workers_serve(self) -> None:
        """
        Both answer, and whoever opened the dashboard's link at one of them may see it at each.
        """
        with launched(TRAFFIC="0") as run:
            assert "Workers      2" in run.banner

            with run.connected(run.visitor()) as clients:
                assert len(clients) == 2
                for client in clients.values():
                    assert client.get("/monitoring/api/overview").status_code == 200

            again = httpx.get(run.dashboard, trust_env=False)
            assert again.status_code == 401

    def test_a_worker_that_is_killed_is_replaced(self) -> None:
        """
        A worker that is killed in the middle of the evening is replaced within a second: both serve, the traffic goes on, and
        the session that was opened before is good at both.
        """
        with launched(RATE="20") as run:
            headers = run.visitor()
            victim = min(run.workers())
            rest = run.workers() - {victim}

            os.kill(victim, signal.SIGKILL)
            killed = time.monotonic()
            eventually(lambda: victim not in run.workers() and len(run.workers()) == 2)
            seconds = time.monotonic() - killed

            assert seconds < 1
            assert rest < run.workers()
            with run.connected(headers) as clients:
                assert time.monotonic() - killed < 3
                for client in clients.values():
                    assert client.get("/monitoring/api/overview").status_code == 200
                before = clients[min(rest)].get("/monitoring/api/overview").json()["requests"]["total"]
                eventually(
                    lambda: clients[min(rest)].get("/monitoring/api/overview").json()["requests"]["total"] > before
                )
            assert f"Worker {victim} ended with status -9; starting another" in run.said()

    def test_a_worker_that_cannot_start_ends_the_run(self, tmp_path: Path) -> None:
        """
        Where no worker can ever serve the launcher says so, and ends with status 1 and nobody left, instead of trying for ever.
        """
        (tmp_path / "sitecustomize.py").write_text(
            "import os; os.register_at_fork(after_in_child=lambda: os._exit(7))\n"
        )
        ended = subprocess.run(
            [sys.executable, "-m", "app.run"],
            cwd=HOME,
            env={
                **_without_settings(),
                "PORT": "0",
                "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing",
                "SECRET_KEY": "k" * 48,
                "RFS_DIR": ":memory:",
                "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
            },
            capture_output=True,
            text=True,
            timeout=FAR_SECONDS,
            check=False,
        )

        assert ended.returncode == 1
        assert re.search(r"^worker \d+ ended with status 7 before it served$", ended.stderr, re.MULTILINE)

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
