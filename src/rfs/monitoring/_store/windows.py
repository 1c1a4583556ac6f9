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
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Lock
from time import monotonic
from typing import NamedTuple

import msgspec

from rfs.monitoring._capture.cells import Labels, SeriesKey
from rfs.monitoring._capture.pace import breathe, pieces
from rfs.monitoring._store import Window
from rfs.monitoring._store.blocks import (
    BlockError,
    Codec,
    Measured,
    SketchBlock,
    ValueBlock,
    measured,
    pack_sketches,
    pack_values,
    together,
)
from rfs.monitoring._store.catalogue import Catalogue
from rfs.monitoring._store.retention import Retention

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
_INSERT_BLOCK = "INSERT INTO blocks (width, grp, start, span, payload) VALUES (?, ?, ?, ?, ?)"


class _Row(msgspec.Struct, array_like=True):
    """A window in the journal: ids and values of what changed."""

    counters: bytes
    increases: bytes
    gauges: bytes
    values: bytes
    sketches: list[tuple[int, Measured]]


class Journaled(NamedTuple):
    """A row of the journal, read."""

    second: int
    counters: Mapping[int, float]
    gauges: Mapping[int, float]
    sketches: Mapping[int, Measured]


Total = tuple[int, float | None, Measured | None]  # last second, value, distribution

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
        values: ValuesById = {}
        sketches: SketchesById = {}
        seen = values.setdefault(SEEN_GROUP * GROUP_SLOTS, {})
        for _, second, payload in rows:
            breathe()
            try:
                row = read_row(second, self._codec.unpack(payload))
            except BlockError as error:
                self._leave_out(f"second {second} of the journal", error)
                continue
            seen[second] = seen.get(second, 0.0) + 1.0
            add_row(values, sketches, row)
        if not seen:
            del values[SEEN_GROUP * GROUP_SLOTS]
        blocks = [block for width in widths for block in self._blocks(values, sketches, width, start, MINUTE)]
        if with_hours:
            blocks += self._blocks(values, sketches, HOUR, hour, HOUR)
        with self._catalogue.turn() as turn:
            if self._catalogue.generation != generation:
                return  # it is another database by now
            turn.executemany(_INSERT_BLOCK, blocks)
            for group, changes in changes_of(values, sketches).items():
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
        return self._read_totals(codec, found[0]) if found is not None else {}

    def _read_totals(self, codec: Codec, payload: bytes) -> dict[int, Total]:
        try:
            return decoded_totals(codec, payload)
        except BlockError as error:
            self._leave_out("a row of lifetime totals", error)
            return {}

    def _put_totals(self, turn: sqlite3.Connection, codec: Codec, group: int, changes: Mapping[int, Total]) -> None:
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
                        "SELECT coalesce(min(start), ?) FROM blocks WHERE width = ? AND grp = ?", (NEVER, width, group)
                    ).fetchone()
                )
                for slot, total in list(totals.items()):
                    number = group * GROUP_SLOTS + slot
                    if total[0] >= oldest or number in journaled:
                        continue
                    del totals[slot]
                    key, kind = keys[number]
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
            self._generation = -1


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


def with_change(total: Total | None, change: Total, *, is_gauge: bool) -> Total:
    if total is None:
        return change
    second = max(total[0], change[0])
    if total[2] is not None and change[2] is not None:
        return second, None, together((total[2], change[2]))
    if is_gauge:
        return second, change[1], None
    return second, (total[1] or 0.0) + (change[1] or 0.0), None


def changes_of(values: ValuesById, sketches: SketchesById) -> dict[int, dict[int, Total]]:
    """By group and slot what these points add to the totals."""
    changes: dict[int, dict[int, Total]] = {}
    for number, points in values.items():
        breathe()
        group, slot = divmod(number, GROUP_SLOTS)
        last = max(points)
        if group != SEEN_GROUP:
            value = points[last] if group % 4 == GAUGE else sum(points.values())
            changes.setdefault(group, {})[slot] = last, value, None
    for number, parts in sketches.items():
        breathe()
        group, slot = divmod(number, GROUP_SLOTS)
        changes.setdefault(group, {})[slot] = (
            max(parts),
            None,
            together([part for some in parts.values() for part in some]),
        )
    return changes
