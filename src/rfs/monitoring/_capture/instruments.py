"""
Instruments: counters, gauges and histograms that add to cells.

Declaring fails loudly, measuring fails quietly: a bad name raises `MetricDefinitionError`; a measurement that is not
a finite number (or, for a counter, is negative) leaves the sums alone and is counted as rejected. Every ``inc``, ``set`` and
``observe`` is safe from any thread, takes no lock and does no I/O.

A child (one label set of a metric) is bound once with ``labels(...)`` and then costs one cell addition. Passing labels
with the measurement finds the same child. A metric keeps at most `MAX_SERIES` children, and all metrics together
`MAX_PROCESS_SERIES`; what comes after goes to one series of its metric labelled ``rfs_overflow="true"``, so sums stay right.
RFS's own books are not among those 10,000: no label of the host takes their place.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from math import ceil, inf, log2
from mmap import mmap
from struct import Struct
from time import monotonic
from typing import Generic, TypeVar
from weakref import ref

from rfs.errors import MetricDefinitionError
from rfs.monitoring._capture.cells import (
    AGEING_FROM,
    EXEMPLAR,
    EXEMPLAR_CELLS,
    OCTAVE,
    SERIES,
    Block,
    Cells,
    Labels,
    Region,
    SeriesKey,
    anonymous_cells,
    encode_entry,
)
from rfs.monitoring._capture.foreign import ForeignCells
from rfs.monitoring._capture.sketch import BUCKETS_PER_OCTAVE

MAX_SERIES = 2_000  # of one metric
MAX_PROCESS_SERIES = (
    10_000  # of all the host's metrics; each may still have a series without labels, and its overflow series
)
MAX_METRICS = 10_000
IDLE_SECONDS = 3_600.0  # a series with labels that nobody has written for so long is forgotten
MAX_LABEL_CHARACTERS = 256
MAX_NAME_CHARACTERS = 200
MAX_HELP_CHARACTERS = 500
EXEMPLAR_SECONDS = 1.0  # a series' exemplar changes no more often
OVERFLOW_LABEL = "rfs_overflow"
_OVERFLOW: Labels = ((OVERFLOW_LABEL, "true"),)
INTERNAL_ERRORS = "telemetry_internal_errors_total"

# Measurements are checked by `value.__class__ is _FLOAT` (or _INT): a call-free test of the exact type that bool, str and
# hostile classes fail. These names are for the type checkers, which believe that nothing else can come.
_INT: type = int
_FLOAT: type = float

# CPython keeps one object for each small integer; where another implementation does not, the next line decides.
_ONE: float = 1

_BUCKETS = float(BUCKETS_PER_OCTAVE)  # multiplied with a float, a float is quicker

# Larger magnitudes would make a float sum infinite; comparing is exact also for Python's unbounded integers.
_LARGEST = 1.7e308
_LOWEST = -1.7e308
# Of a histogram's measurements: 2**53 of them, as many as a cell can count, add up to less than `_LARGEST`.
_LARGEST_MEASUREMENT = 1e292
# Below the smallest normal float the logarithm loses its precision: counted as zero.
_SMALLEST = 2.3e-308

_NAME = re.compile(r"[A-Za-z_:][A-Za-z0-9_:.-]*\Z")
_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

_IDS = Struct(">QQQ")  # trace, span
_NO_SPAN = "0" * 16

# Octave → where its 64 buckets are. Plain tuples, not Blocks: CPython unpacks only those at once.
_Octaves = dict[int, tuple["memoryview[float]", int]]


class MetricType(StrEnum):
    """What a metric is. A timer is a histogram with a section of its own in the summary."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    TIMER = "timer"


ACROSS = ("latest", "sum", "min", "max", "per_worker")  # how a gauge's values of several processes become one

Moved = Mapping[int, "memoryview[float]"]  # id(old cells) → the cells to go on with, at the same index


class Collector:
    """
    What an instrument needs from its registry: cells, and somebody to tell about rejected measurements and label text.

    ``clean`` masks a label value; it is called once per series, not per measurement. ``series`` counts those of all the host's
    metrics.
    """

    __slots__ = ("cells", "clean", "reject", "series")

    def __init__(self, cells: Cells, reject: Callable[[str, str], None], clean: Callable[[str], str]) -> None:
        self.cells = cells
        self.reject = reject
        self.clean = clean
        self.series = 0


