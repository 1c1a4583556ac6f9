"""
Virtual time: when it moves, who sees it, what it leaves behind, and what a driven Monitor does in it.

Real time is asked by `clock_gettime`, which is never virtual. The bounds on it tell a jump from a wait and are no measurements.
"""

from __future__ import annotations

import asyncio
import functools
import http.server
import importlib
import queue
import re
import selectors
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from asyncio.base_events import BaseEventLoop
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from time import monotonic as monotonic_by_name
from time import sleep as sleep_by_name
from typing import Any

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from rfs.monitoring import AlertCondition, Monitor, Rule
from rfs.testing import virtual_time
from rfs.testing.virtual_time import VirtualTime, VirtualTimeWarning

START = datetime(2026, 1, 1, tzinfo=UTC)
SEOUL = timezone(timedelta(hours=9))
PATCHED = (
    (time, ("monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep")),
    (selectors.DefaultSelector, ("select",)),
    (socket.socket, ("send", "sendall", "sendmsg", "sendto", "connect", "connect_ex")),
    (BaseEventLoop, ("run_in_executor", "subprocess_exec", "subprocess_shell")),
)


def real() -> float:
    """Real seconds."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def entered() -> VirtualTime:
    """The clock that is entered now."""
    assert virtual_time._active is not None
    return virtual_time._active


def patched() -> list[object]:
    """What virtual time replaces, as it is now."""
    return [getattr(owner, name) for owner, names in PATCHED for name in names] + [monotonic_by_name, sleep_by_name]


class Waits:
    """A job that is no function."""

    def __init__(self, wait: Callable[..., bool]) -> None:
        self._wait = wait

    def __call__(self) -> bool:
        return self._wait()


class Answer(http.server.BaseHTTPRequestHandler):
    """Answers each GET after as many real seconds as its path says."""

    def do_GET(self) -> None:
        threading.Event().wait(float(self.path[1:]))
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"after")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


@contextmanager
def served() -> Generator[int]:
    """A real HTTP server in a thread of its own; its port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


