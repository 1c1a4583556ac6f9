"""Registries of prometheus_client: one truth for all processes, whatever the host's collectors do."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.core import Metric as ForeignMetric

from rfs.monitoring import _foreign, _live
from rfs.monitoring._capture import foreign as cells_of_foreign
from rfs.monitoring._capture.cells import FOREIGN, LAYOUT, CellsReader, Labels, encode_entry
from rfs.monitoring._foreign import ForeignMirror, ForeignSums, with_worker
from rfs.monitoring.monitor import Monitor
from tests.faults.processes import eventually

FAR_SECONDS = 30.0

PID = str(os.getpid())


@pytest.fixture(autouse=True)
def _without_the_default_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    # What other tests count there is nobody's business here.
    monkeypatch.delitem(sys.modules, "prometheus_client")


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def monitor(registry: CollectorRegistry) -> Iterator[Monitor]:
    made = Monitor(service_name="foreign")
    made.include_registry(registry)
    yield made
    made.stop()


def up_to_date(monitor: Monitor) -> None:
    """As `Monitor.refresh_foreign`, but on a slow machine too."""
    monitor._foreign.refresh(FAR_SECONDS)


def shown(monitor: Monitor, *, refresh: bool = True) -> dict[tuple[str, Labels], float]:
    """The samples of an exposition of *monitor*."""
    if refresh:
        up_to_date(monitor)
    return {
        (sample.name, sample.labels): sample.value
        for family in monitor.query.totals().foreign
        for sample in family.samples
    }


def own_count(monitor: Monitor, name: str) -> float:
    return sum(value for key, value in monitor.query.totals().counters.items() if key.name == name)


class Saying:
    """A collector, or a registry, that says what it is told to."""

    def __init__(self, *metrics: Any) -> None:
        self.metrics: list[Any] = list(metrics)

    def collect(self) -> Iterable[Any]:
        for metric in self.metrics:
            if isinstance(metric, Exception):
                raise metric
            yield metric


class InAChild:
    """Runs *work* in a forked child, up to its end."""

    def __init__(self, work: Callable[[], None]) -> None:
        reading, writing = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            status = 9
            try:
                os.close(reading)
                work()
                status = 0
            except BaseException as error:  # noqa: BLE001 - told to the parent
                os.write(writing, repr(error).encode())
            finally:
                os._exit(status)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            said = pipe.read().decode()
        _, status = os.waitpid(self.pid, 0)
        assert (os.waitstatus_to_exitcode(status), said) == (0, "")


class TestOneProcess:
    def test_what_is_shown(self, monitor: Monitor, registry: CollectorRegistry) -> None:
        """
        Sums are shown as they are, everything else with the worker's pid.
        """
        Counter("jobs", "Jobs", ["queue"], registry=registry).labels("a").inc(3)
        Gauge("load", "", registry=registry).set(0.5)
        Histogram("wait", "", buckets=[1, 2], registry=registry).observe(1.5)
        Summary("size", "", registry=registry).observe(7)

        assert shown(monitor) == {
            ("jobs_total", (("queue", "a"),)): 3.0,
            ("load", (("worker", PID),)): 0.5,
            ("wait_bucket", (("le", "1.0"),)): 0.0,
            ("wait_bucket", (("le", "2.0"),)): 1.0,
            ("wait_bucket", (("le", "+Inf"),)): 1.0,
            ("wait_count", ()): 1.0,
            ("wait_sum", ()): 1.5,
            ("size_count", ()): 1.0,
            ("size_sum", ()): 7.0,
        }
        (jobs,) = [family for family in monitor.query.totals().foreign if family.name == "jobs"]
        assert (jobs.type, jobs.help) == ("counter", "Jobs")

    def test_quantiles_do_not_add_up(self, monitor: Monitor, registry: CollectorRegistry) -> None:
        """
        A summary's quantiles belong to one worker each, while its count and sum are those of all.
        """
        family = SummaryMetricFamily("lag", "", count_value=2, sum_value=3)
        family.add_sample("lag", {"quantile": "0.5"}, 1.5)
        registry.register(Saying(family))

        assert shown(monitor) == {
            ("lag_count", ()): 2.0,
            ("lag_sum", ()): 3.0,
            ("lag", (("quantile", "0.5"), ("worker", PID))): 1.5,
        }

    def test_a_label_called_worker(self) -> None:
        """
        The label that tells workers apart takes none of the host's away.
        """
        labels = (("exported_worker", "a"), ("worker", "b"))

        assert with_worker(labels, "7") == (
            ("exported_exported_worker", "b"),
            ("exported_worker", "a"),
            ("worker", "7"),
        )

    def test_what_goes_away(self, monitor: Monitor, registry: CollectorRegistry) -> None:
        """
        A gauge that the host removes is gone, and comes back with its new value; what was counted stays.
        """
        load = Gauge("load", "", ["at"], registry=registry)
        jobs = Counter("jobs", "", ["at"], registry=registry)
        load.labels("a").set(1)
        jobs.labels("a").inc()
        assert len(shown(monitor)) == 2

        load.remove("a")
        jobs.remove("a")
        assert shown(monitor) == {("jobs_total", (("at", "a"),)): 1.0}

        load.labels("a").set(2)
        assert shown(monitor)["load", (("at", "a"), ("worker", PID))] == 2.0

    def test_a_reset_loses_nothing(self, monitor: Monitor, registry: CollectorRegistry) -> None:
        """
        A counter that begins anew adds to what it had; so does a histogram, even in buckets that are beyond their old counts.
        """
        jobs = Counter("jobs", "", registry=registry)
        wait = Histogram("wait", "", ["at"], buckets=[1], registry=registry)
        jobs.inc(5)
        for value in (0.5, 3.0, 3.0, 3.0):
            wait.labels("a").observe(value)
        shown(monitor)

        jobs.reset()
        jobs.inc(2)
        wait.clear()
        wait.labels("a").observe(0.5)
        wait.labels("a").observe(0.5)

        found = shown(monitor)
        assert found["jobs_total", ()] == 7.0
        assert found["wait_bucket", (("at", "a"), ("le", "1.0"))] == 3.0
        assert found["wait_count", (("at", "a"),)] == 6.0
        assert found["wait_sum", (("at", "a"),)] == 10.5

    def test_a_negative_measurement_is_no_reset(self, monitor: Monitor, registry: CollectorRegistry) -> None:
        """
        The sum of a summary may go down while its count goes up.
        """
        change = Summary("change", "", registry=registry)
        change.observe(5)
        shown(monitor)

        change.observe(-3)

        assert shown(monitor) == {("change_count", ()): 2.0, ("change_sum", ()): 2.0}

    def test_secrets_are_masked(self, monitor: Monitor, registry: CollectorRegistry) -> None:
        """
        What is masked in our own labels is masked in these.
        """
        secret = "postgresql://app:hunter22@db/orders"
        Counter("jobs", "", ["url"], registry=registry).labels(secret).inc()

        ((_, labels),) = shown(monitor)

        assert "hunter22" not in str(labels)
        assert labels[0][0] == "url"

    def test_nothing_is_collected_by_recording(self, monitor: Monitor, registry: CollectorRegistry) -> None:
        """
        Recording, and asking for anything but an exposition, runs none of the host's collectors.
        """
        asked: list[int] = []

        class Asked:
            def collect(self) -> list[Any]:
                asked.append(1)
                return []

        monitor.include_registry(Asked())

        monitor.counter("own_total").inc()
        monitor.log(40, "something")
        monitor.query.totals()
        assert not asked

        up_to_date(monitor)
        assert asked == [1]

    def test_a_look_that_came_too_early(self, monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Who asks while a collection is under way gets what has been counted up to then, not what that one saw before.
        """
        family = CounterMetricFamily("jobs", "", value=1)
        looked, go_on = threading.Event(), threading.Event()

        class Slow:
            def collect(self) -> list[Any]:
                seen = CounterMetricFamily("jobs", "", value=family.samples[0].value)
                looked.set()
                assert go_on.wait(FAR_SECONDS)
                return [seen]

        join = threading.Thread.join

        def joining(self: threading.Thread, timeout: float | None = None) -> None:
            if timeout:  # the second one waits; the first does not
                go_on.set()
            join(self, timeout)

        monkeypatch.setattr(threading.Thread, "join", joining)
        monitor.include_registry(Slow())
        monitor._foreign.refresh()
        assert looked.wait(FAR_SECONDS)
        family.samples[:] = []
        family.add_metric([], 2)

        assert shown(monitor) == {("jobs_total", ()): 2.0}

    def test_once_a_second(self, monitor: Monitor, registry: CollectorRegistry) -> None:
        """
        While the Monitor runs it is kept up to date without a scrape, and stopping looks a last time.
        """
        jobs = Counter("jobs", "", registry=registry)
        jobs.inc()
        monitor.start()
        eventually(lambda: shown(monitor, refresh=False).get(("jobs_total", ())) == 1.0)

        jobs.inc()
        monitor.stop()

        assert shown(monitor, refresh=False)["jobs_total", ()] == 2.0


