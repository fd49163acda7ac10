"""Orders and renews certificates: the master's job. What it knows is in the database, so a master that is killed at any step goes on
from there; each name has its own backoff, and no more than a few orders run at once."""

from __future__ import annotations

import datetime
import heapq
import logging
import os
import random
import shlex
import time
from collections.abc import Callable
from typing import Any

import gevent
import gevent.lock
from cryptography import x509
from cryptography.x509.oid import NameOID
from gevent import subprocess
from gevent.threadpool import ThreadPool

from proxyd.base.jobs import Job
from proxyd.base.text import parse_rfc3339, rfc3339
from proxyd.base.threads import in_thread
from proxyd.certs.names import Names
from proxyd.config.settings import Settings
from proxyd.events.bus import EventBus
from proxyd.net import localca
from proxyd.registry.auth import Grant
from proxyd.store.memory.board import Board
from proxyd.store.sql import certificates as rows
from proxyd.store.sql import keybox
from proxyd.store.sql.database import Store, StoreError

log = logging.getLogger("proxyd.certs")

_PERIOD = 1.0
#: Orders under way at once.
_AT_ONCE = 8
#: Longest wait of an order: in seconds for the workers to take a challenge up.
_WORKERS_SECONDS = 5.0
#: After a failure: the first pause, what it grows by, and the longest one. Let's Encrypt counts five failures an hour.
_FIRST, _GROWTH, _LONGEST = 60.0, 4.0, 12 * 3600.0
#: Challenges older than this are nobody's.
_STALE = 3600.0
_WILDCARD = ("a certificate for a wildcard needs the challenge dns-01: add it to [acme] challenges, with dns_command, or declare the names "
             "themselves")
#: Longest run of dns_command, in seconds.
_COMMAND_SECONDS = 300.0