class _Child:
    """What the series of all instruments share: when somebody has last seen them change, and how they go elsewhere."""

    __slots__ = ("__weakref__", "_at", "_before", "_cells", "key", "since", "state")

    def __init__(self, key: SeriesKey, block: Block) -> None:
        self._cells, self._at, _ = block
        self._before: float = 0.0  # what has been counted in cells that were left behind
        self.key = key
        self.state = -1.0  # what changes with every measurement, as it was at `since`
        self.since = inf

    def is_idle(self, now: float) -> bool:
        """Whether the series has been the same for an hour; asked every few minutes."""
        state = self._state()
        if state != self.state or self.since == inf:
            self.state, self.since = state, now
        return now - self.since >= IDLE_SECONDS

    def is_in(self, left: Mapping[int, bool]) -> bool:
        """Whether the series is in cells that are being left."""
        return id(self._cells) in left

    def _state(self) -> float:
        return self._before + self._cells[self._at]


class BoundCounter(_Child):
    """One series of a counter."""

    __slots__ = ("_owner",)

    def __init__(self, owner: Counter, key: SeriesKey, block: Block) -> None:
        super().__init__(key, block)
        self._owner = owner

    def renew(self, block: Block, left: Mapping[int, bool]) -> None:
        """Go on in *block*; see `Instrument.renew`."""
        cells, at, _ = block
        keep = left[id(self._cells)]
        old = self._cells[self._at]  # from here on nothing calls: no addition comes between
        if keep:
            cells[at] = old
        else:
            self._before += old
        self._cells, self._at = cells, at

    def move(self, moved: Moved, *, keep: bool) -> None:
        """Go on in other cells, with what is in these if *keep*."""
        new = moved.get(id(self._cells))
        if new is None:
            return
        old, at = self._cells, self._at
        if keep:
            new[at] = old[at]  # nothing calls: no addition is lost between the two lines
            self._cells = new
        else:
            self._cells = new

    def inc(self, amount: float = 1, /) -> None:
        """Add *amount*: an int or float, finite and not negative; anything else is counted as rejected. Never raises."""
        if amount is _ONE:  # nearly always; and 1 more is never too much
            self._cells[self._at] += 1.0
            return
        if (amount.__class__ is _INT or amount.__class__ is _FLOAT) and 0 <= amount <= _LARGEST:
            # From here to the store no call is made: exact under threads (see `cells`).
            total = self._cells[self._at] + amount
            if total <= _LARGEST:
                self._cells[self._at] = total
                return
        self._owner.reject("invalid_value")

    @property
    def value(self) -> float:
        """The sum since the process started."""
        return self._before + self._cells[self._at]


class BoundGauge(_Child):
    """One series of a gauge. Unknown until the first write."""

    __slots__ = ("_owner",)

    def __init__(self, owner: Gauge, key: SeriesKey, block: Block) -> None:
        super().__init__(key, block)
        self._owner = owner

    def renew(self, block: Block, left: Mapping[int, bool]) -> None:  # noqa: ARG002 - a gauge has no sum that could be folded
        """Go on in *block*, with the value that it has."""
        cells, at, _ = block
        old, was = self._cells, self._at
        cells[at] = old[was]  # nothing calls: no write is lost between the lines
        cells[at + 1] = old[was + 1]
        self._cells, self._at = cells, at

    def _state(self) -> float:
        return self._cells[self._at + 1]  # when it was written

    def move(self, moved: Moved, *, keep: bool) -> None:
        """Go on in other cells, with what is in these if *keep*."""
        new = moved.get(id(self._cells))
        if new is None:
            return
        old, at = self._cells, self._at
        if keep:
            new[at] = old[at]  # nothing calls: no write is lost between the lines
            new[at + 1] = old[at + 1]
            self._cells = new
        else:
            self._cells = new

    def set(self, value: float, /) -> None:
        """Set to *value*, an int or float (NaN and the infinities too); else counted as rejected. Never raises."""
        if value.__class__ is _FLOAT or (value.__class__ is _INT and _LOWEST <= value <= _LARGEST):
            now = monotonic()
            cells, at = self._cells, self._at
            cells[at] = value
            cells[at + 1] = now
        else:
            self._owner.reject("invalid_value")

    def inc(self, amount: float = 1, /) -> None:
        """Add *amount*, a finite int or float; else counted as rejected. An unset gauge starts from 0. Never raises."""
        if amount is _ONE:
            now = monotonic()
            cells, at = self._cells, self._at
            cells[at] += 1.0
            cells[at + 1] = now
            return
        if (amount.__class__ is _INT or amount.__class__ is _FLOAT) and _LOWEST <= amount <= _LARGEST:
            now = monotonic()
            cells, at = self._cells, self._at
            cells[at] += amount
            cells[at + 1] = now
        else:
            self._owner.reject("invalid_value")

    def dec(self, amount: float = 1, /) -> None:
        """Subtract *amount*; see `inc`."""
        if amount is _ONE:
            now = monotonic()
            cells, at = self._cells, self._at
            cells[at] -= 1.0
            cells[at + 1] = now
            return
        if amount.__class__ is _INT or amount.__class__ is _FLOAT:
            self.inc(-amount)
        else:
            self._owner.reject("invalid_value")

    @property
    def value(self) -> float | None:
        """The last value; None before the first write."""
        return self._cells[self._at] if self._cells[self._at + 1] else None


