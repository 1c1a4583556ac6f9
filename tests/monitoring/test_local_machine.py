"""
The whole local store against a plain model: what was measured and recorded, whatever its leaders, its files and its archives go through.

The model of the windows is a list of what happened, with the seconds at which it was written; of the records it is a set.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from datetime import UTC, datetime
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rfs.errors import StaleLeaderError
from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.segments import Mark, Run, Waiting
from rfs.monitoring._store import EVERYTHING, Window
from rfs.monitoring._store.chunks import SEALED_SUFFIX
from rfs.monitoring._store.local import CATALOGUE, LocalReader, LocalStore
from rfs.monitoring._store.retention import CHUNKS
from rfs.monitoring._store.sealing import STORE
from rfs.monitoring._totals import Totals
from rfs.monitoring.archives import archive, restore
from rfs.monitoring.retention import Retention
from tests.faults.processes import names_in, size
from tests.monitoring.chunks import contents, opened, record
from tests.monitoring.led import NOTHING, after
from tests.monitoring.test_records import Process
from tests.monitoring.test_windows import in_memory, sketch

DAY, HOUR = 86_400, 3_600
BEGIN = 1_800_000_000 // DAY * DAY
COUNTERS = [SeriesKey("requests_total", (("n", str(n)),)) for n in range(2)]
WAITS = SeriesKey("wait_seconds", ())
KEPT_SECONDS = 3 * DAY


class Event(NamedTuple):
    """So much of a counter, or so many measurements of the histogram, written at that second."""

    second: int
    key: SeriesKey
    amount: int


class Site(RuleBasedStateMachine):
    """Processes, the store that they have, who leads, and somebody else who reads."""

    @initialize()
    def begin(self) -> None:
        self.folder = in_memory()
        self.target = in_memory() / "archive"
        self.now = BEGIN + 100.0
        self.totals: Totals = NOTHING
        self.processes = [Process(f"{number}-a.0.segment") for number in range(3)]
        self.epoch = 0
        self.said: list[str] = []
        self.is_injured = False
        # The model.
        self.pending: list[tuple[SeriesKey, int]] = []
        self.events: list[Event] = []
        self.seen: set[int] = set()  # hours in which windows were written
        self.records: dict[bytes, int] = {}  # payload → time
        self.may_miss: set[bytes] = set()
        self.archived: tuple[list[Event], set[int], set[bytes]] | None = None
        self.store, self.other = self.opened(), self.opened()
        self.lead(is_first=True)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.other.close()
            shutil.rmtree(self.folder)
            shutil.rmtree(self.target.parent)

    def opened(self) -> LocalStore:
        return LocalStore(
            self.folder,
            retention=Retention(records_seconds=KEPT_SECONDS),
            now_seconds=lambda: self.now,
            monotonic=lambda: self.now,
            on_problem=lambda code, text: self.said.append(f"{code} {text}"),
        )

    def lead(self, *, is_first: bool = False) -> None:
        self.epoch += 1
        self.store.lead(self.epoch, is_first=is_first, has_written=not is_first)
        assert self.store.leads
        self.segments = [process.reader() for process in self.processes]

    def runs(self) -> tuple[list[Run], list[list[Mark]]]:
        found: list[Run] = []
        for one in self.segments:
            found += one.unimported(16 << 20)
        return found, [one.marks() for one in self.segments]

    def keep(self, store: LocalStore) -> None:
        runs, marks = self.runs()
        if store.keep(runs, at_once=True):
            for one, ours in zip(self.segments, marks, strict=True):
                one.mark_imported(marks=ours)

    def reader(self, store: LocalStore) -> LocalReader:
        return store.at(
            self.totals,
            lambda _text: Waiting([run for each in self.processes for run in each.reader().unimported(16 << 20)]),
        )

    # What happens

    @rule(
        counts=st.dictionaries(st.sampled_from(COUNTERS), st.integers(0, 99)),
        measured=st.lists(st.integers(1, 200), max_size=3),
    )
    def measure(self, counts: dict[SeriesKey, int], measured: list[int]) -> None:
        sketches = {WAITS: sketch(*measured)} if measured else {}
        counters = {key: float(amount) for key, amount in counts.items()}
        self.totals = after(self.totals, Window(0, counters, {}, sketches))
        self.pending += [*counts.items(), *([(WAITS, len(measured))] if measured else [])]

    @rule(process=st.integers(0, 2), count=st.integers(1, 4), length=st.sampled_from([1, 1, 20_000]))
    def log(self, process: int, count: int, length: int) -> None:
        for _ in range(count):
            made = record(int(self.now) * 10**9 + len(self.records), message="x" * length + str(len(self.records)))
            if self.processes[process].append(made):
                self.records[made.payload] = made.time_ns

    @rule(step=st.sampled_from([0.3, 1.0, 1.0, 20.0, 60.0, 61.0, HOUR, HOUR, DAY]))
    def wait(self, step: float) -> None:
        self.now += step

    @rule()
    def import_now(self) -> None:
        self.keep(self.store)

    @rule()
    def seal(self) -> None:
        self.keep(self.store)
        self.store.seal()

    @rule()
    def write(self) -> None:
        """The leader's turn: a window, upkeep of the windows, retention of the records."""
        assert self.store.write(self.totals, is_whole=True)
        self.note_written()

    def note_written(self) -> None:
        self.events += [Event(int(self.now), *one) for one in self.pending]
        self.pending = []
        self.seen.add(int(self.now) // HOUR)
        self.forget_old()

    def forget_old(self) -> None:
        oldest = (self.now - KEPT_SECONDS) * 1e9
        self.may_miss |= {payload for payload, time_ns in self.records.items() if time_ns < oldest}

    @rule()
    def another_leads(self) -> None:
        """The one that led was only stopped, and goes on."""
        old, self.store = self.store, self.opened()
        self.lead()
        self.write()
        with suppress(StaleLeaderError):
            assert not old.write(self.totals, is_whole=True)
        self.keep(self.store)
        self.keep(old)
        old.close()

    @rule()
    def kill(self) -> None:
        """What is in the files at this moment is what a killed leader leaves."""
        copy = in_memory()
        shutil.copytree(self.folder, copy, dirs_exist_ok=True)
        self.store.close()
        self.other.close()
        shutil.rmtree(self.folder)
        self.folder = copy
        self.store, self.other = self.opened(), self.opened()
        self.lead()

    @rule()
    def reopen(self) -> None:
        self.other.close()
        self.other = self.opened()

    @precondition(lambda self: self.archived is None)
    @rule(days=st.integers(0, 2), delete=st.booleans())
    def put_aside(self, days: int, delete: bool) -> None:
        before = self.now // DAY * DAY - days * DAY
        missing = self.missing()
        manifest = archive(
            self.folder / STORE,
            self.target,
            before=datetime.fromtimestamp(before, UTC),
            delete=delete,
            now=lambda: self.now,
        )
        until = manifest.windows_until
        self.archived = (
            [event for event in self.events if event.second < until],
            {hour for hour in self.seen if hour * HOUR < until},
            missing,
        )
        if delete:
            self.events = [event for event in self.events if event.second >= until]
            self.seen = {hour for hour in self.seen if hour * HOUR >= until}
            self.may_miss |= {payload for payload, time_ns in self.records.items() if time_ns < before * 1e9}
        else:
            self.archived = None
            shutil.rmtree(self.target)

    @precondition(lambda self: self.archived is not None)
    @rule()
    def bring_back(self) -> None:
        assert self.archived is not None
        events, seen, missing = self.archived
        restore(self.target, self.folder / STORE)
        self.events = [*events, *self.events]
        self.seen |= seen
        if not self.is_injured:
            assert self.missing() <= missing
        self.archived = None
        shutil.rmtree(self.target)

    @rule(seed=st.integers(0, 1 << 20))
    def injure_chunk(self, seed: int) -> None:
        """A byte of a sealed chunk changes."""
        chance, chunks = Random(seed), self.folder / STORE / CHUNKS
        sealed = [name for name in names_in(chunks) if name.endswith(SEALED_SUFFIX)]
        if not sealed:
            return
        name = chance.choice(sealed)
        with opened(chunks) as directory, suppress(Exception):
            self.may_miss |= {frame.payload for frame in contents(directory, name)}
        content = bytearray((chunks / name).read_bytes())
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        (chunks / name).write_bytes(content)
        self.is_injured = True
        self.reopen()

    @rule()
    def injure_catalogue(self) -> None:
        """Its log and its first page are gone. The next leader sets it aside and takes what the live files have for known."""
        self.write()
        self.other.close()
        self.store.close()
        path = self.folder / STORE / CATALOGUE
        path.with_name(f"{CATALOGUE}-wal").unlink(missing_ok=True)
        content = path.read_bytes()
        path.write_bytes(bytes(4_096) + content[4_096:])
        self.store, self.said = self.opened(), []
        self.lead()
        assert "S110" in "".join(self.said)
        self.events, self.seen, self.is_injured = [], set(), True
        self.write()
        self.other = self.opened()

    # What readers are told

    def missing(self) -> set[bytes]:
        found = [one.frame.payload for one in self.reader(self.other).records(EVERYTHING, limit=100_000)]
        assert len(found) == len(set(found))
        assert set(found) <= self.records.keys()
        return self.records.keys() - set(found)

    @invariant()
    def every_record_once(self) -> None:
        if not hasattr(self, "store"):
            return
        self.forget_old()
        assert self.missing() <= self.may_miss
        assert self.is_injured or not self.said

    @invariant()
    def every_measurement_once(self) -> None:
        if not hasattr(self, "store"):
            return
        reader = self.reader(self.other)
        happened = [*self.events, *(Event(int(self.now), *one) for one in self.pending)]
        known = {*self.totals.counters, *self.totals.sketches}
        end = self.now + 1
        for key, increase in zip(COUNTERS, reader.increases(COUNTERS, BEGIN, end), strict=True):
            expected = sum(event.amount for event in happened if event.key == key)
            assert increase == (expected if key in known else None)
        (waits,) = reader.sketches([WAITS], BEGIN, end)
        assert (waits and waits.count) == (
            sum(event.amount for event in happened if event.key == WAITS) if WAITS in known else None
        )
        last = int(self.now) // HOUR
        keys = [*COUNTERS, WAITS]
        for key, points in zip(keys, reader.points(keys, BEGIN, (last + 1) * HOUR, HOUR), strict=True):
            sums: dict[int, int] = {}
            for event in happened:
                if event.key == key:
                    sums[event.second // HOUR] = sums.get(event.second // HOUR, 0) + event.amount
            for hour, found in enumerate(points, BEGIN // HOUR):
                is_seen = (hour in self.seen or hour == last) and key in known
                assert found == (sums.get(hour, 0) if is_seen else None), (key, hour)


Site.TestCase.settings = settings(
    max_examples=size(whole=20_000, small=300),
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.slow  # hundreds of lives of a store
class TestSite(Site.TestCase):  # type: ignore[misc, valid-type]
    """The state machine, run."""
