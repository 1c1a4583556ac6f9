from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from app.api.v1.streams import EventStream, parse_last_event_id, render
from app.core.config import Settings
from app.core.metrics import ApplicationMetrics
from app.models.schemas import EventView
from app.models.tables import OrderStatus
from rfs.monitoring.monitor import default_monitor
from tests.service.harness import API, Running, eventually, running, until


async def listeners(service: Running) -> int:
    """How many workers PostgreSQL notifies."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%revoked%'"
    async with service.service.database.session() as session:
        return int((await session.execute(text(query))).scalar_one())


@pytest.mark.postgres
class TestEvents:
    async def test_every_change_arrives_in_order(self, running_service: Running) -> None:
        """
        The kitchen sees each step of each order of its store, numbered without a gap.
        """
        async with running_service.stream() as stream:
            order = await running_service.place(table=4)
            for status in ("accepted", "cooking", "served"):
                await running_service.move(order, status)
            seen = [await stream.event() for _ in range(4)]

        assert [event["status"] for event in seen] == ["created", "accepted", "cooking", "served"]
        assert [event["id"] for event in seen] == [1, 2, 3, 4]
        assert {(event["order_id"], event["table_number"]) for event in seen} == {(order["id"], 4)}

    async def test_other_stores_events_do_not(self, running_service: Running) -> None:
        """
        A stream carries its own store's events alone.
        """
        async with running_service.stream("hanok") as stream:
            await running_service.place("pocha")
            ours = await running_service.place("hanok")

            assert (await stream.event())["order_id"] == ours["id"]

    async def test_all_workers_serve_one_store(self, settings: Callable[..., Settings]) -> None:
        """
        An order placed at one worker is seen at once by the streams of another, through the database.
        """
        async with running(settings(SSE_POLL_SECONDS=5)) as one, running(settings(SSE_POLL_SECONDS=5)) as other:
            await eventually(lambda: listeners(one), 2)
            async with other.stream() as stream:
                started = time.monotonic()
                order = await one.place()
                event = await stream.event()

        assert event["order_id"] == order["id"]
        assert time.monotonic() - started < 4, "it came by looking, not by the notification"

    async def test_a_lost_notification_makes_it_late_and_not_lost(
        self, settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        With PostgreSQL's notifications cut off, the feed finds the event by itself.
        """
        async with running(settings()) as service:
            monkeypatch.setattr(service.service.feed, "_hear", lambda *_: None)
            async with service.stream() as stream:
                order = await service.place()

                assert (await stream.event())["order_id"] == order["id"]

    async def test_heartbeats_keep_a_quiet_stream_open(self, settings: Callable[..., Settings]) -> None:
        """
        Where nothing happens, a comment comes every interval, and is no event.
        """
        async with running(settings(SSE_HEARTBEAT_INTERVAL=0.05)) as service:
            async with service.stream() as stream:
                blocks = [await stream.next() for _ in range(3)]

            assert blocks == [{"": "heartbeat"}] * 3
            assert service.service.metrics.total_sse_events_sent == 0


