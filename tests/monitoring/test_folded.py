"""The sums of dead processes: whichever of their files is damaged, wherever, and whenever the leader is killed, no number changes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from threading import Barrier, BrokenBarrierError, Thread
from typing import NamedTuple
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter

from rfs.errors import LiveFileError, StoreError
from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.live import CELLS_SUFFIX, process_of
from rfs.monitoring._capture.readings import NOTHING_READ, SketchReading
from rfs.monitoring._capture.sketch import Sketch
from rfs.monitoring._folded import Folded, folded_names, pack_folded, unpack_folded
from rfs.monitoring._leader import LOST
from rfs.monitoring._query import Query
from rfs.monitoring._reading import open_directory
from rfs.monitoring._store.local import LocalStore
from rfs.monitoring._totals import lacking
from rfs.monitoring.exporters.prometheus import render_text
from rfs.monitoring.monitor import Monitor
from rfs.testing.virtual_time import VirtualTime
from tests.monitoring.led import NOTHING
from tests.monitoring.test_erasure import CALLS, killed_at
from tests.monitoring.test_windows import sketch

SEEN = SeriesKey("seen_total", ())
CONTENT = pack_folded(
    Folded(
        processes=["1-a"],
        metrics=[("seen_total", "counter", "")],
        counters=[("seen_total", (), 5.0)],
        sketches=[("waits", (), SketchReading.of(sketch(0.5, 3.0)))],
    ),
    3,
)
BODY = 24  # where it begins
OLD = b"\x82\xa7version\x01\xa8counters\x91\x93\xaaseen_total\x90\xcb\x40\x14\x00\x00\x00\x00\x00\x00"  # of the version before

# What becomes of a whole file; each is another place or kind of damage.
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "magic": lambda content: b"X" + content[1:],
    "version": lambda content: content[:8] + b"\1" + content[9:],
    "checksum": lambda content: content[:13] + bytes([content[13] ^ 1]) + content[14:],
    "generation": lambda content: content[:16] + b"\xff" + content[17:],
    "first of the body": lambda content: content[:BODY] + bytes([content[BODY] ^ 1]) + content[BODY + 1 :],
    "middle": lambda content: content[: len(content) // 2] + b"\xfe\xff" + content[len(content) // 2 + 2 :],
    "tail": lambda content: content[:-1] + bytes([content[-1] ^ 0x80]),
    "cut in the header": lambda content: content[: BODY - 1],
    "cut in the body": lambda content: content[: len(content) // 2],
    "cut at the end": lambda content: content[:-1],
    "empty": lambda _: b"",
    "zeros": lambda content: bytes(len(content)),
    "a hole": lambda content: content[: len(content) // 2].ljust(len(content), b"\0"),
    "longer": lambda content: content + b"\0",
    "without a checksum": lambda _: OLD,
}


class TestContent:
    def test_round_trip(self) -> None:
        """
        What is packed is what is read.
        """
        generation, folded = unpack_folded(CONTENT, "totals-1")

        assert generation == 3
        assert folded.processes == ["1-a"]
        assert folded.counters == [("seen_total", (), 5.0)]
        assert folded.sketches[0][2].since(None) == SketchReading.of(sketch(0.5, 3.0)).since(None)

    def test_every_flipped_bit(self) -> None:
        """
        No flipped bit is believed, wherever it is.
        """
        for at in range(8 * len(CONTENT)):
            content = bytearray(CONTENT)
            content[at // 8] ^= 1 << at % 8
            with pytest.raises(LiveFileError):
                unpack_folded(bytes(content), "totals-1")

    def test_every_length(self) -> None:
        """
        Neither is a file that was cut, wherever.
        """
        for length in range(len(CONTENT)):
            with pytest.raises(LiveFileError):
                unpack_folded(CONTENT[:length], "totals-1")

    @given(at=st.integers(0, len(CONTENT)), length=st.integers(0, len(CONTENT)), put=st.binary(max_size=40))
    def test_anything_put_anywhere(self, at: int, length: int, put: bytes) -> None:
        """
        Bytes that replace others, or come between them, are found out; or they are the same.
        """
        content = CONTENT[:at] + put + CONTENT[at + length :]

        if content != CONTENT:
            with pytest.raises(LiveFileError):
                unpack_folded(content, "totals-1")

    @pytest.mark.parametrize(
        ("body", "says"),
        [
            (b"\x81\xa9processes\x91\xa2\xff\xfe", "cannot be read"),
            (b"\x81\xa7metrics\x91\x93\xa1n\xa1x\xa0", "cannot be read"),
            (b"\x81\xa8sketches\x91\x93\xa1n\x90\x81\xa5count\xc0", "cannot be read"),
        ],
    )
    def test_what_has_a_checksum_and_no_sense(self, body: bytes, says: str) -> None:
        """
        What is no text where a text should be, or of an unknown type, is damage like any other.
        """
        head = CONTENT[:12], CONTENT[16:BODY]
        content = head[0] + crc32(b"".join((*head, body))).to_bytes(4, "little") + head[1] + body

        with pytest.raises(LiveFileError, match=says):
            unpack_folded(content, "totals-1")

    def test_another_version(self) -> None:
        """
        A file of a newer version is refused by its number.
        """
        head = CONTENT[:8] + (9).to_bytes(4, "little"), CONTENT[16:]
        content = head[0] + crc32(b"".join(head)).to_bytes(4, "little") + head[1]

        with pytest.raises(LiveFileError, match="has version 9; this library reads version 2"):
            unpack_folded(content, "totals-1")


class TestLacking:
    def test_of_a_histogram(self) -> None:
        """
        What the dead measured is what was counted, less what the living have: by bucket, and in sum.
        """
        whole = sketch(-3.0, 0.0, 0.5, 3.0, 3.0)
        part = SketchReading.of(sketch(-3.0, 3.0))

        found = part.lacking(whole)

        assert found is not None
        assert found.since(None).positive == {**sketch(0.5).positive, **sketch(3.0).positive}
        assert (found.count, found.zero, found.total, found.negative) == (3, 1, 3.5, {})
        assert SketchReading.of(whole).lacking(whole) is None
        assert NOTHING_READ.lacking(Sketch()) is None

    def test_what_has_been_measured_since(self) -> None:
        """
        In a bucket of which the dead had nothing, what a living process has measured since is not taken off their sum.
        """
        whole = sketch(1.0, 1.0, 0.5)
        part = SketchReading.of(sketch(0.5, 8.0, -8.0))

        found = part.lacking(whole)

        assert found is not None
        together = part.plus(found)
        assert together.since(None).positive == sketch(1.0, 1.0, 0.5, 8.0).positive
        assert together.total == pytest.approx(2.5, rel=0.02)

    def test_of_totals(self) -> None:
        """
        Both together are at least what was known, and never more than the larger of the two.
        """
        one, other = SeriesKey("one_total", ()), SeriesKey("other_total", ())
        totals = NOTHING.plus(lacking(NOTHING, {one: 3.0}, {}))

        found = totals.plus(lacking(totals, {one: 2.0, other: 4.0}, {}))

        assert found.counters == {one: 3.0, other: 4.0}
        assert {name: metric.type.value for name, metric in found.metrics.items()} == {
            "one_total": "counter",
            "other_total": "counter",
        }


class Seen(NamedTuple):
    """What a service says of itself."""

    total: float
    increase: float | None
    measured: tuple[int, float]
    exposed: dict[str, str]


def seen(query: Query) -> Seen:
    lines = render_text(query.totals()).decode().splitlines()
    distribution = query.distribution("waits_seconds", "1h")
    assert distribution is not None
    return Seen(
        query.totals().counters[SEEN],
        query.increase("seen_total", "1h"),
        (distribution.count, round(distribution.sum, 9)),
        dict(line.rsplit(" ", 1) for line in lines if line.startswith(("seen_total", "waits_seconds"))),
    )


class Service:
    """A service in *path* that a test leads by hand."""

    def __init__(self, path: Path, clock: VirtualTime) -> None:
        self.path = path
        self.clock = clock

    def process(self) -> Monitor:
        return Monitor(service_name="folded", directory=self.path, clock=self.clock)

    def damage(self, name: str, how: Callable[[bytes], bytes]) -> None:
        path = self.path / "live" / name
        path.write_bytes(how(path.read_bytes()))

    def names(self) -> tuple[str, str]:
        """Of the copy, and of the other file; of the highest epoch."""
        epoch = max(int(path.name[7:]) for path in (self.path / "live").glob("totals-*[0-9]"))
        return folded_names(epoch)

    def quarantine(self) -> dict[str, bytes]:
        """What was set aside: name without the time, and content."""
        return {path.name.rsplit(".", 2)[0]: path.read_bytes() for path in (self.path / "store/quarantine").glob("*")}


def measure(monitor: Monitor, times: int) -> None:
    monitor.counter("seen_total").inc(times)
    for number in range(times):
        monitor.histogram("waits_seconds").observe(0.5 + number)


def lead(monitor: Monitor) -> None:
    """What the leader's thread does in a second."""
    monitor._leader._capture_and_lead(is_new=False)
    monitor._leader._capture_and_lead(is_new=False)
    monitor._leader.sample()


