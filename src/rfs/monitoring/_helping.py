"""
A helper's side of `rfs.monitoring._helper`: the process that leads for a worker.

Its priority is the worker's. With a lower one it would starve where all cores are busy, lose the lead to a worker, and get it again.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterable

import msgspec

from rfs.monitoring._helper import PROTOCOL, Channel, Setting, Told, Watched
from rfs.monitoring.alerts import Rule, Sample
from rfs.monitoring.monitor import Monitor

_WAIT_SECONDS = 0.5
_USELESS_SECONDS = 60.0  # without the lead: another one has it, and keeps it

_decode_watched = msgspec.msgpack.Decoder(Watched).decode
_decode_setting = msgspec.msgpack.Decoder(Setting).decode


class Helping:
    """What the Monitor of a helper tells its worker, by its leader's thread; and hears, by `hear` in another one."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._watched: tuple[int, list[Rule]] = 0, []
        self._said: set[str] = set()

    def hear(self) -> None:
        """Take in which rules there are."""
        for content in self._channel.receive():
            watched = _decode_watched(content)
            self._watched = watched.version, [Rule(**rule) for rule in watched.rules]  # type: ignore[arg-type] # as it told them

    def tell_values(self, read: Callable[[Rule], Sample], declared: float) -> None:
        """Tell the values of all rules, and how many a worker declares."""
        version, rules = self._watched
        if version:
            self._channel.send(Told(version, [read(rule) for rule in rules], declared))

    def tell_problems(self, problems: Iterable[str]) -> None:
        """Tell those that have not been told, some time."""
        new = [text for text in problems if text not in self._said]
        if self._channel.send(Told(problems=new)):
            self._said.update(new)


def main() -> None:
    """Lead for the process at the other end of standard input until that is gone."""
    # They are meant for the worker as well, and it says when this one is to end.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=os.dup(0)))
    setting = _first_message(channel)
    if setting is not None and setting.protocol == PROTOCOL:
        lead_for(setting, channel)


def _first_message(channel: Channel) -> Setting | None:
    while not channel.is_gone:
        channel.wait(_WAIT_SECONDS)
        for content in channel.receive():
            return _decode_setting(content)
    return None


def lead_for(setting: Setting, channel: Channel) -> None:
    """Lead until the worker is gone, or another process has led for a minute."""
    helping = Helping(channel)
    monitor = Monitor(service_name=setting.service, directory=setting.directory, retention=setting.retention)
    monitor.lead_for(helping)
    channel.send(Told())
    monitor.start()
    try:
        led_at = time.monotonic()
        while not channel.is_gone and os.getppid() == setting.parent:
            channel.wait(_WAIT_SECONDS)
            helping.hear()
            now = time.monotonic()
            if monitor.leadership.is_self:
                led_at = now
            elif now - led_at > _USELESS_SECONDS:
                break
    finally:
        monitor.stop()
        channel.close()
