"""
One request and its answer, as the middleware keeps it in the ASGI scope under ``rfs``.

Handlers and decorators ask here for the correlation id, and report the faults they turn into an answer. Nothing here raises.
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

from rfs.monitoring.context import Context, current
from rfs.monitoring.monitor import Monitor, default_monitor

SCOPE_KEY = "rfs"

Scope = MutableMapping[str, Any]


class Exchange:
    """
    What is known about one request.

    ``recorded`` is the exception that has already been written to the records, so that nobody writes it again.
    """

    __slots__ = ("context", "correlation_id", "monitor", "recorded", "request_id")

    def __init__(self, correlation_id: str, request_id: str, context: Context | None, monitor: Monitor | None) -> None:
        self.correlation_id = correlation_id
        self.request_id = request_id
        self.context = context
        self.monitor = monitor
        self.recorded: object = None


def exchange_of(scope: Scope) -> Exchange | None:
    """The exchange that this scope belongs to; None where no middleware of ours is."""
    exchange = scope.get(SCOPE_KEY)
    return exchange if isinstance(exchange, Exchange) else None


def correlation_id_of(scope: Scope) -> str:
    """The correlation id of this request; empty where there is none."""
    exchange = exchange_of(scope)
    if exchange is not None:
        return exchange.correlation_id
    try:
        context = current()
    except Exception as exc:  # noqa: BLE001 - telemetry may fail, the answer may not
        count_internal_error("web.context", exc)
        return ""
    return context.correlation_id if context is not None else ""


def record_fault(scope: Scope, message: str, error: object, *, is_defect: bool = True) -> bool:
    """Write *error*, with its stack, once per exchange. Returns whether it is written."""
    exchange = exchange_of(scope)
    if exchange is not None and exchange.recorded is error:
        return True
    try:
        monitor = (exchange.monitor if exchange is not None else None) or default_monitor()
        monitor.log(
            logging.ERROR,
            message,
            logger="rfs.web",
            kind="error",
            outcome="failed",
            error=error,
            is_defect=is_defect,
            fields={"method": scope.get("method", ""), "path": scope.get("path", "")},
            context=exchange.context if exchange is not None else None,
        )
    except Exception as exc:  # noqa: BLE001 - telemetry may fail, the answer may not
        count_internal_error("web.record_fault", exc)
        return False
    if exchange is not None:
        exchange.recorded = error
    return True


def count_internal_error(where: str, error: BaseException, monitor: Monitor | None = None) -> None:
    """Count a fault of our own. Where even that fails there is nobody left to tell."""
    try:
        (monitor or default_monitor()).internal_error(where, error)
    except Exception:  # noqa: BLE001 - the counter itself is broken: the host must not notice
        return
