"""The testing guide works as its reader follows it, and is the same in both languages."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.docs.snippets import ROOT, readers_environment, snippets
from tests.faults.processes import FAR_SECONDS

BLOCKS = list(snippets(ROOT / "docs" / "testing.md"))
FILES = {block.file: block.code for block in BLOCKS if block.file}
WORKFLOW = FILES[".github/workflows/tests.yml"]
STEPS = re.findall(r"^ +- run: (.*)$", WORKFLOW, re.MULTILINE)


def write(folder: Path) -> None:
    """Put the guide's files into *folder*."""
    for name, code in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(code)


def run(commands: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Type *commands* in *folder*."""
    return subprocess.run(
        ["bash", "-ec", re.sub(r"^rfs ", "python -m rfs ", commands, flags=re.MULTILINE)],
        cwd=folder,
        env={**readers_environment(), **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=2 * FAR_SECONDS,
        check=False,
    )


@pytest.fixture(scope="module")
def after_ci(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the guide's project in which the workflow's steps have passed, but for what it installs."""
    folder = tmp_path_factory.mktemp("guide")
    write(folder)
    variables = dict(re.findall(r"^ +(RFS_\w+): (.*)$", WORKFLOW, re.MULTILINE))
    for step in STEPS[1:]:
        done = run(step, folder, **variables)
        assert done.returncode == 0, (step, done.stdout)
    return folder


class TestGuide:
    def test_workflow_runs_tests_and_checks(self, after_ci: Path) -> None:
        """
        The workflow installs extras that there are, and each of its steps passes: all tests, the evening, and both checks.
        """
        extras = re.search(r"rfs\[(.*?)\]", STEPS[0])
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

        assert [step.split()[0] for step in STEPS] == ["pip", "python", "python", "rfs"]
        assert extras is not None
        assert set(extras[1].split(",")) <= set(project["optional-dependencies"])
        assert ET.parse(after_ci / "checks.xml").getroot().attrib["tests"] == "2"

    def test_failure_becomes_a_test(self, after_ci: Path) -> None:
        """
        The commands for the evening's failure show it, write its test, and run that.
        """
        (commands,) = [block.code for block in BLOCKS if "rfs replay" in block.code]

        done = run(commands, after_ci)

        assert done.returncode == 0, done.stdout
        assert "CARD_DECLINED" in done.stdout
        assert "1 passed" in done.stdout

    def test_failing_test_says_what_is_shown(self, tmp_path: Path) -> None:
        """
        What the first test says about a dish that is no longer there is what the guide shows.
        """
        (shown,) = [block.code for block in BLOCKS if block.language == "text"]
        write(tmp_path)
        (tmp_path / "orders.py").write_text(FILES["orders.py"].replace('"bibimbap": 9000, ', ""))

        done = run("python -m pytest test_price.py", tmp_path)

        assert "1 failed, 1 passed" in done.stdout
        assert shown in done.stdout


class TestBothLanguages:
    def test_same_blocks(self) -> None:
        """
        The Korean guide has the same files and commands, in the same order.
        """
        korean = snippets(ROOT / "docs" / "testing.ko.md")

        assert [(block.language, block.code) for block in korean] == [(block.language, block.code) for block in BLOCKS]
