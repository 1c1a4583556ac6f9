"""
A failure that was recorded becomes a test that reproduces it.

`find_failure` takes an operation that failed out of the records: where its function is, the arguments it was called with, the
step and the code it failed with, and which operations inside it failed. `write_test` makes the text of a pytest file of that,
which calls the function again. The rest of this module is what such a file uses.

The records are masked, so what was secret is not in the file: where a value cannot be had again, a fixture that begins with TODO
gives one that is made up. Operations inside that failed are taken for dependencies; they are replaced by their recorded failure.
"""

from __future__ import annotations

import asyncio
import builtins
import importlib
import inspect
import re
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from types import ModuleType
from typing import Any, NamedTuple, cast, get_args, get_type_hints

import msgspec

from rfs.core.result import Failure, error_code
from rfs.errors import CursorError, ReplayError
from rfs.monitoring._capture.record import LogRecord
from rfs.monitoring._query import Query
from rfs.monitoring._spans import Span, Trace
from rfs.monitoring.context import CorrelationContext
from rfs.monitoring.masking import ErrorInfo
from rfs.monitoring.monitor import Monitor, use_monitor
from rfs.monitoring.result_logging import FUNCTION_FIELD

__all__ = ["RecordedFailure", "assert_reproduces", "find_failure", "rebuilt", "recorded_error", "write_test"]

_MOST_SCANNED = 100_000  # failures that a cursor is looked for in
_PAGE = 1_000
_LINE = 88  # columns; what is longer is written over several lines
_NAMES = frozenset(
    {
        "request",  # pytest's own
        "pytest",
        "assert_reproduces",
        "rebuilt",
        "recorded_error",
        "mock_result_service",
        "TestDataFactory",
        "Success",
        "Failure",
    }
)


# --- what was recorded ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RecordedFailure:
    """
    An operation that failed, as far as its records tell.

    ``function`` is the dotted path of what was called. ``arguments`` are those it was called with, masked, beside the fields bound
    to its request; None if they were not recorded. ``step`` is the first logged step that failed, "" if none was logged.
    ``raised`` says whether it raised its error instead of returning a Failure. ``inner`` are the operations inside it that failed, in
    the order of time, and those of the same functions that did not (their ``error`` is None).
    """

    operation: str
    function: str
    arguments: Mapping[str, Any] | None
    step: str
    error: ErrorInfo | None
    raised: bool
    correlation_id: str
    at: datetime
    inner: tuple[RecordedFailure, ...] = ()

    @property
    def code(self) -> str:
        """The code of the error, "" if it did not fail."""
        return "" if self.error is None else self.error.code


def find_failure(query: Query, what: str, operation: str | None = None) -> RecordedFailure:
    """
    Take a failure out of the records that *query* reads.

    Args:
        what: A correlation id, or the cursor of a record: then the operation that the record was made in.
        operation: Of which operation, where several have failed; by default the outermost.

    Raises:
        ReplayError: There is none, or it was recorded without what is needed.
    """
    trace, span_id = query.trace(what), ""
    if not trace.spans:
        record = _at_cursor(query, what)
        if record is None or not record.correlation_id:
            raise ReplayError(
                what, "no failure has this correlation id, or is at this cursor; `rfs errors` shows ids of failures"
            )
        trace, span_id = query.trace(record.correlation_id), record.span_id
    spans = [span for outermost in trace.spans for _, span in outermost.walk()]
    failed = [span for span in spans if _failed(span) and span_id in ("", span.span_id)]
    chosen = [span for span in failed if operation in (None, span.operation)]
    if not chosen:
        names = ", ".join(dict.fromkeys(span.operation for span in failed))
        if names:
            raise ReplayError(what, f"no operation {operation!r} has failed under it, but {names}")
        raise ReplayError(
            what, "no operation has failed under it; only functions with @log_result_operation can be replayed"
        )
    for span in chosen:
        if _function_of(span):
            return _recorded(trace, span)
    raise ReplayError(
        what,
        f"{chosen[0].operation} was recorded without where its function is; record it anew with this version of RFS",
    )


