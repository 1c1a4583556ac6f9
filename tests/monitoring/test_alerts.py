"""Rules, the state machine `step`, and the manager that keeps the states. Delivery is in test_alerts_delivery.py."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfs.errors import AlertRuleError, RfsError
from rfs.monitoring.alerts import (
    Aggregation,
    Alert,
    AlertCondition,
    AlertManager,
    NoData,
    Rule,
    RuleState,
    RuleStatus,
    Sample,
    Severity,
    default_aggregation,
    step,
)
from rfs.testing.virtual_time import VirtualTime

ABOVE_90 = Rule("hot", "temperature", AlertCondition.GREATER_THAN, 90, cooldown_seconds=0)


@dataclass
class World:
    """A manager whose metrics, clock and listeners are the test's."""

    clock: VirtualTime = field(default_factory=VirtualTime)
    values: dict[str, Sample | BaseException] = field(default_factory=dict[str, "Sample | BaseException"])
    errors: list[tuple[str, BaseException]] = field(default_factory=list["tuple[str, BaseException]"])
    events: list[Alert] = field(default_factory=list[Alert])

    def __post_init__(self) -> None:
        self.manager = AlertManager(
            self.read, self.clock, lambda where, error: self.errors.append((where, error)), self.events.append
        )

    def read(self, rule: Rule) -> Sample:
        """Give the value that the test has set."""
        sample = self.values.get(rule.metric_name, Sample(None))
        if isinstance(sample, BaseException):
            raise sample
        return sample

    def at(self, seconds: float, **values: Sample | BaseException | float | None) -> list[str]:
        """Evaluate at *seconds* with these values; return what happened."""
        for name, value in values.items():
            self.values[name] = value if isinstance(value, Sample | BaseException) else Sample(value)
        self.clock.advance(seconds - self.clock.elapsed_seconds)
        before = len(self.events)
        self.manager.evaluate()
        return [alert.event for alert in self.events[before:]]


def run(rule: Rule, series: list[tuple[float, float | str | None]]) -> list[tuple[float, str, str]]:
    """Step through ``(time, value)``, text being an error; return ``(time, kind, reason)`` of all that happened."""
    state, log = RuleState(), list[tuple[float, str, str]]()
    for now, value in series:
        sample = Sample(None, value) if isinstance(value, str) else Sample(value)
        state, happened = step(rule, state, sample, now)
        log += [(now, kind, reason) for kind, reason in happened]
    return log


def told(log: list[tuple[float, str, str]]) -> list[tuple[float, str]]:
    """Keep what callbacks are told."""
    return [(now, kind) for now, kind, _ in log if kind in {"fire", "resolve"}]