async def get(port: int, seconds: float) -> bytes:
    """What that server answers, asked with asyncio's own streams."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /{seconds} HTTP/1.0\r\n\r\n".encode())
    try:
        return (await reader.read())[-5:]
    finally:
        writer.close()
        await writer.wait_closed()


def drive(every: float) -> None:
    """Drive a Monitor by a clock that is not entered."""
    clock = VirtualTime()
    clock.drive(Monitor(clock=clock), every)


class TestOneClock:
    @pytest.mark.parametrize(
        ("start", "wall"),
        [
            ({}, START),
            ({"start": 0}, datetime(1970, 1, 1, tzinfo=UTC)),
            ({"start": 1_700_000_000.25}, datetime(2023, 11, 14, 22, 13, 20, 250_000, tzinfo=UTC)),
            ({"start": datetime(2026, 3, 1, 9, 0, 0, 7, tzinfo=SEOUL)}, datetime(2026, 3, 1, 0, 0, 0, 7, tzinfo=UTC)),
            ({"start": datetime(1969, 12, 31, tzinfo=UTC)}, datetime(1969, 12, 31, tzinfo=UTC)),
        ],
    )
    def test_where_it_begins(self, start: dict[str, Any], wall: datetime) -> None:
        """
        The wall clock where it is told to, by default at the beginning of 2026; what only goes on, far from 0.
        """
        clock = VirtualTime(**start)

        assert (clock.now, clock.now.tzinfo) == (wall, UTC)
        assert clock.time_ns() == (wall - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000
        assert (clock.monotonic(), clock.elapsed_seconds) == (1000.0, 0.0)
        clock.advance(1.5)
        clock.jump(3600.25)
        assert clock.now == wall + timedelta(seconds=3601.75)
        assert (clock.monotonic(), clock.elapsed_seconds) == (1001.5, 1.5)

    def test_run_where_it_is_entered(self) -> None:
        """
        `run` enters and leaves what is not entered, and leaves entered what was.
        """

        async def main() -> float:
            await asyncio.sleep(5)
            return time.monotonic()

        clock = VirtualTime()
        assert clock.run(main()) == 1005
        with clock:
            assert clock.run(main()) == 1010
            time.sleep(5)
            assert time.monotonic() == 1015
        assert clock.elapsed_seconds == 15

    def test_run_takes_a_loop_of_its_own_make(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Whichever loops the process makes otherwise, `run` takes one that goes by virtual time.
        """
        monkeypatch.setattr("asyncio.events.new_event_loop", uvloop.new_event_loop)

        async def main() -> asyncio.AbstractEventLoop:
            return asyncio.get_running_loop()

        assert type(VirtualTime().run(main())) is asyncio.SelectorEventLoop

    def test_each_clock(self) -> None:
        """
        What stands in the place of a function of ``time`` is that one while no time is virtual, and the clock's while one is.
        """
        stands_in = {name: virtual_time._clock(name) for name in PATCHED[0][1]}
        read = {name: clock for name, clock in stands_in.items() if name != "sleep"}

        assert [clock.__name__ for clock in stands_in.values()] == [*PATCHED[0][1]]
        for name, clock in read.items():
            before, now, after = getattr(time, name)(), clock(), getattr(time, name)()
            assert before <= now <= after
        with VirtualTime():
            stands_in["sleep"](1.5)
            assert {name: clock() for name, clock in read.items()} == {
                "monotonic": 1001.5,
                "monotonic_ns": 1_001_500_000_000,
                "perf_counter": 1001.5,
                "perf_counter_ns": 1_001_500_000_000,
            }

    def test_advance_lets_others_have_their_turn(self) -> None:
        """
        Outside of a loop it returns when all that was due meanwhile has woken, each at its time.
        """
        woken: list[float] = []

        def sleeper(seconds: float) -> None:
            time.sleep(seconds)
            woken.append(time.monotonic())

        with VirtualTime() as clock:
            threads = [threading.Thread(target=sleeper, args=(seconds,)) for seconds in (30, 10, 20)]
            for thread in threads:
                thread.start()
            clock.advance(25)
            after = [*woken]
            clock.advance(10)
            for thread in threads:
                thread.join()

        assert after == [1010, 1020]
        assert woken == [1010, 1020, 1030]
        assert clock.elapsed_seconds == 35

    def test_everything_tells_the_same_time(self) -> None:
        """
        After an hour of sleep, an hour has passed on every clock, to the nanosecond, and next to none really.
        """
        began = real()

        with VirtualTime(START) as clock:
            before = time.monotonic(), time.perf_counter(), time.monotonic_ns(), time.perf_counter_ns()
            time.sleep(3600)
            after = time.monotonic(), time.perf_counter(), time.monotonic_ns(), time.perf_counter_ns()
            wall = START + timedelta(hours=1)

            assert [new - old for old, new in zip(before, after, strict=True)] == [3600, 3600, 36 * 10**11, 36 * 10**11]
            assert time.time() == wall.timestamp()
            assert time.time_ns() == clock.time_ns() == int(wall.timestamp()) * 10**9
            assert datetime.now(UTC) == clock.now == wall
            assert date.today() == wall.date()  # noqa: DTZ011 - what is asked here
            assert clock.monotonic() == time.monotonic()
            assert clock.elapsed_seconds == 3600
        assert real() - began < 5

    def test_names_that_were_imported_before(self) -> None:
        """
        A module that has imported ``sleep`` and ``monotonic`` by name is in the same time, and out of it afterwards.
        """
        before = monotonic_by_name, sleep_by_name

        with VirtualTime():
            began = monotonic_by_name()
            sleep_by_name(1000)

            assert monotonic_by_name() - began == 1000
        assert (monotonic_by_name, sleep_by_name) == before

    def test_the_loop(self) -> None:
        """
        The loop's time, its timers, ``asyncio.sleep`` and ``asyncio.timeout`` go by it, in their order.
        """
        seen: list[tuple[str, float]] = []

        async def main() -> None:
            loop = asyncio.get_running_loop()
            began = loop.time()
            loop.call_later(30, lambda: seen.append(("timer", loop.time() - began)))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(100):
                    await asyncio.sleep(1000)
            seen.append(("timeout", time.monotonic() - began))

        clock = VirtualTime()
        clock.run(main())

        assert seen == [("timer", 30), ("timeout", 100)]

    @given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=20))
    def test_tasks_wake_in_order(self, delays: list[float]) -> None:
        """
        However many tasks sleep for however long, each wakes at its time, and they wake in its order.
        """
        woken: list[float] = []

        async def main() -> None:
            began = time.monotonic()

            async def sleeper(delay: float) -> None:
                await asyncio.sleep(delay)
                woken.append(delay)
                assert abs(time.monotonic() - began - delay) < 1e-6

            async with asyncio.TaskGroup() as group:
                for delay in delays:
                    group.create_task(sleeper(delay))

        VirtualTime().run(main())

        assert [round(delay, 6) for delay in woken] == [round(delay, 6) for delay in sorted(delays)]

    def test_days_of_sleep_end_exactly(self) -> None:
        """
        A loop that sleeps in small steps for a day arrives at the day's end, not near it.
        """

        async def main() -> int:
            for _ in range(8640):
                await asyncio.sleep(10)
            return time.time_ns()

        assert VirtualTime(START).run(main()) == int((START + timedelta(days=1)).timestamp()) * 10**9

    def test_years_pass(self) -> None:
        """
        After three years a float of seconds is coarser than a loop's clock; timers are still due, to some tens of nanoseconds.
        """

        async def main() -> int:
            for _ in range(1000):
                await asyncio.sleep(100_000.1)
            return time.time_ns()

        passed = VirtualTime(START).run(main()) - int(START.timestamp()) * 10**9

        assert 0 <= passed - 100_000_100_000_000 * 1000 < 100_000

    def test_the_wall_clock_jumps_alone(self) -> None:
        """
        An administrator who sets the clock back an hour moves no timer.
        """
        with VirtualTime(START) as clock:
            began = time.monotonic()
            clock.jump(-3600)

            assert datetime.now(UTC) == START - timedelta(hours=1)
            assert time.monotonic() == began
            time.sleep(1.5)
            assert clock.now == datetime.now(UTC) == START - timedelta(hours=1) + timedelta(seconds=1.5)
            assert clock.elapsed_seconds == 1.5
            time.sleep(0.75)
            assert time.time_ns() == clock.time_ns()

    def test_a_clock_that_is_not_entered(self) -> None:
        """
        It is moved by hand, and the process keeps its own time.
        """
        clock = VirtualTime(1_700_000_000.5)
        untouched = patched()

        clock.advance(10)

        assert clock.time_ns() == 1_700_000_010_500_000_000
        assert abs(time.time() - clock.time_ns() / 1e9) > 1000
        assert patched() == untouched

    def test_advance_in_a_coroutine_is_at_once(self) -> None:
        """
        Inside a loop nobody else can have a turn: what was due meanwhile runs right after.
        """
        seen: list[float] = []

        async def main() -> None:
            loop = asyncio.get_running_loop()
            loop.call_later(5, lambda: seen.append(time.monotonic()))
            began = time.monotonic()
            clock.advance(60)
            assert time.monotonic() - began == 60
            assert not seen
            await clock.sleep(0)
            await clock.sleep(0)
            assert seen == [began + 60]

        clock = VirtualTime()
        clock.run(main())


