"""The registry's state: sessions and routes, in memory as the database has them. Every change is one transaction.

Memory follows the database, never the other way round: a change is committed first, and then taken over. One greenlet
writes at a time, so versions are posted in the order in which they were made.
"""

from __future__ import annotations

import gc
import json
import logging
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import gevent
from gevent.lock import RLock

from proxyd.base import clock
from proxyd.base.lean import uncollected
from proxyd.base.text import hash_of, parse_rfc3339, rfc3339
from proxyd.config.settings import Settings
from proxyd.events.bus import Event, EventBus
from proxyd.registry.activeroutes import ActiveRoutes
from proxyd.registry.arrival import Arrival
from proxyd.registry.auth import EVERYTHING, Grant, LoginRefused
from proxyd.registry.configuration import RouteSpec, SettingTexts
from proxyd.registry.otherhosts import OtherHosts
from proxyd.registry.sessionlog import SessionLog
from proxyd.registry.stagedcopy import StagedCopy
from proxyd.registry.takeovers import Takeovers
from proxyd.store.memory.board import Board
from proxyd.store.memory.circuits import CircuitBoard
from proxyd.store.sql import changes
from proxyd.store.sql.changes import RegistryChange
from proxyd.store.sql.database import Result, Store, StoreError, StoreUncertain
from proxyd.store.sql.kept import PREFIX
from proxyd.store.sql.models import CLIENTLESS, SITE_PREFIX

log = logging.getLogger("proxyd.registry")

CONNECTED, DISCONNECTED, ENDED = "connected", "disconnected", "ended"
#: Seconds that a client has to come back by another host before its routes take no traffic any more.
MOVE = 5.0
#: Seconds before another look at a client that is not back: while the database can't be written, or if the time was over `_LATE` seconds or
#: more before this process had a turn again. What the client has said meanwhile is read after that.
_AGAIN, _LATE = 1.0, 0.25
#: The setting that stores what a session's token lets it claim, so that a restart can't widen it.
GRANT = ("grant", "", "")


@dataclass(eq=False, slots=True)
class LiveSession:
    """A session and what it declared. Instants are Unix seconds, to be shown; `began`, `staged_at` and `expires` are those
    of `base.clock`, to be waited for. `expires`: when a lost session ends; 0.0 while a client holds it.

    `session_id` is its public number. `secret_hash` is the hash of the id that the client has: whoever knows that id may RECONNECT.
    """

    session_id: str
    service: str
    instance: str
    metadata: dict[str, Any] = field(default_factory=dict)
    maintenance_port: int = 0
    address: str = ""
    state: str = CONNECTED
    connected_at: float = 0.0
    last_activity: float = 0.0
    last_apply: float = 0.0
    expires: float = 0.0
    began: float = 0.0
    settings: SettingTexts = field(default_factory=dict)
    staged: StagedCopy = field(default_factory=StagedCopy)
    staged_at: float = 0.0
    routes: dict[str, RouteSpec] = field(default_factory=dict)
    grant: Grant = EVERYTHING
    holder: Any = None
    secret_hash: str = ""
    #: Another session of the same names has taken its place. Its routes go on until that one's first apply, or replace_grace is over.
    replaced: bool = False
    #: The address of the client that held the session of the same names, connected, and lost it to this one's.
    took_from: str = ""
    #: Why its last apply was refused, and when that was told (an instant of `base.clock`).
    refused: tuple[str, float] = ("", 0.0)
    #: Options that its client wants and that there are not, since this master began.
    unknown_options: tuple[str, ...] = ()

    def is_site(self) -> bool:
        """Whether it stands for a site file."""
        return self.session_id.startswith(SITE_PREFIX)

    def has_no_client(self) -> bool:
        """Whether it stands for a site file or a route by hand."""
        return self.session_id.startswith(CLIENTLESS)

    def is_kept(self) -> bool:
        """Whether it was replaced, or is known only from the kept table. Nobody can resume it, and its routes stay until its service
        has applied again."""
        return self.replaced or self.session_id.startswith(PREFIX)


