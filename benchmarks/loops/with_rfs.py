"""RFS, as a service has it: the default Monitor, started."""

from __future__ import annotations

import gc
import time
from functools import cache

from benchmarks.corpus import CORRELATION_ID, ORDER_IDS, RING, durations
from benchmarks.exposed import move, one_of_two_workers
from benchmarks.worker import Loop, sleeps, timed, timed_async, timed_in_threads
from rfs.core.result import Failure, Result, Success
from rfs.monitoring import (
    CorrelationContext,
    Monitor,
    counter,
    debug,
    default_monitor,
    histogram,
    info,
    log_result_operation,
    start_monitoring,
)
from rfs.monitoring import monitor as monitor_module
from rfs.monitoring.exporters.prometheus import exposition
from rfs.reactive import MonoResult
from rfs.testing.virtual_time import VirtualTime

start_monitoring()

_orders = counter("bench_orders_total").labels(method="POST", status="201")
_answers = counter("bench_answers_total")
_waits = histogram("bench_wait_seconds").labels(method="POST")


def _count_bound(count: int) -> None:
    inc = _orders.inc
    for _ in range(count):
        inc()


def _count_labelled(count: int) -> None:
    inc = _answers.inc
    for _ in range(count):
        inc(1, method="POST", status="201")


def _observe_bound(count: int) -> None:
    observe = _waits.observe
    for seconds in durations(count):
        observe(seconds)


# One text this often is a storm: measured is what a record costs, not what refusing it does.
monitor_module.default = Monitor(storm_limit=1e12)


def _record(count: int) -> None:
    with CorrelationContext(CORRELATION_ID):
        for number in range(count):
            info(
                "Order placed",
                order_id=ORDER_IDS[number & RING],
                table="T12",
                items=3,
                amount_won=12500,
                takeaway=False,
            )


def _record_and_collect(count: int) -> None:
    _record(count)
    default_monitor().query.books()


def _record_below_level(count: int) -> None:
    for _ in range(count):
        debug("Menu looked up", table="T12", hit=True)


@log_result_operation("order.place")
async def _place_order(order_id: str, table: str) -> Result[str, str]:  # noqa: ARG001 - arguments to be recorded
    return Success(order_id)


async def _operate(count: int) -> None:
    with CorrelationContext(CORRELATION_ID):
        for number in range(count):
            await _place_order(ORDER_IDS[number & RING], "T12")


async def _add_one(value: int) -> Result[int, str]:
    return Success(value + 1)


async def _fail(value: int) -> Result[int, str]:  # noqa: ARG001 - a step's signature
    return Failure("SOLD_OUT")


async def _chain_that_succeeds(count: int) -> None:
    for number in range(count):
        await (
            MonoResult.from_value(number)
            .bind_async_result(_add_one)
            .bind_async_result(_add_one)
            .bind_async_result(_add_one)
            .bind_async_result(_add_one)
            .bind_async_result(_add_one)
        )


async def _chain_that_fails(count: int) -> None:
    for number in range(count):
        await (
            MonoResult.from_value(number)
            .bind_async_result(_fail)
            .bind_async_result(_add_one)
            .bind_async_result(_add_one)
            .bind_async_result(_add_one)
            .bind_async_result(_add_one)
        )


_worker = cache(one_of_two_workers)  # made when it is asked for: the other loops shall not meet it


def _expose(count: int) -> float:
    monitor = _worker()
    spent = 0.0
    for turn in range(count):
        move(monitor, turn)
        before = time.process_time()
        exposition(monitor)
        spent += time.process_time() - before
    return spent


def _sleep_virtually(count: int) -> float:
    gc.collect()
    return VirtualTime().run(sleeps(count))


def _undisturbed(loop: Loop) -> Loop:
    """Return *loop* with what earlier loops recorded out of the way; else the collecting thread works it off meanwhile."""

    def run(count: int) -> float:
        default_monitor().query.books()  # a query collects first
        return loop(count)

    return run


LOOPS = {
    name: _undisturbed(loop)
    for name, loop in {
        "counter": timed(_count_bound),
        "counter_threads": timed_in_threads(_count_bound, 4),
        "counter_labels": timed(_count_labelled),
        "histogram": timed(_observe_bound),
        "record": timed(_record),
        "record_collected": timed(_record_and_collect),
        "below_level": timed(_record_below_level),
        "operation": timed_async(_operate),
        "mono_success": timed_async(_chain_that_succeeds),
        "mono_failure": timed_async(_chain_that_fails),
        "exposition": _expose,
        "virtual_sleep": _sleep_virtually,
    }.items()
}
