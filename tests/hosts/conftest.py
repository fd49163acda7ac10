"""Hosts that share one PostgreSQL, as processes on this machine: each has a name, shared memory and ports of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.postgres import Postgres
from tests.support.shift import ShiftedSystem
from tests.support.system import System

#: What makes a host: its name and its settings.
MakeHost = Callable[..., System]


class Elsewhere(ShiftedSystem):
    """A host that was booted at another time than this one, and whose time of day is two minutes off."""

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "SHIFT_BOOT": "0123456789ab"}

    def set_time(self, shift: float) -> None:
        super().set_time(shift + 120.0)


@pytest.fixture
def new_host(postgres: Postgres, tmp_path: Path) -> Iterator[MakeHost]:
    """Make hosts that share a database of the test's own. The first one leads."""
    with making(postgres, tmp_path) as make:
        yield make


@contextlib.contextmanager
def making(postgres: Postgres, tmp_path: Path) -> Iterator[MakeHost]:
    """Make hosts that share a new database, below a folder; they end with the context."""
    url = postgres.new_database()
    made: list[System] = []

    def make(name: str, start: bool = True, kind: type[System] = System, **settings: Any) -> System:
        folder = tmp_path / f"{len(made)}{name}"
        host = kind(folder, start=False, **{"workers": 1, "hosts__name": name, "database__url": url,
                                              "database__shared_memory": folder, **settings})
        made.append(host)
        if start:
            host.start(host.ready if len(made) == 1 else lambda: serves(host))
        return host

    try:
        yield make
    finally:
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
