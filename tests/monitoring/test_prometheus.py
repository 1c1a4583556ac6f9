"""The exposition: what is rendered, in both formats, is what the official parsers read back."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import ceil, inf, isnan, log2, nan
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, Info, Summary
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.core import Metric as ForeignMetric
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families as parse_text

from rfs.monitoring import _foreign
from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.instruments import MetricType
from rfs.monitoring._capture.readings import Octave, SketchReading
from rfs.monitoring._foreign import ForeignMirror, with_worker
from rfs.monitoring._totals import Exemplar, ForeignFamily, ForeignSample, Metric, Totals
from rfs.monitoring.exporters import prometheus
from rfs.monitoring.exporters.prometheus import (
    MAX_BOUNDS,
    OPENMETRICS,
    TEXT,
    accepts_gzip,
    exposition,
    negotiate,
    render_openmetrics,
    render_text,
)
from rfs.testing.virtual_time import VirtualTime

# The library leaves this one without types.
parse_openmetrics: Any = openmetrics_parser.text_string_to_metric_families

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

NAMES = st.from_regex(r"[a-z_:][a-z0-9_:.\-]{0,8}", fullmatch=True)
LABELS = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9_]{0,5}", fullmatch=True), st.text(min_size=1, max_size=12), max_size=3
).map(lambda labels: tuple(sorted(labels.items())))


def key(name: str, **labels: str) -> SeriesKey:
    return SeriesKey(name, tuple(sorted(labels.items())))


def reading(values: Iterable[float]) -> SketchReading:
    """What a sketch holds after these measurements, worked out from its definition."""
    values = list(values)
    positive: dict[int, list[float]] = {}
    negative: dict[int, list[float]] = {}
    for value in values:
        if value:
            index = ceil(64 * log2(abs(value)))
            octaves = positive if value > 0 else negative
            octaves.setdefault(index // 64, [0.0] * 64)[index % 64] += 1
    return SketchReading(
        float(len(values)),
        sum(values),
        float(values.count(0)),
        min(values, default=inf),
        max(values, default=-inf),
        {number: Octave.of(buckets) for number, buckets in positive.items()},
        {number: Octave.of(buckets) for number, buckets in negative.items()},
    )


def totals(
    *,
    counters: Mapping[SeriesKey, float] | None = None,
    gauges: Mapping[SeriesKey, float] | None = None,
    histograms: Mapping[SeriesKey, Iterable[float]] | None = None,
    help_texts: Mapping[str, str] | None = None,
    exemplars: Mapping[SeriesKey, Exemplar] | None = None,
    foreign: Iterable[ForeignFamily] = (),
) -> Totals:
    kinds = (
        (counters or {}, MetricType.COUNTER),
        (gauges or {}, MetricType.GAUGE),
        (histograms or {}, MetricType.HISTOGRAM),
    )
    metrics = {
        one.name: Metric(one.name, kind, (help_texts or {}).get(one.name, ""))
        for series, kind in kinds
        for one in series
    }
    sketches = {one: reading(values) for one, values in (histograms or {}).items()}
    return Totals(metrics, dict(counters or {}), dict(gauges or {}), sketches, dict(exemplars or {}), list(foreign))


def families(rendered: bytes) -> list[Any]:
    """The metric families, by the parser of the format that this is."""
    text = rendered.decode()
    return list(parse_openmetrics(text) if text.endswith("# EOF\n") else parse_text(text))


def samples(rendered: bytes) -> Samples:
    """Every sample by name and labels; that none comes twice is part of the claim."""
    read: Samples = {}
    for family in families(rendered):
        for sample in family.samples:
            one = (sample.name, tuple(sorted(sample.labels.items())))
            assert one not in read
            read[one] = sample.value
    return read


def buckets(rendered: bytes, name: str, **labels: str) -> dict[float, float]:
    return {
        float(dict(own)["le"]): value
        for (sample, own), value in samples(rendered).items()
        if sample == f"{name}_bucket" and {label: text for label, text in own if label != "le"} == labels
    }


def values_of(rendered: bytes, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    return {labels: value for (sample, labels), value in samples(rendered).items() if sample == name}


BOTH = pytest.mark.parametrize("render", [render_text, render_openmetrics])


class TestScalars:
    def test_text(self) -> None:
        """
        The whole of a small exposition, as Prometheus' text format has it.
        """
        one = totals(
            counters={key("orders_total", status="new"): 3.0, key("orders_total", status="gone"): 0.0},
            gauges={key("open_tables"): 4.5},
            help_texts={"orders_total": "Orders, by status"},
        )

        assert render_text(one).decode() == (
            "# TYPE open_tables gauge\n"
            "open_tables 4.5\n"
            "# HELP orders_total Orders, by status\n"
            "# TYPE orders_total counter\n"
            'orders_total{status="gone"} 0\n'
            'orders_total{status="new"} 3\n'
        )

    def test_openmetrics(self) -> None:
        """
        In OpenMetrics a counter's family has no ``_total``, a unit is told where the name ends in one, and it ends in EOF.
        """
        one = totals(counters={key("sent_bytes_total"): 3.0}, help_texts={"sent_bytes_total": 'What was "sent"'})

        assert render_openmetrics(one).decode() == (
            '# HELP sent_bytes What was \\"sent\\"\n'
            "# TYPE sent_bytes counter\n"
            "# UNIT sent_bytes bytes\n"
            "sent_bytes_total 3\n"
            "# EOF\n"
        )

    @BOTH
    def test_a_counter_has_one_name(self, render: Any) -> None:
        """
        A counter declared without ``_total`` gets it in both formats, so that it is one series whichever is scraped.
        """
        assert samples(render(totals(counters={key("hits"): 2.0}))) == {("hits_total", ()): 2.0}

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (0.0, "0"),
            (-0.0, "0"),
            (-3.0, "-3"),
            (0.1, "0.1"),
            (1e-7, "1e-07"),
            (2.0**53, "9007199254740992"),
            (2.0**53 * 4, "3.602879701896397e+16"),
            (1e300, "1e+300"),
            (inf, "+Inf"),
            (-inf, "-Inf"),
            (nan, "NaN"),
        ],
    )
    def test_numbers(self, value: float, text: str) -> None:
        """
        A whole number is written as one as long as a float holds it exactly; what is not a number is said as such.
        """
        assert render_text(totals(gauges={key("level"): value})).decode().splitlines()[-1] == f"level {text}"

    @BOTH
    def test_nothing_measured(self, render: Any) -> None:
        """
        An empty exposition is one, too.
        """
        assert samples(render(totals())) == {}

    @BOTH
    @given(
        counters=st.dictionaries(st.tuples(NAMES.map("c{}".format), LABELS), st.floats(0, 1e300), max_size=6),
        gauges=st.dictionaries(st.tuples(NAMES.map("g{}".format), LABELS), st.floats(allow_nan=False), max_size=6),
        help_text=st.text(max_size=20),
    )
    def test_parse_undoes_render(
        self,
        render: Any,
        counters: dict[tuple[str, Any], float],
        gauges: dict[tuple[str, Any], float],
        help_text: str,
    ) -> None:
        """
        The official parsers read back every series with its exact value, whatever is in labels and help.
        """
        one = totals(
            counters={SeriesKey(*own): value for own, value in counters.items()},
            gauges={SeriesKey(*own): value for own, value in gauges.items()},
            help_texts={name: help_text for name, _ in [*counters, *gauges]},
        )

        read = samples(render(one))

        read = {own: value for own, value in read.items() if own[0] != "rfs_exposition_renamed"}
        assert len(read) == len(counters) + len(gauges)
        assert sorted(read.values()) == sorted([*counters.values(), *gauges.values()])
        exposed = {labels for _, labels in read}
        assert exposed == {_readable(labels) for _, labels in [*counters, *gauges]}


def _readable(labels: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """A lone surrogate cannot be sent; it is written out."""
    return tuple((name, value.encode("utf-8", "backslashreplace").decode()) for name, value in labels)


class TestNames:
    @BOTH
    def test_dots_and_dashes(self, render: Any) -> None:
        """
        What Prometheus does not allow in a name becomes an underscore.
        """
        assert samples(render(totals(gauges={key("cpu.load-1"): 1.0}))) == {("cpu_load_1", ()): 1.0}

    @BOTH
    def test_two_that_become_one(self, render: Any) -> None:
        """
        The unchanged name stays, the other one gets a number, and an own series tells about it.
        """
        one = totals(gauges={key("a.b"): 1.0, key("a_b"): 2.0, key("a-b"): 3.0})

        read = samples(render(one))

        assert {name: value for (name, labels), value in read.items() if not labels} == {
            "a_b": 2.0,
            "a_b_2": 3.0,
            "a_b_3": 1.0,
        }
        assert values_of(render(one), "rfs_exposition_renamed") == {
            (("as", "a_b_2"), ("metric", "a-b")): 1.0,
            (("as", "a_b_3"), ("metric", "a.b")): 1.0,
        }

    @pytest.mark.parametrize("other", ["wait_count", "wait_sum", "wait_bucket", "wait"])
    @BOTH
    def test_a_histograms_own_names(self, render: Any, other: str) -> None:
        """
        A gauge that is called as a sample of a histogram is told apart from it.
        """
        one = totals(gauges={key(other): 7.0}, histograms={key("wait"): [1.0]})

        read = samples(render(one))

        gauge, histogram = ("wait", "wait_2") if other == "wait" else (f"{other}_2", "wait")
        assert read[gauge, ()] == 7.0
        assert read[f"{histogram}_count", ()] == 1

    @BOTH
    def test_le_of_our_own(self, render: Any) -> None:
        """
        A histogram's label ``le`` does not get between its buckets.
        """
        one = totals(histograms={key("wait", le="x"): [1.0]})

        assert buckets(render(one), "wait", exported_le="x")[inf] == 1

    def test_surrogates(self) -> None:
        """
        A lone surrogate in a label does not break the scrape, and two of them stay two series.
        """
        one = totals(
            gauges={key("level", at="\ud800"): 1.0, key("level", at="\ud801"): 2.0}, help_texts={"level": "\udfff"}
        )

        assert sorted(samples(render_text(one)).values()) == [1.0, 2.0]


class TestHistograms:
    @BOTH
    @given(
        series=st.lists(
            st.lists(
                st.one_of(
                    st.floats(1e-6, 1e6),
                    st.floats(1e-6, 1e6).map(lambda value: -value),
                    st.sampled_from([0.0, 1.0, -1.0, 2.0, 0.5, -0.25, 3.0]),
                ),
                max_size=20,
            ),
            min_size=1,
            max_size=4,
        )
    )
    def test_counts_are_exact_at_every_bound(self, render: Any, series: list[list[float]]) -> None:
        """
        Each bucket holds as many measurements as are at or below its bound, in every series at the same bounds.
        """
        one = totals(histograms={key("wait", n=str(number)): values for number, values in enumerate(series)})

        rendered = render(one)

        ladders = set()
        for number, values in enumerate(series):
            read = buckets(rendered, "wait", n=str(number))
            ladders.add(tuple(read))
            for bound, counted in read.items():
                # Where a measurement is as good as the bound itself, rounding may put it on either side.
                sure = sum(value < bound - 1e-12 * abs(bound) or value == bound for value in values)
                possible = sum(value <= bound + 1e-12 * abs(bound) for value in values)
                assert sure <= counted <= possible
        assert len(ladders) == 1
        assert list(ladders.pop()) == sorted(buckets(rendered, "wait", n="0"))

    def test_sum_and_count(self) -> None:
        """
        Count is what the last bucket says; the sum is the measurements' own.
        """
        read = samples(render_text(totals(histograms={key("wait"): [0.25, 0.5, 0.0]})))

        assert read["wait_sum", ()] == 0.75
        assert read["wait_count", ()] == read["wait_bucket", (("le", "+Inf"),)] == 3

    def test_half_octaves(self) -> None:
        """
        The bounds are every half octave, with one below all measurements, so that nothing is interpolated from 0.
        """
        assert buckets(render_text(totals(histograms={key("wait"): [0.3]})), "wait") == {
            2**-2.5: 0,
            2**-2: 0,
            2**-1.5: 1,
            2**-1: 1,
            inf: 1,
        }

    @BOTH
    def test_bounds_read_as_go_writes_them(self, render: Any) -> None:
        """
        One number has one text in ``le``, the same in both formats.
        """
        lines = render(totals(histograms={key("size"): [0.9, 1.0, 2e6]})).decode().splitlines()

        texts = [line.split('le="')[1].split('"')[0] for line in lines if "_bucket" in line]
        assert {"1.0", "2.0", "0.7071067811865476", "524288.0", "1.048576e+06", "2.097152e+06", "+Inf"} <= set(texts)

    def test_negative_in_openmetrics(self) -> None:
        """
        With negative measurements there is no sum and no count in OpenMetrics, which takes them for counters.
        """
        one = totals(histograms={key("drift"): [-1.0, 2.0]})

        assert {name for name, _ in samples(render_openmetrics(one))} == {"drift_bucket"}
        assert samples(render_text(one))["drift_sum", ()] == 1.0
        assert buckets(render_text(one), "drift")[0.0] == 1

    def test_empty(self) -> None:
        """
        A histogram that has measured nothing is known, and holds nothing.
        """
        assert samples(render_openmetrics(totals(histograms={key("wait"): []}))) == {
            ("wait_bucket", (("le", "+Inf"),)): 0,
            ("wait_count", ()): 0,
            ("wait_sum", ()): 0,
        }

    @BOTH
    @pytest.mark.parametrize("values", [[1e-300, 1e290], [-1e290, 0.0, 1e-300], [-1e-300, -1e250]])
    def test_an_enormous_range(self, render: Any, values: list[float]) -> None:
        """
        However far apart measurements are, a series has a bounded number of lines, and its counts stay right.
        """
        rendered = render(totals(histograms={key("wait"): values}))

        read = buckets(rendered, "wait")
        assert len(read) <= MAX_BOUNDS + 2
        for bound, counted in read.items():
            assert counted == sum(value <= bound for value in values)

    def test_very_many_series(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Many series of one metric get coarser bounds, all the same and a part of the finer ones.
        """
        monkeypatch.setattr(prometheus, "MAX_BUCKET_LINES", 100)
        few = totals(histograms={key("wait", n="0"): [0.001, 1.0]})
        many = totals(histograms={key("wait", n=str(number)): [0.001, 1.0] for number in range(20)})

        fine, coarse = (set(buckets(render_text(one), "wait", n="0")) for one in (few, many))

        assert len(coarse) * 20 <= 150
        assert {bound for bound in coarse if min(fine) <= bound <= 2} <= fine
        assert buckets(render_text(many), "wait", n="7")[inf] == 2


