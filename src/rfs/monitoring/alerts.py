"""
Alert rules: what is watched, when it fires, and who is told.

A `Rule` is plain data. `step` is the whole state machine and is pure: a rule,
a state, a sample and a monotonic time go in, the next state and what happened
come out. `AlertManager` keeps the states, asks for the samples, and hands what
happened to callbacks on a thread of its own.

Of one episode (from the first breach to its end) a callback gets at most one
fire, and one resolve if the fire reached it. Unknown is a state: a value that
is missing or cannot be read never counts as healthy unless the rule says so.

Limits: states live in memory, so a new process starts anew. A callback that
raised is not called again for that fire. How callbacks are kept from doing
harm, and what that costs, is in `rfs.monitoring._delivery`.

Nothing starts by importing this or by declaring rules: the thread starts with
the first alert that a callback is to get.
"""

from __future__ import annotations

import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from math import inf, isfinite, isnan
from typing import Final, Literal, NamedTuple, Protocol, TypeVar, cast
from weakref import WeakValueDictionary

from msgspec import Struct
from msgspec.structs import replace

from rfs.errors import AlertRuleError
from rfs.monitoring._delivery import Courier, Mailbox, Message

__all__ = [
    "Aggregation",
    "Alert",
    "AlertCondition",
    "AlertManager",
    "Callback",
    "NoData",
    "Rule",
    "RuleState",
    "RuleStatus",
    "Sample",
    "Severity",
    "Transition",
    "default_aggregation",
    "step",
]

MAX_RULES: Final = 10_000
MAX_SECONDS: Final = 30 * 86_400.0  # of a window and of every timer

# Monotonic readings are floats: 60 seconds of one-second ticks may add up to 59.999999999998.
_CLOCK_GRAIN_SECONDS: Final = 1e-6
_METRIC_NAME = re.compile(r"[A-Za-z_:][A-Za-z0-9_:.-]{0,199}\Z")
_URL = re.compile(r"(https?://[^\s\x00-\x1f]{1,2000})?\Z")
_LABEL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}\Z")


# --------------------------------------------------------------------------------------------------- what is declared


class AlertCondition(StrEnum):
    """How the watched value is held against the threshold."""

    GREATER_THAN = "greater_than"
    GREATER_THAN_OR_EQUAL = "greater_than_or_equal"
    LESS_THAN = "less_than"
    LESS_THAN_OR_EQUAL = "less_than_or_equal"
    EQUAL = "equal"
    NOT_EQUAL = "not_equal"

    @property
    def symbol(self) -> str:
        """The operator's usual sign."""
        return _SYMBOLS[self]

    def holds(self, value: float, threshold: float) -> bool:
        """Say whether *value* is in breach of *threshold*."""
        match self:
            case AlertCondition.GREATER_THAN:
                return value > threshold
            case AlertCondition.GREATER_THAN_OR_EQUAL:
                return value >= threshold
            case AlertCondition.LESS_THAN:
                return value < threshold
            case AlertCondition.LESS_THAN_OR_EQUAL:
                return value <= threshold
            case AlertCondition.EQUAL:
                return value == threshold
            case AlertCondition.NOT_EQUAL:
                return value != threshold


_SYMBOLS: Final[Mapping[AlertCondition, str]] = {
    AlertCondition.GREATER_THAN: ">",
    AlertCondition.GREATER_THAN_OR_EQUAL: ">=",
    AlertCondition.LESS_THAN: "<",
    AlertCondition.LESS_THAN_OR_EQUAL: "<=",
    AlertCondition.EQUAL: "==",
    AlertCondition.NOT_EQUAL: "!=",
}
_ABOVE: Final = (AlertCondition.GREATER_THAN, AlertCondition.GREATER_THAN_OR_EQUAL)
_BELOW: Final = (AlertCondition.LESS_THAN, AlertCondition.LESS_THAN_OR_EQUAL)


class Aggregation(StrEnum):
    """What is made of a metric's window before it is compared. ``rate`` is the increase per second."""

    INCREASE = "increase"
    RATE = "rate"
    P50 = "p50"
    P95 = "p95"
    P99 = "p99"
    MEAN = "mean"
    LAST = "last"


def default_aggregation(metric_type: str) -> Aggregation:
    """
    Return what a rule without an aggregation compares: a counter by its
    increase, a histogram or timer by its p95, a gauge by its last value.

    Args:
        metric_type: ``counter``, ``gauge``, ``histogram`` or ``timer``.

    >>> default_aggregation("counter").value
    'increase'
    """
    match metric_type:
        case "counter":
            return Aggregation.INCREASE
        case "histogram" | "timer":
            return Aggregation.P95
        case _:
            return Aggregation.LAST


