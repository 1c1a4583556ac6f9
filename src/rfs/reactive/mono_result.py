"""
A lazy chain of steps that ends in one Result.

Building a chain calls nothing. Awaiting it, or its ``to_result()``, runs it from
its source to its end, each time anew unless it is cached::

    order = await (
        MonoResult.from_async_result(lambda: find_table(table_id))
        .bind_async_result(lambda table: place_order(table, items))
        .log_step("placed", "order placed")
        .timeout(5.0)
    )

A chain never raises an ``Exception``: one that a step raises becomes a Failure
that holds it (``is_defect``), and the steps that need a value are passed over.
``CancelledError`` and everything else that is not an ``Exception`` passes
through as it is. After a timeout, a retry or concurrent work no task is left.

A chain cannot be changed: every method returns a new one of the class it was called on.
It may be run any number of times, also at once, from any task or event loop. Only the first logged step
of a process loads ``rfs.monitoring``; a chain without one records nothing.
"""

# ruff: noqa: RUF005 - building a chain is part of running it, and adding tuples is faster than unpacking them

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Mapping
from enum import Enum
from inspect import isawaitable
from random import Random
from typing import Any, Generic, Never, Self, TypeVar, overload

from rfs.core.result import AnyResult, Failure, Result, Success
from rfs.reactive import _chain
from rfs.reactive._chain import (
    ASYNC_BIND,
    ASYNC_OPERATOR,
    BIND,
    GIVEN,
    MAP,
    OPERATOR,
    SOURCE,
    Operator,
    Step,
    Steps,
    configured,
    execute,
)
from rfs.reactive._concurrency import at_least_one, ordered

__all__ = ["MonoResult", "Step"]

T_co = TypeVar("T_co", covariant=True)
E_co = TypeVar("E_co", covariant=True)
T = TypeVar("T")
E = TypeVar("E")
U = TypeVar("U")
F = TypeVar("F")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")

_new: Callable[[type[Any]], Any] = object.__new__


