"""
Rows A1 and A2: what a call has returned from survives ``kill -9``, and the rest go on.

The witness is a pipe of each writer: it says which calls had returned, whatever became of the writer.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import rfs.monitoring._store.local  # noqa: F401 - a reader is timed that has been imported
from rfs.monitoring.monitor import Monitor
from tests.faults.processes import FAR_SECONDS, FULL, Process, environment, eventually, names_in, size
from tests.faults.programs.writer import ACKNOWLEDGEMENT

pytestmark = [pytest.mark.fault, pytest.mark.slow]  # dozens of processes live and die

WRITERS = 8
THREADS = 2
BURST = 150  # records of each thread that is let live
ONE_OF_EIGHT = size(whole=200, small=30)
PACED = size(whole=100, small=2)
PACED_SECONDS = 1.0 if FULL else 0.5
SETTLE_SECONDS = 1.0 if FULL else 0.0  # one that is new has something to catch up with
ALL_EIGHT = size(whole=30, small=5)
GIBIBYTE = 1 << 30


class Acknowledged:
    """Per thread, the highest number whose call had returned."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._rest = b""
        self.highest: dict[int, int] = defaultdict(int)

    def read(self) -> int:
        """Take in what has been said, and return how many calls have returned in all."""
        data = self._rest + self._process.witnessed()
        whole = len(data) - len(data) % ACKNOWLEDGEMENT.size
        self._rest = data[whole:]
        for thread, number in ACKNOWLEDGEMENT.iter_unpack(data[:whole]):
            assert number == self.highest[thread] + 1, "the witness itself is wrong"
            self.highest[thread] = number
        return sum(self.highest.values())


class Writers:
    """The writers of one directory, each in its place."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        self._stack = stack
        self.places = [self._start() for _ in range(WRITERS)]
        for place in self.places:
            assert place.answer() == "ready"

    def _start(self) -> Process:
        return self._stack.enter_context(Process("writer", self.directory, "WITNESS", env=environment()))

    def replace(self, place: int) -> None:
        self.places[place].end()
        self.places[place] = self._start()

    def wait_until_ready(self, places: list[int]) -> None:
        for place in places:
            assert self.places[place].answer() == "ready"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "service"


@pytest.fixture
def writers(directory: Path) -> Iterator[Writers]:
    with ExitStack() as stack:
        yield Writers(directory, stack)


@pytest.fixture
def reader(directory: Path) -> Iterator[Monitor]:
    """A process that only looks: it is never started, so it never leads."""
    made = Monitor(service_name="bursts", directory=directory)
    yield made
    made.stop()


def now_after(seconds: float) -> float:
    """The monotonic clock, so much later."""
    until = time.monotonic() + seconds
    eventually(lambda: time.monotonic() >= until, seconds=seconds + FAR_SECONDS)
    return time.monotonic()


def reach(acknowledged: Acknowledged, count: int) -> None:
    eventually(lambda: acknowledged.read() >= count, says=lambda: dict(acknowledged.highest))


def found_wrong(reader: Monitor, identity: str, acknowledged: int, *, killed: bool) -> tuple[int, str]:
    """How many records of one thread there are, and what is wrong with them."""
    found: Counter[int] = Counter()

    def all_there() -> bool:
        found.clear()
        found.update(int(str(one.context["number"])) for one in reader.query.records_by_correlation_id(identity))
        return all(number in found for number in range(1, acknowledged + 1))

    try:
        eventually(all_there, seconds=10)
    except AssertionError:
        missing = [number for number in range(1, acknowledged + 1) if number not in found]
        return len(found), f"{identity}: {len(missing)} of {acknowledged} are lost: {missing[:5]} …"
    twice = [number for number, times in found.items() if times > 1]
    # One more than was acknowledged may be there: its call had committed, and was killed before its witness spoke.
    unknown = [number for number in found if number > acknowledged + killed]
    return len(found), f"{identity}: twice {twice[:5]}, from nowhere {unknown[:5]}" if twice or unknown else ""


def own_records(reader: Monitor) -> set[str]:
    """RFS's own records that have lately come in: it tells of each process that was killed."""
    return {f"{record.timestamp} {record.message}" for record in reader.query.records(limit=1_000, min_level=30)}


