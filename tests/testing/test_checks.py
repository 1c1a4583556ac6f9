"""``rfs check``: tests of alert rules, telemetry contracts and baselines, from the file to what a person and a code host see."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import cast
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rfs.monitoring as recording
from rfs.core.result import Failure, Result, Success
from rfs.errors import CheckFileError, QueryError
from rfs.monitoring._capture.record import LogRecord
from rfs.monitoring._query import Query
from rfs.monitoring.monitor import Monitor, use_monitor
from rfs.reactive import MonoResult
from rfs.testing.checks import Outcome, Problem, annotation_lines, expand, junit, read_checks, run_checks
from rfs.testing.performance import record_baseline
from rfs.testing.replay import recorded_error
from rfs.testing.virtual_time import VirtualTime
from tests.cli.running import Answer, Terminal, rfs
from tests.docs.snippets import snippets
from tests.faults.processes import ROOT

PAGE = ROOT / "docs" / "reference" / "testing-checks.md"

RULES = """
from rfs.monitoring import AlertCondition, Rule, default_monitor

BURST = Rule("burst", "result_failure_total", AlertCondition.GREATER_THAN, 5, aggregation="increase", window_seconds=60)
QUEUE = Rule("queue", "orders_waiting", AlertCondition.GREATER_THAN, 20, for_seconds=20)
SLOW = Rule("slow", "wait_seconds", AlertCondition.GREATER_THAN, 2, aggregation="p95", window_seconds=60)
ALL = [BURST, QUEUE, SLOW]
WRONG = ["burst"]
EMPTY = []
NUMBER = 7
MIXED = [BURST, "queue"]
told = []


class Shop:
    rules = (SLOW,)

    @staticmethod
    def declared():
        return [SLOW]


def slower() -> int:
    return 1 / 0


def declare() -> None:
    for rule in ALL:
        default_monitor().alerts.set_rule(rule, callback=told.append)


def broken() -> None:
    Rule("x", "y", "sideways", 1)


def quick() -> int:
    return sum(range(100))


async def quick_too() -> int:
    return sum(range(100))
"""

CHECKS = """
rules = "shop_rules:ALL"

[[rule_test]]
name = "a rush"
interval = "10s"

[[rule_test.series]]
metric = "result_failure_total"
type = "counter"
labels = { operation = "orders.place" }
values = "0x3 4 8x20"

[[rule_test.series]]
metric = "orders_waiting"
type = "gauge"
values = "30x6 5x20"

[[rule_test.series]]
metric = "wait_seconds"
type = "histogram"
values = "_x6 1x5 3x20"

[[rule_test.expect]]
at = 10
firing = []

[[rule_test.expect]]
at = "1m"
firing = ["burst", "queue"]
told = ["fire queue", "fire burst"]

[[rule_test.expect]]
at = "2m"
firing = ["slow"]
told = ["resolve queue", "resolve burst", "fire slow"]
"""

CONTRACT = """
[[contract]]
operation = "orders.place"
codes = { may = ["UNKNOWN"] }
spans = { must = ["stock.check"], may = [] }
logs = { must = ["order *"], may = [] }
metrics = { must = ["orders_placed_total", "orders_open", "result_*_ms"], may = [] }
"""

PERFORMANCE = """
[[performance]]
name = "placing"
function = "shop_rules:quick"
baseline = "baselines.json"
by = 5.0
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a project, and the one that commands are called in."""
    (tmp_path / "shop_rules.py").write_text(RULES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("shop", "shop_rules", "own_rules"):
        sys.modules.pop(name, None)


def check(content: str, *arguments: object) -> Answer:
    """Run the command on a file of that content."""
    Path("checks.toml").write_text(content, encoding="utf-8")
    return rfs("check", "checks.toml", *arguments)


def problems(answer: Answer) -> list[tuple[int, str]]:
    """The line and the text of everything that is said to be wrong."""
    return [(each["line"], each["text"]) for one in answer.objects for each in one["problems"]]


# --- rules ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("folder")
class TestRules:
    def test_that_fire_when_they_should_pass(self) -> None:
        """
        Each rule fires and resolves at its time, and the command says so with status 0.
        """
        answer = check(CHECKS)

        assert answer.status == 0, answer.text
        assert [(each["name"], each["passed"], each["problems"]) for each in answer.objects] == [("a rush", True, [])]

    def test_that_were_changed_fail_at_the_line_that_says_what_should_be(self) -> None:
        """
        A threshold that was raised lets the test fail, with the rule's value beside it.
        """
        Path("shop_rules.py").write_text(RULES.replace("GREATER_THAN, 5,", "GREATER_THAN, 50,"))

        answer = check(CHECKS)

        found = problems(answer)
        assert answer.status == 1
        assert [line for line, _ in found] == [30, 31, 36]
        assert found[0][1] == (
            "at 1m 'burst' should fire: it is inactive, its value is 8 "
            "(Rule('burst': increase of result_failure_total in 60 s > 50))"
        )
        assert found[1][1] == "until 1m callbacks were told 'fire queue', not 'fire queue', 'fire burst'"

    def test_that_fire_and_should_not_fail(self) -> None:
        """
        An alert that is not listed is as wrong as one that is missing.
        """
        answer = check(CHECKS.replace('firing = ["slow"]', "firing = []"))

        assert [line for line, _ in problems(answer)] == [35]
        assert problems(answer)[0][1].startswith("at 2m 'slow' should not fire: it is firing, its value is 3 (Rule(")

    def test_a_value_that_is_unknown_is_said_to_be(self) -> None:
        """
        A rule whose metric has no value yet shows none, and not 0.
        """
        answer = check(CHECKS.replace("at = 10\nfiring = []", 'at = 10\nfiring = ["slow"]'))

        assert problems(answer)[0][1].startswith(
            "at 10s 'slow' should fire: it is no_data, its value is unknown (Rule("
        )

    def test_a_function_may_declare_them_and_nobody_is_told(self) -> None:
        """
        What a service calls when it starts is as good as a list; the callbacks it gives are never called.
        """
        answer = check(CHECKS.replace("shop_rules:ALL", "shop_rules:declare"))

        assert answer.status == 0, answer.text
        assert sys.modules["shop_rules"].told == []

    def test_one_rule_may_be_tested_alone(self) -> None:
        """
        A name of one rule is enough.
        """
        content = CHECKS.replace("shop_rules:ALL", "shop_rules:BURST").replace('"burst", "queue"', '"burst"')
        content = re.sub("told = .*", "", content).replace('firing = ["slow"]', "firing = []")

        assert check(content).status == 0

    def test_are_found_by_any_name(self) -> None:
        """
        A list within something else, a tuple, and what a function gives back are as good.
        """
        content = re.sub("told = .*", "", CHECKS).replace('"burst", "queue"', "")

        for name in ("Shop.rules", "Shop.declared", "SLOW"):
            answer = check(content.replace("shop_rules:ALL", f"shop_rules:{name}"))

            assert (answer.status, problems(answer)) == (0, [])

    def test_are_given_what_the_series_say(self) -> None:
        """
        A counter grows by what it says, a gauge stays where nothing is said, labels are told apart, and the beginning counts.
        """
        Path("own_rules.py").write_text(OWN_RULES)

        answer = check(OWN)

        low, sold = sys.modules["own_rules"].RULES[::-1]
        assert problems(answer) == [
            (22, f"at 0s 'running low' should fire: it is inactive, its value is 5 ({low!r})"),
            (22, f"at 0s 'sold' should fire: it is no_data, its value is unknown ({sold!r})"),
        ]

    @pytest.mark.parametrize(
        ("at", "interval", "shown"),
        [
            ("0", "2.5", "0s"),
            ("2.5", "2.5", "2.5s"),
            ('"5s"', "2.5", "5s"),
            ("10.0", "2.5", "10s"),
            ("2500000", "25000", "2500000s"),
            ("3", "1", "3s"),
        ],
    )
    def test_are_evaluated_at_each_interval_from_the_beginning_on(self, at: str, interval: str, shown: str) -> None:
        """
        Any multiple of the interval may be asked for, however it is written.
        """
        content = """
