"""What a request brings, held against the schemas of its endpoint: the document says what is refused, because this reads it, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxyd.admin.http import RequestRefused
from proxyd.admin.schemas import Schema

_NAMES = {"string": "text", "number": "a number", "integer": "a whole number", "boolean": "true or false",
          "object": "an object", "array": "an array"}


def check_parameter(name: str, schema: Schema, required: bool, query: Mapping[str, str]) -> None:
    """Hold a parameter of the query against its schema. Raises RequestRefused (400)."""
    text = query.get(name)
    if text is None:
        if required:
            raise RequestRefused(400, "bad_parameter", f"{name}: it is needed")
        return
    wrong = _integer(text, schema) if schema["type"] == "integer" else _wrong(text, schema)
    if wrong:
        raise RequestRefused(400, "bad_parameter", f'{name}: "{text[:40]}" {wrong}')


def check_body(schema: Schema, body: Mapping[str, Any]) -> None:
    """Hold a request's object against a schema of properties. Raises RequestRefused (400)."""
    for name, property_schema in schema["properties"].items():
        if name not in body:
            if name in schema.get("required", ()):
                raise RequestRefused(400, "bad_body", f"{name}: it is needed{_like(name, property_schema)}")
            continue
        wrong = _wrong(body[name], property_schema)
        if wrong:
            raise RequestRefused(400, "bad_body", f"{name}: {body[name]!r:.40} {wrong}{_like(name, property_schema)}")


def _integer(text: str, schema: Schema) -> str:
    low, high = schema["minimum"], schema["maximum"]
    if text.isascii() and text.isdigit() and low <= int(text[:12]) <= high:
        return ""
    return f"is not a whole number from {low} to {high}"


def _wrong(value: Any, schema: Schema) -> str:
    """What is wrong with a value, empty if nothing is."""
    type_ = schema["type"]
    if type_ in ("array", "object"):
        return _wrong_many(value, schema)
    if isinstance(value, bool) or not isinstance(value, {"string": str, "integer": int}.get(type_, int | float)):
        return f"is not {_NAMES[type_]}{_bounds(schema)}"
    if "enum" in schema and value not in schema["enum"]:
        return f"is none of {', '.join(filter(None, schema['enum']))}"
    if isinstance(value, str):
        if len(value) > schema.get("maxLength", len(value)):
            return f"is longer than {schema['maxLength']} characters"
        return "is too short" if len(value) < schema.get("minLength", 0) else ""
    # Written so that what is no number at all (NaN) is refused, too.
    if not (value > schema.get("exclusiveMinimum", float("-inf")) and schema.get("minimum", float("-inf")) <= value
            and value <= schema.get("maximum", float("inf"))):
        return f"is not a number{_bounds(schema)}"
    return ""


def _wrong_many(value: Any, schema: Schema) -> str:
    """The same for an array of texts, and for an object of them."""
    listed = schema["type"] == "array"
    if not isinstance(value, list if listed else dict):
        return f"is not {_NAMES[schema['type']]} of texts"
    low, high = (schema.get("minItems", 0), schema["maxItems"]) if listed else (0, schema["maxProperties"])
    if not low <= len(value) <= high:
        return f"has {len(value)} items, not {low} to {high}"
    items = value.values() if isinstance(value, dict) else value
    return next((f"holds {item!r:.40}, which {wrong}" for item in items
                 if (wrong := _wrong(item, schema["items" if listed else "additionalProperties"]))), "")


def _bounds(schema: Schema) -> str:
    low, high, least = schema.get("exclusiveMinimum"), schema.get("maximum"), schema.get("minimum")
    begins = f" above {low}" if low is not None else f" from {least}" if least is not None else ""
    return begins + (f", of at most {high:g}" if high is not None else "")


def _like(name: str, schema: Schema) -> str:
    example = schema.get("examples", [schema.get("default")])[0]
    return f' (like {{"{name}": "{example}"}})' if isinstance(example, str) and example else ""
