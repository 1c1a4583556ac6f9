from __future__ import annotations

import gc
import os
import shutil
import signal
import sqlite3
import sys
import time
import traceback
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from itertools import count
from mmap import mmap
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfs.errors import ArchiveError
from rfs.monitoring import monitor as monitors
from rfs.monitoring._capture.cells import FILE_BYTES, LAYOUT, SERIES, Cells, SeriesKey, encode_entry
from rfs.monitoring._capture.files import CELLS_MAGIC, SEGMENT_MAGIC, Header, pack_header
from rfs.monitoring._capture.live import CELLS_SUFFIX, SCRUB_REQUEST, SEGMENT_SUFFIX, live_path
from rfs.monitoring._capture.record import RecordData, decode_record, encode_record
from rfs.monitoring._capture.segments import SEGMENT_BYTES, Frame, SegmentReader, Segments, segment_layout
from rfs.monitoring._folded import TOTALS, Folded, pack_folded
from rfs.monitoring._store import EVERYTHING, Wanted, Window
from rfs.monitoring._store import catalogue as catalogue_module
from rfs.monitoring._store import chunks as module
from rfs.monitoring._store.catalogue import Catalogue, CatalogueReader
from rfs.monitoring._store.chunks import SEALED_SUFFIX, ChunkReader, ChunkWriter, Imported, chunk_files, newest
from rfs.monitoring._store.keys import KEY_BYTES, KEYS_VARIABLE, KeyRing
from rfs.monitoring._store.local import CATALOGUE
from rfs.monitoring._store.ranges import WindowReader
from rfs.monitoring._store.records import QUARANTINE, RecordReader
from rfs.monitoring._store.retention import CHUNKS
from rfs.monitoring._store.sealing import SEAL_REQUEST, STORE
from rfs.monitoring._store.windows import WindowWriter, labels_text
from rfs.monitoring.archives import MANIFEST, ArchiveReader, archive, restore, verify
from rfs.monitoring.encryption import rotate
from rfs.monitoring.erasure import erase
from tests.faults.hosts import host
from tests.faults.processes import eventually, names_in, size
from tests.monitoring.chunks import SOURCE, by_time, opened, run_of
from tests.monitoring.led import no_problem
from tests.monitoring.test_archives import BEGIN, DAY, RANGES, Kept, answers, at, window
from tests.monitoring.test_sampled import live

SUBJECT = "person-7f3a"
OLD, NEW = ("old", b"o" * KEY_BYTES), ("new", b"n" * KEY_BYTES)


def made(time_ns: int, *, identity: str = "id", message: str = "", **fields: Any) -> Frame:
    data = RecordData(
        time_ns,
        20,
        "log",
        "shop",
        "op",
        "",
        message,
        identity,
        "",
        "",
        "",
        "",
        None,
        {"number": time_ns, **fields},
        None,
    )
    return Frame(time_ns, 20, 0, identity, "op", encode_record(data))


