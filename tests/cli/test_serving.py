"""``serve``: a process beside the service's own that leads, evaluates the rules and shows the dashboard."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.cli.running import command, rfs
from tests.cli.test_looking import stopped
from tests.faults.processes import FAR_SECONDS, ROOT, Process, environment, eventually

KEY = {"Authorization": "Bearer a-token-of-the-tests"}
RULES = """
from rfs.monitoring import AlertCondition, create_alert_rule
from rfs.monitoring.monitor import Monitor

monitor = Monitor(service_name="orders")
started = Monitor(service_name="orders", directory="orders")
number = 7

def start():
    started.start()
    return started

def declare():
    create_alert_rule("declined", "result_failure_total", AlertCondition.GREATER_THAN, 2)

def broken():
    raise KeyError("rules.toml")
"""


class Serving:
    """The command, which runs; ``said`` is what it has printed."""

    def __init__(self, running: subprocess.Popen[str]) -> None:
        assert running.stdout is not None
        self.running = running
        line = running.stdout.readline()
        assert line, running.communicate()[1]
        self.said: dict[str, Any] = json.loads(line)
        self.address = self.said["metrics"].removesuffix("/metrics/prometheus")

    def get(self, path: str, headers: Mapping[str, str] = KEY) -> httpx.Response:
        return httpx.get(self.address + path, headers=headers, timeout=FAR_SECONDS)

    @property
    def leader(self) -> int:
        """The pid of who leads, as far as it knows."""
        told = self.get("/health").json()["monitoring"]["leader"]
        return told["pid"] if told else 0

    def leads(self) -> bool:
        return self.leader == self.running.pid

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """Send it that signal; return its status, and what it has said on standard error."""
        self.running.send_signal(number)
        errors = self.running.communicate(timeout=FAR_SECONDS)[1]
        return self.running.returncode, errors


@contextmanager
def serving(*arguments: object, folder: Path = ROOT, **more: str) -> Iterator[Serving]:
    env = environment(RFS_DASHBOARD_TOKEN="a-token-of-the-tests", RFS_SCRAPE_TOKEN="scrapes", **more)
    running = subprocess.Popen(
        command("serve", "--port", 0, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=env | {"PYTHONPATH": str(ROOT / "src")},
    )
    try:
        yield Serving(running)
    finally:
        with suppress(ProcessLookupError):
            running.kill()
        running.communicate()


@pytest.fixture
def orders(tmp_path: Path) -> Iterator[Process]:
    """A service that runs, in the directory ``orders``."""
    with Process("orders", env=environment(RFS_DIR=str(tmp_path / "orders"), RFS_SERVICE_NAME="orders")) as process:
        assert process.answer() == "ready"
        yield process


class TestLeading:
    def test_takes_the_lead_and_gives_it_back(self, orders: Process, tmp_path: Path) -> None:
        """
        It leads as soon as it runs, has all that the service records, and after SIGTERM a worker leads again.
        """
        assert orders.ask(do="place", first=0, count=10) == 10
        with serving("-d", tmp_path / "orders") as server:
            eventually(server.leads)
            orders.ask(do="place", first=10, count=10)
            exposition = server.get("/metrics/prometheus").text
            status, errors = server.end(signal.SIGTERM)

        assert (server.said["service"], server.said["directory"]) == ("orders", str(tmp_path / "orders"))
        assert 'result_success_total{operation="재고.확인"} 20' in exposition.splitlines()
        assert (status, errors) == (0, "")
        said = eventually(lambda: rfs("doctor", "-d", tmp_path / "orders").text.partition(f"pid {orders.pid} leads")[1])
        assert said
        assert (
            len({record["correlation_id"] for record in rfs("logs", "-d", tmp_path / "orders", "-n", 1_000).objects})
            >= 20
        )

    def test_a_killed_one_is_followed(self, orders: Process, tmp_path: Path) -> None:
        """
        After ``kill -9`` a worker leads, and nothing that was recorded is lost or there twice.
        """
        with serving("-d", tmp_path / "orders") as server:
            eventually(server.leads)
            orders.ask(do="place", first=0, count=10)
            server.running.kill()

        books = eventually(
            lambda: (
                rfs("doctor", "-d", tmp_path / "orders").text.partition(f"pid {orders.pid} leads")[1]
                and rfs("doctor", "-d", tmp_path / "orders").objects[0]["checks"]
            )
        )
        assert isinstance(books, list)
        (told,) = (each["says"] for each in books if each["check"] == "books")
        assert told.startswith("balanced")

    def test_before_the_service_is_there(self, tmp_path: Path) -> None:
        """
        Where its service is named, it may be started first; Ctrl-C ends it without a word.
        """
        with serving("-d", tmp_path / "orders", "-s", "orders") as server:
            eventually(server.leads)
            with Process(
                "orders", env=environment(RFS_DIR=str(tmp_path / "orders"), RFS_SERVICE_NAME="orders")
            ) as late:
                assert late.answer() == "ready"
                late.ask(do="say", message="hello")
                assert server.leads()
                assert "hello" in rfs("logs", "-d", tmp_path / "orders").text
            assert server.end(signal.SIGINT) == (0, "")


class TestRules:
    @pytest.mark.parametrize("what", ["rules_of_orders:declare", "rules_that_declare"])
    def test_are_evaluated_here(self, what: str, orders: Process, tmp_path: Path) -> None:
        """
        What a module of the service declares, by itself or by a function, is evaluated over what the workers measure.
        """
        (tmp_path / "rules_of_orders.py").write_text(RULES)
        (tmp_path / "rules_that_declare.py").write_text(RULES + "\ndeclare()\n")
        with serving("-d", tmp_path / "orders", "--import", what, folder=tmp_path) as server:
            assert server.said["alert_rules"] == 1
            eventually(server.leads)
            orders.ask(do="place", first=0, count=20)
            eventually(lambda: server.get("/api/overview").json()["health"]["active_alerts"] == 1)
            assert server.end(signal.SIGTERM)[1] == ""
        fired = [
            record
            for record in rfs("logs", "-d", tmp_path / "orders", "-n", 1_000).objects
            if record["logger"] == "rfs.alerts"
        ]
        assert [record["message"].partition(":")[0] for record in fired[:1]]

    def test_a_monitor_of_the_service_is_the_one_that_leads(self, tmp_path: Path) -> None:
        """
        The service's own Monitor brings its retention, stores and rules with it.
        """
        (tmp_path / "rules_of_orders.py").write_text(RULES)
        stopped(tmp_path / "orders")
        with serving("-d", tmp_path / "orders", "--import", "rules_of_orders:monitor", folder=tmp_path) as server:
            eventually(server.leads)

            assert (server.said["service"], server.said["directory"]) == ("orders", str(tmp_path / "orders"))

    def test_a_monitor_that_runs_already_ends_well(self, tmp_path: Path) -> None:
        """
        One that its own module has started is stopped at the end, too: nobody finds a process that was killed.
        """
        (tmp_path / "rules_of_orders.py").write_text(RULES + "start()\n")
        with serving(
            "-d", tmp_path / "orders", "-s", "orders", "--import", "rules_of_orders:started", folder=tmp_path
        ) as server:
            eventually(server.leads)
            assert server.end(signal.SIGTERM)[0] == 0

        stopped(tmp_path / "orders")
        assert "was killed" not in rfs("logs", "-d", tmp_path / "orders", "-n", 1_000).text

    @pytest.mark.parametrize(
        ("more", "fault"),
        [
            (["-d", "other", "--import", "rules_of_orders:started"], "the imported Monitor records into orders, not into other"),
            (["--import", "rules_of_orders:monitor", "--import", "rules_of_orders:started"], "another Monitor was imported before"),
            (["--import", "rules_of_orders:declare", "--import", "rules_of_orders:started"], "1 alert rules are declared on the default"),
            (["--everywhere", "--import", "rules_of_orders:started"], "this Monitor has a directory of its own, orders"),
        ],
    )  # fmt: skip
    def test_that_would_not_be_evaluated_are_refused(self, more: list[str], fault: str, tmp_path: Path) -> None:
        """
        Where two Monitors are meant, or two directories, it is not guessed which.
        """
        (tmp_path / "rules_of_orders.py").write_text(RULES)
        done = refused(*["-d", "orders", "-s", "orders", *more], folder=tmp_path)

        assert fault in done


def refused(*arguments: object, folder: Path = ROOT) -> str:
    """What the command says on standard error, having said nothing else and ended with status 2."""
    env = environment(PYTHONPATH=str(ROOT / "src"))
    done = subprocess.run(
        command("serve", "--port", 0, *arguments),
        check=False, capture_output=True, text=True, cwd=folder, env=env, timeout=FAR_SECONDS,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, ""), done
    return done.stderr


class TestDoors:
    @pytest.mark.parametrize(("host", "reached"), [("127.0.0.2", "127.0.0.2"), ("0.0.0.0", "127.0.0.1")])
    def test_the_printed_link_opens(self, host: str, reached: str, tmp_path: Path) -> None:
        """
        Whatever address is listened on, the link that is printed works from this machine.
        """
        with serving("-d", tmp_path / "orders", "-s", "orders", "--host", host) as server:
            page = httpx.get(server.said["dashboard"], follow_redirects=True)

        assert urlsplit(server.said["dashboard"]).hostname == reached
        assert page.status_code == 200

    def test_who_may_see_what(self, tmp_path: Path) -> None:
        """
        The dashboard opens by its one-time link, once, and by its token; the scrape token opens the exposition alone; all else is denied.
        """
        stopped(tmp_path / "orders")
        with serving("-d", tmp_path / "orders", "--allowed-host", "ops.example") as server:
            link = urlsplit(server.said["dashboard"])
            with httpx.Client(follow_redirects=True) as browser:
                first, page = (browser.get(server.said["dashboard"]) for _ in range(2))
            stranger = server.get(f"/?{link.query}", {})
            scraped = server.get("/metrics/prometheus", {"Authorization": "Bearer scrapes"})
            pried = [server.get(path, {"Authorization": "Bearer scrapes"}) for path in ("/", "/api/overview")]
            closed = [server.get(path, {}) for path in ("/", "/api/overview", "/metrics/prometheus")]
            named, foreign = (server.get("/", {**KEY, "Host": host}) for host in ("ops.example", "evil.example"))
            alive = server.get("/health/live", {})

        assert [first.status_code, page.status_code] == [200, 200]
        assert "<title>" in first.text
        assert stranger.status_code == 401
        assert scraped.status_code == 200
        assert "http_requests_total" not in scraped.text  # who asks here is no request of the service
        assert {each.status_code for each in (*pried, *closed)} == {401}
        assert (named.status_code, foreign.status_code) == (200, 400)
        assert alive.json() == {"status": "alive"}


class TestRefusals:
    def test_of_what_cannot_be_served(self, tmp_path: Path) -> None:
        """
        A directory that is not there or is memory, and an address that is taken: status 2.
        """
        stopped(tmp_path / "orders")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            answers = [
                rfs("serve", "-d", tmp_path / "nowhere"),
                rfs("serve", "-d", ":memory:"),
                rfs("serve", "-d", tmp_path / "orders", "--port", port),
            ]

        assert [answer.status for answer in answers] == [2, 2, 2]
        assert "there is no directory" in answers[0].errors
        assert "only the process itself can read" in answers[1].errors
        assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in answers[2].errors

    @pytest.mark.parametrize(
        ("what", "fault"),
        [
            ("no_such_rules", "ModuleNotFoundError: No module named 'no_such_rules'"),
            ("rules_of_orders:nothing", "AttributeError: module 'rules_of_orders' has no attribute 'nothing'"),
            ("rules_of_orders:number", "TypeError: 'number' is neither a Monitor nor a function"),
            ("rules_of_orders:broken", "KeyError: 'rules.toml'"),
        ],
    )
    def test_of_what_cannot_be_imported(self, what: str, fault: str, tmp_path: Path) -> None:
        """
        What is named and cannot be used ends it, before it leads, with what is wrong.
        """
        (tmp_path / "rules_of_orders.py").write_text(RULES)
        done = refused("-d", tmp_path / "orders", "-s", "orders", "--import", what, folder=tmp_path)

        assert done == f"rfs: --import {what}: {fault}\n"
        assert not list((tmp_path / "orders").glob("live/leader-*"))

    def test_of_all_machines(self, tmp_path: Path) -> None:
        """
        What all machines have sent needs the service's name, and a store where they send it.
        """
        done = refused("--everywhere", "-s", "orders")

        assert done.startswith("rfs: --everywhere: this Monitor has no `forward_to`")
        assert done.endswith("such as the ClickHouse that RFS_STORE names\n")
        unnamed = rfs("serve", "--everywhere", "-d", tmp_path)
        assert (unnamed.status, unnamed.errors) == (
            2,
            "rfs: --everywhere needs the service's name: --service or RFS_SERVICE_NAME\n",
        )

    def test_of_a_directory_without_a_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        What would be sent on under a name that nobody has given is not served.
        """
        monkeypatch.setenv("RFS_STORE", "clickhouse://127.0.0.1:1/rfs")

        answer = rfs("serve", "-d", tmp_path)

        assert answer.status == 2
        assert "does not say whose it is, and RFS_STORE is sent what it holds; name it with --service" in answer.errors

    def test_of_another_services_directory(self, orders: Process, tmp_path: Path) -> None:
        """
        Where a service of another name lives, it is told which, and that service goes on.
        """
        done = refused("-d", tmp_path / "orders", "-s", "kitchen")

        assert "orders" in done
        assert str(orders.pid) in done
        assert orders.ask(do="place", first=0, count=1) == 1