class TestRealWork:
    """What is under way holds the time; each test would time out virtually if it did not."""

    def test_an_answer_is_waited_for(self) -> None:
        """
        A real HTTP server thinks for a moment, in which a virtual minute does not pass; afterwards an hour does at once.
        """

        async def main() -> tuple[bytes, float]:
            began = time.monotonic()
            async with asyncio.timeout(60):
                answer = await get(port, 0.3)
            took = time.monotonic() - began
            await asyncio.sleep(3600)
            return answer, took

        with served() as port:
            answer, took = VirtualTime(grace=2.0).run(main())

        assert answer == b"after"
        assert took < 60

    def test_a_job_in_a_thread(self) -> None:
        """
        ``asyncio.to_thread`` with a real client of that server: no time passes while it works, however short the grace.
        """

        def ask() -> bytes:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/0.3") as answer:
                return bytes(answer.read())

        async def main() -> tuple[bytes, float]:
            began = time.monotonic()
            async with asyncio.timeout(60):
                return await asyncio.to_thread(ask), time.monotonic() - began

        with served() as port:
            assert VirtualTime(grace=0).run(main()) == (b"after", 0)

    def test_a_job_that_sleeps(self) -> None:
        """
        A job that sleeps in virtual time lets it pass, and holds it again when it has woken.
        """
        seen: list[float] = []

        def job() -> None:
            time.sleep(100)
            threading.Event().wait(0.1)
            seen.append(time.monotonic())

        async def main() -> float:
            began = time.monotonic()
            asyncio.get_running_loop().call_later(100.5, lambda: seen.append(time.monotonic()))
            await asyncio.to_thread(job)
            await asyncio.sleep(10)
            return began

        began = VirtualTime(grace=0).run(main())

        assert seen == [began + 100, began + 100.5]

    def test_a_subprocess(self) -> None:
        """
        A process that takes its real time is not overtaken by a virtual timeout, and when it has ended time passes again.
        """

        async def main() -> tuple[int | None, bytes, float, float]:
            began = time.monotonic()
            async with asyncio.timeout(5):
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-c", "import time; time.sleep(0.3); print('done')", stdout=subprocess.PIPE
                )
                out, _ = await process.communicate()
            took = time.monotonic() - began
            await asyncio.sleep(60)
            return process.returncode, out, took, time.monotonic() - began

        assert VirtualTime().run(main()) == (0, b"done\n", 0, 60)

    def test_hold(self) -> None:
        """
        What nobody can see is announced, and then waited for.
        """

        async def main() -> float:
            began = time.monotonic()
            loop = asyncio.get_running_loop()
            done = asyncio.Event()
            with clock.hold("a device"):
                timer = threading.Timer(0.2, loop.call_soon_threadsafe, [done.set])
                timer.start()
                async with asyncio.timeout(5):
                    await done.wait()
            timer.join()
            return time.monotonic() - began

        clock = VirtualTime(grace=0)
        assert clock.run(main()) == 0

    def test_a_thread_that_works(self) -> None:
        """
        A thread that computes holds the time until it has come to its end; one that sleeps does not.
        """
        seen: list[float] = []

        def work() -> None:
            until = real() + 0.2
            while real() < until:
                pass
            seen.append(time.monotonic())

        with VirtualTime() as clock:
            began = clock.monotonic()
            worker = threading.Thread(target=work)
            worker.start()
            time.sleep(60)
            seen.append(time.monotonic())
            worker.join()

        assert seen == [began, began + 60]

    def test_the_thread_that_entered_works(self) -> None:
        """
        It holds the time as the others do, which sleep meanwhile.
        """
        with VirtualTime() as clock:
            sleeper = threading.Thread(target=time.sleep, args=(60,))
            sleeper.start()
            until = real() + 0.2
            while real() < until:
                pass
            while_working = clock.elapsed_seconds
            sleeper.join()

            assert (while_working, clock.elapsed_seconds) == (0, 60)

    def test_a_thread_that_works_for_ever(self) -> None:
        """
        It is reported once, and then time passes beside it.
        """
        ended = threading.Event()

        def work() -> None:
            while not ended.is_set():
                pass

        worker = threading.Thread(target=work)
        with VirtualTime(patience=0.2) as clock:
            worker.start()
            with pytest.warns(VirtualTimeWarning) as told:
                time.sleep(60)
            time.sleep(60)  # told once more it would fail, for warnings are errors here
            assert clock.elapsed_seconds == 120
        ended.set()
        worker.join()

        assert [str(each.message) for each in told] == [
            f"virtual time was held for 0.2 real seconds by thread {worker.ident}; it goes on without waiting for that"
        ]

    def test_a_loop_that_works_when_something_has_woken_it(self) -> None:
        """
        It holds the time, though it had a timer when it waited.
        """

        async def main() -> tuple[float, float]:
            loop, done = asyncio.get_running_loop(), asyncio.Event()
            sleeper = threading.Thread(target=time.sleep, args=(60,))
            with clock.hold():
                sleeper.start()
                timer = threading.Timer(0.1, loop.call_soon_threadsafe, [done.set])
                timer.start()
                async with asyncio.timeout(1000):
                    await done.wait()
            until = real() + 0.2
            while real() < until:
                pass
            while_working = clock.elapsed_seconds
            await asyncio.sleep(100)
            timer.join()
            sleeper.join()
            return while_working, clock.elapsed_seconds

        clock = VirtualTime()
        assert clock.run(main()) == (0, 100)

    def test_a_monitors_own_thread(self) -> None:
        """
        It holds nothing, however much it works.
        """
        ended = threading.Event()

        def work() -> None:
            while not ended.is_set():
                pass

        worker = threading.Thread(target=work, name="rfs-worker")
        with VirtualTime(patience=1) as clock:
            worker.start()
            time.sleep(60)
            assert clock.elapsed_seconds == 60
        ended.set()
        worker.join()

    def test_what_holds_a_time_that_nobody_waits_for(self) -> None:
        """
        May take longer than there is patience: it is not reported, for it keeps nobody waiting.
        """
        assert VirtualTime(patience=0.1).run(asyncio.to_thread(threading.Event().wait, 0.4)) is False

    def test_a_job_that_nobody_waits_for_any_more(self) -> None:
        """
        A job whose future was cancelled while it slept holds nothing when it has woken.
        """

        async def main() -> float:
            job = asyncio.get_running_loop().run_in_executor(None, time.sleep, 100)
            await asyncio.sleep(10)
            job.cancel()
            await asyncio.sleep(200)
            return time.monotonic()

        assert VirtualTime(patience=5).run(main()) == 1210

    def test_grace_by_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A socket that was written to holds the time for a twentieth of a real second.
        """
        now = 10.0
        monkeypatch.setattr(virtual_time, "_real_monotonic", lambda: now)
        one, other = socket.socketpair()
        with one, other, VirtualTime() as clock:
            one.send(b"x")
            now = 10.049
            before = clock._obstacle()
            now = 10.051
            assert (before, clock._obstacle() == "a socket") == ("a socket", False)

    def test_patience_by_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Whatever holds the time is waited for for half a minute, which here is over a thousand times as soon.
        """
        monkeypatch.setattr(virtual_time, "_real_monotonic", lambda: 1000 * real())

        told = r"^virtual time was held for 30 real seconds by a device #"
        with VirtualTime() as clock, clock.hold("a device"), pytest.warns(VirtualTimeWarning, match=told):
            time.sleep(60)

    def test_threads_that_sleep_in_turn(self) -> None:
        """
        Two threads and the main one sleep for different times; they wake in the order of time, each time the same.
        """
        seen: list[tuple[str, float]] = []

        def ticker(name: str, seconds: float) -> None:
            for _ in range(20):
                time.sleep(seconds)
                seen.append((name, time.monotonic() - began))

        with VirtualTime() as clock:
            began = clock.monotonic()
            threads = [threading.Thread(target=ticker, args=one) for one in (("a", 7.0), ("b", 11.0))]
            for thread in threads:
                thread.start()
            time.sleep(1000)
            seen.append(("main", time.monotonic() - began))
            for thread in threads:
                thread.join()

        wanted = [("a", 7.0 * n) for n in range(1, 21)] + [("b", 11.0 * n) for n in range(1, 21)] + [("main", 1000.0)]
        assert [at for _, at in seen] == sorted(at for _, at in wanted)
        assert sorted(seen) == sorted(wanted)

    def test_joining_a_thread_that_sleeps(self) -> None:
        """
        The main thread waits for real, for one that sleeps an hour: it does not hang.
        """
        began = real()

        with VirtualTime() as clock:
            at = clock.monotonic()
            sleeper = threading.Thread(target=time.sleep, args=(3600,))
            sleeper.start()
            sleeper.join()

            assert clock.monotonic() - at == 3600
        assert real() - began < 20

    def test_idle_connections_cost_nothing(self) -> None:
        """
        With a server that listens and a connection on which nothing happens, a thousand sleeps are not a thousand graces.
        """

        async def main() -> float:
            ended = asyncio.Event()

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.read()
                writer.close()
                ended.set()

            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            began = real()
            for _ in range(1000):
                await asyncio.sleep(60)
            took = real() - began
            writer.close()
            await ended.wait()
            server.close()
            return took

        assert VirtualTime(grace=0.2).run(main()) < 60

    def test_patience_has_an_end(self) -> None:
        """
        A job that waits for a timer would hold it for ever: it is reported, and the timer comes.
        """
        event = threading.Event()

        async def main() -> bool:
            asyncio.get_running_loop().call_later(5, event.set)
            return await asyncio.to_thread(event.wait)

        with pytest.warns(VirtualTimeWarning, match=r"held for 0\.2 real seconds by job Event\.wait #\d+; it goes on"):
            assert VirtualTime(patience=0.2).run(main())

    def test_the_standard_library_waits_for_real(self) -> None:
        """
        What waits inside of the standard library for real things does so in real time, to its end.
        """
        with VirtualTime() as clock:
            began = clock.monotonic()
            with pytest.raises(queue.Empty):
                queue.Queue[int]().get(timeout=0.05)
            with ThreadPoolExecutor(1) as pool, pytest.raises(TimeoutError):
                list(pool.map(threading.Event().wait, [0.3], timeout=0.05))
            with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.2)"]) as process:
                assert process.wait(timeout=60) == 0

            assert clock.monotonic() == began

    @pytest.mark.parametrize(
        ("make", "name"),
        [
            (lambda wait: wait, "Event.wait"),
            (lambda wait: functools.partial(wait, 60), "Event.wait"),
            (lambda wait: functools.partial(functools.partial(wait), 60), "Event.wait"),
            (lambda wait: Waits(wait), "Waits"),
        ],
    )
    def test_what_holds_is_named(self, make: Callable[[Callable[..., bool]], Callable[[], bool]], name: str) -> None:
        """
        A job by its function, also within partials, or by its class.
        """
        event = threading.Event()

        async def main() -> bool:
            loop = asyncio.get_running_loop()
            loop.call_later(5, event.set)
            return await loop.run_in_executor(None, make(event.wait))

        told = rf"^virtual time was held for 0\.2 real seconds by job {name} #\d+; it goes on without waiting for that$"
        with pytest.warns(VirtualTimeWarning, match=told):
            assert VirtualTime(patience=0.2, grace=0).run(main())

    @pytest.mark.parametrize(("reason", "name"), [((), "hold"), (("a device",), "a device")])
    def test_a_hold_that_is_forgotten(self, reason: tuple[str, ...], name: str) -> None:
        """
        It is reported by what was said of it, and then no hold any more.
        """
        with VirtualTime(patience=0.2) as clock, clock.hold(*reason):
            with pytest.warns(VirtualTimeWarning, match=rf"held for 0\.2 real seconds by {name} #\d+; it goes on"):
                time.sleep(60)
            time.sleep(60)

            assert clock.elapsed_seconds == 120

    def test_a_process_that_goes_on(self) -> None:
        """
        A server of a subprocess would hold the time for ever, too: it is reported once, and then time passes beside it.
        """

        async def main() -> float:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", "input()", stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            began = time.monotonic()
            for _ in range(10):
                await asyncio.sleep(60)
            passed = time.monotonic() - began
            await process.communicate(b"\n")
            return passed

        with pytest.warns(
            VirtualTimeWarning, match=r"held for 0\.2 real seconds by subprocess \d+; it goes on"
        ) as warned:
            assert VirtualTime(patience=0.2).run(main()) == 600
        assert len(warned) == 1

    def test_a_job_that_never_began(self) -> None:
        """
        A job that its executor refuses holds nothing.
        """
        pool = ThreadPoolExecutor(1)
        pool.shutdown()

        async def main() -> float:
            began = time.monotonic()
            with pytest.raises(RuntimeError, match="cannot schedule new futures"):
                await asyncio.get_running_loop().run_in_executor(pool, print)
            await asyncio.sleep(60)
            return time.monotonic() - began

        assert VirtualTime().run(main()) == 60

    def test_a_blocking_sleep_in_a_coroutine(self) -> None:
        """
        It keeps its loop from everything else, as a real one does, and what was due meanwhile is late.
        """
        late: list[float] = []

        async def main() -> float:
            began = time.monotonic()
            asyncio.get_running_loop().call_later(1, lambda: late.append(time.monotonic() - began))
            time.sleep(60)  # noqa: ASYNC251 - what is tested
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            return time.monotonic() - began

        assert VirtualTime().run(main()) == 60
        assert late == [60]
        with VirtualTime(), pytest.raises(ValueError, match=r"^sleep length must be non-negative$"):
            time.sleep(-1)
        with VirtualTime() as clock:
            time.sleep(0)
            assert clock.elapsed_seconds == 0


