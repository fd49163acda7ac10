"""Which addresses nobody may have the proxy connect to: networks of `[registry] deny_targets`, our own admin and registry, and UNIX sockets
that `[registry] unix_targets` does not name.

A client declares backends, checks and pages. Through the proxy it would reach what trusts this host: the metadata service of a cloud on
a link-local address, or the admin HTTP that lets loopback read. What is written as an address is refused when it is staged. A name is
looked at when it is resolved for a connection, since it may have another address by then.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Sequence
from functools import lru_cache

from proxyd.base.text import Network, split_address
from proxyd.base.urls import parse_backend, split_grpc_check
from proxyd.config.settings import Settings

_Ip = ipaddress.IPv4Address | ipaddress.IPv6Address
#: What `localhost` and the names below it mean (RFC 6761 6.3).
_LOOPBACK = ("127.0.0.1", "::1")


class TargetDenied(OSError):
    """No address of a target may be connected to; nothing was sent. The text says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EACCES, reason)


class Targets:
    """The rules of one process. `denied`: networks. `own`: what a port of ours is, and where it listens; None is any address of
    this host. `unix`: UNIX sockets that may be targets, and directories of such."""

    def __init__(self, denied: Sequence[Network] = (), own: Sequence[tuple[str, str]] = (), unix: Sequence[str] = ()) -> None:
        self._denied = tuple(denied)
        self._unix = tuple(unix)
        self._own_sockets = {os.path.abspath(bind.removeprefix("unix:")): what for what, bind in own if bind.startswith("unix:")}
        self._own: dict[int, list[tuple[str, _Ip | None]]] = {}
        for what, bind in own:
            if not bind.startswith("unix:"):
                host, port = split_address(bind)
                self._own.setdefault(port, []).append((what, _listens(host)))

    @staticmethod
    def of(settings: Settings) -> Targets:
        """The rules that the settings make."""
        own = [("registry", settings.registry.bind)]
        if settings.admin.enabled:
            own.append(("admin HTTP", settings.admin.bind))
        return Targets(settings.registry.deny_targets, own, settings.registry.unix_targets)

    def refusal(self, address: str, port: int) -> str | None:
        """Why this address is none for a target, or None. Sends nothing."""
        ip, reached = _address(address)
        for network in self._denied:
            if reached.version == network.version and (reached in network or ip in network):
                return f"{address} is in {network}, which [registry] deny_targets names"
        for what, bound in self._own.get(port, ()):
            if ip == bound or ip.is_unspecified or (bound is None and _is_local(ip)):
                return f"{address} port {port} is proxyd's own {what}"
        return None

    def unix_refusal(self, path: str) -> str | None:
        """Why the UNIX socket of this path is none for a target, or None. Who may write into a directory that the setting names
        can make any socket a target by a link."""
        own = self._own_sockets.get(path)
        if own is not None:
            return f"unix:{path} is proxyd's own {own}"
        if any(path == known or path.startswith(f"{known}/") for known in self._unix):
            return None
        return f"unix:{path} is neither in [registry] unix_targets nor below a directory that is"

    def allowed(self, addresses: Sequence[str], port: int) -> Sequence[str]:
        """Those of a name's addresses that may be connected to. Raises TargetDenied if none may."""
        reasons = [self.refusal(address, port) for address in addresses]
        if not any(reasons):
            return addresses
        found = [address for address, reason in zip(addresses, reasons, strict=True) if reason is None]
        if not found:
            raise TargetDenied(next(reason for reason in reasons if reason))
        return found

    def check_host(self, host: str, port: int) -> None:
        """Raises ValueError if a host that is an address, or localhost, is none for a target. Other names are not resolved."""
        if host.startswith("/") and (reason := self.unix_refusal(host)) is not None:
            raise ValueError(f"no target: {reason}")
        for address in _literal(host):
            reason = self.refusal(address, port)
            if reason:
                raise ValueError(f"{host}:{port} is no target: {reason}" if host != address else f"no target: {reason}")

    def check_url(self, url: str) -> None:
        """The same for a backend url. Raises ValueError for one that is none."""
        backend = parse_backend(url)
        self.check_host(backend.host, backend.port)

    def check_health(self, path: str) -> None:
        """The same for what a health check asks for: `tcp://host:port`; paths are the backend's."""
        if path.startswith("tcp://") and path != "tcp://":
            self.check_url("http://" + path.removeprefix("tcp://"))
        elif path.startswith("grpc://") and (where := split_grpc_check(path)[0]):
            self.check_url("http://" + where)


_rules = Targets()


def rules() -> Targets:
    """The rules of this process."""
    return _rules


def use_rules(made: Targets) -> None:
    """Go by other rules from now on: a process that has read its settings says so once."""
    global _rules
    _rules = made


def _literal(host: str) -> tuple[str, ...]:
    name = host.lower().removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return _LOOPBACK
    try:
        return (str(ipaddress.ip_address(host)),)
    except ValueError:
        return ()


def _listens(host: str) -> _Ip | None:
    """The address on which a listener is; None for a wildcard, and for a name, which may be any."""
    try:
        ip, _ = _address(host)
    except ValueError:
        return None
    return None if ip.is_unspecified else ip


@lru_cache(maxsize=1024)
def _address(text: str) -> tuple[_Ip, _Ip]:
    """An address, its zone left out, and the one that a connection to it arrives at: the kernel takes 0.0.0.0 and :: for loopback. An
    IPv4-mapped one is the IPv4 address that it means (RFC 4291 2.5.5.2). Raises ValueError. It is asked for with each connection."""
    ip = ipaddress.ip_address(text.partition("%")[0])
    ip = (ip.ipv4_mapped or ip) if isinstance(ip, ipaddress.IPv6Address) else ip
    return ip, (ipaddress.ip_address(_LOOPBACK[ip.version == 6]) if ip.is_unspecified else ip)


def _is_local(ip: _Ip) -> bool:
    """Whether it is an address of this host: only to such a one a socket can be bound."""
    if ip.is_loopback:
        return True
    with socket.socket(socket.AF_INET6 if ip.version == 6 else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(ip), 0))
        except OSError:
            return False
    return True
