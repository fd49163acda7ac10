"""Orders and renews certificates: the master's job. What it knows is in the database, so a master that is killed at any step goes on
from there; each name has its own backoff, and no more than a few orders run at once."""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Callable
from typing import Any

import gevent
import gevent.lock
from gevent.threadpool import ThreadPool

from proxyd.base.jobs import Job
from proxyd.base.text import parse_rfc3339, rfc3339
from proxyd.base.threads import in_thread
from proxyd.certs import dnscommand
from proxyd.certs.byhand import ByHand
from proxyd.certs.names import Names
from proxyd.certs.schedule import LONGEST, Advice, Key, backoff, pause, renewal
from proxyd.certs.shelf import Shelf
from proxyd.config.settings import Settings
from proxyd.events.bus import EventBus
from proxyd.registry.auth import Grant
from proxyd.registry.otherhosts import OtherHosts
from proxyd.store.memory.board import Board
from proxyd.store.sql import certhistory, keybox
from proxyd.store.sql import certificates as rows
from proxyd.store.sql.database import Store, StoreError

log = logging.getLogger("proxyd.certs")

_PERIOD = 1.0
#: Orders under way at once.
_AT_ONCE = 8
#: Challenges older than this are nobody's.
_STALE = 3600.0
_WILDCARD = ("a certificate for a wildcard needs the challenge dns-01: add it to [acme] challenges, with dns_command, or declare the names "
             "themselves")


