"""
What a chain or a stream must do, step by step, and when.

A `StepVerifier` is a list of expectations. It runs its source once, watches it, and holds what
comes against them one after the other::

    await (
        StepVerifier(order)
        .expect_step("reserve")
        .expect_step("charge", "failed")
        .expect_retry().within(2.0, at_least=1.0)
        .expect_step("charge")
        .expect_value("paid")
        .verify_complete()
    )

Steps may come that nobody expects. Values, failures, retries, a cancellation and the end may not.

Time is that of the running event loop: in virtual time an expectation of an hour takes none.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import Enum
from inspect import isawaitable, isfunction
from textwrap import indent
from typing import Any, Literal, NamedTuple, Self, TypeAlias, cast, get_args
from unittest.mock import ANY

from rfs.core.result import AnyResult, Failure, Success, as_result, error_code
from rfs.reactive import FluxResult, MonoResult, _chain
from rfs.reactive._chain import ASYNC_BIND, ASYNC_OPERATOR, GIVEN, MAP, OPERATOR, SOURCE, START, Operator, Run, Steps
from rfs.reactive._concurrency import at_least_one, end
from rfs.testing._messages import describe, difference, equal, fail, shown

__all__ = ["Outcome", "StepVerifier"]

Outcome: TypeAlias = Literal["ok", "failed", "recovered", "skipped", "cancelled"]


PATIENCE_SECONDS = 60.0
READ_AHEAD = 1000  # values of a stream that nobody has asked for yet
SHOWN = 20  # events before the one that was wrong
_EPSILON = 1e-6  # seconds; loops round their timers


class _Event(NamedTuple):
    """Something that came."""

    kind: Literal["step", "retry", "value", "failure", "cancelled", "end"]
    at: float  # seconds of the loop's clock
    name: str = ""  # the step's; of a cancellation, that of the step it met
    outcome: str = ""  # the step's
    result: AnyResult | None = None  # of the step; before the retry; the value or failure
    number: int = 0  # the retry's

    def show(self, show_result: Callable[[object], str]) -> str:
        """Tell what came, the result by *show_result*."""
        held = show_result(self.result) if self.result is not None else ""
        if self.kind == "step":
            return f"step {self.name!r} {self.outcome}{held and ': '}{held}"
        if self.kind == "retry":
            return f"retry {self.number}{held and ' after '}{held}"
        if self.kind == "cancelled":
            return "the cancellation" + (f", in step {self.name!r}" if self.name else "")
        return "the end" if self.kind == "end" else held


class _UnmetError(Exception):
    """An expectation was not met: why, and what came instead."""

    def __init__(self, fault: str, event: _Event | None = None) -> None:
        super().__init__()
        self.fault = fault
        self.event = event


# Says of an event "" if it is the one, what is wrong with it, or None if another one is waited for.
_Judge: TypeAlias = "Callable[[_Event], str | None]"


@dataclass(frozen=True, slots=True)
class _Expectation:
    text: str  # as it is told when it is not met; what is only done cannot be unmet
    judges: tuple[_Judge, ...] = ()
    act: Callable[[_Watch], Awaitable[None]] | None = None
    at_most: float | None = None
    at_least: float = 0.0


class _Watch:
    """One run of a source: what it has told, and where the verifier stands."""

    def __init__(self, source: Any, patience: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._source = source
        self._patience = patience
        self._pending: deque[_Event] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._interrupted = ""
        self._last: AnyResult | None = None  # of the newest step
        self.seen: deque[_Event] = deque(maxlen=SHOWN)
        self.began = self.position = self._loop.time()
        self.is_over = False  # the cancellation was expected, and came
        self.is_cancelled = False  # by the verifier
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(lambda _: self._news.set())

    # --- the source's side ---

    async def _run(self) -> None:
        source: Any = self._source
        is_chain = isinstance(self._source, MonoResult)
        # Outside of `try`: a fault of the verifier itself is no failure of the source.
        steps = _watched(source._steps, self) if is_chain else ()
        try:
            if is_chain:
                self._tell_item(await _chain.execute(steps))
            elif isinstance(self._source, AsyncIterable):
                await self._read(source)
            else:
                answer = await source if isawaitable(self._source) else source
                is_many = isinstance(answer, FluxResult)
                for item in cast("Any", answer) if is_many else (answer,):
                    self._tell_item(item)
        except asyncio.CancelledError:
            self.tell("cancelled", name=self._interrupted)
            return
        except Exception as error:  # noqa: BLE001 - a stream that raises has failed
            self.tell("failure", result=Failure.from_exception(error))
        self.tell("end")

    async def _read(self, source: AsyncIterable[object]) -> None:
        iterator = aiter(source)
        try:
            async for item in iterator:
                self._tell_item(item)
                while len(self._pending) >= READ_AHEAD:
                    self._room.clear()
                    await self._room.wait()
        finally:
            close = getattr(iterator, "aclose", None)
            if close is not None:
                await close()

    def _tell_item(self, item: object) -> None:
        result: AnyResult = cast("Any", item) if isinstance(item, Success | Failure) else Success(item)
        self.tell("failure" if isinstance(result, Failure) else "value", result=result)

    def tell(self, kind: Any, name: str = "", outcome: str = "", result: Any = None, number: int = 0) -> None:
        """Add what came now."""
        # The innermost step is the first that gets here.
        self._interrupted = (self._interrupted or name) if outcome == "cancelled" else ""
        if kind == "step":
            self._last = result
        elif kind == "retry":
            result = self._last
        self._pending.append(_Event(kind, self._loop.time(), name, outcome, result, number))
        self._news.set()

    # --- the verifier's side ---

    async def meet(self, expectation: _Expectation) -> None:
        """Wait until *expectation* is met. Raises `_UnmetError`."""
        if expectation.act is not None:
            await expectation.act(self)
            return
        since = self.position
        bound = self._patience if expectation.at_most is None else expectation.at_most
        for number, judge in enumerate(expectation.judges, 1):
            while True:
                # What comes at the last instant is in time: a timer of the source may be behind this one.
                event = await self._next(since + bound + 1e-3)
                if event is None:
                    raise _UnmetError(
                        "nothing comes any more" if self.is_over else f"nothing like it came within {bound:g} s"
                    )
                fault = judge(event)
                if fault == "":
                    break
                if fault is not None or event.kind != "step":
                    raise _UnmetError(fault or "something else came", event)
                self.seen.append(event)
            elapsed = max(event.at - since, 0.0)  # what came while nobody looked was there at once
            if expectation.at_most is not None and elapsed > expectation.at_most + _EPSILON:
                raise _UnmetError(f"it came after {elapsed:g} s, not within {expectation.at_most:g} s", event)
            if number == len(expectation.judges) and elapsed < expectation.at_least - _EPSILON:
                raise _UnmetError(f"it came after {elapsed:g} s already, not {expectation.at_least:g} s", event)
            self.seen.append(event)
            self.position = max(self.position, event.at)
            self.is_over = event.kind == "cancelled"

    async def _next(self, until: float) -> _Event | None:
        """Return the next event, or ``None`` if there is none by *until*."""
        while not self._pending:
            if self.is_over:
                return None
            if self._task.done():
                self._task.result()  # raises what is no Exception; anything else has told an end
            self._news.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._news.wait()
            except TimeoutError:
                return None
        self._room.set()
        return self._pending.popleft()

    async def let_pass(self, seconds: float) -> None:
        """Come back *seconds* after the place where the verifier stands."""
        until = self.position + seconds
        await asyncio.sleep(until - self._loop.time())
        self.position = until

    async def nothing_for(self, seconds: float) -> None:
        """See *seconds* pass without an event, steps aside. Raises `_UnmetError`."""
        since = self.position
        await self.let_pass(seconds)
        for event in [*self._pending]:
            if event.kind != "step" and event.at < self.position - _EPSILON:
                raise _UnmetError(f"something came after {max(event.at - since, 0):g} s", event)

    async def cancel(self) -> None:
        """Cancel the source, and forget what it has told and nobody has expected."""
        if not self._task.done():
            self._pending.clear()
            self.is_cancelled = True
            await self.stop()

    async def stop(self) -> None:
        """Cancel the source if it runs, and wait until it has ended."""
        await end([self._task])

    def clock(self, event: _Event) -> str:
        """Show when *event* came, in seconds since the beginning."""
        return f"{round(event.at - self.began, 6):g} s"


class StepVerifier:
    """
    What *source* must do.

    Each method that adds an expectation returns a new verifier; nothing runs before `verify_complete`
    is awaited, which may be done again for a source that can run again.

    Of a chain every step with a name is seen: logged steps, steps that were given a name, and those that
    have that of their function. Not seen are the steps inside of other chains, which were handed to
    ``zip``, ``first_success`` or ``fallback``.

    Args:
        source:
            A MonoResult, a FluxResult, a ResultStream, any other async iterator, or an awaitable: of a Result or
            FluxResult, or else of a value. An ``Exception`` that it raises is a failure.
        patience_seconds: How long an expectation waits, if `within` does not say, by the loop's clock.

    """

    def __init__(self, source: Any, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        if not isinstance(source, MonoResult | FluxResult | AsyncIterable) and not isawaitable(source):
            raise TypeError(f"nothing can be expected of {type(source).__name__}: it is no chain, stream or awaitable")
        self._source: object = source
        self._patience = _chain.seconds("patience_seconds", patience_seconds)
        self._expectations: tuple[_Expectation, ...] = ()

    # --- what must come ---

    def expect_step(self, name: str, outcome: Outcome = "ok", expected: object = ANY) -> Self:
        """
        Expect the step *name*, whatever steps come before it.

        Args:
            name: As the chain shows it.
            outcome:
                ``ok`` or ``failed``; ``cancelled``; or of a logged step ``recovered`` (a Failure was made good before it)
                or ``skipped`` (the logged step before it had failed). A step that comes otherwise is an error.
            expected: The value or error, as in `expect_value`.

        Raises:
            ValueError: There is no such step or outcome.

        """
        names = self._names("expect_step")
        if name not in names:
            close = get_close_matches(name, names)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(map(repr, names))}"
            raise ValueError(f"expect_step({name!r}): the chain has no such step; {hint}")
        if outcome not in get_args(Outcome):
            raise ValueError(f"outcome must be one of {', '.join(get_args(Outcome))}, not {outcome!r}")

        def judge(event: _Event) -> str | None:
            if event.kind != "step" or event.name != name:
                return None
            if event.outcome != outcome:
                return f"the step came, but it was {event.outcome}"
            return _fault(expected, event.result) if event.result is not None else ""

        return self._and(_call("expect_step", name, *_given(outcome, "ok"), **_named(expected=expected)), judge)

    def expect_retry(self, times: int = 1) -> Self:
        """Expect that everything within a ``retry`` begins again, *times* times one after the other."""
        self._names("expect_retry")
        at_least_one("expect_retry: times", times)
        return self._and(_call("expect_retry", *_given(times, 1)), *[_is("retry")] * times)

    def expect_value(self, expected: object = ANY) -> Self:
        """
        Expect a value.

        Args:
            expected:
                A type, a predicate (a function of the value), or what the value equals; so a matcher of dirty-equals
                is one. By default any value.

        """
        return self._and(_call("expect_value", *_given(expected)), _holds("value", expected))

    def expect_values(self, *expected: object) -> Self:
        """Expect these values one after the other, each as in `expect_value`."""
        return self._and(_call("expect_values", *expected), *[_holds("value", each) for each in expected])

    def expect_failure(self, expected: object = ANY, *, code: object = None, defect: bool | None = None) -> Self:
        """
        Expect a Failure: the Result of a chain, or an item of a stream.

        Args:
            expected: Its error, as in `expect_value`.
            code: Its error code, text or Enum member.
            defect: Whether it is one; not asked by default.

        """
        wanted = error_code(code) if isinstance(code, Enum) else code

        def judge(event: _Event) -> str | None:
            if not isinstance(event.result, Failure) or event.kind != "failure":
                return None
            found = error_code(event.result.error)
            if wanted is not None and wanted != found:
                return f"its code is {found!r}, not {wanted!r}"
            if defect is not None and defect is not event.result.is_defect:
                return f"it is {'a' if event.result.is_defect else 'no'} defect"
            return _fault(expected, event.result)

        given = _named(code=ANY if wanted is None else wanted, defect=ANY if defect is None else defect)
        return self._and(_call("expect_failure", *_given(expected), **given), judge)

    def expect_count(self, count: int) -> Self:
        """Expect *count* items of a stream, whatever they are."""
        at_least_one("expect_count: count", count)

        def judge(event: _Event) -> str | None:
            return "" if event.kind in {"value", "failure"} else None

        return self._and(_call("expect_count", count), *[judge] * count)

    def expect_no_event(self, seconds: float) -> Self:
        """Expect that for *seconds*, the last instant not included, nothing but steps comes, and no end."""
        _chain.seconds("expect_no_event", seconds)
        return self._do(lambda watch: watch.nothing_for(seconds), _call("expect_no_event", seconds))

    def expect_cancelled(self, step: str | None = None) -> Self:
        """Expect that the source ends by its cancellation, and that this meets *step*, if one is named."""

        def judge(event: _Event) -> str | None:
            if event.kind != "cancelled":
                return None
            met = repr(event.name) if event.name else "no step"
            return "" if step in {None, event.name} else f"it met {met}"

        return self._and(_call("expect_cancelled", *_given(step, None)), judge)

    def within(self, seconds: float, *, at_least: float = 0.0) -> Self:
        """
        Limit the time between the previous expectation and the one just added, the last one of it if it has several.

        Args:
            seconds: No later, and it is not waited for any longer.
            at_least: No sooner, in seconds.

        Raises:
            ValueError: There is nothing before it that is waited for, or no time is within these limits.

        """
        if not self._expectations or self._expectations[-1].act is not None:
            raise ValueError("within() limits the expectation before it, and there is none")
        _chain.seconds("within", seconds)
        if not 0 <= at_least <= seconds:
            raise ValueError(f"within({seconds!r}): at_least must be from 0 to that, not {at_least!r}")
        last = self._expectations[-1]
        text = f"{last.text}.{_call('within', seconds, **({'at_least': at_least} if at_least else {}))}"
        limited = replace(last, text=text, at_most=seconds, at_least=at_least)
        return self._with((*self._expectations[:-1], limited))

    # --- what is done meanwhile ---

    def then_await(self, seconds: float) -> Self:
        """Let *seconds* pass; what comes meanwhile is there for the next expectations."""
        _chain.seconds("then_await", seconds)
        return self._do(lambda watch: watch.let_pass(seconds))

    def then(self, do: Callable[[], object]) -> Self:
        """Call *do*, plain or async."""

        async def act(_: _Watch) -> None:
            done = do()
            if isawaitable(done):
                await done

        return self._do(act)

    def then_cancel(self) -> Self:
        """Cancel the source if it runs, and wait until it has ended; what came before and was not expected is forgotten."""
        return self._do(lambda watch: watch.cancel())

    # --- running ---

    async def verify_complete(self) -> None:
        """
        Run the source, and see that it does what is expected, ends, and does nothing else.

        After `then_cancel` the cancellation is the end. However this is left, the source has ended.

        Raises:
            AssertionError: Which expectation was not met, what came instead, and what came before.

        """
        __tracebackhide__ = True
        watch = _Watch(self._source, self._patience)

        def judge(event: _Event) -> str | None:
            return "" if event.kind == "end" or (event.kind == "cancelled" and watch.is_cancelled) else None

        last = _Expectation("verify_complete()", (judge,))
        expectations = (*self._expectations, last)
        message = ""
        try:
            await asyncio.sleep(0)  # the source has begun
            for number, expectation in enumerate(expectations, 1):
                if expectation is last and watch.is_over:
                    return
                try:
                    await watch.meet(expectation)
                except _UnmetError as unmet:
                    message = _told(f"expectation {number} of {len(expectations)}, {expectation.text}", unmet, watch)
                    break
        finally:
            await watch.stop()
        if message:
            fail(message)

    # --- building ---

    def _names(self, method: str) -> list[str]:
        chain = self._source
        if not isinstance(chain, MonoResult):
            raise TypeError(f"{method}: only a MonoResult shows its steps, {type(chain).__name__} does not")
        return [step.name for step in cast("Any", chain).steps]

    def _and(self, text: str, *judges: _Judge) -> Self:
        return self._with((*self._expectations, _Expectation(text, judges)))

    def _do(self, act: Callable[[_Watch], Awaitable[None]], text: str = "") -> Self:
        return self._with((*self._expectations, _Expectation(text, act=act)))

    def _with(self, expectations: tuple[_Expectation, ...]) -> Self:
        made = type(self)(self._source, patience_seconds=self._patience)
        made._expectations = expectations
        return made


def _told(expectation: str, unmet: _UnmetError, watch: _Watch) -> str:
    lines = [f"{expectation}: {unmet.fault}"]
    if unmet.event is not None:
        lines.append(f"  came: {watch.clock(unmet.event)}  {indent(unmet.event.show(describe), '  ').strip()}")
    before = [f"    {watch.clock(event)}  {event.show(shown)}" for event in watch.seen]
    lines += ["  before it:", *before] if before else ["  before it: nothing"]
    return "\n".join(lines)


# --- matching ---------------------------------------------------------------------------------


def _is(kind: str) -> _Judge:
    return lambda event: "" if event.kind == kind else None


def _holds(kind: str, expected: object) -> _Judge:
    def judge(event: _Event) -> str | None:
        return _fault(expected, event.result) if event.kind == kind and event.result is not None else None

    return judge


def _fault(expected: object, result: AnyResult) -> str:
    """Say why what *result* holds is not what is *expected*, "" if it is."""
    held: object = result.error if isinstance(result, Failure) else result.value
    if held is expected or equal(expected, held):
        return ""
    if isinstance(expected, type):
        return "" if isinstance(held, expected) else f"expected {expected.__name__}, got {type(held).__name__}"
    if callable(expected):
        return "" if expected(held) else f"{_argument(expected)} says no"
    return difference(expected, held)


def _argument(value: object) -> str:
    if isinstance(value, type):
        return value.__name__
    return _chain.function_name(value) or "the predicate" if isfunction(value) else shown(value)


def _given(value: object, default: object = ANY) -> tuple[object, ...]:
    return () if type(value) is type(default) and value == default else (value,)


def _named(**values: object) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not ANY}


def _call(method: str, *arguments: object, **named: object) -> str:
    told = [*map(_argument, arguments), *(f"{name}={_argument(value)}" for name, value in named.items())]
    return f"{method}({', '.join(told)})"


# --- watching a chain -----------------------------------------------------------------------------


def _watched(steps: Steps, watch: _Watch) -> Steps:
    """Return *steps* such that each one that runs tells *watch* what came of it."""
    return tuple(_watched_step(kind, call, watch) for kind, call in steps)


def _watched_step(kind: int, call: Any, watch: _Watch) -> tuple[int, Any]:
    if kind in {START, GIVEN}:
        return kind, call
    if isinstance(call, Operator):
        return kind, _watched_operator(kind, call, watch)
    name = _chain.name_of(kind, call)

    async def asynchronous(*given: Any) -> Any:
        try:
            result = await call(*given)
        except BaseException as error:
            raised(error)
            raise
        returned(result)
        return result

    def plain(*given: Any) -> Any:
        try:
            result = call(*given)
        except Exception as error:
            raised(error)
            raise
        returned(Success(result) if kind == MAP else result)
        return result

    def raised(error: BaseException) -> None:
        if isinstance(error, Exception):
            returned(Failure.from_exception(error))
        else:
            watch.tell("step", name, "cancelled")

    def returned(result: object) -> None:
        result = as_result(result, name)
        watch.tell("step", name, "failed" if isinstance(result, Failure) else "ok", result)

    return kind, _chain.configured(kind, asynchronous if kind in {ASYNC_BIND, SOURCE} else plain, name, None)


def _watched_operator(kind: int, operator: Operator, watch: _Watch) -> Operator:
    """Return *operator* such that it tells what it changes, and each time that what it holds begins again."""
    name = operator.name or operator.operator
    is_logged = operator.operator in {"log_step", "log_error", "log_performance"}
    begun: int  # both anew in each run
    inner_result: AnyResult | None

    def begin(result: AnyResult, _: Run | None) -> AnyResult:
        nonlocal begun
        begun += 1
        if begun > 1:
            watch.tell("retry", number=begun - 1)
        return result

    def end(result: AnyResult, _: Run | None) -> AnyResult:
        nonlocal inner_result
        inner_result = result
        return result

    held = operator
    if operator.inner:
        # A timeout that interrupts no step names the last one.
        last = _chain.name_of(*operator.inner[-1])
        marks = [(OPERATOR, Operator(last, mark)) for mark in (begin, end)]
        held = operator.around((marks[0], *_watched(operator.inner, watch), marks[1]))

    def told(before: AnyResult, after: object, logged: tuple[bool, bool] | None) -> None:
        if logged is None and after is (inner_result if operator.inner else before):
            return
        after = as_result(after, name)
        outcome = "ok"
        if isinstance(after, Failure):
            outcome = "skipped" if logged == (True, False) else "failed"
        elif (logged is not None and logged[1]) or (isinstance(before, Failure) and not operator.inner):
            outcome = "recovered"
        watch.tell("step", name, outcome, after)

    def plain(result: AnyResult, run: Run | None) -> Any:
        # Of a logged step: whether the one before it has failed, and whether that was taken up since.
        logged = (run.failed, run.recovering) if is_logged and run is not None else None
        answer: object = held.run(result, run)
        told(result, answer, logged)
        return answer

    async def asynchronous(result: AnyResult, run: Run | None) -> Any:
        nonlocal begun, inner_result
        begun, inner_result = 0, None
        try:
            answer: object = await held.run(result, run)
        except asyncio.CancelledError:
            watch.tell("step", name, "cancelled")
            raise
        except Exception as error:
            told(result, Failure.from_exception(error), None)
            raise
        told(result, answer, None)
        return answer

    return replace(held, run=asynchronous if kind == ASYNC_OPERATOR else plain)
