"""A real Prometheus scrapes what is rendered, and answers queries with it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import isnan
from pathlib import Path

import pytest

from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.instruments import MetricType
from rfs.monitoring._capture.readings import Octave, SketchReading
from rfs.monitoring._totals import Exemplar, ForeignFamily, ForeignSample, Metric, Totals
from rfs.monitoring.exporters.prometheus import OPENMETRICS, negotiate, render_openmetrics, render_text
from tests.docs.snippets import ROOT, snippets
from tests.interop.conftest import Prometheus, eventually, free_port

pytestmark = [pytest.mark.interop, pytest.mark.slow]  # Prometheus scrapes at most once a second

Scraping = Callable[[int, str], Prometheus]

AWKWARD = 'a "b"\\\n{c}=비빔밥 %d %s'


def awkward() -> Totals:
    """Everything that a format could stumble over."""
    octave = Octave.of([0.0] * 32 + [3.0] + [0.0] * 31)
    reading = SketchReading(6.0, 2.5, 1.0, -0.7, 0.7, {-1: octave}, {-1: Octave.of([2.0] + [0.0] * 63)})
    wait = SketchReading(3.0, 2.5, 0.0, 0.7, 0.9, {-1: octave}, {})
    return Totals(
        {"orders.total": Metric("orders.total", MetricType.COUNTER, 'help\nwith \\ and "')},
        {SeriesKey("orders.total", (("dish", AWKWARD),)): 12.0, SeriesKey("huge_total", ()): 1e300},
        {SeriesKey("unknown_level", ()): float("nan"), SeriesKey("a.b", ()): 1.0, SeriesKey("a_b", ()): 2.0},
        {SeriesKey("drift", ()): reading, SeriesKey("wait_seconds", (("le", "mine"),)): wait},
        {SeriesKey("wait_seconds", (("le", "mine"),)): Exemplar(0.7, "a" * 32, "b" * 16, 0.0)},
        [
            ForeignFamily(
                "phase", "stateset", "", "", [ForeignSample("phase", (("phase", "on"), ("worker", "7")), 1.0)]
            ),
            ForeignFamily("build", "info", "", "", [ForeignSample("build_info", (("worker", "7"),), 1.0)]),
            ForeignFamily("orders", "counter", "", "", [ForeignSample("orders_total", (), 5.0)]),
        ],
    )


@contextmanager
def served(render: Callable[[str], tuple[bytes, str]]) -> Iterator[int]:
    """A server whose every answer is *render*'s, for an ``Accept`` header; gives its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body, content_type = render(self.headers.get("Accept", ""))
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join(10)


class TestFormats:
    @pytest.mark.parametrize("openmetrics", [False, True])
    def test_everything_awkward(self, scraping: Scraping, openmetrics: bool) -> None:
        """
        Prometheus takes the whole exposition in either format and gives back each value under its exact labels.
        """
        asked: list[str] = []

        def render(accept: str) -> tuple[bytes, str]:
            asked.append(negotiate(accept))
            if openmetrics:
                return render_openmetrics(awkward()), OPENMETRICS
            return render_text(awkward()), "text/plain; version=0.0.4; charset=utf-8"

        with served(render) as port:
            prometheus = scraping(port, "unused")
            target = prometheus.target()

            assert (target["health"], target["lastError"]) == ("up", "")
            # It asks for OpenMetrics first, and our reading of its header agrees.
            assert set(asked) == {OPENMETRICS}
            assert prometheus.query('orders_total{dish!=""}') == {
                (("__name__", "orders_total"), ("dish", AWKWARD)): 12.0
            }
            assert prometheus.query("foreign_orders_total") == {(("__name__", "foreign_orders_total"),): 5.0}
            assert prometheus.query("huge_total") == {(("__name__", "huge_total"),): 1e300}
            assert isnan(next(iter(prometheus.query("unknown_level").values())))
            assert prometheus.query("a_b") == {(("__name__", "a_b"),): 2.0}
            assert prometheus.query("a_b_2") == {(("__name__", "a_b_2"),): 1.0}
            assert sum(prometheus.query("rfs_exposition_renamed").values()) == 2
            assert prometheus.query('drift_bucket{le="+Inf"} or drift_bucket{le="0.0"}') == {
                (("__name__", "drift_bucket"), ("le", "+Inf")): 6.0,
                (("__name__", "drift_bucket"), ("le", "0.0")): 3.0,
            }
            assert prometheus.query("histogram_quantile(0.5, wait_seconds_bucket)") == {
                (("exported_le", "mine"),): pytest.approx(0.7, rel=0.42)
            }

    def test_exemplars(self, scraping: Scraping) -> None:
        """
        The trace of a slow measurement is found through Prometheus.
        """
        one = awkward()
        (series,) = one.exemplars

        def render(_: str) -> tuple[bytes, str]:
            return render_openmetrics(one), OPENMETRICS

        with served(render) as port:
            one.exemplars[series] = Exemplar(0.7, "a" * 32, "b" * 16, time.time())
            prometheus = scraping(port, "unused")
            found = eventually(
                lambda: (
                    prometheus.get("query_exemplars", query="wait_seconds_bucket", start=0, end=time.time() + 60)
                    or None
                ),
                "an exemplar",
            )

        assert found[0]["exemplars"][0]["labels"] == {"trace_id": "a" * 32, "span_id": "b" * 16}
        assert float(found[0]["exemplars"][0]["value"]) == 0.7


