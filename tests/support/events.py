"""A registry client that takes events as they come, each with the moment of its arrival."""

from __future__ import annotations

import json
import queue
import threading
import time
from typing import Any

from tests.support.registry import RegistryClient
from tests.support.system import System
from tests.support.waiting import patience, wait_for


class Listener(RegistryClient):
    """`events` holds (arrival in Unix seconds, type, payload) in order; commands work as ever beside them."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        # Where nothing happens for long, no event comes.
        self.socket.settimeout(None)
        self.events: list[tuple[float, str, dict[str, Any]]] = []
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            while line := super().line():
                if line.startswith("EVENT|"):
                    _, kind, payload = line.split("|", 2)
                    self.events.append((time.time(), kind, json.loads(payload)))
                else:
                    self._answers.put(line)
        except (OSError, ValueError):
            pass

    def line(self) -> str:
        """The next line that is no event."""
        return self._answers.get(timeout=patience(15))

    def of(self, kind: str, route_id: str | None = None) -> list[dict[str, Any]]:
        """The payloads of one type so far, of one route if given."""
        return [data for _, type_, data in self.events if type_ == kind and route_id in (None, data.get("route_id"))]

    def circuit_changes(self, route_id: str) -> list[tuple[str, str, str]]:
        """(from, to, reason) of the circuit's changes so far."""
        return [(data["from"], data["to"], data["reason"]) for data in self.of("circuit_state_changed", route_id)]

    def wait_for_change(self, count: int, kind: str, route_id: str, seconds: float = 5.0) -> list[dict[str, Any]]:
        """Wait until there are `count` events of the type."""
        wait_for(lambda: len(self.of(kind, route_id)) >= count, seconds, f"{count} {kind} of {route_id}", 0.005)
        return self.of(kind, route_id)


def listener(system: System, service: str, instance: str = "i1") -> Listener:
    """A registered listener that is subscribed to everything."""
    client = Listener(system.registry_port)
    system._clients.append(client)
    client.register(service, instance)
    assert client.command("SUBSCRIBE|SID|all") == "SUBSCRIBE_OK"
    return client
