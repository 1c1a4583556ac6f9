"""``logs``, ``trace``, ``errors`` and ``ops``, asked by a program: of a real service's directory, while it runs."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from tests.cli.running import rfs
from tests.faults.processes import Process, environment

DECLINED = {f"order-{number:04d}" for number in range(2, 30, 3)}
BROKEN = {f"order-{number:04d}" for number in (4, 9, 19, 24)}  # 14 and 29 are declined first
RECORDS_PER_ORDER = 8


class TestLogs:
    def test_is_one_json_line_per_record_the_newest_last(self, directory: Path) -> None:
        """
        A pipe gets what the service's own JSON lines say of a record, and a cursor.
        """
        answer = rfs("logs", "-d", directory, "-n", 20)

        records = answer.objects
        assert answer.status == 0
        assert len(records) == 20
        assert [record["timestamp"] for record in records] == sorted(record["timestamp"] for record in records)
        assert records[-1]["correlation_id"] == "order-0029"
        assert {"level", "message", "operation", "cursor", "service", "schema_version"} <= records[-1].keys()
        assert records[-1]["service"] == "orders"

    def test_says_korean_as_it_is(self, directory: Path) -> None:
        """
        Text that people can read stays so in JSON.
        """
        assert '"message":"재고 확인"' in rfs("logs", "-d", directory).text

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            (("--level", "warning"), {"WARNING", "ERROR"}),
            (("-l", "error"), {"ERROR"}),
            (("--level", "critical"), set()),
        ],
    )
    def test_level(self, directory: Path, options: tuple[str, ...], expected: set[str]) -> None:
        """
        The lowest level to show is what the option says.
        """
        assert {record["level"] for record in rfs("logs", "-d", directory, *options).objects} == expected

    def test_operation_and_id(self, directory: Path) -> None:
        """
        Filters hold together: these records of that operation with that id.
        """
        found = rfs("logs", "-d", directory, "--operation", "재고.확인", "--id", "order-0007").objects

        assert [record["message"] for record in found] == ["Operation started", "재고 확인", "Operation completed"]

    def test_pages_are_all_records_each_once(self, directory: Path) -> None:
        """
        Going back with the cursor of the oldest one until there is nothing left gives what one long answer gives.
        """
        paged: list[str] = []
        before: tuple[str, ...] = ()
        while page := rfs("logs", "-d", directory, "--operation", "orders.place", "-n", 13, *before).objects:
            paged = [json.dumps({**record, "cursor": ""}) for record in page] + paged
            before = ("--before", page[0]["cursor"])

        whole = rfs("logs", "-d", directory, "--operation", "orders.place", "-n", 100_000).objects
        assert len(whole) == 30 * 3
        assert paged == [json.dumps({**record, "cursor": ""}) for record in whole]

    def test_since_and_until(self, directory: Path) -> None:
        """
        A range is half-open; a moment is how long ago, or a time, in UTC unless it says otherwise.
        """
        whole = rfs("logs", "-d", directory, "-n", 100_000).objects
        times = [datetime.fromisoformat(record["timestamp"]) for record in whole]
        number = max(range(1, len(times)), key=lambda at: times[at] - times[at - 1])  # where it is quiet before
        middle = times[number - 1] + (times[number] - times[number - 1]) / 2

        later = rfs("logs", "-d", directory, "-n", 100_000, "--since", middle.replace(tzinfo=None).isoformat()).objects
        korean = middle.astimezone(timezone(timedelta(hours=9))).isoformat()
        earlier = rfs("logs", "-d", directory, "-n", 100_000, "--until", korean).objects

        assert [record["timestamp"] for record in earlier + later] == [record["timestamp"] for record in whole]
        assert len(earlier) == number
        assert len(rfs("logs", "-d", directory, "-n", 100_000, "--since", "1h").objects) == len(whole)
        assert rfs("logs", "-d", directory, "--until", str(datetime.now(UTC) - timedelta(hours=1))).objects == []

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (("--since", "yesterday"), "'yesterday' is neither how long ago (30s, 15m, 1h, 7d) nor a time"),
            (("--before", "nonsense"), "no cursor: 'nonsense'"),
            (("--level", "loud"), "'loud'"),
            (("--follow", "--until", "1h"), "--follow goes on into the future"),
            (("-n", "0"), "--limit"),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, directory: Path, options: tuple[str, ...], said: str) -> None:
        """
        Status 2, nothing on standard output, and a sentence on standard error.
        """
        answer = rfs("logs", "-d", directory, *options)

        assert (answer.status, answer.text) == (2, "")
        assert said in answer.errors


class TestTrace:
    def test_is_the_tree_of_spans(self, directory: Path) -> None:
        """
        Each span with its parent, how long it took and how it ended, and the records made in it.
        """
        (found,) = rfs("trace", "order-0002", "-d", directory).objects

        spans = {span["operation"]: span for span in found["spans"]}
        assert list(spans) == ["orders.place", "재고.확인", "payment.charge"]
        assert spans["재고.확인"]["parent_span_id"] == spans["orders.place"]["span_id"]
        assert spans["payment.charge"]["parent_span_id"] == spans["orders.place"]["span_id"]
        assert [span["outcome"] for span in found["spans"]] == ["failed", "ok", "failed"]
        assert spans["payment.charge"]["error"]["message"] == "CARD_DECLINED"
        assert all(0 <= span["duration_ms"] <= found["duration_ms"] for span in found["spans"])
        assert "재고 확인" in [record["message"] for record in spans["재고.확인"]["records"]]
        assert sum(len(span["records"]) for span in found["spans"]) == RECORDS_PER_ORDER
        assert found["truncated"] is False

    def test_of_an_unknown_id(self, directory: Path) -> None:
        """
        There being no such id is an answer, said on standard error.
        """
        answer = rfs("trace", "order-9999", "-d", directory)

        assert (answer.status, answer.text) == (2, "")
        assert "no record has the correlation id 'order-9999'" in answer.errors


class TestErrors:
    def test_groups_are_counted_and_have_an_example(self, directory: Path) -> None:
        """
        Counts are those of the failures; first and last seen, the place and a message come with them.
        """
        groups = {(group["operation"], group["error_code"]): group for group in rfs("errors", "-d", directory).objects}

        assert {key: group["count"] for key, group in groups.items()} == {
            ("orders.place", "UNKNOWN"): len(DECLINED),
            ("payment.charge", "UNKNOWN"): len(DECLINED),
            ("orders.place", "ValueError"): len(BROKEN),
            ("payment.charge", "ValueError"): len(BROKEN),
        }
        group = groups["payment.charge", "ValueError"]
        assert group["first_seen"] <= group["last_seen"]
        (place,) = group["places"]
        assert place["origin"].endswith("in charge")
        assert place["samples"][0]["message"] == "결제 서버가 응답하지 않습니다"
        assert place["samples"][0]["correlation_id"] == "order-0024"

    def test_limit_operation_and_range(self, directory: Path) -> None:
        """
        The most frequent of one operation within the range, so many of them.
        """
        (group,) = rfs("errors", "-d", directory, "-o", "payment.charge", "-n", 1, "--range", "15m").objects

        assert (group["operation"], group["count"]) == ("payment.charge", len(DECLINED))

    def test_a_range_that_is_none(self, directory: Path) -> None:
        """
        The message names what would be one.
        """
        answer = rfs("errors", "-d", directory, "-r", "soon")

        assert answer.status == 2
        assert "time range 'soon': use '30s', '15m'" in answer.errors


class TestOps:
    def test_every_operation_as_it_is_documented(self, directory: Path) -> None:
        """
        One object with the fields of `OperationMetrics` each, the busiest first; what is unknown is null, never 0.
        """
        found = {each["operation_name"]: each for each in rfs("ops", "-d", directory).objects}

        assert {name: each["total_requests"] for name, each in found.items()} == {
            "orders.place": 30,
            "payment.charge": 30,
            "재고.확인": 30,
        }
        charge = found["payment.charge"]
        assert charge["failed_requests"] == len(DECLINED) + len(BROKEN)
        assert charge["success_rate"] == pytest.approx(16 / 30)
        assert charge["error_breakdown"] == {"UNKNOWN": len(DECLINED), "ValueError": len(BROKEN)}
        assert charge["p50_response_time_ms"] <= charge["p99_response_time_ms"] <= charge["max_response_time_ms"]
        assert charge["avg_memory_usage_mb"] is None
        assert sum(charge["hourly_distribution"].values()) == 30

    def test_one(self, directory: Path) -> None:
        """
        An operation that is named comes alone; one that is not known is an error.
        """
        assert [one["operation_name"] for one in rfs("ops", "-d", directory, "-o", "재고.확인").objects] == [
            "재고.확인"
        ]
        missing = rfs("ops", "-d", directory, "-o", "nothing")
        assert missing.status == 2
        assert "no operation 'nothing' is known" in missing.errors


class TestDirectory:
    def test_is_found_by_the_service(self, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        By its name, or without one if there is a single service; of several the message names them all.
        """
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        nothing = rfs("ops")
        monkeypatch.setenv("XDG_STATE_HOME", str(directory.parents[1]))
        alone, named = rfs("ops"), rfs("ops", "--service", "orders")
        other = directory.with_name("kitchen") / "live"
        other.mkdir(parents=True)
        several = rfs("ops")
        other.rmdir()
        other.parent.rmdir()

        assert nothing.status == 2
        assert "no service has recorded into" in nothing.errors
        assert alone.text == named.text
        assert alone.status == 0
        assert several.status == 2
        assert "has several services (kitchen, orders); name one with --service" in several.errors

    def test_that_is_not_there(self, tmp_path: Path) -> None:
        """
        The message names it, and how to name another; nothing is made.
        """
        answer = rfs("logs", "-d", tmp_path / "typo")

        assert answer.status == 2
        assert f"there is no directory {tmp_path / 'typo'}" in answer.errors
        assert list(tmp_path.iterdir()) == []

    def test_in_memory(self) -> None:
        """
        What a process has in its memory is not to be had from outside.
        """
        answer = rfs("logs", "-d", ":memory:")

        assert answer.status == 2
        assert "name a directory" in answer.errors

    def test_of_a_service_that_has_stopped(self, tmp_path: Path) -> None:
        """
        Everything is there after the last process has ended, whether it was stopped or killed.
        """
        for end in ("stop", "kill"):
            state = tmp_path / end
            with Process("orders", env=environment(RFS_DIR=str(state), RFS_SERVICE_NAME="orders")) as process:
                process.answer()
                process.ask(do="place", first=0, count=3)
                if end == "stop":
                    process.ask(do="stop")
                    process.wait()
                else:
                    process.kill()

            assert len(rfs("logs", "-d", state, "-o", "orders.place").objects) == 9
            assert {each["total_requests"] for each in rfs("ops", "-d", state).objects} == {3}
            assert len(rfs("trace", "order-0001", "-d", state).objects[0]["spans"]) == 3
