"""What a fault of several hosts may use: the hosts, the database servers and Redis, and how to wait until all is well again."""

from __future__ import annotations

import contextlib
import math
import random
import re
import threading
import time
from collections.abc import Callable, Iterator

from tests.chaos.excuses import Excuse
from tests.chaos.history import History, Window
from tests.chaos.judge import Judge
from tests.chaos.stage import Scene, Stage
from tests.hosts.together import Host, Hosts, Lead
from tests.support.netns import Place
from tests.support.waiting import patience

#: Longest wait (seconds) until every host has a master that leads or waits, and says so. On a busy machine that is long.
_ALL_WELL = 90.0
#: How a leader names hosts that do not have a version; and its own workers.
_LATE = re.compile(r"not yet taken by host (.+)$")
_ONE_LATE = re.compile(r"(\S+) \(at \d+\)")
_GONE = re.compile(r"host (\S+) has given no sign of life")
_OWN_LATE = re.compile(r"not yet taken by worker")
_BACK = re.compile(r"host (\S+) is back")
_PROCESS = re.compile(r"\[(\d+)\]")
_LISTEN = 0.05
#: Seconds that a master needs to take up what waits for it, after it was stopped.
_BREATH = 1.0


class HostsStage(Scene):
    """Three hosts. Each of them has a stage of its own in `stages`, by its name: what it is asked for is about that host alone."""

    def __init__(self, hosts: Hosts, histories: dict[str, History], judge: Judge, said: Callable[[str], None]) -> None:
        super().__init__(judge, said)
        self.hosts = hosts
        self.stages = {host.name: Stage(host, hosts.backends, histories, judge, "folder", said) for host in hosts.hosts}
        #: The hosts that are said to be gone, by who says so.
        self._gone: dict[tuple[str, str], Window] = {}
        #: When each host was silent last, because its master was stopped.
        self._silent: dict[str, Window] = {}
        #: Seconds that a fault of the leader was over after: until another lead began, and until every host that is well took commands.
        self.takeovers: list[tuple[str, float, float]] = []

    def one(self, chance: random.Random, leads: bool | None = None) -> Host:
        """A host by chance. `leads`: the one that leads, or another one."""
        leader = self.leader()
        if leads is None:
            leads = chance.random() < 0.5
        others = [host for host in self.hosts.hosts if host is not leader]
        return leader if leads else chance.choice(others)

    def lead(self) -> Lead:
        """The lead that began last; waits for a database that does not answer."""
        found: list[Lead] = []

        def look() -> bool:
            found.append(self.hosts.lead())
            return True

        self.wait(look, 30, "an answer of the database")
        return found[-1] if found else Lead(self.hosts.hosts[0], 0)

    def leader(self) -> Host:
        """The host that led last."""
        return self.lead().host

    @contextlib.contextmanager
    def late(self, fault: str, *hosts: Host, by: float, after: float) -> Iterator[None]:
        """Hosts may be late for as long as the block lasts and `after` seconds more, by so many seconds."""
        excuses: list[Excuse] = []
        for host in hosts:
            excuses.append(self.excuses.begin("late", fault, time.monotonic(), host=host.name))
            excuses[-1].by = patience(by) if by < math.inf else by
        try:
            yield
        finally:
            for excuse in excuses:
                excuse.end = time.monotonic() + patience(after)

    @contextlib.contextmanager
    def taken_over(self, fault: str, before: Lead) -> Iterator[None]:
        """Note how long it takes until another lead begins and every host takes commands, but for that of `before`; the block ends that, if
        it has not ended by itself."""
        begin = time.monotonic()
        yield
        if self.wait(lambda: self.hosts.term() > before.term, 30, f"another lead after {fault}"):
            led = time.monotonic() - begin
            if self.answers_everywhere(before.host):
                self.takeovers.append((fault, led, time.monotonic() - begin))
                self.say(fault, f"another lead after {led:.2f} s, commands everywhere after {time.monotonic() - begin:.2f} s")

    def overtaken(self, lead: Lead, pid: int) -> None:
        """Wait until the master `pid` that had a lead has ended, if another one leads by now: only then is the next one there."""
        if self.hosts.term() != lead.term:
            self.wait(lambda: lead.host.master().pid != pid, _ALL_WELL, f"the end of the master of {lead.host.name}, which was overtaken")

    def silence(self, host: Host, seconds: float) -> float:
        """Seconds for which services that come by a host hear nothing of it, where its master is stopped for `seconds` from now: a stop
        that is hardly over counts, too."""
        now = time.monotonic()
        last = self._silent.get(host.name)
        begin = last.begin if last is not None and now - last.end < patience(_BREATH) else now
        self._silent[host.name] = Window(begin, now + seconds)
        return now + seconds - begin

    def answers_everywhere(self, but: Host | None = None) -> bool:
        """Wait until the registry of every host takes commands."""
        return all(self.wait(host.answers, patience(30), f"the registry of {host.name}") for host in self.hosts.hosts if host is not but)

    def all_well(self) -> None:
        """Wait until every host is ready; a breach of `settled` if one is not."""
        for host in self.hosts.hosts:
            self.wait(host.ready, _ALL_WELL, f"a ready {host.name}")
        self.answers_everywhere()

    def place(self, host: Host) -> Place:
        """The network of a host, where each has one."""
        assert isinstance(host.place, Place)
        return host.place

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Note meanwhile whom the logs of the hosts name as late, and when."""
        over = threading.Event()

        def listen() -> None:
            with contextlib.ExitStack() as stack:
                logs = {host: stack.enter_context((host.directory / "output.log").open(encoding="utf-8", errors="replace"))
                        for host in self.hosts.hosts}
                while True:
                    last = over.wait(_LISTEN)
                    for host, log in logs.items():
                        for line in log:
                            self._hear(host, line)
                    if last:
                        return

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(30)

    def _hear(self, host: Host, line: str) -> None:
        now, by = time.monotonic(), " ".join((host.name, *_PROCESS.findall(line)[:1]))
        if found := _LATE.search(line):
            self.judge.named += [(now, name) for name in _ONE_LATE.findall(found[1])]
        elif found := _GONE.search(line):
            self._gone[by, found[1]] = window = Window(now)
            self.judge.gone.append((window, found[1]))
        elif (found := _BACK.search(line)) and (by, found[1]) in self._gone:
            self._gone.pop((by, found[1])).end = now
        elif _OWN_LATE.search(line):
            self.judge.named.append((now, host.name))
