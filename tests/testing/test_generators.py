"""Data from a seed, factories, strategies, and what works beside them (FEATURES L7, L10)."""

from __future__ import annotations

import asyncio
import hashlib
import random
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from textwrap import dedent
from typing import Any
from uuid import UUID

import httpcore
import httpx
import msgspec
import pydantic
import pytest
import respx
from dirty_equals import IsInt, IsStr
from hypothesis import HealthCheck, Phase, example, find, given, settings
from hypothesis import strategies as st
from polyfactory.factories import DataclassFactory

from rfs.core.result import Failure, Result, Success, error_code
from rfs.monitoring import CorrelationContext, Monitor, log_result_operation, use_monitor
from rfs.monitoring.masking import Masker
from rfs.monitoring.metrics import MetricType
from rfs.monitoring.monitor import default_monitor
from rfs.reactive import MonoResult, step_observer
from rfs.testing import generators
from rfs.testing.generators import (
    HOSTILE_VALUES,
    APIErrorGenerator,
    ChainProgram,
    Code,
    HostileValue,
    MenuItem,
    ResultTestDataGenerator,
    Series,
    Span,
    TestDataFactory,
    User,
    UserDataGenerator,
    chains,
    hostile_values,
    results,
    series,
    texts,
    traces,
)
from rfs.testing.steps import StepVerifier
from rfs.testing.virtual_time import VirtualTime


@dataclass
class Line:
    dish: str
    count: int


@dataclass
class Order:
    order_id: UUID
    placed: datetime
    day: date
    at: time
    wait: timedelta
    total: Decimal
    paid: bool
    note: str | None
    lines: list[Line]


class OrderModel(pydantic.BaseModel):
    order_id: UUID
    placed: datetime
    count: int = pydantic.Field(ge=1, le=5)
    lines: list[Line]


class OrderStruct(msgspec.Struct):
    order_id: UUID
    placed: datetime
    count: int
    lines: list[Line]


MODELS: list[type] = [Order, OrderModel, OrderStruct]


def everything(seed: generators.Seed) -> str:
    """All that a seed gives, as text."""
    factory = TestDataFactory(seed)
    return repr(
        (
            factory.users.generate_users(20),
            factory.results.generate_mixed_results(20),
            factory.results.generate_performance_test_data((2,), (1, 3)),
            [str(error) for error in factory.errors.generate_errors(20)],
            factory.batch(Line, 5),
            factory.batch(Order, 5),
        )
    )


class TestSeed:
    def test_same_seed_same_data(self) -> None:
        """
        Two factories of one seed give the same, whatever the seed is; another seed gives something else.
        """
        assert everything(7) == everything(7)
        assert everything("주문") == everything("주문")
        assert len({everything(seed) for seed in (0, 1, 7, "7 ", "주문")}) == 5

    def test_same_data_everywhere(self) -> None:
        """
        What a seed gives is written down here: another platform, Python or version of RFS gives the same.
        """
        factory = TestDataFactory(7)

        assert factory.users.generate_user() == User(
            user_id="user-1",
            name="김서준",
            email="seojun.kim1@example.com",
            phone="010-0000-5156",
            address="서울특별시 마포구 월드컵로 138, 1408호",
            age=72,
        )
        assert factory.results.generate_success_results(1) == [
            Success(MenuItem("item-1a3f8734", "엄마손 비빔밥", 28800))
        ]
        assert str(factory.errors.generate_error()) == "UNAUTHORIZED: 창가 자리 덜 맵게"
        assert everything_plain() == "9ee3782caf8451d0"

    def test_same_data_in_another_process(self) -> None:
        """
        Neither the order of sets nor the hash of texts, which differ from process to process, has a part in it.
        """
        program = "from tests.testing.test_generators import everything_plain; print(everything_plain())"
        runs = [
            subprocess.run(
                [sys.executable, "-c", program],
                capture_output=True,
                text=True,
                check=True,
                env={**ENVIRONMENT, "PYTHONHASHSEED": seed},
            ).stdout.strip()
            for seed in ("1", "2")
        ]

        assert runs == [everything_plain()] * 2

    def test_one_does_not_disturb_the_other(self) -> None:
        """
        What is asked of one generator does not change what another gives, nor does the global chance.
        """
        one, other = TestDataFactory(7), TestDataFactory(7)
        one.users.generate_users(10)
        one.batch(Order, 3)
        random.seed(1)
        state = random.getstate()

        assert one.results.generate_mixed_results(5) == other.results.generate_mixed_results(5)
        assert one.build(Line) == other.build(Line)
        assert random.getstate() == state


