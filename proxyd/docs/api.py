"""docs/api.md: the admin API, from its endpoints and the shapes of their answers."""

from __future__ import annotations

import json
import re
from typing import Any

from proxyd.admin.endpoints import ENDPOINTS
from proxyd.admin.schemas import SCHEMAS, Schema
from proxyd.admin.table import Endpoint
from proxyd.docs.markdown import code, fenced, generated, table

_HEAD = """# Admin API

What the admin HTTP (`[admin] bind`) answers, apart from the status page at `/`. `GET /api/v1/openapi.json` has the same for programs.
Whoever reaches the port may read, unless `[admin] viewer_token_file` is set: then reading needs the viewer token or the admin token, and
only /livez and /readyz (without its reasons) answer everybody. A `session_id` is the public number of a session (`s7`), not the secret id
that its client has. What changes something needs the token of `[admin] token_file`. The examples take it from the variable `TOKEN`:

```sh
TOKEN=$(head -n 1 /etc/proxyd/admin.token)
```

An error is an answer of the shape *Problem* (application/problem+json): 400 for a parameter or body that is not what its schema says, 401
or 403 without the right to act, 404 for a route, session or path that there is not, 405 for another method, 409 for what is not possible
as things are now, 503 where the database doesn't answer. `HEAD` is `GET` without the body. A list is cut at `limit` (where it is not given,
at 1000, and events at 100); `X-Total-Count` has the number of all.
"""
_HOST = "http://127.0.0.1:8282"
_PLACES = {"route_id": "r1", "session_id": "SESSION", "service": "shop", "domain": "shop.example.com", "name": "web1"}


def text() -> str:
    """The document."""
    shown = [endpoint for endpoint in ENDPOINTS if not endpoint.hidden]
    parts = [generated("the table of endpoints (proxyd/admin/endpoints.py) and the shapes (proxyd/admin/schemas.py)"), _HEAD,
             "\n## All endpoints\n\n",
             table(("Method", "Path", "What it does"), ((item.method, code(item.path), item.summary) for item in shown))]
    parts += map(_endpoint, shown)
    parts.append("\n# Shapes\n")
    for name, schema in SCHEMAS.items():
        parts.append(f"\n## {name}\n\n{_fields(schema)}")
    return "".join(parts)


def _endpoint(endpoint: Endpoint) -> str:
    parts = [f"\n## {endpoint.method} {endpoint.path}\n\n{endpoint.summary}{' It needs the token.' if endpoint.action else ''}\n\n"]
    given = [(code(name), "path", "string", "") for name in re.findall(r"\{(\w+)\}", endpoint.path)]
    given += [(code(item.name), "query", _type(item.schema), item.description) for item in endpoint.parameters]
    body = endpoint.body or {}
    given += [(code(name), "body", _type(schema), "needed" if name in body.get("required", ()) else "")
              for name, schema in body.get("properties", {}).items()]
    if given:
        parts += [table(("Parameter", "In", "Type", "What it is"), given), "\n"]
    statuses = " or ".join(map(str, (200, *endpoint.also)))
    parts += [f"Answer ({statuses}): {_answer(endpoint)}.\n\n", fenced(_curl(endpoint), "sh")]
    return "".join(parts)


def _answer(endpoint: Endpoint) -> str:
    stream = ", or text/event-stream" if endpoint.stream else ""
    if "/" in endpoint.answers:
        return " or ".join(endpoint.answers.split()) + stream
    key, _, items = endpoint.answers.partition(": ")
    return (f"`{{\"{key}\": [...]}}`, a list of *{items[1:-1]}*" if items else f"*{endpoint.answers}*") + stream


def _curl(endpoint: Endpoint) -> str:
    """A call that can be pasted."""
    words = ["curl -s"] + ([f"-X {endpoint.method}"] if endpoint.method != "GET" else [])
    if endpoint.action:
        words.append('-H "Authorization: Bearer $TOKEN"')
    if endpoint.body is not None:
        example = {name: schema["examples"][0] if "examples" in schema else schema.get("default")
                   for name, schema in endpoint.body["properties"].items()
                   if "examples" in schema or "default" in schema}
        words += ["-H 'Content-Type: application/json'", f"-d '{json.dumps(example)}'"]
    needed = "&".join(f"{item.name}={item.schema['examples'][0]}" for item in endpoint.parameters if item.required)
    url = _HOST + endpoint.path.format(**_PLACES)
    return " ".join([*words, f"'{url}?{needed}'" if needed else url])


def _fields(schema: Schema) -> str:
    needed = schema.get("required", ())
    return table(("Field", "Type", ""), ((code(name), _type(item), "" if name in needed else "may be missing")
                                         for name, item in schema["properties"].items()))


def _type(schema: Schema) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        return f"*{schema['$ref'].rpartition('/')[2]}*"
    if "oneOf" in schema:
        return " or ".join(map(_type, schema["oneOf"]))
    if "enum" in schema:
        return " or ".join(map(code, schema["enum"]))
    kind: Any = schema["type"]
    if kind == "array":
        return f"list of {_type(schema['items'])}"
    if "properties" in schema:
        return "object of " + ", ".join(f"{code(name)} ({_type(item)})" for name, item in schema["properties"].items())
    if isinstance(schema.get("additionalProperties"), dict):
        return f"object with values of {_type(schema['additionalProperties'])}"
    words = " or ".join(kind) if isinstance(kind, list) else kind
    words = words.replace("string", "instant") if schema.get("format") == "date-time" else words
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None:
        words += f", {low} to {high}" if high is not None else f" from {low}"
    elif "exclusiveMinimum" in schema:
        words += f" above {schema['exclusiveMinimum']}"
    default = schema.get("default", "")
    return words + (f" (default {default})" if default != "" else "")
