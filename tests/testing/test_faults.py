"""Each fault happens, is counted, and ends with its block."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from rfs.core.result import Failure, Result, Success
from rfs.monitoring.monitor import Monitor
from rfs.testing.faults import Injector, full_disk, in_fork
from tests.testing.conftest import Virtual


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
        The same seed injures the same calls.
        """

        def faulty(seed: int) -> list[object]:
            lossy = Injector(drop=True, share=0.3, seed=seed)(lambda: 1)
            return [lossy() for _ in range(50)]

        assert faulty(1) == faulty(1) != faulty(2)

    def test_misuse(self) -> None:
        """
        What cannot be is refused.
        """
        with pytest.raises(ValueError, match=r"share must be 0 to 1, not 1\.5"):
            Injector(share=1.5)
        with pytest.raises(ValueError, match="give error or drop"):
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

        with pytest.raises(AssertionError, match=r"the child raised:\n(.|\n)*in breaks(.|\n)*LookupError: no rice"):
            in_fork(breaks)

    def test_dies(self) -> None:
        """
        So is how it died.
        """
        with pytest.raises(AssertionError, match="died without an answer, with status -9"):
            in_fork(lambda: os.kill(os.getpid(), 9))

    def test_hangs(self) -> None:
        """
        A child that needs a lock which a thread of its parent held hangs, is killed, and told.
        """
        lock = threading.Lock()

        with lock, pytest.raises(AssertionError, match=r"the child hung: it had not answered after 0\.5 s"):
            in_fork(lambda: lock.acquire(), at_most_seconds=0.5)
