"""Batches on their way to a store behind a network: in order, each once, in bounded memory, and nobody waits for the network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from time import monotonic

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfs.errors import StoreError
from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.segments import Frame, Run
from rfs.monitoring._capture.sketch import Sketch
from rfs.monitoring._store import Batch, Window
from rfs.monitoring._store import outbox as module
from rfs.monitoring._store.outbox import Group, Outbox, pause_seconds

LONG = 30.0  # generous: what is waited for comes at once


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE_SECONDS", 0.0)


class Far:
    """The other side: fails as often as it is told to, and keeps what it takes."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.attempts: list[Group] = []
        self.taken: list[Batch] = []
        self.problems: list[tuple[str, str]] = []
        self.open = Event()
        self.open.set()
        self.entered = Event()

    def send(self, group: Group) -> None:
        self.attempts.append(group)
        self.entered.set()
        assert self.open.wait(LONG)
        if self.failures:
            self.failures -= 1
            raise ConnectionRefusedError("nobody there")
        self.taken += group.batches

    def problem(self, code: str, text: str) -> None:
        self.problems.append((code, text))


@contextmanager
def outbox(far: Far, *, max_bytes: int = 1 << 20, delay_seconds: float = 3_600.0) -> Iterator[Outbox]:
    made = Outbox(far.send, max_bytes=max_bytes, delay_seconds=delay_seconds, on_problem=far.problem)
    try:
        yield made
    finally:
        far.open.set()
        made.close(LONG)


def batch(sequence: int, process: str = "p", payload: bytes = b"") -> Batch:
    frames = [Frame(1, 20, 0, "", "", payload)] if payload else []
    return Batch(process, sequence, [Run(process, sequence, [8], 16, frames)] if frames else [], Window(sequence))


def flushed(box: Outbox) -> None:
    """Until all is sent, whatever fails meanwhile."""
    deadline = monotonic() + LONG
    while not box.flush(LONG):
        assert monotonic() < deadline


