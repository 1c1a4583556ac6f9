"""
Processes of a test: started with what they need and no more, asked over pipes, killed by pid, and none left behind.

A program under test reads one JSON command per line on standard input and answers each with one JSON line. What it must
be able to say at the very moment of its death it writes to a pipe of its own, the witness: the test holds the other end, so
what was written there outlives the process.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeVar

ROOT = Path(__file__).resolve().parents[2]
FAR_SECONDS = 30.0  # what is not there by then will not come; a slow machine is no reason to fail
FULL = os.environ.get("RFS_FULL") == "1"

T = TypeVar("T")


def size(*, whole: int, small: int) -> int:
    """How much of something a run does: all of it with ``RFS_FULL=1`` (`make faults-full`), else what CI has time for."""
    return whole if FULL else small


def eventually(condition: Callable[[], T], *, seconds: float = FAR_SECONDS, says: Callable[[], object] = str) -> T:
    """
    Ask again and again until *condition* gives something true, and return it.

    Raises:
        AssertionError: It did not within *seconds*; the message is what *says* gives then.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {says()}"
        time.sleep(0.005)
    return found


def reply(answer: object) -> None:
    """In a program: answer the test with one JSON line."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def names_in(directory: Path) -> list[str]:
    """The names of the files in *directory*; none while there is no such directory."""
    try:
        return sorted(path.name for path in directory.iterdir())
    except FileNotFoundError:
        return []


def environment(**more: str) -> dict[str, str]:
    """
    The variables of this process without those that would configure RFS, a terminal or pytest, and with *more*.

    A worker that is busy starts no helper, so that there is no process which the test has not started; `tests.monitoring.test_helper` lets it.
    """
    others = ("RFS_", "XDG_", "COV_", "COLUMNS", "LINES", "PYTEST_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    return {**kept, "PYTHONUNBUFFERED": "1", "RFS_HELPER": "never", **more}


class Process:
    """
    One program of `tests.faults.programs`, running.

    Args:
        program: The module's name.
        arguments: What it is told; the word ``WITNESS`` stands for the number of the witness pipe's end.
        launch: The command that runs a module, its name to be added: what sets a limit or injects faults.
        pass_fds: Further descriptors that it inherits.
        env: All of its variables.

    Leaving the ``with`` block kills it if it still runs.
    """

    def __init__(
        self,
        program: str,
        *arguments: object,
        env: Mapping[str, str] | None = None,
        launch: Sequence[str] = (sys.executable, "-m"),
        pass_fds: Iterable[int] = (),
    ) -> None:
        self.program = program
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        self._witness, end = os.pipe()
        os.set_blocking(self._witness, False)
        told = [str(end) if word == "WITNESS" else str(word) for word in arguments]
        self._popen = subprocess.Popen(
            [*launch, f"tests.faults.programs.{program}", *told],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=ROOT,
            env=dict(env if env is not None else environment()),
            pass_fds=(end, *pass_fds),
        )
        os.close(end)
        self._began = time.monotonic()
        self._lines = b""
        self._selector = selectors.DefaultSelector()
        assert self._popen.stdout is not None
        self._selector.register(self._popen.stdout, selectors.EVENT_READ)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def age_seconds(self) -> float:
        """How long ago it was started."""
        return time.monotonic() - self._began

    @property
    def status(self) -> int | None:
        """How it ended: the exit code, minus the signal's number if it was one; None while it runs."""
        return self._popen.poll()

    def tell(self, **command: Any) -> None:
        """Give it a command."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps(command).encode() + b"\n")
        self._popen.stdin.flush()

    def answer(self, seconds: float = FAR_SECONDS) -> Any:
        """
        Wait for its next answer.

        Raises:
            AssertionError: None came, or the process ended first; with what it said on standard error.
        """
        assert self._popen.stdout is not None
        deadline = time.monotonic() + seconds
        while b"\n" not in self._lines:
            left = deadline - time.monotonic()
            assert left > 0, f"{self.program} did not answer within {seconds:g} s: {self.errors()}"
            if self._selector.select(left):
                part = os.read(self._popen.stdout.fileno(), 1 << 20)
                assert part, f"{self.program} ended with status {self._popen.wait(FAR_SECONDS)}: {self.errors()}"
                self._lines += part
        line, _, self._lines = self._lines.partition(b"\n")
        return json.loads(line)

    def has_answered(self) -> bool:
        """Whether `answer` would not wait."""
        return b"\n" in self._lines or bool(self._selector.select(0))

    def ask(self, **command: Any) -> Any:
        """Give a command and wait for its answer."""
        self.tell(**command)
        return self.answer()

    def witnessed(self) -> bytes:
        """What has come through the witness pipe since the last call. Never waits."""
        parts: list[bytes] = []
        while True:
            try:
                part = os.read(self._witness, 1 << 16)
            except BlockingIOError:
                break
            if not part:
                break
            parts.append(part)
        return b"".join(parts)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._popen.send_signal(number)

    def wait(self, seconds: float = FAR_SECONDS) -> int:
        """Wait for its end and return its status."""
        return self._popen.wait(seconds)

    def kill(self) -> None:
        """``kill -9``, and proof of it: it died of that and of nothing else."""
        assert self.status is None, f"{self.program} was to be killed but had ended: {self.errors()}"
        self.send(signal.SIGKILL)
        assert self.wait() == -signal.SIGKILL

    def errors(self) -> str:
        """What it has said on standard error."""
        # The process writes at the same offset: `pread` does not move it.
        length = os.fstat(self._errors.fileno()).st_size
        return os.pread(self._errors.fileno(), length, 0).decode(errors="replace")

    def end(self) -> None:
        """See to it that it is gone. May be called twice."""
        if self._popen.poll() is None:
            self._popen.kill()
            self._popen.wait(FAR_SECONDS)
        if not self._errors.closed:
            for stream in (self._popen.stdin, self._popen.stdout):
                if stream is not None:
                    with suppress(BrokenPipeError):  # a command it did not live to read
                        stream.close()
            self._selector.close()
            self._errors.close()
            os.close(self._witness)
