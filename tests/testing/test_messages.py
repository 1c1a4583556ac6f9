"""What failure messages show of Results, errors and differences."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from rfs.core import result as core
from rfs.core.result import Failure, Result, Success, try_except
from rfs.reactive import FluxResult, MonoResult
from rfs.testing import _births
from rfs.testing._messages import describe, difference, equal, fail, shown

HERE = "tests/testing/test_messages.py"


@pytest.fixture
def remembered() -> Iterator[None]:
    """Births are noted during the test."""
    with _births.remembered():
        yield


class SoldOutError(Exception):
    code = "SOLD_OUT"
    expected = True


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError


class Uncomparable:
    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not like this")

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "Uncomparable()"


async def sold_out(_: object) -> Result[int, str]:
    return Failure("SOLD_OUT")


async def broken(_: object) -> Result[int, str]:
    raise ZeroDivisionError("by the cook")


class TestDescribe:
    def test_success_is_its_value(self) -> None:
        """
        A Success is shown as it is written.
        """
        assert describe(Success({"id": 1})) == "Success({'id': 1})"

    def test_failure_shows_its_code(self) -> None:
        """
        A Failure shows its code, and that the domain expects it.
        """
        assert describe(Failure(SoldOutError("bibimbap"))).splitlines() == [
            "Failure(SoldOutError('bibimbap'))",
            "    code: SOLD_OUT (an expected failure)",
        ]

    def test_exception_shows_where_it_was_raised(self) -> None:
        """
        A caught exception leads to the line that raised it, and to its cause.
        """

        def cook() -> int:
            try:
                return DISHES["rice"]
            except KeyError as error:
                raise SoldOutError("rice") from error

        told = describe(try_except(cook))

        assert re.search(rf"raised at: {HERE}:\d+ in .*cook$", told, re.MULTILINE)
        assert re.search(rf"cause: KeyError\('rice'\), raised at {HERE}:\d+ in .*cook$", told, re.MULTILINE)

    def test_a_cause_that_was_never_raised_has_no_place(self) -> None:
        """
        Of a cause that was only made, what it is is all there is to tell.
        """
        error = SoldOutError("rice")
        error.__cause__ = KeyError("rice")

        assert describe(error).splitlines()[1:] == ["    code: SOLD_OUT", "    cause: KeyError('rice')"]

    def test_bare_exception_shows_its_code(self) -> None:
        """
        An exception outside of a Failure is told alike.
        """
        assert describe(SoldOutError("rice")) == "SoldOutError('rice')\n    code: SOLD_OUT"

    def test_other_values_are_their_repr(self) -> None:
        """
        Whatever is no Result and no exception is shown as Python shows it.
        """
        assert describe([1, "x"]) == "[1, 'x']"

    def test_hostile_repr_hides_nothing(self) -> None:
        """
        A value that cannot be shown does not take the message with it.
        """
        assert describe(Failure(Unshowable())).splitlines() == [
            "Failure(<Unshowable, whose repr raises RuntimeError>)",
            "    code: Unshowable",
        ]

    def test_long_value_is_cut_and_says_so(self) -> None:
        """
        A megabyte of text does not flood the terminal, and the reader knows how much is missing.
        """
        told = shown("x" * 10_000)

        assert len(told) < 2_100
        assert told.endswith("(8002 more characters)")
        assert shown("x" * 1_998) == f"'{'x' * 1_998}'"
        assert shown("x" * 1_999) == f"'{'x' * 1_999}... (1 more characters)"


class RaceForOldest(dict[int, _births.Birth]):
    """Births of which another thread drops the oldest when this one has just found it."""

    def __iter__(self) -> Iterator[int]:
        oldest = next(super().__iter__())
        del self[oldest]
        return iter([oldest])


class RaceForRoom(dict[int, _births.Birth]):
    """Births to which another thread adds one before this one has found the oldest."""

    def __iter__(self) -> Iterator[int]:
        found = super().__iter__()
        self[-1] = _births.Birth("", "", "", ())
        return found


@pytest.mark.usefixtures("remembered")
class TestBirth:
    def test_value_is_told_by_where_its_failure_was_made(self) -> None:
        """
        An error that is no exception leads to the line that made its Failure.
        """
        failure = Failure("SOLD_OUT")

        told = describe(failure)

        line = TestBirth.test_value_is_told_by_where_its_failure_was_made.__code__.co_firstlineno + 4
        assert f"made at: {HERE}:{line} in TestBirth.test_value_is_told_by_where_its_failure_was_made" in told
        assert "step" not in told

    async def test_step_and_chain_are_told(self) -> None:
        """
        A Failure of a chain names the step that made it, the chain, and the line inside the step.
        """
        result = await MonoResult.from_value(7).bind_async_result(sold_out).log_step("sold").name("order")

        assert re.search(rf"    step: sold_out of order\n    made at: {HERE}:\d+ in sold_out$", describe(result))

    async def test_defect_names_its_step_and_its_own_line(self) -> None:
        """
        What a step raised is told with the step, and the line that raised it.
        """
        result = await MonoResult.from_value(7).bind_async_result(broken, name="cook")

        told = describe(result)

        assert "code: ZeroDivisionError (a defect)\n    step: cook\n" in told
        assert re.search(rf"raised at: {HERE}:\d+ in broken$", told)

    async def test_late_step_is_named_by_its_error(self) -> None:
        """
        After a time limit the step is the one that was cancelled.
        """

        async def wait(_: object) -> Result[int, str]:
            await asyncio.Event().wait()
            return Success(1)

        told = describe(await MonoResult.from_value(7).bind_async_result(wait, name="oven").timeout(0))

        assert told.splitlines()[1:3] == ["    code: TIMEOUT", "    step: oven"]
        assert "cause" not in told

    async def test_map_error_keeps_the_birth(self) -> None:
        """
        An error that was mapped twice still leads to where it came from, and names the two functions.
        """

        def to_code(error: str) -> tuple[str]:
            return (error,)

        result = await MonoResult.from_value(7).bind_async_result(sold_out).map_error(to_code).map_error(str)

        told = describe(result)

        assert re.search(rf"step: sold_out\n    made at: {HERE}:\d+ in sold_out\n", told)
        assert re.search(rf"then map_error: {HERE}:\d+ in .*to_code\n    then map_error: <class 'str'>$", told)

    def test_map_error_of_an_older_failure_is_a_birth(self) -> None:
        """
        What was made before anybody asked is known from its first map_error on.
        """
        failure = OLDER.map_error(str.lower)

        birth = _births.birth_of(failure)

        assert birth is not None
        assert birth.origin.startswith(f"{HERE}:")
        assert birth.by_way_of == ("<method 'lower' of 'str' objects>",)

    def test_directory_is_gone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Where the working directory has been removed, a birth is told by the whole path.
        """
        gone = tmp_path / "gone"
        gone.mkdir()
        monkeypatch.chdir(gone)
        gone.rmdir()

        assert _births.path(f"{tmp_path}/orders.py") == f"{tmp_path}/orders.py"

    def test_threads_are_covered(self) -> None:
        """
        A Failure that another thread makes has a birth, too.
        """
        made: list[Failure[str]] = []

        def work() -> None:
            made.append(Failure("x"))

        thread = Thread(target=work)
        thread.start()
        thread.join()

        birth = _births.birth_of(made[0])
        assert birth is not None
        assert birth.origin.endswith("work")

    def test_memory_is_bounded(self) -> None:
        """
        A loop that fails for ever leaves the newest births and no more.
        """
        failures = [Failure(number) for number in range(_births.KEPT + 5)]

        assert len(_births._births) <= _births.KEPT
        assert _births.birth_of(failures[0]) is None
        assert _births.birth_of(failures[-1]) is not None

    def test_the_newest_are_kept(self) -> None:
        """
        As many as there is room for; one that is noted once more is among the newest.
        """
        failures = [Failure(number) for number in range(_births.KEPT)]
        known = _births.birth_of(failures[0])
        assert known is not None
        _births.note(failures[0], known)

        after = Failure("after")

        kept = [_births.birth_of(each) is not None for each in (*failures[:3], after)]
        assert kept == [True, False, True, True]

    @pytest.mark.parametrize("meanwhile", [RaceForOldest, RaceForRoom])
    def test_another_thread_may_drop_the_oldest(
        self, meanwhile: type[dict[int, _births.Birth]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        Who finds that another one has just done so, or has noted a birth meanwhile, leaves it at that.
        """
        monkeypatch.setattr(_births, "KEPT", 0)
        monkeypatch.setattr(_births, "_births", meanwhile())

        failure = Failure("x")

        assert (failure.error, len(_births._births)) == ("x", 0 if meanwhile is RaceForOldest else 2)

    def test_a_birth_outside_of_chains(self) -> None:
        """
        Has its line, and neither a step nor a chain.
        """
        line = TestBirth.test_a_birth_outside_of_chains.__code__.co_firstlineno + 6

        known = _births.birth_of(Failure("x"))

        where = f"{HERE}:{line} in TestBirth.test_a_birth_outside_of_chains"
        assert known == _births.Birth(origin=where, step="", chain="", by_way_of=())

    def test_who_runs_the_loop_made_nothing(self) -> None:
        """
        What a task of RFS makes by itself has no line, and where no step made it, no birth: the caller of the loop is innocent.
        """

        async def wait(_: object) -> Result[int, str]:
            await asyncio.Event().wait()
            return Success(1)

        late = asyncio.run(MonoResult.from_value(7).bind_async_result(wait).timeout(0).to_result())
        batch = asyncio.run(FluxResult.from_async_results([partial(broken, 7)]))

        assert isinstance(late, Failure)
        assert _births.birth_of(late) == _births.Birth(origin="", step="timeout", chain="", by_way_of=())
        (failed,) = batch
        assert isinstance(failed, Failure)
        assert _births.birth_of(failed) is None

    def test_nothing_is_kept_alive(self) -> None:
        """
        An error dies when the program lets go of it.
        """
        alive: list[str] = []

        class Dish:
            def __del__(self) -> None:
                alive.append("gone")

        Failure(Dish())

        assert alive == ["gone"]


DISHES: dict[str, int] = {}
OLDER: Failure[str] = Failure("SOLD_OUT")


class TestRemembered:
    def test_overlapping_blocks_end_with_the_last(self) -> None:
        """
        Births are noted until the last block is left, whichever began first; then making a Failure is as it was.
        """
        one, other = _births.remembered(), _births.remembered()

        one.__enter__()
        other.__enter__()
        one.__exit__(None, None, None)
        during = Failure("x")
        known = _births.birth_of(during)
        other.__exit__(None, None, None)
        after = Failure("x")

        assert known is not None
        assert _births.birth_of(during) is None
        assert _births.birth_of(after) is None
        assert core._set_error is _births._set_error

    def test_ends_with_an_exception(self) -> None:
        """
        A block that raises leaves nothing behind.
        """
        with pytest.raises(ZeroDivisionError), _births.remembered():
            raise ZeroDivisionError

        assert core._set_error is _births._set_error


@dataclass
class Dish:
    name: str
    price: int
    tags: list[str] = field(default_factory=list)
    kept: object = field(default=None, compare=False)


class Model(BaseModel):
    name: str
    dish: dict[str, int]


class Struct(msgspec.Struct):
    name: str
    price: int


class Point(NamedTuple):
    x: int
    y: int


class Half:
    """An object of which one may have a field that another has not."""

    _fields = ("dish",)

    def __init__(self, **fields: object) -> None:
        vars(self).update(fields)

    def __repr__(self) -> str:
        return f"Half({vars(self)})"


class Table:
    """A class as attrs leaves it."""

    __attrs_attrs__ = (SimpleNamespace(name="number"), SimpleNamespace(name="guest"))

    def __init__(self, number: int, guest: str) -> None:
        self.number = number
        self.guest = guest


class IsPositive:
    """A matcher as dirty-equals makes them."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int) and other > 0

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "IsPositive()"


class TestDifference:
    @pytest.mark.parametrize(
        ("expected", "actual", "told"),
        [
            (1, 2, "value: expected 1, got 2"),
            (1, "1", "value: expected 1, got '1'"),
            ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, "['a']['b'][1]: expected 2, got 3"),
            ({"a": 1}, {"b": 1}, "['a']: expected 1, missing\n['b']: not expected, got 1"),
            ([1], [1, 2], "[1]: not expected, got 2"),
            (Dish("a", 1, ["x"]), Dish("a", 2, ["y"]), ".price: expected 1, got 2\n.tags[0]: expected 'x', got 'y'"),
            (Model(name="a", dish={"p": 1}), Model(name="a", dish={"p": 2}), ".dish['p']: expected 1, got 2"),
            (Struct("a", 1), Struct("a", 2), ".price: expected 1, got 2"),
            (Point(1, 2), Point(1, 3), ".y: expected 2, got 3"),
            (Success(Point(1, 2)), Success(Point(2, 2)), ".value.x: expected 1, got 2"),
            (Failure("a"), Failure("b"), ".error: expected 'a', got 'b'"),
            (Success(1), Failure(1), "value: expected Success(1), got Failure(1)"),
            ("one\ntwo", "one\nTwo", "text:\n      one\n    - two\n    + Two"),
            ("one\ntwo", "two", "text:\n    - one\n      two"),
            ("two", "one\ntwo", "text:\n    + one\n      two"),
            (["one", "two\n"], ["One", "two\n"], "[0]: expected 'one', got 'One'"),
            (Table(7, "a"), Table(7, "b"), ".guest: expected 'a', got 'b'"),
            (Half(dish="a"), Half(), "value: expected Half({'dish': 'a'}), got Half({})"),
            (Half(), Half(dish="a"), "value: expected Half({}), got Half({'dish': 'a'})"),
            (float("nan"), float("nan"), "value: expected nan, got nan"),
            ({"id": IsPositive(), "n": 1}, {"id": 5, "n": 2}, "['n']: expected 1, got 2"),
            ({"id": IsPositive()}, {"id": -5}, "['id']: expected IsPositive(), got -5"),
        ],
    )
    def test_names_the_place(self, expected: object, actual: object, told: str) -> None:
        """
        A difference is told by the way to it, and by nothing that is equal.
        """
        assert difference(expected, actual) == told

    @pytest.mark.parametrize(
        ("expected", "actual"), [(1, 1), (IsPositive(), 3), ([IsPositive()], [3]), (pytest.approx(0.3), 0.1 + 0.2)]
    )
    def test_equal_values_do_not_differ(self, expected: object, actual: object) -> None:
        """
        Where all is as expected, that is said; matchers are as good as values.
        """
        assert equal(expected, actual)
        assert difference(expected, actual) == "no difference"

    def test_values_that_look_alike_are_told_by_their_types(self) -> None:
        """
        Two values of one look are no riddle.
        """

        class One(int):
            def __eq__(self, other: object) -> bool:
                return self is other

            def __hash__(self) -> int:
                return 1

        assert difference(1, One(1)) == "value: expected 1, got 1 (int and One)"

    def test_comparison_that_raises_is_told(self) -> None:
        """
        What cannot be compared is not equal, and the message says why.
        """
        assert not equal([Uncomparable()], [Uncomparable()])
        said = "cannot be compared: RuntimeError('not like this')"
        assert difference([Uncomparable()], [1]) == f"value: [Uncomparable()] and [1] {said}"
        assert difference({"a": 1, "b": Uncomparable()}, {"a": 2, "b": 3}) == (
            f"['a']: expected 1, got 2\n['b']: Uncomparable() and 3 {said}"
        )

    def test_equal_parts_of_unequal_wholes(self) -> None:
        """
        A class that compares otherwise is shown in one piece.
        """

        class Own(list[int]):
            def __eq__(self, other: object) -> bool:
                return False

            __hash__ = None

        assert difference(Own([1]), Own([1])) == "value: [1] does not equal [1]"

    def test_long_difference_is_cut_and_says_so(self) -> None:
        """
        A thousand differences are twenty, and a number.
        """
        lines = difference([0] * 1000, [1] * 1000).splitlines()

        assert len(lines) == 21
        assert lines[-1] == "... and 980 more"
        assert difference([0] * 20, [1] * 20).splitlines()[-1] == "[19]: expected 0, got 1"
        assert difference([0] * 21, [1] * 21).splitlines()[-1] == "... and 1 more"

    def test_deep_values_end(self) -> None:
        """
        A value nested beyond reason is shown in one piece from some depth on.
        """
        expected: list[Any] = [1]
        actual: list[Any] = [2]
        for _ in range(50):
            expected, actual = [expected], [actual]

        assert difference(expected, actual).startswith("[0]" * 20 + ": expected ")

    @given(
        st.recursive(
            st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
        ),
        st.data(),
    )
    def test_says_nothing_of_equal_values(self, value: object, data: st.DataObject) -> None:
        """
        There is a difference to tell if and only if two values are not equal.
        """
        other = data.draw(st.just(value) | st.integers() | st.lists(st.integers()))

        assert (difference(value, other) == "no difference") == (value == other)


class TestFail:
    def test_raises_with_the_message(self) -> None:
        """
        The test fails, and its report is the message.
        """
        with pytest.raises(AssertionError, match=r"^cold rice$"):
            fail("cold rice")
