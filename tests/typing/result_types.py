"""What both type checkers must infer for Results; read by them, not run."""

from __future__ import annotations

from typing import assert_never, assert_type

from rfs.core.result import (
    Failure,
    Result,
    Success,
    async_result_decorator,
    combine,
    error_code,
    first_success,
    get_error,
    get_value,
    is_failure,
    is_success,
    partition,
    result_decorator,
    sequence,
    traverse,
    try_except,
)


class DishError(Exception):
    pass


def parse(text: str) -> Result[int, str]:
    return Success(int(text)) if text.isdigit() else Failure("not a number")


def half(n: int) -> Result[float, DishError]:
    return Success(n / 2) if n % 2 == 0 else Failure(DishError())


# A chain of five steps keeps both sides exact.
chain = parse("4").map(lambda n: n + 1).map(str).bind(parse).bind(half).map_error(repr)
assert_type(chain, Result[float, str])
assert_type(parse("4").bind(half), Result[float, DishError] | Failure[str])
assert_type(parse("4").map(lambda n: [n]), Result[list[int], str])
assert_type(parse("4").filter(lambda n: n > 3, None), Result[int, None] | Failure[str])
assert_type(parse("4").or_else(lambda: half(3)), Result[float, DishError] | Success[int])
assert_type(parse("4").unwrap(), int)
assert_type(parse("4").unwrap_error(), str)
assert_type(parse("4").unwrap_or(None), int | None)
assert_type(parse("4").get(), int | None)
assert_type(parse("4").get_error(), str | None)

# Both sides are covariant.
wide: Result[object, object] = parse("4")
empty: Success[int] = Success(1)


def by_match(result: Result[int, DishError]) -> str:
    match result:
        case Success(value):
            assert_type(value, int)
            return str(value)
        case Failure(error):
            assert_type(error, DishError)
            return error_code(error)
        case _:
            assert_never(result)


def by_question(result: Result[int, DishError]) -> int:
    if is_failure(result):
        assert_type(result, Failure[DishError])
        return 0
    assert_type(result, Success[int])
    if is_success(result):
        return result.value
    assert_never(result)


def by_class(result: Result[int, DishError]) -> int:
    if isinstance(result, Failure):
        assert_type(result.error, DishError)
        return 0
    assert_type(result.value, int)
    return result.value


assert_type(sequence([parse("1")]), Result[list[int], str])
assert_type(traverse(["1"], parse), Result[list[int], str])
assert_type(combine(parse("1"), parse("2")), Result[tuple[int, ...], str])
assert_type(first_success(parse("1")), Result[int, list[str]])
assert_type(partition([parse("1")]), tuple[list[int], list[str]])
assert_type(try_except(lambda: 7), Result[int, Exception])
assert_type(get_value(parse("1")), int | None)
assert_type(get_error(parse("1")), str | None)


@result_decorator
def plain(n: int) -> str:
    return str(n)


@async_result_decorator
async def waiting(n: int) -> str:
    return str(n)


assert_type(plain(1), Result[str, Exception])


async def decorated() -> None:
    assert_type(await waiting(1), Result[str, Exception])
