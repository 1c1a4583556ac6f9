"""
What holds for all tests: where `CI` is set, nothing that a test needs may be missing; no test waits for ever; and the run ends.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

import pytest
from hypothesis import settings

# How long an example takes is no property of the code: the machine may be busy.
settings.register_profile("unhurried", settings(), deadline=None)
settings.load_profile("unhurried")

# What is not over by then waits for something that will not come. Of the whole size, nobody knows.
LONGEST_SECONDS = 0 if os.environ.get("RFS_FULL") == "1" else 150
PEERS = ("browser", "postgres", "fault", "interop")  # markers of tests that need a program beside Python


@contextmanager
def _limited(item: pytest.Item, phase: str) -> Generator[None]:
    """Let what waits in the main thread fail after `LONGEST_SECONDS`, with the stacks of all threads on standard error."""

    def give_up(number: int, frame: FrameType | None) -> None:
        faulthandler.dump_traceback(sys.__stderr__ or 2)
        raise TimeoutError(f"the {phase} of {item.nodeid} takes more than {LONGEST_SECONDS} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(LONGEST_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    """No fixture waits for ever."""
    with _limited(item, "setup"):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Nor does a test."""
    with _limited(item, "call"):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """Nor what it leaves behind."""
    with _limited(item, "teardown"):
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
