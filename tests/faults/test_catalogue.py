"""Rows B2, B5, B19, B26 and B29 for the windows: the process that writes is killed at every step, and the disk is full."""

from __future__ import annotations

import resource
import signal
import sqlite3
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from rfs.errors import StoreError
from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.sketch import Sketch
from rfs.monitoring._store import Window
from rfs.monitoring._store import catalogue as module
from rfs.monitoring._store.catalogue import Catalogue, CatalogueReader
from rfs.monitoring._store.ranges import WindowReader
from rfs.monitoring._store.windows import WindowWriter
from rfs.monitoring.retention import Retention
from tests.faults.processes import Process, eventually, size
from tests.faults.programs.catalogue import BEGIN, KEPT, NEXT_VERSION, RETENTION, totals, windows
from tests.faults.tools import strace_injected, strace_prefix, tmpfs

pytestmark = pytest.mark.fault

REQUESTS = SeriesKey("requests_total", ())
EARLY = SeriesKey("early_total", ())
WAITS = SeriesKey("waits", ())


def problem(code: str, text: str) -> None:
    raise AssertionError(f"{code}: {text}")


def finish(folder: Path, kept: int) -> None:
    """
    Whoever comes next finds all that was kept, goes on, and ends where the story ends.

    Args:
        kept: How many windows were acknowledged; one more may have been kept.
    """
    told = windows()
    catalogue = Catalogue(folder / "catalogue.db", epoch=2, on_problem=problem, now=lambda: BEGIN)
    writer = WindowWriter(catalogue, on_problem=problem, retention=RETENTION)
    reader = WindowReader(CatalogueReader(folder / "catalogue.db"), on_problem=problem)
    found = {life.key: life.value for life in reader.lifetimes()}.get(REQUESTS, 0.0)
    sums = [sum(window.counters[REQUESTS] for window in told[:count]) for count in (kept, kept + 1)]
    assert found in sums

    begin = kept + sums.index(found)
    for number in range(
        max(0, begin - 1), len(told)
    ):  # what the live files had when the last window was written: nothing is new
        with catalogue.turn() as turn:
            window = writer.write(turn, totals()[number], told[number].second)
            assert window.counters == ({} if number < begin else told[number].counters)
            assert {key: sketch.count for key, sketch in window.sketches.items()} == (
                {} if number < begin else {WAITS: 1}
            )
        while not writer.maintain(60.0):
            pass

    lives = {life.key: life.value for life in reader.lifetimes()}
    assert lives[REQUESTS] == sum(window.counters[REQUESTS] for window in told)
    assert lives[EARLY] == 5.0
    waits = lives[WAITS]
    assert isinstance(waits, Sketch)
    assert waits.count == len(told)
    end = told[-1].second
    since = end - 86_400 - end % 86_400
    recent = [window for window in told if window.second >= since]
    assert reader.at(None, BEGIN).increases([REQUESTS], since, end + 1) == [
        sum(window.counters[REQUESTS] for window in recent)
    ]
    (counted,) = reader.at(None, BEGIN).sketches([WAITS], since, end + 1)
    assert counted is not None
    assert counted.count == len(recent)
    catalogue.close()


class TestB29KilledWindows:
    """Compaction, roll-up and retention of windows."""

    @pytest.mark.slow
    def test_before_every_statement(self, tmp_path: Path) -> None:
        """
        Killed before any statement, from the first of an empty database on, nothing is lost and nothing counted twice.
        """
        step = size(whole=1, small=17)
        with Process("catalogue", "sweep", tmp_path, "WITNESS", 1, step) as process:
            said: list[bytes] = []  # read on the way: a pipe takes only so much

            def has_answered() -> bool:
                said.append(process.witnessed())
                return process.has_answered()

            eventually(has_answered, seconds=3_000.0)
            swept = process.answer()
            said.append(process.witnessed())
        kept = Counter(statement for statement, _ in KEPT.iter_unpack(b"".join(said)))

        assert len(swept) > size(whole=300, small=20)
        assert kept[swept[-1]] == len(windows())
        for statement in swept:
            finish(tmp_path / str(statement), kept[statement])

    @pytest.mark.slow
    @pytest.mark.parametrize("write", range(1, 400, size(whole=1, small=66)))
    def test_within_a_commit(self, tmp_path: Path, write: int) -> None:
        """
        Killed at a write of SQLite itself, in the middle of a commit or a checkpoint: the same.
        """
        launch = [*strace_prefix(tmp_path / "strace", f"pwrite64:signal=SIGKILL:when={write}"), sys.executable, "-m"]
        with Process("catalogue", "once", tmp_path, "WITNESS", launch=launch) as process:
            status = process.wait()
            kept = len(process.witnessed()) // KEPT.size

        assert status == -signal.SIGKILL or kept == len(windows())  # there were not so many
        assert status == -signal.SIGKILL or write > 60
        finish(tmp_path, kept)


