"""What a client may have us do for nothing: frames that ask for work and bring none, and streams that end before their answers."""

from __future__ import annotations

from math import inf

from proxyd.http2 import frames
from proxyd.http2.errors import ENHANCE_YOUR_CALM, ConnectionFault

#: Frames that bring nothing: how many at once, how many more each second, for each stream, and for each frame of a body that we send.
_NOISE, _NOISE_PER_SECOND, _NOISE_PER_STREAM, _NOISE_PER_FRAME = 1000, 100, 10, 3
#: Streams that end before their answer: how many at once, and how many more each second. An honest client can end hundreds at once, when
#: a deadline that they share has passed, or its own client has left. nghttp2 bears as many at once.
_RESETS, _RESETS_PER_SECOND = 1000, 50
#: A stream that has lasted so long (seconds) may be ended freely: the bound of streams at once keeps these few.
_LASTED = 1.0
#: What a SETTINGS, a PING and an empty DATA cost; other frames cost 1.
_COSTS = {frames.SETTINGS: 10, frames.PING: 2, frames.DATA: 5}


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


class Ledger:
    """What one client has had us do for nothing. `now`: monotonic seconds, when the bytes came that are being read."""

    __slots__ = ("_noise", "_resets", "now")

    def __init__(self, now: float) -> None:
        self.now = now
        self._noise = Budget(_NOISE, _NOISE_PER_SECOND, now)
        self._resets = Budget(_RESETS, _RESETS_PER_SECOND, now)

    def began(self) -> None:
        """A request has come."""
        self._noise.earn(_NOISE_PER_STREAM)

    def sent(self, frames_sent: int) -> None:
        """So many frames of bodies were sent, each of which the client may answer."""
        self._noise.earn(frames_sent * _NOISE_PER_FRAME)

    def answered(self) -> None:
        """An answer was sent to its end."""
        self._resets.earn(1)

    def noise(self, kind: int) -> None:
        """Count a frame that brings nothing. Raises ConnectionFault if there are too many."""
        if not self._noise.spend(_COSTS.get(kind, 1), self.now):
            raise ConnectionFault(ENHANCE_YOUR_CALM, "too many frames that bring nothing")

    def reset(self, began: float = inf) -> None:
        """Count a stream that ends before its answer: by the client, when it `began` (monotonic seconds), or because of it. Raises
        ConnectionFault if there are too many."""
        if self.now - began < _LASTED and not self._resets.spend(1, self.now):
            raise ConnectionFault(ENHANCE_YOUR_CALM, "too many streams that end before their answers")
