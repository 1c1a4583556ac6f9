"""``rfs check``: tests of alert rules and telemetry contracts, from the file to what a person and a code host see."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

import rfs.monitoring as recording
from rfs.core.result import Failure, Result, Success
from rfs.monitoring.monitor import Monitor, use_monitor
from tests.cli.running import Answer, rfs
from tests.docs.snippets import snippets
from tests.faults.processes import FAR_SECONDS, ROOT, environment

RULES = """
from rfs.monitoring import AlertCondition, Rule, default_monitor

BURST = Rule("burst", "result_failure_total", AlertCondition.GREATER_THAN, 5, aggregation="increase", window_seconds=60)
QUEUE = Rule("queue", "orders_waiting", AlertCondition.GREATER_THAN, 20, for_seconds=20)
SLOW = Rule("slow", "wait_seconds", AlertCondition.GREATER_THAN, 2, aggregation="p95", window_seconds=60)
ALL = [BURST, QUEUE, SLOW]
WRONG = ["burst"]


def declare() -> None:
    for rule in ALL:
        default_monitor().alerts.set_rule(rule, callback=lambda alert: print("told", alert))


def broken() -> None:
    Rule("x", "y", "sideways", 1)
"""

CHECKS = """
rules = "shop_rules:ALL"

[[rule_test]]
name = "a rush"
interval = "10s"

[[rule_test.series]]
metric = "result_failure_total"
type = "counter"
labels = { operation = "orders.place" }
values = "0x3 4 8x20"

[[rule_test.series]]
metric = "orders_waiting"
type = "gauge"
values = "30x6 5x20"

[[rule_test.series]]
metric = "wait_seconds"
type = "histogram"
values = "_x6 1x5 3x20"

[[rule_test.expect]]
at = 10
firing = []

[[rule_test.expect]]
at = "1m"
firing = ["burst", "queue"]
told = ["fire queue", "fire burst"]

[[rule_test.expect]]
at = "2m"
firing = ["slow"]
told = ["resolve queue", "resolve burst", "fire slow"]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a project, and the one that commands are called in."""
    (tmp_path / "shop_rules.py").write_text(RULES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("shop_rules", None)


def check(content: str, *arguments: object) -> Answer:
    """Run the command on a file of that content."""
    Path("checks.toml").write_text(content, encoding="utf-8")
    return rfs("check", "checks.toml", *arguments)


@pytest.mark.usefixtures("folder")
class TestRules:
    def test_that_fire_when_they_should_pass(self) -> None:
        """
        Each rule fires and resolves at its time, and the command says so with status 0.
        """
        answer = check(CHECKS)

        assert answer.status == 0, answer.text
        assert [(each["name"], each["passed"], each["problems"]) for each in answer.objects] == [("a rush", True, [])]

    def test_that_were_changed_fail_at_the_line_that_says_what_should_be(self) -> None:
        """
        A threshold that was raised lets the test fail, with the rule's value beside it.
        """
        Path("shop_rules.py").write_text(RULES.replace("GREATER_THAN, 5,", "GREATER_THAN, 50,"))

        answer = check(CHECKS)

        problems = answer.objects[0]["problems"]
        assert answer.status == 1
        assert [each["line"] for each in problems] == [30, 31, 36]
        assert problems[0]["text"] == (
            "at 1m 'burst' should fire: it is inactive, its value is 8 "
            "(Rule('burst': increase of result_failure_total in 60 s > 50))"
        )
        assert problems[1]["text"] == "until 1m callbacks were told 'fire queue', not 'fire queue', 'fire burst'"


@recording.log_result_operation("stock.check")
def look(number: int) -> Result[int, str]:
    return Success(number)


@recording.log_result_operation("orders.place")
def place(number: int) -> Result[int, str]:
    look(number)
    recording.info("order placed", number=number)
    recording.default_monitor().counter("orders_placed_total").inc(1, operation="orders.place")
    return Failure("SOLD_OUT") if number % 3 == 2 else Success(number)


CONTRACT = """
[[contract]]
operation = "orders.place"
codes = { may = ["UNKNOWN"] }
spans = { must = ["stock.check"], may = [] }
logs = { must = ["order *"], may = [] }
metrics = { must = ["orders_placed_total", "result_success_total"], may = [] }
"""


@pytest.fixture
def store(folder: Path) -> Path:
    """The directory of a run that took six orders."""
    monitor = Monitor(directory=folder / "state")
    with use_monitor(monitor):
        for number in range(6):
            with recording.with_correlation_id(f"order-{number}"):
                place(number)
    monitor.stop()
    return folder / "state"


class TestContracts:
    def test_that_are_kept_pass(self, store: Path) -> None:
        """
        What was recorded is what the contract says.
        """
        answer = check(CONTRACT, "--directory", store)

        assert answer.status == 0, answer.text


PAGE = ROOT / "docs" / "reference" / "testing-checks.md"


class TestWorkflow:
    def test_of_the_page_runs(self, tmp_path: Path) -> None:
        """
        In a folder with the page's files, the commands of the page's workflow pass, one after the other.
        """
        service, checks, workflow = [each.code for each in snippets(PAGE)][:3]
        (tmp_path / "shop.py").write_text(service)
        (tmp_path / "checks.toml").write_text(checks)
        steps = re.findall(r"^ +- run: (.*)$", workflow, re.MULTILINE)
        variables = dict(re.findall(r"^ +(RFS_\w+): (.*)$", workflow, re.MULTILINE))
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        env = environment(PATH=path, PYTHONPATH=str(ROOT / "src"), **variables)

        assert [step.split()[0] for step in steps] == ["pip", "python", "python"]
        for step in steps[1:]:  # the first would need a network
            done = subprocess.run(
                step,
                shell=True,
                cwd=tmp_path,
                env=env,
                capture_output=True,
                text=True,
                timeout=2 * FAR_SECONDS,
                check=False,
            )
            assert done.returncode == 0, (step, done.stdout, done.stderr)
        assert ET.parse(tmp_path / "checks.xml").getroot().attrib["tests"] == "2"
