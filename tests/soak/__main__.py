"""The command scripts/soak."""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.soak.churn import Churn
from tests.soak.measure import MIB, Memory, files, later_half, memory_of, slope, tables, too_much, unbounded
from tests.support.certificates import Authority
from tests.support.guard import guarded
from tests.support.program import ROOT, BackendProcess
from tests.support.system import System
from tests.support.waiting import free_port

ABOUT = """\
Runs a whole proxyd in a folder of its own under mixed traffic (GET, POST, chunked, compressed, event streams, WebSockets, TLS) while
sessions come and go, and prints what each process takes, what the files take, and how many rows the tables have. Memory is USS (a
process's own) and PSS (with its share of what is shared), in MiB. The growth of each process for 100,000 requests is the slope of a
line through the second half of the run. Exit status 1: a process grew more than --bound, a table went on growing although its rows
are pruned after --retain, or a request was not answered as it should be."""
RETENTION_ROUND = 60.0
SETTINGS = ("health", "minutes", "latency", "hours", "days", "stats", "events", "slow", "sessions", "routes")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("scripts/soak", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, metavar="M", help="how long (10)")
    parser.add_argument("--every", type=float, default=15.0, metavar="S", help="seconds from one measurement to the next (15)")
    parser.add_argument("--bound", type=float, default=2.0, metavar="MIB", help="most growth of a process for 100,000 requests, in MiB (2)")
    parser.add_argument("--retain", type=float, default=120.0, metavar="S", help="seconds after which rows are pruned (120)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="workers (2)")
    parser.add_argument("--clients", type=int, default=32, metavar="N", help="HTTP clients (32)")
    parser.add_argument("--no-churn", action="store_true", help="no sessions that come and go")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="what the clients' choices follow from (1)")
    return parser.parse_args()


class Load:
    """The process of HTTP clients, and how many requests it has told of."""

    def __init__(self, system: System, tls_port: int, authority: Authority, clients: int, seed: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.load", str(system.proxy_port), str(tls_port), str(authority.file), str(clients), str(seed)],
            cwd=ROOT, stdout=subprocess.PIPE, text=True)
        self.good = self.bad = 0
        self.errors = ""

    def wait(self, seconds: float) -> None:
        """Read what it tells for so long."""
        deadline = time.monotonic() + seconds
        assert self._process.stdout is not None
        while time.monotonic() < deadline:
            line = self._process.stdout.readline()
            if not line:
                raise RuntimeError(f"the load ended with status {self._process.wait(10)}")
            good, bad, self.errors = line.rstrip("\n").split(" ", 2)
            self.good, self.bad = int(good), int(bad)

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait(10)


@contextlib.contextmanager
def running(folder: Path, options: argparse.Namespace) -> Iterator[tuple[System, Load, Churn]]:
    """Everything that takes part."""
    with contextlib.ExitStack() as stack:
        authority = Authority(folder)
        tls_port = free_port()
        backend = BackendProcess("b")
        stack.callback(backend.kill)
        retained = {f"database__retain_{name}": f"{options.retain:g}s" for name in SETTINGS}
        system = System(folder / "run", workers=options.workers, start=False, tls__bind=f"127.0.0.1:{tls_port}",
                        tls__certificates=str(authority.issue("soak.pem", "soak.test", "127.0.0.1")), **retained)
        system.patience = 60.0
        stack.callback(system.stop)
        system.start()
        client = system.client("soak")
        client.route("soak.test", backend.url)
        client.ok("HEALTH_SET|SID|ALL|/healthz|1s|1s")
        client.ok("RATELIMIT_SET|SID|ALL|1000000|1m")
        client.ok("CIRCUIT_BREAKER_SET|SID|ALL|1000|1s|1")
        client.options("ALL", compression="true", websocket="true", retry="true", slow_warning="1s")
        churn = Churn(system, backend.url, random.Random(options.seed))
        if not options.no_churn:
            churn.start()
            stack.callback(churn.join, 30)
            stack.callback(churn.ending.set)
        load = Load(system, tls_port, authority, options.clients, options.seed)
        stack.callback(load.stop)
        yield system, load, churn


def main() -> int:
    """Run, print, and judge."""
    options = parse()
    # So that a run that is ended takes its processes with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(guarded("soak-"))
        system, load, churn = stack.enter_context(running(place, options))
        names = {pid: f"worker {number}" for number, pid in enumerate(sorted(system.worker_pids()))} | {system.master_pid(): "master"}
        points: dict[int, list[Memory]] = {pid: [] for pid in names}
        rows: list[tuple[float, dict[str, int]]] = []
        print("   s   requests  sessions  " + "  ".join(f"{name:>20}" for name in names.values()) + "   (USS, PSS MiB)", flush=True)
        begun = time.monotonic()
        gone = ""
        while (elapsed := time.monotonic() - begun) < options.minutes * 60 and not churn.trouble and not gone:
            load.wait(options.every)
            try:
                for pid, found in points.items():
                    found.append(memory_of(pid, load.good))
            except psutil.Error as error:
                gone = f"a process ended: {error!r}"
                break
            rows.append((elapsed, tables(system)))
            shown = "  ".join(f"{found[-1].own / MIB:9.1f} {found[-1].share / MIB:10.1f}" for found in points.values())
            print(f"{elapsed + options.every:5.0f} {load.good:9} {churn.sessions:9}  {shown}", flush=True)
            if len(rows) % 4 == 0:
                print("      files  " + ", ".join(f"{name} {size / MIB:.1f}" for name, size in files(system.directory).items()), flush=True)
                print("      rows   " + ", ".join(f"{name} {count}" for name, count in rows[-1][1].items()), flush=True)
        wrong = [gone] if gone else []
        for pid, name in names.items():
            growth = slope(later_half(points[pid]))
            print(f"{name}: {growth / MIB:+.2f} MiB for 100,000 requests in the second half")
            if too_much(points[pid], options.bound * MIB):
                wrong.append(f"{name} grew by {growth / MIB:.2f} MiB for 100,000 requests (bound {options.bound:g})")
        wrong += unbounded(rows, options.retain + 3 * RETENTION_ROUND)
        if load.bad:
            wrong.append(f"{load.bad} requests went wrong: {load.errors}")
        if churn.trouble:
            wrong.append(f"sessions: {churn.trouble}")
        print("\n".join(f"WRONG  {what}" for what in wrong) or f"well: {load.good} requests, {churn.sessions} sessions")
        return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
