"""Retries: what is tried again, where, how often, and what never is."""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import threading
from collections.abc import Callable

import pytest

from tests.support.backends import Backend, RawBackend
from tests.support.registry import RegistryClient
from tests.support.system import System
from tests.support.waiting import free_port, wait_for

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nback"
Serve = Callable[[socket.socket], None]
NewRaw = Callable[[Serve], RawBackend]
NewBackend = Callable[..., Backend]


def replicas(system: System, name: str, *urls: str, **options: object) -> list[RegistryClient]:
    """Register one instance of a service for each url, all at `name`.test; weights so uneven that the first url comes first."""
    clients = []
    for number, url in enumerate(urls):
        client = system.client(name, f"{name}-{number}")
        client.route(f"{name}.test", url, apply=False)
        client.options("ALL", weight=1000 if number == 0 else 1, **{"retry_initial_delay": "1ms", **options})
        clients.append(client)
    return clients


def resetting(new_raw: NewRaw, times: int = 1_000_000) -> RawBackend:
    """A backend that reads a request whole and resets, the first `times` times; then it answers 200."""
    def serve(sock: socket.socket) -> None:
        head = backend.receive_head(sock)
        length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
        body = head.partition(b"\r\n\r\n")[2]
        while len(body) < length:
            body += sock.recv(65536)
        bodies.append(body)
        if len(backend.received) <= times:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        sock.sendall(OK)

    bodies: list[bytes] = []
    backend = new_raw(serve)
    backend.bodies = bodies  # type: ignore[attr-defined]
    return backend


def test_an_idempotent_request_is_tried_again_and_the_client_sees_nothing(system: System, raw_backend: NewRaw) -> None:
    backend = resetting(raw_backend, 1)
    client = replicas(system, "again", backend.url, retry="true")[0]
    answer = system.get("/", "again.test")
    assert (answer.status, answer.text) == (200, "back")
    assert len(backend.received) == 2
    route_id = client.json("ROUTE_LIST|SID")[0]["route_id"]

    def told() -> tuple[int, int]:
        stats = client.json(f"STATS_GET|SID|{route_id}")
        return stats["retries"], stats["requests"]

    # A retry is counted when it happens, its request at the end: a worker may tell of the one before the other.
    wait_for(lambda: told() == (1, 1), what="the request and its retry in STATS")
    wait_for(lambda: system.sql("SELECT retries, requests FROM route_stats WHERE route_id = ?", route_id) == [(1, 1)], what="both in SQL")


def test_without_the_option_a_reset_is_answered_at_once(system: System, raw_backend: NewRaw) -> None:
    backend = resetting(raw_backend, 1)
    replicas(system, "once", backend.url)
    answer = system.get("/", "once.test")
    assert (answer.status, answer.headers["X-Proxyd-Reason"]) == (502, "upstream_closed")
    assert len(backend.received) == 1


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_what_may_have_been_done_is_not_done_twice(system: System, raw_backend: NewRaw, method: str) -> None:
    backend = resetting(raw_backend)
    name = f"twice-{method.lower()}"
    replicas(system, name, backend.url, retry="true")
    assert system.get("/", f"{name}.test", method, b"order=1").status == 502
    assert len(backend.received) == 1


def test_a_post_is_tried_again_where_no_connection_came_about(system: System, backend: Backend) -> None:
    refused = f"http://127.0.0.1:{free_port()}"
    replicas(system, "postrefused", refused, backend.url, retry="true")
    assert {system.get("/echo", "postrefused.test", "POST", b"order=1").status for _ in range(5)} == {200}
    assert len(backend.requests) == 5
    assert {body for _, _, _, body in backend.requests} == {b"order=1"}


def test_a_refused_connection_goes_to_another_replica_even_without_the_retry_option(system: System, backend: Backend) -> None:
    replicas(system, "failover", f"http://127.0.0.1:{free_port()}", backend.url)
    assert {system.get("/", "failover.test").status for _ in range(5)} == {200}


def test_a_small_body_is_kept_and_sent_again_whole(system: System, raw_backend: NewRaw) -> None:
    backend = resetting(raw_backend, 1)
    replicas(system, "kept", backend.url, retry="true")
    body = bytes(range(256)) * 200
    assert system.get("/", "kept.test", "PUT", body).status == 200
    assert backend.bodies == [body, body]  # type: ignore[attr-defined]


def test_a_large_body_that_went_out_is_not_sent_again(system: System, raw_backend: NewRaw) -> None:
    backend = resetting(raw_backend)
    replicas(system, "large", backend.url, retry="true")
    assert system.get("/", "large.test", "PUT", b"x" * 300_000).status == 502
    assert len(backend.received) == 1


def test_a_large_body_of_which_nothing_went_out_goes_to_another_replica(system: System, backend: Backend) -> None:
    replicas(system, "unsent", f"http://127.0.0.1:{free_port()}", backend.url, retry="true")
    assert system.get("/echo", "unsent.test", "POST", b"x" * 300_000).status == 200
    assert [len(body) for _, _, _, body in backend.requests] == [300_000]


def test_a_listed_status_is_tried_again_on_another_replica_first(system: System, new_backend: NewBackend) -> None:
    bad, good = new_backend("bad"), new_backend("good")
    bad.failing = 503
    replicas(system, "other", bad.url, good.url, retry="true", retry_on="503")
    assert {(answer.status, answer.headers["X-Backend"]) for answer in [system.get("/", "other.test") for _ in range(5)]} == {(200, "good")}
    assert len(bad.requests) <= 5


