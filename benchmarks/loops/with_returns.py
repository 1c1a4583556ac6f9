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
    f = _add_one_later
    for number in range(count):
        await FutureResult.from_value(number).bind(f).bind(f).bind(f).bind(f).bind(f)


async def _chain_that_fails(count: int) -> None:
    f = _add_one_later
    for number in range(count):
        await FutureResult.from_value(number).bind(_fail_later).bind(f).bind(f).bind(f).bind(f)


LOOPS = {"mono_success": timed_async(_chain_that_succeeds), "mono_failure": timed_async(_chain_that_fails)}