class BoundHistogram(_Child):
    """One series of a histogram: a sketch whose buckets take cells by octave, as they are needed."""

    __slots__ = (
        "_exemplar",
        "_greatest",
        "_least",
        "_negative",
        "_owner",
        "_positive",
        "_region",
        "exemplar_due",
    )

    # Layout of the first block: count, total, zero, minimum, maximum.
    HEAD_CELLS = 5

    def __init__(self, owner: Histogram, key: SeriesKey, block: Block) -> None:
        super().__init__(key, block)
        self._owner = owner
        self._region = block.region
        # Kept twice: reading a cell costs six times what reading an attribute does. In cells whose count is 0 they mean nothing.
        self._least = inf
        self._greatest = -inf
        self._positive: _Octaves = {}
        self._negative: _Octaves = {}
        self._exemplar: tuple[memoryview[float], memoryview[int], int] | None = None
        self.exemplar_due = 0.0  # monotonic: from then on `keep_exemplar` may be called

    def move(self, moved: Moved, *, keep: bool) -> None:
        """Go on in other cells, with what is in these if *keep*."""
        old, head = self._cells, self._at
        new = moved.get(id(old))
        if new is None:
            return
        positive, negative = self._positive, self._negative
        self._move_exemplar(moved, keep=keep)
        elsewhere = [_moved_octaves(octaves, moved) for octaves in (positive, negative)]
        # In one stretch: a measurement goes as a whole into the old cells, or as a whole into the new ones.
        self._positive, self._negative = elsewhere
        self._cells = new
        if not keep:
            self._least, self._greatest = inf, -inf
            return
        for octaves, theirs in ((positive, elsewhere[0]), (negative, elsewhere[1])):
            for number, (cells, at) in octaves.items():
                target, first = theirs.get(number, (cells, at))
                if target is not cells:
                    for index in range(BUCKETS_PER_OCTAVE):
                        target[first + index] += cells[at + index]
        new[head + 3], new[head + 4] = self._least, self._greatest
        for offset in (1, 2, 0):
            new[head + offset] += old[head + offset]

    def renew(self, block: Block, left: Mapping[int, bool]) -> None:
        """Go on in *block*; see `Instrument.renew`."""
        cells, at, region = block
        old, was, both = self._cells, self._at, (self._positive, self._negative)
        keep = left[id(old)]
        fresh: tuple[_Octaves, _Octaves] = ({}, {})
        # In one stretch: a measurement goes as a whole into the old cells, or as a whole into the new ones.
        if keep:
            cells[at], cells[at + 1], cells[at + 2] = old[was], old[was + 1], old[was + 2]
            cells[at + 3], cells[at + 4] = old[was + 3], old[was + 4]
        else:
            self._before += old[was]
            self._least, self._greatest = inf, -inf
        self._positive, self._negative = fresh
        self._cells, self._at, self._region = cells, at, region
        exemplar, self._exemplar = self._exemplar, None
        if exemplar is not None and (made := self._make_exemplar()) is not None:
            for offset in range(EXEMPLAR_CELLS):
                made[1][made[2] + offset] = exemplar[1][exemplar[2] + offset]
        for octaves, theirs in zip(both, fresh, strict=True):
            for number, (source, first) in tuple(octaves.items()):
                # What somebody has just begun in new cells, for these old ones, comes along in any case.
                found = self._octave(theirs, number) if left.get(id(source), True) else None
                if found is not None:
                    target, begin = found
                    for index in range(BUCKETS_PER_OCTAVE):
                        target[begin + index] += source[first + index]
                        source[first + index] = 0.0

    def observe(self, value: float, /) -> None:
        """
        Count one measurement in the metric's unit: an int or float, at most 1e292 in size; else counted as rejected.

        Never raises. Safe from any thread.
        """
        octaves: _Octaves | None
        if value.__class__ is _FLOAT and _SMALLEST < value <= _LARGEST_MEASUREMENT:  # nearly always
            index = ceil(log2(value) * _BUCKETS)
            octaves = self._positive
        elif not (value.__class__ is _FLOAT or value.__class__ is _INT) or not (
            -_LARGEST_MEASUREMENT <= value <= _LARGEST_MEASUREMENT
        ):
            self._owner.reject("invalid_value")
            return
        elif -_SMALLEST <= value <= _SMALLEST:
            index, octaves = 0, None
        else:
            index = ceil(log2(abs(value)) * _BUCKETS)
            octaves = self._positive if value > 0 else self._negative
        if octaves is None:
            buckets, at = self._cells, self._at + 2
        else:
            try:
                buckets, first = octaves[index >> 6]
            except KeyError:
                # Once more from the start: the series may have gone elsewhere meanwhile, or go there at the jump out of here.
                if self._octave(octaves, index >> 6) is not None:
                    self.observe(value)
                return
            at = first + (index & 63)
        # From here on no call is made: a reader sees all of this measurement or nothing.
        cells, head = self._cells, self._at
        cells[head + 1] += value
        buckets[at] += 1.0
        if value < self._least:
            self._least = cells[head + 3] = value
        if value > self._greatest:
            self._greatest = cells[head + 4] = value
        cells[head] += 1.0

    def keep_exemplar(self, value: float, now: float, time_ns: int, trace_id: str, span_id: str) -> None:
        """
        Let the measurement *value*, which was just observed, stand for the series, with its trace.

        Call it when *now*, a monotonic time, has reached `exemplar_due`, which moves on by a second. What is no trace id or no
        measurement is left out. Never raises.
        """
        self.exemplar_due = now + EXEMPLAR_SECONDS
        if not (value.__class__ is _FLOAT or value.__class__ is _INT) or not (
            -_LARGEST_MEASUREMENT <= value <= _LARGEST_MEASUREMENT
        ):
            return
        try:
            ids = bytes.fromhex(trace_id + (span_id or _NO_SPAN))
        except ValueError:
            return
        if len(ids) != _IDS.size:
            return
        high, low, span = _IDS.unpack(ids)
        exemplar = self._exemplar or self._make_exemplar()
        if exemplar is None:
            return
        seconds = time_ns / 1e9
        cells, words, at = exemplar
        # From here on no call is made: what two threads write does not mix. Others find a mixture by its check; see `cells`.
        cells[at] = value
        cells[at + 1] = seconds
        words[at + 2] = high
        words[at + 3] = low
        words[at + 4] = span
        words[at + 5] = words[at] + 3 * words[at + 1] + 5 * high + 7 * low + 9 * span & 0xFFFF_FFFF_FFFF_FFFF

    def _make_exemplar(self) -> tuple[memoryview[float], memoryview[int], int] | None:
        if self._region < 0:
            return None  # an overflow series that nobody else sees
        entry = encode_entry([EXEMPLAR, self._region, self._at])
        owner = self._owner
        block = owner.collector.cells.allocate(
            EXEMPLAR_CELLS, lambda _region: entry, own=owner.own, ageing=self._region >= AGEING_FROM
        )
        if block is None:
            return None
        made = block.cells, block.cells.cast("B").cast("Q"), block.at
        if self._exemplar is None:  # no call up to the next line: of two racing threads one wins
            self._exemplar = made
        return self._exemplar

    def _move_exemplar(self, moved: Moved, *, keep: bool) -> None:
        if self._exemplar is None:
            return
        cells, words, at = self._exemplar
        new = moved.get(id(cells), cells)
        fresh = new.cast("B").cast("Q")
        if keep:
            fresh[at : at + EXEMPLAR_CELLS] = words[at : at + EXEMPLAR_CELLS]
        else:
            self.exemplar_due = 0.0
        self._exemplar = new, fresh, at

    def _octave(self, octaves: _Octaves, number: int) -> tuple[memoryview[float], int] | None:
        entry = encode_entry([OCTAVE, self._region, self._at, number, octaves is self._negative])
        owner = self._owner
        ageing = self._region >= AGEING_FROM
        block = owner.collector.cells.allocate(BUCKETS_PER_OCTAVE, lambda _region: entry, own=owner.own, ageing=ageing)
        if block is None:
            self._owner.reject("cells_full")
            return None
        # One of two racing threads wins; the other's cells stay zero.
        return octaves.setdefault(number, (block.cells, block.at))

    @property
    def count(self) -> float:
        """How many measurements were counted since the process started."""
        return self._before + self._cells[self._at]


