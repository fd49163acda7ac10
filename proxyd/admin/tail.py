"""Requests to a place as they end, as server-sent events: workers of this host tell of them while somebody follows."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

import gevent

from proxyd.admin.feed import HEARTBEAT_SECONDS, Feed
from proxyd.admin.http import RequestRefused
from proxyd.store.memory.tail import MAX_LINE, Listener, Place, tidy

log = logging.getLogger("proxyd.admin")

_MAX_FOLLOWERS = 16


class Tails:
    """All who follow requests, over one socket that is there while somebody does."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        tidy(directory)
        self._listener: Listener | None = None
        self._reading: gevent.Greenlet | None = None
        self._followers: set[Tail] = set()

    def follow(self, place: Place, heartbeat: float = HEARTBEAT_SECONDS) -> Tail:
        """A stream of the requests to a place. Raises RequestRefused."""
        if len(self._followers) >= _MAX_FOLLOWERS:
            raise RequestRefused(503, "too_many_followers", f"{_MAX_FOLLOWERS} clients follow requests already", {"Retry-After": "10"})
        tail = Tail(place, heartbeat, self._left)
        self._followers.add(tail)
        try:
            if self._listener is None:
                self._listener = Listener(self._directory)
                self._reading = gevent.spawn(self._read, self._listener)
            self._say()
        except OSError as error:
            self._left(tail)
            raise RequestRefused(503, "no_tail", f"can't have workers tell of requests: {error.strerror}") from None
        return tail

    def _say(self) -> None:
        if self._listener is not None:
            self._listener.watch({tail.place for tail in self._followers})

    def _left(self, tail: Tail) -> None:
        self._followers.discard(tail)
        try:
            if self._followers:
                self._say()
        except OSError as error:
            log.warning("workers are not told who follows requests: %s", error.strerror)
        if not self._followers and self._listener is not None:
            if self._reading is not None:
                self._reading.kill(block=False)
            self._listener.close()
            self._listener = self._reading = None

    def _read(self, listener: Listener) -> None:
        while True:
            try:
                line = json.loads(listener.socket.recv(MAX_LINE))
                place = line.pop("place")
                place = str(place[0]), str(place[1])
            except (ValueError, KeyError, TypeError, IndexError, AttributeError):
                continue
            except OSError:
                return
            for tail in self._followers:
                if tail.place == place:
                    tail.take(line)


class Tail(Feed):
    """The requests to a place."""

    def __init__(self, place: Place, heartbeat: float, left: Callable[[Tail], None]) -> None:
        super().__init__("requests", heartbeat)
        self.place = place
        self._left: Callable[[Tail], None] | None = left

    def take(self, line: dict[str, object]) -> None:
        """One request that has ended."""
        missed = line.pop("missed", 0)
        self.miss(missed if isinstance(missed, int) else 0)
        self.put("request", line)

    def close(self) -> None:
        """The client is gone."""
        if self._left is not None:
            left, self._left = self._left, None
            left(self)