rules = "shop_rules:QUEUE"
[[rule_test]]
name = "x"
interval = INTERVAL
[[rule_test.series]]
metric = "orders_waiting"
type = "gauge"
values = "3x100000"
[[rule_test.expect]]
at = AT
firing = ["queue"]
told = ["fire queue"]
"""

        answer = check(content.replace("AT", at).replace("INTERVAL", interval))

        rule = f"({sys.modules['shop_rules'].QUEUE!r})"
        assert problems(answer) == [
            (12, f"at {shown} 'queue' should fire: it is inactive, its value is 3 {rule}"),
            (13, f"until {shown} callbacks were told nothing, not 'fire queue'"),
        ]


OWN_RULES = """
from rfs.monitoring import AlertCondition, Rule

RULES = [
    Rule("sold", "sold_total", AlertCondition.GREATER_THAN, 2.5, aggregation="increase", window_seconds=60, labels={"shop": "a"}),
    Rule("running low", "stock_left", AlertCondition.GREATER_THAN, 5),
]
"""

OWN = """
rules = "own_rules:RULES"
[[rule_test]]
name = "own"
series = [
    { metric = "stock_left", type = "gauge", values = "5 _ 6 _" },
    { metric = "sold_total", type = "counter", values = "0 1x2 4x30", labels = { shop = "a" } },
    { metric = "sold_total", type = "counter", values = "0+100x20", labels = { shop = "b" } },
]
expect = [
    { at = 10, firing = [] },
    { at = 20, firing = ["running low"], told = ["fire running low"] },
    { at = 40, firing = ["running low", "sold"], told = ["fire sold"] },
    { at = "2m", firing = ["running low"], told = ["resolve sold"] },
    { at = "3m", firing = ["running low"], told = [] },
]
[[rule_test]]
name = "at the beginning"
series = [{ metric = "stock_left", type = "gauge", values = "5" }]
[[rule_test.expect]]
at = 0
firing = ["running low", "sold"]
"""


# Each with what is written instead of what, the line that is named, and the fault.
FAULTS = [
    ('rules = "shop_rules:ALL"', "", 4, 'rules are missing; say where they are: rules = "shop.alerts:RULES"'),
    ("shop_rules:ALL", "shop_rules", 2, "rules: 'shop_rules' is no module:name, as shop.orders:place is one"),
    (
        "shop_rules:ALL",
        "nowhere:ALL",
        2,
        "rules: nowhere:ALL cannot be imported: ModuleNotFoundError: No module named 'nowhere'; run this where nowhere is",
    ),
    (
        "shop_rules:ALL",
        "shop_rules:NONE",
        2,
        (
            "rules: shop_rules:NONE cannot be imported: AttributeError: module 'shop_rules' has no attribute 'NONE'; "
            "run this where shop_rules is"
        ),
    ),
    (
        "shop_rules:ALL",
        "shop_rules:WRONG",
        2,
        "rules: shop_rules:WRONG is no list of Rule, and no function that declares some",
    ),
    (
        "shop_rules:ALL",
        "shop_rules:broken",
        2,
        (
            "rules: shop_rules:broken() has raised AlertRuleError: alert rule 'x': condition: must be one of greater_than, "
            "greater_than_or_equal, less_than, less_than_or_equal, equal, not_equal, not 'sideways'"
        ),
    ),
    ("name =", "title =", 5, "there is no 'title' here; there are name, series, expect, interval"),
    ('name = "a rush"', "", 4, "'name' is missing"),
    ('"a rush"', "5", 5, "name: expected str, got int"),
    (
        "[[rule_test.expect]]",
        "[[rule_test.expected]]",
        24,
        "there is no 'expected' here; there are name, series, expect, interval",
    ),
    ('"gauge"', '"guage"', 16, "type: 'guage' is none; write counter, gauge or histogram"),
    ('"10s"', "10s", 6, "is no TOML: Expected newline or end of document after a statement"),
    ('"10s"', '"soon"', 6, "interval: 'soon' is no length of time, as '90s', '5m' or a number of seconds is one"),
    ('"10s"', "0", 6, "interval: must be 1 second to 1 day"),
    ('"10s"', "nan", 6, "interval: must be 0 seconds or more, not nan"),
    ("at = 10", "at = 15", 25, "at: rules are not evaluated then, but every 10 s; write 20s"),
    ("at = 10", "at = -10", 25, "at: must be 0 seconds or more, not -10"),
    ('at = "1m"', 'at = "5m"', 34, "at: must be later than the expectation before"),
    ('at = "2m"', 'at = "30d"', 34, "at: is after 259,200 evaluations; 100,000 are the most"),
    ("firing = []", 'firing = ["brust"]', 26, "firing: there is no rule 'brust'; there are burst, queue, slow"),
    ('"fire slow"]', '"fired slow"]', 36, "told: there is no rule 'fired slow'; there are burst, queue, slow"),
    ("0x3 4 8x20", "0x3 ~", 12, "values: '~' is no value; write 5, 5x3, 0+10x3, _ or _x3"),
    ("0x3 4 8x20", "5+1", 12, "values: '5+1' is no value; write 5, 5x3, 0+10x3, _ or _x3"),
    ("0x3 4 8x20", "", 12, "values: there are none; write 5, 5x3, 0+10x3, _ or _x3"),
    ("0x3 4 8x20", "5x200000", 12, "values: there are more than 100,000; write fewer"),
    ("0x3 4 8x20", "8 4", 12, "values: a counter begins at 0 and never falls; write its totals, or use a gauge"),
    (
        '"orders_waiting"',
        '"result_failure_total"',
        15,
        "metric: metric 'result_failure_total': is a counter already and cannot become a gauge",
    ),
    ('"10s"', "0.999", 6, "interval: must be 1 second to 1 day"),
    ('"10s"', "86401", 6, "interval: must be 1 second to 1 day"),
    ('"10s"', "inf", 6, "interval: must be 0 seconds or more, not inf"),
    ('"10s"', "true", 6, "interval: expected int | float | str, got bool"),
    ('"10s"', "86400", 25, "at: rules are not evaluated then, but every 86400 s; write 0s"),
    ('at = "1m"', "at = 10", 29, "at: must be later than the expectation before"),
    ('at = "1m"', 'at = "1e3"', 29, "at: '1e3' is no length of time, as '90s', '5m' or a number of seconds is one"),
    ("at = 10", "at = 1234567", 25, "at: rules are not evaluated then, but every 10 s; write 1234570s"),
    ("at = 10", "at = 10.001", 25, "at: rules are not evaluated then, but every 10 s; write 10s"),
    ('at = "2m"', "at = 1000010", 34, "at: is after 100,001 evaluations; 100,000 are the most"),
    ("30x6 5x20", "30x6 +", 17, "values: '+' is no value; write 5, 5x3, 0+10x3, _ or _x3"),
    ("30x6 5x20", "1 5x100000", 17, "values: there are more than 100,000; write fewer"),
    (
        "shop_rules:ALL",
        "shop_rules:EMPTY",
        2,
        "rules: shop_rules:EMPTY is no list of Rule, and no function that declares some",
    ),
    (
        "shop_rules:ALL",
        "shop_rules:NUMBER",
        2,
        "rules: shop_rules:NUMBER is no list of Rule, and no function that declares some",
    ),
    (
        "shop_rules:ALL",
        "shop_rules:MIXED",
        2,
        "rules: shop_rules:MIXED is no list of Rule, and no function that declares some",
    ),
    (
        "shop_rules:ALL",
        "shop_rules:quick",
        2,
        "rules: shop_rules:quick is no list of Rule, and no function that declares some",
    ),
    (
        "shop_rules:ALL",
        "shop_rules:Shop:rules",
        2,
        (
            "rules: shop_rules:Shop:rules cannot be imported: AttributeError: module 'shop_rules' has no attribute 'Shop:rules'; "
            "run this where shop_rules is"
        ),
    ),
    ("at = 10", "at = 0.0000011", 25, "at: rules are not evaluated then, but every 10 s; write 0s"),
    ("shop_rules:ALL", ":ALL", 2, "rules: ':ALL' is no module:name, as shop.orders:place is one"),
    ("shop_rules:ALL", "shop_rules:", 2, "rules: 'shop_rules:' is no module:name, as shop.orders:place is one"),
]


SERIES = """[[rule_test]]
name = "x"
expect = []
[[rule_test.series]]
metric = "a"
type = "gauge"
values = "1"
"""


@pytest.mark.usefixtures("folder")
class TestBadInput:
    @pytest.mark.parametrize(("old", "new", "line", "fault"), FAULTS)
    def test_is_told_with_its_line(self, old: str, new: str, line: int, fault: str) -> None:
        """
        What is wrong in a file is said with where and what to do; nothing runs, and the status is 2.
        """
        assert old in CHECKS

        answer = check(CHECKS.replace(old, new))

        assert (answer.status, answer.text) == (2, "")
        assert answer.errors == f"rfs: checks.toml:{line}: {fault}\n"

    @pytest.mark.parametrize(
        ("content", "fault"),
        [
            ("", "checks.toml: has no checks; write [[rule_test]], [[contract]] or [[performance]]"),
            (
                "[[rule_tests]]",
                "checks.toml:1: there is no 'rule_tests' here; there are rules, rule_test, contract, performance",
            ),
            (
                'rules = "shop_rules:ALL"\n[[rule_test]]\nname = "x"\nseries = []\nexpect = []',
                "checks.toml:5: expect: there is nothing to expect; write [[rule_test.expect]]",
            ),
            (
                CONTRACT.replace("must", "most", 1),
                "checks.toml:5: there is no 'most' here; there are must, may",
            ),
            (
                PERFORMANCE.replace("shop_rules:quick", "shop_rules:told"),
                "checks.toml:4: function: shop_rules:told cannot be called",
            ),
            ("rules = [", "checks.toml:1: is no TOML: Invalid value"),
            (
                '["a (at b"]\n\n["a (at b"]\n',
                "checks.toml:3: is no TOML: Cannot declare ('a (at b',) twice",
            ),
            ("# 하나\nrules = [\n1,\n", "checks.toml:3: is no TOML: Invalid value"),
            ('"a b" = 1', "checks.toml: there is no 'a b' here; there are rules, rule_test, contract, performance"),
            ("[contract]", "checks.toml:1: contract: expected array, got object"),
            ("\n  contract = [5]", "checks.toml:2: contract: expected object, got int"),
            ("rule_test = 5", "checks.toml:1: rule_test: expected array, got int"),
            ('rules = 5\n[[contract]]\noperation="x"', "checks.toml:1: rules: expected str | null, got int"),
            (
                '[[contract]]\noperation = "x"\n[contract.codes]\nmust = 5',
                "checks.toml:4: must: expected array, got int",
            ),
            (
                '[[contract]]\noperation = "x"\n[[contract]]\noperation = "y"\n[ contract.logs ]\nmost = 5',
                "checks.toml:6: there is no 'most' here; there are must, may",
            ),
            (
                '[[contract]]\noperation = "x"\ncodes = { must = ["a", 5] }',
                "checks.toml:3: must: expected str, got int",
            ),
            (
                '[[contract]]\noperation = "x"\nspans = { may = 5 }',
                "checks.toml:3: may: expected array | null, got int",
            ),
            (
                SERIES + SERIES.partition("expect = []")[2] + "sort = 1",
                "checks.toml:13: there is no 'sort' here; there are metric, type, values, labels",
            ),
            (
                '[[rule_test]]\nname = "x"\n[[rule_test.series]]\nmetric = "a"\nvalues = "1"\n',
                "checks.toml:3: 'type' is missing",
            ),
            (
                '[[rule_test]]\nname = "x"\nseries = [{metric = "a", type = "b", values = "1"}]',
                "checks.toml:3: type: 'b' is none; write counter, gauge or histogram",
            ),
            (
                '[[rule_test]]\nname = "x"\n[[rule_test.expect]]\nnope = 1',
                "checks.toml:4: there is no 'nope' here; there are at, firing, told",
            ),
            (
                f"{PERFORMANCE}bye = 1",
                "checks.toml:7: there is no 'bye' here; there are name, function, baseline, by",
            ),
            (
                SERIES + SERIES + SERIES.partition("expect = []")[2].replace("gauge", "guage"),
                "checks.toml:18: type: 'guage' is none; write counter, gauge or histogram",
            ),
            (
                f"  [[ contract ]] # one\n{SERIES}[[contract]]\noperation = 'y'\n",
                "checks.toml:1: 'operation' is missing",
            ),
            (
                "[[contract]]\noperation = 'x'\n[contract.logs]\n[[contract]]\noperation = 'y'\n[contract.logs]\nmay = ['a', 1]",
                "checks.toml:7: may: expected str, got int",
            ),
            (PERFORMANCE.replace("5.0", '"x"'), "checks.toml:6: by: expected float, got str"),
            (
                PERFORMANCE.replace("shop_rules:quick", "shop_rules.quick"),
                "checks.toml:4: function: 'shop_rules.quick' is no module:name, as shop.orders:place is one",
            ),
            (
                PERFORMANCE + PERFORMANCE.replace("shop_rules:quick", "a.b:c"),
                (
                    "checks.toml:10: function: a.b:c cannot be imported: ModuleNotFoundError: No module named 'a'; "
                    "run this where a.b is"
                ),
            ),
            (
                f"{CONTRACT}\n[[rule_test]]\nname = 'x'\nseries = []\nexpect = []",
                'checks.toml:9: rules are missing; say where they are: rules = "shop.alerts:RULES"',
            ),
        ],
    )
    def test_of_other_kinds_is_told_too(self, content: str, fault: str) -> None:
        """
        Whatever the check is, its fault has its line.
        """
        answer = check(content)

        assert (answer.status, answer.text, answer.errors) == (2, "", f"rfs: {fault}\n")

    @pytest.mark.parametrize(("old", "new"), [('at = "2m"', "at = 1000000"), ("at = 10\n", "at = 0.000001\n")])
    def test_begins_beyond_the_limits(self, old: str, new: str) -> None:
        """
        A rule test may have a hundred thousand evaluations, and a time may be a millionth of a second beside one of them.
        """
        Path("checks.toml").write_text(CHECKS.replace(old, new))

        assert [test.name for test in read_checks(Path("checks.toml")).content.rule_test] == ["a rush"]

    def test_a_file_that_cannot_be_read_is_told(self) -> None:
        """
        So is one that is not there, or no text.
        """
        Path("binary.toml").write_bytes(b"\xff\xfe")

        assert rfs("check", "none.toml").errors == "rfs: none.toml: cannot be read: No such file or directory\n"
        assert rfs("check", "binary.toml").errors == "rfs: binary.toml: is no text in UTF-8; write it anew\n"

    def test_a_file_that_cannot_be_read_has_no_line(self) -> None:
        """
        A code host, which needs one, is shown the first.
        """
        Path("binary.toml").write_bytes(b"\xff\xfe")

        for name, fault in (
            ("none.toml", "cannot be read: No such file or directory"),
            ("binary.toml", "is no text in UTF-8; write it anew"),
        ):
            with pytest.raises(CheckFileError) as caught:
                read_checks(Path(name))
            assert (caught.value.path, caught.value.line, caught.value.fault) == (name, 0, fault)
            assert rfs("check", name, "--annotations").errors.splitlines() == [
                f"::error file={name},line=1,title=rfs check::{fault}",
                f"rfs: {name}: {fault}",
            ]

    def test_of_one_file_stops_all(self) -> None:
        """
        No check runs while there is a file that cannot be used.
        """
        Path("well.toml").write_text(CHECKS)

        answer = check("", "well.toml")

        assert (answer.status, answer.text) == (2, "")

    def test_is_shown_beside_its_line_on_a_code_host(self) -> None:
        """
        With annotations its line is marked.
        """
        answer = check(CHECKS.replace('"10s"', "0"), "--annotations")

        assert answer.errors.splitlines()[0] == (
            "::error file=checks.toml,line=6,title=rfs check::interval: must be 1 second to 1 day"
        )


class TestSeries:
    @pytest.mark.parametrize(
        ("notation", "values"),
        [
            ("5", [5]),
            ("-1.5", [-1.5]),
            ("+2", [2]),
            ("5x0", [5]),
            ("5x1", [5, 5]),
            ("1.5-0.5x3", [1.5, 1.0, 0.5, 0.0]),
            ("_", [None]),
            ("_x0 _x1 _x2", [None] * 4),
            (" 1   2\t3\n", [1, 2, 3]),
        ],
    )
    def test_notation(self, notation: str, values: list[float | None]) -> None:
        """
        One value, several of it, steps up and down, gaps.
        """
        assert expand(notation) == values

    def test_notation_is_no_longer_than_a_test(self) -> None:
        """
        A value for the beginning and for each of the evaluations are the most.
        """
        assert len(expand("5x100000")) == len(expand("1x49999 5x50000")) == 100_001
        for notation in ("5x100001", "1 5x100000", "1x50000 2x50000", "_x100001"):
            with pytest.raises(ValueError, match=r"^there are more than 100,000; write fewer$"):
                expand(notation)

    @pytest.mark.parametrize("part", ["x", "5x", "1+", "5+1", "_+1x2", "x3", "5x3x3", "1e3", "5x-1", "5;", "5.", "--5"])
    def test_notation_is_nothing_else(self, part: str) -> None:
        """
        What is no value is told as it was written.
        """
        fault = f"{part!r} is no value; write 5, 5x3, 0+10x3, _ or _x3"
        with pytest.raises(ValueError, match=f"^{re.escape(fault)}$"):
            expand(f"1 {part} 2")

    @given(st.integers(0, 10**6), st.integers(0, 1000), st.integers(1, 50), st.integers(1, 5))
    def test_notation_says_what_promtool_says(self, first: int, step: int, times: int, gaps: int) -> None:
        """
        a+bxn is a, and n more that are each b larger; _xn are n gaps.
        """
        values = expand(f"{first}+{step}x{times} _x{gaps} {first}x{times} -{first}-{step}x{times}")

        rising: list[float | None] = [first + step * each for each in range(times + 1)]
        falling: list[float | None] = [-first - step * each for each in range(times + 1)]
        assert values == [*rising, *[None] * gaps, *[float(first)] * (times + 1), *falling]


# --- contracts ------------------------------------------------------------------------------------------------------


@recording.log_result_operation("stock.check")
def look(number: int) -> Result[int, str]:
    return Success(number)


@recording.log_result_operation("orders.place")
def place(number: int) -> Result[int, str]:
    look(number)
    recording.info("order placed", number=number)
    monitor = recording.default_monitor()
    monitor.counter("orders_placed_total").inc(1, operation="orders.place")
    monitor.gauge("orders_open").set(number)
    return Failure("sold out") if number % 3 == 2 else Success(number)


@recording.log_result_operation("orders.lose")
def lose() -> Result[int, str]:
    return Failure("gone")


@pytest.fixture
def store(folder: Path) -> Path:
    """The directory of a run that took six orders, two of which failed, and lost one."""
    monitor = Monitor(directory=folder / "state")
    with use_monitor(monitor):
        for number in range(6):
            with recording.with_correlation_id(f"order-{number}"):
                place(number)
        lose()
    monitor.beat()  # as a service does each second: its gauges are in the store when it has ended
    monitor.stop()
    return folder / "state"


# Each with what is written instead of what, the line that is named, and what is said.
BREACHES: list[tuple[str, str, int, list[str]]] = [
    (
        'may = ["UNKNOWN"]',
        "may = []",
        4,
        ["2 of 6 calls failed with 'UNKNOWN', which they may not (rfs trace order-5)"],
    ),
    ('may = ["UNKNOWN"]', 'must = ["SOLD_OUT"]', 4, ["no call failed with 'SOLD_OUT'; record one that does"]),
    (
        'must = ["stock.check"]',
        'must = ["payments.charge"]',
        5,
        [
            "4 of 4 calls that succeeded did not call 'payments.charge' (rfs trace order-4)",
            "6 of 6 calls call 'stock.check', which they may not (rfs trace order-5)",
        ],
    ),
    (
        'must = ["order *"]',
        'must = ["order shipped"]',
        6,
        [
            "4 of 4 calls that succeeded did not log 'order shipped' (rfs trace order-4)",
            "6 of 6 calls log 'order placed', which they may not (rfs trace order-5)",
        ],
    ),
    ('"result_*_ms"', '"orders_lost_total"', 7, ["'orders_lost_total' was not measured within 1h"]),
    ('must = ["orders_placed_total", ', "must = [", 7, ["'orders_placed_total' is measured of it, which may not be"]),
    (
        '"orders.place"',
        '"orders.cancel"',
        3,
        ["'orders.cancel' was not called within 1h; record a run that does, or look further back"],
    ),
]


class TestContracts:
    def test_that_are_kept_pass(self, store: Path) -> None:
        """
        What was recorded is what the contract says.
        """
        answer = check(CONTRACT, "--directory", store)

        assert answer.status == 0, answer.text

    @pytest.mark.parametrize(("old", "new", "line", "texts"), BREACHES)
    def test_that_are_broken_fail(self, store: Path, old: str, new: str, line: int, texts: list[str]) -> None:
        """
        What is missing or too much is told with how often, and an example.
        """
        assert old in CONTRACT

        answer = check(CONTRACT.replace(old, new), "--directory", store)

        assert answer.status == 1
        assert problems(answer) == [(line, text) for text in texts]

    def test_of_what_never_succeeded_cannot_be_kept(self, store: Path) -> None:
        """
        What a call must make is seen in one that succeeds; without one it is unknown, which is not well.
        """
        content = '[[contract]]\noperation = "orders.lose"\nlogs = { must = ["lost"] }'

        answer = check(content, "--directory", store)

        assert problems(answer) == [
            (3, "no call succeeded, so it cannot be seen what it must log; record one that does"),
        ]

    def test_without_a_list_of_what_may_be_anything_may(self, store: Path) -> None:
        """
        A contract says only what it says.
        """
        assert check('[[contract]]\noperation = "orders.place"', "--directory", store).status == 0

    def test_of_a_label_that_others_have_are_not_kept(self, store: Path) -> None:
        """
        A metric that is measured of other operations alone is not measured of this one.
        """
        content = '[[contract]]\noperation = "orders.lose"\nmetrics = { must = ["orders_placed_total"] }'

        assert problems(check(content, "--directory", store)) == [
            (3, "'orders_placed_total' was not measured within 1h"),
        ]

    @pytest.mark.usefixtures("folder")
    def test_need_a_store(self) -> None:
        """
        A directory that is not there is bad input.
        """
        answer = check(CONTRACT, "--directory", "nowhere")

        assert (answer.status, answer.text) == (2, "")
        assert answer.errors.startswith("rfs: there is no directory nowhere; ")


def held(monitor: Monitor, content: str, time_range: str = "1h") -> list[tuple[int, str]]:
    """What is said of contracts of that content, held against what *monitor* has recorded."""
    Path("contract.toml").write_text(content, encoding="utf-8")
    file = read_checks(Path("contract.toml"))
    outcomes = list(run_checks([file], lambda: nullcontext(monitor.query), time_range))
    return [(problem.line, problem.text) for outcome in outcomes for problem in outcome.problems]


def ended(monitor: Monitor, operation: str, outcome: str = "ok", *, code: str | None = None) -> None:
    """Record that a call of *operation* has ended, in the place where this is called."""
    error = None if code is None else recorded_error("OrderError", code, "no")
    level = 20 if code is None else 40
    monitor.log(level, "ended", kind="operation", operation=operation, outcome=outcome, error=error)


@pytest.mark.usefixtures("folder")
class TestCalls:
    @pytest.fixture
    def monitor(self) -> Iterator[Monitor]:
        """A monitor in memory, whose time is virtual, in the place of the default one."""
        with use_monitor(Monitor(clock=VirtualTime(), storm_limit=float("inf"))) as monitor:
            yield monitor

    def test_are_all_that_there_were(self, monitor: Monitor) -> None:
        """
        Each counts, however many records there are, with the logs and the calls that were made in it and in no other.
        """
        for number in range(2):
            with recording.with_correlation_id(f"order-{number}"):
                place(number)
        for number in range(10_500):
            monitor.log(20, f"between {number}")
        with recording.with_correlation_id("order-3"):
            place(3)
            place(5)

        content = """
