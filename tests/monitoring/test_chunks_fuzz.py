"""
Row B15 and, as far as whole files go, B13, B14 and B16: chunks that were damaged in every way, against an oracle that knows which bytes belong to which record.

The oracle reads the layout as it is documented, with code of its own, from the chunk before it was damaged.
"""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from time import monotonic
from typing import NamedTuple
from zlib import crc32

import msgspec
import pytest
import zstandard

from rfs.errors import StoreFileError
from rfs.monitoring._capture.segments import HAS_ERROR
from rfs.monitoring._store.chunks import ChunkReader, ChunkWriter, Imported, newest
from tests.faults.processes import size
from tests.monitoring.chunks import SOURCE, opened, record, run_of

MUTANTS = size(whole=10_000, small=500)
BATCHES = 10
SAMPLES = 7
HEADER_BYTES = 32
HEAD = struct.Struct("<4sQIIIII")
OPEN, SEALED = "c.open", "c.chunk"
OPENED_SECONDS = 5.0


class Place(NamedTuple):
    """A frame's bytes in the file, and the times of its records, of which no two are the same."""

    start: int
    end: int
    times: list[int]


class Sample(NamedTuple):
    """A chunk, and where its frames are."""

    content: bytes
    frames: list[Place]
    sealed: bool


def read_frames(content: bytes) -> list[Place]:
    """The layout of a whole chunk, by hand."""
    assert content[:8] == b"RFSCHUNK"
    found = []
    at = HEADER_BYTES
    while content[at : at + 4] == b"RFSf":
        _, _, crc, form, notes_bytes, stored_bytes, raw_bytes = HEAD.unpack_from(content, at)
        end = at + HEAD.size + notes_bytes + stored_bytes
        assert crc32(content[at + 16 : end], crc32(content[at + 4 : at + 12])) == crc
        assert not form
        raw = zstandard.ZstdDecompressor().decompress(content[end - stored_bytes : end])
        assert len(raw) == raw_bytes
        records = msgspec.msgpack.decode(content[at + HEAD.size : at + HEAD.size + notes_bytes])[0]
        found.append(Place(at, end, [each[0] for each in msgspec.msgpack.decode(raw[2 * records :])]))
        at = end
    return found


def make(path: Path, seed: int) -> Sample:
    """A chunk of a few frames, small and large, open or sealed."""
    chance = random.Random(seed)
    sealed = seed % 3 > 0
    with opened(path) as directory:
        writer = ChunkWriter(directory, "c", 5)
        first = 0
        for _ in range(chance.randrange(3, 9)):
            count, longest = chance.choice(((1, 10), (12, 60), (40, 300), (6, 9_000)))
            made = [
                record(
                    first + each,
                    level=chance.choice((10, 20, 40)),
                    flags=chance.choice((0, HAS_ERROR)),
                    identity=f"{chance.getrandbits(64):016x}",
                    # What cannot be compressed is stored as it is, marks of frames and zeros, too.
                    message=chance.choice(("RFSf", "\0" * 20, "")) + chance.randbytes(chance.randrange(longest)).hex(),
                )
                for each in range(count)
            ]
            writer.add([run_of(made, first=first)])
            first += count
        if sealed:
            writer.seal()
        writer.close()
        writer.reader.close()
        file = path / (SEALED if sealed else OPEN)
        content = file.read_bytes()
        file.unlink()
    frames = read_frames(content)
    assert [time for place in frames for time in place.times] == list(range(first))
    return Sample(content, frames, sealed)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    path = tmp_path_factory.mktemp("samples")
    return [make(path, seed) for seed in range(SAMPLES)]


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    with opened(tmp_path) as opened_directory:
        yield opened_directory


