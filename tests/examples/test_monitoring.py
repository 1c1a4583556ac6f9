"""The programs of `examples/monitoring`, started as their reader would start them."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.docs.snippets import readers_environment
from tests.faults.processes import FAR_SECONDS, ROOT, eventually

EXAMPLES = ROOT / "examples" / "monitoring"


def run(*arguments: object) -> str:
    """What Python prints, given these, until it ends well."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=readers_environment(),
        capture_output=True,
        text=True,
        timeout=2 * FAR_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


class TestBasicLogging:
    def test_prints_and_reads_back(self) -> None:
        """
        Each record is a line of JSON, with the table's id and without the card's number; then the second table's are read back.
        """
        printed, _, read_back = run(EXAMPLES / "basic_logging.py").partition("\nwhat happened at table-2:\n")

        records = [json.loads(line) for line in printed.splitlines()]
        assert {record["correlation_id"] for record in records} == {"table-1", "table-2"}
        assert [record["context"]["card_number"] for record in records if record["kind"] == "operation_start"] == [
            "[masked:key]"
        ] * 2
        assert not re.search(r"\d{4} \d{4}", printed)
        assert read_back.splitlines() == [
            "  INFO     Operation started",
            "  INFO     order came in",
            "  INFO     reserved",
            "  WARNING  terminal 3 declined 18000 won",
            "  INFO     charged (CARD_DECLINED)",
            "  ERROR    no order (CARD_DECLINED)",
            "  INFO     Operation failed (CARD_DECLINED)",
        ]


class Dashboard:
    """The program in a process of its own, which writes into *output*."""

    def __init__(self, output: Path) -> None:
        self._output = output
        with output.open("w") as file:
            self._popen = subprocess.Popen(
                [sys.executable, EXAMPLES / "metrics_dashboard.py", "--port", "0"],
                cwd=ROOT,
                env=readers_environment(),
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        """All that it has printed."""
        return self._output.read_text()

    def link(self) -> str:
        """Wait for the link that it prints."""
        found = eventually(lambda: re.match(r"dashboard: (\S+)\n", self.output), says=lambda: self.output)
        assert found is not None
        return found[1]

    def end(self, number: int) -> int:
        """Send it a signal, if it still runs, and return its status."""
        self._popen.send_signal(number)
        return self._popen.wait(FAR_SECONDS)


@pytest.fixture
def dashboard(tmp_path: Path) -> Iterator[Dashboard]:
    """The running example; killed if it is still there afterwards."""
    made = Dashboard(tmp_path / "output")
    yield made
    made.end(signal.SIGKILL)


class TestMetricsDashboard:
    def test_shows_what_it_measures_until_ctrl_c(self, dashboard: Dashboard) -> None:
        """
        The printed link opens the page, the page has the orders, and Ctrl-C ends it with their sum.
        """
        link = dashboard.link()
        with httpx.Client(base_url=link.partition("/monitoring/")[0], follow_redirects=True) as browser:
            page = browser.get(link)

            def orders() -> int:
                answer = browser.get("/monitoring/operations/orders.place/metrics")
                return answer.json()["total_requests"] if answer.is_success else 0

            eventually(lambda: orders() > 5)
        status = dashboard.end(signal.SIGINT)

        assert page.headers["content-type"].startswith("text/html")
        assert status == 0
        assert re.fullmatch(r"took [\d,]+ won in \d+ orders", dashboard.output.splitlines()[-1])

    def test_ends_by_itself(self) -> None:
        """
        When its seconds are over.
        """
        printed = run(EXAMPLES / "metrics_dashboard.py", "--port", 0, "--seconds", 0.1)

        assert printed.splitlines()[-1].startswith("took ")


class TestTestingPatterns:
    def test_pass(self) -> None:
        """
        Every pattern is a test that passes.
        """
        path = EXAMPLES / "testing_patterns.py"
        patterns = re.findall(r"^(?:async )?def test_", path.read_text(), re.MULTILINE)

        assert f" {len(patterns)} passed in " in run("-m", "pytest", path)