[[contract]]
operation = "orders.place"
codes = { may = [] }
logs = { must = ["order ?laced", "order *", "[x]"], may = ["between *"] }
spans = { must = [] , may = ["orders.*"] }
"""
        assert held(monitor, content) == [
            (4, "1 of 4 calls failed with 'UNKNOWN', which they may not (rfs trace order-3)"),
            (6, "4 of 4 calls call 'stock.check', which they may not (rfs trace order-3)"),
            (5, "3 of 3 calls that succeeded did not log '[x]' (rfs trace order-3)"),
        ]

    def test_without_an_id_have_none(self, monitor: Monitor) -> None:
        """
        Where there is no trace to look at none is named.
        """
        for code in (None, "B", "A", "B"):
            ended(monitor, "a", "ok" if code is None else "failed", code=code)

        assert held(monitor, '[[contract]]\noperation = "a"\n[contract.codes]\nmust = ["A", "C"]\nmay = []') == [
            (3, "no call failed with 'C'; record one that does"),
            (3, "2 of 4 calls failed with 'B', which they may not"),
        ]

    def test_that_fail_need_not_come_so_far(self, monitor: Monitor) -> None:
        """
        What must be is asked of those that succeeded alone, what may not be of all; one that was cancelled is neither.
        """
        place(2).is_failure()
        content = '[[contract]]\noperation = "orders.place"\nspans = { must = ["stock.check", "x"] }'

        none = held(monitor, content)
        place(1)
        one = held(monitor, content)

        assert none == [(3, "no call succeeded, so it cannot be seen what it must call; record one that does")]
        assert one == [(3, f"1 of 1 calls that succeeded did not call 'x' (rfs trace {trace_of(monitor)})")]

    def test_are_told_once_for_each_name(self, monitor: Monitor) -> None:
        """
        A name that one call has made several times counts once, and a step goes by its name.
        """

        @recording.log_result_operation("orders.many")
        async def many() -> Result[int, str]:
            recording.info("again")
            recording.info("again")
            look(1)
            look(2)
            return await MonoResult.from_result(Success(1)).log_step("kept").to_result()

        asyncio.run(many())

        trace = trace_of(monitor)
        assert held(monitor, '[[contract]]\noperation = "orders.many"\nlogs = {may = []}\nspans = {may = []}') == [
            (4, f"1 of 1 calls call 'stock.check', which they may not (rfs trace {trace})"),
            (3, f"1 of 1 calls log 'kept', which they may not (rfs trace {trace})"),
            (3, f"1 of 1 calls log 'again', which they may not (rfs trace {trace})"),
        ]

    def test_are_those_within_the_range(self, monitor: Monitor) -> None:
        """
        What was before does not count, neither a call nor a metric.
        """
        clock = monitor.clock
        assert isinstance(clock, VirtualTime)
        content = """
