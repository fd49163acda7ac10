"""Shakes hands in TLS 1.3 with a port of loopback for some seconds, one connection after the other: PORT full|resumed SECONDS."""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
import time

#: Handshakes that may be full where they should resume.
_MOST_LOST = 3


def main(port: int, resumed: bool, seconds: float) -> None:
    """Print as openssl s_time does. Raises SystemExit where a session does not go on."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    session = _ticket(context, port) if resumed else None
    count, others, until = 0, 0, time.monotonic() + seconds
    while time.monotonic() < until:
        with socket.create_connection(("127.0.0.1", port), 10) as raw, context.wrap_socket(raw, session=session) as sock:
            count += 1
            lost = sock.session_reused is not resumed
            _end(sock)
        if lost:
            # A server may take up other keys once, soon after its start.
            others += 1
            if others > _MOST_LOST:
                raise SystemExit("sessions don't go on")
            session = _ticket(context, port)
    print(f"{count} connections in {seconds:.0f} real seconds")


def _ticket(context: ssl.SSLContext, port: int) -> ssl.SSLSession | None:
    """A session whose ticket has come, as it has when there is an answer."""
    with socket.create_connection(("127.0.0.1", port), 10) as raw, context.wrap_socket(raw) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        sock.recv(65536)
        session = sock.session
        _end(sock)
        return session


def _end(sock: ssl.SSLSocket) -> None:
    """Say that this is the end, and wait for nothing: OpenSSL takes up no session of a connection that broke."""
    sock.settimeout(0.0)
    with contextlib.suppress(OSError, ValueError):
        sock.unwrap()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] == "resumed", float(sys.argv[3]))
