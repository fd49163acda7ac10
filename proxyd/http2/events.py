"""What the engine tells of what has come."""

from __future__ import annotations

from dataclasses import dataclass

from proxyd.http2.stream import Stream

Field = tuple[bytes, bytes]


@dataclass(slots=True)
class Request:
    """A stream has begun. `fields` as they came; `size` is that of all of them, also of those left out because of the limit."""

    stream: Stream
    fields: list[Field]
    size: int


@dataclass(slots=True)
class Body:
    """A piece of a request's body; empty where only the end has come."""

    stream: Stream
    data: bytes
    ended: bool


@dataclass(slots=True)
class Trailers:
    """The fields behind a body, which has ended with them."""

    stream: Stream
    fields: list[Field]


@dataclass(slots=True)
class Ended:
    """A stream was reset: by the client, or (`detail` says why) by us because of what it sent."""

    stream: Stream
    code: int
    detail: str


@dataclass(slots=True)
class Pong:
    """The client has answered the PING of `shut_down`, so it knows that it must not begin new streams."""


Event = Request | Body | Trailers | Ended | Pong
