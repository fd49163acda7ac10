"""Requests that wait for a backend that will be back (option hold_when_down, command TRAFFIC_HOLD), instead of failing.

Each worker has a queue of its own for each pool, first come, first served. While somebody waits, the worker looks for a member that is
ready, many times a second. Then it lets those who wait go: a few at first, and more with each turn, because a service that has
just started is slow.
"""

from __future__ import annotations

import itertools
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import gevent
from gevent.event import Event

from proxyd.base import clock
from proxyd.proxy.core.clientside import ClientGone
from proxyd.proxy.core.phases import HOLD, TOTAL
from proxyd.proxy.core.refusal import Refusal, refuse
from proxyd.proxy.route.choose import choose
from proxyd.proxy.upstream.pool import UpstreamError, connect
from proxyd.proxy.upstream.retry import replayable

if TYPE_CHECKING:
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Pool, PoolKey, Upstream
    from proxyd.proxy.upstream.circuit import Circuits

T = TypeVar("T")

#: Seconds between two looks, or between two turns of requests that go.
_TURN = 0.02
#: How many go in the first turn; how that grows; and the most.
_FIRST, _GROWTH, _MOST = 2.0, 1.5, 50.0
#: Seconds that a look waits for a connection at most.
_CONNECT = 1.0
#: Seconds after the end of a TRAFFIC_HOLD in which those who wait can still go to a member that is ready.
_GRACE = 0.5
#: Seconds that a request which comes while the others go waits for its turn at most.
_BEHIND = 10.0
#: Attempts after which a request whose connection was closed without an answer does not wait for another one.
_RESETS = 5
_AGAIN = (("Retry-After", "5"),)
_TOO_LONG = refuse("hold_timeout", "the service was not back in time for this request", _AGAIN, "hold_rejected")
_FULL = refuse("hold_full", "the service is away, and as many requests wait for it as may (option hold_size)", _AGAIN, "hold_rejected")
_TOTAL = refuse("total_timeout", "the request took longer than total_timeout: it waited for a service that is away", (), "hold_rejected")
#: Nobody was asked, because no member takes requests.
_AWAY = frozenset(("held", "route_disabled", "draining", "upstream_down"))
#: Nobody could be reached.
_UNREACHED = frozenset(("upstream_refused", "upstream_unreachable"))
#: The connection was closed before anything went out to the client.
_CLOSED = frozenset(("upstream_closed", "upstream_truncated"))


class _Waiting:
    """A request that waits. `ready`: it may go."""

    __slots__ = ("_woken", "ex", "ready")

    def __init__(self, ex: Exchange) -> None:
        self.ex = ex
        self.ready = False
        self._woken = Event()

    def wait(self) -> None:
        """Wait until a member is ready, or until somebody calls `leave`."""
        self._woken.wait()

    def leave(self) -> None:
        """Wake it without a member."""
        self._woken.set()

    def go(self) -> None:
        """Wake it: a member is ready."""
        self.ready = True
        self.leave()


class _Queue:
    """Those who wait for a pool. `unreached`: a member refused connections since the last look that found one ready."""

    __slots__ = ("unreached", "waiting")

    def __init__(self) -> None:
        self.unreached = False
        #: Those who came first are first, by time.monotonic() seconds.
        self.waiting: OrderedDict[_Waiting, float] = OrderedDict()


def put(queue: OrderedDict[T, float], one: T, came: float) -> None:
    """Put `one` into a queue, behind those who came before it, and before those who came after it: it may have been out of the queue for
    an attempt that failed."""
    last = queue[next(reversed(queue))] if queue else came
    queue[one] = came
    if last > came:
        # Few, as a rule: those who were let go with it, and failed, too.
        ahead = [other for other, _ in itertools.takewhile(lambda item: item[1] <= came, queue.items())]
        queue.move_to_end(one, last=False)
        for other in reversed(ahead):
            queue.move_to_end(other, last=False)


