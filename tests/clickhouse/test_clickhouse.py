"""
ClickHouse as a store, on the wire: what fails is tried again and counted once, and no secret is told.

That it keeps the contract of every store is shown in tests/monitoring/test_store_contract.py.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import count
from math import ceil, inf, log2, nan
from pathlib import Path
from threading import Thread
from time import monotonic, time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfs.errors import StoreError
from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.record import RecordData, decode_record, encode_record
from rfs.monitoring._capture.segments import HAS_ERROR, Frame, Run
from rfs.monitoring._capture.sketch import Sketch
from rfs.monitoring._store import EVERYTHING, Batch, Wanted, Window
from rfs.monitoring._store import outbox as outbox_module
from rfs.monitoring._store.memory import MemoryStore
from rfs.monitoring.alerts import AlertCondition, Rule
from rfs.monitoring.masking import ErrorInfo
from rfs.monitoring.monitor import Monitor
from tests.cli.test_serving import serving
from tests.clickhouse import engine
from tests.clickhouse.server import USER
from tests.docs.snippets import ROOT, Snippet, snippets
from tests.faults.processes import eventually

if TYPE_CHECKING:
    from rfs.monitoring._store.clickhouse import ClickHouseStore

pytestmark = pytest.mark.clickhouse

NOW = 1_800_000_000
LONG = 30.0
ORDERS = SeriesKey("orders_total", (("status", "created"),))
WAITS = SeriesKey("wait_seconds", ())
OPEN = SeriesKey("connections", ())
_DATABASES = count()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "_FIRST_PAUSE_SECONDS", 0.01)


@pytest.fixture
def server() -> Iterator[engine.Server]:
    found = engine.server()
    found.faults()
    found.seen()
    yield found
    found.faults()


@pytest.fixture
def store(server: engine.Server) -> Iterator[ClickHouseStore]:
    with closing(engine.store()) as made:
        yield made


def batch(sequence: int = 0, *, process: str = "p") -> Batch:
    """A record, and one of each kind of series."""
    run = Run(f"{process}.segment", sequence + 1, [8], 64, [Frame(NOW * 10**9, 20, 0, "id", "op", b"payload")])
    sketch = Sketch(2, 3.0, 0, 1.0, 2.0, {0: 1, 64: 1}, {})
    return Batch(process, sequence, [run], Window(NOW + sequence, {ORDERS: 2.0}, {OPEN: 5.0}, {WAITS: sketch}))


def flushed(store: ClickHouseStore) -> None:
    deadline = monotonic() + LONG
    while not store.flush(LONG):
        assert monotonic() < deadline


def counts(store: ClickHouseStore) -> tuple[int, list[float | None], list[float | None], int]:
    """How often each table has what `batch` brings: records, seconds, minutes, and of a distribution."""
    sketch = store.sketches([WAITS], NOW, NOW + 60)[0]
    return (
        len(store.records(EVERYTHING, limit=9)),
        store.increases([ORDERS], NOW, NOW + 59),  # from the seconds
        store.increases([ORDERS], NOW - 3_600, NOW + 60),  # from the minutes
        sketch.count if sketch else 0,
    )


ONCE = (1, [2.0], [2.0], 2)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def store_at(url: str, problems: list[tuple[str, str]] | None = None) -> ClickHouseStore:
    from rfs.monitoring._store.clickhouse import ClickHouseStore

    told = problems if problems is not None else []
    return ClickHouseStore.from_url(url, service="s", on_problem=lambda code, text: told.append((code, text)))


class TestRetry:
    @pytest.mark.parametrize("fault", ["error", "lost"])
    @pytest.mark.parametrize("table", ["records", "windows"])
    def test_a_failed_insert_is_tried_again(
        self, server: engine.Server, store: ClickHouseStore, fault: str, table: str
    ) -> None:
        """
        An insert that the server refuses, or whose answer is lost after the server has done it, is repeated under the same
        token until it is answered; all is there once.
        """
        server.faults(**{table: [fault] * 3})

        store.append(batch())
        flushed(store)

        inserts = [one for one in server.seen() if one["table"] == table]
        assert [one["fault"] for one in inserts if one["fault"]] == [fault] * 3
        assert len({one["token"] for one in inserts}) == 1
        assert inserts[0]["token"]
        assert counts(store) == ONCE
        assert store.statistics()["failed_attempts"] > 0

    @pytest.mark.parametrize("fault", ["hang", "late"])
    def test_an_insert_without_an_answer_is_given_up(
        self, server: engine.Server, monkeypatch: pytest.MonkeyPatch, fault: str
    ) -> None:
        """
        A server that does not answer is left after a bounded time, and asked again; if it does late what it was asked first, that
        is known again.
        """
        from rfs.monitoring._store import clickhouse

        monkeypatch.setattr(clickhouse, "_ANSWER_SECONDS", 1)
        server.faults(windows=[fault])
        with closing(engine.store()) as store:
            store.append(batch())
            flushed(store)

            assert [one["fault"] for one in server.seen() if one["fault"]] == [fault]
            assert counts(store) == ONCE

    def test_a_server_that_is_not_there(self) -> None:
        """
        Where nobody listens, batches are accepted and wait, and a question says what is wrong; a close counts them as lost.
        """
        problems: list[tuple[str, str]] = []
        url = f"clickhouse://127.0.0.1:{free_port()}/rfs"
        store = store_at(url, problems)

        assert store.append(batch())
        assert not store.append(batch())
        assert not store.flush(LONG)
        with pytest.raises(StoreError, match="refused") as error:
            store.kinds()
        store.close()

        assert error.value.code == "S116"
        assert str(error.value).startswith(f"store {url}: ")
        assert [code for code, _ in problems] == ["S116", "S117"]
        assert "1 records and 1 windows are lost" in problems[-1][1]

    def test_a_server_that_comes_later(self, server: engine.Server) -> None:
        """
        What was appended while the server was away arrives when it is there, in order and once.
        """
        from clickhouse_connect.driver.exceptions import ClickHouseError

        from rfs.monitoring._store.clickhouse import ClickHouseStore

        real = store_at(server.url())
        away = 3

        def connect() -> Any:
            nonlocal away
            away -= 1
            if away >= 0:
                raise ClickHouseError("away")
            return real._connect()

        with closing(ClickHouseStore(connect, service="later")) as store:
            for sequence in range(5):
                store.append(batch(sequence))
            flushed(store)

            assert away < 0
            assert store.increases([ORDERS], NOW, NOW + 60) == [10.0]
            assert len(store.records(EVERYTHING, limit=9)) == 5

    def test_what_another_leader_delivers_again(self, store: ClickHouseStore) -> None:
        """
        Records that a second process appends under another name and in other runs, because the first may have died before, are
        kept once: they are known by where they were written.
        """
        frames = [Frame(NOW * 10**9 + n, 20, 0, "id", "op", b"%d" % n) for n in range(4)]
        store.append(Batch("first", 0, [Run("a.segment", 7, [8, 72, 136], 200, frames[:3])], None))
        store.flush(LONG)

        store.append(Batch("second", 0, [Run("a.segment", 7, [72, 136, 200], 264, frames[1:])], None))

        found = store.records(EVERYTHING, limit=9)
        assert [one.frame for one in found] == frames[::-1]
        assert [one.frame for one in store.records(EVERYTHING, limit=9, before=found[1].cursor)] == frames[1::-1]

    def test_inserts_are_compressed(self, server: engine.Server, store: ClickHouseStore) -> None:
        """
        What goes over the wire is compressed, in both directions.
        """
        frames = [Frame(NOW * 10**9 + n, 20, 0, "id", "op", b"payload" * 9) for n in range(200)]
        store.append(Batch("p", 0, [Run("a.segment", 1, range(200), 200, frames)], None))

        assert len(store.records(EVERYTHING, limit=500)) == 200
        assert {one["encoding"] for one in server.seen()} == {"zstd"}

    def test_many_rows_go_in_several_inserts(
        self, server: engine.Server, store: ClickHouseStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        A large batch is cut, each piece under a token of its own, and an attempt that fails between is repeated as a whole.
        """
        from rfs.monitoring._store import clickhouse

        monkeypatch.setattr(clickhouse, "_MAX_ROWS", 40)
        server.faults(records=["", "error"])
        frames = [Frame(NOW * 10**9 + n, 20, 0, "id", "op", b"payload") for n in range(100)]
        store.append(Batch("p", 0, [Run("a.segment", 1, range(100), 200, frames)], None))
        flushed(store)

        tokens = [one["token"] for one in server.seen()]
        assert len(tokens) == 5
        assert len(set(tokens)) == 3
        assert len(store.records(EVERYTHING, limit=500)) == 100


