"""Which alerts stand is the same in every process of a directory, and unknown where nobody tells."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfs.errors import LiveFileError
from rfs.monitoring._standing import MAX_TOLD, Standing, pack, unpack
from rfs.monitoring.alerts import Alert, AlertCondition, Rule
from rfs.monitoring.metrics import ResultAlertManager, ResultMetricsCollector, get_dashboard_data
from rfs.monitoring.monitor import Monitor
from rfs.testing.virtual_time import VirtualTime

MakeMonitor = Callable[[], Monitor]

AT_NS = 1_800_000_000_123_000_000
EVALUATED_NS = 5_000_000_000
SECOND_NS = 1_000_000_000
FULL = Rule(
    "full",
    "guests",
    AlertCondition.GREATER_THAN,
    5,
    labels={"room": "주방"},
    severity="critical",
    runbook_url="https://example.org/full",
)


def alert(rule: Rule = FULL, **fields: Any) -> Alert:
    """An alert of *rule* that stands."""
    began = datetime(2027, 1, 15, 8, 0, 0, 250_000, UTC)
    known: dict[str, Any] = {
        "rule": rule,
        "event": "fire",
        "reason": "",
        "status": "firing",
        "current_value": 7.5,
        "aggregation": "last",
        "episode": 3,
        "notified": True,
        "at": datetime.fromtimestamp(AT_NS / 1e9, UTC),
        "started": began,
        "fired_at": began,
    }
    return Alert(**{**known, **fields})


def told(standing: Standing) -> bytes:
    """What a leader tells."""
    return pack(standing, now_ns=EVALUATED_NS, time_ns=AT_NS)


@pytest.fixture
def process(tmp_path: Path, clock: VirtualTime) -> Iterator[MakeMonitor]:
    """Makes a further process of the service, as far as the others can tell; its turns are `Monitor.beat`."""
    with ExitStack() as stack:

        def make() -> Monitor:
            made = Monitor(service_name="orders", directory=tmp_path, clock=clock)
            stack.callback(made.stop)
            return made

        yield make


class Pair:
    """
    A process that leads, and one that does not; both have the rule, and somebody measures what it watches.

    The clock that all processes of a machine share moves with their own, so that no lease runs out because the machine is busy.
    """

    def __init__(self, process: MakeMonitor, clock: VirtualTime, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = 100 * SECOND_NS
        monkeypatch.setattr("time.monotonic_ns", lambda: self.now_ns)
        self.clock = clock
        self.live = path / "live"
        self.leader, self.follower = process(), process()
        for each in (self.leader, self.follower):
            each.alerts.set_rule(FULL)
        self.guests = self.follower.gauge("guests").labels(room="주방")
        self.guests.set(9)

    def turn(self) -> None:
        """A second of both."""
        self.now_ns += SECOND_NS
        self.clock.advance(1)
        self.leader.beat()
        self.follower.beat()

    @property
    def file(self) -> Path:
        """What the leader tells."""
        (found,) = self.live.glob("alerts-*")
        return found


@pytest.fixture
def pair(process: MakeMonitor, clock: VirtualTime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pair:
    return Pair(process, clock, tmp_path, monkeypatch)


class TestEveryProcess:
    def test_knows_what_fires(self, pair: Pair) -> None:
        """
        An alert that fires where the rules are evaluated stands in a process that evaluates none, with all that is shown of it.
        """
        pair.turn()

        here, there = pair.leader.standing_alerts(), pair.follower.standing_alerts()

        assert here is not None
        assert there is not None
        assert [dict(each) for each in there.alerts] == [dict(each) for each in here.alerts]
        (shown,) = there.alerts
        assert (shown.rule, shown.status, shown.current_value, shown.severity) == (FULL, "firing", 9, "critical")
        assert there[1:] == here[1:] == (1, 1, 1)
        assert pair.follower.alerts.active() == []
        assert pair.follower.alerts.evaluation_age_seconds() is None

    def test_knows_a_new_value_and_the_end(self, pair: Pair) -> None:
        """
        A second later the value is the new one; and when the alert is resolved, there is none, which is known.
        """
        pair.turn()
        pair.guests.set(12)
        pair.turn()
        standing = pair.follower.standing_alerts()
        assert standing is not None
        assert [each.current_value for each in standing.alerts] == [12]

        pair.guests.set(1)
        pair.turn()

        assert pair.follower.standing_alerts() == Standing([], 0, 0, 1)

    def test_knows_how_many_rules_are_evaluated(self, pair: Pair) -> None:
        """
        How many rules are watched is said by who watches them, not by who has declared more.
        """
        pair.follower.alerts.set_rule(Rule("nobody evaluates this", "guests", AlertCondition.GREATER_THAN, 50))
        pair.turn()

        standing = pair.follower.standing_alerts()

        assert standing is not None
        assert standing.rules == 1

    def test_says_it_everywhere(self, pair: Pair) -> None:
        """
        ``get_dashboard_data`` and the ancestor's manager have the alerts of the service, too.
        """
        pair.turn()

        data = get_dashboard_data(pair.follower)
        listed = ResultAlertManager(ResultMetricsCollector(pair.follower)).get_active_alerts()

        assert [each["rule_name"] for each in data["active_alerts"]] == ["full"]
        assert data["system_status"]["alerts_known"] is True
        assert listed == data["active_alerts"]

    def test_knows_without_declaring_or_running(self, pair: Pair, process: MakeMonitor) -> None:
        """
        A process that has no rules, and was not started, knows what stands.
        """
        pair.turn()

        standing = process().standing_alerts()

        assert standing is not None
        assert [each.rule_name for each in standing.alerts] == ["full"]

    def test_one_in_memory_knows_its_own(self, monitor: Monitor) -> None:
        """
        Without a directory a process knows its own alerts, once it has evaluated its rules.
        """
        assert monitor.standing_alerts() == Standing([], 0, 0, 0)
        monitor.alerts.set_rule(FULL)
        monitor.gauge("guests").set(9, room="주방")
        assert monitor.standing_alerts() is None

        monitor.beat()

        standing = monitor.standing_alerts()
        assert standing is not None
        assert [each.rule_name for each in standing.alerts] == ["full"]


class TestUnknown:
    def test_before_anybody_has_told(self, pair: Pair) -> None:
        """
        Where nobody leads yet, or who leads has not evaluated the rules, no process says that there is no alert.
        """
        assert pair.leader.standing_alerts() is None
        assert pair.follower.standing_alerts() is None

        data = get_dashboard_data(pair.follower)

        assert (data["active_alerts"], data["system_status"]["alerts_known"]) == ([], False)

    def test_the_leader_has_stopped(self, pair: Pair) -> None:
        """
        What a leader has told does not outlive its leading: it stopped in order, and nobody has followed.
        """
        pair.turn()
        pair.leader.stop()

        assert pair.follower.standing_alerts() is None

    def test_the_lease_has_run_out(self, pair: Pair) -> None:
        """
        What a leader has told is true until its lease has run out, and no longer.
        """
        pair.turn()

        pair.now_ns += 3 * SECOND_NS // 2 - 1
        assert pair.follower.standing_alerts() is not None
        pair.now_ns += 1
        assert pair.follower.standing_alerts() is None

    def test_the_leader_is_dead(self, pair: Pair) -> None:
        """
        A leader that is dead is not believed, although its lease has not run out.
        """
        pair.turn()
        alive = pair.leader.capture.process + ".alive"
        (pair.live / alive).unlink()  # as good as unlocked

        assert pair.follower.standing_alerts() is None

    def test_the_evaluation_stands_still(self) -> None:
        """
        Whose heart beats, but who evaluates no rules any more, is not believed for longer than two evaluations may be apart.
        """
        content = told(Standing.of([alert()], 1))

        assert unpack(content, "alerts-1", EVALUATED_NS + 2 * SECOND_NS) is not None
        assert unpack(content, "alerts-1", EVALUATED_NS + 5 * SECOND_NS // 2) is None
        assert unpack(content, "alerts-1", EVALUATED_NS - 1) is None  # of another run of the machine

    def test_of_who_led_before(self, pair: Pair) -> None:
        """
        Who has lost the lead does not go on with what it knew, and what it tells late nobody reads.
        """
        pair.turn()
        former, directory = pair.leader, pair.leader.capture.directory
        assert directory is not None
        old, epoch = pair.file.read_bytes(), former.leadership.epoch
        pair.follower.take_precedence()
        for _ in range(3):  # it asks, it is given the lead, it evaluates
            pair.turn()
        assert pair.follower.leadership.is_self
        pair.guests.set(1)
        pair.turn()

        directory.write(f"alerts-{epoch}", [old])

        assert [each.rule_name for each in former.alerts.active()] == ["full"]
        assert former.standing_alerts() == pair.follower.standing_alerts() == Standing([], 0, 0, 1)


def damaged(content: bytes) -> dict[str, bytes]:
    """What may be in the place of *content*, by what is said of it."""
    return {
        "has 0 bytes; even its header takes 32": b"",
        "has 31 bytes; even its header takes 32": content[:31],
        "begins with b'RFSTOTAL'": b"RFSTOTAL" + content[8:],
        "is damaged: its checksum does not fit": content[:-1],
        "has version 2; this library reads version 1": content[:8] + b"\2" + content[9:],
    }


class TestDamage:
    @pytest.mark.parametrize("fault", damaged(bytes(64)))
    def test_is_unknown(self, pair: Pair, fault: str) -> None:
        """
        Of a file that is damaged, foreign or of a newer version nothing is believed, that is said, and nothing is raised.
        """
        pair.turn()
        directory = pair.follower.capture.directory
        assert directory is not None
        directory.write(pair.file.name, [damaged(pair.file.read_bytes())[fault]])

        assert pair.follower.standing_alerts() is None

        (said,) = pair.follower.diagnostics
        assert said.startswith("RFS-S112" if "version" in fault else "RFS-S113")
        assert f"live file {pair.file.name} {fault}" in said

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"\xc1",
            msgspec.msgpack.encode([[], 0]),
            msgspec.msgpack.encode([[[{"name": "x"}, "firing", 1.0, None, 1, True, None, None]], 1, 0, 1]),
            msgspec.msgpack.encode(
                [[[{**FULL.to_dict(), "newer": 1}, "firing", 1.0, None, 1, True, None, None]], 1, 0, 1]
            ),
            msgspec.msgpack.encode(
                [[[{**FULL.to_dict(), "threshold": "x"}, "", 1.0, None, 1, True, None, None]], 1, 0, 1]
            ),
        ],
    )
    def test_nothing_that_was_told(self, body: bytes) -> None:
        """
        A checksum that fits does not make an alert of what is none.
        """
        content = told(Standing.of([], 0))
        whole = content[:12] + crc32(body).to_bytes(4, "little") + content[16:32] + body

        with pytest.raises(LiveFileError, match=r"^live file alerts-1: cannot be read: "):
            unpack(whole, "alerts-1", EVALUATED_NS)

    def test_a_folder_in_its_place(self, pair: Pair) -> None:
        """
        Where no file can be read nothing is known; and where none can be written, who evaluates goes on and knows by itself.
        """
        pair.turn()
        path = pair.file
        path.unlink()
        path.mkdir()
        pair.turn()

        assert pair.follower.standing_alerts() is None
        assert pair.leader.standing_alerts() is not None
        assert pair.leader.diagnostics == []  # no fault of RFS

    def test_is_written_anew(self, pair: Pair) -> None:
        """
        What somebody has removed, replaced or changed is there again a second later, although nothing else is to be told.
        """
        pair.turn()
        path = pair.file
        directory = pair.follower.capture.directory
        assert directory is not None
        for spoil in (
            path.unlink,
            lambda: directory.write(path.name, [b"something else"]),
            lambda: directory.write(path.name, [path.read_bytes() + b"\0"]),
            lambda: path.write_bytes(path.read_bytes()[:-3] + b"new"),
            lambda: path.write_bytes(b"RFSOTHER" + path.read_bytes()[8:]),
            lambda: path.write_bytes(b""),
        ):
            spoil()
            assert pair.follower.standing_alerts() is None
            pair.turn()
            assert pair.follower.standing_alerts() is not None

    @given(st.data())
    def test_no_byte_makes_another_alert(self, data: st.DataObject) -> None:
        """
        Whichever byte is another one: what is told is as before but for the time, or refused, or too old.
        """
        changed = bytearray(told(Standing.of([alert()], 1)))
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at] ^= data.draw(st.integers(1, 255))

        try:
            found = unpack(bytes(changed), "alerts-1", EVALUATED_NS + SECOND_NS)
        except LiveFileError:
            return

        assert 16 <= at < 32
        if found is not None:
            assert [(each.rule, each.current_value, each.status) for each in found.alerts] == [(FULL, 7.5, "firing")]

    def test_a_label_that_no_file_can_hold(self, pair: Pair) -> None:
        """
        The leader's turn goes on, the fault is counted, and nobody else is told of no alert.
        """
        pair.leader.alerts.set_rule(
            Rule("odd", "odd", AlertCondition.GREATER_THAN, 1, labels={"x": "\ud800"}, no_data="alert")
        )
        pair.turn()

        assert pair.leader.alerts.evaluation_age_seconds() == 0
        assert pair.follower.standing_alerts() is None
        assert any(each.startswith("RFS-E100 alerts.tell: UnicodeEncodeError") for each in pair.leader.diagnostics)


class TestFile:
    def test_is_the_users_alone(self, pair: Pair) -> None:
        """
        Nobody else may read which alerts stand.
        """
        pair.turn()

        assert stat.S_IMODE(pair.file.stat().st_mode) == 0o600

    def test_is_replaced_for_news_alone(self, pair: Pair) -> None:
        """
        A second in which nothing has changed writes two times in place; a new value makes a new file.
        """
        pair.turn()
        before = pair.file.stat().st_ino, pair.file.read_bytes()
        pair.turn()
        after = pair.file.stat().st_ino, pair.file.read_bytes()

        assert after[0] == before[0]
        assert after[1] != before[1]
        assert after[1][32:] == before[1][32:]
        pair.guests.set(10)
        pair.turn()
        assert pair.file.stat().st_ino != before[0]

    def test_a_beginning_that_is_reckoned_anew_is_no_news(self) -> None:
        """
        When an alert began is reckoned from two clocks each second: some microseconds more or less are the same.
        """
        first, second = (
            alert(started=datetime(2027, 1, 15, 8, 0, 0, microsecond, UTC)) for microsecond in (250_001, 250_008)
        )

        assert told(Standing.of([first], 1)) == told(Standing.of([second], 1))

    def test_of_an_old_epoch_goes(self, pair: Pair) -> None:
        """
        Leaders leave one file, that of the last of them.
        """
        pair.turn()
        first = pair.file.name
        pair.leader.stop()
        pair.clock.advance(1)
        pair.follower.beat()

        assert pair.file.name != first
        assert re.fullmatch(r"alerts-\d+", pair.file.name)

    def test_holds_so_many_and_counts_all(self) -> None:
        """
        Of very many alerts the critical ones come first, and how many there are is always right.
        """
        many = [
            alert(Rule(f"rule {number}", "guests", AlertCondition.GREATER_THAN, 1, severity=severity))
            for number, severity in enumerate(["warning"] * 600 + ["critical"] * 3)
        ]

        found = unpack(told(Standing.of(many, 700)), "alerts-1", EVALUATED_NS)

        assert found is not None
        assert found[1:] == (603, 3, 700)
        assert len(found.alerts) == MAX_TOLD
        assert [each.severity for each in found.alerts[:4]] == ["critical"] * 3 + ["warning"]

    @given(
        value=st.none() | st.floats(allow_nan=False, allow_infinity=False),
        status=st.sampled_from(["firing", "recovering", "error"]),
        notified=st.booleans(),
        episode=st.integers(1, 2**40),
        labels=st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), st.text(max_size=20), max_size=4),
    )
    def test_tells_what_it_was_told(
        self,
        value: float | None,
        status: str,
        notified: bool,
        episode: int,
        labels: dict[str, str],
    ) -> None:
        """
        Reading undoes writing, for every alert.
        """
        rule = Rule("guests", "guests", AlertCondition.GREATER_THAN, 5, labels=labels)
        one = alert(rule, current_value=value, status=status, notified=notified, episode=episode)

        found = unpack(told(Standing.of([one], 1)), "alerts-1", EVALUATED_NS)

        assert found is not None
        assert [dict(each) for each in found.alerts] == [dict(one)]
        assert [each.fired_at for each in found.alerts] == [one.fired_at]
