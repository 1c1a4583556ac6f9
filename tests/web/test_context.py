"""
The propagation matrix: wherever a request's work runs, it knows which request it belongs to.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Request, Response, WebSocket
from fastapi.sse import EventSourceResponse
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.responses import StreamingResponse

from rfs.monitoring.context import bind, current, propagate
from rfs.monitoring.result_logging import info
from rfs.testing.fixtures import Telemetry
from rfs.web.fastapi import RequestMiddleware, install
from tests.web.asgi import get, websocket

CORRELATION_ID = "req-2.F:matrix"
HEADERS = {"X-Correlation-ID": CORRELATION_ID}


def work() -> None:
    """What is done somewhere for a request."""
    info("work")


async def awork() -> None:
    await asyncio.sleep(0)
    work()


# Ways to run work from an async endpoint.


async def in_create_task() -> None:
    await asyncio.create_task(awork())


async def in_gather() -> None:
    await asyncio.gather(awork(), awork())


async def in_task_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(awork())


async def in_call_later() -> None:
    done = asyncio.Event()

    def call() -> None:
        work()
        done.set()

    asyncio.get_running_loop().call_later(0, call)
    await done.wait()


async def in_to_thread() -> None:
    await asyncio.to_thread(work)


async def in_run_in_executor() -> None:
    await asyncio.get_running_loop().run_in_executor(None, propagate(work))


async def in_submit() -> None:
    with ThreadPoolExecutor(1) as executor:
        executor.submit(propagate(work)).result()


async def in_thread() -> None:
    thread = threading.Thread(target=propagate(work))
    thread.start()
    thread.join()


async def bare_run_in_executor() -> None:
    await asyncio.get_running_loop().run_in_executor(None, work)


async def bare_submit() -> None:
    with ThreadPoolExecutor(1) as executor:
        executor.submit(work).result()


async def bare_thread() -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


WORK: tuple[Callable[[], Awaitable[None]], ...] = (
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
def matrix(request: pytest.FixtureRequest) -> FastAPI:
    """An app with a route per cell, and foreign middleware outside and inside of ours."""
    outside, inside = request.param
    app = FastAPI()
    for way in (*WORK, *DROPPED_BY_CPYTHON):
        app.add_api_route(f"/{way.__name__}", way)

    @app.get("/background-sync")
    async def background_sync(tasks: BackgroundTasks) -> None:
        tasks.add_task(work)

    @app.get("/background-async")
    async def background_async(tasks: BackgroundTasks) -> None:
        tasks.add_task(awork)

    @app.get("/endpoint-sync")
    def endpoint_sync() -> None:
        work()

    @app.get("/dependency-sync", dependencies=[Depends(work)])
    async def dependency_sync() -> None: ...

    @app.get("/dependency-async", dependencies=[Depends(awork)])
    async def dependency_async() -> None: ...

    @app.get("/streaming")
    async def streaming() -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            yield "a line\n"
            await awork()

        return StreamingResponse(lines())

    @app.get("/sse", response_class=EventSourceResponse)
    async def sse() -> AsyncIterator[dict[str, int]]:
        yield {"order": 1}
        await awork()

    @app.websocket("/websocket")
    async def socket(connection: WebSocket) -> None:
        await connection.accept()
        await connection.receive_text()
        work()
        await connection.close()

    for _ in range(inside):
        app.add_middleware(Foreign)
    app.add_middleware(RequestMiddleware)
    for _ in range(outside):
        app.add_middleware(Foreign)
    return app


class TestPropagation:
    @pytest.mark.parametrize("cell", [*(work.__name__ for work in WORK), *REQUESTS])
    async def test_work_knows_its_request(self, matrix: FastAPI, telemetry: Telemetry, cell: str) -> None:
        """
        What is logged has the id of the request wherever its work runs, through foreign middleware on either side.
        """
        answer = await get(matrix, f"/{cell}", headers=HEADERS)

        assert answer.raised is None
        times = 2 if cell == "in_gather" else 1
        telemetry.assert_records(*[{"correlation_id": CORRELATION_ID}] * times, message="work")

    async def test_websocket(self, matrix: FastAPI, telemetry: Telemetry) -> None:
        """
        A WebSocket's handler has the id of its handshake, and the handshake's answer carries it.
        """
        answer = await websocket(matrix, "/websocket", ["hello"], HEADERS)

        telemetry.assert_records({"correlation_id": CORRELATION_ID}, message="work")
        assert answer.headers["x-correlation-id"] == CORRELATION_ID

    @pytest.mark.parametrize("cell", [work.__name__ for work in DROPPED_BY_CPYTHON])
    async def test_what_cpython_drops(self, matrix: FastAPI, telemetry: Telemetry, cell: str) -> None:
        """
        Bare threads and executors start without a context: here `propagate` is needed (and works, see above).
        """
        await get(matrix, f"/{cell}", headers=HEADERS)

        telemetry.assert_records({"correlation_id": ""}, message="work")

    async def test_nothing_is_left_behind(self, matrix: FastAPI) -> None:
        """
        After a request its context is gone.
        """
        await get(matrix, "/endpoint-sync", headers=HEADERS)

        assert current() is None


class TestBoundFields:
    @pytest.mark.parametrize("kind", ["sync", "async"])
    @pytest.mark.parametrize("foreign", [0, 1, 3])
    async def test_on_the_access_line(self, telemetry: Telemetry, kind: str, foreign: int) -> None:
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

        telemetry.assert_records(
            {"message": "Request started"},
            {"message": "Request completed", "table": "A7"},
            correlation_id=CORRELATION_ID,
        )

    async def test_requests_are_apart(self, telemetry: Telemetry) -> None:
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
            context = current()
            return context.correlation_id if context is not None else None

        answers = await asyncio.gather(
            *(get(app, f"/{number}", headers={"X-Correlation-ID": f"id-{number}"}) for number in range(100))
        )

        assert [answer.json() for answer in answers] == [f"id-{number}" for number in range(100)]
        for number in range(100):
            own = {"message": "Request completed", "correlation_id": f"id-{number}"}
            telemetry.assert_records({"number": str(number)}, **own)
