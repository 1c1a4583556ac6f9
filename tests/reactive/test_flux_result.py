"""FluxResult and ResultStream: many Results (FEATURES A3)."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfs.core.result import Failure, Result, Success
from rfs.reactive import FluxResult, ResultStream
from rfs.testing.generators import results
from rfs.testing.result_helpers import (
    assert_flux_result_stats,
    assert_mono_result_error,
    assert_mono_result_value,
    assert_result_error,
)
from rfs.testing.steps import StepVerifier
from rfs.testing.virtual_time import VirtualTime

some_results = st.lists(results(st.integers(), st.text()))

MIXED: FluxResult[int, str] = FluxResult([Success(1), Failure("a"), Success(2), Failure("b"), Success(3)])


def values_of(flux: FluxResult[Any, Any]) -> list[Any]:
    return [result.get() for result in flux]


def fails_on(bad: int) -> Callable[[int], int]:
    def check(n: int) -> int:
        if n == bad:
            raise ValueError(n)
        return n * 10

    return check


class Probe:
    """An async function that knows how many of its calls run at once."""

    def __init__(self, seconds: Callable[[int], float] = lambda _: 1, bad: frozenset[int] = frozenset()) -> None:
        self.seconds = seconds
        self.bad = bad
        self.started: list[int] = []
        self.cancelled: list[int] = []
        self.running = self.most = 0

    async def __call__(self, n: int) -> Result[int, str]:
        self.started.append(n)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.seconds(n))
        except asyncio.CancelledError:
            self.cancelled.append(n)
            raise
        finally:
            self.running -= 1
        return Failure(f"bad {n}") if n in self.bad else Success(n)


class Threads(ThreadPoolExecutor):
    """An event loop's threads, enough for all; knows how many calls were under way at once."""

    def __init__(self) -> None:
        super().__init__(20)
        self.calls: list[Future[Any]] = []
        self.most = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.calls.append(super().submit(fn, *args, **kwargs))
        self.most = max(self.most, sum(not call.done() for call in self.calls))
        return self.calls[-1]


class TestCollection:
    def test_ways_to_make_one(self) -> None:
        """
        Results, values or nothing make a FluxResult that lists them in order.
        """
        assert FluxResult([Success(1)]) == FluxResult.from_results(iter([Success(1)])) == FluxResult.from_values([1])
        assert FluxResult.empty().to_list() == FluxResult().to_list() == []
        assert MIXED.to_list() == list(MIXED)
        assert hash(FluxResult([Success(1)])) == hash(FluxResult.from_values([1]))
        assert FluxResult.from_values([1]) != [Success(1)]
        assert repr(MIXED) == "FluxResult(3 successes, 2 failures)"

    @given(some_results)
    def test_counts_agree(self, many: list[Result[int, str]]) -> None:
        """
        Nothing is lost: all counts, rates and parts fit together.
        """
        flux = FluxResult(many)

        assert flux.count_success() + flux.count_failures() == flux.count_total() == len(flux) == len(many)
        assert flux.success_rate() == (flux.count_success() / len(many) if many else 0.0)
        assert flux.is_all_success() is (flux.count_failures() == 0) is not flux.is_any_failure()
        assert [*flux.filter_success(), *flux.filter_failures()] == sorted(many, key=lambda r: r.is_failure())

    @given(some_results, st.integers(-2, 9))
    def test_take_and_skip_are_two_halves(self, many: list[Result[int, str]], count: int) -> None:
        """
        What take leaves out is what skip keeps.
        """
        flux = FluxResult(many)

        assert [*flux.take(count), *flux.skip(count)] == many
        assert len(flux.take(count)) == min(max(count, 0), len(many))

    def test_item_by_item(self) -> None:
        """
        Map and map_error act on their kind; an exception makes that item a defect, and no other.
        """
        mapped = MIXED.map(fails_on(2))

        assert values_of(mapped) == [10, None, None, None, 30]
        assert mapped.to_list()[2].is_defect  # type: ignore[union-attr]
        assert MIXED.map_error(str.upper).to_list()[1] == Failure("A")

    def test_filter_drops_values_only(self) -> None:
        """
        Values that fail the predicate, or make it raise, are dropped; Failures stay.
        """
        assert MIXED.filter(lambda n: n != 1).to_list() == MIXED.skip(1).to_list()
        assert MIXED.filter(lambda n: 1 / (n - 1) > 0.6).to_list() == [Failure("a"), Success(2), Failure("b")]

    async def test_collecting(self) -> None:
        """
        collect_results is all values, or all errors; the other two are always a Success.
        """
        await assert_mono_result_error(MIXED.collect_results(), ["a", "b"])
        await assert_mono_result_value(MIXED.filter_success().collect_results(), [1, 2, 3])
        await assert_mono_result_value(FluxResult.empty().collect_results(), [])
        await assert_mono_result_value(MIXED.collect_success_values(), [1, 2, 3])
        await assert_mono_result_value(MIXED.collect_error_values(), ["a", "b"])


