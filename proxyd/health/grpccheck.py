"""gRPC's health check (grpc.health.v1), on a connection that the probe has opened."""

from __future__ import annotations

from collections.abc import Sequence

from proxyd import __version__
from proxyd.http2.asking import Asker, Failed

USER_AGENT = ("user-agent", f"proxyd-health/{__version__}")
_RECEIVE = 65536
_PATH = "/grpc.health.v1.Health/Check"
_SERVING = 1
_STATES = {0: "UNKNOWN", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}


def ask_health(asker: Asker, scheme: str, authority: str, service: str, fields: Sequence[tuple[str, str]] = ()) -> None:
    """Ask gRPC's health service whether a service serves; empty: the server. `fields`: what goes with the question. Raises Failed if it
    does not serve."""
    name = service.encode()
    message = b"\x0a" + bytes((len(name),)) + name if name else b""
    own = [(name.lower(), value) for name, value in fields if name.lower() not in ("accept", "content-type")] or [USER_AGENT]
    reply = asker.ask("POST", scheme, authority, _PATH, (*own, ("content-type", "application/grpc"), ("te", "trailers")),
                     b"\0" + len(message).to_bytes(4, "big") + message, _RECEIVE)
    outcome = reply.fields.get(b"grpc-status", b"").decode("latin-1")
    if reply.status != 200 or not outcome:
        raise Failed(f"status {reply.status} from what is no gRPC server")
    if outcome != "0":
        told = reply.fields.get(b"grpc-message", b"").decode("latin-1")[:200]
        raise Failed(f"grpc-status {outcome}" + (f": {told}" if told else ""))
    state = _serving_status(reply.body)
    if state != _SERVING:
        raise Failed(f"the service is {_STATES.get(state, state)}")


def _serving_status(body: bytes) -> int:
    """The status in a HealthCheckResponse, which has no other field; one that is 0 is left out."""
    message = body[5:]
    return message[1] if len(message) >= 2 and message[0] == 0x08 else 0
