"""
Data for tests: the same for the same seed, or drawn by hypothesis.

The seeded generators make Results, users and errors, with Korean text in them. What a seed gives is fixed: on every
platform, with every Python, and by a test. They need the standard library alone; `APIErrorGenerator` needs
``rfs[web]``. `TestDataFactory.build` fills dataclasses, pydantic models and msgspec structs by polyfactory, and the
functions from `results` on give hypothesis strategies; both come with ``rfs[testing]``.

Generators are not safe from several threads at once: they would take each other's numbers.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import partial
from importlib import import_module
from inspect import signature
from pathlib import PurePosixPath
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias, TypeVar, cast
from uuid import UUID

from rfs.core.result import AnyResult, Failure, Result, Success
from rfs.monitoring.metrics import MetricType
from rfs.reactive import MonoResult
from rfs.testing._messages import describe, fail

if TYPE_CHECKING:
    from hypothesis import strategies as st
    from hypothesis.strategies import SearchStrategy

    from rfs.web.fastapi import APIError
else:

    class _Strategies:
        """``hypothesis.strategies``, loaded when something of it is needed."""

        def __getattr__(self, name: str) -> object:
            try:
                from hypothesis import strategies
            except ImportError as error:
                raise ImportError("strategies need an optional package: pip install 'rfs[testing]'") from error
            return getattr(strategies, name)

    st = _Strategies()

__all__ = [
    "HOSTILE_VALUES",
    "APIErrorGenerator",
    "ChainProgram",
    "Code",
    "HostileValue",
    "MenuItem",
    "ResultTestDataGenerator",
    "Seed",
    "Series",
    "Span",
    "TestDataFactory",
    "User",
    "UserDataGenerator",
    "chains",
    "hostile_values",
    "results",
    "series",
    "texts",
    "traces",
]

T = TypeVar("T")
Seed: TypeAlias = "int | str"

SURNAMES = (
    ("김", "kim"),
    ("이", "lee"),
    ("박", "park"),
    ("최", "choi"),
    ("정", "jung"),
    ("강", "kang"),
    ("윤", "yoon"),
)
GIVEN_NAMES = (
    ("서준", "seojun"), ("하은", "haeun"), ("도윤", "doyun"), ("지우", "jiwoo"), ("민서", "minseo"), ("예린", "yerin"),
    ("현우", "hyunwoo"), ("수빈", "subin"), ("은채", "eunchae"), ("태양", "taeyang"), ("보라", "bora"), ("한결", "hangyeol"),
)  # fmt: skip
DISTRICTS = (
    ("서울특별시 마포구", ("월드컵로", "와우산로", "독막로")),
    ("서울특별시 종로구", ("자하문로", "율곡로")),
    ("부산광역시 해운대구", ("해운대로", "달맞이길")),
    ("대전광역시 유성구", ("대학로", "엑스포로")),
    ("제주특별자치도 제주시", ("연삼로", "노형로")),
)
DISHES = ("비빔밥", "김치찌개", "잡채", "갈비탕", "해물파전", "떡볶이", "순두부찌개", "물냉면", "불고기", "삼계탕")
STYLES = ("", "매운 ", "돌솥 ", "엄마손 ", "반반 ")
WORDS = ("주문", "포장", "창가 자리", "덜 맵게", "얼음 없이", "two spoons", "no onions", "영수증", "예약", "생일 🎂")


class _Chance:
    """
    Draws that depend on the seed alone.

    Python keeps the sequence of ``random()`` for ever, and promises that of no other method.
    """

    def __init__(self, seed: Seed, purpose: str) -> None:
        # A seed of text is hashed by SHA-512; one purpose does not take the numbers of another.
        self._next = Random(f"{seed}/{purpose}").random  # noqa: S311 - guards nothing

    def between(self, least: int, most: int) -> int:
        """Draw a whole number; both bounds may come."""
        return least + int(self._next() * (most - least + 1))

    def one(self, items: Sequence[T]) -> T:
        """Draw one of *items*."""
        return items[self.between(0, len(items) - 1)]

    def hexadecimal(self, digits: int) -> str:
        """Draw so many digits."""
        return "".join(self.one("0123456789abcdef") for _ in range(digits))

    def shuffled(self, items: Iterable[T]) -> list[T]:
        """Return *items* in an order that was drawn."""
        left, drawn = list(items), list[T]()
        while left:
            drawn.append(left.pop(self.between(0, len(left) - 1)))
        return drawn

    def text(self) -> str:
        """Draw a few words, Korean ones among them."""
        return " ".join(self.one(WORDS) for _ in range(self.between(1, 3)))

    def moment(self) -> datetime:
        """Draw a second of the year 2026, UTC."""
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.between(0, 365 * 86_400 - 1))


# --- seeded data ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who does not exist."""

    user_id: str
    name: str
    email: str
    phone: str
    address: str
    age: int


