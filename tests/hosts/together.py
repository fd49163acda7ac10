"""Three hosts, PostgreSQL with a standby, Redis and backends: each host in a network of its own, or on an address of its own."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import psutil

from tests.support.postgres import Postgres
from tests.support.program import BackendProcess
from tests.support.redis import Redis
from tests.support.registry import RegistryClient
from tests.support.shift import ShiftedSystem
from tests.support.waiting import free_port, wait_for

#: The same on every host: each has a network, or an address, of its own.
_PROXY, _REGISTRY, _ADMIN = free_port(), free_port(), free_port()


class Net(Protocol):
    """Where hosts are: `front` and `back` are the addresses of this process."""

    front: str
    back: str

    def place(self) -> Spot: ...


class Spot(Protocol):
    """The place of a host, by its addresses; `inside` goes before a command that is to run there, and `bind` is where it listens."""

    front: str
    back: str
    bind: str
    inside: tuple[str, ...]


class Addresses:
    """Places on the loopback of this machine, where network namespaces are not allowed. Nobody can be cut off there."""

    front = back = "127.0.0.1"

    def __init__(self) -> None:
        self._made = 0

    def place(self) -> Spot:
        """One more address."""
        self._made += 1
        return _Address(f"127.0.0.{10 + self._made}")


class _Address:
    inside: tuple[str, ...] = ()

    def __init__(self, address: str) -> None:
        self.front = self.back = self.bind = address


class Host(ShiftedSystem):
    """A whole proxyd in a place of its own; clients, backends and tests reach it over `front`."""

    def __init__(self, folder: Path, name: str, place: Spot, url: str, redis: Redis, **settings: Any) -> None:
        super().__init__(folder, start=False, **{
            "hosts__name": name, "database__url": url, "database__shared_memory": folder, "ratelimit__storage": redis.url,
            "proxy__bind": f"{place.bind}:{_PROXY}", "registry__bind": f"{place.bind}:{_REGISTRY}",
            "registry__allow_unprotected": "yes", "admin__bind": f"{place.bind}:{_ADMIN}", "admin__allow_unprotected": "yes",
            "hosts__address": f"{place.back}:{_REGISTRY}", "hosts__admin": f"{place.back}:{_ADMIN}", "proxy__workers": 1, **settings})
        self.name, self.place, self.address = name, place, place.front
        self.proxy_port, self.registry_port, self.admin_port = _PROXY, _REGISTRY, _ADMIN
        self.command = [*place.inside, *self.command]
        self.patience = 60.0

    def use(self, tree: Path) -> None:
        """Run from another tree at the next start."""
        self.root, self.gunicorn_config = tree, tree / "gunicorn.conf.py"

    def serves(self) -> bool:
        """Whether a worker answers by a table that is loaded."""
        with contextlib.suppress(OSError):
            return self.get("/", "unknown.test").status == 404
        return False

    def answers(self) -> bool:
        """Whether the registry takes commands, by this host or passed on."""
        with contextlib.suppress(OSError):
            client = RegistryClient(self.registry_port, 0.3, self.address)
            try:
                return client.command("PING|nobody").startswith("ERROR|no session")
            finally:
                client.close()
        return False

    def master(self) -> psutil.Process:
        """The master's process, whether it leads or waits. Raises AssertionError while there is none."""
        assert self.process is not None
        found = next((child for child in psutil.Process(self.process.pid).children() if "master" in child.cmdline()), None)
        assert found is not None, f"{self.name} has no master now"
        return found


class Lead(NamedTuple):
    """A lead: the host that has it, and its number."""

    host: Host
    term: int


class Hosts:
    """All of it. `settings` are those of each host, and `tree` is what they run from, if not from this one."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack, net: Net, backends: int = 1, tree: Path | None = None,
                 **settings: Any) -> None:
        # PostgreSQL's user has to get at a folder in it.
        folder.chmod(0o711)
        #: The server that takes writes comes first.
        self.servers: list[Postgres] = []
        for _ in range(2):
            place = net.place()
            self.servers.append(Postgres(place.back, place.inside, self.servers[0] if self.servers else None, folder))
            stack.callback(self.servers[-1].close)
        first, second = self.servers
        first.wait_for_copies(True)
        self.database = first.new_database().rpartition("/")[2]
        self.redis = Redis(folder, net.back)
        self.redis.start()
        stack.callback(self.redis.stop)
        self.backends = [BackendProcess(f"b{number}", net.front) for number in range(backends)]
        for backend in self.backends:
            stack.callback(backend.kill)
        url = (f"postgresql://proxyd@{first.address}:{first.port},{second.address}:{second.port}/{self.database}"
               "?target_session_attrs=read-write")
        self.hosts = [Host(folder / f"web{number}", f"web{number}", net.place(), url, self.redis, **settings) for number in (1, 2, 3)]
        for host in self.hosts:
            stack.callback(host.stop)
            if tree is not None:
                host.use(tree)
            host.start(lambda: True)
        for host in self.hosts:
            wait_for(lambda host=host: host.serves() and host.answers(), 60, f"{host.name}")  # type: ignore[misc]

    def lead(self) -> Lead:
        """The lead that began last, as the database has it."""
        name, term = self.servers[0].sql("SELECT host, term FROM leadership", self.database).split("|")
        return Lead(next(host for host in self.hosts if host.name == name), int(term))

    def leader(self) -> Host:
        """The host that led last."""
        return self.lead().host

    def term(self) -> int:
        """The number of the lead that began last."""
        return self.lead().term

    def leads_another(self, before: Host, begin: float) -> tuple[float, float]:
        """Seconds from `begin` until another host has begun a term, and until all that are well take registry commands."""
        wait_for(lambda: self.leader() is not before, 30, "another leader")
        led = time.monotonic() - begin
        for host in self.hosts:
            if host is not before:
                wait_for(lambda host=host: host.answers(), 30, f"the registry of {host.name}")  # type: ignore[misc]
        return led, time.monotonic() - begin

    def fail_over(self) -> None:
        """Kill the database server, and let its standby take the writes, without a standby of its own until `follow`."""
        self.servers[0].stop(signal.SIGQUIT)
        self.servers.reverse()
        self.servers[0].promote()
        self.servers[0].wait_for_copies(False)

    def follow(self) -> None:
        """Make the server that was killed the standby of the one that takes writes now; commits wait for it again."""
        self.servers[1].follow(self.servers[0])
        self.servers[0].wait_for_copies(True)

