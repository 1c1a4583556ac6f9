"""Endpoints that answer with a Result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from dirty_equals import IsOneOf
from fastapi import APIRouter, FastAPI, HTTPException, Request, Response
from pydantic import BaseModel
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse

from rfs.core.result import Failure, Result, Success
from rfs.errors import AlertRuleError, MetricDefinitionError, TimeRangeError
from rfs.monitoring.context import CorrelationContext
from rfs.monitoring.result_logging import log_result_operation
from rfs.reactive import FluxResult, MonoResult
from rfs.testing.fixtures import Telemetry
from rfs.web.fastapi import (
    APIError,
    FastAPIFluxResult,
    FastAPIMonoResult,
    FastAPIResult,
    handle_flux_result,
    handle_result,
    install,
    serve_results,
)
from tests.web.asgi import get, request

T = TypeVar("T")


class User(BaseModel):
    """What a client sees of a user."""

    id: str
    name: str


class StoredUser(User):
    """What the database has of a user."""

    password: str = "hunter2"


class Opaque:
    """Nothing that pydantic could describe."""


def find(user_id: str) -> Result[User, APIError]:
    """Every outcome that an endpoint may have, by id."""
    if user_id == "missing":
        return Failure(APIError.not_found("사용자", user_id))
    if user_id == "text":
        return Failure("secret text")  # type: ignore[arg-type] # what users of plain texts do
    if user_id == "bug":
        return Success(user_id).map(lambda _: User(id="", name=str(1 / 0)))
    if user_id == "raise":
        raise ValueError("secret text")
    if user_id == "down":
        raise ConnectionRefusedError("secret address")
    if user_id == "no-result":
        return {"secret": "text"}  # type: ignore[return-value]
    return Success(StoredUser(id=user_id, name="Kim"))


@handle_result
async def decorated(user_id: str, shout: bool = False) -> Result[User, APIError]:
    """Under the route decorator."""
    return find(user_id).map(lambda user: User(id=user.id, name=user.name.upper() if shout else user.name))


@handle_result
def decorated_sync(user_id: str) -> Result[User, APIError]:
    """A sync endpoint."""
    return find(user_id)


@handle_result
async def decorated_mono(user_id: str) -> MonoResult[User, APIError]:
    """An endpoint that returns its chain."""

    async def run() -> Result[User, APIError]:
        return find(user_id)

    return MonoResult(run)


@handle_result
def decorated_sync_mono(user_id: str) -> MonoResult[User, APIError]:
    """A sync endpoint that returns its chain."""

    async def run() -> Result[User, APIError]:
        return find(user_id)

    return MonoResult(run)


@handle_result
@log_result_operation("user_retrieval")
async def over_another(user_id: str) -> Result[User, APIError]:
    """Over a further decorator."""
    return find(user_id)


@log_result_operation("user_retrieval")
@handle_result
async def under_another(user_id: str) -> Result[User, APIError]:
    """Under a further decorator."""
    return find(user_id)


async def undecorated(user_id: str) -> FastAPIResult[User]:
    """Only annotated."""
    return find(user_id)


def undecorated_sync(user_id: str) -> FastAPIResult[User]:
    """Only annotated, sync."""
    return find(user_id)


async def undecorated_mono(user_id: str) -> FastAPIMonoResult[User]:
    """Only annotated, returns its chain."""

    async def run() -> Result[User, APIError]:
        return find(user_id)

    return MonoResult(run)


def undecorated_sync_mono(user_id: str) -> FastAPIMonoResult[User]:
    """Only annotated, sync, returns its chain."""

    async def run() -> Result[User, APIError]:
        return find(user_id)

    return MonoResult(run)


DECORATED = [decorated, decorated_sync, decorated_mono, decorated_sync_mono, over_another, under_another]
UNDECORATED = [undecorated, undecorated_sync, undecorated_mono, undecorated_sync_mono]
ENDPOINTS = [*DECORATED, *UNDECORATED]


def app_with(endpoint: Callable[..., Any], placed: str) -> FastAPI:
    """An app that serves *endpoint* at ``/users/{user_id}``, put there in one of several ways."""
    app = FastAPI()
    if placed == "installed before":
        install(app, dashboard=False)
    if placed == "included":
        inner, router = APIRouter(), APIRouter(prefix="/users")
        inner.add_api_route("/{user_id}", endpoint)
        router.include_router(inner)
        app.include_router(router)
    else:
        app.add_api_route("/users/{user_id}", endpoint)
    if placed in {"installed after", "included"}:
        install(app, dashboard=False)
    elif placed == "served":
        serve_results(app)
    return app


PLACES = ["installed before", "installed after", "included", "served"]


class TestHandleResult:
    @pytest.mark.parametrize("placed", PLACES)
    @pytest.mark.parametrize("endpoint", ENDPOINTS)
    async def test_success(self, endpoint: Callable[..., Any], placed: str) -> None:
        """
        A Success is 200 with its value, filtered by the success model, in every kind of endpoint and place.
        """
        answer = await get(app_with(endpoint, placed), "/users/7")

        assert (answer.status, answer.json()) == (200, {"id": "7", "name": "Kim"})
        assert answer.headers["x-processing-time-ms"].isdigit()

    @pytest.mark.parametrize("placed", PLACES)
    @pytest.mark.parametrize("endpoint", ENDPOINTS)
    async def test_failure(self, endpoint: Callable[..., Any], placed: str) -> None:
        """
        A Failure has the status of its APIError, and the documented body.
        """
        answer = await get(app_with(endpoint, placed), "/users/missing")

        body = answer.json()
        assert answer.status == 404
        assert body.pop("timestamp")
        assert body == {
            "code": "NOT_FOUND",
            "message": "사용자을(를) 찾을 수 없습니다",
            "details": {"resource": "사용자", "id": "missing"},
        }
        assert answer.headers["x-processing-time-ms"].isdigit()

    @pytest.mark.parametrize("user_id", ["text", "bug", "raise", "no-result"])
    @pytest.mark.parametrize("endpoint", ENDPOINTS)
    async def test_tells_no_internals(self, telemetry: Telemetry, endpoint: Callable[..., Any], user_id: str) -> None:
        """
        What nobody declared is a 500 that tells only the correlation id; under that id the records tell the rest.
        """
        answer = await get(app_with(endpoint, "installed after"), f"/users/{user_id}")

        body = answer.json()
        assert (answer.status, body["code"]) == (500, "INTERNAL_SERVER_ERROR")
        assert body["details"] == {"correlation_id": answer.headers["x-correlation-id"]}
        assert "secret" not in answer.text
        told_under = answer.headers["x-correlation-id"]
        telemetry.assert_record(level="ERROR", error=~IsOneOf(None), correlation_id=told_under)
        assert answer.raised is None

    @pytest.mark.parametrize("endpoint", ENDPOINTS)
    async def test_a_dependency_that_is_down(self, endpoint: Callable[..., Any]) -> None:
        """
        Something that cannot be reached is 503, and says when to try again.
        """
        answer = await get(app_with(endpoint, "installed after"), "/users/down")

        assert (answer.status, answer.json()["code"]) == (503, "SERVICE_UNAVAILABLE")
        assert answer.headers["retry-after"] == "1"

    async def test_called_directly(self) -> None:
        """
        Called by anybody but FastAPI, a decorated function returns what it returns: Result or chain.
        """
        assert await decorated("7") == Success(User(id="7", name="Kim"))
        assert await decorated(user_id="7", shout=True) == Success(User(id="7", name="KIM"))
        assert decorated_sync("7") == Success(StoredUser(id="7", name="Kim"))
        assert isinstance(await decorated_mono("7"), MonoResult)
        with pytest.raises(ValueError, match="secret"):
            await decorated("raise")

    async def test_parameters_stay_visible(self) -> None:
        """
        Path, query and body parameters are FastAPI's to parse, check and document; ours are not seen.
        """
        app = FastAPI()

        @app.post("/users/{user_id}")
        @handle_result
        async def rename(user_id: int, user: User, times: int = 1) -> Result[dict[str, object], APIError]:
            return Success({"id": user_id, "name": user.name * times})

        answer = await request(app, "POST", "/users/7?times=2", json_body={"id": "7", "name": "Kim"})
        wrong = await request(app, "POST", "/users/x?times=2", json_body={"id": "7"})

        assert answer.json() == {"id": 7, "name": "KimKim"}
        assert [error["loc"] for error in wrong.json()["detail"]] == [["path", "user_id"], ["body", "name"]]
        operation = app.openapi()["paths"]["/users/{user_id}"]["post"]
        assert [parameter["name"] for parameter in operation["parameters"]] == ["user_id", "times"]

    async def test_own_request_and_response(self) -> None:
        """
        An endpoint that takes the request, the response or the connection itself gets them.
        """
        app = FastAPI()

        @app.get("/a")
        @handle_result
        async def with_both(request: Request, response: Response) -> Result[str, APIError]:
            response.headers["X-Mine"] = "yes"
            return Success(request.url.path)

        @app.get("/b")
        @handle_result
        async def with_connection(connection: HTTPConnection, **_: Any) -> Result[str, APIError]:
            return Success(connection.url.path)

        first, second = await get(app, "/a"), await get(app, "/b?_=1")

        assert (first.json(), first.headers["x-mine"]) == ("/a", "yes")
        assert "x-processing-time-ms" in first.headers
        assert second.status in {200, 422}

    async def test_a_response_inside(self) -> None:
        """
        A Response is answered as it is, inside a Success or bare.
        """
        app = FastAPI()

        @app.get("/inside")
        @handle_result
        async def inside() -> Result[PlainTextResponse, APIError]:
            return Success(PlainTextResponse("as it is", 202))

        @app.get("/bare")
        @handle_result
        async def bare() -> Any:
            return PlainTextResponse("as it is", 202)

        for path in ("/inside", "/bare"):
            answer = await get(app, path)

            assert (answer.status, answer.text) == (202, "as it is")
            assert "x-processing-time-ms" in answer.headers

    async def test_the_apps_own_handlers_win(self) -> None:
        """
        An exception that the app has a handler for goes there, HTTPException included.
        """

        class SoldOutError(Exception):
            pass

        app = FastAPI()

        @app.exception_handler(SoldOutError)
        async def sold_out(request: Request, exc: SoldOutError) -> Response:
            return PlainTextResponse("sold out", 409)

        @app.get("/{kind}")
        @handle_result
        async def endpoint(kind: str) -> Result[None, APIError]:
            raise SoldOutError if kind == "own" else HTTPException(418, "teapot")

        own, http = await get(app, "/own"), await get(app, "/http")

        assert (own.status, own.text) == (409, "sold out")
        assert (http.status, http.json()) == (418, {"detail": "teapot"})

    async def test_raised_api_error(self) -> None:
        """
        An APIError may be raised instead of returned; also where no decorator is, once the app is served.
        """
        app = FastAPI()

        @app.get("/decorated")
        @handle_result
        async def inside() -> Result[None, APIError]:
            raise APIError.conflict("order", "served")

        @app.get("/plain")
        async def plain() -> None:
            raise APIError.conflict("order", "served")

        bare = await get(app, "/plain")
        serve_results(app)
        app.middleware_stack = None  # built anew, with the handlers
        answers = [await get(app, "/decorated"), await get(app, "/plain")]

        assert (bare.status, bare.json()["detail"]["code"]) == (409, "CONFLICT")
        assert [(answer.status, answer.json()["code"]) for answer in answers] == [(409, "CONFLICT")] * 2

    async def test_details_that_json_cannot_carry(self, telemetry: Telemetry) -> None:
        """
        They are left out; the rest is answered, and the fault is counted.
        """
        app = FastAPI()

        @app.get("/")
        @handle_result
        async def endpoint() -> Result[None, APIError]:
            return Failure(APIError.validation_failed("나쁨", {"value": float("nan")}))

        answer = await get(app, "/")

        assert (answer.status, answer.json()["details"]) == (400, {})
        telemetry.assert_metric("telemetry_internal_errors_total", 1, where="web.error_details")

    async def test_without_any_middleware(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Without middleware the id is the current context's; where even that cannot be asked, the body goes without.
        """
        app = FastAPI()
        app.add_api_route("/users/{user_id}", decorated)

        with CorrelationContext("req-1"):
            quoted = await get(app, "/users/raise")

        def no_context() -> None:
            raise RuntimeError("no context")

        monkeypatch.setattr("rfs.web.fastapi._exchange.current", no_context)
        unquoted = await get(app, "/users/raise")

        assert quoted.json()["details"] == {"correlation_id": "req-1"}
        assert (unquoted.status, unquoted.json()["details"]) == (500, {})

    @pytest.mark.parametrize(
        ("exc", "field"),
        [
            (TimeRangeError("9y", "too long"), "time_range"),
            (AlertRuleError("slow", "threshold", "must be finite"), "threshold"),
            (MetricDefinitionError("1a", "bad"), "metric_name"),
        ],
    )
    @pytest.mark.parametrize("kind", ["returned", "raised", "plain"])
    async def test_wrong_declarations_name_the_field(self, exc: Exception, field: str, kind: str) -> None:
        """
        A time range, rule or metric that cannot be read is 422 with its field, wherever it came up.
        """
        app = FastAPI()
        install(app, dashboard=False)

        @app.get("/returned")
        @handle_result
        async def returned() -> Result[None, Any]:
            return Failure(exc)

        @app.get("/raised")
        @handle_result
        async def raised() -> Result[None, Any]:
            raise exc

        @app.get("/plain")
        async def plain() -> None:
            raise exc

        answer = await get(app, f"/{kind}")

        assert (answer.status, answer.json()["code"]) == (422, "VALIDATION_ERROR")
        assert answer.json()["details"] == {"field": field}
        assert answer.json()["message"] == str(exc)


