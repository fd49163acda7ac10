"""Site files become sessions of the registry: each file one session, applied as atomically as CONFIG_APPLY.

A broken file keeps its last good version and is named until it is mended; a removed or disabled one takes its routes
along. Routes that did not change keep their ids.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from pathlib import Path

from gevent.lock import RLock

from proxyd.base.jobs import Job
from proxyd.config.ini import Problem
from proxyd.registry import staging
from proxyd.registry.activeroutes import sorted_ids
from proxyd.registry.auth import EVERYTHING
from proxyd.registry.configuration import RouteSpec, SettingTexts, Staged
from proxyd.registry.fields import SCOPES
from proxyd.registry.stagedcopy import StagedCopy
from proxyd.registry.staging import StagingError
from proxyd.registry.state import CONNECTED, LiveSession, Registry
from proxyd.sites.sitefile import Site, SiteRoute, parse_site
from proxyd.sites.sources import MARK, Sources
from proxyd.store.sql import changes
from proxyd.store.sql.changes import RegistryChange
from proxyd.store.sql.database import StoreError
from proxyd.store.sql.models import SITE_PREFIX

log = logging.getLogger("proxyd.sites")

_WATCH_SECONDS = 1.0
_RETRY_SECONDS = 5.0
_MAX_SIZE = 4 << 20


def read_sites(directory: str) -> tuple[dict[str, Site], list[Problem]]:
    """The sites in a directory's *.ini files by name, and what is wrong; a broken file is not among the sites."""
    sites: dict[str, Site] = {}
    problems: list[Problem] = []
    if not os.path.isdir(directory):
        return sites, problems
    for path in sorted(Path(directory).glob("*.ini")):
        try:
            if path.stat().st_size > _MAX_SIZE:
                raise ValueError(f"larger than {_MAX_SIZE} bytes")
            content = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            problems.append(Problem(str(path), 0, f"can't read the site file: {error}"))
            continue
        site, wrong = parse_site(content, str(path), path.stem)
        problems += wrong
        if not wrong:
            sites[path.stem] = site
    return sites, problems