class Registry:
    """All sessions and routes. `on_change` is called after each new config version. `live_health` returns the health row of a
    route as the checker has it (the database may lag behind), or None."""

    def __init__(self, settings: Settings, store: Store, board: Board, bus: EventBus, circuits: CircuitBoard) -> None:
        self.settings = settings
        self.store = store
        self.board = board
        self.bus = bus
        self.circuits = circuits
        self.sessions: dict[str, LiveSession] = {}
        #: Sessions of the kept table, by service and instance. Such a session ends with the first apply of its successor.
        self.kept: dict[tuple[str, str], LiveSession] = {}
        #: The sessions of clients by service and instance. There are seldom two.
        self._named: dict[tuple[str, str], list[LiveSession]] = {}
        self._by_secret: dict[str, LiveSession] = {}
        self.active = ActiveRoutes(circuits)
        self.takeovers = Takeovers(bus)
        self._arrival = Arrival(board)
        self._log = SessionLog(bus)
        #: The other hosts of a database server's; None with SQLite, which is one host's.
        self.others: OtherHosts | None = None
        self.version = 0
        self.on_change: Callable[[int], None] = lambda version: None
        #: Called where nobody knows whether a change was committed: what is in memory may be behind the database from then on.
        self.on_uncertain: Callable[[], None] = lambda: None
        self.live_health: Callable[[str], dict[str, Any] | None] = lambda route_id: None
        self._lock = RLock()
        #: Until when connections are lost because their host is drained (an instant of `base.clock`).
        self._moves_until = 0.0

    # -- reading

    def load(self, grants: Callable[[str], Grant]) -> None:
        """Take over what the database has. Sessions that were connected have the grace to reconnect. Their routes stay live.

        `grants`: returns what the token of that name may claim.
        """
        with uncollected():
            self._load(grants)
            # All of it stays. Each of the next searches for cycles would take a third of a second for 100,000 routes.
            gc.freeze()
        # They are on the board, unless somebody deleted it: then this one is new, and they find it in a moment.
        self.board.post(self.version)
        self.on_change(self.version)

    def _load(self, grants: Callable[[str], Grant]) -> None:
        loaded = self.store.read(changes.load)
        now = clock.now()
        grace = self.settings.registry.reconnect_grace
        for row in loaded.sessions:
            session_id = row["session_id"]
            session = LiveSession(
                session_id, row["service_name"], row["instance_name"], json.loads(row["metadata"]), row["maintenance_port"],
                row["address"], row["state"], parse_rfc3339(row["connected_at"]), parse_rfc3339(row["last_activity"]),
                parse_rfc3339(row["last_apply"]) if row["last_apply"] else 0.0,
                settings=loaded.settings.get(session_id, {}), staged=StagedCopy(loaded.staged.get(session_id)),
                grant=grants(row["token_name"]), secret_hash=row["secret_hash"])
            grant = session.settings.pop(GRANT, None)
            if grant is not None:
                session.grant = Grant.from_json(grant)
            session.began = clock.remembered(None, session.connected_at)
            if session_id in loaded.staged_at:
                session.staged_at = loaded.staged_at[session_id]
            if row["state"] == DISCONNECTED and row["disconnected_at"]:
                session.expires = clock.remembered(row["disconnected_clock"], parse_rfc3339(row["disconnected_at"])) + grace
            else:
                session.expires = now + grace
            if row["ended_at"]:
                session.replaced = True
                session.expires += self.settings.registry.replace_grace - grace
            if session.has_no_client():
                session.expires = 0.0
            self.take(session)
        for row, spec in zip(loaded.routes, self.active.load(loaded.routes), strict=True):
            owner = self.sessions.get(row["session"])
            if owner is not None:
                owner.routes[spec.route_id] = spec
        self.version = loaded.version
        self.board.awaited = bool(loaded.workers)

    def find(self, session_id: str) -> LiveSession | None:
        """The session with that public number, or that site, if it has not ended."""
        return self.sessions.get(session_id)

    def find_secret(self, secret: str) -> LiveSession | None:
        """The session whose client has that id, if it has not ended."""
        return self._by_secret.get(hash_of(secret))

    def take(self, session: LiveSession) -> None:
        """Take over a session that is in the database."""
        self.sessions[session.session_id] = session
        if session.secret_hash and not session.replaced:
            self._by_secret[session.secret_hash] = session
        if session.is_kept():
            self.kept[session.service, session.instance] = session
        if not session.has_no_client():
            self._named.setdefault((session.service, session.instance), []).append(session)

    def everything(self) -> tuple[int, list[dict[str, Any]]]:
        """The config version, and the rows of all active routes in it. Each is replaced when it changes, and not changed itself."""
        return self.version, list(self.active.rows.values())

    def known(self) -> tuple[int, dict[str, tuple[int, str]]]:
        """The config version, and for each active route the version in which it was changed last, and when."""
        return self.version, {route_id: (row["version"], row["updated_at"]) for route_id, row in self.active.rows.items()}

    # -- writing

    def commit(self, change: RegistryChange, durable: bool = True) -> int:
        """Write a change and take it over. Returns the config version that it made, or 0. If it raises StoreError, nothing changed, but for
        StoreUncertain."""
        with self.exclusive():
            version = self.write(changes.write, change, durable=durable)
            for route_id in change.removed:
                self.active.remove(route_id)
            for row in change.routes:
                self.active.put({**row, "version": version})
            if version:
                self.version = version
                self.board.post(version)
        if version:
            self.on_change(version)
        return version

    def write(self, function: Callable[..., Result], *args: Any, durable: bool = False) -> Result:
        """`Store.call` for what is in memory as well."""
        try:
            return self.store.call(function, *args, durable=durable)
        except StoreUncertain:
            self.on_uncertain()
            raise

    def exclusive(self) -> AbstractContextManager[None]:
        """The lock to hold while a change is computed from the state and committed. Entering raises StoreBusy if the holder waits
        too long for a locked database."""
        return self.store.turn(self._lock, self.store.busy_timeout)

    def await_workers(self, version: int) -> None:
        """Wait until every live worker of every live host routes by `version`, at most apply_wait. The log names workers and hosts that
        do not by then."""
        if not version:
            return
        deadline = time.monotonic() + self.settings.registry.apply_wait
        if self.others is not None:
            # While the workers read.
            self.others.know_all(version)
        behind = self._arrival.wait(version, deadline)
        if behind is not None:
            names = ", ".join(f"{worker.pid} (at {worker.version})" for worker in behind)
            log.warning("config version %d is committed, but not yet taken by worker %s", version,
                        names or f"any: {self.board.file.path} is not theirs yet")
        if self.others is not None:
            self.others.await_all(version, lambda: time.monotonic() < deadline)

    # -- sessions

    def register(self, service: str, instance: str, maintenance_port: int, metadata: dict[str, Any], address: str,
                 holder: Any, grant: Grant) -> tuple[LiveSession, str]:
        """Begin a session. Returns it, and the secret id for its client. An older one of the same service and instance loses its client
        in the same transaction. Its routes go on until the new one's first apply. Raises LoginRefused if it has another token."""
        now = time.time()
        secret = secrets.token_hex(16)
        session = LiveSession("", service, instance, metadata, maintenance_port, address, CONNECTED, now, now,
                              holder=holder, grant=grant, began=clock.now(), secret_hash=hash_of(secret))
        with self.exclusive():
            older = list(self._named.get((service, instance), ()))
            for item in older:
                if not grant.may_replace(item.grant):
                    raise LoginRefused(f"{service}/{instance} was registered with another token, and only that one may replace it")
            before = self.kept.get((service, instance))
            older = [item for item in older if not item.is_kept()]
            # The one that serves goes on: the last one if it has applied, else the one that it had replaced in turn.
            serving = next((item for item in older if item.routes), None)
            ending = [item for item in older if item is not serving]
            if serving is not None and before is not None:
                ending.append(before)
            change = self._ending(ending, now, address, "REGISTER of a new session")
            goes_on = serving or before
            if goes_on is not None:
                self._replace(change, goes_on)
            change.session = self.session_row(session)
            change.begins = True
            if grant is not EVERYTHING:
                change.settings[GRANT] = grant.to_json()
            version = self.commit(change)
            for item in older:
                if item.state == CONNECTED and item.holder is not None:
                    session.took_from = item.address
                self._tell_holder(item, "REGISTER", address, grant.name)
            for item in ending:
                self._forget(item, address, "REGISTER of a new session")
            if goes_on is not None:
                goes_on.replaced = goes_on.replaced or goes_on is serving
                goes_on.state, goes_on.holder, goes_on.staged = DISCONNECTED, None, StagedCopy()
                goes_on.expires = clock.now() + self.settings.registry.replace_grace
                self._by_secret.pop(goes_on.secret_hash, None)
                self.kept[service, instance] = goes_on
            session.session_id = change.session_id
            self.take(session)
            self._log.registered(service, instance, session.session_id, address, grant.name)
        self.await_workers(version)
        return session, secret

    def _replace(self, change: RegistryChange, session: LiveSession) -> None:
        """Let the change take a session's client away. Its routes serve, as after RECONNECT: its service is back."""
        now = clock.now()
        at = rfc3339(clock.shown(now))
        change.replaced = [session.session_id]
        change.replaced_columns = {"state": DISCONNECTED, "ended_at": at, "disconnected_at": at, "disconnected_clock": clock.mark(now)}
        change.routes = self.active.changed(session.routes, {"enabled": True})

    def _tell_holder(self, session: LiveSession, how: str, address: str, token: str) -> None:
        """Tell a client that is connected that it loses its session to another one. It holds the session still."""
        holder = session.holder
        if session.state != CONNECTED or holder is None:
            return
        data = self.takeovers.session(session.service, session.instance, session.session_id, how, session.address, address, token)
        if "count" not in data:
            # Not told to everybody again, but the client that loses must know each time.
            holder.deliver(Event("session_replaced", rfc3339(time.time()), None, data, session.session_id, address))

    def session_row(self, session: LiveSession) -> dict[str, Any]:
        """The session as a row."""
        return {
            "session_id": session.session_id, "secret_hash": session.secret_hash,
            "service_name": session.service, "instance_name": session.instance,
            "maintenance_port": session.maintenance_port, "metadata": json.dumps(session.metadata), "state": session.state,
            "address": session.address, "token_name": session.grant.name, "connected_at": rfc3339(session.connected_at),
            "disconnected_at": None, "disconnected_clock": None, "ended_at": None,
            "last_activity": rfc3339(session.last_activity),
            "last_apply": rfc3339(session.last_apply) if session.last_apply else None}

    def _ending(self, sessions: list[LiveSession], now: float, by: str, why: str) -> RegistryChange:
        return RegistryChange(ended=[item.session_id for item in sessions], ended_at=rfc3339(now), by=by, why=why,
                              removed=[route_id for item in sessions for route_id in item.routes])

    def _forget(self, session: LiveSession, by: str, why: str) -> None:
        if session.state != ENDED:
            self._log.ended(session.service, session.instance, session.session_id, by, why)
        session.state = ENDED
        session.holder = None
        session.routes = {}
        session.staged = StagedCopy()
        self.sessions.pop(session.session_id, None)
        self._by_secret.pop(session.secret_hash, None)
        names = session.service, session.instance
        alike = [item for item in self._named.pop(names, ()) if item is not session]
        if alike:
            self._named[names] = alike
        if self.kept.get((session.service, session.instance)) is session:
            del self.kept[session.service, session.instance]

    def end(self, sessions: list[LiveSession], by: str, why: str) -> None:
        """End sessions. Their routes are gone from every worker when this returns. `by` and `why` are what the history tells."""
        with self.exclusive():
            sessions = [item for item in sessions if item.state != ENDED]
            if not sessions:
                return
            version = self.commit(self._ending(sessions, time.time(), by, why))
            for item in sessions:
                self._forget(item, by, why)
        self.await_workers(version)

    def succeeded(self, session: LiveSession, by: str) -> None:
        """A commit has ended what went on of this session's predecessor."""
        older = self.kept.get((session.service, session.instance))
        if older is not None:
            self._forget(older, by, f"redeployed: session {session.session_id} of the same names has applied")

    def disconnect(self, session: LiveSession, holder: Any, moves: bool = False) -> bool:
        """The holder's connection is lost. The routes take no traffic from now on, and wait for RECONNECT until the grace ends. While
        clients move to other hosts, or if this one `moves`, the routes have a moment more; whether they have.

        Nothing happens if another connection has resumed the session meanwhile.
        """
        with self.exclusive():
            if session.state != CONNECTED or session.holder is not holder:
                return False
            now = clock.now()
            moves = moves or now < self._moves_until
            self.commit(RegistryChange(
                session_id=session.session_id, routes=[] if moves else self.active.changed(session.routes, {"enabled": False}),
                session_updates={"state": DISCONNECTED, "disconnected_at": rfc3339(clock.shown(now)),
                                 "disconnected_clock": clock.mark(now), "last_activity": rfc3339(session.last_activity)}), durable=False)
            session.state = DISCONNECTED
            session.holder = None
            session.expires = now + self.settings.registry.reconnect_grace
            self._log.lost(session.service, session.instance, session.session_id, session.address, self.settings.registry.reconnect_grace)
        if moves:
            gevent.spawn_later(MOVE, self._not_moved, session, session.expires, clock.now() + MOVE)
        return moves

    def expect_moves(self, seconds: float) -> None:
        """For so long, connections that are lost are those of clients that move to another host."""
        self._moves_until = max(self._moves_until, clock.now() + seconds)

    def _not_moved(self, session: LiveSession, expires: float, due: float) -> None:
        """A client that was to move is not back at `due` (an instant of `base.clock`): its routes take no traffic any more. `expires` is as
        its loss has set it: one that came back and was lost again has a moment of its own since then."""
        def is_away() -> bool:
            return session.state == DISCONNECTED and session.expires == expires and not session.replaced

        while is_away() and (now := clock.now()) > due + _LATE:
            due = now + _AGAIN
            gevent.sleep(_AGAIN)
        told = False
        while is_away():
            try:
                with self.exclusive():
                    # Whoever had the lock may have changed that.
                    if is_away():
                        self.commit(RegistryChange(routes=self.active.changed(session.routes, {"enabled": False})), durable=False)
                return
            except StoreError as error:
                if not told:
                    log.warning("the routes of %s/%s, which is not back, can't be disabled yet: %s", session.service, session.instance,
                                error)
                told = True
            gevent.sleep(_AGAIN)

    def reconnect(self, session: LiveSession, address: str, holder: Any) -> None:
        """The client is back. Its routes are live again in every worker when this returns."""
        with self.exclusive():
            now = time.time()
            routes = self.active.changed(session.routes, {"enabled": True})
            # A session that the last master left is connected as the database has it: a power cut takes the new address alone.
            version = self.commit(RegistryChange(
                session_id=session.session_id, routes=routes,
                session_updates={"state": CONNECTED, "disconnected_clock": None, "address": address, "last_activity": rfc3339(now)}),
                durable=session.state != CONNECTED or bool(routes))
            self._tell_holder(session, "RECONNECT", address, session.grant.name)
            if session.holder is None:
                away = clock.now() - session.expires + self.settings.registry.reconnect_grace
                self._log.back(session.service, session.instance, session.session_id, address, away)
            session.state = CONNECTED
            session.holder = holder
            session.address = address
            session.expires = 0.0
            session.last_activity = now
        self.await_workers(version)

    def expired(self, now: float) -> list[LiveSession]:
        """Lost sessions whose grace has passed at `now`, an instant of `base.clock`."""
        return [item for item in self.sessions.values() if item.expires and item.holder is None and now >= item.expires]
