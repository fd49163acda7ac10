"""Maintenance: who sees it, from when, what is shown, and what it survives."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.admin.browser import CHROMIUM, Browser
from tests.support.backends import Backend, MakeRaw, RawBackend
from tests.support.certificates import Authority
from tests.support.registry import RegistryClient
from tests.support.system import MakeSystem, System
from tests.support.waiting import free_port, patience, wait_for

BYPASS = "10.99.0.7"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Two workers that believe X-Forwarded-For, with one operator's address let through."""
    running = System(tmp_path_factory.mktemp("maintenance"), proxy__trusted_proxies="127.0.0.0/8", maintenance__bypass="10.99.0.0/24",
                     maintenance__retry_after="90s")
    yield running
    running.stop()


def enter(client: RegistryClient, target: str, page: str = "") -> None:
    assert client.command(f"MAINT_ENTER|SID|{target}|{page}") == "ACK"
    assert client.line() == f"MAINT_OK|{target}"


def leave(client: RegistryClient, target: str) -> None:
    assert client.command(f"MAINT_EXIT|SID|{target}") == "ACK"
    assert client.line() == f"MAINT_OK|{target}"


def statuses(system: System, host: str, path: str = "/") -> set[int]:
    """What several connections, so both workers, get."""
    return {system.get(path, host).status for _ in range(8)}


def page_server(raw_backend: Callable[..., RawBackend]) -> RawBackend:
    """A maintenance server: a page at /, a style sheet, nothing else."""
    def serve(sock: socket.socket) -> None:
        path = server.receive_head(sock).split(b" ")[1]
        status, kind, body = {
            b"/": (b"200 OK", b"text/html; charset=utf-8", b"<h1>Our own page</h1>"),
            b"/style.css": (b"200 OK", b"text/css", b"h1{color:red}"),
        }.get(path, (b"404 Not Found", b"text/html", b"no"))
        head = b"HTTP/1.1 %b\r\nContent-Type: %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, kind, len(body))
        sock.sendall(head + body)

    server = raw_backend(serve)
    return server


@pytest.mark.slow
def test_each_of_the_four_kinds_of_target_holds_for_what_it_names_alone(system: System, backend: Backend) -> None:
    client = system.client("targets")
    first = client.route("one.targets.test", backend.url, "/")
    second = client.route("one.targets.test", backend.url, "/admin")
    third = client.route("two.targets.test", backend.url, "/")
    places = {first: ("one.targets.test", "/x"), second: ("one.targets.test", "/admin/x"), third: ("two.targets.test", "/x")}
    for target, held in (("ALL", {first, second, third}), (f"{first},{third}", {first, third}), (second, {second}), ("/admin", {second}),
                         ("two.targets.test", {third})):
        enter(client, target)
        for route_id, (host, path) in places.items():
            assert statuses(system, host, path) == {503 if route_id in held else 200}, (target, route_id)
        status = client.json("MAINT_STATUS|SID")
        assert set(status["in_maintenance"]) == held
        assert status["entered_at"].endswith("Z")
        leave(client, target)
        assert {system.get(path, host).status for host, path in places.values()} == {200}
    assert client.json("MAINT_STATUS|SID") == {"in_maintenance": [], "maintenance_backend": "", "entered_at": None}


def test_a_target_that_names_nothing_is_an_error_and_changes_nothing(system: System, backend: Backend) -> None:
    client = system.client("nothing")
    client.route("nothing.test", backend.url)
    for target in ("r999999", "/other", "other.test"):
        assert client.command(f"MAINT_ENTER|SID|{target}|").startswith('ERROR|target: "')
    assert statuses(system, "nothing.test") == {200}


def test_the_built_in_page_is_for_people_and_a_problem_for_programs(system: System, backend: Backend) -> None:
    client = system.client("page")
    route_id = client.route("page.test", backend.url)
    enter(client, "ALL")
    page = system.get("/", "page.test", Accept="text/html,*/*;q=0.8")
    assert page.status == 503
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert [page.headers[name] for name in ("Retry-After", "X-Maintenance-Mode", "X-Proxyd-Reason")] == ["90", "true", "maintenance"]
    assert page.headers["Cache-Control"] == "no-store"
    for part in ('<html lang="en">', "Down for maintenance", "page.test", "prefers-color-scheme:dark", page.headers["X-Request-ID"]):
        assert part in page.text
    assert "http://" not in page.text and "https://" not in page.text and "src=" not in page.text
    problem = system.get("/", "page.test", Accept="application/json")
    assert problem.headers["Content-Type"] == "application/problem+json"
    assert (problem.status, problem.json()["code"], problem.json()["retry_after_seconds"]) == (503, "maintenance", 90)
    head = system.get("/", "page.test", "HEAD")
    assert (head.status, head.body) == (503, b"")
    assert not backend.requests
    wait_for(lambda: client.json(f"ROUTE_STATUS|SID|{route_id}")["maintenance"]["hits"] == 3, what="the hits")
    maintenance = client.json(f"ROUTE_STATUS|SID|{route_id}")["maintenance"]
    assert (maintenance["active"], maintenance["page_url"]) == (True, "")


