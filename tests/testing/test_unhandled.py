"""Which Failures are told as looked at by nobody, and which are not."""

from __future__ import annotations

import _thread
import asyncio
import copy
import inspect
import pickle
import threading
from collections.abc import Callable
from contextlib import ExitStack, aclosing
from typing import Any, cast

import pytest

from rfs.core import result as core
from rfs.core.result import (
    Failure,
    Result,
    Success,
    first_success,
    get_error,
    is_failure,
    is_success,
    partition,
    sequence,
)
from rfs.monitoring import Monitor, collect_result_metric, info, log_result_operation, use_monitor
from rfs.reactive import FluxResult, MonoResult
from rfs.testing import _births
from rfs.testing._unhandled import Watch
from rfs.testing.result_helpers import mock_result_service
from tests.faults.processes import FAR_SECONDS, eventually

handed_on: list[object] = []
HASH = hash(Failure("OUT_OF_RICE"))


@log_result_operation("kitchen.cook")
def cook() -> Result[int, str]:
    return Failure("OUT_OF_RICE")


async def later() -> Result[int, str]:
    return Failure("OUT_OF_RICE")


async def soon() -> Result[int, str]:
    await asyncio.sleep(0.01)
    return Success(1)


async def breaks() -> Result[int, str]:
    raise ValueError("a bug")


def watched(work: Callable[[], Any]) -> list[str]:
    """The functions in which those were made that nobody looked at while *work* ran."""
    with use_monitor(Monitor()) as monitor, Watch() as watch:
        if inspect.iscoroutinefunction(work):
            asyncio.run(work())
        else:
            work()
        found = [one.birth.origin.rpartition(" in ")[2] if one.birth else "" for one in watch.unhandled()]
    assert not [text for text in monitor.diagnostics if "RFS-E100" in text]  # what records was not disturbed
    return found


# Ways to drop a Failure. Each is told once.


def dropped() -> None:
    Failure("x")


def kept_in_a_name() -> None:
    result = cook()  # noqa: F841


def mapped_and_dropped() -> None:
    cook().map(str).bind(Success).filter(bool, "empty")


def error_mapped_and_dropped() -> None:
    cook().map_error(str.lower)


def in_sequence() -> None:
    sequence([Success(1), cook()])


def in_a_cycle() -> None:
    circle: list[object] = [Failure("x")]
    circle.append(circle)


def in_a_thread() -> None:
    thread = threading.Thread(target=cook)
    thread.start()
    thread.join()


def unpickled() -> None:
    pickle.loads(pickle.dumps(("x", Failure("x"))))


async def chain() -> None:
    await MonoResult(later).map(str).log_step("cook").log_error("cooking").to_result()


async def chain_that_breaks() -> None:
    await MonoResult(breaks).to_result()


async def task() -> None:
    cooking = asyncio.create_task(later())
    await asyncio.sleep(0)
    assert "result=Failure('OUT_OF_RICE')" in repr(cooking)
    del cooking


def main_task() -> None:
    asyncio.run(later())


def main_task_of_a_batch() -> None:
    async def many() -> FluxResult[int, str]:
        return await FluxResult.from_iterable_async([1, 2], lambda _: later())

    asyncio.run(many())


async def chain_for_others() -> None:
    await MonoResult(later).recover(len, on_codes="BURNT").retry(2, on_codes="BURNT").to_result()


def logged() -> None:
    info("cooked", dish=cook(), dishes=[cook()])


def in_an_exit_stack() -> None:
    with ExitStack() as stack:
        stack.callback(cook)


async def in_the_place_of_one_that_was_looked_at() -> None:
    async def step() -> Result[int, str]:
        looked_at = [await MonoResult(later) for _ in range(100)]
        assert all(result.is_failure() for result in looked_at)
        places = {id(result) for result in looked_at}
        looked_at.clear()
        others: list[Result[int, str]] = []
        while id(ignored := cook()) not in places:  # soon one has the address of one of those
            assert ignored.is_failure()
            others.append(ignored)
            assert len(others) < 10_000
        return Success(1)

    assert (await MonoResult(step)).is_success()


