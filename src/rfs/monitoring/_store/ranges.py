"""
Ranges of time, read from the windows of a catalogue: sums, distributions, time series and quantiles.

An answer comes from the blocks and the rows of the journal as they were at one moment, and what the live totals have beyond
them: the *head*, which stands at the present second. Rows that were written after the totals were read are left out, so the sum
of it all is what had been measured then. A sum is put together from as few slots as possible: hours, then minutes, ten seconds
and seconds towards the ends of the range.
"""

from __future__ import annotations

import sqlite3
from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from itertools import repeat
from math import ceil
from operator import add
from typing import Generic, NamedTuple, TypeVar, cast

import msgspec

from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.pace import breathe, pieces
from rfs.monitoring._capture.readings import SketchReading
from rfs.monitoring._capture.sketch import Sketch, sum_of
from rfs.monitoring._store import Kind
from rfs.monitoring._store.blocks import (
    BlockError,
    Codec,
    Measured,
    SketchBlock,
    ValueBlock,
    ValuePoints,
    beyond,
    compact,
    count_of,
    sketch_of,
    sum_within,
    together,
)
from rfs.monitoring._store.catalogue import CatalogueReader, nothing
from rfs.monitoring._store.deadline import check_deadline
from rfs.monitoring._store.windows import (
    BLOCK_SPANS,
    COUNTER,
    GAUGE,
    GROUP_SLOTS,
    HISTOGRAM,
    HOUR,
    MINUTE,
    NEVER,
    SEEN_GROUP,
    UNKNOWN,
    WIDTHS,
    Amount,
    Journaled,
    SketchesById,
    Total,
    ValuesById,
    add_row,
    apply,
    changes_of,
    decode_labels,
    decoded_totals,
    is_residue,
    plus,
    read_row,
    with_change,
)
from rfs.monitoring._totals import Totals

_MAX_KNOWN = 10_000  # runs of quantiles that a reader remembers: mostly of one to sixty numbers
_MAX_SUMS = 1_000  # of a histogram in some blocks, that it remembers: about 2 KB for each of them
_MAX_VALUE_SUMS = 10_000  # likewise of a counter, which is one number
_MAX_ADDED = 3_000  # likewise of several histograms together; an alert rule needs fifteen
_MAX_STEPS = 250_000  # likewise of a counter or histogram in one step
_MAX_NAMES = 1_000  # metrics whose series it remembers, and questions whose series' places it does
_MAX_SEEN = 64  # ranges of steps: a page asks for one or two
_MAX_BLOCK_BYTES = 8 << 20  # of blocks that it remembers
_PARSED_BYTES = 10_000  # of one beside its content
_READ_AT_ONCE = 32  # blocks
KINDS: tuple[Kind, ...] = ("counter", "gauge", "histogram")  # by number

_BlockRow = tuple[int, int, int]  # id, tier, start
_Wanted = tuple[SeriesKey, int, int | None]  # a series, its kind and number
_Block = TypeVar("_Block", ValueBlock, SketchBlock)


class Lifetime(NamedTuple):
    """What one series came to since it began; ``second`` is when it last changed. A gauge's value is its last one."""

    key: SeriesKey
    kind: int
    second: int
    value: float | Sketch


class Quantiles(NamedTuple):
    """Of one histogram in one block."""

    times: Sequence[int]
    values: Sequence[float]


class _Places(NamedTuple):
    """Where in the catalogue those of the series *keys* are that it knows."""

    keys: Sequence[SeriesKey]
    kind: int
    numbers: tuple[int, ...]
    groups: Mapping[int, frozenset[int]]  # slots by group


SumsKey = tuple[int, int, frozenset[int], int, int]  # tier, group, slots in it, bounds
_Key = TypeVar("_Key")
_Sums = TypeVar("_Sums")
_Item = TypeVar("_Item")


class _Memo(Generic[_Key, _Sums]):
    """Sums over blocks, or over other sums, with what they are of; of those that were used last as many as *limit* allows."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._known: dict[_Key, tuple[tuple[object, ...], _Sums, int]] = {}

    def take(self, key: _Key, rows: Sequence[object], empty: _Sums) -> tuple[int, _Sums]:
        """How many of *rows* are in the sum, and the sum, which is the caller's until it is `put` back; else 0 and *empty*."""
        before, sums, size = self._known.pop(key, ((), empty, 0))
        self._size -= size
        return (len(before), sums) if tuple(rows[: len(before)]) == before else (0, empty)

    def put(self, key: _Key, rows: Sequence[object], sums: _Sums, size: int) -> None:
        """Remember *sums*, which are of *rows*, and of that *size*; nothing is of none."""
        size = max(size, 1)
        self._known[key] = tuple(rows), sums, size
        self._size += size
        while self._size > self._limit:
            self._size -= self._known.pop(next(iter(self._known)))[2]


