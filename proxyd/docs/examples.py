"""The example files of conf/: units for systemd, fronts, site files, alerts, a dashboard.

A wheel carries a copy inside this package (setup.py makes it); in a checkout they are read where they are edited.
"""

from __future__ import annotations

from pathlib import Path

#: What the code makes (see proxyd.docs.NAMES), and what is there only to keep a directory in git.
_NOT_EXAMPLES = ("proxyd.ini", ".gitkeep")


def names() -> list[str]:
    """The examples by their path under conf/, like `systemd/proxyd.service`."""
    root = _root()
    found = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file() and path.name not in _NOT_EXAMPLES)
    return sorted(found)


def text(name: str) -> str:
    """An example's text. Raises KeyError for a name that is not one of names()."""
    if name not in names():
        raise KeyError(name)
    return (_root() / name).read_text(encoding="utf-8")


def _root() -> Path:
    carried = Path(__file__).parent / "conf"
    return carried if carried.is_dir() else Path(__file__).parents[2] / "conf"
