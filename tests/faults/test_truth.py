"""
FEATURES.md D4: every worker tells the same truth, whatever happens to the others.

Four workers share one socket and have nothing configured but ``install(app)``. While a client asks and workers are killed and
recycled, a scraper asks any of them what the sums are. Two witnesses share no code with what is tested: the client, which
counts what it got, and the oracle file, in which the workers say what really happened (`tests.faults.programs.server`).
"""

from __future__ import annotations

import http.client
import os
import random
import re
import selectors
import signal
import socket
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.processes import FAR_SECONDS, Process, environment, eventually, size
from tests.faults.programs.server import wait_of

pytestmark = [pytest.mark.fault, pytest.mark.slow]  # tens of thousands of requests

WORKERS = 4
REQUESTS = size(whole=200_000, small=20_000)
CONNECTIONS = 16
REQUESTS_BETWEEN_FAULTS = size(whole=2_000, small=1_250)
TOKEN = "scrape-token-of-the-tests-0123456789"
ROUTES = {"orders": 200, "menu": 200, "sold-out": 409}
KINDS = {"orders": "loop", "menu": "thread", "sold-out": "refused"}

Series = tuple[str, frozenset[tuple[str, str]]]
Scrape = dict[Series, float]

_SAMPLE = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})? (\S+)\Z")
_LABEL = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"')


def route_of(number: int) -> str:
    """Which route request *number* goes to."""
    return "sold-out" if number % 10 == 0 else "menu" if number % 10 == 1 else "orders"


def parse(text: str) -> tuple[Scrape, Scrape]:
    """Return all samples of an exposition, and of those the ones that may never go down."""
    samples: Scrape = {}
    rising: Scrape = {}
    types: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            words = line.split(" ")
            if words[1] == "TYPE":
                types[words[2]] = words[3]
            continue
        found = _SAMPLE.match(line.partition(" # ")[0])
        assert found, f"not a sample: {line!r}"
        name, labels, value = found.groups()
        key = name, frozenset(_LABEL.findall(labels or ""))
        assert key not in samples, f"twice in one exposition: {line!r}"
        samples[key] = float(value)
        family = re.sub(r"_(?:total|bucket|count|sum)\Z", "", name)
        if {types.get(name), types.get(family)} & {"counter", "histogram"}:
            rising[key] = samples[key]
    return samples, rising


def scrape(port: int) -> str:
    """Ask whoever accepts on *port*; raises OSError or HTTPException if that one dies of it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", "/metrics/prometheus", headers={"Authorization": f"Bearer {TOKEN}"})
        answer = connection.getresponse()
        text = answer.read().decode()
        assert answer.status == 200, text[:300]
        return text
    finally:
        connection.close()


class Oracle:
    """The file in which the workers say what happened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._at = 0
        self.came: Counter[int] = Counter()
        self.counted_by_app: Counter[int] = Counter()
        self.counted: dict[int, int] = {}  # number → status

    def read(self) -> tuple[int, int]:
        """Take in what is new; return how many requests have come, and how many the app has counted."""
        with self.path.open("rb") as file:
            file.seek(self._at)
            data = file.read()
        data = data[: data.rfind(b"\n") + 1]
        self._at += len(data)
        for line in data.decode().splitlines():
            what, number, *status = line.split(" ")
            if what == "b":
                self.came[int(number)] += 1
            elif what == "a":
                self.counted_by_app[int(number)] += 1
            else:
                self.counted[int(number)] = int(status[0])
        return len(self.came), len(self.counted_by_app)


class Scraper(threading.Thread):
    """Asks any worker again and again, and checks each answer against the one before and against the oracle."""

    def __init__(self, port: int, oracle: Path) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._oracle = Oracle(oracle)
        self._last: Scrape = {}
        self.scrapes = 0
        self.cut_off = 0
        self.faults: list[str] = []
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.02):
            try:
                self.look()
            except (OSError, http.client.HTTPException):
                self.cut_off += 1
            except AssertionError as fault:
                self.faults.append(str(fault)[:500])

    def look(self) -> None:
        _, before = self._oracle.read()
        text = scrape(self._port)
        after, _ = self._oracle.read()
        samples, rising = parse(text)
        self.scrapes += 1
        for key, value in self._last.items():
            if key not in rising:
                self.faults.append(f"scrape {self.scrapes}: {key} is gone")
            elif rising[key] < value:
                self.faults.append(f"scrape {self.scrapes}: {key} fell from {value} to {rising[key]}")
        self._last = rising
        told = sum(value for (name, _), value in samples.items() if name == "orders_read_total")
        if not before <= told <= after:
            self.faults.append(f"scrape {self.scrapes}: {told} orders, of {before} to {after} there were")


