"""Cells and instruments: sums that are exact, whatever is thrown at them."""

from __future__ import annotations

from decimal import Decimal
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfs.errors import MetricDefinitionError
from rfs.monitoring._capture import cells as cells_module
from rfs.monitoring._capture import instruments as instruments_module
from rfs.monitoring._capture.cells import Cells, CellsReader, Region, Series, anonymous_cells
from rfs.monitoring._capture.instruments import MAX_SERIES, Counter, Gauge, Histogram, MetricType, Registry


class Rejections:
    """Remembers what was rejected."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def __call__(self, metric: str, reason: str) -> None:
        self.seen.append((metric, reason))


@pytest.fixture
def rejections() -> Rejections:
    return Rejections()


@pytest.fixture
def registry(rejections: Rejections) -> Registry:
    return Registry(rejections, lambda text: text)


def counter(registry: Registry, name: str = "orders_total", labels: tuple[str, ...] = ()) -> Counter:
    metric = registry.declare(MetricType.COUNTER, name, labels=labels)
    assert isinstance(metric, Counter)
    return metric


def gauge(registry: Registry, name: str = "connections") -> Gauge:
    metric = registry.declare(MetricType.GAUGE, name)
    assert isinstance(metric, Gauge)
    return metric


def histogram(registry: Registry, name: str = "wait_seconds") -> Histogram:
    metric = registry.declare(MetricType.HISTOGRAM, name)
    assert isinstance(metric, Histogram)
    return metric


class HostileNumber:
    """Compares and converts by raising."""

    def __float__(self) -> float:
        raise RuntimeError("no number")

    __lt__ = __le__ = __gt__ = __ge__ = __add__ = __radd__ = __index__ = __float__

    def __repr__(self) -> str:
        return "HostileNumber()"  # the same in every process: it names tests


NOT_FOR_COUNTERS: list[Any] = [
    -1, -0.5, float("nan"), float("inf"), float("-inf"), True, "1", None, 10**400, Decimal(1), 1j, [1], HostileNumber(),
]  # fmt: skip


def nameless(_region: Region) -> bytes:
    return b"\x91\x00"  # an entry of no known kind


def series_of(registry: Registry) -> list[Series]:
    """What another process would find in this registry's memory."""
    reader = CellsReader()
    for region in registry.cells.regions.values():
        reader.add(region.memory, "test")
    reader.refresh()
    return reader.series


