"""Variables in the values of header fields: `{client_ip}` and the like, put in for each request.

`{name}` is a variable, and `{{name}}` the text `{name}`. All other braces stand for themselves, so that values that are JSON
(Report-To, NEL) stay as they are.
"""

from __future__ import annotations

import re
from functools import lru_cache

from proxyd.base import text

#: What each variable stands for. The values come from `proxy/core/setfields.py`.
VARIABLES: dict[str, str] = {
    "client_ip": "Address of the client, as access log and limits know it.",
    "host": "Host of the request in lower case, without port.",
    "method": "Method of the request.",
    "path": "Path of the request as the client sent it, without the query.",
    "query": "What stands behind the `?` of the request. Empty if there is none.",
    "request_id": "The X-Request-ID of the request.",
    "route": "Id of the route.",
    "scheme": "`http` or `https`, as the client sees it.",
    "tls.client.fingerprint": "SHA-256 of the certificate that the client has shown (`client_certificate`), in hex. Empty without one.",
    "tls.client.subject": "Subject of that certificate, as RFC 4514 writes it (`CN=alice,O=Example`). Empty without one.",
    "uri": "Path and query of the request as the client sent them.",
    "user": "Name by which the client has logged in (`basic_auth`, `forward_auth`). Empty if it has not.",
}
#: The most variables in one value, and the longest value once they are put in: what a client sends may stand in all of them.
MAX_VARIABLES = 8
MAX_FILLED = 8192

_NAME = r"[A-Za-z][A-Za-z0-9_.-]*"
_BRACED = re.compile(rf"\{{\{{({_NAME})\}}\}}|\{{({_NAME})\}}")

#: Texts and names of variables in turn, beginning and ending with a text.
Parts = tuple[str, ...]
#: Names of fields with a value, or with the parts of one that has variables.
SetFields = tuple[tuple[str, str | Parts], ...]


def check(value: str) -> None:
    """Refuse a value with a variable that does not exist, or with too many. Raises ValueError."""
    found = [match[2] for match in _BRACED.finditer(value) if match[2]]
    for name in found:
        if name not in VARIABLES:
            raise ValueError(f'"{{{name}}}" is no variable{text.suggest(name, VARIABLES)} (known: {", ".join(VARIABLES)}). '
                             f"Write {{{{{name}}}}} for the text {{{name}}}")
    if len(found) > MAX_VARIABLES:
        raise ValueError(f"{len(found)} variables are more than {MAX_VARIABLES}")


@lru_cache(maxsize=4096)
def parse(value: str) -> str | Parts:
    """The parts of a value, or a text if it has no variables. Of names that are unknown, as an older database may have them, the
    braces stand for themselves."""
    parts = [""]
    end = 0
    for match in _BRACED.finditer(value):
        parts[-1] += value[end:match.start()]
        end = match.end()
        if match[2] in VARIABLES:
            parts += [match[2], ""]
        else:
            parts[-1] += f"{{{match[1]}}}" if match[1] else match[0]
    parts[-1] += value[end:]
    return tuple(parts) if len(parts) > 1 else parts[0]
