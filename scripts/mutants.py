"""
Puts small changes of rfs.core, rfs.reactive and rfs.testing to the tests and writes benchmarks/MUTANTS.md:
``python scripts/mutants.py [--share N] [--go-on] [MODULE …]``.

mutmut makes the changes, the mutants, and finds the tests that call what is changed: those of the changed package alone, for
each package is to have tests of its own. A mutant that survives needs a reason, which a person writes into the last column of
the file; it stays there as long as the change is the same. With modules named, only their sections are written anew. With a share,
one in N is put to the tests, and the file says so. Going on keeps what the run before found dead, and runs the rest.

The exit status is 1 where a package has a score below 90 %, or a survivor no reason.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.run import machine, revision  # noqa: E402 - the repository's root is not on a script's path

RESULTS = ROOT / "benchmarks" / "MUTANTS.md"
MUTANTS = ROOT / "mutants"  # where mutmut works
PACKAGES = ("core", "reactive", "testing")
LEAST_PERCENT = 90
DEAD = ("killed", "timeout", "segfault")  # as mutmut says it
TYPED = "skipped"  # changes what is for type checkers alone
NOT_RUN = "not checked"
UNKNOWN = "?"  # instead of a reason


def mutmut(package: str, names: Collection[str], share: int) -> None:
    """Put one in *share* of the mutants of the modules *names* to the tests of *package*."""
    # A path among mutmut's own options would be run for every mutant, in full.
    env = {**os.environ, "PYTEST_ADDOPTS": f"-o testpaths=tests/{package}"}
    command = [sys.executable, "-m", "scripts.mutmut_warm", str(os.cpu_count()), str(share), *names]
    subprocess.run(command, cwd=ROOT, env=env, check=True)


def verdicts() -> dict[str, str]:
    """Return what became of each mutant, by name."""
    command = [sys.executable, "-m", "mutmut", "results", "--all", "true"]
    said = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(re.findall(r"^ +(\S+__mutmut_\d+): (.+)$", said, re.MULTILINE))


def modules() -> list[str]:
    """Return the names of all modules that are changed."""
    paths = (path for package in PACKAGES for path in sorted((ROOT / "src" / "rfs" / package).glob("*.py")))
    return [f"rfs.{path.parent.name}.{path.stem}" for path in paths if path.stem != "__init__"]


def section(module: str, said: Mapping[str, str], reasons: Mapping[tuple[str, str], str], told: str) -> str:
    """Return what is to be said of *module*, whose mutants met the fates *said*."""
    everything = {name: verdict for name, verdict in said.items() if name.rpartition(".")[0] == module}
    mine = {name: verdict for name, verdict in everything.items() if verdict != NOT_RUN}
    dead = sum(verdict in DEAD for verdict in mine.values())
    late = sum(verdict == "timeout" for verdict in mine.values())
    rows: list[str] = []
    for name in (name for name, verdict in mine.items() if verdict not in {*DEAD, TYPED}):
        function = name.rpartition(".")[2].rpartition("__mutmut_")[0]
        function = function.removeprefix("x_").removeprefix("xǁ").replace("ǁ", ".")
        before, after = changed(name)
        change = f"`` {before} `` → `` {after} ``".replace("|", r"\|")
        rows.append(f"| `{function}` | {change} | {reasons.get((function, change), UNKNOWN)} |")
    table = ["", "| function | change | reason |", "|---|---|---|", *rows] if rows else []
    typed = sum(verdict == TYPED for verdict in mine.values())
    first = f"{dead} of {dead + len(rows)} mutants die, {late} of them of a time limit; {typed} more change what is for type checkers alone."
    if len(mine) < len(everything):
        first = f"{first} A sample of {len(mine)} of {len(everything)}."
    return "\n".join([f"{first} {told}", *table])


def changed(name: str) -> tuple[str, str]:
    """Return what a mutant takes away and what it adds."""
    from mutmut.mutation.diff_apply import get_diff_for_mutant  # reads the settings of the directory it is imported in

    lines = get_diff_for_mutant(name).splitlines()[3:]
    before, after = (" ".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in "-+")
    return before, after


def written() -> dict[str, str]:
    """Return the sections of the last run, by module."""
    parts = RESULTS.read_text().split("\n## ")[1:] if RESULTS.exists() else []
    return {title: body.strip() for title, _, body in (part.partition("\n") for part in parts)}


def reasons_in(text: str) -> dict[tuple[str, str], str]:
    """Return the reasons given in a section, by function and change."""
    rows = re.findall(r"^\| `([^`]+)` \| (``.+``) \| (.+) \|$", text, re.MULTILINE)
    return {(function, change): reason for function, change, reason in rows}


def counts(text: str) -> tuple[int, int, int]:
    """Return how many mutants die, how many were put to the tests, and how many there are, as a section says."""
    found = re.match(r"(\d+) of (\d+) .*?(?: A sample of \d+ of (\d+)\.|$)", text, re.MULTILINE)
    return (int(found[1]), int(found[2]), int(found[3] or found[2])) if found else (0, 0, 0)


def percent(dead: int, among: int) -> float:
    """Return the score: what share dies, 100 where there is nothing to change."""
    return 100 * dead / among if among else 100.0


def score(sections: Mapping[str, str], package: str) -> tuple[int, int, int]:
    """Return of the mutants of *package* what `counts` returns of a module's."""
    mine = [counts(text) for name, text in sections.items() if name.split(".")[1] == package]
    dead, among, whole = (sum(numbers) for numbers in zip((0, 0, 0), *mine, strict=True))
    return dead, among, whole


