"""Exemplars: which request stands behind a bar of a histogram, never one with the trace of another."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client.openmetrics import parser as openmetrics_parser

from rfs.core.result import Failure, Success
from rfs.monitoring import collect_result_metric, log_result_operation
from rfs.monitoring._capture.cells import EXEMPLAR_CELLS
from rfs.monitoring._capture.instruments import BoundHistogram
from rfs.monitoring._live import _read_exemplar
from rfs.monitoring._query import DURATIONS
from rfs.monitoring._totals import Exemplar
from rfs.monitoring.context import CorrelationContext, activate, current, start_context
from rfs.monitoring.exporters.prometheus import render_openmetrics
from rfs.monitoring.monitor import Monitor, use_monitor
from rfs.testing.virtual_time import VirtualTime
from rfs.web.fastapi import install
from tests.web.asgi import get

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def exemplars(monitor: Monitor, name: str) -> list[Exemplar]:
    return [exemplar for key, exemplar in monitor.query.totals().exemplars.items() if key.name == name]


def histogram(monitor: Monitor) -> BoundHistogram:
    return monitor.histogram("wait_seconds").labels()


def keep(series: BoundHistogram, value: float, *, at: float = 1.0, trace_id: str = TRACE, span_id: str = SPAN) -> None:
    series.observe(value)
    series.keep_exemplar(value, at, round(at * 1e9), trace_id, span_id)


@log_result_operation("cook")
def cook() -> Success[int]:
    return Success(1)


class TestWhereATraceIs:
    def test_operation(self, monitor: Monitor, clock: VirtualTime) -> None:
        """
        An operation's duration carries the trace and span of its record, and OpenMetrics shows them in the right bucket.
        """
        cook()

        (found,) = exemplars(monitor, DURATIONS)
        records = monitor.query.records(operation="cook")
        assert {(record.trace_id, record.span_id) for record in records} == {(found.trace_id, found.span_id)}
        assert found.time_seconds == clock.time_ns() / 1e9
        parse: Any = openmetrics_parser.text_string_to_metric_families
        shown = [
            sample
            for family in parse(render_openmetrics(monitor.query.totals()).decode())
            for sample in family.samples
            if sample.exemplar
        ]
        assert [sample.exemplar.labels["trace_id"] for sample in shown] == [found.trace_id]
        assert shown[0].exemplar.value <= float(shown[0].labels["le"])

    @pytest.mark.parametrize("labels", [None, {"kitchen": "north"}])
    @pytest.mark.parametrize("result", [Success(1), Failure(ValueError("no"))])
    def test_measured_by_hand(self, monitor: Monitor, labels: dict[str, str] | None, result: Any) -> None:
        """
        What `collect_result_metric` measures carries the trace of the context that it is called in.
        """
        with CorrelationContext("req_1"):
            collect_result_metric("cook", result, 12, labels)

        (found,) = exemplars(monitor, DURATIONS)
        assert (found.value, len(found.trace_id), found.span_id) == (12.0, 32, "")

    def test_nowhere(self, monitor: Monitor) -> None:
        """
        Without a context, and with one that is not sampled, there is no trace to show; the measurement counts.
        """
        collect_result_metric("cook", Success(1), 12.0)
        unsampled = start_context(traceparent=f"00-{TRACE}-{SPAN}-00")
        previous = current()
        activate(unsampled)
        collect_result_metric("cook", Success(1), 12.0)
        cook()
        activate(previous)

        assert exemplars(monitor, DURATIONS) == []
        assert monitor.operation("cook").durations_ms.count == 3.0

    def test_bad_labels(self, monitor: Monitor) -> None:
        """
        Labels that cannot be kept are rejected as ever.
        """
        with CorrelationContext("req_1"):
            collect_result_metric("cook", Success(1), 12.0, {"not a label": "x"})

        assert monitor.query.totals().exemplars == {}

    async def test_request(self, monitor: Monitor) -> None:
        """
        A request's duration carries its caller's trace, unless the caller does not sample it.
        """
        app = FastAPI()
        install(app)

        @app.get("/orders")
        async def orders() -> int:
            return 1

        await get(app, "/orders", headers={"traceparent": f"00-{TRACE[::-1]}-{SPAN}-00"})
        assert exemplars(monitor, "http_request_duration_seconds") == []

        await get(app, "/orders", headers={"traceparent": f"00-{TRACE}-{SPAN}-01"})

        (found,) = exemplars(monitor, "http_request_duration_seconds")
        assert found.trace_id == TRACE


class TestOnceASecond:
    def test_operation(self, monitor: Monitor, clock: VirtualTime) -> None:
        """
        Within a second the first one stays, afterwards the next takes its place.
        """
        cook()
        first = exemplars(monitor, DURATIONS)
        clock.advance(0.9)
        cook()
        assert exemplars(monitor, DURATIONS) == first

        clock.advance(0.2)
        cook()

        (second,) = exemplars(monitor, DURATIONS)
        assert second.time_seconds - first[0].time_seconds == pytest.approx(1.1)
        assert second.trace_id != first[0].trace_id

    def test_measured_by_hand(self, monitor: Monitor, clock: VirtualTime) -> None:
        """
        The same holds for what is measured by hand.
        """
        with CorrelationContext("req_1"):
            for value in (1.0, 2.0):
                collect_result_metric("cook", Success(1), value)
            assert [found.value for found in exemplars(monitor, DURATIONS)] == [1.0]
            clock.advance(1.0)
            collect_result_metric("cook", Success(1), 3.0)

        assert [found.value for found in exemplars(monitor, DURATIONS)] == [3.0]

    async def test_request(self, monitor: Monitor, clock: VirtualTime) -> None:
        """
        And for requests.
        """
        app = FastAPI()
        install(app)
        await get(app, "/nowhere")
        first = exemplars(monitor, "http_request_duration_seconds")
        assert first
        await get(app, "/nowhere")
        assert exemplars(monitor, "http_request_duration_seconds") == first

        clock.advance(1.0)
        await get(app, "/nowhere")

        assert exemplars(monitor, "http_request_duration_seconds") != first


class TestWhatIsLeftOut:
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300, True, "1"])
    def test_no_measurement(self, monitor: Monitor, value: Any) -> None:
        """
        What the histogram does not count is no example of it.
        """
        keep(histogram(monitor), value)

        assert exemplars(monitor, "wait_seconds") == []

    @pytest.mark.parametrize(("trace_id", "span_id"), [("", ""), ("x" * 32, SPAN), (TRACE, "ab"), ("-" + TRACE, SPAN)])
    def test_no_ids(self, monitor: Monitor, trace_id: str, span_id: str) -> None:
        """
        Ids of another form than W3C's are no trace.
        """
        keep(histogram(monitor), 1.0, trace_id=trace_id, span_id=span_id)

        assert exemplars(monitor, "wait_seconds") == []

    def test_no_cells(self, monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Where there is no room for an exemplar, measuring goes on without.
        """
        series = histogram(monitor)
        series.observe(1.0)
        monkeypatch.setattr(type(monitor.registry.cells), "allocate", lambda *_, **__: None)

        keep(series, 1.0)

        assert series.count == 2.0
        assert exemplars(monitor, "wait_seconds") == []

    def test_a_series_of_its_own_memory(self, monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        An overflow series that nobody else can read has none.
        """
        metric = monitor.histogram("wait_seconds")
        monkeypatch.setattr(type(monitor.registry.cells), "allocate", lambda *_, **__: None)
        series = metric.labels(at="x")
        monkeypatch.undo()

        keep(series, 1.0)

        assert series._exemplar is None


class TestTorn:
    def test_never_one_with_the_trace_of_another(self, monitor: Monitor, tmp_path: Path) -> None:
        """
        Read while another process changes it without a pause, an exemplar is a whole one; and mixtures were there to be read.
        """
        series = histogram(monitor)
        monitor.use_directory(tmp_path)
        child = os.fork()
        if not child:
            number = 1
            while os.getppid() != 1:
                number += 1
                # Ids and numbers that resemble one another as much as they can.
                keep(series, float(number), at=float(number), trace_id=f"{number:016x}" * 2, span_id=f"{number:016x}")
            os._exit(0)
        try:
            deadline = time.monotonic() + 30
            while not exemplars(monitor, "wait_seconds"):
                assert time.monotonic() < deadline
            (process,) = monitor._leader.live._processes.values()
            (traced,) = process.cells.traced
            ((words, at),) = traced.exemplars

            mixtures, seen = 0, set[float]()
            while mixtures < 20 or len(seen) < 50:
                assert time.monotonic() < deadline, (mixtures, len(seen))
                _, _, high, low, span, _ = words[at : at + EXEMPLAR_CELLS]
                mixtures += not high == low == span
                found = _read_exemplar(words, at)
                if found is not None:
                    seen.add(found.value)
                    text = f"{int(found.value):016x}"
                    assert found == Exemplar(found.value, text * 2, text, found.value)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)

    @pytest.mark.parametrize("word", range(EXEMPLAR_CELLS))
    def test_killed_amid(self, monitor: Monitor, word: int) -> None:
        """
        What was written halfway is not shown.
        """
        series = histogram(monitor)
        keep(series, 1.0)
        assert series._exemplar is not None
        _, words, at = series._exemplar

        words[at + word] ^= 1

        assert exemplars(monitor, "wait_seconds") == []

    def test_two_made_one(self, monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Of two threads that make the cells of an exemplar at once, one's are used and the other's stay empty.
        """
        series = histogram(monitor)
        cells = monitor.registry.cells
        allocate = cells.allocate

        def slowly(*args: Any, **options: Any) -> Any:
            made = allocate(*args, **options)
            monkeypatch.undo()
            keep(series, 2.0)  # another thread
            return made

        series.observe(1.0)
        monkeypatch.setattr(type(cells), "allocate", lambda _self, *args, **options: slowly(*args, **options))
        keep(series, 1.0)

        assert [found.value for found in exemplars(monitor, "wait_seconds")] == [1.0]
        (traced,) = monitor._leader.live._own.traced
        assert len(traced.exemplars) == 2

    def test_no_room_for_its_words(self, monitor: Monitor) -> None:
        """
        An entry whose cells would be beyond the file is left out.
        """
        keep(histogram(monitor), 1.0)
        region = monitor.registry.cells.regions[0]
        series = histogram(monitor)
        assert series._exemplar is not None
        at = series._exemplar[2]
        entry = max(e for e in range(region.next_entry - 64, region.next_entry, 8) if region.words[(e >> 3) + 1] == at)
        region.words[(entry >> 3) + 1] = len(region.words) - 1

        assert exemplars(monitor, "wait_seconds") == []


class TestSeveralProcesses:
    @pytest.fixture
    def two(self, tmp_path: Path) -> Iterator[list[Monitor]]:
        made = [Monitor(service_name="exemplars", directory=tmp_path) for _ in range(2)]
        yield made
        for one in made:
            one.stop()

    def test_the_newest(self, two: list[Monitor]) -> None:
        """
        Of several processes' exemplars of a series the newest is shown, by each of them.
        """
        keep(histogram(two[0]), 1.0, at=20.0)
        keep(histogram(two[1]), 2.0, at=10.0)
        assert [[found.value for found in exemplars(one, "wait_seconds")] for one in two] == [[1.0], [1.0]]

        keep(histogram(two[1]), 3.0, at=30.0)

        assert [[found.value for found in exemplars(one, "wait_seconds")] for one in two] == [[3.0], [3.0]]

    def test_moving(self, monitor: Monitor, tmp_path: Path) -> None:
        """
        An exemplar goes along into a directory, and the next one is kept there.
        """
        series = histogram(monitor)
        keep(series, 1.0)
        before = exemplars(monitor, "wait_seconds")
        assert before

        monitor.use_directory(tmp_path)
        assert exemplars(monitor, "wait_seconds") == before

        keep(series, 2.0, at=2.0)
        assert [found.value for found in exemplars(monitor, "wait_seconds")] == [2.0]

    def test_fork(self, monitor: Monitor, tmp_path: Path) -> None:
        """
        A child does not repeat its parent's exemplar, and may have its own at once.
        """
        series = histogram(monitor)
        monitor.use_directory(tmp_path)
        keep(series, 1.0, at=5.0)
        child = os.fork()
        if not child:
            status = 1
            try:
                own = monitor._leader.live
                own.refresh()
                own._own.refresh()
                nothing = [_read_exemplar(*one) for series_ in own._own.traced for one in series_.exemplars] == [None]
                status = 0 if nothing and series.exemplar_due == 0.0 else 2
                keep(series, 7.0, at=6.0)
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert [found.value for found in exemplars(monitor, "wait_seconds")] == [7.0]

    def test_default_monitor(self, two: list[Monitor]) -> None:
        """
        Without a Monitor that runs there are exemplars, too: they are made by what measures.
        """
        with use_monitor(two[0]):
            cook()

        assert len(exemplars(two[1], DURATIONS)) == 1
