"""
Calling back: how an alert reaches the function that a user named.

A callback may raise, hang, block its event loop, call us back, or never end.
None of that may delay an evaluation or another callback. So each rule has a
`Mailbox`, and one `Courier` empties all of them from a thread of its own:
coroutine functions run in its event loop, plain ones in threads beside it.

Delivery is at most once: no retry, and nothing survives the process. What is
not delivered is counted, see `Courier.books`.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

if TYPE_CHECKING:
    from rfs.monitoring.alerts import Alert, Callback

MAX_MAILBOXES: Final = 10_000  # with mail in them
MAX_ABANDONED: Final = 64  # callbacks that were given up and still run: a thread cannot be killed
MAX_SYNC_THREADS: Final = 32  # plain callbacks at work at one time
TIMEOUTS_TO_OPEN: Final = 3
_CANCEL_SECONDS: Final = 0.1  # for a cancelled coroutine to end


class Message(NamedTuple):
    """A fire or a resolve, and who is to be told."""

    alert: Alert
    callback: Callback


class Mailbox(msgspec.Struct, eq=False, weakref=True):
    """What one rule's callback has still to be told. Guarded by the courier's lock."""

    # At most two: a resolve whose fire was delivered, and the fire of the next episode.
    messages: deque[Message] = msgspec.field(default_factory=deque[Message])
    busy: bool = False  # the worker is emptying it
    stuck: Call | None = None  # did not end in time, and still has not
    newest_episode: int = 0
    delivered_episode: int = 0  # the newest whose fire was delivered
    timeouts: int = 0  # in a row
    open_until: float | None = None  # the breaker: when to try again


class Call(msgspec.Struct, eq=False):
    """One run of a callback."""

    message: Message
    mailbox: Mailbox
    in_thread: bool = False
    work: Coroutine[Any, Any, BaseException | None] | None = None
    task: asyncio.Task[BaseException | None] | None = None

    @property
    def begun(self) -> bool:
        """Whether anything of it was done."""
        return self.work is not None and inspect.getcoroutinestate(self.work) != inspect.CORO_CREATED

    @property
    def executing(self) -> bool:
        """A thread is inside it: its own, or its loop's."""
        return self.in_thread or (
            self.work is not None and inspect.getcoroutinestate(self.work) == inspect.CORO_RUNNING
        )

    @property
    def ended(self) -> bool:
        """Nothing of it will be done any more."""
        return not self.in_thread and (self.task is None or self.task.done())


