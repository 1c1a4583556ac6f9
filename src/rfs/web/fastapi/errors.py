"""
API errors: what a client is told when an operation fails.

An `APIError` is the error of a Result, and may also be raised. It says only what its author wrote for the client: an
exception or any other error that becomes one is told by the generic sentence of its code. What really happened is in the
records, under the correlation id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from starlette.exceptions import HTTPException

from rfs.errors import AlertRuleError, MetricDefinitionError, RfsError, TimeRangeError

__all__ = ["APIError", "ErrorCode", "status_of"]


class ErrorCode(StrEnum):
    """What kind of failure an `APIError` is. `status_of` gives the HTTP status of each."""

    VALIDATION_ERROR = "VALIDATION_ERROR"
    UNAUTHORIZED = "UNAUTHORIZED"
    FORBIDDEN = "FORBIDDEN"
    NOT_FOUND = "NOT_FOUND"
    REQUEST_TIMEOUT = "REQUEST_TIMEOUT"
    CONFLICT = "CONFLICT"
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE"
    BUSINESS_RULE_VIOLATION = "BUSINESS_RULE_VIOLATION"
    RATE_LIMITED = "RATE_LIMITED"
    INTERNAL_SERVER_ERROR = "INTERNAL_SERVER_ERROR"
    DATABASE_ERROR = "DATABASE_ERROR"
    EXTERNAL_SERVICE_ERROR = "EXTERNAL_SERVICE_ERROR"
    SERVICE_UNAVAILABLE = "SERVICE_UNAVAILABLE"
    TIMEOUT_ERROR = "TIMEOUT_ERROR"


# Per code: HTTP status, and the sentence a client reads where nobody wrote a better one.
_TOLD: Mapping[ErrorCode, tuple[int, str]] = {
    ErrorCode.VALIDATION_ERROR: (400, "입력 값이 올바르지 않습니다"),
    ErrorCode.UNAUTHORIZED: (401, "인증이 필요합니다"),
    ErrorCode.FORBIDDEN: (403, "접근 권한이 없습니다"),
    ErrorCode.NOT_FOUND: (404, "요청한 대상을 찾을 수 없습니다"),
    ErrorCode.REQUEST_TIMEOUT: (408, "요청 시간이 초과되었습니다"),
    ErrorCode.CONFLICT: (409, "현재 상태와 충돌합니다"),
    ErrorCode.PAYLOAD_TOO_LARGE: (413, "요청 본문이 너무 큽니다"),
    ErrorCode.BUSINESS_RULE_VIOLATION: (422, "업무 규칙에 맞지 않는 요청입니다"),
    ErrorCode.RATE_LIMITED: (429, "요청이 너무 많습니다"),
    ErrorCode.INTERNAL_SERVER_ERROR: (500, "내부 서버 오류가 발생했습니다"),
    ErrorCode.DATABASE_ERROR: (500, "데이터베이스 오류가 발생했습니다"),
    ErrorCode.EXTERNAL_SERVICE_ERROR: (502, "외부 서비스 오류가 발생했습니다"),
    ErrorCode.SERVICE_UNAVAILABLE: (503, "서비스를 일시적으로 사용할 수 없습니다"),
    ErrorCode.TIMEOUT_ERROR: (504, "처리 시간이 초과되었습니다"),
}

_CODE_OF_STATUS = {
    **{status: code for code, (status, _) in _TOLD.items()},
    500: ErrorCode.INTERNAL_SERVER_ERROR,  # not DATABASE_ERROR, which is 500 too
}

# Classes that say "the other side cannot be reached now", by name, because their packages need not be installed:
# the standard library, asyncpg, psycopg, SQLAlchemy, redis, httpx.
_UNREACHABLE = frozenset(
    {
        "CannotConnectNowError",
        "ConnectError",
        "ConnectTimeout",
        "ConnectionError",
        "ConnectionDoesNotExistError",
        "InterfaceError",
        "NetworkError",
        "OperationalError",
        "OperatorInterventionError",
        "PostgresConnectionError",
        "TooManyConnectionsError",
        "gaierror",
    }
)
_LONGEST_CHAIN = 8


def status_of(code: str) -> int:
    """HTTP status of an `ErrorCode`; 500 for a code of somebody's own, who gives ``status_code`` instead."""
    try:
        return _TOLD[ErrorCode(code)][0]
    except ValueError:
        return 500


