"""Services that are made once and handed to endpoints."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest
from fastapi import Depends, FastAPI

from rfs.core.result import Failure, Result, Success
from rfs.web.fastapi import (
    APIError,
    ServiceNotRegisteredError,
    ServiceRegistry,
    clear_service_cache,
    get_service_instance,
    handle_result,
    inject_result_service,
    register_service,
    result_dependency,
    service_scope,
)
from tests.web.asgi import get


class Menu:
    """A service; knows how many of it were made."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.closed = False

    def dishes(self) -> list[str]:
        return ["bibimbap"]

    def close(self) -> None:
        self.closed = True


class AsyncMenu(Menu):
    """A service that is closed by awaiting."""

    async def aclose(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def fresh() -> None:
    Menu.made = 0
    clear_service_cache()


@pytest.fixture
def registry() -> ServiceRegistry:
    return ServiceRegistry()


class TestRegistry:
    def test_made_once(self, registry: ServiceRegistry) -> None:
        """
        A factory runs at the first use, and once.
        """
        registry.register_factory("menu", Menu)
        assert Menu.made == 0

        assert registry.get("menu") is registry.get("menu")
        assert Menu.made == 1

    def test_clear_cache(self, registry: ServiceRegistry) -> None:
        """
        After clearing, a factory's service is made anew, an instance is still the same.
        """
        instance = Menu()
        registry.register("instance", instance)
        registry.register_factory("menu", Menu)
        before = registry.get("menu")

        registry.clear_cache()

        assert registry.get("menu") is not before
        assert registry.get("instance") is instance

    def test_last_registration_counts(self, registry: ServiceRegistry) -> None:
        """
        Registering a name again replaces what it was.
        """
        registry.register_factory("menu", Menu)
        registry.get("menu")
        registry.register("menu", "an instance")
        assert registry.get("menu") == registry.make("menu") == "an instance"

        registry.register_factory("menu", Menu)
        assert isinstance(registry.get("menu"), Menu)

    def test_unknown(self, registry: ServiceRegistry) -> None:
        """
        An unknown name is an error that says what is known and what to do, and survives pickling.
        """
        registry.register("orders", object())
        registry.register_factory("menu", Menu)

        with pytest.raises(ServiceNotRegisteredError) as caught:
            registry.get("menus")

        assert str(caught.value) == (
            "service 'menus' is not registered (known: menu, orders); call register_service('menus', factory)"
        )
        assert isinstance(caught.value, LookupError)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)

    def test_a_factory_that_returns_a_result(self, registry: ServiceRegistry) -> None:
        """
        A Success is opened; a Failure is raised, and tried again next time.
        """
        outcomes: list[Result[str, APIError]] = [Failure(APIError.service_unavailable("db")), Success("connected")]
        registry.register_factory("db", lambda: outcomes.pop(0))

        with pytest.raises(APIError) as caught:
            registry.get("db")

        assert caught.value.status_code == 503
        assert registry.get("db") == "connected"

    def test_the_default_one(self) -> None:
        """
        The functions act on one registry.
        """
        register_service("menu-of-this-test", Menu)

        assert get_service_instance("menu-of-this-test") is get_service_instance("menu-of-this-test")


class TestServiceScope:
    @pytest.mark.parametrize("kind", [Menu, AsyncMenu])
    async def test_closed_at_the_end(self, registry: ServiceRegistry, kind: type[Menu]) -> None:
        """
        A scope has its own instance, which is closed at its end, also after an error.
        """
        registry.register_factory("menu", kind)
        shared = registry.get("menu")

        async def fail() -> None:
            async with service_scope("menu", registry) as menu:
                seen.append(menu)
                assert not menu.closed
                raise RuntimeError

        seen: list[Menu] = []
        with pytest.raises(RuntimeError):
            await fail()

        assert seen[0].closed
        assert seen[0] is not shared
        assert not shared.closed

    async def test_nothing_to_close(self, registry: ServiceRegistry) -> None:
        """
        A service without ``close`` needs none.
        """
        registry.register("menu", "text")

        async with service_scope("menu", registry) as menu:
            assert menu == "text"