def _at_cursor(query: Query, cursor: str) -> LogRecord | None:
    before: str | None = None
    for _ in range(_MOST_SCANNED // _PAGE):
        try:
            page = query.records(limit=_PAGE, failed=True, before=before)
        except CursorError:
            return None
        for record in page:
            if record.cursor == cursor:
                return record
        if len(page) < _PAGE:
            return None
        before = page[-1].cursor
    return None


def _failed(span: Span) -> bool:
    return span.kind == "operation" and span.outcome == "failed"


def _function_of(span: Span) -> str:
    ends = (record for record in reversed(span.records) if record.kind == "operation")
    return next((str(end.context.get(FUNCTION_FIELD, "")) for end in ends), "")


def _failed_step(span: Span) -> str:
    return next((record.step for record in span.records if record.step and record.outcome == "failed"), "")


def _recorded(trace: Trace, span: Span, inner: tuple[RecordedFailure, ...] | None = None) -> RecordedFailure:
    start = next((record for record in span.records if record.kind == "operation_start"), None)
    error = span.error
    return RecordedFailure(
        operation=span.operation,
        function=_function_of(span),
        arguments=None if start is None else start.context,
        step=_failed_step(span),
        error=error,
        raised=error is not None
        and error.is_defect
        and (not error.stack_trace or "decorate.<locals>.observed" in error.stack_trace),
        correlation_id=trace.correlation_id,
        at=span.started,
        inner=tuple(_inner(trace, span)) if inner is None else inner,
    )


def _inner(trace: Trace, span: Span) -> Iterator[RecordedFailure]:
    """The operations that failed inside, the outermost of each branch, with the other calls of the same operations."""
    reached: list[Span] = []
    waiting = list(reversed(span.children))
    while waiting:
        child = waiting.pop()
        reached.append(child)
        if not (_failed(child) and _function_of(child)):
            waiting += reversed(child.children)
    functions = {child.operation: _function_of(child) for child in reached if _failed(child) and _function_of(child)}
    for child in reached:
        if child.operation in functions and child.outcome in ("ok", "failed"):
            yield _recorded(trace, child, ())


# --- the test that is written ---------------------------------------------------------------------------------------


class Written(NamedTuple):
    """The text of a test, and what is left to do in it."""

    source: str
    todo: tuple[str, ...]


def write_test(failure: RecordedFailure) -> Written:
    """
    Make a pytest file of *failure*. Imports the module of its function.

    The test passes while the operation fails as it did.

    Raises:
        ReplayError: The function cannot be imported, or is none that can be named.
    """
    return _Writer(failure).write()


class _Target(NamedTuple):
    """A function that was found again: what to import of which module, and how it is called from there."""

    module: str
    owner: str  # the class that it is a method of, "" for none
    name: str
    function: Callable[..., object]

    @property
    def undecorated(self) -> Any:
        return inspect.unwrap(self.function)


def _found(failure: RecordedFailure) -> _Target:
    path = failure.function
    if "<locals>" in path or "<lambda>" in path:
        raise ReplayError(
            failure.operation, f"its function {path} is made inside another one; move it to its module's level"
        )
    parts = path.split(".")
    for size in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:size])
        try:
            module: object = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and not f"{name}.".startswith(f"{error.name}."):
                raise ReplayError(failure.operation, f"{name} needs the module {error.name!r}; install it") from error
            continue
        except Exception as error:  # whatever a stranger's module does when it is imported
            raise ReplayError(
                failure.operation, f"{name} cannot be imported: {type(error).__name__}: {error}"
            ) from error
        found = module
        for part in parts[size:]:
            found = getattr(found, part, None)
        if not callable(found):
            raise ReplayError(failure.operation, f"{name} has no function {'.'.join(parts[size:])} any more")
        return _Target(name, ".".join(parts[size:-1]), parts[-1], found)
    raise ReplayError(
        failure.operation, f"there is no module for {path}; run this where the service runs, with the same PYTHONPATH"
    )


