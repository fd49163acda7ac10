"""gRPC through the proxy, with grpcio on both ends, in the clear and over TLS."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from proxyd.http1 import parse_request_head
from proxyd.proxy.core.grpc import time_limit
from tests.edge.conftest import make_route
from tests.support.certificates import Authority
from tests.support.system import System
from tests.support.waiting import free_port, patience, wait_for

Code = grpc.StatusCode


class Service(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Methods on bytes, by name."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.started = threading.Event()

    def service(self, details: Any) -> Any:
        name = details.method.rpartition("/")[2]
        kind = {"Unary": grpc.unary_unary_rpc_method_handler, "Slow": grpc.unary_unary_rpc_method_handler,
                "Fail": grpc.unary_unary_rpc_method_handler, "Down": grpc.unary_stream_rpc_method_handler,
                "Endless": grpc.unary_stream_rpc_method_handler, "Up": grpc.stream_unary_rpc_method_handler,
                "Both": grpc.stream_stream_rpc_method_handler}.get(name)
        return kind(getattr(self, name)) if kind is not None else None

    def Unary(self, request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("x-sum", str(len(request))),))
        return request

    def Slow(self, request: bytes, context: Any) -> bytes:
        context.add_callback(self.cancelled.set)
        self.started.set()
        self.cancelled.wait(10)
        return request

    def Fail(self, request: bytes, context: Any) -> bytes:
        context.abort(Code.FAILED_PRECONDITION, "not now: \u00e4")
        return b""

    def Down(self, request: bytes, context: Any) -> Iterator[bytes]:
        for number in range(int(request)):
            yield b"%d" % number

    def Endless(self, request: bytes, context: Any) -> Iterator[bytes]:
        context.add_callback(self.cancelled.set)
        while context.is_active():
            yield b"tick"
            time.sleep(0.01)

    def Up(self, requests: Iterator[bytes], context: Any) -> bytes:
        return b"%d" % sum(int(request) for request in requests)

    def Both(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        for request in requests:
            yield request + b"!"


class World:
    """A proxy that takes HTTP/2 in the clear and over TLS, and a gRPC server of either kind behind it."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory)
        self.tls_port = free_port()
        self.system = System(directory / "system", workers=1, tls__bind=f"127.0.0.1:{self.tls_port}", proxy__http2_cleartext="yes",
                             tls__certificates=self.authority.issue("grpc.pem", "*.grpc.test"))
        self._certificate = self.authority.issue("backend.pem", "localhost")
        self.servers: list[Any] = []

    def serve(self, tls: bool = False, state: health.HealthServicer | None = None) -> tuple[Service, str, Any]:
        """A server: its methods, its url, and itself. `state`: its health service, if it has one."""
        service = Service()
        server = grpc.server(concurrent.futures.ThreadPoolExecutor(16), handlers=(service,), options=(("grpc.so_reuseport", 0),))
        if state is not None:
            health_pb2_grpc.add_HealthServicer_to_server(state, server)
        if tls:
            pem = self._certificate.read_bytes()
            # By the name, it would listen on ::1, and on 127.0.0.1 only if nobody else has that port there.
            port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(((pem, pem),)))
        else:
            port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        self.servers.append(server)
        return service, f"https://127.0.0.1:{port}" if tls else f"h2c://127.0.0.1:{port}", server

    def channel(self, host: str, tls: bool = False) -> Any:
        """A channel to the proxy for a host."""
        if not tls:
            return grpc.insecure_channel(f"127.0.0.1:{self.system.proxy_port}", (("grpc.default_authority", host),))
        credentials = grpc.ssl_channel_credentials(self.authority.file.read_bytes())
        return grpc.secure_channel(f"127.0.0.1:{self.tls_port}", credentials, (
            ("grpc.ssl_target_name_override", host), ("grpc.default_authority", host)))

    def stop(self) -> None:
        for server in self.servers:
            server.stop(None)
        self.system.stop()


_hosts = iter(range(1, 1000))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    running = World(tmp_path_factory.mktemp("grpc"))
    yield running
    running.stop()


