"""``backup``, ``archive``, ``erase``, ``keys`` and ``bench-store``, from the command line to the files."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from pathlib import Path

import pytest

from tests.cli.running import Terminal, rfs
from tests.cli.test_looking import stopped


def ids(directory: Path) -> list[str]:
    """The correlation ids of all records."""
    return [record["correlation_id"] for record in rfs("logs", "-d", directory, "-n", 100_000).objects]


class TestBackup:
    def test_is_made_verified_and_read(self, directory: Path, tmp_path: Path) -> None:
        """
        A running service's records are in the backup, which is as it was made, and says whose it is.
        """
        (made,) = rfs("backup", tmp_path / "b", "-d", directory).objects
        (verified,) = rfs("backup", tmp_path / "b", "--verify").objects

        assert made == verified
        assert made["service"] == "orders"
        assert made["bytes"] == sum(
            path.stat().st_size for path in (tmp_path / "b").rglob("*") if path.is_file() and path.name != "backup.json"
        )
        assert ids(tmp_path / "b") == ids(directory)

    def test_tells_one_flipped_bit(self, directory: Path, tmp_path: Path) -> None:
        """
        Whatever byte is changed, and whatever is added or gone: verifying names the file.
        """
        rfs("backup", tmp_path / "b", "-d", directory)
        (cells, *_) = (tmp_path / "b" / "live").glob("*.cells")
        content = bytearray(cells.read_bytes())
        content[5_000] ^= 1
        cells.write_bytes(content)
        (tmp_path / "b" / "live" / "more").write_bytes(b"")

        answer = rfs("backup", tmp_path / "b", "--verify")

        assert answer.status == 2
        assert f"live/{cells.name}, live/more missing, changed or added" in answer.errors

    def test_refuses_what_would_spoil_something(self, directory: Path, tmp_path: Path) -> None:
        """
        A target that is not empty, or inside of the directory, and a directory that is none: nothing is written.
        """
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "mine").write_text("dear")
        (tmp_path / "nothing").mkdir()

        answers = [
            rfs("backup", tmp_path / "full", "-d", directory),
            rfs("backup", directory / "store" / "backup", "-d", directory),
            rfs("backup", tmp_path / "b", "-d", tmp_path / "nothing"),
            rfs("backup", tmp_path / "nothing", "--verify"),
        ]

        assert [answer.status for answer in answers] == [2, 2, 2, 2]
        for answer, said in zip(
            answers, ("is not empty", "is inside", "is no directory of a service", "is no backup"), strict=True
        ):
            assert said in answer.errors
        assert (tmp_path / "full" / "mine").read_text() == "dear"
        assert not (tmp_path / "b").exists()

    def test_shows_a_bar_in_a_terminal(self, directory: Path, tmp_path: Path) -> None:
        """
        And one sentence when it is done.
        """
        with Terminal("backup", tmp_path / "b", "-d", directory, columns=100) as terminal:
            assert terminal.wait() == 0
            raw, lines = terminal.raw, terminal.lines

        assert "backup" in raw
        assert any(re.search(r"of orders made: [\d.]+ \w+ in \d+ files", line) for line in " ".join(lines).split("\n"))


class TestArchive:
    def test_create_list_verify_restore(self, tmp_path: Path) -> None:
        """
        What is put aside is listed, sound, and comes back into a new directory.
        """
        state, target = tmp_path / "d", tmp_path / "archives" / "all"
        stopped(state)
        stopped(state)  # a second leader seals what the first has left

        (made,) = rfs("archive", "create", target, "--before", "2100-01-01", "-d", state).objects
        (listed,) = rfs("archive", "list", tmp_path / "archives").objects
        (verified,) = rfs("archive", "verify", target).objects
        (restored,) = rfs("archive", "restore", target, "-d", tmp_path / "new").objects

        assert made == listed == verified == restored
        assert made["service"] == "orders"
        assert len(ids(tmp_path / "new")) == made["records"]
        shown = rfs("archive", "list", tmp_path / "nowhere")
        assert shown.status == 2

    def test_damage_is_told(self, tmp_path: Path) -> None:
        """
        An archive that is none, or not what it was, is an error.
        """
        (tmp_path / "a").mkdir()

        answer = rfs("archive", "verify", tmp_path / "a")

        assert answer.status == 2
        assert "has no manifest.json" in answer.errors


class TestErase:
    def test_asks_and_leaves_nothing(self, tmp_path: Path) -> None:
        """
        Without a yes nothing is erased; with one the subject's records are gone, and no others.
        """
        stopped(tmp_path / "d")
        before = ids(tmp_path / "d")

        refused = rfs("erase", "order-0002", "-d", tmp_path / "d")
        unchanged = ids(tmp_path / "d")
        done = rfs("erase", "order-0002", "-d", tmp_path / "d", "--yes")

        assert refused.status == 1
        assert unchanged == before
        assert done.status == 0, done
        (receipt,) = done.objects
        assert (receipt["left"], receipt["unsearched"]) == ([], [])
        assert ids(tmp_path / "d") == [one for one in before if one != "order-0002"]


class TestKeys:
    def test_rotate_encrypts_what_is_in_clear(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Without keys it says what is missing; with them all records are encrypted with the first, and readable.
        """
        pytest.importorskip("cryptography")
        stopped(tmp_path / "d")
        before = ids(tmp_path / "d")
        monkeypatch.delenv("RFS_STORE_KEYS", raising=False)
        without = rfs("keys", "rotate", "-d", tmp_path / "d")
        keys = tmp_path / "keys"
        keys.touch(0o600)
        keys.write_text(f"first {b64encode(bytes(32)).decode()}\n")
        monkeypatch.setenv("RFS_STORE_KEYS", str(keys))

        done = rfs("keys", "rotate", "-d", tmp_path / "d")

        assert without.status == 2
        assert "RFS_STORE_KEYS" in without.errors
        assert done.status == 0, done
        assert set(done.objects[0]["in_use"]) == {"first"}
        assert ids(tmp_path / "d") == before


class TestBenchStore:
    def test_measures_and_leaves_nothing(self, tmp_path: Path) -> None:
        """
        Each figure has its goal, and whether it is met; the directory is empty again.
        """
        found = rfs("bench-store", "--place", tmp_path, "--records", 5_000).objects

        assert [each["unit"] for each in found] == ["a second", "bytes", "ms", "ms", "ms", "ms", "ms"]
        assert all(each["value"] > 0 and each["goal"] > 0 for each in found)
        assert list(tmp_path.iterdir()) == []

    def test_table(self, tmp_path: Path) -> None:
        """
        In a terminal the figures stand beside their goals.
        """
        with Terminal("bench-store", "-p", tmp_path, "-n", 1_000, columns=100) as terminal:
            assert terminal.wait() == 0, terminal.raw
            lines = terminal.lines

        assert any("with 1,000 records" in line and "goal" in line for line in lines)
        assert any("≤ 40 bytes" in line for line in lines)
        assert json.loads(rfs("bench-store", "-p", tmp_path, "-n", 1_000).text.splitlines()[0])["records"] == 1_000
