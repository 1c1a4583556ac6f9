"""
One run of the service: the server, and beside it its PostgreSQL and the traffic.

All are started from the main thread and by this process alone, which also ends
them: the traffic first, then the streams and the server.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

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
_WATCH_SECONDS: Final = 0.5


def serve(run: RunSettings, settings: Settings, listener: socket.socket, postgres: EmbeddedPostgres | None) -> None:
    """Serve on *listener* until SIGINT, SIGTERM or SIGHUP; from here on these signals are ours."""
    app = create_app(settings)
    address = _address(run.HOST, listener.getsockname()[1])
    traffic = _Traffic(run, address) if run.TRAFFIC and settings.DEMO_PASSWORD is not None else None
    server = _Server(app, traffic)

    async def open_doors() -> None:
        await app.state.service.database.wait_prepared()
        await server.listening.wait()
        print(_banner(run, settings, address, app), flush=True)
        if traffic is not None:
            traffic.start()

    async def everything() -> None:
        helpers = [asyncio.create_task(open_doors())]
        if postgres is not None:
            helpers.append(asyncio.create_task(_keep_alive(postgres)))
        try:
            await server.serve(sockets=[listener])
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            if traffic is not None:
                traffic.stop()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        # The server takes these over while it serves, and raises them again when
        # it is done: all that is left then is to clean up, which nothing shall break off.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, server.handle_exit)
        runner.run(everything())


def _address(host: str, port: int) -> str:
    """Where a browser on this machine finds the service."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - only recognised, never bound to unasked
    shown = everywhere.get(host, host)
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


class _Server(uvicorn.Server):
    """uvicorn's, which says when it listens, and sends the traffic away before it stops."""

    def __init__(self, app: FastAPI, traffic: _Traffic | None) -> None:
        super().__init__(
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
        self.listening = asyncio.Event()
        self._traffic = traffic

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._traffic is not None:
            self._traffic.dismiss()
        super().handle_exit(sig, frame)


async def _keep_alive(postgres: EmbeddedPostgres) -> None:
    """Start PostgreSQL again when it died; from this thread, because it ends with the thread that starts it."""
    while True:
        await asyncio.sleep(_WATCH_SECONDS)
        if not postgres.running():
            print("PostgreSQL is gone; starting it again", file=sys.stderr, flush=True)
            postgres.launch()


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


def _banner(run: RunSettings, settings: Settings, address: str, app: FastAPI) -> str:
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
        f"Dashboard    {address}{app.state.installation.dashboard_start_path}",
        "             (opens once, and then the browser has a session)",
        f"API          {address}/docs",
        f"Health       {address}/health/ready",
        *accounts,
        f"Traffic      {traffic}",
        f"Records      {records}",
    ]
    return "\n".join(["", *(f"  {line}".rstrip() for line in lines), ""])
