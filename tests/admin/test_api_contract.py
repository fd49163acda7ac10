"""What the OpenAPI document says is what the server does: each parameter and each body is tried with what its schema forbids, and with
what it allows."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from proxyd.admin.endpoints import ENDPOINTS
from proxyd.admin.table import openapi
from proxyd.base.text import rfc3339
from tests.admin.harness import SESSION, TOKEN, Master

Schema = dict[str, Any]
DOCUMENT = openapi(ENDPOINTS)
#: In path templates of the document.
PLACES = {"name": "web1", "route_id": "r1", "session_id": SESSION, "service": "shop", "domain": "shop.example.com"}
GOOD: dict[str, Any] = {"client": "127.0.0.1", "q": "shop", "seconds": 60, "at": rfc3339(time.time() + 3600)}


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path.format(**PLACES), operation


def forbidden(schema: Schema) -> list[Any]:
    """Values that a schema does not allow; each kind of schema in use must say enough for some."""
    if "enum" in schema:
        return ["nosuch", "no", schema["enum"][0] + "x"]
    if schema["type"] == "integer":
        return [schema["minimum"] - 1, schema["maximum"] + 1, "x", "1.5", "", "²", "9" * 30]
    if schema["type"] == "array":
        return ["x", None, 1, {}, [], [1], [""], ["x"] * (schema["maxItems"] + 1)]
    if schema["type"] == "object":
        return ["x", None, 1, [], {"timeout": 1}, {"timeout": None}, {str(number): "x" for number in range(schema["maxProperties"] + 1)}]
    if schema["type"] == "number":
        return [schema["exclusiveMinimum"], schema["maximum"] + 1, -1, "60", True, None, [], {}]
    return ["x" * (schema["maxLength"] + 1), *([""] if schema.get("minLength") else [])]


def allowed(name: str, schema: Schema) -> list[Any]:
    if "enum" in schema:
        return list(schema["enum"])
    if schema["type"] == "integer":
        return [schema["minimum"], schema["maximum"]]
    return schema.get("examples") or [schema["default"] if "default" in schema else GOOD[name]]


PARAMETERS = [pytest.param(path, item, operation, id=f"{path} {item['name']}") for method, path, operation in operations()
              for item in operation["parameters"] if item["in"] == "query"]
BODIES = [pytest.param(method, path, operation["requestBody"], id=f"{method} {path}") for method, path, operation in operations()
          if "requestBody" in operation]


def needed(operation: dict[str, Any], without: str) -> dict[str, str]:
    return {item["name"]: item["schema"]["examples"][0] for item in operation["parameters"]
            if item["in"] == "query" and item["required"] and item["name"] != without}


def is_problem(answer: requests.Response, status: int) -> None:
    assert answer.status_code == status, (answer.url, answer.status_code, answer.text[:200])
    assert answer.headers["Content-Type"] == "application/problem+json" and answer.json()["detail"]


@pytest.mark.parametrize(("path", "item", "operation"), PARAMETERS)
def test_a_parameter_is_what_its_schema_says(master: Master, path: str, item: dict[str, Any], operation: dict[str, Any]) -> None:
    name, schema, others = item["name"], item["schema"], needed(operation, item["name"])
    for value in forbidden(schema):
        # An answer that streams would not end: the read of its body times out.
        is_problem(master.get(path, params={**others, name: value}), 400)
    for value in allowed(name, schema):
        with master.get(path, params={**others, name: value}, stream=True) as answer:
            assert str(answer.status_code) in operation["responses"], (name, value, answer.text[:200])
    if item["required"]:
        is_problem(master.get(path, params=others), 400)


@pytest.mark.parametrize(("method", "path", "body"), BODIES)
def test_a_body_is_what_its_schema_says(master: Master, method: str, path: str, body: dict[str, Any]) -> None:
    schema = body["content"]["application/json"]["schema"]
    if method == "PATCH":
        added = master.act("POST", path.rpartition("/")[0], {"domains": ["h.example"], "backend": "http://127.0.0.1:1"})
        path = f"{path.rpartition('/')[0]}/{added.json()['route_id']}"
    for name, property_schema in schema["properties"].items():
        wrong = forbidden(property_schema) + ([1, None, ["x"]] if property_schema["type"] == "string" else [])
        for value in wrong:
            is_problem(master.act(method, path, {name: value}), 400)
        for value in allowed(name, property_schema):
            if not body["required"]:
                others = {other: GOOD[other] for other in schema.get("dependentRequired", {}).get(name, ())}
                assert master.act(method, path, {name: value, **others}).status_code == 200
    for text in ("[]", "1", "{", '"x"', json.dumps({name: float("nan") for name in schema["properties"]})):
        answer = requests.request(method, master.url + path, data=text, timeout=5, headers={"Authorization": f"Bearer {TOKEN}"})
        is_problem(answer, 400)
    empty = master.act(method, path)
    assert empty.status_code == (400 if body["required"] else 200), empty.text
    assert body["required"] is bool(schema.get("required"))


def test_what_is_possible_but_not_now_is_a_conflict(master: Master) -> None:
    is_problem(master.act("DELETE", f"/api/v1/sessions/{SESSION}/drain"), 409)
    assert master.act("DELETE", f"/api/v1/sessions/{SESSION}/drain").json()["code"] == "conflict"
