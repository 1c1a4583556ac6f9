"""
Say in one line what code that returns Results must do, and stand in for the services it calls.

Each ``assert_*`` returns what it looked at, typed, and when it fails it shows code, step and origin of a Failure and where two
values differ. It raises and does not assert, so it holds under ``python -O`` too. Wherever a value is expected, a matcher is as
good: whatever has an ``==`` of its own (``dirty_equals``, ``pytest.approx``)::

    with mock_result_service("user_service", "get_user_async") as mock:
        mock.return_success(user)

        result = await get_user("123")

    assert_result_success(result, UserResponse)
    mock.assert_called_once_with("123")

Mocks may be nested, and used by tasks and threads at the same time. Needs no test framework but for the marks, which are pytest's.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Container,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import wraps
from itertools import count
from textwrap import indent
from threading import Lock
from types import FrameType
from typing import Any, Generic, Never, TypeVar, cast, overload

from typing_extensions import TypeIs

from rfs.core.result import AnyResult, Failure, Result, Success, error_code
from rfs.errors import MockError, MockTargetError, StepTimeoutError
from rfs.monitoring.monitor import Monitor, use_monitor
from rfs.monitoring.result_logging import LogLevel, configure_result_logging
from rfs.reactive import _chain
from rfs.reactive.flux_result import FluxResult
from rfs.reactive.mono_result import MonoResult
from rfs.testing._births import remembered
from rfs.testing._messages import describe, difference, equal, fail, shown
from rfs.testing._services import Method, find, having, name_of, put, registered_service, take

__all__ = [
    "ResultServiceMocker",
    "ResultTestContext",
    "ResultTestDataFactory",
    "assert_flux_failure_count",
    "assert_flux_result_stats",
    "assert_flux_success_count",
    "assert_flux_success_rate",
    "assert_flux_success_values",
    "assert_flux_total_count",
    "assert_mono_result_error",
    "assert_mono_result_failure",
    "assert_mono_result_success",
    "assert_mono_result_timeout",
    "assert_mono_result_value",
    "assert_result_error",
    "assert_result_failure",
    "assert_result_success",
    "assert_result_value",
    "flux_test",
    "mock_result_service",
    "mono_test",
    "performance_test",
    "registered_service",
    "result_test",
    "result_test_context",
]

T = TypeVar("T")
E = TypeVar("E")
U = TypeVar("U")
F = TypeVar("F", bound=Callable[..., Any])

_Types = type[U] | tuple[type[U], ...]

# --- assertions on a Result ---------------------------------------------------------------


@overload
def assert_result_success(result: Result[T, Any], expected_type: None = None) -> T: ...
@overload
def assert_result_success(result: Result[Any, Any], expected_type: _Types[U]) -> U: ...
def assert_result_success(result: Result[Any, Any], expected_type: Any = None) -> Any:
    """
    Expect a Success, of a value of *expected_type* (a class or several) if it is given; return the value.

    Raises:
        AssertionError: It is not. The message shows the Failure, its code, its step and where it was made.

    """
    __tracebackhide__ = True
    found = _checked(result)
    if not isinstance(found, Success):
        fail(f"expected a Success, got {describe(found)}")
    value = found.value
    if expected_type is not None and not isinstance(value, expected_type):
        fail(f"expected a Success of {_names(expected_type)}, got one of {type(value).__name__}: {describe(result)}")
    return value


@overload
def assert_result_failure(result: Result[Any, E], expected_error_type: None = None) -> E: ...
@overload
def assert_result_failure(result: Result[Any, Any], expected_error_type: _Types[U]) -> U: ...
def assert_result_failure(result: Result[Any, Any], expected_error_type: Any = None) -> Any:
    """
    Expect a Failure, of an error of *expected_error_type* (a class or several) if it is given; return the error.

    Raises:
        AssertionError: It is not.

    """
    __tracebackhide__ = True
    found = _checked(result)
    if not isinstance(found, Failure):
        fail(f"expected a Failure, got {describe(found)}")
    error = found.error
    if expected_error_type is not None and not isinstance(error, expected_error_type):
        names = _names(expected_error_type)
        fail(f"expected a Failure of {names}, got one of {type(error).__name__}: {describe(result)}")
    return error


def assert_result_value(result: Result[T, Any], expected_value: object) -> T:
    """
    Expect a Success of *expected_value*, a value or a matcher; return the value.

    Raises:
        AssertionError: It is not. The message names each place where the two differ.

    """
    __tracebackhide__ = True
    value = assert_result_success(result)
    if not equal(expected_value, value):
        fail(f"the value is not as expected:\n{indent(difference(expected_value, value), '    ')}")
    return value


@overload
def assert_result_error(result: Result[Any, E], expected_error_type: None = None) -> E: ...
@overload
def assert_result_error(result: Result[Any, Any], expected_error_type: _Types[U]) -> U: ...
@overload
def assert_result_error(result: Result[Any, E], expected_error_type: object) -> E: ...
def assert_result_error(result: Result[Any, Any], expected_error_type: Any = None) -> Any:
    """
    Expect a Failure; return the error.

    Args:
        result: Of any kind.
        expected_error_type: A class (or several) that the error is of; or else the error itself, or a matcher for it.

    Raises:
        AssertionError: It is not.

    """
    __tracebackhide__ = True
    if expected_error_type is None or _is_type(expected_error_type):
        return assert_result_failure(result, expected_error_type)
    error = assert_result_failure(result)
    if not equal(expected_error_type, error):
        told = difference(expected_error_type, error)
        fail(f"the error is not as expected:\n{indent(told, '    ')}\n{describe(result)}")
    return error


# --- assertions on a chain -----------------------------------------------------------------


@overload
async def assert_mono_result_success(mono_result: Awaitable[Result[T, Any]], expected_type: None = None) -> T: ...
@overload
async def assert_mono_result_success(mono_result: Awaitable[AnyResult], expected_type: _Types[U]) -> U: ...
async def assert_mono_result_success(mono_result: Awaitable[AnyResult], expected_type: Any = None) -> Any:
    """Run the chain (or await the call) once, and go on as `assert_result_success`."""
    __tracebackhide__ = True
    with remembered():
        return assert_result_success(await _run(mono_result), expected_type)


@overload
async def assert_mono_result_failure(mono_result: Awaitable[Result[Any, E]], expected_error_type: None = None) -> E: ...
@overload
async def assert_mono_result_failure(mono_result: Awaitable[AnyResult], expected_error_type: _Types[U]) -> U: ...
async def assert_mono_result_failure(mono_result: Awaitable[AnyResult], expected_error_type: Any = None) -> Any:
    """Run the chain (or await the call) once, and go on as `assert_result_failure`."""
    __tracebackhide__ = True
    with remembered():
        return assert_result_failure(await _run(mono_result), expected_error_type)


async def assert_mono_result_value(mono_result: Awaitable[Result[T, Any]], expected_value: object) -> T:
    """Run the chain (or await the call) once, and go on as `assert_result_value`."""
    __tracebackhide__ = True
    with remembered():
        result: Result[T, Any] = await _run(mono_result)
        return assert_result_value(result, expected_value)


@overload
async def assert_mono_result_error(mono_result: Awaitable[Result[Any, E]], expected_error_type: None = None) -> E: ...
@overload
async def assert_mono_result_error(mono_result: Awaitable[AnyResult], expected_error_type: _Types[U]) -> U: ...
@overload
async def assert_mono_result_error(mono_result: Awaitable[Result[Any, E]], expected_error_type: object) -> E: ...
async def assert_mono_result_error(mono_result: Awaitable[AnyResult], expected_error_type: Any = None) -> Any:
    """Run the chain (or await the call) once, and go on as `assert_result_error`."""
    __tracebackhide__ = True
    with remembered():
        return assert_result_error(await _run(mono_result), expected_error_type)


async def assert_mono_result_timeout(mono_result: Awaitable[Result[Any, E]], timeout_seconds: float) -> E:
    """
    Run the chain once and expect that its time limit of *timeout_seconds* ends it; return the error.

    A time limit is told by the error: a ``TimeoutError``, one of code ``TIMEOUT``, or one whose text says so. By the event
    loop's clock (virtual time is as good) it comes not before 90 % of *timeout_seconds*; a limit that its error names is within
    10 % of them. A chain that nothing ends is given up after twice the time and five seconds.

    Raises:
        AssertionError: It succeeded, failed otherwise, too early, or of another limit, or did not end.

    """
    __tracebackhide__ = True
    _chain.seconds("timeout_seconds", timeout_seconds)
    clock = asyncio.get_running_loop().time
    longest = 2 * timeout_seconds + 5
    began = clock()
    giving_up = asyncio.timeout(longest)
    with remembered():
        try:
            async with giving_up:
                result: Result[Any, E] = _checked(await _run(mono_result))
        except TimeoutError:
            if not giving_up.expired():
                raise
            fail(f"expected a time limit of {timeout_seconds:g} s, but it still ran after {longest:g} s")
        elapsed = clock() - began
        if isinstance(result, Success):
            fail(f"expected a time limit of {timeout_seconds:g} s, but after {elapsed:.3f} s it was {describe(result)}")
        error: E = result.error
        if not _is_timeout(error):
            fail(f"expected a time limit of {timeout_seconds:g} s, but it failed otherwise: {describe(result)}")
        if elapsed < 0.9 * timeout_seconds:
            fail(
                f"expected a time limit of {timeout_seconds:g} s, but it came after {elapsed:.3f} s: {describe(result)}"
            )
        limit = _limit(error, timeout_seconds)
        if abs(limit - timeout_seconds) > 0.1 * timeout_seconds:
            fail(f"expected a time limit of {timeout_seconds:g} s, but it was one of {limit:g} s: {describe(result)}")
    return error


# --- assertions on a collection ------------------------------------------------------------


def assert_flux_result_stats(flux_result: FluxResult[Any, Any], expected_success: int, expected_failures: int) -> None:
    """
    Expect so many Successes and so many Failures.

    Raises:
        AssertionError: There are others. The message shows the counts and the first Failures.

    """
    __tracebackhide__ = True
    flux = _finished(flux_result)
    if (flux.count_success(), flux.count_failures()) != (expected_success, expected_failures):
        fail(f"expected {expected_success} successes and {expected_failures} failures, got {_told(flux)}")


def assert_flux_success_count(flux_result: FluxResult[Any, Any], expected_count: int) -> None:
    """Expect *expected_count* Successes, and whatever number of Failures."""
    __tracebackhide__ = True
    if _finished(flux_result).count_success() != expected_count:
        fail(f"expected {expected_count} successes, got {_told(flux_result)}")


def assert_flux_failure_count(flux_result: FluxResult[Any, Any], expected_count: int) -> None:
    """Expect *expected_count* Failures, and whatever number of Successes."""
    __tracebackhide__ = True
    if _finished(flux_result).count_failures() != expected_count:
        fail(f"expected {expected_count} failures, got {_told(flux_result)}")


def assert_flux_total_count(flux_result: FluxResult[Any, Any], expected_count: int) -> None:
    """Expect *expected_count* Results of both kinds."""
    __tracebackhide__ = True
    if _finished(flux_result).count_total() != expected_count:
        fail(f"expected {expected_count} results, got {_told(flux_result)}")


def assert_flux_success_rate(flux_result: FluxResult[Any, Any], expected_rate: float, tolerance: float = 0.01) -> None:
    """Expect the share of Successes, 0.0 to 1.0, to be *expected_rate* within *tolerance*."""
    __tracebackhide__ = True
    rate = _finished(flux_result).success_rate()
    # The written numbers are meant: 0.76 is within 0.01 of 0.75, whatever their difference is in binary.
    if not abs(rate - expected_rate) <= tolerance + 1e-12:
        fail(f"expected a success rate of {expected_rate:g} ± {tolerance:g}, got {rate:.4g}: {_told(flux_result)}")


def assert_flux_success_values(flux_result: FluxResult[T, Any], expected_values: object) -> Awaitable[list[T]]:
    """
    Expect the values of all Successes, in order, to be *expected_values*, a list or a matcher.

    It is checked at once, so an ``await`` that was forgotten forgives nothing; awaiting it gives the values.
    """
    __tracebackhide__ = True
    values = [result.value for result in _finished(flux_result) if isinstance(result, Success)]
    if not equal(expected_values, values):
        told = indent(difference(expected_values, values), "    ")
        fail(f"the values are not as expected:\n{told}\nof {_told(flux_result)}")
    return _There(values)


class _There(Generic[T]):
    """Can be awaited, and need not be."""

    def __init__(self, value: T) -> None:
        self._value = value

    def __await__(self) -> Generator[Any, Any, T]:
        yield from ()
        return self._value


# --- what assertions have in common --------------------------------------------------------


def _is_result(value: object) -> TypeIs[AnyResult]:
    return isinstance(value, Success | Failure)


def _anew(result: AnyResult) -> AnyResult:
    """Let each call make its Failure anew: it is born where the service was called, and missed if nobody looks at it."""
    if not isinstance(result, Failure):
        return result
    failure = cast("Failure[object]", result)
    if failure.is_defect:
        return Failure.from_exception(failure.error)
    return Failure(failure.error) if failure.__class__ is Failure else failure


def _is_flux(value: object) -> TypeIs[FluxResult[Any, Any]]:
    return isinstance(value, FluxResult)


def _checked(result: object) -> AnyResult:
    __tracebackhide__ = True
    if not _is_result(result):
        forgotten = " (an await is missing)" if inspect.isawaitable(result) else ""
        fail(f"expected a Result, got {type(result).__name__}{forgotten}: {shown(result)}")
    return result


def _finished(flux: object) -> FluxResult[Any, Any]:
    __tracebackhide__ = True
    if not _is_flux(flux):
        forgotten = " (an await is missing)" if inspect.isawaitable(flux) else ""
        fail(f"expected a FluxResult, got {type(flux).__name__}{forgotten}: {shown(flux)}")
    return flux


async def _run(mono: object) -> AnyResult:
    __tracebackhide__ = True
    if not inspect.isawaitable(mono):
        there = "; for a Result that is there, use the assertion without `mono`" if _is_result(mono) else ""
        fail(f"expected a MonoResult or an awaitable of a Result, got {type(mono).__name__}{there}: {shown(mono)}")
    return cast("AnyResult", await mono)


def _is_type(expected: object) -> bool:
    """Say whether a class is meant, and not a matcher that is written without parentheses (its class has an ``==``)."""
    if isinstance(expected, tuple):
        several = cast("tuple[object, ...]", expected)
        return bool(several) and all(_is_type(each) for each in several)
    return isinstance(expected, type) and type(expected).__eq__ is type.__eq__


def _names(types: type | tuple[type, ...]) -> str:
    several = types if isinstance(types, tuple) else (types,)
    return " or ".join(each.__name__ for each in several)


def _is_timeout(error: object) -> bool:
    if isinstance(error, TimeoutError) or "TIMEOUT" in error_code(error).upper():
        return True
    text = f"{error}".lower()
    return "timeout" in text or "timed out" in text


def _limit(error: object, otherwise: float) -> float:
    return error.seconds if isinstance(error, StepTimeoutError) else otherwise


_FAILURES_TOLD = 5


def _told(flux: FluxResult[Any, Any]) -> str:
    failures = [(index, result) for index, result in enumerate(flux) if isinstance(result, Failure)]
    lines = [f"{flux.count_success()} successes and {len(failures)} failures"]
    lines += [f"[{index}] {describe(result)}" for index, result in failures[:_FAILURES_TOLD]]
    if len(failures) > _FAILURES_TOLD:
        lines.append(f"... and {len(failures) - _FAILURES_TOLD} more")
    return "\n".join(lines)


# --- mocks ---------------------------------------------------------------------------------


class ResultServiceMocker:
    """
    Answers instead of one method of a service, and remembers how it was called.

    Awaited by itself, or put into a service's place by `mock_result_service`. What it answers is said by one of the ``return_*``
    methods or a `side_effect`, the last one said; latency and faults come on top. Each of these returns the mocker. Safe from any
    thread and task.

    ``call_count`` counts the calls, and ``call_args_history`` holds their ``(args, kwargs)`` in order.

    Args:
        service_name: Names the service in messages,
        method_name: ... and this its method.
        sleep: Waits out the latency of plain methods, in seconds; by default ``time.sleep``. Async ones use ``asyncio.sleep``.

    """

    # Slots, so that an assignment to anything else (`mock.return_value = ...`) is an error and not without effect.
    __slots__ = (
        "_answers",
        "_decide",
        "_faults",
        "_latencies",
        "_lock",
        "_results",
        "_sequence",
        "_sleep",
        "call_args_history",
        "call_count",
        "method",
        "method_name",
        "misused",
        "service_name",
        "test_module",
    )

    def __init__(self, service_name: str, method_name: str, *, sleep: Callable[[float], object] | None = None) -> None:
        self.service_name = service_name
        self.method_name = method_name
        self.call_count = 0
        self.call_args_history: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self._answers = 0
        self._results: Sequence[AnyResult] | None = None
        self._sequence: Iterator[AnyResult] | None = None
        self._decide: Callable[..., Any] | None = None
        self._latencies: list[tuple[float, Container[int] | None]] = []
        self._faults: list[tuple[Any, Container[int] | None]] = []
        self._sleep = sleep
        self._lock = Lock()
        self.method: Method | None = None
        self.misused: list[str] = []
        self.test_module: object = None

    # --- what it answers ---

    def return_success(self, value: Any) -> ResultServiceMocker:
        """Answer each call with ``Success(value)``."""
        return self._return([Success(value)], once_each=False)

    def return_error(self, error: Any) -> ResultServiceMocker:
        """Answer each call with ``Failure(error)``."""
        return self._return([Failure(error)], once_each=False)

    return_failure = return_error

    def return_sequence(self, results: Iterable[AnyResult]) -> ResultServiceMocker:
        """
        Answer the calls with *results*, one after the other.

        One call more is a mistake of the test: it is answered with a defect, a Failure of a `MockError` that says so, and
        if the test's own module was not the one that called, leaving the ``with`` block of the mock fails the test.
        """
        results = list(results)
        for index, result in enumerate(results):
            if not isinstance(cast("object", result), Success | Failure):
                raise TypeError(f"a sequence is of Results, not of {type(result).__name__} (at index {index})")
        if not results:
            raise ValueError("a sequence needs at least one Result")
        return self._return(results, once_each=True)

    def return_success_sequence(self, values: Iterable[Any]) -> ResultServiceMocker:
        """Answer the calls with a Success of each of *values*, as `return_sequence` does."""
        return self.return_sequence([Success(value) for value in values])

    def return_error_sequence(self, errors: Iterable[Any]) -> ResultServiceMocker:
        """Answer the calls with a Failure of each of *errors*, as `return_sequence` does."""
        return self.return_sequence([Failure(error) for error in errors])

    def return_success_then_failure(self, success_value: Any, failure_value: Any) -> ResultServiceMocker:
        """Answer the first call with a Success and the second with a Failure, as `return_sequence` does."""
        return self.return_sequence([Success(success_value), Failure(failure_value)])

    def return_mixed_sequence(self, items: Iterable[Any]) -> ResultServiceMocker:
        """Answer the calls as `return_sequence` does; an item is ``("success", value)``, ``("error", error)``, or a value."""
        results: list[AnyResult] = []
        for item in items:
            match item:
                case ("success", value):
                    results.append(Success(value))
                case ("error", error):
                    results.append(Failure(error))
                case _:
                    results.append(Success(item))
        return self.return_sequence(results)

    @property
    def side_effect(self) -> Callable[[Callable[..., Any]], ResultServiceMocker]:
        """
        Let a function, plain or async, decide for each call: it is given the call's arguments and returns a Result.

        Assigned (``mock.side_effect = decide``) or called (``mock.side_effect(decide)``). What it raises is raised to the caller.
        """
        return self._decide_by

    @side_effect.setter
    def side_effect(self, decide: Callable[..., Any]) -> None:
        self._decide_by(decide)

    def with_latency(self, seconds: float, calls: Container[int] | None = None) -> ResultServiceMocker:
        """
        Take so long to answer.

        Args:
            seconds: Waited by ``asyncio.sleep``, or *sleep* in plain methods; so virtual time is as good as real time.
            calls: Only these calls, by their numbers from 1 on (``{1, 3}``, ``range(2, 100, 2)``); all if not given.

        """
        self._latencies.append((_chain.seconds("seconds", seconds), _numbers(calls)))
        return self

    def inject_fault(
        self, fault: BaseException | type[BaseException] | AnyResult, calls: Container[int] | None = None
    ) -> ResultServiceMocker:
        """
        Fail instead of answering; a sequence stays where it is meanwhile.

        Args:
            fault: An exception, which is raised, or a Failure, which is returned.
            calls: As in `with_latency`.

        """
        is_exception = isinstance(fault, BaseException) or (
            isinstance(fault, type) and issubclass(fault, BaseException)
        )
        if not is_exception and not isinstance(fault, Failure):
            raise TypeError(f"a fault is an exception or a Failure, not {type(fault).__name__}")
        self._faults.append((fault, _numbers(calls)))
        return self

    # --- being called ---

    async def __call__(self, *args: Any, **kwargs: Any) -> AnyResult:
        """Answer one call."""
        __tracebackhide__ = True
        return await self.answer_async(args, kwargs, None)

    def answer(self, args: tuple[Any, ...], kwargs: dict[str, Any], method: Method | None) -> AnyResult:
        """Answer a call of a plain *method*."""
        __tracebackhide__ = True
        self._called(args, kwargs, method)
        latency, fault = self._next()
        if latency:
            (self._sleep or time.sleep)(latency)
        result = self._outcome(fault, args, kwargs)
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            told = "the method is a plain one, and its side effect async; a plain one must decide"
            self._misuse(told)
            raise MockError(self.title, told)
        return self._owed(result)

    async def answer_async(self, args: tuple[Any, ...], kwargs: dict[str, Any], method: Method | None) -> AnyResult:
        """Answer a call of an async *method*."""
        __tracebackhide__ = True
        self._called(args, kwargs, method)
        return await self._answer(args, kwargs)

    def answer_mono(self, args: tuple[Any, ...], kwargs: dict[str, Any], method: Method) -> MonoResult[Any, Any]:
        """Answer a call of a *method* that returns a chain: one call, and an answer for each run of the chain."""
        __tracebackhide__ = True
        self._called(args, kwargs, method)
        return MonoResult.from_async_result(lambda: self._answer(args, kwargs), name=self.method_name)

    async def _answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> AnyResult:
        __tracebackhide__ = True
        latency, fault = self._next()
        if latency:
            await asyncio.sleep(latency)
        result = self._outcome(fault, args, kwargs)
        return self._owed(await result if inspect.isawaitable(result) else result)

    def _called(self, args: tuple[Any, ...], kwargs: dict[str, Any], method: Method | None) -> None:
        __tracebackhide__ = True
        if method is not None and method.signature is not None:
            try:
                method.signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{method.title}{method.signature}: {error}") from None
        with self._lock:
            self.call_count += 1
            self.call_args_history.append((args, kwargs))

    def _next(self) -> tuple[float, Any]:
        with self._lock:
            self._answers += 1
            number = self._answers
        latency = sum(seconds for seconds, calls in self._latencies if calls is None or number in calls)
        faults = [fault for fault, calls in self._faults if calls is None or number in calls]
        return latency, faults[-1] if faults else None

    def _outcome(self, fault: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        __tracebackhide__ = True
        if isinstance(fault, Failure):
            return cast("AnyResult", fault)
        if fault is not None:
            raise fault
        if self._decide is not None:
            return self._decide(*args, **kwargs)
        with self._lock:
            if self._sequence is not None:
                result = next(self._sequence, None)
                if result is not None:
                    return result
        if self._results is None:
            told = "the mock was called and has no answer: say one, `return_success(value)` for example"
            self._misuse(told)
            raise MockError(self.title, told)
        if self._sequence is None:
            return self._results[0]
        told = f"Mock sequence exhausted: all of its {len(self._results)} results have been returned, and it was called again"
        self._misuse(told)
        return Failure.from_exception(MockError(self.title, told))

    def _owed(self, result: Any) -> AnyResult:
        """Return a Result; what a side effect gives otherwise is a mistake of the test."""
        __tracebackhide__ = True
        if _is_result(result):
            return _anew(result)
        told = f"the side effect must return a Result, not {type(result).__name__}"
        self._misuse(told)
        raise MockError(self.title, told)

    def _misuse(self, told: str) -> None:
        """Remember a mistake of the test, if the code under test might swallow it."""
        frame = _caller()
        if frame is None or frame.f_globals is not self.test_module:
            self.misused.append(told)

    # --- what it was called with ---

    def assert_called(self) -> None:
        """Expect at least one call."""
        __tracebackhide__ = True
        if not self.call_count:
            fail(f"expected {self.title} to be called; it was not")

    def assert_not_called(self) -> None:
        """Expect no call."""
        __tracebackhide__ = True
        if self.call_count:
            fail(f"expected {self.title} not to be called; {self._calls()}")

    def assert_called_once(self) -> None:
        """Expect one call."""
        __tracebackhide__ = True
        if self.call_count != 1:
            fail(f"expected {self.title} to be called once; {self._calls()}")

    def assert_called_with(self, *args: Any, **kwargs: Any) -> None:
        """
        Expect the last call to have had these arguments, values or matchers.

        Where the method's signature is known, it does not matter which of them were given by name.
        """
        __tracebackhide__ = True
        self.assert_called()
        actual_args, actual_kwargs = self.call_args_history[-1]
        expected, actual = self._named(args, kwargs), self._named(actual_args, actual_kwargs)
        if not equal(expected, actual):
            told = indent(difference(expected, actual), "    ")
            fail(f"{self.title} was called with other arguments:\n{told}\n{self._calls()}")

    def assert_called_once_with(self, *args: Any, **kwargs: Any) -> None:
        """Expect one call, with these arguments; see `assert_called_with`."""
        __tracebackhide__ = True
        self.assert_called_once()
        self.assert_called_with(*args, **kwargs)

    def reset_mock(self) -> None:
        """Forget all calls; what it answers stays, and a sequence begins anew."""
        with self._lock:
            self.call_count = self._answers = 0
            self.call_args_history = []
            self.misused = []
            if self._sequence is not None and self._results is not None:
                self._sequence = iter(self._results)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.service_name!r}, {self.method_name!r}): {self._calls()}"

    # --- parts ---

    @property
    def title(self) -> str:
        """``service.method``, as messages name it."""
        return f"{self.service_name}.{self.method_name}"

    def _return(self, results: Sequence[AnyResult], *, once_each: bool) -> ResultServiceMocker:
        for result in results:
            result.is_failure()  # so nobody has to look at what is prepared and never asked for, see `unhandled_failures`
        with self._lock:
            self._results, self._decide = results, None
            self._sequence = iter(results) if once_each else None
        return self

    def _decide_by(self, decide: Callable[..., Any]) -> ResultServiceMocker:
        if not callable(decide):
            raise TypeError(f"a side effect is a function that returns a Result, not {type(decide).__name__}")
        with self._lock:
            self._decide, self._results, self._sequence = decide, None, None
        return self

    def _named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return arguments by the names of the method's parameters, as far as they are known."""
        __tracebackhide__ = True
        signature = self.method.signature if self.method is not None else None
        if signature is None:
            return {f"argument {index}": value for index, value in enumerate(args)} | kwargs
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            fail(f"{self.title}{signature} can never be called so: {error}")
        bound.apply_defaults()
        return dict(bound.arguments)

    def _calls(self) -> str:
        if not self.call_args_history:
            return "it was not called"
        calls = [self.method_name + _call(args, kwargs) for args, kwargs in self.call_args_history]
        more = [f"... and {len(calls) - _CALLS_TOLD} more"] if len(calls) > _CALLS_TOLD else []
        times = "once" if len(calls) == 1 else f"{len(calls)} times"
        return "\n".join([f"it was called {times}:", *(f"    {call}" for call in calls[:_CALLS_TOLD]), *more])


