"""Answers held to the schemas of the OpenAPI document."""

from __future__ import annotations

from typing import Any

from proxyd.admin.schemas import SCHEMAS


def fits(value: Any, schema: dict[str, Any], where: str = "$") -> None:
    """Hold a value to the part of JSON Schema that the document uses."""
    if "$ref" in schema:
        schema = SCHEMAS[schema["$ref"].rpartition("/")[2]]
    if "oneOf" in schema:
        schema = schema["oneOf"][1 if value is None else 0]
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
    name = names[type(value)]
    assert name in kinds or (name == "integer" and "number" in kinds), f"{where}: {value!r} is no {kinds}"
    assert value in schema.get("enum", [value]), where
    if isinstance(value, list):
        for index, item in enumerate(value):
            fits(item, schema["items"], f"{where}[{index}]")
    if isinstance(value, dict) and "properties" in schema:
        assert set(schema.get("required", ())) <= set(value) <= set(schema["properties"]), where
        for key, item in value.items():
            fits(item, schema["properties"][key], f"{where}.{key}")
