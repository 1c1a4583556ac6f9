"""
Batches on their way to a store behind a network: a bounded queue in memory, and the thread that empties it.

Whoever puts a batch in never waits for the network. Batches leave in groups, in their order. What a group holds is settled when it is
first sent and the same at every attempt, so that whoever takes it can know it again: its token says which batches of which processes
it is made of. While the other side cannot be reached, batches wait for as long as there is room; then the oldest are dropped and
counted. Nothing survives the process.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from random import random
from threading import Condition, Thread
from typing import NamedTuple

from rfs.errors import StoreError
from rfs.monitoring._store import Batch

GROUP_BYTES = 4 << 20  # about so much at most is sent at once
_BATCH_BYTES = 200
_RECORD_BYTES = 200  # beside its payload
_SERIES_BYTES = 150
_BUCKET_BYTES = 60
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 30.0


class Group(NamedTuple):
    """Batches that are sent together."""

    token: str
    batches: Sequence[Batch]


def pause_seconds(failures: int, luck: float) -> float:
    """How long to wait after so many failures in a row; *luck* (0 to 1) keeps many senders from coming back at one moment."""
    return luck * min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** min(failures, 16))


class Outbox:
    """
    Sends batches, in order and in the background.

    Args:
        send: Delivers a group, or raises; called by one thread, again with the same group until it succeeds.
        max_bytes: About how much memory waiting batches may take.
        delay_seconds: How long a batch waits for others to be sent with.
        on_problem: Told a code and a text when delivering begins to fail (the code of the StoreError) and when batches were lost
            (``S117``).

    Safe from any thread.
    """

    def __init__(
        self,
        send: Callable[[Group], None],
        *,
        max_bytes: int,
        delay_seconds: float,
        on_problem: Callable[[str, str], None],
    ) -> None:
        self._send = send
        self._max_bytes = max_bytes
        self._delay_seconds = delay_seconds
        self._on_problem = on_problem
        self._begin()

    def after_fork(self) -> None:
        """In a forked child: begin empty, what waits is the parent's to send."""
        self._begin()

    def _begin(self) -> None:
        self._changed = Condition()
        self._waiting: deque[tuple[Batch, int]] = deque()
        self._waiting_bytes = 0
        self._oldest_at = 0.0
        self._group: Group | None = None  # on its way, or to be tried again
        self._group_bytes = 0
        self._put = 0  # batches, as all of the following
        self._gone = 0  # delivered or dropped
        self._wanted = 0  # up to which somebody waits for their delivery
        self._failure: Exception | None = None  # of the last attempt
        self._closing = False
        self._thread: Thread | None = None
        self._sent_records = self._dropped_records = self._dropped_windows = self._failures = 0

    @property
    def failure(self) -> Exception | None:
        """What the last attempt to deliver has come to; None if it succeeded, or if there was none."""
        return self._failure

    def put(self, batch: Batch) -> None:
        """Take *batch*; it goes out with others, soon. Never waits."""
        if self._closing:
            self._count_lost([batch], "closed before")
            return
        size = _size_of(batch)
        lost: list[Batch] = []
        with self._changed:
            if not self._waiting:
                self._oldest_at = time.monotonic()
            self._waiting.append((batch, size))
            self._waiting_bytes += size
            self._put += 1
            while self._waiting and self._waiting_bytes + self._group_bytes > self._max_bytes:
                dropped, size = self._waiting.popleft()
                self._waiting_bytes -= size
                self._gone += 1
                lost.append(dropped)
            self._start()
            self._changed.notify_all()
        self._count_lost(lost, f"more than {self._max_bytes} bytes wait to be sent")

    def flush(self, timeout_seconds: float) -> bool:
        """Send all that has been put in; False if that was not possible within *timeout_seconds*, or if delivering fails now."""
        with self._changed:
            wanted = self._put
            if self._gone >= wanted:
                return True
            self._wanted = max(self._wanted, wanted)
            self._start()
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._gone >= wanted or self._failure is not None, timeout_seconds)
            return self._gone >= wanted

    def close(self, timeout_seconds: float) -> None:
        """Send what is there, each group once, within *timeout_seconds*; what is left is lost and counted. Twice is once."""
        with self._changed:
            self._closing = True
            thread = self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join(timeout_seconds)
        with self._changed:
            lost = [*(self._group.batches if self._group else ()), *(batch for batch, _ in self._waiting)]
            self._group = None
            self._waiting.clear()
            self._waiting_bytes = self._group_bytes = 0
            self._gone = self._put
            self._changed.notify_all()
        self._count_lost(lost, "closed before they were sent")

    def statistics(self) -> Mapping[str, float]:
        """``waiting_batches``, ``waiting_bytes``, ``sent_records``, ``dropped_records``, ``dropped_windows``, ``failed_attempts``."""
        with self._changed:
            return {
                "waiting_batches": self._put - self._gone,
                "waiting_bytes": self._waiting_bytes + self._group_bytes,
                "sent_records": self._sent_records,
                "dropped_records": self._dropped_records,
                "dropped_windows": self._dropped_windows,
                "failed_attempts": self._failures,
            }

    def _start(self) -> None:
        if self._thread is not None or self._closing:
            return
        thread = Thread(target=self._run, name="rfs-outbox", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no more threads: the next batch tries again
            self._failure = error
        else:
            self._thread = thread

    def _count_lost(self, batches: Sequence[Batch], why: str) -> None:
        if not batches:
            return
        records = sum(_records_in(batch) for batch in batches)
        windows = sum(batch.window is not None for batch in batches)
        with self._changed:
            self._dropped_records += records
            self._dropped_windows += windows
        self._on_problem("S117", f"{records} records and {windows} windows are lost: {why}")

    # In the thread

    def _run(self) -> None:
        failures = 0
        while (group := self._next()) is not None:
            try:
                self._send(group)
            except Exception as error:  # noqa: BLE001 - whatever it is, the batches wait and the thread goes on
                failures += 1
                if failures == 1:
                    self._on_problem(error.code if isinstance(error, StoreError) else "S116", str(error))
                if not self._failed(error, pause_seconds(failures, random())):  # noqa: S311 - guards nothing
                    return
            else:
                failures = 0
                self._delivered(group)

    def _next(self) -> Group | None:
        with self._changed:
            while self._group is None:
                if not self._waiting:
                    if self._closing:
                        return None
                    self._changed.wait()
                    continue
                left = self._oldest_at + self._delay_seconds - time.monotonic()
                is_due = left <= 0 or self._waiting_bytes >= GROUP_BYTES or self._wanted > self._gone
                if is_due or self._closing:
                    self._group = self._taken()
                else:
                    self._changed.wait(left)
            return self._group

    def _taken(self) -> Group:
        batches: list[Batch] = []
        while self._waiting and (not batches or self._group_bytes + self._waiting[0][1] <= GROUP_BYTES):
            batch, size = self._waiting.popleft()
            batches.append(batch)
            self._group_bytes += size
            self._waiting_bytes -= size
        self._oldest_at = time.monotonic()
        return Group(_token_of(batches), batches)

    def _failed(self, error: Exception, pause: float) -> bool:
        """Wait; False if there is to be no further attempt."""
        with self._changed:
            self._failures += 1
            self._failure = error
            self._changed.notify_all()  # whoever waits is told
            self._changed.wait_for(lambda: self._closing, pause)
            return not self._closing

    def _delivered(self, group: Group) -> None:
        with self._changed:
            self._group = None
            self._group_bytes = 0
            self._gone = min(self._put, self._gone + len(group.batches))
            self._sent_records += sum(map(_records_in, group.batches))
            self._failure = None
            self._changed.notify_all()


def _token_of(batches: Sequence[Batch]) -> str:
    """The same for the same batches, and only for these."""
    spans: list[str] = []
    for batch in batches:
        process, separator, span = spans[-1].rpartition(":") if spans else ("", "", "")
        first, _, last = span.partition("-")
        if separator and process == batch.process and int(last) + 1 == batch.sequence:
            spans[-1] = f"{process}:{first}-{batch.sequence}"
        else:
            spans.append(f"{batch.process}:{batch.sequence}-{batch.sequence}")
    return ",".join(spans)


def _records_in(batch: Batch) -> int:
    return sum(len(run.frames) for run in batch.runs)


def _size_of(batch: Batch) -> int:
    size = _BATCH_BYTES
    for run in batch.runs:
        size += sum(len(frame.payload) for frame in run.frames) + _RECORD_BYTES * len(run.frames)
    window = batch.window
    if window is not None:
        size += _SERIES_BYTES * (len(window.counters) + len(window.gauges) + len(window.sketches))
        size += _BUCKET_BYTES * sum(len(one.positive) + len(one.negative) for one in window.sketches.values())
    return size