class TestRule:
    def test_repr_says_what_is_compared(self) -> None:
        """
        A rule's repr names the aggregation, or how it is chosen.
        """
        chosen = replace(ABOVE_90, aggregation="p95", labels={"room": "2", "floor": "1"})
        last = replace(ABOVE_90, aggregation=Aggregation.LAST)

        assert repr(chosen) == "Rule('hot': p95 of temperature{floor='1', room='2'} in 300 s > 90)"
        assert repr(last) == "Rule('hot': last of temperature > 90)"
        assert "(counter: increase, histogram: p95, gauge: last)" in repr(ABOVE_90)

    def test_names_in_any_case(self) -> None:
        """
        Text that names a choice is that choice; equal rules are equal however they were written.
        """
        rule = Rule("r", "m", "Greater_Than", 1, aggregation="P99", no_data="OK", severity="CRITICAL")

        assert rule == Rule(
            "r",
            "m",
            AlertCondition.GREATER_THAN,
            1.0,
            aggregation=Aggregation.P99,
            no_data=NoData.OK,
            severity=Severity.CRITICAL,
        )
        assert rule.condition is AlertCondition.GREATER_THAN

    def test_is_data(self) -> None:
        """
        A rule is frozen, hashable, a JSON object, and can be pickled and made again.
        """
        labels = {"a": "b"}
        rule = replace(ABOVE_90, labels=labels, clear_threshold=80)
        labels["a"] = "changed"

        assert rule.labels == {"a": "b"}
        assert Rule(**json.loads(json.dumps(rule.to_dict()))) == rule
        assert pickle.loads(pickle.dumps(rule)) == rule
        assert len({rule, replace(rule)}) == 1
        with pytest.raises(FrozenInstanceError):
            rule.name = "x"  # type: ignore[misc]

    @pytest.mark.parametrize(
        ("fault", "field_name", "text"),
        [
            ({"name": ""}, "name", "must be 1 to 200 printable characters, not ''"),
            ({"name": "  "}, "name", "printable"),
            ({"name": "a\nb"}, "name", "printable"),
            ({"name": "x" * 201}, "name", "…"),
            ({"name": 3}, "name", "not 3"),
            ({"metric_name": ""}, "metric_name", "must be a metric's name, not ''"),
            ({"metric_name": "1a"}, "metric_name", "not '1a'"),
            ({"metric_name": "a\n"}, "metric_name", "metric's name"),
            ({"metric_name": None}, "metric_name", "not None"),
            ({"condition": "gt"}, "condition", "must be one of greater_than, greater_than_or_equal, less_than"),
            ({"condition": 1}, "condition", "not 1"),
            ({"threshold": float("nan")}, "threshold", "must be a finite number, not nan"),
            ({"threshold": float("inf")}, "threshold", "not inf"),
            ({"threshold": -(10**400)}, "threshold", "an integer of more than 64 bits"),
            ({"threshold": True}, "threshold", "not True"),
            ({"threshold": "5"}, "threshold", "not '5'"),
            ({"threshold": object()}, "threshold", "not object"),
            ({"labels": ["a"]}, "labels", "must map names to values, not list"),
            ({"labels": {"1": "a"}}, "labels", "'1' is not a label's name"),
            ({"labels": {"a": 1}}, "labels", "a must be text, not 1"),
            ({"aggregation": "p42"}, "aggregation", "must be one of increase, rate, p50, p95, p99, mean, last"),
            ({"window_seconds": 0.5}, "window_seconds", "must be 1 to 2592000 seconds, not 0.5"),
            ({"window_seconds": 1e9}, "window_seconds", "2592000"),
            ({"for_seconds": -1}, "for_seconds", "must be 0 to 2592000 seconds, not -1"),
            ({"for_seconds": float("nan")}, "for_seconds", "finite"),
            ({"keep_firing_for_seconds": -0.1}, "keep_firing_for_seconds", "not -0.1"),
            ({"cooldown_seconds": -300}, "cooldown_seconds", "not -300"),
            ({"clear_threshold": 91}, "clear_threshold", "must be at most the threshold 90, not 91"),
            ({"clear_threshold": 89, "condition": "less_than"}, "clear_threshold", "at least the threshold 90, not 89"),
            ({"clear_threshold": 1, "condition": "equal"}, "clear_threshold", "no meaning for the condition equal"),
            ({"clear_threshold": float("nan")}, "clear_threshold", "finite"),
            ({"no_data": "silence"}, "no_data", "must be one of keep, ok, alert, nodata, not 'silence'"),
            ({"severity": "bad"}, "severity", "must be one of info, warning, critical, not 'bad'"),
            ({"runbook_url": "javascript:alert(1)"}, "runbook_url", "must be an http or https address"),
        ],
    )
    def test_bad_field_is_refused_by_name(self, fault: dict[str, Any], field_name: str, text: str) -> None:
        """
        A field that cannot be used is an error that names rule, field, value and what is allowed.
        """
        spec: dict[str, Any] = {"name": "hot", "metric_name": "m", "condition": "greater_than", "threshold": 90}

        with pytest.raises(AlertRuleError) as caught:
            Rule(**{**spec, **fault})

        assert caught.value.field == field_name
        assert text in caught.value.fault
        assert field_name in str(caught.value)
        assert isinstance(caught.value, RfsError | ValueError)

    @pytest.mark.parametrize(
        ("condition", "breaching"),
        [
            ("greater_than", [False, False, True]),
            ("greater_than_or_equal", [False, True, True]),
            ("less_than", [True, False, False]),
            ("less_than_or_equal", [True, True, False]),
            ("equal", [False, True, False]),
            ("not_equal", [True, False, True]),
        ],
    )
    def test_conditions(self, condition: str, breaching: list[bool]) -> None:
        """
        Below, at and above the threshold, each condition holds where its name says.
        """
        rule = Rule("r", "m", condition, 5)

        assert [rule.breached(value) for value in (4, 5, 6)] == breaching
        assert AlertCondition(condition).symbol in repr(rule)

    def test_default_aggregation(self) -> None:
        """
        A counter is compared by its increase, a histogram and a timer by their p95, a gauge by its last value.
        """
        assert [default_aggregation(kind) for kind in ("counter", "histogram", "timer", "gauge")] == [
            Aggregation.INCREASE,
            Aggregation.P95,
            Aggregation.P95,
            Aggregation.LAST,
        ]