class TestParallel:
    async def test_from_async_results_runs_all_at_once(self, virtual_time: VirtualTime) -> None:
        """
        All sources run at the same time, order is kept, and an exception is the item's error.
        """

        async def raises() -> Result[int, str]:
            raise KeyError("x")

        probe = Probe(lambda n: 10 - n)
        flux = await FluxResult.from_async_results([lambda: probe(1), raises, lambda: probe(3)])

        assert values_of(flux) == [1, None, 3]
        assert_result_error(flux.to_list()[1], KeyError)
        assert virtual_time.elapsed_seconds == 9
        assert await FluxResult.from_async_results([]) == FluxResult.empty()

    @pytest.mark.usefixtures("virtual_time")
    async def test_parallel_map_async(self) -> None:
        """
        Values go through, Failures pass, order and bound are kept.
        """
        probe = Probe(lambda n: 10 - n, bad=frozenset([2]))
        flux = await MIXED.parallel_map_async(probe, max_concurrency=2)

        assert flux.to_list() == [Success(1), Failure("a"), Failure("bad 2"), Failure("b"), Success(3)]
        assert probe.most == 2

    async def test_parallel_map_uses_threads(self) -> None:
        """
        A plain function runs beside the loop, several at once; its exception is the item's error.
        """
        both_there = threading.Barrier(2, timeout=30)

        def meet(n: int) -> int:
            if n < 3:
                both_there.wait()
            return fails_on(3)(n)

        flux = await MIXED.parallel_map(meet, max_concurrency=2)

        assert values_of(flux) == [10, None, 20, None, None]

    @pytest.mark.parametrize(("bound", "most"), [({}, 10), ({"max_concurrency": 2}, 2)])
    async def test_parallel_map_has_so_many_in_threads(self, bound: dict[str, int], most: int) -> None:
        """
        Of the plain calls, too, no more than the bound are under way at once: ten, where none is given.
        """
        go = threading.Event()

        def wait(n: int) -> int:
            go.wait(30)
            return n

        with Threads() as threads:
            asyncio.get_running_loop().set_default_executor(threads)
            mapping = asyncio.ensure_future(FluxResult.from_values(range(20)).parallel_map(wait, **bound))
            for _ in range(50):
                await asyncio.sleep(0)
            go.set()
            flux = await mapping

        assert flux == FluxResult.from_values(range(20))
        assert threads.most == most

    async def test_bounds_must_be_positive(self) -> None:
        """
        A bound with which nothing could run is refused, by name and value.
        """
        with pytest.raises(ValueError, match="max_concurrency must be at least 1, not 0"):
            await MIXED.parallel_map_async(Probe(), 0)
        with pytest.raises(ValueError, match="max_concurrent must be at least 1, not -1"):
            FluxResult.from_iterable_async([], Probe(), max_concurrent=-1)
        with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
            await FluxResult.from_iterable_async([], Probe()).batch_collect(batch_size=0)
        with pytest.raises(ValueError, match="max_concurrent must be at least 1, not 0"):
            await FluxResult.from_iterable_async([], Probe()).batch_collect(max_concurrent=0)

    def test_items_must_be_many(self) -> None:
        """
        What cannot be iterated over is refused at once.
        """
        items: Any = 5

        with pytest.raises(TypeError, match="items to iterate over, not int"):
            FluxResult.from_iterable_async(items, Probe())


