"""
What holds for all tests: where `CI` is set, nothing that a test needs may be missing.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

PEERS = ("browser", "postgres", "fault")  # markers of tests that need a program beside Python


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
