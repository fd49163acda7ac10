"""One proxyd for all edge tests that need no settings of their own; each test takes a domain of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.support.system import System

#: Options of a route as keywords.
RouteMaker = Callable[..., str]

_count = itertools.count(1)


@pytest.fixture(scope="session")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A proxyd with one worker, so that pools and counters are all in one place."""
    running = System(tmp_path_factory.mktemp("edge"), workers=1)
    yield running
    running.stop()


def make_route(system: System, url: str, path: str = "/", domain: str = "", **options: object) -> str:
    """A new service with one route to `url`; returns its domain."""
    name = f"edge{next(_count)}"
    domain = domain or f"{name}.test"
    client = system.client(name, name)
    route_id = client.route(domain, url, path, apply=False)
    for key, value in options.items():
        client.ok(f"OPTIONS_SET|SID|{route_id}|{key}|{value}")
    client.apply()
    return domain


@pytest.fixture
def route(edge: System) -> RouteMaker:
    """Make a route on the shared proxyd."""

    def make(url: str, **options: object) -> str:
        return make_route(edge, url, **options)  # type: ignore[arg-type]

    return make