class NoData(StrEnum):
    """
    What a rule makes of a missing value.

    ``keep``: an alert that is active stays so, and timers stand still; otherwise the rule is in NO_DATA.
    ``ok``: counts as healthy. ``alert``: counts as a breach.
    ``nodata``: an active alert ends with the reason ``no_data``, and the rule is in NO_DATA.
    """

    KEEP = "keep"
    OK = "ok"
    ALERT = "alert"
    NODATA = "nodata"


class Severity(StrEnum):
    """How much an alert matters."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


_E = TypeVar("_E", bound=StrEnum)


@dataclass(frozen=True, slots=True, repr=False)
class Rule:
    """
    What is watched, and when it is an alert.

    Args:
        name: Identity of the rule and of its alert; 1 to 200 printable characters.
        metric_name: The metric may be declared later; until then its value is missing.
        condition: An `AlertCondition` or its value, in any case.
        threshold: Finite, in the metric's unit.
        labels: Series that have all of these labels are added up; empty means all series.
        aggregation: ``None`` chooses by the metric's type; see `default_aggregation`.
        window_seconds: What the aggregation looks back on; 1 s to 30 days.
        for_seconds: How long a breach must last, uninterrupted and known, before it fires.
        keep_firing_for_seconds: How long health must last before the alert resolves.
        clear_threshold: An active alert ends only past this value, on the healthy side of *threshold*.
        cooldown_seconds: Least time between two fires. One that comes sooner is held back, and goes out when the
            time is over if the alert is still active.
        no_data: See `NoData`.
        severity: See `Severity`.
        runbook_url: ``http`` or ``https``; empty for none.

    Raises:
        AlertRuleError: A field cannot be used; ``rule_name``, ``field`` and ``fault`` say which and why.

    >>> Rule("high_error_rate", "result_failure_total", AlertCondition.GREATER_THAN, 50, aggregation="increase")
    Rule('high_error_rate': increase of result_failure_total in 300 s > 50)
    """

    name: str
    metric_name: str
    condition: AlertCondition | str
    threshold: float
    labels: Mapping[str, str] = field(default_factory=dict[str, str], hash=False)
    aggregation: Aggregation | str | None = None
    window_seconds: float = 300.0
    for_seconds: float = 0.0
    keep_firing_for_seconds: float = 0.0
    clear_threshold: float | None = None
    cooldown_seconds: float = 300.0
    no_data: NoData | str = NoData.KEEP
    severity: Severity | str = Severity.WARNING
    runbook_url: str = ""

    def __post_init__(self) -> None:
        given: dict[str, object] = {f.name: getattr(self, f.name) for f in fields(self)}
        check = _Checker(given["name"])
        checked: dict[str, object] = {
            "name": check.rule_name(),
            "metric_name": check.pattern("metric_name", given["metric_name"], _METRIC_NAME, "a metric's name"),
            "condition": (condition := check.choice("condition", given["condition"], AlertCondition)),
            "threshold": (threshold := check.number("threshold", given["threshold"])),
            "labels": check.labels(given["labels"]),
            "window_seconds": check.seconds("window_seconds", given["window_seconds"], 1.0),
            "no_data": check.choice("no_data", given["no_data"], NoData),
            "severity": check.choice("severity", given["severity"], Severity),
            # The page shows it as a link, so that another scheme could run there.
            "runbook_url": check.pattern("runbook_url", given["runbook_url"], _URL, "an http or https address"),
        }
        for name in ("for_seconds", "keep_firing_for_seconds", "cooldown_seconds"):
            checked[name] = check.seconds(name, given[name], 0.0)
        if given["aggregation"] is not None:
            checked["aggregation"] = check.choice("aggregation", given["aggregation"], Aggregation)
        if given["clear_threshold"] is not None:
            checked["clear_threshold"] = check.clear_threshold(given["clear_threshold"], condition, threshold)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def describe(self, aggregation: str | None = None) -> str:
        """Say in words what is compared; *aggregation* is what was used where the rule leaves it open."""
        chosen = self.aggregation or aggregation
        labels = ", ".join(f"{name}={value!r}" for name, value in sorted(self.labels.items()))
        series = self.metric_name + (f"{{{labels}}}" if labels else "")
        what = f"{chosen} of {series}" if chosen else series
        window = "" if chosen == Aggregation.LAST else f" in {self.window_seconds:g} s"
        by_type = "" if chosen else " by its type (counter: increase, histogram: p95, gauge: last)"
        return f"{what}{by_type}{window}"

    def breached(self, value: float, *, active: bool = False) -> bool:
        """Say whether *value* is in breach; an *active* alert is held against `clear_threshold` if there is one."""
        limit = self.clear_threshold if active and self.clear_threshold is not None else self.threshold
        return AlertCondition(self.condition).holds(value, limit)

    def to_dict(self) -> dict[str, object]:
        """Return the fields as plain JSON values; ``Rule(**rule.to_dict())`` is an equal rule."""
        return {name: value.value if isinstance(value, StrEnum) else value for name, value in asdict(self).items()}

    def __repr__(self) -> str:
        return f"Rule({self.name!r}: {self.describe()} {AlertCondition(self.condition).symbol} {self.threshold:g})"


class _Checker:
    """Checks the values of one rule, of which nothing is known yet, not even their types."""

    def __init__(self, rule_name: object) -> None:
        self._name = rule_name

    def refusal(self, field_name: str, fault: str) -> AlertRuleError:
        name = self._name if isinstance(self._name, str) else _shown(self._name)
        return AlertRuleError(name, field_name, fault)

    def rule_name(self) -> str:
        name = self._name
        if not (isinstance(name, str) and name.strip() and len(name) <= 200 and name.isprintable()):
            raise self.refusal("name", f"must be 1 to 200 printable characters, not {_shown(name)}")
        return name

    def pattern(self, field_name: str, value: object, pattern: re.Pattern[str], wanted: str) -> str:
        if not (isinstance(value, str) and pattern.match(value)):
            raise self.refusal(field_name, f"must be {wanted}, not {_shown(value)}")
        return value

    def choice(self, field_name: str, value: object, kind: type[_E]) -> _E:
        for member in kind:
            if isinstance(value, str) and value.lower() == member.value:
                return member
        raise self.refusal(field_name, f"must be one of {', '.join(kind)}, not {_shown(value)}")

    def number(self, field_name: str, value: object) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                number = float(value)
            except OverflowError:
                number = inf
            if isfinite(number):
                return number
        raise self.refusal(field_name, f"must be a finite number, not {_shown(value)}")

    def seconds(self, field_name: str, value: object, least: float) -> float:
        seconds = self.number(field_name, value)
        if not least <= seconds <= MAX_SECONDS:
            raise self.refusal(field_name, f"must be {least:g} to {MAX_SECONDS:.0f} seconds, not {_shown(value)}")
        return seconds

    def labels(self, value: object) -> dict[str, str]:
        """Return a copy: what the caller changes later is not this rule."""
        if not isinstance(value, Mapping):
            raise self.refusal("labels", f"must map names to values, not {_shown(value)}")
        labels: dict[str, str] = {}
        for name, content in cast("Mapping[object, object]", value).items():
            if not (isinstance(name, str) and _LABEL_NAME.match(name)):
                raise self.refusal("labels", f"{_shown(name)} is not a label's name")
            if not isinstance(content, str):
                raise self.refusal("labels", f"{name} must be text, not {_shown(content)}")
            labels[name] = content
        return labels

    def clear_threshold(self, value: object, condition: AlertCondition, threshold: float) -> float:
        clear = self.number("clear_threshold", value)
        if condition in _ABOVE:
            if clear > threshold:
                raise self.refusal("clear_threshold", f"must be at most the threshold {threshold:g}, not {clear:g}")
        elif condition in _BELOW:
            if clear < threshold:
                raise self.refusal("clear_threshold", f"must be at least the threshold {threshold:g}, not {clear:g}")
        else:
            raise self.refusal("clear_threshold", f"has no meaning for the condition {condition}")
        return clear


def _shown(value: object) -> str:
    """Show a refused value, cut; never runs a user's repr."""
    if value is None or isinstance(value, str | float | bool):
        return repr(value) if not isinstance(value, str) or len(value) <= 80 else f"{value[:80]!r}…"
    if isinstance(value, int):
        return str(value) if value.bit_length() <= 64 else "an integer of more than 64 bits"
    return type(value).__name__


