"""The command scripts/starts: a whole proxyd is started again and again, and signals come at random instants of its processes' lives."""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from pathlib import Path

from tests.chaos.life import Broken, Life
from tests.chaos.signalled import planned
from tests.support.guard import guarded
from tests.support.program import BackendProcess

ABOUT = """\
Starts a whole proxyd again and again on the same files. Each time some signals come to the arbiter, a worker or the master, while it
boots, runs, reloads, stops or has just lost a process. What comes of each must be what docs/operations.md says of that signal, or
nothing. In the end TERM must end everything, with status 0.

Which signals come, to whom and when, follows from the seed; what the machine makes of it does not."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("scripts/starts", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, metavar="N", help="what the signals follow from (a new one each time, which is printed)")
    parser.add_argument("--count", type=int, default=200, metavar="N", help="how many starts (200)")
    parser.add_argument("--only", type=int, metavar="N", help="this one of them alone")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="run in this new folder, and leave it")
    parser.add_argument("--plan", action="store_true", help="print what would be sent and end")
    return parser.parse_args(arguments)


def run(folder: Path, seed: int, numbers: list[int]) -> list[str]:
    """Start so often, and print a line for each start. Returns what was wrong."""
    wrong: list[str] = []
    for terminal in (signal.SIGINT, signal.SIGQUIT):
        # A shell has what it starts in the background ignore these, and so would all that is started here.
        if signal.getsignal(terminal) is signal.SIG_IGN:
            signal.signal(terminal, signal.SIG_DFL)
    backend = BackendProcess("b0")
    life = Life(folder, backend.url)
    #: Seconds that the last boot took: instants are parts of it.
    boot = 3.0
    try:
        for number in numbers:
            kind, sendings = planned(random.Random(f"{seed} start {number}"))
            told = f"{number:4d}  {kind:<7} {', '.join(map(str, sendings))}"
            began = time.monotonic()
            try:
                boot = life.live(kind, sendings, boot)
            except Broken as error:
                wrong.append(f"{told}: {error}")
                print(f"BROKEN {told}\n       {error}", flush=True)
                print("".join(f"       | {line}\n" for line in life.log().splitlines()[-40:]), flush=True)
                life.kill()
            else:
                print(f"ok     {told}  ({time.monotonic() - began:.1f} s)", flush=True)
    finally:
        life.kill()
        backend.kill()
    return wrong


def main() -> int:
    """Run; 1 where something was wrong."""
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    seed: int = random.SystemRandom().randrange(100_000) if options.seed is None else options.seed
    numbers = list(range(1, options.count + 1)) if options.only is None else [options.only]
    if options.plan:
        for number in numbers:
            kind, sendings = planned(random.Random(f"{seed} start {number}"))
            print(f"{number:4d}  {kind:<7} {', '.join(map(str, sendings))}")
        return 0
    print(f"seed {seed}: {len(numbers)} starts", flush=True)
    with guarded("starts-") as folder:
        wrong = run(options.keep or folder / "run", seed, numbers)
    print(f"VERDICT {len(wrong)} of {len(numbers)} starts were not as they should be. Again: scripts/starts --seed {seed}" if wrong
          else f"VERDICT all {len(numbers)} starts were as they should be", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
