"""What the traffic sent and got, counted on its own side of the wire."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Tally:
    """Exact counts of one evening; nothing in them was read from the service's own figures."""

    requests: Counter[tuple[str, str, int]] = field(default_factory=Counter)  # method, route template, status
    orders: Counter[str] = field(default_factory=Counter)  # orders that entered a status, by the service's answers
    failures: Counter[str] = field(default_factory=Counter)  # refused requests, by code
    events: Counter[str] = field(default_factory=Counter)  # events of the streams, by kind
    unanswered: int = 0  # requests that got no answer: the service was away
    events_missed: int = 0  # numbers that a stream jumped over
    events_repeated: int = 0  # numbers that a stream showed twice

    def answered(self, method: str, route: str, status: int, code: str | None) -> None:
        """Count an answer, and its code if it was a refusal."""
        self.requests[method, route, status] += 1
        if code is not None:
            self.failures[code] += 1

    def to_dict(self) -> dict[str, Any]:
        """The counts as JSON can hold them."""
        return {
            "requests": {
                f"{method} {route} {status}": n for (method, route, status), n in sorted(self.requests.items())
            },
            "orders": dict(sorted(self.orders.items())),
            "failures": dict(sorted(self.failures.items())),
            "events": dict(sorted(self.events.items())),
            "unanswered": self.unanswered,
            "events_missed": self.events_missed,
            "events_repeated": self.events_repeated,
        }
