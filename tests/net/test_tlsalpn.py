"""The first message of a CA that proves a name by tls-alpn-01, told from all others."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import random
import socket
import ssl

import gevent
import pytest
from cryptography import x509
from gevent import socket as gevent_socket

from proxyd.net.hello import Hello, parse_hello, peek_hello
from proxyd.net.tlsalpn import PROTOCOL, proof, wants_proof


def hello(name: str | None, *protocols: str) -> bytes:
    """The first record of a client of OpenSSL's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(list(protocols))
    out = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()


@pytest.mark.parametrize(("name", "protocols", "expected"), [
    ("App.example.com", (PROTOCOL,), "app.example.com"), ("app.example.com", (PROTOCOL, "h2"), None), ("app.example.com", ("h2",), None),
    ("app.example.com", (), None), (None, (PROTOCOL,), ""),
])
def test_a_ca_offers_its_protocol_alone_and_names_whom_it_proves(
        name: str | None, protocols: tuple[str, ...], expected: str | None) -> None:
    found = parse_hello(hello(name, *protocols)[5:])
    assert found is not None
    assert (found.name if wants_proof(found) else None) == expected


def test_a_message_that_is_cut_or_changed_is_nobodys_and_raises_nothing() -> None:
    message = hello("app.example.com", PROTOCOL)[5:]
    assert all(parse_hello(message[:end]) is None for end in range(len(message)))
    chance = random.Random(1)
    for _ in range(3000):
        changed = bytearray(message)
        for _ in range(chance.randint(1, 4)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        found = parse_hello(bytes(changed))
        assert found is None or len(found.name) < len(message)


def test_a_first_record_is_looked_at_in_pieces_and_stays_where_it_was() -> None:
    listener = gevent_socket.create_server(("127.0.0.1", 0))
    record, whole = hello("app.example.com", PROTOCOL), Hello("app.example.com", b"\x0aacme-tls/1")
    for pieces, expected in (((record,), whole), ((record[:3], record[3:90], record[90:]), whole),
                             ((b"GET / HTTP/1.1\r\n",), None), ((record[:40],), None), ((b"\x16",), None), ((), None)):
        client = gevent_socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        looking = gevent.spawn(peek_hello, server)
        for piece in pieces:
            client.sendall(piece)
            gevent.sleep(0.01)
        client.shutdown(socket.SHUT_WR)
        assert looking.get(timeout=10) == expected
        assert b"".join(iter(lambda sock=server: sock.recv(65536), b"")) == b"".join(pieces)  # type: ignore[misc]
        client.close()
        server.close()
    listener.close()


def test_the_certificate_holds_the_digest_of_the_key_authorization() -> None:
    chain, _ = proof("app.example.com", "token.thumb", datetime.datetime.now(datetime.UTC))
    certificate = x509.load_pem_x509_certificate(chain.encode())
    found = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31"))
    assert found.critical
    assert isinstance(found.value, x509.UnrecognizedExtension)
    assert found.value.value[2:] == hashlib.sha256(b"token.thumb").digest()