@pytest.mark.postgres
class TestResuming:
    async def test_misses_nothing_and_repeats_nothing(self, running_service: Running) -> None:
        """
        A client that leaves after any event and comes back gets exactly the rest.
        """
        orders = [await running_service.place() for _ in range(6)]

        for left_after in range(7):
            async with running_service.stream(last_event_id=str(left_after)) as stream:
                orders.append(await running_service.place())
                seen = [(await stream.event())["order_id"] for _ in orders[left_after:]]
            assert seen == [order["id"] for order in orders[left_after:]]

    async def test_reaches_back_beyond_what_memory_holds(
        self, running_service: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        Events that no process remembers are read from the table, page by page.
        """
        monkeypatch.setattr("app.services.feed._PAGE", 3)
        orders = [await running_service.place() for _ in range(10)]

        async with running_service.stream(last_event_id="0") as stream:
            seen = [(await stream.event())["order_id"] for _ in range(10)]

        assert seen == [order["id"] for order in orders]

    @pytest.mark.parametrize("last", ["99", "-1", "abc", "1e3", "٣", "9" * 40])
    async def test_a_number_that_is_none_of_ours_resets(self, running_service: Running, last: str) -> None:
        """
        A client with a foreign or broken number is told to read the orders anew, and goes on from now.
        """
        await running_service.place()

        async with running_service.stream(last_event_id=last.encode("ascii", "ignore").decode() or "x") as stream:
            assert stream.greeting == {"id": "1", "event": "reset", "data": "{}"}
            order = await running_service.place()
            assert (await stream.event())["order_id"] == order["id"]

    async def test_many_clients_that_come_and_go(self, running_service: Running) -> None:
        """
        Five clients that break off and come back while orders stream in each end with every event once.
        """
        wanted = 30

        async def client() -> list[int]:
            seen: list[int] = []
            while len(seen) < wanted:
                async with running_service.stream(last_event_id=str(len(seen))) as stream:
                    seen.extend([(await stream.event())["id"] for _ in range(min(7, wanted - len(seen)))])
            return seen

        async def guests() -> None:
            for number in range(wanted):
                await running_service.place(table=number % 12 + 1)

        await running_service.token("hanok", "kitchen")
        *histories, _ = await asyncio.gather(*(client() for _ in range(5)), guests())

        assert histories == [list(range(1, wanted + 1))] * 5


@pytest.mark.postgres
class TestLimits:
    async def test_a_store_has_so_many_streams(self, settings: Callable[..., Settings]) -> None:
        """
        One stream more than the limit is refused with 429; another store is not affected, and a place that is left is free.
        """
        async with running(settings(SSE_MAX_CONNECTIONS_PER_STORE=2)) as service:
            async with service.stream():
                async with service.stream():
                    assert service.service.metrics.active_sse_connections == 2
                    async with service.stream() as refused, service.stream("pocha") as other:
                        assert refused.response.status_code == 429
                        assert refused.response.json()["code"] == "STREAM_LIMIT"
                        assert refused.response.headers["Retry-After"] == "5"
                        assert other.response.status_code == 200
                await until(lambda: service.service.feed.stream_count == 1)
                async with service.stream() as again:
                    assert again.response.status_code == 200
            await until(lambda: service.service.feed.stream_count == 0)
            assert service.service.metrics.active_sse_connections == 0

    async def test_has_no_length(self, running_service: Running) -> None:
        """
        A stream says what it is, and not how long it will be.
        """
        async with running_service.stream("hanok") as stream:
            assert stream.response.headers["content-type"].startswith("text/event-stream")
            assert "content-length" not in stream.response.headers

    async def test_they_end_when_the_service_stops(self, settings: Callable[..., Settings]) -> None:
        """
        A service that is told to stop ends its streams in order, and takes no new ones.
        """
        async with running(settings()) as service:
            async with service.stream() as stream:
                service.service.feed.end_all()
                await stream.end()
            async with service.stream() as late:
                await late.end()


@pytest.mark.postgres
class TestCounting:
    async def test_sent_is_what_clients_got(self, running_service: Running) -> None:
        """
        Two clients and three events make six sent and none failed.
        """
        async with running_service.stream() as one, running_service.stream() as two:
            for _ in range(3):
                await running_service.place()
            for stream in (one, two):
                for _ in range(3):
                    await stream.event()

        query = default_monitor().query

        async def counts() -> list[float | None]:
            return [query.increase(f"sse_events{part}_total", "1h") for part in ("", "_sent", "_failed")]

        await eventually(counts, [6, 6, 0])

    async def test_streams_are_no_slow_requests(self, running_service: Running) -> None:
        """
        How long a stream stays open is not a response time.
        """
        async with running_service.stream():
            pass
        await until(lambda: running_service.service.feed.stream_count == 0)

        times = default_monitor().query.distribution(
            "http_request_duration_seconds", "1h", {"route": f"{API}/stores/{{store_id}}/stream"}
        )

        assert times is None or times.count == 0


def event(sequence: int) -> EventView:
    return EventView(
        sequence=sequence,
        order_id=uuid4(),
        table_number=1,
        status=OrderStatus.CREATED,
        total_won=1,
        occurred_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


class FakeSubscription:
    """Hands out what it was given, then waits to be ended."""

    def __init__(self, *batches: list[EventView]) -> None:
        self.batches = list(batches)
        self.cursor, self.reset, self.closed = 0, False, False
        self.ended: Any = None
        self._over = asyncio.Event()

    async def next(self, _: float) -> list[EventView] | None:
        if self.batches and self.ended is None:
            return self.batches.pop(0)
        await self._over.wait()
        return None

    def advance(self, events: list[EventView]) -> None:
        self.cursor = events[-1].sequence

    def end(self, reason: Any) -> None:
        self.ended = self.ended or reason
        self._over.set()

    def close(self) -> None:
        self.closed = True


class TestDelivery:
    @pytest.mark.parametrize("fault", [OSError("gone"), None], ids=["broken", "stuck"])
    async def test_what_a_client_does_not_take_has_failed(self, fault: Exception | None) -> None:
        """
        A connection that breaks or does not drain costs its events, counted as failed, and its stream, which is closed.
        """
        metrics = ApplicationMetrics()
        metrics.declare()
        subscription: Any = FakeSubscription([event(1), event(2)])
        stream = EventStream(subscription, metrics, heartbeat_seconds=1, send_timeout_seconds=0.02)
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)
            if len(sent) == 3:
                if fault is not None:
                    raise fault
                await asyncio.Event().wait()

        async def receive() -> Any:
            await asyncio.Event().wait()

        await stream({"type": "http"}, receive, send)

        query = default_monitor().query
        assert [query.increase(f"sse_events{part}_total") for part in ("", "_sent", "_failed")] == [2, 0, 2]
        assert subscription.closed
        assert subscription.cursor == 0

    async def test_a_client_that_leaves_ends_it(self) -> None:
        """
        When the server says that the client is gone, nothing more is written.
        """
        subscription: Any = FakeSubscription()
        stream = EventStream(subscription, ApplicationMetrics(), heartbeat_seconds=1, send_timeout_seconds=1)
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message["type"])

        async def receive() -> Any:
            return {"type": "http.disconnect"}

        await stream({"type": "http"}, receive, send)

        assert sent == ["http.response.start", "http.response.body"]
        assert subscription.closed


class TestForm:
    @given(st.integers(0, 10**18 - 1))
    def test_reading_undoes_writing(self, number: int) -> None:
        """
        The number that an event carried is the one that comes back.
        """
        assert parse_last_event_id(str(number)) == number

    @given(st.text(max_size=64))
    def test_any_text_is_a_number_or_none_of_ours(self, sent: str) -> None:
        """
        Whatever a client sends is a number that can be, or -1.
        """
        assert parse_last_event_id(sent) in range(-1, 10**18)

    def test_no_header_is_no_number(self) -> None:
        """
        A first visit starts with now, without a reset.
        """
        assert parse_last_event_id(None) is None

    def test_an_event_is_four_lines(self) -> None:
        """
        Id, kind, data on one line, and the empty line that ends it.
        """
        block = render([event(7)]).decode()

        assert block.startswith("id: 7\nevent: order\ndata: {")
        assert block.endswith("}\n\n")
        assert block.count("\n") == 4
