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
    """A PING was answered. On a server's side it is that of `shut_down`: the client knows that it must not begin new streams."""


@dataclass(slots=True)
class Answer:
    """The head of an answer, in the client's role; an informational one too. `size` as in Request; `ended`: there is no body."""

    stream: Stream
    fields: list[Field]
    size: int
    ended: bool


@dataclass(slots=True)
class Leaving:
    """The server takes no more streams, and has not looked at those above `last` (GOAWAY), in the client's role."""

    last: int
    code: int
    detail: str


Event = Request | Body | Trailers | Ended | Pong | Answer | Leaving