[[contract]]
operation = "orders.place"
metrics = { must = ["orders_placed_total", "orders_open", "waiting_seconds", "result_duration_ms"] }
"""
        monitor.histogram("waiting_seconds").observe(1)
        place(1)
        monitor.tick()
        now = held(monitor, content, "5m")
        clock.advance(1000)
        monitor.tick()
        none = held(monitor, content, "5m")
        look(1)
        ended(monitor, "orders.place")
        monitor.counter("orders_placed_total").inc(1, operation="stock.check")
        monitor.tick()
        later = held(monitor, content, "5m")

        assert now == []
        assert none == [
            (3, "'orders.place' was not called within 5m; record a run that does, or look further back"),
        ]
        assert later == [
            (4, f"'{name}' was not measured within 5m")
            for name in ("orders_placed_total", "waiting_seconds", "result_duration_ms")
        ]
        assert held(monitor, content, "1h") == []

    def test_measure_what_they_may(self, monitor: Monitor) -> None:
        """
        What every operation measures is free; the rest that has its name as a label is held against the list.
        """
        place(1)
        look(1)
        for operation in ("orders.place", "stock.check"):
            monitor.gauge("open_orders").set(1, operation=operation)
            monitor.histogram("dish_price").observe(5, operation=operation)
        monitor.gauge("of_nobody").set(1)
        monitor.gauge("of_another").set(1, operation="stock.check")
        content = '[[contract]]\noperation = "orders.place"\nmetrics = {must = ["of_*", "dish_*"], may = ["orders_*"]}'

        assert held(monitor, content) == [(3, "'open_orders' is measured of it, which may not be")]
        assert held(monitor, content.replace('"of_*", ', '"open_orders", ')) == []
        assert held(monitor, content.replace('"of_*", ', '"of_another", ')) == [
            (3, "'of_another' was not measured within 1h"),
            (3, "'open_orders' is measured of it, which may not be"),
        ]


class Endless:
    """Stands in for the records of a year: there is always one more page."""

    def __init__(self, last: LogRecord, record: LogRecord) -> None:
        self.page = [record] * 9_999 + [last]
        self.asked: list[tuple[str, str | None]] = []
        self.patience = 0.0

    def records(self, *, limit: int, time_range: str, before: str | None) -> list[LogRecord]:
        self.asked.append((time_range, before))
        return self.page[:limit]

    def bounded(self, seconds: float) -> AbstractContextManager[None]:
        self.patience = seconds
        return nullcontext()


@pytest.mark.usefixtures("folder")
class TestTooMany:
    def test_are_refused(self) -> None:
        """
        Of more than a million records nothing is said but that; none is looked at twice, and a question may take ten minutes.
        """
        monitor = Monitor()
        monitor.log(20, "first")
        monitor.log(20, "again")
        later, last = monitor.query.records()
        endless = Endless(last, later)
        Path("contract.toml").write_text('[[contract]]\noperation = "a"')
        files = [read_checks(Path("contract.toml"))]

        with pytest.raises(QueryError) as caught:
            list(run_checks(files, lambda: nullcontext(cast("Query", endless)), "30d"))

        assert str(caught.value) == str(
            QueryError("range", "there are more than 1,000,000 records in it; ask for a shorter one")
        )
        assert endless.asked == [("30d", None), *[("30d", last.cursor)] * 99]
        assert endless.patience == 600


def trace_of(monitor: Monitor) -> str:
    """The id of the last call."""
    return monitor.query.records(limit=1)[0].correlation_id


class TestOrder:
    def test_is_by_kind_and_then_by_file(self, folder: Path) -> None:
        """
        Rules of all files come first, then contracts, then what is measured; each outcome says where it stands.
        """
        whole = CHECKS + CONTRACT + CONTRACT.replace("orders.place", "orders.lose") + PERFORMANCE
        (folder / "one.toml").write_text(whole)
        (folder / "two.toml").write_text(CHECKS + CHECKS.partition('ALL"')[2] + PERFORMANCE + PERFORMANCE)
        (folder / "three.toml").write_text(CONTRACT)
        opened: list[str] = []

        @contextmanager
        def store() -> Iterator[Query]:
            opened.append("opened")
            yield Monitor().query
            opened.append("closed")

        files = [read_checks(folder / f"{name}.toml") for name in ("one", "two", "three")]
        outcomes = list(run_checks(files, store, "1h"))

        assert [(each.kind, each.name, Path(each.file).stem, each.line) for each in outcomes] == [
            ("rule_test", "a rush", "one", 4),
            ("rule_test", "a rush", "two", 4),
            ("rule_test", "a rush", "two", 39),
            ("contract", "orders.place", "one", 38),
            ("contract", "orders.lose", "one", 45),
            ("contract", "orders.place", "three", 2),
            ("performance", "placing", "one", 52),
            ("performance", "placing", "two", 73),
            ("performance", "placing", "two", 79),
        ]
        assert [len(each.problems) for each in outcomes] == [0, 0, 0, 1, 1, 1, 1, 1, 1]
        assert all(0 < each.seconds < 60 for each in outcomes)
        assert opened == ["opened", "closed"]

    def test_opens_no_store_that_nobody_needs(self, folder: Path) -> None:
        """
        Without a contract there is nothing to look for in one.
        """
        (folder / "one.toml").write_text(CHECKS + PERFORMANCE)

        def store() -> AbstractContextManager[Query]:
            raise AssertionError("nobody needs it")

        assert [each.kind for each in run_checks([read_checks(folder / "one.toml")], store, "1h")] == [
            "rule_test",
            "performance",
        ]
        assert list(run_checks([], store, "1h")) == []

    def test_takes_the_range_from_the_command(self, store: Path) -> None:
        """
        How far back contracts look is told with what was not found.
        """
        content = CONTRACT.replace("orders.place", "orders.cancel")

        assert problems(check(content, "--directory", store, "--range", "5m")) == [
            (3, "'orders.cancel' was not called within 5m; record a run that does, or look further back")
        ]


# --- performance ----------------------------------------------------------------------------------------------------


async def sum_later() -> int:
    return sum(range(100))


async def measured_later() -> None:
    """Measure it, so that it has a baseline."""
    await record_baseline(sum_later, "placing", "baselines.json", max_seconds=0.2)


@pytest.mark.usefixtures("folder")
class TestPerformance:
    @pytest.mark.parametrize(("by", "slower"), [("", True), ("by = 0.10", True), ("by = 50000.0", False)])
    def test_that_is_slower_is_told(self, by: str, slower: bool) -> None:
        """
        A function that takes a thousand times as long as it took fails, unless that much is allowed; a tenth is without a word.
        """
        record_baseline(lambda: None, "placing", "baselines.json", max_seconds=0.1)
        Path("own_rules.py").write_text("def sums():\n    return sum(range(5_000))\n")

        answer = check(PERFORMANCE.replace("by = 5.0", by).replace("shop_rules:quick", "own_rules:sums"))

        assert answer.status == (1 if slower else 0)
        assert [line for line, _ in problems(answer)] == ([5] if slower else [])
        if slower:
            assert problems(answer)[0][1].startswith("baseline 'placing': a call takes ")
            assert "its baseline, allowed are 1.1×\n" in problems(answer)[0][1]

    def test_baseline_is_beside_the_file(self, folder: Path) -> None:
        """
        Its name is read from where the file of checks is, wherever the command is called.
        """
        (folder / "checks").mkdir()
        (folder / "checks" / "checks.toml").write_text(PERFORMANCE)
        record_baseline(lambda: sum(range(100)), "placing", "checks/baselines.json", max_seconds=0.1)

        assert rfs("check", "checks/checks.toml").status == 0

    def test_that_raises_fails_alone(self) -> None:
        """
        What a function raises is told at the check, and the next one goes on.
        """
        record_baseline(lambda: sum(range(100)), "placing", "baselines.json", max_seconds=0.1)

        slower = PERFORMANCE.replace("shop_rules:quick", "shop_rules:slower")
        answer = check(slower + PERFORMANCE + slower)

        text = "cannot be measured: ZeroDivisionError: division by zero"
        assert problems(answer) == [(2, text), (14, text)]
        assert [each["passed"] for each in answer.objects] == [False, True, False]

    @pytest.mark.parametrize("function", ["quick", "quick_too"])
    def test_without_a_baseline_fails(self, function: str) -> None:
        """
        A function, async or not, that was never measured has nothing to be held against.
        """
        answer = check(PERFORMANCE.replace("quick", function))

        assert answer.status == 1
        assert [line for line, _ in problems(answer)] == [5]
        assert problems(answer)[0][1].startswith("no baseline 'placing' for ")

    @pytest.mark.parametrize("function", ["quick", "quick_too"])
    def test_with_a_baseline_passes(self, function: str) -> None:
        """
        A function that is what it was is as quick as it was, async or not.
        """
        if function == "quick":
            record_baseline(lambda: sum(range(100)), "placing", "baselines.json", max_seconds=0.2)
        else:
            asyncio.run(measured_later())

        answer = check(PERFORMANCE.replace("quick", function))

        assert answer.status == 0, answer.text

    def test_that_is_slower_is_told_when_it_is_async_as_well(self) -> None:
        """
        What a coroutine has measured is waited for.
        """
        asyncio.run(measured_later())
        Path("own_rules.py").write_text("async def sums():\n    return sum(range(50_000))\n")

        answer = check(PERFORMANCE.replace("shop_rules:quick", "own_rules:sums"))

        assert [line for line, _ in problems(answer)] == [5]
        assert "its baseline, allowed are 6×\n" in problems(answer)[0][1]

    def test_that_cannot_be_measured_fails(self) -> None:
        """
        A baseline that cannot be read, or a function that raises, fails its check and no other.
        """
        Path("baselines.json").write_text("{")

        answer = check(PERFORMANCE)

        assert answer.status == 1
        assert problems(answer)[0][0] == 2
        assert problems(answer)[0][1].startswith(
            "cannot be measured: ValueError: baselines: baselines.json holds something else: "
        )


# --- what others read -----------------------------------------------------------------------------------------------


class TestJunit:
    def test_reads_as_it_is_to_read(self) -> None:
        """
        Each check is a test case with its place and its time; the failure has the first problem, and below it all of them.
        """
        outcomes = [
            Outcome("contract", "주문 <1>", "a&b.toml", 3, 0.25, (Problem(4, "one\x00"), Problem(5, "둘\nthree"))),
            Outcome("rule_test", "well", "checks.toml", 9, 1.0625, ()),
        ]

        assert (
            junit(outcomes).decode()
            == """<?xml version='1.0' encoding='utf-8'?>
