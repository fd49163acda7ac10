"""The parts of a worker that a client's connection needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from proxyd.config.settings import Settings
from proxyd.http1 import HeadLimits
from proxyd.net.stream import DirectStream
from proxyd.proxy.core.pace import Rates
from proxyd.proxy.core.watchdog import Watchdog

if TYPE_CHECKING:
    from proxyd.net.clientcert import ClientCertificate


class ClientStream(DirectStream, Protocol):
    """A stream from a client. `certificate`: what the client has shown in its handshake; `asked`: whether it was asked."""

    certificate: ClientCertificate | None
    asked: bool


class Front(Protocol):
    """The parts of a worker's Runtime that the modules of this room use."""

    settings: Settings
    trusts: Callable[[str], bool]
    via: str
    via_field: str
    buffers: list[memoryview]
    head_limits: HeadLimits
    rates: Rates
    head_wait: float
    idle_watch: Watchdog
    idle_seconds: float
    stopping: bool
