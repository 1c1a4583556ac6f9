"""
What holds for all tests: where `CI` is set, nothing that a test needs may be missing; and the run ends.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Generator

import pytest

PEERS = ("browser", "postgres", "fault", "interop")  # markers of tests that need a program beside Python


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
