"""Where CI guards `main`, a test that misses its peer must not look like one that passed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SUITE = """
import pytest

@pytest.mark.{marker}
def test_needs_a_peer():
    pytest.skip("no chromium")
"""


def outcome(folder: Path, *, marker: str, ci: str) -> str:
    """Run a suite whose only test skips itself, and return pytest's last line."""
    (folder / "test_suite.py").write_text(SUITE.format(marker=marker))
    markers = "markers=browser:\nslow:"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-o", markers, "test_suite.py"],
        cwd=folder,
        env={**os.environ, "CI": ci, "PYTHONPATH": str(ROOT)},
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
        assert outcome(tmp_path, marker=marker, ci=ci).startswith(ends)


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