@dataclass(slots=True)
class _Fixture:
    name: str
    returns: str  # its annotation
    says: str
    body: str


@dataclass(slots=True)
class _Writer:
    failure: RecordedFailure
    imports: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    fixtures: list[_Fixture] = field(default_factory=list[_Fixture])
    todo: list[str] = field(default_factory=list[str])

    def write(self) -> Written:
        failure = self.failure
        target = _found(failure)
        called = self._called(target)
        arguments = self._arguments(target)
        mocks = self._mocks(target)
        self._use("rfs.testing.replay", "assert_reproduces")
        how = f"{f' at {failure.step}' if failure.step else ''} with {failure.code or 'no code'}"
        lines = [
            "assert_reproduces(",
            *_indented(_called_with(called, arguments)),
            f"    operation={_text(failure.operation)},",
            f"    step={_text(failure.step)},",
            f"    code={_text(failure.code)},",
            ")",
        ]
        if mocks:
            entered = [f"{call} as {name}" for call, name, _ in mocks]
            begin = f"with {entered[0]}:"
            head = [begin] if len(mocks) == 1 and len(begin) <= _LINE - 4 else [
                "with (", *(f"    {one}," for one in entered), "):",
            ]  # fmt: skip
            lines = [*head, *_indented([line for *_, body in mocks for line in body]), "", *_indented(lines)]
        given = [f"{one.name}: {one.returns}" for one in self.fixtures]
        message = "" if failure.error is None else _one_line(failure.error.message)
        source = [
            '"""',
            _in_docstring(f"{failure.operation} failed{how}, recorded {failure.at:%Y-%m-%d %H:%M:%S} UTC."),
            "",
            _in_docstring(f"Correlation id {failure.correlation_id}. Written by `rfs replay`."),
            '"""',
            "",
            *self._import_lines(),
            *(line for one in self.fixtures for line in ("", "", *_fixture(one))),
            "",
            "",
            _bracketed(f"def {_test_name(failure)}(", given, ") -> None:", _LINE),
            '    """',
            f"    {_in_docstring(f'It fails{how}, as it was recorded: {message}'.rstrip(' :'))}",
            "",
            "    Passes while it does. When it is mended, assert here what it does instead.",
            '    """',
            *_indented(lines),
        ]
        return Written("\n".join(source) + "\n", tuple(self.todo))

    def _use(self, module: str, name: str) -> str:
        if module != "builtins":
            self.imports.setdefault(module, set()).add(name)
        return name

    def _import_lines(self) -> list[str]:
        groups: list[list[str]] = [["import pytest"] if self.fixtures else [], []]
        for module, names in sorted(self.imports.items()):
            line = f"from {module} import {', '.join(sorted(names))}"
            if len(line) > _LINE:
                line = "\n".join([f"from {module} import (", *(f"    {name}," for name in sorted(names)), ")"])
            groups[module.partition(".")[0] != "rfs"].append(line)
        lines = ["from __future__ import annotations"]
        for group in groups:
            if group:
                lines += ["", *group]
        return lines

    # What is called, and with what

    def _called(self, target: _Target) -> str:
        if not target.owner:
            return self._use(target.module, target.name)
        owner = target.owner
        self._use(target.module, owner.partition(".")[0])
        if _receiver(target) != "self":
            return f"{owner}.{target.name}"
        cls = _attribute(sys.modules[target.module], owner)
        name = self._todo(
            _snake(owner.rpartition(".")[2]), owner, f"make the {owner} as the service does.",
            f"return {owner}()" if _needs_nothing(cls) else f'raise NotImplementedError("TODO: make a {owner}")',
        )  # fmt: skip
        return f"{name}.{target.name}"

    def _taken(self) -> frozenset[str]:
        """Names that stand for something in the file already, or may before it is written."""
        return _NAMES.union((one.name for one in self.fixtures), *self.imports.values())

    def _todo(self, name: str, returns: str, says: str, body: str) -> str:
        """Leave something to the reader, in a fixture; gives its name."""
        self.todo.append(f"{name}: {says}")
        while name in self._taken():
            name += "_value"
        self.fixtures.append(_Fixture(name, returns, f"TODO: {says}", body))
        return name

    def _arguments(self, target: _Target) -> list[str]:
        recorded = self.failure.arguments or {}
        parameters = list(inspect.signature(target.undecorated).parameters.values())
        if _receiver(target):
            parameters = parameters[1:]
        hints = _hints(target.undecorated)
        positional: list[str] = []
        named: list[str] = []
        for parameter in parameters:
            name = parameter.name
            if parameter.kind is parameter.VAR_POSITIONAL:
                more = recorded.get("args")
                if isinstance(more, list):
                    # Only what comes first can come before more of them.
                    positional += [part.partition("=")[2] for part in named]
                    named.clear()
                    values = cast("list[object]", more)
                    positional += [_literal(each) for each in values]
                    self._hidden(name, values)
                continue
            if parameter.kind is parameter.VAR_KEYWORD:
                self.todo.append(
                    f"{name}: what else it was called with is not told apart from what was bound to the request"
                )
                continue
            if name not in recorded and parameter.default is not parameter.empty:
                continue
            value = self._value(target, name, hints.get(name), recorded)
            if parameter.kind is parameter.POSITIONAL_ONLY:
                positional.append(value)
            else:
                named.append(f"{name}={value}")
        return [*positional, *named]

    def _value(self, target: _Target, name: str, hint: object, recorded: Mapping[str, Any]) -> str:
        if name not in recorded:
            return self._made_up(name, hint, "was not recorded")
        value: object = recorded[name]
        if isinstance(value, str) and (marker := _MARKER.search(value)):
            return self._made_up(name, hint, f"was recorded as {marker[0]}")
        if hint is None or hint is Any or hint is object:
            if isinstance(recorded[name], dict):  # an object of some class, of which nobody says which
                self.todo.append(f"{name}: was an object, if not a dict; only its fields are known")
            again: object = recorded[name]
        else:
            try:
                again = _converted(hint, value)
            except Exception as error:  # noqa: BLE001 - any type of a stranger, in any of its ways
                return self._made_up(name, hint, f"cannot be made of what was recorded ({type(error).__name__})")
        self._hidden(name, value)
        if type(again) is type(value) and again == value:
            return _literal(recorded[name])
        owner = f"{target.owner}.{target.name}" if target.owner else target.name
        self._use(target.module, owner.partition(".")[0])
        self._use("rfs.testing.replay", "rebuilt")
        return _bracketed("rebuilt(", [owner, _text(name), _literal(recorded[name])], ")")

    def _hidden(self, name: str, value: object) -> None:
        """Leave what is not as it was, somewhere in *value*, to the reader."""
        if hidden := ", ".join(dict.fromkeys(_markers(value, name))):
            self.todo.append(f"{name}: of it {hidden} was masked or cut; markers stand in the place")

    def _made_up(self, name: str, hint: Any, why: str) -> str:
        """A fixture with some value of that type."""
        shown, body = "object", 'raise NotImplementedError("TODO: give it a value")'
        for kind in (hint, *get_args(hint)):
            if kind in (str, int, float, bool, bytes):
                shown, body = kind.__name__, f"return {_PLAIN[kind]}"
                break
            if isinstance(kind, type) and _has_fields(kind) and _is_importable(kind):
                shown = self._use(kind.__module__, kind.__name__)
                self._use("rfs.testing.generators", "TestDataFactory")
                body = f"return TestDataFactory().build({shown})"
                break
        return self._todo(name, shown, f"{name} {why}; this is made up.", body)

    # What is put in the place of dependencies

    def _mocks(self, target: _Target) -> list[tuple[str, str, list[str]]]:
        calls: dict[str, list[RecordedFailure]] = {}
        by_operation = {one.operation: one.function for one in self.failure.inner if one.function}
        for one in self.failure.inner:
            calls.setdefault(by_operation[one.operation], []).append(one)
        mocks: list[tuple[str, str, list[str]]] = []
        for outcomes in calls.values():
            first = next(one for one in outcomes if one.error is not None)
            try:
                dependency = _found(first)
            except ReplayError as error:
                self.todo.append(f"{first.operation}: failed inside, and is not mocked: {error.fault}")
                continue
            service, method = _place(target, dependency)
            name = f"{_snake(dependency.name)}_mock"
            while name in self._taken().union(made for _, made, _ in mocks):
                name += "_"
            self._use("rfs.testing.result_helpers", "mock_result_service")
            body = self._answers(name, outcomes, dependency)
            mocks.append((f"mock_result_service({_text(service)}, {_text(method)})", name, body))
        return mocks

    def _answers(self, name: str, outcomes: Sequence[RecordedFailure], dependency: _Target) -> list[str]:
        """What lets the mock of that name answer its calls as they were answered."""
        given = [(one.raised, "" if one.error is None else self._error(one.error, dependency)) for one in outcomes]
        if len(set(given)) == 1:
            raised, error = given[0]
            return [_bracketed(f"{name}.{'inject_fault' if raised else 'return_error'}(", [error], ")", _LINE - 8)]
        if any(not error for _, error in given):
            self._use("rfs.core.result", "Success")
            self.todo.append(
                f"{dependency.name}: what it gave where it succeeded was not recorded; None stands in its place"
            )
        results: list[str] = []
        faults: list[str] = []
        for number, (raised, error) in enumerate(given, 1):
            if raised:
                faults.append(_bracketed(f"{name}.inject_fault(", [error, f"calls={{{number}}}"], ")", _LINE - 8))
            elif error:
                self._use("rfs.core.result", "Failure")
                results.append(_bracketed("Failure(", [error], ")", _LINE - 17))
            else:
                results.append("Success(None)")
        if results:
            listed = ", ".join(results)
            if len(listed) <= _LINE // 2:
                faults.insert(0, f"{name}.return_sequence([{listed}])")
            else:
                lines = ["[", *_indented([f"{each}," for each in results]), "]"]
                lines = [f"{name}.return_sequence(", *_indented(lines), ")"]
                faults.insert(0, "\n".join(lines))
        return faults

    def _error(self, error: ErrorInfo, dependency: _Target) -> str:
        if error.type == "str":
            return _text(error.message)
        module = sys.modules[dependency.module]
        for home in (module, _module_of_stack(error), builtins):
            cls: object = getattr(home, error.type, None)
            if not (isinstance(cls, type) and _is_importable(cls)):
                continue
            if issubclass(cls, Enum):
                member = next((each for each in cls if error_code(each) == error.code), None)
                if member is not None:
                    return f"{self._use(cls.__module__, error.type)}.{member.name}"
            for given in ((error.message,), (error.code, error.message), ()):
                if _is_again(cast("type[object]", cls), given, error):
                    return f"{self._use(cls.__module__, error.type)}({', '.join(map(_text, given))})"
        self._use("rfs.testing.replay", "recorded_error")
        expected = ", expected=True" if error.expected else ""
        return f"recorded_error({_text(error.type)}, {_text(error.code)}, {_text(error.message)}{expected})"


