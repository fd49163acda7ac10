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


def test_a_session_may_mistype_a_command(system: System) -> None:
    client = system.client("typist")
    assert client.command("PNIG|SID") == "ERROR|unknown command: PNIG"
    assert client.command("PING|SID") == "PONG"
