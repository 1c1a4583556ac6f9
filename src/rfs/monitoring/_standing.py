"""
Which alerts stand, as every process of a directory knows it.

One process evaluates the rules: the one that leads, or the worker whose helper leads. Once a second it tells all others, in the live
file ``alerts-<epoch>``,

    magic 8 · version u32 · crc32 u32 of the MessagePack · evaluated u64 (CLOCK_MONOTONIC, ns) · at u64 (UTC, ns) · MessagePack of `_Told`

which is replaced in one rename when it is to say something else, and of which otherwise only the two times are written anew. Each epoch
has a file of its own, so one who led before, and wakes up, tells nobody.

Who reads it believes it only while that epoch is the highest, its leader lives, his heart beats, and the evaluation is as recent as it
must be. Otherwise nobody knows which alerts stand, which is not the same as none.
"""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime
from struct import Struct
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

from rfs.errors import LiveFileError
from rfs.monitoring._capture.live import LiveDirectory
from rfs.monitoring._live import ALERTS, LEASE_SECONDS, leading_epoch
from rfs.monitoring.alerts import Alert, Rule, Severity

FRESH_SECONDS = LEASE_SECONDS + 1.0  # an evaluation is followed by the next one after a second, or by another leader's
MAX_TOLD = 500  # alerts; of more, the critical ones first, and how many there are
_VERSION = 1
_MAGIC = b"RFSALERT"
_HEAD = Struct("<8sII")
_TIMES = Struct("<QQ")
_BODY_AT = _HEAD.size + _TIMES.size


class Standing(NamedTuple):
    """Which alerts stand, by the last evaluation."""

    alerts: list[Alert]  # at most `MAX_TOLD`, if another process has told them
    active: int  # how many there are
    critical: int  # of them
    rules: int  # that are evaluated

    @classmethod
    def of(cls, alerts: list[Alert], rules: int) -> Standing:
        """Of all *alerts* there are."""
        return cls(alerts, len(alerts), sum(alert.severity == Severity.CRITICAL for alert in alerts), rules)


class _ToldAlert(msgspec.Struct, array_like=True, frozen=True):
    rule: dict[str, Any]
    status: str
    value: float | None
    aggregation: str | None
    episode: int
    notified: bool
    started: datetime | None
    fired_at: datetime | None


class _Told(msgspec.Struct, array_like=True, frozen=True):
    alerts: list[_ToldAlert]
    active: int
    critical: int
    rules: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Told).decode


def tell_standing(directory: LiveDirectory, epoch: int, standing: Standing, *, now_ns: int, time_ns: int) -> None:
    """
    Tell the other processes what stands under the leader of *epoch*, as just evaluated.

    Args:
        now_ns: By CLOCK_MONOTONIC, which all processes of a machine share.
        time_ns: By the wall clock.

    Raises:
        OSError: It cannot be told, and the others do not know.
    """
    name = f"{ALERTS}{epoch}"
    content = pack(standing, now_ns=now_ns, time_ns=time_ns)
    if not _renew(directory, name, content):
        directory.write(name, [content])


def _renew(directory: LiveDirectory, name: str, content: bytes) -> bool:
    """Write the times of *content* into the file, if all else is in there; whatever was done to it, it says what it must."""
    with suppress(OSError):
        file = directory.watch(name)
        try:
            found = os.pread(file, len(content) + 1, 0)
            if found[: _HEAD.size] == content[: _HEAD.size] and found[_BODY_AT:] == content[_BODY_AT:]:
                os.pwrite(file, content[_HEAD.size : _BODY_AT], _HEAD.size)
                return True
        finally:
            os.close(file)
    return False


def read_standing(directory: LiveDirectory, now_ns: int) -> Standing | None:
    """
    What has been told in *directory*, by CLOCK_MONOTONIC's *now_ns*; None: nobody knows at the moment.

    Raises:
        LiveFileError: What was told is damaged, or of another version.
    """
    try:
        epoch = leading_epoch(directory, now_ns)
        name = f"{ALERTS}{epoch}"
        return unpack(directory.read(name), name, now_ns) if epoch else None
    except OSError:
        return None


def pack(standing: Standing, *, now_ns: int, time_ns: int) -> bytes:
    """What a file tells; see `tell_standing`."""
    alerts = standing.alerts
    if len(alerts) > MAX_TOLD:
        alerts = sorted(alerts, key=lambda alert: alert.severity != Severity.CRITICAL)[:MAX_TOLD]
    body = _encode(_Told([_out(alert) for alert in alerts], standing.active, standing.critical, standing.rules))
    return _HEAD.pack(_MAGIC, _VERSION, crc32(body)) + _TIMES.pack(now_ns, time_ns) + body


def unpack(content: bytes, name: str, now_ns: int) -> Standing | None:
    """
    What the file *name* with this *content* tells; None: it is too old for *now_ns*.

    Raises:
        LiveFileError: It is damaged, or of another version.
    """
    if len(content) < _BODY_AT:
        raise LiveFileError(name, f"has {len(content)} bytes; even its header takes {_BODY_AT}")
    magic, version, crc = _HEAD.unpack_from(content)
    if magic != _MAGIC:
        raise LiveFileError(name, f"begins with {magic!r}, not {_MAGIC!r}")
    if version != _VERSION:
        fault = f"has version {version}; this library reads version {_VERSION}"
        raise LiveFileError(name, fault, is_newer=version > _VERSION)
    body = content[_BODY_AT:]
    if crc != crc32(body):
        raise LiveFileError(name, "is damaged: its checksum does not fit")
    evaluated_ns, at_ns = _TIMES.unpack_from(content, _HEAD.size)
    if not 0 <= now_ns - evaluated_ns < FRESH_SECONDS * 1e9:
        return None
    try:
        told = _decode(body)
        at = datetime.fromtimestamp(at_ns / 1e9, UTC)
        alerts = [_in(alert, at) for alert in told.alerts]
    except (ValueError, TypeError) as error:  # what cannot be decoded, or is no rule of this version
        raise LiveFileError(name, f"cannot be read: {error}") from error
    return Standing(alerts, told.active, told.critical, told.rules)


def _out(alert: Alert) -> _ToldAlert:
    return _ToldAlert(
        rule=alert.rule.to_dict(),
        status=alert.status,
        value=alert.current_value,
        aggregation=alert.aggregation,
        episode=alert.episode,
        notified=alert.notified,
        started=_rounded(alert.started),
        fired_at=_rounded(alert.fired_at),
    )


def _in(told: _ToldAlert, at: datetime) -> Alert:
    return Alert(
        rule=Rule(**told.rule),
        event="fire",
        reason="",
        status=told.status,
        current_value=told.value,
        aggregation=told.aggregation,
        episode=told.episode,
        notified=told.notified,
        at=at,
        started=told.started,
        fired_at=told.fired_at,
    )


def _rounded(moment: datetime | None) -> datetime | None:
    """To the millisecond: it is reckoned anew each second, and must not look like news."""
    return None if moment is None else moment.replace(microsecond=moment.microsecond // 1_000 * 1_000)
