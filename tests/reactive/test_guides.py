"""The chains of the guides, called as they are written there; only the business functions are ours."""

from __future__ import annotations

import asyncio
from typing import Any

from rfs.core.result import Failure, Result, Success
from rfs.reactive.flux_result import FluxResult
from rfs.reactive.mono_result import MonoResult
from rfs.testing.fixtures import Telemetry
from rfs.testing.result_helpers import (
    assert_flux_result_stats,
    assert_flux_success_rate,
    assert_mono_result_error,
    assert_mono_result_value,
    assert_result_error,
    assert_result_success,
    assert_result_value,
)
from rfs.testing.virtual_time import VirtualTime


async def fetch_user(user_id: str) -> Result[dict[str, Any], str]:
    return Success({"id": user_id, "active": user_id != "user2"}) if user_id else Failure("no such user")


async def validate_user(user: dict[str, Any]) -> Result[dict[str, Any], str]:
    return Success(user) if user["active"] else Failure("not active")


async def enrich_user_data(user: dict[str, Any]) -> Result[dict[str, Any], str]:
    return Success(user | {"orders": 3})


class TestObservabilityGuide:
    async def process_user_data(self, user_id: str) -> Result[dict[str, Any], str]:
        return await (
            MonoResult.from_async_result(lambda: fetch_user(user_id))
            .bind_async_result(lambda user: validate_user(user))
            .bind_async_result(lambda user: enrich_user_data(user))
            .to_result()
        )

    async def test_chain_of_async_steps(self) -> None:
        """
        "자동 작업 로깅": three async steps, ended by to_result().
        """
        await assert_mono_result_value(self.process_user_data("u1"), {"id": "u1", "active": True, "orders": 3})
        await assert_mono_result_error(self.process_user_data(""), "no such user")
        await assert_mono_result_error(self.process_user_data("user2"), "not active")

    async def test_steps_with_messages(self, telemetry: Telemetry) -> None:
        """
        "MonoResult 단계별 로깅": each step is one entry with its message, then the time of all, and no error.
        """
        result = await (
            MonoResult.from_async_result(lambda: fetch_user("u1"))
            .log_step("initial_processing", "데이터 초기 처리 완료")
            .bind_async_result(lambda result: validate_user(result))
            .log_step("validation", "검증 단계 완료")
            .bind_async_result(lambda result: enrich_user_data(result))
            .log_step("transformation", "변환 단계 완료")
            .log_performance("total_processing_time")
            .log_error("processing_failed")
            .to_result()
        )

        assert_result_success(result)
        telemetry.assert_records(
            {"kind": "step", "step": "initial_processing", "message": "데이터 초기 처리 완료"},
            {"kind": "step", "step": "validation", "message": "검증 단계 완료"},
            {"kind": "step", "step": "transformation", "message": "변환 단계 완료"},
            {"kind": "performance", "step": "total_processing_time"},
        )

    async def test_batch(self, virtual_time: VirtualTime) -> None:
        """
        "FluxResult 배치 메트릭": a batch of items, at most three at once.
        """

        async def process_item(item: int) -> Result[int, str]:
            await asyncio.sleep(1)
            return Success(item)

        flux_result = await FluxResult.from_iterable_async(range(10), process_item).batch_collect(
            batch_size=10, max_concurrent=3
        )

        assert_flux_success_rate(flux_result, 1.0)
        assert_flux_result_stats(flux_result, 10, 0)
        assert virtual_time.elapsed_seconds == 4


class TestPlan:
    async def test_user_retrieval(self, telemetry: Telemetry) -> None:
        """
        The target pattern: steps without messages, an error translated, logged, and a time limit at the end.
        """
        result = await (
            MonoResult.from_async_result(lambda: fetch_user(""))
            .log_step("user_service_call")
            .bind_result(lambda user: Success(user["id"]))
            .log_step("user_validation")
            .map_error(lambda e: {"code": "NOT_FOUND", "message": e})
            .log_error("user_retrieval_error")
            .timeout(5.0)
            .to_result()
        )

        assert_result_error(result, {"code": "NOT_FOUND", "message": "no such user"})
        telemetry.assert_records(
            {"step": "user_service_call", "outcome": "failed"},
            {"step": "user_validation", "outcome": "skipped"},
            {"step": "user_retrieval_error", "outcome": "failed"},
        )


class TestAncestorsGuide:
    async def test_parallel(self) -> None:
        """
        Several chains in parallel; the successful ones are picked out.
        """
        mono_results = [MonoResult.from_async_result(lambda: fetch_user(f"user_{i}")) for i in range(10)]  # noqa: B023

        results = await MonoResult.parallel_map_async(mono_results, max_concurrent=3)

        assert len([r for r in results if r.is_success()]) == 10

    async def test_retry_with_a_readable_error(self) -> None:
        """
        retry_on_failure, then map_error.
        """

        async def unreliable_operation() -> Result[int, str]:
            return Failure("down")

        result = await (
            MonoResult.from_async_result(lambda: unreliable_operation())
            .retry_on_failure(max_retries=3, delay=0.001)
            .map_error(lambda e: f"작업 실패: {e!s}")
            .to_result()
        )

        assert_result_error(result, "작업 실패: down")

    async def test_batch_of_users(self) -> None:
        """
        Filter, map and collect on the way to a FluxResult.
        """
        user_ids = ["user1", "user2", "user3", "user4", "user5"]

        flux_result = await (
            FluxResult.from_iterable_async(user_ids, fetch_user)
            .filter_results(lambda user: user["active"])
            .map_results(lambda user: user | {"level": "gold"})
            .batch_collect(batch_size=2, max_concurrent=3)
        )

        assert f"{flux_result.count_success()} of {flux_result.count_total()}" == "4 of 4"
        assert f"{flux_result.success_rate():.2%}" == "100.00%"

    async def test_pipeline(self) -> None:
        """
        Map, filter, flat-map and reduce, then collect_results() awaited.
        """
        pipeline_result: FluxResult[list[Any], str] = await (
            FluxResult.from_iterable_async(["user1", "user2", "user3"], fetch_user)
            .map_results(lambda user: user | {"quality": 0.9})
            .filter_results(lambda user: user["quality"] > 0.8)
            .flat_map_results(lambda user: [user["id"], user["active"]])
            .reduce_results(lambda acc, each: [*acc, each], initial=[])
        )

        final_result = await pipeline_result.collect_results()

        assert_result_value(final_result, [["user1", True, "user2", False, "user3", True]])
