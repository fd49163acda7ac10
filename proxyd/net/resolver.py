"""Names to addresses, for workers and the master alike: cached by TTL, one query in flight for a name, all of it bounded.

gevent's own resolver asks getaddrinfo in ten threads, and a few names that do not resolve hold all ten for seconds: then
no name resolves for anybody. Here a name waits only for itself. Literals, `localhost` (RFC 6761 6.3) and /etc/hosts never
wait; everything else is asked over DNS by dnspython, with the name servers of /etc/resolv.conf or of `[dns] servers`.
Other sources of nsswitch.conf (mDNS, LDAP) are not asked.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import dns.exception
import dns.nameserver
import dns.query
import dns.resolver
import gevent
from gevent.event import Event

log = logging.getLogger("proxyd.dns")

#: Names kept at most; the one that was not asked for longest makes room.
NAMES_AT_MOST = 4096
#: Queries in flight at most: what is more is refused at once.
QUERIES_AT_MOST = 256
#: Addresses of a name that are used at most.
ADDRESSES_AT_MOST = 16
#: Bounds for what an answer's TTL says, in seconds: 0 would ask for each connection, a week would outlive a move.
LEAST_TTL, MOST_TTL = 1.0, 300.0
#: How long a name is remembered as one that does not exist, or whose servers gave no answer (RFC 2308 7).
MISSING_SECONDS, FAILED_SECONDS = 5.0, 2.0
#: How long old addresses are used while no name server answers (RFC 8767 5).
STALE_SECONDS = 3600.0
#: How long an answer with IPv4 addresses waits for the IPv6 ones (RFC 8305 3), seconds.
RESOLUTION_DELAY = 0.05
#: How often /etc/hosts is looked at, seconds.
_HOSTS_SECONDS = 1.0
#: What a query may take longer than its time until its verdict is there, seconds.
_SPARE = 0.1
_LOCALHOST = ("127.0.0.1", "::1")


class ResolveError(socket.gaierror):
    """A name that has no address now; the text says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(socket.EAI_NONAME, reason)


