"""The registry master process: registry, health checks, site files, events and admin HTTP. Traffic goes on without it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import gevent
from gevent.event import Event as Signal

from proxyd.admin.server import AdminServer
from proxyd.admin.state import MasterState
from proxyd.base import clock
from proxyd.base.jobs import Job
from proxyd.base.processes import HELD, SUPERVISED, ignore
from proxyd.base.text import rfc3339
from proxyd.base.trouble import Trouble
from proxyd.certs.orders import Orders
from proxyd.chores.alerts import Alerts
from proxyd.chores.certkeeper import CertificateKeeper
from proxyd.chores.certwatch import CertificateWatch
from proxyd.chores.counts import Counts
from proxyd.chores.dbwatch import DatabaseWatch, part_log
from proxyd.chores.historysize import HistorySize
from proxyd.chores.hostwatch import HostWatch
from proxyd.chores.janitor import Janitor
from proxyd.chores.keeper import Keeper, OfRegistry
from proxyd.chores.leadwatch import LeadWatch
from proxyd.chores.ledger import Ledger
from proxyd.chores.logwatch import LogWatch
from proxyd.chores.pidfile import PidFile
from proxyd.chores.retention import Retention
from proxyd.chores.tickets import TicketKeeper
from proxyd.config import logs
from proxyd.config.defaults import use_defaults
from proxyd.config.named import use_named
from proxyd.config.settings import Settings, SettingsError, load
from proxyd.events.bus import EventBus
from proxyd.health.checker import Checker
from proxyd.health.circuitwatch import CircuitWatch
from proxyd.net.clientcert import use_client_ca
from proxyd.net.descriptors import raise_limit
from proxyd.net.dial import use_resolver
from proxyd.net.exposure import exposed
from proxyd.net.handshake import use_directory
from proxyd.net.listen import ListenError
from proxyd.net.pagefiles import use_pages
from proxyd.net.resolver import Resolver
from proxyd.net.targets import Targets, use_rules
from proxyd.registry.operations import Operations
from proxyd.registry.otherhosts import OtherHosts
from proxyd.registry.server import RegistryServer
from proxyd.registry.state import Registry
from proxyd.server import boots
from proxyd.server.standby import Standby
from proxyd.server.startchecks import open_secrets
from proxyd.sites.follow import Sites
from proxyd.store.memory.board import Board
from proxyd.store.memory.circuits import CircuitBoard
from proxyd.store.memory.shared import SharedMemoryError
from proxyd.store.sql import kept, migrations, restored
from proxyd.store.sql.database import Store, StoreError
from proxyd.store.sql.leadership import Leadership
from proxyd.store.sql.lifesign import LifeSign
from proxyd.store.sql.lock import MasterLock
from proxyd.store.sql.membership import Membership, NameTaken
from proxyd.store.sql.rescue import set_aside_if_corrupt
from proxyd.store.sql.wellness import Wellness

log = logging.getLogger("proxyd.master")

_PARENT_TICK = 0.25
_LISTEN_AGAIN = 2.0
#: Microseconds that systemd is to wait on for a start with a long migration, which says so again every ten seconds.
_GOES_ON = 120_000_000
#: How often a master that waits asks whether the lead is free, in seconds.
_STANDBY_LOOK = 0.25
#: So many looks a host waits for its name before it says that another one has it.
_NAME_LOOKS = 6
#: Sentences of the status about routes that get no traffic.
_MOST_NOTICES = 20
_OWN_MEMORY = "[database] shared_memory"
#: Beside the registry's connections: the database, logs, health checks, the admin HTTP.
_OTHER_FILES = 512


class Chore(Protocol):
    """A part of the master that works in background jobs."""

    @property
    def jobs(self) -> tuple[Job, ...]: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...


class Master:
    """Everything that the master runs, in the order in which it starts. `run` returns when the master has been told to stop."""

    def __init__(self, settings: Settings, parent: int = 0) -> None:
        self.settings = settings
        self._parent = parent
        self._stop = Signal()
        self._status = 0
        self._stopping: list[Callable[[], None]] = []
        # By default the whole directory is one proxy's alone.
        self._pid_file = PidFile(settings.pid_file(), "[master] pid_file" if settings.master.pid_file else _OWN_MEMORY)
        self._sites: Sites | None = None
        self._bus: EventBus | None = None
        self._checker: Checker | None = None

    def run(self, wait: bool) -> int:
        """Serve until TERM or INT. Returns the exit status. `wait`: if another master holds the database, wait until it ends."""
        gevent.signal_handler(signal.SIGTERM, self._stop.set)
        # Ctrl-C and Ctrl-\ reach every process of a terminal. A supervised master ignores them, because its supervisor stops it last.
        for number in (signal.SIGINT, signal.SIGQUIT):
            gevent.signal_handler(number, (lambda: None) if os.environ.get(SUPERVISED) else self._stop.set)
        gevent.signal_handler(signal.SIGHUP, lambda: gevent.spawn(self._reload))
        # They would end or stop the process. USR1 is logrotate's: the log notices by itself that its file was moved away.
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU):
            gevent.signal_handler(number, lambda: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*HELD, signal.SIGTERM))
        if self._parent:
            gevent.spawn(self._watch_parent)
        try:
            if not self._start(wait):
                return 0
        except (StoreError, ListenError, SharedMemoryError, OSError) as error:
            log.error("the master can't start: %s", error)
            self._unwind()
            return 1
        _notify("READY=1")
        self._stop.wait()
        _notify("STOPPING=1")
        log.info("the master stops")
        self._unwind()
        return self._status

    def _fail(self) -> None:
        """Stop with status 1, so that the supervisor or systemd starts a new master."""
        self._status = 1
        self._stop.set()

    def _read_anew(self) -> None:
        """What the master remembers and what the database has may differ: the next master reads it."""
        log.critical("nobody knows whether the last change was committed: this master ends, and another one goes on by what is there")
        self._fail()

    def _start(self, wait: bool) -> bool:
        settings = self.settings
        for section, message in exposed(settings):
            raise ListenError(f"[{section}] bind = {message}")
        use_resolver(Resolver(settings.dns.servers, settings.dns.timeout))
        use_rules(Targets.of(settings))
        use_defaults(settings.defaults)
        use_directory(settings.proxy.backend_tls)
        use_pages(settings.proxy.error_page_files)
        use_client_ca(settings.tls.client_ca)
        use_named(settings.named())
        store = Store(settings.database.url, settings.database.busy_timeout)
        lock = MasterLock(store.path, settings.shared_memory_directory())
        if not lock.take():
            # A server's is the lock of the shared memory, whichever database it is for.
            other = "" if store.path is not None else f"; if it serves another database, give this one a {_OWN_MEMORY} of its own"
            if not wait:
                raise StoreError(f"another master (pid {lock.holder()}) serves {store.name}; stop it first, or start this "
                                 f"one with --wait{other}")
            log.info("waiting for the master with pid %s to end%s", lock.holder(), other)
            if not lock.wait(gevent.sleep, lambda: not self._stop.is_set()):
                return False
        self._stopping.append(lock.release)
        directory = settings.shared_memory_directory()
        board = Board(directory)
        leadership: Leadership | None = None
        member: Membership | None = None
        if store.path is None:
            member = Membership(store, settings.host_name(), settings.registry_address(), settings.admin_address())
            self._stopping.append(member.close)
            leadership = Leadership(store, member)
            standby = Standby(settings, store, member, board)
            try:
                if not self._take_lead(leadership, standby, wait):
                    return False
                # From here until all parts run, nothing else looks after it.
                life_sign = LifeSign(member)
                life_sign.start()
                self._stopping.append(life_sign.stop)
            finally:
                standby.stop()
        part_log(store.path, lock.noted)
        set_aside_if_corrupt(store.path)
        store.open()
        self._stopping.append(store.close)
        before, after = migrations.migrate(store, lambda: _notify(f"EXTEND_TIMEOUT_USEC={_GOES_ON}"))
        if not before:
            log.log(logging.INFO if settings.file else logging.WARNING, "the database %s is new%s", store.name, "" if settings.file else
                    f": {os.getcwd()} has no conf/proxyd.ini, and what another folder's var/ holds is not used")
        elif before != after:
            log.info("database schema migrated from version %d to %d", before, after)
        # A new database has its log only now.
        store.displaced()
        lock.note(store.files)
        if leadership is not None:
            leadership.begin(rfc3339(clock.shown(clock.now())))
        take_up_kept(store, os.path.join(directory, kept.NAME), board.newest())
        circuits = CircuitBoard(directory, settings.host_name())
        if aside := restored.look(store, board):
            log.warning("the database %s is a backup: its %d sessions can't be resumed, their clients register again", store.name, aside)
        bus = self._bus = EventBus(store)
        bus.start()
        self._stopping.append(bus.stop)
        registry = Registry(settings, store, board, bus, circuits)
        operations = Operations(registry)
        certificates = CertificateWatch(settings, bus, store)
        sites = self._sites = Sites(registry)
        server = RegistryServer(registry, operations)
        others = registry.others = OtherHosts(store, member.name, bus) if member is not None else None
        registry.load(server.gate.grant_named)
        checker = self._checker = Checker(settings.health, store, bus, circuits,
                                          led_before=leadership.before if leadership is not None else "", rows=registry.everything)
        registry.live_health = checker.current
        checker.changed(registry.version)
        orders = Orders(settings, store, board, bus, server.gate.grant_named, others)

        def changed(version: int) -> None:
            checker.changed(version)
            orders.wake()

        registry.on_change, registry.on_uncertain = changed, self._read_anew
        watch = DatabaseWatch(store, lock, directory, (board.file, circuits.file), self._fail, registry.known)
        log_watch = LogWatch(store, settings.database.max_log)
        size = HistorySize(store, bus, settings.database.max_size, settings.log.access)
        wellness = Wellness(
            store, board, circuits, clock.now(),
            lambda: [*map(str, sites.problems), *watch.problems(), *log_watch.problems(), *size.problems(), *boots.read(directory),
                     *registry.takeovers.fights()],
            lambda: [{"path": item.path, "names": list(item.names), "expires": item.expires}
                     for item in certificates.certificates.values()], checker.alive, others.findings if others is not None else list)
        alerts = Alerts(settings.alerts, store, bus, wellness, webhooks=settings.webhooks)
        chores: tuple[Chore, ...] = (
            # Alerts first: what the others see when they begin, like a certificate that has expired, is told, too.
            alerts, sites, certificates, CircuitWatch(store, bus, circuits), checker,
            Retention(settings.database, store),
            Janitor(registry), Keeper(OfRegistry(registry), directory),
            CertificateKeeper(settings.acme.enabled and bool(settings.tls.bind), store, board, directory),
            Counts(store, board, directory, settings.host_name()),
            TicketKeeper(bool(settings.tls.bind) and settings.tls.shared_tickets, directory),
            watch, LeadWatch(leadership, self._fail), orders, Ledger(store, board, wellness), log_watch, size,
            *([HostWatch(registry, member, others, server, self._fail)]
              if member is not None and others is not None else []))
        state = MasterState(
            store, bus, board, circuits, operations, wellness.started, wellness.problems,
            lambda: [*registry.takeovers.sentences(), *registry.active.overridden_now(_MOST_NOTICES)],
            wellness.certificates, checker.alive, checker.numbers, (*bus.jobs, *(job for part in chores for job in part.jobs)), wellness,
            orders.numbers, size.numbers, orders.by_hand, alerts, others)
        parts: list[Any] = [*chores, server]
        for part in parts:
            part.start()
            self._stopping.append(part.stop)
        if settings.admin.enabled:
            self._start_admin(AdminServer(settings, state))
        operations.resume()
        watch.write_pid(self._pid_file)
        log.info("the master serves %s: registry %s, admin %s", store.name, settings.registry.bind,
                 settings.admin.bind if settings.admin.enabled else "off")
        return True

    def _take_lead(self, leadership: Leadership, standby: Standby, wait: bool) -> bool:
        """Become the master of a database server's. `wait`: if another host's leads, follow it until the lead is free. Returns whether
        this one leads now. Raises StoreError."""
        trouble = Trouble(log, "can't ask who leads")
        too_old = Trouble(log, "this host follows, and can't lead")
        said, taken, due = False, 0, 0.0
        while not self._stop.is_set():
            try:
                if time.monotonic() < due:
                    # News of an apply came in between.
                    standby.follow(due - time.monotonic())
                    continue
                newer = leadership.newer_schema(migrations.NEWEST)
                if newer and wait:
                    # While hosts are upgraded one after the other.
                    too_old.goes_on(f"the database has schema version {newer}, this proxyd knows {migrations.NEWEST}: upgrade it")
                    leadership.follow()
                elif leadership.take(standby.spare()):
                    trouble.is_over()
                    return True
            except NameTaken as error:
                # A master that has just ended may have the name still.
                taken += 1
                if taken >= _NAME_LOOKS and not wait:
                    raise
                if taken >= _NAME_LOOKS:
                    trouble.goes_on(error)
            except StoreError as error:
                if not wait:
                    raise
                trouble.goes_on(error)
            else:
                trouble.is_over()
                if not wait:
                    raise StoreError(f"another master leads ({leadership.holder()}); stop it first, or start this one with --wait")
                if not said:
                    log.info("another master leads (%s): this one waits, and takes over when the lead is free", leadership.holder())
                    said = True
                due = time.monotonic() + _STANDBY_LOOK
                try:
                    standby.follow(_STANDBY_LOOK)
                except StoreError as error:
                    trouble.goes_on(error)
                else:
                    continue
            self._stop.wait(_STANDBY_LOOK)
        return False

    def _start_admin(self, admin: AdminServer) -> None:
        """Start the admin HTTP. If its address is taken, try again later, because services must not wait for that."""
        trouble = Trouble(log, "the registry goes on without the admin HTTP")

        def listens() -> bool:
            try:
                admin.start()
            except ListenError as error:
                trouble.goes_on(f"{error} ([admin] bind)")
                return False
            trouble.is_over()
            self._stopping.append(admin.stop)
            return True

        def again() -> None:
            while not self._stop.wait(_LISTEN_AGAIN) and not listens():
                pass

        if not listens():
            gevent.spawn(again)

    def _unwind(self) -> None:
        for stop in reversed(self._stopping):
            try:
                stop()
            except Exception:
                log.exception("a part of the master failed to stop")
        with contextlib.suppress(OSError):
            self._pid_file.remove()

    def _reload(self) -> None:
        """SIGHUP: read the site files, the log's settings and the defaults of routes again. Other changed settings need a restart; the log
        says so."""
        try:
            fresh = load(self.settings.file)
        except SettingsError as error:
            log.error("SIGHUP: the settings stay as they are: %s", "; ".join(map(str, error.problems)))
            return
        logs.configure(fresh.log)
        if fresh.defaults != self.settings.defaults:
            use_defaults(fresh.defaults)
            self.settings = replace(self.settings, defaults=fresh.defaults)
            if self._checker is not None:
                self._checker.look_again()
        if self._sites is not None:
            self._sites.reload()
        if self._bus is not None:
            self._bus.publish("global_config_changed", {"file": self.settings.file or ""})
        log.info("SIGHUP: site files and certificates read again%s",
                 "" if fresh == self.settings else "; other changed settings take a restart of the master")

    def _watch_parent(self) -> None:
        while os.getppid() == self._parent:
            gevent.sleep(_PARENT_TICK)
        log.info("the arbiter has ended: the master stops, too")
        self._stop.set()


def take_up_kept(store: Store, path: str, newest: int) -> None:
    """Fill a new database with the table that was kept in a file: the old one was lost, and its services are still there. `newest`: the
    highest version of the old one that is known."""
    if not store.read(kept.is_new):
        return
    try:
        found = kept.read(path)
    except kept.KeptError as error:
        log.error("the kept table %s is not used: %s", path, error)
        return
    # An empty one, of a database that was never used, is not worth a word.
    if found is not None and store.call(kept.take_up, found, newest, durable=True) and found.snapshot.routes:
        log.warning("the database %s is new: %s until their services are back, or reconnect_grace has passed (the kept table %s)",
                    store.name, "1 route goes on" if len(found.snapshot.routes) == 1 else f"{len(found.snapshot.routes)} routes go on",
                    path)


def _notify(state: str) -> None:
    """Notify systemd (sd_notify(3)), if it asked for it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address or os.environ.get(SUPERVISED):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.connect("\0" + address[1:] if address[0] == "@" else address)
        sock.sendall(state.encode())


def main(settings: Settings, wait: bool, parent: int) -> int:
    """Run a master in this process, which must have been monkey-patched. Returns the exit status."""
    logs.configure(settings.log)
    sys.stdout.flush()
    for section, told in open_secrets(settings):
        if section != "tls":
            log.warning("[%s] %s", section, told)
    files, connections = raise_limit(), settings.registry.max_connections
    if files < connections + _OTHER_FILES:
        log.warning("this process may have %d files open, too few for [registry] max_connections = %d: raise the hard limit (ulimit -Hn, "
                    "LimitNOFILE) or lower the setting", files, connections)
    try:
        return Master(settings, parent).run(wait)
    finally:
        ignore((*HELD, signal.SIGTERM))
