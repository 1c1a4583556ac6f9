"""
What tests say about speed, growth and memory, so that it fails when the code got worse and not when the machine is busy.

How a comparison works
    Operation and reference run in turns, in short batches of the same length and in random order, and each round gives the
    ratio of both. Whatever the machine does meanwhile meets both, so it widens the scatter and does not move the median
    (Chen and Revels: Robust benchmarking in noisy environments, 2016; Kalibera and Jones: Rigorous benchmarking in
    reasonable time, 2013). Rounds in which the reference shows that the processor itself was slower for a while are left
    out. Rounds are added until the median's interval (`rfs.testing._statistics`) lies on one side of the limit. An alarm is
    believed when fresh rounds, at least 128, raise it once more; else what they say counts.

What it says
    `Verdict.WITHIN`, `Verdict.BEYOND`, or `Verdict.CANNOT_TELL` after 3,072 rounds or *max_seconds*. The last is a warning,
    `CannotTellWarning`, and a failure only with ``strict=True``.

What does not cancel out
    A neighbour that takes what the reference does not need: the reference is a bit of everyday Python, hence a poor one for
    code that lives on memory bandwidth or on a disk. Compare such code with something of its kind (`assert_not_slower`), or
    hand its like as ``reference=``. And one process lays its memory out unlike the next, which moves a ratio by some
    percent (Mytkowicz et al.: Producing wrong data without doing anything obviously wrong, 2009), so a limit that is nearer
    than 5 % to what is usual is none.

The operation of an ``assert_…`` is a plain function, or one whose answer is to be awaited: then so is the assertion.
Two measurements at once, in two threads or tasks, measure each other.
"""

from __future__ import annotations

import gc
import platform
import sys
import tracemalloc
import warnings
from array import array
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from functools import partial
from itertools import combinations, pairwise
from math import inf, log2, nan, sqrt
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter, process_time
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import msgspec

from rfs.core.result import AnyResult, Success
from rfs.monitoring._capture.sketch import Sketch
from rfs.testing._batches import Batch, Plan, measurement
from rfs.testing._messages import describe, fail
from rfs.testing._snapshots import write_at_once
from rfs.testing._statistics import LOOKS, Interval, median_interval, settled
from rfs.testing.load import LoadReport, generate_load, run_at_once

__all__ = [
    "REFERENCE_SECONDS",
    "CannotTellWarning",
    "Comparison",
    "Growth",
    "Interval",
    "MeasuredMemory",
    "MeasuredOperation",
    "Memory",
    "Order",
    "PerformanceTestHelper",
    "Verdict",
    "assert_baseline",
    "assert_growth",
    "assert_latency",
    "assert_no_leak",
    "assert_not_slower",
    "assert_peak_memory",
    "assert_throughput",
    "fit_growth",
    "measure_memory",
    "record_baseline",
    "reference_workload",
]

REFERENCE_SECONDS = 45e-6
"""What one `reference_workload` takes on the machine that calibrated seconds are those of."""

_BATCH_SECONDS = 0.001  # far above what a clock costs, and below the slice that a scheduler gives a process
_LEAST_SECONDS = 1e-9  # of a batch, which a coarse clock may not see
_TRIES = 9  # of which the quickest sets the sizes of batches
_RESIZED = 16  # rounds after which batches are made of the same length again
_CONFIRMING = tuple(look for look in LOOKS if look >= 128)
_REFERENCE_VERSION = 1  # grows when `reference_workload` changes: ratios to another one are no baseline


class CannotTellWarning(UserWarning):
    """A measurement was too disturbed, or too close to its limit, to say on which side it lies."""


class Verdict(Enum):
    """What a measurement says of its limit."""

    WITHIN = "within"
    BEYOND = "beyond"
    CANNOT_TELL = "cannot tell"


