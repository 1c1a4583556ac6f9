"""What a process sees of the others' live files, at moments that come about by chance once in thousands of times."""

from __future__ import annotations

import errno
import gc
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from mmap import mmap
from pathlib import Path
from threading import Event, Thread
from traceback import walk_stack
from typing import Any

import pytest

from rfs.monitoring import _live
from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.instruments import Registry
from rfs.monitoring._capture.live import LiveDirectory
from rfs.monitoring._capture.record import decode_record
from rfs.monitoring._capture.segments import Segments, Waiting
from rfs.monitoring._capture.storm import DEFAULT_LIMIT
from rfs.monitoring._leader import LOST
from rfs.monitoring._live import MAX_DEAD_SEGMENTS, Lease, LiveReader, Pending
from rfs.monitoring._store.memory import MemoryStore
from rfs.monitoring.monitor import Monitor
from rfs.testing.virtual_time import VirtualTime
from tests.faults.processes import eventually


@pytest.fixture
def watcher(tmp_path: Path) -> Iterator[Monitor]:
    made = Monitor(service_name="live", directory=tmp_path)
    yield made
    made.stop()


@pytest.fixture
def other(watcher: Monitor, tmp_path: Path) -> Monitor:
    """Another process, as far as *watcher* can tell; it dies by ``capture.close()``."""
    return Monitor(service_name="live", directory=tmp_path)


def fold(watcher: Monitor) -> dict[str, float]:
    """Let *watcher* lead, fold who is dead, and say how the books are."""
    for _ in range(2):
        watcher._leader._capture_and_lead(is_new=False)
    import_now(watcher)
    return watcher.query.books()["records"]


def import_now(watcher: Monitor) -> None:
    """Let *watcher*, which leads, not wait until there is more."""
    local = watcher._leader._local
    assert local is not None
    assert local.leads
    watcher._leader._import(local, at_once=True)


def total(monitor: Monitor) -> float:
    return sum(value for key, value in monitor.query.totals().counters.items() if key.name == "seen_total")


