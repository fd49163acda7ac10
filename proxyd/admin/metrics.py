"""The metrics, in Prometheus' conventions: base units, counters that end in _total, label values of bounded number.

`readings.read` takes everything from the database in one go; `render` turns it into text, in a thread, since that is work for
the processor alone and many routes make much text.
"""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxyd import __version__
from proxyd.admin.exposition import Told, exposition
from proxyd.admin.families import LE
from proxyd.admin.readings import Readings
from proxyd.base import clock
from proxyd.base.counters import COUNTERS
from proxyd.base.drain import began, drain_share
from proxyd.base.findings import KINDS, Finding
from proxyd.base.histogram import bounds
from proxyd.base.jobs import Job
from proxyd.base.text import names_of_row
from proxyd.health.thresholds import DOWN, STATUSES
from proxyd.store.memory.transitions import STATE_NAMES
from proxyd.store.sql.servicesums import Place
from proxyd.store.sql.tablesizes import HistoryNumbers

#: Service, instance, domain and path.
Member = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class Process:
    """What the master knows without the database. Instants are Unix seconds."""

    started: float
    config_version: int
    workers: list[tuple[int, int]]
    certificates: list[dict[str, Any]]
    problems: int
    health: dict[str, float] = field(default_factory=dict)
    jobs: tuple[Job, ...] = ()
    findings: Sequence[Finding] = ()
    orders: dict[str, int] = field(default_factory=dict)
    history: HistoryNumbers = field(default_factory=HistoryNumbers)


def render(readings: Readings, process: Process, accept: str, now: float) -> tuple[bytes, str]:
    """The exposition and its content type, in the format that the Accept field asks for."""
    return exposition(ProxydCollector(readings, process, now).collect(), accept)


