"""
Fifteen hostile values, each handed to every logging library as one structured field: what raises, what is lost, what is
no JSON, and who waits for a slow ``__repr__``. It is a table of correctness, not of speed.

``python -m benchmarks.zoo structlog`` runs it in the environment of one library and answers with one line of JSON. Needs the
standard library and that library alone. Each is set up as its own documentation shows for JSON, and writes to memory; what
counts is what it wrote, read by the standard library's parser with its leniency switched off.
"""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SLOW_SECONDS = 1.0
TIMEOUT_SECONDS = 60.0


def _raising(fault: type[BaseException]) -> object:
    def method(_: object) -> str:
        raise fault("zoo")

    return type("Hostile", (), {"__repr__": method, "__str__": method})()


def _slow() -> object:
    def method(_: object) -> str:
        time.sleep(SLOW_SECONDS)
        return "slow"

    return type("Slow", (), {"__repr__": method, "__str__": method})()


def _recursive() -> object:
    return type("Recursive", (), {"__repr__": lambda self: f"<{self!r}>", "__str__": lambda self: f"<{self!r}>"})()


def _circular() -> object:
    value: dict[str, object] = {}
    value["self"] = value
    return value


def _deep() -> object:
    value: object = "bottom"
    for _ in range(3000):
        value = [value]
    return value


def _error() -> object:
    def method(_: object) -> str:
        raise RuntimeError("zoo")

    return type("HostileError", (Exception,), {"__str__": method})("x")


VALUES: dict[str, Callable[[], object]] = {
    "raising repr": lambda: _raising(RuntimeError),
    "slow repr": _slow,
    "recursive repr": _recursive,
    "repr raising KeyboardInterrupt": lambda: _raising(KeyboardInterrupt),
    "circular dict": _circular,
    "3,000 levels": _deep,
    "NaN": lambda: float("nan"),
    "lone surrogate": lambda: "a\ud800b",
    "bytes": lambda: b"a\xffb",
    "5,000 digits": lambda: 10**4999,
    "set": lambda: {1, 2},
    "tuple key": lambda: {(1, 2): 3},
    "5 MB text": lambda: "x" * 5_000_000,
    "ANSI codes": lambda: "\x1b[2J\x1b]0;title\x07",
    "error whose str raises": _error,
}

Send = Callable[[object], None]
Written = Callable[[], list[str]]  # the JSON texts since the last call


def _memory() -> tuple[io.TextIOWrapper, Written]:
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding="utf-8", write_through=True)

    def written() -> list[str]:
        text = buffer.getvalue().decode()
        buffer.seek(0)
        buffer.truncate()
        return text.splitlines()

    return stream, written


