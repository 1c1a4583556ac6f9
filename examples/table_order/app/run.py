"""
``python -m app.run``: the whole service for one person, until Ctrl-C.

Starts a PostgreSQL of its own (unless ``DATABASE_URL`` names one), the service's
workers, and the traffic (unless ``TRAFFIC=0``), says where everything is, and stops
all of it within 5 s. A PostgreSQL of its own that dies is started again, and so is
a worker. If this process is killed outright, the kernel ends the others.

What RFS keeps is in ``.state`` beside the program, unless ``RFS_DIR`` says otherwise.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from itertools import count
from pathlib import Path
from typing import Final

from dotenv import dotenv_values
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.core.config import SettingsError, load_settings, read_settings
from app.embedded_postgres import EmbeddedPostgres, EmbeddedPostgresError

_STATE: Final = Path(__file__).resolve().parents[1] / ".state"


class RunSettings(BaseSettings):
    """What can be set for a run, beside the service's own settings."""

    model_config = SettingsConfigDict(
        env_file=".env", case_sensitive=True, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    HOST: str = Field("127.0.0.1", min_length=1, max_length=255)
    PORT: int = Field(8000, ge=0, le=65_535, description="0 takes a free one")
    WORKERS: int = Field(2, ge=1, le=16, description="Processes that serve")
    TRAFFIC: bool = True
    RATE: float = Field(2.0, gt=0, le=1000, description="Orders per second")
    SEED: int = Field(1, ge=0, le=2**31)


def main() -> int:
    """Run until told to stop; 0, 1 if a worker cannot start, or 2 if a setting, the port or PostgreSQL is not usable."""
    # Until the server takes them over, both end the run in order.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        run = read_settings(RunSettings)
        given = {key for key, value in {**dotenv_values(".env"), **os.environ}.items() if value}
        embedded = "DATABASE_URL" not in given
        _prepare_environment(given, embedded=embedded)
        # Before anything is started; an embedded server's address is not known yet.
        settings = load_settings(**({"DATABASE_URL": "postgresql://embedded"} if embedded else {}))
        # RFS enters its directory as soon as it is imported, and under this name.
        os.environ.setdefault("RFS_SERVICE_NAME", settings.APP_NAME)
        with (
            _listen(run) as listener,
            nullcontext() if "RFS_DIR" in os.environ else _own_directory(_STATE),
            EmbeddedPostgres() if embedded else nullcontext() as postgres,
        ):
            if postgres is not None:
                os.environ["DATABASE_URL"] = postgres.url()
            # Imported now: a wrong setting is told without waiting for a web framework.
            from app.serve import WorkerError, serve

            try:
                serve(run, load_settings(), listener, postgres)
            except WorkerError as error:
                print(error, file=sys.stderr)
                return 1
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
def _own_directory(state: Path) -> Generator[None]:
    """
    Let RFS keep its files below *state*, in a directory that no other run uses at the same time.

    Where none can be made, RFS keeps them in memory, and says so in its health.
    """
    for number in count(1):
        directory = state / ("rfs" if number == 1 else f"rfs-{number}")
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(directory / "run.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            print(f"cannot write into {directory}: {error.strerror}. RFS keeps its files in memory", file=sys.stderr)
            os.environ["RFS_DIR"] = ":memory:"
            yield
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        os.environ["RFS_DIR"] = str(directory)
        try:
            yield
        finally:
            os.close(lock)
        return


@contextmanager
def _listen(run: RunSettings) -> Generator[socket.socket]:
    family = socket.AF_INET6 if ":" in run.HOST else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it: head and body of an answer are two writes, and the second must not wait for an ACK.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            listener.bind((run.HOST, run.PORT))
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise OSError(f"cannot listen on {run.HOST} port {run.PORT}: {reason}. Set HOST or PORT") from None
        yield listener


if __name__ == "__main__":
    sys.exit(main())