class Client:
    """Sends numbered requests over kept-alive connections, and knows what became of each."""

    def __init__(self, port: int, requests: int) -> None:
        self._port = port
        self._requests = requests
        self._selector = selectors.DefaultSelector()
        self._asked: dict[socket.socket, int] = {}
        self._heard = time.monotonic()
        self.sent = 0
        self.answered: dict[int, int] = {}  # number → status
        self.cut_off: set[int] = set()
        for _ in range(CONNECTIONS):
            self._connect()

    def _connect(self) -> None:
        opened = socket.create_connection(("127.0.0.1", self._port), timeout=20)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(opened, selectors.EVENT_READ)
        self._ask(opened)

    def _ask(self, connection: socket.socket) -> None:
        if self.sent == self._requests:
            self._close(connection)
            return
        number = self.sent
        self.sent += 1
        self._asked[connection] = number
        try:
            connection.sendall(f"GET /{route_of(number)}/{number} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        except OSError:
            self._lose(connection)

    def _close(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        connection.close()

    def _lose(self, connection: socket.socket) -> None:
        self.cut_off.add(self._asked.pop(connection))
        self._close(connection)
        self._connect()

    def work(self) -> bool:
        """Take in what has come, ask further; False once all has been asked and answered."""
        if not self._asked:
            return False
        ready = self._selector.select(timeout=0.1)
        if ready:
            self._heard = time.monotonic()
        assert time.monotonic() - self._heard < FAR_SECONDS, f"nobody answers {sorted(self._asked.values())}"
        for key, _ in ready:
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            try:
                answer = connection.recv(65536)
            except OSError:
                answer = b""
            if not answer.startswith(b"HTTP/1.1 "):
                self._lose(connection)
                continue
            while answer and not _is_whole(answer):
                answer = _more(connection, answer)
            if not answer:
                self._lose(connection)
                continue
            self.answered[self._asked.pop(connection)] = int(answer[9:12])
            if b"connection: close" in answer.lower():
                self._close(connection)
                self._connect()
            else:
                self._ask(connection)
        return True


def _more(connection: socket.socket, answer: bytes) -> bytes:
    """Return *answer* and what comes next; nothing if that was all that will come."""
    try:
        part = connection.recv(65536)
    except OSError:
        part = b""
    return answer + part if part else b""


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    return bool(end) and length is not None and len(body) >= int(length[1])


class Supervisor:
    """Keeps four workers up, and does them harm."""

    def __init__(self, stack: ExitStack, shared: socket.socket, oracle: Path, state: Path) -> None:
        self._stack = stack
        self._shared = shared
        self._oracle = oracle
        self._env = environment(XDG_STATE_HOME=str(state), RFS_SCRAPE_TOKEN=TOKEN)
        self._random = random.Random(4)
        self._leaving: list[Process] = []
        self.killed = self.recycled = 0
        self.workers = [self._start() for _ in range(WORKERS)]
        self.ports = [0] * WORKERS
        self.wait_until_up()

    def wait_until_up(self) -> None:
        eventually(self.is_up, says=lambda: [worker.errors()[-500:] for worker in self.workers])

    def is_up(self) -> bool:
        """Whether all workers serve. Never waits."""
        for place, worker in enumerate(self.workers):
            if not self.ports[place] and worker.has_answered():
                self.ports[place] = int(worker.answer())
        return all(self.ports)

    def _start(self) -> Process:
        worker = Process("server", self._shared.fileno(), self._oracle, env=self._env, pass_fds=[self._shared.fileno()])
        return self._stack.enter_context(worker)

    def harm(self) -> None:
        """Kill or recycle one of those that serve, and put another in its place."""
        place = self._random.randrange(WORKERS)
        if self.killed <= 2 * self.recycled:
            self.workers[place].kill()
            self.killed += 1
        else:
            self.workers[place].send(signal.SIGTERM)
            self._leaving.append(self.workers[place])
            self.recycled += 1
        self.workers[place] = self._start()
        self.ports[place] = 0

    def wait(self) -> None:
        """Wait until those that were told to go have gone in good order."""
        for worker in self._leaving:
            assert worker.wait() in (0, -signal.SIGTERM), worker.errors()


class TestTruth:
    def test_every_scrape_is_monotone_and_the_totals_are_what_was_sent(self, tmp_path: Path) -> None:
        """
        Each scrape of any worker is monotone and tells what has happened by then; at the end all workers tell the same, and
        it is what client and oracle counted, each request that was cut off accounted for.
        """
        oracle_file = tmp_path / "oracle"
        oracle_file.touch()
        with ExitStack() as stack:
            shared = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=512))
            supervisor = Supervisor(stack, shared, oracle_file, tmp_path / "state")
            port = shared.getsockname()[1]
            client = Client(port, REQUESTS)
            scraper = Scraper(port, oracle_file)
            scraper.start()
            harm_at = REQUESTS_BETWEEN_FAULTS
            while client.work():
                # Other workers serve while one starts; harm is measured in answers, so that a slow machine has as much of it.
                if client.sent >= harm_at + 2 * REQUESTS_BETWEEN_FAULTS:
                    supervisor.wait_until_up()
                if client.sent >= harm_at and supervisor.is_up():
                    supervisor.harm()
                    harm_at = client.sent + REQUESTS_BETWEEN_FAULTS
            supervisor.wait_until_up()
            scraper.over.set()
            scraper.join(30)
            supervisor.wait()

            # The faults happened, and requests were cut off or not, but none is unaccounted for.
            assert supervisor.killed >= 2
            assert supervisor.recycled >= 1
            assert scraper.scrapes >= 20
            assert len(client.answered) + len(client.cut_off) == client.sent == REQUESTS
            assert scraper.faults[:10] == []
            wrong = [number for number, status in client.answered.items() if status != ROUTES[route_of(number)]]
            assert wrong == []

            oracle = Oracle(oracle_file)
            oracle.read()
            assert set(oracle.came) <= set(client.answered) | client.cut_off
            assert max(oracle.came.values()) == 1, "a request came twice"
            assert set(client.answered) <= set(oracle.counted), "answered before it was counted"

            told = [parse(scrape(port))[0] for port in supervisor.ports]
            check_totals(told[0], oracle)
            ours = [
                {key: value for key, value in one.items() if key[0].startswith(("http_requests_total", "order"))}
                for one in told
            ]
            assert ours == [ours[0]] * WORKERS

            live = tmp_path / "state" / "rfs"
            eventually(
                lambda: len(processes_in(live)) <= WORKERS, says=lambda: f"files of the dead: {processes_in(live)}"
            )
            # Folding the last of the dead has changed nothing.
            assert [parse(scrape(port))[0][key] for port in supervisor.ports for key in ours[0]] == [
                *ours[0].values()
            ] * WORKERS


