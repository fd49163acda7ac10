"""The parts of a worker that this room needs."""

from __future__ import annotations

from typing import Protocol

from proxyd.http1 import HeadLimits
from proxyd.proxy.record.slow import Rows
from proxyd.proxy.record.stats import Stats
from proxyd.proxy.upstream.circuit import Circuits
from proxyd.store.memory.websockets import OpenWebSockets


class Parts(Protocol):
    """The parts of a worker's Runtime that the modules of this room use."""

    circuits: Circuits
    websockets: OpenWebSockets
    response_limits: HeadLimits
    stats: Stats
    rows: Rows
