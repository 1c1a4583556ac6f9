"""Result, Success, Failure and the free functions."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable
from typing import Any, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfs.core.result import (
    Failure,
    Result,
    Success,
    async_result_decorator,
    async_try_except,
    check_is_exception,
    combine,
    failure,
    first_success,
    from_optional,
    get_error,
    get_value,
    is_failure,
    is_success,
    partition,
    pipe_results,
    result_decorator,
    sequence,
    success,
    traverse,
    try_except,
)
from rfs.errors import UnwrapError
from rfs.testing.generators import results
from rfs.testing.result_helpers import assert_result_error, assert_result_failure, assert_result_value

payloads = st.none() | st.integers() | st.text() | st.lists(st.integers())
numbers = results(st.integers(), st.text())
functions = st.functions(like=lambda n: n, returns=st.integers(), pure=True)
kleislis = st.functions(like=lambda n: n, returns=numbers, pure=True)


def divide_by_zero(_: object) -> Any:
    return 1 // 0


def never(*_: object) -> Any:
    pytest.fail("a function was called that must not be")


class TestKinds:
    @given(payloads)
    def test_any_payload_is_held_as_it_is(self, payload: object) -> None:
        """
        Whatever is put in comes out, the same object, None included.
        """
        assert Success(payload).unwrap() is payload
        assert Failure(payload).unwrap_error() is payload
        assert Success(payload).get() is payload
        assert Failure(payload).get_error() is payload

    def test_each_is_one_kind_and_not_the_other(self) -> None:
        """
        is_success and is_failure are opposites, as methods and as functions.
        """
        for result, well in ((Success(1), True), (Failure(1), False)):
            assert result.is_success() is well
            assert result.is_failure() is not well
            assert is_success(result) is well
            assert is_failure(result) is not well

    def test_isinstance_works_with_the_base(self) -> None:
        """
        Code of the ancestor's users asks isinstance(x, Result).
        """
        assert isinstance(Success(1), Result)
        assert isinstance(Failure(1), Result)
        assert not isinstance(1, Result)

    def test_annotation_can_be_taken_apart_at_run_time(self) -> None:
        """
        A web framework that reads Result[int, str] finds its parts.
        """
        base: Any = Result

        assert get_origin(base[int, str]) is base
        assert get_args(base[int, str]) == (int, str)
        assert get_args(base[int, str] | None)[1] is type(None)

    def test_patterns_match_by_position(self) -> None:
        """
        Case Success(value) and case Failure(error) bind what is held.
        """

        def told(result: Result[int, str]) -> str:
            match result:
                case Success(value):
                    return f"value {value}"
                case Failure(error):
                    return f"error {error}"

        assert told(Success(3)) == "value 3"
        assert told(Failure("sold out")) == "error sold out"

    @pytest.mark.parametrize("result", [Success(1), Failure("x")])
    def test_nothing_can_be_changed(self, result: Any) -> None:
        """
        Setting or deleting any attribute is refused, and nothing changes.
        """
        before = repr(result)

        for name in ("value", "error", "is_defect", "more"):
            with pytest.raises(AttributeError, match="cannot be changed"):
                setattr(result, name, 2)
            with pytest.raises(AttributeError, match="cannot be changed"):
                delattr(result, name)

        assert repr(result) == before
        assert not hasattr(result, "__dict__")

    def test_other_kind_is_none(self) -> None:
        """
        Get and get_error give None for the other kind, and unwrap_or its default.
        """
        failed: Result[int, str] = Failure("x")
        well: Result[int, str] = Success(1)

        assert failed.get() is None
        assert well.get_error() is None
        assert Failure("x").unwrap_or(5) == 5
        assert Success(None).unwrap_or(5) is None


class TestEquality:
    @given(payloads, payloads)
    def test_equal_when_kind_and_payload_are(self, one: object, other: object) -> None:
        """
        Two Results are equal exactly when their kinds and payloads are.
        """
        assert (Success(one) == Success(other)) is (one == other)
        assert (Failure(one) == Failure(other)) is (one == other)
        assert Success(one) != Failure(one)
        assert Success(one) != one

    def test_equal_ones_hash_alike(self) -> None:
        """
        Equal Results are one element of a set; a Success and a Failure are two.
        """
        assert len({Success(1), Success(1.0), Failure(1), Failure(1)}) == 2

    def test_defect_is_no_part_of_equality(self) -> None:
        """
        A defect equals the declared failure with the same error.
        """
        error = ValueError("x")

        assert Failure.from_exception(error) == Failure(error)

    def test_texts(self) -> None:
        """
        Str shows the payload as text, repr as code.
        """
        assert str(Success("a")) == "Success(a)"
        assert str(Failure("a")) == "Failure(a)"
        assert repr(Success("a")) == "Success('a')"
        assert repr(Failure("a")) == "Failure('a')"


class TestCopies:
    @given(payloads, st.sampled_from([Success, Failure, Failure.from_exception]))
    def test_pickle_undoes_itself(self, payload: object, make: Callable[[object], Any]) -> None:
        """
        What was pickled comes back equal, defects as defects.
        """
        result = make(payload)

        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            back = pickle.loads(pickle.dumps(result, protocol))
            assert back == result
            assert type(back) is type(result)
            assert getattr(back, "is_defect", None) is getattr(result, "is_defect", None)

    def test_copy_shares_and_deepcopy_does_not(self) -> None:
        """
        A shallow copy of what cannot change is itself; a deep one copies the payload.
        """
        result = Success([1])

        assert copy.copy(result) is result
        assert copy.deepcopy(result) == result
        assert copy.deepcopy(result).value is not result.value


class TestUnwrap:
    def test_failure_raises_with_error_and_cause(self) -> None:
        """
        Unwrap on a Failure raises a ValueError that carries the error and has it as its cause.
        """
        error = KeyError("table 7")

        with pytest.raises(UnwrapError) as caught:
            Failure(error).unwrap()

        assert isinstance(caught.value, ValueError)
        assert caught.value.error is error
        assert caught.value.__cause__ is error
        assert str(caught.value) == "unwrap() on Failure(KeyError('table 7'))"

    def test_error_that_is_no_exception_is_mentioned(self) -> None:
        """
        There is no cause to chain, but the text says what the error was.
        """
        with pytest.raises(ValueError, match="sold out") as caught:
            Failure("sold out").unwrap()

        assert caught.value.__cause__ is None

    def test_success_has_no_error_to_give(self) -> None:
        """
        unwrap_error on a Success raises and names the value.
        """
        with pytest.raises(UnwrapError, match=r"unwrap_error\(\) on Success\(5\)") as caught:
            Success(5).unwrap_error()

        assert caught.value.error is None


class TestMethods:
    def test_value_side(self) -> None:
        """
        map, bind, flat_map and filter act on a value.
        """
        assert Success(2).map(lambda n: n + 1) == Success(3)
        assert Success(2).bind(lambda n: Success(str(n))) == Success("2")
        assert Success(2).flat_map(lambda n: Failure(n)) == Failure(2)
        assert Success(2).filter(lambda n: n > 1, "small") == Success(2)
        assert Success(1).filter(lambda n: n > 1, "small") == Failure("small")

    def test_value_side_passes_errors(self) -> None:
        """
        After a Failure no function of the value side is called, and the same error goes on.
        """
        failed = Failure(["x"])

        assert failed.map(never) is failed
        assert failed.bind(never) is failed
        assert failed.flat_map(never) is failed
        assert failed.filter(never, "other") is failed

    def test_error_side(self) -> None:
        """
        map_error, or_else and recover act on an error.
        """
        assert Failure("x").map_error(len) == Failure(1)
        assert Failure("x").or_else(lambda: Success(3)) == Success(3)
        assert Failure("x").recover(len) == Success(1)

    def test_error_side_passes_values(self) -> None:
        """
        On a Success no function of the error side is called.
        """
        well = Success(1)

        assert well.map_error(never) is well
        assert well.or_else(never) is well
        assert well.recover(never) is well

    def test_bind_hands_on_what_f_gives(self) -> None:
        """
        Bind does not flatten further: a Result inside of a Result stays there.
        """
        inner = Success(Success(1))

        assert Success(0).bind(lambda _: inner) is inner


class TestDefects:
    @pytest.mark.parametrize(
        "raising",
        [
            lambda: Success(1).map(divide_by_zero),
            lambda: Success(1).bind(divide_by_zero),
            lambda: Success(1).filter(divide_by_zero, "x"),
            lambda: Failure(1).map_error(divide_by_zero),
            lambda: Failure(1).recover(divide_by_zero),
            lambda: Failure(1).or_else(lambda: divide_by_zero(1)),
        ],
    )
    def test_exception_of_a_function_becomes_a_defect(self, raising: Callable[[], Any]) -> None:
        """
        The exception object itself is the error, with the traceback to the line that raised it.
        """
        failed = raising()

        assert failed.is_defect
        trace: Any = assert_result_failure(failed, ZeroDivisionError).__traceback__
        while trace.tb_next is not None:
            trace = trace.tb_next
        assert trace.tb_frame.f_code is divide_by_zero.__code__

    def test_declared_failure_is_no_defect(self) -> None:
        """
        What the domain fails with is told apart from a bug.
        """
        assert not Failure(ValueError("x")).is_defect

    def test_defect_stays_one_through_map_error(self) -> None:
        """
        Translating the error of a bug does not make it a failure of the domain.
        """
        failed: Any = Success(1).map(divide_by_zero)

        assert failed.map_error(str).is_defect
        assert not Failure("x").map_error(str).is_defect

    @pytest.mark.parametrize("method", ["bind", "or_else"])
    def test_answer_that_is_no_result_is_a_defect(self, method: str) -> None:
        """
        A function that forgot to return a Result is named by the method it was given to.
        """
        forgetful: Any = lambda *_: 5  # noqa: E731 - a checker would not let it through
        failed: Any = Success(1).bind(forgetful) if method == "bind" else Failure(1).or_else(forgetful)

        assert failed.is_defect
        assert str(failed.error) == f"the function given to {method} must return a Result, not int"

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
    def test_what_is_no_exception_passes_through(self, kind: type[BaseException]) -> None:
        """
        Nothing takes hold of a cancellation or an exit.
        """

        def leave(*_: object) -> Any:
            raise kind

        for call in (
            lambda: Success(1).map(leave),
            lambda: Success(1).bind(leave),
            lambda: Failure(1).map_error(leave),
            lambda: Failure(1).or_else(leave),
            lambda: try_except(leave),
            lambda: result_decorator(leave)(),
        ):
            with pytest.raises(kind):
                call()


class TestLaws:
    @given(numbers)
    def test_functor_identity(self, result: Result[int, str]) -> None:
        """
        Mapping the identity changes nothing.
        """
        assert result.map(lambda n: n) == result

    @given(numbers, functions, functions)
    def test_functor_composition(
        self, result: Result[int, str], f: Callable[[int], int], g: Callable[[int], int]
    ) -> None:
        """
        Mapping one after the other is mapping both in one.
        """
        assert result.map(f).map(g) == result.map(lambda n: g(f(n)))

    @given(st.integers(), kleislis)
    def test_monad_left_identity(self, value: int, f: Callable[[int], Result[int, str]]) -> None:
        """
        Binding a plain value is calling.
        """
        assert Success(value).bind(f) == f(value)

    @given(numbers)
    def test_monad_right_identity(self, result: Result[int, str]) -> None:
        """
        Binding Success changes nothing.
        """
        assert result.bind(Success) == result

    @given(numbers, kleislis, kleislis)
    def test_monad_associativity(
        self, result: Result[int, str], f: Callable[[int], Result[int, str]], g: Callable[[int], Result[int, str]]
    ) -> None:
        """
        How binds are grouped does not matter.
        """
        assert result.bind(f).bind(g) == result.bind(lambda n: f(n).bind(g))

    @given(numbers, functions)
    def test_error_side_mirrors(self, result: Result[int, str], f: Callable[[int], int]) -> None:
        """
        Map touches no error, map_error no value.
        """
        assert get_error(result.map(f)) == get_error(result)
        assert get_value(result.map_error(len)) == get_value(result)


class TestFromPlainCode:
    def test_try_except(self) -> None:
        """
        An exception that is asked for is a Failure, and no defect.
        """
        failed: Any = try_except(lambda: int("seven"))

        assert_result_value(try_except(lambda: int("7")), 7)
        assert_result_error(failed, ValueError)
        assert not failed.is_defect

    async def test_async_try_except(self) -> None:
        """
        Plain and async functions both give a Result.
        """

        async def seven() -> int:
            return 7

        async def fails() -> int:
            raise ValueError("seven")

        assert_result_value(await async_try_except(seven), 7)
        assert_result_value(await async_try_except(lambda: 7), 7)
        assert_result_error(await async_try_except(fails), ValueError)
        assert_result_error(await async_try_except(lambda: divide_by_zero(1)), ZeroDivisionError)

    async def test_decorators(self) -> None:
        """
        A decorated function keeps its name and returns a Result.
        """

        @result_decorator
        def half(n: int) -> int:
            return 6 // n

        @async_result_decorator
        async def async_half(n: int) -> int:
            return 6 // n

        assert half.__name__ == "half"
        assert half(2) == await async_half(2) == Success(3)
        assert_result_error(half(0), ZeroDivisionError)
        assert_result_error(await async_half(0), ZeroDivisionError)

    def test_from_optional(self) -> None:
        """
        Only None is a Failure: of the given error, else of a ValueError.
        """
        assert_result_value(from_optional(0), 0)
        assert_result_error(from_optional(None, "gone"), "gone")
        assert_result_error(from_optional(None, 0), 0)
        assert_result_error(from_optional(None), ValueError)

    def test_small_ones(self) -> None:
        """
        success, failure, get_value, get_error and check_is_exception say what their names say.
        """
        assert success(1) == Success(1)
        assert failure(1) == Failure(1)
        assert get_value(Success(None), 5) is None
        assert get_value(Failure("x"), 5) == 5
        assert get_error(Success(1)) is None
        assert check_is_exception(ValueError())
        assert not check_is_exception(ValueError)
        assert not check_is_exception(KeyboardInterrupt())


class TestMany:
    @given(st.lists(numbers))
    def test_sequence_and_partition_agree(self, many: list[Result[int, str]]) -> None:
        """
        Nothing is lost: partition has every payload in order, sequence all values or the first error.
        """
        values, errors = partition(many)

        assert [r.value for r in many if is_success(r)] == values
        assert [r.error for r in many if is_failure(r)] == errors
        assert sequence(many) == (Failure(errors[0]) if errors else Success(values))
        assert combine(*many) == (Failure(errors[0]) if errors else Success(tuple(values)))

    @given(st.lists(numbers))
    def test_first_success(self, many: list[Result[int, str]]) -> None:
        """
        The first Success is handed on; without one, all errors are.
        """
        values, errors = partition(many)

        assert first_success(*many) == (Success(values[0]) if values else Failure(errors))

    def test_traverse_stops_at_the_first_failure(self) -> None:
        """
        Items behind the first Failure are not tried, and an exception is one too.
        """
        tried: list[int] = []

        def checked(n: int) -> Result[int, str]:
            tried.append(n)
            return Success(n) if n < 2 else Failure("big")

        assert_result_error(traverse([0, 1, 2, 3], checked), "big")
        assert tried == [0, 1, 2]
        assert_result_value(traverse([], checked), [])
        assert_result_error(traverse([1], divide_by_zero), ZeroDivisionError)

    def test_pipe_results(self) -> None:
        """
        A pipe binds from left to right up to the first Failure.
        """
        pipe = pipe_results(lambda n: Success(n + 1), lambda n: Success(n * 10) if n < 3 else Failure("big"), Success)

        assert_result_value(pipe(1), 20)
        assert_result_error(pipe(5), "big")
        assert_result_value(pipe_results()(1), 1)


class TestHash:
    def test_kind_and_payload_decide(self) -> None:
        """
        Results that differ in kind or payload are no burden to one another in a set.
        """
        assert len({hash(Success(1)), hash(Success(2)), hash(Failure(1)), hash(Failure(2))}) == 4


class TestOptionalText:
    def test_missing_value_says_so(self) -> None:
        """
        Where no error was given, the ValueError tells that there was no value.
        """
        assert str(assert_result_error(from_optional(None), ValueError)) == "value is None"


class TestRefusals:
    def test_refusal_names_what_was_tried(self) -> None:
        """
        Who tries to change a Result reads on which attribute.
        """
        result: Any = Success(1)

        with pytest.raises(AttributeError, match=r"^Success cannot be changed: tried to set 'value'$"):
            result.value = 2
        with pytest.raises(AttributeError, match=r"^Success cannot be changed: tried to delete 'value'$"):
            del result.value


class TestErrorsComeThrough:
    def test_error_is_found(self) -> None:
        """
        get_error gives a Failure's own error.
        """
        error = ["x"]

        assert get_error(Failure(error)) is error

    def test_translated_error_of_a_defect(self) -> None:
        """
        Of a defect, too, map_error keeps what the function made.
        """
        failed: Any = Success(1).map(divide_by_zero)

        assert failed.map_error(lambda error: [error]).error == [failed.error]
