"""What a gate of somebody else's sees and says (entry points `proxyd.gates`, route option `gates`).

A gate is a function that takes a `GateRequest` and returns None to let the request pass, a `GateAnswer` to answer it, or `GateFields` to
let it pass with fields set. This module imports nothing of the proxy, so a gate can be tested without one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

GROUP = "proxyd.gates"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_MOST = 8


@dataclass(frozen=True, slots=True)
class GateRequest:
    """A request before a backend is chosen. `host`: lower case, without port. `path`: as it is matched; `target`: path and query as the
    client sent them. `client`: its address. `fields`: names in lower case. The body is not seen."""

    method: str
    scheme: str
    host: str
    path: str
    target: str
    client: str
    fields: tuple[tuple[str, str], ...]
    request_id: str
    route: str
    service: str

    def get(self, name: str) -> str | None:
        """The first field of a name (lower case), or None."""
        return next((value for known, value in self.fields if known == name), None)


@dataclass(frozen=True, slots=True)
class GateAnswer:
    """An answer in place of the backend's. A `status` of 400 and above refuses: it counts, and is logged with the reason gate_refused."""

    status: int
    body: bytes | str = b""
    content_type: str = "text/plain; charset=utf-8"
    fields: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class GateFields:
    """Fields to set: in the `request` to the backend, where they replace those of their names, and beside others in the `answer`."""

    request: tuple[tuple[str, str], ...] = ()
    answer: tuple[tuple[str, str], ...] = ()


GateFunction = Callable[[GateRequest], "GateAnswer | GateFields | None"]


def parse_gates(value: str) -> tuple[str, ...]:
    """Names of gates, in the order in which they are asked. Raises ValueError."""
    names = tuple(name for name in re.split(r"[,\s]+", value) if name)
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(f'"{name[:80]}" is not the name of a gate (an entry point of {GROUP})')
    if len(names) > _MOST or len(set(names)) < len(names):
        raise ValueError(f"{_MOST} gates at most, each once")
    return names


def installed(group: str = GROUP) -> dict[str, str]:
    """The gates that are installed, by name, with where they are. Reads the metadata of all packages."""
    from importlib.metadata import entry_points

    return {found.name: found.value for found in entry_points(group=group)}


def check_installed(names: Iterable[str]) -> None:
    """Raises ValueError for a name that no installed package has."""
    for name in names:
        known = installed()
        if name not in known:
            raise ValueError(f'no installed package has a gate "{name}" (there are: {", ".join(sorted(known)) or "none"})')
