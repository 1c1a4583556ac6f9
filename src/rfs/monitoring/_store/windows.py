"""
Windows in a catalogue: how the seconds of a service become days of history.

Each window is first one row of the journal, with all that changed. When a minute is over, its rows become blocks of three tiers
(slots of 1 s, 10 s, and 1 min), one per group of series; when an hour is over, the blocks of its minutes become one, and the slots
of an hour are added up; days likewise. Each step is one transaction, so at any instant every increment is in each tier once,
or still in the journal. Windows that come late, because a clock was set back, become further blocks of the same time: what is in
several blocks adds up, and of a gauge the one that was written last counts.

Beside what a series came to, its *lifetime*, stands which total of the live files is counted in it: *sampled*. `WindowWriter.write`
writes what the live totals have beyond that, and what it wrote is sampled from then on, in one transaction: so it counts each
increment once, whoever leads, and whoever reads knows exactly what is not yet in the database. The two are the same but for series
that began again at zero in the live files, or whose database was begun anew beside them: then a row of the journal says from
which total sampled goes on.

A tier is whole from its *cut* on: older blocks have been let go, and blocks of before are not written. A counter's
or histogram's lifetime total, and a gauge's last value, change in the step that makes blocks of the journal, and stay when blocks go.

Group 3 has one series: how many windows each slot saw. Where it has none, nothing is known.
"""

from __future__ import annotations

import sqlite3
from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import compress
from math import isfinite, nan
from operator import sub
from threading import Lock
from time import monotonic
from typing import Any, NamedTuple, TypeVar

import msgspec

from rfs.monitoring._capture.cells import Labels, SeriesKey
from rfs.monitoring._capture.pace import breathe, pieces
from rfs.monitoring._capture.readings import NOTHING_READ, SketchReading
from rfs.monitoring._capture.sketch import Sketch
from rfs.monitoring._store import Window
from rfs.monitoring._store.blocks import (
    BlockError,
    Codec,
    Measured,
    SketchBlock,
    ValueBlock,
    beyond,
    count_of,
    measured,
    pack_sketches,
    pack_values,
    sketch_of,
    together,
)
from rfs.monitoring._store.catalogue import Catalogue
from rfs.monitoring._totals import Totals
from rfs.monitoring.retention import Retention

COUNTER, GAUGE, HISTOGRAM, SEEN = range(4)  # a group's number says its kind in the lowest two bits
SEEN_GROUP = SEEN
GROUP_SLOTS = 64  # in the numbering; so many series of values are in a group
_SKETCHES = 16  # of histograms only so many, because each is as large as many counters
MAX_SERIES = 50_000

MINUTE, HOUR, DAY = 60, 3_600, 86_400
WIDTHS = (1, 10, MINUTE, HOUR)  # seconds per slot of each tier
# The longest block of each tier. Its cut is a multiple of it, so that no block straddles one.
BLOCK_SPANS: dict[int, int] = {1: MINUTE, 10: HOUR, MINUTE: HOUR, HOUR: DAY}
_MAX_LOST_SHARE = 0.1  # of a tier per minute: a clock that is years ahead for a moment must not empty the store
NEVER = 1 << 62
_SIZE_STEPS = 10  # per minute, of an hour or a day each
_WRITE_TOTALS = "INSERT OR REPLACE INTO totals VALUES (?, ?)"
_NAMES_CHANGED = "UPDATE meta SET value = value + 1 WHERE name = 'names'"
_INSERT_BLOCK = "INSERT INTO blocks (width, grp, start, span, payload) VALUES (?, ?, ?, ?, ?)"


_Value = TypeVar("_Value")
Amount = float | Measured  # of a histogram 0.0 stands for: nothing was measured
UNKNOWN = nan  # of what is sampled: its row was damaged


class _Row(msgspec.Struct, array_like=True):
    """A window in the journal: ids and values of what changed, and first, from which totals sampled goes on."""

    counters: bytes
    increases: bytes
    gauges: bytes
    values: bytes
    sketches: list[tuple[int, Measured]]
    bases: dict[int, Amount]
    is_sampled: bool  # else what it has is not of the live totals


class Journaled(NamedTuple):
    """A row of the journal, read."""

    second: int
    counters: Mapping[int, float]
    gauges: Mapping[int, float]
    sketches: Mapping[int, Measured]
    bases: Mapping[int, Amount]
    is_sampled: bool


class Total(NamedTuple):
    """What is kept of a series for good."""

    second: int  # of the last change
    amount: Amount  # in all; of a gauge its value
    sampled: Amount | None = None  # None: the same


class Change(NamedTuple):
    """What rows of the journal add to a `Total`."""

    second: int
    amount: Amount
    base: Amount | None = None  # from which sampled goes on, if not from what it was
    sampled: Amount | None = None  # by how much it then grows; None: by amount


_encode_row = msgspec.msgpack.Encoder().encode
_decode_row = msgspec.msgpack.Decoder(_Row).decode
_encode_totals = msgspec.msgpack.Encoder().encode
_decode_totals = msgspec.msgpack.Decoder(dict[int, Total]).decode
_encode_labels = msgspec.json.Encoder().encode
decode_labels = msgspec.json.Decoder(Labels).decode

ValuesById = dict[int, dict[int, float]]  # id → time → value
SketchesById = dict[int, dict[int, list[Measured]]]  # id → time → what was measured then
_Block = tuple[int, int, int, int, bytes]  # width, group, start, span, payload


def labels_text(labels: Labels) -> str:
    return _encode_labels(labels).decode()


def _doubles(content: bytes) -> array[float]:
    doubles = array("d")
    doubles.frombytes(content)
    return doubles


def read_row(second: int, content: bytes) -> Journaled:
    try:
        row = _decode_row(content)
        return Journaled(
            second,
            dict(zip(_ids(row.counters), _doubles(row.increases), strict=True)),
            dict(zip(_ids(row.gauges), _doubles(row.values), strict=True)),
            dict(row.sketches),
            row.bases,
            row.is_sampled,
        )
    except (msgspec.DecodeError, ValueError) as error:
        raise BlockError(str(error)) from error


def _ids(content: bytes) -> array[int]:
    ids = array("I")
    ids.frombytes(content)
    return ids


