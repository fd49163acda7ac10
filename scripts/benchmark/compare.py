"""Two revisions of proxyd side by side: the one that is checked out, and another one of the repository."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmark.load import Measure
from benchmark.targets import ROOT

#: A scenario in which the other revision is better by more than this has become slower.
TOLERATED = 0.97


@contextlib.contextmanager
def checked_out(revision: str, folder: Path) -> Iterator[Path]:
    """The files of a revision, in a work tree of git's that is removed at the end. Raises RuntimeError if git knows no such revision."""
    made = subprocess.run(["git", "-C", str(ROOT), "worktree", "add", "--detach", str(folder), revision],
                          capture_output=True, text=True, check=False)
    if made.returncode:
        raise RuntimeError(f"git can't check out {revision}: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(folder)], capture_output=True, check=False)


def ratio(here: list[Measure], there: list[Measure]) -> float:
    """How much processor time a request takes there, as a share of what it takes here: above 1, this revision is the faster one.

    The median over rounds, each with its neighbour, so that a busy moment of the machine counts once and hits both.
    """
    return statistics.median(theirs.cpu / ours.cpu for ours, theirs in zip(here, there, strict=True))


def markdown(results: dict[str, dict[str, list[Measure]]], revision: str) -> str:
    """The table for people: processor time and rate of both, and the ratios."""
    lines = [
        f"| | µs a request, here | {revision} | ratio | requests/s, here | {revision} | failed, here |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        here, there = result["proxyd"], result["other"]
        lines.append(
            f"| {name} | {statistics.median(m.cpu for m in here):.1f} | {statistics.median(m.cpu for m in there):.1f} "
            f"| {ratio(here, there):.2f} | {statistics.median(m.rate for m in here):,.0f} "
            f"| {statistics.median(m.rate for m in there):,.0f} | {sum(m.failed for m in here)} |"
        )
    return "\n".join([*lines, "", "Ratio: processor time there to here, the median of the rounds; above 1, this revision is faster.", ""])


def slower(results: dict[str, dict[str, list[Measure]]]) -> list[str]:
    """The scenarios in which this revision takes more processor time than is tolerated."""
    return [name for name, result in results.items() if ratio(result["proxyd"], result["other"]) < TOLERATED]
