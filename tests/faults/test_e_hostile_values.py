"""
FAULTS.md §2.E and C4: hostile and awkward values. One class per row; DESIGN.md's bounds hold where the row's differ.

The oracle is independent of what it judges: the line that the JSON sink really printed, read by the standard library's
parser with its leniency switched off, and the record as a query gives it back.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import logging
import math
import os
import re
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.zoo import VALUES, visit
from rfs.errors import MetricDefinitionError
from rfs.monitoring._capture.instruments import MAX_LABEL_CHARACTERS, MAX_SERIES, MetricType
from rfs.monitoring._capture.storm import DEFAULT_LIMIT, MAX_PLACES, MAX_SITES, MAX_TEXTS_PER_PLACE, Storms
from rfs.monitoring.context import CorrelationContext, is_valid_correlation_id, start_context
from rfs.monitoring.masking import Masker, Pattern
from rfs.monitoring.metrics import collect_metric
from rfs.monitoring.monitor import Monitor, use_monitor
from rfs.monitoring.result_logging import RfsHandler, StreamSink, info, json_line
from rfs.monitoring.traces import parse_traceparent
from rfs.testing.virtual_time import VirtualTime

calls: list[str] = []


def _called(name: str) -> Callable[..., Any]:
    def method(*args: object, **kwargs: object) -> object:
        calls.append(name)
        raise RuntimeError(name)

    return method


_SPECIAL = (
    "__repr__", "__str__", "__format__", "__eq__", "__hash__", "__bool__", "__len__", "__iter__", "__getattr__",
    "__contains__", "__getitem__", "__int__", "__float__", "__index__", "__bytes__", "__call__", "__dir__", "__next__",
)  # fmt: skip


def hostile(base: type = object) -> Any:
    """An instance that notes each method of its own that is called, and raises there."""
    body: dict[str, Any] = {name: _called(name) for name in _SPECIAL}
    body["__class__"] = property(_called("__class__"))
    body["__dict__"] = property(_called("__dict__"))
    return type("Hostile", (base,), body)()


def strict(line: str) -> Any:
    """Parse one line as RFC 8259 has it, and as one line by anybody's idea of a line."""
    assert len(line.splitlines()) == 1
    return json.loads(line, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))


class Recorded:
    """A Monitor that prints to memory as it does to stdout."""

    def __init__(self) -> None:
        self.monitor = Monitor(service_name="test")
        self.stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
        self.monitor.add_sink(StreamSink(self.monitor, self.stream))

    def lines(self) -> list[Any]:
        """Every line printed, parsed; the query's records are the same ones, and the books balance."""
        records = self.monitor.query.records(limit=1000)
        deadline = time.monotonic() + 20
        while self._text().count("\n") < len(records):
            assert time.monotonic() < deadline, "the sink does not print"
            time.sleep(0.005)
        books = self.monitor.query.books()["records"]
        assert books["in_flight"] == 0
        lines = [strict(line) for line in self._text().split("\n")[:-1]]
        assert lines == [strict(json_line(record)) for record in reversed(records)]
        return lines

    def _text(self) -> str:
        return self.stream.buffer.getvalue().decode("utf-8")

    def counted(self, name: str) -> dict[str, float]:
        """The series of counter *name*, by the values of their labels."""
        series = self.monitor.counter(name).series()
        return {",".join(value for _, value in one.key.labels): one.value for one in series}


@pytest.fixture
def run() -> Iterator[Recorded]:
    """The default Monitor of this test. No fault of RFS itself may come up in it."""
    calls.clear()
    made = Recorded()
    with use_monitor(made.monitor):
        yield made
        assert made.counted("telemetry_internal_errors_total") == {}
    made.monitor.stop()


def seconds(action: Callable[[], object], tries: int = 7) -> float:
    """The shortest time that *action* takes: what it costs where nobody else is working."""
    took = math.inf
    for _ in range(tries):
        began = time.perf_counter()
        action()
        took = min(took, time.perf_counter() - began)
    return took


