"""What both type checkers must infer for assertions and mocks; read by them, not run."""

from __future__ import annotations

from typing import Any, assert_type

from rfs.core.result import Failure, Result, Success
from rfs.reactive import FluxResult, MonoResult
from rfs.testing.result_helpers import (
    ResultServiceMocker,
    ResultTestContext,
    ResultTestDataFactory,
    assert_flux_success_values,
    assert_mono_result_error,
    assert_mono_result_failure,
    assert_mono_result_success,
    assert_mono_result_timeout,
    assert_mono_result_value,
    assert_result_error,
    assert_result_failure,
    assert_result_success,
    assert_result_value,
    flux_test,
    mock_result_service,
    performance_test,
    result_test_context,
)


class DishError(Exception):
    pass


def price(dish: str) -> Result[int, DishError]:
    return Success(7) if dish else Failure(DishError())


# An assertion returns what it looked at, as exactly as it was asked for.
assert_type(assert_result_success(price("rice")), int)
assert_type(assert_result_success(price("rice"), bool), bool)
assert_type(assert_result_value(price("rice"), 7), int)
assert_type(assert_result_failure(price("")), DishError)
assert_type(assert_result_failure(price(""), KeyError), KeyError)
assert_type(assert_result_error(price("")), DishError)
assert_type(assert_result_error(price(""), KeyError), KeyError)
assert_type(assert_result_error(price(""), "SOLD_OUT"), DishError)


async def chains(mono: MonoResult[int, DishError], flux: FluxResult[int, DishError]) -> None:
    assert_type(await assert_mono_result_success(mono), int)
    assert_type(await assert_mono_result_success(mono, bool), bool)
    assert_type(await assert_mono_result_value(mono, 7), int)
    assert_type(await assert_mono_result_failure(mono), DishError)
    assert_type(await assert_mono_result_error(mono, KeyError), KeyError)
    assert_type(await assert_mono_result_timeout(mono, 5), DishError)
    assert_type(await assert_flux_success_values(flux, [7]), list[int])


async def mocks() -> None:
    with mock_result_service("kitchen", "cook") as mock:
        assert_type(mock, ResultServiceMocker)
        assert_type(mock.return_success(7).with_latency(1), ResultServiceMocker)
        assert_type(await mock("rice"), Result[Any, Any])
    async with result_test_context() as context:
        assert_type(context, ResultTestContext)


@flux_test
@performance_test(max_duration_ms=100)
async def marked(dish: str) -> int:
    return len(dish)


async def call_marked() -> None:
    assert_type(await marked("rice"), int)


assert_type(ResultTestDataFactory.create_mixed_results(2, 0.5, str, float), list[Result[str, float]])
