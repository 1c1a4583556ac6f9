"""The pytest plugin as pytest runs it, and what `telemetry` asserts."""

from __future__ import annotations

import asyncio
import runpy
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import respx  # noqa: F401 - known before pytester notes which modules there are
from dirty_equals import IsInt, IsOneOf, IsStr
from polyfactory import pytest_plugin  # noqa: F401 - likewise

from rfs.core.result import Failure, Result, Success
from rfs.errors import MaskingError
from rfs.monitoring import (
    AlertCondition,
    CorrelationContext,
    Rule,
    collect_metric,
    default_monitor,
    error,
    get_correlation_id,
    info,
    log_result_operation,
)
from rfs.reactive import MonoResult
from rfs.testing import fixtures, result_helpers, virtual_time  # noqa: F401 - likewise
from rfs.testing._snapshots import Snapshots
from rfs.testing._telemetry import CountedIds, SteppingClock, Telemetry
from rfs.web.fastapi import errors  # noqa: F401 - likewise
from tests.docs.snippets import ROOT, snippets

pytest_plugins = ["pytester"]

PLUGIN = () if entry_points(group="pytest11", name="rfs") else ("-p", "rfs.testing.fixtures")


@log_result_operation("kitchen.cook")
def cook(dish: str) -> Result[str, str]:
    info("Cooking", dish=dish)
    return Success("done") if dish == "bulgogi" else Failure("OUT_OF_RICE")


@log_result_operation("kitchen.burn")
def burn() -> Result[str, str]:
    raise ZeroDivisionError("no rice")


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with Telemetry() as made:
        yield made


def message_of(assertion: Callable[..., object], *args: Any, **kwargs: Any) -> str:
    """What the assertion, which must fail, says."""
    with pytest.raises(AssertionError) as raised:
        assertion(*args, **kwargs)
    return str(raised.value)


ALL_RECORDS = """all records:
    1 INFO     'Operation started' operation_start of kitchen.cook {'dish': 'bulgogi'}
    2 INFO     'Cooking' log of kitchen.cook {'dish': 'bulgogi'}
    3 INFO     'Operation completed' operation of kitchen.cook {'result_type': 'str', 'result_size': 4}
    4 INFO     'Operation started' operation_start of kitchen.cook {'dish': 'bibimbap'}
    5 INFO     'Cooking' log of kitchen.cook {'dish': 'bibimbap'}
    6 ERROR    'Operation failed' operation of kitchen.cook UNKNOWN: OUT_OF_RICE {'code.function.name': 'FILE.cook'}
    7 INFO     '다음 손님을 부른다' log"""
ALL_SPANS = """all spans:
    1 operation kitchen.cook ok 2 ms
    2 operation kitchen.cook failed UNKNOWN 2 ms"""
ALL_METRICS = """measured:
  guests 3
  operations_active{operation="kitchen.cook"} 0
  result_duration_ms{operation="kitchen.cook"} count=2 sum=4 min=2 max=2 mean=2 p50=2 p95=2 p99=2
  result_error_by_type_total{error_code="UNKNOWN",error_type="str",operation="kitchen.cook"} 1
  result_failure_total{operation="kitchen.cook"} 1
  result_success_total{operation="kitchen.cook"} 1
  waiting{hall="1",table="7"} 1234567
  waiting{table="8"} 0.333333"""
WAITING = """measured:
  waiting{hall="1",table="7"} 1234567
  waiting{table="8"} 0.333333"""
DURATION = """measured:
  result_duration_ms{operation="kitchen.cook"} count=2 sum=4 min=2 max=2 mean=2 p50=2 p95=2 p99=2"""
HEALTH = """all of it:
  status: 'degraded'
  mode: 'memory'
  degraded: ''
  internal_errors: 0
  rejected: 1.0
  dropped: 0
  problems: ["RFS-E131 metric '1a': rejected (invalid_name)"]"""

# What is asserted of a kitchen, and what is said of it, to the last word.
SAID: list[tuple[str, tuple[Any, ...], dict[str, Any], str]] = [
    (
        "assert_record",
        (),
        {"message": "Cooking", "dish": "x", "nested": {"a": [1]}},
        (
            "no record has message='Cooking', dish='x', nested={'a': [1]}; nearest is record 2:\n"
            "  ['dish']: expected 'x', got 'bulgogi'\n"
            f"  ['nested']: expected {{'a': [1]}}, got '<absent>'\n{ALL_RECORDS}"
        ),
    ),
    (
        "assert_record",
        (),
        {"message": "Cooking", "level": "ERROR", "error": {"code": "UNKNOWN", "message": "x"}},
        (
            "no record has message='Cooking', level='ERROR', error={'code': 'UNKNOWN', 'message': 'x'}; nearest is record 2:\n"
            "  ['level']: expected 'ERROR', got 'INFO'\n"
            f"  ['error']: expected {{'code': 'UNKNOWN', 'message': 'x'}}, got None\n{ALL_RECORDS}"
        ),
    ),
    (
        "assert_records",
        ({"message": "Cooking"}, {"message": "Operation started"}),
        {"operation": "kitchen.cook", "dish": "bulgogi"},
        (
            "the records with operation='kitchen.cook', dish='bulgogi' are not these 2, there are 2:\n"
            "  [0]['message']: expected 'Cooking', got 'Operation started'\n"
            f"  [1]['message']: expected 'Operation started', got 'Cooking'\n{ALL_RECORDS}"
        ),
    ),
    (
        "assert_records",
        ({"dish": "bulgogi"},),
        {"message": "Cooking"},
        (
            "the records with message='Cooking' are not these 1, there are 2:\n"
            "  [1]: not expected, got \"INFO     'Cooking' log of kitchen.cook {'dish': 'bibimbap'}\"\n"
            f"{ALL_RECORDS}"
        ),
    ),
    (
        "assert_records",
        ({"dish": "bulgogi"}, {"dish": "bibimbap"}, {"dish": "none"}),
        {"message": "Cooking"},
        (
            "the records with message='Cooking' are not these 3, there are 2:\n"
            f"  [2]: expected {{'dish': 'none'}}, missing\n{ALL_RECORDS}"
        ),
    ),
    (
        "assert_records",
        ({"dish": "bulgogi"},),
        {"message": "x"},
        (
            "the records with message='x' are not these 1, there are 0:\n"
            f"  [0]: expected {{'dish': 'bulgogi'}}, missing\n{ALL_RECORDS}"
        ),
    ),
    (
        "assert_records",
        (),
        {"context": {}, "kind": "log", "operation": ""},
        (
            "the records with context={}, kind='log', operation='' are not these 0, there are 1:\n"
            f"  [0]: not expected, got \"INFO     '다음 손님을 부른다' log\"\n{ALL_RECORDS}"
        ),
    ),
    (
        "assert_no_record",
        (),
        {"operation": "kitchen.cook", "message": "Cooking"},
        "there is record 2 with operation='kitchen.cook', message='Cooking':\n"
        + ALL_RECORDS.replace("    2 ", ">   2 ").replace("    5 ", ">   5 "),
    ),
    (
        "assert_span",
        (),
        {"operation": "kitchen.cook", "outcome": "gone", "children": [{"operation": "x"}], "x": 1},
        (
            "no span has operation='kitchen.cook', outcome='gone', children=[{'operation': 'x'}], x=1; nearest is span 1:\n"
            "  ['outcome']: expected 'gone', got 'ok'\n"
            "  ['children'][0]: expected {'operation': 'x'}, missing\n"
            f"  ['x']: expected 1, got '<absent>'\n{ALL_SPANS}"
        ),
    ),
    (
        "assert_span",
        (),
        {"outcome": "failed", "error": {"code": "BUSY", "type": "str"}},
        (
            "no span has outcome='failed', error={'code': 'BUSY', 'type': 'str'}; nearest is span 2:\n"
            f"  ['error']['code']: expected 'BUSY', got 'UNKNOWN'\n{ALL_SPANS}"
        ),
    ),
    (
        "assert_span",
        (),
        {"operation": "kitchen.cook", "records": [{"message": "Operation started"}]},
        (
            "no span has operation='kitchen.cook', records=[{'message': 'Operation started'}]; nearest is span 1:\n"
            "  ['records'][1]: not expected, got \"INFO     'Cooking' log of kitchen.cook {'dish': 'bulgogi'}\"\n"
            "  ['records'][2]: not expected, got \"INFO     'Operation completed' operation of kitchen.cook "
            f"{{'result_type': 'str', 'result_size': 4}}\"\n{ALL_SPANS}"
        ),
    ),
    (
        "assert_no_span",
        (),
        {"operation": "kitchen.cook"},
        "there is span 1 with operation='kitchen.cook':\n"
        + ALL_SPANS.replace("    1 ", ">   1 ").replace("    2 ", ">   2 "),
    ),
    (
        "assert_metric",
        ("result_duration_ms", {"count": 7, "p50": 3, "p0": 1}),
        {},
        (
            "metric 'result_duration_ms' is not as expected:\n"
            "  ['count']: expected 7, got 2\n"
            "  ['p50']: expected 3, got 2.0\n"
            f"  ['p0']: expected 1, got '<absent>'\n{DURATION}"
        ),
    ),
    (
        "assert_metric",
        ("result_duration_ms", 3),
        {},
        (
            "metric 'result_duration_ms' is {'count': 2, 'sum': 4.0, 'min': 2.0, 'max': 2.0, 'mean': 2.0, 'p50': 2.0, 'p95': 2.0, "
            f"'p99': 2.0}}, not 3\n{DURATION}"
        ),
    ),
    ("assert_metric", ("waiting", 4), {"hall": "1"}, f"metric 'waiting' with hall='1' is 1234567, not 4\n{WAITING}"),
    ("assert_metric", ("waiting", None), {}, f"metric 'waiting' is 0.333333, not None\n{WAITING}"),
    (
        "assert_metric",
        ("waiting", 4),
        {"table": "9", "hall": "1"},
        f"metric 'waiting' with table='9', hall='1' was not measured\n{WAITING}",
    ),
    (
        "assert_metric",
        ("waitin",),
        {"table": "9"},
        f"metric 'waitin' with table='9' was not measured; did you mean 'waiting'?\n{ALL_METRICS}",
    ),
    ("assert_metric", ("zzz", 1), {}, f"metric 'zzz' was not measured\n{ALL_METRICS}"),
    (
        "assert_metric",
        ("rfs_rejected_total", 2),
        {},
        f"metric 'rfs_rejected_total' is 1, not 2\n{ALL_METRICS}",
    ),
    (
        "assert_health",
        (),
        {},
        f"health is not as expected:\n  ['status']: expected 'ok', got 'degraded'\n{HEALTH}",
    ),
    (
        "assert_health",
        (),
        {"rejected": 2, "mode": "memory", "dropped": 1, "lost": 0},
        (
            "health is not as expected:\n"
            "  ['rejected']: expected 2, got 1.0\n"
            "  ['dropped']: expected 1, got 0\n"
            f"  ['lost']: expected 0, got '<absent>'\n{HEALTH}"
        ),
    ),
    (
        "assert_no_secret",
        ("bulgogi", "다음 손님을 부른다"),
        {},
        (
            "3 secrets recorded, masked here:\n"
            "  record 1 ('Operation started') context.dish: [masked:secret]\n"
            "  record 2 ('Cooking') context.dish: [masked:secret]\n"
            "  record 7 ('다음 손님을 부른다') message: [masked:secret]"
        ),
    ),
    ("assert_alert", ("queue",), {"x": 1}, "no alert has rule_name='queue', event='fire', x=1: there is none at all"),
]


