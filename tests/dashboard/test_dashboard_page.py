"""The page in a real Chromium, over a real Monitor: what a person sees is what the API says."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request, Response

from rfs.core.result import Failure, Result, Success
from rfs.monitoring._standing import MAX_TOLD
from rfs.monitoring.alerts import AlertCondition, Rule
from rfs.monitoring.dashboard_api import Indicator, create_router
from rfs.monitoring.monitor import Monitor, use_monitor
from rfs.monitoring.result_logging import CorrelationContext, log_result_operation
from tests.dashboard.workload import INDICATORS, OrderError

pytestmark = pytest.mark.browser

PATIENCE_MS = 10_000  # for a condition on a busy machine; what is waited for takes one to two seconds
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]

PAYLOADS = (
    "<script>window.attacked=1</script>",
    "<img src=x onerror=window.attacked=1>",
    '"><svg onload=window.attacked=1>',
    "'-window.attacked=1-'",
    "</title><script>window.attacked=1</script>",
    "javascript:window.attacked=1",
    "{{constructor.constructor('window.attacked=1')()}}",
    "<iframe srcdoc='<script>parent.attacked=1</script>'>",
    "&lt;b&gt;bold&lt;/b&gt;",
    "<!--",
)


class Site:
    """A service with the router under a prefix, in a thread; can be told to fail."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.status = 0  # of every answer of the API, if not 0
        self.asked = 0
        app = FastAPI()
        hostile = (Indicator(f"x{i}", text, text, "orders_total", "increase") for i, text in enumerate(PAYLOADS))
        indicators = (*INDICATORS, *hostile)
        app.include_router(create_router(monitor=lambda: monitor, indicators=indicators), prefix="/a/prefix")

        @app.middleware("http")
        async def fail(request: Request, call_next: Callable[[Request], Any]) -> Response:
            if "/api/" in request.url.path:
                self.asked += 1
                if self.status:
                    return Response(status_code=self.status)
            response: Response = await call_next(request)
            return response

        self._server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        deadline = time.monotonic() + 30
        while not self._server.started:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/a/prefix/"

    def get(self, path: str) -> Any:
        """What the API says."""
        return httpx.get(self.url + path).json()

    def close(self) -> None:
        """Stop serving."""
        self._server.should_exit = True
        self._thread.join(10)


@log_result_operation("order.create")
def create_order(code: str = "") -> Result[int, OrderError]:
    """An order that succeeds, or fails with the code."""
    return Failure(OrderError(code, f"no: {code}")) if code else Success(1)


@pytest.fixture
def site() -> Iterator[Site]:
    """A service that has taken twelve orders, three of them sold out, and twenty requests."""
    monitor = Monitor(service_name="table order")
    with use_monitor(monitor):
        monitor.start()
        for number in range(12):
            with CorrelationContext(f"table-{number}"):
                create_order("SOLD_OUT" if number % 4 == 0 else "")
        for status in ["200"] * 18 + ["404", "503"]:
            monitor.counter("http_requests_total").inc(1, method="GET", route="/menu/{id}", status=status)
            monitor.histogram("http_request_duration_seconds").observe(0.05, method="GET", route="/menu/{id}")
        made = Site(monitor)
        yield made
        made.close()
        monitor.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium; module-wide, because Playwright's loop must not meet that of an async test."""
    reason = None if CHROMIUM else "no Chromium: apt-get install --no-install-recommends chromium"
    if find_spec("playwright") is None:
        reason = "no playwright: pip install playwright"
    if reason and os.environ.get("CI"):
        pytest.fail(reason)
    elif reason:
        pytest.skip(reason)
    from playwright import sync_api

    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()