def _moved_octaves(octaves: _Octaves, moved: Moved) -> _Octaves:
    return {number: (moved.get(id(cells), cells), at) for number, (cells, at) in tuple(octaves.items())}


Child = TypeVar("Child", BoundCounter, BoundGauge, BoundHistogram)


class Instrument(ABC, Generic[Child]):
    """What counters, gauges and histograms share: a name, and a child per label set."""

    type: MetricType
    _cells_per_child: int

    def __init__(
        self, collector: Collector, name: str, help_text: str, labels: Iterable[str], across: str = ""
    ) -> None:
        self.collector = collector
        self.name = name
        self.help = help_text
        self._fields = (str(self.type), help_text[:MAX_HELP_CHARACTERS], across)
        self.own = is_own(name)
        self.crowded_by = ""  # the label with the most values, once a series has been refused
        self.label_names = tuple(labels)
        for label in self.label_names:
            fault = label_fault(label)
            if fault:
                raise MetricDefinitionError(name, fault)
        collector.cells.declare(name, self._fields)
        self._series: dict[Labels, Child] = {}
        self._found: dict[tuple[tuple[str, object], ...], Child] = {}  # labels as given → child
        self._leaving: dict[Labels, ref[Child]] = {}  # about to be forgotten, unless somebody holds them
        self._plain: Child | None = None
        self._overflow: Child | None = None

    def labels(self, **labels: str | int | bool) -> Child:
        """
        Bind a label set and return its series; bind once, measure often.

        Raises:
            MetricDefinitionError: A label name is malformed, reserved, or not among the declared ones.
        """
        for label in labels:
            fault = label_fault(label)
            if not fault and self.label_names and label not in self.label_names:
                fault = f"label {label!r} is not declared; declared are {', '.join(self.label_names)}"
            if fault:
                raise MetricDefinitionError(self.name, fault)
        return self._bind(labels)

    def series(self) -> list[Child]:
        """All children, the overflow series included."""
        return list(self._series.values())

    def reject(self, reason: str) -> None:
        """Count a measurement that was not taken."""
        self.collector.reject(self.name, reason)

    def _find(self, labels: Mapping[str, object]) -> Child | None:
        """The child for labels given with a measurement; None when they are bad, which is counted."""
        if not labels:
            child = self._plain
            if child is None:
                child = self._plain = self._bind({})
            return child
        for label in labels:
            if label_fault(label) or (self.label_names and label not in self.label_names):
                self.reject("invalid_label")
                return None
        child = self._bind(labels)
        # Only exact strings: 1, 1.0 and True are equal as keys, but not as label values.
        if all(value.__class__ is str for value in labels.values()) and len(self._found) < 4 * MAX_SERIES:
            self._found[tuple(labels.items())] = child
        return child

    def _bind(self, labels: Mapping[str, object]) -> Child:
        clean = self.collector.clean
        values = [(label, _label_text(value, clean)) for label, value in labels.items()]
        key: Labels = tuple(sorted((label, text) for label, text in values if text))
        child = self._series.get(key)
        if child is not None:
            return child
        leaving = self._leaving.get(key)
        if leaving is not None and (child := leaving()) is not None:
            return self._series.setdefault(key, child)
        collector = self.collector
        if key and (len(self._series) >= MAX_SERIES - 1 or (collector.series >= MAX_PROCESS_SERIES and not self.own)):
            return self._overflowing("cardinality_limit", key)
        series, regions = self._series, collector.cells.regions
        while True:
            block = self._allocate(key)
            if block is None:
                return self._overflowing("cells_full", key)
            region = regions.get(block.region)
            made = self._make(SeriesKey(self.name, key), block)
            # Nothing calls from here to the store: all that are in cells which are being left are among our series by then.
            if region is None or not region.entry_limit:
                continue
            if key in series:
                return series[key]
            series[key] = made
            if not self.own:
                collector.series += 1
            return made

    def _allocate(self, labels: Labels) -> Block | None:
        cells = self.collector.cells
        flat = [text for label in labels for text in label]

        def describe(region: Region) -> bytes:
            return encode_entry([SERIES, cells.metric_id(region, self.name, self._fields), flat])

        ageing = may_be_forgotten(SeriesKey(self.name, labels))
        return cells.allocate(self._cells_per_child, describe, own=self.own, ageing=ageing)

    def forget_idle(self, now: float) -> int:
        """Forget the series that nobody has written for an hour and that nobody holds; return how many these are."""
        if self.own:
            return 0
        idle = [key for key, child in tuple(self._series.items()) if self._may_go(child) and child.is_idle(now)]
        if not idle:
            return 0
        # A child that lives on without our own references is held by the host, or by a call that is measuring this very moment.
        # Nobody can write into the cells of one that does not: then, and only then, they are left behind.
        series = self._series
        self._leaving = leaving = {key: ref(series[key]) for key in idle}
        for key in idle:
            del series[key]
        self._found = {}
        for key in idle:
            child = leaving[key]()
            if child is not None:
                series.setdefault(key, child)
            del child
        forgotten = sum(key not in series for key in idle)
        self.collector.series -= forgotten
        return forgotten

    def _may_go(self, child: Child) -> bool:
        return may_be_forgotten(child.key)

    def renew(self, left: Mapping[int, bool]) -> None:
        """
        Let the series whose cells are among those *left*, by their ``id``, go on in others: with their sums where it says True.

        Else from zero; what they have measured so far stays behind, and is folded.
        """
        for child in tuple(self._series.values()):
            if child.is_in(left):
                block = self._allocate(child.key.labels)
                if block is None:
                    self.reject("cells_full")
                else:
                    child.renew(block, left)

    def move(self, moved: Moved, *, keep: bool) -> None:
        """Let every series go on in other cells; see `Cells.move`."""
        for child in tuple(self._series.values()):
            child.move(moved, keep=keep)

    def _overflowing(self, reason: str, refused: Labels) -> Child:
        if not self.crowded_by:
            self.crowded_by = self._widest_label(refused)
        self.reject(reason)
        child = self._overflow
        if child is None:
            key = _OVERFLOW
            # Cells are short only after 64 MiB of them: the overflow series of that metric is then not shared memory.
            private = memoryview(bytearray(8 * self._cells_per_child)).cast("d")
            block = self._allocate(key) or Block(private, 0, -1)
            child = self._overflow = self._series.setdefault(key, self._make(SeriesKey(self.name, key), block))
        return child

    def _widest_label(self, refused: Labels) -> str:
        """The label with the most values; looked for once, when a series is refused for the first time."""
        values: dict[str, set[str]] = {}
        for labels in [*self._series, refused]:
            for label, value in labels:
                values.setdefault(label, set()).add(value)
        return max(values, key=lambda label: len(values[label]), default="")

    @abstractmethod
    def _make(self, key: SeriesKey, block: Block) -> Child:
        """A child of this kind of instrument, on its cells."""


