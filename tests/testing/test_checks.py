"""``rfs check``: tests of alert rules, telemetry contracts and baselines, from the file to what a person and a code host see."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rfs.monitoring as recording
from rfs.core.result import Failure, Result, Success
from rfs.monitoring.monitor import Monitor, use_monitor
from rfs.testing.checks import Outcome, Problem, annotation_lines, expand, junit
from rfs.testing.performance import record_baseline
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
told = []


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
    for name in ("shop", "shop_rules"):
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


# Each with what is written instead of what, the line that is named, and how the fault begins.
FAULTS = [
    ('rules = "shop_rules:ALL"', "", 4, 'rules are missing; say where they are: rules = "shop.alerts:RULES"'),
    ("shop_rules:ALL", "shop_rules", 2, "rules: 'shop_rules' is no module:name, as shop.orders:place is one"),
    (
        "shop_rules:ALL",
        "nowhere:ALL",
        2,
        "rules: nowhere:ALL cannot be imported: ModuleNotFoundError: No module named 'nowhere'; run this where nowhere is",
    ),
    ("shop_rules:ALL", "shop_rules:NONE", 2, "rules: shop_rules:NONE cannot be imported: AttributeError: "),
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
        "rules: shop_rules:broken() has raised AlertRuleError: alert rule 'x': condition: must be one of ",
    ),
    ("name =", "title =", 5, "there is no 'title' here; there are name, series, expect, interval"),
    ('name = "a rush"', "", 4, "'name' is missing"),
    ('"a rush"', "5", 5, "name: expected str, got int"),
    (
        "[[rule_test.expect]]",
        "[[rule_test.expected]]",
        24,
        "there is no 'expected' here; there are name, series, expect",
    ),
    ('"gauge"', '"guage"', 16, "type: 'guage' is none; write counter, gauge or histogram"),
    ('"10s"', "10s", 6, "is no TOML: "),
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
    ('"orders_waiting"', '"result_failure_total"', 15, "metric: metric 'result_failure_total': "),
]


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
        assert answer.errors.startswith(f"rfs: checks.toml:{line}: {fault}")
        assert answer.errors.count("\n") == 1

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
        ],
    )
    def test_of_other_kinds_is_told_too(self, content: str, fault: str) -> None:
        """
        Whatever the check is, its fault has its line.
        """
        answer = check(content)

        assert (answer.status, answer.text, answer.errors) == (2, "", f"rfs: {fault}\n")

    def test_a_file_that_cannot_be_read_is_told(self) -> None:
        """
        So is one that is not there, or no text.
        """
        Path("binary.toml").write_bytes(b"\xff\xfe")

        assert rfs("check", "none.toml").errors == "rfs: none.toml: cannot be read: No such file or directory\n"
        assert rfs("check", "binary.toml").errors == "rfs: binary.toml: is no text in UTF-8; write it anew\n"

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


# --- performance ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("folder")
class TestPerformance:
    @pytest.mark.parametrize("function", ["quick", "quick_too"])
    def test_without_a_baseline_fails(self, function: str) -> None:
        """
        A function, async or not, that was never measured has nothing to be held against.
        """
        answer = check(PERFORMANCE.replace("quick", function))

        assert answer.status == 1
        assert [line for line, _ in problems(answer)] == [5]
        assert problems(answer)[0][1].startswith("no baseline 'placing' for ")

    def test_with_a_baseline_passes(self) -> None:
        """
        A function that is what it was is as quick as it was.
        """
        record_baseline(lambda: sum(range(100)), "placing", "baselines.json", max_seconds=0.2)

        answer = check(PERFORMANCE)

        assert answer.status == 0, answer.text

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
