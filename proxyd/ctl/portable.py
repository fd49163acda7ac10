"""`proxyctl export` and `proxyctl import`: the whole configuration as one JSON document."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from proxyd import __version__
from proxyd.base.text import read_json, rfc3339
from proxyd.config.settings import Settings
from proxyd.ctl.adminhttp import Admin, Refused, segment
from proxyd.ctl.screen import Screen, printable
from proxyd.ctl.show import OK
from proxyd.sites.sitefile import parse_site

_FORMAT = 1
_MAX_SIZE = 64 << 20
_SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}\.ini")
#: What a route by hand is made of, as POST /api/v1/routes takes it.
_OF_ROUTE = {"domains": list, "backend": str, "path": str, "priority": int, "service": str, "options": dict, "headers": dict,
             "request_headers": dict, "rate_limit": str}
Route = dict[str, Any]


def export(admin: Admin, screen: Screen, options: argparse.Namespace, settings: Settings | None) -> int:
    """Write the document. `settings`: those of this host, None where the admin HTTP is another's. Raises Refused."""
    routes = [{name: one[name] for name in _OF_ROUTE} for one in admin.all("routes") if one["source"] == "hand"]
    document: dict[str, Any] = {"format": _FORMAT, "proxyd": __version__, "exported_at": rfc3339(time.time()), "routes": routes,
                                "sites": {}, "settings": ""}
    if settings is not None:
        document["sites"] = _sites(settings)
        document["settings"] = _read(Path(settings.file)) if settings.file else ""
    text = json.dumps(document, ensure_ascii=False, indent=1) + "\n"
    if not options.output:
        screen.out.write(text)
        return OK
    _write(Path(options.output), text, 0o600)
    screen.line(f"{options.output}: {len(routes)} routes by hand, {len(document['sites'])} site files, "
                f"{'settings' if document['settings'] else 'no settings'}")
    return OK


def import_(admin: Admin, screen: Screen, options: argparse.Namespace, settings: Settings | None) -> int:
    """Take a document over. Raises Refused before anything is done, or with what could not be done."""
    document = _document(options.file)
    if (options.sites or options.settings_to) and settings is None:
        raise Refused("site files and settings are written on this host, and --admin names another one")
    here = [one for one in admin.all("routes") if one["source"] == "hand"]
    steps = _steps(document["routes"], here, options.prune)
    files = _files(document["sites"], settings, options.prune) if options.sites and settings is not None else []
    if options.settings_to:
        path = Path(options.settings_to)
        if path.exists():
            raise Refused(f"{path} is there already; name another file, or move it away")
        files.append((path, document["settings"], "written"))
    said = []
    for method, route_id, body, what in steps:
        if not options.dry_run:
            admin.act(method, f"routes/{segment(route_id)}" if route_id else "routes", body)
        said.append(what)
    for path, text, what in files:
        if not options.dry_run:
            if text is None:
                path.unlink()
            else:
                _write(path, text, 0o640)
        said.append(f"{path}: {what}")
    if screen.as_json:
        screen.json({"done": not options.dry_run, "steps": said})
        return OK
    for line in said:
        screen.line(printable(line))
    screen.line(f"{'would do ' if options.dry_run else ''}{len(said)} steps" if said else "nothing to do")
    return OK


