"""Sources of routes beside site files (setting `[sites] sources`): each is followed by a greenlet, and its sites are checked as files are.

A source that fails is asked anew, and what it said before stays meanwhile. What one of its sites says wrong leaves that site as it was.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import gevent

from proxyd.base.sourceapi import Said, SourceFunction, load_source
from proxyd.base.trouble import Trouble
from proxyd.config.ini import Problem
from proxyd.sites.sitefile import Site, site_of

log = logging.getLogger("proxyd.sites")

#: Seconds until a source that failed is asked anew.
RETRY_SECONDS = 5.0
_MOST_SITES = 10_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
#: Stands between the names of a source and of its site.
MARK = ":"


@dataclass(slots=True)
class _Followed:
    """A source. `sites`: what it said last, by the names of their sessions; None while it has said nothing. `refused`: names of its sites
    that could not be used, so that they stay as they were."""

    name: str
    load: Callable[[str], SourceFunction]
    sites: dict[str, Site] | None = None
    refused: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)
    failed: str = ""

    def take(self, said: Said) -> None:
        """Take over all that it says."""
        sites: dict[str, Site] = {}
        refused: set[str] = set()
        problems: list[Problem] = []
        if len(said) > _MOST_SITES:
            raise ValueError(f"it has {len(said)} sites, more than {_MOST_SITES}")
        for own, sections in said.items():
            name = f"{self.name}{MARK}{own}"
            if not _NAME.fullmatch(own):
                wrong_name = f'"{own[:80]}" is not a name of letters, digits, dot, dash and underscore'
                problems.append(Problem(f"source {self.name}", 0, wrong_name))
                continue
            site, wrong = site_of(sections, f"source {name}", name)
            problems += wrong
            if wrong:
                refused.add(name)
            else:
                sites[name] = site
        self.sites, self.refused, self.problems = sites, refused, problems


class Sources:
    """All of them. `changed` is called when one has said something."""

    def __init__(self, names: Iterable[str], changed: Callable[[], None], load: Callable[[str], SourceFunction] = load_source) -> None:
        self._sources = [_Followed(name, load) for name in names]
        self._changed = changed
        self._greenlets: list[gevent.Greenlet] = []

    def start(self) -> None:
        """Begin to follow."""
        self._greenlets = [gevent.spawn(self._follow, source) for source in self._sources]

    def stop(self) -> None:
        """Follow no more."""
        gevent.killall(self._greenlets, timeout=1)

    def read(self) -> tuple[dict[str, Site], list[Problem]]:
        """The sites of all sources, by the names of their sessions, and what is wrong."""
        sites: dict[str, Site] = {}
        problems: list[Problem] = []
        for source in self._sources:
            sites.update(source.sites or {})
            problems += source.problems
            if source.failed:
                problems.append(Problem(f"source {source.name}", 0, source.failed))
        return sites, problems

    def keeps(self, name: str) -> bool:
        """Whether a session of that name stays as it is: its source has not said anything yet, or something wrong of this site."""
        return any(name.startswith(f"{source.name}{MARK}") and (source.sites is None or name in source.refused)
                   for source in self._sources)

    def _follow(self, source: _Followed) -> None:
        trouble = Trouble(log, f"the source {source.name} of routes fails; what it said last stays")
        while True:
            try:
                for said in source.load(source.name)():
                    source.take(said)
                    source.failed = ""
                    trouble.is_over()
                    self._changed()
                raise ValueError("it has ended")
            except Exception as error:
                source.failed = f"{type(error).__name__}: {error}"[:500]
                trouble.goes_on(source.failed)
                self._changed()
            gevent.sleep(RETRY_SECONDS)
