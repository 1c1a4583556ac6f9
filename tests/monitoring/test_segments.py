"""Segments: what a call returned from is there, once, in order, whatever else happens."""

from __future__ import annotations

import ctypes
import dis
import mmap
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from threading import Event, Thread
from types import FrameType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfs.errors import LiveFileError
from rfs.monitoring._capture import segments as module
from rfs.monitoring._capture.files import HEADER_BYTES, SEGMENT_MAGIC, Header, pack_header
from rfs.monitoring._capture.segments import (
    BLOCK_BYTES,
    MAX_FRAME_BYTES,
    Frame,
    SegmentReader,
    Segments,
    segment_bytes,
    segment_layout,
)

INFO, ERROR = 20, 40
FULL = os.environ.get("RFS_FULL") == "1"
BLOCKS_AT = segment_bytes(0)
FRAME_HEAD_BYTES = 24


def put(segments: Segments, payload: bytes, *, level: int = INFO, time_ns: int = 1, identifier: bytes = b"id") -> bool:
    return segments.append(time_ns, level, 0, identifier, b"operation", payload)


def reader_of(segments: Segments) -> SegmentReader:
    return SegmentReader(segments.memory, name="test")


def payloads(frames: list[Frame]) -> list[bytes]:
    return [frame.payload for frame in frames]


def in_thread(work: Callable[[], object]) -> None:
    thread = Thread(target=work)
    thread.start()
    thread.join()


def place(segments: Segments, payload: bytes) -> int:
    """Where the frame of *payload* begins: a frame whose id and operation are those of `put`."""
    return bytes(segments.memory).index(payload) - len(b"idoperation") - FRAME_HEAD_BYTES


def put_all(segments: Segments, *several: bytes) -> None:
    for payload in several:
        assert put(segments, payload)


def answered(answers: list[bool], least: int) -> bool:
    return len(answers) >= least


def fill_block(segments: Segments, *, level: int = ERROR) -> int:
    """Write until this thread goes on in another block; return how many records that took."""
    written = 0
    first = segments._local.writer
    while segments._local.writer is first:
        assert put(segments, b"fill %d" % written, level=level)
        written += 1
    return written