class TestSecrets:
    @pytest.mark.parametrize("where", ["wrong password", "refused"])
    def test_no_credential_is_told(self, server: engine.Server, where: str, caplog: pytest.LogCaptureFixture) -> None:
        """
        Neither an error with all that it was caused by, nor what is told or logged, nor the store itself shows a password.
        """
        caplog.set_level(logging.DEBUG)
        problems: list[tuple[str, str]] = []
        port = server.port if where == "wrong password" else free_port()
        store = store_at(f"clickhouse://{USER}:hunter%202@127.0.0.1:{port}/rfs", problems)
        store.append(batch())
        store.flush(LONG)
        with pytest.raises(StoreError) as error:
            store.kinds()
        store.close()

        told = "".join(traceback.format_exception(error.value)) + repr(store) + repr(problems) + caplog.text
        assert "S116" in told
        assert "hunter" not in told
        assert "aHVudGVy" not in told  # as Basic authentication has it

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "http://a:hunter2@host/rfs",
            "clickhouse://a:hunter2@/rfs",
            "clickhouse://a:hunter2@host:port/rfs",
            "clickhouse://a:hunter2@[::1/rfs",
            "clickhouse://a:hunter2@host/rfs;drop",
            "clickhouse://a:hunter2@host/rfs?secret=hunter2",
            "clickhouse://a:hunter2@host/rfs?delay_seconds=hunter2",
        ],
    )
    def test_a_wrong_url_is_not_repeated(self, url: str) -> None:
        """
        What is no URL of a store is refused without showing it.
        """
        with pytest.raises(ValueError, match=r"clickhouse://user:password@host:port/database") as error:
            store_at(url)

        assert "hunter2" not in "".join(traceback.format_exception(error.value))

    def test_a_url_says_all(self) -> None:
        """
        Port and database may be left out; user and password are unquoted; `clickhouses` is TLS.
        """
        from rfs.monitoring._store.clickhouse import _Address

        short = _Address.of("clickhouse://host")
        full = _Address.of("clickhouses://a%40b:c%2Fd@host/x?delay_seconds=1.5&max_waiting_bytes=1000")

        assert (short.name, short.database) == ("clickhouse://host:8123/rfs", "rfs")
        assert short.arguments["username"] == "default"
        assert full.name == "clickhouses://host:8443/x"
        assert (full.arguments["username"], full.arguments["password"]) == ("a@b", "c/d")
        assert full.arguments["secure"]
        assert full.options == {"delay_seconds": 1.5, "max_waiting_bytes": 1_000}


