"""Which signals come when, and what docs/operations.md says of each: the rules that scripts/starts holds a proxyd against."""

from __future__ import annotations

import random
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from signal import Signals

#: Every signal that docs/operations.md speaks of, and WINCH, which a terminal sends.
KNOWN = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU,
         signal.SIGWINCH)
#: Those that end an arbiter, a worker or a supervised master. The last ignores what a terminal sends to all.
ENDING = {"arbiter": {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}, "worker": {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT},
          "master": {signal.SIGTERM}}
#: When signals come: from the start on, while all is well, after HUP, after TERM, after SIGKILL to a worker or to the master.
KINDS = {"boot": 8, "well": 3, "reload": 4, "stop": 3, "killed": 3}


@dataclass(frozen=True, slots=True)
class Sending:
    """A signal to one of "arbiter", "worker", "master": the newest of its kind. It comes after `part` of the time that a boot takes."""

    number: Signals
    whom: str
    part: float

    @property
    def ends(self) -> bool:
        """Whether it ends whom it is sent to."""
        return self.number in ENDING[self.whom]

    def __str__(self) -> str:
        return f"{self.number.name.removeprefix('SIG')} to {self.whom} at {self.part:.2f}"


def planned(chance: random.Random) -> tuple[str, list[Sending]]:
    """What happens in a start. A signal that ends the arbiter comes last, and not often: it ends the start."""
    kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
    # A stop is short, and whoever is told twice has heard it the first time.
    span = 0.4 if kind == "stop" else 1.3
    sendings = []
    for _ in range(chance.choice((1, 1, 2, 2, 3, 4))):
        whom = chance.choice(("arbiter", "arbiter", "worker", "master"))
        number = chance.choice(KNOWN)
        if kind == "stop" and whom == "arbiter" and number is signal.SIGUSR2:
            number = signal.SIGUSR1
        if number in ENDING["arbiter"] and whom == "arbiter" and kind != "stop" and chance.random() < 0.5:
            number = signal.SIGHUP
        sendings.append(Sending(number, whom, chance.uniform(0.0, span)))
    sendings.sort(key=lambda sending: sending.part)
    for index, sending in enumerate(sendings):
        if sending.ends and sending.whom == "arbiter" and kind != "stop":
            return kind, sendings[:index + 1]
    return kind, sendings


def workers_after(sendings: Sequence[Sending], before: int, settings: int, held: bool) -> set[int]:
    """How many workers there may be after these. `held`: an arbiter without handlers holds signals back, takes those that have come in
    the order of their numbers, and each of them once."""
    told = [sending.number for sending in sendings if sending.whom == "arbiter"]
    count = before
    for number in told:
        if number is signal.SIGHUP:
            count = settings
        elif number is signal.SIGTTIN:
            count += 1
        elif number is signal.SIGTTOU:
            count = max(1, count - 1)
    if held and len([number for number in told if number in (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU)]) > 1:
        return set(range(1, before + told.count(signal.SIGTTIN) + 1))
    return {count}