class TestAnnotations:
    @pytest.mark.parametrize("kind", [FastAPIResult, FastAPIMonoResult, FastAPIFluxResult])
    @pytest.mark.parametrize("model", [User, list[User], Opaque, None, T, PlainTextResponse, "bare"], ids=str)
    def test_register_without_install(self, kind: Any, model: Any) -> None:
        """
        An endpoint so annotated registers with FastAPI, whatever is inside, and its schema can be made.
        """
        annotation = kind if model == "bare" else kind[model]

        async def endpoint() -> Any: ...

        endpoint.__annotations__["return"] = annotation
        app = FastAPI()
        app.add_api_route("/", endpoint)

        assert "/" in app.openapi()["paths"]

    async def test_without_install(self) -> None:
        """
        Even unserved, a Success is its value and a Failure has its status; a chain says what is missing.
        """
        app = FastAPI()
        app.add_api_route("/users/{user_id}", undecorated)
        app.add_api_route("/chains/{user_id}", undecorated_mono)

        assert (await get(app, "/users/7")).json() == {"id": "7", "name": "Kim"}
        assert (await get(app, "/users/missing")).status == 404
        chain = await get(app, "/chains/7")
        assert isinstance(chain.raised, TypeError)
        assert "serve_results(app)" in str(chain.raised)

    async def test_models_of_lists_and_none(self) -> None:
        """
        Lists of models and no value at all are answered as FastAPI would.
        """
        app = FastAPI()

        @app.get("/list")
        @handle_result
        async def users() -> Result[list[User], APIError]:
            return Success([StoredUser(id="1", name="Kim"), StoredUser(id="2", name="Lee")])

        @app.get("/none")
        @handle_result
        async def nothing() -> Result[None, APIError]:
            return Success(None)

        @app.delete("/gone", status_code=204)
        @handle_result
        async def gone() -> Result[None, APIError]:
            return Success(None)

        assert (await get(app, "/list")).json() == [{"id": "1", "name": "Kim"}, {"id": "2", "name": "Lee"}]
        assert (await get(app, "/none")).json() is None
        deleted = await request(app, "DELETE", "/gone")
        assert (deleted.status, deleted.body) == (204, b"")

    async def test_written_out_union(self) -> None:
        """
        ``Success[T] | Failure[E]`` is a Result, too.
        """
        app = FastAPI()

        @app.get("/")
        @handle_result
        async def endpoint() -> Success[User] | Failure[APIError]:
            return Success(StoredUser(id="1", name="Kim"))

        assert (await get(app, "/")).json() == {"id": "1", "name": "Kim"}

    async def test_what_cannot_be_resolved(self) -> None:
        """
        A return annotation with unknown names is served without a success model.
        """
        app = FastAPI()

        async def endpoint() -> Any:
            return Success({"id": "1"})

        endpoint.__annotations__["return"] = "Result[Nowhere, APIError]"
        app.add_api_route("/", handle_result(endpoint))

        assert (await get(app, "/")).json() == {"id": "1"}