class Mutant:
    """A chunk that things have been done to; knows for every byte it has where it was."""

    def __init__(self, sample: Sample, seed: int) -> None:
        self.sample = sample
        self.content = bytearray(sample.content)
        self.origins: list[int] = list(range(len(sample.content)))  # -1: changed, or put in
        self.kinds: list[str] = []
        self._chance = chance = random.Random(seed)
        kinds = ["bit", "bytes", "zeros", "lengths", "footer", "header", "cut", "noise behind", "put in", "taken out"]
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            if len(self.content) > HEADER_BYTES:
                self._damage(chance.choice(kinds))
                if self.kinds[-1] in kinds[-2:]:
                    del kinds[-2:]  # nothing is moved twice: it might be moved back

    def _change(self, at: int, new: bytes) -> None:
        for place, byte in enumerate(new[: len(self.content) - at], at):
            if self.content[place] != byte:
                self.content[place] = byte
                self.origins[place] = -1

    def _damage(self, kind: str) -> None:
        chance, content = self._chance, self.content
        last = len(content)
        at = chance.randrange(last)
        count = chance.choice((1, 2, 30, 500, 4_096))
        if kind == "bit":
            self._change(at, bytes([content[at] ^ 1 << chance.randrange(8)]))
        elif kind == "bytes":
            self._change(at, chance.randbytes(min(count, 40)))
        elif kind == "zeros":
            self._change(at, bytes(count))
        elif kind == "lengths":
            place = chance.choice(self.sample.frames)
            length = chance.choice((0, 1, 100, 1 << 16, 1 << 24, 1 << 31, (1 << 32) - 1))
            self._change(min(place.start + chance.choice((20, 24, 28)), last), struct.pack("<I", length))
        elif kind == "footer":
            self._change(chance.randrange(max(0, last - 400), last), chance.randbytes(chance.randrange(1, 9)))
        elif kind == "header":
            self._change(chance.randrange(HEADER_BYTES), chance.randbytes(chance.randrange(1, 9)))
        elif kind == "cut":
            at = chance.choice((at, last - min(last, chance.randrange(1, 50))))
            del content[at:], self.origins[at:]
        elif kind == "put in":
            content[at:at] = chance.randbytes(count)
            self.origins[at:at] = [-1] * count
        elif kind == "taken out":
            del content[at : at + count], self.origins[at : at + count]
        else:
            content += chance.randbytes(count)
            self.origins += [-1] * count
        self.kinds.append(kind)

    def untouched(self) -> list[int]:
        """The times of all records of frames of which every byte is there as it was, and in one piece."""
        where = {origin: at for at, origin in enumerate(self.origins) if origin >= 0}
        found: list[int] = []
        for place in self.sample.frames:
            at = where.get(place.start, -1)
            if at >= 0 and self.origins[at : at + place.end - place.start] == list(range(place.start, place.end)):
                found += place.times
        return found


def read_or_refuse(directory: int, file: str) -> ChunkReader | None:
    """The chunk, or None if it was refused by its name."""
    try:
        return ChunkReader(directory, file)
    except StoreFileError as error:
        if error.name != file:
            raise
        return None


