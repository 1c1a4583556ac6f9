"""What both type checkers must infer for chains and streams; read by them, not run."""

from __future__ import annotations

from typing import Never, assert_type

from rfs.core.result import Failure, Result, Success
from rfs.reactive import FluxResult, MonoResult, ResultStream


class TableError(Exception):
    pass


async def find(table: int) -> Result[str, TableError]:
    return Success(str(table)) if table else Failure(TableError())


async def order(name: str) -> Result[list[int], str]:
    return Success([len(name)]) if name else Failure("sold out")


def count(dishes: list[int]) -> Result[int, str]:
    return Success(len(dishes))


async def chains() -> None:
    found = MonoResult.from_async_result(lambda: find(7))
    assert_type(found, MonoResult[str, TableError])

    # Five steps: the errors of all of them are gathered, the value is the last one's.
    mono = found.bind_async_result(order).bind_result(count).map(lambda n: n / 2).map_error(repr).timeout(5)
    assert_type(mono, MonoResult[float, str])
    assert_type(found.bind_async_result(order), MonoResult[list[int], TableError | str])
    assert_type(await mono, Result[float, str])
    assert_type(await mono.to_result(), Result[float, str])

    # What does not touch the types keeps them.
    watched = (
        mono.log_step("a", "b").log_error("c").log_performance("d").name("e").retry(3).cache().tap(print).inspect(print)
    )
    assert_type(watched, MonoResult[float, str])

    assert_type(MonoResult.from_value(1), MonoResult[int, Never])
    assert_type(MonoResult.from_error("x"), MonoResult[Never, str])
    assert_type(MonoResult.from_value(7).bind_async_result(find), MonoResult[str, TableError])
    assert_type(found.recover(lambda _: 0), MonoResult[str | int, TableError])
    assert_type(found.on_error_return_value(None), MonoResult[str | None, TableError])
    assert_type(found.fallback(MonoResult.from_value("x")), MonoResult[str, TableError])
    assert_type(found.zip(mono), MonoResult[tuple[str, float], TableError | str])
    assert_type(found.first_success(found), MonoResult[str, list[TableError]])
    assert_type(await MonoResult.parallel_map_async([found]), list[Result[str, TableError]])

    # Both sides are covariant.
    await wide(mono)


async def wide(mono: MonoResult[object, object]) -> None:
    assert_type(await mono, Result[object, object])


async def streams() -> None:
    stream = FluxResult.from_iterable_async(range(3), find)
    assert_type(stream, ResultStream[str, TableError])
    assert_type(stream.map_results(len), ResultStream[int, TableError])
    assert_type(stream.filter_results(bool), ResultStream[str, TableError])
    assert_type(await stream, FluxResult[str, TableError])
    assert_type(await stream.batch_collect(batch_size=10, max_concurrent=3), FluxResult[str, TableError])
    async for result in stream:
        assert_type(result, Result[str, TableError])

    flux = await stream
    assert_type(flux.map(len), FluxResult[int, TableError])
    assert_type(await flux.parallel_map_async(order), FluxResult[list[int], TableError | str])
    assert_type(await flux.collect_results(), Result[list[str], list[TableError]])
    assert_type(flux.to_list(), list[Result[str, TableError]])