class Site:
    """A service's directory with a store."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.chunks = path / STORE / CHUNKS
        self.chunks.mkdir(parents=True)
        live_path(path).mkdir(0o700)
        self._first = 0

    def add(self, name: str, *parts: Sequence[Frame], keys: KeyRing | None = None, seal: bool = True) -> list[Frame]:
        """A chunk, with a frame of each of *parts*."""
        with opened(self.chunks) as directory:
            writer = ChunkWriter(directory, name, 5, keys)
            for part in parts:
                writer.add([run_of(part, first=self._first)])
                self._first += len(part)
            if seal:
                writer.seal()
            writer.close()
        return [frame for part in parts for frame in part]

    def read(self, keys: KeyRing | None = None) -> list[Frame]:
        """All records of all chunks; each file must be whole."""
        with opened(self.chunks) as directory:
            found: list[Frame] = []
            for name in chunk_files(names_in(self.chunks)):
                reader = ChunkReader(directory, name, keys)
                found += reader.read()
                assert not reader.damage
            return by_time(found)

    def files_with(self, text: str) -> list[str]:
        """The files of the whole directory in which the bytes are."""
        return [
            str(path.relative_to(self.path))
            for path in sorted(self.path.rglob("*"))
            if path.is_file() and text.encode() in path.read_bytes()
        ]

    def segment(self, process: str) -> Segments:
        """A segment as a process of that name has it."""
        header = pack_header(SEGMENT_MAGIC, Header(process, 1, "", "", 0, 0, segment_layout()))
        path = live_path(self.path) / f"{process}.0{SEGMENT_SUFFIX}"
        with path.open("w+b") as file:
            file.truncate(SEGMENT_BYTES)
            memory = mmap(file.fileno(), SEGMENT_BYTES)
        memory[: len(header)] = header
        return Segments(memory)

    def count(self, *keys: SeriesKey, kind: str = CELLS_SUFFIX, process: str = "1-a") -> Path:
        """A live file with 1 in each of these counters: of a process, or what has been folded."""
        if kind == TOTALS:
            path = live_path(self.path) / f"{TOTALS}7"
            path.write_bytes(pack_folded(Folded(counters=[(*key, 1.0) for key in keys]), 1))
            return path
        path = live_path(self.path) / f"{process}.0{kind}"
        with path.open("w+b") as file:
            file.truncate(FILE_BYTES)
            memory = mmap(file.fileno(), FILE_BYTES)
        header = pack_header(CELLS_MAGIC, Header(process, 1, "", "", 0, 0, LAYOUT))
        memory[: len(header)] = header
        cells = Cells(lambda number: mmap(-1, FILE_BYTES) if number else memory)
        for key in keys:
            flat = [text for pair in key.labels for text in pair]
            number = cells.metric_id(cells.regions[0], key.name, ("counter", "", ""))
            block = cells.allocate(1, lambda _: encode_entry([SERIES, number, flat]))  # noqa: B023 - called here
            assert block is not None
            block.cells[block.at] = 1.0
        return path

    @contextmanager
    def written(self, counters: dict[SeriesKey, float]) -> Generator[tuple[Catalogue, WindowWriter]]:
        """A catalogue with one window, of these live totals, and who leads there."""
        catalogue = Catalogue(self.path / STORE / CATALOGUE, epoch=7, on_problem=no_problem, now=time.time)
        writer = WindowWriter(catalogue, on_problem=no_problem)
        with catalogue.turn() as turn:
            writer.write(turn, live(counters), 5)
        yield catalogue, writer
        catalogue.close()

    def totals(self) -> dict[SeriesKey, float]:
        """What the catalogue says each series came to."""
        with closing(CatalogueReader(self.path / STORE / CATALOGUE)) as reader:
            at_end = WindowReader(reader, on_problem=no_problem).at(None, 1 << 33)
            keys = [key for name in at_end.kinds() for key in at_end.series(name)]
            return {
                key: value
                for key, value in zip(keys, at_end.increases(keys, 0, 1 << 33), strict=True)
                if value is not None
            }


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "service")


def put(segments: Segments, frame: Frame) -> None:
    identity = frame.correlation_id.encode()
    assert segments.append(frame.time_ns, frame.level, frame.flags, identity, b"op", frame.payload)


texts = st.sampled_from([SUBJECT, f"not {SUBJECT}", "7", "", "other"])
values = st.recursive(
    st.one_of(texts, st.integers(6, 8), st.booleans(), st.none()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(st.sampled_from(["user_id", "subject_id", "name"]), inner, max_size=2),
    ),
    max_leaves=5,
)
frames = st.builds(
    made,
    st.integers(0, 99),
    identity=texts,
    message=texts,
    user_id=values,
    name=values,
)


def holds(value: object, subject: str, *, named: bool = False) -> bool:
    """The brute answer."""
    match value:
        case dict():
            return any(
                holds(each, subject, named=named or name in {"user_id", "subject_id"}) for name, each in value.items()
            )
        case list():
            return any(holds(each, subject, named=named) for each in value)
        case bool() | None:
            return named and value is None and subject == "None"
        case _:
            return named and str(value) == subject


class TestErase:
    @settings(max_examples=size(whole=1_000, small=30))
    @given(st.lists(st.lists(frames, min_size=1, max_size=4), max_size=4), st.sampled_from([SUBJECT, "7"]), st.data())
    def test_equals_brute_force(
        self, tmp_path_factory: pytest.TempPathFactory, parts: list[list[Frame]], subject: str, data: st.DataObject
    ) -> None:
        """
        What is left is exactly what does not belong to the subject, whichever chunk, frame and key it is in.
        """
        site = Site(tmp_path_factory.mktemp("s"))
        ring = KeyRing([OLD])
        every = [
            frame
            for number, part in enumerate(parts)
            for frame in site.add(f"{number}", part, part[:1], keys=data.draw(st.sampled_from([None, ring])))
        ]

        receipt = erase(site.path, subject, keys=ring)

        kept = [
            frame
            for frame in every
            if frame.correlation_id != subject and not holds(decode_record(frame.payload).fields, subject)
        ]
        assert Counter(map(repr, site.read(ring))) == Counter(map(repr, kept))
        assert sum(receipt.records.values()) == len(every) - len(kept)
        assert receipt.mentions == sum(subject.encode() in frame.payload for frame in kept)
        assert not receipt.left
        assert not receipt.unsearched

    def test_by_its_id_nothing_is_found(self, site: Site) -> None:
        """
        After erasing, the index has the others and not the subject, and nothing of it is imported again.
        """
        site.add("1", [made(1, identity=SUBJECT), made(2)], [made(3, identity=SUBJECT)], [made(4)])
        runs = run_of([made(1, identity=SUBJECT), made(2), made(3, identity=SUBJECT), made(4), made(5)])

        receipt = erase(site.path, SUBJECT)

        with opened(site.chunks) as directory:
            reader = ChunkReader(directory, "1" + SEALED_SUFFIX)
            assert receipt.records == {"1.chunk": 2}
            assert newest([reader], limit=9, correlation_id=SUBJECT) == []
            assert [one.frame.time_ns for one in newest([reader], limit=9, correlation_id="id")] == [4, 2]
            assert reader.with_id(SUBJECT) == []
            assert (reader.first_ns, reader.last_ns, reader.records) == (2, 4, 2)
            assert [frame.time_ns for frame in Imported([reader], {SOURCE}).rest(runs).frames] == [5]

    def test_anywhere(self, site: Site) -> None:
        """
        A message that mentions the subject is kept, which the receipt says; with ``anywhere`` it goes, too.
        """
        site.add("1", [made(1, message=f"hello {SUBJECT}!"), made(2)])

        first = erase(site.path, SUBJECT)
        kept = len(site.read())
        second = erase(site.path, SUBJECT, anywhere=True)

        assert (first.records, first.mentions, kept) == ({}, 1, 2)
        assert str(first) == "0 records erased\n1 records that mention the id elsewhere were kept"
        assert (second.records, second.mentions) == ({"1.chunk": 1}, 0)
        assert str(second) == "1 records erased\n  1 from 1.chunk"
        assert [frame.time_ns for frame in site.read()] == [2]

    def test_other_fields(self, site: Site) -> None:
        """
        Which fields name a subject is said by the caller.
        """
        site.add("1", [made(1, customer=SUBJECT), made(2, user_id=SUBJECT)])

        erase(site.path, SUBJECT, fields=("customer",))

        assert [frame.time_ns for frame in site.read()] == [2]

    def test_nothing_else_is_touched(self, site: Site) -> None:
        """
        A chunk without the subject is the same file as before; in one with it, other frames are the same bytes.
        """
        site.add("1", [made(1)])
        site.add("2", [made(2, message="as it was")], [made(3, identity=SUBJECT)])
        before = (site.chunks / "1.chunk").stat()
        content = (site.chunks / "2.chunk").read_bytes()
        progress: list[tuple[int, int]] = []

        erase(site.path, SUBJECT, on_progress=lambda done, of: progress.append((done, of)))

        after = (site.chunks / "1.chunk").stat()
        with opened(site.chunks) as directory:
            entry = ChunkReader(directory, "2.chunk").frames[0]
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
        assert (site.chunks / "2.chunk").read_bytes()[: entry.end] == content[: entry.end]
        assert (site.chunks / "2.chunk").stat().st_mode & 0o777 == 0o600
        assert progress == [(1, 2), (2, 2)]

    def test_without_the_key(self, site: Site) -> None:
        """
        What cannot be read is kept, and the receipt says that it was not searched.
        """
        site.add("1", [made(1, identity=SUBJECT), made(2)], keys=KeyRing([OLD]))

        receipt = erase(site.path, SUBJECT)

        assert receipt.records == {}
        assert len(receipt.unsearched) == 1
        assert "(2 records) are encrypted with key 'old', which is not at hand" in receipt.unsearched[0]
        assert len(site.read(KeyRing([OLD]))) == 2

    def test_damaged(self, site: Site) -> None:
        """
        A damaged frame is kept as it is, beside what is erased, and the receipt says where it is; so is a file that is no chunk.
        """
        site.add("1", [made(1, identity=SUBJECT)], [made(2)], [made(3)])
        with opened(site.chunks) as directory:
            entry = ChunkReader(directory, "1.chunk").frames[1]
        content = bytearray((site.chunks / "1.chunk").read_bytes())
        content[entry.end - 1] ^= 1
        (site.chunks / "1.chunk").write_bytes(content)
        (site.chunks / "2.chunk").write_bytes(b"something else" * 9)

        receipt = erase(site.path, SUBJECT)
        again = erase(site.path, SUBJECT)

        assert receipt.records == {"1.chunk": 1}
        assert ["are damaged" in receipt.unsearched[0], "begins with" in receipt.unsearched[1]] == [True, True]
        assert [each.split(":")[0] for each in again.unsearched] == [each.split(":")[0] for each in receipt.unsearched]
        assert bytes(content[entry.at : entry.end]) in (site.chunks / "1.chunk").read_bytes()

    def test_what_was_set_aside(self, site: Site) -> None:
        """
        A file in quarantine that holds the subject, compressed or not, goes; what does not stays; what nobody can read is said.
        """
        quarantine = site.path / STORE / QUARANTINE
        quarantine.mkdir()
        site.add("1", [made(1, identity=SUBJECT)])
        (site.chunks / "1.chunk").rename(quarantine / "1.chunk.20261122T000000.0Z")
        site.add("2", [made(2)])
        (site.chunks / "2.chunk").rename(quarantine / "2.chunk.20261122T000000.0Z")
        (quarantine / "3.chunk.20261122T000000.0Z").write_bytes(b"x" * 99)
        (quarantine / "catalogue.sqlite.20261122").write_bytes(b"..." + SUBJECT.encode())
        (quarantine / "empty").touch()

        receipt = erase(site.path, SUBJECT)

        assert receipt.removed == [
            "quarantine/1.chunk.20261122T000000.0Z",
            "quarantine/catalogue.sqlite.20261122",
        ]
        assert "  removed quarantine/catalogue.sqlite.20261122" in str(receipt)
        assert names_in(quarantine) == ["2.chunk.20261122T000000.0Z", "3.chunk.20261122T000000.0Z", "empty"]
        assert any("3.chunk" in each and "begins with" in each for each in receipt.unsearched)
        assert "NOT SEARCHED" in str(receipt)

    def test_without_live_files(self, site: Site) -> None:
        """
        A directory that only has a store, such as one that was restored, is erased from as well.
        """
        live_path(site.path).rmdir()
        site.add("1", [made(1, identity=SUBJECT), made(2)])

        receipt = erase(site.path, SUBJECT)

        assert [frame.time_ns for frame in site.read()] == [2]
        assert (receipt.left, receipt.unsearched) == ([], [])

    def test_not_nobody(self, site: Site) -> None:
        """
        An empty id, which very many records have, is refused.
        """
        with pytest.raises(ValueError, match="a subject's id cannot be empty"):
            erase(site.path, "")

    def test_no_store(self, tmp_path: Path) -> None:
        """
        Where there is no store, nothing was erased, and nothing is made.
        """
        with pytest.raises(FileNotFoundError):
            erase(tmp_path / "wrong", SUBJECT)

        assert names_in(tmp_path) == []

    def test_who_reads_sees_it(self, site: Site) -> None:
        """
        A process that has the chunks open finds nothing of the subject any more with its next question.
        """
        site.add("0000000000000001-00000000", [made(1, identity=SUBJECT), made(2)])
        reader = RecordReader(site.path / STORE, on_problem=lambda *_: None)
        before = reader.records(EVERYTHING, limit=9)

        erase(site.path, SUBJECT)

        assert [one.frame.time_ns for one in before] == [2, 1]
        assert [one.frame.time_ns for one in reader.records(EVERYTHING, limit=9)] == [2]
        assert reader.records(Wanted(correlation_id=SUBJECT), limit=9) == []


OF_SUBJECT = SeriesKey("orders_total", (("path", "/cart"), ("user", SUBJECT)))
OF_OTHER = SeriesKey("orders_total", (("path", "/cart"), ("user", "other")))


class TestLabels:
    def test_in_the_catalogue(self, site: Site) -> None:
        """
        A series whose label is the id gets another one, also if only its total is left, and no byte of the id stays; its numbers do.
        One that holds the id in a longer text is reported, without the id, and takes ``anywhere``.
        """
        part = SeriesKey("hits_total", (("address", f"/people/{SUBJECT}/cart"),))
        retired = SeriesKey("old_total", (("user", SUBJECT),))
        with site.written({OF_SUBJECT: 5.0, OF_OTHER: 2.0, part: 3.0}) as (catalogue, _), catalogue.turn() as turn:
            turn.execute("INSERT INTO retired VALUES (?, ?, 0, x'00')", (retired.name, labels_text(retired.labels)))

        receipt = erase(site.path, SUBJECT)
        first = site.totals()
        again = erase(site.path, SUBJECT, anywhere=True)

        place = site.path / STORE / CATALOGUE
        assert [each.partition(";")[0] for each in receipt.left] == [f"{place}: label 'address' of hits_total"]
        assert SUBJECT not in str(receipt)
        assert sorted(first.values()) == [2.0, 3.0, 5.0]
        assert (first[OF_OTHER], first[part]) == (2.0, 3.0)
        (other,) = first.keys() - {OF_OTHER, part}
        assert (other.name, other.labels[0], other.labels[1][1][:7]) == ("orders_total", ("path", "/cart"), "erased-")
        assert again.left == []
        assert sorted(site.totals().values()) == [2.0, 3.0, 5.0]
        assert site.files_with(SUBJECT) == []
        assert erase(site.path, SUBJECT).left == []

    def test_nothing_is_counted_twice(self, site: Site) -> None:
        """
        While a live file has the series it stays in the catalogue, and so in the receipt: what was counted is not counted again. Later
        it is erased beside the same leader, which counts what comes afterwards from zero.
        """
        with site.written({OF_SUBJECT: 5.0, OF_OTHER: 2.0}) as (catalogue, writer):

            def write(second: int, **counters: float) -> None:
                with catalogue.turn() as turn:
                    found = {(OF_SUBJECT if name == "subject" else OF_OTHER): value for name, value in counters.items()}
                    writer.write(turn, live(found), second)

            path = site.count(OF_SUBJECT)
            living = erase(site.path, SUBJECT)
            write(6, subject=7.0, other=3.0)
            kept = site.totals()
            path.unlink()  # as when all have forgotten it
            gone = erase(site.path, SUBJECT)
            write(7, other=3.0)
            write(8, other=4.0, subject=1.0)

            assert [each.partition(":")[0] for each in living.left] == [f"{site.path / STORE / CATALOGUE}", f"{path}"]
            assert kept == {OF_SUBJECT: 7.0, OF_OTHER: 3.0}
            assert gone.left == []
            after = site.totals()
            assert (after.pop(OF_SUBJECT), after.pop(OF_OTHER)) == (1.0, 4.0)
            assert list(after.values()) == [7.0]

    def test_live_files_that_cannot_be_read(self, site: Site) -> None:
        """
        What may be in a file that nobody can read is not touched.
        """
        with site.written({OF_SUBJECT: 5.0}):
            pass
        (live_path(site.path) / f"1-a.0{CELLS_SUFFIX}").write_bytes(b"something else" * 999)

        receipt = erase(site.path, SUBJECT)

        assert site.totals() == {OF_SUBJECT: 5.0}
        assert ["label 'user' of orders_total" in each for each in receipt.left] == [True]

    def test_damaged_names(self, site: Site) -> None:
        """
        A name that is damaged is found where it still holds the id, and of live files is said that they were not searched.
        """
        with site.written({OF_OTHER: 5.0}) as (catalogue, _), catalogue.turn() as turn:
            turn.execute("INSERT INTO retired VALUES ('old_total', ?, 0, x'00')", (f'[["user", "{SUBJECT}',))
        path = site.count(OF_SUBJECT, OF_OTHER)
        content = path.read_bytes()
        path.write_bytes(content.replace(SUBJECT.encode(), SUBJECT.upper().encode()))

        receipt = erase(site.path, SUBJECT)

        assert ["label '' of old_total" in each for each in receipt.left] == [True]
        assert receipt.unsearched == [f"{path}: live file {path.name}: has 1 damaged entries"]

    def test_in_a_name(self, site: Site) -> None:
        """
        An id in the name of a metric or of a label is code, and is reported.
        """
        with site.written({SeriesKey("of_person_7_total", ()): 1.0, SeriesKey("a_total", (("person_7", "x"),)): 1.0}):
            pass

        receipt = erase(site.path, "person_7", anywhere=True)

        assert ["the name of" in each for each in receipt.left] == [True, True]

    def test_while_somebody_reads(self, site: Site) -> None:
        """
        A reader of what was before keeps the log from being emptied: the receipt says so, and the next call does it.
        """
        with site.written({OF_SUBJECT: 5.0}):
            pass
        reader = sqlite3.connect(site.path / STORE / CATALOGUE, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM series").fetchall()

        held = erase(site.path, SUBJECT)
        reader.close()
        again = erase(site.path, SUBJECT)

        assert ["what labels were is in it still: its log cannot be emptied" in each for each in held.left] == [True]
        assert again.left == []
        assert site.files_with(SUBJECT) == []

    def test_in_an_archive(self, site: Site, tmp_path: Path) -> None:
        """
        The windows of an archive lose the label, too, and it is whole.
        """
        kept = Kept(site.path / STORE)
        kept.put(Window(BEGIN + 100, {OF_SUBJECT: 5.0, OF_OTHER: 2.0}, {}, {}), window(BEGIN + 5 * DAY, 2))
        kept.close()
        archive(site.path / STORE, tmp_path / "a", before=at(BEGIN + DAY))
        assert SUBJECT.encode() in (tmp_path / "a" / CATALOGUE).read_bytes()

        receipt = erase(tmp_path / "a", SUBJECT)

        verify(tmp_path / "a")
        assert receipt.left == []
        assert names_in(tmp_path / "a") == ["catalogue.1.sqlite", MANIFEST]
        assert SUBJECT.encode() not in (tmp_path / "a" / "catalogue.1.sqlite").read_bytes()
        with ArchiveReader(tmp_path / "a", on_problem=no_problem, now=lambda: BEGIN) as reader:
            found = reader.series("orders_total")
            assert sorted(filter(None, reader.increases(found, BEGIN, BEGIN + DAY))) == [2.0, 5.0]

    def test_in_an_archive_of_a_newer_version(
        self, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        Windows that a newer version has archived are not searched, which is said; records are.
        """
        with monkeypatch.context() as patch:
            patch.setattr(
                catalogue_module, "_SCHEMA", (*catalogue_module._SCHEMA, "CREATE INDEX by_second ON cuts (second);")
            )
            put_aside(site, str(tmp_path / "a"))

        receipt = erase(tmp_path / "a", SUBJECT)

        assert sum(receipt.records.values()) == 3
        assert [f"{tmp_path / 'a'}: {CATALOGUE}: has version 2" in each for each in receipt.unsearched] == [True]
        verify(tmp_path / "a")

    @pytest.mark.slow  # a process for each step
    def test_killed_at_every_step(self, site: Site, tmp_path: Path) -> None:
        """
        Killed at any step, also of SQLite's, the series has the one name or the other and its numbers once; the next call finishes it.
        """
        with site.written({OF_SUBJECT: 5.0, OF_OTHER: 2.0}):
            pass
        seen: set[bool] = set()
        for step in count():
            copied = Site(tmp_path / f"{step}")
            shutil.copytree(site.path / STORE, copied.path / STORE, dirs_exist_ok=True)

            def work() -> None:
                connect = catalogue_module.connect

                def connected(path: Path, mode: str) -> sqlite3.Connection:
                    connection = connect(path, mode)
                    connection.set_trace_callback(lambda _: os.close(os.open(os.devnull, os.O_RDONLY)))
                    return connection

                catalogue_module.connect = connected
                erase(copied.path, SUBJECT)  # noqa: B023 - it is called here

            was_killed = killed_at(step, work)

            totals = copied.totals()
            seen.add(OF_SUBJECT in totals)
            assert sorted(totals.values()) == [2.0, 5.0]
            assert erase(copied.path, SUBJECT).left == []
            assert sorted(copied.totals().values()) == [2.0, 5.0]
            assert copied.files_with(SUBJECT) == []
            if not was_killed:
                break
        assert seen == {True, False}
        assert step > 20

    @pytest.mark.parametrize("kind", [CELLS_SUFFIX, TOTALS])
    def test_in_live_files(self, site: Site, kind: str) -> None:
        """
        So is one that a live file has, of a process or folded.
        """
        path = site.count(OF_OTHER, OF_SUBJECT, kind=kind)
        assert site.files_with(SUBJECT)

        receipt = erase(site.path, SUBJECT)

        assert [each.partition(";")[0] for each in receipt.left] == [f"{path}: label 'user' of orders_total"]
        assert erase(site.path, "not there").left == []

    def test_a_short_id(self, site: Site) -> None:
        """
        An id that is found in anything is reported where it is the whole label.
        """
        site.count(SeriesKey("a_total", (("status", "307"),)), SeriesKey("b_total", (("user", "7"),)))

        assert ["b_total" in each for each in erase(site.path, "7").left] == [True]

    def test_what_cannot_be_read(self, site: Site) -> None:
        """
        Of a damaged catalogue or live file is said that it was not searched, and it stays as it is.
        """
        damaged = [
            site.path / STORE / CATALOGUE,
            live_path(site.path) / f"1-a.0{CELLS_SUFFIX}",
            live_path(site.path) / f"{TOTALS}1",
        ]
        for path in damaged:
            path.write_bytes(b"something else" * 999)

        receipt = erase(site.path, SUBJECT)

        assert [each.partition(": ")[0] for each in receipt.unsearched] == list(map(str, damaged))
        assert all(path.read_bytes() == b"something else" * 999 for path in damaged)