class TestMessages:
    @pytest.mark.parametrize(("assertion", "asked", "named", "said"), SAID)
    def test_say_all_that_there_is_to_say(
        self,
        telemetry: Telemetry,
        capsys: pytest.CaptureFixture[str],
        assertion: str,
        asked: tuple[Any, ...],
        named: dict[str, Any],
        said: str,
    ) -> None:
        """
        Word by word: what was asked for, what is nearest to it and in what it differs, and all that there is.
        """
        cook("bulgogi")
        cook("bibimbap").is_failure()
        info("다음 손님을 부른다")
        collect_metric("waiting", 1234567, labels={"table": "7", "hall": "1"})
        collect_metric("waiting", 1 / 3, labels={"table": "8"})
        collect_metric("guests", 3)
        collect_metric("1a", 1)
        capsys.readouterr()

        text = message_of(getattr(telemetry, assertion), *asked, **named)

        assert text.replace(f"'{__name__}.cook'", "'FILE.cook'") == said

    @pytest.mark.parametrize(("number", "left_out"), [(19, 0), (20, 0), (21, 1), (120, 100)])
    def test_show_the_last_twenty(self, telemetry: Telemetry, number: int, left_out: int) -> None:
        """
        Of more records, spans or series so many are left out, which is said of what is listed.
        """
        for each in range(1, number + 1):
            info("again", number=each)
            collect_metric("visits", each, labels={"user": f"{each:03}"})

        lines = message_of(telemetry.assert_record, message="x").splitlines()
        at = lines.index("all records:")
        first = left_out + 1
        assert lines[at + 1 :] == [
            *([f"  … {left_out} before"] if left_out else []),
            *(f"  {each:>3} INFO     'again' log {{'number': {each}}}" for each in range(first, number + 1)),
        ]
        marked = message_of(telemetry.assert_no_record, number=number).splitlines()
        assert marked[0] == f"there is record {number} with number={number}:"
        assert marked[-1] == f"> {number:>3} INFO     'again' log {{'number': {number}}}"
        assert marked[-2].startswith("  ")
        assert message_of(telemetry.assert_metric, "visits", 0).splitlines()[2:] == [
            f'  visits{{user="{each:03}"}} {each}' for each in range(1, min(number, 20) + 1)
        ]

    def test_of_what_still_runs(self, telemetry: Telemetry) -> None:
        """
        A span that has not ended has no outcome and no duration.
        """

        @log_result_operation("table.serve")
        def serve() -> Result[str, str]:
            said.append(message_of(telemetry.assert_span, operation="table.clear"))
            telemetry.assert_span(operation="table.serve", duration_ms=None, outcome="", error=None)
            return cook("bulgogi")

        said: list[str] = []
        serve()

        assert said == [
            (
                "no span has operation='table.clear'; nearest is span 1:\n"
                "  ['operation']: expected 'table.clear', got 'table.serve'\n"
                "all spans:\n"
                "    1 operation table.serve still running"
            )
        ]

    def test_of_steps_and_errors(self, telemetry: Telemetry) -> None:
        """
        A record of a step is told with its operation and its step, one of an error with its code.
        """

        @log_result_operation("table.serve")
        async def serve() -> Result[int, str]:
            return await MonoResult.from_result(Success(1)).log_step("laid").to_result()

        asyncio.run(serve())
        error("it broke", exception=ValueError("rice"))

        lines = message_of(telemetry.assert_record, message="x").splitlines()

        assert lines[-2].startswith("    3 INFO     'Operation completed' operation of table.serve {")
        assert lines[-3].startswith("    2 INFO     'Step completed' step of table.serve laid {")
        assert lines[-1] == "    4 ERROR    'it broke' log ValueError: rice"

    def test_of_lists_and_of_what_is_in_them(self) -> None:
        """
        Each part of a list is compared, and one that is too much is shown as it is; a text is no list.
        """
        with Telemetry() as telemetry:
            info("Paid", notes=["none", "two"], parts=[{"dish": "rice", "price": 1}], who="민서")

        telemetry.assert_record(notes=["none", "two"], parts=[{"dish": "rice"}])
        telemetry.assert_record(notes=("none", IsStr), parts=({"price": 1},))
        telemetry.assert_no_record(notes=["none"])
        telemetry.assert_no_record(notes=["two", "none"])
        telemetry.assert_no_record(who=["민", "서"])
        telemetry.assert_no_record(notes={"none": 1})
        assert message_of(telemetry.assert_record, notes=["none"], parts=[{"dish": "soup"}, {}], who=["민", "서"]) == (
            "no record has notes=['none'], parts=[{'dish': 'soup'}, {}], who=['민', '서']; nearest is record 1:\n"
            "  ['notes'][1]: not expected, got \"'two'\"\n"
            "  ['parts'][0]['dish']: expected 'soup', got 'rice'\n"
            "  ['parts'][1]: expected {}, missing\n"
            "  ['who']: expected ['민', '서'], got '민서'\n"
            "all records:\n"
            "    1 INFO     'Paid' log {'notes': ['none', 'two'], 'parts': [{'dish': 'rice', 'price': 1}], 'who': '민서'}"
        )

    def test_of_series_and_secrets_that_are_many(self, telemetry: Telemetry) -> None:
        """
        Of more than twenty the first twenty are shown, and all are counted.
        """

        def visit() -> None:
            with telemetry.no_new_series():
                for each in range(1, 22):
                    collect_metric("visits", each, labels={"user": f"user-{each:03}", "hall": "1"})
                collect_metric("guests", 1)

        assert message_of(visit).splitlines() == [
            "22 new series:",
            *(f'  visits{{hall="1",user="user-{each:03}"}}' for each in range(1, 21)),
        ]
        for each in range(1, 22):
            info("hello", note=f"open-sesame {each}")
        assert message_of(telemetry.assert_no_secret, "open-sesame").splitlines() == [
            "21 secrets recorded, masked here:",
            *(f"  record {each} ('hello') context.note: [masked:secret] {each}" for each in range(1, 21)),
        ]

    def test_of_alerts(self, telemetry: Telemetry) -> None:
        """
        An alert is told as it is to people.
        """
        telemetry.monitor.alerts.set_rule(Rule("queue", "waiting", AlertCondition.GREATER_THAN, 20))
        collect_metric("waiting", 30)
        telemetry.advance(1)

        (alert,) = telemetry.alerts
        assert message_of(telemetry.assert_alert, "queue", current_value=31, rule={"threshold": 5}) == (
            "no alert has rule_name='queue', event='fire', current_value=31, rule={'threshold': 5}; nearest is alert 1:\n"
            "  ['current_value']: expected 31, got 30.0\n"
            "  ['rule']['threshold']: expected 5, got 20.0\n"
            f"all alerts:\n    1 {alert.message}"
        )
        assert message_of(telemetry.assert_no_alert, rule_name="queue") == (
            f"there is alert 1 with event='fire', rule_name='queue':\nall alerts:\n>   1 {alert.message}"
        )
        telemetry.assert_no_alert(rule_name="other")
        telemetry.assert_alert("queue", IsOneOf("fire"), current_value=30)

    @pytest.mark.parametrize(
        "assertion", ["assert_record", "assert_span", "assert_records", "assert_no_span", "assert_alert"]
    )
    def test_end_in_the_test(self, telemetry: Telemetry, assertion: str) -> None:
        """
        A traceback shows the test's own line last.
        """
        cook("bulgogi")
        asked = ("queue",) if assertion == "assert_alert" else ()
        named = {"kind": "operation"} if assertion in ("assert_records", "assert_no_span") else {"rule": "x"}

        with pytest.raises(AssertionError) as caught:
            getattr(telemetry, assertion)(*asked, **named)

        assert [each.frame.code.name for each in caught.traceback.filter(caught)] == ["test_end_in_the_test"]


