"""
What importing costs: ``python -m benchmarks.importing rfs`` in a fresh process prints seconds and MiB.

``seconds`` are the process' CPU time for the import alone, ``started_seconds`` until the thing is set up as a service would and
has measured once; ``mib`` is all that the process then holds, the interpreter included.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module

PAGE = os.sysconf("SC_PAGE_SIZE")


def _start_rfs() -> None:
    monitoring = import_module("rfs.monitoring")
    monitoring.start_monitoring()
    monitoring.counter("bench_orders_total").inc()
    monitoring.info("Order placed", order_id=1)


def _start_prometheus() -> None:
    import_module("prometheus_client").Counter("bench_orders", "").inc()


def _start_stack() -> None:
    _start_prometheus()
    trace = import_module("opentelemetry.sdk.trace")
    provider = trace.TracerProvider()
    provider.add_span_processor(import_module("opentelemetry.sdk.trace.export").BatchSpanProcessor(None))
    import_module("opentelemetry.sdk.metrics").MeterProvider()


def _start_logfire() -> None:
    logfire = import_module("logfire")
    logfire.configure(send_to_logfire=False, console=False)
    logfire.info("Order placed", order_id=1)


# Environment, what is imported there, and how it is set up.
SUBJECTS: dict[str, tuple[str, list[str], Callable[[], object]]] = {
    "rfs": ("rfs", ["rfs.monitoring"], _start_rfs),
    "prometheus_client": ("prometheus_client", ["prometheus_client"], _start_prometheus),
    "stack": (
        "stack",
        ["structlog", "prometheus_client", "opentelemetry.sdk.trace.export", "opentelemetry.sdk.metrics"],
        _start_stack,
    ),
    "logfire": ("logfire", ["logfire"], _start_logfire),
}


def main(subject: str) -> None:
    """Import *subject*, set it up, and print what both took."""
    _, modules, start = SUBJECTS[subject]
    before = time.process_time()
    for module in modules:
        import_module(module)
    seconds = time.process_time() - before
    start()
    started_seconds = time.process_time() - before
    with open("/proc/self/statm") as statm:
        resident = int(statm.read().split()[1]) * PAGE
    print(json.dumps({"seconds": seconds, "started_seconds": started_seconds, "mib": resident / 2**20}), flush=True)
    os._exit(0)  # what the subject would do at exit is not asked about


if __name__ == "__main__":
    main(sys.argv[1])