@dataclass(frozen=True, slots=True)
class MenuItem:
    """Something to eat."""

    item_id: str
    name: str
    price: int  # won


class UserDataGenerator:
    """Makes users, each different from all before it."""

    def __init__(self, seed: Seed = 0) -> None:
        self._chance = _Chance(seed, "users")
        self._made = 0

    def generate_user(self, **fields: Any) -> User:
        """Make one; *fields* take the place of what would have been drawn, which is drawn all the same."""
        chance = self._chance
        self._made += 1
        surname, given = chance.one(SURNAMES), chance.one(GIVEN_NAMES)
        district, roads = chance.one(DISTRICTS)
        made = User(
            user_id=f"user-{self._made}",
            name=surname[0] + given[0],
            email=f"{given[1]}.{surname[1]}{self._made}@example.com",
            phone=f"010-0000-{chance.between(0, 9999):04d}",
            address=f"{district} {chance.one(roads)} {chance.between(1, 300)}, {chance.between(1, 20) * 100 + chance.between(1, 8)}호",
            age=chance.between(19, 90),
        )
        return replace(made, **fields)

    def generate_users(self, count: int) -> list[User]:
        """Make *count* users."""
        return [self.generate_user() for _ in range(count)]


class APIErrorGenerator:
    """Makes `APIError`s. Raises ``ImportError`` where FastAPI is missing."""

    def __init__(self, seed: Seed = 0) -> None:
        try:
            from rfs.web.fastapi import APIError, ErrorCode
        except ImportError as error:
            raise ImportError("APIErrorGenerator needs an optional package: pip install 'rfs[web]'") from error
        self._chance = _Chance(seed, "errors")
        self._make: Callable[..., APIError] = APIError
        self._codes = tuple(ErrorCode)

    def generate_error(self, code: str | None = None) -> APIError:
        """Make one, of *code* if it is given."""
        drawn = self._chance.one(self._codes)
        return self._make(code or drawn, self._chance.text(), {"request": self._chance.hexadecimal(8)})

    def generate_errors(self, count: int) -> list[APIError]:
        """Make *count* errors."""
        return [self.generate_error() for _ in range(count)]


class ResultTestDataGenerator:
    """
    Makes Results.

    A function for a value or an error is called with the running number, from 0, if it takes an argument, else with nothing.
    """

    def __init__(self, seed: Seed = 0) -> None:
        self._chance = _Chance(seed, "results")

    def generate_success_results(
        self, count: int, value_generator: Callable[..., T] | None = None
    ) -> list[Result[T | Any, Any]]:
        """Make *count* Successes; by default of menu items."""
        make = _numbered(value_generator or self._item)
        return [Success(make(number)) for number in range(count)]

    def generate_failure_results(
        self, count: int, error_generator: Callable[..., T] | None = None
    ) -> list[Result[Any, T | Any]]:
        """Make *count* Failures; by default of `Code`s."""
        make = _numbered(error_generator or self._code)
        return [Failure(make(number)) for number in range(count)]

    def generate_mixed_results(
        self,
        total_count: int,
        success_ratio: float = 0.7,
        value_generator: Callable[..., Any] | None = None,
        error_generator: Callable[..., Any] | None = None,
    ) -> list[Result[Any, Any]]:
        """Make *total_count* Results in a drawn order; exactly the share *success_ratio*, rounded, are Successes."""
        if not 0 <= success_ratio <= 1:
            raise ValueError(f"success_ratio must be from 0 to 1, not {success_ratio!r}")
        successes = math.floor(total_count * success_ratio + 0.5)
        made = self.generate_success_results(successes, value_generator)
        return self._chance.shuffled(made + self.generate_failure_results(total_count - successes, error_generator))

    def generate_performance_test_data(
        self, sizes: Iterable[int] = (10, 100, 1000), levels: Iterable[int] = (1, 3)
    ) -> dict[tuple[int, int], list[Result[Any, Any]]]:
        """Make, for each size and level, so many Successes, whose values are dicts so many levels deep."""
        levels = tuple(levels)
        return {
            (size, level): [Success(self._nested(level)) for _ in range(size)] for size in sizes for level in levels
        }

    def _item(self) -> MenuItem:
        chance = self._chance
        name = chance.one(STYLES) + chance.one(DISHES)
        return MenuItem(f"item-{chance.hexadecimal(8)}", name, chance.between(40, 300) * 100)

    def _code(self) -> Code:
        return self._chance.one(tuple(Code))

    def _nested(self, levels: int) -> dict[str, Any]:
        inner: Any = self._nested(levels - 1) if levels > 1 else self._chance.text()
        return {"number": self._chance.between(0, 999), "note": inner}


