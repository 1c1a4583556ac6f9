"""Query over the store in a directory: a service that begins anew answers about its past."""

from __future__ import annotations

from pathlib import Path

import pytest

from rfs.errors import QueryTimeoutError
from rfs.monitoring._store import EVERYTHING
from rfs.monitoring._store.deadline import deadline
from rfs.monitoring.monitor import Monitor
from rfs.testing.virtual_time import VirtualTime
from tests.faults.processes import eventually


def begun(directory: Path, clock: VirtualTime) -> Monitor:
    """A service in *directory*, which leads."""
    monitor = Monitor(service_name="restarted", directory=directory, clock=clock)
    monitor.start()
    eventually(lambda: monitor.leadership.is_self)
    return monitor


class TestRestart:
    def test_summaries_equal_what_was_scripted(self, tmp_path: Path, clock: VirtualTime) -> None:
        """
        Counters begin at zero with each start; summaries hold what they grew by in their range, as integers, the first increments too.
        """
        increments: list[tuple[float, int]] = []  # when, and by how much
        for life in range(3):
            monitor = begun(tmp_path, clock)
            for number in range(4):
                amount = 10 * life + number + 1
                monitor.counter("orders_total").inc(amount, status=f"s{number % 2}")
                monitor.histogram("size").observe(amount)
                increments.append((clock.elapsed_seconds, amount))
                clock.advance(7)
                found = monitor.query.summary(60)

                assert found["counters"]["orders_total"] == sum(amount for _, amount in increments)
                assert isinstance(found["counters"]["orders_total"], int)
                assert found["histograms"]["size"]["count"] == len(increments)
            monitor.stop()
            clock.advance(600)

        last = begun(tmp_path, clock)  # where nothing is declared any more
        try:
            for minutes in (60, 30, 20, 15, 5):
                since = clock.elapsed_seconds - 60 * minutes
                own = [amount for time, amount in increments if time >= since]
                found = last.query.summary(minutes)

                assert found["counters"]["orders_total"] == sum(own)
                assert found["histograms"].get("size", {"count": 0})["count"] == len(own)
            (line,) = last.query.series("orders_total", "1h", 60).lines
            assert line.total == sum(amount for _, amount in increments)
            assert None in line.values
        finally:
            last.stop()


class TestTime:
    def test_chunks_are_read_until_the_time_is_over(self, tmp_path: Path, clock: VirtualTime) -> None:
        """
        Looking for records in chunks ends in the midst when its time is over; with time, all are found.
        """
        monitor = begun(tmp_path, clock)
        for number in range(100):
            monitor.log(20, f"line {number}")
        monitor.stop()
        monitor = begun(tmp_path, clock)
        try:
            reader = monitor._leader.collect().reader

            with pytest.raises(QueryTimeoutError), deadline(0):
                reader.records(EVERYTHING, limit=1_000)

            assert sum(record.message.startswith("line") for record in monitor.query.records(limit=1_000)) == 100
        finally:
            monitor.stop()
