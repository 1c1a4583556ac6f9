"""
``bench-store``: what the store does on this machine and disk, beside what it should do on a machine of two cores.

Everything happens in a directory of its own, with records that are made up, the same each time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from statistics import median
from time import monotonic, perf_counter
from typing import NamedTuple

from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from rfs.cli.output import Output, progress
from rfs.errors import StoreError
from rfs.monitoring._capture.record import RecordData, encode_record
from rfs.monitoring._capture.segments import HAS_ERROR, NOTHING_WAITS, Frame, Run
from rfs.monitoring._query import DURATIONS, Query
from rfs.monitoring._store import Moment
from rfs.monitoring._store.local import LocalStore
from rfs.monitoring._store.retention import CHUNKS
from rfs.monitoring._store.sealing import STORE
from rfs.monitoring._totals import Totals
from rfs.monitoring.masking import ErrorInfo
from rfs.monitoring.monitor import Monitor

_END = 1_750_003_200  # when it is, in the made-up past: a full hour
_HOUR = 3_600
_WINDOW_SECONDS = 10
_BATCH = 10_000
_RECORDS_PER_RUN = 400
_RECORDS_PER_ID = 5
_QUESTIONS = 20
_OPERATIONS = tuple(
    f"{noun}.{verb}"
    for noun in ("orders", "payments", "stock", "menu")
    for verb in ["place", "get", "list", "set", "end"]
)
_CODES = ("SOLD_OUT", "CARD_DECLINED", "TIMEOUT", "INVALID_ORDER")


class Measured(NamedTuple):
    """One figure, and its goal: at most, or at least if ``more_is_better``."""

    what: str
    value: float
    unit: str
    goal: float
    more_is_better: bool = False

    @property
    def is_met(self) -> bool:
        """Whether it is as good as its goal."""
        return self.value >= self.goal if self.more_is_better else self.value <= self.goal


def bench_store(place: Path | None, records: int, output: Output) -> None:
    """Measure with *records* records in a temporary directory below *place*, and show the figures; nothing is left behind."""
    with tempfile.TemporaryDirectory(prefix="rfs-bench-", dir=place) as directory, progress(sizes=False) as bar:
        found = list(_measure(Path(directory), records, bar))
    if output.is_json:
        output.objects({**each._asdict(), "is_met": each.is_met, "records": records} for each in found)
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(f"with {records:,} records", overflow="fold")
    table.add_column("here", justify="right", no_wrap=True)
    table.add_column("goal", justify="right", no_wrap=True)
    for each in found:
        style = "green" if each.is_met else "yellow"
        sign = "≥" if each.more_is_better else "≤"
        table.add_row(
            each.what,
            Text(f"{_figure(each.value)} {each.unit}", style=style),
            f"{sign} {_figure(each.goal)} {each.unit}",
        )
    output.show(table)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.3g}"


def _refuse(code: str, text: str) -> None:
    raise StoreError("of the measurement", text, code)


def _measure(directory: Path, records: int, bar: Progress) -> Iterator[Measured]:
    now = float(_END - _HOUR)
    store = LocalStore(
        directory, retention=None, now_seconds=lambda: now, monotonic=monotonic, on_problem=_refuse,
        on_window=_ignore, on_kept=_ignore,
    )  # fmt: skip
    store.lead(1, is_first=True)
    try:
        task = bar.add_task("records", total=records)
        seconds = 0.0
        ids: list[str] = []
        for runs in _records(records, ids):
            began = perf_counter()
            if not store.keep(runs, at_once=True):
                raise StoreError(str(directory), "the records could not be kept", "S105")
            seconds += perf_counter() - began
            bar.advance(task, sum(len(run.frames) for run in runs))
        size = sum(path.stat().st_size for path in (directory / STORE / CHUNKS).iterdir())
        yield Measured("records brought into the store", records / seconds, "a second", 700_000, more_is_better=True)
        yield Measured("size of a record on the disk", size / records, "bytes", 40)
        service, chance = _Service(), Random(2)
        windows = _HOUR // _WINDOW_SECONDS
        task = bar.add_task("windows", total=windows)
        for _ in range(windows):
            now += _WINDOW_SECONDS
            service.work(chance)
            store.write(service.totals(), is_whole=True)
            bar.advance(task)
        query = Query(
            collect=lambda: Moment(Totals({}, {}, {}, {}, {}, []), store.at(None, lambda _text: NOTHING_WAITS)),
            totals=lambda: Totals({}, {}, {}, {}, {}, []),
            now=lambda: now,
            service_name=lambda: "bench",
            statistics=lambda _: {},
        )
        chosen = Random(3)
        goal = 4.0 if records <= 1_000_000 else 20.0
        yield _asked("records of a correlation id", goal, lambda: query.records(correlation_id=chosen.choice(ids)))
        yield _asked("the newest errors", 50, lambda: query.records(min_level=40, limit=100))
        yield _asked("top errors of an hour", 5, lambda: query.top_errors(10, "1h"))
        yield _asked(
            "p95 of 20 operations by minute, an hour",
            5,
            lambda: query.series(DURATIONS, "1h", 60, by=["operation"], aggregation="p95"),
        )
        yield _asked("all operations of an hour", 50, lambda: query.operations("1h"))
    finally:
        store.close()


def _ignore(_: object) -> None:
    pass


def _asked(what: str, goal: float, ask: Callable[[], object]) -> Measured:
    ask()  # the first opens files
    seconds: list[float] = []
    for _ in range(_QUESTIONS):
        began = perf_counter()
        ask()
        seconds.append(perf_counter() - began)
    return Measured(what, median(seconds) * 1e3, "ms", goal)


def _records(count: int, ids: list[str]) -> Iterator[list[Run]]:
    """Records of a service's last hour, some 250 bytes as JSON, in batches; *ids* gets some of their correlation ids."""
    chance = Random(1)
    step_ns = _HOUR * 10**9 // count
    frames: list[Frame] = []
    runs = 0
    identity = ""
    for number in range(count):
        if number % _RECORDS_PER_ID == 0:
            identity = f"{chance.getrandbits(128):032x}"
            if number % 1_000 == 0:
                ids.append(identity)
        frames.append(_frame((_END - _HOUR) * 10**9 + number * step_ns, identity, chance))
        if len(frames) == _BATCH or number == count - 1:
            batch: list[Run] = []
            for at in range(0, len(frames), _RECORDS_PER_RUN):
                some = frames[at : at + _RECORDS_PER_RUN]
                runs += 1
                batch.append(
                    Run(
                        "1-0123456789abcdef.0.segment",
                        runs,
                        range(8, 8 + 300 * len(some), 300),
                        8 + 300 * len(some),
                        some,
                    )
                )
            yield batch
            frames = []


