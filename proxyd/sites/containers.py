"""Routes of containers by their labels, over the Docker API (the source `docker`).

    proxyd.domains = shop.example.com       and, as in a site file, proxyd.path, proxyd.priority, proxyd.limits
    proxyd.port = 8080                      needed where the image exposes none, or several
    proxyd.options.timeout = 5s             likewise proxyd.headers.NAME and proxyd.request_headers.NAME
    proxyd.routes.api.path = /api           another route of the container: all of the above behind proxyd.routes.NAME

The Docker library finds the daemon by the environment (DOCKER_HOST and so on), as the docker command does.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

import gevent
from gevent.event import Event

from proxyd.base.sourceapi import Said, Sections

log = logging.getLogger("proxyd.sites")

PREFIX = "proxyd."
#: Seconds for an answer of the daemon; its events may be silent for ever.
_PATIENCE = 10
#: Seconds between an event and the look at what is there now.
_CALM = 0.2
#: What changes routes. A label can't change while its container lives.
_EVENTS = ["start", "die", "stop", "pause", "unpause", "rename", "connect", "disconnect"]
_ROUTE_KEYS = ("domains", "path", "priority")
_TARGET_KEYS = ("port", "scheme", "network", "host")
_NAMED = ("options", "headers", "request_headers")


def docker() -> Iterator[Said]:
    """The sites of all running containers, again after each change. Raises what the Docker library does."""
    from docker import from_env

    client = from_env(timeout=_PATIENCE)
    news, told = Event(), set[str]()
    # First the events, then the list: what happens in between is not lost.
    listening = gevent.spawn(_listen, client.events(filters={"type": ["container", "network"], "event": _EVENTS}), news)
    try:
        while not listening.dead:
            news.clear()
            yield said(client.api.containers(filters={"status": ["running"]}), told)
            news.wait()
            # Many containers often start together.
            gevent.sleep(_CALM)
        raise ConnectionError("the Docker daemon has ended its events")
    finally:
        listening.kill(block=False)
        client.close()


def _listen(events: Iterator[Any], news: Event) -> None:
    try:
        for _ in events:
            news.set()
    finally:
        news.set()


def said(containers: list[Mapping[str, Any]], told: set[str]) -> Said:
    """The site of each container that has a label of ours, by its name. One that can't be used is left out, and logged unless it is among
    those `told`."""
    found: dict[str, Sections] = {}
    wrong: set[str] = set()
    for container in containers:
        labels = {key: value for key, value in (container.get("Labels") or {}).items() if key.startswith(PREFIX)}
        if not any(key == f"{PREFIX}domains" or key.endswith(".domains") for key in labels):
            continue
        name = str((container.get("Names") or ["?"])[0]).lstrip("/")
        try:
            found[name] = sections(name, labels, container)
        except ValueError as error:
            wrong.add(f"container {name} has no route: {error}")
    for message in sorted(wrong - told):
        log.warning("%s", message)
    told.intersection_update(wrong)
    told.update(wrong)
    return found


def sections(name: str, labels: Mapping[str, str], container: Mapping[str, Any]) -> Sections:
    """A container's site. Raises ValueError."""
    own = container.get("Labels") or {}
    service = labels.get(f"{PREFIX}service") or own.get("com.docker.compose.service") or name
    made: dict[str, dict[str, str]] = {"site": {"service": re.sub(r"[^A-Za-z0-9._-]", "-", service)[:128]}}
    targets: dict[str, dict[str, str]] = {}
    for label, value in labels.items():
        rest, route = label.removeprefix(PREFIX), "main"
        if rest.startswith("routes."):
            _, route, rest = (*rest.split(".", 2), "")[:3]
        kind, _, key = rest.partition(".")
        if rest in _ROUTE_KEYS:
            made.setdefault(f"route {route}", {})[rest] = value
        elif rest in _TARGET_KEYS:
            targets.setdefault(route, {})[rest] = value
        elif rest == "limits":
            made.setdefault(f"ratelimit {route}", {})["limits"] = value
        elif kind in _NAMED and key:
            made.setdefault(f"{kind} {route}", {})[key] = value
        elif rest != "service":
            raise ValueError(f'the label "{label}" says nothing that is known')
    for section in [section for section in made if section.startswith("route ")]:
        route = section.partition(" ")[2]
        made[section].setdefault("domains", labels.get(f"{PREFIX}domains", ""))
        made[section]["backends"] = _backend({**targets.get("main", {}), **targets.get(route, {})}, container)
    return made


def _backend(target: Mapping[str, str], container: Mapping[str, Any]) -> str:
    """The url of a container's server. Raises ValueError."""
    port = target.get("port", "")
    if not port:
        ports = sorted({one["PrivatePort"] for one in container.get("Ports") or [] if one.get("Type", "tcp") == "tcp"})
        if len(ports) != 1:
            raise ValueError(f"it exposes {len(ports)} ports: the label {PREFIX}port has to name one")
        port = str(ports[0])
    networks = (container.get("NetworkSettings") or {}).get("Networks") or {}
    wanted = target.get("network", "")
    if wanted and wanted not in networks:
        raise ValueError(f'it is not in the network "{wanted}" (label {PREFIX}network), but in {", ".join(sorted(networks)) or "none"}')
    addresses = [one.get("IPAddress") or one.get("GlobalIPv6Address") or "" for network, one in sorted(networks.items())
                 if not wanted or network == wanted]
    host = target.get("host") or next(filter(None, addresses), "") or ("127.0.0.1" if "host" in networks else "")
    if not host:
        raise ValueError("it has no address in any network that this host could reach")
    return f"{target.get('scheme', 'http')}://{f'[{host}]' if ':' in host else host}:{port}"
