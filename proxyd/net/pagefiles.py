"""Files of error pages, in the directory of `[proxy] error_page_files`. They are read when a worker takes up the route that names them, and
again when they change, never by a request."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass

import gevent

from proxyd.base.errorpages import PAGE_VARIABLES
from proxyd.net.tls import RELOAD_SECONDS, file_mark

log = logging.getLogger("proxyd.pages")

_MAX_SIZE = 256 << 10
_KINDS = ("html", "json")
_VARIABLE = re.compile(rf"\{{({'|'.join(PAGE_VARIABLES)})\}}")

#: Texts and names of variables in turn.
Template = tuple[str, ...]


@dataclass(slots=True)
class _Kept:
    """What the files of a page hold, by kind, and the marks of those files."""

    templates: dict[str, Template]
    marks: tuple[tuple[int, int], ...]


_directory = ""
_pages: dict[str, _Kept] = {}
_following: gevent.Greenlet | None = None


def use_pages(directory: str) -> None:
    """Look for files there from now on: a process that has read its settings says so once."""
    global _directory
    _directory = directory
    _pages.clear()


def check_page(name: str) -> None:
    """Raises ValueError if there is no file for a page, or one that can't be used."""
    if not _read(name):
        raise ValueError(f"there is neither {_path(name, 'html')} nor {_path(name, 'json')}")


def prepare(name: str) -> None:
    """Read the files of a page now. What can't be used is logged."""
    global _following
    if name in _pages:
        return
    marks = _marks(name)
    try:
        check_page(name)
        templates = _read(name)
    except ValueError as error:
        log.error("error page %s: %s", name, error)
        templates = {}
    _pages[name] = _Kept(templates, marks)
    if not _following:
        _following = gevent.spawn(_follow)


def template(name: str, kind: str) -> Template | None:
    """The template of a page that was prepared, of the kind `html` or `json`. None if there is none."""
    kept = _pages.get(name)
    return kept.templates.get(kind) if kept is not None else None


def _follow() -> None:
    """Read files again when they change. What can't be used then leaves what was read before in use."""
    while True:
        gevent.sleep(RELOAD_SECONDS)
        for name, kept in list(_pages.items()):
            marks = _marks(name)
            if marks != kept.marks:
                kept.marks = marks
                try:
                    kept.templates = _read(name)
                except ValueError as error:
                    log.error("error page %s: %s; what was read before stays in use", name, error)


def _read(name: str) -> dict[str, Template]:
    """The templates in the files that there are. Raises ValueError."""
    found = {}
    for kind in _KINDS:
        path = _path(name, kind)
        try:
            with open(path, "rb") as file:
                content = file.read(_MAX_SIZE + 1)
            if len(content) > _MAX_SIZE:
                raise ValueError(f"{path} is larger than {_MAX_SIZE} bytes")
            found[kind] = tuple(_VARIABLE.split(content.decode("utf-8")))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ValueError(f"can't read {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ValueError(f"{path} is not UTF-8 text") from None
    return found


def _path(name: str, kind: str) -> str:
    return os.path.join(_directory, f"{name}.{kind}")


def _marks(name: str) -> tuple[tuple[int, int], ...]:
    return tuple(file_mark(_path(name, kind)) for kind in _KINDS)