class TestSchema:
    @pytest.fixture
    def database(self, server: engine.Server) -> Iterator[str]:
        name = f"schema_{next(_DATABASES)}"
        yield name
        client = server.client("default")
        client.command(f"DROP DATABASE IF EXISTS {name}")
        client.close()

    def test_a_newer_one_is_refused(self, server: engine.Server, database: str) -> None:
        """
        A database that a newer RFS has migrated is neither read nor written nor changed, and the error says what to do.
        """
        first = store_at(server.url(database))
        first.kinds()
        first.close()
        client = server.client(database)
        client.command("INSERT INTO schema_versions VALUES (99, now())")
        problems: list[tuple[str, str]] = []
        store = store_at(server.url(database), problems)

        with pytest.raises(
            StoreError, match=r"has schema version 99, and this RFS knows 1 at most; update RFS"
        ) as error:
            store.kinds()
        assert store.append(batch())
        assert not store.flush(LONG)
        with pytest.raises(StoreError, match="schema version 99"):
            store.append(batch(1))

        client.command("TRUNCATE TABLE schema_versions")
        client.command("INSERT INTO schema_versions VALUES (1, now())")
        flushed(store)
        assert store.append(batch(1))  # what was refused was not taken as kept
        store.close()
        client.close()
        assert error.value.code == "S112"
        assert problems[0][0] == "S112"

    def test_a_migration_that_was_killed_goes_on(self, server: engine.Server, database: str) -> None:
        """
        However many of a migration's statements were done before a kill, the next store does the rest.
        """
        from rfs.monitoring._store import clickhouse

        statements = [clickhouse._VERSIONS, *clickhouse.MIGRATIONS[0]]
        for done in range(len(statements) + 1):
            name = f"{database}_{done}"
            client = server.client("default")
            client.command(f"CREATE DATABASE {name}")
            client.database = name
            for statement in statements[:done]:
                client.command(statement)
            with closing(store_at(server.url(name))) as store:
                store.append(batch())
                assert store.kinds() == {"orders_total": "counter", "connections": "gauge", "wait_seconds": "histogram"}
            assert client.query("SELECT version FROM schema_versions").result_rows == [(1,)]
            client.command(f"DROP DATABASE {name}")
            client.close()

    def test_several_at_once(self, server: engine.Server, database: str) -> None:
        """
        Stores that find no tables at the same moment all come to work.
        """
        faults: list[BaseException] = []

        def use(number: int) -> None:
            try:
                with closing(store_at(server.url(database))) as store:
                    store.append(batch(process=f"p{number}"))
                    store.kinds()
            except BaseException as error:  # noqa: BLE001 - shown below
                faults.append(error)

        threads = [Thread(target=use, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        client = server.client(database)
        assert faults == []
        assert client.query("SELECT count() FROM records").result_rows == [(4,)]
        client.close()


def data(**changed: object) -> RecordData:
    record = RecordData(
        NOW * 10**9 + 5, 40, "operation", "shop", "place_order", "charge", "card refused", "id-1", "t" * 32, "s" * 16,
        "", "failed", 0.25, {"user_id": "u1", "amount": 3, "deep": {"list": [1, None, 2.5, "ß"]}},
        ErrorInfo("CardError", "CARD_REFUSED", "refused", "Traceback …", expected=True, is_defect=False),
    )  # fmt: skip
    for name, value in changed.items():
        setattr(record, name, value)
    return record


def frame_of(record: RecordData) -> Frame:
    return Frame(
        record.time_ns, record.level, HAS_ERROR, record.correlation_id, record.operation, encode_record(record)
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


class TestRows:
    @settings(max_examples=200)
    @given(
        st.builds(
            data,
            message=st.text(),
            duration_seconds=st.none() | st.floats(),
            fields=st.dictionaries(st.text(), JSON, max_size=3),
            error=st.none() | st.builds(ErrorInfo, st.text(), st.text(), st.text(), st.none() | st.text(), st.booleans(), st.booleans()),
        )
        .map(frame_of)
        | st.builds(Frame, st.integers(0, 2**60), st.integers(0, 255), st.integers(0, 3), st.text(), st.text(), st.binary())
    )  # fmt: skip
    def test_any_record_comes_back(self, frame: Frame) -> None:
        """
        Whatever a record holds, its columns together are that record, byte by byte.
        """
        from rfs.monitoring._store.clickhouse import _RECORD_COLUMNS, _record_of, _row_of

        row = _row_of(frame)

        assert len(row) == len(_RECORD_COLUMNS) - 5
        assert _record_of(("a.segment", 1, 8, *row)).frame == frame

    @pytest.mark.parametrize(
        "fields", [{}, {"n": nan}, {"n": inf}, {"n": 2**63}, {"b": b"\xff"}, {"": "\0"}, {"t": "Zürich 東京"}]
    )
    def test_any_record_comes_back_from_the_server(self, store: ClickHouseStore, fields: dict[str, object]) -> None:
        """
        So are the columns that ClickHouse gives back.
        """
        frame = frame_of(data(fields=fields))
        store.append(Batch("p", 0, [Run("a.segment", 1, [8], 64, [frame])], None))

        assert [one.frame for one in store.records(EVERYTHING, limit=9)] == [frame]

    def test_people_read_columns(self, server: engine.Server, store: ClickHouseStore) -> None:
        """
        What a record says is in columns with its names, and not a second time as a whole.
        """
        store.append(Batch("p", 0, [Run("a.segment", 1, [8], 64, [frame_of(data())])], None))
        store.flush(LONG)
        client = server.client()
        columns = (
            "toString(time), level, kind, logger, operation, step, message, correlation_id, outcome, duration_seconds, "
            "JSONExtractString(fields, 'user_id'), error_type, error_code, error_message, error_expected, payload"
        )

        found = client.query(
            f"SELECT {columns} FROM records WHERE service = {{s:String}}", parameters={"s": store._service}
        ).result_rows
        client.close()

        assert found == [
            ("2027-01-15 08:00:00.000000005", 40, "operation", "shop", "place_order", "charge", "card refused", "id-1",
             "failed", 0.25, "u1", "CardError", "CARD_REFUSED", "refused", True, None),
        ]  # fmt: skip
        assert decode_record(store.records(EVERYTHING, limit=1)[0].frame.payload) == data()

    def test_values_are_never_part_of_the_question(self, store: ClickHouseStore) -> None:
        """
        Whatever somebody asks for is compared, not run.
        """
        hostile = "x' OR 1=1; DROP TABLE records -- {level:UInt8} \\"
        frame = Frame(NOW * 10**9, 20, 0, hostile, hostile, b"payload")
        key = SeriesKey(hostile, ((hostile, hostile),))
        store.append(Batch(hostile, 0, [Run(hostile, 1, [8], 64, [frame])], Window(NOW, {key: 1.0})))

        assert list(store.series(hostile)) == [key]
        assert store.increases([key], NOW, NOW + 1) == [1.0]
        (found,) = store.records(Wanted(operation=hostile, correlation_id=hostile), limit=9)
        assert found.frame == frame
        assert store.records(EVERYTHING, limit=9, before=found.cursor) == []
        assert store.records(Wanted(operation="x"), limit=9) == []

    def test_services_share_a_database(self, server: engine.Server, store: ClickHouseStore) -> None:
        """
        A store sees its own service, whatever others keep beside it.
        """
        with closing(engine.store()) as other:
            other.append(batch())
            other.flush(LONG)

            assert store.kinds() == {}
            assert store.records(EVERYTHING, limit=9) == []
            assert store.statistics()["records"] == 0
            assert store.points([OPEN], NOW, NOW + 1, 1) == [[None]]


@pytest.fixture(scope="module")
def written() -> Iterator[tuple[ClickHouseStore, dict[int, int]]]:
    """Three hours, a window every seven seconds, each counting and measuring and showing the number of its turn."""
    store = engine.store()
    amounts = {NOW + second: turn + 1 for turn, second in enumerate(range(0, 10_800, 7))}
    for sequence, (second, amount) in enumerate(amounts.items()):
        sketch = Sketch(1, float(amount), 0, float(amount), float(amount), {amount % 40: 1}, {})
        window = Window(second, {ORDERS: float(amount)}, {OPEN: float(amount)}, {WAITS: sketch})
        store.append(Batch("p", sequence, [], window))
    flushed(store)
    yield store, amounts
    store.close()


class TestRanges:
    @settings(max_examples=25)
    @given(start=st.integers(-200, 11_000), seconds=st.integers(1, 11_000), part=st.sampled_from([0.0, 0.25]))
    def test_any_range_is_exact(
        self, written: tuple[ClickHouseStore, dict[int, int]], start: int, seconds: int, part: float
    ) -> None:
        """
        Whether a range is put together from seconds or minutes, it is what brute force adds up.
        """
        store, amounts = written
        first, end = NOW + start + part, NOW + start + seconds + part
        within = [amount for second, amount in amounts.items() if first <= second < end]

        assert store.increases([ORDERS], first, end) == [sum(within)]
        (sketch,) = store.sketches([WAITS], first, end)
        assert sketch is not None
        assert (sketch.count, sketch.sum) == (len(within), sum(within))
        assert sum(sketch.positive.values()) == len(within)
        if within:
            assert (sketch.min, sketch.max) == (min(within), max(within))

    @settings(max_examples=25)
    @given(
        start=st.integers(-3, 30),
        step=st.sampled_from([7, 60, 90, 120, 600]),
        steps=st.integers(1, 20),
        whole=st.booleans(),
    )
    def test_any_steps_are_exact(
        self, written: tuple[ClickHouseStore, dict[int, int]], start: int, step: int, steps: int, whole: bool
    ) -> None:
        """
        So are the steps of a time series, of every kind.
        """
        store, amounts = written
        first = NOW + start * (60 if whole else 7)
        parts = [
            [amount for second, amount in amounts.items() if first + n * step <= second < first + (n + 1) * step]
            for n in range(steps)
        ]
        found = store.points([ORDERS, OPEN, WAITS], first, first + steps * step, step)
        together = store.distributions([WAITS], first, first + steps * step, step)

        assert found[0] == [sum(part) if part else None for part in parts]
        assert found[1] == [part[-1] if part else None for part in parts]
        assert found[2] == [len(part) if part else None for part in parts]
        assert [None if one is None else one.count for one in together] == found[2]

    def test_a_gauge_stays_what_it_was(self, store: ClickHouseStore) -> None:
        """
        A gauge that has not changed keeps its last value, however long ago, wherever a window was closed.
        """
        store.append(Batch("p", 0, [], Window(NOW, gauges={OPEN: 7.0})))
        store.append(Batch("p", 1, [], Window(NOW + 5, gauges={OPEN: 3.0})))
        store.append(Batch("p", 2, [], Window(NOW + 5, gauges={OPEN: 2.0})))  # of one second the last word
        store.append(Batch("p", 3, [], Window(NOW + 7_201)))

        assert store.points([OPEN], NOW + 4, NOW + 7, 1) == [[None, 2.0, None]]
        assert store.points([OPEN], NOW + 7_200, NOW + 7_203, 1) == [[None, 2.0, None]]
        assert store.points([OPEN], NOW + 7_200, NOW + 7_320, 60) == [[2.0, None]]
        assert store.points([OPEN], NOW - 60, NOW + 60, 60) == [[None, 2.0]]

    def test_when_seconds_are_gone(self, server: engine.Server) -> None:
        """
        Of days that are only kept by the minute, the minutes count that begin within the range.
        """
        from rfs.monitoring._store.clickhouse import DAY, SECONDS_DAYS, ClickHouseStore

        real = store_at(server.url())
        later = NOW + SECONDS_DAYS * DAY + 3_600
        with closing(ClickHouseStore(real._connect, service="old", now=lambda: later)) as store:
            for sequence, second in enumerate((NOW + 30, NOW + 90, NOW + 150, later - 5)):
                store.append(Batch("p", sequence, [], Window(second, {ORDERS: 10.0**sequence})))
            store.flush(LONG)
            client = server.client()
            client.command(f"DELETE FROM windows WHERE service = 'old' AND second < toDateTime({later - DAY}, 'UTC')")
            client.close()

            assert store.increases([ORDERS], NOW, later) == [1_111.0]
            assert store.increases([ORDERS], NOW, later - 5) == [111.0]
            assert store.increases([ORDERS], NOW + 1, NOW + 121) == [110.0]
            assert store.increases([ORDERS], NOW + 61, NOW + 62) == [0.0]
            assert store.points([ORDERS], NOW + 1, NOW + 181, 90) == [[10.0, 100.0]]


class TestCluster:
    def test_the_statements_fit_together(self, server: engine.Server) -> None:
        """
        The engine can parse each of a cluster's statements; made without replicas, what is inserted on a shard reaches its minutes
        and series.
        """
        from rfs.monitoring.clickhouse import cluster_schema

        client = server.client("default")
        client.command("CREATE DATABASE cluster")
        client.database = "cluster"
        for statement in cluster_schema("main"):
            if statement.startswith("CREATE"):
                client.query(f"EXPLAIN AST {statement}")
                alone = re.sub(r"Replicated(\w+)\('[^']*', '[^']*'\)", r"\1()", statement)
                alone = re.sub(r"^ *(TTL|SETTINGS) .*$", "", alone.replace("ON CLUSTER main", ""), flags=re.MULTILINE)
                if "ENGINE = Distributed" not in alone:
                    client.command(alone)
            else:
                client.command(statement)
        key = ["orders", "waits", "wait_seconds", 7, "histogram", 2, 60]
        columns = ["service", "process", "name", "series", "kind", "count", "second"]
        client.insert("windows_local", [key], column_names=columns)

        counts = "SELECT (SELECT sum(count) FROM minutes_local), (SELECT count() FROM series_local)"
        assert client.query(counts).result_rows == [(2, 1)]
        assert client.query("SELECT max(version) FROM schema_versions").result_rows == [(1,)]
        client.command("DROP DATABASE cluster")
        client.close()


class TestDocumentation:
    @pytest.mark.parametrize(
        "snippet",
        [one for one in snippets(ROOT / "docs" / "how-to" / "clickhouse.md") if one.language == "sql"],
        ids=str,
    )
    def test_its_sql_runs(self, server: engine.Server, snippet: Snippet) -> None:
        """
        Every statement of the guide runs on the tables that the store makes.
        """
        client = server.client("default")
        client.command("CREATE DATABASE IF NOT EXISTS guide")
        with closing(store_at(server.url("guide"))) as store:
            store.kinds()
        client.database = "guide"
        if snippet.code.startswith("ALTER"):
            client.command(snippet.code)
        else:
            client.query(snippet.code)
        client.command("DROP DATABASE guide")
        client.close()

    def test_its_quantile_is_the_stores(self, server: engine.Server) -> None:
        """
        The guide's way to a quantile, and the store's, come to the same within a bucket.
        """
        (text,) = [one.code for one in snippets(ROOT / "docs" / "how-to" / "clickhouse.md") if "p95" in one.code]
        real = store_at(server.url())
        minute = int(time()) // 60 * 60
        durations = SeriesKey("result_duration_ms", (("operation", "pay"),))
        sketch = Sketch(100, 5_050.0, 0, 1.0, 100.0, {}, {})
        for number in range(1, 101):
            bucket = ceil(64 * log2(number))
            sketch.positive[bucket] = sketch.positive.get(bucket, 0) + 1
        from rfs.monitoring._store.clickhouse import ClickHouseStore

        with closing(ClickHouseStore(real._connect, service="orders")) as store:
            store.append(Batch("p", 0, [], Window(minute, sketches={durations: sketch})))
            store.flush(LONG)
            client = server.client()
            ((_, operation, _, value),) = client.query(text).result_rows
            client.close()

            assert operation == "pay"
            assert value == pytest.approx(store.quantiles([durations], 0.95, minute, minute + 60, 60)[0][0], rel=0.011)
            assert value == pytest.approx(95, rel=0.011)


class TestMonitor:
    def test_what_is_recorded_is_in_clickhouse(self, server: engine.Server) -> None:
        """
        A Monitor with this store records, and another process' Monitor of the same service answers.
        """
        first, second = store_at(server.url()), store_at(server.url())
        first._service = second._service = "monitored"
        writer, reader = Monitor(service_name="monitored", store=first), Monitor(service_name="monitored", store=second)
        writer.counter("orders_total").labels(status="created").inc(3)
        writer.log(20, "stored far away")
        writer.query.summary()  # collects
        assert first.flush(LONG)

        assert [one.message for one in reader.query.records(limit=9)] == ["stored far away"]
        assert second.increases([ORDERS], 0, 2**31) == [3.0]
        for store in (first, second):
            store.close()


class TestAllMachines:
    @pytest.fixture
    def watching(self, server: engine.Server, tmp_path: Path) -> Iterator[Monitor]:
        """Answers for two machines that have measured."""
        with ExitStack() as stack:

            def machine(**where: Any) -> Monitor:
                store = store_at(server.url())
                store._service = f"all-{tmp_path}"
                monitor = Monitor(service_name="all", forward_to=store, **where)
                stack.callback(monitor.stop)
                return monitor

            for number, name in enumerate(("first", "second"), 1):
                monitor = machine(directory=tmp_path / name)
                monitor.counter("orders_total").labels(status="created").inc(3)
                monitor.histogram("wait_seconds").observe(number)
                monitor.gauge("tables_open").set(10 * number)
                monitor.gauge("tables_open").set(number, store="seoul")
                monitor.log(20, f"stored by the {name}")
                monitor.beat()
                monitor.stop()
            watching = machine()
            watching.answer_for_all_machines()
            yield watching

    def test_answers_are_of_all(self, watching: Monitor) -> None:
        """
        Counters are added up, of a gauge the value that was written last counts, and records are those of all.
        """
        query = watching.query

        assert query.increase("orders_total", "5m") == 6
        assert query.latest("tables_open", {"store": "seoul"}) == 2
        assert query.latest("tables_open", {"store": ""}) == 20
        assert query.latest("tables_closed") is None
        assert query.latest_by("tables_open", "store") == {"": 20, "seoul": 2}
        assert query.summary()["gauges"]["tables_open"] in (2, 20)
        assert query.summary()["counters"]["orders_total"] == 6
        assert {record.message for record in query.records(limit=9)} == {"stored by the first", "stored by the second"}
        assert query.books() == {}

    def test_rules_are_evaluated_over_all(self, watching: Monitor) -> None:
        """
        No machine alone breaches these rules; all together do. What nobody has measured is unknown, and does not fire.
        """
        for rule in (
            Rule("many", "orders_total", AlertCondition.GREATER_THAN, 5, labels={"status": "created"}),
            Rule("slow", "wait_seconds", AlertCondition.GREATER_THAN, 1.9),
            Rule("full", "tables_open", AlertCondition.GREATER_THAN, 1, labels={"store": "seoul"}),
            Rule("closed", "tables_closed", AlertCondition.LESS_THAN, 1),
        ):
            watching.alerts.set_rule(rule)

        watching.beat()

        assert {alert.rule_name for alert in watching.alerts.active()} == {"many", "slow", "full"}

    def test_nobody_is_there(self, watching: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A minute after the last window of any machine the value of a gauge is unknown.
        """
        for _ in range(2):
            watching.log(20, "looked")
            watching.beat()
        assert watching.query.latest("tables_open") is not None

        monkeypatch.setattr(watching._forward_to, "_now", lambda: time() + 62)
        watching.beat()

        assert watching.query.latest("tables_open") is None

    def test_a_machines_own_store_is_refused(self, tmp_path: Path) -> None:
        """
        Without a store of many machines it cannot be asked for.
        """
        for monitor, fault in (
            (Monitor(), "has no `forward_to` that many machines write into"),
            (Monitor(forward_to=MemoryStore()), "has no `forward_to` that many machines write into"),
            (Monitor(directory=tmp_path), f"has a directory of its own, {tmp_path}"),
        ):
            with pytest.raises(ValueError, match=fault):
                monitor.answer_for_all_machines()
            monitor.stop()

    def test_from_the_command_line(self, watching: Monitor, server: engine.Server, tmp_path: Path) -> None:
        """
        ``rfs serve --everywhere`` shows what all machines have sent, and fires over all of them.
        """
        (tmp_path / "rules.py").write_text(
            "from rfs.monitoring import AlertCondition, create_alert_rule\n"
            'create_alert_rule("many", "orders_total", AlertCondition.GREATER_THAN, 5)\n'
        )
        with serving(
            "--everywhere", "-s", f"all-{tmp_path}", "--import", "rules", folder=tmp_path, RFS_STORE=server.url()
        ) as served:
            eventually(lambda: served.get("/api/overview").json()["health"]["active_alerts"] == 1)
            said = served.get("/api/records?limit=50").text

        assert "stored by the first" in said
        assert "stored by the second" in said
        assert served.said["alert_rules"] == 1


class TestProcesses:
    def test_a_forked_child_is_a_process_of_its_own(self, server: engine.Server, store: ClickHouseStore) -> None:
        """
        A child sends what it has appended, over connections of its own, and nothing of what its parent has.
        """
        store.append(batch(0))
        store.flush(LONG)
        store.append(batch(1))

        child = os.fork()
        if not child:
            try:
                store.after_fork()
                store.append(batch(2, process="child"))
                os._exit(0 if store.flush(LONG) and store.statistics()["sent_records"] == 1 else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

        assert store.increases([ORDERS], NOW, NOW + 9) == [6.0]
        assert store.statistics()["sent_records"] == 2

    def test_many_threads_ask_and_append(self, store: ClickHouseStore) -> None:
        """
        From many threads at once each appends and reads what it has appended.
        """
        faults: list[object] = []

        def use(number: int) -> None:
            try:
                key = SeriesKey(f"c{number}", ())
                for sequence in range(5):
                    store.append(Batch(f"p{number}", sequence, [], Window(NOW + sequence, {key: 1.0})))
                    if store.increases([key], NOW, NOW + 9) != [sequence + 1.0]:
                        faults.append((number, sequence))
            except BaseException as error:  # noqa: BLE001 - shown below
                faults.append(error)

        threads = [Thread(target=use, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert faults == []
