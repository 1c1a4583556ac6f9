"""
Where collected records and windows are kept: one Protocol, one contract suite, several stores.

A `Batch` is what the leader took from one process at one instant. It is named by process and sequence, so a batch that
is handed over twice is kept once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.segments import Frame
from rfs.monitoring._capture.sketch import Sketch


class StoredRecord(msgspec.Struct, frozen=True, gc=False):
    """A record in a store; ``sequence`` rises in the order in which the store took the records."""

    sequence: int
    frame: Frame


class Window(msgspec.Struct):
    """
    What changed since the process' previous window: increases of counters, last values of gauges, added distributions.

    ``second`` is the unix second in which the window was closed; the increases happened up to then.
    """

    second: int
    counters: dict[SeriesKey, float] = {}
    gauges: dict[SeriesKey, float] = {}
    sketches: dict[SeriesKey, Sketch] = {}


class Batch(msgspec.Struct, frozen=True):
    """All that was collected from *process* since its batch ``sequence - 1``."""

    process: str
    sequence: int
    records: Sequence[Frame]
    window: Window | None


class Point(NamedTuple):
    """One step of a time series: its start in unix seconds and its value; None where nothing is known."""

    time: float
    value: float | None


class Store(Protocol):
    """
    Keeps batches and answers for ranges of time; all ranges are half-open, in unix seconds.

    Every method is safe from any thread. Nothing here is on the recording path.
    """

    def after_fork(self) -> None:
        """In a forked child: be empty, whatever a thread of the parent was doing with this store; no other method has been called."""
        ...

    def append(self, batch: Batch) -> bool:
        """Keep *batch*; False, and nothing is changed, if this process' batch of that sequence was kept already."""
        ...

    def records(
        self,
        *,
        limit: int,
        min_level: int = 0,
        operation: str | None = None,
        before_sequence: int | None = None,
        correlation_id: str | None = None,
        flags: int = 0,
        since_ns: int = 0,
    ) -> list[StoredRecord]:
        """The newest records that pass all filters (*flags*: all of these bits set), newest first."""
        ...

    def series(self, name: str) -> list[SeriesKey]:
        """The series of metric *name* that the store knows."""
        ...

    def increase(self, key: SeriesKey, start: float, end: float) -> float | None:
        """By how much counter *key* grew; None if it is not known at all."""
        ...

    def sketch(self, key: SeriesKey, start: float, end: float) -> Sketch | None:
        """The distribution of what histogram *key* measured; None if it is not known at all."""
        ...

    def points(self, key: SeriesKey, start: float, end: float, step_seconds: float) -> list[Point]:
        """Per step the increase of a counter, the last value of a gauge, the count of a histogram; None in a gap."""
        ...

    def statistics(self) -> Mapping[str, float]:
        """Sizes and losses of the store itself: records, record_bytes, evicted_records, points, horizon_seconds."""
        ...
