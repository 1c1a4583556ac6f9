"""
FAULTS.md §2.A: what happens to a process must not cost a record that a call has returned from, nor disturb the process.

A1–A3 at full size are in `test_kill.py`, A8 and A9 in `test_fork.py`. What a program counted itself while it ran is the witness
that RFS is compared with.
"""

from __future__ import annotations

import _thread
import fcntl
import importlib.util
import io
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rfs.monitoring import configure_result_logging, info
from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.record import read_record
from rfs.monitoring._capture.segments import Frame
from rfs.monitoring.masking import Masker, Pattern
from rfs.monitoring.monitor import Monitor, use_monitor
from tests.faults.hosts import assert_read_elsewhere, burst, host, look, show, terminate
from tests.faults.processes import FAR_SECONDS, FULL, ROOT, Process, environment, eventually, size

pytestmark = pytest.mark.fault

PIPE_BYTES = 60_000  # nearly what a pipe holds: the next line does not fit


@pytest.fixture
def monitor() -> Iterator[Monitor]:
    """The default Monitor of this test, in memory."""
    made = Monitor(service_name="faults")
    with use_monitor(made):
        yield made
    made.stop()


def live(row: str, count: int = 0) -> dict[str, Any]:
    """Run a row of `programs/life.py`; it must end by itself, well, and without a word on standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.programs.life", row, str(count)],
        cwd=ROOT,
        env=environment(RFS_DIR=":memory:"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def assert_balanced(books: dict[str, float]) -> None:
    """Produced is delivered plus dropped, and nothing is on its way."""
    dropped = sum(count for name, count in books.items() if name.startswith("dropped_"))
    assert books["produced"] == books["delivered"] + dropped
    assert books["in_flight"] == 0


def at_once(function: Callable[[], object]) -> None:
    """Let eight threads call *function* at the same instant."""
    together = threading.Barrier(8)

    def call() -> None:
        together.wait(FAR_SECONDS)
        function()

    threads = [threading.Thread(target=call, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(FAR_SECONDS)
        assert not thread.is_alive(), "it hangs"


class TestA5EndWithAHungSink:
    def test_within_two_seconds_and_nothing_lost(self, tmp_path: Path) -> None:
        """
        With a sink that hangs, a process ends within 2 s of SIGTERM, and every record of it can be read.
        """
        with Process("host", "WITNESS", env=environment(RFS_DIR=str(tmp_path / "rfs"))) as process:
            assert process.answer() == "ready"
            process.ask(do="print_to_nobody")
            burst(process, 0, 5_000)  # more than a pipe holds
            eventually(lambda: process.ask(do="stuck") >= PIPE_BYTES)

            terminate(process)
            begun = time.monotonic()
            assert process.wait() == 0
            took = time.monotonic() - begun

            show(f"A5: ended {took:.2f} s after SIGTERM")
            assert took < 2.5  # 2 s, and the interpreter's own end
            left = re.search(r"^RFS-X110 shutdown: (\d+) records left", process.errors(), re.MULTILINE)
            assert left is not None, process.errors()
            assert 4_000 < int(left[1]) <= 5_000
        assert_read_elsewhere(tmp_path / "rfs", list(range(5_000)), 5_000)


class TestA6SecondSignal:
    def _flush(self, directory: Path, *, second_after: float | None) -> float:
        """How long it takes a process with a hung sink to end, once SIGTERM has made it begin to; all records must be there."""
        with Process("host", "WITNESS", env=environment(RFS_DIR=str(directory))) as process:
            assert process.answer() == "ready"
            process.ask(do="print_to_nobody")
            burst(process, 0, 5_000)

            terminate(process)
            assert process.answer() == "ending"
            begun = time.monotonic()
            if second_after is not None:
                while time.monotonic() - begun < second_after:
                    pass
                assert process.status is None  # it is still obeying the first
                process.send(signal.SIGTERM)
            process.wait()
            took = time.monotonic() - begun
        assert_read_elsewhere(directory, list(range(5_000)), 5_000)
        shutil.rmtree(directory)  # 500 of them are many gigabytes
        return took

    def test_ends_at_once(self, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
        """
        A second SIGTERM at any moment of the flush that the first began ends the process; its records are intact.
        """
        seed = random.Random(6)
        undisturbed = self._flush(tmp_path / "alone", second_after=None)
        delays: list[float] = []
        for turn in range(size(whole=500, small=3)):
            offset = seed.uniform(0.02, 0.4)
            ended = self._flush(tmp_path / str(turn), second_after=offset)
            delays.append(ended - offset)
            assert delays[-1] < 0.75 * (undisturbed - offset)

        delays.sort()
        record_property(
            "ended after the second", f"{delays[len(delays) // 2]:.3f} s mostly, {delays[-1]:.3f} s at most"
        )
        if FULL:  # nothing else runs
            assert delays[-1] <= 0.2


class TestA7SuddenEnd:
    @pytest.mark.parametrize(("how", "status"), [("_exit", 3), ("segfault", -signal.SIGSEGV)])
    def test_loses_nothing(self, tmp_path: Path, how: str, status: int) -> None:
        """
        `os._exit` and a segmentation fault cost no record and no count that a call had returned from.
        """
        with Process("host", "WITNESS", env=environment(RFS_DIR=str(tmp_path / "rfs"))) as process:
            assert process.answer() == "ready"
            burst(process, 0, 5_000)

            process.tell(do="exit", how=how)

            assert process.wait() == status
        assert_read_elsewhere(tmp_path / "rfs", list(range(5_000)), 5_000)

    @pytest.mark.parametrize("how", ["_exit", "segfault", "kill -9", "return"])
    def test_is_told_by_the_next(self, tmp_path: Path, how: str) -> None:
        """
        The next process says that one was killed, and the number of its last record; of one that was stopped it says nothing.
        """
        killed = how != "return"
        with Process("host", "WITNESS", env=environment(RFS_DIR=str(tmp_path / "rfs"))) as process:
            assert process.answer() == "ready"
            burst(process, 0, 500)
            eventually(lambda: look(process)["leads"])
            assert look(process)["gauges"].get("rfs_prev_shutdown_unclean", 0) == 0
            if how == "kill -9":
                process.kill()
            else:
                process.tell(do="exit", how=how)
            process.wait()
        with host(tmp_path / "rfs") as successor:
            seen = eventually(
                lambda: now if "rfs_prev_shutdown_unclean" in (now := look(successor))["gauges"] else None,
                says=lambda: look(successor),
            )

            assert seen is not None
            assert seen["gauges"]["rfs_prev_shutdown_unclean"] == killed
            told = look(successor)["told"]
            assert told == ([{"pid": process.pid, "last_sequence": 500, "lost": 0}] if killed else [])
            assert look(successor)["books"].get("lost_on_crash", 0) == 0


class TestA10ForkWithOpenFiles:
    def test_child_has_files_of_its_own(self, tmp_path: Path) -> None:
        """
        A forked child writes files of its own; the parent's lock stays the parent's when the child is gone.
        """
        with host(tmp_path / "rfs") as process:
            burst(process, 0, 100)

            child = process.ask(do="fork", id="child", count=100)
            process.witnessed()

            assert child["numbers"] == list(range(100))
            assert child["total"] == 200
            alive = [file for file in (tmp_path / "rfs" / "live").iterdir() if file.name.endswith(".alive")]
            mine = next(file for file in alive if file.name.startswith(f"{process.pid}-"))
            with mine.open("rb") as file, pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            burst(process, 100, 100)
            assert look(process)["numbers"] == list(range(200))
            assert look(process)["total"] == 300


class TestA11ConfiguredTwice:
    def lines(self, stream: io.StringIO, text: str) -> int:
        return sum(json.loads(line)["message"] == text for line in stream.getvalue().splitlines())

    def test_one_after_the_other(self, monitor: Monitor) -> None:
        """
        After a second `configure_result_logging` a record is printed once, on the second stream.
        """
        first, second = io.StringIO(), io.StringIO()
        configure_result_logging(stream=first)
        configure_result_logging(stream=second)

        info("once")
        info("last")
        eventually(lambda: self.lines(second, "last"), says=second.getvalue)

        assert self.lines(second, "once") == 1
        assert first.getvalue() == ""

    def test_by_a_module_that_is_reloaded(self, monitor: Monitor, tmp_path: Path) -> None:
        """
        A module that configures when it is imported, and is reloaded, leaves one handler.
        """
        (tmp_path / "configures_itself.py").write_text(
            "from rfs.monitoring import configure_result_logging\n"
            "loads = globals().get('loads', 0) + 1\n"
            "configure_result_logging(stream=stream)\n"
        )
        stream = io.StringIO()
        spec = importlib.util.spec_from_file_location("configures_itself", tmp_path / "configures_itself.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        vars(module)["stream"] = stream
        for _ in range(3):
            spec.loader.exec_module(module)  # as `reload` does, in the module's own namespace

        info("after reloading")
        monitor.stop()

        assert vars(module)["loads"] == 3
        assert self.lines(stream, "after reloading") == 1

    def test_in_many_threads_at_once(self, monitor: Monitor) -> None:
        """
        Eight threads that configure at the same instant leave one handler: a record is printed once.
        """
        for turn in range(size(whole=200, small=20)):
            stream = io.StringIO()
            at_once(partial(configure_result_logging, stream=stream))

            info(f"turn {turn}")
            monitor.stop()  # prints what is left

            assert self.lines(stream, f"turn {turn}") == 1

    def test_start_in_many_threads_at_once(self, monitor: Monitor) -> None:
        """
        However many threads start the Monitor, one thread runs.
        """
        before = set(threading.enumerate())
        at_once(monitor.start)

        assert len([thread for thread in set(threading.enumerate()) - before if thread.name == "rfs-leader"]) == 1


class TestA12RecordsAtExit:
    def test_before_and_after_our_own_end(self) -> None:
        """
        What is recorded in callbacks of `atexit`, before and after RFS has stopped itself, is there.
        """
        said = live("a12")

        assert said["said"] == [[1, True], [2, False]]  # one while it ran, one after it was stopped
        assert said["found"] == [1, 2]
        assert_balanced(said["books"])


class TestA13ThreadsAtTheEnd:
    def test_no_word_and_no_other_exit_code(self) -> None:
        """
        With four threads that record to the last moment, a process ends with 0 and says nothing on standard error.
        """
        for _ in range(size(whole=100, small=8)):
            live("a13")


class TestA14FinalisersThatRecord:
    def test_inside_our_own_code(self) -> None:
        """
        Objects that record while they are finalised, in the middle of our own calls, lose nothing and deadlock nowhere.
        """
        said = live("a14", size(whole=5_000, small=1_000))

        assert said["inside"] > 100  # the collector did start inside our calls
        assert said["returned"] == said["counted"]
        assert (said["lost"], said["twice"], said["more"]) == ([], [], 0)
        assert_balanced(said["books"])


class TestA15SignalHandlers:
    @pytest.mark.parametrize("hertz", [200, 3000])
    def test_that_record(self, hertz: int) -> None:
        """
        A handler that records at 200 Hz or 3 kHz, into a loop that records, costs neither of them a record.
        """
        said = live("a15", hertz)

        assert said["signal"]["returned"] >= min(hertz, 1000)
        assert said["signal"]["returned"] == said["counted"]
        for source in ("signal", "loop"):
            assert {**said[source], "returned": 0} == {"returned": 0, "lost": [], "twice": [], "more": 0}
        assert_balanced(said["books"])


class LoudSink:
    """A sink that records twice for each record that it is handed."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.handed: list[str] = []
        self.depth = self.deepest = 0

    def put(self, frames: list[Frame]) -> None:
        self.depth += 1
        self.deepest = max(self.deepest, self.depth)
        for frame in frames:
            self.handed.append(read_record("", frame.payload, "").message)
            self.monitor.log(20, "from inside the sink")
            self.monitor.log(20, "from inside the sink")
        self.depth -= 1

    def close(self, timeout_seconds: float) -> None:
        pass


