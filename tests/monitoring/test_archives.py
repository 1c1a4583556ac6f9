"""Archives: what is put aside is whole, comes back once, and gives the same answers as before."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfs.errors import ArchiveError, StoreError
from rfs.monitoring import archives as module
from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.segments import Frame
from rfs.monitoring._store import EVERYTHING, Reader, Wanted, Window
from rfs.monitoring._store import catalogue as catalogue_module
from rfs.monitoring._store.catalogue import Catalogue, CatalogueReader
from rfs.monitoring._store.chunks import SEALED_SUFFIX, ChunkWriter
from rfs.monitoring._store.local import CATALOGUE
from rfs.monitoring._store.ranges import WindowReader, WindowsAt
from rfs.monitoring._store.retention import CHUNKS
from rfs.monitoring._store.windows import WindowWriter
from rfs.monitoring.archives import MANIFEST, ArchiveReader, Manifest, archive, restore, verify
from rfs.monitoring.retention import Retention
from tests.faults.processes import Process, names_in
from tests.monitoring.chunks import by_time, contents, opened, record, run_of, sealed
from tests.monitoring.led import no_problem
from tests.monitoring.test_windows import in_memory, sketch

DAY, HOUR = 86_400, 3_600
BEGIN = 1_800_000_000 // DAY * DAY
ORDERS = SeriesKey("orders_total", (("status", "created"),))
LOST = SeriesKey("orders_total", (("status", "lost"),))
OPEN = SeriesKey("open", ())
WAITS = SeriesKey("wait_seconds", ())
LONG = Retention(second=10 * DAY, ten_seconds=20 * DAY, minute=30 * DAY)


def at(second: float) -> datetime:
    return datetime.fromtimestamp(second, UTC)


class Kept:
    """A store, as its leader has it."""

    def __init__(self, path: Path, *, retention: Retention = LONG, epoch: int = 3) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        with opened(path / CHUNKS):
            pass
        self.catalogue = Catalogue(path / CATALOGUE, epoch=epoch, on_problem=no_problem, now=lambda: BEGIN)
        self.writer = WindowWriter(self.catalogue, on_problem=no_problem, retention=retention)
        self.reading = CatalogueReader(path / CATALOGUE)
        self.windows = WindowReader(self.reading, on_problem=no_problem)
        self.reader = self.windows.at(None, BEGIN)

    def put(self, *windows: Window) -> None:
        for window in windows:
            with self.catalogue.turn() as turn:
                self.writer.put(turn, window)
            self.maintain()

    def maintain(self) -> None:
        while not self.writer.maintain(60.0):
            pass

    def seal(self, name: str, frames: list[Frame]) -> None:
        with opened(self.path / CHUNKS) as directory:
            sealed(directory, name, frames)

    def records(self) -> list[Frame]:
        with opened(self.path / CHUNKS) as directory:
            return by_time(frame for name in names_in(self.path / CHUNKS) for frame in contents(directory, name))

    def close(self) -> None:
        self.reading.close()
        self.catalogue.close()


def window(second: int, number: int) -> Window:
    return Window(
        second,
        {ORDERS: number + 0.5, **({LOST: 1.0} if number % 3 == 0 else {})},
        {OPEN: float(number)},
        {WAITS: sketch(*range(1, 2 + number % 5))},
    )


def answers(reader: WindowsAt | Reader, start: int, end: int, step: int) -> list[Any]:
    """All that can be asked about a range."""
    sketches = reader.sketches([WAITS], start, end)
    return [
        reader.increases([ORDERS, LOST], start, end),
        [one and (one.count, one.sum, one.positive, one.min, one.max) for one in sketches],
        reader.points([ORDERS, LOST, OPEN, WAITS], start, end, step),
        reader.quantiles([WAITS], 0.5, start, end, step),
    ]


RANGES = [
    (BEGIN, BEGIN + 5 * DAY, HOUR),
    (BEGIN + 7, BEGIN + 3 * DAY + 20, DAY),
    (BEGIN + DAY, BEGIN + DAY + 2 * HOUR, 60),
    (BEGIN + 2 * DAY + 90, BEGIN + 2 * DAY + 500, 10),
    (BEGIN + 100, BEGIN + 400, 1),
]


def all_answers(reader: WindowsAt) -> list[Any]:
    return [answers(reader, *each) for each in RANGES]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Kept]:
    """Five days: windows each day, and a chunk of records."""
    kept = Kept(tmp_path / "store")
    for day in range(5):
        second = BEGIN + day * DAY
        kept.put(*(window(second + offset, day + offset) for offset in (100, 101, 130, 200, 4_000, 40_000)))
        kept.seal(f"{day}", [record((second + each) * 10**9, message=f"m{each}") for each in range(20)])
    kept.put(window(BEGIN + 5 * DAY + 10, 1))
    yield kept
    kept.close()


def folder_of(manifest: Manifest) -> set[str]:
    return {file.name for file in manifest.files}


class TestArchive:
    def test_whole_chunks_and_whole_days(self, store: Kept, tmp_path: Path) -> None:
        """
        The chunks of which all records are older, and the windows of whole days; the manifest says what, of when, and how much.
        """
        manifest = archive(
            store.path, tmp_path / "a", before=at(BEGIN + 3 * DAY + 10), service="orders", now=lambda: BEGIN + 6 * DAY
        )

        chunks = [f"{CHUNKS}/{day}{SEALED_SUFFIX}" for day in range(3)]
        assert folder_of(manifest) == {CATALOGUE, *chunks}
        assert (manifest.service, manifest.created) == ("orders", at(BEGIN + 6 * DAY))
        assert manifest.windows_until == BEGIN + 3 * DAY
        assert [(file.since_ns, file.until_ns, file.records) for file in manifest.chunks] == [
            ((BEGIN + day * DAY) * 10**9, (BEGIN + day * DAY + 19) * 10**9, 20) for day in range(3)
        ]
        assert all((tmp_path / "a" / file.name).stat().st_size == file.bytes for file in manifest.files)
        assert all((tmp_path / "a" / file.name).stat().st_mode & 0o777 == 0o600 for file in manifest.files)
        assert verify(tmp_path / "a") == manifest
        assert names_in(store.path) == sorted(
            [CATALOGUE, CATALOGUE + "-shm", CATALOGUE + "-wal", CATALOGUE + ".lock", CHUNKS]
        )

    def test_nothing_that_is_being_written(self, tmp_path: Path) -> None:
        """
        The open chunk stays, and so do days that are not all in blocks yet; of a store without anything the archive is empty.
        """
        kept = Kept(tmp_path / "store")
        kept.put(window(BEGIN + 10, 1), window(BEGIN + 5 * DAY, 1))
        with kept.catalogue.turn() as turn:
            kept.writer.put(
                turn, window(BEGIN + DAY + 7, 1)
            )  # a clock that was set back, and nothing is maintained yet
        with opened(kept.path / CHUNKS) as directory:
            writer = ChunkWriter(directory, "c", 5)
            writer.add([run_of([record(1)])])

            manifest = archive(kept.path, tmp_path / "a", before=at(BEGIN + 4 * DAY))

            assert folder_of(manifest) == {CATALOGUE}
            assert manifest.windows_until == BEGIN + DAY
            writer.close()
            writer.reader.close()
        (tmp_path / "new").mkdir()
        assert archive(tmp_path / "new", tmp_path / "b", before=at(BEGIN)).files == []
        kept.close()

    def test_of_the_same_time_once(self, store: Kept, tmp_path: Path) -> None:
        """
        Archiving again to the same place changes nothing, with another time it is refused, and a time needs its zone.
        """
        first = archive(store.path, tmp_path / "a", before=at(BEGIN + 2 * DAY))

        assert archive(store.path, tmp_path / "a", before=at(BEGIN + 2 * DAY)) == first
        with pytest.raises(ArchiveError, match="another target"):
            archive(store.path, tmp_path / "a", before=at(BEGIN + 3 * DAY))
        with pytest.raises(ArchiveError, match="no time zone"):
            archive(store.path, tmp_path / "b", before=at(BEGIN).replace(tzinfo=None))

    def test_says_how_far_it_is(self, store: Kept, tmp_path: Path) -> None:
        """
        Progress rises from none to all, for each thing that is done.
        """
        told: dict[str, list[tuple[int, int]]] = {}

        def progress(done: int, total: int, what: str) -> None:
            told.setdefault(what, []).append((done, total))

        archive(store.path, tmp_path / "a", before=at(BEGIN + 3 * DAY), delete=True, progress=progress)
        restore(tmp_path / "a", store.path, progress=progress)

        assert list(told) == ["archive", "verify", "delete", "restore"]
        for steps in told.values():
            assert steps[0][0] == 0
            assert steps[-1][0] == steps[-1][1] > 0
            assert steps == sorted(steps)

    def test_one_at_a_time(self, store: Kept, tmp_path: Path) -> None:
        """
        Who archives while another does is told so.
        """
        with module._scratch(store.path), pytest.raises(ArchiveError, match="another process"):
            archive(store.path, tmp_path / "a", before=at(BEGIN + 3 * DAY))

    def test_retention_was_quicker(self, store: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A chunk that is let go meanwhile is left out, also if that happens while it is read.
        """
        fetch = module._chunks_before

        def slow(*arguments: Any) -> Any:
            found = fetch(*arguments)
            (store.path / CHUNKS / f"0{SEALED_SUFFIX}").unlink()
            os.truncate(store.path / CHUNKS / f"1{SEALED_SUFFIX}", 0)
            return found

        monkeypatch.setattr(module, "_chunks_before", slow)

        manifest = archive(store.path, tmp_path / "a", before=at(BEGIN + 3 * DAY))

        assert [file.name for file in manifest.chunks] == [f"{CHUNKS}/2{SEALED_SUFFIX}"]
        assert verify(tmp_path / "a") == manifest