def _is_importable(cls: type) -> bool:
    """Whether it can be had by its name from its module."""
    return getattr(sys.modules.get(cls.__module__), cls.__name__, None) is cls


def _is_again(cls: type[object], given: tuple[str, ...], error: ErrorInfo) -> bool:
    try:
        made: object = cls(*given)
        return error_code(made) == error.code and (error.message in str(made) or not given)
    except Exception:  # noqa: BLE001 - a stranger's class, called as it may not want to be
        return False


def _module_of_stack(error: ErrorInfo) -> ModuleType | None:
    for line in reversed((error.stack_trace or "").splitlines()):
        if match := re.match(rf"([\w.]+)\.{re.escape(error.type)}(?::|$)", line):
            return sys.modules.get(match[1])
    return None


def _place(target: _Target, dependency: _Target) -> tuple[str, str]:
    """By which name the target calls its dependency: in its own module, if it has been imported there."""
    if not dependency.owner:
        for name, value in vars(sys.modules[target.module]).items():
            if value is dependency.function:
                return target.module, name
        return dependency.module, dependency.name
    return f"{dependency.module}.{dependency.owner}", dependency.name


def _receiver(target: _Target) -> str:
    if not target.owner:
        return ""
    first = next(iter(inspect.signature(target.undecorated).parameters), "")
    return first if first in ("self", "cls") else ""


