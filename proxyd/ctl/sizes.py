"""What the history costs, in words for `proxyctl status`."""

from __future__ import annotations

from typing import Any

from proxyd.base.text import about_size

_MOST_NAMED = 3


def history_pairs(found: dict[str, Any]) -> dict[str, str]:
    """The lines about the size of the history and of the access log; none before the master has looked."""
    pairs = {}
    if used := found.get("bytes"):
        bound = found.get("max_bytes")
        tables = found.get("tables") or []
        largest = ", ".join(f"{one.get('table')} {about_size(one.get('bytes') or 0)} ({one.get('rows')} rows)"
                            for one in tables[:_MOST_NAMED])
        pairs["history"] = f"{about_size(used)}{f' of {about_size(bound)}' if bound else ''}{f', most in {largest}' if largest else ''}"
    if (log := found.get("access_log_bytes")) is not None:
        pairs["access log"] = about_size(log)
    return pairs
