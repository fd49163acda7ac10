"""Listening sockets: for whom they are open, what is left behind, and errors that say what to do."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from proxyd.net.listen import ListenError, listen
from tests.support.waiting import free_port, listens, wait_for


def test_a_tcp_address_takes_connections_and_can_be_taken_again_at_once() -> None:
    port = free_port()
    for _ in range(2):
        with listen(f"127.0.0.1:{port}", 8) as listening, socket.create_connection(("127.0.0.1", port), timeout=5):
            taken, _address = listening.accept()
            # The side that closes first keeps the port in TIME_WAIT.
            taken.close()


@pytest.mark.parametrize(("host", "address"), [("127.0.0.1", "127.0.0.1"), ("[::1]", "::1")])
def test_what_is_accepted_sends_small_writes_at_once(host: str, address: str) -> None:
    port = free_port()
    with listen(f"{host}:{port}", 8) as listening, socket.create_connection((address, port), timeout=5):
        taken, _address = listening.accept()
        with taken:
            assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_an_ipv6_address_stands_in_brackets() -> None:
    port = free_port()
    with listen(f"[::1]:{port}", 8), socket.create_connection(("::1", port), timeout=5) as made:
        assert made.family == socket.AF_INET6


def test_a_port_in_use_is_told_with_what_to_do() -> None:
    port = free_port()
    with listen(f"127.0.0.1:{port}", 8), pytest.raises(ListenError, match=f"^127.0.0.1:{port} is in use by another program: stop it"):
        listen(f"127.0.0.1:{port}", 8)


def test_an_address_of_another_host_is_told_with_the_systems_words() -> None:
    with pytest.raises(ListenError, match=r"^can't listen on 192\.0\.2\.1:8080: .*[a-z]"):
        listen("192.0.2.1:8080", 8)


def test_a_unix_socket_is_for_owner_and_group_and_leaves_the_mask_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "s"
    before = os.umask(0o022)
    try:
        with listen(f"unix:{path}", 8):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_a_unix_socket_left_by_a_dead_process_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listen(f"unix:{path}", 8).close()
    assert path.is_socket()
    with listen(f"unix:{path}", 8), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_unix_socket_that_answers_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listen(f"unix:{path}", 8), socket.socket(socket.AF_UNIX) as client:
        with pytest.raises(ListenError, match="is in use by another program"):
            listen(f"unix:{path}", 8)
        client.connect(str(path))


def test_a_file_that_is_no_socket_is_never_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(ListenError, match="is in use by another program"):
        listen(f"unix:{path}", 8)
    assert path.read_text() == "precious"


#: Greets whoever comes, and holds the connection until the other side closes. It may have few files open.
_GREETER = """
import logging, resource, sys
from proxyd.net.listen import PatientServer, listen
logging.basicConfig()
resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))
def greet(sock, address):
    try:
        sock.sendall(b"hello")
        sock.recv(1)
    except OSError:
        pass
    sock.close()
PatientServer(listen(sys.argv[1], 128), greet).serve_forever()
"""


def test_a_server_without_a_descriptor_waits_and_says_so_once() -> None:
    port = free_port()
    with subprocess.Popen([sys.executable, "-c", _GREETER, f"127.0.0.1:{port}"], stderr=subprocess.PIPE) as process:
        try:
            wait_for(lambda: listens(port), what="the server")
            with contextlib.ExitStack() as stack:
                clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)) for _ in range(80)]
                assert [clients[number].recv(5) for number in range(20)] == [b"hello"] * 20
                last = clients[-1]
                last.settimeout(0.5)
                with pytest.raises(TimeoutError):
                    last.recv(5)
                for sock in clients[:-1]:
                    sock.close()
                last.settimeout(10)
                assert last.recv(5) == b"hello"
        finally:
            process.kill()
        said = process.stderr.read().decode() if process.stderr else ""
    assert said.count("this process has too many files open") == 1, said
    assert "Traceback" not in said
