"""
How a chain of steps runs.

A chain is a tuple of steps, and a step is a pair: its kind, and what to call.
`execute` is one loop over them. It is the hot path of the package, hence the plain
numbers and the pairs: five asynchronous steps cost little more than five awaits
with an ``if`` between them.

The few frequent kinds take a value and are passed over after a Failure. All
else is an `Operator`: it is handed the Result so far, whichever kind it is, and
gives the next one. Operators that must hold a whole chain (a
timeout, a retry) keep the steps before them inside.

An ``Exception`` that a step raises becomes a Failure that holds it. Everything
else, ``CancelledError`` first of all, passes through untouched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from inspect import isawaitable
from random import Random
from typing import Any, Literal, NamedTuple, TypeAlias, cast

from rfs.core.result import AnyResult, Failure, Success, as_result, error_code
from rfs.errors import StepTimeoutError
from rfs.reactive import _observer
from rfs.reactive._concurrency import end, together

# Kinds of steps. What is called:
ASYNC_BIND = 0  # with the value; its answer is awaited, and is a Result
SOURCE = 1  # with nothing; its answer is awaited, and is a Result
BIND = 2  # with the value; its answer is a Result
MAP = 3  # with the value; its answer is the next value
OPERATOR = 4  # with the Result and the run; its answer is a Result
ASYNC_OPERATOR = 5  # the same, awaited
GIVEN = 6  # nothing: it is the Result
START = 7  # nothing: it is the chain's name, and a run is needed

METHOD_NAMES = {ASYNC_BIND: "bind_async_result", SOURCE: "from_async_result", BIND: "bind_result", MAP: "map"}

Steps: TypeAlias = tuple[tuple[int, Any], ...]
Codes: TypeAlias = frozenset[str] | None

# Seen by the checkers without types: in the loop, ok tells what they would have it ask again.
_NOTHING_YET: Any = Success(None)
_defect: Any = Failure.from_exception
_FAILURE: Any = Failure


class Step(NamedTuple):
    """One entry of a chain, for showing it."""

    operator: str  # the method that added it
    name: str  # its own name, else that of its function
    options: Mapping[str, object]

    def __str__(self) -> str:
        given = [self.name] if self.name != self.operator else []
        given += [f"{option}={value!r}" for option, value in self.options.items()]
        return f"{self.operator}({', '.join(given)})"


class Run:
    """What one run of a chain remembers, where something in the chain asks for it."""

    __slots__ = ("attempts", "chain", "failed", "interrupted", "lap", "recovering", "started", "started_ns")

    def __init__(self, chain: str) -> None:
        self.chain = chain
        self.started = self.lap = _observer.monotonic()  # the lap begins at each logged step
        self.started_ns = _observer.wall_clock_ns()
        self.failed = False  # at the previous logged step
        self.recovering = False  # an operator took up a Failure since then
        self.attempts = 1
        self.interrupted = ""  # name of the step that a cancellation met


async def execute(steps: Steps, run: Run | None = None) -> Any:
    """Run *steps* from the first to the last, and return the Result."""
    result = _NOTHING_YET
    ok = True
    try:
        for kind, call in steps:
            try:
                if kind is ASYNC_BIND:
                    if not ok:
                        continue
                    result = await call(result.value)
                elif kind is GIVEN:
                    result = call
                elif kind is SOURCE:
                    result = await call()
                elif kind is BIND:
                    if not ok:
                        continue
                    result = call(result.value)
                elif kind is MAP:
                    if not ok:
                        continue
                    result = Success(call(result.value))
                elif kind is OPERATOR:
                    result = call.run(result, run)
                elif kind is ASYNC_OPERATOR:
                    result = await call.run(result, run)
                else:
                    run = run or Run(call)
                    continue
            except Exception as error:  # noqa: BLE001 - what a step raises is its Result
                result = _defect(error)
            except BaseException:
                # The innermost step is the first that gets here.
                if run is not None and not run.interrupted:
                    run.interrupted = name_of(kind, call)
                raise
            ok = isinstance(result, Success)
            if not ok and not isinstance(result, _FAILURE):
                result = as_result(result, name_of(kind, call))
        return result
    finally:
        # A defect's traceback holds this frame: without this, frame and Result would keep each other.
        del result


# --- names, and showing a chain -------------------------------------------------------


class NamedCall(partial[Any]):
    """A step's function under a name of its own."""

    step_name: str