def _document(name: str) -> dict[str, Any]:
    """The document in a file, held against its form. Raises Refused."""
    try:
        if name == "-":
            data = sys.stdin.buffer.read(_MAX_SIZE + 1)
        else:
            with open(name, "rb") as file:
                data = file.read(_MAX_SIZE + 1)
        if len(data) > _MAX_SIZE:
            raise ValueError(f"it is larger than {_MAX_SIZE} bytes")
        document = read_json(data)
    except OSError as error:
        raise Refused(f"can't read {name}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise Refused(f"{name} is not what `proxyctl export` writes: {error}") from None
    wrong = ("it is no object" if not isinstance(document, dict) else
             f"its format is {str(document.get('format'))[:20]}, this proxyctl knows {_FORMAT}" if document.get("format") != _FORMAT else
             _wrong(document))
    if wrong:
        raise Refused(f"{name} is not what `proxyctl export` writes: {wrong}")
    return {**document}


def _wrong(document: dict[str, Any]) -> str:
    routes, sites = document.get("routes"), document.get("sites")
    if not isinstance(routes, list) or not isinstance(sites, dict) or not isinstance(document.get("settings"), str):
        return "routes, sites and settings are not all there"
    for number, route in enumerate(routes, 1):
        if not isinstance(route, dict) or not {"domains", "backend"} <= route.keys() <= _OF_ROUTE.keys():
            return f"route {number} has not the keys of a route by hand"
        for key, kind in _OF_ROUTE.items():
            if key in route and (not isinstance(route[key], kind) or isinstance(route[key], bool)):
                return f"{key} of route {number} is of another kind"
    for name, text in sites.items():
        if not _SITE_NAME.fullmatch(name) or not isinstance(text, str):
            return f'"{name[:100]}" is not the name of a site file'
    return ""


def _key(route: Route) -> tuple[Any, ...]:
    domains = route["domains"]
    return tuple(domains), route.get("path", "/"), route.get("priority", 0), route.get("service") or (domains[0] if domains else "")


def _steps(wanted: list[Route], here: list[Route], prune: bool) -> list[tuple[str, str, Route | None, str]]:
    """What to ask of the admin HTTP: method, id, body, and what to tell. A route is like another if it has its service, domains, path,
    priority and backend, or else, of those that are left, all but the backend."""
    left, new, pairs = list(here), list(wanted), []
    for look in (lambda one: (_key(one), one["backend"]), _key):
        without = []
        for route in new:
            match = next((one for one in left if look(one) == look(route)), None)
            if match is None:
                without.append(route)
            else:
                left.remove(match)
                pairs.append((route, match))
        new = without
    # First what makes room.
    steps: list[tuple[str, str, Route | None, str]] = [
        ("DELETE", one["route_id"], None, f"remove {one['route_id']}: {_told(one)}") for one in left if prune]
    for route, match in pairs:
        changed = {key: route[key] for key in _OF_ROUTE if key in route and key != "service" and route[key] != match[key]}
        if changed:
            steps.append(("PATCH", match["route_id"], changed, f"change {match['route_id']} ({', '.join(changed)}): {_told(route)}"))
    return steps + [("POST", "", route, f"add {_told(route)}") for route in new]


def _told(route: Route) -> str:
    return f"{','.join(map(str, route['domains']))}{route.get('path', '/')} to {route['backend']}"


def _sites(settings: Settings) -> dict[str, str]:
    directory = Path(settings.sites.directory)
    return {path.name: _read(path) for path in sorted(directory.glob("*.ini"))} if directory.is_dir() else {}


def _files(wanted: dict[str, str], settings: Settings, prune: bool) -> list[tuple[Path, str | None, str]]:
    """The files to write, or to remove (None). Raises Refused for site files that proxyd would refuse."""
    directory, here = Path(settings.sites.directory), _sites(settings)
    steps: list[tuple[Path, str | None, str]] = []
    for name, text in wanted.items():
        if here.get(name) == text:
            continue
        problems = parse_site(text, name, name.removesuffix(".ini"))[1]
        if problems:
            raise Refused("; ".join(map(str, problems[:5])))
        steps.append((directory / name, text, "changed" if name in here else "written"))
    return steps + [(directory / name, None, "removed") for name in here if prune and name not in wanted]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"can't read {path}: {error}") from None


def _write(path: Path, text: str, mode: int) -> None:
    """Write a file as a whole or not at all."""
    new = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(new, path)
    except OSError as error:
        raise Refused(f"can't write {path}: {error.strerror}") from None