class LoudStream(io.StringIO):
    """A stream that records for each text that is written to it, as one does whose writer has a logger."""

    def __init__(self, monitor: Monitor) -> None:
        super().__init__()
        self.monitor = monitor

    def write(self, text: str) -> int:
        self.monitor.log(20, "from inside the stream")
        return super().write(text)


def reentrant(monitor: Monitor) -> float:
    """How many records have been made from inside a hook."""
    return monitor.query.totals().counters.get(SeriesKey("rfs_hook_faults_total", (("reason", "reentrant"),)), 0)


def messages(monitor: Monitor) -> list[str]:
    return sorted(record.message for record in monitor.query.records(limit=1_000))


class TestA16RecordsFromInside:
    """
    What a hook records itself is kept, and the hook is not asked about it.

    The row lets such a record be dropped, lest the hook be called from inside itself without end. Here no call is deeper than 1,
    none follows from what a hook has recorded, and each is counted as ``reentrant`` just the same; but the record, which may say
    why the hook fails, is there. So is one of a signal handler or a finaliser that happens to run while a sink is at work.
    """

    @pytest.mark.parametrize("place", ["memory", "directory"])
    def test_a_sink_that_records(self, tmp_path: Path, place: str) -> None:
        """
        A sink that records for each record, twice even, is handed none of that: it would never end.
        """
        monitor = Monitor(service_name="faults", directory=None if place == "memory" else tmp_path / "rfs")
        sink = LoudSink(monitor)
        monitor.add_sink(sink)

        monitor.log(20, "outside")
        for _ in range(5):
            books = monitor.query.books()["records"]

        assert sink.handed == ["outside"]
        assert sink.deepest == 1
        assert messages(monitor) == ["from inside the sink"] * 2 + ["outside"]
        assert reentrant(monitor) == 2
        assert books["produced"] == 3
        monitor.stop()

    def test_a_stream_that_records(self, monitor: Monitor) -> None:
        """
        Nor is what a stream records while it is written to printed on it.
        """
        stream = LoudStream(monitor)
        configure_result_logging(stream=stream)

        info("outside")
        eventually(lambda: "from inside the stream" in messages(monitor))
        info("last")
        eventually(lambda: '"last"' in stream.getvalue(), says=stream.getvalue)

        printed = [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
        assert printed == ["outside", "last"]
        assert messages(monitor).count("from inside the stream") == reentrant(monitor)

    def test_a_fault_that_records(self, monitor: Monitor) -> None:
        """
        A sink that raises is reported, the report does not come back to it without end, and the records are there.
        """

        class Broken(LoudSink):
            def put(self, frames: list[Frame]) -> None:
                super().put(frames)
                raise ValueError("broken sink")

        sink = Broken(monitor)
        monitor.add_sink(sink)

        for text in ("outside", "afterwards"):
            monitor.log(20, text)
            monitor.query.books()

        assert sink.handed == ["outside", "afterwards"]
        assert sink.deepest == 1
        assert messages(monitor) == ["afterwards", *["from inside the sink"] * 4, "outside"]

    def test_a_check_that_records(self) -> None:
        """
        A pattern's check that records what it would be asked about again is asked once; what it recorded is there, masked.
        """
        depth: list[int] = []
        deepest = 0

        def accept(text: str) -> bool:
            nonlocal deepest
            depth.append(1)
            deepest = max(deepest, len(depth))
            checked.log(20, f"asked about {text}")
            depth.pop()
            return True

        checked = Monitor(service_name="faults", masker=Masker(patterns=[Pattern("six", "[0-9]{6}", accept)]))
        checked.log(20, "outside 123456")

        assert deepest == 1
        assert messages(checked) == ["asked about [masked:six]", "outside [masked:six]"]
        assert reentrant(checked) == 1
        assert_balanced(checked.query.books()["records"])


class TestA18NoThreadCanBeStarted:
    def test_recording_goes_on(self, monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Simulated: where the system gives no thread, `start` does not raise and nothing that is recorded is lost.
        """
        refused: list[Callable[..., object]] = []

        def refuse(function: Callable[..., object], *_: object, **__: object) -> int:
            refused.append(function)
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(_thread, "start_new_thread", refuse)
        monkeypatch.setattr(threading, "_start_new_thread", refuse)
        monkeypatch.setattr(threading, "_start_joinable_thread", refuse, raising=False)

        monitor.start()
        for n in range(100):
            monitor.log(20, "without a thread", fields={"n": n})

        assert refused
        totals = monitor.query.totals()
        assert {key.name: value for key, value in totals.gauges.items()}["rfs_pipeline_state"] == 1  # degraded
        found = {record.context["n"] for record in monitor.query.records(limit=1000) if "n" in record.context}
        assert found == set(range(100))
        assert_balanced(monitor.query.books()["records"])

    def test_a_stream_without_its_thread(self, monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Simulated: `configure_result_logging` does not raise either.
        """

        def refuse(*_: object, **__: object) -> int:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading, "_start_new_thread", refuse)
        monkeypatch.setattr(threading, "_start_joinable_thread", refuse, raising=False)

        configure_result_logging(stream=io.StringIO())
        info("kept all the same")

        assert [record.message for record in monitor.query.records()] == ["kept all the same"]


class TestA19Stopped:
    def test_leader_stopped_past_its_lease_and_back(self, tmp_path: Path) -> None:
        """
        While the leader is stopped another process leads; when it comes back there is one leader, and the sums are right.

        Nobody is alerted again: not by the one that comes back, of what happened meanwhile, and at most once by the one that
        followed, of what the first had told before.
        """
        told = tmp_path / "told"

        def notifications() -> Counter[str]:
            return Counter(told.read_text().splitlines())

        with host(tmp_path / "rfs") as first, host(tmp_path / "rfs") as second:
            eventually(lambda: look(first)["leads"] != look(second)["leads"])
            leader, other = (first, second) if look(first)["leads"] else (second, first)
            epoch = look(leader)["epoch"]
            for process in (first, second):
                process.ask(do="alert", name="before", above=0, file=str(told))
                process.ask(do="alert", name="meanwhile", above=50, file=str(told))
            burst(other, 0, 10)
            eventually(lambda: notifications()["before fire"] == 1, says=notifications)

            # It looks at its lease twice a second, and evaluates the rules once, between two looks: stopped a little before that,
            # it would go on with it.
            eventually(lambda: 0.7 < look(leader)["evaluated"] < 0.9)
            leader.send(signal.SIGSTOP)
            stopped = time.monotonic()
            burst(other, 10, 90)
            eventually(lambda: look(other)["leads"] and look(other)["epoch"] > epoch, says=lambda: look(other))
            eventually(lambda: notifications()["meanwhile fire"] == 1, says=notifications)
            eventually(lambda: time.monotonic() - stopped > size(whole=60, small=2), seconds=90)
            leader.send(signal.SIGCONT)

            burst(leader, 100, 100)
            eventually(lambda: not look(leader)["leads"], says=lambda: look(leader))
            looks = look(leader)["mends"], look(other)["mends"]
            eventually(lambda: look(leader)["mends"] > looks[0] + 4 and look(other)["mends"] > looks[1] + 4)
            assert look(other)["leads"]
            assert look(leader)["leader_pid"] == other.pid
            assert look(leader)["total"] == look(other)["total"] == 200
            assert leader.ask(do="flush")
            assert other.ask(do="flush")
            seen = notifications()
            assert seen["meanwhile fire"] == 1
            assert seen["before fire"] <= 2
            assert set(seen) == {"before fire", "meanwhile fire"}


class TestA20InterruptsAnywhere:
    def test_at_a_random_bytecode(self) -> None:
        """
        `KeyboardInterrupt` anywhere in our code goes on to the host, and costs only the call that it interrupted.

        Every call that returned is found once, also those after a call that was broken off in the middle.
        """
        said = live("a20", size(whole=5_000, small=400))

        assert said["caught"] >= size(whole=5_000, small=400)
        assert not said["alive"]
        assert said["returned"] > 100
        assert (said["lost"], said["twice"]) == ([], [])
        assert said["after"] == [1]
