"""What alert rules are told in the process that leads: read off the catalogue alone, and equal to what everybody else is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.segments import Waiting
from rfs.monitoring._store.local import LocalStore
from rfs.monitoring._totals import Totals
from rfs.monitoring.alerts import Aggregation, AlertCondition, Rule
from rfs.monitoring.monitor import Monitor
from rfs.testing.virtual_time import VirtualTime
from tests.faults.processes import size
from tests.monitoring.led import no_problem

NOW = 1_800_000_000
ORDERS = SeriesKey("orders_total", ())
STORES = [None, "a", "b", "c"]


@pytest.fixture
def store(tmp_path: Path, clock: VirtualTime) -> Iterator[LocalStore]:
    made = LocalStore(
        tmp_path,
        retention=None,
        now_seconds=lambda: clock.time_ns() / 1e9,
        monotonic=clock.monotonic,
        on_problem=no_problem,
    )
    made.lead(1, is_first=True)
    yield made
    made.close()


def increase(store: LocalStore, totals: Totals, seconds: float = 300) -> float:
    return store.at(totals, lambda _text: Waiting([])).increase([ORDERS], NOW - seconds, NOW + 600)


class TestTotalsJustWritten:
    def test_are_not_looked_at(self, store: LocalStore) -> None:
        """
        Of totals that were written nothing is beyond the catalogue, and nobody compares them; of others it is.
        """
        totals = Totals({}, {ORDERS: 5.0}, {}, {}, {}, [])
        assert store.write(totals, is_whole=True)
        totals.counters[ORDERS] = 7.0

        assert increase(store, totals) == 5.0
        assert increase(store, Totals({}, {ORDERS: 7.0}, {}, {}, {}, [])) == 7.0

    def test_that_were_not_whole(self, store: LocalStore) -> None:
        """
        What a file that could not be read has, is missing in the totals and in the answer; it is no window.
        """
        assert store.write(Totals({}, {ORDERS: 5.0}, {}, {}, {}, []), is_whole=True)
        totals = Totals({}, {ORDERS: 3.0}, {}, {}, {}, [])
        assert store.write(totals, is_whole=False)

        assert increase(store, totals) == 3.0

    def test_while_a_clock_is_set_back(self, store: LocalStore, clock: VirtualTime) -> None:
        """
        Windows stand still until the clock has caught up; what they have counts from the present on all the same.
        """
        for counted, step in ((5.0, 0), (7.0, -20), (9.0, 1)):
            clock.jump(step)
            totals = Totals({}, {ORDERS: counted}, {}, {}, {}, [])
            assert store.write(totals, is_whole=True)
            now = clock.time_ns() / 1e9

            assert store.at(totals, lambda _text: Waiting([])).increase([ORDERS], now - 300, now + 1) == counted


RULES = [
    Rule(f"{metric} {aggregation} {window} {store}", metric, AlertCondition.GREATER_THAN, 1e9,
         labels={} if store is None else {"store": store}, aggregation=aggregation, window_seconds=window)
    for metric, aggregation in (
        ("orders_total", Aggregation.INCREASE), ("wait_seconds", Aggregation.P95), ("wait_seconds", Aggregation.MEAN)
    )
    for window in (7, 60, 300)
    for store in STORES
]  # fmt: skip


def begun(directory: str, clock: VirtualTime) -> Monitor:
    monitor = Monitor(service_name="watched", directory=directory, clock=clock)
    for rule in RULES:
        monitor.alerts.set_rule(rule)
    return monitor


class TestRules:
    @settings(max_examples=size(whole=300, small=5), deadline=None)
    @given(
        st.lists(
            st.one_of(
                st.tuples(st.just("count"), st.integers(0, 3), st.integers(0, 9)),
                st.tuples(st.just("measure"), st.integers(0, 3), st.integers(-3, 900)),
                st.tuples(st.just("pass"), st.integers(1, 5), st.sampled_from([1, 1, 1, 1, 10, 61])),
                st.tuples(st.just("worker"), st.just(0), st.just(0)),
                st.tuples(st.just("leader"), st.just(0), st.just(0)),
            ),
            min_size=20,
            max_size=40,
        )
    )
    def test_are_told_what_everybody_is(self, script: list[tuple[str, int, int]]) -> None:
        """
        Whatever is measured, comes, rests, ends and begins again: the value of each rule is the answer of the query.

        Quantiles are so within their error: which of the extremes are known exactly depends on how they were added up.
        """
        clock = VirtualTime(NOW)
        with TemporaryDirectory() as folder, ExitStack() as stack:
            leader, worker = begun(folder, clock), begun(folder, clock)
            stack.callback(lambda: leader.stop())
            stack.callback(lambda: worker.stop())
            for what, number, amount in script:
                labels = {"store": STORES[number % len(STORES)] or ""}
                for one in (leader, worker):
                    if what == "count":
                        one.counter("orders_total").inc(amount, **labels)
                    elif what == "measure":
                        one.histogram("wait_seconds").observe(amount / 7, **labels)
                if what == "worker":
                    worker.stop()
                    worker = begun(folder, clock)
                elif what == "leader":
                    leader.stop()
                    worker.stop()
                    leader, worker = begun(folder, clock), begun(folder, clock)
                for _ in range(number if what == "pass" else 0):
                    clock.advance(amount)
                    leader._leader._capture_and_lead(is_new=False)
                    leader.tick()
                    assert leader.leadership.is_self
                    self._compare(leader, worker)

    @staticmethod
    def _compare(leader: Monitor, worker: Monitor) -> None:
        states, query = leader.alerts.states(), worker.query.settled()
        for rule in RULES:
            found, window = states[rule.name].value, f"{rule.window_seconds:g}s"
            if rule.aggregation is Aggregation.INCREASE:
                expected = query.increase(rule.metric_name, window, rule.labels)
            else:
                sketch = query.distribution(rule.metric_name, window, rule.labels)
                expected = None
                if sketch is not None and sketch.count:
                    expected = sketch.mean if rule.aggregation is Aggregation.MEAN else sketch.quantile(0.95)
            error = 0.011 if rule.aggregation is Aggregation.P95 else 1e-9
            assert found == (None if expected is None else pytest.approx(expected, rel=error, abs=1e-9)), rule