class Comparison(NamedTuple):
    """
    How an operation did against its limit.

    ``measured`` and ``limit`` are ratios where it ran against a reference, else seconds a call.
    """

    verdict: Verdict
    measured: Interval
    limit: float
    rounds: int
    operation_seconds: float  # a call, as the clock had it here
    reference_seconds: float | None

    def shown(self, unit: Callable[[float], str]) -> str:
        """Say what was measured, between what it lies, and of how many rounds."""
        if self.measured.high == inf:
            return f"{unit(self.measured.median)} (of {self.rounds} rounds, too few for an interval)"
        low, high = unit(self.measured.low), unit(self.measured.high)
        return f"{unit(self.measured.median)} (between {low} and {high}, {self.rounds} rounds)"

    def beside(self) -> str:
        """Say what the clock said."""
        ran = f"here a call takes {_seconds(self.operation_seconds)}"
        if self.reference_seconds is None:
            return ran
        return f"{ran}, one of the reference {_seconds(self.reference_seconds)}"


class _Entry:
    __slots__ = ("key", "total")

    def __init__(self, key: int) -> None:
        self.key = key
        self.total = 0.0

    def add(self, value: float) -> float:
        self.total += value
        return self.total


def reference_workload() -> int:
    """
    A bit of everyday Python: calls, objects, tuples, dicts, texts and a sort. Never changes its answer.

    No dict has texts for keys: where their hashes fall differs by process, and by 15 % what such a dict takes.
    """
    entries = [_Entry(number) for number in range(120)]
    for number in range(200):
        entries[0].add(number * 0.5)
    counts: dict[int, int] = {}
    for number in range(150):
        counts[number % 37] = counts.get(number % 37, 0) + 1
    ranked = sorted(counts.items(), key=lambda each: each[1])
    text = ",".join([f"k{number}" for number in range(100)])
    pairs: list[tuple[int, int]] = []
    for entry in entries:
        pairs.append((entry.key, entry.key + 1))  # noqa: PERF401 - a loop is what it is for
    # Something of each part, so that none can change unseen.
    return dict(pairs)[entries[-1].key] + ranked[-1][1] + len(text) + int(entries[0].total)


# Comparing


class _Sized(NamedTuple):
    call: Callable[[], Any]
    times: int  # that make a batch
    seconds: float  # a call, undisturbed

    def as_long_as(self, other: _Sized) -> _Sized:
        """Make its batches at least as long as one call of *other*."""
        return self._replace(times=max(self.times, round(other.seconds / self.seconds)))


def _sized(call: Callable[[], Any], clock: Callable[[], float]) -> Plan[_Sized]:
    """Find how many calls make a batch, which also warms them up."""
    times = 1
    while (seconds := (yield Batch(call, times, clock))) < _BATCH_SECONDS / 4:
        times *= 2 if seconds > _BATCH_SECONDS / 16 else 8
    for _ in range(_TRIES):
        if seconds > 8 * _BATCH_SECONDS:
            break
        seconds = min(seconds, (yield Batch(call, times, clock)))
    each = max(seconds, _LEAST_SECONDS) / times
    return _Sized(call, max(1, round(_BATCH_SECONDS / each)), each)


class _Rounds(NamedTuple):
    """What the rounds gave, one item each; without a reference, ``ratios`` are the seconds themselves."""

    ratios: list[float]
    ours: list[float]
    theirs: list[float]

    def interval(self) -> Interval:
        return median_interval(settled(self.ratios, self.theirs))


def _rounds(
    operation: _Sized,
    reference: _Sized | None,
    looks: Sequence[int],
    max_seconds: float,
    clock: Callable[[], float],
    is_enough: Callable[[Interval], bool],
) -> Plan[_Rounds]:
    """Run rounds until what is known of their median is enough, at one of the *looks*; at least one."""
    # The order of the two is left to chance, so that they meet nothing that comes and goes in step with them.
    chance = Random(0)  # noqa: S311 - guards nothing
    done, spent, beside = _Rounds([], [], []), 0.0, 1
    for look in looks:
        while len(done.ratios) < look and (spent < max_seconds or not done.ratios):
            if reference is not None and len(done.ratios) % _RESIZED == 0:
                # As long as the other's, for the longer a batch is the more often it is interrupted.
                ours, theirs = min(done.ours, default=operation.seconds), min(done.theirs, default=reference.seconds)
                beside = max(1, round(operation.times * ours / theirs))
            ours, theirs = 0.0, 1.0
            is_first = chance.random() < 0.5
            if is_first:
                ours = yield Batch(operation.call, operation.times, clock)
            if reference is not None:
                took = yield Batch(reference.call, beside, clock)
                spent += took
                theirs = max(took, _LEAST_SECONDS) / beside
            if not is_first:
                ours = yield Batch(operation.call, operation.times, clock)
            spent += ours
            done.ours.append(max(ours, _LEAST_SECONDS) / operation.times)
            done.theirs.append(theirs)
            done.ratios.append(done.ours[-1] / done.theirs[-1])
        if spent >= max_seconds or is_enough(done.interval()):
            break
    return done


