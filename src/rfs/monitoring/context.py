"""
Context: which request and which operation the running code belongs to.

One ContextVar holds a `Context`. The fields bound to it live in one dict that the whole request shares, so a field
bound in an endpoint is on the access line even if a sync endpoint or a foreign ``BaseHTTPMiddleware`` ran it in a copy
of the context: the copy has the same dict. The current span is not shared: two tasks of one request each have their own.

Where CPython itself drops the context (``loop.run_in_executor``, ``ThreadPoolExecutor.submit``, ``threading.Thread``),
`propagate` carries it. Nothing of the standard library is patched.
"""

from __future__ import annotations

import functools
import inspect
import random
import re
from collections.abc import Callable
from contextvars import ContextVar
from typing import ParamSpec, Protocol, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")

_CORRELATION_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}\Z")  # FAULTS E19: bounded and one character class, linear in `re`


class Ids(Protocol):
    """Makes ids. Tests hand in one that counts."""

    def trace_id(self) -> str:
        """32 lower-case hexadecimal digits, not all zero (W3C Trace Context)."""
        ...

    def span_id(self) -> str:
        """16 lower-case hexadecimal digits, not all zero (W3C Trace Context)."""
        ...


class RandomIds:
    """Ids from a private random generator: 128 and 64 bits. Seeded anew after a fork by the operating system."""

    __slots__ = ("_bits",)

    def __init__(self) -> None:
        self._bits = random.Random().getrandbits  # noqa: S311 - ids must be unique, not secret

    def after_fork(self) -> None:
        """In a forked child: do not repeat the parent's ids."""
        self._bits = random.Random().getrandbits  # noqa: S311 - ids must be unique, not secret

    def trace_id(self) -> str:
        """32 lower-case hexadecimal digits."""
        return (self._bits(128) or 1).to_bytes(16, "big").hex()

    def span_id(self) -> str:
        """16 lower-case hexadecimal digits."""
        return (self._bits(64) or 1).to_bytes(8, "big").hex()


RANDOM_IDS = RandomIds()


class Context:
    """
    A place in a request: ids of W3C Trace Context, the correlation id, and the fields bound so far.

    ``parent_span_id`` and ``operation`` are empty where there is none. ``fields`` is shared by all contexts of a request.
    """

    __slots__ = ("correlation_id", "fields", "operation", "parent_span_id", "sampled", "span_id", "state", "trace_id")

    def __init__(
        self,
        correlation_id: str,
        trace_id: str,
        span_id: str,
        parent_span_id: str,
        operation: str,
        fields: dict[str, object],
        sampled: bool = True,
    ) -> None:
        self.correlation_id = correlation_id
        self.trace_id = trace_id
        self.span_id = span_id
        self.parent_span_id = parent_span_id
        self.operation = operation
        self.fields = fields
        self.sampled = sampled
        self.state: object = None  # what the operation that opened this context keeps about itself

    def child(self, operation: str, span_id: str) -> Context:
        """The context of an operation that runs inside this one."""
        return Context(self.correlation_id, self.trace_id, span_id, self.span_id, operation, self.fields, self.sampled)


_current: ContextVar[Context | None] = ContextVar("rfs_context", default=None)
current = _current.get
activate = _current.set  # to go back, activate what was current: unlike a token, that may be done in another task


def is_valid_correlation_id(text: object) -> bool:
    """Whether *text* may serve as a correlation id: 1 to 64 characters of ``A-Za-z0-9._:-``."""
    return type(text) is str and _CORRELATION_ID.match(text) is not None


def start_context(correlation_id: str | None = None, traceparent: str | None = None, ids: Ids = RANDOM_IDS) -> Context:
    """
    Make the context of a new request; it is not yet the current one.

    An absent or invalid *correlation_id* is replaced by a new one of 128 bits, an invalid *traceparent* by a new trace.
    """
    inbound = None
    if traceparent:
        from rfs.monitoring.traces import parse_traceparent

        inbound = parse_traceparent(traceparent)
    trace_id, parent, sampled = inbound or (ids.trace_id(), "", True)
    if correlation_id is None or not is_valid_correlation_id(correlation_id):
        correlation_id = trace_id if inbound is None else ids.trace_id()
    return Context(correlation_id, trace_id, parent, "", "", {}, sampled)


class CorrelationContext:
    """
    All records made inside the ``with`` (or ``async with``) block carry one correlation id.

    Args:
        correlation_id: Kept if valid (see `is_valid_correlation_id`); else, and if absent, a new one is made.

    Entering gives the id; leaving restores the previous context. Nested blocks have each their own id.

    >>> with CorrelationContext("req_12345") as correlation_id:
    ...     correlation_id == get_correlation_id() == "req_12345"
    True
    """

    def __init__(self, correlation_id: str | None = None) -> None:
        self._wanted = correlation_id
        self._previous: list[Context | None] = []

    @property
    def correlation_id(self) -> str:
        """The id of the block that is open; before it opens, the id asked for."""
        return self._wanted or ""

    def __enter__(self) -> str:
        from rfs.monitoring import monitor

        # Not made for this: as long as there is none, nobody has handed in other ids.
        context = start_context(self._wanted, ids=RANDOM_IDS if monitor.default is None else monitor.default.ids)
        if self._wanted is not None and context.correlation_id is not self._wanted:
            monitor.default_monitor().reject("correlation_id", "invalid_value")
        self._wanted = context.correlation_id
        self._previous.append(current())
        activate(context)
        return context.correlation_id

    def __exit__(self, *exc_info: object) -> None:
        activate(self._previous.pop())

    async def __aenter__(self) -> str:
        return self.__enter__()

    async def __aexit__(self, *exc_info: object) -> None:
        self.__exit__()


def with_correlation_id(correlation_id: str | None = None) -> CorrelationContext:
    """A `CorrelationContext` for *correlation_id*."""
    return CorrelationContext(correlation_id)


def get_correlation_id() -> str:
    """The current correlation id; outside any context a new one, which is not kept."""
    context = current()
    return context.correlation_id if context is not None else RANDOM_IDS.trace_id()


def bind(**fields: object) -> None:
    """
    Add *fields* to every further record of this request, the access line included.

    Visible wherever the request's context is, also out of sync endpoints and through foreign middleware. Outside any
    context there is nothing to bind to, and nothing happens.
    """
    context = current()
    if context is not None:
        context.fields.update(fields)


def propagate(function: Callable[P, R]) -> Callable[P, R]:
    """
    Carry the current context into *function*, wherever it will run.

    For the places where CPython drops it: ``loop.run_in_executor(None, propagate(work))``,
    ``executor.submit(propagate(work))``, ``threading.Thread(target=propagate(work))``. Works for async functions too.
    """
    context = current()
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def carried_async(*args: P.args, **kwargs: P.kwargs) -> object:
            previous = current()
            activate(context)
            try:
                return await function(*args, **kwargs)
            finally:
                activate(previous)

        return cast("Callable[P, R]", carried_async)

    @functools.wraps(function)
    def carried(*args: P.args, **kwargs: P.kwargs) -> R:
        previous = current()
        activate(context)
        try:
            return function(*args, **kwargs)
        finally:
            activate(previous)

    return carried