async def inside_of_a_step() -> None:
    async def step() -> Result[int, str]:
        ignored = cook()  # noqa: F841
        return Success(1)

    assert (await MonoResult(step)).is_success()


async def batch() -> None:
    batch = await FluxResult.from_iterable_async([1, 2], lambda _: later())
    assert batch.count_total() == 2


DROPPED = {
    dropped: ["dropped"],
    kept_in_a_name: ["cook"],
    mapped_and_dropped: ["cook"],
    error_mapped_and_dropped: ["cook"],
    in_sequence: ["cook"],
    in_a_cycle: ["in_a_cycle"],
    in_a_thread: ["cook"],
    unpickled: ["unpickled"],
    chain: ["later"],
    chain_that_breaks: ["chain_that_breaks"],
    task: ["later"],
    main_task: ["later"],
    main_task_of_a_batch: ["later", "later"],
    chain_for_others: ["later"],
    logged: ["cook", "cook"],
    in_an_exit_stack: ["cook"],
    in_the_place_of_one_that_was_looked_at: ["cook"],
    inside_of_a_step: ["cook"],
    batch: ["later", "later"],
}


# Ways to look at it, and to hand it on. None is told.


def by_method() -> None:
    assert cook().is_failure()
    assert not cook().is_success()
    assert cook().unwrap_error() == cook().get_error() == "OUT_OF_RICE"
    assert cook().unwrap_or(3) == 3
    assert cook().get() is None
    with pytest.raises(ValueError, match="OUT_OF_RICE"):
        cook().unwrap()


def by_function() -> None:
    assert is_failure(cook())
    assert not is_success(cook())
    assert get_error(cook()) == "OUT_OF_RICE"
    assert partition([cook()]) == ([], ["OUT_OF_RICE"])
    assert first_success(cook(), Success(1)) == Success(1)


def by_class() -> None:
    assert isinstance(cook(), Failure)
    assert not isinstance(cook(), Success)
    result = cook()
    assert isinstance(result, Failure)
    assert isinstance(cast("object", result), Result)


def by_match() -> None:
    match cook():
        case Failure():
            pass
        case Success(_):
            raise AssertionError
    match cook():
        case Success(_):
            raise AssertionError
        case Failure(error):
            assert error == "OUT_OF_RICE"


def by_comparison() -> None:
    assert cook() == Failure("OUT_OF_RICE")
    assert Failure("x") == Failure("x")
    assert Success(1) != cook()
    assert len({Failure("x"), Failure("x")}) == 1
    assert hash(cook()) == HASH


def by_text() -> None:
    assert str(cook()) == "Failure(OUT_OF_RICE)"
    assert repr(cook()) == "Failure('OUT_OF_RICE')"
    assert copy.copy(cook()).is_failure()


def by_taking_up() -> None:
    assert cook().recover(len) == Success(11)
    assert cook().or_else(lambda: Success(1)) == Success(1)
    assert cook().map(str).map_error(str.lower).error == "out_of_rice"  # type: ignore[union-attr] # it is a Failure


def by_measuring() -> None:
    collect_result_metric("kitchen.cook", cook(), 1.0)


def by_keeping() -> None:
    handed_on.append(cook())


