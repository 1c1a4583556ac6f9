"""
The hand-over of history: what a new process needs so that its answers about the past are those of the others.

A new process asks with a file ``<process>.joining``. The leader answers with ``<process>.history``: what its store keeps,
and the totals at that instant, from which the new process goes on. It is a run of MessagePack pieces, each after its length
(u32), so small that coding one does not hold up the other threads.

The processes of a service run the same code; a history of another version is refused, and then ranges begin with the process.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import msgspec

from rfs.errors import LiveFileError
from rfs.monitoring._capture.cells import Labels, SeriesKey
from rfs.monitoring._capture.pace import breathe, pieces
from rfs.monitoring._capture.readings import SketchReading
from rfs.monitoring._capture.segments import Frame
from rfs.monitoring._live import octave_in, octave_out
from rfs.monitoring._store.memory import Density, Packed, SketchSeries, Snapshot, ValueSeries
from rfs.monitoring._totals import Totals

_VERSION = 1
_SERIES_PER_PIECE = 50
_FRAMES_PER_PIECE = 250

_Points = tuple[bytes, bytes, float]  # times, values, base


class _Head(msgspec.Struct, tag="head"):
    version: int
    gauges: list[str]
    density: Density
    seen: _Points


class _Values(msgspec.Struct, tag="values"):
    series: list[tuple[str, Labels, _Points]]


class _Sketches(msgspec.Struct, tag="sketches"):
    series: list[tuple[str, Labels, bytes, list[Packed]]]


class _Records(msgspec.Struct, tag="records"):
    frames: list[Frame]


class _Counters(msgspec.Struct, tag="counters"):
    totals: list[tuple[str, Labels, float]]


class _Readings(msgspec.Struct, tag="readings"):
    totals: list[tuple[str, Labels, SketchReading]]


_encode = msgspec.msgpack.Encoder(enc_hook=octave_out).encode
_decode = msgspec.msgpack.Decoder(
    _Head | _Values | _Sketches | _Records | _Counters | _Readings, dec_hook=octave_in
).decode


def pack_history(snapshot: Snapshot, totals: Totals) -> Iterator[bytes]:
    """The pieces of a history file: *snapshot*, and *totals* of the same instant."""
    for piece in _pieces(snapshot, totals):
        encoded = _encode(piece)
        yield len(encoded).to_bytes(4, "little")
        yield encoded


def _pieces(snapshot: Snapshot, totals: Totals) -> Iterator[msgspec.Struct]:
    yield _Head(_VERSION, sorted(snapshot.gauges), snapshot.density, _points(snapshot.seen))
    values = [(key, series) for by_key in snapshot.values.values() for key, series in by_key.items()]
    for some in pieces(values, _SERIES_PER_PIECE):
        yield _Values([(key.name, key.labels, _points(series)) for key, series in some])
    sketches = [(key, series) for by_key in snapshot.sketches.values() for key, series in by_key.items()]
    for more in pieces(sketches, _SERIES_PER_PIECE):
        yield _Sketches([(key.name, key.labels, series.times.tobytes(), series.deltas) for key, series in more])
    for frames in pieces(snapshot.records, _FRAMES_PER_PIECE):
        yield _Records(list(frames))
    for counters in pieces(totals.counters.items(), 10 * _SERIES_PER_PIECE):
        yield _Counters([(key.name, key.labels, value) for key, value in counters])
    for readings in pieces(totals.sketches.items(), _SERIES_PER_PIECE):
        yield _Readings([(key.name, key.labels, reading) for key, reading in readings])


def unpack_history(content: bytes, name: str) -> tuple[Snapshot, Totals]:
    """
    Read what `pack_history` made.

    Raises:
        LiveFileError: *content* (of the file *name*) is damaged, or of a version that this one does not read.
    """
    head: _Head | None = None
    values: dict[str, dict[SeriesKey, ValueSeries]] = {}
    sketches: dict[str, dict[SeriesKey, SketchSeries]] = {}
    frames: list[Frame] = []
    totals = Totals({}, {}, {}, {}, {}, [])
    try:
        for piece in _read_pieces(content):
            if isinstance(piece, _Head):
                head = piece
                if head.version != _VERSION:
                    raise LiveFileError(name, f"has version {head.version}; this library reads {_VERSION}")
            elif isinstance(piece, _Values):
                for metric, labels, points in piece.series:
                    values.setdefault(metric, {})[SeriesKey(metric, labels)] = _value_series(points)
            elif isinstance(piece, _Sketches):
                for metric, labels, times, deltas in piece.series:
                    sketches.setdefault(metric, {})[SeriesKey(metric, labels)] = SketchSeries(_longs(times), deltas)
            elif isinstance(piece, _Records):
                frames += piece.frames
            elif isinstance(piece, _Counters):
                totals.counters.update((SeriesKey(metric, labels), value) for metric, labels, value in piece.totals)
            else:
                totals.sketches.update((SeriesKey(metric, labels), reading) for metric, labels, reading in piece.totals)
    except (msgspec.DecodeError, ValueError) as error:
        raise LiveFileError(name, f"is damaged: {error}") from error
    if head is None:
        raise LiveFileError(name, "is empty")
    return Snapshot(frames, _value_series(head.seen), values, sketches, set(head.gauges), head.density), totals


def _read_pieces(content: bytes) -> Iterator[_Head | _Values | _Sketches | _Records | _Counters | _Readings]:
    view, at = memoryview(content), 0
    while at < len(view):
        start = at + 4
        at = start + int.from_bytes(view[at:start], "little")
        yield _decode(view[start:at])
        breathe()


def _points(series: ValueSeries) -> _Points:
    return series.times.tobytes(), series.values.tobytes(), series.base


def _value_series(points: _Points) -> ValueSeries:
    times, values, base = points
    doubles = array("d")
    doubles.frombytes(values)
    return ValueSeries(_longs(times), doubles, base)


def _longs(content: bytes) -> array[int]:
    longs = array("q")
    longs.frombytes(content)
    return longs