class TestStepTimers:
    def test_fires_and_resolves_at_once(self) -> None:
        """
        Without timers, a rule fires at the first breach and resolves at the first value that is none.
        """
        assert run(ABOVE_90, [(0, 90), (1, 91), (2, 99), (3, 90), (4, 10)]) == [
            (1, "fire", "threshold"),
            (3, "resolve", "recovered"),
        ]

    def test_for_seconds_on_time(self) -> None:
        """
        With ``for_seconds=10`` a breach that began at 5 fires at 15: not at 14.9, and not an evaluation later.
        """
        rule = replace(ABOVE_90, for_seconds=10)

        log = run(rule, [(0, 1), (5, 95), (9, 95), (14.9, 95), (15, 95), (16, 1)])

        assert log == [
            (5, "pending", "threshold"),
            (15, "fire", "threshold"),
            (16, "resolve", "recovered"),
        ]

    def test_short_breach_tells_nobody(self) -> None:
        """
        One healthy value restarts ``for_seconds``; a breach shorter than that is told to nobody.
        """
        rule = replace(ABOVE_90, for_seconds=10)

        log = run(rule, [(0, 95), (9, 95), (9.5, 1), (10, 95), (19, 95), (19.5, 1)])

        assert [kind for _, kind, _ in log] == ["pending", "cleared", "pending", "cleared"]

    def test_float_clock_is_not_late(self) -> None:
        """
        Sixty one-second ticks are a minute although floats add up to a little less.
        """
        base = 12345.678
        rule = replace(ABOVE_90, for_seconds=60)

        log = run(rule, [(base + tick, 95.0) for tick in range(62)])

        assert told(log) == [(base + 60, "fire")]

    def test_keep_firing(self) -> None:
        """
        ``keep_firing_for_seconds`` of lasting health resolve an alert; a breach between starts them again.
        """
        rule = replace(ABOVE_90, keep_firing_for_seconds=10)

        log = run(rule, [(0, 95), (1, 1), (10, 1), (10.5, 95), (11, 1), (20.9, 1), (21, 1)])

        assert log == [
            (0, "fire", "threshold"),
            (1, "recovering", "recovered"),
            (10.5, "refiring", "threshold"),
            (11, "recovering", "recovered"),
            (21, "resolve", "recovered"),
        ]

    def test_flapping_in_the_dead_band(self) -> None:
        """
        A value that swings between ``threshold`` and ``clear_threshold`` gives one fire and one resolve.
        """
        rule = replace(ABOVE_90, clear_threshold=80)
        swings = [(float(t), 95.0 if t % 2 else 81.0) for t in range(1, 100)]

        log = run(rule, [(0.0, 85.0), *swings, (100.0, 80.0), (101.0, 85.0)])

        assert log == [(1, "fire", "threshold"), (100, "resolve", "recovered")]

    def test_dead_band_below(self) -> None:
        """
        The dead band of a lower limit lies above it.
        """
        rule = Rule("low", "m", AlertCondition.LESS_THAN, 0.8, clear_threshold=0.9, cooldown_seconds=0)

        assert told(run(rule, [(0, 0.7), (1, 0.85), (2, 0.89), (3, 0.9)])) == [(0, "fire"), (3, "resolve")]


class TestStepCooldown:
    RULE = replace(ABOVE_90, cooldown_seconds=300)

    def test_suppressed_fire_goes_out_when_the_cooldown_ends(self) -> None:
        """
        A second fire within the cooldown is held back, and told when it ends if the alert still stands.
        """
        log = run(self.RULE, [(0, 95), (10, 1), (20, 95), (299, 95), (300, 95), (310, 1)])

        assert log == [
            (0, "fire", "threshold"),
            (10, "resolve", "recovered"),
            (20, "suppressed", "cooldown"),
            (300, "fire", "cooldown_over"),
            (310, "resolve", "recovered"),
        ]

    def test_suppressed_fire_that_is_no_longer_true(self) -> None:
        """
        An alert that ends within the cooldown is told to nobody: neither its fire nor its resolve.
        """
        log = run(self.RULE, [(0, 95), (10, 1), (20, 95), (30, 1), (300, 1), (301, 95)])

        assert told(log) == [(0, "fire"), (10, "resolve"), (301, "fire")]
        assert (30, "cleared", "recovered") in log

    def test_state_does_not_wait(self) -> None:
        """
        While the fire is held back the rule is firing all the same.
        """
        state, _ = step(self.RULE, RuleState(fired_at=0.0), Sample(95), 20)

        assert state.status is RuleStatus.FIRING
        assert not state.notified

    def test_held_back_fire_is_not_lost_to_an_error(self) -> None:
        """
        Where the cooldown ends while the value cannot be read, the fire goes out: better that than silence.
        """
        log = run(self.RULE, [(0, 95), (10, 1), (20, 95), (290, "StoreDown"), (300, "StoreDown")])

        assert told(log) == [(0, "fire"), (10, "resolve"), (300, "fire")]


