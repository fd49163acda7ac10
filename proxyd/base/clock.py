"""The clock of everything that is waited for: nobody sets it.

The time of day may jump: an operator sets it, NTP sets a clock right that was hours off. A drain, an open circuit or a session's
grace must not end early or last longer for that. So they go by the kernel's clock since its start (CLOCK_BOOTTIME), which is the
same for all processes of a host. `now` gives it as Unix seconds: it begins at the time of day that it was when this process
started, and then runs evenly. What is shown goes by the time of day (`shown`).

What other processes read holds seconds since the boot (`to_boot`). What may outlive the boot, or is read by another host, is a
`mark` and the time of day beside it: on the same boot the mark counts, and so it does elsewhere as long as that boot's clock is known
(`learn`). Else the time of day tells.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from hashlib import blake2b
from pathlib import Path

#: Seconds since the kernel's start, those in suspend included.
boot_seconds = partial(time.clock_gettime, time.CLOCK_BOOTTIME)
_BEGIN = time.time() - boot_seconds()


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


#: Of this start of the kernel; empty where it can't be known.
BOOT_ID = _boot_id()
#: The same in 16 bytes, for files of shared memory.
BOOT_MARK = blake2b(BOOT_ID.encode(), digest_size=16).digest()

#: Other boots whose clocks are known, and the instant of `now` at which each of them began.
_begins: dict[str, float] = {}


def now() -> float:
    """Seconds that run evenly, near Unix seconds. Only this process may compare them."""
    return boot_seconds() + _BEGIN


def to_boot(moment: float) -> float:
    """Seconds since the kernel's start, for other processes of this host, of an instant of `now`."""
    return moment - _BEGIN


def from_boot(seconds: float) -> float:
    """The instant, as `now` has it, of seconds since the kernel's start."""
    return seconds + _BEGIN


def shift() -> float:
    """By how many seconds the time of day has been set since this process started. In whole ones: it is steered all the time."""
    return float(round(time.time() - now()))


def shown(moment: float) -> float:
    """Unix seconds by the present time of day of an instant of `now`; 0.0, which stands for never, stays that."""
    return moment + shift() if moment else moment


def mark(moment: float) -> str:
    """Text to remember an instant of `now` by, beside its time of day."""
    return f"{BOOT_ID} {to_boot(moment):.3f}"


def learn(clocks: Iterable[tuple[str, float]]) -> None:
    """Learn the clocks of other hosts, each as the mark of an instant and the instant, in place of all that were known."""
    found = {}
    for marked, moment in clocks:
        boot, _, seconds = marked.partition(" ")
        if boot and boot != BOOT_ID:
            found[boot] = moment - float(seconds)
    _begins.clear()
    _begins.update(found)


def remembered(marked: str | None, unix: float, ahead: bool = False) -> float:
    """The instant, as `now` has it, of a mark and its time of day. Of a boot whose clock nobody knows any more only the time of day tells;
    no instant lies in the future then, unless it may (`ahead`)."""
    boot, _, seconds = (marked or "").partition(" ")
    if boot and boot == BOOT_ID:
        return from_boot(float(seconds))
    if boot in _begins:
        return _begins[boot] + float(seconds)
    return unix - shift() if ahead else min(unix - shift(), now())
