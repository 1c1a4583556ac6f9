"""The list of chunks in the catalogue: what is gone is missed, and what was let go is not."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from rfs.errors import StoreError
from rfs.monitoring._store.catalogue import Catalogue
from rfs.monitoring._store.chunks import OPEN_SUFFIX, ChunkReader, rewrite
from rfs.monitoring._store.listing import ChunkList, listed
from rfs.monitoring._store.records import RecordReader, RecordWriter
from rfs.monitoring._store.retention import CHUNKS, RecordRetention
from rfs.monitoring.archives import archive, restore
from rfs.monitoring.retention import Retention
from rfs.testing.virtual_time import VirtualTime
from tests.faults.processes import names_in
from tests.monitoring.chunks import opened, record, run_of, sealed

SECOND = 1_000_000_000
DAY = 86_400


class Leader:
    """Who leads over the store in *path*, in that *epoch*."""

    def __init__(self, path: Path, clock: VirtualTime, epoch: int) -> None:
        self.said: list[str] = []
        self.clock = clock
        self.path = path
        path.mkdir(exist_ok=True)
        self.catalogue = Catalogue(
            path / "catalogue.sqlite", epoch=epoch, on_problem=self._told, now=self.seconds, patience_seconds=0.0
        )
        self.list = ChunkList(self.catalogue)
        self.reader = RecordReader(path, on_problem=self._told)
        self.writer = RecordWriter(
            self.reader, now_ns=clock.time_ns, monotonic=clock.monotonic, on_problem=self._told, chunk_list=self.list
        )
        self._kept = 0

    def seconds(self) -> float:
        return self.clock.now.timestamp()

    def _told(self, code: str, text: str) -> None:
        self.said.append(f"{code} {text}")

    def keep(self, count: int = 3) -> None:
        """Keep so many records of this moment."""
        frames = [record(self.clock.time_ns() + each) for each in range(count)]
        assert self.writer.keep([run_of(frames, first=self._kept)], flush=True)
        self._kept += count

    def seal(self) -> str:
        """Seal what was kept; the name of that chunk."""
        before = set(names_in(self.path / CHUNKS))
        assert self.writer.seal()
        (file,) = (name for name in set(names_in(self.path / CHUNKS)) - before if not name.endswith(OPEN_SUFFIX))
        return file.rpartition(".")[0]

    def noted(self) -> dict[str, tuple[int, int]]:
        with self.catalogue.turn() as turn:
            return {name: (one.records, one.bytes) for name, one in listed(turn).items()}

    def stop(self) -> list[str]:
        """Let another lead; what was said."""
        self.writer.close()
        self.reader.close()
        self.catalogue.close()
        return self.said


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def leader(path: Path, clock: VirtualTime) -> Iterator[Leader]:
    made = Leader(path, clock, 1)
    yield made
    made.stop()


def next_said(path: Path, clock: VirtualTime, epoch: int = 2) -> list[str]:
    """What the next leader says when it has taken over."""
    successor = Leader(path, clock, epoch)
    successor.writer.take_over()
    return successor.stop()


class TestMissed:
    def test_a_chunk_that_is_gone(self, leader: Leader, path: Path, clock: VirtualTime) -> None:
        """
        The next leader says which one and how many records, once; what is there it does not miss.
        """
        leader.keep(5)
        gone = leader.seal()
        leader.keep(2)
        leader.seal()
        leader.stop()
        (path / CHUNKS / f"{gone}.chunk").unlink()

        assert next_said(path, clock) == [f"S113 {path / CHUNKS}: {gone} is gone, and 5 records with it"]
        assert next_said(path, clock, 3) == []

    def test_an_open_chunk_that_is_cut_at_a_frame(self, leader: Leader, path: Path, clock: VirtualTime) -> None:
        """
        It is whole for all that its bytes tell, but shorter than it was; that is said once.
        """
        leader.keep(5)
        (file,) = names_in(path / CHUNKS)
        at = (path / CHUNKS / file).stat().st_size
        leader.keep(2)
        end = (path / CHUNKS / file).stat().st_size
        leader.stop()
        os.truncate(path / CHUNKS / file, at)

        name = file.removesuffix(OPEN_SUFFIX)
        assert next_said(path, clock) == [
            f"S113 {path / CHUNKS}: {name} ends at byte {at}, not {end}: 2 records are gone"
        ]
        assert next_said(path, clock, 3) == []

    def test_an_open_chunk_that_is_empty(self, leader: Leader, path: Path, clock: VirtualTime) -> None:
        """
        Cut down to its header, likewise; and once it is said, it is not missed when it goes as one that nothing is in.
        """
        leader.keep(5)
        (file,) = names_in(path / CHUNKS)
        leader.stop()
        os.truncate(path / CHUNKS / file, 32)

        assert ["5 records are gone" in line for line in next_said(path, clock)] == [True]
        for left in names_in(path / CHUNKS):
            (path / CHUNKS / left).unlink()
        assert next_said(path, clock, 3) == []

    def test_while_it_is_led(self, leader: Leader, path: Path) -> None:
        """
        Who leads misses a chunk that is taken away meanwhile, without being followed by another.
        """
        leader.keep(5)
        gone = leader.seal()
        leader.writer.miss()
        assert leader.said == []
        (path / CHUNKS / f"{gone}.chunk").unlink()

        for _ in range(2):
            leader.writer.miss()

        assert leader.said == [f"S113 {path / CHUNKS}: {gone} is gone, and 5 records with it"]

    def test_with_its_catalogue(self, leader: Leader, path: Path, clock: VirtualTime) -> None:
        """
        A catalogue that is begun anew misses nothing, and knows what is there from then on.
        """
        leader.keep(5)
        gone = leader.seal()
        leader.stop()
        (path / "catalogue.sqlite").unlink()
        assert next_said(path, clock, 1) == []
        (path / CHUNKS / f"{gone}.chunk").unlink()

        assert next_said(path, clock) == [f"S113 {path / CHUNKS}: {gone} is gone, and 5 records with it"]


class TestNotMissed:
    def test_what_retention_lets_go(self, leader: Leader, path: Path, clock: VirtualTime) -> None:
        """
        A chunk that is too old, or has to make room, is forgotten before it goes.
        """
        leader.keep()
        leader.seal()
        clock.advance(2 * DAY)
        kept = RecordRetention(path, Retention(records_seconds=DAY), leader.seconds, leader.list.forget)

        assert kept.keep().chunks == 1
        leader.writer.miss()
        leader.stop()

        assert next_said(path, clock) == []

    def test_what_somebody_dies_before_he_lets_it_go(self, leader: Leader, path: Path, clock: VirtualTime) -> None:
        """
        It was forgotten and is there: the next leader knows it again, and misses it when it is taken away.
        """
        leader.keep()
        name = leader.seal()
        leader.list.forget([name])
        leader.stop()

        assert next_said(path, clock) == []
        (path / CHUNKS / f"{name}.chunk").unlink()
        assert [f"{name} is gone" in line for line in next_said(path, clock, 3)] == [True]

    def test_what_was_archived_and_restored(self, leader: Leader, path: Path, clock: VirtualTime) -> None:
        """
        An archive that takes a chunk out of the store lets nobody miss it; restored, it is in the list again.
        """
        leader.keep(4)
        name = leader.seal()
        leader.keep()
        leader.stop()
        clock.advance(DAY)
        archive(path, path.parent / "archive", before=clock.now, delete=True)
        assert f"{name}.chunk" not in names_in(path / CHUNKS)
        assert next_said(path, clock) == []

        restore(path.parent / "archive", path)

        again = Leader(path, clock, 3)
        assert again.noted()[name] == (4, 0)
        again.stop()
        (path / CHUNKS / f"{name}.chunk").unlink()
        assert [f"{name} is gone, and 4 records" in line for line in next_said(path, clock, 4)] == [True]

    def test_what_was_rewritten(self, leader: Leader, path: Path, clock: VirtualTime) -> None:
        """
        A chunk from which records were erased is the one that was noted.
        """
        leader.keep(4)
        name = leader.seal()
        leader.stop()
        with opened(path / CHUNKS) as directory:
            chunk = ChunkReader(directory, f"{name}.chunk")
            rewrite(directory, chunk, None, numbers=[0], keeps=lambda frame: frame.time_ns % 2 == 0)
            chunk.close()

        assert next_said(path, clock) == []
        again = Leader(path, clock, 3)
        assert again.noted()[name] == (2, 0)
        again.stop()

    def test_what_is_longer_than_noted(
        self, leader: Leader, path: Path, clock: VirtualTime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        Killed between keeping and noting: there is more than was noted, which is no fault, and is noted.
        """
        leader.keep()
        (noted,) = leader.noted().values()

        def killed(_chunks: object) -> None:
            raise StoreError(str(path), "killed", "S105")

        monkeypatch.setattr(leader.list, "note", killed)
        leader.keep()
        assert [*leader.noted().values()] == [noted]
        leader.stop()

        assert next_said(path, clock) == []
        again = Leader(path, clock, 3)
        assert [records for records, _ in again.noted().values()] == [6]
        again.stop()

    def test_what_an_older_library_has_let_go(self, leader: Leader, path: Path, clock: VirtualTime) -> None:
        """
        A leader that knows no list may have let go a chunk without forgetting it: whoever follows begins the list anew.
        """
        leader.keep()
        name = leader.seal()
        leader.stop()
        with closing(sqlite3.connect(path / "catalogue.sqlite")) as connection:
            connection.execute("UPDATE meta SET value = 2 WHERE name = 'epoch'")
            connection.commit()
        (path / CHUNKS / f"{name}.chunk").unlink()

        assert next_said(path, clock, 3) == []
        again = Leader(path, clock, 4)
        assert name not in again.noted()
        again.stop()

    def test_what_nobody_has_noted(self, path: Path, clock: VirtualTime) -> None:
        """
        Chunks that are there when a list is begun are noted, and those of a newer version are not missed.
        """
        path.mkdir()
        with opened(path / CHUNKS) as directory:
            file = sealed(directory, "0000000000000001-00000000", [record(1), record(2)])
        first = Leader(path, clock, 1)
        first.writer.take_over()
        assert first.noted() == {file.removesuffix(".chunk"): (2, 0)}
        first.stop()
        content = bytearray((path / CHUNKS / file).read_bytes())
        content[8:12] = (99).to_bytes(4, "little")
        content[28:32] = crc32(content[:28]).to_bytes(4, "little")
        (path / CHUNKS / file).write_bytes(content)

        (line,) = next_said(path, clock)
        assert line.startswith("S112")


