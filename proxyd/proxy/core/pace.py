"""The least rate at which a client must send a request or read an answer. Arithmetic only, the same for each protocol.

A client is judged by the time that the proxy waits for it. It begins with a credit of one window. Waiting uses the credit up, and
each byte that the client moves earns the time that it may take at the least rate. A client without credit is too slow. A fast
client saves up credit for a pause, up to the longest silence that is allowed anyway.
"""

from __future__ import annotations

from dataclasses import dataclass

#: A longer time between two looks is not counted, seconds: the proxy was busy, or did not wait for this client.
_GAP = 0.5


class Pace:
    """One client that is waited for, for one thing. `now`: any clock in seconds. `moved`: the bytes moved since any fixed point."""

    __slots__ = ("_credit", "_last", "_most", "_moved", "_rate")

    def __init__(self, rates: Rates, rate: int, now: float, moved: int) -> None:
        self._rate = rate
        self._credit = rates.window
        self._most = max(rates.window, rates.silence)
        self._last = now
        self._moved = moved

    def keeps(self, now: float, moved: int) -> bool:
        """Whether the client is fast enough. Ask several times a second while it is waited for, and only then."""
        waited = now - self._last
        earned = (moved - self._moved) / self._rate
        self._last, self._moved = now, moved
        credit = self._credit + earned - (waited if waited < _GAP else 0.0)
        self._credit = min(credit, self._most)
        return credit > 0.0


@dataclass(frozen=True, slots=True)
class Rates:
    """The least rates, in bytes a second (0: none), and the seconds of the window and of the longest silence."""

    request: int
    response: int
    window: float
    silence: float

    def pace(self, sending: bool, now: float, moved: int) -> Pace | None:
        """The judge of a client that is waited for from now on. `sending`: whether an answer is sent to it. None without a rate."""
        rate = self.response if sending else self.request
        return Pace(self, rate, now, moved) if rate else None

    def seconds(self, moved: int) -> float:
        """How long a request that came up to here may have taken: for a whole that is judged at certain times only."""
        return self.window + moved / self.request if self.request else float("inf")
