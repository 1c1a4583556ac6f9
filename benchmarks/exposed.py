"""
What the exposition loops render: 1,000 series of counters and 100 of histograms, in ten metrics each.

``python -m benchmarks.exposed DIRECTORY`` is RFS' second worker: it measures into the same directory and stays until its
standard input ends.
"""

from __future__ import annotations

import atexit
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from benchmarks.corpus import SECONDS

if TYPE_CHECKING:
    from rfs.monitoring import Monitor

MEASUREMENTS = 200  # of each histogram's series


def counters() -> Iterator[tuple[str, str, int]]:
    """Return metric, value of its label ``route``, and count, of each series."""
    for number in range(1_000):
        yield f"bench_{number % 10}_requests", f"/orders/{number // 10}", number * 37


def histograms() -> Iterator[tuple[str, str, list[float]]]:
    """Return metric, value of its label ``route``, and measurements, of each series."""
    seconds = iter(SECONDS)
    for number in range(100):
        yield f"bench_{number % 10}_wait_seconds", f"/orders/{number // 10}", list(islice(seconds, MEASUREMENTS))


def measured(directory: str) -> Monitor:
    """Return a Monitor that has measured all of this in *directory*."""
    from rfs.monitoring import Monitor

    monitor = Monitor(service_name="bench", directory=directory)
    for metric, route, count in counters():
        monitor.counter(f"{metric}_total", "Requests").labels(route=route).inc(count)
    for metric, route, seconds in histograms():
        series = monitor.histogram(metric, "Wait").labels(route=route)
        for value in seconds:
            series.observe(value)
    return monitor


def move(monitor: Monitor, turn: int) -> None:
    """Measure in every series once more: between two scrapes of a service nothing rests."""
    for metric, route, _ in counters():
        monitor.counter(f"{metric}_total").inc(1, route=route)
    for number, (metric, route, _) in enumerate(histograms()):
        monitor.histogram(metric).observe(SECONDS[(turn + number) % len(SECONDS)], route=route)


def one_of_two_workers() -> Monitor:
    """Return a Monitor that has measured all of this, as another process beside it has, too."""
    folder = TemporaryDirectory(prefix="rfs-bench-")
    monitor = measured(folder.name)
    other = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.exposed", folder.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"ready\n"

    def end() -> None:
        other.communicate(timeout=10)
        monitor.stop()
        folder.cleanup()

    atexit.register(end)
    return monitor


if __name__ == "__main__":
    kept = measured(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.read()
