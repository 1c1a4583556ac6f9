"""
Finding the service that a test names, and standing in for one of its methods.

A stand-in is put into the place of the attribute once, however many mocks ask for it,
and the attribute is as it was when the last of them is gone. A call goes to the newest mock
of its own context (a test's tasks inherit it); a call from elsewhere, a thread that began earlier,
goes to the newest of all.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from functools import wraps
from importlib import import_module
from threading import Lock
from types import FrameType, ModuleType
from typing import Any, Literal, Protocol, TypeAlias, cast

from rfs.errors import MockTargetError
from rfs.reactive.mono_result import MonoResult
from rfs.testing._births import place

__all__ = ["Kind", "Method", "find", "having", "name_of", "put", "registered_service", "take"]

Kind: TypeAlias = Literal["async", "mono"] | None  # None: it answers at once

_MISSING: Any = object()


# --- finding --------------------------------------------------------------------------

_registry: dict[str, list[object]] = {}


@contextmanager
def registered_service(name: str, service: object) -> Generator[None]:
    """
    Let `mock_result_service` find *service* by *name* until the block is left; such a name goes before all others.

    Blocks may nest: the innermost service of a name is found.
    """
    _registry.setdefault(name, []).append(service)
    try:
        yield
    finally:
        services = _registry[name]
        del services[max(index for index, each in enumerate(services) if each is service)]


def find(name: str, method: str, frame: FrameType | None) -> object:
    """
    Return the one object called *name* that has a *method*.

    It is looked for as a registered service, as a dotted path to import, as a name that the caller's *frame* sees, as a
    global name of any loaded module, and last as the class of that name in camel case.

    Raises:
        MockTargetError: There is none, or there is more than one in loaded modules.

    """
    __tracebackhide__ = True
    if _registry.get(name):
        return having(_registry[name][-1], name, method)
    if "." in name or ":" in name:
        return having(_imported(name, method, frame), name, method)
    lacking: dict[int, tuple[str, object]] = {}
    for wanted in dict.fromkeys([name, _camel_case(name)]):
        for where, found in _seen_from(frame, wanted):
            if _get(found, method) is not _MISSING:
                return found
            lacking.setdefault(id(found), (where, found))
        places = _loaded(wanted)
        candidates = {id(found): found for _, found in places if _get(found, method) is not _MISSING}
        if len(candidates) == 1:
            return next(iter(candidates.values()))
        if candidates:
            ambiguous = "\n".join(f"    {where}" for where, found in places if id(found) in candidates)
            raise MockTargetError(
                f"{name}.{method}",
                f"there are {len(candidates)}; name one by its path, or hand in the object:\n{ambiguous}",
            )
        for where, found in places:
            lacking.setdefault(id(found), (where, found))
    if lacking:
        named = ", ".join(where for where, _ in lacking.values())
        near = _meant(method, [each for _, found in lacking.values() for each in dir(found)])
        raise MockTargetError(f"{name}.{method}", f"{named} has no {method!r}{near}")
    raise MockTargetError(
        f"{name}.{method}",
        "no registered service, no name that the test sees and no global name of a loaded module is called so"
        f"{_meant(name, _names_seen_from(frame))}; import it, name it by its path, or hand in the object",
    )


def having(service: object, name: str, method: str) -> object:
    """Return *service* if it has a *method*; `MockTargetError` calls it *name* otherwise."""
    __tracebackhide__ = True
    if _get(service, method) is _MISSING:
        raise MockTargetError(f"{name}.{method}", f"{_shown(service)} has no {method!r}{_meant(method, dir(service))}")
    return service


def _imported(name: str, method: str, frame: FrameType | None) -> object:
    """Return what a dotted path leads to: by attributes on from a module, or else from a name that the caller sees."""
    __tracebackhide__ = True
    head, *parts = re.split(r"[.:]", name)
    beginnings = [(found, parts) for _, found in _seen_from(frame, head)]
    for end in range(len(parts) + 1, 0, -1):
        module = ".".join([head, *parts][:end])
        try:
            beginnings.insert(0, (import_module(module), parts[end - 1 :]))
            break
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise  # the module is there, and what it imports is not
    faults: list[str] = []
    for found, rest in beginnings:
        for part in rest:
            inner = _get(found, part)
            if inner is _MISSING:
                faults.append(f"{_shown(found)} has no {part!r}{_meant(part, dir(found))}")
                break
            found = inner  # noqa: PLW2901 - one step on
        else:
            return found
    fault = faults[0] if faults else f"there is no module {head!r}, and no such name where the test stands"
    raise MockTargetError(f"{name}.{method}", fault)


def _seen_from(frame: FrameType | None, name: str) -> Iterator[tuple[str, object]]:
    if frame is None:
        return
    for names in (frame.f_locals, frame.f_globals):
        if name in names:
            yield f"{name} in {place(frame.f_code, frame.f_lineno)}", names[name]


def _names_seen_from(frame: FrameType | None) -> list[str]:
    return [] if frame is None else [*frame.f_locals, *frame.f_globals]


def _loaded(name: str) -> list[tuple[str, object]]:
    """Return the global names *name* of all loaded modules, and a module of that name."""
    modules = [
        (path, vars(module))
        for path, module in list(sys.modules.items())
        if isinstance(cast("object", module), ModuleType)
    ]
    found = [(f"{path}.{name}", names[name]) for path, names in modules if name in names]
    return [*found, (name, sys.modules[name])] if name in sys.modules else found


def _meant(word: str, words: list[str]) -> str:
    close = get_close_matches(word, words)
    return f"; did you mean {close[0]!r}?" if close else ""


def _camel_case(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def _get(service: object, name: str) -> Any:
    try:
        return getattr(service, name)
    except Exception:  # noqa: BLE001 - a proxy without its object, a property that raises: not what is looked for
        return _MISSING


def name_of(service: object) -> str:
    """Return the name of a class or a module, or else that of the object's class."""
    return service.__name__ if isinstance(service, type | ModuleType) else type(service).__name__