ENVIRONMENT = {"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"}


def everything_plain() -> str:
    """A digest of what needs the standard library alone."""
    factory = TestDataFactory(7)
    drawn = (
        factory.users.generate_users(100),
        factory.results.generate_mixed_results(100),
        factory.results.generate_performance_test_data((10,), (1, 3)),
    )
    return hashlib.sha256(repr(drawn).encode()).hexdigest()[:16]


class TestData:
    def test_users_are_people(self) -> None:
        """
        Korean names and addresses; no two users share an id or an e-mail; none could be reached.
        """
        users = UserDataGenerator(1).generate_users(200)

        assert len({user.user_id for user in users}) == len({user.email for user in users}) == 200
        assert all("가" <= letter <= "힣" for user in users for letter in user.name)
        assert all(user.email.endswith("@example.com") and user.phone.startswith("010-0000-") for user in users)
        assert {user.age for user in users} <= set(range(19, 91))
        assert len({user.address for user in users}) > 100

    def test_fields_may_be_given(self) -> None:
        """
        A field that is given changes nothing else, here or in the users after it.
        """
        one, other = UserDataGenerator(1), UserDataGenerator(1)

        assert one.generate_user(age=3) == replace(other.generate_user(), age=3)
        assert one.generate_user() == other.generate_user()

    def test_mixed_results_are_split_exactly(self) -> None:
        """
        The share is exact, the order is not sorted.
        """
        made = ResultTestDataGenerator(1).generate_mixed_results(100, 0.7, lambda number: number, lambda: "x")

        kinds = [result.is_success() for result in made]
        assert sum(kinds) == 70
        assert kinds != sorted(kinds, reverse=True)
        assert {result.value for result in made if isinstance(result, Success)} == set(range(70))
        assert Failure("x") in made
        with pytest.raises(ValueError, match="success_ratio must be from 0 to 1, not 70"):
            ResultTestDataGenerator().generate_mixed_results(10, 70)

    def test_functions_with_and_without_a_number(self) -> None:
        """
        A function for a value may take the running number, or nothing.
        """
        make = ResultTestDataGenerator()

        assert make.generate_success_results(2, lambda number: str(number)) == [Success("0"), Success("1")]
        assert make.generate_success_results(2, lambda: "x") == [Success("x"), Success("x")]
        assert make.generate_success_results(1, dict) == [Success({})]
        assert all(isinstance(result.unwrap_error(), Code) for result in make.generate_failure_results(5))

    def test_performance_data_has_sizes_and_depths(self) -> None:
        """
        For each size and level, so many Results of values so deep.
        """
        data = ResultTestDataGenerator().generate_performance_test_data((1, 10), (1, 2))

        assert {case: len(made) for case, made in data.items()} == {(1, 1): 1, (1, 2): 1, (10, 1): 10, (10, 2): 10}
        assert data[1, 2][0].unwrap() == {"number": IsInt, "note": {"number": IsInt, "note": IsStr}}

    def test_errors(self) -> None:
        """
        An error has its code, and those that are drawn have every code there is sooner or later.
        """
        errors = APIErrorGenerator(1)

        assert error_code(errors.generate_error("SOLD_OUT")) == "SOLD_OUT"
        assert len({error_code(error) for error in errors.generate_errors(300)}) == 14


class TestFactories:
    @pytest.mark.parametrize("model", MODELS)
    def test_fills_every_kind_of_model(self, model: type[Any]) -> None:
        """
        A dataclass, a pydantic model and a msgspec struct are filled down to what they contain, each time otherwise.
        """
        made = TestDataFactory(3).batch(model, 20)

        assert made == TestDataFactory(3).batch(model, 20)
        assert len({each.order_id for each in made}) == 20
        assert all(isinstance(line, Line) for each in made for line in each.lines)
        assert all(each.placed.tzinfo is UTC and each.placed.year == 2026 for each in made)
        assert len({line.dish for each in made for line in each.lines}) > 10

    def test_limits_hold(self) -> None:
        """
        What a model allows is what it gets.
        """
        assert {made.count for made in TestDataFactory().batch(OrderModel, 100)} == {1, 2, 3, 4, 5}

    def test_fields_may_be_given(self) -> None:
        """
        What is given is not drawn.
        """
        assert TestDataFactory().build(Line, dish="비빔밥").dish == "비빔밥"

    def test_other_classes_are_refused(self) -> None:
        """
        A class without declared fields is refused by its name.
        """
        with pytest.raises(TypeError, match="Code is no dataclass, pydantic model or msgspec struct"):
            TestDataFactory().build(Code)

    def test_a_factory_of_ones_own_is_left_alone(self) -> None:
        """
        Whoever uses polyfactory beside gets what it would give without us.
        """
        DataclassFactory.seed_random(1)
        alone = DataclassFactory.create_factory(Line).batch(3)
        DataclassFactory.seed_random(1)

        TestDataFactory(7).batch(Line, 3)

        assert DataclassFactory.create_factory(Line).batch(3) == alone