class TestExemplars:
    def test_on_the_bucket_it_fell_into(self) -> None:
        """
        A traced measurement is shown at the bucket that holds it, with its trace, and only in OpenMetrics.
        """
        exemplar = Exemplar(0.3, "a" * 32, "b" * 16, 1_800_000_000.25)
        one = totals(histograms={key("wait", at="x"): [0.3, 5.0]}, exemplars={key("wait", at="x"): exemplar})

        found = [sample for family in families(render_openmetrics(one)) for sample in family.samples if sample.exemplar]

        assert len(found) == 1
        assert float(found[0].labels["le"]) == pytest.approx(2**-1.5)
        assert found[0].exemplar.labels == {"trace_id": "a" * 32, "span_id": "b" * 16}
        assert (found[0].exemplar.value, float(found[0].exemplar.timestamp)) == (0.3, 1_800_000_000.25)
        assert b"trace_id" not in render_text(one)

    def test_too_long(self) -> None:
        """
        Ids that are longer than the format allows are left out, and the scrape goes on.
        """
        one = totals(histograms={key("wait"): [0.3]}, exemplars={key("wait"): Exemplar(0.3, "a" * 200, "", 1.0)})

        assert b"aaaa" not in render_openmetrics(one)


class TestSameBytes:
    @BOTH
    def test_whatever_the_order(self, render: Any) -> None:
        """
        Two workers that know the same series in different orders answer the same bytes.
        """
        counters = {key("a_total", n=str(number)): float(number) for number in range(9)}
        histograms = {key("wait", n=str(number)): [1.0] for number in range(3)}
        one = totals(counters=counters, histograms=histograms)
        other = totals(counters=dict(reversed(counters.items())), histograms=dict(reversed(histograms.items())))

        assert render(one) == render(other)

    def test_nothing_is_remembered_wrongly(self) -> None:
        """
        New values, series, help and bounds are all seen at once.
        """
        render_text(totals(counters={key("a_total"): 1.0}, histograms={key("wait"): [1.0]}))

        assert samples(render_text(totals(counters={key("a_total"): 2.0}, histograms={key("wait"): [4.0]}))) == {
            **samples(render_text(totals(histograms={key("wait"): [4.0]}))),
            ("a_total", ()): 2.0,
        }
        helped = render_text(totals(counters={key("a_total"): 2.0}, help_texts={"a_total": "new"}))
        assert b"# HELP a_total new" in helped
        assert ("b_total", ()) in samples(render_text(totals(counters={key("a_total"): 2.0, key("b_total"): 0.0})))

    def test_more_series_than_are_planned(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        What is too much to be remembered is rendered all the same, and pushes nothing out.
        """
        render_text(totals(counters={key("a_total"): 1.0}))
        monkeypatch.setattr(prometheus, "_MAX_PLANNED_SERIES", 10)
        before = dict(prometheus._plans)
        many = totals(counters={key("b_total", n=str(number)): 1.0 for number in range(20)})

        assert len(samples(render_text(many))) == 20
        assert prometheus._plans == before


@pytest.mark.interop
@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian package prometheus)")
class TestPromtool:
    def test_accepts_all_of_it(self) -> None:
        """
        Prometheus' own linter reads everything that is awkward, and has nothing to say against the format.
        """
        one = totals(
            counters={key("orders_total", dish='a "b"\\\n'): 1.0, key("sent.bytes"): 2.5},
            gauges={key("level", unit="°C"): nan, key("top"): inf, key("a.b"): 1.0, key("a_b"): 1.0},
            histograms={key("wait_seconds", at="x"): [0.1, 3.0], key("drift", le="y"): [-1.0, 0.0]},
            help_texts={"orders_total": 'new\nline \\ "quoted"'},
            foreign=[ForeignFamily("theirs", "counter", "help", "", [ForeignSample("theirs_total", (), 1.0)])],
        )

        done = subprocess.run(
            ["promtool", "check", "metrics"], input=render_text(one), capture_output=True, check=False, timeout=60
        )

        # Without help is a remark about the metric, not about the format.
        said = [line for line in done.stderr.decode().splitlines() if "no help text" not in line]
        assert [line for line in said if "error" in line.lower() or "non-histogram" in line] == []
        assert done.returncode in {0, 3}, done.stderr.decode()


class TestForeignFamilies:
    @BOTH
    def test_every_type(self, render: Any) -> None:
        """
        What the library's own instruments hold is read back sample by sample, whatever order it was gathered in.
        """
        registry = CollectorRegistry()
        Counter("jobs", "Jobs", ["queue"], registry=registry).labels("a").inc(3)
        Gauge("heat", "Heat", registry=registry).set(2.5)
        Summary("size_bytes", "Size", unit="bytes", registry=registry).observe(4)
        histogram = Histogram("wait", "Wait", ["at"], registry=registry)
        for at in ("y", "x"):
            histogram.labels(at).observe(0.2)
        Info("build", "Build", registry=registry).info({"version": "1"})
        Enum("phase", "Phase", states=["on", "off"], registry=registry).state("off")
        one = totals(foreign=mirrored(registry))
        for family in one.foreign:
            family.samples.reverse()

        read = samples(render(one))

        expected = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in registry.collect()
            for sample in family.samples
            if not sample.name.endswith("_created")
        }
        assert read == expected
        if render is render_openmetrics:
            assert {family.name: family.type for family in families(render(one))} == {
                "jobs": "counter",
                "heat": "gauge",
                "size_bytes": "summary",
                "wait": "histogram",
                "build": "info",
                "phase": "stateset",
            }

    @BOTH
    def test_gauge_histogram(self, render: Any) -> None:
        """
        A gauge histogram keeps its samples; the old format has sum and count as gauges of their own.
        """
        own = [ForeignSample("lag_gsum", (), 3.0), ForeignSample("lag_gcount", (), 1.0)]
        own += [ForeignSample("lag_bucket", (("le", le),), 1.0) for le in ("+Inf", "10.0", "2.0")]

        read = samples(render(totals(foreign=[ForeignFamily("lag", "gaugehistogram", "", "", own)])))

        assert list(read) != []
        assert read["lag_gsum", ()] == 3.0
        assert [dict(labels)["le"] for name, labels in read if name == "lag_bucket"] == ["2.0", "10.0", "+Inf"]

    @BOTH
    def test_ours_win(self, render: Any) -> None:
        """
        A foreign metric with a name of ours is called ``foreign_…``, and it is told.
        """
        theirs = ForeignFamily("orders", "counter", "", "", [ForeignSample("orders_total", (), 9.0)])
        one = totals(counters={key("orders_total"): 1.0}, foreign=[theirs])

        read = samples(render(one))

        assert read["orders_total", ()] == 1.0
        assert read["foreign_orders_total", ()] == 9.0
        assert read["rfs_exposition_renamed", (("as", "foreign_orders"), ("metric", "orders"))] == 1.0

    @BOTH
    def test_an_enum_that_is_renamed(self, render: Any) -> None:
        """
        The label of an enum's state is called as the enum is, also under its new name.
        """
        own = [ForeignSample("phase", (("phase", state), ("worker", "7")), 1.0) for state in ("off", "on")]
        one = totals(gauges={key("phase"): 1.0}, foreign=[ForeignFamily("phase", "stateset", "", "", own)])

        assert ("foreign_phase", (("foreign_phase", "on"), ("worker", "7"))) in samples(render(one))

    @BOTH
    def test_names_in_utf8(self, render: Any) -> None:
        """
        Names that the library allows and the formats don't are written with underscores; values stay as they are.
        """
        sample = ForeignSample("주문.수", (("메뉴", "비빔밥"), ("1st", "x")), 1.0)

        read = samples(render(totals(foreign=[ForeignFamily("주문.수", "gauge", "", "", [sample])])))

        assert read == {("____", (("_1st", "x"), ("exported__", "비빔밥"))): 1.0}

    def test_worker_label(self) -> None:
        """
        The label that tells workers apart takes no label of the host away.
        """
        assert with_worker((("at", "x"),), "7") == (("at", "x"), ("worker", "7"))
        assert with_worker((("worker", "mine"),), "7") == (("exported_worker", "mine"), ("worker", "7"))


def mirrored(*registries: Any, errors: list[str] | None = None) -> list[ForeignFamily]:
    """What a mirror of these collects; what it complains about goes to *errors*, else fails the test."""

    def fail(where: str, exc: Exception) -> None:
        if errors is None:
            raise AssertionError(where) from exc
        errors.append(where)

    mirror = ForeignMirror(lambda *_: None, fail)
    for registry in registries:
        mirror.include(registry)
    own = {id(registry) for registry in registries}
    assert len(own) == len(registries)
    return [family for family in mirror.collect() if family.name not in _DEFAULT_FAMILIES]


def _default_families() -> set[str]:
    return {family.name for family in ForeignMirror(lambda *_: None, lambda *_: None).collect()}


_DEFAULT_FAMILIES = _default_families()


@dataclass(eq=False)
class Collector:
    """A custom collector that yields what it is given, exceptions too."""

    parts: list[Any] = field(default_factory=list)

    def collect(self) -> Iterable[Any]:
        for part in self.parts:
            if isinstance(part, Exception):
                raise part
            yield part


class TestMirror:
    def test_default_registry_without_asking(self) -> None:
        """
        Once the host has imported the library, its default registry is there.
        """
        assert "process_cpu_seconds" in {
            family.name for family in ForeignMirror(lambda *_: None, lambda *_: None).collect()
        }

    def test_never_imports_the_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A host that does not use it pays nothing: nothing is due, nothing collected, nothing imported.
        """
        monkeypatch.delitem(sys.modules, "prometheus_client")
        mirror = ForeignMirror(lambda *_: None, lambda *_: None)

        assert not mirror.active
        assert not mirror.due(1e9)
        assert mirror.collect() == []
        assert "prometheus_client" not in sys.modules

    def test_half_imported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A library that is just being imported has no registry yet.
        """
        monkeypatch.setitem(sys.modules, "prometheus_client", ModuleType("prometheus_client"))

        assert ForeignMirror(lambda *_: None, lambda *_: None).collect() == []

    def test_a_collector_that_raises(self) -> None:
        """
        It costs its own samples, those before the exception too, and nobody else's; it is told once per collection.
        """
        registry = CollectorRegistry()
        registry.register(Collector([GaugeMetricFamily("half", "", value=1), RuntimeError("broken")]))
        broken = Gauge("broken", "", registry=registry)
        broken.set_function(lambda: 1 / 0)
        Gauge("whole", "", registry=registry).set_function(lambda: 7)
        errors: list[str] = []

        collected = mirrored(registry, errors=errors)

        assert [(family.name, family.samples[0].value) for family in collected] == [("whole", 7.0)]
        assert errors == ["collector Collector", "collector Gauge"]

    def test_what_is_no_number(self) -> None:
        """
        One bad sample of a custom collector is told and left out; its neighbours stay.
        """
        family = GaugeMetricFamily("level", "", labels=["at"])
        family.add_metric(["x"], "much")  # type: ignore[arg-type, unused-ignore]
        family.add_metric(["y"], 2)
        registry = CollectorRegistry()
        registry.register(Collector([family]))
        errors: list[str] = []

        collected = mirrored(registry, errors=errors)

        assert [sample.labels for sample in collected[0].samples] == [(("at", "y"),)]
        assert errors == ["foreign metric level"]

    def test_what_is_no_metric(self) -> None:
        """
        Something else than a metric harms nobody.
        """
        registry = CollectorRegistry()
        registry.register(Collector([object(), GaugeMetricFamily("level", "", value=1)]))
        errors: list[str] = []

        assert [family.name for family in mirrored(registry, errors=errors)] == ["level"]
        assert errors == ["foreign metric"]

    def test_samples_under_other_names(self) -> None:
        """
        A sample that is not called as its family is has one of its own.
        """
        metric = ForeignMetric("pool", "Pool", "gauge")
        metric.add_sample("pool_size", {}, 3)
        registry = CollectorRegistry()
        registry.register(Collector([metric]))

        assert [(family.name, family.type) for family in mirrored(registry)] == [("pool_size", "unknown")]

    def test_removed_labels(self) -> None:
        """
        What the host removes is gone with the next collection.
        """
        registry = CollectorRegistry()
        jobs = Counter("jobs", "", ["queue"], registry=registry)
        jobs.labels("a").inc()
        jobs.labels("b").inc()
        mirror = ForeignMirror(lambda *_: None, lambda *_: None)
        mirror.include(registry)
        before = next(family for family in mirror.collect() if family.name == "jobs")

        jobs.remove("a")

        after = next(family for family in mirror.collect() if family.name == "jobs")
        assert [len(before.samples), len(after.samples)] == [2, 1]

    def test_one_family_in_two_registries(self) -> None:
        """
        Registries that share a collector share its samples: they count once.
        """
        collector = Collector([CounterMetricFamily("jobs", "", value=4)])
        registries = [CollectorRegistry(), CollectorRegistry()]
        for registry in registries:
            registry.register(collector)

        collected = mirrored(*registries)

        assert [(family.name, [sample.value for sample in family.samples]) for family in collected] == [("jobs", [4.0])]

    def test_target_info(self) -> None:
        """
        What a registry says of its target is mirrored, too.
        """
        collected = mirrored(CollectorRegistry(target_info={"env": "test"}))

        assert [(family.name, family.type) for family in collected] == [("target", "info")]

    def test_anything_with_collect(self) -> None:
        """
        A registry need not be the library's class; one that raises is told and left out.
        """
        errors: list[str] = []

        assert [family.name for family in mirrored(Collector([GaugeMetricFamily("level", "", value=1)]))] == ["level"]
        assert mirrored(Collector([RuntimeError()]), errors=errors) == []
        assert errors == ["collector Collector"]

    def test_twice_is_once(self) -> None:
        """
        A registry that is included again is the same one.
        """
        registry = CollectorRegistry()
        Counter("jobs", "", registry=registry).inc()
        mirror = ForeignMirror(lambda *_: None, lambda *_: None)

        mirror.include(registry)
        mirror.include(registry)

        assert len(mirror._registries) == 1

    def test_merged_by_others_already(self, tmp_path: Any) -> None:
        """
        The library's own collector of all processes is left out: its sums would be added up again.
        """
        from prometheus_client import multiprocess

        registry = CollectorRegistry()
        made: Any = multiprocess.MultiProcessCollector  # without types, too
        made(registry, path=str(tmp_path))

        assert mirrored(registry) == []

    def test_a_slow_registry_is_asked_less_often(self, clock: VirtualTime, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Collecting takes at most a twentieth of the time: after 0.5 s it is due again 10 s after its beginning.
        """
        monkeypatch.setattr(_foreign, "monotonic", clock.monotonic)

        class Slow:
            def collect(self) -> list[Any]:
                clock.advance(0.5)
                return []

        mirror = ForeignMirror(lambda *_: None, lambda *_: None)
        slow = Slow()
        mirror.include(slow)
        began = clock.monotonic()
        assert mirror.due(began)

        mirror.collect()

        assert not mirror.due(began + 9.9)
        assert mirror.due(began + 10)


class TestNegotiation:
    @pytest.mark.parametrize(
        ("accept", "expected"),
        [
            (None, TEXT),
            ("", TEXT),
            ("*/*", TEXT),
            ("text/html,application/xhtml+xml,*/*;q=0.8", TEXT),
            ("application/json", TEXT),
            ("application/openmetrics-text", OPENMETRICS),
            ("application/openmetrics-text; version=1.0.0; charset=utf-8", OPENMETRICS),
            ('APPLICATION/OpenMetrics-Text;version="1.0.0"', OPENMETRICS),
            # Prometheus 2.42 and 3.
            (
                (
                    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
                    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
                ),
                OPENMETRICS,
            ),
            (
                (
                    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
                    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
                    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
                ),
                OPENMETRICS,
            ),
            ("application/openmetrics-text;version=0.0.1", TEXT),
            ("application/openmetrics-text;q=0.4, text/plain;q=0.5", TEXT),
            ("application/openmetrics-text;q=0.4, text/*;q=0.5", TEXT),
            ("application/openmetrics-text;q=0.4, text/plain;q=0.1, */*", OPENMETRICS),
            ("application/openmetrics-text;q=0", TEXT),
            ("application/openmetrics-text;q=nan", TEXT),
            ("application/openmetrics-text;q=much", TEXT),
            (";;,,=;q", TEXT),
        ],
    )
    def test_chooses(self, accept: str | None, expected: str) -> None:
        """
        OpenMetrics for who asks for it at least as gladly as for text, and text for everybody else.
        """
        assert negotiate(accept) == expected

    @given(st.text(max_size=60))
    def test_reads_anything(self, header: str) -> None:
        """
        No header breaks a scrape.
        """
        assert negotiate(header) in {TEXT, OPENMETRICS}
        assert accepts_gzip(header) in {True, False}

    @pytest.mark.parametrize(
        ("header", "expected"),
        [
            (None, False),
            ("", False),
            ("gzip", True),
            ("deflate, GZIP;q=0.5", True),
            ("*", True),
            ("gzip;q=0", False),
            ("*, gzip;q=0", False),
            ("br", False),
        ],
    )
    def test_gzip(self, header: str | None, expected: bool) -> None:
        """
        Compressed is sent only what may be.
        """
        assert accepts_gzip(header) is expected

    def test_exposition(self) -> None:
        """
        One call renders a monitor's totals in the format that is asked for.
        """

        class Source:
            def totals(self) -> Totals:
                return totals(counters={key("a_total"): 1.0})

        refreshed: list[bool] = []

        class Exposed:
            query = Source()

            def refresh_foreign(self) -> None:
                refreshed.append(True)

        assert exposition(Exposed()) == (render_text(Source().totals()), TEXT)
        assert exposition(Exposed(), "application/openmetrics-text") == (
            render_openmetrics(Source().totals()),
            OPENMETRICS,
        )
        assert refreshed == [True, True]


def test_parsers_tell_wrong_from_right() -> None:
    """The oracle of these tests does refuse what is broken."""
    with pytest.raises(ValueError, match="EOF"):
        list(parse_openmetrics("a 1\n"))
    assert isnan(samples(render_text(totals(gauges={key("level"): nan})))["level", ()])
