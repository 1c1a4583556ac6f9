"""What the tests of the command line share: the command in this process, in a pipe, or in a terminal of its own."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from contextlib import suppress
from typing import Any, NamedTuple, Self

from typer.testing import CliRunner

from rfs.cli.app import app
from tests.faults.processes import FAR_SECONDS, ROOT, environment


class Answer(NamedTuple):
    """What a command has said, and with which status."""

    status: int
    text: str
    errors: str

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The JSON lines."""
        return [json.loads(line) for line in self.text.splitlines()]


def rfs(*arguments: object) -> Answer:
    """Run the command in this process; its output is a pipe."""
    done = CliRunner().invoke(app, [str(each) for each in arguments], env={"RFS_DIR": None, "RFS_SERVICE_NAME": None})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Answer(done.exit_code, done.stdout, done.stderr)


def command(*arguments: object) -> list[str]:
    """The command line that runs it in a process of its own."""
    return [sys.executable, "-m", "rfs", *(str(each) for each in arguments)]


class Terminal:
    """The command in a terminal of so many columns, in a process of its own."""

    def __init__(self, *arguments: object, columns: int, **more: str) -> None:
        self._screen, end = pty.openpty()
        fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        env = environment(TERM="xterm", PYTHONPATH=os.pathsep.join(sys.path), LC_ALL="C.UTF-8", **more)
        self._popen = subprocess.Popen(
            command(*arguments), stdin=end, stdout=end, stderr=end, cwd=ROOT, env=env, start_new_session=True
        )
        os.close(end)
        os.set_blocking(self._screen, False)
        self._raw = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._popen.poll() is None:
            self._popen.kill()
            self._popen.wait(FAR_SECONDS)
        os.close(self._screen)

    @property
    def raw(self) -> str:
        """All that it has written, colours and all."""
        with suppress(OSError):  # nothing more yet, or the other end is closed
            while part := os.read(self._screen, 1 << 16):
                self._raw += part
        return self._raw.decode(errors="replace")

    @property
    def lines(self) -> list[str]:
        """What a person sees, line by line."""
        return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw).splitlines()]

    def press(self, key: str) -> None:
        """Press keys."""
        os.write(self._screen, key.encode())

    def interrupt(self) -> None:
        """Press Ctrl-C: it has no controlling terminal here, so it is sent what that would send."""
        self._popen.send_signal(2)

    def wait(self) -> int:
        """Wait for its end, and return its status."""
        deadline = time.monotonic() + FAR_SECONDS
        while self._popen.poll() is None:  # it cannot end while what it has written is not read
            assert time.monotonic() < deadline, self.raw
            _ = self.raw
            with suppress(subprocess.TimeoutExpired):
                self._popen.wait(0.02)
        return self._popen.returncode
