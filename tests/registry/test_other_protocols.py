"""What speaks another protocol than the registry's can do nothing there: above all a web page, whose POST may go to any port."""

from __future__ import annotations

import pytest

from tests.support.registry import RegistryClient
from tests.support.system import System
from tests.support.waiting import wait_for

POST = ("POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://page.test\r\nContent-Type: text/plain\r\nContent-Length: 60\r\n\r\n"
        "REGISTER|victim|v-1|0|{}\r\n")


@pytest.mark.parametrize("first", [POST, "GET / HTTP/1.1\r\n\r\nREGISTER|victim|v-1\r\n", "EHLO page\r\nREGISTER|victim|v-1\r\n",
                                   "FOO|x|txn-1\nREGISTER|victim|v-1\n"])
def test_a_first_line_that_is_no_command_ends_the_connection(system: System, first: str) -> None:
    client = system.client("victim", "v-1")
    client.route("victim.test", "http://127.0.0.1:9")
    page = RegistryClient(system.registry_port)
    page.socket.sendall(first.encode())
    assert "unknown command: " in page.line()
    assert page.line() == ""
    page.close()
    # The session and its routes are as they were.
    assert client.command("PING|SID") == "PONG"
    assert client.json("ROUTE_LIST|SID")[0]["status"] == "active"
    wait_for(lambda: "it does not speak the registry's protocol" in system.log(), what="the word in the log")


@pytest.mark.parametrize(("first", "answer"), [
    (b"\x16\x03\x01\x02\0\x01\0\x01\x7c\x03\x03", "ERROR|control character 0x16 at character 0"),
    (b"\xff\xfe", "ERROR|invalid UTF-8 at byte 0"), (b"POST /\x01 HTTP/1.1", "ERROR|control character 0x01 at character 6")])
def test_a_first_line_that_is_no_text_ends_the_connection(system: System, first: bytes, answer: str) -> None:
    # A TLS handshake has bytes that a page or its server chooses: the name, and a session ticket.
    other = RegistryClient(system.registry_port)
    other.socket.sendall(first + b"\nREGISTER|taken|t-1\n")
    assert other.line() == answer
    assert other.line() == ""
    other.close()
    assert "taken" not in system.admin("/api/v1/sessions").text
    client = system.client("texter")
    assert client.command("PING|SID\x01").startswith("ERROR|control character")
    assert client.command("PING|SID") == "PONG"


def test_a_session_may_mistype_a_command(system: System) -> None:
    client = system.client("typist")
    assert client.command("PNIG|SID") == "ERROR|unknown command: PNIG"
    assert client.command("PING|SID") == "PONG"
