"""What Prometheus gets, who else gets it, and what a scrape costs the host."""

from __future__ import annotations

import asyncio
import gzip
import sys
import threading
from typing import Any

import pytest
from fastapi import FastAPI, Request
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families as parse_text
from starlette.responses import PlainTextResponse

from rfs.monitoring.exporters.prometheus import OPENMETRICS, TEXT
from rfs.monitoring.monitor import Monitor
from rfs.testing.fixtures import Telemetry
from rfs.web.fastapi import exposition as routes
from rfs.web.fastapi import install
from tests.web.asgi import Answer, get, request

TOKEN = "scrape-token-of-this-test"
SCRAPER = {"Authorization": f"Bearer {TOKEN}", "Host": "orders.internal:8000"}
PATHS = ("/metrics/prometheus", "/monitoring/prometheus")
AT_BOTH = pytest.mark.parametrize("path", PATHS)


def service(**options: Any) -> FastAPI:
    app = FastAPI()

    @app.get("/orders")
    async def orders() -> str:
        return "all of them"

    options.setdefault("scrape_token", TOKEN)
    options.setdefault("allowed_hosts", ["testserver"])
    install(app, **options)
    return app


@pytest.fixture
def without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the host had not imported prometheus_client, whose default registry never says the same twice."""
    monkeypatch.delitem(sys.modules, "prometheus_client")


def is_exposition(answer: Answer) -> bool:
    return answer.status == 200 and "\nrfs_produced_total{" in answer.text


def is_denied(answer: Answer) -> bool:
    return (
        answer.status == 401 and answer.headers["www-authenticate"].startswith("Bearer") and "rfs_" not in answer.text
    )


class TestAccess:
    @AT_BOTH
    async def test_token(self, path: str) -> None:
        """
        The scrape token opens both addresses, under whatever name the scraper knows the service.
        """
        assert is_exposition(await get(service(), path, headers=SCRAPER))

    @AT_BOTH
    async def test_default_deny(self, path: str) -> None:
        """
        Without a configured token nobody who may not see the dashboard gets anything, and being on this machine is no key.
        """
        app = service(scrape_token="")

        for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": "Bearer"}, SCRAPER):
            assert is_denied(await get(app, path, headers=headers, client=("127.0.0.1", 1)))

    @AT_BOTH
    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"Authorization": f"Bearer {TOKEN}x"},
            {"Authorization": f"Bearer {TOKEN[:-1]}"},
            {"Authorization": f"Basic {TOKEN}"},
            {"Authorization": TOKEN},
            {"Authorization": "Bearer \xff"},
            {"Cookie": f"rfs_session={TOKEN}"},
        ],
    )
    async def test_anything_else_is_denied(self, path: str, headers: dict[str, str]) -> None:
        """
        Nearly the token, or the token in another place, opens nothing.
        """
        assert is_denied(await get(service(), path, headers=headers))

    @AT_BOTH
    async def test_not_in_the_address(self, path: str) -> None:
        """
        A query string ends up in logs: no token works there, and the dashboard's one-time token isn't used up by trying.
        """
        app = FastAPI()
        installation = install(app, scrape_token=TOKEN, allowed_hosts=["testserver"])
        start = installation.dashboard_start_path

        assert is_denied(await get(app, f"{path}?token={TOKEN}"))
        assert is_denied(await get(app, f"{path}?{start.partition('?')[2]}"))
        assert (await get(app, start)).status == 200

    @pytest.mark.parametrize(
        "path", ["/monitoring/", "/monitoring/metrics", "/monitoring/alerts", "/monitoring/nowhere"]
    )
    async def test_opens_nothing_else(self, path: str) -> None:
        """
        Who holds the scrape token sees the exposition and not the dashboard.
        """
        answer = await get(service(), path, headers={**SCRAPER, "Host": "testserver"})

        assert answer.status == 401

    async def test_shows_no_details_of_health(self) -> None:
        """
        What a readiness check says of its failure is not for the scraper either.
        """

        async def broken() -> str:
            raise ConnectionError("at 10.0.0.7")

        answer = await get(service(readiness_checks={"store": broken}), "/health/ready", headers=SCRAPER)

        assert answer.status == 503
        assert "10.0.0.7" not in answer.text

    @AT_BOTH
    async def test_who_may_see_the_dashboard(self, path: str) -> None:
        """
        The dashboard's token and the host's own decision open the exposition, too, under the names that are allowed.
        """

        def admin(request: Request) -> bool:
            return request.headers.get("x-role") == "admin"

        app = service(dashboard_token="of-the-dashboard", access=admin, scrape_token="")

        for headers in ({"Authorization": "Bearer of-the-dashboard"}, {"X-Role": "admin"}):
            assert is_exposition(await get(app, path, headers=headers))
            assert (await get(app, path, headers={**headers, "Host": "evil.example"})).status == 400

    async def test_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        The token may come from the environment, as the dashboard's does.
        """
        monkeypatch.setenv("RFS_SCRAPE_TOKEN", TOKEN)

        assert is_exposition(await get(service(scrape_token=None), PATHS[0], headers=SCRAPER))

    @AT_BOTH
    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
    async def test_only_to_read(self, path: str, method: str) -> None:
        """
        There is nothing to write.
        """
        assert (await request(service(), method, path, headers=SCRAPER)).status in {400, 401, 403, 405}


