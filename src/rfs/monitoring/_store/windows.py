"""
Windows in a catalogue: how the seconds of a service become days of history.

Each window is first one row of the journal, with all that changed. When a minute is over, its rows become blocks of three tiers
(slots of 1 s, 10 s, and 1 min), one per group of series; when an hour is over, the blocks of its minutes become one, and the slots
of an hour are added up; days likewise. Each step is one transaction, so at any instant every increment is in each tier once,
or still in the journal. Windows that come late, because a clock was set back, become further blocks of the same time: what is in
several blocks adds up, and of a gauge the one that was written last counts.

A tier is whole from its *cut* on: older blocks have been let go, and blocks of before are not written. A counter's
or histogram's lifetime total, and a gauge's last value, change in the step that makes blocks of the journal, and stay when blocks go.

Group 3 has one series: how many windows each slot saw. Where it has none, nothing is known.
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
from threading import Lock
from time import monotonic
from typing import NamedTuple

import msgspec

from rfs.monitoring._capture.cells import Labels, SeriesKey
from rfs.monitoring._capture.pace import breathe, pieces
from rfs.monitoring._capture.sketch import Sketch
from rfs.monitoring._store import Point, Window
from rfs.monitoring._store.blocks import (
    BlockError,
    Codec,
    Measured,
    SketchBlock,
    ValueBlock,
    ValuePoints,
    measured,
    pack_sketches,
    pack_values,
    sketch_of,
    together,
)
from rfs.monitoring._store.catalogue import Catalogue, CatalogueReader

COUNTER, GAUGE, HISTOGRAM, SEEN = range(4)  # a group's number says its kind in the lowest two bits
_SEEN_GROUP = SEEN
_GROUP_SLOTS = 64  # in the numbering; so many series of values are in a group
_SKETCHES = 16  # of histograms only so many, because each is as large as many counters
MAX_SERIES = 50_000

MINUTE, HOUR, DAY = 60, 3_600, 86_400
WIDTHS = (1, 10, MINUTE, HOUR)  # seconds per slot of each tier
_CUT_STEPS = {
    1: MINUTE,
    10: HOUR,
    MINUTE: HOUR,
    HOUR: DAY,
}  # a cut is a multiple of this, so that no block straddles it
_BLOCK_SPANS = {1: MINUTE, 10: HOUR, MINUTE: HOUR, HOUR: DAY}  # the longest block of each tier
_MAX_LOST_SHARE = 0.1  # of a tier per minute: a clock that is years ahead for a moment must not empty the store


class Retention(msgspec.Struct, frozen=True):
    """How long each tier is kept, in seconds, and how large all may be; the hour's tier is kept longest."""

    second: float = HOUR
    ten_seconds: float = DAY
    minute: float = 30 * DAY
    hour: float = 400 * DAY
    max_bytes: int = 512 << 20

    def age(self, width: int) -> float:
        """How long the tier with slots of *width* seconds is kept."""
        return {1: self.second, 10: self.ten_seconds, MINUTE: self.minute, HOUR: self.hour}[width]


class _Row(msgspec.Struct, array_like=True):
    """A window in the journal: ids and values of what changed."""

    counters: bytes
    increases: bytes
    gauges: bytes
    values: bytes
    sketches: list[tuple[int, Measured]]


class _Journaled(NamedTuple):
    """A row of the journal, read."""

    second: int
    counters: Mapping[int, float]
    gauges: Mapping[int, float]
    sketches: Mapping[int, Measured]


class Lifetime(NamedTuple):
    """What one series came to since it began; ``second`` is when it last changed. A gauge's value is its last one."""

    key: SeriesKey
    kind: int
    second: int
    value: float | Sketch


_Total = tuple[int, float | None, Measured | None]  # last second, value, distribution

_encode_row = msgspec.msgpack.Encoder().encode
_decode_row = msgspec.msgpack.Decoder(_Row).decode
_encode_totals = msgspec.msgpack.Encoder().encode
_decode_totals = msgspec.msgpack.Decoder(dict[int, _Total]).decode
_encode_labels = msgspec.json.Encoder().encode
_decode_labels = msgspec.json.Decoder(Labels).decode


class Quantiles(NamedTuple):
    """Of one histogram in one block."""

    times: Sequence[int]
    values: Sequence[float]


