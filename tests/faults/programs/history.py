"""
Days of a service as one version of RFS writes and reads them: ``history SOURCE FOLDER``, commands on standard input.

*SOURCE* is where its library must lie. That may be an old one (see `test_b_versions`), so nothing is asked of it here that has not been
there since. The clocks are the story's.

* ``{"do": "tell", "first": n, "count": n}``: records so many turns of the story from its *first* on, and leads. What the last of them has
  recorded is in live files alone.
* ``{"do": "ask"}``: answered with all that can be asked, as a reader from outside at the story's end; ``told`` are problems.
* ``{"do": "lead"}``: leads over what there is, at the story's end, and stops.
* ``{"do": "stop"}``: as a service ends.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

import rfs
from rfs.core.result import Failure, Result, Success
from rfs.monitoring import CorrelationContext, counter, gauge, histogram, log_result_operation, warning
from rfs.monitoring._reading import open_directory
from rfs.monitoring.monitor import Monitor, use_monitor
from rfs.testing.virtual_time import VirtualTime
from tests.faults.processes import FAR_SECONDS, reply

if TYPE_CHECKING:
    from rfs.monitoring._query import Query

BEGIN = 1_800_000_000 // 86_400 * 86_400 + 30
STEPS = [1, 1, 20, 40, 20, 3_600, 20, 40, 7_200, 86_400, 30, 40, 3_600, 2 * 86_400, 40, 40]  # seconds between the turns
TIMES = [BEGIN + passed for passed in accumulate(STEPS)]
END = TIMES[-1] + 2
EACH = 12  # numbers per turn
FAILS_EACH = 11  # fewer than 20 in all: so many a reader looks at, however slow the machine is
OPERATION = "kitchen.cook"
RANGES = ("1m", "1h", "1d", "10d")


class Kitchen:
    """Records the turns of the story."""

    def __init__(self, folder: Path) -> None:
        self.clock = VirtualTime(BEGIN)
        self.monitor = Monitor(service_name="kitchen", clock=self.clock, directory=folder)

    @log_result_operation(OPERATION)
    def cook(self, number: int) -> Result[int, str]:
        """Take some 64ths of a second for it, so that sums are exact whatever the order of adding."""
        dish = ("김밥", "라면")[number % 2]
        counter("cooked_total", "Dishes", labels=["dish"]).inc(1, dish=dish)
        histogram("dish_bytes", "How large", labels=["dish"]).observe(1 + number % 7, dish=dish)
        gauge("queue_length", "Who waits").set(number % 5)
        warning("cooked", number=number, dish=dish, pad="x" * 500)
        self.clock.advance((1 + number % 3) / 64)
        if number % FAILS_EACH == 0:
            return Failure("SOLD_OUT")
        return Success(number)

    def tell(self, first: int, count: int) -> None:
        """Record *count* turns."""
        with use_monitor(self.monitor):
            for turn in range(first, first + count):
                self.clock.advance(TIMES[turn] - self.clock.now.timestamp())
                self.monitor.beat()
                for number in range(turn * EACH, turn * EACH + EACH):
                    with CorrelationContext(f"dish-{number}"):
                        self.cook(number)

    def lead(self) -> None:
        """Do what a leader does, until there is nothing left to do."""
        self.clock.advance(END - self.clock.now.timestamp())
        for _ in range(2):
            self.monitor.beat()
            self.clock.advance(1)
        assert self.monitor.leadership.is_self
        self.monitor.stop()


def ask(folder: Path) -> dict[str, Any]:
    """Ask for everything; return plain JSON values, what is not a number as null."""
    told: list[str] = []

    def problem(code: str, text: str) -> None:
        told.append(f"{code} {text}")

    with open_directory(folder, on_problem=problem, now_seconds=lambda: END) as query, query.bounded(FAR_SECONDS):
        middle = (datetime.fromtimestamp(TIMES[4], UTC), datetime.fromtimestamp(TIMES[9] + 1, UTC))

        def records(**wanted: Any) -> list[Any]:
            found = query.records(operation=OPERATION, limit=100, **wanted)
            page = found
            while page:
                page = query.records(operation=OPERATION, limit=100, before=page[-1].cursor, **wanted)
                found += page
            return [replace(one, cursor="") for one in found]  # which names a place

        questions: dict[str, Callable[[], Any]] = {
            "records": records,
            "failed": lambda: records(failed=True),
            "warnings": lambda: records(min_level=30),
            "middle": lambda: records(time_range=middle),
            "one": lambda: [replace(one, cursor="") for one in query.records_by_correlation_id("dish-17")],
            "trace": lambda: query.trace("dish-17"),
            "dishes": lambda: query.label_values("cooked_total", "dish"),
            "types": lambda: [query.metric_type(name) for name in ("cooked_total", "dish_bytes", "queue_length")],
            "totals": lambda: sorted(
                (key.name, value) for key, value in query.totals().counters.items() if key.name == "cooked_total"
            ),
            "books": query.books,
            "summary": lambda: query.summary("10d"),
            **{f"{name} {text}": answer for text in RANGES for name, answer in _questions_over(query, text).items()},
        }
        answers = {name: question() for name, question in questions.items()}
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode({**answers, "told": told}))
    return plain


def _questions_over(query: Query, time_range: str) -> dict[str, Callable[[], Any]]:
    return {
        "increase": lambda: query.increase("cooked_total", time_range),
        "increase by": lambda: query.increase_by("cooked_total", "dish", time_range),
        "distribution": lambda: query.distribution("dish_bytes", time_range),
        "points": lambda: query.points("cooked_total", time_range, 60),
        "lengths": lambda: query.points("queue_length", time_range, 60),
        "counts": lambda: query.series("cooked_total", time_range, by=["dish"]),
        "sizes": lambda: query.series("dish_bytes", time_range, by=["dish"], aggregation="p95"),
        "ratio": lambda: query.ratio(
            "result_failure_total", ["result_success_total", "result_failure_total"], time_range
        ),
        "operations": lambda: query.operations(time_range),
        "errors": lambda: query.top_errors(10, time_range),
        "groups": lambda: query.error_groups(10, time_range),
    }


def main(source: str, folder: str) -> None:
    """Answer until told to stop."""
    assert Path(rfs.__file__).is_relative_to(source), rfs.__file__
    kitchen: Kitchen | None = None
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "ask":
            reply(ask(Path(folder)))
            continue
        kitchen = kitchen or Kitchen(Path(folder))
        match command["do"]:
            case "tell":
                kitchen.tell(command["first"], command["count"])
                reply("told")
            case "lead":
                kitchen.lead()
                reply("led")
            case _:
                kitchen.monitor.stop()
                reply("stopped")
                return


if __name__ == "__main__":
    main(*sys.argv[1:])