def _shown(service: object) -> str:
    return name_of(service) if isinstance(service, type | ModuleType) else f"{name_of(service)} object"


# --- standing in ------------------------------------------------------------------------


class StandIn(Protocol):
    """What answers calls instead of a method."""

    def answer(self, args: tuple[Any, ...], kwargs: dict[str, Any], method: Method) -> Any:
        """Answer a call of a plain *method*."""
        ...

    async def answer_async(self, args: tuple[Any, ...], kwargs: dict[str, Any], method: Method) -> Any:
        """Answer a call of an async *method*."""
        ...

    def answer_mono(self, args: tuple[Any, ...], kwargs: dict[str, Any], method: Method) -> MonoResult[Any, Any]:
        """Answer a call of a *method* that returns a chain."""
        ...


class Method:
    """One method of one service, as it was, and who stands in for it."""

    def __init__(self, service: object, name: str, is_async: bool | None) -> None:
        __tracebackhide__ = True
        self.title = f"{name_of(service)}.{name}"
        self._service = service
        self._name = name
        self._raw: object = inspect.getattr_static(service, name, None)
        self._is_own = name in getattr(service, "__dict__", {})
        original: Any = getattr(service, name)
        if not callable(original):
            raise MockTargetError(self.title, f"it is no method but {type(original).__name__}")
        if inspect.isgeneratorfunction(original) or inspect.isasyncgenfunction(original):
            raise MockTargetError(self.title, "it yields many answers, and a mock gives one Result")
        # A method taken from its class has still to be given its object, which is no argument.
        self._takes_self = isinstance(service, type) and inspect.isfunction(self._raw)
        self.signature = _signature(original, self._takes_self)
        self.kind: Kind = _kind(original, self.signature) if is_async is None else "async" if is_async else None
        self._original: Any = original
        self._stand_ins: tuple[StandIn, ...] = ()
        self._dispatch = self._make_dispatch()

    def put(self, stand_in: StandIn) -> None:
        """Let *stand_in* answer; the first one changes the attribute."""
        __tracebackhide__ = True
        if not self._stand_ins:
            self._set(staticmethod(self._dispatch) if self._is_static() else self._dispatch)
        self._stand_ins = (*self._stand_ins, stand_in)

    def take(self, stand_in: StandIn) -> bool:
        """Let *stand_in* answer no more; after the last one the attribute is as it was, and this returns True."""
        index = max(index for index, each in enumerate(self._stand_ins) if each is stand_in)
        self._stand_ins = self._stand_ins[:index] + self._stand_ins[index + 1 :]
        if self._stand_ins:
            return False
        # Whoever has replaced it meanwhile puts our function back later, which then calls the original.
        if self._current() is self._dispatch:
            self._set(self._raw if self._is_own else _MISSING)
            if _get(self._service, self._name) is _MISSING:
                self._set(
                    self._original
                )  # a Mock of the standard library takes the deletion for one of its own attribute
        return True

    def _is_static(self) -> bool:
        return isinstance(self._service, type) and not self._takes_self

    def _current(self) -> object:
        current = inspect.getattr_static(self._service, self._name, None)
        return current.__func__ if isinstance(current, staticmethod) else current

    def _set(self, value: object) -> None:
        """Set the attribute, or delete it, also of an object that refuses (a frozen dataclass, a pydantic model)."""
        __tracebackhide__ = True
        for set_one, delete_one in ((setattr, delattr), (object.__setattr__, object.__delattr__)):
            try:
                if value is _MISSING:
                    delete_one(self._service, self._name)
                else:
                    set_one(self._service, self._name, value)
                return
            except (AttributeError, TypeError, ValueError) as error:
                fault = f"the object takes no attribute ({error}); mock its class instead"
        raise MockTargetError(self.title, fault)

    def _answering(self) -> StandIn | None:
        mine = entered.get()
        for stand_in in reversed(self._stand_ins):
            if any(stand_in is each for each in mine):
                return stand_in
        return self._stand_ins[-1] if self._stand_ins else None

    def _make_dispatch(self) -> Callable[..., Any]:
        def arguments(args: tuple[Any, ...]) -> tuple[Any, ...]:
            return args[1:] if self._takes_self else args

        if self.kind == "async":

            @_like_original(self._original)
            async def dispatch(*args: Any, **kwargs: Any) -> Any:
                __tracebackhide__ = True
                stand_in = self._answering()
                if stand_in is None:
                    return await self._original(*args, **kwargs)
                return await stand_in.answer_async(arguments(args), kwargs, self)

        else:

            @_like_original(self._original)
            def dispatch(*args: Any, **kwargs: Any) -> Any:
                __tracebackhide__ = True
                stand_in = self._answering()
                if stand_in is None:
                    return self._original(*args, **kwargs)
                answer = stand_in.answer_mono if self.kind == "mono" else stand_in.answer
                return answer(arguments(args), kwargs, self)

        return dispatch