def _needs_nothing(cls: object) -> bool:
    try:
        inspect.signature(cast("Callable[..., object]", cls)).bind()
    except (TypeError, ValueError):
        return False
    return True


def _attribute(found: object, path: str) -> object:
    for part in path.split("."):
        found = getattr(found, part)
    return found


def _hints(function: Callable[..., object]) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except Exception:  # noqa: BLE001 - annotations are a stranger's text; without them everything is what it looks like
        return {}


# --- values ---------------------------------------------------------------------------------------------------------

# What the masker writes in the place of what it does not show.
_MARKER = re.compile(
    r"\[masked:\w+\]|<\d+ characters left out>|\A<(?:\d+ more|int of \d+ bits|more|[A-Za-z_][\w.]*)>\Z"
)


def _markers(value: object, path: str) -> Iterator[str]:
    """Where in *value* something is not as it was."""
    if isinstance(value, str):
        if _MARKER.search(value):
            yield path
    elif isinstance(value, Mapping):
        for key, each in cast("Mapping[str, object]", value).items():
            if _MARKER.search(key):
                yield path
            yield from _markers(each, f"{path}.{key}")
    elif isinstance(value, list):
        for index, each in enumerate(cast("list[object]", value)):
            yield from _markers(each, f"{path}[{index}]")


