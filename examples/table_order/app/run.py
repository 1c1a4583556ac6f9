"""
``python -m app.run``: the whole service for one person, until Ctrl-C.

Starts a PostgreSQL of its own (unless ``DATABASE_URL`` names one), the service, and
the traffic (unless ``TRAFFIC=0``), says where everything is, and stops all of it
within 5 s. A PostgreSQL of its own that dies is started again. If this process is
killed outright, the kernel ends the others.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

from dotenv import dotenv_values
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.core.config import Settings, SettingsError, load_settings, read_settings
from app.embedded_postgres import EmbeddedPostgres, EmbeddedPostgresError

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

_HOME: Final = Path(__file__).resolve().parents[1]
_TETHER: Final = Path(__file__).with_name("tethered.py")
_GRACE_SECONDS: Final = 2
_WATCH_SECONDS: Final = 0.5


class RunSettings(BaseSettings):
    """What can be set for a run, beside the service's own settings."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True, hide_input_in_errors=True)

    HOST: str = Field("127.0.0.1", min_length=1, max_length=255)
    PORT: int = Field(8000, ge=0, le=65_535, description="0 takes a free one")
    TRAFFIC: bool = True
    RATE: float = Field(2.0, gt=0, le=1000, description="Orders per second")
    SEED: int = Field(1, ge=0, le=2**31)


def main() -> int:
    """Run until told to stop; 0, or 2 if a setting, the port or PostgreSQL is not usable."""
    # Until the server takes them over, both end the run in order.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        run = read_settings(RunSettings)
        given = {key for key, value in {**dotenv_values(".env"), **os.environ}.items() if value}
        embedded = "DATABASE_URL" not in given
        _prepare_environment(given, embedded=embedded)
        # Before anything is started; an embedded server's address is not known yet.
        load_settings(**({"DATABASE_URL": "postgresql://embedded"} if embedded else {}))
        with _listen(run) as listener, EmbeddedPostgres() if embedded else nullcontext() as postgres:
            if postgres is not None:
                os.environ["DATABASE_URL"] = postgres.url()
            _serve(run, load_settings(), listener, postgres)
    except SettingsError as error:
        for key, fault in error.faults:
            print(f"setting {key}{fault}", file=sys.stderr)
        return 2
    except (EmbeddedPostgresError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    return 0


def _prepare_environment(given: set[str], *, embedded: bool) -> None:
    """Make up what a run can make up: a key, and for a database of our own the demonstration's password."""
    if "SECRET_KEY" not in given:
        os.environ["SECRET_KEY"] = secrets.token_urlsafe(48)
    if embedded and "DEMO_PASSWORD" not in given:
        os.environ["DEMO_PASSWORD"] = secrets.token_urlsafe(9)
    if "LOG_STDOUT" not in given:
        # A person reads the page; a pipe or a container's log wants the lines.
        os.environ["LOG_STDOUT"] = "false" if sys.stdout.isatty() else "true"


@contextmanager
def _listen(run: RunSettings) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in run.HOST else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((run.HOST, run.PORT))
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise OSError(f"cannot listen on {run.HOST} port {run.PORT}: {reason}. Set HOST or PORT") from None
        yield listener


def _serve(run: RunSettings, settings: Settings, listener: socket.socket, postgres: EmbeddedPostgres | None) -> None:
    # Imported now, so that a wrong setting is told at once and without a web framework.
    import uvicorn
    import uvloop

    from app.main import create_app

    app = create_app(settings)
    address = f"http://{run.HOST}:{listener.getsockname()[1]}"
    traffic = _Traffic(run, address) if run.TRAFFIC and settings.DEMO_PASSWORD is not None else None

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if traffic is not None:
                traffic.dismiss()
            super().handle_exit(sig, frame)

    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        # The server handles both from here on, and raises them again when it is
        # done: by then all that is left is to clean up, which nothing shall break off.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        serving = _run_all(
            Server(config), listener, app, postgres, traffic, lambda: _banner(run, settings, address, app)
        )
        runner.run(serving)


async def _run_all(
    server: uvicorn.Server,
    listener: socket.socket,
    app: FastAPI,
    postgres: EmbeddedPostgres | None,
    traffic: _Traffic | None,
    banner: Callable[[], str],
) -> None:
    async def open_doors() -> None:
        await app.state.service.database.wait_prepared()
        while not server.started:
            await asyncio.sleep(0.01)
        print(banner(), flush=True)
        if traffic is not None:
            traffic.start()

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


async def _keep_alive(postgres: EmbeddedPostgres) -> None:
    """Start the server again when it died, from this thread: it ends with the thread that starts it."""
    while True:
        await asyncio.sleep(_WATCH_SECONDS)
        if postgres.pid is None:
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
    lines = [
        "",
        f"  {settings.APP_NAME} is running. Ctrl-C stops it.",
        "",
        f"  Dashboard    {address}{app.state.installation.dashboard_start_path}",
        "               (the link opens once; after that the browser has a session)",
        f"  API          {address}/docs",
        f"  Health       {address}/health/ready",
    ]
    if settings.DEMO_PASSWORD is not None:
        password = settings.DEMO_PASSWORD.get_secret_value()
        lines += [
            f"  Accounts     admin (of the service), manager and kitchen (of hanok, pocha, bada); password {password}",
            f"               POST {address}/api/v1/auth/login "
            f'{{"store_id": "hanok", "username": "manager", "password": "{password}"}}',
        ]
    if run.TRAFFIC and settings.DEMO_PASSWORD is not None:
        lines.append(
            f"  Traffic      {run.RATE:g} orders per second, seed {run.SEED}; RATE and SEED change it, TRAFFIC=0 leaves it out"
        )
    else:
        lines.append(
            "  Traffic      none" if not run.TRAFFIC else "  Traffic      none: it needs DEMO_PASSWORD to log in"
        )
    lines.append(
        "  Records      on the dashboard" + ("" if settings.LOG_STDOUT else "; LOG_STDOUT=true prints them here")
    )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
