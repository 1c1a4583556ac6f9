"""
FAULTS.md §2.B, row B27 with two versions that there are: what a commit of this repository's history writes, and this tree reads and goes
on with. With a version that is not there yet, `test_b_store`.

The older one is taken out of the repository and stands in the place of this tree's ``src`` for processes of its own, in the same
environment. Each process looks whether it has the library that it should.
"""

from __future__ import annotations

import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import pytest

from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.instruments import INTERNAL_ERRORS
from rfs.monitoring._capture.record import LogRecord
from rfs.monitoring._query import Query
from rfs.monitoring._reading import open_directory
from tests.faults.processes import FAR_SECONDS, ROOT, Process, environment, eventually
from tests.faults.programs.deployed import FAILS_EACH, NUMBER, OPERATION, wait_of
from tests.faults.programs.history import EACH, STEPS
from tests.faults.tools import needs

pytestmark = pytest.mark.fault

OLDER = "883aad662e4b98fec7085d589064fd1a4218584f"  # its catalogue is of version 1
NEWER = ROOT / "src"
ENOUGH = 100  # numbers of each worker for a while in which all work
CUT_OFF = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]]  # what a kill may have left of a number's three records
OWN_ANSWERS = {"books", "summary", "totals"}  # which change when somebody leads


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The older version's ``src``."""
    needs("git", "tar")
    git = ["git", "-C", str(ROOT), "archive", OLDER, "src"]
    archive = subprocess.run(git, capture_output=True, check=False, timeout=FAR_SECONDS)
    if archive.returncode:  # no repository, or one without its history
        pytest.skip(f"needs the commit {OLDER[:7]}: {archive.stderr.decode(errors='replace').strip()}")
    folder = tmp_path_factory.mktemp("older")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True, timeout=FAR_SECONDS)
    return folder / "src"


def scribe(source: Path, folder: Path) -> Process:
    """The program `history`, with the version that lies in *source*."""
    return Process("history", source, folder, env=environment(PYTHONPATH=str(source)))


class Worker:
    """A worker of the version that lies in *source*, and how many calls have returned there."""

    def __init__(self, folder: Path, source: Path, name: str) -> None:
        self.name = name
        self.returned = 0
        self.is_killed = False
        self.process = Process(
            "deployed",
            source,
            name,
            "WITNESS",
            env=environment(RFS_DIR=str(folder), PYTHONPATH=str(source)),
        )

    @property
    def leads(self) -> bool:
        return bool(self.process.ask(do="look")["leads"])

    def reaches(self, count: int) -> bool:
        """Whether so many calls have returned."""
        for (number,) in NUMBER.iter_unpack(self.process.witnessed()):
            assert number == self.returned, "the witness itself is wrong"
            self.returned += 1
        return self.returned >= count

    def stop(self) -> None:
        """End it as a service ends."""
        self._is_at(self.process.ask(do="stop"))
        assert self.process.wait() == 0
        assert "Traceback" not in self.process.errors()

    def kill(self) -> None:
        """Kill it wherever it is."""
        self.process.kill()
        self.is_killed = True
        self.reaches(0)

    def get_on(self) -> None:
        """Wait until it has done enough more."""
        enough = self.returned + ENOUGH
        eventually(lambda: self.reaches(enough), says=self.process.errors)

    def rest(self) -> None:
        """Let it end the call that is under way, and begin no other."""
        self._is_at(self.process.ask(do="rest"))

    def _is_at(self, count: int) -> None:
        self.reaches(0)
        assert self.returned == count


