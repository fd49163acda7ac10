"""The bound on open files of a process: each connection is one, and shells hand on a soft limit of 1024 for the sake of programs
that use select(2). None of ours does for connections, so every process takes what it may have."""

from __future__ import annotations

import resource

_ENOUGH = 1 << 20


def raise_limit() -> int:
    """Raise the soft limit to the hard one, at most to a million; returns the limit that holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return _ENOUGH if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return soft
    return wanted
