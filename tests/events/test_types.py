"""Types of events are declared once: the source uses no others, and a line in a copy of the table is enough for a new one."""

from __future__ import annotations

import ast
import json
from pathlib import Path

from proxyd.events.types import NAMES, TYPES
from tests.support.scratch import ROOT, Scratch

_SEEN = """
import json
from pathlib import Path
from proxyd.admin.endpoints import ENDPOINTS
from proxyd.admin.table import openapi
from proxyd.ctl.parser import build
from proxyd.docs import document
from proxyd.registry.fields import event_type
print(json.dumps({
    "accepted": event_type("smoke_seen"), "documents": [name for name in ("protocol", "database") if "`smoke_seen`" in document(name)],
    "api": "smoke_seen" in json.dumps(openapi(ENDPOINTS))}))
build().parse_args(["events", "--help"])
"""


def published() -> list[tuple[str, set[str]]]:
    """Type and data keys of every event that the source publishes with its type and data written out."""
    found = []
    for path in (ROOT / "proxyd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            # The orders of certificates have a method of this name, too, with one argument.
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr != "publish" or (
                    len(node.args) < 2):
                continue
            if len(node.args) < 2:  # Another `publish`, like that of a certificate's orders: it calls the bus itself.
                continue
            kind, data = node.args[0], node.args[1]
            assert isinstance(kind, ast.Constant) and isinstance(kind.value, str), f"{path}:{node.lineno}: the type is not written out"
            keys = data.keys if isinstance(data, ast.Dict) else []
            found.append((kind.value, {str(key.value) for key in keys if isinstance(key, ast.Constant)}))
    return found


def compared() -> set[str]:
    """The types that the source compares an event's with."""
    return {
        str(side.value) for path in (ROOT / "proxyd").rglob("*.py") for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Attribute) and ast.unparse(node.left) == "event.type"
        for side in node.comparators if isinstance(side, ast.Constant)}


def test_every_event_that_is_published_is_declared_with_its_fields() -> None:
    declared = {event.name: set(event.fields) for event in TYPES}
    assert [(name, keys) for name, keys in published() if not keys <= declared[name]] == []


def test_every_declared_event_is_published() -> None:
    written = {name for name, _ in published()}
    # An apply writes its event in the transaction of the configuration itself.
    assert set(NAMES) - written == {"config_applied"}


def test_types_that_are_reacted_to_are_declared() -> None:
    assert {"backend_health_changed", "certificate_expiring"} <= compared() <= set(NAMES)


def test_a_line_in_the_table_is_a_type_everywhere(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    scratch.insert("proxyd/events/types.py", '    EventType("circuit_reset"',
                   '    EventType("smoke_seen", "Smoke was seen.", ("where",), "smoke_seen"),')
    first, _, rest = scratch.run(_SEEN).partition("\n")
    assert json.loads(first) == {"accepted": "smoke_seen", "documents": ["protocol", "database"], "api": True}
    assert "smoke_seen" in rest