_Values = dict[int, dict[int, float]]  # id → time → value
_Sketches = dict[int, dict[int, list[Measured]]]  # id → time → what was measured then
_Block = tuple[int, int, int, int, bytes]  # width, group, start, span, payload


def _labels_text(labels: Labels) -> str:
    return _encode_labels(labels).decode()


def _doubles(content: bytes) -> array[float]:
    doubles = array("d")
    doubles.frombytes(content)
    return doubles


def _read_row(second: int, content: bytes) -> _Journaled:
    try:
        row = _decode_row(content)
        return _Journaled(
            second,
            dict(zip(_ids(row.counters), _doubles(row.increases), strict=True)),
            dict(zip(_ids(row.gauges), _doubles(row.values), strict=True)),
            dict(row.sketches),
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

    # What of the database is remembered; only within a turn

    def _remember(self, turn: sqlite3.Connection) -> None:
        if self._generation == self._catalogue.generation:
            return
        self._known: tuple[dict[SeriesKey, int], ...] = ({}, {}, {})
        self._slots: dict[int, set[int]] = {}  # group → the slots that are taken
        self._last_group: dict[tuple[int, str], int] = {}
        for some in pieces(turn.execute("SELECT id, name, labels, kind FROM series ORDER BY id"), 200):
            for number, name, labels, kind in some:
                group, slot = divmod(number, _GROUP_SLOTS)
                self._slots.setdefault(group, set()).add(slot)
                try:
                    if kind != group % 4 or kind == SEEN:
                        raise BlockError("is of an impossible kind")
                    self._note(number, SeriesKey(name, _decode_labels(labels)), kind)
                except (msgspec.DecodeError, BlockError) as error:
                    self._leave_out(f"a series of {name}", error)
        self._cuts: dict[int, int] = dict.fromkeys(WIDTHS, 0)
        self._cuts.update(turn.execute("SELECT width, second FROM cuts").fetchall())
        self._swept: dict[int, int] = {}  # tier → up to which cut its blocks are gone
        self._merged_until = 0  # all before this second has its final blocks
        self._kept_minute = self._retired_hour = -1
        self._generation = self._catalogue.generation

    def _note(self, number: int, key: SeriesKey, kind: int) -> None:
        group, slot = divmod(number, _GROUP_SLOTS)
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
            return -1
        # Series of one metric are asked for together, so they stand together.
        room = _SKETCHES if kind == HISTOGRAM else _GROUP_SLOTS
        group = self._last_group.get((kind, key.name))
        if group is None or len(self._slots[group]) >= room:
            group = next(
                (one for one in reversed(self._slots) if one % 4 == kind and len(self._slots[one]) < room),
                4 * max((one // 4 + 1 for one in self._slots), default=0) + kind,
            )
        taken = self._slots.get(group, ())
        slot = next(slot for slot in range(room) if slot not in taken)
        number = group * _GROUP_SLOTS + slot
        labels = _labels_text(key.labels)
        turn.execute("INSERT INTO series VALUES (?, ?, ?, ?)", (number, key.name, labels, kind))
        retired = turn.execute(
            "DELETE FROM retired WHERE name = ? AND labels = ? AND kind = ? RETURNING payload", (key.name, labels, kind)
        ).fetchall()
        for (payload,) in retired:  # it goes on from where it was
            for total in self._read_totals(self._put_codec, payload).values():
                self._put_totals(turn, self._put_codec, group, {slot: total})
        self._note(number, key, kind)
        return number

    # One window

    def put(self, turn: sqlite3.Connection, window: Window) -> None:
        """Keep *window*, within a turn of the catalogue."""
        self._remember(turn)
        increases = self._numbered(turn, window.counters, COUNTER)
        values = self._numbered(turn, window.gauges, GAUGE)
        known = self._known[HISTOGRAM]
        sketches: list[tuple[int, Measured]] = []
        for some in pieces(window.sketches.items(), 25):
            for key, sketch in some:
                number = known.get(key)
                if number is None:
                    number = self._intern(turn, key, HISTOGRAM)
                if number >= 0 and sketch.count:
                    sketches.append((number, measured(sketch)))
        payload = self._put_codec.pack(_encode_row(_Row(*increases, *values, sketches)))
        turn.execute("INSERT INTO journal (second, payload) VALUES (?, ?)", (window.second, payload))

    def _numbered(self, turn: sqlite3.Connection, values: Mapping[SeriesKey, float], kind: int) -> tuple[bytes, bytes]:
        known = self._known[kind]
        numbers, found = array("I"), array("d")
        for some in pieces(values.items(), 200):
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
        values: _Values = {}
        sketches: _Sketches = {}
        seen = values.setdefault(_SEEN_GROUP * _GROUP_SLOTS, {})
        for _, second, payload in rows:
            breathe()
            try:
                row = _read_row(second, self._codec.unpack(payload))
            except BlockError as error:
                self._leave_out(f"second {second} of the journal", error)
                continue
            seen[second] = seen.get(second, 0.0) + 1.0
            _add_row(values, sketches, row)
        if not seen:
            del values[_SEEN_GROUP * _GROUP_SLOTS]
        blocks = [block for width in widths for block in self._blocks(values, sketches, width, start, MINUTE)]
        if with_hours:
            blocks += self._blocks(values, sketches, HOUR, hour, HOUR)
        with self._catalogue.turn() as turn:
            if self._catalogue.generation != generation:
                return  # it is another database by now
            turn.executemany(_INSERT_BLOCK, blocks)
            for group, changes in _changes(values, sketches).items():
                self._put_totals(turn, self._codec, group, changes)
            turn.execute(
                "DELETE FROM journal WHERE second >= ? AND second < ? AND id <= ?", (start, start + MINUTE, rows[-1][0])
            )
        if start < self._merged_until:
            self._merged_until = 0  # it came late

    def _blocks(self, values: _Values, sketches: _Sketches, width: int, start: int, span: int) -> Iterator[_Block]:
        """Blocks of all these points, in slots of *width* seconds."""
        by_group: dict[int, dict[int, tuple[list[int], list[float]]]] = {}
        for number, points in values.items():
            group, slot = divmod(number, _GROUP_SLOTS)
            by_group.setdefault(group, {})[slot] = _rolled(points, width, is_gauge=group % 4 == GAUGE)
        for group, series in by_group.items():
            yield width, group, start, span, self._codec.pack(pack_values(series, width))
            breathe()
        of_group: dict[int, dict[int, tuple[list[int], list[Measured]]]] = {}
        for number, parts in sketches.items():
            group, slot = divmod(number, _GROUP_SLOTS)
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
        values: _Values = {}
        sketches: _Sketches = {}
        new_values: _Values = {}
        new_sketches: _Sketches = {}
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

    def _get_totals(self, turn: sqlite3.Connection, codec: Codec, group: int) -> dict[int, _Total]:
        found = turn.execute("SELECT payload FROM totals WHERE grp = ?", (group,)).fetchone()
        return self._read_totals(codec, found[0]) if found is not None else {}

    def _read_totals(self, codec: Codec, payload: bytes) -> dict[int, _Total]:
        try:
            return decoded_totals(codec, payload)
        except BlockError as error:
            self._leave_out("a row of lifetime totals", error)
            return {}

    def _put_totals(self, turn: sqlite3.Connection, codec: Codec, group: int, changes: Mapping[int, _Total]) -> None:
        totals = self._get_totals(turn, codec, group)
        for slot, change in changes.items():
            totals[slot] = _with(totals.get(slot), change, is_gauge=group % 4 == GAUGE)
        turn.execute(_WRITE_TOTALS, (group, codec.pack(_encode_totals(totals))))
        breathe()

    # Retention

    def _let_go(self, now: int) -> Iterator[None]:
        with self._catalogue.turn() as turn:
            self._remember(turn)
            for width in WIDTHS:
                target = min(int(now - self._retention.age(width)), now - now % _CUT_STEPS[width])
                self._raise_cut(turn, width, _allowed(_starts(turn, width), target))
        for width in WIDTHS:
            yield from self._sweep(width)
        for _ in range(_SIZE_STEPS):
            if self._catalogue.used_bytes() <= self._retention.max_bytes:
                break
            with self._catalogue.turn() as turn:
                self._remember(turn)
                sizes = turn.execute("SELECT width, sum(length(payload)) FROM blocks GROUP BY width ORDER BY 2 DESC")
                for width, _ in sizes.fetchall():
                    starts = _starts(turn, width)
                    step = _CUT_STEPS[width]
                    # The block that is being written to stays.
                    if starts and (target := starts[0] - starts[0] % step + step) <= now - now % HOUR:
                        self._raise_cut(turn, width, target)
                        break
            for width in WIDTHS:
                yield from self._sweep(width)

    def _raise_cut(self, turn: sqlite3.Connection, width: int, second: int) -> None:
        """Keep of this tier, and so of all finer ones, nothing of before *second* any more."""
        second -= second % _CUT_STEPS[width]
        for finer in WIDTHS[: WIDTHS.index(width) + 1]:
            if self._cuts[finer] < second:
                self._cuts[finer] = second
                turn.execute("INSERT OR REPLACE INTO cuts VALUES (?, ?)", (finer, second))

    def _sweep(self, width: int) -> Iterator[None]:
        cut = self._cuts[width]
        if self._swept.get(width) == cut:
            return
        for group in (_SEEN_GROUP, *self._slots):
            with self._catalogue.turn() as turn:
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
                    row = _read_row(second, self._codec.unpack(payload))
                except BlockError:
                    continue  # `_compact` will say so
                journaled.update(row.counters, row.gauges, row.sketches)
            keys = {number: (key, kind) for kind, known in enumerate(self._known) for key, number in known.items()}
            changed: set[int] = set()
            for group in self._slots:
                breathe()
                totals = self._get_totals(turn, self._codec, group)
                oldest = min(
                    found
                    for width in WIDTHS
                    for found in turn.execute(
                        "SELECT coalesce(min(start), ?) FROM blocks WHERE width = ? AND grp = ?", (_NEVER, width, group)
                    ).fetchone()
                )
                for slot, total in list(totals.items()):
                    number = group * _GROUP_SLOTS + slot
                    if total[0] >= oldest or number in journaled:
                        continue
                    del totals[slot]
                    key, kind = keys[number]
                    payload = self._codec.pack(_encode_totals({slot: total}))
                    turn.execute(
                        "INSERT OR REPLACE INTO retired VALUES (?, ?, ?, ?)",
                        (key.name, _labels_text(key.labels), kind, payload),
                    )
                    turn.execute("DELETE FROM series WHERE id = ?", (number,))
                    changed.add(group)
                if group in changed:
                    turn.execute(_WRITE_TOTALS, (group, self._codec.pack(_encode_totals(totals))))
        if changed:
            self._generation = -1


_NEVER = 1 << 62
_MAX_KNOWN = 10_000  # runs of quantiles that a reader remembers: mostly of one to sixty numbers
_SIZE_STEPS = 10  # per minute, of an hour or a day each
_WRITE_TOTALS = "INSERT OR REPLACE INTO totals VALUES (?, ?)"
_INSERT_BLOCK = "INSERT INTO blocks (width, grp, start, span, payload) VALUES (?, ?, ?, ?, ?)"


def _starts(turn: sqlite3.Connection, width: int) -> list[int]:
    found = turn.execute(
        "SELECT DISTINCT start FROM blocks WHERE width = ? AND grp = ? ORDER BY start", (width, _SEEN_GROUP)
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


def _add_row(values: _Values, sketches: _Sketches, row: _Journaled) -> None:
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


def _add_values(values: _Values, block: ValueBlock, group: int) -> None:
    for slot in block:
        part = block.get(slot)
        assert part is not None  # noqa: S101 - it has said that it has it
        points = values.setdefault(group * _GROUP_SLOTS + slot, {})
        if group % 4 == GAUGE or not points:
            points.update(zip(*part, strict=True))
        else:
            for time, value in zip(*part, strict=True):
                points[time] = points.get(time, 0.0) + value


def _add_sketches(sketches: _Sketches, block: SketchBlock, group: int) -> None:
    for slot in block:
        part = block.get(slot, 0, _NEVER)
        assert part is not None  # noqa: S101 - as above
        points = sketches.setdefault(group * _GROUP_SLOTS + slot, {})
        for time, point in zip(part.times, part.points(), strict=True):
            points.setdefault(time, []).append(point)
        breathe()


# Lifetime totals: of each group one row


def decoded_totals(codec: Codec, payload: bytes) -> dict[int, _Total]:
    """
    By slot in the group.

    Raises:
        BlockError: *payload* was damaged.
    """
    try:
        return _decode_totals(codec.unpack(payload))
    except msgspec.DecodeError as error:
        raise BlockError(str(error)) from error


def _with(total: _Total | None, change: _Total, *, is_gauge: bool) -> _Total:
    if total is None:
        return change
    second = max(total[0], change[0])
    if total[2] is not None and change[2] is not None:
        return second, None, together((total[2], change[2]))
    if is_gauge:
        return second, change[1], None
    return second, (total[1] or 0.0) + (change[1] or 0.0), None


def _changes(values: _Values, sketches: _Sketches) -> dict[int, dict[int, _Total]]:
    """By group and slot what these points add to the totals."""
    changes: dict[int, dict[int, _Total]] = {}
    for number, points in values.items():
        group, slot = divmod(number, _GROUP_SLOTS)
        last = max(points)
        if group != _SEEN_GROUP:
            value = points[last] if group % 4 == GAUGE else sum(points.values())
            changes.setdefault(group, {})[slot] = last, value, None
    for number, parts in sketches.items():
        group, slot = divmod(number, _GROUP_SLOTS)
        changes.setdefault(group, {})[slot] = (
            max(parts),
            None,
            together([part for some in parts.values() for part in some]),
        )
    return changes


class _View:
    """The windows of a catalogue at one moment."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        journal: Sequence[_Journaled],
        codec: Codec,
        leave_out: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self.journal = journal
        self._codec = codec
        self._leave_out = leave_out
        self.cuts = dict.fromkeys(WIDTHS, 0)
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
        return [by_name[key.name].get(_labels_text(key.labels)) for key in keys]

    def kind_of(self, key: SeriesKey) -> tuple[int, int] | None:
        """Kind and number of *key*; None if it is not known."""
        found = self._connection.execute(
            "SELECT kind, id FROM series WHERE name = ? AND labels = ? ORDER BY kind DESC",
            (key.name, _labels_text(key.labels)),
        ).fetchone()
        return None if found is None else (found[0], found[1])

    def rows(self, width: int, group: int, start: int, end: int) -> list[tuple[int, int, int]]:
        """
        Id, tier and start of the blocks of this tier and group with anything from *start* to before *end*, in the order in which
        they were written. Those of an hour that is not over yet have a point per minute.
        """
        found = self._connection.execute(
            "SELECT id, width, start FROM blocks WHERE width = ? AND grp = ? AND start > ? AND start < ? AND start + span > ?",
            (width, group, start - _BLOCK_SPANS[width], end, start),
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
            "SELECT max(start) FROM blocks WHERE width = 1 AND grp = ?", (_SEEN_GROUP,)
        ):
            newest = max(newest, (found or 0) + MINUTE)
        finest = self._finest(first)
        if last > newest:
            return _up(first, finest), _up(last, HOUR)  # so that the last slots of all tiers count whole
        return _up(first, finest), _up(last, self._finest(last - 1))

    def _finest(self, second: int) -> int:
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
                base = group * _GROUP_SLOTS
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
                for block in self.sketch_blocks(width, group, begin, until):
                    for slot in slots:
                        part = block.get(slot, begin, until)
                        if part is not None:
                            parts[group * _GROUP_SLOTS + slot] += part.points()
                    breathe()
        for row in self.journal:
            if start <= row.second < end:
                for number in parts.keys() & row.sketches.keys():
                    parts[number].append(row.sketches[number])
        return {number: sketch_of(found) for number, found in parts.items()}

    def last_before(self, number: int, time: int) -> float | None:
        """What gauge *number* was just before *time*."""
        group, slot = divmod(number, _GROUP_SLOTS)
        journaled = [
            (row.second, row.gauges[number]) for row in self.journal if number in row.gauges and row.second < time
        ]
        if journaled:
            return max(journaled, key=lambda one: one[0])[1]
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
        totals: dict[int, _Total] = {}
        for group, payload in self._connection.execute("SELECT grp, payload FROM totals"):
            breathe()
            try:
                found = decoded_totals(self._codec, payload)
            except BlockError as error:
                self._leave_out(f"a row of lifetime totals is damaged and left out: {error}")
                continue
            totals.update((group * _GROUP_SLOTS + slot, total) for slot, total in found.items())
        values: _Values = {}
        sketches: _Sketches = {}
        for row in self.journal:
            _add_row(values, sketches, row)
            breathe()
        for group, changes in _changes(values, sketches).items():
            for slot, change in changes.items():
                number = group * _GROUP_SLOTS + slot
                totals[number] = _with(totals.get(number), change, is_gauge=group % 4 == GAUGE)
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
                "SELECT min(start) FROM blocks WHERE width = ? AND grp = ?", (width, _SEEN_GROUP)
            ).fetchone()
            oldest += [] if found is None else [found]
        return {
            "series": series,
            "blocks": blocks,
            "journal_rows": len(self.journal),
            "horizon_seconds": newest - min(oldest, default=newest),
        }


def _lifetime(name: str, labels: str, kind: int, total: _Total) -> Lifetime:
    second, value, part = total
    what = sketch_of((part,)) if part is not None else value if value is not None else 0.0
    return Lifetime(SeriesKey(name, _decode_labels(labels)), kind, second, what)


def _to_second(time: float) -> int:
    return ceil(min(max(time, 0), _NEVER))


def _up(second: int, width: int) -> int:
    return -(-second // width) * width


def _by_group(numbers: Iterable[int]) -> dict[int, set[int]]:
    groups: dict[int, set[int]] = {}
    for number in numbers:
        group, slot = divmod(number, _GROUP_SLOTS)
        groups.setdefault(group, set()).add(slot)
    return groups


class _Steps:
    """The steps of a time series, from *start* on, each *seconds* long."""

    def __init__(self, start: float, end: float, seconds: float) -> None:
        self.start = start
        self.seconds = seconds
        self.count = max(1, ceil((end - start) / seconds))

    def at(self, index: int) -> float:
        return self.start + index * self.seconds

    def index(self, time: int) -> int:
        """In which step *time* is; outside of 0 to `count` - 1: in none."""
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
    group, slot = divmod(number, _GROUP_SLOTS)
    seen = [False] * steps.count
    found: list[tuple[int, float]] = []  # time and value, as written
    for width, begin, until in view.stretches(start, end, steps.width):
        for block in view.value_blocks(width, _SEEN_GROUP, begin, until):
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
                for slot, times, values in _block_quantiles(view, row, slots, q, known):
                    number = group * _GROUP_SLOTS + slot
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
) -> Iterator[tuple[int, Sequence[int], Sequence[float]]]:
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
            part = block.get(slot, 0, _NEVER)
            quantiles = Quantiles((), ())
            if part is not None:
                columns = part.columns
                values = [columns.quantile(index, q) for index in range(part.first, part.first + len(part.times))]
                quantiles = Quantiles(part.times, array("d", values))
            if len(known) >= _MAX_KNOWN:
                known.pop(next(iter(known)))
            known[row[0], slot, q] = quantiles
        if quantiles.times:
            yield slot, *quantiles


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
        self._journal: dict[int, _Journaled] = {}
        self._quantiles: dict[tuple[int, int, float], Quantiles] = {}  # by block, slot in the group, and share
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
            yield _View(connection, self._read_journal(connection), self._codec, self._leave_out)

    def _read_journal(self, connection: sqlite3.Connection) -> list[_Journaled]:
        # A row never changes, so each is read once.
        ids = [number for (number,) in connection.execute("SELECT id FROM journal ORDER BY id")]
        journal = {number: row for number in ids if (row := self._journal.get(number)) is not None}
        for number in ids:
            if number not in journal:
                for second, payload in connection.execute(
                    "SELECT second, payload FROM journal WHERE id = ?", (number,)
                ):
                    try:
                        journal[number] = _read_row(second, self._codec.unpack(payload))
                    except BlockError as error:
                        self._leave_out(f"second {second} of the journal is damaged and left out: {error}")
                        journal[number] = _Journaled(-1, {}, {}, {})
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
                keys[SeriesKey(name, _decode_labels(text))] = None
        return list(keys)

    def resolution(self, start: float) -> int:
        """Seconds per slot of the finest tier that reaches back to *start*."""
        with self._view() as view:
            return WIDTHS[0] if view is None else view._finest(_to_second(start))

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
