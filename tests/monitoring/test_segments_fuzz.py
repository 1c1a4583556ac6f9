"""
Row B18: segments that were damaged in every way, against an oracle that knows which bytes belong to which record.

The oracle reads the layout as it is documented, with code of its own, from the segment before it was damaged.
"""

from __future__ import annotations

import os
import random
import struct
import tracemalloc
from functools import cache
from threading import Thread
from typing import NamedTuple

import pytest

from rfs.errors import LiveFileError
from rfs.monitoring._capture.files import HEADER_BYTES
from rfs.monitoring._capture.segments import BLOCK_BYTES, Frame, SegmentReader, Segments, segment_bytes

MUTANTS = 10_000 if os.environ.get("RFS_FULL") == "1" else 500
BATCHES = 10
BLOCKS_AT = segment_bytes(0)
BLOCK_COUNT = 6


class Place(NamedTuple):
    """A frame's bytes, from its first word to the end of its padding."""

    start: int
    end: int
    payload: bytes


class Sample(NamedTuple):
    """A segment, and where its frames are, block by block."""

    memory: bytes
    blocks: list[list[Place]]


def sample(seed: int) -> Sample:
    """A segment written by a few threads: with blocks that are full, half full, empty, and with a single frame."""
    chance = random.Random(seed)
    segments = Segments.in_memory(block_count=BLOCK_COUNT)

    def write(count: int, largest: int) -> None:
        for number in range(count):
            payload = b"%d/%d/%d " % (seed, largest, number) + chance.randbytes(chance.randrange(largest))
            if chance.random() < 0.2:
                payload += bytes(chance.randrange(200))  # zeros look like memory that was never used
            assert segments.append(number, 40, 0, b"id", b"operation", payload)

    for count, largest in ((chance.randrange(20, 60), 9_000), (chance.randrange(2, 40), 60), (1, 300)):
        thread = Thread(target=write, args=(count, largest))
        thread.start()
        thread.join()
    memory = bytes(segments.memory)
    found = []
    for block in range(BLOCK_COUNT):
        at = BLOCKS_AT + block * BLOCK_BYTES + 8
        end = at - 8 + BLOCK_BYTES
        places = []
        while at + 24 <= end:
            sync, size = struct.unpack_from("<II", memory, at)
            if not sync:
                break
            behind = at + (12 + size + 7) // 8 * 8
            places.append(Place(at, behind, memory[at + 12 + 12 + len(b"idoperation") : at + 12 + size]))
            at = behind
        found.append(places)
    assert all(b"/" in place.payload for places in found for place in places)
    assert sum(map(len, found)) > 20
    return Sample(memory, found)


sample_of = cache(sample)


def block_of(at: int) -> int:
    return (at - BLOCKS_AT) // BLOCK_BYTES


def damage(memory: bytearray, chance: random.Random, places: list[Place]) -> str:
    """Do to the blocks of *memory* one thing that a disk, a stray pointer or a kill may do; return what."""
    place = chance.choice(places)
    last = len(memory)
    kind = chance.choice(("bit", "bytes", "zeros", "length", "word", "crc", "torn", "noise behind", "anywhere"))
    if kind == "bit":
        memory[chance.randrange(place.start, place.end)] ^= 1 << chance.randrange(8)
    elif kind == "bytes":
        at = chance.randrange(place.start, place.end)
        count = min(chance.randrange(1, 40), last - at)
        memory[at : at + count] = chance.randbytes(count)
    elif kind == "zeros":
        at = chance.randrange(place.start, place.end)
        count = min(chance.choice((4, 8, 100, 4_096, 20_000)), last - at)
        memory[at : at + count] = bytes(count)
    elif kind == "length":
        size = chance.choice(
            (0, 1, 11, 12, 13, 100, BLOCK_BYTES - 12, BLOCK_BYTES, 1 << 31, (1 << 32) - 8, (1 << 32) - 1)
        )
        struct.pack_into("<I", memory, place.start + 4, size)
    elif kind == "word":
        struct.pack_into("<Q", memory, place.start, chance.choice((0, chance.getrandbits(64))))
    elif kind == "crc":
        struct.pack_into("<I", memory, place.start + 8, chance.getrandbits(32))
    elif kind == "torn":
        # The last frame of a block, as a kill in the middle of copying it would leave it.
        place = next(one for one in reversed(places) if block_of(one.start) == block_of(place.start))
        at = chance.randrange(place.start + 8, place.end)
        memory[at : place.end] = bytes(place.end - at)
        memory[place.start : place.start + 8] = bytes(8)
    elif kind == "noise behind":
        end = max(one.end for one in places)
        count = min(chance.randrange(1, 500), last - end)
        memory[end : end + count] = chance.randbytes(count)
    else:
        at = chance.randrange(BLOCKS_AT, last)
        memory[at : at + 1] = chance.randbytes(1)
    return kind


def mutant(seed: int) -> tuple[Sample, bytearray, list[str]]:
    """A segment, what became of it, and by what."""
    chance = random.Random(seed)
    original = sample_of(seed % 23)
    memory = bytearray(original.memory)
    places = [place for block in original.blocks for place in block]
    kinds = [damage(memory, chance, places) for _ in range(chance.choice((1, 1, 1, 2, 3, 8)))]
    for start in range(BLOCKS_AT, len(memory), BLOCK_BYTES):
        # A block's first word is no frame's: what it and the table are good for is tested below.
        memory[start : start + 8] = original.memory[start : start + 8]
    return original, memory, kinds


def untouched(original: Sample, memory: bytes | bytearray) -> list[bytes]:
    return sorted(
        place.payload
        for block in original.blocks
        for place in block
        if memory[place.start : place.end] == original.memory[place.start : place.end]
    )


