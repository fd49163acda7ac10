"""Certificates of the HTTPS listener, from files: loaded, chosen by SNI and by what a client knows, reloaded when their files change.

A file that can't be loaded is a clear message, and the last good content stays; handshakes never touch a file.
"""

from __future__ import annotations

import hashlib
import logging
import ssl
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from proxyd.config.sections import TlsSettings
from proxyd.net import tickets
from proxyd.net.clientcert import read_trust
from proxyd.net.hello import peek_hello
from proxyd.net.tls import Certificate, CertificateError, Files, Trust, load_pem, read_pem, server_context
from proxyd.net.tlsalpn import wants_proof

log = logging.getLogger("proxyd.tls")


class MoreCertificates(Protocol):
    """Where names are looked up that no file has, what proves names to a CA by tls-alpn-01, and what is worth a wait."""

    @property
    def proofs(self) -> Mapping[str, str]: ...

    @property
    def patience(self) -> float: ...

    def await_order(self, name: str) -> None: ...

    def context_for(self, name: str, asked: bool = False) -> ssl.SSLContext | None: ...

    def proof_for(self, name: str) -> ssl.SSLContext | None: ...

    def trust(self, trust: Trust) -> None: ...


class Certificates:
    """The certificates of a worker, each file for itself: one that can't be loaded is named in the log, and what it held before
    stays in use. `context` is for new connections, None where no file could be loaded; SNI picks the certificate, the first is
    the default. For a name in files with several kinds of keys, each client is shown one that it knows. `more`: asked for names that
    no file has. `asks`: whether clients of a name are asked for a certificate."""

    def __init__(self, tls: TlsSettings, more: MoreCertificates | None = None, asks: Callable[[str], bool] = lambda _: False,
                 secret: str = "") -> None:
        """`secret`: file of the secret of session tickets; empty: each context has its own."""
        self._tls = tls
        self._paths = paths = tls.certificates
        self._more = more
        self._asks = asks
        self._trusted = Trust()
        #: When a list of revoked certificates is out of date, in Unix seconds; inf once that is told.
        self._lists_end = float("inf")
        self._secret = secret
        self._by_name: dict[str, ssl.SSLContext] = {}
        self._loaded: dict[str, tuple[Certificate, bytes]] = {}
        self._files = Files((*paths, *filter(None, (tls.client_ca, tls.client_crl, secret))))
        self.context: ssl.SSLContext | None = None
        #: The same for those who are asked for a certificate: that is settled when a handshake begins. None without a CA for them.
        self._asking: ssl.SSLContext | None = None
        self._trust()
        self._load(paths)
        if self.context is None and more is not None:
            self._arrange()

    def refresh(self, now: float) -> None:
        """Load the files that changed anew; at most every few seconds. `now`: time.monotonic()."""
        changed = self._files.changed(now)
        if self._secret in changed:
            changed.remove(self._secret)
            self._share_tickets()
        of_clients = [path for path in changed if path in (self._tls.client_ca, self._tls.client_crl)]
        changed = [path for path in changed if path not in of_clients]
        if of_clients and self._trust():
            log.info("the CAs of clients are read again")
            if self.context is not None:
                self._arrange()
        if time.time() > self._lists_end:
            self._lists_end = float("inf")
            log.error("a list of revoked certificates in %s is out of date: no client of its CA is let in", self._tls.client_crl)
        if changed and self._load(changed):
            log.info("certificates reloaded")

    def begin(self, sock: Any) -> tuple[ssl.SSLContext | None, bool]:
        """The context for a handshake that begins on a socket, and whether it asks for a certificate. None: there is none. Where that
        depends on the client's first message, it is waited for, and so is the first certificate of a name that is on order (`patience`).
        Raises OSError, CertificateError."""
        more = self._more
        if self._asking is None and (more is None or not (more.proofs or more.patience)):
            return self.context, False
        hello = peek_hello(sock)
        if hello is None:
            return self.context, False
        if more is not None and wants_proof(hello):
            if (proof := more.proof_for(hello.name)) is not None:
                return proof, False
        elif more is not None and more.patience and hello.name and self._of_files(hello.name) is None:
            more.await_order(hello.name)
        if self._asking is not None and hello.name and self._asks(hello.name):
            return self._asking, True
        return self.context, False

    @property
    def patience(self) -> float:
        """Seconds that a handshake which begins now may take longer than another one, since it may wait for a certificate."""
        return self._more.patience if self._more is not None else 0.0

    def _trust(self) -> bool:
        """Read the CAs of clients; whether that could be done."""
        if not self._tls.client_ca:
            return False
        try:
            self._trusted, self._lists_end = read_trust(self._tls)
        except CertificateError as error:
            log.error("%s; %s", error, "those read before stay in use" if self._trusted.authorities else "no client's certificate is good")
            return False
        if self._more is not None:
            self._more.trust(self._trusted)
        return True

    def _load(self, paths: Sequence[str]) -> bool:
        """Load files; whether one could be."""
        changed = False
        for path in paths:
            try:
                found = read_pem(path)
                load_pem(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), found[1], path)
                self._loaded[path] = found
                changed = True
            except CertificateError as error:
                log.error("%s; %s", error, "the one loaded before stays in use" if path in self._loaded else "it is not used")
        if changed:
            self._arrange()
        return changed

    def _arrange(self) -> None:
        """Make the contexts: names with the same files share one. Without a file, the first one has no certificate."""
        known = [self._loaded[path][0] for path in self._paths if path in self._loaded]
        made: dict[tuple[str, ...], ssl.SSLContext] = {}

        def context(paths: tuple[str, ...]) -> ssl.SSLContext:
            if paths not in made:
                made[paths] = self._context(paths)
            return made[paths]

        shown = by_kind(known)
        paths: tuple[str, ...] = ()
        if known:
            paths = tuple(shown[known[0].names[0]].values()) if known[0].names else (known[0].path,)
        self.context = context(paths)
        if self._trusted.authorities:
            self._asking = self._context(paths)
            self._asking.verify_mode = ssl.CERT_OPTIONAL
        self._by_name = {name: context(tuple(kinds.values())) for name, kinds in shown.items()}
        self._share_tickets()

    def _share_tickets(self) -> None:
        """Encrypt session tickets as the other workers do. All handshakes begin in one of these contexts, whose tickets are those of the
        connection. Who was not asked for a certificate, or by another CA or list, must not resume as one who was."""
        secret = tickets.read(self._secret) if self._secret else None
        if secret is None:
            return
        for context, label in ((self.context, b""), (self._asking, b"asked by " + hashlib.sha256(b"".join(self._trusted)).digest())):
            if context is not None:
                tickets.use(context, secret, label)

    def _context(self, paths: tuple[str, ...]) -> ssl.SSLContext:
        context = server_context(self._tls, self._trusted)
        for path in paths:
            load_pem(context, self._loaded[path][1], path)
        context.sni_callback = self._choose
        return context

    def _choose(self, sock: Any, name: str | None, context: ssl.SSLContext) -> int | None:
        """Exact name, then `*.` of its parent, then what is not in a file, else the default certificate stays (RFC 6066 3)."""
        if not name:
            self._unnamed(sock)
            return None
        name = name.lower()
        chosen = self._of_files(name)
        if chosen is None and self._more is not None:
            try:
                chosen = self._more.context_for(name, context.verify_mode != ssl.CERT_NONE)
            except CertificateError as error:
                log.error("no certificate for %s: %s", name, error)
            if chosen is None and not self._loaded:
                return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        if chosen is not None and chosen is not context:
            sock.context = chosen
        return None

    def _of_files(self, name: str) -> ssl.SSLContext | None:
        return self._by_name.get(name) or self._by_name.get("*." + name.partition(".")[2])

    def _unnamed(self, sock: Any) -> None:
        """A client that names nobody, and asks for the address that it connected to: a file's certificate, else one for that address."""
        if self._loaded or self._more is None:
            return
        address = sock.getsockname()
        chosen = self._more.context_for(address[0].removeprefix("::ffff:")) if isinstance(address, tuple) else None
        if chosen is not None:
            sock.context = chosen


def by_kind(certificates: Iterable[Certificate]) -> dict[str, dict[str, str]]:
    """For each name, the file that is shown for each kind of key: the first one that has it."""
    found: dict[str, dict[str, str]] = {}
    for certificate in certificates:
        for name in certificate.names:
            found.setdefault(name, {}).setdefault(certificate.kind, certificate.path)
    return found