class Courier:
    """
    Empties mailboxes, each in order, all at one time.

    Args:
        on_internal_error: Gets ``alerts.callback``, ``alerts.timeout``, ``alerts.dropped`` or ``alerts.worker`` and
            the error, never under a lock. Must not raise.
        limit_seconds: Real time for one call.
        breaker_seconds: How long a callback is left alone after `TIMEOUTS_TO_OPEN` time-outs in a row.

    Safe from any thread. The first message to deliver starts the thread.
    """

    def __init__(
        self, on_internal_error: Callable[[str, BaseException], None], limit_seconds: float, breaker_seconds: float
    ) -> None:
        self.on_internal_error = on_internal_error
        self.limit_seconds = limit_seconds
        self._breaker_seconds = breaker_seconds
        # Reentrant, because a signal handler may declare a rule while its own thread holds it.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._waiting: dict[Mailbox, None] = {}  # those with mail, in order
        self._books: Counter[str] = Counter()
        self._in_flight = 0
        self._abandoned = 0
        self._now = 0.0
        self._worker: _Worker | None = None

    def put(self, mailbox: Mailbox, message: Message) -> None:
        """
        Put a message into its mailbox; `pump` has it delivered.

        A resolve that finds its own fire unread takes it away: there is nothing to tell.
        """
        with self._lock:
            self._books["produced"] += 1
            mailbox.newest_episode = message.alert.episode
            mail = mailbox.messages
            if message.alert.event == "resolve" and mail and mail[-1].alert.event == "fire":
                mail.pop()
                self._books["superseded"] += 2
            elif mailbox not in self._waiting and len(self._waiting) >= MAX_MAILBOXES:
                self._books["dropped"] += 1
            else:
                mail.append(message)
            if mail:
                self._waiting[mailbox] = None
            else:
                self._waiting.pop(mailbox, None)

    def pump(self, now: float) -> None:
        """
        Hand over every mailbox that can be emptied, and replace a thread that hangs.

        Args:
            now: Monotonic seconds, for the breakers.
        """
        faults: list[BaseException] = []
        with self._lock:
            self._now = now
            blocked = self._worker
            if blocked is not None and blocked.blocked():
                self._worker = None
                self.disown(blocked)
                blocked.stop(0.0)
                faults.append(TimeoutError(f"a callback blocked the event loop for more than {self.limit_seconds:g} s"))
            for mailbox in list(self._waiting):
                if mailbox.busy or mailbox.stuck is not None or self._breaker_open(mailbox):
                    continue
                if self._abandoned >= MAX_ABANDONED:
                    break
                try:
                    if self._worker is None:
                        self._worker = _Worker(self)
                    self._worker.submit(mailbox)
                except (OSError, RuntimeError) as error:
                    # No descriptor or thread to be had, or the interpreter ends. The next call tries again.
                    self._worker = None
                    faults.append(error)
                    break
        for fault in faults:
            self.on_internal_error("alerts.worker", fault)

    def flush(self, timeout_seconds: float) -> bool:
        """
        Wait until no callback is at work or about to be; say whether that came in time.

        Mail that waits for a breaker or behind a callback that hangs is not waited for.
        """
        with self._changed:
            worker = self._worker
            if worker is None:
                return True
            if worker.thread is threading.current_thread():
                return False
            return self._changed.wait_for(lambda: not worker.jobs, timeout_seconds)

    def close(self, timeout_seconds: float) -> bool:
        """
        Stop the thread; say whether it stopped in time.

        Callbacks at work have three quarters of the time to end; then they are cancelled, and what is left is dropped
        and counted. A coroutine callback that calls this is not waited for: the thread ends after it.
        """
        until = time.monotonic() + timeout_seconds
        self.flush(timeout_seconds * 0.75)
        with self._lock:
            worker, self._worker = self._worker, None
        stopped = True
        if worker is not None:
            worker.closing = True
            if worker.thread is threading.current_thread():
                worker.stop(timeout_seconds)
            else:
                worker.stop(0.0)
                worker.thread.join(max(0.0, until - time.monotonic()))
                stopped = not worker.thread.is_alive()
                self.disown(worker)
        with self._lock:
            left = [message for mailbox in self._waiting for message in mailbox.messages]
            for mailbox in self._waiting:
                mailbox.messages.clear()
            self._waiting.clear()
            self._books["dropped"] += len(left)
        for message in left:
            fault = f"alert rule {message.alert.rule_name!r}: closed before its {message.alert.event} was told"
            self.on_internal_error("alerts.dropped", RuntimeError(fault))
        return stopped

    def books(self) -> dict[str, int]:
        """
        Return the counts of messages.

        ``produced = delivered + failed + timed_out + superseded + dropped + waiting``. Superseded are a fire and its
        resolve that met in the mailbox, and the resolve of a fire that was not delivered. ``abandoned`` is how many
        callbacks were given up and still run.
        """
        with self._lock:
            names = ("produced", "delivered", "failed", "timed_out", "superseded", "dropped")
            books = {name: self._books[name] for name in names}
            books["waiting"] = sum(len(mailbox.messages) for mailbox in self._waiting) + self._in_flight
            books["abandoned"] = self._abandoned
            return books

    def _breaker_open(self, mailbox: Mailbox) -> bool:
        return mailbox.open_until is not None and self._now < mailbox.open_until

    # ---------------------------------------------------------------------------------------------- for the worker

    def take(self, worker: _Worker, mailbox: Mailbox) -> Call | None:
        """Take the next message out of a mailbox, or give the mailbox back."""
        with self._lock:
            if worker.disowned:
                return None
            while mailbox.messages and mailbox.stuck is None and not worker.closing and not self._breaker_open(mailbox):
                message = mailbox.messages.popleft()
                if message.alert.event == "resolve" and mailbox.delivered_episode != message.alert.episode:
                    self._books["superseded"] += 1
                    continue
                call = worker.jobs[mailbox] = Call(message, mailbox)
                self._in_flight += 1
                return call
            if not mailbox.messages:
                self._waiting.pop(mailbox, None)
            mailbox.busy = False
            del worker.jobs[mailbox]
            self._changed.notify_all()
            return None

    def settle(self, worker: _Worker, call: Call, failure: BaseException | None) -> None:
        """Book how a call ended."""
        mailbox, alert = call.mailbox, call.message.alert
        where = "alerts.callback"
        with self._lock:
            if worker.disowned:
                return  # booked then
            worker.jobs[mailbox] = None
            self._in_flight -= 1
            if isinstance(failure, _OutOfTimeError):
                self._book_timeout(call, stuck=not call.ended)
                where = "alerts.timeout"
                fault = f"alert rule {alert.rule_name!r}: the callback took more than {self.limit_seconds:g} s"
                if mailbox.open_until is not None:
                    fault += f"; it is left alone for {self._breaker_seconds:g} s"
                failure = TimeoutError(fault)
            else:
                mailbox.timeouts, mailbox.open_until = 0, None
                self._books["delivered" if failure is None else "failed"] += 1
                if failure is None and call.message.alert.event == "fire":
                    mailbox.delivered_episode = alert.episode
        if failure is not None:
            self.on_internal_error(where, failure)

    def call_over(self, call: Call) -> None:
        """Free the mailbox of a callback that was given up, now that it has ended after all."""
        with self._lock:
            if call.mailbox.stuck is call and call.ended:
                call.mailbox.stuck = None
                self._abandoned -= 1

    def disown(self, worker: _Worker) -> None:
        """
        Take everything out of the hands of a worker that is stopped, or that cannot be.

        What it has not begun goes back into the mailbox. Of the rest only what a thread is inside of blocks its
        mailbox: a coroutine that waited in a blocked loop is not to blame.
        """
        with self._lock:
            worker.disowned = True  # first: what has not begun now will not begin
            for mailbox, call in worker.jobs.items():
                mailbox.busy = False
                if call is None:
                    continue
                self._in_flight -= 1
                if call.begun:
                    worker.left.append(call)
                    self._book_timeout(call, stuck=call.executing)
                else:
                    mailbox.messages.appendleft(call.message)
                    self._waiting[mailbox] = None
            worker.jobs.clear()
            self._changed.notify_all()

    def _book_timeout(self, call: Call, *, stuck: bool) -> None:
        mailbox = call.mailbox
        self._books["timed_out"] += 1
        if call.message.alert.event == "fire":
            # It may have been told before it hung. Better a resolve too many than an alert that never ends.
            mailbox.delivered_episode = call.message.alert.episode
        mailbox.timeouts += 1
        if mailbox.timeouts >= TIMEOUTS_TO_OPEN:
            mailbox.open_until = self._now + self._breaker_seconds
        if stuck:
            mailbox.stuck = call
            self._abandoned += 1


