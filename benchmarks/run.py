"""
Measures RFS beside its peers, prints one table and writes RESULTS.md: ``python -m benchmarks.run [--quick | --full]``.

Every environment has a process of its own, loaded once. A round runs each loop in each environment that has it, one after the
other, so that whatever else the machine does meets all of them alike; of the rounds the median counts, and a ratio is the
median of the ratios within the rounds. Times are process CPU time: what a background thread works for a loop counts, too.

``--quick`` checks that all of it works: few short rounds, only the environments that are there, nothing written. ``--full`` also
keeps ten times as many records, and lets two days pass instead of an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from math import ceil, sqrt
from pathlib import Path
from statistics import median, stdev
from tempfile import TemporaryDirectory
from typing import Any, Self
from urllib.request import urlopen

from benchmarks.environments import PEERS, ROOT, is_ready, pinned, prepare, python_of, say
from benchmarks.history import GOAL_SECONDS as HISTORY_GOAL_SECONDS
from benchmarks.importing import SUBJECTS
from benchmarks.passing import PASSAGES
from benchmarks.profiling import SLOW
from benchmarks.retaining import GOAL_SECONDS as RETAINING_GOAL_SECONDS
from benchmarks.storing import LOOKUP, P95_BY_MINUTE, TOP_ERRORS
from benchmarks.storing import SUBJECTS as KEEPERS
from benchmarks.visibility import GOAL_SECONDS, RATE
from benchmarks.zoo import LIBRARIES, Outcome, visit
from benchmarks.zoo import table as zoo_table
from rfs.testing.performance import REFERENCE_SECONDS, reference_workload

OURS = "rfs"
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
CONNECTIONS = 32


@dataclass(frozen=True)
class Effort:
    """How long everything takes."""

    rounds: int
    loop_seconds: float
    import_rounds: int
    http_rounds: int
    http_seconds: float
    # Each of new processes, for two of one program differ by some percent as long as they live.
    leading_groups: int
    helper_seconds: float  # that a worker is loaded at most until its helper leads
    visibility_rounds: int
    visibility_seconds: float
    storing_rounds: int
    stored_records: tuple[int, ...]
    asking_rounds: int
    page_rounds: int
    retained_records: int
    retaining_rounds: int
    history_hours: float
    passing_rounds: int


USUAL = Effort(
    rounds=15,
    loop_seconds=0.06,
    import_rounds=7,
    http_rounds=7,
    http_seconds=2.0,
    leading_groups=12,
    helper_seconds=40.0,
    visibility_rounds=3,
    visibility_seconds=20.0,
    storing_rounds=10,
    stored_records=(1_000_000,),
    asking_rounds=30,
    page_rounds=100,
    retained_records=1_000_000,
    retaining_rounds=8,
    history_hours=1.0,
    passing_rounds=5,
)
WHOLE = replace(USUAL, stored_records=(1_000_000, 10_000_000), retained_records=10_000_000, history_hours=48.0)
QUICK = Effort(
    rounds=2,
    loop_seconds=0.01,
    import_rounds=1,
    http_rounds=1,
    http_seconds=0.3,
    leading_groups=1,
    helper_seconds=0.0,
    visibility_rounds=1,
    visibility_seconds=1.0,
    storing_rounds=2,
    stored_records=(20_000,),
    asking_rounds=2,
    page_rounds=2,
    retained_records=20_000,
    retaining_rounds=1,
    history_hours=0.02,
    passing_rounds=1,
)


@dataclass(frozen=True)
class Goal:
    """A line of the design's budgets."""

    loop: str
    what: str
    times_faster: float | None = None  # than the best peer
    at_most: float | None = None  # µs


GOALS = (
    Goal("counter", "counter, bound child", times_faster=3),
    Goal("counter_threads", "counter, bound child, 4 threads", times_faster=3),
    Goal("counter_labels", "counter, labels per call", times_faster=3),
    Goal("histogram", "histogram observe, bound", times_faster=2),
    Goal("record", "one record: masked, encoded, kept; correlation id and 5 fields", at_most=4),
    Goal("below_level", "a call below the level, with 2 fields", at_most=0.1),
    Goal("operation", "observed async operation: start and end record, RED metrics, span", at_most=8, times_faster=4),
    Goal("mono_success", "MonoResult, 5 async binds, built and run", at_most=2.8),
    Goal("mono_failure", "the same, failing at the first", at_most=1.6),
    Goal("virtual_sleep", "a sleep of 10 s in virtual time", at_most=50),
    Goal("exposition", "exposition, 1,000 counters + 100 histograms, any worker of two (peers: one)", at_most=5000),
)
KEEPING_GOAL_PER_SECOND, KEEPING_GOAL_BYTES = 700_000, 40
# Seconds, by how many records there are.
LOOKUP_GOAL_SECONDS = {1_000_000: 0.004, 10_000_000: 0.020}
ASKING_GOAL_SECONDS = 0.005
PAGE_GOAL_SECONDS = 0.050
PEERS_PAGES = 3  # so often the peers are asked for what a page shows; some take seconds
HTTP_GOAL = 0.85
LEADING_GOAL = 0.03
LEADING = {  # How a worker leads, as it says itself, by the name here.
    "leading": "by its helper",
    "alone": "itself",
    "following": "",
    "served": "",
}
LEADING_TRIES = 5
IMPORT_GOAL_SECONDS, IMPORT_GOAL_MIB = 0.060, 30.0


