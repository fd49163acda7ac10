"""The command scripts/mutants."""

from __future__ import annotations

import argparse
import collections
import random
import sys
import tempfile
import time
from pathlib import Path

from mutation.mutants import Mutant, mutants_of
from mutation.run import Copy

ROOT = Path(__file__).resolve().parents[2]
VERDICTS = ("killed", "stuck", "survived", "untested", "undecided")
ABOUT = """\
Changes modules a little, one change at a time, runs their tests after each, and prints the changes that no test noticed:
survivors. Each is a test that is missing, or code that makes no difference.

Changes: negated comparisons and conditions, boundaries moved by one (< and <=), and/or, removed calls, raises, assignments to
attributes and entries of tables, numbers one more and one less, the other truth, another operator, return None.

The tests of proxyd/room/module.py are tests/room/test_module.py, then the others in tests/room, then every other test file that
imports the module. Tests that talk to a running proxyd import nothing of it; name them by --also. Everything happens in a copy
of the tree. A mutant on which tests take more than three times as long as usual (and --slack) counts as noticed."""
EXAMPLES = """\
examples:
  scripts/mutants proxyd/store/memory/transitions.py
  scripts/mutants --seconds 600 --sample 40 proxyd/registry
  scripts/mutants --seed 7 --also tests/edge/test_forwarding.py proxyd.proxy.upstream.relay"""


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("scripts/mutants", description=ABOUT, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="+", metavar="MODULE", help="a file, a directory, or a dotted name")
    parser.add_argument("--seconds", type=float, default=300.0, metavar="N",
                        help="begin no further tests after this time (300)")
    parser.add_argument("--sample", type=int, metavar="N", help="try at most this many mutants (as many as the time allows)")
    parser.add_argument("--seed", type=int, metavar="N", help="choose the same mutants as the run that printed this seed")
    parser.add_argument("--also", action="append", default=[], metavar="TESTS", help="test files or directories to run after the others")
    parser.add_argument("--slack", type=float, default=10.0, metavar="N",
                        help="how many seconds beyond three times the usual the tests may take (10)")
    parser.add_argument("--root", type=Path, default=ROOT, metavar="DIR", help="the tree with the modules and tests/ (this checkout)")
    return parser.parse_args()


def files_of(root: Path, name: str) -> list[str]:
    """The module files that a word of the command line means, relative to the root. Exits if there are none."""
    path = (root / name).resolve() if "/" in name or name.endswith(".py") else root.joinpath(*name.split("."))
    candidates = sorted(path.rglob("*.py")) if path.is_dir() else [path, path.with_suffix(".py")]
    found = list(dict.fromkeys(str(file.relative_to(root)) for file in candidates if file.is_file() and file.is_relative_to(root)))
    if not found:
        sys.exit(f"scripts/mutants: no module {name} below {root}")
    return found


def main() -> None:
    """Try mutants until time or sample are used up, and print those that survive."""
    arguments = parse()
    root: Path = arguments.root.resolve()
    begun = time.monotonic()
    deadline = begun + arguments.seconds
    seed: int = random.SystemRandom().randrange(10_000) if arguments.seed is None else arguments.seed
    modules = list(dict.fromkeys(file for name in arguments.modules for file in files_of(root, name)))
    sources = {module: (root / module).read_text() for module in modules}
    mutants: list[Mutant] = [mutant for module, source in sources.items() for mutant in mutants_of(module, source)]
    chosen = random.Random(seed).sample(mutants, min(len(mutants), arguments.sample or len(mutants)))
    print(f"{len(mutants)} mutants in {len(modules)} modules; seed {seed}", flush=True)
    verdicts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        tree = Copy(root, Path(scratch), arguments.slack)
        for mutant in chosen:
            if time.monotonic() > deadline:
                break
            verdict = tree.verdict(mutant, arguments.also, deadline)
            verdicts[verdict] += 1
            if verdict in ("survived", "untested"):
                print(f"\n{verdict}: {mutant.path}:{mutant.line}: {mutant.what}\n{mutant.diff(sources[mutant.path])}", flush=True)
    told = ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in VERDICTS if verdicts[verdict])
    print(f"\n{verdicts.total()} mutants tried in {time.monotonic() - begun:.0f} s: {told}")


if __name__ == "__main__":
    main()
