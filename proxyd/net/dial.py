"""Opening a TCP connection to a host by name or address, as workers and the health checker both do."""

from __future__ import annotations

import _socket
import errno

from gevent import socket

Place = tuple[int, int, int, tuple[str, int] | tuple[str, int, int, int]]


def dial(host: str, port: int) -> socket.socket:
    """A connected socket to the first address that answers. Raises OSError; sets no time limit."""
    failure: OSError | None = None
    for family, kind, protocol, address in addresses(host, port):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.connect(address)
        except OSError as error:
            failure = error
            sock.close()
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure or OSError(errno.EHOSTUNREACH, "no address")


def addresses(host: str, port: int) -> list[Place]:
    """Socket family, type, protocol and address to try for a host, in order; a literal address needs no resolver."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            _socket.inet_pton(family, host)
        except OSError:
            continue
        return [(family, socket.SOCK_STREAM, 0, (host, port))]
    found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
    return [(family, kind, protocol, address) for family, kind, protocol, _, address in found]
