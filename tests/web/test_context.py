"""
The propagation matrix: wherever a request's work runs, it knows which request it belongs to.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Request, Response, WebSocket
from fastapi.sse import EventSourceResponse
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.responses import StreamingResponse

from rfs.monitoring.context import bind, current, propagate
from rfs.monitoring.monitor import Monitor
from rfs.web.fastapi import RequestMiddleware, install
from tests.web.asgi import get, websocket

CORRELATION_ID = "req-2.F:matrix"
HEADERS = {"X-Correlation-ID": CORRELATION_ID}

Seen = list[str | None]


def look() -> str | None:
    context = current()
    return context.correlation_id if context is not None else None


async def alook() -> str | None:
    await asyncio.sleep(0)
    return look()


# Ways to run work from an async endpoint.


async def in_create_task() -> str | None:
    return await asyncio.create_task(alook())


async def in_gather() -> str | None:
    first, second = await asyncio.gather(alook(), alook())
    assert first == second
    return first


async def in_task_group() -> str | None:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(alook())
    return task.result()


async def in_call_later() -> str | None:
    seen: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0, lambda: seen.set_result(look()))
    return await seen


async def in_to_thread() -> str | None:
    return await asyncio.to_thread(look)


async def in_run_in_executor() -> str | None:
    return await asyncio.get_running_loop().run_in_executor(None, propagate(look))


async def in_submit() -> str | None:
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(propagate(look)).result()


async def in_thread() -> str | None:
    seen: Seen = []

    def work() -> None:
        seen.append(look())

    thread = threading.Thread(target=propagate(work))
    thread.start()
    thread.join()
    return seen[0]


async def bare_run_in_executor() -> str | None:
    return await asyncio.get_running_loop().run_in_executor(None, look)


async def bare_submit() -> str | None:
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(look).result()


async def bare_thread() -> str | None:
    seen: Seen = []
    thread = threading.Thread(target=lambda: seen.append(look()))
    thread.start()
    thread.join()
    return seen[0]


WORK: tuple[Callable[[], Awaitable[str | None]], ...] = (
    in_create_task,
    in_gather,
    in_task_group,
    in_call_later,
    in_to_thread,
    in_run_in_executor,
    in_submit,
    in_thread,
)
DROPPED_BY_CPYTHON = (bare_run_in_executor, bare_submit, bare_thread)
REQUESTS = (
    "background-sync",
    "background-async",
    "endpoint-sync",
    "dependency-sync",
    "dependency-async",
    "streaming",
    "sse",
)


class Foreign(BaseHTTPMiddleware):
    """Somebody's middleware, which does nothing: it still runs the app in a task of its own."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


@pytest.fixture(params=[(0, 0), (1, 0), (0, 1), (1, 1), (3, 0), (0, 3), (3, 3)], ids=lambda p: f"{p[0]}out-{p[1]}in")
def matrix(request: pytest.FixtureRequest) -> tuple[FastAPI, Seen]:
    """An app with a route per cell, and foreign middleware outside and inside of ours."""
    outside, inside = request.param
    seen: Seen = []
    app = FastAPI()
    for work in (*WORK, *DROPPED_BY_CPYTHON):

        def add(work: Callable[[], Awaitable[str | None]]) -> None:
            async def endpoint() -> None:
                seen.append(await work())

            app.add_api_route(f"/{work.__name__}", endpoint)

        add(work)

    @app.get("/background-sync")
    async def background_sync(tasks: BackgroundTasks) -> None:
        tasks.add_task(lambda: seen.append(look()))

    @app.get("/background-async")
    async def background_async(tasks: BackgroundTasks) -> None:
        async def work() -> None:
            seen.append(await alook())

        tasks.add_task(work)

    @app.get("/endpoint-sync")
    def endpoint_sync() -> None:
        seen.append(look())

    @app.get("/dependency-sync")
    async def dependency_sync(found: Annotated[Any, Depends(look)]) -> None:
        seen.append(found)

    @app.get("/dependency-async")
    async def dependency_async(found: Annotated[Any, Depends(alook)]) -> None:
        seen.append(found)

    @app.get("/streaming")
    async def streaming() -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            yield "a line\n"
            seen.append(await alook())

        return StreamingResponse(lines())

    @app.get("/sse", response_class=EventSourceResponse)
    async def sse() -> AsyncIterator[dict[str, int]]:
        yield {"order": 1}
        seen.append(await alook())

    @app.websocket("/websocket")
    async def socket(connection: WebSocket) -> None:
        await connection.accept()
        await connection.receive_text()
        seen.append(look())
        await connection.close()

    for _ in range(inside):
        app.add_middleware(Foreign)
    app.add_middleware(RequestMiddleware)
    for _ in range(outside):
        app.add_middleware(Foreign)
    return app, seen


