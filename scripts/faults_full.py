"""
Runs the fault tests at their whole size and writes benchmarks/FAULTS.md: ``python scripts/faults_full.py [SUITE …]``.

With suites named, only their sections are written anew. A test that fails is written down as failed; the exit status is then 1.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.run import machine, revision  # noqa: E402 - the repository's root is not on a script's path

RESULTS = ROOT / "benchmarks" / "FAULTS.md"
SUITES = {
    "tests/faults/test_memory.py": "1 M label sets; 1 M records from one site; a sink that hangs for a minute",
    "tests/faults/test_truth.py": "4 workers, 200,000 requests, workers killed and recycled at random",
    "tests/faults/test_kill.py": "300 rounds of kill -9 of one of 8 writers, 30 of all 8; the leader killed and stopped",
    "tests/faults/test_fork.py": "10,000 forks while three threads and a signal handler at 200 Hz record",
    "tests/monitoring/test_forking.py": "2,000 forks while two threads use SQLite",
    "tests/faults/test_a_life_cycle.py": "ends, forks, signals and interrupts of a process",
    "tests/faults/test_b_files.py": "disks that are full, slow, hung, read-only or gone",
    "tests/faults/test_b_store.py": "stores of days: a leader killed at every step, each write and sync failing, 20,000 records a second",
    "tests/faults/test_b_damage.py": "10,000 damaged stores; logs and chunks cut at every frame",
    "tests/faults/test_catalogue.py": "the writer of windows killed at every statement and within each commit",
    "tests/faults/test_backup.py": "backups under load",
    "tests/monitoring/test_segments_fuzz.py": "10,000 damaged segments",
    "tests/monitoring/test_chunks_fuzz.py": "10,000 damaged chunks",
    "tests/monitoring/test_local_machine.py": "20,000 lives of a store, drawn by lot, beside a model in plain Python",
    "tests/monitoring/test_chunks.py": "chunks cut and their writer killed, 200 times as a real process; 1,000 series of lives of a leader",
    "tests/monitoring/test_idle_series.py": "a hundred new label sets a minute for three days",
    "tests/monitoring/test_accuracy.py": "1,000,000 values of each shape; 16 threads × 100,000 additions, twice",
    "tests/testing/test_performance.py::TestReruns": "an assertion of performance in 100 processes: unchanged code, and a fifth slower",
}
SUITE_SECONDS = 7_200


def run(suite: str) -> list[tuple[str, str, float, str]]:
    """Return name, verdict, seconds and first line of what went wrong, or what was measured, of each test of *suite*."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            suite,
            f"--junit-xml={report}",
            "-o",
            "faulthandler_timeout=3600",
            "-o",
            "junit_family=xunit1",  # which keeps what a test has measured
        ]
        env = {**os.environ, "RFS_FULL": "1"}
        subprocess.run(command, cwd=ROOT, env=env, check=False, timeout=SUITE_SECONDS)
        if not report.exists():
            return [(suite, "did not end", 0.0, "")]
        cases = ET.parse(report).getroot().iter("testcase")  # noqa: S314 - pytest's own report
        rows = []
        for case in cases:
            bad = next((child for child in case if child.tag in {"failure", "error", "skipped"}), None)
            verdict = "passed" if bad is None else {"skipped": "skipped"}.get(bad.tag, "FAILED")
            measured = ", ".join(f"{each.get('name')} {each.get('value')}" for each in case.iter("property"))
            fault = measured if bad is None else (bad.get("message") or "").splitlines()[0][:200].replace("|", "\\|")
            name = f"{case.get('classname', '').rpartition('.')[2]}.{case.get('name', '')}"
            rows.append((name, verdict, float(case.get("time", "0")), fault))
        return rows


def shown(rows: list[tuple[str, str, float, str]]) -> list[str]:
    """Return *rows* as those of a table; of a test's many cases those that passed and have nothing to tell are one."""
    alike: dict[tuple[str, str, str], list[float]] = {}
    for name, verdict, seconds, what in rows:
        test = name if what or verdict != "passed" else name.partition("[")[0]
        alike.setdefault((test, verdict, what), []).append(seconds)
    return [
        f"| `{test}`{f' ({len(each)} cases)' if len(each) > 1 else ''} | {verdict} | {sum(each):.0f} | {what} |"
        for (test, verdict, what), each in alike.items()
    ]


def run_suite(suite: str) -> tuple[bool, str]:
    """Return whether all of *suite* passed, and its section."""
    load, began = os.getloadavg()[0], f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    rows = run(suite)
    lines = ["| test | | seconds | |", "|---|---|---|---|", *shown(rows)]
    told = f"`RFS_FULL=1 pytest {suite}`, {began}, load average {load:.2f} at the start, RFS at {revision()}."
    return bool(rows) and all(verdict == "passed" for _, verdict, _, _ in rows), told + "\n\n" + "\n".join(lines)


def written() -> dict[str, str]:
    """Return the sections of the last run, by title."""
    parts = RESULTS.read_text().split("\n## ")[1:] if RESULTS.exists() else []
    return {title: body.strip() for title, _, body in (part.partition("\n") for part in parts)}


def write(sections: dict[str, str]) -> None:
    """Write *sections*, in the order of `SUITES`."""
    begin = f"# Faults\n\nWritten by `make faults-full` on: {machine()}. CI runs the same tests at a smaller size."
    known = [title for title in SUITES.values() if title in sections]
    RESULTS.write_text("\n\n".join([begin, *(f"## {title}\n\n{sections[title]}" for title in known)]) + "\n")


def main(suites: list[str]) -> int:
    """Run *suites*, or all, write what came of them beside what is there of others, and say whether they passed."""
    passed = True
    for suite in suites or SUITES:
        suite_passed, section = run_suite(suite)
        passed = passed and suite_passed
        write({**written(), SUITES[suite]: section})  # read now: another run may have written meanwhile
    print(f"written: {RESULTS.relative_to(ROOT)}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
