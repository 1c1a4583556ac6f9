"""
Dependencies: services made once and handed to endpoints.

`result_dependency` is for ``Depends``; `register_service` and `inject_result_service` are for services known by name. A service
that cannot be made is a failed request, not a crash: the factory's Failure is answered like an endpoint's.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from threading import RLock
from typing import Any, TypeVar, cast

from rfs.errors import RfsError
from rfs.web.fastapi.errors import APIError
from rfs.web.fastapi.types import holds_failure, holds_success

__all__ = [
    "ServiceNotRegisteredError",
    "ServiceRegistry",
    "clear_service_cache",
    "get_service_instance",
    "inject_result_service",
    "register_service",
    "result_dependency",
    "service_scope",
]

F = TypeVar("F", bound=Callable[..., Any])
Factory = Callable[..., Any]


class ServiceNotRegisteredError(RfsError, LookupError):
    """Nobody registered a service of this *name*; *known* are the names there are."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(name, known)
        self.name = name
        self.known = known

    def __str__(self) -> str:
        known = ", ".join(self.known) or "none"
        remedy = f"call register_service({self.name!r}, factory)"
        return f"service {self.name!r} is not registered (known: {known}); {remedy}"


class ServiceRegistry:
    """
    Services by name. Safe from any thread.

    A service is registered as an instance, or as a factory (class or function, also one that returns a Result) which is called
    at the first use.
    """

    def __init__(self) -> None:
        self._factories: dict[str, Factory] = {}
        self._instances: dict[str, object] = {}
        self._registered: dict[str, object] = {}
        # Held while a factory runs, so that it runs once; a factory may ask for other services.
        self._lock = RLock()

    def register(self, name: str, instance: object) -> None:
        """Know *instance* as *name*, in place of what was known before."""
        with self._lock:
            self._registered[name] = instance
            self._factories.pop(name, None)
            self._instances.pop(name, None)

    def register_factory(self, name: str, factory: Factory) -> None:
        """Make *name* with *factory* when it is first asked for."""
        with self._lock:
            self._factories[name] = factory
            self._registered.pop(name, None)
            self._instances.pop(name, None)

    def get(self, name: str) -> Any:
        """
        The instance of *name*.

        Raises:
            ServiceNotRegisteredError: There is no such service.
            APIError: Its factory returned a Failure.
        """
        with self._lock:
            if name in self._registered:
                return self._registered[name]
            if name not in self._instances:
                self._instances[name] = self.make(name)
            return self._instances[name]

    def make(self, name: str) -> Any:
        """A new instance of *name*; the registered one where there is no factory."""
        with self._lock:
            factory = self._factories.get(name)
            if factory is None:
                if name in self._registered:
                    return self._registered[name]
                raise ServiceNotRegisteredError(name, tuple(sorted({*self._factories, *self._registered})))
        return _opened(factory())

    def clear_cache(self) -> None:
        """Forget the instances that factories made; what was registered stays registered."""
        with self._lock:
            self._instances.clear()


_services = ServiceRegistry()


def register_service(name: str, factory: Factory, registry: ServiceRegistry = _services) -> None:
    """Make service *name* with *factory* (class or function) when it is first asked for."""
    registry.register_factory(name, factory)


def get_service_instance(name: str, registry: ServiceRegistry = _services) -> Any:
    """The instance of service *name*; see `ServiceRegistry.get`."""
    return registry.get(name)


def clear_service_cache(registry: ServiceRegistry = _services) -> None:
    """Let every service be made anew at its next use. For tests."""
    registry.clear_cache()


@asynccontextmanager
async def service_scope(name: str, registry: ServiceRegistry = _services) -> AsyncGenerator[Any]:
    """An instance of service *name* for this block alone; at its end its ``aclose`` or ``close`` is called, if it has one."""
    service = registry.make(name)
    try:
        yield service
    finally:
        close = getattr(service, "aclose", None) or getattr(service, "close", None)
        if close is not None:
            closing = close()
            if inspect.isawaitable(closing):
                await closing


def inject_result_service(name: str, registry: ServiceRegistry = _services) -> Callable[[F], F]:
    """
    Hand service *name* to an endpoint, as its parameter ``service`` or the one of the service's name.

    Put it under `handle_result`. FastAPI does not see the parameter. A caller that passes it is obeyed.

    Raises:
        TypeError: The function has no such parameter.
    """

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        wanted = next((known for known in ("service", name.replace("-", "_")) if known in signature.parameters), None)
        if wanted is None:
            raise TypeError(
                f"{function.__qualname__}() has no parameter 'service' or {name!r} to take service {name!r}"
            )

        endpoint: Callable[..., Any]
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def async_endpoint(*args: Any, **kwargs: Any) -> Any:
                if wanted not in kwargs:
                    kwargs[wanted] = registry.get(name)
                return await function(*args, **kwargs)

            endpoint = async_endpoint
        else:

            @functools.wraps(function)
            def sync_endpoint(*args: Any, **kwargs: Any) -> Any:
                if wanted not in kwargs:
                    kwargs[wanted] = registry.get(name)
                return function(*args, **kwargs)

            endpoint = sync_endpoint
        visible = [parameter for key, parameter in signature.parameters.items() if key != wanted]
        setattr(endpoint, "__signature__", signature.replace(parameters=visible))  # noqa: B010 - unknown to type checkers
        return cast("F", endpoint)

    return decorate


def result_dependency(factory: Factory, singleton: bool = True, async_factory: bool = False) -> Callable[..., Any]:
    """
    Make a dependency for ``Depends`` out of *factory*.

    Args:
        factory: Class, function, or function that returns a Result. Not a singleton's, its parameters are FastAPI's to fill.
        singleton: Whether one instance serves all requests. A failed attempt is not kept.
        async_factory: Whether the factory's answer is awaited; async functions are recognised without it.

    A Failure is raised as an `APIError`.
    """
    is_async = async_factory or inspect.iscoroutinefunction(factory)
    made: list[Any] = []
    dependency: Callable[..., Any]
    if is_async:
        async_lock = asyncio.Lock()

        async def async_dependency(*args: Any, **kwargs: Any) -> Any:
            if not singleton:
                return _opened(await factory(*args, **kwargs))
            if not made:
                async with async_lock:
                    if not made:
                        made.append(_opened(await factory()))
            return made[0]

        dependency = async_dependency
    else:
        lock = RLock()

        def sync_dependency(*args: Any, **kwargs: Any) -> Any:
            if not singleton:
                return _opened(factory(*args, **kwargs))
            if not made:
                with lock:
                    if not made:
                        made.append(_opened(factory()))
            return made[0]

        dependency = sync_dependency
    signature = inspect.Signature() if singleton else inspect.signature(factory)
    setattr(dependency, "__signature__", signature)  # noqa: B010 - unknown to type checkers
    return dependency


def _opened(made: Any) -> Any:
    """What a factory made, taken out of its Result."""
    if holds_success(made):
        return made.value
    if holds_failure(made):
        raise APIError.from_failure(made.error)
    return made