class WindowWriter:
    """
    Writes windows into *catalogue*, and keeps them small.

    Args:
        on_problem: Told the code and the text of what is damaged and left out (``S113``), or refused (``S115``: too many series).

    Safe from any thread.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        on_problem: Callable[[str, str], None],
        retention: Retention | None = None,
        max_series: int = MAX_SERIES,
    ) -> None:
        self._catalogue = catalogue
        self._on_problem = on_problem
        self._retention = retention or Retention()
        self._max_series = max_series
        self._put_codec, self._codec = Codec(), Codec()
        self._upkeep = Lock()
        self._work: Iterator[None] | None = None
        self.refused = 0  # measurements of series that were too many
        self.damaged = 0  # rows and blocks that were left out
        self._generation = -1
        # Of the series that the last live totals had, and that are not at zero: up to which total each is counted.
        self._counted: dict[SeriesKey, float] = {}
        self._read: dict[SeriesKey, SketchReading | Amount] = {}
        self._gauges: dict[SeriesKey, float] = {}
        self._pending = _Sampled({}, {}, {}, [])  # what becomes of them with the commit
        self._columns: _Columns | None = None  # of `_counted`, if they are known and all of it
        self._loaded = -1  # of which generation they are; -1: to be read again

    # What of the database is remembered; only within a turn

    def _remember(self, turn: sqlite3.Connection) -> None:
        if self._generation == self._catalogue.generation:
            return
        self._columns = None
        self._known: tuple[dict[SeriesKey, int], ...] = ({}, {}, {})
        self._slots: dict[int, set[int]] = {}  # group → the slots that are taken
        self._last_group: dict[tuple[int, str], int] = {}
        for some in pieces(turn.execute("SELECT id, name, labels, kind FROM series ORDER BY id"), 200):
            for number, name, labels, kind in some:
                group, slot = divmod(number, GROUP_SLOTS)
                self._slots.setdefault(group, set()).add(slot)
                try:
                    if kind != group % 4 or kind == SEEN:
                        raise BlockError("is of an impossible kind")
                    self._note(number, SeriesKey(name, decode_labels(labels)), kind)
                except (msgspec.DecodeError, BlockError) as error:
                    self._leave_out(f"a series of {name}", error)
        self._cuts: dict[int, int] = dict.fromkeys(WIDTHS, 0)
        self._cuts.update(turn.execute("SELECT width, second FROM cuts").fetchall())
        self._swept: dict[int, int] = {}  # tier → up to which cut its blocks are gone
        (full,) = turn.execute("SELECT value FROM meta WHERE name = 'full'").fetchone() or (0,)
        self._is_full = bool(full)
        newest = turn.execute("SELECT second FROM journal ORDER BY id DESC LIMIT 1").fetchone()
        self._newest: int = newest[0] if newest is not None else 0
        self._merged_until = 0  # all before this second has its final blocks
        self._kept_minute = self._retired_hour = -1
        self._generation = self._catalogue.generation

    def _note(self, number: int, key: SeriesKey, kind: int) -> None:
        group, slot = divmod(number, GROUP_SLOTS)
        self._known[kind][key] = number
        self._slots.setdefault(group, set()).add(slot)
        self._last_group[kind, key.name] = group

    def _intern(self, turn: sqlite3.Connection, key: SeriesKey, kind: int) -> int:
        """The number that *key* has from now on; -1 if there are too many series."""
        if sum(map(len, self._known)) >= self._max_series:
            if not self.refused:
                self._on_problem(
                    "S115", f"{self._max_series} series are kept; of {key.name} and others no more are taken"
                )
            self.refused += 1
            if not self._is_full:
                self._is_full = True
                turn.execute("UPDATE meta SET value = 1 WHERE name = 'full'")
            return -1
        # Series of one metric are asked for together, so they stand together.
        room = _SKETCHES if kind == HISTOGRAM else GROUP_SLOTS
        group = self._last_group.get((kind, key.name))
        if group is None or len(self._slots[group]) >= room:
            group = next(
                (one for one in reversed(self._slots) if one % 4 == kind and len(self._slots[one]) < room),
                4 * max((one // 4 + 1 for one in self._slots), default=0) + kind,
            )
        taken = self._slots.get(group, ())
        slot = next(slot for slot in range(room) if slot not in taken)
        number = group * GROUP_SLOTS + slot
        labels = labels_text(key.labels)
        turn.execute("INSERT INTO series VALUES (?, ?, ?, ?)", (number, key.name, labels, kind))
        turn.execute(_NAMES_CHANGED)
        retired = turn.execute(
            "DELETE FROM retired WHERE name = ? AND labels = ? AND kind = ? RETURNING payload", (key.name, labels, kind)
        ).fetchall()
        for (payload,) in retired:  # it goes on from where it was
            try:
                (total,) = decoded_totals(self._put_codec, payload).values()
            except (BlockError, ValueError) as error:
                self._leave_out(f"the lifetime total of {key.name}", error)
                continue
            totals = self._get_totals(turn, self._put_codec, group)
            totals[slot] = total
            turn.execute(_WRITE_TOTALS, (group, self._put_codec.pack(_encode_totals(totals))))
        self._note(number, key, kind)
        return number

    # One window

    def put(self, turn: sqlite3.Connection, window: Window) -> None:
        """Keep *window*, which somebody else has closed, within a turn of the catalogue. It says nothing of what is sampled."""
        self._remember(turn)
        self._put(turn, window, {}, is_sampled=False)

    def _put(
        self,
        turn: sqlite3.Connection,
        window: Window,
        bases: dict[int, Amount],
        *,
        is_sampled: bool,
        increases: tuple[bytes, bytes] | None = None,
    ) -> None:
        increases = increases or self._numbered(turn, window.counters, COUNTER)
        values = self._numbered(turn, window.gauges, GAUGE)
        sketches: list[tuple[int, Measured]] = []
        for some in pieces(_by_metric(window.sketches, self._known[HISTOGRAM]), 25):
            for key, sketch in some:
                number = self._number(turn, key, HISTOGRAM)
                if number >= 0 and sketch.count:
                    sketches.append((number, measured(sketch)))
        payload = self._put_codec.pack(_encode_row(_Row(*increases, *values, sketches, bases, is_sampled)))
        turn.execute("INSERT INTO journal (second, payload) VALUES (?, ?)", (window.second, payload))
        self._newest = window.second

    def _number(self, turn: sqlite3.Connection, key: SeriesKey, kind: int) -> int:
        number = self._known[kind].get(key)
        return self._intern(turn, key, kind) if number is None else number

    def _numbered(self, turn: sqlite3.Connection, values: Mapping[SeriesKey, float], kind: int) -> tuple[bytes, bytes]:
        known = self._known[kind]
        numbers, found = array("I"), array("d")
        for some in pieces(_by_metric(values, known), 200):
            for key, value in some:
                number = known.get(key)
                if number is None:
                    number = self._intern(turn, key, kind)
                elif not value and kind == COUNTER:
                    continue  # a counter at 0 is known, and there is no more to say
                if number >= 0:
                    numbers.append(number)
                    found.append(value)
        return numbers.tobytes(), found.tobytes()

    # What the live totals have beyond what is sampled

    def write(
        self, turn: sqlite3.Connection, totals: Totals, second: int, *, adopt: bool = False, whole: bool = True
    ) -> Window:
        """
        Write the window of *totals*, within a turn of the catalogue: what they have beyond what is counted already.

        What has fallen, or is not there any more, began again at zero.

        Args:
            second: When *totals* were read. It stands still while a clock is set back by up to a minute.
            adopt:
                What *totals* have was measured before, if the catalogue has nothing yet and this writer has written nothing: it did
                not happen now. (A catalogue that is begun anew under a writer goes on from what that has written.)
            whole: False if some live files could not be read: then nothing is taken to have begun again.
        """
        self._remember(turn)
        anew = self._settle(turn, totals, adopt=adopt)
        if self._newest - MINUTE <= second < self._newest:
            second = self._newest
        window, bases = Window(second), dict[tuple[int, SeriesKey], Amount]()
        self._pending = pending = _Sampled({}, {}, {}, [])
        increases = self._count_columns(totals.counters, window)
        if increases is None:
            self._columns = None
            self._count(turn, totals.counters, window, bases, anew=anew, whole=whole)
        self._count_sketches(turn, totals.sketches, window, bases, anew=anew, whole=whole)
        for key, value in totals.gauges.items():
            if self._gauges.get(key) != value:
                window.gauges[key] = pending.gauges[key] = value
        pending.gone.extend((self._gauges, key) for key in self._gauges if key not in totals.gauges)
        numbered = {self._number(turn, key, kind): base for (kind, key), base in bases.items()}
        numbered.pop(-1, None)
        self._catalogue.when_committed(lambda: self._commit(totals.counters))
        self._put(turn, window, numbered, is_sampled=True, increases=increases)
        return window

    def _count_columns(self, totals: Mapping[SeriesKey, float], window: Window) -> tuple[bytes, bytes] | None:
        """
        The numbers and the increases of what has moved, if all counters are those of the last time and none has fallen, which is so
        nearly always; else None. No line of Python is run for each of them.
        """
        columns = self._columns
        if columns is None or len(columns.keys) != len(self._counted) or list(totals) != columns.keys:
            return None
        increases = array("d", map(sub, totals.values(), columns.values))
        breathe()
        if not isfinite(sum(increases)) or min(increases, default=0.0) < 0.0:
            return None
        moved = array("d", filter(None, increases))
        window.counters = dict(zip(compress(columns.keys, increases), moved, strict=True))
        self._pending.counted.update(totals)
        breathe()
        return array("I", compress(columns.numbers, increases)).tobytes(), moved.tobytes()

    def _count(
        self,
        turn: sqlite3.Connection,
        totals: Mapping[SeriesKey, float],
        window: Window,
        bases: dict[tuple[int, SeriesKey], Amount],
        *,
        anew: bool,
        whole: bool,
    ) -> None:
        counted, pending = self._counted, self._pending.counted
        met = 0
        for some in pieces(totals.items(), 200):
            for key, value in some:
                old = counted.get(key)
                if old is None:
                    if not self._is_full or key in self._known[COUNTER]:
                        window.counters[key] = pending[key] = value  # a counter at 0 is known, too
                    elif self._intern(turn, key, COUNTER) >= 0:
                        bases[COUNTER, key] = pending[key] = value  # it was refused till now
                    continue
                met += 1
                if anew:
                    bases[COUNTER, key] = old
                if value == old:
                    continue
                if value > old:
                    window.counters[key] = value - old
                elif value < old:
                    if not whole or is_residue(value - old, old):
                        continue
                    bases[COUNTER, key] = 0.0
                    window.counters[key] = value
                else:
                    bases[COUNTER, key] = value
                pending[key] = value
        if whole and met < len(counted):
            for key in counted.keys() - totals.keys():
                self._pending.gone.append((counted, key))
                if key in self._known[COUNTER]:
                    bases[COUNTER, key] = 0.0

    def _count_sketches(
        self,
        turn: sqlite3.Connection,
        totals: Mapping[SeriesKey, SketchReading],
        window: Window,
        bases: dict[tuple[int, SeriesKey], Amount],
        *,
        anew: bool,
        whole: bool,
    ) -> None:
        read, pending = self._read, self._pending.read
        met = 0
        for some in pieces(totals.items(), 25):
            for key, reading in some:
                old = read.get(key)
                met += old is not None
                if old is None and self._is_full and key not in self._known[HISTOGRAM]:
                    if self._intern(turn, key, HISTOGRAM) >= 0:
                        bases[HISTOGRAM, key] = _amount(reading)
                        pending[key] = reading
                    continue
                if anew and old is not None:
                    bases[HISTOGRAM, key] = _amount(old)
                if old is reading:
                    continue
                if isinstance(old, float) and old != 0.0:  # not known
                    bases[HISTOGRAM, key] = _amount(reading)
                    pending[key] = reading
                    continue
                sketch, total = _beyond(reading, old)
                if sketch is None:
                    if not whole:
                        continue
                    bases[HISTOGRAM, key] = 0.0
                    sketch, total = _beyond(reading, None)
                    assert sketch is not None  # noqa: S101 - from nothing on nothing can fall
                if sketch.count:
                    window.sketches[key] = sketch
                elif total:
                    continue  # of a measurement that is under way
                pending[key] = reading
        if whole and met < len(read):
            for key in read.keys() - totals.keys():
                self._pending.gone.append((read, key))
                if key in self._known[HISTOGRAM]:
                    bases[HISTOGRAM, key] = 0.0

    def _settle(self, turn: sqlite3.Connection, totals: Totals, *, adopt: bool) -> bool:
        """Know what is sampled; True if the database does not know it, because it is begun anew."""
        if self._loaded == self._catalogue.generation:
            return False
        self._columns = None
        has_led = bool(self._counted or self._read)
        (is_used,) = turn.execute("SELECT EXISTS (SELECT 1 FROM series) OR EXISTS (SELECT 1 FROM retired)").fetchone()
        self._gauges = {}
        if is_used:
            self._load(turn)
        elif adopt and not has_led:
            self._counted = {key: value for key, value in totals.counters.items() if value}
            self._read = {key: reading for key, reading in totals.sketches.items() if count_of(reading)}
        self._loaded = self._catalogue.generation
        return not is_used

    def _commit(self, totals: Mapping[SeriesKey, float]) -> None:
        """The turn of the last `write`, of these *totals* of counters, was committed."""
        pending = self._pending
        self._counted.update(pending.counted)
        self._read.update(pending.read)
        self._gauges.update(pending.gauges)
        for known, key in pending.gone:
            known.pop(key, None)
        self._columns = self._columns_of(totals)

    def _columns_of(self, totals: Mapping[SeriesKey, float]) -> _Columns | None:
        values = array("d", totals.values())
        if self._columns is not None:
            return self._columns._replace(values=values)
        if self._is_full:
            return None
        known, counted = self._known[COUNTER], self._counted
        numbers = array("I")
        for some in pieces(totals.items(), 200):
            if not all(key in known and counted.get(key) == value for key, value in some):
                return None  # a fraction that has fallen by a rounding error, or what is no number
            numbers.extend([known[key] for key, _ in some])
        return _Columns(list(totals), values, numbers)

    def _load(self, turn: sqlite3.Connection) -> None:
        """Read from the database what is sampled, and the last values of gauges."""
        sampled: dict[int, Amount] = {}
        for group, payload in turn.execute("SELECT grp, payload FROM totals"):
            breathe()
            for slot, total in self._read_totals(self._put_codec, payload, group).items():
                sampled[group * GROUP_SLOTS + slot] = total.amount if total.sampled is None else total.sampled
        for second, payload in turn.execute("SELECT second, payload FROM journal ORDER BY id"):
            breathe()
            with suppress(BlockError):  # `_compact` says so
                row = read_row(second, self._put_codec.unpack(payload))
                sampled.update(row.gauges)
                apply(sampled, row)
        counted, gauges, read = (
            {key: amount for key, number in self._known[kind].items() if (amount := sampled.get(number, 0.0)) != 0.0}
            for kind in (COUNTER, GAUGE, HISTOGRAM)
        )
        self._counted = {key: amount for key, amount in counted.items() if isinstance(amount, float)}
        self._gauges = {key: amount for key, amount in gauges.items() if isinstance(amount, float)}
        self._read = dict(read)

    # Upkeep

    def maintain(self, seconds: float = 0.1) -> bool:
        """
        Make blocks of what is over, let go what is too old, and bring all into the database file.

        To be called once a second. It ends after about so many *seconds*, or at once if nothing is to be done; returns whether all is
        done.

        Raises:
            StaleLeaderError: Another process leads by now.
            StoreError: It could not be done now. Nothing is lost.
        """
        if not self._upkeep.acquire(blocking=False):
            return False
        work, self._work = self._work or self._steps(), None
        try:
            deadline = monotonic() + seconds
            for _ in work:
                breathe()
                if monotonic() > deadline:
                    self._work = work  # to be gone on with: begun anew each time it might never end
                    return False
            return True
        finally:
            self._upkeep.release()

    def _steps(self) -> Iterator[None]:
        with self._catalogue.turn() as turn:
            self._remember(turn)
            reached = turn.execute("SELECT second FROM journal ORDER BY id DESC LIMIT 1").fetchone()
            minutes = [minute for (minute,) in turn.execute("SELECT DISTINCT second / 60 FROM journal")]
        if reached is None:
            return
        now: int = reached[0]
        # By what has been written, and not by the clock, which may be set: a minute is over when a row of another one has come.
        for minute in minutes:
            if minute != now // MINUTE:
                self._compact(minute * MINUTE)
                yield
        closed = now - now % HOUR
        if closed != self._merged_until:
            for work in self._unmerged(now):
                self._merge(*work)
                yield
            self._merged_until = closed
        if now // MINUTE != self._kept_minute:
            for _ in self._let_go(now):
                yield
            if now // HOUR != self._retired_hour:
                self._retire()
                self._retired_hour = now // HOUR
                yield
            self._catalogue.checkpoint()
            self._kept_minute = now // MINUTE
            yield

    def _compact(self, start: int) -> None:
        """Make blocks of the journal's rows of the minute that begins at *start*."""
        with self._catalogue.turn() as turn:
            self._remember(turn)
            generation = self._generation
            rows = turn.execute(
                "SELECT id, second, payload FROM journal WHERE second >= ? AND second < ? ORDER BY id",
                (start, start + MINUTE),
            ).fetchall()
            widths = [width for width in WIDTHS[:3] if start >= self._cuts[width]]
            hour = start - start % HOUR
            with_hours = MINUTE not in widths and hour >= self._cuts[HOUR]  # else they are made of the minutes
        if not rows:
            return
        values: ValuesById = {}
        sketches: SketchesById = {}
        read: list[Journaled] = []
        seen = values.setdefault(SEEN_GROUP * GROUP_SLOTS, {})
        for _, second, payload in rows:
            breathe()
            try:
                row = read_row(second, self._codec.unpack(payload))
            except BlockError as error:
                self._leave_out(f"second {second} of the journal", error)
                self._loaded = -1  # what it had is not sampled: the next window has it
                continue
            seen[second] = seen.get(second, 0.0) + 1.0
            add_row(values, sketches, row)
            read.append(row)
        if not seen:
            del values[SEEN_GROUP * GROUP_SLOTS]
        blocks: list[_Block] = []
        of_tier, sketches_of_tier = values, sketches
        for width in WIDTHS[:3]:  # each is made of the one before: that is much less to add up
            of_tier, sketches_of_tier = _widened(of_tier, sketches_of_tier, width)
            if width in widths:
                blocks += self._blocks(of_tier, sketches_of_tier, width, start, MINUTE)
        if with_hours:
            blocks += self._blocks(of_tier, sketches_of_tier, HOUR, hour, HOUR)
        for number, parts in sketches.items():  # as one, as of the last second: more is not asked for
            (whole,) = sketches_of_tier[number][start]
            total = sum(part.sum for some in parts.values() for part in some)
            sketches_of_tier[number] = {max(parts): [whole._replace(sum=total)]}
            breathe()
        with self._catalogue.turn() as turn:
            if self._catalogue.generation != generation:
                return  # it is another database by now
            turn.executemany(_INSERT_BLOCK, blocks)
            for group, changes in changes_of(values, sketches_of_tier, read).items():
                self._put_totals(turn, self._codec, group, changes)
            turn.execute(
                "DELETE FROM journal WHERE second >= ? AND second < ? AND id <= ?", (start, start + MINUTE, rows[-1][0])
            )
        if start < self._merged_until:
            self._merged_until = 0  # it came late

    def _blocks(
        self, values: ValuesById, sketches: SketchesById, width: int, start: int, span: int
    ) -> Iterator[_Block]:
        """Blocks of all these points, in slots of *width* seconds."""
        by_group: dict[int, dict[int, tuple[list[int], list[float]]]] = {}
        for number, points in values.items():
            group, slot = divmod(number, GROUP_SLOTS)
            by_group.setdefault(group, {})[slot] = _rolled(points, width, is_gauge=group % 4 == GAUGE)
            breathe()
        for group, series in by_group.items():
            yield width, group, start, span, self._codec.pack(pack_values(series, width))
            breathe()
        of_group: dict[int, dict[int, tuple[list[int], list[Measured]]]] = {}
        for number, parts in sketches.items():
            group, slot = divmod(number, GROUP_SLOTS)
            of_group.setdefault(group, {})[slot] = _rolled_sketches(parts, width)
            breathe()
        for group, histograms in of_group.items():
            yield width, group, start, span, self._codec.pack(pack_sketches(histograms, width))
            breathe()

    def _unmerged(self, now: int) -> list[tuple[int, int, int, int]]:
        """Width, group, start and span of the blocks that are to be made of smaller ones."""
        with self._catalogue.turn() as turn:
            found: list[tuple[int, int, int, int]] = []
            for width, span, whole in ((10, MINUTE, HOUR), (MINUTE, MINUTE, HOUR), (HOUR, HOUR, DAY)):
                found += turn.execute(
                    "SELECT DISTINCT width, grp, start - start % ?, ? FROM blocks"
                    " WHERE width = ? AND span = ? AND start < ?",
                    (whole, whole, width, span, now - now % whole),
                ).fetchall()
        return found

    def _merge(self, width: int, group: int, start: int, span: int) -> None:
        """Make one block of those of a tier and a group within *span* seconds from *start*."""
        with self._catalogue.turn() as turn:
            self._remember(turn)
            generation = self._generation
            rows = turn.execute(
                "SELECT id, span, payload FROM blocks WHERE width = ? AND grp = ? AND start >= ? AND start < ? ORDER BY id",
                (width, group, start, start + span),
            ).fetchall()
            with_hours = width == MINUTE and start >= self._cuts[HOUR]
        values: ValuesById = {}
        sketches: SketchesById = {}
        new_values: ValuesById = {}
        new_sketches: SketchesById = {}
        for _, part_span, payload in rows:
            breathe()
            is_new = part_span == MINUTE
            try:
                if group % 4 == HISTOGRAM:
                    block = SketchBlock(self._codec.unpack(payload), width)
                    _add_sketches(sketches, block, group)
                    if is_new and with_hours:
                        _add_sketches(new_sketches, block, group)
                else:
                    _add_values(values, ValueBlock(self._codec.unpack(payload), width), group)
                    if is_new and with_hours:
                        _add_values(new_values, ValueBlock(self._codec.unpack(payload), width), group)
            except BlockError as error:
                self._leave_out(f"a block of {width} s from {start}", error)
        blocks = list(self._blocks(values, sketches, width, start, span))
        if with_hours:
            blocks += self._blocks(new_values, new_sketches, HOUR, start, HOUR)
        with self._catalogue.turn() as turn:
            if self._catalogue.generation != generation:
                return
            turn.executemany("DELETE FROM blocks WHERE id = ?", [row[:1] for row in rows])
            turn.executemany(_INSERT_BLOCK, blocks)

    def _leave_out(self, what: str, error: Exception) -> None:
        self.damaged += 1
        self._on_problem("S113", f"{what} is damaged and left out: {error}")

    # Lifetime totals: of each group one row

    def _get_totals(self, turn: sqlite3.Connection, codec: Codec, group: int) -> dict[int, Total]:
        found = turn.execute("SELECT payload FROM totals WHERE grp = ?", (group,)).fetchone()
        return self._read_totals(codec, found[0], group) if found is not None else {}

    def _read_totals(self, codec: Codec, payload: bytes, group: int) -> dict[int, Total]:
        try:
            return decoded_totals(codec, payload)
        except BlockError as error:
            self._leave_out("a row of lifetime totals", error)
            self._loaded = -1
            if group % 4 == GAUGE:
                return {}
            return {slot: Total(self._newest, 0.0, UNKNOWN) for slot in self._slots.get(group, ())}

    def _put_totals(self, turn: sqlite3.Connection, codec: Codec, group: int, changes: Mapping[int, Change]) -> None:
        totals = self._get_totals(turn, codec, group)
        for slot, change in changes.items():
            totals[slot] = with_change(totals.get(slot), change, is_gauge=group % 4 == GAUGE)
        turn.execute(_WRITE_TOTALS, (group, codec.pack(_encode_totals(totals))))
        breathe()

    # Retention

    def _let_go(self, now: int) -> Iterator[None]:
        with self._catalogue.turn() as turn:
            self._remember(turn)
            for width in WIDTHS:
                target = min(int(now - self._retention.age(width)), now - now % BLOCK_SPANS[width])
                self._raise_cut(turn, width, _allowed(_starts(turn, width), target))
        for width in WIDTHS:
            yield from self._sweep(width)
        for _ in range(_SIZE_STEPS):
            if self._catalogue.used_bytes() <= self._retention.windows_bytes:
                break
            yield from self._let_go_oldest(now)

    def _let_go_oldest(self, now: int) -> Iterator[None]:
        """Let go the oldest blocks of the largest tier."""
        with self._catalogue.turn() as turn:
            self._remember(turn)
            sizes = turn.execute("SELECT width, sum(length(payload)) FROM blocks GROUP BY width ORDER BY 2 DESC")
            for width, _ in sizes.fetchall():
                starts = _starts(turn, width)
                step = BLOCK_SPANS[width]
                # The block that is being written to stays.
                if starts and (target := starts[0] - starts[0] % step + step) <= now - now % HOUR:
                    self._raise_cut(turn, width, target)
                    break
        for width in WIDTHS:
            yield from self._sweep(width)

    def make_room(self) -> None:
        """
        Let go the oldest blocks of the largest tier, old or not, so that the file has room in it for what comes next.

        For a full disk (``S102``), when `RecordRetention.make_room` could make no room, or too little. Raises what `maintain` raises.
        """
        with self._upkeep:
            with self._catalogue.turn() as turn:
                (now,) = turn.execute(
                    "SELECT coalesce(max(start), 0) FROM blocks WHERE grp = ?", (SEEN_GROUP,)
                ).fetchone()
            for _ in self._let_go_oldest(now):
                breathe()
            self._catalogue.checkpoint()

    def _raise_cut(self, turn: sqlite3.Connection, width: int, second: int) -> None:
        """Keep of this tier, and so of all finer ones, nothing of before *second* any more."""
        second -= second % BLOCK_SPANS[width]
        for finer in WIDTHS[: WIDTHS.index(width) + 1]:
            if self._cuts[finer] < second:
                self._cuts[finer] = second
                turn.execute("INSERT OR REPLACE INTO cuts VALUES (?, ?)", (finer, second))

    def _sweep(self, width: int) -> Iterator[None]:
        cut = self._cuts[width]
        if self._swept.get(width) == cut:
            return
        for group in (SEEN_GROUP, *self._slots):
            with self._catalogue.turn() as turn:
                self._remember(turn)
                cut = self._cuts[width]  # a restored archive lowers it
                turn.execute("DELETE FROM blocks WHERE width = ? AND grp = ? AND start < ?", (width, group, cut))
            yield
        self._swept[width] = cut

    def _retire(self) -> None:
        """Forget the names of series of which no block speaks any more; their totals stay."""
        with self._catalogue.turn() as turn:
            self._remember(turn)
            journaled: set[int] = set()
            for second, payload in turn.execute("SELECT second, payload FROM journal"):
                breathe()
                try:
                    row = read_row(second, self._codec.unpack(payload))
                except BlockError:
                    continue  # `_compact` will say so
                journaled.update(row.counters, row.gauges, row.sketches, row.bases)
            keys = {number: (key, kind) for kind, known in enumerate(self._known) for key, number in known.items()}
            changed: set[int] = set()
            for group in self._slots:
                breathe()
                totals = self._get_totals(turn, self._codec, group)
                oldest = min(
                    found
                    for width in WIDTHS
                    for found in turn.execute(
                        "SELECT coalesce(min(start), ?) FROM blocks WHERE width = ? AND grp = ?", (NEVER, width, group)
                    ).fetchone()
                )
                for slot, total in list(totals.items()):
                    number = group * GROUP_SLOTS + slot
                    if total.second >= oldest or number in journaled:
                        continue
                    key, kind = keys[number]
                    if key in (self._counted, self._gauges, self._read)[kind]:
                        continue  # it is in the live totals: what of them is counted must be known
                    del totals[slot]
                    payload = self._codec.pack(_encode_totals({slot: total}))
                    turn.execute(
                        "INSERT OR REPLACE INTO retired VALUES (?, ?, ?, ?)",
                        (key.name, labels_text(key.labels), kind, payload),
                    )
                    turn.execute("DELETE FROM series WHERE id = ?", (number,))
                    changed.add(group)
                if group in changed:
                    turn.execute(_WRITE_TOTALS, (group, self._codec.pack(_encode_totals(totals))))
            if changed:
                turn.execute(_NAMES_CHANGED)
        if changed:
            self._generation = -1

    def rename(self, names: Callable[[Collection[SeriesKey]], Mapping[SeriesKey, SeriesKey]]) -> None:
        """
        Give some series other names, so that of those they had no byte is left; their numbers stay.

        *names* is told all series, within the turn, and says which get which name, one that none has. It must be none that the live
        totals have: what of that is counted stands under the new name, and would be counted again. Killed at any step, each has
        either name; called again, it goes on.

        Raises what `maintain` raises.
        """
        with self._upkeep:
            with self._catalogue.turn() as turn:
                rows: list[tuple[str, str, str, int, SeriesKey]] = []
                for table in ("series", "retired"):
                    for name, labels, kind in turn.execute(f"SELECT name, labels, kind FROM {table}"):  # noqa: S608 - one of two
                        with suppress(msgspec.DecodeError):  # damaged; `_remember` says so
                            rows.append((table, name, labels, kind, SeriesKey(name, decode_labels(labels))))
                new = names({row[-1] for row in rows})
                for table, name, labels, kind, key in rows:
                    if key in new:
                        turn.execute(
                            f"UPDATE {table} SET name = ?, labels = ? WHERE name = ? AND labels = ? AND kind = ?",  # noqa: S608
                            (new[key].name, labels_text(new[key].labels), name, labels, kind),
                        )
                if new:
                    turn.execute(_NAMES_CHANGED)
                    turn.execute("INSERT OR REPLACE INTO meta VALUES ('renamed', 1)")
                    self._generation = -1
                is_left = turn.execute("SELECT 1 FROM meta WHERE name = 'renamed'").fetchone()
            if is_left:
                self._catalogue.rebuild()
                with self._catalogue.turn() as turn:
                    turn.execute("DELETE FROM meta WHERE name = 'renamed'")

    # Archives

    def forget_before(self, second: int) -> None:
        """Let go all windows of before *second*, the beginning of a day; lifetime totals stay. Raises what `maintain` raises."""
        with self._upkeep:
            with self._catalogue.turn() as turn:
                self._remember(turn)
                self._raise_cut(turn, HOUR, second)
            for width in WIDTHS:
                for _ in self._sweep(width):
                    breathe()
            self._catalogue.checkpoint()

    def restore(self, archived: sqlite3.Connection, until: int) -> Iterator[None]:
        """
        Bring back the windows of before *until*, the beginning of a day, from *archived*, another catalogue that has them in all its tiers.

        Slots of which something is known are left as they are. The coarsest tier comes first, and each tier from its newest block on,
        so that it is whole from its cut on whenever this ends; called again, it goes on. A tier that does not reach back to *until*
        any more stays as it is, for a tier has no holes: the next coarser one has those windows. Each step is a turn.

        Raises what `maintain` raises. Lifetime totals know all of it already, or never will.
        """
        cuts = dict.fromkeys(WIDTHS, 0)
        cuts.update(archived.execute("SELECT width, second FROM cuts").fetchall())
        keys: dict[int, tuple[SeriesKey, int]] = {}
        for number, name, labels, kind in archived.execute("SELECT id, name, labels, kind FROM series"):
            with suppress(msgspec.DecodeError):  # it was damaged before
                keys[number] = SeriesKey(name, decode_labels(labels)), kind
        for width in WIDTHS[::-1]:
            span = BLOCK_SPANS[width]
            starts = archived.execute(
                "SELECT DISTINCT start - start % ? FROM blocks WHERE width = ? AND start < ? ORDER BY 1 DESC",
                (span, width, until),
            ).fetchall()
            with self._catalogue.turn() as turn:
                self._remember(turn)  # so that there are cuts
            for _ in self._sweep(width):  # what is older than the cut, and would count again
                yield
            with self._catalogue.turn() as turn:
                self._remember(turn)
                if width != HOUR and self._cuts[width] > until:
                    continue
                if all(start >= cuts[width] for start in _starts(turn, width)):
                    self._raise_cut(
                        turn, width, cuts[width]
                    )  # nothing is known of before, so it is whole from there on, too
            for (start,) in starts:
                with self._upkeep, self._catalogue.turn() as turn:
                    self._remember(turn)
                    self._restore_block(turn, archived, keys, width, start)
                    self._lower_cut(turn, width, start)
                yield
            with self._catalogue.turn() as turn:
                self._remember(turn)
                self._lower_cut(turn, width, cuts[width])

    def _restore_block(
        self,
        turn: sqlite3.Connection,
        archived: sqlite3.Connection,
        keys: Mapping[int, tuple[SeriesKey, int]],
        width: int,
        start: int,
    ) -> None:
        values, sketches = self._read_blocks(archived, width, start, None)
        known: set[int] = set()
        if start < self._cuts[width]:  # what is there has been let go
            turn.execute(
                "DELETE FROM blocks WHERE width = ? AND start >= ? AND start < ?",
                (width, start, start + BLOCK_SPANS[width]),
            )
        else:
            for points in self._read_blocks(turn, width, start, SEEN_GROUP)[0].values():
                known.update(points)
        new_values: ValuesById = {}
        new_sketches: SketchesById = {}
        for number, points in values.items():
            missing = {time: value for time, value in points.items() if time not in known}
            if missing and (found := self._own_number(turn, keys, number)) >= 0:
                new_values[found] = missing
            breathe()
        for number, parts in sketches.items():
            missing_parts = {time: some for time, some in parts.items() if time not in known}
            if missing_parts and (found := self._own_number(turn, keys, number)) >= 0:
                new_sketches[found] = missing_parts
            breathe()
        turn.executemany(_INSERT_BLOCK, self._blocks(new_values, new_sketches, width, start, BLOCK_SPANS[width]))

    def _own_number(self, turn: sqlite3.Connection, keys: Mapping[int, tuple[SeriesKey, int]], number: int) -> int:
        """The number that an archived series has here; -1 if it can have none."""
        if number // GROUP_SLOTS == SEEN_GROUP:
            return number
        if number not in keys:
            return -1
        key, kind = keys[number]
        found = self._known[kind].get(key)
        return self._intern(turn, key, kind) if found is None else found

    def _lower_cut(self, turn: sqlite3.Connection, width: int, second: int) -> None:
        if second < self._cuts[width]:
            self._cuts[width] = second
            turn.execute("INSERT OR REPLACE INTO cuts VALUES (?, ?)", (width, second))

    def _read_blocks(
        self, connection: sqlite3.Connection, width: int, start: int, group: int | None
    ) -> tuple[ValuesById, SketchesById]:
        """All points of a tier, of *group* or of all, within a block's longest span from *start*."""
        values: ValuesById = {}
        sketches: SketchesById = {}
        for number, payload in connection.execute(
            "SELECT grp, payload FROM blocks WHERE width = ? AND start >= ? AND start < ? AND grp = coalesce(?, grp) ORDER BY id",
            (width, start, start + BLOCK_SPANS[width], group),
        ):
            breathe()
            try:
                if number % 4 == HISTOGRAM:
                    _add_sketches(sketches, SketchBlock(self._codec.unpack(payload), width), number)
                else:
                    _add_values(values, ValueBlock(self._codec.unpack(payload), width), number)
            except BlockError as error:
                self._leave_out(f"a block of {width} s from {start}", error)
        return values, sketches


