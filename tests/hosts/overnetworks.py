"""Three hosts in network namespaces, PostgreSQL with a standby, Redis and a backend; `python -m tests.hosts.overnetworks` runs the story
of its main function, and says what came of it as JSON."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.support.guard import guarded
from tests.support.netns import BACK, FRONT, Frame, Place, enter
from tests.support.postgres import Postgres
from tests.support.program import BackendProcess
from tests.support.redis import Redis
from tests.support.registry import RegistryClient
from tests.support.shift import ShiftedSystem
from tests.support.waiting import free_port, wait_for

#: The same on every host: each has a network of its own.
_PROXY, _REGISTRY, _ADMIN = free_port(), free_port(), free_port()


class Host(ShiftedSystem):
    """A whole proxyd in a network of its own; clients, backends and tests reach it over `front`."""

    def __init__(self, folder: Path, name: str, place: Place, url: str, redis: Redis) -> None:
        super().__init__(folder, workers=1, start=False, hosts__name=name, database__url=url, database__shared_memory=folder,
                         ratelimit__storage=redis.url, proxy__bind=f"0.0.0.0:{_PROXY}", registry__bind=f"0.0.0.0:{_REGISTRY}",
                         registry__allow_unprotected="yes", admin__bind=f"0.0.0.0:{_ADMIN}", admin__allow_unprotected="yes",
                         hosts__address=f"{place.back}:{_REGISTRY}", hosts__admin=f"{place.back}:{_ADMIN}")
        self.name, self.place, self.address = name, place, place.front
        self.proxy_port, self.registry_port, self.admin_port = _PROXY, _REGISTRY, _ADMIN
        self.command = [*place.inside, *self.command]
        self.patience = 60.0

    def serves(self) -> bool:
        """Whether a worker answers by a table that is loaded."""
        with contextlib.suppress(OSError):
            return self.get("/", "unknown.test").status == 404
        return False

    def master(self) -> psutil.Process:
        """The master's process, whether it leads or waits."""
        assert self.process is not None
        return next(child for child in psutil.Process(self.process.pid).children() if "master" in child.cmdline())


class Hosts:
    """All of it."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        # PostgreSQL's user has to get at a folder in it.
        folder.chmod(0o711)
        frame = Frame()
        stack.callback(frame.close)
        self.servers: list[Postgres] = []
        for _ in range(2):
            place = frame.place()
            self.servers.append(Postgres(place.back, place.inside, self.servers[0] if self.servers else None, folder))
            stack.callback(self.servers[-1].close)
        first, second = self.servers
        first.wait_for_copies(True)
        self.database = first.new_database().rpartition("/")[2]
        self.redis = Redis(folder, BACK)
        self.redis.start()
        stack.callback(self.redis.stop)
        self.backend = BackendProcess("b1", FRONT)
        stack.callback(self.backend.kill)
        url = (f"postgresql://proxyd@{first.address}:{first.port},{second.address}:{second.port}/{self.database}"
               "?target_session_attrs=read-write")
        self.hosts = [Host(folder / f"web{number}", f"web{number}", frame.place(), url, self.redis) for number in (1, 2, 3)]
        for host in self.hosts:
            stack.callback(host.stop)
            host.start(lambda: True)
        for host in self.hosts:
            wait_for(lambda host=host: host.serves() and _answers(host), 60, f"{host.name}")  # type: ignore[misc]

    def leader(self) -> Host:
        """The host that led last, as the database has it."""
        name = self.servers[0].sql("SELECT host FROM leadership", self.database)
        return next(host for host in self.hosts if host.name == name)

    def leads_another(self, before: Host, begin: float) -> tuple[float, float]:
        """Seconds from `begin` until another host has begun a term, and until all that are well take registry commands."""
        wait_for(lambda: self.leader() is not before, 30, "another leader")
        led = time.monotonic() - begin
        for host in self.hosts:
            if host is not before:
                wait_for(lambda host=host: _answers(host), 30, f"the registry of {host.name}")  # type: ignore[misc]
        return led, time.monotonic() - begin


def _answers(host: Host) -> bool:
    with contextlib.suppress(OSError):
        client = RegistryClient(host.registry_port, 0.3, host.address)
        try:
            return client.command("PING|nobody").startswith("ERROR|no session")
        finally:
            client.close()
    return False


def _reconnected(hosts: Hosts, before: Host, client: RegistryClient) -> RegistryClient:
    """The client's session, by a host that is well."""
    other = next(host for host in hosts.hosts if host is not before)
    again = RegistryClient(other.registry_port, address=other.address)
    answer = again.command(f"RECONNECT|{client.session_id}")
    assert answer == "OK", answer
    again.session_id = client.session_id
    return again