_CALLS_TOLD = 10


def _call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    return f"({', '.join([*map(shown, args), *(f'{name}={shown(value)}' for name, value in kwargs.items())])})"


def _numbers(calls: Container[int] | None) -> Container[int] | None:
    if calls is not None and not isinstance(cast("object", calls), Container):
        raise TypeError(f"calls are a set, list or range of their numbers, not {calls!r}")
    return calls


class MockedService:
    """The block in which a mock answers; ``with`` and ``async with`` are the same."""

    def __init__(self, service: object, mocker: ResultServiceMocker, is_async: bool | None) -> None:
        self._service = service
        self._mocker = mocker
        self._is_async = is_async
        self._births = ExitStack()

    def __enter__(self) -> ResultServiceMocker:
        __tracebackhide__ = True
        self._mocker.method = put(self._mocker, self._service, self._mocker.method_name, self._is_async)
        self._births.enter_context(remembered())
        return self._mocker

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        __tracebackhide__ = True
        self._births.close()
        take(self._mocker, self._service, self._mocker.method_name)
        if kind is None and self._mocker.misused:
            raise MockError(self._mocker.title, self._mocker.misused[0])

    async def __aenter__(self) -> ResultServiceMocker:
        __tracebackhide__ = True
        return self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        __tracebackhide__ = True
        self.__exit__(kind)


