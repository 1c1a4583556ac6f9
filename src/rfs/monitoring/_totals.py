"""
Totals: what all processes of a service have measured since the service began, at one instant.

This is what expositions are made of. Everything else that is shown is an increase within a range of time, and comes from
windows.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from rfs.monitoring._capture.cells import Labels, SeriesKey
from rfs.monitoring._capture.instruments import MetricType
from rfs.monitoring._capture.readings import NOTHING_READ, SketchReading
from rfs.monitoring._capture.sketch import Sketch

__all__ = ["Exemplar", "ForeignFamily", "ForeignSample", "Metric", "Totals", "lacking"]


class Metric(msgspec.Struct, frozen=True):
    """A declared metric, merged over processes."""

    name: str
    type: MetricType
    help: str


class Exemplar(msgspec.Struct, frozen=True):
    """The latest traced measurement of a histogram series; ``time_seconds`` is unix time."""

    value: float
    trace_id: str
    span_id: str
    time_seconds: float


class ForeignSample(msgspec.Struct, frozen=True):
    """One sample of a ``prometheus_client`` registry, summed over processes where its type allows."""

    name: str
    labels: Labels
    value: float


class ForeignFamily(msgspec.Struct, frozen=True):
    """A metric of a ``prometheus_client`` registry; ``type`` and ``unit`` are that library's words."""

    name: str
    type: str
    help: str
    unit: str
    samples: list[ForeignSample]


class Totals(msgspec.Struct):
    """One instant of all processes."""

    metrics: dict[str, Metric]
    counters: dict[SeriesKey, float]
    gauges: dict[SeriesKey, float]
    sketches: dict[SeriesKey, SketchReading]
    exemplars: dict[SeriesKey, Exemplar]
    foreign: list[ForeignFamily]
    is_short: bool = False  # the sums of dead processes could not be read: it was more, see `lacking`

    def plus(self, lacked: Totals) -> Totals:
        """These and what `lacking` has found of them."""
        counters, sketches = dict(self.counters), dict(self.sketches)
        for key, value in lacked.counters.items():
            counters[key] = counters.get(key, 0.0) + value
        for key, reading in lacked.sketches.items():
            known = sketches.get(key)
            sketches[key] = reading if known is None else known.plus(reading)
        return msgspec.structs.replace(
            self, metrics={**lacked.metrics, **self.metrics}, counters=counters, sketches=sketches, is_short=False
        )


def lacking(totals: Totals, counters: Mapping[SeriesKey, float], sketches: Mapping[SeriesKey, Sketch]) -> Totals:
    """
    What *counters* and *sketches*, which *totals* once were or were part of, have beyond *totals*.

    What living processes have added to *totals* meanwhile cannot be told from it, and is taken for a part of it.
    """
    lacked = Totals({}, {}, {}, {}, {}, [])
    for key, value in counters.items():
        if value > totals.counters.get(key, 0.0):
            lacked.counters[key] = value - totals.counters.get(key, 0.0)
            lacked.metrics[key.name] = Metric(key.name, MetricType.COUNTER, "")
    for key, sketch in sketches.items():
        reading = totals.sketches.get(key, NOTHING_READ).lacking(sketch)
        if reading is not None:
            lacked.sketches[key] = reading
            lacked.metrics[key.name] = Metric(key.name, MetricType.HISTOGRAM, "")
    return lacked