def _compare(
    operation: Callable[[], Any],
    reference: Callable[[], Any] | None,
    limit: float,
    *,
    cpu: bool,
    max_seconds: float,
) -> Plan[Comparison]:
    clock = process_time if cpu else perf_counter
    ours = yield from _sized(operation, clock)
    theirs = None
    if reference is not None:
        theirs = yield from _sized(reference, clock)
        ours = ours.as_long_as(theirs)

    def verdict(known: Interval) -> Verdict:
        if known.low > limit:
            return Verdict.BEYOND
        return Verdict.WITHIN if known.high <= limit else Verdict.CANNOT_TELL

    def compared(looks: Sequence[int]) -> Plan[Comparison]:
        done = yield from _rounds(
            ours, theirs, looks, max_seconds, clock, lambda known: verdict(known) is not Verdict.CANNOT_TELL
        )
        known = done.interval()
        beside = median(done.theirs) if theirs else None
        return Comparison(verdict(known), known, limit, len(done.ratios), median(done.ours), beside)

    found = yield from compared(LOOKS)
    if found.verdict is Verdict.BEYOND:
        found = yield from compared(_CONFIRMING)
    return found


def _judge(verdict: Verdict, message: Callable[[], str], *, strict: bool) -> None:
    __tracebackhide__ = True
    if verdict is Verdict.WITHIN:
        return
    if verdict is Verdict.BEYOND:
        fail(message())
    if strict:
        fail(f"cannot tell, and strict: {message()}")
    warnings.warn(f"cannot tell: {message()}", CannotTellWarning, stacklevel=5)


