"""
Starts `make run` as a stranger does, looks at the page, and ends it with Ctrl-C.

Checks what no test of a part can: that the service is reached in time (3 min
the first time, and 10 s on a quiet machine when all is installed; this allows
30, and says how long it took), that its dashboard shows the traffic and is
closed to others, and that 5 s after Ctrl-C no process is left, though kitchens
hold event streams.
"""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

from scripts import prepare

COLD_SECONDS = 180.0
WARM_SECONDS = 30.0
TRAFFIC_SECONDS = 30.0
STOP_SECONDS = 5.0
MARK = "RFS_SMOKE_RUN"  # in the environment of everything that this run starts


class SmokeError(AssertionError):
    """The service did not do what it promises; the text says what."""


class Run:
    """`make run` in a session of its own, so that a signal reaches what Ctrl-C reaches."""

    def __init__(self) -> None:
        self.mark = uuid.uuid4().hex
        self.said: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        self.process = subprocess.Popen(
            ["make", "run"],
            cwd=prepare.ROOT,
            env={**os.environ, MARK: self.mark, "PORT": "0", "LOG_STDOUT": "false"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.said.append(line.rstrip())
            self._lines.put(line)

    def wait_for(self, pattern: str, deadline: float) -> str:
        """Return the first group of the first line that matches *pattern*."""
        while (left := deadline - time.monotonic()) > 0 and (self.process.poll() is None or not self._lines.empty()):
            try:
                line = self._lines.get(timeout=min(left, 0.2))
            except queue.Empty:
                continue
            if match := re.search(pattern, line):
                return match[1]
        raise SmokeError(f"`make run` did not say {pattern!r} in time")

    def processes(self) -> dict[int, str]:
        """Return what of this run is still there, by pid: everything that inherited the mark."""
        marked = f"{MARK}={self.mark}".encode()
        left = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                # A zombie has no environment, and is gone as soon as its parent looks.
                if marked in (folder / "environ").read_bytes().split(b"\0"):
                    left[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (FileNotFoundError, PermissionError, ProcessLookupError):
                continue
        return left

    def kill(self) -> None:
        """End what is left, whatever happened."""
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


@contextmanager
def running() -> Iterator[Run]:
    """`make run`, and nothing of it afterwards."""
    run = Run()
    try:
        yield run
    except BaseException:
        print("\n".join(run.said[-40:]), flush=True)
        raise
    finally:
        run.kill()


def until(what: str, seconds: float, look: Callable[[], Any]) -> Any:
    """Return what *look* gives once it is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if seen := look():
            return seen
        time.sleep(0.1)
    raise SmokeError(f"not within {seconds:g} s: {what}")


def get(opener: urllib.request.OpenerDirector, url: str) -> tuple[int, str]:
    """Ask for *url*; an answer that is no success is an answer too."""
    try:
        with opener.open(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def check() -> None:
    """
    Do what the head of this file says.

    Raises:
        SmokeError: Something of it does not hold.
    """
    limit = WARM_SECONDS if prepare.is_ready("run") else COLD_SECONDS
    started = time.monotonic()
    with running() as run:
        dashboard = run.wait_for(r"Dashboard +(http\S+)", started + limit)
        health = run.wait_for(r"Health +(http\S+)", started + limit)
        direct = urllib.request.ProxyHandler({})
        visitor = urllib.request.build_opener(direct, urllib.request.HTTPCookieProcessor(CookieJar()))
        stranger = urllib.request.build_opener(direct)
        until("readiness", started + limit - time.monotonic(), lambda: get(stranger, health)[0] == 200)
        prepare.say(f"smoke: ready after {time.monotonic() - started:.1f} s (limit {limit:g} s)")

        base = dashboard.partition("?")[0]
        if (status := get(stranger, base + "api/overview")[0]) not in {401, 403}:
            raise SmokeError(f"the dashboard answers {status} to a stranger")
        get(visitor, dashboard)  # opens the session, and leads to the page
        status, page = get(visitor, base)
        if status != 200 or "<html" not in page:
            raise SmokeError(f"the dashboard answers {status} after its link was opened")

        def overview() -> Any:
            requests = json.loads(get(visitor, base + "api/overview")[1])["requests"]
            return requests if requests["total"] and requests["streams"] else None

        requests = until("traffic and streams on the dashboard", TRAFFIC_SECONDS, overview)
        prepare.say(f"smoke: the dashboard shows {requests['total']:g} requests, {requests['streams']:g} streams open")

        stopped = time.monotonic()
        os.killpg(run.process.pid, signal.SIGINT)
        until("the end of every process after Ctrl-C", STOP_SECONDS, lambda: not run.processes())
        prepare.say(
            f"smoke: no process left {time.monotonic() - stopped:.1f} s after Ctrl-C (limit {STOP_SECONDS:g} s)"
        )


def main() -> int:
    """Check; the exit status is 0 when all of it holds."""
    # A shell lets what it runs in the background ignore Ctrl-C, and so would `make run`.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        check()
    except SmokeError as error:
        prepare.say(f"smoke: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
