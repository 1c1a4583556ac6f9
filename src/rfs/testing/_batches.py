"""
How a measurement runs what it measures: as plain calls or awaited, with the same plan for both.

A plan is a generator. It yields a `Batch`, is sent the seconds that the batch took, and returns what it has found. So it
holds all of the statistics and reads no clock, and tests can answer it with times that they make up.
"""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from functools import wraps
from inspect import isawaitable
from itertools import repeat
from time import perf_counter
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeAlias, TypeVar, overload

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Batch(NamedTuple):
    """So many calls in a row, timed together by *clock*, which counts seconds."""

    call: Callable[[], Any]
    times: int = 1
    clock: Callable[[], float] = perf_counter


Plan: TypeAlias = Generator[Batch, float, T]


class Measurement(Protocol[P, T_co]):
    """What `measurement` makes of a plan: an answer, or one to be awaited where the operation is."""

    @overload
    def __call__(  # pyright: ignore[reportOverlappingOverload] - what may be awaited is decided by the first that fits
        self, operation: Callable[..., Awaitable[object]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[T_co]: ...
    @overload
    def __call__(self, operation: Callable[..., object], /, *args: P.args, **kwargs: P.kwargs) -> T_co: ...


def measurement(plan: Callable[Concatenate[Callable[..., Any], P], Plan[T]]) -> Measurement[P, T]:
    """
    Let a generator function be called like a plain one, or awaited if its operation returns something to be awaited.

    Which of both it is shows its first call, so lambdas around async functions and chains are recognized as well.
    """

    @wraps(plan)
    def measured(operation: Callable[..., Any], /, *args: P.args, **kwargs: P.kwargs) -> Any:
        __tracebackhide__ = True
        return _Driver(plan(operation, *args, **kwargs)).run()

    return measured


class _Driver:
    """Answers a plan until it returns; if a call raises, what the plan has begun is ended first."""

    def __init__(self, plan: Plan[Any]) -> None:
        self._plan = plan
        self._is_async: dict[int, bool] = {}  # by the id of a call, which the plan holds

    def run(self) -> Any:
        __tracebackhide__ = True
        took: Any = None
        try:
            while True:
                try:
                    batch = self._plan.send(took)
                except StopIteration as end:
                    return end.value
                first = self._first(batch.call)
                if first is not None:
                    return self._run_async(batch, first)
                took = _timed(batch)
        except BaseException:
            self._plan.close()
            raise

    async def _run_async(self, batch: Batch, first: Awaitable[object] | None) -> Any:
        __tracebackhide__ = True
        try:
            while True:
                if first is not None:
                    await first
                took = await _timed_async(batch) if self._is_async[id(batch.call)] else _timed(batch)
                try:
                    batch = self._plan.send(took)
                except StopIteration as end:
                    return end.value
                first = self._first(batch.call)
        except BaseException:
            self._plan.close()
            raise

    def _first(self, call: Callable[[], Any]) -> Awaitable[object] | None:
        """Call what is new, untimed, and return what is to be awaited."""
        if id(call) in self._is_async:
            return None
        answer = call()
        self._is_async[id(call)] = isawaitable(answer)
        return answer if isawaitable(answer) else None


@contextmanager
def _uncollected() -> Generator[None]:
    """Let the garbage collector run between the batches, and not in one of them, whichever it would fall into."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _timed(batch: Batch) -> float:
    call, times, clock = batch
    with _uncollected():
        began = clock()
        for _ in repeat(None, times):
            call()
        return clock() - began


async def _timed_async(batch: Batch) -> float:
    call, times, clock = batch
    with _uncollected():
        began = clock()
        for _ in repeat(None, times):
            await call()
        return clock() - began
