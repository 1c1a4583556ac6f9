"""Callbacks of alerts: who is told what, and that no callback can harm anything else."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from rfs.monitoring import _delivery
from rfs.monitoring.alerts import Alert, AlertCondition, AlertManager, Callback, Rule, Sample
from rfs.testing.virtual_time import VirtualTime
from tests.faults.processes import eventually

RULE = Rule("r", "r", AlertCondition.GREATER_THAN, 90, cooldown_seconds=0)
LIMIT_SECONDS = 0.25  # what hangs costs this much; what does not must be done by then on a busy machine
PATIENCE_SECONDS = 10.0


class World:
    """A manager with short limits, whose rules all read the one value."""

    def __init__(self, limit_seconds: float = LIMIT_SECONDS) -> None:
        self.clock = VirtualTime()
        self.value = 0.0
        self.errors: list[tuple[str, BaseException]] = []
        self.events: list[Alert] = []
        self.manager = AlertManager(
            lambda _: Sample(self.value),
            self.clock,
            lambda where, error: self.errors.append((where, error)),
            self.events.append,
            callback_timeout_seconds=limit_seconds,
            breaker_seconds=300,
        )

    def watch(self, callback: Callback, name: str = "r") -> None:
        """Declare the rule *name*, with *callback*."""
        self.manager.set_rule(replace(RULE, name=name), callback)

    def tick(self, value: float | None = None, *, seconds: float = 1) -> None:
        """Let time pass, and evaluate."""
        self.value = self.value if value is None else value
        self.clock.advance(seconds)
        self.manager.evaluate()

    def fire(self) -> None:
        """Bring every rule into breach."""
        self.tick(95)

    def resolve(self) -> None:
        """End every breach."""
        self.tick(1)

    def flush(self) -> None:
        """Wait for the callbacks at work."""
        assert self.manager.flush(PATIENCE_SECONDS)

    def where(self) -> list[str]:
        """The internal errors' places."""
        return [where for where, _ in self.errors]

    def balanced(self) -> dict[str, int]:
        """The books, which must balance."""
        books = self.manager.books()
        ends = ("delivered", "failed", "timed_out", "superseded", "dropped", "waiting")
        assert books["produced"] == sum(books[name] for name in ends)
        return books


@pytest.fixture
def world() -> Iterator[World]:
    """A world with a short limit for callbacks."""
    made = World()
    yield made
    assert made.manager.close(PATIENCE_SECONDS)
    made.balanced()


@pytest.fixture
def patient() -> Iterator[World]:
    """A world whose callbacks have all the time they need."""
    made = World(limit_seconds=PATIENCE_SECONDS)
    yield made
    assert made.manager.close(PATIENCE_SECONDS)
    made.balanced()