def write(sections: Mapping[str, str]) -> None:
    """Write *sections*, and before them the score of each package and module."""
    tools = ", ".join(f"{name} {version(name)}" for name in ("mutmut", "pytest", "hypothesis"))
    lines = [
        "# Mutants",
        "",
        f"Written by `make mutants` on: {machine()}; {tools}. A mutant is one small change of the code, and dies when a test of its",
        "package fails. Those that survive stand below, each with the reason why no test is missing, which is written by hand.",
        "",
        "| | mutants | put to the tests | die | score |",
        "|---|---|---|---|---|",
    ]
    known = [name for name in modules() if name in sections]
    for package in PACKAGES:
        rows = [(f"`{name}`", *counts(sections[name])) for name in known if name.split(".")[1] == package]
        rows[:0] = [(f"**`rfs.{package}`**", *score(sections, package))] if rows else []
        lines += [
            f"| {name} | {whole} | {among} | {dead} | {percent(dead, among):.1f} % |"
            for name, dead, among, whole in rows
        ]
    if left := [f"`{name}`" for name in modules() if name not in sections]:
        lines += ["", f"Not put to the tests yet: {', '.join(left)}."]
    parts = ["\n".join(lines), *(f"## {name}\n\n{sections[name]}" for name in known)]
    RESULTS.write_text("\n\n".join(parts) + "\n")


def main() -> int:
    """Put the mutants of the modules that are asked for to the tests, and say whether the result is good enough."""
    parser = argparse.ArgumentParser()
    parser.add_argument("modules", nargs="*")
    parser.add_argument("--share", type=int, default=1, metavar="N")
    parser.add_argument("--go-on", action="store_true")
    asked = parser.parse_args()
    os.chdir(ROOT)
    if not asked.go_on:
        shutil.rmtree(MUTANTS, ignore_errors=True)
    sections = written()
    for package in PACKAGES:
        mine = [name for name in asked.modules or modules() if name.split(".")[1] == package]
        if mine:
            told = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, RFS at {revision()}."
            mutmut(package, mine, asked.share)
            said = verdicts()
            sections |= {name: section(name, said, reasons_in(sections.get(name, "")), told) for name in mine}
            write(sections)
    print(f"written: {RESULTS.relative_to(ROOT)}")
    low = any(percent(*score(sections, package)[:2]) < LEAST_PERCENT for package in PACKAGES)
    return 1 if low or any(UNKNOWN in reasons_in(text).values() for text in sections.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