class _Kept:
    """What is remembered of a database from answer to answer: what cannot change, and the rest until somebody has written."""

    def __init__(self, leave_out: Callable[[str], None]) -> None:
        self.leave_out = leave_out
        self.codec = Codec()
        self._version = (-1, -1)
        self._forget()

    def _forget(self) -> None:
        self.journal: dict[int, Journaled] = {}
        self.quantiles: dict[tuple[int, int, float], Quantiles] = {}  # by block, slot in the group, and share
        self.sums: _Memo[SumsKey, dict[int, Measured]] = _Memo(_MAX_SUMS)
        self.value_sums: _Memo[SumsKey, dict[int, float]] = _Memo(_MAX_VALUE_SUMS)
        self.steps: _Memo[tuple[SumsKey, float, float], dict[int, array[float]]] = _Memo(_MAX_STEPS)
        self.beyond: dict[int, tuple[SketchReading, Amount, Measured | None]] = {}  # by series
        self.together: _Memo[tuple[int, ...], list[Measured]] = _Memo(_MAX_SUMS)  # of several series
        self._blocks: dict[int, tuple[int, ValueBlock | SketchBlock | None]] = {}  # the last used ones last
        self._block_bytes = 0
        self._totals: dict[int, tuple[bytes, dict[int, Total] | None]] = {}  # by group; None: damaged
        self._names = -1
        # Of several series together, for whoever asks the same each second.
        self.added: _Memo[tuple[object, ...], list[Measured]] = _Memo(_MAX_ADDED)
        self.journaled: _Memo[tuple[int, ...], float] = _Memo(_MAX_VALUE_SUMS)
        self.lines: dict[tuple[int, frozenset[int]], ValuePoints] = {}  # by block and slots in the group
        self._forget_names()

    def _forget_names(self) -> None:
        self._numbers: dict[tuple[str, int], dict[SeriesKey, int]] = {}  # by name and kind
        self._series: dict[str, tuple[SeriesKey, ...]] = {}
        self._places: dict[int, _Places] = {}
        self._kinds: dict[str, int] | None = None

    def refresh(self, connection: sqlite3.Connection, opened: int) -> None:
        """Begin an answer: what somebody has changed since the last one is forgotten."""
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        self.connection = connection
        if self._version == (opened, version):
            return
        if self._version[0] != opened:
            self._forget()
        self._version = -1, -1
        self.cuts: dict[int, int] = dict.fromkeys(WIDTHS, 0)
        self.cuts.update(connection.execute("SELECT width, second FROM cuts").fetchall())
        self._read_journal()
        self.rows: dict[tuple[int, int, int, int], list[_BlockRow]] = {}
        self.seen: dict[tuple[float, float, int], list[bool]] = {}  # by steps: in which a block has a window
        self._checked: set[int] = set()
        (newest,) = connection.execute(
            "SELECT max(start) FROM blocks WHERE width = 1 AND grp = ?", (SEEN_GROUP,)
        ).fetchone()
        self.until = 0 if newest is None else newest + MINUTE  # what is in blocks was before
        meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
        self.is_full = bool(meta.get("full"))
        if meta.get("names", 0) != self._names:
            self._names = meta.get("names", 0)
            self._forget_names()
            self.beyond.clear()
        self._version = opened, version

    def _read_journal(self) -> None:
        # A row never changes, so each is read once.
        ids = [number for (number,) in self.connection.execute("SELECT id FROM journal ORDER BY id")]
        journal = {number: row for number in ids if (row := self.journal.get(number)) is not None}
        for number in ids:
            if number not in journal:
                for second, payload in self.connection.execute(
                    "SELECT second, payload FROM journal WHERE id = ?", (number,)
                ):
                    try:
                        journal[number] = read_row(second, self.codec.unpack(payload))
                    except BlockError as error:
                        self.leave_out(f"second {second} of the journal is damaged and left out: {error}")
                        journal[number] = Journaled(-1, {}, {}, {}, {}, False)
                breathe()
        self.journal = journal
        self.read = [row for _, row in sorted(journal.items()) if row.second >= 0]
        # Of these sampled is not simply what it was before the journal and the sum of its rows.
        self.apart = {number for row in self.read for number in row.bases}
        for row in self.read:
            if not row.is_sampled:
                self.apart.update(row.counters, row.sketches)

    def numbers(self, name: str, kind: int) -> Mapping[SeriesKey, int]:
        """The series of metric *name* and this kind, in the order in which they came."""
        found = self._numbers.get((name, kind))
        if found is None:
            found = {}
            for number, text in self.connection.execute(
                "SELECT id, labels FROM series WHERE name = ? AND kind = ? ORDER BY id", (name, kind)
            ):
                with suppress(msgspec.DecodeError):  # the writer says so
                    found[SeriesKey(name, decode_labels(text))] = number
            if len(self._numbers) >= _MAX_NAMES:
                self._numbers.pop(next(iter(self._numbers)))
            self._numbers[name, kind] = found
        return found

    def series(self, name: str) -> tuple[SeriesKey, ...]:
        """The series of metric *name*, of every kind; the same object as long as they are the same."""
        found = self._series.get(name)
        if found is None:
            numbers = [self.numbers(name, kind) for kind in range(len(KINDS))]
            found = tuple(dict.fromkeys(key for one in numbers for key in one))
            if len(self._series) >= _MAX_NAMES:
                self._series.clear()
            self._series[name] = found
        return found

    def places(self, keys: Sequence[SeriesKey], kind: int) -> _Places:
        """Where the series *keys* of this kind are. A tuple is known again if it is the same object."""
        known = self._places.get(id(keys))
        if known is None or known.keys is not keys or known.kind != kind:
            numbers = dict.fromkeys(self.numbers(key.name, kind).get(key, -1) for key in keys)
            numbers.pop(-1, None)
            groups = {group: frozenset(slots) for group, slots in _by_group(numbers).items()}
            known = _Places(keys, kind, tuple(numbers), groups)
            if isinstance(keys, tuple):
                if len(self._places) >= _MAX_NAMES:
                    self._places.clear()
                self._places[id(keys)] = known
        return known

    def kinds(self) -> Mapping[str, int]:
        """Every metric and its kind; of several the last."""
        if self._kinds is None:
            self._kinds = dict(
                self.connection.execute("SELECT DISTINCT name, kind FROM series ORDER BY kind").fetchall()
            )
        return self._kinds

    def total(self, number: int) -> Total | None:
        """What is kept of series *number*, but for the journal; None if nothing is, or it was damaged."""
        group, slot = divmod(number, GROUP_SLOTS)
        totals = self._totals_of(group)
        return None if totals is None else totals.get(slot)

    def sampled(self, number: int) -> Amount | None:
        """Up to which live total series *number* is counted without the journal; None if that is not known."""
        group, slot = divmod(number, GROUP_SLOTS)
        totals = self._totals_of(group)
        if totals is None:
            return None
        total = totals.get(slot)
        if total is None:
            return 0.0
        sampled = total.amount if total.sampled is None else total.sampled
        return None if sampled != sampled else sampled

    def _totals_of(self, group: int) -> dict[int, Total] | None:
        known = self._totals.get(group)
        if group not in self._checked or known is None:
            (payload,) = self.connection.execute("SELECT payload FROM totals WHERE grp = ?", (group,)).fetchone() or (
                b"",
            )
            if known is None or known[0] != payload:
                known = payload, self._decoded(payload)
                self._totals[group] = known
            self._checked.add(group)
        return known[1]

    def _decoded(self, payload: bytes) -> dict[int, Total] | None:
        if not payload:
            return {}
        try:
            return decoded_totals(self.codec, payload)
        except BlockError as error:
            self.leave_out(f"a row of lifetime totals is damaged and left out: {error}")
            return None

    def block(self, row: _BlockRow, make: type[_Block]) -> _Block | None:
        """The block of *row*; None, which has been said, if it is damaged."""
        return next(self.blocks((row,), make))

    def blocks(self, rows: Sequence[_BlockRow], make: type[_Block]) -> Iterator[_Block | None]:
        """As `block`, for many; those that are not remembered are read a few dozen at a time."""
        for at in range(0, len(rows), _READ_AT_ONCE):
            check_deadline()
            some = rows[at : at + _READ_AT_ONCE]
            known = {number: self._blocks[number] for number, _, _ in some if number in self._blocks}
            missing = [number for number, _, _ in some if number not in known]
            payloads: dict[int, bytes] = {}
            if missing:
                query = f"SELECT id, payload FROM blocks WHERE id IN ({', '.join('?' * len(missing))})"  # noqa: S608
                payloads.update(self.connection.execute(query, missing).fetchall())
            for number, tier, start in some:
                one = known.get(number) or self._parsed(payloads[number], make, tier, start)
                if self._blocks.pop(number, None) is None:
                    self._block_bytes += one[0]
                self._blocks[number] = one
                while self._block_bytes > _MAX_BLOCK_BYTES:
                    self._block_bytes -= self._blocks.pop(next(iter(self._blocks)))[0]
                yield one[1] if isinstance(one[1], make) else None

    def _parsed(self, payload: bytes, make: type[_Block], tier: int, start: int) -> tuple[int, _Block | None]:
        try:
            content = self.codec.unpack(payload)
            return _PARSED_BYTES + 2 * len(content), make(content, tier)
        except BlockError as error:
            self.leave_out(f"a block of {tier} s from {start} is damaged and left out: {error}")
            return _PARSED_BYTES, None


