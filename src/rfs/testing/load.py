"""
Load that comes when it comes, and latencies as those who wait have them.

Requests are meant to begin at fixed times, whether or not those before are done, and a latency counts from the time that was
meant. A generator that waits for an answer before it asks again asks less while the service hangs, so the hang is in
its figures once, where it is in those of everybody who would have asked meanwhile: coordinated omission (Tene: How NOT
to measure latency, 2013; Schroeder, Wierman, Harchol-Balter: Open versus closed, NSDI 2006).

Latencies are kept in RFS's own sketches: within 1 %, in a memory that does not grow with the load.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from random import Random
from typing import cast

from rfs.core.result import Failure, error_code
from rfs.monitoring._capture.sketch import Sketch
from rfs.testing._messages import fail

__all__ = ["LoadReport", "arrivals", "assert_load", "generate_load", "run_at_once"]

QUANTILES = (0.5, 0.9, 0.99, 0.999)
_LEAST_SECONDS = 1e-9  # of a latency, as the clock may not tell two instants apart


@dataclass
class LoadReport:
    """What became of the requests. Latencies are seconds."""

    rate: float  # requests a second that were meant to begin
    seconds: float = 0.0  # from the first that was meant to the last answer
    succeeded: int = 0
    failed: int = 0  # a Failure, an exception, or no answer
    unanswered: int = 0  # of the failed, those that were given up; their latency is what they had waited until then
    errors: dict[str, int] = field(default_factory=dict)  # by `error_code`
    latencies: Sketch = field(default_factory=Sketch)  # from when a request was meant to begin
    service_times: Sketch = field(default_factory=Sketch)  # from when it began: what a closed loop would have reported

    @property
    def count(self) -> int:
        """How many requests there were."""
        return self.succeeded + self.failed

    @property
    def per_second(self) -> float:
        """How many requests a second were answered with success."""
        return self.succeeded / self.seconds if self.seconds else 0.0

    def latency(self, quantile: float) -> float:
        """The seconds within which the share *quantile* (0 to 1) of the requests was answered; NaN of none."""
        return self.latencies.quantile(quantile)

    def __str__(self) -> str:
        """The figures, a line for each kind."""
        said = ", ".join(f"p{quantile * 100:g} {self.latency(quantile) * 1e3:.3g} ms" for quantile in QUANTILES)
        lines = [
            f"{self.count} requests, meant {self.rate:g} a second, succeeded {self.per_second:.4g} a second in {self.seconds:.3g} s",
            f"latency {said}, longest {self.latencies.max * 1e3:.3g} ms" if self.latencies.count else "latency unknown",
            f"{self.failed} failed, {self.unanswered} of them unanswered",
        ]
        if self.errors:
            lines.append(", ".join(f"{code}: {count}" for code, count in sorted(self.errors.items())))
        return "\n".join(lines)


def arrivals(rate: float, seconds: float, *, seed: int | None = None) -> Iterator[float]:
    """
    When requests are meant to begin, in seconds from the start: evenly, or with a *seed* as strangers come (Poisson).

    Raises:
        ValueError: *rate* or *seconds* is not positive.
    """
    if not (rate > 0 and seconds > 0):
        raise ValueError(f"load: rate and seconds must be positive, not {rate} and {seconds}")
    if seed is None:
        return (number / rate for number in range(round(rate * seconds)))
    return _strangers(rate, seconds, Random(seed))  # noqa: S311 - guards nothing


def _strangers(rate: float, seconds: float, chance: Random) -> Iterator[float]:
    at = chance.expovariate(rate)
    while at < seconds:
        yield at
        at += chance.expovariate(rate)


async def generate_load(
    operation: Callable[[], Awaitable[object]],
    *,
    rate: float,
    seconds: float,
    max_concurrent: int = 100,
    grace_seconds: float = 5.0,
    seed: int | None = None,
) -> LoadReport:
    """
    Let *rate* requests a second begin for so many *seconds*, and report what became of them.

    Args:
        operation: One request. A Failure that it returns, and an exception, is a failed one.
        rate: Requests a second.
        seconds: How long requests begin.
        max_concurrent: How many may be under way; who comes when they are waits, and that is latency.
        grace_seconds: How long after the last arrival answers are waited for; then they are cancelled, and counted.
        seed: Let requests come as strangers do, at random; without it they come evenly.

    Time is the event loop's, so a virtual one works. What the load itself holds is bounded by *max_concurrent*.

    Raises:
        ValueError: *rate*, *seconds* or *max_concurrent* is not positive.
    """
    if max_concurrent < 1:
        raise ValueError(f"load: max_concurrent must be positive, not {max_concurrent}")
    return await _generate(operation, arrivals(rate, seconds, seed=seed), rate, seconds + grace_seconds, max_concurrent)


async def run_at_once(operation: Callable[[], Awaitable[object]], count: int, max_concurrent: int) -> LoadReport:
    """
    Call *operation* so many times, *max_concurrent* at once: a closed loop, for how much goes through and not for how long it takes.

    Raises:
        ValueError: *max_concurrent* is not positive.
    """
    if max_concurrent < 1:
        raise ValueError(f"load: max_concurrent must be positive, not {max_concurrent}")
    return await _generate(operation, iter([0.0] * count), inf, None, max_concurrent)


async def _generate(
    operation: Callable[[], Awaitable[object]],
    starts: Iterator[float],
    rate: float,
    until: float | None,
    max_concurrent: int,
) -> LoadReport:
    time = asyncio.get_running_loop().time
    report, began = LoadReport(rate), time()

    def answered(meant: float, started: float, error: str | None) -> None:
        now = time() - began
        report.seconds = max(report.seconds, now)
        report.latencies.observe(max(now - meant, _LEAST_SECONDS))
        report.service_times.observe(max(now - started, _LEAST_SECONDS))
        if error is None:
            report.succeeded += 1
        else:
            report.failed += 1
            report.errors[error] = report.errors.get(error, 0) + 1

    async def serve() -> None:
        # All share the arrivals: who is free takes the next one.
        for meant in starts:
            if (early := meant - (time() - began)) > 0:
                await asyncio.sleep(early)
            started = time() - began
            try:
                answer = await operation()
            except asyncio.CancelledError:
                report.unanswered += 1
                answered(meant, started, "unanswered")
                raise
            except Exception as error:  # noqa: BLE001 - whatever a request may end with
                answered(meant, started, error_code(error))
            else:
                answered(
                    meant,
                    started,
                    error_code(cast("Failure[object]", answer).error) if isinstance(answer, Failure) else None,
                )

    tasks = [asyncio.create_task(serve()) for _ in range(max_concurrent)]
    try:
        await asyncio.wait(tasks, timeout=until)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    # Those that nobody was free for are unanswered as well.
    for meant in starts:
        report.unanswered += 1
        answered(meant, meant, "unanswered")
    return report


def assert_load(
    report: LoadReport,
    *,
    at_most_seconds: Mapping[float, float] | None = None,
    at_most_failed: int = 0,
    at_least_per_second: float = 0.0,
) -> None:
    """
    The load was borne.

    Args:
        report: What `generate_load` returned.
        at_most_seconds: By quantile, ``{0.99: 0.050}``: latency that may not be exceeded.
        at_most_failed: How many requests may fail.
        at_least_per_second: How many a second must succeed.

    Raises:
        AssertionError: It was not; the message says all that was broken, and the report.
    """
    __tracebackhide__ = True
    broken = [
        f"p{quantile * 100:g} is {report.latency(quantile) * 1e3:.3g} ms, allowed are {limit * 1e3:.3g} ms"
        for quantile, limit in (at_most_seconds or {}).items()
        if not report.latency(quantile) <= limit
    ]
    if report.failed > at_most_failed:
        broken.append(f"{report.failed} failed, allowed are {at_most_failed}")
    if report.per_second < at_least_per_second:
        broken.append(f"{report.per_second:.4g} a second succeeded, asked are {at_least_per_second:g}")
    if broken:
        fail("\n".join([*broken, "of this load:", *(f"  {line}" for line in str(report).splitlines())]))