class _OutOfTimeError(Exception):
    """The worker's word for a callback that did not end; a callback may raise a `TimeoutError` of its own."""


class _Worker:
    """A thread with an event loop. It knows mailboxes, and nothing of alerts."""

    def __init__(self, courier: Courier) -> None:
        self.jobs: dict[Mailbox, Call | None] = {}  # guarded by the courier's lock
        self.left: list[Call] = []  # calls that were at work when it was disowned
        self.closing = False
        self.disowned = False
        self._courier = courier
        self._pinged_at: float | None = None
        self._drains: set[asyncio.Task[None]] = set()
        self._finishing: asyncio.Task[None] | None = None
        self._slots = asyncio.Semaphore(MAX_SYNC_THREADS)
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._loop_fault)
        self.thread = threading.Thread(target=self._run, name="rfs-alerts", daemon=True)
        try:
            self.thread.start()
        except RuntimeError:
            self._loop.close()
            raise

    # -------------------------------------------------------------------------------------------- from other threads

    def submit(self, mailbox: Mailbox) -> None:
        """Empty *mailbox*. Called with the courier's lock held, so that the loop finds the job booked."""
        self._loop.call_soon_threadsafe(self._start, mailbox)
        mailbox.busy = True
        self.jobs[mailbox] = None

    def blocked(self) -> bool:
        """Say whether the loop, having work, left a question unanswered for longer than a callback may take."""
        if not self.jobs:
            return False
        now = time.monotonic()  # real: it is a real thread that hangs
        if self._pinged_at is None:
            self._pinged_at = now
            self._loop.call_soon_threadsafe(self._pong)
            return False
        return now - self._pinged_at > self._courier.limit_seconds

    def stop(self, grace_seconds: float) -> None:
        """End the thread once the callbacks at work have ended, or have had *grace_seconds*."""
        try:
            self._loop.call_soon_threadsafe(self._start_finish, grace_seconds)
        except RuntimeError:
            return  # the loop is closed: the thread has ended

    # -------------------------------------------------------------------------------------------- in its own thread

    def _run(self) -> None:
        loop = self._loop
        try:
            loop.run_forever()
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            if tasks:
                loop.run_until_complete(asyncio.wait(tasks, timeout=_CANCEL_SECONDS))
        finally:
            loop.close()
            self._courier.disown(self)
            for call in self.left:
                call.task = None  # it has no loop to run on any more
                self._courier.call_over(call)

    def _pong(self) -> None:
        self._pinged_at = None

    def _start(self, mailbox: Mailbox) -> None:
        task = self._loop.create_task(self._drain(mailbox))
        self._drains.add(task)  # the loop itself holds its tasks weakly
        task.add_done_callback(self._drains.discard)

    def _start_finish(self, grace_seconds: float) -> None:
        self._finishing = self._loop.create_task(self._finish(grace_seconds))

    async def _finish(self, grace_seconds: float) -> None:
        if self._drains:
            await asyncio.wait(self._drains, timeout=grace_seconds)
        self._loop.stop()

    async def _drain(self, mailbox: Mailbox) -> None:
        while (call := self._courier.take(self, mailbox)) is not None:
            callback = call.message.callback
            if inspect.iscoroutinefunction(callback):
                failure = await self._within_limit(call, self._run_here(callback, call.message.alert))
            else:
                async with self._slots:
                    failure = await self._within_limit(call, self._run_in_thread(call))
            self._courier.settle(self, call, failure)

    async def _within_limit(self, call: Call, work: Coroutine[Any, Any, BaseException | None]) -> BaseException | None:
        # Not `asyncio.timeout`: it would wait without end for a callback that swallows its cancellation.
        call.work = work
        task = call.task = self._loop.create_task(work)
        done, _ = await asyncio.wait({task}, timeout=self._courier.limit_seconds)
        if done:
            return asyncio.CancelledError("by the callback itself") if task.cancelled() else task.result()
        task.cancel()
        await asyncio.wait({task}, timeout=_CANCEL_SECONDS)
        task.add_done_callback(lambda _: self._courier.call_over(call))
        return _OutOfTimeError()

    async def _run_here(self, callback: Callable[[Alert], Awaitable[object]], alert: Alert) -> BaseException | None:
        if self.disowned:
            return None
        try:
            answer = callback(alert)
        except BaseException as error:  # noqa: BLE001 - wrong arguments, and whatever a decorator raises
            return error
        return await _awaited(answer)

    async def _run_in_thread(self, call: Call) -> BaseException | None:
        if self.disowned:
            return None
        answered: asyncio.Future[tuple[object, BaseException | None]] = self._loop.create_future()

        def settle(answer: object, failure: BaseException | None) -> None:
            if answered.done():
                _discard(answer)
            else:
                answered.set_result((answer, failure))

        def work() -> None:
            answer: object = None
            failure: BaseException | None = None
            try:
                answer = call.message.callback(call.message.alert)
            except BaseException as error:  # noqa: BLE001 - a callback's SystemExit is a failure like any other
                failure = error
            call.in_thread = False
            self._courier.call_over(call)
            try:
                self._loop.call_soon_threadsafe(settle, answer, failure)
            except RuntimeError:  # the loop was closed meanwhile
                _discard(answer)

        call.in_thread = True
        try:
            threading.Thread(target=work, name="rfs-alert-callback", daemon=True).start()
        except RuntimeError as error:  # no thread to be had
            call.in_thread = False
            return error
        answer, failure = await answered
        if failure is None and inspect.isawaitable(answer):
            return await _awaited(answer)
        return failure

    def _loop_fault(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, BaseException):
            error = RuntimeError(str(context.get("message")))
        self._courier.on_internal_error("alerts.worker", error)


async def _awaited(answer: Awaitable[object]) -> BaseException | None:
    """Return what *answer* raises, SystemExit too: a task that raised it would end the loop."""
    try:
        await answer
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001 - returned, and then counted
        return error
    return None


def _discard(answer: object) -> None:
    """Close a coroutine that came too late to be awaited."""
    if inspect.iscoroutine(answer):
        answer.close()
