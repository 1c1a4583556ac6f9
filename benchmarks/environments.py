"""
The environments of the peers: each peer has its own, so that no one's dependencies change another's.

They are made once from `peers/*.lock`, which pin every package by hash, and are used offline from then on. Renew the
locks with ``python -m benchmarks.environments`` (needs uv, which ``make install`` brings).

Packages are installed without resolving dependencies: a lock holds all that the measured code needs. For the ancestor that
is itself alone; the fifty packages it names are for parts that are not measured here. The tests of the ClickHouse store use the
environment of chdb, too.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "benchmarks" / "peers"
ENVIRONMENTS = ROOT / ".venv-bench"

# What each environment is asked to hold. `stack` is what a FastAPI service would otherwise be given.
PEERS = {
    "aioprometheus": ["aioprometheus"],
    "ancestor": ["rfs-framework==4.6.6"],
    "chdb": ["chdb-core-lite"],
    "duckdb": ["duckdb"],
    "logfire": ["logfire"],
    "loguru": ["loguru"],
    "looptime": ["looptime"],
    "opentelemetry": ["opentelemetry-sdk"],
    "picologging": ["picologging", "orjson"],
    "prometheus_client": ["prometheus-client"],
    "python_json_logger": ["python-json-logger"],
    "returns": ["returns"],
    "sentry": ["sentry-sdk"],
    "stack": [
        "asgi-correlation-id",
        "fastapi",
        "httptools",
        "opentelemetry-instrumentation-fastapi",
        "opentelemetry-sdk",
        "orjson",
        "prometheus-client",
        "prometheus-fastapi-instrumentator",
        "structlog",
        "uvicorn",
        "uvloop",
    ],
    "structlog": ["structlog", "orjson"],
}
WITHOUT_DEPENDENCIES = {"ancestor"}
FROM_SOURCE = ("quantile-python",)  # published without wheels, and pure Python


def say(text: str) -> None:
    """Print one line of progress at once, also into a pipe."""
    print(f"bench: {text}", flush=True)


def lock_of(peer: str) -> Path:
    """Return where the lock of *peer* is."""
    return LOCKS / f"{peer}.lock"


def python_of(peer: str) -> Path:
    """Return the interpreter of the environment of *peer*."""
    return ENVIRONMENTS / peer / "bin" / "python"


def pinned(peer: str) -> dict[str, str]:
    """Return the versions that the lock of *peer* pins, by name."""
    return dict(re.findall(r"^([a-z0-9-]+)==([^\s;\\]+)", lock_of(peer).read_text(), re.MULTILINE))


def _stamp(peer: str) -> str:
    return hashlib.sha256(lock_of(peer).read_bytes() + sys.version.encode()).hexdigest()


def is_ready(peer: str) -> bool:
    """Tell whether the environment of *peer* is there and is the lock's; starts nothing."""
    stamp = ENVIRONMENTS / peer / ".stamp"
    return python_of(peer).exists() and stamp.is_file() and stamp.read_text() == _stamp(peer)


def prepare(peer: str) -> str:
    """Make the environment of *peer* if it is not there, and return "", or what pip said when it could not."""
    ENVIRONMENTS.mkdir(exist_ok=True)
    with (ENVIRONMENTS / f"{peer}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # two processes of the tests may ask at once: the second finds it made
        return "" if is_ready(peer) else _make(peer)


def _make(peer: str) -> str:
    say(f"making the environment of {peer} ...")
    home = ENVIRONMENTS / peer
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", home], check=True)
    command = [sys.executable, "-m", "pip", f"--python={python_of(peer)}", "install", "--no-deps", "--require-hashes"]
    command += ["--quiet", "--disable-pip-version-check", "--only-binary=:all:"]
    command += [*(f"--no-binary={package}" for package in FROM_SOURCE), "-r", str(lock_of(peer))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
    (home / ".stamp").write_text(_stamp(peer))
    return ""


def lock(peer: str) -> None:
    """Renew the lock of *peer*; where it has packages that RFS' own environment has, too, at the same versions."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "-", "--quiet", "--universal", "--python-version", "3.11"]
    command += ["--generate-hashes", "--no-emit-index-url", "--no-header", "--no-annotate"]
    command += ["-c", "requirements/run.lock", "-o", str(lock_of(peer))]
    if peer in WITHOUT_DEPENDENCIES:
        command.append("--no-deps")
    subprocess.run(command, input="\n".join(PEERS[peer]), text=True, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    for name in PEERS:
        say(f"locking {name} ...")
        lock(name)