@dataclass
class Line:
    """A line of the table, and what there is to say about a goal that was missed."""

    what: str
    measured: str
    peers: str
    goal: str
    verdict: str
    profile: list[str] = field(default_factory=list)  # arguments of the command that tells where the time goes
    loop: str = ""

    @property
    def missed(self) -> bool:
        """Whether a profile is due."""
        return self.verdict.startswith("missed")


def interpreter(environment: str) -> str:
    """Return the Python of an environment; RFS' own is the one that runs this."""
    return sys.executable if environment == OURS else str(python_of(environment))


def module(environment: str, name: str, *arguments: str) -> list[str]:
    """Return the command that runs a module of this package in an environment."""
    return [interpreter(environment), "-m", f"benchmarks.{name}", *arguments]


def process_environment() -> dict[str, str]:
    """Return this process' variables without those that change what is measured, such as whether modules stay compiled."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "PYTHON", "RFS_"))}


class Asked:
    """A process that answers each line with a line of JSON."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=process_environment()
        )
        self.first = self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=60)

    def ask(self, **question: object) -> Any:
        """Return the answer to a question."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._command} ended with status {self._process.wait()}")
        return json.loads(line)


class Worker(Asked):
    """A process that runs the loops of one environment."""

    def __init__(self, environment: str) -> None:
        super().__init__(module(environment, "worker", environment))
        self.loops: list[str] = self.first

    def seconds(self, loop: str, count: int) -> float:
        """Return the CPU time that *count* operations took."""
        return float(self.ask(loop=loop, count=count)["seconds"])

    def fitting_count(self, loop: str, seconds: float) -> int:
        """Return how many operations take about *seconds*; warms the loop up on the way."""
        count = 2 if loop in SLOW else 500
        while (took := self.seconds(loop, count)) < seconds / 4:
            count *= 4
        fitting = int(count * seconds / took)
        return max(2, fitting) if loop in SLOW else max(100, fitting // 100 * 100)


Rounds = dict[str, list[float]]  # environment or variant → what it measured, round by round


def rotated(items: list[str], by: int) -> list[str]:
    """Return *items* beginning elsewhere, so that over the rounds nobody always comes first."""
    by %= len(items)
    return items[by:] + items[:by]


def measure_loops(environments: list[str], effort: Effort) -> dict[str, Rounds]:
    """Return seconds per operation, by loop."""
    measured: dict[str, Rounds] = {}
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(name)) for name in environments}
        loops = workers[OURS].loops
        counts = {
            (name, loop): worker.fitting_count(loop, effort.loop_seconds)
            for name, worker in workers.items()
            for loop in worker.loops
        }
        for turn in range(effort.rounds):
            say(f"loops, round {turn + 1} of {effort.rounds}")
            for loop in loops:
                for name in rotated([name for name in workers if (name, loop) in counts], turn):
                    count = counts[name, loop]
                    seconds = workers[name].seconds(loop, count) / count
                    measured.setdefault(loop, {}).setdefault(name, []).append(seconds)
    return measured


def measure_imports(environments: list[str], effort: Effort) -> tuple[Rounds, Rounds, Rounds]:
    """Return seconds for the import, MiB and seconds when set up, by subject; each time in a fresh process."""
    seconds: Rounds = {}
    mib: Rounds = {}
    started: Rounds = {}
    names = [name for name, (environment, _, _) in SUBJECTS.items() if environment in environments]
    for turn in range(-1, effort.import_rounds):  # the first one only fills the caches
        say(f"imports, round {turn + 1} of {effort.import_rounds}")
        for name in rotated(names, turn + 1):
            command = module(SUBJECTS[name][0], "importing", name)
            done = subprocess.run(
                command, stdout=subprocess.PIPE, check=True, text=True, cwd=ROOT, env=process_environment(), timeout=60
            )
            told = json.loads(done.stdout.splitlines()[-1])
            if turn >= 0:
                seconds.setdefault(name, []).append(told["seconds"])
                mib.setdefault(name, []).append(told["mib"])
                started.setdefault(name, []).append(told["started_seconds"])
    return seconds, mib, started


class Server:
    """A process that serves one variant of the one-route app."""

    def __init__(
        self, environment: str, variant: str, *options: str, directory: str | None = None, **variables: str
    ) -> None:
        self._process = subprocess.Popen(
            module(environment, "http_server", variant, *options),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env=process_environment() | ({} if directory is None else {"RFS_DIR": directory}) | variables,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.helper_pid = 0  # as `leads` has seen it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> str:
        """Stop serving, and return what the process still had to say."""
        if self._process.poll() is not None:
            return ""
        said, _ = self._process.communicate(timeout=20)
        return said

    def cpu_seconds(self) -> float:
        """Return the CPU time that the process and its helper have used, in the kernel, too."""
        return sum(map(cpu_seconds_of, filter(None, (self._process.pid, self.helper_pid))))

    def leads(self) -> str:
        """How this worker leads those of its directory: "itself", "by its helper", or "" for not at all."""
        with urlopen(f"http://127.0.0.1:{self.port}/leads", timeout=10) as answer:
            how, self.helper_pid = json.load(answer)
        return str(how)

    def load(self, seconds: float) -> tuple[float, float]:
        """Load the server for *seconds*; return requests per second, and seconds of its CPU time per request."""
        used, began = self.cpu_seconds(), time.perf_counter()
        rate = self.requests_per_second(seconds)
        took = time.perf_counter() - began
        return rate, (self.cpu_seconds() - used) / (rate * took)

    def requests_per_second(self, seconds: float) -> float:
        """Load the server from another process for *seconds*."""
        if shutil.which("wrk"):
            url = f"http://127.0.0.1:{self.port}/orders/7"
            command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s", url]
            said = subprocess.run(command, capture_output=True, check=True, text=True, timeout=seconds + 20).stdout
            assert "Non-2xx" not in said, said
            return float(said.split("Requests/sec:")[1].split()[0])
        command = module(OURS, "load", str(self.port), str(CONNECTIONS), str(seconds))
        return float(
            subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, timeout=seconds + 20).stdout
        )


def cpu_seconds_of(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# Variant by the name it has in the table: environment, and what the server is told.
SERVERS = {
    "bare": (OURS, "bare"),
    "RFS": (OURS, "rfs"),
    "RFS, printing": (OURS, "rfs_printed"),
    "peers' bare": ("stack", "bare"),
    "access log alone": ("stack", "access_log"),
    "metrics alone": ("stack", "metrics"),
    "all three": ("stack", "all_three"),
}
BARE = {name: "bare" if environment == OURS else "peers' bare" for name, (environment, _) in SERVERS.items()}


def measure_http(environments: list[str], effort: Effort) -> tuple[Rounds, Rounds]:
    """Return requests per second and seconds of the server's CPU time per request, by variant."""
    rates: Rounds = {}
    costs: Rounds = {}
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(Server(environment, variant))
            for name, (environment, variant) in SERVERS.items()
            if environment in environments
        }
        for server in servers.values():
            server.requests_per_second(0.5)
        for turn in range(effort.http_rounds):
            say(f"HTTP, round {turn + 1} of {effort.http_rounds}")
            for name in rotated(list(servers), turn):
                rate, cost = servers[name].load(effort.http_seconds)
                rates.setdefault(name, []).append(rate)
                costs.setdefault(name, []).append(cost)
    return rates, costs


