"""
A stranger's tool that reads a catalogue and does not end: ``foreign PATH``.

Answers how many series it sees at the moment that it goes on seeing, until its standard input ends.
"""

from __future__ import annotations

import sqlite3
import sys
from urllib.parse import quote

from tests.faults.processes import reply


def main(path: str) -> None:
    connection = sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, isolation_level=None)
    connection.execute("BEGIN")
    (series,) = connection.execute("SELECT count(*) FROM series").fetchone()
    reply(series)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