def test_an_operator_gets_through_to_the_backend_while_everybody_else_waits(system: System, backend: Backend) -> None:
    client = system.client("bypass")
    client.route("bypass.test", backend.url)
    enter(client, "ALL")
    assert system.get("/", "bypass.test", X_Forwarded_For=BYPASS).text == "backend /\n"
    assert system.get("/", "bypass.test", X_Forwarded_For="10.98.0.1").status == 503


def test_traffic_sees_maintenance_from_before_the_ack(system: System, raw_backend: MakeRaw, backend: Backend) -> None:
    client = system.client("early")
    client.route("early.test", backend.url)
    # A page that does not answer, so that nothing but the ACK is awaited.
    assert client.command(f"MAINT_ENTER|SID|ALL|http://127.0.0.1:{free_port()}/") == "ACK"
    assert statuses(system, "early.test") == {503}


def test_the_page_must_answer_before_maint_ok(system: System, backend: Backend, new_backend: Callable[..., Backend]) -> None:
    client = system.client("later")
    client.route("later.test", backend.url)
    port = free_port()
    assert client.command(f"MAINT_ENTER|SID|ALL|http://127.0.0.1:{port}/") == "ACK"
    client.socket.settimeout(0.4)
    with pytest.raises(TimeoutError):
        client.socket.recv(1)
    client.socket.settimeout(15)
    new_backend("page", port)
    # A socket's file can't be read on after a timeout, so the line is read by hand.
    assert client.socket.recv(100) == b"MAINT_OK|ALL\n"


def test_the_services_own_page_is_shown_with_status_503_and_its_assets_as_they_are(
        system: System, raw_backend: MakeRaw, backend: Backend) -> None:
    server = page_server(raw_backend)
    client = system.client("own")
    client.route("own.test", backend.url)
    enter(client, "ALL", f"{server.url}/")
    page = system.get("/shop/cart?x=1", "own.test", Accept="text/html")
    assert (page.status, page.text, page.headers["X-Maintenance-Mode"]) == (503, "<h1>Our own page</h1>", "true")
    asset = system.get("/style.css", "own.test")
    assert (asset.status, asset.headers["Content-Type"], asset.text) == (200, "text/css", "h1{color:red}")
    assert system.get("/missing.png", "own.test").status == 503
    assert client.json("MAINT_STATUS|SID")["maintenance_backend"] == f"{server.url}/"