class TestStepUnknown:
    @pytest.mark.parametrize("value", [None, float("nan")])
    def test_never_measured_is_not_healthy(self, value: float | None) -> None:
        """
        A metric that was never measured leaves the rule in NO_DATA, said once.
        """
        first, happened = step(ABOVE_90, RuleState(), Sample(value), 0)
        second, again = step(ABOVE_90, first, Sample(value), 1)

        assert first.status is second.status is RuleStatus.NO_DATA
        assert [kind for kind, _ in happened] == ["no_data"]
        assert again == ()

    def test_keep(self) -> None:
        """
        ``keep``: an alert stays as it is while the value is missing, and says that it is.
        """
        state, _ = step(ABOVE_90, RuleState(), Sample(95), 0)
        state, happened = step(ABOVE_90, state, Sample(None), 1)

        assert state.status is RuleStatus.FIRING
        assert state.value is None
        assert [kind for kind, _ in happened] == ["no_data"]
        assert run(ABOVE_90, [(0, 95), (1, None), (9, None), (10, 1)])[-2:] == [
            (10, "data", ""),
            (10, "resolve", "recovered"),
        ]

    def test_ok(self) -> None:
        """
        ``ok``: a missing value is healthy, and the resolve says that this was the reason.
        """
        rule = replace(ABOVE_90, no_data=NoData.OK)

        assert run(rule, [(0, 95), (1, None)]) == [
            (0, "fire", "threshold"),
            (1, "no_data", ""),
            (1, "resolve", "no_data"),
        ]
        assert step(rule, RuleState(), Sample(None), 0)[0].status is RuleStatus.INACTIVE

    def test_alert(self) -> None:
        """
        ``alert``: a missing value is a breach, with ``for_seconds`` as for any other.
        """
        rule = replace(ABOVE_90, no_data=NoData.ALERT, for_seconds=5)

        assert run(rule, [(0, 1), (1, None), (5, None), (6, None), (7, 1)]) == [
            (1, "no_data", ""),
            (1, "pending", "no_data"),
            (6, "fire", "no_data"),
            (7, "data", ""),
            (7, "resolve", "recovered"),
        ]

    def test_nodata(self) -> None:
        """
        ``nodata``: a missing value ends the alert with that reason, and the rule is in NO_DATA.
        """
        rule = replace(ABOVE_90, no_data=NoData.NODATA)
        state, _ = step(rule, RuleState(), Sample(95), 0)
        state, happened = step(rule, state, Sample(None), 1)

        assert [tuple(one) for one in happened] == [("no_data", ""), ("resolve", "no_data")]
        assert state.status is RuleStatus.NO_DATA
        assert step(rule, state, Sample(None), 2)[1] == ()

    @pytest.mark.parametrize("no_data", list(NoData))
    def test_error_keeps_the_alert(self, no_data: NoData) -> None:
        """
        A value that cannot be read is the state ERROR with its reason, whatever ``no_data`` says; the alert stands.
        """
        rule = replace(ABOVE_90, no_data=no_data)
        state, _ = step(rule, RuleState(), Sample(95), 0)
        state, happened = step(rule, state, Sample(None, "StoreDown"), 1)

        assert state.status is RuleStatus.ERROR
        assert state.active
        assert state.error == "StoreDown"
        assert [tuple(one) for one in happened] == [("error", "StoreDown")]

    def test_infinite_value_is_an_error(self) -> None:
        """
        An infinite value is not compared: it is an error of the metric.
        """
        state, _ = step(ABOVE_90, RuleState(), Sample(float("inf")), 0)

        assert state.status is RuleStatus.ERROR
        assert state.error == "the value is infinite"

    def test_unknown_time_does_not_count(self) -> None:
        """
        Of 10 seconds of breach asked for, 4 unknown ones do not count: it fires 4 seconds later.
        """
        rule = replace(ABOVE_90, for_seconds=10)

        log = run(rule, [(0, 95), (5, "StoreDown"), (7, None), (9, 95), (13.9, 95), (14, 95)])

        assert told(log) == [(14, "fire")]

    def test_unknown_time_does_not_count_for_recovery(self) -> None:
        """
        Nor does unknown time count as health.
        """
        rule = replace(ABOVE_90, keep_firing_for_seconds=10)

        log = run(rule, [(0, 95), (1, 1), (5, None), (15, 1), (20.9, 1), (21, 1)])

        assert told(log) == [(0, "fire"), (21, "resolve")]


