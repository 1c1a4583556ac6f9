"""
Registries of ``prometheus_client``: what this process' ones hold, and what those of all processes add up to.

`ForeignMirror` runs the host's collectors, in a thread of its own: they may take locks, wait or raise. What they say goes into
cells, where `ForeignSums` finds it in any process.

**Fork.** A child's registries begin with what its parent had counted. That is taken off: for the library's own metrics as it was
at the fork, for any other collector as it says when it is first asked in the child. What ``process_collector`` reads is the
kernel's account of this very process, and taken as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import inf
from threading import Lock, Thread, main_thread
from time import monotonic
from typing import Any

import msgspec

from rfs.monitoring._capture.cells import ForeignEntry, Labels, SeriesKey
from rfs.monitoring._capture.foreign import SampleKey, is_summed
from rfs.monitoring._totals import ForeignFamily, ForeignSample

# What a family's samples are called after its name.
SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "gaugehistogram": ("_bucket", "_gsum", "_gcount"),
    "summary": ("", "_sum", "_count"),
    "info": ("_info",),
    "stateset": ("",),
    "unknown": ("",),
}

MAX_FOLDED_SAMPLES = 20_000  # of all dead processes together: some 3 MB
REFUSED = SeriesKey("rfs_dropped_total", (("reason", "refused"), ("signal", "foreign_samples")))

FoldedSample = tuple[str, str, str, str, str, Labels, float]  # family, type, help, unit, sample, labels, value

_CLIENT = "prometheus_client"
_PAUSE_PER_SECOND = 20.0  # a registry that takes long to collect gets at most a twentieth of a core
_HANGING_SECONDS = 10.0


class _Merging(msgspec.Struct):
    """A family while its samples are gathered."""

    type: str
    help: str
    unit: str
    samples: dict[SampleKey, float]

    def finish(self, name: str) -> ForeignFamily:
        samples = [ForeignSample(sample, labels, value) for (sample, labels), value in self.samples.items()]
        return ForeignFamily(name, self.type, self.help, self.unit, samples)


def _finish(families: Mapping[tuple[str, str], _Merging]) -> list[ForeignFamily]:
    ordered = sorted(families.items(), key=lambda item: item[0])
    return [merging.finish(name) for (name, _), merging in ordered if merging.samples]


def with_worker(labels: Labels, worker: str) -> Labels:
    """*labels* and the label ``worker``; one that is called so already becomes ``exported_worker``."""
    found = dict(labels)
    if "worker" in found:
        other = "exported_worker"
        while other in found:
            other = f"exported_{other}"
        found[other] = found.pop("worker")
    return tuple(sorted([*found.items(), ("worker", worker)]))


class ForeignSums:
    """
    Samples of several processes, added up: sums over all of them, everything else with the label ``worker``.

    Args:
        folded: The sums of dead processes.
    """

    def __init__(self, folded: Iterable[FoldedSample] = ()) -> None:
        self._families: dict[tuple[str, str], _Merging] = {}
        self._size = 0
        for family, type_name, help_text, unit, sample, labels, value in folded:
            self._family(family, type_name, help_text, unit).samples[sample, labels] = value
            self._size += 1

    def add(self, entries: Iterable[ForeignEntry], worker: str | None, *, limit: float = inf) -> int:
        """
        Add what one process has; *worker* is its pid, None if it is dead, and then its sums alone count.

        Return how many samples were refused, because they would be more than *limit*; known ones never are.
        """
        refused = 0
        for name, type_name, help_text, unit, sample, labels, cells, at in entries:
            if not cells[at + 1]:  # not there
                continue
            summed = is_summed(name, type_name, sample)
            if not summed and worker is None:
                continue
            samples = self._family(name, type_name, help_text, unit).samples
            key = sample, labels if summed or worker is None else with_worker(labels, worker)
            if key in samples:
                samples[key] = samples[key] + cells[at] if summed else cells[at]
            elif self._size < limit:
                samples[key] = cells[at]
                self._size += 1
            else:
                refused += 1
        return refused

    def _family(self, name: str, type_name: str, help_text: str, unit: str) -> _Merging:
        family = self._families.get((name, type_name))
        if family is None:
            family = self._families[name, type_name] = _Merging(type_name, help_text, unit, {})
        elif help_text and not family.help:
            family.help = help_text
        return family

    def families(self) -> list[ForeignFamily]:
        """All families, in a fixed order."""
        return _finish(self._families)

    def folded(self) -> list[FoldedSample]:
        """All samples, as `ForeignSums` takes them again."""
        return [
            (name, type_name, family.help, family.unit, sample, labels, value)
            for (name, type_name), family in self._families.items()
            for (sample, labels), value in family.samples.items()
        ]


class ForeignMirror:
    """
    What this process' ``prometheus_client`` registries hold, sample by sample.

    The default registry is among them as soon as the host has imported the library. A collector that raises costs its own
    samples and nobody else's, and is told to *on_error*; while one hangs, all samples stay what they were.
    ``_created`` samples, native histograms and timestamps are left out. A ``MultiProcessCollector`` is left out, too: it has added
    up all processes already.

    Args:
        publish: Is handed every collection, and what its sums were at the fork; by one thread at a time.
        on_error: Told where, and the exception; must not raise.
    """

    def __init__(
        self,
        publish: Callable[[list[ForeignFamily], Mapping[SampleKey, float]], object],
        on_error: Callable[[str, Exception], None],
    ) -> None:
        self._publish = publish
        self._on_error = on_error
        self._registries: list[Any] = []
        self._before: dict[SampleKey, float] = {}
        self._inherited: list[Any] = []  # collectors that were there at the fork, and have not been asked since
        self._begin()

    def _begin(self) -> None:
        self._lock = Lock()
        self._thread: Thread | None = None
        self._began = 0.0
        self._due_at = 0.0

    def after_fork(self) -> None:
        """In a forked child: remember what the parent had counted. Takes no lock, for there is nobody to give it back."""
        self._begin()
        self._before = {}
        self._inherited = []
        for registry in self._all_registries():
            for collector in tuple(getattr(registry, "_collector_to_names", (registry,))):
                if type(collector).__module__ == f"{_CLIENT}.process_collector":
                    continue
                try:
                    self._before.update(_sums_of(collector))
                except Exception:  # noqa: BLE001 - no metric of the library, or of another version
                    self._inherited.append(collector)

    def include(self, registry: Any) -> None:
        """Mirror *registry*, anything with ``collect()``. Twice is once."""
        if not any(known is registry for known in self._registries):
            self._registries.append(registry)

    @property
    def active(self) -> bool:
        """Whether there is anything to collect; cheap."""
        return bool(self._registries) or _CLIENT in sys.modules

    def due(self, now: float) -> bool:
        """
        Whether it is time for a periodic collection, by the monotonic clock's *now*.

        A registry whose collection takes long is collected less often; one that takes under 50 ms, at any time.
        """
        return self.active and now >= self._due_at

    def refresh(self, wait_seconds: float = 0.0) -> None:
        """
        Collect and publish; wait for it, but no longer than *wait_seconds*. Never raises.

        A collection that takes longer goes on, and no other is begun meanwhile.
        """
        if not self.active:
            return
        deadline = monotonic() + wait_seconds
        for _ in range(2):  # one that is under way may have looked before the caller's last measurement
            with self._lock:
                thread = self._thread
                begins = thread is None or not thread.is_alive()
                if thread is None or begins:
                    thread = Thread(target=self._run, name="rfs-foreign", daemon=True)
                    try:
                        thread.start()
                    except RuntimeError as exc:
                        if main_thread().is_alive():  # no more threads
                            self._on_error("foreign registries", exc)
                        elif not self._due_at:  # the interpreter ends, and it did not take long the last time
                            self._run()
                        return
                    self._thread, self._began = thread, monotonic()
                elif monotonic() - self._began > _HANGING_SECONDS:
                    self._began = monotonic()
                    fault = f"a collector has not returned for {_HANGING_SECONDS:g} s"
                    self._on_error("foreign registries", TimeoutError(fault))
            thread.join(max(0.0, deadline - monotonic()))
            if begins or thread.is_alive():
                return

    def _run(self) -> None:
        try:
            self._publish(self.collect(), self._before)
        except Exception as exc:  # noqa: BLE001 - the host comes first; counted and shown
            self._on_error("foreign registries", exc)

    def collect(self) -> list[ForeignFamily]:
        """Collect all registries, families and samples in a fixed order; never raises. Runs the host's collectors."""
        began = monotonic()
        families: dict[tuple[str, str], _Merging] = {}
        for metric, inherited in self._metrics():
            try:
                self._merge(metric, families, inherited=inherited)
            except Exception as exc:  # noqa: BLE001 - a custom collector may yield anything
                self._on_error("foreign metric", exc)
        took = monotonic() - began
        self._due_at = began + _PAUSE_PER_SECOND * took if took > 1 / _PAUSE_PER_SECOND else 0.0
        return _finish(families)

    def _all_registries(self) -> list[Any]:
        default = getattr(sys.modules.get(_CLIENT), "REGISTRY", None)
        registries = [default] if default is not None else []
        return registries + [registry for registry in self._registries if registry is not default]

    def _metrics(self) -> Iterator[tuple[Any, bool]]:
        """All metrics, and whether what they say is still the parent's."""
        for registry in self._all_registries():
            for collector in self._collectors(registry):
                if type(collector).__module__ == f"{_CLIENT}.multiprocess":
                    continue
                try:
                    # A list first: a generator that raises half way must not leave half a histogram.
                    metrics = list(collector.collect())
                except Exception as exc:  # noqa: BLE001 - the host's collectors may raise anything
                    self._on_error(f"collector {type(collector).__name__}", exc)
                    continue
                inherited = any(one is collector for one in self._inherited)
                for metric in metrics:
                    yield metric, inherited
                if inherited:
                    self._inherited = [one for one in self._inherited if one is not collector]

    def _collectors(self, registry: Any) -> list[Any]:
        """The registry's collectors one by one, where it is the library's own; else itself, which is one, too."""
        try:
            with registry._lock:
                collectors = list(registry._collector_to_names)
                if registry._target_info:
                    collectors.append(_TargetInfo(registry._target_info_metric()))
        except Exception:  # noqa: BLE001 - another version, or another kind of registry
            return [registry]
        return collectors

    def _merge(self, metric: Any, families: dict[tuple[str, str], _Merging], *, inherited: bool) -> None:
        name, kind = str(metric.name), str(metric.type)
        if kind not in SUFFIXES:
            kind = "unknown"
        suffixes = SUFFIXES[kind]
        for sample in metric.samples:
            try:
                sample_name = str(sample.name)
                labels = tuple(sorted((str(label), str(value)) for label, value in sample.labels.items()))
                value = float(sample.value)
            except (AttributeError, TypeError, ValueError) as exc:
                if getattr(sample, "native_histogram", None) is None:
                    self._on_error(f"foreign metric {name}", exc)
                continue
            if sample_name == f"{name}_created":
                continue
            key, own = (name, kind), sample_name.startswith(name) and sample_name[len(name) :] in suffixes
            if not own:  # a custom collector may name its samples as it likes
                key = (sample_name, "unknown")
            family = families.get(key)
            if family is None:
                help_text, unit = str(metric.documentation), str(metric.unit) if own else ""
                family = families[key] = _Merging(key[1], help_text, unit, {})
            family.samples.setdefault((sample_name, labels), value)  # one that comes twice counts once
            if inherited:
                self._before.setdefault((sample_name, labels), value)


