"""What a source of routes says (entry points `proxyd.sources`, setting `[sites] sources`).

A source is a function without arguments that yields all of its sites whenever one of them may have changed, for as long as proxyd runs. A
site is what a site file has: keys and values by section. This module imports nothing of the proxy, so a source can be tested without one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

GROUP = "proxyd.sources"
#: Those that come with proxyd.
BUILT_IN = {"docker": "proxyd.sites.containers:docker"}
#: Libraries that they need, which an extra of the same name brings.
_NEEDS = {"docker": "docker"}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")

#: `{"site": {"service": "shop"}, "route main": {"domains": "shop.example.com", "backends": "http://10.0.0.7:80"}}`
Sections = Mapping[str, Mapping[str, str]]
#: The sites of a source by name.
Said = Mapping[str, Sections]
SourceFunction = Callable[[], Iterator[Said]]


def parse_sources(value: str) -> tuple[str, ...]:
    """Names of sources. Raises ValueError."""
    names = tuple(name for name in re.split(r"[,\s]+", value) if name)
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(f'"{name[:80]}" is not the name of a source (an entry point of {GROUP})')
    if len(set(names)) < len(names):
        raise ValueError("a source is named twice")
    return names


def installed() -> dict[str, str]:
    """The sources that there are, by name, with where they are. Reads the metadata of all packages."""
    from importlib.metadata import entry_points

    return {**{found.name: found.value for found in entry_points(group=GROUP)}, **BUILT_IN}


def load_source(name: str) -> SourceFunction:
    """The function of a source. Raises ValueError with the reason if it can't be used."""
    from importlib import import_module
    from importlib.util import find_spec

    known = installed()
    if name not in known:
        raise ValueError(f'no installed package has a source "{name}" (there are: {", ".join(sorted(known))})')
    if name in _NEEDS and find_spec(_NEEDS[name]) is None:
        raise ValueError(f"the source {name} needs a library: pip install 'proxyd[{name}]'")
    module, _, attribute = known[name].partition(":")
    try:
        found: SourceFunction = getattr(import_module(module), attribute)
    except Exception as error:
        raise ValueError(f"the source {name} can't be imported: {type(error).__name__}: {error}") from None
    return found