def defect() -> None:
    broken: Result[int, str] = Success(0).map(lambda number: 1 // number)
    assert is_failure(broken)
    assert broken.is_defect


async def by_chain() -> None:
    assert (await MonoResult(later).map(str).log_step("cook").to_result()) == Failure("OUT_OF_RICE")
    assert (await MonoResult(later).on_error_return_value(5)).unwrap() == 5
    assert (await MonoResult(later).map_error(str.lower)).unwrap_error() == "out_of_rice"
    kept = MonoResult(later).cache()
    assert (await kept).is_failure()
    assert (await kept).is_failure()


async def by_retry() -> None:
    tries: list[int] = []

    async def third() -> Result[int, str]:
        tries.append(1)
        return Success(1) if len(tries) > 2 else Failure("again")

    assert (await MonoResult(third).retry(5)).is_success()


async def by_race_and_limit() -> None:
    assert (await MonoResult(later).first_success(MonoResult(later), MonoResult(soon))).is_success()
    assert (await MonoResult(later).zip(MonoResult(later), MonoResult(soon))).is_failure()
    assert (await MonoResult(later).timeout(1)).is_failure()


async def by_batch() -> None:
    batch = FluxResult.from_results([Success(1), cook()]).map(str)
    assert batch.count_failures() == 1
    assert (await FluxResult.from_iterable_async([1], lambda _: later())).filter_success().count_total() == 0
    assert (await FluxResult.from_results([cook()]).collect_results()).unwrap_error() == ["OUT_OF_RICE"]


async def by_leaving_a_stream() -> None:
    async with aclosing(aiter(FluxResult.from_iterable_async(range(20), lambda _: later()))) as results:
        async for result in results:
            assert result.is_failure()
            break


LOOKED_AT = [
    by_method,
    by_function,
    by_class,
    by_match,
    by_comparison,
    by_text,
    by_taking_up,
    by_measuring,
    by_keeping,
    defect,
    by_chain,
    by_retry,
    by_race_and_limit,
    by_batch,
    by_leaving_a_stream,
]


class TestWatch:
    @pytest.mark.parametrize("work", DROPPED, ids=lambda work: work.__name__)
    def test_tells_what_was_dropped(self, work: Callable[[], Any]) -> None:
        """
        Whatever way it went, a Failure that nobody looked at is told with the function that made it.
        """
        assert watched(work) == DROPPED[work]

    @pytest.mark.parametrize("work", LOOKED_AT, ids=lambda work: work.__name__)
    def test_no_false_alarm(self, work: Callable[[], Any]) -> None:
        """
        One that was looked at, taken up, handed on, or dropped by a chain that was told to is not told.
        """
        assert watched(work) == []
        handed_on.clear()

    def test_names_the_line(self) -> None:
        """
        The place is that of the call; of a defect the message also has the line that raised.
        """
        line = inspect.getsourcelines(dropped)[1] + 1

        with Watch() as watch:
            dropped()
        with Watch() as broken:
            asyncio.run(chain_that_breaks())

        assert "raised at: " in broken.message()
        assert " in breaks\n" in f"{broken.message()}\n"
        [one] = watch.unhandled()
        assert one.birth is not None
        assert one.birth.origin.endswith(f"test_unhandled.py:{line} in dropped")

    def test_costs_nothing_afterwards(self) -> None:
        """
        Outside of a watch Failures are made as if there were none, and those that were watched are of their own class.
        """
        before = core._set_error
        with Watch():
            kept = Failure("x")
            seen = Failure("y")
            assert seen.is_failure()
            assert core._set_error is not before

        assert core._set_error is before
        assert type(Failure("x")) is type(seen) is Failure
        assert kept.is_failure()
        assert type(kept) is Failure

    def test_holds_nothing(self) -> None:
        """
        What an error holds is let go of when the program does, and not at the end of the test.
        """
        ended: list[str] = []

        class Held:
            def __del__(self) -> None:
                ended.append("held")

        with Watch() as watch:
            assert Failure(Held()).is_failure()
            assert ended == ["held"]
            assert watch.unhandled() == []

    def test_nested(self) -> None:
        """
        A Failure belongs to the innermost watch; the outer one goes on.
        """
        with Watch() as outer:
            with Watch() as inner:
                dropped()
            mapped_and_dropped()

        assert [len(each.found) for each in (outer, inner)] == [1, 1]

    def test_one_that_ends_leaves_the_others_theirs(self) -> None:
        """
        What is still held when the inner watch ends is nobody's afterwards; what belongs to the outer one is still its own.
        """
        with Watch() as outer:
            kept = cook()
            with Watch() as inner:
                held = cook()
            del held
            del kept

        assert [len(each.found) for each in (outer, inner)] == [1, 0]

    def test_leaves_those_who_remember_births_alone(self) -> None:
        """
        Where births are remembered longer than a watch lasts, Failures are made as before.
        """
        with _births.remembered():
            with Watch():
                pass
            failure = Failure("x")
            birth = _births.birth_of(failure)

        assert birth is not None
        assert type(failure) is Failure

    def test_derived_classes_are_left_alone(self) -> None:
        """
        A Failure of a class derived from Failure keeps its class, and nobody has to look at it.
        """

        class Burnt(Failure[str]):
            __slots__ = ()

        with Watch() as watch:
            burnt = Burnt("x")
            assert type(burnt) is Burnt
            del burnt

        assert watch.unhandled() == []

    def test_may_be_looked_at_by_two_at_once(self) -> None:
        """
        Who was on the way to show it, while another thread has looked, shows it all the same.
        """
        with Watch() as watch:
            result = Failure("x")
            show = type(result).__repr__
            assert result.is_failure()
            assert show(result) == "Failure('x')"
            assert type(result) is Failure
            del result

        assert watch.unhandled() == []

    def test_below_all_code(self) -> None:
        """
        In a thread that runs a function of C's there is no code of Python's below: who asks there looks, what is dropped there is told.
        """
        ended = threading.Event()
        written: list[str] = []

        class Page:
            def write(self, text: str) -> None:
                written.append(text)
                if text == "\n":
                    ended.set()

        with Watch() as watch:
            shown = Failure("x")
            _thread.start_new_thread(print, (shown,), {"file": Page()})
            assert ended.wait(FAR_SECONDS)
            assert type(shown) is Failure
            _thread.start_new_thread(getattr, (Failure("y"), "error"))
            _thread.start_new_thread(id, (Failure("z"),))
            found = eventually(watch.unhandled)

        assert written == ["Failure(x)", "\n"]
        assert [one.failure.error for one in found] == ["z"]

    def test_many_threads(self, switching_often: None) -> None:
        """
        Of Failures made and looked at by several threads at once, exactly those are told that were dropped.
        """

        def work() -> None:
            for number in range(200):
                result = Failure(number)
                if number % 10:
                    assert result.is_failure()
                del result

        with Watch() as watch:
            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        assert sorted(one.failure.error for one in watch.unhandled()) == sorted(
            4 * [number for number in range(200) if not number % 10]
        )

    def test_message(self) -> None:
        """
        The message has each Failure and its place.
        """
        with Watch() as watch:
            dropped()
            dropped()

        lines = watch.message().splitlines()
        assert lines[0] == "2 Failures that nobody looked at:"
        assert "Failure('x')" in lines[1]
        assert "made at: " in watch.message()

    def test_allowed(self) -> None:
        """
        A test may say that it lets Failures go.
        """
        with Watch() as watch:
            watch.allow()
            dropped()

        assert watch.message() == ""


class Kitchen:
    def cook(self, dish: str) -> Result[int, str]:
        return Success(len(dish))


def serve(kitchen: Kitchen) -> str:
    kitchen.cook("bibimbap")
    return "served"


class TestMocks:
    def test_prepared_and_never_asked_for(self) -> None:
        """
        Nobody has to look at a Failure that a mock holds ready.
        """
        with Watch() as watch, mock_result_service(Kitchen(), "cook") as mock:
            mock.return_error("OUT_OF_RICE").inject_fault(Failure("BURNT"), calls={7})

        assert watch.unhandled() == []

    def test_asked_for_and_lost(self) -> None:
        """
        Each call of a mock makes its Failure anew: one that the code under test loses is told with the line that called.
        """
        kitchen = Kitchen()

        with Watch() as watch, mock_result_service(kitchen, "cook") as mock:
            mock.return_sequence([Failure("OUT_OF_RICE"), Failure("OUT_OF_RICE")])
            assert kitchen.cook("bibimbap").is_failure()
            assert serve(kitchen) == "served"

        [one] = watch.unhandled()
        assert one.failure == Failure("OUT_OF_RICE")
        assert one.birth is not None
        assert one.birth.origin.endswith(" in serve")