def payloads(frames: list[Frame]) -> list[bytes]:
    return sorted(frame.payload for frame in frames)


class TestB18DamagedSegments:
    @pytest.mark.parametrize("batch", range(BATCHES))
    def test_exactly_the_touched_frames_are_missing(self, batch: int) -> None:
        """
        Of a dead process' segment all frames are read but those of which a byte was changed; no other is ever invented.
        """
        kinds: set[str] = set()
        lost = 0
        for seed in range(batch, MUTANTS, BATCHES):
            original, memory, done = mutant(seed)
            kinds.update(done)
            expected = untouched(original, memory)
            reader = SegmentReader(memory, name="dead")

            found = payloads(reader.finish())

            assert found == expected, (seed, done)
            lost += sum(map(len, original.blocks)) - len(expected)
            assert payloads(reader.finish()) == []

        assert lost > MUTANTS // BATCHES // 4
        assert len(kinds) == 9

    @pytest.mark.parametrize("batch", range(BATCHES))
    def test_read_while_alive(self, batch: int) -> None:
        """
        Read as a living process' and then as a dead one's, nothing is read twice, and nothing that is whole is missing.
        """
        for seed in range(batch, MUTANTS, BATCHES):
            original, memory, done = mutant(seed)
            reader = SegmentReader(memory, name="living")

            found = [frame for _ in range(3) for frame in reader.read()]
            left = reader.finish()

            assert payloads(found + left) == untouched(original, memory), (seed, done)
            assert reader.frames_read == len(found) + len(left)

    def test_one_damaged_frame_is_counted_as_one(self) -> None:
        """
        One frame that was damaged, but not erased, with others behind it: the count says 1, whatever the damage.
        """
        judged = 0
        for seed in range(MUTANTS):
            chance = random.Random(seed)
            original = sample_of(seed % 23)
            place = chance.choice([place for block in original.blocks for place in block[:-1]])
            memory = bytearray(original.memory)
            kind = chance.randrange(3)
            if kind == 0:
                memory[chance.randrange(place.start, place.end)] ^= 1 << chance.randrange(8)
            elif kind == 1:
                struct.pack_into("<I", memory, place.start + 4, chance.getrandbits(32))
            else:
                struct.pack_into("<Q", memory, place.start, 0)
            reader = SegmentReader(memory, name="dead")

            reader.finish()

            changed = memory != original.memory
            assert (reader.corrupt_frames, reader.torn_frames) == (int(changed), 0), (seed, kind)
            judged += changed

        assert judged > MUTANTS // 2

    def test_no_length_is_believed(self) -> None:
        """
        Lengths of up to 4 GiB make the reader allocate no more than for any other segment: below 1 MiB.
        """
        for seed in range(MUTANTS // 10):
            original = sample_of(seed % 23)
            memory = bytearray(original.memory)
            chance = random.Random(seed)
            for block in original.blocks[:3]:
                struct.pack_into(
                    "<I", memory, chance.choice(block).start + 4, chance.choice(((1 << 32) - 1, 1 << 31, 1 << 28))
                )
            tracemalloc.start()
            reader = SegmentReader(memory, name="dead")
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()

            found = reader.finish()

            peak = tracemalloc.get_traced_memory()[1] - before
            tracemalloc.stop()
            whole = sum(len(frame.payload) + 500 for frame in found)
            assert peak - whole < 1 << 20
            assert payloads(found) == untouched(original, memory)

    def test_a_damaged_table_costs_nothing(self) -> None:
        """
        Whatever is in the table of a dead process' segment: all its frames are found.
        """
        for seed in range(MUTANTS):
            chance = random.Random(seed)
            original = sample_of(seed % 23)
            memory = bytearray(original.memory)
            for _ in range(chance.randrange(1, 20)):
                at = chance.randrange(HEADER_BYTES, BLOCKS_AT)
                count = min(chance.choice((1, 8, 64, 4_096)), BLOCKS_AT - at)
                memory[at : at + count] = chance.choice((bytes(count), chance.randbytes(count)))
            reader = SegmentReader(memory, name="dead")
            resumed = SegmentReader(memory, name="resumed")

            found = payloads(reader.finish())
            resumed.resume()
            resumed.mark_imported()
            rest = payloads(resumed.read() + resumed.finish())

            everything = sorted(place.payload for block in original.blocks for place in block)
            assert found == everything
            assert set(rest) <= set(everything)

    def test_a_cut_segment_is_refused(self) -> None:
        """
        A segment without its last byte, or more, is refused by name; it is never read beyond its end.
        """
        memory = sample_of(0).memory
        chance = random.Random(18)
        for _ in range(MUTANTS):
            length = chance.choice((chance.randrange(len(memory)), len(memory) - chance.randrange(1, 9)))
            with pytest.raises(LiveFileError, match="cut"):
                SegmentReader(memoryview(memory)[:length], name="cut")

    def test_a_damaged_header_is_refused_or_harmless(self) -> None:
        """
        A flipped bit of the first page: refused by name, or it was in a byte that says nothing.
        """
        original = sample_of(0)
        everything = sorted(place.payload for block in original.blocks for place in block)
        refused = 0
        for seed in range(MUTANTS):
            memory = bytearray(original.memory)
            chance = random.Random(seed)
            memory[chance.randrange(250)] ^= 1 << chance.randrange(8)
            try:
                reader = SegmentReader(memory, name="damaged")
            except LiveFileError:
                refused += 1
            else:
                assert payloads(reader.finish()) == everything

        assert refused > MUTANTS // 4
