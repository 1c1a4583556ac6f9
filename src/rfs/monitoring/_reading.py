"""
Reading a service's directory from outside, whether the service runs or not: what commands and reports do.

Nothing is written, nobody is joined, and nothing is imported: what the store does not have yet comes from the live files, also from
those of processes that are dead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from rfs.errors import DirectoryNotFoundError
from rfs.monitoring._capture.capture import Capture
from rfs.monitoring._capture.instruments import Registry
from rfs.monitoring._capture.live import live_path
from rfs.monitoring._capture.segments import Waiting
from rfs.monitoring._leader import books_of
from rfs.monitoring._live import LiveReader
from rfs.monitoring._query import Query
from rfs.monitoring._store import Moment
from rfs.monitoring._store.local import LocalStore
from rfs.monitoring._store.sealing import STORE
from rfs.monitoring._totals import Totals


@contextmanager
def open_directory(
    path: Path, *, on_problem: Callable[[str, str], None], now_seconds: Callable[[], float] = time.time
) -> Generator[Query]:
    """
    A Query over the service's directory at *path*; safe from any thread, inside the ``with`` block.

    Args:
        on_problem: Told the code and the text of what is damaged, or cannot be read, and is left out of answers.
        now_seconds: The present in unix seconds.

    Raises:
        DirectoryNotFoundError: Nothing of a service is there.
        LiveDirectoryError: Others may write into it, or it is somebody else's.
        StoreError: The store is of a newer version, or cannot be read here.
        OSError: It cannot be opened.
    """
    live, store_path = live_path(path), path / STORE
    if not live.is_dir() and not store_path.is_dir():
        raise DirectoryNotFoundError(str(path))
    capture = Capture(Registry(lambda _metric, _reason: None, str), service=str, on_problem=lambda _: None)
    if live.is_dir():
        capture.look_into(path)
    reader, lock = LiveReader(capture, on_problem), Lock()
    store = LocalStore(path, retention=None, now_seconds=now_seconds, monotonic=time.monotonic, on_problem=on_problem)

    def waiting(text: bytes) -> Waiting:
        with lock:
            reader.refresh()
            return reader.waiting(text)

    def read() -> Totals:
        with lock:
            totals = reader.read()
        lacked = store.lacking(totals) if totals.is_short else None
        return totals if lacked is None else totals.plus(lacked)

    def collect() -> Moment:
        totals = read()
        return Moment(totals, store.at(totals if capture.directory is not None else None, waiting))

    name = "" if capture.directory is None else capture.directory.service()
    try:
        yield Query(
            collect=collect, totals=read, now=now_seconds, service_name=lambda: name or path.name, statistics=books_of
        )
    finally:
        store.close()
        if capture.directory is not None:
            capture.directory.close()
