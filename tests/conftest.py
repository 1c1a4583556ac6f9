"""
What holds for all tests: where `CI` is set, nothing that a test needs may be missing; no test waits for ever; the run ends, and
nothing is left behind.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Generator, Iterator, Sized
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from time import CLOCK_MONOTONIC, clock_gettime
from types import FrameType

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key
from hypothesis import settings

# How long an example takes is no property of the code: the machine may be busy.
settings.register_profile("unhurried", settings(), deadline=None)
settings.load_profile("unhurried")

if not entry_points(group="pytest11", name="rfs"):  # it is not installed, but on the path
    pytest_plugins = ["rfs.testing.fixtures"]

# How busy this machine is decides for no test which processes there are; tests of helpers take it away.
os.environ["RFS_HELPER"] = "never"

# What is not over by then waits for something that will not come. Of the whole size, nobody knows.
LONGEST_SECONDS = float("inf") if os.environ.get("RFS_FULL") == "1" else 150.0
AGAIN_SECONDS = 10.0
TRIES = 6
NUMBER = signal.SIGRTMAX - 1  # which no test uses for itself
IN_MEMORY = Path("/dev/shm")  # where `tests.monitoring.test_windows.in_memory` makes its folders
GONE_AT_EXIT = "rfs-clickhouse-"  # the folder of the server of `tests.clickhouse`, which lives as long as this process
MANY_FILES = 500  # a process may have 1,024 on many machines
MANY_MONITORS = 50
PEERS = ("browser", "postgres", "fault", "interop", "clickhouse")  # markers of tests that need a program beside Python


def real_seconds() -> float:
    """A monotonic clock that no test moves: `VirtualTime` moves ``monotonic``."""
    return clock_gettime(CLOCK_MONOTONIC)


class Watch:
    """
    Ends a phase of a test that takes more than `LONGEST_SECONDS`, and the run with it, for what was left behind may go on.

    It says where every thread is, lets the phase fail, again and again if that is swallowed, and ends the process if nothing
    helps. A thread of its own, for the main thread may be where no signal reaches it.
    """

    def __init__(self) -> None:
        self._item: pytest.Item | None = None
        self._phase = ""
        self._until = float("inf")
        self._tries = 0
        self._stderr = sys.__stderr__ or sys.stderr

    def begin(self, config: pytest.Config) -> None:
        """Watch from now on."""
        before = self._stderr
        self._stderr = os.fdopen(os.dup(config.stash[fault_handler_stderr_fd_key]), "w")  # what pytest does not capture
        if before not in {sys.__stderr__, sys.stderr}:
            before.close()  # a run before this one, in the same process: mutmut lists the tests and then runs them
        threading.Thread(target=self._run, name="tests-watch", daemon=True).start()

    @contextmanager
    def over(self, item: pytest.Item, phase: str) -> Generator[None]:
        """While this lasts, *phase* is under way."""
        self._item, self._phase, self._tries = item, phase, 0
        self._until = real_seconds() + LONGEST_SECONDS
        try:
            yield
        finally:
            self._until = float("inf")

    def _run(self) -> None:
        sys.settrace(None)  # coverage's lock may be what the main thread waits for
        main, wait = threading.main_thread().ident or 0, threading.Event().wait
        while True:
            wait(1)
            if real_seconds() < self._until:
                continue
            self._until, self._tries = real_seconds() + AGAIN_SECONDS, self._tries + 1
            self._say(main)
            if self._tries > TRIES:
                os._exit(1)
            signal.pthread_kill(main, NUMBER)

    def _say(self, main: int) -> None:
        """Say where all threads are, what matters most last: a log may be cut off at its beginning."""
        names = {thread.ident: thread.name for thread in threading.enumerate() if thread.name != "tests-watch"}
        for ident, frame in sorted(sys._current_frames().items(), key=lambda each: each[0] == main):
            if ident in names:
                lines = [f"  {each.filename}:{each.lineno} {each.name}\n" for each in traceback.extract_stack(frame)]
                self._stderr.write(f"tests: {names[ident]}\n{''.join(lines[-12:])}")
        self._stderr.write(f"tests: {self._reason()} (try {self._tries})\n")
        self._stderr.flush()

    def _reason(self) -> str:
        node = self._item.nodeid if self._item else ""
        return f"{self._phase} of {node} takes more than {LONGEST_SECONDS:g} s"

    def fail(self, number: int, frame: FrameType | None) -> None:
        """Obey the signal: in the main thread, wherever it is."""
        if self._until == float("inf"):
            return  # it came to its end in the last moment
        where = f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else ""
        if self._item:
            self._item.session.shouldstop = f"{self._reason()}, at {where}"
        pytest.fail(self._reason())  # no Exception: what waits may survive those


watch = Watch()


@pytest.hookimpl(trylast=True)  # after the plugin whose standard error it uses
def pytest_configure(config: pytest.Config) -> None:
    """Begin to watch."""
    # A shell lets what it runs in the background ignore Ctrl-C, and so would all programs that a test starts and presses it for.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(NUMBER, watch.fail)
    watch.begin(config)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """
    Measure no coverage of a slow test, and none where greenlets are switched inside a thread.

    What is slow does a thousand times what others do once, and takes twice as long when it is traced.

    SQLAlchemy's async side and Playwright switch greenlets, over which the tracer loses its place. Told about them, it keeps a table
    of them that may hang CPython 3.11 when two threads end at once (its clean-up is a pending call, which waits for the other's, while
    it is traced itself).
    """
    if not any(item.get_closest_marker(marker) for marker in ("browser", "postgres", "slow")):
        return (yield)
    trace, thread_trace = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(trace)
        threading.settrace(thread_trace)


@pytest.fixture(scope="session", autouse=True)
def temporary(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    """
    Tests and the processes that they start leave no temporary file behind.

    These are in a directory of pytest's, which it removes some day; so a run that is killed leaves none for ever, either.
    """
    folder = tmp_path_factory.mktemp("tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", str(folder))
        yield
    left = [*folder.iterdir(), *IN_MEMORY.glob(f"rfs-tests-{os.getpid()}-*")]
    left = [each for each in left if not each.name.startswith(GONE_AT_EXIT)]
    for each in left:
        shutil.rmtree(each) if each.is_dir() else each.unlink()
    assert request.session.testsfailed or not left, "left behind"


_kept = [0]  # how many Monitors the last collection has left


def pytest_runtest_logfinish() -> None:
    """
    Collect what tests have dropped, once it is many Monitors, or holds many files open.

    CPython may go a long way without a full collection in a large process: one with 7,000 tests has run out of files. FastAPI
    remembers the functions of all applications, and so their Monitors, each of which takes a millisecond of each forked child.
    """
    module = sys.modules.get("rfs.monitoring.monitor")
    monitors: Sized = module._monitors if module is not None else ()
    if len(monitors) > _kept[0] + MANY_MONITORS or sum(1 for _ in Path("/proc/self/fd").iterdir()) > MANY_FILES:
        models = sys.modules.get("fastapi.dependencies.models")
        for each in tuple(vars(models).values()) if models is not None else ():
            if hasattr(each, "cache_clear"):
                each.cache_clear()
        gc.collect()
        _kept[0] = len(monitors)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    """No fixture waits for ever."""
    with watch.over(item, "the setup"):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Nor does a test."""
    with watch.over(item, "the call"):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """Nor what it leaves behind."""
    with watch.over(item, "the teardown"):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """
    Turn the skip of a test that misses its peer into a failure under CI.

    A developer without Chromium may go on; the machine that guards `main`
    may not, because a skipped test there looks like a passed one.
    """
    report = yield
    if report.skipped and os.environ.get("CI") and any(item.get_closest_marker(peer) for peer in PEERS):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {report.longrepr}"
    return report


_status: list[int] = []


def pytest_sessionfinish(exitstatus: int) -> None:
    """Remember how the run went."""
    _status.append(int(exitstatus))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """
    End the process even if a test left a thread behind that waits for ever, and name it.

    Such a thread (a worker of an event loop that was given up after a time-out) would hang the run after its last line.
    """
    left = [one for one in threading.enumerate() if one is not threading.main_thread() and not one.daemon]
    for thread in left:
        thread.join(2)
    waiting = [thread.name for thread in left if thread.is_alive()]
    if waiting and _status:
        sys.stdout.flush()
        sys.stderr.write(f"tests: threads left behind: {', '.join(waiting)}\n")
        sys.stderr.flush()
        os._exit(_status[-1])


@pytest.fixture
def switching_often() -> Iterator[None]:
    """Threads are switched a thousand times as often as usual, so that what is not atomic shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)