def check_books(reader: Monitor, found: int, own: set[str], killed: int) -> None:
    """
    What was produced was delivered, dropped or lost on crash, with nothing in flight, once everybody rests.

    ``found`` and ``own`` are counted by the test. Lost may be the one call that each thread of those that were *killed* was
    inside. RFS tells once of each of them, but not where who leads was killed before, and again where it was killed just after.
    """
    books: dict[str, float] = {}

    def settled() -> bool:
        before = len(own)
        books.clear()
        books.update(reader.query.books()["records"])
        own.update(own_records(reader))
        return books["in_flight"] == 0 and len(own) == before  # none of them was recorded while the books were read

    eventually(settled, seconds=40, says=lambda: books)
    lost = books.get("lost_on_crash", 0.0)
    dropped = sum(count for name, count in books.items() if name.startswith("dropped_"))
    torn = books.get("dropped_corrupt_frame", 0.0)
    assert books["delivered"] == found + len(own), (len(own), books)
    assert books["produced"] == books["delivered"] + dropped + lost, books
    assert dropped == torn, books
    assert lost + torn <= THREADS * killed, books
    assert killed / 2 <= len(own) <= 2 * killed


class TestOneOfEight:
    def test_a1_no_acknowledged_record_is_lost(self, writers: Writers, reader: Monitor) -> None:
        """
        One of eight dies in its burst, again and again: all that was acknowledged is there once, the others end their bursts.
        """
        seed = random.Random(1)
        faults: list[str] = []
        own: set[str] = set()
        found_in_all = acknowledged_in_all = killed_threads = 0
        for turn in range(ONE_OF_EIGHT):
            victim = seed.randrange(WRITERS)
            witnesses = [Acknowledged(process) for process in writers.places]
            for place, process in enumerate(writers.places):
                count = 0 if place == victim else BURST
                process.tell(do="burst", id=f"a1.{turn}.{place}", threads=THREADS, count=count)
            reach(witnesses[victim], seed.randrange(1, 600))
            writers.places[victim].kill()
            killed_threads += THREADS
            for place, process in enumerate(writers.places):
                if place != victim:
                    assert process.answer() == "done"
            for place, witness in enumerate(witnesses):
                acknowledged_in_all += witness.read()
                if place != victim:
                    assert witness.highest == dict.fromkeys(range(THREADS), BURST)
            writers.replace(victim)
            for place, witness in enumerate(witnesses):
                for thread in range(THREADS):
                    identity = f"a1.{turn}.{place}.{thread}"
                    count, fault = found_wrong(reader, identity, witness.highest[thread], killed=place == victim)
                    found_in_all += count
                    faults += [fault] if fault else []
            own |= own_records(reader)
            writers.wait_until_ready([victim])

        assert faults == []
        check_books(reader, found_in_all, own, ONE_OF_EIGHT)
        total = sum(value for key, value in reader.query.totals().counters.items() if key.name == "burst_total")
        assert acknowledged_in_all <= total <= acknowledged_in_all + killed_threads

    def test_a1_the_others_do_not_notice(
        self, writers: Writers, record_property: Callable[[str, object], None]
    ) -> None:
        """
        The 99th percentile of what a recording call takes the other seven, after one was killed, is within 10 % of that before.

        They record every two milliseconds, which leaves the processor idle: otherwise the death of one would be the others' gain.
        The second after a death holds what follows from it: its files are folded, and one of eight times another comes to lead.
        """
        seed = random.Random(3)
        before: list[float] = []
        after: list[float] = []
        for process in writers.places:
            assert process.ask(do="pace") == "pacing"
        for _ in range(PACED):
            victim = seed.randrange(WRITERS)
            times = [now_after(SETTLE_SECONDS), now_after(PACED_SECONDS)]
            writers.places[victim].kill()
            times.append(now_after(PACED_SECONDS))
            for place, process in enumerate(writers.places):
                if place != victim:
                    calls = process.ask(do="calls", times=times)
                    assert all(calls)  # it went on
                    before += calls[0]
                    after += calls[1]
            writers.replace(victim)
            writers.wait_until_ready([victim])
            assert writers.places[victim].ask(do="pace") == "pacing"

        percentiles = [sorted(took)[len(took) * 99 // 100] * 1e6 for took in (before, after)]
        record_property(
            "99th percentile of the others", "{:.0f} us before, {:.0f} us after a kill".format(*percentiles)
        )
        if FULL:  # nothing else runs
            assert percentiles[1] < 1.1 * percentiles[0]


class TestAllEight:
    def test_a2_what_comes_next_finds_everything(
        self, writers: Writers, directory: Path, record_property: Callable[[str, object], None]
    ) -> None:
        """
        All eight die at once, the leader among them: a process that is started afterwards finds all that was acknowledged.

        It has a second for each GiB of files that the dead have left.
        """
        seed = random.Random(2)
        faults: list[str] = []
        acknowledged_in_all = killed_threads = 0
        total = 0.0
        pace: list[float] = []  # in seconds per GiB
        for turn in range(ALL_EIGHT):
            witnesses = [Acknowledged(process) for process in writers.places]
            for place, process in enumerate(writers.places):
                process.tell(do="burst", id=f"a2.{turn}.{place}", threads=THREADS, count=0)
            reach(witnesses[seed.randrange(WRITERS)], seed.randrange(1, 400))
            for process in writers.places:
                process.send(signal.SIGKILL)
            for process in writers.places:
                assert process.wait() == -signal.SIGKILL
            killed_threads += THREADS * WRITERS
            acknowledged_in_all += sum(witness.read() for witness in witnesses)

            left = sum(file.stat().st_size for file in (directory / "live").iterdir())
            began = time.monotonic()
            reader = Monitor(service_name="bursts", directory=directory)
            try:
                for place, witness in enumerate(witnesses):
                    for thread in range(THREADS):
                        identity = f"a2.{turn}.{place}.{thread}"
                        _, fault = found_wrong(reader, identity, witness.highest[thread], killed=True)
                        faults += [fault] if fault else []
                pace.append((time.monotonic() - began) / left * GIBIBYTE)
                counters = reader.query.totals().counters
                total = sum(value for key, value in counters.items() if key.name == "burst_total")
                assert acknowledged_in_all <= total <= acknowledged_in_all + killed_threads
            finally:
                reader.stop()
            for place in range(WRITERS):
                writers.replace(place)
            writers.wait_until_ready(list(range(WRITERS)))

        assert faults == []
        first = pace[0]
        pace.sort()
        record_property(
            "everything found",
            f"in {pace[len(pace) // 2]:.2f} s per GiB mostly, {pace[-1]:.2f} at most, {first:.2f} first",
        )
        if FULL:  # nothing else runs
            assert pace[-1] < 1


class TestLeader:
    def _leader(self, writers: Writers, *, after: int = 0, without: int | None = None) -> tuple[int, int]:
        """Place and epoch of the process that leads, once all but *without* agree on one of a higher epoch than *after*."""
        asked = [process for place, process in enumerate(writers.places) if place != without]

        def opinions() -> list[dict[str, int]]:
            return [process.ask(do="leadership") for process in asked]

        def agreed() -> dict[str, int] | None:
            epochs = {one["epoch"]: one for one in opinions()}
            return next(iter(epochs.values())) if len(epochs) == 1 and min(epochs) > after else None

        leadership = eventually(agreed, says=opinions)
        assert leadership is not None
        pids = [process.pid for process in writers.places]
        return pids.index(leadership["pid"]), leadership["epoch"]

    def test_a_killed_leader_is_replaced_within_two_seconds(self, writers: Writers) -> None:
        """
        After ``kill -9`` of the leader another leads within 2 s, under a higher epoch; totals stay as they were.
        """
        for process in writers.places:
            assert process.ask(do="burst", id="before", threads=1, count=10) == "done"
        leader, epoch = self._leader(writers)

        writers.places[leader].kill()
        began = time.monotonic()
        successor, _ = self._leader(writers, after=epoch, without=leader)
        took = time.monotonic() - began

        assert successor != leader
        assert took <= 2.0
        assert writers.places[successor].ask(do="total", name="burst_total") == 10 * WRITERS

    def test_a_leader_that_was_stopped_past_its_lease_is_harmless(self, writers: Writers) -> None:
        """
        SIGSTOP until another leads, then SIGCONT: one leader in everybody's eyes, and the dead are folded exactly once.
        """
        for process in writers.places:
            assert process.ask(do="burst", id="before", threads=1, count=10) == "done"
        leader, epoch = self._leader(writers)
        stopped = writers.places[leader]

        stopped.send(signal.SIGSTOP)
        try:
            successor, _ = self._leader(writers, after=epoch, without=leader)
            victim = next(place for place in range(WRITERS) if place not in (leader, successor))
            writers.places[victim].kill()
        finally:
            stopped.send(signal.SIGCONT)
        alive = [process for place, process in enumerate(writers.places) if place != victim]

        def of_one_mind() -> bool:
            seen = [process.ask(do="leadership") for process in alive]
            return len({one["epoch"] for one in seen}) == 1 and sum(one["is_self"] for one in seen) == 1

        eventually(of_one_mind, says=lambda: [process.ask(do="leadership") for process in alive])
        gone = f"{writers.places[victim].pid}-"  # its segment stays: others may not have read it yet
        live = reader_directory(writers)
        eventually(
            lambda: not any(name.startswith(gone) and name.endswith(".cells") for name in names_in(live)),
            says=lambda: names_in(live),
        )
        assert [process.ask(do="total", name="burst_total") for process in alive] == [10 * WRITERS] * (WRITERS - 1)


def reader_directory(writers: Writers) -> Path:
    """Where the live files are."""
    return writers.directory / "live"