class Counter(Instrument[BoundCounter]):
    """A sum that only grows: requests, failures, bytes."""

    type = MetricType.COUNTER
    _cells_per_child = 1

    def inc(self, amount: float = 1, /, **labels: str | int | bool) -> None:
        """Add *amount* to the series of *labels*; see `BoundCounter.inc`. Never raises."""
        try:
            child = self._found[tuple(labels.items())] if labels else self._plain
        except (KeyError, TypeError):
            child = None
        if child is None:
            child = self._find(labels)
            if child is None:
                return
        child.inc(amount)

    def _make(self, key: SeriesKey, block: Block) -> BoundCounter:
        return BoundCounter(self, key, block)


class Gauge(Instrument[BoundGauge]):
    """A value that goes up and down: connections, temperature. Unknown until the first write."""

    type = MetricType.GAUGE
    _cells_per_child = 2

    def set(self, value: float, /, **labels: str | int | bool) -> None:
        """Set the series of *labels* to *value*; see `BoundGauge.set`. Never raises."""
        child = self._child(labels)
        if child is not None:
            child.set(value)

    def inc(self, amount: float = 1, /, **labels: str | int | bool) -> None:
        """Add *amount* to the series of *labels*; see `BoundGauge.inc`. Never raises."""
        child = self._child(labels)
        if child is not None:
            child.inc(amount)

    def dec(self, amount: float = 1, /, **labels: str | int | bool) -> None:
        """Subtract *amount* from the series of *labels*; see `BoundGauge.inc`. Never raises."""
        child = self._child(labels)
        if child is not None:
            child.dec(amount)

    def _child(self, labels: Mapping[str, object]) -> BoundGauge | None:
        try:
            child = self._found[tuple(labels.items())] if labels else self._plain
        except (KeyError, TypeError):
            child = None
        return child if child is not None else self._find(labels)

    def _make(self, key: SeriesKey, block: Block) -> BoundGauge:
        return BoundGauge(self, key, block)

    def _may_go(self, child: BoundGauge) -> bool:
        # A gauge says what is, however long ago it was written: it makes room where room is short. One that is added up, and so
        # goes up and down by steps, has to be back at zero: it would begin there.
        crowded = len(self._series) >= MAX_SERIES // 2 or self.collector.series >= MAX_PROCESS_SERIES // 2
        return super()._may_go(child) and crowded and (self._fields[2] != "sum" or not child.value)


