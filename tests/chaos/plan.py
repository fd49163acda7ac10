"""Which fault comes when: all of it follows from the seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.faults import Fault


@dataclass(frozen=True, slots=True)
class Entry:
    """A fault, the second at which it begins, and the seed of what it chooses."""

    number: int
    at: float
    fault: Fault
    seed: str


def planned(seed: int, seconds: float, every: float, faults: Sequence[Fault]) -> list[Entry]:
    """The faults of a run, about one every `every` seconds. Nothing begins in the last two seconds."""
    chance = random.Random(f"{seed} plan")
    entries: list[Entry] = []
    at = 1.0
    while faults and (at := at + chance.expovariate(1.0 / every)) < seconds - 2.0:
        found = chance.choices(faults, [max(fault.weight, 1) for fault in faults])[0]
        entries.append(Entry(len(entries) + 1, at, found, f"{seed} {len(entries) + 1} {found.name}"))
    return entries
