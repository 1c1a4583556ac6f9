"""
Helpers: a worker whose leading costs it requests lets a process of its own lead.

What a leader does beside its requests makes them dearer, for one interpreter runs one thread at a time. So a worker whose leader's
thread has used more than `BUSY_SHARE` of a core for `BUSY_SECONDS` while it led (see `rfs.monitoring._leader`) starts a helper: another
interpreter, of which the host sees nothing but a child process. The helper is a process of the service as ``rfs serve`` is one. It asks
for the lead (see `rfs.monitoring._live.Lease`), keeps it while its worker lives, and hands it to ``rfs serve`` if that comes. If it
ends, or is killed, a worker leads again, as after any leader.

What is the host's stays in the worker: its alert rules keep their states there and call its functions. The helper is told which rules
there are, reads their values in each second in which it leads, and tells those. It tells what goes wrong, too, and the worker says it.

They talk over a socket pair, the helper's standard input: each message is its length, 4 bytes, and MessagePack. Neither waits for the
other; who does not listen misses a second. The helper ends when the pair is closed or it has got another parent, however its worker
has died. One that speaks otherwise than its worker, because RFS was upgraded beneath it, does not begin.

This module is the worker's side; `rfs.monitoring._helping` is the other one.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from rfs.monitoring.alerts import Rule, Sample
from rfs.monitoring.retention import Retention

VARIABLE = "RFS_HELPER"
NEVER = "never"

PROTOCOL = 1  # another number for other messages, or for another meaning of them

_GREETING_SECONDS = 20.0
_AGAIN_SECONDS = 60.0
_PATH_VARIABLE = "RFS_HELPER_PATH"
# Isolated: nothing of the working directory is imported, and the host's own path takes the place of the interpreter's.
_BOOT = (
    f"import os, sys; sys.path[:] = os.environ.pop({_PATH_VARIABLE!r}).split(os.pathsep); "
    "from rfs.monitoring._helping import main; main()"
)
_PIECE_BYTES = 1 << 16
_LENGTH_BYTES = 4

_encode = msgspec.msgpack.Encoder().encode


class Setting(msgspec.Struct, array_like=True, frozen=True):
    """What a helper is to know before it begins."""

    protocol: int
    directory: str
    service: str
    retention: Retention | None
    parent: int  # process id


class Watched(msgspec.Struct, array_like=True, frozen=True):
    """The alert rules of the worker, each as `Rule.to_dict` tells it; *version* is another number for others."""

    version: int
    rules: list[dict[str, object]]


class Told(msgspec.Struct, array_like=True, frozen=True):
    """
    What a helper tells: the values of all rules of that *version*, none in version 0; how many rules the worker declares that has the
    most; and the problems that it has not told yet.
    """

    version: int = 0
    samples: list[Sample] = []
    declared: float = 0
    problems: list[str] = []


_decode_told = msgspec.msgpack.Decoder(Told).decode


class Channel:
    """
    One end of the pair. Nothing waits, but for `wait`. For one thread at a time; `send` may be in one and the rest in another.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self.is_gone = False  # nobody is at the other end

    def close(self) -> None:
        """Let the other end know that nothing follows; twice is once."""
        self._end.close()
        self.is_gone = True

    def send(self, message: msgspec.Struct) -> bool:
        """Send *message*, unless what was sent before is still on its way: then False, and nothing is done but to push that on."""
        is_free = not self._outgoing
        if is_free:
            content = _encode(message)
            self._outgoing += len(content).to_bytes(_LENGTH_BYTES, "little") + content
        try:
            sent = self._end.send(self._outgoing, socket.MSG_NOSIGNAL)  # whatever the host does at SIGPIPE
        except BlockingIOError:
            return is_free
        except OSError:
            self.is_gone = True
            return False
        del self._outgoing[:sent]
        return is_free

    def receive(self) -> list[bytes]:
        """The messages that have come."""
        try:
            while piece := self._end.recv(_PIECE_BYTES):
                self._incoming += piece
            self.is_gone = True
        except BlockingIOError:
            pass
        except OSError:
            self.is_gone = True
        found: list[bytes] = []
        while len(self._incoming) >= _LENGTH_BYTES:
            end = _LENGTH_BYTES + int.from_bytes(self._incoming[:_LENGTH_BYTES], "little")
            if len(self._incoming) < end:
                break
            found.append(bytes(self._incoming[_LENGTH_BYTES:end]))
            del self._incoming[:end]
        return found

    def wait(self, seconds: float) -> None:
        """Wait until something comes, or the other end is gone, at most so long."""
        asked = select.poll()
        asked.register(self._end, select.POLLIN)
        asked.poll(seconds * 1_000)


