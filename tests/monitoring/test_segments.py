"""Segments: what a call returned from is there, once, in order, whatever else happens."""

from __future__ import annotations

import signal
from threading import Thread

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfs.monitoring._capture.segments import BLOCK_BYTES, MAX_FRAME_BYTES, Frame, SegmentReader, Segments

INFO = 20


class Recorder:
    """Segments and the leader that empties them, in one process."""

    def __init__(self, size_bytes: int) -> None:
        self.segments = Segments.in_memory(block_count=max(1, size_bytes // BLOCK_BYTES))
        self.reader = SegmentReader(self.segments.memory, name="test")
        self.append = self.segments.append

    @property
    def half_full(self) -> bool:
        return self.segments.half_full

    def drain(self) -> list[Frame]:
        frames = self.reader.read()
        self.reader.mark_imported()
        return frames


def put(segments: Recorder, payload: bytes, *, level: int = INFO, time_ns: int = 1, identifier: bytes = b"id") -> bool:
    return segments.append(time_ns, level, 0, identifier, b"operation", payload)


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
        Every field of every record is read back as it was written, in order of time.
        """
        segments = Recorder(1 << 20)

        for time_ns, level, flags, identifier, operation, payload in records:
            assert segments.append(time_ns, level, flags, identifier.encode(), operation.encode(), payload)

        assert [msgspec.structs.astuple(frame) for frame in segments.drain()] == sorted(
            records, key=lambda record: record[0]
        )
        assert segments.drain() == []

    def test_an_empty_record_is_a_record(self) -> None:
        """
        A frame without any content is committed, too.
        """
        segments = Recorder(1 << 20)

        segments.append(5, INFO, 0, b"", b"", b"")

        assert [frame.payload for frame in segments.drain()] == [b""]

    def test_blocks_are_used_again(self) -> None:
        """
        Draining gives the room back: ten times the segment's size goes through it.
        """
        segments = Recorder(8 * BLOCK_BYTES)
        kept = 0

        for _ in range(80):
            for _ in range(10):
                assert put(segments, bytes(BLOCK_BYTES // 11))
            kept += len(segments.drain())

        assert kept == 800


class TestFull:
    def test_sheds_by_level(self) -> None:
        """
        When nobody drains, DEBUG is shed first, then INFO, then WARNING; errors are kept until the very end.
        """
        segments = Recorder(16 * BLOCK_BYTES)
        kept: dict[int, int] = {}

        for level in (10, 20, 30, 40):
            while put(segments, bytes(BLOCK_BYTES // 2), level=level):
                kept[level] = kept.get(level, 0) + 1

        assert list(kept) == [10, 20, 30, 40]
        assert len(segments.drain()) == sum(kept.values())
        assert put(segments, b"again", level=10)

    def test_a_record_larger_than_a_block_is_refused(self) -> None:
        """
        What does not fit into a block is refused, and the next record is kept.
        """
        segments = Recorder(1 << 20)

        assert not put(segments, bytes(MAX_FRAME_BYTES))
        assert put(segments, b"next")
        assert [frame.payload for frame in segments.drain()] == [b"next"]

    def test_says_when_it_is_half_full(self) -> None:
        """
        The leader can see when it has to hurry.
        """
        segments = Recorder(4 * BLOCK_BYTES)

        assert not segments.half_full
        for _ in range(7):
            put(segments, bytes(BLOCK_BYTES // 3), level=50)
        assert segments.half_full


class TestDamage:
    def test_a_torn_frame_costs_itself_only(self) -> None:
        """
        A frame whose bytes were damaged is skipped and counted; the frames around it are read.
        """
        segments = Recorder(1 << 20)
        for payload in (b"first", b"second", b"third"):
            put(segments, payload)
        at = bytes(segments.segments._view).index(b"second")
        segments.segments._view[at] = 0

        frames = [*segments.drain(), *segments.drain()]

        assert [frame.payload for frame in frames] == [b"first", b"third"]
        assert segments.reader.corrupt_frames == 1

    def test_a_frame_that_was_never_committed_is_torn(self) -> None:
        """
        What a killed process had begun to write and not committed is no record; it is counted once the process is dead.
        """
        segments = Recorder(1 << 20)
        put(segments, b"before")
        position = segments.segments._local.writer.position
        segments.segments._view[position + 12 : position + 15] = b"ton"

        assert [frame.payload for frame in segments.drain()] == [b"before"]
        assert segments.reader.torn_frames == 0
        assert segments.reader.finish() == []
        assert segments.reader.torn_frames == 1


class TestConcurrency:
    @pytest.mark.usefixtures("switching_often")
    def test_each_record_exactly_once(self) -> None:
        """
        Four threads write while one drains: every record comes out exactly once, each thread's in its order.
        """
        segments = Recorder(8 << 20)
        seen: list[bytes] = []
        threads = [
            Thread(target=lambda name=name: [put(segments, b"%d-%d" % (name, n), level=50) for n in range(3_000)])
            for name in range(4)
        ]

        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            seen += [frame.payload for frame in segments.drain()]
        seen += [frame.payload for frame in segments.drain()]

        for name in range(4):
            mine = [payload for payload in seen if payload.startswith(b"%d-" % name)]
            assert mine == [b"%d-%d" % (name, n) for n in range(3_000)]
        assert len(seen) == 12_000

    def test_blocks_of_dead_threads_come_back(self) -> None:
        """
        A thousand short-lived threads need no more than a few blocks.
        """
        segments = Recorder(4 * BLOCK_BYTES)
        kept = 0

        for _ in range(300):
            thread = Thread(target=put, args=(segments, b"one"), kwargs={"level": 50})
            thread.start()
            thread.join()
            kept += len(segments.drain())

        assert kept == 300

    def test_a_signal_handler_may_record(self) -> None:
        """
        A record made in a signal handler, in the middle of making another, is kept like any other.
        """
        segments = Recorder(8 << 20)
        handled: list[bool] = []

        def handler(*_: object) -> None:
            handled.append(put(segments, b"signal", level=50))  # may itself be interrupted by the next signal

        before = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        try:
            made = sum(put(segments, b"main", level=50) for _ in range(30_000))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

        payloads = [frame.payload for frame in segments.drain()]
        assert (payloads.count(b"main"), payloads.count(b"signal")) == (made, sum(handled))
        assert sum(handled) > 0
        assert segments.reader.corrupt_frames == 0


class TestReadingElsewhere:
    def test_a_second_leader_counts_nothing_twice(self) -> None:
        """
        A reader that takes over marks only what its predecessor had not marked, though it has read everything itself.
        """
        segments = Recorder(1 << 20)
        put(segments, b"first")
        follower = SegmentReader(segments.segments.memory, name="follower")
        assert len(follower.read()) == 1
        assert segments.reader.read()
        assert segments.reader.mark_imported() == 1

        put(segments, b"second")

        assert [frame.payload for frame in follower.read()] == [b"second"]
        assert follower.mark_imported() == 1
        assert follower.total_frames == 2

    def test_frames_stay_counted_when_their_block_is_used_again(self) -> None:
        """
        However often blocks are reused, a reader that comes last knows how many frames there ever were.
        """
        segments = Recorder(4 * BLOCK_BYTES)
        for _ in range(100):
            assert put(segments, bytes(BLOCK_BYTES // 5), level=50)
            segments.drain()

        late = SegmentReader(segments.segments.memory, name="late")
        late.finish()

        assert late.total_frames == 100

    def test_no_record_holds_a_frame(self) -> None:
        """
        A record whose text is itself a whole frame is never read as two, also when the outer one is damaged.
        """
        segments = Recorder(1 << 20)
        put(segments, b"inner")
        inner = bytes(segments.segments._view[:]).split(b"inner")[0][-40:] + b"inner".ljust(16, b"\0")
        other = Recorder(1 << 20)
        put(other, inner)
        put(other, b"next")
        at = bytes(other.segments._view).index(inner)
        other.segments._view[at - 4] ^= 1

        assert [frame.payload for frame in other.reader.finish()] == [b"next"]
        assert other.reader.corrupt_frames == 1
