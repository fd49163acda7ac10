"""The verdict in words."""

from __future__ import annotations

import collections

from tests.chaos.invariants import INVARIANTS
from tests.chaos.world import Verdict

#: Breaches of one invariant that are shown; the rest is counted.
SHOWN = 12


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
    for breach in sorted(judge.breaches, key=lambda breach: breach.at):
        seen[breach.invariant] += 1
        if seen[breach.invariant] <= SHOWN:
            during = f" (during {', '.join(breach.faults)})" if breach.faults else ""
            lines.append(f"BROKEN      {breach.at - verdict.begun:8.2f} s  {breach.invariant}: {breach.what}{during}")
    for name, count in seen.items():
        lines.append(f"broken      {name} {count} times: {INVARIANTS[name].promise}")
    lines.append(f"VERDICT     {len(judge.breaches)} breaches. Again: {command}" if judge.breaches else "VERDICT     all invariants held")
    return "\n".join(lines)


def _share(values: list[float], quantile: float) -> float:
    return values[min(len(values) - 1, int(len(values) * quantile))] if values else 0.0