@contextlib.contextmanager
def running() -> Iterator[Hosts]:
    """All of it for a while. This process needs a network of its own."""
    with guarded("hosts-") as folder, contextlib.ExitStack() as stack:
        yield Hosts(folder, stack)


def _apply(hosts: Hosts, client: RegistryClient, route: str, version: int, but: Host | None = None) -> int:
    """Apply a version, and hold each host (`but` one) against it. Returns the version."""
    client.ok(f"ROUTE_UPDATE|SID|{route}|backend_url|{hosts.backend.url}/v{version}")
    client.apply()
    for host in hosts.hosts:
        if host is not but:
            told = host.get("/", "shop.test").text
            assert f"/v{version}" in told, f"{host.name} after the OK of version {version}: {told}"
    return version


def main() -> None:
    """The leader is cut off, then stopped and continued; the database fails over. Nothing acknowledged is lost."""
    enter("tests.hosts.overnetworks")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    said: dict[str, float | tuple[float, float]] = {}
    begin = time.monotonic()
    with running() as hosts:
        said["start"] = time.monotonic() - begin
        leader = hosts.leader()
        client = RegistryClient(leader.registry_port, address=leader.address).register("shop")
        route = client.route("shop.test", f"{hosts.backend.url}/v0")
        _apply(hosts, client, route, 1)
        # Cut off from the database and the other hosts: it serves its clients by what it has.
        passed = [RegistryClient(host.registry_port, 30.0, host.address) for host in hosts.hosts if host is not leader]
        for number, other in enumerate(passed):
            other.register(f"passed{number}")
        begin = time.monotonic()
        with leader.place.cut_off("both ways"):
            said["cut_off"] = hosts.leads_another(leader, begin)
            # What was passed on to the host that is cut off ends: the client has to look for another way.
            for other in passed:
                other.socket.settimeout(10.0)
                assert other.line() in ("", "SHUTDOWN")
            client = _reconnected(hosts, leader, client)
            _apply(hosts, client, route, 2, but=leader)
            assert leader.get("/", "shop.test").status == 200
        wait_for(lambda: "/v2" in leader.get("/", "shop.test").text, 20, "the newest table on the host that was cut off")
        # Stopped, overtaken, continued: it must write nothing.
        leader = hosts.leader()
        begin, master = time.monotonic(), leader.master()
        master.send_signal(signal.SIGSTOP)
        said["stopped"] = hosts.leads_another(leader, begin)
        client = _reconnected(hosts, leader, client)
        _apply(hosts, client, route, 3, but=leader)
        term = hosts.servers[0].sql("SELECT term FROM leadership", hosts.database)
        master.send_signal(signal.SIGCONT)
        wait_for(lambda: not master.is_running() or master.status() == psutil.STATUS_ZOMBIE, 20, "the end of the master that was overtaken")
        assert hosts.servers[0].sql("SELECT term FROM leadership", hosts.database) == term
        # The database fails over: what was acknowledged is on the standby.
        begin = time.monotonic()
        hosts.servers[0].stop(signal.SIGQUIT)
        hosts.servers.reverse()
        hosts.servers[0].promote()
        hosts.servers[0].wait_for_copies(False)
        assert all("/v3" in host.get("/", "shop.test").text for host in hosts.hosts)
        wait_for(lambda: any(_answers(host) for host in hosts.hosts) and _takes(hosts, client, route, 4), 30, "an apply after it")
        said["failed_over"] = time.monotonic() - begin
    print(json.dumps(said), flush=True)


def _takes(hosts: Hosts, client: RegistryClient, route: str, version: int) -> bool:
    """Whether an apply is taken and is everywhere, by any host, on a connection of its own."""
    for host in hosts.hosts:
        with contextlib.suppress(OSError, AssertionError):
            again = RegistryClient(host.registry_port, 5.0, host.address)
            try:
                again.session_id = client.session_id
                if again.command("RECONNECT|SID") == "OK":
                    _apply(hosts, again, route, version)
                    return True
            finally:
                again.close()
    return False


if __name__ == "__main__":
    main()