class TimedCall:
    """A step's function with a time limit of its own."""

    __slots__ = ("call", "seconds", "step_name")

    def __init__(self, call: Callable[..., Awaitable[AnyResult]], step_name: str, seconds: float) -> None:
        self.call = call
        self.step_name = step_name
        self.seconds = seconds

    async def __call__(self, *arguments: object) -> AnyResult:
        limit = asyncio.timeout(self.seconds)
        result: AnyResult = _NOTHING_YET
        try:
            async with limit:
                result = await self.call(*arguments)
        except TimeoutError as error:
            if not limit.expired():
                raise  # the step's own
            return timed_out(self.step_name, self.seconds, error)
        # A step that answers after its cancellation is too late all the same.
        return timed_out(self.step_name, self.seconds, None) if limit.expired() else result


def configured(kind: int, call: Any, name: str | None, timeout_seconds: float | None) -> Any:
    """Give a step's function the name and the time limit that were asked for."""
    if timeout_seconds is not None:
        return TimedCall(call, name or name_of(kind, call), seconds("timeout_seconds", timeout_seconds))
    named = NamedCall(call)
    named.step_name = name or name_of(kind, call)
    return named


def name_of(kind: int, call: Any) -> str:
    """Return a step's own name, else that of its function, else that of the method that added it."""
    if isinstance(call, Operator):
        return call.name or call.operator
    if isinstance(call, NamedCall | TimedCall):
        return call.step_name
    if kind is GIVEN:  # no function, whatever it is
        if isinstance(call, Success):
            return "from_value"
        return "from_error" if isinstance(call, Failure) else "from_result"
    return function_name(call) or METHOD_NAMES[kind]


def function_name(call: object) -> str:
    """Return the name that a function was defined under, "" if it has none."""
    name = getattr(call, "__name__", "")
    return name if isinstance(name, str) and name != "<lambda>" else ""


def shown(steps: Steps) -> Iterator[Step]:
    """Yield *steps* as they were written, those inside of operators too."""
    for kind, call in steps:
        if isinstance(call, Operator):
            yield from shown(call.inner)
            yield Step(call.operator, call.name or call.operator, call.options or {})
        elif kind is not START:
            name = name_of(kind, call)
            options = {"timeout_seconds": call.seconds} if isinstance(call, TimedCall) else {}
            yield Step(METHOD_NAMES.get(kind, name), name, options)


def chain_name(steps: Steps) -> str:
    """Return the name given to the chain, "" if none."""
    kind, call = steps[0]
    return call if kind is START else ""


def started(steps: Steps, name: str | None = None) -> Steps:
    """Return *steps* with a run to remember things in, and with *name* if it is given."""
    if steps[0][0] is START:
        return steps if name is None else ((START, name), *steps[1:])
    return ((START, name or ""), *steps)


def seconds(what: str, value: float) -> float:
    """Return *value* if it is a duration; ``ValueError`` names it by *what* otherwise."""
    if not 0 <= value < float("inf"):
        raise ValueError(f"{what} must be a finite number of seconds, 0 or more, not {value!r}")
    return value


def codes(on_codes: object) -> Codes:
    """Return the error codes of one code or several, each text or Enum member; ``None`` for all."""
    if on_codes is None:
        return None
    several = (on_codes,) if isinstance(on_codes, str | Enum) else cast("list[str | Enum]", on_codes)
    return frozenset(error_code(code) if isinstance(code, Enum) else code for code in several)


def chosen(failure: Failure[Any], wanted: Codes) -> bool:
    """Say whether an operator limited to the codes *wanted* is to take up *failure*."""
    return wanted is None or error_code(failure.error) in wanted


def timed_out(step: str, limit_seconds: float, cause: BaseException | None) -> Failure[StepTimeoutError]:
    """Make the Failure of a step that took too long: no defect, since somebody asked for the limit."""
    error = StepTimeoutError(step, limit_seconds)
    error.__cause__ = cause
    return Failure(error)


# --- operators ----------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Operator:
    """A step that is handed the Result so far, a Success or a Failure, and the run."""

    operator: str  # the method that added it
    run: Callable[[AnyResult, Run | None], Any]
    options: Mapping[str, object] | None = None
    name: str = ""
    inner: Steps = ()  # the steps that it runs itself

    def around(self, inner: Steps) -> Operator:
        """Return this operator, which holds steps, around *inner* instead; what a cache has kept is common to both."""
        return replace(self, run=partial(cast("partial[Any]", self.run).func, inner), inner=inner)