@contextmanager
def serve(directory: str) -> Generator[None]:
    """Let `rfs serve` lead *directory*, with the rules of `benchmarks.http_server`."""
    command = [sys.executable, "-m", "rfs", "serve", "-d", directory, "-s", "rfs", "--port", "0"]
    command += ["--import", "benchmarks.http_server:declare_rules"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=process_environment()) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline(), "rfs serve does not"
            yield
        finally:
            process.terminate()


def measure_leading(effort: Effort) -> tuple[Rounds, Rounds]:
    """
    Return requests per second and seconds of CPU time per request of a worker that leads by its helper, of one that follows it, of one
    that is not helped, and of one that follows `rfs serve`.
    """
    rates: Rounds = {}
    costs: Rounds = {}
    for group in range(effort.leading_groups):
        with ExitStack() as stack:
            folder, alone, other = (stack.enter_context(TemporaryDirectory(prefix="rfs-bench-")) for _ in range(3))
            pair = [stack.enter_context(Server(OURS, "rfs_worker", directory=folder)) for _ in range(2)]
            not_helped = stack.enter_context(Server(OURS, "rfs_worker", directory=alone, RFS_HELPER="never"))
            stack.enter_context(serve(other))
            served = stack.enter_context(Server(OURS, "rfs_worker", directory=other))
            for server in (*pair, not_helped, served):
                server.requests_per_second(0.5)
            deadline = time.monotonic() + 20
            while [sum(map(bool, map(Server.leads, pair))), not_helped.leads(), served.leads()] != [1, "itself", ""]:
                assert time.monotonic() < deadline, "of two workers none leads, or `rfs serve` does not"
                time.sleep(0.1)  # asks again, until the deadline above
            leading, following = sorted(pair, key=Server.leads, reverse=True)
            deadline = time.monotonic() + effort.helper_seconds
            while leading.leads() != "by its helper" and time.monotonic() < deadline:
                leading.load(effort.http_seconds)
            servers = {"leading": leading, "following": following, "alone": not_helped, "served": served}
            for turn in range(effort.http_rounds):
                say(f"leading, group {group + 1} of {effort.leading_groups}, round {turn + 1} of {effort.http_rounds}")
                for name in rotated(list(servers), turn):
                    rate, cost = load_as(name, servers[name], effort)
                    rates.setdefault(name, []).append(rate)
                    costs.setdefault(name, []).append(cost)
    return rates, costs


def load_as(name: str, server: Server, effort: Effort) -> tuple[float, float]:
    """Load the *server* of that name, until it has led or not for the whole time as it should: a disk that hangs can move the lead."""
    is_new = name == "leading" and not effort.helper_seconds  # there was no time to wait for its helper
    wanted = LEADING["alone" if is_new else name]
    for _ in range(LEADING_TRIES):
        deadline = time.monotonic() + 20
        while server.leads() != wanted:
            assert time.monotonic() < deadline, f"{name}: leads {server.leads()!r}, not {wanted!r}"
            time.sleep(0.1)  # asks again, until the deadline above
        found = server.load(effort.http_seconds)
        if server.leads() == wanted:
            return found
        say(f"{name}: the lead has moved; once more")
    raise RuntimeError(f"no worker stayed {name} for {effort.http_seconds:g} s")


