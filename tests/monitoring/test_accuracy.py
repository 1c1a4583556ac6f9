"""Accuracy (FEATURES.md D1, D3): quantiles against sorted data, merged processes against one stream, threads against arithmetic."""

from __future__ import annotations

import math
import random
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from rfs.monitoring.monitor import Monitor
from tests.faults.processes import Process, size

VALUES = size(whole=1_000_000, small=100_000)
QUANTILES = (0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
PROCESSES = 4
THREADS = 16
INCREMENTS = size(whole=100_000, small=10_000)


def made(name: str, count: int) -> list[float]:
    """Seeded data of one shape."""
    draw = random.Random(f"accuracy of {name}")
    match name:
        case "lognormal":
            return [draw.lognormvariate(3, 2) for _ in range(count)]
        case "bimodal":
            return [draw.gauss(10, 1) if draw.random() < 0.7 else draw.gauss(900, 30) for _ in range(count)]
        case "constant":
            return [42.0] * count
        case "negative and zero":
            return [draw.choice([0.0, -draw.expovariate(0.01), draw.lognormvariate(0, 1)]) for _ in range(count)]
        case _:
            return [10 ** draw.uniform(-4, 5) for _ in range(count)]


SHAPES = ("lognormal", "bimodal", "constant", "negative and zero", "nine decades")


class TestQuantiles:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_within_one_percent_of_the_sorted_data(self, shape: str) -> None:
        """
        From the histogram's ``observe`` to the query, every quantile is within 1 % of the nearest rank.
        """
        values = made(shape, VALUES)
        monitor = Monitor()
        observe = monitor.histogram("observed_size").labels().observe
        for value in values:
            observe(value)

        distribution = monitor.query.distribution("observed_size", "1h")

        assert distribution is not None
        assert distribution.count == len(values)
        ordered = sorted(values)
        for q in QUANTILES:
            exact = ordered[math.ceil(q * len(ordered) - 1e-9) - 1]
            assert distribution.quantile(q) == pytest.approx(exact, rel=0.01, abs=1e-300), q
        monitor.stop()


@pytest.mark.fault
@pytest.mark.slow  # processes of its own
class TestMerging:
    @pytest.mark.parametrize("shape", ["lognormal", "negative and zero"])
    def test_processes_add_up_to_the_single_stream(self, shape: str, tmp_path: Path) -> None:
        """
        What four processes measured in one directory is bucket by bucket what one process measures of the same data; also
        when they are dead.
        """
        values = made(shape, 20_000)
        single = Monitor()
        observe = single.histogram("observed_size").labels().observe
        for value in values:
            observe(value)
        expected = next(iter(single.query.totals().sketches.values()))
        directory = tmp_path / "service"

        def check(reader: Monitor) -> None:
            sketches = reader.query.totals().sketches
            merged = next(sketch for key, sketch in sketches.items() if key.name == "observed_size")
            assert (merged.count, merged.zero) == (expected.count, expected.zero)
            assert (merged.minimum, merged.maximum) == (expected.minimum, expected.maximum)
            assert merged.total == pytest.approx(expected.total, rel=1e-12)
            for ours, theirs in ((merged.positive, expected.positive), (merged.negative, expected.negative)):
                assert {number: list(octave.buckets) for number, octave in ours.items() if any(octave.buckets)} == {
                    number: list(octave.buckets) for number, octave in theirs.items() if any(octave.buckets)
                }

        reader = Monitor(service_name="bursts", directory=directory)
        with ExitStack() as stack:
            processes = [stack.enter_context(Process("writer", directory, "WITNESS")) for _ in range(PROCESSES)]
            for number, process in enumerate(processes):
                assert process.answer() == "ready"
                process.tell(do="observe", values=values[number::PROCESSES])
            assert [process.answer() for process in processes] == ["done"] * PROCESSES
            check(reader)
            for process in processes:
                process.kill()
            check(reader)
        reader.stop()
        single.stop()


class TestThreads:
    def test_sixteen_threads_count_exactly(self) -> None:
        """
        Sixteen threads add one at a time to one series, bound and by label, and not one addition is lost.
        """
        monitor = Monitor()
        metric = monitor.counter("added_total")
        bound = metric.labels(way="bound")
        gate = threading.Barrier(THREADS)

        def add() -> None:
            gate.wait()
            for _ in range(INCREMENTS):
                bound.inc()
                metric.inc(1, way="labels")

        threads = [threading.Thread(target=add) for _ in range(THREADS)]
        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(before)

        assert bound.value == metric.labels(way="labels").value == THREADS * INCREMENTS
        monitor.stop()