class MonoResult(Generic[T_co, E_co]):
    """
    A lazy chain that ends in one ``Result[T, E]``.

    Args:
        source: Called with nothing at each run; what it returns is awaited and gives a Result.
        name: The first step's name, in logged steps and timeouts; by default the function's.
        timeout_seconds: Time limit of the first step alone.

    """

    __slots__ = ("_steps",)
    _steps: Steps

    def __init__(
        self,
        source: Callable[[], Awaitable[Result[T_co, E_co]]],
        name: str | None = None,
        timeout_seconds: float | None = None,
    ) -> None:
        if name is not None or timeout_seconds is not None:
            source = configured(SOURCE, source, name, timeout_seconds)
        self._steps = ((SOURCE, source),)

    # --- where a chain begins ---

    @classmethod
    def from_async_result(
        cls,
        source: Callable[[], Awaitable[Result[U, F]]],
        name: str | None = None,
        timeout_seconds: float | None = None,
    ) -> MonoResult[U, F]:
        """Begin with an async function of no arguments that returns a Result, often a lambda around a call."""
        if name is not None or timeout_seconds is not None:
            source = configured(SOURCE, source, name, timeout_seconds)
        mono: MonoResult[U, F] = _new(cls)
        mono._steps = ((SOURCE, source),)
        return mono

    @overload
    @classmethod
    def from_callable(cls, source: Callable[[], Awaitable[U]]) -> MonoResult[U, Never]: ...
    @overload
    @classmethod
    def from_callable(cls, source: Callable[[], U]) -> MonoResult[U, Never]: ...
    @classmethod
    def from_callable(cls, source: Callable[[], Any]) -> MonoResult[Any, Never]:
        """Begin with a plain or async function that returns a value. What it raises is a Failure, and a defect."""

        async def value_of(_: AnyResult, __: _chain.Run | None) -> AnyResult:
            answer = source()
            return Success(await answer if isawaitable(answer) else answer)

        name = _chain.function_name(source) or "from_callable"
        return cls._begin(ASYNC_OPERATOR, Operator("from_callable", value_of, name=name))

    @classmethod
    def from_result(cls, result: Result[U, F]) -> MonoResult[U, F]:
        """Begin with a Result that is there already."""
        return cls._begin(GIVEN, result)

    @classmethod
    def from_value(cls, value: U) -> MonoResult[U, Never]:
        """Begin with ``Success(value)``."""
        mono: MonoResult[U, Never] = _new(cls)
        mono._steps = ((GIVEN, Success(value)),)
        return mono

    @classmethod
    def from_error(cls, error: F) -> MonoResult[Never, F]:
        """Begin with ``Failure(error)``."""
        return cls._begin(GIVEN, Failure(error))

    # --- steps for a value ---

    def map(self, f: Callable[[T_co], U], name: str | None = None) -> MonoResult[U, E_co]:
        """Put the value through *f*; after a Failure *f* is not called."""
        if name is not None:
            f = configured(MAP, f, name, None)
        mono: MonoResult[U, E_co] = _new(self.__class__)
        mono._steps = self._steps + ((MAP, f),)
        return mono

    map_result = map  # noqa: A003 - the method above is meant

    def bind_result(self, f: Callable[[T_co], Result[U, F]], name: str | None = None) -> MonoResult[U, E_co | F]:
        """Go on with the Result that *f* makes of the value; after a Failure *f* is not called."""
        if name is not None:
            f = configured(BIND, f, name, None)
        mono: MonoResult[U, E_co | F] = _new(self.__class__)
        mono._steps = self._steps + ((BIND, f),)
        return mono

    def bind_async_result(
        self,
        f: Callable[[T_co], Awaitable[Result[U, F]]],
        name: str | None = None,
        timeout_seconds: float | None = None,
    ) -> MonoResult[U, E_co | F]:
        """
        Go on with the Result that the async function *f* makes of the value; after a Failure *f* is not called.

        Args:
            f: May also return a MonoResult.
            name: The step's name, in timeouts and shown chains; by default the function's.
            timeout_seconds: Time limit of this step alone; beyond it, `StepTimeoutError` is the error.

        """
        if name is not None or timeout_seconds is not None:
            f = configured(ASYNC_BIND, f, name, timeout_seconds)
        mono: MonoResult[U, E_co | F] = _new(self.__class__)
        mono._steps = self._steps + ((ASYNC_BIND, f),)
        return mono

    def filter(self, predicate: Callable[[T_co], object], error: F) -> MonoResult[T_co, E_co | F]:
        """Fail with *error* unless the value passes *predicate*."""
        return self._then(OPERATOR, Operator("filter", lambda result, _: result.filter(predicate, error)))

    # --- steps for an error ---

    def map_error(self, f: Callable[[E_co], F]) -> MonoResult[T_co, F]:
        """Put the error through *f*; what *f* makes of a defect is still a defect."""
        return self._then(OPERATOR, Operator("map_error", lambda result, _: result.map_error(f)))

    def recover(self, f: Callable[[E_co], U], *, on_codes: object = None) -> MonoResult[T_co | U, E_co]:
        """
        Make a Success of a Failure: *f* gives the value for an error.

        Args:
            f: Plain function.
            on_codes: The error code or codes (text or Enum members) to recover from; all if not given.

        """
        return self._then(
            ASYNC_OPERATOR, _chain.recovery("recover", lambda error: Success(f(error)), on_codes=on_codes)
        )

    def fallback(
        self, other: MonoResult[U, F] | Callable[[], Awaitable[Result[U, F]]], *, on_codes: object = None
    ) -> MonoResult[T_co | U, E_co | F]:
        """
        Run *other*, a chain or an async function of no arguments, after a Failure and take its Result.

        Args:
            other: Is not run after a Success.
            on_codes: The error code or codes (text or Enum members) it is for; all if not given.

        """
        run: Any = other.to_result if isinstance(other, MonoResult) else other
        return self._then(ASYNC_OPERATOR, _chain.recovery("fallback", lambda _: run(), on_codes=on_codes))

    def on_error_return_result(
        self, f: Callable[[E_co], Result[U, F]] | Callable[[E_co], Awaitable[Result[U, F]]]
    ) -> MonoResult[T_co | U, F]:
        """Go on with the Result that *f*, plain or async, makes of the error."""
        return self._then(ASYNC_OPERATOR, _chain.recovery("on_error_return_result", f))

    def on_error_return_value(self, value: U) -> MonoResult[T_co | U, E_co]:
        """Make ``Success(value)`` of every Failure."""
        return self._then(ASYNC_OPERATOR, _chain.recovery("on_error_return_value", lambda _: Success(value)))

    # --- looking, without touching ---

    def tap(
        self, on_success: Callable[[T_co], object] | None = None, on_error: Callable[[E_co], object] | None = None
    ) -> Self:
        """
        Call one of two functions, plain or async, with the value or the error; the Result stays as it is.

        What they raise is counted in ``telemetry_internal_errors_total{where="reactive.tap"}``, and forgotten.
        """
        return self._like(ASYNC_OPERATOR, _chain.tap("tap", on_success, on_error))

    def do_on_success(self, f: Callable[[T_co], object]) -> Self:
        """Call *f* with the value, as `tap` does."""
        return self._like(ASYNC_OPERATOR, _chain.tap("do_on_success", f, None))

    inspect = do_on_success

    def do_on_error(self, f: Callable[[E_co], object]) -> Self:
        """Call *f* with the error, as `tap` does."""
        return self._like(ASYNC_OPERATOR, _chain.tap("do_on_error", None, f))

    # --- the chain so far as one piece ---

    def timeout(self, seconds: float) -> Self:
        """
        Give everything so far *seconds* to end.

        When they are over the running step is cancelled and waited for, and
        the error is a `StepTimeoutError` (code ``TIMEOUT``) that names it.
        """
        return self._around(_chain.timeout(self._steps, seconds))

    def retry(
        self,
        max_retries: int,
        *,
        backoff_seconds: float = 0.0,
        multiplier: float = 2.0,
        max_backoff_seconds: float = 60.0,
        jitter: Random | None = None,
        on_codes: object = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> Self:
        """
        Run everything so far again after a Failure.

        Args:
            max_retries: At most so many times more: 3 makes at most 4 runs.
            backoff_seconds: Pause before the first retry.
            multiplier: The pause grows by it from retry to retry,
            max_backoff_seconds: ... up to this.
            jitter: Shortens each pause to a random part of it, so that many do not come back at once. Seed it in tests.
            on_codes: The error code or codes (text or Enum members) to retry on; all if not given.
            sleep: Waits that many seconds.

        """
        return self._around(
            _chain.retry(
                self._steps,
                max_retries,
                backoff_seconds=backoff_seconds,
                multiplier=multiplier,
                max_backoff_seconds=max_backoff_seconds,
                jitter=jitter,
                on_codes=on_codes,
                sleep=sleep,
            )
        )

    def retry_on_failure(
        self,
        max_retries: int,
        delay: float = 0.0,
        backoff: float = 1.0,
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> Self:
        """Retry up to *max_retries* times, *delay* seconds apart, growing by the factor *backoff*; see `retry`."""
        return self.retry(
            max_retries, backoff_seconds=delay, multiplier=backoff, max_backoff_seconds=max(delay, 3600.0), sleep=sleep
        )

    def cache(self) -> Self:
        """
        Run everything so far once, and keep what came of it, Success or Failure.

        Runs that come while it works wait for the same work. One that is
        cancelled does not disturb the others; when all are, the work is
        cancelled too, and the next run begins it anew.
        """
        return self._around(_chain.cache(self._steps))

    @overload
    def zip(self, second: MonoResult[A, F], /) -> MonoResult[tuple[T_co, A], E_co | F]: ...
    @overload
    def zip(self, second: MonoResult[A, F], third: MonoResult[B, F], /) -> MonoResult[tuple[T_co, A, B], E_co | F]: ...
    @overload
    def zip(
        self, second: MonoResult[A, F], third: MonoResult[B, F], fourth: MonoResult[C, F], /
    ) -> MonoResult[tuple[T_co, A, B, C], E_co | F]: ...
    @overload
    def zip(self, *others: MonoResult[A, F]) -> MonoResult[tuple[T_co | A, ...], E_co | F]: ...
    def zip(self, *others: MonoResult[Any, Any]) -> MonoResult[Any, Any]:
        """
        Run this and *others* at the same time, for a tuple of their values.

        The first Failure to come is the Result; the others are then cancelled.
        """
        return self._around_any(_chain.joined(self._steps, tuple(other._steps for other in others)))

    def first_success(self, *others: MonoResult[U, F]) -> MonoResult[T_co | U, list[E_co | F]]:
        """
        Run this and *others* at the same time, for the first Success to come; the others are then cancelled.

        If there is none, the error is the list of all errors, in order.
        """
        return self._around_any(_chain.raced(self._steps, tuple(other._steps for other in others)))

    # --- names and logged steps ---

    def name(self, name: str) -> Self:
        """Name the chain; logged steps carry it as ``chain``."""
        mono: Self = _new(self.__class__)
        mono._steps = _chain.started(self._steps, name)
        return mono

    def log_step(
        self,
        name: str,
        message: str | Mapping[str, object] | int | Enum = "",
        *,
        details: Mapping[str, object] | None = None,
        level: int | Enum | None = None,
    ) -> Self:
        """
        Record how the chain stands here, in one entry for the steps since the previous one.

        Args:
            name: Of the step, as the entry shows it.
            message: Or details, or a level: whichever it is, is known by its type.
            details: Recorded as fields.
            level: The stdlib's number or an Enum member named like a level.

        """
        if isinstance(message, Mapping):
            details, message = message, ""
        elif isinstance(message, int | Enum):
            level, message = message, ""
        return self._logged(
            "log_step", "step", name, message=message, details=details, level=_chain.level_number(level)
        )

    def log_error(self, name: str, message: str = "") -> Self:
        """Record a Failure, and nothing for a Success."""
        return self._logged("log_error", "error", name, message=message)

    def log_performance(self, name: str | float = "", threshold_ms: float | None = None) -> Self:
        """
        Record how long the chain has taken so far.

        Args:
            name: Of the entry; a number is taken for *threshold_ms*.
            threshold_ms: Record nothing below it, and a WARNING from there on.

        """
        entry = name if isinstance(name, str) else ""
        if not isinstance(name, str):
            threshold_ms = name
        level = 30 if threshold_ms is not None else None
        return self._logged(
            "log_performance", "performance", entry or "performance", level=level, threshold_ms=threshold_ms
        )

    # --- running ---

    def to_result(self) -> Coroutine[Any, Any, Result[T_co, E_co]]:
        """Return the coroutine that runs the chain once."""
        return execute(self._steps)

    def __await__(self) -> Generator[Any, Any, Result[T_co, E_co]]:
        return execute(self._steps).__await__()

    @staticmethod
    async def parallel_map_async(monos: Iterable[MonoResult[U, F]], max_concurrent: int = 10) -> list[Result[U, F]]:
        """
        Run all *monos*, at most *max_concurrent* at once; the Results are in the order of the chains.

        A Failure does not disturb the others.
        """
        at_least_one("max_concurrent", max_concurrent)
        results = ordered(monos, lambda mono: mono.to_result(), max_concurrent=max_concurrent)
        return [result async for result in results]

    # --- showing ---

    @property
    def steps(self) -> tuple[Step, ...]:
        """The chain as data: what was called to build it, in order."""
        return tuple(_chain.shown(self._steps))

    def __repr__(self) -> str:
        name = _chain.chain_name(self._steps)
        title = f"{name!r}: " if name else ""
        return f"{type(self).__name__}({title}{' → '.join(map(str, self.steps))})"

    # --- building ---

    @classmethod
    def _begin(cls, kind: int, source: Operator | AnyResult) -> MonoResult[Any, Any]:
        mono: MonoResult[Any, Any] = _new(cls)
        mono._steps = ((kind, source),)
        return mono

    def _like(self, kind: int, step: Operator) -> Self:
        mono: Self = _new(self.__class__)
        mono._steps = (*self._steps, (kind, step))
        return mono

    def _then(self, kind: int, step: Operator) -> MonoResult[Any, Any]:
        return self._like(kind, step)

    def _around(self, step: Operator) -> Self:
        """Return the chain whose only step is *step*, which holds all steps so far."""
        mono: Self = _new(self.__class__)
        mono._steps = ((ASYNC_OPERATOR, step),)
        if self._steps[0][0] is _chain.START:
            # What the steps inside remember is remembered for the chain around them.
            mono._steps = (self._steps[0], *mono._steps)
        return mono

    def _around_any(self, step: Operator) -> MonoResult[Any, Any]:
        return self._around(step)

    def _logged(self, operator: str, kind: Any, name: str, **said: Any) -> Self:
        mono: Self = _new(self.__class__)
        step = _chain.logged(operator, kind, len(self.steps), name, **said)
        mono._steps = (*_chain.started(self._steps), (OPERATOR, step))
        return mono
