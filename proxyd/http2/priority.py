"""Priorities of answers (RFC 9218): the field `priority` of a request, and the same in a PRIORITY_UPDATE frame."""

from __future__ import annotations

import re

#: The urgency of those who say none; 0 goes first, 7 last.
USUAL = 3
_URGENCY = re.compile(rb"(?:^|,)[ \t]*u=([0-7])[ \t]*(?=$|[,;])")
_INCREMENTAL = re.compile(rb"(?:^|,)[ \t]*i(?:=\?([01]))?[ \t]*(?=$|[,;])")


def parse_priority(value: bytes) -> tuple[int, bool]:
    """Urgency, and whether the answer is of use in parts: such ones take turns, others go one by one. What can't be read counts as
    not said (RFC 9218 4)."""
    urgency = _URGENCY.search(value)
    incremental = _INCREMENTAL.search(value)
    return int(urgency[1]) if urgency else USUAL, bool(incremental) and incremental[1] != b"0"  # type: ignore[index]
