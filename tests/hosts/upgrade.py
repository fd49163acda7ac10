"""An upgrade of three hosts, one after the other, under traffic: `python -m tests.hosts.upgrade` says what came of it as JSON.

The new version is a copy of this tree whose schema has one step more. Or this tree is the new version, and `--old DIRECTORY` has another
one, like a worktree of an older commit. Clients ask the hosts that /readyz says are to be asked, as a front does; a service applies all
the time. No request may fail, and after each OK every host that was to be asked routes by it.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from proxyd.base.text import parse_rfc3339
from tests.hosts.together import Addresses, Host, Hosts
from tests.support.guard import guarded
from tests.support.registry import RegistryClient
from tests.support.scratch import ROOT, Scratch
from tests.support.waiting import wait_for

_DELAY = 2.0
#: Seconds for which a host that was named as late may be so.
_RECENT = 5.0
_STEP = '    (99, "of tomorrow", _of_tomorrow),'
_WHAT = '''def _of_tomorrow() -> None:
    _add_column(Route, "tomorrow")
    _add_column(RouteStats, "tomorrow")
    _add_column(Worker, "tomorrow")

'''


def newer(folder: Path) -> Path:
    """A tree with a copy of the package that is a version on, by its schema and by its name."""
    copy = Scratch(folder)
    copy.insert("proxyd/store/sql/migrations.py", "#: Number, what it brings, and how.", _WHAT)
    copy.insert("proxyd/store/sql/migrations.py", ")\n#: Steps after whose first run", _STEP)
    (folder / "proxyd" / "__init__.py").write_text('"""The proxy of tomorrow."""\n\n__version__ = "99.0"\n')
    (folder / "gunicorn.conf.py").write_text((ROOT / "gunicorn.conf.py").read_text())
    return folder


class Front:
    """Asks the hosts whose /readyz says so, from several threads, and counts what is answered."""

    def __init__(self, hosts: list[Host]) -> None:
        self._hosts = hosts
        self.ready = dict.fromkeys(hosts, True)
        self.seen: Counter[str] = Counter()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._look, args=(host,), daemon=True) for host in hosts]
        self._threads += [threading.Thread(target=self._ask, args=(number,), daemon=True) for number in range(3)]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End."""
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def _look(self, host: Host) -> None:
        while not self._over.wait(0.1):
            try:
                self.ready[host] = host.admin("/readyz").status == 200
            except (OSError, http.client.HTTPException):
                self.ready[host] = False

    def _ask(self, turn: int) -> None:
        while not self._over.wait(0.02):
            # While none is ready, as when the database is away, a front asks all of them.
            choice = [host for host in self._hosts if self.ready[host]] or self._hosts
            turn += 1
            host = choice[turn % len(choice)]
            try:
                self.seen[str(host.get("/", "shop.test").status)] += 1
            except (OSError, http.client.HTTPException) as error:
                self.seen[f"{host.name}: {error!r}"] += 1


class Shop:
    """A service that applies version after version, and moves to another host when it is told to, or has lost its connection."""

    def __init__(self, hosts: Hosts, front: Front) -> None:
        self._hosts, self._front = hosts, front
        self._url = hosts.backends[0].url
        first = hosts.hosts[0]
        self._client = RegistryClient(first.registry_port, address=first.address).register("shop")
        self._session = self._client.session_id
        self._route = self._client.route("shop.test", f"{self._url}/v0")
        self.version = self.moves = 0
        self.trouble: list[str] = []
        #: Answers by an older table of hosts that a leader has named as late, or as gone.
        self.named: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._over.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._over.wait(0.1):
            try:
                self._apply()
            except (OSError, AssertionError) as error:
                if "SHUTDOWN" not in str(error) and not isinstance(error, OSError) and " -> " not in str(error):
                    self.trouble.append(str(error))
                self._move()

    def _apply(self) -> None:
        version = self.version + 1
        asked = [host for host in self._hosts.hosts if self._front.ready[host]]
        self._client.ok(f"ROUTE_UPDATE|SID|{self._route}|backend_url|{self._url}/v{version}")
        answer = self._client.command("CONFIG_APPLY|SID")
        if answer != "OK":
            raise OSError(f"no answer to the apply: {answer}")
        self.version = version
        for host in asked:
            with contextlib.suppress(OSError, http.client.HTTPException):
                text = host.get("/", "shop.test").text
                if f"/v{version}" not in text and self._front.ready[host]:
                    told = f"{host.name} after the OK of version {version}: {text}"
                    (self.named if self._is_named(host) else self.trouble).append(told)

    def _is_named(self, host: Host) -> bool:
        """Whether the last that the others say of a host is that it is late or gone, as one may be on a machine that is too busy."""
        said = [line for other in self._hosts.hosts for line in other.log().splitlines()
                if re.search(rf"not yet taken by host .*\b{host.name} \(|host {host.name} (?:has given no sign|is back)", line)]
        now = time.time()
        return any(" is back" not in line and now - parse_rfc3339(line.split(" ", 1)[0]) < _RECENT for line in said)

    def _move(self) -> None:
        """Connect to another host, and take the session up there."""
        self._client.close()
        while not self._over.wait(0.05):
            self.moves += 1
            host = self._hosts.hosts[self.moves % 3]
            with contextlib.suppress(OSError):
                client = RegistryClient(host.registry_port, 15.0, host.address)
                client.session_id = self._session
                answer = client.command("RECONNECT|SID")
                if answer == "OK":
                    client.command("CONFIG_ROLLBACK|SID")
                    self._client = client
                    return
                client.close()
                if answer == "REREGISTER":
                    self.trouble.append("the session is gone")
                    return