class TestDataFactory:
    """
    All generators under one *seed*; what is asked of one does not change what another gives.

    Attributes:
        users: `UserDataGenerator`.
        results: `ResultTestDataGenerator`.

    """

    __test__: ClassVar[bool] = False  # pytest would take it for a class of tests

    def __init__(self, seed: Seed = 0) -> None:
        self.seed = seed
        self.users = UserDataGenerator(seed)
        self.results = ResultTestDataGenerator(seed)
        self._errors: APIErrorGenerator | None = None
        self._factories: dict[type, Any] = {}

    @property
    def errors(self) -> APIErrorGenerator:
        """`APIErrorGenerator`; raises ``ImportError`` where FastAPI is missing."""
        self._errors = self._errors or APIErrorGenerator(self.seed)
        return self._errors

    def build(self, model: type[T], **fields: object) -> T:
        """
        Make an instance of a dataclass, pydantic model or msgspec struct, by polyfactory.

        Args:
            model: Its fields' types and limits say what may come; so do those of what it contains.
            fields: Given, not drawn.

        Texts, numbers, times and ids depend on the seed alone. What only polyfactory can make (a text of a pattern, a
        number within limits) does so for one version of polyfactory and Faker.

        Raises:
            ImportError: polyfactory is missing.
            TypeError: *model* is of another kind.

        """
        if model not in self._factories:
            self._factories[model] = _factory(model, self.seed)
        return cast("T", self._factories[model].build(**fields))

    def batch(self, model: type[T], count: int) -> list[T]:
        """Make *count* instances, as `build` does."""
        return [self.build(model) for _ in range(count)]


def _numbered(make: Callable[..., Any]) -> Callable[[int], Any]:
    try:
        signature(make).bind(0)
    except (TypeError, ValueError):  # it takes none, or it is a builtin that does not say
        return lambda _: make()
    return make


def _factory(model: type, seed: Seed) -> Any:
    try:
        from faker import Faker
        from polyfactory.factories import DataclassFactory
    except ImportError as error:
        raise ImportError("factories need an optional package: pip install 'rfs[testing]'") from error

    base: Any = None
    kind: Any = model
    if is_dataclass(kind):
        base = DataclassFactory
    elif hasattr(kind, "__struct_fields__"):
        base = import_module("polyfactory.factories.msgspec_factory").MsgspecFactory
    elif hasattr(kind, "model_fields"):
        base = import_module("polyfactory.factories.pydantic_factory").ModelFactory
    if base is None:
        raise TypeError(f"{model.__name__} is no dataclass, pydantic model or msgspec struct")
    chance = _Chance(seed, f"{model.__module__}.{model.__qualname__}")
    faker = Faker()
    faker.seed_instance(chance.between(0, 2**32))
    # Its own chance, not that of all factories: who else uses polyfactory is not disturbed.
    return base.create_factory(
        model,
        __random__=Random(chance.hexadecimal(16)),  # noqa: S311 - guards nothing
        __faker__=faker,
        _extra_providers=_providers(chance),
    )


def _providers(chance: _Chance) -> dict[type, Callable[[], object]]:
    """Return what makes plain values; polyfactory's own depend on today's date and on Faker's version."""
    return {
        str: chance.text,
        int: lambda: chance.between(0, 10_000),
        float: lambda: chance.between(0, 1_000_000) / 100,
        bool: lambda: chance.between(0, 1) == 1,
        bytes: lambda: chance.text().encode(),
        Decimal: lambda: Decimal(chance.between(0, 1_000_000)) / 100,
        UUID: lambda: UUID(chance.hexadecimal(32), version=4),
        datetime: chance.moment,
        date: lambda: chance.moment().date(),
        time: lambda: chance.moment().time(),
        timedelta: lambda: timedelta(seconds=chance.between(0, 86_400)),
        PurePosixPath: lambda: PurePosixPath("/srv", chance.hexadecimal(8)),
    }


