"""Mocks of services that return Results: found, called, misused, and gone without a trace."""

from __future__ import annotations

import asyncio
import functools
import re
import sys
import typing
import unittest.mock
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier
from types import ModuleType, SimpleNamespace
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfs.core.result import Failure, Result, Success
from rfs.errors import MockError, MockTargetError
from rfs.reactive import MonoResult
from rfs.testing import _services
from rfs.testing.result_helpers import (
    ResultServiceMocker,
    assert_result_success,
    mock_result_service,
    registered_service,
)
from rfs.testing.virtual_time import VirtualTime
from tests.testing.programs.wrong import seen


class OrderService:
    """A service as they are: its methods are plain, async, chains, class and static methods."""

    async def find(self, number: str, *, deep: bool = False) -> Result[str, str]:
        return Success(f"real {number}")

    def count(self, status: str) -> Result[int, str]:
        """How many there are."""
        return Success(0)

    def chain(self, number: str) -> MonoResult[str, str]:
        return MonoResult.from_value(f"real {number}")

    def awaited(self, number: str) -> Awaitable[Result[str, str]]:
        return self.find(number)

    def unannotated(self, number: str) -> Any:
        return self.find(number)

    @staticmethod
    async def static(number: str) -> Result[str, str]:
        return Success(f"real {number}")

    @classmethod
    def of_class(cls, number: str) -> Result[str, str]:
        return Success(f"real {cls.__name__} {number}")

    name = "orders"


class Streams:
    def many(self) -> Iterator[Result[int, str]]:
        yield Success(1)

    async def many_async(self) -> AsyncIterator[Result[int, str]]:
        yield Success(1)


order_service = OrderService()
HERE = "tests/testing/test_mocks.py"


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """After each test the service is as it was."""
    before = dict(vars(OrderService))
    yield
    assert vars(order_service) == {}
    assert dict(vars(OrderService)) == before


def module(monkeypatch: pytest.MonkeyPatch, path: str, **names: object) -> ModuleType:
    """A module that has been imported by now."""
    made = ModuleType(path)
    vars(made).update(names)
    monkeypatch.setitem(sys.modules, path, made)
    return made