def _starts(turn: sqlite3.Connection, width: int) -> list[int]:
    found = turn.execute(
        "SELECT DISTINCT start FROM blocks WHERE width = ? AND grp = ? ORDER BY start", (width, SEEN_GROUP)
    )
    return [start for (start,) in found]


def _allowed(starts: Sequence[int], target: int) -> int:
    """*target*, or as far towards it as is allowed at once."""
    doomed = bisect_left(starts, target)
    most = max(2, int(len(starts) * _MAX_LOST_SHARE))
    return target if doomed <= most else starts[most]


def _rolled(points: Mapping[int, float], width: int, *, is_gauge: bool) -> tuple[list[int], list[float]]:
    times = sorted(points)
    if width > 1:
        slots: dict[int, float] = {}
        for time in times:
            slot = time - time % width
            slots[slot] = points[time] if is_gauge else slots.get(slot, 0.0) + points[time]
        return list(slots), list(slots.values())
    return times, [points[time] for time in times]


def _rolled_sketches(points: Mapping[int, list[Measured]], width: int) -> tuple[list[int], list[Measured]]:
    slots: dict[int, list[Measured]] = {}
    for time in sorted(points):
        slots.setdefault(time - time % width, []).extend(points[time])
    return list(slots), [together(parts) for parts in slots.values()]