# --- strategies ------------------------------------------------------------------------------------


class Code(StrEnum):
    """Error codes of no meaning."""

    SOLD_OUT = "SOLD_OUT"
    NOT_FOUND = "NOT_FOUND"
    DECLINED = "DECLINED"


def texts() -> SearchStrategy[str]:
    """Draw text of every kind: names and dishes in Korean, any Unicode, and what breaks terminals, logs and pages."""
    names = st.sampled_from([surname + given for surname, _ in SURNAMES for given, _ in GIVEN_NAMES])
    return st.one_of(names, st.sampled_from((*DISHES, *WORDS, *_TEXTS)), st.text())


def results(
    values: SearchStrategy[Any] | None = None, errors: SearchStrategy[Any] | None = None
) -> SearchStrategy[AnyResult]:
    """
    Draw Successes, Failures and defects.

    Args:
        values: Strategy of the values; by default numbers, texts and ``None``.
        errors: Strategy of the declared errors; by default `Code`s and texts. A defect holds an exception.

    """
    values = st.none() | st.integers() | texts() if values is None else values
    errors = st.sampled_from(Code) | texts() if errors is None else errors
    raised = st.one_of(*[texts().map(kind) for kind in (ValueError, KeyError, TimeoutError)])
    return st.one_of(values.map(Success), errors.map(Failure), raised.map(Failure.from_exception))


class Series(NamedTuple):
    """Measurements of one series: increments of a counter, values of a gauge, observations of a histogram."""

    name: str
    labels: dict[str, str]
    metric_type: MetricType
    points: tuple[tuple[float, float], ...]  # (seconds since the first one, measurement), in the order of time


def series(max_points: int = 50) -> SearchStrategy[Series]:
    """
    Draw series that a monitor takes: names and labels it allows, label values of any text, times that rise or stay.

    From one measurement to the next pass up to 3600 seconds. Increments of a counter are from 0 to 1e9, values of a gauge
    from -1e12 to 1e12, and observations of a histogram from 0 to 1e6.
    """
    names = st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True)
    # 256 characters is the longest value of a label that is kept as it is.
    labels = st.dictionaries(names, texts().filter(lambda text: len(text) <= 256), max_size=3)
    pauses = st.floats(0, 3600) | st.sampled_from((0.0, 1.0, 10.0, 60.0))
    amounts = {
        MetricType.COUNTER: st.integers(0, 10**6) | st.floats(0, 1e9),
        MetricType.GAUGE: st.floats(-1e12, 1e12),
        MetricType.HISTOGRAM: st.floats(0, 1e6),
    }

    @st.composite
    def draw_series(draw: st.DrawFn) -> Series:
        kind = draw(st.sampled_from(list(amounts)))
        at, points = 0.0, list[tuple[float, float]]()
        for pause, amount in draw(st.lists(st.tuples(pauses, amounts[kind]), max_size=max_points)):
            at += pause if points else 0.0
            points.append((at, float(amount)))
        return Series("drawn_" + draw(names), draw(labels), kind, tuple(points))

    return draw_series()


class Span(NamedTuple):
    """An operation, and those within it, which run one after the other and take no longer than it does."""

    operation: str
    seconds: float
    result: AnyResult
    children: tuple[Span, ...] = ()

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Span]]:
        """Yield this and all below it, each with its depth and before its children."""
        yield depth, self
        for child in self.children:
            yield from child.walk(depth + 1)


def traces(max_spans: int = 20) -> SearchStrategy[Span]:
    """Draw one trace, the tree of its operations: from one span to *max_spans*, all of them counted."""
    names = st.sampled_from(("order.place", "stock.reserve", "payment.charge", "db.query", "주방.조리", "mail.send"))
    own = st.integers(0, 5000)  # milliseconds
    levels = st.integers(1, 5)
    return st.lists(st.tuples(names, own, results(), levels), min_size=1, max_size=max_spans).map(_tree)


