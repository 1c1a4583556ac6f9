"""
Several pieces of work at the same time, with nothing left behind.

asyncio's ``TaskGroup`` wraps what escapes in a group and takes a child that
was cancelled for one that ended well. A chain promises more: what escapes is
raised as it was, ``CancelledError`` included. Whichever way these functions are left, the
tasks they started have ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Coroutine, Iterable, Sequence, Sized
from inspect import isawaitable
from typing import Any, TypeVar, cast

from rfs.core.result import AnyResult, Failure, as_result

__all__ = ["answer_of", "at_least_one", "end", "ordered", "together"]

A = TypeVar("A")
R = TypeVar("R")


def at_least_one(name: str, count: int) -> int:
    """Return *count* if something can run with it; ``ValueError`` names the argument otherwise."""
    if count < 1:
        raise ValueError(f"{name} must be at least 1, not {count}")
    return count


async def together(
    work: Iterable[Coroutine[Any, Any, R]], until: Callable[[R], bool]
) -> tuple[asyncio.Task[R], Sequence[asyncio.Task[R]]]:
    """
    Run all of *work* (at least one) until all have ended, or one's answer satisfies *until*.

    Returns the task that decided and all tasks, in order. Those that had not
    ended by then are cancelled and awaited. What one of them raises is raised here.
    """
    tasks = [asyncio.create_task(coroutine) for coroutine in work]
    decided: asyncio.Future[asyncio.Task[R]] = asyncio.get_running_loop().create_future()
    left = len(tasks)

    def has_ended(task: asyncio.Task[R]) -> None:
        nonlocal left
        left -= 1
        decides = left == 0 or task.cancelled() or task.exception() is not None or until(task.result())
        if decides and not decided.done():
            decided.set_result(task)

    for task in tasks:
        task.add_done_callback(has_ended)
    try:
        first = await decided
    finally:
        await end(tasks)
    first.result()
    return first, tasks


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """
    Cancel those of *tasks* that run, and wait until each has ended.

    A cancellation of the waiting itself is raised afterwards: work that does
    not end at once is still waited for.
    """
    tasks = list(tasks)
    running: set[asyncio.Task[Any]] = {task for task in tasks if not task.done()}
    for task in running:
        task.cancel()
    interrupted: asyncio.CancelledError | None = None
    while running:
        try:
            _, running = await asyncio.wait(running)
        except asyncio.CancelledError as cancellation:
            interrupted = cancellation
            running = {task for task in running if not task.done()}
    for task in tasks:
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not report it as forgotten
    if interrupted is not None:
        raise interrupted


async def ordered(
    items: Iterable[A] | AsyncIterable[A],
    call: Callable[[A], Awaitable[AnyResult]],
    *,
    max_concurrent: int,
    ahead: int | None = None,
    fail_fast: bool = False,
) -> AsyncGenerator[AnyResult]:
    """
    Put each of *items* through *call* and yield the Results in the order of the items.

    Args:
        items: Anything to iterate over, sync or async.
        call: Async function from an item to a Result.
        max_concurrent: At most so many calls run at once.
        ahead:
            At most so many items are taken and not yet yielded: the bound on
            memory. ``None`` for no bound, when all Results are kept anyway.
        fail_fast:
            After the first Failure no item is taken and running calls are
            cancelled; what had ended by then is yielded, the Failure among it.

    An exception of *call* or of the iteration over *items* is a Failure in its place.

    """
    take = _reader(items)
    finished: dict[int, AnyResult] = {}
    escaped: list[asyncio.Task[None]] = []
    taken = 0
    exhausted = failed_fast = False
    news = asyncio.Event()
    room = asyncio.Semaphore(ahead) if ahead is not None else None

    async def worker() -> None:
        nonlocal taken, exhausted, failed_fast
        while not exhausted:
            if room is not None:
                await room.acquire()
            try:
                item = await take()
            except Exception as error:  # noqa: BLE001 - an iteration that fails is the last item, a Failure
                finished[taken] = Failure.from_exception(error)
                taken += 1
                exhausted = True
            else:
                if item is _END or exhausted:
                    exhausted = True
                    return
                place, taken = taken, taken + 1
                result = finished[place] = await answer_of(call, cast("A", item))
                if fail_fast and isinstance(result, Failure):
                    exhausted = failed_fast = True
            news.set()

    def has_ended(task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is not None:
            escaped.append(task)
        news.set()

    size = len(items) if isinstance(items, Sized) else max_concurrent
    workers = [asyncio.create_task(worker()) for _ in range(min(max_concurrent, size))]
    for task in workers:
        task.add_done_callback(has_ended)
    exhausted = not workers
    place = 0
    try:
        while not (exhausted and place == taken):
            news.clear()
            while place in finished:
                result = finished.pop(place)
                place += 1
                if room is not None:
                    room.release()
                yield result
            for task in escaped:
                task.result()
            if failed_fast:
                break
            if not (exhausted and place == taken):
                await news.wait()
    finally:
        await end(workers)
    for place in sorted(finished):
        yield finished[place]


async def answer_of(call: Callable[[A], Awaitable[AnyResult]], item: A) -> AnyResult:
    """Return the Result that *call* makes of *item*; whatever ``Exception`` it raises is a Failure."""
    try:
        answer: object = call(item)
        return cast("AnyResult", as_result(await answer if isawaitable(answer) else answer, "each item"))
    except Exception as error:  # noqa: BLE001 - what a call raises is its Result
        return Failure.from_exception(error)


_END = object()


def _reader(items: Iterable[A] | AsyncIterable[A]) -> Callable[[], Awaitable[object]]:
    """Return what gives the next item, or `_END`, to any of several workers."""
    if isinstance(items, AsyncIterable):
        async_iterator = aiter(items)
        turn = asyncio.Lock()

        async def take_async() -> object:
            # An async generator refuses a second reader while it runs.
            async with turn:
                return await anext(async_iterator, _END)

        return take_async

    iterator = iter(items)

    async def take() -> object:
        return next(iterator, _END)

    return take
