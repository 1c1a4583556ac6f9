"""
Virtual time: one clock for a whole test, which moves by itself when nothing is left to do.

While a `VirtualTime` is entered, event loops, ``asyncio.sleep``, ``asyncio.timeout``, the clocks and ``sleep`` of the module ``time``,
``datetime.now`` and each Monitor that was given it as its clock tell one time. It stands still while anything runs. When all who are
known wait, it moves to where the first of them wants to go; a day of sleeping takes no time, and is the same each time.

**When it moves.** Not while one of these is under way, however long it takes:

- a job in an executor (``asyncio.to_thread``, ``loop.run_in_executor``), but for the time that it sleeps itself;
- a subprocess that the event loop has started;
- a block inside `hold`: for all that nobody here can see, such as a server that thinks before it answers.

And not before *grace* real seconds of silence after

- a socket was connected, written to, or heard from: the answer may be on its way;
- a thread that was started meanwhile (or the one that has entered) has used the processor, unless it sleeps in virtual time.

So an idle connection, a listening server and a thread that waits for work cost nothing or next to it, and what is
answered within *grace* is never overtaken by a timeout. What has held the time for *patience* real seconds is reported as a
`VirtualTimeWarning` and then disregarded: a test may be slow, but does not hang.

**Who sees it.** All threads. The standard library (but for asyncio and sched) and the test tools keep the real clocks
for what they measure and wait for, as does what waits inside C: ``Event.wait(5)`` and ``queue.get(timeout=5)`` are five real seconds.
The wall clock is time-machine's work; it is virtual for everybody. Event loops must be asyncio's own on selectors, not uvloop.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import selectors
import socket
import sys
import threading
import time
import warnings
from asyncio.base_events import BaseEventLoop
from asyncio.selector_events import BaseSelectorEventLoop
from collections.abc import Callable, Coroutine, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import Context
from datetime import UTC, datetime, timedelta
from heapq import heappush, heapreplace
from itertools import count
from math import ceil, inf, isfinite, ulp
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, cast

from rfs.monitoring._capture.pace import unpaced
from rfs.reactive import _chain
from rfs.testing.blocking import THREAD_NAME

if TYPE_CHECKING:
    from rfs.monitoring.monitor import Monitor

__all__ = ["VirtualTime", "VirtualTimeWarning"]

P = ParamSpec("P")
R = TypeVar("R")

_START = datetime(2026, 1, 1, tzinfo=UTC)
_MONOTONIC_START_NS = 1_000 * 10**9  # 0 may mean "never" to somebody
_POLL_SECONDS = 0.002  # between two looks at who still works
_BUSY_SECONDS = 0.0001  # of processor within a poll: less is the poll itself
_LOOP_RESOLUTION_SECONDS = 1e-9
_FLUSH_SECONDS = 2.0
# What measures the test itself, or waits for what is real.
_REAL = (sys.stdlib_module_names - {"asyncio", "sched", "this", "antigravity"}) | {
    "_pytest",
    "coverage",
    "execnet",
    "hypothesis",
    "pluggy",
    "pytest",
    "pytest_asyncio",
    "pytest_timeout",
    "time_machine",
    "xdist",
}
_REAL_PACKAGES = ("rfs.monitoring.", "rfs.testing.")  # which wait for threads and disks; a Monitor is told its clock
# ... but for what measures the host's operations, and what keeps them waiting.
_VIRTUAL_MODULES = frozenset({"rfs.monitoring.result_logging", "rfs.testing.result_helpers"})
# These have taken the clocks that they need by name; what they call otherwise is what somebody else has handed to them.
_CALLERS = frozenset({"concurrent.futures.thread", "contextlib", "functools", "rfs.testing.virtual_time", "threading"})
_CLOCKS = ("monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep")
_SELECTORS = ("SelectSelector", "PollSelector", "EpollSelector", "DevpollSelector", "KqueueSelector")
_SENDERS = ("connect", "connect_ex", "send", "sendall", "sendmsg", "sendto")

_real_monotonic = time.monotonic
_entering = threading.Lock()
_active: VirtualTime | None = None


class VirtualTimeWarning(RuntimeWarning):
    """Virtual time moved on although something was under way, for it had waited long enough."""


class VirtualTime:
    """
    A clock that moves when nothing is left to do; see above.

    Args:
        start: What the wall clock says at first: an aware datetime, or unix seconds.
        grace: Real seconds of silence that are waited for after sockets or threads have been at work.
        patience: Real seconds after which what holds the time is reported and disregarded.

    A context manager, plain and async; a decorator of functions, plain and async, each call of which has a clock of its own. One at a
    time: entering a second one is a RuntimeError. Leaving restores everything, whatever happened inside; timers that are left behind
    in an event loop are not due before their virtual time in real time.

    Other processes have their own time: what is spawned has the real one, and each worker of pytest-xdist may enter one.

    Without being entered it is a clock that is moved by `advance` alone, and nothing else is changed.

    >>> with VirtualTime() as clock:
    ...     time.sleep(3600)
    ...     clock.now.isoformat()
    '2026-01-01T01:00:00+00:00'
    """

    def __init__(self, start: datetime | float = _START, *, grace: float = 0.05, patience: float = 30.0) -> None:
        if isinstance(start, datetime):
            if start.tzinfo is None:
                raise ValueError(f"start must be an aware datetime, not {start!r}")
            since = start - datetime(1970, 1, 1, tzinfo=UTC)
            start_ns = since // timedelta(microseconds=1) * 1000
        else:
            # To the microsecond, as a datetime: of this size floats are exact to no more.
            start_ns = round(_chain.seconds("start", start) * 1e6) * 1000
        self._arguments = (start, _chain.seconds("grace", grace), _chain.seconds("patience", patience))
        _, self._grace, self._patience = self._arguments
        self._now_ns = _MONOTONIC_START_NS
        self._wall_offset_ns = start_ns - _MONOTONIC_START_NS
        self._turn = threading.Condition()
        # Threads, and until when each sleeps; None: it waits for something else than time.
        self._sleepers: dict[int, int | None] = {}
        self._holds: set[str] = set()
        self._jobs: set[str] = set()  # the holds of jobs in executors that nobody has the outcome of yet
        self._numbers = count()
        self._schedule: list[tuple[int, int, int, Callable[[], object]]] = []
        self._processes: list[asyncio.SubprocessTransport] = []
        self._job = threading.local()
        self._exit: ExitStack | None = None
        self._forget()

    def _forget(self) -> None:
        self._owner = 0
        self._before: frozenset[threading.Thread] = frozenset()
        self._pool: set[threading.Thread] = set()  # whose jobs are holds, and who are idle between them
        self._disregarded: set[object] = set()
        self._awake: set[int] = set()
        self._socket_at = self._thread_at = -inf  # real time of the last activity
        self._traveller: Any = None

    # The time

    def time_ns(self) -> int:
        """The wall clock, in nanoseconds since the epoch."""
        return self._now_ns + self._wall_offset_ns

    def monotonic(self) -> float:
        """Seconds that never go back; the loop's time, and the performance counter's."""
        return self._now_ns / 1e9

    def _monotonic_ns(self) -> int:
        return self._now_ns

    @property
    def now(self) -> datetime:
        """The wall clock, in UTC; to the microsecond."""
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=self.time_ns() // 1000)

    @property
    def elapsed_seconds(self) -> float:
        """Seconds that have passed since this was made; a `jump` is none of them."""
        return (self._now_ns - _MONOTONIC_START_NS) / 1e9

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward, or back if *seconds* are negative, as an administrator would; no time passes."""
        if not isfinite(seconds):
            raise ValueError(f"seconds must be finite, not {seconds!r}")
        with self._turn:
            self._wall_offset_ns += round(seconds * 1e9)
            self._tell_wall()

    def advance(self, seconds: float) -> None:
        """
        Let *seconds* pass: all that wakes meanwhile has its turn, in order, before this returns.

        In a coroutine, where nobody else can have a turn, the time is there at once and what was due meanwhile is late: there `sleep` is
        what is mostly meant. Monitors that are driven have all of their seconds in either case.

        Raises:
            ValueError: *seconds* are negative or not finite.
        """
        until_ns = self._now_ns + round(_chain.seconds("seconds", seconds) * 1e9)
        if self._exit is None or _running_loop() is not None:
            self._pass(until_ns)
        else:
            self._sleep_until(until_ns)

    async def sleep(self, seconds: float) -> None:
        """Let *seconds* pass, in a coroutine; the same as ``asyncio.sleep``."""
        await asyncio.sleep(_chain.seconds("seconds", seconds))

    def run(self, main: Coroutine[Any, Any, R]) -> R:
        """Run *main* as ``asyncio.run`` does, in virtual time (which is entered for it, if it is not yet); return what it returns."""
        with ExitStack() as stack:
            if self._exit is None:
                try:
                    stack.enter_context(self)
                except BaseException:
                    main.close()  # or it would be reported as never awaited, on top of the fault
                    raise
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                return runner.run(main)

    @contextmanager
    def hold(self, reason: str = "hold") -> Generator[None]:
        """Let no time pass inside the block: something is under way that cannot be seen from here."""
        name = self._take(reason)
        try:
            yield
        finally:
            self._release(name)

    def drive(self, monitor: Monitor, every: float = 1.0) -> None:
        """
        Let *monitor*, which was made with ``clock=`` this, do every so many virtual seconds what its thread does each real one.

        No thread is needed, so do not start it. Alert callbacks have run when the next thing happens. Its seconds pass on the way to what
        others wait for; by themselves they move no time.

        Raises:
            ValueError: The Monitor has another clock, or *every* is not above 0.
        """
        if monitor.clock is not self:
            raise ValueError("the Monitor must be made with this clock: Monitor(clock=...)")
        every_ns = round(_chain.seconds("every", every) * 1e9)
        if not every_ns:
            raise ValueError(f"every must be above 0 seconds, not {every!r}")

        def beat() -> None:
            with unpaced():
                monitor.beat()
            monitor.alerts.flush(_FLUSH_SECONDS)

        with self._turn:
            heappush(self._schedule, (self._now_ns + every_ns, next(self._numbers), every_ns, beat))

    # Entering and leaving

    def __enter__(self) -> Self:
        global _active  # noqa: PLW0603 - there is one process to be patched
        if isinstance(loop := _running_loop(), asyncio.AbstractEventLoop) and not isinstance(
            loop, BaseSelectorEventLoop
        ):
            fault = f"virtual time needs asyncio's own event loop on selectors, not {type(loop).__qualname__}"
            raise RuntimeError(fault)  # noqa: TRY004 - no argument has the wrong type
        with _entering:
            if _active is not None:
                raise RuntimeError("virtual time is entered already; use that one")
            with ExitStack() as stack:
                self._owner = get_ident()
                self._before = frozenset(threading.enumerate())
                stack.callback(self._leave)
                self._patch(stack)
                self._exit = stack.pop_all()
            _active = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        global _active  # noqa: PLW0603 - see __enter__
        stack, self._exit = self._exit, None
        if stack is not None:
            with _entering:
                _active = None
                stack.close()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(None, None, None)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate *function*: each of its calls is in a virtual time of its own, made as this one was."""
        start, grace, patience = self._arguments
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def arun(*args: P.args, **kwargs: P.kwargs) -> Any:
                async with VirtualTime(start, grace=grace, patience=patience):
                    return await function(*args, **kwargs)

            return cast("Callable[P, R]", arun)

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            with VirtualTime(start, grace=grace, patience=patience):
                return function(*args, **kwargs)

        return run

    def _leave(self) -> None:
        with self._turn:
            self._sleepers.clear()  # whoever still sleeps wakes up
            self._holds.clear()
            self._jobs.clear()
            self._processes.clear()
            self._forget()
            self._turn.notify_all()

    def _patch(self, stack: ExitStack) -> None:
        try:
            import time_machine
        except ImportError as error:
            raise ImportError("virtual time needs an optional package: pip install 'rfs[testing]'") from error
        by_real = {getattr(time, name): virtual for name, virtual in _clocks.items()}
        for module in tuple(sys.modules.values()):
            name = getattr(module, "__name__", None)
            if module is time or not isinstance(name, str) or _is_real(name):
                continue
            for key, value in tuple(getattr(module, "__dict__", {}).items()):
                # By identity first: some values cannot be hashed, or compare by running code.
                if type(value) is _BUILTIN and (virtual := by_real.get(value)) is not None:
                    _replace(stack, module, key, virtual)
        for key, virtual in _clocks.items():
            _replace(stack, time, key, virtual)
        for key in _SELECTORS:
            if (kind := getattr(selectors, key, None)) is not None:
                _replace(stack, kind, "select", self._select_of(kind.select))
        for key in _SENDERS:
            _replace(stack, socket.socket, key, self._noticed(getattr(socket.socket, key)))
        _replace(stack, BaseEventLoop, "run_in_executor", self._in_executor(BaseEventLoop.run_in_executor))
        for key in ("subprocess_exec", "subprocess_shell"):
            _replace(stack, BaseEventLoop, key, self._subprocess(getattr(BaseEventLoop, key)))
        travel = time_machine.travel(0, tick=False)
        self._traveller = travel.start()
        stack.callback(travel.stop)
        self._tell_wall()

    def _tell_wall(self) -> None:
        if self._traveller is not None:
            more = self.time_ns() - self._traveller.time_ns()
            # In two parts, each of which is exact.
            self._traveller.shift(more // 10**9)
            self._traveller.shift(more % 10**9 / 1e9)

    # Who works

    def _take(self, reason: str) -> str:
        with self._turn:
            name = f"{reason} #{next(self._numbers)}"
            self._holds.add(name)
        return name

    def _release(self, name: str) -> None:
        with self._turn:
            self._holds.discard(name)
            self._jobs.discard(name)
            self._turn.notify_all()

    def _end_job(self, name: str, _outcome: object) -> None:
        self._release(name)

    def _noticed(self, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def send(*args: Any, **kwargs: Any) -> Any:
            try:
                return real(*args, **kwargs)
            finally:
                # Who asks a loop again and again whether it still turns does no work.
                if threading.current_thread().name != THREAD_NAME:
                    self._socket_at = _real_monotonic()

        return send

    def _in_executor(self, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def run_in_executor(loop: BaseEventLoop, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
            name = self._take(f"job {_name_of(func)}")
            self._jobs.add(name)

            def job(*args: Any) -> Any:
                self._pool.add(threading.current_thread())
                self._job.hold = name
                try:
                    return func(*args)
                finally:
                    self._job.hold = None

            is_thread = executor is None or isinstance(executor, ThreadPoolExecutor)
            try:
                future = real(loop, executor, job if is_thread else func, *args)
            except BaseException:
                self._release(name)
                raise
            # Called by the loop, right before who awaits it: until then nobody may move the time.
            future.add_done_callback(functools.partial(self._end_job, name))
            return future

        return run_in_executor

    def _subprocess(self, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        async def subprocess(loop: BaseEventLoop, *args: Any, **kwargs: Any) -> Any:
            with self.hold("the start of a subprocess"):
                started = await real(loop, *args, **kwargs)
                self._processes.append(started[0])
            return started

        return subprocess

    def _obstacle(self) -> str | None:
        """What is under way, so that the time must not be moved by one who sleeps; None: nothing is."""
        for hold in self._holds:
            return hold
        for process in tuple(self._processes):
            if process.get_returncode() is not None:
                self._processes.remove(process)
                self._socket_at = _real_monotonic()  # its pipes may not have been read to their ends
            elif process not in self._disregarded:
                return f"subprocess {process.get_pid()}"
        now = _real_monotonic()
        awake = self._find_awake()
        if awake - self._awake:
            self._thread_at = now
        self._awake = awake
        if now - self._socket_at < self._grace:
            return "a socket"
        if awake and now - self._thread_at < self._grace:
            return f"thread {next(iter(awake))}"
        return None

    def _find_awake(self) -> set[int]:
        known = {
            thread.ident: thread
            for thread in threading.enumerate()
            if thread not in self._before or thread.ident == self._owner
        }
        return {
            ident
            for ident, thread in known.items()
            if ident is not None
            and ident not in self._sleepers
            and thread not in self._pool
            and thread not in self._disregarded
            and not thread.name.startswith("rfs-")  # a Monitor's own: `drive` waits for them
        }

    def _disregard(self, obstacle: str) -> None:
        """Whatever holds the time has done so for too long."""
        with self._turn:
            self._holds.clear()
            self._disregarded.update(self._processes)
            awake = self._awake
            self._disregarded.update(thread for thread in threading.enumerate() if thread.ident in awake)
            self._socket_at = self._thread_at = -inf
        warnings.warn(
            f"virtual time was held for {self._patience:g} real seconds by {obstacle}; it goes on without waiting for that",
            VirtualTimeWarning,
            stacklevel=2,
        )

    # Who waits

    def _sleep(self, seconds: float) -> None:
        if not seconds >= 0:
            raise ValueError("sleep length must be non-negative")
        self._sleep_until(self._now_ns + round(seconds * 1e9))

    def _sleep_until(self, until_ns: int) -> None:
        def pause(seconds: float) -> None:
            with self._turn:
                if get_ident() in self._sleepers:
                    self._turn.wait(seconds)

        if _running_loop() is not None:
            self._pass(until_ns)  # it blocks its loop, as a real one would: nothing else can happen
        else:
            self._wait(until_ns, pause)

    def _select_of(self, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def select(selector: selectors.BaseSelector, timeout: float | None = None) -> Any:
            loop = _running_loop()
            if loop is None or getattr(loop, "_selector", None) is not selector:
                return real(selector, timeout)
            own = cast("socket.socket", getattr(loop, "_ssock")).fileno()  # noqa: B009 - what the stubs do not show
            found: list[Any] = []

            def look(seconds: float | None) -> bool:
                found[:] = real(selector, seconds)
                if any(key.fd != own for key, _ in found):
                    self._socket_at = _real_monotonic()
                return bool(found)

            if look(0) or (timeout is not None and timeout <= 0):
                return found
            until_ns = None if timeout is None else self._now_ns + max(1, round(timeout * 1e9)) + self._grain_ns()
            self._wait(until_ns, look)
            return found

        return select

    def _grain_ns(self) -> int:
        """
        How much farther a loop must be moved to see that its timer is due: for weeks nothing.

        It asks for what is due within a nanosecond. Where floats are coarser than that (after 48 days), a timer that is due exactly now
        would not be, and the loop would ask for ever.
        """
        grain = ulp(self.monotonic())
        return 0 if grain < _LOOP_RESOLUTION_SECONDS / 2 else ceil(2e9 * grain)

    def _wait(self, until_ns: int | None, pause: Callable[[float], bool | None]) -> None:
        """Wait in virtual time, as this thread, until then or until *pause*, which waits in real seconds, says that it is enough."""
        me = get_ident()
        hold = getattr(self._job, "hold", None)
        with self._turn:
            if self._exit is None:
                return
            self._sleepers[me] = until_ns
            if hold is not None:
                self._holds.discard(hold)  # a job that sleeps is under way no more
            self._turn.notify_all()
        stuck_since: float | None = None
        looked = False  # at the processor, since the time has moved
        try:
            while True:
                with self._turn:
                    if me not in self._sleepers:
                        return
                    obstacle = self._obstacle()
                    wanted = self._first_ns() is not None
                    moves = wanted and obstacle is None and (looked or not self._awake)
                if moves:
                    self._move()
                    stuck_since, looked = None, False
                    continue
                busy = time.process_time() - time.thread_time()
                if pause(_POLL_SECONDS):
                    return
                looked = True
                now = _real_monotonic()
                if time.process_time() - time.thread_time() - busy > _BUSY_SECONDS:
                    self._thread_at = now
                if stuck_since is None or obstacle is None or not wanted:
                    stuck_since = now
                elif now - stuck_since >= self._patience:
                    stuck_since = None
                    self._disregard(obstacle)
        finally:
            with self._turn:
                self._sleepers.pop(me, None)
                if hold in self._jobs:
                    self._holds.add(hold)
                self._holds.discard(_waking(me))

    def _first_ns(self) -> int | None:
        """When the first of all sleepers wants to wake; None: nobody waits for time."""
        return min((until_ns for until_ns in self._sleepers.values() if until_ns is not None), default=None)

    def _move(self) -> None:
        """Move to where the first of those who sleep wants to wake, and wake all that do then; what is driven has its seconds before."""
        while True:
            with self._turn:
                until_ns = self._first_ns()
                if until_ns is None or self._holds:
                    return
                beat = self._step(until_ns)
                if beat is None:
                    return
                self._holds.add("a driven Monitor")
            try:
                beat()
            finally:
                self._release("a driven Monitor")

    def _pass(self, until_ns: int) -> None:
        """Move the time, whoever is at work."""
        while True:
            with self._turn:
                beat = self._step(until_ns)
            if beat is None:
                return
            beat()

    def _step(self, until_ns: int) -> Callable[[], object] | None:
        """Move the time to what is next: to what is driven, which is returned, or else until then. For who has the lock."""
        schedule = self._schedule
        if schedule and schedule[0][0] <= until_ns:
            at_ns, number, every_ns, beat = schedule[0]
            heapreplace(schedule, (at_ns + every_ns, number, every_ns, beat))
            self._now_ns = max(self._now_ns, at_ns)
            self._tell_wall()
            return beat
        self._now_ns = max(self._now_ns, until_ns)
        self._tell_wall()
        for ident, wakes_ns in tuple(self._sleepers.items()):
            if wakes_ns is not None and wakes_ns <= self._now_ns:
                del self._sleepers[ident]
                self._holds.add(_waking(ident))  # until it is awake indeed
        self._turn.notify_all()
        return None


def _clock(name: str) -> Callable[..., Any]:
    """What stands in the place of the function *name* of the module ``time``: for good in modules that import it meanwhile."""
    real = getattr(time, name)
    method = {
        "sleep": VirtualTime._sleep,  # pyright: ignore[reportPrivateUsage]
        "monotonic": VirtualTime.monotonic,
        "perf_counter": VirtualTime.monotonic,
    }.get(name, VirtualTime._monotonic_ns)  # pyright: ignore[reportPrivateUsage]

    @functools.wraps(real)
    def clock(*args: Any) -> Any:
        active = _active
        if active is None:
            return real(*args)
        caller = sys._getframe(1).f_globals.get("__name__", "")  # pyright: ignore[reportPrivateUsage]
        if _is_real(caller) and caller not in _CALLERS:
            return real(*args)
        return cast("Callable[..., Any]", method)(active, *args)

    return clock


_BUILTIN = type(time.monotonic)


def _name_of(function: object) -> str:
    if isinstance(function, functools.partial):  # what `asyncio.to_thread` makes of a function, or a user
        inner = cast("functools.partial[object]", function)
        return _name_of(inner.args[0] if isinstance(getattr(inner.func, "__self__", None), Context) else inner.func)
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def _waking(ident: int) -> str:
    return f"thread {ident}, which wakes up"


def _running_loop() -> asyncio.AbstractEventLoop | None:
    return asyncio._get_running_loop()


@functools.cache
def _is_real(module: str) -> bool:
    """Whether *module* keeps the real clocks."""
    if module.startswith(_REAL_PACKAGES):
        return module not in _VIRTUAL_MODULES
    return module.partition(".")[0] in _REAL


def _replace(stack: ExitStack, owner: Any, name: str, value: object) -> None:
    """Put *value* into its place until *stack* is closed."""
    own = cast("Mapping[str, object]", vars(owner))
    if name in own:
        stack.callback(setattr, owner, name, own[name])
    else:
        stack.callback(delattr, owner, name)
    setattr(owner, name, value)


_clocks = {name: _clock(name) for name in _CLOCKS}
