"""
The exposition: what all processes have measured, in Prometheus' text format 0.0.4 and in OpenMetrics 1.0.

`render_text` and `render_openmetrics` are functions of a `Totals` alone: the same one gives the same bytes, in the same
order. What they remember from one call to the next (names, escaped labels, the order) only makes the next one quicker.

**Names.** What Prometheus does not allow in a name (``.`` and ``-``) becomes ``_``. A counter's samples end in ``_total`` in
both formats, so that a series has one name whichever was asked for. If two families would come to share a sample name, the
first one keeps it, where ours come before foreign ones and unchanged names before changed ones, each in the order of the
alphabet; a later one of ours is called ``<name>_2`` (``_3``, …) and a foreign one ``foreign_<name>``. The gauge
``rfs_exposition_renamed{metric, as}`` is there as long as something has been renamed. A histogram's own label ``le`` becomes
``exported_le``.

**Buckets.** A sketch knows 64 buckets per octave; written out are the bounds of every half octave, 2**(k/2), from below the
smallest to above the largest measurement of any label set: all series of a metric have the same ``le``, so ``sum by (le)``
is right. A count at a bound is exact. Between bounds ``histogram_quantile`` interpolates, and is at most 41 % off in the
worst case and a few percent in the usual one, where the sketch itself stays below 1 % (ask the dashboard, or a native
histogram). Whole octaves would double that error, quarters the size; half octaves take the place of some 14 client
buckets for values that spread over a factor of 100. Metrics of very many series or of an enormous range are written at
whole octaves, or coarser still (see `MAX_BUCKET_LINES`): those bounds are a part of the finer ones. Negative bounds are those
of the mirrored buckets, -2**(k/2 - 1/64), so that a measured -1 is below its bound. OpenMetrics has no ``_sum`` and
``_count`` where there are negative measurements.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from math import inf, isnan
from math import pow as power
from typing import NamedTuple, Protocol

from rfs.monitoring._capture.cells import Labels, SeriesKey
from rfs.monitoring._capture.readings import SketchReading
from rfs.monitoring._foreign import SUFFIXES
from rfs.monitoring._totals import Exemplar, ForeignFamily, Totals

__all__ = [
    "OPENMETRICS",
    "TEXT",
    "accepts_gzip",
    "exposition",
    "negotiate",
    "render_openmetrics",
    "render_text",
]

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

MAX_BOUNDS = 160  # of one histogram
MAX_BUCKET_LINES = 40_000  # of one histogram metric over all its series: some 4 MB
_MAX_PLANNED_SERIES = 20_000  # more are rendered from scratch each time, so that remembering costs a few MB at most

_RENAMED = "rfs_exposition_renamed"
_LARGEST_EXACT = 2**53
_MAX_EXEMPLAR_CHARACTERS = 128  # the format's own limit for names and values of its labels together
_UNITS = ("seconds", "bytes", "ratio", "meters", "grams", "joules", "volts", "amperes", "celsius")

# Further names that no other family may use.
_RESERVED = {"counter": ("", "_created"), "histogram": ("", "_created"), "summary": ("_created",)}
_TEXT_TYPES = {"info": "gauge", "stateset": "gauge", "gaugehistogram": "histogram", "unknown": "untyped"}

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_:]")
_NOT_IN_LABELS = re.compile(r"[^A-Za-z0-9_]")


# --- text -------------------------------------------------------------------------------------------------------------


def _number(value: float) -> str:
    """A sample's value; whole numbers without a fraction for as long as a float can tell them apart."""
    if value % 1 == 0 and -_LARGEST_EXACT <= value <= _LARGEST_EXACT:  # NaN and the infinities are not
        return str(int(value))
    if value == inf:
        return "+Inf"
    if value == -inf:
        return "-Inf"
    return "NaN" if isnan(value) else repr(float(value))


def _bound_text(bound: float) -> str:
    """A bucket's bound as OpenMetrics wants it: as Go prints it, with a fraction. 1.0, 0.5, 1.048576e+06."""
    text = repr(bound)
    if "e" in text or abs(bound) < 1e6:
        return text
    digits, _, fraction = text.lstrip("-").partition(".")
    mantissa = f"{digits[0]}.{digits[1:]}{fraction}".rstrip("0").rstrip(".")
    return f"{'-' if bound < 0 else ''}{mantissa}e+{len(digits) - 1:02d}"