class TestKinds:
    def test_sync_async_and_lambda(self, patient: World) -> None:
        """
        A function, a coroutine function, a lambda that returns a coroutine, a partial, a method and an object whose
        call is a coroutine are all called, once per fire and once per resolve.
        """
        got: list[tuple[str, str]] = []

        def plain(alert: Alert) -> None:
            got.append(("plain", alert.event))

        async def coroutine(name: str, alert: Alert) -> None:
            await asyncio.sleep(0)
            got.append((name, alert.event))

        async def single(alert: Alert) -> None:
            await coroutine("async", alert)

        class Handler:
            async def __call__(self, alert: Alert) -> None:
                await coroutine("object", alert)

            def method(self, alert: Alert) -> None:
                got.append(("method", alert.event))

        zoo: dict[str, Callback] = {
            "plain": plain,
            "async": single,
            "lambda": lambda alert: coroutine("lambda", alert),
            "partial": partial(coroutine, "partial"),
            "object": Handler(),
            "method": Handler().method,
        }
        for name, callback in zoo.items():
            patient.watch(callback, name)
        patient.fire()
        patient.flush()
        patient.resolve()
        patient.flush()

        assert sorted(got) == sorted((name, event) for name in zoo for event in ("fire", "resolve"))
        assert patient.errors == []

    def test_the_loop_stays(self, patient: World) -> None:
        """
        Coroutine callbacks run in one loop, so that they can keep a client that belongs to it.
        """
        loops: list[object] = []

        async def callback(_: Alert) -> None:
            loops.append(asyncio.get_running_loop())

        for name in "ab":
            patient.watch(callback, name)
        patient.fire()
        patient.flush()
        patient.resolve()
        patient.flush()

        assert len(loops) == 4
        assert len(set(loops)) == 1

    def test_nothing_starts_before_the_first_message(self, patient: World) -> None:
        """
        Rules, evaluations and alerts without a callback start no thread; closing ends the one that a message started.
        """
        before = set(threading.enumerate())
        patient.manager.set_rule(RULE)
        patient.fire()
        assert set(threading.enumerate()) == before

        patient.watch(lambda _: None)
        patient.resolve()
        patient.fire()
        patient.flush()
        assert "rfs-alerts" in {thread.name for thread in threading.enumerate()}

        assert patient.manager.close()
        assert patient.manager.close()
        assert patient.manager.flush()
        eventually(lambda: set(threading.enumerate()) == before)

    def test_starts_again_after_close(self, patient: World) -> None:
        """
        After `close` the next message starts a new thread.
        """
        got: list[str] = []
        patient.watch(lambda alert: got.append(alert.event))
        patient.fire()
        patient.flush()
        patient.manager.close()

        patient.resolve()
        patient.flush()

        assert got == ["fire", "resolve"]


def raises(_: Alert) -> None:
    """Fail as most do."""
    raise ValueError("no mail server")


def exits(_: Alert) -> None:
    """Fail with SystemExit."""
    sys.exit(3)


async def raises_async(_: Alert) -> None:
    """Fail in the loop."""
    raise ValueError("no mail server")


async def exits_async(_: Alert) -> None:
    """Fail in the loop with SystemExit."""
    sys.exit(3)


async def cancels_itself(_: Alert) -> None:
    """End as if cancelled."""
    raise asyncio.CancelledError


def no_thread(_: threading.Thread) -> None:
    """Stand for a process that may have no more threads."""
    raise RuntimeError("can't start new thread")


def no_arguments() -> None:
    """Cannot be called with an alert."""
    raise AssertionError("cannot be called")


async def no_arguments_async() -> None:
    """Cannot be called with an alert."""
    raise AssertionError("cannot be called")


async def hangs_async(_: Alert) -> None:
    """Never end."""
    await asyncio.Event().wait()