def _tree(drawn: Iterable[tuple[str, int, AnyResult, int]]) -> Span:
    """Return the first as a span that holds the others; each is within the last one before it of a lesser level."""
    left = deque(drawn)

    def whole(level: int) -> Span:
        name, own, result, _ = left.popleft()
        children = list[Span]()
        while left and left[0][3] > level:
            children.append(whole(left[0][3]))
        return Span(name, round(own / 1000 + sum(child.seconds for child in children), 3), result, tuple(children))

    return whole(0)


# --- chains ------------------------------------------------------------------------------------------


class _Answer(NamedTuple):
    """What a chain comes to, in a form that two runs can be compared by."""

    kind: str  # "value", "error", "defect"
    held: object


@dataclass(frozen=True)
class ChainProgram:
    """
    A chain as data: `build` makes the chain, `model` says in plain Python what it must come to, `check` compares.

    Each operator is a name and a number, which chooses its value or error. Both ways note each call of a function.
    """

    source: tuple[str, int]
    operators: tuple[tuple[str, int], ...] = ()

    def build(self, calls: list[str]) -> MonoResult[Any, Any]:
        """Return the chain, whose functions note their calls in *calls*."""
        kind, number = self.source
        mono: MonoResult[Any, Any]
        if kind == "value":
            mono = MonoResult.from_value(number)
        elif kind == "error":
            mono = MonoResult.from_error(_code(number))
        else:
            mono = MonoResult.from_async_result(_flaky(number, calls))
        for place, (name, number) in enumerate(self.operators):
            mono = _OPERATORS[name](mono, number, _noting(f"{place}:{name}", calls))
        return mono

    def model(self, calls: list[str]) -> _Answer:
        """Say what the chain comes to, and note in *calls* what it must call."""
        return _Model(self, calls).run(len(self.operators))

    async def check(self) -> None:
        """Run the chain. Raises ``AssertionError``, which shows the program, where it does not do what the model does."""
        __tracebackhide__ = True
        wanted_calls, calls = list[str](), list[str]()
        wanted = self.model(wanted_calls)
        result = await self.build(calls)
        if (_answer(result), calls) != (wanted, wanted_calls):
            fail(
                f"{self}:\n  came to {describe(result)}, calling {calls}\n"
                f"  must come to {wanted.kind} {wanted.held!r}, calling {wanted_calls}"
            )


def chains(max_operators: int = 8) -> SearchStrategy[ChainProgram]:
    """Draw programs of MonoResult's operators, to be run and compared: ``await program.check()``."""
    sources = st.tuples(st.sampled_from(("value", "error", "flaky")), st.integers(0, 3))
    operators = st.lists(st.tuples(st.sampled_from(sorted(_OPERATORS)), st.integers(0, 3)), max_size=max_operators)
    return st.builds(ChainProgram, sources, operators.map(tuple[tuple[str, int], ...]))


def _code(number: int) -> Code:
    return tuple(Code)[number % len(Code)]


def _noting(what: str, calls: list[str]) -> Callable[[Any], Any]:
    """Return the function that notes a call and returns what it was called with."""

    def noted(held: Any) -> Any:
        calls.append(what)
        return held

    return noted


def _flaky(failures: int, calls: list[str]) -> Callable[[], Any]:
    runs = 0

    async def flaky() -> AnyResult:
        nonlocal runs
        runs += 1
        calls.append("source")
        await asyncio.sleep(0)
        return Success(runs) if runs > failures else Failure(_code(runs))

    return flaky


def _divide(value: int, number: int) -> int:
    return value // ((value + number) % 2)  # raises for every other value


def _even(value: int, number: int) -> AnyResult:
    return Failure(_code(number)) if (value + number) % 2 else Success(value + 1)


def _either(number: int) -> AnyResult:
    return Success(number) if number % 2 else Failure(_code(number))


async def _soon(held: T) -> T:
    await asyncio.sleep(0)
    return held


def _raise(_: object) -> None:
    raise RuntimeError