entered: ContextVar[tuple[StandIn, ...]] = ContextVar("rfs_testing_entered", default=())
_methods: dict[tuple[int, str], Method] = {}
_lock = Lock()


def put(stand_in: StandIn, service: object, name: str, is_async: bool | None) -> Method:
    """Let *stand_in* answer calls of the method *name* of *service*, and return the method."""
    __tracebackhide__ = True
    with _lock:
        method = _methods.get((id(service), name)) or Method(service, name, is_async)
        method.put(stand_in)
        _methods[id(service), name] = method  # keeps the service alive, so that the number stays its own
    entered.set((*entered.get(), stand_in))
    return method


def take(stand_in: StandIn, service: object, name: str) -> None:
    """Undo `put`."""
    entered.set(tuple(each for each in entered.get() if each is not stand_in))
    with _lock:
        if _methods[id(service), name].take(stand_in):
            del _methods[id(service), name]


def _like_original(original: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return wraps(original, updated=())


def _signature(original: Callable[..., Any], takes_self: bool) -> inspect.Signature | None:
    try:
        signature = inspect.signature(original)
    except (TypeError, ValueError):  # a function of C may have none
        return None
    return signature.replace(parameters=list(signature.parameters.values())[1:]) if takes_self else signature


def _kind(original: Any, signature: inspect.Signature | None) -> Kind:
    """Tell how a method answers: by what it is, else by what its annotation says that it returns."""
    functions: tuple[Any, ...] = original, inspect.unwrap(original), original.__call__
    if any(inspect.iscoroutinefunction(function) for function in functions):
        return "async"
    returned: Any = None if signature is None else signature.return_annotation
    name = getattr(returned, "__qualname__", str(returned))
    returns = re.split(r"[.]", name.partition("[")[0])[-1]
    if returns == "MonoResult":
        return "mono"
    return "async" if returns in {"Awaitable", "Coroutine"} else None