def _frame(time_ns: int, identity: str, chance: Random) -> Frame:
    operation = chance.choice(_OPERATIONS)
    has_failed = chance.random() < 0.03
    code = chance.choice(_CODES) if has_failed else ""
    data = RecordData(
        time_ns=time_ns,
        level=40 if has_failed else 20,
        kind="operation",
        logger="rfs.operation",
        operation=operation,
        step="",
        message="Operation failed" if has_failed else "Operation completed",
        correlation_id=identity,
        trace_id=identity,
        span_id=f"{chance.getrandbits(64):016x}",
        parent_span_id="",
        outcome="failed" if has_failed else "ok",
        duration_seconds=chance.expovariate(50),
        fields={"user_id": f"user-{chance.randrange(50_000)}", "table": chance.randrange(40)},
        error=ErrorInfo("OrderError", code, "refused", None, expected=True, is_defect=False) if has_failed else None,
    )
    return Frame(time_ns, data.level, HAS_ERROR if has_failed else 0, identity, operation, encode_record(data))


class _Service:
    """What measures, as a service does."""

    def __init__(self) -> None:
        self._monitor = Monitor(service_name="bench")

    def work(self, chance: Random) -> None:
        """Ten seconds of it."""
        for operation in _OPERATIONS:
            instruments = self._monitor.operation(operation)
            for _ in range(20):
                instruments.durations_ms.observe(chance.expovariate(0.05))
            instruments.successes.inc(19)
            instruments.failures.inc(1)
            self._monitor.errors_by_type.inc(
                1, operation=operation, error_type="OrderError", error_code=chance.choice(_CODES)
            )

    def totals(self) -> Totals:
        """What it has measured so far."""
        return self._monitor.query.totals()
