"""
How long history is kept.

The limits are for the store in a directory. What is above one goes within a minute, the oldest first.
"""

from __future__ import annotations

from math import inf

import msgspec

from rfs.errors import RetentionError

__all__ = ["Retention"]

_HOUR, _DAY = 3_600, 86_400


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """
    How long a store keeps what.

    Args:
        records_seconds: How long records are kept; a chunk of them goes when its newest record is older.
        records_bytes: How large all chunks of records may be together, on the disk.
        second: How long windows of one second are kept, in seconds; likewise *ten_seconds*, *minute* and *hour*. Those of an hour are
            kept longest: none of a finer tier is kept without them.
        windows_bytes: How large the windows of all tiers may be together.

    Lifetime totals are kept for ever, and are few bytes.

    Raises:
        RetentionError: One of them is negative, or not a number.
    """

    records_seconds: float = 7 * _DAY
    records_bytes: int = 2 << 30
    second: float = _HOUR
    ten_seconds: float = _DAY
    minute: float = 30 * _DAY
    hour: float = 400 * _DAY
    windows_bytes: int = 512 << 20

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if not 0 <= value <= inf:
                raise RetentionError(name, value)

    def age(self, width: int) -> float:
        """How long the tier with slots of *width* seconds is kept."""
        return {1: self.second, 10: self.ten_seconds, 60: self.minute, _HOUR: self.hour}[width]
