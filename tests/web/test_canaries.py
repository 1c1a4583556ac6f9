"""No secret that comes in by any way gets out: not on standard output, not on the page, not by the API."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from rfs.core.result import Failure, Result, Success
from rfs.monitoring import bind, collect_metric, configure_result_logging, error, info, log_result_operation
from rfs.monitoring.metrics import AlertCondition, MetricType, create_alert_rule
from rfs.testing.fixtures import Telemetry
from rfs.web.fastapi import APIError, ErrorCode, handle_result, install

REGISTERED = "kimchi-Jjigae-7391"
CARD = "4111 1111 1111 1111"
RESIDENT_NUMBER = "900101-1234568"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJraW0ifQ.c2lnbmF0dXJlLXRoYXQtaXMtbG9uZw"
PASSWORDS = [f"canary-{place}-value" for place in ("argument", "nested", "list", "bound", "field", "header", "query")]
CANARIES = [REGISTERED, CARD, RESIDENT_NUMBER, JWT, *PASSWORDS]
TOKEN = "dashboard-token-for-this-test"


class PaymentError(Exception):
    """Carries what it should not."""


class Journey:
    """A service into which every kind of secret is put, and everything that comes out of it."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.telemetry = telemetry
        telemetry.monitor.masker.register_secret(REGISTERED)
        self.stdout = io.StringIO()
        self.outputs: dict[str, str] = {}

    def run(self) -> None:
        configure_result_logging(stream=self.stdout)
        app = build_app()
        install(app, dashboard_token=TOKEN)
        with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
            put_secrets_in(client)
            headers = {"Authorization": f"Bearer {TOKEN}"}
            for path in (
                "/monitoring/", "/monitoring/assets/page.js", "/monitoring/health", "/monitoring/metrics?hours=1",
                "/monitoring/dashboard", "/monitoring/operations/pay/metrics", "/monitoring/health/result-patterns",
                "/monitoring/errors/top", "/monitoring/api/overview?time_range=15m", "/monitoring/api/records?limit=1000",
            ):  # fmt: skip
                answer = client.get(path, headers=headers)
                assert answer.status_code == 200, (path, answer.text)
                self.outputs[path] = answer.text
            listed = json.loads(self.outputs["/monitoring/api/records?limit=1000"])["records"]
            for correlation_id in {record["correlation_id"] for record in listed if "correlation_id" in record}:
                path = f"/monitoring/api/records/{correlation_id}"
                self.outputs[path] = client.get(path, headers=headers).text
            self.outputs["unauthorised"] = client.get("/monitoring/api/overview").text
        self.outputs["stdout"] = self.stdout.getvalue()


def build_app() -> FastAPI:
    app = FastAPI()

    @log_result_operation("pay", include_result=True)
    async def pay(password: str, order: dict[str, object]) -> Result[dict[str, object], APIError]:
        bind(api_key=PASSWORDS[3])
        info("paying with " + CARD, password=PASSWORDS[4], note=f"resident {RESIDENT_NUMBER}", token_list=[REGISTERED])
        collect_metric("payments_total", 1, MetricType.COUNTER, labels={"card": CARD})
        return Success({"order": order, "secret": password})

    @app.post("/pay")
    @handle_result
    async def pay_endpoint() -> Result[str, APIError]:
        nested: dict[str, object] = {
            "customer": {"user_password": PASSWORDS[1], "cards": [CARD, {"passwd": PASSWORDS[2]}]},
            "headers": [("Authorization", f"Bearer {JWT}"), ("X-Trace", REGISTERED)],
            "callback": f"https://kim:{REGISTERED}@shop.example/hook?access_token={JWT}",
            "blob": json.dumps({"password": PASSWORDS[1]}),
        }
        await pay(PASSWORDS[0], nested)
        return Success("paid")

    @app.get("/fail")
    @handle_result
    async def fail() -> Result[str, APIError]:
        return Failure(APIError(ErrorCode.CONFLICT, f"card {CARD} of {REGISTERED}", {"password": PASSWORDS[1]}))

    @app.get("/raise/{number}")
    async def raise_it(number: str) -> None:
        local_secret = REGISTERED
        try:
            raise PaymentError(f"cause: {local_secret} {CARD}")
        except PaymentError as cause:
            cause.add_note(f"note: {JWT}")
            raise PaymentError(f"refused {RESIDENT_NUMBER} {number}") from cause

    @app.get("/recorded")
    async def recorded() -> None:
        error("provider said no", exception=PaymentError(REGISTERED))

    return app


def put_secrets_in(client: TestClient) -> None:
    headers = {"X-Api-Key": PASSWORDS[5], "Authorization": f"Bearer {JWT}", "Cookie": f"session={REGISTERED}"}
    client.post(f"/pay?password={PASSWORDS[6]}&note={REGISTERED}", headers=headers)
    client.get("/fail", headers={"X-Correlation-ID": "fail-1"})
    client.get(f"/raise/{CARD}", headers=headers)
    client.get(f"/nowhere/{REGISTERED}?access_token={JWT}", headers=headers)
    client.get("/recorded", headers={"User-Agent": f"agent {REGISTERED}"})
    create_alert_rule("payments", "payments_total", AlertCondition.GREATER_THAN, 0.0, labels={"card": "[masked:card]"})


@pytest.fixture(scope="module")
def journey() -> Iterator[Journey]:
    with Telemetry() as telemetry:
        made = Journey(telemetry)
        made.run()
        yield made


class TestNoCanaryGetsOut:
    @pytest.mark.parametrize("canary", CANARIES)
    def test_anywhere(self, journey: Journey, canary: str) -> None:
        """
        Put into arguments, headers, URLs, exceptions, labels and nested data, a secret shows up in no output.
        """
        leaks = [place for place, text in journey.outputs.items() if canary in text]

        assert leaks == []

    def test_in_what_is_kept(self, journey: Journey) -> None:
        """
        Nor is any of them, plain or encoded, in a record, a label or a diagnosis that is kept in memory.
        """
        journey.telemetry.assert_record(message="paying with [masked:card]")
        journey.telemetry.assert_no_secret(*CANARIES)

    def test_the_records_are_there_all_the_same(self, journey: Journey) -> None:
        """
        What is not secret got out, so the test above looked at something.
        """
        stdout = journey.outputs["stdout"]
        messages = [json.loads(line)["message"] for line in stdout.splitlines()]

        assert "paying with [masked:card]" in messages
        assert stdout.count("[masked:") > 20
        assert "PaymentError" in stdout
        assert "refused [masked:" in stdout
        assert "payments_total" in journey.outputs["/monitoring/metrics?hours=1"]
