"""A failure of a real service, written as a test by the command, and run by a pytest of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import command
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
    """A service that has run, and failed five times."""
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


def written(project: Path, what: str, *more: str) -> tuple[dict[str, Any], str]:
    """What the command says of the file that it has written, and the file."""
    name = f"test_{what}.py"
    (project / name).unlink(missing_ok=True)
    done = replay(project, what, "--output", name, *more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), (project / name).read_text(encoding="utf-8")


CASES = [
    ("book", "tables.book", "", "TOO_MANY_GUESTS"),
    ("place", "orders.place", "kept", "SOLD_OUT"),
    ("refund", "orders.refund", "", "KeyError"),
    ("cook", "주방.요리", "", "UNKNOWN"),
    ("pay", "orders.pay", "", "SOLD_OUT"),
    ("deliver", "orders.deliver", "", "NoRouteError"),
]


# What contradicts another rule or the formatter, and what tests, texts of others and a TODO cannot help.
FREE = "COM812,CPY001,D203,D205,D212,D213,D400,D415,E501,EM101,FIX,I001,INP001,ISC001,N802,PLC2401,S101,TD"


class TestWrittenTest:
    @pytest.mark.parametrize(("what", "operation", "step", "code"), CASES)
    def test_sees_what_was_recorded(self, project: Path, what: str, operation: str, step: str, code: str) -> None:
        """
        The same operation fails again, at the same step, with the same code.
        """
        said, source = written(project, what)

        if "mock_result_service" in source:
            pytest.importorskip("rfs.testing.result_helpers")
        assert (said["operation"], said["step"], said["code"]) == (operation, step, code)
        assert all(
            f"{name}={json.dumps(text, ensure_ascii=False)}," in source for name, text in list(said.items())[1:4]
        )
        done = run_pytest(project, said["file"])
        assert done.returncode == 0, done.stdout

    def test_is_well_formed(self, project: Path) -> None:
        """
        A linter that refuses all it can finds nothing in it but what tests are free to do.
        """
        pytest.importorskip("ruff")
        for what, *_ in CASES:
            written(project, what)
        lint = (sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select", "ALL", "--ignore", FREE)

        done = run(project, *lint, *project.glob("test_*.py"))

        assert done.returncode == 0, done.stdout

    @pytest.mark.parametrize("columns", [88, 120])
    def test_is_formatted(self, project: Path, columns: int) -> None:
        """
        A formatter leaves it as it is, at either usual width.
        """
        pytest.importorskip("ruff")
        for what, *_ in CASES:
            written(project, what)
        form = (sys.executable, "-m", "ruff", "format", "--isolated", "--no-cache", "--diff", "--line-length", columns)

        done = run(project, *form, *project.glob("test_*.py"))

        assert done.returncode == 0, done.stdout

    def test_fails_when_the_operation_is_mended(self, project: Path) -> None:
        """
        Once the cause is gone the test says so, and what to do.
        """
        said, _ = written(project, "book")
        orders = project / "shop" / "orders.py"
        orders.write_text(SHOP.replace("guests > 8", "guests > 80"))

        try:
            done = run_pytest(project, said["file"])
        finally:
            orders.write_text(SHOP)

        assert done.returncode == 1
        assert "tables.book does not fail as it did" in done.stdout
        assert "now:      it did not fail; if it is mended, assert what it does instead" in done.stdout

    def test_gives_no_secret_away(self, project: Path) -> None:
        """
        What was masked is a fixture with a value that is made up, and says so.
        """
        said, source = written(project, "place")

        assert "sk_live" not in source
        assert '"""TODO: token was recorded as [masked:key]; this is made up."""' in source
        assert said["todo"] == ["token: token was recorded as [masked:key]; this is made up."]


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