def _converted(hint: Any, value: object) -> object:
    for kind in (hint, *get_args(hint)):
        validate = getattr(kind, "model_validate", None)
        if validate is not None and isinstance(value, Mapping):
            return validate(value)
    return msgspec.convert(value, hint, strict=False)


_PLAIN: Mapping[type, str] = {str: '"TODO"', int: "0", float: "0.0", bool: "False", bytes: 'b"TODO"'}


def _has_fields(kind: type) -> bool:
    """Whether it is a dataclass, a struct of msgspec, or a model of pydantic."""
    return any(hasattr(kind, name) for name in ("__dataclass_fields__", "__struct_fields__", "model_fields"))


# --- text -----------------------------------------------------------------------------------------------------------


def _text(value: str) -> str:
    quote = "'" if value.count('"') > value.count("'") else '"'
    shown = (
        f"\\{each}" if each in (quote, "\\") else each if each.isprintable() else each.encode("unicode_escape").decode()
        for each in value
    )  # fmt: skip
    return f"{quote}{''.join(shown)}{quote}"


def _literal(value: object) -> str:
    """*value*, which is plain JSON, as Python; what is long over several lines."""
    match value:
        case str():
            return _text(value)
        case dict():
            items = [
                f"{_text(str(key))}: {_literal(each)}" for key, each in cast("dict[object, object]", value).items()
            ]
            return _bracketed("{", items, "}")
        case list():
            return _bracketed("[", [_literal(each) for each in cast("list[object]", value)], "]")
        case _:
            return repr(value)


