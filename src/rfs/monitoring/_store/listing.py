"""
The list of the chunks that there should be, in the catalogue: so that one which is gone, or shorter than it was, is missed.

A chunk is noted when records are in it and on the disk, and before they are marked as imported in their segments; killed between the
two, it is longer than noted, which is no fault, and the records come again. It is forgotten before it is let go; killed between, it is
there and not noted, and the next leader notes it. So what is noted and not there was taken away by somebody else.

The list never keeps anybody from keeping records, or from letting them go: while the catalogue cannot be written, as on a full disk,
what is to be noted and forgotten waits, and only who is killed meanwhile may miss too little, or too much.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from rfs.monitoring._store.catalogue import Catalogue

_NOTE = "INSERT OR REPLACE INTO chunks VALUES (?, ?, ?)"
_FORGET = "DELETE FROM chunks WHERE name = ?"


class Listed(NamedTuple):
    """What is noted of a chunk; *bytes* is where the last of its frames ends, and 0 of a sealed one, which says that itself."""

    name: str
    records: int
    bytes: int


def listed(connection: sqlite3.Connection) -> dict[str, Listed]:
    """What is noted, by name; nothing in a catalogue that only an older library has written, which has no list."""
    if connection.execute("SELECT name FROM sqlite_schema WHERE name = 'chunks'").fetchone() is None:
        return {}
    return {row[0]: Listed(*row) for row in connection.execute("SELECT name, records, bytes FROM chunks").fetchall()}


def missing(noted: Mapping[str, Listed], there: Mapping[str, Listed | None]) -> Iterator[str]:
    """What was *noted* and is not *there*, a line each. A chunk of which None is known is there."""
    for name, known in noted.items():
        found = there.get(name)
        if name not in there:
            yield f"{name} is gone, and {known.records} records with it"
        elif found is not None and 0 < found.bytes < known.bytes:
            yield f"{name} ends at byte {found.bytes}, not {known.bytes}: {known.records - found.records} records are gone"


class ChunkList:
    """
    The list in *catalogue*. For one thread.

    Raises (all methods):
        StoreError: The catalogue cannot be written now.
        StaleLeaderError: Another process leads by now.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._forgotten: set[str] = set()  # and in the list still

    def note(self, chunks: Iterable[Listed]) -> None:
        """Note what there is of *chunks*."""
        with self._catalogue.turn() as turn:
            turn.executemany(_NOTE, chunks)

    def forget(self, names: Collection[str]) -> None:
        """Let nobody miss the chunks of these *names*, which are about to go. After a `StoreError` this object does not, either."""
        self._forgotten.update(names)
        with self._catalogue.turn() as turn:
            turn.executemany(_FORGET, [(name,) for name in self._forgotten])
        self._forgotten.clear()
        self._catalogue.checkpoint()  # a power cut must not undo this, and leave the chunk away

    def compare(self, there: Mapping[str, Listed | None]) -> list[str]:
        """
        What is `missing`, said once: from now on what is *there* is noted.

        Nothing is if the last one to lead was a library that knows no list, and has let go chunks without forgetting them.
        """
        with self._catalogue.turn() as turn:
            noted = listed(turn)
            (epoch,) = turn.execute("SELECT value FROM meta WHERE name = 'listed'").fetchone() or (None,)
            if epoch == self._catalogue.epoch:
                missed = [*missing({one.name: one for one in noted.values() if one.name not in self._forgotten}, there)]
            else:
                missed = []
                turn.execute("UPDATE meta SET value = ? WHERE name = 'listed'", (self._catalogue.epoch,))
            turn.executemany(_FORGET, [(name,) for name in noted.keys() - there.keys()])
            for found in there.values():
                if found is not None and found != noted.get(found.name):
                    turn.execute(*((_NOTE, found) if found.records else (_FORGET, found[:1])))
        return missed