class TestWithoutTheExtra:
    @pytest.mark.parametrize(
        ("missing", "use", "extra"),
        [
            ("polyfactory", "TestDataFactory().build(User)", "testing"),
            ("hypothesis", "chains()", "testing"),
            ("fastapi", "TestDataFactory().errors", "web"),
        ],
    )
    def test_says_what_to_install(self, missing: str, use: str, extra: str) -> None:
        """
        Without the package the module is there, the rest of it works, and what needs it says what to install.
        """
        program = f"""
            import sys
            sys.modules[{missing!r}] = None
            from rfs.testing.generators import *
            TestDataFactory(1).users.generate_user()
            TestDataFactory(1).results.generate_mixed_results(3)
            try:
                {use}
            except ImportError as error:
                print(error)
        """
        run = subprocess.run(
            [sys.executable, "-c", dedent(program)], capture_output=True, text=True, check=True, env=ENVIRONMENT
        )

        assert f"pip install 'rfs[{extra}]'" in run.stdout

    def test_the_module_loads_none_of_them(self) -> None:
        """
        Importing it loads neither hypothesis nor polyfactory nor FastAPI.
        """
        program = """
            import sys, rfs.testing.generators
            print(sorted({"hypothesis", "polyfactory", "faker", "fastapi"} & set(sys.modules)))
        """
        run = subprocess.run(
            [sys.executable, "-c", dedent(program)], capture_output=True, text=True, check=True, env=ENVIRONMENT
        )

        assert run.stdout.strip() == "[]"


class CountingModel(generators._Model):
    """The model of a program, which also counts how often each part of it ran."""

    def __init__(self, program: ChainProgram, calls: list[str]) -> None:
        super().__init__(program, calls)
        self.runs = Counter[int]()  # by the number of operators that the part has

    def run(self, upto: int) -> Any:
        self.runs[upto] += 1
        return super().run(upto)

    def retries(self) -> int:
        """How often a retry ran again what it holds."""
        retries = [place for place, (name, _) in enumerate(self._program.operators) if name.startswith("retry")]
        return sum(self.runs[place] - self.runs[place + 1] for place in retries)