class TestInject:
    @pytest.mark.parametrize("parameter", ["service", "side_menu"])
    @pytest.mark.parametrize("kind", ["sync", "async"])
    async def test_under_handle_result(self, registry: ServiceRegistry, kind: str, parameter: str) -> None:
        """
        The endpoint gets its service; FastAPI sees only the other parameters.
        """
        registry.register_factory("side-menu", Menu)
        app = FastAPI()

        def answer(service: Menu, table: int) -> Result[dict[str, Any], APIError]:
            return Success({"table": table, "dishes": service.dishes()})

        async def async_by_kind(table: int, service: Menu) -> Result[dict[str, Any], APIError]:
            return answer(service, table)

        async def async_by_name(table: int, side_menu: Menu) -> Result[dict[str, Any], APIError]:
            return answer(side_menu, table)

        def sync_by_kind(table: int, service: Menu) -> Result[dict[str, Any], APIError]:
            return answer(service, table)

        def sync_by_name(table: int, side_menu: Menu) -> Result[dict[str, Any], APIError]:
            return answer(side_menu, table)

        function: Any = {
            ("async", "service"): async_by_kind,
            ("async", "side_menu"): async_by_name,
            ("sync", "service"): sync_by_kind,
            ("sync", "side_menu"): sync_by_name,
        }[kind, parameter]
        endpoint = inject_result_service("side-menu", registry)(function)
        app.add_api_route("/tables/{table}", handle_result(endpoint))

        response = await get(app, "/tables/7")

        assert response.json() == {"table": 7, "dishes": ["bibimbap"]}
        parameters = app.openapi()["paths"]["/tables/{table}"]["get"]["parameters"]
        assert [shown["name"] for shown in parameters] == ["table"]

        given: Any = endpoint(7, **{parameter: Menu()})
        assert (await given if kind == "async" else given).is_success()

    async def test_a_service_that_cannot_be_made(self, registry: ServiceRegistry) -> None:
        """
        It is a failed request with the factory's error.
        """
        registry.register_factory("menu", lambda: Failure(APIError.service_unavailable("menu")))
        app = FastAPI()

        @app.get("/")
        @handle_result
        @inject_result_service("menu", registry)
        async def endpoint(service: Any) -> Result[None, APIError]:
            return Success(None)

        assert (await get(app, "/")).status == 503

    def test_nowhere_to_put_it(self) -> None:
        """
        A function without a fitting parameter is refused where it is declared.
        """

        async def endpoint(table: int) -> None: ...

        with pytest.raises(TypeError, match="no parameter 'service' or 'menu'"):
            inject_result_service("menu")(endpoint)


class TestResultDependency:
    @staticmethod
    async def ask(dependency: Any, times: int = 2, target: str = "/") -> list[Any]:
        """The answers of an endpoint that depends on it."""
        app = FastAPI()

        @app.get("/")
        async def endpoint(service: Any = Depends(dependency)) -> str:  # noqa: FAST002 - the name is local
            return f"{type(service).__name__} {id(service)}"

        return [await get(app, target) for _ in range(times)]

    async def test_singleton(self) -> None:
        """
        One instance serves all requests.
        """
        first, second = await self.ask(result_dependency(Menu))

        assert first.json() == second.json()
        assert Menu.made == 1

    async def test_each_its_own(self) -> None:
        """
        Not a singleton, every request has its own.
        """
        await self.ask(result_dependency(Menu, singleton=False))

        assert Menu.made == 2

    async def test_parameters_of_the_factory(self) -> None:
        """
        Not a singleton's, the factory's parameters are filled by FastAPI.
        """
        asked: list[int] = []

        def factory(table: int) -> Result[Menu, APIError]:
            asked.append(table)
            return Success(Menu())

        async def async_factory(table: int) -> Result[Menu, APIError]:
            return factory(table)

        await self.ask(result_dependency(factory, singleton=False), target="/?table=7")
        await self.ask(result_dependency(async_factory, singleton=False), target="/?table=8")

        assert asked == [7, 7, 8, 8]

    async def test_async_factory(self) -> None:
        """
        Async factories are awaited, recognised or declared; asked at once they run once.
        """

        async def factory() -> Result[Menu, APIError]:
            await asyncio.sleep(0)
            return Success(Menu())

        dependency = result_dependency(factory)
        instances = await asyncio.gather(*(dependency() for _ in range(5)))
        declared = result_dependency(lambda: factory(), async_factory=True)

        assert len({id(instance) for instance in instances}) == 1
        assert isinstance(await declared(), Menu)
        assert Menu.made == 2

    async def test_failure(self) -> None:
        """
        A Failure is answered with its status, and is tried again at the next request.
        """
        outcomes: list[Result[Menu, APIError]] = [Failure(APIError.service_unavailable("menu")), Success(Menu())]
        first, second = await self.ask(result_dependency(lambda: outcomes.pop(0)))

        assert (first.status, second.status) == (503, 200)