def _widened(values: ValuesById, sketches: SketchesById, width: int) -> tuple[ValuesById, SketchesById]:
    """The same in slots of *width* seconds, of which each has one point."""
    wider: ValuesById = {}
    wider_sketches: SketchesById = {}
    for number, points in values.items():
        is_gauge = number // GROUP_SLOTS % 4 == GAUGE
        wider[number] = dict(zip(*_rolled(points, width, is_gauge=is_gauge), strict=True))
        breathe()
    for number, parts in sketches.items():
        times, together_then = _rolled_sketches(parts, width)
        wider_sketches[number] = {time: [part] for time, part in zip(times, together_then, strict=True)}
        breathe()
    return wider, wider_sketches


def add_row(values: ValuesById, sketches: SketchesById, row: Journaled) -> None:
    second = row.second
    for number, increase in row.counters.items():
        points = values.get(number)
        if points is None:
            points = values[number] = {}
        points[second] = points.get(second, 0.0) + increase
    for number, value in row.gauges.items():
        values.setdefault(number, {})[second] = value
    for number, part in row.sketches.items():
        sketches.setdefault(number, {}).setdefault(second, []).append(part)


def _add_values(values: ValuesById, block: ValueBlock, group: int) -> None:
    for slot in block:
        part = block.get(slot)
        assert part is not None  # noqa: S101 - it has said that it has it
        points = values.setdefault(group * GROUP_SLOTS + slot, {})
        if group % 4 == GAUGE or not points:
            points.update(zip(*part, strict=True))
        else:
            for time, value in zip(*part, strict=True):
                points[time] = points.get(time, 0.0) + value


