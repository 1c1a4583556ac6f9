"""
Where collected records and windows are kept: one Protocol, one contract suite, several stores.

A `Batch` is what the leader took at one instant. It is named by process and sequence, and each record by where it was written
first, so a batch that is handed over twice is kept once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import msgspec

from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.segments import Frame, Run
from rfs.monitoring._capture.sketch import Sketch
from rfs.monitoring._totals import Totals

Kind = Literal["counter", "gauge", "histogram"]
EVER_NS = 1 << 62


class StoredRecord(msgspec.Struct, frozen=True, gc=False):
    """A record in a store; ``cursor`` says where it is, and lets a reader go on from there. It means something to its store alone."""

    cursor: str
    frame: Frame


class Window(msgspec.Struct):
    """
    What changed since the previous window: increases of counters, last values of gauges, added distributions.

    ``second`` is the unix second in which the window was closed; the increases happened up to then.
    """

    second: int
    counters: dict[SeriesKey, float] = {}
    gauges: dict[SeriesKey, float] = {}
    sketches: dict[SeriesKey, Sketch] = {}


class Batch(msgspec.Struct, frozen=True):
    """All that *process* has collected since its batch ``sequence - 1``; a run is records of one place, see `Run`."""

    process: str
    sequence: int
    runs: Sequence[Run]
    window: Window | None


class Point(NamedTuple):
    """One step of a time series: its start in unix seconds and its value; None where nothing is known."""

    time: float
    value: float | None


class Wanted(msgspec.Struct, frozen=True):
    """Which records are asked for: those that pass all of these."""

    min_level: int = 0
    operation: str | None = None
    correlation_id: str | None = None
    flags: int = 0  # all of these bits set
    since_ns: int = 0
    until_ns: int = EVER_NS  # the first time that is too late

    @property
    def text(self) -> bytes:
        """What each of them contains as it was recorded; empty: nothing that all have is known."""
        return (self.correlation_id or self.operation or "").encode()

    def admits(self, frame: Frame) -> bool:
        """Whether that is one of them."""
        return (
            frame.level >= self.min_level
            and self.since_ns <= frame.time_ns < self.until_ns
            and frame.flags & self.flags == self.flags
            and (self.correlation_id is None or frame.correlation_id == self.correlation_id)
            and (self.operation is None or frame.operation == self.operation)
        )


EVERYTHING = Wanted()


class Reader(Protocol):
    """
    Answers for ranges of time; all ranges are half-open, in unix seconds.

    Every method is safe from any thread, and raises StoreError where the store cannot be read at all; what is damaged in it is
    left out, and has been said. What may take long looks at the clock now and then, see `deadline.check_deadline`.
    """

    def kinds(self) -> Mapping[str, Kind]:
        """Every metric that is known, and what it is."""
        ...

    def series(self, name: str) -> tuple[SeriesKey, ...]:
        """The series of metric *name*."""
        ...

    def increases(self, keys: Sequence[SeriesKey], start: float, end: float) -> list[float | None]:
        """By how much each of these counters grew; None for those that are not known at all."""
        ...

    def increase(self, keys: Sequence[SeriesKey], start: float, end: float) -> float:
        """By how much all of these counters together grew."""
        ...

    def sketches(self, keys: Sequence[SeriesKey], start: float, end: float) -> list[Sketch | None]:
        """The distribution of what each of these histograms measured; None for those that are not known at all."""
        ...

    def distribution(self, keys: Sequence[SeriesKey], start: float, end: float) -> Sketch:
        """What all of these histograms together measured."""
        ...

    def points(
        self, keys: Sequence[SeriesKey], start: float, end: float, step_seconds: float
    ) -> list[list[float | None]]:
        """
        Per series and step the increase of a counter, the last value of a gauge, the count of a histogram.

        None in a gap, that is where no window was closed; there are ``ceil((end - start) / step_seconds)`` steps, at least one.
        """
        ...

    def quantiles(
        self, keys: Sequence[SeriesKey], q: float, start: float, end: float, step_seconds: float
    ) -> list[list[float | None]]:
        """Per histogram and step the *q*-quantile of what was measured; None where nothing was."""
        ...

    def distributions(
        self, keys: Sequence[SeriesKey], start: float, end: float, step_seconds: float
    ) -> list[Sketch | None]:
        """Per step what all of these histograms together measured; None in a gap."""
        ...

    def records(self, wanted: Wanted, *, limit: int, before: str | None = None) -> list[StoredRecord]:
        """
        The newest *limit* records that are *wanted*, newest first; *before*, a cursor, goes on with the page after that record.

        Raises:
            CursorError: *before* is no cursor of this store.
        """
        ...

    def statistics(self) -> Mapping[str, float]:
        """Sizes and losses of the store itself: at least records, record_bytes, horizon_seconds."""
        ...


class Moment(NamedTuple):
    """All that there is to answer from at one moment: the present, and a reader of what was up to then."""

    totals: Totals
    reader: Reader


class Store(Reader, Protocol):
    """Keeps batches. Nothing here is on the recording path."""

    def after_fork(self) -> None:
        """In a forked child: whatever a thread of the parent was doing with this store; no other method has been called."""
        ...

    def append(self, batch: Batch) -> bool:
        """
        Keep *batch*; False, and nothing is changed, if this process' batch of that sequence was kept already.

        Raises:
            StoreError: It could not be kept; it may be handed over again later.
        """
        ...

    def close(self) -> None:
        """Let go of files and connections; twice is once."""
        ...


@runtime_checkable
class SharedStore(Store, Protocol):
    """One that many machines write into, none of which it can ask what is there now."""

    def latest(self, keys: Sequence[SeriesKey]) -> float | None:
        """Of these gauges the value that was written last; None if nobody has measured anything for a minute."""
        ...
