"""A failure of a real service, written as a test by the command, and run by a pytest of its own."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from rfs.core.result import Failure, Result, Success, error_code, is_expected
from rfs.errors import CursorError, ReplayError
from rfs.monitoring import CorrelationContext, Monitor, default_monitor, log_result_operation, use_monitor
from rfs.monitoring._capture.record import LogRecord
from rfs.monitoring._query import Query
from rfs.monitoring._spans import Trace, build_trace
from rfs.monitoring.context import RANDOM_IDS, activate, current
from rfs.reactive import MonoResult
from rfs.testing._unhandled import Watch
from rfs.testing.replay import (
    RecordedFailure,
    assert_reproduces,
    file_name,
    find_failure,
    rebuilt,
    recorded_error,
    write_test,
)
from rfs.testing.virtual_time import VirtualTime
from tests.cli.running import Terminal, command, rfs
from tests.faults.processes import FAR_SECONDS, ROOT, environment

SHOP = """
from __future__ import annotations

import os
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum

import rfs.monitoring as rfs
from rfs.core.result import Failure, Result, Success
from rfs.reactive import MonoResult
from shop import payments


class Code(Enum):
    TOO_MANY = "TOO_MANY_GUESTS"
    SOLD_OUT = "SOLD_OUT"


@dataclass(frozen=True)
class Order:
    number: int
    price: Decimal
    note: str


@dataclass
class OrderError(Exception):
    code: Code
    dish: str


@rfs.log_result_operation("tables.book")
def book(table: int, guests: int, *, note: str = "") -> Result[int, Code]:
    return Failure(Code.TOO_MANY) if guests > 8 else Success(table)


@rfs.log_result_operation("orders.place")
async def place(order: Order, token: str) -> Result[Order, OrderError]:
    async def keep(order: Order) -> Result[Order, OrderError]:
        if not isinstance(order, Order) or order.price <= 0:
            return Failure(OrderError(Code.TOO_MANY, "free"))
        return Failure(OrderError(Code.SOLD_OUT, order.note))

    return await (
        MonoResult.from_result(Success(order))
        .log_step("taken")
        .bind_async_result(keep)
        .log_step("kept")
        .log_error("order")
        .to_result()
    )


@rfs.log_result_operation("orders.pay")
async def pay(number: int) -> Result[int, str]:
    return (await payments.charge(number)).map_error(lambda error: OrderError(Code.SOLD_OUT, error))


@rfs.log_result_operation("orders.refund")
def refund(number: int) -> Result[int, str]:
    return Success({7: 1}[number])


@rfs.log_result_operation("orders.deliver")
async def deliver(number: int) -> Result[int, object]:
    for _ in range(3):
        found = await route(number)
        if found.is_success():
            break
    try:
        return await drive(number)
    except NoRouteError as error:
        return Failure(error)


class NoRouteError(Exception):
    pass


TRIES = []


@rfs.log_result_operation("routes.find")
async def route(number: int) -> Result[int, str]:
    TRIES.append(number)
    return Success(number) if len(TRIES) == 3 else Failure(f"busy {len(TRIES)}")


@rfs.log_result_operation("routes.drive")
async def drive(number: int) -> Result[int, str]:
    if os.environ["BANK"] == "down":
        raise NoRouteError("the bridge is closed")
    return Success(number)


@rfs.log_result_operation("cards.top_up")
def top_up(card: dict[str, str], won: int) -> Result[int, payments.BankError]:
    return payments.verify(card["owner"]).map_error(lambda error: error)


class Kitchen:
    @rfs.log_result_operation("주방.요리")
    def cook(self, dish: str) -> Result[str, str]:
        return Failure(f"{dish} 재료가 없습니다")
"""

PAYMENTS = """
import os

import rfs.monitoring as rfs
from rfs.core.result import Failure, Result, Success


@rfs.log_result_operation("payments.charge")
async def charge(number: int) -> Result[int, str]:
    return Failure("the bank does not answer") if os.environ.get("BANK") == "down" else Success(number)


