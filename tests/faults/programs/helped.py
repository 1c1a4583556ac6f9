"""
A worker that is so busy leading that it lets a helper lead: ``helped DIRECTORY``.

It has an alert rule over ``orders_total``, whose callback answers ``{"told": …}`` when it is called. The commands:

* ``{"do": "help"}``: begins to be helped, and answers with the helper's process id when that one leads;
* ``{"do": "record", "first": n, "count": n}``: records as many messages, and counts each in ``orders_total``;
* ``{"do": "leadership"}``: answers who leads, and who helps; ``{"do": "stop"}``: stops, and answers when that is done.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from rfs.monitoring.alerts import Alert, AlertCondition, Rule
from rfs.monitoring.monitor import Monitor
from tests.faults.processes import eventually, reply


def main(directory: Path) -> None:
    monitor = Monitor(service_name="orders", directory=directory)
    orders = monitor.counter("orders_total").labels()

    def tell(alert: Alert) -> None:
        reply({"told": alert.event})

    monitor.alerts.set_rule(
        Rule("many", "orders_total", AlertCondition.GREATER_THAN, 5, window_seconds=3_600, cooldown_seconds=0), tell
    )
    monitor.start()

    def helped() -> int:
        monitor._leader.busy_seconds = 3_600.0
        leader = monitor.leadership
        return leader.pid if leader.pid == monitor.helper_pid else 0

    for line in sys.stdin:
        command = json.loads(line)
        match command["do"]:
            case "help":
                reply({"pid": eventually(helped)})
            case "record":
                for number in range(command["first"], command["first"] + command["count"]):
                    orders.inc()
                    monitor.log(20, f"order {number}")
            case "leadership":
                reply({"leader": monitor.leadership.pid, "helper": monitor.helper_pid, "at": time.monotonic()})
            case "stop":
                monitor.stop()
                reply({"stopped": True})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
