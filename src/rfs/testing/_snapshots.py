"""
Telemetry as a text that is the same in each run, and the texts that are kept of it: beside the tests, or in them.

What differs from run to run is replaced: ids by their numbers in the order in which they appear, times, durations, addresses,
and the folders that tests run in. Stack traces and RFS's own metrics are left out. What is left changes when the telemetry does.
"""

from __future__ import annotations

import ast
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import unified_diff
from pathlib import Path
from textwrap import dedent, indent
from types import FrameType
from typing import Any, Final, NamedTuple, cast

from rfs.monitoring._capture.record import LogRecord
from rfs.testing._messages import fail

FOLDER: Final = "__snapshots__"
Normalise = Callable[[str], str]
"""Makes a text the same in each run, where the built-in ones do not."""

_ID: Final = re.compile(r"\b(?:[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}|[0-9a-f]{32}|[0-9a-f]{16})\b")
_TIME: Final = re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?")
_ADDRESS: Final = re.compile(r"\b0x[0-9a-f]{6,}\b")
_DURATION_KEY: Final = re.compile(r".*(?:_ms|_seconds|_mb|_percent)\Z")


def render(records: Iterable[LogRecord], metrics: Iterable[str], normalise: Iterable[Normalise] = ()) -> str:
    """The text of *records* and of *metrics*, each of which is a line already."""
    recorded = [line for record in records for line in _record(record)]
    measured = list(metrics)
    lines = [*(["records", *recorded] if recorded else []), *(["metrics", *measured] if measured else [])]
    text = _normalised("\n".join(lines))
    for each in normalise:
        text = each(text)
    return text


def _record(record: LogRecord) -> Iterator[str]:
    name = "/".join(part for part in (record.operation, record.step) if part)
    outcome = f" -> {record.outcome}" if record.outcome else ""
    took = " <duration>" if record.duration_ms is not None else ""
    yield f"  {record.level} {record.kind}{f' {name}' if name else ''}{outcome}{took}: {_one_line(record.message)}"
    ids = {"correlation": record.correlation_id, "span": record.span_id, "parent": record.parent_span_id}
    if any(ids.values()):
        yield "    " + " ".join(f"{what}=<{value}>" for what, value in ids.items() if value)
    for key in sorted(record.context) if record.kind != "alert" else ():  # whose message says it all
        yield f"    {_one_line(key)}: {_value(key, record.context[key])}"
    if record.error is not None:
        defect = " (defect)" if record.error.is_defect else ""
        yield f"    error {record.error.type} {record.error.code}{defect}: {_one_line(record.error.message)}"


def _one_line(text: str) -> str:
    """The text itself, or its `repr` if there is more in it than one line shows."""
    return text if text.isprintable() else repr(text)


def _value(key: str, value: object) -> str:
    if isinstance(value, Mapping):
        named = cast("Mapping[str, object]", value)
        return "{" + ", ".join(f"{name}: {_value(name, named[name])}" for name in sorted(named)) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_value(key, item) for item in cast("list[object]", value)) + "]"
    return "<duration>" if isinstance(value, int | float) and _DURATION_KEY.match(key) else repr(value)


def _normalised(text: str) -> str:
    numbers: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        return f"id {numbers.setdefault(match[0], len(numbers) + 1)}"

    for folder, name in _folders():
        text = text.replace(f"{folder}{os.sep}", f"{name}/")
    return _ADDRESS.sub("<address>", _TIME.sub("<time>", _ID.sub(number, text)))


def _folders() -> list[tuple[str, str]]:
    """The folders of this machine and this run, the longest first, for one may be in another."""
    known = {
        str(Path.home()): "<home>",
        tempfile.gettempdir(): "<tmp>",
        sys.prefix: "<python>",
        str(Path.cwd()): "<cwd>",
    }
    return sorted(((path, name) for path, name in known.items() if len(path) > 1), key=lambda each: -len(each[0]))


class _Edit(NamedTuple):
    """An expression of a test's own text, in lines and bytes as `ast` counts them, and what is to stand there."""

    start: tuple[int, int]
    end: tuple[int, int]
    text: str