class Crew:
    """The workers of one directory, the dead ones included."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._workers: list[Worker] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def living(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.process.status is None]

    def join(self, source: Path) -> Worker:
        """Start a worker."""
        worker = Worker(self._folder, source, f"w{len(self._workers)}")
        self._stack.enter_context(worker.process)
        self._workers.append(worker)
        assert worker.process.answer() == "ready"
        return worker

    def await_lead_of(self, *workers: Worker) -> None:
        """Wait until one of these leads."""
        eventually(
            lambda: any(worker.leads for worker in workers),
            says=lambda: [worker.process.errors() for worker in workers],
        )

    def go(self) -> None:
        """Let all work from now on."""
        for worker in self.living:
            assert worker.process.ask(do="go") == "going"
        self.get_on()

    def get_on(self) -> None:
        """Wait until each that lives has done enough more."""
        for worker in self.living:
            worker.get_on()

    def rest(self) -> None:
        """Let all rest."""
        for worker in self.living:
            worker.rest()

    def settle(self) -> None:
        """Wait until whatever was recorded has arrived."""
        looks = self.living[0].process
        eventually(lambda: looks.ask(do="look")["in_flight"] == 0, says=lambda: (looks.ask(do="look"), looks.errors()))

    def look(self) -> dict[str, float]:
        """
        See as a new reader that all that was done is there once, and return the books of the records.

        Of who was killed, the one number that he was at may be there as far as he had come.
        """
        problems: list[str] = []

        def problem(code: str, text: str) -> None:
            problems.append(f"{code} {text}")

        with open_directory(self._folder, on_problem=problem) as query, query.bounded(FAR_SECONDS):
            found = Counter((one.correlation_id, one.message) for one in _records(query))
            for worker in self._workers:
                _check_records(found, worker)
                _check_numbers(query, worker)
            assert not found
            self._check_operation(query)
            assert not query.increase(INTERNAL_ERRORS, "1h")
            books = query.books()["records"]
        assert not problems
        return books

    def _check_operation(self, query: Query) -> None:
        done = query.operation(OPERATION)
        assert done is not None
        least = sum(worker.returned for worker in self._workers)
        failed = sum(_failures(worker.returned) for worker in self._workers)
        killed = sum(worker.is_killed for worker in self._workers)
        assert least <= done.total_requests <= least + killed
        assert failed <= done.failed_requests <= failed + killed
        assert done.failed_requests - killed <= sum(done.error_breakdown.values()) <= done.failed_requests
        durations = query.distribution("result_duration_ms", "1h", {"operation": OPERATION})
        assert durations is not None
        assert done.total_requests <= durations.count <= least + killed


def _records(query: Query) -> Iterator[LogRecord]:
    """All records of what the workers have done, page by page."""
    page = query.records(operation=OPERATION, limit=20_000)
    while page:
        yield from page
        page = query.records(operation=OPERATION, limit=20_000, before=page[-1].cursor)


def _check_records(found: Counter[tuple[str, str]], worker: Worker) -> None:
    """Take what *worker* must have recorded, once, away from what is *found*."""
    for number in range(worker.returned + worker.is_killed):
        name = f"{worker.name}-{number}"
        ended = "Operation completed" if number % FAILS_EACH else "Operation failed"
        times = [found.pop((name, message), 0) for message in ("Operation started", "worked", ended)]
        whole = number < worker.returned
        assert times == [1, 1, 1] if whole else times in CUT_OFF, name


def _check_numbers(query: Query, worker: Worker) -> None:
    """What *worker* has counted and measured is exact."""
    labels = {"worker": worker.name}
    waits = query.distribution("waits", "1h", labels)
    assert waits is not None
    worked = query.increase("worked_total", "1h", labels)
    assert worked is not None
    # In this order it is done.
    assert worker.returned <= waits.count <= worked <= worker.returned + worker.is_killed
    assert waits.sum == sum(wait_of(number) for number in range(waits.count))
    totals = query.totals().counters
    assert totals.get(SeriesKey("worked_total", tuple(labels.items())), 0.0) == worked


def _failures(count: int) -> int:
    return sum(number % FAILS_EACH == 0 for number in range(count))


class TestB27RollingDeployOfTheOlderVersion:
    @pytest.mark.parametrize("end", [Worker.stop, Worker.kill], ids=["stopped", "killed"])
    def test_nothing_is_lost(self, tmp_path: Path, older: Path, end: Callable[[Worker], None]) -> None:
        """
        Of what old and new workers record side by side, before, while and after the lead goes from an old one to a new one, and of what
        an old one records that is started after that, all is there once, and recording has failed in none.
        """
        with Crew(tmp_path / "rfs") as crew:
            first = crew.join(older)
            crew.await_lead_of(first)
            second = crew.join(older)
            crew.go()
            new = [crew.join(NEWER), crew.join(NEWER)]
            crew.go()
            assert first.leads
            crew.rest()
            crew.look()

            crew.go()
            second.process.send(signal.SIGSTOP)  # or it might lead
            end(first)
            crew.await_lead_of(*new)
            second.process.send(signal.SIGCONT)
            crew.get_on()
            crew.rest()
            crew.look()
            second.stop()

            back = crew.join(older)
            crew.go()
            assert any(worker.leads for worker in new)
            crew.rest()
            crew.look()
            back.stop()

            crew.settle()
            for worker in new:
                worker.stop()
            crew.look()

            last = crew.join(NEWER)  # which folds the dead
            crew.await_lead_of(last)
            last.stop()
            books = crew.look()
            lost = books.pop("lost_on_crash", 0.0)
            assert lost <= first.is_killed
            assert books == {"produced": books["produced"], "delivered": books["produced"] - lost, "in_flight": 0.0}

    def test_history_is_the_same(self, tmp_path: Path, older: Path) -> None:
        """
        Of a store that old processes alone have left, the last of them killed, a new reader tells what an old one does, also after a new
        worker has led over it.
        """
        folder, half = tmp_path / "rfs", len(STEPS) // 2
        with scribe(older, folder) as process:
            assert process.ask(do="tell", first=0, count=half) == "told"
            assert process.ask(do="stop") == "stopped"
        with scribe(older, folder) as process:
            assert process.ask(do="tell", first=half, count=len(STEPS) - half) == "told"
            process.kill()
        with scribe(older, folder) as process:
            before = process.ask(do="ask")
        assert len({one["correlation_id"] for one in before["records"]}) == EACH * len(STEPS)
        assert before["increase 10d"] == EACH * len(STEPS)
        assert before["books"]["records"]["in_flight"]  # what the last one has left is in its segment alone
        assert not before["told"]

        with scribe(NEWER, folder) as process:
            read = process.ask(do="ask")
            assert process.ask(do="lead") == "led"
        with scribe(NEWER, folder) as process:
            led_over = process.ask(do="ask")

        assert read == before
        assert {**led_over, **{name: before[name] for name in OWN_ANSWERS}} == before
        assert not led_over["books"]["records"]["in_flight"]