class TestFinding:
    def test_is_named_as_what_it_stands_for(self) -> None:
        """
        Whoever logs a function by its module and name logs the mocked one as the real one.
        """
        real = order_service.count

        with mock_result_service(order_service, "count"):
            mocked = order_service.count

            for name in ("__module__", "__name__", "__qualname__", "__doc__"):
                assert getattr(mocked, name) == getattr(real, name)
            assert mocked.__doc__ == "How many there are."
            assert get_type_hints(mocked) == get_type_hints(real)

    def test_what_was_noted_on_the_method_stays_with_it(self) -> None:
        """
        Attributes that a decorator has set on the method are its own, and the mocked one has none of them.
        """

        class Local:
            def count(self) -> Result[int, str]:
                return Success(0)

        vars(Local)["count"].noted = True

        with mock_result_service(Local, "count"):
            assert [*vars(vars(Local)["count"])] == ["__wrapped__"]
        assert vars(Local)["count"].noted

    async def test_global_name_of_the_test(self) -> None:
        """
        A name that the test's module knows is the service.
        """
        with mock_result_service("order_service", "find") as mock:
            mock.return_success("mocked")

            assert await order_service.find("7") == Success("mocked")

    async def test_local_name_goes_before_all_others(self) -> None:
        """
        What the test's function calls so is meant, and not the global of the same name.
        """
        order_service = OrderService()

        with mock_result_service("order_service", "find") as mock:
            mock.return_success("mocked")

            assert await order_service.find("7") == Success("mocked")
            assert await globals()["order_service"].find("7") == Success("real 7")

    def test_global_name_of_a_loaded_module(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A service that only the code under test knows is found there; imported into three modules, it is still one.
        """
        service = OrderService()
        for path in ("shop.one", "shop.two", "shop.three"):
            module(monkeypatch, path, bill_service=service)

        with mock_result_service("bill_service", "count") as mock:
            mock.return_success(9)

            assert service.count("open") == Success(9)

    def test_loaded_module_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A module of functions is a service, too.
        """

        def count(status: str) -> Result[int, str]:
            return Success(0)

        service = module(monkeypatch, "bill_module", count=count)

        with mock_result_service("bill_module", "count") as mock:
            mock.return_success(9)

            assert service.count("open") == Success(9)
        assert service.count is count

    @pytest.mark.parametrize("path", ["shop.bills.service", "shop.bills:service", "shop.bills.Holder.service"])
    def test_dotted_path(self, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
        """
        A path leads through modules and attributes.
        """
        service = OrderService()
        module(monkeypatch, "shop")
        module(monkeypatch, "shop.bills", service=service, Holder=type("Holder", (), {"service": service}))

        with mock_result_service(path, "count") as mock:
            mock.return_success(9)

            assert service.count("open") == Success(9)

    def test_path_from_a_name_of_the_test(self) -> None:
        """
        A path may begin at what the test holds in its hands.
        """
        app = unittest.mock.Mock(spec=["orders"], orders=OrderService())

        with mock_result_service("app.orders", "count") as mock:
            mock.return_success(9)

            assert app.orders.count("open") == Success(9)

    def test_path_imports_its_module(self) -> None:
        """
        A path may lead to a module that nobody has imported yet.
        """
        sys.modules.pop("wsgiref.headers", None)

        with mock_result_service("wsgiref.headers.Headers", "items") as mock:
            mock.return_success("mocked")

            assert sys.modules["wsgiref.headers"].Headers().items() == Success("mocked")

    def test_registered_service_goes_before_all_others(self) -> None:
        """
        Under a registered name its service is found, the innermost first, until the block is left.
        """
        one, other = OrderService(), OrderService()

        with registered_service("order_service", one):
            with registered_service("order_service", other), mock_result_service("order_service", "count") as mock:
                mock.return_success(9)
                assert [each.count("open") for each in (order_service, one, other)] == [
                    Success(0),
                    Success(0),
                    Success(9),
                ]
            with mock_result_service("order_service", "count") as mock:
                mock.return_success(9)
                assert [each.count("open") for each in (order_service, one, other)] == [
                    Success(0),
                    Success(9),
                    Success(0),
                ]
        with mock_result_service("order_service", "count") as mock:
            mock.return_success(9)
            assert order_service.count("open") == Success(9)

    def test_object_itself(self) -> None:
        """
        Whoever has the service in hand needs no name.
        """
        service = OrderService()

        with mock_result_service(service, "count") as mock:
            mock.return_success(9)

            assert service.count("open") == Success(9)
            assert mock.service_name == "OrderService"

    async def test_class_in_camel_case(self) -> None:
        """
        Where nothing is called `order_service`, the class OrderService is meant, and all its objects.
        """
        with mock_result_service("order__service", "find") as mock:
            mock.return_success("mocked")

            assert await OrderService().find("7") == Success("mocked")
            mock.assert_called_once_with("7")

    def test_absence_names_what_is_near(self) -> None:
        """
        A name that nobody knows is an error that guesses what was meant.
        """
        with pytest.raises(MockTargetError) as caught:
            mock_result_service("order_servise", "find")

        assert str(caught.value).startswith(
            "mock of order_servise.find: no registered service, no name that the test sees"
        )
        assert "did you mean 'order_service'?" in str(caught.value)
        assert "hand in the object" in str(caught.value)

    def test_absent_method_names_the_service_and_what_is_near(self) -> None:
        """
        A service without the method is told by its place, and the method that was meant.
        """
        with pytest.raises(MockTargetError) as caught:
            mock_result_service("order_service", "fnd")

        where = f"tests/testing/test_mocks.py:{caught.traceback[0].lineno + 1} in {type(self).__name__}."
        assert str(caught.value).startswith(f"mock of order_service.fnd: order_service in {where}")
        assert str(caught.value).endswith("has no 'fnd'; did you mean 'find'?")
        with pytest.raises(MockTargetError, match=r"^mock of OrderService\.fnd: "):
            mock_result_service(order_service, "fnd")

    def test_near_methods_of_all_that_lack_it(self) -> None:
        """
        What was meant is looked for in what a function of the test calls so, and in the class of that name, too.
        """
        bill_service = OrderService()

        with pytest.raises(MockTargetError) as local:
            mock_result_service("bill_service", "cuont")
        with pytest.raises(MockTargetError) as by_class:
            mock_result_service("order__service", "cuont")

        assert bill_service.name == "orders"
        where = f"{HERE}:{local.traceback[0].lineno + 1} in TestFinding.test_near_methods_of_all_that_lack_it"
        assert str(local.value) == (
            f"mock of bill_service.cuont: bill_service in {where} has no 'cuont'; did you mean 'count'?"
        )
        assert str(by_class.value).startswith("mock of order__service.cuont: OrderService in ")
        assert str(by_class.value).endswith(" has no 'cuont'; did you mean 'count'?")

    def test_name_without_the_method_is_passed_over(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Something else of the same name, a fixture say, does not hide the service.
        """
        monkeypatch.setitem(globals(), "bill_service", object())
        service = OrderService()
        module(monkeypatch, "shop.bills", bill_service=service)

        with mock_result_service("bill_service", "count") as mock:
            mock.return_success(9)

            assert service.count("open") == Success(9)

    def test_ambiguity_names_all_places(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Two services of one name are an error that says where they are, and how to tell them apart.
        """
        module(monkeypatch, "shop.one", bill_service=OrderService())
        module(monkeypatch, "shop.two", bill_service=OrderService())

        with pytest.raises(MockTargetError) as caught:
            mock_result_service("bill_service", "count")

        assert str(caught.value).splitlines() == [
            "mock of bill_service.count: there are 2; name one by its path, or hand in the object:",
            "    shop.one.bill_service",
            "    shop.two.bill_service",
        ]

    @pytest.mark.parametrize(
        ("service", "told"),
        [
            (
                "no_such_thing.service",
                "no_such_thing.service.count: there is no module 'no_such_thing', and no such name where the test stands",
            ),
            (
                "rfs.core.result.Sucess",
                "rfs.core.result.Sucess.count: rfs.core.result has no 'Sucess'; did you mean 'Success'?",
            ),
            ("rfs.core.result:Success", "rfs.core.result:Success.count: Success has no 'count'"),
            (OrderService.find, "function.count: function object has no 'count'"),
        ],
    )
    def test_broken_path_says_where_it_breaks(self, service: object, told: str) -> None:
        """
        A path that leads nowhere is followed as far as it goes.
        """
        with pytest.raises(MockTargetError) as caught:
            mock_result_service(service, "count")

        assert str(caught.value) == f"mock of {told}"

    def test_path_of_a_colon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Leads from a module to its attribute; a module goes before what the test calls so.
        """
        service, shop = OrderService(), SimpleNamespace(service=OrderService())
        module(monkeypatch, "shop", service=service)

        for path in ("shop:service", "shop.service"):
            with mock_result_service(path, "count") as mock:
                mock.return_success(9)
                assert (service.count("open"), shop.service.count("open")) == (Success(9), Success(0))

    def test_registered_service_without_the_method(self) -> None:
        """
        Is called as it was registered.
        """
        with registered_service("bills", order_service), pytest.raises(MockTargetError) as caught:
            mock_result_service("bills", "cuont")

        assert str(caught.value) == "mock of bills.cuont: OrderService object has no 'cuont'; did you mean 'count'?"

    def test_all_that_lack_the_method_are_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Each once, by where it was found first: what the test calls so, and what loaded modules do.
        """
        bill_service, other = Streams(), Streams()
        for path, service in (("shop.one", other), ("shop.two", bill_service), ("shop.three", Streams())):
            module(monkeypatch, path, bill_service=service)

        with pytest.raises(MockTargetError) as caught:
            mock_result_service("bill_service", "count")

        line = caught.traceback[0].lineno + 1
        where = f"{HERE}:{line} in TestFinding.test_all_that_lack_the_method_are_named"
        assert str(caught.value) == (
            f"mock of bill_service.count: bill_service in {where}, shop.one.bill_service, shop.three.bill_service "
            "has no 'count'"
        )

    def test_without_a_caller(self) -> None:
        """
        Where Python does not tell who calls, names are looked for in loaded modules alone.
        """
        with pytest.raises(MockTargetError) as caught:
            _services.find("no_such_service", "count", None)

        assert str(caught.value) == (
            "mock of no_such_service.count: no registered service, no name that the test sees and no global name of a loaded "
            "module is called so; import it, name it by its path, or hand in the object"
        )

    @pytest.mark.parametrize(
        ("service", "method"),
        [
            ("no_such_service", "count"),
            ("order_service", "fnd"),
            ("no_such_thing.service", "count"),
            ("rfs.core.result.Sucess", "count"),
            (order_service, "fnd"),
            (order_service, "name"),
            (Streams, "many"),
            (dict, "fromkeys"),
        ],
    )
    async def test_absence_is_shown_where_the_test_asks(self, service: object, method: str) -> None:
        """
        The traceback that pytest shows ends in the test's own line, not inside of the search, in async blocks as well.
        """
        with pytest.raises(MockTargetError) as plain, mock_result_service(service, method):
            pass  # pragma: no cover
        with pytest.raises(MockTargetError) as awaited:
            async with mock_result_service(service, method):
                pass  # pragma: no cover

        assert seen(plain.value) == seen(awaited.value) == []

    def test_module_that_cannot_be_imported_says_so_itself(
        self, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        A module that is there and misses one of its own imports is not said to be missing.
        """
        (tmp_path / "half_a_shop.py").write_text("import no_such_thing_at_all\n")
        monkeypatch.syspath_prepend(tmp_path)

        with pytest.raises(ModuleNotFoundError, match="no_such_thing_at_all"):
            mock_result_service("half_a_shop.service", "count")

    def test_hostile_names_are_passed_over(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A proxy that raises whatever it is asked is no candidate, and no error.
        """

        class Proxy:
            def __getattr__(self, name: str) -> object:
                raise RuntimeError("working outside of a request")

        service = OrderService()
        module(monkeypatch, "shop.one", bill_service=Proxy())
        module(monkeypatch, "shop.two", bill_service=service)

        with mock_result_service("bill_service", "count") as mock:
            mock.return_success(9)

            assert service.count("open") == Success(9)


class TestStandingIn:
    async def test_async_method(self) -> None:
        """
        The mock of an async method is one, for those who ask, and keeps its name.
        """
        with mock_result_service("order_service", "find") as mock:
            mock.return_success("mocked")

            assert asyncio.iscoroutinefunction(order_service.find)
            assert order_service.find.__name__ == "find"
            assert await order_service.find("7") == Success("mocked")

    def test_plain_method(self) -> None:
        """
        The mock of a plain method answers at once.
        """
        with mock_result_service("order_service", "count") as mock:
            mock.return_success(9)

            assert order_service.count("open") == Success(9)

    async def test_method_that_returns_a_chain(self) -> None:
        """
        The mock of a method that returns a MonoResult returns one: a call, and an answer for each of its runs.
        """
        with mock_result_service("order_service", "chain") as mock:
            mock.return_sequence([Failure("busy"), Success("mocked")])

            assert await order_service.chain("7").retry(1) == Success("mocked")
            mock.assert_called_once_with("7")
            assert [step.name for step in order_service.chain("8").steps] == ["chain"]
            mock.side_effect = lambda number: Success(f"mocked {number}")
            assert await order_service.chain("9") == await order_service.chain(number="9") == Success("mocked 9")

    async def test_annotation_says_that_it_is_awaited(self) -> None:
        """
        A plain function that is annotated to return an awaitable is mocked as one.
        """
        with mock_result_service("order_service", "awaited") as mock:
            mock.return_success("mocked")

            assert await order_service.awaited("7") == Success("mocked")

    @pytest.mark.parametrize(
        ("annotation", "kind"),
        [
            (MonoResult, MonoResult),
            (MonoResult[str, str], MonoResult),
            ("MonoResult", MonoResult),
            ("rfs.reactive.MonoResult[list[int], str]", MonoResult),
            (Awaitable[int], Coroutine),
            (typing.Awaitable[int], Coroutine),
            (Coroutine[Any, Any, int], Coroutine),
            ("collections.abc.Coroutine[Any, Any, list[int]]", Coroutine),
            (int, Success),
            ("Result[int, str]", Success),
            (None, Success),
        ],
    )
    def test_annotations(self, annotation: object, kind: type) -> None:
        """
        What an annotation says counts whether it is the type itself or a text, with its module or without.
        """

        class Local:
            def find(self) -> object: ...

        vars(Local)["find"].__annotations__["return"] = annotation

        with mock_result_service(Local, "find") as mock:
            mock.return_success(9)
            answer: Any = Local().find()

        assert isinstance(answer, kind)
        if isinstance(answer, Coroutine):
            answer.close()

    async def test_decorated_method_is_awaited(self) -> None:
        """
        So does what a decorator has wrapped, where its wrapper is a plain function.
        """

        def traced(function: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(function)
            def call(*args: object) -> Any:
                return function(*args)

            return call

        class Local:
            @traced
            async def find(self) -> Result[int, str]:
                return Success(0)

        with mock_result_service(Local, "find") as mock:
            mock.return_success(9)
            assert await Local().find() == Success(9)

    async def test_caller_says_that_it_is_awaited(self) -> None:
        """
        Where neither the method nor an annotation tells, the test does.
        """
        with mock_result_service("order_service", "unannotated", is_async=True) as mock:
            mock.return_success("mocked")

            assert await order_service.unannotated("7") == Success("mocked")

    async def test_class_and_static_methods(self) -> None:
        """
        Methods of a class are mocked on the class, and its object is no argument.
        """
        with (
            mock_result_service(OrderService, "find") as found,
            mock_result_service(OrderService, "static") as static,
            mock_result_service(OrderService, "of_class") as of_class,
        ):
            for mock in (found, static, of_class):
                mock.return_success("mocked")

            assert await OrderService().find("1") == Success("mocked")
            assert await OrderService.static("2") == await OrderService().static("2") == Success("mocked")
            assert OrderService.of_class("3") == OrderService().of_class("3") == Success("mocked")

        assert found.call_args_history == [(("1",), {})]
        assert static.call_args_history == [(("2",), {})] * 2
        assert of_class.call_args_history == [(("3",), {})] * 2

    def test_inherited_method(self) -> None:
        """
        A mock on a derived class leaves its base alone.
        """

        class Derived(OrderService):
            pass

        with mock_result_service(Derived, "count") as mock:
            mock.return_success(9)

            assert Derived().count("open") == Success(9)
            assert order_service.count("open") == Success(0)
        assert "count" not in vars(Derived)

    def test_frozen_service(self) -> None:
        """
        A frozen dataclass can be mocked all the same.
        """

        @dataclass(frozen=True)
        class Frozen:
            url: str

            def count(self) -> Result[int, str]:
                return Success(0)

        service = Frozen("x")
        with mock_result_service("service", "count") as mock:
            mock.return_success(9)

            assert service.count() == Success(9)
        assert service.count() == Success(0)
        assert vars(service) == {"url": "x"}

    def test_object_without_room_says_what_to_do(self) -> None:
        """
        An object of slots takes no mock, its class does.
        """

        class Slots:
            __slots__ = ()

            def count(self) -> Result[int, str]:
                return Success(0)

        service = Slots()
        with pytest.raises(MockTargetError) as caught, mock_result_service("service", "count"):
            pass  # pragma: no cover
        assert re.fullmatch(
            r"mock of Slots\.count: the object takes no attribute \('Slots' object .*\); mock its class instead",
            str(caught.value),
        )

        with mock_result_service(Slots, "count") as mock:
            mock.return_success(9)
            assert service.count() == Success(9)

    def test_what_is_no_method_is_refused(self) -> None:
        """
        An attribute that cannot be called cannot be mocked.
        """
        with (
            pytest.raises(MockTargetError, match=r"^mock of OrderService\.name: it is no method but str$"),
            mock_result_service("order_service", "name"),
        ):
            pass  # pragma: no cover

    def test_built_in_type_is_refused(self) -> None:
        """
        What Python does not let anybody change cannot be mocked, and that is said.
        """
        with pytest.raises(MockTargetError, match="takes no attribute"), mock_result_service(dict, "fromkeys"):
            pass  # pragma: no cover

    def test_function_without_a_signature(self) -> None:
        """
        Where Python knows no signature, any arguments do, and they are compared as they were given.
        """
        service = SimpleNamespace(update={}.update)

        with mock_result_service("service", "update") as mock:
            mock.return_success("mocked")
            assert service.update("7", deep=True) == Success("mocked")

        mock.assert_called_once_with("7", deep=True)

    @pytest.mark.parametrize("name", ["many", "many_async"])
    def test_generator_is_refused(self, name: str) -> None:
        """
        What yields cannot be answered by one Result.
        """
        told = rf"^mock of Streams\.{name}: it yields many answers, and a mock gives one Result$"
        with pytest.raises(MockTargetError, match=told), mock_result_service(Streams, name):
            pass  # pragma: no cover

    def test_mock_of_the_standard_library(self) -> None:
        """
        A service that is a Mock itself has its method back afterwards.
        """
        service = unittest.mock.Mock(**{"count.return_value": Success(0)})

        with mock_result_service("service", "count") as mock:
            mock.return_success(9)
            assert service.count("open") == Success(9)

        assert service.count("open") == Success(0)

    @pytest.mark.parametrize(
        ("args", "kwargs", "fault"),
        [
            ((), {}, "missing a required argument: 'number'"),
            (("1", "2"), {}, "too many positional arguments"),
            (("1",), {"dep": True}, "got an unexpected keyword argument 'dep'"),
        ],
    )
    async def test_call_that_does_not_fit_is_a_type_error(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], fault: str
    ) -> None:
        """
        A mock takes no call that the method would refuse, and says what the method takes.
        """
        with mock_result_service("order_service", "find") as mock:
            mock.return_success("mocked")

            with pytest.raises(TypeError) as caught:
                await order_service.find(*args, **kwargs)

        assert fault in str(caught.value)
        assert str(caught.value).startswith("OrderService.find(number: ")
        assert seen(caught.value) == []
        mock.assert_not_called()

    def test_plain_call_that_does_not_fit(self) -> None:
        """
        Nor does the mock of a plain method or of one that returns a chain, and all of the sentence is told.
        """
        wrong: Any = order_service

        for name, told in (
            ("count", "OrderService.count(status: 'str') -> 'Result[int, str]': missing a required argument: 'status'"),
            (
                "chain",
                "OrderService.chain(number: 'str') -> 'MonoResult[str, str]': missing a required argument: 'number'",
            ),
        ):
            with mock_result_service("order_service", name) as mock, pytest.raises(TypeError) as caught:
                getattr(wrong, name)()

            assert str(caught.value) == told
            assert seen(caught.value) == []
            mock.assert_not_called()

    async def test_async_block(self) -> None:
        """
        `async with` is as good as `with`.
        """
        async with mock_result_service("order_service", "find") as mock:
            mock.return_success("mocked")
            assert await order_service.find("7") == Success("mocked")

        assert await order_service.find("7") == Success("real 7")


class TestRestoring:
    async def test_exception_restores(self) -> None:
        """
        Whatever leaves the block, the method is then as it was.
        """
        with pytest.raises(ZeroDivisionError), mock_result_service("order_service", "find"):
            raise ZeroDivisionError

        assert await order_service.find("7") == Success("real 7")

    async def test_nested_mocks_end_one_by_one(self) -> None:
        """
        The innermost mock answers; when it is gone the one around it does again.
        """
        with mock_result_service("order_service", "find") as outer:
            outer.return_success("outer")
            with mock_result_service("order_service", "find") as inner:
                inner.return_success("inner")
                assert await order_service.find("7") == Success("inner")
            assert await order_service.find("7") == Success("outer")
        assert (outer.call_count, inner.call_count) == (1, 1)

    @given(st.lists(st.integers(0, 3), max_size=30))
    def test_any_order_of_entering_and_leaving_restores(self, toggles: list[int]) -> None:
        """
        However mocks of one method overlap, the newest left answers, and after the last the method is as it was.
        """
        mocks = [mock_result_service(order_service, "count") for _ in range(4)]
        on: list[int] = []
        for number in [*toggles, *(number for number in range(4) if toggles.count(number) % 2)]:
            if number in on:
                mocks[number].__exit__(None)
                on.remove(number)
            else:
                mocks[number].__enter__().return_success(number + 1)
                on.append(number)

            assert order_service.count("open") == Success(on[-1] + 1 if on else 0)
        assert vars(order_service) == {}

    def test_method_that_somebody_has_deleted_stays_so(self) -> None:
        """
        What is no more when the block is left is not put back.
        """

        class Local:
            def count(self) -> Result[int, str]:
                return Success(0)

        with mock_result_service(Local, "count"):
            del Local.count

        assert not hasattr(Local, "count")

    async def test_patch_of_somebody_else_is_left_alone(self) -> None:
        """
        What replaced the method inside of the block stays; when it is undone, the method does what it always did.
        """
        patch = pytest.MonkeyPatch()

        with mock_result_service("order_service", "count"), mock_result_service("order_service", "find"):
            patch.setattr(order_service, "count", lambda status: Success(5))
            patch.setattr(order_service, "find", None)
        meanwhile = order_service.count("open")
        patch.undo()

        assert meanwhile == Success(5)
        assert order_service.count("open") == Success(0)
        assert await order_service.find("7") == Success("real 7")
        vars(order_service).clear()


class TestConcurrency:
    async def test_each_task_reaches_its_own_mock(self) -> None:
        """
        Ten tasks mock one method at the same time; each gets its own answers, also in tasks that it starts.
        """
        all_are_in = asyncio.Barrier(10)

        async def work(number: int) -> tuple[list[Result[str, str]], int]:
            with mock_result_service("order_service", "find") as mock:
                mock.return_success(str(number))
                await all_are_in.wait()
                found = [await order_service.find("7"), await asyncio.create_task(order_service.find("8"))]
                await all_are_in.wait()
                return found, mock.call_count

        results = await asyncio.gather(*(work(number) for number in range(10)))

        assert results == [([Success(str(number))] * 2, 2) for number in range(10)]
        assert await order_service.find("7") == Success("real 7")

    def test_each_thread_reaches_its_own_mock(self) -> None:
        """
        So it is with threads.
        """
        all_are_in = Barrier(4)

        def work(number: int) -> Result[int, str]:
            with mock_result_service(order_service, "count") as mock:
                mock.return_success(number)
                all_are_in.wait(30)
                found = order_service.count("open")
                all_are_in.wait(30)
                return found

        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(work, range(4))) == [Success(number) for number in range(4)]

    def test_thread_without_a_mock_of_its_own_reaches_the_newest(self) -> None:
        """
        A server's thread, which began before the test, is answered by the test's mock.
        """
        with ThreadPoolExecutor(1) as pool:
            pool.submit(int).result()
            with mock_result_service("order_service", "count") as mock:
                mock.return_success(9)

                assert pool.submit(order_service.count, "open").result() == Success(9)

    def test_own_mock_goes_before_a_newer_one_of_another_thread(self) -> None:
        """
        Also when one that was inside of it has been left.
        """
        theirs = mock_result_service(order_service, "count")
        with ThreadPoolExecutor(1) as pool, mock_result_service(order_service, "count") as mine:
            mine.return_success(1)
            with mock_result_service(order_service, "count"):
                pass
            pool.submit(lambda: theirs.__enter__().return_success(2)).result()

            assert order_service.count("open") == Success(1)
            assert pool.submit(order_service.count, "open").result() == Success(2)
            pool.submit(theirs.__exit__, None).result()

    def test_no_call_is_lost(self) -> None:
        """
        Four threads of 500 calls are 2,000 calls, and a sequence gives each of its Results once.
        """
        mocker = ResultServiceMocker("service", "method").return_success_sequence(range(2000))
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda number: mocker.answer((number,), {}, None), range(2000)))

        assert mocker.call_count == 2000
        assert sorted(answer.unwrap() for answer in answers) == list(range(2000))


class TestAnswers:
    @pytest.mark.parametrize(
        ("say", "answers"),
        [
            (lambda m: m.return_success(1), [Success(1)] * 2),
            (lambda m: m.return_success(None), [Success(None)] * 2),
            (lambda m: m.return_error("x"), [Failure("x")] * 2),
            (lambda m: m.return_failure("x"), [Failure("x")] * 2),
            (lambda m: m.return_sequence([Success(1), Failure("x")]), [Success(1), Failure("x")]),
            (lambda m: m.return_success_sequence([1, 2]), [Success(1), Success(2)]),
            (lambda m: m.return_error_sequence(["x", "y"]), [Failure("x"), Failure("y")]),
            (lambda m: m.return_success_then_failure(1, "x"), [Success(1), Failure("x")]),
            (lambda m: m.return_mixed_sequence([("success", 1), ("error", "x")]), [Success(1), Failure("x")]),
            (lambda m: m.return_mixed_sequence([1, ("other", 2)]), [Success(1), Success(("other", 2))]),
            (lambda m: m.side_effect(lambda: Success(1)), [Success(1)] * 2),
            (lambda m: m.return_sequence([Success(1)]).return_success(2), [Success(2)] * 2),
            (lambda m: m.side_effect(lambda: Success(1)).return_error("x"), [Failure("x")] * 2),
            (lambda m: m.return_error("x").side_effect(lambda: Success(1)), [Success(1)] * 2),
        ],
    )
    async def test_answers_as_it_was_told_last(
        self, say: Callable[[ResultServiceMocker], ResultServiceMocker], answers: list[Result[Any, Any]]
    ) -> None:
        """
        Each way to say the answer gives it, returns the mocker, and overrules what was said before.
        """
        mocker = ResultServiceMocker("service", "method")

        assert say(mocker) is mocker
        assert [await mocker(), await mocker()] == answers
        assert mocker.call_count == 2

    async def test_side_effect_decides_by_the_arguments(self) -> None:
        """
        A function, plain or async, called or assigned, sees what the caller handed in.
        """

        async def decide(number: str, *, deep: bool = False) -> Result[str, str]:
            return Success(number) if deep else Failure("shallow")

        with mock_result_service("order_service", "find") as mock:
            mock.side_effect = decide

            assert await order_service.find("7", deep=True) == Success("7")
            assert await order_service.find("7") == Failure("shallow")

    async def test_side_effect_may_raise(self) -> None:
        """
        What a side effect raises, the caller gets.
        """
        mocker = ResultServiceMocker("service", "method").side_effect(lambda: 1 // 0)

        with pytest.raises(ZeroDivisionError):
            await mocker()

    async def test_exhausted_sequence_is_a_defect_that_says_so(self) -> None:
        """
        One call too many is a Failure that cannot be taken for one of the domain.
        """
        mocker = ResultServiceMocker("service", "method").return_sequence([Success(1)])
        await mocker()

        result = await mocker()

        assert isinstance(result, Failure)
        assert result.is_defect
        assert isinstance(result.error, MockError)
        assert str(result.error) == (
            "Mock sequence exhausted: all of its 1 results have been returned, and it was called again (service.method)"
        )

    async def test_each_call_has_a_failure_of_its_own(self) -> None:
        """
        A Failure is made anew for each call, a declared one or a defect; one of a class of its own is handed out as it is.
        """

        class Special(Failure[str]):
            __slots__ = ()

        error = KeyError("x")
        defect: Failure[Exception] = Failure.from_exception(error)
        special = Special("z")

        for failure in (Failure("y"), defect):
            mocker = ResultServiceMocker("service", "method").side_effect(lambda failure=failure: failure)
            one, other = await mocker(), await mocker()
            assert one == other == failure
            assert len({id(one), id(other), id(failure)}) == 3
            assert isinstance(one, Failure)
            assert one.is_defect is failure.is_defect
        found = await ResultServiceMocker("service", "method").side_effect(lambda: defect)()
        assert found.get_error() is error
        assert await ResultServiceMocker("service", "method").side_effect(lambda: special)() is special

    def test_a_new_one(self) -> None:
        """
        Before it is called a mock has no calls, and knows its names.
        """
        mocker = ResultServiceMocker("service", "method")

        assert (mocker.service_name, mocker.method_name, mocker.title) == ("service", "method", "service.method")
        assert (mocker.call_count, mocker.call_args_history, mocker.misused) == (0, [], [])
        assert repr(mocker) == "ResultServiceMocker('service', 'method'): it was not called"

    async def test_sequences_of_anything_that_can_be_gone_through(self) -> None:
        """
        A generator is as good as a list, and it is gone through at once.
        """
        taken: list[int] = []

        def results() -> Iterator[Result[int, str]]:
            for number in range(2):
                taken.append(number)
                yield Success(number)

        mocker = ResultServiceMocker("service", "method").return_sequence(results())

        assert taken == [0, 1]
        assert [await mocker(), await mocker()] == [Success(0), Success(1)]
        mocker.reset_mock()
        assert [await mocker(), await mocker()] == [Success(0), Success(1)]
        assert str((await mocker()).unwrap_error()) == (
            "Mock sequence exhausted: all of its 2 results have been returned, and it was called again (service.method)"
        )

    async def test_calls_are_remembered_in_order(self) -> None:
        """
        Positional and named arguments of each call.
        """
        mocker = ResultServiceMocker("service", "method").return_success(1)

        await mocker("a", 1)
        await mocker(deep=True)

        assert mocker.call_count == 2
        assert mocker.call_args_history == [(("a", 1), {}), ((), {"deep": True})]

    async def test_reset_forgets_calls_and_begins_anew(self) -> None:
        """
        After a reset nothing was called, and a sequence is whole again.
        """
        mocker = ResultServiceMocker("service", "method").return_sequence([Success(1)])
        await mocker("x")

        mocker.reset_mock()

        assert (mocker.call_count, mocker.call_args_history) == (0, [])
        assert await mocker() == Success(1)

    async def test_reset_counts_calls_anew(self) -> None:
        """
        The first call after a reset is the first one, for faults as well; and a mistake before it is forgiven.
        """
        with mock_result_service("order_service", "find") as mock:
            mock.return_success(1).inject_fault(Failure("first"), calls={1})
            answers = [await order_service.find("7"), await order_service.find("7")]
            mock.misused.append("a mistake")
            mock.reset_mock()
            answers += [await order_service.find("7"), await order_service.find("7")]

        assert answers == [Failure("first"), Success(1)] * 2

    async def test_reset_leaves_other_answers(self) -> None:
        """
        What is no sequence stays the answer.
        """
        one = ResultServiceMocker("service", "method").return_success(1)
        other = ResultServiceMocker("service", "method").side_effect(lambda: Success(2))

        one.reset_mock()
        other.reset_mock()

        assert [await one(), await one(), await other()] == [Success(1), Success(1), Success(2)]


def order_in_another_module(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Awaitable[Result[str, str]]]:
    """Code under test that swallows whatever goes wrong."""
    shop = module(monkeypatch, "shop", service=order_service, Failure=Failure)
    code = (
        "async def order():\n"
        "    try:\n"
        "        return (await service.find('7')).recover(lambda error: 'swallowed')\n"
        "    except Exception:\n"
        "        return Failure('swallowed')\n"
    )
    exec(code, vars(shop))
    found: Callable[[], Awaitable[Result[str, str]]] = shop.order
    return found


class TestMisuse:
    async def test_call_without_an_answer_says_what_to_do(self) -> None:
        """
        A mock that was told nothing raises, and says what to say.
        """
        mocker = ResultServiceMocker("service", "method")

        with pytest.raises(MockError) as caught:
            await mocker()

        assert str(caught.value) == (
            "the mock was called and has no answer: say one, `return_success(value)` for example (service.method)"
        )
        assert seen(caught.value) == []

    async def test_side_effect_that_is_no_result_says_whose(self) -> None:
        """
        A side effect that returns something else is told with the method.
        """
        with pytest.raises(MockError) as caught:
            await ResultServiceMocker("service", "method").side_effect(lambda: 3)()

        assert str(caught.value) == "the side effect must return a Result, not int (service.method)"

    @pytest.mark.parametrize(
        ("say", "told"),
        [
            (lambda mock: None, "the mock was called and has no answer"),
            (lambda mock: mock.return_sequence([Success("first")]), "Mock sequence exhausted"),
            (lambda mock: mock.side_effect(lambda number: number), "the side effect must return a Result, not str"),
        ],
    )
    async def test_swallowed_mistake_fails_the_block(
        self, monkeypatch: pytest.MonkeyPatch, say: Callable[[ResultServiceMocker], object], told: str
    ) -> None:
        """
        Code under test that has an answer to every error cannot hide that the mock had none.
        """
        order = order_in_another_module(monkeypatch)

        block = mock_result_service("order_service", "find")
        say(block.__enter__())
        answers = [await order(), await order()]

        with pytest.raises(MockError, match=told):
            block.__exit__(None)
        assert answers[1].unwrap_or("swallowed") == "swallowed"

    async def test_the_first_mistake_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Of several mistakes the first one, with the method, and the traceback ends in the test; so it is in async blocks.
        """
        order = order_in_another_module(monkeypatch)

        block = mock_result_service("order_service", "find")
        mock = block.__enter__()
        await order()
        mock.side_effect = str
        await order()
        with pytest.raises(MockError) as plain:
            block.__exit__(None)
        with pytest.raises(MockError) as awaited:
            async with mock_result_service("order_service", "find"):
                await order()

        told = (
            "the mock was called and has no answer: say one, `return_success(value)` for example (order_service.find)"
        )
        assert str(plain.value) == str(awaited.value) == told
        assert seen(plain.value) == seen(awaited.value) == []

    async def test_what_an_async_block_is_left_by(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        What the test fails of is told, and not what came of it, in async blocks as well.
        """
        order = order_in_another_module(monkeypatch)

        async def failing_test() -> None:
            async with mock_result_service("order_service", "find"):
                await order()
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await failing_test()

    async def test_another_error_is_not_hidden_by_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        What the test fails of is told, and not what came of it.
        """
        order = order_in_another_module(monkeypatch)

        async def failing_test() -> None:
            with mock_result_service("order_service", "find"):
                await order()
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await failing_test()

    async def test_test_that_looks_itself_is_left_alone(self) -> None:
        """
        A test that makes the call too many itself has the Failure in its own hands.
        """
        with mock_result_service("order_service", "find") as mock:
            mock.return_sequence([Success("first")])
            await order_service.find("1")

            assert (await order_service.find("2")).is_failure()

    @pytest.mark.parametrize(
        ("misuse", "told"),
        [
            (lambda m: m.return_sequence([Success(1), 2]), "a sequence is of Results, not of int (at index 1)"),
            (lambda m: m.return_sequence([]), "a sequence needs at least one Result"),
            (lambda m: m.side_effect(Success(1)), "a side effect is a function that returns a Result, not Success"),
            (lambda m: m.with_latency(-1), "seconds must be a finite number of seconds, 0 or more, not -1"),
            (lambda m: m.with_latency(float("inf")), "seconds must be a finite number of seconds, 0 or more, not inf"),
            (lambda m: m.inject_fault("x"), "a fault is an exception or a Failure, not str"),
            (lambda m: m.inject_fault(Success(1)), "a fault is an exception or a Failure, not Success"),
            (lambda m: m.with_latency(1, calls=3), "calls are a set, list or range of their numbers, not 3"),
            (lambda m: m.inject_fault(OSError, calls=3), "calls are a set, list or range of their numbers, not 3"),
        ],
    )
    def test_wrong_answer_is_refused_at_once(self, misuse: Callable[[ResultServiceMocker], object], told: str) -> None:
        """
        What a mock cannot answer with is refused where it is said.
        """
        with pytest.raises((TypeError, ValueError)) as caught:
            misuse(ResultServiceMocker("service", "method"))

        assert str(caught.value) == told

    @pytest.mark.parametrize("name", ["return_value", "assert_called_onc", "return_success"])
    def test_assignment_of_another_library_is_refused(self, name: str) -> None:
        """
        What ``unittest.mock`` would understand, and this does not, has no silent effect.
        """
        with pytest.raises(AttributeError):
            setattr(ResultServiceMocker("service", "method"), name, Success(1))

    def test_async_side_effect_of_a_plain_method(self) -> None:
        """
        A plain method cannot wait for an async function to decide.
        """

        async def decide(status: str) -> Result[int, str]:
            return Success(1)

        with mock_result_service("order_service", "count") as mock:
            mock.side_effect = decide

            with pytest.raises(MockError) as caught:
                order_service.count("open")

        told = "the method is a plain one, and its side effect async; a plain one must decide (order_service.count)"
        assert str(caught.value) == told
        assert seen(caught.value) == []

    def test_swallowed_mistake_of_a_plain_method(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Code under test that swallows this cannot hide it; what can only be awaited need not be a coroutine.
        """

        class Later:
            def __await__(self) -> Iterator[Any]:
                raise NotImplementedError

        shop = module(monkeypatch, "shop", service=order_service)
        code = "def order():\n    try:\n        service.count('open')\n    except Exception:\n        pass\n"
        exec(code, vars(shop))

        block = mock_result_service("order_service", "count")
        block.__enter__().side_effect = lambda _: Later()
        shop.order()
        with pytest.raises(MockError, match="its side effect async; a plain one must decide"):
            block.__exit__(None)


class TestLatencyAndFaults:
    def test_async_latency_is_asyncio_sleep(self) -> None:
        """
        An hour of latency is an hour of the loop's time, and a time limit before it holds.
        """

        async def work() -> tuple[str, Result[str, Any], float]:
            clock = asyncio.get_running_loop().time
            began = clock()
            with mock_result_service("order_service", "find") as mock:
                mock.return_success("late").with_latency(3600)
                timed_out = await MonoResult.from_async_result(lambda: order_service.find("7")).timeout(5)
                found = await order_service.find("7")
            return str(timed_out.unwrap_error()), found, clock() - began

        error, found, took = VirtualTime().run(work())

        assert error.endswith("its timeout of 5 s is over")
        assert found == Success("late")
        assert took == pytest.approx(3605)

    def test_plain_latency_is_the_sleep_that_was_handed_in(self) -> None:
        """
        A plain method waits by the sleep of the test; latencies add up.
        """
        slept: list[float] = []

        with mock_result_service("order_service", "count", sleep=slept.append) as mock:
            mock.return_success(9).with_latency(2).with_latency(0.5, calls={2})
            answers = [order_service.count("open") for _ in range(3)]

        assert answers == [Success(9)] * 3
        assert slept == [2, 2.5, 2]

    def test_plain_latency_is_time_sleep_otherwise(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        With nothing handed in it is ``time.sleep`` as it is at the call, which virtual time replaces.
        """
        slept: list[float] = []
        with mock_result_service("order_service", "count") as mock:
            mock.return_success(9).with_latency(2)
            monkeypatch.setattr("time.sleep", slept.append)
            order_service.count("open")

        assert slept == [2]

    async def test_exception_is_raised_for_chosen_calls(self) -> None:
        """
        The second and the fourth call raise; the sequence goes on where it was.
        """
        with mock_result_service("order_service", "find") as mock:
            mock.return_success_sequence(["a", "b"]).inject_fault(ConnectionError("reset"), calls=range(2, 100, 2))

            assert await order_service.find("1") == Success("a")
            with pytest.raises(ConnectionError, match="reset"):
                await order_service.find("2")
            assert await order_service.find("3") == Success("b")
            with pytest.raises(ConnectionError):
                await order_service.find("4")
        assert mock.call_count == 4

    def test_failure_is_returned_by_a_plain_method(self) -> None:
        """
        A fault that is a Failure is returned, by every call if none is named.
        """
        with mock_result_service("order_service", "count") as mock:
            mock.return_success(9).inject_fault(Failure("down"))

            assert [order_service.count("open") for _ in range(2)] == [Failure("down")] * 2

    def test_newest_fault_counts(self) -> None:
        """
        Where two faults meet, the one said last is it; a class of exception does as well as one.
        """
        mocker = ResultServiceMocker("s", "m").return_success(1).inject_fault(OSError).inject_fault(KeyError, calls={1})

        with pytest.raises(KeyError):
            mocker.answer((), {}, None)
        with pytest.raises(OSError):
            mocker.answer((), {}, None)

    async def test_any_exception_is_a_fault(self) -> None:
        """
        One that is no Exception, too, as an object or as a class; and each method returns the mock.
        """
        mocker = ResultServiceMocker("service", "method").return_success(1)
        assert mocker.inject_fault(asyncio.CancelledError, calls={1}) is mocker
        assert mocker.inject_fault(KeyboardInterrupt("now"), calls=[2]) is mocker
        assert mocker.with_latency(0, calls=range(3)) is mocker

        with pytest.raises(asyncio.CancelledError):
            await mocker()
        with pytest.raises(KeyboardInterrupt, match="now"):
            await mocker()
        assert await mocker() == Success(1)

    async def test_a_class_that_is_no_exception_is_no_fault(self) -> None:
        """
        It is refused as any other object.
        """
        wrong: Any = dict
        with pytest.raises(TypeError, match=r"^a fault is an exception or a Failure, not type$"):
            ResultServiceMocker("service", "method").inject_fault(wrong)

    async def test_retry_gets_through(self) -> None:
        """
        A chain that retries gets through a service that raises at first.
        """
        with mock_result_service("order_service", "find") as mock:
            mock.return_success("at last").inject_fault(ConnectionError, calls={1, 2})

            result = await MonoResult.from_async_result(lambda: order_service.find("7")).retry(2)

        assert_result_success(result)
        assert mock.call_count == 3


class TestCallAssertions:
    @pytest.fixture
    def mocker(self) -> ResultServiceMocker:
        """A mock that answers."""
        return ResultServiceMocker("orders", "find").return_success(1)

    async def test_each_passes_where_it_is_so(self, mocker: ResultServiceMocker) -> None:
        """
        What was called as expected fails nothing.
        """
        mocker.assert_not_called()
        await mocker("7", deep=True)
        mocker.assert_called()
        mocker.assert_called_once()
        mocker.assert_called_with("7", deep=True)
        mocker.assert_called_once_with("7", deep=True)
        await mocker("8")
        mocker.assert_called_with("8")

    async def test_each_fails_where_it_is_not(self, mocker: ResultServiceMocker) -> None:
        """
        A message shows the calls that were made, and the first difference.
        """
        with pytest.raises(AssertionError, match=r"^expected orders.find to be called; it was not$"):
            mocker.assert_called()
        with pytest.raises(AssertionError, match=r"^expected orders.find to be called once; it was not called$"):
            mocker.assert_called_once_with("7")
        await mocker("7", deep=True)
        with pytest.raises(AssertionError) as caught:
            mocker.assert_not_called()
        assert str(caught.value).splitlines() == [
            "expected orders.find not to be called; it was called once:",
            "    find('7', deep=True)",
        ]
        with pytest.raises(AssertionError) as caught:
            mocker.assert_called_with("8", deep=True)
        assert str(caught.value).splitlines() == [
            "orders.find was called with other arguments:",
            "    ['argument 0']: expected '8', got '7'",
            "it was called once:",
            "    find('7', deep=True)",
        ]
        for _ in range(11):
            await mocker()
        with pytest.raises(AssertionError) as caught:
            mocker.assert_called_once()
        assert str(caught.value).splitlines() == [
            "expected orders.find to be called once; it was called 12 times:",
            "    find('7', deep=True)",
            *["    find()"] * 9,
            "... and 2 more",
        ]

    async def test_ten_calls_are_shown(self, mocker: ResultServiceMocker) -> None:
        """
        Of ten calls none is left out, of eleven one.
        """
        for number in range(10):
            await mocker(number, "x", deep=[number], name="창가")
        ten = repr(mocker).splitlines()
        await mocker()
        eleven = repr(mocker).splitlines()

        assert ten == [
            "ResultServiceMocker('orders', 'find'): it was called 10 times:",
            *(f"    find({number}, 'x', deep=[{number}], name='창가')" for number in range(10)),
        ]
        assert eleven == [ten[0].replace("10", "11"), *ten[1:], "... and 1 more"]

    async def test_arguments_are_compared_by_name(self) -> None:
        """
        Where the signature is known, ``find("7")``, ``find(number="7")`` and ``find("7", deep=False)`` are one call.
        """
        with mock_result_service("order_service", "find") as mock:
            mock.return_success("mocked")
            await order_service.find("7")

        mock.assert_called_once_with(number="7")
        mock.assert_called_once_with("7", deep=False)
        with pytest.raises(AssertionError, match=r"\['number'\]: expected '8', got '7'"):
            mock.assert_called_once_with("8")
        with pytest.raises(AssertionError) as caught:
            mock.assert_called_once_with()
        assert str(caught.value) == (
            "order_service.find(number: 'str', *, deep: 'bool' = False) -> 'Result[str, str]' can never be called so: "
            "missing a required argument: 'number'"
        )
        assert seen(caught.value) == []

    async def test_matchers_match(self, mocker: ResultServiceMocker) -> None:
        """
        A matcher stands for an argument.
        """
        await mocker(0.1 + 0.2, name="x")

        mocker.assert_called_once_with(pytest.approx(0.3), name=unittest.mock.ANY)

    async def test_shows_itself(self, mocker: ResultServiceMocker) -> None:
        """
        A mock in a debugger says what it is and how it was called.
        """
        await mocker("7")

        assert repr(mocker) == "ResultServiceMocker('orders', 'find'): it was called once:\n    find('7')"