Call = Callable[..., Any]


def routed(world: World, url: str, **options: str) -> str:
    """A new route's domain."""
    return make_route(world.system, url, domain=f"h{next(_hosts)}.grpc.test", **options)


@pytest.mark.parametrize(("tls", "count"), [(False, 1000), (True, 100)], ids=["clear", "tls"])
def test_a_thousand_calls_of_each_kind(tls: bool, count: int, world: World) -> None:
    _, url, _ = world.serve(tls)
    host = routed(world, url, **({"http2": "true", "tls_verify": "false"} if tls else {}))
    with world.channel(host, tls) as channel:
        unary, down = channel.unary_unary("/s.T/Unary"), channel.unary_stream("/s.T/Down")
        up, both = channel.stream_unary("/s.T/Up"), channel.stream_stream("/s.T/Both")
        answers = [unary.future(b"%d" % number, timeout=30) for number in range(count)]
        assert [answer.result() for answer in answers] == [b"%d" % number for number in range(count)]
        assert answers[0].trailing_metadata()[0] == ("x-sum", "1")
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert set(pool.map(lambda _: b"".join(down(b"3", timeout=30)), range(count))) == {b"012"}
            assert set(pool.map(lambda _: up(iter((b"1", b"2")), timeout=30), range(count))) == {b"3"}
            assert set(pool.map(lambda _: b"".join(both(iter((b"a", b"b")), timeout=30)), range(count))) == {b"a!b!"}
        big = bytes(3 << 20)
        assert unary(big, timeout=30) == big


def test_messages_pass_as_they_come(world: World) -> None:
    _, url, _ = world.serve()
    ready = threading.Event()
    answered: list[bytes] = []

    def asks() -> Iterator[bytes]:
        for number in range(3):
            yield b"%d" % number
            wait_for(lambda: len(answered) > number)  # noqa: B023
        ready.set()

    with world.channel(routed(world, url)) as channel:
        for answer in channel.stream_stream("/s.T/Both")(asks(), timeout=10):
            answered.append(answer)  # noqa: PERF402
    assert answered == [b"0!", b"1!", b"2!"]
    assert ready.is_set()


def test_a_servers_own_statuses_pass(world: World) -> None:
    _, url, _ = world.serve()
    with world.channel(routed(world, url)) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/s.T/Fail")(b"", timeout=10)
        assert (caught.value.code(), caught.value.details()) == (Code.FAILED_PRECONDITION, "not now: \u00e4")
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/s.T/Unknown")(b"", timeout=10)
        assert caught.value.code() == Code.UNIMPLEMENTED


def test_a_deadline_ends_the_call_on_the_server_too(world: World) -> None:
    service, url, _ = world.serve()
    with world.channel(routed(world, url)) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/s.T/Slow")(b"", timeout=2)
        assert caught.value.code() == Code.DEADLINE_EXCEEDED
        assert service.cancelled.wait(patience(3))


def test_a_client_that_cancels_hundreds_of_calls_keeps_its_connection(world: World) -> None:
    _, url, _ = world.serve()
    with world.channel(routed(world, url)) as channel:
        kept = channel.unary_stream("/s.T/Endless")(b"", timeout=60)
        assert next(kept) == b"tick"
        for _ in range(8):
            calls = [channel.unary_unary("/s.T/Unary").future(b"x", timeout=30) for _ in range(90)]
            for call in calls:
                call.cancel()
        # A connection that is ended would end this call with UNAVAILABLE.
        assert channel.unary_unary("/s.T/Unary")(b"last", timeout=30) == b"last"
        assert next(kept) == b"tick"
        kept.cancel()


@pytest.mark.parametrize("method", ["Slow", "Endless"])
def test_a_cancelled_call_ends_on_the_server(method: str, world: World) -> None:
    service, url, _ = world.serve()
    with world.channel(routed(world, url)) as channel:
        if method == "Slow":
            call = channel.unary_unary("/s.T/Slow").future(b"")
            assert service.started.wait(patience(5))
        else:
            call = channel.unary_stream("/s.T/Endless")(b"")
            assert next(call) == b"tick"
        call.cancel()
        assert service.cancelled.wait(patience(3))


