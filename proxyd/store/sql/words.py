"""Words between the masters of a PostgreSQL database's hosts, by NOTIFY: what one asks of all the others, that one has done it, and what
happened on a host that does not lead. They are JSON objects. One that comes while nobody listens is lost: what must not be lost is a row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from proxyd.store.sql.database import database

CHANNEL = "proxyd_said"
#: The channels of what is not a word: a config version was committed; all workers of a host route by one ("VERSION HOST").
COMMITTED, REACHED = "proxyd_committed", "proxyd_reached"
#: Longest text that the server takes, in bytes.
_MOST = 7999


def say(word: Mapping[str, Any]) -> None:
    """Say it to all who listen, when this transaction is committed. A word that is too long is not said. Runs in the database thread."""
    text = json.dumps(word)
    if len(text) <= _MOST:
        database.execute_sql("SELECT pg_notify(%s, %s)", (CHANNEL, text))


def understood(news: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """The words among what was told (channel and text)."""
    found = []
    for channel, text in news:
        if channel == CHANNEL:
            try:
                word = json.loads(text)
            except ValueError:
                continue
            if isinstance(word, dict):
                found.append(word)
    return found


def committed(news: list[tuple[str, str]]) -> int:
    """Of what was told, the newest config version that was committed; 0 for none."""
    return max((int(text) for channel, text in news if channel == COMMITTED and text.isdecimal()), default=0)


def reached_by(news: list[tuple[str, str]]) -> list[tuple[str, int]]:
    """Of what was told, which host's workers all route by which version."""
    found = []
    for channel, text in news:
        version, _, host = text.partition(" ")
        if channel == REACHED and host and version.isdecimal():
            found.append((host, int(version)))
    return found