def _seconds(value: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"


def _times(value: float) -> str:
    return f"{value:.3g}×"


@measurement
def assert_latency(
    operation: Callable[[], Any],
    *,
    at_most_seconds: float,
    calibrated: bool = True,
    cpu: bool = False,
    max_seconds: float = 10.0,
    strict: bool = False,
) -> Plan[Comparison]:
    """
    A call takes at most so long, in the median.

    Args:
        operation: Called some thousand times, if it is quick; what it leaves behind is the caller's matter.
        at_most_seconds: The limit.
        calibrated:
            Seconds of a machine on which `reference_workload` takes `REFERENCE_SECONDS`, so a slow or busy one is none the
            worse. False: seconds of the clock, for what waits rather than works.
        cpu: Of the process's CPU time, all threads together, instead of the clock on the wall.
        max_seconds: How long one series of rounds may take; an alarm takes two.
        strict: Fail also if it cannot be told.

    Raises:
        AssertionError: It takes longer.
    """
    __tracebackhide__ = True
    scale = REFERENCE_SECONDS if calibrated else 1.0
    found = yield from _compare(
        operation, reference_workload if calibrated else None, at_most_seconds / scale, cpu=cpu, max_seconds=max_seconds
    )

    def message() -> str:
        kind = ("calibrated " if calibrated else "") + ("CPU " if cpu else "") + "time"
        measured = found.shown(lambda value: _seconds(value * scale))
        return f"a call takes {measured} of {kind}, allowed are {_seconds(at_most_seconds)}\n  {found.beside()}"

    _judge(found.verdict, message, strict=strict)
    return found


@measurement
def assert_throughput(
    operation: Callable[[], Any],
    *,
    at_least_per_second: float,
    calibrated: bool = True,
    cpu: bool = False,
    max_seconds: float = 10.0,
    strict: bool = False,
) -> Plan[Comparison]:
    """
    One caller gets so many calls done in a second; the arguments are those of `assert_latency`.

    Of many callers at once, `rfs.testing.load` tells.

    Raises:
        AssertionError: They are fewer.
    """
    __tracebackhide__ = True
    scale = REFERENCE_SECONDS if calibrated else 1.0
    found = yield from _compare(
        operation,
        reference_workload if calibrated else None,
        1.0 / at_least_per_second / scale,
        cpu=cpu,
        max_seconds=max_seconds,
    )

    def message() -> str:
        kind = ("calibrated " if calibrated else "") + ("CPU " if cpu else "") + "second"
        middle, low, high = found.measured
        rates = Interval(1 / middle, 1 / high, 1 / low) if high < inf else Interval(1 / middle, -inf, inf)
        measured = found._replace(measured=rates).shown(lambda value: f"{value / scale:,.0f}")
        return f"in a {kind} {measured} calls are done, asked are {at_least_per_second:,.0f}\n  {found.beside()}"

    _judge(found.verdict, message, strict=strict)
    return found


@measurement
def assert_not_slower(
    operation: Callable[[], Any],
    than: Callable[[], Any],
    *,
    by: float = 0.10,
    cpu: bool = False,
    max_seconds: float = 10.0,
    strict: bool = False,
) -> Plan[Comparison]:
    """
    A call takes at most as long as one of *than* and the share *by* more. The other arguments are those of `assert_latency`.

    Raises:
        AssertionError: It takes longer.
    """
    __tracebackhide__ = True
    found = yield from _compare(operation, than, 1.0 + by, cpu=cpu, max_seconds=max_seconds)

    def message() -> str:
        return (
            f"a call takes {found.shown(_times)} the time of its reference, allowed are {_times(1.0 + by)}"
            f"\n  {found.beside()}"
        )

    _judge(found.verdict, message, strict=strict)
    return found


# Baselines


def _environment() -> str:
    """Where ratios mean the same: another interpreter speeds up other things."""
    python = f"{platform.python_implementation().lower()}-{sys.version_info.major}.{sys.version_info.minor}"
    return f"{python}-{platform.machine()}-reference-{_REFERENCE_VERSION}"


class _Recorded(msgspec.Struct, frozen=True):
    """One baseline: a call of the operation in those of the reference, and whether that was CPU time."""

    ratio: Annotated[float, msgspec.Meta(gt=0)]
    cpu: bool


def _baselines(path: Path) -> dict[str, dict[str, _Recorded]]:
    """What *path* holds, by environment and name; nothing while there is no such file."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    try:
        return msgspec.json.decode(content, type=dict[str, dict[str, _Recorded]])
    except msgspec.MsgspecError as error:
        raise ValueError(f"baselines: {path} holds something else: {error}") from None


@measurement
def record_baseline(
    operation: Callable[[], Any],
    name: str,
    path: Path | str,
    *,
    reference: Callable[[], Any] = reference_workload,
    cpu: bool = False,
    max_seconds: float = 3.0,
) -> Plan[Interval]:
    """
    Keep what a call takes now, as a ratio to the *reference*, under *name* in the JSON file *path*; return the ratio.

    Baselines of other names, and of other interpreters and processors, stay. Always takes 3,072 rounds or *max_seconds*,
    because a baseline of a bad moment would give false alarms ever after.

    Raises:
        ValueError: The file holds something else.
        OSError: It cannot be read or written.
    """
    clock = process_time if cpu else perf_counter
    ours = yield from _sized(operation, clock)
    theirs = yield from _sized(reference, clock)
    ours = ours.as_long_as(theirs)
    done = yield from _rounds(ours, theirs, LOOKS[-1:], max_seconds, clock, lambda _: False)
    known = done.interval()
    path = Path(path)
    held = _baselines(path)
    held.setdefault(_environment(), {})[name] = _Recorded(known.median, cpu)
    write_at_once(path, msgspec.json.format(msgspec.json.encode(held, order="sorted"), indent=2) + b"\n")
    return known


@measurement
def assert_baseline(
    operation: Callable[[], Any],
    name: str,
    path: Path | str,
    *,
    by: float = 0.10,
    reference: Callable[[], Any] = reference_workload,
    max_seconds: float = 10.0,
    strict: bool = False,
) -> Plan[Comparison]:
    """
    A call takes at most the share *by* longer than when `record_baseline` measured it, with the same *reference*.

    It takes the kind of time that was recorded. An improvement is no failure: record it.

    Raises:
        AssertionError: It takes longer, or there is no baseline of this name for this interpreter and processor.
        ValueError: The file holds something else.
    """
    __tracebackhide__ = True
    held = _baselines(Path(path)).get(_environment(), {}).get(name)
    if held is None:
        fail(f"no baseline {name!r} for {_environment()} in {path}: record_baseline(operation, {name!r}, …) makes it")
    before = held.ratio
    found = yield from _compare(operation, reference, before * (1.0 + by), cpu=held.cpu, max_seconds=max_seconds)

    def message() -> str:
        return (
            f"baseline {name!r}: a call takes {found.shown(lambda value: _times(value / before))} its baseline, "
            f"allowed are {_times(1.0 + by)}\n  {found.beside()}"
        )

    _judge(found.verdict, message, strict=strict)
    return found


# Growth

Order: TypeAlias = Literal["1", "log n", "n", "n log n", "n²", "n³"]

_ORDERS: dict[Order, Callable[[int], float]] = {
    "1": lambda _: 0.0,
    "log n": lambda size: log2(size + 1),
    "n": float,
    "n log n": lambda size: size * log2(size + 1),
    "n²": lambda size: float(size) ** 2,
    "n³": lambda size: float(size) ** 3,
}
_GROWTH_LOOKS = (16, 32, 64, 128)  # the least that a median's interval needs, and more
_MISFIT = 0.10  # what caches and allocators bend even a straight line


class Growth(NamedTuple):
    """How the time of an operation grows with its size."""

    verdict: Verdict
    order: Order  # the lowest that fits
    sizes: tuple[int, ...]
    seconds: tuple[float, ...]  # a call of each size, calibrated
    misfits: dict[Order, float]  # how far each order is from what was measured: root mean square of the relative errors
    noise: float  # how far what was measured may itself be off, relative

    def __str__(self) -> str:
        """What was measured, a line per size, and how far each order is from it."""
        lines = [f"  {size:>10,}  {_seconds(seconds)}" for size, seconds in zip(self.sizes, self.seconds, strict=True)]
        misfits = ", ".join(f"{order}: {misfit:.0%}" for order, misfit in self.misfits.items())
        return "\n".join([*lines, f"  off by {misfits}; noise {self.noise:.1%}"])


def _misfit(weight: Callable[[int], float], sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """The root mean square of the relative errors of the best a + b·weight(n) with neither part negative."""
    points = [(1.0 / each, weight(size) / each) for size, each in zip(sizes, seconds, strict=True)]
    oo, op, pp = (
        sum(one * one for one, _ in points),
        sum(one * part for one, part in points),
        sum(part * part for _, part in points),
    )
    o, p = sum(one for one, _ in points), sum(part for _, part in points)
    tries = [(o / oo, 0.0)]
    if pp > 0:
        tries.append((0.0, p / pp))
        if (determinant := oo * pp - op * op) > 1e-12 * oo * pp:
            both = ((o * pp - p * op) / determinant, (p * oo - o * op) / determinant)
            if min(both) >= 0:
                tries.append(both)
    return min(sqrt(sum((a * one + b * part - 1.0) ** 2 for one, part in points) / len(points)) for a, b in tries)


def fit_growth(sizes: Sequence[int], measured: Sequence[Interval], at_most: Order) -> Growth:
    """
    Find the lowest order of growth that fits seconds *measured* at *sizes*, and say whether it is *at_most* that.

    An order fits if a + b·f(n) comes within 10 % of what was measured, or within three times its noise. It is beyond the
    limit if no allowed order fits and another one is at least twice as near. Neighbours such as n and n log n part only
    over sizes that differ by some fifty times.
    """
    seconds = [each.median for each in measured]
    # An interval reaches some four standard errors to either side.
    noise = sqrt(sum(((each.high - each.low) / each.median / 8) ** 2 for each in measured) / len(measured))
    misfits: dict[Order, float] = {order: _misfit(weight, sizes, seconds) for order, weight in _ORDERS.items()}
    fits = max(_MISFIT, 3 * noise)
    orders: list[Order] = list(_ORDERS)
    nearest = min(orders, key=lambda each: misfits[each])
    fitting: list[Order] = [each for each in orders if misfits[each] <= fits]
    order = (fitting or [nearest])[0]
    allowed = min(misfits[each] for each in orders[: orders.index(at_most) + 1])
    if allowed <= fits:
        verdict = Verdict.WITHIN if noise <= _MISFIT else Verdict.CANNOT_TELL
    else:
        verdict = Verdict.BEYOND if allowed > 2 * misfits[nearest] else Verdict.CANNOT_TELL
    return Growth(verdict, order, tuple(sizes), tuple(seconds), misfits, noise)


@measurement
def assert_growth(
    operation: Callable[[Any], object],
    *,
    at_most: Order,
    sizes: Sequence[int] = (128, 256, 512, 1024, 2048, 4096, 8192, 16384),
    prepare: Callable[[int], Any] = int,
    cpu: bool = False,
    max_seconds: float = 10.0,
    strict: bool = False,
) -> Plan[Growth]:
    """
    The time of ``operation(prepare(n))`` grows with n in at most this order; see `fit_growth`.

    Args:
        operation: Gets what *prepare* has made of a size; must leave it as it was.
        at_most: ``"1"``, ``"log n"``, ``"n"``, ``"n log n"``, ``"n²"`` or ``"n³"``.
        sizes: At least four, rising.
        prepare: Makes the operation's argument of a size, once and untimed; without it, that is the size itself.
        cpu: As in `assert_latency`, like *strict*.
        max_seconds: How long one series of rounds may take; an alarm takes two.

    Raises:
        AssertionError: It grows faster.
        ValueError: *sizes* or *at_most* cannot be used.
    """
    __tracebackhide__ = True
    if at_most not in _ORDERS:
        raise ValueError(f"growth: at_most must be one of {', '.join(_ORDERS)}, not {at_most!r}")
    if len(sizes) < 4 or any(low >= high for low, high in pairwise((0, *sizes))):
        raise ValueError(f"growth: sizes must be at least four, positive and rising, not {list(sizes)}")
    clock = process_time if cpu else perf_counter
    reference = yield from _sized(reference_workload, clock)
    operations: list[_Sized] = []
    for size in sizes:
        sized = yield from _sized(partial(operation, prepare(size)), clock)
        operations.append(sized)
    grown = yield from _grown(operations, reference, sizes, at_most, clock, max_seconds)
    if grown.verdict is Verdict.BEYOND:
        grown = yield from _grown(operations, reference, sizes, at_most, clock, max_seconds)
    _judge(grown.verdict, lambda: f"the time grows with {grown.order}, allowed is {at_most}\n{grown}", strict=strict)
    return grown


def _grown(
    operations: Sequence[_Sized],
    reference: _Sized,
    sizes: Sequence[int],
    at_most: Order,
    clock: Callable[[], float],
    max_seconds: float,
) -> Plan[Growth]:
    chance, spent = Random(0), 0.0  # noqa: S311 - guards nothing
    ratios: list[list[float]] = [[] for _ in sizes]
    order = list(range(len(sizes)))

    def known() -> Growth:
        scaled = [Interval(*(value * REFERENCE_SECONDS for value in median_interval(each))) for each in ratios]
        return fit_growth(sizes, scaled, at_most)

    for look in _GROWTH_LOOKS:
        while len(ratios[0]) < look and (spent < max_seconds or not ratios[0]):
            chance.shuffle(order)
            for index in order:
                ours = yield Batch(operations[index].call, operations[index].times, clock)
                theirs = yield Batch(reference.call, reference.times, clock)
                spent += ours + theirs
                each = max(ours, _LEAST_SECONDS) / operations[index].times
                ratios[index].append(each / max(theirs, _LEAST_SECONDS) * reference.times)
        if spent >= max_seconds or known().verdict is not Verdict.CANNOT_TELL:
            break
    return known()


# Memory


@contextmanager
def _traced() -> Generator[None]:
    """Trace what is allocated, and leave tracing as it was."""
    was_tracing = tracemalloc.is_tracing()
    if not was_tracing:
        tracemalloc.start()
    try:
        yield
    finally:
        if not was_tracing:
            tracemalloc.stop()


def _bytes(value: float) -> str:
    for unit, size in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} bytes" if abs(value) < 100 else f"{value:.0f} bytes"


class Memory(NamedTuple):
    """What Python's allocators gave an operation, in bytes; what C libraries take for themselves is not seen."""

    peak_bytes: int  # the most that one call held at once
    bytes_per_call: float  # what a call leaves behind
    is_growing: bool  # whether that is a trend


_BLOCKS = 20
_Z = 3.3  # of a trend that chance gives once in two thousand times


def _trend(held: Sequence[float]) -> tuple[float, bool]:
    """
    The slope of *held* by the median of all pairs, and whether it rises for sure.

    Theil and Sen's estimator with the test of Mann and Kendall (Sen: Estimates of the regression coefficient based on
    Kendall's tau, 1968): one step, such as a table that doubles, is no slope, and steps all along are one.
    """
    pairs = list(combinations(enumerate(held), 2))
    slope = median((late - early) / (there - here) for (here, early), (there, late) in pairs)
    score = sum((late > early) - (late < early) for (_, early), (_, late) in pairs)
    n = len(held)
    ties = [held.count(each) for each in set(held)]
    variance = (n * (n - 1) * (2 * n + 5) - sum(t * (t - 1) * (2 * t + 5) for t in ties)) / 18
    return slope, score - 1 > _Z * sqrt(variance)


def _held(operation: Callable[[], Any], calls: int) -> Plan[tuple[float, bool]]:
    """What *operation* leaves behind a call, and whether that is a trend."""
    # Made before, for what is noted down must not look like a leak.
    held = array("d", bytes(8 * _BLOCKS))
    each = max(1, calls // _BLOCKS)
    with _frozen():
        for block in range(_BLOCKS):
            yield Batch(operation, each)
            gc.collect()
            held[block] = tracemalloc.get_traced_memory()[0]
    slope, is_growing = _trend(list(held))
    return slope / each, is_growing


@contextmanager
def _frozen() -> Generator[None]:
    """Spare the collector what is there already, which is most of what a test run holds."""
    gc.collect()
    if gc.get_freeze_count():  # somebody else's, and there is no telling them apart
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _peak(operation: Callable[[], Any]) -> Plan[int]:
    """The most bytes that a call of *operation* holds at once, the least of three times: other threads allocate, too."""
    yield Batch(operation)  # what a first call alone needs, imports and tables, is no matter of one call
    peaks: list[int] = []
    with _traced():
        for _ in range(3):
            gc.collect()
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            yield Batch(operation)
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
    return min(peaks)


@measurement
def measure_memory(operation: Callable[[], Any], *, calls: int = 1_000) -> Plan[Memory]:
    """Measure what one call holds at most, and what *calls* of them leave behind, as `assert_no_leak` does."""
    peak = yield from _peak(operation)
    with _traced():
        slope, is_growing = yield from _held(operation, calls)
    return Memory(peak, slope, is_growing)


@measurement
def assert_peak_memory(operation: Callable[[], Any], *, at_most_bytes: int) -> Plan[int]:
    """
    A call holds at most so many bytes at once, the least of three times; returns them.

    Counted are objects of Python and what is allocated through its allocators, rings of garbage included.

    Raises:
        AssertionError: It holds more.
    """
    __tracebackhide__ = True
    peak = yield from _peak(operation)
    if peak > at_most_bytes:
        fail(f"a call holds up to {_bytes(peak)} at once, allowed are {_bytes(at_most_bytes)}")
    return peak


@measurement
def assert_no_leak(
    operation: Callable[[], Any], *, calls: int = 1_000, at_most_bytes_per_call: float = 1.0
) -> Plan[float]:
    """
    Calls leave nothing behind, or no more than so many bytes each; returns what they do.

    Measured after each twentieth of the *calls*, when garbage has been collected. It is a leak if it rises all along, and
    does so twice: caches that fill and tables that double do not. What other threads keep meanwhile is seen, too.

    Raises:
        AssertionError: They leave more; the message names the lines that allocated what is left.
    """
    __tracebackhide__ = True
    yield Batch(operation)
    with _traced():
        slope, is_growing = yield from _held(operation, calls)
        if is_growing and slope > at_most_bytes_per_call:
            before = tracemalloc.take_snapshot()
            slope, is_growing = yield from _held(operation, calls)
            if is_growing and slope > at_most_bytes_per_call:
                fail(
                    f"a call leaves {_bytes(slope)} behind, allowed are {_bytes(at_most_bytes_per_call)}; "
                    f"of {calls} calls, there are left\n{_left(before)}"
                )
    return slope


def _left(before: tracemalloc.Snapshot) -> str:
    """The lines that allocated most of what is there now and was not *before*."""
    own = [tracemalloc.Filter(inclusive=False, filename_pattern=name) for name in (tracemalloc.__file__, __file__)]
    grown = tracemalloc.take_snapshot().filter_traces(own).compare_to(before.filter_traces(own), "lineno")
    return "\n".join(
        f"  {_bytes(each.size_diff)} of {each.traceback[0].filename}:{each.traceback[0].lineno}"
        for each in grown[:3]
        if each.size_diff > 0
    )


# The helper's form


class MeasuredOperation(NamedTuple):
    """What `PerformanceTestHelper` has measured of many calls, in milliseconds of the clock."""

    total_iterations: int
    average_duration_ms: float
    p95_duration_ms: float
    max_duration_ms: float
    success_rate: float  # 0 to 1
    requests_per_second: float


class MeasuredMemory(NamedTuple):
    """What `PerformanceTestHelper` has measured of an operation's memory, in MiB."""

    peak_memory_mb: float
    memory_growth_mb: float  # of all iterations


class PerformanceTestHelper:
    """
    Measurements in milliseconds of the clock on this machine, and a limit that is the caller's matter.

    For limits that hold on any machine take `assert_latency`, `assert_baseline` and `rfs.testing.load`.
    """

    async def measure_mono_performance(self, mono: Awaitable[AnyResult], max_duration_ms: float) -> dict[str, Any]:
        """
        Run a chain, or anything that gives a Result, once.

        Returns:
            ``duration_ms``, ``max_duration_ms``, ``is_within_limit``, ``success``, and ``error``, which is None of a success.
        """
        began = perf_counter()
        result = await mono
        duration = (perf_counter() - began) * 1e3
        return {
            "duration_ms": duration,
            "max_duration_ms": max_duration_ms,
            "is_within_limit": duration <= max_duration_ms,
            "success": isinstance(result, Success),
            "error": None if isinstance(result, Success) else result.unwrap_error(),
        }

    def assert_performance(self, measured: Mapping[str, Any]) -> None:
        """
        What `measure_mono_performance` gave was a success, and within its limit.

        Raises:
            AssertionError: It was not.
        """
        __tracebackhide__ = True
        broken: list[str] = []
        if not measured["is_within_limit"]:
            broken.append(f"it took {measured['duration_ms']:.3g} ms, allowed are {measured['max_duration_ms']:g} ms")
        if not measured["success"]:
            broken.append(f"it failed: {describe(measured['error'])}")
        if broken:
            fail("\n".join(broken))

    async def measure_async_operation(
        self, operation: Callable[[], Awaitable[object]], iterations: int = 100, max_concurrent: int = 10
    ) -> MeasuredOperation:
        """Call *operation* so many times, *max_concurrent* at once, each as soon as one before is done."""
        report = await run_at_once(operation, iterations, max_concurrent)
        return _measured(report, report.service_times)

    async def load_test(
        self,
        operation: Callable[[], Awaitable[object]],
        total_requests: int = 100,
        concurrent_requests: int = 10,
        duration_seconds: float = 1.0,
    ) -> MeasuredOperation:
        """
        Let so many requests begin, evenly over *duration_seconds*, and at most *concurrent_requests* be under way.

        Durations count from when a request was meant to begin: see `rfs.testing.load`.
        """
        report = await generate_load(
            operation,
            rate=total_requests / duration_seconds,
            seconds=duration_seconds,
            max_concurrent=concurrent_requests,
        )
        return _measured(report, report.latencies)

    async def measure_memory_usage(
        self, operation: Callable[[], Awaitable[object]], iterations: int = 100
    ) -> MeasuredMemory:
        """Measure what one call holds at most, and what *iterations* of them leave behind: see `measure_memory`."""
        memory = await measure_memory(operation, calls=iterations)
        return MeasuredMemory(memory.peak_bytes / (1 << 20), memory.bytes_per_call * iterations / (1 << 20))


def _measured(report: LoadReport, durations: Sketch) -> MeasuredOperation:
    return MeasuredOperation(
        total_iterations=report.count,
        average_duration_ms=durations.mean * 1e3,
        p95_duration_ms=durations.quantile(0.95) * 1e3,
        max_duration_ms=durations.quantile(1.0) * 1e3,
        success_rate=report.succeeded / report.count if report.count else nan,
        requests_per_second=report.per_second,
    )