class TestBeginning:
    def test_alive_before_its_cells_are_in_sight(
        self, watcher: Monitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        A process that is seen between the two files that it begins with is known as living, and folded when it is dead.
        """
        looked: list[int] = []
        move = Registry.move

        def look_and_move(registry: Registry, make: Callable[[int], mmap], *, keep: bool) -> None:
            watcher.query.totals()
            looked.append(watcher._leader.live.living())
            move(registry, make, keep=keep)

        monkeypatch.setattr(Registry, "move", look_and_move)
        other = Monitor(service_name="live", directory=tmp_path)
        other.counter("seen_total").inc(3)

        assert looked == [2]
        assert total(watcher) == 3
        assert watcher._leader.live.living() == 2
        other.capture.close()
        watcher._leader._capture_and_lead(is_new=False)
        watcher._leader._capture_and_lead(is_new=False)
        assert total(watcher) == 3
        assert not list((tmp_path / "live").glob(f"{other.capture.process}*"))


class TestWithoutDescriptors:
    def test_looks_again(self, watcher: Monitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Simulated: files that cannot be opened for want of descriptors are read, and folded, as soon as they can be.
        """
        refused: list[str] = []

        def refuse(_: LiveDirectory, name: str, **__: Any) -> mmap:
            refused.append(name)
            raise OSError(errno.EMFILE, "Too many open files")

        other = Monitor(service_name="live", directory=tmp_path)
        other.counter("seen_total").inc(3)
        other.log(20, "kept")
        with monkeypatch.context() as without:
            without.setattr(LiveDirectory, "map", refuse)
            without.setattr(LiveDirectory, "watch", refuse)
            watcher.query.records()

        assert {Path(name).suffix for name in refused} == {".alive", ".cells", ".segment"}
        assert total(watcher) == 3
        assert [record.message for record in watcher.query.records()] == ["kept"]
        assert watcher._leader.live.living() == 2


class TestDirectoryThatComesBack:
    def test_while_somebody_asks(self, tmp_path: Path) -> None:
        """
        The directory can be used again just as somebody begins to ask: what was recorded without it is found, then and later.
        """
        folder = tmp_path / "rfs"
        folder.write_text("in the way")
        monitor = Monitor(service_name="live", directory=folder)
        monitor.log(20, "recorded in memory")
        leader, found = monitor._leader, list[str]()
        before = monitor.capture.state.mode

        def ask() -> None:
            found.extend(record.message for record in monitor.query.records())

        asking = Thread(target=ask)
        with leader._lock:
            asking.start()
            eventually(lambda: is_inside(asking, "collect"))
            folder.unlink()
            monitor.capture.mend()
        asking.join()
        monitor.beat()

        assert (before, monitor.capture.state.mode) == ("memory", "directory")
        assert found == ["recorded in memory"]
        assert [record.message for record in monitor.query.records()] == ["recorded in memory"]
        monitor.stop()


def is_inside(thread: Thread, function: str) -> bool:
    """Whether *thread* is in a call of *function* right now."""
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and any(each.f_code.co_name == function for each, _ in walk_stack(frame))


class TestForgotten:
    def test_leaves_no_descriptor(self, tmp_path: Path) -> None:
        """
        A Monitor that has led in a directory, was stopped and is forgotten holds no file open.
        """

        def open_here() -> list[str]:
            folder = Path("/proc/self/fd")
            paths = [each.readlink() for each in folder.iterdir() if each.is_symlink()]
            return [str(path) for path in paths if path.is_relative_to(tmp_path)]

        monitor = Monitor(service_name="live", directory=tmp_path)
        monitor.log(20, "kept")
        monitor.beat()
        assert len(monitor.query.records()) == 1
        assert open_here()

        monitor.stop()
        del monitor
        gc.collect()
        assert open_here() == []


class TestAtRest:
    def test_a_segment_is_opened_for_its_records_alone(
        self, watcher: Monitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        Numbers need no segment; and where nothing was recorded since, the leader opens none to say how far it has read.
        """
        other = Monitor(service_name="live", directory=tmp_path)
        other.counter("seen_total").inc(3)
        other.log(20, "first")
        opened: list[str] = []
        map_file = LiveDirectory.map

        def count(directory: LiveDirectory, name: str, *, writable: bool = False) -> mmap:
            opened.append("segment to write" if writable else Path(name).suffix)
            return map_file(directory, name, writable=writable)

        monkeypatch.setattr(LiveDirectory, "map", count)

        assert total(watcher) == 3
        assert ".segment" not in opened
        assert len(watcher.query.records()) == 1
        assert sorted(opened) == [".cells", ".cells", ".segment"]
        fold(watcher)
        assert opened[3:] == ["segment to write"]
        fold(watcher)
        assert len(opened) == 4
        other.log(20, "second")
        assert len(watcher.query.records()) == 2
        assert len(opened) == 4
        fold(watcher)
        assert opened[4:] == ["segment to write"]
        assert watcher.query.books()["records"]["delivered"] == 2


class TestBooksOfTheDead:
    def test_what_was_suppressed_is_not_lost(self, watcher: Monitor, tmp_path: Path) -> None:
        """
        Records that a dead process had suppressed itself are not counted as lost in a crash.
        """
        # Its clock stands still: however slow the machine is, this is a storm.
        other = Monitor(service_name="live", directory=tmp_path, clock=VirtualTime())
        for _ in range(30_000):
            other.log(20, "storm")
        other.capture.close()

        books = fold(watcher)

        assert books["suppressed"] == 30_000 - DEFAULT_LIMIT
        assert "lost_on_crash" not in books
        assert books["in_flight"] == 0

    def test_damage_counts_once(self, watcher: Monitor, other: Monitor) -> None:
        """
        A damaged frame is one in `rfs_corrupt_frames_total` and nothing else, before and after its process is dead.
        """
        for text in ("first", "damaged", "last"):
            other.log(20, text)
        segments = other.capture.segments
        assert isinstance(segments, Segments)
        at = segments.memory.find(b"damaged")
        segments.memory[at] ^= 1

        def seen(books: dict[str, float]) -> tuple[float, float, float, float]:
            (corrupt,) = (
                value
                for key, value in watcher.query.totals().counters.items()
                if key.name == "rfs_corrupt_frames_total"
            )
            return corrupt, books["dropped_corrupt_frame"], books.get("lost_on_crash", 0), books["in_flight"]

        fold(watcher)
        assert seen(fold(watcher)) == (1, 1, 0, 0)
        other.capture.close()
        assert seen(fold(watcher)) == (1, 1, 0, 0)
        assert [record.message for record in watcher.query.records()] == ["last", "first"]


class TestWhatWasBefore:
    def test_so_much_is_read_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Where each keeps what it sees in its own memory, who comes later reads the newest segments as a whole; of older ones what nobody
        has imported, and nothing twice.
        """
        watcher = Monitor(service_name="live", directory=tmp_path, store=MemoryStore())
        watcher._leader._capture_and_lead(is_new=False)
        others = [Monitor(service_name="live", directory=tmp_path) for _ in range(3)]
        for number, other in enumerate(others):
            other.log(20, f"imported from {number}")
        watcher.query.books()
        for number, other in enumerate(others):
            other.log(20, f"left by {number}")
            segment = next((tmp_path / "live").glob(f"{other.capture.process}*.segment"))
            os.utime(segment, ns=(number, number))
            other.capture.close()
        monkeypatch.setattr(_live, "READ_AGAIN_BYTES", 1)

        late = Monitor(service_name="live", directory=tmp_path, store=MemoryStore())
        try:
            seen = [record.message for record in late.query.records()]
            in_flight = watcher.query.books()["records"]["in_flight"]
        finally:
            late.stop()
            watcher.stop()

        assert sorted(seen) == ["imported from 2", "left by 0", "left by 1", "left by 2"]
        assert in_flight == 0


class TestListing:
    @pytest.mark.usefixtures("switching_often")
    def test_two_threads_at_once(self, tmp_path: Path) -> None:
        """
        Whoever lists the directory sees all of it, also while another thread lists it: what is not seen counts as gone.
        """
        directory = LiveDirectory(tmp_path)
        expected = {f"{number}-x.cells" for number in range(200)}
        for name in expected:
            (directory.path / name).touch(mode=0o600)
        wrong: list[int] = []

        def look() -> None:
            wrong.extend(len(names) for _ in range(300) if (names := set(directory.names())) != expected)

        threads = [Thread(target=look) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        directory.close()

        assert wrong == []

    def test_records_are_there_once_whoever_lists(self, watcher: Monitor, other: Monitor) -> None:
        """
        Another thread lists the directory without end: a living process' records still come into the store once.
        """
        directory = watcher.capture.directory
        assert directory is not None
        stop = Event()

        def look() -> None:
            while not stop.is_set():
                directory.names()

        thread = Thread(target=look)
        thread.start()
        try:
            for number in range(500):
                other.log(20, f"record {number}")
                watcher.query.books()
        finally:
            stop.set()
            thread.join(60)

        told = [record.message for record in watcher.query.records(limit=10_000)]
        assert sorted(told) == sorted(f"record {number}" for number in range(500))


class TestPending:
    def places(self, live: LiveReader) -> list[tuple[str, int, int]]:
        live.refresh()
        return sorted(
            (run.source, run.sequence, offset) for run in live.waiting().held for offset in run.offsets if run.frames
        )

    def messages(self, found: Pending | Waiting) -> list[str]:
        pieces = found.pieces() if isinstance(found, Waiting) else [found.runs]
        return [decode_record(frame.payload).message for piece in pieces for run in piece for frame in run.frames]

    def test_places_are_the_same_in_every_process(self, watcher: Monitor, other: Monitor, tmp_path: Path) -> None:
        """
        Whoever reads, the process itself or another one, knows each record by the same file and place.
        """
        for number in range(3):
            watcher.log(20, f"{number}")
            other.log(20, f"{number}")
        own, others = LiveReader(watcher.capture), LiveReader(other.capture)

        assert self.places(own) == self.places(others)
        files = {place[0] for place in self.places(own)}
        assert files == {path.name for path in (tmp_path / "live").glob("*.segment")}
        assert len(self.places(own)) == 6

    def test_marked_is_what_was_handed_out(self, watcher: Monitor, other: Monitor) -> None:
        """
        What was recorded, and even read, after what is marked was handed out is pending still; in every process.
        """
        live, others = LiveReader(watcher.capture), LiveReader(other.capture)
        other.log(20, "first")
        live.refresh()
        pending = live.pending(1 << 24)
        other.log(20, "second")
        watcher.log(20, "third")
        live.refresh()
        others.refresh()
        assert (
            sorted(self.messages(live.waiting()))
            == sorted(self.messages(others.waiting()))
            == ["first", "second", "third"]
        )

        assert live.mark(pending) == 1
        assert live.mark(pending) == 0

        assert sorted(self.messages(live.waiting())) == sorted(self.messages(others.waiting())) == ["second", "third"]
        late = LiveReader(other.capture)
        late.refresh()
        assert sorted(self.messages(late.waiting())) == ["second", "third"]

    def test_the_limit(self, watcher: Monitor, other: Monitor) -> None:
        """
        No more than the limit, and a hundred records, is held; the rest comes when that is marked, each once.
        """
        for number in range(1_000):
            other.log(20, f"{number}")
        live = LiveReader(watcher.capture)
        live.refresh()
        found: list[str] = []
        while (pending := live.pending(10_000)).runs:
            assert self.messages(live.pending(10_000)) == self.messages(pending)
            assert len(self.messages(pending)) < 300
            found += self.messages(pending)
            live.mark(pending)

        assert found == [f"{number}" for number in range(1_000)]

    @pytest.mark.parametrize("is_dead", [False, True])
    def test_what_is_not_held(self, watcher: Monitor, other: Monitor, *, is_dead: bool) -> None:
        """
        Whoever asks gets all that waits, however much is held: what is beyond is read for him alone, and marked by nobody.
        """
        for number in range(1_000):
            other.log(20, f"{number}")
        if is_dead:
            other.capture.close()
        live = LiveReader(watcher.capture)
        left = set(map(str, range(1_000)))
        for _ in range(3):
            live.refresh()
            waiting = live.waiting(held_bytes=10_000)
            assert sum(len(run.frames) for run in waiting.held) < 300
            assert sorted(self.messages(waiting)) == sorted(left)
            marked = live.pending(10_000)
            assert live.mark(marked) == len(self.messages(marked)) > 0
            left -= set(self.messages(marked))

    def test_blocks_without_the_text_are_not_read(self, watcher: Monitor, other: Monitor) -> None:
        """
        Of what is not held, only the blocks that have the text somewhere are read.
        """
        for number in range(4_000):
            other.log(20, f"{number} {'early' if number < 10 else 'late'}")
        live = LiveReader(watcher.capture)

        def read(text: bytes) -> int:
            live.refresh()
            return sum(len(run.frames) for piece in live.waiting(text).pieces() for run in piece)

        assert 10 <= read(b"early") < 4_000
        assert read(b"never") == 0
        assert read(b"late") == read(b"") == 4_000

    def test_segments_of_the_dead(self, watcher: Monitor, other: Monitor, tmp_path: Path) -> None:
        """
        Where a store has what is imported, a dead process' segment goes when all of it is marked, and not earlier; and a process is
        folded when all of it has been read.
        """
        for number in range(1_000):
            other.log(20, f"{number}")
        segment = other.capture.process + "*.segment"
        other.capture.close()
        live, lease = LiveReader(watcher.capture), Lease(watcher.capture)
        assert lease.keep()

        def fold(limit_bytes: int) -> Pending:
            live.refresh()
            dead = live.take_dead()
            pending = live.pending(limit_bytes)
            live.fold(dead, lease, LOST, 0.0, is_imported=True)
            return pending

        first = fold(10_000)
        assert list((tmp_path / "live").glob(other.capture.process + "*.alive"))
        live.mark(first)
        rest = fold(1 << 24)
        assert not list((tmp_path / "live").glob(other.capture.process + "*.alive"))
        assert list((tmp_path / "live").glob(segment))
        live.mark(rest)
        fold(1 << 24)

        assert not list((tmp_path / "live").glob(segment))
        assert len(self.messages(first) + self.messages(rest)) == 1_000
        assert LOST not in live.read().counters


class TestB27BehindTheStore:
    def test_leaves_records_to_who_can_keep_them(self, watcher: Monitor, other: Monitor, tmp_path: Path) -> None:
        """
        A worker whose library is older than the store shows what is recorded, and leaves it in the live files: also when it leads, and
        of those that are dead.
        """
        fold(watcher)
        watcher.stop()
        with closing(sqlite3.connect(tmp_path / "store" / "catalogue.sqlite")) as connection:
            connection.executescript("UPDATE meta SET value = 999 WHERE name = 'version'; PRAGMA user_version = 999")
        for number in range(MAX_DEAD_SEGMENTS + 2):
            dead = Monitor(service_name="live", directory=tmp_path)
            dead.log(20, f"of dead {number}")
            dead.capture.close()
        behind = Monitor(service_name="live", directory=tmp_path)
        other.log(20, "of the living")

        for _ in range(3):
            behind._leader._capture_and_lead(is_new=False)
            assert len(behind.query.records()) == MAX_DEAD_SEGMENTS + 3

        assert behind._leader.leads()
        assert "RFS-S112" in "".join(behind.diagnostics)
        assert behind.query.books()["records"]["in_flight"] == MAX_DEAD_SEGMENTS + 3
        live = LiveReader(behind.capture)
        live.refresh()
        assert sum(len(run.frames) for run in live.pending(1 << 20).runs) == MAX_DEAD_SEGMENTS + 3
        behind.stop()


class TestHurt:
    """A process that is dead and has not left all its files: what the store has counted of it stands, and nothing is counted twice."""

    @pytest.fixture
    def dead(self, watcher: Monitor, other: Monitor, tmp_path: Path) -> Monitor:
        """Dead, after all it had measured was counted; another one before it is folded, and has measured the same."""
        before = Monitor(service_name="live", directory=tmp_path)
        for one, count in ((before, 20), (other, 5)):
            one.counter("seen_total").inc(count)
            one.counter("seen_by_total").inc(count, who="both")
            one.histogram("waits").observe(count)
            for number in range(count):
                one.log(20, f"record {number}")
        before.capture.close()
        fold(watcher)
        watcher._leader.beat()
        assert of(watcher) == (25, 25, 2)
        other.log(20, "last")
        other.capture.close()
        return other

    @pytest.mark.parametrize("gone", ["*.0.cells", "*.1.cells", "*.cells", "*.segment"])
    def test_a_file_is_gone(self, watcher: Monitor, dead: Monitor, tmp_path: Path, gone: str) -> None:
        """
        It is said; counters and histograms are what they were; a record that was in a file is lost, and no other.
        """
        for file in (tmp_path / "live").glob(f"{dead.capture.process}{gone}"):
            file.unlink()
        watcher._leader.live.forget_files()  # as the next leader

        books = fold(watcher)
        watcher._leader.beat()

        assert of(watcher) == (25, 25, 2)
        assert (watcher.query.increase("seen_total", "1h"), watcher.query.increase("seen_by_total", "1h")) == (25, 25)
        assert books.get("lost_on_crash", 0) == (gone == "*.segment")
        assert books["in_flight"] == 0
        (said,) = watcher.diagnostics
        assert said.startswith(f"RFS-S113 process {dead.capture.process} is dead, and")
        assert watcher.query.totals().counters[SeriesKey("rfs_store_corrupt_total", ())] == 1

    def test_a_file_is_damaged(self, watcher: Monitor, dead: Monitor, tmp_path: Path) -> None:
        """
        Likewise where it is there, and a leader that comes cannot read it.
        """
        (file,) = (tmp_path / "live").glob(f"{dead.capture.process}.0.cells")
        with file.open("r+b") as content:
            content.write(b"something else")
        watcher._leader.live.forget_files()

        fold(watcher)
        watcher._leader.beat()

        assert of(watcher) == (25, 25, 2)
        assert watcher.query.increase("seen_total", "1h") == 25
        assert [line[:8] for line in watcher.diagnostics] == ["RFS-S113"] * 2

    def test_of_a_living_one(self, watcher: Monitor, other: Monitor, tmp_path: Path) -> None:
        """
        Where a living process' file is gone, readings are not whole: what seems to have fallen has not begun again.
        """
        other.counter("seen_total").inc()
        assert total(watcher) == 1
        assert watcher._leader.live.is_whole
        (file,) = (tmp_path / "live").glob(f"{other.capture.process}.0.cells")

        file.unlink()

        watcher._leader.live.read()
        assert not watcher._leader.live.is_whole

    def test_waits_for_others(self, watcher: Monitor, dead: Monitor, tmp_path: Path) -> None:
        """
        While others' files cannot be read either, what is missing is not all of the dead one's: it is folded later.
        """
        (file,) = (tmp_path / "live").glob(f"{dead.capture.process}.0.cells")
        file.unlink()
        others = tmp_path / "live" / "1-0123456789abcdef.0.cells"
        others.write_bytes(b"something else" * 1_000)

        fold(watcher)
        assert [*(tmp_path / "live").glob(f"{dead.capture.process}.1.cells")]
        others.unlink()
        fold(watcher)

        assert not [*(tmp_path / "live").glob(f"{dead.capture.process}.*")]
        assert of(watcher) == (25, 25, 2)


def of(monitor: Monitor) -> tuple[float, float, float]:
    """What is measured in all."""
    totals = monitor.query.totals()
    return (
        totals.counters[SeriesKey("seen_total", ())],
        totals.counters[SeriesKey("seen_by_total", (("who", "both"),))],
        totals.sketches[SeriesKey("waits", ())].count,
    )


class TestDamage:
    def test_of_the_sums(self, watcher: Monitor, other: Monitor, tmp_path: Path) -> None:
        """
        Sums of the dead that cannot be read are left out and said once; a Monitor starts beside them.
        """
        other.counter("seen_total").inc()
        (tmp_path / "live" / "totals-7").write_bytes(b"something else" * 9)
        said: list[str] = []

        late = LiveReader(watcher.capture, lambda code, text: said.append(f"{code} {text}"))

        for _ in range(2):
            assert late.read().counters[SeriesKey("seen_total", ())] == 1
        assert [one.partition(":")[0] for one in said] == ["S113 live file totals-7 is left out"]
        Monitor(service_name="late", directory=tmp_path).stop()

    def test_of_cells_that_are_gone(self, watcher: Monitor, other: Monitor, tmp_path: Path) -> None:
        """
        Readings are not whole for as long as there are cells that cannot be read, and are whole again when those are gone.
        """
        other.counter("seen_total").inc()
        damaged = tmp_path / "live" / "1-0123456789abcdef.0.cells"
        damaged.write_bytes(b"something else" * 1_000)
        said: list[str] = []
        live = LiveReader(watcher.capture, lambda code, text: said.append(f"{code} {text}"))

        def is_whole() -> bool:
            live.read()
            return live.is_whole

        assert [is_whole(), is_whole()] == [False, False]
        damaged.unlink()
        assert is_whole()

        assert not live.refused
        assert len(said) == 1

    def test_of_a_segment(self, watcher: Monitor, other: Monitor, tmp_path: Path) -> None:
        """
        A segment that cannot be read is said, and readings are whole, for it has no series.
        """
        other.log(20, "seen")
        (segment,) = (tmp_path / "live").glob("*.segment")
        segment.write_bytes(b"something else" * 1_000)
        said: list[str] = []
        live = LiveReader(watcher.capture, lambda code, text: said.append(f"{code} {text}"))

        live.read()
        assert not live.pending(1 << 20).runs
        live.read()

        assert [one.partition(":")[0] for one in said] == [f"S113 live file {segment.name} is left out"]
        assert live.is_whole

    def test_of_who_leads(self, watcher: Monitor, tmp_path: Path) -> None:
        """
        Where nobody can read who leads, the next one does.
        """
        name = b"\x92\xa2\xff\xfe\x01"
        (tmp_path / "live" / "leader-7").write_bytes((len(name).to_bytes(2, "little") + name).ljust(1_032, b"\0"))

        lease = Lease(watcher.capture)

        assert lease.keep()
        assert lease.epoch == 8