class TestB5B6FailsForGood:
    @pytest.mark.slow
    @pytest.mark.parametrize("fault", ["pwrite64:error=EIO", "pwrite64:error=ENOSPC", "fdatasync:error=EIO"])
    @pytest.mark.parametrize("call", range(2, 200, size(whole=1, small=97)))
    def test_what_was_acknowledged_is_there(self, tmp_path: Path, fault: str, call: int) -> None:
        """
        If from some call on the disk refuses, what was acknowledged is there when it does not any more.
        """
        output = tmp_path / "strace"
        launch = [*strace_prefix(output, f"{fault}:when={call}+"), sys.executable, "-m"]
        with Process("catalogue", "once", tmp_path, "WITNESS", launch=launch) as process:
            status = process.wait()
            kept = len(process.witnessed()) // KEPT.size
            said = process.errors()

        assert (status == 0) == (strace_injected(output) == 0)
        assert status == 0 or "StoreError" in said
        finish(tmp_path, kept)


class TestB26KilledMigration:
    def test_at_every_statement(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Killed at any step of a migration, the database has the old or the new schema; the next one who opens it ends it.
        """
        with Process("catalogue", "migrate", tmp_path, "WITNESS", 1, size(whole=1, small=4)) as process:
            swept = process.answer()
        assert len(swept) > 3

        versions: Counter[int] = Counter()
        for statement in swept:
            path = tmp_path / str(statement) / "catalogue.db"
            with closing(sqlite3.connect(path)) as connection:
                versions.update(connection.execute("PRAGMA user_version").fetchone())
        assert set(versions) == {len(module._SCHEMA), len(module._SCHEMA) + 1}
        monkeypatch.setattr(module, "_SCHEMA", (*module._SCHEMA, NEXT_VERSION))
        for statement in swept:
            path = tmp_path / str(statement) / "catalogue.db"
            Catalogue(path, epoch=2, on_problem=problem, now=lambda: BEGIN).close()
            with closing(sqlite3.connect(path)) as connection:
                assert connection.execute("SELECT DISTINCT reason FROM cuts").fetchall() == [("age",)]
                assert connection.execute("PRAGMA user_version").fetchone() == (len(module._SCHEMA),)
            reader = WindowReader(CatalogueReader(path), on_problem=problem)
            lives = {life.key: life.value for life in reader.lifetimes()}
            assert lives[REQUESTS] == sum(window.counters[REQUESTS] for window in windows())


class TestB2NoSpaceForWindows:
    def test_what_was_kept_stays_and_writing_goes_on(self, tmp_path: Path) -> None:
        """
        On a full disk a window is refused whole; reading goes on; with space again so does writing, without being told.
        """
        with tmpfs(tmp_path / "m", size=2 << 20) as disk:
            path = disk.path / "catalogue.db"
            catalogue = Catalogue(path, epoch=1, on_problem=problem, now=lambda: BEGIN)
            writer = WindowWriter(catalogue, on_problem=problem)
            reading = CatalogueReader(path)
            reader = WindowReader(reading, on_problem=problem)
            kept, refused, codes = 0, 0, set[str]()

            def append(sequence: int) -> int:
                try:
                    with catalogue.turn() as turn:
                        catalogue.take(turn, "p", sequence)
                        keys = [SeriesKey("storm_total", (("n", f"{sequence}-{n}"),)) for n in range(20)]
                        writer.put(turn, Window(BEGIN + 60 * sequence, dict.fromkeys([*keys, REQUESTS], 1.0)))
                    writer.maintain(60.0)
                except StoreError as error:
                    codes.add(error.code)
                    return 0
                return 1

            for sequence in range(3):
                kept += append(sequence)
            disk.fill()
            for sequence in range(3, 400):
                added = append(sequence)
                kept += added
                refused += 1 - added
            # A window may have been kept and its upkeep refused: the totals know.
            (total,) = [life.value for life in reader.lifetimes() if life.key == REQUESTS]
            assert refused > 100
            assert codes == {"S102"}
            assert isinstance(total, float)
            assert total >= kept >= 3

            (disk.path / "filler").unlink()
            assert append(400) == 1
            while not writer.maintain(60.0):
                pass
            assert [life.value for life in reader.lifetimes() if life.key == REQUESTS] == [total + 1]
            assert reader.at(None, BEGIN).increases([REQUESTS], 0, BEGIN + 86_400) == [total + 1]
            reading.close()
            catalogue.close()

    def test_full_before_the_start(self, tmp_path: Path) -> None:
        """
        On a disk that is full from the beginning nothing can be opened; with space it can, and nothing is set aside.
        """
        with tmpfs(tmp_path / "m", size=1 << 20) as disk:
            path = disk.path / "catalogue.db"
            disk.fill()
            with pytest.raises(StoreError, match="no space is left") as raised:
                Catalogue(path, epoch=1, on_problem=problem, now=lambda: BEGIN)
            assert raised.value.code == "S102"
            (disk.path / "filler").unlink()

            catalogue = Catalogue(path, epoch=1, on_problem=problem, now=lambda: BEGIN)
            with catalogue.turn() as turn:
                assert catalogue.take(turn, "p", 0)
            catalogue.close()


class TestB5RefusedWindow:
    def test_a_file_that_may_not_grow(self, tmp_path: Path) -> None:
        """
        A write that fails costs the window that it was for, which says so; the next one is kept.
        """
        catalogue = Catalogue(tmp_path / "catalogue.db", epoch=1, on_problem=problem, now=lambda: BEGIN)
        writer = WindowWriter(catalogue, on_problem=problem)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

        def append(sequence: int) -> None:
            with catalogue.turn() as turn:
                catalogue.take(turn, "p", sequence)
                writer.put(turn, Window(BEGIN + sequence, {REQUESTS: 1.0}))

        append(0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_024, hard))
        try:
            with pytest.raises(StoreError, match="cannot be written"):
                append(1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        append(1)

        reader = WindowReader(CatalogueReader(tmp_path / "catalogue.db"), on_problem=problem)
        assert reader.at(None, BEGIN).increases([REQUESTS], BEGIN, BEGIN + 2) == [2.0]
        catalogue.close()


class TestB20TooLarge:
    def test_the_oldest_goes_first(self, tmp_path: Path) -> None:
        """
        Above the bound of bytes the oldest of the largest tier is let go, until it fits; the file itself shrinks.
        """
        catalogue = Catalogue(tmp_path / "catalogue.db", epoch=1, on_problem=problem, now=lambda: BEGIN)
        small = Retention(second=40 * 86_400, ten_seconds=40 * 86_400, windows_bytes=250_000)
        writer = WindowWriter(catalogue, on_problem=problem, retention=small)
        reader = WindowReader(CatalogueReader(tmp_path / "catalogue.db"), on_problem=problem)
        keys = [SeriesKey("requests_total", (("n", str(n)),)) for n in range(120)]
        minutes = 300

        for minute in range(minutes):
            with catalogue.turn() as turn:
                values = {key: 1.0 + (minute * 7 + n * 13) % 1_000 / 7 for n, key in enumerate(keys)}
                writer.put(turn, Window(BEGIN + 60 * minute, values))
            while not writer.maintain(60.0):
                pass

        assert catalogue.used_bytes() <= 300_000
        assert reader.resolution(BEGIN + 60 * minutes - 600) == 1
        assert reader.resolution(BEGIN) > 1
        lives = [life.value for life in reader.lifetimes()]
        assert len(lives) == len(keys)
        catalogue.close()
