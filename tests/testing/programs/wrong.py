"""
Asks each assertion of the toolkit for what is not so, and prints as JSON what each says, and what pytest would show of its code. To
be run by ``python -O``.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from rfs.core.result import Failure, Result, Success
from rfs.monitoring import AlertCondition, Monitor, collect_metric, create_alert_rule, info, log_result_operation
from rfs.reactive import FluxResult, MonoResult
from rfs.testing import blocking, faults, generators, load, performance, replay, result_helpers, steps
from rfs.testing._snapshots import Snapshots
from rfs.testing._telemetry import Telemetry

FLUX: FluxResult[int, str] = FluxResult.from_values([1])
MONO: MonoResult[int, Any] = MonoResult.from_value(1)
KEPT: list[bytes] = []
# However quick the machine is, a measurement that may not take any time cannot tell; strict, it fails at once.
AT_ONCE: dict[str, Any] = {"max_seconds": 0.0, "strict": True}


@log_result_operation("kitchen.cook")
def cook() -> Result[str, str]:
    info("Cooking", note="open-sesame")
    return Failure("OUT_OF_RICE")


def work(_: object = None) -> int:
    return sum(range(1000))


def asked(name: str, *arguments: Any, **expected: Any) -> Callable[[], object]:
    """Ask the telemetry of a test, in which an operation has failed and an alert fires, for something."""

    def ask() -> None:
        with Telemetry(snapshots=Snapshots().of(Path(__file__), "wrong.py::test")) as telemetry:
            create_alert_rule("queue", "waiting", AlertCondition.GREATER_THAN, 20)
            collect_metric("waiting", 30)
            telemetry.advance(2)
            cook()
            getattr(telemetry, name)(*arguments, **expected)

    return ask


def new_series() -> None:
    with Telemetry() as telemetry, telemetry.no_new_series():
        collect_metric("waiting", 30)


def mock(*calls: tuple[Any, ...]) -> result_helpers.ResultServiceMocker:
    """A mock that was called so."""
    made = result_helpers.ResultServiceMocker("orders", "find").return_success(1)
    for arguments in calls:
        made.answer(arguments, {}, None)
    return made


def blocked(watch: Callable[[], Any]) -> Callable[[], object]:
    async def rude() -> None:
        with watch():
            await asyncio.sleep(0)
            time.sleep(0.2)  # noqa: ASYNC251 - the fault

    return rude


def loop_watch_of_telemetry() -> Any:
    return Telemetry().no_blocked_loop(0.05)


def too_slow() -> None:
    result_helpers.performance_test(max_duration_ms=0)(work)()


async def tracked() -> None:
    async with result_helpers.result_test_context(performance_tracking=True) as context:
        measured = {"duration_ms": 11, "max_duration_ms": 10, "is_within_limit": False}
        context.performance_data = [measured]


class WrongChain(generators.ChainProgram):
    """A chain that does not do what its model does."""

    def build(self, calls: list[str]) -> MonoResult[Any, Any]:
        return super().build(calls).map(lambda value: value + 1)


WRONG: dict[str, Callable[[], object]] = {
    "result_helpers.assert_result_success": lambda: result_helpers.assert_result_success(Failure("x")),
    "result_helpers.assert_result_failure": lambda: result_helpers.assert_result_failure(Success(1)),
    "result_helpers.assert_result_value": lambda: result_helpers.assert_result_value(Success(1), 2),
    "result_helpers.assert_result_error": lambda: result_helpers.assert_result_error(Failure("x"), "y"),
    "result_helpers.assert_mono_result_success": lambda: result_helpers.assert_mono_result_success(MONO, str),
    "result_helpers.assert_mono_result_failure": lambda: result_helpers.assert_mono_result_failure(MONO),
    "result_helpers.assert_mono_result_value": lambda: result_helpers.assert_mono_result_value(MONO, 2),
    "result_helpers.assert_mono_result_error": lambda: result_helpers.assert_mono_result_error(MONO, "x"),
    "result_helpers.assert_mono_result_timeout": lambda: result_helpers.assert_mono_result_timeout(MONO, 1),
    "result_helpers.assert_flux_result_stats": lambda: result_helpers.assert_flux_result_stats(FLUX, 2, 2),
    "result_helpers.assert_flux_success_count": lambda: result_helpers.assert_flux_success_count(FLUX, 2),
    "result_helpers.assert_flux_failure_count": lambda: result_helpers.assert_flux_failure_count(FLUX, 2),
    "result_helpers.assert_flux_total_count": lambda: result_helpers.assert_flux_total_count(FLUX, 2),
    "result_helpers.assert_flux_success_rate": lambda: result_helpers.assert_flux_success_rate(FLUX, 0.5),
    "result_helpers.assert_flux_success_values": lambda: result_helpers.assert_flux_success_values(FLUX, [2]),
    "result_helpers.ResultServiceMocker.assert_called": lambda: mock().assert_called(),
    "result_helpers.ResultServiceMocker.assert_not_called": lambda: mock(()).assert_not_called(),
    "result_helpers.ResultServiceMocker.assert_called_once": lambda: mock((), ()).assert_called_once(),
    "result_helpers.ResultServiceMocker.assert_called_with": lambda: mock((1,)).assert_called_with(2),
    "result_helpers.ResultServiceMocker.assert_called_once_with": lambda: mock((1,)).assert_called_once_with(2),
    "result_helpers.ResultTestContext.assert_service_called": lambda: result_helpers.ResultTestContext(
        Monitor(), ExitStack(), False
    ).assert_service_called("orders.find"),
    "result_helpers.performance_test": too_slow,
    "result_helpers.result_test_context": tracked,
    "_telemetry.Telemetry.assert_record": asked("assert_record", message="Eating"),
    "_telemetry.Telemetry.assert_records": asked("assert_records", {"message": "Eating"}),
    "_telemetry.Telemetry.assert_no_record": asked("assert_no_record", message="Cooking"),
    "_telemetry.Telemetry.assert_span": asked("assert_span", operation="kitchen.eat"),
    "_telemetry.Telemetry.assert_no_span": asked("assert_no_span", operation="kitchen.cook"),
    "_telemetry.Telemetry.assert_metric": asked("assert_metric", "waiting", 31),
    "_telemetry.Telemetry.assert_alert": asked("assert_alert", "rice"),
    "_telemetry.Telemetry.assert_no_alert": asked("assert_no_alert"),
    "_telemetry.Telemetry.assert_health": asked("assert_health", status="degraded"),
    "_telemetry.Telemetry.assert_snapshot": asked("assert_snapshot", "nothing"),
    "_telemetry.Telemetry.assert_no_secret": asked("assert_no_secret", "open-sesame"),
    "_telemetry.Telemetry.assert_no_unhandled_failure": asked("assert_no_unhandled_failure"),
    "_telemetry.Telemetry.no_new_series": new_series,
    "_telemetry.Telemetry.no_blocked_loop": blocked(loop_watch_of_telemetry),
    "blocking.assert_loop_not_blocked": blocked(partial(blocking.assert_loop_not_blocked, at_most_seconds=0.05)),
    "faults.in_fork": lambda: faults.in_fork(lambda: 1 // 0),
    "generators.ChainProgram.check": lambda: WrongChain(("value", 1)).check(),
    "load.assert_load": lambda: load.assert_load(load.LoadReport(rate=1), at_least_per_second=1),
    "performance.assert_latency": lambda: performance.assert_latency(work, at_most_seconds=1e-12, **AT_ONCE),
    "performance.assert_throughput": lambda: performance.assert_throughput(work, at_least_per_second=1e12, **AT_ONCE),
    "performance.assert_not_slower": lambda: performance.assert_not_slower(work, work, by=-0.9, **AT_ONCE),
    "performance.assert_baseline": lambda: performance.assert_baseline(work, "work", "nowhere.json"),
    "performance.assert_growth": lambda: performance.assert_growth(work, at_most="1", sizes=(1, 2, 3, 4), **AT_ONCE),
    "performance.assert_peak_memory": lambda: performance.assert_peak_memory(lambda: bytes(9999), at_most_bytes=9),
    "performance.assert_no_leak": lambda: performance.assert_no_leak(lambda: KEPT.append(bytes(999)), calls=20),
    "performance.PerformanceTestHelper.assert_performance": lambda: (
        performance.PerformanceTestHelper().assert_performance(
            {"is_within_limit": False, "duration_ms": 11.0, "max_duration_ms": 10, "success": True, "error": None}
        )
    ),
    "replay.assert_reproduces": lambda: replay.assert_reproduces(cook, operation="kitchen.cook", step="", code="X"),
    "steps.StepVerifier.verify_complete": lambda: steps.StepVerifier(MONO).expect_value(2).verify_complete(),
}
"""By the name of an assertion below `rfs.testing`, what it must fail."""


def seen(error: BaseException) -> list[str]:
    """The functions of RFS in the traceback that pytest shows, for they do not hide themselves."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return [
        f"{frame.f_globals['__name__']}.{frame.f_code.co_name}"
        for frame in frames
        if frame.f_globals["__name__"].startswith("rfs.") and frame.f_locals.get("__tracebackhide__") is not True
    ]


def main() -> None:
    if __debug__:
        raise SystemExit("run this with -O")
    told: dict[str, tuple[str, list[str]]] = {}
    for name, ask in WRONG.items():
        try:
            answer: Any = ask()
            if asyncio.iscoroutine(answer):
                asyncio.run(answer)
        except AssertionError as error:
            told[name] = str(error), seen(error)
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()
