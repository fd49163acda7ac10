"""What the history costs, in words for `proxyctl status`."""

from __future__ import annotations

from typing import Any

_MOST_NAMED = 3


def about(size: float) -> str:
    """A number of bytes for people: 1288490189 -> `1.2 GiB`."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} bytes"


def history_pairs(found: dict[str, Any]) -> dict[str, str]:
    """The lines about the size of the history and of the access log; none before the master has looked."""
    pairs = {}
    if used := found.get("bytes"):
        bound = found.get("max_bytes")
        tables = found.get("tables") or []
        largest = ", ".join(f"{one.get('table')} {about(one.get('bytes') or 0)} ({one.get('rows')} rows)" for one in tables[:_MOST_NAMED])
        pairs["history"] = f"{about(used)}{f' of {about(bound)}' if bound else ''}{f', most in {largest}' if largest else ''}"
    if (log := found.get("access_log_bytes")) is not None:
        pairs["access log"] = about(log)
    return pairs
