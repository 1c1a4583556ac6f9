"""
Where the logged steps of a chain go.

This package records nothing. It declares what a recorder must answer to, and
``rfs.monitoring.result_logging`` fills the place: it is loaded when the first
logged step of the process runs (or the first callback of a ``tap`` fails), and
not before. A chain that logs nothing never comes here.

A recorder that raises changes no Result: it is told so by ``internal_error``,
and what it cannot take even then is counted in `unreported`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Literal, NamedTuple, Protocol

__all__ = ["StepEvent", "StepObserver", "set_step_observer", "step_observer"]


class StepEvent(NamedTuple):
    """What one ``log_step``, ``log_error`` or ``log_performance`` has to say."""

    kind: Literal["step", "error", "performance"]
    chain: str  # the chain's name, "" if it has none
    step: str
    # The position in the chain: mono.steps[index] is the entry itself. (It hides a method that no tuple of parts needs.)
    index: int  # type: ignore[assignment]  # pyright: ignore[reportIncompatibleMethodOverride]
    outcome: Literal["ok", "failed", "skipped", "recovered"]
    message: str  # "" if none
    details: Mapping[str, object] | None
    duration_seconds: float  # step: since the previous logged step; error, performance: since the chain's start
    value: object  # the success value; a recorder takes only the type and size of built-ins
    error: object  # the failure's error, or None
    is_defect: bool
    level: int | None  # the stdlib's numeric level, None if not asked for
    started_at_ns: int  # UTC, nanoseconds since 1970, when the described part started


class StepObserver(Protocol):
    """What a recorder of steps must answer to, from any thread, without waiting."""

    def step(self, event: StepEvent) -> None:
        """Record *event*."""
        ...

    def internal_error(self, where: str, error: BaseException) -> None:
        """Count an error that must not reach the host; *where* is one of few fixed words."""
        ...


class _Silent:
    """Stands in where the recording half of RFS cannot be loaded."""

    def step(self, event: StepEvent) -> None:
        """Forget *event*."""

    def internal_error(self, where: str, error: BaseException) -> None:  # noqa: ARG002 - see StepObserver
        """Count it in `unreported`, since nobody else can."""
        global unreported  # noqa: PLW0603 - see unreported
        unreported += 1


RECORDER = "rfs.monitoring.result_logging"

_observer: StepObserver | None = None
monotonic: Callable[[], float] = time.perf_counter
wall_clock_ns: Callable[[], int] = time.time_ns


def _always(level: int) -> bool:  # noqa: ARG001 - every level alike
    return True


enabled: Callable[[int], bool] = _always

unreported = 0
"""Errors of observers and taps that no recorder could be told of, in this process."""


def set_step_observer(
    observer: StepObserver | None,
    *,
    is_enabled: Callable[[int], bool] = _always,
    monotonic_clock: Callable[[], float] = time.perf_counter,
    utc_clock_ns: Callable[[], int] = time.time_ns,
) -> StepObserver | None:
    """
    Send the logged steps of all chains of this process to *observer*.

    Args:
        observer: ``None`` makes the next logged step load the recorder again.
        is_enabled: Whether something of a stdlib level is worth telling at all; asked before an event is made.
        monotonic_clock: Seconds; durations are differences of it.
        utc_clock_ns: Nanoseconds since 1970.

    Returns the previous observer, for a test to put back.

    """
    global _observer, enabled, monotonic, wall_clock_ns
    previous, _observer = _observer, observer
    enabled, monotonic, wall_clock_ns = is_enabled, monotonic_clock, utc_clock_ns
    return previous


def step_observer() -> StepObserver:
    """Return the observer; the first call loads ``rfs.monitoring.result_logging``, which sets itself."""
    global unreported  # noqa: PLW0603 - see unreported
    if _observer is None:
        try:
            import_module(RECORDER)
        except Exception:  # noqa: BLE001 - whatever is broken there, the chain goes on
            set_step_observer(_Silent())
            unreported += 1
    return _observer or _Silent()


def report(where: str, error: BaseException) -> None:
    """Have an error counted that must not change a Result."""
    global unreported  # noqa: PLW0603 - see unreported
    try:
        step_observer().internal_error(where, error)
    except Exception:  # noqa: BLE001 - nobody is left to tell; the number can be seen
        unreported += 1
