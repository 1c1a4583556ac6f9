"""What a client is told when something fails."""

from __future__ import annotations

import pickle
import socket

import pytest
from fastapi import HTTPException

from rfs.core.result import error_code, is_expected
from rfs.errors import AlertRuleError, MetricDefinitionError, RfsError, StepTimeoutError, TimeRangeError
from rfs.web.fastapi import APIError, ErrorCode
from rfs.web.fastapi.errors import error_body, status_of, unhandled_body

STATUS = {
    "VALIDATION_ERROR": 400,
    "UNAUTHORIZED": 401,
    "FORBIDDEN": 403,
    "NOT_FOUND": 404,
    "REQUEST_TIMEOUT": 408,
    "CONFLICT": 409,
    "PAYLOAD_TOO_LARGE": 413,
    "BUSINESS_RULE_VIOLATION": 422,
    "RATE_LIMITED": 429,
    "INTERNAL_SERVER_ERROR": 500,
    "DATABASE_ERROR": 500,
    "EXTERNAL_SERVICE_ERROR": 502,
    "SERVICE_UNAVAILABLE": 503,
    "TIMEOUT_ERROR": 504,
}


class UserNotFoundError(Exception):
    """A domain's own class, told by its name."""


class IntegrityError(Exception):
    """What a database driver calls a broken constraint."""


class OperationalError(Exception):
    """What a database driver calls a lost connection."""


class BrokenStatementError(Exception):
    """As SQLAlchemy marks a statement that its connection did not survive."""

    connection_invalidated = True


def pool_timeout() -> Exception:
    """SQLAlchemy's exception for a pool without a free connection."""
    exc: Exception = type("TimeoutError", (Exception,), {"__module__": "sqlalchemy.exc"})()
    return exc


def raised_from(cause: BaseException) -> Exception:
    """An exception of our own that was raised from *cause*."""
    outer = RuntimeError("could not save the order")
    outer.__cause__ = cause
    return outer


class TestErrorCode:
    @pytest.mark.parametrize(("code", "status"), STATUS.items())
    def test_status(self, code: str, status: int) -> None:
        """
        Every code has its documented status, and its name is its value.
        """
        assert ErrorCode(code).name == code
        assert status_of(code) == status
        assert APIError(ErrorCode(code), "text").status_code == status

    def test_all(self) -> None:
        """
        There are no other codes.
        """
        assert {str(code) for code in ErrorCode} == set(STATUS)


class TestAPIError:
    def test_parts(self) -> None:
        """
        Code, message, details and status are attributes; the dict has what a client is told.
        """
        error = APIError(ErrorCode.CONFLICT, "이미 접수된 주문입니다", {"order": 7}, 418)

        assert (error.code, error.message, error.details, error.status_code) == (
            ErrorCode.CONFLICT,
            "이미 접수된 주문입니다",
            {"order": 7},
            418,
        )
        assert error.to_dict() == {"code": "CONFLICT", "message": "이미 접수된 주문입니다", "details": {"order": 7}}
        assert str(error) == "CONFLICT: 이미 접수된 주문입니다"
        assert repr(error) == "APIError('CONFLICT', '이미 접수된 주문입니다', status_code=418)"

    def test_code_by_its_text(self) -> None:
        """
        The text of a known code is that code; a code of one's own comes with its status, else it is a 500.
        """
        assert APIError("NOT_FOUND", "x").code is ErrorCode.NOT_FOUND
        assert APIError("SOLD_OUT", "x", status_code=409).status_code == 409
        assert APIError("SOLD_OUT", "x").status_code == 500

    def test_is_an_exception_of_ours_and_of_http(self) -> None:
        """
        It can be raised, caught as ours, and understood by any Starlette app.
        """
        error = APIError.not_found("사용자", "123")

        assert isinstance(error, RfsError)
        assert vars(error)["detail"] == error.to_dict()

    def test_metrics_and_records_know_it(self) -> None:
        """
        Its code is the label of its metric; the client's failures are expected, the service's are not.
        """
        assert error_code(APIError.not_found("사용자")) == "NOT_FOUND"
        assert is_expected(APIError.not_found("사용자"))
        assert not is_expected(APIError.internal_server_error())

    @pytest.mark.parametrize(
        "error",
        [APIError.not_found("사용자", "7"), APIError.rate_limited(10, 60), APIError("SOLD_OUT", "x", {"a": 1}, 409)],
    )
    def test_survives_pickling(self, error: APIError) -> None:
        """
        A copy from another process tells the same.
        """
        copy = pickle.loads(pickle.dumps(error))

        assert copy.to_dict() == error.to_dict()
        assert (copy.status_code, copy.headers, copy.code) == (error.status_code, error.headers, error.code)