def test_a_server_that_is_killed_amid_a_stream_is_unavailable(world: World) -> None:
    _, url, server = world.serve()
    with world.channel(routed(world, url)) as channel:
        call = channel.unary_stream("/s.T/Endless")(b"", timeout=20)
        assert next(call) == b"tick"
        server.stop(None)
        with pytest.raises(grpc.RpcError) as caught:
            for _ in call:
                pass
        assert caught.value.code() in (Code.UNAVAILABLE, Code.CANCELLED)
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/s.T/Unary")(b"", timeout=5)
        assert caught.value.code() == Code.UNAVAILABLE


def test_a_service_that_says_that_it_does_not_serve_gets_no_calls(world: World) -> None:
    state = health.HealthServicer()
    state.set("s.T", health_pb2.HealthCheckResponse.SERVING)
    _, url, _ = world.serve(state=state)
    client = world.system.client("healthy", "i1")
    route_id = client.route("healthy.grpc.test", url, "/", apply=False)
    client.ok(f"HEALTH_SET|SID|{route_id}|grpc://s.T|100ms|5s")
    client.apply()
    with world.channel("healthy.grpc.test") as channel:
        unary = channel.unary_unary("/s.T/Unary")

        def code() -> Any:
            call = unary.future(b"x", timeout=30)
            return call.code()

        wait_for(lambda: code() == Code.OK)
        state.set("s.T", health_pb2.HealthCheckResponse.NOT_SERVING)
        wait_for(lambda: code() == Code.UNAVAILABLE)
        state.set("s.T", health_pb2.HealthCheckResponse.SERVING)
        wait_for(lambda: code() == Code.OK)


def refusal(world: World, host: str, path: str = "/s.T/Unary", **named: float) -> grpc.RpcError:
    """How a call fails."""
    with world.channel(host) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(path)(b"x", timeout=named.get("timeout", 10))
    return caught.value


def test_refusals_are_statuses_of_grpc(world: World) -> None:
    _, url, _ = world.serve()
    unknown = refusal(world, "nobody.grpc.test")
    assert (unknown.code(), dict(unknown.initial_metadata() or unknown.trailing_metadata())["x-proxyd-reason"]) == (
        Code.UNIMPLEMENTED, "unknown_host")
    assert "no route is known" in (unknown.details() or "")
    dead = refusal(world, routed(world, f"h2c://127.0.0.1:{free_port()}"))
    assert dead.code() == Code.UNAVAILABLE
    slow = refusal(world, routed(world, url, timeout="200ms"), "/s.T/Slow")
    assert slow.code() == Code.DEADLINE_EXCEEDED
    client = world.system.client("limited", "i1")
    route_id = client.route("limited.grpc.test", url, "/", apply=False)
    client.ok(f"RATELIMIT_SET|SID|{route_id}|1|1h")
    client.apply()
    with world.channel("limited.grpc.test") as channel:
        assert channel.unary_unary("/s.T/Unary")(b"x", timeout=10) == b"x"
    limited = refusal(world, "limited.grpc.test")
    assert limited.code() == Code.RESOURCE_EXHAUSTED
    assert " 429 " in world.system.access_log() or wait_for(lambda: " 429 " in world.system.access_log())


@pytest.mark.parametrize(("text", "seconds"), [
    ("100m", 0.1), ("5S", 5.0), ("2M", 120.0), ("1H", 3600.0), ("7u", 7e-6), ("9n", 9e-9), ("123456789S", None), ("5", None), ("-1S", None),
    ("", None),
])
def test_how_a_client_gives_time(text: str, seconds: float | None) -> None:
    head = parse_request_head(f"POST / HTTP/1.1\r\nHost: a\r\ngrpc-timeout: {text}\r\n\r\n".encode())
    assert time_limit(head) == pytest.approx(float("inf") if seconds is None else seconds)
