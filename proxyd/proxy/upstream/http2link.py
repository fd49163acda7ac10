"""An HTTP/2 connection to an upstream, shared by requests: one greenlet reads it, one writes it."""

from __future__ import annotations

import contextlib
import time
from math import inf
from typing import TYPE_CHECKING

import gevent
from gevent.event import Event

from proxyd.http2.client import ClientConnection
from proxyd.http2.connection import Bounds
from proxyd.http2.errors import NAMES, NO_ERROR, ConnectionFault
from proxyd.http2.events import Answer, Body, Ended, Leaving, Pong, Trailers
from proxyd.http2.events import Event as Http2Event
from proxyd.net.handshake import late_fault
from proxyd.net.stream import LITTLE
from proxyd.proxy.core.http2write import FrameWriter
from proxyd.proxy.core.watchdog import Watchdog
from proxyd.proxy.upstream.http2leg import Leg, LegError, reset_error

if TYPE_CHECKING:
    from proxyd.net.stream import DirectStream

#: While so much waits to be sent, apart from bodies, nothing more is read, and no request is begun.
_BACKLOG = 65536
#: The pings of one silence come further and further apart. Servers, gRPC's above all, take many for an attack.
_FURTHER, _FURTHEST = 5, 310.0
#: How long the end of a stream may be on its way when all bytes of its answer are there, seconds.
_END_SECONDS = 2.0
#: How long a connection on which no request was begun stays open at least, seconds: somebody waits for it.
_FIRST_SECONDS = 1.0
_TICK = 0.25
_PING = b"proxyd??"

_watch: Watchdog | None = None


def _watchdog() -> Watchdog:
    """The watchdog of this process, which runs from the first connection on."""
    global _watch
    if _watch is None:
        _watch = Watchdog(_TICK)
        _watch.start()
    return _watch