def test_no_path_makes_the_proxy_fetch_from_anywhere_but_the_page_server(system: System, raw_backend: MakeRaw, backend: Backend) -> None:
    server = page_server(raw_backend)
    secret = raw_backend(lambda sock: sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/css\r\nContent-Length: 6\r\n\r\nsecret"))
    client = system.client("elsewhere")
    client.route("elsewhere.test", backend.url)
    enter(client, "ALL", f"{server.url}/")
    there = f"127.0.0.1:{secret.port}/x.css"
    for path in (f"//{there}", f"/..//{there}", f"/a/..//{there}", f"http://{there}", f"/http://{there}", f"/@{there}"):
        assert "secret" not in system.get(path, "elsewhere.test").text
    assert secret.connections == 0


def test_a_dead_page_server_is_replaced_by_the_built_in_page_without_slowing_anybody(
        system: System, raw_backend: MakeRaw, backend: Backend) -> None:
    server = page_server(raw_backend)
    client = system.client("dead")
    client.route("dead.test", backend.url)
    enter(client, "ALL", f"{server.url}/")
    server.stop()
    wait_for(lambda: "Down for maintenance" in system.get("/", "dead.test", Accept="text/html").text, what="the built-in page")
    begun = time.monotonic()
    for _ in range(20):
        answer = system.get("/other", "dead.test", Accept="text/html")
        assert answer.status == 503
    assert time.monotonic() - begun < patience(2)


def test_a_page_server_that_says_nothing_holds_nobody_up_for_long(system: System, raw_backend: MakeRaw, backend: Backend) -> None:
    def serve(sock: socket.socket) -> None:
        if not mute.received:
            mute.receive_head(sock)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            return
        sock.recv(65536)
        time.sleep(4)

    mute = raw_backend(serve)
    client = system.client("mute")
    client.route("mute.test", backend.url)
    enter(client, "ALL", f"{mute.url}/")
    begun = time.monotonic()
    answer = system.get("/", "mute.test", Accept="text/html")
    assert answer.status == 503 and "Down for maintenance" in answer.text
    assert time.monotonic() - begun < patience(3)


@pytest.mark.slow
def test_a_slow_page_server_is_asked_for_many_files_at_once_and_never_for_long(
        system: System, raw_backend: MakeRaw, backend: Backend) -> None:
    def serve(sock: socket.socket) -> None:
        path = slow.receive_head(sock).split(b" ")[1].decode()
        if path.endswith("trickle.css"):
            # Each byte comes in time, the whole never.
            for byte in b"HTTP/1.1 200 OK\r\nContent-Type: text/css\r\nX-Filler: " + b"x" * 100:
                sock.sendall(bytes([byte]))
                time.sleep(0.1)
            return
        if path != "/":
            # The proxy waits for 2 s: a backend that gets no processor for a while must still be in time.
            time.sleep(0.6)
        kind = "text/html" if path == "/" else "text/css"
        sock.sendall(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(path)}\r\nConnection: close\r\n\r\n{path}".encode())

    slow = raw_backend(serve)
    client = system.client("slowpage")
    client.route("slowpage.test", backend.url)
    enter(client, "ALL", f"{slow.url}/")

    def ask(path: str) -> tuple[float, int]:
        begun = time.monotonic()
        status = system.get(path, "slowpage.test").status
        return time.monotonic() - begun, status

    with ThreadPoolExecutor(24) as threads:
        found = list(threads.map(ask, [f"/{number % 12}.css" for number in range(24)]))
    assert {status for _, status in found} == {200}
    assert max(seconds for seconds, _ in found) < 6, "one after the other would take longer"
    # Two workers, twelve files: nobody asked twice for what somebody was asking for.
    assert len(slow.received) <= 2 * 12 + 8
    seconds, status = ask("/trickle.css")
    assert status == 503 and seconds < 6


def test_a_page_server_that_redirects_has_no_page(system: System, raw_backend: MakeRaw, backend: Backend) -> None:
    def serve(sock: socket.socket) -> None:
        moved.receive_head(sock)
        sock.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    moved = raw_backend(serve)
    client = system.client("moved")
    client.route("moved.test", backend.url)
    enter(client, "ALL", f"{moved.url}/")
    assert "Down for maintenance" in system.get("/", "moved.test", Accept="text/html").text


def test_a_page_server_with_a_certificate_of_its_own_is_shown_where_the_route_does_not_verify(
        system: System, backend: Backend, tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Authority(tmp_path).issue("page.pem", "127.0.0.1"))
    server = Backend("page")
    assert server._server is not None
    server._server.socket = context.wrap_socket(server._server.socket, server_side=True)
    client = system.client("selfsigned")
    client.route("selfsigned.test", backend.url, apply=False)
    client.options("ALL", tls_verify="false")
    enter(client, "ALL", f"https://127.0.0.1:{server.port}/")
    answer = system.get("/", "selfsigned.test")
    assert (answer.status, answer.text) == (503, "page /\n")
    server.stop()


def test_an_open_websocket_stays_and_a_new_one_is_refused(system: System, raw_backend: MakeRaw) -> None:
    def serve(sock: socket.socket) -> None:
        echo.receive_head(sock)
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        while data := sock.recv(65536):
            sock.sendall(data)

    echo = raw_backend(serve)
    client = system.client("open")
    client.route("open.test", echo.url, apply=False)
    client.options("ALL", websocket="true")
    ask = (b"GET /ws HTTP/1.1\r\nHost: open.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
           b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
    with socket.create_connection(("127.0.0.1", system.proxy_port), timeout=10) as before:
        before.sendall(ask)
        assert before.recv(65536).startswith(b"HTTP/1.1 101 ")
        # A masked text frame, there and back.
        frame = b"\x81\x85\0\0\0\0hello"
        before.sendall(frame)
        assert before.recv(65536) == frame
        client.send("MAINT_ENTER|SID|ALL|")
        assert [client.line(), client.line()] == ["ACK", "MAINT_OK|ALL"]
        with socket.create_connection(("127.0.0.1", system.proxy_port), timeout=10) as after:
            after.sendall(ask)
            answer = after.recv(65536)
            assert answer.startswith(b"HTTP/1.1 503 ") and b"X-Maintenance-Mode: true\r\n" in answer
        before.sendall(frame)
        assert before.recv(65536) == frame


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
@pytest.mark.parametrize("dark", [False, True])
def test_the_built_in_page_can_be_read_in_light_and_dark_on_a_phone_and_loads_nothing(system: System, backend: Backend, dark: bool) -> None:
    name = "dark" if dark else "light"
    client = system.client(name)
    client.route(f"{name}.localhost", backend.url)
    enter(client, "ALL")
    with Browser(360, 640, dark=dark) as browser:
        browser.open(f"http://{name}.localhost:{system.proxy_port}/deep/down")
        browser.until("document.querySelector('h1') !== null")
        assert browser.evaluate("document.querySelector('h1').textContent") == "Down for maintenance"
        assert browser.evaluate("document.documentElement.lang") == "en"
        assert browser.evaluate("document.documentElement.scrollWidth") <= 360
        # Nothing but the page itself, and the icon that the browser asks for by itself.
        assert set(browser.evaluate("performance.getEntriesByType('resource').map(e => new URL(e.name).pathname)")) <= {"/favicon.ico"}
        ratio = browser.evaluate(_CONTRAST)
        assert (ratio["paper"] < 0.1) is dark
        # WCAG 2.2 AAA for text.
        assert min(ratio["text"]) >= 7, ratio


_CONTRAST = """(() => {
  const light = rgb => { const [r, g, b] = rgb.map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
                         return 0.2126 * r + 0.7152 * g + 0.0722 * b };
  const numbers = text => text.match(/[0-9.]+/g).slice(0, 3).map(Number);
  const under = numbers(getComputedStyle(document.body).backgroundColor);
  const paper = light(under);
  const text = [...document.querySelectorAll('h1, p, small')].map(element => {
    const style = getComputedStyle(element), ink = numbers(style.color), part = Number(style.opacity);
    const seen = light(ink.map((value, index) => value * part + under[index] * (1 - part)));
    return (Math.max(seen, paper) + 0.05) / (Math.min(seen, paper) + 0.05) });
  return {paper, text} })()"""


@pytest.mark.slow
def test_maint_exit_lifts_it_even_where_the_backend_is_dead_and_says_so(system: System) -> None:
    client = system.client("exit")
    client.route("exit.test", f"http://127.0.0.1:{free_port()}")
    enter(client, "ALL")
    assert system.get("/", "exit.test").status == 503
    assert client.command("MAINT_EXIT|SID|ALL") == "ACK"
    assert system.get("/", "exit.test").headers["X-Proxyd-Reason"] == "upstream_refused"
    answer = client.line()
    assert answer.startswith("ERROR|") and answer.endswith("maintenance lifted")



def test_one_replica_in_maintenance_is_passed_over_and_nobody_sees_it(system: System, new_backend: Callable[..., Backend]) -> None:
    backends = [new_backend("a"), new_backend("b")]
    clients = [system.client("half", str(number)) for number in range(2)]
    for client, backend in zip(clients, backends, strict=True):
        client.route("half.test", backend.url)
    enter(clients[0], "ALL")
    assert {(answer.status, answer.text) for answer in [system.get("/", "half.test") for _ in range(10)]} == {(200, "b /\n")}


def test_maintenance_survives_the_end_of_workers_and_master(system: System, backend: Backend) -> None:
    client = system.client("durable")
    client.route("durable.test", backend.url)
    enter(client, "ALL")
    before = client.json("MAINT_STATUS|SID")
    old, pids = system.master_pid(), set(system.worker_pids())
    for pid in (old, *pids):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: system.master_pid() not in (0, old) and not pids & set(system.worker_pids()) and system.ready(), 15, "all anew")
    for _ in range(8):
        answer = system.get("/", "durable.test")
        assert (answer.status, answer.headers["X-Proxyd-Reason"]) == (503, "maintenance")
    back = system.connect()
    assert back.command(f"RECONNECT|{client.session_id}") == "OK"
    back.session_id = client.session_id
    assert back.json("MAINT_STATUS|SID") == before
    leave(back, "ALL")
    assert statuses(system, "durable.test") == {200}


def test_the_page_stays_while_the_service_restarts_behind_it(system: System, backend: Backend) -> None:
    client = system.client("restarting")
    client.route("restarting.test", backend.url)
    enter(client, "ALL")
    client.close()
    wait_for(lambda: system.sql("SELECT 1 FROM routes WHERE service_name = 'restarting' AND NOT enabled"), what="the lost session")
    for _ in range(8):
        assert system.get("/", "restarting.test").headers["X-Proxyd-Reason"] == "maintenance"


def test_the_operators_own_page_is_shown_instead_of_the_built_in_one(new_system: MakeSystem, backend: Backend, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<p>Back at nine</p>")
    system: System = new_system(workers=1, maintenance__page=page)
    client = system.client("operator")
    client.route("operator.test", backend.url)
    enter(client, "ALL")
    assert system.get("/", "operator.test", Accept="text/html").text == "<p>Back at nine</p>"
    assert system.get("/", "operator.test").json()["code"] == "maintenance"


def test_subscribers_and_the_database_are_told(system: System, backend: Backend) -> None:
    client = system.client("events")
    route_id = client.route("events.test", backend.url)
    assert client.command("SUBSCRIBE|SID|maintenance_changed") == "SUBSCRIBE_OK"
    client.send("MAINT_ENTER|SID|ALL|")
    client.send("MAINT_EXIT|SID|ALL")
    lines = [client.line() for _ in range(6)]
    events = [json.loads(line.split("|", 2)[2]) for line in lines if line.startswith("EVENT|maintenance_changed|")]
    assert [(event["route_id"], event["active"]) for event in events] == [(route_id, True), (route_id, False)]
    wait_for(lambda: len(system.sql("SELECT 1 FROM events WHERE type = 'maintenance_changed' AND route_id = ?", route_id)) == 2)


def test_a_services_maintenance_server_answers_what_does_not_ask_for_a_document(
        system: System, raw_backend: MakeRaw, backend: Backend) -> None:
    asked: list[bytes] = []

    def serve(sock: socket.socket) -> None:
        method, path, _ = server.receive_head(sock).split(b" ", 2)
        asked.append(path)
        status, kind, body = {
            b"/down/index.html": (b"200 OK", b"text/html", b"<script>poll()</script>"),
            b"/down/logo.png": (b"200 OK", b"image/png", b"logo"),
            b"/api/status?step=2": (b"202 Accepted", b"application/json", b'{"done":40}'),
            b"/fragment": (b"200 OK", b"text/html", b"<p>40 %</p>"),
            b"/api/cart": (b"503 Service Unavailable", b"application/json", b'{"down":true}'),
        }.get(path, (b"404 Not Found", b"text/html", b"no"))
        fields = b"Content-Type: %b\r\nContent-Length: %d\r\nX-Step: 2\r\nConnection: close" % (kind, len(body))
        head = b"HTTP/1.1 %b\r\n%b\r\n\r\n" % (status, fields)
        sock.sendall(head + (b"" if method == b"HEAD" else body))

    server = raw_backend(serve)
    client = system.client("stands")
    route_id = client.route("stands.test", backend.url)
    enter(client, "ALL", f"{server.url}/down/index.html")
    ways: list[dict[str, Any]] = [{"Accept": "application/json"}, {"Accept": "*/*", "Sec_Fetch_Dest": "empty"}, {}]
    for headers in ways:
        polled = system.get("/api/status?step=2", "stands.test", **headers)
        assert (polled.status, polled.json(), polled.headers["X-Step"]) == (202, {"done": 40}, "2")
        assert polled.headers["X-Maintenance-Mode"] == "true"
    assert system.get("/api/status?step=2", "stands.test", "HEAD").headers["Content-Type"] == "application/json"
    fragment = system.get("/fragment", "stands.test", Accept="text/html", Sec_Fetch_Dest="empty")
    assert (fragment.status, fragment.text) == (200, "<p>40 %</p>")
    # Whatever status it answers with, it is planned.
    cart = system.get("/api/cart", "stands.test", Accept="application/json")
    assert (cart.status, cart.json()) == (503, {"down": True})
    for path in ("/logo.png", "/down/logo.png"):
        assert system.get(path, "stands.test", Accept="image/*").text == "logo"
    for path in ("/", "/api/status", "/down/logo.png"):
        page = system.get(path, "stands.test", Accept="text/html,application/xhtml+xml")
        assert (page.status, page.text) == (503, "<script>poll()</script>")
    posted = system.get("/api/status", "stands.test", "POST", b"{}", Accept="application/json")
    missing = system.get("/api/orders", "stands.test", Accept="application/json")
    assert [(one.status, one.json()["code"]) for one in (posted, missing)] == [(503, "maintenance")] * 2
    assert backend.requests == []
    wait_for(lambda: client.json(f"ROUTE_STATUS|SID|{route_id}")["maintenance"]["hits"] == 13, what="the hits")
    assert client.json(f"STATS_GET|SID|{route_id}")["errors"] == 0