class Sites:
    """The site files of the [sites] directory, followed."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._directory = registry.settings.sites.directory
        self._marks: dict[str, tuple[int, int]] = {}
        self._job = Job("site-files", _WATCH_SECONDS, self._look_again, log)
        self.jobs: tuple[Job, ...] = (self._job,)
        self._retry_at = math.inf
        #: Route ids that were taken for a file which was then refused: its next attempt has them, and the same message.
        self._spare: dict[str, list[str]] = {}
        self.problems: list[Problem] = []
        self._turn = RLock()
        self._news = Job("route-sources", None, self._take_news, log)
        self._sources = Sources(registry.settings.sites.sources, self._news.wake)
        if registry.settings.sites.sources:
            self.jobs = (self._job, self._news)

    def start(self) -> None:
        """Apply the files as they are, and watch them if the settings say so."""
        self.reload()
        if self._registry.settings.sites.watch:
            self._job.start()
        if self._registry.settings.sites.sources:
            self._news.start()
            self._sources.start()

    def stop(self) -> None:
        """Watch no more."""
        self._sources.stop()
        for job in self.jobs:
            job.stop()

    def _take_news(self) -> None:
        self.reload()

    def _look_again(self) -> None:
        if self._look() != self._marks or time.monotonic() >= self._retry_at:
            self.reload()

    def _look(self) -> dict[str, tuple[int, int]]:
        marks = {}
        try:
            for entry in os.scandir(self._directory):
                if entry.name.endswith(".ini"):
                    try:
                        status = entry.stat()
                    except OSError:
                        continue
                    marks[entry.name] = (status.st_mtime_ns, status.st_size)
        except OSError:
            return {}
        return marks

    def reload(self) -> list[Problem]:
        """Read the files, and what sources have said, and apply what changed; returns what is wrong, which is also logged."""
        with self._turn:
            return self._reload()

    def _reload(self) -> list[Problem]:
        self._marks, self._retry_at = self._look(), time.monotonic() + _RETRY_SECONDS
        refused = False
        sites, problems = read_sites(self._directory)
        broken = {Path(problem.file).stem for problem in problems}
        said, wrong = self._sources.read()
        problems += wrong
        for name in said.keys() & sites.keys():
            problems.append(Problem(self._origin(name), 0, f"source and file are both named {name}: the file counts"))
        sites = {**said, **sites}
        wanted = {name: site for name, site in sites.items() if site.enabled}
        for session in list(self._registry.sessions.values()):
            name = session.session_id.removeprefix(SITE_PREFIX)
            if session.is_site() and name not in wanted and name not in broken and not self._sources.keeps(name):
                try:
                    self._registry.end([session], self._actor(name), "the file is gone or disabled")
                except StoreError as error:
                    refused = True
                    problems.append(Problem(self._origin(name), 0, f"gone, but its routes stay: {error}"))
                    continue
                log.info("site %s is gone: its routes are removed", name)
        for name, site in wanted.items():
            try:
                self._apply(name, site)
            except (StagingError, StoreError) as error:
                refused = True
                problems.append(Problem(self._origin(name), 0, str(error)))
        for problem in problems:
            if problem not in self.problems:
                log.error("%s (the last good version of this file stays)", problem)
        self.problems = problems
        if not refused:
            # Else it is tried again: who held the place may leave, a locked database comes free.
            self._retry_at = math.inf
        return problems

    @staticmethod
    def _actor(name: str) -> str:
        """Who has done what a session of that name does."""
        return f"source {name}" if MARK in name else f"site file {name}.ini"

    def _origin(self, name: str) -> str:
        """Where its routes are written."""
        return f"source {name}" if MARK in name else os.path.join(self._directory, f"{name}.ini")

    def _apply(self, name: str, site: Site) -> None:
        registry = self._registry
        session = registry.find(SITE_PREFIX + name)
        if session is not None and session.service != site.service:
            registry.end([session], self._actor(name), "the file names another service")
            session = None
        if session is None:
            session = self._new_session(name, site)
        specs, settings = self._declared(session, site)
        self._spare[name] = [route_id for route_id in specs if route_id not in session.routes]
        staged: Staged = {("routes", route_id, ""): None for route_id in session.routes if route_id not in specs}
        staged.update({("routes", route_id, ""): spec.to_json() for route_id, spec in specs.items()
                       if session.routes.get(route_id) != spec})
        staged.update({key: None for key in session.settings if key not in settings})
        staged.update({key: value for key, value in settings.items() if session.settings.get(key) != value})
        if not staged:
            self._spare.pop(name, None)
            return
        session.staged = StagedCopy(staged)
        try:
            staging.apply(registry, session, SCOPES, self._actor(name))
        except (StagingError, StoreError):
            session.staged = StagedCopy()
            raise
        self._spare.pop(name, None)
        log.info("site %s applied: %d routes", name, len(specs))

    def _new_session(self, name: str, site: Site) -> LiveSession:
        now = time.time()
        session = LiveSession(SITE_PREFIX + name, site.service, name, {}, 0, "", CONNECTED, now, now, grant=EVERYTHING)
        self._registry.commit(RegistryChange(session=self._registry.session_row(session)))
        self._registry.take(session)
        return session

    def _declared(self, session: LiveSession, site: Site) -> tuple[dict[str, RouteSpec], SettingTexts]:
        """Routes by id and settings, as the file has them; a route that is there keeps its id."""
        known: dict[tuple[tuple[str, ...], str, str], list[str]] = {}
        for route_id in sorted_ids(session.routes):
            spec = session.routes[route_id]
            known.setdefault((spec.domains, spec.path, spec.backend_url), []).append(route_id)
        wanted = [(route, backend) for route in site.routes.values() for backend in route.backends]
        # Two routes may differ in nothing but their priority: each takes an id of its own, in the order of the file.
        ids = []
        for route, backend in wanted:
            same = known.get((route.domains, route.path, backend))
            ids.append(same.pop(0) if same else "")
        spare = self._spare.pop(site.name, [])
        ids = [route_id or (spare.pop(0) if spare else "") for route_id in ids]
        fresh = ids.count("")
        number = self._registry.store.call(changes.new_route_numbers, fresh) if fresh else 0
        specs: dict[str, RouteSpec] = {}
        settings: SettingTexts = {}
        for (route, backend), route_id in zip(wanted, ids, strict=True):
            if not route_id:
                route_id, number = f"r{number}", number + 1
            specs[route_id] = RouteSpec(route_id, route.domains, route.path, backend, route.priority)
            settings.update(_settings(route_id, route))
        return specs, settings


def _settings(route_id: str, route: SiteRoute) -> SettingTexts:
    settings: SettingTexts = {("headers", route_id, name): value for name, value in route.headers.items()}
    settings.update({("request_headers", route_id, name): value for name, value in route.request_headers.items()})
    settings.update({("options", route_id, key): value for key, value in route.options.items()})
    if route.rate_limits:
        settings[("ratelimit", route_id, "limit")] = json.dumps([list(limit) for limit in route.rate_limits])
    return settings
