"""
Memory, the event loop and the books under three loads that grow without end elsewhere: label sets, a storm, a hung sink.

Each load runs in a process of its own, which measures its own resident memory (/proc/self/statm) and the lag of its own event
loop, beside that of the same load without a thread of ours. What the loop is late because no core was free is told, and not
asserted: it says how busy the machine was. CI runs a tenth of the labels and records, and hangs for 3 s instead of 60;
``RFS_FULL=1`` runs the whole.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parent / "programs" / "memory.py"
FULL = os.environ.get("RFS_FULL") == "1"
LARGEST_GROWTH_MIB = 32
LARGEST_LAG_SECONDS = 0.010

pytestmark = pytest.mark.fault


def run(load: str, size: int, report: Path, *, hang: bool = False, alone: bool = False) -> dict[str, Any]:
    """Run one load to its end and return what it says of itself; with *hang*, nobody reads its standard output."""
    environment = {**os.environ, "RFS_DIR": ":memory:"}
    read, write = os.pipe()
    try:
        with (report.parent / "stderr").open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, str(PROGRAM), load, str(size), str(report), *["alone"] * alone],
                stdout=write if hang else subprocess.DEVNULL,
                stderr=errors,
                env=environment,
            )
        try:
            status = process.wait(timeout=300 if FULL else 60)
        finally:
            process.kill()
            process.wait(30)
    finally:
        os.close(write)
        held = len(os.read(read, 1 << 20)) if hang else 0
        os.close(read)
    said = (report.parent / "stderr").read_text()
    assert status == 0, said
    told: dict[str, Any] = json.loads(report.read_text())
    told["held_bytes"] = held
    assert told["looks"] >= 20  # the loop was watched
    return told


def say(told: dict[str, Any], alone: dict[str, Any], record_property: Callable[[str, object], None]) -> None:
    """Leave the figures in the report, those of the same load *alone* beside them."""
    record_property("grown by", f"{told['growth_mib']:.1f} MiB")
    for name, one in (("loop late by", told), ("without our thread", alone)):
        late, longest, own_late, own_longest = (
            f"{one[key] * 1e3:.1f}"
            for key in ("lag_p99_seconds", "lag_max_seconds", "own_lag_p99_seconds", "own_lag_max_seconds")
        )
        text = f"{late} ms at p99, {longest} at most; where no thread waited for a core: {own_late}, {own_longest}"
        record_property(name, text)


def assert_prompt(told: dict[str, Any], again: Callable[[], dict[str, Any]]) -> None:
    """
    The loop is not late at p99, whatever it waited for. In the whole run, for a machine that does nothing else, it is never late where
    nobody waited for a core. That may take three runs: the machine's own hiccups, which the same load without our thread has, too,
    fall elsewhere each time.
    """
    assert told["lag_p99_seconds"] < LARGEST_LAG_SECONDS
    if FULL:
        runs = chain([told], (again() for _ in range(2)))
        assert any(one["own_lag_max_seconds"] < LARGEST_LAG_SECONDS for one in runs)


def assert_books_balance(told: dict[str, Any]) -> None:
    books = told["books"]
    accounted = sum(count for entry, count in books.items() if entry not in ("produced", "in_flight", "evicted"))
    assert books["in_flight"] == 0
    assert accounted == books["produced"]


class TestLabelSets:
    def test_memory_is_bounded_and_the_sum_right(
        self, tmp_path: Path, record_property: Callable[[str, object], None]
    ) -> None:
        """
        A million label sets take 2,000 series and no more, and what they counted adds up.
        """
        size = 1_000_000 if FULL else 100_000

        told = run("label_sets", size, tmp_path / "report")
        say(told, run("label_sets", size, tmp_path / "alone", alone=True), record_property)

        assert told["sum"] == size
        assert told["series"] == 2_000
        assert told["growth_mib"] <= LARGEST_GROWTH_MIB
        assert_prompt(told, lambda: run("label_sets", size, tmp_path / "report"))
        assert_books_balance(told)


class TestStorm:
    def test_memory_is_bounded_and_every_record_accounted_for(
        self, tmp_path: Path, record_property: Callable[[str, object], None]
    ) -> None:
        """
        A million records from one site: most are suppressed, the rest kept, and the books say how many.
        """
        size = 1_000_000 if FULL else 100_000

        told = run("storm", size, tmp_path / "report")
        say(told, run("storm", size, tmp_path / "alone", alone=True), record_property)

        assert told["books"]["produced"] >= size + 100
        assert told["books"]["suppressed"] > 0
        assert told["growth_mib"] <= LARGEST_GROWTH_MIB
        assert_prompt(told, lambda: run("storm", size, tmp_path / "report"))
        assert_books_balance(told)


class TestHungSink:
    def test_nobody_waits_for_it(self, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
        """
        Standard output that nobody reads: recording goes on, memory is bounded, and the process ends in time and in order.
        """
        seconds = 60 if FULL else 3

        began = time.monotonic()
        told = run("hang", seconds, tmp_path / "report", hang=True)
        took = time.monotonic() - began
        say(told, run("hang", seconds, tmp_path / "alone", hang=True, alone=True), record_property)

        assert told["held_bytes"] >= 60_000  # the fault fired: the pipe was full
        assert told["books"]["produced"] > 1_000 * seconds
        assert told["growth_mib"] <= LARGEST_GROWTH_MIB
        assert_prompt(told, lambda: run("hang", seconds, tmp_path / "report", hang=True))
        assert told["stop_seconds"] < 3  # 2 s for all sinks together
        assert took < seconds + 15
        assert_books_balance(told)
        if FULL:
            assert sum(told["dropped"].values()) > 0  # more than the sink's queue holds
