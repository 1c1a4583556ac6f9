"""Bounds of Query: rows, steps, time and how many ask at once; a question that would pass them is refused by name."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from threading import Event, Thread

import pytest

from rfs.core.result import Failure, Success
from rfs.errors import QueryBusyError, QueryError, QueryTimeoutError
from rfs.monitoring import collect_result_metric, counter, gauge, histogram
from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.segments import Frame, Run
from rfs.monitoring._query import MAX_AT_ONCE, MAX_STEPS, Query
from rfs.monitoring._store import EVERYTHING, Batch, StoredRecord, Wanted, Window
from rfs.monitoring._store.deadline import check_deadline, deadline, no_deadline
from rfs.monitoring._store.memory import MemoryStore
from rfs.monitoring.alerts import AlertCondition, Rule
from rfs.monitoring.monitor import Monitor
from rfs.testing.virtual_time import VirtualTime
from tests.faults.processes import eventually


class Asker:
    """A thread that is inside a question until it is let go."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self._inside, self._leave = Event(), Event()
        self._thread = Thread(target=self._run)
        self._thread.start()
        assert self._inside.wait(10)

    def _run(self) -> None:
        with self._query.bounded(seconds=60):
            self._inside.set()
            assert self._leave.wait(60)

    def leave(self) -> None:
        self._leave.set()
        self._thread.join()


class TestAtOnce:
    def test_the_fifth_is_refused_and_comes_in_when_one_leaves(self, monitor: Monitor) -> None:
        """
        Four are answered at once; the fifth waits for half a second and is told to come again; then there is room.
        """
        askers = [Asker(monitor.query) for _ in range(MAX_AT_ONCE)]
        try:
            with pytest.raises(QueryBusyError, match="4 others were being answered"):
                monitor.query.summary()
            with pytest.raises(QueryBusyError):
                monitor.query.settled().summary()

            askers.pop().leave()

            assert monitor.query.summary()["counters"]
        finally:
            for asker in askers:
                asker.leave()

    def test_a_fifth_that_waits_is_answered(self, monitor: Monitor) -> None:
        """
        Somebody who leaves while the fifth waits gives it the place.
        """
        askers = [Asker(monitor.query) for _ in range(MAX_AT_ONCE)]
        answers: list[object] = []

        def ask() -> None:
            while not answers:
                try:
                    answers.append(monitor.query.records())
                except QueryBusyError:
                    answers.clear()

        fifth = Thread(target=ask)
        fifth.start()
        askers.pop().leave()
        fifth.join(20)
        for asker in askers:
            asker.leave()

        assert answers == [[]]

    def test_rules_are_evaluated_whoever_looks(self, monitor: Monitor) -> None:
        """
        As many as may ask are asking, and an alert fires all the same; what needs no reading is answered, too.
        """
        monitor.alerts.set_rule(Rule("busy", "work_total", AlertCondition.GREATER_THAN, 0))
        counter("work_total").inc()
        gauge("level").set(3)
        askers = [Asker(monitor.query) for _ in range(MAX_AT_ONCE)]
        try:
            monitor.tick()

            assert [alert.rule_name for alert in monitor.alerts.active()] == ["busy"]
            assert monitor.query.latest("level") == 3
            assert monitor.query.totals().counters
        finally:
            for asker in askers:
                asker.leave()

    def test_several_questions_as_one_take_one_place(self, monitor: Monitor) -> None:
        """
        Inside a block a thread asks as often as it likes, also when all other places are taken, and gives its place back once.
        """
        askers = [Asker(monitor.query) for _ in range(MAX_AT_ONCE - 1)]
        try:
            for _ in range(3):
                with monitor.query.bounded():
                    assert monitor.query.records() == []
                    assert monitor.query.operations() == []
        finally:
            for asker in askers:
                asker.leave()

    @pytest.mark.fault
    def test_a_forked_child_has_all_places(self, monitor: Monitor) -> None:
        """
        The places that the parent's threads take are not taken in a child, where nobody would ever leave them.
        """
        askers = [Asker(monitor.query) for _ in range(MAX_AT_ONCE)]
        try:
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    status = 0 if monitor.query.summary() else 1
                finally:
                    os._exit(status)
            _, status = os.waitpid(child, 0)
        finally:
            for asker in askers:
                asker.leave()

        assert os.waitstatus_to_exitcode(status) == 0


class SlowStore(MemoryStore):
    """Takes a while to find records."""

    def records(self, wanted: Wanted, *, limit: int, before: str | None = None) -> list[StoredRecord]:
        began = time.monotonic()
        eventually(lambda: time.monotonic() > began + 0.02)
        return super().records(wanted, limit=limit, before=before)


