"""Where CI guards `main`, a test that misses its peer must not look like one that passed, and none leaves its rubbish there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.processes import environment

ROOT = Path(__file__).resolve().parents[2]
SKIPS = """
import pytest

@pytest.mark.{marker}
def test_needs_a_peer():
    pytest.skip("no chromium")
"""
LEAVES = """
import tempfile

def test_leaves_a_folder():
    {made}
"""


def outcome(folder: Path, suite: str, *, ci: str = "") -> str:
    """Run a *suite* of one test, and return pytest's last line."""
    (folder / "test_suite.py").write_text(suite)
    markers = "markers=browser:\nslow:"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "tests.conftest",
            "-o",
            markers,
            "--basetemp=tmp",
            "test_suite.py",
        ],
        cwd=folder,
        env=environment(CI=ci, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.splitlines()[-1]


class TestMissingPeer:
    @pytest.mark.parametrize(
        ("marker", "ci", "ends"),
        [("browser", "true", "1 failed"), ("browser", "", "1 skipped"), ("slow", "true", "1 skipped")],
    )
    def test_fails_only_under_ci(self, tmp_path: Path, marker: str, ci: str, ends: str) -> None:
        """
        Under CI the skip of a test that drives another program is a failure; elsewhere, and for others, it is a skip.
        """
        assert outcome(tmp_path, SKIPS.format(marker=marker), ci=ci).startswith(ends)


class TestLeftBehind:
    @pytest.mark.parametrize(
        ("made", "ends"),
        [("tempfile.mkdtemp()", "1 passed, 1 error"), ("tempfile.TemporaryDirectory().cleanup()", "1 passed in")],
    )
    def test_is_an_error(self, tmp_path: Path, made: str, ends: str) -> None:
        """
        A temporary folder that is still there when all tests have passed is an error, and is removed.
        """
        assert outcome(tmp_path, LEAVES.format(made=made)).startswith(ends)
        assert [path.name for path in (tmp_path / "tmp" / "tmp0").iterdir()] == []


class TestScript:
    def test_does_what_a_stranger_would(self) -> None:
        """
        CI runs the tests, the checks, the documentation and the service, and stops at the first that fails.
        """
        script = (ROOT / ".ci" / "run").read_text()

        steps = [line for line in script.splitlines() if line.startswith(("make ", ".venv/"))]
        assert steps == ["make test", "make lint", "make docs", ".venv/bin/python -m scripts.smoke"]
        assert "set -euo pipefail" in script
        assert os.access(ROOT / ".ci" / "run", os.X_OK)