class TestDelivery:
    def test_waits_for_others_unless_asked(self) -> None:
        """
        Batches wait to be sent together; who asks has all of them sent at once, in one group and in their order.
        """
        far = Far()
        with outbox(far) as box:
            for sequence in range(5):
                box.put(batch(sequence))
            waiting = box.statistics()["waiting_batches"]

            assert box.flush(LONG)

            assert waiting == 5
            assert [[one.sequence for one in group.batches] for group in far.attempts] == [[0, 1, 2, 3, 4]]
            assert box.statistics()["waiting_batches"] == box.statistics()["waiting_bytes"] == 0

    def test_goes_out_by_itself(self) -> None:
        """
        Nobody has to ask: after the delay what waits is sent.
        """
        far = Far()
        with outbox(far, delay_seconds=0.01) as box:
            box.put(batch(0))

            assert far.entered.wait(LONG)

    def test_much_at_once_goes_out_in_several_groups(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A backlog goes out piece by piece without anybody asking; a batch too large for a group goes alone.
        """
        monkeypatch.setattr(module, "GROUP_BYTES", 2_000)
        far = Far()
        with outbox(far) as box:
            for sequence, size in enumerate((500, 500, 5_000, 500, 500)):
                box.put(batch(sequence, payload=b"x" * size))
            flushed(box)

        assert [one.sequence for one in far.taken] == [0, 1, 2, 3, 4]
        assert max(len(group.batches) for group in far.attempts) <= 2

    @settings(max_examples=50)
    @given(st.lists(st.integers(0, 3), max_size=12))
    def test_whatever_fails_each_arrives_once_and_in_order(self, failures: list[int]) -> None:
        """
        However often attempts fail, what was put in arrives in its order, and nothing twice.
        """
        far = Far()
        with outbox(far) as box:
            for sequence, fail in enumerate(failures):
                far.failures = fail
                box.put(batch(sequence))
                if fail % 2:
                    box.flush(LONG)
            flushed(box)

        assert [one.sequence for one in far.taken] == list(range(len(failures)))

    def test_a_group_stays_the_same(self) -> None:
        """
        What is tried again is what was tried first, under the same token, whatever was put in meanwhile.
        """
        far = Far(failures=2)
        with outbox(far) as box:
            far.open.clear()
            box.put(batch(0))
            box.put(batch(1))
            assert far.entered.wait(0) or not box.flush(0.01)  # on its way
            assert far.entered.wait(LONG)
            box.put(batch(2))
            far.open.set()
            flushed(box)

        assert [group.token for group in far.attempts] == ["p:0-1"] * 3 + ["p:2-2"]
        assert box.statistics()["failed_attempts"] == 2

    def test_tells_once_that_it_fails(self) -> None:
        """
        A row of failures is told once, with the code of the error; the next row again.
        """
        far = Far(failures=3)
        with outbox(far) as box:
            for sequence in range(2):
                far.failures = 3
                box.put(batch(sequence))
                flushed(box)

        assert far.problems == [("S116", "nobody there")] * 2

    def test_tells_the_code_of_a_store_error(self) -> None:
        """
        A StoreError's own code is told.
        """
        far = Far()
        told = Event()

        def refuse(_: Group) -> None:
            raise StoreError("far", "is newer", "S112")

        def problem(code: str, text: str) -> None:
            far.problem(code, text)
            told.set()

        box = Outbox(refuse, max_bytes=1 << 20, delay_seconds=0, on_problem=problem)
        box.put(batch(0))

        assert told.wait(LONG)
        assert not box.flush(LONG)
        box.close(LONG)
        assert isinstance(box.failure, StoreError)
        assert [code for code, _ in far.problems] == ["S112", "S117"]


class TestBounds:
    def test_nobody_waits_for_the_network(self) -> None:
        """
        While the other side hangs, putting in and asking come back.
        """
        far = Far()
        far.open.clear()
        with outbox(far, delay_seconds=0) as box:
            box.put(batch(0))
            assert far.entered.wait(LONG)

            for sequence in range(1, 100):
                box.put(batch(sequence))

            assert not box.flush(0.01)
            assert box.statistics()["waiting_batches"] == 100

    def test_the_oldest_are_dropped_and_counted(self) -> None:
        """
        When there is no room the oldest batches go, all but those that are on their way; records and windows are counted.
        """
        far = Far()
        far.open.clear()
        with outbox(far, max_bytes=10_000, delay_seconds=0) as box:
            box.put(batch(0, payload=b"x" * 1_000))
            assert far.entered.wait(LONG)
            for sequence in range(1, 20):
                box.put(batch(sequence, payload=b"x" * 1_000))
                assert box.statistics()["waiting_bytes"] <= 10_000
            dropped = box.statistics()["dropped_records"]
            far.open.set()
            flushed(box)
            after = box.statistics()

        assert dropped == after["dropped_records"] == after["dropped_windows"] == 20 - len(far.taken) > 5
        assert [one.sequence for one in far.taken] == [0, *range(int(dropped) + 1, 20)]
        assert after["sent_records"] == len(far.taken)
        assert {code for code, _ in far.problems} == {"S117"}

    def test_a_batch_larger_than_the_room_is_dropped(self) -> None:
        """
        What does not fit at all is dropped and counted, and nobody waits for it.
        """
        far = Far()
        with outbox(far, max_bytes=1_000) as box:
            box.put(batch(0, payload=b"x" * 5_000))

            assert box.flush(LONG)
            assert far.taken == []
            assert box.statistics()["dropped_records"] == 1

    def test_windows_have_a_size(self) -> None:
        """
        Series and buckets count, so that windows without records are bounded, too.
        """
        far = Far(failures=1 << 30)
        keys = [SeriesKey("wait", (("n", str(n)),)) for n in range(100)]
        window = Window(1, {}, {}, {key: Sketch(1, 1.0, 0, 1.0, 1.0, {1: 1}, {}) for key in keys})
        with outbox(far, max_bytes=100_000) as box:
            for sequence in range(50):
                box.put(Batch("p", sequence, [], window))

            assert box.statistics()["waiting_bytes"] <= 100_000
            assert box.statistics()["dropped_windows"] > 0

    @given(st.integers(1, 10_000), st.floats(0, 1))
    def test_pauses_are_bounded(self, failures: int, luck: float) -> None:
        """
        However often it failed, a pause is half a minute at most.
        """
        assert 0 <= pause_seconds(failures, luck) <= 30

    @given(st.lists(st.tuples(st.sampled_from(["p", "q", "p:1"]), st.integers(0, 4)), min_size=1, max_size=6))
    def test_tokens_tell_batches_apart(self, names: list[tuple[str, int]]) -> None:
        """
        Groups of other batches have other tokens, and a group's token is always the same.
        """

        def token(some: list[tuple[str, int]]) -> str:
            return module._token_of([batch(sequence, process) for process, sequence in some])

        assert token(names) == token(list(names))
        assert all(token(names[:end]) != token(names) for end in range(1, len(names)))


class TestEnd:
    def test_close_sends_what_waits(self) -> None:
        """
        What still waits is sent at the end, at once.
        """
        far = Far()
        with outbox(far) as box:
            box.put(batch(0))
            box.close(LONG)
            box.close(LONG)

        assert [one.sequence for one in far.taken] == [0]
        assert far.problems == []

    def test_what_cannot_be_sent_is_counted(self) -> None:
        """
        At the end one attempt is made; what fails then, and what comes later, is lost, counted and told once.
        """
        far = Far(failures=1 << 30)
        with outbox(far) as box:
            box.put(batch(0, payload=b"x"))
            box.close(LONG)
            box.close(LONG)
            box.put(batch(1, payload=b"x"))

            assert box.flush(LONG)
            assert box.statistics()["dropped_records"] == 2
        assert [text for code, text in far.problems if code == "S117"] == [
            "1 records and 1 windows are lost: closed before they were sent",
            "1 records and 1 windows are lost: closed before",
        ]

    def test_close_does_not_wait_for_a_network_that_hangs(self) -> None:
        """
        The time that is given is kept.
        """
        far = Far()
        far.open.clear()
        with outbox(far, delay_seconds=0) as box:
            box.put(batch(0, payload=b"x"))
            assert far.entered.wait(LONG)
            before = monotonic()

            box.close(0.05)

            assert monotonic() - before < LONG / 2
            assert box.statistics()["dropped_records"] == 1

    def test_a_forked_child_begins_empty(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        What waits in the parent is the parent's to send, and so are its figures.
        """
        far = Far()
        with outbox(far) as box:
            with monkeypatch.context() as patched:
                patched.setattr(Thread, "start", lambda _: None)  # a child has none of the parent's threads
                box.put(batch(0))
            box.after_fork()

            assert box.statistics()["waiting_batches"] == 0
            box.put(batch(1))
            assert box.flush(LONG)
        assert [one.sequence for one in far.taken] == [1]

    def test_no_thread_to_be_had(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Where no thread can be started, batches wait, and the next one tries again.
        """
        far = Far()

        def refuse(_: object) -> None:
            raise RuntimeError("can't start new thread")

        with outbox(far) as box:
            with monkeypatch.context() as patched:
                patched.setattr(Thread, "start", refuse)
                box.put(batch(0))
                assert not box.flush(LONG)
            box.put(batch(1))
            flushed(box)

        assert [one.sequence for one in far.taken] == [0, 1]
