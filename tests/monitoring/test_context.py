"""Context and trace headers: every record knows its request, wherever it is made."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfs.monitoring.context import (
    CorrelationContext,
    RandomIds,
    activate,
    bind,
    current,
    get_correlation_id,
    is_valid_correlation_id,
    propagate,
    start_context,
    with_correlation_id,
)
from rfs.monitoring.traces import format_traceparent, outbound_headers, parse_traceparent
from rfs.testing.fixtures import Telemetry

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


class TestCorrelationContext:
    def test_sync(self) -> None:
        """
        Inside the block the id is the given one; afterwards it is gone.
        """
        with CorrelationContext("req_12345") as correlation_id:
            assert correlation_id == get_correlation_id() == "req_12345"

        assert current() is None

    async def test_async_and_nested(self) -> None:
        """
        The inner block has its own id, and leaving it brings the outer one back.
        """
        async with with_correlation_id("outer"):
            async with CorrelationContext() as inner:
                assert get_correlation_id() == inner != "outer"
            assert get_correlation_id() == "outer"

    def test_restores_after_an_exception(self) -> None:
        """
        An exception leaves the block like anything else.
        """
        with pytest.raises(KeyError), CorrelationContext("req"):
            raise KeyError

        assert current() is None

    def test_one_object_may_be_entered_twice(self) -> None:
        """
        A context object that is entered again inside itself unwinds in order.
        """
        context = CorrelationContext("req")

        with context, context:
            assert get_correlation_id() == context.correlation_id == "req"

        assert current() is None

    def test_outside_every_call_makes_an_id(self) -> None:
        """
        Outside any block there is an id all the same, a new one each time, and nothing is kept.
        """
        assert get_correlation_id() != get_correlation_id()
        assert current() is None

    @pytest.mark.parametrize("bad", ["a b", "a\r\nSet-Cookie: x", "", "x" * 65, "é", "a\n"])
    def test_an_invalid_id_is_replaced_and_counted(self, telemetry: Telemetry, bad: str) -> None:
        """
        An id that could break a header or a log line is replaced by a new one, and the rejection is counted.
        """
        with CorrelationContext(bad) as correlation_id:
            assert is_valid_correlation_id(correlation_id)
            assert correlation_id != bad

        telemetry.assert_metric("rfs_rejected_total", 1, metric="correlation_id")

    async def test_tasks_do_not_mix(self) -> None:
        """
        Of a thousand tasks that run at once each sees its own id and its own fields.
        """

        async def request(number: int) -> bool:
            async with CorrelationContext(f"req-{number}"):
                bind(number=number)
                await asyncio.sleep(0)
                context = current()
                assert context is not None
                return get_correlation_id() == f"req-{number}" and context.fields == {"number": number}

        assert all(await asyncio.gather(*(request(number) for number in range(1_000))))


class TestBind:
    async def test_reaches_the_whole_request(self) -> None:
        """
        A field bound in a task of the request is seen by all of it.
        """
        async with CorrelationContext("req"):
            await asyncio.create_task(_bind_in_task())
            context = current()
            assert context is not None
            assert context.fields == {"user_id": "7"}

    def test_outside_is_harmless(self) -> None:
        """
        Outside any context there is nothing to bind to.
        """
        bind(user_id="7")

        assert current() is None


async def _bind_in_task() -> None:
    bind(user_id="7")


class TestPropagate:
    async def test_where_cpython_drops_the_context(self) -> None:
        """
        A pool's thread does not see the caller's id by itself; with ``propagate`` it does, and forgets it again.
        """
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as pool:
            async with CorrelationContext("req"):
                bare = await loop.run_in_executor(pool, current)
                carried = await loop.run_in_executor(pool, propagate(get_correlation_id))
            after = await loop.run_in_executor(pool, current)

        assert (bare, carried, after) == (None, "req", None)

    async def test_async_functions(self) -> None:
        """
        An async function carries the context it was wrapped in, not the one it is awaited in.
        """

        async def work(suffix: str) -> str:
            return get_correlation_id() + suffix

        with CorrelationContext("wrapped"):
            carried = propagate(work)
        with CorrelationContext("awaited"):
            assert await carried("!") == "wrapped!"
            assert get_correlation_id() == "awaited"

    def test_gives_back_after_an_exception(self) -> None:
        """
        What the function raises comes through, and the context is the caller's again.
        """
        with CorrelationContext("inner"):
            carried = propagate(_fail)

        with pytest.raises(ZeroDivisionError):
            carried()

        assert current() is None


def _fail() -> None:
    raise ZeroDivisionError


class TestTraceparent:
    def test_reads_the_recommendations_example(self) -> None:
        """
        The example of W3C Trace Context section 3.2 is read into its parts.
        """
        assert parse_traceparent(f"00-{TRACE}-{SPAN}-01") == (TRACE, SPAN, True)
        assert parse_traceparent(f"00-{TRACE}-{SPAN}-00") == (TRACE, SPAN, False)

    def test_a_higher_version_may_have_more(self) -> None:
        """
        Version 00 ends after the flags; a later one may go on.
        """
        assert parse_traceparent(f"cc-{TRACE}-{SPAN}-01-what-the-future-brings") == (TRACE, SPAN, True)
        assert parse_traceparent(f"00-{TRACE}-{SPAN}-01-extra") is None

    @pytest.mark.parametrize(
        "bad",
        [
            "", "00", f"ff-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01",
            f"00-{TRACE.upper()}-{SPAN}-01", f"00-{TRACE[:-1]}-{SPAN}-01", f"00-{TRACE}-{SPAN}-1", f"00-{TRACE}-{SPAN}-01\n-x",
            "0" * 10_000,
        ],
    )  # fmt: skip
    def test_malformed_is_none(self, bad: str) -> None:
        """
        What breaks the grammar starts a new trace.
        """
        assert parse_traceparent(bad) is None
        assert start_context(traceparent=bad).trace_id != TRACE

    @given(st.text(max_size=80))
    def test_never_raises(self, text: str) -> None:
        """
        Any text is read or refused.
        """
        parsed = parse_traceparent(text)

        assert parsed is None or len(parsed[0]) == 32

    def test_outbound_makes_the_callee_a_child(self) -> None:
        """
        What goes out names the current span as the parent, and the correlation id.
        """
        request = start_context("req", f"00-{TRACE}-{SPAN}-01")
        activate(request.child("operation", "b7ad6b7169203331"))
        try:
            headers = outbound_headers()
        finally:
            activate(None)

        assert headers == {"X-Correlation-ID": "req", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
        assert parse_traceparent(headers["traceparent"]) == (TRACE, "b7ad6b7169203331", True)

    def test_nothing_to_send(self) -> None:
        """
        Outside any context there are no headers; without a span there is no traceparent.
        """
        assert outbound_headers() == {}
        with CorrelationContext("req"):
            assert outbound_headers() == {"X-Correlation-ID": "req"}

    def test_unsampled_stays_unsampled(self) -> None:
        """
        The caller's decision not to sample is handed on.
        """
        child = start_context("req", f"00-{TRACE}-{SPAN}-00").child("operation", SPAN)

        assert format_traceparent(child) == f"00-{TRACE}-{SPAN}-00"


class TestIds:
    def test_lengths_and_forks(self) -> None:
        """
        Trace ids have 128 bits, span ids 64; a forked child does not go on with its parent's.
        """
        ids = RandomIds()

        before = ids.trace_id()
        ids.after_fork()

        assert len(before) == len(ids.trace_id()) == 32
        assert len(ids.span_id()) == 16
        assert before != ids.trace_id()