# Weighted so that random series fire, recover and lose their data often.
VALUES = st.sampled_from([0.0, 0.0, 80.0, 85.0, 90.0, 91.0, 95.0, 95.0, None, float("nan"), "down"])
SERIES = st.lists(st.tuples(st.integers(1, 20), VALUES), min_size=10, max_size=60)
SECONDS = st.sampled_from([0, 0, 1, 15, 40])
RULES = st.builds(
    Rule,
    name=st.just("r"),
    metric_name=st.just("m"),
    condition=st.just(AlertCondition.GREATER_THAN),
    threshold=st.just(90),
    clear_threshold=st.sampled_from([None, 80, 90]),
    for_seconds=SECONDS,
    keep_firing_for_seconds=SECONDS,
    cooldown_seconds=st.sampled_from([0, 15, 40, 100]),
    no_data=st.sampled_from(NoData),
)


def timeline(series: list[tuple[int, float | str | None]]) -> list[tuple[float, float | str | None]]:
    """Turn gaps into times."""
    now, points = 0, list[tuple[float, float | str | None]]()
    for gap, value in series:
        now += gap
        points.append((float(now), value))
    return points


class TestStepProperties:
    @given(RULES, SERIES)
    def test_every_fire_was_preceded_by_the_breach_it_needs(
        self, rule: Rule, series: list[tuple[int, float | str | None]]
    ) -> None:
        """
        Before an alert begins to fire, the known breach has lasted, unbroken, for at least ``for_seconds``.
        """
        state, breach, previous = RuleState(), 0.0, None
        for now, value in timeline(series):
            was_active = state.active
            state, _ = step(rule, state, Sample(None, value) if isinstance(value, str) else Sample(value), now)
            missing = value is None or value != value
            held = isinstance(value, str) or (missing and rule.no_data is NoData.KEEP)
            if held:
                breaching = None
            elif missing:
                breaching = rule.no_data is NoData.ALERT
            else:
                assert isinstance(value, float)
                breaching = value > 90
            # The oracle adds up the time between two readings whose first was a known breach.
            if previous is not None and previous[1] is True:
                breach += now - previous[0]
            if breaching is False:
                breach = 0.0

            if state.active and not was_active:
                assert breaching is True
                assert breach >= rule.for_seconds
            if not state.active and was_active:
                breach = 0.0
            previous = (now, breaching)

    @given(RULES, SERIES)
    def test_fires_and_resolves_alternate(self, rule: Rule, series: list[tuple[int, float | str | None]]) -> None:
        """
        Fires less resolves are 0 or 1 at every moment, and no two fires are closer than the cooldown.
        """
        messages = told(run(rule, timeline(series)))
        fires = [now for now, kind in messages if kind == "fire"]

        assert [kind for _, kind in messages] == ["fire", "resolve"] * (len(messages) // 2) + ["fire"] * (
            len(messages) % 2
        )
        assert all(later - earlier >= rule.cooldown_seconds for earlier, later in pairwise(fires))

    @given(RULES, SERIES)
    def test_health_ends_every_alert(self, rule: Rule, series: list[tuple[int, float | str | None]]) -> None:
        """
        Lasting health leaves nothing active, and as many resolves as fires.
        """
        points = timeline(series)
        end = points[-1][0] if points else 0.0

        messages = told(run(rule, [*points, *((end + 1 + 50 * quiet, 0.0) for quiet in range(6))]))

        assert len(messages) % 2 == 0

    @given(RULES, SERIES)
    def test_pure(self, rule: Rule, series: list[tuple[int, float | str | None]]) -> None:
        """
        The same series gives the same history, and the state passed in is not changed.
        """
        points = timeline(series)

        assert run(rule, points) == run(rule, points)


