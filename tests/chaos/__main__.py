"""The command scripts/chaos."""

from __future__ import annotations

import argparse
import random
import re
import signal
import sys
from functools import partial
from pathlib import Path

from tests.chaos.faults import FAULTS, Fault
from tests.chaos.hosts.world import HOST_FAULTS, HostsWorld
from tests.chaos.plan import planned
from tests.chaos.report import shown
from tests.chaos.world import Size, World
from tests.support.guard import guarded
from tests.support.netns import enter, missing

ABOUT = """\
Runs a whole proxyd in a folder of its own under requests and changes, while faults come at random and overlap, and holds every
answer against what was legal at that instant. docs/reliability.md lists what must hold.

The plan (which fault, when, with which parameters) follows from the seed and the options alone; what the machine makes of it does not."""
EXAMPLES = """\
examples:
  scripts/chaos --seed 7 --minutes 10
  scripts/chaos --seed 7 --minutes 1 --faults kill_worker,kill_master --every 1
  scripts/chaos --hosts 3 --seed 7 --minutes 10
  scripts/chaos --list"""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    size = Size()
    parser = argparse.ArgumentParser("scripts/chaos", description=ABOUT, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, metavar="N", help="what the plan follows from (a new one each time, which is printed)")
    parser.add_argument("--minutes", type=float, default=1.0, metavar="M", help="how long faults come (1)")
    parser.add_argument("--every", type=float, default=2.0, metavar="S", help="seconds from one fault to the next, on average (2)")
    parser.add_argument("--faults", default="", metavar="NAMES", help="these alone, with commas; `all`: those too that are off by default")
    parser.add_argument("--hosts", type=int, choices=(1, 3), default=1,
                        help="3: that many hosts, PostgreSQL with a standby and Redis, with faults of their own (docs/hosts.md)")
    parser.add_argument("--workers", type=int, default=size.workers, metavar="N", help=f"workers of a host ({size.workers})")
    parser.add_argument("--services", type=int, default=size.services, metavar="N", help=f"registry clients ({size.services})")
    parser.add_argument("--clients", type=int, default=size.clients, metavar="N", help=f"HTTP clients ({size.clients})")
    parser.add_argument("--requests", type=float, default=size.requests, metavar="N", help=f"requests a second ({size.requests:g})")
    parser.add_argument("--applies", type=float, default=size.applies, metavar="N",
                        help=f"what the registry clients do in a second, all together ({size.applies:g})")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="run in this new folder, and leave it")
    parser.add_argument("--list", action="store_true", help="list the faults and end")
    parser.add_argument("--plan", action="store_true", help="print the plan and end")
    return parser.parse_args(arguments)


def chosen(names: str, faults: dict[str, Fault]) -> list[Fault]:
    """The faults of --faults. Exits for an unknown name."""
    if not names:
        return [fault for fault in faults.values() if fault.weight]
    if names == "all":
        return list(faults.values())
    unknown = [name for name in names.split(",") if name not in faults]
    if unknown:
        sys.exit(f"scripts/chaos: no fault {', '.join(unknown)}; there are {', '.join(faults)}")
    return [faults[name] for name in names.split(",")]


def main() -> int:
    """Run, and say what came of it; 1 where an invariant did not hold."""
    options = parse()
    # So that a run that is ended takes its processes and its mount with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    faults = HOST_FAULTS if options.hosts > 1 else FAULTS
    if options.list:
        for fault in faults.values():
            print(f"{fault.name:<20} weight {fault.weight}  {fault.help}")
        return 0
    seed: int = random.SystemRandom().randrange(100_000) if options.seed is None else options.seed
    seconds = options.minutes * 60
    plan = planned(seed, seconds, options.every, chosen(options.faults, faults))
    if options.plan:
        for entry in plan:
            print(f"{entry.at:8.1f} s  {entry.fault.name}")
        return 0
    size = Size(workers=options.workers, services=options.services, clients=options.clients, requests=options.requests,
                applies=options.applies)
    if options.hosts > 1 and not missing():
        # What faults do to the network is to concern nobody else.
        enter("tests.chaos", *(() if options.seed is not None else ("--seed", str(seed))))
    kind = HostsWorld if options.hosts > 1 else World
    print(f"seed {seed}: {len(plan)} faults in {seconds:g} s", flush=True)
    with guarded("chaos-") as folder:
        verdict = kind(options.keep or folder / "run", seed, size, partial(print, flush=True)).run(plan, seconds)
        words = re.sub(r"--seed[ =]\d+ ?", "", " ".join(sys.argv[1:]))
        print(shown(verdict, f"scripts/chaos --seed {seed} {words}".rstrip()), flush=True)
    return 1 if verdict.judge.breaches else 0


if __name__ == "__main__":
    sys.exit(main())