class TestE1HugeMessage:
    @pytest.mark.parametrize(("size", "limit_seconds"), [(10**6, 0.01), (10**8, 0.05)])
    def test_is_cut_at_once_and_tells_its_length(self, run: Recorded, size: int, limit_seconds: float) -> None:
        """
        Of 1 MB and of 100 MB the ends stay with the length between them, and the caller waits for neither.

        Limits are ten times what was measured (0.5 ms each). No hash: over text that holds a secret it would let the secret
        be guessed, and it would cost 60 ms.
        """
        text = "ab cd " * (size // 6)

        took = seconds(lambda: info(text, field=text))

        line = run.lines()[0]
        cut = re.search("<([0-9]+) characters left out>", line["message"])
        assert cut is not None
        assert int(cut[1]) + len(line["message"]) - len(cut[0]) == len(text)
        assert len(line["context"]["field"]) < 17_000
        assert run.counted("rfs_truncated_total") == {"text": 7, "chars": 7}
        assert took < limit_seconds

    @pytest.mark.parametrize("unit", ["김밥 ", "\U0001f35c", "\u202e", "\ud800", "\0"], ids=ascii)
    def test_is_kept_whatever_its_bytes(self, run: Recorded, unit: str) -> None:
        """
        The bound is one of bytes: text of many-byte characters, and of escapes, fits into a frame, too.
        """
        text = unit * 200_000

        run.monitor.log(40, text, fields={"field": text}, error=ValueError(text))

        (line,) = run.lines()
        assert "characters left out>" in line["message"]
        assert 8_000 < len(line["message"].encode()) < 66_000
        assert 8_000 < len(line["error"]["message"].encode()) < 17_000

    def test_other_huge_values(self, run: Recorded) -> None:
        """
        Bytes, instances of str's subclasses, exceptions and integers of that size cost no more.
        """
        text = "ab cd " * 16_000_000
        subclass = type("Text", (str,), {})(text)
        number = 1 << 300_000_000
        fault = ValueError(text)

        took = seconds(lambda: info("x", a=text.encode()[:50_000_000], b=subclass, c=number, d=fault), tries=3)
        took_error = seconds(lambda: run.monitor.log(40, "y", error=fault), tries=3)

        lines = run.lines()
        assert {"a", "b", "c", "d"} <= set(lines[0]["context"]) or "<cut>" in str(lines[0]["context"])
        assert len(lines[-1]["error"]["message"]) < 70_000
        assert took_error < 0.05
        assert took < 0.25  # the copies that this test itself makes

    def test_no_secret_where_the_ends_of_an_error_meet(self, run: Recorded) -> None:
        """
        A secret across the place where the middle of an exception's text is left out shows no part of itself.
        """
        run.monitor.masker.register_secret("Gimbap-1357-Ramen-2468")
        for seam in (60 * 1024, 64 * 1024, 200_000 - 8 * 1024, 200_000 - 4 * 1024):
            text = " " * (seam - 11) + "Gimbap-1357-Ramen-2468"
            run.monitor.log(40, "x", error=ValueError(text + " " * (200_000 - len(text))))

        assert not re.search("Gim|1357|Ram|2468", str(run.lines()))


ZOO_BASES = (object, str, int, float, dict, list, tuple, set, bytes, Exception)


class TestE2HostileRepr:
    @pytest.mark.parametrize("base", ZOO_BASES)
    def test_nothing_of_it_is_called(self, run: Recorded, base: type) -> None:
        """
        A field whose every method raises becomes a text that names its class, or its built-in value; none is called.
        """
        value = hostile(base)
        with pytest.raises(RuntimeError):
            repr(value)  # the trap is armed
        calls.clear()

        info("zoo", a=value, b=[value], c={"d": (value,)})
        lines = run.lines()

        assert calls == []
        assert set(lines[0]["context"]) == {"a", "b", "c"}
        assert run.monitor.masker.masked["error"] == 0

    def test_slow_repr_is_no_matter(self, run: Recorded) -> None:
        """
        A ``__repr__`` that takes a second does not hold the caller up.
        """

        class Slow:
            def __repr__(self) -> str:
                time.sleep(1)
                return "slow"

        took = seconds(lambda: info("slow", a=Slow()))

        assert run.lines()[0]["context"]["a"].endswith("Slow>")
        assert took < 0.002  # 20 µs in the row, with room for a busy machine

    def test_an_error_is_not_asked_either(self, run: Recorded) -> None:
        """
        An exception's text is made of its arguments; its ``__str__`` is not called.
        """
        fault = hostile(Exception)

        run.monitor.log(40, "failed", error=fault)

        assert run.lines()[0]["error"]["type"] == "Hostile"
        assert set(calls) <= {"__class__", "__getattr__"}  # asked for `code` and `expected`, the contract of errors


class TestE2ZooOfTheBenchmarks:
    def test_rfs_raises_loses_and_breaks_nothing(self) -> None:
        """
        Of the fifteen values that are published beside the peers RFS loses none, and nobody waits for a slow repr.
        """
        outcome = visit("rfs", sys.executable)

        assert not isinstance(outcome, str), outcome
        assert (outcome.raised, outcome.lost, outcome.invalid) == ([], [], [])
        assert outcome.blocked_seconds < 0.5

    def test_the_zoo_bites(self) -> None:
        """
        A JSON formatter written by hand raises, loses and breaks lines over the same values.
        """
        outcome = visit("stdlib", sys.executable)

        assert not isinstance(outcome, str), outcome
        assert outcome.raised == ["3,000 levels"]
        assert outcome.invalid == ["NaN"]
        assert len(VALUES) == 15
        assert len(outcome.lost) > 5


class TestE3StandardLogging:
    def test_exception_while_formatting(self, run: Recorded) -> None:
        """
        The standard library calls ``__str__`` for ``%s``: what that raises is caught, and the record says so.
        """
        logger = logging.Logger("shop")  # noqa: LOG001 - not the tree of this process
        logger.addHandler(RfsHandler(run.monitor))

        logger.info("order %s", type("Order", (), {"__str__": _called("__str__")})())

        line = run.lines()[0]
        assert line["message"] == "order %s <unformattable arguments>"
        assert line["context"]["formatting_error"] == "RuntimeError"
        assert calls == ["__str__"]  # the fault fired

    def test_slow_formatting_is_counted(self, run: Recorded) -> None:
        """
        Formatting that takes over 10 ms cannot be cut short, but is counted.
        """

        class Slow:
            def __str__(self) -> str:
                time.sleep(0.02)
                return "slow"

        logger = logging.Logger("shop")  # noqa: LOG001 - not the tree of this process
        logger.addHandler(RfsHandler(run.monitor))

        logger.info("%s", Slow())
        logger.info("%s", "quick")

        assert [line["message"] for line in run.lines()] == ["slow", "quick"]
        assert run.counted("rfs_slow_render_total") == {"": 1}


class TestE4LyingObjects:
    def test_proxies_are_not_asked(self, run: Recorded) -> None:
        """
        A mock, and a class that claims to be a dict, are shown by what they are.
        """

        class Lying:
            __class__ = dict  # type: ignore[assignment]

            def items(self) -> object:
                calls.append("items")
                return {"a": 1}.items()

        double = mock.MagicMock()
        info("proxies", a=double, b=Lying())

        context = run.lines()[0]["context"]
        assert context["a"] == "<unittest.mock.MagicMock>"
        assert context["b"].endswith(".Lying>")
        assert double.mock_calls == []
        assert calls == []

    def test_no_sql_for_a_lazy_attribute(self, run: Recorded) -> None:
        """
        A mapped object whose attributes have expired is shown without a query.
        """
        orm = pytest.importorskip("sqlalchemy.orm")
        sql = pytest.importorskip("sqlalchemy")
        base = orm.declarative_base()
        order = type("Order", (base,), {"__tablename__": "orders", "id": sql.Column(sql.Integer, primary_key=True)})
        engine = sql.create_engine("sqlite://")
        base.metadata.create_all(engine)
        asked: list[str] = []
        sql.event.listen(engine, "before_cursor_execute", lambda *arguments: asked.append(arguments[2]))
        with orm.Session(engine) as session:
            placed = order(id=7)
            session.add(placed)
            session.commit()  # expires it
            asked.clear()

            info("lazy", order=placed)
            shown = run.lines()[0]["context"]["order"]

            assert asked == []
            assert shown.endswith("Order>")
            assert placed.id == 7
            assert asked  # it was expired: this asked
        engine.dispose()


class TestE5Structure:
    def test_cycle_depth_and_width(self, run: Recorded) -> None:
        """
        A cycle, 3,000 levels and a million keys are bounded, and a record of each is kept.
        """
        cycle: dict[str, object] = {}
        cycle["self"] = cycle
        deep: object = "bottom"
        for _ in range(3000):
            deep = [deep]
        wide = dict.fromkeys(range(1_000_000), 1)

        info("structure", cycle=cycle, deep=deep, wide=wide)

        context = run.lines()[0]["context"]
        assert context["cycle"] == {"self": "<cycle>"}
        assert context["deep"] == [[[[["<cut>"]]]]]
        assert len(context["wide"]) == 65
        assert context["wide"]["<more>"] == 999_936
        assert set(run.counted("rfs_truncated_total")) == {"cycle", "depth", "width"}

    def test_changed_by_another_thread(self, run: Recorded) -> None:
        """
        A dict that another thread changes all the while costs no record.
        """
        shared: dict[str, object] = {str(number): number for number in range(50)}
        stop = threading.Event()
        changes = itertools.count()

        def mutate() -> None:
            while not stop.is_set():
                number = next(changes)
                shared[f"n{number % 100}"] = number
                shared.pop(f"n{(number + 50) % 100}", None)

        thread = threading.Thread(target=mutate)
        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        thread.start()
        try:
            for _ in range(300):
                info("mutated", shared=shared)
        finally:
            stop.set()
            thread.join()
            sys.setswitchinterval(before)

        lines = run.lines()
        assert next(changes) > 100
        assert len(lines) == 300
        assert sum(isinstance(line["context"]["shared"], dict) for line in lines) > 250

    @given(st.recursive(st.none() | st.floats() | st.integers() | st.text() | st.binary(), st.lists, max_leaves=30))
    def test_any_tree_is_a_strict_line(self, value: object) -> None:
        """
        Whatever tree is handed in, its JSON is strict.
        """
        strict(json.dumps(SHARED.fields({"a": value}), allow_nan=False))


SHARED = Masker()


class TestE6NotFinite:
    def test_are_text(self, run: Recorded) -> None:
        """
        JSON has no NaN and no infinity: they are text in a record, and null or absent elsewhere.
        """
        info("floats", a=math.nan, b=math.inf, c=-math.inf, d=[math.nan])
        run.monitor.gauge("temperature").set(math.nan)

        assert run.lines()[0]["context"] == {"a": "NaN", "b": "Infinity", "c": "-Infinity", "d": ["NaN"]}


class TestE7Numbers:
    def test_are_rendered(self, run: Recorded) -> None:
        """
        Numbers that JSON's readers do not take are text.
        """
        info("numbers", a=10**4999, b=2**64, c=Decimal("sNaN"), d=Fraction(1, 3), e=1j, f=2**63 - 1, g=-(2**70))

        assert run.lines()[0]["context"] == {
            "a": hex(10**4999),
            "b": str(2**64),
            "c": "sNaN",
            "d": "1/3",
            "e": "1j",
            "f": 2**63 - 1,
            "g": str(-(2**70)),
        }

    def test_numpy_scalars(self, run: Recorded) -> None:
        """
        Scalars of numpy are numbers; a class that merely says it is numpy's is not asked.
        """
        numpy = pytest.importorskip("numpy")
        fake = type("int64", (), {"__module__": "numpy", "item": _called("item")})()

        info("numpy", a=numpy.int64(7), b=numpy.float64("nan"), c=numpy.bool_(True), d=numpy.longdouble(1), e=fake)

        context = run.lines()[0]["context"]
        assert context == {"a": 7, "b": "NaN", "c": True, "d": "<numpy.longdouble>", "e": "<numpy.int64>"}
        assert calls == []


AWKWARD = "한글 \ud800 \x00 \u202e \u2028 \x85 \U0001f35c é"


class TestE8Text:
    def test_round_trip(self, run: Recorded) -> None:
        """
        Text is UTF-8 on one line; lone surrogates, NUL and marks that reorder text are escapes.
        """
        info("text", a=AWKWARD, b=b"a\xff", **{"k\u202e\ud800": 1})

        context = run.lines()[0]["context"]
        assert context["a"] == "한글 \\ud800 \\x00 \\u202e \u2028 \x85 \U0001f35c é"
        assert context["b"] == "a\\xff"
        assert context["k\\u202e\\ud800"] == 1

    def test_ascii_stdout(self) -> None:
        """
        A real process whose stdout takes ASCII alone prints every record, as JSON that means the same.
        """
        program = (
            "import sys; from rfs.monitoring.result_logging import *\n"
            "from rfs.monitoring import stop_monitoring\n"
            "assert sys.stdout.encoding == 'ascii'\n"
            "configure_result_logging()\n"
            f"info('text', a={AWKWARD!a}); info('plain')\n"
            "stop_monitoring()"
        )
        environment = {**os.environ, "PYTHONIOENCODING": "ascii", "RFS_DIR": ":memory:"}

        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, check=True, timeout=60
        )

        lines = [strict(line) for line in done.stdout.decode("ascii").splitlines()]
        assert [line["message"] for line in lines] == ["text", "plain"]
        assert lines[0]["context"]["a"] == "한글 \\ud800 \\x00 \\u202e \u2028 \x85 \U0001f35c é"


