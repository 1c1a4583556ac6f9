"""
A failure is a value: ``Success``, ``Failure``, and what works on both.

For type checkers ``Result[T, E]`` is the union ``Success[T] | Failure[E]``, so
that they can prove a ``match`` complete. At run time it is the base class of
both, so that ``isinstance(x, Result)`` answers.

An ``Exception`` raised by a function handed to ``map``, ``bind`` and their kin
does not escape: it becomes a Failure that holds the exception itself, traceback
and all, and says so by ``is_defect``. Statically such an error still passes as
``E``. ``CancelledError``, ``KeyboardInterrupt`` and every other exception
that is not an ``Exception`` pass through. The functor and monad laws therefore hold
for functions that return.

Standard library only. Nothing here logs, waits or reads a clock; instances
cannot be changed and are safe from any thread.
"""

# ruff: noqa: ARG002 - each kind answers every method, also where it has no use for the argument
# ruff: noqa: BLE001 - making a value of whatever exception was raised is what this module is for

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from enum import Enum
from functools import wraps
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Generic, Never, NoReturn, ParamSpec, TypeAlias, TypeVar, cast, overload

from rfs.errors import UnwrapError

if TYPE_CHECKING:
    from typing_extensions import TypeIs

__all__ = [
    "Failure",
    "Result",
    "Success",
    "async_result_decorator",
    "async_try_except",
    "check_is_exception",
    "combine",
    "error_code",
    "failure",
    "first_success",
    "from_optional",
    "get_error",
    "get_value",
    "is_expected",
    "is_failure",
    "is_success",
    "partition",
    "pipe_results",
    "result_decorator",
    "sequence",
    "success",
    "traverse",
    "try_except",
]

T = TypeVar("T")
E = TypeVar("E")
U = TypeVar("U")
F = TypeVar("F")
P = ParamSpec("P")
T_co = TypeVar("T_co", covariant=True)
E_co = TypeVar("E_co", covariant=True)
R = TypeVar("R", bound="_Result[Any, Any]")


class _Result(Generic[T_co, E_co]):
    """What ``isinstance(x, Result)`` asks for at run time."""

    __slots__ = ()

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} cannot be changed: tried to set {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} cannot be changed: tried to delete {name!r}")

    def __copy__(self) -> Any:
        return self


class Success(_Result[T_co, Never]):
    """
    It went well, and this is the *value*: anything, ``None`` included.

    >>> Success(20).map(lambda n: n + 1)
    Success(21)
    """

    __match_args__ = ("value",)

    if TYPE_CHECKING:

        @property
        def value(self) -> T_co:
            """What was achieved."""
            ...
    else:
        __slots__ = ("value",)

    def __init__(self, value: T_co) -> None:
        _set_value(self, value)

    def is_success(self) -> bool:
        """Return ``True``. ``is_success(result)``, the function, also narrows the type."""
        return True

    def is_failure(self) -> bool:
        """Return ``False``. ``is_failure(result)``, the function, also narrows the type."""
        return False

    def unwrap(self) -> T_co:
        """Return the value."""
        return self.value

    def unwrap_error(self) -> NoReturn:
        """Raise `UnwrapError`: there is no error."""
        raise UnwrapError("unwrap_error", self.value)

    def unwrap_or(self, default: object) -> T_co:
        """Return the value, even when it is ``None``."""
        return self.value

    def get(self) -> T_co:
        """Return the value."""
        return self.value

    def get_error(self) -> None:
        """Return ``None``."""

    def map(self, f: Callable[[T_co], U]) -> Success[U]:
        """Put the value through *f*; an exception of *f* makes a Failure that holds it."""
        try:
            return Success(f(self.value))
        except Exception as error:
            return cast("Success[U]", Failure.from_exception(error))

    def bind(self, f: Callable[[T_co], R]) -> R:
        """
        Return the Result that *f* makes of the value, as it is.

        An exception of *f*, or an answer that is no Result, makes a Failure
        that holds the exception.
        """
        try:
            answer: object = f(self.value)
        except Exception as error:
            answer = Failure.from_exception(error)
        return cast("R", as_result(answer, "bind"))

    flat_map = bind

    def map_error(self, f: Callable[[Any], object]) -> Success[T_co]:
        """Return this; *f* is not called."""
        return self

    def or_else(self, f: Callable[[], object]) -> Success[T_co]:
        """Return this; *f* is not called."""
        return self

    def recover(self, f: Callable[[Any], object]) -> Success[T_co]:
        """Return this; *f* is not called."""
        return self

    def filter(self, predicate: Callable[[T_co], object], error: F) -> Result[T_co, F]:
        """Return this if the value passes *predicate*, else ``Failure(error)``."""
        try:
            return self if predicate(self.value) else Failure(error)
        except Exception as raised:
            return cast("Failure[F]", Failure.from_exception(raised))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Success):
            return bool(self.value == cast("Success[object]", other).value)
        return NotImplemented

    def __hash__(self) -> int:
        return hash((Success, self.value))

    def __str__(self) -> str:
        return f"Success({self.value!s})"

    def __repr__(self) -> str:
        return f"Success({self.value!r})"

    def __reduce__(self) -> tuple[Callable[..., Success[T_co]], tuple[T_co]]:
        return Success, (self.value,)


