"""
The leader: takes what was recorded out of the cells and segments and hands it to the store and the sinks.

`collect` may be called by anybody at any time (a query does, so that it sees what has just been recorded); the thread
that `start` starts calls it ten times a second, and once a second lets the alert rules be evaluated. None of this is on the recording path.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Event, Lock, Thread
from typing import Protocol

from rfs.monitoring._capture.instruments import BoundCounter, BoundGauge, Registry
from rfs.monitoring._capture.segments import Frame, Segments
from rfs.monitoring._store import Batch, Store, Window

COLLECT_INTERVAL_SECONDS = 0.1
TICK_SECONDS = 1.0


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
        on_delivered: Told how many records the store took.
        on_error: Told about every exception of a tick or a sink; the thread goes on.
    """

    def __init__(
        self,
        segments: Segments,
        registry: Registry,
        store: Store,
        *,
        now_seconds: Callable[[], float],
        on_tick: Callable[[], None],
        on_delivered: Callable[[int], None],
        on_error: Callable[[str, BaseException], None],
    ) -> None:
        self._segments = segments
        self._registry = registry
        self._store = store
        self._now_seconds = now_seconds
        self._on_tick = on_tick
        self._on_delivered = on_delivered
        self._on_error = on_error
        self.sinks: list[Sink] = []
        self._last_second = 0
        self.after_fork()

    def after_fork(self) -> None:
        """In a forked child: a process of its own, without the parent's thread and locks."""
        self._lock = Lock()
        self._thread: Thread | None = None
        self._stopping = Event()
        self._process = f"{os.getpid()}-{os.urandom(4).hex()}"
        self._sequence = 0

    @property
    def running(self) -> bool:
        """Whether the thread runs."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    def start(self) -> None:
        """Start the thread; nothing happens if it runs."""
        with self._lock:
            if self.running:
                return
            self._stopping = Event()
            self._thread = Thread(target=self._run, args=(self._stopping,), name="rfs-leader", daemon=True)
            self._thread.start()

    def stop(self, timeout_seconds: float) -> None:
        """Stop the thread and collect once more; nothing happens if it does not run."""
        thread = self._thread
        if thread is not None:
            self._stopping.set()
            thread.join(timeout_seconds)
            self._thread = None
        self.collect()

    def collect(self) -> None:
        """Move everything recorded so far into the store, as one batch; what the store holds afterwards is up to date."""
        with self._lock:
            frames = self._segments.drain()
            window = self._close_window()
            self._store.append(Batch(self._process, self._sequence, frames, window))
            self._sequence += 1
            if frames:
                self._on_delivered(len(frames))
                for sink in self.sinks:
                    try:
                        sink.put(frames)
                    except Exception as error:  # noqa: BLE001 - one sink's fault must not cost the others their records
                        self._on_error("sink", error)

    def _close_window(self) -> Window:
        # The store's seconds never go back, even if the wall clock does.
        self._last_second = max(self._last_second, int(self._now_seconds()))
        window = Window(self._last_second)
        for metric in self._registry.metrics():
            for child in metric.series():
                if isinstance(child, BoundCounter):
                    value = child.value
                    if value != child.sampled or not child.seen:
                        window.counters[child.key] = value - child.sampled
                        child.sampled, child.seen = value, True
                elif isinstance(child, BoundGauge):
                    written = child.read()
                    if written[1] and written != child.sampled:
                        window.gauges[child.key] = written[0]
                        child.sampled = written
                else:
                    before = child.sampled
                    if before is None or child.count != before.count:
                        reading = child.read()
                        window.sketches[child.key] = reading.since(before)
                        child.sampled = reading
        return window

    def _run(self, stopping: Event) -> None:
        ticks = max(1, round(TICK_SECONDS / COLLECT_INTERVAL_SECONDS))
        turn = 0
        while not stopping.wait(COLLECT_INTERVAL_SECONDS):
            turn += 1
            try:
                if turn % ticks == 0:
                    self._on_tick()
                elif self.sinks or self._segments.half_full:
                    self.collect()
            except Exception as error:  # noqa: BLE001 - the thread must outlive any fault of a store or a rule
                self._on_error("leader", error)
