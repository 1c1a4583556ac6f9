"""
Totals: what all processes of a service have measured since the service began, at one instant.

This is what expositions are made of. Everything else that is shown is an increase within a range of time, and comes from
windows.
"""

from __future__ import annotations

from dataclasses import dataclass

from rfs.monitoring._capture.cells import Labels, SeriesKey
from rfs.monitoring._capture.instruments import MetricType, SketchReading

__all__ = ["Exemplar", "ForeignFamily", "ForeignSample", "Metric", "Totals"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A declared metric, merged over processes."""

    name: str
    type: MetricType
    help: str


@dataclass(frozen=True, slots=True)
class Exemplar:
    """The latest traced measurement of a histogram series; ``time_seconds`` is unix time."""

    value: float
    trace_id: str
    span_id: str
    time_seconds: float


@dataclass(frozen=True, slots=True)
class ForeignSample:
    """One sample of a ``prometheus_client`` registry, summed over processes where its type allows."""

    name: str
    labels: Labels
    value: float


@dataclass(frozen=True, slots=True)
class ForeignFamily:
    """A metric of a ``prometheus_client`` registry; ``type`` and ``unit`` are that library's words."""

    name: str
    type: str
    help: str
    unit: str
    samples: list[ForeignSample]


@dataclass(slots=True)
class Totals:
    """One instant of all processes."""

    metrics: dict[str, Metric]
    counters: dict[SeriesKey, float]
    gauges: dict[SeriesKey, float]
    sketches: dict[SeriesKey, SketchReading]
    exemplars: dict[SeriesKey, Exemplar]
    foreign: list[ForeignFamily]
