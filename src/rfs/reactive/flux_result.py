"""
Many Results: `FluxResult`, which is there, and `ResultStream`, which is still to run.

A FluxResult is a finished collection of Results in order. A ResultStream is a
description: these items, through this async function, so many at once. Building
it calls nothing. It is awaited for a FluxResult, or iterated without keeping
what has passed::

    orders = await FluxResult.from_iterable_async(tickets, place_order).batch_collect(batch_size=10, max_concurrent=3)

    async for result in FluxResult.from_iterable_async(read_tickets(), place_order):
        ...

The order of the items is kept, one Failure does not disturb the others unless
``fail_fast`` asks for it, and an ``Exception`` raised for an item is a Failure
in its place. Everything else that is raised, ``CancelledError`` first of all,
passes through, and no task is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Generator, Iterable, Iterator
from contextlib import aclosing
from inspect import isawaitable
from typing import Any, Generic, Never, TypeAlias, TypeVar, cast, overload

from rfs.core.result import AnyResult, Failure, Result, Success, is_failure, is_success, partition
from rfs.reactive._concurrency import at_least_one, ordered
from rfs.reactive.mono_result import MonoResult

__all__ = ["FluxResult", "ResultStream"]

T_co = TypeVar("T_co", covariant=True)
E_co = TypeVar("E_co", covariant=True)
A = TypeVar("A")
U = TypeVar("U")
F = TypeVar("F")

Results: TypeAlias = AsyncGenerator[AnyResult]
Stage: TypeAlias = Callable[[Results], Results]


class FluxResult(Generic[T_co, E_co]):
    """
    A finished, ordered collection of Results; it cannot be changed.

    >>> FluxResult.from_values([1, 2, 3]).map(lambda n: 6 // (n - 2)).count_failures()
    1
    """

    __slots__ = ("_results",)

    def __init__(self, results: Iterable[Result[T_co, E_co]] = ()) -> None:
        self._results = tuple(results)

    # --- where a collection comes from ---

    @classmethod
    def from_results(cls, results: Iterable[Result[U, F]]) -> FluxResult[U, F]:
        """Collect Results that are there already."""
        return cast("type[FluxResult[U, F]]", cls)(results)

    @classmethod
    def from_values(cls, values: Iterable[U]) -> FluxResult[U, Never]:
        """Collect a Success for each value."""
        return cast("type[FluxResult[U, Never]]", cls)(Success(value) for value in values)

    @classmethod
    def empty(cls) -> FluxResult[Never, Never]:
        """Collect nothing."""
        return cast("type[FluxResult[Never, Never]]", cls)()

    @classmethod
    async def from_async_results(cls, sources: Iterable[Callable[[], Awaitable[Result[U, F]]]]) -> FluxResult[U, F]:
        """Call all *sources* at the same time and collect their Results in order."""
        sources = list(sources)
        results = ordered(sources, _call, max_concurrent=len(sources))
        return cast("type[FluxResult[U, F]]", cls)([result async for result in results])

    @classmethod
    def from_iterable_async(
        cls,
        items: Iterable[A] | AsyncIterable[A],
        f: Callable[[A], Awaitable[Result[U, F]]],
        *,
        max_concurrent: int = 10,
        fail_fast: bool = False,
    ) -> ResultStream[U, F]:
        """
        Describe the stream of what the async function *f* makes of each item.

        Args:
            items: Taken one by one, as there is room for them.
            f: Async function from an item to a Result.
            max_concurrent: At most so many calls of *f* run at once.
            fail_fast: The first Failure ends the stream: no item is taken any more, and running calls are cancelled.

        """
        return ResultStream(items, f, max_concurrent=max_concurrent, fail_fast=fail_fast)

    # --- item by item ---

    def map(self, f: Callable[[T_co], U]) -> FluxResult[U, E_co]:
        """Put each value through *f*; where *f* raises, the item becomes a Failure."""
        return FluxResult(result.map(f) for result in self._results)

    def map_error(self, f: Callable[[E_co], F]) -> FluxResult[T_co, F]:
        """Put each error through *f*."""
        return FluxResult(result.map_error(f) for result in self._results)

    def filter(self, predicate: Callable[[T_co], object]) -> FluxResult[T_co, E_co]:
        """Drop each value that fails *predicate*, or for which it raises; Failures stay."""
        return FluxResult(result for result in self._results if is_failure(result) or _passes(result, predicate))

    def filter_success(self) -> FluxResult[T_co, E_co]:
        """Keep the Successes."""
        return FluxResult(filter(is_success, self._results))

    def filter_failures(self) -> FluxResult[T_co, E_co]:
        """Keep the Failures."""
        return FluxResult(filter(is_failure, self._results))

    def take(self, count: int) -> FluxResult[T_co, E_co]:
        """Keep the first *count* Results."""
        return FluxResult(self._results[: max(count, 0)])

    def skip(self, count: int) -> FluxResult[T_co, E_co]:
        """Leave out the first *count* Results."""
        return FluxResult(self._results[max(count, 0) :])

    async def parallel_map_async(
        self, f: Callable[[T_co], Awaitable[Result[U, F]]], max_concurrency: int = 10
    ) -> FluxResult[U, E_co | F]:
        """Put each value through the async function *f*, at most *max_concurrency* at once; Failures stay."""

        async def each(result: Result[T_co, E_co]) -> Result[U, E_co | F]:
            return await f(result.value) if is_success(result) else result

        results = ordered(self._results, each, max_concurrent=at_least_one("max_concurrency", max_concurrency))
        return FluxResult([result async for result in results])

    async def parallel_map(self, f: Callable[[T_co], U], max_concurrency: int = 10) -> FluxResult[U, E_co]:
        """
        Put each value through the plain function *f* in threads, at most *max_concurrency* at once; Failures stay.

        A call that runs in a thread cannot be cancelled: it goes on to its end.
        """

        async def in_a_thread(value: Any) -> Success[U]:
            return Success(await asyncio.to_thread(f, value))

        return await self.parallel_map_async(in_a_thread, max_concurrency)

    # --- all in one ---

    def collect_results(self) -> MonoResult[list[T_co], list[E_co]]:
        """Return a chain that begins with the list of all values or, if there are Failures, of all errors."""
        values, errors = partition(self._results)
        return MonoResult.from_error(errors) if errors else MonoResult.from_value(values)

    def collect_success_values(self) -> MonoResult[list[T_co], Never]:
        """Return a chain that begins with the list of all values."""
        return MonoResult.from_value(partition(self._results)[0])

    def collect_error_values(self) -> MonoResult[list[E_co], Never]:
        """Return a chain that begins with the list of all errors, as its value."""
        return MonoResult.from_value(partition(self._results)[1])

    def count_success(self) -> int:
        """Return how many are Successes."""
        return sum(map(is_success, self._results))

    def count_failures(self) -> int:
        """Return how many are Failures."""
        return sum(map(is_failure, self._results))

    def count_total(self) -> int:
        """Return how many there are."""
        return len(self._results)

    def success_rate(self) -> float:
        """Return the share of Successes, 0.0 to 1.0; 0.0 of none."""
        return self.count_success() / len(self._results) if self._results else 0.0

    def is_all_success(self) -> bool:
        """Say whether there is no Failure."""
        return not self.is_any_failure()

    def is_any_failure(self) -> bool:
        """Say whether there is a Failure."""
        return any(map(is_failure, self._results))

    def to_list(self) -> list[Result[T_co, E_co]]:
        """Return a new list of the Results."""
        return list(self._results)

    def __len__(self) -> int:
        return len(self._results)

    def __iter__(self) -> Iterator[Result[T_co, E_co]]:
        return iter(self._results)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, FluxResult):
            return self._results == cast("FluxResult[object, object]", other)._results
        return NotImplemented

    def __hash__(self) -> int:
        return hash((FluxResult, self._results))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.count_success()} successes, {self.count_failures()} failures)"


class ResultStream(Generic[T_co, E_co]):
    """
    A lazy stream of Results in the order of its items, made by `FluxResult.from_iterable_async`.

    Awaiting it gives the FluxResult of all. ``async for`` gives one Result after
    the other and keeps no more than twice *max_concurrent* of them, however long
    the stream is. Each of these runs it anew, over items that can be read anew.

    Left by ``break``, the running calls are cancelled when the event loop
    gets to it; ``async with contextlib.aclosing(aiter(stream))`` does it there and then.
    """

    __slots__ = ("_f", "_fail_fast", "_items", "_max_concurrent", "_stages")

    def __init__(
        self,
        items: Iterable[Any] | AsyncIterable[Any],
        f: Callable[[Any], Awaitable[Result[T_co, E_co]]],
        *,
        max_concurrent: int = 10,
        fail_fast: bool = False,
        stages: tuple[Stage, ...] = (),
    ) -> None:
        if not hasattr(items, "__iter__") and not hasattr(items, "__aiter__"):
            raise TypeError(f"a stream needs items to iterate over, not {type(items).__name__}")
        self._items = items
        self._f = f
        self._max_concurrent = at_least_one("max_concurrent", max_concurrent)
        self._fail_fast = fail_fast
        self._stages = stages

    def map_results(self, f: Callable[[T_co], U]) -> ResultStream[U, E_co]:
        """Put each value through *f*; where *f* raises, the item becomes a Failure."""

        async def mapped(results: Results) -> Results:
            async with aclosing(results):
                async for result in results:
                    yield result.map(f)

        return self._then(mapped)

    def filter_results(self, predicate: Callable[[T_co], object]) -> ResultStream[T_co, E_co]:
        """Drop each value that fails *predicate*, or for which it raises; Failures stay."""

        async def filtered(results: Results) -> Results:
            async with aclosing(results):
                async for result in results:
                    if is_failure(result) or _passes(result, predicate):
                        yield result

        return self._then(filtered)

    @overload
    def flat_map_results(self, f: Callable[[T_co], Result[U, F]]) -> ResultStream[U, E_co | F]: ...
    @overload
    def flat_map_results(self, f: Callable[[T_co], Iterable[Result[U, F]]]) -> ResultStream[U, E_co | F]: ...
    @overload
    def flat_map_results(self, f: Callable[[T_co], Iterable[U]]) -> ResultStream[U, E_co]: ...
    def flat_map_results(self, f: Callable[[T_co], Any]) -> ResultStream[Any, Any]:
        """
        Go on with all that *f*, plain or async, makes of each value: a Result, or several Results or values.
        """

        async def flattened(results: Results) -> Results:
            async with aclosing(results):
                async for result in results:
                    if is_failure(result):
                        yield result
                        continue
                    try:
                        made = f(result.value)
                        made = await made if isawaitable(made) else made
                        made = [made] if isinstance(made, Success | Failure) else list(made)
                    except Exception as error:  # noqa: BLE001 - what a step raises is its Result
                        made = [Failure.from_exception(error)]
                    for each in made:
                        yield each if isinstance(each, Success | Failure) else Success(each)

        return self._then(flattened)

    def reduce_results(self, f: Callable[[U, T_co], U], initial: U) -> ResultStream[U, E_co]:
        """Go on with one Result: *f* of the values one after the other, from *initial*; or the first Failure."""

        async def reduced(results: Results) -> Results:
            async with aclosing(results):
                total: AnyResult = Success(initial)
                async for result in results:
                    total = sum_of(total, result)
                    if is_failure(total):
                        break
                yield total

        def sum_of(total: AnyResult, result: AnyResult) -> AnyResult:
            return total.bind(lambda so_far: result.map(lambda value: f(so_far, value)))

        return self._then(reduced)

    async def batch_collect(self, batch_size: int = 100, max_concurrent: int | None = None) -> FluxResult[T_co, E_co]:
        """
        Run the stream and collect its Results in order.

        Args:
            batch_size: At most so many items are under way: taken, and not yet collected behind all before them.
            max_concurrent: At most so many calls run at once; by default what the stream was made with.

        """
        most = self._max_concurrent if max_concurrent is None else at_least_one("max_concurrent", max_concurrent)
        results = self._run(min(most, at_least_one("batch_size", batch_size)), batch_size)
        return FluxResult([result async for result in results])

    def __await__(self) -> Generator[Any, Any, FluxResult[T_co, E_co]]:
        return self._collect().__await__()

    def __aiter__(self) -> AsyncGenerator[Result[T_co, E_co]]:
        return self._run(self._max_concurrent, 2 * self._max_concurrent)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(max_concurrent={self._max_concurrent}, fail_fast={self._fail_fast})"

    async def _collect(self) -> FluxResult[T_co, E_co]:
        return FluxResult([result async for result in self._run(self._max_concurrent, None)])

    async def _run(self, max_concurrent: int, ahead: int | None) -> Results:
        results = ordered(self._items, self._f, max_concurrent=max_concurrent, ahead=ahead, fail_fast=self._fail_fast)
        for stage in self._stages:
            results = stage(results)
        async with aclosing(results):
            async for result in results:
                yield result
                if self._fail_fast and is_failure(result):
                    return

    def _then(self, stage: Stage) -> ResultStream[Any, Any]:
        return ResultStream(
            self._items,
            self._f,
            max_concurrent=self._max_concurrent,
            fail_fast=self._fail_fast,
            stages=(*self._stages, stage),
        )


async def _call(source: Callable[[], Awaitable[AnyResult]]) -> AnyResult:
    return await source()


def _passes(result: Success[A], predicate: Callable[[A], object]) -> bool:
    return bool(Success(result.value).map(predicate).unwrap_or(False))