class TestLeaving:
    def test_nothing_is_left(self) -> None:
        """
        Whatever is raised inside, every function is the one that it was before.
        """
        before = patched()

        with pytest.raises(ZeroDivisionError), VirtualTime():  # noqa: PT012 - the block is what is tested
            assert all(new is not old for new, old in zip(patched(), before, strict=True))
            raise ZeroDivisionError

        assert patched() == before
        assert "select" in vars(selectors.DefaultSelector)
        assert "send" not in vars(socket.socket)
        assert abs(time.time() - time.clock_gettime(time.CLOCK_REALTIME)) < 10

    def test_a_second_one_is_refused(self) -> None:
        """
        There is one time; the first goes on as if nobody had asked.
        """
        with VirtualTime() as clock:
            with pytest.raises(RuntimeError, match=r"^virtual time is entered already; use that one$"), VirtualTime():
                pass
            began = clock.monotonic()
            time.sleep(5)

            assert clock.monotonic() - began == 5

    def test_a_fault_while_entering(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        If the wall clock cannot be had, for another library holds it, nothing else is changed, either.
        """
        before = patched()

        def refuse(*_args: object, **_more: object) -> None:
            raise RuntimeError("held by another")

        monkeypatch.setattr("time_machine.travel", refuse)

        async def main() -> None:
            """Never started."""

        with pytest.raises(RuntimeError, match="held by another"):
            VirtualTime().run(main())

        assert patched() == before
        monkeypatch.undo()
        with VirtualTime():
            pass

    def test_a_loop_of_another_make(self) -> None:
        """
        In a loop that would not notice, entering is refused instead of waiting for real.
        """

        async def main() -> None:
            with VirtualTime():
                """Never come to."""

        loop = uvloop.new_event_loop()
        try:
            with pytest.raises(
                RuntimeError, match=r"^virtual time needs asyncio's own event loop on selectors, not Loop$"
            ):
                loop.run_until_complete(main())
        finally:
            loop.close()
        with VirtualTime():
            pass

    def test_it_can_be_entered_again(self) -> None:
        """
        A clock that was left goes on where it stood.
        """
        clock = VirtualTime(START)
        for _ in range(2):
            with clock:
                time.sleep(60)

        assert clock.now == START + timedelta(minutes=2)

    def test_who_still_sleeps_is_woken(self) -> None:
        """
        A thread that was left asleep is not asleep for ever.
        """
        with VirtualTime() as clock, clock.hold():
            sleeper = threading.Thread(target=time.sleep, args=(3600,))
            sleeper.start()

        sleeper.join(20)
        assert not sleeper.is_alive()

    def test_a_module_imported_inside(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A module that has imported ``sleep`` while time was virtual has the real one afterwards, and a virtual one the next time.
        """
        (tmp_path / "imported_inside.py").write_text("from time import monotonic\n")
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
        with VirtualTime():
            imported_inside = importlib.import_module("imported_inside")
        try:
            assert abs(imported_inside.monotonic() - real()) < 10
            with VirtualTime() as clock:
                time.sleep(10**7)
                assert imported_inside.monotonic() == clock.monotonic()
        finally:
            del sys.modules["imported_inside"]

    def test_what_is_no_module_is_passed_over(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Whatever somebody has put among the loaded modules, with a name or attributes or without.
        """

        class Named:
            __slots__ = ("__name__",)

            def __init__(self) -> None:
                self.__name__ = "named"

        monkeypatch.setitem(sys.modules, "named", Named())
        monkeypatch.setitem(sys.modules, "unnamed", object())

        with VirtualTime() as clock:
            time.sleep(5)

        assert clock.elapsed_seconds == 5

    @pytest.mark.parametrize(
        ("make", "fault"),
        [
            (
                lambda: VirtualTime(datetime(2026, 1, 1)),  # noqa: DTZ001 - the fault
                "start must be an aware datetime, not datetime.datetime(2026, 1, 1, 0, 0)",
            ),
            (lambda: VirtualTime(float("nan")), "start must be a finite number of seconds, 0 or more, not nan"),
            (lambda: VirtualTime(grace=-1), "grace must be a finite number of seconds, 0 or more, not -1"),
            (
                lambda: VirtualTime(patience=float("inf")),
                "patience must be a finite number of seconds, 0 or more, not inf",
            ),
            (lambda: VirtualTime().advance(-1), "seconds must be a finite number of seconds, 0 or more, not -1"),
            (
                lambda: asyncio.run(VirtualTime().sleep(-1)),
                "seconds must be a finite number of seconds, 0 or more, not -1",
            ),
            (lambda: VirtualTime().jump(float("inf")), "seconds must be finite, not inf"),
            (lambda: VirtualTime().jump(float("nan")), "seconds must be finite, not nan"),
            (lambda: VirtualTime().drive(Monitor()), "the Monitor must be made with this clock: Monitor(clock=...)"),
            (lambda: drive(-1), "every must be a finite number of seconds, 0 or more, not -1"),
            (lambda: drive(0), "every must be above 0 seconds, not 0"),
        ],
    )
    def test_what_cannot_be_is_said(self, make: Callable[[], object], fault: str) -> None:
        """
        A time that cannot be is refused by name, at once.
        """
        with pytest.raises(ValueError, match=re.escape(fault)) as caught:
            make()

        assert str(caught.value) == fault

    def test_without_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Without time-machine it says what to install, and nothing is changed.
        """
        before = patched()
        monkeypatch.setitem(sys.modules, "time_machine", None)

        with pytest.raises(ImportError) as caught, VirtualTime():
            pass  # pragma: no cover

        assert str(caught.value) == "virtual time needs an optional package: pip install 'rfs[testing]'"
        assert patched() == before


class TestDecorator:
    def test_is_made_as_it_was(self) -> None:
        """
        Start, grace and patience are those of the decorator, for plain functions and coroutines, which keep their names.
        """
        decorate = VirtualTime(START, patience=0.2)

        @decorate
        def plain(*, hour: int) -> datetime:
            with entered().hold():
                time.sleep(3600 * hour)
            return datetime.now(UTC)

        @decorate
        async def coroutine(hour: int) -> datetime:
            with entered().hold():
                await asyncio.sleep(3600 * hour)
            return datetime.now(UTC)

        assert (plain.__name__, coroutine.__name__) == ("plain", "coroutine")
        with pytest.warns(VirtualTimeWarning, match=r"held for 0\.2 real seconds"):
            assert plain(hour=1) == START + timedelta(hours=1)
        with pytest.warns(VirtualTimeWarning, match=r"held for 0\.2 real seconds"):
            assert asyncio.run(coroutine(2)) == START + timedelta(hours=2)

    def test_functions(self) -> None:
        """
        A decorated function has a virtual time of its own, each time the same.
        """

        @VirtualTime(START)
        def moment(seconds: float) -> datetime:
            time.sleep(seconds)
            return datetime.now(UTC)

        assert moment(10) == moment(10) == START + timedelta(seconds=10)

    @VirtualTime(START)
    async def test_a_coroutine(self) -> None:
        """
        An async test under another's loop, here pytest-asyncio's, is in virtual time, too.
        """
        await asyncio.sleep(86_400)

        assert datetime.now(UTC) == START + timedelta(days=1)

    async def test_an_async_block(self) -> None:
        """
        So is a block of one, and the loop's time is real again after it.
        """
        loop = asyncio.get_running_loop()
        async with VirtualTime(START) as clock:
            await clock.sleep(10**7)
            assert loop.time() == clock.monotonic()

        assert abs(loop.time() - real()) < 10

    @VirtualTime(START)
    @given(st.integers(1, 10**6))
    def test_around_hypothesis(self, seconds: int) -> None:
        """
        Hypothesis keeps its own time: no example seems to take long.
        """
        before = time.monotonic()
        time.sleep(seconds)

        assert time.monotonic() - before == seconds


class TestDrive:
    def test_a_rule_fires_when_its_time_is_over(self) -> None:
        """
        A breach of a minute fires at its sixtieth second, and whoever is to be told has been, once.
        """
        told: list[str] = []

        with VirtualTime(START) as clock:
            monitor = Monitor(clock=clock)
            clock.drive(monitor)
            waiting = monitor.gauge("orders_waiting")
            rule = Rule("queue", "orders_waiting", AlertCondition.GREATER_THAN, 20, for_seconds=60)
            monitor.alerts.set_rule(rule, lambda alert: told.append(alert.timestamp))
            waiting.set(30)
            clock.advance(60)
            assert not told
            time.sleep(3600)
            monitor.stop()

        assert told == ["2026-01-01T00:01:01.000Z"]

    def test_a_callback_that_hangs_is_not_waited_for_any_longer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Whoever is told has his time, two real seconds and here less, and then the driven seconds go on.
        """
        assert virtual_time._FLUSH_SECONDS == 2
        monkeypatch.setattr(virtual_time, "_FLUSH_SECONDS", 0.01)
        released, told = threading.Event(), threading.Event()

        def hang(_: object) -> None:
            told.set()
            released.wait()

        clock = VirtualTime(START)
        monitor = Monitor(clock=clock)
        clock.drive(monitor)
        monitor.gauge("orders_waiting").set(30)
        monitor.alerts.set_rule(Rule("queue", "orders_waiting", AlertCondition.GREATER_THAN, 20), hang)
        began = real()
        clock.advance(5)
        took = real() - began

        assert told.wait(20)
        assert took < 5
        released.set()
        monitor.stop()

    def test_a_day_of_rules_takes_no_day(self) -> None:
        """
        Ten rules are evaluated every ten seconds of a day, each at its time. The bound tells a jump from a wait; a benchmark asks for 1 s.
        """
        began = time.thread_time()

        with VirtualTime(START) as clock:
            monitor = Monitor(clock=clock)
            for number in range(10):
                rule = Rule(f"queue {number}", "orders_waiting", AlertCondition.GREATER_THAN, 20, for_seconds=60)
                monitor.alerts.set_rule(rule)
            clock.drive(monitor, every=10)
            clock.advance(12 * 3600)
            monitor.gauge("orders_waiting").set(30)
            clock.advance(12 * 3600)
            told = [(each.rule_name, each.timestamp) for each in monitor.alerts.history() if each.event == "fire"]
            monitor.stop()

        assert sorted(told) == [(f"queue {number}", "2026-01-01T12:01:10.000Z") for number in range(10)]
        assert time.thread_time() - began < 10

    def test_as_the_thread_does(self, tmp_path: Path) -> None:
        """
        In a directory, too: what is recorded is in the store some driven seconds later, without a thread.
        """
        clock = VirtualTime(START)
        monitor = Monitor(clock=clock, directory=tmp_path)
        clock.drive(monitor)
        orders = monitor.counter("orders_total")

        clock.advance(5)
        orders.inc(3)
        clock.advance(5)

        assert not monitor.running
        assert monitor.leadership.is_self
        assert monitor.query.increase("orders_total", "1m") == 3
        monitor.stop()

    @given(
        st.lists(
            st.tuples(
                st.sampled_from([1, 10, 70, 400, 4000]),
                st.sampled_from(["orders_total", "waiting", "wait_seconds", None]),
                st.sampled_from([0, 0, 0, -45, -600]),
            ),
            max_size=30,
        )
    )
    def test_quiet_times_change_nothing(self, events: list[tuple[int, str | None, int]]) -> None:
        """
        Whatever is measured and however the wall clock is set, a rule sees what its query would answer at that moment.

        In a quiet time its value is not asked for anew each second; this asks.
        """
        clock = VirtualTime(START)
        monitor = Monitor(clock=clock)
        record: dict[str, Callable[[], object]] = {
            "orders_total": monitor.counter("orders_total").inc,
            "waiting": lambda: monitor.gauge("waiting").set(clock.monotonic()),
            "wait_seconds": lambda: monitor.histogram("wait_seconds").observe(2),
        }
        rules = [
            Rule("orders", "orders_total", "greater_than", 1, window_seconds=60),
            Rule("waiting", "waiting", "greater_than", 1, window_seconds=1),
            Rule("waits", "wait_seconds", "greater_than", 1, aggregation="increase", window_seconds=300),
        ]
        for rule in rules:
            monitor.alerts.set_rule(rule)

        for seconds, name, jump in events:
            if name is not None:
                record[name]()
            clock.advance(seconds)
            clock.jump(jump)
            monitor.beat()
            states = monitor.alerts.states()
            query = monitor.query.settled()
            waits = query.distribution("wait_seconds", "5m")

            assert states["orders"].value == query.increase("orders_total", "60s")
            assert states["waiting"].value == query.latest("waiting")
            assert states["waits"].value == (None if waits is None else waits.count)

    def test_the_interval(self) -> None:
        """
        It may be another than a second; what passes on the way is evaluated at its own time.
        """
        clock = VirtualTime(START)
        monitor = Monitor(clock=clock)
        seen: list[float] = []
        monitor.alerts.evaluate = lambda now=None: seen.append(clock.monotonic())  # type: ignore[method-assign]
        clock.drive(monitor, every=10)

        clock.advance(30)
        assert seen == [1010, 1020, 1030]
        clock.advance(5)

        assert seen == [1010, 1020, 1030]

    def test_the_interval_is_a_second(self) -> None:
        """
        If nothing else is said; two monitors have their seconds in turn.
        """
        clock = VirtualTime(START)
        seen: list[tuple[str, float]] = []

        def noted(name: str) -> Callable[..., None]:
            return lambda *_: seen.append((name, clock.monotonic()))

        for name in ("one", "other"):
            monitor = Monitor(clock=clock)
            monitor.alerts.evaluate = noted(name)  # type: ignore[method-assign]
            clock.drive(monitor)

        clock.advance(2.5)

        assert seen == [("one", 1001), ("other", 1001), ("one", 1002), ("other", 1002)]
