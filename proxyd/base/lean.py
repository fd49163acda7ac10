"""Starts that take no longer than they must: each process of proxyd starts with these.

What is saved here is most of a worker's start, each time that one is replaced, and the memory that its code takes.
"""

from __future__ import annotations

import gc
import importlib
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from gevent import config, events, monkey
from gevent.local import local
from gevent.ssl import SSLContext as GeventSSLContext

#: What gevent's patch imports itself. A child that imports it must find it where it was, also while another version is installed.
_PATCH_NEEDS = ("_threading_local", "gevent.selectors", f"gevent.monkey._patch_thread_{'gte' if sys.version_info >= (3, 13) else 'lt'}313")


def patch_all() -> None:
    """gevent's patch of the standard library, without its search for plugins, which reads the metadata of all installed packages once
    for each module that is patched. And greenlets do not remember who spawned them: nobody asks, and it takes more than half of the
    time of a spawn, and 700 bytes of each greenlet."""
    config.track_greenlet_tree = False
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


@contextmanager
def uncollected() -> Iterator[None]:
    """Make very many objects that stay. Looking for cycles among them over and over would take most of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def preload(*names: str) -> None:
    """Import modules into a process that is not patched, for children that are forked from it and patch themselves then.

    The patch replaces what modules of the standard library have. Hence only what a module takes out of one as it is imported stays
    unpatched: a test lists what that is. Two classes of the library must not be: those made from threading.local get the one that
    greenlets need, and urllib3 gets gevent's SSLContext, for the library's own calls itself without end once it is patched.
    Raises whatever an import does.
    """
    ours = threading.local, ssl.SSLContext
    threading.local, ssl.SSLContext = local, GeventSSLContext  # type: ignore[misc]
    try:
        for name in names:
            importlib.import_module(name)
        for name in _PATCH_NEEDS:
            # Other versions of gevent have other ones.
            with suppress(ImportError):
                importlib.import_module(name)
    finally:
        threading.local, ssl.SSLContext = ours  # type: ignore[misc]
    # A collection would write to each object, and so copy the memory that children share.
    gc.collect()
    gc.freeze()
