"""aioprometheus: the exposition of one process."""

from __future__ import annotations

from aioprometheus import Counter, Histogram, Registry, render

from benchmarks.exposed import counters, histograms
from benchmarks.worker import timed

_registry = Registry()
_instruments = {name: Counter(name, "Requests", registry=_registry) for name in {one[0] for one in counters()}}
for _name, _route, _count in counters():
    _instruments[_name].add({"route": _route}, _count)
_distributions = {name: Histogram(name, "Wait", registry=_registry) for name in {one[0] for one in histograms()}}
for _name, _route, _seconds in histograms():
    for _value in _seconds:
        _distributions[_name].observe({"route": _route}, _value)


def _expose(count: int) -> None:
    for _ in range(count):
        render(_registry, ["text/plain"])


LOOPS = {"exposition": timed(_expose)}