class _TargetInfo:
    """The registry's ``target_info`` as the collector that it isn't."""

    def __init__(self, metric: Any) -> None:
        self._metric = metric

    def collect(self) -> list[Any]:
        return [self._metric]


def _sums_of(metric: Any) -> dict[SampleKey, float]:
    """
    What the sums of one of the library's own metrics are at this instant, read without its locks.

    Raises:
        Exception: It is another collector, or made otherwise than those that are known.
    """
    library: Any = sys.modules[f"{_CLIENT}.metrics"]
    found: dict[SampleKey, float] = {}
    if not isinstance(metric, library.Counter | library.Histogram | library.Summary):
        if isinstance(metric, library.MetricWrapperBase):
            return found  # a gauge or the like: no sums
        raise TypeError
    children = metric._metrics if metric._labelnames else {(): metric}
    for label_values, child in children.items():
        pairs = list(zip(metric._labelnames, label_values, strict=True))
        labels = tuple(sorted(pairs))
        if isinstance(metric, library.Counter):
            found[f"{metric._name}_total", labels] = _value_of(child._value)
            continue
        found[f"{metric._name}_sum", labels] = _value_of(child._sum)
        if isinstance(metric, library.Summary):
            found[f"{metric._name}_count", labels] = _value_of(child._count)
            continue
        count = 0.0
        for bound, bucket in zip(child._upper_bounds, child._buckets, strict=True):
            count += _value_of(bucket)
            le = ("le", library.floatToGoString(bound))
            found[f"{metric._name}_bucket", tuple(sorted([*pairs, le]))] = count
        found[f"{metric._name}_count", labels] = count
    return found


def _value_of(value: Any) -> float:
    # In the library's own mode for several processes a forked child begins a file of its own, at 0.
    return 0.0 if value._multiprocess else float(value._value)
