"""Endpoints as declarations: the one table routes requests, and the OpenAPI document is made from it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxyd import __version__
from proxyd.admin.http import RequestRefused, Response
from proxyd.admin.schemas import SCHEMAS, Schema, many, ref, thing


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter."""

    name: str
    description: str
    schema: Schema
    required: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method on one path; names in braces are arguments of `handler(context, request, **arguments)`.

    `answers` names the schema of the answer, `key: [Name]` for an object with an array of it, or media types where it is
    no JSON.
    `action`: it changes something and needs the admin token. `public`: it answers those who may not even read; all others need a token once
    [admin] viewer_token_file is set. `body`: schema of the request's JSON. `hidden`: not in the document.
    `also`: statuses beside 200 that answer with the same schema. `stream`: it may answer with server-sent events.
    """

    method: str
    path: str
    handler: Callable[..., Response]
    summary: str
    answers: str
    parameters: tuple[Parameter, ...] = ()
    body: Schema | None = None
    action: bool = False
    public: bool = False
    hidden: bool = False
    also: tuple[int, ...] = ()
    stream: bool = False
    pattern: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(self.path))
        object.__setattr__(self, "pattern", re.compile(pattern))


def find(endpoints: Sequence[Endpoint], method: str, path: str) -> tuple[Endpoint, dict[str, str]]:
    """The endpoint for a request, and its arguments. HEAD is GET without the body. Raises RequestRefused (404, 405)."""
    allowed = set()
    for endpoint in endpoints:
        match = endpoint.pattern.fullmatch(path)
        if not match:
            continue
        if endpoint.method == ("GET" if method == "HEAD" else method):
            return endpoint, match.groupdict()
        allowed.add(endpoint.method)
    if allowed:
        methods = sorted(allowed | ({"HEAD"} if "GET" in allowed else set()))
        raise RequestRefused(405, "method_not_allowed", f"{method[:20]} is not for {path[:200]}", {"Allow": ", ".join(methods)})
    raise RequestRefused(404, "not_found", f"there is nothing at {path[:200]}; the API is described at /api/v1/openapi.json")


def openapi(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        if not endpoint.hidden:
            paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {"title": "proxyd admin API", "version": __version__,
                 "description": "State of proxyd and its routes, and what an operator can have done. "
                                "A session_id is the public number of a session."},
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer",
                                          "description": "The token of [admin] token_file, or for reading that of viewer_token_file."}},
        },
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    names = re.findall(r"\{(\w+)\}", endpoint.path)
    words = re.findall(r"\w+", endpoint.path.removeprefix("/api/v1"))
    operation: dict[str, Any] = {
        "operationId": "_".join([endpoint.method.lower(), *(word for word in words if word not in names),
                                 *(["one"] if endpoint.path.endswith("}") else [])]),
        "summary": endpoint.summary,
        "parameters": [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
        + [{"name": item.name, "in": "query", "required": item.required, "description": item.description, "schema": item.schema}
           for item in endpoint.parameters],
        "responses": {
            **{str(status): _answer(endpoint) for status in (200, *endpoint.also)},
            "default": {"description": "Why it can't be answered.",
                        "content": {"application/problem+json": {"schema": ref("Problem")}}},
        },
    }
    if endpoint.body is not None:
        operation["requestBody"] = {"required": bool(endpoint.body.get("required")),
                                    "content": {"application/json": {"schema": endpoint.body}}}
    if endpoint.action:
        operation["security"] = [{"token": []}]
    elif not endpoint.public:
        # Reading needs a token where [admin] viewer_token_file is set.
        operation["security"] = [{}, {"token": []}]
    return operation


def _answer(endpoint: Endpoint) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": endpoint.summary, "content": _content(endpoint.answers)}
    if endpoint.stream:
        answer["content"]["text/event-stream"] = {}
    if ": [" in endpoint.answers:
        answer["headers"] = {"X-Total-Count": {"description": "How many there are, those left out included.",
                                               "schema": {"type": "integer"}}}
    return answer


def _content(answers: str) -> dict[str, Any]:
    if "/" in answers:
        return {media_type: {} for media_type in answers.split()}
    key, _, items = answers.partition(": ")
    schema = thing(**{key: many(items[1:-1])}) if items else ref(answers)
    return {"application/json": {"schema": schema}}