def measure_visibility(effort: Effort) -> list[dict[str, float]]:
    """Return what `benchmarks.visibility` tells, by round: seconds from a record's call until another process has read it."""
    rounds: list[dict[str, float]] = []
    for turn in range(effort.visibility_rounds):
        say(f"recorded until visible, round {turn + 1} of {effort.visibility_rounds}")
        command = module(OURS, "visibility", str(effort.visibility_seconds))
        done = subprocess.run(
            command, stdout=subprocess.PIPE, check=True, text=True, cwd=ROOT, env=process_environment(), timeout=60
        )
        rounds.append(json.loads(done.stdout.splitlines()[-1]))
    return rounds


@dataclass
class Stored:
    """What `benchmarks.storing` told: by keeper, and for the questions by question, round by round."""

    records: int
    kept: dict[str, list[dict[str, float]]]  # of each part
    finished: dict[str, dict[str, float]]
    asked: dict[str, dict[str, list[dict[str, Any]]]]
    pages: dict[str, list[dict[str, float]]]

    def per_second(self, clock: str) -> Rounds:
        """Records per second, in each round; each bears its share of what came at the end."""
        return {
            name: [
                self.records / len(parts) / (part[clock] + self.finished[name][clock] / len(parts)) for part in parts
            ]
            for name, parts in self.kept.items()
        }

    def seconds(self, question: str, clock: str) -> Rounds:
        """How long the answers took."""
        return {name: [one[clock] for one in rounds] for name, rounds in self.asked[question].items()}


