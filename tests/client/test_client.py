"""The client library against a registry that keeps sessions on real sockets and can be told to misbehave."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import socket
import socketserver
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxyd.client import Client, ClientError, ConnectionLost, Event
from proxyd.client.memory import Memory
from tests.support.waiting import patience, wait_for


class ScriptedRegistry(socketserver.ThreadingTCPServer):
    """Speaks the protocol by rote: known commands get their usual answer, `answers` overrides one by name."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Conversation)
        self.lines: list[str] = []
        self.answers: dict[str, Callable[[Conversation, list[str]], str | None]] = {}
        self.sessions: set[str] = set()
        self.open: list[Conversation] = []
        self.count = 0
        self.routes = 0
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def commands(self) -> list[str]:
        """The names of the commands that came, pings left out."""
        return [name for name in (line.split("|")[0] for line in list(self.lines)) if name != "PING"]

    def drop(self) -> None:
        """Cut every connection."""
        for conversation in list(self.open):
            conversation.cut()

    def forget(self) -> None:
        """Forget every session, as after the grace."""
        self.sessions.clear()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self.drop()


class Conversation(socketserver.StreamRequestHandler):
    server: ScriptedRegistry

    def setup(self) -> None:
        super().setup()
        self.server.open.append(self)

    def finish(self) -> None:
        self.server.open.remove(self)

    def cut(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def say(self, line: str) -> None:
        self.connection.sendall(line.encode() + b"\n")

    def handle(self) -> None:
        try:
            for raw in self.rfile:
                line = raw.decode().rstrip("\n")
                fields = line.split("|")
                self.server.lines.append(line)
                answer = self.server.answers.get(fields[0], Conversation.usual)(self, fields)
                if answer is not None:
                    self.say(answer)
                if fields[0] == "CLIENT_SHUTDOWN":
                    return
        except OSError:
            return

    def usual(self, fields: list[str]) -> str:
        server, name = self.server, fields[0]
        with server.lock:
            if name == "REGISTER":
                server.count += 1
                server.sessions.add(f"sid-{server.count}")
                return f"ACK|sid-{server.count}"
            if name == "RECONNECT":
                return "OK" if fields[1] in server.sessions else "REREGISTER"
            if fields[1] not in server.sessions:
                return "ERROR|invalid session"
            if name == "ROUTE_ADD":
                server.routes += 1
                return f"ROUTE_OK|r{server.routes}"
            if name == "ROUTE_ADD_BULK":
                added = []
                for _ in json.loads("|".join(fields[2:])):
                    server.routes += 1
                    added.append({"route_id": f"r{server.routes}", "status": "ok"})
                return "ROUTE_BULK_OK|" + json.dumps(added)
        return {"PING": "PONG", "CLIENT_SHUTDOWN": "SHUTDOWN_OK", "HEALTH_SET": "HEALTH_OK", "OPTIONS_SET": "OPTIONS_OK",
                "SUBSCRIBE": "SUBSCRIBE_OK", "UNSUBSCRIBE": "UNSUBSCRIBE_OK", "HEADERS_SET": "HEADERS_OK"}.get(name, "OK")


@pytest.fixture
def registry() -> Iterator[ScriptedRegistry]:
    server = ScriptedRegistry()
    yield server
    server.stop()


def client_of(registry: ScriptedRegistry, **more: Any) -> Client:
    return Client(**{"address": registry.address, "service": "shop", "instance": "shop-1", "timeout": 3.0, **more})


def until(condition: Callable[[], Any], seconds: float = 5.0) -> None:
    wait_for(condition, seconds, pause=0.005)


def test_a_block_registers_stages_applies_and_says_goodbye(registry: ScriptedRegistry) -> None:
    with client_of(registry, metadata={"zone": "a|b"}, maintenance_port=9) as client:
        route = client.route_add(["a.test", "b.test"], "/", "http://127.0.0.1:5000", 7)
        client.health_set(route, "/healthz", 1.5, "500ms")
        client.options_set("ALL", "retry", True)
        client.apply()
    assert registry.lines == [
        'REGISTER|shop|shop-1|9|{"zone":"a|b"}',
        "ROUTE_ADD|sid-1|a.test,b.test|/|http://127.0.0.1:5000|7",
        "HEALTH_SET|sid-1|r1|/healthz|1500ms|500ms",
        "OPTIONS_SET|sid-1|ALL|retry|true",
        "CONFIG_APPLY|sid-1",
        "CLIENT_SHUTDOWN|sid-1",
    ]


def test_a_token_travels_in_the_metadata(registry: ScriptedRegistry) -> None:
    with client_of(registry, token="secret"):
        assert registry.lines == ['REGISTER|shop|shop-1|0|{"token":"secret"}']


def test_an_error_is_raised_with_the_message_of_the_registry(registry: ScriptedRegistry) -> None:
    registry.answers["CONFIG_VALIDATE"] = lambda *_: 'ERROR|route r2: priority: "ten" is not a whole number'
    with client_of(registry) as client, pytest.raises(ClientError, match='^route r2: priority: "ten" is not a whole number$'):
        client.validate()


def test_a_field_that_would_break_the_line_is_never_sent(registry: ScriptedRegistry) -> None:
    with client_of(registry) as client:
        with pytest.raises(ClientError, match="control character"):
            client.headers_set("ALL", "X-A", "one\nROUTE_REMOVE|r1")
        with pytest.raises(ClientError, match="separates fields"):
            client.route_update("r1|r2", "path", "/")
        client.headers_set("ALL", "X-A", "one|two")
    assert registry.commands() == ["REGISTER", "HEADERS_SET", "CLIENT_SHUTDOWN"]


def test_nobody_listening_is_a_lost_connection_that_names_the_address() -> None:
    with pytest.raises(ConnectionLost, match="127.0.0.1:1"):
        Client("127.0.0.1:1", service="shop", instance="1").connect()


def test_connect_waits_for_a_registry_that_starts_later() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    servers: list[ScriptedRegistry] = []
    timer = threading.Timer(0.3, lambda: servers.append(ScriptedRegistry(port)))
    timer.start()
    client = Client(f"127.0.0.1:{port}", service="shop", instance="1").connect(wait=10)
    assert client.connected
    client.close()
    servers[0].stop()


def test_events_between_answers_reach_callbacks_and_shift_no_answer(registry: ScriptedRegistry) -> None:
    def with_events(conversation: Conversation, fields: list[str]) -> str:
        conversation.say('EVENT|backend_health_changed|{"route_id":"r1","healthy":false}')
        conversation.say('EVENT|drain_progress|{"traffic_percent":90}')
        return 'SESSION_OK|{"service_name":"shop"}'

    registry.answers["SESSION_INFO"] = with_events
    seen: list[Event] = []
    with client_of(registry) as client:
        client.subscribe("all", seen.append)
        stream = client.events("drain_progress", silence=15)
        assert client.session_info() == {"service_name": "shop"}
        assert next(stream) == Event("drain_progress", {"traffic_percent": 90})
        until(lambda: len(seen) == 2)
    assert seen[0].data == {"route_id": "r1", "healthy": False}


def test_a_callback_may_send_commands(registry: ScriptedRegistry) -> None:
    def with_event(conversation: Conversation, fields: list[str]) -> str:
        conversation.say('EVENT|circuit_state_changed|{"route_id":"r1"}')
        return "PONG"

    done = threading.Event()
    with client_of(registry) as client:
        def react(event: Event) -> None:
            client.circuit_reset(event.data["route_id"])
            done.set()
        client.subscribe("circuit_state_changed", react)
        registry.answers["PING"] = with_event
        client.ping()
        assert done.wait(patience(5))
    assert "CIRCUIT_BREAKER_RESET|sid-1|r1" in registry.lines


def test_the_second_answer_of_maintenance_belongs_to_the_command(registry: ScriptedRegistry) -> None:
    def maintenance(conversation: Conversation, fields: list[str]) -> str:
        conversation.say("ACK")
        return f"MAINT_OK|{fields[2]}"

    def lifted(conversation: Conversation, fields: list[str]) -> str:
        conversation.say("ACK")
        return "ERROR|backend silent, maintenance lifted"

    registry.answers["MAINT_ENTER"] = maintenance
    registry.answers["MAINT_EXIT"] = lifted
    with client_of(registry) as client:
        assert client.maint_enter("/admin") == "/admin"
        with pytest.raises(ClientError, match="maintenance lifted"):
            client.maint_exit("/admin")
        assert client.send("MAINT_ENTER|{sid}|ALL|") == "MAINT_OK|ALL"
        client.ping()


def test_a_cut_connection_is_taken_up_again_within_the_grace(registry: ScriptedRegistry) -> None:
    with client_of(registry) as client:
        client.subscribe("drain_progress", lambda event: None)
        again = client.events("reconnected", silence=15)
        registry.drop()
        assert next(again).data == {"session_id": "sid-1"}
        client.ping()
    assert registry.commands() == ["REGISTER", "SUBSCRIBE", "RECONNECT", "SUBSCRIBE", "CLIENT_SHUTDOWN"]


def test_a_forgotten_session_is_registered_anew_and_its_configuration_replayed(registry: ScriptedRegistry) -> None:
    with client_of(registry) as client:
        first, second = client.route_add_bulk([
            {"domains": ["a.test"], "path": "/", "backend_url": "http://127.0.0.1:1"},
            {"domains": ["b.test"], "path": "/", "backend_url": "http://127.0.0.1:2", "priority": 3}])
        client.health_set(first, "/healthz")
        client.options_set("ALL", "timeout", "5s")
        client.apply()
        client.route_update(first, "backend_url", "http://127.0.0.1:9")
        client.route_remove(second)
        client.apply()
        client.options_set(first, "retry", "true")
        before = len(registry.lines)
        again = client.events("reregistered", silence=15)
        registry.forget()
        registry.drop()
        next(again)
        assert client.current_route_id(first) == "r3"
        client.circuit_reset(first)
        replayed = [line for line in registry.lines[before:] if not line.startswith("PING")]
    assert replayed == [
        "RECONNECT|sid-1", "REGISTER|shop|shop-1|0|{}",
        "ROUTE_ADD|sid-2|a.test|/|http://127.0.0.1:9|0",
        "HEALTH_SET|sid-2|r3|/healthz|10s|5s",
        "OPTIONS_SET|sid-2|ALL|timeout|5s",
        "CONFIG_APPLY|sid-2",
        "OPTIONS_SET|sid-2|r3|retry|true",
        "CIRCUIT_BREAKER_RESET|sid-2|r3",
    ]


def test_a_replay_that_fails_is_done_again_from_the_start(registry: ScriptedRegistry) -> None:
    refusals = iter(["ERROR|a.test / is held by other/other-1"])
    with client_of(registry) as client:
        route = client.route_add("a.test", "/", "http://127.0.0.1:1")
        client.apply()
        registry.answers["CONFIG_APPLY"] = lambda *_: next(refusals, "OK")
        again = client.events("reregistered", silence=15)
        registry.forget()
        registry.drop()
        next(again)
        assert registry.commands().count("ROUTE_ADD") == 3
        assert client.current_route_id(route) in {"r2", "r3"}


def test_a_repeatable_command_whose_answer_was_lost_is_sent_again(registry: ScriptedRegistry) -> None:
    cuts = iter([True])

    def cut_once(conversation: Conversation, fields: list[str]) -> str | None:
        if next(cuts, False):
            conversation.cut()
            return None
        return "OK"

    registry.answers["CONFIG_APPLY"] = cut_once
    with client_of(registry) as client:
        client.apply()
    assert registry.commands() == ["REGISTER", "CONFIG_APPLY", "RECONNECT", "CONFIG_APPLY", "CLIENT_SHUTDOWN"]


def test_an_added_route_whose_answer_was_lost_is_not_added_twice(registry: ScriptedRegistry) -> None:
    registry.answers["ROUTE_ADD"] = lambda conversation, _: conversation.cut()
    with client_of(registry) as client:
        with pytest.raises(ConnectionLost):
            client.route_add("a.test", "/", "http://127.0.0.1:1")
        client.rollback()
    assert registry.commands().count("ROUTE_ADD") == 1


def test_a_silent_registry_costs_a_connection_not_the_order_of_answers(registry: ScriptedRegistry) -> None:
    registry.answers["DRAIN_START"] = lambda *_: None
    registry.answers["DRAIN_STATUS"] = lambda *_: 'DRAIN_STATUS_OK|{"active":true}'
    with client_of(registry, timeout=2.0) as client:
        with pytest.raises(ConnectionLost, match="no answer"):
            client.drain_start(60)
        assert client.drain_status() == {"active": True}
    assert "DRAIN_START|sid-1|1m" in registry.lines


@pytest.fixture
def pair(registry: ScriptedRegistry) -> Iterator[tuple[ScriptedRegistry, ScriptedRegistry]]:
    """Two hosts that are one registry: what one knows of sessions, the other knows."""
    other = ScriptedRegistry()
    other.sessions = registry.sessions
    yield registry, other
    other.stop()


def test_a_session_goes_to_the_first_host_that_can_be_reached(pair: tuple[ScriptedRegistry, ScriptedRegistry], full_port: int) -> None:
    first, second = pair
    with client_of(first, address=[first.address, second.address]):
        assert (first.commands(), second.commands()) == (["REGISTER"], [])
    first.stop()
    # One host is gone, and one takes no connection: it does not get the whole time limit.
    began = time.monotonic()
    with client_of(first, address=f"{first.address}, 127.0.0.1:{full_port},{second.address}", timeout=30.0) as client:
        assert client.connected
        assert second.commands() == ["REGISTER"]
    assert time.monotonic() - began < patience(10)


def test_a_session_goes_on_at_the_next_host_when_its_own_is_gone(pair: tuple[ScriptedRegistry, ScriptedRegistry]) -> None:
    first, second = pair
    with client_of(first, address=[first.address, second.address]) as client:
        session_id = client.session_id
        first.stop()
        until(lambda: second.commands() == ["RECONNECT"])
        until(lambda: client.connected)
        assert client.session_id == session_id
        client.apply()
        assert second.commands()[-1] == "CONFIG_APPLY"


def test_a_host_that_refuses_is_left_for_the_next(pair: tuple[ScriptedRegistry, ScriptedRegistry]) -> None:
    first, second = pair
    first.answers["REGISTER"] = lambda conversation, fields: conversation.cut()
    with client_of(first, address=[first.address, second.address]).connect(wait=5) as client:
        assert client.connected
        assert (first.commands(), second.commands()) == (["REGISTER"], ["REGISTER"])


def test_no_address_at_all_is_refused(registry: ScriptedRegistry) -> None:
    with pytest.raises(ClientError, match="no address"):
        client_of(registry, address=" , ")


def test_the_session_is_pinged_and_one_replaced_by_another_is_registered_again(registry: ScriptedRegistry) -> None:
    with client_of(registry, ping_interval=0.05) as client:
        until(lambda: sum(line.startswith("PING") for line in registry.lines) >= 2)
        registry.forget()
        until(lambda: client.session_id == "sid-2")


def test_a_stopping_registry_is_told_and_found_again_after_its_restart(registry: ScriptedRegistry) -> None:
    client = client_of(registry).connect()
    told = client.events("shutdown", "reconnected", silence=15)
    for conversation in registry.open:
        conversation.say("SHUTDOWN")
    assert next(told).type == "shutdown"
    port = registry.server_address[1]
    registry.stop()
    again = ScriptedRegistry(port)
    again.sessions = registry.sessions
    assert next(told).type == "reconnected"
    client.close()
    again.stop()


def test_an_answer_too_large_for_a_line_is_asked_for_compressed(registry: ScriptedRegistry) -> None:
    routes = [{"route_id": "r1", "domains": ["a.test"]}]

    def too_large(conversation: Conversation, fields: list[str]) -> str:
        if fields[-1] != "compressed":
            return "ERROR|response too large (70000 bytes), ask for compressed"
        return "ROUTE_LIST_OK|" + base64.b64encode(gzip.compress(json.dumps(routes).encode())).decode()

    registry.answers["ROUTE_LIST"] = too_large
    with client_of(registry) as client:
        assert client.route_list() == routes


def test_a_failed_backend_test_is_an_answer(registry: ScriptedRegistry) -> None:
    registry.answers["BACKEND_TEST"] = lambda *_: 'BACKEND_FAIL|{"reachable":false,"error":"refused"}'
    with client_of(registry) as client:
        assert client.backend_test("http://127.0.0.1:1/") == {"reachable": False, "error": "refused"}


def test_commands_of_many_threads_get_their_own_answers(registry: ScriptedRegistry) -> None:
    registry.answers["ROUTE_STATUS"] = lambda _, fields: f'ROUTE_STATUS_OK|{{"route_id":"{fields[2]}"}}'
    wrong: list[str] = []
    with client_of(registry) as client:
        def work(number: int) -> None:
            for turn in range(50):
                name = f"x{number}-{turn}"
                if client.route_status(name)["route_id"] != name:
                    wrong.append(name)
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert wrong == []


def test_a_raw_goodbye_ends_the_client_instead_of_registering_again(registry: ScriptedRegistry) -> None:
    client = client_of(registry).connect()
    assert client.send("CLIENT_SHUTDOWN|{sid}") == "SHUTDOWN_OK"
    with pytest.raises(ConnectionLost, match="closed"):
        client.ping()
    assert registry.commands() == ["REGISTER", "CLIENT_SHUTDOWN"]


def test_unix_sockets_are_addresses_too(tmp_path: Path) -> None:
    path = tmp_path / "registry.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            peer, _ = listener.accept()
            with peer, peer.makefile("rw", newline="\n") as stream:
                for line in stream:
                    stream.write("ACK|sid-1\n" if line.startswith("REGISTER") else "SHUTDOWN_OK\n")
                    stream.flush()
        threading.Thread(target=serve, daemon=True).start()
        with Client(f"unix:{path}", service="shop", instance="1") as client:
            assert client.session_id == "sid-1"


def test_a_tls_registry_is_spoken_to_by_many_threads_at_once(tmp_path: Path) -> None:
    pem = tmp_path / "registry.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(pem), "-out", str(tmp_path / "crt")],
        check=True, capture_output=True)
    pem.write_text(pem.read_text() + (tmp_path / "crt").read_text())
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(pem)
    server = ScriptedRegistry()
    server.socket = server_side.wrap_socket(server.socket, server_side=True)
    try:
        with client_of(server, tls=ssl.create_default_context(cafile=tmp_path / "crt"), ping_interval=0.02) as client:
            def validate_often() -> None:
                for _ in range(50):
                    client.validate()

            threads = [threading.Thread(target=validate_often) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(10)
        assert server.commands().count("CONFIG_VALIDATE") == 200
        with pytest.raises(ConnectionLost, match="certificate"):
            client_of(server, tls=True).connect()
    finally:
        server.stop()


def test_memory_folds_what_is_set_again_and_again() -> None:
    memory = Memory()
    memory.record("ROUTE_ADD", ("a.test", "/", "http://h:1", "0"), "r1")
    for number in range(100):
        memory.record("ROUTE_UPDATE", ("r1", "priority", str(number)), "")
        memory.record("OPTIONS_SET", ("r1", "timeout", f"{number + 1}s"), "")
        memory.record("CONFIG_APPLY", (), "")
    kept = [change.fields for change in memory.applied.values()]
    assert kept == [("a.test", "/", "http://h:1", "99"), ("r1", "timeout", "100s")]


def test_memory_keeps_request_headers_apart_by_name_and_from_headers() -> None:
    memory = Memory()
    for name in ("X-A", "x-a", "X-B"):
        memory.record("REQUEST_HEADERS_SET", ("ALL", name, "1"), "")
    memory.record("HEADERS_SET", ("ALL", "X-A", "1"), "")
    memory.record("REQUEST_HEADERS_REMOVE", ("ALL", "x-b"), "")
    memory.record("CONFIG_APPLY", (), "")
    kept = [(change.command, change.fields[1]) for change in memory.applied.values()]
    assert kept == [("REQUEST_HEADERS_SET", "x-a"), ("HEADERS_SET", "X-A")]


def test_memory_applies_only_the_scopes_that_were_applied() -> None:
    memory = Memory()
    memory.record("ROUTE_ADD", ("a.test", "/", "http://h:1", "0"), "r1")
    memory.record("OPTIONS_SET", ("r1", "timeout", "5s"), "")
    memory.record("CONFIG_APPLY_PARTIAL", ("routes",), "")
    assert list(memory.applied) == [("route", "r1")]
    memory.record("CONFIG_ROLLBACK", (), "")
    assert memory.staged == []


def test_the_client_works_under_gevent_monkey_patching(registry: ScriptedRegistry) -> None:
    program = textwrap.dedent("""
        from gevent import monkey
        monkey.patch_all()
        import sys
        import gevent
        from proxyd.client import Client
        with Client(sys.argv[1], service="shop", instance="green", ping_interval=0.05) as client:
            again = client.events("reconnected", silence=5)
            print("ready", flush=True)
            print(next(again).type, flush=True)
            gevent.sleep(0.1)
    """)
    process = subprocess.Popen([sys.executable, "-c", program, registry.address], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    until(lambda: any(line.startswith("PING") for line in registry.lines))
    registry.drop()
    assert process.stdout.readline() == "reconnected\n"
    assert process.wait(patience(10)) == 0
    process.stdout.close()