def said(monitor: Monitor) -> list[str]:
    return list(monitor._diagnostics)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, Seen]:
    """A service at rest: one process is dead and folded, the one that led is dead, and all is in windows."""
    service = Service(tmp_path_factory.mktemp("folded"), VirtualTime())
    leader = service.process()
    other = service.process()
    measure(other, 5)
    measure(leader, 2)
    service.clock.advance(1)
    lead(leader)
    other.capture.close()
    service.clock.advance(1)
    lead(leader)
    leader.stop()
    found = seen(leader.query)
    leader.capture.close()
    assert found[:3] == (7.0, 7.0, (7, 14.5))
    assert len(found.exposed) > 4
    assert not list((service.path / "live").glob(f"{process_of(other.capture.process)}*{CELLS_SUFFIX}"))
    return service.path, service.clock.time_ns(), found


@pytest.fixture
def service(made: tuple[Path, int, Seen], tmp_path: Path) -> Service:
    path, now_ns, _ = made
    shutil.copytree(path, tmp_path / "copy", copy_function=shutil.copy)
    return Service(tmp_path / "copy", VirtualTime(now_ns / 1e9))


@pytest.fixture
def recorded(made: tuple[Path, int, Seen]) -> Seen:
    return made[2]


def check_goes_on(service: Service, recorded: Seen) -> list[str]:
    """Whoever comes next sees what was recorded, before it leads and after; what it says."""
    monitor = service.process()
    assert seen(monitor.query) == recorded
    service.clock.advance(1)
    lead(monitor)
    assert seen(monitor.query) == recorded
    measure(monitor, 2)
    assert seen(monitor.query)[:3] == (9.0, 9.0, (9, 16.5))
    service.clock.advance(1)
    lead(monitor)
    assert seen(monitor.query)[:3] == (9.0, 9.0, (9, 16.5))
    live = service.path / "live"
    contents = {(live / name).read_bytes() for name in service.names()}
    assert len(contents) == 1
    assert ("seen_total", (), 7.0) in unpack_folded(contents.pop(), "totals")[1].counters
    monitor.stop()
    late = service.process()
    assert seen(late.query)[:3] == (9.0, 9.0, (9, 16.5))
    late.stop()
    late.capture.close()
    monitor.capture.close()
    return said(monitor)