class Orders:
    """`grant_named`: what the token of that name may claim."""

    def __init__(self, settings: Settings, store: Store, board: Board, bus: EventBus, grant_named: Callable[[str], Grant]) -> None:
        self._settings = settings
        self._acme = settings.acme
        self._store = store
        self._board = board
        self._bus = bus
        self._names = Names(settings, store, grant_named)
        self._box: keybox.Keybox | None = None
        self._ca: Any = None
        self._ca_lock = gevent.lock.BoundedSemaphore(1)
        self._pool = ThreadPool(1)
        self._running: dict[tuple[str, str], gevent.Greenlet] = {}
        self._certificates: dict[tuple[str, str], dict[str, Any]] = {}
        self._orders: dict[tuple[str, str], dict[str, Any]] = {}
        #: When each certificate that is wanted is to be ordered, in Unix seconds.
        self._dues: dict[tuple[str, str], float] = {}
        self._wanted: frozenset[str] | None = None
        self._rested_until = 0.0
        #: Certificates obtained, and orders that failed, since the master's start.
        self.obtained, self.failed = 0, 0
        self._job = Job("certificate-orders", _PERIOD, self.look, log, wakes=True, first=0.0,
                        expected=(StoreError, keybox.KeyboxError), trouble="no certificates are ordered", level=logging.ERROR)
        self.jobs = (self._job,)

    def start(self) -> None:
        """Begin, if the settings say so."""
        if self._acme.enabled and self._settings.tls.bind:
            self._board.post_certificates(self._store.read(rows.current))
            self._job.start()

    def stop(self) -> None:
        """End. Orders under way go on with the next master."""
        self._job.stop()
        gevent.killall(list(self._running.values()))

    def wake(self) -> None:
        """There are new routes."""
        self._job.wake()

    def numbers(self) -> dict[str, int]:
        """For the metrics: certificates obtained and orders failed since the start, and names that are failing now."""
        failing = {domain for (domain, _), row in self._orders.items() if row["state"] == "failed"}
        return {"obtained": self.obtained, "failed": self.failed, "failing": len(failing)}

    def look(self) -> None:
        """Begin what is due. Raises StoreError, KeyboxError."""
        if self._box is None:
            self._prepare()
        now = time.time()
        wanted = self._names.wanted()
        if wanted is not self._wanted:
            self._take(wanted)
        if now < self._rested_until or not self._acme.terms_agreed:
            return
        due = ((when, key) for key, when in self._dues.items() if when <= now and key not in self._running)
        for _, key in heapq.nsmallest(max(0, _AT_ONCE - len(self._running)), due):
            self._running[key] = gevent.spawn(self._run, key)

    def _take(self, wanted: frozenset[str]) -> None:
        """Other names are wanted than before."""
        for domain in sorted(filter(self._impossible, wanted)):
            if (domain, self._acme.key_type[0]) not in self._orders:
                self._note({**_order(domain, self._acme.key_type[0]), "state": "failed", "error": _WILDCARD})
        keys = {(domain, kind) for domain in wanted for kind in self._acme.key_type}
        gone = [key for key in self._orders if key not in keys and key not in self._running]
        if gone:
            self._store.call(rows.forget_orders, gone)
            for key in gone:
                del self._orders[key]
        self._dues = {key: self._due(key) for key in keys}
        self._wanted = wanted

    def _prepare(self) -> None:
        """Open the key file, and read what is there. Raises KeyboxError for a file that is not the one of the database."""
        path = self._settings.key_file()
        secret = self._store.read(rows.any_secret)
        if secret is None:
            keybox.make(path)
        elif not os.path.exists(path):
            raise keybox.KeyboxError(f"the key file {path} is gone, and the keys in the database need it: bring it back")
        box = keybox.Keybox(path)
        if secret is not None:
            box.unlock(secret)
        if self._store.read(rows.local_ca) is None:
            chain, key = localca.make(datetime.datetime.now(datetime.UTC))
            self._keep(rows.LOCAL_CA, "ecdsa256", chain, box.lock(key))
        self._store.call(rows.end_challenges, time.time() - _STALE)
        self._certificates = {(row["domain"], row["key_type"]): row for row in self._store.read(rows.certificates)}
        self._orders = {(row["domain"], row["key_type"]): row for row in self._store.read(rows.orders)}
        self._box = box
        if not self._acme.terms_agreed:
            log.error("[acme] terms_agreed is not yes: no certificate is ordered; the local CA's are served")

    def _impossible(self, domain: str) -> bool:
        """Whether no challenge of the settings proves a name."""
        return domain.startswith("*.") and "dns-01" not in self._acme.challenges

    def _due(self, key: tuple[str, str]) -> float:
        """When a certificate is to be ordered, in Unix seconds; never for one that the CA can't give."""
        order = self._orders.get(key)
        if self._impossible(key[0]):
            return float("inf")
        if order is not None:
            return parse_rfc3339(order["next_attempt"]) if order["next_attempt"] else 0.0
        known = self._certificates.get(key)
        return renewal(parse_rfc3339(known["not_before"]), parse_rfc3339(known["not_after"]), self._acme.renew_before) if known else 0.0

    def _run(self, key: tuple[str, str]) -> None:
        from proxyd.certs.ca import OrderFailed

        try:
            self._obtain(*key)
        except OrderFailed as failure:
            self._fail(key, failure)
        except StoreError as error:
            log.warning("the order for %s goes on later: %s", key[0], error)
        except Exception:
            log.exception("the order for %s failed", key[0])
            self._fail(key, OrderFailed("an error inside proxyd; its log has the details"))
        finally:
            self._running.pop(key, None)
            if key in self._dues:
                self._dues[key] = self._due(key)
            self._job.wake()

    def _obtain(self, domain: str, kind: str) -> None:
        from proxyd.certs.ca import Hooks, new_key

        assert self._box is not None
        ca = self._authority()
        order = self._orders.get((domain, kind)) or _order(domain, kind)
        if not order["private_key"]:
            order = {**order, "private_key": self._box.lock(in_thread(self._pool, new_key, kind))}
        self._note({**order, "state": "ordering", "next_attempt": None})
        private = self._box.unlock(order["private_key"])

        def placed(url: str) -> None:
            self._note({**self._orders[domain, kind], "order_url": url})

        def post(token: str, answer: str) -> None:
            self._note({**self._orders[domain, kind], "challenge": "http-01"})
            self._tell(self._store.call(rows.post_challenge, token, answer, domain, time.time(), durable=True))

        def end(token: str) -> None:
            self._board.post_certificates(self._store.call(rows.end_challenge, token))

        def record(action: str, name: str, value: str) -> None:
            if action == "present":
                self._note({**self._orders[domain, kind], "challenge": "dns-01"})
            self._record(action, name, value)

        chain = ca.obtain(domain, private, order["order_url"], Hooks(post, end, placed, record))
        self._keep(domain, kind, chain, order["private_key"])
        self._orders.pop((domain, kind), None)
        self.obtained += 1
        row = self._certificates[domain, kind]
        log.info("certificate for %s by %s, valid until %s", domain, row["issuer"], row["not_after"])
        self._publish(domain)

    def _record(self, action: str, name: str, value: str) -> None:
        """Run the operator's program for a TXT record. Raises OrderFailed, but for a record that could not be taken away."""
        from proxyd.certs.ca import OrderFailed

        command = [*shlex.split(self._acme.dns_command), action, name, value]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_COMMAND_SECONDS, check=False)
            said = done.stderr[-300:].decode(errors="replace").strip()
            trouble = f"exit status {done.returncode}: {said}" if done.returncode else ""
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            trouble = str(error)[:300]
        if not trouble:
            return
        if action == "present":
            raise OrderFailed(f"dns-01: [acme] dns_command failed: {trouble}", challenge="dns-01")
        log.warning("[acme] dns_command cleanup of %s failed: %s", name, trouble)

    def _authority(self) -> Any:
        """The CA with our account, which is made at the first order."""
        from proxyd.certs.ca import Authority, new_key

        assert self._box is not None
        with self._ca_lock:
            if self._ca is None:
                directory = self._acme.directory
                known = self._store.read(rows.account, directory)
                if known is None:
                    known = {"directory": directory, "url": "", "private_key": self._box.lock(new_key("ecdsa256"))}
                    # Before the account is made: one whose key was lost would be nobody's.
                    self._store.call(rows.keep_account, known, durable=True)
                ca = Authority(self._acme, self._box.unlock(known["private_key"]), known["url"])
                if ca.url != known["url"]:
                    self._store.call(rows.keep_account, {**known, "url": ca.url}, durable=True)
                self._ca = ca
        return self._ca

    def _keep(self, domain: str, kind: str, chain: str, locked: str) -> None:
        leaf = x509.load_pem_x509_certificate(chain.encode())
        issuer = leaf.issuer.get_attributes_for_oid(NameOID.ORGANIZATION_NAME) or leaf.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
        row = {"domain": domain, "key_type": kind, "chain": chain, "private_key": locked, "serial": f"{leaf.serial_number:x}",
               "issuer": str(issuer[0].value) if issuer else "", "not_before": rfc3339(leaf.not_valid_before_utc.timestamp()),
               "not_after": rfc3339(leaf.not_valid_after_utc.timestamp())}
        version = self._store.call(rows.keep, row, durable=True)
        self._certificates[domain, kind] = {name: value for name, value in row.items() if name not in ("chain", "private_key")}
        self._tell(version)

    def _tell(self, version: int) -> None:
        """Post a version, and wait until the workers have it: those of this host by the board, others by their poll."""
        self._board.post_certificates(version)
        until = time.monotonic() + _WORKERS_SECONDS
        while self._board.without_certificates(version) and time.monotonic() < until:
            gevent.sleep(0.005)
        if self._store.path is None:
            gevent.sleep(self._settings.database.poll)

    def _fail(self, key: tuple[str, str], failure: Any) -> None:
        order = self._orders.get(key) or _order(*key)
        attempts = order["attempts"] + 1
        pause = max(failure.retry_after, backoff(attempts))
        if failure.limited:
            self._rested_until = time.time() + min(pause, _LONGEST)
        # A failed order leads nowhere: the next attempt begins anew.
        row = {**order, "state": "failed", "order_url": "", "challenge": failure.challenge or order["challenge"], "error": str(failure),
               "attempts": attempts, "next_attempt": rfc3339(time.time() + pause)}
        self.failed += 1
        log.error("no certificate for %s: %s; tried again at %s%s", key[0], failure, row["next_attempt"],
                  ", the one that it has stays" if key in self._certificates else "")
        try:
            self._note(row)
            self._publish(key[0])
        except StoreError as error:
            self._orders[key] = row
            log.warning("that is not written: %s", error)

    def _note(self, row: dict[str, Any]) -> None:
        self._store.call(rows.note_order, row, durable=True)
        self._orders[row["domain"], row["key_type"]] = row

    def _publish(self, domain: str) -> None:
        found = self._store.read(rows.status, [domain], time.time())[0]
        self._bus.publish("certificate_changed", found)


def _order(domain: str, kind: str) -> dict[str, Any]:
    return {"domain": domain, "key_type": kind, "state": "ordering", "order_url": "", "private_key": "", "challenge": "", "error": "",
            "attempts": 0, "next_attempt": None}


def renewal(begins: float, ends: float, before: float) -> float:
    """When a certificate is renewed: a third of its lifetime before its end, or `before`, but not before half of it is over. Unix
    seconds."""
    lifetime = ends - begins
    return ends - (min(before, lifetime / 2) if before else lifetime / 3)


def backoff(attempts: int) -> float:
    """Seconds until the next attempt after so many failed ones, with jitter, so that names that failed together do not come back
    together."""
    return min(_FIRST * _GROWTH ** min(attempts - 1, 10), _LONGEST) * random.uniform(0.8, 1.2)