class TestMounting:
    async def test_without_a_dashboard(self) -> None:
        """
        The exposition needs no dashboard.
        """
        app = service(dashboard=False)

        assert is_exposition(await get(app, PATHS[0], headers=SCRAPER))
        assert (await get(app, PATHS[1], headers=SCRAPER)).status == 404

    async def test_beside_a_dashboard_elsewhere(self) -> None:
        """
        The second address follows the dashboard.
        """
        assert is_exposition(await get(service(dashboard_path="/ops"), "/ops/prometheus", headers=SCRAPER))

    async def test_the_hosts_route_wins(self, telemetry: Telemetry) -> None:
        """
        A host that answers there itself, declared before or after, keeps its answer, its guard and its measurements.
        """
        app = service()

        @app.get("/metrics/{kind}")
        async def own(kind: str) -> str:
            return f"mine: {kind}"

        assert (await get(app, PATHS[0])).json() == "mine: prometheus"
        assert is_exposition(await get(app, PATHS[1], headers=SCRAPER))
        telemetry.assert_metric("http_requests_total", 1)
        telemetry.assert_metric("http_requests_total", 1, route="/metrics/{kind}")

    async def test_a_mounted_app_wins(self) -> None:
        """
        prometheus_client's own app at ``/metrics`` stays what it is.
        """
        app = service()
        app.mount("/metrics", PlainTextResponse("theirs"))

        assert (await get(app, PATHS[0])).text == "theirs"

    async def test_not_in_the_hosts_schema(self) -> None:
        """
        The host's OpenAPI document has the host's routes.
        """
        answer = await get(service(), "/openapi.json")

        assert list(answer.json()["paths"]) == ["/orders"]


class TestFormats:
    async def test_text(self, telemetry: Telemetry) -> None:
        """
        A plain request gets the text format, with what has been measured a moment ago.
        """
        app = service()
        telemetry.monitor.counter("orders_total").inc(3)

        answer = await get(app, PATHS[0], headers=SCRAPER)

        assert answer.headers["content-type"] == TEXT
        assert answer.headers["cache-control"] == "no-store"
        assert [s.value for f in parse_text(answer.text) for s in f.samples if s.name == "orders_total"] == [3.0]

    async def test_openmetrics(self, telemetry: Telemetry) -> None:
        """
        Who asks for OpenMetrics gets it.
        """
        app = service()
        telemetry.monitor.histogram("wait_seconds").observe(0.5)
        parse: Any = openmetrics_parser.text_string_to_metric_families

        answer = await get(app, PATHS[0], headers={**SCRAPER, "Accept": "application/openmetrics-text;version=1.0.0"})

        assert answer.headers["content-type"] == OPENMETRICS
        assert {"wait_seconds", "rfs_produced"} <= {family.name for family in parse(answer.text)}

    @pytest.mark.usefixtures("without_the_library")
    async def test_gzip(self) -> None:
        """
        Compressed for who takes it, and the same text.
        """
        app = service()

        plain = await get(app, PATHS[0], headers=SCRAPER)
        packed = await get(app, PATHS[0], headers={**SCRAPER, "Accept-Encoding": "deflate, gzip;q=0.5"})

        assert "content-encoding" not in plain.headers
        assert packed.headers["content-encoding"] == "gzip"
        assert packed.headers["content-length"] == str(len(packed.body))
        assert gzip.decompress(packed.body) == plain.body
        assert "Accept-Encoding" in packed.headers["vary"]

    async def test_head(self) -> None:
        """
        A HEAD request is answered as a GET without its body.
        """
        assert (await request(service(), "HEAD", PATHS[0], headers=SCRAPER)).status == 200


class TestNotObserved:
    @pytest.mark.usefixtures("without_the_library")
    @AT_BOTH
    async def test_scrapes_leave_no_trace(self, path: str, telemetry: Telemetry) -> None:
        """
        Being scraped is neither measured nor recorded; a request of the host beside it is.
        """
        app = service()
        before = await get(app, path, headers=SCRAPER)

        assert is_denied(await get(app, path))
        assert (await get(app, path, headers=SCRAPER)).body == before.body
        telemetry.assert_records()

        await get(app, "/orders")
        assert (await get(app, path, headers=SCRAPER)).body != before.body
        telemetry.assert_span(kind="request", operation="GET /orders")