class _View:
    """The windows of a catalogue, and the head, at one moment."""

    def __init__(self, kept: _Kept, totals: Totals | None, now: float) -> None:
        self.kept = kept
        self._connection = kept.connection
        self.cuts = kept.cuts
        self.journal = kept.read
        self.second = int(now)
        self.totals = totals
        if totals is not None:
            # What was written after the totals were read, they have not.
            rows = len(self.journal)
            while rows and self.journal[rows - 1].second > self.second:
                rows -= 1
            if rows < len(self.journal):
                if kept.until > self.second + 1:
                    self.totals = None  # too long ago: it is in blocks, which cannot be told from those before
                else:
                    self.journal = self.journal[:rows]

    def number(self, key: SeriesKey, kind: int) -> int | None:
        """The number of *key*; None if the catalogue does not know it."""
        return self.kept.numbers(key.name, kind).get(key)

    def live(self, key: SeriesKey, kind: int, number: int | None) -> float | SketchReading | None:
        """Its live total, of a gauge its value; None if it has none, or is none that is counted."""
        totals = self.totals
        if totals is None or (number is None and self.kept.is_full and kind != GAUGE):
            return None
        return (totals.counters, totals.gauges, totals.sketches)[kind].get(key)

    def find(self, key: SeriesKey) -> _Wanted:
        """Kind and number of *key*, of any kind; first of one that is in the live totals. The kind of what is not known is -1."""
        numbers = [self.number(key, kind) for kind in range(len(KINDS))]
        for kind in (HISTOGRAM, GAUGE, COUNTER):
            if self.live(key, kind, numbers[kind]) is not None:
                return key, kind, numbers[kind]
        return next(
            ((key, kind, numbers[kind]) for kind in (HISTOGRAM, GAUGE, COUNTER) if numbers[kind] is not None),
            (key, -1, None),
        )

    def rows(self, width: int, group: int, start: int, end: int) -> list[_BlockRow]:
        """
        Id, tier and start of the blocks of this tier and group with anything from *start* to before *end*, in the order in which
        they were written. Those of an hour that is not over yet have a point per minute.
        """
        found = self.kept.rows.get((width, group, start, end))
        if found is None:
            found = self._connection.execute(
                "SELECT id, width, start FROM blocks WHERE width = ? AND grp = ? AND start > ? AND start < ? AND start + span > ?",
                (width, group, start - BLOCK_SPANS[width], end, start),
            ).fetchall()
            if width == HOUR:
                found += self._connection.execute(
                    "SELECT id, width, start FROM blocks WHERE width = ? AND grp = ? AND start >= ? AND start < ? AND span = ?",
                    (MINUTE, group, start, end, MINUTE),
                ).fetchall()
            found.sort()
            if len(self.kept.rows) >= _MAX_KNOWN:
                self.kept.rows.clear()
            self.kept.rows[width, group, start, end] = found
        return found

    def value_blocks(self, width: int, group: int, start: int, end: int) -> Iterator[ValueBlock]:
        """The blocks of `rows`, of counters or gauges."""
        for block in self.kept.blocks(self.rows(width, group, start, end), ValueBlock):
            if block is not None:
                yield block

    def sketch_blocks(self, width: int, group: int, start: int, end: int) -> Iterator[SketchBlock]:
        """The blocks of `rows`, of histograms."""
        for block in self.kept.blocks(self.rows(width, group, start, end), SketchBlock):
            if block is not None:
                yield block

    def bounds(self, start: float, end: float) -> tuple[int, int]:
        """The seconds from which to which slots are counted: those that begin within the range, as fine as there are any."""
        first, last = _to_second(start), _to_second(end)
        newest = max((row.second for row in self.journal), default=0)
        newest = max(newest, self.kept.until, 0 if self.totals is None else self.second)
        finest = self.finest(first)
        if last > newest:
            return _up(first, finest), _up(last, HOUR)  # so that the last slots of all tiers count whole
        return _up(first, finest), _up(last, self.finest(last - 1))

    def finest(self, second: int) -> int:
        """Seconds per slot of the finest tier that reaches back to *second*."""
        return next((width for width in WIDTHS if self.cuts[width] <= second), HOUR)

    def runs(self, start: int, end: int, widths: Sequence[int] = WIDTHS[::-1]) -> list[tuple[int, int, int]]:
        """Tiers and bounds that make up the range (of `bounds`) with as few slots as possible."""
        if start >= end:
            return []
        width, finer = widths[0], widths[1:]
        first, last = _up(start, width), end - end % width
        if not finer:
            return [(width, start, end)]
        if first >= last:
            return self.runs(start, end, finer)
        return [*self.runs(start, first, finer), (width, first, last), *self.runs(last, end, finer)]

    def stretches(self, start: int, end: int, width: int) -> list[tuple[int, int, int]]:
        """Tiers and bounds that make up the range with slots of *width* where these are kept, and larger ones before."""
        found: list[tuple[int, int, int]] = []
        for tier in WIDTHS[WIDTHS.index(width) :]:
            begin = max(start, self.cuts[tier]) if tier != HOUR else start
            if begin < end:
                found.append((tier, begin, end))
                end = begin
        return found[::-1]

    def increases(self, keys: Sequence[SeriesKey], start: float, end: float) -> list[float | None]:
        """The sum of each counter over the range; None for those that are not known."""
        first, last = self.bounds(start, end)
        numbers = [self.number(key, COUNTER) for key in keys]
        sums = dict.fromkeys((one for one in numbers if one is not None), 0.0)
        groups = _by_group(sums)
        for width, begin, until in self.runs(first, last):
            for group, slots in groups.items():
                base = group * GROUP_SLOTS
                for slot, value in self._value_sums(width, group, frozenset(slots), begin, until).items():
                    sums[base + slot] += value
        within, is_all = self._within(first, last)
        journaled: dict[int, float] | None = None  # added up once somebody needs it
        found: list[float | None] = []
        for key, number in zip(keys, numbers, strict=True):
            live = cast("float | None", self.live(key, COUNTER, number))
            if number is None:
                found.append(None if live is None else live if first <= self.second < last else 0.0)
                continue
            value = sums[number]
            before = None if live is None or not is_all or number in self.kept.apart else self.kept.sampled(number)
            if live is not None and isinstance(before, float):
                value += _less(live, before)
            else:
                if journaled is None:
                    journaled = _journaled(within, sums)
                value += journaled.get(number, 0.0)
                if first <= self.second < last:
                    value += self.head(number, live)
            found.append(max(0.0, value))
            breathe()
        return found

    def _value_sums(self, width: int, group: int, slots: frozenset[int], begin: int, until: int) -> dict[int, float]:
        """What blocks have of these counters. Blocks never change, so only those are read that came since the last time."""
        key = width, group, slots, begin, until
        rows = self.rows(width, group, begin, until)
        before, sums = self.kept.value_sums.take(key, rows, {})
        for block in self.kept.blocks(rows[before:], ValueBlock):
            if block is not None:
                for slot, value in block.sums(begin, until, slots):
                    sums[slot] = sums.get(slot, 0.0) + value
            breathe()
        self.kept.value_sums.put(key, rows, sums, len(sums))
        return sums

    def increase(self, keys: Sequence[SeriesKey], start: float, end: float) -> float:
        """What all of these counters together came to over the range."""
        if self.totals is not None:
            return sum((one or 0.0 for one in self.increases(keys, start, end)), 0.0)
        first, last = self.bounds(start, end)
        numbers, groups = self.kept.places(keys, COUNTER)[2:]
        within, _ = self._within(first, last)
        count, total = self.kept.journaled.take(numbers, within, 0.0)
        for journaled in within[count:]:
            total += sum(map(journaled.counters.get, numbers, repeat(0.0)))
        self.kept.journaled.put(numbers, within, total, 1)
        for width, begin, until in self.runs(first, last):
            for group, slots in groups.items():
                for row in self.rows(width, group, begin, until):
                    total += sum_within(*self._line(row, slots), begin, until)
                breathe()
        return total

    def _line(self, row: _BlockRow, slots: frozenset[int]) -> ValuePoints:
        """What a block has of these counters together. Blocks never change, so it is added up once."""
        known = self.kept.lines.get((row[0], slots))
        if known is None:
            sums: dict[int, float] = {}
            block = self.kept.block(row, ValueBlock)
            parts = [] if block is None else [block.get(slot) for slot in slots]
            for times, values in filter(None, parts):
                for time, value in zip(times, values, strict=True):
                    sums[time] = sums.get(time, 0.0) + value
            rising = sorted(sums)
            known = array("q", rising), array("d", map(sums.__getitem__, rising))
            if len(self.kept.lines) >= _MAX_KNOWN:
                self.kept.lines.pop(next(iter(self.kept.lines)))
            self.kept.lines[row[0], slots] = known
        return known

    def _within(self, first: int, last: int) -> tuple[list[Journaled], bool]:
        """The rows of the journal within the range; and whether it has all of them, and the present."""
        within = [row for row in self.journal if first <= row.second < last]
        return within, first <= self.second < last and len(within) == len(self.journal)

    def head(self, number: int, live: float | None) -> float:
        """By how much counter *number* has grown in the live totals since it was sampled."""
        sampled = 0.0 if live is None else self._sampled(number)
        if live is None or isinstance(sampled, Measured) or sampled is None or live in self._left_behind(number):
            return 0.0
        return _less(live, sampled)

    def sketch_head(self, number: int, live: SketchReading | None) -> list[Measured]:
        """What histogram *number* has measured since it was sampled."""
        sampled = None if live is None else self._sampled(number)
        if live is None or sampled is None:
            return []
        count = count_of(live)
        if count == _count(sampled) or any(count == _count(one) for one in self._left_behind(number)):
            return []  # all is counted
        return self._beyond(number, live, sampled)

    def _sampled(self, number: int) -> Amount | None:
        sampled = self.kept.sampled(number)
        group = number // GROUP_SLOTS
        for row in self.journal:
            sampled = row.bases.get(number, sampled)
            if row.is_sampled and sampled is not None:
                grown = row.counters.get(number) if group % 4 == COUNTER else row.sketches.get(number)
                if grown is not None:
                    sampled = plus(sampled, grown)
        return sampled

    def _left_behind(self, number: int) -> list[Amount]:
        """
        From where series *number* began again just now: who read the live totals shortly before that has not seen it,
        and what it was before is no head.
        """
        found: list[Amount] = []
        if number in self.kept.apart:
            sampled = self.kept.sampled(number)
            for row in self.journal:
                if number in row.bases:
                    if sampled is not None and row.second >= self.second - 1:
                        found.append(sampled)
                    sampled = row.bases[number]
                if row.is_sampled and sampled is not None:
                    grown = row.counters.get(number) or row.sketches.get(number)
                    sampled = sampled if grown is None else plus(sampled, grown)
        return found

    def _beyond(self, number: int, live: SketchReading, sampled: Amount) -> list[Measured]:
        known = self.kept.beyond.get(number)
        if known is None or known[0] is not live or known[1] is not sampled:
            found = beyond(live, sampled if isinstance(sampled, Measured) else None)
            known = live, sampled, found
            if len(self.kept.beyond) >= _MAX_KNOWN:
                self.kept.beyond.clear()
            self.kept.beyond[number] = known
        return [] if known[2] is None else [known[2]]

    def sketches(self, keys: Sequence[SeriesKey], start: float, end: float) -> list[Sketch | None]:
        """The distribution of each histogram over the range; None for those that are not known."""
        first, last = self.bounds(start, end)
        numbers = [self.number(key, HISTOGRAM) for key in keys]
        parts = self._parts((number for number in numbers if number is not None), first, last)
        within, is_all = self._within(first, last)
        is_now = first <= self.second < last
        found: list[Sketch | None] = []
        for key, number in zip(keys, numbers, strict=True):
            live = cast("SketchReading | None", self.live(key, HISTOGRAM, number))
            if number is None:
                found.append(None if live is None else live.since(None) if is_now else Sketch())
                continue
            before = None if live is None or not is_all or number in self.kept.apart else self.kept.sampled(number)
            if live is not None and before is not None:
                found.append(sketch_of([*parts[number], *self._beyond(number, live, before)]))
            else:
                rows = [row.sketches[number] for row in within if number in row.sketches]
                found.append(sketch_of([*parts[number], *rows, *(self.sketch_head(number, live) if is_now else ())]))
            breathe()
        return found

    def distribution(self, keys: Sequence[SeriesKey], start: float, end: float) -> Sketch:
        """
        What all of these histograms together measured over the range.

        As `sketches`, but live totals and what is sampled are added up before they are compared: a part of the time.
        """
        first, last = self.bounds(start, end)
        within, is_all = self._within(first, last)
        if self.totals is None:
            return sketch_of(self._added_parts(self.kept.places(keys, HISTOGRAM), within, first, last))
        one_by_one: list[SeriesKey] = []
        quiet: set[int] = set()  # without a live total
        sampled: dict[int, Measured] = {}
        reading: SketchReading | None = None
        for key in keys:
            number = self.number(key, HISTOGRAM)
            live = cast("SketchReading | None", self.live(key, HISTOGRAM, number))
            known = None if number is None or not is_all or number in self.kept.apart else self.kept.sampled(number)
            if number is not None and live is None:
                quiet.add(number)
            # One that has begun again at zero must not take away from the others.
            elif number is None or live is None or not isinstance(known, Measured) or live.count < _count(known):
                one_by_one.append(key)
            else:
                sampled[number] = known
                reading = live if reading is None else reading.plus(live)
            breathe()
        total = sum_of(self.sketches(one_by_one, start, end))
        parts = self._joined_parts(quiet, first, last)
        for row in within if quiet else ():
            parts += [part for number, part in row.sketches.items() if number in quiet]
        if reading is not None:
            parts += self._joined_parts(sampled, first, last)
            (before,) = self._together(tuple(sampled), list(sampled.values()))
            head = beyond(reading, before)
            parts += [] if head is None else [head]
        total.add(sketch_of(parts))
        return total

    def _parts(self, numbers: Iterable[int], first: int, last: int) -> dict[int, list[Measured]]:
        """Of each of these histograms what blocks have within the bounds."""
        parts: dict[int, list[Measured]] = {number: [] for number in numbers}
        coarse: dict[int, list[Measured]] = {number: [] for number in parts}
        groups = _by_group(parts)
        for width, begin, until in self.runs(first, last):
            found = parts if width < MINUTE else coarse
            for group, slots in groups.items():
                for slot, part in self._sums(width, group, frozenset(slots), begin, until).items():
                    found[group * GROUP_SLOTS + slot].append(part)
        for number, of_series in coarse.items():
            parts[number] += self._together((number, _up(first, MINUTE), last), of_series)
        return parts

    def _joined_parts(self, numbers: Collection[int], first: int, last: int) -> list[Measured]:
        """What blocks have of these histograms within the bounds, already added up as far as that lasts."""
        parts: list[Measured] = []
        for width, begin, until in self.runs(first, last):
            for group, slots in _by_group(numbers).items():
                found = self._sums(width, group, frozenset(slots), begin, until)
                parts += self._together((width, begin, until, group, *slots), list(found.values()))
        return parts

    def _added_parts(self, places: _Places, within: Sequence[Journaled], first: int, last: int) -> list[Measured]:
        """What all of these histograms together have, so that who asks the same a second later finds most of it added up."""
        numbers = places.numbers
        parts = self._added(
            (numbers,), within, lambda row: [row.sketches[one] for one in numbers if one in row.sketches]
        )
        longer: list[Measured] = []
        for width, begin, until in self.runs(first, last):
            rows = [
                (row, slots) for group, slots in places.groups.items() for row in self.rows(width, group, begin, until)
            ]
            rows.sort()  # those that came last are the last
            step, found = (1, parts) if width == 1 else (until - begin, longer)
            for start in range(begin, until, step):
                found += self._added(
                    (numbers, width, start, start + step), rows, partial(self._totals, start, start + step)
                )
        return [*parts, *self._added((numbers, _up(first, 10)), longer, lambda part: [part])]

    def _totals(self, begin: int, until: int, place: tuple[_BlockRow, frozenset[int]]) -> list[Measured]:
        row, slots = place
        block = self.kept.block(row, SketchBlock)
        parts = [] if block is None else [block.get(slot, begin, until) for slot in slots]
        return [part.total() for part in parts if part is not None]

    def _added(
        self, key: tuple[object, ...], rows: Sequence[_Item], parts_of: Callable[[_Item], list[Measured]]
    ) -> list[Measured]:
        """What *rows* have as one, if they have anything. They are what *key* names; those are read that came since the last time."""
        count, sums = self.kept.added.take(key, rows, [])
        for some in pieces(rows[count:], 25):
            parts = [*sums, *(part for row in some for part in parts_of(row))]
            sums = [compact(together(parts))] if parts else []
        self.kept.added.put(key, rows, sums, 1)
        return list(sums)

    def _together(self, key: tuple[int, ...], parts: Sequence[Measured]) -> list[Measured]:
        """*parts* as one, if there are any. They are what *key* names, and seldom change: then the sum is known."""
        count, sums = self.kept.together.take(key, parts, [])
        for some in pieces(parts[count:], 25):
            sums = [compact(together([*sums, *some]))]
        self.kept.together.put(key, parts, sums, len(parts))
        return sums

    def _sums(self, width: int, group: int, slots: frozenset[int], begin: int, until: int) -> dict[int, Measured]:
        """What blocks have of these histograms. Blocks never change, so only those are read that came since the last time."""
        key = width, group, slots, begin, until
        rows = self.rows(width, group, begin, until)
        before, sums = self.kept.sums.take(key, rows, {})
        parts: dict[int, list[Measured]] = {}
        for block in self.kept.blocks(rows[before:], SketchBlock):
            if block is not None:
                for slot in slots:
                    part = block.get(slot, begin, until)
                    if part is not None:
                        parts.setdefault(slot, [sums[slot]] if slot in sums else []).append(part.total())
                    breathe()
        sums.update((slot, compact(together(found))) for slot, found in parts.items())
        self.kept.sums.put(key, rows, sums, len(sums))
        return sums

    def last_before(self, number: int, time: int) -> float | None:
        """What gauge *number* was just before *time*."""
        group, slot = divmod(number, GROUP_SLOTS)
        journaled = [
            (row.second, row.gauges[number]) for row in self.journal if number in row.gauges and row.second < time
        ]
        if journaled:
            return max(reversed(journaled), key=lambda one: one[0])[1]  # of one second the last word
        total = self.kept.total(number)
        if total is not None and total.second < time and isinstance(total.amount, float):
            return total.amount
        end = time
        for width, begin in ((1, time - time % MINUTE), (10, time - time % MINUTE), (MINUTE, time - time % HOUR)):
            if self.cuts[width] <= begin < end:
                found = self._latest(width, group, slot, begin, end)
                if found is not None:
                    return found
                end = begin
        while end > 0:
            rows = self._connection.execute(
                "SELECT max(start) FROM blocks WHERE width IN (?, ?) AND grp = ? AND start < ?",
                (HOUR, MINUTE, group, end),
            ).fetchone()
            if rows[0] is None:
                break
            begin = rows[0] - rows[0] % HOUR
            found = self._latest(HOUR, group, slot, begin, end)
            if found is not None:
                return found
            end = begin
        return None

    def _latest(self, width: int, group: int, slot: int, begin: int, end: int) -> float | None:
        latest: tuple[int, float] | None = None
        for block in self.value_blocks(width, group, begin, end):
            part = block.get(slot)
            if part is not None:
                times, values = part
                index = bisect_left(times, end)
                if index and times[index - 1] >= begin and (latest is None or times[index - 1] >= latest[0]):
                    latest = times[index - 1], values[index - 1]
        return None if latest is None else latest[1]

    def all_sampled(self) -> tuple[dict[SeriesKey, float], dict[SeriesKey, Sketch]]:
        """Up to which live total each counter and histogram is counted, of which that is known and more than nothing."""
        keys: dict[int, SeriesKey] = {}
        sampled: dict[int, Amount] = {}
        for number, name, labels in self._connection.execute(
            "SELECT id, name, labels FROM series WHERE kind IN (?, ?)", (COUNTER, HISTOGRAM)
        ):
            breathe()
            with suppress(msgspec.DecodeError):  # the writer says so
                keys[number] = SeriesKey(name, decode_labels(labels))
                amount = self.kept.sampled(number)
                sampled[number] = UNKNOWN if amount is None else amount
        for row in self.kept.read:
            apply(sampled, row)
            breathe()
        counters = {
            key: amount
            for number, key in keys.items()
            if isinstance(amount := sampled[number], float) and amount > 0 and number // GROUP_SLOTS % 4 == COUNTER
        }
        sketches = {
            key: sketch_of((amount,)) for number, key in keys.items() if isinstance(amount := sampled[number], Measured)
        }
        return counters, sketches

    def lifetimes(self) -> list[Lifetime]:
        """The totals of all series, with what the journal adds."""
        totals: dict[int, Total] = {}
        for group, payload in self._connection.execute("SELECT grp, payload FROM totals"):
            breathe()
            try:
                found = decoded_totals(self.kept.codec, payload)
            except BlockError as error:
                self.kept.leave_out(f"a row of lifetime totals is damaged and left out: {error}")
                continue
            totals.update((group * GROUP_SLOTS + slot, total) for slot, total in found.items())
        values: ValuesById = {}
        sketches: SketchesById = {}
        for row in self.journal:
            add_row(values, sketches, row)
            breathe()
        for group, changes in changes_of(values, sketches, self.journal).items():
            for slot, change in changes.items():
                number = group * GROUP_SLOTS + slot
                totals[number] = with_change(totals.get(number), change, is_gauge=group % 4 == GAUGE)
        lifetimes = [
            _lifetime(name, labels, kind, totals[number])
            for number, name, labels, kind in self._connection.execute(
                "SELECT id, name, labels, kind FROM series ORDER BY id"
            )
            if number in totals
        ]
        for name, labels, kind, payload in self._connection.execute("SELECT name, labels, kind, payload FROM retired"):
            breathe()
            try:
                lifetimes += [
                    _lifetime(name, labels, kind, total) for total in decoded_totals(self.kept.codec, payload).values()
                ]
            except BlockError as error:
                self.kept.leave_out(f"the lifetime total of {name} is damaged and left out: {error}")
        return lifetimes

    def statistics(self) -> Mapping[str, float]:
        """Figures of what is kept."""
        (series,) = self._connection.execute("SELECT count(*) FROM series").fetchone()
        (blocks,) = self._connection.execute("SELECT count(*) FROM blocks").fetchone()
        oldest = [row.second for row in self.journal]
        newest = max(oldest, default=0)
        for width in WIDTHS:
            (found,) = self._connection.execute(
                "SELECT min(start) FROM blocks WHERE width = ? AND grp = ?", (width, SEEN_GROUP)
            ).fetchone()
            oldest += [] if found is None else [found]
        (evicted,) = self._connection.execute(
            "SELECT coalesce(sum(value), 0) FROM meta WHERE name = 'evicted'"
        ).fetchone()
        return {
            "series": series,
            "blocks": blocks,
            "evicted_records": evicted,
            "journal_rows": len(self.journal),
            "horizon_seconds": newest - min(oldest, default=newest),
        }


