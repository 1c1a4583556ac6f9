"""
Days of the reference service in a directory: ``python -m benchmarks.history 48`` lets 48 hours pass, and prints figures as JSON.

The clock is simulated, the code is not: 100 requests a second, in the shares and with the records, ids and fields that `make run` has,
are recorded by a Monitor that leads, into its segments and cells, and from there into the store. Until the last hour the leader has a
turn every ten seconds, then each second, as it always has; what is kept of longer ago is the same, for it is in slots of ten
seconds at least.

Then a new process opens the directory, at the moment at which the first one was stopped, and answers the dashboard's first query:
``python -m benchmarks.history open DIRECTORY TIME_NS``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from rfs.monitoring import Monitor

BEGAN = time.perf_counter()  # of a process that opens: what it imports counts
RATE = 100  # requests per second
HOUR = 3_600
SECOND_NS = 1_000_000_000
START_NS = 1_800_000_000 // HOUR * HOUR * SECOND_NS
GOAL_SECONDS = 2.0
PAGE = os.sysconf("SC_PAGE_SIZE")


class Shape(NamedTuple):
    """One kind of request of the reference service."""

    share: float
    method: str
    route: str
    operation: str
    step: str  # the name of its step and what is said; or empty
    result: str
    fields: tuple[str, ...]  # of its operation
    codes: tuple[str, ...]  # with which it is refused, 4 % of the time


_ORDERS = "/api/v1/stores/{store_id}/orders"
SHAPES = (
    Shape(
        48,
        "POST",
        _ORDERS + "/{order_id}/status",
        "orders.change_status",
        "changed 주문 상태 변경 완료",
        "OrderView",
        ("order_id", "status"),
        ("INVALID_STATUS_TRANSITION",),
    ),
    Shape(
        28,
        "POST",
        _ORDERS,
        "orders.place",
        "placed 주문 저장 완료",
        "Placement",
        ("wanted", "key"),
        ("SOLD_OUT", "IDEMPOTENCY_KEY_REUSED"),
    ),
    Shape(
        10,
        "POST",
        "/api/v1/stores/{store_id}/tables/{number}/token",
        "accounts.table_token",
        "",
        "TokenView",
        ("table_number",),
        ("UNKNOWN_TABLE",),
    ),
    Shape(5, "GET", _ORDERS, "orders.list", "", "list", ("limit",), ("FORBIDDEN",)),
    Shape(4, "GET", _ORDERS + "/{order_id}", "orders.get", "", "OrderView", ("order_id",), ("UNKNOWN_ORDER",)),
    Shape(3, "GET", "/api/v1/stores/{store_id}/menu", "catalogue.menu", "", "MenuView", (), ("UNKNOWN_STORE",)),
    Shape(2, "POST", "/api/v1/auth/login", "accounts.login", "", "TokenView", (), ("INVALID_CREDENTIALS",)),
)
STORES = ("hanok", "pocha", "bistro")


class Clock:
    """Stands where it is put."""

    def __init__(self, now_ns: int) -> None:
        self.now_ns = now_ns

    def time_ns(self) -> int:
        """The simulated wall clock."""
        return self.now_ns

    def monotonic(self) -> float:
        """Likewise."""
        return self.now_ns / SECOND_NS


class Service:
    """The reference service, as far as RFS sees it."""

    def __init__(self, monitor: Monitor, clock: Clock) -> None:
        from rfs.monitoring.context import Context
        from rfs.monitoring.masking import ErrorInfo

        self._context, self._error = Context, ErrorInfo
        self._monitor = monitor
        self._clock = clock
        self._chance = Random(100)
        self._limits = list(accumulate(shape.share for shape in SHAPES))
        self._requests = monitor.counter("http_requests_total", "HTTP requests answered")
        self._seconds = monitor.histogram(
            "http_request_duration_seconds", "From the first byte in to the last byte out"
        )
        self._orders = monitor.counter("orders_total", "Orders that entered a status")
        self._active = monitor.gauge("http_requests_active", "HTTP requests being answered").labels()

    def request(self) -> int:
        """Answer one request, at the clock's time and what it takes; return how many records there are of it."""
        chance, clock, keep = self._chance, self._clock, self._monitor.keep
        shape = chance.choices(SHAPES, cum_weights=self._limits)[0]
        seconds = chance.lognormvariate(-4.0, 0.6)
        code = chance.choice(shape.codes) if chance.random() < 0.04 else ""
        identity, span = f"{chance.getrandbits(128):032x}", f"{chance.getrandbits(64):016x}"
        outer = self._context(identity, identity, span, "", "", {})
        inner = outer.child(shape.operation, f"{chance.getrandbits(64):016x}")
        store = STORES[chance.randrange(3)]
        who: dict[str, Any] = {"store_id": store, "user_id": f"table-{chance.randrange(1, 13)}"}
        order = f"{chance.getrandbits(128):032x}"
        path = shape.route.replace("{store_id}", store).replace("{order_id}", order).replace("{number}", "7")
        asked = {"request_id": identity, "method": shape.method, "path": path, "client_ip": "127.0.0.1"}
        outcome = "failed" if code else "ok"
        error = None
        if code:
            error = self._error("Refusal", code, f"{code.lower()}: {order}", None, expected=True, is_defect=False)
        self._active.set(chance.randrange(8))

        keep(outer, 20, "request_start", "rfs.web", "", "", "Request started", "", None, {**asked}, None)
        fields = {**who, **{name: self._value(name, order) for name in shape.fields}}
        operation, message = shape.operation, "Operation started"
        keep(inner, 20, "operation_start", "rfs.operation", operation, "", message, "", None, fields, None)
        clock.now_ns += int(seconds * 0.9 * SECOND_NS)
        if shape.step:
            step, _, said = shape.step.partition(" ")
            fields = {**who, "index": 1, "result_type": shape.result}
            keep(inner, 20, "step", "rfs.step", operation, step, said, outcome, seconds * 0.9, fields, None)
        fields = {**who, "result_type": shape.result}
        level = 30 if code else 20
        message = "Operation failed" if code else "Operation completed"
        keep(inner, level, "operation", "rfs.operation", operation, "", message, outcome, seconds * 0.92, fields, error)
        self._monitor.measure_result(operation, seconds * 920, failed=bool(code), expected=bool(code))
        if code:
            self._monitor.count_error(operation, "Refusal", code)
        clock.now_ns += int(seconds * 0.1 * SECOND_NS)
        status = 409 if code else 200
        fields = {
            **who,
            **asked,
            "route": shape.route,
            "status_code": status,
            "response_bytes": chance.randrange(99, 999),
        }
        name = f"{shape.method} {shape.route}"
        keep(outer, 20, "request", "rfs.web", name, "", "Request completed", "ok", seconds, fields, None)
        self._requests.inc(1, method=shape.method, route=shape.route, status=str(status))
        self._seconds.observe(seconds, method=shape.method, route=shape.route)
        if not code and shape.operation.startswith("orders."):
            self._orders.inc(1, status="cooking")
        return 5 if shape.step else 4

    def _value(self, name: str, order: str) -> Any:
        chance = self._chance
        if name == "wanted":
            lines = [{"item_number": chance.randrange(1, 25), "quantity": chance.randrange(1, 4)} for _ in range(2)]
            return {"table_number": chance.randrange(1, 13), "lines": lines}
        if name == "key":
            return f"order-{chance.getrandbits(32):08x}-first"
        return {"order_id": order, "status": "cooking"}.get(name, 50)


