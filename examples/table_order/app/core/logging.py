"""
Logging: JSON lines on stdout, and in the service also RFS's records.

In the service, :func:`setup_logging` hands what the standard library's loggers say to
RFS, which masks it, keeps it under the request's correlation id, and prints it.
Beside the service (launcher, traffic) the lines are made here, by the formatter.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final

from rfs.monitoring.monitor import default_monitor
from rfs.monitoring.result_logging import RfsHandler, configure_result_logging

_CONTEXT: Final = ("store_id", "request_id", "user_id")
_QUIET: Final = ("sqlalchemy.engine", "uvicorn.access", "httpx", "httpcore", "asyncio")


class JSONFormatter(logging.Formatter):
    """JSON 형식 로그 포매터 - one masked, strict JSON object per record, its time in aware UTC."""

    def format(self, record: logging.LogRecord) -> str:
        masker = default_monitor().masker
        line: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": masker.text(record.getMessage()),
            "module": record.module,
            "function": record.funcName,
            "line": record.lineno,
        }
        line.update(masker.fields({key: getattr(record, key) for key in _CONTEXT if hasattr(record, key)}))
        if record.exc_info:
            line["exception"] = masker.text(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


def setup_logging(log_level: str = "INFO", *, recorded: bool = False, printed: bool = True) -> None:
    """
    로깅 설정 초기화 - set up the root logger; called again, it replaces what it set up before.

    Args:
        log_level: ``DEBUG``, ``INFO``, ``WARNING``, ``ERROR`` or ``CRITICAL``.
        recorded: Whether lines become RFS's records, which RFS prints, instead of being printed here.
        printed: Whether RFS prints what it records.

    Raises:
        ValueError: There is no such level.
    """
    level = logging.getLevelNamesMapping().get(log_level.upper())
    if level is None:
        raise ValueError(f"log level {log_level!r} is none of DEBUG, INFO, WARNING, ERROR, CRITICAL")
    handler: logging.Handler
    if recorded:
        configure_result_logging(level=level, stream="stdout" if printed else None)
        handler = _Recorder()
    else:
        handler = _Console(sys.stdout)
        handler.setFormatter(JSONFormatter())
    root = logging.getLogger()
    for former in [one for one in root.handlers if isinstance(one, _Recorder | _Console)]:
        root.removeHandler(former)
    root.addHandler(handler)
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


class _Recorder(RfsHandler):
    """The handler that :func:`setup_logging` knows as its own."""


class _Console(logging.StreamHandler[Any]):
    """The same, for lines that are printed here."""
