"""Webhooks for alerts, as a line of `[webhooks]` declares them, and the types of alerts."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from proxyd.base import text
from proxyd.base.urls import parse_web_url

SLACK, DISCORD, NTFY, JSON = "slack", "discord", "ntfy", "json"
FORMATS = (SLACK, DISCORD, NTFY, JSON)
#: What of `base.findings` is told, once it has lasted for a moment. Of what the other kinds are about, the types before tell.
FINDINGS = ("database", "no_worker", "out_of_service", "failing", "health_checker", "worker_stale", "worker_behind", "host_behind",
            "problem")
#: Types of alerts, and what each is about.
TYPES: dict[str, str] = {
    "health": "a health check finds a backend down", "circuit": "a circuit opens", "certificate": "a certificate ends soon, or an order of "
    "one failed", "slow": "a request took longer than slow_critical", "errors": "too many requests of a service fail ([alerts] error_rate)",
    **{name: f"`{name}` of what is unwell" for name in FINDINGS}}
_OPTIONS = ("types", "services", "resolved", "template")
_HOSTS = {"hooks.slack.com": SLACK, "discord.com": DISCORD, "discordapp.com": DISCORD, "ntfy.sh": NTFY}


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where alerts go. `types`, `services`: only these (services as patterns); empty: all. `resolved`: it is told, too, when something is
    over. `template`: a file of JSON that is filled in; empty: the usual form."""

    url: str
    format: str
    types: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    resolved: bool = True
    template: str = ""

    def wants(self, type_: str, service: str, resolved: bool) -> bool:
        """Whether an alert goes there. One that is about no service goes only where services are not named."""
        if resolved and not self.resolved or self.types and type_ not in self.types:
            return False
        return not self.services or any(fnmatchcase(service, pattern) for pattern in self.services if service)


def format_of(url: str) -> str:
    """The format that the host of a url understands."""
    return _HOSTS.get(urlsplit(url).hostname or "", JSON)


def parse_webhook(value: str) -> Webhook:
    """`[FORMAT] URL [types=A,B] [services=A,B*] [resolved=no] [template=FILE]`. Raises ValueError, without the url, which is a secret."""
    words = value.split()
    form = words.pop(0).lower() if words and words[0].lower() in FORMATS else ""
    if not words:
        raise ValueError(f"it names no url (like slack https://hooks.slack.com/services/...; formats: {', '.join(FORMATS)})")
    url = words.pop(0)
    if not parse_web_url(url):
        raise ValueError("it names no url")
    options: dict[str, str] = {}
    for word in words:
        key, equals, given = word.partition("=")
        if key not in _OPTIONS or not equals or not given:
            raise ValueError(f'"{word[:80]}" is not one of {", ".join(f"{name}=..." for name in _OPTIONS)}{text.suggest(key, _OPTIONS)}')
        options[key] = given
    types = text.split_list(options.get("types", ""))
    for name in types:
        if name not in TYPES:
            raise ValueError(f'"{name[:80]}" is no type of alerts{text.suggest(name, TYPES)} (known: {", ".join(TYPES)})')
    form = form or format_of(url)
    if "template" in options and form != JSON:
        raise ValueError(f"a template is for the format json, not {form}")
    return Webhook(url, form, tuple(types), tuple(text.split_list(options.get("services", ""))),
                   text.parse_bool(options.get("resolved", "yes")), options.get("template", ""))
