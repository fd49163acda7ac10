"""Faults of backends: the proxy says so, and other routes see nothing of it."""

from __future__ import annotations

import random
import time

from tests.chaos.faults.declared import fault
from tests.chaos.stage import Stage
from tests.support.program import MODES, BackendProcess

#: How long (seconds) a circuit and a health check may hold a backend to be down that is back.
RECOVERY = 5.0


def _one(stage: Stage, chance: random.Random) -> BackendProcess:
    # The first one stays well: there is always traffic that must be served.
    return chance.choice(stage.backends[1:])


@fault(3, "backends")
def kill_backend(stage: Stage, chance: random.Random) -> None:
    """SIGKILL to a backend, which is started again after a while."""
    backend, seconds = _one(stage, chance), chance.uniform(0.0, 2.0)
    stage.say("kill_backend", f"{backend.name} for {seconds:.1f} s")
    with stage.excuse("kill_backend", "backend", after=RECOVERY, backend=backend.name):
        backend.kill()
        time.sleep(seconds)
        backend.start()


@fault(2, "backends")
def stop_backend(stage: Stage, chance: random.Random) -> None:
    """SIGSTOP to a backend: it takes connections and says nothing."""
    backend, seconds = _one(stage, chance), chance.uniform(0.1, 3.0)
    stage.say("stop_backend", f"{backend.name} for {seconds:.1f} s")
    with stage.excuse("stop_backend", "backend", "slow", after=RECOVERY, backend=backend.name):
        backend.pause(seconds)


@fault(4, "backends")
def misbehave(stage: Stage, chance: random.Random) -> None:
    """A backend answers 500, half, garbage or nothing."""
    backend, mode, seconds = _one(stage, chance), chance.choice([mode for mode in MODES if mode != "well"]), chance.uniform(0.1, 2.0)
    stage.say("misbehave", f"{backend.name}: {mode} for {seconds:.1f} s")
    with stage.excuse("misbehave", "backend", after=RECOVERY, backend=backend.name):
        backend.behave(mode)
        time.sleep(seconds)
        backend.behave("well")