class Renderer:
    """Stands for the exposition: counts renderings and holds them until they are let go."""

    def __init__(self) -> None:
        self.begun = 0
        self.go_on = threading.Event()

    def __call__(self, monitor: Monitor, accept: str | None = None) -> tuple[bytes, str]:
        self.begun += 1
        assert self.go_on.wait(10), "nobody let it go on"
        return f"rendering {self.begun}\n".encode(), TEXT


@pytest.fixture
def renderer(monkeypatch: pytest.MonkeyPatch) -> Renderer:
    made = Renderer()
    monkeypatch.setattr(routes, "exposition", made)
    return made


async def begun(renderer: Renderer, count: int) -> None:
    async with asyncio.timeout(10):
        while renderer.begun < count:
            await asyncio.sleep(0.001)


class TestSharing:
    async def test_one_rendering_for_all(self, renderer: Renderer) -> None:
        """
        Eight scrapers at once cost one rendering, and meanwhile the host answers.
        """
        app = service()
        scrapes = [asyncio.create_task(get(app, PATHS[0], headers=SCRAPER)) for _ in range(8)]
        await begun(renderer, 1)

        assert (await get(app, "/orders")).status == 200
        assert not any(scrape.done() for scrape in scrapes)
        renderer.go_on.set()
        answers = await asyncio.gather(*scrapes)

        assert {answer.text for answer in answers} == {"rendering 1\n"}
        assert renderer.begun == 1

    async def test_the_next_one_is_new(self, renderer: Renderer) -> None:
        """
        Nothing is kept: a scrape after the last one sees what has been measured since.
        """
        app = service()
        renderer.go_on.set()

        assert [(await get(app, PATHS[0], headers=SCRAPER)).text for _ in range(2)] == [
            "rendering 1\n",
            "rendering 2\n",
        ]

    async def test_a_scraper_that_hangs_up(self, renderer: Renderer) -> None:
        """
        The one whose request began the rendering leaves; the other still gets its answer.
        """
        app = service()
        first = asyncio.create_task(get(app, PATHS[0], headers=SCRAPER))
        await begun(renderer, 1)
        second = asyncio.create_task(get(app, PATHS[0], headers=SCRAPER))
        await asyncio.sleep(0)

        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        renderer.go_on.set()

        assert (await second).text == "rendering 1\n"

    async def test_two_formats(self, renderer: Renderer) -> None:
        """
        Plain and compressed are renderings of their own.
        """
        app = service()
        scrapes = [
            asyncio.create_task(get(app, PATHS[0], headers={**SCRAPER, "Accept-Encoding": encoding}))
            for encoding in ("identity", "gzip")
        ]
        await begun(renderer, 2)
        renderer.go_on.set()

        assert [answer.status for answer in await asyncio.gather(*scrapes)] == [200, 200]


class TestD17:
    async def test_an_attempt_at_very_many_series(self, telemetry: Telemetry) -> None:
        """
        Label values without end cost a scrape 5 MB at most, and the sums in it are right (FAULTS.md D17).
        """
        app = service()
        for number in range(6_000):
            telemetry.monitor.counter("bomb_total").inc(1, user=str(number))
            telemetry.monitor.histogram("bomb_seconds").observe(0.001 * 1.01 ** (number % 1_000), user=str(number))

        answer = await get(app, PATHS[0], headers=SCRAPER)

        assert len(answer.body) <= 5_000_000
        samples = [sample for family in parse_text(answer.text) for sample in family.samples]
        assert sum(sample.value for sample in samples if sample.name == "bomb_total") == 6_000
        assert sum(sample.value for sample in samples if sample.name == "bomb_seconds_count") == 6_000
        assert len([sample for sample in samples if sample.name == "bomb_total"]) <= 2_000


class TestFaults:
    async def test_our_own_fault(self, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A fault while rendering is a 503 and is counted; the next scrape starts anew.
        """
        app = service()

        def broken(*_: object) -> tuple[bytes, str]:
            raise RuntimeError("in rendering")

        with monkeypatch.context() as patched:
            patched.setattr(routes, "exposition", broken)
            answer = await get(app, PATHS[0], headers=SCRAPER)
        after = await get(app, PATHS[0], headers=SCRAPER)

        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert "in rendering" not in answer.text
        assert "telemetry_internal_errors_total{" in after.text
        assert 'where="web.exposition"' in after.text