class TestFactories:
    @pytest.mark.parametrize(
        ("error", "code", "details"),
        [
            (APIError.not_found("사용자", "123"), "NOT_FOUND", {"resource": "사용자", "id": "123"}),
            (APIError.not_found("메뉴"), "NOT_FOUND", {"resource": "메뉴"}),
            (APIError.validation_error({"age": "too young"}), "VALIDATION_ERROR", {"fields": {"age": "too young"}}),
            (APIError.validation_failed("나쁨", {"a": 1}), "VALIDATION_ERROR", {"a": 1}),
            (APIError.unauthorized("expired"), "UNAUTHORIZED", {"reason": "expired"}),
            (APIError.unauthorized(), "UNAUTHORIZED", {}),
            (APIError.forbidden("order", "cancel"), "FORBIDDEN", {"resource": "order", "action": "cancel"}),
            (APIError.conflict("order", "served"), "CONFLICT", {"resource": "order", "reason": "served"}),
            (APIError.rate_limited(10, "1m"), "RATE_LIMITED", {"limit": 10, "window": "1m"}),
            (APIError.internal_server_error("곧 고칩니다"), "INTERNAL_SERVER_ERROR", {}),
            (APIError.service_unavailable("db"), "SERVICE_UNAVAILABLE", {"service": "db"}),
            (APIError.timeout_error("pay", 2.5), "TIMEOUT_ERROR", {"operation": "pay", "timeout_seconds": 2.5}),
            (
                APIError.database_error("insert", {"table": "t"}),
                "DATABASE_ERROR",
                {"operation": "insert", "table": "t"},
            ),
            (
                APIError.external_service_error("pay", "refused"),
                "EXTERNAL_SERVICE_ERROR",
                {"service": "pay", "reason": "refused"},
            ),
        ],
    )
    def test_tells(self, error: APIError, code: str, details: dict[str, object]) -> None:
        """
        Each factory gives its code, that code's status, a sentence, and what it was told as details.
        """
        assert (error.code, error.status_code, error.details) == (code, STATUS[code], details)
        assert error.message

    def test_not_found_names_the_resource(self) -> None:
        """
        The documented sentence.
        """
        assert APIError.not_found("사용자", "1").message == "사용자을(를) 찾을 수 없습니다"

    def test_when_to_try_again(self) -> None:
        """
        What will pass by itself says when: as a header, too.
        """
        assert APIError.rate_limited(10, 60).headers == {"Retry-After": "60"}
        assert APIError.service_unavailable(retry_after_seconds=2).headers == {"Retry-After": "2"}