class TestE9Unread:
    async def test_is_as_it_was(self, run: Recorded) -> None:
        """
        A generator, a file, a socket and a coroutine can still be used, and nobody complains of one never awaited.
        """
        numbers = (number for number in range(3))
        file = io.StringIO("abc")
        here, there = socket.socketpair()
        coroutine = asyncio.sleep(0, "awake")
        with warnings.catch_warnings():
            warnings.simplefilter("error")

            info("unread", a=numbers, b=file, c=here, d=coroutine)

        context = run.lines()[0]["context"]
        assert context == {"a": "<generator>", "b": "<_io.StringIO>", "c": "<socket.socket>", "d": "<coroutine>"}
        assert list(numbers) == [0, 1, 2]
        assert file.read() == "abc"
        there.send(b"x")
        assert here.recv(1) == b"x"
        assert await coroutine == "awake"
        here.close()
        there.close()


class TestE10BadAmounts:
    @pytest.mark.parametrize(
        "amount", [-1, math.nan, math.inf, -math.inf, True, "1", None, 10**400, Decimal(1), 1j], ids=repr
    )
    def test_leaves_the_counter_alone(self, run: Recorded, amount: Any) -> None:
        """
        What cannot be added is counted as rejected, and the sum is as it was.
        """
        orders = run.monitor.counter("orders_total")
        orders.inc(2)

        orders.inc(amount)
        collect_metric("orders_total", amount, MetricType.COUNTER)

        assert orders.labels().value == 2
        assert run.counted("rfs_rejected_total") == {"orders_total,invalid_value": 2}

    def test_gauge_takes_nan_but_no_truth_value(self, run: Recorded) -> None:
        """
        A gauge may be NaN; bool and text are refused.
        """
        level = run.monitor.gauge("level")

        level.set(math.nan)
        level.set(True)
        level.set("1")  # type: ignore[arg-type]

        assert math.isnan(level.labels().value or 0)
        assert run.counted("rfs_rejected_total") == {"level,invalid_value": 2}


