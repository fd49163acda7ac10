"""Caps of what one client may have open on this host, over all workers: connections, and requests in flight.

A client is an address, for IPv6 a /64. Addresses of trusted proxies are not capped, because many clients come from them. The clients
behind them are, for their requests.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from proxyd.base.attempts import subject
from proxyd.config.settings import Settings
from proxyd.proxy.core.refusal import Refusal, refuse
from proxyd.store.memory.counts import CLIENTS, HostCounts
from proxyd.store.memory.shared import CLIENTS as FILE

if TYPE_CHECKING:
    from proxyd.proxy.core.exchange import Exchange

_AGAIN = (("Retry-After", "1"),)
#: The answers to a connection of a front that does not say whose it is, and to one that `connect` does not count.
NOT_PROXIED = refuse("proxy_protocol", "the connection does not begin with a sound header of the PROXY protocol")
CROWDED = refuse("client_connections", "too many connections from this address", _AGAIN)


class ClientCaps:
    """The caps of one worker. Create it after the fork. `counts`: the shared memory. `trusts`: whether an address is that of a trusted
    proxy."""

    def __init__(self, settings: Settings, directory: str, trusts: Callable[[str], bool]) -> None:
        self._connections = settings.proxy.max_connections_per_client
        self._requests = settings.proxy.max_requests_per_client
        self._trusts = trusts
        self.counts = HostCounts(directory, FILE, CLIENTS)
        self._entered: dict[Exchange, int] = {}
        self._key = lru_cache(maxsize=16384)(self._key_of)

    def connect(self, peer: str) -> int | None:
        """Count a connection. Returns the number to `disconnect` with (0: it is not counted), or None if the client has too many."""
        key = self._key(peer, "connection") if self._connections else 0
        return key if not key or self.counts.reserve(key, self._connections) else None

    def disconnect(self, number: int) -> None:
        """The connection has ended."""
        if number:
            self.counts.release(number)

    def enter(self, ex: Exchange) -> Refusal | None:
        """Count a request until `end`. Returns a refusal if the client has too many in flight."""
        key = self._key(ex.client_ip, "request") if self._requests else 0
        if not key:
            return None
        if not self.counts.reserve(key, self._requests):
            return refuse("client_requests", f"more than {self._requests} requests in flight from this address", _AGAIN)
        self._entered[ex] = key
        return None

    def end(self, ex: Exchange) -> None:
        """The request has ended. Harmless if it was not counted."""
        key = self._entered.pop(ex, 0)
        if key:
            self.counts.release(key)

    def _key_of(self, address: str, what: str) -> int:
        """The number that stands for a client, 0 for one that is not capped."""
        try:
            ipaddress.ip_address(address)
        except ValueError:
            # The peer of a UNIX socket. Nobody knows who that is.
            return 0
        if self._trusts(address):
            return 0
        return int.from_bytes(hashlib.blake2b(f"{what} {subject(address)}".encode(), digest_size=8).digest()) or 1


def client_caps(settings: Settings, directory: str, trusts: Callable[[str], bool]) -> ClientCaps | None:
    """The caps, or None if the settings have none."""
    proxy = settings.proxy
    return ClientCaps(settings, directory, trusts) if proxy.max_connections_per_client or proxy.max_requests_per_client else None
