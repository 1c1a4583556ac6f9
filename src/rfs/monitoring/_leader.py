"""
The collector of a process, and the leader that one of them is.

`collect` may be called by anybody at any time (a query does, so that it sees what has just been recorded); the thread that `start`
starts hands this process' records to its sinks ten times a second. In the process that leads it also, once a second, samples the cells
of all processes into windows, imports their records, folds the dead, and lets the alert rules be evaluated. None of this is on the
recording path.

In a directory the leader writes a `LocalStore`, and every process answers from that and from the live files. Where there is no directory,
or its store cannot be used, each process keeps in its own memory what it has seen of the live files.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from threading import Event, Lock, Thread, get_ident
from typing import TYPE_CHECKING, Protocol

from rfs.errors import StaleLeaderError, StoreError
from rfs.monitoring._capture.capture import Capture
from rfs.monitoring._capture.cells import SeriesKey
from rfs.monitoring._capture.pace import pieces
from rfs.monitoring._capture.readings import NOTHING_READ
from rfs.monitoring._capture.segments import FROM_SINK, Frame, Run, SegmentReader, Waiting
from rfs.monitoring._live import CORRUPT, Killed, Leadership, Lease, LiveReader, Precedence
from rfs.monitoring._store import Batch, Moment, Store, Window
from rfs.monitoring._store.memory import MemoryStore
from rfs.monitoring._totals import Totals, lacking

if TYPE_CHECKING:
    from pathlib import Path

    from rfs.monitoring._store.local import (
        LocalStore,  # imported when a directory is used: it brings SQLite and zstandard
    )
    from rfs.monitoring.retention import Retention

COLLECT_INTERVAL_SECONDS = 0.1
TICK_SECONDS = 1.0
LOAD_SECONDS = 5.0
BUSY_SECONDS = 10.0  # so long it is borne
BUSY_SHARE = 0.015  # of a core: a web worker loses about twice that of its requests
IMPORT_BYTES = 1 << 20  # at once: of what many processes have left, a leader that lives for a moment brings home a part
IMPORTS_PER_TURN = 16
HOME_BYTES = 7 << 20  # of records from memory, when the directory can be used again: less than half a segment
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
        store: Where everything is kept; None: in the directory that is recorded into, or where there is none in memory.
        forward_to: Handed all that the process which leads has kept, too; it never waits.
        retention: How long the store in the directory keeps what.
        on_tick: Called once a second by the thread; it calls `sample`.
        on_turn: Called ten times a second by the thread.
        on_delivered: Told how many records have newly arrived, by the leader of all processes alone.
        on_dropped: Told how many records found no room in the directory when it could be used again.
        on_folded: Told by the leader twice a second which processes it has found killed since the last time: mostly none.
        on_problem: Told the code and the text of what is wrong with the store in the directory, as often as it is met.
        on_error: Told about every exception of a tick or a sink; the thread goes on.
    """

    def __init__(
        self,
        capture: Capture,
        store: Store | None,
        *,
        forward_to: Store | None,
        retention: Retention | None,
        now_seconds: Callable[[], float],
        monotonic: Callable[[], float],
        on_tick: Callable[[], None],
        on_turn: Callable[[], None],
        on_delivered: Callable[[int], None],
        on_dropped: Callable[[int], None],
        on_folded: Callable[[list[Killed]], None],
        on_problem: Callable[[str, str], None],
        on_error: Callable[[str, BaseException], None],
    ) -> None:
        self._capture = capture
        self._memory: Store = store if store is not None else MemoryStore()
        self._is_told_where = store is not None
        self._forward_to = forward_to
        self._retention = retention
        self._now_seconds = now_seconds
        self._monotonic = monotonic
        self._on_tick = on_tick
        self._on_turn = on_turn
        self._on_delivered = on_delivered
        self._on_dropped = on_dropped
        self._on_folded = on_folded
        self._on_problem = on_problem
        self._on_error = on_error
        self.sinks: list[Sink] = []
        # The threads that are inside one. What they record goes to no sink, or it would never end.
        self.in_sink: set[int] = set()
        # Who answers for all machines is none of them: its windows would make their silence look alive.
        self.forwards_windows = True
        self.live = LiveReader(capture, on_problem)
        self._lease = Lease(capture)
        self._last_second = 0
        self._local: LocalStore | None = None
        self._begin()

    def after_fork(self) -> None:
        """In a forked child: a process of its own, without the parent's thread, locks, lease and stored records."""
        self._memory.after_fork()
        if self._forward_to is not None:
            self._forward_to.after_fork()
        if self._local is not None:
            self._local.after_fork()
            self._local = None
        self.live.after_fork()
        self._lease.after_fork()
        self._begin()

    def _begin(self) -> None:
        self.in_sink.clear()
        self._lock = Lock()
        self._opening = Lock()
        self._thread: Thread | None = None
        self._stopping = Event()
        self._process = f"{os.getpid()}-{os.urandom(4).hex()}"
        self._sequence = self._forwarded = 0
        self._sampled = Totals({}, {}, {}, {}, {}, [])
        # The wall clock when measurements last came; None where it is not known: a directory and a store handed in have others', too.
        self.still_since: float | None = None
        self._was_local = False
        self._homeless = 0  # records that were taken into memory while the directory could not be used
        self._own_tail: tuple[object, SegmentReader] | None = None
        self.store_fault = ""  # why the store of the directory is not used
        self._is_behind = False  # because it is of a newer version: others keep there what this process leaves them
        self.busy_seconds = 0.0  # so long the thread has used more than `BUSY_SHARE` of a core while it led

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

    @property
    def leads_store(self) -> bool:
        """Whether this process writes the store of a directory."""
        return self._local is not None and self._local.leads

    @property
    def precedence(self) -> Precedence:
        """Which others this process leads in the place of, from the next turn on: those of a lower one."""
        return self._lease.precedence

    @precedence.setter
    def precedence(self, precedence: Precedence) -> None:
        self._lease.precedence = precedence

    def attached(self) -> None:
        """Take what other processes have measured before as known: it did not happen now."""
        _store_class()  # not first in the thread: a child that is forked while a thread imports waits for that import for ever
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
        elif self._lock.acquire(timeout=timeout_seconds):  # nobody hangs in there
            self._lock.release()
            self._finish()

    def _finish(self) -> None:
        with self._lock:
            local = self._find_store()
            if local is None:
                self._remember()
            else:
                self._feed_sinks([])
        if local is not None and local.leads:
            self._write(local)
            self._import(local, at_once=True)
            local.resign()
        if self._capture.directory is not None:
            self._lease.release()

    def collect(self) -> Moment:
        """What there is to answer from now, everything included that has been recorded so far."""
        with self._lock:
            local = (
                self._find_store()
            )  # in here: who has found none must not take into memory what the store has by then
            if local is None:
                return Moment(self._remember(), self._memory)
            self.still_since = None
            self._bring_home()
            self._feed_sinks([])
            totals = self.live.read()
        return self._moment(local, totals)

    def sample(self) -> Moment | None:
        """
        Once a second: collect and, in the process that leads, write what has been measured since the last time.

        For the leader's own thread. None where there is nothing to be done with it.
        """
        local = self._local
        if local is None or not local.leads:
            return self.collect() if self._find_store() is None else None
        self.still_since = None
        return self._moment(local, self._write(local))

    def totals(self) -> Totals:
        """The totals of all processes at this instant; nothing is collected."""
        with self._lock:
            totals = self.live.read()
        return self._completed(totals)

    def _completed(self, totals: Totals) -> Totals:
        """*totals*; where they are short, with what is known to be missing."""
        lacked = self._lacked(totals) if totals.is_short else None
        return totals if lacked is None else totals.plus(lacked)

    def _lacked(self, totals: Totals) -> Totals | None:
        """What is known beyond *totals*, which are short: in the store of the directory, or in this process. None: not now."""
        local = self._find_store()
        if local is not None:
            return local.lacking(totals)
        known = self._sampled
        return lacking(totals, known.counters, {key: reading.since(None) for key, reading in known.sketches.items()})

    # In a directory

    def _find_store(self) -> LocalStore | None:
        """The store of the directory that is recorded into; None where everything is kept in memory."""
        path = self._capture.path
        if self._is_told_where or path is None or self._capture.directory is None:
            return None
        with self._opening:  # whoever asks first opens it, once
            if self._local is None and not self.store_fault:
                self._open_store(path)
            self._was_local = self._local is not None
            return self._local

    def _open_store(self, path: Path) -> None:
        try:
            self._local = _store_class()(
                path,
                retention=self._retention,
                now_seconds=self._now_seconds,
                monotonic=self._monotonic,
                on_problem=self._on_problem,
                on_window=lambda window: self._pass_on([], window),
                on_kept=lambda runs: self._pass_on(runs, None),
            )
        except StoreError as error:
            self.store_fault = error.fault
            self._is_behind = error.code == "S112"
            self._on_problem(error.code, f"{error}; each process keeps in its own memory what it sees")

    def _moment(self, local: LocalStore, totals: Totals) -> Moment:
        totals = self._completed(totals)
        return Moment(totals, local.at(totals, self._waiting))

    def _waiting(self, text: bytes) -> Waiting:
        with self._lock:
            self.live.refresh()
            return self.live.waiting(text)

    def _write(self, local: LocalStore) -> Totals:
        with self._lock:
            totals = self.live.read()
            is_whole = self.live.is_whole
        # Outside of the lock: whoever asks does not wait for the disk.
        try:
            windows = local.write(totals, is_whole=is_whole)
            if windows:
                self._lease.note_written(windows)
        except StaleLeaderError:
            local.resign()
        return totals

    def _import(self, local: LocalStore, *, at_once: bool = False) -> bool:
        """
        Bring what is in segments into chunks, if it is enough or *at_once*, and let it be overwritten there; return whether all is.

        Piece by piece: where processes are killed again and again, each leader gets on with it. What others record meanwhile may wait
        for the next turn.
        """
        for _ in range(IMPORTS_PER_TURN):
            with self._lock:
                self.live.refresh()
                pending = self.live.pending(IMPORT_BYTES)
            if not local.keep(pending.runs, at_once=at_once):
                return False
            with self._lock:
                delivered = self.live.mark(pending)
            if delivered:
                self._on_delivered(delivered)
            if pending.is_all:
                return True
        return False

    # In memory

    @property
    def _waits_for_directory(self) -> bool:
        return not self._is_told_where and self._capture.path is not None and self._capture.directory is None

    def _bring_home(self) -> None:
        """Record anew what was taken into memory while the directory could not be used; of very many the newest."""
        homeless, self._homeless = self._homeless, 0
        if homeless and isinstance(self._memory, MemoryStore):
            segments = self._capture.segments
            brought = sum(
                segments.append(
                    frame.time_ns,
                    frame.level,
                    frame.flags,
                    frame.correlation_id.encode(),
                    frame.operation.encode(),
                    frame.payload,
                )
                for frame in self._memory.take_newest(homeless, HOME_BYTES)
            )
            if brought < homeless:
                self._on_dropped(homeless - brought)

    def _remember(self) -> Totals:
        self._move_records()
        totals = self._completed(self.live.read())
        if self._was_local:
            self._was_local = False
            self._sampled = totals  # it was in the store of the directory, and did not happen now
        window, before = self._close_window(totals), self._sampled
        if not self._is_told_where and (
            self.still_since is None
            or window.counters
            or window.gauges
            or window.sketches
            or totals.metrics.keys() != before.metrics.keys()
            or list(totals.gauges) != list(before.gauges)  # in the order of their last writes
        ):
            self.still_since = self._now_seconds()
        self._append([], window)
        self._sampled = totals
        return totals

    def _move_records(self) -> None:
        self.live.refresh()
        frames = self.live.records()
        if frames:
            self._append(frames, None)
        if self._lease.held and not self._is_behind:
            delivered = self.live.mark_imported()
            if self._waits_for_directory:
                self._homeless += delivered
            elif delivered:
                self._on_delivered(delivered)
        self._feed_sinks(frames)

    def _append(self, frames: list[Frame], window: Window | None) -> None:
        runs = [Run(self._process, self._sequence, range(len(frames)), len(frames), frames)] if frames else []
        self._memory.append(Batch(self._process, self._sequence, runs, window))
        self._sequence += 1
        if self._lease.held:
            self._pass_on(runs, window)

    def _pass_on(self, runs: Sequence[Run], window: Window | None) -> None:
        if not self.forwards_windows:
            window = None
        if self._forward_to is None or (window is None and not runs):
            return
        try:
            self._forward_to.append(Batch(self._process, self._forwarded, runs, window))
        except StoreError as error:
            self._on_problem(error.code, str(error))
        self._forwarded += 1

    def forget_idle(self, now: float) -> None:
        """Forget the series that nobody has written for an hour, by the monotonic clock, and give their memory back."""
        registry = self._capture.registry
        if registry.forget_idle(now):
            with self._lock:
                if self._capture.renew():
                    registry.forgotten = 0

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
        load = Load()
        while not stopping.wait(COLLECT_INTERVAL_SECONDS):
            turn += 1
            try:
                self._on_turn()
                if turn % 5 == 1:
                    self._capture_and_lead(is_new=turn <= new_turns)
                if turn % ticks == 0:
                    self._on_tick()
                    self.busy_seconds = load.busy_seconds() if self.leads_store else 0.0
                elif self.sinks or self._capture.segments.half_full:
                    self._hurry()
            except Exception as error:  # noqa: BLE001 - the thread must outlive any fault of a store or a rule
                self._on_error("leader", error)
        try:
            self._finish()
        except Exception as error:  # noqa: BLE001 - as above
            self._on_error("leader", error)

    def beat(self) -> None:
        """A second of the thread's work, at once and in the caller's thread: for a clock that is moved."""
        try:
            if self._capture.path is not None:
                self._capture_and_lead(is_new=False)
            self._on_tick()
        except Exception as error:  # noqa: BLE001 - as in the thread
            self._on_error("leader", error)

    def _hurry(self) -> None:
        """Between two ticks: sinks wait, or this process' segment is filling up."""
        with self._lock:
            local = self._find_store()
            if local is None:
                self._move_records()
                return
            self._feed_sinks([])
        if local.leads and self._capture.segments.half_full:
            self._import(local)

    def _capture_and_lead(self, *, is_new: bool) -> None:
        with self._lock:
            self._capture.mend()
            self.live.refresh()
        local = self._find_store()
        if local is not None:
            with self._lock:
                self._bring_home()
        self._lease.can_write = local is not None and not local.is_newer
        may_follow = self._lease.can_write or not is_new or self.live.living() == 1
        led = self._lease.keep(may_follow=may_follow, above=int if local is None else local.epoch)
        if self._capture.directory is None or not led:
            has_led = local is not None and local.leads
            if local is not None:
                local.resign()
            with self._lock:
                self.live.leave_dead()
                if has_led:
                    self.live.forget_files()
            return
        if local is not None:
            lease = self._lease
            local.lead(lease.epoch, is_first=lease.is_first, has_written=lease.has_written, windows=lease.windows)
        with self._lock:
            dead = self.live.take_dead()
            if local is None:
                self._move_records()
        if local is not None:
            asked = local.is_asked_to_seal
            if self._import(local, at_once=bool(dead) or asked or self._capture.is_scrubbing) and asked:
                local.seal()
        with self._lock:
            short = self.live.read() if self.live.is_short or self.live.hurt(dead) else None
        lacked = None if short is None else self._lacked(short)
        known = short if short is None or lacked is None else short.plus(lacked)
        in_flight = 0.0 if known is None else books_of(known)["records"]["in_flight"]
        with self._lock:
            killed = self.live.fold(
                dead,
                self._lease,
                LOST,
                self._monotonic(),
                lacked=lacked,
                in_flight=in_flight,
                is_imported=local is not None or self._is_behind,
            )
        self._on_folded(killed)