class TestFromException:
    @pytest.mark.parametrize(
        ("exc", "status"),
        [
            (UserNotFoundError("secret"), 404),
            (FileNotFoundError("/etc/secret"), 500),
            (ValueError("secret"), 400),
            (PermissionError("secret"), 403),
            (TimeoutError("secret"), 504),
            (StepTimeoutError("secret", 1), 504),
            (IntegrityError("secret"), 500),
            (OperationalError("secret"), 503),
            (ConnectionRefusedError("secret"), 503),
            (socket.gaierror("secret"), 503),
            (BrokenStatementError("secret"), 503),
            (pool_timeout(), 503),
            (raised_from(ConnectionResetError("secret")), 503),
            (RuntimeError("secret"), 500),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
    )
    def test_by_type_and_never_by_text(self, exc: Exception, status: int) -> None:
        """
        The type decides the status; the text of the exception is not told.
        """
        told = APIError.from_exception(exc)

        assert told.status_code == status
        assert "secret" not in str(told.to_dict())

    def test_integrity_is_the_databases(self) -> None:
        """
        A broken constraint is the database's error.
        """
        assert APIError.from_exception(IntegrityError()).code == ErrorCode.DATABASE_ERROR

    def test_a_driver_error_inside_another(self) -> None:
        """
        What SQLAlchemy wraps is found inside it.
        """
        wrapped = RuntimeError("statement failed")
        setattr(wrapped, "orig", OperationalError())  # noqa: B010

        assert APIError.from_exception(wrapped).status_code == 503

    def test_a_circle_of_causes_ends(self) -> None:
        """
        Exceptions that are each other's cause are read once.
        """
        first, second = RuntimeError(), RuntimeError()
        first.__cause__, second.__cause__ = second, first

        assert APIError.from_exception(first).status_code == 500

    @pytest.mark.parametrize(
        ("exc", "field"),
        [
            (TimeRangeError("9y", "between 1s and 30d"), "time_range"),
            (AlertRuleError("slow", "threshold", "must be finite"), "threshold"),
            (MetricDefinitionError("1a", "must not begin with a digit"), "metric_name"),
        ],
    )
    def test_a_declaration_names_its_field(self, exc: Exception, field: str) -> None:
        """
        What a client declared wrongly is 422, names the field, and says what is wrong.
        """
        told = APIError.from_exception(exc)

        assert (told.status_code, told.details, told.message) == (422, {"field": field}, str(exc))

    def test_own_errors_pass(self) -> None:
        """
        An APIError is itself; an HTTPException keeps status, text and headers.
        """
        error = APIError.conflict("order", "served")
        told = APIError.from_exception(HTTPException(404, "no such table", {"X-A": "b"}))

        assert APIError.from_exception(error) is error
        assert (told.code, told.status_code, told.message, told.headers) == (
            ErrorCode.NOT_FOUND,
            404,
            "no such table",
            {"X-A": "b"},
        )
        assert APIError.from_exception(HTTPException(418, {"any": "thing"})).status_code == 418


class TestFromServiceError:
    def test_kinds(self) -> None:
        """
        An APIError unchanged, an exception by its type, text as the message of a 500, others as a 500.
        """
        error = APIError.not_found("사용자")

        assert APIError.from_service_error(error) is error
        assert APIError.from_service_error(ConnectionError()).status_code == 503
        assert APIError.from_service_error("재고 없음").message == "재고 없음"
        assert APIError.from_service_error({"any": "thing"}).status_code == 500


class TestFromFailure:
    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (ValueError("secret"), 500),
            (UserNotFoundError("secret"), 500),
            (PermissionError("secret"), 500),
            ("secret", 500),
            (None, 500),
            (TimeoutError("secret"), 504),
            (ConnectionError("secret"), 503),
            (HTTPException(404), 404),
            (TimeRangeError("9y", "too long"), 422),
            (APIError.conflict("a", "b"), 409),
        ],
        ids=repr,
    )
    def test_what_nobody_declared_is_the_services_fault(self, error: object, status: int) -> None:
        """
        A bug is not told as the client's mistake, whatever its class is called; nothing of it is told at all.
        """
        told = APIError.from_failure(error)

        assert told.status_code == status
        assert "secret" not in str(told.to_dict())


class TestBodies:
    def test_of_a_result(self) -> None:
        """
        The documented keys; only a failure of the service quotes the correlation id.
        """
        mine = error_body(APIError.internal_server_error(), "req-1")
        theirs = error_body(APIError.not_found("사용자"), "req-1")

        assert list(mine) == list(theirs) == ["code", "message", "details", "timestamp"]
        assert mine["details"] == {"correlation_id": "req-1"}
        assert theirs["details"] == {"resource": "사용자"}
        assert mine["timestamp"].endswith("+00:00")

    def test_of_an_unhandled_exception(self) -> None:
        """
        The documented keys and texts, and the correlation id if there is one.
        """
        assert unhandled_body(APIError.internal_server_error(), "req-1") == {
            "detail": "내부 서버 오류가 발생했습니다",
            "error_code": "INTERNAL_ERROR",
            "correlation_id": "req-1",
        }
        assert unhandled_body(APIError.service_unavailable())["error_code"] == "SERVICE_UNAVAILABLE"