# -------------------------------------------------------------------------------------------------- the state machine


class RuleStatus(StrEnum):
    """Where a rule stands. The first four are also the phases of an episode."""

    INACTIVE = "inactive"
    PENDING = "pending"
    FIRING = "firing"
    RECOVERING = "recovering"
    NO_DATA = "no_data"
    ERROR = "error"


class Sample(NamedTuple):
    """
    What one reading gave.

    ``value`` is ``None`` if nothing was measured, ``error`` a short reason if reading failed. ``aggregation`` is what
    was used, for rules that leave it open.
    """

    value: float | None
    error: str | None = None
    aggregation: str | None = None


class RuleState(Struct, frozen=True):
    """
    What a rule remembers from one second to the next. All times are monotonic seconds.

    ``phase`` is the episode's, ``status`` what is shown: it is ERROR or NO_DATA where the value is unknown and the
    rule does not say what that means. ``timer_from`` starts `for_seconds` or `keep_firing_for_seconds`; time in which
    the value is unknown moves it on, so that only known time counts.
    """

    status: RuleStatus = RuleStatus.INACTIVE
    phase: RuleStatus = RuleStatus.INACTIVE
    episode: int = 0
    started_at: float | None = None
    timer_from: float | None = None
    held_since: float | None = None  # the episode stands still from here, because the value is unknown
    unknown: Literal[RuleStatus.NO_DATA, RuleStatus.ERROR] | None = None  # None: the value is known
    fired_at: float | None = None  # of the last fire that went out, in whichever episode
    notified: bool = False  # this episode's fire has gone out
    value: float | None = None
    error: str | None = None
    aggregation: str | None = None
    evaluated_at: float | None = None

    @property
    def active(self) -> bool:
        """An alert stands, whether or not its fire was held back."""
        return self.phase in (RuleStatus.FIRING, RuleStatus.RECOVERING)


