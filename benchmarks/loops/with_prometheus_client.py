"""prometheus_client: counters and histograms, in one process."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from benchmarks.corpus import durations
from benchmarks.exposed import counters, histograms
from benchmarks.worker import timed, timed_in_threads

_registry = CollectorRegistry()
_answers = Counter("bench_orders", "", ["method", "status"], registry=_registry)
_orders = _answers.labels(method="POST", status="201")
_waits = Histogram("bench_wait_seconds", "", ["method"], registry=_registry).labels(method="POST")

_exposed = CollectorRegistry()
_requests = {name: Counter(name, "Requests", ["route"], registry=_exposed) for name in {one[0] for one in counters()}}
for _name, _route, _count in counters():
    _requests[_name].labels(route=_route).inc(_count)
_distributions = {name: Histogram(name, "Wait", ["route"], registry=_exposed) for name in {o[0] for o in histograms()}}
for _name, _route, _seconds in histograms():
    for _value in _seconds:
        _distributions[_name].labels(route=_route).observe(_value)


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


def _expose(count: int) -> None:
    for _ in range(count):
        generate_latest(_exposed)


LOOPS = {
    "counter": timed(_count_bound),
    "counter_threads": timed_in_threads(_count_bound, 4),
    "counter_labels": timed(_count_labelled),
    "histogram": timed(_observe_bound),
    "exposition": timed(_expose),
}
