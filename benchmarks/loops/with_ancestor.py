"""rfs-framework, whose import paths RFS keeps: its MonoResult."""

from __future__ import annotations

from benchmarks.worker import timed_async
from rfs.core.result import Failure, Result, Success
from rfs.reactive.mono_result import MonoResult


async def _add_one(value: int) -> Result[int, str]:
    return Success(value + 1)


async def _fail(value: int) -> Result[int, str]:  # noqa: ARG001 - a step's signature
    return Failure("SOLD_OUT")


async def _chain_that_succeeds(count: int) -> None:
    for number in range(count):
        await (
            MonoResult.from_value(number)
            .bind_async_result(_add_one)
            .bind_async_result(_add_one)
            .bind_async_result(_add_one)
            .bind_async_result(_add_one)
            .bind_async_result(_add_one)
        )


async def _chain_that_fails(count: int) -> None:
    for number in range(count):
        await (
            MonoResult.from_value(number)
            .bind_async_result(_fail)
            .bind_async_result(_add_one)
            .bind_async_result(_add_one)
            .bind_async_result(_add_one)
            .bind_async_result(_add_one)
        )


LOOPS = {"mono_success": timed_async(_chain_that_succeeds), "mono_failure": timed_async(_chain_that_fails)}
