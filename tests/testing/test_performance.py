"""
Assertions on speed, growth and memory: what they say, how that reads, and that they are right on a machine that is busy.

Most of it runs on a machine that is made up: a clock that goes on by what operations take, and as disturbed as a test likes.
The reruns at the end are of this one, beside a process that takes the same core.
"""

from __future__ import annotations

import asyncio
import gc
import os
import platform
import re
import subprocess
import sys
import tracemalloc
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import lru_cache
from itertools import count, pairwise
from math import isnan
from pathlib import Path
from random import Random
from statistics import median
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfs.core.result import Failure, Result, Success
from rfs.reactive.mono_result import MonoResult
from rfs.testing import performance
from rfs.testing._statistics import LOOKS, Interval, median_interval, settled
from rfs.testing.performance import (
    CannotTellWarning,
    Order,
    PerformanceTestHelper,
    Verdict,
    assert_baseline,
    assert_growth,
    assert_latency,
    assert_no_leak,
    assert_not_slower,
    assert_peak_memory,
    assert_throughput,
    fit_growth,
    measure_memory,
    record_baseline,
    reference_workload,
)
from tests.faults.processes import FAR_SECONDS, ROOT, environment, size
from tests.testing.conftest import Virtual
from tests.testing.programs.wrong import seen


class Machine:
    """
    A clock, and operations that let it go on.

    Args:
        interrupted: How many times a second, for some milliseconds.
        scatter: By how much, relative, calls differ otherwise.
    """

    def __init__(self, *, interrupted: float = 0.0, scatter: float = 0.0, seed: int = 0) -> None:
        self.now = 0.0
        self._interrupted, self._scatter, self._chance = interrupted, scatter, Random(seed)

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        """Let a call take so long, and what disturbs it."""
        if self._scatter:
            seconds *= self._chance.lognormvariate(0, self._scatter)
        if self._chance.random() < self._interrupted * seconds:
            seconds += self._chance.expovariate(1 / 0.003)
        self.now += seconds

    def operation(self, seconds: float) -> Callable[[], None]:
        """What takes so long."""
        return lambda: self.spend(seconds)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """An undisturbed machine, on which the reference takes what it takes on the machine of calibrated seconds."""
    made = Machine()
    install(made, monkeypatch)
    return made