@pytest.fixture(params=["folder", "memory"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "a") if request.param == "folder" else f"memory://{tmp_path.name}/erased"


def put_aside(site: Site, target: str) -> None:
    """An archive at *target* of what *site* has: windows, and chunks with and without the subject, or with nothing else."""
    kept = Kept(site.path / STORE)
    kept.put(window(BEGIN + 100, 1), window(BEGIN + 5 * DAY, 2))
    kept.close()
    site.add("0", [made(1, identity=SUBJECT), made(2)], [made(3, identity=SUBJECT)])
    site.add("1", [made(4)])
    site.add("2", [made(5, identity=SUBJECT)])
    archive(site.path / STORE, target, before=at(BEGIN + DAY))


def told(target: str) -> list[Any]:
    """What an archive answers; the first are the times of its records."""
    with ArchiveReader(target, on_problem=no_problem, now=lambda: BEGIN) as reader:
        times = [one.frame.time_ns for one in reader.records(EVERYTHING, limit=99)]
        return [times, *(answers(reader, *each) for each in RANGES if each[1] <= BEGIN + DAY)]


class TestArchives:
    def test_erased(self, site: Site, target: str, tmp_path: Path) -> None:
        """
        Erased in a directory and in its archive, the subject is in no byte of either, nor of what is restored; what else the archive
        has is answered as before, and it is whole. Done again, nothing changes.
        """
        put_aside(site, target)
        before = told(target)
        progress: list[tuple[int, int]] = []

        receipt = erase(target, SUBJECT, on_progress=lambda done, of: progress.append((done, of)))
        erase(site.path, SUBJECT)

        assert receipt.records == {"0.chunk": 2, "2.chunk": 1}
        assert (receipt.left, receipt.unsearched) == ([], [])
        assert progress == [(number, 4) for number in range(5)]
        manifest = verify(target)
        assert [(file.path, file.since_ns, file.until_ns, file.records) for file in manifest.chunks] == [
            (f"{CHUNKS}/0.1.chunk", 2, 2, 1),
            (f"{CHUNKS}/1.chunk", 4, 4, 1),
        ]
        assert before[0] == [5, 4, 3, 2, 1]
        assert told(target) == [[4, 2], *before[1:]]
        restore(target, tmp_path / "restored")
        restore(target, site.path / STORE)
        assert [frame.time_ns for frame in site.read()] == [2, 4]
        for place in tmp_path.rglob("*"):
            assert not place.is_file() or SUBJECT.encode() not in place.read_bytes()
        assert erase(target, SUBJECT).records == {}
        assert verify(target) == manifest

    def test_in_a_folder_nothing_else_is_left(self, site: Site, tmp_path: Path) -> None:
        """
        Of the files that held the subject none is there any more, and each further erasure replaces its own again.
        """
        put_aside(site, str(tmp_path / "a"))

        erase(tmp_path / "a", SUBJECT)
        first = names_in(tmp_path / "a" / CHUNKS)
        erase(tmp_path / "a", "id")

        assert first == ["0.1.chunk", "1.chunk"]
        assert names_in(tmp_path / "a" / CHUNKS) == []
        assert names_in(tmp_path / "a") == [CATALOGUE, CHUNKS, MANIFEST]
        assert told(str(tmp_path / "a"))[0] == []

    def test_what_is_damaged(self, site: Site, tmp_path: Path) -> None:
        """
        A file that is not as it was archived stays, is said not to be searched, and is damaged still for who verifies it.
        """
        put_aside(site, str(tmp_path / "a"))
        path = tmp_path / "a" / CHUNKS / "0.chunk"
        path.write_bytes(content := path.read_bytes()[:-1])

        receipt = erase(tmp_path / "a", SUBJECT)

        assert receipt.records == {"2.chunk": 1}
        assert receipt.unsearched == [f"{tmp_path / 'a'}: {CHUNKS}/0.chunk is damaged"]
        assert path.read_bytes() == content
        with pytest.raises(ArchiveError, match=r"is damaged: chunks/0\.chunk"):
            verify(tmp_path / "a")

    def test_no_archive(self, tmp_path: Path) -> None:
        """
        Where there is none that is said.
        """
        with pytest.raises(ArchiveError, match=f"no {MANIFEST}"):
            erase(f"memory://{tmp_path.name}/nothing", SUBJECT)

    @pytest.mark.slow  # a process for each step
    def test_killed_at_every_step(self, site: Site, tmp_path: Path) -> None:
        """
        Killed at any step, the archive is whole, that of before or that of afterwards; the next call leaves that of afterwards alone.
        """
        put_aside(site, str(tmp_path / "a"))
        before = told(str(tmp_path / "a"))
        seen: set[int] = set()
        for step in count():
            path = tmp_path / f"{step}"
            shutil.copytree(tmp_path / "a", path)

            was_killed = killed_at(step, lambda: erase(path, SUBJECT))  # noqa: B023 - it is called here

            verify(path)
            times, *windows = told(str(path))
            seen.add(len(times))
            assert times in ([5, 4, 3, 2, 1], [4, 2])
            assert windows == before[1:]
            erase(path, SUBJECT)
            verify(path)
            assert told(str(path)) == [[4, 2], *before[1:]]
            assert names_in(path / CHUNKS) == ["0.1.chunk", "1.chunk"]
            assert names_in(path) == [CATALOGUE, CHUNKS, MANIFEST]
            if not was_killed:
                break
        assert seen == {2, 5}
        assert step > 20


class TestDeadProcesses:
    def test_what_nobody_has_imported(self, site: Site) -> None:
        """
        Where no service runs, what dead processes have left is imported, the open chunk sealed, and no byte of the subject stays.
        """
        segments = site.segment("1-a")
        for number in range(4):
            put(segments, made(number, identity=SUBJECT if number % 2 else "id"))
        reader = SegmentReader(segments.memory, name=f"1-a.0{SEGMENT_SUFFIX}")
        with opened(site.chunks) as directory:
            writer = ChunkWriter(directory, "1", 5)
            writer.add(reader.runs(2))
            writer.sync()
            writer.close()
        assert site.files_with(SUBJECT)

        receipt = erase(site.path, SUBJECT)

        assert [frame.time_ns for frame in site.read()] == [0, 2]
        assert site.files_with(SUBJECT) == []
        assert (sum(receipt.records.values()), receipt.left) == (2, [])
        live = live_path(site.path)
        after = SegmentReader((live / f"1-a.0{SEGMENT_SUFFIX}").read_bytes(), name="after")
        assert (after.finish(), after.total_frames) == ([], 4)  # so that nobody thinks that some were lost
        assert (after.corrupt_frames, after.torn_frames) == (0, 0)
        assert names_in(live) == [f"1-a.0{SEGMENT_SUFFIX}"]

    @pytest.mark.parametrize("missing", [STORE, f"{STORE}/{CHUNKS}"])
    def test_before_there_is_a_store(self, site: Site, missing: str) -> None:
        """
        What a service has left that never came to have a store, or chunks, is imported and erased as well.
        """
        shutil.rmtree(site.path / missing)
        segments = site.segment("1-a")
        for number in range(4):
            put(segments, made(number, identity=SUBJECT if number % 2 else "id"))

        receipt = erase(site.path, SUBJECT)

        assert [frame.time_ns for frame in site.read()] == [0, 2]
        assert site.files_with(SUBJECT) == []
        assert (sum(receipt.records.values()), receipt.left, receipt.unsearched) == (2, [], [])
        assert site.chunks.stat().st_mode & 0o777 == 0o700

    def test_an_empty_chunk(self, site: Site) -> None:
        """
        An open chunk without records goes; what a segment has then gets one of its own.
        """
        site.add("1", seal=False)
        put(site.segment("1-a"), made(1))

        erase(site.path, SUBJECT)

        assert [frame.time_ns for frame in site.read()] == [1]
        assert len(names_in(site.chunks)) == 1


class TestLiving:
    @pytest.mark.parametrize("encrypted", [False, True])
    def test_a_service_that_runs(self, site: Site, tmp_path: Path, encrypted: bool) -> None:
        """
        Erased while two processes run and record, no file of the directory has a byte of the subject; what others recorded, and the
        totals, stay, in both processes.
        """
        keys = tmp_path / "keys"
        keys.touch(0o600)
        keys.write_text(f"old {b64encode(OLD[1]).decode()}\n")
        ring = KeyRing(keys) if encrypted else None
        more = {KEYS_VARIABLE: str(keys)} if encrypted else {}
        with host(site.path, more=more) as first, host(site.path, more=more) as second:
            for number, process in enumerate((first, second)):
                process.ask(do="burst", id=SUBJECT, first=0, count=50)
                process.ask(do="burst", id="other", first=100 * number, count=50)
            assert len(site.files_with(SUBJECT)) >= 2
            first.tell(do="until", id="busy", seconds=3)  # so that its block always has what was not imported

            receipt = erase(site.path, SUBJECT, keys=ring, wait_seconds=30)

            assert site.files_with(SUBJECT) == []
            assert (sum(receipt.records.values()), receipt.left, receipt.unsearched) == (100, [], [])
            assert SCRUB_REQUEST not in names_in(live_path(site.path))
            assert SEAL_REQUEST not in names_in(site.path / STORE)
            busy = first.answer()["calls"]
            for process in (first, second):
                said = process.ask(do="look", id="other")
                assert said["total"] == 200 + busy
                assert sum(said["numbers"]) == sum((*range(50), *range(100, 150)))
                assert process.ask(do="look", id=SUBJECT)["numbers"] == []
                assert sorted(process.ask(do="look", id="busy")["numbers"]) == list(range(busy))
            # What is live is in clear; nothing of the store is.
            assert bool([file for file in site.files_with("busy") if file.startswith(STORE)]) is not encrypted

    def test_one_that_has_no_store_yet(self, site: Site) -> None:
        """
        While the leader has not made a store, because it is stopped say, the receipt says that it could not be asked for all.
        """
        with host(site.path) as process:
            process.ask(do="burst", id=SUBJECT, first=0, count=5)
            os.kill(process.pid, signal.SIGSTOP)
            shutil.rmtree(site.path / STORE)

            receipt = erase(site.path, SUBJECT, wait_seconds=0.2)

            os.kill(process.pid, signal.SIGCONT)
            assert "the file that the service is writing" in receipt.left[1]
            assert SEAL_REQUEST not in names_in(site.path / STORE)

    def test_a_label(self, site: Site) -> None:
        """
        A service that runs keeps its series, and the receipt says so; once it is stopped and its live files are gone, the label is
        erased, and what the next service counts is added to nobody's but its own.
        """
        family = "host_series_0_total"
        of_subject, of_other = (SeriesKey(family, (("n", number),)) for number in "01")

        def totals() -> dict[SeriesKey, float]:
            return {key: value for key, value in site.totals().items() if key.name == family}

        with host(site.path) as process:
            process.ask(do="series", metrics=1, labels=2)
            eventually(lambda: totals() == {of_subject: 1.0, of_other: 1.0}, says=totals)
            living = erase(site.path, "0", wait_seconds=30)
        shutil.rmtree(live_path(site.path))
        stopped = erase(site.path, "0")
        with host(site.path) as process:
            process.ask(do="series", metrics=1, labels=2)
            eventually(lambda: totals().get(of_other) == 2.0, says=totals)

        assert len(living.left) == 2
        assert all(f"label 'n' of {family}" in each for each in living.left)
        assert stopped.left == []
        after = totals()
        assert (after.pop(of_subject), after.pop(of_other)) == (1.0, 2.0)
        assert list(after.values()) == [1.0]

    def test_one_that_does_not_answer(self, site: Site) -> None:
        """
        A process that is stopped cannot clear its file: the receipt says which that is, and when it goes on, it can be done again.
        """
        with host(site.path) as process:
            process.ask(do="burst", id=SUBJECT, first=0, count=5)
            os.kill(process.pid, signal.SIGSTOP)

            receipt = erase(site.path, SUBJECT, wait_seconds=0.2)

            os.kill(process.pid, signal.SIGCONT)
            assert SEGMENT_SUFFIX in receipt.left[0]
            assert "the file that the service is writing" in receipt.left[1]
            assert "LEFT " in str(receipt)
            assert SEAL_REQUEST not in names_in(site.path / STORE)
            assert not erase(site.path, SUBJECT, wait_seconds=30).left
            assert site.files_with(SUBJECT) == []


class TestScrub:
    def test_only_what_was_imported(self) -> None:
        """
        What was imported is overwritten, what was not is still there to be read, and records go on being kept and counted.
        """
        segments = Segments.in_memory(block_count=8)
        reader = SegmentReader(segments.memory, name="test")
        put(segments, made(1, message="imported"))
        reader.read()
        segments.scrub(close=True)
        kept = b"imported" in bytes(segments.memory)
        reader.mark_imported()

        segments.scrub(close=True)
        put(segments, made(2, message="waiting"))
        segments.scrub(close=True)

        assert kept
        assert b"imported" not in bytes(segments.memory)
        assert [frame.time_ns for frame in reader.read()] == [2]
        assert [frame.time_ns for frame in SegmentReader(bytes(segments.memory), name="other").finish()] == [2]
        reader.finish()
        assert (reader.total_frames, reader.corrupt_frames, reader.torn_frames) == (2, 0, 0)

    def test_all_blocks_are_used_again(self) -> None:
        """
        A segment that is scrubbed again and again loses no block and no record.
        """
        segments = Segments.in_memory(block_count=4)
        reader = SegmentReader(segments.memory, name="test")
        found: list[int] = []
        for number in range(4_000):
            put(segments, made(number, message="x" * 500))
            if number % 150 == 149:
                found += (frame.time_ns for frame in reader.read())
                reader.mark_imported()
                segments.scrub(close=True)

        found += (frame.time_ns for frame in reader.finish())
        assert found == list(range(4_000))
        assert reader.total_frames == 4_000

    def test_while_threads_record(self) -> None:
        """
        Threads that record while blocks are cleared lose nothing.
        """
        segments = Segments.in_memory(block_count=16)
        reader = SegmentReader(segments.memory, name="test")
        total = 3_000

        def record(first: int) -> None:
            for number in range(first, first + total):
                frame = made(number, message="x" * 200)
                while not segments.append(number, 20, 0, b"id", b"op", frame.payload):
                    time.sleep(0)  # full, until more was imported

        threads = [Thread(target=record, args=(each * total,)) for each in range(3)]
        found: list[int] = []
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            found += (frame.time_ns for frame in reader.read())
            reader.mark_imported()
            segments.scrub(close=True)
        for thread in threads:
            thread.join()

        found += (frame.time_ns for frame in reader.finish())
        assert sorted(found) == list(range(3 * total))
        assert reader.corrupt_frames == 0


class TestRotate:
    @settings(max_examples=size(whole=1_000, small=30))
    @given(
        st.lists(
            st.tuples(st.lists(frames, min_size=1, max_size=3), st.sampled_from([None, OLD, NEW])),
            min_size=1,
            max_size=4,
        )
    )
    def test_all_is_encrypted_with_the_first(
        self, tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[list[Frame], tuple[str, bytes] | None]]
    ) -> None:
        """
        Afterwards the first key alone reads every record, also of the chunk that was open, and a second time there is nothing to do.
        """
        site = Site(tmp_path_factory.mktemp("s"))
        every = [
            frame
            for number, (part, pair) in enumerate(parts)
            for frame in site.add(f"{number}", part, keys=pair and KeyRing([pair]), seal=number < len(parts) - 1)
        ]
        ring = KeyRing([NEW, OLD])

        rotated = rotate(site.path, ring)
        again = rotate(site.path, ring)

        assert Counter(map(repr, site.read(KeyRing([NEW])))) == Counter(map(repr, every))
        assert rotated.chunks == sum(pair is not NEW for _, pair in parts)
        assert rotated.records == sum(len(part) for part, pair in parts if pair is not NEW)
        assert rotated.in_use == {"new": len(every)}
        assert rotated.failed == []
        assert again == (0, 0, {"new": len(every)}, [])

    def test_a_key_that_is_lost(self, site: Site) -> None:
        """
        What no key at hand reads stays as it is, and is said; all else is encrypted anew.
        """
        lost, clear = [made(1)], [made(2)]
        site.add("1", lost, keys=KeyRing([OLD]))
        site.add("2", clear)
        before = (site.chunks / "1.chunk").read_bytes()

        rotated = rotate(site.path, KeyRing([NEW]))

        assert rotated.in_use == {"old": 1, "new": 1}
        assert len(rotated.failed) == 1
        assert "(1 records) are encrypted with key 'old', which is not at hand" in rotated.failed[0]
        assert (site.chunks / "1.chunk").read_bytes() == before

    def test_before_there_is_a_store(self, site: Site) -> None:
        """
        What a service has left that never came to have a store is imported, with the first key.
        """
        shutil.rmtree(site.path / STORE)
        put(site.segment("1-a"), made(1))

        assert rotate(site.path, KeyRing([NEW])) == (0, 0, {"new": 1}, [])

    def test_no_archive(self, site: Site, tmp_path: Path) -> None:
        """
        An archive keeps its keys, which is said, with what to do, and it stays as it is. That way leads to the new key.
        """
        site.add("1", [made(1)], keys=KeyRing([OLD]))
        archive(site.path / STORE, tmp_path / "a", before=datetime.now(UTC), service="s", delete=True)
        before = {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()}

        with pytest.raises(ArchiveError, match="keeps the keys that it was made with: restore it"):
            rotate(tmp_path / "a", KeyRing([NEW, OLD]))

        assert {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()} == before
        restore(tmp_path / "a", site.path / STORE)
        assert rotate(site.path, KeyRing([NEW, OLD])) == (1, 1, {"new": 1}, [])

    def test_not_sealed_in_time(self, site: Site) -> None:
        """
        Of a service that does not finish its file it is said, the old key is still in use, and the request does not stay.
        """
        site.add("1", [made(1)], keys=KeyRing([OLD]), seal=False)
        with host(site.path):
            rotated = rotate(site.path, KeyRing([NEW, OLD]), wait_seconds=0.1)

        assert rotated.in_use == {"old": 1}
        assert "did not finish the file that it is writing within 0.1 s" in rotated.failed[0]
        assert SEAL_REQUEST not in names_in(site.path / STORE)