class TestVerify:
    def test_every_changed_byte_is_found(self, store: Kept, tmp_path: Path) -> None:
        """
        A byte changed or missing anywhere in any file, the manifest included, and the archive is refused, before anything is restored.
        """
        manifest = archive(store.path, tmp_path / "a", before=at(BEGIN + 2 * DAY), delete=True)
        before = [names_in(store.path / CHUNKS), all_answers(store.reader)]

        for name in [*folder_of(manifest), MANIFEST]:
            path = tmp_path / "a" / name
            whole = path.read_bytes()
            for place in (0, len(whole) // 3, len(whole) // 2, len(whole) - 2):
                path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
                with pytest.raises(ArchiveError, match="damaged"):
                    verify(tmp_path / "a")
                with pytest.raises(ArchiveError, match="damaged"):
                    restore(tmp_path / "a", store.path)
            path.write_bytes(whole[:-2])
            with pytest.raises(ArchiveError, match="damaged"):
                restore(tmp_path / "a", store.path)
            path.unlink()
            with pytest.raises(ArchiveError, match="missing" if name != MANIFEST else f"no {MANIFEST}"):
                restore(tmp_path / "a", store.path)
            path.write_bytes(whole)

        assert [names_in(store.path / CHUNKS), all_answers(store.reader)] == before
        restore(tmp_path / "a", store.path)

    def test_nothing_is_deleted_that_cannot_be_read_back(
        self, store: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        If the target did not keep what was written there, nothing is removed from the store.
        """
        sent = module._sent

        def lossy(place: Any, name: str, *more: Any) -> Any:
            found = sent(place, name, *more)
            if name.startswith(CHUNKS):
                os.truncate(tmp_path / "a" / name, 10)
            return found

        monkeypatch.setattr(module, "_sent", lossy)
        before = [names_in(store.path / CHUNKS), all_answers(store.reader)]

        with pytest.raises(ArchiveError, match="missing, or not as"):
            archive(store.path, tmp_path / "a", before=at(BEGIN + 2 * DAY), delete=True)

        assert [names_in(store.path / CHUNKS), all_answers(store.reader)] == before

    def test_a_newer_version(self, store: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        An archive of a newer version is refused, and says what to do.
        """
        archive(store.path, tmp_path / "a", before=at(BEGIN + 2 * DAY))
        monkeypatch.setattr(module, "VERSION", 0)

        with pytest.raises(ArchiveError, match="Upgrade rfs"):
            verify(tmp_path / "a")

    def test_names_that_lead_elsewhere(self, store: Kept, tmp_path: Path) -> None:
        """
        A manifest that names files outside of an archive restores none of them.
        """
        (first, *_) = archive(store.path, tmp_path / "a", before=at(BEGIN + 2 * DAY)).files
        for name in ("../x.chunk", "chunks/../../x.chunk", "chunks/.x.chunk", "/etc/x.chunk", "chunks/x.open"):
            with pytest.raises(ArchiveError, match="no name"):
                module._safe(msgspec.structs.replace(first, name=name))


times = st.tuples(st.integers(0, 5), st.sampled_from([0, 59, 60, 3_599, 3_600, 7_777, DAY - 1]), st.integers(0, 70))


class TestEquality:
    @settings(max_examples=25, deadline=None)
    @given(st.lists(times, min_size=1, max_size=25), st.integers(0, 6), st.booleans())
    def test_archived_deleted_and_restored(self, moments: list[tuple[int, int, int]], days: int, twice: bool) -> None:
        """
        Whatever was measured and recorded: archived, deleted and restored, once or twice, every answer is what it was; meanwhile what
        was archived is not there.
        """
        folder = in_memory()
        try:
            store = Kept(folder / "store")
            for number, (day, offset, more) in enumerate(sorted(moments)):
                second = BEGIN + day * DAY + offset + more
                store.put(window(second, number))
                store.seal(f"{number:03}", [record(second * 10**9 + each) for each in range(3)])
            store.put(window(BEGIN + 7 * DAY, 1))
            before = [all_answers(store.reader), store.records(), store.windows.lifetimes()]
            limit = BEGIN + days * DAY

            archive(store.path, folder / "a", before=at(limit), delete=True)

            assert [one for one in store.records() if one.time_ns < limit * 10**9] == []
            (left,) = store.reader.increases([ORDERS], BEGIN, limit)
            assert left in (0.0, None)
            store.maintain()
            for _ in range(1 + twice):
                restore(folder / "a", store.path)
                store.put(window(BEGIN + 7 * DAY + 60, 1))
                assert [all_answers(store.reader), store.records()] == before[:2]
            lives = {life.key: life.value for life in store.windows.lifetimes()}
            assert lives[ORDERS] == sum(n + 0.5 for n in range(len(moments))) + (2 + twice) * 1.5
            store.close()
        finally:
            shutil.rmtree(folder)

    def test_into_a_new_store(self, store: Kept, tmp_path: Path) -> None:
        """
        A store that never had it gives the same answers of the time that was archived.
        """
        archive(store.path, tmp_path / "a", before=at(BEGIN + 3 * DAY))
        ranges = [each for each in RANGES if each[1] <= BEGIN + 3 * DAY]

        restore(tmp_path / "a", tmp_path / "new" / "store")

        with closing(CatalogueReader(tmp_path / "new" / "store" / CATALOGUE)) as reading:
            windows = WindowReader(reading, on_problem=no_problem)
            assert [answers(windows.at(None, BEGIN), *each) for each in ranges] == [
                answers(store.reader, *each) for each in ranges
            ]
            assert windows.lifetimes() == []  # what came after the archive is not known, so no total is
        assert names_in(tmp_path / "new" / "store" / CHUNKS) == [f"{day}{SEALED_SUFFIX}" for day in range(3)]
        later = Kept(tmp_path / "new" / "store", epoch=9)
        later.put(window(BEGIN + 8 * DAY, 4))
        assert later.reader.increases([ORDERS], BEGIN + 8 * DAY, BEGIN + 9 * DAY) == [4.5]
        later.close()

    def test_two_archives(self, store: Kept, tmp_path: Path) -> None:
        """
        Of two archives, one after the other, the newest is restored first, and all is as it was.
        """
        before = [all_answers(store.reader), store.records()]
        archive(store.path, tmp_path / "a", before=at(BEGIN + 2 * DAY), delete=True)
        archive(store.path, tmp_path / "b", before=at(BEGIN + 4 * DAY), delete=True)

        restore(tmp_path / "b", store.path)
        restore(tmp_path / "a", store.path)

        assert [all_answers(store.reader), store.records()] == before

    def test_the_oldest_first(self, store: Kept, tmp_path: Path) -> None:
        """
        The other way round nothing is counted twice or lost, but of the older one only the hours come back; again, and all is there.
        """
        before = [all_answers(store.reader), store.records()]
        archive(store.path, tmp_path / "a", before=at(BEGIN + 2 * DAY), delete=True)
        archive(store.path, tmp_path / "b", before=at(BEGIN + 4 * DAY), delete=True)

        restore(tmp_path / "a", store.path)
        assert store.reader.increases([ORDERS], BEGIN, BEGIN + 2 * DAY) == [
            sum(day + offset + 0.5 for day in range(2) for offset in (100, 101, 130, 200, 4_000, 40_000))
        ]
        restore(tmp_path / "b", store.path)
        restore(tmp_path / "a", store.path)

        assert [all_answers(store.reader), store.records()] == before

    def test_what_was_not_deleted(self, store: Kept, tmp_path: Path) -> None:
        """
        Restoring what is still there changes nothing.
        """
        before = [all_answers(store.reader), store.records()]
        archive(store.path, tmp_path / "a", before=at(BEGIN + 3 * DAY))

        restore(tmp_path / "a", store.path)

        assert [all_answers(store.reader), store.records()] == before

    def test_after_the_seconds_are_gone(self, tmp_path: Path) -> None:
        """
        With the usual retention the archive has no seconds of days ago: hours and minutes come back, and answers are what they were.
        """
        store = Kept(tmp_path / "store", retention=Retention())
        for day in range(4):
            store.put(*(window(BEGIN + day * DAY + offset, day) for offset in (100, 130, 40_000)))
        for minute in range(30):  # as much of a tier goes at once as a clock that is wrong for a moment may cost
            store.put(window(BEGIN + 4 * DAY + 60 * minute, 1))
        before = all_answers(store.reader)
        archive(store.path, tmp_path / "a", before=at(BEGIN + 2 * DAY), delete=True)

        restore(tmp_path / "a", store.path)

        assert all_answers(store.reader) == before
        store.close()


def told(reader: Reader, wanted: Wanted = EVERYTHING, limit: int = 1_000) -> list[Frame]:
    """All records that are wanted, page by page."""
    found: list[Frame] = []
    cursor: str | None = None
    while page := reader.records(wanted, limit=limit, before=cursor):
        found += [one.frame for one in page]
        cursor = page[-1].cursor
    return found


@pytest.fixture(params=["folder", "memory"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "a")
    return f"memory://{tmp_path.name}/a"


class TestReading:
    def test_equals_the_store(self, store: Kept, target: str) -> None:
        """
        What is asked of an archive has the answers that the store had, without anything being restored.
        """
        ranges = [each for each in RANGES if each[1] <= BEGIN + 3 * DAY]
        expected = [answers(store.reader, *each) for each in ranges], store.records()
        known = [store.reader.kinds(), store.reader.series("orders_total")]
        archive(store.path, target, before=at(BEGIN + 3 * DAY), delete=True)

        with ArchiveReader(target, on_problem=no_problem, now=lambda: BEGIN) as reader:
            assert [answers(reader, *each) for each in ranges] == expected[0]
            assert [reader.kinds(), reader.series("orders_total")] == known
            for limit in (7, 1_000):
                assert by_time(told(reader, limit=limit)) == [
                    one for one in expected[1] if one.time_ns < (BEGIN + 3 * DAY) * 10**9
                ]
            assert reader.statistics()["records"] == 60
            (middle,) = reader.distributions([WAITS], BEGIN, BEGIN + DAY, DAY)
            assert middle is not None
            reader.close()
        assert names_in(store.path / CHUNKS) == [f"{day}{SEALED_SUFFIX}" for day in (3, 4)]

    def test_only_what_is_asked_for_is_fetched(
        self, store: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        Of an archive elsewhere a page of records fetches the chunks that it needs, each once, and keeps none of them afterwards.
        """
        url = f"memory://{tmp_path.name}/b"
        archive(store.path, url, before=at(BEGIN + 4 * DAY))
        fetched: list[str] = []
        fetch = module._fetched

        def noted(place: Any, file: Any, *more: Any) -> bool:
            fetched.append(file.name)
            return fetch(place, file, *more)

        monkeypatch.setattr(module, "_fetched", noted)
        with ArchiveReader(url, on_problem=no_problem) as reader:
            place = reader._path
            assert len(reader.records(EVERYTHING, limit=5)) == 5
            day = Wanted(since_ns=(BEGIN + DAY) * 10**9, until_ns=(BEGIN + 2 * DAY) * 10**9)
            assert len(told(reader, day)) == 20
            assert len(told(reader, day)) == 20

        assert fetched == [CATALOGUE, f"{CHUNKS}/3{SEALED_SUFFIX}", f"{CHUNKS}/1{SEALED_SUFFIX}"]
        assert not place.exists()

    def test_what_is_damaged_is_left_out(self, store: Kept, tmp_path: Path) -> None:
        """
        A chunk that is not as it was archived is left out, and said; windows that are not are refused.
        """
        fsspec = pytest.importorskip("fsspec")
        url = f"memory://{tmp_path.name}/c"
        archive(store.path, url, before=at(BEGIN + 3 * DAY))
        files = fsspec.filesystem("memory")
        files.pipe_file(f"{url}/{CHUNKS}/1{SEALED_SUFFIX}", b"nothing")
        said: list[str] = []

        with ArchiveReader(url, on_problem=lambda code, text: said.append(f"{code} {text}")) as reader:
            assert len(told(reader)) == 40

        assert said == [f"S113 {CHUNKS}/1{SEALED_SUFFIX} of the archive is missing, or not as when archived; left out"]
        files.pipe_file(f"{url}/{CATALOGUE}", b"nothing")
        with pytest.raises(ArchiveError, match=CATALOGUE):
            ArchiveReader(url)

    def test_one_of_an_older_version(self, store: Kept, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Windows of an older version are read from a copy that is made a new one, and restored; the archive stays as it is.
        """
        before = all_answers(store.reader)
        manifest = archive(store.path, target, before=at(BEGIN + 3 * DAY), delete=True)
        monkeypatch.setattr(
            catalogue_module, "_SCHEMA", (*catalogue_module._SCHEMA, "CREATE INDEX cuts_by_second ON cuts (second);")
        )
        store.close()
        newer = Kept(store.path, epoch=4)

        with ArchiveReader(target, on_problem=no_problem) as reader:
            assert reader.increases([ORDERS], BEGIN, BEGIN + 3 * DAY) != [None]
            assert len(told(reader)) == 60
        restore(target, newer.path)

        assert all_answers(newer.reader) == before
        assert verify(target) == manifest
        newer.close()

    def test_without_any_windows(self, tmp_path: Path) -> None:
        """
        An archive of nothing answers that nothing is known.
        """
        (tmp_path / "store").mkdir()
        archive(tmp_path / "store", tmp_path / "a", before=at(BEGIN))

        with ArchiveReader(tmp_path / "a", on_problem=no_problem) as reader:
            assert told(reader) == []
            assert reader.increases([ORDERS], 0, BEGIN) == [None]
            assert reader.kinds() == {}


class TestBesideALeader:
    def test_who_writes_meanwhile(self, store: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A leader that writes and tidies up between any two steps of deleting and restoring loses nothing and is not refused.
        """
        before = all_answers(store.reader)
        number = 0

        def interfere() -> None:
            nonlocal number
            number += 1
            if number % 3 == 0:
                new = {SeriesKey(f"new_{number}_total", ()): 1.0}
                with store.catalogue.turn() as turn:
                    store.writer.put(turn, Window(BEGIN + 5 * DAY + 10 + number, {ORDERS: 1.0, **new}))
                store.writer.maintain(0.0)

        monkeypatch.setattr(module, "breathe", interfere)

        archive(store.path, tmp_path / "a", before=at(BEGIN + 3 * DAY), delete=True)
        deleted = number
        restore(tmp_path / "a", store.path)

        assert number > deleted + 5 > 10
        store.maintain()
        assert all_answers(store.reader) == before
        assert store.reader.increases([ORDERS], BEGIN + 5 * DAY + 11, BEGIN + 6 * DAY) == [float(number // 3)]

    def test_another_takes_the_lead(self, store: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        If another process comes to lead in the middle, restoring goes on under its epoch.
        """
        before = all_answers(store.reader)
        archive(store.path, tmp_path / "a", before=at(BEGIN + 3 * DAY), delete=True)
        next_leaders: list[Kept] = []

        def take_over() -> None:
            if not next_leaders:
                next_leaders.append(Kept(store.path, epoch=4))

        monkeypatch.setattr(module, "breathe", take_over)

        restore(tmp_path / "a", store.path)

        assert all_answers(store.reader) == before
        next_leaders[0].put(window(BEGIN + 5 * DAY + 100, 1))
        next_leaders[0].close()

    def test_who_never_lets_it_write(self, store: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        If another process never ends its turn, restoring gives up and says so; nothing is lost, and later it goes through.
        """
        before = all_answers(store.reader)
        archive(store.path, tmp_path / "a", before=at(BEGIN + 3 * DAY), delete=True)
        monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.05)

        with store.catalogue.turn(), pytest.raises(StoreError, match="another process"):
            restore(tmp_path / "a", store.path)
        restore(tmp_path / "a", store.path)

        assert all_answers(store.reader) == before


class TestTargets:
    def test_any_file_system_that_fsspec_knows(self, store: Kept, tmp_path: Path) -> None:
        """
        A URL takes the same archive as a folder, and gives it back.
        """
        pytest.importorskip("fsspec")
        before = [all_answers(store.reader), store.records()]
        target = "memory://rfs-test/archives/one"

        manifest = archive(store.path, target, before=at(BEGIN + 3 * DAY), delete=True)

        assert verify(target) == manifest
        assert len(manifest.files) == 4
        assert store.records() != before[1]
        restore(target, store.path)
        assert [all_answers(store.reader), store.records()] == before
        with pytest.raises(ArchiveError, match=f"no {MANIFEST}"):
            verify("memory://rfs-test/archives/two")

    def test_fsspec_is_optional(self, store: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Without the package a folder works, and a URL says what to install.
        """
        monkeypatch.setitem(sys.modules, "fsspec", None)
        monkeypatch.setitem(sys.modules, "fsspec.core", None)

        archive(store.path, tmp_path / "a", before=at(BEGIN + 3 * DAY))
        with pytest.raises(ArchiveError, match=r"rfs\[archive\]"):
            archive(store.path, "memory://a", before=at(BEGIN + 3 * DAY))

    def test_importing_it_does_not_import_fsspec(self) -> None:
        """
        The module itself needs no optional package.
        """
        code = "import sys, rfs.monitoring.archives; sys.exit('fsspec' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.fault
class TestB29Killed:
    @pytest.mark.slow
    @pytest.mark.parametrize("verb", ["archive", "restore"])
    def test_at_every_step(self, tmp_path: Path, verb: str) -> None:
        """
        Killed before any of its calls, the store or the archive has everything; done again, it ends as if nothing had been.
        """
        with Process("archiving", verb, tmp_path) as process:
            steps: list[int] = process.answer(seconds=300)

        assert len(steps) > 8
        expected = Kept(tmp_path / "whole" / "store")
        wanted = [all_answers(expected.reader), expected.records()]
        expected.close()
        for step in steps:
            path = tmp_path / str(step)
            if verb == "archive":
                archive(path / "store", path / "a", before=at(BEGIN + 3 * DAY), delete=True)
                after = Kept(path / "store", epoch=4)
                after.maintain()
                assert after.reader.increases([ORDERS], BEGIN, BEGIN + 3 * DAY) == [0.0]
                assert names_in(path / "store" / CHUNKS) == [f"{day}{SEALED_SUFFIX}" for day in (3, 4)]
                after.close()
            restore(path / "a", path / "store")
            after = Kept(path / "store", epoch=5)
            after.maintain()
            assert [all_answers(after.reader), after.records()] == wanted
            after.close()
            assert ".unfinished" not in names_in(path / "store")
