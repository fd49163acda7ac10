"""docs/configuration.md: settings, route options, site files and the tokens file."""

from __future__ import annotations

from proxyd.config.declare import Declaration
from proxyd.config.options import OPTIONS
from proxyd.config.settings import SECTIONS, environment_name, setting_declarations
from proxyd.docs.markdown import code, fenced, generated, table

_INTRODUCTION = """# Configuration

You need to configure nothing: without any file proxyd listens on loopback and keeps its database in `var/`. Changes go
into one of three places:

- **Settings** of the whole proxy: `conf/proxyd.ini`, or the file that `PROXYD_CONFIG` or `--config` names. The file
  that comes with proxyd lists every setting, commented out, with its default and advice on changing it.
  A variable `PROXYD_<SECTION>_<KEY>` overrides the file.
- **Route options**: what a service declares for its routes with `OPTIONS_SET` and similar commands (docs/protocol.md),
  or what a site file says under `[options]`.
- **Site files** `conf/sites-enabled/*.ini`: routes of services that never register.

`proxyd check` reads all of it and prints each problem with file, line, key, value and what was expected. A start with
such a problem fails with the same message. SIGHUP to gunicorn makes proxyd read site files, certificates and the `[log]`
settings again, and starts workers with the new settings. Settings of the master (`[registry]`, `[admin]`, `[health]`,
`[database]`) take effect when the master restarts. Then clients have to reconnect; traffic is not affected.

## How values are written

"""

_KINDS = (
    ("text", "any text on one line", "`Hello`"),
    ("yes or no", "`yes`/`no`, `true`/`false`, `on`/`off`, `1`/`0`", "`yes`"),
    ("whole number", "digits, within the bounds shown", "`256`"),
    ("duration", "numbers with the units `us`, `ms`, `s`, `m`, `h`, `d`, in any combination; a bare whole number means seconds",
     "`1h30m`, `500ms`, `60`"),
    ("duration, 0 for off", "the same, or `0` (or `off`, `none`) for no limit", "`0`"),
    ("size", "bytes, or with `k`, `m`, `g`, `t` (powers of 1024)", "`64k`, `10g`"),
    ("address", "`host:port`, `[v6]:port` or `unix:/path`", "`127.0.0.1:8000`"),
    ("list", "items with commas or spaces between them", "`text/html, text/css`"),
    ("list of paths", "full paths with commas or spaces between them", "`/run/apps, /run/shop.sock`"),
    ("list of networks", "addresses and CIDR networks, v4 and v6", "`10.0.0.0/8, ::1`"),
    ("status codes", "codes, ranges and classes", "`200-399`, `404, 5xx`"),
)

_FILE_RULES = """
A line that begins with `#` or `;` is a comment. So is the rest of a line after white space and `#` or `;`, except where the
value is a text (`via`, `webhook`, header values, ...): a text may hold both, so nothing behind it is a comment. An indented
line continues the value above it. A section or key that proxyd does not know is an error, because a misspelt limit
limits nothing. The message names similar ones.
"""

_NAMED = """
## [lists]

Lists of networks for the route options `allow` and `deny`. The keys are names of your choice: letters, digits, dash and underscore, a
letter first. A value holds networks, and files with more of them (`198.51.100.0/24, file:/etc/proxyd/office.txt`). Environment:
`PROXYD_LISTS_<NAME>`. See [access.md](access.md#addresses).

## [webhooks]

Where alerts go, beside `[alerts] webhook`, by names of your choice. A value is a line: the format (`slack`, `discord`, `ntfy` or `json`; by
the url's host where it is left out), the url, and what only this one gets. Environment: `PROXYD_WEBHOOKS_<NAME>`. See
[alerts.md](alerts.md).

## [users]

Files of users for the route option `basic_auth`, by names of your choice. A value is the name of a file (`/etc/proxyd/staff.users`), which
`proxyctl passwd` writes. Environment: `PROXYD_USERS_<NAME>`. See [access.md](access.md#names-and-passwords-basic_auth).
"""

_DEFAULTS = """
## [defaults.options], [defaults.headers], [defaults.request_headers]

What holds for every route, of the registry and of site files, that does not say otherwise itself: options, fields of answers, and fields
of requests to backends, written as in a site file. A name that a route sets replaces that of all routes; the value `-` takes such a field
away. ROUTE_STATUS (`defaults`) and `proxyctl why` show what holds for a route. A reload (SIGHUP) applies changes to all routes. There are
no environment variables for these sections.

```text
[defaults.options]
timeout               = 30s
compression           = yes
health_check_interval = 5s

[defaults.headers]
X-Content-Type-Options = nosniff

[defaults.request_headers]
X-Edge = {scheme}://{host}
```
"""

_OPTIONS = """# Route options

Every route has its own set of options. A client sets them with `OPTIONS_SET|sid|target|key|value`. The target is `ALL`
or a route id; a value for the route id overrides a value for `ALL`. A site file sets them under `[options]` for all its
routes, and under `[options NAME]` for one route; the latter overrides the former. `HEALTH_SET` and `CIRCUIT_BREAKER_SET`
are short forms for the `health_check_` and `circuit_` options that they name. In a pool of replicas, options that concern
the request as a whole (such as `balance`, `sticky_cookie`, `max_body_size` and `total_timeout`) come from the first member,
the one with the lowest route id. Options that concern the upstream come from the chosen member.

"""

