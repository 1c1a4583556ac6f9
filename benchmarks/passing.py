"""
How long days of alert rules take in virtual time: ``python -m benchmarks.passing 5`` prints figures.

Ten rules, of counters, gauges and histograms, are evaluated every ten seconds of a day, and every hour of thirty days. The last value was
measured as the time began: what a test has that waits for an alert to fire, or not to.
"""

from __future__ import annotations

import json
import sys
import time

from rfs.monitoring import AlertCondition, Monitor, Rule
from rfs.testing.virtual_time import VirtualTime

# Hours, seconds between two evaluations, and how long that may take.
PASSAGES = {
    "24 h of 10 alert rules, evaluated every 10 s": (24, 10, 1.0),
    "30 d of 10 alert rules, every hour": (720, 3600, 2.0),
}
RULES = 10


def passed(hours: float, every: float) -> float:
    """Let so many hours pass; return the seconds that it took."""
    with VirtualTime() as clock:
        monitor = Monitor(clock=clock)
        monitor.counter("orders_total").inc()
        monitor.gauge("orders_waiting").set(3)
        monitor.histogram("wait_seconds").observe(0.5)
        metrics = ("orders_total", "orders_waiting", "wait_seconds")
        for number in range(RULES):
            name = metrics[number % len(metrics)]
            rule = Rule(f"rule {number}", name, AlertCondition.GREATER_THAN, 20, window_seconds=60 * (number + 1))
            monitor.alerts.set_rule(rule)
        clock.drive(monitor, every)
        began = time.clock_gettime(time.CLOCK_MONOTONIC)  # which is real
        clock.advance(hours * 3600)
        took = time.clock_gettime(time.CLOCK_MONOTONIC) - began
        states = monitor.alerts.states()
        assert all(state.evaluated_at == clock.monotonic() for state in states.values()), states
    return took


if __name__ == "__main__":
    print(
        json.dumps(
            {
                what: [passed(hours, every) for _ in range(int(sys.argv[1]))]
                for what, (hours, every, _) in PASSAGES.items()
            }
        )
    )