def _add_sketches(sketches: SketchesById, block: SketchBlock, group: int) -> None:
    for slot in block:
        part = block.get(slot, 0, NEVER)
        assert part is not None  # noqa: S101 - as above
        points = sketches.setdefault(group * GROUP_SLOTS + slot, {})
        for time, point in zip(part.times, part.points(), strict=True):
            points.setdefault(time, []).append(point)
        breathe()


# Lifetime totals: of each group one row


def decoded_totals(codec: Codec, payload: bytes) -> dict[int, Total]:
    """
    By slot in the group.

    Raises:
        BlockError: *payload* was damaged.
    """
    try:
        return _decode_totals(codec.unpack(payload))
    except msgspec.DecodeError as error:
        raise BlockError(str(error)) from error


def plus(one: Amount, other: Amount) -> Amount:
    """Both together; unknown if one of them is."""
    if not isinstance(one, Measured):
        return one or other if isinstance(other, Measured) else one + other
    return together((one, other)) if isinstance(other, Measured) else other or one


def apply(sampled: dict[int, Amount], row: Journaled) -> None:
    """Let *sampled* (by number) be what it is after *row*."""
    sampled.update(row.bases)
    if row.is_sampled:
        for found in (row.counters, row.sketches):
            for number, amount in found.items():
                sampled[number] = plus(sampled.get(number, 0.0), amount)


