"""
Ranges of time, read from the windows of a catalogue: sums, distributions, time series and quantiles.

An answer comes from the blocks and the rows of the journal as they were at one moment. A sum is put together from as few slots as
possible: hours, then minutes, ten seconds and seconds towards the ends of the range.
"""

from __future__ import annotations

import sqlite3
from array import array
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count as count_from
from math import ceil
from typing import NamedTuple

import msgspec

from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.pace import breathe
from rfs.monitoring._capture.sketch import Sketch
from rfs.monitoring._store import Point
from rfs.monitoring._store.blocks import (
    BlockError,
    Codec,
    Measured,
    SketchBlock,
    ValueBlock,
    ValuePoints,
    compact,
    sketch_of,
    together,
)
from rfs.monitoring._store.catalogue import CatalogueReader
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
    WIDTHS,
    Journaled,
    SketchesById,
    Total,
    ValuesById,
    add_row,
    changes_of,
    decode_labels,
    decoded_totals,
    labels_text,
    read_row,
    with_change,
)

_MAX_KNOWN = 10_000  # runs of quantiles that a reader remembers: mostly of one to sixty numbers
_MAX_SUMS = 128  # sums of up to 16 histograms that it remembers: about 2 KB for each of them


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


SumsKey = tuple[int, int, frozenset[int], int, int]  # tier, group, slots in it, bounds


class Sums(NamedTuple):
    """What some histograms have in these blocks, by slot in the group."""

    rows: tuple[tuple[int, int, int], ...]
    parts: dict[int, Measured]