def _encodable(text: str) -> str:
    # A lone surrogate is text in Python, and nowhere else.
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _label_text(labels: Iterable[tuple[str, str]]) -> str:
    """Labels without their braces."""
    return ",".join(
        f'{name}="' + _encodable(value).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") + '"'
        for name, value in labels
    )


def _legal(name: str) -> str:
    name = _NOT_IN_NAMES.sub("_", name) or "_"
    return f"_{name}" if name[0].isdigit() else name


def _legal_labels(labels: Labels, taken: str = "") -> list[tuple[str, str]]:
    """*labels* with names that Prometheus allows, each once, and none called *taken*."""
    legal: dict[str, str] = {}
    for name, value in labels:
        better = _NOT_IN_LABELS.sub("_", name) or "_"
        if better[0].isdigit():
            better = f"_{better}"
        if better.startswith("__"):  # Prometheus keeps these to itself
            better = f"exported{better}"
        while better == taken or better in legal:
            better = f"exported_{better}"
        legal[better] = value
    return sorted(legal.items())


# --- names ------------------------------------------------------------------------------------------------------------


class _Family(NamedTuple):
    """What is to be named. Sorted, these are in the order in which they choose."""

    foreign: bool
    changed: bool
    wanted: str
    name: str
    type: str


def _family(name: str, kind: str, *, foreign: bool = False) -> _Family:
    wanted = _legal(name)
    if kind == "counter":
        wanted = wanted.removesuffix("_total") or wanted
    return _Family(foreign, _legal(name) != name, wanted, name, kind)


def _candidates(family: _Family) -> Iterator[str]:
    base = family.wanted
    yield base
    if family.foreign:
        base = f"foreign_{base}"
        yield base
    for number in count(2):
        yield f"{base}_{number}"


def _choose_names(families: Iterable[_Family]) -> dict[_Family, str]:
    """The family name under which each is written; no two of them share a sample name."""
    taken = {_RENAMED}
    chosen: dict[_Family, str] = {}
    for family in sorted(families):
        suffixes = (*SUFFIXES.get(family.type, ("",)), *_RESERVED.get(family.type, ()))
        for candidate in _candidates(family):
            # In OpenMetrics the family's own name must be its own, too.
            names = {candidate, *(candidate + suffix for suffix in suffixes)}
            if not names & taken:
                taken |= names
                chosen[family] = candidate
                break
    return chosen


# --- buckets ----------------------------------------------------------------------------------------------------------


class _Ladder:
    """
    The bounds of one histogram metric, the same for all its series.

    Slot s ends at 2**(s/2). Of the negative slots, slot s begins at -2**(s/2 - 1/64), and what is below is in it and the next.
    """

    def __init__(
        self, positive: tuple[int, int] | None, negative: tuple[int, int] | None, *, zero: bool, series: int
    ) -> None:
        self.shape = (positive, negative, zero, series)
        step = 1
        while True:
            above, below = _slots(positive, -1, step), _slots(negative, 0, step)
            length = len(above) + len(below) + 1
            if step >= 4096 or (length <= MAX_BOUNDS and length * series <= MAX_BUCKET_LINES):
                break
            step *= 2
        self._zero = zero or negative is not None
        self._positive = range(positive[0], positive[1] + 1) if positive else range(0)
        self._negative = range(negative[1], negative[0] - 1, -1) if negative else range(0)
        self.bounds = [-power(2.0, (32 * slot - 1) / 64) for slot in reversed(below)]
        if self._zero:
            self.bounds.append(0.0)
        self.bounds += [power(2.0, slot / 2) for slot in above]
        # Where the wanted counts are among those of all slots; None: everywhere.
        self._picked: list[int] | None = None
        if step > 1:
            ends = 2 * len(self._negative)
            self._picked = [min(max(2 * self._negative[0] + 2 - slot, 0), ends) for slot in reversed(below)]
            zero_at = ends + 1 if negative else 0
            if self._zero:
                self._picked.append(zero_at)
            if positive:
                first_at, ends = zero_at + self._zero, 2 * len(self._positive) + 1
                self._picked += [first_at + min(max(slot - 2 * positive[0] + 1, 0), ends) for slot in above]
            self._picked.append(-1)
        texts = [*map(_bound_text, self.bounds), "+Inf"]
        # "\0" stands for what begins the line, up to its other labels.
        self.template = "".join(f'\0le="{text}"}} %d\n' for text in texts)

    @property
    def has_negative(self) -> bool:
        """Whether there are bounds below zero."""
        return bool(self._negative)

    def counts(self, reading: SketchReading) -> list[float]:
        """How many measurements are at or below each bound, and how many there are."""
        below = 0.0
        counts: list[float] = []
        add = counts.append
        if self._negative:
            add(below)
            octaves = reading.negative
            for number in self._negative:
                if number in octaves:
                    first, lower, middle, upper = octaves[number].quarters
                    below += middle + upper
                    add(below)
                    below += first + lower
                else:
                    add(below)
                add(below)
        if self._zero:
            below += reading.zero
            add(below)
        if self._positive:
            add(below)
            octaves = reading.positive
            for number in self._positive:
                if number in octaves:
                    first, lower, middle, upper = octaves[number].quarters
                    below += first
                    add(below)
                    below += lower + middle
                    add(below)
                    below += upper
                else:
                    add(below)
                    add(below)
            add(below)
        add(below)
        return counts if self._picked is None else [counts[at] for at in self._picked]