class TestE11LargeSums:
    def test_exact_and_never_infinite(self, run: Recorded) -> None:
        """
        Integers are exact to 2**53, the cells being float64; a sum that would overflow stays, and that is counted.
        """
        exact, large = run.monitor.counter("exact_total"), run.monitor.counter("large_total")

        exact.inc(2**53 - 2)
        exact.inc()
        large.inc(1.5e308)
        large.inc(1.5e308)

        summary = run.monitor.query.summary()["counters"]
        assert summary["exact_total"] == 2**53 - 1
        assert summary["large_total"] == 1.5e308
        assert run.counted("rfs_rejected_total") == {"large_total,invalid_value": 1}


class TestE12Names:
    @pytest.mark.parametrize("name", ["", "1a", "a b", "a\nb", "é", "x" * 10_240])
    def test_bad_metric_name(self, run: Recorded, name: str) -> None:
        """
        Declaring a bad name raises; measuring with it is counted, and makes no metric.
        """
        with pytest.raises(MetricDefinitionError):
            run.monitor.counter(name)

        collect_metric(name, 1, MetricType.COUNTER)

        assert run.monitor.registry.get(name) is None
        assert sum(run.counted("rfs_rejected_total").values()) == 1

    @given(name=st.text(max_size=40), label=st.text(max_size=20), value=st.text(max_size=20))
    def test_any_text(self, name: str, label: str, value: str) -> None:
        """
        Any name, label and value is taken or counted as rejected, and the summary stays strict JSON.
        """
        monitor = Monitor()
        with use_monitor(monitor):
            collect_metric(name, 1, MetricType.COUNTER, {label: value})

            strict(json.dumps(monitor.query.summary(), allow_nan=False))
            taken = monitor.query.summary()["counters"].get(name, 0)
            rejected = sum(one.value for one in monitor.counter("rfs_rejected_total").series())
            assert taken + rejected >= 1