class Visit:
    """One visitor's tab, and everything that went wrong in it."""

    def __init__(self, browser: Any, site: Site, **options: Any) -> None:
        self.site = site
        self.faults: list[str] = []
        self.context = browser.new_context(**{"locale": "en-US", "viewport": {"width": 1280, "height": 900}, **options})
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", self._note)
        self.page.on("dialog", self._dismiss)

    def _dismiss(self, dialog: Any) -> None:
        self.faults.append(f"dialog {dialog.message}")
        dialog.dismiss()

    def _note(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            self.faults.append(message.text)

    def open(self, fragment: str = "") -> Any:
        """Open the page and wait for its first numbers."""
        self.page.goto(self.site.url + fragment)
        self.page.wait_for_selector(".overview[aria-busy=false]:visible, #trace:not([hidden])")
        return self.page

    def texts(self, selector: str) -> list[str]:
        """What a person reads there."""
        found: list[str] = self.page.locator(selector).all_inner_texts()
        return found

    def until(self, expression: str, meanwhile: Callable[[], object] = bool) -> None:
        """Wait until the expression is true; Playwright's own wait_for_function needs what the page's policy forbids."""
        deadline = time.monotonic() + PATIENCE_MS / 1000
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, f"still not: {expression}"
            meanwhile()
            self.page.wait_for_timeout(50)

    def number(self, selector: str) -> float:
        """The exact value behind a shown number."""
        return float(self.page.locator(selector).first.get_attribute("value"))


@pytest.fixture
def visit(browser: Any, site: Site) -> Iterator[Visit]:
    """An English visitor at a desk."""
    made = Visit(browser, site)
    yield made
    made.context.close()


class TestNumbers:
    def test_page_shows_what_the_api_says(self, visit: Visit, site: Site) -> None:
        """
        Each number of the page is the API's, exactly.
        """
        page = visit.open()
        page.click("#pause")
        page.wait_for_selector("#pause[aria-pressed=true]")
        body = site.get("api/overview?time_range=5m")

        assert visit.number("#vital-errors .figure data") == body["requests"]["error_ratio"] == 0.05
        assert "1 of 20 answered 5xx" in page.inner_text("#vital-errors .note")
        assert "20 in 5 min" in page.inner_text("#vital-requests .note")
        for name in ("p50", "p95", "p99"):
            assert visit.number(f"#latency-{name}") == body["requests"][f"{name}_ms"]
        (row,) = body["operations"]
        shown = {
            column: visit.number(f"#operations data[data-column={column}]")
            for column in ("count", "failed", "p50", "p95", "p99")
        }
        assert shown == {
            "count": row["total"] == 12 and 12,
            "failed": 0.25,
            "p50": row["p50_ms"],
            "p95": row["p95_ms"],
            "p99": row["p99_ms"],
        }
        assert visit.texts("#errors .code") == ["SOLD_OUT"]
        assert visit.number("#errors .count") == 3
        produced = page.locator("#books data").first.get_attribute("value")
        assert float(produced) == body["books"]["records"]["produced"]
        assert visit.faults == []

    def test_indicators_have_states(self, visit: Visit) -> None:
        """
        Over is shown as over, and unknown as unknown, in words.
        """
        visit.open()

        states = dict(zip(visit.texts("#indicators .title"), visit.texts("#indicators .state"), strict=True))
        assert states["Error ratio (5xx)"] == "Over"
        assert states["p95 response time"] == "OK"
        assert states["Never measured"] == "Unknown"
        assert visit.page.locator("[data-key=never] .reading").inner_text() == "unknown"

    def test_routes_are_a_click_away(self, visit: Visit) -> None:
        """
        The table shows routes when asked to.
        """
        page = visit.open()

        page.get_by_text("Routes", exact=True).click()

        visit.until("document.querySelector('#operations tbody th').textContent === 'GET /menu/{id}'")
        assert visit.number("#operations data[data-column=count]") == 20

    def test_nothing_measured(self, browser: Any) -> None:
        """
        A service without any traffic shows unknown and says what to do, not rows of zeros.
        """
        empty = Site(Monitor(service_name="quiet"))
        visit = Visit(browser, empty)
        try:
            page = visit.open()

            assert page.inner_text("#vital-requests .figure") == "unknown"
            assert "log_result_operation" in page.inner_text("#operations-empty")
            assert "not running" in page.inner_text("#alerts-empty")
            assert page.inner_text("#errors-empty") == "No failure in this time range."
            assert page.inner_text("#records-empty") == "No record yet."
            assert visit.faults == []
        finally:
            visit.context.close()
            empty.close()

    def test_alerts(self, visit: Visit, site: Site) -> None:
        """
        A firing alert appears by itself, with its rule and value.
        """
        page = visit.open()
        assert page.inner_text("#alerts-empty") == "No active alert. Rules watched: 0."

        site.monitor.alerts.set_rule(Rule("failures", "result_failure_total", AlertCondition.GREATER_THAN, 2))

        page.wait_for_selector("#alerts .alert")
        assert page.inner_text("#alerts .name") == "failures"
        assert page.inner_text("#alerts .what").startswith("result_failure_total is 3, rule: > 2")
        visit.until("document.querySelector('#health').textContent === 'Healthy · active alerts: 1'")


class TestAlertsOfAnotherProcess:
    """The page of a worker that evaluates no rule, which another one does; that one's turns are `Monitor.beat`."""

    @pytest.fixture
    def worker(self, tmp_path: Path) -> Iterator[Monitor]:
        made = Monitor(service_name="table order", directory=tmp_path)
        with patch.object(Monitor, "running", new=True):
            yield made
        made.stop()

    @pytest.fixture
    def other(self, tmp_path: Path) -> Iterator[Monitor]:
        made = Monitor(service_name="table order", directory=tmp_path)
        made.alerts.set_rule(Rule("failures", "failed_total", AlertCondition.GREATER_THAN, 2, severity="critical"))
        made.counter("failed_total").inc(3)
        yield made
        made.stop()

    @pytest.fixture
    def site(self, worker: Monitor) -> Iterator[Site]:
        made = Site(worker)
        yield made
        made.close()

    @pytest.mark.parametrize(
        ("language", "pill", "text"),
        [
            ("en-US", "alerts unknown", "Unknown: no process tells which alerts are active."),
            ("ko-KR", "알림 상태 알 수 없음", "알 수 없음: 어떤 알림이 활성인지 알려 주는 프로세스가 없습니다."),
        ],
    )
    def test_unknown_then_fires(
        self, browser: Any, site: Site, other: Monitor, language: str, pill: str, text: str
    ) -> None:
        """
        As long as nobody tells, the page says that it does not know, in the visitor's language, and not that all is well; then it
        shows what the other process has found, and when that one has stopped it does not know again.
        """
        visit = Visit(browser, site, locale=language)
        page = visit.open()
        assert page.inner_text("#health") == pill
        assert page.get_attribute("#health", "data-state") == "unknown"
        assert page.inner_text("#alerts-empty") == text

        shown = "document.querySelector('#health').dataset.state + document.querySelector('#alerts .name')?.textContent"
        visit.until(f"{shown} === 'degradedfailures'", meanwhile=other.beat)

        other.stop()
        visit.until("document.querySelector('#health').dataset.state === 'unknown'")
        assert page.locator("#alerts .alert").count() == 0
        assert page.inner_text("#alerts-empty") == text
        assert visit.faults == []
        visit.context.close()

    def test_more_than_are_told(self, visit: Visit, other: Monitor) -> None:
        """
        Of very many alerts the page says how many there are, and how many of them it does not show.
        """
        for number in range(MAX_TOLD + 2):
            other.alerts.set_rule(Rule(f"rule {number}", "failed_total", AlertCondition.GREATER_THAN, 2))
        page = visit.open()
        assert page.locator("#alerts-more").is_hidden()

        shown = (
            "document.querySelectorAll('#alerts .alert').length + document.querySelector('#alerts-more').textContent"
        )
        visit.until(f"{shown} === '{MAX_TOLD}Not shown: 3.'", meanwhile=other.beat)
        visit.until("document.querySelector('#health').textContent === 'Degraded · active alerts: 503'", other.beat)


class TestCorrelationId:
    def test_click_back_and_permalink(self, visit: Visit, site: Site) -> None:
        """
        A click on an id shows all its records and nothing else; Back returns; the address opens the same view again.
        """
        page = visit.open()
        expected = [record["message"] for record in site.get("api/records/table-4")["records"]]

        page.get_by_text("table-4", exact=True).first.click()
        page.wait_for_selector(".trace-record")
        assert visit.texts(".trace-record .message") == expected
        assert page.url.endswith("#id=table-4")
        assert "SOLD_OUT" in page.inner_text("#trace-records")

        page.go_back()
        page.wait_for_selector("#overview:visible")
        assert page.locator("#trace").is_hidden()

        again = page.context.new_page()
        again.goto(site.url + "#id=table-4")
        again.wait_for_selector(".trace-record")
        assert again.locator(".trace-record .message").all_inner_texts() == expected
        assert visit.faults == []

    def test_keyboard_alone(self, visit: Visit) -> None:
        """
        An id is opened with Enter, the heading then has the focus, and Back gives it back to the id.
        """
        page = visit.open()
        page.locator("#records .to-id:visible").first.focus()

        page.keyboard.press("Enter")
        page.wait_for_selector(".trace-record")
        assert page.evaluate("document.activeElement.id") == "trace-title"

        page.keyboard.press("Tab")
        page.go_back()
        page.wait_for_selector("#overview:visible")
        assert page.evaluate("document.activeElement.className") == "to-id"

    def test_what_is_no_id(self, visit: Visit) -> None:
        """
        An address with something else than an id says so, as text.
        """
        page = visit.open("#id=<img src=x onerror=window.attacked=1>")

        page.wait_for_selector("#banner:visible")
        assert "is not a valid correlation id" in page.inner_text("#banner")
        assert "onerror" in page.inner_text("#banner")
        assert page.evaluate("window.attacked") is None

    def test_id_without_records(self, visit: Visit) -> None:
        """
        An id that nobody used says that nothing is kept of it.
        """
        page = visit.open("#id=nobody")

        page.wait_for_selector("#trace-empty:visible")


class TestLive:
    def test_follows_without_reload(self, visit: Visit) -> None:
        """
        What happens now is on the page a moment later, in the same document.
        """
        page = visit.open()
        page.evaluate("window.sameDocument = true")

        with CorrelationContext("the-new-one"):
            create_order("KITCHEN_CLOSED")

        visit.until("[...document.querySelectorAll('#records .to-id')].some(a => a.textContent === 'the-new-one')")
        visit.until("document.querySelector('#errors').textContent.includes('KITCHEN_CLOSED')")
        assert page.evaluate("window.sameDocument") is True

    def test_pauses_and_resumes(self, visit: Visit, site: Site) -> None:
        """
        A paused page asks for nothing, and shows what it missed when it goes on.
        """
        visit.page.clock.install()
        page = visit.open()
        page.click("#pause")
        visit.until("document.querySelector('#connection').dataset.state === 'paused'")
        page.wait_for_load_state("networkidle")
        asked = site.asked

        create_order("LATER")
        page.clock.fast_forward(60_000)
        page.wait_for_load_state("networkidle")
        assert site.asked == asked
        page.click("#pause")

        visit.until("document.querySelector('#errors').textContent.includes('LATER')")

    def test_says_that_it_is_cut_off_and_recovers(self, visit: Visit, site: Site) -> None:
        """
        When the service fails, the page says so, keeps the last numbers, tries again ever more slowly, and recovers.
        """
        page = visit.open()

        site.status = 500
        page.wait_for_selector("#banner:visible")
        assert "(500)" in page.inner_text("#banner")
        assert page.locator("#connection").get_attribute("data-state") == "disconnected"
        assert page.inner_text("#health") == "unknown"
        assert visit.number("#vital-errors .figure data") == 0.05

        site.status = 0
        page.click("#retry")
        visit.until("document.querySelector('#connection').dataset.state === 'live'")
        assert page.locator("#banner").is_hidden()

    def test_says_that_its_numbers_are_stale(self, visit: Visit) -> None:
        """
        While an answer does not come, the page says for how long, and no longer claims that the service is healthy.
        """
        visit.page.clock.install()
        page = visit.open()
        page.route("**/api/**", lambda route: None)

        page.clock.fast_forward(1000)
        page.clock.fast_forward(6000)

        page.wait_for_selector("#connection[data-state=stale]")
        assert page.inner_text("#connection").startswith("Stale: last answer")
        assert page.inner_text("#health") == "unknown"

    def test_rests_while_nobody_looks(self, visit: Visit, site: Site) -> None:
        """
        A hidden page asks for nothing, and asks at once when it is looked at again.
        """
        visit.page.clock.install()
        page = visit.open()
        hide = "Object.defineProperty(document, 'hidden', {{configurable: true, get: () => {}}});"
        tell = "document.dispatchEvent(new Event('visibilitychange'));"

        page.evaluate(hide.format("true") + tell)
        page.wait_for_load_state("networkidle")
        asked = site.asked
        page.clock.fast_forward(60_000)
        page.wait_for_load_state("networkidle")
        assert site.asked == asked
        page.evaluate(hide.format("false") + tell)

        visit.until("document.querySelector('#connection').dataset.state === 'live'")
        assert site.asked > asked

    def test_forgets_the_token(self, visit: Visit, site: Site) -> None:
        """
        A token in the address is gone from it once the page is open; the id stays.
        """
        page = visit.open("?token=secret#id=table-1")

        page.wait_for_selector(".trace-record")
        assert page.url == site.url + "#id=table-1"

    def test_says_that_access_has_ended(self, visit: Visit, site: Site) -> None:
        """
        Without access the page tells where to get it.
        """
        page = visit.open()

        site.status = 401

        page.wait_for_selector("#banner:visible")
        assert "Access has ended" in page.inner_text("#banner")

    def test_time_range_changes_what_is_asked(self, visit: Visit) -> None:
        """
        The chosen range is the one that is shown, and is remembered.
        """
        page = visit.open()

        page.get_by_text("1 hour", exact=True).click()
        visit.until("document.querySelector('#vital-requests .note').textContent.includes('1 hour')")
        page.reload()

        visit.until("document.querySelector('#vital-requests .note').textContent.includes('1 hour')")

    def test_level_filters_records(self, visit: Visit) -> None:
        """
        With a level chosen, only records of that level and above are shown.
        """
        page = visit.open()
        assert "INFO" in visit.texts("#records .level")

        page.select_option("#level", "30")

        visit.until("![...document.querySelectorAll('#records .level')].some(l => l.textContent === 'INFO')")
        assert visit.texts("#records .level")


class TestLanguage:
    def test_switch_is_remembered(self, visit: Visit) -> None:
        """
        One press changes every word, and the next visit speaks the same language.
        """
        page = visit.open()
        assert page.evaluate("document.documentElement.lang") == "en"

        page.click("#language")
        assert page.evaluate("document.documentElement.lang") == "ko"
        assert page.inner_text("#records-title") == "최근 기록"
        assert "오류율 (5xx)" in visit.texts("#indicators .title")
        page.reload()
        page.wait_for_selector(".overview[aria-busy=false]")

        assert page.inner_text("#vital-requests h3") == "요청"

    def test_follows_the_browser(self, browser: Any, site: Site) -> None:
        """
        A Korean browser is answered in Korean.
        """
        visit = Visit(browser, site, locale="ko-KR")
        page = visit.open()

        assert page.inner_text("#vital-requests h3") == "요청"
        assert page.title() == "table order · 모니터링"
        visit.context.close()


class TestLook:
    def test_theme_follows_and_can_be_chosen(self, browser: Any, site: Site) -> None:
        """
        The page is dark where the system is, until a person chooses.
        """
        visit = Visit(browser, site, color_scheme="dark")
        page = visit.open()
        ground = "getComputedStyle(document.body).backgroundColor"
        dark = page.evaluate(ground)

        page.click("#theme")

        assert page.inner_text("#theme") == "Theme: light"
        assert page.evaluate(ground) != dark
        visit.context.close()

    @pytest.mark.parametrize("width", [360, 390, 768, 1440])
    @pytest.mark.parametrize("locale", ["en-US", "ko-KR"])
    def test_fits_the_screen(self, browser: Any, site: Site, width: int, locale: str) -> None:
        """
        Nothing sticks out to the side, on a telephone neither.
        """
        visit = Visit(browser, site, locale=locale, viewport={"width": width, "height": 800})
        page = visit.open()

        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.locator("#records .to-id:visible").first.click()
        page.wait_for_selector(".trace-record")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        visit.context.close()


class TestHostileText:
    def test_everything_is_shown_as_text(self, visit: Visit, site: Site) -> None:
        """
        Markup in names, messages, codes, labels and titles is read by a person, and run by nobody.
        """
        for number, payload in enumerate(PAYLOADS):
            site.monitor.alerts.set_rule(
                Rule(payload, "result_failure_total", AlertCondition.GREATER_THAN, 0, labels={"operation": payload})
            )

            @log_result_operation(payload)
            def attack(payload: str = payload) -> Result[int, OrderError]:
                return Failure(OrderError(payload, payload))

            with CorrelationContext(f"attack-{number}"):
                attack()
                fields = {payload: payload, "nested": {payload: [payload]}}
                site.monitor.log(30, payload, logger=payload, step=payload, fields=fields)
            site.monitor.counter("http_requests_total").inc(1, method="GET", route=payload, status="200")

        site.monitor.service_name = "".join(PAYLOADS)
        page = visit.open()
        visit.until(f"document.querySelectorAll('#alerts .alert').length === {len(PAYLOADS)}")

        assert page.locator("#service").text_content() == "".join(PAYLOADS)
        assert page.title().startswith("<script>window.attacked=1</script>")
        assert set(PAYLOADS) <= set(visit.texts("#operations tbody th"))
        assert set(PAYLOADS) <= set(visit.texts("#alerts .name"))
        assert set(PAYLOADS) <= set(visit.texts("#indicators .title"))
        assert set(PAYLOADS) <= set(visit.texts("#records .message"))
        page.get_by_text("Routes", exact=True).click()
        visit.until("document.querySelector('#operations-name').textContent === 'Route'")
        assert {f"GET {payload}" for payload in PAYLOADS} <= set(visit.texts("#operations tbody th"))
        for number, payload in enumerate(PAYLOADS):
            page.goto(f"{site.url}#id=attack-{number}")
            visit.until(f"document.querySelector('#trace-id').textContent === 'attack-{number}'")
            page.wait_for_selector(".trace-record")
            assert payload in visit.texts(".trace-record .message")
            assert payload in visit.texts(".fields dt")
            assert payload in visit.texts(".fields dd")

        assert page.evaluate("window.attacked") is None
        assert page.locator("script").count() == 1
        assert page.locator("iframe, main img, main script").count() == 0
        assert visit.faults == []