class Histogram(Instrument[BoundHistogram]):
    """A distribution: durations, sizes. Any quantile of it is known within 1 %; there are no buckets to choose."""

    _cells_per_child = BoundHistogram.HEAD_CELLS

    def __init__(
        self,
        collector: Collector,
        name: str,
        help_text: str,
        labels: Iterable[str],
        metric_type: MetricType = MetricType.HISTOGRAM,
    ) -> None:
        self.type = metric_type
        super().__init__(collector, name, help_text, labels)

    def child(self, labels: Mapping[str, object]) -> BoundHistogram | None:
        """The series of *labels*, as `observe` finds it; None if they are bad, which is counted. Never raises."""
        try:
            child = self._found[tuple(labels.items())] if labels else self._plain
        except (KeyError, TypeError):
            child = None
        return child if child is not None else self._find(labels)

    def observe(self, value: float, /, **labels: str | int | bool) -> None:
        """Count *value* in the series of *labels*; see `BoundHistogram.observe`. Never raises."""
        try:
            child = self._found[tuple(labels.items())] if labels else self._plain
        except (KeyError, TypeError):
            child = None
        if child is None:
            child = self._find(labels)
            if child is None:
                return
        child.observe(value)

    def _make(self, key: SeriesKey, block: Block) -> BoundHistogram:
        return BoundHistogram(self, key, block)


