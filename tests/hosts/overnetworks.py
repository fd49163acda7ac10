"""A story of three hosts in network namespaces (`together.py`); `python -m tests.hosts.overnetworks` runs it, and says what came of it as
JSON."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator

import psutil

from tests.hosts.together import Host, Hosts
from tests.support.guard import guarded
from tests.support.netns import Frame, Place, enter
from tests.support.registry import RegistryClient
from tests.support.waiting import wait_for


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
        frame = Frame()
        stack.callback(frame.close)
        yield Hosts(folder, stack, frame)


def _apply(hosts: Hosts, client: RegistryClient, route: str, version: int, but: Host | None = None) -> int:
    """Apply a version, and hold each host (`but` one) against it. Returns the version."""
    client.ok(f"ROUTE_UPDATE|SID|{route}|backend_url|{hosts.backends[0].url}/v{version}")
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
        route = client.route("shop.test", f"{hosts.backends[0].url}/v0")
        _apply(hosts, client, route, 1)
        # Cut off from the database and the other hosts: it serves its clients by what it has.
        passed = [RegistryClient(host.registry_port, 30.0, host.address) for host in hosts.hosts if host is not leader]
        for number, other in enumerate(passed):
            other.register(f"passed{number}")
        begin, master = time.monotonic(), leader.master()
        assert isinstance(leader.place, Place)
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
        # Its master ends, as it was overtaken; the next one passes on.
        wait_for(lambda: _ended(master) and leader.answers(), 60, "the next master of the host that was cut off")
        # Stopped, overtaken, continued: it must write nothing.
        leader = hosts.leader()
        begin, master = time.monotonic(), leader.master()
        master.send_signal(signal.SIGSTOP)
        said["stopped"] = hosts.leads_another(leader, begin)
        client = _reconnected(hosts, leader, client)
        _apply(hosts, client, route, 3, but=leader)
        term = hosts.term()
        master.send_signal(signal.SIGCONT)
        wait_for(lambda: _ended(master), 20, "the end of the master that was overtaken")
        assert hosts.term() == term
        wait_for(lambda: "/v3" in leader.get("/", "shop.test").text, 20, "the newest table on the host whose master was stopped")
        # The database fails over: what was acknowledged is on the standby.
        begin = time.monotonic()
        hosts.fail_over()
        assert all("/v3" in host.get("/", "shop.test").text for host in hosts.hosts)
        wait_for(lambda: any(host.answers() for host in hosts.hosts) and _takes(hosts, client, route, 4), 30, "an apply after it")
        said["failed_over"] = time.monotonic() - begin
    print(json.dumps(said), flush=True)


def _ended(master: psutil.Process) -> bool:
    return not master.is_running() or master.status() == psutil.STATUS_ZOMBIE


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
