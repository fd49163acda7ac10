"""Chromium on a page with an event stream, a long poll, a video that pauses, a WebSocket and fifty files, all on one connection."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from proxyd.proxy.core.handshake import accept_value
from tests.admin.browser import CHROMIUM, Browser
from tests.edge.conftest import Secure
from tests.support.backends import RawBackend
from tests.support.waiting import patience, wait_for

#: More than the kernel keeps of a connection (32 MiB where tcp_rmem is large, 4 MiB at the sender), and than a browser takes ahead.
SIZE = 80_000_000
PAGE = b"<!doctype html><title>page</title><link rel=icon href=data:,>"

BEGIN = """(async () => {
  window.told = []; window.polled = ''; window.got = 0; window.said = [];
  const events = new EventSource('/events');
  events.onmessage = event => told.push(event.data);
  fetch('/poll').then(answer => answer.text()).then(text => polled = text);
  const video = await fetch('/video', {headers: {Range: 'bytes=0-'}});
  window.reader = video.body.getReader();
  window.read = async () => { const {done, value} = await reader.read(); if (!done) got += value.length; return !done; };
  await read();
  window.socket = new WebSocket(`wss://${location.host}/chat`);
  socket.onmessage = message => said.push(message.data);
  socket.onopen = () => socket.send('hello');
  return video.status;
})()"""
FILES = """(async () => {
  const texts = await Promise.all([...Array(50).keys()].map(number => fetch(`/file/${number}`).then(answer => answer.text())));
  return texts.filter((text, number) => text === `file ${number}`).length;
})()"""
PROTOCOLS = "[...new Set(performance.getEntriesByType('resource').map(entry => entry.nextHopProtocol).filter(name => name))]"
ABORT = """(async () => {
  const control = new AbortController();
  const answer = await fetch('/events?2', {signal: control.signal});
  await answer.body.getReader().read();
  control.abort();
})()"""


class Site:
    """What is behind the page. `again` lets a second event come, `poll` answers the long poll; `left` is set when a second event stream
    was ended by the client; `heads` are those of WebSockets."""

    def __init__(self, make: Callable[..., RawBackend]) -> None:
        self.again, self.poll, self.left = threading.Event(), threading.Event(), threading.Event()
        self.heads: list[bytes] = []
        self.sent = 0
        self.backend = make(self._serve)

    def _serve(self, sock: socket.socket) -> None:
        while head := self.backend.receive_head(sock):
            path = head.split(b" ", 2)[1].decode()
            if path.startswith("/events"):
                return self._tell(sock, path)
            if path == "/video":
                return self._play(sock)
            if path == "/chat":
                return self._talk(sock, head)
            body = PAGE
            if path == "/poll":
                self.poll.wait(60)
                body = b"at last"
            elif path.startswith("/file/"):
                body = b"file " + path[6:].encode()
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        return None

    def _tell(self, sock: socket.socket, path: str) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: one\n\n")
        if path == "/events":
            self.again.wait(60)
            sock.sendall(b"data: two\n\n")
        if not sock.recv(1) and path != "/events":
            self.left.set()

    def _play(self, sock: socket.socket) -> None:
        sock.sendall(f"HTTP/1.1 206 Partial Content\r\nContent-Type: video/mp4\r\nContent-Range: bytes 0-{SIZE - 1}/{SIZE}\r\n"
                     f"Content-Length: {SIZE}\r\n\r\n".encode())
        piece = bytes(100_000)
        while self.sent < SIZE:
            sock.sendall(piece)
            self.sent += len(piece)

    def _talk(self, sock: socket.socket, head: bytes) -> None:
        self.heads.append(head)
        found = re.search(rb"(?i)sec-websocket-key: ([^\r]+)", head)
        assert found is not None
        sock.sendall(f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     f"Sec-WebSocket-Accept: {accept_value(found[1].decode())}\r\n\r\n".encode())
        if sock.recv(65536):
            sock.sendall(b"\x81\x05there")
        sock.recv(65536)


@pytest.fixture
def site(raw_backend: Callable[..., RawBackend]) -> Iterator[Site]:
    made = Site(raw_backend)
    yield made
    made.again.set()
    made.poll.set()


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_a_browser_does_all_at_once_on_one_connection(secure: Secure, site: Site) -> None:
    host = secure.route(site.backend.url, websocket="true")
    with Browser(options=("--ignore-certificate-errors", f"--host-resolver-rules=MAP {host} 127.0.0.1")) as browser:
        browser.open(f"https://{host}:{secure.port}/")
        browser.until("document.title === 'page'")
        assert browser.evaluate(BEGIN) == 206
        browser.until("told.length === 1 && said.length === 1")
        # The browser takes some megabytes of what it does not read. The rest waits at the backend, and holds up nothing else.
        assert browser.evaluate(FILES) == 50
        assert browser.evaluate("polled") == "" and browser.evaluate("got") < SIZE
        assert site.sent < SIZE
        site.poll.set()
        site.again.set()
        browser.until("polled === 'at last' && told.length === 2")
        browser.evaluate(ABORT)
        assert site.left.wait(patience(10))
        assert browser.evaluate("(async () => { while (await read()); return got; })()") == SIZE
        assert browser.evaluate(PROTOCOLS) == ["h2"]
        assert browser.evaluate("said[0]") == "there"
        browser.evaluate("socket.close()")
        problems = list(browser.problems)
    assert problems == []
    # A WebSocket of a connection of its own would be one of HTTP/1.1.
    assert re.search(rb"(?i)\r\nvia: 2\.0 ", site.heads[0]), site.heads
    wait_for(lambda: site.sent == SIZE, 10)