class TestTime:
    def test_a_question_that_takes_too_long_is_given_up(self, clock: VirtualTime) -> None:
        """
        When its time is over a question ends with an error that says how long it had; the next one is answered.
        """
        monitor = Monitor(clock=clock, store=SlowStore())
        monitor.log(20, "here")

        with (
            pytest.raises(QueryTimeoutError, match=r"not answered within 0\.01 s"),
            monitor.query.bounded(seconds=0.01),
        ):
            monitor.query.records()

        assert [record.message for record in monitor.query.records()] == ["here"]

    def test_collecting_is_not_given_up(self, clock: VirtualTime) -> None:
        """
        What is collected on behalf of a question that has no time left is in the store all the same.
        """
        store = MemoryStore()
        monitor = Monitor(clock=clock, store=store)
        monitor.log(20, "here")

        with pytest.raises(QueryTimeoutError), monitor.query.bounded(seconds=0):
            monitor.query.records()

        assert len(store.records(EVERYTHING, limit=9)) == 1

    def test_time_without_a_deadline_is_given_back(self) -> None:
        """
        What happens without a deadline does not count; afterwards the rest of the time is left, and a deadline that is over is over.
        """
        check_deadline()
        with deadline(30):
            with no_deadline(), deadline(0):
                with pytest.raises(QueryTimeoutError):
                    check_deadline()
                with no_deadline():
                    check_deadline()
            check_deadline()
            with deadline(0), pytest.raises(QueryTimeoutError):
                check_deadline()
            check_deadline()
        check_deadline()

    @pytest.mark.parametrize("question", ["records", "points", "sketches", "quantiles", "distributions"])
    def test_the_store_in_memory_looks_at_the_clock(self, question: str) -> None:
        """
        Whatever may take long in the store ends in the midst when the time is over, and leaves the store usable.
        """
        store, keys = MemoryStore(), [SeriesKey("orders_total", ())]
        run = Run("a.segment", 1, [8], 72, [Frame(1, 20, 0, "", "", b"")])
        store.append(Batch("p", 0, [run], Window(1, {keys[0]: 1.0})))

        questions: dict[str, Callable[[], object]] = {
            "records": lambda: store.records(Wanted(operation="nobody"), limit=1),
            "points": lambda: store.points(keys, 0, 60, 1),
            "sketches": lambda: store.sketches(keys, 0, 60),
            "quantiles": lambda: store.quantiles(keys, 0.5, 0, 60, 1),
            "distributions": lambda: store.distributions(keys, 0, 60, 1),
        }

        with pytest.raises(QueryTimeoutError), deadline(0):
            questions[question]()

        assert store.increases(keys, 0, 9) == [1.0]


class TestRows:
    @pytest.mark.parametrize("limit", [0, -1, 100_001])
    def test_limits_are_bounded(self, monitor: Monitor, limit: int) -> None:
        """
        More rows than 100,000 are refused, and fewer than one; the error names the argument.
        """
        for ask in (
            lambda: monitor.query.records(limit=limit),
            lambda: monitor.query.top_errors(limit),
            lambda: monitor.query.error_groups(limit),
        ):
            with pytest.raises(QueryError, match="limit: must be from 1 to 100,000") as refused:
                ask()
            assert refused.value.argument == "limit"
        with pytest.raises(QueryError, match="top: must be"):
            monitor.query.series("result_success_total", top=limit)

    def test_groups_are_a_thousand_unless_more_are_asked_for(self, monitor: Monitor) -> None:
        """
        Of 1,200 groups the 1,000 largest are given, and it is told how many there are; asked for, all are.
        """
        visits = counter("visits_total")
        for number in range(1_200):
            visits.inc(number + 1, user=str(number))

        found = monitor.query.series("visits_total", "1m", 60, by=("user",))
        ratio = monitor.query.ratio("visits_total", "visits_total", "1m", 60, by=("user",))

        assert (len(found.lines), found.groups, found.lines[0].total) == (1_000, 1_200, 1_200)
        assert (len(ratio.lines), ratio.groups) == (1_000, 1_200)
        assert len(monitor.query.series("visits_total", "1m", 60, by=("user",), top=5_000).lines) == 1_200