def recovery(
    operator: str,
    take_up: Callable[[Any], AnyResult | Awaitable[AnyResult]],
    on_codes: object = None,
    **options: object,
) -> Operator:
    """Return the operator that makes a new Result of the error of a Failure, by *take_up*."""
    wanted = codes(on_codes)
    if wanted is not None:
        options["on_codes"] = sorted(wanted)

    async def run(result: AnyResult, run: Run | None) -> AnyResult:
        if isinstance(result, Success) or not chosen(result, wanted):
            return result
        if run is not None:
            run.recovering = True
        answer = take_up(result.error)
        return await answer if isawaitable(answer) else answer

    return Operator(operator, run, options)


def tap(
    operator: str, on_success: Callable[[Any], object] | None, on_error: Callable[[Any], object] | None
) -> Operator:
    """Return the operator that lets functions look, and changes nothing, whatever they raise."""

    async def run(result: AnyResult, _: Run | None) -> AnyResult:
        try:
            if isinstance(result, Success):
                seen = on_success(result.value) if on_success is not None else None
            else:
                seen = on_error(result.error) if on_error is not None else None
            if isawaitable(seen):
                await seen
        except Exception as error:  # noqa: BLE001 - who only looks can never alter a Result
            _observer.report("reactive.tap", error)
        return result

    return Operator(operator, run)


def timeout(inner: Steps, limit_seconds: float) -> Operator:
    """Return the operator that runs *inner* within a time limit."""
    seconds("timeout", limit_seconds)

    async def run(inner: Steps, _: AnyResult, run: Run | None) -> AnyResult:
        run = run or Run("")
        limit = asyncio.timeout(limit_seconds)
        result: AnyResult = _NOTHING_YET
        late: BaseException | None = None
        try:
            async with limit:
                result = await execute(inner, run)
        except TimeoutError as error:
            # Nothing but the limit raises here: what a step raises is in the Result.
            late = error
        if not limit.expired():
            return result
        # Also where a step made of the cancellation an answer of its own: it is too late all the same.
        step, run.interrupted = run.interrupted, ""
        return timed_out(step or name_of(*inner[-1]), limit_seconds, late)

    return Operator("timeout", partial(run, inner), {"seconds": limit_seconds}, inner=inner)


def retry(
    inner: Steps,
    max_retries: int,
    *,
    backoff_seconds: float,
    multiplier: float,
    max_backoff_seconds: float,
    jitter: Random | None,
    on_codes: object,
    sleep: Callable[[float], Awaitable[object]],
) -> Operator:
    """Return the operator that runs *inner* again after a Failure."""
    if max_retries < 0:
        raise ValueError(f"max_retries must be 0 or more, not {max_retries}")
    if not 1 <= multiplier < float("inf"):
        raise ValueError(f"multiplier must be a finite number, 1 or more, not {multiplier!r}")
    seconds("backoff_seconds", backoff_seconds)
    seconds("max_backoff_seconds", max_backoff_seconds)
    wanted = codes(on_codes)

    async def run(inner: Steps, _: AnyResult, run: Run | None) -> AnyResult:
        backoff = backoff_seconds
        attempt = 0
        while True:
            attempt += 1
            if run is not None:
                run.attempts = attempt
                run.failed = run.recovering = False
            result: AnyResult = await execute(inner, run)
            if isinstance(result, Success) or attempt > max_retries or not chosen(result, wanted):
                return result
            pause = min(backoff, max_backoff_seconds)
            backoff *= multiplier
            if jitter is not None:
                pause = jitter.uniform(0, pause)
            if pause > 0:
                await sleep(pause)

    options: dict[str, object] = {"max_retries": max_retries}
    if backoff_seconds:
        options |= {"backoff_seconds": backoff_seconds, "multiplier": multiplier}
        options |= {"max_backoff_seconds": max_backoff_seconds, "jitter": jitter is not None}
    if wanted is not None:
        options["on_codes"] = sorted(wanted)
    return Operator("retry", partial(run, inner), options, inner=inner)


def cache(inner: Steps) -> Operator:
    """
    Return the operator that runs *inner* once and keeps what comes of it.

    Those who ask meanwhile wait for the same work. It belongs to all of them: one
    who is cancelled leaves it to the others, and only the last takes it along.
    """
    kept: AnyResult | None = None
    work: asyncio.Task[AnyResult] | None = None
    waiting: list[None] = []  # one entry for each who waits for this work

    async def keep(inner: Steps, run: Run | None) -> AnyResult:
        nonlocal kept
        result: AnyResult = await execute(inner, Run(run.chain) if run is not None else None)
        kept = result
        return result

    async def run(inner: Steps, _: AnyResult, run: Run | None) -> AnyResult:
        nonlocal work, waiting
        if kept is not None:
            return kept
        if work is None or work.done():
            work, waiting = asyncio.create_task(keep(inner, run)), []
        mine, with_me = work, waiting
        with_me.append(None)
        try:
            return await asyncio.shield(mine)
        finally:
            with_me.pop()
            if not with_me and not mine.done():
                work = None
                await end([mine])

    return Operator("cache", partial(run, inner), inner=inner)