class Failure(_Result[Never, E_co]):
    """
    It did not go well, and this is the *error*: anything, ``None`` included.

    ``is_defect`` tells a bug (an exception that a function raised unasked) from
    a failure of the domain. It is no part of equality.

    >>> Failure("sold out").map(lambda n: n + 1)
    Failure('sold out')
    """

    __match_args__ = ("error",)

    if TYPE_CHECKING:

        @property
        def error(self) -> E_co:
            """What went wrong."""
            ...

        @property
        def is_defect(self) -> bool:
            """Whether an exception that nobody declared made this Failure."""
            ...
    else:
        __slots__ = ("error",)
        is_defect = False

    def __init__(self, error: E_co) -> None:
        _set_error(self, error)

    @staticmethod
    def from_exception(error: F) -> Failure[F]:
        """Make a defect: a Failure for an exception that nobody declared."""
        return _Defect(error)

    def is_success(self) -> bool:
        """Return ``False``. ``is_success(result)``, the function, also narrows the type."""
        return False

    def is_failure(self) -> bool:
        """Return ``True``. ``is_failure(result)``, the function, also narrows the type."""
        return True

    def unwrap(self) -> NoReturn:
        """
        Raise `UnwrapError`, a ``ValueError`` that carries the error.

        Where the error is an exception, it is the cause of what is raised.
        """
        cause = self.error if isinstance(self.error, BaseException) else None
        raise UnwrapError("unwrap", self.error) from cause

    def unwrap_error(self) -> E_co:
        """Return the error."""
        return self.error

    def unwrap_or(self, default: U) -> U:
        """Return *default*."""
        return default

    def get(self) -> None:
        """Return ``None``."""

    def get_error(self) -> E_co:
        """Return the error."""
        return self.error

    def map(self, f: Callable[[Any], object]) -> Failure[E_co]:
        """Return this; *f* is not called."""
        return self

    def bind(self, f: Callable[[Any], object]) -> Failure[E_co]:
        """Return this; *f* is not called."""
        return self

    flat_map = bind

    def map_error(self, f: Callable[[E_co], F]) -> Failure[F]:
        """
        Put the error through *f*; an exception of *f* becomes the error.

        What *f* makes of a defect is still a defect.
        """
        try:
            error = f(self.error)
        except Exception as raised:
            return cast("Failure[F]", Failure.from_exception(raised))
        return Failure.from_exception(error) if self.is_defect else Failure(error)

    def or_else(self, f: Callable[[], R]) -> R:
        """Return the Result that *f* gives; its exception makes a Failure."""
        try:
            answer: object = f()
        except Exception as raised:
            answer = Failure.from_exception(raised)
        return cast("R", as_result(answer, "or_else"))

    def recover(self, f: Callable[[E_co], U]) -> Success[U]:
        """Return a Success of what *f* makes of the error; its exception makes a Failure."""
        try:
            return Success(f(self.error))
        except Exception as raised:
            return cast("Success[U]", Failure.from_exception(raised))

    def filter(self, predicate: Callable[[Any], object], error: object) -> Failure[E_co]:
        """Return this; *predicate* is not called."""
        return self

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Failure):
            return bool(self.error == cast("Failure[object]", other).error)
        return NotImplemented

    def __hash__(self) -> int:
        return hash((Failure, self.error))

    def __str__(self) -> str:
        return f"Failure({self.error!s})"

    def __repr__(self) -> str:
        return f"Failure({self.error!r})"

    def __reduce__(self) -> tuple[Callable[..., Failure[Any]], tuple[E_co]]:
        return (Failure.from_exception if self.is_defect else Failure), (self.error,)