class _PlainFormatter(logging.Formatter):
    """The formatter that is written by hand in many services."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps({"message": record.getMessage(), "level": record.levelname, "value": vars(record)["value"]})


def _with_handler(formatter: logging.Formatter) -> tuple[Send, Written]:
    stream, written = _memory()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger = logging.Logger("zoo")  # noqa: LOG001 - not the tree of this process
    logger.addHandler(handler)
    return (lambda value: logger.info("zoo", extra={"value": value})), written


def _stdlib() -> tuple[Send, Written]:
    return _with_handler(_PlainFormatter())


def _python_json_logger() -> tuple[Send, Written]:
    return _with_handler(import_module("pythonjsonlogger.json").JsonFormatter())


def _structlog() -> tuple[Send, Written]:
    structlog = import_module("structlog")
    stream, written = _memory()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(stream),
    )
    logger = structlog.get_logger()
    return (lambda value: logger.info("zoo", value=value)), written


def _loguru() -> tuple[Send, Written]:
    logger = import_module("loguru").logger
    stream, written = _memory()
    logger.remove()
    logger.add(stream, serialize=True)
    return (lambda value: logger.bind(value=value).info("zoo")), written


def _logfire() -> tuple[Send, Written]:
    logfire = import_module("logfire")
    sdk = import_module("opentelemetry.sdk.trace.export")
    exporter = import_module("opentelemetry.sdk.trace.export.in_memory_span_exporter").InMemorySpanExporter()
    logfire.configure(
        send_to_logfire=False, console=False, additional_span_processors=[sdk.SimpleSpanProcessor(exporter)]
    )

    def written() -> list[str]:
        spans = [span for span in exporter.get_finished_spans() if "value" in span.attributes]
        exporter.clear()
        # An attribute that is not a plain value is JSON in text.
        return [json.dumps({key: _strict_inside(value) for key, value in span.attributes.items()}) for span in spans]

    return (lambda value: logfire.info("zoo", value=value)), written


def _strict_inside(value: Any) -> Any:
    return _parsed(value) if isinstance(value, str) and value[:1] in {"{", "["} else value


def _sentry() -> tuple[Send, Written]:
    sentry_sdk = import_module("sentry_sdk")
    sent: list[str] = []

    class Kept(import_module("sentry_sdk.transport").Transport):  # type: ignore[misc]
        def capture_envelope(self, envelope: Any) -> None:
            sent.extend(item.payload.get_bytes().decode() for item in envelope.items if item.type == "event")

    sentry_sdk.init(dsn="http://key@127.0.0.1:9/1", transport=Kept, default_integrations=False)

    def send(value: object) -> None:
        with sentry_sdk.new_scope() as scope:
            scope.set_context("zoo", {"value": value})
            sentry_sdk.capture_message("zoo")

    def written() -> list[str]:
        taken = [text for text in sent if '"zoo"' in text]
        sent.clear()
        return taken

    return send, written


def _rfs() -> tuple[Send, Written]:
    logging_module = import_module("rfs.monitoring.result_logging")
    monitor = import_module("rfs.monitoring.monitor").default_monitor()
    stream, written = _memory()
    logging_module.configure_result_logging(stream=stream)

    def waited() -> list[str]:
        lines: list[str] = []
        deadline = time.monotonic() + 2
        while not lines and time.monotonic() < deadline:
            monitor.query.books()  # collects
            time.sleep(0.01)
            lines = written()
        return lines

    return (lambda value: logging_module.info("zoo", value=value)), waited


class Library(NamedTuple):
    """One line of the table."""

    shown: str
    environment: str  # "rfs": RFS' own
    set_up: Callable[[], tuple[Send, Written]]


LIBRARIES = {
    "stdlib": Library("stdlib, JSON formatter by hand", "rfs", _stdlib),
    "python_json_logger": Library("python-json-logger", "python_json_logger", _python_json_logger),
    "structlog": Library("structlog JSON", "structlog", _structlog),
    "loguru": Library("loguru `serialize`", "loguru", _loguru),
    "logfire": Library("Logfire", "logfire", _logfire),
    "sentry": Library("Sentry, as context of an event", "sentry", _sentry),
    "rfs": Library("RFS", "rfs", _rfs),
}


class Outcome(NamedTuple):
    """What one library did with the zoo: names of values, and how long the slow one held the caller."""

    raised: list[str]
    lost: list[str]
    invalid: list[str]
    blocked_seconds: float


def _parsed(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    # The parser's own limit on digits and nesting is none of the libraries' business.
    return json.loads(text, parse_constant=refuse, parse_int=str)


def _visit(library: Library) -> Outcome:
    send, written = library.set_up()
    send("ordinary")
    if len(written()) != 1:
        raise RuntimeError(f"{library.shown}: an ordinary value does not arrive")
    raised: list[str] = []
    lost: list[str] = []
    invalid: list[str] = []
    blocked = 0.0
    for name, make in VALUES.items():
        value = make()
        began = time.perf_counter()
        try:
            send(value)
        except BaseException:  # noqa: BLE001 - that is what is counted
            raised.append(name)
        if name == "slow repr":
            blocked = time.perf_counter() - began
        try:
            lines = written()
            if not lines and name not in raised:
                lost.append(name)
            for line in lines:
                if isinstance(_parsed(line), dict):
                    continue
                invalid.append(name)
        except (ValueError, RecursionError):
            invalid.append(name)
    return Outcome(raised, lost, invalid, blocked)


def visit(library: str, interpreter: str) -> Outcome | str:
    """Run the zoo for *library* in a process of its own; what went wrong if that did not work."""
    # What the libraries say of their own troubles goes to standard error, which nobody reads here.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "PYTHON", "RFS_"))}
    environment["RFS_DIR"] = ":memory:"
    try:
        done = subprocess.run(
            [interpreter, "-m", "benchmarks.zoo", library],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_SECONDS,
        )
        return Outcome(*json.loads(done.stdout.splitlines()[-1]))
    except (subprocess.TimeoutExpired, IndexError, ValueError, TypeError) as fault:
        return f"{library}: {type(fault).__name__}"


def table(outcomes: dict[str, Outcome]) -> str:
    """Return the table as Markdown."""
    rows = [
        "| library | raised into the application | record lost | invalid JSON | caller held up by a 1 s `__repr__` |",
        "|---|---|---|---|---|",
    ]
    for name, outcome in outcomes.items():
        cells = (
            f"{len(names)}: {', '.join(names)}" if names else "0"
            for names in (outcome.raised, outcome.lost, outcome.invalid)
        )
        held = f"{outcome.blocked_seconds:.1f} s" if outcome.blocked_seconds >= 0.05 else "no"
        rows.append(f"| {LIBRARIES[name].shown} | {' | '.join(cells)} | {held} |")
    return "\n".join(rows)


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    answers.write(json.dumps(_visit(LIBRARIES[sys.argv[1]])) + "\n")
    answers.flush()
    os._exit(0)  # the background threads of some would go on for seconds
