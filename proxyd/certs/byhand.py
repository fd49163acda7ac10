"""What an operator does with certificates: renew, revoke, import, remove. Raises Conflict for what can't be done now, ValueError for what
never can, StoreError."""

from __future__ import annotations

import datetime
import logging
import re
from typing import Any, Protocol

from proxyd.base.revocation import REASONS
from proxyd.base.urls import normalize_domain
from proxyd.certs.schedule import Key
from proxyd.certs.shelf import Shelf
from proxyd.registry.ends import Conflict
from proxyd.store.sql import certhistory
from proxyd.store.sql import certificates as rows
from proxyd.store.sql.database import Store

log = logging.getLogger("proxyd.certs")

#: Most names of a certificate that is imported.
_MOST_NAMES = 100
_PRIVATE = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----\s*", re.DOTALL)


class Ordering(Protocol):
    """What is needed of the orders."""

    def rests(self) -> float: ...

    def order_now(self, domain: str) -> bool: ...

    def authority(self) -> Any: ...

    def publish(self, domain: str) -> None: ...


class ByHand:
    """`enabled`: whether [acme] is on."""

    def __init__(self, enabled: bool, store: Store, shelf: Shelf, orders: Ordering) -> None:
        self._enabled = enabled
        self._store = store
        self._shelf = shelf
        self._orders = orders

    def renew(self, domain: str, actor: str) -> None:
        """Order anew, now, whatever has failed before. The order goes on in the background."""
        name = self._name(domain)
        if (left := self._orders.rests()) > 0:
            raise Conflict(f"the CA wants no orders, or can't be reached: none for another {left:.0f} s")
        if not self._orders.order_now(name):
            raise Conflict(f"no live route that [acme] orders certificates for names {name}")
        log.info("%s: the certificate for %s is ordered anew", actor, name)

    def revoke(self, domain: str, reason: str, actor: str) -> None:
        """Have the CA revoke the certificates for a name, and show them no more. Where a route still wants one, it is ordered with another
        key."""
        from proxyd.certs.proofs import OrderFailed

        name = self._name(domain)
        if reason not in REASONS:
            raise ValueError(f'"{reason}" is no reason (known: {", ".join(REASONS)})')
        for key in self._there(name):
            try:
                self._orders.authority().revoke(self._store.read(rows.chain, *key), REASONS[reason])
            except OrderFailed as failure:
                raise Conflict(f"not revoked: {failure}") from None
            log.warning("%s: the certificate for %s (%s) is revoked: %s", actor, name, self._shelf.certificates[key]["serial"], reason)
            self._shelf.drop(*key, certhistory.REVOKED, actor, reason)
        self._orders.order_now(name)
        self._orders.publish(name)

    def remove(self, domain: str, actor: str) -> None:
        """Show the certificates for a name no more, without a word to the CA: for imported ones."""
        name = self._name(domain)
        for key in self._there(name):
            self._shelf.drop(*key, certhistory.REMOVED, actor)
            log.info("%s: the certificate for %s is removed", actor, name)
        self._orders.order_now(name)
        self._orders.publish(name)

    def take(self, pem: str, actor: str) -> list[str]:
        """Take a chain with its key up, for all its names, in place of certificates with the same kind of key. Returns the names."""
        from cryptography.hazmat.primitives.asymmetric import rsa
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        self._open()
        chain, key, names = read_pair(pem, datetime.datetime.now(datetime.UTC))
        kind = "rsa2048" if isinstance(load_pem_private_key(key.encode(), None), rsa.RSAPrivateKey) else "ecdsa256"
        for name in names:
            self._shelf.keep(name, kind, chain, self._shelf.lock(key), certhistory.IMPORTED, actor)
            self._orders.publish(name)
        log.info("%s: a certificate for %s is imported", actor, ", ".join(names))
        return names

    def _name(self, domain: str) -> str:
        self._open()
        return normalize_domain(domain)

    def _open(self) -> None:
        if not self._enabled:
            raise Conflict("certificates are kept by [acme], which is not enabled, or [tls] bind is empty")
        if not self._shelf.is_open:
            raise Conflict("the certificates are not there yet: the master has just started, or its log says why")

    def _there(self, name: str) -> list[Key]:
        found = [key for key in self._shelf.certificates if key[0] == name]
        if not found:
            raise Conflict(f"there is no certificate for {name} (proxyctl certs lists them)")
        return found


def read_pair(pem: str, now: datetime.datetime) -> tuple[str, str, list[str]]:
    """Chain, key and names of a PEM text with a certificate, those of its issuers, and its key, in any order. Raises ValueError."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

    from proxyd.certs.chains import check_chain
    from proxyd.certs.proofs import OrderFailed

    found = _PRIVATE.search(pem)
    if found is None:
        raise ValueError("there is no private key in it (append the key to the chain)")
    try:
        key = load_pem_private_key(found[0].encode(), None)
    except TypeError:
        raise ValueError("its key is encrypted; store it without: openssl pkey -in FILE") from None
    except ValueError as error:
        raise ValueError(f"its key can't be read: {error}") from None
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise ValueError("its key is neither RSA nor ECDSA")
    rest = _PRIVATE.sub("", pem)
    try:
        certificates = x509.load_pem_x509_certificates(rest.encode())
        alternatives = certificates[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        raise ValueError("there is no certificate with names in it") from None
    names = [normalize_domain(name) for name in alternatives.get_values_for_type(x509.DNSName)]
    if not 0 < len(names) <= _MOST_NAMES:
        raise ValueError(f"it has {len(names)} names; from 1 to {_MOST_NAMES} can be imported")
    chain = "".join(one.public_bytes(Encoding.PEM).decode() for one in certificates)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    try:
        check_chain(chain, alternatives.get_values_for_type(x509.DNSName)[0].lower(), private, now)
    except OrderFailed as failure:
        raise ValueError(str(failure)) from None
    return chain, private, names
