"""
The collector of a process, and the leader that one of them is.

`collect` may be called by anybody at any time (a query does, so that it sees what has just been recorded); the thread
that `start` starts hands this process' records to its sinks ten times a second, and once a second samples the cells of all
processes into windows. In the process that leads it also frees what it has imported, folds the dead, and lets the alert rules be
evaluated. None of this is on the recording path.

A process that joins others asks the one that leads for its history (see `_history`), and goes on from there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Event, Lock, Thread, get_ident
from typing import Protocol

from rfs.errors import LiveFileError
from rfs.monitoring._capture.capture import Capture
from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.live import HISTORY_SUFFIX, JOINING_SUFFIX, LiveDirectory, process_of
from rfs.monitoring._capture.pace import pieces
from rfs.monitoring._capture.readings import NOTHING_READ
from rfs.monitoring._capture.segments import FROM_SINK, Frame, Run, SegmentReader
from rfs.monitoring._history import pack_history, unpack_history
from rfs.monitoring._live import Killed, Leadership, Lease, LiveReader
from rfs.monitoring._store import Batch, Moment, Store, Window
from rfs.monitoring._store.memory import MemoryStore
from rfs.monitoring._totals import Totals

COLLECT_INTERVAL_SECONDS = 0.1
TICK_SECONDS = 1.0
NEW_SECONDS = 1.0  # so long a new process leaves the lead to those that know more
LOST = SeriesKey("rfs_lost_on_crash_total", (("signal", "records"),))


class Sink(Protocol):
    """Takes collected records further, without ever blocking its caller."""

    def put(self, frames: list[Frame]) -> None:
        """Take *frames*, or drop and count them."""
        ...

    def close(self, timeout_seconds: float) -> None:
        """Deliver what is still there, within *timeout_seconds*."""
        ...


class Leader:
    """
    Collects, ticks, and can be started and stopped, twice.

    Args:
        on_tick: Called once a second by the thread; it collects.
        on_delivered: Told how many records have newly arrived, by the leader of all processes alone.
        on_folded: Told by the leader twice a second which processes it has found killed since the last time: mostly none.
        on_error: Told about every exception of a tick or a sink; the thread goes on.
    """

    def __init__(
        self,
        capture: Capture,
        store: Store,
        *,
        now_seconds: Callable[[], float],
        monotonic: Callable[[], float],
        on_tick: Callable[[], None],
        on_delivered: Callable[[int], None],
        on_folded: Callable[[list[Killed]], None],
        on_error: Callable[[str, BaseException], None],
    ) -> None:
        self._capture = capture
        self._store = store
        self._now_seconds = now_seconds
        self._monotonic = monotonic
        self._on_tick = on_tick
        self._on_delivered = on_delivered
        self._on_folded = on_folded
        self._on_error = on_error
        self.sinks: list[Sink] = []
        # The threads that are inside one. What they record goes to no sink, or it would never end.
        self.in_sink: set[int] = set()
        self.live = LiveReader(capture)
        self._lease = Lease(capture)
        self._last_second = 0
        self._begin()

    def after_fork(self) -> None:
        """In a forked child: a process of its own, without the parent's thread, locks, lease and stored records."""
        self._store.after_fork()
        self.live.after_fork()
        self._lease.after_fork()
        self._begin()

    def _begin(self) -> None:
        self.in_sink.clear()
        self._lock = Lock()
        self._thread: Thread | None = None
        self._stopping = Event()
        self._process = f"{os.getpid()}-{os.urandom(4).hex()}"
        self._sequence = 0
        self._sampled = Totals({}, {}, {}, {}, {}, [])
        self._own_tail: tuple[object, SegmentReader] | None = None
        self._joining = ""  # the name under which history has been asked for

    @property
    def running(self) -> bool:
        """Whether the thread runs."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    @property
    def leadership(self) -> Leadership:
        """Who leads, as far as this process knows."""
        return self._lease.leadership

    def leads(self) -> bool:
        """
        Whether this process still leads, seen now: one that was stopped past its lease must not go on with what another does.

        For the leader's own thread.
        """
        try:
            return self._lease.keep(may_follow=False)
        except OSError:  # the directory is gone: `Capture.mend` sees to that
            return False

    def attached(self) -> None:
        """Take what other processes have measured before as known: it did not happen now."""
        with self._lock:
            own = self._sampled
            self._sampled = self.live.others()
            for key, value in own.counters.items():
                self._sampled.counters[key] = self._sampled.counters.get(key, 0.0) + value
            for key, reading in own.sketches.items():
                before = self._sampled.sketches.get(key)
                self._sampled.sketches[key] = reading if before is None else before.plus(reading)

    def start(self) -> None:
        """Start the thread; nothing happens if it runs."""
        with self._lock:
            if self.running:
                return
            self._stopping = Event()
            thread = Thread(target=self._run, args=(self._stopping,), name="rfs-leader", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # no more threads: queries collect by themselves; a later start tries again
                self._on_error("leader", error)
            else:
                self._thread = thread

    def stop(self, timeout_seconds: float) -> None:
        """
        Stop the thread and collect once more, within *timeout_seconds* even if a disk hangs; twice is once.

        The thread itself collects for the last time: whatever that waits for, the caller does not.
        """
        thread = self._thread
        if thread is not None and thread.is_alive():
            self._stopping.set()
            thread.join(timeout_seconds)
            # One that has ended is kept, for letting go of it runs Python in weak references' callbacks, where the exception of a
            # signal handler (a second SIGTERM) would be lost.
            if thread.is_alive():
                self._thread = None
        elif self._lock.acquire(timeout=timeout_seconds):
            try:
                self._finish()
            finally:
                self._lock.release()

    def _finish(self) -> None:
        self._collect()
        if self._capture.directory is not None:
            self._lease.release()

    def collect(self) -> Moment:
        """Move everything recorded so far into the store; return what there is to answer from now."""
        with self._lock:
            return Moment(self._collect(), self._store)

    def _collect(self) -> Totals:
        self._move_records()
        totals = self.live.read()
        self._append([], self._close_window(totals))
        self._sampled = totals
        return totals

    def _move_records(self) -> None:
        self.live.refresh()
        frames = self.live.records()
        if frames:
            self._append(frames, None)
        if self._lease.held:
            delivered = self.live.mark_imported()
            if delivered:
                self._on_delivered(delivered)
        self._feed_sinks(frames)

    def _append(self, frames: list[Frame], window: Window | None) -> None:
        runs = [Run(self._process, self._sequence, range(len(frames)), len(frames), frames)] if frames else []
        self._store.append(Batch(self._process, self._sequence, runs, window))
        self._sequence += 1

    def forget_idle(self, now: float) -> None:
        """Forget the series that nobody has written for an hour, by the monotonic clock, and give their memory back."""
        registry = self._capture.registry
        if registry.forget_idle(now):
            with self._lock:
                if self._capture.renew():
                    registry.forgotten = 0

    def totals(self) -> Totals:
        """The totals of all processes at this instant; nothing is collected."""
        with self._lock:
            return self.live.read()

    def _feed_sinks(self, frames: list[Frame]) -> None:
        if not self.sinks:
            self._own_tail = None
            return
        if self._capture.directory is not None:
            frames = self._own_frames()
        frames = [frame for frame in frames if not frame.flags & FROM_SINK]
        if not frames:
            return
        thread = get_ident()
        try:
            self.in_sink.add(thread)
            for sink in self.sinks:
                try:
                    sink.put(frames)
                except Exception as error:  # noqa: BLE001 - one sink's fault must not cost the others their records
                    self._on_error("sink", error)
        finally:
            self.in_sink.discard(thread)

    def _own_frames(self) -> list[Frame]:
        # Each process writes its own records to its own stdout.
        memory = getattr(self._capture.segments, "memory", None)
        if memory is None:
            return []
        if self._own_tail is None or self._own_tail[0] is not memory:
            self._own_tail = memory, SegmentReader(memory, name="own segment")
        return self._own_tail[1].read()

    def _close_window(self, totals: Totals) -> Window:
        # The store's seconds never go back, even if the wall clock does.
        self._last_second = max(self._last_second, int(self._now_seconds()))
        window, before = Window(self._last_second), self._sampled
        for counters in pieces(totals.counters.items()):
            for key, value in counters:
                old = before.counters.get(key)
                if old is None or value > old:  # a counter at 0 is known, too
                    window.counters[key] = value - (old or 0.0)
        for key, value in totals.gauges.items():
            if before.gauges.get(key) != value:
                window.gauges[key] = value
        for sketches in pieces(totals.sketches.items(), 25):
            for key, reading in sketches:
                old_reading = before.sketches.get(key, NOTHING_READ)
                if reading.count > old_reading.count:
                    window.sketches[key] = reading.since(old_reading)
        return window

    def _run(self, stopping: Event) -> None:
        ticks = max(1, round(TICK_SECONDS / COLLECT_INTERVAL_SECONDS))
        new_turns = max(1, round(NEW_SECONDS / COLLECT_INTERVAL_SECONDS))
        turn = 0
        while not stopping.wait(COLLECT_INTERVAL_SECONDS):
            turn += 1
            try:
                if turn % 5 == 1:
                    self._capture_and_lead(is_new=turn <= new_turns)
                self._hand_over()
                if turn % ticks == 0:
                    self._on_tick()
                elif self.sinks or self._capture.segments.half_full:
                    with self._lock:
                        self._move_records()
            except Exception as error:  # noqa: BLE001 - the thread must outlive any fault of a store or a rule
                self._on_error("leader", error)
        try:
            with self._lock:
                self._finish()
        except Exception as error:  # noqa: BLE001 - as above
            self._on_error("leader", error)

    def _capture_and_lead(self, *, is_new: bool) -> None:
        with self._lock:
            self._capture.mend()
            self.live.refresh()
        alone = not is_new or self.live.living() == 1
        if self._lease.keep(may_follow=alone) and self._capture.directory is not None:
            with self._lock:
                dead = self.live.take_dead()
                self._move_records()
                killed = self.live.fold(dead, self._lease, LOST, self._monotonic())
            self._on_folded(killed)
        elif is_new and not self._joining and self._lease.leadership.epoch:
            self._join()

    # History

    def _join(self) -> None:
        directory = self._capture.directory
        if directory is not None and isinstance(self._store, MemoryStore):
            self._joining = self._capture.process
            directory.claim(self._joining + JOINING_SUFFIX, b"")

    def _hand_over(self) -> None:
        directory = self._capture.directory
        if directory is None:
            return
        if self._lease.held:
            asked = [process_of(name) for name in directory.names() if name.endswith(JOINING_SUFFIX)]
            if asked:
                self._give_history(directory, asked)
        elif self._joining and directory.has(self._joining + HISTORY_SUFFIX):
            self._take_history(directory, self._joining + HISTORY_SUFFIX)

    def _give_history(self, directory: LiveDirectory, asked: list[str]) -> None:
        if isinstance(self._store, MemoryStore):
            with self._lock:
                totals = self._collect()
                snapshot = self._store.snapshot()
            for process in asked:
                if process != self._capture.process:  # which has asked another, and come to lead itself
                    directory.write(process + HISTORY_SUFFIX, pack_history(snapshot, totals))
        for process in asked:
            directory.unlink(process + JOINING_SUFFIX)

    def _take_history(self, directory: LiveDirectory, name: str) -> None:
        self._joining = ""
        try:
            snapshot, totals = unpack_history(directory.read(name), name)
        except LiveFileError as error:
            self.live.refused[name] = str(error)
        else:
            assert isinstance(self._store, MemoryStore)  # noqa: S101 - `_join` has asked
            with self._lock:
                self._collect()  # what the snapshot has of the records is then known here, too, and recognised
                self._store.take_over(snapshot)
                self._sampled = totals
                self._collect()
        directory.unlink(name)