def _lifetime(name: str, labels: str, kind: int, total: Total) -> Lifetime:
    amount = total.amount
    if kind == HISTOGRAM:
        return Lifetime(
            SeriesKey(name, decode_labels(labels)),
            kind,
            total.second,
            sketch_of((amount,) if isinstance(amount, Measured) else ()),
        )
    return Lifetime(SeriesKey(name, decode_labels(labels)), kind, total.second, cast("float", amount))


def _journaled(rows: Iterable[Journaled], wanted: Mapping[int, object]) -> dict[int, float]:
    """What *rows* of the journal have of each *wanted* counter that moved in them."""
    sums: dict[int, float] = {}
    for row in rows:
        for number in wanted.keys() & row.counters.keys():
            sums[number] = sums.get(number, 0.0) + row.counters[number]
        breathe()
    return sums


def _less(live: float, sampled: float) -> float:
    head = live - sampled
    return 0.0 if is_residue(head, live) else head


def _count(sampled: Amount) -> int:
    return sum(sampled.counts) if isinstance(sampled, Measured) else 0


def _to_second(time: float) -> int:
    return ceil(min(max(time, 0), NEVER))


def _up(second: int, width: int) -> int:
    return -(-second // width) * width


def _by_group(numbers: Iterable[int]) -> dict[int, set[int]]:
    groups: dict[int, set[int]] = {}
    for number in numbers:
        group, slot = divmod(number, GROUP_SLOTS)
        groups.setdefault(group, set()).add(slot)
    return groups


class _Steps:
    """The steps of a time series, from *start* on, each *seconds* long."""

    def __init__(self, start: float, end: float, seconds: float) -> None:
        self.start = start
        self.seconds = seconds
        self.count = max(1, ceil((end - start) / seconds))
        is_whole = start % 1 == 0 and seconds % 1 == 0
        self._whole = (int(start), int(seconds)) if is_whole else None  # as it mostly is; then reckoning is quicker
        self.bounds = _to_second(start), _to_second(self.at(self.count))  # from which to which second the steps go
        # The largest slots of which each step is made up.
        self.width = max((width for width in WIDTHS if seconds % width == 0 and start % width == 0), default=WIDTHS[0])

    def at(self, index: int) -> float:
        return self.start + index * self.seconds

    def index(self, time: int) -> int:
        """In which step *time* is; outside of 0 to `count` - 1: in none."""
        if self._whole is not None:
            start, seconds = self._whole
            return (time - start) // seconds
        index = int((time - self.start) // self.seconds)
        if time >= self.at(index + 1):  # as the bounds are reckoned, so are the times
            return index + 1
        return index - 1 if time < self.at(index) else index

    def segments(self, times: Sequence[int], begin: int, until: int, width: int) -> Iterator[tuple[int, int, int]]:
        """In which step, from which index to before which, those of *times* are that are within the bounds."""
        at, last = bisect_left(times, begin), bisect_left(times, until)
        while at < last:
            time = times[at]
            index = self.index(time - time % width)  # in an hour that is not over yet, there is a point per minute
            if width > self.width:
                to = at + 1
            elif self._whole is not None:
                to = bisect_left(times, self._whole[0] + (index + 1) * self._whole[1], at + 1, last)
            else:
                to = bisect_left(times, _to_second(self.at(index + 1)), at + 1, last)
            yield index, at, to
            at = to


def _seen(view: _View, steps: _Steps) -> list[bool]:
    """In which steps a window was closed. The present is no gap."""
    start, end = steps.bounds
    key = steps.start, steps.seconds, steps.count
    known = view.kept.seen.get(key)
    if known is None:  # else another series, or metric, has been asked for in the same steps
        known = [False] * steps.count
        for width, begin, until in view.stretches(start, end, steps.width):
            for block in view.value_blocks(width, SEEN_GROUP, begin, until):
                part = block.get(0)
                if part is not None:
                    for index, _, _ in steps.segments(part[0], begin, until, width):
                        known[index] = True
        if len(view.kept.seen) >= _MAX_SEEN:
            view.kept.seen.clear()
        view.kept.seen[key] = known
    seen = list(known)
    for row in view.journal:
        if start <= row.second < end:
            seen[steps.index(row.second)] = True
    if view.totals is not None and start <= view.second < end:
        seen[steps.index(view.second)] = True
    return seen


def _points(view: _View, wanted: Sequence[_Wanted], steps: _Steps) -> list[list[float | None]]:
    start, end = steps.bounds
    seen = _seen(view, steps)
    is_now = start <= view.second < end
    numbers = {number: kind for _, kind, number in wanted if number is not None}
    sums = {number: [0.0] * steps.count for number, kind in numbers.items() if kind != GAUGE}
    found: dict[int, list[tuple[int, float]]] = {number: [] for number, kind in numbers.items() if kind == GAUGE}
    for width, begin, until in view.stretches(start, end, steps.width):
        for group, slots in _by_group(numbers).items():
            base = group * GROUP_SLOTS
            if group % 4 != GAUGE:
                for slot, by_step in _sums_by_step(view, (width, group, frozenset(slots), begin, until), steps).items():
                    sums[base + slot] = list(map(add, sums[base + slot], by_step))
                continue
            for block in view.value_blocks(width, group, begin, until):
                for slot in slots:
                    part = block.get(slot)
                    if part is not None:
                        times, values_of = part
                        for _, _, to in steps.segments(times, begin, until, width):
                            found[base + slot].append((times[to - 1] - times[to - 1] % width, values_of[to - 1]))
                    breathe()
    for row in view.journal:
        if start <= row.second < end:
            index = steps.index(row.second)
            for number in sums.keys() & row.counters.keys():
                sums[number][index] += row.counters[number]
            for number in sums.keys() & row.sketches.keys():
                sums[number][index] += sum(row.sketches[number].counts)
            for number in found.keys() & row.gauges.keys():
                found[number].append((row.second, row.gauges[number]))
            breathe()
    answers: list[list[float | None]] = []
    for key, kind, place in wanted:
        live = view.live(key, kind, place)
        if kind == GAUGE:
            points = [] if place is None else sorted(found[place], key=lambda point: point[0])
            if is_now and live is not None:
                points.append((view.second, cast("float", live)))
                points.sort(key=lambda point: point[0])
            last = None if place is None else view.last_before(place, start)
            answers.append(_last_values(points, last, seen, steps))
        elif kind < 0:
            answers.append([None] * steps.count)
        else:
            values = list(sums[place]) if place is not None else [0.0] * steps.count
            if is_now:
                index = steps.index(view.second)
                values[index] = max(0.0, values[index] + _head_of(view, place, live))
            answers.append([value if is_seen else None for value, is_seen in zip(values, seen, strict=True)])
        breathe()
    return answers


def _sums_by_step(view: _View, key: SumsKey, steps: _Steps) -> dict[int, array[float]]:
    """Per counter, or the count of a histogram, its sum in each step. Only blocks are read that came since the last time."""
    width, group, slots, begin, until = key
    rows = view.rows(width, group, begin, until)
    before, sums = view.kept.steps.take((key, steps.start, steps.seconds), rows, {})
    new = rows[before:]
    blocks: Iterator[ValueBlock | SketchBlock | None] = (
        view.kept.blocks(new, ValueBlock) if group % 4 == COUNTER else view.kept.blocks(new, SketchBlock)
    )
    for block in blocks:
        for slot in slots:
            part = None if block is None else _counted(block, slot)
            if part is not None:
                times, values = part
                of_series = sums.setdefault(slot, array("d", bytes(8 * steps.count)))
                for index, at, to in steps.segments(times, begin, until, width):
                    of_series[index] += sum(values[at:to])
            breathe()
    view.kept.steps.put((key, steps.start, steps.seconds), rows, sums, len(sums) * steps.count)
    return sums


def _counted(block: ValueBlock | SketchBlock, slot: int) -> ValuePoints | None:
    """What a block has of a counter, or of the count of a histogram."""
    if isinstance(block, ValueBlock):
        return block.get(slot)
    part = block.get(slot, 0, NEVER)
    if part is None:
        return None
    return part.times, list(map(part.columns.count, range(part.first, part.first + len(part.times))))


def _head_of(view: _View, number: int | None, live: float | SketchReading | None) -> float:
    """By how much a counter, or the count of a histogram, has grown since it was sampled."""
    if isinstance(live, SketchReading):
        if number is None:
            return count_of(live)
        return sum(sum(part.counts) for part in view.sketch_head(number, live))
    return (live or 0.0) if number is None else view.head(number, live)


def _last_values(
    points: Sequence[tuple[int, float]], last: float | None, seen: Sequence[bool], steps: _Steps
) -> list[float | None]:
    values: list[float | None] = []
    at = 0
    for index, is_seen in enumerate(seen):
        until_time = steps.at(index + 1)
        while at < len(points) and points[at][0] < until_time:
            last = points[at][1]
            at += 1
        values.append(last if is_seen else None)
    return values


class _Line:
    """A histogram's quantiles by step. Of a step with several slots, all that was measured in it, too: quantiles do not add up."""

    def __init__(self, count: int) -> None:
        self.values: list[float | None] = [None] * count
        self.several: dict[int, list[Measured]] = {}
        # Where a value comes from that is alone in its step.
        self.rows: list[_BlockRow | None] = [None] * count
        self.times = [0] * count

    def parts(self, view: _View, slot: int, step: int) -> list[Measured]:
        """What was measured in *step*, to be added to."""
        parts = self.several.get(step)
        if parts is None:
            row = self.rows[step]
            parts = self.several[step] = [] if row is None else _measured_at(view, row, slot, self.times[step])
        return parts


def _quantiles(view: _View, keys: Sequence[SeriesKey], q: float, steps: _Steps) -> list[list[float | None]]:
    start, end = steps.bounds
    wanted = [(key, view.number(key, HISTOGRAM)) for key in keys]
    found = {number: _Line(steps.count) for _, number in wanted if number is not None}
    for width, begin, until in view.stretches(start, end, steps.width):
        for group, slots in _by_group(found).items():
            for row in view.rows(width, group, begin, until):
                for slot, (times, values) in _block_quantiles(view, row, slots, q):
                    line = found[group * GROUP_SLOTS + slot]
                    for index in range(bisect_left(times, begin), bisect_left(times, until)):
                        time = times[index]
                        step = steps.index(time - time % width)
                        if line.rows[step] is None:
                            line.rows[step], line.times[step], line.values[step] = row, time, values[index]
                        else:
                            line.parts(view, slot, step).extend(_measured_at(view, row, slot, time))
    for journaled in view.journal:
        if start <= journaled.second < end:
            step = steps.index(journaled.second)
            for number in found.keys() & journaled.sketches.keys():
                found[number].parts(view, number % GROUP_SLOTS, step).append(journaled.sketches[number])
    is_now = start <= view.second < end
    for key, known in wanted if is_now else ():
        if known is not None and (head := view.sketch_head(known, _reading(view, key, known))):
            found[known].parts(view, known % GROUP_SLOTS, steps.index(view.second)).extend(head)
    for line in found.values():
        for step, parts in line.several.items():
            sketch = sketch_of(parts)
            line.values[step] = sketch.quantile(q) if sketch.count else None
    answers: list[list[float | None]] = []
    for key, known in wanted:
        if known is not None:
            answers.append(found[known].values)
            continue
        live = _reading(view, key, None)
        of_key: list[float | None] = [None] * steps.count
        if is_now and live is not None and live.count:
            of_key[steps.index(view.second)] = live.since(None).quantile(q)
        answers.append(of_key)
    return answers


def _reading(view: _View, key: SeriesKey, number: int | None) -> SketchReading | None:
    return cast("SketchReading | None", view.live(key, HISTOGRAM, number))


def _distributions(view: _View, keys: Sequence[SeriesKey], steps: _Steps) -> list[Sketch | None]:
    start, end = steps.bounds
    wanted = {key: view.number(key, HISTOGRAM) for key in keys}
    numbers = [number for number in wanted.values() if number is not None]
    parts: list[list[Measured]] = [[] for _ in range(steps.count)]
    for width, begin, until in view.stretches(start, end, steps.width):
        for group, slots in _by_group(numbers).items():
            for block in view.sketch_blocks(width, group, begin, until):
                for slot in slots:
                    part = block.get(slot, begin, until)
                    if part is not None:
                        for index, at, to in steps.segments(part.times, begin, until, width):
                            parts[index].append(part.columns.total(part.first + at, part.first + to))
                    breathe()
    for row in view.journal:
        if start <= row.second < end:
            index = steps.index(row.second)
            parts[index] += [row.sketches[number] for number in numbers if number in row.sketches]
    if start <= view.second < end:
        index = steps.index(view.second)
        for key, known in wanted.items():
            live = _reading(view, key, known)
            if known is not None:
                parts[index] += view.sketch_head(known, live)
            elif live is not None and (whole := beyond(live, None)) is not None:
                parts[index].append(whole)
    return [sketch_of(found) if is_seen else None for found, is_seen in zip(parts, _seen(view, steps), strict=True)]


def _block_quantiles(
    view: _View,
    row: tuple[int, int, int],
    slots: Iterable[int],
    q: float,
) -> Iterator[tuple[int, Quantiles]]:
    """Per slot times and quantiles of a block. Blocks never change, so what was reckoned once is *known*."""
    known = view.kept.quantiles
    block: SketchBlock | None = None
    for slot in slots:
        quantiles = known.get((row[0], slot, q))
        if quantiles is None:
            if block is None:
                block = view.kept.block(row, SketchBlock)
                if block is None:
                    return
            part = block.get(slot, 0, NEVER)
            quantiles = Quantiles((), ())
            if part is not None:
                columns = part.columns
                values = [columns.quantile(index, q) for index in range(part.first, part.first + len(part.times))]
                quantiles = Quantiles(part.times, array("d", values))
            if len(known) >= _MAX_KNOWN:
                known.pop(next(iter(known)))
            known[row[0], slot, q] = quantiles
        if quantiles.times:
            yield slot, quantiles


def _measured_at(view: _View, row: tuple[int, int, int], slot: int, time: int) -> list[Measured]:
    block = view.kept.block(row, SketchBlock)
    part = None if block is None else block.get(slot, time, time + 1)
    return [] if part is None else part.points()


class WindowsAt:
    """
    The answers of one present: what the catalogue has, and of the live totals what is beyond that.

    A range is half-open, in unix seconds. It is as exact as the finest tier that reaches back to its ends: slots count that begin
    within it. Adjacent ranges add up to the whole. Each answer is of one moment of the catalogue.

    Raises (every method):
        StoreError: The database cannot be read.

    Safe from any thread; one answer of a `WindowReader` at a time.
    """

    def __init__(
        self, view: Callable[[Totals | None, float], AbstractContextManager[_View]], totals: Totals | None, now: float
    ) -> None:
        self._view = partial(view, totals, now)
        self._totals = totals
        self._by_name: dict[str, list[tuple[SeriesKey, int]]] | None = None

    def _live(self) -> Mapping[str, Sequence[tuple[SeriesKey, int]]]:
        """The series of the live totals, and their kinds, by name."""
        if self._by_name is None:
            by_name: dict[str, list[tuple[SeriesKey, int]]] = {}
            totals = self._totals
            known: tuple[Mapping[SeriesKey, object], ...] = ()
            if totals is not None:
                known = totals.counters, totals.gauges, totals.sketches
            for kind, found in enumerate(known):
                for some in pieces(found.keys(), 200):
                    for key in some:
                        by_name.setdefault(key.name, []).append((key, kind))
            self._by_name = by_name
        return self._by_name

    def kinds(self) -> Mapping[str, Kind]:
        """Every metric that is known, and what it is."""
        with self._view() as view:
            kinds = dict(view.kept.kinds())
        kinds.update((name, found[-1][1]) for name, found in self._live().items())
        return {name: KINDS[kind] for name, kind in kinds.items() if kind < len(KINDS)}

    def series(self, name: str) -> tuple[SeriesKey, ...]:
        """The series of metric *name*; of the catalogue alone the same object as long as they are the same."""
        with self._view() as view:
            known = view.kept.series(name)
        live = self._live().get(name)
        return known if live is None else tuple(dict.fromkeys((*known, *(key for key, _ in live))))

    def increases(self, keys: Sequence[SeriesKey], start: float, end: float) -> list[float | None]:
        """By how much each of these counters grew; None for those that are not known."""
        with self._view() as view:
            return view.increases(keys, start, end)

    def increase(self, keys: Sequence[SeriesKey], start: float, end: float) -> float:
        """By how much all of these counters together grew."""
        with self._view() as view:
            return view.increase(keys, start, end)

    def sketches(self, keys: Sequence[SeriesKey], start: float, end: float) -> list[Sketch | None]:
        """The distribution of what each of these histograms measured; None for those that are not known."""
        with self._view() as view:
            return view.sketches(keys, start, end)

    def distribution(self, keys: Sequence[SeriesKey], start: float, end: float) -> Sketch:
        """What all of these histograms together measured."""
        with self._view() as view:
            return view.distribution(keys, start, end)

    def points(
        self, keys: Sequence[SeriesKey], start: float, end: float, step_seconds: float
    ) -> list[list[float | None]]:
        """Per series and step the increase of a counter, the last value of a gauge, the count of a histogram; None in a gap."""
        with self._view() as view:
            return _points(view, [view.find(key) for key in keys], _Steps(start, end, step_seconds))

    def quantiles(
        self, keys: Sequence[SeriesKey], q: float, start: float, end: float, step_seconds: float
    ) -> list[list[float | None]]:
        """Per histogram and step the *q*-quantile of what was measured; None where nothing was."""
        with self._view() as view:
            return _quantiles(view, keys, q, _Steps(start, end, step_seconds))

    def distributions(
        self, keys: Sequence[SeriesKey], start: float, end: float, step_seconds: float
    ) -> list[Sketch | None]:
        """Per step what all of these histograms together measured; None in a gap."""
        with self._view() as view:
            return _distributions(view, keys, _Steps(start, end, step_seconds))


class WindowReader:
    """
    Reads the windows of a catalogue, in any process.

    Args:
        on_problem: Told what is damaged and left out (``S113``).

    Raises (every method):
        StoreError: The database cannot be read.

    Safe from any thread; one answer at a time.
    """

    def __init__(self, reader: CatalogueReader, *, on_problem: Callable[[str, str], None]) -> None:
        self._reader = reader
        self._on_problem = on_problem
        self._kept = _Kept(self._leave_out)
        self._nothing: _Kept | None = None
        self.damaged = 0

    def at(self, totals: Totals | None, now: float) -> WindowsAt:
        """
        The answers of the present *now*, in unix seconds, at which *totals* were read; without them, of the catalogue alone.

        *totals* are kept and may not be changed.
        """
        return WindowsAt(self._view, totals, now)

    @contextmanager
    def _view(self, totals: Totals | None = None, now: float = 0.0) -> Generator[_View]:
        with self._reader.snapshot() as connection:
            if connection is None:
                if self._nothing is None:
                    self._nothing = _Kept(self._leave_out)
                    self._nothing.refresh(nothing(), 0)
                yield _View(self._nothing, totals, now)
            else:
                kept = self._kept
                kept.refresh(connection, self._reader.opened)
                yield _View(kept, totals, now)

    def forget(self) -> None:
        """Let go of all that is remembered from answer to answer; the next one reads it again. Safe while another thread is answered."""
        self._kept = _Kept(self._leave_out)

    def _leave_out(self, text: str) -> None:
        self.damaged += 1
        self._on_problem("S113", text)

    def resolution(self, start: float) -> int:
        """Seconds per slot of the finest tier that reaches back to *start*."""
        with self._view() as view:
            return view.finest(_to_second(start))

    def sampled(self) -> tuple[dict[SeriesKey, float], dict[SeriesKey, Sketch]]:
        """Up to which live total each counter and histogram is counted; where that is not known, or nothing, it has none."""
        with self._view() as view:
            return view.all_sampled()

    def lifetimes(self) -> list[Lifetime]:
        """What every series ever came to, whether its windows are still kept or not; the head is not in it."""
        with self._view() as view:
            return view.lifetimes()

    def statistics(self) -> Mapping[str, float]:
        """
        Figures of what is kept: ``series``, ``blocks``, ``journal_rows``, ``horizon_seconds`` (how far back it reaches), and of what is
        not any more, ``evicted_records``.
        """
        with self._view() as view:
            return view.statistics()
