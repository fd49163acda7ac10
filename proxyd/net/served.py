"""The certificates of a worker that come from the database: a TLS context for each name, made at its first handshake."""

from __future__ import annotations

import datetime
import re
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import gevent.event

from proxyd.base.urls import is_local_name
from proxyd.net.tls import Trust, load_pem
from proxyd.net.tlsalpn import PROTOCOL, proof

if TYPE_CHECKING:
    from proxyd.net.localca import LocalAuthority

#: Contexts that are kept; the longest unused go first.
_MOST = 2000
#: Seconds after which the local CA signs a name anew.
_LOCAL_SECONDS = 7 * 86400.0
_NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")


class Served:
    """`blank` makes a context without a certificate, for those who are asked for theirs or not, and `known` tells whether a route names a
    host. `patience`: longest time, in seconds, that a handshake waits for the first certificate of its name."""

    def __init__(self, blank: Callable[[Trust | None], ssl.SSLContext], known: Callable[[str], bool], patience: float = 0.0) -> None:
        self._blank = blank
        self._known = known
        self._patience = patience
        #: Names whose first certificate is on order, and what handshakes for them wait for.
        self._ordered: dict[str, gevent.event.Event] = {}
        self._trust = Trust()
        self._pairs: dict[str, dict[str, tuple[str, str]]] = {}
        self._local: LocalAuthority | None = None
        self._contexts: dict[tuple[str, bool], tuple[ssl.SSLContext, float]] = {}
        self._proof_contexts: dict[tuple[str, str], ssl.SSLContext] = {}
        #: What a CA is shown by tls-alpn-01 (RFC 8737), by name; empty where nothing is on order.
        self.proofs: Mapping[str, str] = {}

    @property
    def names(self) -> frozenset[str]:
        """The names that have a certificate of a CA, wildcards among them."""
        return frozenset(self._pairs)

    def take(self, fresh: Mapping[tuple[str, str], tuple[str, str]], there: Iterable[tuple[str, str]],
             local: LocalAuthority | None) -> None:
        """Take up certificates: `fresh` ones as (chain, key) by name and kind of key, all of those that are `there` to stay."""
        stay = set(there)
        self._pairs = {
            name: kept for name, kinds in self._pairs.items()
            if (kept := {kind: pair for kind, pair in kinds.items() if (name, kind) in stay})}
        for (name, kind), pair in fresh.items():
            self._pairs.setdefault(name, {})[kind] = pair
        self._local = local or self._local
        self._contexts.clear()

    def trust(self, trust: Trust) -> None:
        """Take certificates of clients by these CAs from now on."""
        self._trust = trust
        self._contexts.clear()

    def prove(self, proofs: Mapping[str, str]) -> None:
        """Prove these names from now on, and no others: key authorizations by name."""
        self.proofs = proofs
        self._proof_contexts = {key: context for key, context in self._proof_contexts.items() if proofs.get(key[0]) == key[1]}

    def proof_for(self, name: str) -> ssl.SSLContext | None:
        """The context for a CA that wants a name proved; None: it is not on order. Raises CertificateError."""
        answer = self.proofs.get(name)
        if answer is None:
            return None
        found = self._proof_contexts.get((name, answer))
        if found is None:
            found = self._blank(None)
            load_pem(found, "".join(proof(name, answer, datetime.datetime.now(datetime.UTC))).encode(), f"that proves {name}")
            found.set_alpn_protocols([PROTOCOL])
            self._proof_contexts[name, answer] = found
        return found

    def expect(self, ordered: Iterable[str]) -> None:
        """These names are on order for the first time, and no others: who waited for another one waits no more."""
        before = self._ordered
        self._ordered = {name: before.get(name) or gevent.event.Event() for name in ordered} if self._patience else {}
        for name in before.keys() - self._ordered.keys():
            before[name].set()

    @property
    def patience(self) -> float:
        """Longest time, in seconds, that a handshake which begins now waits for a certificate; 0 where nothing is on order."""
        return self._patience if self._ordered else 0.0

    def await_order(self, name: str) -> None:
        """Wait until the first order of a name has come to its end, good or bad, but not for longer than it is patient."""
        awaited = self._ordered.get(name) or self._ordered.get("*." + name.partition(".")[2])
        if awaited is not None and not self.covers(name):
            awaited.wait(self._patience)

    def covers(self, host: str) -> bool:
        """Whether a host has a certificate of a CA."""
        return host in self._pairs or "*" + host[max(0, host.find(".")):] in self._pairs

    def context_for(self, name: str, asked: bool = False) -> ssl.SSLContext | None:
        """The context for a name that a client asks for, in lower case, or an address; None: it is nobody's name. `asked`: the handshake
        asks for the client's certificate, by which the context is to judge it."""
        wildcard = "*." + name.partition(".")[2]
        key = (name if name in self._pairs or wildcard not in self._pairs else wildcard, asked)
        found = self._contexts.pop(key, None)
        if found is None or found[1] < time.monotonic():
            found = self._make(*key)
        if found is None:
            return None
        self._contexts[key] = found
        if len(self._contexts) > _MOST:
            del self._contexts[next(iter(self._contexts))]
        return found[0]

    def _make(self, name: str, asked: bool) -> tuple[ssl.SSLContext, float] | None:
        pairs = self._pairs.get(name)
        until = float("inf")
        if pairs is None:
            address = ":" in name
            if self._local is None or len(name) > 253 or not (address or _NAME.fullmatch(name)):
                return None
            if not (address or is_local_name(name) or self._known(name)):
                return None
            pairs = {"": self._local.issue(name, datetime.datetime.now(datetime.UTC))}
            until = time.monotonic() + _LOCAL_SECONDS
        context = self._blank(self._trust if asked else None)
        for chain, key in pairs.values():
            load_pem(context, (key + chain).encode(), f"for {name}")
        return context, until
