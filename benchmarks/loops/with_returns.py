"""returns: its FutureResult, which binds async steps."""

from __future__ import annotations

from returns.future import FutureResult
from returns.io import IOFailure, IOResult, IOSuccess

from benchmarks.worker import timed_async


async def _add_one(value: int) -> IOResult[int, str]:
    return IOSuccess(value + 1)


async def _fail(value: int) -> IOResult[int, str]:  # noqa: ARG001 - a step's signature
    return IOFailure("SOLD_OUT")


def _add_one_later(value: int) -> FutureResult[int, str]:
    return FutureResult(_add_one(value))


def _fail_later(value: int) -> FutureResult[int, str]:
    return FutureResult(_fail(value))


async def _chain_that_succeeds(count: int) -> None:
    for number in range(count):
        future: FutureResult[int, str] = FutureResult.from_value(number)
        for step in (_add_one_later, _add_one_later, _add_one_later, _add_one_later, _add_one_later):
            future = future.bind(step)
        await future


async def _chain_that_fails(count: int) -> None:
    for number in range(count):
        future: FutureResult[int, str] = FutureResult.from_value(number)
        for step in (_fail_later, _add_one_later, _add_one_later, _add_one_later, _add_one_later):
            future = future.bind(step)
        await future


LOOPS = {"mono_success": timed_async(_chain_that_succeeds), "mono_failure": timed_async(_chain_that_fails)}
