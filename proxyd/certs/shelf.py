"""Where certificates are kept: rows with encrypted keys, and the word to the workers of all hosts that there are new ones."""

from __future__ import annotations

import contextlib
import datetime
import os
import time
from typing import TYPE_CHECKING, Any

import gevent

from proxyd.base.text import rfc3339
from proxyd.certs.schedule import Key
from proxyd.config.settings import Settings
from proxyd.registry.otherhosts import OtherHosts
from proxyd.store.memory.board import Board
from proxyd.store.sql import certhistory, keybox
from proxyd.store.sql import certificates as rows
from proxyd.store.sql.database import Store, StoreError

if TYPE_CHECKING:
    from cryptography import x509

#: Longest wait, in seconds, for the workers to take certificates and challenges up.
_WORKERS_SECONDS = 5.0


class Shelf:
    """`certificates`: the rows without chains and keys, by name and kind of key. `others`: the hosts that share the database, None where
    none can. Call `open` before anything else."""

    def __init__(self, settings: Settings, store: Store, board: Board, others: OtherHosts | None = None) -> None:
        self._settings = settings
        self._store = store
        self._board = board
        self._others = others
        self._box: keybox.Keybox | None = None
        self.certificates: dict[Key, dict[str, Any]] = {}

    @property
    def is_open(self) -> bool:
        """Whether keys can be encrypted and decrypted."""
        return self._box is not None

    def open(self) -> None:
        """Open the key file, and read what is there. Raises StoreError, and KeyboxError for a file that is not the one of the database."""
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
            from proxyd.net import localca

            chain, key = localca.make(datetime.datetime.now(datetime.UTC))
            # Workers of the first start may have looked before; it is not worth a wait.
            self._board.post_certificates(self._write(rows.LOCAL_CA, "ecdsa256", chain, box.lock(key)))
        self.certificates = {(row["domain"], row["key_type"]): row for row in self._store.read(rows.certificates)}
        self._box = box

    def lock(self, secret: str) -> str:
        """A key, encrypted."""
        assert self._box is not None
        return self._box.lock(secret)

    def unlock(self, locked: str) -> str:
        """The key that `lock` was given. Raises KeyboxError."""
        assert self._box is not None
        return self._box.unlock(locked)

    def keep(self, domain: str, kind: str, chain: str, locked: str, what: str, actor: str = "", challenge: str = "") -> None:
        """Write a certificate, with its key encrypted, in place of the one before, and have the workers show it. `what` happened, who did
        it, and the challenge that proved its name are for the history. Raises StoreError."""
        self.tell(self._write(domain, kind, chain, locked, what, actor, challenge))

    def drop(self, domain: str, kind: str, what: str, actor: str, why: str = "") -> None:
        """Show it no more. `what` happened, who did it, and why are for the history. Raises StoreError."""
        known = self.certificates[domain, kind]
        told = certhistory.told(what, domain, kind, time.time(), actor=actor, why=why, **{
            name: known[name] for name in ("serial", "issuer", "not_before", "not_after")})
        version = self._store.call(rows.drop, domain, kind, told, durable=True)
        self.certificates.pop((domain, kind), None)
        self.tell(version)

    def tell(self, version: int) -> None:
        """Post a version, and wait until the workers of all hosts have it."""
        self._board.post_certificates(version)
        elsewhere = gevent.spawn(self._tell_others, version)
        until = time.monotonic() + _WORKERS_SECONDS
        while self._board.without_certificates(version) and time.monotonic() < until:
            gevent.sleep(0.005)
        elsewhere.join()

    def _tell_others(self, version: int) -> None:
        """Have the other hosts take a version up. One that can't be asked, like one of an older version, finds it by its poll."""
        if self._others is None:
            return
        with contextlib.suppress(StoreError):
            if self._others.ask({"kind": "certificates", "version": version}, _WORKERS_SECONDS):
                return
        gevent.sleep(self._settings.database.poll)

    def _write(self, domain: str, kind: str, chain: str, locked: str, what: str = "", actor: str = "", challenge: str = "") -> int:
        from cryptography import x509
        from cryptography.x509.oid import NameOID

        leaf = x509.load_pem_x509_certificate(chain.encode())
        issuer = leaf.issuer.get_attributes_for_oid(NameOID.ORGANIZATION_NAME) or leaf.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
        row = {"domain": domain, "key_type": kind, "chain": chain, "private_key": locked, "serial": f"{leaf.serial_number:x}",
               "issuer": str(issuer[0].value) if issuer else "", "not_before": rfc3339(leaf.not_valid_before_utc.timestamp()),
               "not_after": rfc3339(leaf.not_valid_after_utc.timestamp())}
        shown = {name: value for name, value in row.items() if name not in ("chain", "private_key")}
        about = {**shown, "actor": actor, "challenge": challenge}
        told = certhistory.told(what, names=_names(leaf), now=time.time(), **about) if what else None
        version: int = self._store.call(rows.keep, row, told, durable=True)
        self.certificates[domain, kind] = shown
        return version


def _names(leaf: x509.Certificate) -> list[str]:
    """The names in a certificate."""
    from cryptography import x509

    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name) for name in found.get_values_for_type(x509.DNSName)]
