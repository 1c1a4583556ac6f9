"""Every assertion of the toolkit fails where it must, with a message, whatever Python leaves out."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rfs import testing
from rfs.core.result import Success
from rfs.errors import MockError
from rfs.testing import result_helpers
from tests.faults.processes import FAR_SECONDS, ROOT, environment
from tests.testing.programs.wrong import WRONG, seen

# How the message of each begins, or where it does not begin alike each time, what it must match.
MESSAGES = {
    "result_helpers.assert_result_success": r"expected a Success, got Failure\('x'\)",
    "result_helpers.assert_result_failure": r"expected a Failure, got Success\(1\)",
    "result_helpers.assert_result_value": "the value is not as expected:\n    value: expected 2, got 1",
    "result_helpers.assert_result_error": "the error is not as expected:\n    value: expected 'y', got 'x'",
    "result_helpers.assert_mono_result_success": "expected a Success of str, got one of int",
    "result_helpers.assert_mono_result_failure": r"expected a Failure, got Success\(1\)",
    "result_helpers.assert_mono_result_value": "the value is not as expected:\n    value: expected 2, got 1",
    "result_helpers.assert_mono_result_error": r"expected a Failure, got Success\(1\)",
    "result_helpers.assert_mono_result_timeout": r"expected a time limit of 1 s, but after .* it was Success\(1\)",
    "result_helpers.assert_flux_result_stats": "expected 2 successes and 2 failures, got 1 successes and 0 failures",
    "result_helpers.assert_flux_success_count": "expected 2 successes, got 1 successes and 0 failures",
    "result_helpers.assert_flux_failure_count": "expected 2 failures, got 1 successes and 0 failures",
    "result_helpers.assert_flux_total_count": "expected 2 results, got 1 successes and 0 failures",
    "result_helpers.assert_flux_success_rate": "expected a success rate of 0.5 ± 0.01, got 1",
    "result_helpers.assert_flux_success_values": r"the values are not as expected:\n    \[0\]: expected 2, got 1",
    "result_helpers.ResultServiceMocker.assert_called": "expected orders.find to be called; it was not",
    "result_helpers.ResultServiceMocker.assert_not_called": "expected orders.find not to be called; it was called once",
    "result_helpers.ResultServiceMocker.assert_called_once": "expected orders.find to be called once; it was called 2",
    "result_helpers.ResultServiceMocker.assert_called_with": "orders.find was called with other arguments",
    "result_helpers.ResultServiceMocker.assert_called_once_with": "orders.find was called with other arguments",
    "result_helpers.ResultTestContext.assert_service_called": "orders.find is not mocked; these are: none",
    "result_helpers.performance_test": "work took .* ms, more than 0 ms",
    "result_helpers.result_test_context": r"it took 11\.0 ms, more than 10 ms",
    "_telemetry.Telemetry.assert_record": "no record has message='Eating'; nearest is record",
    "_telemetry.Telemetry.assert_records": "the records are not these 1, there are",
    "_telemetry.Telemetry.assert_no_record": r"there is record \d+ with message='Cooking':",
    "_telemetry.Telemetry.assert_span": "no span has operation='kitchen.eat'; nearest is span 1:",
    "_telemetry.Telemetry.assert_no_span": "there is span 1 with operation='kitchen.cook':",
    "_telemetry.Telemetry.assert_metric": "metric 'waiting' is 30, not 31",
    "_telemetry.Telemetry.assert_alert": "no alert has rule_name='rice', event='fire'; nearest is alert",
    "_telemetry.Telemetry.assert_no_alert": r"there is alert \d+ with event='fire':",
    "_telemetry.Telemetry.assert_health": "health is not as expected:\n.*'degraded'",
    "_telemetry.Telemetry.assert_snapshot": "the inline snapshot differs; --rfs-update-snapshots takes it as it is now",
    "_telemetry.Telemetry.assert_no_secret": r"\d secrets? recorded, masked here:",
    "_telemetry.Telemetry.assert_no_unhandled_failure": "1 Failure that nobody looked at:\n  Failure\\('OUT_OF_RICE'\\)",
    "_telemetry.Telemetry.no_new_series": "1 new series:\n  waiting",
    "_telemetry.Telemetry.no_blocked_loop": "the event loop was blocked for .* ms, allowed are 50 ms, by .*rude",
    "blocking.assert_loop_not_blocked": "the event loop was blocked for .* ms, allowed are 50 ms, by .*rude",
    "faults.in_fork": "the child raised:\n(.|\n)*ZeroDivisionError",
    "generators.ChainProgram.check": "WrongChain(.|\n)*came to Success\\(2\\), calling \\[\\]\n  must come to value 1",
    "load.assert_load": "0 a second succeeded, asked are 1\nof this load:",
    "performance.assert_latency": r"(cannot tell, and strict: )?a call takes .* of calibrated time, allowed are 0\.001 ns",
    "performance.assert_throughput": r"(cannot tell, and strict: )?in a calibrated second .* asked are 1,000,000,000,000",
    "performance.assert_not_slower": r"(cannot tell, and strict: )?a call takes .* of its reference, allowed are 0\.1×",
    "performance.assert_baseline": "no baseline 'work' for .*: record_baseline",
    "performance.assert_growth": "(cannot tell, and strict: )?the time grows with .*, allowed is 1\n",
    "performance.assert_peak_memory": "a call holds up to .* at once, allowed are 9 bytes",
    "performance.assert_no_leak": "a call leaves .* behind, allowed are 1 bytes; of 20 calls, there are left",
    "performance.PerformanceTestHelper.assert_performance": "it took 11 ms, allowed are 10 ms",
    "replay.assert_reproduces": "kitchen.cook does not fail as it did\n  recorded: code X",
    "steps.StepVerifier.verify_complete": r"expectation 1 of 2, expect_value\(2\): value: expected 2, got 1",
}


def assertions() -> Iterator[str]:
    """The names of all functions and methods of the toolkit that begin with ``assert_``."""
    for each in pkgutil.iter_modules(testing.__path__):
        module = importlib.import_module(f"rfs.testing.{each.name}")
        owners: list[tuple[str, object]] = [(each.name, module)]
        owners += [(f"{each.name}.{name}", kind) for name, kind in inspect.getmembers(module, inspect.isclass)]
        for where, owner in owners:
            for name, value in vars(owner).items():
                if name.startswith("assert_") and inspect.getmodule(value) is module:
                    yield f"{where}.{name}"


@pytest.fixture(scope="module")
def told() -> dict[str, tuple[str, list[str]]]:
    """What each assertion says under ``python -O``, which drops assert statements, and which functions a traceback shows."""
    run = subprocess.run(
        [sys.executable, "-O", "-m", "tests.testing.programs.wrong"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=FAR_SECONDS,
    )
    assert run.returncode == 0, run.stderr
    found: dict[str, tuple[str, list[str]]] = json.loads(run.stdout)
    return found


class TestEachAssertion:
    def test_all_are_here(self) -> None:
        """
        No assertion of the toolkit is left out of these tests.
        """
        found = set(assertions())

        assert len(found) > 40
        assert found - set(WRONG) == set()
        assert set(MESSAGES) == set(WRONG)

    @pytest.mark.parametrize("name", WRONG)
    def test_fails_with_its_message_under_optimized_python(
        self, name: str, told: dict[str, tuple[str, list[str]]]
    ) -> None:
        """
        What is not so fails, and the message says what was expected and what there is.
        """
        assert name in told, "it passes"
        assert re.match(MESSAGES[name], told[name][0]), told[name][0]

    @pytest.mark.parametrize("name", WRONG)
    def test_shows_no_code_but_the_test(self, name: str, told: dict[str, tuple[str, list[str]]]) -> None:
        """
        The traceback that pytest shows ends in the test's own line, not inside the assertion.
        """
        assert told[name][1] == []


NO_RESULT: Any = 3


def unanswered() -> object:
    return result_helpers.ResultServiceMocker("orders", "find").answer((), {}, None)


def answered_by_no_result() -> object:
    mock = result_helpers.ResultServiceMocker("orders", "find").side_effect(lambda: NO_RESULT)
    return mock.answer((), {}, None)


def answered_later() -> object:
    async def later() -> object:
        return Success(1)

    return result_helpers.ResultServiceMocker("orders", "find").side_effect(later).answer((), {}, None)


class TestMisuse:
    @pytest.mark.parametrize(
        "ask",
        [
            lambda: result_helpers.assert_result_success(NO_RESULT),
            lambda: result_helpers.assert_flux_total_count(NO_RESULT, 1),
            lambda: asyncio.run(result_helpers.assert_mono_result_success(NO_RESULT)),
            unanswered,
            answered_by_no_result,
            answered_later,
        ],
    )
    def test_shows_no_code_but_the_test(self, ask: Callable[[], object]) -> None:
        """
        What is handed in wrongly, or answered by a mock that was told nothing good, is shown where the test does so.
        """
        with pytest.raises((AssertionError, MockError)) as caught:
            ask()

        assert seen(caught.value) == []