class TestE13Cardinality:
    def test_sums_stay_right(self, run: Recorded) -> None:
        """
        Of 20,000 label sets 1,999 have a series and the rest share one; none is lost (test_memory.py: a million).
        """
        orders = run.monitor.counter("orders_total")

        for number in range(20_000):
            orders.inc(1, user=str(number))

        series = orders.series()
        assert len(series) == MAX_SERIES
        assert sum(one.value for one in series) == 20_000
        assert run.counted("rfs_rejected_total") == {"orders_total,cardinality_limit": 20_000 - (MAX_SERIES - 1)}


class TestE14LabelsOfRequests:
    async def test_random_paths_and_methods_make_few_series(self, run: Recorded) -> None:
        """
        2,000 random paths and methods are one route and one method: nothing a client sends becomes a label.
        """
        fastapi = pytest.importorskip("fastapi")
        from rfs.web.fastapi.install import install

        app = fastapi.FastAPI()

        async def order(order_id: str) -> str:
            return order_id

        app.get("/orders/{order_id}")(order)

        install(app)
        answers: list[int] = []

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answers.append(message["status"])

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        for number in range(2_000):
            method, path = ("GET", f"/orders/{number}") if number % 2 else (f"M{number}", f"/{number}/x{number}")
            scope = {
                "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path,
                "raw_path": path.encode(), "root_path": "", "scheme": "http", "query_string": b"",
                "headers": [(b"host", f"h{number}".encode())], "client": ("127.0.0.1", 1), "server": ("h", 80),
            }  # fmt: skip
            await app(scope, receive, send)

        assert len(answers) == 2_000
        totals = run.monitor.query.summary()["counters"]
        keys = [key for metric in run.monitor.registry.metrics() for key in (one.key for one in metric.series())]
        assert any(value == 2_000 for value in totals.values())  # they were counted
        assert len(keys) < 100
        assert not [key for key in keys if re.search("[0-9]{2,}[^0-9]*x|M[0-9]|h[0-9]{2}", str(key))]


