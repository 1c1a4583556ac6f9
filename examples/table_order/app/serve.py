"""
One run of the service: its workers, and beside them its PostgreSQL and the traffic.

The application is built once, before the workers are forked, and they share one
listening socket: a worker that dies is replaced by another fork, which serves
again after a few hundredths of a second, and what waits to be accepted waits for
any of them. The parent itself serves nothing, runs no event loop and has no
threads. It starts all others and ends them: the traffic first, then the workers.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import uvicorn
import uvloop
from fastapi import FastAPI

from app.core.config import Settings
from app.embedded_postgres import EmbeddedPostgres
from app.main import create_app

if TYPE_CHECKING:
    from app.run import RunSettings

_HOME: Final = Path(__file__).resolve().parents[1]
_TETHER: Final = Path(__file__).with_name("tethered.py")
_GRACE_SECONDS: Final = 2
_STOP_SECONDS: Final = 3.5  # for the workers; what is left of 5 s is PostgreSQL's
_WATCH_SECONDS: Final = 0.05
_RESTART_SECONDS: Final = 0.5  # between two starts in one place, so that a worker that cannot live does not spin
_PR_SET_PDEATHSIG: Final = 1  # from linux/prctl.h
_NEVER_SERVED: Final = 3


class WorkerError(RuntimeError):
    """A worker ended before it ever served; what it said stands above."""


def serve(run: RunSettings, settings: Settings, listener: socket.socket, postgres: EmbeddedPostgres | None) -> None:
    """
    Serve on *listener* until SIGINT, SIGTERM or SIGHUP; from here on these signals are ours.

    Raises:
        WorkerError: a worker ended before all had served for the first time.
    """
    stops: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: stops.append(number))
    app = create_app(settings)
    address = _address(run.HOST, listener.getsockname()[1])
    # Made before the fork, so that every worker knows it, even one that keeps its keys in memory.
    dashboard = address + app.state.installation.dashboard_start_path
    traffic = _Traffic(run, address) if run.TRAFFIC and settings.DEMO_PASSWORD is not None else None
    workers = _Workers(app, listener, run.WORKERS)
    open_doors = True
    try:
        while not stops:
            workers.keep()
            if postgres is not None and not postgres.running():
                print("PostgreSQL is gone; starting it again", file=sys.stderr, flush=True)
                postgres.launch()
            if open_doors and workers.all_served():
                open_doors = False
                print(_banner(run, settings, address, dashboard), flush=True)
                if traffic is not None:
                    traffic.start()
            time.sleep(_WATCH_SECONDS)
    finally:
        # All that is left is to clean up, which nothing shall break off.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if traffic is not None:
            traffic.dismiss()
        workers.stop()
        if traffic is not None:
            traffic.stop()


def _address(host: str, port: int) -> str:
    """Where a browser on this machine finds the service."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - only recognised, never bound to unasked
    shown = everywhere.get(host, host)
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


class _Workers:
    """The processes that serve *app*, each a fork of this one; call from the main thread."""

    def __init__(self, app: FastAPI, listener: socket.socket, count: int) -> None:
        self._app = app
        self._listener = listener
        self._pids: list[int] = [0] * count  # by place; 0: nobody
        self._started = [-_RESTART_SECONDS] * count
        self._served: set[int] = set()
        self._has_served = False
        # A worker writes its pid when it serves; lines are shorter than what a pipe takes at once.
        self._news, self._tell = os.pipe()
        os.set_blocking(self._news, False)
        # Loaded before the fork: after it, nothing is looked up any more.
        self._libc = ctypes.CDLL(None, use_errno=True)

    def keep(self) -> None:
        """Fill every empty place, and note who has died and who serves."""
        for place, pid in enumerate(self._pids):
            if pid and (ended := os.waitpid(pid, os.WNOHANG))[0]:
                status = os.waitstatus_to_exitcode(ended[1])
                self._pids[place] = 0
                if not self._has_served:
                    raise WorkerError(f"worker {pid} ended with status {status} before it served")
                print(f"Worker {pid} ended with status {status}; starting another", file=sys.stderr, flush=True)
            if not self._pids[place] and time.monotonic() - self._started[place] >= _RESTART_SECONDS:
                self._started[place] = time.monotonic()
                self._pids[place] = self._fork()
        with suppress(BlockingIOError):
            self._served.update(map(int, os.read(self._news, 4096).split()))

    def all_served(self) -> bool:
        """Whether every worker serves; remembered, so that from then on one that dies is replaced."""
        self._has_served = self._has_served or set(self._pids) <= self._served
        return self._has_served

    def stop(self) -> None:
        """End all of them, within 3.5 s; what is open then is broken off."""
        # Who comes now is refused at once instead of waiting for nobody.
        self._listener.close()
        deadline = time.monotonic() + _STOP_SECONDS
        self._signal(signal.SIGTERM)
        while self._reap() and time.monotonic() < deadline:
            time.sleep(_WATCH_SECONDS / 5)
        self._signal(signal.SIGKILL)
        while self._reap():
            time.sleep(_WATCH_SECONDS / 5)

    def _signal(self, number: signal.Signals) -> None:
        for pid in filter(None, self._pids):
            os.kill(pid, number)  # not reaped yet, so it is still ours

    def _reap(self) -> bool:
        self._pids = [pid if pid and not os.waitpid(pid, os.WNOHANG)[0] else 0 for pid in self._pids]
        return any(self._pids)

    def _fork(self) -> int:
        parent = os.getpid()
        # Nobody may believe that it is ours before it is its own.
        signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        try:
            sys.stdout.flush()
            sys.stderr.flush()
            pid = os.fork()
            if pid == 0:
                self._work(parent, signals)
            return pid
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)

    def _work(self, parent: int, signals: set[signal.Signals]) -> NoReturn:
        """Be a worker: serve until told to stop; never returns into what the parent was doing."""
        status = _NEVER_SERVED
        try:
            # Until the server takes them over: Ctrl-C is the parent's alone, and SIGTERM ends us at once.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
            os.setsid()
            self._libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
            if os.getppid() == parent:  # otherwise it died before we asked to follow it
                status = _serve_until_told(self._app, self._listener, self._tell)
        except BaseException as error:  # noqa: BLE001 - shown and ended here: the parent's clean-up is not ours to do
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            with suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)


