"""The fields of commands: name, what is expected, and the check that turns text into a value."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proxyd.base import text
from proxyd.base.text import hide_token, read_json
from proxyd.base.urls import normalize_domain, normalize_route_path, parse_check_or_none
from proxyd.config.options import check_option
from proxyd.config.routechecks import check_interval, priority, whole_number
from proxyd.events.types import SUBSCRIBABLE
from proxyd.net.optioncheck import check_on_host
from proxyd.net.targets import rules

_NAME = re.compile(r"[^\s|/\\]{1,128}")
SCOPES = ("routes", "headers", "request_headers", "options", "health", "ratelimit", "circuit_breaker")


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a command. `parse` raises a ValueError that says what was expected. `help` is for the docs. `routes`: whether
    it names routes of the session."""

    name: str
    parse: Callable[[str], Any]
    help: str
    optional: bool = False
    default: Any = None
    routes: bool = False


def anything(value: str) -> str:
    """Any text."""
    return value


def name(value: str) -> str:
    """A service or instance name."""
    if not _NAME.fullmatch(value):
        raise ValueError(f'"{value[:140]}" is not a name (1 to 128 characters, no spaces, no slashes)')
    return value


def port(value: str) -> int:
    """A port. 0 or an empty text stands for none."""
    return whole_number(0, 65535)(value) if value else 0


_HARMLESS = 12


def metadata(value: str) -> dict[str, Any]:
    """A JSON object. An empty text and null count as an empty one. Errors do not repeat a token that the value may hold or be."""
    if not value.strip():
        return {}
    shown = f'"{hide_token(value)[:60]}"' if value.lstrip()[:1] == "{" or len(value) <= _HARMLESS else "that"
    try:
        found = read_json(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{shown} is not JSON: {error}") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ValueError(f'{shown} is not a JSON object (like {{"version":"1.2"}})')
    return found


def domains(value: str) -> tuple[str, ...]:
    """Domains with commas between them."""
    items = [item for item in value.split(",") if item.strip()]
    if not items:
        raise ValueError(f'"{value}" names no domain (like app.example.com,*.example.org)')
    return tuple(dict.fromkeys(normalize_domain(item) for item in items))


def path(value: str) -> str:
    """A route's path. An empty text means /."""
    return normalize_route_path(value)


def backend(value: str) -> str:
    """A backend url, kept as it was written."""
    value = value.strip()
    rules().check_url(value)
    return value


def page_url(value: str) -> str:
    """The url of a maintenance page. An empty text means the built-in one."""
    value = value.strip()
    if not value:
        return ""
    if not value.startswith(("http://", "https://", "unix:")):
        raise ValueError(f'"{value}" is neither an http or https url nor empty (for the built-in page)')
    rules().check_url(value.partition("?")[0].partition("#")[0])
    return value


threshold = whole_number(1, 100_000)
trials = whole_number(1, 1000)
duration = text.parse_duration
interval = check_interval


def check(value: str) -> str:
    """What a health check asks for. An empty text means no check."""
    found = parse_check_or_none(value)
    rules().check_health(found)
    return found


def target(value: str) -> str:
    """ALL, or a route id."""
    if value == "ALL" or re.fullmatch(r"r[0-9]{1,15}", value):
        return value
    raise ValueError(f'"{value}" is neither ALL nor a route id (like r1)')


def route_id(value: str) -> str:
    """A route id."""
    if not re.fullmatch(r"r[0-9]{1,15}", value):
        raise ValueError(f'"{value}" is not a route id (like r1)')
    return value


def option_name(value: str) -> str:
    """What may be the key of an option, of an older or newer proxyd too."""
    if not re.fullmatch(r"[!-{}~]{1,64}", value):
        raise ValueError(f'"{value[:64]}" is not an option (like timeout)')
    return value


def option_key(value: str) -> str:
    """An option key. Its value is checked later."""
    from proxyd.config.options import OPTIONS

    if value not in OPTIONS:
        raise ValueError(f'unknown option "{value}"{text.suggest(value, OPTIONS)}')
    return value


def option(key: str, value: str) -> str:
    """An option's value, checked and returned as text. Raises ValueError."""
    check_option(key, value)
    value = value.strip()
    check_on_host(key, value)
    return value


def route_field(value: str) -> str:
    """The field ROUTE_UPDATE changes."""
    if value not in ROUTE_FIELDS:
        raise ValueError(f'"{value}" is not one of {", ".join(ROUTE_FIELDS)}{text.suggest(value, ROUTE_FIELDS)}')
    return value


ROUTE_FIELDS: dict[str, Callable[[str], Any]] = {
    "backend_url": backend, "priority": priority, "domains": domains, "path": path,
}


def bulk(value: str) -> list[dict[str, Any]]:
    """The routes of ROUTE_ADD_BULK, each checked. An error names the entry."""
    try:
        items = read_json(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(items, list) or not items:
        raise ValueError("not a JSON array with at least one route")
    return [_bulk_item(number, item) for number, item in enumerate(items)]


def _bulk_item(number: int, item: Any) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise ValueError(f"entry {number}: not a JSON object")
    unknown = sorted(set(item) - set(ROUTE_FIELDS))
    if unknown:
        raise ValueError(f'entry {number}: unknown key "{unknown[0]}"{text.suggest(unknown[0], ROUTE_FIELDS)}')
    listed = item.get("domains")
    if isinstance(listed, list):
        listed = ",".join(map(str, listed))
    given = {"domains": listed, "path": item.get("path", "/"), "backend_url": item.get("backend_url"),
             "priority": item.get("priority", 0)}
    made = {}
    for key, parse in ROUTE_FIELDS.items():
        given_value = given[key]
        if given_value is None:
            raise ValueError(f"entry {number}: {key}: missing")
        if isinstance(given_value, (bool, dict, list, float)):
            wanted = "a whole number" if key == "priority" else "an array of texts" if key == "domains" else "a text"
            raise ValueError(f"entry {number}: {key}: {json.dumps(given_value)[:60]} is not {wanted}")
        try:
            made[key] = parse(str(given_value))
        except ValueError as error:
            raise ValueError(f"entry {number}: {key}: {error}") from None
    return made


def duration_or_none(value: str) -> float | None:
    """A duration. An empty text stands for none."""
    return duration(value) if value.strip() else None


def reason(value: str) -> str:
    """Why something is done, in words for people. May be empty."""
    value = value.strip()
    if len(value) > 200 or not value.isprintable():
        raise ValueError("a reason has 200 printable characters at most")
    return value


def scopes(value: str) -> tuple[str, ...]:
    """Scopes with commas between them."""
    items = text.split_list(value)
    if not items:
        raise ValueError(f"no scope given ({', '.join(SCOPES)})")
    for item in items:
        if item not in SCOPES:
            raise ValueError(f'"{item}" is not one of {", ".join(SCOPES)}{text.suggest(item, SCOPES)}')
    return items


def compressed(value: str) -> bool:
    """Whether the field is the word `compressed`. It may be empty."""
    if value not in ("", "compressed"):
        raise ValueError(f'"{value}" is neither the word compressed nor empty')
    return value == "compressed"


def event_type(value: str) -> str:
    """A type of event, or `all`."""
    if value not in SUBSCRIBABLE:
        raise ValueError(f'"{value}" is not one of {", ".join(SUBSCRIBABLE)}{text.suggest(value, SUBSCRIBABLE)}')
    return value


def stats_target(value: str) -> str:
    """ALL or a route id. An empty text means ALL."""
    return target(value) if value else "ALL"
