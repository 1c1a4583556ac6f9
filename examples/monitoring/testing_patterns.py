"""
What `rfs.testing` does, each in a test of its own: asserts, mocks, telemetry, virtual time, steps, data, speed, replay.

``python -m pytest examples/monitoring/testing_patterns.py`` runs them. Those that are async need pytest-asyncio.
"""

from __future__ import annotations

from enum import StrEnum

import pytest
from hypothesis import given

from rfs.core.result import Failure, Result, Success
from rfs.monitoring import AlertCondition, collect_metric, create_alert_rule, log_result_operation
from rfs.reactive import FluxResult, MonoResult
from rfs.testing.fixtures import Telemetry
from rfs.testing.generators import TestDataFactory, texts
from rfs.testing.performance import assert_latency
from rfs.testing.replay import assert_reproduces
from rfs.testing.result_helpers import (
    assert_flux_result_stats,
    assert_flux_success_values,
    assert_mono_result_timeout,
    assert_mono_result_value,
    assert_result_error,
    assert_result_success,
    assert_result_value,
    mock_result_service,
)
from rfs.testing.steps import StepVerifier

# --- what is tested ---------------------------------------------------------------------------------------------------

MENU = {"bibimbap": 9000, "japchae": 8000, "bulgogi": 60_000}


class Refusal(StrEnum):
    """Why there is no order."""

    SOLD_OUT = "SOLD_OUT"
    CARD_DECLINED = "CARD_DECLINED"
    TERMINAL_BUSY = "TERMINAL_BUSY"


class Terminal:
    """Takes cards."""

    async def charge(self, won: int) -> Result[str, Refusal]:
        """Take *won*, and give a receipt."""
        return Success(f"receipt for {won}") if won <= 50_000 else Failure(Refusal.CARD_DECLINED)


terminal = Terminal()


def price(dish: str) -> Result[int, Refusal]:
    """Say what *dish* costs, in won."""
    return Success(MENU[dish]) if dish in MENU else Failure(Refusal.SOLD_OUT)


def order(dish: str) -> MonoResult[str, Refusal]:
    """Find the price, and take it: within 30 s, and again after a minute while the terminal is busy."""
    return (
        MonoResult.from_result(price(dish))
        .bind_async_result(terminal.charge)
        .timeout(30)
        .retry(2, backoff_seconds=60, on_codes=Refusal.TERMINAL_BUSY)
        .log_step("charged")
    )


@log_result_operation("orders.place")
async def place(dish: str) -> Result[str, Refusal]:
    """Order something."""
    return await order(dish)


# --- the tests --------------------------------------------------------------------------------------------------------


def test_results() -> None:
    """Say in one line what a Result must be; a message shows the error's code, and where it was made."""
    assert_result_value(price("bibimbap"), 9000)
    assert_result_error(price("pizza"), Refusal.SOLD_OUT)


@pytest.mark.asyncio
async def test_chains() -> None:
    """A chain is run by its assertion."""
    await assert_mono_result_value(order("bibimbap"), "receipt for 9000")


def test_collections() -> None:
    """Of many Results, their counts and their values."""
    prices = FluxResult([price(dish) for dish in ("bibimbap", "pizza", "japchae")])

    assert_flux_result_stats(prices, expected_success=2, expected_failures=1)
    assert_flux_success_values(prices, [9000, 8000])


@pytest.mark.asyncio
async def test_mocks() -> None:
    """A mock answers for a service, is called as the service must be, and is gone after its block."""
    with mock_result_service("terminal", "charge") as charge:
        charge.return_success("mocked")

        result = await place("bibimbap")

    assert assert_result_success(result, str) == "mocked"
    charge.assert_called_once_with(9000)


@pytest.mark.asyncio
async def test_telemetry(telemetry: Telemetry) -> None:
    """What was recorded, measured and raised as an alert in this test, and nothing else. A Failure that nobody looks at fails it."""
    assert (await place("bulgogi")).is_failure()

    telemetry.assert_record(level="ERROR", operation="orders.place", error={"code": "CARD_DECLINED"})
    telemetry.assert_span(operation="orders.place", outcome="failed")
    telemetry.assert_metric("result_failure_total", 1, operation="orders.place")
    telemetry.assert_no_secret()
    telemetry.assert_health()


def test_alerts(telemetry: Telemetry) -> None:
    """An alert rule is evaluated each second of a clock that the test moves."""
    create_alert_rule("queue", "guests_waiting", AlertCondition.GREATER_THAN, 20, for_seconds=60)
    collect_metric("guests_waiting", 30)

    telemetry.advance(59)
    telemetry.assert_no_alert()

    telemetry.advance(2)
    telemetry.assert_alert("queue", current_value=30)


@pytest.mark.asyncio
@pytest.mark.usefixtures("virtual_time")
async def test_virtual_time() -> None:
    """An hour of waiting takes no time."""
    with mock_result_service("terminal", "charge") as charge:
        charge.return_success("too late").with_latency(3600)

        await assert_mono_result_timeout(order("bibimbap"), 30)


@pytest.mark.asyncio
@pytest.mark.usefixtures("virtual_time")
async def test_steps() -> None:
    """What happens in a chain, in which order and when; and nothing else."""
    with mock_result_service("terminal", "charge") as charge:
        charge.return_sequence([Failure(Refusal.TERMINAL_BUSY), Success("receipt")])

        await (
            StepVerifier(order("bibimbap"))
            .expect_step("charge", "failed", Refusal.TERMINAL_BUSY)
            .expect_retry()
            .within(60, at_least=60)
            .expect_step("charge")
            .expect_step("charged")
            .expect_value("receipt")
            .verify_complete()
        )


def test_data() -> None:
    """The same people for the same seed."""
    guests = TestDataFactory(seed=7).users.generate_users(2)

    assert guests == TestDataFactory(seed=7).users.generate_users(2)
    assert guests[0].name == "김서준"


@given(texts())
def test_drawn_data(dish: str) -> None:
    """Hypothesis looks for a text that the code does not stand."""
    assert price(dish).is_success() == (dish in MENU)


def test_speed() -> None:
    """What a call takes is measured in turns with a reference, so that a slow or busy machine is no slow code."""
    assert_latency(lambda: price("bibimbap"), at_most_seconds=0.000_1)


def test_replay() -> None:
    """A failure that was recorded fails again, likewise: such a test is what `rfs replay` writes."""
    assert_reproduces(
        lambda: place("bulgogi"),
        operation="orders.place",
        step="charged",
        code="CARD_DECLINED",
    )
