"""When a certificate is ordered: by its lifetime, by what the CA advises, and after failures."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable

import gevent

log = logging.getLogger("proxyd.certs")

#: Domain and kind of key.
Key = tuple[str, str]

#: After a failure: the first pause, what it grows by, and the longest one. Let's Encrypt counts five failures an hour.
_FIRST, _GROWTH, LONGEST = 60.0, 4.0, 12 * 3600.0
#: Longest time that a CA's Retry-After is believed for one name.
_LONGEST_REST = 7 * 86400.0
#: Shortest pause, whatever is left of a certificate's lifetime.
_SHORTEST_LATE = 900.0
#: RFC 9773 4.3: bounds of the time between two questions; a question that failed is asked again later.
_SOONEST, _LATEST, _FAILED = 60.0, 86400.0, 3600.0
#: So many failures one after the other are the CA's, not the certificates'.
_MOST_FAILED = 3
#: Shortest time between two renewals of one name by advice alone, so that a CA that always says "now" is not stormed.
_APART = 3600.0
#: Seconds between two questions, so that many names don't storm the CA.
_PACE = 0.1


def renewal(begins: float, ends: float, before: float, advised: float | None = None) -> float:
    """When a certificate is renewed: when the CA advises it; else a third of its lifetime before its end. `before` its end at the latest,
    if that is set, but not before half of it is over. A CA's advice beyond the last tenth is not believed. Unix seconds."""
    lifetime = ends - begins
    if before:
        own = ends - min(before, lifetime / 2)
        return own if advised is None else min(own, advised)
    return ends - lifetime / 3 if advised is None else min(advised, ends - lifetime / 10)


def backoff(attempts: int) -> float:
    """Seconds until the next attempt after so many failed ones, with jitter, so that names that failed together do not come back
    together."""
    return min(_FIRST * _GROWTH ** min(attempts - 1, 10), LONGEST) * random.uniform(0.8, 1.2)


def pause(attempts: int, retry_after: float, left: float) -> float:
    """Seconds until the next attempt. `retry_after`: what the CA asks for; `left`: seconds until the end of the certificate that is
    there, inf without one. One that ends soon is tried for more often, within what CAs allow."""
    wanted = backoff(attempts)
    if left != float("inf"):
        wanted = min(wanted, max(left / 4, _SHORTEST_LATE))
    return max(min(retry_after, _LONGEST_REST), wanted)


class Advice:
    """What the CA advises for each certificate (RFC 9773). `ask` gets it and the time of the next question, or None of a CA that advises
    nobody; `changed` is told of news. Both in Unix seconds."""

    def __init__(self, ask: Callable[[Key], tuple[float, float] | None], failures: tuple[type[Exception], ...],
                 changed: Callable[[Key], None]) -> None:
        self._ask = ask
        self._failures = failures
        self._changed = changed
        self._known: dict[Key, tuple[float | None, float]] = {}
        #: When certificates were renewed because the CA had said so.
        self._followed: dict[Key, float] = {}
        self._next = 0.0
        self._asking: gevent.Greenlet | None = None

    def of(self, key: Key) -> float | None:
        """When it is to be renewed, or None."""
        when = self._known.get(key, (None, 0.0))[0]
        return when if when is None else max(when, self._followed.get(key, -_APART) + _APART)

    def forget(self, key: Key, now: float) -> None:
        """There is another certificate, or none."""
        advised = self._known.pop(key, (None, 0.0))[0]
        if advised is not None and advised <= now:
            self._followed[key] = now
        self._next = 0.0

    def look(self, keys: Iterable[Key], now: float) -> None:
        """Ask for what is due of these, one after the other."""
        if now < self._next or self._asking:
            return
        due = [key for key in keys if self._known.get(key, (None, 0.0))[1] <= now]
        self._next = min((known[1] for known in self._known.values()), default=now + _SOONEST)
        if due:
            self._asking = gevent.spawn(self._go, due, now)

    def stop(self) -> None:
        """Ask no more."""
        if self._asking:
            self._asking.kill()

    def _go(self, due: list[Key], now: float) -> None:
        failed = 0
        for key in due:
            try:
                found = self._ask(key)
            except self._failures as failure:
                log.info("no advice on the renewal of %s: %s", key[0], failure)
                failed += 1
                self._known.update((other, (self.of(other), now + _FAILED)) for other in (due if failed == _MOST_FAILED else (key,)))
                if failed == _MOST_FAILED:
                    break
                continue
            failed = 0
            if found is None:
                # This CA tells nobody: all are asked about again in a day.
                self._known.update((other, (self.of(other), now + _LATEST)) for other in due)
                break
            when, again = found
            if self.of(key) is None:
                log.debug("the CA advises to renew the certificate for %s in %.0f s", key[0], when - now)
            self._known[key] = (when, min(max(again, now + _SOONEST), now + _LATEST))
            self._changed(key)
            gevent.sleep(_PACE)
        self._next = 0.0