class TestPropagation:
    @pytest.mark.parametrize("cell", [*(work.__name__ for work in WORK), *REQUESTS])
    async def test_work_knows_its_request(self, matrix: tuple[FastAPI, Seen], cell: str) -> None:
        """
        The id of the request is seen wherever its work runs, through foreign middleware on either side.
        """
        app, seen = matrix

        answer = await get(app, f"/{cell}", headers=HEADERS)

        assert answer.raised is None
        assert seen == [CORRELATION_ID]

    async def test_websocket(self, matrix: tuple[FastAPI, Seen]) -> None:
        """
        A WebSocket's handler sees the id of its handshake, and the handshake's answer carries it.
        """
        app, seen = matrix

        answer = await websocket(app, "/websocket", ["hello"], HEADERS)

        assert seen == [CORRELATION_ID]
        assert answer.headers["x-correlation-id"] == CORRELATION_ID

    @pytest.mark.parametrize("cell", [work.__name__ for work in DROPPED_BY_CPYTHON])
    async def test_what_cpython_drops(self, matrix: tuple[FastAPI, Seen], cell: str) -> None:
        """
        Bare threads and executors start without a context: here `propagate` is needed (and works, see above).
        """
        app, seen = matrix

        await get(app, f"/{cell}", headers=HEADERS)

        assert seen == [None]

    async def test_nothing_is_left_behind(self, matrix: tuple[FastAPI, Seen]) -> None:
        """
        After a request its context is gone.
        """
        app, _ = matrix

        await get(app, "/endpoint-sync", headers=HEADERS)

        assert current() is None


class TestBoundFields:
    @pytest.mark.parametrize("kind", ["sync", "async"])
    @pytest.mark.parametrize("foreign", [0, 1, 3])
    async def test_on_the_access_line(self, monitor: Monitor, kind: str, foreign: int) -> None:
        """
        A field bound in an endpoint, sync or async, is on the line that tells that the request is completed.
        """
        app = FastAPI()
        install(app, dashboard=False)

        @app.get("/sync")
        def sync_endpoint() -> None:
            bind(table="A7")

        @app.get("/async")
        async def async_endpoint() -> None:
            bind(table="A7")

        for _ in range(foreign):
            app.add_middleware(Foreign)

        await get(app, f"/{kind}", headers=HEADERS)

        completed = monitor.query.records_by_correlation_id(CORRELATION_ID)[-1]
        assert completed.message == "Request completed"
        assert completed.context["table"] == "A7"

    async def test_requests_are_apart(self, monitor: Monitor) -> None:
        """
        A hundred requests in flight at once see, bind and record only what is theirs.
        """
        app = FastAPI()
        install(app, dashboard=False)

        @app.get("/{number}")
        async def endpoint(number: str) -> str | None:
            for _ in range(int(number) % 7):
                await asyncio.sleep(0)
            bind(number=number)
            await asyncio.sleep(0)
            return look()

        answers = await asyncio.gather(
            *(get(app, f"/{number}", headers={"X-Correlation-ID": f"id-{number}"}) for number in range(100))
        )

        assert [answer.json() for answer in answers] == [f"id-{number}" for number in range(100)]
        completed = [record for record in monitor.query.records(limit=1000) if record.message == "Request completed"]
        assert {(record.correlation_id, record.context["number"]) for record in completed} == {
            (f"id-{number}", str(number)) for number in range(100)
        }
