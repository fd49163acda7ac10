"""One client connection to each worker, to see what each of them does."""

from __future__ import annotations

import http.client
import os

import psutil

from tests.support.system import Answer, System


def _peers(pid: int) -> set[int]:
    """The ports at the other end of a process's connections."""
    return {item.raddr.port for item in psutil.Process(pid).net_connections("tcp") if item.raddr}


class Pinned:
    """One kept-alive connection to each worker."""

    def __init__(self, system: System) -> None:
        self._connections: dict[int, http.client.HTTPConnection] = {}
        spare = []
        pids = set(system.worker_pids())
        for _ in range(200):
            if set(self._connections) == pids:
                break
            connection = http.client.HTTPConnection("127.0.0.1", system.proxy_port, timeout=10)
            connection.request("GET", "/", headers={"Host": "nobody.test"})
            connection.getresponse().read()
            port = connection.sock.getsockname()[1]
            owner = next(pid for pid in pids if port in _peers(pid))
            spare.append(self._connections.setdefault(owner, connection))
        assert set(self._connections) == pids

    @property
    def pids(self) -> list[int]:
        return sorted(self._connections)

    def get(self, pid: int, host: str, path: str = "/") -> Answer:
        """One request to that worker."""
        self._connections[pid].request("GET", path, headers={"Host": host})
        return Answer(self._connections[pid].getresponse())

    def each(self, host: str, path: str = "/") -> list[Answer]:
        """One request to every worker, one after the other."""
        return [self.get(pid, host, path) for pid in self.pids]

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()

    def send(self, pid: int, host: str, path: str = "/") -> None:
        """A request to that worker, whose answer nobody reads."""
        self._connections[pid].request("GET", path, headers={"Host": host})

    def kill(self, pid: int, number: int) -> None:
        """Send that worker a signal, and forget its connection."""
        os.kill(pid, number)
        self._connections.pop(pid).close()
