"""A run: the system, its backends, its services and its clients, the faults of the plan, and the verdict."""

from __future__ import annotations

import contextlib
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.excuses import Excuses
from tests.chaos.faults import FAULTS, WHOLE, Fault
from tests.chaos.judge import Judge, Sample
from tests.chaos.plan import Entry
from tests.chaos.services import Door, Service
from tests.chaos.settle import ended_by_themselves, settle, tracebacks
from tests.chaos.stage import Scene, Stage
from tests.chaos.traffic import Client
from tests.support.program import BackendProcess
from tests.support.shift import ShiftedSystem

#: A fault that can't begin within so many seconds is left out. Where masters take long to start, those that kill them would else stand in
#: line, and there would hardly be one.
_LATE = 10.0


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything there is: processes, threads, and what they do in a second, all together."""

    workers: int = 3
    backends: int = 3
    services: int = 4
    clients: int = 8
    requests: float = 200.0
    applies: float = 10.0


@dataclass
class Verdict:
    """What came of a run."""

    judge: Judge
    begun: float
    samples: list[Sample]
    services: list[Service]
    faults: dict[str, int]
    skipped: dict[str, str]
    #: What else is to be said of it, by its name.
    notes: dict[str, str] = field(default_factory=dict)


class World:
    """Everything of a run. `said` gets each line of it. `faults`: those that there are."""

    def __init__(self, folder: Path, seed: int, size: Size, said: Callable[[str], None], faults: dict[str, Fault] = FAULTS) -> None:
        self._folder = folder
        self._seed = seed
        self._size = size
        self._print = said
        self._begun = time.monotonic()
        self._locks = {name: threading.Lock() for fault in faults.values() for name in fault.holds}
        self.faults: dict[str, int] = {}
        self.skipped: dict[str, str] = {}
        self.late = 0

    def run(self, plan: Sequence[Entry], seconds: float) -> Verdict:
        """Run the plan, and judge."""
        size = self._size
        with contextlib.ExitStack() as stack:
            disk = stack.enter_context(_disk(self._folder / "var"))
            backends = [BackendProcess(f"b{number}") for number in range(size.backends)]
            for backend in backends:
                stack.callback(backend.kill)
            var = self._folder / "var"
            system = ShiftedSystem(self._folder, workers=size.workers, start=False, database__url=f"sqlite:///{var}/proxyd.db")
            system.database, system.patience = f"{var}/proxyd.db", 90.0
            stack.callback(system.stop)
            system.start()
            judge = Judge({}, Excuses())
            services = self._services(judge, backends, [Door(system.registry_port)])
            stage = Stage(system, backends, judge.histories, judge, disk, self._said)
            begun = self._begun = time.monotonic()
            clients = self._traffic([Door(system.proxy_port)], services)
            self._faults(stage, plan, begun, seconds)
            samples = self._end(services, clients, lambda: settle(stage, services, judge))
            ended_by_themselves(stage, judge)
            tracebacks(stage, judge)
            if self.late:
                self.skipped[f"{self.late} of {len(plan)}"] = f"another fault held what they need for more than {_LATE:g} s"
            return Verdict(judge, begun, samples, services, self.faults, self.skipped)

    def _said(self, line: str) -> None:
        self._print(f"{time.monotonic() - self._begun:8.2f} s  {line}")

    def _services(self, judge: Judge, backends: Sequence[BackendProcess], doors: Sequence[Door], limited: bool = False) -> list[Service]:
        """The registry clients, which begin with `_traffic`."""
        size, urls = self._size, {backend.name: backend.url for backend in backends}
        services = [Service(f"s{number}", doors, urls, judge, random.Random(f"{self._seed} service {number}"),
                            size.applies / size.services, limited) for number in range(size.services)]
        judge.histories.update({service.history.service: service.history for service in services})
        return services

    def _traffic(self, doors: Sequence[Door], services: Sequence[Service]) -> list[Client]:
        """Each service applies once, then everything begins."""
        for service in services:
            while not service.attempt(service.apply):
                time.sleep(0.1)
            service.start()
        names = [service.history.service for service in services]
        ending = threading.Event()
        clients = [Client(doors, names, self._size.requests / self._size.clients,
                          random.Random(f"{self._seed} client {number}"), ending) for number in range(self._size.clients)]
        for client in clients:
            client.start()
        return clients

    def _faults(self, stage: Scene, plan: Sequence[Entry], begun: float, seconds: float) -> None:
        """Begin each fault at its time, in a thread of its own, and wait for the last of them."""
        threads = []
        for entry in plan:
            time.sleep(max(0.0, begun + entry.at - time.monotonic()))
            thread = threading.Thread(target=self._happen, args=(stage, entry, begun), daemon=True)
            thread.start()
            threads.append(thread)
        time.sleep(max(0.0, begun + seconds - time.monotonic()))
        stage.ending = True
        for thread in threads:
            thread.join(120)

    def _happen(self, stage: Scene, entry: Entry, begun: float) -> None:
        fault = entry.fault
        missing = fault.missing(stage)
        if missing:
            self.skipped[fault.name] = missing
            return
        with self._held(fault.holds):
            if stage.ending:
                return
            if time.monotonic() - begun - entry.at > _LATE:
                self.late += 1
                return
            at = time.monotonic() - begun
            try:
                fault.happen(stage, random.Random(entry.seed))
            except Exception as error:
                stage.judge.breach("settled", time.monotonic(), f"the fault {fault.name} itself failed: {error!r}")
            self.faults[fault.name] = self.faults.get(fault.name, 0) + 1
            self._said(f"{fault.name:<20} over after {time.monotonic() - begun - at:.1f} s")

    @contextlib.contextmanager
    def _held(self, names: frozenset[str]) -> Iterator[None]:
        """Hold what a fault needs for itself; WHOLE keeps all others away, and waits for those that are under way."""
        with contextlib.ExitStack() as stack:
            # In one order, so that no two wait for each other.
            for name in sorted(self._locks if WHOLE in names else names):
                stack.enter_context(self._locks[name])
            yield

    def _end(self, services: Sequence[Service], clients: Sequence[Client], settled: Callable[[], list[Sample]]) -> list[Sample]:
        """End what the services do, `settled`, and the clients. All that was asked is judged."""
        for service in services:
            service.ending.set()
        for service in services:
            service.join(60)
        asked = settled()
        clients[0].ending.set()
        for client in clients:
            client.join(60)
        samples = [sample for client in clients for sample in client.samples] + asked
        for service in services:
            service.close()
            service.judge_samples(samples)
        return samples


@contextlib.contextmanager
def _disk(folder: Path) -> Iterator[str]:
    """A folder on a file system of its own where that can be mounted: "tmpfs", else "folder"."""
    folder.mkdir(parents=True)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", folder], capture_output=True, check=False).returncode == 0
    try:
        yield "tmpfs" if made else "folder"
    finally:
        if made:
            subprocess.run(["umount", "-l", folder], check=False)
