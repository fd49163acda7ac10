"""Places at a backend: how many requests of a route may be under way on this host (option max_in_flight), and the queue of those that
wait for a place.

Each worker has a queue of its own for each route, first come, first served. A place that becomes free in this worker is offered to it
at once. One that becomes free in another worker is noticed within milliseconds, because a worker whose queue is not empty tries.
"""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import gevent
from gevent.event import Event

from proxyd.proxy.core.clientside import ClientGone
from proxyd.proxy.core.phases import QUEUE, TOTAL
from proxyd.proxy.core.refusal import Refusal, refuse
from proxyd.store.memory.counts import HostCounts
from proxyd.store.memory.shared import IN_FLIGHT

if TYPE_CHECKING:
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Upstream

#: Added to a route's number: the key of the requests that wait for it.
_WAITING = 1 << 62
#: Seconds between two looks for places that another worker gave back.
_TRY_SECONDS = 0.005
_AGAIN = (("Retry-After", "1"),)
_FULL = refuse("queue_full", "the backend has as many requests under way as it may have (option max_in_flight), and the queue is full",
               _AGAIN, "queue_rejected")
_TOO_LONG = refuse("queue_timeout", "the backend had no place for this request in time (option queue_timeout)", _AGAIN, "queue_rejected")
_TOTAL = refuse("total_timeout", "the request took longer than total_timeout: it waited for a place at the backend", (), "queue_rejected")


class Place:
    """A place at the route `number` that a request got in the queue, and has not used yet. 0: none."""

    __slots__ = ("_places", "number")

    def __init__(self, places: Places, number: int) -> None:
        self._places = places
        self.number = number

    def use(self) -> None:
        """The request goes to that route now. `Places.give_back` ends that."""
        self.number = 0

    def give_back(self) -> None:
        """The request does not use it. Harmless if it has."""
        if self.number:
            self._places.free(self.number)
            self.number = 0


class _Queue:
    """The requests of this worker that wait for one route. `limit`: the option as the newest of them found it."""

    __slots__ = ("limit", "waiting")

    def __init__(self) -> None:
        self.limit = 0
        self.waiting: OrderedDict[_Waiting, None] = OrderedDict()


class _Waiting:
    """A request in the queues of the routes that it could go to. `number`: the route that it has got a place at, 0 for none."""

    __slots__ = ("_woken", "number", "over")

    def __init__(self) -> None:
        self.number = 0
        self.over = False
        self._woken = Event()

    def wait(self) -> None:
        """Wait until there is a place, or until somebody calls `leave`."""
        self._woken.wait()

    def give(self, number: int) -> None:
        """Wake it with a place."""
        self.number = number
        self.leave()

    def leave(self) -> None:
        """Wake it without a place."""
        self.over = True
        self._woken.set()


class Places:
    """The places of all routes with max_in_flight, as one worker has them. Create it after the fork. `counts`: the shared memory."""

    def __init__(self, directory: str) -> None:
        self.counts = HostCounts(directory, IN_FLIGHT)
        self._queues: dict[int, _Queue] = {}
        self._tries = False

    def take(self, upstream: Upstream) -> bool:
        """Take a place. False if all are taken, or if others wait for one: they came first."""
        number = upstream.number
        queue = self._queues.get(number)
        if queue is not None:
            queue.limit = upstream.options.max_in_flight
            return False
        return self.counts.reserve(number, upstream.options.max_in_flight, behind=number | _WAITING)

    def give_back(self, upstream: Upstream) -> None:
        """A request that had a place has ended."""
        self.free(upstream.number)

    def free(self, number: int) -> None:
        """Free a place, and offer it to the next in the queue."""
        self.counts.release(number)
        queue = self._queues.get(number)
        if queue is None:
            return
        # Other workers' queues must get their share of the places that become free here.
        theirs = self.counts.elsewhere(number | _WAITING)
        if not theirs or random.random() * (theirs + len(queue.waiting)) >= theirs:
            self._serve(number, queue)

    def wait(self, ex: Exchange, full: Sequence[Upstream]) -> Place | Refusal:
        """Wait until one of the routes has a place. Returns a refusal if the queue is full, or if that takes too long. Raises
        ClientGone."""
        home = next((upstream for upstream in full if upstream.options.queue_size
                     and self.counts.reserve(upstream.number | _WAITING, upstream.options.queue_size)), None)
        if home is None:
            return _FULL
        waiting = _Waiting()
        try:
            self._enter(waiting, full)
            if ex.counters is not None:
                ex.counters.queue_waits += 1
            ex.wait_in_queue(waiting, QUEUE, time.monotonic() + home.options.queue_timeout)
        except BaseException:
            if waiting.number:
                self.free(waiting.number)
            raise
        finally:
            self.counts.release(home.number | _WAITING)
            self._remove(waiting, full)
        if ex.client_gone:
            if waiting.number:
                self.free(waiting.number)
            raise ClientGone
        if waiting.number:
            ex.begin_again()
            return Place(self, waiting.number)
        return _TOTAL if ex.expired is TOTAL else _TOO_LONG

    def _enter(self, waiting: _Waiting, full: Sequence[Upstream]) -> None:
        for upstream in full:
            queue = self._queues.get(upstream.number)
            if queue is None:
                queue = self._queues[upstream.number] = _Queue()
            queue.limit = upstream.options.max_in_flight
            queue.waiting[waiting] = None
        if not self._tries:
            self._tries = True
            gevent.spawn(self._try)

    def _remove(self, waiting: _Waiting, full: Sequence[Upstream]) -> None:
        for upstream in full:
            queue = self._queues.get(upstream.number)
            if queue is not None:
                queue.waiting.pop(waiting, None)
                if not queue.waiting:
                    del self._queues[upstream.number]

    def _serve(self, number: int, queue: _Queue) -> None:
        """Give places to those who wait, as long as there are any."""
        for waiting in queue.waiting:
            if waiting.over:
                # It has left, or has a place, and has not run since.
                continue
            if not self.counts.reserve(number, queue.limit):
                return
            waiting.give(number)

    def _try(self) -> None:
        """Look for places that other workers have given back, until nobody waits."""
        try:
            while self._queues:
                gevent.sleep(_TRY_SECONDS)
                for number, queue in list(self._queues.items()):
                    self._serve(number, queue)
        finally:
            self._tries = False
