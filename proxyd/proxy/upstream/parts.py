"""The parts of a worker that this room needs."""

from __future__ import annotations

from typing import Protocol

from proxyd.http1 import HeadLimits
from proxyd.proxy.record.slow import Rows
from proxyd.proxy.record.stats import Stats
from proxyd.proxy.upstream.circuit import Circuits
from proxyd.proxy.upstream.places import Places
from proxyd.store.memory.counts import HostCounts


class Parts(Protocol):
    """The parts of a worker's Runtime that the modules of this room use."""

    circuits: Circuits
    websockets: HostCounts
    places: Places
    response_limits: HeadLimits
    stats: Stats
    rows: Rows
