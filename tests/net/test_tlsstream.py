"""The TLS stream, over real sockets and OpenSSL."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

from proxyd.net.tlsstream import TlsStream
from tests.support.certificates import Authority
from tests.support.waiting import patience


def test_who_waits_first_gets_what_openssl_has_left_and_what_lies_behind_it(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(authority.issue("stream.pem", "stream.test"))
    ours, theirs = socket.socketpair()
    sent = threading.Event()

    def send() -> None:
        with authority.trusting().wrap_socket(theirs, server_hostname="stream.test") as sock:
            # Each is a record, and all are there before the first one is read.
            for text in (b"two", b"recor", b"ds"):
                sock.sendall(text)
            sent.set()
            sock.recv(1)

    thread = threading.Thread(target=send)
    thread.start()
    stream = TlsStream(ours)
    try:
        stream.shake(server)
        assert sent.wait(patience(10))
        # A part of the first record, the rest of it, the second, and what is left.
        assert [stream.recv(2), stream.recv_later(10), stream.recv_later(10), stream.recv_later(10)] == [b"tw", b"o", b"recor", b"ds"]
    finally:
        stream.close()
        thread.join(10)
