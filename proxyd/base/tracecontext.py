"""W3C Trace Context: the field traceparent, read and written (https://www.w3.org/TR/trace-context/)."""

from __future__ import annotations

import re
from typing import NamedTuple

_FIELD = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class Parent(NamedTuple):
    """Where a request comes from: ids as hexadecimal text, and whether its sender records it."""

    trace_id: str
    span_id: str
    sampled: bool


def parse(value: str) -> Parent | None:
    """The parent that a traceparent names, None for one that is not valid (3.2.2): ids of zeros, version ff, more than version 00 has."""
    match = _FIELD.fullmatch(value)
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or version == "00" and more or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return Parent(trace_id, span_id, bool(int(flags, 16) & 1))


def written(trace_id: str, span_id: str) -> str:
    """The traceparent of a span that is recorded."""
    return f"00-{trace_id}-{span_id}-01"