class TestCatalogueThatCannotBeWritten:
    @pytest.fixture
    def held(self, path: Path, leader: Leader) -> Any:
        """Holds the catalogue's lock, as another process would, from when it is called on; returns what lets it go."""

        def hold() -> Any:
            fd = os.open(path / "catalogue.sqlite.lock", os.O_RDWR)
            fcntl.flock(fd, fcntl.LOCK_EX)
            return lambda: os.close(fd)

        return hold

    def test_what_is_kept_is_noted_later(self, leader: Leader, held: Any) -> None:
        """
        Records are kept all the same, and noted when it can be.
        """
        leader.keep()
        let_go = held()
        leader.keep()
        let_go()
        assert [records for records, _ in leader.noted().values()] == [3]

        assert leader.writer.keep([])

        assert [records for records, _ in leader.noted().values()] == [6]
        assert leader.said == []

    def test_what_was_there_before_is_compared_later(
        self, leader: Leader, held: Any, path: Path, clock: VirtualTime
    ) -> None:
        """
        A chunk that is gone is missed by who could not look at once, and what it has kept meanwhile does not hide it.
        """
        leader.keep(5)
        gone = leader.seal()
        leader.keep(2)
        leader.stop()
        (path / CHUNKS / f"{gone}.chunk").unlink()
        successor = Leader(path, clock, 2)
        let_go = held()
        successor.keep(3)
        assert successor.said == []
        let_go()

        assert successor.writer.keep([])

        assert successor.stop() == [f"S113 {path / CHUNKS}: {gone} is gone, and 5 records with it"]

    def test_what_goes_is_not_missed(self, leader: Leader, held: Any, path: Path) -> None:
        """
        What could not be forgotten before it went is not missed by who let it go.
        """
        leader.keep()
        name = leader.seal()
        let_go = held()
        with pytest.raises(StoreError, match="another process is writing"):
            leader.list.forget([name])
        (path / CHUNKS / f"{name}.chunk").unlink()
        let_go()

        leader.writer.miss()

        assert leader.said == []
        assert name not in leader.noted()
