"""Answers held to the schemas of the OpenAPI document."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker

from proxyd.admin.schemas import SCHEMAS

_formats = FormatChecker(formats=())


@_formats.checks("date-time", raises=ValueError)
def _is_instant(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


def fits(value: Any, schema: dict[str, Any]) -> None:
    """Hold a value to a schema of the document; a property that the document does not name is a mistake too."""
    closed = {**_closed(schema), "components": {"schemas": _closed(SCHEMAS)}}
    Draft202012Validator(closed, format_checker=_formats).validate(value)


def _closed(schema: Any) -> Any:
    """The schema with no properties allowed but those it names."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(item) for key, item in schema.items()}
    return {"additionalProperties": False, **closed} if "properties" in schema and schema.get("type") == "object" else closed
