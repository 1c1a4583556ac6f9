"""
Return annotations for endpoints that answer with a Result, a MonoResult or a FluxResult.

``FastAPIResult[T]`` is ``Result[T, APIError]`` to a type checker. At run time it registers with FastAPI as its success
model, so that OpenAPI shows *T* and the value is validated and filtered by it. Such an endpoint needs no decorator: see
`rfs.web.fastapi.response_helpers.serve_results`, which `install` calls.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeAlias, TypeGuard, TypeVar, get_args, get_origin

from fastapi.dependencies.utils import get_typed_annotation
from pydantic import BaseModel, TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from pydantic_core import core_schema

from rfs.core.result import Failure, Result, Success
from rfs.reactive.flux_result import FluxResult
from rfs.reactive.mono_result import MonoResult
from rfs.web.fastapi.errors import APIError

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler

__all__ = ["ErrorBody", "FastAPIFluxResult", "FastAPIMonoResult", "FastAPIResult", "FluxBody", "FluxSummary"]

T = TypeVar("T")

Kind = Literal["result", "mono", "flux"]


class ErrorBody(BaseModel):
    """The body of a failed Result."""

    code: str
    message: str
    details: dict[str, Any]
    timestamp: str


class FluxSummary(BaseModel):
    """How a batch went; ``success_rate`` is between 0 and 1, and 0 for an empty batch."""

    total: int
    successful: int
    failed: int
    success_rate: float
    processing_time_ms: int


class FluxBody(BaseModel, Generic[T]):
    """The body of a batch: the values of its successes, in order."""

    success: bool
    summary: FluxSummary
    results: list[T]


class FluxBodyWithErrors(FluxBody[T], Generic[T]):
    """A batch's body where the errors were asked for."""

    errors: list[dict[str, Any]]


@dataclass(frozen=True)
class Served:
    """
    What an endpoint's return annotation promises: a *kind* of answer holding *model*.

    As metadata of an annotation it tells pydantic, and so FastAPI, to take the success's value for the answer. A Failure
    that gets this far (nobody served the endpoint, see `serve_results`) is raised as an `APIError`.
    """

    kind: Kind
    model: Any

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(self._open, handler.generate_schema(self.body))

    @property
    def body(self) -> Any:
        """The model of a successful answer; ``Any`` where pydantic cannot describe it."""
        return _generic(FluxBody)[self._item] if self.kind == "flux" else self._item

    @property
    def body_with_errors(self) -> Any:
        """The model of a batch's answer that has its errors."""
        return _generic(FluxBodyWithErrors)[self._item]

    @property
    def _item(self) -> Any:
        # FastAPI knows "no body" as None, not as its class.
        return None if self.model is type(None) else self.model if _is_describable(self.model) else Any

    def _open(self, answer: Any) -> Any:
        if holds_success(answer):
            return answer.value
        if holds_failure(answer):
            raise APIError.from_failure(answer.error)
        if isinstance(answer, MonoResult | FluxResult):
            raise TypeError("an undecorated endpoint's chain is run after serve_results(app) or install(app)")
        return answer


if TYPE_CHECKING:
    FastAPIResult: TypeAlias = Result[T, APIError]
    FastAPIMonoResult: TypeAlias = MonoResult[T, APIError]
    FastAPIFluxResult: TypeAlias = FluxResult[T, APIError]
else:

    class _Annotation:
        _kind: Kind

        def __class_getitem__(cls, model: Any) -> Any:
            return Annotated[Any, Served(cls._kind, model)]

        @classmethod
        def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
            return Served(cls._kind, Any).__get_pydantic_core_schema__(source, handler)

    class FastAPIResult(_Annotation):
        """``Result[T, APIError]`` as an endpoint's return annotation."""

        _kind = "result"

    class FastAPIMonoResult(_Annotation):
        """``MonoResult[T, APIError]`` as an endpoint's return annotation."""

        _kind = "mono"

    class FastAPIFluxResult(_Annotation):
        """``FluxResult[T, APIError]`` as an endpoint's return annotation."""

        _kind = "flux"


# What anybody may return, narrowed for type checkers: `isinstance` alone leaves the parts unknown to them.


def holds_success(answer: object) -> TypeGuard[Success[Any]]:
    """Whether *answer* is a Success."""
    return isinstance(answer, Success)


def holds_failure(answer: object) -> TypeGuard[Failure[Any]]:
    """Whether *answer* is a Failure."""
    return isinstance(answer, Failure)


def is_chain(answer: object) -> TypeGuard[MonoResult[Any, Any]]:
    """Whether *answer* is a MonoResult."""
    return isinstance(answer, MonoResult)


def is_batch(answer: object) -> TypeGuard[FluxResult[Any, Any]]:
    """Whether *answer* is a FluxResult."""
    return isinstance(answer, FluxResult)


def resolve(annotation: Any, function: Callable[..., Any]) -> Any:
    """*annotation* of *function* as an object; as it is where its names are not known (yet)."""
    try:
        return get_typed_annotation(annotation, getattr(inspect.unwrap(function), "__globals__", {}))
    except Exception:  # noqa: BLE001 - evaluating somebody's annotation can raise anything; FastAPI will say so itself
        return annotation


def served_by(annotation: Any) -> Served | None:
    """What a return annotation promises, or None if it is none of ours: ``Result[T, E]`` and ``FastAPIResult[T]`` are."""
    for entry in getattr(annotation, "__metadata__", ()):
        if isinstance(entry, Served):
            return entry
    kind = getattr(annotation, "_kind", None)
    if kind in {"result", "mono", "flux"}:
        return Served(kind, Any)
    origin, arguments = get_origin(annotation) or annotation, get_args(annotation)
    model = arguments[0] if arguments else Any
    if not isinstance(origin, type):
        # Success[T] | Failure[E], written out
        members = [member for member in arguments if get_origin(member) is Success]
        return Served("result", get_args(members[0])[0]) if members else None
    # A union for type checkers, the base class of both at run time.
    if issubclass(origin, Result):  # pyright: ignore[reportArgumentType]
        return Served("result", model)
    if issubclass(origin, MonoResult):
        return Served("mono", model)
    if issubclass(origin, FluxResult):
        return Served("flux", model)
    return None


def _generic(model: Any) -> Any:
    """A generic model, to be completed by a type that is known only at run time."""
    return model


def _is_describable(model: Any) -> bool:
    if isinstance(model, TypeVar):
        return False
    try:
        TypeAdapter(model)
    except (PydanticSchemaGenerationError, PydanticUserError, NameError, TypeError):
        return False
    return True