class _Defect(Failure[E_co]):
    """A Failure in all, and a class of its own: so no declared failure has to be told that it is none."""

    if not TYPE_CHECKING:
        __slots__ = ()
        is_defect = True


# The slots' own setters, taken once: they go past the __setattr__ that refuses.
_set_value: Callable[[Success[Any], object], None] = vars(Success)["value"].__set__
_set_error: Callable[[Failure[Any], object], None] = vars(Failure)["error"].__set__

if TYPE_CHECKING:
    Result: TypeAlias = Success[T] | Failure[E]
else:
    Result = _Result
    Result.__name__ = Result.__qualname__ = "Result"

AnyResult: TypeAlias = Result[Any, Any]


def as_result(answer: object, where: str) -> Any:
    """Return *answer* if it is a Result, else the defect for the function, given to *where*, that owed one."""
    if isinstance(answer, _Result):
        return cast("AnyResult", answer)
    fault = f"the function given to {where} must return a Result, not {type(answer).__name__}"
    return Failure.from_exception(TypeError(fault))


# --- the two kinds -------------------------------------------------------------


def success(value: T) -> Success[T]:
    """Return ``Success(value)``."""
    return Success(value)


def failure(error: E) -> Failure[E]:
    """Return ``Failure(error)``."""
    return Failure(error)


def is_success(result: Result[T, E]) -> TypeIs[Success[T]]:
    """Say whether it is a Success, to the reader and to the type checker."""
    return isinstance(result, Success)


def is_failure(result: Result[T, E]) -> TypeIs[Failure[E]]:
    """Say whether it is a Failure, to the reader and to the type checker."""
    return isinstance(result, Failure)


def get_value(result: Result[T, E], default: T | None = None) -> T | None:
    """Return the value, or *default* for a Failure."""
    return result.value if isinstance(result, Success) else default


def get_error(result: Result[T, E]) -> E | None:
    """Return the error, or ``None`` for a Success."""
    return result.error if isinstance(result, Failure) else None


def check_is_exception(value: object) -> bool:
    """Say whether *value* is an ``Exception``."""
    return isinstance(value, Exception)


# --- from plain functions and values ---------------------------------------------


def try_except(f: Callable[[], T]) -> Result[T, Exception]:
    """
    Call *f*; make a Failure of the exception it raises.

    The exception was expected here, so the Failure is no defect.

    >>> try_except(lambda: int("7"))
    Success(7)
    """
    try:
        return Success(f())
    except Exception as error:
        return Failure(error)


@overload
async def async_try_except(f: Callable[[], Awaitable[T]]) -> Result[T, Exception]: ...
@overload
async def async_try_except(f: Callable[[], T]) -> Result[T, Exception]: ...
async def async_try_except(f: Callable[[], Any]) -> Result[Any, Exception]:
    """Call *f*, await what is awaitable, make a Failure of the exception raised by either."""
    try:
        answer = f()
        return Success(await answer if isawaitable(answer) else answer)
    except Exception as error:
        return Failure(error)


def result_decorator(f: Callable[P, T]) -> Callable[P, Result[T, Exception]]:
    """Make *f* return a Result: a Failure where it would have raised an ``Exception``."""

    @wraps(f)
    def returns_result(*args: P.args, **kwargs: P.kwargs) -> Result[T, Exception]:
        try:
            return Success(f(*args, **kwargs))
        except Exception as error:
            return Failure(error)

    return returns_result