class Load:
    """How long this thread has been busy, without a break: judged every `LOAD_SECONDS`."""

    def __init__(self) -> None:
        self._since, self._used = time.monotonic(), time.thread_time()
        self._busy_seconds = 0.0

    def busy_seconds(self) -> float:
        """For as long it has used more than `BUSY_SHARE` of a core, as far as that has been judged."""
        now, used = time.monotonic(), time.thread_time()
        passed = now - self._since
        if passed >= LOAD_SECONDS:
            is_busy = used - self._used > BUSY_SHARE * passed
            self._busy_seconds = self._busy_seconds + passed if is_busy else 0.0
            self._since, self._used = now, used
        return self._busy_seconds


def _store_class() -> type[LocalStore]:
    from rfs.monitoring._store.local import LocalStore

    return LocalStore


def books_of(totals: Totals) -> Mapping[str, Mapping[str, float]]:
    """What was produced of each signal, and where it went; see `Query.books`."""
    signal = ("signal", "records")
    dropped: dict[str, float] = {}
    for key, count in totals.counters.items():
        if key.name == "rfs_dropped_total" and signal in key.labels:
            dropped[dict(key.labels).get("reason", "unknown")] = count
    corrupt = totals.counters.get(CORRUPT, 0.0)
    if corrupt:
        dropped["corrupt_frame"] = corrupt
    produced, delivered = (
        totals.counters.get(SeriesKey(name, (signal,)), 0.0) for name in ("rfs_produced_total", "rfs_delivered_total")
    )
    lost = totals.counters.get(LOST, 0.0)
    suppressed = totals.counters.get(SeriesKey("rfs_suppressed_total", (signal,)), 0.0)
    books = {
        "produced": produced,
        "delivered": delivered,
        "in_flight": produced - delivered - lost - suppressed - sum(dropped.values()),
        **{f"dropped_{reason}": count for reason, count in dropped.items()},
    }
    if suppressed:
        books["suppressed"] = suppressed
    if lost:
        books["lost_on_crash"] = lost
    return {"records": books}
