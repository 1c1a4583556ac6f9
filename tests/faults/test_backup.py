"""B31 of the fault matrix: a copy of a directory that is being written, and what is in it."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rfs.errors import BackupError
from rfs.monitoring._capture.segments import SegmentReader
from rfs.monitoring._query import Query
from rfs.monitoring._reading import open_directory
from rfs.monitoring._store.backup import _TRIES, _Copier, backup, verify
from rfs.monitoring._store.local import LocalStore
from rfs.monitoring.monitor import Monitor
from rfs.testing.virtual_time import VirtualTime
from tests.faults.processes import Process, environment, eventually, size

pytestmark = pytest.mark.fault


def refuse(code: str, text: str) -> None:
    raise AssertionError(f"RFS-{code}: {text}")


def numbers(query: Query) -> dict[int, list[int]]:
    """By process, what its records say they are the how-manyth of."""
    found: dict[int, list[int]] = defaultdict(list)
    before: str | None = None
    while page := query.records(limit=10_000, before=before):
        for record in page:
            if record.message == "counted":
                found[record.context["process"]].append(record.context["number"])
        before = page[-1].cursor
    return {process: sorted(each) for process, each in found.items()}


def counted(query: Query) -> dict[str, Any]:
    """How much has been counted, and recorded."""
    settled = query.settled()
    records = numbers(settled)
    return {
        "counter": settled.increase("counted_total", "1h") or 0.0,
        "records": sum(map(len, records.values())),
        "by": records,
    }


def look(directory: Path) -> dict[str, Any]:
    with open_directory(directory, on_problem=refuse) as query:
        return counted(query)


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[tuple[Path, list[Process]]]:
    """Two processes of one service."""
    directory = tmp_path / "state"
    env = environment(RFS_DIR=str(directory), RFS_SERVICE_NAME="orders")
    with Process("orders", env=env) as one, Process("orders", env=env) as other:
        assert [one.answer(), other.answer()] == ["ready", "ready"]
        yield directory, [one, other]


class TestB31:
    def test_backup_under_load_is_of_one_moment(self, workers: tuple[Path, list[Process]], tmp_path: Path) -> None:
        """
        Of each process the backup has every record up to one, none twice, and has counted what was counted by then: no less than
        before it was begun, no more than when it was done. And it is as it was made.
        """
        directory, processes = workers
        for process in processes:
            process.tell(do="count", seconds=size(whole=60, small=6))
        eventually(lambda: look(directory)["records"] > 1_000)
        made: list[tuple[dict[str, Any], Path, dict[str, Any]]] = []
        while not all(process.has_answered() for process in processes):
            before, target = look(directory), tmp_path / f"backup-{len(made)}"
            backup(directory, target)
            made.append((before, target, look(directory)))
        assert made

        for before, target, after in made:
            verify(target)
            found = look(target)
            for process, there in found["by"].items():
                assert there == list(range(1, len(there) + 1)), process
            assert before["records"] <= found["records"] <= after["records"]
            assert before["counter"] <= found["counter"] <= after["counter"]
            verify(target)  # reading has changed nothing

    def test_windows_that_came_meanwhile_are_not_missed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        The catalogue is copied before the live files: what a leader writes in between is counted again in the copy, and is no loss.
        """
        clock = VirtualTime()
        monitor = Monitor(service_name="orders", directory=tmp_path / "state", clock=clock)
        monitor.counter("orders_total").inc()
        monitor._leader.beat()
        copy = _Copier.catalogue

        def and_another_window(copier: _Copier, path: Path) -> None:
            copy(copier, path)
            clock.advance(1)
            monitor.counter("orders_total").inc()
            monitor._leader.beat()

        monkeypatch.setattr(_Copier, "catalogue", and_another_window)
        backup(tmp_path / "state", tmp_path / "backup")
        monitor.stop()

        restored = Monitor(service_name="orders", directory=tmp_path / "backup", clock=clock)
        clock.advance(1)
        restored._leader.beat()

        assert restored.diagnostics == []
        assert restored.query.increase("orders_total", "1h") == 2
        restored.stop()

    def test_service_goes_on_in_a_copy_of_it(self, workers: tuple[Path, list[Process]], tmp_path: Path) -> None:
        """
        A leader that finds it takes over what its processes have left, once; none of them counts as killed, and books balance.
        """
        directory, processes = workers
        for process in processes:
            process.tell(do="count", seconds=3)
        eventually(lambda: look(directory)["records"] > 1_000)
        backup(directory, tmp_path / "backup")
        for process in processes:
            process.answer()
        restored = tmp_path / "restored"
        shutil.copytree(tmp_path / "backup", restored)
        before = look(restored)

        with Process("orders", env=environment(RFS_DIR=str(restored), RFS_SERVICE_NAME="orders")) as process:
            assert process.answer() == "ready"

            def settled() -> bool:
                with open_directory(restored, on_problem=refuse) as query:
                    books = query.books()["records"]
                return books["in_flight"] == 0

            eventually(settled, says=lambda: _books(restored))
            books, after = _books(restored), look(restored)
            process.ask(do="stop")
            said = process.errors()

        assert "RFS-" not in said
        assert after["by"] == before["by"]
        assert after["counter"] == before["counter"]
        assert books["delivered"] >= before["records"]
        with open_directory(restored, on_problem=refuse) as query:
            assert not query.latest("rfs_prev_shutdown_unclean")
        with pytest.raises(BackupError, match="A service may have been started in it"):
            verify(restored)

    @pytest.mark.parametrize("is_still", [True, False], ids=["between two imports", "imported all the time"])
    def test_books_balance_whatever_is_recorded_and_imported_meanwhile(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_still: bool
    ) -> None:
        """
        A process records after its segment was copied, and before its cells are; the leader imports that before the chunks are copied.
        The copy has counted what it has, and none of it as lost. Where imports never cease, it has all the same each record once, up to
        one, and none as lost.
        """
        leader, other = (Monitor(service_name="orders", directory=tmp_path / "state") for _ in range(2))
        store = _lead(leader)
        made = 0

        def record() -> None:
            nonlocal made
            for _ in range(10):
                made += 1
                other.log(40, "counted", fields={"number": made, "process": 1})

        def bring() -> None:
            leader._leader._import(store, at_once=True)

        record()
        bring()
        record()
        copy_segment, copy_chunks = SegmentReader.copy_to, _Copier.chunks
        copied: list[int] = []

        def copy_and_record(reader: SegmentReader, fd: int) -> None:
            copy_segment(reader, fd)
            if reader.name.startswith(other.capture.process):
                copied.append(made)
                record()
                if not is_still:
                    bring()
                    record()

        def copy_late(copier: Any, path: Path) -> None:
            bring()
            copy_chunks(copier, path)

        monkeypatch.setattr(SegmentReader, "copy_to", copy_and_record)
        monkeypatch.setattr(_Copier, "chunks", copy_late)

        backup(tmp_path / "state", tmp_path / "restored")
        leader.stop()
        other.stop()

        assert len(copied) == (1 if is_still else _TRIES + 1)
        there = look(tmp_path / "restored")
        restored = Monitor(service_name="orders", directory=tmp_path / "restored")
        store = _lead(restored)
        restored._leader._import(store, at_once=True)
        books = restored.query.books()["records"]
        restored.stop()
        if is_still:
            assert there["by"] == {1: list(range(1, copied[-1] + 1))}
            assert books == {"produced": copied[-1], "delivered": copied[-1], "in_flight": 0}
        else:
            assert there["by"] == {1: list(range(1, there["records"] + 1))}
            assert copied[-1] <= there["records"] <= made
            assert "lost_on_crash" not in books

    def test_cp_is_not_enough(self) -> None:
        """
        The documentation says so, and what to use.
        """
        page = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")

        assert "`cp -r`" in page


def _books(directory: Path) -> dict[str, float]:
    with open_directory(directory, on_problem=refuse) as query:
        return query.books()["records"]


def _lead(monitor: Monitor) -> LocalStore:
    """Let *monitor* lead, and fold who is dead."""
    for _ in range(2):
        monitor._leader._capture_and_lead(is_new=False)
    store = monitor._leader._local
    assert store is not None
    assert store.leads
    return store
