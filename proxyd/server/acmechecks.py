"""What `proxyd check` says of automatic HTTPS."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from proxyd.base import private
from proxyd.base.text import split_address
from proxyd.base.urls import is_local_name, normalize_domain
from proxyd.config.ini import Problem
from proxyd.config.settings import Settings
from proxyd.net.resolver import ResolveError, Resolver
from proxyd.store.sql.keybox import Keybox, KeyboxError

At = Callable[[str, str, str], Problem]

_HTTP_PORT, _HTTPS_PORT = 80, 443
#: Most names that are looked up.
_MOST_RESOLVED = 20


def acme(settings: Settings, at: At) -> Iterator[Problem]:
    """What keeps [acme] from working, or makes it unsafe."""
    wanted = settings.acme
    if not wanted.enabled:
        return
    if not settings.tls.bind:
        yield at("acme", "enabled", "nobody listens for HTTPS: set [tls] bind (like 0.0.0.0:443)")
    if not wanted.terms_agreed:
        yield at("acme", "terms_agreed", "nothing is ordered before you agree to the CA's terms of service: terms_agreed = yes")
    if not wanted.email:
        yield at("acme", "email", "no email: the CA can't tell anybody of trouble with certificates")
    if urlsplit(wanted.directory).scheme != "https":
        yield at("acme", "directory", f'"{wanted.directory}" is not an https:// url')
    for domain in wanted.domains:
        try:
            normalize_domain(domain)
        except ValueError as error:
            yield at("acme", "domains", str(error))
    bind = settings.proxy.bind
    if "http-01" in wanted.challenges and (bind.startswith("unix:") or split_address(bind)[1] != _HTTP_PORT):
        yield at("acme", "challenges", f"no public port 80: the CA checks http-01 there, and [proxy] bind is {bind}; bind port 80 (like "
                                       "0.0.0.0:80)")
    tls = settings.tls.bind
    if "tls-alpn-01" in wanted.challenges and tls and (tls.startswith("unix:") or split_address(tls)[1] != _HTTPS_PORT):
        yield at("acme", "challenges", f"no public port 443: the CA checks tls-alpn-01 there, and [tls] bind is {tls}; bind port 443 (like "
                                       "0.0.0.0:443)")
    if "dns-01" in wanted.challenges:
        program = wanted.dns_command.split()[:1]
        if not program:
            yield at("acme", "dns_command", "the challenge dns-01 needs a program that makes TXT records")
        elif shutil.which(program[0]) is None:
            yield at("acme", "dns_command", f"{program[0]} is not a program that this user can run")
    yield from _files(settings, at)


def warnings(settings: Settings) -> Iterator[tuple[str, str]]:
    """Section and sentence of what works, but may not be what anybody wants: names of [acme] domains that lead elsewhere, by DNS. A CA
    that checks http-01 or tls-alpn-01 comes where they lead."""
    wanted = settings.acme
    if not wanted.enabled or not {"http-01", "tls-alpn-01"} & set(wanted.challenges):
        return
    resolver = Resolver(settings.dns.servers, settings.dns.timeout)
    for name in [name for name in wanted.domains if "*" not in name and not is_local_name(name)][:_MOST_RESOLVED]:
        try:
            found = resolver.addresses(name)
        except ResolveError as error:
            yield "acme", f"domains: {name} has no address: {error}"
            continue
        foreign = [address for address in found if not _is_ours(address)]
        if foreign:
            yield "acme", (f"domains: {name} leads to {', '.join(foreign[:3])}, which is no address of this host: right behind a router or "
                           "a front that passes its traffic here, and else the CA asks somebody else")


def _is_ours(address: str) -> bool:
    """Whether an interface of this host has the address. Nothing is sent."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((address, 0))
    except OSError:
        return False
    return True


def _files(settings: Settings, at: At) -> Iterator[Problem]:
    wanted = settings.acme
    if wanted.ca_file:
        try:
            if b"BEGIN CERTIFICATE" not in Path(wanted.ca_file).read_bytes():
                yield at("acme", "ca_file", f"{wanted.ca_file} holds no PEM certificate")
        except OSError as error:
            yield at("acme", "ca_file", f"can't read {wanted.ca_file}: {error.strerror}")
    if bool(wanted.eab_kid) != bool(wanted.eab_hmac_file):
        missing, there = ("eab_hmac_file", "eab_kid") if wanted.eab_kid else ("eab_kid", "eab_hmac_file")
        yield at("acme", missing, f"an external account needs it beside {there}")
    if wanted.eab_hmac_file:
        try:
            Path(wanted.eab_hmac_file).read_bytes()
        except OSError as error:
            yield at("acme", "eab_hmac_file", f"can't read {wanted.eab_hmac_file}: {error.strerror}")
        else:
            told = private.open_to_all(wanted.eab_hmac_file)
            if told:
                yield at("acme", "eab_hmac_file", told)
    path = settings.key_file()
    if os.path.exists(path):
        try:
            Keybox(path)
        except KeyboxError as error:
            yield at("acme", "key_file", str(error))
        mode = stat.S_IMODE(os.stat(path).st_mode)
        if mode & 0o077:
            yield at("acme", "key_file", f"{path} has mode {mode:04o}, so others can read it: chmod 0600 {path}")
    elif wanted.key_file and not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        yield at("acme", "key_file", f"the directory of {path} does not exist")
