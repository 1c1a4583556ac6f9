"""
The store in memory: bounded, lost at the end of the process.

Records are a ring with an index by correlation id. A series is a list of points, one per second in which it changed;
after an hour they are thinned out to one per minute, and forgotten after a day. If there are so many series that the bound of
points would be passed, they are thinned out earlier, and if that is not enough, forgotten earlier (`statistics` says how far back
the store reaches). Counters keep running totals, so an increase is one subtraction whatever the range; histograms keep packed
differences.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from math import ceil
from threading import Lock
from typing import NamedTuple

import msgspec

from rfs.errors import CursorError
from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.pace import breathe, pieces
from rfs.monitoring._capture.segments import Frame, Run
from rfs.monitoring._capture.sketch import Sketch, sum_of
from rfs.monitoring._store import Batch, Kind, StoredRecord, Wanted
from rfs.monitoring._store.deadline import check_deadline

MAX_RECORDS = 50_000
MAX_RECORD_BYTES = 16 << 20
MAX_POINTS = 400_000  # of counters and gauges, 16 bytes each
MAX_SKETCH_POINTS = 40_000  # of histograms, about 300 bytes each

DAY = 86_400
# Up to this age in seconds: one point per so many seconds. The first that fits into the bounds is used.
_TIERINGS = (
    ((3_600, 1), (DAY, 60)),
    ((300, 1), (3_600, 10), (DAY, 60)),
    ((60, 1), (3_600, 10), (DAY, 60)),
)
_NOTABLE_LEVEL = 30
_COMPACT_EVERY = 64  # appended points at least
_TIDY_SECONDS = 600
_EVER = 1 << 63
_LONGEST_CURSOR = 19  # digits
_RECORDS_PER_LOOK = 1_024  # at the clock
_POINTS_WORTH_A_SUM = 8  # of one minute; so the sums that are kept are few beside the points


class Density(msgspec.Struct, frozen=True):
    """How far back points reach, and how dense they are."""

    since: int = 0  # the second before which everything is forgotten; what is older than a day is anyway
    tiering: int = 0  # which of the tierings

    def oldest(self, now: int) -> int:
        """The first second that is kept."""
        return max(self.since, now - DAY)


class ValueSeries:
    """Seconds and values of a counter (running totals) or a gauge (last values)."""

    __slots__ = ("base", "compact_at", "times", "values")

    def __init__(self) -> None:
        self.times = array("q")
        self.values = array("d")
        self.base = 0.0  # the value before the first point that is still kept
        self.compact_at = _next_compaction(0)

    def put(self, second: int, value: float) -> None:
        if self.times and self.times[-1] >= second:
            self.values[-1] = value  # within one second, or the clock went back
            return
        self.times.append(second)
        self.values.append(value)

    def before(self, time: float) -> float:
        """The value that held just before *time*."""
        index = bisect_left(self.times, time)
        return self.values[index - 1] if index else self.base

    def increase(self, start: float, end: float) -> float:
        """By how much running totals have grown."""
        return max(0.0, self.before(end) - self.before(start))

    def last(self, _start: float, end: float) -> float | None:
        """The last value before *end*; None if there is none that is still kept."""
        index = bisect_left(self.times, end)
        return self.values[index - 1] if index else None

    def compact(self, now: int, density: Density) -> None:
        kept = _thinned(self.times, now, density)
        forgotten = bisect_left(self.times, density.oldest(now))
        if forgotten:
            self.base = self.values[forgotten - 1]
        self.times = array("q", (self.times[index] for index in kept))
        self.values = array("d", (self.values[index] for index in kept))
        self.compact_at = _next_compaction(len(kept))
        breathe()


Packed = tuple[int, float, int, float, float, bytes, bytes]


class SketchSeries:
    """Seconds and packed differences of a histogram."""

    __slots__ = ("_minutes", "compact_at", "deltas", "times")

    def __init__(self) -> None:
        self.times = array("q")
        self.deltas: list[Packed] = []
        self.compact_at = _next_compaction(0)
        self._minutes: dict[int, Packed] = {}  # sums of whole minutes that are over, made when they are first asked for

    def put(self, second: int, sketch: Sketch) -> None:
        if self.times and self.times[-1] >= second:
            merged = Sketch()
            _add_packed(merged, self.deltas[-1])
            merged.add(sketch)
            self.deltas[-1] = _pack(merged)
            return
        self.times.append(second)
        self.deltas.append(_pack(sketch))

    def sum(self, start: float, end: float) -> Sketch:
        total = Sketch()
        times, deltas = self.times, self.deltas
        index, last = bisect_left(times, start), bisect_left(times, end)
        while index < last:
            minute = times[index] // 60
            after = bisect_left(times, (minute + 1) * 60, index, last)
            is_whole = minute * 60 >= start and (after < last or ((minute + 1) * 60 <= end and after < len(times)))
            if is_whole and after - index >= _POINTS_WORTH_A_SUM:
                packed = self._minutes.get(minute)
                if packed is None:
                    packed = self._minutes[minute] = _together(deltas[index:after])
                _add_packed(total, packed)
            else:
                for delta in deltas[index:after]:
                    _add_packed(total, delta)
            index = after
        return total

    def count(self, start: float, end: float) -> int:
        return sum(
            self.deltas[index][0] for index in range(bisect_left(self.times, start), bisect_left(self.times, end))
        )

    def compact(self, now: int, density: Density) -> None:
        kept = _thinned(self.times, now, density)
        deltas: list[Packed] = []
        # A point that stays takes over what the points thinned out before it had measured.
        first = bisect_left(self.times, density.oldest(now))
        for index in kept:
            deltas.append(self.deltas[index] if index == first else _together(self.deltas[first : index + 1]))
            first = index + 1
        self.times = array("q", (self.times[index] for index in kept))
        self.deltas = deltas
        self.compact_at = _next_compaction(len(kept))
        self._minutes.clear()
        breathe()


class _Kept(msgspec.Struct, frozen=True, gc=False):
    """A record in its place; later ones have higher numbers. As little seen by the garbage collector as its frame is."""

    number: int
    frame: Frame


class _Step(NamedTuple):
    """A step of a time series: from when to when, and whether any window was closed in it."""

    start: float
    end: float
    is_seen: bool


class MemoryStore:
    """
    The `Store` that keeps everything in this process' memory.

    Args:
        max_records: Records kept at most; the oldest go first and are counted.
        max_record_bytes: Bytes of encoded records kept at most.
        max_points: Points of counters and gauges kept at most, over all series.
        max_sketch_points: Points of histograms kept at most, over all series.

    Safe from any thread: one lock, which recording never takes.
    """

    def __init__(
        self,
        *,
        max_records: int = MAX_RECORDS,
        max_record_bytes: int = MAX_RECORD_BYTES,
        max_points: int = MAX_POINTS,
        max_sketch_points: int = MAX_SKETCH_POINTS,
    ) -> None:
        self._max_records = max_records
        self._max_record_bytes = max_record_bytes
        self._max_points = max_points
        self._max_sketch_points = max_sketch_points
        self._begin()

    def _begin(self) -> None:
        self._lock = Lock()
        self._records: deque[_Kept] = deque()
        self._by_id: dict[str, list[_Kept]] = {}
        self._notable: deque[_Kept] = deque()  # those of WARNING and above, or with a flag: few, and often asked for
        self._record_bytes = 0
        self._evicted = 0
        self._number = 0
        self._batches: dict[str, int] = {}  # process → highest sequence kept
        self._values: dict[str, dict[SeriesKey, ValueSeries]] = {}
        self._sketches: dict[str, dict[SeriesKey, SketchSeries]] = {}
        self._gauges: set[str] = set()
        self._seen = ValueSeries()  # seconds in which any window was closed: elsewhere is a gap
        self._points = 0
        self._sketch_points = 0
        self._density = Density()
        self._tidied_at = 0

    def after_fork(self) -> None:
        # To free what the parent kept would copy the pages that it is in. Nobody reads it again.
        self._inherited = self.__dict__.copy()
        self._begin()

    def append(self, batch: Batch) -> bool:
        with self._lock:
            if batch.sequence <= self._batches.get(batch.process, -1):
                return False
            self._batches[batch.process] = batch.sequence
            self._keep_records(_in_order(batch.runs))
            window = batch.window
            if window is not None:
                second = window.second
                self._seen.put(second, 1.0)
                for counters in pieces(window.counters.items()):
                    for key, increase in counters:
                        self._put(key, second, increase, add=True)
                for key, value in window.gauges.items():
                    self._gauges.add(key.name)
                    self._put(key, second, value, add=False)
                for sketches in pieces(window.sketches.items(), 25):
                    for key, sketch in sketches:
                        self._put_sketch(key, second, sketch)
                if len(self._seen.times) >= self._seen.compact_at:
                    self._seen.compact(second, self._density)
                self._keep_bounds(second)
                if not 0 <= second - self._tidied_at < _TIDY_SECONDS:
                    self._tidy(second)
            return True

    def _keep_records(self, frames: Iterable[Frame]) -> None:
        by_id, number = self._by_id, self._number
        for piece in pieces(frames):
            for frame in piece:
                number += 1
                record = _Kept(number, frame)
                self._records.append(record)
                self._record_bytes += len(frame.payload)
                correlation_id = frame.correlation_id
                if correlation_id in by_id:
                    by_id[correlation_id].append(record)
                elif correlation_id:
                    by_id[correlation_id] = [record]
                if frame.level >= _NOTABLE_LEVEL or frame.flags:
                    self._notable.append(record)
        self._number = number
        if len(self._records) > self._max_records or self._record_bytes > self._max_record_bytes:
            self._evict_oldest()

    def take_newest(self, count: int, max_bytes: int) -> list[Frame]:
        """Forget the newest *count* records, and return those of them that fit into *max_bytes* of payload, oldest first."""
        taken: list[Frame] = []
        with self._lock:
            for _ in range(min(count, len(self._records))):
                frame = self._records.pop().frame
                self._record_bytes -= len(frame.payload)
                max_bytes -= len(frame.payload)
                if max_bytes >= 0:
                    taken.append(frame)
                same_id = self._by_id.get(frame.correlation_id)
                if same_id is not None:
                    same_id.pop()
                    if not same_id:
                        del self._by_id[frame.correlation_id]
            newest = self._records[-1].number if self._records else 0
            while self._notable and self._notable[-1].number > newest:
                self._notable.pop()
        return taken[::-1]

    def _evict_oldest(self) -> None:
        # Some more than needed at once, so that an id with very many records is cut seldom.
        records = self._max_records - self._max_records // 64
        size = self._max_record_bytes - self._max_record_bytes // 64
        evicted: dict[str, int] = {}
        while len(self._records) > records or self._record_bytes > size:
            frame = self._records.popleft().frame
            self._record_bytes -= len(frame.payload)
            self._evicted += 1
            if not self._evicted % 1_000:
                breathe()
            if frame.correlation_id:
                evicted[frame.correlation_id] = evicted.get(frame.correlation_id, 0) + 1
        oldest = self._records[0].number if self._records else self._number + 1
        while self._notable and self._notable[0].number < oldest:
            self._notable.popleft()
        for correlation_id, count in evicted.items():
            same_id = self._by_id[correlation_id]
            if count == len(same_id):
                del self._by_id[correlation_id]
            else:
                del same_id[:count]

    def _put(self, key: SeriesKey, second: int, value: float, *, add: bool) -> None:
        series = self._values.setdefault(key.name, {}).get(key)
        if series is None:
            series = self._values[key.name][key] = ValueSeries()
        before = len(series.times)
        series.put(second, (series.values[-1] if before else series.base) + value if add else value)
        if len(series.times) >= series.compact_at:
            series.compact(second, self._density)
        self._points += len(series.times) - before

    def _put_sketch(self, key: SeriesKey, second: int, sketch: Sketch) -> None:
        series = self._sketches.setdefault(key.name, {}).get(key)
        if series is None:
            series = self._sketches[key.name][key] = SketchSeries()
        before = len(series.times)
        series.put(second, sketch)
        if len(series.times) >= series.compact_at:
            series.compact(second, self._density)
        self._sketch_points += len(series.times) - before

    def _keep_bounds(self, now: int) -> None:
        if self._points <= self._max_points and self._sketch_points <= self._max_sketch_points:
            return
        self._compact_all(now)
        # Some room must be left, or the next second would be here again.
        while self._points > 0.8 * self._max_points or self._sketch_points > 0.8 * self._max_sketch_points:
            reach = now - self._density.oldest(now)
            tiering = self._density.tiering
            if tiering + 1 < len(_TIERINGS):
                self._density = Density(self._density.since, tiering + 1)
            elif reach > 1:
                self._density = Density(now - reach // 2, tiering)
            else:
                break
            self._compact_all(now)

    def _tidy(self, now: int) -> None:
        """Forget series that have nothing left, and keep points denser again where there is room."""
        oldest = self._density.oldest(now)
        for by_key in self._values.values():
            for key in _outlived(by_key, oldest):
                self._points -= len(by_key.pop(key).times)
        for sketches in self._sketches.values():
            for key in _outlived(sketches, oldest):
                self._sketch_points -= len(sketches.pop(key).times)
        if self._points < 0.4 * self._max_points and self._sketch_points < 0.4 * self._max_sketch_points:
            self._density = Density(self._density.since)
        self._tidied_at = now

    def _compact_all(self, now: int) -> None:
        self._points = self._sketch_points = 0
        for by_key in self._values.values():
            for series in by_key.values():
                series.compact(now, self._density)
                self._points += len(series.times)
        for sketches in self._sketches.values():
            for sketch_series in sketches.values():
                sketch_series.compact(now, self._density)
                self._sketch_points += len(sketch_series.times)

    def records(self, wanted: Wanted, *, limit: int, before: str | None = None) -> list[StoredRecord]:
        first_too_new = _EVER if before is None else _number_of(before)
        found: list[StoredRecord] = []
        with self._lock:
            source: Sequence[_Kept] = self._records
            if wanted.correlation_id is not None:
                source = self._by_id.get(wanted.correlation_id, ())
            elif wanted.min_level >= _NOTABLE_LEVEL or wanted.flags:
                source = self._notable
            for looked_at, record in enumerate(reversed(source)):
                number, frame = record.number, record.frame
                if len(found) >= limit:
                    break
                if looked_at % _RECORDS_PER_LOOK == 0:
                    check_deadline()
                if (
                    number < first_too_new
                    and frame.level >= wanted.min_level
                    and (wanted.operation is None or frame.operation == wanted.operation)
                    and frame.flags & wanted.flags == wanted.flags
                    and wanted.since_ns <= frame.time_ns < wanted.until_ns
                ):
                    found.append(StoredRecord(str(number), frame))
        return found

    def kinds(self) -> Mapping[str, Kind]:
        with self._lock:
            kinds: dict[str, Kind] = {name: "gauge" if name in self._gauges else "counter" for name in self._values}
            kinds.update(dict.fromkeys(self._sketches, "histogram"))
            return kinds

    def series(self, name: str) -> tuple[SeriesKey, ...]:
        with self._lock:
            return (*self._values.get(name, ()), *self._sketches.get(name, ()))

    def increases(self, keys: Sequence[SeriesKey], start: float, end: float) -> list[float | None]:
        with self._lock:
            found = [self._values.get(key.name, {}).get(key) for key in keys]
            return [None if series is None else series.increase(start, end) for series in found]

    def increase(self, keys: Sequence[SeriesKey], start: float, end: float) -> float:
        return sum((one or 0.0 for one in self.increases(keys, start, end)), 0.0)

    def sketches(self, keys: Sequence[SeriesKey], start: float, end: float) -> list[Sketch | None]:
        with self._lock:
            found: list[Sketch | None] = []
            for series in self._measured(keys):
                found.append(None if series is None else series.sum(start, end))
                check_deadline()
            return found

    def distribution(self, keys: Sequence[SeriesKey], start: float, end: float) -> Sketch:
        return sum_of(self.sketches(keys, start, end))

    def points(
        self, keys: Sequence[SeriesKey], start: float, end: float, step_seconds: float
    ) -> list[list[float | None]]:
        with self._lock:
            steps = self._steps(start, end, step_seconds)
            return [self._line(key, steps) for key in keys]

    def quantiles(
        self, keys: Sequence[SeriesKey], q: float, start: float, end: float, step_seconds: float
    ) -> list[list[float | None]]:
        with self._lock:
            steps = self._steps(start, end, step_seconds)
            lines: list[list[float | None]] = []
            for series in self._measured(keys):
                check_deadline()
                parts = [None if series is None else series.sum(at, until) for at, until, _ in steps]
                lines.append([part.quantile(q) if part is not None and part.count else None for part in parts])
            return lines

    def distributions(
        self, keys: Sequence[SeriesKey], start: float, end: float, step_seconds: float
    ) -> list[Sketch | None]:
        with self._lock:
            found = [series for series in self._measured(keys) if series is not None]
            steps: list[Sketch | None] = []
            for at, until, is_seen in self._steps(start, end, step_seconds):
                check_deadline()
                together = Sketch() if is_seen and found else None
                if together is not None:
                    for series in found:
                        together.add(series.sum(at, until))
                steps.append(together)
            return steps

    def _measured(self, keys: Sequence[SeriesKey]) -> list[SketchSeries | None]:
        return [self._sketches.get(key.name, {}).get(key) for key in keys]

    def _steps(self, start: float, end: float, step_seconds: float) -> list[_Step]:
        times = self._seen.times
        steps: list[_Step] = []
        for index in range(max(1, ceil((end - start) / step_seconds))):
            at, until = start + index * step_seconds, start + (index + 1) * step_seconds
            steps.append(_Step(at, until, bisect_left(times, until) > bisect_left(times, at)))
        return steps

    def _line(self, key: SeriesKey, steps: Sequence[_Step]) -> list[float | None]:
        check_deadline()
        sketches = self._sketches.get(key.name, {}).get(key)
        series = self._values.get(key.name, {}).get(key)
        read: Callable[[float, float], float | None]
        if sketches is not None:
            read = sketches.count
        elif series is None:
            return [None] * len(steps)
        else:
            read = series.last if key.name in self._gauges else series.increase
        return [read(at, until) if is_seen else None for at, until, is_seen in steps]

    def close(self) -> None:
        """There is nothing to let go of."""

    def statistics(self) -> Mapping[str, float]:
        with self._lock:
            now = self._seen.times[-1] if self._seen.times else DAY
            return {
                "records": len(self._records),
                "record_bytes": self._record_bytes,
                "evicted_records": self._evicted,
                "points": self._points,
                "sketch_points": self._sketch_points,
                "horizon_seconds": now - self._density.oldest(now),
            }


def _thinned(times: array[int], now: int, density: Density) -> list[int]:
    """The indices of the points to keep: per slot of its tier the last one."""
    kept: list[int] = []
    oldest = bisect_left(times, density.oldest(now))
    end = len(times)
    parts: list[tuple[int, int, int]] = []
    for limit, width in _TIERINGS[density.tiering]:
        begin = max(oldest, bisect_left(times, now - limit)) if limit < DAY else oldest
        parts.append((begin, end, width))
        end = begin
    for begin, end, width in reversed(parts):
        if width == 1:
            kept += range(begin, end)
        else:
            kept += (
                index
                for index in range(begin, end)
                if index + 1 == end or times[index] // width != times[index + 1] // width
            )
    return kept


def _in_order(runs: Sequence[Run]) -> Sequence[Frame]:
    if len(runs) == 1:
        return runs[0].frames
    return sorted(chain.from_iterable(run.frames for run in runs), key=_time_of)


def _time_of(frame: Frame) -> int:
    return frame.time_ns


def _number_of(cursor: str) -> int:
    if not (cursor.isdecimal() and cursor.isascii() and len(cursor) <= _LONGEST_CURSOR):
        raise CursorError(cursor)
    return int(cursor)


def _outlived(series: Mapping[SeriesKey, ValueSeries | SketchSeries], oldest: int) -> list[SeriesKey]:
    return [key for some in pieces(series.items()) for key, one in some if one.times[-1] < oldest]


def _next_compaction(points: int) -> int:
    # In proportion to what it costs.
    return points + max(_COMPACT_EVERY, points // 4)


def _together(deltas: Sequence[Packed]) -> Packed:
    merged = Sketch()
    for delta in deltas:
        _add_packed(merged, delta)
    return _pack(merged)


def _pack(sketch: Sketch) -> Packed:
    return (
        sketch.count,
        sketch.sum,
        sketch.zero,
        sketch.min,
        sketch.max,
        _pack_buckets(sketch.positive),
        _pack_buckets(sketch.negative),
    )


def _pack_buckets(buckets: Mapping[int, int]) -> bytes:
    return array("q", (number for item in buckets.items() for number in item)).tobytes() if buckets else b""


def _add_packed(sketch: Sketch, packed: Packed) -> None:
    count, total, zero, minimum, maximum, positive, negative = packed
    sketch.count += count
    sketch.sum += total
    sketch.zero += zero
    sketch.min = min(sketch.min, minimum)
    sketch.max = max(sketch.max, maximum)
    for data, buckets in ((positive, sketch.positive), (negative, sketch.negative)):
        if data:
            numbers = memoryview(data).cast("q").tolist()
            for index, increase in zip(numbers[::2], numbers[1::2], strict=True):
                buckets[index] = buckets.get(index, 0) + increase
