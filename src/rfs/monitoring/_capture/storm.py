"""
Storms: how much one call site may record.

A loop that logs on every turn makes hundreds of thousands of records a second, all alike, and pushes everybody else's out
of the segment and the store. Each site therefore has a token bucket. What it refuses is not recorded, but counted: by the
Monitor in the books, and here for the line that says how many there were.

A site is a text at a level from a logger inside an operation: what can be told without looking at the stack, which costs
twice as much. Texts that are made anew each time (an f-string) are told apart for the first 64 of a logger, operation and
level; further ones share one bucket, so that memory and such a storm are bounded, too.

**The limit** is 20,000 a second, and as many at once. One CPython process answers at most some 12,000 requests a second with
the leanest of routes, so what is written once per request stays below it, and a storm, ten times above, does not. As many at
once are 7 of a segment's 16 MiB: one site alone cannot fill it.

Nothing here takes a lock, does I/O, or calls what the host handed in, but the clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

DEFAULT_LIMIT = 20_000.0  # records per second and site; also how many at once
MAX_SITES = 4_096
MAX_PLACES = 512
MAX_TEXTS_PER_PLACE = 64
MAX_TEXT_CHARACTERS = 200  # texts alike so far are one site
_PAUSE_SECONDS = 0.01  # an empty bucket is refilled at most this often


class Suppressed(NamedTuple):
    """What one site was refused since the last report."""

    logger: str
    operation: str
    level: int
    message: str  # as it was handed in, not masked; empty for a place's texts that are not told apart
    times: int


class _Bucket:
    """The tokens of one site."""

    __slots__ = ("left", "refilled_at", "reported", "seen", "suppressed", "texts")

    def __init__(self, left: float, now: float) -> None:
        self.left = left
        self.refilled_at = now
        self.suppressed = 0
        self.reported = 0  # of the suppressed; written by `report` alone
        self.seen = -1.0  # `left` at the last report
        self.texts = 0  # of a place: how many of its texts have buckets of their own


_Site = tuple[str, str, str, int]  # message, logger, operation, level
_Place = tuple[str, str, int]


class Storms:
    """
    Says of each record whether its site may record more.

    Args:
        monotonic: A clock in seconds that never goes back.
        limit: Records per second and site, and how many at once; at least 1.

    Safe from any thread and signal handler: between reading and changing a bucket no call is made. ``report`` is for one
    thread at a time.
    """

    __slots__ = ("_beyond", "_limit", "_monotonic", "_places", "_sites")

    def __init__(self, monotonic: Callable[[], float], limit: float = DEFAULT_LIMIT) -> None:
        self._monotonic = monotonic
        self._limit = max(1.0, float(limit))
        self._sites: dict[_Site, _Bucket] = {}
        self._places: dict[_Place, _Bucket] = {}
        self._beyond = self._bucket()

    def _bucket(self) -> _Bucket:
        return _Bucket(self._limit, self._monotonic())

    def allow(self, logger: str, operation: str, level: int, message: str) -> bool:
        """
        Take a token of the site; False when it has none left. Never raises for arguments of these exact types.

        What is of another type is allowed: to look it up would run its own ``__hash__``.
        """
        if type(message) is not str or type(logger) is not str or type(operation) is not str:
            return True
        if len(message) > MAX_TEXT_CHARACTERS:
            message = message[:MAX_TEXT_CHARACTERS]
        try:
            bucket = self._sites[message, logger, operation, level]
        except KeyError:
            bucket = self._new_site(message, logger, operation, level)
        left = bucket.left
        if left >= 1.0:
            bucket.left = left - 1.0
            return True
        return self._refilled(bucket)

    def _new_site(self, message: str, logger: str, operation: str, level: int) -> _Bucket:
        place = self._places.get((logger, operation, level))
        if place is None:
            if len(self._places) >= MAX_PLACES:
                return self._beyond
            place = self._places.setdefault((logger, operation, level), self._bucket())
        # Two threads may pass here at once: the bounds are exceeded by as many as there are threads, no more.
        if place.texts >= MAX_TEXTS_PER_PLACE or len(self._sites) >= MAX_SITES:
            return place
        bucket = self._sites.setdefault((message, logger, operation, level), self._bucket())
        place.texts += 1
        return bucket

    def _refilled(self, bucket: _Bucket) -> bool:
        now = self._monotonic()
        # No call from here on: of several threads that come at once, one refills, and the others take from what it gave.
        left = bucket.left
        waited = now - bucket.refilled_at
        if waited >= _PAUSE_SECONDS:
            bucket.refilled_at = now
            left += waited * self._limit
            if left > self._limit:
                left = self._limit
        if left >= 1.0:
            bucket.left = left - 1.0
            return True
        bucket.left = left
        bucket.suppressed += 1
        return False

    def report(self) -> list[Suppressed]:
        """What was refused since the last report, by site; forgets sites that nobody used since."""
        told: list[Suppressed] = []
        for site, bucket in tuple(self._sites.items()):
            message, logger, operation, level = site
            if not _tell(told, bucket, logger, operation, level, message):
                del self._sites[site]
                place = self._places.get((logger, operation, level))
                if place is not None and place.texts > 0:
                    place.texts -= 1
        for (logger, operation, level), place in tuple(self._places.items()):
            if not _tell(told, place, logger, operation, level, "") and not place.texts:
                del self._places[logger, operation, level]
        _tell(told, self._beyond, "", "", 0, "")
        return told

    def after_fork(self) -> None:
        """In a forked child: what the parent suppressed, the parent reports."""
        for bucket in (*self._sites.values(), *self._places.values(), self._beyond):
            bucket.reported = bucket.suppressed


def _tell(told: list[Suppressed], bucket: _Bucket, logger: str, operation: str, level: int, message: str) -> bool:
    """Add what *bucket* refused to *told*; whether it was used since the last report."""
    suppressed, left = bucket.suppressed, bucket.left
    count = suppressed - bucket.reported
    used = count > 0 or left != bucket.seen
    bucket.reported, bucket.seen = suppressed, left
    if count > 0:
        told.append(Suppressed(logger, operation, level, message, count))
    return used