def mock_result_service(
    service: str | object,
    method_name: str,
    *,
    is_async: bool | None = None,
    sleep: Callable[[float], object] | None = None,
) -> MockedService:
    """
    Let a `ResultServiceMocker` answer instead of a method of a service, until the ``with`` block is left.

    The mock is what the method is: async, plain, or a function that returns a MonoResult, and a call that does not fit the method's
    signature is the ``TypeError`` that it would be. Whatever leaves the block, the method is then as it was. Blocks may be
    nested, and tasks and threads may mock the same method at the same time: each task reaches the mock of its own.

    Args:
        service:
            The object (an instance, a class, a module) or its name: that of a `registered_service`, a dotted path
            (``"app.services.user_service"``), or a name that the calling test or any loaded module knows; ``"user_service"`` may
            also stand for the class ``UserService``. A function that was imported by name is looked up where it was imported to.
        method_name: Of the method, or of a module's function.
        is_async: Says whether the method's answer is awaited, where neither the method nor its annotation tells.
        sleep: See `ResultServiceMocker`.

    Raises:
        MockTargetError: There is no such service or method, or several; the message names them.
        MockError: Leaving the block: the code under test called a mock that had no (or no more) answer, and swallowed that.

    """
    __tracebackhide__ = True
    caller = _caller()
    if isinstance(service, str):
        name, found = service, find(service, method_name, caller)
    else:
        name = name_of(service)
        found = having(service, name, method_name)
    mocker = ResultServiceMocker(name, method_name, sleep=sleep)
    mocker.test_module = caller.f_globals if caller is not None else None
    return MockedService(found, mocker, is_async)


