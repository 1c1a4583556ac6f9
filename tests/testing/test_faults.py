"""Each fault happens, is counted, and ends with its block."""

from __future__ import annotations

import asyncio
import atexit
import builtins
import errno
import io
import os
import re
import threading
import time
from collections.abc import Callable
from functools import partial
from inspect import iscoroutinefunction
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from rfs.core.result import Failure, Result, Success
from rfs.monitoring.monitor import Monitor
from rfs.testing import faults
from rfs.testing.faults import Injector, full_disk, in_fork
from tests.testing.conftest import Virtual
from tests.testing.programs.wrong import seen

BEFORE = (builtins.open, os.open, os.mkdir)


class TestInjector:
    def test_error(self) -> None:
        """
        A faulty call raises in the place of what it would have done.
        """
        sent: list[str] = []
        fault = Injector(error=TimeoutError("no answer"))
        send = fault(sent.append)

        with pytest.raises(TimeoutError, match="no answer"):
            send("rice")

        assert sent == []
        assert fault.fired == 1

    def test_failure(self) -> None:
        """
        A Failure is returned, by a class of exceptions that is given one is raised.
        """

        def cook() -> Result[str, str]:
            return Success("rice")

        assert Injector(error=Failure("burnt"))(cook)() == Failure("burnt")
        with pytest.raises(LookupError):
            Injector(error=LookupError)(cook)()

    def test_latency(self, virtual: Virtual) -> None:
        """
        A late call is made after all.
        """

        async def cook() -> str:
            return "rice"

        async def test() -> tuple[str, float]:
            began = asyncio.get_running_loop().time()
            return await Injector(latency_seconds=30)(cook)(), asyncio.get_running_loop().time() - began

        assert virtual(test()) == ("rice", 30.0)

    def test_plain_latency(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        So is a plain one.
        """
        slept: list[float] = []
        monkeypatch.setattr("time.sleep", slept.append)

        assert Injector(latency_seconds=30)(lambda: "rice")() == "rice"
        assert slept == [30]

    def test_drop(self, virtual: Virtual) -> None:
        """
        A message that is lost was not sent, and nobody is told.
        """
        sent: list[str] = []

        async def send(dish: str) -> bool:
            sent.append(dish)
            return True

        fault = Injector(drop=True, share=0.5, seed=4)
        lossy = fault(send)

        async def test() -> list[bool]:
            return [await lossy(str(number)) for number in range(100)]

        answers = virtual(test())

        assert fault.fired == answers.count(None) == 100 - len(sent)
        assert 30 < fault.fired < 70

    def test_share_is_the_same_each_time(self) -> None:
        """
        The same seed injures the same calls; it is 0 if nothing else is said.
        """

        def faulty(**seed: int) -> list[object]:
            lossy = Injector(drop=True, share=0.3, **seed)(lambda: 1)
            return [lossy() for _ in range(50)]

        assert faulty(seed=1) == faulty(seed=1) != faulty(seed=2)
        assert faulty() == faulty(seed=0) != faulty(seed=1)

    def test_all_calls_by_default(self, virtual: Virtual) -> None:
        """
        Without a share every call is faulty, without anything else the fault is none; of a share of none no call is.
        """

        async def cook() -> str:
            return "rice"

        def plain() -> str:
            return "rice"

        for share, fired in ((1.0, 20), (0.0, 0)):
            fault = Injector(share=share)
            cooked, prepared = fault(cook), fault(plain)
            assert [virtual(cooked()) for _ in range(10)] == [prepared() for _ in range(10)] == ["rice"] * 10
            assert fault.fired == fired
        assert Injector()(plain)() == "rice"

    def test_latency_before_an_error(self, virtual: Virtual, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A call that fails late fails after its latency; one that is not faulty is not late, and none waits for nothing.
        """
        slept: list[float] = []
        monkeypatch.setattr("time.sleep", slept.append)

        def plain() -> str:
            return "rice"

        async def cook() -> str:
            return "rice"

        async def test() -> float:
            began = asyncio.get_running_loop().time()
            with pytest.raises(TimeoutError):
                await Injector(latency_seconds=3, error=TimeoutError)(cook)()
            await Injector(latency_seconds=3, share=0)(cook)()
            await Injector()(cook)()
            return asyncio.get_running_loop().time() - began

        with pytest.raises(TimeoutError):
            Injector(latency_seconds=3, error=TimeoutError)(plain)()
        Injector(latency_seconds=3, share=0)(plain)()
        Injector()(plain)()

        assert slept == [3]
        assert virtual(test()) == 3.0

    def test_what_is_handed_in(self, virtual: Virtual) -> None:
        """
        A function keeps its name and gets its arguments, by place and by name, where it is called after all.
        """

        def plain(dish: str, *, hot: bool) -> tuple[str, bool]:
            return dish, hot

        async def cook(dish: str, *, hot: bool) -> tuple[str, bool]:
            return dish, hot

        for share in (0, 1):
            fault = Injector(share=share)
            assert fault(plain)("rice", hot=True) == ("rice", True)
            assert virtual(fault(cook)("rice", hot=False)) == ("rice", False)
            assert (fault(plain).__name__, fault(cook).__name__) == ("plain", "cook")
            assert iscoroutinefunction(fault(cook))

    def test_answers_that_are_no_exception(self, virtual: Virtual) -> None:
        """
        Whatever else is given as an error is returned, a class too; of a dropped call None.
        """

        async def cook() -> object:
            return "rice"

        for error in (Failure("burnt"), "burnt", 0, dict):
            assert Injector(error=error)(lambda: "rice")() == error
            assert virtual(Injector(error=error)(cook)()) == error
        dropped: object = Injector(drop=True)(lambda: "rice")()
        assert dropped is None

    def test_misuse(self) -> None:
        """
        What cannot be is refused.
        """
        for share in (1.5, -0.1, float("nan")):
            with pytest.raises(ValueError, match=rf"^faults: share must be 0 to 1, not {share}$"):
                Injector(share=share)
        with pytest.raises(ValueError, match=r"^faults: a call that is dropped has no error; give error or drop$"):
            Injector(drop=True, error=OSError())


class TestFullDisk:
    def test_nothing_takes_space(self, tmp_path: Path) -> None:
        """
        Whatever would take space below the directory fails with ENOSPC, and is counted; reading goes on.
        """
        kept = tmp_path / "kept"
        kept.write_text("rice")
        held = os.open(kept, os.O_RDWR)
        folder = os.open(tmp_path, os.O_RDONLY)
        tries: list[Callable[[], object]] = [
            lambda: (tmp_path / "new").write_text("x"),
            lambda: kept.write_text("more"),
            lambda: (tmp_path / "folder").mkdir(),
            lambda: os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=folder),
            lambda: os.write(held, b"x"),
            lambda: os.pwrite(held, b"x", 0),
            lambda: os.posix_fallocate(held, 0, 4096),
        ]
        try:
            with full_disk(tmp_path) as fault:
                for attempt in tries:
                    with pytest.raises(OSError, match="No space left") as caught:
                        attempt()
                    assert caught.value.errno == errno.ENOSPC
                assert kept.read_text() == "rice"

            assert fault.fired == len(tries)
            assert sorted(each.name for each in tmp_path.iterdir()) == ["kept"]
            assert os.pwrite(held, b"nice", 0) == 4
        finally:
            os.close(held)
            os.close(folder)

    def test_what_takes_space(self, tmp_path: Path) -> None:
        """
        Files that are opened for writing in whatever way, folders, and what is named from an open folder or in bytes.
        """
        kept = tmp_path / "kept"
        kept.write_text("rice")
        folder = os.open(tmp_path, os.O_RDONLY)
        inner = tmp_path / "inner"
        inner.mkdir()
        try:
            with full_disk(str(tmp_path)) as fault:
                tries: list[Callable[[], object]] = [
                    *(
                        partial(open, kept, mode)
                        for mode in ("w", "a", "r+", "w+", "wb", "ab", "r+b", "rb+", "x", "wt")
                    ),
                    partial(open, kept, mode="w"),
                    partial(open, kept, "w", encoding="utf-8"),
                    partial(io.open, kept, "w"),
                    partial(open, os.fsencode(kept), "w"),
                    partial(os.open, kept, os.O_CREAT | os.O_RDWR),
                    partial(os.mkdir, tmp_path / "new"),
                    partial(os.mkdir, "new", dir_fd=folder),
                    partial(os.mkdir, inner / "new"),
                ]
                for number, attempt in enumerate(tries, 1):
                    with pytest.raises(OSError, match="No space left") as caught:
                        attempt()
                    assert caught.value.errno == errno.ENOSPC
                    assert fault.fired == number
                assert caught.value.filename == str(inner / "new")
        finally:
            os.close(folder)

    def test_what_takes_none(self, tmp_path: Path) -> None:
        """
        Reading in whatever way, pipes, and files that are there and opened without being made.
        """
        kept = tmp_path / "kept"
        kept.write_text("rice")
        folder = os.open(tmp_path, os.O_RDONLY)
        read, write = os.pipe()
        try:
            with full_disk(tmp_path) as fault:
                for mode in ("r", "rb", "rt"):
                    with kept.open(mode) as held:
                        assert held.read() in {"rice", b"rice"}
                with kept.open(encoding="utf-8", errors="xmlcharrefreplace") as held:
                    assert held.read() == "rice"
                os.close(os.open("kept", os.O_RDWR, dir_fd=folder))
                assert os.write(write, b"rice") == 4
                assert os.read(read, 9) == b"rice"
        finally:
            for each in (folder, read, write):
                os.close(each)

        assert fault.fired == 0
        assert (builtins.open, os.open, os.mkdir) == BEFORE

    def test_elsewhere_is_space(self, tmp_path: Path) -> None:
        """
        Another directory is not full, even one whose name begins alike.
        """
        (tmp_path / "a").mkdir()
        (tmp_path / "ab").mkdir()

        with full_disk(tmp_path / "a") as fault:
            (tmp_path / "ab" / "new").write_text("x")

        assert fault.fired == 0

    def test_a_monitor_goes_on(self, tmp_path: Path) -> None:
        """
        A monitor whose disk is full records in memory: the fault is real enough for the host's own files.
        """
        directory = tmp_path / "service"
        with full_disk(tmp_path) as fault:
            monitor = Monitor(service_name="shop", directory=directory)
            try:
                orders = monitor.counter("orders_total")
                orders.inc()
                assert monitor.query.increase("orders_total", "1h") == 1
            finally:
                monitor.stop()

        assert fault.fired > 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
