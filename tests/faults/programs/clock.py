"""
Measures and records while somebody moves the wall clock: `python -m tests.faults.programs.clock`, commands on standard input.

`work` does one operation and answers with what the system's clocks say; `look` with what RFS says.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from rfs.core.result import Result, Success
from rfs.monitoring import info, log_result_operation
from rfs.monitoring.monitor import default_monitor


@log_result_operation("timed")
def timed(n: int) -> Result[int, str]:
    """An operation of a millisecond, inside which the clock may move."""
    info("at work", number=n)
    time.sleep(0.001)
    return Success(n)


def answer(command: dict[str, Any]) -> dict[str, Any]:
    """Do one command."""
    if command["do"] == "work":
        for n in command["numbers"]:
            timed(n)
        return {"wall": time.time(), "monotonic": time.monotonic()}
    query = default_monitor().query
    records = query.records(limit=10_000)
    finished = [record for record in records if record.kind == "operation"]
    found = query.operation("timed", "1h")
    return {
        "durations_ms": [record.duration_ms for record in finished],
        "newest_first": [record.context["number"] for record in records if record.message == "at work"],
        "wall": [record.timestamp.timestamp() for record in finished],
        "requests": found.total_requests if found else None,
        "books": query.books()["records"],
    }


def main() -> None:
    """Answer until standard input ends."""
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