class TestE15TypeClash:
    def test_first_wins(self, run: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
        """
        Two threads that measure one name as two types: one type wins, the other's are counted and said in one line.
        """
        barrier = threading.Barrier(2)

        def work(kind: MetricType) -> None:
            barrier.wait()
            for _ in range(100):
                collect_metric("clash", 1, kind)

        threads = [threading.Thread(target=work, args=(kind,)) for kind in (MetricType.COUNTER, MetricType.HISTOGRAM)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert run.counted("rfs_rejected_total") == {"clash,invalid_name": 100}
        run.monitor.stop()
        said = [line for line in capsys.readouterr().err.splitlines() if "RFS-E131" in line]
        assert said == ["RFS-E131 metric 'clash': rejected (invalid_name) (repeated 100x)"]


class TestE16LabelValues:
    def test_cut_at_a_character(self, run: Recorded) -> None:
        """
        A value of a million characters is cut to 256 of them; one with quotes and tags is kept as it is.
        """
        orders = run.monitor.counter("orders_total")

        orders.inc(1, note="김" * 1_000_000)
        orders.inc(1, note="\"\\\n<script>alert('x')</script>")

        values = {dict(one.key.labels)["note"] for one in orders.series()}
        assert values == {"김" * MAX_LABEL_CHARACTERS, "\"\\\n<script>alert('x')</script>"}


class _Stranger(BaseException):
    """Raised by a hook; no ``except Exception`` catches it."""


def _raising(fault: BaseException) -> Callable[[str], bool]:
    def accept(text: str) -> bool:
        calls.append("accept")
        raise fault

    return accept


class TestE17Hooks:
    @pytest.mark.parametrize(
        "fault", [ValueError("x"), _Stranger(), asyncio.CancelledError(), GeneratorExit()], ids=repr
    )
    def test_check_that_raises(self, fault: BaseException) -> None:
        """
        A mask that cannot decide masks everything, nothing reaches the caller, and after five faults it is asked no more.
        """
        told: list[tuple[str, str]] = []
        masker = Masker(
            patterns=[Pattern("broken", "bad", _raising(fault))],
            on_count=lambda name, label: told.append((name, label)),
        )
        calls.clear()

        shown = [masker.text(f"a bad day {number}") for number in range(20)]

        assert set(shown) == {"[masked:error]"}
        assert len(calls) == 5
        assert told.count(("rfs_hook_faults_total", "hook_error")) == 5

    @pytest.mark.parametrize("junk", ["yes", 7, None, hostile])
    def test_check_that_answers_junk(self, junk: Any) -> None:
        """
        An answer of another type counts as its truth, and one that has none masks everything.
        """
        masker = Masker(patterns=[Pattern("odd", "bad", lambda _: junk() if junk is hostile else junk)])

        assert masker.text("a bad day") in {"a [masked:odd] day", "a bad day", "[masked:error]"}
        assert (masker.text("a bad day") == "a bad day") == (junk is None)

    def test_check_that_sleeps(self) -> None:
        """
        A slow check runs in the caller's thread, which is documented; after five times it is asked no more.
        """
        told: list[str] = []

        def accept(text: str) -> bool:
            calls.append("accept")
            time.sleep(0.011)
            return False

        masker = Masker(patterns=[Pattern("slow", "bad", accept)], on_count=lambda _name, label: told.append(label))
        calls.clear()

        shown = [masker.text(f"a bad day {number}") for number in range(8)]

        assert len(calls) == 5
        assert told.count("hook_timeout") == 5
        assert shown[-1] == "a [masked:slow] day 7"  # closed, not open

    @pytest.mark.parametrize("fault", [KeyboardInterrupt(), SystemExit(1)], ids=repr)
    def test_a_signal_is_not_swallowed(self, fault: BaseException) -> None:
        """
        What a signal handler raises goes through, wherever it strikes: Ctrl-C and a supervisor's stop are not ours.
        """
        masker = Masker(patterns=[Pattern("broken", "bad", _raising(fault))])

        with pytest.raises(type(fault)):
            masker.text("a bad day")

    def test_counting_that_raises(self, run: Recorded) -> None:
        """
        A hook that only counts is cosmetic: the record is kept.
        """

        def count(name: str, label: str) -> None:
            calls.append(name)
            raise RuntimeError

        run.monitor.masker.on_count = count

        info("paid", card="4111 1111 1111 1111")

        assert run.lines()[0]["context"] == {"card": "[masked:card]"}
        assert calls == ["rfs_masked_total"]


class TestE18Storm:
    def test_refuses_beyond_the_limit_and_counts(self) -> None:
        """
        Of a million equal records in one instant the limit is allowed, the rest refused and told once, exactly.
        """
        storms = Storms(VirtualTime().monotonic, 1_000)

        allowed = sum(storms.allow("rfs", "", 20, "storm") for _ in range(1_000_000))

        assert allowed == 1_000
        assert storms.report() == [("rfs", "", 20, "storm", 999_000)]
        assert storms.report() == []

    def test_other_sites_are_not_touched(self) -> None:
        """
        Another text, level, logger or operation has tokens of its own.
        """
        storms = Storms(VirtualTime().monotonic, 10)
        for _ in range(100):
            storms.allow("rfs", "", 20, "storm")

        assert not storms.allow("rfs", "", 20, "storm")
        assert storms.allow("rfs", "", 20, "other")
        assert storms.allow("rfs", "", 30, "storm")
        assert storms.allow("shop", "", 20, "storm")
        assert storms.allow("rfs", "order.place", 20, "storm")

    def test_ordinary_traffic_passes(self) -> None:
        """
        5,000 a second for a minute, and one burst of a whole second, are no storm at the default limit.
        """
        clock = VirtualTime()
        storms = Storms(clock.monotonic)

        for _ in range(6_000):
            clock.advance(0.01)
            assert all(storms.allow("rfs.access", "", 20, "Request completed") for _ in range(50))
        assert all(storms.allow("rfs", "", 20, "batch") for _ in range(int(DEFAULT_LIMIT)))
        assert storms.report() == []

    def test_two_at_once_where_a_bucket_is_empty(self) -> None:
        """
        Two threads find the tokens of a long time used up at once: one refills them, and the other is not refused.
        """
        clock = VirtualTime()
        meanwhile: list[Callable[[], float]] = []
        storms = Storms(lambda: meanwhile.pop()() if meanwhile else clock.monotonic(), 10)
        allowed: list[bool] = []

        def another() -> float:
            allowed.append(storms.allow("rfs", "", 20, "slow"))
            return clock.monotonic()

        for _ in range(10):
            assert storms.allow("rfs", "", 20, "slow")
            clock.advance(1)
        meanwhile.append(another)  # comes while the first asks for the time

        allowed.append(storms.allow("rfs", "", 20, "slow"))

        assert allowed == [True, True]
        assert storms.report() == []

    def test_average_is_the_limit(self) -> None:
        """
        A storm of ten seconds is allowed its burst and ten seconds' worth.
        """
        clock = VirtualTime()
        storms = Storms(clock.monotonic, 1_000)

        allowed = 0
        for _ in range(1_000):
            clock.advance(0.01)
            allowed += sum(storms.allow("rfs", "", 20, "storm") for _ in range(100))

        assert 10_900 <= allowed <= 11_001
        assert sum(told.times for told in storms.report()) == 100_000 - allowed

    def test_texts_made_anew_are_bounded(self) -> None:
        """
        An f-string with a number in it is a storm, too; it takes no more memory than its place may, and spares other places.
        """
        storms = Storms(VirtualTime().monotonic, 100)

        allowed = sum(storms.allow("rfs", "", 20, f"order {number}") for number in range(100_000))
        spared = storms.allow("rfs", "order.place", 20, "x")
        for number in range(10_000):
            storms.allow(f"logger {number}", "", 20, "x")

        assert allowed == MAX_TEXTS_PER_PLACE + 100
        assert len(storms._sites) <= MAX_SITES
        assert len(storms._places) <= MAX_PLACES
        assert spared

    def test_forgets_sites_out_of_use(self) -> None:
        """
        A site that nobody used between two reports is forgotten.
        """
        storms = Storms(VirtualTime().monotonic, 100)
        storms.allow("rfs", "", 20, "once")

        storms.report()
        storms.report()
        storms.report()

        assert (storms._sites, storms._places) == ({}, {})

    def test_hostile_text_is_not_asked(self) -> None:
        """
        A message that is no plain text is allowed unseen.
        """
        storms = Storms(VirtualTime().monotonic, 1)
        calls.clear()

        assert all(storms.allow("rfs", "", 20, hostile(str)) for _ in range(3))
        assert calls == []

    def test_exact_under_threads(self) -> None:
        """
        Four threads in one storm: what is refused is counted once each, though the interpreter switches all the time.
        """
        storms = Storms(VirtualTime().monotonic, 1_000)
        allowed: list[int] = []

        def work() -> None:
            allowed.append(sum(storms.allow("rfs", "", 20, "storm") for _ in range(50_000)))

        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(before)

        assert sum(allowed) == 1_000
        assert [told.times for told in storms.report()] == [199_000]

    def test_from_the_verb_to_the_line(self) -> None:
        """
        A tight loop is cut, the books say by how much, one line says so, and another site is untouched.
        """
        monitor = Monitor(service_name="test", clock=VirtualTime())
        with use_monitor(monitor):
            for _ in range(4):
                for _ in range(30_000):
                    info("storm")
                info("other")
                monitor.query.books()  # collects
            monitor.tick()

        books = monitor.query.books()["records"]
        suppressed = 120_000 - DEFAULT_LIMIT
        assert books["suppressed"] == suppressed
        assert books["produced"] == 120_005
        assert books["delivered"] + suppressed == 120_005
        records = monitor.query.records(limit=100_000)
        assert sum(record.message == "other" for record in records) == 4
        said = [record for record in records if record.message.startswith("Suppressed")]
        assert [record.message for record in said] == [f"Suppressed {suppressed:.0f} records: storm"]
        assert said[0].level == "WARNING"


class TestE19CorrelationIds:
    @pytest.mark.parametrize("wanted", ["", "x" * 65, "x" * 65_536, "a\r\nSet-Cookie: x", "é", "a b", 7, b"a", hostile])
    def test_bad_one_is_replaced(self, run: Recorded, wanted: Any) -> None:
        """
        What is no id is replaced by one of 128 bits, without a look at its own code.
        """
        if wanted is hostile:
            wanted = hostile()
        calls.clear()

        with CorrelationContext(wanted) as given_id:
            info("here")

        assert re.fullmatch("[0-9a-f]{32}", given_id)
        assert run.lines()[0]["correlation_id"] == given_id
        assert calls == []

    def test_do_not_collide(self) -> None:
        """
        200,000 of our own differ, and a valid one is kept to the letter.
        """
        assert len({start_context().correlation_id for _ in range(200_000)}) == 200_000
        assert start_context("Req_12.3:4-5").correlation_id == "Req_12.3:4-5"

    @given(st.text())
    def test_only_the_class_of_the_row(self, text: str) -> None:
        """
        Valid is what the row's grammar says, and nothing else.
        """
        assert is_valid_correlation_id(text) == (re.fullmatch(r"[A-Za-z0-9._:\-]{1,64}", text) is not None)


TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class TestE20Traceparent:
    @pytest.mark.parametrize(
        "header",
        [
            "", "x", f"ff-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01",
            f"00-{TRACE.upper()}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01-extra", f"00-{TRACE}-{SPAN}", f"0-{TRACE}-{SPAN}-01",
            f"00-{TRACE}-{SPAN}-01\n00", f"00-{TRACE}-{SPAN}-01" + "x" * 10_240, "\ud800" * 55, "٠" * 55,
        ],
    )  # fmt: skip
    def test_malformed_begins_a_new_trace(self, header: str) -> None:
        """
        A header that breaks the grammar is not followed, and shows nowhere.
        """
        context = start_context("req-1", header)

        assert parse_traceparent(header) is None
        assert context.trace_id != TRACE
        assert re.fullmatch("[0-9a-f]{32}", context.trace_id)

    def test_well_formed_is_followed(self) -> None:
        """
        One that keeps the grammar is, also in a version to come.
        """
        assert start_context(None, f"00-{TRACE}-{SPAN}-01").trace_id == TRACE
        assert parse_traceparent(f"cc-{TRACE}-{SPAN}-00-later") == (TRACE, SPAN, False)

    @given(st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", fullmatch=True))
    def test_grammar(self, header: str) -> None:
        """
        Of headers in the right shape, version ff and ids of zeros alone are refused.
        """
        if not header.isascii():
            return
        version, trace, span, _ = header.split("-")
        valid = version != "ff" and bool(trace.strip("0")) and bool(span.strip("0"))

        assert (parse_traceparent(header) is not None) == valid


class TestC4BadTimes:
    @pytest.mark.parametrize("created", [math.nan, math.inf, -62135596800.0, 253402300799.0, "yesterday", None])
    def test_record_has_the_time_of_its_arrival(self, run: Recorded, created: Any) -> None:
        """
        A record of the standard library that claims another time, or none at all, has ours.
        """
        before = time.time()

        RfsHandler(run.monitor).emit(logging.makeLogRecord({"msg": "odd", "levelno": 20, "created": created}))

        (record,) = run.monitor.query.records()
        assert before - 1 <= record.timestamp.timestamp() <= time.time() + 1
        assert run.lines()[0]["message"] == "odd"