def is_residue(difference: float, total: float) -> bool:
    """Whether *difference* is what rounding leaves of sums of fractions as large as *total*, and no measurement."""
    return difference % 1 != 0 and abs(difference) < abs(total) * 2**-40


def with_change(total: Total | None, change: Change, *, is_gauge: bool) -> Total:
    if total is None:
        total = Total(0, 0.0)
    second = max(total.second, change.second)
    if is_gauge:
        return Total(second, change.amount)
    amount = plus(total.amount, change.amount)
    if total.sampled is None and change.base is None and change.sampled is None:
        return Total(second, amount)
    base = change.base
    if base is None:
        base = total.amount if total.sampled is None else total.sampled
    return Total(second, amount, plus(base, change.amount if change.sampled is None else change.sampled))


def changes_of(values: ValuesById, sketches: SketchesById, rows: Sequence[Journaled]) -> dict[int, dict[int, Change]]:
    """By group and slot what *rows* of the journal, with these points, add to the totals."""
    changes: dict[int, dict[int, Change]] = {}
    for number, points in values.items():
        breathe()
        group, slot = divmod(number, GROUP_SLOTS)
        last = max(points)
        if group != SEEN_GROUP:
            value = points[last] if group % 4 == GAUGE else sum(points.values())
            changes.setdefault(group, {})[slot] = Change(last, value)
    for number, parts in sketches.items():
        breathe()
        group, slot = divmod(number, GROUP_SLOTS)
        amount = together([part for some in parts.values() for part in some])
        changes.setdefault(group, {})[slot] = Change(max(parts), amount)
    apart = {number for row in rows for number in row.bases}
    for row in rows:
        if not row.is_sampled:
            apart.update(row.counters, row.sketches)
    for number in apart:
        breathe()
        group, slot = divmod(number, GROUP_SLOTS)
        base: Amount | None = None
        sampled: Amount = 0.0
        for row in rows:
            if number in row.bases:
                base, sampled = row.bases[number], 0.0
            if row.is_sampled:
                found = row.counters.get(number) if group % 4 == COUNTER else row.sketches.get(number)
                if found is not None:
                    sampled = plus(sampled, found)
        of_group = changes.setdefault(group, {})
        of_group[slot] = of_group.get(slot, Change(0, 0.0))._replace(base=base, sampled=sampled)
    return changes