def _bracketed(opening: str, items: Sequence[str], closing: str, width: int = _LINE // 2) -> str:
    """On one line if it is short, else one item a line; a formatter leaves both as they are."""
    short = f"{opening}{', '.join(items)}{closing}"
    if len(short) <= width:  # an item that is several lines already is longer
        return short
    return "\n".join([opening, *_indented([f"{item}," for item in items]), closing])


def _called_with(called: str, arguments: Sequence[str]) -> list[str]:
    """What calls it: itself, if there is nothing to call it with."""
    if not arguments:
        return [f"{called},"]
    return [f"lambda: {called}(", *_indented([f"{argument}," for argument in arguments]), "),"]


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"    {line}" if line else "" for text in lines for line in text.split("\n")]


def _fixture(fixture: _Fixture) -> list[str]:
    return [
        "@pytest.fixture",
        f"def {fixture.name}() -> {fixture.returns}:",
        f'    """{_in_docstring(fixture.says)}"""',
        f"    {fixture.body}",
    ]


def _one_line(text: str, most: int = 200) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[:most]}…"


def _in_docstring(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text).replace("\\", "/").replace('"', "'")


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _test_name(failure: RecordedFailure) -> str:
    return re.sub(r"\W+", "_", f"test_{failure.operation}_fails_with_{failure.code}").lower()


def file_name(failure: RecordedFailure) -> str:
    """What the file of such a test is called."""
    return re.sub(r"\W+", "_", f"test_{failure.operation}_{failure.code}").lower() + ".py"


# --- what the written file uses --------------------------------------------------------------------------------------


def assert_reproduces(call: Callable[[], object], *, operation: str, step: str, code: str) -> None:
    """
    Make *call*, and fail unless *operation* fails in it with *code*, and *step* is its first logged step that failed.

    What *call* returns is awaited if it can be; what it raises counts by what was recorded of it. It records into a monitor of
    its own.

    Raises:
        AssertionError: It does not; the message says what happens instead.
    """
    __tracebackhide__ = True
    raised: Exception | None = None
    with use_monitor(Monitor(level=10)) as monitor, CorrelationContext("replay"):
        try:
            answer = call()
            if inspect.isawaitable(answer):
                asyncio.run(_awaited(answer))
        except Exception as error:  # noqa: BLE001 - the failure that is looked for may be one that is raised
            raised = error
        trace = monitor.query.trace("replay")
    spans = [span for outermost in trace.spans for _, span in outermost.walk() if span.operation == operation]
    found = [(span.error.code, _failed_step(span)) for span in spans if span.error is not None and _failed(span)]
    if (code, step) in found:
        return
    if found:
        now = "; ".join(_says(*each) for each in found)
    elif spans:
        now = "it did not fail; if it is mended, assert what it does instead"
    else:
        now = "it was not called"
    if raised is not None and not found:
        now += f"; {type(raised).__name__} was raised: {raised}"
    raise AssertionError(
        f"{operation} does not fail as it did\n  recorded: {_says(code, step)}\n  now:      {now}"
    ) from raised


def _says(code: str, step: str) -> str:
    return f"code {code} at step {step!r}" if step else f"code {code}, no logged step failed"


async def _awaited(answer: Awaitable[object]) -> None:
    isinstance(await answer, Failure)  # looked at, so that the test need not: what is asserted are its records


def rebuilt(function: Callable[..., object], parameter: str, recorded: object) -> Any:
    """
    Make the value of a parameter again from what was recorded of it, by the annotation that *function* has for it.

    Raises:
        ReplayError: It cannot be, since the type has changed.
    """
    hint = _hints(inspect.unwrap(function)).get(parameter, Any)
    try:
        return _converted(hint, recorded)
    except Exception as error:
        raise ReplayError(parameter, f"what was recorded of it is no {hint} any more: {error}") from error


def recorded_error(type_name: str, code: str, message: str, *, expected: bool = False) -> Exception:
    """An exception that stands for a recorded error whose class cannot be made again: of the same name, code and text."""
    error: Exception = type(type_name, (Exception,), {"code": code, "expected": expected})(message)
    return error
