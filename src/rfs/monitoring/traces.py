"""
Trace headers of W3C Trace Context (Recommendation of 23 November 2021), in and out.

A finished operation is a span: its record carries trace, span and parent ids, start and duration. There is no second kind of
object for it.
"""

from __future__ import annotations

import re

from rfs.monitoring.context import Context, current

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z")
_LONGEST_TRACEPARENT = 512


def parse_traceparent(header: str) -> tuple[str, str, bool] | None:
    """
    Read a ``traceparent`` header: (trace id, parent span id, sampled), or None if it breaks the grammar.

    Higher versions are read by the fields of version 00, as section 3.2.4 of the Recommendation asks; version ff, all-zero
    ids and upper case are invalid.
    """
    if len(header) > _LONGEST_TRACEPARENT:
        return None
    match = _TRACEPARENT.match(header.strip())
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest) or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return trace_id, span_id, bool(int(flags, 16) & 1)


def format_traceparent(context: Context) -> str:
    """The ``traceparent`` header that makes a callee's span a child of *context*'s; its parent must not be empty."""
    return f"00-{context.trace_id}-{context.span_id}-{'01' if context.sampled else '00'}"


def outbound_headers() -> dict[str, str]:
    """
    Headers to send with an outbound call so that it joins this request; empty outside any context.

    Send them only to hosts you trust with the ids.
    """
    context = current()
    if context is None:
        return {}
    headers = {"X-Correlation-ID": context.correlation_id}
    if context.span_id:
        headers["traceparent"] = format_traceparent(context)
    return headers