def install(machine: Machine, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(performance, "perf_counter", machine)
    patch.setattr(performance, "process_time", machine)
    patch.setattr(performance, "reference_workload", machine.operation(performance.REFERENCE_SECONDS))


def message(assertion: Callable[[], object]) -> str:
    """How *assertion* fails."""
    with pytest.raises(AssertionError) as caught:
        assertion()
    assert seen(caught.value) == []
    return str(caught.value)


class Noted(Machine):
    """A machine whose clock notes when it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[float] = []

    def __call__(self) -> float:
        self.read.append(self.now)
        return self.now

    def batches(self, seconds: float) -> list[int]:
        """How many calls of so many *seconds* each batch had."""
        return [round((end - begin) / seconds) for begin, end in zip(self.read[::2], self.read[1::2], strict=True)]


def baseline(machine: Machine, directory: Path) -> Path:
    """A file in which "work" is known as what takes as long as its reference."""
    path = directory / "known.json"
    record_baseline(machine.operation(0.25), "work", path, reference=machine.operation(0.25))
    return path


# Each assertion on an operation of a quarter of a second that is within its limit, with a reference of the same, or without.
QUARTER: dict[str, Callable[[Callable[[], Any], Callable[[], Any], Path, dict[str, Any]], performance.Comparison]] = {
    "latency": lambda ours, _, __, options: assert_latency(ours, at_most_seconds=0.25, calibrated=False, **options),
    "throughput": lambda ours, _, __, options: assert_throughput(
        ours, at_least_per_second=4, calibrated=False, **options
    ),
    "not slower": lambda ours, theirs, _, options: assert_not_slower(ours, theirs, by=0.0, **options),
    "baseline": lambda ours, theirs, path, options: assert_baseline(
        ours, "work", path, by=0.0, reference=theirs, **options
    ),
}


class TestEachComparison:
    @pytest.mark.parametrize("name", QUARTER)
    def test_exactly_the_limit_is_within(self, name: str, machine: Machine, tmp_path: Path) -> None:
        """
        What takes just as long as it may is within; a series takes ten seconds at the most, if nothing else is said.
        """
        path = baseline(machine, tmp_path)
        quarter, has_reference = machine.operation(0.25), name in {"not slower", "baseline"}

        found = QUARTER[name](quarter, quarter, path, {})

        assert found.verdict is Verdict.WITHIN
        assert found.rounds == (20 if has_reference else 40)
        assert found.operation_seconds == 0.25
        assert found.reference_seconds == (0.25 if has_reference else None)
        assert found.measured == (Interval(1.0, 1.0, 1.0) if has_reference else Interval(0.25, 0.25, 0.25))
        assert found.limit == (1.0 if has_reference else 0.25)

    @pytest.mark.parametrize(("seconds", "rounds"), [(0, 1), (1.9, 4), (2, 4), (2.1, 5)])
    @pytest.mark.parametrize("name", QUARTER)
    def test_takes_no_longer_than_it_may(
        self, name: str, seconds: float, rounds: int, machine: Machine, tmp_path: Path
    ) -> None:
        """
        Rounds begin until the time is over, at least one; of so few it cannot be told, which is a warning, or a failure if asked for.
        """
        path = baseline(machine, tmp_path)
        eighth, options = machine.operation(0.25), {"max_seconds": seconds}
        if name in {"latency", "throughput"}:
            options["max_seconds"] = seconds / 2

        with pytest.warns(CannotTellWarning, match=r"^cannot tell: ") as told:
            found = QUARTER[name](eighth, eighth, path, options)

        assert (found.verdict, found.rounds) == (Verdict.CANNOT_TELL, rounds)
        assert [Path(each.filename).name for each in told] == [Path(__file__).name]
        assert message(lambda: QUARTER[name](eighth, eighth, path, {**options, "strict": True})) == (
            f"cannot tell, and strict: {str(told[0].message).removeprefix('cannot tell: ')}"
        )

    @pytest.mark.parametrize("name", ["latency", "throughput", "not slower"])
    def test_cpu_time_is_asked_for(self, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """
        The clock on the wall stands, and that of the processor goes on; or the other way round.
        """
        for cpu in (True, False):
            going, standing = Machine(), Noted()
            monkeypatch.setattr(performance, "process_time", going if cpu else standing)
            monkeypatch.setattr(performance, "perf_counter", standing if cpu else going)
            quarter = going.operation(0.25)

            found = QUARTER[name](quarter, quarter, tmp_path, {"cpu": True} if cpu else {})

            assert found.verdict is Verdict.WITHIN
            assert standing.read == []

    def test_kinds_of_time_are_told(self, machine: Machine) -> None:
        """
        Calibrated or of the clock, of the processor or not.
        """
        slow = machine.operation(0.25)

        def latency(*, calibrated: bool, cpu: bool) -> str:
            told = message(lambda: assert_latency(slow, at_most_seconds=0.1, calibrated=calibrated, cpu=cpu))
            return "".join(re.findall(r"rounds\) of (.*), allowed are 100 ms\n", told))

        def throughput(*, calibrated: bool, cpu: bool) -> str:
            told = message(lambda: assert_throughput(slow, at_least_per_second=1e6, calibrated=calibrated, cpu=cpu))
            calls = r"4 \(between 4 and 4, \d+ rounds\) calls are done, asked are 1,000,000\n"
            return "".join(re.findall(rf"^in a (.*) {calls}", told))

        kinds = [(False, False), (False, True), (True, False), (True, True)]
        assert [latency(calibrated=calibrated, cpu=cpu) for calibrated, cpu in kinds] == [
            "time",
            "CPU time",
            "calibrated time",
            "calibrated CPU time",
        ]
        assert [throughput(calibrated=calibrated, cpu=cpu) for calibrated, cpu in kinds] == [
            "second",
            "CPU second",
            "calibrated second",
            "calibrated CPU second",
        ]

    def test_what_the_clock_said_is_told(self, machine: Machine) -> None:
        """
        Without a reference nothing is said of one.
        """
        assert message(lambda: assert_latency(machine.operation(0.25), at_most_seconds=0.1, calibrated=False)) == (
            "a call takes 250 ms (between 250 ms and 250 ms, 40 rounds) of time, allowed are 100 ms\n  here a call takes 250 ms"
        )

    def test_calibrated_limit(self, machine: Machine) -> None:
        """
        The limit is kept in calls of the reference, which takes 45 µs on the machine that seconds are of.
        """
        assert performance.REFERENCE_SECONDS == 45e-6
        assert assert_latency(machine.operation(45e-6), at_most_seconds=90e-6).limit == pytest.approx(2)
        assert assert_throughput(machine.operation(45e-6), at_least_per_second=10_000).limit == pytest.approx(1 / 0.45)


class TestBatches:
    @pytest.mark.parametrize(
        ("seconds", "tried", "times"),
        [
            (2**-20, [1, 8, 64, 512], 1049),
            (2**-16, [1, 8, 16, 32], 66),
            (2**-13, [1, 2, 4], 8),
            (2**-12, [1, 2], 4),
            (2**-11, [1], 2),
            (2**-10, [1], 1),
            (2**-7, [1], 1),
            # Exactly where it is long enough, where it is nearly, and where it says enough; and a little less.
            (0.00025, [1], 4),
            (0.0000625, [1, 8], 16),
            (0.00006, [1, 8], 17),
            (0.008, [1], 1),
        ],
    )
    def test_last_a_millisecond(
        self, seconds: float, tried: list[int], times: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        Some batches are tried until one lasts long enough, and nine more like it; all others then last a millisecond, or one call.
        """
        noted = Noted()
        install(noted, monkeypatch)

        assert_latency(noted.operation(seconds), at_most_seconds=1.0, calibrated=False)

        assert noted.batches(seconds) == [*tried, *[tried[-1]] * 9, *[times] * LOOKS[0]]

    @pytest.mark.parametrize("seconds", [0.0085, 2**-6])
    def test_of_slow_calls_none_is_tried_again(self, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        One that takes more than eight milliseconds says enough.
        """
        noted = Noted()
        install(noted, monkeypatch)

        assert_latency(noted.operation(seconds), at_most_seconds=1.0, calibrated=False)

        assert noted.batches(seconds) == [1, *[1] * LOOKS[0]]

    def test_the_quickest_try_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        What was slow when it was tried, and is not later, has the batches of what it is.
        """
        noted = Noted()
        install(noted, monkeypatch)
        calls = count()

        def warms_up() -> None:
            noted.spend(2**-13 * (4 if next(calls) < 6 else 1))

        assert_latency(warms_up, at_most_seconds=1.0, calibrated=False)

        assert noted.batches(2**-13)[-LOOKS[0] :] == [8] * LOOKS[0]

    @pytest.mark.parametrize("seconds", [2**-20, 2**-13, 2**-9, 2**-6])
    def test_both_sides_last_equally_long(self, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A call of the longer one, and as many of the shorter.
        """
        noted = Noted()
        install(noted, monkeypatch)

        assert_not_slower(noted.operation(seconds), noted.operation(2**-9), by=100)

        lasted = [end - begin for begin, end in zip(noted.read[::2], noted.read[1::2], strict=True)][-2 * LOOKS[0] :]
        assert lasted == [max(seconds, 2**-9)] * len(lasted)

    def test_batches_are_fitted_again(self, machine: Machine) -> None:
        """
        Where the operation is another one than it was when it was tried, the reference's batches come to last as long as its own.
        """
        began = machine.now
        order: list[tuple[str, float]] = []

        def changes() -> None:
            order.append(("ours", machine.now))
            machine.spend(2**-10 if machine.now - began < 0.05 else 2**-7)

        def steady() -> None:
            order.append(("theirs", machine.now))
            machine.spend(2**-10)

        assert_not_slower(changes, steady, by=100)

        sides = "".join("o" if side == "ours" else "t" for side, _ in order)
        assert max(map(len, re.findall("t+", sides[-200:]))) >= 8

    def test_batches_are_fitted_to_what_is_quicker(self, machine: Machine) -> None:
        """
        Where the operation is quicker than when it was tried, batches of the reference become as short as its own.
        """
        began = machine.now
        sides: list[str] = []

        def warms_up() -> None:
            sides.append("o")
            machine.spend(2**-7 if machine.now - began < 0.15 else 2**-10)

        def steady() -> None:
            sides.append("t")
            machine.spend(2**-10)

        assert_not_slower(warms_up, steady, by=100)

        assert max(map(len, re.findall("t+", "".join(sides[-60:])))) <= 2


class TestLatency:
    def test_within(self, machine: Machine) -> None:
        """
        What takes less than its limit passes, and the answer says what was measured.
        """
        found = assert_latency(machine.operation(90e-6), at_most_seconds=100e-6)

        assert found.verdict is Verdict.WITHIN
        assert found.operation_seconds == pytest.approx(90e-6)
        assert found.reference_seconds == pytest.approx(performance.REFERENCE_SECONDS)
        assert found.rounds == LOOKS[0]

    def test_message(self, machine: Machine) -> None:
        """
        A failure says what was measured and how surely, the limit, and what the clock said.
        """
        assert message(lambda: assert_latency(machine.operation(120e-6), at_most_seconds=100e-6)) == (
            "a call takes 120 µs (between 120 µs and 120 µs, 128 rounds) of calibrated time, allowed are 100 µs\n"
            "  here a call takes 120 µs, one of the reference 45 µs"
        )

    def test_slow_machine_cancels_out(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        On a machine that is three times as slow the limit is three times as long; without calibration it is not.
        """
        monkeypatch.setattr(performance, "reference_workload", machine.operation(3 * performance.REFERENCE_SECONDS))

        assert assert_latency(machine.operation(270e-6), at_most_seconds=100e-6).verdict is Verdict.WITHIN
        assert "takes 270 µs (between 270 µs and 270 µs, 128 rounds) of time, allowed" in message(
            lambda: assert_latency(machine.operation(270e-6), at_most_seconds=100e-6, calibrated=False)
        )

    def test_cpu_time(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Where CPU time is asked for, what waits takes none.
        """
        cpu = Machine()
        monkeypatch.setattr(performance, "process_time", cpu)
        monkeypatch.setattr(performance, "reference_workload", cpu.operation(performance.REFERENCE_SECONDS))

        def works_and_waits() -> None:
            machine.spend(0.010)
            cpu.spend(50e-6)

        assert_latency(works_and_waits, at_most_seconds=60e-6, cpu=True)
        assert "of calibrated CPU time" in message(
            lambda: assert_latency(works_and_waits, at_most_seconds=40e-6, cpu=True)
        )

    def test_too_few_rounds(self, machine: Machine) -> None:
        """
        What takes so long that few rounds fit into the time allowed gives no interval, and is told and not failed.
        """
        with pytest.warns(CannotTellWarning, match=r"takes 4 s \(of 2 rounds, too few for an interval\)"):
            found = assert_latency(machine.operation(4.0), at_most_seconds=1.0)

        assert found.verdict is Verdict.CANNOT_TELL


class TestThroughput:
    def test_within(self, machine: Machine) -> None:
        """
        A call of 90 µs is done more than 11,000 times a second.
        """
        assert assert_throughput(machine.operation(90e-6), at_least_per_second=11_000).verdict is Verdict.WITHIN

    def test_message(self, machine: Machine) -> None:
        """
        A failure counts calls a second, the lower bound first.
        """
        assert message(lambda: assert_throughput(machine.operation(100e-6), at_least_per_second=20_000)) == (
            "in a calibrated second 10,000 (between 10,000 and 10,000, 128 rounds) calls are done, asked are 20,000\n"
            "  here a call takes 100 µs, one of the reference 45 µs"
        )

    def test_too_few_rounds(self, machine: Machine) -> None:
        """
        Without an interval there are no bounds to turn over.
        """
        with pytest.warns(CannotTellWarning, match=r"second 0 \(of 2 rounds, too few"):
            assert_throughput(machine.operation(4.0), at_least_per_second=1)


class TestNotSlower:
    def test_message(self, machine: Machine) -> None:
        """
        A failure gives the ratio to what it was compared with.
        """
        assert message(lambda: assert_not_slower(machine.operation(120e-6), machine.operation(100e-6))) == (
            "a call takes 1.2× (between 1.2× and 1.2×, 128 rounds) the time of its reference, allowed are 1.1×\n"
            "  here a call takes 120 µs, one of the reference 100 µs"
        )

    def test_either_may_be_quicker(self, machine: Machine) -> None:
        """
        Batches are of equal length whatever a call takes: 0.1 ms against 30 ms, and the other way round.
        """
        for one, other in ((1e-4, 0.030), (0.030, 1e-4)):
            before = machine.now
            found = assert_not_slower(machine.operation(one), machine.operation(other), by=1_000)
            assert found.measured.median == pytest.approx(one / other)
            # 64 rounds of two batches of 30 ms, and some tries.
            assert machine.now - before == pytest.approx(64 * 0.060, rel=0.05)

    def test_alarm_must_be_raised_twice(self, machine: Machine) -> None:
        """
        What was slow for a while, and is not when it is measured again, is no regression.
        """
        began = machine.now

        def recovers() -> None:
            machine.spend(150e-6 if machine.now - began < 0.2 else 100e-6)

        found = assert_not_slower(recovers, machine.operation(100e-6))

        assert machine.now - began > 0.2
        assert found.measured.median == pytest.approx(1.0)

    def test_at_the_limit(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        What lies exactly at its limit is never decided: it is told, and failed only if that was asked for.
        """
        noisy = Machine(scatter=0.1)
        install(noisy, monkeypatch)

        with pytest.warns(CannotTellWarning, match=r"^cannot tell: a call takes 1.*3072 rounds") as told:
            found = assert_not_slower(noisy.operation(110e-6), noisy.operation(100e-6))

        assert found.verdict is Verdict.CANNOT_TELL
        assert [Path(each.filename).name for each in told] == [Path(__file__).name]
        assert message(
            lambda: assert_not_slower(noisy.operation(110e-6), noisy.operation(100e-6), strict=True)
        ).startswith("cannot tell, and strict: a call takes 1")


class TestDisturbedMachine:
    @pytest.mark.parametrize(("interrupted", "scatter"), [(0, 0.05), (300, 0.02), (600, 0.02)])
    def test_is_right_all_the_same(self, interrupted: float, scatter: float, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Of 100 reruns each, no unchanged code is an alarm and at least 95 of what is a fifth slower are, where calls scatter and
        a quarter of the batches or nearly half are interrupted, for longer than they take.
        """
        alarms = caught = 0
        for seed in range(100):
            noisy = Machine(interrupted=interrupted, scatter=scatter, seed=seed)
            install(noisy, monkeypatch)
            usual = noisy.operation(100e-6)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", CannotTellWarning)
                try:
                    assert_not_slower(noisy.operation(100e-6), usual)
                except AssertionError:
                    alarms += 1
                try:
                    assert_not_slower(noisy.operation(120e-6), usual)
                except AssertionError:
                    caught += 1

        assert alarms == 0
        assert caught >= 95

    def test_a_slower_state_of_the_processor(self, machine: Machine) -> None:
        """
        While the processor is slower for everybody, and not by the same share for all, its rounds do not count.
        """

        def in_state(seconds: float, slower: float) -> Callable[[], None]:
            return lambda: machine.spend(seconds * (slower if machine.now % 0.3 < 0.14 else 1.0))

        found = assert_not_slower(in_state(100e-6, 2.2), in_state(100e-6, 1.7))

        assert found.measured.median == pytest.approx(1.0)

    def test_order_is_left_to_chance(self, machine: Machine) -> None:
        """
        Either side is the first of a round about as often, in no fixed turn, and each time in the same one.
        """
        order: list[str] = []

        def noted(name: str) -> Callable[[], None]:
            def call() -> None:
                order.append(name)
                machine.spend(0.002)

            return call

        assert_not_slower(noted("a"), noted("b"), by=0.5)

        rounds = ["".join(order[at : at + 2]) for at in range(len(order) - 2 * LOOKS[0], len(order), 2)]
        assert set(rounds) == {"ab", "ba"}
        assert 16 < rounds.count("ab") < 48
        assert len({one + other for one, other in pairwise(rounds)}) == 4
        before = [*order]
        order.clear()
        assert_not_slower(noted("a"), noted("b"), by=0.5)
        assert order == before


class TestStatistics:
    @given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=200))
    def test_interval_holds_its_median(self, values: list[float]) -> None:
        """
        The median lies in its interval, whose ends are measurements; from too few there is no end.
        """
        known = median_interval(values)

        assert known.low <= known.median <= known.high
        assert known.median == median(values)
        if len(values) >= 14:
            assert {known.low, known.high} <= set(values)
        else:
            assert known == Interval(known.median, -float("inf"), float("inf"))

    def test_interval_is_right(self) -> None:
        """
        Of 4,000 intervals, whatever the distribution, at most a handful miss the true median, and more rounds narrow them.
        """
        chance = Random(7)
        missed, widths = 0, dict[int, list[float]]()
        for rounds in (LOOKS[0], LOOKS[-1]):
            for _ in range(2_000 if rounds == LOOKS[0] else 200):
                known = median_interval([chance.paretovariate(1.2) for _ in range(rounds)])
                missed += not known.low <= 2 ** (1 / 1.2) <= known.high
                widths.setdefault(rounds, []).append(known.high - known.low)

        assert missed <= 4
        assert median(widths[LOOKS[-1]]) < median(widths[LOOKS[0]]) / 2

    @pytest.mark.parametrize(
        ("rounds", "left_out"),
        [
            (14, 0),
            (17, 0),
            (18, 1),
            (64, 16),
            (96, 29),
            (128, 42),
            (192, 69),
            (384, 155),
            (768, 332),
            (1536, 694),
            (3072, 1432),
        ],
    )
    def test_how_many_are_left_out(self, rounds: int, left_out: int) -> None:
        """
        By the sign test, of an error of one in ten thousand on either side: so many at each end, as in tables of the binomial.
        """
        assert median_interval([float(number) for number in range(rounds)]) == (
            (rounds - 1) / 2,
            left_out,
            rounds - 1 - left_out,
        )

    @pytest.mark.parametrize("rounds", [1, 2, 13])
    def test_too_few_say_nothing(self, rounds: int) -> None:
        """
        Thirteen are the most of which no interval can be made.
        """
        assert median_interval([2.0] * rounds) == (2.0, -float("inf"), float("inf"))

    def test_a_fifth_slower_is_settled(self) -> None:
        """
        A block counts while its second quickest round is at most a fifth slower than that of the best; the last may be a short one.
        """
        ratios = [float(number) for number in range(18)]
        best, slower, slow = [1.0] * 8, [0.5, 1.2, *[9.0] * 6], [0.5, 1.25, *[9.0] * 6]

        assert settled(ratios, [*best, *slower, 1.2, 3.0]) == [*ratios[:16]]
        assert settled(ratios, [*best, *slow, 1.0, 1.0]) == [*ratios[:8], *ratios[16:]]
        assert settled(ratios[:17], [*best, *slow, 1.2]) == [*ratios[:8], ratios[16]]
        assert settled([7.0], [1.0]) == [7.0]
        assert settled(ratios[:16], [*[0.5] * 8, *[0.61] * 8]) == [*ratios[:8]]

    def test_settled(self) -> None:
        """
        Blocks in which most of the reference's rounds are slow are left out; single ones that are interrupted are not.
        """
        calm, slow = [1.0] * 8, [1.75] * 8
        interrupted = [1.0, 9.0, 1.0, 1.0, 9.0, 1.0, 1.0, 1.0]
        ratios = [float(number) for number in range(27)]

        assert settled(ratios, [*calm, *slow, *interrupted, *[1.1] * 3]) == [*ratios[:8], *ratios[16:]]


class TestAwaited:
    def test_async_function(self, machine: Machine, virtual: Virtual) -> None:
        """
        An operation that is to be awaited makes the assertion one, and is timed as it runs in the test's own loop.
        """

        async def work() -> None:
            machine.spend(120e-6)

        async def test() -> None:
            await assert_latency(work, at_most_seconds=130e-6)
            with pytest.raises(AssertionError, match="takes 120 µs") as caught:
                await assert_latency(work, at_most_seconds=100e-6)
            assert seen(caught.value) == []

        virtual(test())

    def test_chain(self, machine: Machine, virtual: Virtual) -> None:
        """
        So does a lambda that gives a chain; what it is compared with may be plain.
        """

        async def cook() -> Result[str, str]:
            machine.spend(100e-6)
            return Success("rice")

        async def test() -> None:
            chain = MonoResult.from_async_result(cook)
            found = await assert_not_slower(lambda: chain, machine.operation(100e-6))
            assert found.operation_seconds == pytest.approx(100e-6)

        virtual(test())

    def test_reference_alone(self, machine: Machine, virtual: Virtual) -> None:
        """
        A plain operation may be compared with one that is to be awaited.
        """

        async def work() -> None:
            machine.spend(100e-6)

        async def test() -> None:
            answer: Any = assert_not_slower(machine.operation(120e-6), work)
            with pytest.raises(AssertionError, match=r"1\.2×"):
                await answer

        virtual(test())


class TestFailingOperation:
    def test_error_passes(self) -> None:
        """
        What an operation raises is raised, and the collector and tracemalloc are as they were.
        """
        calls = count()

        def breaks() -> None:
            if next(calls) == 30:
                raise LookupError("no rice")

        with pytest.raises(LookupError, match="no rice"):
            assert_no_leak(breaks)

        assert gc.isenabled()
        assert not tracemalloc.is_tracing()

    def test_async_error_passes(self, virtual: Virtual) -> None:
        """
        Awaited, too.
        """
        calls = count()

        async def breaks() -> None:
            if next(calls) == 30:
                raise LookupError("no rice")

        async def test() -> None:
            with pytest.raises(LookupError, match="no rice"):
                await assert_no_leak(breaks)

        virtual(test())
        assert gc.isenabled()
        assert not tracemalloc.is_tracing()

    def test_exhausted_iterator_is_no_end(self, machine: Machine) -> None:
        """
        An operation whose iterator is at its end has failed; it has not ended the measurement.
        """
        few = iter(range(10))

        def takes() -> None:
            next(few)
            machine.spend(100e-6)

        with pytest.raises(StopIteration):
            assert_latency(takes, at_most_seconds=1.0)

    def test_collector_stays_off(self, machine: Machine) -> None:
        """
        Who has switched the collector off finds it off.
        """
        gc.disable()
        try:
            assert_latency(machine.operation(1e-3), at_most_seconds=1.0)
            assert not gc.isenabled()
        finally:
            gc.enable()


class TestBaseline:
    def test_recorded_and_kept(self, machine: Machine, tmp_path: Path) -> None:
        """
        A baseline is a ratio, so it holds on a machine that is half as fast.
        """
        path = tmp_path / "baselines.json"
        reference = machine.operation(50e-6)

        known = record_baseline(machine.operation(100e-6), "orders", path, reference=reference)
        found = assert_baseline(machine.operation(200e-6), "orders", path, reference=machine.operation(100e-6))

        assert known.median == pytest.approx(2.0)
        assert found.verdict is Verdict.WITHIN

    def test_message(self, machine: Machine, tmp_path: Path) -> None:
        """
        A failure names the baseline, and how many times it the call takes.
        """
        path = tmp_path / "baselines.json"
        reference = machine.operation(50e-6)
        record_baseline(machine.operation(100e-6), "orders", path, reference=reference)

        assert message(lambda: assert_baseline(machine.operation(120e-6), "orders", path, reference=reference)) == (
            "baseline 'orders': a call takes 1.2× (between 1.2× and 1.2×, 128 rounds) its baseline, allowed are 1.1×\n"
            "  here a call takes 120 µs, one of the reference 50 µs"
        )

    def test_file(self, machine: Machine, tmp_path: Path) -> None:
        """
        Baselines stand in JSON, sorted, by interpreter, processor and version of the reference; a text is as good as a path.
        """
        path = tmp_path / "baselines.json"
        eighth = machine.operation(0.125)
        record_baseline(machine.operation(0.25), "주문", str(path), reference=eighth)
        record_baseline(machine.operation(0.125), "a", path, reference=eighth, cpu=True)

        here = f"cpython-{sys.version_info.major}.{sys.version_info.minor}-{platform.machine()}-reference-1"
        assert path.read_text(encoding="utf-8") == dedent(
            f"""\
            {{
              "{here}": {{
                "a": {{
                  "cpu": true,
                  "ratio": 1.0
                }},
                "주문": {{
                  "cpu": false,
                  "ratio": 2.0
                }}
              }}
            }}
            """
        )
        assert assert_baseline(machine.operation(0.25), "주문", str(path), reference=eighth).limit == pytest.approx(2.2)

    @pytest.mark.parametrize(("options", "took"), [({}, 3), ({"max_seconds": 1}, 1)])
    def test_recording_takes_its_time(
        self, options: dict[str, Any], took: float, machine: Machine, tmp_path: Path
    ) -> None:
        """
        Three seconds, if nothing else is said, however plain it is; of what is quick, 3,072 rounds.
        """
        began = machine.now
        known = record_baseline(
            machine.operation(2**-5), "slow", tmp_path / "b.json", reference=machine.operation(2**-5), **options
        )
        spent = machine.now - began
        calls = count()

        def quick() -> None:
            next(calls)
            machine.spend(2**-12)

        record_baseline(quick, "quick", tmp_path / "b.json", reference=machine.operation(2**-12), max_seconds=100)

        assert known.median == 1
        assert spent == pytest.approx(took, abs=0.15)
        assert 4 * LOOKS[-1] <= next(calls) <= 4 * LOOKS[-1] + 50

    def test_missing(self, tmp_path: Path) -> None:
        """
        A name without a baseline fails, and says what makes one.
        """
        said = message(lambda: assert_baseline(reference_workload, "orders", tmp_path / "none.json"))

        assert re.fullmatch(
            r"no baseline 'orders' for cpython-3\.\d+-\w+-reference-1 in .*none\.json: "
            r"record_baseline\(operation, 'orders', …\) makes it",
            said,
        )

    @pytest.mark.parametrize("content", ["[]", "{", '{"here": {"orders": {"ratio": 0, "cpu": false}}}'])
    def test_damaged(self, tmp_path: Path, content: str) -> None:
        """
        A file that holds no baselines is refused, and not overwritten.
        """
        path = tmp_path / "baselines.json"
        path.write_text(content)

        with pytest.raises(ValueError, match=rf"^baselines: {re.escape(str(path))} holds something else: .") as caught:
            assert_baseline(reference_workload, "orders", path)
        assert caught.value.__cause__ is None
        with pytest.raises(ValueError, match="holds something else"):
            record_baseline(reference_workload, "orders", path, max_seconds=0.01)
        assert path.read_text() == content

    def test_others_stay(self, machine: Machine, tmp_path: Path) -> None:
        """
        Recording one leaves those of other names and environments, and no other file.
        """
        path = tmp_path / "baselines.json"
        path.write_text('{"elsewhere": {"orders": {"ratio": 7.5, "cpu": true}}}')
        reference = machine.operation(50e-6)

        record_baseline(machine.operation(100e-6), "menu", path, reference=reference)
        record_baseline(machine.operation(200e-6), "orders", path, reference=reference)

        assert '"ratio": 7.5' in path.read_text()
        assert_baseline(machine.operation(100e-6), "menu", path, reference=reference)
        assert_baseline(machine.operation(200e-6), "orders", path, reference=reference)
        assert [each.name for each in tmp_path.iterdir()] == ["baselines.json"]

    def test_kind_of_time_is_remembered(
        self, machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """
        What was recorded in CPU time is measured in CPU time.
        """
        cpu = Machine()
        monkeypatch.setattr(performance, "process_time", cpu)
        path = tmp_path / "baselines.json"
        reference = cpu.operation(50e-6)
        record_baseline(cpu.operation(100e-6), "orders", path, reference=reference, cpu=True)

        def waits_longer() -> None:
            machine.spend(10.0)
            cpu.spend(100e-6)

        assert assert_baseline(waits_longer, "orders", path, reference=reference).verdict is Verdict.WITHIN


class TestReference:
    def test_never_changes_its_answer(self) -> None:
        """
        To which each part of the work adds something.
        """
        assert reference_workload() == reference_workload() == 10_464


class TestShown:
    @pytest.mark.parametrize(
        ("seconds", "shown"),
        [
            (0.0, "0 ns"), (1e-10, "0.1 ns"), (9.99e-7, "999 ns"), (1e-6, "1 µs"), (9.994e-4, "999 µs"), (1e-3, "1 ms"),
            (0.1234, "123 ms"), (0.999, "999 ms"), (1.0, "1 s"), (90.0, "90 s"), (-0.002, "-2 ms"),
        ],
    )  # fmt: skip
    def test_seconds(self, seconds: float, shown: str) -> None:
        """
        In the unit that leaves one to three digits before the point.
        """
        known = Interval(1.0, 1.0, 1.0)
        found = performance.Comparison(Verdict.WITHIN, known, 1.0, 64, seconds, None)

        assert found.beside() == f"here a call takes {shown}"
        assert (
            found._replace(reference_seconds=2 * seconds)
            .beside()
            .startswith(f"here a call takes {shown}, one of the ref")
        )

    @pytest.mark.parametrize(
        ("size", "shown"),
        [
            (0, "0 bytes"), (0.25, "0.25 bytes"), (1, "1 bytes"), (99.94, "99.9 bytes"), (100, "100 bytes"), (-99.94, "-99.9 bytes"),
            (1023, "1023 bytes"), (1024, "1 KiB"), (-2048, "-2 KiB"), (1 << 20, "1 MiB"), (3.5 * (1 << 20), "3.5 MiB"),
        ],
    )  # fmt: skip
    def test_bytes(self, size: float, shown: str) -> None:
        """
        So are bytes, of which there are 1,024 to the next unit.
        """
        assert performance._bytes(size) == shown

    def test_comparison(self) -> None:
        """
        The median, its interval, and of how many rounds; or that they were too few.
        """
        found = performance.Comparison(Verdict.WITHIN, Interval(1.5, 1.25, 2.0), 3.0, 64, 1.0, None)

        assert found.shown(lambda value: f"{value}x") == "1.5x (between 1.25x and 2.0x, 64 rounds)"
        few = found._replace(measured=Interval(1.5, -float("inf"), float("inf")), rounds=13)
        assert few.shown(lambda value: f"{value}x") == "1.5x (of 13 rounds, too few for an interval)"


GROWING: dict[Order, Callable[[int], float]] = {
    "1": lambda n: 3e-6,
    "log n": lambda n: 1e-6 * n.bit_length(),
    "n": lambda n: 2e-6 + 1e-8 * n,
    "n log n": lambda n: 1e-8 * n * n.bit_length(),
    "n²": lambda n: 1e-6 + 1e-10 * n * n,
    "n³": lambda n: 1e-13 * n**3,
}
SIZES = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)


def exactly(seconds: float, by: float = 0.001) -> Interval:
    return Interval(seconds, seconds * (1 - by), seconds * (1 + by))


class TestGrowth:
    @pytest.mark.parametrize("order", GROWING)
    def test_order_is_found(self, order: Order) -> None:
        """
        Each order is told from its neighbours, its own limit is kept, and the next lower one is not.
        """
        measured = [exactly(GROWING[order](each)) for each in SIZES]
        orders = list(GROWING)

        found = fit_growth(SIZES, measured, order)

        assert found.order == order
        assert found.verdict is Verdict.WITHIN
        for lower in orders[: orders.index(order)]:
            # A constant and log n, n and n log n are neighbours that a part of them may pass for.
            assert fit_growth(SIZES, measured, lower).verdict in {Verdict.BEYOND, Verdict.CANNOT_TELL}
        if orders.index(order) > 1:
            assert fit_growth(SIZES, measured, orders[orders.index(order) - 2]).verdict is Verdict.BEYOND

    @given(st.integers(0, 10_000), st.sampled_from(list(GROWING)))
    def test_noise_is_no_order(self, seed: int, order: Order) -> None:
        """
        Errors of measurement that the interval knows of never let an order be beyond itself.
        """
        chance = Random(seed)
        measured = [exactly(GROWING[order](each) * chance.uniform(0.94, 1.06), 0.2) for each in SIZES]

        assert fit_growth(SIZES, measured, order).verdict is not Verdict.BEYOND

    def test_too_noisy(self) -> None:
        """
        Where times are known within half of themselves, it cannot be told.
        """
        measured = [exactly(GROWING["n"](each), 0.5) for each in SIZES]

        assert fit_growth(SIZES, measured, "n").verdict is Verdict.CANNOT_TELL

    @pytest.mark.parametrize(
        ("seconds", "at_most", "verdict", "order"),
        [
            # Times that are 9 % off a straight line in turns, and 11 %.
            ([0.91e-6, 2 * 1.09e-6, 4 * 0.91e-6, 8 * 1.09e-6], "n", Verdict.WITHIN, "n"),
            ([0.8e-6, 2 * 1.2e-6, 4 * 0.8e-6, 8 * 1.2e-6], "n", Verdict.CANNOT_TELL, "n log n"),
            ([1e-6, 1e-6, 1e-6, 1e-6], "1", Verdict.WITHIN, "1"),
            ([1e-6, 2e-6, 4e-6, 8e-6], "1", Verdict.BEYOND, "n"),
            ([1e-6, 4e-6, 16e-6, 64e-6], "n log n", Verdict.BEYOND, "n²"),
            ([1e-6, 8e-6, 64e-6, 512e-6], "n²", Verdict.BEYOND, "n³"),
            ([8e-6, 4e-6, 2e-6, 1e-6], "n", Verdict.CANNOT_TELL, "1"),
            # Nothing fits, and what is allowed is 2.5 times as far off as what is nearest.
            ([0.75e-6, 4 * 1.25e-6, 16 * 0.75e-6, 64 * 1.25e-6], "n log n", Verdict.BEYOND, "n²"),
        ],
    )
    def test_what_fits(self, seconds: list[float], at_most: Order, verdict: Verdict, order: Order) -> None:
        """
        What comes within a tenth fits; what is further from every order cannot be told, for another one is not twice as near.
        """
        found = fit_growth((100, 200, 400, 800), [exactly(each) for each in seconds], at_most)

        assert (found.verdict, found.order) == (verdict, order)
        assert found.sizes == (100, 200, 400, 800)
        assert found.seconds == tuple(seconds)
        assert found.noise == pytest.approx(0.002 / 8)

    def test_how_far_off_each_order_is(self) -> None:
        """
        The root mean square of the relative errors of the best a + b·f(n), here of 9 + 3n; a search over all a and b finds these.
        """
        sizes = (10, 20, 40, 80)
        wanted = {"1": 0.53516, "log n": 0.39805, "n": 0.0, "n log n": 0.04440, "n²": 0.17381, "n³": 0.27381}

        for unit in (1e-9, 1e-6, 1.0, 1e6):  # whichever is measured in
            found = fit_growth(sizes, [exactly((9 + 3 * size) * unit) for size in sizes], "n")

            assert found.misfits == {order: pytest.approx(misfit, abs=0.00001) for order, misfit in wanted.items()}

    def test_no_order_falls(self) -> None:
        """
        Of times that fall, all orders are as far off as the constant that is nearest, for no part of them is negative.
        """
        found = fit_growth((10, 20, 40, 80), [exactly(seconds) for seconds in (8e-6, 4e-6, 2e-6, 1e-6)], "n")

        assert found.misfits == dict.fromkeys(GROWING, pytest.approx(0.58158, abs=0.00001))

    def test_just_as_far_off_as_may_be(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        What is off by exactly the share that is allowed fits, and what is noisy by exactly that can be told.
        """
        off = [Interval(each, each, each) for each in (0.8, 2 * 1.2, 4 * 0.8, 8 * 1.2)]
        noisy = [Interval(1.0, 0.5, 1.3)] * 4
        monkeypatch.setattr(performance, "_MISFIT", fit_growth((100, 200, 400, 800), off, "n").misfits["n"])
        found = fit_growth((100, 200, 400, 800), off, "n")
        monkeypatch.setattr(performance, "_MISFIT", fit_growth((100, 200, 400, 800), noisy, "n").noise)

        assert (found.verdict, found.order) == (Verdict.WITHIN, "n")
        assert fit_growth((100, 200, 400, 800), noisy, "n").verdict is Verdict.WITHIN

    def test_what_does_not_belong_together(self) -> None:
        """
        Each size has its time: another number of them is refused, also by what shows them.
        """
        grown = performance.Growth(Verdict.WITHIN, "n", (8, 16), (1e-6,), {"n": 0.0}, 0.0)

        for count_of_times in (3, 5):
            with pytest.raises(ValueError, match=r"zip\(\)"):
                fit_growth((1, 2, 3, 4), [exactly(1.0)] * count_of_times, "n")
        with pytest.raises(ValueError, match=r"zip\(\)"):
            str(grown)

    def test_noise_widens_what_fits(self) -> None:
        """
        An order that is off by three times the noise fits; where the noise is more than a tenth, it cannot be told all the same.
        """
        off = [0.8e-6, 2 * 1.2e-6, 4 * 0.8e-6, 8 * 1.2e-6]

        def found(noise: float) -> Verdict:
            measured = [Interval(each, each * (1 - 4 * noise), each * (1 + 4 * noise)) for each in off]
            return fit_growth((100, 200, 400, 800), measured, "n").verdict

        assert [found(noise) for noise in (0.05, 0.075, 0.099, 0.101)] == [
            Verdict.CANNOT_TELL,
            Verdict.WITHIN,
            Verdict.WITHIN,
            Verdict.CANNOT_TELL,
        ]

    def test_shown(self) -> None:
        """
        A line per size, how far off each order is, and the noise.
        """
        grown = performance.Growth(
            Verdict.WITHIN, "n", (8, 1_048_576), (1e-6, 0.25), {"1": 0.5, "n": 0.004, "n²": 1.5}, 0.0123
        )

        assert str(grown) == ("           8  1 µs\n   1,048,576  250 ms\n  off by 1: 50%, n: 0%, n²: 150%; noise 1.2%")

    def test_defaults(self, machine: Machine) -> None:
        """
        Sizes of two powers of ten, handed to the operation as they are, for ten seconds at the most; in so few rounds any order fits.
        """
        sizes: set[int] = set()

        def work(size: int) -> None:
            sizes.add(size)
            machine.spend(size * 2**-15)

        began = machine.now
        with pytest.warns(CannotTellWarning, match=r"^cannot tell: the time grows with 1, allowed is n²\n") as told:
            found = assert_growth(work, at_most="n²")

        assert found.sizes == SIZES
        assert sizes == set(SIZES)
        # What is tried first, and rounds of a second until the ten are over.
        assert machine.now - began == pytest.approx(12, abs=1)
        assert [Path(each.filename).name for each in told] == [Path(__file__).name]
        assert message(lambda: assert_growth(work, at_most="n²", strict=True)).startswith(
            "cannot tell, and strict: the"
        )

    def test_cpu_time(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Where CPU time is asked for, the clock on the wall is not read.
        """
        wall = Noted()
        monkeypatch.setattr(performance, "perf_counter", wall)

        found = assert_growth(lambda n: machine.spend(1e-6 * n), at_most="n", sizes=(16, 64, 256, 1024), cpu=True)

        assert found.order == "n"
        assert wall.read == []

    def test_alarm_must_be_raised_twice(self, machine: Machine) -> None:
        """
        What grew too fast for a while, and does not when it is measured again, is no regression.
        """
        began = machine.now

        def recovers(size: int) -> None:
            machine.spend(1e-8 * size * (size if machine.now - began < 0.25 else 100))

        assert assert_growth(recovers, at_most="n", sizes=(16, 64, 256, 1024)).verdict is Verdict.WITHIN
        assert machine.now - began > 0.5

    def test_within(self, machine: Machine) -> None:
        """
        What reads a list once is linear; the list is made once a size, and is not part of it.
        """
        made: list[int] = []

        def prepare(number: int) -> list[int]:
            made.append(number)
            machine.spend(1.0)
            return [0] * number

        found = assert_growth(
            lambda values: machine.spend(1e-7 * len(values)), at_most="n", sizes=(16, 64, 256, 1024), prepare=prepare
        )

        assert found.order == "n"
        assert found.seconds == pytest.approx([1e-7 * each for each in (16, 64, 256, 1024)])
        assert made == [16, 64, 256, 1024]

    @pytest.mark.parametrize(("seconds", "rounds"), [(0, 1), (1.9, 1), (2, 1), (2.1, 2), (4, 2)])
    def test_takes_no_longer_than_it_may(
        self, seconds: float, rounds: int, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        Rounds, here of two seconds, begin until the time is over, at least one.
        """
        monkeypatch.setattr(performance, "reference_workload", machine.operation(0.25))
        called: dict[int, int] = {}

        def work(size: int) -> None:
            called[size] = called.get(size, 0) + 1
            machine.spend(0.25)

        with pytest.warns(CannotTellWarning):
            assert_growth(work, at_most="n", sizes=(1, 2, 3, 4), max_seconds=seconds)

        # The first call shows what it is, and the second how long it takes.
        assert called == dict.fromkeys((1, 2, 3, 4), 2 + rounds)

    def test_order_is_left_to_chance(self, machine: Machine) -> None:
        """
        Sizes are taken in another order each round, and in the same ones each time.
        """

        def order() -> list[int]:
            sizes: list[int] = []

            def work(size: int) -> None:
                sizes.append(size)
                machine.spend(0.01)

            assert_growth(work, at_most="n", sizes=(1, 2, 3, 4))
            return sizes[8:]

        taken = order()

        rounds = [tuple(taken[at : at + 4]) for at in range(0, len(taken), 4)]
        assert {tuple(sorted(each)) for each in rounds} == {(1, 2, 3, 4)}
        assert len(rounds) == 16  # the first look is enough
        assert len(set(rounds)) > 8
        assert order() == taken

    def test_measures_no_longer_than_it_must(self, machine: Machine) -> None:
        """
        Where the growth is plain, the ten seconds that may be taken are not; and where none may, it is not looked at again.
        """

        def takes(max_seconds: float = 10.0) -> float:
            began = machine.now
            assert_growth(
                lambda n: machine.spend(1e-7 * n), at_most="n", sizes=(16, 64, 256, 1024), max_seconds=max_seconds
            )
            return machine.now - began

        plain = takes()
        with pytest.warns(CannotTellWarning):
            at_once = takes(max_seconds=0.0)

        assert plain < 5
        assert at_once < plain / 2

    def test_message(self, machine: Machine) -> None:
        """
        A failure says how it grows, with what was measured at each size, and how far off each order is.
        """
        said = message(
            lambda: assert_growth(lambda n: machine.spend(1e-8 * n * n), at_most="n log n", sizes=(16, 64, 256, 1024))
        )

        assert said.splitlines()[:5] == [
            "the time grows with n², allowed is n log n",
            "          16  2.56 µs",
            "          64  41 µs",
            "         256  655 µs",
            "       1,024  10.5 ms",
        ]
        assert re.fullmatch(r"  off by 1: \d+%, .*, n²: 0%, n³: \d+%; noise 0\.0%", said.splitlines()[5])

    def test_misuse(self) -> None:
        """
        Too few sizes, falling ones, and an order that there is not are refused with what is allowed.
        """
        wrong: Any = "n^2"
        with pytest.raises(ValueError, match=r"at least four, positive and rising, not \[1, 2, 3\]"):
            assert_growth(sum, at_most="n", sizes=(1, 2, 3))
        for sizes in ((1, 2, 4, 3), (1, 2, 2, 3), (0, 1, 2, 3), ()):
            told = f"growth: sizes must be at least four, positive and rising, not {[*sizes]}"
            with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
                assert_growth(sum, at_most="n", sizes=sizes)
        with pytest.raises(
            ValueError, match=r"^growth: at_most must be one of 1, log n, n, n log n, n², n³, not 'n\^2'$"
        ):
            assert_growth(sum, at_most=wrong)


KEPT: list[object] = []


class TestMemory:
    @pytest.fixture(autouse=True)
    def nothing_kept(self) -> Generator[None]:
        yield
        KEPT.clear()

    def test_peak(self) -> None:
        """
        What one call holds at once is counted to the byte, nearly.
        """
        peak = assert_peak_memory(lambda: bytearray(1 << 20), at_most_bytes=(1 << 20) + 10_000)

        assert peak >= 1 << 20
        assert not tracemalloc.is_tracing()

    def test_peak_message(self) -> None:
        """
        A failure says what was held, and the limit.
        """
        assert message(lambda: assert_peak_memory(lambda: bytearray(1 << 20), at_most_bytes=65_536)) == (
            "a call holds up to 1 MiB at once, allowed are 64 KiB"
        )

    def test_leak_message(self) -> None:
        """
        A failure names the line that allocated what is left, and how much a call leaves.
        """
        said = message(lambda: assert_no_leak(lambda: KEPT.append(bytes(1_000)), calls=400))

        first, second = said.splitlines()[:2]
        assert re.fullmatch(
            r"a call leaves 1\.\d+ KiB behind, allowed are 1 bytes; of 400 calls, there are left", first
        )
        assert re.fullmatch(rf"  4\d\d KiB of {re.escape(__file__)}:\d+", second)

    def test_small_leak(self) -> None:
        """
        A leak of eight bytes a call is found, though a list grows in steps that are far apart.
        """
        assert re.match(
            r"a call leaves \d(\.\d+)? bytes behind", message(lambda: assert_no_leak(lambda: KEPT.append(None)))
        )

    def test_caches_are_no_leak(self) -> None:
        """
        What is kept once, a cache that fills, and rings that the collector takes are none.
        """
        numbers = count()

        @lru_cache(maxsize=300)
        def cached(number: int) -> list[int]:
            return [number] * 100

        def ring() -> None:
            held: list[object] = []
            held.append(held)

        assert assert_no_leak(lambda: cached(next(numbers))) < 1
        assert assert_no_leak(ring) < 1

    def test_measured(self) -> None:
        """
        What is measured without a limit is the same.
        """
        found = measure_memory(lambda: KEPT.append(bytes(10_000)), calls=100)

        assert found.peak_bytes >= 10_000
        assert found.bytes_per_call == pytest.approx(10_000, rel=0.1)
        assert found.is_growing

    @pytest.mark.parametrize(
        ("held", "slope", "grows"),
        [
            ([1, 2, 3, 4, 5, 6, 7], 1, False),
            ([1, 2, 3, 4, 5, 6, 7, 8], 1, True),
            ([8, 7, 6, 5, 4, 3, 2, 1], -1, False),
            ([5] * 20, 0, False),
            ([0, *[100] * 19], 0, False),
            ([0, 1, 1, 1, 1, 2, 4, 4, 4, 5], 0.5, False),
            ([0, 2, 2, 3, 3, 4, 4, 5, 5], 0.5, True),
            ([0, 0, 3, 3, 3, 3, 3, 5, 5, 5, 5, 5], 0.4, False),
            ([0, 0, 0, 1, 0, 1, 2, 2, 2, 2, 2, 2, 2, 2], 1 / 6, False),
            ([0, 1, 1, 2, 4, 2, 5, 5, 5, 5, 5], 0.5, True),
            ([0, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 5, 5, 5], 2 / 9, True),
            ([0, 1, 2, 1, 2, 2, 4, 4, 5, 5], 5 / 9, True),
        ],
    )
    def test_trend(self, held: list[float], slope: float, grows: bool) -> None:
        """
        The slope of Theil and Sen, and the test of Mann and Kendall for values that are equal, too, near its limit.
        """
        found, is_growing = performance._trend(held)

        assert found == pytest.approx(slope)
        assert is_growing is grows

    @pytest.mark.parametrize(("calls", "made"), [(1, 20), (20, 20), (39, 20), (40, 40), (100, 100)])
    def test_how_often_it_is_called(self, calls: int, made: int) -> None:
        """
        So many times as were asked for, in twenty parts; and a few times before, to warm up and for its peak.
        """
        called = count()

        measure_memory(lambda: next(called), calls=calls)
        measured = next(called)
        assert_no_leak(lambda: next(called), calls=calls)

        assert measured - made == 5
        assert next(called) - measured - 1 - made == 2

    def test_thousand_calls_by_default(self) -> None:
        """
        For what is measured and for what is asserted.
        """
        called = count()
        measure_memory(lambda: next(called))
        assert next(called) == 1005
        assert_no_leak(lambda: next(called))
        assert next(called) == 1006 + 1002

    def test_leak_that_is_allowed(self) -> None:
        """
        A byte a call, if nothing else is said; or as many as are.
        """
        assert 999 < assert_no_leak(lambda: KEPT.append(bytes(1000)), calls=100, at_most_bytes_per_call=2000) < 1200
        assert "allowed are 1 bytes;" in message(lambda: assert_no_leak(lambda: KEPT.append(bytes(1000)), calls=100))
        assert "allowed are 900 bytes;" in message(
            lambda: assert_no_leak(lambda: KEPT.append(bytes(1000)), calls=100, at_most_bytes_per_call=900)
        )

    def test_three_lines_are_named(self) -> None:
        """
        Of four lines that keep something, those that keep most, the most first.
        """

        def leaks() -> None:
            KEPT.append(bytes(1000))
            KEPT.append(bytes(4000))
            KEPT.append(bytes(3000))
            KEPT.append(bytes(2000))

        lines = message(lambda: assert_no_leak(leaks, calls=100)).splitlines()[1:]

        first = leaks.__code__.co_firstlineno
        assert [re.sub(r"^  .* of ", "", line) for line in lines] == [f"{__file__}:{first + at}" for at in (2, 3, 4)]

    def test_lines_that_did_not_grow_are_not_named(self) -> None:
        """
        What was there before, and is there still, is no leak.
        """
        tracemalloc.start()
        try:
            KEPT.append(bytes(3000))
            before = tracemalloc.take_snapshot()
            KEPT.append(bytes(2000))
            lines = performance._left(before).splitlines()
        finally:
            tracemalloc.stop()

        here = TestMemory.test_lines_that_did_not_grow_are_not_named.__code__.co_firstlineno
        assert lines[0].endswith(f" of {__file__}:{here + 8}")
        assert [each for each in lines if each.startswith("  0 bytes") or each.endswith(f":{here + 6}")] == []

    def test_collector_is_left_as_it_was(self) -> None:
        """
        What somebody else has frozen stays so; what is frozen for a measurement is not afterwards.
        """
        measure_memory(lambda: None, calls=20)
        assert gc.get_freeze_count() == 0
        gc.freeze()
        try:
            frozen = gc.get_freeze_count()
            measure_memory(lambda: None, calls=20)
            assert gc.get_freeze_count() >= frozen - 100
        finally:
            gc.unfreeze()

    def test_tracing_stays_on(self) -> None:
        """
        Who traces memory goes on tracing it.
        """
        tracemalloc.start()
        try:
            measure_memory(lambda: None, calls=20)
            assert tracemalloc.is_tracing()
        finally:
            tracemalloc.stop()


class TestHelper:
    def test_mono(self, virtual: Virtual) -> None:
        """
        A chain that succeeds within its limit is fine.
        """

        async def cook() -> Result[str, str]:
            return Success("rice")

        async def test() -> dict[str, Any]:
            helper = PerformanceTestHelper()
            measured = await helper.measure_mono_performance(MonoResult.from_async_result(cook), 60_000)
            helper.assert_performance(measured)
            return measured

        measured = virtual(test())

        assert measured["success"] is True
        assert measured["error"] is None
        assert measured["is_within_limit"] is True
        assert 0 < measured["duration_ms"] < measured["max_duration_ms"] == 60_000

    @pytest.mark.parametrize(("limit", "is_within"), [(250, True), (249, False)])
    def test_mono_is_measured(self, limit: float, is_within: bool, machine: Machine, virtual: Virtual) -> None:
        """
        In milliseconds; what takes just as long as it may is within its limit.
        """

        async def burn() -> Result[str, str]:
            machine.spend(0.25)
            return Failure("burnt")

        measured = virtual(PerformanceTestHelper().measure_mono_performance(MonoResult.from_async_result(burn), limit))

        assert measured == {
            "duration_ms": 250,
            "max_duration_ms": limit,
            "is_within_limit": is_within,
            "success": False,
            "error": "burnt",
        }

    def test_each_fault_is_told(self) -> None:
        """
        What took too long, what failed, or both; of neither nothing is said.
        """
        helper = PerformanceTestHelper()
        fine = {"duration_ms": 12.3456, "max_duration_ms": 20, "is_within_limit": True, "success": True, "error": None}

        helper.assert_performance(fine)
        assert message(lambda: helper.assert_performance({**fine, "is_within_limit": False})) == (
            "it took 12.3 ms, allowed are 20 ms"
        )
        assert message(lambda: helper.assert_performance({**fine, "success": False, "error": "x"})) == "it failed: 'x'"
        assert (
            message(
                lambda: helper.assert_performance({**fine, "is_within_limit": False, "success": False, "error": "x"})
            )
            == "it took 12.3 ms, allowed are 20 ms\nit failed: 'x'"
        )

    def test_defaults(self, virtual: Virtual) -> None:
        """
        A hundred calls, ten at once; a hundred requests in a second, ten under way.
        """
        at_once, most = 0, 0

        async def work() -> None:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0.5)
            at_once -= 1

        helper = PerformanceTestHelper()
        called = virtual(helper.measure_async_operation(work))
        most_called, most = most, 0
        loaded = virtual(helper.load_test(work))

        assert (called.total_iterations, most_called) == (100, 10)
        assert called.requests_per_second == pytest.approx(100 / 5)
        assert (loaded.total_iterations, most) == (100, 10)
        # The last is meant to begin after 0.99 s, and is done when ten times ten have taken half a second each.
        assert loaded.max_duration_ms == pytest.approx(5090 - 990, abs=100)
        assert loaded.average_duration_ms == pytest.approx(2300)

    def test_memory_of_a_hundred(self, virtual: Virtual) -> None:
        """
        If nothing else is said.
        """
        called = count()

        async def work() -> None:
            next(called)

        virtual(PerformanceTestHelper().measure_memory_usage(work))

        assert next(called) == 105

    def test_mono_message(self, virtual: Virtual) -> None:
        """
        One that fails, and takes too long, is told with both.
        """

        async def burn() -> Result[str, str]:
            return Failure("burnt")

        async def test() -> dict[str, Any]:
            return await PerformanceTestHelper().measure_mono_performance(MonoResult.from_async_result(burn), 0)

        said = message(lambda: PerformanceTestHelper().assert_performance(virtual(test())))

        assert re.fullmatch(r"it took [\d.e-]+ ms, allowed are 0 ms\nit failed: 'burnt'", said)

    def test_operation(self, virtual: Virtual) -> None:
        """
        Many calls, so many at once: durations, the share of successes, and how many a second.
        """
        numbers = count(1)

        async def work() -> Result[int, str]:
            number = next(numbers)
            await asyncio.sleep(0.100)
            return Success(number) if number % 10 else Failure("tenth")

        measured = virtual(PerformanceTestHelper().measure_async_operation(work, iterations=100, max_concurrent=20))

        assert measured.total_iterations == 100
        assert measured.average_duration_ms == pytest.approx(100)
        assert measured.p95_duration_ms == pytest.approx(100)
        assert measured.max_duration_ms == pytest.approx(100)
        assert measured.success_rate == pytest.approx(0.9)
        assert measured.requests_per_second == pytest.approx(90 / 0.5)

    def test_load(self, virtual: Virtual) -> None:
        """
        Durations of a load count from when a request was meant to begin.
        """

        async def work() -> None:
            await asyncio.sleep(0.040)

        measured = virtual(
            PerformanceTestHelper().load_test(work, total_requests=50, concurrent_requests=1, duration_seconds=1.0)
        )

        # Each is 20 ms later than the one before, for one takes 40 ms and they come every 20.
        assert measured.total_iterations == 50
        assert measured.max_duration_ms == pytest.approx(40 + 49 * 20)
        assert measured.p95_duration_ms == pytest.approx(40 + 47 * 20, rel=0.01)
        longer = virtual(PerformanceTestHelper().load_test(work, total_requests=10, duration_seconds=2.5))
        assert (longer.total_iterations, longer.requests_per_second) == (10, pytest.approx(10 / (2.25 + 0.04)))
        assert measured.success_rate == 1.0

    def test_of_no_calls(self, virtual: Virtual) -> None:
        """
        Nothing is known, and none was done.
        """

        async def work() -> None:
            """Never called."""

        measured = virtual(PerformanceTestHelper().measure_async_operation(work, iterations=0))

        assert (measured.total_iterations, measured.requests_per_second) == (0, 0.0)
        assert all(isnan(each) for each in measured[1:5])

    def test_memory(self, virtual: Virtual) -> None:
        """
        Memory in MiB: what a call holds, and what all have left.
        """

        async def work() -> None:
            KEPT.append(bytes(1 << 16))

        measured = virtual(PerformanceTestHelper().measure_memory_usage(work, iterations=40))
        KEPT.clear()

        assert measured.peak_memory_mb == pytest.approx(1 / 16, rel=0.1)
        assert measured.memory_growth_mb == pytest.approx(40 / 16, rel=0.1)


CORE = max(os.sched_getaffinity(0))
BUSY = f"import os\nos.sched_setaffinity(0, {{{CORE}}})\nwhile True: sum(range(10_000))"


@contextmanager
def busy(beside: bool) -> Generator[None]:
    """A process that takes all it can get of the core that the reruns use."""
    if not beside:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        yield
        assert process.poll() is None  # it was there all the time
    finally:
        process.kill()
        process.wait(FAR_SECONDS)


@pytest.mark.slow
class TestReruns:
    @pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a busy process"])
    def test_no_false_alarm_and_each_regression(
        self, beside: bool, tmp_path: Path, record_property: Callable[[str, object], None]
    ) -> None:
        """
        Rerun in 100 processes (20 in CI), unchanged code is never an alarm, and a fifth slower it is one at least 95 times.

        Slow because each rerun is a process of its own: within one, memory lies the same every time.
        """
        reruns = size(whole=100, small=20)
        baseline = tmp_path / "baselines.json"
        core = [str(CORE)] if beside else []

        def run(what: str) -> list[str]:
            done = subprocess.run(
                [sys.executable, "-m", "tests.testing.programs.rerun", what, str(baseline), *core],
                cwd=ROOT,
                env=environment(),
                capture_output=True,
                text=True,
                check=False,
                timeout=2 * FAR_SECONDS,
            )
            assert done.returncode == 0, done.stderr
            return done.stdout.splitlines()

        run("record")
        with busy(beside):
            unchanged, slower = zip(*(run("check") for _ in range(reruns)), strict=True)

        told = sum(each.startswith("told") for each in unchanged)
        caught = sum(each.startswith("beyond") for each in slower)
        record_property("reruns", f"{reruns}: {told} could not be told, {caught} regressions caught")
        assert [each for each in unchanged if each.startswith("beyond")] == []
        assert caught >= 0.95 * reruns, "\n".join(each for each in slower if not each.startswith("beyond"))