class TestOneDamaged:
    @pytest.mark.parametrize("which", [0, 1], ids=["copy", "first"])
    @pytest.mark.parametrize("how", DAMAGES)
    def test_nothing_is_lost(self, service: Service, recorded: Seen, how: str, which: int) -> None:
        """
        Whatever is wrong with either file, the other one has all; both are whole again, and the damaged one is set aside.
        """
        name = service.names()[which]
        service.damage(name, DAMAGES[how])
        damaged = (service.path / "live" / name).read_bytes()

        told = check_goes_on(service, recorded)

        assert service.quarantine() == {name: damaged}
        assert sum(text.startswith(f"RFS-S113 live file {name} is left out: it ") for text in told) == 1
        assert sum(f"live file {name}" in text and "set aside in" in text for text in told) == 1

    @pytest.mark.parametrize("which", [0, 1], ids=["copy", "first"])
    def test_missing_or_older(self, service: Service, recorded: Seen, which: int) -> None:
        """
        Of two whole files that of the higher generation counts, and one that is missing is written again.
        """
        old = pack_folded(Folded(counters=[("seen_total", (), 1_000.0)]), 0)
        service.damage(service.names()[which], lambda _: old)
        check_goes_on(service, recorded)

    @pytest.mark.parametrize("which", [0, 1], ids=["copy", "first"])
    def test_removed(self, service: Service, recorded: Seen, which: int) -> None:
        """
        So is one that somebody has removed.
        """
        (service.path / "live" / service.names()[which]).unlink()
        check_goes_on(service, recorded)

    def test_beside_what_somebody_has_put_there(self, service: Service, recorded: Seen) -> None:
        """
        A file of another name is nobody's sums, whatever its number.
        """
        shutil.copy(service.path / "live" / service.names()[1], service.path / "live" / "totals-99.bak")
        check_goes_on(service, recorded)

    def test_one_that_cannot_be_opened(self, service: Service, recorded: Seen) -> None:
        """
        One that is a link is not followed, and replaced.
        """
        name = service.names()[1]
        path = service.path / "live" / name
        path.rename(path.with_name("elsewhere"))
        path.symlink_to("elsewhere")

        told = check_goes_on(service, recorded)

        assert any(f"live file {name} is left out: it cannot be read: " in text for text in told)