class _Columns(NamedTuple):
    """The counters of the last live totals in their order: up to where each is counted, and its number."""

    keys: list[SeriesKey]
    values: array[float]
    numbers: array[int]


class _Sampled(NamedTuple):
    """What a window changes in what is sampled."""

    counted: dict[SeriesKey, float]
    read: dict[SeriesKey, SketchReading]
    gauges: dict[SeriesKey, float]
    gone: list[tuple[dict[SeriesKey, Any], SeriesKey]]  # from where


def _by_metric(
    values: Mapping[SeriesKey, _Value], known: Mapping[SeriesKey, int]
) -> Iterable[tuple[SeriesKey, _Value]]:
    """The items of *values*; if there are new series, metric by metric, so that those of a metric get numbers side by side."""
    if values.keys() <= known.keys():
        return values.items()
    return sorted(values.items(), key=lambda item: item[0].name)


def _amount(known: SketchReading | Amount) -> Amount:
    if not isinstance(known, SketchReading):
        return known
    found = beyond(known, None)
    return 0.0 if found is None else found


def _beyond(reading: SketchReading, before: SketchReading | Amount | None) -> tuple[Sketch | None, float]:
    """What was measured since *before*, None if it began again; and the sum, also of what is in no bucket yet."""
    if isinstance(before, Measured):
        found = beyond(reading, before)
        if found is None:
            return Sketch(), reading.total - before.sum
        has_fallen = min(found.counts) < 0
        return (None if has_fallen else sketch_of((found,))), found.sum
    before = before if isinstance(before, SketchReading) else NOTHING_READ
    sketch = reading.since(before)
    counts = (*sketch.positive.values(), *sketch.negative.values(), sketch.zero)
    return (None if reading.count < before.count or min(counts) < 0 else sketch), sketch.sum
