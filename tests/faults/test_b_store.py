"""
FAULTS.md §2.B for the store as a whole: leaders that are processes, killed and injured, over a directory of days.

Each row's tests are classes that begin with its name (``grep -rn "class TestB5" tests``): here of the whole store, B13 to B17 and B19 in
`test_b_damage`, B27 with a version of our own history in `test_b_versions`, B31 in `test_backup`. What a part promises for a row is shown
beside that part: `test_catalogue` here; in `tests.monitoring` `test_catalogue`, `test_blocks`, `test_chunks`, `test_chunks_fuzz`,
`test_records`, `test_retention`, `test_archives`.
"""

from __future__ import annotations

import errno
import json
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.segments import NOTHING_WAITS
from rfs.monitoring._reading import open_directory
from rfs.monitoring._store import catalogue
from rfs.monitoring._store.local import CATALOGUE, LocalStore
from rfs.monitoring._store.ranges import WindowReader
from rfs.monitoring._store.retention import RecordRetention
from rfs.monitoring._store.sealing import STORE
from rfs.monitoring._totals import Totals
from rfs.monitoring.monitor import Monitor
from rfs.monitoring.retention import Retention
from rfs.testing.virtual_time import VirtualTime
from tests.faults.hosts import assert_keeps_all, burst, host, look, said
from tests.faults.processes import FULL, Process, environment, eventually, names_in, size
from tests.faults.programs.catalogue import NEXT_VERSION
from tests.faults.programs.days import EACH, RETENTION, STEPS, turn_times
from tests.faults.stores import END, Days, ask, days_under_shim, must_be_kept, start
from tests.faults.tools import SHORT, Call, Shim, build_shim, tmpfs

pytestmark = pytest.mark.fault

STEP_COUNT = 900  # of the story, at least
ALL = EACH * len(STEPS)  # numbers of the story


def chunk_bytes(folder: Path) -> int:
    chunks = folder / STORE / "chunks"
    return sum((chunks / name).stat().st_size for name in names_in(chunks))


def assert_all_there(folder: Path, count: int, now: float, at: str) -> tuple[int, float]:
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


def assert_at_the_end(folder: Path, made: int, amount: float, turn: int, at: str) -> None:
    """Of what had been *made*, and what the rest of the story from *turn* on makes, each is there once."""
    all_made = [*range(made), *range(turn * EACH, len(STEPS) * EACH)]
    found = ask(folder, END)
    assert found.numbers == all_made[-len(found.numbers) :], at
    assert must_be_kept(len(STEPS) * EACH, END) & set(all_made) <= set(found.numbers), at
    assert found.counted == amount + (len(STEPS) - turn) * EACH, at
    assert not found.said, at


class TestB29LeaderKilledAtAnyStep:
    """For all that a leader does: import, sealing, roll-up, retention; so also B19, between any two of its syncs."""

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
            made, amount = assert_all_there(folder, len(before), turn_times()[turn], f"step {step}")
            days.tell(folder, first=turn + 1)
            assert_at_the_end(folder, made, amount, turn + 1, f"after step {step}")
            shutil.rmtree(folder)


