"""What one worker holds in memory: routes, counters, circuits, rate limits, watchdogs and the access log."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import socket
import time
from collections import deque

from proxyd.base.hosts import own_key
from proxyd.base.jobs import Job
from proxyd.config.defaults import use_defaults
from proxyd.config.settings import Settings
from proxyd.http1 import HeadLimits, forget_fields
from proxyd.http2.connection import Bounds
from proxyd.http2.frames import MAX_WINDOW
from proxyd.net.descriptors import raise_limit
from proxyd.net.dial import use_resolver
from proxyd.net.handshake import use_directory
from proxyd.net.pagefiles import use_pages
from proxyd.net.resolver import Resolver
from proxyd.net.served import Served
from proxyd.net.targets import Targets, use_rules
from proxyd.net.tls import server_context
from proxyd.proxy.client.connection import ClientConnection
from proxyd.proxy.client.http2 import Http2Connection
from proxyd.proxy.core.busywatch import BusyWatch
from proxyd.proxy.core.origin import trust_check
from proxyd.proxy.core.pace import Rates
from proxyd.proxy.core.spool import Storage
from proxyd.proxy.core.watchdog import Watchdog
from proxyd.proxy.gates.addresses import AddressLists
from proxyd.proxy.gates.basicauth import Logins
from proxyd.proxy.gates.clients import client_caps
from proxyd.proxy.gates.errorpages import ErrorPageGate
from proxyd.proxy.gates.followed import Follower
from proxyd.proxy.gates.forwardauth import AuthServers
from proxyd.proxy.gates.maintenance import Maintenance
from proxyd.proxy.gates.plugins import load as load_gates
from proxyd.proxy.gates.ratelimit import RateLimiter
from proxyd.proxy.record.accesslog import access_log
from proxyd.proxy.record.errors import Errors
from proxyd.proxy.record.flush import Flusher
from proxyd.proxy.record.refusals import Refusals
from proxyd.proxy.record.slow import Rows
from proxyd.proxy.record.stats import Stats
from proxyd.proxy.record.tracing import Tracer
from proxyd.proxy.record.watched import Watched
from proxyd.proxy.route.certsync import CertificateSync
from proxyd.proxy.route.hold import Holds
from proxyd.proxy.route.sync import Sync
from proxyd.proxy.route.table import Table
from proxyd.proxy.upstream.circuit import Circuits
from proxyd.proxy.upstream.places import Places
from proxyd.proxy.upstream.pool import follow_name, prune, retire, use_descriptors
from proxyd.store.memory.board import Board
from proxyd.store.memory.circuits import CircuitBoard
from proxyd.store.memory.counts import HostCounts
from proxyd.store.memory.shared import WEBSOCKETS
from proxyd.store.memory.watch import WORKER_PERIOD, SharedWatch
from proxyd.store.sql import kept, keptcerts
from proxyd.store.sql.database import Store, StoreError
from proxyd.store.sql.outbox import Outbox
from proxyd.store.sql.sharing import live_hosts
from proxyd.store.sql.snapshot import Snapshot

log = logging.getLogger("proxyd.proxy")

#: Seconds without a request after which a stopping worker closes an idle client connection. A client that is just sending
#: a request is answered instead of reset.
_STOPPING_IDLE = 2.0
_PRUNE_SECONDS = 10.0
_HOSTS_SECONDS = 1.0
#: So many looks in a row have to miss a host until its share of the limits is given to the others: one that only has no processor time
#: for a moment goes on counting.
_HOSTS_LOOKS = 10


class Runtime:
    """The state of a worker. Create it after the fork, and `start` it before clients are accepted."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        proxy = settings.proxy
        use_resolver(Resolver(settings.dns.servers, settings.dns.timeout))
        use_rules(Targets.of(settings))
        use_defaults(settings.defaults)
        use_directory(settings.proxy.backend_tls)
        use_pages(settings.proxy.error_page_files)
        self.store = Store(settings.database.url, settings.database.busy_timeout, follow=True)
        directory = settings.shared_memory_directory()
        self.board = Board(directory)
        self.circuits = Circuits(CircuitBoard(directory))
        self.websockets = HostCounts(directory, WEBSOCKETS)
        self.places = Places(directory)
        self.limiter = RateLimiter(settings, directory)
        self.maintenance = Maintenance(settings)
        self.error_pages = ErrorPageGate(settings.proxy.error_pages)
        self.lists = AddressLists(settings.lists)
        self.auth = AuthServers()
        self.logins = Logins(settings.users)
        self._follower = Follower((*self.lists.files, *self.logins.files))
        self.table = Table.empty()
        self.holds = Holds(self.circuits, lambda ex: self.table.match(ex.host, ex.path, ex.head))
        self.ready = False
        self.stopping = False
        worker = own_key(settings.host_name())
        self.stats = Stats(worker)
        self.rows = Rows()
        self.refusals = Refusals()
        self.errors = Errors()
        self.watched = Watched(directory, settings.log.access_addresses == "short")
        self.flusher = Flusher(self.store, self.board, (
            (lambda: self.stats.take(time.time()), self.stats.give_back), (self.rows.take, self.rows.give_back),
            (self.limiter.take, self.limiter.give_back), (self.refusals.take, self.refusals.give_back),
            (self.errors.take, self.errors.give_back)),
            None if self.store.path is None else Outbox(directory))
        self.access = access_log(settings.log, self._log_lost)
        self.tracer = Tracer(settings.tracing) if settings.tracing.endpoint else None
        self.idle_watch = Watchdog(0.25)
        self.busy_watch = BusyWatch()
        self.idle_seconds = proxy.keepalive_timeout
        use_descriptors(raise_limit())
        self.storage = Storage(proxy.buffer_total, proxy.buffer_directory)
        self.rates = Rates(proxy.min_request_rate, proxy.min_response_rate, proxy.min_rate_window, proxy.body_timeout)
        self.head_wait = min(proxy.header_timeout, self.rates.seconds(0))
        size = proxy.max_header_size
        self.head_limits = HeadLimits(proxy.max_request_line, proxy.max_header_count, size, size)
        size = proxy.max_response_header_size
        self.response_limits = HeadLimits(proxy.max_request_line, 200, size, size)
        # A client that reads slowly must not take the whole window of the connection: others use it too.
        self.http2_bounds = Bounds(proxy.http2_max_streams, proxy.http2_stream_window,
                                   min(proxy.http2_max_streams * proxy.http2_stream_window, MAX_WINDOW), size)
        self.trusts = trust_check(proxy.trusted_proxies)
        self.clients = client_caps(settings, directory, self.trusts)
        self.via = proxy.via or _own_name(settings)
        self.via_field = f"1.1 {self.via}"
        self.buffers: list[memoryview] = []
        self.sync = Sync(self.store, self.board, self._swap, settings.database.poll, os.path.join(directory, kept.NAME),
                         settings.registry.reconnect_grace, worker, self.stats.show_again,
                         proxy.stale_after)
        #: Certificates from the database; None without [acme].
        self.certificates: CertificateSync | None = None
        if settings.acme.enabled and settings.tls.bind:
            served = Served(lambda trust: server_context(settings.tls, trust), lambda host: self.table.knows_host(host),
                            settings.acme.handshake_wait)
            self.certificates = CertificateSync(self.store, self.board, served, settings.key_file(), settings.database.poll,
                                                os.path.join(directory, keptcerts.NAME))
        self._counts = [self.websockets, self.places.counts, *([] if self.clients is None else [self.clients.counts])]
        self._files = SharedWatch((self.board.file, self.circuits.file, self.limiter.file, *(counts.file for counts in self._counts)),
                                  log, logging.WARNING)
        self._shared = Job("shared-files", WORKER_PERIOD, self._look, log)
        self._hosts_seen: deque[int] = deque(maxlen=_HOSTS_LOOKS)
        self._sharing = Job("hosts", _HOSTS_SECONDS, self._count_hosts, log, first=0.0, expected=StoreError,
                            trouble="nobody knows how many hosts there are now", level=logging.DEBUG)
        #: Hosts count together in Redis, and only a database server says how many there are.
        self._shares = self.store.path is None and settings.ratelimit.storage != "shared"
        self._pruning = Job("idle-upstreams", _PRUNE_SECONDS, self._prune, log)
        self._id_prefix = f"{secrets.token_hex(6)}-"
        self._id_count = 0

    def _log_lost(self, route_id: str, lines: int) -> None:
        self.stats.of(route_id or "-").log_dropped += lines

    def start(self) -> None:
        """Load the routes, begin to follow changes, and start everything that runs in the background."""
        for counts in self._counts:
            counts.join()
        self.access.start()
        self.idle_watch.start()
        self.busy_watch.start()
        self._follower.start()
        self.sync.start()
        if self.certificates is not None:
            self.certificates.start()
        self.flusher.start()
        if self.tracer is not None:
            self.tracer.start()
        self._pruning.start()
        if self._shares:
            self._sharing.start()
        self._shared.start()

    def _count_hosts(self) -> None:
        """Note how many shares a rate limit has while Redis is away. While the database is away, too, it is as many as before."""
        self._hosts_seen.append(self.store.read(live_hosts))
        self.limiter.hosts = max(self._hosts_seen)

    def _look(self) -> None:
        self._files.look()
        self.watched.look()

    def fit(self) -> bool:
        """Whether clients may come: the routes are known, as far as they can be known now."""
        return self.sync.fit()

    def _prune(self) -> None:
        """Close upstream connections that were idle for too long, are old, or lead to an old address of the upstream's name. Forget
        what belongs to routes that are gone, and the fields of earlier requests."""
        # First, whatever becomes of the rest: there are credentials among them.
        forget_fields()
        now = time.monotonic()
        for upstream in [*self.table.upstreams.values(), *self.auth.upstreams()]:
            state = upstream.state
            if state.idle or state.in_flight or state.links is not None:
                follow_name(upstream)
                prune(upstream, now)
        upstreams = self.table.upstreams
        self.limiter.forget(lambda upstream: upstreams.get(upstream.route_id) == upstream)

    def stop(self) -> None:
        """Prepare for the stop: requests in flight go on, and each connection closes after its response."""
        self.stopping = True
        self.idle_seconds = _STOPPING_IDLE
        deadline = time.monotonic() + _STOPPING_IDLE
        for item in self.idle_watch.watched():
            if isinstance(item, ClientConnection) and item.idle:
                item.deadline = min(item.deadline, deadline)
            elif isinstance(item, Http2Connection):
                item.drain()

    def end_websockets(self) -> None:
        """End the open WebSockets. Both sides get a close frame."""
        for item in self.busy_watch.watched():
            if item.tunnel is not None:
                item.tunnel.end("worker_stopping")

    def finish(self) -> None:
        """After the last request: write what is still in memory, as far as that is quick."""
        self.access.flush()
        self.flusher.stop()
        if self.tracer is not None:
            self.tracer.stop()
        self._shared.stop()
        if self.certificates is not None:
            self.certificates.stop()
        self.sync.stop()
        self._follower.stop()
        for counts in self._counts:
            counts.leave()

    def _swap(self, table: Table, snapshot: Snapshot, gone: tuple[str, ...]) -> None:
        before = self.table
        # The master has claimed the slots on its own host. On another host nobody else does.
        for record in snapshot.routes:
            self.circuits.claim(record)
            made = table.upstreams.get(record.route_id)
            if made is not None and made.options.gates:
                load_gates(made.options.gates)
        self.table = table
        self.ready = True
        for route_id in (*gone, *(record.route_id for record in snapshot.routes)):
            old, made = before.upstreams.get(route_id), table.upstreams.get(route_id)
            if old is not None and (made is None or made.state is not old.state):
                retire(old)
        self.stats.forget(set(gone))

    def next_request_id(self) -> str:
        """A unique request id: the worker's random prefix and a count."""
        self._id_count += 1
        return f"{self._id_prefix}{self._id_count:x}"


def _own_name(settings: Settings) -> str:
    """A name for Via. It differs between proxies in a chain, but not between workers or restarts."""
    seed = f"{socket.gethostname()}:{os.getcwd()}:{settings.database.url}:{settings.proxy.bind}"
    return f"proxyd-{hashlib.sha256(seed.encode()).hexdigest()[:8]}"
