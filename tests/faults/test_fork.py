"""
Rows A8, A9, A10: forks while threads and a signal handler record.

The program counts by itself what it recorded; what it finds through the query is compared with that.
"""

from __future__ import annotations

import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import pytest

from rfs.monitoring.monitor import Monitor
from tests.faults.processes import Process, environment, eventually, names_in, size

pytestmark = [pytest.mark.fault, pytest.mark.slow]  # hundreds of processes live and die

FORKS = size(whole=10_000, small=500)
LONGEST_BATCH_SECONDS = 60.0
MOST_FILES = 20  # of one living process, and eight segments of dead ones


def own_cells(live: Path, pid: int) -> list[str]:
    """The files of numbers of the process *pid*."""
    return [name for name in names_in(live) if name.startswith(f"{pid}-") and name.endswith(".cells")]


class TestForkStorm:
    def test_a8_a9_a10_each_record_exactly_once(self, tmp_path: Path) -> None:
        """
        No child hangs, each record of parent, children and handler is there once, counters are exact, and dead children's
        files go away.
        """
        directory = tmp_path / "service"
        with Process("forking", directory, FORKS) as parent:
            assert parent.answer() == "ready"
            while "forked" in (seen := parent.answer(LONGEST_BATCH_SECONDS)):
                pass

            # The fault happened: children were made while a thread was inside a recording call, and the handler ran.
            assert seen["mid_record"] >= 1
            assert seen["recorded"]["signal"] > 0

            assert seen["hung"] == 0, parent.errors()
            assert set(seen["statuses"]) <= {"0", "7"}, parent.errors()
            assert seen["faults"] == []
            assert seen["counted"] == seen["recorded"]
            books = seen["books"]
            assert books["produced"] == sum(seen["recorded"].values())
            assert books["in_flight"] == 0
            assert sum(count for name, count in books.items() if name.startswith("dropped_")) == 0

            live = directory / "live"
            # Of the dead, the numbers are folded and some segments stay readable: eight, wherever they were last counted.
            eventually(
                lambda: [name for name in names_in(live) if name.endswith(".cells")] == own_cells(live, seen["pid"]),
                says=lambda: f"{len(names_in(live))} files: {names_in(live)[:20]}; it said {parent.errors()[-2000:]}",
            )
            assert len(names_in(live)) <= MOST_FILES
            # Folding the dead loses nothing of them.
            reader = Monitor(service_name="forks", directory=directory)
            counters = reader.query.totals().counters
            assert sum(value for key, value in counters.items() if key.name == "child_records_total") == FORKS
            reader.stop()


LOADED_LATE = """
import sys
import time
from pathlib import Path
from rfs.monitoring.monitor import Monitor

LARGE = ("rfs", "sqlite3", "zstandard", "cryptography")
directory = Path(sys.argv[1])
monitor = Monitor(service_name="late")
monitor.use_directory(directory)
before = set(sys.modules)
monitor.log(20, "served")
monitor.start()
ends = time.monotonic() + 20
while not (directory / "store" / "catalogue.sqlite").exists() and time.monotonic() < ends:
    time.sleep(0.05)  # looks again, until the deadline above
monitor.stop()
print(len(list((directory / "store" / "chunks").iterdir())))
print(sorted(one for one in set(sys.modules) - before if one.split(".")[0] in LARGE))
"""


class TestImports:
    @pytest.mark.parametrize("is_encrypted", [False, True])
    def test_no_thread_of_ours_imports_what_is_large(self, tmp_path: Path, is_encrypted: bool) -> None:
        """
        A child that is forked while a thread imports a module would wait for that import for ever: by then all is imported.
        """
        environ = {**environment(), "RFS_STORE_KEYS": ""}
        if is_encrypted:
            keys = tmp_path / "keys"
            keys.write_text(f"first {b64encode(bytes(range(32))).decode()}\n")
            keys.chmod(0o600)
            environ["RFS_STORE_KEYS"] = str(keys)

        done = subprocess.run(
            [sys.executable, "-c", LOADED_LATE, str(tmp_path / "service")],
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

        assert done.stdout.split("\n")[:2] == ["1", "[]"], done.stderr