class Workers:
    """uvicorn with two workers of the counting service."""

    def __init__(self, port: int) -> None:
        self.port = port

    def request(self, method: str, path: str, **headers: str) -> tuple[int, str]:
        """One request over a connection of its own, so that any worker may take it."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def scrape(self) -> dict[str, float]:
        """The samples of one scrape, by the text before the value."""
        status, text = self.request("GET", "/metrics/prometheus", Authorization="Bearer interop")
        assert status == 200, text
        return {
            line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[:1] != "#"
        }

    def order(self, count: int) -> set[int]:
        """Send *count* orders; the workers that took them."""
        pids = set()
        for number in range(count):
            status, body = self.request("POST", f"/orders/{number}")
            assert status == 200, body
            pids.add(json.loads(body))
        return pids


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    port = free_port()
    root = Path(__file__).resolve().parents[2]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RFS_")}
    log = (tmp_path / "uvicorn.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "counting:app", "--port", str(port), "--workers", "2", "--no-access-log"],
        cwd=root / "tests" / "interop" / "programs",
        env={**environment, "RFS_DIR": str(tmp_path / "rfs")},
        stdout=log,
        stderr=log,
    )
    log.close()
    made = Workers(port)
    try:
        eventually(lambda: made.request("GET", "/health/live")[0] or None, "a service that answers")
        eventually(lambda: True if len(made.order(4)) == 2 else None, "both workers at work")
        yield made
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def orders_of(samples: dict[str, float]) -> float:
    return sum(value for line, value in samples.items() if line.startswith("orders_total{"))


class TestTwoWorkers:
    def test_each_scrape_shows_all(self, workers: Workers) -> None:
        """
        Whichever worker answers, it shows what both have counted, to the last request.
        """
        before = orders_of(workers.scrape())

        assert len(workers.order(40)) == 2
        scrapes = [workers.scrape() for _ in range(12)]

        assert {orders_of(one) for one in scrapes} == {before + 40}
        assert {one["wait_seconds_count"] for one in scrapes} == {before + 40}

    def test_the_hosts_own_registry(self, workers: Workers) -> None:
        """
        A counter of prometheus_client is summed over workers, and a gauge is there once for each, in every scrape.
        """
        pids = workers.order(30)
        jobs = orders_of(workers.scrape())  # each order is one job

        eventually(lambda: True if workers.scrape()["jobs_total"] == jobs else None, "all jobs")

        for samples in [workers.scrape() for _ in range(8)]:
            assert samples["jobs_total"] == jobs
            assert {int(value) for line, value in samples.items() if line.startswith("worker_pid{")} == pids

    def test_prometheus_sees_the_truth(self, workers: Workers, scraping: Scraping) -> None:
        """
        A real Prometheus, with the token, ends up with exactly what was sent, and a quantile near the true one.
        """
        before = orders_of(workers.scrape())
        prometheus = scraping(workers.port, "interop")
        assert (prometheus.target()["health"], prometheus.target()["lastError"]) == ("up", "")

        workers.order(200)
        eventually(
            lambda: True if prometheus.query("sum(orders_total)") == {(): before + 200} else None, "all that was sent"
        )

        # Measured were 1 to 100 ms, evenly.
        median = prometheus.query("histogram_quantile(0.5, sum by (le) (wait_seconds_bucket))")[()]
        assert median == pytest.approx(0.050, rel=0.1)
        assert prometheus.query("count(resets(orders_total[5m]) > 0)") == {}

    def test_a_trace_behind_a_duration(self, workers: Workers, scraping: Scraping) -> None:
        """
        Prometheus takes the exemplars of requests, and finds the very trace that the caller sent.
        """
        trace = "0af7651916cd43dd8448eb211c80319c"
        workers.request("DELETE", "/nothing", traceparent=f"00-{trace}-b7ad6b7169203331-01")
        prometheus = scraping(workers.port, "interop")

        found = eventually(
            lambda: (
                prometheus.get(
                    "query_exemplars",
                    query='http_request_duration_seconds_bucket{method="DELETE"}',
                    start=0,
                    end=time.time() + 60,
                )
                or None
            ),
            "an exemplar",
        )

        assert {one["labels"]["trace_id"] for series in found for one in series["exemplars"]} == {trace}

    def test_without_the_token(self, workers: Workers, scraping: Scraping) -> None:
        """
        With another token Prometheus is told that it may not.
        """
        prometheus = scraping(workers.port, "another")

        assert prometheus.target()["health"] == "down"
        assert "401" in prometheus.target()["lastError"]


class TestDocumentation:
    def test_the_configuration_that_we_show(self, tmp_path: Path) -> None:
        """
        Prometheus takes every configuration of our page as it stands.
        """
        page = ROOT / "docs" / "how-to" / "prometheus.md"
        shown = [snippet for snippet in snippets(page) if snippet.language == "yaml"]
        assert shown
        if shutil.which("promtool") is None:
            pytest.skip("promtool is not installed (Debian package prometheus)")

        (tmp_path / "bistro.token").write_text("made-by-a-password-manager")
        for number, snippet in enumerate(shown):
            file = tmp_path / f"{number}.yml"
            file.write_text(snippet.code)
            done = subprocess.run(
                ["promtool", "check", "config", str(file)], capture_output=True, check=False, timeout=60
            )
            assert done.returncode == 0, f"{snippet}: {done.stderr.decode()}"