def measure_storing(environments: list[str], effort: Effort, records: int) -> Stored:
    """Let all keepers keep the same records, part by part, and answer the same questions."""
    names = [name for name, (environment, _) in KEEPERS.items() if environment in environments]
    stored = Stored(records, {name: [] for name in names}, {}, {}, {name: [] for name in names})
    with ExitStack() as stack:
        keepers = {
            name: stack.enter_context(Asked(module(KEEPERS[name][0], "storing", name, str(records)))) for name in names
        }
        for turn in range(effort.storing_rounds):
            say(f"{records:,} records kept, part {turn + 1} of {effort.storing_rounds}")
            for name in rotated(names, turn):
                stored.kept[name].append(keepers[name].ask(do="keep", records=records // effort.storing_rounds))
        for name, keeper in keepers.items():
            stored.finished[name] = keeper.ask(do="finish")
        for turn in range(effort.asking_rounds):
            say(f"{records:,} records asked for, round {turn + 1} of {effort.asking_rounds}")
            for question in (LOOKUP, TOP_ERRORS, P95_BY_MINUTE):
                for name in rotated(names, turn):
                    told = keepers[name].ask(do="ask", question=question)
                    stored.asked.setdefault(question, {}).setdefault(name, []).append(told)
        say(f"{records:,} records, pages of a day")
        for turn in range(effort.page_rounds):
            for name in rotated(names, turn) if turn < PEERS_PAGES else [OURS]:
                stored.pages[name].append(keepers[name].ask(do="page"))
    check_answers(stored)
    return stored


def check_answers(stored: Stored) -> None:
    """All keepers have said the same, RFS' quantiles within 1 %."""
    for question in (TOP_ERRORS, P95_BY_MINUTE):
        answers = {name: sorted(rounds[0]["rows"]) for name, rounds in stored.asked[question].items()}
        for name, rows in answers.items():
            assert len(rows) == len(answers[OURS]), (question, name, len(rows), len(answers[OURS]))
            for one, other in zip(rows, answers[OURS], strict=True):
                assert one[:2] == other[:2], (question, name, one, other)
                assert abs(one[2] - other[2]) <= 0.01 * one[2], (question, name, one, other)


def measure_once(name: str, *arguments: str) -> Any:
    """Return what a module of this package tells in its last line."""
    done = subprocess.run(
        module(OURS, name, *arguments),
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        cwd=ROOT,
        env=process_environment(),
    )
    return json.loads(done.stdout.splitlines()[-1])


def visit_zoo(environments: list[str]) -> dict[str, Outcome]:
    """Return what each library that is there does with hostile values."""
    outcomes: dict[str, Outcome] = {}
    for name, library in LIBRARIES.items():
        if library.environment in environments:
            say(f"hostile values, {name}")
            outcome = visit(name, interpreter(library.environment))
            if isinstance(outcome, Outcome):
                outcomes[name] = outcome
            else:
                say(f"left out: {outcome}")
    return outcomes


# Reading what was measured


def ratio(upper: list[float], lower: list[float]) -> float:
    """Return the median of the ratios within the rounds."""
    return median(above / below for above, below in zip(upper, lower, strict=True))


def shown_us(seconds: float) -> str:
    """Return a time in µs, with as many digits as mean something."""
    us = seconds * 1e6
    return f"{us:.3f}" if us < 1 else f"{us:.2f}" if us < 10 else f"{us:.0f}"


def best_of(rounds: Rounds) -> str | None:
    """Return the peer that needed least."""
    peers = {name: median(values) for name, values in rounds.items() if name != OURS}
    return min(peers, key=peers.__getitem__) if peers else None


def verdict_of(checks: list[tuple[bool, str]]) -> str:
    """Return "met", or by how much the goals were missed."""
    missed = [text for met, text in checks if not met]
    return f"missed by {', '.join(missed)}" if missed else "met"


def loop_line(goal: Goal, rounds: Rounds) -> Line:
    """Return the table's line for a loop."""
    ours = median(rounds[OURS])
    peers = sorted((median(values), name) for name, values in rounds.items() if name != OURS)
    best = best_of(rounds)
    wanted: list[str] = []
    checks: list[tuple[bool, str]] = []
    factor = ratio(rounds[best], rounds[OURS]) if best else None
    if goal.at_most is not None:
        wanted.append(f"≤ {goal.at_most:g} µs")
        checks.append((ours * 1e6 <= goal.at_most, f"{ours * 1e8 / goal.at_most - 100:.0f} %"))
    if goal.times_faster is not None:
        wanted.append(f"≥ {goal.times_faster:g}× faster")
        if factor is not None:
            checks.append((factor >= goal.times_faster, f"{100 - 100 * factor / goal.times_faster:.0f} %"))
    text = f"{shown_us(ours)} µs" + (f", {factor:.2f}×" if factor is not None else "")
    return Line(
        goal.what,
        text,
        ", ".join(f"{name} {shown_us(seconds)}" for seconds, name in peers) or "–",
        ", ".join(wanted),
        verdict_of(checks) if checks else "no peer",
        ["profiling", goal.loop],
        goal.loop,
    )


def http_lines(rates: Rounds, costs: Rounds) -> list[Line]:
    """Return the table's lines for HTTP."""
    shares = {name: ratio(rates[name], rates[BARE[name]]) for name in rates}
    peers = [f"{name} {share:.2f}" for name, share in shares.items() if SERVERS[name][0] != OURS and BARE[name] != name]
    lines = []
    for name, what in (("RFS", "everything recorded"), ("RFS, printing", "and every record printed as JSON, too")):
        cost = median(costs[name]) - median(costs[BARE[name]])
        text = (
            f"{shares[name]:.2f} ({median(rates[name]):,.0f} of {median(rates['bare']):,.0f}/s; +{cost * 1e6:.0f} µs)"
        )
        share = shares[name]
        verdict = verdict_of([(share >= HTTP_GOAL, f"{HTTP_GOAL - share:.2f}")]) if name == "RFS" else "–"
        goal = f"≥ {HTTP_GOAL}" if name == "RFS" else "–"
        lines.append(
            Line(
                f"HTTP, {what}: share of the bare app's requests/s",
                text,
                ", ".join(peers) or "–",
                goal,
                verdict,
                loop="http",
            )
        )
    return lines


def leading_lines(rates: Rounds, costs: Rounds) -> list[Line]:
    """
    Return the table's lines for what a worker pays for the leader's work: by default, without a helper, and with `rfs serve`.

    Behind each is the standard error of the mean over all rounds. Those of a group have the same processes, so the true one is larger.
    """
    lines = []
    for name, what, goal in (
        (
            "leading",
            "what leading costs a web worker of its requests/s, 1,000 counters + 100 histograms, all moving, and 20 rules",
            LEADING_GOAL,
        ),
        ("alone", "the same without a helper, as in the first ten seconds of such a load", None),
        ("served", "the same, where `rfs serve` leads", LEADING_GOAL),
    ):
        lost = 1 - ratio(rates[name], rates["following"])
        each = [one / other for one, other in zip(rates[name], rates["following"], strict=True)]
        error = f" ± {stdev(each) / sqrt(len(each)):.1%}" if len(each) > 1 else ""
        more = median(costs[name]) - median(costs["following"])
        lines.append(
            Line(
                what,
                f"{lost:.1%}{error} ({median(rates[name]):,.0f} and {median(rates['following']):,.0f}/s; {more * 1e6:+.1f} µs)",
                "–",
                "–" if goal is None else f"≤ {goal:.0%}",
                "–" if goal is None else verdict_of([(lost <= goal, f"{100 * (lost - goal):.1f} %")]),
                loop="leading",
            )
        )
    return lines


def import_line(seconds: Rounds, mib: Rounds) -> Line:
    """Return the table's line for the import."""
    ours, held = median(seconds[OURS]), median(mib[OURS])
    return Line(
        "`import rfs.monitoring` / memory when started",
        f"{ours * 1e3:.0f} ms / {held:.1f} MiB",
        ", ".join(
            f"{name} {median(values) * 1e3:.0f} / {median(mib[name]):.0f}"
            for name, values in seconds.items()
            if name != OURS
        )
        or "–",
        f"≤ {IMPORT_GOAL_SECONDS * 1e3:g} ms / ≤ {IMPORT_GOAL_MIB:g} MiB",
        verdict_of(
            [
                (ours <= IMPORT_GOAL_SECONDS, f"{(ours - IMPORT_GOAL_SECONDS) * 1e3:.0f} ms"),
                (held <= IMPORT_GOAL_MIB, f"{held - IMPORT_GOAL_MIB:.1f} MiB"),
            ]
        ),
        loop="import",
    )


def visibility_line(rounds: list[dict[str, float]]) -> Line:
    """Return the table's line for what another process sees."""
    worst = sorted(told["p99"] for told in rounds)
    p99, p50 = median(worst), median(told["p50"] for told in rounds)
    return Line(
        f"recorded until visible in another process, p99 at {RATE:,} records/s",
        f"{p99 * 1e3:.0f} ms (rounds {worst[0] * 1e3:.0f} to {worst[-1] * 1e3:.0f}; p50 {p50 * 1e3:.0f})",
        "–",
        f"≤ {GOAL_SECONDS * 1e3:g} ms",
        verdict_of([(p99 <= GOAL_SECONDS, f"{(p99 - GOAL_SECONDS) * 1e3:.0f} ms")]),
        loop="visibility",
    )


def shown_ms(seconds: float) -> str:
    """Return a time in ms, with as many digits as mean something."""
    ms = seconds * 1e3
    return f"{ms:.2f}" if ms < 10 else f"{ms:.1f}" if ms < 100 else f"{ms:,.0f}"


def keeping_line(stored: Stored) -> Line:
    """Return the table's line for keeping records."""
    cpu, wall = stored.per_second("cpu"), stored.per_second("wall")
    sizes = {name: told["bytes"] / stored.records for name, told in stored.finished.items()}
    shown = {
        name: f"{median(cpu[name]) / 1e3:,.0f} k/s of CPU ({median(wall[name]) / 1e3:,.0f} by the clock), {sizes[name]:.1f} B"
        for name in cpu
    }
    best = max((name for name in cpu if name != OURS), key=lambda name: median(cpu[name]))
    rate, size = median(cpu[OURS]), sizes[OURS]
    return Line(
        f"{stored.records:,} records into the store, on disk; bytes of each",
        f"{shown[OURS]}, {ratio(cpu[OURS], cpu[best]):.2f}×",
        ", ".join(f"{name} {text}" for name, text in shown.items() if name != OURS),
        f"≥ {KEEPING_GOAL_PER_SECOND / 1e3:g} k/s, ≤ {KEEPING_GOAL_BYTES} B",
        verdict_of(
            [
                (rate >= KEEPING_GOAL_PER_SECOND, f"{100 - 100 * rate / KEEPING_GOAL_PER_SECOND:.0f} %"),
                (size <= KEEPING_GOAL_BYTES, f"{size - KEEPING_GOAL_BYTES:.1f} B"),
            ]
        ),
        loop="storing",
    )


def asking_line(stored: Stored, question: str, what: str, goal: float | None) -> Line:
    """Return the table's line for a question."""
    wall, cpu = stored.seconds(question, "wall"), stored.seconds(question, "cpu")
    ours = median(wall[OURS])
    best = best_of(wall)
    assert best is not None
    return Line(
        f"{what}, {stored.records:,} records",
        f"{shown_ms(ours)} ms (CPU {shown_ms(median(cpu[OURS]))}, the slowest {shown_ms(max(wall[OURS]))}), "
        f"{ratio(wall[best], wall[OURS]):.2f}×",
        ", ".join(f"{name} {shown_ms(median(seconds))}" for name, seconds in wall.items() if name != OURS),
        "–" if goal is None else f"≤ {goal * 1e3:g} ms",
        "–" if goal is None else verdict_of([(ours <= goal, f"{shown_ms(ours - goal)} ms")]),
        loop="storing",
    )


def storing_lines(stored: Stored) -> list[Line]:
    """Return the table's lines for keeping records and asking for them."""
    return [
        keeping_line(stored),
        asking_line(stored, LOOKUP, "all of one correlation id", LOOKUP_GOAL_SECONDS.get(stored.records)),
        asking_line(stored, TOP_ERRORS, "top errors of an hour", ASKING_GOAL_SECONDS),
        asking_line(stored, P95_BY_MINUTE, "p95 of 20 operations by minute over an hour", ASKING_GOAL_SECONDS),
        page_line(stored),
    ]


def page_line(stored: Stored) -> Line:
    """Return the table's line for the dashboard's queries."""
    seconds = sorted((took, name) for page in stored.pages[OURS] for name, took in page.items())
    p99, slowest = seconds[ceil(0.99 * len(seconds)) - 1]
    peers = {
        name: max(median(page[query] for page in pages) for query in pages[0]) for name, pages in stored.pages.items()
    }
    return Line(
        f"any dashboard query, 24 h, 1,000 series, {stored.records:,} records, p99 (peers: the slowest of six such queries)",
        f"{shown_ms(p99)} ms ({slowest}; p50 {shown_ms(median(took for took, _ in seconds))}, "
        f"the slowest {shown_ms(seconds[-1][0])}: {seconds[-1][1]})",
        ", ".join(f"{name} {shown_ms(took)}" for name, took in peers.items() if name != OURS),
        f"≤ {PAGE_GOAL_SECONDS * 1e3:g} ms",
        verdict_of([(p99 <= PAGE_GOAL_SECONDS, f"{shown_ms(p99 - PAGE_GOAL_SECONDS)} ms")]),
        loop="storing",
    )


def retaining_line(told: dict[str, list[list[float]]], records: int) -> Line:
    """Return the table's line for recording while records are let go."""
    longest = {name: [one[0] for one in rounds] for name, rounds in told.items()}
    more = median(longest["with"]) - median(longest["without"])
    took = median(one[2] for one in told["with"])
    return Line(
        f"the longest recording call while retention lets go {records:,} records",
        f"{shown_ms(median(longest['with']))} ms, without {shown_ms(median(longest['without']))} (the medians of "
        f"{len(longest['with'])} rounds; of all {shown_ms(max(longest['with']))} and {shown_ms(max(longest['without']))}; "
        f"retention took {shown_ms(took)})",
        "–",
        f"≤ {RETAINING_GOAL_SECONDS * 1e3:g} ms more",
        verdict_of([(more <= RETAINING_GOAL_SECONDS, f"{shown_ms(more - RETAINING_GOAL_SECONDS)} ms")]),
        loop="retaining",
    )


def history_line(told: dict[str, Any]) -> Line:
    """Return the table's line for starting on a history."""
    opened = told["opened"]
    assert opened["counted"] == told["requests"], (opened["counted"], told["requests"])
    days = told["hours"] / 24
    return Line(
        f"{told['hours']:g} hours of the reference service at 100 requests/s, {told['records']:,} records: a new process' first answer",
        f"{opened['seconds']:.2f} s ({opened['imported']:.2f} of it imports), then {opened['mib']:.0f} MiB; "
        f"{told['record_bytes'] / days / 2**20:,.0f} MiB a day of records, {told['window_bytes'] / 2**20:,.1f} MiB of windows, "
        f"{told['bytes'] / 2**20:,.0f} MiB in all",
        "–",
        f"≤ {HISTORY_GOAL_SECONDS:g} s",
        verdict_of([(opened["seconds"] <= HISTORY_GOAL_SECONDS, f"{opened['seconds'] - HISTORY_GOAL_SECONDS:.1f} s")]),
        loop="history",
    )


def passing_lines(told: dict[str, list[float]]) -> list[Line]:
    """Return the table's lines for days in virtual time."""
    lines = []
    for what, (_, _, goal) in PASSAGES.items():
        took = median(told[what])
        text = f"{took:.2f} s (the slowest {max(told[what]):.2f})"
        verdict = verdict_of([(took <= goal, f"{took - goal:.2f} s")])
        lines.append(Line(f"{what}, in virtual time", text, "–", f"≤ {goal:g} s", verdict, loop="passing"))
    return lines


# Profiles of what was missed


def profile_of(line: Line) -> str:
    """Return where the time of a line goes."""
    say(f"profiling: {line.what}")
    if line.loop == "http":
        with Server(OURS, "rfs", "--profile") as server:
            server.requests_per_second(2.0)
            return server.stop().strip()
    if line.loop == "import":
        return _import_profile()
    if line.loop == "leading":
        return "Two processes take part: see `python -m benchmarks.http_server rfs_worker --profile`."
    if line.loop == "visibility":
        return "Two processes take part: see `python -m benchmarks.visibility` under a profiler of either."
    if line.loop in {"storing", "retaining", "history", "passing"}:
        return f"See `python -m benchmarks.{line.loop}` under a profiler."
    command = module(OURS, *line.profile)
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, cwd=ROOT, env=process_environment())
    return done.stdout.strip()


def _import_profile() -> str:
    command = [sys.executable, "-X", "importtime", "-c", "import rfs.monitoring"]
    said = subprocess.run(
        command, stderr=subprocess.PIPE, check=True, text=True, cwd=ROOT, env=process_environment()
    ).stderr
    rows: list[tuple[int, int, str]] = []
    for line in said.splitlines():
        parts = line.removeprefix("import time:").split("|")
        if len(parts) == 3 and parts[0].strip().isdigit():
            rows.append((int(parts[0]), int(parts[1]), parts[2].strip()))
    largest = sorted(rows, reverse=True)[:16]
    return "\n".join(
        [f"{'own µs':>8} {'all µs':>8}", *(f"{own:8d} {everything:8d}  {name}" for own, everything, name in largest)]
    )


# The report


def machine() -> str:
    """Return what was measured on."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    try:
        release = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):  # a system that does not say
        release = platform.system()
    return (
        f"{cpu}, {os.cpu_count()} cores, {gib:.0f} GiB; {release}, Linux {platform.release()}; "
        f"{platform.python_implementation()} {platform.python_version()}"
    )


def speed() -> float:
    """Return the seconds of CPU that a bit of everyday Python takes now: a machine may be half as quick as an hour ago."""
    seconds = []
    for _ in range(500):
        began = time.process_time()
        reference_workload()
        seconds.append(time.process_time() - began)
    return median(seconds)


def revision() -> str:
    """Return the commit that was measured; ``-dirty`` if anything differs from it but the results themselves."""
    if shutil.which("git") is None:
        return "an unknown commit"

    def told(*command: str) -> str:
        return subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    commit = told("rev-parse", "--short", "HEAD")
    differs = told("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/*.md")
    return f"{commit}{'-dirty' if differs else ''}" if commit else "an unknown commit"


def peers_named(environments: list[str]) -> str:
    """Return the measured packages with their versions."""
    measured = []
    for name in environments:
        pins = pinned(name)
        asked = [requirement.partition("==")[0] for requirement in PEERS[name]]
        measured.append(f"{name} ({', '.join(f'{package} {pins[package]}' for package in asked)})")
    return "; ".join(measured)


def table(lines: list[Line]) -> str:
    """Return the table as Markdown."""
    rows = ["| what | RFS | peers | goal | |", "|---|---|---|---|---|"]
    rows += [f"| {line.what} | {line.measured} | {line.peers} | {line.goal} | {line.verdict} |" for line in lines]
    return "\n".join(rows)


def report(
    lines: list[Line], notes: list[str], environments: list[str], load: float, outcomes: dict[str, Outcome]
) -> str:
    """Return RESULTS.md."""
    client = "wrk" if shutil.which("wrk") else "a client of our own"
    measured = (
        f"Measured {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by `make bench` on: {machine()}. "
        f"Load average of the machine at the start: {load:.2f}. RFS at {revision()} with "
        f"msgspec {version('msgspec')}, google-re2 {version('google-re2')}, zstandard {version('zstandard')}."
    )
    how = (
        "Times are process CPU time per operation, all threads together, the median of interleaved rounds. "
        "`2.00×` is how many times the best peer's time is ours, again the median of the rounds; below 1 the peer is quicker."
    )
    http = (
        "HTTP: one JSON route, uvicorn with uvloop and httptools, "
        f"{CONNECTIONS} connections from {client} on the same machine. The peers' access log is structlog with orjson "
        "and asgi-correlation-id, their metrics are prometheus-fastapi-instrumentator, and all three are these and "
        "OpenTelemetry's FastAPI instrumentation with a batch processor, as each one's own documentation sets it up."
    )
    storing = (
        "Kept are a day's records, about 250 bytes each as JSON, five of an id (`benchmarks/corpus.py`), 10,000 at a time, and each "
        "batch is on the disk as far as its keeper promises that; encoding them is not counted. SQLite has a row of JSON for each and "
        "columns of what is asked for, with indexes by id, by time, and by time of the failures, in WAL mode; DuckDB a column for each "
        "field, in order of time, and no index; ClickHouse's engine (chdb) a MergeTree in order of time with a filter of ids, and what "
        "has few values as such. RFS answers from windows what is added up, with 1,000 series in them; the peers from their rows. All "
        "answers are compared. Times of answers are of the clock on the wall, and of several rounds the median."
    )
    named = f"Peers, each in its own environment: {peers_named(environments)}."
    sections = [
        "# Results",
        measured,
        how,
        table(lines),
        "\n".join(f"- {note}" for note in notes),
        named,
        http,
        storing,
    ]
    zoo = (
        "Fifteen values, each handed to each library as one structured field (`benchmarks/zoo.py`); a value counts as lost if "
        "nothing was written for it, and what raised is not counted again as lost."
    )
    sections += ["## Hostile values", zoo, zoo_table(outcomes)]
    missed = [line for line in lines if line.missed]
    if missed:
        sections.append("## Where the time goes in what missed its goal")
        for line in missed:
            sections += [f"### {line.what}: {line.verdict}", f"```\n{profile_of(line)}\n```"]
    return "\n\n".join(sections) + "\n"


def available(quick: bool) -> list[str]:
    """Return the environments of peers that can be used; they are made first, unless in a hurry."""
    ready = []
    for peer in PEERS:
        fault = prepare(peer) if not quick else "" if is_ready(peer) else "not made yet"
        if fault:
            say(f"{peer} is left out: {fault}")
        else:
            ready.append(peer)
    return ready


def main(arguments: list[str]) -> int:
    """Measure, print, and write; the exit status says only whether that worked."""
    parser = argparse.ArgumentParser(description="Measure RFS beside its peers.")
    how_much = parser.add_mutually_exclusive_group()
    how_much.add_argument("--quick", action="store_true", help="check that it works; write nothing")
    how_much.add_argument(
        "--full", action="store_true", help="keep ten times as many records, too, and let two days pass"
    )
    chosen = parser.parse_args(arguments)
    quick = chosen.quick
    effort = QUICK if quick else WHOLE if chosen.full else USUAL
    load = os.getloadavg()[0]
    began = time.monotonic()
    peers = available(quick)
    environments = [OURS, *peers]
    speeds = [speed()]

    measured = measure_loops([name for name in environments if has_loops(name)], effort)
    seconds, mib, started = measure_imports(environments, effort)
    rates, costs = measure_http(environments, effort)
    leading = measure_leading(effort)
    visible = measure_visibility(effort)
    stored = [measure_storing(environments, effort, records) for records in effort.stored_records]
    say(f"recording while {effort.retained_records:,} records are let go")
    retained = measure_once("retaining", str(effort.retained_records), str(effort.retaining_rounds))
    say(f"{effort.history_hours:g} hours of the reference service")
    history = measure_once("history", str(effort.history_hours))
    say("days in virtual time")
    passing = measure_once("passing", str(effort.passing_rounds))
    outcomes = visit_zoo(environments)
    speeds.append(speed())

    lines = [loop_line(goal, measured[goal.loop]) for goal in GOALS]
    lines += [*http_lines(rates, costs), *leading_lines(*leading), import_line(seconds, mib), visibility_line(visible)]
    lines += [line for one in stored for line in storing_lines(one)]
    lines += [retaining_line(retained, effort.retained_records), history_line(history), *passing_lines(passing)]
    collected = median(measured["record_collected"][OURS])
    first = ", ".join(f"{name} {median(values) * 1e3:.0f} ms" for name, values in started.items())
    ours = stored[-1].finished[OURS]
    before, after = (shown_us(each) for each in speeds)
    notes = [
        f"`reference_workload`, which takes {shown_us(REFERENCE_SECONDS)} µs where the goals were set, took {before} before this, {after} after.",
        f"Beside the records RFS wrote {ours['windows']:,.0f} windows of 1,000 series: {ours['windows_cpu']:.1f} s of CPU.",
        f"One record, and moving it into the store a moment later, in another thread: {shown_us(collected)} µs.",
        f"Imported, set up, and the first thing measured and recorded: {first}.",
    ]
    print(f"\n{table(lines)}\n", *notes, "", zoo_table(outcomes), "", sep="\n")
    if not quick:
        RESULTS.write_text(report(lines, notes, peers, load, outcomes))
        say(f"written: {RESULTS.relative_to(ROOT)}")
    say(f"done after {time.monotonic() - began:.0f} s")
    return 0


def has_loops(environment: str) -> bool:
    """Tell whether there are loops for an environment."""
    return (ROOT / "benchmarks" / "loops" / f"with_{environment}.py").exists()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
