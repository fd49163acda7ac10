"""What `proxyd check` says of settings together: each may be right alone, and the sum of them not what anybody wants."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches

from proxyd.base.processes import SUPERVISED
from proxyd.base.text import split_address
from proxyd.config.ini import Problem
from proxyd.config.settings import CONFIG_VARIABLE, NAMED, SECTIONS, Settings, environment_name, setting_declarations
from proxyd.net.certificates import by_kind
from proxyd.net.tls import Certificate, CertificateError, read_certificate

#: (section, key, message) -> the problem at the place where the setting was set.
At = Callable[[str, str, str], Problem]

_EVERYWHERE = ("0.0.0.0", "::")
#: Variables of ours that are no settings.
_KNOWN_VARIABLES = (CONFIG_VARIABLE, SUPERVISED)


def addresses(settings: Settings, at: At) -> Iterator[Problem]:
    """Listeners that want the same place: the second one would find it taken."""
    bound = [("proxy", settings.proxy.bind), ("registry", settings.registry.bind)]
    if settings.tls.bind:
        bound.append(("tls", settings.tls.bind))
    if settings.admin.enabled:
        bound.append(("admin", settings.admin.bind))
    for (first, one), (second, other) in itertools.combinations(bound, 2):
        if _collide(one, other):
            yield at(second, "bind", f"{other} is taken by [{first}] bind = {one}")


def _collide(one: str, other: str) -> bool:
    if one.startswith("unix:") or other.startswith("unix:"):
        return one == other
    (host, port), (other_host, other_port) = split_address(one), split_address(other)
    return port == other_port != 0 and (host == other_host or host in _EVERYWHERE or other_host in _EVERYWHERE)


def https(settings: Settings, at: At) -> Iterator[Problem]:
    """Settings about HTTPS that nothing comes of."""
    if settings.tls.certificates and not settings.tls.bind:
        yield at("tls", "certificates", "nobody listens for HTTPS: set [tls] bind (like 0.0.0.0:8443)")
    if not settings.tls.bind and not settings.proxy.trusted_proxies:
        # A front that ends TLS says so, and is believed if it is trusted.
        told = "there is no HTTPS here: set [tls] bind, or name the front that ends TLS in trusted_proxies"
        if settings.proxy.redirect_https:
            yield at("proxy", "redirect_https", told)
        if settings.proxy.hsts:
            yield at("proxy", "hsts", told)
    yield from _shadowed(settings, at)


def _shadowed(settings: Settings, at: At) -> Iterator[Problem]:
    """Certificates that are never shown, since files before them have all their names with the same kind of key."""
    known: list[Certificate] = []
    for path in settings.tls.certificates:
        try:
            found = read_certificate(path)
        except CertificateError:
            continue
        shown = by_kind(known)
        firsts = [shown.get(name, {}).get(found.kind) for name in found.names]
        if firsts and all(firsts):
            yield at("tls", "certificates",
                     f"{path} is never shown: {firsts[0]} comes first for {found.names[0]}, with the same kind of key ({found.kind})")
        known.append(found)


#: What begins variables whose names go on as the operator likes.
_NAMED = tuple(f"PROXYD_{section.upper()}_" for section in NAMED)


def environment(variables: Mapping[str, str] | None = None) -> Iterator[Problem]:
    """Variables that look like settings and are none. One that resembles nothing may be somebody else's."""
    known = [environment_name(section, key) for section in SECTIONS for key in setting_declarations(section)]
    for name in sorted(os.environ if variables is None else variables):
        if not name.startswith("PROXYD_") or name in known or name in _KNOWN_VARIABLES or name.startswith(_NAMED):
            continue
        close = get_close_matches(name, [*known, CONFIG_VARIABLE], n=3, cutoff=0.85)
        if close:
            yield Problem(f"environment {name}", 0, f"no such setting (did you mean {', '.join(close)}?)")