class _Server(uvicorn.Server):
    """uvicorn's, which says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


def _serve_until_told(app: FastAPI, listener: socket.socket, tell: int) -> int:
    """Run the server in this process; its exit status."""
    server = _Server(
        uvicorn.Config(
            app,
            loop="uvloop",
            http="httptools",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
    )

    async def say_when_ready() -> None:
        await app.state.service.database.wait_prepared()
        await server.listening.wait()
        os.write(tell, b"%d\n" % os.getpid())

    async def everything() -> None:
        ready = asyncio.create_task(say_when_ready())
        try:
            await server.serve(sockets=[listener])
        finally:
            ready.cancel()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(everything())
    return 0 if server.started else _NEVER_SERVED


class _Traffic:
    """The generator, a process of its own."""

    def __init__(self, run: RunSettings, address: str) -> None:
        self._arguments = ["--base-url", address, "--rate", str(run.RATE), "--seed", str(run.SEED), "--patience", "1"]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Let the guests come."""
        head = [sys.executable, "-I", "-S", str(_TETHER), str(int(signal.SIGKILL)), str(os.getpid()), "-", "-"]
        # A session of its own: Ctrl-C reaches the launcher alone, which then tells the traffic.
        self._process = subprocess.Popen(
            [*head, sys.executable, "-m", "app.traffic", *self._arguments], cwd=_HOME, start_new_session=True
        )

    def dismiss(self) -> None:
        """Ask it to go; returns at once."""
        if self._process is not None:
            self._process.terminate()

    def stop(self) -> None:
        """Make it go, within 2 s."""
        if self._process is None:
            return
        self.dismiss()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_SECONDS)
        self._process.kill()
        self._process.wait()


def _banner(run: RunSettings, settings: Settings, address: str, dashboard: str) -> str:
    """What a person needs to know to begin."""
    traffic = "none: TRAFFIC=0"
    accounts: list[str] = []
    if settings.DEMO_PASSWORD is not None:
        password = settings.DEMO_PASSWORD.get_secret_value()
        login = f'{{"store_id": "hanok", "username": "manager", "password": "{password}"}}'
        accounts = [
            f"Accounts     admin of the service; manager and kitchen of hanok, pocha, bada; password {password}",
            f"Log in       POST {address}/api/v1/auth/login {login}",
        ]
    if run.TRAFFIC:
        traffic = f"{run.RATE:g} orders per second, seed {run.SEED}; RATE, SEED and TRAFFIC=0 change it"
        if not accounts:
            traffic = "none: without DEMO_PASSWORD it cannot log in"
    records = "also printed here" if settings.LOG_STDOUT else "on the dashboard; LOG_STDOUT=true prints them here"
    lines = [
        f"{settings.APP_NAME} is running. Ctrl-C stops it.",
        "",
        f"Dashboard    {dashboard}",
        "             (opens once, and then the browser has a session)",
        f"API          {address}/docs",
        f"Health       {address}/health/ready",
        *accounts,
        f"Workers      {run.WORKERS}; WORKERS changes it",
        f"Traffic      {traffic}",
        f"Records      {records}",
    ]
    return "\n".join(["", *(f"  {line}".rstrip() for line in lines), ""])
