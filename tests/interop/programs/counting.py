"""A service that counts: run by uvicorn with two workers in test_prometheus.py."""

from __future__ import annotations

import os

from fastapi import FastAPI
from prometheus_client import Counter, Gauge

from rfs.monitoring import counter, histogram
from rfs.web.fastapi import install

orders = counter("orders_total", "Orders")
waits = histogram("wait_seconds", "How long a dish took")
foreign = Counter("jobs", "Jobs")
pid = Gauge("worker_pid", "Who this is")
pid.set(os.getpid())

app = FastAPI()
install(app, service_name="counting", scrape_token="interop")


@app.post("/orders/{number}")
async def order(number: int) -> int:
    orders.inc(1, parity=str(number % 2))
    waits.observe(0.001 * (number % 100 + 1))
    foreign.inc()
    return os.getpid()