TransitionKind = Literal[
    "pending", "cleared", "fire", "suppressed", "recovering", "refiring", "resolve", "no_data", "error", "data"
]


class Transition(NamedTuple):
    """
    One thing that happened in a step. Only ``fire`` and ``resolve`` are told to callbacks.

    ``pending`` a breach began; ``cleared`` an episode ended of which nobody was told; ``suppressed`` the cooldown
    holds a fire back; ``recovering``, ``refiring`` health began to last, or did not; ``no_data``, ``error`` the value
    became unknown; ``data`` it is known again.
    """

    kind: TransitionKind
    reason: str


def step(rule: Rule, state: RuleState, sample: Sample, now: float) -> tuple[RuleState, tuple[Transition, ...]]:
    """
    Take one sample in, and return the next state and what happened.

    Pure: no clock, no I/O; the same arguments give the same answer.

    Args:
        rule: What is watched.
        state: What the last step returned; ``RuleState()`` at first.
        sample: NaN is a missing value, an infinite one an error.
        now: Monotonic seconds.

    >>> rule = Rule("slow", "wait_seconds", "greater_than", 5)
    >>> state, happened = step(rule, RuleState(), Sample(7.0), 0.0)
    >>> state.status.value, happened[0].kind
    ('firing', 'fire')
    """
    value, error = sample.value, sample.error
    if error is None and value is not None and not isfinite(value):
        error = None if isnan(value) else "the value is infinite"
        value = None
    data: Literal[RuleStatus.NO_DATA, RuleStatus.ERROR] | None = None
    if error is not None:
        value, data = None, RuleStatus.ERROR
    elif value is None:
        data = RuleStatus.NO_DATA
    happened: list[Transition] = []
    if data is not state.unknown:
        # Said once, whatever the rule makes of it.
        kind: TransitionKind = "data" if data is None else "error" if data is RuleStatus.ERROR else "no_data"
        happened.append(Transition(kind, error or ""))
    new = replace(
        state,
        value=value,
        error=error,
        unknown=data,
        aggregation=sample.aggregation or state.aggregation,
        evaluated_at=now,
    )
    if data is RuleStatus.ERROR or (data is RuleStatus.NO_DATA and rule.no_data == NoData.KEEP):
        if state.held_since is None:
            new = replace(new, held_since=now)
    else:
        if state.held_since is not None:
            timer_from = None if state.timer_from is None else state.timer_from + (now - state.held_since)
            new = replace(new, held_since=None, timer_from=timer_from)
        new, more = _judge(rule, new, now)
        happened += more

    if new.phase is RuleStatus.FIRING and not new.notified:
        # Also while the value is unknown: a fire that was held back must not be lost to a reader that fails.
        if new.fired_at is None or _over(new.fired_at, rule.cooldown_seconds, now):
            reason = "cooldown_over" if state.phase is RuleStatus.FIRING else _breach_reason(new)
            new = replace(new, notified=True, fired_at=now)
            happened.append(Transition("fire", reason))
        elif not state.active:
            happened.append(Transition("suppressed", "cooldown"))
    status = _status(rule, new)
    return new if new.status is status else replace(new, status=status), tuple(happened)


def _judge(rule: Rule, state: RuleState, now: float) -> tuple[RuleState, list[Transition]]:
    """Move the episode on for a value that is known, or that the rule has an opinion on when it is missing."""
    if state.unknown is not None and rule.no_data == NoData.NODATA:
        return end_episode(state, "no_data")
    value = state.value
    breached = rule.no_data == NoData.ALERT if value is None else rule.breached(value, active=state.active)

    match state.phase:
        case RuleStatus.INACTIVE if breached:
            began = replace(state, episode=state.episode + 1, started_at=now, notified=False)
            if rule.for_seconds > 0:
                began = replace(began, phase=RuleStatus.PENDING, timer_from=now)
                return began, [Transition("pending", _breach_reason(state))]
            return replace(began, phase=RuleStatus.FIRING), []
        case RuleStatus.PENDING if not breached:
            return end_episode(state, _health_reason(state))
        case RuleStatus.PENDING if _over(state.timer_from, rule.for_seconds, now):
            return replace(state, phase=RuleStatus.FIRING, timer_from=None), []
        case RuleStatus.FIRING if not breached:
            if rule.keep_firing_for_seconds > 0:
                recovering = replace(state, phase=RuleStatus.RECOVERING, timer_from=now)
                return recovering, [Transition("recovering", _health_reason(state))]
            return end_episode(state, _health_reason(state))
        case RuleStatus.RECOVERING if breached:
            return replace(state, phase=RuleStatus.FIRING, timer_from=None), [
                Transition("refiring", _breach_reason(state))
            ]
        case RuleStatus.RECOVERING if _over(state.timer_from, rule.keep_firing_for_seconds, now):
            return end_episode(state, _health_reason(state))
        case _:
            return state, []


