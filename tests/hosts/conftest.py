"""Hosts that share one PostgreSQL, as processes on this machine: each has a name, shared memory and ports of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.postgres import Postgres
from tests.support.system import System

#: What makes a host: its name and its settings.
MakeHost = Callable[..., System]


@pytest.fixture
def new_host(postgres: Postgres, tmp_path: Path) -> Iterator[MakeHost]:
    """Make hosts that share a database of the test's own. The first one leads."""
    url = postgres.new_database()
    made: list[System] = []

    def make(name: str, start: bool = True, **settings: Any) -> System:
        folder = tmp_path / f"{len(made)}{name}"
        host = System(folder, start=False, **{"workers": 1, "hosts__name": name, "database__url": url,
                                              "database__shared_memory": folder, **settings})
        made.append(host)
        if start:
            host.start(host.ready if len(made) == 1 else lambda: serves(host))
        return host

    yield make
    for host in reversed(made):
        host.stop()


def database(host: System) -> str:
    """The name of the database that the host uses."""
    return str(host.settings["database__url"]).rpartition("/")[2]


def serves(host: System) -> bool:
    """Whether the host's workers answer, by a table that is loaded."""
    try:
        return host.get("/", "unknown.test").status == 404
    except OSError:
        return False
