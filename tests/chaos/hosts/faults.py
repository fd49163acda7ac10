"""What goes wrong among three hosts. Leaders are hit as often as the others."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial

import psutil

from proxyd.registry.state import MOVE
from proxyd.store.sql.membership import LEASE
from tests.chaos.faults.declared import HOST_FAULTS, fault
from tests.chaos.hosts.stage import HostsStage
from tests.hosts.together import Host
from tests.support.netns import Way

hosts_fault = partial(fault, among=HOST_FAULTS)

#: A host whose master is away follows by itself (docs/hosts.md): `[database] poll`, and the time to read.
_BY_ITSELF = 1.5
#: Seconds after which a host is as good as any that is reached again, or whose database is.
_CAUGHT_UP = 4.0


def _no_networks(stage: HostsStage) -> str:
    return "" if stage.hosts.hosts[0].place.inside else "needs network namespaces"


def _stop(process: psutil.Process, seconds: float) -> None:
    """SIGSTOP, and SIGCONT after a while."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            process.send_signal(signal.SIGCONT)


@hosts_fault(5, "hosts")
def kill_leader(stage: HostsStage, chance: random.Random) -> None:
    """SIGKILL to the master that leads."""
    lead = stage.lead()
    leader = lead.host
    stage.say("kill_leader", leader.name)
    with stage.excuse("kill_leader", "master", "refused", after=1.0), stage.late("kill_leader", leader, by=_BY_ITSELF, after=1.0):
        with stage.taken_over("kill_leader", lead):
            stage.stages[leader.name].kill(leader.master().pid)
        stage.all_well()


@hosts_fault(3, "hosts")
def kill_standby(stage: HostsStage, chance: random.Random) -> None:
    """SIGKILL to a master that does not lead."""
    host = stage.one(chance, leads=False)
    stage.say("kill_standby", host.name)
    with stage.excuse("kill_standby", "master", host=host.name, after=1.0), stage.late("kill_standby", host, by=_BY_ITSELF, after=1.0):
        stage.stages[host.name].kill(host.master().pid)
        stage.all_well()


@hosts_fault(5, "hosts")
def stop_leader(stage: HostsStage, chance: random.Random) -> None:
    """SIGSTOP to the master that leads, SIGCONT after up to 7 s: if another one leads by then, it must write nothing, and ends."""
    lead, seconds = stage.lead(), chance.choice((0.5, 1.5, 4.0, 7.0))
    leader = lead.host
    stage.say("stop_leader", f"{leader.name} for {seconds:g} s")
    with stage.excuse("stop_leader", "master", "refused", after=1.0), stage.late("stop_leader", leader, by=_BY_ITSELF, after=1.0):
        master = leader.master()
        if seconds > LEASE + 1.0:
            with stage.taken_over("stop_leader", lead), contextlib.suppress(psutil.NoSuchProcess):
                began = time.monotonic()
                master.send_signal(signal.SIGSTOP)
            time.sleep(max(0.0, began + seconds - time.monotonic()))
            master.send_signal(signal.SIGCONT)
        else:
            _stop(master, seconds)
        stage.overtaken(lead, master.pid)
        stage.all_well()


@hosts_fault(3, "hosts")
def stop_standby(stage: HostsStage, chance: random.Random) -> None:
    """SIGSTOP to a master that does not lead, SIGCONT after up to 7 s."""
    host, seconds = stage.one(chance, leads=False), chance.choice((0.5, 1.5, 4.0, 7.0))
    stage.say("stop_standby", f"{host.name} for {seconds:g} s")
    # Services that came by this host can't know that it is stopped. Their routes go on for a while (docs/hosts.md).
    silent = stage.silence(host, seconds)
    gone = stage.excuse("stop_standby", "away", after=1.0) if silent > LEASE + MOVE - 1.0 else contextlib.nullcontext()
    with (gone, stage.excuse("stop_standby", "master", host=host.name, after=1.0),
          stage.late("stop_standby", host, by=_BY_ITSELF, after=1.0)):
        _stop(host.master(), seconds)
        stage.all_well()