class TestRoundTrip:
    @given(
        st.lists(
            st.tuples(
                st.integers(0, 2**62), st.sampled_from([10, 20, 50]), st.integers(0, 255), st.text(max_size=20),
                st.text(max_size=20), st.binary(max_size=500),
            ),
            max_size=30,
        )
    )  # fmt: skip
    def test_what_went_in_comes_out(self, records: list[tuple[int, int, int, str, str, bytes]]) -> None:
        """
        Every field of every record is read back as it was written, in order of time, once.
        """
        segments = Segments.in_memory(block_count=8)
        reader = reader_of(segments)

        for time_ns, level, flags, identifier, operation, payload in records:
            assert segments.append(time_ns, level, flags, identifier.encode(), operation.encode(), payload)

        assert [msgspec.structs.astuple(frame) for frame in reader.read()] == sorted(
            records, key=lambda record: record[0]
        )
        assert reader.read() == reader.finish() == []
        assert (reader.frames_read, reader.corrupt_frames, reader.torn_frames) == (len(records), 0, 0)

    @given(st.lists(st.integers(0, MAX_FRAME_BYTES // 2), max_size=40), st.integers(0, 2**32))
    def test_in_pieces_and_over_many_blocks(self, sizes: list[int], seed: int) -> None:
        """
        However the reads fall between the writes, and wherever a block ends: each record once, in the thread's order.
        """
        chance = random.Random(seed)
        segments = Segments.in_memory(block_count=4)
        reader = reader_of(segments)
        written: list[bytes] = []
        seen: list[bytes] = []

        for number, size in enumerate(sizes):
            written.append(b"%d " % number + bytes(size))
            while not put(segments, written[-1], level=ERROR):
                seen += payloads(reader.read())
                reader.mark_imported()
            if chance.random() < 0.3:
                seen += payloads(reader.read(limit=chance.randrange(1, 5)))

        assert seen + payloads(reader.read()) == written

    def test_an_empty_record_is_a_record(self) -> None:
        """
        A frame without any content is committed, too.
        """
        segments = Segments.in_memory(block_count=8)

        segments.append(5, INFO, 0, b"", b"", b"")

        assert payloads(reader_of(segments).read()) == [b""]

    @pytest.mark.parametrize("short", range(9))
    def test_the_largest_record_fills_its_block(self, short: int) -> None:
        """
        A record up to the last byte of a block is kept, and so is the next one.
        """
        segments = Segments.in_memory(block_count=8)
        largest = bytes(MAX_FRAME_BYTES - FRAME_HEAD_BYTES - short)

        assert segments.append(1, INFO, 0, b"", b"", largest)
        assert segments.append(2, INFO, 0, b"", b"", b"next")

        assert payloads(reader_of(segments).read()) == [largest, b"next"]

    def test_of_one_instant_in_the_order_of_writing(self) -> None:
        """
        Records of a thread with the same time are in the order of writing, also where a block is used again.
        """
        segments = Segments.in_memory(block_count=4)
        reader = reader_of(segments)
        written = seen = 0

        for _ in range(10):
            for _ in range(25):  # about two and a half blocks
                assert put(segments, b"%06d" % written + bytes(BLOCK_BYTES // 10), level=ERROR)
                written += 1
            for payload in payloads(reader.read()):
                assert int(payload[:6]) == seen
                seen += 1
            reader.mark_imported()

        assert seen == written == 250

    def test_a_limit_cuts_a_read(self) -> None:
        """
        Who wants ten frames gets ten, and later the rest.
        """
        segments = Segments.in_memory(block_count=8)
        reader = reader_of(segments)
        for number in range(25):
            put(segments, b"%d" % number)

        read = [payloads(reader.read(limit=10)) for _ in range(4)]

        assert [len(one) for one in read] == [10, 10, 5, 0]
        assert sum(read, []) == [b"%d" % number for number in range(25)]  # noqa: RUF017 - four short lists


class TestFull:
    def test_sheds_by_level(self) -> None:
        """
        When nobody imports, DEBUG is shed first, then INFO, then WARNING; errors are kept until the very end.
        """
        segments = Segments.in_memory(block_count=16)
        reader = reader_of(segments)
        kept: dict[int, int] = {}

        for level in (10, 20, 30, 40):
            while put(segments, bytes(BLOCK_BYTES // 2), level=level):
                kept[level] = kept.get(level, 0) + 1

        assert list(kept) == [10, 20, 30, 40]
        assert len(reader.read()) == sum(kept.values()) == 16
        assert not put(segments, bytes(BLOCK_BYTES // 2), level=ERROR)
        reader.mark_imported()
        assert put(segments, b"again", level=10)

    def test_what_does_not_fit_is_refused(self) -> None:
        """
        A record larger than a block, a level or a time that its field cannot hold: refused, and the next record is kept.
        """
        segments = Segments.in_memory(block_count=8)

        assert not put(segments, bytes(MAX_FRAME_BYTES))
        assert not put(segments, b"level", level=256, identifier=bytes(256))
        assert not put(segments, b"time", time_ns=1 << 63)
        assert put(segments, b"next")
        assert payloads(reader_of(segments).read()) == [b"next"]

    def test_a_long_id_is_cut(self) -> None:
        """
        Of an id that is longer than its field, as much is kept as fits, and the record whole.
        """
        segments = Segments.in_memory(block_count=8)

        assert put(segments, b"payload", identifier=b"i" * 256)

        (frame,) = reader_of(segments).read()
        assert (frame.correlation_id, frame.operation, frame.payload) == ("i" * 255, "operation", b"payload")

    def test_says_when_it_is_half_full(self) -> None:
        """
        The leader can see when it has to hurry, and that it has: nobody needs to record for that.
        """
        segments = Segments.in_memory(block_count=4)
        reader = reader_of(segments)

        said = [segments.half_full]
        for _ in range(7):
            put(segments, bytes(BLOCK_BYTES // 3), level=50)
        said.append(segments.half_full)
        reader.read()
        reader.mark_imported()
        said.append(segments.half_full)

        assert said == [False, True, False]

    def test_a_refusal_looks_for_room_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        While nobody imports, shed records do not search the whole table again and again.
        """
        segments = Segments.in_memory(block_count=16)
        while put(segments, bytes(BLOCK_BYTES // 2), level=10):
            pass
        searches: list[bool] = []
        search = segments._reclaim

        def counted(*, closed: bool) -> None:
            searches.append(closed)
            search(closed=closed)

        monkeypatch.setattr(segments, "_reclaim", counted)

        for _ in range(640):
            assert not put(segments, bytes(BLOCK_BYTES // 2), level=10)

        assert len(searches) <= 2 * 11


class TestBlocks:
    def test_are_used_again(self) -> None:
        """
        Importing gives the room back: ten times the segment's size goes through it.
        """
        segments = Segments.in_memory(block_count=8)
        reader = reader_of(segments)
        read = marked = 0

        for _ in range(80):
            for _ in range(10):
                assert put(segments, bytes(BLOCK_BYTES // 11))
            read += len(reader.read())
            marked += reader.mark_imported()

        assert read == marked == reader.total_frames == 800

    def test_of_dead_threads_come_back(self) -> None:
        """
        Three hundred short-lived threads need no more than a few blocks.
        """
        segments = Segments.in_memory(block_count=4)
        reader = reader_of(segments)
        kept = 0

        for _ in range(300):
            in_thread(lambda: put(segments, b"one", level=50))
            kept += len(reader.read())
            reader.mark_imported()

        assert kept == 300

    def test_more_threads_than_blocks(self) -> None:
        """
        Twenty living threads share eight blocks, even for DEBUG, as long as somebody imports.
        """
        segments = Segments.in_memory(block_count=8)
        reader = reader_of(segments)
        turns = [Event() for _ in range(20)]
        answers: list[bool] = []
        done = Event()

        def work(turn: Event) -> None:
            while turn.wait(60) and not done.is_set():
                turn.clear()
                answers.append(put(segments, b"%d" % len(answers), level=10))

        threads = [Thread(target=work, args=(turn,)) for turn in turns]
        for thread in threads:
            thread.start()
        seen: list[bytes] = []
        for number in range(200):
            turns[number % 20].set()
            eventually(partial(answered, answers, number + 1))
            seen += payloads(reader.read())
            reader.mark_imported()
        done.set()
        for turn, thread in zip(turns, threads, strict=True):
            turn.set()
            thread.join()

        assert all(answers)
        assert seen == [b"%d" % number for number in range(200)]

    def test_stay_readable_for_long(self) -> None:
        """
        What was imported is overwritten only when its room is needed, the oldest first.
        """
        segments = Segments.in_memory(block_count=16)
        leader = reader_of(segments)
        for number in range(200):
            assert put(segments, b"%06d" % number + bytes(BLOCK_BYTES // 4))
            leader.read()
            leader.mark_imported()

        left = [int(payload[:6]) for payload in payloads(reader_of(segments).read())]

        assert left == list(range(left[0], 200))
        assert len(left) > 3 * 15 - 3

    def test_are_held_for_a_reader_of_this_process(self) -> None:
        """
        A block is used again only when a sink has read it, too; until then the leader's mark alone gives no room.
        """
        segments = Segments.in_memory(block_count=4)
        leader, sink = reader_of(segments), reader_of(segments)
        segments.hold_for(sink)
        written = 0

        while written < 100 and put(segments, bytes(BLOCK_BYTES // 2), level=50):
            written += 1
            leader.read()
            leader.mark_imported()

        assert len(sink.read()) == written == 4
        assert put(segments, bytes(BLOCK_BYTES // 2), level=50)
        segments.release(sink)
        segments.release(sink)
        for _ in range(20):
            leader.read()
            leader.mark_imported()
            assert put(segments, bytes(BLOCK_BYTES // 2), level=50)

    def test_another_use_never_shows_the_one_before(self) -> None:
        """
        Of a block that was used again, no frame of its earlier use is ever read, even if its bytes are put back.
        """
        segments = Segments.in_memory(block_count=4)
        leader = reader_of(segments)
        put(segments, b"stale", level=50)
        at = place(segments, b"stale")
        stale = segments.memory[at : at + 64]
        for number in range(20):
            assert put(segments, b"%d" % number + bytes(BLOCK_BYTES // 2), level=50)
            leader.read()
            leader.mark_imported()
        assert segments.memory.find(b"stale") < 0

        for block in range(4):
            end = BLOCKS_AT + (block + 1) * BLOCK_BYTES
            segments.memory[end - 64 : end] = stale

        assert b"stale" not in payloads(reader_of(segments).finish())


class TestReaders:
    def test_read_each_for_itself(self) -> None:
        """
        Two readers see the same records; what one has read the other still reads.
        """
        segments = Segments.in_memory(block_count=8)
        one, other = reader_of(segments), reader_of(segments)
        put(segments, b"first")
        assert payloads(one.read()) == [b"first"]
        put(segments, b"second")

        assert payloads(one.read()) == [b"second"]
        assert payloads(other.read()) == [b"first", b"second"]

    def test_a_successor_resumes_where_the_mark_is(self) -> None:
        """
        A new leader goes on where the old one has marked, in each block; what was read but not marked it reads again.
        """
        segments = Segments.in_memory(block_count=8)
        old = reader_of(segments)
        for number in range(10):
            put(segments, b"main %d" % number)
        in_thread(lambda: put(segments, b"thread"))
        assert len(old.read()) == 11
        assert old.mark_imported() == 11
        put(segments, b"read, not marked")
        assert len(old.read()) == 1
        put(segments, b"not read")
        in_thread(lambda: put(segments, b"new block"))

        successor = reader_of(segments)
        successor.resume()

        assert sorted(payloads(successor.read())) == [b"new block", b"not read", b"read, not marked"]
        assert successor.mark_imported() == 3
        assert successor.total_frames == 14

    def test_a_late_mark_takes_nothing_back(self) -> None:
        """
        A leader that was stopped marks what others have long passed: nothing is imported a second time.
        """
        segments = Segments.in_memory(block_count=8)
        stopped, leader = reader_of(segments), reader_of(segments)
        put(segments, b"one")
        stopped.read()
        put(segments, b"two")
        leader.read()

        assert (leader.mark_imported(), stopped.mark_imported()) == (2, 0)

        successor = reader_of(segments)
        successor.resume()
        assert successor.read() == []

    def test_mark_a_mapping_of_the_beginning(self) -> None:
        """
        A reader of read-only memory publishes through another mapping of the first pages.
        """
        segments = Segments.in_memory(block_count=8)
        reader = SegmentReader(memoryview(segments.memory).toreadonly(), name="test")
        put(segments, b"one")
        reader.read()
        table = mmap.mmap(-1, BLOCKS_AT)
        table[:] = segments.memory[:BLOCKS_AT]

        assert reader.mark_imported(table) == 1

        assert table[:] != segments.memory[:BLOCKS_AT]
        table.close()

    def test_let_go_of_the_memory(self) -> None:
        """
        Closed, a reader does not keep a file mapped; its counts stay.
        """
        memory = mmap.mmap(-1, segment_bytes(2))
        header = pack_header(SEGMENT_MAGIC, Header("1-a", 1, "", "", 0, 0, segment_layout(2)))
        memory[: len(header)] = header
        reader = SegmentReader(memory, name="test")

        reader.close()

        memory.close()
        assert reader.frames_read == 0

    @pytest.mark.parametrize(
        "change",
        [
            {"block_count": 0}, {"block_count": 3}, {"block_count": 1 << 40}, {"block_bytes": 1 << 19}, {"block_bytes": 100},
            {"block_bytes": 8}, {"blocks": 0}, {"blocks": 1 << 40}, {"sync": 0}, {"sync": 1 << 32}, {"sync": -1},
        ],
    )  # fmt: skip
    def test_refuse_a_layout_that_does_not_fit(self, change: dict[str, int]) -> None:
        """
        A layout that leads out of the memory, or is none, is refused by name.
        """
        header = pack_header(SEGMENT_MAGIC, Header("1-a", 1, "", "", 0, 0, {**segment_layout(2), **change}))
        memory = header.ljust(segment_bytes(2), b"\0")

        with pytest.raises(LiveFileError, match=r"1-a\.segment.*layout"):
            SegmentReader(memory, name="1-a.segment")

    def test_refuse_what_is_cut_off(self) -> None:
        """
        A file that is one byte too short for its layout is refused, and so is one without a whole header.
        """
        memory = bytes(Segments.in_memory(block_count=2).memory)
        for length in (0, 8, HEADER_BYTES - 1, HEADER_BYTES, BLOCKS_AT, len(memory) - 1):
            with pytest.raises(LiveFileError):
                SegmentReader(memory[:length], name="cut")

        assert SegmentReader(memory + b"odd", name="longer").read() == []

    def test_refuse_a_newer_version(self) -> None:
        """
        A segment of a newer version of the library is refused, not misread.
        """
        memory = bytearray(Segments.in_memory(block_count=2).memory)
        struct.pack_into("<I", memory, 8, 99)

        with pytest.raises(LiveFileError, match="version 99"):
            SegmentReader(memory, name="new")


class TestDamage:
    def test_costs_the_damaged_frame_only(self) -> None:
        """
        A frame whose bytes were damaged is skipped and counted; the frames around it are read.
        """
        segments = Segments.in_memory(block_count=8)
        for payload in (b"first", b"second", b"third"):
            put(segments, payload)
        segments.memory[place(segments, b"second") + 40] ^= 1
        reader = reader_of(segments)

        frames = reader.read() + reader.read()

        assert payloads(frames) == [b"first", b"third"]
        assert (reader.corrupt_frames, reader.torn_frames) == (1, 0)

    def test_in_the_last_frame_is_counted_once(self) -> None:
        """
        Nothing follows a damaged frame yet: it is counted all the same, once, and what is written later is read.
        """
        segments = Segments.in_memory(block_count=8)
        put(segments, b"first")
        put(segments, b"damaged")
        segments.memory[place(segments, b"damaged") + 40] ^= 1
        reader = reader_of(segments)

        assert payloads(reader.read()) == [b"first"]
        assert [reader.read() for _ in range(3)] == [[], [], []]
        assert reader.corrupt_frames == 1
        put(segments, b"later")
        assert payloads(reader.read()) == [b"later"]
        assert reader.finish() == []
        assert (reader.corrupt_frames, reader.torn_frames) == (1, 0)

    @pytest.mark.parametrize("size", [0, 12, 40, 44, 60, BLOCK_BYTES - 100, 1 << 31, (1 << 32) - 1])
    def test_of_a_length_leads_nowhere(self, size: int) -> None:
        """
        Whatever a damaged length says, the reader finds the frame behind the damaged one.
        """
        segments = Segments.in_memory(block_count=8)
        for payload in (b"first", b"second", b"third", b"fourth"):
            put(segments, payload)
        struct.pack_into("<I", segments.memory, place(segments, b"second") + 4, size)
        reader = reader_of(segments)

        frames = reader.read() + reader.read()

        assert payloads(frames) == [b"first", b"third", b"fourth"]
        assert reader.corrupt_frames == 1

    @pytest.mark.parametrize("change", [1, 2, 7, -1, -2, -3])
    def test_of_a_length_within_the_padding_changes_no_record(self, change: int) -> None:
        """
        A length that is off by less than the padding would give the record a byte more or less: it is damaged, too.
        """
        segments = Segments.in_memory(block_count=8)
        put(segments, b"text" + bytes(2 if change > 0 else 1))  # the frame has 7 bytes of padding, or none
        at = place(segments, b"text")
        (size,) = struct.unpack_from("<I", segments.memory, at + 4)
        struct.pack_into("<I", segments.memory, at + 4, size + change)
        reader = reader_of(segments)

        assert reader.finish() == []
        assert reader.corrupt_frames == 1

    def test_that_is_only_late_costs_nothing(self) -> None:
        """
        A frame whose bytes arrive after its word (another processor's writes may) is read the second time.
        """
        segments = Segments.in_memory(block_count=8)
        put(segments, b"late")
        at = place(segments, b"late") + 36
        byte = segments.memory[at]
        segments.memory[at] = 0
        reader = reader_of(segments)

        assert reader.read() == []
        segments.memory[at] = byte
        assert payloads(reader.read()) == [b"late"]
        assert reader.corrupt_frames == 0

    def test_that_zeroed_a_word_does_not_hide_what_follows(self) -> None:
        """
        A zero where a frame's word was looks like the end, until the writer has moved on to another block.
        """
        segments = Segments.in_memory(block_count=8)
        put(segments, b"first")
        put(segments, b"erased")
        at = place(segments, b"erased")
        segments.memory[at : at + 8] = bytes(8)
        reader = reader_of(segments)
        assert payloads(reader.read()) == [b"first"]

        written = fill_block(segments)

        read = reader.read() + reader.read()
        assert payloads(read) == [b"fill %d" % number for number in (written - 1, *range(written - 1))]
        assert reader.corrupt_frames == 1

    @pytest.mark.parametrize("erase", [False, True])
    def test_at_the_end_of_a_block_does_not_keep_it(self, erase: bool) -> None:
        """
        A block whose last frames are damaged or erased is read to its end, marked and used again like any other.
        """
        segments = Segments.in_memory(block_count=2)
        put(segments, b"first", level=ERROR)
        reader = reader_of(segments)
        last = fill_block(segments) - 2
        at = place(segments, b"fill %d" % last)
        segments.memory[at : at + 8] = bytes(8) if erase else b"\1" * 8

        assert len(reader.read() + reader.read()) == last + 2
        reader.mark_imported()

        assert reader.corrupt_frames == 1
        for number in range(20):
            assert put(segments, b"%d" % number + bytes(BLOCK_BYTES // 2), level=ERROR)
            reader.read()
            reader.mark_imported()

    def test_of_the_table_costs_nothing(self) -> None:
        """
        With the whole table erased, a dead process' records are all found: each block says itself what it is.
        """
        segments = Segments.in_memory(block_count=8)
        put(segments, b"main")
        in_thread(lambda: put(segments, b"thread"))
        memory = bytearray(segments.memory)
        memory[HEADER_BYTES:BLOCKS_AT] = bytes(BLOCKS_AT - HEADER_BYTES)
        reader = SegmentReader(memory, name="dead")

        assert sorted(payloads(reader.finish())) == [b"main", b"thread"]
        assert (reader.corrupt_frames, reader.torn_frames) == (0, 0)

    def test_of_a_block_being_used_again_is_none(self) -> None:
        """
        While its owner makes a block ready, it holds half of what it held: that is neither read nor counted as damage.
        """
        segments = Segments.in_memory(block_count=8)
        put(segments, b"one")
        put(segments, b"two")
        memory = bytearray(segments.memory)
        at = place(segments, b"one")
        memory[HEADER_BYTES : HEADER_BYTES + 8] = memory[BLOCKS_AT : BLOCKS_AT + 8] = bytes(8)
        memory[at : at + 40] = bytes(40)
        reader = SegmentReader(memory, name="dead")

        assert reader.read() == reader.finish() == []
        assert (reader.corrupt_frames, reader.torn_frames) == (0, 0)


class TestKilledWhileABlockIsOpened:
    def test_at_every_line(self) -> None:
        """
        Death between any two lines that make a block ready: nothing is read twice, lost, or taken for damage.
        """
        segments = Segments.in_memory(block_count=2)
        reader = reader_of(segments)
        for number in range(3):
            assert put(segments, b"%d" % number + bytes(BLOCK_BYTES * 2 // 3), level=ERROR)
            reader.read()
            reader.mark_imported()
        assert put(segments, b"pending", level=ERROR)
        left: list[list[bytes]] = []

        def look() -> None:
            successor = SegmentReader(bytes(segments.memory), name="dead")
            successor.resume()
            left.append(payloads(successor.read() + successor.finish()))
            assert (successor.corrupt_frames, successor.torn_frames) == (0, 0)
            assert 3 <= successor.total_frames <= 5

        with interrupted(Segments._next_block, "", look):
            assert put(segments, b"next" + bytes(BLOCK_BYTES * 2 // 3), level=ERROR)

        assert len(left) > 20
        assert all(one == [b"pending"] for one in left)


class TestFinish:
    def test_said_too_early_loses_nothing(self) -> None:
        """
        A process that was taken for dead goes on recording: all of it is read, whether by `read` or by `finish`.
        """
        segments = Segments.in_memory(block_count=8)
        reader = reader_of(segments)
        seen: list[bytes] = []

        for number in range(40):
            put(segments, b"%d" % number)
            seen += payloads(reader.finish() if number % 3 else reader.read())
            if number % 7 == 0:
                in_thread(partial(put, segments, b"thread"))

        assert [payload for payload in seen if payload != b"thread"] == [b"%d" % number for number in range(40)]
        assert reader.finish() == reader.read() == []
        assert (reader.corrupt_frames, reader.torn_frames, reader.frames_read) == (0, 0, 46)

    def test_said_again_and_again_counts_once(self) -> None:
        """
        However often a dead process is asked for the rest, each damaged and each torn frame counts once.
        """
        segments = Segments.in_memory(block_count=8)
        put_all(segments, b"first", b"corrupt")
        in_thread(partial(put_all, segments, b"second", b"torn"))
        segments.memory[place(segments, b"corrupt") + 36] ^= 1
        at = place(segments, b"torn")
        segments.memory[at : at + 8] = bytes(8)
        reader = reader_of(segments)

        seen = [one for _ in range(4) for one in payloads(reader.read()) + payloads(reader.finish())]

        assert sorted(seen) == [b"first", b"second"]
        assert (reader.corrupt_frames, reader.torn_frames) == (1, 1)

    def test_leaves_alone_what_was_never_used(self, tmp_path: Path) -> None:
        """
        Of a segment in which one block was used, the pages of the 123 others are not brought into memory: each costs a fault.
        """
        used = Segments.in_memory()
        put_all(used, b"only")
        path = tmp_path / "segment"
        path.write_bytes(used.memory)
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
            memory.madvise(mmap.MADV_RANDOM)
            reader = SegmentReader(memory, name="test")
            before = resource.getrusage(resource.RUSAGE_SELF)
            found = payloads(reader.finish())
            after = resource.getrusage(resource.RUSAGE_SELF)
            reader.close()

        assert found == [b"only"]
        assert after.ru_minflt + after.ru_majflt - before.ru_minflt - before.ru_majflt < 60

    def test_a_block_that_the_table_has_lost(self) -> None:
        """
        The last blocks' entries in the table are gone: their records are found by the blocks themselves.
        """
        segments = Segments.in_memory(block_count=8)
        put_all(segments, b"first")
        in_thread(partial(put_all, segments, b"second"))
        in_thread(partial(put_all, segments, b"third"))
        reader = reader_of(segments)
        segments.memory[HEADER_BYTES + 8 : HEADER_BYTES + 24] = bytes(16)

        assert payloads(reader.finish()) == [b"first", b"second", b"third"]


class TestA3TornFrame:
    """Row A3, simulated: death between any two of the writes that make a frame."""

    @pytest.mark.parametrize("word_first", [False, True], ids=["as we write", "word first"])
    def test_at_every_byte(self, word_first: bool) -> None:
        """
        However many bytes of the last frame were written: it alone is missing, and it is counted if it left a trace.
        """
        segments = Segments.in_memory(block_count=2)
        put(segments, b"first")
        put(segments, b"second")
        before = bytes(segments.memory)
        put(segments, b"torn" + bytes(range(1, 60)))
        after = bytes(segments.memory)
        at = place(segments, b"torn")
        end = at + (FRAME_HEAD_BYTES + len(b"idoperationtorn") + 59 + 7) // 8 * 8
        assert before[:at] == after[:at]
        assert after[at:end] != before[at:end]
        order = range(at, end) if word_first else [*range(at + 12, end), *range(at + 8, at + 12), *range(at, at + 8)]
        memory = bytearray(before)
        judged: set[tuple[int, int]] = set()

        for number, each in enumerate([*order, -1]):
            whole = memory == after
            for finish in (False, True):
                reader = SegmentReader(bytes(memory), name="torn")
                frames = reader.finish() if finish else reader.read() + reader.read()
                assert payloads(frames)[:2] == [b"first", b"second"]
                assert len(frames) == (3 if whole else 2)
                if finish:
                    trace = memory != before and not whole
                    assert reader.corrupt_frames + reader.torn_frames == int(trace), number
                    judged.add((reader.corrupt_frames, reader.torn_frames))
            if each >= 0:
                memory[each] = after[each]

        assert whole
        assert judged == ({(0, 0), (1, 0)} if word_first else {(0, 0), (1, 0), (0, 1)})

    def test_one_for_each_block(self) -> None:
        """
        Each thread can leave one torn frame, and each is counted.
        """
        segments = Segments.in_memory(block_count=8)
        for number in range(3):
            in_thread(partial(put_all, segments, b"%d whole" % number, b"%d tail" % number))
        for number in range(3):
            at = place(segments, b"%d tail" % number)
            segments.memory[at : at + 8] = bytes(8)
        reader = reader_of(segments)

        assert payloads(reader.finish()) == [b"0 whole", b"1 whole", b"2 whole"]
        assert (reader.corrupt_frames, reader.torn_frames) == (0, 3)


def lines_between(code: Any, first: str, last: str) -> list[dis.Instruction]:
    """The instructions of *code* from the line that begins with *first* to the one that begins with *last*."""
    source = Path(module.__file__).read_text().splitlines()
    body = range(code.co_firstlineno, len(source))
    start = next(number for number in body if source[number - 1].strip().startswith(first))
    end = next(number for number in range(start, len(source)) if source[number - 1].strip().startswith(last))
    assert end > start
    lines = list(dis.findlinestarts(code))
    found = []
    for instruction in dis.get_instructions(code):
        line = next((line for offset, line in reversed(lines) if offset <= instruction.offset), None)
        if line is not None and start <= line <= end:
            found.append(instruction)
    return found


class TestOneStretch:
    @pytest.mark.parametrize(
        ("function", "first", "last"),
        [
            (Segments.append, "at = writer.position", "words[at >> 3] = word"),
            (Segments._next_block, "if writers[block] is None and", "return writer"),
            (Segments._reclaim, "if writers[block] is writer and", "writers[block] = None"),
            (Segments.scrub, "if writers[block] is None and", "used[block] = 0"),
            (Segments.scrub, "if writer is not None and not writer.closed", "words[_TABLE + self._count + block]"),
        ],
    )
    def test_calls_nothing(self, function: Any, first: str, last: str) -> None:
        """
        In the lines that must not be parted, this CPython has no place to switch threads, run handlers or raise.
        """
        found = lines_between(function.__code__, first, last)

        assert len(found) > 20
        assert {"STORE_ATTR", "STORE_SUBSCR"} & {instruction.opname for instruction in found}
        parting = ("CALL", "FOR_ITER", "SEND", "YIELD", "RESUME", "EVAL", "IMPORT")
        for instruction in found:
            assert not instruction.opname.startswith(parting)
            if "JUMP" in instruction.opname:
                # Only out of these lines, before anything was changed or after everything was.
                assert not found[0].offset <= instruction.argval <= instruction.offset

    def test_is_what_the_test_looks_at(self) -> None:
        """
        The test above finds a call where there is one.
        """
        found = lines_between(Segments.append.__code__, "crc = crc32", "at = writer.position")

        assert any("CALL" in instruction.opname for instruction in found)


@contextmanager
def interrupted(function: Any, line: str, handle: Callable[[], None]) -> Iterator[None]:
    """Call *handle* once, where a signal handler would run: before *function* comes to *line*; at each line if it is ""."""
    code = function.__code__
    lines = Path(module.__file__).read_text().splitlines()
    calls = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal calls
        if frame.f_code is not code:
            return None
        if event == "line" and (not line or (not calls and lines[frame.f_lineno - 1].strip() == line)):
            calls += 1
            handle()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
    assert calls


class TestConcurrency:
    @pytest.mark.usefixtures("switching_often")
    def test_each_record_exactly_once(self) -> None:
        """
        Four threads write while one imports and blocks are used again: every record once, each thread's in its order.
        """
        segments = Segments.in_memory(block_count=12)
        reader = reader_of(segments)
        seen: list[bytes] = []
        shed: dict[int, int] = defaultdict(int)

        def work(name: int) -> None:
            for number in range(3_000):
                while not put(segments, b"%d-%d " % (name, number) + bytes(400), level=50):
                    shed[name] += 1

        threads = [Thread(target=work, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            seen += payloads(reader.read())
            reader.mark_imported()
        seen += payloads(reader.read())

        for name in range(4):
            mine = [int(payload[2:].split()[0]) for payload in seen if payload.startswith(b"%d-" % name)]
            assert mine == list(range(3_000))
        assert len(seen) == 12_000 == reader.total_frames
        assert reader.corrupt_frames == 0

    @pytest.mark.usefixtures("switching_often")
    def test_short_lives_lose_nothing(self) -> None:
        """
        Threads that come and go, and blocks taken from the living because they are few: every record once.
        """
        segments = Segments.in_memory(block_count=4)
        reader = reader_of(segments)
        kept: list[bytes] = []
        seen: list[bytes] = []

        def work(name: int) -> None:
            for number in range(20):
                payload = b"%d-%d" % (name, number) + bytes(2_000)
                while not put(segments, payload, level=50):
                    pass
                kept.append(payload)

        for generation in range(20):
            threads = [Thread(target=work, args=(generation * 10 + name,)) for name in range(6)]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                seen += payloads(reader.read())
                reader.mark_imported()
        seen += payloads(reader.read())

        assert sorted(seen) == sorted(kept)
        assert len(kept) == 20 * 6 * 20
        assert reader.corrupt_frames == 0

    def test_a_signal_handler_may_record(self) -> None:
        """
        A record made in a signal handler, while another is made or a block is opened, is kept like any other.
        """
        segments = Segments.in_memory(block_count=16)
        reader = reader_of(segments)
        handled: list[bool] = []
        seen: list[bytes] = []

        def handler(*_: object) -> None:
            handled.append(put(segments, b"signal" + bytes(1_000), level=50))  # may itself be interrupted by the next

        made = 0
        with untraced():
            before = signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
            try:
                for number in range(30_000):
                    made += put(segments, b"main" + bytes(1_000), level=50)
                    if number % 500 == 0:
                        seen += payloads(reader.read())
                        reader.mark_imported()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, before)

        seen = [payload.rstrip(b"\0") for payload in seen + payloads(reader.read())]
        assert (seen.count(b"main"), seen.count(b"signal")) == (made, sum(handled))
        assert sum(handled) > 0
        assert reader.corrupt_frames == 0

    def test_a_handler_may_fill_the_block_in_the_middle_of_an_append(self) -> None:
        """
        Between composing a frame and placing it, its block is filled, imported and used again: it goes elsewhere.
        """
        segments = Segments.in_memory(block_count=2)
        reader = reader_of(segments)
        seen: list[bytes] = []
        put(segments, b"first", level=50)

        def handle() -> None:
            for number in range(40):
                assert put(segments, b"inner %d " % number + bytes(BLOCK_BYTES // 4), level=50)
                seen.extend(payloads(reader.read()))
                reader.mark_imported()

        with interrupted(Segments.append, "at = writer.position", handle):
            assert put(segments, b"outer", level=50)

        seen += payloads(reader.read())
        assert [payload.rstrip(b"\0") for payload in seen] == [
            b"first", *(b"inner %d " % number for number in range(40)), b"outer",
        ]  # fmt: skip
        assert reader.corrupt_frames == 0

    def test_a_handler_may_close_the_block_in_the_middle_of_an_append(self) -> None:
        """
        Between composing a frame and placing it, its block is closed, though it has room, and read to its end.
        """
        segments = Segments.in_memory(block_count=8)
        reader = reader_of(segments)
        seen: list[bytes] = []
        put(segments, b"first" + bytes(500))

        def handle() -> None:
            assert put(segments, b"inner" + bytes(BLOCK_BYTES - 300))
            seen.extend(payloads(reader.read()))

        with interrupted(Segments.append, "at = writer.position", handle):
            assert put(segments, b"outer")

        assert [payload[:5] for payload in seen] == [b"first", b"inner"]
        assert segments._writers.count(None) == 8 - 2
        assert payloads(reader.read()) == [b"outer"]

    def test_a_handler_may_open_the_block_that_is_about_to_be_opened(self) -> None:
        """
        The handler's new block serves what it has interrupted, too.
        """
        segments = Segments.in_memory(block_count=8)
        put(segments, b"first" + bytes(BLOCK_BYTES - 100))

        def handle() -> None:
            assert put(segments, b"inner" + bytes(1_000))

        with interrupted(Segments._next_block, "own = self._local", handle):
            assert put(segments, b"outer" + bytes(1_000))

        assert segments._writers.count(None) == 8 - 2
        assert [payload[:5] for payload in payloads(reader_of(segments).read())] == [b"first", b"inner", b"outer"]

    def test_goes_on_in_its_own_memory_when_replaced(self) -> None:
        """
        Segments that others have replaced still keep what is appended to them.
        """
        old, new = Segments.in_memory(block_count=8), Segments.in_memory(block_count=8)
        put(old, b"one")
        put(new, b"two")
        put(old, b"three")

        assert payloads(reader_of(old).read()) == [b"one", b"three"]
        assert payloads(reader_of(new).read()) == [b"two"]


@contextmanager
def untraced() -> Generator[None]:
    """Without coverage, whose lock an exception from outside, or a signal handler that is measured, too, may find held."""
    before = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(before)


class TestA20KeyboardInterrupt:
    """Row A20, for appending: an exception from outside, anywhere in our code."""

    @pytest.mark.usefixtures("switching_often")
    def test_from_another_thread(self) -> None:
        """
        KeyboardInterrupt at a random instruction: what returned is there, no frame is half there, no block is lost.
        """
        rounds = 5_000 if FULL else 300
        segments = Segments.in_memory(block_count=6)
        reader = reader_of(segments)
        returned: list[int] = []
        seen: list[bytes] = []
        caught = 0
        ready = False  # to be interrupted: where it is caught
        stop = Event()
        numbers = count()

        def work() -> None:
            nonlocal caught, ready
            sys.settrace(None)  # see `untraced`
            while not stop.is_set():
                try:
                    ready = True
                    while not stop.is_set():
                        number = next(numbers)
                        while not put(segments, b"%d " % number + bytes(3_000), level=50):
                            pass
                        returned.append(number)
                except KeyboardInterrupt:
                    ready = False
                    caught += 1

        thread = Thread(target=work)
        thread.start()
        deadline = time.monotonic() + 120
        while caught < rounds and time.monotonic() < deadline:
            before = caught
            eventually(lambda: ready)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident or 0), ctypes.py_object(KeyboardInterrupt)
            )
            while caught == before and thread.is_alive() and time.monotonic() < deadline:
                time.sleep(0)
            seen += [payload.rstrip(b"\0") for payload in payloads(reader.read())]
            reader.mark_imported()
        stop.set()
        thread.join(30)
        seen += payloads(reader.read())

        assert caught >= rounds
        found = [int(payload.split()[0]) for payload in seen]
        assert found == sorted(set(found))
        assert set(returned) <= set(found)
        assert (reader.corrupt_frames, reader.torn_frames) == (0, 0)
        reader.mark_imported()
        assert not segments.half_full

    def test_at_random_lines(self) -> None:
        """
        Even between two lines that CPython never parts, an exception costs that record at most; the next append works.
        """
        chance = random.Random(20)
        segments = Segments.in_memory(block_count=4)
        reader = reader_of(segments)
        countdown = 0
        fired = 0
        returned: list[bytes] = []
        seen: list[bytes] = []

        def trace(frame: FrameType, event: str, argument: object) -> Any:
            nonlocal countdown, fired
            if frame.f_code.co_filename != module.__file__ or frame.f_code.co_qualname.startswith("SegmentReader"):
                return None
            countdown -= 1
            if countdown == 0:
                fired += 1
                raise KeyboardInterrupt
            return trace

        for number in range(5_000 if FULL else 1_500):
            payload = b"%d " % number + bytes(chance.randrange(8_000))
            countdown = chance.randrange(1, 60)
            before = sys.gettrace()
            sys.settrace(trace)
            try:
                if put(segments, payload, level=50):
                    returned.append(payload)
            except KeyboardInterrupt:
                pass
            finally:
                sys.settrace(before)
            if number % 5 == 0:
                seen += payloads(reader.read())
                reader.mark_imported()
        for _ in range(3):
            seen += payloads(reader.read())
            reader.mark_imported()
        assert put(segments, b"after", level=50)
        returned.append(b"after")
        seen += payloads(reader.finish())

        assert fired > 100
        assert len(seen) == len(set(seen))
        assert set(returned) <= set(seen)


WRITER = """
import mmap, os, struct, sys, threading
from rfs.monitoring._capture.segments import Segments

path, witness, threads, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
fd = os.open(path, os.O_RDWR)
segments = Segments(mmap.mmap(fd, 0))
acknowledgement = struct.Struct("<II")
begun = threading.Barrier(threads)

def work(thread):
    number = 0
    filling = bytes(size)
    begun.wait()
    while True:
        if segments.append(number, 40, 0, b"id", b"burst", acknowledgement.pack(thread, number) + filling):
            os.write(witness, acknowledgement.pack(thread, number))
            number += 1

for thread in range(threads):
    threading.Thread(target=work, args=(thread,)).start()
"""
ACKNOWLEDGEMENT = struct.Struct("<II")


class TestOtherProcess:
    @pytest.mark.parametrize("seed", range(40 if FULL else 6))
    def test_killed_in_a_burst(self, tmp_path: Path, seed: int) -> None:
        """
        Another process writes into a file that we read and import, until kill -9: what a call returned from is there.

        The oracle is a pipe into which each thread writes after the call has returned.
        """
        chance = random.Random(seed)
        path = tmp_path / "1-a.segment"
        blocks, threads = 16, 3
        header = pack_header(SEGMENT_MAGIC, Header("1-a", 1, "", "", 0, 0, segment_layout(blocks)))
        path.write_bytes(header.ljust(segment_bytes(blocks), b"\0"))
        incoming, outgoing = os.pipe()
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(outgoing), str(threads), str(chance.choice([0, 100, 3_000]))],
            pass_fds=[outgoing],
        )
        os.close(outgoing)
        with path.open("r+b") as file:
            memory = mmap.mmap(file.fileno(), 0)
        view = mmap.mmap(os.open(path, os.O_RDONLY), 0, access=mmap.ACCESS_READ)
        leader = SegmentReader(memory, name=path.name)
        spectator = SegmentReader(view, name=path.name)
        acknowledged: list[bytes] = []
        listener = Thread(target=lambda: acknowledged.extend(iter(lambda: os.read(incoming, 1 << 16), b"")))
        listener.start()
        found: list[Frame] = []
        watched: list[Frame] = []
        until = chance.randrange(1, 5_000)

        try:
            deadline = time.monotonic() + 60
            while len(found) < until and time.monotonic() < deadline:
                found += leader.read()
                leader.mark_imported()
                watched += spectator.read()
        finally:
            writer.send_signal(signal.SIGKILL)
            status = writer.wait()
        listener.join(60)
        os.close(incoming)
        successor = SegmentReader(memory, name=path.name)
        successor.resume()
        left = successor.finish()
        watched += spectator.finish()

        assert status == -signal.SIGKILL
        numbers: dict[int, list[int]] = defaultdict(list)
        for frame in found + left:
            thread, number = ACKNOWLEDGEMENT.unpack_from(frame.payload)
            numbers[thread].append(number)
        returned: dict[int, int] = dict(ACKNOWLEDGEMENT.iter_unpack(b"".join(acknowledged)))
        assert len(found) >= until
        assert set(returned) <= set(numbers)
        for thread, mine in numbers.items():
            assert mine == list(range(len(mine)))
            assert len(mine) - 2 <= returned.get(thread, -1) < len(mine)
        assert leader.corrupt_frames == successor.corrupt_frames == spectator.corrupt_frames == 0
        assert successor.torn_frames <= threads
        assert successor.total_frames == len(found) + len(left)
        everything = {frame.payload for frame in found + left}
        assert {frame.payload for frame in watched} <= everything
        assert len(watched) == len({frame.payload for frame in watched})


def eventually(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Without a pause: what is waited for takes microseconds, and hundreds of times."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0)
