"""
The live feed: every stream of a store gets every event of that store, once and in order.

The truth is the table ``order_events``. A notification of PostgreSQL only says
"look now"; without one the feed looks by itself every ``poll_seconds``, so a lost
notification makes an event late and never lost. One reader per process serves
all its streams from memory, and a stream that comes back with the number of its
last event gets the rest from the table.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from enum import Enum
from typing import Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.database import DATABASE_FAULTS, Database
from app.core.metrics import ApplicationMetrics
from app.core.security import Principal, utc_now
from app.models.schemas import EventView
from app.models.tables import AccessToken, OrderEvent, OrderStatus, Store
from app.services.accounts import REVOKED_CHANNEL
from app.services.orders import EVENTS_CHANNEL
from app.services.refusals import Code, Refusal
from rfs.core.result import Failure, Result, Success
from rfs.monitoring import result_logging
from rfs.monitoring.result_logging import log_result_operation

_TAIL: Final = 1000  # events of a store that are kept in memory
_PAGE: Final = 200
_RECONNECT_SECONDS: Final = 0.5


class End(Enum):
    """Why a stream ended."""

    CLIENT_LEFT = "client left"
    TOKEN = "token expired or revoked"
    SHUTDOWN = "the service stops"


class _Channel:
    """What this process knows of one store's events while somebody listens."""

    def __init__(self, newest: int) -> None:
        self.newest = newest  # highest sequence that was read
        self.tail: deque[EventView] = deque(maxlen=_TAIL)
        self.streams: set[Subscription] = set()

    def since(self, cursor: int) -> list[EventView] | None:
        """The events after *cursor*; None if memory does not reach back so far."""
        oldest = self.newest - len(self.tail)
        if cursor < oldest:
            return None
        return list(self.tail)[cursor - oldest :] if cursor < self.newest else []


class Subscription:
    """One open stream. Made by :meth:`Feed.subscribe`; close it."""

    def __init__(
        self, feed: Feed, channel: _Channel, principal: Principal, store_id: str, cursor: int, *, reset: bool
    ) -> None:
        self._feed = feed
        self._channel = channel
        self._news = asyncio.Event()
        self.principal = principal
        self.store_id = store_id
        self.cursor = cursor  # sequence of the last event that was handed out
        self.reset = reset  # whether the client's number was none of ours: what it knows is stale
        self.ended: End | None = None

    async def next(self, timeout_seconds: float) -> Sequence[EventView] | None:
        """
        Wait for events: those after the cursor, () if there were none in time, None at the end.

        The events stay available until :meth:`advance` is told of them.
        """
        # Cleared before looking: news that arrive in between are not slept through.
        self._news.clear()
        found: Sequence[EventView] = () if self.is_over() else await self._look()
        if not found and not self.is_over():
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_seconds):
                    await self._news.wait()
            found = () if self.is_over() else await self._look()
        return None if self.is_over() else found

    def is_over(self) -> bool:
        """Whether either side has ended it."""
        return self.ended is not None

    def advance(self, events: Sequence[EventView]) -> None:
        """Note that *events* were handed out."""
        self.cursor = events[-1].sequence

    def wake(self) -> None:
        """Let :meth:`next` look."""
        self._news.set()

    def end(self, reason: End) -> None:
        """Make :meth:`next` return None; the first reason stays."""
        self.ended = self.ended or reason
        self._news.set()

    def close(self) -> None:
        """Leave the feed. May be called twice."""
        self._feed.leave(self)

    async def _look(self) -> Sequence[EventView]:
        found = self._channel.since(self.cursor)
        if found is None:
            return await self._feed.read(self.store_id, self.cursor)
        return found[:_PAGE]


