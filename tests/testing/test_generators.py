"""Data from a seed, factories, strategies, and what works beside them (FEATURES L7, L10)."""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from ipaddress import IPv4Address
from itertools import pairwise, product
from pathlib import PurePosixPath
from textwrap import dedent
from typing import Any, TypeVar
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
from hypothesis.strategies import SearchStrategy
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

T = TypeVar("T")


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


@dataclass
class Plain:
    """A field of each kind of which a seed alone says what comes."""

    text: str
    number: int
    share: float
    yes: bool
    raw: bytes
    amount: Decimal
    key: UUID
    at: datetime
    day: date
    hour: time
    wait: timedelta
    path: PurePosixPath


@dataclass
class Host:
    """What only Faker makes."""

    address: IPv4Address


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


def results_of(seed: generators.Seed = 7) -> ResultTestDataGenerator:
    return ResultTestDataGenerator(seed)


GIVEN: dict[str, tuple[Callable[[], object], object]] = {
    "users": (
        lambda: UserDataGenerator(7).generate_users(3),
        [
            User(
                "user-1",
                "김서준",
                "seojun.kim1@example.com",
                "010-0000-5156",
                "서울특별시 마포구 월드컵로 138, 1408호",
                72,
            ),
            User(
                "user-2",
                "강하은",
                "haeun.kang2@example.com",
                "010-0000-2310",
                "대전광역시 유성구 대학로 226, 1804호",
                57,
            ),
            User(
                "user-3",
                "최하은",
                "haeun.choi3@example.com",
                "010-0000-3461",
                "서울특별시 종로구 자하문로 168, 203호",
                71,
            ),
        ],
    ),
    "successes": (
        lambda: results_of().generate_success_results(4),
        [
            Success(MenuItem("item-1a3f8734", "엄마손 비빔밥", 28_800)),
            Success(MenuItem("item-41c884d2", "엄마손 떡볶이", 20_400)),
            Success(MenuItem("item-31aa7695", "반반 갈비탕", 12_100)),
            Success(MenuItem("item-07be721e", "해물파전", 16_400)),
        ],
    ),
    "failures": (
        lambda: results_of().generate_failure_results(5),
        [Failure(code) for code in (Code.DECLINED, Code.SOLD_OUT, Code.SOLD_OUT, Code.NOT_FOUND, Code.SOLD_OUT)],
    ),
    "mixed": (
        lambda: results_of().generate_mixed_results(5, 0.5, lambda number: number, lambda number: -number),
        [Failure(0), Success(0), Success(1), Failure(-1), Success(2)],
    ),
    "seven of ten": (
        lambda: [result.is_success() for result in ResultTestDataGenerator().generate_mixed_results(10)],
        [True, True, True, True, True, False, False, True, True, False],
    ),
    "nested": (
        lambda: results_of().generate_performance_test_data((1, 2), (1, 2)),
        {
            (1, 1): [Success({"number": 201, "note": "주문 포장 no onions"})],
            (1, 2): [Success({"number": 952, "note": {"number": 288, "note": "two spoons 얼음 없이 창가 자리"}})],
            (2, 1): [
                Success({"number": 761, "note": "two spoons 창가 자리 포장"}),
                Success({"number": 856, "note": "two spoons 덜 맵게"}),
            ],
            (2, 2): [
                Success({"number": 356, "note": {"number": 942, "note": "no onions"}}),
                Success({"number": 634, "note": {"number": 679, "note": "포장"}}),
            ],
        },
    ),
    "errors": (
        lambda: [(str(error), error.details) for error in APIErrorGenerator(7).generate_errors(3)],
        [
            ("UNAUTHORIZED: 창가 자리 덜 맵게", {"request": "846d4d67"}),
            ("RATE_LIMITED: 영수증 two spoons 주문", {"request": "8d06406c"}),
            ("TIMEOUT_ERROR: 예약 창가 자리", {"request": "779a8b66"}),
        ],
    ),
    "an error of a code": (
        lambda: str(APIErrorGenerator(7).generate_error("SOLD_OUT")),
        "SOLD_OUT: 창가 자리 덜 맵게",
    ),
    "plain fields": (
        lambda: TestDataFactory(7).batch(Plain, 2),
        [
            Plain(
                text="창가 자리",
                number=4717,
                share=5130.35,
                yes=False,
                raw="얼음 없이 영수증".encode(),
                amount=Decimal("742.67"),
                key=UUID("e4db757c-fe0d-4516-bb19-445eed129ffc"),
                at=datetime(2026, 4, 24, 21, 36, 21, tzinfo=UTC),
                day=date(2026, 3, 17),
                hour=time(1, 33, 39),
                wait=timedelta(seconds=32_218),
                path=PurePosixPath("/srv/300da745"),
            ),
            Plain(
                text="주문 생일 🎂",
                number=9981,
                share=5313.5,
                yes=True,
                raw="창가 자리 two spoons".encode(),
                amount=Decimal("5469.6"),
                key=UUID("78eff3b5-c786-4d1b-b789-f840b57f761b"),
                at=datetime(2026, 2, 15, 21, 48, 13, tzinfo=UTC),
                day=date(2026, 12, 1),
                hour=time(20, 12, 10),
                wait=timedelta(seconds=2192),
                path=PurePosixPath("/srv/43507ccf"),
            ),
        ],
    ),
}