class Orders:
    """`grant_named`: what the token of that name may claim. `others`: the hosts that share the database, None where none can."""

    def __init__(self, settings: Settings, store: Store, board: Board, bus: EventBus, grant_named: Callable[[str], Grant],
                 others: OtherHosts | None = None) -> None:
        self._settings = settings
        self._acme = settings.acme
        self._store = store
        self._board = board
        self._bus = bus
        self._names = Names(settings, store, grant_named)
        self._shelf = Shelf(settings, store, board, others)
        self._prepared = False
        self._ca: Any = None
        self._ca_lock = gevent.lock.BoundedSemaphore(1)
        self._pool = ThreadPool(1)
        self._running: dict[Key, gevent.Greenlet] = {}
        #: Those of them whose certificate is there, so that they only end; and what was asked for by hand and is not noted as an order yet.
        self._got: set[Key] = set()
        self._asked: set[Key] = set()
        self._orders: dict[Key, dict[str, Any]] = {}
        #: When each certificate that is wanted is to be ordered, in Unix seconds.
        self._dues: dict[Key, float] = {}
        self._wanted: frozenset[str] | None = None
        self._advice = Advice(self._ask, (StoreError, keybox.KeyboxError), self._advised)
        self._rested_until = 0.0
        #: Certificates obtained, and orders that failed, since the master's start.
        self.obtained, self.failed = 0, 0
        self._job = Job("certificate-orders", _PERIOD, self.look, log, wakes=True, first=0.0,
                        expected=(StoreError, keybox.KeyboxError), trouble="no certificates are ordered", level=logging.ERROR)
        self.jobs = (self._job,)
        self.by_hand = ByHand(self._acme.enabled and bool(settings.tls.bind), store, self._shelf, self)

    def start(self) -> None:
        """Begin, if the settings say so."""
        if self._acme.enabled and self._settings.tls.bind:
            self._board.post_certificates(self._store.read(rows.current))
            self._job.start()

    def stop(self) -> None:
        """End. Orders under way go on with the next master."""
        self._job.stop()
        self._advice.stop()
        gevent.killall(list(self._running.values()))

    def wake(self) -> None:
        """There are new routes."""
        self._job.wake()

    def numbers(self) -> dict[str, int]:
        """For the metrics: certificates obtained and orders failed since the start, and names that are failing now."""
        failing = {domain for (domain, _), row in self._orders.items() if row["state"] == rows.FAILED}
        return {"obtained": self.obtained, "failed": self.failed, "failing": len(failing)}

    def rests(self) -> float:
        """Seconds for which the CA wants no orders."""
        return self._rested_until - time.time()

    def order_now(self, domain: str) -> bool:
        """Order the certificates of a name anew, whatever has failed before. Returns whether it is one that is ordered for."""
        # What is got already is not what is asked for now.
        keys = [key for key in self._dues if key[0] == domain and (key not in self._running or key in self._got)
                and not self._impossible(domain)]
        self._asked.update(keys)
        self._dues.update({key: self._due(key) for key in keys})
        self._job.wake()
        return bool(keys) or any(key[0] == domain for key in self._running)

    def look(self) -> None:
        """Begin what is due. Raises StoreError, KeyboxError."""
        if not self._prepared:
            self._prepare()
        now = time.time()
        wanted = self._names.wanted()
        if wanted is not self._wanted:
            self._take(wanted)
        if now < self._rested_until or not self._acme.terms_agreed:
            return
        self._advice.look(self._dues.keys() & self._shelf.certificates.keys(), now)
        # One name at a time: a handshake can show one proof of it (tls-alpn-01), and the second kind of key needs no proof any more.
        busy = {domain for domain, _ in self._running}
        due = ((when, key) for key, when in self._dues.items() if when <= now and key[0] not in busy)
        free = max(0, _AT_ONCE - len(self._running))
        for _, key in heapq.nsmallest(free * len(self._acme.key_type), due):
            if key[0] not in busy and len(self._running) < _AT_ONCE:
                busy.add(key[0])
                self._running[key] = gevent.spawn(self._run, key)

    def _take(self, wanted: frozenset[str]) -> None:
        """Other names are wanted than before."""
        for domain in sorted(filter(self._impossible, wanted)):
            if (domain, self._acme.key_type[0]) not in self._orders:
                self._note({**_order(domain, self._acme.key_type[0]), "state": rows.FAILED, "error": _WILDCARD}, certhistory.FAILED)
        keys = {(domain, kind) for domain in wanted for kind in self._acme.key_type}
        gone = [key for key in self._orders if key not in keys and key not in self._running]
        if gone:
            self._board.post_certificates(self._store.call(rows.forget_orders, gone))
            for key in gone:
                del self._orders[key]
        self._asked &= keys
        self._dues = {key: self._due(key) for key in keys}
        self._wanted = wanted

    def _prepare(self) -> None:
        """Raises StoreError, KeyboxError."""
        self._shelf.open()
        self._store.call(rows.end_challenges, time.time() - _STALE)
        self._orders = {(row["domain"], row["key_type"]): row for row in self._store.read(rows.orders)}
        self._prepared = True
        if not self._acme.terms_agreed:
            log.error("[acme] terms_agreed is not yes: no certificate is ordered; the local CA's are served")

    def _impossible(self, domain: str) -> bool:
        """Whether no challenge of the settings proves a name."""
        return domain.startswith("*.") and "dns-01" not in self._acme.challenges

    def _due(self, key: Key) -> float:
        """When a certificate is to be ordered, in Unix seconds; never for one that the CA can't give."""
        order = self._orders.get(key)
        if self._impossible(key[0]):
            return float("inf")
        if key in self._asked:
            return 0.0
        if order is not None:
            return parse_rfc3339(order["next_attempt"]) if order["next_attempt"] else 0.0
        known = self._shelf.certificates.get(key)
        if known is None:
            return 0.0
        return renewal(parse_rfc3339(known["not_before"]), parse_rfc3339(known["not_after"]), self._acme.renew_before, self._advice.of(key))

    def _ask(self, key: Key) -> tuple[float, float] | None:
        """What the CA advises for a certificate. A failure is told, and asked again later."""
        from proxyd.certs.proofs import OrderFailed

        chain = self._store.read(rows.chain, *key)
        try:
            return self.authority().advice(chain) if chain else (float("inf"), 0.0)
        except OrderFailed as failure:
            raise StoreError(str(failure)) from None

    def _advised(self, key: Key) -> None:
        if key in self._dues and key not in self._running:
            self._dues[key] = self._due(key)

    def _run(self, key: Key) -> None:
        from proxyd.certs.proofs import OrderFailed

        earliest = 0.0
        try:
            self._obtain(*key)
        except OrderFailed as failure:
            self._fail(key, failure)
        except StoreError as error:
            earliest = time.time() + _PERIOD
            log.warning("the order for %s goes on later: %s", key[0], error)
        except Exception:
            log.exception("the order for %s failed", key[0])
            self._fail(key, OrderFailed("an error inside proxyd; its log has the details"))
        finally:
            self._running.pop(key, None)
            self._got.discard(key)
            if key in self._dues:
                self._dues[key] = max(earliest, self._due(key))
            self._job.wake()

    def _obtain(self, domain: str, kind: str) -> None:
        from proxyd.certs.chains import new_key
        from proxyd.certs.proofs import Hooks

        ca = self.authority()
        order = self._orders.get((domain, kind)) or _order(domain, kind)
        if not order["private_key"]:
            order = {**order, "private_key": self._shelf.lock(in_thread(self._pool, new_key, kind))}
        self._note({**order, "state": rows.ORDERING, "next_attempt": None},
                   certhistory.ORDERED if (domain, kind) not in self._orders else "")
        self._asked.discard((domain, kind))
        private = self._shelf.unlock(order["private_key"])

        def placed(url: str) -> None:
            self._note({**self._orders[domain, kind], "order_url": url})

        def post(challenge: str, token: str, answer: str) -> None:
            self._note({**self._orders[domain, kind], "challenge": challenge})
            self._shelf.tell(self._store.call(rows.post_challenge, token, answer, domain, time.time(), durable=True))

        def end(token: str) -> None:
            self._board.post_certificates(self._store.call(rows.end_challenge, token))

        def record(action: str, name: str, value: str) -> None:
            if action == "present":
                self._note({**self._orders[domain, kind], "challenge": "dns-01"})
            dnscommand.record(self._acme.dns_command, action, name, value)

        chain = ca.obtain(domain, private, order["order_url"], self._store.read(rows.chain, domain, kind), Hooks(post, end, placed, record))
        # A master that was killed amid its order has left them: the CA asked, and does not ask again.
        self._store.call(rows.end_challenges_of, domain)
        self._got.add((domain, kind))
        what = certhistory.RENEWED if (domain, kind) in self._shelf.certificates else certhistory.OBTAINED
        self._shelf.keep(domain, kind, chain, order["private_key"], what, challenge=self._orders[domain, kind]["challenge"])
        self._advice.forget((domain, kind), time.time())
        self._orders.pop((domain, kind), None)
        self.obtained += 1
        # While the workers were told of it, an operator may have removed it.
        if (row := self._shelf.certificates.get((domain, kind))) is not None:
            log.info("certificate for %s by %s, valid until %s", domain, row["issuer"], row["not_after"])
        self.publish(domain)

    def authority(self) -> Any:
        """The CA with our account, which is made at the first order. Raises StoreError, OrderFailed, KeyboxError."""
        from proxyd.certs.ca import Authority
        from proxyd.certs.chains import new_key

        with self._ca_lock:
            if self._ca is None:
                directory = self._acme.directory
                known = self._store.read(rows.account, directory)
                if known is None:
                    known = {"directory": directory, "url": "", "private_key": self._shelf.lock(new_key("ecdsa256"))}
                    # Before the account is made: one whose key was lost would be nobody's.
                    self._store.call(rows.keep_account, known, durable=True)
                account = known
                self._ca = Authority(self._acme, self._shelf.unlock(account["private_key"]), account["url"], lambda url: self._store.call(
                    rows.keep_account, {**account, "url": url}, durable=True))
        return self._ca

    def _fail(self, key: Key, failure: Any) -> None:
        order = self._orders.get(key) or _order(*key)
        self._asked.discard(key)
        attempts = order["attempts"] + 1
        known = self._shelf.certificates.get(key)
        rest = pause(attempts, failure.retry_after, parse_rfc3339(known["not_after"]) - time.time() if known else float("inf"))
        if failure.limited or failure.away:
            # One name is enough to see that a CA is away.
            self._rested_until = time.time() + min(rest if failure.limited else backoff(1), LONGEST)
        # A failed order leads nowhere: the next attempt begins anew.
        row = {**order, "state": rows.FAILED, "order_url": "", "challenge": failure.challenge or order["challenge"], "error": str(failure),
               "attempts": attempts, "next_attempt": rfc3339(time.time() + rest)}
        self.failed += 1
        log.error("no certificate for %s: %s; tried again at %s%s", key[0], failure, row["next_attempt"],
                  ", the one that it has stays" if key in self._shelf.certificates else "")
        try:
            self._note(row, certhistory.FAILED)
            self.publish(key[0])
        except StoreError as error:
            self._orders[key] = row
            log.warning("that is not written: %s", error)

    def _note(self, row: dict[str, Any], what: str = "") -> None:
        """Write how an order stands. Workers are told of another state: they wait for the first order of a name. `what` happened is for
        the history, if anything."""
        key = row["domain"], row["key_type"]
        told = certhistory.told(what, *key, time.time(), challenge=row["challenge"], why=row["error"] if what == certhistory.FAILED else ""
                                ) if what else None
        if told is None and key in self._orders and self._orders[key]["state"] == row["state"]:
            self._store.call(rows.note_order, row, durable=True)
        else:
            self._board.post_certificates(self._store.call(rows.turn_order, row, told, durable=True))
        self._orders[key] = row

    def publish(self, domain: str) -> None:
        """Tell how the certificate of a name stands. Raises StoreError."""
        found = self._store.read(rows.status, [domain], time.time())[0]
        self._bus.publish("certificate_changed", found)


def _order(domain: str, kind: str) -> dict[str, Any]:
    return {"domain": domain, "key_type": kind, "state": rows.ORDERING, "order_url": "", "private_key": "", "challenge": "", "error": "",
            "attempts": 0, "next_attempt": None}
