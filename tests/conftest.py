"""
What holds for all tests: where `CI` is set, nothing that a test needs may be missing; no test waits for ever; and the run ends.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Generator
from time import monotonic
from types import FrameType

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key
from hypothesis import settings

# How long an example takes is no property of the code: the machine may be busy.
settings.register_profile("unhurried", settings(), deadline=None)
settings.load_profile("unhurried")

# What is not over by then waits for something that will not come. Of the whole size, nobody knows.
LONGEST_SECONDS = float("inf") if os.environ.get("RFS_FULL") == "1" else 150.0
AGAIN_SECONDS = 10.0
TRIES = 6
PEERS = ("browser", "postgres", "fault", "interop")  # markers of tests that need a program beside Python


class Watch:
    """
    Ends a phase of a test that takes more than `LONGEST_SECONDS`: says where every thread is, lets the phase fail, again and
    again if that is swallowed, and ends the whole run if nothing helps.

    A thread of its own, for the main thread may be where no signal reaches it.
    """

    def __init__(self) -> None:
        self._phase = ""
        self._until = float("inf")
        self._tries = 0
        self._stderr = sys.__stderr__ or sys.stderr

    def begin(self, config: pytest.Config) -> None:
        """Watch from now on."""
        self._stderr = os.fdopen(os.dup(config.stash[fault_handler_stderr_fd_key]), "w")  # what pytest does not capture
        signal.signal(signal.SIGALRM, self._fail)
        threading.Thread(target=self._run, name="tests-watch", daemon=True).start()

    def expect(self, phase: str) -> None:
        """Begin a phase; the one before is over."""
        self._tries = 0
        self._phase, self._until = phase, monotonic() + LONGEST_SECONDS

    def rest(self) -> None:
        """No phase is under way."""
        self._until = float("inf")

    def _run(self) -> None:
        sys.settrace(None)  # coverage's lock may be what the main thread waits for
        wait = threading.Event().wait
        while True:
            wait(1)
            if monotonic() < self._until:
                continue
            self._until, self._tries = monotonic() + AGAIN_SECONDS, self._tries + 1
            self._say()
            if self._tries > TRIES:
                os._exit(1)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    def _say(self) -> None:
        """What matters most comes last: a log may be cut off at its beginning."""
        main = threading.main_thread().ident
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        names.pop(threading.get_ident(), None)
        for ident, frame in sorted(sys._current_frames().items(), key=lambda each: each[0] == main):
            if ident not in names:
                continue
            lines = [f"  {each.filename}:{each.lineno} {each.name}\n" for each in traceback.extract_stack(frame)[-12:]]
            self._stderr.write(f"tests: {names.get(ident)}\n{''.join(lines)}")
        self._stderr.write(f"tests: {self._phase} takes more than {LONGEST_SECONDS:g} s (try {self._tries})\n")
        self._stderr.flush()

    def _fail(self, number: int, frame: FrameType | None) -> None:
        # No Exception: what waits may survive those.
        pytest.fail(f"{self._phase} takes more than {LONGEST_SECONDS:g} s")


watch = Watch()


@pytest.hookimpl(trylast=True)  # after the plugin whose standard error it uses
def pytest_configure(config: pytest.Config) -> None:
    """Begin to watch."""
    watch.begin(config)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    """No fixture waits for ever."""
    watch.expect(f"the setup of {item.nodeid}")
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Nor does a test."""
    watch.expect(item.nodeid)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """Nor what it leaves behind."""
    watch.expect(f"the teardown of {item.nodeid}")
    try:
        return (yield)
    finally:
        watch.rest()


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
