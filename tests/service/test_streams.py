from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from dirty_equals import IsPartialDict
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from app.api.v1.streams import EventStream, parse_last_event_id, render
from app.core.config import Settings
from app.core.metrics import ApplicationMetrics
from app.core.security import Principal
from app.main import build_service
from app.models.schemas import EventView
from app.models.tables import Role
from app.services.feed import Feed, Subscription
from rfs.testing.fixtures import Telemetry
from rfs.testing.generators import TestDataFactory, texts
from rfs.testing.result_helpers import assert_mono_result_success
from rfs.testing.steps import StepVerifier
from rfs.testing.virtual_time import VirtualTime
from tests.service.harness import API, NOWHERE, Running, eventually, make_settings, running, until

data = TestDataFactory(seed=7)


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

            ours = {"order_id": order["id"], "table_number": 4}
            await (
                StepVerifier(stream)
                .expect_value(IsPartialDict(ours | {"id": 1, "status": "created"}))
                .expect_value(IsPartialDict(ours | {"id": 2, "status": "accepted"}))
                .expect_value(IsPartialDict(ours | {"id": 3, "status": "cooking"}))
                .expect_value(IsPartialDict(ours | {"id": 4, "status": "served"}))
                .then_cancel()
                .verify_complete()
            )

    async def test_other_stores_events_do_not(self, running_service: Running) -> None:
        """
        A stream carries its own store's events alone.
        """
        async with running_service.stream("hanok") as stream:
            await running_service.place("pocha")
            ours = await running_service.place("hanok")

            assert (await anext(stream))["order_id"] == ours["id"]

    async def test_all_workers_serve_one_store(self, settings: Callable[..., Settings]) -> None:
        """
        An order placed at one worker is seen at once by the streams of another, through the database.
        """
        async with running(settings(SSE_POLL_SECONDS=5)) as one, running(settings(SSE_POLL_SECONDS=5)) as other:
            await eventually(lambda: listeners(one), 2)
            async with other.stream() as stream, asyncio.timeout(4):  # the next look is after 5 s
                order = await one.place()
                event = await anext(stream)

        assert event["order_id"] == order["id"]

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

                assert (await anext(stream))["order_id"] == order["id"]

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
                seen = [(await anext(stream))["order_id"] for _ in orders[left_after:]]
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
            seen = [(await anext(stream))["order_id"] for _ in range(10)]

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
            assert (await anext(stream))["order_id"] == order["id"]

    async def test_many_clients_that_come_and_go(self, running_service: Running) -> None:
        """
        Five clients that break off and come back while orders stream in each end with every event once.
        """
        wanted = 30

        async def client() -> list[int]:
            seen: list[int] = []
            while len(seen) < wanted:
                async with running_service.stream(last_event_id=str(len(seen))) as stream:
                    seen.extend([(await anext(stream))["id"] for _ in range(min(7, wanted - len(seen)))])
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
    async def test_sent_is_what_clients_got(self, running_service: Running, telemetry: Telemetry) -> None:
        """
        Two clients and three events make six sent and none failed.
        """
        async with running_service.stream() as one, running_service.stream() as two:
            for _ in range(3):
                await running_service.place()
            for stream in (one, two):
                for _ in range(3):
                    await anext(stream)

        await until(lambda: running_service.service.feed.stream_count == 0)

        telemetry.assert_metric("sse_events_total", 6)
        telemetry.assert_metric("sse_events_sent_total", 6)
        telemetry.assert_metric("sse_events_failed_total", 0)

    async def test_streams_are_no_slow_requests(self, running_service: Running, telemetry: Telemetry) -> None:
        """
        How long a stream stays open is not a response time.
        """
        async with running_service.stream():
            pass
        await until(lambda: running_service.service.feed.stream_count == 0)

        telemetry.assert_metric("http_request_duration_seconds", None, route=f"{API}/stores/{{store_id}}/stream")


class TestDelivery:
    @pytest.fixture
    def feed(self, result_mocker_factory: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Feed:
        """The feed of a store with two events, without a database."""
        service = build_service(make_settings(NOWHERE))
        result_mocker_factory(service.database, "run").return_success(2)  # asked for the number of the last event

        async def read(_: str, cursor: int) -> list[EventView]:
            return [data.build(EventView, sequence=number) for number in (1, 2)][cursor:]

        monkeypatch.setattr(service.feed, "read", read)
        return service.feed

    async def opened(self, feed: Feed, last_event_id: int) -> tuple[Subscription, EventStream]:
        """A stream as the endpoint opens it, for a client that has seen so much."""
        metrics = ApplicationMetrics()
        metrics.declare()
        kitchen = data.build(Principal, store_id="hanok", role=Role.KITCHEN)
        subscription = await assert_mono_result_success(feed.subscribe(kitchen, "hanok", last_event_id), Subscription)
        return subscription, EventStream(subscription, metrics, heartbeat_seconds=30, send_timeout_seconds=10)

    @pytest.mark.parametrize(("fault", "seconds"), [(OSError("gone"), 0), (None, 10)], ids=["broken", "stuck"])
    async def test_what_a_client_does_not_take_has_failed(
        self, feed: Feed, telemetry: Telemetry, virtual_time: VirtualTime, fault: Exception | None, seconds: int
    ) -> None:
        """
        A connection that breaks or does not drain costs its events, counted as failed, and its stream, which is closed.
        """
        subscription, stream = await self.opened(feed, 0)
        messages = 0

        async def send(_: object) -> None:
            nonlocal messages
            messages += 1
            if messages == 3:  # after the beginning and the greeting
                if fault is not None:
                    raise fault
                await asyncio.Event().wait()

        async def receive() -> Any:
            await asyncio.Event().wait()

        began = virtual_time.now
        await stream({"type": "http"}, receive, send)

        assert (virtual_time.now - began).total_seconds() == seconds
        telemetry.assert_metric("sse_events_total", 2)
        telemetry.assert_metric("sse_events_sent_total", 0)
        telemetry.assert_metric("sse_events_failed_total", 2)
        assert (feed.stream_count, subscription.cursor) == (0, 0)

    async def test_a_client_that_leaves_ends_it(self, feed: Feed, telemetry: Telemetry) -> None:
        """
        When the server says that the client is gone, nothing more is written.
        """
        _, stream = await self.opened(feed, 2)
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message["type"])

        async def receive() -> Any:
            return {"type": "http.disconnect"}

        telemetry.assert_metric("sse_connections", 1)
        await stream({"type": "http"}, receive, send)

        assert sent == ["http.response.start", "http.response.body"]
        telemetry.assert_metric("sse_connections", 0)


class TestForm:
    @given(st.integers(0, 10**18 - 1))
    def test_reading_undoes_writing(self, number: int) -> None:
        """
        The number that an event carried is the one that comes back.
        """
        assert parse_last_event_id(str(number)) == number

    @given(texts())
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
        block = render([data.build(EventView, sequence=7)]).decode()

        assert block.startswith("id: 7\nevent: order\ndata: {")
        assert block.endswith("}\n\n")
        assert block.count("\n") == 4