@hosts_fault(5, "workers")
def kill_worker(stage: HostsStage, chance: random.Random) -> None:
    """SIGKILL to a worker of any host."""
    host = chance.choice(stage.hosts.hosts)
    one = stage.stages[host.name]
    pid = one.worker(chance.random())
    stage.say("kill_worker", f"{host.name}, worker {pid}")
    with stage.excuse("kill_worker", "cut", host=host.name, after=0.1):
        one.kill(pid)


@hosts_fault(4, "workers")
def stop_worker(stage: HostsStage, chance: random.Random) -> None:
    """SIGSTOP to a worker of any host, SIGCONT after up to 7 s."""
    host, seconds = chance.choice(stage.hosts.hosts), chance.choice((0.05, 0.5, 2.5, 7.0))
    one = stage.stages[host.name]
    pid = one.worker(chance.random())
    stage.say("stop_worker", f"{host.name}, worker {pid} for {seconds:g} s")
    begin = time.monotonic()
    with stage.excuse("stop_worker", "slow", host=host.name, after=0.5):
        one.stop(pid, seconds)
    # Where its master is away, too, it could not find out by itself meanwhile.
    for late in stage.excuses.found("late", begin, time.monotonic(), host=host.name):
        late.by += seconds


def _end_host(stage: HostsStage, chance: random.Random, fault: str, end: Callable[[Host], None]) -> None:
    """End a whole host, and start it again on the same files."""
    host, lead = stage.one(chance), stage.lead()
    led = host is lead.host
    stage.say(fault, f"{host.name}{', which leads' if led else ''}")
    with _whole(stage, fault, host, led), stage.taken_over(fault, lead) if led else contextlib.nullcontext():
        end(host)
    stage.all_well()


@hosts_fault(2, "hosts", "workers")
def kill_host(stage: HostsStage, chance: random.Random) -> None:
    """SIGKILL to all processes of a host, and a new start on the same files."""
    _end_host(stage, chance, "kill_host", Host.kill)


@hosts_fault(2, "hosts", "workers")
def restart_host(stage: HostsStage, chance: random.Random) -> None:
    """TERM to the arbiter of a host, and a new start on the same files."""
    _end_host(stage, chance, "restart_host", Host.stop)


@contextlib.contextmanager
def _whole(stage: HostsStage, name: str, host: Host, led: bool) -> Iterator[None]:
    """The block ends a host, which is started again behind it."""
    everywhere = "" if led else host.name
    with (stage.excuse(name, "down", "cut", "slow", host=host.name, after=1.0),
          stage.excuse(name, "master", "refused", host=everywhere, after=1.0), stage.late(name, host, by=_BY_ITSELF, after=1.0)):
        yield
        host.start()


@hosts_fault(6, "hosts", missing=_no_networks)
def cut_off(stage: HostsStage, chance: random.Random) -> None:
    """A host loses what goes to the database and the other hosts, what comes from there, or both. Its clients still reach it."""
    host, seconds = stage.one(chance), chance.choice((0.3, 1.5, 4.0, 8.0))
    way: Way = chance.choice(("both ways", "out", "in"))
    lead = stage.lead()
    led = host is lead.host
    stage.say("cut_off", f"{host.name}{', which leads' if led else ''}, {way}, for {seconds:g} s")
    pid = host.master().pid
    with (stage.excuse("cut_off", "master", "refused", host="" if led else host.name, after=_CAUGHT_UP),
          stage.late("cut_off", host, by=float("inf"), after=_CAUGHT_UP)):
        with stage.place(host).cut_off(way):
            began = time.monotonic()
            if led and seconds > LEASE + 1.0:
                with stage.taken_over("cut_off", lead):
                    pass
            time.sleep(max(0.0, began + seconds - time.monotonic()))
        if led:
            stage.overtaken(lead, pid)
        stage.all_well()