class APIError(RfsError, HTTPException):
    """
    A failure as a client sees it.

    Args:
        code: An `ErrorCode`, or a code of the service's own, then with *status_code*.
        message: For people; sent as it is, so it must not carry internals.
        details: For programs; JSON values, sent as they are.
        status_code: HTTP status; by default that of *code*.
        headers: HTTP headers to send with it.

    Being an ``HTTPException``, it has the right status also in an app that never heard of RFS. ``expected`` is True
    for a status below 500: the client's failure, not the service's.

    >>> error = APIError.not_found("사용자", "123")
    >>> error.status_code, error.to_dict()["message"]
    (404, '사용자을(를) 찾을 수 없습니다')
    """

    def __init__(
        self,
        code: ErrorCode | str,
        message: str,
        details: Mapping[str, Any] | None = None,
        status_code: int | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        try:
            self.code: ErrorCode | str = ErrorCode(code)
        except ValueError:
            self.code = code
        self.message = message
        self.details: dict[str, Any] = dict(details or {})
        Exception.__init__(self, code, message)
        # The detail is what an app without our handlers sends. A dict is what FastAPI's own HTTPException takes, too.
        HTTPException.__init__(
            self,
            status_of(code) if status_code is None else status_code,
            detail=self.to_dict(),  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
            headers=headers,
        )

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    def __repr__(self) -> str:
        return f"APIError({str(self.code)!r}, {self.message!r}, status_code={self.status_code})"

    def __reduce__(self) -> tuple[Any, ...]:
        state = {**self.__dict__, "code": str(self.code)}
        return _restore, (type(self), state)

    @property
    def expected(self) -> bool:
        """Whether this is the client's failure and not the service's."""
        return self.status_code < 500

    def to_dict(self) -> dict[str, Any]:
        """The parts that a client is told; the body adds ``timestamp``."""
        return {"code": str(self.code), "message": self.message, "details": self.details}

    @classmethod
    def of(cls, code: ErrorCode, details: Mapping[str, Any] | None = None) -> APIError:
        """The error of *code* with its generic sentence."""
        return cls(code, _TOLD[code][1], details)

    @classmethod
    def not_found(cls, resource: str, id: object = None) -> APIError:  # noqa: A002 - the documents' name
        """404: there is no such *resource*."""
        details: dict[str, Any] = {"resource": resource}
        if id is not None:
            details["id"] = id
        return cls(ErrorCode.NOT_FOUND, f"{resource}을(를) 찾을 수 없습니다", details)

    @classmethod
    def validation_error(cls, fields: Mapping[str, str]) -> APIError:
        """400: what is wrong, by field."""
        return cls.of(ErrorCode.VALIDATION_ERROR, {"fields": dict(fields)})

    @classmethod
    def validation_failed(cls, message: str, details: Mapping[str, Any] | None = None) -> APIError:
        """400 with a sentence of the caller's own."""
        return cls(ErrorCode.VALIDATION_ERROR, message, details)

    @classmethod
    def unauthorized(cls, reason: str | None = None) -> APIError:
        """401: nobody is logged in, or the credentials are not valid."""
        return cls.of(ErrorCode.UNAUTHORIZED, {"reason": reason} if reason else None)

    @classmethod
    def forbidden(cls, resource: str, action: str) -> APIError:
        """403: this user may not do *action* with *resource*."""
        return cls.of(ErrorCode.FORBIDDEN, {"resource": resource, "action": action})

    @classmethod
    def conflict(cls, resource: str, reason: str) -> APIError:
        """409: *resource* is in a state that forbids it."""
        return cls(ErrorCode.CONFLICT, reason, {"resource": resource, "reason": reason})

    @classmethod
    def rate_limited(cls, limit: int, window: int | str) -> APIError:
        """429: more than *limit* in *window*; a window in whole seconds is also sent as ``Retry-After``."""
        error = cls.of(ErrorCode.RATE_LIMITED, {"limit": limit, "window": window})
        if isinstance(window, int):
            error.headers = {"Retry-After": str(window)}
        return error

    @classmethod
    def internal_server_error(cls, message: str | None = None) -> APIError:
        """500. *message* is sent to the client: it must not carry internals."""
        return cls(ErrorCode.INTERNAL_SERVER_ERROR, message or _TOLD[ErrorCode.INTERNAL_SERVER_ERROR][1])

    @classmethod
    def service_unavailable(cls, service: str | None = None, retry_after_seconds: int = 1) -> APIError:
        """503: something this service needs is down; the client may try again."""
        error = cls.of(ErrorCode.SERVICE_UNAVAILABLE, {"service": service} if service else None)
        error.headers = {"Retry-After": str(retry_after_seconds)}
        return error

    @classmethod
    def timeout_error(cls, operation: str, seconds: float) -> APIError:
        """504: *operation* was not done within *seconds*."""
        return cls.of(ErrorCode.TIMEOUT_ERROR, {"operation": operation, "timeout_seconds": seconds})

    @classmethod
    def database_error(cls, operation: str, details: Mapping[str, Any] | None = None) -> APIError:
        """500: the database refused *operation*. *details* are sent to the client."""
        return cls.of(ErrorCode.DATABASE_ERROR, {"operation": operation, **(details or {})})

    @classmethod
    def external_service_error(cls, service: str, reason: str) -> APIError:
        """502: *service* answered, but not with anything usable."""
        return cls.of(ErrorCode.EXTERNAL_SERVICE_ERROR, {"service": service, "reason": reason})

    @classmethod
    def from_exception(cls, exc: BaseException) -> APIError:
        """
        What to tell a client about *exc*: by its type, never by its text.

        An `APIError` comes back unchanged, an ``HTTPException`` keeps its status. An error of a declaration (time range,
        metric, alert rule) is 422 and names the field. Something that cannot be reached is 503.
        """
        if isinstance(exc, APIError):
            return exc
        if isinstance(exc, HTTPException):
            code = _CODE_OF_STATUS.get(exc.status_code, ErrorCode.INTERNAL_SERVER_ERROR)
            # FastAPI's own takes anything as its detail.
            detail: object = exc.detail
            told = detail if isinstance(detail, str) else _TOLD[code][1]
            return cls(code, told, None, exc.status_code, headers=exc.headers)
        field = _field_of(exc)
        if field is not None:
            return cls(ErrorCode.VALIDATION_ERROR, str(exc), {"field": field}, 422)
        if _is_unreachable(exc):
            return cls.service_unavailable()
        names = {base.__name__ for base in type(exc).__mro__}
        if any("Timeout" in name for name in names):
            return cls.of(ErrorCode.TIMEOUT_ERROR)
        if any(part in name for name in names for part in ("Integrity", "Database", "DBAPIError", "SQLAlchemyError")):
            return cls.of(ErrorCode.DATABASE_ERROR)
        if isinstance(exc, PermissionError) or any("Permission" in name for name in names):
            return cls.of(ErrorCode.FORBIDDEN)
        if not isinstance(exc, OSError) and any("NotFound" in name for name in names):
            return cls.of(ErrorCode.NOT_FOUND)
        if isinstance(exc, ValueError) or any("Validation" in name for name in names):
            return cls.of(ErrorCode.VALIDATION_ERROR)
        return cls.of(ErrorCode.INTERNAL_SERVER_ERROR)

    @classmethod
    def from_service_error(cls, error: object) -> APIError:
        """An `APIError` unchanged, an exception by its type, a text as the message of a 500, anything else as a 500."""
        if isinstance(error, BaseException):
            return cls.from_exception(error)
        if isinstance(error, str) and error:
            return cls.internal_server_error(error)
        return cls.of(ErrorCode.INTERNAL_SERVER_ERROR)

    @classmethod
    def from_failure(cls, error: object) -> APIError:
        """
        What to tell a client about a Failure's *error*, or about an exception that nobody expected.

        Unlike `from_exception` it takes a ``ValueError`` or a ``KeyError`` for what it is here, a fault of the service:
        500. It keeps `APIError`, ``HTTPException``, errors of declarations, what cannot be reached (503) and time-outs
        (504).
        """
        if not isinstance(error, Exception):
            return cls.of(ErrorCode.INTERNAL_SERVER_ERROR)
        if isinstance(error, HTTPException) or _field_of(error) is not None or _is_unreachable(error):
            return cls.from_exception(error)
        if isinstance(error, TimeoutError):
            return cls.of(ErrorCode.TIMEOUT_ERROR)
        return cls.of(ErrorCode.INTERNAL_SERVER_ERROR)


def error_body(error: APIError, correlation_id: str = "") -> dict[str, Any]:
    """
    The body of a failed Result: ``code``, ``message``, ``details``, ``timestamp``.

    A failure of the service also carries the correlation id in its details, to be quoted to whoever can look it up.
    """
    body = error.to_dict()
    if correlation_id and not error.expected:
        body["details"] = {**body["details"], "correlation_id": correlation_id}
    body["timestamp"] = datetime.now(UTC).isoformat()
    return body


def unhandled_body(error: APIError, correlation_id: str = "") -> dict[str, Any]:
    """The body of an exception that nobody handled: ``detail``, ``error_code``, ``correlation_id``."""
    code = "INTERNAL_ERROR" if error.code == ErrorCode.INTERNAL_SERVER_ERROR else str(error.code)
    body: dict[str, Any] = {"detail": error.message, "error_code": code}
    if correlation_id:
        body["correlation_id"] = correlation_id
    return body


def _restore(kind: type[APIError], state: dict[str, Any]) -> APIError:
    error = kind(state["code"], state["message"], state["details"], state["status_code"], headers=state["headers"])
    error.__dict__.update({key: value for key, value in state.items() if key != "code"})
    return error


def _field_of(exc: BaseException) -> str | None:
    """The input field that an error of a declaration is about."""
    if isinstance(exc, TimeRangeError):
        return "time_range"
    if isinstance(exc, AlertRuleError):
        return exc.field
    if isinstance(exc, MetricDefinitionError):
        return "metric_name"
    return None


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """*exc* and what it was raised from, the outermost first; bounded, because a chain may be a circle."""
    current: BaseException | None = exc
    for _ in range(_LONGEST_CHAIN):
        if current is None:
            return
        yield current
        origin = getattr(current, "orig", None)  # SQLAlchemy keeps the driver's exception here
        current = current.__cause__ or (origin if isinstance(origin, BaseException) else None)


def _is_unreachable(exc: BaseException) -> bool:
    """Whether *exc* says that something this service depends on is down."""
    for link in _chain(exc):
        bases = type(link).__mro__
        if any(base.__name__ in _UNREACHABLE for base in bases):
            return True
        # SQLAlchemy's mark of a connection that broke under its statement.
        if getattr(link, "connection_invalidated", False) is True:
            return True
        if any(base.__module__ == "sqlalchemy.exc" and base.__name__ == "TimeoutError" for base in bases):
            return True  # no free connection in the pool
    return False