def check_totals(told: Scrape, oracle: Oracle) -> None:
    """
    The sums are those of the oracle.

    What came and has no line ``a`` or ``c`` was killed in between: if the kill fell between the count and its line it is
    counted, else it is not. Each such request is looked at alone; there are hardly ever any.
    """
    for route, status in ROUTES.items():
        certain = sum(1 for number in oracle.counted if route_of(number) == route)
        open_ones = [n for n in oracle.came if n not in oracle.counted and route_of(n) == route]
        found = sum(
            value
            for (name, labels), value in told.items()
            if name == "http_requests_total"
            and ("route", f"/{route}/{{number}}") in labels
            and ("status", str(status)) in labels
        )
        assert certain <= found <= certain + len(open_ones), (route, open_ones)

        certain_by_app = sum(1 for number in oracle.counted_by_app if route_of(number) == route)
        open_by_app = [n for n in oracle.came if n not in oracle.counted_by_app and route_of(n) == route]
        found_by_app = told["orders_read_total", frozenset({("kind", KINDS[route])})]
        assert certain_by_app <= found_by_app <= certain_by_app + len(open_by_app), (route, open_by_app)

    open_in_all = [number for number in oracle.came if number not in oracle.counted_by_app]
    count, total = told["order_wait_seconds_count", frozenset()], told["order_wait_seconds_sum", frozenset()]
    assert len(oracle.counted_by_app) <= count <= len(oracle.counted_by_app) + len(open_in_all)
    least = sum(wait_of(number) for number in oracle.counted_by_app)
    assert least <= total <= least + sum(wait_of(number) for number in open_in_all)


def processes_in(directory: Path) -> set[str]:
    """Whose numbers are not folded. (Of the dead, some segments stay readable.)"""
    return {
        name.partition(".")[0]
        for _, _, names in os.walk(directory)
        for name in names
        if re.match(r"\d+-[0-9a-f]{16}\.\d+\.cells\Z", name)
    }