class Feed:
    """
    All streams of this process. For one event loop; :meth:`run` must be running.

    Args:
        poll_seconds: How late an event or the end of a revoked token's stream
            may be when its notification is lost.
        streams_per_store: How many streams of one store this process serves.
    """

    def __init__(
        self,
        database: Database,
        metrics: ApplicationMetrics,
        *,
        poll_seconds: float,
        streams_per_store: int,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._metrics = metrics
        self._poll_seconds = poll_seconds
        self._streams_per_store = streams_per_store
        self._now = now
        self._channels: dict[str, _Channel] = {}
        self._hint = asyncio.Event()
        self._stopping = False

    @property
    def stream_count(self) -> int:
        """Streams open in this process."""
        return sum(len(channel.streams) for channel in self._channels.values())

    @log_result_operation("feed.subscribe", include_args=False)
    async def subscribe(
        self, principal: Principal, store_id: str, last_event_id: int | None
    ) -> Result[Subscription, Refusal]:
        """
        Open a stream that goes on after *last_event_id*, or with what happens from now on.

        A number that the store has not reached is none of ours; the stream then
        starts from now, and its ``reset`` says so.
        """
        newest = await self._database.run(lambda session: _last_event(session, store_id))
        if isinstance(newest, Failure):
            return newest
        channel = self._channels.get(store_id)
        if channel is not None and len(channel.streams) >= self._streams_per_store:
            details = {"limit": self._streams_per_store, "retry_after_seconds": 5}
            return Failure(Refusal(Code.STREAM_LIMIT, "The store has too many open streams", details))
        if channel is None:
            channel = self._channels[store_id] = _Channel(newest.value)
        cursor, reset = newest.value, False
        if last_event_id is not None:
            reset = not 0 <= last_event_id <= newest.value
            cursor = newest.value if reset else last_event_id
        subscription = Subscription(self, channel, principal, store_id, cursor, reset=reset)
        channel.streams.add(subscription)
        if self._stopping:
            subscription.end(End.SHUTDOWN)
        self._metrics.streams_open(self.stream_count)
        return Success(subscription)

    def leave(self, subscription: Subscription) -> None:
        """Forget a stream, and its store's events with the last one."""
        channel = self._channels.get(subscription.store_id)
        if channel is not None and subscription in channel.streams:
            channel.streams.remove(subscription)
            if not channel.streams:
                del self._channels[subscription.store_id]
            self._metrics.streams_open(self.stream_count)

    def end_all(self) -> None:
        """End every stream, and those that come later at once; the service is about to stop."""
        self._stopping = True
        for channel in self._channels.values():
            for subscription in channel.streams:
                subscription.end(End.SHUTDOWN)

    async def read(self, store_id: str, cursor: int) -> Sequence[EventView]:
        """Read a page of events after *cursor* from the table; () while the database is away."""
        query = select(OrderEvent).where(OrderEvent.store_id == store_id, OrderEvent.sequence > cursor)
        try:
            async with self._database.session() as session:
                found = await session.scalars(query.order_by(OrderEvent.sequence).limit(_PAGE))
                return [_view(event) for event in found]
        except DATABASE_FAULTS as error:
            result_logging.warning("Retrying to read events", store_id=store_id, error_type=type(error).__name__)
            return ()

    async def run(self) -> None:
        """Serve the streams until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen())
            tasks.create_task(self._look_often())

    async def _listen(self) -> None:
        """Hold one connection on which PostgreSQL says that there is news."""
        await self._database.wait_prepared()
        while True:
            lost = asyncio.Event()
            try:
                connection = await self._database.open_listener()
                try:
                    connection.add_termination_listener(_setter(lost))
                    for channel in (EVENTS_CHANNEL, REVOKED_CHANNEL):
                        await connection.add_listener(channel, self._hear)
                    self._hint.set()
                    await lost.wait()
                finally:
                    connection.terminate()
            except DATABASE_FAULTS as error:
                result_logging.warning("Retrying to listen", error_type=type(error).__name__)
            else:
                result_logging.warning("Retrying to listen", error_type="ConnectionLost")
            await asyncio.sleep(_RECONNECT_SECONDS)

    def _hear(self, *_: object) -> None:
        self._hint.set()

    async def _look_often(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await self._hint.wait()
            self._hint.clear()
            if not self._channels:
                continue
            try:
                await self._look()
            except DATABASE_FAULTS as error:
                result_logging.warning("Retrying to look for events", error_type=type(error).__name__)
                await asyncio.sleep(self._poll_seconds)

    async def _look(self) -> None:
        """Fetch what is new for the stores that are listened to, and end the streams of dead tokens."""
        channels = dict(self._channels)
        principals = {stream.principal.token_id: stream.principal for c in channels.values() for stream in c.streams}
        async with self._database.session() as session:
            counters = await session.execute(select(Store.id, Store.last_event).where(Store.id.in_(channels)))
            behind = [row.id for row in counters if row.last_event > channels[row.id].newest]
            for store_id in behind:
                await self._fetch(session, store_id, channels[store_id])
            alive = select(AccessToken.id).where(AccessToken.id.in_(principals), AccessToken.revoked_at.is_(None))
            known = set(await session.scalars(alive))
        now = self._now()
        for channel in channels.values():
            for stream in channel.streams:
                if stream.principal.token_id not in principals:
                    continue  # it came while we asked
                if stream.principal.token_id not in known or stream.principal.expires_at <= now:
                    stream.end(End.TOKEN)
                elif stream.cursor < channel.newest:
                    # Behind what memory holds, and the last reading of the table may have failed.
                    stream.wake()

    async def _fetch(self, session: AsyncSession, store_id: str, channel: _Channel) -> None:
        query = select(OrderEvent).where(OrderEvent.store_id == store_id, OrderEvent.sequence > channel.newest)
        found = [_view(event) for event in await session.scalars(query.order_by(OrderEvent.sequence).limit(_TAIL))]
        if not found:
            return
        channel.tail.extend(found)
        channel.newest = found[-1].sequence
        for stream in channel.streams:
            stream.wake()
        if len(found) == _TAIL:
            self._hint.set()


def _setter(event: asyncio.Event) -> Callable[[object], None]:
    return lambda _: event.set()


async def _last_event(session: AsyncSession, store_id: str) -> Result[int, Refusal]:
    newest = await session.scalar(select(Store.last_event).where(Store.id == store_id))
    if newest is None:
        return Failure(Refusal(Code.UNKNOWN_STORE, "There is no such store", {"store_id": store_id}))
    return Success(newest)


def _view(event: OrderEvent) -> EventView:
    return EventView(
        sequence=event.sequence,
        order_id=event.order_id,
        table_number=event.table_number,
        status=OrderStatus(event.status),
        total_won=event.total_won,
        occurred_at=event.occurred_at,
    )
