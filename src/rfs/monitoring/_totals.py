"""
Totals: what all processes of a service have measured since the service began, at one instant.

This is what expositions are made of. Everything else that is shown is an increase within a range of time, and comes from
windows.
"""

from __future__ import annotations

import msgspec

from rfs.monitoring._capture.cells import Labels, SeriesKey
from rfs.monitoring._capture.instruments import MetricType
from rfs.monitoring._capture.readings import SketchReading

__all__ = ["Exemplar", "ForeignFamily", "ForeignSample", "Metric", "Totals"]


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