@dataclass(slots=True)
class _Name:
    """What is known of a name. Instants are monotonic seconds.

    `addresses` is what is tried, `error` why the last query gave none: with both, the addresses are old ones. `asked` is set
    while a query is in flight; `answers` and `errors` are that query's, by record type: addresses with their expiry, and why not.
    """

    addresses: tuple[str, ...] = ()
    error: str = ""
    expires: float = 0.0
    learnt: float = 0.0
    asked: Event | None = None
    answers: dict[str, tuple[tuple[str, ...], float]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def settle(self, key: str, now: float) -> None:
        """Draw the conclusion from what has been answered so far: half an answer that has addresses is enough."""
        answers, errors = self.answers, self.errors
        found = _in_turn(*(answers.get(kind, ((), 0.0))[0] for kind in ("AAAA", "A")))
        if found:
            self.addresses, self.error, self.learnt = found, "", now
            self.expires = min(expires for _, expires in answers.values())
        elif len(answers) + len(errors) < 2:
            return
        elif errors:
            if self.addresses and not self.error:
                log.warning("%s: %s; its old addresses are used", key, next(iter(errors.values())))
            self.error, self.expires = next(iter(errors.values())), now + FAILED_SECONDS
        else:
            self.addresses, self.error = (), "the name has no address"
            self.expires = min(expires for _, expires in answers.values())


class Resolver:
    """A cache in front of DNS. It belongs to one process, and its waits let other greenlets run where the standard library
    is monkey-patched, as it is in workers and in the master.

    `servers` are addresses with ports, none for those of /etc/resolv.conf; `timeout` is seconds for a name in all.
    """

    def __init__(self, servers: Sequence[tuple[str, int]] = (), timeout: float = 2.0, hosts_file: str = "/etc/hosts") -> None:
        self._servers = tuple(servers)
        self._timeout = timeout
        self._hosts_file = hosts_file
        self._hosts: dict[str, tuple[str, ...]] = {}
        self._hosts_stamp: tuple[float, int] = (-1.0, -1)
        self._hosts_looked = 0.0
        self._names: OrderedDict[str, _Name] = OrderedDict()
        self._in_flight = 0
        self._no_answer = f"no name server gave an answer within {timeout:g} s"

    def addresses(self, host: str) -> tuple[str, ...]:
        """The addresses to try for a host, in order: IPv6 and IPv4 in turn (RFC 8305 4).

        Raises ResolveError where there are none, a moment after `timeout` seconds at the latest.
        """
        known = self.known(host)
        if known is not None:
            return known
        key = _key(host)
        name = self._names[key]
        if name.asked is None and not self._ask(key, name):
            if name.addresses and time.monotonic() - name.learnt < MOST_TTL + STALE_SECONDS:
                # Somebody else's names take all the queries. What was true a moment ago is better than nothing.
                return name.addresses
            raise ResolveError("too many names are being resolved")
        asked = name.asked
        if asked is not None:
            asked.wait(self._timeout + _SPARE)
        if name.addresses:
            return name.addresses
        raise ResolveError(name.error or self._no_answer)

    def known(self, host: str) -> tuple[str, ...] | None:
        """The addresses that are known without waiting, None where a query is needed. Raises ResolveError for a name that
        failed a moment ago."""
        if _is_literal(host):
            return (host,)
        key = _key(host)
        listed = self._listed(key)
        if listed:
            return listed
        if key == "localhost" or key.endswith(".localhost"):
            return _LOCALHOST
        if key == "invalid" or key.endswith(".invalid"):
            raise ResolveError("names below .invalid have no address (RFC 6761 6.4)")
        now = time.monotonic()
        name = self._names.get(key)
        if name is None:
            self._names[key] = _Name()
            self._make_room()
            return None
        self._names.move_to_end(key)
        if now < name.expires:
            if name.addresses:
                return name.addresses
            raise ResolveError(name.error)
        if name.addresses and now - name.learnt < MOST_TTL + STALE_SECONDS and name.error:
            # The last query failed: what was true before is used, while one at a time asks again.
            if name.asked is None:
                self._ask(key, name)
            return name.addresses
        return None

    def prefer(self, host: str, address: str) -> None:
        """Let an address that answered be tried first as long as the name's answer holds, or what the hosts file says of it."""
        key = _key(host)
        name = self._names.get(key)
        if key in self._hosts:
            self._hosts[key] = _first(address, self._hosts[key])
        elif name is not None:
            name.addresses = _first(address, name.addresses)

    def _make_room(self) -> None:
        while len(self._names) > NAMES_AT_MOST:
            for key, name in self._names.items():
                if name.asked is None:
                    del self._names[key]
                    break
            else:
                return

    def _listed(self, key: str) -> tuple[str, ...]:
        """What the hosts file says of a name; the file is read again when it has changed."""
        now = time.monotonic()
        if now - self._hosts_looked >= _HOSTS_SECONDS or not self._hosts_looked:
            self._hosts_looked = now
            try:
                status = os.stat(self._hosts_file)
                stamp = (status.st_mtime, status.st_size)
                if stamp != self._hosts_stamp:
                    self._hosts = _read_hosts(self._hosts_file)
                    self._hosts_stamp = stamp
            except OSError:
                self._hosts, self._hosts_stamp = {}, (-1.0, -1)
        return self._hosts.get(key, ())

    def _ask(self, key: str, name: _Name) -> bool:
        """Begin a query for a name; False where too many are under way."""
        if self._in_flight >= QUERIES_AT_MOST:
            return False
        self._in_flight += 1
        name.asked = Event()
        name.answers, name.errors = {}, {}
        gevent.spawn(self._query, key, name, name.asked)
        return True

    def _query(self, key: str, name: _Name, asked: Event) -> None:
        """Ask for both kinds of address side by side; who waits is woken as soon as there is something to connect to."""
        answers, errors = name.answers, name.errors
        try:
            four, six = (gevent.spawn(self._query_type, key, kind, name, answers, errors) for kind in ("A", "AAAA"))
            four.join()
            six.join(RESOLUTION_DELAY if answers.get("A", ((), 0.0))[0] else None)
        finally:
            self._in_flight -= 1
            name.asked = None
            asked.set()

    def _query_type(self, key: str, kind: str, name: _Name, answers: dict[str, tuple[tuple[str, ...], float]],
                    errors: dict[str, str]) -> None:
        """Ask for one kind of address. An answer that comes when nobody waits any more is taken over too."""
        now = time.monotonic
        try:
            answer = self._client().resolve(key, kind, search=True, lifetime=self._timeout)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            answers[kind] = (), now() + MISSING_SECONDS
        except (dns.exception.Timeout, dns.resolver.NoNameservers, OSError):
            errors[kind] = self._no_answer
        except dns.exception.DNSException as problem:
            errors[kind] = f"the name can't be asked for: {problem or type(problem).__name__}"
        else:
            found = tuple(dict.fromkeys(record.address for record in answer))[:ADDRESSES_AT_MOST]
            ttl = float(answer.rrset.ttl) if answer.rrset is not None else 0.0
            answers[kind] = found, now() + min(max(ttl, LEAST_TTL), MOST_TTL)
        if answers is name.answers:
            name.settle(key, now())

    def _client(self) -> dns.resolver.Resolver:
        # Older ones keep the class that there was when they were imported, before gevent's patch.
        dns.query.socket_factory = socket.socket
        if not self._servers:
            return dns.resolver.Resolver()
        client = dns.resolver.Resolver(configure=False)
        client.nameservers = [dns.nameserver.Do53Nameserver(address, port) for address, port in self._servers]
        return client


def _key(host: str) -> str:
    """The name under which a host is kept."""
    return host.lower().rstrip(".")


def _is_literal(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return True
    return False


def _in_turn(six: tuple[str, ...], four: tuple[str, ...]) -> tuple[str, ...]:
    """IPv6 first, then in turn, so that a broken family costs one attempt's delay."""
    mixed: list[str] = []
    for place in range(max(len(six), len(four))):
        mixed += six[place : place + 1] + four[place : place + 1]
    return tuple(mixed[:ADDRESSES_AT_MOST])


def _first(address: str, addresses: tuple[str, ...]) -> tuple[str, ...]:
    """The same addresses with that one, if it is among them, in front."""
    if address not in addresses or addresses[0] == address:
        return addresses
    return (address, *(other for other in addresses if other != address))


def _read_hosts(path: str) -> dict[str, tuple[str, ...]]:
    """Names and their addresses, in the order of the file; lines that are none are passed over. Raises OSError."""
    found: dict[str, list[str]] = {}
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file.read(1 << 20).splitlines():
            words = line.split("#", 1)[0].split()
            if words and _is_literal(words[0]):
                for word in words[1:]:
                    found.setdefault(word.lower().rstrip("."), []).append(words[0])
    return {name: tuple(dict.fromkeys(addresses))[:ADDRESSES_AT_MOST] for name, addresses in found.items()}