class TestInFork:
    def test_answer(self) -> None:
        """
        The child answers, and is another process.
        """
        assert in_fork(lambda: os.getpid()) != os.getpid()
        assert in_fork(lambda: bytes(1 << 20)) == bytes(1 << 20)

    def test_raises(self) -> None:
        """
        What it raises is told with its traceback.
        """

        def breaks() -> None:
            raise LookupError("no rice")

        with pytest.raises(AssertionError) as caught:
            in_fork(breaks)

        assert re.match(
            r"the child raised:\nTraceback (.|\n)*in breaks(.|\n)*LookupError: no rice\n$", str(caught.value)
        )
        assert seen(caught.value) == []

    def test_raises_what_is_no_exception(self) -> None:
        """
        Or answers what cannot be pickled.
        """

        def leaves() -> None:
            raise SystemExit(3)

        for function, told in ((leaves, "SystemExit: 3"), (lambda: lambda: None, "PicklingError|AttributeError")):
            with pytest.raises(AssertionError, match=rf"^the child raised:\n(.|\n)*({told})"):
                in_fork(function)

    def test_ends_at_once(self, capfd: pytest.CaptureFixture[str]) -> None:
        """
        The child does not run the exit handlers of its parent, and is gone when it has answered.
        """
        atexit.register(handler := lambda: os.write(1, b"handled"))
        try:
            child = in_fork(os.getpid)
        finally:
            atexit.unregister(handler)

        assert capfd.readouterr().out == ""
        with pytest.raises(ChildProcessError):
            os.waitpid(child, 0)

    def test_answers_of_nothing(self) -> None:
        """
        None is an answer; so is one that takes its time.
        """

        def slow() -> str:
            time.sleep(0.2)
            return "밥"

        answer: object = in_fork(lambda: None)
        assert answer is None
        assert in_fork(slow) == "밥"

    def test_dies(self) -> None:
        """
        So is how it died.
        """
        with pytest.raises(AssertionError, match=r"^the child died without an answer, with status -9$"):
            in_fork(lambda: os.kill(os.getpid(), 9))

    def test_hangs(self) -> None:
        """
        A child that needs a lock which a thread of its parent held hangs, is killed, and told.
        """
        lock = threading.Lock()

        with lock, pytest.raises(AssertionError, match=r"^the child hung: it had not answered after 0\.5 s$"):
            in_fork(lambda: lock.acquire(), at_most_seconds=0.5)

    def test_hangs_by_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        If nothing else is said a child may take half a minute, which here is over at once.
        """
        read = count(step=1_000_000.0)
        monkeypatch.setattr(faults, "time", SimpleNamespace(monotonic=lambda: next(read)))
        lock = threading.Lock()

        with lock, pytest.raises(AssertionError, match=r"^the child hung: it had not answered after 30 s$"):
            in_fork(lambda: lock.acquire())
