"""Shares new connections among the workers of a host.

All workers wait on the same listening socket, and the one that wakes first gets a connection. With keep-alive, a few workers
would serve almost all clients while others idle. So a worker that has more clients than another one leaves a new connection
alone for a moment. If it is still there afterwards, the worker takes it, so no connection waits for a busy worker.
"""

from __future__ import annotations

import _socket
import time
from collections.abc import Callable
from typing import Any

import gevent
from gevent import monkey
from gevent.server import StreamServer

from proxyd.base import clock
from proxyd.net.crew import Job, begin
from proxyd.net.descriptors import Spare, none_left
from proxyd.net.listen import ACCEPTED_AT_ONCE
from proxyd.store.memory.board import Board

#: Seconds. Longer would cost clients with one request per connection more than the balance is worth.
_PAUSE = 0.0003
#: Seconds between two looks for room while no connection can be accepted.
_ASK_SECONDS = 0.05
#: How far ahead of the least loaded worker a worker may be: so many connections, plus one eighth of its own.
_LEAD, _LEAD_PART = 2, 8
#: Seconds for which the list of the other workers is valid.
_LOOK_SECONDS = 0.1
#: Seconds between two looks whether the last connections have ended.
_END_TICK = 0.02
_poll = monkey.get_original("select", "poll")


class Share:
    """This worker's number of client connections, compared with the other workers' on `board`."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._others: list[int] = []
        self._looked = 0.0
        self._taking = False
        self.connections = 0

    def begin(self) -> None:
        """Tell the others that this worker accepts clients."""
        self._taking = True
        self._board.connections(self.connections)

    def end(self) -> None:
        """Tell the others that this worker accepts no more clients, so that they ignore its number."""
        self._taking = False
        self._board.connections(None)

    def add(self, count: int) -> None:
        """Count `count` more connections, or fewer if it is negative."""
        self.connections += count
        if self._taking:
            self._board.connections(self.connections)

    def ahead(self) -> bool:
        """Whether another worker should take the next connection."""
        enough = self.connections - self.connections // _LEAD_PART - _LEAD
        if enough < 0:
            return False
        now = time.monotonic()
        if now - self._looked > _LOOK_SECONDS:
            self._looked = now
            self._others = self._board.accepting(clock.now())
        return bool(self._others) and enough > self._board.fewest(self._others)


class RoomyServer(StreamServer):  # type: ignore[misc]
    """gevent's server for one listener, for a worker whose idle connections make room for new ones.

    Room is asked for when few places or descriptors are left. If there is none, the next connection waits until there is.
    """

    max_accept = ACCEPTED_AT_ONCE

    def __init__(self, listener: Any, handle: Callable[[Any, Any, Any], None], most: int, spare: Spare) -> None:
        """`handle` serves a connection, given the listener, its socket and the address of its peer, in a greenlet. `most`: so many at a
        time."""
        super().__init__(listener, handle=handle, spawn=None)
        self._listener = listener
        self._serve = handle
        self._most = most
        self._spare = spare
        self._few = min(ACCEPTED_AT_ONCE, most // 8)
        #: The connections that are served.
        self._jobs: dict[_socket.socket, Job] = {}
        self._asking = self.loop.timer(_ASK_SECONDS, _ASK_SECONDS)

    def do_read(self) -> Any:
        """The next connection, a socket of the standard library's, and its address. None if there is none, or no descriptor for it."""
        listener = self.socket
        try:
            descriptor, address = listener._accept()
        except BlockingIOError:
            return None
        except OSError as error:
            if not none_left(error):
                raise
            self.stop_accepting()
            self._wait()
            return None
        # Not gevent's socket: its watchers and timeouts would be made for nothing (net/watched).
        accepted = _socket.socket(listener.family, listener.type, listener.proto, descriptor)
        self._spare.taken(descriptor)
        left = self._most - len(self._jobs) - 1
        if left <= self._few:
            self._spare.ask(self._few + 1)
            if left <= 0:
                self._wait()
        return accepted, address

    def do_handle(self, client: _socket.socket, address: Any) -> None:
        """Serve a connection, in a greenlet that is used again (net/crew)."""
        self._jobs[client] = begin(self._carry, (client, address))

    def _carry(self, accepted: tuple[_socket.socket, Any]) -> None:
        client, address = accepted
        try:
            self._serve(self._listener, client, address)
        finally:
            was_full = self.full()
            del self._jobs[client]
            self.do_close(client)
            if was_full:
                self._start_accepting_if_started()

    def full(self) -> bool:
        """Whether no more connections may be accepted."""
        return len(self._jobs) >= self._most

    def busy(self) -> bool:
        """Whether connections are served."""
        return bool(self._jobs)

    def _wait(self) -> None:
        if not self._asking.active:
            self._asking.start(self._ask, update=True)

    def _ask(self) -> None:
        """While nobody is accepted: accept again if that is possible, or ask for room if somebody waits."""
        if not self.started:
            self._asking.stop()
        elif self.full():
            waiting = _poll()
            waiting.register(self.socket.fileno(), 1)
            if waiting.poll(0):
                self._spare.ask(self._few + 1)
        else:
            self._asking.stop()
            self.start_accepting()

    def close(self) -> None:
        """Accept no more."""
        self._asking.close()
        super().close()

    def stop(self, timeout: float | None = None) -> None:
        """Accept no more, and give the connections that are served so many seconds to end, then another one after they are cut."""
        self.close()
        self._wait_for_end(self.stop_timeout if timeout is None else timeout)
        for job in self._jobs.values():
            job.kill()
        self._wait_for_end(1.0)

    def _wait_for_end(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self._jobs and time.monotonic() < until:
            gevent.sleep(_END_TICK)


class SharingServer(RoomyServer):
    """The same for a worker that shares its listener with others."""

    def __init__(self, listener: Any, handle: Callable[[Any, Any, Any], None], most: int, spare: Spare, share: Share) -> None:
        super().__init__(listener, handle, most, spare)
        self._share = share
        self._waited = False
        self._rest = self.loop.timer(_PAUSE)

    def do_read(self) -> Any:
        """The next connection and its address. None if there is none, or if another worker should take it."""
        if self._waited:
            self._waited = False
        elif self._share.ahead():
            self.stop_accepting()
            # A used timer would fire at once, so make a new one.
            self._rest.close()
            self._rest = self.loop.timer(_PAUSE)
            self._rest.start(self._go_on, update=True)
            return None
        accepted = super().do_read()
        if accepted:
            self._share.add(1)
        return accepted

    def do_close(self, *args: Any) -> None:
        """Close a connection and count it no more."""
        self._share.add(-1)
        super().do_close(*args)

    def close(self) -> None:
        """Accept no more."""
        self._rest.close()
        super().close()

    def _go_on(self) -> None:
        if not self.started:
            return
        self._waited = True
        self.start_accepting()