class Holds:
    """The queues of a worker. `queues` is empty while nobody waits. `match`: the worker's route table."""

    def __init__(self, circuits: Circuits, match: Callable[[Exchange], Pool | None]) -> None:
        self.queues: dict[PoolKey, _Queue] = {}
        self._circuits = circuits
        self._match = match

    def until(self, ex: Exchange, pool: Pool, refusal: Refusal, before: float) -> float:
        """Until when (time.monotonic() seconds) a request that was refused waits. 0.0: it does not. `before`: the last answer for
        this request, 0.0 if it has not waited yet."""
        seconds = pool.members[0].options.hold_when_down
        left = max(member.held_until for member in pool.members) - clock.now()
        # Others wait, although nothing is held any more: they go now, and this request goes behind them.
        behind = _BEHIND if pool.key in self.queues else 0.0
        longest = max(seconds, left + _GRACE if left > 0 else 0.0, behind)
        if not (longest or before) or not self._may_wait(ex, pool, refusal, before):
            return 0.0
        if before:
            return before
        if ex.counters is not None:
            ex.counters.holds += 1
        return time.monotonic() + longest

    def _may_wait(self, ex: Exchange, pool: Pool, refusal: Refusal, before: float) -> bool:
        """Whether nobody has seen the request, and the reason is one that passes."""
        code = refusal.code
        if code in _AWAY:
            return True
        if code in _UNREACHED:
            return ex.upload is None
        if code in _CLOSED:
            # A server that stops resets the connections that it has not accepted yet. Again and again, it is the request's fault.
            return ex.attempts <= _RESETS and replayable(ex) and not ex.client_gone
        if code == "circuit_open":
            # Open because nobody answers there, or because the answers are bad? Half open, it will be known in a moment.
            serving = [member for member in pool.members if member.enabled]
            queue = self.queues.get(pool.key)
            known = bool(before) or (queue is not None and queue.unreached) or any(self._circuits.trying(member) for member in serving)
            return known or not any(_answers(member) for member in serving)
        return False

    def wait(self, ex: Exchange, pool: Pool, until: float) -> Refusal | None:
        """Wait for a member that is ready. Returns None if there is one. Raises ClientGone."""
        queue = self.queues.get(pool.key)
        if queue is None:
            queue = self.queues[pool.key] = _Queue()
            gevent.spawn(self._run, pool.key, queue)
        elif len(queue.waiting) >= pool.members[0].options.hold_size:
            return _FULL
        waiting = _Waiting(ex)
        put(queue.waiting, waiting, ex.started)
        queue.unreached = queue.unreached or ex.attempts > 0
        try:
            ex.expired = None
            ex.wait_in_queue(waiting, HOLD, until)
        finally:
            queue.waiting.pop(waiting, None)
        if ex.client_gone:
            raise ClientGone
        if waiting.ready:
            ex.begin_again()
            return None
        return _TOTAL if ex.expired is TOTAL else _TOO_LONG

    def _run(self, key: PoolKey, queue: _Queue) -> None:
        """Look for a member that is ready, and let those who wait go, until nobody waits."""
        count, ready = _FIRST, False
        try:
            while True:
                # Who stops may still listen for a moment.
                gevent.sleep(_TURN)
                if not queue.waiting:
                    break
                first = next(iter(queue.waiting)).ex
                pool = self._match(first)
                if pool is not None and not (ready and not queue.unreached and self._choosable(pool)):
                    ready, count = self._ready(pool, queue), _FIRST
                    queue.unreached = queue.unreached and not ready
                if pool is not None and ready:
                    self._let_go(queue, int(count))
                    count = min(_MOST, count * _GROWTH)
        finally:
            del self.queues[key]
            for waiting in queue.waiting:
                waiting.leave()

    @staticmethod
    def _let_go(queue: _Queue, count: int) -> None:
        for waiting in list(queue.waiting)[:count]:
            del queue.waiting[waiting]
            waiting.go()

    def _choosable(self, pool: Pool) -> bool:
        return not isinstance(choose(pool, "", None, (), (), self._circuits, clock.now()), Refusal)

    def _ready(self, pool: Pool, queue: _Queue) -> bool:
        """Whether a member takes requests and connections. So it is if all are in maintenance: then there is a page to show."""
        if pool.maintained and all(member.maintenance_since for member in pool.members):
            return True
        blocked: tuple[str, ...] = ()
        while not isinstance(chosen := choose(pool, "", None, (), blocked, self._circuits, clock.now()), Refusal):
            if _answers(chosen):
                return True
            queue.unreached = True
            blocked = (*blocked, chosen.route_id)
        if chosen.code == "circuit_open" and queue.unreached:
            for member in pool.members:
                if member.enabled and self._circuits.opened(member) and not self._circuits.health_down(member) and _answers(member):
                    # It refused connections, and takes them now: that is what its circuit waits for.
                    self._circuits.try_now(member, clock.now())
                    return True
        return False


def _answers(member: Upstream) -> bool:
    """Whether a connection can be opened."""
    try:
        connect(member, min(_CONNECT, member.options.connect_timeout), "connect_timeout").close()
    except UpstreamError:
        return False
    return True
