"""The command scripts/deploys."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.deploys.programs import KINDS, Service, missing
from tests.deploys.stories import STORIES, tell
from tests.support.guard import guarded
from tests.support.system import System

ABOUT = """\
Deploys real programs (Flask under gunicorn, Node, a gRPC server) under `proxyctl run` in a proxyd of its own, under load by wrk, h2load and
grpcio, and counts the requests that fail. Exits with 1 if one did. docs/deploys.md says what clients get in each case."""


@contextmanager
def running(directory: Path) -> Iterator[list[Service]]:
    """A proxyd, and the first version of each service behind it."""
    directory.mkdir(parents=True, exist_ok=True)
    token = directory / "token"
    token.write_text("an admin token for deploys\n")
    token.chmod(0o600)
    system = System(directory / "system", proxy__http2_cleartext="yes", admin__token_file=token, start=False)
    services: list[Service] = []
    try:
        system.start()
        for kind in KINDS:
            services.append(Service(kind, system, directory / kind.name))
            services[-1].next_version()
            services[-1].restart("a")
        for service in services:
            service.await_version()
        yield services
    finally:
        for service in services:
            service.end()
        system.stop()


def tell_all(services: list[Service], stories: Iterable[str]) -> Iterator[tuple[str, str, int, int, list[str], float]]:
    """Each story, for all services side by side: its name, the service, requests, calls sent again, failures, seconds."""
    with ThreadPoolExecutor(len(services)) as pool:
        for name in stories:
            begun = time.monotonic()
            told = [(service, pool.submit(tell, name, service)) for service in services]
            for service, one in told:
                yield name, service.kind.name, *one.result(), time.monotonic() - begun


def main() -> int:
    """Exit code."""
    parser = argparse.ArgumentParser("scripts/deploys", description=ABOUT)
    parser.add_argument("--times", type=int, default=1, metavar="N", help="how often each story is told (1)")
    parser.add_argument("--stories", default=",".join(STORIES), metavar="NAMES", help=f"these alone ({','.join(STORIES)})")
    options = parser.parse_args()
    stories = options.stories.split(",")
    if unknown := [name for name in stories if name not in STORIES]:
        parser.error(f"no such story: {', '.join(unknown)}")
    if missing():
        parser.error(f"this machine lacks {missing()}")
    requests = again = failed = 0
    with guarded("proxyd-deploys-") as directory, running(directory) as services:
        for number in range(options.times):
            for name, kind, count, resent, failures, seconds in tell_all(services, stories):
                requests, again, failed = requests + count, again + resent, failed + len(failures)
                print(f"{time.strftime('%X')}  {number + 1:>3}  {name:<9} {kind:<6} {count:>5} requests  {seconds:5.1f} s  "
                      f"{'FAILED: ' + ' | '.join(failures) if failures else 'none failed'}", flush=True)
    print(f"{requests} requests, {again} calls sent again by clients of gRPC, {failed} failures")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
