"""B31 of the fault matrix: a copy of a directory that is being written, and what is in it."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rfs.errors import BackupError
from rfs.monitoring._query import Query
from rfs.monitoring._reading import open_directory
from rfs.monitoring._store.backup import backup, verify
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

        assert after["by"] == before["by"]
        assert after["counter"] == before["counter"]
        assert books["delivered"] >= before["records"]
        with open_directory(restored, on_problem=refuse) as query:
            assert not query.latest("rfs_prev_shutdown_unclean")
        with pytest.raises(BackupError, match="A service may have been started in it"):
            verify(restored)

    def test_cp_is_not_enough(self) -> None:
        """
        The documentation says so, and what to use.
        """
        page = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")

        assert "`cp -r`" in page


def _books(directory: Path) -> dict[str, float]:
    with open_directory(directory, on_problem=refuse) as query:
        return query.books()["records"]