class TestOpenAPI:
    @pytest.mark.parametrize("placed", PLACES)
    @pytest.mark.parametrize("endpoint", [decorated, undecorated, undecorated_mono])
    def test_shows_both_models(self, endpoint: Callable[..., Any], placed: str) -> None:
        """
        An endpoint that returns a Result documents the model of its success and of its failure.
        """
        app = app_with(endpoint, placed)
        if placed == "installed before":
            app.build_middleware_stack()  # as at start-up

        schema = app.openapi()

        responses = schema["paths"]["/users/{user_id}"]["get"]["responses"]
        models = {
            status: responses[status]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
            for status in ("200", "default")
        }
        assert models == {"200": "User", "default": "ErrorBody"}
        assert set(schema["components"]["schemas"]["ErrorBody"]["properties"]) == {
            "code",
            "message",
            "details",
            "timestamp",
        }

    def test_other_endpoints_stay_as_they_are(self) -> None:
        """
        What returns no Result is documented as FastAPI does.
        """
        app = FastAPI()

        @app.get("/plain")
        async def plain() -> User:
            return User(id="1", name="Kim")

        before = app.openapi()["paths"]["/plain"]
        app.openapi_schema = None
        install(app)
        app.build_middleware_stack()

        assert app.openapi()["paths"] == {"/plain": before}


