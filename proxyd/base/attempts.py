"""How often somebody failed to log in: counted for registry and admin HTTP alike."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

WINDOW = 60.0
_MAX_SUBJECTS = 10_000


class FailedAttempts:
    """Failures of the last minute, by whose they are; `most` of them are allowed. Those who failed longest ago are forgotten first.

    Ask only after the token has been looked at: whoever shares an address with somebody that guesses must not be locked out with him.
    `now` is monotonic seconds.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._failures: OrderedDict[str, list[float]] = OrderedDict()

    def wait(self, address: str, now: float) -> int:
        """Seconds until the address may fail again; 0 if it may now."""
        recent = self._recent(subject(address), now)
        return max(1, round(WINDOW - (now - recent[0]))) if len(recent) >= self._most else 0

    def count(self, address: str, now: float) -> None:
        """The address failed once more."""
        whose = subject(address)
        self._failures[whose] = [*self._recent(whose, now), now][-self._most:]
        self._failures.move_to_end(whose)
        if len(self._failures) > _MAX_SUBJECTS:
            self._failures.popitem(last=False)

    def _recent(self, whose: str, now: float) -> list[float]:
        return [at for at in self._failures.get(whose, ()) if now - at < WINDOW]


def subject(address: str) -> str:
    """Whose attempts are counted together: an IPv6 customer has a whole /64 to come from."""
    try:
        ip = ipaddress.ip_address(address.strip("[]"))
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address) and not ip.ipv4_mapped:
        return str(ipaddress.ip_network((int(ip), 64), strict=False))
    return address
