"""The verdict in words."""

from __future__ import annotations

import collections
import re
from collections.abc import Sequence

from tests.chaos.invariants import INVARIANTS
from tests.chaos.judge import Breach
from tests.chaos.world import Verdict

#: Breaches of one invariant of which each is shown, and groups of the rest.
SHOWN, GROUPS = 12, 12
#: Seconds after which another breach of the same kind begins another group.
_APART = 2.0


def shown(verdict: Verdict, command: str) -> str:
    """The lines of the verdict; `command` replays the run."""
    judge, samples = verdict.judge, verdict.samples
    times = sorted(sample.end - sample.begin for sample in samples)
    waits = sorted(wait for service in verdict.services for wait in service.waits)
    kinds = collections.Counter(sample.error.partition("(")[0] or f"{sample.status} {sample.reason}".strip() for sample in samples)
    faults = ", ".join(f"{name} {count}" for name, count in sorted(verdict.faults.items()))
    lines = ["", f"faults      {sum(verdict.faults.values())}: {faults}"]
    lines += [f"skipped     {name}: {why}" for name, why in sorted(verdict.skipped.items())]
    lines += [
        f"requests    {len(samples)}: " + ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()),
        f"slowest     {max(times, default=0):.2f} s; half below {_share(times, 0.5) * 1000:.0f} ms, 99 % below {_share(times, 0.99):.2f} s",
        f"applies     {sum(service.applied for service in verdict.services)} acknowledged of "
        f"{sum(len(service.history.attempts) for service in verdict.services)}; slowest {max(waits, default=0):.2f} s, "
        f"half below {_share(waits, 0.5) * 1000:.0f} ms",
        f"registry    {sum(service.commands for service in verdict.services)} commands, "
        f"{sum(service.reconnects for service in verdict.services)} reconnects",
        f"stale       {judge.counts['fresh']}",
        *(f"{name:<11} {note}" for name, note in verdict.notes.items()),
    ]
    seen: collections.Counter[str] = collections.Counter()
    rest: dict[str, list[Breach]] = {}
    for breach in sorted(judge.breaches, key=lambda breach: breach.at):
        seen[breach.invariant] += 1
        if seen[breach.invariant] <= SHOWN:
            lines.append(_told(breach, verdict.begun, breach.what))
        else:
            rest.setdefault(breach.invariant, []).append(breach)
    for breaches in rest.values():
        for group in _groups(breaches)[:GROUPS]:
            until = group[-1].at - verdict.begun
            lines.append(_told(group[0], verdict.begun, f"{len(group)} more until {until:.2f} s, the first: {group[0].what}"))
    for name, count in seen.items():
        lines.append(f"broken      {name} {count} times: {INVARIANTS[name].promise}")
    lines.append(f"VERDICT     {len(judge.breaches)} breaches. Again: {command}" if judge.breaches else "VERDICT     all invariants held")
    return "\n".join(lines)


def _told(breach: Breach, begun: float, what: str) -> str:
    during = f" (during {', '.join(breach.faults)})" if breach.faults else ""
    return f"BROKEN      {breach.at - begun:8.2f} s  {breach.invariant}: {what}{during}"


def _groups(breaches: Sequence[Breach]) -> list[list[Breach]]:
    """Breaches of one invariant, in the order of their times, by what they have in common: what was answered, and when."""
    groups: list[list[Breach]] = []
    newest: dict[str, list[Breach]] = {}
    for breach in breaches:
        # Behind the name of what was asked, and whatever the numbers are.
        kind = re.sub(r"\d+", "0", breach.what.partition(": ")[2])
        group = newest.get(kind)
        if group is None or breach.at - group[-1].at > _APART:
            groups.append(group := [])
            newest[kind] = group
        group.append(breach)
    return groups


def _share(values: list[float], quantile: float) -> float:
    return values[min(len(values) - 1, int(len(values) * quantile))] if values else 0.0