class BankError(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


@rfs.log_result_operation("payments.verify")
def verify(owner: str) -> Result[str, BankError]:
    if os.environ.get("BANK") == "down":
        return Failure(BankError("DECLINED", "there is no money on it"))
    return Success(owner)
"""

SERVICE = """
import asyncio
from contextlib import contextmanager, suppress
from dataclasses import replace
from decimal import Decimal
from decimal import Decimal

import rfs.monitoring as rfs
from shop import orders

with rfs.with_correlation_id("book"):
    orders.book(3, 12)
with rfs.with_correlation_id("place"):
    asyncio.run(orders.place(orders.Order(7, Decimal("9.50"), "김밥 \\"많이\\""), token="sk_live_51Habcdefghijklmnop"))
with rfs.with_correlation_id("pay"):
    asyncio.run(orders.pay(7))
with rfs.with_correlation_id("deliver"):
    asyncio.run(orders.deliver(7))
with rfs.with_correlation_id("refund"), suppress(KeyError):
    orders.refund(8)
with rfs.with_correlation_id("cook"):
    orders.Kitchen().cook("비빔밥")
with rfs.with_correlation_id("top_up"):
    orders.top_up({"owner": "kim@example.com", "pin": "1234", "password": "hunter2", "bank": "국민"}, 5000)
with rfs.with_correlation_id("well"):
    orders.book(3, 2)
rfs.default_monitor().stop()
"""


def run(project: Path, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the project, as its owner would."""
    env = environment(PYTHONPATH=f"{ROOT / 'src'}", PYTHONDONTWRITEBYTECODE="1", **more)
    return subprocess.run(
        [str(each) for each in arguments], cwd=project, env=env, capture_output=True, text=True, timeout=FAR_SECONDS * 2,
        check=False,
    )  # fmt: skip


def replay(project: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return run(project, *command("replay", *arguments, "--directory", project / "state"))


def run_pytest(project: Path, *files: object) -> subprocess.CompletedProcess[str]:
    return run(
        project, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", project, *files, BANK="up"
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service that has run, and failed once in each of `CASES`."""
    project = tmp_path_factory.mktemp("project")
    (project / "shop").mkdir()
    (project / "shop" / "__init__.py").write_text("")
    (project / "shop" / "orders.py").write_text(SHOP)
    (project / "shop" / "payments.py").write_text(PAYMENTS)
    (project / "service.py").write_text(SERVICE)
    done = run(
        project, sys.executable, "service.py", RFS_DIR=str(project / "state"), RFS_SERVICE_NAME="shop", BANK="down"
    )
    assert done.returncode == 0, done.stderr
    return project


CASES = [
    ("book", "tables.book", "", "TOO_MANY_GUESTS"),
    ("place", "orders.place", "kept", "SOLD_OUT"),
    ("refund", "orders.refund", "", "KeyError"),
    ("cook", "주방.요리", "", "UNKNOWN"),
    ("pay", "orders.pay", "", "SOLD_OUT"),
    ("deliver", "orders.deliver", "", "NoRouteError"),
    ("top_up", "cards.top_up", "", "DECLINED"),
]

TIME = re.compile(r"recorded \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC")


@pytest.fixture(scope="module")
def said(project: Path) -> dict[str, dict[str, Any]]:
    """What the command has said of each file that it has written."""
    answers: dict[str, dict[str, Any]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.syspath_prepend(str(project))
        for what, *_ in CASES:
            done = rfs("replay", what, "--output", f"test_{what}.py", "--directory", "state")
            assert done.status == 0, done.errors
            (answers[what],) = done.objects
    for name in ("shop", "shop.orders", "shop.payments"):
        sys.modules.pop(name, None)
    return answers


# What contradicts another rule or the formatter, and what tests, texts of others and a TODO cannot help.
FREE = "COM812,CPY001,D203,D205,D212,D213,D400,D415,E501,EM101,FBT001,FIX,I001,INP001,ISC001,N802,PLC2401,PLR0913,PLR0917,S101,TC002,TD"


class TestWrittenTest:
    @pytest.mark.parametrize(("what", "operation", "step", "code"), CASES)
    def test_sees_what_was_recorded(
        self, project: Path, said: dict[str, dict[str, Any]], what: str, operation: str, step: str, code: str
    ) -> None:
        """
        The same operation fails again, at the same step, with the same code.
        """
        source = (project / f"test_{what}.py").read_text(encoding="utf-8")

        assert (said[what]["operation"], said[what]["step"], said[what]["code"]) == (operation, step, code)
        assert f'operation="{operation}",' in source
        assert f'step="{step}",' in source
        assert f'code="{code}",' in source
        done = run_pytest(project, f"test_{what}.py")
        assert done.returncode == 0, done.stdout
        assert "1 passed" in done.stdout

    @pytest.mark.parametrize("what", [what for what, *_ in CASES])
    def test_reads_as_it_is_to_read(self, project: Path, said: dict[str, dict[str, Any]], what: str) -> None:
        """
        Word by word it is what tests/testing/written has, but for the time; below it is what the command says is left to do.
        """
        source = (project / said[what]["file"]).read_text(encoding="utf-8")
        wanted = (Path(__file__).parent / "written" / f"{what}.txt").read_text(encoding="utf-8")

        assert TIME.sub("recorded at that time", source) + left_to_do(said[what]["todo"]) == wanted

    def test_is_well_formed(self, tmp_path: Path) -> None:
        """
        A linter that refuses all it can finds nothing in it but what tests are free to do, and a formatter leaves it as it is.
        """
        pytest.importorskip("ruff")
        ruff = (sys.executable, "-m", "ruff")
        for path in (Path(__file__).parent / "written").iterdir():
            source = path.read_text(encoding="utf-8").partition("\nLeft to do: ")[0]
            (tmp_path / f"test_{path.stem}.py").write_text(source, encoding="utf-8")

        linted = run(tmp_path, *ruff, "check", "--isolated", "--no-cache", "--select", "ALL", "--ignore", FREE)
        formatted = [
            run(tmp_path, *ruff, "format", "--isolated", "--no-cache", "--diff", "--line-length", columns)
            for columns in (88, 120)
        ]

        assert linted.returncode == 0, linted.stdout
        assert [each.returncode for each in formatted] == [0, 0], formatted

    @pytest.mark.usefixtures("said")
    def test_fails_when_the_operation_is_mended(self, project: Path) -> None:
        """
        Once the cause is gone the test says so, and what to do.
        """
        orders = project / "shop" / "orders.py"
        orders.write_text(SHOP.replace("guests > 8", "guests > 80"))

        try:
            done = run_pytest(project, "test_book.py")
        finally:
            orders.write_text(SHOP)

        assert done.returncode == 1
        assert "tables.book does not fail as it did" in done.stdout
        assert "now:      it did not fail; if it is mended, assert what it does instead" in done.stdout

    def test_gives_no_secret_away(self, project: Path, said: dict[str, dict[str, Any]]) -> None:
        """
        What was masked is a fixture with a value that is made up, and says so.
        """
        source = (project / "test_place.py").read_text(encoding="utf-8")

        assert "sk_live" not in source
        assert '"""TODO: token was recorded as [masked:key]; this is made up."""' in source
        assert said["place"]["todo"] == ["token: token was recorded as [masked:key]; this is made up."]


class TestCommand:
    def test_takes_the_cursor_of_a_record(self, project: Path) -> None:
        """
        A record of the failure is as good as its id.
        """
        asked = run(project, *command("logs", "-d", project / "state", "--id", "place", "--level", "error"))
        cursor = json.loads(asked.stdout.splitlines()[-1])["cursor"]

        done = replay(project, cursor, "--output", "by_cursor.py")

        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["operation"] == "orders.place"

    def test_names_the_file_after_the_failure(self, project: Path) -> None:
        """
        Without a name it is one that pytest finds; what is there is not written over.
        """
        first = replay(project, "book")

        again = replay(project, "book")

        assert json.loads(first.stdout)["file"] == "test_tables_book_too_many_guests.py"
        assert again.returncode == 2
        assert again.stderr == (
            "rfs: replay: book: test_tables_book_too_many_guests.py is there already; name another file with --output\n"
        )

    @pytest.mark.parametrize(
        ("arguments", "fault"),
        [
            (
                ("nobody",),
                "no failure has this correlation id, or is at this cursor; `rfs errors` shows ids of failures",
            ),
            (
                ("well",),
                "no operation has failed under it; only functions with @log_result_operation can be replayed",
            ),
            (("book", "--operation", "orders.pay"), "no operation 'orders.pay' has failed under it, but tables.book"),
        ],
    )
    def test_says_what_there_is_not(self, project: Path, arguments: tuple[str, ...], fault: str) -> None:
        """
        What cannot be replayed is said, and what to do.
        """
        done = replay(project, *arguments)

        assert (done.returncode, done.stderr) == (2, f"rfs: replay: {arguments[0]}: {fault}\n")

    def test_tells_a_person_what_is_left_to_do(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        In a terminal it names the file, and each TODO in it.
        """
        target = project / "by_hand.py"
        monkeypatch.syspath_prepend(str(project))  # which the process in the terminal is given

        with Terminal("replay", "place", "-d", project / "state", "--output", target, columns=300) as terminal:
            status = terminal.wait()
            lines = terminal.lines

        assert status == 0, lines
        assert lines == [
            f"{target}: orders.place fails with SOLD_OUT",
            "  TODO token: token was recorded as [masked:key]; this is made up.",
        ]


# --- in this process ------------------------------------------------------------------------------------------------

ONCE = """
from __future__ import annotations

from dataclasses import dataclass, make_dataclass
from decimal import Decimal
from enum import Enum
from typing import Any

import msgspec
import pydantic
import rfs.monitoring as rfs
import shop_away
from shop_away import lend as borrow
from rfs.core.result import Failure, Result, Success


class Struct(msgspec.Struct):
    number: int


Nameless = make_dataclass("Lost", ["number"])


class Guest(pydantic.BaseModel):
    name: str


@dataclass
class Order:
    number: int
    dish: str


class Opaque:
    pass


class RefusedError(Exception):
    def __init__(self, *, code: str) -> None:
        super().__init__("the bank says no")
        self.code = code


@rfs.log_result_operation("a.unreadable")
def unreadable(order: Order, request: Opaque, note, *rest: str, **more: object) -> Result[int, str]:
    return Failure("no")


@rfs.log_result_operation("a.hidden", include_args=False)
def hidden(order: Order, count: int | None, dish: str = "x") -> Result[int, str]:
    return Failure("no")


@rfs.log_result_operation("a.host", include_args=False)
def host(guest: Guest) -> Result[int, str]:
    return Failure("no")


@rfs.log_result_operation("a.loose")
def loose(order: Any, other: object) -> Result[int, str]:
    return Failure("no")


@rfs.log_result_operation("a.chosen")
def chosen(dish: str = "x", *, table: int = 0) -> Result[int, str]:
    return Failure("no")


@rfs.log_result_operation("a.partly")
def partly(order: dict[str, str], orders: list[Order]) -> Result[int, str]:
    return Failure("no")


@rfs.log_result_operation("a.positional")
def positional(first: int, /, second: int, *rest: int, third: int = 0) -> Result[int, str]:
    return Failure("no") if (first, second, rest, third) == (1, 2, (3, 4), 5) else Success(0)


class Waiter:
    def __init__(self, table: int) -> None:
        self.table = table

    @rfs.log_result_operation("a.method")
    def serve(self, dish: str) -> Result[int, str]:
        return Failure("no")

    @classmethod
    @rfs.log_result_operation("a.class")
    def hire(cls, name: str) -> Result[int, str]:
        return Failure(cls.__name__)

    @staticmethod
    @rfs.log_result_operation("a.static")
    def greet(name: str) -> Result[int, str]:
        return Failure(name)


def made():
    @rfs.log_result_operation("a.local")
    def local() -> Result[int, str]:
        return Failure("no")

    return local


@rfs.log_result_operation("a.around")
def around() -> Result[int, str]:
    return made()()


@rfs.log_result_operation("b.charge")
def charge(number: int) -> Result[int, RefusedError]:
    return Failure(RefusedError(code="NO_MONEY"))


@rfs.log_result_operation("b.pay")
def pay(number: int) -> Result[int, RefusedError]:
    return charge(number)


@rfs.log_result_operation("a.kinds", include_args=False)
def kinds(
    text: str,
    share: float,
    sure: bool,
    raw: bytes,
    order: Order | None,
    struct: Struct,
    either: int | str,
    thing: Opaque,
    nameless: Nameless,
    unknown,
) -> Result[int, str]:
    return Failure("no")


@rfs.log_result_operation("a.bare", include_args=False)
def bare() -> Result[int, str]:
    return Failure("")


@rfs.log_result_operation("a.plain")
def plain(
    number: int, share: float, none: None, flag: bool, words: list[str], empty: dict[str, int], text: str
) -> Result[int, str]:
    return Failure('with "quotes", a \\\\ and\\n a\\tbreak\\u200b')


@rfs.log_result_operation("a.changed")
def changed(order: Order, price: Decimal, orders: list[Order], anything, some: Order | None = None) -> Result[int, str]:
    return Failure(f"{type(order).__name__} {type(price).__name__} {type(orders[0]).__name__}")


@rfs.log_result_operation("a.misfit")
def misfit(number: int, order: Order) -> Result[int, str]:
    return Failure("no")


@rfs.log_result_operation("a.taken")
def taken(taken: Opaque, rebuilt: Opaque, order: Order) -> Result[int, str]:
    return Failure("no")


class House:
    class CashDesk:
        @rfs.log_result_operation("a.nested")
        def pay(self, won: int) -> Result[int, str]:
            return Failure("no")

        @staticmethod
        @rfs.log_result_operation("a.nested_static")
        def check(order: Order) -> Result[int, str]:
            return Failure(type(order).__name__)

        @staticmethod
        @rfs.log_result_operation("a.nested_closing")
        def close() -> Result[int, str]:
            return Failure("no")

        @rfs.log_result_operation("a.twice")
        def lend(self, cash_desk: Opaque, token: str) -> Result[int, str]:
            return Failure("no")

    @rfs.log_result_operation("a.of_method")
    def count(self, order: Order) -> Result[int, str]:
        return House.CashDesk().pay(order.number)


class Code(Enum):
    FULL = "FULL_HOUSE"
    LATE = "TOO_LATE"


class ClosedError(Exception):
    expected = True
    code = "CLOSED"

    def __init__(self) -> None:
        super().__init__()


class OddError(Exception):
    expected = True
    code = "ODD"

    def __init__(self, *, day: str) -> None:
        super().__init__(f"not on {day}")


class MuteError(Exception):
    code = "MUTE"

    def __init__(self, *given: object) -> None:
        super().__init__(f"mute of {len(given)}")


class CodedError(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(second if first == "TWO" else first)
        self.code = first if first == "TWO" else second


@rfs.log_result_operation("c.fails")
def fails(how: str) -> Result[int, object]:
    match how:
        case "enum":
            return Failure(Code.LATE)
        case "closed":
            return Failure(ClosedError())
        case "odd":
            return Failure(OddError(day="Monday"))
        case "builtin":
            return Failure(ValueError("no number"))
        case "raised":
            raise LookupError("not here")
        case "away":
            raise shop_away.AwayError("far away")
        case "silent":
            raise shop_away.AwayError
        case "mute":
            return Failure(MuteError())
        case "coded":
            return Failure(CodedError("as before", "OTHER"))
        case "two":
            return Failure(CodedError("TWO", "of two"))
        case _:
            return Success(1)


@rfs.log_result_operation("c.asks")
def asks(*how: str) -> Result[int, str]:
    said = []
    for each in how:
        try:
            said.append(type(fails(each)).__name__)
        except Exception as error:
            said.append(repr(error))
    return Failure("; ".join(said))


@rfs.log_result_operation("c.two")
def two(number: int) -> Result[int, str]:
    first = charge(number)
    second = shop_away.charge(number)
    House.CashDesk().pay(number)
    borrow(number)
    return Failure(f"{first.is_failure()} {second.is_failure()}")


@rfs.log_result_operation("a.deep")
def deep(data: dict[str, Any], *rest: Order) -> Result[int, str]:
    return Failure("no")


@rfs.log_result_operation("a.model")
def model(guest: Guest, other: Guest | None, word: int | str) -> Result[int, str]:
    return Failure(f"{type(guest).__name__} {type(other).__name__} {type(word).__name__}")


@rfs.log_result_operation("a.unhinted")
def unhinted(number: NoSuchName, order: Order) -> Result[int, str]:
    return Failure("no")


@rfs.log_result_operation("a.hidden_rest", include_args=False)
def hidden_rest(first: int = 1, *rest: int, last: int = 2, **more: int) -> Result[int, str]:
    return Failure("no")


@rfs.log_result_operation("주문-접수!")
def korean(이름: str, number: int = 1, *, quick: bool = False) -> Result[int, str]:
    return Failure(f"{이름} {number} {quick}")


calls = []


@rfs.log_result_operation("b.flaky")
def flaky() -> Result[int, str]:
    calls.append(1)
    if len(calls) == 1:
        raise ConnectionError("reset")
    return Failure("busy") if len(calls) == 2 else Success(1)


@rfs.log_result_operation("b.tries")
def tries() -> Result[int, object]:
    seen = []
    for _ in range(3):
        try:
            seen.append(flaky().is_success())
        except ConnectionError:
            seen.append(None)
    return Failure(RefusedError(code="AS_BEFORE" if seen == [None, False, True] else "OTHERWISE"))
"""

AWAY = """
import rfs.monitoring as rfs
from rfs.core.result import Failure, Result


class AwayError(Exception):
    pass


@rfs.log_result_operation("away.charge")
def charge(number: int) -> Result[int, AwayError]:
    return Failure(AwayError(f"no {number}"))


@rfs.log_result_operation("away.lend")
def lend(number: int) -> Result[int, AwayError]:
    return Failure(AwayError(f"no {number}"))
"""


@pytest.fixture
def once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module whose functions fail."""
    (tmp_path / "shop_once.py").write_text(ONCE)
    (tmp_path / "shop_away.py").write_text(AWAY)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("shop_once")
    for name in ("shop_once", "shop_away"):
        sys.modules.pop(name, None)


def recorded(call: Callable[[], object]) -> RecordedFailure:
    """What is recorded of a call that fails."""
    with use_monitor(Monitor()) as monitor, CorrelationContext("once"), suppress(Exception):
        call()
    return find_failure(monitor.query, "once")


def run_here(source: str) -> None:
    """Run the test of a file that needs no fixture."""
    names: dict[str, Any] = {"__name__": "test_once"}
    exec(compile(source, "test_once.py", "exec"), names)
    (test,) = [value for name, value in names.items() if name.startswith("test_")]
    test()


def plain(source: str) -> str:
    """Without white space, which depends on how long things are."""
    return re.sub(r"\s", "", source)


def left_to_do(todo: Iterable[str]) -> str:
    """What is left to do, as it stands below a test in tests/testing/written."""
    return "".join(f"\nLeft to do: {each}\n" for each in todo)


# What fails, by the name of the file that the test of it is to be.
WRITTEN: dict[str, Callable[[Any], object]] = {
    "unreadable": lambda once: once.unreadable(once.Order(7, "김밥"), once.Opaque(), "a=b", "c", "d", extra=1),
    "hidden": lambda once: once.hidden(once.Order(7, "김밥"), 3),
    "kinds": lambda once: once.kinds("x", 0.5, True, b"x", None, once.Struct(1), 1, once.Opaque(), once.Nameless(1), 1),
    "bare": lambda once: once.bare(),
    "plain": lambda once: once.plain(-3, 0.25, None, True, ["a", "b"], {}, "it's \\ \n '\"'\x07é"),
    "partly": lambda once: once.partly({"password": "hunter2", "pin": "1234", "dish": "김밥"}, [once.Order(1, "김밥")]),
    "changed": lambda once: once.changed(
        once.Order(7, "김밥"), Decimal("9.50"), [once.Order(1, "")], once.Order(2, "")
    ),
    "misfit": lambda once: once.misfit("seven", {"number": 7}),
    "taken": lambda once: once.taken(once.Opaque(), once.Opaque(), once.Order(7, "김밥")),
    "positional": lambda once: once.positional(1, 2, 3, 4, third=5),
    "serve": lambda once: once.Waiter(3).serve("김밥"),
    "hire": lambda once: once.Waiter.hire("민서"),
    "nested": lambda once: once.House.CashDesk().pay(5000),
    "nested_closing": lambda once: once.House.CashDesk.close(),
    "twice": lambda once: once.House.CashDesk().lend(once.Opaque(), "sk_live_51Habcdefghijklmnop"),
    "deep": lambda once: once.deep(
        {
            "guests": [{"name": "<김>"}, {"token": "x", "pin": "1"}],
            "note": "n<9 characters left out>n",
            "all": [1, "<3 more>"],
            "name": "a <b>",
            "sk_live_51Habcdefghijklmnop": {"pin": 1},
        },
        once.Order(7, ""),
        once.Opaque(),
        "sk_live_51Habcdefghijklmnop",
    ),
    "model": lambda once: once.model(once.Guest(name="김"), once.Guest(name="이"), "x"),
    "unhinted": lambda once: once.unhinted(1, once.Order(7, "김밥")),
    "korean": lambda once: once.korean("민서", 2, quick=True),
    "hidden_rest": lambda once: once.hidden_rest(7, 8, last=9, more=1),
    "faults": lambda once: once.asks("raised", "silent"),
    "silent": lambda once: once.asks("silent"),
    "mute": lambda once: once.asks("mute"),
    "coded": lambda once: once.asks("coded"),
    "of_two": lambda once: once.asks("two"),
    "nested_static": lambda once: once.House.CashDesk.check(once.Order(7, "김밥")),
    "of_method": lambda once: once.House().count(once.Order(7, "김밥")),
    "enum": lambda once: once.asks("enum"),
    "closed": lambda once: once.asks("closed"),
    "odd": lambda once: once.asks("odd"),
    "builtin": lambda once: once.asks("builtin"),
    "raised": lambda once: once.asks("raised"),
    "away": lambda once: once.asks("away"),
    "alike": lambda once: once.asks("builtin", "builtin"),
    "in_turn": lambda once: once.asks("raised", "enum", "well", "odd", "raised"),
    "two": lambda once: once.two(7),
    "tries": lambda once: once.tries(),
    "pay_once": lambda once: once.pay(7),
}


class TestText:
    @pytest.mark.parametrize("name", WRITTEN)
    def test_is_as_it_is_to_read(self, once: Any, name: str) -> None:
        """
        Word by word it is what tests/testing/written has, and where nothing is made up it passes as it is.
        """
        source, todo = write_test(recorded(lambda: WRITTEN[name](once)))

        once.calls.clear()
        wanted = (Path(__file__).parent / "written" / f"{name}.txt").read_text(encoding="utf-8")
        assert TIME.sub("recorded at that time", source) + left_to_do(todo) == wanted
        if "@pytest.fixture" not in source:
            run_here(source)


WIDE = """
import rfs.monitoring as rfs
from rfs.core.result import Failure, Result

said = {said}


class Opaque:
    pass


@rfs.log_result_operation("w.inner")
def {inner}() -> Result[int, str]:
    said.append(said.pop(0))
    if said[-1].endswith("!"):
        raise ValueError(said[-1])
    return Failure(said[-1])


@rfs.log_result_operation("w")
def {outer}({parameter}: Opaque | None = None, words=()) -> Result[int, str]:
    for _ in range({calls}):
        try:
            {inner}()
        except ValueError:
            continue
    return Failure({message!r})
"""


@pytest.fixture
def wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Make a module with names and texts that are as long as asked for."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(**parts: Any) -> Any:
        parts = {"said": ["no"], "inner": "i", "outer": "o", "parameter": "p", "calls": 0, "message": "no", **parts}
        (tmp_path / "shop_wide.py").write_text(WIDE.format(**parts))
        importlib.invalidate_caches()
        return importlib.import_module("shop_wide")

    yield make
    sys.modules.pop("shop_wide", None)


Parts = dict[str, Any]
LONG = "o" * 66
NAME = "a" * 15 + "B"  # a mock's name has an underscore more
LINES: list[tuple[Parts, Parts, list[str], Parts, Parts, list[str]]] = [
    (
        {"outer": LONG}, {}, [f"from shop_wide import {LONG}"],
        {"outer": f"{LONG}o"}, {}, ["from shop_wide import (", f"    {LONG}o,", ")"],
    ),
    (
        {"parameter": "p" * 40}, {"opaque": True}, [f"def test_w_fails_with_unknown({'p' * 40}: object) -> None:"],
        {"parameter": "p" * 41}, {"opaque": True},
        ["def test_w_fails_with_unknown(", f"    {'p' * 41}: object,", ") -> None:"],
    ),
    (
        {"inner": NAME, "calls": 1}, {},
        [f'    with mock_result_service("shop_wide", "{NAME}") as {"a" * 15}_b_mock:', f'        {"a" * 15}_b_mock.return_error("no")'],
        {"inner": f"{NAME}b", "calls": 1}, {},
        [
            "    with (", f'        mock_result_service("shop_wide", "{NAME}b") as {"a" * 15}_bb_mock,', "    ):",
            f'        {"a" * 15}_bb_mock.return_error("no")',
        ],
    ),
    (
        {"calls": 1, "said": ["n" * 57]}, {}, [f'        i_mock.return_error("{"n" * 57}")', ""],
        {"calls": 1, "said": ["n" * 58]}, {},
        ["        i_mock.return_error(", f'            "{"n" * 58}",', "        )", ""],
    ),
    (
        {"calls": 2, "said": ["n" * 18, "no"]}, {},
        [f'        i_mock.return_sequence([Failure("{"n" * 18}"), Failure("no")])', ""],
        {"calls": 2, "said": ["n" * 19, "no"]}, {},
        [
            "        i_mock.return_sequence(", "            [", f'                Failure("{"n" * 19}"),',
            '                Failure("no"),', "            ]", "        )", "",
        ],
    ),
    (
        {"calls": 2, "said": ["n" * 60, "no"]}, {}, [f'                Failure("{"n" * 60}"),', '                Failure("no"),'],
        {"calls": 2, "said": ["n" * 61, "no"]}, {},
        ["                Failure(", f'                    "{"n" * 61}",', "                ),", '                Failure("no"),'],
    ),
    (
        {"calls": 1, "said": ["n" * 44 + "!"]}, {}, [f'        i_mock.inject_fault(ValueError("{"n" * 44}!"))', ""],
        {"calls": 1, "said": ["n" * 45 + "!"]}, {},
        ["        i_mock.inject_fault(", f'            ValueError("{"n" * 45}!"),', "        )", ""],
    ),
    (
        {"calls": 2, "said": ["n" * 33 + "!", "no"]}, {},
        [f'        i_mock.inject_fault(ValueError("{"n" * 33}!"), calls={{1}})', ""],
        {"calls": 2, "said": ["n" * 34 + "!", "no"]}, {},
        ["        i_mock.inject_fault(", f'            ValueError("{"n" * 34}!"),', "            calls={1},", "        )", ""],
    ),
    (
        {}, {"words": ["n" * 40]}, [f'            words=["{"n" * 40}"],'],
        {}, {"words": ["n" * 41]}, ["            words=[", f'                "{"n" * 41}",', "            ],"],
    ),
    (
        {"message": "n" * 200}, {}, [f"    It fails with UNKNOWN, as it was recorded: {'n' * 200}"],
        {"message": "n" * 201}, {}, [f"    It fails with UNKNOWN, as it was recorded: {'n' * 200}…"],
    ),
    (
        {"message": "a  X"}, {}, ["    It fails with UNKNOWN, as it was recorded: a X"],
        {"message": "\n :a\t: \n"}, {}, ["    It fails with UNKNOWN, as it was recorded: :a"],
    ),
]  # fmt: skip


class TestLines:
    @pytest.mark.parametrize(("short", "called", "line", "long", "called_long", "lines"), LINES)
    def test_are_broken_where_they_are_too_long(
        self,
        wide: Callable[..., Any],
        short: Parts,
        called: Parts,
        line: list[str],
        long: Parts,
        called_long: Parts,
        lines: list[str],
    ) -> None:
        """
        What just fits stays on its line, and what is one character longer is written over several, or cut.
        """
        for parts, arguments, wanted in ((short, called, line), (long, called_long, lines)):
            module = wide(**parts)
            opaque = {parts["parameter"]: module.Opaque()} if arguments.get("opaque") else {}
            asked = opaque or arguments
            function = getattr(module, parts.get("outer", "o"))

            source, _ = write_test(recorded(lambda: function(**asked)))  # noqa: B023 - called at once

            assert "\n".join(["", *wanted, ""]) in source
            assert sys.modules.pop("shop_wide") is module


class TestArguments:
    def test_that_say_nothing_of_themselves_are_left_to_the_reader(self, once: Any) -> None:
        """
        An object of which only the class was recorded is a fixture, and not one that pytest has itself; the rest is made again.
        """
        failure = recorded(lambda: once.unreadable(once.Order(7, "김밥"), once.Opaque(), "a=b", "c", "d", extra=1))

        source, todo = write_test(failure)

        assert 'rebuilt(unreadable,"order",{"number":7,"dish":"김밥"}' in plain(source)
        assert "def request_value() -> object:" in source
        assert 'raise NotImplementedError("TODO: give it a value")' in source
        assert 'request_value,"a=b","c","d",)' in plain(source)
        assert todo == (
            "request: request was recorded as <shop_once.Opaque>; this is made up.",
            "more: what else it was called with is not told apart from what was bound to the request",
        )

    def test_that_were_not_recorded_are_made_up_by_their_types(self, once: Any) -> None:
        """
        A class is built by the data factory, a number is one, and what has a default is left out.
        """
        source, todo = write_test(recorded(lambda: once.hidden(once.Order(7, "김밥"), 3)))

        assert "def order() -> Order:" in source
        assert "    return TestDataFactory().build(Order)" in source
        assert "def count() -> int:" in source
        assert "    return 0" in source
        assert "order=order,count=count,)" in plain(source)
        assert todo[0] == "order: order was not recorded; this is made up."

    def test_that_are_models_are_made_up_as_well(self, once: Any) -> None:
        """
        A class of pydantic's is built by the data factory, as a data class is.
        """
        source, _ = write_test(recorded(lambda: once.host(once.Guest(name="김"))))

        assert "    return TestDataFactory().build(Guest)" in source

    def test_of_any_type_are_given_as_they_were_recorded(self, once: Any) -> None:
        """
        An object of which no annotation says the class is the dict of its fields, and that is said.
        """
        source, todo = write_test(recorded(lambda: once.loose(once.Order(7, "김밥"), once.Order(8, "라면"))))

        assert 'order={"number":7,"dish":"김밥"}' in plain(source)
        assert todo == tuple(
            f"{name}: was an object, if not a dict; only its fields are known" for name in ("order", "other")
        )

    def test_that_were_not_given_are_left_out(self, once: Any) -> None:
        """
        What has a default and was not recorded is not given, and what comes after it is.
        """
        failure = recorded(lambda: once.chosen(table=7))

        source, _ = write_test(replace(failure, arguments={"table": 7}))

        assert "chosen(table=7,)" in plain(source)

    def test_that_were_partly_masked_say_where(self, once: Any) -> None:
        """
        A secret within an argument is a marker, and what is left to do says which.
        """
        secret = {"password": "hunter2hunter2", "dish": "김밥"}

        source, todo = write_test(recorded(lambda: once.partly(secret, [once.Order(1, "김밥")])))

        assert "hunter2" not in source
        assert todo == ("order: of it order.password was masked or cut; markers stand in the place",)
        run_here(source)

    def test_by_position_stay_so(self, once: Any) -> None:
        """
        Arguments that have no name are given without one, and in their order.
        """
        source, _ = write_test(recorded(lambda: once.positional(1, 2, 3, 4, third=5)))

        assert "positional(1,2,3,4,third=5,)" in plain(source)
        run_here(source)


class TestMethods:
    def test_of_an_object_need_it(self, once: Any) -> None:
        """
        What the method was called on is a fixture that says what to do, since only the service knows how it is made.
        """
        source, todo = write_test(recorded(lambda: once.Waiter(3).serve("김밥")))

        assert "def waiter() -> Waiter:" in source
        assert 'raise NotImplementedError("TODO: make a Waiter")' in source
        assert "lambda: waiter.serve(" in source
        assert todo == ("waiter: make the Waiter as the service does.",)

    @pytest.mark.parametrize("name", ["hire", "greet"])
    def test_of_a_class_are_called_on_it(self, once: Any, name: str) -> None:
        """
        Class methods and static ones need no object.
        """
        source, todo = write_test(recorded(lambda: getattr(once.Waiter, name)("민서")))

        assert f"lambda: Waiter.{name}(" in source
        assert todo == ()
        run_here(source)


class TestDependencies:
    def test_with_errors_that_cannot_be_made_again_have_a_stand_in(self, once: Any) -> None:
        """
        The stand-in has the name, the code and the text of the error that was recorded.
        """
        source, _ = write_test(recorded(lambda: once.pay(7)))

        assert 'charge_mock.return_error(recorded_error("RefusedError","NO_MONEY","thebanksaysno")' in plain(source)
        run_here(source)

    def test_that_are_gone_are_left_to_the_reader(self, once: Any) -> None:
        """
        One that cannot be found any more is not mocked, and the others are.
        """
        failure = recorded(lambda: once.two(7))
        first, *others = failure.inner

        source, todo = write_test(replace(failure, inner=(replace(first, function="shop_once.gone"), *others)))

        assert todo == (
            f"{first.operation}: failed inside, and is not mocked: shop_once has no function gone any more",
        )
        assert source.count("mock_result_service(") == len({each.operation for each in others})

    @pytest.mark.parametrize(
        ("type_name", "code", "message", "written"),
        [
            ("Code", "FULL_HOUSE", "", "Code.FULL"),
            ("Code", "GONE", "it is gone", 'recorded_error("Code", "GONE", "it is gone")'),
            ("GoneError", "GONE", "it is gone", 'recorded_error("GoneError", "GONE", "it is gone")'),
            ("ValueError", "ValueError", 'a "b"', "ValueError('a \"b\"')"),
            ("ValueError", "OTHER", "no", 'recorded_error("ValueError", "OTHER", "no")'),
            ("AwayError", "AwayError", "far", 'recorded_error("AwayError", "AwayError", "far")'),
            ("calls", "GONE", "no", 'recorded_error("calls", "GONE", "no")'),
            ("str", "UNKNOWN", "that's it", '"that\'s it"'),
        ],
    )
    def test_have_the_errors_that_can_be_had(
        self, once: Any, type_name: str, code: str, message: str, written: str
    ) -> None:
        """
        A member of an enum, an exception of its own, or one of Python's; what has changed since has a stand-in.
        """
        failure = recorded(lambda: once.asks("enum"))
        (inner_one,) = failure.inner
        assert inner_one.error is not None
        error = structs.replace(inner_one.error, type=type_name, code=code, message=message)

        source, _ = write_test(replace(failure, inner=(replace(inner_one, error=error),)))

        assert f"        fails_mock.return_error({written})\n" in source

    def test_answer_in_the_order_of_their_calls(self, once: Any) -> None:
        """
        A call that raised raises, one that failed fails, and one that went well goes well, with a value that is left to do.
        """
        source, todo = write_test(recorded(once.tries))

        once.calls.clear()
        assert 'flaky_mock.return_sequence([Failure("busy"), Success(None)])' in source
        assert 'flaky_mock.inject_fault(ConnectionError("reset"), calls={1})' in source
        assert todo == ("flaky: what it gave where it succeeded was not recorded; None stands in its place",)
        run_here(source)
        assert once.calls == []

    def test_that_cannot_be_found_again_are_called(self, once: Any) -> None:
        """
        An operation made inside a function is not mocked, and that is said.
        """
        source, todo = write_test(recorded(once.around))

        assert "mock_result_service" not in source
        assert todo == (
            (
                "a.local: failed inside, and is not mocked: its function shop_once.made.<locals>.local "
                "is made inside another one; move it to its module's level"
            ),
        )
        run_here(source)


class TestWhatCannotBeReplayed:
    def test_is_made_inside_a_function(self, once: Any) -> None:
        """
        A function without a name of its own cannot be imported.
        """
        fault = (
            "replay: a.local: its function shop_once.made.<locals>.local is made inside another one; "
            "move it to its module's level"
        )
        with pytest.raises(ReplayError, match=f"^{re.escape(fault)}$"):
            write_test(recorded(once.made()))

    @pytest.mark.parametrize(
        ("content", "fault"),
        [
            ("", "shop_once has no function unreadable any more"),
            ("unreadable = 5", "shop_once has no function unreadable any more"),
            ("raise RuntimeError('no')", "shop_once cannot be imported: RuntimeError: no"),
            ("import no_such_module", "shop_once needs the module 'no_such_module'; install it"),
            (
                None,
                "there is no module for shop_once.unreadable; run this where the service runs, with the same PYTHONPATH",
            ),
        ],
    )
    def test_is_gone(self, once: Any, tmp_path: Path, content: str | None, fault: str) -> None:
        """
        What has changed since the failure is said.
        """
        failure = recorded(lambda: once.unreadable(1, 2, 3))
        del sys.modules["shop_once"]
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        (tmp_path / "shop_once.py").unlink()
        if content is not None:
            (tmp_path / "shop_once.py").write_text(content)
        importlib.invalidate_caches()

        with pytest.raises(ReplayError, match=f"^replay: a.unreadable: {re.escape(fault)}$"):
            write_test(failure)

    @pytest.mark.parametrize(
        ("function", "fault"),
        [
            ("shop_once.Waiter.leave", "shop_once has no function Waiter.leave any more"),
            ("shop_once.Nobody.serve", "shop_once has no function Nobody.serve any more"),
            ("shop_once.calls", "shop_once has no function calls any more"),
            ("shop_once.unreadable.inner", "shop_once has no function unreadable.inner any more"),
            (
                "shop_once.<lambda>",
                "its function shop_once.<lambda> is made inside another one; move it to its module's level",
            ),
            (
                "no.such.place",
                "there is no module for no.such.place; run this where the service runs, with the same PYTHONPATH",
            ),
            ("place", "there is no module for place; run this where the service runs, with the same PYTHONPATH"),
        ],
    )
    def test_has_moved(self, once: Any, function: str, fault: str) -> None:
        """
        A name that leads to no function is said, with how far it leads.
        """
        failure = replace(recorded(lambda: once.unreadable(1, 2, 3)), function=function)

        with pytest.raises(ReplayError) as caught:
            write_test(failure)

        assert str(caught.value) == f"replay: a.unreadable: {fault}"

    def test_was_recorded_without_its_function(self) -> None:
        """
        Records of before, or of another recorder, do not tell.
        """
        with use_monitor(Monitor()) as monitor, CorrelationContext("old"):
            monitor.log(40, "failed", kind="operation", operation="orders.place", outcome="failed", error="no")

        fault = (
            "replay: old: orders.place was recorded without where its function is; "
            "record it anew with this version of RFS"
        )
        with pytest.raises(ReplayError, match=f"^{re.escape(fault)}$"):
            find_failure(monitor.query, "old")


@log_result_operation("f.inner")
def inner(number: int) -> Result[int, str]:
    return Failure(f"no {number}")


@log_result_operation("f.well")
def well(number: int) -> Result[int, str]:
    return Success(number)


@log_result_operation("f.middle")
def middle(number: int) -> Result[int, str]:
    """Fails not, but what it calls does."""
    inner(number + 1)
    return Success(number)


@log_result_operation("f.outer", include_args=False)
def outer(number: int) -> Result[int, object]:
    inner(number)
    well(number)
    middle(number)
    with suppress(LookupError):
        raising(number)
    chained: Result[int, str] = asyncio.run(
        MonoResult.from_result(Success(1)).log_step("taken").bind_result(refuse).log_step("kept").to_result()
    )
    return chained


@log_result_operation("f.serves")
def serves() -> Result[int, object]:
    return outer(1)


def refuse(number: int) -> Result[int, str]:
    return Failure(f"refused {number}")


@log_result_operation("f.raising")
def raising(number: int) -> Result[int, str]:
    if number:
        raise LookupError("gone")
    return Success(number)


@log_result_operation("f.returning")
def returning(number: int) -> Result[int, Exception]:
    try:
        raise LookupError("gone")
    except LookupError as error:
        return Failure.from_exception(error)


@log_result_operation("f.stuck")
async def stuck() -> Result[int, str]:
    raise asyncio.CancelledError


@log_result_operation("f.gives_up")
async def gives_up() -> Result[int, str]:
    inner(1)
    for _ in range(2):
        with suppress(asyncio.CancelledError):
            await stuck()
    inner(2)
    return Failure("no")


@contextmanager
def foreign(monitor: Monitor, operation: str) -> Iterator[None]:
    """An operation that fails, recorded by another hand, which does not say of which function."""
    outside = current()
    assert outside is not None
    activate(outside.child(operation, RANDOM_IDS.span_id()))
    yield
    monitor.log(40, "failed", kind="operation", operation=operation, outcome="failed", error="no")
    activate(outside)


@log_result_operation("f.gives_way", include_args=False)
def gives_way(monitor: Monitor) -> Result[int, str]:
    inner(1)
    with foreign(monitor, "first"):
        inner(2)
        inner(3)
    inner(4)
    return Failure("no")


class Pages:
    """Stands in for the records of a year: there is always one more page, or none that can be had after so many."""

    def __init__(self, record: LogRecord, broken_after: int | None) -> None:
        self.record, self.broken_after = record, broken_after
        self.asked: list[tuple[int, bool, str | None]] = []

    def trace(self, correlation_id: str) -> Trace:
        return build_trace(correlation_id, [], truncated=False)

    def records(self, *, limit: int, failed: bool, before: str | None) -> list[LogRecord]:
        self.asked.append((limit, failed, before))
        if self.broken_after is not None and len(self.asked) > self.broken_after:
            raise CursorError(str(before))
        return [*[replace(self.record, cursor="newer")] * (limit - 1), self.record]


def failing(monitor: Monitor, what: str, number: int = 1) -> None:
    """Let `outer` fail under this id."""
    with use_monitor(monitor), CorrelationContext(what):
        outer(number)


class TestFound:
    def test_is_all_that_was_recorded(self) -> None:
        """
        The outermost is found, with what is known of it and of what it has called; what its functions' other calls gave, too.
        """
        monitor = Monitor(clock=VirtualTime())
        failing(monitor, "order-7")

        found = find_failure(monitor.query, "order-7")

        error = found.error
        assert error is not None
        assert found == RecordedFailure(
            operation="f.outer",
            function=f"{__name__}.outer",
            arguments={},
            step="kept",
            error=error,
            raised=False,
            correlation_id="order-7",
            at=found.at,
            inner=found.inner,
        )
        assert (error.message, found.code) == ("refused 1", "UNKNOWN")
        told = [(one.operation, one.arguments, one.error and one.error.message, one.raised) for one in found.inner]
        assert told == [
            ("f.inner", {"number": 1}, "no 1", False),
            ("f.inner", {"number": 2}, "no 2", False),
            ("f.raising", {"number": 1}, "gone", True),
        ]
        assert {(one.correlation_id, one.step, one.inner) for one in found.inner} == {("order-7", "", ())}
        assert [one.function for one in found.inner] == [f"{__name__}.{name}" for name in ("inner", "inner", "raising")]

    def test_is_written_with_its_step_and_its_time(self) -> None:
        """
        The first line of the file and that of the test tell where it failed, and the first one when, to the second.
        """
        monitor = Monitor(clock=VirtualTime(1_800_000_061))
        failing(monitor, "order-7")

        lines = write_test(find_failure(monitor.query, "order-7")).source.splitlines()

        assert lines[:5] == [
            '"""',
            "f.outer failed at kept with UNKNOWN, recorded 2027-01-15 08:01:01 UTC.",
            "",
            "Correlation id order-7. Written by `rfs replay`.",
            '"""',
        ]
        assert "    It fails at kept with UNKNOWN, as it was recorded: refused 1" in lines
        assert '            step="kept",' in lines

    def test_is_written_without_an_error_as_well(self) -> None:
        """
        Where a record of another hand tells of no error, the text says so.
        """
        with use_monitor(Monitor()) as monitor, CorrelationContext("other"):
            function = {"code.function.name": f"{__name__}.inner"}
            monitor.log(40, "failed", kind="operation", operation="other", outcome="failed", fields=function)

        found = find_failure(monitor.query, "other")
        lines = write_test(found).source.splitlines()

        assert (found.code, found.raised) == ("", False)
        assert TIME.sub("recorded at that time", lines[1]) == "other failed with no code, recorded at that time."
        assert "    It fails with no code, as it was recorded" in lines
        assert '        code="",' in lines

    @pytest.mark.parametrize(
        ("operation", "code", "name"),
        [
            ("tables.book", "TOO_MANY", "test_tables_book_too_many.py"),
            ("주문-접수!", "x / y", "test_주문_접수__x_y.py"),
        ],
    )
    def test_names_its_file(self, operation: str, code: str, name: str) -> None:
        """
        Whatever an operation is called, its file has a name that pytest finds and any folder takes.
        """
        error = recorded(lambda: inner(1)).error
        assert error is not None
        failure = replace(recorded(lambda: inner(1)), operation=operation, error=structs.replace(error, code=code))

        assert file_name(failure) == name

    def test_is_none_where_nothing_failed(self) -> None:
        """
        An id of which only other things are known is told from one that is not known.
        """
        with use_monitor(Monitor()) as monitor, CorrelationContext("well"):
            well(1)
            monitor.log(40, "it broke", error="no")

        with pytest.raises(ReplayError) as caught:
            find_failure(monitor.query, "well")

        assert str(caught.value) == (
            "replay: well: no operation has failed under it; only functions with @log_result_operation can be replayed"
        )

    def test_may_be_an_inner_one(self) -> None:
        """
        An operation that is named is looked for in all that failed, and those that failed are told if it is none of them.
        """
        monitor = Monitor()
        failing(monitor, "once")

        found = find_failure(monitor.query, "once", "f.inner")
        with pytest.raises(ReplayError) as caught:
            find_failure(monitor.query, "once", "f.middle")

        assert (found.operation, found.arguments, found.inner) == ("f.inner", {"number": 1}, ())
        assert str(caught.value) == (
            "replay: once: no operation 'f.middle' has failed under it, but f.outer, f.inner, f.raising"
        )

    def test_by_a_cursor_is_the_operation_of_its_record(self) -> None:
        """
        The record of what failed inside leads there, and not to what is around it, however many failures came since.
        """
        monitor = Monitor()
        with use_monitor(monitor):
            failing(monitor, "once")
            (inside, *_) = [each for each in monitor.query.records(failed=True) if each.operation == "f.raising"]
            (around, *_) = [each for each in monitor.query.records(failed=True) if each.operation == "f.outer"]
            for number in range(1100):
                monitor.log(40, f"{number}", error="no")

        assert inside.cursor is not None
        assert around.cursor is not None
        assert find_failure(monitor.query, inside.cursor).operation == "f.raising"
        assert find_failure(monitor.query, around.cursor).operation == "f.outer"
        with pytest.raises(ReplayError, match=r"no operation 'f\.outer' has failed under it, but f\.raising$"):
            find_failure(monitor.query, inside.cursor, "f.outer")

    @pytest.mark.parametrize("failures", [0, 1, 999, 1000, 1001])
    def test_by_a_cursor_that_is_none_is_none(self, failures: int) -> None:
        """
        Where no record is at it, or one that belongs to no request, nothing is found.
        """
        monitor = Monitor()
        for number in range(failures):
            monitor.log(40, f"{number}", error="no")
        cursors = [each.cursor for each in monitor.query.records(limit=1)]

        for what in ("nobody", *cursors):
            with pytest.raises(ReplayError) as caught:
                find_failure(monitor.query, what)

            assert str(caught.value) == (
                f"replay: {what}: no failure has this correlation id, or is at this cursor; "
                "`rfs errors` shows ids of failures"
            )

    @pytest.mark.parametrize(("broken_after", "asked"), [(None, 100), (1, 2)])
    def test_by_a_cursor_is_not_looked_for_in_all_years(self, broken_after: int | None, asked: int) -> None:
        """
        Of more than a hundred thousand failures the newest are looked at, and of fewer where the store changes meanwhile.
        """
        monitor = Monitor()
        monitor.log(40, "again", error="no")
        pages = Pages(monitor.query.records()[0], broken_after)

        with pytest.raises(ReplayError, match="no failure has this correlation id, or is at this cursor"):
            find_failure(cast("Query", pages), "far")

        assert pages.asked == [(1000, True, None), *[(1000, True, pages.record.cursor)] * (asked - 1)]

    @pytest.mark.parametrize(
        ("call", "raised"), [(raising, True), (returning, False), (inner, False)], ids=["raising", "returning", "inner"]
    )
    @pytest.mark.parametrize("stacks", [True, False])
    def test_tells_what_was_raised_from_what_was_returned(
        self, call: Callable[[int], object], raised: bool, stacks: bool
    ) -> None:
        """
        An exception that was returned is none that was raised; without stacks that cannot be told, and a defect counts as raised.
        """
        monitor = Monitor()
        monitor.include_stack_trace = stacks
        with use_monitor(monitor), CorrelationContext("once"), suppress(LookupError):
            call(1)

        assert find_failure(monitor.query, "once").raised is (raised or (not stacks and call is returning))

    def test_goes_no_deeper_than_the_outermost_inside(self) -> None:
        """
        What failed inside of what failed inside is not told: a mock of the one never calls the other.
        """
        with use_monitor(Monitor()) as monitor, CorrelationContext("once"):
            serves()

        (only,) = find_failure(monitor.query, "once").inner

        assert (only.operation, only.step, only.inner) == ("f.outer", "kept", ())

    def test_leaves_out_what_came_to_no_end(self) -> None:
        """
        A call that was cancelled answered nothing.
        """
        with use_monitor(Monitor()) as monitor, CorrelationContext("once"):
            asyncio.run(gives_up())

        assert [(one.operation, one.arguments) for one in find_failure(monitor.query, "once").inner] == [
            ("f.inner", {"number": 1}),
            ("f.inner", {"number": 2}),
        ]

    def test_without_its_start_has_no_arguments(self) -> None:
        """
        Where only the end was recorded the arguments are unknown, and each is made up.
        """
        with use_monitor(Monitor(level=40)) as monitor, CorrelationContext("once"):
            inner(1)

        found = find_failure(monitor.query, "once")

        assert found.arguments is None
        assert write_test(found).todo == ("number: number was not recorded; this is made up.",)

    def test_passes_over_what_has_no_function(self) -> None:
        """
        Records that others made do not hide what can be replayed, neither around it nor between.
        """
        with use_monitor(Monitor()) as monitor, CorrelationContext("once"), foreign(monitor, "around"):
            gives_way(monitor)

        found = find_failure(monitor.query, "once")

        assert (found.operation, [one.arguments for one in found.inner]) == (
            "f.gives_way",
            [{"number": 1}, {"number": 2}, {"number": 3}, {"number": 4}],
        )


@log_result_operation("tables.book")
def book(guests: int) -> Result[int, str]:
    return Failure("too many") if guests > 8 else Success(guests)


class TestAssertReproduces:
    @pytest.mark.parametrize(
        ("call", "step", "code", "fault"),
        [
            (
                lambda: book(12),
                "",
                "SOLD_OUT",
                "  recorded: code SOLD_OUT, no logged step failed\n  now:      code UNKNOWN, no logged step failed",
            ),
            (
                lambda: book(12),
                "kept",
                "UNKNOWN",
                "  recorded: code UNKNOWN at step 'kept'\n  now:      code UNKNOWN, no logged step failed",
            ),
            (
                lambda: book(2),
                "",
                "UNKNOWN",
                (
                    "  recorded: code UNKNOWN, no logged step failed\n"
                    "  now:      it did not fail; if it is mended, assert what it does instead"
                ),
            ),
            (
                lambda: int("x"),
                "",
                "UNKNOWN",
                (
                    "  recorded: code UNKNOWN, no logged step failed\n"
                    "  now:      it was not called; ValueError was raised: invalid literal for int() with base 10: 'x'"
                ),
            ),
        ],
    )
    def test_says_what_happens_instead(self, call: Callable[[], object], step: str, code: str, fault: str) -> None:
        """
        Both sides are told: what was recorded, and what is now.
        """
        with pytest.raises(AssertionError) as caught:
            assert_reproduces(call, operation="tables.book", step=step, code=code)

        assert str(caught.value) == f"tables.book does not fail as it did\n{fault}"

    @pytest.mark.parametrize("later", [False, True])
    def test_finds_it_inside_as_well(self, later: bool) -> None:
        """
        One call of several is enough, in whatever operation it was made, at whatever level, and if something is raised around it.
        """

        async def call() -> None:
            well(1)
            with suppress(LookupError):
                quiet(0)
            quiet(1)

        def call_now() -> None:
            asyncio.run(call())

        @log_result_operation("tables.quiet", log_level="DEBUG", expected=["UNKNOWN"])
        def quiet(guests: int) -> Result[int, str]:
            book(9)
            if guests:
                raise KeyError("seven")
            return Failure("no")

        for code in ("KeyError", "UNKNOWN"):
            assert_reproduces(call if later else call_now, operation="tables.quiet", step="", code=code)
        assert_reproduces(call if later else call_now, operation="tables.book", step="", code="UNKNOWN")
        with pytest.raises(AssertionError) as caught:
            assert_reproduces(call if later else call_now, operation="tables.quiet", step="", code="OTHER")

        assert str(caught.value) == (
            "tables.quiet does not fail as it did\n"
            "  recorded: code OTHER, no logged step failed\n"
            "  now:      code UNKNOWN, no logged step failed; code KeyError, no logged step failed"
        )
        assert isinstance(caught.value.__cause__, KeyError)

    def test_wants_the_same_step(self) -> None:
        """
        The first logged step that failed is part of what was recorded.
        """
        assert_reproduces(lambda: outer(1), operation="f.outer", step="kept", code="UNKNOWN")
        with pytest.raises(AssertionError) as caught:
            assert_reproduces(lambda: outer(1), operation="f.outer", step="taken", code="UNKNOWN")

        assert str(caught.value) == (
            "f.outer does not fail as it did\n"
            "  recorded: code UNKNOWN at step 'taken'\n"
            "  now:      code UNKNOWN at step 'kept'"
        )

    def test_an_error_inside_is_no_failure(self) -> None:
        """
        An operation that logs an error and ends well has not failed.
        """

        @log_result_operation("tables.kept")
        def kept() -> Result[int, str]:
            default_monitor().log(40, "again", error="no")
            return Success(1)

        with pytest.raises(AssertionError, match="  now:      it did not fail; if it is mended, "):
            assert_reproduces(kept, operation="tables.kept", step="", code="UNKNOWN")

    @pytest.mark.parametrize(
        ("call", "said"),
        [
            (lambda: None, "it was not called"),
            (lambda: inner(1), "it was not called"),
            (lambda: raising(1), "it was not called; LookupError was raised: gone"),
        ],
    )
    def test_says_that_it_was_not_called(self, call: Callable[[], object], said: str) -> None:
        """
        Another operation that fails is not the one.
        """
        with pytest.raises(AssertionError, match=f"  now:      {said}$"):
            assert_reproduces(call, operation="tables.book", step="", code="UNKNOWN")

    def test_shows_the_test_and_not_itself(self) -> None:
        """
        A traceback ends in the test.
        """
        with pytest.raises(AssertionError) as caught:
            assert_reproduces(lambda: book(2), operation="tables.book", step="", code="UNKNOWN")

        assert [each.frame.code.name for each in caught.traceback.filter(caught)] == [
            "test_shows_the_test_and_not_itself"
        ]

    def test_records_nowhere_else(self) -> None:
        """
        The monitor that is in place sees nothing of it.
        """
        with use_monitor(Monitor()) as monitor:
            assert_reproduces(lambda: book(12), operation="tables.book", step="", code="UNKNOWN")

        assert monitor.query.records() == []

    def test_looks_at_the_failure(self) -> None:
        """
        A test that watches for lost Failures is told of none, whether the function is async or plain.
        """

        async def book_later() -> Result[int, str]:
            return book(12)

        with Watch() as watch:
            for call in (lambda: book(12), book_later):
                assert_reproduces(call, operation="tables.book", step="", code="UNKNOWN")
            found = watch.unhandled()

        assert found == []


class TestRebuilt:
    def test_says_what_does_not_fit_any_more(self, once: Any) -> None:
        """
        A type that has changed since is an error that names the parameter.
        """
        assert rebuilt(once.hidden, "order", {"number": 7, "dish": "김밥"}) == once.Order(7, "김밥")
        with pytest.raises(ReplayError, match=r"^replay: order: what was recorded of it is no .*Order.* any more: "):
            rebuilt(once.hidden, "order", {"number": "seven"})

    def test_goes_by_the_annotation(self, once: Any) -> None:
        """
        What has no annotation stays as it was recorded, and so does a parameter that is no more.
        """
        fields = {"number": 7, "dish": "김밥"}

        assert rebuilt(once.partly, "orders", [fields]) == [once.Order(7, "김밥")]
        assert rebuilt(once.changed, "price", "9.50") == Decimal("9.50")
        assert rebuilt(once.changed, "anything", fields) == fields
        assert rebuilt(once.changed, "gone", fields) == fields
        assert rebuilt(once.unhinted, "order", fields) == fields
        assert rebuilt(once.model, "guest", {"name": "김"}) == once.Guest(name="김")
        assert rebuilt(once.model, "other", {"name": "이"}) == once.Guest(name="이")
        assert rebuilt(once.model, "other", None) is None
        assert rebuilt(once.plain, "number", "7") == 7
        with pytest.raises(ReplayError) as caught:
            rebuilt(once.positional, "first", "seven")
        assert str(caught.value) == (
            "replay: first: what was recorded of it is no <class 'int'> any more: Expected `int`, got `str`"
        )


class TestRecordedError:
    def test_is_not_expected_unless_it_is_said(self) -> None:
        """
        As with errors of one's own.
        """
        assert not is_expected(recorded_error("BankError", "NO_MONEY", "no"))

    @given(st.from_regex(r"[A-Z][A-Za-z]{0,20}", fullmatch=True), st.text(), st.booleans())
    def test_is_what_was_recorded(self, name: str, message: str, expected: bool) -> None:
        """
        Its class has the name, and code and text are those that were recorded.
        """
        error = recorded_error(name, "NO_MONEY", message, expected=expected)

        assert (type(error).__name__, error_code(error), str(error)) == (name, "NO_MONEY", message)
        assert is_expected(error) is expected
