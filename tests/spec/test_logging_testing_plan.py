"""
Each example of the logging and testing plan that is about tests does what it promises.

The code is written anew; what it imports, how it calls it and what it expects is the plan's.
"""

from __future__ import annotations

import asyncio

import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from rfs.core.result import Failure, Result, Success
from rfs.monitoring.monitor import Monitor
from rfs.monitoring.result_logging import log_result_operation
from rfs.reactive.flux_result import FluxResult
from rfs.reactive.mono_result import MonoResult
from rfs.testing.result_helpers import (
    ResultServiceMocker,
    assert_flux_result_stats,
    assert_mono_result_timeout,
    assert_result_error,
    assert_result_success,
    mock_result_service,
)
from rfs.testing.virtual_time import VirtualTime
from rfs.web.fastapi.errors import APIError, ErrorCode
from rfs.web.fastapi.response_helpers import handle_result

app = FastAPI()


class UserResponse(BaseModel):
    """What the endpoint answers."""

    user_id: str


class UserService:
    """The service of the plan's example; nobody gets as far as here."""

    async def get_user_async(self, user_id: str) -> Result[UserResponse, Exception]:
        """Not reached: the tests mock it."""
        raise NotImplementedError(user_id)


user_service = UserService()
sample_user = UserResponse(user_id="123")


def validate_user_response(user: UserResponse) -> Result[UserResponse, APIError]:
    """The chain's second step."""
    return Success(user)


@app.get("/users/{user_id}")
@handle_result
@log_result_operation("user_retrieval")
async def get_user(user_id: str) -> Result[UserResponse, APIError]:
    """The plan's endpoint."""
    return await (
        MonoResult.from_async_result(lambda: user_service.get_user_async(user_id))
        .log_step("user_service_call")
        .bind_result(lambda user: validate_user_response(user))
        .log_step("user_validation")
        .map_error(lambda e: APIError.from_service_error(e))
        .log_error("user_retrieval_error")
        .timeout(5.0)
        .to_result()
    )


class TestTargetPattern:
    @pytest.mark.asyncio
    async def test_get_user_success(self, monitor: Monitor) -> None:
        """
        The mock answers instead of the service, the Result is of the asked type, and the call is remembered.
        """
        with mock_result_service("user_service", "get_user_async") as mock_svc:
            mock_svc.return_success(sample_user)

            result = await get_user("123")

            assert_result_success(result, UserResponse)
            assert result.unwrap().user_id == "123"
            mock_svc.assert_called_once_with("123")
        assert monitor.query.increase("result_success_total", "1h", {"operation": "user_retrieval"}) == 1

    @pytest.mark.asyncio
    async def test_get_user_not_found(self) -> None:
        """
        The error is of the asked type, and keeps its code.
        """
        with mock_result_service("user_service", "get_user_async") as mock_svc:
            mock_svc.return_error(APIError.not_found("사용자", "123"))

            result = await get_user("123")

            assert_result_error(result, APIError)
            assert result.unwrap_error().code == ErrorCode.NOT_FOUND

    async def test_service_is_itself_afterwards(self) -> None:
        """
        Behind the block the endpoint reaches the service again.
        """
        with mock_result_service("user_service", "get_user_async"):
            pass

        assert (await get_user("123")).is_failure()
        assert vars(user_service) == {}


class TestMocker:
    async def test_remembers_its_calls(self) -> None:
        """
        Made with the names of service and method, it counts calls and keeps their arguments.
        """
        mocker = ResultServiceMocker("user_service", "get_user_async")

        assert (mocker.service_name, mocker.method_name) == ("user_service", "get_user_async")
        assert (mocker.call_count, mocker.call_args_history) == (0, [])
        assert mocker.return_success("found") is mocker
        assert await mocker("123", deep=True) == Success("found")
        assert (mocker.call_count, mocker.call_args_history) == (1, [(("123",), {"deep": True})])
        mocker.assert_called_once_with("123", deep=True)
        with pytest.raises(AssertionError):
            mocker.assert_called_once_with("124", deep=True)

    async def test_returns_errors(self) -> None:
        """
        Told an error, it answers with a Failure of it.
        """
        mocker = ResultServiceMocker("user_service", "get_user_async")

        assert await mocker.return_error("NOT_FOUND")() == Failure("NOT_FOUND")

    async def test_returns_a_sequence(self) -> None:
        """
        Told a sequence, it answers with one after the other; the call after the last is a Failure that says so.
        """
        mocker = ResultServiceMocker("user_service", "get_user_async").return_sequence([Success(1), Failure("x")])

        assert [await mocker(), await mocker()] == [Success(1), Failure("x")]
        exhausted = await mocker()

        assert exhausted.is_failure()
        assert str(exhausted.unwrap_error()).startswith("Mock sequence exhausted")


class TestAssertions:
    def test_result_success(self) -> None:
        """
        A Success passes, one of another type or a Failure does not.
        """
        assert_result_success(Success("x"))
        assert_result_success(Success("x"), expected_type=str)
        with pytest.raises(AssertionError, match="got one of str"):
            assert_result_success(Success("x"), int)
        with pytest.raises(AssertionError, match="SOLD_OUT"):
            assert_result_success(Failure("SOLD_OUT"))

    def test_result_error(self) -> None:
        """
        A Failure passes, one of another type or a Success does not.
        """
        assert_result_error(Failure(KeyError("x")))
        assert_result_error(Failure(KeyError("x")), expected_error_type=LookupError)
        with pytest.raises(AssertionError, match="got one of KeyError"):
            assert_result_error(Failure(KeyError("x")), OSError)
        with pytest.raises(AssertionError, match=r"Success\(7\)"):
            assert_result_error(Success(7))

    def test_flux_result_stats(self) -> None:
        """
        Both counts pass together or not at all.
        """
        flux_result: FluxResult[int, str] = FluxResult([Success(1), Failure("x"), Success(2)])

        assert_flux_result_stats(flux_result, expected_success=2, expected_failures=1)
        with pytest.raises(AssertionError):
            assert_flux_result_stats(flux_result, expected_success=2, expected_failures=2)
        with pytest.raises(AssertionError):
            assert_flux_result_stats(flux_result, expected_success=3, expected_failures=1)

    def test_mono_result_timeout(self) -> None:
        """
        A chain passes if its time limit ends it, and not if nothing takes too long.
        """

        async def slow() -> Result[str, str]:
            await asyncio.sleep(6)
            return Success("late")

        VirtualTime().run(assert_mono_result_timeout(MonoResult(slow).timeout(5.0), timeout_seconds=5.0))
        with pytest.raises(AssertionError, match=r"Success\('late'\)"):
            VirtualTime().run(assert_mono_result_timeout(MonoResult(slow).timeout(100), timeout_seconds=5.0))