class TestZoo:
    @pytest.mark.parametrize(
        "callback",
        [
            raises,
            exits,
            raises_async,
            exits_async,
            cancels_itself,
            no_arguments,
            no_arguments_async,
            lambda alert: raises_async(alert),
        ],
        ids=lambda callback: callback.__name__,
    )
    def test_failing_callback_changes_nothing_else(self, patient: World, callback: Any) -> None:
        """
        A callback that fails, in whichever way, is counted; the others get their fire and their resolve, and it is
        not told of the end of an alert whose beginning it did not get.
        """
        got: list[tuple[str, str]] = []
        patient.watch(callback, "bad")
        patient.watch(lambda alert: got.append((alert.rule_name, alert.event)), "good")

        patient.fire()
        patient.flush()
        patient.resolve()
        patient.flush()

        assert got == [("good", "fire"), ("good", "resolve")]
        assert patient.where() == ["alerts.callback"]
        books = patient.balanced()
        assert (books["delivered"], books["failed"], books["superseded"]) == (2, 1, 1)

    def test_hanging_coroutine_is_cancelled(self, world: World) -> None:
        """
        A coroutine that does not end is cancelled at its limit; others do not wait for it. It may have told somebody
        before it hung, so it gets the resolve too.
        """
        got: list[str] = []
        world.watch(hangs_async, "bad")
        world.watch(lambda alert: got.append(alert.event), "good")

        world.fire()
        world.flush()
        world.resolve()
        world.flush()

        assert got == ["fire", "resolve"]
        assert world.where() == ["alerts.timeout"] * 2
        assert "took more than 0.25 s" in str(world.errors[0][1])
        assert world.balanced()["timed_out"] == 2

    def test_breaker(self, world: World) -> None:
        """
        After three time-outs in a row a callback is left alone; after the time of the breaker it gets what is newest.
        """
        calls: list[str] = []

        async def hangs(alert: Alert) -> None:
            calls.append(f"{alert.event} {alert.episode}")
            if len(calls) <= 3:
                await asyncio.Event().wait()

        world.watch(hangs)
        for value in (95, 1, 95):
            world.tick(value)
            world.flush()
        assert calls == ["fire 1", "resolve 1", "fire 2"]
        assert "it is left alone for 300 s" in str(world.errors[-1][1])

        for value in (1, 95, 1, 95, 1, 95):
            world.tick(value)
            world.flush()
        assert len(calls) == 3
        assert world.balanced()["waiting"] == 2  # not six

        world.tick(seconds=300)
        world.flush()
        assert calls[3:] == ["resolve 2", "fire 5"]
        world.resolve()
        world.flush()
        assert calls[5:] == ["resolve 5"]

    def test_hanging_thread_is_not_doubled(self, world: World) -> None:
        """
        While a plain callback hangs in its thread it is not called again; once it ends it gets what is newest.
        """
        calls: list[str] = []
        release = threading.Event()

        def hangs(alert: Alert) -> None:
            calls.append(alert.event)
            release.wait(PATIENCE_SECONDS)

        world.watch(hangs)
        world.fire()
        world.flush()
        for value in (1, 95, 1):
            world.tick(value)
            world.flush()
        assert calls == ["fire"]
        assert world.balanced()["abandoned"] == 1

        release.set()
        eventually(lambda: world.manager.books()["abandoned"] == 0)
        world.tick()
        world.flush()
        assert calls == ["fire", "resolve"]

    def test_late_coroutine_is_closed(self, world: World) -> None:
        """
        A coroutine that a lambda returns after its time is closed, not awaited, and no warning is left.
        """
        release = threading.Event()
        ran: list[str] = []

        async def late() -> None:
            ran.append("late")

        def slow(_: Alert) -> object:
            release.wait(PATIENCE_SECONDS)
            return late()

        world.watch(slow)
        world.fire()
        world.flush()
        release.set()
        eventually(lambda: world.manager.books()["abandoned"] == 0)

        assert ran == []

    def test_coroutine_that_swallows_its_cancellation(self, world: World) -> None:
        """
        A coroutine that refuses to be cancelled is given up; the others go on, and so does it once it ends.
        """
        release: list[asyncio.Event] = []
        got: list[str] = []

        async def stubborn(_: Alert) -> None:
            release.append(asyncio.Event())
            while not release[0].is_set():
                try:
                    await release[0].wait()
                except asyncio.CancelledError:
                    continue

        world.watch(stubborn, "bad")
        world.watch(lambda alert: got.append(alert.event), "good")
        world.fire()
        world.flush()
        world.resolve()
        world.flush()
        assert got == ["fire", "resolve"]
        assert world.balanced()["abandoned"] == 1

        async def set_free(_: Alert) -> None:
            release[0].set()

        world.watch(set_free, "free")
        world.fire()
        eventually(lambda: world.manager.books()["abandoned"] == 0)

    def test_coroutine_that_blocks_the_loop(self) -> None:
        """
        A coroutine callback that blocks, as one with `time.sleep` does, costs its loop. What waits in that loop is
        cut off, what had not begun goes out by a new one, and only the culprit is not called again.
        """
        release, waiting, blocking = threading.Event(), threading.Event(), threading.Event()
        got: list[str] = []

        async def blocks(_: Alert) -> None:
            got.append("blocks")
            await asyncio.to_thread(waiting.wait, PATIENCE_SECONDS)
            blocking.set()
            release.wait(PATIENCE_SECONDS)

        async def waits(alert: Alert) -> None:
            got.append("waits")
            waiting.set()
            if alert.episode == 1:
                await asyncio.Event().wait()

        async def late(alert: Alert) -> None:
            got.append(f"late {alert.event}")

        world = World(limit_seconds=0.5)
        world.watch(blocks, "bad")
        world.watch(waits, "waits")
        world.fire()
        # Else the others could be told by the loop that is about to be blocked.
        assert blocking.wait(PATIENCE_SECONDS)
        world.watch(late, "late")
        world.watch(lambda _: got.append("thread"), "thread")

        def told() -> bool:
            world.tick()
            return {"late fire", "thread"} <= set(got)

        eventually(told)
        for value in (1, 95):
            world.tick(value)
            world.flush()
        assert world.where().count("alerts.worker") == 1
        assert got.count("blocks") == 1
        assert got.count("late fire") == 2
        assert world.balanced()["abandoned"] == 1

        release.set()
        eventually(lambda: world.manager.books()["abandoned"] == 0)
        world.manager.close(PATIENCE_SECONDS)

    def test_what_a_blocked_loop_has_not_begun(self, world: World) -> None:
        """
        A callback whose turn had come in the loop that another one blocks is told once, by the next loop.
        """
        release = threading.Event()
        got: list[str] = []

        async def blocks(_: Alert) -> None:
            release.wait(PATIENCE_SECONDS)

        async def good(alert: Alert) -> None:
            got.append(alert.event)

        world.watch(blocks, "bad")
        world.watch(good, "good")
        world.fire()  # both at once: the loop takes both messages before it begins with either

        def told() -> bool:
            world.tick()
            return bool(got)

        eventually(told)
        release.set()
        eventually(lambda: world.manager.books()["abandoned"] == 0)
        world.flush()

        assert got == ["fire"]

    def test_hanging_threads_do_not_delay_coroutines_or_evaluation(self, patient: World) -> None:
        """
        With every thread taken by a callback that hangs, coroutine callbacks are told and evaluation goes on.
        """
        release = threading.Event()
        got: list[str] = []

        async def good(alert: Alert) -> None:
            got.append(alert.event)

        for number in range(_delivery.MAX_SYNC_THREADS + 5):
            patient.watch(lambda _: release.wait(PATIENCE_SECONDS), f"hangs {number}")
        patient.watch(good, "good")
        patient.fire()
        eventually(lambda: got == ["fire"])
        patient.resolve()
        eventually(lambda: got == ["fire", "resolve"])

        threads = [thread for thread in threading.enumerate() if thread.name == "rfs-alert-callback"]
        assert len(threads) == _delivery.MAX_SYNC_THREADS
        release.set()
        patient.flush()

    @pytest.mark.parametrize("kind", ["sync", "async"])
    def test_calls_back_into_the_manager(self, patient: World, kind: str) -> None:
        """
        A callback may use the manager, even evaluate, flush and change its own rule.
        """
        seen: list[int] = []

        def use(alert: Alert) -> None:
            manager = patient.manager
            manager.evaluate()
            manager.flush(0.01)
            manager.set_rule(replace(RULE, threshold=50 + len(seen)), callback)
            manager.remove_rule("other")
            seen.append(len(manager.active()) + len(manager.rules()) + len(manager.history()) + len(manager.books()))
            assert alert.rule_name == "r"

        async def use_async(alert: Alert) -> None:
            use(alert)

        callback: Callback = use if kind == "sync" else use_async
        patient.watch(lambda _: None, "other")
        patient.watch(callback)
        patient.fire()
        eventually(lambda: len(seen) == 1)
        patient.flush()

        assert [rule.name for rule in patient.manager.rules()] == ["r"]
        assert patient.errors == []

    def test_forgotten_task_is_counted(self, patient: World) -> None:
        """
        What a task raises that a callback started and forgot is counted, not printed.
        """

        async def forgets(_: Alert) -> None:
            asyncio.get_running_loop().call_soon(lambda: 1 / 0)
            await asyncio.sleep(0)

        patient.watch(forgets)
        patient.fire()
        patient.flush()
        eventually(lambda: "alerts.worker" in patient.where())

        assert isinstance(patient.errors[0][1], ZeroDivisionError)