def end_episode(state: RuleState, reason: str) -> tuple[RuleState, list[Transition]]:
    """End the episode, if there is one: a resolve if its fire went out, else a clearing that nobody is told of."""
    if state.phase is RuleStatus.INACTIVE:
        return state, []
    kind: TransitionKind = "resolve" if state.notified else "cleared"
    ended = replace(
        state,
        status=RuleStatus.INACTIVE,
        phase=RuleStatus.INACTIVE,
        started_at=None,
        timer_from=None,
        held_since=None,
        notified=False,
    )
    return ended, [Transition(kind, reason)]


def _status(rule: Rule, state: RuleState) -> RuleStatus:
    if state.unknown is RuleStatus.ERROR:
        return RuleStatus.ERROR
    if state.unknown is None or rule.no_data in (NoData.OK, NoData.ALERT) or state.active:
        return state.phase
    return RuleStatus.NO_DATA


def _over(since: float | None, seconds: float, now: float) -> bool:
    return since is not None and now - since >= seconds - _CLOCK_GRAIN_SECONDS


def _breach_reason(state: RuleState) -> str:
    return "no_data" if state.value is None else "threshold"


def _health_reason(state: RuleState) -> str:
    return "no_data" if state.value is None else "recovered"


# --------------------------------------------------------------------------------------------------- what is told


