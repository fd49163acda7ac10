"""What the admin HTTP sees of the master it runs in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from proxyd.admin.http import Request, Response
from proxyd.base.jobs import Job
from proxyd.events.bus import EventBus
from proxyd.registry.operations import Operations
from proxyd.registry.otherhosts import OtherHosts
from proxyd.store.memory.board import Board
from proxyd.store.memory.circuits import CircuitBoard
from proxyd.store.sql.database import Store
from proxyd.store.sql.tablesizes import HistoryNumbers
from proxyd.store.sql.wellness import Wellness


def _nothing() -> list[Any]:
    return []


class CertificateActions(Protocol):
    """What an operator does with certificates. All raise Conflict, ValueError, StoreError."""

    def renew(self, domain: str, actor: str) -> None: ...

    def revoke(self, domain: str, reason: str, actor: str) -> None: ...

    def remove(self, domain: str, actor: str) -> None: ...

    def take(self, pem: str, actor: str) -> list[str]: ...


class Webhooks(Protocol):
    """Where alerts go."""

    def shown(self) -> list[dict[str, object]]:
        """The webhooks, without their urls."""

    def test(self, name: str | None = None) -> list[tuple[str, str, str]]:
        """Name, host and what went wrong, of each that was sent a test. Raises KeyError for a name that there is not."""


@dataclass(frozen=True, slots=True)
class MasterState:
    """The parts of the master.

    `started` is Unix seconds. `problems()` gives sentences about what is broken now (site files and the like), `notices()` about what
    one party took from another.
    `certificates()` gives {path, names, expires} each, `expires` in Unix seconds. `health_alive()`, where given, says
    whether the health checker is at work, and `health_numbers()` how it fares: targets, lag, waiting, dropped.
    `jobs` are the background jobs. `wellness` says what is unwell; None: one is made of the parts here.
    """

    store: Store
    bus: EventBus
    board: Board
    circuits: CircuitBoard
    operations: Operations
    started: float
    problems: Callable[[], list[str]] = _nothing
    notices: Callable[[], list[str]] = _nothing
    certificates: Callable[[], list[dict[str, Any]]] = _nothing
    health_alive: Callable[[], bool] | None = None
    health_numbers: Callable[[], dict[str, float]] | None = None
    jobs: tuple[Job, ...] = ()
    wellness: Wellness | None = None
    #: Certificates by [acme] since the start: obtained, failed, and the names that are failing now.
    orders: Callable[[], dict[str, int]] = dict
    #: What the history costs: `HistorySize.numbers`.
    history: Callable[[], HistoryNumbers] = HistoryNumbers
    certificate_actions: CertificateActions | None = None
    #: The webhooks, None for a master without.
    alerts: Webhooks | None = None
    #: The other hosts of a database server's, None with SQLite.
    others: OtherHosts | None = None
    #: Has the leader do what is asked of a host that does not lead: given the context and a request, gives its answer. None: this leads.
    passing: Callable[[Any, Request], Response] | None = None