def test_a_status_that_is_not_listed_is_passed_on(system: System, new_backend: NewBackend) -> None:
    bad, good = new_backend("bad"), new_backend("good")
    bad.failing = 500
    replicas(system, "unlisted", bad.url, good.url, retry="true", retry_on="502,503", balance="round_robin")
    assert 500 in {system.get("/", "unlisted.test").status for _ in range(3)}


@pytest.mark.slow
def test_a_timeout_does_not_run_on_through_the_pause_between_two_attempts(system: System, raw_backend: NewRaw) -> None:
    def serve(sock: socket.socket) -> None:
        late.receive_head(sock)
        if len(late.received) == 1:
            threading.Event().wait(0.2)
            sock.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        else:
            # Ends with the connection: whoever believes that a timeout ended it cuts it.
            sock.sendall(b"HTTP/1.1 200 OK\r\n\r\nall of it")

    late = raw_backend(serve)
    replicas(system, "pause", late.url, retry="true", timeout="300ms", retry_backoff="constant", retry_initial_delay="2s")
    assert system.get("/", "pause.test").text == "all of it"


def test_when_all_attempts_fail_the_last_answer_of_the_upstream_is_passed_on(system: System, backend: Backend) -> None:
    backend.failing = 503
    replicas(system, "lastword", backend.url, retry="true", retry_max_attempts=3)
    answer = system.get("/", "lastword.test")
    assert (answer.status, answer.headers["X-Backend"], answer.text) == (503, "backend", "backend /\n")
    assert len(backend.requests) == 3


def test_a_timeout_is_tried_again_on_another_replica(system: System, raw_backend: NewRaw, backend: Backend) -> None:
    def serve(sock: socket.socket) -> None:
        silent.receive_head(sock)
        sock.recv(1)  # until the proxy gives up

    silent = raw_backend(serve)
    replicas(system, "silent", silent.url, backend.url, retry="true", timeout="2s")  # as long as the good one may need
    assert system.get("/", "silent.test").status == 200


def test_nothing_is_tried_again_after_a_byte_of_the_response_went_out(system: System, raw_backend: NewRaw) -> None:
    def serve(sock: socket.socket) -> None:
        cutting.receive_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

    cutting = raw_backend(serve)
    replicas(system, "started", cutting.url, retry="true")
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        system.get("/", "started.test")
    assert len(cutting.received) == 1


def test_a_failing_backend_gets_at_most_a_fifth_more_requests_than_clients_send(
        new_system: Callable[..., System], raw_backend: NewRaw) -> None:
    system = new_system(workers=1)
    backend = resetting(raw_backend)
    replicas(system, "budget", backend.url, retry="true", retry_backoff="none", retry_max_attempts=5)
    connection = http.client.HTTPConnection("127.0.0.1", system.proxy_port, timeout=10)
    count = 300
    for _ in range(count):
        connection.request("GET", "/", headers={"Host": "budget.test"})
        response = connection.getresponse()
        response.read()
        assert response.status == 502
    connection.close()
    # A fifth, and the five that a worker has at first.
    assert len(backend.received) == count + count // 5 + 5


def test_when_the_budget_is_spent_the_upstream_s_own_answer_is_passed_on(system: System, backend: Backend) -> None:
    backend.failing = 503
    replicas(system, "spent", backend.url, retry="true", retry_on="503", retry_backoff="none", retry_max_attempts=2)
    count = 40
    answers = [system.get("/", "spent.test") for _ in range(count)]
    assert {(answer.status, answer.text, answer.headers["X-Proxyd-Reason"]) for answer in answers} == {(503, "backend /\n", None)}
    # Some were not tried again, or the budget would not have been spent.
    assert count < len(backend.requests) < 2 * count


def test_the_budget_is_no_reason_to_fail_while_a_replica_refuses_connections(system: System, backend: Backend) -> None:
    replicas(system, "dead", f"http://127.0.0.1:{free_port()}", backend.url, retry="true", retry_max_attempts=2)
    assert {system.get("/", "dead.test").status for _ in range(50)} == {200}
    assert len(backend.requests) == 50


def test_a_kept_connection_that_the_backend_closed_just_then_is_replaced_and_counted_but_not_without_bound(
        system: System, raw_backend: NewRaw) -> None:
    def serve(sock: socket.socket) -> None:
        bad.receive_head(sock)
        sock.sendall(OK)
        bad.receive_head(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    bad = raw_backend(serve)
    client = replicas(system, "closing", bad.url)[0]
    assert [system.get("/", "closing.test").status for _ in range(6)] == [200] * 6
    # A POST may have been carried out: it is not sent again. It comes to a kept connection of one worker or the other.
    assert 502 in [system.get("/", "closing.test", "POST").status for _ in range(4)]
    statuses = [system.get("/", "closing.test").status for _ in range(100)]
    assert len(bad.received) <= 110 * 1.2 + 2 * 5
    assert 502 in statuses
    route_id = client.json("ROUTE_LIST|SID")[0]["route_id"]
    extra = len(bad.received) - 110
    wait_for(lambda: client.json(f"STATS_GET|SID|{route_id}")["retries"] == extra, what="the attempts in STATS")


def test_a_client_that_went_away_is_not_tried_for_again(system: System, raw_backend: NewRaw) -> None:
    def serve(sock: socket.socket) -> None:
        gone.receive_head(sock)
        sock.recv(1)

    gone = raw_backend(serve)
    replicas(system, "gone", gone.url, retry="true", retry_backoff="none")
    with socket.create_connection(("127.0.0.1", system.proxy_port)) as sock:
        sock.sendall(b"GET /gone-away HTTP/1.1\r\nHost: gone.test\r\n\r\n")
        wait_for(lambda: gone.received)
    wait_for(lambda: "/gone-away" in system.access_log(), what="the end of the request")
    assert len(gone.received) == 1
    with contextlib.suppress(OSError):
        gone.stop()
