"""
FAULTS.md §2.B for the store as a whole: leaders that are processes, killed and injured, over a directory of days.

Rows that are shown of a part alone are with that part: `test_catalogue` here; in `tests.monitoring` `test_catalogue`, `test_chunks`,
`test_records`, `test_retention`, `test_archives` and the tests of what was mutated (`*_fuzz`).
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rfs.monitoring._reading import open_directory
from rfs.monitoring._store import catalogue
from tests.faults.processes import Process, environment, size
from tests.faults.programs.catalogue import VERSION_2
from tests.faults.programs.days import EACH, KEPT_SECONDS, STEPS, turn_times
from tests.faults.tools import Shim, build_shim
from tests.monitoring.test_windows import in_memory

pytestmark = pytest.mark.fault

STEP_COUNT = 900  # of the story, at least
END = turn_times()[-1] + 1


class Answers(NamedTuple):
    """What a reader is told of the story."""

    numbers: list[int]
    counted: float
    measured: int
    said: list[str]


def ask(folder: Path, now: float) -> Answers:
    """Open *folder* as a reader from outside, and ask for everything."""
    said: list[str] = []

    def problem(code: str, text: str) -> None:
        said.append(f"{code} {text}")

    with open_directory(folder, on_problem=problem, now_seconds=lambda: now) as query:
        waits = query.distribution("waits", "10d")
        return Answers(
            sorted(record.context["number"] for record in query.records(limit=1_000) if record.message == "made"),
            query.increase("made_total", "10d") or 0.0,
            0 if waits is None else waits.count,
            said,
        )


class Days:
    """The program `days` under the shim, and folders for its stories."""

    def __init__(self, process: Process, shim: Shim, folder: Path) -> None:
        self.process = process
        self.shim = shim
        self.folder = folder

    def tell(self, folder: Path, *, first: int = 0, kill_at: int = 1 << 40, **more: Any) -> dict[str, Any]:
        """Let a child tell the story; it ends, or is killed at that step."""
        self.shim.kill_at(kill_at)
        told: dict[str, Any] = self.process.ask(folder=str(folder), first=first, **more)
        assert told["status"] == (0 if self.shim.steps < kill_at else -signal.SIGKILL), self.process.errors()
        return told


@pytest.fixture
def days(tmp_path: Path) -> Iterator[Days]:
    folder = in_memory()
    shim = Shim(build_shim(tmp_path), tmp_path / "control", str(folder))
    try:
        with Process("days", env=environment(**shim.variables)) as process:
            yield Days(process, shim, folder)
    finally:
        shutil.rmtree(folder)


def must_be_kept(count: int, now: float) -> set[int]:
    """Of the first *count* numbers those that are too young for retention."""
    return {number for number in range(count) if turn_times()[number // EACH] >= now - KEPT_SECONDS}


class TestLeaderKilledAtAnyStep:
    """B19, B26 and B29 for all that a leader does: import, sealing, roll-up, retention, migration."""

    @pytest.mark.slow
    def test_nothing_is_lost_and_nothing_there_twice(self, days: Days) -> None:
        """
        Killed before any call that changes the disk: all of which the calls had returned is found once, by a reader at once, and when
        the next leader has gone on to the end.
        """
        whole = days.tell(days.folder / "whole")
        assert [number for _, number in whole["witnessed"]] == list(range(EACH * len(STEPS)))
        assert days.shim.steps > STEP_COUNT
        seen = ask(days.folder / "whole", END)
        assert seen.counted == seen.measured == EACH * len(STEPS)
        assert must_be_kept(EACH * len(STEPS), END) <= set(seen.numbers)
        assert 0 not in seen.numbers
        shutil.rmtree(days.folder / "whole")

        for step in range(1, STEP_COUNT, size(whole=1, small=71)):
            folder = days.folder / f"at{step}"
            before = days.tell(folder, kill_at=step)["witnessed"]
            turn = before[-1][0] if before else 0
            made, amount = self._assert_all_there(folder, len(before), turn_times()[turn], f"step {step}")
            days.tell(folder, first=turn + 1)
            self._assert_at_the_end(folder, made, amount, turn + 1, f"after step {step}")
            shutil.rmtree(folder)

    @pytest.mark.slow
    def test_while_it_migrates(self, days: Days, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        B26. Killed before any such call with a library of a newer schema, from its first one on: the same.
        """
        turn = len(STEPS) // 2
        count = EACH * turn
        base = days.folder / "base"
        days.tell(base, count=turn)
        days.tell(base, first=turn, count=0)  # so what the one before has left in its live files is folded
        schema = (*catalogue._SCHEMA, VERSION_2)
        versions: set[int] = set()
        for step in range(size(whole=1, small=35), 110, size(whole=1, small=11)):
            folder = days.folder / f"at{step}"
            shutil.copytree(base, folder)
            before = days.tell(folder, first=turn, kill_at=step, version=2)["witnessed"]
            with closing(catalogue.connect(folder / "store" / "catalogue.sqlite", "ro")) as connection:
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                versions.add(version)
            with monkeypatch.context() as patch:
                patch.setattr(catalogue, "_SCHEMA", schema[:version])
                now = turn_times()[turn + (len(before) - 1) // EACH if before else turn]
                made, amount = self._assert_all_there(folder, count + len(before), now, f"step {step}")
            days.tell(folder, first=turn + 1, version=2)
            with monkeypatch.context() as patch:
                patch.setattr(catalogue, "_SCHEMA", schema)
                self._assert_at_the_end(folder, made, amount, turn + 1, f"after step {step}")
            shutil.rmtree(folder)
        assert versions == {1, 2}

    def _assert_all_there(self, folder: Path, count: int, now: float, at: str) -> tuple[int, float]:
        """
        Of *count* numbers each is there once; return what is: one that was being made may be, too.
        """
        if not (folder / "live").is_dir() and not (folder / "store").is_dir():
            assert not count
            return 0, 0.0
        found = ask(folder, now)
        made = found.numbers[-1] + 1 if found.numbers else 0
        assert made in (count, count + 1), at
        assert found.numbers == list(range(made - len(found.numbers), made)), at
        assert must_be_kept(made, now) <= set(found.numbers), at
        assert found.counted in (count, count + 1), at
        assert found.measured in (count, count + 1), at
        assert not found.said, at
        return made, found.counted

    def _assert_at_the_end(self, folder: Path, made: int, amount: float, turn: int, at: str) -> None:
        """Of what had been *made*, and what the rest of the story from *turn* on makes, each is there once."""
        all_made = [*range(made), *range(turn * EACH, len(STEPS) * EACH)]
        found = ask(folder, END)
        assert found.numbers == all_made[-len(found.numbers) :], at
        assert must_be_kept(len(STEPS) * EACH, END) & set(all_made) <= set(found.numbers), at
        assert found.counted == amount + (len(STEPS) - turn) * EACH, at
        assert not found.said, at