class TestB26LeaderKilledWhileItMigrates:
    @pytest.mark.slow
    def test_nothing_is_lost_and_nothing_there_twice(self, days: Days, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Killed before any such call with a library of a newer schema, from its first one on: the same.
        """
        turn = len(STEPS) // 2
        count = EACH * turn
        base = days.folder / "base"
        days.tell(base, count=turn)
        days.tell(base, first=turn, count=0)  # so what the one before has left in its live files is folded
        schema = (*catalogue._SCHEMA, NEXT_VERSION)
        versions: set[int] = set()
        for step in range(size(whole=1, small=35), 110, size(whole=1, small=11)):
            folder = days.folder / f"at{step}"
            shutil.copytree(base, folder)
            before = days.tell(folder, first=turn, kill_at=step, is_newer=True)["witnessed"]
            with closing(catalogue.connect(folder / "store" / "catalogue.sqlite", "ro")) as connection:
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                versions.add(version)
            with monkeypatch.context() as patch:
                patch.setattr(catalogue, "_SCHEMA", schema[:version])
                now = turn_times()[turn + (len(before) - 1) // EACH if before else turn]
                made, amount = assert_all_there(folder, count + len(before), now, f"step {step}")
            days.tell(folder, first=turn + 1, is_newer=True)
            with monkeypatch.context() as patch:
                patch.setattr(catalogue, "_SCHEMA", schema)
                assert_at_the_end(folder, made, amount, turn + 1, f"after step {step}")
            shutil.rmtree(folder)
        assert versions == {len(schema) - 1, len(schema)}


def assert_whole(folder: Path, at: str) -> None:
    """All of the story is there once, by a reader from outside, and by the leader that comes next, which imports what is still to be."""
    found = ask(folder, END)
    assert found.counted == found.measured == ALL, at
    assert found.numbers == list(range(ALL))[-len(found.numbers) :], at
    assert must_be_kept(ALL, END) <= set(found.numbers), at
    assert start(folder)[:3] == (found.numbers, ALL, ALL), at


def inject(days: Days, call: Call, error: int, *, times: int, first: int, last: int, step: int) -> None:
    """Let the story be told again and again, while a *call* fails: each time a later one, *times* times. Nothing may be lost."""
    told = 0
    for after in range(first, last, step):
        folder, before = days.folder / f"after{after}", days.shim.failed(call)
        days.shim.fail(call, error, times, after=after)
        assert len(days.tell(folder)["witnessed"]) == ALL
        assert days.shim.failed(call) > before  # it has met the fault
        days.shim.fail(call, 0)
        assert_whole(folder, f"{call.name} {error}, {after} of them had succeeded")
        shutil.rmtree(folder)
        told += 1
    assert told > 1


@pytest.fixture
def store_days(tmp_path: Path) -> Iterator[Days]:
    """Days whose store alone is injured: live files are written by the kernel when it likes, and have rows of their own."""
    with days_under_shim(tmp_path, f"/{STORE}/") as made:
        yield made


class TestB5WriteFails:
    @pytest.mark.slow
    @pytest.mark.parametrize("times", [1, -1], ids=["once", "for good"])
    def test_nothing_is_lost(self, store_days: Days, times: int) -> None:
        """
        From whichever of the store's writes on, once or until the process ends: calls return, it is said, and all is there once.
        """
        inject(store_days, Call.WRITE, errno.EIO, times=times, first=3, last=300, step=size(whole=1, small=250))
        assert "RFS-S105" in store_days.process.errors()


class TestB6SyncFails:
    @pytest.mark.slow
    @pytest.mark.parametrize("times", [1, -1], ids=["once", "for good"])
    def test_nothing_is_lost(self, store_days: Days, times: int) -> None:
        """
        From whichever of the store's syncs on, once or until the process ends: likewise. That what could not be synced goes into another
        file, and is not synced again, is shown with records and chunks.
        """
        inject(store_days, Call.SYNC, errno.EIO, times=times, first=1, last=60, step=size(whole=1, small=50))


class TestB7ShortWrite:
    @pytest.mark.slow
    def test_nothing_is_lost(self, store_days: Days) -> None:
        """
        From whichever of the store's writes on, each takes half of what it is given: the rest is written, too.
        """
        inject(store_days, Call.WRITE, SHORT, times=-1, first=3, last=300, step=size(whole=1, small=250))


def record_bytes(folder: Path) -> float:
    """What the store says that its records take."""

    def refuse(code: str, text: str) -> None:
        raise AssertionError(f"{code}: {text}")

    store = LocalStore(folder, retention=None, now_seconds=lambda: END, monotonic=time.monotonic, on_problem=refuse)
    with closing(store):
        return store.at(None, lambda _text: NOTHING_WAITS).statistics()["record_bytes"]


class TestB20AfterAKill:
    @pytest.mark.slow
    def test_sizes_are_those_on_the_disk(self, days: Days) -> None:
        """
        Killed at any step: what the store says it takes, and what retention goes by, are the bytes of its files, at each start anew.
        """
        sizes: set[int] = set()
        for step in range(150, STEP_COUNT, size(whole=7, small=300)):
            folder = days.folder / f"at{step}"
            before = days.tell(folder, kill_at=step)["witnessed"]
            assert record_bytes(folder) == chunk_bytes(folder)
            sizes.add(chunk_bytes(folder))
            kept = RecordRetention(folder / STORE, RETENTION, lambda: END).keep()
            assert kept.left_bytes == chunk_bytes(folder)
            days.tell(folder, first=before[-1][0] + 1)
            assert record_bytes(folder) == chunk_bytes(folder) > 0
            shutil.rmtree(folder)
        assert len(sizes) > 2


class TestB22TwoWriters:
    def test_one_at_a_time(self, tmp_path: Path) -> None:
        """
        Two processes that both take themselves for the leader write and checkpoint as fast as they can: whoever is second is refused with
        S109, at once, and all that was kept is there; the file is whole. So no engine's fault with two writers can be met.
        """
        count = size(whole=5_000, small=150)
        path = tmp_path / "catalogue.db"
        with Process("rival", path, count) as one, Process("rival", path, count) as other:
            answers = [one.answer(), other.answer()]
            for process in (one, other):
                process.tell(do="go")
            answers = [process.answer(seconds=300) for process in (one, other)]

        assert sum(answer["refused"] for answer in answers) > 0
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        reader = catalogue.CatalogueReader(path)
        windows = WindowReader(reader, on_problem=lambda code, text: None)
        assert [life.value for life in windows.lifetimes()] == [2.0 * count]
        reader.close()


class TestB23ForeignSnapshot:
    def test_the_log_is_bounded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A stranger's process reads the catalogue and does not end: nobody can end it from here, so the log ends at its bound, which is said
        (S111). Every answer stays exact. When it has ended, the log is cut, and the next window has what was measured meanwhile.
        """
        if not FULL:
            monkeypatch.setattr(catalogue, "_WAL_BYTES", 1 << 20)
            monkeypatch.setattr(catalogue, "_MAX_WAL_BYTES", 3 << 20)
        bound = size(whole=64, small=4) << 20
        clock, told = VirtualTime(END), list[str]()
        store = LocalStore(
            tmp_path,
            retention=None,
            now_seconds=lambda: clock.time_ns() / 1e9,
            monotonic=clock.monotonic,
            on_problem=lambda code, _: told.append(code),
        )
        store.lead(1, is_first=True)
        log = tmp_path / STORE / f"{CATALOGUE}-wal"
        keys = [SeriesKey("served_total", (("n", str(n)),)) for n in range(2_000)]
        turns = 0

        def write() -> int:
            nonlocal turns
            turns += 1
            clock.advance(1)
            totals = Totals({}, {key: float(turns * n) for n, key in enumerate(keys)}, {}, {}, {}, [])
            windows = store.write(totals, is_whole=True)
            answer = store.at(totals, lambda _text: NOTHING_WAITS).increases(
                keys[:3], END, int(clock.time_ns() / 1e9) + 1
            )
            assert answer == [0.0, float(turns), float(2 * turns)]
            return windows

        assert write()
        with Process("foreign", tmp_path / STORE / CATALOGUE) as stranger:
            assert stranger.answer() == len(keys)
            while write():
                assert log.stat().st_size <= bound
            grown = log.stat().st_size
            for _ in range(size(whole=30, small=3)):
                assert not write()
            assert bound / 2 < log.stat().st_size == grown <= bound
            assert set(told) == {"S111"}
            stranger.kill()

        refused = len(told)
        assert write()
        assert log.stat().st_size < bound / 2
        assert write()
        assert len(told) == refused
        store.close()


class TestB24MoreThanTheLeaderKeeps:
    def test_at_the_rate_of_the_row(self, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
        """
        Eight workers record 20,000 times a second: no call and no question meets a database that is busy, and each record is kept.

        How long calls took is told; what is asserted is a hundred times the row's 100 us, because the processors are busy with the load
        itself, and a call that comes after a pause finds cold caches.
        """
        seconds, count = size(whole=600, small=2), size(whole=8, small=4)  # CI pays for each process that starts
        rate = 20_000 // count
        env = environment(RFS_DIR=str(tmp_path / "rfs"))
        writers = [Process("pacer", env=env) for _ in range(count)]
        try:
            assert [process.answer() for process in writers] == ["ready"] * count
            for process in writers:
                process.tell(do="pace", rate=rate, seconds=seconds)
            paces = [process.answer(seconds=seconds + 60) for process in writers]
            books = eventually(lambda: settled(writers[0]), says=lambda: [process.errors() for process in writers])
            errors = "".join(process.errors() for process in writers)
        finally:
            for process in writers:
                process.end()

        p99 = max(pace["p99"] for pace in paces)
        record_property("99th percentile of a call", f"{p99 * 1e6:.0f} us")
        record_property(
            "records", f"{sum(pace['calls'] for pace in paces) / max(p['took'] for p in paces):.0f} a second"
        )
        assert sum(pace["calls"] for pace in paces) == count * rate * seconds <= books["delivered"] == books["produced"]
        assert p99 < 0.01
        assert errors == ""

    def test_faster_than_it_can_be_kept(self, tmp_path: Path) -> None:
        """
        While nothing can be kept, more is recorded than the live files hold: what was shed is counted, and all the rest is there once,
        from the store, as soon as it can be.
        """
        count = size(whole=40_000, small=10_000)
        folder = tmp_path / "rfs"
        shim = Shim(build_shim(tmp_path), tmp_path / "control", f"/{STORE}/")
        with host(folder, more=shim.variables) as process:
            burst(process, 0, 100)
            shim.fail(Call.WRITE, errno.EIO)
            for first in range(100, 100 + count, 10_000):  # as many as its pipe holds that says which
                burst(process, first, 10_000, pad=2_000)
            said(process, "RFS-S105")
            assert shim.failed(Call.WRITE) > 0
            shim.fail(Call.WRITE, 0)
            books = eventually(lambda: settled(process), says=lambda: (look(process), process.errors()))
            kept = look(process)["numbers"]

        shed = sum(amount for name, amount in books.items() if name.startswith("dropped_"))
        assert shed > 0
        assert len(kept) == len(set(kept))
        assert set(range(100)) <= set(kept)
        # The same line, as fast as a quick machine records it, is a storm as well.
        assert len(kept) + shed + books.get("suppressed", 0) == 100 + count


def settled(process: Process) -> dict[str, float]:
    """Its books, once nothing is on the way; empty before."""
    books: dict[str, float] = process.ask(do="books")
    return books if books["in_flight"] == 0 else {}


def started(folder: Path, *arguments: str) -> Process:
    """A host that records into *folder* and is ready."""
    process = Process("host", "WITNESS", *arguments, env=environment(RFS_DIR=str(folder)))
    assert process.answer() == "ready"
    return process


class TestB25NewerStore:
    def test_is_left_as_it_is(self, tmp_path: Path) -> None:
        """
        A service that finds a catalogue of a newer version runs, says so, and answers from its own memory; the file stays as it was.
        """
        folder = tmp_path / "rfs"
        with started(folder) as process:
            burst(process, 0, 20)
            eventually(lambda: (folder / STORE / CATALOGUE).exists(), says=process.errors)
            process.tell(do="exit", how="return")
            assert process.wait() == 0
        with closing(sqlite3.connect(folder / STORE / CATALOGUE)) as connection:
            connection.executescript("UPDATE meta SET value = 999 WHERE name = 'version'; PRAGMA user_version = 999")
        before = (folder / STORE / CATALOGUE).read_bytes()

        with host(folder) as process:
            burst(process, 20, 50)
            said(process, "RFS-S112")
            assert look(process)["numbers"][-50:] == list(range(20, 70))

        assert (folder / STORE / CATALOGUE).read_bytes() == before
        assert names_in(folder / STORE / "quarantine") == []


class TestB27RollingDeploy:
    def test_nothing_is_lost(self, tmp_path: Path) -> None:
        """
        Old and new workers in one directory. What the old ones write the new ones read; what the new ones write an old leader leaves
        alone, also of those that were killed, until a new one leads. An old one that cannot write the store any more, because a
        new one has migrated it, gives the lead to the next new one.
        """
        folder, made = tmp_path / "rfs", 0

        def record(*processes: Process) -> None:
            nonlocal made
            for process in processes:
                burst(process, made, 100)
                made += 100

        def leads(process: Process) -> None:
            eventually(lambda: look(process)["leads"], says=lambda: (look(process), process.errors()))

        with started(folder) as old:
            leads(old)
            with started(folder) as other:
                with started(folder, "newer") as new:
                    record(old, new, other, new)
                    assert look(new)["numbers"] == list(range(made))
                    said(old, "RFS-S112")
                    new.kill()
                    left = {name for name in names_in(folder / "live") if name.startswith(f"{new.pid}-")}
                looks = look(old)["mends"]
                eventually(lambda: look(old)["mends"] > looks + 3)
                assert look(old)["leads"]
                assert left <= set(names_in(folder / "live"))
                assert len(left) > 2

                with started(folder, "newer") as new:
                    record(new, old)
                    other.send(signal.SIGSTOP)  # or it might lead
                    old.kill()
                    leads(new)
                    other.send(signal.SIGCONT)
                    record(other, new)
                    assert_keeps_all(new, made)
                    new.kill()
                leads(other)
                said(other, "RFS-S112")
                record(other)

                with started(folder, "newer") as new:
                    leads(new)
                    eventually(lambda: not look(other)["leads"])
                    record(new, other)
                    eventually(lambda: settled(new), says=lambda: (look(new), new.errors()))
                    assert_keeps_all(new, made)


class TestB28RetentionWhileQueriesRead:
    def test_answers_are_of_one_moment(self, tmp_path: Path) -> None:
        """
        While a leader lets a chunk go each turn, threads page through all records and ask for everything: no error, no record twice or
        missing between the oldest and the newest of an answer, and JSON that is whole.
        """
        clock = VirtualTime(END)
        policy = Retention(records_seconds=6 * 3_700, second=60, ten_seconds=600, minute=3_600, hour=86_400)
        monitor = Monitor(service_name="days", clock=clock, directory=tmp_path / "rfs", retention=policy)
        leader, made, over = monitor._leader, monitor.counter("made_total").labels(), threading.Event()
        answers: list[list[int]] = []
        faults: list[BaseException] = []

        def turn(number: int) -> None:
            for each in range(number * 20, number * 20 + 20):
                monitor.log(20, "made", fields={"number": each})
            made.inc(20)
            leader._capture_and_lead(is_new=False)
            leader.sample()
            local = leader._local
            assert local is not None
            leader._import(local, at_once=True)
            clock.advance(3_700)

        def ask_for_all() -> None:
            try:
                while not over.is_set():
                    query, found, before = monitor.query.settled(), list[int](), None
                    while page := query.records(limit=33, before=before):
                        found += [record.context["number"] for record in page if record.message == "made"]
                        before = page[-1].cursor
                    answers.append(found)
                    assert query.increase("made_total", "10d") is not None
                    json.loads(json.dumps(query.summary(600), allow_nan=False))
            except BaseException as error:  # noqa: BLE001 - for the main thread to see
                faults.append(error)

        turn(0)
        threads = [threading.Thread(target=ask_for_all) for _ in range(3)]
        for thread in threads:
            thread.start()
        turns = size(whole=1_000, small=40)
        for number in range(1, turns):
            turn(number)
        over.set()
        for thread in threads:
            thread.join()
        kept = [record.context["number"] for record in monitor.query.records(limit=1_000) if record.message == "made"]
        monitor.stop()

        assert faults == []
        assert len(kept) < turns * 20 / 2  # the others were let go
        assert len(answers) > 3
        for found in answers:
            assert found == list(range(found[0], found[0] - len(found), -1))


def numbers_of_host(folder: Path) -> list[int]:
    """The numbers that a reader from outside finds, each as often as it is there."""
    with open_directory(folder, on_problem=lambda _code, _text: None) as query:
        return sorted(record.context["n"] for record in query.records_by_correlation_id("b", 100_000))


class TestB2FullDisk:
    def test_the_service_goes_on_and_the_store_heals(self, tmp_path: Path) -> None:
        """
        While nobody can write, every call returns and readers find what is newest; when space returns the store takes in what has
        waited, untold, and all is there once.
        """
        with tmpfs(tmp_path / "m", size=96 << 20) as disk:
            folder = disk.path / "d"
            with host(folder) as process:
                burst(process, 0, 200)
                eventually(lambda: (folder / "store" / "reserve").exists(), says=process.errors)
                disk.fill()
                (folder / "store" / "reserve").unlink()
                disk.fill("more")
                before = chunk_bytes(folder)
                burst(process, 200, 2_000)
                said(process, "RFS-S102")
                assert look(process)["numbers"][-2_000:] == list(range(200, 2_200))
                disk.fill("rest")
                (disk.path / "filler").unlink()
                (disk.path / "more").unlink()
                (disk.path / "rest").unlink()

                eventually(lambda: chunk_bytes(folder) > before, says=process.errors)
                burst(process, 2_200, 100)
                assert_keeps_all(process, 2_300)
            assert numbers_of_host(folder) == list(range(2_300))


class TestRestart:
    def test_history_is_there_and_the_gap_is_one(self, tmp_path: Path) -> None:
        """
        A process that comes after another one answers with what that has measured, and of the time in between with None, not 0.
        """
        folder = tmp_path / "d"
        with host(folder) as process:
            burst(process, 0, 50)
            eventually(lambda: look(process)["leads"])
            eventually(lambda: (folder / "store" / "catalogue.sqlite").exists())
            burst(process, 50, 50)
        ended = time.time()
        eventually(lambda: time.time() > ended + 3)

        with host(folder) as process:
            burst(process, 100, 20)
            assert_keeps_all(process, 120)
            with open_directory(folder, on_problem=lambda code, text: None) as query:
                assert query.increase("host_total", "5m") == 120
                gap = [
                    point.value for point in query.points("host_total", "5m", 1) if ended + 1 <= point.time <= ended + 2
                ]
            assert gap
            assert set(gap) == {None}