class TestManagerRules:
    def test_idempotent_by_name(self) -> None:
        """
        The same rule again, with a new lambda, keeps its state and takes the callback; nothing is told.
        """
        world = World()
        got: list[str] = []
        assert world.manager.set_rule(ABOVE_90, lambda alert: got.append("first")) == "created"
        world.at(1, temperature=95)
        world.manager.flush()

        assert world.manager.set_rule(replace(ABOVE_90), lambda alert: got.append("second")) == "unchanged"
        world.at(2, temperature=1)
        world.manager.flush()
        world.manager.close()

        assert got == ["first", "second"]
        assert [alert.event for alert in world.events] == ["fire", "resolve"]
        assert world.manager.rules() == [ABOVE_90]

    def test_callback_stays_if_none_is_given(self) -> None:
        """
        Who changes only a threshold, over HTTP say, does not silence the rule.
        """
        world = World()
        got: list[Alert] = []
        world.manager.set_rule(ABOVE_90, got.append)

        assert world.manager.set_rule(replace(ABOVE_90, threshold=50)) == "updated"
        assert world.manager.set_rule(replace(ABOVE_90, threshold=50)) == "unchanged"
        world.at(1, temperature=60)
        world.manager.close()

        assert [alert.threshold for alert in got] == [50]

    def test_update_is_audited(self) -> None:
        """
        A change says what was changed, from what to what.
        """
        world = World()
        world.manager.set_rule(ABOVE_90)

        world.manager.set_rule(replace(ABOVE_90, threshold=95, severity="critical"))

        assert [(alert.event, alert.reason) for alert in world.events] == [
            ("updated", "threshold: 90.0 → 95.0; severity: warning → critical")
        ]
        assert world.manager.history() == world.events

    def test_update_of_the_threshold_keeps_the_alert(self) -> None:
        """
        An alert that is active under the old threshold ends only if the new one says so.
        """
        world = World()
        world.manager.set_rule(ABOVE_90)
        world.at(1, temperature=95)

        world.manager.set_rule(replace(ABOVE_90, threshold=94))

        assert world.at(2) == []
        assert world.at(3, temperature=94) == ["resolve"]

    def test_update_of_the_measure_ends_the_alert(self) -> None:
        """
        Another metric is another alert: the old one is resolved as updated.
        """
        world = World()
        world.manager.set_rule(ABOVE_90)
        world.at(1, temperature=95)

        world.manager.set_rule(replace(ABOVE_90, metric_name="pressure"))

        assert [(alert.event, alert.reason) for alert in world.events[1:]] == [
            ("resolve", "updated"),
            ("updated", "metric_name: temperature → pressure"),
        ]
        assert world.manager.active() == []

    def test_update_restarts_a_pending_timer(self) -> None:
        """
        What was a breach of the old threshold is not counted for the new one.
        """
        world = World()
        world.manager.set_rule(replace(ABOVE_90, for_seconds=10))
        world.at(0, temperature=95)

        world.manager.set_rule(replace(ABOVE_90, for_seconds=10, threshold=92))

        assert world.at(9) == ["pending"]
        assert world.at(10) == []
        assert world.at(19) == ["fire"]

    def test_remove(self) -> None:
        """
        A removed rule resolves its alert and is gone; removing it again is no error.
        """
        world = World()
        got: list[str] = []
        world.manager.set_rule(ABOVE_90, lambda alert: got.append(f"{alert.event} {alert.reason}"))
        world.at(1, temperature=95)

        assert world.manager.remove_rule("hot")
        assert not world.manager.remove_rule("hot")
        world.manager.close()

        assert [alert.event for alert in world.events] == ["fire", "resolve", "removed"]
        assert world.at(2) == []
        assert world.manager.rules() == []
        assert got in ([], ["fire threshold", "resolve removed"])

    def test_bad_callback(self) -> None:
        """
        What cannot be called is refused when it is declared.
        """
        with pytest.raises(AlertRuleError, match="callback: must be callable or None, not str"):
            World().manager.set_rule(ABOVE_90, "send_mail")  # type: ignore[arg-type]

    def test_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        There is a limit to the number of rules; those that are there can still be changed.
        """
        monkeypatch.setattr("rfs.monitoring.alerts.MAX_RULES", 2)
        manager = World().manager
        for name in ("a", "b"):
            manager.set_rule(replace(ABOVE_90, name=name))

        with pytest.raises(AlertRuleError, match="there are 2 rules"):
            manager.set_rule(replace(ABOVE_90, name="c"))
        assert manager.set_rule(replace(ABOVE_90, name="a", threshold=1)) == "updated"


class TestManagerEvaluation:
    def test_alert_reads_like_the_documents_dict(self) -> None:
        """
        An alert has the documented keys, as attributes too, and is JSON.
        """
        world = World()
        world.manager.set_rule(replace(ABOVE_90, labels={"room": "1"}, severity="critical", for_seconds=5))
        world.at(5, temperature=Sample(91.0, aggregation="last"))
        world.at(10)
        alert = world.events[-1]

        assert alert["metric_name"] == alert.metric_name == "temperature"
        assert alert["current_value"] == 91.0
        assert alert["threshold"] == 90.0
        assert alert["timestamp"] == "2026-01-01T00:00:10.000Z"
        assert alert["started_at"] == "2026-01-01T00:00:05.000Z"
        assert alert["rule_name"] == "hot"
        assert alert["condition"] == "greater_than"
        assert alert["status"] == "firing"
        assert alert["severity"] == "critical"
        assert alert["labels"] == {"room": "1"}
        assert alert["aggregation"] == "last"
        assert alert.fired_at == alert.at == datetime(2026, 1, 1, 0, 0, 10, tzinfo=UTC)
        assert alert.message == ("alert 'hot' fires (threshold): last of temperature{room='1'} is 91, the rule is > 90")
        assert json.loads(json.dumps(alert.to_dict())) == {**alert}
        assert all(getattr(alert, key) == alert[key] for key in alert)
        assert "hot" in repr(alert)
        assert alert.get("nothing") is None
        with pytest.raises(KeyError):
            alert["nothing"]

    def test_resolve_says_when_it_fired(self) -> None:
        """
        A resolve has its own time, the value that ended it, and the time of the fire.
        """
        world = World()
        world.manager.set_rule(ABOVE_90)
        world.at(5, temperature=95)
        world.at(65, temperature=3)
        alert = world.events[-1]

        assert (alert.status, alert.current_value, alert.reason) == ("resolved", 3.0, "recovered")
        assert alert.fired_at == datetime(2026, 1, 1, 0, 0, 5, tzinfo=UTC)
        assert alert.at == datetime(2026, 1, 1, 0, 1, 5, tzinfo=UTC)
        assert alert.started_at == "2026-01-01T00:00:05.000Z"

    def test_active(self) -> None:
        """
        Active are the alerts that fire or recover, with their latest value, held back or not.
        """
        world = World()
        world.manager.set_rule(replace(ABOVE_90, keep_firing_for_seconds=10, cooldown_seconds=300))
        world.manager.set_rule(replace(ABOVE_90, name="other", metric_name="other"))
        assert world.at(0, temperature=95, other=1) == ["fire"]
        world.at(1, temperature=1)
        [recovering] = world.manager.active()
        world.at(11)
        world.at(12, temperature=96)
        [held_back] = world.manager.active()

        assert (recovering.status, recovering.current_value, recovering.notified) == ("recovering", 1.0, True)
        assert (held_back.status, held_back.current_value, held_back.notified) == ("firing", 96.0, False)
        assert held_back.fired_at is None
        assert world.manager.states()["other"].status is RuleStatus.INACTIVE

    def test_unknown_is_told_to_the_listener(self) -> None:
        """
        Missing data and errors are events of the history; an error does not keep other rules from being evaluated.
        """
        world = World()
        world.manager.set_rule(replace(ABOVE_90, name="broken", metric_name="broken"))
        world.manager.set_rule(ABOVE_90)

        assert world.at(0, broken=ZeroDivisionError("secret"), temperature=None) == ["error", "no_data"]
        assert world.at(1, temperature=95) == ["data", "fire"]
        assert world.manager.states()["broken"].error == "ZeroDivisionError"
        assert [where for where, _ in world.errors] == ["alerts.read", "alerts.read"]
        assert world.events[0].reason == "ZeroDivisionError"
        assert "is unknown" in world.events[0].message

    @pytest.mark.parametrize("junk", ["1", object(), 10**400])
    def test_junk_from_the_reader(self, junk: object) -> None:
        """
        A reader that gives something else than a number makes an error of it, not an exception.
        """
        world = World()
        world.manager.set_rule(ABOVE_90)
        sample: Any = Sample(junk) if not isinstance(junk, str) else junk  # type: ignore[arg-type]
        world.values["temperature"] = sample

        assert world.at(0) == ["error"]

    def test_a_listener_that_raises(self) -> None:
        """
        A listener that raises is counted and changes nothing; neither does one for errors.
        """
        world = World()

        def broken(*_: object) -> None:
            raise RuntimeError

        manager = AlertManager(world.read, world.clock, broken, broken)
        manager.set_rule(ABOVE_90)
        world.values["temperature"] = Sample(95)
        manager.evaluate()

        assert [alert.event for alert in manager.history()] == ["fire"]
        assert manager.books()["hook_errors"] == 1

    def test_one_evaluation_at_a_time(self) -> None:
        """
        An evaluation that is asked for during another one does nothing.
        """
        world = World()
        reads: list[str] = []

        def read(rule: Rule) -> Sample:
            reads.append(rule.name)
            world.manager.evaluate()
            return Sample(95)

        world.manager = AlertManager(read, world.clock, lambda *_: None, world.events.append)
        world.manager.set_rule(ABOVE_90)
        world.manager.evaluate()

        assert reads == ["hot"]

    @pytest.mark.parametrize("change", ["update", "remove", "replace"])
    def test_rule_changed_while_it_is_read(self, change: str) -> None:
        """
        A sample that was taken for the old rule is not held against the new one.
        """
        world = World()

        def read(rule: Rule) -> Sample:
            if change == "update":
                world.manager.set_rule(replace(rule, threshold=99))
            else:
                world.manager.remove_rule(rule.name)
            if change == "replace":
                world.manager.set_rule(rule)
            return Sample(95)

        world.manager = AlertManager(read, world.clock, lambda *_: None, world.events.append)
        world.manager.set_rule(ABOVE_90)
        world.manager.evaluate()

        assert "fire" not in [alert.event for alert in world.events]

    def test_age(self) -> None:
        """
        The age of the last evaluation shows whether alerting is alive.
        """
        world = World()
        assert world.manager.evaluation_age_seconds() is None
        world.at(5)
        world.clock.advance(7)

        assert world.manager.evaluation_age_seconds() == 7

    def test_history_is_bounded(self) -> None:
        """
        The history keeps the newest.
        """
        world = World()
        manager = AlertManager(world.read, world.clock, lambda *_: None, lambda _: None, history_size=3)
        manager.set_rule(ABOVE_90)
        for second in range(10):
            world.values["temperature"] = Sample(95.0 if second % 2 else 1.0)
            manager.evaluate(second)

        assert [alert.event for alert in manager.history()] == ["fire", "resolve", "fire"]

    def test_ten_thousand_rules(self) -> None:
        """
        Ten thousand rules that all fire are all evaluated, with no thread for those without a callback.
        """
        world = World()
        for number in range(10_000):
            world.manager.set_rule(replace(ABOVE_90, name=f"rule {number}"))
        threads = threading.active_count()

        assert len(world.at(0, temperature=95)) == 10_000
        assert threading.active_count() == threads


class TestManagerProperties:
    @settings(max_examples=40)
    @given(
        st.lists(
            st.one_of(
                st.tuples(st.just("value"), st.sampled_from([1.0, 95.0, None])),
                st.tuples(st.just("set"), st.sampled_from([90.0, 94.0, 99.0])),
                st.tuples(st.just("remove"), st.none()),
            ),
            max_size=25,
        )
    )
    def test_callback_sees_pairs(self, deeds: list[tuple[str, float | None]]) -> None:
        """
        Whatever happens to rule and value, a callback gets fire, resolve, fire, resolve, and the books balance.
        """
        world = World()
        got: list[str] = []
        deed_of: dict[str, Callable[[float | None], object]] = {
            "value": lambda value: world.values.update(temperature=Sample(value)),
            "set": lambda value: world.manager.set_rule(
                replace(ABOVE_90, threshold=value or 0), lambda alert: got.append(alert.event)
            ),
            "remove": lambda _: world.manager.remove_rule("hot"),
        }
        for second, (deed, value) in enumerate(deeds):
            deed_of[deed](value)
            world.at(second)
        world.at(1000, temperature=0.0)
        world.manager.close()
        books = world.manager.books()

        assert got == ["fire", "resolve"] * (len(got) // 2)
        assert books["produced"] == sum(
            books[name] for name in ("delivered", "failed", "timed_out", "superseded", "dropped", "waiting")
        )
        assert books["waiting"] == 0
