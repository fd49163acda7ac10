"""Events: what the registry (and the client itself) tells unasked, brought to callbacks and iterators."""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

# What the client itself tells about its connection; never asked of the registry.
LOCAL_TYPES = frozenset({"connected", "disconnected", "reconnected", "reregistered", "shutdown"})
_WAITING = 10_000

Callback = Callable[["Event"], None]
_log = logging.getLogger("proxyd.client")


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its type, and the registry's data (`at`, and `route_id` where there is one)."""

    type: str
    data: dict[str, Any] = field(default_factory=dict)


def parse_event(line: str) -> Event:
    """The event in an `EVENT|type|{json}` line; data that is no JSON object comes as {"text": ...}."""
    _, _, rest = line.partition("|")
    kind, _, body = rest.partition("|")
    try:
        data = json.loads(body or "{}")
    except ValueError:
        data = {"text": body}
    return Event(kind, data if isinstance(data, dict) else {"text": body})


class EventHub:
    """Hands events to callbacks, in a thread of its own so that a callback may send commands, and to iterators."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: list[tuple[str, Callback]] = []
        self._listeners: list[tuple[frozenset[str], queue.Queue[Event | None]]] = []
        self._pending: queue.Queue[Event | None] = queue.Queue(_WAITING)
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, type: str, callback: Callback) -> None:
        """Call `callback` for events of that type, or of any for `all`."""
        with self._lock:
            self._callbacks.append((type, callback))
            if self._thread is None:
                self._thread = threading.Thread(target=self._dispatch, name="registry-events", daemon=True)
                self._thread.start()

    def remove(self, type: str, callback: Callback | None = None) -> None:
        """Forget the callbacks of a type, or the one given."""
        with self._lock:
            self._callbacks = [one for one in self._callbacks if one[0] != type or callback not in (None, one[1])]

    def wanted(self, type: str) -> bool:
        """Whether a callback of exactly that type is left."""
        with self._lock:
            return any(one == type for one, _ in self._callbacks)

    def listen(self, types: frozenset[str], silence: float | None) -> Iterator[Event]:
        """Events of those types from now on, until the hub closes or nothing came for `silence` seconds."""
        waiting: queue.Queue[Event | None] = queue.Queue(_WAITING)
        with self._lock:
            self._listeners.append((types, waiting))
            if self._closed:
                waiting.put(None)
        return self._iterate(types, waiting, silence)

    def _iterate(self, types: frozenset[str], waiting: queue.Queue[Event | None], silence: float | None) -> Iterator[Event]:
        try:
            while True:
                try:
                    event = waiting.get(timeout=silence)
                except queue.Empty:
                    return
                if event is None:
                    return
                yield event
        finally:
            with self._lock:
                self._listeners = [one for one in self._listeners if one[1] is not waiting]

    def emit(self, event: Event) -> None:
        """Hand one event out; never blocks. Where nobody takes them, the oldest of 10000 waiting go first."""
        with self._lock:
            for types, waiting in self._listeners:
                if event.type in types or ("all" in types and event.type not in LOCAL_TYPES):
                    _put(waiting, event)
            if self._callbacks:
                _put(self._pending, event)

    def close(self) -> None:
        """End the iterators and the thread."""
        with self._lock:
            self._closed = True
            for _, waiting in self._listeners:
                _put(waiting, None)
            _put(self._pending, None)

    def _dispatch(self) -> None:
        while (event := self._pending.get()) is not None:
            with self._lock:
                callbacks = [call for type, call in self._callbacks
                             if type == event.type or (type == "all" and event.type not in LOCAL_TYPES)]
            for call in callbacks:
                try:
                    call(event)
                except Exception:
                    _log.exception("a callback for %s failed", event.type)


def _put(waiting: queue.Queue[Event | None], event: Event | None) -> None:
    while True:
        try:
            waiting.put_nowait(event)
            return
        except queue.Full:
            try:
                waiting.get_nowait()
            except queue.Empty:
                time.sleep(0)
