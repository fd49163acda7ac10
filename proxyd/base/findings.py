"""What can be unwell, declared once, worst first: the status page, `proxyctl status`, /readyz?verbose, metrics and alerts read this."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

#: How bad it is: requests fail, or somebody should look, or it will be well in a moment.
_SEVERITIES = CRITICAL, WARNING, STARTING = "critical", "warning", "starting"
WELL, UNWELL = "well", "unwell"


class Kind(NamedTuple):
    """A kind of finding, its severity, and what to do about it."""

    name: str
    severity: str
    todo: str


KINDS: tuple[Kind, ...] = (
    Kind("database", CRITICAL, "Look at the disk and at the database's log; proxyd check says what it finds."),
    Kind("no_worker", CRITICAL, "Look into the log of gunicorn for why its workers end."),
    Kind("out_of_service", CRITICAL, "Start the service again, or repair what its members fail with."),
    Kind("failing", CRITICAL, "Look into the log of the service: its health check does not see what is wrong."),
    Kind("health_checker", CRITICAL, "Restart the master: proxyd check and its log say why the checker ended."),
    Kind("worker_stale", WARNING, "The worker is stopped or stuck: look what it does, or end it, and gunicorn starts another."),
    Kind("worker_behind", WARNING, "The worker serves old routes: look into its log, or end it, and gunicorn starts another."),
    Kind("host_behind", WARNING, "The host serves old routes: look into the logs of its master and workers, and whether they reach the "
         "database."),
    Kind("certificate_expired", CRITICAL, "Renew the certificate and send SIGHUP to gunicorn."),
    Kind("problem", WARNING, "Put right what the sentence names."),
    Kind("member_down", WARNING, "The other members carry its traffic: start it again, or repair what it fails with."),
    Kind("circuit_elsewhere", WARNING, "Look whether that host reaches the backend: each host has circuits of its own."),
    Kind("circuit_half_open", WARNING, "Nothing yet: trial requests decide whether the circuit closes."),
    Kind("degraded", WARNING, "Look why some health checks fail."),
    Kind("certificate_expiring", WARNING, "Renew the certificate, or look why its renewal failed."),
    Kind("starting", STARTING, "Wait a moment."),
)
_BY_NAME = {kind.name: (place, kind) for place, kind in enumerate(KINDS)}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is unwell. `what`, `why`: text for a person. `since`: RFC 3339, None where nobody knows. `subject`: what it is
    about, the same from one look to the next. `route_ids`: the routes that it concerns."""

    kind: str
    subject: str
    what: str
    why: str = ""
    since: str | None = None
    service: str = ""
    route_ids: tuple[str, ...] = ()

    @property
    def severity(self) -> str:
        """How bad it is."""
        return _BY_NAME[self.kind][1].severity

    @property
    def todo(self) -> str:
        """What to do about it."""
        return _BY_NAME[self.kind][1].todo

    @property
    def sentence(self) -> str:
        """What and why, in one line."""
        return f"{self.what}: {self.why}" if self.why else self.what

    def shown(self) -> dict[str, Any]:
        """As the API says it."""
        return {**asdict(self), "route_ids": list(self.route_ids), "severity": self.severity, "todo": self.todo}


def how_bad(item: Finding) -> tuple[int, int, str, str]:
    """The order in which findings are told: what is critical first, then by kind; of one kind, what began first."""
    place, kind = _BY_NAME[item.kind]
    return _SEVERITIES.index(kind.severity), place, item.since or "", item.subject


def state_of(found: list[Finding]) -> str:
    """One word for all: well, starting or unwell."""
    if any(item.severity != STARTING for item in found):
        return UNWELL
    return STARTING if found else WELL