class TestMail:
    def hold(self, world: World) -> tuple[threading.Event, list[str]]:
        """Let the rule's callback be busy with its first fire, until it is released."""
        release = threading.Event()
        got: list[str] = []

        def holds(alert: Alert) -> None:
            got.append(f"{alert.event} {alert.episode}")
            release.wait(PATIENCE_SECONDS)

        world.watch(holds)
        world.fire()
        eventually(lambda: len(got) == 1)
        return release, got

    def test_newest_state_wins(self, patient: World) -> None:
        """
        A callback that is busy while its rule flaps is told how its alert ended and what stands now, in order.
        """
        release, got = self.hold(patient)
        for value in (1, 95, 1, 95, 1, 95):
            patient.tick(value)
        assert patient.balanced()["waiting"] == 3

        release.set()
        patient.flush()

        assert got == ["fire 1", "resolve 1", "fire 4"]
        assert patient.balanced()["superseded"] == 4

    def test_rule_made_again_keeps_the_order(self, patient: World) -> None:
        """
        A rule that is removed and made again while its callback is busy is told of in order.
        """
        release, got = self.hold(patient)
        patient.manager.remove_rule("r")
        patient.watch(lambda alert: got.append(f"{alert.event} {alert.episode}"))
        patient.tick()

        release.set()
        patient.flush()

        assert got == ["fire 1", "resolve 1", "fire 2"]

    def test_bounded(self, patient: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Mail of rules that were removed is bounded too: what is too much is dropped and counted.
        """
        release, got = self.hold(patient)
        monkeypatch.setattr(_delivery, "MAX_MAILBOXES", 1)
        patient.resolve()
        patient.watch(lambda _: None, "other")
        patient.tick(95)

        assert patient.balanced()["dropped"] == 1
        release.set()
        patient.flush()
        assert got == ["fire 1", "resolve 1", "fire 2"]

    def test_too_many_abandoned(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        With as many callbacks given up as may be, no further ones are called until one of them ends.
        """
        monkeypatch.setattr(_delivery, "MAX_ABANDONED", 1)
        release = threading.Event()
        got: list[str] = []
        world.watch(lambda _: release.wait(PATIENCE_SECONDS), "bad")
        world.fire()
        world.flush()
        world.watch(lambda alert: got.append(alert.event), "good")
        world.tick()
        world.flush()
        assert got == []

        release.set()
        eventually(lambda: world.manager.books()["abandoned"] == 0)
        world.tick()
        world.flush()
        assert got == ["fire"]

    @pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), OSError(24, "Too many open files")])
    def test_no_thread_to_be_had(self, patient: World, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
        """
        Where no thread or loop can be had the message waits, and goes out with a later evaluation.
        """
        got: list[str] = []

        def refuse(*_: object) -> None:
            raise error

        with monkeypatch.context() as patch:
            if isinstance(error, OSError):
                patch.setattr(asyncio, "new_event_loop", refuse)
            else:
                patch.setattr(threading.Thread, "start", refuse)
            patient.watch(lambda alert: got.append(alert.event))
            patient.fire()
        assert patient.where() == ["alerts.worker"]
        assert got == []

        patient.tick()
        patient.flush()
        assert got == ["fire"]

    def test_no_thread_for_the_callback(self, patient: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A plain callback for which no thread can be had has failed.
        """

        async def nothing(_: Alert) -> None: ...

        patient.watch(nothing, "first")
        patient.fire()
        patient.flush()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_thread)
            patient.watch(lambda _: None)
            patient.tick()
            patient.flush()

        assert patient.where() == ["alerts.callback"]
        assert patient.balanced()["failed"] == 1


class TestClose:
    def test_within_its_time(self) -> None:
        """
        `close` ends within its time although callbacks hang, and counts what it cut off and what it dropped.
        """
        world = World(limit_seconds=PATIENCE_SECONDS)
        release = threading.Event()
        started: list[str] = []

        def hangs(_: Alert) -> None:
            started.append("sync")
            release.wait(PATIENCE_SECONDS)

        async def waits(_: Alert) -> None:
            started.append("async")
            await asyncio.Event().wait()

        world.watch(hangs, "sync")
        world.watch(waits, "async")
        world.fire()
        eventually(lambda: len(started) == 2)
        world.resolve()

        began = time.monotonic()
        assert world.manager.close(0.4)
        assert time.monotonic() - began < 2
        books = world.balanced()

        assert (books["timed_out"], books["dropped"], books["waiting"]) == (2, 2, 0)
        assert world.where() == ["alerts.dropped"] * 2
        release.set()
        eventually(lambda: world.manager.books()["abandoned"] == 0)

    def test_blocked_loop(self) -> None:
        """
        A loop that is blocked cannot be stopped, which `close` says; its thread ends when it can.
        """
        world = World(limit_seconds=PATIENCE_SECONDS)
        release, started = threading.Event(), threading.Event()

        async def blocks(_: Alert) -> None:
            started.set()
            release.wait(PATIENCE_SECONDS)

        world.watch(blocks)
        world.fire()
        assert started.wait(PATIENCE_SECONDS)

        assert not world.manager.close(0.05)

        release.set()
        eventually(lambda: "rfs-alerts" not in {thread.name for thread in threading.enumerate()})
        assert world.balanced()["abandoned"] == 0

    @pytest.mark.parametrize("kind", ["sync", "async"])
    def test_from_a_callback(self, patient: World, kind: str) -> None:
        """
        A callback may close the manager: it ends, and then the thread does.
        """
        done: list[str] = []

        def close(_: Alert) -> None:
            patient.manager.close(0.1)
            done.append("closed")

        async def close_async(alert: Alert) -> None:
            close(alert)
            await asyncio.sleep(0)
            done.append("ended")

        patient.watch(close if kind == "sync" else close_async)
        patient.fire()
        eventually(lambda: done == (["closed"] if kind == "sync" else ["closed", "ended"]))
        eventually(lambda: "rfs-alerts" not in {thread.name for thread in threading.enumerate()})

        patient.balanced()

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_fork_starts_anew(self, patient: World) -> None:
        """
        A forked child keeps the rules, starts their states and the thread anew, and tells its own alerts.
        """
        reading, writing = os.pipe()

        def report(alert: Alert) -> None:
            os.write(writing, f"{os.getpid()} {alert.event}\n".encode())

        patient.watch(report)
        patient.fire()
        patient.flush()
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            code = 1
            try:
                empty = patient.manager.history() == [] and patient.manager.active() == []
                patient.tick()
                code = 0 if empty and patient.manager.flush(PATIENCE_SECONDS) and patient.manager.close() else 2
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        patient.resolve()
        patient.flush()

        assert os.waitstatus_to_exitcode(status) == 0
        assert os.read(reading, 1000).decode().splitlines() == [
            f"{os.getpid()} fire",
            f"{child} fire",
            f"{os.getpid()} resolve",
        ]
        os.close(reading)
        os.close(writing)