def _caller() -> FrameType | None:
    """Return the innermost frame outside of RFS and of contextlib."""
    frame = inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__")).startswith(("rfs.", "contextlib")):
        frame = frame.f_back
    return frame


# --- data ----------------------------------------------------------------------------------


class ResultTestDataFactory:
    """Makes Results, chains and collections for tests. Derive from it to add what is made of your own types."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def sequence(self) -> int:
        """Return the next number of this factory: 1, 2, 3, ..."""
        return next(self._numbers)

    @staticmethod
    def create_success_result(value: T) -> Result[T, Never]:
        """Return ``Success(value)``."""
        return Success(value)

    @staticmethod
    def create_failure_result(error: E) -> Result[Never, E]:
        """Return ``Failure(error)``."""
        return Failure(error)

    @staticmethod
    def create_success_mono(value: T) -> MonoResult[T, Never]:
        """Return a chain that ends in ``Success(value)``."""
        return MonoResult.from_value(value)

    @staticmethod
    def create_failure_mono(error: E) -> MonoResult[Never, E]:
        """Return a chain that ends in ``Failure(error)``."""
        return MonoResult.from_error(error)

    @staticmethod
    def create_success_results(values: Iterable[T]) -> list[Result[T, Never]]:
        """Return a Success of each value."""
        return [Success(value) for value in values]

    @staticmethod
    def create_failure_results(errors: Iterable[E]) -> list[Result[Never, E]]:
        """Return a Failure of each error."""
        return [Failure(error) for error in errors]

    @staticmethod
    def create_mixed_results(
        total_count: int,
        success_rate: float,
        success_factory: Callable[[int], T],
        failure_factory: Callable[[int], E],
    ) -> list[Result[T, E]]:
        """
        Return *total_count* Results, evenly mixed; of these ``round(total_count * success_rate)`` are Successes.

        Args:
            total_count: 0 or more.
            success_rate: 0.0 to 1.0.
            success_factory: Makes the value for the Result of an index.
            failure_factory: Makes the error for the Result of an index.

        """
        if total_count < 0 or not 0 <= success_rate <= 1:
            raise ValueError(f"of {total_count} results a share of {success_rate} cannot be successes")
        successes = round(total_count * success_rate)
        # The i-th is a Success where the line from 0 to `successes` reaches its next whole number.
        return [
            Success(success_factory(index))
            if (index + 1) * successes // total_count > index * successes // total_count
            else Failure(failure_factory(index))
            for index in range(total_count)
        ]

    @staticmethod
    def create_mixed_flux(success_values: Iterable[T], error_values: Iterable[E]) -> FluxResult[T, E]:
        """Return a collection of a Success of each value, then a Failure of each error."""
        results: list[Result[T, E]] = [Success(value) for value in success_values]
        return FluxResult.from_results([*results, *(Failure(error) for error in error_values)])

    @staticmethod
    def create_all_success_flux(values: Iterable[T]) -> FluxResult[T, Never]:
        """Return a collection of a Success of each value."""
        return FluxResult.from_values(values)

    @staticmethod
    def create_all_failure_flux(errors: Iterable[E]) -> FluxResult[Never, E]:
        """Return a collection of a Failure of each error."""
        return FluxResult.from_results([Failure(error) for error in errors])


# --- marks ---------------------------------------------------------------------------------


def result_test(test: F) -> F:
    """Mark a test, plain or async, as one of Results: ``pytest -m result_test`` selects it."""
    return _marked("result_test", test)


def mono_test(test: F) -> F:
    """Mark a test as one of chains."""
    return _marked("mono_test", test)


def flux_test(test: F) -> F:
    """Mark a test as one of collections."""
    return _marked("flux_test", test)


@overload
def performance_test(test: F, /) -> F: ...
@overload
def performance_test(*, max_duration_ms: float) -> Callable[[F], F]: ...
def performance_test(test: Any = None, /, *, max_duration_ms: float | None = None) -> Any:
    """
    Mark a test, plain or async, as one of performance.

    Given *max_duration_ms*, the test fails if its body takes longer. One run on a busy machine says little, so the limit is for
    what is out of all proportion; `rfs.testing.performance` compares with a baseline.
    """
    if test is not None:
        return _marked("performance_test", test)

    def mark(test: Callable[..., Any]) -> Callable[..., Any]:
        limited = test if max_duration_ms is None else _limited(test, max_duration_ms)
        return _marked("performance_test", limited, max_duration_ms=max_duration_ms)

    return mark


def _marked(name: str, test: F, **options: object) -> F:
    import pytest

    return cast("F", getattr(pytest.mark, name).with_args(**options)(test))


def _limited(test: Callable[..., Any], max_duration_ms: float) -> Callable[..., Any]:
    @contextmanager
    def limit() -> Generator[None]:
        __tracebackhide__ = True
        began = time.perf_counter()
        yield
        took_ms = (time.perf_counter() - began) * 1000
        if took_ms > max_duration_ms:
            fail(f"{test.__name__} took {took_ms:.1f} ms, more than {max_duration_ms:g} ms")

    if inspect.iscoroutinefunction(test):

        @wraps(test)
        async def timed_async(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            with limit():
                return await test(*args, **kwargs)

        return timed_async

    @wraps(test)
    def timed(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        with limit():
            return test(*args, **kwargs)

    return timed


# --- all of it around one test ---------------------------------------------------------------


class ResultTestContext:
    """
    What `result_test_context` gives: a monitor of its own, and mocks that end with the block.

    ``performance_data`` is a list for what ``PerformanceTestHelper`` measures, ``None`` unless it is tracked.
    """

    def __init__(self, monitor: Monitor, mocks: ExitStack, performance_tracking: bool) -> None:
        self.monitor = monitor
        self.service_mocks: dict[str, ResultServiceMocker] = {}
        self.performance_data: list[Mapping[str, Any]] | None = [] if performance_tracking else None
        self._mocks = mocks

    def setup_logging(self, level: LogLevel | str | int = LogLevel.INFO) -> None:
        """Record from *level* on, and print it as JSON lines, as `configure_result_logging` does."""
        configure_result_logging(level=level)

    def setup_metrics_collection(self) -> None:
        """Do nothing: whatever the code under test measures comes to the context's own monitor anyway."""

    def setup_service_mocks(self, answers: Mapping[str, AnyResult]) -> dict[str, ResultServiceMocker]:
        """
        Mock each ``"service.method"`` with its answer, and return all mocks of the context.

        The names are found as `mock_result_service` finds them, ``service`` being all before the last dot.
        """
        __tracebackhide__ = True
        for name, answer in answers.items():
            service, _, method = name.rpartition(".")
            if not service:
                raise MockTargetError(name, "write it as `service.method`")
            mock = self._mocks.enter_context(mock_result_service(service, method))
            mock.side_effect = _always(answer)
            self.service_mocks[name] = mock
        return self.service_mocks

    def assert_service_called(self, name: str) -> None:
        """Expect at least one call of the mocked ``"service.method"``."""
        __tracebackhide__ = True
        if name not in self.service_mocks:
            fail(f"{name} is not mocked; these are: {', '.join(sorted(self.service_mocks)) or 'none'}")
        self.service_mocks[name].assert_called()

    def get_collected_metrics(self) -> dict[str, float]:
        """
        Return what was measured inside of the block, by metric and over all labels.

        The increase of a counter, the last value of a gauge, and how often a histogram or timer was measured.
        """
        summary = self.monitor.query.summary(60)
        counts = {name: each["count"] for kind in ("histograms", "timers") for name, each in summary[kind].items()}
        return {**counts, **summary["gauges"], **summary["counters"]}


@asynccontextmanager
async def result_test_context(
    service_mocks: Mapping[str, AnyResult] | None = None, performance_tracking: bool = False
) -> AsyncGenerator[ResultTestContext]:
    """
    Give a test a monitor of its own, which is the default one of the process meanwhile, and mocks that end with the block.

    One at a time: tasks that have such blocks at once would record into each other's monitor.

    Args:
        service_mocks: See `ResultTestContext.setup_service_mocks`.
        performance_tracking: Whether measurements in ``performance_data`` that are beyond their limit fail the test at its end.

    """
    __tracebackhide__ = True
    monitor = Monitor(service_name="test")
    with use_monitor(monitor), remembered(), ExitStack() as mocks:
        mocks.callback(monitor.stop)
        context = ResultTestContext(monitor, mocks, performance_tracking)
        context.setup_service_mocks(service_mocks or {})
        yield context
    for each in context.performance_data or ():
        if not each["is_within_limit"]:
            fail(f"it took {each['duration_ms']:.1f} ms, more than {each['max_duration_ms']:g} ms")


def _always(answer: AnyResult) -> Callable[..., AnyResult]:
    return lambda *_args, **_kwargs: answer