AlertEvent = TransitionKind | Literal["updated", "removed"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Alert(Mapping[str, object]):
    """
    One thing that happened to a rule: what callbacks get, and what the history keeps.

    Reads like a dict (``alert["metric_name"]``, ``alert.get("labels")``, ``dict(alert)``), holds plain JSON values
    only, and has attributes of the same names. Immutable, so that no callback can change what another one reads.

    ``status`` is ``firing`` in a fire and ``resolved`` in a resolve; in the history also the rule's other statuses.
    ``event`` and ``reason`` say what happened and why. ``timestamp`` is when, in UTC; ``started_at`` is when the
    breach began. ``current_value`` is ``None`` where the value is unknown. Not in the mapping: ``at`` and
    ``fired_at``, the same as `datetime`; ``fired_at`` is when this episode's fire went out, else ``None``.
    """

    rule: Rule
    event: AlertEvent
    reason: str
    status: str
    current_value: float | None
    aggregation: str | None
    episode: int
    notified: bool
    at: datetime
    started: datetime | None
    fired_at: datetime | None

    @property
    def rule_name(self) -> str:
        """The rule's name."""
        return self.rule.name

    @property
    def metric_name(self) -> str:
        """What is watched."""
        return self.rule.metric_name

    @property
    def condition(self) -> str:
        """The `AlertCondition`'s value."""
        return AlertCondition(self.rule.condition).value

    @property
    def threshold(self) -> float:
        """In the metric's unit."""
        return self.rule.threshold

    @property
    def labels(self) -> dict[str, str]:
        """The rule's labels, a copy."""
        return dict(self.rule.labels)

    @property
    def window_seconds(self) -> float:
        """What the aggregation looks back on."""
        return self.rule.window_seconds

    @property
    def severity(self) -> str:
        """The `Severity`'s value."""
        return Severity(self.rule.severity).value

    @property
    def runbook_url(self) -> str:
        """What to do, or empty."""
        return self.rule.runbook_url

    @property
    def timestamp(self) -> str:
        """`at` as ISO 8601 in UTC."""
        return _iso(self.at)

    @property
    def started_at(self) -> str | None:
        """When the breach began, as ISO 8601 in UTC."""
        return None if self.started is None else _iso(self.started)

    @property
    def message(self) -> str:
        """The alert in one sentence."""
        what = self.rule.describe(self.aggregation)
        limit = f"{AlertCondition(self.rule.condition).symbol} {self.threshold:g}"
        value = "unknown" if self.current_value is None else f"{self.current_value:g}"
        told = {"fire": "fires", "resolve": "is resolved"}.get(self.event, self.event)
        because = f" ({self.reason})" if self.reason else ""
        return f"alert {self.rule_name!r} {told}{because}: {what} is {value}, the rule is {limit}"

    def to_dict(self) -> dict[str, object]:
        """Return the mapping as a dict, for encoders that take no other."""
        return dict(self)

    def __getitem__(self, key: str) -> object:
        if key in _ALERT_KEYS:
            value: object = getattr(self, key)
            return value
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(_ALERT_KEYS)

    def __len__(self) -> int:
        return len(_ALERT_KEYS)

    def __repr__(self) -> str:
        return f"Alert({self.message})"


_ALERT_KEYS: Final = (
    "rule_name",
    "metric_name",
    "current_value",
    "threshold",
    "condition",
    "status",
    "severity",
    "labels",
    "timestamp",
    "started_at",
    "event",
    "reason",
    "message",
    "aggregation",
    "window_seconds",
    "episode",
    "notified",
    "runbook_url",
)


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


Callback = Callable[[Alert], object]
"""A function or coroutine function of one `Alert`; an awaitable that a plain function returns is awaited too."""


class Clock(Protocol):
    """The manager's two clocks."""

    def time_ns(self) -> int:
        """The wall clock, in nanoseconds since the epoch; dates what happened."""
        ...

    def monotonic(self) -> float:
        """A clock that never goes back, in seconds; times what lasts."""
        ...


class _Entry(Struct, eq=False):
    """A rule with all that belongs to it. Guarded by the manager's lock, the mailbox by the courier's."""

    rule: Rule
    callback: Callback | None
    mailbox: Mailbox
    state: RuleState = RuleState()
    fired_at: datetime | None = None
    uneventful: Sample | None = None  # what changes nothing but the time of the evaluation, if it is read again


class AlertManager:
    """
    Watches rules and tells callbacks.

    Args:
        read: Reads the value that a rule watches. Called by `evaluate` alone, on its thread.
        clock: ``time_ns()`` dates what happened, ``monotonic()`` is used where `evaluate` is given no time.
        on_internal_error: Gets ``(where, error)`` for whatever failed or was dropped, ``where`` being one of
            ``alerts.read``, ``alerts.on_event``, ``alerts.callback``, ``alerts.timeout``, ``alerts.dropped``,
            ``alerts.worker``. Must not raise; if it does, that is counted in `books`.
        on_event: Gets every `Alert` of the history, on the thread on which it happened.
        callback_timeout_seconds: Real time that one callback is given.
        breaker_seconds: How long a callback is left alone after three time-outs in a row. The newest state is then
            told, not all that happened between.
        history_size: Alerts that `history` keeps.

    Safe from any thread, and from a callback. Callbacks of one rule run one at a time and in order; those of
    different rules do not wait for one another, except that 32 sync ones run at one time. Sync ones run in threads, async ones in one event loop that stays the same while it answers, so that they can keep clients.
    After a fork the child keeps the rules, and starts their states, history and thread anew.
    """

    def __init__(
        self,
        read: Callable[[Rule], Sample],
        clock: Clock,
        on_internal_error: Callable[[str, BaseException], None],
        on_event: Callable[[Alert], None],
        *,
        callback_timeout_seconds: float = 10.0,
        breaker_seconds: float = 300.0,
        history_size: int = 1000,
    ) -> None:
        self._read = read
        self._clock = clock
        self._on_internal_error = on_internal_error
        self._on_event = on_event
        self._callback_timeout_seconds = callback_timeout_seconds
        self._breaker_seconds = breaker_seconds
        self._hook_errors = 0
        self._inherited: Courier | None = None
        self._entries: dict[str, _Entry] = {}
        self._history: deque[Alert] = deque(maxlen=history_size)
        self._begin()

    def _begin(self) -> None:
        """Set up all that belongs to one process."""
        self._pid = os.getpid()
        # Reentrant, because a signal handler may declare a rule while its own thread holds it.
        self._lock = threading.RLock()
        self._evaluating = threading.Lock()
        # A rule that is removed and made again finds its old mailbox while there is mail in it: the order is kept.
        self._mailboxes = WeakValueDictionary[str, Mailbox]()
        self._courier = Courier(self._internal_error, self._callback_timeout_seconds, self._breaker_seconds)
        self._now, self._wall = 0.0, 0  # of the last evaluation
        self._evaluated_at: float | None = None

    def _enter(self) -> None:
        """Start anew in a forked child; its parent's threads, and any hold on the lock, stayed behind."""
        if os.getpid() != self._pid:
            # Kept: to collect the loop would unregister its descriptors, which the parent still uses.
            self._inherited = self._courier
            self._begin()
            self._history.clear()
            for name, entry in self._entries.items():
                mailbox = self._mailboxes[name] = Mailbox()
                self._entries[name] = _Entry(entry.rule, entry.callback, mailbox)

    # ---------------------------------------------------------------------------------------------------- declaring

    def set_rule(self, rule: Rule, callback: Callback | None = None) -> Literal["created", "unchanged", "updated"]:
        """
        Declare *rule*, known by its name.

        An equal rule changes nothing but the callback; that a new lambda is another object does not matter. A rule
        that differs is an update: told to ``on_event`` with the old and the new values, and a pending timer starts
        again. An active alert stays if the same thing is still measured, and else ends with the reason ``updated``.
        A known rule that comes without a callback keeps the one it has.

        Raises:
            AlertRuleError: *callback* cannot be called, or there are `MAX_RULES` already.
        """
        self._enter()
        if callback is not None and not callable(callback):
            raise AlertRuleError(rule.name, "callback", f"must be callable or None, not {type(callback).__name__}")
        with self._lock:
            entry = self._entries.get(rule.name)
            if entry is None:
                if len(self._entries) >= MAX_RULES:
                    raise AlertRuleError(rule.name, "name", f"there are {MAX_RULES} rules, more there cannot be")
                mailbox = self._mailboxes.setdefault(rule.name, Mailbox())
                state = RuleState(episode=mailbox.newest_episode)
                self._entries[rule.name] = _Entry(rule, callback, mailbox, state)
                return "created"
            if entry.rule == rule:
                entry.callback = callback or entry.callback
                return "unchanged"
            old, now = entry.rule, self._now
            alerts: list[Alert] = []
            same_measure = all(getattr(old, name) == getattr(rule, name) for name in _MEASURE)
            if not (entry.state.active and same_measure):
                alerts = self._end(entry, "updated", now)
            changes = "; ".join(
                f"{f.name}: {_plain(getattr(old, f.name))} → {_plain(getattr(rule, f.name))}"
                for f in fields(Rule)
                if getattr(old, f.name) != getattr(rule, f.name)
            )
            entry.rule, entry.callback, entry.uneventful = rule, callback or entry.callback, None
            alerts.append(self._alert(entry, "updated", changes, self._clock.time_ns(), now))
            self._history.extend(alerts)
        self._tell(alerts)
        self._courier.pump(now)
        return "updated"

    def remove_rule(self, name: str) -> bool:
        """Stop watching; an alert that fired is resolved with the reason ``removed``. False if there is no such rule."""
        self._enter()
        with self._lock:
            entry = self._entries.pop(name, None)
            if entry is None:
                return False
            now = self._now
            alerts = self._end(entry, "removed", now)
            alerts.append(self._alert(entry, "removed", "", self._clock.time_ns(), now))
            self._history.extend(alerts)
        self._tell(alerts)
        self._courier.pump(now)
        return True

    def _end(self, entry: _Entry, reason: str, now: float) -> list[Alert]:
        before = entry.state
        entry.state, happened = end_episode(before, reason)
        return self._post(entry, before, happened, self._clock.time_ns(), now)

    # ---------------------------------------------------------------------------------------------------- asking

    @property
    def rule_count(self) -> int:
        """How many rules there are."""
        return len(self._entries)

    def rules(self) -> list[Rule]:
        """Return the rules in the order of their declaration."""
        self._enter()
        with self._lock:
            return [entry.rule for entry in self._entries.values()]

    def states(self) -> dict[str, RuleState]:
        """Return where each rule stands, by name."""
        self._enter()
        with self._lock:
            return {name: entry.state for name, entry in self._entries.items()}

    def active(self) -> list[Alert]:
        """
        Return the alerts that stand now, one per rule that is firing or recovering.

        Of several processes in a directory one evaluates the rules; `Monitor.standing_alerts` is the same in all of them.
        Their `current_value` is the latest; `timestamp` is when the rule was last evaluated, `notified` is false
        while the cooldown holds the fire back.
        """
        self._enter()
        with self._lock:
            return [
                self._alert(entry, "fire", "", self._wall, self._now)
                for entry in self._entries.values()
                if entry.state.active
            ]

    def history(self) -> list[Alert]:
        """Return what happened, newest first, as far as it is kept."""
        self._enter()
        with self._lock:
            return list(reversed(self._history))

    def books(self) -> dict[str, int]:
        """
        Return the counts of messages to callbacks since the start of this process.

        ``produced = delivered + failed + timed_out + superseded + dropped + waiting``. Superseded are a fire and its
        resolve that met before the callback could be told of either, and the resolve of a fire that it never got.
        ``abandoned`` callbacks were given up and still run; ``hook_errors`` counts `on_internal_error` raising.
        """
        self._enter()
        return {**self._courier.books(), "hook_errors": self._hook_errors}

    def evaluation_age_seconds(self) -> float | None:
        """Return how long ago an evaluation ended, or ``None`` before the first: the sign that alerting is alive."""
        self._enter()
        at = self._evaluated_at
        return None if at is None else max(0.0, self._clock.monotonic() - at)

    # ---------------------------------------------------------------------------------------------------- evaluating

    def evaluate(self, now: float | None = None) -> None:
        """
        Take a sample of every rule, and hand on what happened.

        Args:
            now: Monotonic seconds; by default the clock's.

        Never raises and never waits for a callback. While one evaluation runs, another call returns at once.
        """
        self._enter()
        if not self._evaluating.acquire(blocking=False):
            return
        try:
            now = self._clock.monotonic() if now is None else now
            wall = self._clock.time_ns()
            with self._lock:
                self._now, self._wall = now, wall
                entries = list(self._entries.values())
            for entry in entries:
                self._evaluate_one(entry, now, wall)
            self._courier.pump(now)
            self._evaluated_at = self._clock.monotonic()
        finally:
            self._evaluating.release()

    def flush(self, timeout_seconds: float = 2.0) -> bool:
        """
        Wait until no callback is at work or about to be; say whether that came in time.

        Mail that waits for a breaker, or behind a callback that hangs, is not waited for. A callback that calls this
        waits for itself, and so in vain.
        """
        self._enter()
        return self._courier.flush(timeout_seconds)

    def close(self, timeout_seconds: float = 2.0) -> bool:
        """
        Stop the thread; say whether it stopped in time.

        Callbacks at work have three quarters of the time to end; then they are cancelled, and what is left is dropped
        and counted. Rules and states stay, and the next message starts a new thread. Closing twice does no harm. A
        coroutine callback that calls this is not waited for: the thread ends after it.
        """
        self._enter()
        return self._courier.close(timeout_seconds)

    def _evaluate_one(self, entry: _Entry, now: float, wall: int) -> None:
        rule = entry.rule
        try:
            sample = self._read(rule)
            value = sample.value
            if value is not None and type(value) is not float:
                sample = sample._replace(value=float(value))
        except Exception as error:  # noqa: BLE001 - whatever fails is the rule's state ERROR, and counted
            # The type alone: an exception's text may hold what must not be shown.
            sample = Sample(None, type(error).__name__)
            self._internal_error("alerts.read", error)
        with self._lock:
            if entry.rule is not rule or self._entries.get(rule.name) is not entry:
                return  # changed or removed meanwhile: the sample is of another rule
            before = entry.state
            if sample == entry.uneventful:
                entry.state = replace(before, evaluated_at=now)
                return
            entry.state, happened = step(rule, before, sample, now)
            is_idle = entry.state.phase is RuleStatus.INACTIVE and entry.state.held_since is None  # no timer runs
            entry.uneventful = sample if is_idle and not happened else None
            if not happened:
                return
            alerts = self._post(entry, before, happened, wall, now)
            self._history.extend(alerts)
        self._tell(alerts)

    def _post(
        self,
        entry: _Entry,
        before: RuleState,
        happened: tuple[Transition, ...] | list[Transition],
        wall: int,
        now: float,
    ) -> list[Alert]:
        """Make the alerts of what happened, and put those that are for the callback into its mailbox."""
        alerts: list[Alert] = []
        for kind, reason in happened:
            if kind == "fire":
                entry.fired_at = _moment(wall)
            alert = self._alert(entry, kind, reason, wall, now, before if kind in {"resolve", "cleared"} else None)
            alerts.append(alert)
            if kind in {"fire", "resolve"} and entry.callback is not None:
                self._courier.put(entry.mailbox, Message(alert, entry.callback))
        return alerts

    def _alert(
        self,
        entry: _Entry,
        event: AlertEvent,
        reason: str,
        wall: int,
        now: float,
        ended: RuleState | None = None,
    ) -> Alert:
        state = entry.state
        episode = ended or state
        status = {"fire": state.phase.value, "resolve": "resolved"}.get(event, state.status.value)
        started = episode.started_at
        return Alert(
            rule=entry.rule,
            event=event,
            reason=reason,
            status=status,
            current_value=state.value,
            aggregation=entry.rule.aggregation or state.aggregation,
            episode=state.episode,
            notified=episode.notified,
            at=_moment(wall),
            started=None if started is None else _moment(wall - round((now - started) * 1e9)),
            fired_at=entry.fired_at if episode.notified else None,
        )

    def _tell(self, alerts: list[Alert]) -> None:
        for alert in alerts:
            try:
                self._on_event(alert)
            except Exception as error:  # noqa: BLE001 - a listener cannot stop an evaluation; counted
                self._internal_error("alerts.on_event", error)

    def _internal_error(self, where: str, error: BaseException) -> None:
        try:
            self._on_internal_error(where, error)
        except Exception:  # noqa: BLE001 - there is nobody left to tell; counted
            with self._lock:
                self._hook_errors += 1


_MEASURE: Final = ("metric_name", "condition", "labels", "aggregation", "window_seconds")


def _plain(value: object) -> str:
    return value.value if isinstance(value, StrEnum) else str(value)


def _moment(nanoseconds: int) -> datetime:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC)
