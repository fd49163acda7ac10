"""What a client may have us do for nothing: frames that ask for work and bring none, and streams that end before their answers."""

from __future__ import annotations


class Budget:
    """Tokens that come back with time (`per_second`, up to `most`) and with useful work. Instants are monotonic seconds."""

    __slots__ = ("_left", "_most", "_per_second", "_since")

    def __init__(self, most: int, per_second: int, now: float) -> None:
        self._most = most
        self._per_second = per_second
        self._left = float(most)
        self._since = now

    def earn(self, tokens: int) -> None:
        """Useful work was done."""
        self._left = min(self._left + tokens, self._most)

    def spend(self, tokens: int, now: float) -> bool:
        """Take tokens. Returns False if there are not enough left."""
        if self._left < tokens:
            self._left = min(self._left + (now - self._since) * self._per_second, self._most)
            self._since = now
        self._left -= tokens
        return self._left >= 0