class TestSeed:
    @pytest.mark.parametrize("name", GIVEN)
    def test_what_a_seed_gives_is_written_down(self, name: str) -> None:
        """
        To the last letter and digit; with another version, too.
        """
        make, wanted = GIVEN[name]

        assert make() == wanted

    def test_many_fields_are_written_down(self) -> None:
        """
        Of two hundred instances with a field of each kind, the digest: what comes seldom is fixed as well.
        """
        drawn = repr(TestDataFactory(7).batch(Plain, 200))

        assert hashlib.sha256(drawn.encode()).hexdigest()[:16] == "526e1035f0c99e85"

    def test_the_seed_is_zero_by_default(self) -> None:
        """
        Who names no seed gets the same data each time, those of the seed 0.
        """
        factory = TestDataFactory()

        assert factory.seed == 0
        assert everything(0) == everything(factory.seed)
        assert (
            factory.users.generate_user() == UserDataGenerator().generate_user() == UserDataGenerator(0).generate_user()
        )
        assert factory.results.generate_success_results(1) == ResultTestDataGenerator().generate_success_results(1)
        assert str(factory.errors.generate_error()) == str(APIErrorGenerator().generate_error())
        assert str(APIErrorGenerator(0).generate_error()) == str(APIErrorGenerator().generate_error())
        assert factory.build(Line) == TestDataFactory(0).build(Line)

    def test_what_faker_makes_is_seeded(self) -> None:
        """
        What is drawn by Faker comes of the seed as well.
        """
        assert TestDataFactory(7).batch(Host, 3) == TestDataFactory(7).batch(Host, 3)
        assert len({TestDataFactory(seed).build(Host).address for seed in range(70)}) == 70

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
                env=environment(PYTHONHASHSEED=seed),
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