def joined(inner: Steps, others: tuple[Steps, ...]) -> Operator:
    """Return the operator that runs all chains at once, for a tuple of their values or the first Failure to come."""

    async def run(inner: Steps, _: AnyResult, run: Run | None) -> AnyResult:
        work = [execute(inner, run), *(execute(other) for other in others)]
        first, tasks = await together(work, lambda result: isinstance(result, Failure))
        result: AnyResult = first.result()
        if isinstance(result, Failure):
            return result
        return Success(tuple(task.result().unwrap() for task in tasks))

    return Operator("zip", partial(run, inner), {"others": len(others)}, inner=inner)


def raced(inner: Steps, others: tuple[Steps, ...]) -> Operator:
    """Return the operator that runs all chains at once, for the first Success to come or all errors in order."""

    async def run(inner: Steps, _: AnyResult, run: Run | None) -> AnyResult:
        work = [execute(inner, run), *(execute(other) for other in others)]
        first, tasks = await together(work, lambda result: isinstance(result, Success))
        result: AnyResult = first.result()
        if isinstance(result, Success):
            return result
        return Failure([task.result().unwrap_error() for task in tasks])

    return Operator("first_success", partial(run, inner), {"others": len(others)}, inner=inner)


# --- logged steps -----------------------------------------------------------------------

Outcome: TypeAlias = Literal["ok", "failed", "skipped", "recovered"]

_LEVELS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}


def level_number(level: int | Enum | None) -> int | None:
    """Return the stdlib's number of a level, given as such a number or as an Enum member with a level's name."""
    if not isinstance(level, Enum):
        return level
    number = _LEVELS.get(level.name.upper())
    if number is None:
        raise ValueError(f"level must be one of {', '.join(_LEVELS)}, not {level.name}")
    return number


def logged(
    operator: str,
    kind: Literal["step", "error", "performance"],
    index: int,
    name: str,
    *,
    message: str = "",
    details: Mapping[str, object] | None = None,
    level: int | None = None,
    threshold_ms: float | None = None,
) -> Operator:
    """Return the operator that tells the observer how the chain stands."""
    # Above this level nothing is told, unless it failed: a recorder raises the level of what failed itself.
    level_if_ok = 20 if level is None else level
    level_if_failed = 40 if level is None else level

    def tell(result: AnyResult, run: Run) -> None:
        failed = isinstance(result, Failure)
        now = _observer.monotonic()
        since, was_failed, recovering = run.started, run.failed, run.recovering
        if kind == "step":
            since = run.lap
            run.lap, run.failed, run.recovering = now, failed, False
        silent = (kind == "error" and not failed) or (threshold_ms is not None and (now - since) * 1000 < threshold_ms)
        if silent or not _observer.enabled(level_if_failed if failed else level_if_ok):
            return

        told = details
        if run.attempts > 1 or threshold_ms is not None:
            told = dict(details or {})
            if run.attempts > 1:
                told["attempts"] = run.attempts
            if threshold_ms is not None:
                told["threshold_ms"] = threshold_ms
        since_ns = run.started_ns + round((since - run.started) * 1e9)
        outcome: Outcome
        if isinstance(result, Failure):
            value, error, is_defect = None, result.error, result.is_defect
            outcome = "skipped" if was_failed and not recovering and kind == "step" else "failed"
        else:
            value, error, is_defect = result.value, None, False
            outcome = "recovered" if recovering and kind == "step" else "ok"
        _observer.step_observer().step(
            _observer.StepEvent(
                kind,
                run.chain,
                name,
                index,
                outcome,
                message,
                told,
                now - since,
                value,
                error,
                is_defect,
                level,
                since_ns,
            )
        )

    def run(result: AnyResult, run: Run | None) -> AnyResult:
        try:
            tell(result, cast("Run", run))  # a chain with a logged step begins with START
        except Exception as error:  # noqa: BLE001 - who only looks can never alter a Result
            _observer.report("reactive.observer", error)
        return result

    options: dict[str, object] = {"threshold_ms": threshold_ms} if threshold_ms is not None else {}
    return Operator(operator, run, options, name)
