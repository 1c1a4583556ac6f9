"""OpenTelemetry's SDK: counters and histograms, read into memory. It has no bound instruments: labels go with each call."""

from __future__ import annotations

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from benchmarks.corpus import durations
from benchmarks.worker import timed, timed_in_threads

_meter = MeterProvider([InMemoryMetricReader()]).get_meter("bench")
_orders = _meter.create_counter("bench_orders")
_waits = _meter.create_histogram("bench_wait_seconds")
_ATTRIBUTES = {"method": "POST", "status": "201"}
_METHOD = {"method": "POST"}


def _count_bound(count: int) -> None:
    add = _orders.add
    for _ in range(count):
        add(1, _ATTRIBUTES)


def _count_labelled(count: int) -> None:
    add = _orders.add
    for _ in range(count):
        add(1, {"method": "POST", "status": "201"})


def _observe_bound(count: int) -> None:
    record = _waits.record
    for seconds in durations(count):
        record(seconds, _METHOD)


LOOPS = {
    "counter": timed(_count_bound),
    "counter_threads": timed_in_threads(_count_bound, 4),
    "counter_labels": timed(_count_labelled),
    "histogram": timed(_observe_bound),
}