class TestBothDamaged:
    @pytest.mark.parametrize("how", DAMAGES)
    def test_the_store_knows(self, service: Service, recorded: Seen, how: str) -> None:
        """
        Then the sums are what the store has counted, less what live files have: nothing falls, and nothing is counted again.
        """
        for name in service.names():
            service.damage(name, DAMAGES[how])

        told = check_goes_on(service, recorded)

        assert set(service.quarantine()) == set(folded_names(1))
        assert sum("are made anew of what is known" in text for text in told) == 1

    @given(data=st.data())
    def test_anywhere(self, data: st.DataObject, made: tuple[Path, int, Seen]) -> None:
        """
        Wherever each of the two is damaged, no damaged byte is believed: the sums are found from outside, too.
        """
        path, now_ns, recorded = made
        directory, before = path / "live", {}
        try:
            for name in folded_names(1):
                content = before[name] = (directory / name).read_bytes()
                at, put = data.draw(st.integers(0, len(content))), data.draw(st.binary(min_size=1, max_size=30))
                kept = data.draw(st.sampled_from([len(content), at + len(put)]))
                (directory / name).write_bytes((content[:at] + put + content[at + len(put) :])[:kept])
            with open_directory(path, on_problem=lambda *_: None, now_seconds=lambda: now_ns / 1e9) as query:
                assert seen(query) == recorded
        finally:
            for name, content in before.items():
                (directory / name).write_bytes(content)

    def test_looked_at_from_outside(self, service: Service, recorded: Seen) -> None:
        """
        A command that looks into the directory gives the same answers, changes nothing, and says what is damaged.
        """
        for name in service.names():
            service.damage(name, DAMAGES["zeros"])
        problems: list[str] = []

        def note(code: str, text: str) -> None:
            problems.append(f"{code} {text}")

        with open_directory(service.path, on_problem=note, now_seconds=lambda: service.clock.time_ns() / 1e9) as query:
            assert seen(query) == recorded
            assert seen(query) == recorded
        assert [text.partition(":")[0] for text in problems] == [
            f"S113 live file {name} is left out" for name in service.names()
        ]
        assert not service.quarantine()

    def test_with_the_files_of_the_dead(self, service: Service, recorded: Seen) -> None:
        """
        A leader that was killed before it removed what it has folded: what is still there is not counted twice.
        """
        leader = service.process()
        kept = {path: path.read_bytes() for path in (service.path / "live").iterdir()}
        service.clock.advance(1)
        lead(leader)
        leader.stop()
        leader.capture.close()
        gone = [path for path in kept if path.name.endswith((CELLS_SUFFIX, ".alive")) and not path.exists()]
        assert any(path.name.endswith(CELLS_SUFFIX) for path in gone)
        for path in gone:
            path.write_bytes(kept[path])
        for name in service.names():
            service.damage(name, DAMAGES["tail"])

        check_goes_on(service, recorded)

    def test_while_the_leader_lives(self, service: Service, recorded: Seen) -> None:
        """
        The leader that has written them needs no store: not even what no window has yet is missing.
        """
        leader, other = service.process(), service.process()
        registry = CollectorRegistry()
        Counter("jobs", "", registry=registry).inc(3)
        other.include_registry(registry)
        other._foreign.refresh(5.0)
        service.clock.advance(1)
        lead(leader)
        measure(other, 2)
        other.capture.close()
        leader._leader._capture_and_lead(is_new=False)
        for name in service.names():
            service.damage(name, DAMAGES["middle"])

        assert leader.query.totals().counters[SEEN] == 9
        lead(leader)

        assert leader.query.increase("seen_total", "1h") == 9
        assert len(service.quarantine()) == 2
        assert not any("are made anew" in text for text in said(leader))
        late = service.process()
        assert late.query.totals().counters[SEEN] == 9
        samples = [one for family in late.query.totals().foreign for one in family.samples]
        assert [one.value for one in samples if one.name == "jobs_total"] == [3.0]
        for monitor in (late, leader):
            monitor.stop()
            monitor.capture.close()

    @pytest.mark.parametrize("how", ["removed", "older"])
    def test_replaced_under_the_leader(self, service: Service, recorded: Seen, how: str) -> None:
        """
        So it does where somebody has removed both, or has put old ones there.
        """
        leader = service.process()
        service.clock.advance(1)
        lead(leader)
        for name in service.names():
            path = service.path / "live" / name
            path.unlink()
            if how == "older":
                path.write_bytes(pack_folded(Folded(), 0))

        assert seen(leader.query) == recorded
        lead(leader)

        assert seen(leader.query) == recorded
        assert not any("are made anew" in text for text in said(leader))
        late = service.process()
        assert seen(late.query) == recorded
        for monitor in (late, leader):
            monitor.stop()
            monitor.capture.close()

    def test_beside_the_leader(self, service: Service, recorded: Seen) -> None:
        """
        Another worker's answers stay what they are in the meantime, and when the leader has mended it.
        """
        leader, worker = service.process(), service.process()
        service.clock.advance(1)
        lead(leader)
        assert seen(worker.query) == recorded
        for name in service.names():
            service.damage(name, DAMAGES["empty"])

        assert seen(worker.query) == recorded
        service.clock.advance(1)
        lead(leader)
        assert seen(worker.query) == recorded
        assert not worker._leader.live.is_short
        for monitor in (worker, leader):
            monitor.stop()
            monitor.capture.close()

    def test_while_the_store_cannot_be_read(
        self, service: Service, recorded: Seen, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        Until the store can be read nothing is folded and nothing begins again; then all is as it was.
        """
        for name in service.names():
            service.damage(name, DAMAGES["zeros"])
        before = [(service.path / "live" / name).read_bytes() for name in service.names()]
        monitor = service.process()

        def refuse(_: object) -> None:
            raise StoreError("store", "cannot be read", "S105")

        with monkeypatch.context() as broken:
            broken.setattr("rfs.monitoring._store.ranges.WindowReader.sampled", refuse)
            lead(monitor)
            assert monitor.query.totals().counters[SEEN] == 2
            assert [(service.path / "live" / name).read_bytes() for name in folded_names(1)] == before
        lead(monitor)

        assert seen(monitor.query) == recorded
        assert any(text.startswith("RFS-S105 ") and "cannot be read" in text for text in said(monitor))
        monitor.stop()
        monitor.capture.close()

    def test_without_a_catalogue(self, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Where no store knows more, nothing is invented: there is what the live files have, and it goes on from there.
        """

        def refuse(*_: object, **__: object) -> None:
            raise StoreError("store", "is of no use", "S120")

        monkeypatch.setattr(LocalStore, "__init__", refuse)
        for name in service.names():
            service.damage(name, DAMAGES["zeros"])
        monitor = service.process()
        lead(monitor)

        assert monitor.query.totals().counters[SEEN] == 2
        measure(monitor, 1)
        lead(monitor)
        assert monitor.query.totals().counters[SEEN] == 3
        assert monitor.query.increase("seen_total", "1h") == 1
        monitor.stop()
        monitor.capture.close()

    def test_in_the_memory_of_a_process(self, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A process that keeps its own windows counts what it knows already once, though it was gone for a while.
        """

        def refuse(*_: object, **__: object) -> None:
            raise StoreError("store", "is of no use", "S120")

        monkeypatch.setattr(LocalStore, "__init__", refuse)
        leader, worker = service.process(), service.process()
        lead(leader)
        measure(leader, 1)
        assert worker.query.increase("seen_total", "1h") == 1
        for name in service.names():
            service.damage(name, DAMAGES["zeros"])

        measure(leader, 1)
        assert worker.query.increase("seen_total", "1h") in (1, 2)
        lead(leader)
        assert worker.query.increase("seen_total", "1h") == 2
        assert worker.query.totals().counters[SEEN] == 9
        for monitor in (worker, leader):
            monitor.stop()
            monitor.capture.close()


REAL = {name: getattr(os, name) for name in CALLS}


def fold(path: Path, clock: VirtualTime) -> None:
    """What a new leader does with what it finds in *path*; only what folding calls is a step."""
    watched = {name: getattr(os, name) for name in CALLS}
    for name, call in REAL.items():
        setattr(os, name, call)
    leader = Service(path, clock).process()._leader
    local = leader._find_store()
    assert local is not None
    assert leader._lease.keep()
    totals = leader.live.read()
    dead = leader.live.take_dead()
    leader.live.pending(1 << 24)
    assert dead
    lacked = local.lacking(totals) if totals.is_short else None
    for name, call in watched.items():
        setattr(os, name, call)
    leader.live.fold(dead, leader._lease, LOST, 0.0, lacked=lacked, is_imported=True)


@pytest.mark.slow  # a process for each step
class TestKilledAtEveryStep:
    @pytest.mark.parametrize(
        ("before", "after"),
        [([], []), ([0], []), ([1], []), ([0, 1], []), ([], [0]), ([], [1])],
        ids=["whole", "copy", "first", "both", "copy after it", "first after it"],
    )
    def test_while_it_folds(
        self, service: Service, recorded: Seen, tmp_path: Path, before: list[int], after: list[int]
    ) -> None:
        """
        Killed before any call that changes a file, and something was damaged *before* or *after*: the next one finds all, once.
        """
        for which in before:
            service.damage(folded_names(1)[which], DAMAGES["tail"])
        states: list[list[str]] = []
        for step in count():
            one = Service(tmp_path / f"{step}", VirtualTime(service.clock.time_ns() / 1e9))
            shutil.copytree(service.path, one.path, copy_function=shutil.copy)

            was_killed = killed_at(step, lambda: fold(one.path, one.clock))  # noqa: B023 - it is called here

            names = sorted(path.name for path in (one.path / "live").glob("totals-*"))
            states.append(names)
            for which in after:
                if folded_names(2)[which] in names:
                    one.damage(folded_names(2)[which], DAMAGES["cut in the body"])
            late = one.process()
            assert seen(late.query) == recorded
            lead(late)
            assert seen(late.query) == recorded
            late.stop()
            late.capture.close()
            shutil.rmtree(one.path)
            if not was_killed:
                break
        old, new = folded_names(1), folded_names(2)
        for there in (old, (*old, new[0]), (*old, *new), new):
            assert sorted(there) in states


class TestOneStore:
    def test_two_threads_that_ask_first(self, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        However many threads ask at once for the first time, the store is opened once.
        """
        monitor = service.process()
        asking, inside, opened = Barrier(2), Barrier(2), list[object]()
        make: Callable[..., None] = LocalStore.__init__

        def opening(store: LocalStore, *arguments: object, **more: object) -> None:
            opened.append(store)
            with suppress(BrokenBarrierError):  # as it should be: the other one is not let in
                inside.wait(0.2)
            make(store, *arguments, **more)

        monkeypatch.setattr(LocalStore, "__init__", opening)
        found: list[object] = []

        def ask() -> None:
            asking.wait()
            found.append(monitor._leader._find_store())

        threads = [Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(opened) == 1
        assert found[0] is found[1]
        monitor.stop()
        monitor.capture.close()