def live(directory: Path, hours: float) -> dict[str, Any]:
    """Let *hours* pass, and stop; tell what was recorded and what it took."""
    from rfs.monitoring import Monitor

    clock = Clock(START_NS)
    monitor = Monitor(service_name="table-order", clock=clock, directory=directory)
    service, leader = Service(monitor, clock), monitor._leader
    seconds = int(hours * HOUR)
    records = requests = 0
    before = time.process_time()
    for second in range(seconds):
        for number in range(RATE):
            clock.now_ns = START_NS + second * SECOND_NS + number * SECOND_NS // RATE
            records += service.request()
            requests += 1
        clock.now_ns = START_NS + (second + 1) * SECOND_NS - 1
        if second % 10 == 9 or seconds - second <= HOUR:
            leader._capture_and_lead(is_new=False)
            monitor.tick()
    monitor.stop()
    spent = time.process_time() - before
    return {"requests": requests, "records": records, "cpu": spent, "ends_ns": clock.now_ns}


def opened(directory: Path, now_ns: int) -> dict[str, Any]:
    """Answer the dashboard's queries from what is there: seconds since this process began, and MiB that it has in the end."""
    from benchmarks.pages import Pages
    from rfs.monitoring import Monitor

    imported = time.perf_counter() - BEGAN
    monitor = Monitor(service_name="table-order", clock=Clock(now_ns), directory=directory)
    pages = Pages(monitor, SHAPES[0].operation, "0" * 32)
    pages.seconds("overview")
    began = time.perf_counter() - BEGAN
    told: dict[str, Any] = {"imported": imported, "seconds": began, "mib": _mib(), "pages": {}}
    for name in pages.paths:
        told["pages"][name] = pages.seconds(name)
    told["mib_after"] = _mib()
    told["counted"] = monitor.query.increase("http_requests_total", "7d")
    told["found"] = len(monitor.query.records(limit=50))
    monitor.stop()
    return told


def _mib() -> float:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * PAGE / 2**20


def measure(hours: float) -> dict[str, Any]:
    """Let *hours* pass, open the directory in a new process, and return all figures."""
    with tempfile.TemporaryDirectory(prefix="rfs-bench-") as folder:
        told = live(Path(folder), hours)
        sizes = {
            name: sum(one.stat().st_size for one in Path(folder).rglob(pattern) if one.is_file())
            for name, pattern in (
                ("bytes", "*"),
                ("record_bytes", "store/chunks/*"),
                ("window_bytes", "store/*.sqlite*"),
            )
        }
        command = [sys.executable, "-m", "benchmarks.history", "open", folder, str(told["ends_ns"])]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, timeout=120)
        return {"hours": hours, **told, **sizes, "opened": json.loads(done.stdout.splitlines()[-1])}


def main(arguments: list[str]) -> None:
    """Measure, or be the process that opens."""
    if arguments[0] == "open":
        print(json.dumps(opened(Path(arguments[1]), int(arguments[2]))))
        return
    print(json.dumps(measure(float(arguments[0]))))


if __name__ == "__main__":
    main(sys.argv[1:])