class TestIsolation:
    def test_is_the_default_monitor_and_no_longer(self, telemetry: Telemetry) -> None:
        """
        Inside, what is recorded anywhere comes to the test's own Monitor; afterwards the one before is back.
        """
        inside = default_monitor()

        with Telemetry() as inner:
            info("inner")

        assert inside is telemetry.monitor
        assert (inside.service_name, inside.capture_state.mode) == ("test", "memory")
        assert default_monitor() is telemetry.monitor
        assert [record.message for record in inner.records] == ["inner"]
        assert telemetry.records == []

    def test_forgets_the_context_it_was_made_in(self) -> None:
        """
        A correlation id that is current outside is on no record of the test, and is current again afterwards.
        """
        with CorrelationContext("outside"):
            with Telemetry() as telemetry:
                info("inside")

            assert get_correlation_id() == "outside"
            telemetry.assert_record(message="inside", correlation_id="")
            with Telemetry() as again:
                pass
            assert again.records == []

    def test_sees_threads_and_tasks(self, telemetry: Telemetry) -> None:
        """
        Records of threads and of concurrent tasks are all there, each under its own span.
        """

        async def both() -> None:
            await asyncio.gather(*(asyncio.to_thread(cook, "bulgogi") for _ in range(3)))

        asyncio.run(both())
        threads = [threading.Thread(target=cook, args=("bulgogi",)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len({span.span_id for span in telemetry.spans}) == 6
        telemetry.assert_metric("result_success_total", 6)

    def test_keeps_every_record_of_a_loop(self, telemetry: Telemetry) -> None:
        """
        No call site is a storm here, though hardly any time passes.
        """
        telemetry.monitor.level = 20

        for number in range(300):
            info("again", number=number)

        assert [record.context["number"] for record in telemetry.records] == list(range(300))

    def test_keeps_every_record_of_an_instant(self) -> None:
        """
        Nor where the clock stands still, however many there are.
        """
        with Telemetry(clock=virtual_time.VirtualTime()) as telemetry:
            for _ in range(20_001):
                info("again")

        assert len(telemetry.records) == 20_001


class TestClockAndIds:
    def test_each_record_has_an_instant_of_its_own(self, telemetry: Telemetry) -> None:
        """
        No two records are of one instant, and both their times and what an operation took are those of each run.
        """
        cook("bulgogi")
        with Telemetry() as again:
            cook("bulgogi")

        times = [record.timestamp for record in telemetry.records]
        assert times == sorted(set(times)) == [record.timestamp for record in again.records]
        assert telemetry.assert_span(operation="kitchen.cook").duration_ms == again.spans[0].duration_ms == 2.0

    def test_steps_with_the_wall_clock_alone(self) -> None:
        """
        The monotonic clock shows the same time, and reading it moves nothing.
        """
        clock = SteppingClock()

        before = clock.monotonic()
        clock.time_ns()
        clock.advance(60)

        assert clock.monotonic() == clock.monotonic() == pytest.approx(before + 60.001)

    def test_begin_where_every_test_begins(self) -> None:
        """
        At the same time each day of the year 2027, or when it is told; each reading of the wall clock is a millisecond later.
        """
        clock, later = SteppingClock(), SteppingClock(1.5)

        assert [clock.time_ns(), clock.time_ns()] == [1_800_000_000_001_000_000, 1_800_000_000_002_000_000]
        assert clock.monotonic() == 0.002
        clock.advance(100.25)
        assert (later.time_ns(), later.monotonic(), clock.monotonic()) == (1_501_000_000, 0.001, 100.252)
        assert Telemetry().clock.monotonic() == 0

    def test_ids_have_their_lengths(self) -> None:
        """
        Traces and spans are counted apart, from 1 on, in hexadecimal.
        """
        ids = CountedIds()
        spans = [ids.span_id() for _ in range(16)]

        assert (ids.trace_id(), ids.trace_id()) == (f"{'1':0>32}", f"{'2':0>32}")
        assert (spans[0], spans[9], spans[15]) == (f"{'1':0>16}", f"{'a':0>16}", f"{'10':0>16}")

    @pytest.mark.parametrize("seconds", [0, 0.5, 1, 2.5, 59])
    def test_time_goes_on_by_what_is_asked_for(self, telemetry: Telemetry, seconds: float) -> None:
        """
        However often the clock is read meanwhile; at the end, a whole second or not, rules are evaluated.
        """
        telemetry.monitor.alerts.set_rule(Rule("queue", "waiting", AlertCondition.GREATER_THAN, 20))
        collect_metric("waiting", 30)
        began = telemetry.clock.monotonic()

        telemetry.advance(seconds)

        assert seconds <= telemetry.clock.monotonic() - began < seconds + 0.1
        telemetry.assert_alert("queue")

    def test_ids_count(self, telemetry: Telemetry) -> None:
        """
        Also those that a `CorrelationContext` makes are the same in each run.
        """
        with CorrelationContext() as first:
            cook("bulgogi")

        assert first == CountedIds().trace_id()
        telemetry.assert_record(correlation_id=f"{1:032x}", span_id=f"{1:016x}")


class TestRecords:
    def test_by_subset(self, telemetry: Telemetry) -> None:
        """
        Attributes, fields of the context, nested mappings and matchers may be named; what is not named may be anything.
        """
        cook("bibimbap").is_failure()

        cooking = telemetry.assert_record(message="Cooking", dish=IsOneOf("bibimbap", "bulgogi"))
        failed = telemetry.assert_record(outcome="failed", error={"message": "OUT_OF_RICE", "is_defect": False})
        telemetry.assert_record(context={"dish": "bibimbap"})
        telemetry.assert_records({"kind": "operation_start"}, {"dish": "bibimbap"}, {"level": "ERROR"})
        telemetry.assert_no_record(dish="bulgogi")

        assert cooking.operation == failed.operation == "kitchen.cook"

    def test_classes(self, telemetry: Telemetry) -> None:
        """
        A class is the name of an error's type; one that is a matcher, written without parentheses, matches.
        """
        error("it broke", exception=ValueError("rice"), dish="bibimbap")

        telemetry.assert_record(error={"type": ValueError}, dish=IsStr)
        telemetry.assert_no_record(error={"type": LookupError})
        telemetry.assert_no_record(dish=IsInt)

    def test_says_what_there_was_instead(self, telemetry: Telemetry) -> None:
        """
        The message names what was asked for, the nearest record and its difference, and all records.
        """
        cook("bulgogi")

        text = message_of(telemetry.assert_record, message="Cooking", dish="bibimbap")

        assert text.startswith("no record has message='Cooking', dish='bibimbap'; nearest is record 2:")
        assert "'bulgogi'" in text
        assert "1 INFO     'Operation started' operation_start of kitchen.cook {'dish': 'bulgogi'}" in text
        assert message_of(Telemetry().assert_record, message="x") == "no record has message='x': there is none at all"

    def test_all_of_them_in_order(self, telemetry: Telemetry) -> None:
        """
        One more, one less or another order is told with all that there is.
        """
        cook("bulgogi")

        text = message_of(telemetry.assert_records, {"message": "Cooking"}, {"message": "Operation started"})

        assert text.startswith("the records are not these 2, there are 3:")
        assert "'Operation completed'" in text

    def test_all_of_some(self, telemetry: Telemetry) -> None:
        """
        Among the records of one kind, of one id or whatever they have in common, one more or one less is told.
        """
        cook("bulgogi")
        cook("bibimbap").is_failure()

        failed, *_ = telemetry.assert_records({"operation": "kitchen.cook"}, level="ERROR")
        telemetry.assert_records(level="WARNING")
        text = message_of(telemetry.assert_records, {"dish": "bulgogi"}, message="Cooking")

        assert failed.outcome == "failed"
        assert text.startswith("the records with message='Cooking' are not these 1, there are 2:")
        assert "6 ERROR" in text

    def test_unexpected_one_is_marked(self, telemetry: Telemetry) -> None:
        """
        Of what should not be there, the message points at each.
        """
        cook("bulgogi")

        text = message_of(telemetry.assert_no_record, message="Cooking")

        assert text.startswith("there is record 2 with message='Cooking':")
        assert [line[:5] for line in text.splitlines()[2:]] == ["    1"[:5], ">   2", "    3"]

    def test_many_are_cut(self, telemetry: Telemetry) -> None:
        """
        Of hundreds the last are shown, and how many are not.
        """
        for number in range(100):
            info("again", number=number)

        text = message_of(telemetry.assert_record, message="never")

        assert "… 80 before" in text
        assert len(text.splitlines()) < 40


class TestSpans:
    def test_tree(self, telemetry: Telemetry) -> None:
        """
        A span is asked for with its children, each by subset; one that never ended has no outcome.
        """

        @log_result_operation("table.serve")
        def serve() -> Result[str, str]:
            return cook("bulgogi")

        serve()

        span = telemetry.assert_span(operation="table.serve", outcome="ok", children=[{"operation": "kitchen.cook"}])
        telemetry.assert_no_span(outcome="failed")
        assert [each.operation for each in telemetry.spans] == ["table.serve", "kitchen.cook"]
        assert span.records[0].kind == "operation_start"

    def test_messages(self, telemetry: Telemetry) -> None:
        """
        The message lists the spans there are, with their outcome and duration.
        """
        cook("bibimbap").is_failure()

        text = message_of(telemetry.assert_span, operation="kitchen.cook", outcome="ok")

        assert text.startswith("no span has operation='kitchen.cook', outcome='ok'; nearest is span 1:")
        assert "1 operation kitchen.cook failed UNKNOWN 2 ms" in text
        assert message_of(telemetry.assert_no_span, outcome="failed").startswith(
            "there is span 1 with outcome='failed':"
        )


class TestMetrics:
    def test_of_each_kind(self, telemetry: Telemetry) -> None:
        """
        A counter is a sum over the series asked for, a gauge its last value, a histogram its figures; None is not measured.
        """
        collect_metric("waiting", 3)
        collect_metric("waiting", 5)
        cook("bulgogi")
        cook("bibimbap").is_failure()

        telemetry.assert_metric("waiting", 5)
        telemetry.assert_metric("result_success_total", 1, operation="kitchen.cook")
        telemetry.assert_metric("result_success_total", None, operation=IsOneOf("kitchen.burn"))
        telemetry.assert_metric("result_duration_ms", {"count": 2, "max": IsOneOf(2.0)})
        telemetry.assert_metric("result_failure_total")
        telemetry.assert_metric("never_measured", None)

    def test_figures_of_a_histogram(self, telemetry: Telemetry) -> None:
        """
        Each share is the value that so many per cent do not exceed.
        """
        for value, times in ((1, 99), (2, 90), (3, 8), (4, 3)):
            for _ in range(times):
                telemetry.monitor.histogram("waited_seconds").observe(value)

        telemetry.assert_metric(
            "waited_seconds",
            {
                "count": 200,
                "sum": 315,
                "min": 1,
                "max": 4,
                "mean": 1.575,
                "p50": pytest.approx(2, rel=0.01),
                "p95": pytest.approx(3, rel=0.01),
                "p99": pytest.approx(4, rel=0.01),
            },
        )

    @pytest.mark.parametrize(
        ("value", "shown"),
        [
            (2**53 - 1, "9007199254740991"),
            (1 - 2**53, "-9007199254740991"),
            (2**53, "9.0072e+15"),
            (-(2**53), "-9.0072e+15"),
            (1e6, "1000000"),
            (1e-7, "1e-07"),
        ],
    )
    def test_numbers_are_shown_whole(self, telemetry: Telemetry, value: float, shown: str) -> None:
        """
        A whole number with all its digits, as long as each of them is known.
        """
        collect_metric("guests", value)

        assert message_of(telemetry.assert_metric, "guests", 0) == (
            f"metric 'guests' is {shown}, not 0\nmeasured:\n  guests {shown}"
        )

    def test_a_counter_that_has_counted_nothing(self, telemetry: Telemetry) -> None:
        """
        Declared, and of these labels, it is 0 and not measured; one that nobody has declared is not 0.
        """
        telemetry.monitor.counter("refunds_total", labels=("table",)).inc(0, table="7")

        telemetry.assert_metric("refunds_total", 0)
        telemetry.assert_metric("refunds_total", None, table="7")

        assert "was not measured" in message_of(telemetry.assert_metric, "refunds_total")
        assert "was not measured" in message_of(telemetry.assert_metric, "refunds_total", 0, table="8")
        assert "was not measured" in message_of(telemetry.assert_metric, "refund_total", 0)

    @pytest.mark.parametrize(
        ("asked", "labels", "says"),
        [
            (("result_success_total", 2), {}, "metric 'result_success_total' is 1, not 2"),
            (
                ("result_success_total", 1),
                {"operation": "x"},
                "metric 'result_success_total' with operation='x' was not measured",
            ),
            (("result_succes_total",), {}, "was not measured; did you mean 'result_success_total'?"),
            (("result_duration_ms", {"count": 7}), {}, "metric 'result_duration_ms' is not as expected:"),
        ],
    )
    def test_messages(self, telemetry: Telemetry, asked: tuple[Any, ...], labels: dict[str, str], says: str) -> None:
        """
        The message says what was measured, and lists the series.
        """
        cook("bulgogi")

        text = message_of(telemetry.assert_metric, *asked, **labels)

        assert says in text.splitlines()[0]
        assert (
            f'{"result_duration_ms" if "duration" in says else "result_success_total"}{{operation="kitchen.cook"}}'
            in text
        )

    def test_nothing_at_all(self, telemetry: Telemetry) -> None:
        """
        Where nothing was measured, it says so.
        """
        assert message_of(telemetry.assert_metric, "orders_total").endswith("nothing was measured")


class TestAlerts:
    @pytest.fixture
    def told(self, telemetry: Telemetry) -> list[str]:
        """What a rule's callback was told."""
        told: list[str] = []
        rule = Rule("queue", "waiting", AlertCondition.GREATER_THAN, 20, for_seconds=60)
        telemetry.monitor.alerts.set_rule(rule, lambda alert: told.append(alert.event))
        return told

    def test_time_passes_second_by_second(self, telemetry: Telemetry, told: list[str]) -> None:
        """
        A rule that needs a minute fires after a minute, not before, and its callback has run when `advance` returns.
        """
        collect_metric("waiting", 30)

        telemetry.advance(59)
        telemetry.assert_no_alert()
        telemetry.advance(2.5)

        alert = telemetry.assert_alert("queue", current_value=30, rule={"for_seconds": 60})
        telemetry.assert_alert("queue", "pending")
        assert alert.status == "firing"
        assert told == ["fire"]

    def test_rules_are_evaluated_at_the_end_of_each_second(self, telemetry: Telemetry) -> None:
        """
        Once in each second that is over, and once more where the time that was asked for ends; not where it begins.
        """
        for seconds in range(1, 7):
            name = f"queue for {seconds}"
            rule = Rule(name, "waiting", AlertCondition.GREATER_THAN, 20, for_seconds=seconds)
            telemetry.monitor.alerts.set_rule(rule)
        collect_metric("waiting", 30)
        began = telemetry.monitor.clock.time_ns() / 1e9

        telemetry.advance(6.5)

        fired = {alert.rule_name: alert.at.timestamp() - began for alert in telemetry.alerts if alert.event == "fire"}
        assert fired == {f"queue for {seconds}": pytest.approx(seconds + 1, abs=0.1) for seconds in range(1, 6)}

    def test_an_hour_is_an_hour(self, telemetry: Telemetry) -> None:
        """
        However often the clock was read meanwhile, which steps each time, a rule that needs an hour fires after an hour, not before.
        """
        telemetry.monitor.alerts.set_rule(Rule("queue", "waiting", AlertCondition.GREATER_THAN, 20, for_seconds=3600))
        collect_metric("waiting", 30)

        telemetry.advance(3599)
        telemetry.assert_no_alert()
        telemetry.advance(2)

        telemetry.assert_alert("queue")

    def test_messages(self, telemetry: Telemetry, told: list[str]) -> None:
        """
        The message lists what happened to the rules, or that nothing did.
        """
        assert message_of(telemetry.assert_alert, "queue").endswith("there is none at all")
        collect_metric("waiting", 30)
        telemetry.advance(90)

        assert "alert 'queue' fires (threshold): last of waiting is 30" in message_of(
            telemetry.assert_alert, "queue", "resolve"
        )
        assert message_of(telemetry.assert_no_alert).startswith("there is alert 2 with event='fire':")


class TestHealth:
    def test_well(self, telemetry: Telemetry) -> None:
        """
        Where nothing was lost or refused, recording is well.
        """
        cook("bulgogi")

        telemetry.assert_health()
        telemetry.assert_health(mode="memory", dropped=0)

    def test_message(self, telemetry: Telemetry) -> None:
        """
        A refused measurement is told, with its name and reason.
        """
        collect_metric("1a", 1)

        text = message_of(telemetry.assert_health)

        assert "'degraded'" in text
        assert "rejected: 1" in text
        assert "RFS-E131 metric '1a'" in text

    def test_faults_of_rfs_itself(self, telemetry: Telemetry) -> None:
        """
        Recording that fails inside is not well, though the code under test has noticed nothing.
        """
        telemetry.monitor.internal_error("somewhere", ValueError("a bug"))

        telemetry.assert_health(status="degraded", internal_errors=1, rejected=0, dropped=0)
        assert "RFS-E100 somewhere: ValueError: a bug" in message_of(telemetry.assert_health)


class TestSecrets:
    def test_what_is_masked_is_no_secret(self, telemetry: Telemetry) -> None:
        """
        A password under its key, and a card number in a text, left the call masked.
        """
        info("Paid with 4111 1111 1111 1111", password="open-sesame", order=7)

        telemetry.assert_no_secret("open-sesame")

    def test_nor_is_what_masking_again_would_name_otherwise(self, telemetry: Telemetry) -> None:
        """
        A registered secret that was masked as one may stand where a rule would mask whatever it is.
        """
        telemetry.monitor.masker.register_secret("open-sesame")
        info("Called", callback="https://ali:open-sesame@door.example/")

        telemetry.assert_record(callback="https://[masked:secret]@door.example/")
        telemetry.assert_no_secret("open-sesame")

    def test_leak_is_named_and_not_repeated(self, telemetry: Telemetry) -> None:
        """
        A secret that no rule knows is found by its value, also encoded; the message has its place and not itself.
        """
        info("hello", note={"deep": ["b3Blbi1zZXNhbWU="]})

        text = message_of(telemetry.assert_no_secret, "open-sesame")

        where = "record 1 ('hello') context.note.deep[0]: [masked:secret]"
        assert text.startswith(f"1 secret recorded, masked here:\n  {where}")
        assert "b3Bl" not in text

    def test_in_errors_and_labels(self, telemetry: Telemetry) -> None:
        """
        An error's message and a metric's labels are looked at too.
        """
        error("it broke", exception=ValueError("open-sesame"))
        collect_metric("doors", 1, labels={"word": "open-sesame"})

        text = message_of(telemetry.assert_no_secret, "open-sesame")

        assert "error.message: [masked:secret]" in text
        assert "metric doors.word: [masked:secret]" in text

    def test_wherever_they_are(self, telemetry: Telemetry) -> None:
        """
        Message, id, context, error, labels and what RFS has said itself: each place is named.
        """
        with CorrelationContext("open-sesame"):
            error(
                f"{'x' * 40}open-sesame", exception=ValueError("open-sesame"), doors=({"word": ["a", "open-sesame"]},)
            )
        collect_metric("doors", 1, labels={"word": "open-sesame", "other": "x"})
        telemetry.monitor.internal_error("somewhere", ValueError("open-sesame"))

        lines = message_of(telemetry.assert_no_secret, "open-sesame").splitlines()

        where = f"record 1 ({'x' * 40!r})"
        assert lines == [
            "7 secrets recorded, masked here:",
            f"  {where} message: {'x' * 40}[masked:secret]",
            f"  {where} correlation_id: [masked:secret]",
            f"  {where} context.doors[0].word[1]: [masked:secret]",
            f"  {where} error.message: [masked:secret]",
            f"  {where} error.stack_trace: Traceback (most recent call last):",
            "  ValueError: [masked:secret]",
            "  metric doors.word: [masked:secret]",
            "  diagnostics: RFS-E100 somewhere: ValueError: [masked:secret]",
        ]

    def test_must_be_long_enough_to_be_told(self, telemetry: Telemetry) -> None:
        """
        A short one would be found everywhere.
        """
        with pytest.raises(MaskingError, match="must be text of at least 6 characters"):
            telemetry.assert_no_secret("open")

    def test_rules_of_the_code_under_test_do_not_count(self, telemetry: Telemetry) -> None:
        """
        Where the code's own masker lets a key pass, the built-in rules still find it.
        """
        telemetry.monitor.masker.allow_key("password")
        info("hello", password="hunter2-hunter2")

        assert "context.password: [masked:key]" in message_of(telemetry.assert_no_secret)


class TestSeries:
    def test_warm_traffic_makes_none(self, telemetry: Telemetry) -> None:
        """
        What has been measured once may be measured again.
        """
        cook("bulgogi")

        with telemetry.no_new_series():
            cook("bulgogi")

    def test_message(self, telemetry: Telemetry) -> None:
        """
        A label that grows with traffic is shown.
        """
        collect_metric("visits", 1, labels={"user": "1"})

        def visit() -> None:
            with telemetry.no_new_series():
                collect_metric("visits", 1, labels={"user": "2"})

        assert message_of(visit) == '1 new series:\n  visits{user="2"}'

    def test_one_that_was_bound_is_there(self, telemetry: Telemetry) -> None:
        """
        A series that was bound beforehand is not new when it is measured for the first time.
        """
        created = telemetry.monitor.counter("orders_total").labels(status="created")

        with telemetry.no_new_series():
            created.inc()

        telemetry.assert_metric("orders_total", 1)

    def test_fault_of_the_block_is_what_is_told(self, telemetry: Telemetry) -> None:
        """
        An exception of the block itself passes through.
        """
        with pytest.raises(ZeroDivisionError), telemetry.no_new_series():
            _ = 1 / 0


class TestLoop:
    def test_awaiting_blocks_nobody(self, telemetry: Telemetry) -> None:
        """
        A task that waits as it should blocks nothing, however long it waits.
        """

        async def polite() -> None:
            with telemetry.no_blocked_loop(0.5):
                await asyncio.sleep(0.1)

        asyncio.run(polite())

    def test_message(self, telemetry: Telemetry) -> None:
        """
        What keeps the loop from turning is named with its line, as `assert_loop_not_blocked` does.
        """

        async def rude() -> None:
            with telemetry.no_blocked_loop(0.05):
                await asyncio.sleep(0)
                time.sleep(0.3)  # noqa: ASYNC251 - the fault

        text = message_of(asyncio.run, rude())

        assert text.startswith("the event loop was blocked for ")
        assert f"allowed are 50 ms, by {__file__}:" in text
        assert "time.sleep(0.3)" in text

    def test_in_virtual_time(self, telemetry: Telemetry) -> None:
        """
        An hour that is virtual passes at once all the same; what really takes its time is found there, too.
        """

        async def polite() -> None:
            until = time.clock_gettime(time.CLOCK_MONOTONIC) + 0.1
            with telemetry.no_blocked_loop(0.2):
                while time.clock_gettime(time.CLOCK_MONOTONIC) < until:  # meanwhile the loop is asked whether it turns
                    await asyncio.sleep(0)
                await asyncio.sleep(3600)

        async def rude() -> None:
            with telemetry.no_blocked_loop():  # a tenth of a second
                await asyncio.sleep(0)
                threading.Event().wait(0.3)

        virtual_time.VirtualTime(grace=2, patience=5).run(polite())

        said = message_of(virtual_time.VirtualTime().run, rude())
        assert "allowed are 100 ms, by " in said
        assert "threading.Event().wait(0.3)" in said

    def test_needs_a_loop(self, telemetry: Telemetry) -> None:
        """
        Outside of a coroutine there is nothing to watch, and that is said.
        """
        with pytest.raises(RuntimeError, match="no running event loop"), telemetry.no_blocked_loop():
            pass  # pragma: no cover


class TestSnapshotText:
    def test_is_the_same_in_each_run(self) -> None:
        """
        Ids, times, durations, addresses and folders differ between two runs; their texts do not.
        """

        def run(correlation_id: str, wait: float, folder: str) -> str:
            with Telemetry() as telemetry, CorrelationContext(correlation_id):
                telemetry.advance(wait)
                cook("bulgogi")
                info(f"at {id(telemetry):#014x}", took_ms=wait, path=f"{folder}/menu.json", when="2026-11-22T03:40:00Z")
                return telemetry.text()

        first = run("a" * 32, 1, str(Path.home()))
        second = run("b" * 32, 2.5, str(Path.home()))

        assert first == second
        assert "at <address>" in first
        assert "path: '<home>/menu.json'" in first
        assert "took_ms: <duration>" in first
        assert " -> ok <duration>: Operation completed" in first
        assert "when: '<time>'" in first

    def test_is_all_that_was_recorded(self, telemetry: Telemetry) -> None:
        """
        Each record with its place, its ids, its context in order and its error; then each series; of nothing there is no text.
        """

        @log_result_operation("table.serve")
        async def serve() -> Result[int, str]:
            cook("bulgogi")
            return await MonoResult.from_result(Success(1)).log_step("laid").to_result()

        assert telemetry.text() == ""
        with CorrelationContext("table-7"):
            asyncio.run(serve())
            with pytest.raises(ZeroDivisionError):
                burn()
            error(
                "it\tbroke",
                exception=ValueError("ri\nce"),
                when="2026-11-22 03:40",
                **{"b\nc": "2026-11-22T03:40:01.5+0900"},
            )
        cook("bibimbap").is_failure()
        info(
            "late",
            ids=["a" * 32, "b" * 16, "a" * 32, "c" * 15],
            took_ms="5",
            free_mb=3,
            cpu_percent=5.5,
            left_seconds=1,
            waits_ms=[1, 2.5],
            parts=[1, 2.5],
        )
        collect_metric("waiting", 3)

        assert telemetry.text().replace(f"'{__name__}.", "'FILE.") == ALL_OF_IT

    def test_of_an_alert_is_its_message(self, telemetry: Telemetry) -> None:
        """
        Which says all that its context holds.
        """
        telemetry.monitor.alerts.set_rule(Rule("queue", "waiting", AlertCondition.GREATER_THAN, 20))
        collect_metric("waiting", 30)
        telemetry.advance(1)

        assert telemetry.text() == (
            "records\n"
            "  WARNING alert: alert 'queue' fires (threshold): last of waiting is 30, the rule is > 20\n"
            "metrics\n"
            "  waiting 30"
        )

    def test_of_measurements_or_records_alone(self, telemetry: Telemetry) -> None:
        """
        Where there are none there is no heading.
        """
        collect_metric("waiting", 3)
        with Telemetry() as another:
            info("Cooking")

        assert telemetry.text() == "metrics\n  waiting 3"
        assert another.text() == "records\n  INFO log: Cooking"

    def test_names_folders(self, telemetry: Telemetry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        The home, where files of a while are, Python's own and the current folder, whichever is within another; a root is none.
        """
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        monkeypatch.setenv("HOME", "/h")
        info(f"/h/a {tmp_path}/b {tmp_path}/here/c {sys.prefix}/d {tmp_path}")
        named = telemetry.text()
        monkeypatch.setenv("HOME", "/")
        info("https://table.example/")

        assert named == f"records\n  INFO log: <home>/a <tmp>/b <cwd>/c <python>/d {tmp_path}"
        assert telemetry.text().endswith("\n  INFO log: https://table.example/")

    def test_reaches_into_what_is_nested(self, telemetry: Telemetry) -> None:
        """
        A duration inside of a mapping is taken out, too, and the mapping's keys are in order.
        """
        info("served", order={"took_ms": 5, "dishes": ["bulgogi"]})

        assert "order: {dishes: ['bulgogi'], took_ms: <duration>}" in telemetry.text()

    def test_tells_one_id_from_another(self, telemetry: Telemetry) -> None:
        """
        The same id has the same number everywhere; routes and words stay as they are.
        """
        with CorrelationContext("table-7"):
            cook("bulgogi")
        info("GET /menu/3")

        text = telemetry.text(normalise=[lambda text: text.replace("bulgogi", "<dish>")])

        assert text.count("correlation=<table-7> span=<id 1>") == 3
        assert "GET /menu/3" in text
        assert "dish: '<dish>'" in text
        assert 'result_success_total{operation="kitchen.cook"} 1' in text
        assert '  result_duration_ms{operation="kitchen.cook"} count=1' in text.splitlines()
        assert "rfs_" not in text

    def test_one_line_stays_one(self, telemetry: Telemetry) -> None:
        """
        A message of several lines is one line of the text, so that nothing in it can pass for another record.
        """
        info("first\r\nsecond ")

        assert (
            telemetry.text()
            == r"""records
  INFO log: 'first\r\nsecond '"""
        )

    def test_needs_the_fixture(self, telemetry: Telemetry) -> None:
        """
        Without a test there is no place for a snapshot.
        """
        with pytest.raises(TypeError, match=r"^snapshots are kept for tests: ask for the fixture `telemetry`$"):
            telemetry.assert_snapshot()


ALL_OF_IT = r"""records
  INFO operation_start table.serve: Operation started
    correlation=<table-7> span=<id 1>
  INFO operation_start kitchen.cook: Operation started
    correlation=<table-7> span=<id 2> parent=<id 1>
    dish: 'bulgogi'
  INFO log kitchen.cook: Cooking
    correlation=<table-7> span=<id 2> parent=<id 1>
    dish: 'bulgogi'
  INFO operation kitchen.cook -> ok <duration>: Operation completed
    correlation=<table-7> span=<id 2> parent=<id 1>
    result_size: 4
    result_type: 'str'
  INFO step table.serve/laid -> ok <duration>: Step completed
    correlation=<table-7> span=<id 1>
    index: 1
    result_type: 'int'
  INFO operation table.serve -> ok <duration>: Operation completed
    correlation=<table-7> span=<id 1>
    result_type: 'int'
  INFO operation_start kitchen.burn: Operation started
    correlation=<table-7> span=<id 3>
  ERROR operation kitchen.burn -> failed <duration>: Operation failed
    correlation=<table-7> span=<id 3>
    code.function.name: 'FILE.burn'
    error ZeroDivisionError ZeroDivisionError (defect): no rice
  ERROR log: 'it\tbroke'
    correlation=<table-7>
    'b\nc': '<time>'
    when: '<time>'
    error ValueError ValueError: 'ri\nce'
  INFO operation_start kitchen.cook: Operation started
    correlation=<id 4> span=<id 5>
    dish: 'bibimbap'
  INFO log kitchen.cook: Cooking
    correlation=<id 4> span=<id 5>
    dish: 'bibimbap'
  ERROR operation kitchen.cook -> failed <duration>: Operation failed
    correlation=<id 4> span=<id 5>
    code.function.name: 'FILE.cook'
    error str UNKNOWN: OUT_OF_RICE
  INFO log: late
    cpu_percent: <duration>
    free_mb: <duration>
    ids: ['id 6', 'id 7', 'id 6', 'ccccccccccccccc']
    left_seconds: <duration>
    parts: [1, 2.5]
    took_ms: '5'
    waits_ms: [<duration>, <duration>]
metrics
  operations_active{operation="kitchen.burn"} 0
  operations_active{operation="kitchen.cook"} 0
  operations_active{operation="table.serve"} 0
  result_duration_ms{operation="kitchen.burn"} count=1
  result_duration_ms{operation="kitchen.cook"} count=2
  result_duration_ms{operation="table.serve"} count=1
  result_error_by_type_total{error_code="UNKNOWN",error_type="str",operation="kitchen.cook"} 1
  result_error_by_type_total{error_code="ZeroDivisionError",error_type="ZeroDivisionError",operation="kitchen.burn"} 1
  result_failure_total{operation="kitchen.burn"} 1
  result_failure_total{operation="kitchen.cook"} 1
  result_success_total{operation="kitchen.cook"} 1
  result_success_total{operation="table.serve"} 1
  waiting 3"""

INLINE = r'''
def menu(assert_snapshot, info):
    assert_snapshot("")  # 밥
    info('rice "fried" c:\\ """ end')
    if True:
        (assert_snapshot)(
            normalise=[str.upper], expected='old' 'er')
    assert_snapshot("""
        records
          INFO log: other
        """), info("two"); assert_snapshot(
"older" )
'''


class TestKeptSnapshots:
    @pytest.fixture
    def kept(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
        """Holds what is recorded against a test's snapshots in the current folder."""
        monkeypatch.chdir(tmp_path)

        def compare(*messages: str, update: bool = False, folder: Path = tmp_path, **options: Any) -> None:
            __tracebackhide__ = True
            of_test = Snapshots(update=update).of(
                folder / "test_menu.py", "test_menu.py::TestMenu::test_dish[a/b 밥-1.5]"
            )
            with Telemetry(snapshots=of_test) as telemetry:
                for message in messages:
                    info(message)
                telemetry.assert_snapshot(**options)

        return compare

    def test_are_files(self, kept: Callable[..., None], tmp_path: Path) -> None:
        """
        One for each test, of its name as far as that can be a file's, written in one step; what differs is told line by line.
        """
        stem = "TestMenu.test_dish[a_b_밥-1.5]"
        path = Path("__snapshots__", "test_menu", f"{stem}.txt")

        assert message_of(kept, "rice") == (
            f"there is no snapshot {path} yet; --rfs-update-snapshots writes it:\n  records\n    INFO log: rice"
        )
        assert message_of(kept, "rice", name="late").startswith(
            f"there is no snapshot {path.parent / stem}-late.txt yet;"
        )
        kept("밥", update=True)
        assert [*path.parent.iterdir()] == [path]
        assert path.read_bytes().decode() == "records\n  INFO log: 밥\n"
        kept("밥")
        assert message_of(kept, "밥", "soup") == (
            f"telemetry differs from {path}; --rfs-update-snapshots takes it as it is now:\n"
            "--- snapshot\n+++ now\n@@ -1,2 +1,3 @@\n records\n   INFO log: 밥\n+  INFO log: soup"
        )
        kept("soup", update=True)
        kept("soup")
        elsewhere = tmp_path.parent / "elsewhere"
        assert message_of(kept, "rice", folder=elsewhere).startswith(f"there is no snapshot {elsewhere / path} yet; ")

    def test_are_not_written_when_they_are_as_they_were(self, kept: Callable[..., None], tmp_path: Path) -> None:
        """
        Where nothing has changed nothing is written.
        """
        kept("rice", update=True)
        folder = tmp_path / "__snapshots__" / "test_menu"
        before = [path.stat() for path in folder.iterdir()]

        kept("rice", update=True)

        assert [path.stat() for path in folder.iterdir()] == before

    def test_in_the_test_are_compared_without_their_margin(self, kept: Callable[..., None]) -> None:
        """
        Neither the indentation that all lines have, nor empty lines before and space after, are part of it.
        """
        kept(
            "rice",
            expected="""

            records
              INFO log: rice

            """,
        )
        kept("rice", expected="records\n  INFO log: rice")
        kept("rice ", expected="records\n  INFO log: rice")
        kept("X", expected="\nrecords\n  INFO log: X\n")
        kept(expected="")
        kept("rice", expected="  first\nrecords\n  INFO log: rice", normalise=["  first\n".__add__])
        assert message_of(kept, "rice", expected="\n  records\n    INFO log: soup\n") == (
            "the inline snapshot differs; --rfs-update-snapshots takes it as it is now:\n"
            "--- snapshot\n+++ as it is now\n@@ -1,2 +1,2 @@\n records\n-  INFO log: soup\n+  INFO log: rice"
        )

    @pytest.mark.parametrize("expected", [None, "x"])
    def test_that_differ_are_told_in_the_test(self, kept: Callable[..., None], expected: str | None) -> None:
        """
        A traceback shows the test's own line last.
        """
        with pytest.raises(AssertionError) as caught:
            kept("rice", expected=expected)

        assert [each.frame.code.name for each in caught.traceback.filter(caught)] == [
            "test_that_differ_are_told_in_the_test"
        ]

    def test_in_the_test_are_written_there(self, tmp_path: Path) -> None:
        """
        Each in the place of the text that was given, however it was given, and nothing else is touched.
        """
        path = tmp_path / "test_menu.py"
        path.write_text(INLINE, encoding="utf-8")

        def run(snapshots: Snapshots) -> None:
            found: dict[str, Any] = runpy.run_path(str(path))
            with Telemetry(snapshots=snapshots.of(path, "test_menu.py::test_dish")) as telemetry:
                found["menu"](telemetry.assert_snapshot, info)

        update = Snapshots(update=True)
        run(update)
        assert path.read_text(encoding="utf-8") == INLINE
        update.write_inline()
        written = path.read_text(encoding="utf-8")
        run(Snapshots())
        update.write_inline()

        assert written == path.read_text(encoding="utf-8")
        assert written == INLINE_WRITTEN

    @pytest.mark.parametrize(
        "call",
        [
            "assert_snapshot(old)",
            "assert_snapshot(expected=old)",
            'assert_snapshot(*["old"])',
            'assert_snapshot(**{"expected": "old"})',
            'assert_snapshot(f"{old}")',
        ],
    )
    def test_in_the_test_are_literals(self, tmp_path: Path, call: str) -> None:
        """
        What is made while the test runs cannot be written into its text, which is told with the line.
        """
        path = tmp_path / "test_menu.py"
        path.write_text(f"old = 'old'\ndef menu(assert_snapshot):\n    {call}; assert_snapshot('new')\n")
        update = Snapshots(update=True)

        with Telemetry(snapshots=update.of(path, "test_menu.py::test_dish")) as telemetry:
            menu = runpy.run_path(str(path))["menu"]
            with pytest.raises(AssertionError) as caught:
                menu(telemetry.assert_snapshot)

        assert str(caught.value) == f"{path}:3: an inline snapshot that is to be written must be a literal in the call"
        assert [each.frame.code.name for each in caught.traceback.filter(caught)][1:] == ["menu"]

    def test_in_the_test_are_written_by_one_process(self, tmp_path: Path) -> None:
        """
        Of several processes, whose tests may be in one file, none writes there; what is as it was they pass.
        """
        of_test = Snapshots(update=True, may_edit=False).of(tmp_path / "test_menu.py", "test_menu.py::test_dish")

        with Telemetry(snapshots=of_test) as telemetry:
            telemetry.assert_snapshot("")
            said = message_of(telemetry.assert_snapshot, "old")

        assert said == (
            "an inline snapshot differs, and is in a file that only one process may write: run without pytest-xdist"
        )


INLINE_WRITTEN = r'''
def menu(assert_snapshot, info):
    assert_snapshot("")  # 밥
    info('rice "fried" c:\\ """ end')
    if True:
        (assert_snapshot)(
            normalise=[str.upper], expected="""
                RECORDS
                  INFO LOG: RICE "FRIED" C:\\ \"\"\" END
            """)
    assert_snapshot("""
        records
          INFO log: rice "fried" c:\\ \"\"\" end
    """), info("two"); assert_snapshot(
"""
    records
      INFO log: rice "fried" c:\\ \"\"\" end
      INFO log: two
""" )
'''


COOKING = """
from rfs.core.result import Failure, Success
from rfs.monitoring import info, log_result_operation

@log_result_operation("kitchen.cook")
def cook(dish):
    info("Cooking", dish=dish)
    return Success("done") if dish == "bulgogi" else Failure("OUT_OF_RICE")
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pytest.RunResult]:
    """Run pytest with the plugin in a folder that has a module `kitchen`."""
    for name in ("CI", "PYTEST_XDIST_WORKER"):  # of the run that this one is in
        monkeypatch.delenv(name, raising=False)
    monkeypatch.syspath_prepend(pytester.path)
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile(kitchen=COOKING)

    def run(*args: str) -> pytest.RunResult:
        return pytester.runpytest_inprocess(*PLUGIN, "-p", "no:cacheprovider", *args)

    return run


class TestPlugin:
    def test_each_test_has_its_own(self, pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]) -> None:
        """
        Records of one test are not in the next one's; the message of an assertion is in the report.
        """
        pytester.makepyfile(
            """
            from kitchen import cook

            def test_first(telemetry):
                cook("bulgogi")
                telemetry.assert_metric("result_success_total", 1)

            async def test_second(telemetry):
                cook("bulgogi")
                telemetry.assert_metric("result_success_total", 1)

            def test_third(telemetry):
                telemetry.assert_record(message="Cooking")
            """
        )

        done = run()

        done.assert_outcomes(passed=2, failed=1)
        done.stdout.fnmatch_lines(["E  *AssertionError: no record has message='Cooking': there is none at all"])

    def test_parallel(self, pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]) -> None:
        """
        Under pytest-xdist each worker has its own, with its threads and tasks; snapshots are written beside the tests as without it,
        and into the tests' own text by no worker, for another may be writing there.
        """
        pytester.makepyfile(
            """
            import asyncio
            import os
            from concurrent.futures import ThreadPoolExecutor
            from pathlib import Path
            import pytest
            from kitchen import cook

            @pytest.fixture(autouse=True)
            def noted():
                Path(os.environ.get("PYTEST_XDIST_WORKER", "alone")).touch()

            @pytest.mark.parametrize("number", range(8))
            def test_alone(telemetry, number):
                for _ in range(number):
                    cook("bulgogi")
                telemetry.assert_metric("result_success_total", number or None)
                telemetry.assert_snapshot()

            @pytest.mark.parametrize("number", range(4))
            def test_threads(telemetry, number):
                with ThreadPoolExecutor(4) as pool:
                    list(pool.map(cook, ["bulgogi"] * 20))
                telemetry.assert_metric("result_success_total", 20)
                assert len({span.span_id for span in telemetry.spans}) == 20

            @pytest.mark.parametrize("number", range(4))
            async def test_tasks(telemetry, number):
                await asyncio.gather(*(asyncio.to_thread(cook, "bulgogi") for _ in range(20)))
                telemetry.assert_metric("result_success_total", 20)
                assert len({span.span_id for span in telemetry.spans}) == 20

            def test_inline(telemetry):
                cook("bulgogi")
                telemetry.assert_snapshot("")
            """
        )
        source = (pytester.path / "test_parallel.py").read_text()

        written = run("-n", "2", "--rfs-update-snapshots")
        kept = run()

        written.assert_outcomes(passed=16, failed=1)
        written.stdout.fnmatch_lines(["*an inline snapshot differs*run without pytest-xdist"])
        kept.assert_outcomes(passed=16, failed=1)
        assert {"gw0", "gw1", "alone"} <= {path.name for path in pytester.path.iterdir()}
        assert len([*(pytester.path / "__snapshots__" / "test_parallel").iterdir()]) == 8
        assert (pytester.path / "test_parallel.py").read_text() == source

    def test_beside_others(self, pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]) -> None:
        """
        Matchers of dirty-equals, the mocks of respx and a factory of polyfactory do their work beside it, and in virtual time.
        """
        pytester.makepyfile(
            """
            import asyncio
            from dataclasses import dataclass
            import httpx
            from dirty_equals import IsInt, IsPositive, IsStr
            from polyfactory.factories import DataclassFactory
            from polyfactory.pytest_plugin import register_fixture
            from rfs.core.result import Failure, Success
            from rfs.monitoring import info, log_result_operation

            @dataclass
            class Order:
                dish: str
                count: int

            @register_fixture
            class OrderFactory(DataclassFactory[Order]):
                pass

            @log_result_operation("stock.ask")
            async def ask(order):
                info("Asking", dish=order.dish, count=order.count)
                await asyncio.sleep(3600)
                async with httpx.AsyncClient() as client:
                    response = await client.get("http://stock.test/rice")
                return Success(response.json()["left"]) if response.is_success else Failure("BUSY")

            async def test_all(telemetry, virtual_time, respx_mock, order_factory):
                respx_mock.get("http://stock.test/rice").respond(json={"left": 3})
                order = order_factory.build(dish="bulgogi")

                assert (await ask(order)).unwrap() == IsInt

                telemetry.assert_record(message=IsStr(regex="Ask.*"), context={"dish": "bulgogi", "count": IsInt})
                telemetry.assert_span(operation="stock.ask", duration_ms=IsPositive)
                telemetry.assert_metric("result_success_total", IsPositive, operation=IsStr(regex="stock.*"))
                telemetry.assert_metric("result_duration_ms", {"count": 1, "max": IsPositive})
            """
        )

        run().assert_outcomes(passed=1)

    def test_mocks_end_with_the_test(self, pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]) -> None:
        """
        A mock of `result_mocker_factory` is found from where the test calls, and the service is as it was in the next test.
        """
        pytester.makepyfile(
            """
            from rfs.core.result import Success

            class PaymentService:
                async def charge(self, amount):
                    return Success(amount)

            payment_service = PaymentService()

            async def test_mocked(result_mocker_factory):
                mock = result_mocker_factory("payment_service", "charge").return_error("DECLINED")
                assert (await payment_service.charge(3)).unwrap_error() == "DECLINED"
                mock.assert_called_once_with(3)

            async def test_told_how_it_is_called(result_mocker_factory):
                PaymentService.refund = lambda self, amount: Success(amount)
                result_mocker_factory(payment_service, "refund", is_async=True).return_error("DECLINED")
                result_mocker_factory(payment_service, "charge", is_async=False).return_error("DECLINED")
                assert (await payment_service.refund(3)).is_failure()
                assert payment_service.charge(3).is_failure()

            async def test_as_it_was():
                assert (await payment_service.charge(3)).unwrap() == 3
                assert payment_service.refund(3).unwrap() == 3
            """
        )

        run().assert_outcomes(passed=3)

    def test_virtual_time(self, pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]) -> None:
        """
        In a test that asks for `virtual_time` too one clock drives everything: sleeping, records, alert rules.
        """
        pytester.makepyfile(
            """
            import asyncio
            import time
            from rfs.monitoring import AlertCondition, collect_metric, create_alert_rule, info

            def test_rules(telemetry, virtual_time):
                create_alert_rule("queue", "waiting", AlertCondition.GREATER_THAN, 20, for_seconds=60)
                collect_metric("waiting", 30)
                telemetry.advance(50)
                telemetry.assert_no_alert()
                time.sleep(15)
                telemetry.assert_alert("queue")

            async def test_records(virtual_time, telemetry):
                info("now")
                await asyncio.sleep(3600)
                info("later")
                first, second = [record.timestamp for record in telemetry.records]
                assert (second - first).total_seconds() == 3600
            """
        )

        run().assert_outcomes(passed=2)

    def test_loads_by_itself(self) -> None:
        """
        Loading it again makes the same fixtures and hooks, and does nothing else.
        """
        # Measured here: pytest loads the plugin before coverage begins.
        again = runpy.run_path(str(fixtures.__file__), run_name=fixtures.__name__)

        first, second = (
            {name for name in names if name.isidentifier() and not name.startswith("__")}
            for names in (again, vars(fixtures))
        )
        assert first == second

    def test_says_what_it_adds(self, run: Callable[..., pytest.RunResult]) -> None:
        """
        Its marks are known to pytest, with what they are about, and its option is told with what it does.
        """
        marks = [line for line in run("--markers").outlines if "is about" in line]
        told = " ".join(" ".join(run("--help").outlines).split())

        assert marks == [
            "@pytest.mark.result_test: is about Results",
            "@pytest.mark.mono_test: is about chains",
            "@pytest.mark.flux_test: is about collections of Results",
            "@pytest.mark.performance_test: is about performance, and fails beyond its max_duration_ms",
        ]
        assert (
            "rfs: --rfs-update-snapshots write the snapshots of telemetry as they are now; refused where CI is set"
            in told
        )

    def test_name_for_annotations(self) -> None:
        """
        What the fixture gives has a public name, and the module no other that it did not say.
        """
        assert fixtures.Telemetry is Telemetry
        with pytest.raises(AttributeError, match=r"^module 'rfs\.testing\.fixtures' has no attribute 'Telemetri'$"):
            _ = fixtures.Telemetri  # type: ignore[attr-defined]

    def test_is_tiny(self) -> None:
        """
        Loading the plugin loads nothing else of RFS, and nothing that pytest does not have.
        """
        program = (
            "import sys, pytest; before = set(sys.modules); import rfs.testing.fixtures;"
            "print(sorted(set(sys.modules) - before))"
        )

        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

        assert done.stdout.strip() == "['rfs', 'rfs.testing', 'rfs.testing.fixtures']"

    def test_named_data(self, pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]) -> None:
        """
        The fixtures of the framework RFS descends from give what their names say, and chains that run.
        """
        pytester.makepyfile(
            """
            import asyncio
            from rfs.core.result import Failure, Success

            def test_values(
                sample_user, sample_users, sample_api_error, success_result, failure_result, mixed_results,
                performance_test_data, unhandled_failures,
            ):
                assert sample_users == [
                    {"user_id": "user-1", "name": "김민수", "email": "user1@example.com"},
                    {"user_id": "user-2", "name": "이서연", "email": "user2@example.com"},
                    {"user_id": "user-3", "name": "Ada Park", "email": "user3@example.com"},
                ]
                assert sample_users[0] == sample_user
                assert success_result.unwrap() == sample_user
                assert failure_result.unwrap_error() is sample_api_error
                assert (sample_api_error.code, sample_api_error.status_code) == ("NOT_FOUND", 404)
                assert "사용자" in str(sample_api_error) and "user-1" in str(sample_api_error.details)
                assert mixed_results == [Success(1), Failure("error 1"), Success(2), Failure("error 2"), Success(3)]
                assert performance_test_data == {
                    "small": list(range(10)), "medium": list(range(1_000)), "large": list(range(100_000)),
                }

            async def test_chains(
                success_mono_result, failure_mono_result, slow_mono_result, success_result, failure_result, virtual_time,
            ):
                assert await success_mono_result == success_result
                assert await failure_mono_result == failure_result
                assert (await slow_mono_result.timeout(0.01)).is_failure()
                began = asyncio.get_running_loop().time()
                assert await slow_mono_result == success_result
                assert asyncio.get_running_loop().time() - began == 1

            def test_many(success_flux_result, mixed_flux_result, failure_flux_result):
                assert success_flux_result.to_list() == [Success(number) for number in (1, 2, 3, 4, 5)]
                assert mixed_flux_result.success_rate() == 0.6
                assert failure_flux_result.to_list() == [Failure(f"error {number}") for number in (1, 2, 3)]
            """
        )

        run().assert_outcomes(passed=3)


class TestUnhandledFailures:
    def test_fails_the_test_with_the_birth_place(
        self, pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]
    ) -> None:
        """
        A Failure that nobody looked at fails its test, sync or async, logged or not, and is told with its place.
        """
        pytester.makepyfile(
            """
            from kitchen import cook

            def test_dropped(telemetry):
                cook("bibimbap")

            async def test_kept_in_a_name(telemetry):
                result = cook("bibimbap")

            def test_without_telemetry(unhandled_failures):
                cook("bibimbap")

            def test_looked_at(telemetry):
                assert cook("bibimbap").is_failure()

            def test_allowed(telemetry):
                telemetry.allow_unhandled_failures()
                cook("bibimbap")

            def test_asked_for_in_the_midst(telemetry):
                cook("bibimbap")
                telemetry.assert_no_unhandled_failure()

            def test_not_asked_for():
                cook("bibimbap")
            """
        )

        done = run()

        done.assert_outcomes(passed=3, failed=4)
        done.stdout.fnmatch_lines(
            ["1 Failure that nobody looked at:", "*OUT_OF_RICE*", "*made at: kitchen.py:7 in cook"]
        )

    def test_for_all_tests(self, pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]) -> None:
        """
        One line of pytest's settings has it watch each test, and what a test that fails left behind is not told beside it.
        """
        pytester.makeini("[pytest]\nusefixtures = unhandled_failures\nasyncio_default_fixture_loop_scope = function\n")
        pytester.makepyfile(
            """
            from kitchen import cook

            def test_dropped():
                cook("bibimbap")

            def test_other_fault():
                cook("bibimbap")
                assert 1 == 2
            """
        )

        done = run()

        done.assert_outcomes(failed=2)
        assert str(done.stdout).count("made at: kitchen.py:7 in cook") == 1

    def test_asked_for_at_any_time(self, telemetry: Telemetry) -> None:
        """
        A test may ask before it ends, and gets the same message.
        """
        assert cook("bibimbap").is_failure()
        telemetry.assert_no_unhandled_failure()

        cook("bibimbap")

        text = message_of(telemetry.assert_no_unhandled_failure)
        assert text.startswith("1 Failure that nobody looked at:\n  Failure('OUT_OF_RICE')\n")
        assert "test_fixtures.py:" in text


class TestSnapshots:
    def test_beside_the_test(self, pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]) -> None:
        """
        A snapshot is written when asked for, compared ever after, and a difference is shown as one.
        """
        test = """
            import pytest
            from kitchen import cook

            class TestCooking:
                @pytest.mark.parametrize("dish", ["bulgogi"])
                def test_dish(self, telemetry, dish):
                    cook(dish)
                    telemetry.assert_snapshot()
                    {more}
                    telemetry.assert_snapshot(name="after")
                    telemetry.assert_snapshot()
            """
        pytester.makepyfile(test_kitchen=test.format(more=""))

        missing = run()
        written = run("--rfs-update-snapshots")
        kept = run()
        pytester.makepyfile(test_kitchen=test.format(more='cook("japchae").is_failure()'))
        differs = run()

        missing.stdout.fnmatch_lines(["*there is no snapshot __snapshots__*; --rfs-update-snapshots writes it:"])
        for done, outcome in ((missing, "failed"), (written, "passed"), (kept, "passed"), (differs, "failed")):
            done.assert_outcomes(**{outcome: 1})
        differs.stdout.fnmatch_lines(
            ["*telemetry differs from __snapshots__*; --rfs-update-snapshots*", "*+++ now", "*+    dish: 'japchae'"]
        )
        folder = pytester.path / "__snapshots__" / "test_kitchen"
        stem = "TestCooking.test_dish[bulgogi]"
        assert sorted(each.name for each in folder.iterdir()) == sorted(
            [f"{stem}.txt", f"{stem}-2.txt", f"{stem}-after.txt"]
        )

    def test_inline(self, pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]) -> None:
        """
        A snapshot in the test's own text is written there, without touching the lines around it.
        """
        path = pytester.makepyfile(
            test_kitchen='''
            from kitchen import cook

            def test_two(telemetry):
                telemetry.assert_snapshot("")  # nothing yet
                cook("불고기\\\\").is_failure()
                telemetry.assert_snapshot(normalise=[], expected="""old
                text"""); done = 1
            '''
        )

        differs = run()
        written = run("--rfs-update-snapshots")
        kept = run()

        differs.stdout.fnmatch_lines(["*the inline snapshot differs; --rfs-update-snapshots takes it as it is now:"])
        written.assert_outcomes(passed=1)
        kept.assert_outcomes(passed=1)
        text = path.read_text()
        assert 'telemetry.assert_snapshot("")  # nothing yet\n' in text
        assert "        INFO operation_start kitchen.cook: Operation started\n" in text
        assert text.endswith('    """); done = 1')

    def test_inline_must_be_a_literal(self, pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]) -> None:
        """
        What stands elsewhere cannot be rewritten, and the test says so.
        """
        pytester.makepyfile("def test_name(telemetry):\n    text = 'old'\n    telemetry.assert_snapshot(text)\n")

        run("--rfs-update-snapshots").stdout.fnmatch_lines(["*must be a literal in the call"])

    def test_never_written_in_ci(
        self, pytester: pytest.Pytester, run: Callable[..., pytest.RunResult], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        Where CI is set the option is refused, and a missing snapshot fails as anywhere.
        """
        pytester.makepyfile("def test_one(telemetry):\n    telemetry.assert_snapshot()\n")
        monkeypatch.setenv("CI", "true")

        refused = run("--rfs-update-snapshots")

        assert refused.ret == pytest.ExitCode.USAGE_ERROR
        refused.stderr.fnmatch_lines(
            [
                "ERROR: --rfs-update-snapshots is for the developer's machine: CI is set, so no snapshot is written",
            ]
        )
        assert not (pytester.path / "__snapshots__").exists()
        run().assert_outcomes(failed=1)


class TestPage:
    def test_examples_pass(self, pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]) -> None:
        """
        The tests that the reference shows pass as they stand.
        """
        blocks = [each for each in snippets(ROOT / "docs/reference/testing-fixtures.md") if each.language == "python"]
        pytester.makepyfile(**{f"test_block_{each.line}": each.code for each in blocks})

        run().assert_outcomes(passed=sum(each.code.count("\ndef test_") for each in blocks))
        assert len(blocks) == 2