class TestCells:
    def test_runs_do_not_overlap(self) -> None:
        """
        No two runs of cells share a cell.
        """
        made = Cells(anonymous_cells)

        blocks = [made.allocate(3, nameless) for _ in range(100)]

        taken = [index for block in blocks if block is not None for index in range(block.at, block.at + 3)]
        assert len(taken) == len(set(taken)) == 300

    def test_a_full_region_is_followed_by_another(self) -> None:
        """
        Whoever asks for more than a region holds gets a further one, zeroed.
        """
        made = Cells(anonymous_cells)
        region = made.regions[0]

        first = made.allocate(region.cell_limit - region.next_cell - 1, nameless)
        second = made.allocate(2, nameless)

        assert first is not None
        assert second is not None
        assert (first.region, second.region) == (0, 1)
        assert list(second.cells[second.at : second.at + 2]) == [0.0, 0.0]

    def test_memory_has_an_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        At the bound of memory there are no more cells, and no exception either.
        """
        monkeypatch.setattr(cells_module, "MAX_FILES", 1)
        made = Cells(anonymous_cells)
        made.regions[0].next_cell = made.regions[0].cell_limit

        assert made.allocate(1, nameless) is None
        assert made.allocate(1, nameless, own=True) is None

    def test_the_last_file_is_for_our_own_books(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        When the host has spent all memory that is for it, RFS's books still have cells.
        """
        monkeypatch.setattr(cells_module, "MAX_FILES", 4)
        made = Cells(anonymous_cells)
        all_of_it = made.regions[0].cell_limit - made.regions[0].next_cell
        assert all(made.allocate(all_of_it, nameless) for _ in range(2))

        assert made.allocate(1, nameless) is None
        assert made.allocate(1, nameless, own=True) is not None
        assert made.allocate(1, nameless) is None

    def test_a_reader_finds_every_series(self, registry: Registry) -> None:
        """
        Thousands of series over several files: each is found by name and labels, with its value.
        """
        orders = counter(registry)
        for number in range(MAX_SERIES - 1):
            orders.inc(number, label_with_a_long_name=f"value {number} " + "x" * 100)
        histogram(registry).observe(3.0)

        found = {series.key: series.cells[series.at] for series in series_of(registry)}

        assert len(registry.cells.regions) > 1
        assert len(found) == MAX_SERIES
        assert found == {one.key: one.value for one in orders.series()} | {histogram(registry).labels().key: 1.0}

    def test_damage_costs_the_damaged_entry_only(self, registry: Registry) -> None:
        """
        A series whose entry is damaged is not found and is counted; all others are.
        """
        orders = counter(registry)
        for name in ("first", "second", "third"):
            orders.inc(1, status=name)
        reader = CellsReader()
        for region in registry.cells.regions.values():
            reader.add(region.memory, "test")
        region.view[bytes(region.view).index(b"second")] ^= 1

        for _ in range(2):  # at first it may be another processor that has not shown us all
            reader.refresh()

        assert [dict(series.key.labels)["status"] for series in reader.series] == ["first", "third"]
        assert reader.damaged_entries == 1

    @pytest.mark.parametrize("damaged", [0, 4, 5, 6, 7], ids=["size", "crc", "crc", "crc", "crc"])
    @pytest.mark.parametrize("by", [0, 0xFF])
    def test_behind_damage_of_a_dead_process(self, registry: Registry, damaged: int, by: int) -> None:
        """
        Where an entry's length is damaged, or zeroed as if nothing followed, those behind it are found when nobody writes there.
        """
        orders = counter(registry)
        for name in ("first", "second", "third"):
            orders.inc(1, status=name)
        reader = CellsReader()
        for region in registry.cells.regions.values():
            reader.add(region.memory, "test")
        at = bytes(region.view).index(b"second")
        word = next(start for start in range(at & ~7, 0, -8) if region.words[start >> 3] & 0xFFFFFFFF in range(8, 64))
        region.view[word + damaged] = by
        if not by:
            region.view[word : word + 8] = bytes(8)

        reader.recover()

        assert [dict(series.key.labels)["status"] for series in reader.series] == ["first", "third"]
        assert reader.damaged_entries == 1

    def test_nothing_behind_the_end(self, registry: Registry) -> None:
        """
        Of a process that was killed while it wrote a name, what was written of it is no damage: nothing was measured there.
        """
        counter(registry).inc(1, status="first")
        reader = CellsReader()
        for region in registry.cells.regions.values():
            reader.add(region.memory, "test")
            region.view[region.next_entry + 16 : region.next_entry + 40] = b"half of a name that is l"

        reader.recover()

        assert len(reader.series) == 1
        assert reader.damaged_entries == 0