def async_result_decorator(f: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[Result[T, Exception]]]:
    """Make the async function *f* return a Result, as `result_decorator` does."""

    @wraps(f)
    async def returns_result(*args: P.args, **kwargs: P.kwargs) -> Result[T, Exception]:
        try:
            return Success(await f(*args, **kwargs))
        except Exception as error:
            return Failure(error)

    return returns_result


def from_optional(value: T | None, error: object = None) -> Result[T, Any]:
    """Return ``Success(value)``; for ``None`` a Failure of *error*, by default a ``ValueError``."""
    if value is not None:
        return Success(value)
    return Failure(ValueError("value is None") if error is None else error)


# --- many Results ------------------------------------------------------------------


def sequence(results: Iterable[Result[T, E]]) -> Result[list[T], E]:
    """Return a Success of all values in order, or the first Failure; stops reading there."""
    values: list[T] = []
    for result in results:
        if isinstance(result, Failure):
            return result
        values.append(result.value)
    return Success(values)


def traverse(items: Iterable[T], f: Callable[[T], Result[U, E]]) -> Result[list[U], E]:
    """Put each item through *f* and return all values, or the first Failure; later items are not tried."""
    return sequence(Success(item).bind(f) for item in items)


def combine(*results: Result[T, E]) -> Result[tuple[T, ...], E]:
    """Return a Success of the tuple of all values, or the first Failure."""
    return sequence(results).map(tuple)


def first_success(*results: Result[T, E]) -> Result[T, list[E]]:
    """Return the first Success, or a Failure of all errors in order."""
    errors: list[E] = []
    for result in results:
        if isinstance(result, Success):
            return result
        errors.append(result.error)
    return Failure(errors)


def partition(results: Iterable[Result[T, E]]) -> tuple[list[T], list[E]]:
    """Return all values and all errors, each in order."""
    values: list[T] = []
    errors: list[E] = []
    for result in results:
        if isinstance(result, Success):
            values.append(result.value)
        else:
            errors.append(result.error)
    return values, errors


def pipe_results(*fs: Callable[[Any], Result[Any, Any]]) -> Callable[[Any], Result[Any, Any]]:
    """Return a function that binds its argument through all of *fs*, up to the first Failure."""

    def pipe(value: Any) -> Result[Any, Any]:
        result: Result[Any, Any] = Success(value)
        for f in fs:
            result = result.bind(f)
        return result

    return pipe


# --- what a record and a metric may say about an error -------------------------------

UNKNOWN = "UNKNOWN"
_CODE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_NOT_IN_A_CODE = re.compile(r"[^A-Za-z0-9_.:-]")


def error_code(error: object) -> str:
    """
    Return the short code of an error, fit to be a metric's label.

    It is the value of an Enum member, else the error's ``code`` (text or Enum
    member), else the name of its class. Free text has no code: ``UNKNOWN``.
    At most 64 characters of ``A-Z a-z 0-9 _ . : -``. Never raises.

    >>> error_code(TimeoutError("no answer from db7 in 5.03 s"))
    'TimeoutError'
    >>> error_code("no answer from db7 in 5.03 s")
    'UNKNOWN'
    """
    try:
        if isinstance(error, Enum):
            return _member_code(error)
        code: object = getattr(error, "code", None)
        if isinstance(code, Enum):
            return _member_code(code)
        if isinstance(code, str) and (match := _CODE.fullmatch(code)):
            return match.group()
        return UNKNOWN if error is None or isinstance(error, str) else _class_code(error)
    except Exception:  # the error is a stranger's object, and this runs while it is being reported
        return UNKNOWN


def is_expected(error: object) -> bool:
    """Say whether the domain expects this error (its ``expected`` is ``True``). Never raises."""
    try:
        return getattr(error, "expected", False) is True
    except Exception:  # see error_code
        return False


def _member_code(member: Enum) -> str:
    value: object = member.value
    if isinstance(value, str) and (match := _CODE.fullmatch(value)):
        return match.group()
    return _fit(member.name)


def _class_code(error: object) -> str:
    return _fit((error if isinstance(error, type) else type(error)).__name__)


def _fit(name: str) -> str:
    return _NOT_IN_A_CODE.sub("_", name[:64]) or UNKNOWN