CALLS = ("open", "pwrite", "fsync", "fdatasync", "rename", "replace", "unlink", "link", "rmdir")


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Do *work* in a child that is killed before its call number *step* that changes files; whether it came that far."""
    # They would all begin anew in the child, each in its directory, where every child before has left its files.
    others = tuple(monitors._monitors)
    monitors._monitors.clear()
    child = os.fork()
    if child:
        monitors._monitors.update(others)
        try:
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        except BaseException:  # it has taken too long
            os.kill(child, signal.SIGABRT)  # at which pytest's handler says where it hangs
            os.waitpid(child, 0)
            raise
        assert code in {0, -signal.SIGKILL}
        return code != 0
    try:
        gc.disable()  # it would copy all that the tests before have left
        taken = count()

        def watched(call: Callable[..., Any]) -> Callable[..., Any]:
            def before(*arguments: Any, **more: Any) -> Any:
                if next(taken) == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*arguments, **more)

            return before

        for name in CALLS:
            setattr(os, name, watched(getattr(os, name)))
        work()
        os._exit(0)
    except BaseException:  # noqa: BLE001 - the child must not go on with the tests
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


@pytest.mark.slow  # a process for each step
class TestKilledAtEveryStep:
    def sweep(self, tmp_path: Path, work: Callable[[Path], object]) -> Iterator[Site]:
        """Sites in which *work* was killed, step by step, and at last one in which it was not."""
        for step in count():
            site = Site(tmp_path / f"{step}")
            for number in range(2):
                first = 10 * number
                site.add(
                    f"{number}",
                    [made(first, identity=SUBJECT), made(first + 1)],
                    [made(first + 2)],
                    keys=KeyRing([OLD]),
                    seal=number == 0,
                )
            was_killed = killed_at(step, lambda: work(site.path))  # noqa: B023 - it is called here
            yield site
            if not was_killed:
                break
        assert step > 20

    def test_rotate(self, tmp_path: Path) -> None:
        """
        Killed at any step, every record is there once; the next call brings all to the first key and leaves nothing behind.
        """
        ring = KeyRing([NEW, OLD])
        for site in self.sweep(tmp_path, lambda path: rotate(path, ring)):
            assert [frame.time_ns for frame in site.read(ring)] == [0, 1, 2, 10, 11, 12], site.path

            assert rotate(site.path, ring).in_use == {"new": 6}
            assert names_in(site.chunks) == ["0.chunk", "1.chunk"]
            assert [frame.time_ns for frame in site.read(KeyRing([NEW]))] == [0, 1, 2, 10, 11, 12]

    def test_erase(self, tmp_path: Path) -> None:
        """
        Killed at any step, no other record is lost or there twice; the next call erases what is left of the subject.
        """
        ring = KeyRing([OLD])
        for site in self.sweep(tmp_path, lambda path: erase(path, SUBJECT, keys=ring)):
            found = [frame.time_ns for frame in site.read(ring)]
            assert len(found) == len(set(found))
            assert set(found) - {0, 10} == {1, 2, 11, 12}, site.path

            erase(site.path, SUBJECT, keys=ring)
            assert names_in(site.chunks) == ["0.chunk", "1.chunk"]
            assert [frame.time_ns for frame in site.read(ring)] == [1, 2, 11, 12]

    def test_removed_meanwhile(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A chunk that retention removes while it is rewritten does not come back.
        """
        site.add("1", [made(1, identity=SUBJECT), made(2)])
        packed = module.Packer.end

        def remove(self: module.Packer, *arguments: Any) -> bytes:
            (site.chunks / "1.chunk").unlink()
            return packed(self, *arguments)

        monkeypatch.setattr(module.Packer, "end", remove)

        receipt = erase(site.path, SUBJECT)

        assert "was removed while it was rewritten" in receipt.left[0]
        assert names_in(site.chunks) == []
