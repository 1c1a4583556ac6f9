"""
From a Result to an HTTP response.

A Success is answered with its value, as if the endpoint had returned it: FastAPI validates, filters and encodes it by
the success model. A Failure is answered with the status and the body of its `APIError`; any other error is told by a generic
sentence, and written to the records under the correlation id that the body quotes. So is an exception.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, TypeVar, cast

from anyio import from_thread
from fastapi import FastAPI, Request, Response
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection

from rfs.core.result import Success
from rfs.errors import AlertRuleError, MetricDefinitionError, TimeRangeError
from rfs.reactive.flux_result import FluxResult
from rfs.web.fastapi._exchange import Scope, correlation_id_of, count_internal_error, record_fault
from rfs.web.fastapi._routes import effective_routes
from rfs.web.fastapi.errors import APIError, error_body, unhandled_body
from rfs.web.fastapi.types import (
    ErrorBody,
    FluxSummary,
    Served,
    holds_failure,
    holds_success,
    is_batch,
    is_chain,
    resolve,
    served_by,
)

__all__ = ["handle_flux_result", "handle_result", "serve_results"]

F = TypeVar("F", bound=Callable[..., Any])
EndpointT = Callable[..., Any]

CLIENT_CLOSED = 499  # the status of a request whose client left before the answer began
PROCESSING_TIME = "X-Processing-Time-MS"
SERVED = "__rfs_served__"  # set on endpoints that answer Results, for OpenAPI and for the middleware

# Names of the parameters that FastAPI fills for us. A service's own parameter cannot start so: pydantic forbids it.
_CONNECTION = "_rfs_connection"
_RESPONSE = "_rfs_response"


# --- decorators -------------------------------------------------------------------------------------------------------


def handle_result(function: F) -> F:
    """
    Answer HTTP requests with the Result (or MonoResult) that *function*, sync or async, returns.

    Put it under the route decorator and over any others::

        @app.get("/users/{user_id}")
        @handle_result
        async def get_user(user_id: str) -> Result[User, APIError]: ...

    Called by FastAPI: a Success is 200 with its value as JSON body, a Failure has the status of its `APIError` and the body
    ``code``, ``message``, ``details``, ``timestamp``; a Failure of anything else, an answer that is no Result, and an exception
    that the app has no handler for are of the 500 class, tell no internals and quote the correlation id. Every answer carries
    ``X-Processing-Time-MS`` in whole milliseconds. Called by anybody else it returns what *function* returns.
    """
    served = _promise(function) or Served("result", Any)
    return _decorate(function, served, _answer_result, served.body)


def handle_flux_result(
    *, partial_success: bool = True, include_errors: bool = False, max_errors_in_response: int = 10
) -> Callable[[F], F]:
    """
    Answer HTTP requests with the FluxResult that the function returns.

    Args:
        partial_success: Whether a batch of which some items failed is 207; else it is 400.
        include_errors: Whether the body has ``errors``, as a client may see them.
        max_errors_in_response: How many of them.

    All well, or nothing to do, is 200; nothing succeeded is 400. The body is ``success``, ``summary`` (``total``,
    ``successful``, ``failed``, ``success_rate``, ``processing_time_ms``), ``results``; the counts are also in the headers
    ``X-Batch-Total``, ``X-Batch-Success``, ``X-Batch-Failed``. Called by anybody but FastAPI it returns what the function
    returns.
    """
    policy = _FluxPolicy(partial_success, include_errors, max_errors_in_response)

    def decorate(function: F) -> F:
        promised = _promise(function)
        served = Served("flux", promised.model if promised is not None else Any)
        body = served.body_with_errors if include_errors else served.body
        return _decorate(function, served, functools.partial(_answer_flux, policy=policy), body)

    return decorate


@dataclass(frozen=True)
class _FluxPolicy:
    partial_success: bool = True
    include_errors: bool = False
    max_errors: int = 10


@dataclass(frozen=True)
class _Call:
    """One call of an endpoint by FastAPI."""

    scope: Scope
    response: Response
    started: float

    @property
    def milliseconds(self) -> int:
        return int((perf_counter() - self.started) * 1000)


_Answer = Callable[[object, _Call], Any]


def _promise(function: EndpointT) -> Served | None:
    try:
        annotation = inspect.signature(function).return_annotation
    except (TypeError, ValueError):
        return None
    return served_by(resolve(annotation, function))


def _decorate(function: F, served: Served, answer: _Answer, model: Any) -> F:
    signature, connection_name, response_name = _seam(function, model)

    def begin(kwargs: dict[str, Any]) -> _Call | None:
        connection = kwargs.get(connection_name)
        if not isinstance(connection, HTTPConnection) or response_name not in kwargs:
            return None
        call = _Call(connection.scope, kwargs[response_name], perf_counter())
        kwargs.pop(_CONNECTION, None)
        kwargs.pop(_RESPONSE, None)
        return call

    endpoint: EndpointT
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def async_endpoint(*args: Any, **kwargs: Any) -> Any:
            call = begin(kwargs)
            if call is None:
                return await function(*args, **kwargs)
            try:
                outcome = await _settled(await function(*args, **kwargs))
            except Exception as exc:
                if _host_handles(call.scope, exc):
                    raise
                outcome = _Raised(exc)
            return answer(outcome, call)

        endpoint = async_endpoint
    else:

        @functools.wraps(function)
        def endpoint_in_thread(*args: Any, **kwargs: Any) -> Any:
            call = begin(kwargs)
            if call is None:
                return function(*args, **kwargs)
            try:
                outcome: object = function(*args, **kwargs)
                if is_chain(outcome):
                    # FastAPI runs us in a worker thread: the chain belongs to the loop.
                    outcome = from_thread.run(_settled, outcome)
            except Exception as exc:
                if _host_handles(call.scope, exc):
                    raise
                outcome = _Raised(exc)
            return answer(outcome, call)

        endpoint = endpoint_in_thread

    setattr(endpoint, "__signature__", signature)  # noqa: B010 - functions have no such attribute to a type checker
    setattr(endpoint, SERVED, served)
    return cast("F", endpoint)


def _seam(function: EndpointT, model: Any) -> tuple[inspect.Signature, str, str]:
    """
    The signature that FastAPI sees, and the names under which it hands us connection and response.

    FastAPI has one slot for each; where the function takes one itself, we read that.
    """
    signature = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=resolve(parameter.annotation, function))
        for parameter in signature.parameters.values()
    ]
    connection_name, response_name = _CONNECTION, _RESPONSE
    for parameter in parameters:
        annotation = parameter.annotation
        if not isinstance(annotation, type):
            continue
        if issubclass(annotation, HTTPConnection) and not issubclass(annotation, Request):
            connection_name = parameter.name
        elif issubclass(annotation, Response):
            response_name = parameter.name
    hidden = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation)
        for name, ours, annotation in (
            (connection_name, _CONNECTION, HTTPConnection),
            (response_name, _RESPONSE, Response),
        )
        if name == ours
    ]
    at = len(parameters)
    if parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD:
        at -= 1
    parameters[at:at] = hidden
    return signature.replace(parameters=parameters, return_annotation=model), connection_name, response_name


# --- answers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Raised:
    error: Exception


async def _settled(outcome: object) -> object:
    """The Result of a chain; anything else as it is."""
    if is_chain(outcome):
        return await outcome.to_result()
    return outcome


def _answer_result(outcome: object, call: _Call) -> Any:
    elapsed = str(call.milliseconds)
    if holds_success(outcome):
        value = outcome.value
        headers = value.headers if isinstance(value, Response) else call.response.headers
        headers[PROCESSING_TIME] = elapsed
        return value
    if isinstance(outcome, Response):
        outcome.headers.setdefault(PROCESSING_TIME, elapsed)
        return outcome
    return _answer_failure(outcome, call.scope, {PROCESSING_TIME: elapsed})


def _answer_failure(outcome: object, scope: Scope, headers: Mapping[str, str]) -> Response:
    is_defect = True
    error: object
    if holds_failure(outcome):
        error, message, is_defect = outcome.error, "Failure without an APIError", outcome.is_defect
    elif isinstance(outcome, _Raised):
        error, message = outcome.error, "Unhandled exception"
    else:
        error, message = TypeError(f"the endpoint returned {type(outcome).__name__}, not a Result"), "No Result"
    told = APIError.from_failure(error)
    if told is not error and not told.expected:
        record_fault(scope, message, error, is_defect=is_defect)
    return error_response(told, scope, headers)


def error_response(error: APIError, scope: Scope, headers: Mapping[str, str] | None = None) -> Response:
    """The response for *error*; details that JSON cannot carry are left out, and that is counted."""
    body = error_body(error, correlation_id_of(scope))
    headers = {**(error.headers or {}), **(headers or {})}
    try:
        return JSONResponse(jsonable_encoder(body), error.status_code, headers)
    except Exception as exc:  # noqa: BLE001 - somebody's details must not turn a 4xx into a crash
        count_internal_error("web.error_details", exc)
        return JSONResponse({**body, "details": {}}, error.status_code, headers)


def _answer_flux(outcome: object, call: _Call, policy: _FluxPolicy) -> Any:
    if isinstance(outcome, Response):
        return outcome
    held: object = outcome.value if holds_success(outcome) else outcome
    if not is_batch(held):
        return _answer_failure(outcome, call.scope, {PROCESSING_TIME: str(call.milliseconds)})
    status, body, headers = _flux_parts(held, policy, call.milliseconds)
    call.response.status_code = status
    call.response.headers.update(headers)
    return body


def _flux_parts(
    flux: FluxResult[Any, Any], policy: _FluxPolicy, milliseconds: int
) -> tuple[int, dict[str, Any], dict[str, str]]:
    values: list[Any] = []
    errors: list[object] = []
    for result in flux:
        if isinstance(result, Success):
            values.append(result.value)
        else:
            errors.append(result.error)
    total = len(values) + len(errors)
    if not errors:
        status = 200
    elif values and policy.partial_success:
        status = 207
    else:
        status = 400
    summary = FluxSummary(
        total=total,
        successful=len(values),
        failed=len(errors),
        success_rate=len(values) / total if total else 0.0,
        processing_time_ms=milliseconds,
    )
    body: dict[str, Any] = {"success": status < 400, "summary": summary, "results": values}
    if policy.include_errors:
        body["errors"] = [APIError.from_failure(error).to_dict() for error in errors[: policy.max_errors]]
    headers = {
        PROCESSING_TIME: str(milliseconds),
        "X-Batch-Total": str(total),
        "X-Batch-Success": str(len(values)),
        "X-Batch-Failed": str(len(errors)),
    }
    return status, body, headers


def _host_handles(scope: Scope, exc: Exception) -> bool:
    """Whether the app has a handler of its own for *exc*; one for all exceptions does not count."""
    by_class, _ = scope.get("starlette.exception_handlers", ({}, {}))
    for base in type(exc).__mro__:
        if base is Exception or (base is HTTPException and isinstance(exc, APIError)):
            return False
        if base in by_class:
            return not getattr(by_class[base], "__rfs__", False)
    return False


# --- the app ----------------------------------------------------------------------------------------------------------


async def answer_declared_error(request: Request, exc: Exception) -> Response:
    """Exception handler: an `APIError`, or an error of a declaration, that was raised."""
    return error_response(APIError.from_exception(exc), request.scope)


async def answer_unhandled(request: Request, exc: Exception) -> Response:
    """Exception handler: an exception that nobody handled. 503 if something cannot be reached, else 500."""
    if isinstance(exc, ClientDisconnect):
        return Response(status_code=CLIENT_CLOSED)  # for the log: nobody is there to read it
    record_fault(request.scope, "Unhandled exception", exc)
    told = APIError.from_failure(exc)
    if told.expected:  # an error of a declaration that escaped from where no handler is
        return error_response(told, request.scope)
    body = unhandled_body(told, correlation_id_of(request.scope))
    return JSONResponse(body, told.status_code, told.headers)


setattr(answer_declared_error, "__rfs__", True)  # noqa: B010 - see _host_handles

_DECLARED = (APIError, TimeRangeError, AlertRuleError, MetricDefinitionError)


def serve_results(app: FastAPI) -> None:
    """
    Let *app* answer Results everywhere: what `handle_result` does for one endpoint.

    Undecorated endpoints annotated with ``FastAPIResult[T]``, ``FastAPIMonoResult[T]`` or ``FastAPIFluxResult[T]`` are
    served like decorated ones; an `APIError` that is raised, and an error of a declaration, are answered by their body;
    OpenAPI shows the error model of every Result-returning endpoint. The app's own exception handlers win. `install` calls
    it when the app starts; call it again for routes that were added later.
    """
    for kind in _DECLARED:
        app.exception_handlers.setdefault(kind, answer_declared_error)
    for route in effective_routes(app.routes):
        _adopt(route)
    if not getattr(app.openapi, SERVED, False):
        _document_errors(app)


def _adopt(route: Any) -> None:
    """Let the endpoint of *route* (with its prefix and dependencies) answer the Result that its annotation promises."""
    original = getattr(route, "original_route", route)
    if not isinstance(original, APIRoute):
        return
    endpoint = original.endpoint
    if not hasattr(endpoint, SERVED):
        promised = _promise(endpoint)
        if promised is None:
            return
        endpoint = handle_flux_result()(endpoint) if promised.kind == "flux" else handle_result(endpoint)
        original.endpoint = endpoint
    # A route that an including router has given its prefix has a dependant of its own; one that it resolves later makes
    # it from the endpoint.
    for dependant in (original.dependant, getattr(route, "dependant", None)):
        if dependant is not None and not hasattr(dependant.call, SERVED):
            dependant.call = endpoint
            dependant.http_connection_param_name = dependant.http_connection_param_name or _CONNECTION
            dependant.response_param_name = dependant.response_param_name or _RESPONSE


def _document_errors(app: FastAPI) -> None:
    original = app.openapi

    @functools.wraps(original)
    def openapi() -> dict[str, Any]:
        schema = original()
        _add_error_model(schema, effective_routes(app.routes))
        return schema

    setattr(openapi, SERVED, True)
    app.openapi = openapi  # type: ignore[method-assign] # FastAPI's documented way to extend the schema


def _add_error_model(schema: dict[str, Any], routes: Iterable[Any]) -> None:
    for route in routes:
        # An included route may still name the endpoint that it was resolved with.
        original = getattr(route, "original_route", route)
        served = getattr(getattr(original, "endpoint", None), SERVED, None)
        operations = schema.get("paths", {}).get(getattr(route, "path_format", None))
        if not isinstance(served, Served) or operations is None:
            continue
        for method in cast("Sequence[str]", getattr(route, "methods", ())):
            responses = operations.get(method.lower(), {}).get("responses")
            if responses is None:
                continue
            if served.kind == "flux" and "200" in responses:
                content = responses["200"].get("content", {})
                responses.setdefault("207", {"description": "Some items failed", "content": content})
                responses.setdefault("400", {"description": "The batch failed", "content": content})
            model = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
            responses.setdefault("default", {"description": "The operation failed", "content": model})
            components = schema.setdefault("components", {}).setdefault("schemas", {})
            components.setdefault("ErrorBody", ErrorBody.model_json_schema())
