"""
Series that nobody writes any more: they leave exposition and memory, no sum goes backwards, and nothing is counted twice.

The clock is moved by hand, and the leaders' threads are played by `Service.wait`.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from rfs.monitoring._capture import instruments as instruments_module
from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.instruments import IDLE_SECONDS
from rfs.monitoring._capture.live import LiveDirectory
from rfs.monitoring._live import LiveReader
from rfs.monitoring.exporters.prometheus import exposition
from rfs.monitoring.monitor import Monitor
from rfs.testing.virtual_time import VirtualTime

ROUND_SECONDS = 310.0  # a little more than the time after which a process looks for idle series
FULL = os.environ.get("RFS_FULL") == "1"
LONG_SECONDS = IDLE_SECONDS + 3 * ROUND_SECONDS  # by then all that is idle is gone


class Service:
    """Processes of one service that share a directory; or, without one, a single process."""

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        self.clock = VirtualTime()
        self.processes: list[Monitor] = []

    def begin(self) -> Monitor:
        """Start one more process."""
        made = Monitor(service_name="idle", directory=self.directory, clock=self.clock)
        self.processes.append(made)
        return made

    def kill(self, process: Monitor) -> None:
        """End a process without a word."""
        self.processes.remove(process)
        process.capture.close()

    def beat(self) -> None:
        """What the threads of all processes do within a second or two."""
        for _ in range(2):
            for process in self.processes:
                process._leader._capture_and_lead(is_new=False)
        for process in self.processes:
            process.tick()

    def wait(self, seconds: float, busy: Callable[[], object] = lambda: None) -> None:
        """Let time go by; *busy* is called in between, more often than every hour."""
        end = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end:
            busy()
            self.clock.advance(ROUND_SECONDS)
            self.beat()
        self.beat()


@pytest.fixture(params=["memory", "directory"])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path if request.param == "directory" else None)
    yield made
    for process in made.processes:
        process.stop()


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path)
    yield made
    for process in made.processes:
        process.stop()


def lines(process: Monitor, name: str) -> dict[str, float]:
    """What an exposition says of one metric: the labels of each sample → its value."""
    found = {}
    for line in exposition(process)[0].decode().splitlines():
        if line.startswith((f"{name}{{", f"{name} ")):
            series, _, value = line.rpartition(" ")
            found[series.removeprefix(name)] = float(value)
    return found


def count(process: Monitor, user: str, times: int = 1) -> None:
    process.counter("visits_total").inc(times, user=user)


class TestForgetting:
    def test_leaves_exposition_and_memory(self, service: Service) -> None:
        """
        A series that nobody has written for an hour is gone, with its place under the limits; one that is written is not.
        """
        process = service.begin()
        for number in range(50):
            count(process, f"user {number}")
        before = process.registry.series_count

        service.wait(LONG_SECONDS, lambda: count(process, "user 7"))

        assert set(lines(process, "visits_total")) == {'{user="user 7"}'}
        assert process.registry.series_count == before - 49
        assert [one.key.labels for one in process.counter("visits_total").series()] == [(("user", "user 7"),)]
        assert process.registry._collector.series == sum(
            len(metric.series()) for metric in process.registry.metrics() if not metric.own
        )

    def test_each_in_its_time(self, service: Service) -> None:
        """
        Series that are made one after the other leave one after the other, each after its hour.
        """
        process = service.begin()
        number = iter(range(1_000))
        service.wait(LONG_SECONDS, lambda: count(process, f"user {next(number)}"))

        rounds = LONG_SECONDS // ROUND_SECONDS + 2
        for _ in range(20):
            service.wait(ROUND_SECONDS, lambda: count(process, f"user {next(number)}"))
            assert len(lines(process, "visits_total")) <= rounds

    def test_not_before(self, service: Service) -> None:
        """
        For an hour it stays as it is.
        """
        process = service.begin()
        count(process, "ann", 3)

        service.wait(IDLE_SECONDS - ROUND_SECONDS)

        assert lines(process, "visits_total") == {'{user="ann"}': 3}

    def test_the_sum_of_a_busy_series_goes_on(self, service: Service) -> None:
        """
        While others are forgotten around it, every measurement of a busy series is in its sum, and in no other.
        """
        process = service.begin()
        waits = process.histogram("wait_seconds")
        seen: list[float] = []

        def busy() -> None:
            count(process, "busy")
            waits.observe(2.0 ** (len(seen) % 7 - 3), user="busy")
            count(process, f"once {len(seen)}")
            waits.observe(-1.0, user=f"once {len(seen)}")
            process.gauge("level").set(len(seen), user="busy")
            seen.append(lines(process, "visits_total")['{user="busy"}'])

        service.wait(4 * LONG_SECONDS, busy)

        assert seen == list(range(1, len(seen) + 1))
        assert lines(process, "wait_seconds_count")['{user="busy"}'] == len(seen)
        assert len(lines(process, "visits_total")) < 30
        assert process.query.latest("level") == len(seen) - 1
        (busy_one,) = [one for one in waits.series() if dict(one.key.labels)["user"] == "busy"]
        assert busy_one.count == len(seen)
        (reading,) = [one for key, one in process.query.totals().sketches.items() if ("user", "busy") in key.labels]
        sketch = reading.since(None)
        assert sketch.count == reading.count == len(seen)
        assert (sketch.min, sketch.max) == (0.125, 8.0)
        assert reading.total == sum(2.0 ** (number % 7 - 3) for number in range(len(seen)))

    def test_what_returns_begins_at_zero(self, service: Service) -> None:
        """
        A series that comes back is a new one: its sum is what has been measured since, and RFS's own answers have both times once.
        """
        process = service.begin()
        count(process, "ann", 3)
        service.wait(LONG_SECONDS)
        assert lines(process, "visits_total") == {}

        count(process, "ann", 2)
        service.beat()

        assert lines(process, "visits_total") == {'{user="ann"}': 2}
        assert process.query.increase("visits_total", "1d") == 5
        assert process.query.increase("visits_total", "1d", {"user": "ann"}) == 5

    def test_what_is_held_stays(self, service: Service) -> None:
        """
        A bound series that the host holds is there on purpose: it is shown for ever, and goes on counting.
        """
        process = service.begin()
        failed = process.counter("orders_total").labels(status="failed")
        waits = process.histogram("wait_seconds").labels(table="1")
        failed.inc(2)
        waits.observe(1.0)
        number = iter(range(10_000))

        service.wait(2 * LONG_SECONDS, lambda: count(process, f"user {next(number)}"))
        failed.inc()
        waits.observe(3.0)

        assert lines(process, "orders_total") == {'{status="failed"}': 3}
        assert lines(process, "wait_seconds_sum") == {'{table="1"}': 4}
        assert (failed.value, waits.count) == (3, 2)
        assert failed is process.counter("orders_total").labels(status="failed")

    def test_what_cannot_multiply_stays(self, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A series without labels, the overflow series, and RFS's own books are never forgotten.
        """
        monkeypatch.setattr(instruments_module, "MAX_SERIES", 3)
        process = service.begin()
        process.counter("orders_total").inc(4)
        for number in range(5):
            count(process, f"user {number}")
        process.log(20, "one")

        service.wait(2 * LONG_SECONDS)

        assert lines(process, "orders_total") == {"": 4}
        assert lines(process, "visits_total") == {'{rfs_overflow="true"}': 3}
        assert lines(process, "rfs_produced_total") == {'{signal="records"}': 1}
        books = process.query.books()["records"]
        assert books["produced"] == books["delivered"] == 1

    def test_an_operation_nobody_calls(self, service: Service) -> None:
        """
        What RFS itself holds bound is not in use for that: an operation that nobody calls is forgotten, one that is called is not.
        """
        process = service.begin()
        process.measure_result("old", 5.0, failed=False)

        service.wait(2 * LONG_SECONDS, lambda: process.measure_result("new", 5.0, failed=False))

        assert set(lines(process, "result_success_total")) == {'{operation="new"}'}
        assert set(lines(process, "result_failure_total")) == {'{operation="new"}'}
        assert set(process._operations) == {"new"}

    def test_gauges_say_what_is(self, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A gauge keeps its value however long ago it was written. Where room is short the idle ones make room; of those that are
        added up only what is back at zero.
        """
        process = service.begin()
        built, running = process.gauge("build_info"), process.gauge("running", across="sum")
        for number in range(4):
            built.set(1, version=str(number))
            running.inc(1, job=str(number))
            if number:
                running.dec(1, job=str(number))
        count(process, "ann")

        service.wait(LONG_SECONDS)
        assert [len(lines(process, name)) for name in ("build_info", "running", "visits_total")] == [4, 4, 0]

        monkeypatch.setattr(instruments_module, "MAX_SERIES", 8)
        service.wait(LONG_SECONDS)
        assert lines(process, "build_info") == {}
        assert lines(process, "running") == {'{job="0"}': 1}

    @pytest.mark.usefixtures("switching_often")
    def test_nothing_is_lost_while_others_measure(self, service: Service) -> None:
        """
        Four threads measure, bound and by labels, while all goes on in other cells again and again: every sum is exact.
        """
        process = service.begin()
        visits, waits = process.counter("visits_total"), process.histogram("wait_seconds")
        bound, bound_waits = visits.labels(user="bound"), waits.labels(user="bound")
        turns = 4_000

        def work(thread: int) -> None:
            for number in range(turns):
                bound.inc()
                bound_waits.observe(float(1 << number % 12))
                visits.inc(1, user=f"{thread} {number // 50}")
                waits.observe(1.5, user=f"{thread} {number // 500}")

        threads = [Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        renewed = 0
        while any(thread.is_alive() for thread in threads) or renewed < 3:
            renewed += process.capture.renew()
            process._leader._capture_and_lead(is_new=False)
        for thread in threads:
            thread.join()
        process.capture.renew()
        service.beat()

        totals = process.query.totals()
        assert sum(value for key, value in totals.counters.items() if key.name == "visits_total") == 8 * turns
        sketches = [reading for key, reading in totals.sketches.items() if key.name == "wait_seconds"]
        assert sum(reading.count for reading in sketches) == 8 * turns
        assert sum(reading.since(None).count for reading in sketches) == 8 * turns
        assert bound.value == 4 * turns
        assert bound_waits.count == 4 * turns


class TestSeveralProcesses:
    def test_no_sum_goes_backwards(self, shared: Service) -> None:
        """
        What one process has forgotten another still counts: from neither does anybody ever read less than before.
        """
        first, second = shared.begin(), shared.begin()
        counted = 10
        count(first, "ann", counted)
        last = dict.fromkeys(map(id, shared.processes), 0.0)

        def busy() -> None:
            nonlocal counted
            count(second, "ann")
            counted += 1
            for process in shared.processes:
                seen = lines(process, "visits_total")['{user="ann"}']
                assert seen == counted
                assert seen >= last[id(process)]
                last[id(process)] = seen

        shared.wait(2 * LONG_SECONDS, busy)
        assert first.counter("visits_total").series() == []
        count(first, "ann", 5)
        counted += 5
        shared.wait(ROUND_SECONDS, busy)
        assert lines(first, "visits_total") == lines(second, "visits_total") == {'{user="ann"}': counted}

    def test_gone_when_it_is_idle_everywhere(self, shared: Service) -> None:
        """
        When all have forgotten a series nobody shows it, a process that has just begun as little as the others. Its past stays.
        """
        first, second = shared.begin(), shared.begin()
        for process in (first, second):
            count(process, "ann", 3)
            count(process, "bob", 3)
        bobs = 6

        def busy() -> None:
            nonlocal bobs
            count(second, "bob")
            bobs += 1

        shared.wait(LONG_SECONDS, busy)
        third = shared.begin()

        for process in (first, second, third):
            assert set(lines(process, "visits_total")) == {'{user="bob"}'}
        assert third.query.increase("visits_total", "1d", {"user": "ann"}) == 6
        assert third.query.increase("visits_total", "1d") == 6 + bobs

    def test_the_dead_keep_theirs_for_an_hour(self, shared: Service) -> None:
        """
        What a process has counted outlives it by an hour and, where another process counts on, for ever.
        """
        first, second = shared.begin(), shared.begin()
        for user in ("ann", "bob"):
            count(first, user, 3)
        first.counter("orders_total").inc(3)
        shared.kill(first)

        shared.wait(IDLE_SECONDS - ROUND_SECONDS, lambda: count(second, "bob"))
        assert lines(second, "visits_total")['{user="ann"}'] == 3

        bobs = lines(second, "visits_total")['{user="bob"}']
        shared.wait(3 * ROUND_SECONDS)
        assert lines(second, "visits_total") == {'{user="bob"}': bobs}
        assert lines(second, "orders_total") == {"": 3}

    def test_very_many_of_the_dead(self, shared: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Of the series that only the dead have had, those of the longest dead go first when there are too many.
        """
        monkeypatch.setattr("rfs.monitoring._live.MAX_LEFT_SERIES", 5)
        watcher = shared.begin()
        for generation in range(3):
            process = shared.begin()
            for number in range(4):
                count(process, f"{generation}.{number}")
            shared.kill(process)
            shared.wait(ROUND_SECONDS)

        users = set(lines(watcher, "visits_total"))
        assert len(users) == 5
        assert {f'{{user="2.{number}"}}' for number in range(4)} < users

    def test_a_leader_that_dies_while_folding(self, shared: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Sums that have been folded from files which are still there count once, and the next leader removes the files.
        """
        leader, other = shared.begin(), shared.begin()
        for number in range(3):
            count(other, f"user {number}", 2)
        shared.beat()
        kept = [other.counter("visits_total").labels(user=f"user {number}") for number in range(3)]
        other.registry.forgotten = 1
        other._leader.forget_idle(shared.clock.monotonic())
        with monkeypatch.context() as dying:
            dying.setattr(LiveReader, "_remove", lambda *_, **__: None)
            shared.beat()
        closed = f"{other.capture.process}.*.cells"
        there = sorted((shared.directory / "live").glob(closed))  # type: ignore[operator]
        everything = {f'{{user="user {number}"}}': 2.0 for number in range(3)}
        assert leader._leader.leadership.is_self
        assert leader._leader.live._folded.files
        assert lines(leader, "visits_total") == lines(other, "visits_total") == everything

        shared.kill(leader)
        kept[0].inc()
        shared.beat()

        assert len(sorted((shared.directory / "live").glob(closed))) == len(there) - 1  # type: ignore[operator]
        assert lines(other, "visits_total") == {**everything, '{user="user 0"}': 3.0}

    def test_whoever_cannot_see_all_drops_nothing(self, shared: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        As long as the leader cannot open the file of a living process, it takes no series for one that nobody has.
        """
        leader = shared.begin()
        shared.beat()
        count(leader, "ann", 3)
        other = shared.begin()
        map_file = LiveDirectory.map

        def refuse(directory: LiveDirectory, name: str, **options: Any) -> Any:
            if name.startswith(other.capture.process):
                raise OSError(errno.EMFILE, "Too many open files")
            return map_file(directory, name, **options)

        with monkeypatch.context() as without:
            without.setattr(LiveDirectory, "map", refuse)
            shared.wait(2 * LONG_SECONDS)
            assert lines(leader, "visits_total") == {'{user="ann"}': 3}
            assert leader.counter("visits_total").series() == []
        shared.beat()
        assert lines(leader, "visits_total") == {}

    def test_a_series_that_is_just_being_made(self, shared: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A thread that has cells, but not yet a series, when all others leave the old files: what it counts is not lost.
        """
        process = shared.begin()
        visits = process.counter("visits_total")
        make = visits._make

        def interrupted(key: SeriesKey, block: Any) -> Any:
            monkeypatch.setattr(visits, "_make", make)
            assert process.capture.renew()
            return make(key, block)

        monkeypatch.setattr(visits, "_make", interrupted)
        late = visits.labels(user="late")
        shared.beat()
        late.inc(3)
        shared.beat()

        assert lines(process, "visits_total") == {'{user="late"}': 3}

    def test_without_room_for_another_file(self, shared: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        On a full disk everything stays where it is, and is tidied up as soon as there is room again.
        """
        process = shared.begin()
        count(process, "ann")

        def full(*_: Any) -> Any:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as without:
            without.setattr(LiveDirectory, "create", full)
            shared.wait(LONG_SECONDS)
            assert lines(process, "visits_total") == {'{user="ann"}': 1}
            count(process, "ann", 2)
            assert lines(process, "visits_total") == {'{user="ann"}': 3}
        shared.wait(LONG_SECONDS)

        assert lines(process, "visits_total") == {}
        assert process.capture_state.mode == "directory"

    def test_a_child_goes_its_own_way(self, shared: Service) -> None:
        """
        In a forked child what the parent has left behind is the parent's.
        """
        process = shared.begin()
        count(process, "ann", 3)
        process.capture.renew()
        assert len(process.capture.closed) == 1

        process.after_fork()
        count(process, "ann", 2)

        assert process.capture.closed == set()
        assert lines(process, "visits_total") == {'{user="ann"}': 5}


class TestLivingForEver:
    @pytest.mark.slow  # hundreds of series an hour
    def test_labels_that_rotate(self, shared: Service) -> None:
        """
        New label sets without end: files, directory and totals stay as small as after the first two hours, and none has to share
        the overflow series. ``RFS_FULL=1`` makes a hundred a minute for three days, CI twenty for eight hours.
        """
        process = shared.begin()
        assert shared.directory is not None
        live = shared.directory / "live"
        made = 0

        def busy() -> None:
            nonlocal made
            for _ in range(500 if FULL else 100):
                made += 1
                process.counter(f"visits_{made % 5}_total").inc(1, user=f"user {made}")

        def size() -> tuple[int, int, int]:
            return (
                len(process.registry.cells.regions),
                sum(file.stat().st_size for file in live.iterdir()),
                process.registry.series_count,
            )

        largest: list[tuple[int, int, int]] = []
        for _ in range(36 if FULL else 4):
            shared.wait(7_200, busy)
            largest.append(size())

        assert made >= len(largest) * 2_300
        for later in zip(*largest[1:], strict=True):
            assert max(later) <= 1.5 * min(later)
        assert len(process.registry.cells.regions) < 10
        assert largest[-1][1] < 32 << 20
        totals = process.query.totals()
        assert not any(("rfs_overflow", "true") in key.labels for key in totals.counters)
        assert len(totals.counters) < 10_000


class TestPrometheus:
    def test_both_readings(self, shared: Service, tmp_path: Path) -> None:
        """
        Prometheus' own ``increase`` over a series that was forgotten and came back is what was counted: not the sum twice.
        """
        promtool = shutil.which("promtool")
        if promtool is None:
            pytest.skip("promtool is not here")
        process = shared.begin()
        seen: list[str] = []
        counted: list[int] = []

        def scrape(times: int) -> None:
            for _ in range(times):
                value = lines(process, "visits_total").get('{user="ann"}')
                seen.append("_" if value is None else f"{value:.0f}")
                shared.clock.advance(ROUND_SECONDS)
                shared.beat()

        for burst in (9, 4):  # then a smaller sum than the last one, and then a larger
            process.counter("visits_total").labels(user="ann").inc(0)
            scrape(1)
            count(process, "ann", burst)
            counted.append(burst)
            scrape(round(LONG_SECONDS / ROUND_SECONDS) + 2)

        assert "_" in seen
        rules = tmp_path / "test.yml"
        at = (len(seen) - 1) * 5
        rules.write_text(
            f"""\
evaluation_interval: 5m
tests:
- interval: 5m
  input_series:
  - series: 'visits_total{{user="ann"}}'
    values: '{" ".join(seen)}'
  promql_expr_test:
  - expr: 'round(sum(increase(visits_total[{at + 5}m])))'
    eval_time: {at}m
    exp_samples:
    - labels: '{{}}'
      value: {sum(counted)}
"""
        )
        done = subprocess.run([promtool, "test", "rules", str(rules)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