class _View:
    """The windows of a catalogue at one moment."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        journal: Sequence[Journaled],
        codec: Codec,
        known: dict[SumsKey, Sums],
        leave_out: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self.journal = journal
        self._codec = codec
        self._known = known
        self._leave_out = leave_out
        self.cuts: dict[int, int] = dict.fromkeys(WIDTHS, 0)
        self.cuts.update(connection.execute("SELECT width, second FROM cuts").fetchall())

    def numbers(self, keys: Sequence[SeriesKey], kind: int) -> list[int | None]:
        """The number of each of *keys*; None if it is not known."""
        by_name: dict[str, dict[str, int]] = {}
        for key in keys:
            if key.name not in by_name:
                by_name[key.name] = dict(
                    self._connection.execute(
                        "SELECT labels, id FROM series WHERE name = ? AND kind = ?", (key.name, kind)
                    )
                )
        return [by_name[key.name].get(labels_text(key.labels)) for key in keys]

    def kind_of(self, key: SeriesKey) -> tuple[int, int] | None:
        """Kind and number of *key*; None if it is not known."""
        found = self._connection.execute(
            "SELECT kind, id FROM series WHERE name = ? AND labels = ? ORDER BY kind DESC",
            (key.name, labels_text(key.labels)),
        ).fetchone()
        return None if found is None else (found[0], found[1])

    def rows(self, width: int, group: int, start: int, end: int) -> list[tuple[int, int, int]]:
        """
        Id, tier and start of the blocks of this tier and group with anything from *start* to before *end*, in the order in which
        they were written. Those of an hour that is not over yet have a point per minute.
        """
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
        return found

    def content(self, row: tuple[int, int, int]) -> bytes | None:
        """The block of *row*; None, which has been said, if it is damaged."""
        number, tier, at = row
        (payload,) = self._connection.execute("SELECT payload FROM blocks WHERE id = ?", (number,)).fetchone()
        try:
            return self._codec.unpack(payload)
        except BlockError as error:
            self._leave_out(f"a block of {tier} s from {at} is damaged and left out: {error}")
            return None

    def value_blocks(self, width: int, group: int, start: int, end: int) -> Iterator[ValueBlock]:
        """The blocks of `rows`, of counters or gauges."""
        for row in self.rows(width, group, start, end):
            content = self.content(row)
            if content is not None:
                yield ValueBlock(content, row[1])

    def sketch_blocks(self, width: int, group: int, start: int, end: int) -> Iterator[SketchBlock]:
        """The blocks of `rows`, of histograms."""
        for row in self.rows(width, group, start, end):
            content = self.content(row)
            if content is not None:
                yield SketchBlock(content, row[1])

    def bounds(self, start: float, end: float) -> tuple[int, int]:
        """The seconds from which to which slots are counted: those that begin within the range, as fine as there are any."""
        first, last = _to_second(start), _to_second(end)
        newest = max((row.second for row in self.journal), default=0)
        for (found,) in self._connection.execute(
            "SELECT max(start) FROM blocks WHERE width = 1 AND grp = ?", (SEEN_GROUP,)
        ):
            newest = max(newest, (found or 0) + MINUTE)
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

    def values(self, numbers: Iterable[int], start: int, end: int) -> dict[int, float]:
        """The sum of each counter over the range of `bounds`."""
        sums = dict.fromkeys(numbers, 0.0)
        groups = _by_group(sums)
        for width, begin, until in self.runs(start, end):
            for group, slots in groups.items():
                base = group * GROUP_SLOTS
                for block in self.value_blocks(width, group, begin, until):
                    for slot, value in block.sums(begin, until, slots):
                        sums[base + slot] += value
        for row in self.journal:
            if start <= row.second < end:
                for number in sums.keys() & row.counters.keys():
                    sums[number] += row.counters[number]
        return sums

    def sketches(self, numbers: Iterable[int], start: int, end: int) -> dict[int, Sketch]:
        """The distribution of each histogram over the range of `bounds`."""
        parts: dict[int, list[Measured]] = {number: [] for number in numbers}
        groups = _by_group(parts)
        for width, begin, until in self.runs(start, end):
            for group, slots in groups.items():
                for slot, part in self._sums(width, group, frozenset(slots), begin, until).items():
                    parts[group * GROUP_SLOTS + slot].append(part)
        for row in self.journal:
            if start <= row.second < end:
                for number in parts.keys() & row.sketches.keys():
                    parts[number].append(row.sketches[number])
        return {number: sketch_of(found) for number, found in parts.items()}

    def _sums(self, width: int, group: int, slots: frozenset[int], begin: int, until: int) -> dict[int, Measured]:
        """What blocks have of these histograms. Blocks never change, so only those are read that came since the last time."""
        key = width, group, slots, begin, until
        rows = self.rows(width, group, begin, until)
        before = self._known.pop(key, Sums((), {}))
        if rows[: len(before.rows)] != list(before.rows):
            before = Sums((), {})
        parts = {slot: [part] for slot, part in before.parts.items()}
        for row in rows[len(before.rows) :]:
            content = self.content(row)
            if content is not None:
                block = SketchBlock(content, row[1])
                for slot in slots:
                    part = block.get(slot, begin, until)
                    if part is not None:
                        parts.setdefault(slot, []).append(part.total())
                    breathe()
        sums = {slot: compact(together(found)) for slot, found in parts.items()}
        if len(self._known) >= _MAX_SUMS:
            self._known.pop(next(iter(self._known)))
        self._known[key] = Sums(tuple(rows), sums)
        return sums

    def last_before(self, number: int, time: int) -> float | None:
        """What gauge *number* was just before *time*."""
        group, slot = divmod(number, GROUP_SLOTS)
        journaled = [
            (row.second, row.gauges[number]) for row in self.journal if number in row.gauges and row.second < time
        ]
        if journaled:
            return max(reversed(journaled), key=lambda one: one[0])[1]  # of one second the last word
        for (payload,) in self._connection.execute("SELECT payload FROM totals WHERE grp = ?", (group,)):
            try:
                total = decoded_totals(self._codec, payload).get(slot)
            except BlockError:
                continue
            if total is not None and total[0] < time:
                return total[1]
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

    def lifetimes(self) -> list[Lifetime]:
        """The totals of all series, with what the journal adds."""
        totals: dict[int, Total] = {}
        for group, payload in self._connection.execute("SELECT grp, payload FROM totals"):
            breathe()
            try:
                found = decoded_totals(self._codec, payload)
            except BlockError as error:
                self._leave_out(f"a row of lifetime totals is damaged and left out: {error}")
                continue
            totals.update((group * GROUP_SLOTS + slot, total) for slot, total in found.items())
        values: ValuesById = {}
        sketches: SketchesById = {}
        for row in self.journal:
            add_row(values, sketches, row)
            breathe()
        for group, changes in changes_of(values, sketches).items():
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
                    _lifetime(name, labels, kind, total) for total in decoded_totals(self._codec, payload).values()
                ]
            except BlockError as error:
                self._leave_out(f"the lifetime total of {name} is damaged and left out: {error}")
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
        return {
            "series": series,
            "blocks": blocks,
            "journal_rows": len(self.journal),
            "horizon_seconds": newest - min(oldest, default=newest),
        }


def _lifetime(name: str, labels: str, kind: int, total: Total) -> Lifetime:
    second, value, part = total
    what = sketch_of((part,)) if part is not None else value if value is not None else 0.0
    return Lifetime(SeriesKey(name, decode_labels(labels)), kind, second, what)


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

    @property
    def width(self) -> int:
        """The largest slots of which each step is made up."""
        return max(
            (width for width in WIDTHS if self.seconds % width == 0 and self.start % width == 0), default=WIDTHS[0]
        )


def _points(view: _View, kind: int, number: int, steps: _Steps) -> list[float | None]:
    start, end = _to_second(steps.start), _to_second(steps.at(steps.count))
    group, slot = divmod(number, GROUP_SLOTS)
    seen = [False] * steps.count
    found: list[tuple[int, float]] = []  # time and value, as written
    for width, begin, until in view.stretches(start, end, steps.width):
        for block in view.value_blocks(width, SEEN_GROUP, begin, until):
            for time, _ in _points_within(block.get(0), begin, until):
                seen[steps.index(time - time % width)] = True
        if kind == HISTOGRAM:
            for histograms in view.sketch_blocks(width, group, begin, until):
                part = histograms.get(slot, begin, until)
                if part is not None:
                    counts = map(part.columns.count, count_from(part.first))
                    found += [(time - time % width, count) for time, count in zip(part.times, counts, strict=False)]
        else:
            for block in view.value_blocks(width, group, begin, until):
                found += [(time - time % width, value) for time, value in _points_within(block.get(slot), begin, until)]
    for row in view.journal:
        if start <= row.second < end:
            seen[steps.index(row.second)] = True
            if number in row.sketches:
                found.append((row.second, sum(row.sketches[number].counts)))
            for values in (row.counters, row.gauges):
                if number in values:
                    found.append((row.second, values[number]))
    if kind != GAUGE:
        sums = [0.0] * steps.count
        for time, value in found:
            sums[steps.index(time)] += value
        return [value if is_seen else None for value, is_seen in zip(sums, seen, strict=True)]
    found.sort(key=lambda point: point[0])
    last, at = view.last_before(number, start), 0
    values_at_end: list[float | None] = []
    for index, is_seen in enumerate(seen):
        until_time = steps.at(index + 1)
        while at < len(found) and found[at][0] < until_time:
            last = found[at][1]
            at += 1
        values_at_end.append(last if is_seen else None)
    return values_at_end


def _points_within(part: ValuePoints | None, begin: int, until: int) -> Iterable[tuple[int, float]]:
    if part is None:
        return ()
    times, values = part
    first, last = bisect_left(times, begin), bisect_left(times, until)
    return zip(times[first:last], values[first:last], strict=True)


# One histogram in one step: its value and where it comes from, or all that it is made of.
_Single = tuple[float, tuple[int, int, int], int, int]  # quantile, row, slot, time


def _quantiles(
    view: _View, numbers: Sequence[int], q: float, steps: _Steps, known: dict[tuple[int, int, float], Quantiles]
) -> dict[int, list[float | None]]:
    start, end = _to_second(steps.start), _to_second(steps.at(steps.count))
    found: dict[int, list[float | None]] = {number: [None] * steps.count for number in numbers}
    single: dict[tuple[int, int], _Single] = {}
    several: dict[tuple[int, int], list[Measured]] = {}

    def add(place: tuple[int, int], parts: Callable[[], list[Measured]]) -> None:
        if place in single:
            _, row, slot, time = single.pop(place)
            several[place] = _measured_at(view, row, slot, time)
        several[place] += parts()

    for width, begin, until in view.stretches(start, end, steps.width):
        for group, slots in _by_group(numbers).items():
            for row in view.rows(width, group, begin, until):
                for slot, (times, values) in _block_quantiles(view, row, slots, q, known):
                    number = group * GROUP_SLOTS + slot
                    for index in range(bisect_left(times, begin), bisect_left(times, until)):
                        time = times[index]
                        place = number, steps.index(time - time % width)
                        if place in single or place in several:
                            add(place, partial(_measured_at, view, row, slot, time))
                        else:
                            single[place] = values[index], row, slot, time
    for journaled in view.journal:
        if start <= journaled.second < end:
            for number in found.keys() & journaled.sketches.keys():
                place = number, steps.index(journaled.second)
                if place not in single:
                    several.setdefault(place, [])
                add(place, partial(list[Measured], (journaled.sketches[number],)))
    for (number, step), (value, *_) in single.items():
        found[number][step] = value
    for (number, step), parts in several.items():
        if parts:
            found[number][step] = sketch_of(parts).quantile(q)
    return found


def _block_quantiles(
    view: _View,
    row: tuple[int, int, int],
    slots: Iterable[int],
    q: float,
    known: dict[tuple[int, int, float], Quantiles],
) -> Iterator[tuple[int, Quantiles]]:
    """Per slot times and quantiles of a block. Blocks never change, so what was reckoned once is *known*."""
    block: SketchBlock | None = None
    for slot in slots:
        quantiles = known.get((row[0], slot, q))
        if quantiles is None:
            if block is None:
                content = view.content(row)
                if content is None:
                    return
                block = SketchBlock(content, row[1])
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
    content = view.content(row)
    part = None if content is None else SketchBlock(content, row[1]).get(slot, time, time + 1)
    return [] if part is None else part.points()


class WindowReader:
    """
    Answers from the windows of a catalogue, in any process.

    A range is half-open, in unix seconds. It is as exact as the finest tier that reaches back to its ends (`resolution`): slots
    count that begin within it. Adjacent ranges add up to the whole.

    Args:
        on_problem: Told what is damaged and left out (``S113``).

    Raises (every method):
        StoreError: The database cannot be read.

    Safe from any thread; one answer at a time.
    """

    def __init__(self, reader: CatalogueReader, *, on_problem: Callable[[str, str], None]) -> None:
        self._reader = reader
        self._on_problem = on_problem
        self._codec = Codec()
        self._journal: dict[int, Journaled] = {}
        self._quantiles: dict[tuple[int, int, float], Quantiles] = {}  # by block, slot in the group, and share
        self._sums: dict[SumsKey, Sums] = {}
        self._opened = 0
        self.damaged = 0

    @contextmanager
    def _view(self) -> Generator[_View | None]:
        with self._reader.snapshot() as connection:
            if connection is None:
                yield None
                return
            if self._opened != self._reader.opened:
                self._opened = self._reader.opened
                self._journal = {}
                self._quantiles = {}
                self._sums = {}
            yield _View(connection, self._read_journal(connection), self._codec, self._sums, self._leave_out)

    def _read_journal(self, connection: sqlite3.Connection) -> list[Journaled]:
        # A row never changes, so each is read once.
        ids = [number for (number,) in connection.execute("SELECT id FROM journal ORDER BY id")]
        journal = {number: row for number in ids if (row := self._journal.get(number)) is not None}
        for number in ids:
            if number not in journal:
                for second, payload in connection.execute(
                    "SELECT second, payload FROM journal WHERE id = ?", (number,)
                ):
                    try:
                        journal[number] = read_row(second, self._codec.unpack(payload))
                    except BlockError as error:
                        self._leave_out(f"second {second} of the journal is damaged and left out: {error}")
                        journal[number] = Journaled(-1, {}, {}, {})
                breathe()
        self._journal = journal
        return [row for _, row in sorted(journal.items()) if row.second >= 0]

    def _leave_out(self, text: str) -> None:
        self.damaged += 1
        self._on_problem("S113", text)

    def series(self, name: str) -> list[SeriesKey]:
        """The series of metric *name*."""
        with self._reader.snapshot() as connection:
            if connection is None:
                return []
            found = connection.execute("SELECT labels FROM series WHERE name = ? ORDER BY id", (name,)).fetchall()
        keys: dict[SeriesKey, None] = {}
        for (text,) in found:
            with suppress(msgspec.DecodeError):  # the writer says so
                keys[SeriesKey(name, decode_labels(text))] = None
        return list(keys)

    def resolution(self, start: float) -> int:
        """Seconds per slot of the finest tier that reaches back to *start*."""
        with self._view() as view:
            return WIDTHS[0] if view is None else view.finest(_to_second(start))

    def increases(self, keys: Sequence[SeriesKey], start: float, end: float) -> list[float | None]:
        """By how much each of these counters grew; None for those that are not known."""
        with self._view() as view:
            if view is None:
                return [None] * len(keys)
            numbers = view.numbers(keys, COUNTER)
            sums = view.values((one for one in numbers if one is not None), *view.bounds(start, end))
        return [None if number is None else sums[number] for number in numbers]

    def sketches(self, keys: Sequence[SeriesKey], start: float, end: float) -> list[Sketch | None]:
        """The distribution of what each of these histograms measured; None for those that are not known."""
        with self._view() as view:
            if view is None:
                return [None] * len(keys)
            numbers = view.numbers(keys, HISTOGRAM)
            found = view.sketches((one for one in numbers if one is not None), *view.bounds(start, end))
        return [None if number is None else found[number] for number in numbers]

    def points(self, key: SeriesKey, start: float, end: float, step_seconds: float) -> list[Point]:
        """Per step the increase of a counter, the last value of a gauge, the count of a histogram; None in a gap."""
        steps = _Steps(start, end, step_seconds)
        values: list[float | None] = [None] * steps.count
        with self._view() as view:
            if view is not None and (found := view.kind_of(key)) is not None:
                values = _points(view, *found, steps)
        return [Point(steps.at(index), value) for index, value in enumerate(values)]

    def quantiles(
        self, keys: Sequence[SeriesKey], q: float, start: float, end: float, step_seconds: float
    ) -> list[list[Point]]:
        """Per histogram and step the *q*-quantile of what was measured; None where nothing was."""
        steps = _Steps(start, end, step_seconds)
        found: dict[int, list[float | None]] = {}
        numbers: list[int | None] = [None] * len(keys)
        with self._view() as view:
            if view is not None:
                numbers = view.numbers(keys, HISTOGRAM)
                found = _quantiles(view, [one for one in numbers if one is not None], q, steps, self._quantiles)
        nothing: list[float | None] = [None] * steps.count
        times = [steps.at(index) for index in range(steps.count)]
        return [list(map(Point, times, nothing if number is None else found[number])) for number in numbers]

    def lifetimes(self) -> list[Lifetime]:
        """What every series ever came to, whether its windows are still kept or not."""
        with self._view() as view:
            return [] if view is None else view.lifetimes()

    def statistics(self) -> Mapping[str, float]:
        """Figures of what is kept: ``series``, ``blocks``, ``journal_rows``, ``horizon_seconds`` (how far back it reaches)."""
        with self._view() as view:
            return {} if view is None else view.statistics()
