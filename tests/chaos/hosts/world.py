"""A run over three hosts: in networks of their own where that is allowed, else on loopback addresses, where nobody can be cut off."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.chaos.ends import MayEnd
from tests.chaos.excuses import Excuses
from tests.chaos.faults.declared import HOST_FAULTS
from tests.chaos.hosts import faults
from tests.chaos.hosts.stage import HostsStage
from tests.chaos.judge import Judge, Sample
from tests.chaos.plan import Entry
from tests.chaos.services import Door, Service
from tests.chaos.settle import RECOVERY, ask, ended_by_themselves, tracebacks
from tests.chaos.world import Size, Verdict, World
from tests.hosts.together import Addresses, Hosts, Net
from tests.support.netns import Frame, missing

__all__ = ["HOST_FAULTS", "HostsWorld", "faults"]


class HostsWorld(World):
    """Everything of such a run."""

    def __init__(self, folder: Path, seed: int, size: Size, said: Callable[[str], None]) -> None:
        super().__init__(folder, seed, size, said, HOST_FAULTS)

    def run(self, plan: Sequence[Entry], seconds: float) -> Verdict:
        """Run the plan, and judge."""
        size = self._size
        with contextlib.ExitStack() as stack:
            net: Net = Addresses()
            if not missing():
                net = frame = Frame()
                stack.callback(frame.close)
            self._folder.mkdir(parents=True, exist_ok=True)
            hosts = Hosts(self._folder, stack, net, size.backends, proxy__workers=size.workers, proxy__stale_after="3s",
                          registry__proxy_protocol_from="10.78.0.0/24" if not missing() else "")
            judge = Judge({}, Excuses())
            services = self._services(judge, hosts.backends, [Door(host.registry_port, host.address, host.name) for host in hosts.hosts],
                                      limited=True)
            stage = HostsStage(hosts, judge.histories, judge, self._said)
            doors = [Door(host.proxy_port, host.address, host.name) for host in hosts.hosts]
            stack.enter_context(stage.listening())
            begun = self._begun = time.monotonic()
            clients = self._traffic(doors, services)
            self._faults(stage, plan, begun, seconds)
            samples = self._end(services, clients, lambda: _settle(stage, services, doors))
            for one in stage.stages.values():
                # One that was overtaken ends, whatever it was that kept it.
                one.may_end.append(MayEnd(0, master=True))
                ended_by_themselves(one, judge)
                tracebacks(one, judge)
            return Verdict(judge, begun, samples, services, self.faults, self.skipped, _notes(stage))


def _settle(stage: HostsStage, services: Sequence[Service], doors: Sequence[Door]) -> list[Sample]:
    """Wait until every host is ready and each service has applied once more; then every host must serve it."""
    stage.all_well()
    for service in services:
        name = service.history.service
        if service.trouble is not None:
            stage.judge.breach("settled", time.monotonic(), f"the client of {name} ended: {service.trouble!r}")
        elif stage.wait(lambda service=service: service.attempt(service.apply), RECOVERY, f"an apply of {name}"):  # type: ignore[misc]
            service.attempt(service.compare)
    return [ask(door, service.history.service) for service in services for door in doors for _ in range(8)]


def _notes(stage: HostsStage) -> dict[str, str]:
    """What else a run over hosts tells."""
    notes = {"late": f"{stage.judge.counts['late']} answers of hosts that nothing reached, or that were named as late"}
    if stage.takeovers:
        led, took = ([over[at] for over in stage.takeovers] for at in (1, 2))
        notes["takeovers"] = (f"{len(led)}: another lead after {min(led):.2f} to {max(led):.2f} s, commands everywhere after "
                              f"{min(took):.2f} to {max(took):.2f} s")
    return notes
