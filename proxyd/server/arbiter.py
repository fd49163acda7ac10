"""The arbiter: gunicorn's, which replaces workers when new ones accept clients, and goes on when they can't start."""

from __future__ import annotations

import logging
import time

from proxyd.net.gunicorn_inner import OwnArbiter
from proxyd.net.workerstart import accepts
from proxyd.server import boots
from proxyd.server.replacing import Replacing, Seen
from proxyd.server.supervisor import Supervisor

log = logging.getLogger("gunicorn.error")

#: Seconds after which it is told that new workers are not ready yet, and that the old ones go on.
_PATIENCE = 10.0


class ProxydArbiter(OwnArbiter):
    """`directory` and `supervisor` are set by the configuration: the directory of the shared memory, where the master reads what is said of
    starts, and who looks after the master, if the arbiter has one."""

    directory = ""
    supervisor: Supervisor | None = None

    def begin(self) -> None:
        self._replacing = Replacing()
        #: What was told of workers that can't start; nothing is told twice until all is well.
        self._told: set[str] = set()
        self._replacing_since = 0.0
        self._late = False
        boots_written(self.directory, "")

    def replace(self, age: int) -> None:
        self._replacing.replace(age)
        self._replacing_since, self._late = time.monotonic(), False

    def busy(self) -> bool:
        return not self._settled() or (self.supervisor is not None and self.supervisor.waits)

    def look_after(self) -> None:
        if self.supervisor is not None:
            self.supervisor.look(self.fork)

    def other_ended(self, pid: int) -> None:
        if self.supervisor is not None:
            self.supervisor.ended(pid)

    def manage(self) -> None:
        now = time.monotonic()
        plan = self._replacing.plan(self._seen(), self.num_workers, now)
        for pid in plan.stop:
            self.ask_to_stop(pid)
        for _ in range(plan.start):
            self.spawn()
        if self._settled():
            self._is_well()
        elif self._replacing_since and not self._late and now - self._replacing_since > _PATIENCE:
            self._late = True
            log.warning("HUP: the new workers do not accept clients after %d s; the old ones go on until they do", _PATIENCE)

    def not_started(self, why: str) -> None:
        pause = self._replacing.failed(time.monotonic())
        first, _, more = why.partition("\n")
        if first in self._told:
            return
        self._told.add(first)
        serving = sum(worker.accepts and not worker.asked for worker in self._seen())
        said = f"a worker can't start: {first}; {_others(serving)}"
        log.error("%s; it is tried again in %.1f s, and then ever more seldom%s", said, pause, f"\n{more}" if more else "")
        boots_written(self.directory, said)

    def not_reloaded(self, why: str) -> None:
        log.error("HUP: gunicorn's configuration can't be used%s; nothing is reloaded, and the workers go on", f": {why}" if why else "")

    def _settled(self) -> bool:
        return self._replacing.settled(self._seen(), self.num_workers)

    def _is_well(self) -> None:
        if self._replacing_since:
            log.info("HUP: the new workers accept clients")
            self._replacing_since = 0.0
        self._replacing.works()
        if self._told:
            self._told.clear()
            log.info("workers start again")
            boots_written(self.directory, "")

    def _seen(self) -> list[Seen]:
        return [Seen(pid, worker.age, accepts(worker), pid in self.asked) for pid, worker in self.WORKERS.items()]


def _others(serving: int) -> str:
    if not serving:
        return "no other serves"
    return "1 other goes on" if serving == 1 else f"{serving} others go on"


def boots_written(directory: str, said: str) -> None:
    """Write for the master what is said of starts, as far as that can be written."""
    try:
        boots.write(directory, said)
    except OSError as error:
        log.debug("can't write what is said of starts: %s", error)
