"""
Where the time of a loop goes: ``python -m benchmarks.profiling record``.

cProfile charges each call extra, so its times are larger than the benchmark's; their shares tell what to look at.
"""

from __future__ import annotations

import cProfile
import pstats
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FUNCTIONS = 16
SLOW = {"exposition"}  # loops whose operations take milliseconds: a few of them tell enough


def _place(file: str, line: int, name: str) -> str:
    if file.startswith(("~", "<")):
        return name
    path = Path(file)
    inside = next((path.relative_to(base) for base in (ROOT / "src", ROOT) if path.is_relative_to(base)), None)
    if inside is None:
        inside = Path(*path.parts[-2:])
    return f"{inside}:{line} {name}"


def _owner(file: str) -> str:
    if file.startswith(("~", "<")):
        return "C"
    parts = Path(file).parts
    if "site-packages" in parts:
        return parts[parts.index("site-packages") + 1]
    return "RFS" if Path(file).is_relative_to(ROOT / "src") else "others"


def spent_by_function(profile: cProfile.Profile, counted: str) -> str:
    """
    Return who took how much, and the functions that took most, one a line; RFS' own where there are enough of them.

    Args:
        profile: Of which a table is made.
        counted: Name of a function that ran once per operation; or a number of operations.
    """
    stats = pstats.Stats(profile)
    rows = stats.stats  # type: ignore[attr-defined]
    count = int(counted) if counted.isdigit() else sum(row[1] for key, row in rows.items() if key[2] == counted)
    by_owner: Counter[str] = Counter()
    for (file, _, _), (_, _, own, _, _) in rows.items():
        by_owner[_owner(file)] += own
    owners = ", ".join(f"{owner} {own / count * 1e6:.1f}" for owner, own in by_owner.most_common(6))
    lines = [f"µs per operation, under cProfile, {count} operations: {owners}", f"{'own µs':>8} {'calls':>6}"]
    largest = sorted(rows.items(), key=lambda item: item[1][2], reverse=True)
    largest = [item for item in largest if item[1][2] / count >= 1e-8]
    ours = [item for item in largest if _owner(item[0][0]) == "RFS"]
    for (file, line, name), (_, calls, own, _, _) in (ours if len(ours) >= FUNCTIONS else largest)[:FUNCTIONS]:
        lines.append(f"{own / count * 1e6:8.2f} {calls / count:6.1f}  {_place(file, line, name)}")
    return "\n".join(lines)


def main(loop: str, count: int) -> None:
    """Print where RFS' *loop* spends its time."""
    run = import_module("benchmarks.loops.with_rfs").LOOPS[loop]
    run(count)
    profile = cProfile.Profile()
    profile.runcall(run, count)
    print(spent_by_function(profile, str(count)))


if __name__ == "__main__":
    main(sys.argv[1], 50 if sys.argv[1] in SLOW else 10_000)
