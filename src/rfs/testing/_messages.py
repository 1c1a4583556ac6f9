"""
What a failure message shows: Results, errors, and how two values differ.

A value is asked for its ``repr`` and for ``==`` and nothing else, so matchers
(``dirty_equals``, ``pytest.approx``) are as good as values wherever something
is expected. Whatever these raise is part of the message and never hides it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from difflib import ndiff
from types import TracebackType
from typing import Any, NoReturn, cast

from rfs.core.result import Failure, Success, error_code, is_expected
from rfs.errors import StepTimeoutError
from rfs.testing._births import birth_of, place

__all__ = ["describe", "difference", "equal", "fail", "shown"]

LONGEST = 2_000  # characters of one value
MOST = 20  # lines of one difference


def fail(message: str) -> NoReturn:
    """
    Fail the test with *message*.

    Raised and not asserted, so ``python -O`` fails it too. A function that calls this sets
    ``__tracebackhide__ = True``: pytest then points at the line of the test.
    """
    __tracebackhide__ = True
    raise AssertionError(message)


def describe(value: object) -> str:
    """
    Show *value*; of a Failure or an exception also its code, and its step and origin where they are known.

    The origin of an exception is where it was raised, that of any other error where its Failure was made (known
    inside of `rfs.testing._births.remembered`).
    """
    if isinstance(value, Failure):
        failure = cast("Failure[object]", value)
        kind = "a defect" if failure.is_defect else "an expected failure" if is_expected(failure.error) else ""
        return "\n".join([f"Failure({shown(failure.error)})", *_told(failure.error, failure, kind)])
    if isinstance(value, Success):
        return f"Success({shown(cast('Success[object]', value).value)})"
    if isinstance(value, BaseException):
        return "\n".join([shown(value), *_told(value, None, "")])
    return shown(value)


def difference(expected: object, actual: object) -> str:
    """
    Tell where *actual* is not as *expected*, one line for each place, the outermost name first.

    Looks into mappings, sequences, dataclasses, models with fields (pydantic, msgspec, attrs), Results and texts of
    several lines. Where nothing differs, it says so.
    """
    lines = list(_differences("", expected, actual, 0))
    if not lines:
        return "no difference"
    more = [f"... and {len(lines) - MOST} more"] if len(lines) > MOST else []
    return "\n".join([*lines[:MOST], *more])


def equal(expected: object, actual: object) -> bool:
    """Say whether *actual* is as *expected*, a value or a matcher; what cannot be compared is not."""
    try:
        return bool(expected == actual)
    except Exception:  # noqa: BLE001 - a stranger's `==`; `difference` tells what it raised
        return False


def shown(value: object) -> str:
    """Return the ``repr`` of *value*, shortened beyond `LONGEST` characters; never raises."""
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001 - a broken repr must not hide what the message is about
        return f"<{type(value).__name__}, whose repr raises {type(error).__name__}>"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text) - LONGEST} more characters)"


# --- errors -------------------------------------------------------------------------


def _told(error: object, failure: Failure[object] | None, kind: str) -> Iterator[str]:
    """Yield what is known of an error, one indented line each."""
    yield f"    code: {error_code(error)}{f' ({kind})' if kind else ''}"
    birth = birth_of(failure) if failure is not None else None
    step = error.step if isinstance(error, StepTimeoutError) else birth.step if birth is not None else ""
    if step:
        yield f"    step: {step}{f' of {birth.chain}' if birth is not None and birth.chain else ''}"
    raised = _raised_at(error.__traceback__) if isinstance(error, BaseException) else ""
    if raised:
        yield f"    raised at: {raised}"
    elif birth is not None and birth.origin:
        yield f"    made at: {birth.origin}"
    for function in birth.by_way_of if birth is not None else ():
        yield f"    then map_error: {function}"
    cause = error.__cause__ if isinstance(error, BaseException) else None
    if cause is not None and not isinstance(error, StepTimeoutError):  # whose cause is asyncio's own
        where = _raised_at(cause.__traceback__)
        yield f"    cause: {shown(cause)}{f', raised at {where}' if where else ''}"


def _raised_at(trace: TracebackType | None) -> str:
    if trace is None:
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    return place(trace.tb_frame.f_code, trace.tb_lineno)


# --- differences ----------------------------------------------------------------------

_DEEPEST = 20
_MISSING: Any = object()


def _differences(where: str, expected: object, actual: object, depth: int) -> Iterator[str]:
    try:
        if expected == actual:
            return
    except Exception as error:  # noqa: BLE001 - see `equal`
        yield f"{where or 'value'}: {shown(expected)} and {shown(actual)} cannot be compared: {shown(error)}"
        return
    if isinstance(expected, str) and isinstance(actual, str) and ("\n" in expected or "\n" in actual):
        yield f"{where or 'text'}:"
        yield from (f"    {line.rstrip()}" for line in ndiff(expected.splitlines(True), actual.splitlines(True)))
        return
    parts = _parts(expected), _parts(actual)
    if parts[0] is None or parts[1] is None or type(expected) is not type(actual) or depth == _DEEPEST:
        yield f"{where or 'value'}: expected {shown(expected)}, got {shown(actual)}{_type_note(expected, actual)}"
        return
    lines = [line for each in _pairs(parts[0], parts[1]) for line in _part(where, *each, depth)]
    # Equal in all its parts, and yet not equal: its class compares otherwise.
    yield from lines or [f"{where or 'value'}: {shown(expected)} does not equal {shown(actual)}"]


def _part(where: str, name: str, expected: object, actual: object, depth: int) -> Iterator[str]:
    here = f"{where}{name}"
    if expected is _MISSING:
        yield f"{here}: not expected, got {shown(actual)}"
    elif actual is _MISSING:
        yield f"{here}: expected {shown(expected)}, missing"
    else:
        yield from _differences(here, expected, actual, depth + 1)


def _pairs(expected: Mapping[str, object], actual: Mapping[str, object]) -> Iterator[tuple[str, object, object]]:
    for name in {**expected, **actual}:
        yield name, expected.get(name, _MISSING), actual.get(name, _MISSING)


def _parts(value: Any) -> dict[str, object] | None:
    """Return what *value* consists of, under the names by which one gets there; ``None`` if it is one piece."""
    try:
        if isinstance(value, Success):
            return {".value": cast("Success[object]", value).value}
        if isinstance(value, Failure):
            return {".error": cast("Failure[object]", value).error}
        if isinstance(value, Mapping):
            return {f"[{key!r}]": each for key, each in cast("Mapping[object, object]", value).items()}
        names = _field_names(value)
        if names:
            return {f".{name}": getattr(value, name) for name in names}
        if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
            return {f"[{index}]": each for index, each in enumerate(cast("Sequence[object]", value))}
    except Exception:  # noqa: BLE001 - a stranger's object that cannot be looked into is shown in one piece
        return None
    return None


def _field_names(value: Any) -> list[str]:
    if is_dataclass(value):
        return [field.name for field in fields(value) if field.compare]
    # What pydantic, msgspec, attrs and named tuples call the names of their fields.
    for attribute in ("__pydantic_fields__", "__struct_fields__", "__attrs_attrs__", "_fields"):
        names: Any = getattr(cast("object", type(value)), attribute, None)
        if names:
            return [getattr(name, "name", name) for name in names]
    return []


def _type_note(expected: object, actual: object) -> str:
    """Tell the types where the shown values do not."""
    same = type(expected) is type(actual) or shown(expected) != shown(actual)
    return "" if same else f" ({type(expected).__name__} and {type(actual).__name__})"
