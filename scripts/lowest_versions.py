"""Prints what scripts/lowest installs: each direct dependency of the installed proxyd, those of its extras too, at the lowest
version that setup.py allows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import metadata

#: Tools that read the code and do not run with it: their newest version is the one that counts.
_TOOLS = ("ruff", "mypy", "types-")
_EXTRAS = ("test", "redis", "postgresql")


def lowest(requirements: Iterable[str]) -> list[str]:
    """Requirements as metadata has them (`name[extra]<Y,>=X; extra == "z"`) as `name[extra]==X`.

    Raises ValueError for one that names no lowest version.
    """
    pinned = set()
    for requirement in requirements:
        wanted, _, marker = requirement.partition(";")
        name, bound = re.match(r"[\w.-]+(?:\[[\w,]+\])?", wanted), re.search(r">=([\w.]+)", wanted)
        if not name or not bound:
            raise ValueError(f"{requirement} names no lowest version")
        if not wanted.startswith(_TOOLS) and (not marker or any(f'"{extra}"' in marker for extra in _EXTRAS)):
            pinned.add(f"{name[0]}=={bound[1]}")
    return sorted(pinned)


if __name__ == "__main__":
    print("\n".join(lowest(metadata.requires("proxyd") or ())))
