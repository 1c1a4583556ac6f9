"""A failure of a real service, written as a test by the command, and run by a pytest of its own."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfs.core.result import Failure, Result, Success, error_code, is_expected
from rfs.errors import ReplayError
from rfs.monitoring import CorrelationContext, Monitor, log_result_operation, use_monitor
from rfs.testing._unhandled import Watch
from rfs.testing.replay import (
    RecordedFailure,
    assert_reproduces,
    find_failure,
    rebuilt,
    recorded_error,
    write_test,
)
from tests.cli.running import Terminal, command
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
from contextlib import suppress
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


@pytest.fixture(scope="module")
def said(project: Path) -> dict[str, dict[str, Any]]:
    """What the command has said of each file that it has written."""
    answers: dict[str, dict[str, Any]] = {}
    for what, *_ in CASES:
        done = replay(project, what, "--output", f"test_{what}.py")
        assert done.returncode == 0, done.stderr
        answers[what] = json.loads(done.stdout)
    return answers


# What contradicts another rule or the formatter, and what tests, texts of others and a TODO cannot help.
FREE = "COM812,CPY001,D203,D205,D212,D213,D400,D415,E501,EM101,FIX,I001,INP001,ISC001,N802,PLC2401,S101,TD"


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
        left = "".join(f"\nLeft to do: {each}\n" for each in said[what]["todo"])
        wanted = (Path(__file__).parent / "written" / f"{what}.txt").read_text(encoding="utf-8")

        assert re.sub(r"recorded [-\d]+ [:\d]+ UTC", "recorded at that time", source) + left == wanted

    @pytest.mark.usefixtures("said")
    def test_is_well_formed(self, project: Path) -> None:
        """
        A linter that refuses all it can finds nothing in it but what tests are free to do, and a formatter leaves it as it is.
        """
        pytest.importorskip("ruff")
        files = [f"test_{what}.py" for what, *_ in CASES]
        ruff = (sys.executable, "-m", "ruff")

        linted = run(project, *ruff, "check", "--isolated", "--no-cache", "--select", "ALL", "--ignore", FREE, *files)
        formatted = [
            run(project, *ruff, "format", "--isolated", "--no-cache", "--diff", "--line-length", columns, *files)
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

from dataclasses import dataclass

import rfs.monitoring as rfs
from rfs.core.result import Failure, Result, Success


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


@pytest.fixture
def once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module whose functions fail."""
    (tmp_path / "shop_once.py").write_text(ONCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("shop_once")
    sys.modules.pop("shop_once", None)


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


class TestArguments:
    def test_that_say_nothing_of_themselves_are_left_to_the_reader(self, once: Any) -> None:
        """
        An object of which only the class was recorded is a fixture, and not one that pytest has itself; the rest is made again.
        """
        failure = recorded(lambda: once.unreadable(once.Order(7, "김밥"), once.Opaque(), "note", "a", "b", extra=1))

        source, todo = write_test(failure)

        assert 'rebuilt(unreadable,"order",{"number":7,"dish":"김밥"}' in plain(source)
        assert "def request_value() -> object:" in source
        assert 'raise NotImplementedError("TODO: give it a value")' in source
        assert 'request_value,"note","a","b",)' in plain(source)
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


class TestRecordedError:
    @given(st.from_regex(r"[A-Z][A-Za-z]{0,20}", fullmatch=True), st.text(), st.booleans())
    def test_is_what_was_recorded(self, name: str, message: str, expected: bool) -> None:
        """
        Its class has the name, and code and text are those that were recorded.
        """
        error = recorded_error(name, "NO_MONEY", message, expected=expected)

        assert (type(error).__name__, error_code(error), str(error)) == (name, "NO_MONEY", message)
        assert is_expected(error) is expected