# Each takes the chain, a number and what notes a call.
_OPERATORS: Mapping[str, Callable[[MonoResult[Any, Any], int, Callable[[Any], Any]], MonoResult[Any, Any]]] = {
    "map": lambda mono, n, noted: mono.map(lambda value: noted(value) + n),
    "map_that_raises": lambda mono, n, noted: mono.map(lambda value: _divide(noted(value), n)),
    "bind_result": lambda mono, n, noted: mono.bind_result(lambda value: _even(noted(value), n)),
    "bind_async_result": lambda mono, n, noted: mono.bind_async_result(lambda value: _soon(_even(noted(value), n))),
    "filter": lambda mono, n, noted: mono.filter(lambda value: noted(value) % 3, _code(n)),
    "map_error": lambda mono, n, noted: mono.map_error(lambda error: (noted(error), _code(n))[1]),
    "recover": lambda mono, n, noted: mono.recover(lambda error: (noted(error), n)[1]),
    "recover_some": lambda mono, n, noted: mono.recover(lambda error: (noted(error), n)[1], on_codes=_code(n)),
    "on_error_return_value": lambda mono, n, _: mono.on_error_return_value(n),
    "on_error_return_result": lambda mono, n, noted: mono.on_error_return_result(
        lambda error: _soon((noted(error), _either(n))[1])
    ),
    "fallback": lambda mono, n, _: mono.fallback(MonoResult.from_result(_either(n))),
    "tap_that_raises": lambda mono, _, noted: mono.tap(lambda value: _raise(noted(value)), noted),
    "retry": lambda mono, n, _: mono.retry(n),
    "retry_some": lambda mono, n, _: mono.retry(n, on_codes=_code(n)),
    "timeout": lambda mono, n, _: mono.timeout(3600 + n),
    "cache": lambda mono, _, __: mono.cache(),
    "zip": lambda mono, n, _: mono.zip(MonoResult.from_value(n)).map(sum),
    "first_success": lambda mono, n, _: mono.first_success(MonoResult.from_error(_code(n))),
    "name": lambda mono, n, _: mono.name(f"chain {n}"),
}


class _Model:
    """What a program must do, without any of the code that does it."""

    def __init__(self, program: ChainProgram, calls: list[str]) -> None:
        self._program = program
        self._calls = calls
        self._runs = 0
        self._kept: dict[int, _Answer] = {}

    def run(self, upto: int) -> _Answer:
        """Run the source and the first *upto* operators."""
        if upto == 0:
            return self._source()
        name, number = self._program.operators[upto - 1]
        if name == "cache":
            if upto not in self._kept:
                self._kept[upto] = self.run(upto - 1)
            return self._kept[upto]
        answer = self.run(upto - 1)
        if name in {"retry", "retry_some"}:
            for _ in range(number):
                if answer.kind == "value" or (name == "retry_some" and answer.held is not _code(number)):
                    break
                answer = self.run(upto - 1)
            return answer
        if answer.kind == "value":
            return self._of_value(f"{upto - 1}:{name}", name, number, cast("int", answer.held))
        return self._of_error(f"{upto - 1}:{name}", name, number, answer)

    def _source(self) -> _Answer:
        kind, number = self._program.source
        if kind == "value":
            return _Answer("value", number)
        if kind == "error":
            return _Answer("error", _code(number))
        self._runs += 1
        self._calls.append("source")
        return _Answer("value", self._runs) if self._runs > number else _Answer("error", _code(self._runs))

    def _of_value(self, call: str, name: str, number: int, value: int) -> _Answer:
        if name in {"map", "map_that_raises", "bind_result", "bind_async_result", "filter", "tap_that_raises"}:
            self._calls.append(call)
        odd = (value + number) % 2 == 1
        if name in {"map", "zip"}:
            return _Answer("value", value + number)
        if name == "map_that_raises":
            return _Answer("value", value) if odd else _Answer("defect", "ZeroDivisionError")
        if name in {"bind_result", "bind_async_result"}:
            return _Answer("error", _code(number)) if odd else _Answer("value", value + 1)
        if name == "filter" and value % 3 == 0:
            return _Answer("error", _code(number))
        return _Answer("value", value)

    def _of_error(self, call: str, name: str, number: int, answer: _Answer) -> _Answer:
        if name == "recover_some" and answer.held is not _code(number):
            return answer
        if name in {"map_error", "recover", "recover_some", "on_error_return_result", "tap_that_raises"}:
            self._calls.append(call)
        if name == "map_error":
            return _Answer(answer.kind, _code(number))
        if name in {"recover", "recover_some", "on_error_return_value"}:
            return _Answer("value", number)
        if name in {"on_error_return_result", "fallback"}:
            return _Answer("value", number) if number % 2 else _Answer("error", _code(number))
        if name == "first_success":
            return _Answer("error", [answer.held, _code(number)])
        return answer