def _slots(octaves: tuple[int, int] | None, before: int, step: int) -> range:
    """The slots from *before* the first octave's to the last one's end, widened to multiples of *step*."""
    if octaves is None:
        return range(0)
    return range((2 * octaves[0] + before) // step * step, -(-(2 * octaves[1] + 2) // step) * step + 1, step)


def _octaves(readings: Sequence[Mapping[int, object]]) -> tuple[int, int] | None:
    used = [octaves for octaves in readings if octaves]
    return (min(map(min, used)), max(map(max, used))) if used else None


# --- plans ------------------------------------------------------------------------------------------------------------


class _HistogramSeries(NamedTuple):
    """One series: its place among the sketches, its key, and the beginnings of its lines."""

    at: int
    key: SeriesKey
    bucket_line: str
    sum_line: str
    count_line: str


class _HistogramPlan:
    """One histogram metric."""

    def __init__(self, header: str, series: list[_HistogramSeries]) -> None:
        self.header = header
        self.series = series
        self._ladder: _Ladder | None = None

    def ladder(self, readings: Sequence[SketchReading]) -> _Ladder:
        """The bounds for these readings, kept for as long as they fit."""
        positive = _octaves([reading.positive for reading in readings])
        negative = _octaves([reading.negative for reading in readings])
        zero = any(reading.zero for reading in readings)
        known = self._ladder
        if known is None or known.shape != (positive, negative, zero, len(readings)):
            known = self._ladder = _Ladder(positive, negative, zero=zero, series=len(readings))
        return known


class _ForeignPlan:
    """One foreign family: where its samples go and how their lines begin."""

    def __init__(self, family: ForeignFamily, name: str, *, openmetrics: bool) -> None:
        self.keys = [(sample.name, sample.labels) for sample in family.samples]
        kind = family.type if family.type in SUFFIXES else "unknown"
        sorted_lines: list[tuple[tuple[str, list[tuple[str, str]], int, float, str], str, int]] = []
        seen: set[str] = set()
        suffixes = SUFFIXES[kind]
        for at, sample in enumerate(family.samples):
            suffix = sample.name.removeprefix(family.name)
            if suffix not in suffixes:
                continue
            ordering: float = 0.0
            labels = sample.labels
            if kind == "stateset":  # the state is in a label that is called as the family is
                labels = tuple((name if label == family.name else label, value) for label, value in labels)
            series = [(label, value) for label, value in _legal_labels(labels)]
            special = "le" if suffix == "_bucket" else "quantile" if kind == "summary" and not suffix else ""
            if special:
                ordering = _float_of(dict(series).get(special, ""))
            others = [pair for pair in series if pair[0] != special]
            text = f"{name}{suffix}" + (f"{{{_label_text(series)}}}" if series else "")
            if text in seen:
                continue
            seen.add(text)
            # In the old format sums and counts of a gauge histogram are families of their own.
            apart = suffix if suffix in {"_gsum", "_gcount"} and not openmetrics else ""
            sorted_lines.append(((apart, others, suffixes.index(suffix), ordering, text), text, at))
        sorted_lines.sort()
        self.order = [at for _, _, at in sorted_lines]
        self.prefixes: list[str] = []
        unit = family.unit if kind not in {"info", "stateset"} else ""
        before: object = None
        for (apart, *_), text, _ in sorted_lines:
            line = f"{text} "
            if apart != before:
                shown = f"{name}{apart}", "gauge" if apart else kind
                line = _header(*shown, family.help, openmetrics=openmetrics, unit=unit) + line
                before = apart
            self.prefixes.append(line)

    def render(self, family: ForeignFamily) -> str:
        """The family's lines."""
        samples = family.samples
        return "".join(
            f"{prefix}{_number(samples[at].value)}\n" for prefix, at in zip(self.prefixes, self.order, strict=True)
        )


def _float_of(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return inf


def _header(name: str, kind: str, help_text: str, *, openmetrics: bool, unit: str = "") -> str:
    help_text = _encodable(help_text).replace("\\", r"\\").replace("\n", r"\n")
    if openmetrics:
        lines = f"# TYPE {name} {kind}\n"
        if unit and name.endswith(f"_{unit}"):
            lines += f"# UNIT {name} {unit}\n"
        help_text = help_text.replace('"', r"\"")
    else:
        if kind in {"counter", "info"}:  # there it is the samples that have a type
            name += SUFFIXES[kind][0]
        lines = f"# TYPE {name} {_TEXT_TYPES.get(kind, kind)}\n"
    return f"# HELP {name} {help_text}\n{lines}" if help_text else lines


def _unit_of(name: str) -> str:
    return next((unit for unit in _UNITS if name.endswith(f"_{unit}")), "")


class _Plan:
    """
    Everything about an exposition that does not change as long as no series comes or goes.

    The lines are made in the order in which `Totals` has its series, and put in theirs at the end.
    """

    def __init__(self, totals: Totals, *, openmetrics: bool) -> None:
        self._openmetrics = openmetrics
        self._metrics = dict(totals.metrics)
        self._counters, self._gauges, self._sketches = (
            list(totals.counters),
            list(totals.gauges),
            list(totals.sketches),
        )
        self._foreign = [(family.name, family.type, family.help, family.unit) for family in totals.foreign]
        kinds = ((self._counters, "counter"), (self._gauges, "gauge"), (self._sketches, "histogram"))
        families = {(name, kind): _family(name, kind) for keys, kind in kinds for name in {key.name for key in keys}}
        foreign = [_family(family.name, family.type, foreign=True) for family in totals.foreign]
        names = _choose_names({*families.values(), *foreign})

        ordering: list[tuple[str, Labels]] = []
        lines: list[str] = []
        for keys, kind in kinds[:2]:
            shown = {key.name: names[families[key.name, kind]] for key in keys}
            ordering += [(shown[key.name], key.labels) for key in keys]
            suffix = SUFFIXES[kind][0]
            lines += [f"{shown[key.name]}{suffix}{_braced(key.labels)} " for key in keys]
        begun: set[str] = set()
        for at in sorted(range(len(lines)), key=ordering.__getitem__):
            name = ordering[at][0]
            if name not in begun:
                begun.add(name)
                kind = "counter" if at < len(self._counters) else "gauge"
                key = (self._counters + self._gauges)[at]
                lines[at] = self._header_of(name, kind, key.name) + lines[at]
        self._counter_lines, self._gauge_lines = lines[: len(self._counters)], lines[len(self._counters) :]

        self._histograms: list[_HistogramPlan] = []
        by_name: dict[str, list[tuple[Labels, int]]] = {}
        for at, key in enumerate(self._sketches):
            by_name.setdefault(key.name, []).append((key.labels, at))
        for own_name, members in by_name.items():
            name = names[families[own_name, "histogram"]]
            series = [self._histogram_series(name, at) for _, at in sorted(members)]
            self._histograms.append(_HistogramPlan(self._header_of(name, "histogram", own_name), series))
            ordering.append((name, ()))
        self._foreign_names = [names[family] for family in foreign]
        self._foreign_plans: list[_ForeignPlan | None] = [None] * len(foreign)
        ordering += [(name, ()) for name in self._foreign_names]
        # Two foreign families of one name and type would be one: the mirror merges them.
        self._order = sorted(range(len(ordering)), key=ordering.__getitem__)
        self._renamed = self._renamings(names)

    def fits(self, totals: Totals) -> bool:
        """Whether these are the same series."""
        return (
            list(totals.counters) == self._counters
            and list(totals.gauges) == self._gauges
            and list(totals.sketches) == self._sketches
            and totals.metrics == self._metrics
            and [(family.name, family.type, family.help, family.unit) for family in totals.foreign] == self._foreign
        )

    def render(self, totals: Totals) -> bytes:
        """The exposition of *totals*, whose series are those of this plan."""
        blocks = [
            f"{line}{int(value)}\n" if value % 1 == 0 and value <= _LARGEST_EXACT else f"{line}{_number(value)}\n"
            for line, value in zip(self._counter_lines, totals.counters.values(), strict=True)
        ]
        blocks += [
            f"{line}{_number(value)}\n" for line, value in zip(self._gauge_lines, totals.gauges.values(), strict=True)
        ]
        sketches = list(totals.sketches.values())
        blocks += [self._render_histogram(plan, sketches, totals.exemplars) for plan in self._histograms]
        blocks += [self._render_foreign(at, family) for at, family in enumerate(totals.foreign)]
        ordered = [blocks[at] for at in self._order]
        ordered.append(self._renamed)
        if self._openmetrics:
            ordered.append("# EOF\n")
        return "".join(ordered).encode()

    def _header_of(self, name: str, kind: str, own_name: str) -> str:
        metric = self._metrics.get(own_name)
        unit = _unit_of(name)
        return _header(name, kind, metric.help if metric else "", openmetrics=self._openmetrics, unit=unit)

    def _histogram_series(self, name: str, at: int) -> _HistogramSeries:
        key = self._sketches[at]
        labels = _label_text(_legal_labels(key.labels, "le"))
        braced = f"{{{labels}}}" if labels else ""
        bucket = f"{name}_bucket{{{labels}," if labels else f"{name}_bucket{{"
        return _HistogramSeries(at, key, bucket.replace("%", "%%"), f"{name}_sum{braced} ", f"{name}_count{braced} ")

    def _render_histogram(
        self, plan: _HistogramPlan, sketches: list[SketchReading], exemplars: Mapping[SeriesKey, Exemplar]
    ) -> str:
        ladder = plan.ladder([sketches[series.at] for series in plan.series])
        template = ladder.template
        blocks = [plan.header]
        for at, key, bucket_line, sum_line, count_line in plan.series:
            reading = sketches[at]
            counts = ladder.counts(reading)
            text = template.replace("\0", bucket_line) % tuple(counts)
            if self._openmetrics and key in exemplars:
                text = _with_exemplar(text, ladder, exemplars[key])
            # OpenMetrics takes a sum for a counter's sibling: it cannot be negative, and goes with the count.
            if self._openmetrics and (ladder.has_negative or not reading.total >= 0):
                blocks.append(text)
            else:
                blocks.append(f"{text}{sum_line}{_number(reading.total)}\n{count_line}{int(counts[-1])}\n")
        return "".join(blocks)

    def _render_foreign(self, at: int, family: ForeignFamily) -> str:
        plan = self._foreign_plans[at]
        if plan is None or plan.keys != [(sample.name, sample.labels) for sample in family.samples]:
            plan = _ForeignPlan(family, self._foreign_names[at], openmetrics=self._openmetrics)
            self._foreign_plans[at] = plan
        return plan.render(family)

    def _renamings(self, names: Mapping[_Family, str]) -> str:
        renamed = sorted((family.name, name) for family, name in names.items() if name != family.wanted)
        if not renamed:
            return ""
        lines = [f"{_RENAMED}{{{_label_text((('as', name), ('metric', metric)))}}} 1\n" for metric, name in renamed]
        help_text = "Metrics whose name another one has in this format"
        return _header(_RENAMED, "gauge", help_text, openmetrics=self._openmetrics) + "".join(lines)


def _braced(labels: Labels) -> str:
    return f"{{{_label_text(labels)}}}" if labels else ""


def _with_exemplar(text: str, ladder: _Ladder, exemplar: Exemplar) -> str:
    labels = [("trace_id", exemplar.trace_id), ("span_id", exemplar.span_id)]
    labels = [(name, value) for name, value in labels if value]
    if sum(len(name) + len(value) for name, value in labels) > _MAX_EXEMPLAR_CHARACTERS:
        return text
    lines = text.split("\n")
    at = bisect_left(ladder.bounds, exemplar.value)
    lines[at] += f" # {{{_label_text(labels)}}} {_number(exemplar.value)} {exemplar.time_seconds:.3f}"
    return "\n".join(lines)


# The last plan of either format. Reading and replacing one are atomic; threads that meet here work one out each.
_plans: dict[bool, _Plan] = {}


def _render(totals: Totals, *, openmetrics: bool) -> bytes:
    plan = _plans.get(openmetrics)
    if plan is None or not plan.fits(totals):
        plan = _Plan(totals, openmetrics=openmetrics)
        series = len(totals.counters) + len(totals.gauges) + len(totals.sketches)
        series += sum(len(family.samples) for family in totals.foreign)
        if series <= _MAX_PLANNED_SERIES:
            _plans[openmetrics] = plan
    return plan.render(totals)


def render_text(totals: Totals) -> bytes:
    """*totals* in Prometheus' text format 0.0.4. Safe from any thread."""
    return _render(totals, openmetrics=False)


def render_openmetrics(totals: Totals) -> bytes:
    """*totals* in OpenMetrics 1.0, with exemplars. Safe from any thread."""
    return _render(totals, openmetrics=True)


# --- content negotiation ----------------------------------------------------------------------------------------------


class _TotalsSource(Protocol):
    def totals(self) -> Totals: ...


class _Exposed(Protocol):
    """What of a Monitor is needed."""

    @property
    def query(self) -> _TotalsSource: ...

    def refresh_foreign(self) -> None: ...


def exposition(monitor: _Exposed, accept: str | None = None) -> tuple[bytes, str]:
    """
    Everything that *monitor* and the other processes of its service have measured, and its content type.

    Args:
        accept: The request's ``Accept``; see `negotiate`.

    Reads files and computes, some milliseconds for a thousand series: not for an event loop's own thread.
    """
    content_type = negotiate(accept)
    monitor.refresh_foreign()
    totals = monitor.query.totals()
    return (render_openmetrics(totals) if content_type == OPENMETRICS else render_text(totals)), content_type


def negotiate(accept: str | None) -> str:
    """
    `OPENMETRICS` if *accept* names it, version 1 or none, at least as gladly as plain text; else `TEXT`.

    There is no refusal: what can't be read, or names neither, gets plain text.
    """
    openmetrics = 0.0
    plain: dict[str, float] = {}
    for kind, parameters, quality in _weighted(accept or ""):
        if kind == "application/openmetrics-text":
            if parameters.get("version", "1.0.0").startswith("1."):
                openmetrics = max(openmetrics, quality)
        elif kind in {"text/plain", "text/*", "*/*"} and parameters.get("version", "0.0.4") == "0.0.4":
            plain[kind] = max(plain.get(kind, 0.0), quality)
    text = plain.get("text/plain", plain.get("text/*", plain.get("*/*", 0.0)))  # the most specific one counts
    return OPENMETRICS if openmetrics > 0 and openmetrics >= text else TEXT


def accepts_gzip(accept_encoding: str | None) -> bool:
    """Whether a client takes gzip."""
    asked = {kind: quality for kind, _, quality in _weighted(accept_encoding or "")}
    return asked.get("gzip", asked.get("*", 0.0)) > 0


def _weighted(header: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """The parts of an ``Accept`` header: name, parameters, and q from 0 to 1; a q that can't be read is 0."""
    for part in header[:4096].split(","):
        name, *pairs = part.split(";")
        parameters = {
            key.strip().lower(): value.strip().strip('"') for key, _, value in (pair.partition("=") for pair in pairs)
        }
        quality = _float_of(parameters.get("q", "1"))
        yield name.strip().lower(), parameters, quality if 0 <= quality <= 1 else 0.0