def environment(**more: str) -> dict[str, str]:
    """The variables of another process that imports what this one does, and *more*."""
    return {**os.environ, "PYTHONPATH": ":".join(sys.path), **more}


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

    @pytest.mark.parametrize(
        ("count", "share", "successes"),
        [(10, 0, 0), (10, 1, 10), (0, 0.5, 0), (3, 0.5, 2), (1, 0.5, 1), (1, 0.49, 0), (5, 0.3, 2), (10, 0.24, 2)],
    )
    def test_the_share_is_rounded(self, count: int, share: float, successes: int) -> None:
        """
        None and all are shares, too; what is half of one is one.
        """
        made = ResultTestDataGenerator().generate_mixed_results(count, share)

        assert (len(made), sum(result.is_success() for result in made)) == (count, successes)

    @pytest.mark.parametrize("share", [-0.01, 1.01, math.nan])
    def test_a_share_that_is_none(self, share: float) -> None:
        """
        Less than none and more than all are refused.
        """
        with pytest.raises(ValueError, match=re.escape(f"success_ratio must be from 0 to 1, not {share!r}")):
            ResultTestDataGenerator().generate_mixed_results(10, share)

    def test_functions_with_and_without_a_number(self) -> None:
        """
        A function for a value may take the running number, or nothing.
        """
        make = ResultTestDataGenerator()

        assert make.generate_success_results(2, lambda number: str(number)) == [Success("0"), Success("1")]
        assert make.generate_success_results(2, lambda: "x") == [Success("x"), Success("x")]
        assert make.generate_success_results(1, dict) == [Success({})]
        assert make.generate_failure_results(2, lambda number: number) == [Failure(0), Failure(1)]
        assert make.generate_failure_results(2, lambda: "x") == [Failure("x"), Failure("x")]
        assert make.generate_success_results(0) == make.generate_failure_results(0) == []
        assert all(isinstance(result.unwrap_error(), Code) for result in make.generate_failure_results(5))

    def test_performance_data_has_sizes_and_depths(self) -> None:
        """
        For each size and level, so many Results of values so deep.
        """
        data = ResultTestDataGenerator().generate_performance_test_data((1, 10), (1, 2))

        assert {case: len(made) for case, made in data.items()} == {(1, 1): 1, (1, 2): 1, (10, 1): 10, (10, 2): 10}
        default = ResultTestDataGenerator().generate_performance_test_data()
        assert {case: len(made) for case, made in default.items()} == {
            (size, level): size for size in (10, 100, 1000) for level in (1, 3)
        }
        once = ResultTestDataGenerator().generate_performance_test_data(iter((2, 3)), iter((1, 2)))
        assert set(once) == {(2, 1), (2, 2), (3, 1), (3, 2)}
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
        ("missing", "use", "said"),
        [
            (
                "polyfactory",
                "TestDataFactory().build(User)",
                "factories need an optional package: pip install 'rfs[testing]'",
            ),
            ("hypothesis", "chains()", "strategies need an optional package: pip install 'rfs[testing]'"),
            (
                "fastapi",
                "TestDataFactory().errors",
                "APIErrorGenerator needs an optional package: pip install 'rfs[web]'",
            ),
        ],
    )
    def test_says_what_to_install(self, missing: str, use: str, said: str) -> None:
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
            [sys.executable, "-c", dedent(program)], capture_output=True, text=True, check=True, env=environment()
        )

        assert run.stdout == f"{said}\n"

    def test_the_module_loads_none_of_them(self) -> None:
        """
        Importing it loads neither hypothesis nor polyfactory nor FastAPI.
        """
        program = """
            import sys, rfs.testing.generators
            print(sorted({"hypothesis", "polyfactory", "faker", "fastapi"} & set(sys.modules)))
        """
        run = subprocess.run(
            [sys.executable, "-c", dedent(program)], capture_output=True, text=True, check=True, env=environment()
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


PROGRAMS: dict[str, tuple[ChainProgram, tuple[str, object], list[str]]] = {
    "a value": (ChainProgram(("value", 3)), ("value", 3), []),
    "the first error": (ChainProgram(("error", 0)), ("error", Code.SOLD_OUT), []),
    "the second error": (ChainProgram(("error", 1)), ("error", Code.NOT_FOUND), []),
    "the third error": (ChainProgram(("error", 2)), ("error", Code.DECLINED), []),
    "the first error again": (ChainProgram(("error", 3)), ("error", Code.SOLD_OUT), []),
    "a source that fails": (ChainProgram(("flaky", 2)), ("error", Code.NOT_FOUND), ["source"]),
    "a source that fails twice": (
        ChainProgram(("flaky", 2), (("map", 2), ("retry", 3))),
        ("value", 5),
        ["source", "source", "source", "0:map"],
    ),
    "a retry that is not enough": (
        ChainProgram(("flaky", 3), (("retry", 1),)),
        ("error", Code.DECLINED),
        ["source", "source"],
    ),
    "a retry of some": (
        ChainProgram(("flaky", 3), (("retry_some", 1),)),
        ("error", Code.DECLINED),
        ["source", "source"],
    ),
    "a retry of others": (ChainProgram(("flaky", 3), (("retry_some", 2),)), ("error", Code.NOT_FOUND), ["source"]),
    "a cache": (
        ChainProgram(("flaky", 1), (("map_error", 1), ("cache", 0), ("retry", 2))),
        ("error", Code.NOT_FOUND),
        ["source", "0:map_error"],
    ),
    "steps that are awaited": (
        ChainProgram(("value", 3), (("bind_async_result", 1), ("on_error_return_result", 1))),
        ("value", 4),
        ["0:bind_async_result"],
    ),
    "a bug": (
        ChainProgram(("value", 2), (("map_that_raises", 2),)),
        ("defect", "ZeroDivisionError"),
        ["0:map_that_raises"],
    ),
    "no bug": (ChainProgram(("value", 2), (("map_that_raises", 1),)), ("value", 2), ["0:map_that_raises"]),
    "a filter": (ChainProgram(("value", 3), (("filter", 1),)), ("error", Code.NOT_FOUND), ["0:filter"]),
    "a filter that lets pass": (ChainProgram(("value", 1), (("filter", 1),)), ("value", 1), ["0:filter"]),
    "no recovery of others": (ChainProgram(("error", 1), (("recover_some", 2),)), ("error", Code.NOT_FOUND), []),
    "two failures": (
        ChainProgram(("value", 0), (("map_that_raises", 0), ("first_success", 2))),
        ("error", ["ZeroDivisionError", Code.DECLINED]),
        ["0:map_that_raises"],
    ),
}


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

    def test_each_operator_with_each_number(self) -> None:
        """
        Every operator and every number, on a value, an error, what fails first, and a bug: the model says what comes.
        """
        sources = [(kind, number) for kind in ("value", "error", "flaky") for number in range(4)]
        before: list[tuple[tuple[str, int], ...]] = [(), (("map_that_raises", 0),)]

        async def check() -> None:
            for source, first, name, number in product(sources, before, generators._OPERATORS, range(4)):
                await ChainProgram(source, (*first, (name, number))).check()

        asyncio.run(check())

    @pytest.mark.parametrize("name", PROGRAMS)
    def test_what_programs_come_to(self, name: str) -> None:
        """
        What each comes to, and which functions it must call, here in plain words; and it takes no time.
        """
        program, answer, wanted_calls = PROGRAMS[name]
        calls: list[str] = []

        assert tuple(program.model(calls)) == answer
        assert calls == wanted_calls
        clock = VirtualTime()
        began = clock.monotonic()
        clock.run(program.check())
        assert type(generators._answer(clock.run(program.build([]).to_result())).held) is type(answer[1])
        assert clock.monotonic() == began

    async def test_a_wrong_call_is_told(self) -> None:
        """
        A chain that comes to what it must, but calls a function once too often, is wrong.
        """

        class Twice(ChainProgram):
            def build(self, calls: list[str]) -> MonoResult[Any, Any]:
                return super().build(calls).tap(lambda _: calls.append("more"))

        program = Twice(("error", 4), (("recover", 2),))
        with pytest.raises(AssertionError) as caught:
            await program.check()

        assert str(caught.value) == (
            f"{program}:\n  came to Success(2), calling ['0:recover', 'more']\n"
            "  must come to value 2, calling ['0:recover']"
        )

    @pytest.mark.parametrize(
        ("of", "most"), [(chains, 8), (partial(chains, max_operators=2), 2), (partial(chains, 0), 0)]
    )
    def test_what_programs_are_drawn(self, of: Callable[[], SearchStrategy[ChainProgram]], most: int) -> None:
        """
        All sources and operators with the numbers from 0 to 3, and so many operators at the most.
        """
        programs = drawn_of(of())

        assert {program.source for program in programs} == set(product(("value", "error", "flaky"), range(4)))
        assert {len(program.operators) for program in programs} == set(range(most + 1))
        operators = {each for program in programs for each in program.operators}
        assert {name for name, _ in operators} == (set(generators._OPERATORS) if most else set())
        if most > 2:  # of so few operators some numbers may not come
            assert operators == set(product(generators._OPERATORS, range(4)))

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


def drawn_of(strategy: SearchStrategy[T], examples: int = 600) -> list[T]:
    """Return what is drawn of *strategy*, the same each time."""
    made: list[T] = []

    @settings(
        max_examples=examples,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        deadline=None,
        suppress_health_check=[*HealthCheck],
    )
    @given(strategy)
    def take(each: T) -> None:
        made.append(each)

    take()
    return made


@pytest.fixture(scope="module")
def many_series() -> list[Series]:
    """What is drawn by default."""
    return drawn_of(series(), 400)


@pytest.fixture(scope="module")
def many_traces() -> list[Span]:
    """What is drawn by default."""
    return drawn_of(traces(), 400)


class TestStrategies:
    def test_all_texts_come(self) -> None:
        """
        Each Korean name, each dish and word and each text that breaks something; and others, which are in no list.
        """
        names = {surname + given for surname, _ in generators.SURNAMES for given, _ in generators.GIVEN_NAMES}
        known = {*names, *generators.DISHES, *generators.WORDS, *generators._TEXTS}

        come = Counter(drawn_of(texts(), 2000))

        assert come.keys() >= known
        assert len(come.keys() - known) > 100

    def test_all_kinds_of_texts_come(self) -> None:
        """
        Some of each list, and as many that are in none, come soon.
        """
        names = {surname + given for surname, _ in generators.SURNAMES for given, _ in generators.GIVEN_NAMES}
        kinds = [names, {*generators.DISHES}, {*generators.WORDS}, {*generators._TEXTS}]

        come = set(drawn_of(texts(), 200))

        assert all(come & kind for kind in kinds)
        assert len(come - set[str]().union(*kinds)) > 20

    def test_all_results_come(self) -> None:
        """
        By default numbers, texts and None; `Code`s and texts; and three kinds of exceptions as defects, of any text.
        """
        come = drawn_of(results())

        values = [result.value for result in come if isinstance(result, Success)]
        errors = [result.error for result in come if isinstance(result, Failure) and not result.is_defect]
        defects = [result.error for result in come if isinstance(result, Failure) and result.is_defect]
        assert {type(value) for value in values} == {type(None), int, str}
        assert {type(error) for error in errors} == {Code, str}
        assert {type(error) for error in defects} == {ValueError, KeyError, TimeoutError}
        assert all(len(error.args) == 1 and isinstance(error.args[0], str) for error in defects)
        for held in (values, errors, [error.args[0] for error in defects]):
            assert any(isinstance(each, str) and re.fullmatch("[가-힣]{3}", each) for each in held)

    def test_results_of_ones_own(self) -> None:
        """
        Values and errors of strategies that are handed in, and no others; defects are as ever.
        """
        come = drawn_of(results(st.just("v"), st.just("e")), 200)

        assert {result.value for result in come if isinstance(result, Success)} == {"v"}
        assert {result.error for result in come if isinstance(result, Failure) and not result.is_defect} == {"e"}
        assert {type(result.error) for result in come if isinstance(result, Failure) and result.is_defect} == {
            ValueError,
            KeyError,
            TimeoutError,
        }
        of_values = drawn_of(results(st.just("v")), 100)
        assert {type(each.error) for each in of_values if isinstance(each, Failure) and not each.is_defect} == {
            Code,
            str,
        }

    def test_what_series_are_drawn(self, many_series: list[Series]) -> None:
        """
        Names and labels as they are allowed; all kinds; measurements within the limits that are promised, and near them.
        """
        assert all(re.fullmatch("drawn_[a-z][a-z0-9_]{0,20}", each.name) for each in many_series)
        assert len({each.name for each in many_series}) > 100
        assert {len(each.labels) for each in many_series} == {0, 1, 2, 3}
        labels = [label for each in many_series for label in each.labels.items()]
        assert all(re.fullmatch("[a-z][a-z0-9_]{0,20}", name) and len(value) <= 256 for name, value in labels)
        assert any(re.search("[가-힣]", value) for _, value in labels)
        measured = {
            kind: [amount for each in many_series if each.metric_type is kind for _, amount in each.points]
            for kind in (MetricType.COUNTER, MetricType.GAUGE, MetricType.HISTOGRAM)
        }
        assert sum(map(len, measured.values())) == sum(len(each.points) for each in many_series)
        assert all(type(amount) is float for amounts in measured.values() for amount in amounts)
        for kind, least, most in (
            (MetricType.COUNTER, 0, 1e9),
            (MetricType.GAUGE, -1e12, 1e12),
            (MetricType.HISTOGRAM, 0, 1e6),
        ):
            assert least <= min(measured[kind]) <= 0.9 * least
            assert 0.9 * most <= max(measured[kind]) <= most
            assert any(0 < amount < 1 for amount in measured[kind])

    def test_the_longest_labels_of_series(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        The value of a label has at most 256 characters: a longer one would not be kept as it is.
        """
        for name in ("DISHES", "WORDS"):
            monkeypatch.setattr(generators, name, ())
        monkeypatch.setattr(generators, "_TEXTS", ("x" * 256, "x" * 257))

        assert max(len(value) for each in drawn_of(series(0), 50) for value in each.labels.values()) == 256

    def test_the_times_of_series(self, many_series: list[Series]) -> None:
        """
        The first measurement is at 0; from one to the next pass none to 3600 seconds, often a round number of them.
        """
        assert {each.points[0][0] for each in many_series if each.points} == {0.0}
        passed = [later - sooner for each in many_series for (sooner, _), (later, _) in pairwise(each.points)]
        assert min(passed) == 0
        assert 3000 < max(passed) < 3600.001
        assert any(0.001 < each < 0.999 for each in passed)
        assert {0.0, 1.0, 10.0, 60.0} <= set(passed)

    def test_how_long_series_are(self, many_series: list[Series]) -> None:
        """
        From no measurement to as many as are asked for.
        """
        assert {len(each.points) for each in drawn_of(series(max_points=2), 60)} == {0, 1, 2}
        assert 10 < max(len(each.points) for each in many_series) <= 50

    def test_what_traces_are_drawn(self, many_traces: list[Span]) -> None:
        """
        Six operations, one of them Korean; deep and broad ones, whose spans take at least as long as those within them.
        """
        spans = [span for trace in many_traces for _, span in trace.walk()]
        assert {span.operation for span in spans} == {
            "order.place", "stock.reserve", "payment.charge", "db.query", "주방.조리", "mail.send",
        }  # fmt: skip
        own = [round(span.seconds - sum(child.seconds for child in span.children), 3) for span in spans]
        assert (min(own), max(own)) == (0, 5)
        assert all(span.seconds == round(span.seconds, 3) for span in spans)
        assert any(each % 1 for each in own)
        assert {type(span.result) for span in spans} >= {Success, Failure}
        assert {type(span.children) for span in spans} == {tuple}
        assert max(depth for trace in many_traces for depth, _ in trace.walk()) in {3, 4, 5}
        assert max(len(span.children) for span in spans) >= 4

    @pytest.mark.parametrize("most", [1, 2, 3])
    def test_a_trace_has_no_more_spans_than_are_asked_for(self, most: int) -> None:
        """
        All of its spans are counted, those with others within them as well.
        """
        come = drawn_of(traces(most), 100)

        assert {len([*trace.walk()]) for trace in come} == set(range(1, most + 1))

    def test_a_trace_has_twenty_spans_by_default(self, many_traces: list[Span]) -> None:
        """
        None has more.
        """
        assert 10 < max(len([*trace.walk()]) for trace in many_traces) <= 20

    def test_walking(self) -> None:
        """
        A span before those within it, each with its depth, from that where the walk begins.
        """
        leaf = Span("c", 0.5, Success(3))
        middle = Span("b", 1, Success(2), (leaf,))
        root = Span("a", 2, Success(1), (middle, leaf))

        assert leaf.children == ()
        assert [*root.walk()] == [(0, root), (1, middle), (2, leaf), (1, leaf)]
        assert [*middle.walk(3)] == [(3, middle), (4, leaf)]

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

    @pytest.mark.parametrize("base", ["object", "text", "dict", "list", "int"])
    def test_nothing_can_be_asked(self, base: str) -> None:
        """
        Not even what it is an instance of, nor what it has; its type alone says what it is.
        """
        trapped: Any = HOSTILE_VALUES[f"{base} of which nothing can be asked"]()
        asked: list[Callable[[Any], object]] = [
            repr, str, bool, len, iter, hash, dir, int, float, vars, "{}".format, lambda value: isinstance(value, Code),
            lambda value: value == value, lambda value: value < value, lambda value: value(), lambda value: value.x,
            lambda value: 1 in value, lambda value: value[0],
            lambda value: object.__getattribute__(value, "__class__"),
            lambda value: object.__getattribute__(value, "__dict__"),
        ]  # fmt: skip

        for ask in asked:
            with pytest.raises(generators._TouchedError):
                ask(trapped)
        bases = {"object": object, "text": str, "dict": dict, "list": list, "int": int}
        assert type(trapped).__mro__[1] is bases[base]
        assert type(trapped).__name__ == "Trapped"

    def test_what_cannot_be_shown(self) -> None:
        """
        An object and an exception that can be neither shown, compared nor hashed, and have no truth.
        """
        for name in ("object that cannot be shown", "exception that cannot be shown"):
            value: Any = HOSTILE_VALUES[name]()
            asked: list[Callable[[Any], object]] = [
                repr, str, bool, hash, "{}".format, "{:>9}".format, lambda value: value == 1,
            ]  # fmt: skip
            for ask in asked:
                with pytest.raises(RuntimeError, match=r"^hostile$"):
                    ask(value)
            assert type(value).__name__ == "Raising"
        assert isinstance(value, Exception)
        assert value.args == ("x",)

    def test_what_has_no_end(self) -> None:
        """
        A dict that holds itself, and a list within a list, 3,000 times.
        """
        cycle: Any = HOSTILE_VALUES["cycle"]()
        assert {name: held if held is not cycle else "itself" for name, held in cycle.items()} == {
            "number": 1,
            "self": "itself",
        }
        deep: Any = HOSTILE_VALUES["3,000 levels"]()
        levels = 0
        while isinstance(deep, list):
            (deep,) = deep
            levels += 1
        assert (levels, deep) == (3000, "bottom")

    def test_all_are_drawn(self) -> None:
        """
        Each of them comes; they are made anew each time.
        """
        assert {value.name for value in drawn_of(hostile_values())} == set(HOSTILE_VALUES)
        assert HostileValue("cycle").make() is not HostileValue("cycle").make()

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