def proxyctl(at: Host, *arguments: str) -> None:
    """A command at the admin HTTP of a host, which must do as it is told."""
    done = subprocess.run([sys.executable, "-m", "proxyd.ctl.main", *arguments, "--admin", f"http://{at.address}:{at.admin_port}"],
                          cwd=ROOT, env=at.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"proxyctl {' '.join(arguments)}: {done.stdout}{done.stderr}"


def upgrade(hosts: Hosts, host: Host, tree: Path) -> dict[str, Any]:
    """Drain a host, have it run from another tree, and have it serve again. Says what it was and how long that took in seconds."""
    led, begin = host is hosts.leader(), time.monotonic()
    other = next(one for one in hosts.hosts if one is not host)
    proxyctl(other, "host", "drain", host.name, "--timeout", "60s")
    drained = time.monotonic()
    host.stop()
    host.use(tree)
    host.start(host.serves)
    proxyctl(other, "host", "undrain", host.name)
    wait_for(host.ready, 60, f"a ready {host.name}")
    return {"host": host.name, "led": led, "drained after": round(drained - begin, 1), "ready after": round(time.monotonic() - begin, 1)}


def main() -> None:
    """The story."""
    parser = argparse.ArgumentParser("python -m tests.hosts.upgrade")
    parser.add_argument("--old", type=Path, metavar="DIRECTORY", help="a tree of the old version; this one is the new one then")
    options = parser.parse_args()
    with guarded("upgrade-") as folder, contextlib.ExitStack() as stack:
        old, new = (options.old.resolve(), ROOT) if options.old else (ROOT, newer(folder / "tomorrow"))
        token = folder / "token"
        token.write_text("correct-horse-battery")
        token.chmod(0o600)
        hosts = Hosts(folder, stack, Addresses(), tree=old, hosts__drain_delay=f"{_DELAY:g}s", admin__token_file=token)
        schema = hosts.servers[0].sql("SELECT MAX(version) FROM schema_version", hosts.database)
        front = Front(hosts.hosts)
        shop = Shop(hosts, front)
        front.start()
        shop.start()
        time.sleep(2.0)
        leader = hosts.leader()
        # One that follows, then the one that leads, then the last of the old version, which can't lead any more if a new one has led.
        followers = [host for host in hosts.hosts if host is not leader]
        steps = [upgrade(hosts, host, new) for host in (followers[0], leader, followers[1])]
        time.sleep(2.0)
        shop.stop()
        front.stop()
        releases = hosts.servers[0].sql("SELECT DISTINCT release FROM hosts", hosts.database)
        tracebacks = sum(host.log().count("Traceback (most recent") for host in hosts.hosts)
        after = hosts.servers[0].sql("SELECT MAX(version) FROM schema_version", hosts.database)
        print(json.dumps({"steps": steps, "requests": front.seen, "applies": shop.version, "moves": shop.moves, "trouble": shop.trouble,
                          "named as late": shop.named,
                          "schema": [schema, after], "releases": releases.split(), "tracebacks": tracebacks}, indent=1), flush=True)
        assert set(front.seen) == {"200"} and not shop.trouble and not tracebacks


if __name__ == "__main__":
    main()