<testsuites name="rfs check" tests="2" failures="1" errors="0" time="1.312">
  <testsuite name="rfs check" tests="2" failures="1" errors="0" time="1.312">
    <testcase classname="contract" name="주문 &lt;1&gt;" file="a&amp;b.toml" line="3" time="0.250">
      <failure message="one\ufffd">a&amp;b.toml:4: one\ufffd
a&amp;b.toml:5: 둘
three</failure>
    </testcase>
    <testcase classname="rule_test" name="well" file="checks.toml" line="9" time="1.062" />
  </testsuite>
</testsuites>
"""
        )

    def test_of_nothing_is_one_as_well(self) -> None:
        """
        Without checks the suite is empty.
        """
        assert ET.fromstring(junit([])).attrib == {
            "name": "rfs check", "tests": "0", "failures": "0", "errors": "0", "time": "0.000",
        }  # fmt: skip

    @given(st.text(), st.text())
    def test_can_be_read_whatever_was_said(self, name: str, text: str) -> None:
        """
        Any name and any text give XML that a parser takes.
        """
        outcomes = [
            Outcome("contract", name, "checks.toml", 3, 0.25, (Problem(4, text),)),
            Outcome("rule_test", "well", "checks.toml", 9, 0.5, ()),
        ]

        root = ET.fromstring(junit(outcomes))

        assert root.attrib == {"name": "rfs check", "tests": "2", "failures": "1", "errors": "0", "time": "0.750"}
        cases = list(root.iter("testcase"))
        assert [len(case.findall("failure")) for case in cases] == [1, 0]
        assert cases[0].attrib["line"] == "3"

    @pytest.mark.usefixtures("folder")
    def test_is_written_where_it_is_asked_for(self) -> None:
        """
        The file says of each check whether it failed, and why.
        """
        check(CHECKS.replace('firing = ["slow"]', "firing = []"), "--junit", "checks.xml")

        failure = ET.parse("checks.xml").getroot().find("testsuite/testcase[@name='a rush']/failure")
        assert failure is not None
        assert (failure.text or "").startswith("checks.toml:35: at 2m 'slow' should not fire")


class TestAnnotations:
    def test_escape_what_would_end_them(self) -> None:
        """
        Percent signs and line breaks everywhere, colons and commas in the properties alone; no line is the first one.
        """
        assert annotation_lines(
            "a:b,c%.toml", [Problem(0, "50%, a: b\r\nc"), Problem(1, "둘"), Problem(7, "")], "x, y: z"
        ) == [
            "::error file=a%3Ab%2Cc%25.toml,line=1,title=x%2C y%3A z::50%25, a: b%0D%0Ac",
            "::error file=a%3Ab%2Cc%25.toml,line=1,title=x%2C y%3A z::둘",
            "::error file=a%3Ab%2Cc%25.toml,line=7,title=x%2C y%3A z::",
        ]
        assert annotation_lines("a", [], "b") == []

    @given(st.text(), st.text(), st.text())
    def test_are_one_line_each(self, file: str, text: str, title: str) -> None:
        """
        No text breaks out of its line, or of its property.
        """
        (line,) = annotation_lines(file, [Problem(0, text)], title)

        assert not re.search("[\r\n]", line)
        properties, _, message = line.removeprefix("::error ").partition("::")
        assert [each.partition("=")[0] for each in properties.split(",")] == ["file", "line", "title"]
        assert message.replace("%0A", "\n").replace("%0D", "\r").replace("%25", "%") == text

    @pytest.mark.usefixtures("folder")
    def test_are_beside_the_answer(self) -> None:
        """
        They are on standard error, so that standard output is JSON lines and nothing else.
        """
        answer = check(CHECKS.replace('firing = ["slow"]', "firing = []"), "--annotations")

        assert len(answer.objects) == 1
        assert answer.errors.startswith("::error file=checks.toml,line=35,title=rule_test a rush::at 2m 'slow' should ")


class TestTerminal:
    def test_shows_a_table(self, folder: Path) -> None:
        """
        A person sees each check with a mark, and what is wrong below it with its file and line.
        """
        broken = CHECKS.replace("a rush", "손님이 몰릴 때").replace('firing = ["slow"]', "firing = []")
        (folder / "broken.toml").write_text(broken, encoding="utf-8")
        (folder / "well.toml").write_text(CHECKS)

        with Terminal("check", folder / "well.toml", folder / "broken.toml", columns=200) as terminal:
            status = terminal.wait()
            lines = terminal.lines

        assert status == 1
        assert lines[0].split()[:4] == ["✓", "rule_test", "a", "rush"]
        assert lines[1].split()[:5] == ["✗", "rule_test", "손님이", "몰릴", "때"]
        assert "broken.toml:35:at2m'slow'shouldnotfire" in re.sub(r"\s", "", "".join(lines))
        assert lines[-1] == "1 passed, 1 failed"


class TestPage:
    def test_example_passes(self, folder: Path) -> None:
        """
        The page's rules and its contract hold for what the page's service records.
        """
        service, checks = [each.code for each in snippets(PAGE)][:2]
        (folder / "shop.py").write_text(service)
        monitor = Monitor(directory=folder / "state")
        with use_monitor(monitor):
            import_module("shop")  # its last line takes the orders
        monitor.stop()

        answer = check(checks, "--directory", folder / "state")

        assert (answer.status, answer.errors) == (0, "")
        assert [each["name"] for each in answer.objects] == ["a burst of failures", "orders.place"]