class TestSteps:
    @pytest.mark.parametrize("step", [0.001, 1, 7, 10, 60, 3_600, 10_000_000])
    @pytest.mark.parametrize("time_range", ["1s", "1h", "1d", "30d"])
    def test_at_most_two_thousand(self, monitor: Monitor, clock: VirtualTime, time_range: str, step: float) -> None:
        """
        However fine the steps: there are at most 2,000, each a whole multiple of what was asked for, and the range is covered.
        """
        clock.advance(0.4)
        counter("visits_total").inc()

        found = monitor.query.series("visits_total", time_range, step)

        assert 1 <= len(found.lines[0].values) == len(found.times) <= MAX_STEPS
        assert (found.step_seconds / max(1, step)).is_integer()
        assert found.start % found.step_seconds == 0
        assert found.times[-1] <= clock.time_ns() / 1e9 < found.times[-1] + found.step_seconds
        assert found.lines[0].values[-1] == 1

    @pytest.mark.parametrize(("time_range", "step"), [("1m", 1), ("15m", 5), ("1h", 15), ("1d", 300), ("30d", 10_800)])
    def test_chosen_by_itself(self, monitor: Monitor, time_range: str, step: float) -> None:
        """
        Without a step the round one is used that gives at most 300.
        """
        counter("visits_total").inc()

        assert monitor.query.series("visits_total", time_range).step_seconds == step

    @pytest.mark.parametrize("step", [0, -1, float("nan"), float("inf")])
    def test_what_is_no_step(self, monitor: Monitor, step: float) -> None:
        """
        A step that is none is refused.
        """
        with pytest.raises(QueryError, match="step_seconds: must be a positive number"):
            monitor.query.series("result_success_total", "1h", step)


class TestAggregations:
    def test_what_does_not_fit_the_type(self, monitor: Monitor) -> None:
        """
        An aggregation that a metric of this type does not have is refused, and the error says which it has.
        """
        gauge("level").set(1)
        histogram("wait_seconds").observe(1)

        for name, aggregation, allowed in (
            ("result_success_total", "p95", "of a counter must be one of increase, rate, not 'p95'"),
            ("level", "rate", "of a gauge must be one of last, not 'rate'"),
            ("wait_seconds", "p100", "of a histogram must be one of count, rate,"),
            ("wait_seconds", "avg", "not 'avg'"),
        ):
            with pytest.raises(QueryError, match=allowed):
                monitor.query.series(name, "1h", aggregation=aggregation)

    def test_a_metric_nobody_knows(self, monitor: Monitor) -> None:
        """
        It has no groups, neither as a series nor in a ratio; so has a declared one that was never measured.
        """
        gauge("level")

        for found in (
            monitor.query.series("nothing_total"),
            monitor.query.series("level"),
            monitor.query.ratio("nothing_total", "nothing_either_total"),
        ):
            assert (found.lines, found.groups, found.times) == ([], 0, [])

    def test_nothing_collected_is_unknown(self, monitor: Monitor, clock: VirtualTime) -> None:
        """
        In a range before anything was collected totals are unknown, not 0.
        """
        counter("visits_total").inc()
        histogram("wait_seconds").observe(1)
        monitor.query.books()
        clock.jump(-7_200)
        past = monitor.query.settled()

        for name, aggregation in (("visits_total", "rate"), ("wait_seconds", "rate"), ("wait_seconds", "p95")):
            (line,) = past.series(name, "10m", 60, aggregation=aggregation).lines
            assert line.total is None
            assert set(line.values) == {None}

    def test_types_from_history(self, clock: VirtualTime) -> None:
        """
        A metric that nobody has declared since the start is known from the store: its type, its sums, its summary.
        """
        window = Window(clock.time_ns() // 10**9, {SeriesKey("old_total", ()): 3.0}, {SeriesKey("old_level", ()): 2.0})
        store = MemoryStore()
        store.append(Batch("before", 0, [], window))
        query = Monitor(clock=clock, store=store).query

        assert query.metric_type("old_total") == "counter"
        assert query.metric_type("old_level") == "gauge"
        assert query.increase("old_total") == 3
        assert query.summary()["counters"]["old_total"] == 3
        assert query.series("old_total", "1m", 60).lines[0].total == 3

    def test_a_ratio_of_operations(self, monitor: Monitor) -> None:
        """
        An operation that never failed has a share of 0; one that did nothing has none.
        """
        collect_result_metric("pay", Success(1), 1.0)
        collect_result_metric("ship", Failure("lost"), 1.0)

        found = monitor.query.ratio(
            "result_failure_total", ("result_failure_total", "result_success_total"), "1m", 60, by=("operation",)
        )

        assert [(line.labels, line.total) for line in found.lines] == [
            ({"operation": "ship"}, 1.0),
            ({"operation": "pay"}, 0.0),
        ]