class TestChains:
    @given(chains())
    def test_every_chain_does_what_the_model_says(self, program: ChainProgram) -> None:
        """
        Whatever operators in whatever order: the Result, and which functions were called how often, are those of the model.
        """
        asyncio.run(program.check())

    @given(chains(max_operators=6))
    @example(ChainProgram(("error", 0), (("retry", 1), ("map_error", 0))))
    @example(ChainProgram(("value", 1), (("cache", 0), ("zip", 1), ("timeout", 0))))
    @example(ChainProgram(("flaky", 3), (("retry", 1), ("retry", 1), ("retry_some", 3))))
    def test_a_watched_chain_comes_to_the_same(self, program: ChainProgram) -> None:
        """
        Who verifies the steps of a chain changes nothing of what it does, and sees each retry of it.
        """
        calls: list[str] = []
        wanted_calls: list[str] = []
        model = CountingModel(program, wanted_calls)
        wanted = model.run(len(program.operators))
        verifier = StepVerifier(program.build(calls))
        if retries := model.retries():
            verifier = verifier.expect_retry(retries)
        if wanted.kind == "value":
            verifier = verifier.expect_value(wanted.held)
        else:
            verifier = verifier.expect_failure(
                lambda error: generators._plain(error) == wanted.held, defect=wanted.kind == "defect"
            )

        asyncio.run(verifier.verify_complete())

        assert calls == wanted_calls

    @pytest.mark.parametrize("operator", sorted(generators._OPERATORS))
    def test_a_wrong_operator_is_found(self, operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        An operator that does nothing is noticed by some program, and the message shows it.
        """
        if operator in {"timeout", "name", "tap_that_raises"}:
            pytest.skip("does nothing to a Result indeed")
        monkeypatch.setattr(generators, "_OPERATORS", {**generators._OPERATORS, operator: lambda mono, n, noted: mono})

        def is_noticed(program: ChainProgram) -> bool:
            try:
                asyncio.run(program.check())
            except AssertionError as error:
                return operator in str(error)
            return False

        found = find(chains(), is_noticed, settings=settings(max_examples=2000, database=None, derandomize=True))

        assert operator in {name for name, _ in found.operators}

    async def test_the_message_shows_both(self) -> None:
        """
        What the chain came to and what it must come to, and the program, which can be run again.
        """

        class Wrong(ChainProgram):
            def build(self, calls: list[str]) -> MonoResult[Any, Any]:
                return super().build(calls).map(lambda value: value + 1)

        with pytest.raises(AssertionError) as caught:
            await Wrong(("value", 1), (("map", 2),)).check()

        assert "source=('value', 1), operators=(('map', 2),)" in str(caught.value)
        assert "came to Success(4), calling ['0:map']\n  must come to value 3, calling ['0:map']" in str(caught.value)


class TestStrategies:
    @given(results())
    def test_results(self, result: Result[Any, Any]) -> None:
        """
        What is drawn is a Result.
        """
        assert isinstance(result, Success | Failure)

    @pytest.mark.parametrize(
        "wanted",
        [
            lambda result: result.is_success(),
            lambda result: result.is_failure() and not result.is_defect,
            lambda result: result.is_failure() and result.is_defect,
            lambda result: (
                isinstance(result, Success) and isinstance(result.value, str) and "가" <= result.value[:1] <= "힣"
            ),
        ],
        ids=["success", "failure", "defect", "Korean"],
    )
    def test_all_kinds_of_results_are_drawn(self, wanted: Any) -> None:
        """
        Success, Failure, defect, and Korean text.
        """
        assert wanted(
            find(results(), wanted, settings=settings(database=None, derandomize=True, phases=[Phase.generate]))
        )

    @given(results(st.just("v"), st.just("e")))
    def test_of_values_and_errors_of_ones_own(self, result: Result[Any, Any]) -> None:
        """
        Strategies that are handed in are used.
        """
        assert result == Success("v") or result == Failure("e") or result.get_error() is not None

    @given(series())
    def test_a_series_can_be_recorded(self, drawn: Series) -> None:
        """
        A Monitor takes every name, label and measurement that is drawn, and tells the sum.
        """
        clock = VirtualTime()
        monitor = Monitor(clock=clock)
        declare: dict[MetricType, Any] = {
            MetricType.COUNTER: monitor.counter,
            MetricType.GAUGE: monitor.gauge,
            MetricType.HISTOGRAM: monitor.histogram,
        }
        instrument = declare[drawn.metric_type](drawn.name, labels=tuple(drawn.labels))
        method = {MetricType.COUNTER: "inc", MetricType.GAUGE: "set", MetricType.HISTOGRAM: "observe"}
        passed = 0.0
        for at, amount in drawn.points:
            clock.advance(at - passed)
            passed = at
            getattr(instrument, method[drawn.metric_type])(amount, **drawn.labels)

        assert monitor.counter("rfs_rejected_total").series() == []
        if drawn.points and drawn.metric_type is MetricType.COUNTER:
            (one,) = instrument.series()
            assert one.value == pytest.approx(sum(amount for _, amount in drawn.points))
        assert [at for at, _ in drawn.points] == sorted(at for at, _ in drawn.points)

    @given(traces())
    @settings(suppress_health_check=[HealthCheck.too_slow])
    def test_a_trace_can_be_recorded(self, drawn: Span) -> None:
        """
        Run as operations it is one trace, of the same operations, in the same order and depth, that took the same time.
        """
        clock = VirtualTime()
        monitor = Monitor(clock=clock)

        def record(span: Span) -> None:
            @log_result_operation(span.operation)
            def operation() -> Result[Any, Any]:
                for child in span.children:
                    record(child)
                clock.advance(round(span.seconds - sum(child.seconds for child in span.children), 3))
                return span.result

            operation()

        with use_monitor(monitor), CorrelationContext("drawn"):
            record(drawn)

        trace = monitor.query.trace("drawn")
        assert trace is not None
        (root,) = trace.spans
        walked: list[Any] = [(depth, span.operation, span.duration_ms) for depth, span in root.walk()]
        assert walked == [
            (depth, span.operation, pytest.approx(span.seconds * 1000, abs=0.01)) for depth, span in drawn.walk()
        ]

    @given(texts())
    def test_texts_are_text(self, text: str) -> None:
        """
        Whatever is drawn can be written down in UTF-8.
        """
        assert text.encode().decode() == text


class TestHostileValues:
    @pytest.mark.parametrize("name", HOSTILE_VALUES)
    def test_each_can_be_made_and_recorded(self, name: str) -> None:
        """
        Each is made anew, and none of its code is run when it is recorded.
        """
        value = HostileValue(name)

        shown = Masker().value(value.make())

        assert msgspec.json.decode(msgspec.json.encode(shown)) == shown
        assert repr(value) == f"HostileValue(name={name!r})"

    def test_touching_is_told(self) -> None:
        """
        The traps do spring: one who asks such an object anything hears of it.
        """
        trapped: Any = HOSTILE_VALUES["object of which nothing can be asked"]()
        with pytest.raises(generators._TouchedError):
            repr(trapped)
        with pytest.raises(RuntimeError, match="hostile"):
            str(HOSTILE_VALUES["exception that cannot be shown"]())

    @given(hostile_values())
    def test_are_drawn_by_name(self, value: HostileValue) -> None:
        """
        What hypothesis draws, it can show, compare and shrink.
        """
        assert value.name in HOSTILE_VALUES


class TestBeside:
    """respx, polyfactory and dirty-equals, each where it is used together with the toolkit."""

    @respx.mock
    async def test_respx(self) -> None:
        """
        A chain that asks over HTTP is verified while respx answers; afterwards nothing is patched any more.
        """
        respx.get("http://stock.test/rice").mock(
            side_effect=[httpx.Response(503), httpx.Response(200, json={"left": 3})]
        )

        @log_result_operation("stock.ask")
        async def ask() -> Result[int, str]:
            async with httpx.AsyncClient() as client:
                response = await client.get("http://stock.test/rice")
            return Success(response.json()["left"]) if response.is_success else Failure("BUSY")

        monitor = Monitor()
        with use_monitor(monitor):
            await (
                StepVerifier(MonoResult.from_async_result(ask).retry(2))
                .expect_step("ask", "failed", "BUSY")
                .expect_retry()
                .expect_step("ask")
                .expect_value(3)
                .verify_complete()
            )

        assert respx.calls.call_count == 2
        assert monitor.query.increase("result_success_total", "1h", {"operation": "stock.ask"}) == 1

    @pytest.mark.parametrize("respx_first", [True, False])
    async def test_respx_in_any_order(self, respx_first: bool) -> None:
        """
        Whichever is entered first, each restores what it found.
        """
        before = httpcore.AsyncConnectionPool.handle_async_request, default_monitor(), step_observer()
        monitor = Monitor()
        router = respx.mock()
        both: list[Any] = [router, use_monitor(monitor)]

        with ExitStack() as stack:
            for each in both if respx_first else reversed(both):
                stack.enter_context(each)
            router.get("http://stock.test/rice").respond(204)
            async with httpx.AsyncClient() as client:
                asked = StepVerifier(client.get("http://stock.test/rice"))
                await asked.expect_value(lambda response: response.status_code == 204).verify_complete()
            assert httpcore.AsyncConnectionPool.handle_async_request is not before[0]
            assert default_monitor() is monitor

        assert (httpcore.AsyncConnectionPool.handle_async_request, default_monitor(), step_observer()) == before

    def test_polyfactory(self) -> None:
        """
        A factory of one's own fills the values of generated Results, and the strategies draw beside it.
        """
        factory = DataclassFactory.create_factory(Line)

        made = ResultTestDataGenerator().generate_success_results(3, lambda: factory.build())

        assert all(isinstance(result.unwrap(), Line) for result in made)

    async def test_dirty_equals(self) -> None:
        """
        A matcher stands wherever something is expected, also inside of a Result, and shows itself where it does not match.
        """
        mono = MonoResult.from_value({"name": "비빔밥", "price": 9000})

        await StepVerifier(mono).expect_value({"name": IsStr(regex="비.*"), "price": IsInt}).verify_complete()
        with pytest.raises(AssertionError, match=r"\['name'\]: expected IsStr\(regex='갈.*'\), got '비빔밥'"):
            await StepVerifier(mono).expect_value({"name": IsStr(regex="갈.*"), "price": 9000}).verify_complete()
        assert Success("x") == Success(IsStr)
