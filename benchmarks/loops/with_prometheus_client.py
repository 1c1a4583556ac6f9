"""prometheus_client: counters and histograms, in one process."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from benchmarks.corpus import durations
from benchmarks.worker import timed, timed_in_threads

_registry = CollectorRegistry()
_answers = Counter("bench_orders", "", ["method", "status"], registry=_registry)
_orders = _answers.labels(method="POST", status="201")
_waits = Histogram("bench_wait_seconds", "", ["method"], registry=_registry).labels(method="POST")


def _count_bound(count: int) -> None:
    inc = _orders.inc
    for _ in range(count):
        inc()


def _count_labelled(count: int) -> None:
    labels = _answers.labels
    for _ in range(count):
        labels(method="POST", status="201").inc()


def _observe_bound(count: int) -> None:
    observe = _waits.observe
    for seconds in durations(count):
        observe(seconds)


LOOPS = {
    "counter": timed(_count_bound),
    "counter_threads": timed_in_threads(_count_bound, 4),
    "counter_labels": timed(_count_labelled),
    "histogram": timed(_observe_bound),
}
