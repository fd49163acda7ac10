"""What a fault is: declared once, with its name, its weight, and what it needs."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: Makes it happen, waits as long as it lasts, and ends it. It gets the stage of its world.
Happen = Callable[[Any, random.Random], None]
#: Why it can't happen on this machine, or an empty text.
Missing = Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong. Faults that hold the same thing follow each other; `whole` is held by those that stop everything."""

    name: str
    weight: int
    holds: frozenset[str]
    help: str
    happen: Happen
    missing: Missing


#: Those of one host, and those of several.
FAULTS: dict[str, Fault] = {}
HOST_FAULTS: dict[str, Fault] = {}
#: Held by faults that stop the whole proxy: nothing else happens meanwhile.
WHOLE = "whole"


def _nothing(stage: Any) -> str:
    return ""


def fault(weight: int, *holds: str, missing: Missing = _nothing, among: dict[str, Fault] = FAULTS) -> Callable[[Happen], Happen]:
    """Declare the function as a fault of its name. Weight 0: it happens only if it is asked for."""

    def declare(happen: Happen) -> Happen:
        name = happen.__name__
        among[name] = Fault(name, weight, frozenset(holds or (name,)), " ".join((happen.__doc__ or "").split()), happen, missing)
        return happen

    return declare
