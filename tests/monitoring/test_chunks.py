from __future__ import annotations

import errno
import os
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any
from zlib import crc32

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfs.errors import StoreFileError
from rfs.monitoring._capture.pace import breathe
from rfs.monitoring._capture.record import read_record
from rfs.monitoring._capture.segments import HAS_ERROR, Frame, Run, SegmentReader, Segments
from rfs.monitoring._store.chunks import (
    FRAME_BYTES,
    OPEN_SUFFIX,
    SEALED_SUFFIX,
    ChunkReader,
    ChunkWriter,
    Imported,
    Matches,
    Place,
    chunk_files,
    newest,
)
from tests.faults.processes import Process, eventually, names_in, size
from tests.faults.programs.chunk_writer import ADDED, RECORDS
from tests.faults.tools import tmpfs
from tests.monitoring.chunks import SOURCE, STEP, by_time, contents, opened, record, run_of

HEADER_BYTES = 32
OPEN, SEALED = "c" + OPEN_SUFFIX, "c" + SEALED_SUFFIX

texts = st.one_of(st.sampled_from(["", "a", "order-1", "주문", "x" * 200]), st.text(max_size=20))
texts = texts.filter(lambda text: text.isprintable())
times = st.integers(0, 50)
levels = st.sampled_from([10, 20, 30, 40, 50])
records = st.builds(
    record,
    times,
    level=levels,
    flags=st.sampled_from([0, HAS_ERROR]),
    identity=texts,
    operation=texts,
    message=st.text(st.characters(codec="utf-8"), max_size=30),
)
# What no recording makes, and a segment could hold all the same.
strangers = st.builds(Frame, times, st.integers(0, 255), st.integers(0, 255), texts, texts, st.binary(max_size=40))


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    with opened(tmp_path) as opened_directory:
        yield opened_directory


def write(directory: int, *batches: Sequence[Frame], name: str = "c", seal: bool = False) -> list[Frame]:
    """Add *batches* to a chunk; return what should be in there."""
    writer = ChunkWriter(directory, name, 5)
    first = 0
    for batch in batches:
        writer.add([run_of(batch, first=first)])
        first += len(batch)
    if seal:
        writer.seal()
    writer.close()
    return by_time(frame for batch in batches for frame in batch)


def batches(count: int, of: int = 20) -> list[list[Frame]]:
    return [
        [record(batch * 100 + number, identity=f"id-{batch}-{number // 5}") for number in range(of)]
        for batch in range(count)
    ]


class TestWhatIsKept:
    @pytest.mark.parametrize("seal", [False, True])
    @given(st.lists(st.lists(st.one_of(records, strangers), max_size=8), max_size=4))
    def test_comes_back(self, tmp_path_factory: pytest.TempPathFactory, seal: bool, parts: list[list[Frame]]) -> None:
        """
        Every record comes back as it was handed in, whatever its payload, from an open and from a sealed chunk.
        """
        with opened(tmp_path_factory.mktemp("c")) as directory:
            expected = write(directory, *parts, seal=seal)

            found = contents(directory, SEALED if seal else OPEN)

            assert Counter(map(repr, found)) == Counter(map(repr, expected))

    @pytest.mark.parametrize("seal", [False, True])
    def test_a_text_that_is_no_text(self, directory: int, seal: bool) -> None:
        """
        A record with bytes that are no UTF-8 is kept beside the others, and shown as unreadable.
        """
        good, bad = record(1), record(2, identity="id-2")
        bad = msgspec.structs.replace(bad, payload=bad.payload.replace(b"id-2", b"\xff\xfe-2"))
        write(directory, [good, bad], seal=seal)

        found = contents(directory, SEALED if seal else OPEN)

        assert sorted(frame.payload for frame in found) == sorted([good.payload, bad.payload])
        messages = {read_record("", frame.payload, "shop").message for frame in found}
        assert messages == {"", "<unreadable record>"}

    def test_in_order_of_time(self, directory: int) -> None:
        """
        Within a frame records are in order of time, whichever run they came with.
        """
        writer = ChunkWriter(directory, "c", 5)

        writer.add([run_of([record(5), record(2)]), run_of([record(4), record(1)], sequence=2)])

        assert [frame.time_ns for frame in writer.reader.read()] == [1, 2, 4, 5]
        writer.close()

    def test_frames_are_of_a_size(self, directory: int) -> None:
        """
        A long run is cut into frames of at most `FRAME_BYTES`, short ones share one; nothing gets lost at the cuts.
        """
        chance = Random(1)
        long = [record(number, message="x" * chance.randrange(2_000)) for number in range(2_000)]
        short = [[record(10_000 + number)] for number in range(50)]
        writer = ChunkWriter(directory, "c", 5)

        writer.add([run_of(long), *(run_of(one, sequence=2 + number) for number, one in enumerate(short))])

        sizes = [sum(len(frame.payload) for frame in frames(writer.reader, number)) for number in range(9)]
        assert len(writer.reader.frames) == 9
        assert all(FRAME_BYTES - 2_200 < one <= FRAME_BYTES for one in sizes[:-1])
        assert by_time(writer.reader.read()) == by_time([*long, *(one for each in short for one in each)])
        stretches = [
            each
            for entry in writer.reader.frames
            for _, of_source in msgspec.msgpack.decode(entry.notes.sources)
            for each in of_source
            if each[0] == 1
        ]
        assert [start for _, start, _ in stretches[1:]] == [end for _, _, end in stretches[:-1]]
        writer.close()

    def test_a_record_longer_than_a_frame(self, directory: int) -> None:
        """
        A record that fits into no frame with others has one to itself.
        """
        expected = write(directory, [record(1), record(2, message="x" * (FRAME_BYTES + 1)), record(3)])

        assert contents(directory, OPEN) == expected
        assert len(ChunkReader(directory, OPEN).frames) == 3

    def test_nothing(self, directory: int) -> None:
        """
        Adding nothing writes nothing; a chunk of nothing can be sealed and read.
        """
        writer = ChunkWriter(directory, "c", 5)

        assert writer.add([]) == 0
        assert writer.add([run_of([])]) == 0
        assert writer.seal() == SEALED

        reader = ChunkReader(directory, SEALED)
        assert (list(reader.read()), reader.created_ns, reader.records) == ([], 5, 0)
        assert newest([reader], limit=5, correlation_id="a") == []

    def test_files_are_private(self, directory: int, tmp_path: Path) -> None:
        """
        Nobody else may read a chunk, and a symbolic link is not followed.
        """
        write(directory, [record(1)])
        (tmp_path / "d.open").symlink_to(tmp_path / OPEN)

        assert (tmp_path / OPEN).stat().st_mode & 0o777 == 0o600
        with pytest.raises(OSError, match=r"d\.open"):
            ChunkWriter(directory, "d", 5)