@pytest.mark.usefixtures("virtual_time")
class TestStream:
    async def test_ten_thousand_items_in_order_within_the_bound(self) -> None:
        """
        A probe sees no more than max_concurrent in flight; Results keep the order of the items.
        """
        pace = Random(7)
        probe = Probe(lambda _: pace.choice([0, 0.001, 0.01]), bad=frozenset(range(0, 10_000, 7)))
        flux = await FluxResult.from_iterable_async(range(10_000), probe).batch_collect(
            batch_size=100, max_concurrent=16
        )

        assert flux.to_list() == [Failure(f"bad {n}") if n % 7 == 0 else Success(n) for n in range(10_000)]
        assert probe.most == 16

    async def test_awaiting_it_is_collecting_it(self) -> None:
        """
        Awaited directly, the stream gives the FluxResult; awaited again, it runs again.
        """
        probe = Probe(bad=frozenset([2]))
        stream = FluxResult.from_iterable_async(range(4), probe)
        assert probe.started == []

        expected: list[Result[int, str]] = [Success(0), Success(1), Failure("bad 2"), Success(3)]
        assert await stream == await stream == FluxResult(expected)
        assert probe.started == [0, 1, 2, 3] * 2

    async def test_steps_on_the_way(self) -> None:
        """
        map, filter and flat_map act on values as they pass, in order; Failures stay.
        """

        async def twice(n: int) -> list[int]:
            return [n, n]

        stream = FluxResult.from_iterable_async(range(5), Probe(bad=frozenset([3])))

        mapped = stream.map_results(lambda n: 12 // (n - 1)).filter_results(lambda n: n > 0)
        assert values_of(await mapped) == [None, 12, None, 4]
        several = stream.flat_map_results(lambda n: [n] * n)
        assert values_of(await several) == [1, 2, 2, None, 4, 4, 4, 4]
        single = stream.flat_map_results(lambda n: Success(-n) if n else Failure("none"))
        assert values_of(await single) == [None, -1, -2, None, -4]
        awaited: ResultStream[Any, Any] = stream.flat_map_results(twice)  # type: ignore[arg-type]
        assert values_of(await awaited) == [0, 0, 1, 1, 2, 2, None, 4, 4]
        flux = stream.flat_map_results(lambda n: MIXED.take(n))
        assert len(await flux) == 0 + 1 + 2 + 1 + 4
        raising = stream.filter_results(lambda n: n == 0).flat_map_results(lambda n: [1 // n])
        assert [type(r.get_error()) for r in await raising] == [ZeroDivisionError, str]

    async def test_reduce_is_a_stream_of_one(self) -> None:
        """
        All values become one, or the first Failure is the one; collect_results reads it.
        """
        stream = FluxResult.from_iterable_async(range(5), Probe())
        reduced = await stream.reduce_results(lambda total, n: total + n, initial=100)
        await assert_mono_result_value(reduced.collect_results(), [110])

        probe = Probe(bad=frozenset([1]))
        failed = await FluxResult.from_iterable_async(range(50), probe).reduce_results(lambda a, b: a + b, 0)
        assert failed.to_list() == [Failure("bad 1")]
        assert len(probe.started) < 50

        broken = await stream.reduce_results(lambda total, n: total // n, 1)
        assert_result_error(broken.to_list()[0], ZeroDivisionError)

    @pytest.mark.parametrize("bound", [1, 3, 10])
    async def test_ends_where_its_items_do(self, bound: int) -> None:
        """
        Async items are read to their end like plain ones: each once, in order, and nothing after the last.
        """

        async def tickets() -> AsyncIterator[int]:
            for n in range(5):
                yield n

        for items in (tickets(), iter(range(5))):
            probe = Probe(lambda n: 0.1 * n)
            stream = FluxResult.from_iterable_async(items, probe, max_concurrent=bound, fail_fast=True)
            assert await stream == FluxResult.from_values(range(5))
            assert probe.started == [*range(5)]

    async def test_items_are_read_as_there_is_room(self) -> None:
        """
        Async items, too, are taken only as far ahead as the stream may keep.
        """
        read: list[int] = []

        async def tickets() -> AsyncIterator[int]:
            for n in range(1000):
                read.append(n)
                yield n

        stream = FluxResult.from_iterable_async(tickets(), Probe(), max_concurrent=3)
        seen = 0
        async with aclosing(aiter(stream)) as iterator:
            async for _ in iterator:
                seen += 1
                assert len(read) <= seen + 2 * 3
                if seen == 20:
                    break

    async def test_slow_call_holds_up_what_comes_after_it(self) -> None:
        """
        While one call takes its time, those behind it run ahead as far as the stream may keep their Results, and no further.
        """

        def slow_at_first() -> Probe:
            return Probe(lambda n: 100 if n == 0 else 1)

        iterated, in_batches, awaited = slow_at_first(), slow_at_first(), slow_at_first()
        async with aclosing(aiter(FluxResult.from_iterable_async(range(50), iterated, max_concurrent=3))) as iterator:
            assert await anext(iterator) == Success(0)
            assert iterated.started == [*range(2 * 3)]

        stream = FluxResult.from_iterable_async(range(50), in_batches, max_concurrent=3)
        collecting = asyncio.ensure_future(stream.batch_collect(batch_size=7))
        await asyncio.sleep(99)
        assert in_batches.started == [*range(7)]
        assert len(await collecting) == 50

        collecting = asyncio.ensure_future(FluxResult.from_iterable_async(range(50), awaited))
        await asyncio.sleep(99)
        assert awaited.started == [*range(50)]
        assert len(await collecting) == 50

    async def test_memory_does_not_grow_with_length(self) -> None:
        """
        Of 5,000 items no more than a few are alive at any time.
        """

        class Ticket:
            pass

        alive: weakref.WeakSet[Ticket] = weakref.WeakSet()

        def tickets() -> Iterator[Ticket]:
            for _ in range(5000):
                ticket = Ticket()
                alive.add(ticket)
                yield ticket

        async def hand_on(ticket: Ticket) -> Result[Ticket, str]:
            await asyncio.sleep(1)
            return Success(ticket)

        stream = FluxResult.from_iterable_async(tickets(), hand_on, max_concurrent=4).map_results(lambda ticket: ticket)
        most = max([len(alive) async for _ in stream])

        gc.collect()
        assert most <= 2 * 4 + 4
        assert len(alive) == 0

    async def test_iteration_that_fails_is_the_last_result(self) -> None:
        """
        An exception of the items themselves is a defect behind all that was read.
        """

        def broken() -> Iterator[int]:
            yield 1
            yield 2
            raise OSError("the file is gone")

        stream = FluxResult.from_iterable_async(broken(), Probe())

        await StepVerifier(stream).expect_values(1, 2).expect_failure(OSError, defect=True).verify_complete()

    async def test_iteration_that_fails_is_not_taken_up_again(self) -> None:
        """
        Items that could be read on after an exception are not: it is the end.
        """

        class Stumbling:
            read = 0

            def __iter__(self) -> Iterator[int]:
                return self

            def __next__(self) -> int:
                self.read += 1
                if self.read == 2:
                    raise OSError("try again")
                if self.read == 5:
                    raise StopIteration
                return self.read

        items = Stumbling()

        await (
            StepVerifier(FluxResult.from_iterable_async(items, Probe()))
            .expect_value(1)
            .expect_failure(OSError, defect=True)
            .verify_complete()
        )
        assert items.read == 2

    async def test_function_that_raises_or_forgets_its_result(self) -> None:
        """
        Both make the item a defect and disturb no other; a plain function is taken too.
        """

        def plain(n: int) -> Any:
            return Success(n) if n == 1 else None if n == 2 else 1 // 0

        stream: ResultStream[Any, Any] = FluxResult.from_iterable_async([1, 2, 3], plain)

        await (
            StepVerifier(stream)
            .expect_value(1)
            .expect_failure(TypeError, defect=True)
            .expect_failure(ZeroDivisionError, defect=True)
            .verify_complete()
        )
        forgot: Any = (await stream).to_list()[1]
        assert str(forgot.error) == "the function given to each item must return a Result, not NoneType"

    def test_repr_tells_its_policy(self) -> None:
        """
        A stream shows how it would run.
        """
        stream = FluxResult.from_iterable_async([1], Probe(), max_concurrent=3, fail_fast=True).map_results(str)

        assert repr(stream) == "ResultStream(max_concurrent=3, fail_fast=True)"


@pytest.mark.usefixtures("virtual_time")
class TestFailFast:
    async def test_without_it_siblings_go_on(self) -> None:
        """
        One Failure cancels nothing.
        """
        probe = Probe(bad=frozenset([0]))
        assert_flux_result_stats(await FluxResult.from_iterable_async(range(9), probe), 8, 1)
        assert_flux_result_stats(await ResultStream(range(9), probe), 8, 1)
        assert probe.cancelled == []

    async def test_first_failure_is_the_last_result(self) -> None:
        """
        Running calls are cancelled and awaited, no item is taken any more, and the Failure ends the stream.
        """
        probe = Probe(lambda n: 9 if n == 1 else 1, bad=frozenset([2]))
        stream = FluxResult.from_iterable_async(range(100), probe, max_concurrent=3, fail_fast=True)

        await StepVerifier(stream).expect_value(0).expect_failure("bad 2").verify_complete()
        assert 1 in probe.cancelled
        assert len(probe.started) <= 4
        assert probe.running == 0

    async def test_failure_made_on_the_way_counts_too(self) -> None:
        """
        A Failure that a later step makes ends the stream as well.
        """
        probe = Probe()
        stream = FluxResult.from_iterable_async(range(100), probe, max_concurrent=2, fail_fast=True)
        stream = stream.map_results(fails_on(3))

        await StepVerifier(stream).expect_values(0, 10, 20).expect_failure(ValueError, defect=True).verify_complete()
        assert probe.running == 0


@pytest.mark.usefixtures("virtual_time")
class TestLeaving:
    @pytest.mark.parametrize("way", ["collect", "iterate", "batch"])
    async def test_cancellation_reaches_all_and_comes_back(self, way: str) -> None:
        """
        Cancelled from outside, every running call is cancelled and awaited; nothing is left.
        """
        probe = Probe()
        stream = FluxResult.from_iterable_async(range(100), probe, max_concurrent=5)

        async def iterate() -> None:
            async for _ in stream:
                pass

        async def collect() -> None:
            await stream

        work: Any = {"collect": collect, "iterate": iterate, "batch": stream.batch_collect}[way]
        running = asyncio.ensure_future(work())
        await asyncio.sleep(2.5)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

        assert probe.running == 0
        assert len(probe.cancelled) == 5

    async def test_closing_ends_the_running_calls(self) -> None:
        """
        A stream left early is closed there and then by aclosing.
        """
        probe = Probe()
        async with aclosing(aiter(FluxResult.from_iterable_async(range(100), probe, max_concurrent=5))) as stream:
            async for _ in stream:
                break

        assert probe.running == 0

    @pytest.mark.parametrize("kind", [BaseException, asyncio.CancelledError])
    @pytest.mark.parametrize("from_items", [True, False])
    async def test_what_is_no_exception_comes_out_as_it_is(self, kind: type[BaseException], from_items: bool) -> None:
        """
        Raised by a call or by the items, it cancels the rest and is not wrapped.
        """
        escaping = kind("out")
        probe = Probe(lambda _: 5)

        async def items() -> AsyncIterator[int]:
            for n in range(20):
                if n == 7 and from_items:
                    raise escaping
                yield n

        async def call(n: int) -> Result[int, str]:
            if n == 7:
                raise escaping
            return await probe(n)

        with pytest.raises(kind):
            await FluxResult.from_iterable_async(items(), call)
        assert probe.running == 0