class Link:
    """One connection. Watched as long as it lives.

    `ping_after`: seconds of silence after which the upstream is asked whether it is there, and in which it must answer. `idle_for`: how
    long it stays open without a request; `until`: when it takes no more requests (monotonic seconds).
    """

    def __init__(self, stream: DirectStream, bounds: Bounds, ping_after: float, idle_for: float, until: float) -> None:
        now = time.monotonic()
        self.stream = stream
        self.engine = ClientConnection(bounds, now)
        self.failed: LegError | None = None
        self.retired = False
        self.settled = Event()
        self.served = 0
        self.until = until
        #: The watchdog looks at each tick.
        self.deadline = -inf
        self._ping_after = self._silence = ping_after or inf
        self.idle_for = idle_for
        self._heard = self._idle_since = now
        self._pong_until = inf
        self._ending: dict[Leg, float] = {}
        self._writer = FrameWriter(self.engine.sender, stream)
        self._writer.start()
        self._reader = gevent.spawn(self._read_on)
        _watchdog().add(self)

    # -- requests

    def usable(self, now: float) -> bool:
        """Whether a request can be begun."""
        if self.until <= now:
            self.retire()
        return not self.retired and self.failed is None and self.engine.room() > 0 and self.engine.sender.backlog < _BACKLOG

    @property
    def alive(self) -> bool:
        return self.failed is None

    def leg(self, now: float) -> Leg:
        """A leg for a request that begins at once."""
        if now - self._heard > self._ping_after:
            # Nobody knows whether the upstream is still there.
            self._ask(now)
        self.served += 1
        return Leg(self, self.served > 1)

    def left(self, leg: Leg) -> None:
        if leg.open:
            self._ending[leg] = time.monotonic() + _END_SECONDS
        self._rest()

    def _rest(self) -> None:
        """Note that there may be no stream any more."""
        if not self.engine.streams.open:
            self._idle_since = time.monotonic()
            if self.retired or self.engine.leaving:
                self._close()

    def retire(self) -> None:
        """Begin no more requests. The connection ends with those that are under way."""
        self.retired = True
        self._rest()

    def idle_since(self) -> float:
        """The instant since which there is no stream. inf while there are some."""
        return inf if self.engine.streams.open or self._writer.closing else self._idle_since

    # -- reading

    def _read_on(self) -> None:
        engine, stream, sender = self.engine, self.stream, self.engine.sender
        data = b""
        try:
            while True:
                alone = len(engine.streams.open) < 2 and 0 < len(data) < LITTLE
                data = stream.recv_later() if alone else stream.recv()
                if not data:
                    raise ConnectionResetError("the upstream closed the connection")
                self._heard = time.monotonic()
                self._pong_until = inf
                engine.feed(data, self._heard)
                while (event := engine.next_event()) is not None:
                    self._take(event)
                    stream.give_way()
                if engine.settled and not self.settled.is_set():
                    self._idle_since = self._heard
                    self.settled.set()
                if sender.waiting():
                    self.wake()
                if not engine.streams.open:
                    self._rest()
                if sender.backlog > _BACKLOG:
                    self._writer.wait_below(_BACKLOG)
        except ConnectionFault as fault:
            engine.stop(fault.code, fault.detail)
            self._fail(LegError(f"the upstream breaks HTTP/2: {fault.detail}", code="upstream_http2"))
            self._say_goodbye()
        except OSError as error:
            refused = late_fault(error)
            self._fail(LegError(refused, code="upstream_tls") if refused else LegError(str(error)))
        finally:
            self._fail(LegError("the connection was ended"))
            _watchdog().discard(self)
            self._writer.stop()
            stream.close()

    def _take(self, event: Http2Event) -> None:
        if type(event) is Body:
            event.stream.owner.receive(event.data, event.ended)
        elif type(event) is Answer:
            event.stream.owner.answer(event.fields, event.size, event.ended)
        elif type(event) is Trailers:
            event.stream.owner.trail(event.fields)
        elif type(event) is Ended:
            leg: Leg = event.stream.owner
            leg.fail(LegError(f"the upstream breaks HTTP/2: {event.detail}", code="upstream_http2") if event.detail
                     else reset_error(event.code))
        elif type(event) is Leaving:
            self._leave(event)
        if type(event) is not Pong:
            self._silence = self._ping_after

    def _leave(self, event: Leaving) -> None:
        """The upstream takes no more streams. Those that it has not looked at can be sent elsewhere (RFC 9113 8.7)."""
        name = NAMES.get(event.code, f"error {event.code}")
        detail = "the upstream ends the connection" + (f" ({name}{': ' if event.detail else ''}{event.detail})" if event.code else "")
        streams = self.engine.streams
        for state in [state for state in streams.open.values() if state.id > event.last]:
            streams.close(state, True)
            state.owner.fail(LegError(detail, True))

    def _fail(self, error: LegError) -> None:
        if self.failed is not None:
            return
        self.failed = error
        self.settled.set()
        for state in list(self.engine.streams.open.values()):
            state.owner.fail(error.again())
        self._ending.clear()

    def _say_goodbye(self) -> None:
        """Send the GOAWAY that says what was wrong, if nothing is being sent."""
        if self._writer.idle:
            with contextlib.suppress(OSError), gevent.Timeout(1.0, False):
                self.stream.send_all(self._writer.take())

    # -- writing

    def wake(self) -> None:
        """There is something to send."""
        self._writer.wake()

    # -- time

    def expire(self, now: float) -> None:
        """The watchdog's call at each tick."""
        if self._pong_until <= now:
            self._fail(LegError(f"the upstream did not answer a ping within {self._ping_after:g} s"))
            self.stream.shutdown()
            return
        for leg, until in list(self._ending.items()):
            if not leg.open or until <= now:
                del self._ending[leg]
                leg.cancel()
                self._rest()
        if self.until <= now and not self.retired:
            self.retire()
        if self.engine.streams.open:
            if self._pong_until == inf and now - self._heard >= self._silence:
                self._silence = min(self._silence * _FURTHER, max(_FURTHEST, self._ping_after))
                self._ask(now)
        elif self.settled.is_set() and now - self._idle_since >= (self.idle_for if self.served else max(self.idle_for, _FIRST_SECONDS)):
            self._close()

    def _ask(self, now: float) -> None:
        if self._pong_until == inf:
            self._pong_until = now + self._ping_after
            self.engine.ping(_PING)
            self.wake()

    def _close(self) -> None:
        """End the connection: nothing is under way."""
        if not self._writer.closing:
            self._writer.closing = self.retired = True
            self.engine.stop(NO_ERROR)
            self.wake()

    def abort(self) -> None:
        """Cut the connection."""
        self._fail(LegError("the connection was ended"))
        self.stream.shutdown()

    def make_way(self) -> None:
        """End the idle connection. Must not wait."""
        self._close()