class TestMoving:
    @pytest.mark.usefixtures("switching_often")
    @pytest.mark.parametrize("keep", [True, False])
    def test_nothing_is_lost_while_others_measure(self, registry: Registry, keep: bool) -> None:
        """
        Four threads measure while everything moves to other memory, again and again: not one measurement is lost or doubled.

        Without *keep*, as in a forked child, all begins at zero.
        """
        orders = counter(registry).labels()
        waits = histogram(registry).labels()
        connections = gauge(registry).labels()
        turns = 5_000 if keep else 0

        def work() -> None:
            for number in range(turns):
                orders.inc()
                waits.observe(float(1 << number % 12))
                connections.inc()

        orders.inc(7)
        threads = [Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            registry.move(anonymous_cells, keep=keep)
        for thread in threads:
            thread.join()
        registry.move(anonymous_cells, keep=True)

        assert orders.value == 4 * turns + (7 if keep else 0)
        assert waits.count == 4 * turns
        assert connections.value == (4 * turns if keep else None)
        found = {series.key.name: series for series in series_of(registry)}
        assert found["orders_total"].cells[found["orders_total"].at] == orders.value
        buckets = [sum(cells[at : at + 64]) for _, _, cells, at in found["wait_seconds"].octaves]
        assert sum(buckets) == 4 * turns


class TestCounting:
    @pytest.mark.usefixtures("switching_often")
    def test_exact_under_threads(self, registry: Registry) -> None:
        """
        Four threads that count at once lose nothing, though the interpreter switches between them all the time.
        """
        bound = counter(registry).labels(status="created")
        waits = histogram(registry).labels()

        def work() -> None:
            for _ in range(20_000):
                bound.inc()
                waits.observe(1.5)

        threads = [Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert bound.value == 80_000
        found = {series.key.name: series for series in series_of(registry)}["wait_seconds"]
        assert list(found.cells[found.at : found.at + 2]) == [80_000, 120_000.0]
        assert sum(sum(cells[at : at + 64]) for _, _, cells, at in found.octaves) == 80_000

    @pytest.mark.parametrize("amount", NOT_FOR_COUNTERS, ids=repr)
    def test_what_is_no_amount_is_counted_as_rejected(
        self, registry: Registry, rejections: Rejections, amount: Any
    ) -> None:
        """
        NaN, infinities, negative amounts and what is no number leave the sum alone and are counted as rejected.
        """
        orders = counter(registry)
        orders.inc(2)

        orders.inc(amount)

        assert orders.labels().value == 2
        assert rejections.seen == [("orders_total", "invalid_value")]

    def test_never_becomes_infinite(self, registry: Registry, rejections: Rejections) -> None:
        """
        A sum that would overflow stays where it was.
        """
        orders = counter(registry)
        orders.inc(1.5e308)

        orders.inc(1.5e308)

        assert orders.labels().value == 1.5e308
        assert rejections.seen == [("orders_total", "invalid_value")]

    @given(st.lists(st.integers(0, 2**40)))
    def test_sums_integers_exactly(self, amounts: list[int]) -> None:
        """
        Integers up to 2**53 in all add up exactly.
        """
        orders = counter(Registry(lambda *_: None, lambda text: text))

        for amount in amounts:
            orders.inc(amount)

        assert orders.labels().value == sum(amounts)


class TestLabels:
    def test_order_does_not_matter(self, registry: Registry) -> None:
        """
        The same labels in any order are the same series, and an empty label is an absent one.
        """
        orders = counter(registry)

        orders.inc(1, status="new", store="a")
        orders.inc(1, store="a", status="new")
        orders.labels(store="a", status="new", table="").inc()

        assert [(one.key.labels, one.value) for one in orders.series()] == [((("status", "new"), ("store", "a")), 3.0)]

    def test_values_of_other_types_are_not_mixed_up(self, registry: Registry) -> None:
        """
        1 and True are equal in Python, but not the same label value; an object never shows its own text.
        """
        orders = counter(registry)
        hidden: Any = HostileNumber()

        for _ in range(2):
            orders.inc(1, flag=True)
            orders.inc(1, flag=1)
            orders.inc(1, flag=hidden)
            orders.inc(1, flag=None)  # type: ignore[arg-type]

        assert {dict(one.key.labels).get("flag", ""): one.value for one in orders.series()} == {
            "True": 2.0,
            "1": 2.0,
            f"<{HostileNumber.__module__}.HostileNumber>": 2.0,
            "": 2.0,
        }

    def test_an_undeclared_label_is_refused(self, registry: Registry, rejections: Rejections) -> None:
        """
        Where labels were declared, binding another one raises, and measuring with it is counted as rejected.
        """
        orders = counter(registry, labels=("status",))

        with pytest.raises(MetricDefinitionError, match=r"label 'stat' is not declared; declared are status"):
            orders.labels(stat="x")
        orders.inc(1, stat="x")

        assert orders.series() == []
        assert rejections.seen == [("orders_total", "invalid_label")]

    @pytest.mark.parametrize("label", ["1a", "a b", "", "__name__", "rfs_overflow", "é", "a" * 300])
    def test_a_bad_label_name_is_refused(self, registry: Registry, rejections: Rejections, label: str) -> None:
        """
        A malformed or reserved label name is an error where it is declared or bound, and counted where it is measured.
        """
        orders = counter(registry)

        with pytest.raises(MetricDefinitionError):
            orders.labels(**{label: "x"})
        with pytest.raises(MetricDefinitionError):
            counter(registry, "other_total", labels=(label,))
        orders.inc(1, **{label: "x"})

        assert rejections.seen == [("orders_total", "invalid_label")]

    def test_too_many_series_share_one(self, registry: Registry, rejections: Rejections) -> None:
        """
        The 2,000th series of a metric is its overflow series: memory is bounded and the sum stays right.
        """
        orders = counter(registry)

        for number in range(5_000):
            orders.inc(1, user=str(number))

        series = {one.key.labels: one.value for one in orders.series()}
        assert len(series) == MAX_SERIES
        assert series[(("rfs_overflow", "true"),)] == 5_000 - (MAX_SERIES - 1)
        assert sum(series.values()) == 5_000
        assert set(rejections.seen) == {("orders_total", "cardinality_limit")}

    def test_all_metrics_together_have_a_limit(
        self, registry: Registry, rejections: Rejections, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        Beyond the limit of the process every metric has its overflow series, sums stay right, and the books go on growing.
        """
        monkeypatch.setattr(instruments_module, "MAX_PROCESS_SERIES", 10)
        first, second = counter(registry), counter(registry, "visits_total")
        late, own = histogram(registry), counter(registry, "rfs_dropped_total")

        for number in range(8):
            first.inc(1, user=str(number))
            second.inc(1, day="monday", user=str(number))
            late.observe(1.0, day="monday", user=str(number))
            own.inc(1, reason=str(number))
        first.inc(100)  # without labels: there is one such series of a metric

        overflow = (("rfs_overflow", "true"),)
        assert sum(one.value for one in first.series()) == 108
        assert sum(one.value for one in second.series()) == 8
        assert [len(metric.series()) for metric in (first, second, late)] == [4 + 1 + 1, 3 + 1, 3 + 1]
        assert {one.key.labels: one.count for one in late.series()}[overflow] == 5
        assert len(own.series()) == 8
        assert set(rejections.seen) == {(metric.name, "cardinality_limit") for metric in (first, second, late)}
        assert (first.crowded_by, second.crowded_by, own.crowded_by) == ("user", "user", "")

    def test_metrics_have_a_limit(self, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Whoever makes metrics without end is told where it is; RFS's own are not concerned.
        """
        monkeypatch.setattr(instruments_module, "MAX_METRICS", 2)
        for name in ("one_total", "two_total", "one_total"):
            counter(registry, name)

        with pytest.raises(MetricDefinitionError, match=r"'three_total': there are 2 metrics already; .* a label"):
            counter(registry, "three_total")
        counter(registry, "rfs_dropped_total")

    def test_measures_on_without_cells(
        self, registry: Registry, rejections: Rejections, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        When all memory for cells is spent, new series go to the overflow series and a sketch stops growing, both counted.
        """
        monkeypatch.setattr(Cells, "allocate", lambda _self, _count, _describe, **_own: None)
        orders, waits = counter(registry), histogram(registry)

        orders.inc(3, status="new")
        waits.observe(1.0)

        assert [(one.key.labels, one.value) for one in orders.series()] == [((("rfs_overflow", "true"),), 3.0)]
        assert ("orders_total", "cells_full") in rejections.seen
        assert ("wait_seconds", "cells_full") in rejections.seen
        assert waits.series()[0].count == 0

    def test_values_are_cut_and_cleaned_once(self, rejections: Rejections) -> None:
        """
        A label value goes through the masker when its series is made, and is cut to 256 characters.
        """
        cleaned: list[str] = []

        def clean(text: str) -> str:
            cleaned.append(text)
            return text.replace("secret", "***")

        orders = counter(Registry(rejections, clean))

        for _ in range(3):
            orders.inc(1, note="secret" + "x" * 999)

        assert [one.key.labels for one in orders.series()] == [(("note", "***" + "x" * 250),)]
        assert len(cleaned) == 1


class TestGauges:
    def test_unknown_until_written(self, registry: Registry) -> None:
        """
        A gauge that nobody wrote has no value; NaN is a value.
        """
        connections = gauge(registry)
        bound = connections.labels()

        assert bound.value is None
        connections.set(float("nan"))
        assert bound.value != bound.value

    def test_goes_up_and_down(self, registry: Registry) -> None:
        """
        ``inc`` and ``dec`` move it, from 0 if it was never set.
        """
        connections = gauge(registry)

        connections.inc(3, store="a")
        connections.dec(1, store="a")
        connections.labels(store="a").dec(0.5)

        assert connections.labels(store="a").value == 1.5

    @pytest.mark.parametrize("value", [True, "1", None, 10**400, HostileNumber()], ids=repr)
    def test_what_is_no_number_is_rejected(self, registry: Registry, rejections: Rejections, value: Any) -> None:
        """
        What is no number leaves a gauge alone, whichever verb brings it, and is counted.
        """
        connections = gauge(registry)
        connections.set(1)

        connections.set(value)
        connections.inc(value)
        connections.dec(value)

        assert connections.labels().value == 1
        assert rejections.seen == [("connections", "invalid_value")] * 3

    def test_a_bad_label_is_rejected(self, registry: Registry, rejections: Rejections) -> None:
        """
        Measuring with a bad label name changes nothing and is counted.
        """
        connections = gauge(registry)

        connections.set(1, **{"a b": "x"})
        connections.inc(1, **{"a b": "x"})
        connections.dec(1, **{"a b": "x"})
        histogram(registry).observe(1, **{"a b": "x"})

        assert connections.series() == []
        assert len(rejections.seen) == 4


class TestDeclaring:
    @pytest.mark.parametrize("name", ["", "1a", "a b", "a\nb", "é", "a" * 201, None, 7])
    def test_a_bad_name_is_refused(self, registry: Registry, name: Any) -> None:
        """
        A malformed metric name is an error at once, which says what a name is.
        """
        with pytest.raises(MetricDefinitionError, match="a metric name"):
            registry.declare(MetricType.COUNTER, name)

    def test_twice_is_the_same(self, registry: Registry) -> None:
        """
        Declaring again gives the same instrument; as another type it is an error that names both.
        """
        orders = counter(registry)

        assert counter(registry) is orders
        with pytest.raises(MetricDefinitionError, match="is a counter already and cannot become a gauge"):
            registry.declare(MetricType.GAUGE, "orders_total")
