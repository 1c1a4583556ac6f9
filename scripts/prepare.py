"""
Prepares `.venv` for one of the Makefile's targets: `python scripts/prepare.py run|test|dev`.

Each group has a lock in `requirements/`, with hashes; a later group contains
the earlier ones at the same versions. What is installed is written into the
environment, so that the second time nothing is asked of the network: the
check reads three small files.

Needs the standard library alone, because nothing else is there yet. Two
calls at once wait for each other.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GROUPS = ("run", "test", "dev")  # each contains the ones before it


class PrepareError(Exception):
    """Something that the person at the keyboard can mend; its text says how."""


def say(text: str) -> None:
    """Print one line of progress at once, also into a pipe."""
    print(f"rfs: {text}", flush=True)


def may_use_apt() -> bool:
    """Tell whether Debian packages can be installed without asking anybody."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def apt_install(packages: Sequence[str]) -> None:
    """
    Install Debian packages, the lists brought up to date first.

    Raises:
        PrepareError: apt-get failed; the text names the packages.
    """
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    say(f"installing the Debian packages {' '.join(packages)} ...")
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        done = subprocess.run(
            ["apt-get", "-q", *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        if done.returncode:
            tail = "\n".join(done.stdout.decode(errors="replace").splitlines()[-15:])
            raise PrepareError(f"apt-get {command[0]} failed:\n{tail}\ninstall by hand: {' '.join(packages)}")


def stamp_of(group: str, root: Path = ROOT) -> str:
    """
    Return what the environment must say to be up to date for *group*.

    The folder is part of it: an environment that was moved or copied along
    with its clone would run the code of the old place.
    """
    digest = hashlib.sha256(os.fsencode(root))
    for part in (root / "requirements" / f"{group}.lock", root / "pyproject.toml"):
        digest.update(part.read_bytes())
    return digest.hexdigest()


def is_ready(group: str, root: Path = ROOT) -> bool:
    """Tell whether `.venv` has all of *group*; reads files, starts nothing."""
    venv = root / ".venv"
    stamp = venv / f".installed-{group}"
    # The interpreter is a link: it leads nowhere when the system's Python was replaced.
    return (venv / "bin" / "python").exists() and stamp.is_file() and stamp.read_text() == stamp_of(group, root)


def lock_of(group: str, root: Path = ROOT) -> dict[str, str]:
    """Return the pins of a lock file, name to version; a marker's alternatives count once."""
    pins = {}
    for line in (root / "requirements" / f"{group}.lock").read_text().splitlines():
        name, separator, rest = line.partition("==")
        if separator and not line.startswith((" ", "#")):
            pins[name] = rest.split()[0]
    return pins


def make_environment(venv: Path) -> None:
    """
    Make an empty virtual environment with pip in it.

    Raises:
        PrepareError: Debian's `venv` package is missing and may not be installed.
    """
    package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
    say(f"making .venv with Python {sys.version.split()[0]} ...")
    command = [sys.executable, "-m", "venv", "--clear", str(venv)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and may_use_apt():
        apt_install([package])
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr).strip()
        raise PrepareError(f"cannot make .venv; on Debian, install the package {package}. Python said:\n{said}")


def pip(venv: Path, arguments: Iterable[str], *, expected: int = 0) -> None:
    """
    Run the environment's pip and show how far it is.

    Args:
        venv: The environment.
        arguments: What follows `pip install`.
        expected: How many packages will be collected; 0 prints nothing.

    Raises:
        PrepareError: pip failed; the text has the end of what it said.
    """
    command = [str(venv / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
    command += ["--no-input", "--progress-bar", "off", *arguments]
    environment = {**os.environ, "PIP_ROOT_USER_ACTION": "ignore", "PYTHONUNBUFFERED": "1"}
    said: list[str] = []
    collected = 0
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    ) as process:
        for line in process.stdout or ():
            said.append(line.rstrip())
            # The second word is a requirement, or the path of a file that is at hand already.
            if expected and line.startswith(("Collecting ", "Processing ")):
                collected += 1
                say(f"  [{collected}/{expected}] {Path(line.split()[1]).name}")
            elif expected and line.startswith("Installing collected packages"):
                say("  unpacking ...")
    if process.returncode:
        raise PrepareError("pip failed:\n" + "\n".join(said[-15:]))


def install(group: str) -> None:
    """Bring `.venv` up to *group*, and say which groups it now has."""
    venv = ROOT / ".venv"
    for stamp in venv.glob(".installed-*"):
        if stamp.read_text() != stamp_of(stamp.name.removeprefix(".installed-")):
            stamp.unlink()
    if not any(is_ready(known) for known in GROUPS):
        make_environment(venv)

    pins = lock_of(group)
    say(f"installing {len(pins)} packages from requirements/{group}.lock ...")
    pip(venv, ["--require-hashes", "-r", f"requirements/{group}.lock"], expected=len(pins))
    pip(venv, ["--no-deps", "--no-index", "--no-build-isolation", "-e", "."])
    for contained in GROUPS[: GROUPS.index(group) + 1]:
        (venv / f".installed-{contained}").write_text(stamp_of(contained))


# What the tests drive beside Python: a program that tells whether it is there, its Debian package, what needs it.
PEERS = (
    ("chromium", "chromium", "the browser tests"),
    ("gcc", "gcc", "the fault tests"),
    ("fusermount3", "fuse3", "the fault tests"),
    ("promtool", "prometheus", "the interop tests"),
    ("strace", "strace", "the fault tests"),
)
C_HEADER = Path("/usr/include/dlfcn.h")


def missing_test_peers() -> dict[str, str]:
    """Return what the tests miss on this machine: Debian package to what it is for."""
    missing = {package: purpose for program, package, purpose in PEERS if shutil.which(program) is None}
    if not C_HEADER.exists():
        missing["libc6-dev"] = "the fault tests"  # gcc only recommends it
    fonts = (
        subprocess.run(["fc-list", ":lang=ko"], capture_output=True, check=False) if shutil.which("fc-list") else None
    )
    if fonts is None or not fonts.stdout.strip():
        missing["fonts-nanum"] = "Korean text in the browser tests"
    return missing


def prepare_test_peers(environment: Mapping[str, str]) -> None:
    """
    Install the programs that tests drive, or name them.

    Raises:
        PrepareError: One is missing where `CI` is set, where a skipped test would hide it.
    """
    missing = missing_test_peers()
    if missing and may_use_apt():
        # fontconfig is what answers the question about fonts.
        apt_install([*missing, "fontconfig"])
        missing = missing_test_peers()
    if not missing:
        return
    text = "; ".join(f"{purpose} need the Debian package {package}" for package, purpose in missing.items())
    if environment.get("CI"):
        raise PrepareError(text)
    say(f"{text}: without it they are skipped")


def main(arguments: Sequence[str]) -> int:
    """Prepare the named group; the exit status is 0 when it is there."""
    if len(arguments) != 1 or arguments[0] not in GROUPS:
        say(f"usage: prepare.py {'|'.join(GROUPS)}")
        return 2
    group = arguments[0]
    started = time.monotonic()
    folder = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if not is_ready(group):
            install(group)
            say(f".venv is ready after {time.monotonic() - started:.0f} s")
        if group != "run":
            prepare_test_peers(os.environ)
    except PrepareError as error:
        say(str(error))
        return 1
    finally:
        os.close(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
