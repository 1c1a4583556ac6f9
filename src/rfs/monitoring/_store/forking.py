"""
Forks and SQLite: no thread is inside SQLite while this process is forked.

SQLite guards its memory, shared by all connections of a process, with a lock of its own. A child that is forked while another thread
holds that lock has it locked for ever: whatever the child asks of SQLite then hangs, in databases of its own, too. So who uses SQLite
holds a `DatabaseLock`, and a fork waits until nobody does. It waits `PATIENCE_SECONDS` at most. If somebody is in the middle
of long work even then, the child is made all the same, and `check_usable` keeps it from SQLite.

What `subprocess` starts is no such child: it goes on with another program.
"""

from __future__ import annotations

import os
from threading import Condition, Lock, RLock, get_ident
from types import TracebackType

from rfs.errors import StoreError

PATIENCE_SECONDS = 0.5


class _Gate:
    """Who is inside SQLite, by thread and how often; closed by those who fork."""

    def __init__(self) -> None:
        self.is_lost = False  # this process was forked while somebody was inside
        self._begin({})

    def _begin(self, inside: dict[int, int]) -> None:
        # A signal handler that forks may come while its thread has the lock: it must not wait for itself.
        self._changed = Condition(RLock())
        self._inside = inside
        self._forking = 0
        self._is_empty = True

    def enter(self) -> int:
        """Wait for who forks; return the thread, for `leave`."""
        thread = get_ident()
        with self._changed:
            while self._forking and thread not in self._inside:
                self._changed.wait()
            self._inside[thread] = self._inside.get(thread, 0) + 1
        return thread

    def leave(self, thread: int) -> None:
        with self._changed:
            times = self._inside.pop(thread) - 1
            if times:
                self._inside[thread] = times
            elif self._forking:
                self._changed.notify_all()

    def close(self) -> None:
        """Before a fork: let nobody else in, and wait until those who are have left. Locked from here on."""
        me = {get_ident()}  # whoever forks is not in SQLite now, even if he uses it
        self._changed.acquire()
        self._forking += 1
        self._is_empty = self._changed.wait_for(lambda: self._inside.keys() <= me, PATIENCE_SECONDS)

    def open(self) -> None:
        """After a fork, or one that failed, in the parent."""
        self._forking -= 1
        self._changed.notify_all()
        self._changed.release()

    def open_in_child(self) -> None:
        """After a fork, in the child, where no other thread is."""
        self.is_lost = self.is_lost or not self._is_empty
        me = get_ident()
        self._begin({me: self._inside[me]} if me in self._inside else {})


class DatabaseLock:
    """The lock of who uses a database: one thread at a time, and no fork meanwhile."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._thread = 0  # not the one that leaves, if a generator was left to the garbage collector

    def __enter__(self) -> None:
        self._lock.acquire()
        try:
            self._thread = _gate.enter()
        except BaseException:  # a signal handler's
            self._lock.release()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            _gate.leave(self._thread)
        finally:
            self._lock.release()


def check_usable(path: str) -> None:
    """
    Make sure that SQLite can be used in this process.

    Raises:
        StoreError: It was forked while another thread was inside (``S105``).
    """
    if _gate.is_lost:
        fault = f"cannot be opened in process {os.getpid()}, which was forked while another thread used SQLite for long: it would hang"
        raise StoreError(path, f"{fault}; start the process anew, or fork before the Monitor is started", "S105")


_gate = _Gate()
os.register_at_fork(before=_gate.close, after_in_parent=_gate.open, after_in_child=_gate.open_in_child)
