"""What a worker tells the arbiter of its start, in the file that both have from gunicorn: its time is the worker's sign of life."""

from __future__ import annotations

import os
from typing import Any

_ACCEPTS, _FAILED, _STOPPED = b"+", b"-", b"0"
#: Bytes that a worker may say of why it could not start.
_MOST_SAID = 16_384


def tell_accepting(worker: Any) -> None:
    """In a worker: tell the arbiter that clients are accepted now."""
    os.pwrite(worker.tmp.fileno(), _ACCEPTS, 0)
    # The file's time is the worker's sign of life, and writing has set it by another clock.
    worker.notify()


def tell_failure(worker: Any, why: str) -> None:
    """In a worker that can't start: tell the arbiter why."""
    os.pwrite(worker.tmp.fileno(), _FAILED + why.encode(errors="replace")[:_MOST_SAID], 0)


def tell_stopped(worker: Any) -> None:
    """In a worker: tell the arbiter that it was asked to stop before it accepted clients."""
    os.pwrite(worker.tmp.fileno(), _STOPPED, 0)
    worker.notify()


def accepts(worker: Any) -> bool:
    """In the arbiter: whether that worker has told that it accepts clients."""
    return _said(worker)[:1] == _ACCEPTS


def stands(worker: Any) -> bool:
    """In the arbiter: whether that worker, when it ends, has not failed to start: it has accepted clients, or was asked to stop before."""
    return _said(worker)[:1] in (_ACCEPTS, _STOPPED)


def failure(worker: Any) -> str:
    """In the arbiter: what that worker has told of why it can't start; empty if it has told nothing."""
    said = _said(worker)
    return said[1:].decode(errors="replace") if said[:1] == _FAILED else ""


def _said(worker: Any) -> bytes:
    try:
        return os.pread(worker.tmp.fileno(), 1 + _MOST_SAID, 0)
    except (OSError, ValueError):
        return b""