class TestBadRegistries:
    def test_one_that_raises(self, monitor: Monitor, registry: CollectorRegistry) -> None:
        """
        It is counted as an internal error, and the others' samples are there.
        """
        registry.register(Saying(RuntimeError("broken")))
        monitor.include_registry(Saying(GaugeMetricFamily("level", "", value=1)))

        assert ("level", (("worker", PID),)) in shown(monitor)
        assert own_count(monitor, "telemetry_internal_errors_total") == 1.0

    def test_publishing_that_fails(self) -> None:
        """
        A fault of our own is told, and harms nobody.
        """
        told: list[str] = []

        def publish(*_: object) -> None:
            raise OSError

        mirror = ForeignMirror(publish, lambda where, _: told.append(where))
        mirror.include(Saying())

        mirror.refresh(FAR_SECONDS)

        assert told == ["foreign registries"]

    def test_no_thread_to_be_had(self, monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Where no thread can be started nothing is collected, which is counted.
        """

        def start(self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", start)

        assert shown(monitor) == {}
        assert own_count(monitor, "telemetry_internal_errors_total") == 1.0

    def test_at_the_interpreters_end(
        self, monitor: Monitor, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        Where no thread can be started because the interpreter ends, the last second is counted all the same, unless
        collecting takes long: the end waits for nobody.
        """

        def start(self: threading.Thread) -> None:
            raise RuntimeError("can't create new thread at interpreter shutdown")

        class Ended:
            def is_alive(self) -> bool:
                return False

        jobs = Counter("jobs", "", registry=registry)
        jobs.inc()
        monkeypatch.setattr(threading.Thread, "start", start)
        monkeypatch.setattr(_foreign, "main_thread", Ended)
        assert shown(monitor) == {("jobs_total", ()): 1.0}

        monitor._foreign._due_at = time.monotonic() + FAR_SECONDS
        jobs.inc()

        assert shown(monitor) == {("jobs_total", ()): 1.0}
        assert own_count(monitor, "telemetry_internal_errors_total") == 0.0

    def test_one_that_hangs(
        self, monitor: Monitor, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        Nobody waits longer than a second for it, no second thread is begun, it is told, and it may come back.
        """
        monkeypatch.setattr(_foreign, "_HANGING_SECONDS", 0.5)
        begun, go_on = threading.Event(), threading.Event()

        class Hanging:
            def collect(self) -> list[Any]:
                begun.set()
                go_on.wait(FAR_SECONDS)
                return [GaugeMetricFamily("level", "", value=1)]

        Counter("jobs", "", registry=registry).inc()
        assert shown(monitor)["jobs_total", ()] == 1.0
        monitor.include_registry(Hanging())
        monitor.start()
        assert begun.wait(FAR_SECONDS)

        before = time.monotonic()
        monitor.refresh_foreign()
        assert shown(monitor, refresh=False) == {("jobs_total", ()): 1.0}
        assert time.monotonic() - before < 5.0
        # The leader's thread goes on: it is what tells.
        eventually(lambda: own_count(monitor, "telemetry_internal_errors_total") > 0)
        assert [thread.name for thread in threading.enumerate()].count("rfs-foreign") == 1

        go_on.set()
        eventually(lambda: ("level", (("worker", PID),)) in shown(monitor))

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
    def test_what_cannot_be_summed(self, monitor: Monitor, registry: CollectorRegistry, value: float) -> None:
        """
        A counter that is no number of anything would spoil the sum of all workers for ever: refused, and counted once.
        """
        family = CounterMetricFamily("jobs", "", value=value)
        registry.register(Saying(family, CounterMetricFamily("others", "", value=1)))

        assert shown(monitor) == {("others_total", ()): 1.0}
        shown(monitor)
        assert own_count(monitor, "rfs_dropped_total") == 1.0

    def test_a_gauge_may_be_anything(self, monitor: Monitor, registry: CollectorRegistry) -> None:
        """
        An infinite gauge is infinite.
        """
        Gauge("load", "", registry=registry).set(float("inf"))

        assert shown(monitor) == {("load", (("worker", PID),)): float("inf")}

    def test_too_many(self, monitor: Monitor, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        What exceeds the bound is refused and counted once; a histogram is there as a whole or not at all.
        """
        monkeypatch.setattr(cells_of_foreign, "MAX_SAMPLES", 8)
        wait = Histogram("wait", "", ["at"], buckets=[1, 2], registry=registry)  # five samples each
        wait.labels("a").observe(1)
        wait.labels("b").observe(1)

        first, second = shown(monitor), shown(monitor)

        assert {dict(labels)["at"] for _, labels in first} == {"a"}
        assert len(first) == 5
        assert second == first
        assert own_count(monitor, "rfs_dropped_total") == 5.0
        assert len(monitor.registry.foreign._samples) <= 8

    def test_names_that_cannot_be_kept(self, monitor: Monitor, registry: CollectorRegistry) -> None:
        """
        A label that is too long, or a name that is no text, costs its own sample, and takes no room from the others.
        """
        jobs = Counter("jobs", "", ["at"], registry=registry)
        jobs.labels("x" * 5_000).inc()
        jobs.labels("a").inc()
        strange = ForeignMetric("strange", "", "gauge")
        strange.add_sample("strange\ud800", {}, 1)
        registry.register(Saying(strange))

        assert shown(monitor) == {("jobs_total", (("at", "a"),)): 1.0}
        assert own_count(monitor, "rfs_dropped_total") == 2.0
        assert len(monitor.registry.cells.regions) == 2

    def test_no_cells_left(
        self, monitor: Monitor, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        When all memory for cells is spent, samples are refused.
        """
        monkeypatch.setattr(type(monitor.registry.cells), "allocate", lambda *_: None)
        Counter("jobs", "", registry=registry).inc()

        up_to_date(monitor)
        monkeypatch.undo()

        assert shown(monitor, refresh=False) == {}


class TestSeveralProcesses:
    def test_sums(self, tmp_path: Path) -> None:
        """
        Each process finds the sums of both.
        """
        monitors = [Monitor(service_name="foreign", directory=tmp_path) for _ in range(2)]
        try:
            for number, one in enumerate(monitors, 1):
                registry = CollectorRegistry()
                one.include_registry(registry)
                Counter("jobs", "", registry=registry).inc(number)
                up_to_date(one)

            assert [shown(one, refresh=False) for one in monitors] == [{("jobs_total", ()): 3.0}] * 2
        finally:
            for one in monitors:
                one.stop()

    def test_a_child_counts_only_its_own(self, monitor: Monitor, registry: CollectorRegistry, tmp_path: Path) -> None:
        """
        What a fork has copied is not counted twice, whatever it was; and a dead child's sums stay, before and after it is
        folded, while its gauges go.
        """
        jobs = Counter("jobs", "", ["at"], registry=registry)
        wait = Histogram("wait", "", ["at"], buckets=[1], registry=registry)
        size = Summary("size", "", registry=registry)
        Gauge("load", "", registry=registry).set(1)
        custom = CounterMetricFamily("rows", "", value=100)
        registry.register(Saying(custom))
        monitor.use_directory(tmp_path)
        jobs.labels("a").inc(5)
        shown(monitor)
        # This the parent has not yet published when it forks.
        jobs.labels("a").inc(5)
        wait.labels("a").observe(0.5)
        size.observe(2)

        def work() -> None:
            up_to_date(monitor)
            custom.samples[:] = []
            custom.add_metric([], 103)
            jobs.labels("a").inc(2)
            jobs.labels("b").inc(1)
            wait.labels("a").observe(0.5)
            wait.labels("a").observe(3)
            size.observe(2)
            Counter("later", "", registry=registry).inc(4)
            up_to_date(monitor)
            found = {name for name, _ in shown(monitor)}
            assert found >= {"load", "later_total"}

        InAChild(work)

        expected = {
            ("jobs_total", (("at", "a"),)): 12.0,
            ("jobs_total", (("at", "b"),)): 1.0,
            ("wait_bucket", (("at", "a"), ("le", "1.0"))): 2.0,
            ("wait_bucket", (("at", "a"), ("le", "+Inf"))): 3.0,
            ("wait_count", (("at", "a"),)): 3.0,
            ("wait_sum", (("at", "a"),)): 4.0,
            ("size_count", ()): 2.0,
            ("size_sum", ()): 4.0,
            ("load", (("worker", PID),)): 1.0,
            ("rows_total", ()): 103.0,
            ("later_total", ()): 4.0,
        }
        assert shown(monitor) == expected
        live = tmp_path / "live"
        monitor.start()
        eventually(lambda: any(path.name.startswith("totals-") for path in live.iterdir()))
        eventually(lambda: len(_files(live, ".cells")) == 2)
        assert shown(monitor) == expected
        # A process that comes now finds the same in what is folded, but for the living one's part.
        monitor.stop()
        late = Monitor(service_name="foreign", directory=tmp_path)
        assert shown(late) == expected
        late.stop()

    def test_too_many_of_the_dead(
        self, monitor: Monitor, registry: CollectorRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        Workers that come and go with ever new labels do not fill the file of totals: what exceeds its bound is counted, and
        what is known goes on growing.
        """
        monkeypatch.setattr(_live, "MAX_FOLDED_SAMPLES", 2)
        jobs = Counter("jobs", "", ["at"], registry=registry)
        monitor.use_directory(tmp_path)

        def work(*names: str) -> None:
            for name in names:
                jobs.labels(name).inc()
            up_to_date(monitor)

        InAChild(partial(work, "a", "b"))
        monitor.start()
        cells = partial(_files, tmp_path / "live", ".cells")
        eventually(lambda: len(cells()) == 2)
        InAChild(partial(work, "b", "c"))
        eventually(lambda: len(cells()) == 2)

        assert shown(monitor) == {("jobs_total", (("at", "a"),)): 1.0, ("jobs_total", (("at", "b"),)): 2.0}
        assert own_count(monitor, "rfs_dropped_total") == 1.0

    def test_a_lock_that_was_held_at_the_fork(
        self, monitor: Monitor, registry: CollectorRegistry, tmp_path: Path
    ) -> None:
        """
        Nobody gives back in a child what another thread held at the fork. Forking waits for none of it, nor does the
        child; what it has is right as soon as the lock is free.
        """
        jobs = Counter("jobs", "", ["at"], registry=registry)
        jobs.labels("a").inc(5)
        monitor.use_directory(tmp_path)
        shown(monitor)
        locks: list[Any] = [registry._lock, jobs._lock, jobs.labels("a")._value._lock]
        holding, done = threading.Event(), threading.Event()

        def hold() -> None:
            with locks[0], locks[1], locks[2]:
                holding.set()
                done.wait(FAR_SECONDS)

        thread = threading.Thread(target=hold)
        thread.start()
        assert holding.wait(FAR_SECONDS)

        def work() -> None:
            assert all(lock.locked() for lock in locks)
            before = time.monotonic()
            monitor.refresh_foreign()
            assert time.monotonic() - before < 5.0
            for lock in locks:
                lock.release()
            jobs.labels("a").inc()
            up_to_date(monitor)

        try:
            InAChild(work)
        finally:
            done.set()
            thread.join(FAR_SECONDS)
        assert shown(monitor) == {("jobs_total", (("at", "a"),)): 6.0}

    def test_a_grandchild(self, monitor: Monitor, registry: CollectorRegistry, tmp_path: Path) -> None:
        """
        What a child has counted is not its child's, and forks do not fill the directory of cells.
        """
        jobs = Counter("jobs", "", registry=registry)
        monitor.use_directory(tmp_path)
        jobs.inc()
        shown(monitor)

        def grandchild() -> None:
            jobs.inc(100)
            up_to_date(monitor)
            assert len(monitor.registry.foreign._samples) == 1

        def child() -> None:
            jobs.inc(10)
            up_to_date(monitor)
            InAChild(grandchild)

        InAChild(child)

        assert shown(monitor) == {("jobs_total", ()): 111.0}

    def test_a_registry_that_is_no_registry(self, monitor: Monitor, tmp_path: Path) -> None:
        """
        Of what a fork copied in a collector of the host, its first word in the child is the beginning.
        """
        family = CounterMetricFamily("rows", "", value=7)
        monitor.include_registry(Saying(family))
        monitor.use_directory(tmp_path)
        shown(monitor)

        InAChild(lambda: up_to_date(monitor))

        assert shown(monitor) == {("rows_total", ()): 7.0}

    def test_process_collector(self, monitor: Monitor, registry: CollectorRegistry, tmp_path: Path) -> None:
        """
        What the kernel says of a child is its own from the start.
        """
        from prometheus_client import ProcessCollector

        ProcessCollector(registry=registry)
        monitor.use_directory(tmp_path)

        def work() -> None:
            while os.times().user + os.times().system < 0.05:
                pass
            alone = Monitor(service_name="foreign")
            alone.include_registry(registry)
            own = shown(alone)["process_cpu_seconds_total", ()]
            up_to_date(monitor)
            cells = {sample: one for (_, _, sample, _), one in monitor.registry.foreign._samples.items()}
            assert cells["process_cpu_seconds_total"].base == 0.0
            assert cells["process_cpu_seconds_total"].last >= own > 0

        InAChild(work)

    def test_what_is_read_without_locks(self, registry: CollectorRegistry) -> None:
        """
        What is remembered at a fork is, sum by sum, what the library itself says; and no collector of the host is run for it.
        """
        Counter("jobs", "", ["b", "a"], registry=registry).labels("x", "y").inc(5)
        Counter("plain", "", registry=registry).inc(0.5)
        Histogram("wait", "", ["z", "at"], buckets=[0.25, 1000000], registry=registry).labels("a", "b").observe(2)
        Summary("size", "", ["at"], registry=registry).labels("x").observe(2)
        Summary("plain_size", "", registry=registry).observe(2)
        Gauge("load", "", registry=registry).set(1)
        registry.register(Saying(RuntimeError("was asked")))
        told: list[str] = []
        mirror = ForeignMirror(lambda *_: None, lambda where, _: told.append(where))
        mirror.include(registry)

        mirror.after_fork()

        assert not told
        says = {
            (sample.name, sample.labels): sample.value
            for family in mirror.collect()
            for sample in family.samples
            if family.name != "load"
        }
        assert mirror._before == says
        assert len(says) == 2 + 3 + 2 + 2 + 2
        assert told == ["collector Saying"]

    def test_the_librarys_own_files(self) -> None:
        """
        In the library's own mode for several processes a child's values begin at 0 by themselves.
        """

        class InAFile:
            _multiprocess = True
            _value = 5.0

        assert _foreign._value_of(InAFile()) == 0.0


def _files(directory: Path, suffix: str) -> list[str]:
    return [path.name for path in directory.iterdir() if path.suffix == suffix]


def _said(entry: bytes, _region: object) -> bytes:
    return entry


class TestCells:
    def test_moving(self, monitor: Monitor, registry: CollectorRegistry, tmp_path: Path) -> None:
        """
        Values are there at once when a directory is used, when it is lost, and when it is found again.
        """
        Counter("jobs", "", registry=registry).inc(3)
        load = Gauge("load", "", ["at"], registry=registry)
        load.labels("a").set(1)
        shown(monitor)
        load.remove("a")
        before = shown(monitor)

        monitor.use_directory(tmp_path)
        assert shown(monitor, refresh=False) == before

        (tmp_path / "live").rename(tmp_path / "elsewhere")
        (tmp_path / "live").write_text("in the way")
        monitor.capture.mend()
        assert monitor.capture.directory is None
        assert shown(monitor, refresh=False) == before

        (tmp_path / "live").unlink()
        monitor.capture.mend()
        assert monitor.capture_state.mode == "directory"
        assert shown(monitor, refresh=False) == before

    def test_damaged_entries(self, monitor: Monitor, registry: CollectorRegistry) -> None:
        """
        An entry that is damaged, or of another shape, is left out and costs nobody else.
        """
        for name in ("first", "second"):
            Counter(name, "", registry=registry).inc()
        assert len(shown(monitor)) == 2
        region = monitor.registry.cells.regions[0]
        for strange in ([FOREIGN], [FOREIGN, 1, 2, 3, 4, 5, 6], [FOREIGN, "a", "b", "", "", "c", ["odd"]]):
            monitor.registry.cells.allocate(2, partial(_said, encode_entry(strange)))
        Counter("third", "", registry=registry).inc()
        up_to_date(monitor)
        at = bytes(region.view).index(b"first_total")
        region.view[at] ^= 0xFF

        reader = CellsReader()
        reader.add(region.memory, "cells")
        for _ in range(2):  # at first another processor might not have shown us all of it
            reader.refresh()

        assert [entry.sample for entry in reader.foreign] == ["second_total", "third_total"]
        assert reader.damaged_entries == 1

    def test_an_entry_at_the_end(self, monitor: Monitor, registry: CollectorRegistry) -> None:
        """
        An entry whose second cell would be beyond the file is left out.
        """
        Counter("jobs", "", registry=registry).inc()
        shown(monitor)
        region = monitor.registry.cells.regions[0]
        (own,) = monitor.registry.foreign._samples.values()
        entries = range(LAYOUT["directory"], region.next_entry, 8)
        entry = max(at for at in entries if region.words[(at >> 3) + 1] == own.at)  # a metric names no cell of its own
        region.words[(entry >> 3) + 1] = len(region.words) - 1

        reader = CellsReader()
        reader.add(region.memory, "cells")
        reader.refresh()

        assert reader.foreign == []

    def test_help_from_whoever_has_it(self) -> None:
        """
        A family whose first entry says no help has that of the next.
        """
        sums = ForeignSums([("jobs", "counter", "", "", "jobs_total", (), 1.0)])
        sums.add([], None)
        sums._family("jobs", "counter", "Jobs", "")

        assert [(family.name, family.help) for family in sums.families()] == [("jobs", "Jobs")]


class TestSamplesOfOtherNames:
    def test_unknown(self, monitor: Monitor, registry: CollectorRegistry) -> None:
        """
        What is not called as its family is of no known type, and so each worker's own.
        """
        metric = ForeignMetric("pool", "Pool", "counter")
        metric.add_sample("pool_size", {}, 3)
        registry.register(Saying(metric))

        assert shown(monitor) == {("pool_size", (("worker", PID),)): 3.0}
