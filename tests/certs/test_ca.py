"""A CA that never comes to an end with its answer."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading

_ASK = """
from gevent import monkey
monkey.patch_all()
import sys
import requests
from josepy import jwa, jwk
from cryptography.hazmat.primitives.asymmetric import ec
from proxyd.certs.ca import _Network
network = _Network(jwk.JWKEC(key=ec.generate_private_key(ec.SECP256R1())), alg=jwa.ES256, timeout=30)
network.exchange_seconds = 0.5
try:
    network.get(sys.argv[1])
except requests.RequestException as error:
    print(error)
"""


def test_an_answer_that_trickles_for_ever_is_given_up() -> None:
    over = threading.Event()

    def trickle(listener: socket.socket) -> None:
        client, _ = listener.accept()
        with client:
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not over.wait(0.05):
                try:
                    client.sendall(b"x")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=trickle, args=(listener,))
        server.start()
        try:
            done = subprocess.run([sys.executable, "-c", _ASK, f"http://127.0.0.1:{listener.getsockname()[1]}/dir"], capture_output=True,
                                  text=True, timeout=60, check=False)
        finally:
            over.set()
            server.join(10)
    assert "no whole answer of" in done.stdout, done