class TestB15DamagedChunks:
    @pytest.mark.parametrize("batch", range(BATCHES))
    def test_exactly_the_touched_frames_are_missing(
        self, directory: int, tmp_path: Path, samples: list[Sample], batch: int
    ) -> None:
        """
        All frames are read but those of which a byte was changed, none is invented, and what is missing is reported.
        """
        kinds: set[str] = set()
        lost = refused = 0
        for seed in range(batch, MUTANTS, BATCHES):
            sample = samples[seed % SAMPLES]
            mutant = Mutant(sample, seed)
            kinds.update(mutant.kinds)
            expected = mutant.untouched()
            file = SEALED if sample.sealed else OPEN
            (tmp_path / file).write_bytes(mutant.content)
            began = monotonic()
            reader = read_or_refuse(directory, file)
            if reader is None:
                assert not expected, (seed, mutant.kinds)
                refused += 1
                continue
            with closing(reader):
                found = [one.time_ns for one in reader.read()]
                answered = [one.frame.time_ns for one in newest([reader], limit=1_000)]

            assert monotonic() - began < OPENED_SECONDS
            assert found == expected, (seed, mutant.kinds)
            assert answered == expected[::-1], (seed, mutant.kinds)
            missing = sum(len(place.times) for place in sample.frames) - len(expected)
            if missing:
                lost += missing
                cut = len(mutant.content) < len(sample.content)
                assert reader.damage or reader.torn_bytes or (cut and not sample.sealed), (seed, mutant.kinds)
                counted = [each.records for each in reader.damage]
                if None not in counted:
                    assert sum(each or 0 for each in counted) == missing or not sample.sealed, (seed, mutant.kinds)
            for each in reader.damage:
                assert (each.file, 0 <= each.at <= each.end) == (file, True)

        assert lost > MUTANTS // BATCHES // 4
        assert refused < MUTANTS // BATCHES // 4
        assert len(kinds) == 10

    @pytest.mark.parametrize("batch", range(BATCHES))
    def test_every_record_is_found_by_its_id(
        self, directory: int, tmp_path: Path, samples: list[Sample], batch: int
    ) -> None:
        """
        Whatever is damaged, each record of an untouched frame is found by its id.
        """
        looked_up = 0
        for seed in range(batch, MUTANTS // 5, BATCHES):
            sample = samples[seed % SAMPLES]
            file = SEALED if sample.sealed else OPEN
            (tmp_path / file).write_bytes(Mutant(sample, seed).content)
            reader = read_or_refuse(directory, file)
            if reader is None:
                continue
            with closing(reader):
                for one in tuple(reader.read())[::7]:
                    found = newest([reader], limit=5, correlation_id=one.correlation_id)
                    assert [each.frame for each in found] == [one]
                    looked_up += 1

        assert looked_up > MUTANTS // 50

    @pytest.mark.parametrize("batch", range(BATCHES))
    def test_gone_on_with_and_imported_again(
        self, directory: int, tmp_path: Path, samples: list[Sample], batch: int
    ) -> None:
        """
        A damaged open chunk is gone on with, what it has lost is imported again, and sealed it has every record once.
        """
        open_ones = [sample for sample in samples if not sample.sealed]
        again = 0
        for seed in range(batch, MUTANTS // 2, BATCHES):
            sample = open_ones[seed % len(open_ones)]
            everything = [time for place in sample.frames for time in place.times]
            mutant = Mutant(sample, seed)
            (tmp_path / OPEN).write_bytes(mutant.content)
            try:
                writer = ChunkWriter(directory, "c", 5)
            except StoreFileError:
                assert not mutant.untouched()
                continue
            missing = len(everything) - writer.reader.records
            run = run_of([record(time) for time in everything])
            rest = Imported([writer.reader], {SOURCE}).rest(run)
            assert len(rest.frames) == missing
            writer.add([rest])
            writer.seal()
            writer.reader.close()
            again += missing
            with closing(ChunkReader(directory, SEALED)) as reader:
                assert sorted(one.time_ns for one in reader.read()) == everything, (seed, mutant.kinds)
            (tmp_path / SEALED).unlink()

        assert again

    def test_no_length_is_believed(self, directory: int, tmp_path: Path, samples: list[Sample]) -> None:
        """
        Lengths of up to 4 GiB, even with a CRC that is right, make the reader allocate no more than for any other chunk.
        """
        for seed in range(MUTANTS // 10):
            chance = random.Random(seed)
            sample = samples[seed % SAMPLES]
            content = bytearray(sample.content)
            place = chance.choice(sample.frames)
            at = place.start + chance.choice((20, 24, 28))
            struct.pack_into("<I", content, at, chance.choice(((1 << 32) - 1, 1 << 31, 1 << 28, 15 << 20)))
            crc = crc32(content[place.start + 16 : place.end], crc32(content[place.start + 4 : place.start + 12]))
            struct.pack_into("<I", content, place.start + 12, crc)
            file = SEALED if sample.sealed else OPEN
            (tmp_path / file).write_bytes(content)
            tracemalloc.start()
            with closing(ChunkReader(directory, file)) as reader:
                found = {one.time_ns for one in reader.read()}
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()

            assert peak < 4 << 20
            assert found == {time for one in sample.frames if one != place for time in one.times}

    def test_a_bomb(self, directory: int, tmp_path: Path) -> None:
        """
        A frame that says it is small and decompresses to a gigabyte costs its own records and no memory.
        """
        with opened(tmp_path):
            writer = ChunkWriter(directory, "c", 5)
            writer.add([run_of([record(1)])])
            writer.add([run_of([record(2)], first=1)])
            writer.close()
        content = (tmp_path / OPEN).read_bytes()
        one, other = read_frames(content)
        bomb = bomb_of(1 << 30)
        head = bytearray(content[one.start : one.start + HEAD.size])
        notes = content[one.start + HEAD.size : one.end - HEAD.unpack(head)[5]]
        for told in (100, 1 << 30):
            struct.pack_into("<II", head, 24, len(bomb), told)
            struct.pack_into("<I", head, 12, crc32(head[16:] + notes + bomb, crc32(head[4:12])))
            (tmp_path / OPEN).write_bytes(content[: one.start] + head + notes + bomb + content[other.start :])
            tracemalloc.start()
            with closing(ChunkReader(directory, OPEN)) as reader:
                found = [one.time_ns for one in reader.read()]
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()

            assert found == [2]
            assert len(reader.damage) == 1
            assert peak < 4 << 20


@cache
def bomb_of(length: int) -> bytes:
    """A zstd stream of that many zeros, which does say how long it is."""
    compressor = zstandard.ZstdCompressor(level=1).compressobj(size=length)
    parts = [compressor.compress(bytes(1 << 20)) for _ in range(length >> 20)]
    return b"".join((*parts, compressor.flush()))