_SITES = """# Site files

Every file `*.ini` in the sites directory (`[sites] directory`) is a service with static routes. A file is applied in
one transaction, as a whole or not at all. If it has a problem, its last good version stays in use, and the problem is
shown in the log, by `proxyd check` and on the status page. With `[sites] watch` a saved file takes effect at once,
otherwise on SIGHUP. Deleting a file removes its routes. `enabled = no` removes them and keeps the file.

"""

_SITE_TABLE = (
    ("[site]", "enabled", "`yes`", "`no` removes the site's routes."),
    ("[site]", "service", "the file's name",
     "Name of the service. Routes of the same service, domain, path and priority form one pool."),
    ("[route NAME]", "domains", "needed", "Exact names, `*.example.com` (one label) or `*`."),
    ("[route NAME]", "path", "`/`", "Path prefix of whole segments: `/api` matches `/api` and `/api/x`, never `/apix`."),
    ("[route NAME]", "backends", "needed", "http, https, h2c, ws or wss urls, `unix:/run/app.sock`, "
     "`redirect:` or `respond:`; several are replicas of one "
     "another."),
    ("[route NAME]", "priority", "`0`", "Of a host's routes the highest priority is tried first; among equal ones, the longest path."),
    ("[headers], [headers NAME]", "any header name", "", "Response header. It replaces the backend's own. `-` alone takes the "
     "backend's own away. It may hold variables: see [rewriting.md](rewriting.md)."),
    ("[request_headers], [request_headers NAME]", "any header name", "", "Header of the requests to the backend. It replaces the client's "
     "own. `-` alone takes the client's own away. It may hold variables."),
    ("[options], [options NAME]", "any route option", "", "See above."),
    ("[slo], [slo NAME]", "availability, latency", "",
     "Service level objectives, as the options `slo_availability` and `slo_latency` have them: `99.9%`, `99% in 300ms`."),
    ("[ratelimit], [ratelimit NAME]", "limits", "",
     "Requests per window and client address: `100/minute; 1000/hour; 5/10s`. Every limit applies."),
)

_SITE_EXAMPLE = """[site]
service = shop

[route web]
domains  = shop.example.com
backends = http://10.0.0.11:8080, http://10.0.0.12:8080

[route api]
domains  = shop.example.com
path     = /api
backends = http://10.0.0.21:9000/v2
priority = 10

[headers]
X-Frame-Options = DENY

[options]
health_check_path = /healthz
circuit_breaker = true

[options api]
timeout = 30s

[ratelimit api]
limits = 100/minute; 1000/hour
"""

_TOKENS = """# Tokens file

`[registry] tokens_file` names it. With such a file, `REGISTER` must send a token in its metadata:
`REGISTER|shop|shop-1|0|{"token":"..."}`. The file holds hashes, never tokens, so that a leaked backup is of no use to
anyone. It is read again when it changes. If it then has a problem, the last good version stays in use.

"""

_TOKEN_TABLE = (
    ("hash", "needed", "`sha256:...`, as `proxyd token NAME` prints it. The token itself is shown only then."),
    ("services", "none", "Patterns of service names that the token may register, with commas: `shop, shop-*`. `*`: any name, "
                         "also another's. A token that names none may register nothing; the log and `proxyd check` name it."),
    ("domains", "none", "Domains it may claim, with commas. `*`: any domain. `*.example.com`: every name below it, and that wildcard."),
)

_TOKEN_EXAMPLE = """$ proxyd token shop --services 'shop,shop-*' --domains shop.example.com
# The token, shown this once: yIo1VDPtWxwzWM6w5mNFYdD5Kd4TnP1qGJHkMt4rX0k
[token shop]
hash = sha256:75461c7608d0113c804aca717ecd60d74584fd7a234ba5e3dc8977cfbb8893f8
services = shop,shop-*
domains = shop.example.com
"""


def text() -> str:
    """The document."""
    parts = [generated("proxyd/config/sections.py and proxyd/config/options.py"), _INTRODUCTION,
             table(("kind", "written as", "example"), _KINDS), _FILE_RULES, "\n# Settings\n"]
    for section, cls in SECTIONS.items():
        parts.append(f"\n## [{section}]\n\n{cls.__doc__}\n\n")
        parts.append(table(("setting", "default", "kind", "what it does", "environment"), (
            (*_row(item), code(environment_name(section, key))) for key, item in setting_declarations(section).items())))
    parts += [_NAMED, _DEFAULTS, "\n", _OPTIONS, table(("option", "default", "kind", "what it does"), map(_row, OPTIONS.values()))]
    parts += ["\n", _SITES, table(("section", "key", "default", "what it does"), (
        (code(section), code(key) if " " not in key else key, default, help) for section, key, default, help in _SITE_TABLE))]
    parts += ["\n", fenced(_SITE_EXAMPLE, "ini"), "\n", _TOKENS]
    parts += [table(("key", "default", "what it does"), ((code(key), default, help) for key, default, help in _TOKEN_TABLE))]
    parts += ["\n", fenced(_TOKEN_EXAMPLE, "console")]
    return "".join(parts)


def _row(item: Declaration) -> tuple[str, str, str, str]:
    return code(item.key), code(item.default) or "(empty)", item.kind.name, item.help