def _answer(result: AnyResult) -> _Answer:
    if isinstance(result, Success):
        return _Answer("value", result.value)
    return _Answer("defect" if result.is_defect else "error", _plain(result.error))


def _plain(error: object) -> object:
    if isinstance(error, list):
        return [_plain(each) for each in cast("list[object]", error)]
    return type(error).__name__ if isinstance(error, Exception) else error


# --- hostile values ------------------------------------------------------------------------------------


class _TouchedError(BaseException):
    """A method of a stranger's object was called. No ``except Exception`` hides it."""


def _refuse(*_: object, **__: object) -> Any:
    raise _TouchedError


def _fail(*_: object, **__: object) -> Any:
    raise RuntimeError("hostile")


_METHODS = (
    "__repr__", "__str__", "__format__", "__bytes__", "__bool__", "__len__", "__iter__", "__hash__", "__eq__", "__lt__",
    "__contains__", "__getitem__", "__int__", "__index__", "__float__", "__getattr__", "__getattribute__", "__call__",
    "__dir__", "__next__", "__enter__", "__sizeof__", "__fspath__", "__get__", "__length_hint__",
)  # fmt: skip


def _trapped(base: type = object) -> Any:
    """Return an instance of which nothing can be asked."""
    body: dict[str, Any] = dict.fromkeys(_METHODS, _refuse)
    body |= {"__class__": property(_refuse), "__dict__": property(_refuse)}
    return type("Trapped", (base,), body)()


def _raising(base: type = object, *arguments: object) -> Any:
    """Return an instance that cannot be shown, compared or hashed."""
    body: dict[str, Any] = dict.fromkeys(("__repr__", "__str__", "__format__", "__eq__", "__hash__", "__bool__"), _fail)
    return type("Raising", (base,), body)(*arguments)


def _cycle() -> object:
    value: dict[str, object] = {"number": 1}
    value["self"] = value
    return value


def _deep() -> object:
    value: object = "bottom"
    for _ in range(3000):
        value = [value]
    return value


_TEXTS = (
    "", " ", "a\0b", "a\r\nb\u2028\x85", "\x1b[2J\x1b]0;title\x07", "a\u202eb", "\u1112\u1161\u11ab\u1100\u1173\u11af", "ﾊﾝｸﾞﾙ",
    "👩‍👩‍👧‍👦", "e\u0301" * 20, "</script><script>alert(1)</script>", "'; DROP TABLE orders; --", "${jndi:ldap://a}", "%s%n{0}",
)  # fmt: skip

HOSTILE_VALUES: Mapping[str, Callable[[], object]] = {
    "object of which nothing can be asked": _trapped,
    "text of which nothing can be asked": lambda: _trapped(str),
    "dict of which nothing can be asked": lambda: _trapped(dict),
    "list of which nothing can be asked": lambda: _trapped(list),
    "int of which nothing can be asked": lambda: _trapped(int),
    "object that cannot be shown": _raising,
    "exception that cannot be shown": lambda: _raising(Exception, "x"),
    "cycle": _cycle,
    "3,000 levels": _deep,
    "NaN": lambda: math.nan,
    "infinity": lambda: -math.inf,
    "5,000 digits": lambda: 10**4999,
    "65 bits": lambda: 2**64,
    "signalling NaN": lambda: Decimal("sNaN"),
    "lone surrogate": lambda: "a\ud800b",
    "half a character": lambda: "한글".encode()[:4],
    "generator": lambda: (number for number in range(3)),
    "function": lambda: _fail,
    "class": lambda: type("Hostile\nName", (), {}),
    "tuple as key": lambda: {(1, 2): 3},
    "keys that become one": lambda: {1: "a", "1": "b"},
    "5 MB of text": lambda: "가" * 1_700_000,
    **{f"text {text!r}": partial(str, text) for text in _TEXTS},
}
"""What services do hand in. By name, what makes each of them anew: they can be changed, and some must not be touched."""


@dataclass(frozen=True, slots=True)
class HostileValue:
    """One of `HOSTILE_VALUES`, which can itself be shown."""

    name: str

    def make(self) -> Any:
        """Make the value anew."""
        return HOSTILE_VALUES[self.name]()


def hostile_values() -> SearchStrategy[HostileValue]:
    """Draw from `HOSTILE_VALUES`; what is drawn can be shown and compared, what it makes perhaps not."""
    return st.sampled_from(sorted(HOSTILE_VALUES)).map(HostileValue)
