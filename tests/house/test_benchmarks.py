from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.environments import LOCKS, PEERS, pinned
from benchmarks.run import GOALS, Goal, loop_line, ratio

ROOT = Path(__file__).resolve().parents[2]


class TestReading:
    def test_ratio_is_of_the_rounds(self) -> None:
        """
        A round in which the machine was busy with something else moves both sides, and hence not the ratio.
        """
        assert ratio([3.0, 30.0, 3.3], [1.0, 10.0, 1.1]) == pytest.approx(3.0)

    def test_goal_is_against_the_best_peer(self) -> None:
        """
        Of two peers the quicker one is compared with, and a goal that is not reached says by how much.
        """
        goal = Goal("counter", "counter", times_faster=3)

        line = loop_line(goal, {"rfs": [1e-7], "quick": [2e-7], "slow": [9e-7]})

        assert line.measured == "0.100 µs, 2.00×"
        assert line.verdict == "missed by 33 %"
        assert line.missed

    def test_a_goal_in_microseconds(self) -> None:
        """
        A limit in µs is met by reaching it, with or without a peer.
        """
        assert loop_line(Goal("record", "record", at_most=4), {"rfs": [4e-6]}).verdict == "met"


class TestLocks:
    @pytest.mark.parametrize("peer", PEERS)
    def test_every_package_has_hashes(self, peer: str) -> None:
        """
        A peer's environment is the same on every machine, and its lock names no host.
        """
        text = (LOCKS / f"{peer}.lock").read_text()

        assert pinned(peer)
        assert sum("==" in line.split(" ")[0] for line in text.splitlines()) == len(
            [line for line in text.splitlines() if not line.startswith(" ")]
        )
        assert "--hash=sha256:" in text
        assert "://" not in text


class TestPreparing:
    @pytest.mark.parametrize("target", ["bench", "bench-full"])
    def test_has_what_virtual_time_needs(self, target: str) -> None:
        """
        What is measured of the testing toolkit needs its package, and `make bench` installs it in a fresh clone.
        """
        recipe = (ROOT / "Makefile").read_text().partition(f"\n{target}:")[2]
        group = re.search(r"@scripts/prepare (\w+)", recipe)

        assert group is not None
        assert "\ntime-machine==" in (ROOT / "requirements" / f"{group[1]}.lock").read_text()


@pytest.mark.slow
class TestRunning:
    def test_all_of_it_works(self) -> None:
        """
        A quick run measures every goal of RFS and prints one table. Takes a minute: it starts each server and each worker.
        """
        results = ROOT / "benchmarks" / "RESULTS.md"
        before = results.read_bytes() if results.exists() else None

        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.run", "--quick"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

        assert done.returncode == 0, done.stdout + done.stderr
        for goal in GOALS:
            assert f"| {goal.what} |" in done.stdout
        assert "| HTTP, everything recorded" in done.stdout
        assert "| 20,000 records into the store" in done.stdout
        for what in (
            "all of one correlation id",
            "top errors of an hour",
            "p95 of 20 operations by minute",
            "any dashboard query",
            "what leading costs",
            "the same, where `rfs serve` leads",
            "the longest recording call",
            "0.02 hours of the reference service",
            "24 h of 10 alert rules",
            "30 d of 10 alert rules",
        ):
            assert f"| {what}" in done.stdout
        assert "| `import rfs.monitoring`" in done.stdout
        assert (results.read_bytes() if results.exists() else None) == before