class Snapshots:
    """
    The snapshots of one run of tests.

    Args:
        update: Whether they may be written; without it one that is missing or differs fails its test.
        may_edit: Whether this process may write into the tests' own text: of several only one may.
    """

    def __init__(self, *, update: bool = False, may_edit: bool = True) -> None:
        self.update = update
        self._may_edit = may_edit
        self._edits: dict[str, dict[tuple[int, int], _Edit]] = {}

    def of(self, path: Path, nodeid: str) -> TestSnapshots:
        """Those of the test *nodeid* in the file *path*."""
        test = ".".join(nodeid.split("::")[1:])
        return TestSnapshots(self, path.parent / FOLDER / path.stem, re.sub(r"[^\w.\-\[\]]+", "_", test))

    def edit(self, frame: FrameType, text: str) -> None:
        """Have the text that the call of `assert_snapshot` in *frame* compares with replaced by *text* at the end of the run."""
        __tracebackhide__ = True
        if not self._may_edit:
            fail(
                "an inline snapshot differs, and is in a file that only one process may write: run without pytest-xdist"
            )
        path = frame.f_code.co_filename
        found = _argument(Path(path).read_bytes(), frame)
        if found is None:
            fail(f"{path}:{frame.f_lineno}: an inline snapshot that is to be written must be a literal in the call")
        start, end = (found.lineno, found.col_offset), (found.end_lineno, found.end_col_offset)
        self._edits.setdefault(path, {})[start] = _Edit(start, cast("tuple[int, int]", end), text)

    def write_inline(self) -> None:
        """Write what `edit` was asked for, each file at once."""
        for name, edits in self._edits.items():
            path = Path(name)
            lines = path.read_bytes().splitlines(keepends=True)
            for edit in sorted(edits.values(), reverse=True):  # from the end: what comes before keeps its place
                (first, begin), (last, end) = edit.start, edit.end
                margin = lines[first - 1][: -len(lines[first - 1].lstrip())]
                literal = _literal(edit.text, margin.decode())
                lines[first - 1 : last] = [lines[first - 1][:begin] + literal.encode() + lines[last - 1][end:]]
            write_at_once(path, b"".join(lines))
        self._edits.clear()


class TestSnapshots:
    """The snapshots of one test: by name, and those without one by number."""

    __test__ = False  # for pytest, which collects classes whose names begin so

    def __init__(self, run: Snapshots, folder: Path, test: str) -> None:
        self._run = run
        self._folder = folder
        self._test = test
        self._unnamed = 0

    def compare(self, text: str, expected: str | None, name: str, frame: FrameType | None) -> None:
        """Compare *text* with what is *expected* inline, or with the file of this test and *name*; write it if that is allowed."""
        __tracebackhide__ = True
        if expected is not None:
            if _stripped(expected) != text.rstrip():
                caller = frame.f_back if frame is not None else None
                if self._run.update and caller is not None:
                    self._run.edit(caller, text)
                else:
                    fail(_told("the inline snapshot differs", _stripped(expected), text, "as it is now"))
            return
        if not name:
            self._unnamed += 1
            name = str(self._unnamed) if self._unnamed > 1 else ""
        path = self._folder / f"{self._test}{f'-{name}' if name else ''}.txt"
        kept = path.read_text(encoding="utf-8").removesuffix("\n") if path.exists() else None
        if kept == text:
            return
        if self._run.update:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_at_once(path, f"{text}\n".encode())
        elif kept is None:
            fail(f"there is no snapshot {_shown(path)} yet; --rfs-update-snapshots writes it:\n{indent(text, '  ')}")
        else:
            fail(_told(f"telemetry differs from {_shown(path)}", kept, text, "now"))


def _told(what: str, kept: str, text: str, now: str) -> str:
    lines = unified_diff(kept.splitlines(), text.splitlines(), "snapshot", now, lineterm="")
    return "\n".join([f"{what}; --rfs-update-snapshots takes it as it is now:", *lines])


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _stripped(text: str) -> str:
    return dedent(text).strip("\n").rstrip()


def write_at_once(path: Path, content: bytes) -> None:
    """Write in one step, so that somebody who reads it meanwhile reads the old or the new."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(content)
    beside.replace(path)


def _literal(text: str, margin: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return f'"""\n{indent(escaped, margin + "    ")}\n{margin}"""'


def _argument(source: bytes, frame: FrameType) -> ast.expr | None:
    """The literal text that is given to the call that *frame* is in."""
    positions = list(frame.f_code.co_positions())[frame.f_lasti // 2]
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and (node.lineno, node.end_lineno, node.col_offset, node.end_col_offset) == positions
        ):
            given: list[Any] = [*node.args, *(each.value for each in node.keywords if each.arg == "expected")]
            if given and isinstance(given[0], ast.Constant) and isinstance(given[0].value, str):
                return given[0]
    return None
