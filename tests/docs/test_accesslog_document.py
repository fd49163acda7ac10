"""docs/accesslog.md names every field of both forms, and its example is a line as it is written."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.proxy.record.test_accesslog import line_of

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/accesslog.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line[1:-1].split("|")] for line in re.findall(r"(?m)^\|.*\|$", TEXT)[2:]]


def test_every_field_of_json_has_a_row_in_the_order_of_the_log(tmp_path: Path) -> None:
    written = list(json.loads(line_of(tmp_path, "json")))
    assert sorted(row[1].strip("`") for row in ROWS) == sorted(written)
    assert all(row[2] for row in ROWS)


def test_every_field_of_text_has_a_row_in_the_order_of_the_log(tmp_path: Path) -> None:
    written = re.findall(r" ([a-z_]+=)", line_of(tmp_path, "text"))
    assert [row[0].strip("`") for row in ROWS if row[0].endswith("=`")] == written


def test_the_example_is_a_line_as_it_is_written(tmp_path: Path) -> None:
    assert line_of(tmp_path, "text") in TEXT
