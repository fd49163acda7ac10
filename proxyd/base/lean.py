"""Starts that take no longer than they must: each process of proxyd starts with these.

What is saved here is a third of a worker's start, each time that one is replaced.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from gevent import events, monkey


def patch_all() -> None:
    """gevent's patch of the standard library, without its search for plugins, which reads the metadata of all installed packages once
    for each module that is patched."""
    search = events.notify_and_call_entry_points
    events.notify_and_call_entry_points = events.notify
    try:
        monkey.patch_all()
    finally:
        events.notify_and_call_entry_points = search


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Import a library as it is where optional libraries of its own, which proxyd does not use through it, are not installed. Those that
    are imported already stay as they are."""
    absent = [name for name in names if name not in sys.modules]
    for name in absent:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