@hosts_fault(3, "hosts", missing=_no_networks)
def slow_network(stage: HostsStage, chance: random.Random) -> None:
    """What goes between a host and the database and the other hosts is slow: 20 or 200 kbit a second."""
    host, seconds, rate = stage.one(chance), chance.choice((2.0, 6.0)), chance.choice(("20kbit", "200kbit"))
    led = host is stage.leader()
    stage.say("slow_network", f"{host.name}{', which leads' if led else ''}, {rate} for {seconds:g} s")
    with (stage.excuse("slow_network", "master", "refused", host="" if led else host.name, after=_CAUGHT_UP),
          stage.late("slow_network", host, by=float("inf"), after=_CAUGHT_UP)):
        with stage.place(host).slow(rate):
            time.sleep(seconds)
        stage.all_well()


@contextlib.contextmanager
def _no_database(stage: HostsStage, name: str) -> Iterator[None]:
    """The block is a time without a database: changes are refused, whoever leads afterwards, and who does not read it may be late."""
    with (stage.excuse(name, "master", "refused", after=_CAUGHT_UP),
          stage.late(name, *stage.hosts.hosts, by=float("inf"), after=_CAUGHT_UP)):
        yield
        stage.all_well()


@hosts_fault(2, "database", "hosts")
def restart_database(stage: HostsStage, chance: random.Random) -> None:
    """The database server ends, orderly or at once, and is started again after up to 3 s."""
    how, seconds = chance.choice((signal.SIGINT, signal.SIGQUIT)), chance.choice((0.0, 3.0))
    stage.say("restart_database", f"{how.name}, away for {seconds:g} s")
    with _no_database(stage, "restart_database"):
        stage.hosts.servers[0].stop(how)
        time.sleep(seconds)
        stage.hosts.servers[0].start()


@hosts_fault(2, "database", "hosts")
def hang_database(stage: HostsStage, chance: random.Random) -> None:
    """The database server is stopped (SIGSTOP) for up to 8 s: it answers nothing."""
    seconds = chance.choice((0.5, 2.0, 8.0))
    stage.say("hang_database", f"for {seconds:g} s")
    with _no_database(stage, "hang_database"):
        stage.hosts.servers[0].freeze()
        try:
            time.sleep(seconds)
        finally:
            stage.hosts.servers[0].thaw()


@hosts_fault(2, "database", "hosts")
def fail_over(stage: HostsStage, chance: random.Random) -> None:
    """The database server is killed, its standby takes the writes, and gets a standby of its own."""
    stage.say("fail_over", "the standby is promoted")
    with _no_database(stage, "fail_over"):
        stage.hosts.fail_over()
        stage.hosts.follow()


@hosts_fault(2, "redis")
def restart_redis(stage: HostsStage, chance: random.Random) -> None:
    """Redis is killed, and started again after up to 3 s: what it counted is gone."""
    seconds = chance.uniform(0.0, 3.0)
    stage.say("restart_redis", f"away for {seconds:.1f} s")
    stage.hosts.redis.stop()
    time.sleep(seconds)
    stage.hosts.redis.start()


@hosts_fault(2, "redis")
def hang_redis(stage: HostsStage, chance: random.Random) -> None:
    """Redis is stopped (SIGSTOP) for up to 5 s: it answers nothing."""
    seconds = chance.uniform(0.2, 5.0)
    stage.say("hang_redis", f"for {seconds:.1f} s")
    _stop(psutil.Process(stage.hosts.redis.pid), seconds)


@hosts_fault(3, "clock")
def step_clock(stage: HostsStage, chance: random.Random) -> None:
    """The time of day of one host is two minutes off for some seconds."""
    host, shift, seconds = chance.choice(stage.hosts.hosts), chance.choice((-120.0, 120.0)), chance.uniform(1.0, 10.0)
    stage.say("step_clock", f"{host.name} by {shift:+g} s for {seconds:.1f} s")
    host.set_time(shift)
    try:
        time.sleep(seconds)
    finally:
        host.set_time(0.0)