AnyInstrument = Counter | Gauge | Histogram


class Registry:
    """
    The metrics of one Monitor, by name. Declaring a name again with the same type gives the same instrument.

    Of a metric only the type is fixed; help and declared labels are those of the first declaration.
    """

    def __init__(self, reject: Callable[[str, str], None], clean: Callable[[str], str]) -> None:
        self.cells = Cells(anonymous_cells)
        self._collector = Collector(self.cells, reject, clean)
        self.foreign = ForeignCells(self.cells, clean)
        self._metrics: dict[str, AnyInstrument] = {}
        self.forgotten = 0  # series whose cells still take memory

    def forget_idle(self, now: float) -> int:
        """
        Forget the series with labels that nobody has written for an hour; return how many are ``forgotten`` by now.

        They give their places under the limits back at once. Their cells go with `Capture.renew`.
        """
        self.forgotten += sum(metric.forget_idle(now) for metric in self.metrics())
        return self.forgotten

    def renew(self, left: Mapping[int, bool]) -> None:
        """Let all series leave the cells *left*; see `Instrument.renew`."""
        for metric in self.metrics():
            metric.renew(left)

    def move(self, make: Callable[[int], mmap], *, keep: bool) -> None:
        """
        Go on in other memory, which *make* gives for each region; with what has been measured so far if *keep*.

        Other threads may measure meanwhile: nothing is lost, and nothing counted twice.
        """
        moved = self.cells.move(make)
        for metric in self.metrics():
            metric.move(moved, keep=keep)
        if keep:
            self.foreign.moved()
        else:
            self.foreign.after_fork()

    def declare(
        self,
        metric_type: MetricType,
        name: str,
        help_text: str = "",
        labels: Iterable[str] = (),
        across: str = "latest",
    ) -> AnyInstrument:
        """
        Return the instrument *name*, made if it is new.

        Raises:
            MetricDefinitionError: The name or a label is malformed, or the name is taken by another type; or there are
                `MAX_METRICS` already.
        """
        metric = self._metrics.get(name)
        if metric is None:
            fault = name_fault(name)
            if fault is None and len(self._metrics) >= MAX_METRICS and not is_own(name):
                fault = f"there are {MAX_METRICS:,} metrics already; what varies belongs into a label"
            if fault:
                raise MetricDefinitionError(str(name), fault)
            made: AnyInstrument
            if metric_type is MetricType.COUNTER:
                made = Counter(self._collector, name, help_text, labels)
            elif metric_type is MetricType.GAUGE:
                if across not in ACROSS:
                    raise MetricDefinitionError(name, f"across must be one of {', '.join(ACROSS)}, not {across!r}")
                made = Gauge(self._collector, name, help_text, labels, across)
            else:
                made = Histogram(self._collector, name, help_text, labels, metric_type)
            metric = self._metrics.setdefault(name, made)
        if metric.type is not metric_type:
            raise MetricDefinitionError(name, f"is a {metric.type} already and cannot become a {metric_type}")
        return metric

    def get(self, name: str) -> AnyInstrument | None:
        """The instrument *name*, or None."""
        return self._metrics.get(name)

    def metrics(self) -> list[AnyInstrument]:
        """All instruments, in the order of their declaration."""
        return list(self._metrics.values())

    @property
    def series_count(self) -> int:
        """How many series there are, over all metrics."""
        return sum(len(metric.series()) for metric in self.metrics())