class Heard(NamedTuple):
    """What a worker makes of `Told`: the values by the names of the rules that they are of, and how many rules a worker declares."""

    samples: dict[str, tuple[Rule, Sample]]
    declared: float


class Helper:
    """
    The worker's side: starts the process, tells it the rules, and hears what it tells. For the leader's thread; `stop` for any.

    Args:
        on_problem: Told the code and the text of why there can be no helper (``RFS-A102``), once, and what the helper says of itself.
    """

    def __init__(self, on_problem: Callable[[str], None]) -> None:
        self._on_problem = on_problem
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._is_unfit = False  # it has not even begun: there is no use in trying it again
        self._has_greeted = False
        self._started_at = self._again_at = 0.0
        self._rules: list[Rule] = []
        self._version = self._sent_version = 0

    @property
    def pid(self) -> int:
        """Of the helper; 0 if there is none."""
        return self._process.pid if self._channel is not None and self._process is not None else 0

    @property
    def may_start(self) -> bool:
        """Whether there is none, and one might do."""
        return (
            self._channel is None
            and not self._is_unfit
            and time.monotonic() >= self._again_at
            and os.environ.get(VARIABLE) != NEVER
        )

    def start(self, directory: str, service: str, retention: Retention | None) -> None:
        """Start it; `hear` tells the rest."""
        if "python" not in Path(sys.executable or "").name or getattr(sys, "frozen", False):
            # A program that Python is built into: it would begin anew, as a second service.
            self._give_up(f"{sys.executable!r} is no Python")
            return
        path = os.pathsep.join(filter(None, sys.path))
        flags = ["-B"] if sys.dont_write_bytecode else []
        try:
            end, other = socket.socketpair()
        except OSError as error:
            self._give_up(f"there is no socket pair to be had: {error}")
            return
        with other:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - this interpreter
                    [sys.executable, "-I", *flags, "-c", _BOOT, "rfs-helper", service],
                    stdin=other.fileno(),
                    stdout=subprocess.DEVNULL,
                    env={**os.environ, _PATH_VARIABLE: path},
                )
            except (OSError, ValueError) as error:
                end.close()
                self._give_up(f"{sys.executable} cannot be started: {error}")
                return
        self._channel = channel = Channel(end)
        self._has_greeted = False
        self._started_at = time.monotonic()
        self._version, self._sent_version, self._rules = self._version + 1, 0, []
        channel.send(Setting(PROTOCOL, directory, service, retention, os.getpid()))

    def hear(self) -> Heard | None:
        """What it has told since the last time; None: nothing new, or of rules that are others by now."""
        channel = self._channel
        if channel is None:
            return None
        newest: Told | None = None
        for content in channel.receive():
            self._has_greeted = True
            told = _decode_told(content)
            for text in told.problems:
                self._on_problem(text)
            if told.version:
                newest = told
        if channel.is_gone or (not self._has_greeted and time.monotonic() - self._started_at > _GREETING_SECONDS):
            self._lose()
        if newest is None or newest.version != self._version:
            return None
        named = {rule.name: (rule, sample) for rule, sample in zip(self._rules, newest.samples, strict=True)}
        return Heard(named, newest.declared)

    def tell(self, rules: list[Rule]) -> None:
        """Let it read the values of these *rules* from now on."""
        channel = self._channel
        if channel is None or not self._has_greeted:
            return
        if len(rules) != len(self._rules) or any(
            rule is not known for rule, known in zip(rules, self._rules, strict=True)
        ):
            self._rules = rules
            self._version += 1
        if self._sent_version != self._version and channel.send(
            Watched(self._version, [rule.to_dict() for rule in rules])
        ):
            self._sent_version = self._version

    def _lose(self) -> None:
        channel, process = self._channel, self._process
        if channel is None or process is None:
            return
        channel.close()
        self._channel = None
        self._again_at = time.monotonic() + _AGAIN_SECONDS
        if not self._has_greeted:
            process.kill()
            self._give_up(f"{sys.executable} ended, or said nothing for {_GREETING_SECONDS:.0f} s")
        with suppress(subprocess.TimeoutExpired):
            process.wait(1)  # it has let go of its end: it is dead, or just dying

    def _give_up(self, why: str) -> None:
        self._is_unfit = True
        self._on_problem(f"RFS-A102 no process can be started to lead in this one's place, which goes on: {why}")

    def stop(self, timeout_seconds: float) -> None:
        """Let it bring home what there is, and end, within that time; twice is once. It ends also if that is too short."""
        channel, process = self._channel, self._process
        self._channel = None
        if channel is None or process is None:
            return
        channel.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout_seconds)

    def after_fork(self) -> None:
        """In a forked child: it is the parent's."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            self._process.returncode = 0  # nobody here is to wait for it, or to warn that nobody did
            self._process = None