class ProxydCollector:
    """The metric families of one scrape."""

    def __init__(self, readings: Readings, process: Process, now: float | None = None) -> None:
        self._readings = readings
        self._process = process
        self._now = clock.now() if now is None else now
        self._member: dict[str, Member] = {
            row.route_id: (row.service, row.instance, names_of_row(row.domains)[0], row.path) for row in readings.routes}

    def collect(self) -> Iterator[Told]:
        """All families."""
        yield self._requests()
        yield self._durations()
        yield self._refusals()
        yield self._unknown_hosts()
        yield from self._counters()
        yield from self._open()
        yield from self._states()
        yield from self._own()

    def _requests(self) -> Told:
        family = Told("proxyd_requests_total")
        for service, domain, code, count in self._readings.codes:
            family.add((service, domain, str(code)), count)
        return family

    def _durations(self) -> Told:
        family = Told("proxyd_request_duration_seconds")
        counts: dict[Place, list[int]] = defaultdict(lambda: [0] * (len(LE) + 1))
        for service, domain, bucket, count in self._readings.latencies:
            counts[service, domain][_place(bucket)] += count
        for place, numbers in counts.items():
            below, cumulative = 0, []
            for name, number in zip((*map(str, LE), "+Inf"), numbers, strict=True):
                below += number
                cumulative.append((name, below))
            total = self._readings.sums.get(place, {}).get("latency_ms_sum", 0.0) / 1000
            family.add_histogram(place, cumulative, total)
        return family

    def _refusals(self) -> Told:
        family = Told("proxyd_refusals_total")
        for reason, count in self._readings.refusals.items():
            family.add((reason,), count)
        return family

    def _unknown_hosts(self) -> Told:
        family = Told("proxyd_unknown_host_requests_total")
        family.add((), self._readings.refusals.get("unknown_host", 0))
        return family

    def _counters(self) -> Iterator[Told]:
        for declared in COUNTERS:
            if not declared.metric:
                continue
            family = Told(declared.metric)
            for place, item in self._readings.sums.items():
                family.add(place, item[declared.name])
            yield family

    def _open(self) -> Iterator[Told]:
        requests = Told("proxyd_upstream_in_flight")
        websockets = Told("proxyd_websockets_open")
        queued = Told("proxyd_queued")
        sums: dict[Place, list[int]] = {}
        for place, *numbers in self._readings.open_now:
            before = sums.get(place, [0, 0, 0])
            sums[place] = [old + new for old, new in zip(before, numbers, strict=True)]
        for place, numbers in sums.items():
            for family, number in zip((requests, websockets, queued), numbers, strict=True):
                family.add(place, number)
        yield requests
        yield queued
        yield websockets

    def _states(self) -> Iterator[Told]:
        """By instance and place. Two routes of one, as a redeploy has them for a moment, are told by the worse of both."""
        of, readings = self._member, self._readings
        health, statuses, circuits = _Worst(), _Worst(), _Worst()
        for route_id, current in readings.health.items():
            health.add(of[route_id], -float(current != DOWN))
            for status in STATUSES:
                statuses.add((*of[route_id], status), float(status == current))
        for route_id, current in readings.circuits.items():
            for state in STATE_NAMES:
                circuits.add((*of[route_id], state), float(state == current))
        drain, maintenance = _Worst(), _Worst()
        for row in readings.routes:
            share = 1.0
            if row.drain_started_at is not None:
                share = drain_share(began(row.drain_started_at, row.drain_clock), row.drain_seconds or 0.0, self._now)
            drain.add(of[row.route_id], -share)
            maintenance.add(of[row.route_id], float(row.maintenance_since is not None))
        yield health.told("proxyd_health_up", -1)
        yield statuses.told("proxyd_health_status")
        yield circuits.told("proxyd_circuit_state")
        yield drain.told("proxyd_drain_share", -1)
        yield maintenance.told("proxyd_maintenance")

    def _own(self) -> Iterator[Told]:
        process = self._process
        sessions = Told("proxyd_sessions")
        for state, count in self._readings.sessions.items():
            sessions.add((state,), count)
        workers = Told("proxyd_worker_config_version")
        for pid, version in process.workers:
            workers.add((str(pid),), version)
        certificates = Told("proxyd_certificate_expiry_seconds")
        for item in process.certificates:
            certificates.add((str(item["path"]), ",".join(item["names"])), float(item["expires"]))
        orders = Told("proxyd_certificate_orders_total")
        for result in ("obtained", "failed"):
            orders.add((result,), process.orders.get(result, 0))
        failing = Told("proxyd_certificates_failing")
        failing.add((), process.orders.get("failing", 0))
        yield from (orders, failing)
        build = Told("proxyd_build_info")
        build.add((__version__,), 1)
        yield from (sessions, workers, certificates, build)
        health = process.health
        for family, value in (
            (Told("proxyd_routes"), self._readings.total), (Told("proxyd_config_version"), process.config_version),
            (Told("proxyd_health_targets"), health.get("targets", 0)), (Told("proxyd_health_lag_seconds"), health.get("lag", 0)),
            (Told("proxyd_health_results_waiting"), health.get("waiting", 0)),
            (Told("proxyd_health_results_dropped_total"), health.get("dropped", 0)),
            (Told("proxyd_problems"), process.problems), (Told("proxyd_start_time_seconds"), clock.shown(process.started)),
        ):
            family.add((), value)
            yield family
        left_out = Told("proxyd_metrics_left_out")
        for of, count in self._readings.left_out.items():
            left_out.add((of,), count)
        yield left_out
        yield from self._history()
        yield from self._jobs()
        yield self._unwell()

    def _history(self) -> Iterator[Told]:
        known = self._process.history
        alone = {"database_bytes": known.used, "database_max_bytes": known.bound, "database_log_bytes": known.log,
                 "access_log_bytes": known.access_log}
        for name, value in alone.items():
            family = Told(f"proxyd_{name}")
            if value is not None:
                family.add((), value)
            yield family
        rows, size = ({table: found[place] for table, found in known.tables.items()} for place in (0, 1))
        for metric, by_table in ((Told("proxyd_history_dropped_rows_total"), known.dropped), (Told("proxyd_history_rows"), rows),
                                 (Told("proxyd_history_bytes"), size)):
            for table, number in sorted(by_table.items()):
                metric.add((table,), number)
            yield metric

    def _unwell(self) -> Told:
        family, found = Told("proxyd_unwell"), Counter(item.kind for item in self._process.findings)
        for kind in KINDS:
            family.add((kind.name, kind.severity), found[kind.name])
        return family

    def _jobs(self) -> Iterator[Told]:
        runs, errors = Told("proxyd_job_runs_total"), Told("proxyd_job_errors_total")
        last, duration = Told("proxyd_job_last_run_timestamp_seconds"), Told("proxyd_job_duration_seconds")
        for job in self._process.jobs:
            for family, value in ((runs, job.runs), (errors, job.errors), (last, job.last_run), (duration, job.duration)):
                family.add((job.name,), value)
        yield from (runs, errors, last, duration)


class _Worst:
    """The highest number of each set of labels."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, ...], float] = {}

    def add(self, labels: tuple[str, ...], number: float) -> None:
        """One more number."""
        self._found[labels] = max(number, self._found.get(labels, number))

    def told(self, name: str, sign: int = 1) -> Told:
        """The declared gauge, of the numbers times `sign`."""
        family = Told(name)
        for labels, number in self._found.items():
            family.add(labels, number * sign)
        return family


def _place(bucket: int) -> int:
    """The place in LE of a bucket: the first bound that all its latencies are within."""
    return bisect.bisect_left(LE, bounds(bucket)[1])