def may_be_forgotten(key: SeriesKey) -> bool:
    """Whether a series is one of many: it has labels, is not the overflow series, and not of RFS's own books."""
    return bool(key.labels) and key.labels != _OVERFLOW and not is_own(key.name)


def is_own(name: str) -> bool:
    """Whether a metric is among RFS's own books, which no limit of the host's series touches."""
    return name.startswith("rfs_") or name == INTERNAL_ERRORS


def name_fault(name: object) -> str | None:
    """What is wrong with a metric name, or None."""
    if not isinstance(name, str):
        return f"a metric name must be a str, not {type(name).__name__}"
    if len(name) > MAX_NAME_CHARACTERS:
        return f"a metric name has at most {MAX_NAME_CHARACTERS} characters, not {len(name)}"
    if not _NAME.match(name):
        return "a metric name starts with a letter, '_' or ':' and goes on with letters, digits and '_:.-'"
    return None


def label_fault(label: str) -> str | None:
    """What is wrong with a label name, or None."""
    if not _LABEL.match(label) or len(label) > MAX_NAME_CHARACTERS:
        return f"label {label[:80]!r} must start with a letter or '_' and go on with letters, digits and '_'"
    if label.startswith("__") or label == OVERFLOW_LABEL:
        return f"label {label!r} is reserved"
    return None


def _label_text(value: object, clean: Callable[[str], str]) -> str:
    # By exact type: a label must never run the host's own __str__.
    if value.__class__ is str:
        text = str(value)
    elif value.__class__ in (int, float, bool):
        text = repr(value)
    elif value is None:
        text = ""
    elif isinstance(value, StrEnum):
        text = str.__str__(value)
    else:
        text = f"<{type(value).__module__}.{type(value).__qualname__}>"
    return clean(text[:MAX_LABEL_CHARACTERS])