def frames(reader: ChunkReader, number: int) -> list[Frame]:
    entry = reader.frames[number]
    rows = reader.rows(entry)
    assert rows is not None
    return [rows.frame(row, 0) for row in range(entry.notes.records)]


def watched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Where the frames are that have been decompressed since, one after the other."""
    seen: list[int] = []

    def rows(self: ChunkReader, entry: Any) -> Any:
        seen.append(entry.at)
        return unwatched(self, entry)

    unwatched = ChunkReader.rows
    monkeypatch.setattr(ChunkReader, "rows", rows)
    return seen


class Asked:
    """One question, and the brute answer to it."""

    def __init__(self, **filters: Any) -> None:
        self.filters = filters

    def __repr__(self) -> str:
        return f"Asked({self.filters})"

    def fits(self, frame: Frame) -> bool:
        asked = self.filters
        return bool(
            frame.level >= asked.get("min_level", 0)
            and asked.get("operation") in (None, frame.operation)
            and asked.get("correlation_id") in (None, frame.correlation_id)
            and frame.flags & asked.get("flags", 0) == asked.get("flags", 0)
            and asked.get("since_ns", 0) <= frame.time_ns < asked.get("until_ns", 1 << 62)
        )


questions = st.fixed_dictionaries(
    {},
    optional={
        "min_level": st.one_of(levels, st.sampled_from([0, 256])),
        "operation": texts,
        "correlation_id": texts,
        "flags": st.sampled_from([0, HAS_ERROR]),
        "since_ns": times,
        "until_ns": times,
    },
).map(lambda filters: Asked(**filters))


class TestFinding:
    @settings(max_examples=200)
    @given(
        st.lists(st.tuples(st.booleans(), st.lists(st.lists(records, min_size=1, max_size=6), max_size=3)), max_size=4),
        questions,
        st.integers(1, 5),
    )
    def test_page_by_page_equals_brute_force(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        written: list[tuple[bool, list[list[Frame]]]],
        asked: Asked,
        limit: int,
    ) -> None:
        """
        Over several chunks, sealed or not, page after page: exactly the records that fit, newest first, none twice.
        """
        with opened(tmp_path_factory.mktemp("c")) as directory:
            everything: list[Frame] = []
            readers = []
            for number, (seal, parts) in enumerate(written):
                everything += write(directory, *parts, name=f"{number}", seal=seal)
                readers.append(ChunkReader(directory, f"{number}{SEALED_SUFFIX if seal else OPEN_SUFFIX}"))
            found = []
            before: Place | None = None
            while page := newest(readers, limit=limit, before=before, **asked.filters):
                found += page
                before = page[-1].place

            expected = by_time(frame for frame in everything if asked.fits(frame))
            assert by_time(one.frame for one in found) == expected
            assert [one.place for one in found] == sorted({one.place for one in found}, reverse=True)
            assert [one.place.time_ns for one in found] == [one.frame.time_ns for one in found]
            for reader in readers:
                reader.close()

    def test_a_place_stays(self, directory: int) -> None:
        """
        A page begins where the last one ended, although records came in, and the chunk was sealed, between the two.
        """
        writer = ChunkWriter(directory, "c", 5)
        writer.add([run_of([record(number) for number in range(10)])])
        first = newest([writer.reader], limit=5)
        writer.add([run_of([record(number) for number in range(10, 20)], first=10)])
        writer.seal()

        second = newest([ChunkReader(directory, SEALED)], limit=5, before=first[-1].place)

        assert [one.frame.time_ns for one in first + second] == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]

    def test_few_matches_are_remembered(self, directory: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Who asks again for what only few records of a frame are gets the same answer without decompressing it, also from another
        reader of the file.
        """
        parts = batches(5)
        parts[3].append(record(10**6, level=40))
        write(directory, *parts)
        matches = Matches()
        first = newest([ChunkReader(directory, OPEN, matches=matches)], limit=10, min_level=40)
        decompressed = watched(monkeypatch)

        again = newest([ChunkReader(directory, OPEN, matches=matches)], limit=10, min_level=40)
        others = newest([ChunkReader(directory, OPEN, matches=matches)], limit=10, min_level=41)

        assert [one.frame.time_ns for one in first] == [10**6]
        assert (again, others) == (first, [])
        assert decompressed == []

    def test_what_is_remembered_is_of_that_frame(self, directory: int) -> None:
        """
        Another frame at the same place, as there is after one could not be synced, is not taken for the one before.
        """
        write(directory, [record(1, level=40)], [record(2, level=40)])
        before, after = (entry.notes for entry in ChunkReader(directory, OPEN).frames)
        matches, filtered = Matches(), (1, 32, 40, 0, None)

        matches.put(filtered, before, [(0, record(1, level=40))])

        assert matches.get(filtered, before) == [(0, record(1, level=40))]
        assert matches.get(filtered, after) is None

    def test_what_is_remembered_is_bounded(self, directory: int) -> None:
        """
        However many frames are asked for, what is remembered stays below the bound, and answers stay right.
        """
        write(directory, *([record(number, level=40, message="x" * 200)] for number in range(100)))
        matches = Matches(20_000)
        reader = ChunkReader(directory, OPEN, matches=matches)

        found = [newest([reader], limit=200, min_level=level) for level in (30, 40)]

        assert [len(one) for one in found] == [100, 100]
        assert 15_000 < matches.bytes <= 20_000

    @pytest.mark.parametrize("seal", [False, True])
    def test_by_id_only_its_frames_are_decompressed(
        self, directory: int, seal: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        Of forty frames the two that hold records of an id are decompressed, and of an unknown id none.
        """
        parts = batches(40)
        parts[31].append(record(10**6, identity="id-7-2"))
        write(directory, *parts, seal=seal)
        reader = ChunkReader(directory, SEALED if seal else OPEN)
        decompressed = watched(monkeypatch)

        found = newest([reader], limit=100, correlation_id="id-7-2")
        nobody = newest([reader], limit=100, correlation_id="id-7-4")

        assert [one.frame.time_ns for one in found] == [10**6, 714, 713, 712, 711, 710]
        assert decompressed == [reader.frames[31].at, reader.frames[7].at]
        assert nobody == []

    def test_a_frame_that_does_not_tell_its_ids(self, directory: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        An open chunk of before frames told the ids is found to have them all the same: its frames are decompressed once.
        """
        with monkeypatch.context() as patched:
            patched.setattr("rfs.monitoring._store.chunks._pack_ids", lambda _: None)
            write(directory, *batches(5))
        reader = ChunkReader(directory, OPEN)
        decompressed = watched(monkeypatch)

        nobody = newest([reader], limit=100, correlation_id="nobody")
        found = newest([reader], limit=100, correlation_id="id-3-2")

        assert nobody == []
        assert {one.frame.correlation_id for one in found} == {"id-3-2"}
        assert len(decompressed) == 6

    def test_ids_of_one_hash(self, directory: int) -> None:
        """
        Of two ids with the same hash, each finds its own records alone.
        """
        chance = Random(4)
        known: dict[int, str] = {}
        while True:
            one = f"{chance.getrandbits(64):x}"
            other = known.setdefault(crc32(one.encode()) >> 8, one)
            if other != one:
                break
        write(directory, [record(1, identity=one)], [record(2, identity=other)], seal=True)
        reader = ChunkReader(directory, SEALED)

        assert [each.frame.time_ns for each in newest([reader], limit=9, correlation_id=one)] == [1]
        assert [each.frame.time_ns for each in newest([reader], limit=9, correlation_id=other)] == [2]
        assert len(reader.with_id(one)) == 2

    def test_a_long_id(self, directory: int) -> None:
        """
        An id of more than the 255 bytes that a segment's frame tells is found by all of it.
        """
        identity = "é" * 200
        told = str(identity.encode()[:255], "utf-8", "replace")
        whole = record(1, identity=identity)
        write(directory, [Frame(1, whole.level, whole.flags, told, whole.operation, whole.payload)], seal=True)

        found = newest([ChunkReader(directory, SEALED)], limit=9, correlation_id=identity)

        assert [one.frame.correlation_id for one in found] == [identity]

    @pytest.mark.parametrize(
        ("asked", "decompressed"),
        [
            (Asked(min_level=40), 1),
            (Asked(min_level=50), 0),
            (Asked(flags=HAS_ERROR), 1),
            (Asked(operation="rare"), 1),
            (Asked(operation="never"), 0),
            (Asked(since_ns=1_000, until_ns=1_010), 1),
            (Asked(since_ns=10**9), 0),
            (Asked(), 1),  # the newest ten are in the newest frame
        ],
    )
    def test_what_the_notes_rule_out_is_skipped(
        self, directory: int, asked: Asked, decompressed: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        Of forty frames only those are decompressed in which there may be an answer.
        """
        parts = batches(40)
        parts[12][3] = record(1_203, level=40, flags=HAS_ERROR, operation="rare")
        write(directory, *parts, seal=True)
        reader = ChunkReader(directory, SEALED)
        seen = watched(monkeypatch)

        found = newest([reader], limit=10, **asked.filters)

        assert len(seen) == decompressed
        assert bool(found) == bool(decompressed)


class TestGoingOn:
    def test_behind_the_last_whole_frame(self, directory: int, tmp_path: Path) -> None:
        """
        Cut at any byte, a chunk holds the frames that are whole; its next writer goes on there, and nothing is lost or twice.
        """
        parts = batches(4, of=6)
        everything = write(directory, *parts)
        whole = (tmp_path / OPEN).read_bytes()
        ends = [entry.end for entry in ChunkReader(directory, OPEN).frames]
        for length in range(HEADER_BYTES, len(whole) + 1):
            (tmp_path / OPEN).write_bytes(whole[:length])
            reader = ChunkReader(directory, OPEN)
            there = sum(end <= length for end in ends)

            assert len(reader.frames) == there, length
            assert not reader.damage

            imported = Imported([reader], {SOURCE})
            writer = ChunkWriter(directory, "c", 5)
            for number, part in enumerate(parts):
                writer.add([imported.rest(run_of(part, first=6 * number))])
            writer.seal()
            reader.close()
            sealed = ChunkReader(directory, SEALED)
            assert by_time(sealed.read()) == everything, length
            assert len(newest([sealed], limit=99, correlation_id="id-1-0")) == 5
            sealed.close()
            (tmp_path / SEALED).unlink()

    def test_an_unfinished_footer(self, directory: int, tmp_path: Path) -> None:
        """
        Killed while it was being sealed, at any byte and before the rename, the chunk is as it was and can be gone on with. A whole
        footer that only wants its name is nothing torn: nobody is alarmed.
        """
        everything = write(directory, *batches(3, of=6))
        frames_end = (tmp_path / OPEN).stat().st_size
        ChunkWriter(directory, "c", 5).seal()
        whole = (tmp_path / SEALED).read_bytes()
        (tmp_path / SEALED).unlink()
        more = [record(7_000, identity="more")]
        for length in range(frames_end, len(whole) + 1):
            (tmp_path / OPEN).write_bytes(whole[:length])

            assert contents(directory, OPEN) == everything
            torn = ChunkReader(directory, OPEN).torn_bytes
            assert torn == (0 if length == len(whole) else length - frames_end)

            writer = ChunkWriter(directory, "c", 5)
            assert writer.size == frames_end
            writer.add([run_of(more, sequence=9)])
            writer.seal()
            assert contents(directory, SEALED) == by_time(everything + more)
            (tmp_path / SEALED).unlink()

    def test_a_footer_behind_damage(self, directory: int, tmp_path: Path) -> None:
        """
        Where the last frame is damaged, a whole footer does not hide it.
        """
        write(directory, *batches(3), seal=True)
        last = ChunkReader(directory, SEALED).frames[-1]
        (tmp_path / SEALED).rename(tmp_path / OPEN)
        spoil(tmp_path / OPEN, last.at + 40)

        assert ChunkReader(directory, OPEN).torn_bytes == (tmp_path / OPEN).stat().st_size - last.at

    def test_sealed_twice(self, directory: int, tmp_path: Path) -> None:
        """
        A chunk that was sealed but for its name is sealed again to the same bytes.
        """
        write(directory, *batches(3), seal=True)
        once = (tmp_path / SEALED).read_bytes()
        (tmp_path / SEALED).rename(tmp_path / OPEN)

        ChunkWriter(directory, "c", 99).seal()

        assert (tmp_path / SEALED).read_bytes() == once
        assert sorted(path.name for path in tmp_path.iterdir()) == [SEALED]

    def test_damage_stays_known(self, directory: int, tmp_path: Path) -> None:
        """
        A frame that was damaged before its chunk was sealed is still reported of the sealed one.
        """
        write(directory, *batches(3))
        entry = ChunkReader(directory, OPEN).frames[1]
        spoil(tmp_path / OPEN, entry.at + 40)

        ChunkWriter(directory, "c", 5).seal()

        reader = ChunkReader(directory, SEALED)
        assert reader.records == 40
        said = f"c.chunk: bytes {entry.at} to {entry.end} (an unknown number of records)"
        assert list(map(str, reader.damage)) == [f"{said} were damaged before the chunk was sealed"]

    def test_a_damaged_header_is_mended(self, directory: int, tmp_path: Path) -> None:
        """
        A chunk whose header is damaged is gone on with, and then has its header again.
        """
        everything = write(directory, *batches(2))
        spoil(tmp_path / OPEN, 9)

        assert ChunkReader(directory, OPEN).damage[0].end == HEADER_BYTES
        ChunkWriter(directory, "c", 5).close()

        assert not ChunkReader(directory, OPEN).damage
        assert contents(directory, OPEN) == everything


def spoil(path: Path, at: int) -> None:
    """Change one byte."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0xFF]))


class TestDamage:
    def test_a_frame_costs_its_records(self, directory: int, tmp_path: Path) -> None:
        """
        Of a sealed chunk with a damaged frame the others are read, and it is said where how many records are missing.
        """
        parts = batches(3)
        write(directory, *parts, seal=True)
        reader = ChunkReader(directory, SEALED)
        spoil(tmp_path / SEALED, reader.frames[1].end - 1)

        found = [one.frame for one in newest([reader], limit=99)]

        assert by_time(found) == by_time(parts[0] + parts[2])
        assert newest([reader], limit=9, correlation_id="id-1-1") == []
        entry = reader.frames[1]
        assert [(each.file, each.at, each.end, each.records) for each in reader.damage] == [
            (SEALED, entry.at, entry.end, 20)
        ]

    def test_a_damaged_bucket(self, directory: int, tmp_path: Path) -> None:
        """
        With any byte of the index damaged every id is still found, and the index is reported.
        """
        parts = batches(3, of=10)
        write(directory, *parts, seal=True)
        whole = (tmp_path / SEALED).read_bytes()
        index_at = ChunkReader(directory, SEALED).end
        for at in range(index_at, index_at + 4 * 6):
            (tmp_path / SEALED).write_bytes(whole)
            spoil(tmp_path / SEALED, at)
            reader = ChunkReader(directory, SEALED)

            for batch in range(3):
                for group in range(2):
                    assert len(newest([reader], limit=9, correlation_id=f"id-{batch}-{group}")) == 5

            assert [each.fault for each in reader.damage] == ["are a damaged part of the index"]
            assert reader.damage[0].at <= at < reader.damage[0].end

    def test_a_damaged_footer(self, directory: int, tmp_path: Path) -> None:
        """
        With any byte of the footer damaged, or with any number of bytes cut off it, all answers are the same.
        """
        everything = write(directory, *batches(3, of=10), seal=True)
        whole = (tmp_path / SEALED).read_bytes()
        footer_at = ChunkReader(directory, SEALED).end + 4 * 6
        for at in range(footer_at, len(whole)):
            for cut in (False, True):
                (tmp_path / SEALED).write_bytes(whole[:at] if cut else whole)
                if not cut:
                    spoil(tmp_path / SEALED, at)
                reader = ChunkReader(directory, SEALED)

                assert by_time(reader.read()) == everything
                assert len(newest([reader], limit=9, correlation_id="id-1-0")) == 5
                assert [each.at for each in reader.damage] == [reader.end]

    def test_unreadable(self, directory: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A disk that cannot read a frame costs that frame; the answer has the rest.
        """
        parts = batches(3)
        write(directory, *parts, seal=True)
        reader = ChunkReader(directory, SEALED)
        pread = os.pread

        def failing(fd: int, count: int, at: int) -> bytes:
            if at == reader.frames[2].at:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return pread(fd, count, at)

        monkeypatch.setattr(os, "pread", failing)

        assert by_time(one.frame for one in newest([reader], limit=99)) == by_time(parts[0] + parts[1])
        assert [each.fault for each in reader.damage] == ["cannot be read: Input/output error"]

    def test_another_chunks_frame(self, directory: int, tmp_path: Path) -> None:
        """
        A whole frame of another chunk, such as a record's text might hold, is not taken for one of this.
        """
        write(directory, *batches(1), name="d")
        stranger = (tmp_path / "d.open").read_bytes()[HEADER_BYTES:]
        everything = write(directory, *batches(2))
        whole = (tmp_path / OPEN).read_bytes()
        (tmp_path / OPEN).write_bytes(whole[:HEADER_BYTES] + stranger + whole[HEADER_BYTES:])

        assert contents(directory, OPEN) == everything


class TestRefused:
    def test_a_newer_version(self, directory: int, tmp_path: Path) -> None:
        """
        A chunk of a newer version is refused by its name, its version and what to do, and stays as it is.
        """
        write(directory, [record(1)])
        content = bytearray((tmp_path / OPEN).read_bytes())
        struct.pack_into("<I", content, 8, 7)
        struct.pack_into("<I", content, 28, crc32(content[:28]))
        (tmp_path / OPEN).write_bytes(content)

        said = r"store file c\.open: has version 7; this library reads up to version 1\. Upgrade rfs here"
        with pytest.raises(StoreFileError, match=said):
            ChunkReader(directory, OPEN)
        with pytest.raises(StoreFileError, match="version 7"):
            ChunkWriter(directory, "c", 5)
        assert (tmp_path / OPEN).read_bytes() == content

    def test_a_newer_footer(self, directory: int, tmp_path: Path) -> None:
        """
        So is one whose header is damaged and whose footer is of a newer version.
        """
        write(directory, [record(1)], seal=True)
        content = bytearray((tmp_path / SEALED).read_bytes())
        content[8] ^= 1
        tail = len(content) - 32
        struct.pack_into("<I", content, tail + 4, 7)
        stored = struct.unpack_from("<I", content, tail + 8)[0]
        struct.pack_into("<I", content, tail, crc32(content[tail - stored : tail], crc32(content[tail + 4 :])))
        (tmp_path / SEALED).write_bytes(content)

        with pytest.raises(StoreFileError, match="version 7"):
            ChunkReader(directory, SEALED)

    @pytest.mark.parametrize(
        ("file", "content", "said"),
        [
            (SEALED, b"", "has 0 bytes"),
            (SEALED, b"RFSCHUNK", "has 8 bytes; even a chunk's header takes 32"),
            (
                SEALED,
                b"\xff\xd8\xff\xe0JFIF" + bytes(10_000),
                r"begins with b'\\xff\\xd8\\xff\\xe0JFIF', not b'RFSCHUNK'",
            ),
            (OPEN, b"SQLite format 3\0" + bytes(10_000), "begins with b'SQLite f'"),
            (OPEN, b"RFSCHUNK" + bytes(10_000), "has a damaged header"),
        ],
    )
    def test_something_else(self, directory: int, tmp_path: Path, file: str, content: bytes, said: str) -> None:
        """
        What is no chunk is refused, and stays as it is.
        """
        (tmp_path / file).write_bytes(content)

        with pytest.raises(StoreFileError, match=said):
            ChunkReader(directory, file)
        if file == OPEN:
            with pytest.raises(StoreFileError, match=said):
                ChunkWriter(directory, "c", 5)
        assert (tmp_path / file).read_bytes() == content

    def test_not_there(self, directory: int) -> None:
        """
        A chunk that was removed meanwhile is an OSError.
        """
        with pytest.raises(FileNotFoundError):
            ChunkReader(directory, SEALED)


class TestRefreshing:
    def test_sees_what_was_added(self, directory: int) -> None:
        """
        Whoever has a chunk open that another process writes sees what has been added, by filter and by id.
        """
        writer = ChunkWriter(directory, "c", 5)
        reader = ChunkReader(directory, OPEN)
        for number, part in enumerate(batches(3)):
            writer.add([run_of(part, first=20 * number)])

            reader.refresh()

            assert reader.records == 20 * (number + 1)
            assert len(newest([reader], limit=9, correlation_id=f"id-{number}-0")) == 5
        writer.seal()
        reader.refresh()
        assert reader.records == 60
        assert not reader.damage

    def test_what_was_taken_back(self, directory: int, tmp_path: Path) -> None:
        """
        Frames that the writer had to take back are forgotten, and those in their place are seen.
        """
        parts = batches(3)
        written: list[bytes] = []
        for some in (parts[:1], parts[1:2], parts[1:]):
            if written:
                (tmp_path / OPEN).write_bytes(written[0])
            write(directory, *some)
            written.append((tmp_path / OPEN).read_bytes())
        (tmp_path / OPEN).write_bytes(written[1])
        reader = ChunkReader(directory, OPEN)
        assert reader.records == 40
        for content, expected in ((written[0], 1), (written[1], 2), (written[0], 1), (written[2], 3)):
            (tmp_path / OPEN).write_bytes(content)

            assert reader.refresh()

            assert by_time(reader.read()) == by_time(one for part in parts[:expected] for one in part)
            assert not reader.damage

    def test_somebody_elses(self, directory: int, tmp_path: Path) -> None:
        """
        A reader is told when its chunk was taken by another writer, and when it was sealed.
        """
        everything = write(directory, *batches(2))
        reader = ChunkReader(directory, OPEN)
        assert reader.refresh()

        writer = ChunkWriter(directory, "c", 5)
        assert not reader.refresh()
        assert writer.reader.refresh()
        writer.seal()
        assert not writer.reader.refresh()
        assert ChunkReader(directory, SEALED).refresh()
        assert by_time(reader.read()) == by_time(writer.reader.read()) == everything

    def test_reading_goes_on_when_it_is_removed(self, directory: int, tmp_path: Path) -> None:
        """
        Retention may unlink a chunk while somebody reads it.
        """
        everything = write(directory, *batches(3), seal=True)
        reader = ChunkReader(directory, SEALED)
        (tmp_path / SEALED).unlink()

        assert by_time(reader.read()) == everything


@pytest.mark.fault
class TestNoSpace:
    def test_all_or_nothing(self, tmp_path: Path) -> None:
        """
        B1: adding on a full disk raises and leaves the chunk as it was; when space returns, it goes on, nothing lost or twice.
        """
        chance = Random(3)
        parts = [
            [
                record(number * 100 + each, identity=f"{number}-{each}", message=chance.randbytes(900).hex())
                for each in range(50)
            ]
            for number in range(60)
        ]  # with so many ids the index fits into no page that is there already
        with tmpfs(tmp_path / "full", size=256 << 10) as disk, opened(disk.path) as directory:
            writer = ChunkWriter(directory, "c", 5)
            other = ChunkReader(directory, OPEN)
            refused: list[int | None] = []
            for number in range(0, 60, 20):
                runs = [
                    run_of(part, first=50 * (number + each)) for each, part in enumerate(parts[number : number + 20])
                ]
                while True:
                    before = writer.size, writer.reader.records
                    try:
                        writer.add(runs)
                        break
                    except OSError as error:
                        refused.append(error.errno)
                    assert (writer.size, writer.reader.records) == before
                    assert (disk.path / OPEN).stat().st_size == before[0]
                    other.refresh()
                    assert other.records == before[1]
                    disk.resize(size=(len(refused) + 1) << 20)
            assert set(refused) == {errno.ENOSPC}
            disk.fill()
            with pytest.raises(OSError, match="No space"):
                writer.seal()
            (disk.path / "filler").unlink()
            writer.seal()

            assert contents(directory, SEALED) == by_time(one for part in parts for one in part)
            other.close()
            writer.reader.close()


class TestB7ShortWrite:
    def test_written_bit_by_bit(self, directory: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A disk that takes only some of what it is given gets the rest, too.
        """
        pwrite = os.pwrite
        monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, bytes(data)[:100], at))

        everything = write(directory, *batches(3), seal=True)

        assert contents(directory, SEALED) == everything


class TestB5HalfWritten:
    def test_not_even_cut(self, directory: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        If what was half written cannot be cut off either, that is done before anything else is written.
        """
        parts = batches(2)
        writer = ChunkWriter(directory, "c", 5)
        pwrite = os.pwrite

        def half(fd: int, data: bytes, at: int) -> int:
            if at > writer.size:
                raise OSError(errno.EIO, "cannot write")
            return pwrite(fd, bytes(data)[: len(data) - 5], at)

        def never(*_: object) -> None:
            raise OSError(errno.EIO, "cannot cut")

        with monkeypatch.context() as broken:
            broken.setattr(os, "pwrite", half)
            broken.setattr(os, "ftruncate", never)
            with pytest.raises(OSError, match="cannot write"):
                writer.add([run_of(parts[0] + parts[1])])
        writer.add([run_of([record(1)])])
        writer.close()

        assert contents(directory, OPEN) == [record(1)]
        assert ChunkReader(directory, OPEN).torn_bytes == 0


class TestB6NotSynced:
    @pytest.mark.parametrize("call", ["fdatasync", "fsync"])
    def test_goes_into_another_chunk(self, directory: int, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        What could not be synced is taken back and imported into another chunk; what had been synced stays, and is sealed.
        """
        parts = batches(3)
        runs = [run_of(part, first=20 * number) for number, part in enumerate(parts)]
        writer = ChunkWriter(directory, "c", 5)
        if call == "fdatasync":
            writer.add(runs[:1])
            writer.sync()
        writer.add(runs[1:2] if call == "fdatasync" else runs[:2])

        def failing(fd: int) -> None:
            raise OSError(errno.EIO, "cannot sync")

        with monkeypatch.context() as broken:
            broken.setattr(os, call, failing)
            with pytest.raises(OSError, match="cannot sync"):
                writer.sync()
        assert writer.failed
        assert writer.reader.records == (20 if call == "fdatasync" else 0)
        with pytest.raises(OSError, match="another chunk"):
            writer.add(runs[2:])
        with pytest.raises(OSError, match="another chunk"):
            writer.seal()
        writer.close()
        imported = Imported([ChunkReader(directory, OPEN)], {SOURCE})
        another = ChunkWriter(directory, "d", 6)
        another.add([imported.rest(run) for run in runs])
        another.sync()
        another.seal()
        ChunkWriter(directory, "c", 5).seal()

        found = contents(directory, SEALED) + contents(directory, "d.chunk")
        assert by_time(found) == by_time(one for part in parts for one in part)
        assert len(contents(directory, SEALED)) == (20 if call == "fdatasync" else 0)

    def test_sealed_without_having_been_synced(self, directory: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Sealing syncs what was added first; if that fails, it is taken back like any other.
        """
        writer = ChunkWriter(directory, "c", 5)
        writer.add([run_of([record(1)])])

        def failing(fd: int) -> None:
            raise OSError(errno.EIO, "cannot sync")

        with monkeypatch.context() as broken:
            broken.setattr(os, "fdatasync", failing)
            broken.setattr(os, "fsync", failing)
            with pytest.raises(OSError, match="cannot sync"):
                writer.seal()

        assert writer.failed
        assert contents(directory, OPEN) == []

    def test_a_footer_not_synced(self, directory: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A chunk whose footer could not be synced is not named sealed; opened anew it is sealed.
        """
        parts = batches(1)
        writer = ChunkWriter(directory, "c", 5)
        writer.add([run_of(parts[0])])
        writer.sync()

        def failing(fd: int) -> None:
            raise OSError(errno.EIO, "cannot sync")

        with monkeypatch.context() as broken:
            broken.setattr(os, "fsync", failing)
            with pytest.raises(OSError, match="cannot sync"):
                writer.seal()
        assert contents(directory, OPEN) == parts[0]
        ChunkWriter(directory, "c", 5).seal()

        assert contents(directory, SEALED) == parts[0]


class Killed(BaseException):
    """Ends a leader of the test between two steps."""


class TestTakenOver:
    def test_a_writer_that_was_taken_for_dead(self, directory: int) -> None:
        """
        What a stopped writer had synced is there; what it writes when it is back is not, and it is told so, to mark nothing.
        """
        parts = batches(4)
        runs = [run_of(part, first=20 * number) for number, part in enumerate(parts)]
        stopped = ChunkWriter(directory, "c", 5)
        stopped.add(runs[:1])
        stopped.sync()
        stopped.add(runs[1:2])
        writer = ChunkWriter(directory, "c", 6)
        rest = [Imported([writer.reader], {SOURCE}).rest(run) for run in runs]

        stopped.add(runs[2:3])
        with pytest.raises(OSError, match="another writer has taken the chunk"):
            stopped.sync()
        writer.add(rest)
        writer.sync()
        with pytest.raises(OSError, match="another chunk"):
            stopped.seal()

        assert contents(directory, OPEN) == by_time(one for part in parts for one in part)
        writer.seal()
        assert contents(directory, SEALED) == by_time(one for part in parts for one in part)

    def test_what_was_taken_over_stays(self, directory: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        One that goes on with a chunk takes back, if it cannot sync, what it has added itself and nothing that was there.
        """
        parts = batches(2)
        write(directory, parts[0])
        writer = ChunkWriter(directory, "c", 6)
        writer.add([run_of(parts[1], first=20)])

        def failing(fd: int) -> None:
            raise OSError(errno.EIO, "cannot sync")

        with monkeypatch.context() as broken:
            broken.setattr(os, "fdatasync", failing)
            with pytest.raises(OSError, match="cannot sync"):
                writer.sync()

        assert contents(directory, OPEN) == parts[0]

    def test_back_while_it_was_sealing(self, directory: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A writer that is stopped before it renames what it has sealed does not rename what is another's by now.
        """
        stopped = ChunkWriter(directory, "c", 5)
        stopped.add([run_of([record(1)])])
        stopped.sync()
        fsync = os.fsync
        taken: list[ChunkWriter] = []

        def stop(fd: int) -> None:
            monkeypatch.undo()
            fsync(fd)
            taken.append(ChunkWriter(directory, "c", 6))

        monkeypatch.setattr(os, "fsync", stop)
        with pytest.raises(OSError, match="another writer has taken the chunk"):
            stopped.seal()
        taken[0].add([run_of([record(2)], first=1)])
        taken[0].seal()

        assert contents(directory, SEALED) == [record(1), record(2)]

    @pytest.mark.parametrize("step", ["rename", "open", "pwrite", "fsync", "link", "unlink"])
    def test_killed_while_taking_over(
        self, directory: int, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        One that is killed at any step of taking over a chunk leaves it to be read, and to be taken over by the next.
        """
        everything = write(directory, *batches(3))
        calls = 0
        while True:
            calls += 1
            left = calls
            original = getattr(os, step)

            def killed(*arguments: Any, original: Callable[..., Any] = original, **more: Any) -> Any:
                nonlocal left
                left -= 1
                if not left:
                    raise Killed
                return original(*arguments, **more)

            with monkeypatch.context() as patched:
                patched.setattr(os, step, killed)
                with suppress(Killed):
                    ChunkWriter(directory, "c", 6).close()
            files = chunk_files(os.listdir(directory))
            assert len(files) == 1
            assert contents(directory, files[0]) == everything
            if left > 0:
                break  # there are no more steps of that kind
        writer = ChunkWriter(directory, "c", 7)
        writer.add([run_of([record(9_999)], sequence=2)])
        writer.seal()

        assert calls > 1
        assert sorted(os.listdir(directory)) == [SEALED]
        assert contents(directory, SEALED) == [*everything, record(9_999)]

    def test_one_file_of_each_chunk(self) -> None:
        """
        Of what may be there of a chunk, sealed goes before open and open before taken; what is hidden is nobody's.
        """
        names = ["a.taken", "a.open", "b.taken", "c.chunk", "c.open", ".d.17", "catalogue.db"]

        assert chunk_files(names) == ["a.open", "b.taken", "c.chunk"]

    def test_sealed_is_sealed(self, directory: int) -> None:
        """
        A chunk that is sealed is not written again, by its name neither.
        """
        everything = write(directory, *batches(2), seal=True)

        with pytest.raises(FileExistsError):
            ChunkWriter(directory, "c", 5)
        assert contents(directory, SEALED) == everything


# Importing


class TestImported:
    @given(
        st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12)), max_size=5),
        st.tuples(st.integers(0, 30), st.integers(1, 30)),
    )
    def test_rest_is_what_is_missing(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        held: list[tuple[int, int]],
        asked: tuple[int, int],
    ) -> None:
        """
        Of a run exactly those records are left that no frame holds, in whatever pieces the others were imported.
        """
        everything = [record(number) for number in range(60)]

        def piece(first: int, length: int) -> Run:
            return run_of(everything[first : first + length], first=first)

        with opened(tmp_path_factory.mktemp("c")) as directory:
            writer = ChunkWriter(directory, "c", 5)
            for first, length in held:
                writer.add([piece(first, length)])
            there = {number for first, length in held for number in range(first, first + length)}
            run = piece(*asked)

            rest = Imported([writer.reader], {SOURCE}).rest(run)

            missing = [number for number in range(asked[0], sum(asked)) if number not in there]
            assert [frame.time_ns for frame in rest.frames] == missing
            assert list(rest.offsets) == [8 + STEP * number for number in missing]
            assert rest.end == run.end
            writer.close()
            writer.reader.close()

    def test_blocks_are_told_apart(self, directory: int) -> None:
        """
        Another use of the same block, and another segment, have nothing to do with it.
        """
        writer = ChunkWriter(directory, "c", 5)
        writer.add([run_of([record(1)])])
        imported = Imported([writer.reader], {SOURCE, "2-b.0.segment"})
        others = [run_of([record(1)], sequence=2), run_of([record(1)], source="2-b.0.segment")]

        assert [imported.rest(run) for run in others] == others
        assert not imported.rest(run_of([record(1)])).frames
        writer.close()

    def test_a_damaged_frame_is_imported_again(self, directory: int, tmp_path: Path) -> None:
        """
        What a frame held that cannot be read any more is taken from the segment again if that still has it, and nothing else.
        """
        parts = batches(3)
        runs = [run_of(part, first=20 * number) for number, part in enumerate(parts)]
        write(directory, *parts)
        spoil(tmp_path / OPEN, ChunkReader(directory, OPEN).frames[1].at + 50)

        imported = Imported([ChunkReader(directory, OPEN)], {SOURCE})

        assert [list(imported.rest(run).frames) for run in runs] == [[], parts[1], []]


class Leader:
    """Imports as the store does: reads from where the segment is marked, adds, syncs, marks, and seals now and then."""

    def __init__(self, directory: int, path: Path, memory: bytearray, step: Callable[[str], None]) -> None:
        self.step = step
        self.reader = SegmentReader(memory, name=SOURCE)
        self.reader.resume()
        names = sorted(path.iterdir())
        self.chunks = [ChunkReader(directory, one.name) for one in names]
        self.imported = Imported(self.chunks, {SOURCE})
        number = sum(one.suffix == SEALED_SUFFIX for one in names)
        self.writer = ChunkWriter(directory, f"{number}", 5)

    def import_all(self, *, seal: bool) -> None:
        runs = [self.imported.rest(run) for run in self.reader.runs()]
        self.step("read")
        self.writer.add(runs)
        self.step("added")
        self.writer.sync()
        self.step("synced")
        self.reader.mark_imported()
        self.step("marked")
        if seal:
            self.writer.seal()
            self.step("sealed")

    def close(self) -> None:
        self.writer.close()
        for chunk in (*self.chunks, self.writer.reader):
            chunk.close()


class TestKilledLeader:
    def emitted(self, segments: Segments, first: int, count: int) -> list[Frame]:
        made = [record(number, identity=f"id-{number}") for number in range(first, first + count)]
        for one in made:
            assert segments.append(
                one.time_ns, one.level, one.flags, one.correlation_id.encode(), one.operation.encode(), one.payload
            )
        return made

    @pytest.mark.parametrize("killed_at", ["read", "added", "synced", "marked", "sealed"])
    @pytest.mark.parametrize("seal", [False, True])
    def test_between_two_steps(self, directory: int, tmp_path: Path, killed_at: str, seal: bool) -> None:
        """
        A leader killed between any two steps: the next one's import has every record once.
        """
        segments = Segments.in_memory()
        made = self.emitted(segments, 0, 30)
        first = Leader(directory, tmp_path, segments.memory, lambda step: None)  # type: ignore[arg-type]
        first.import_all(seal=False)
        made += self.emitted(segments, 30, 30)

        def kill(step: str) -> None:
            if step == killed_at:
                raise Killed

        first.step = kill
        with suppress(Killed):
            first.import_all(seal=seal)
        first.close()
        made += self.emitted(segments, 60, 30)
        second = Leader(directory, tmp_path, segments.memory, lambda step: None)  # type: ignore[arg-type]
        second.import_all(seal=True)
        second.close()

        found = [one for path in tmp_path.iterdir() for one in contents(directory, path.name)]
        assert by_time(found) == made

    def test_at_every_byte(self, directory: int, tmp_path: Path) -> None:
        """
        Killed with any number of bytes written of what it added: the next one's import has every record once.
        """
        segments = Segments.in_memory(block_count=4)
        made = self.emitted(segments, 0, 5)
        first = Leader(directory, tmp_path, segments.memory, lambda step: None)  # type: ignore[arg-type]
        first.import_all(seal=False)
        start = first.writer.size
        made += self.emitted(segments, 5, 5)
        marked = bytes(segments.memory)
        first.writer.add(first.reader.runs())
        first.close()
        whole = (tmp_path / "0.open").read_bytes()
        for length in range(start, len(whole) + 1):
            (tmp_path / "0.open").write_bytes(whole[:length])
            second = Leader(directory, tmp_path, bytearray(marked), lambda step: None)

            second.import_all(seal=False)

            second.close()
            assert contents(directory, "0.open") == made, length

    @settings(max_examples=size(whole=1_000, small=60))
    @given(
        st.lists(
            st.tuples(
                st.integers(0, 6),
                st.sampled_from(["", "read", "added", "synced", "marked", "sealed", "torn"]),
                st.booleans(),
            ),
            max_size=12,
        )
    )
    def test_again_and_again(
        self, tmp_path_factory: pytest.TempPathFactory, lives: list[tuple[int, str, bool]]
    ) -> None:
        """
        Leaders that live on, or are killed anywhere, one after the other: every record is there once in the end.
        """
        path = tmp_path_factory.mktemp("c")
        segments = Segments.in_memory(block_count=4)
        made: list[Frame] = []
        chance = Random(len(lives))
        with opened(path) as directory:
            for count, killed_at, seal in [*lives, (1, "", True)]:
                made += self.emitted(segments, len(made), count)

                def kill(step: str, killed_at: str = killed_at) -> None:
                    if step == killed_at or (step == "added" and killed_at == "torn"):
                        raise Killed

                leader = Leader(directory, path, segments.memory, kill)  # type: ignore[arg-type]
                before = leader.writer.size
                with suppress(Killed):
                    leader.import_all(seal=seal)
                if killed_at == "torn":
                    file = path / f"{leader.writer.name}.open"
                    os.truncate(file, chance.randint(before, file.stat().st_size))
                leader.close()

            found = [one for each in path.iterdir() for one in contents(directory, each.name)]
            assert by_time(found) == made


@pytest.mark.fault
class TestKilledProcess:
    def test_kill_in_the_middle_of_writing(self, tmp_path: Path) -> None:
        """
        ``kill -9`` of a real writer at any moment: what an `add` had returned for is there, and the next one goes on; each once.
        """
        chance = Random(9)
        rounds = size(whole=200, small=12)
        with opened(tmp_path) as directory:
            found: Counter[int] = Counter()
            for _ in range(rounds):
                first = len(found) // RECORDS
                with Process("chunk_writer", tmp_path, "WITNESS") as process:
                    said = b""
                    while len(said) < ADDED.size * chance.randrange(1, 20):
                        said += eventually(process.witnessed)
                    for _ in range(chance.randrange(5_000)):
                        breathe()
                    process.kill()
                    said += process.witnessed()
                numbers = [number for (number,) in ADDED.iter_unpack(said)]
                assert numbers == list(range(first, first + len(numbers)))
                readers = [ChunkReader(directory, name) for name in chunk_files(names_in(tmp_path))]
                found = Counter(frame.time_ns for reader in readers for frame in reader.read())
                assert not any(reader.damage for reader in readers)
                for reader in readers:
                    reader.close()
                told = RECORDS * (first + len(numbers))
                assert set(range(told)) <= set(found) <= set(range(told + RECORDS))
                assert set(found.values()) == {1}
        assert len(found) > rounds * RECORDS