class TestHandleFluxResult:
    @staticmethod
    def app(items: list[Result[Any, Any]], **policy: Any) -> FastAPI:
        app = FastAPI()

        @app.get("/")
        @handle_flux_result(**policy)
        async def batch() -> FluxResult[User, APIError]:
            return FluxResult(items)

        return app

    GOOD = Success(StoredUser(id="1", name="Kim"))
    BAD = Failure(APIError.conflict("order", "served"))
    BUG = Failure("secret text")

    @pytest.mark.parametrize(
        ("items", "policy", "status", "success"),
        [
            ([GOOD, GOOD], {}, 200, True),
            ([], {}, 200, True),
            ([GOOD, BAD], {}, 207, True),
            ([GOOD, BAD], {"partial_success": False}, 400, False),
            ([BAD, BAD], {}, 400, False),
        ],
    )
    async def test_status(
        self, items: list[Result[Any, Any]], policy: dict[str, Any], status: int, success: bool
    ) -> None:
        """
        All well 200, some 207, none (or some where that is not allowed) 400.
        """
        answer = await get(self.app(items, **policy), "/")

        assert (answer.status, answer.json()["success"]) == (status, success)

    async def test_body_and_headers(self) -> None:
        """
        The body sums up the batch and lists the values, filtered by their model; the headers have the counts.
        """
        answer = await get(self.app([self.GOOD, self.BAD]), "/")

        body = answer.json()
        assert isinstance(body["summary"].pop("processing_time_ms"), int)
        assert body == {
            "success": True,
            "summary": {"total": 2, "successful": 1, "failed": 1, "success_rate": 0.5},
            "results": [{"id": "1", "name": "Kim"}],
        }
        assert [answer.headers[f"x-batch-{name}"] for name in ("total", "success", "failed")] == ["2", "1", "1"]

    async def test_errors_if_asked_for(self) -> None:
        """
        Errors are told as clients may see them, no more than asked for.
        """
        answer = await get(self.app([self.BUG, self.BAD, self.BAD], include_errors=True, max_errors_in_response=2), "/")

        assert [error["code"] for error in answer.json()["errors"]] == ["INTERNAL_SERVER_ERROR", "CONFLICT"]
        assert "secret" not in answer.text

    async def test_empty_rate_is_zero(self) -> None:
        """
        An empty batch has the rate 0, as `FluxResult.success_rate` has.
        """
        assert (await get(self.app([]), "/")).json()["summary"]["success_rate"] == 0.0

    @pytest.mark.parametrize("placed", PLACES)
    async def test_undecorated(self, placed: str) -> None:
        """
        An endpoint that is only annotated is served the same way.
        """

        async def batch(user_id: str) -> FastAPIFluxResult[User]:
            return FluxResult([self.GOOD, self.BAD])

        answer = await get(app_with(batch, placed), "/users/1")

        assert (answer.status, answer.json()["results"]) == (207, [{"id": "1", "name": "Kim"}])

    async def test_other_answers(self) -> None:
        """
        A Response passes, a batch in a Success is opened, a Failure is a failure, anything else a 500.
        """
        app = FastAPI()

        @app.get("/{kind}")
        @handle_flux_result()
        async def batch(kind: str) -> Any:
            answers: dict[str, Any] = {
                "response": PlainTextResponse("as it is"),
                "success": Success(FluxResult([self.GOOD])),
                "failure": self.BAD,
                "other": [self.GOOD],
            }
            return answers[kind]

        answers = {kind: await get(app, f"/{kind}") for kind in ("response", "success", "failure", "other")}

        assert {kind: answer.status for kind, answer in answers.items()} == {
            "response": 200,
            "success": 200,
            "failure": 409,
            "other": 500,
        }

    async def test_called_directly(self) -> None:
        """
        Called by anybody but FastAPI, it returns the FluxResult.
        """

        @handle_flux_result()
        async def batch() -> FluxResult[User, APIError]:
            return FluxResult([self.GOOD])

        assert (await batch()).to_list() == [self.GOOD]

    def test_documented(self) -> None:
        """
        OpenAPI shows the body for all well, some and none.
        """
        app = self.app([])
        serve_results(app)

        responses = app.openapi()["paths"]["/"]["get"]["responses"]

        assert {"200", "207", "400", "default"} <= set(responses)
        assert responses["207"]["content"] == responses["200"]["content"]


class TestServeResults:
    async def test_twice(self) -> None:
        """
        Serving an app twice changes nothing, and takes in what was added in between.
        """
        app = FastAPI()
        app.add_api_route("/a/{user_id}", undecorated)
        serve_results(app)
        router = APIRouter(prefix="/b")
        router.add_api_route("/{user_id}", undecorated_mono)
        app.include_router(router)
        assert (await get(app, "/b/missing")).raised is not None  # not served yet, and already resolved
        serve_results(app)

        assert (await get(app, "/a/missing")).status == 404
        assert (await get(app, "/b/missing")).status == 404
        assert list(app.openapi()["paths"]) == ["/a/{user_id}", "/b/{user_id}"]

    async def test_a_decorator_without_wraps(self) -> None:
        """
        A decorator that hides the signature costs the success model, not the answer.
        """

        def hide(function: Callable[..., Any]) -> Callable[..., Any]:
            async def hidden() -> Any:
                return await function("7")

            return hidden

        app = FastAPI()
        app.add_api_route("/", handle_result(hide(undecorated)))

        assert (await get(app, "/")).json()["name"] == "Kim"
