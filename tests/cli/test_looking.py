"""``doctor``, and that looking changes nothing."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from rfs.monitoring._store.local import CATALOGUE
from rfs.monitoring._store.retention import CHUNKS
from rfs.monitoring._store.sealing import STORE
from tests.cli.running import Answer, rfs
from tests.faults.processes import Process, environment, eventually


def found(answer: Answer, check: str) -> list[tuple[str, str, str]]:
    """State, text and advice of what that check has found."""
    return [
        (each["state"], each["says"], each["advice"]) for each in answer.objects[0]["checks"] if each["check"] == check
    ]


def stopped(directory: Path, *, orders: int = 5) -> None:
    """Let a service record there and stop."""
    with Process("orders", env=environment(RFS_DIR=str(directory), RFS_SERVICE_NAME="orders")) as process:
        process.answer()
        process.ask(do="place", first=0, count=orders)
        process.ask(do="stop")
        process.wait()


def contents(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Every file but SQLite's own index of its log, with its mode."""
    return {
        str(path.relative_to(directory)): (path.stat().st_mode, path.read_bytes())
        for path in directory.rglob("*")
        if path.is_file() and not path.name.endswith(("-shm", "-wal"))
    }


class TestDoctor:
    def test_of_a_service_that_is_well(self, directory: Path) -> None:
        """
        It names who runs and who leads, the books balance, and each check has said something.
        """
        answer = eventually(lambda: (one := rfs("doctor", "-d", directory)).objects[0]["state"] == "ok" and one)

        assert isinstance(answer, Answer)
        assert answer.status == 0
        checks = {each["check"] for each in answer.objects[0]["checks"]}
        assert checks == {
            "permissions", "disk", "versions", "processes", "leader", "catalogue", "chunks", "quarantine", "books", "clock",
        }  # fmt: skip
        assert "1 running of orders: pid " in found(answer, "processes")[0][1]
        assert "leads" in found(answer, "leader")[0][1]
        assert found(answer, "books")[0][1].startswith("balanced: records: ")

    def test_of_a_service_that_was_killed(self, tmp_path: Path) -> None:
        """
        A warning that names the process, and status 1.
        """
        with Process("orders", env=environment(RFS_DIR=str(tmp_path / "d"), RFS_SERVICE_NAME="orders")) as process:
            process.answer()
            pid = process.pid
            process.kill()

        answer = rfs("doctor", "-d", tmp_path / "d")

        assert answer.status == 1
        assert any(state == "warning" and f"pid {pid}" in says for state, says, _ in found(answer, "processes"))

    def test_of_a_directory_that_others_may_write(self, tmp_path: Path) -> None:
        """
        A fault, the command that mends it, and status 2.
        """
        stopped(tmp_path / "d")
        (tmp_path / "d").chmod(0o777)

        answer = rfs("doctor", "-d", tmp_path / "d")

        assert answer.status == 2
        ((state, says, advice),) = found(answer, "permissions")
        assert (state, advice) == ("fault", f"chmod 700 {tmp_path / 'd'}")
        assert "mode 0777" in says

    def test_of_damage(self, tmp_path: Path) -> None:
        """
        What is damaged is named: a chunk, and the catalogue.
        """
        stopped(tmp_path / "d", orders=100)
        (chunk, *_) = (tmp_path / "d" / STORE / CHUNKS).iterdir()
        content = bytearray(chunk.read_bytes())
        content[len(content) // 2] ^= 0xFF
        chunk.write_bytes(content)
        with (tmp_path / "d" / STORE / CATALOGUE).open("r+b") as file:
            file.write(b"nonsense" * 512)

        answer = rfs("doctor", "-d", tmp_path / "d")

        assert answer.status == 2
        assert any(state != "ok" and chunk.name in says for state, says, _ in found(answer, "chunks"))
        assert [state for state, _, _ in found(answer, "catalogue")] == ["fault"]

    def test_of_a_newer_catalogue(self, tmp_path: Path) -> None:
        """
        One of a newer version is never set aside, and nobody is told that it would be: RFS is to be upgraded.
        """
        stopped(tmp_path / "d")
        with closing(sqlite3.connect(tmp_path / "d" / STORE / CATALOGUE)) as connection:
            connection.executescript("UPDATE meta SET value = 999 WHERE name = 'version'; PRAGMA user_version = 999")

        ((state, says, advice),) = found(rfs("doctor", "-d", tmp_path / "d"), "catalogue")

        assert (state, advice) == ("fault", "")
        assert "upgrade rfs" in says

    def test_of_a_chunk_that_is_gone(self, tmp_path: Path) -> None:
        """
        A chunk that was taken away is named, as long as no leader has come and said so.
        """
        stopped(tmp_path / "d", orders=100)
        (chunk, *_) = (tmp_path / "d" / STORE / CHUNKS).iterdir()
        chunk.unlink()

        ((state, says, _),) = found(rfs("doctor", "-d", tmp_path / "d"), "chunks")

        assert state == "fault"
        assert f"{chunk.stem} is gone" in says

    def test_of_the_sums_of_dead_processes(self, tmp_path: Path) -> None:
        """
        One of the two copies is a warning, for nothing is missing; both are a fault.
        """
        directory = tmp_path / "d"
        stopped(directory)
        stopped(directory)  # it has folded the one before
        copies = sorted((directory / "live").glob("totals-*"))
        states: list[tuple[list[str], bool]] = []

        for copy in copies:
            copy.write_bytes(b"damaged")
            said = [each for each in found(rfs("doctor", "-d", directory), "answers") if copy.name in each[1]]
            states.append(([state for state, _, _ in said], any("nothing is missing" in advice for *_, advice in said)))

        assert len(copies) == 2
        assert states == [(["warning"], True), (["fault"], False)]

    def test_of_what_was_set_aside(self, tmp_path: Path) -> None:
        """
        Files in quarantine are a warning.
        """
        stopped(tmp_path / "d")
        (tmp_path / "d" / STORE / "quarantine").mkdir(exist_ok=True)
        (tmp_path / "d" / STORE / "quarantine" / "a.chunk").write_bytes(b"damaged")

        answer = rfs("doctor", "-d", tmp_path / "d")

        assert answer.status == 1
        assert found(answer, "quarantine")[0][:2] == ("warning", "1 files, 7 B")

    def test_of_the_clock(self, tmp_path: Path) -> None:
        """
        A newest record of the future is a warning.
        """
        stopped(tmp_path / "d")
        answer = rfs("doctor", "-d", tmp_path / "d")

        assert [state for state, _, _ in found(answer, "clock")] == ["ok"]


class TestLookingChangesNothing:
    def test_whatever_is_asked(self, tmp_path: Path) -> None:
        """
        After every command that asks, each file of a stopped service is what it was, and there is no new one.
        """
        stopped(tmp_path / "d")
        before = contents(tmp_path / "d")

        for command in (("logs",), ("trace", "order-0002"), ("errors",), ("ops",), ("doctor",)):
            assert rfs(*command, "-d", tmp_path / "d").status in {0, 1}

        assert contents(tmp_path / "d") == before
        assert before

    def test_needs_no_right_to_write(self, tmp_path: Path) -> None:
        """
        A directory that cannot be written to can be read.
        """
        stopped(tmp_path / "d")
        for path in (tmp_path / "d").rglob("*"):
            path.chmod(0o500 if path.is_dir() else 0o400)
        (tmp_path / "d").chmod(0o500)

        answer = rfs("ops", "-d", tmp_path / "d")

        assert answer.status == 0
        assert len(answer.objects) == 3
        for path in (tmp_path / "d", *(tmp_path / "d").rglob("*")):
            path.chmod(0o700)
        assert os.access(tmp_path / "d", os.W_OK)
