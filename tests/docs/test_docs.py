"""The generated documents: current, loadable, and with queries that run."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from proxyd.config.options import OPTIONS
from proxyd.config.settings import SECTIONS, Settings, load, setting_declarations
from proxyd.docs import NAMES, document, protocol
from proxyd.docs.database import queries, sample
from proxyd.docs.database_notes import COLUMN_NOTES, TABLE_NOTES
from proxyd.docs.explanations import EXPLANATIONS
from proxyd.registry.auth import read_tokens
from proxyd.registry.protocol import COMMANDS
from proxyd.sites.sitefile import parse_site
from proxyd.store.sql.database import database as current
from proxyd.store.sql.views import VIEWS

ROOT = Path(__file__).resolve().parents[2]
FILES = {"configuration": "docs/configuration.md", "protocol": "docs/protocol.md", "database": "docs/database.md",
         "proxyd.ini": "conf/proxyd.ini", "reasons": "docs/reasons.md", "metrics": "docs/metrics.md",
         "api": "docs/api.md", "proxyctl": "docs/proxyctl.md",
         "grafana-sqlite": "conf/grafana/history-sqlite.json", "grafana-postgresql": "conf/grafana/history-postgresql.json"}


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_every_document_has_a_file() -> None:
    assert set(FILES) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_generated_file_is_current(name: str) -> None:
    written = (ROOT / FILES[name]).read_text(encoding="utf-8")
    assert written == document(name), f"{FILES[name]} is not what the code says: run scripts/docs"


@pytest.mark.parametrize("name", NAMES)
def test_making_a_document_twice_gives_the_same(name: str) -> None:
    assert document(name) == document(name)


def test_the_config_file_as_it_comes_changes_nothing() -> None:
    path = str(ROOT / "conf/proxyd.ini")
    assert load(path, {}) == Settings(file=path)


def test_the_config_file_with_every_setting_taken_in_still_equals_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "all.ini"
    text, count = re.subn(r"(?m)^#(?=[a-z])", "", document("proxyd.ini"))
    path.write_text(text, encoding="utf-8")
    assert count == sum(len(setting_declarations(section)) for section in SECTIONS)
    assert load(str(path), {}) == Settings(file=str(path))


def test_explanations_are_of_settings_that_exist() -> None:
    known = {f"{section}.{key}" for section in SECTIONS for key in setting_declarations(section)}
    assert set(EXPLANATIONS) <= known


def test_every_setting_and_option_is_in_the_configuration_document() -> None:
    text = document("configuration")
    for section in SECTIONS:
        part = text.partition(f"\n## [{section}]\n")[2].partition("\n#")[0]
        for key in setting_declarations(section):
            assert f"| `{key}` |" in part, f"[{section}] {key}"
    options = text.partition("\n# Route options\n")[2].partition("\n# ")[0]
    for key in OPTIONS:
        assert f"| `{key}` |" in options, key


def test_the_site_file_of_the_document_is_sound() -> None:
    (example,) = blocks(document("configuration"), "ini")
    site, problems = parse_site(example, "shop.ini", "shop")
    assert problems == []
    assert set(site.routes) == {"web", "api"}


def test_the_tokens_file_of_the_document_is_sound(tmp_path: Path) -> None:
    example = blocks(document("configuration"), "console")[0]
    path = tmp_path / "tokens.ini"
    path.write_text("".join(line for line in example.splitlines(keepends=True) if not line.startswith("$")), encoding="utf-8")
    grants, problems = read_tokens(str(path))
    assert problems == []
    assert [grant.name for grant in grants.values()] == ["shop"]


def test_every_command_is_in_the_protocol_document_with_all_its_fields() -> None:
    text = document("protocol")
    for name, command in COMMANDS.items():
        part = text.partition(f"\n### {name}\n")[2].partition("\n##")[0]
        assert command.help in part, name
        for field in command.fields:
            assert field.name in part, f"{name} {field.name}"


def test_every_table_and_view_is_in_the_database_document_with_a_sentence_for_each_column() -> None:
    text = document("database")
    with sample() as connection:
        names = [row[0] for row in connection.execute(
            "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite%'")]
        assert set(VIEWS) < set(names)
        for name in names:
            part = text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
            for column in connection.execute(f"PRAGMA table_info({name})"):
                (row,) = re.findall(rf"(?m)^\| `{column[1]}` \|.*$", part)
                assert re.search(r"\| [^|]*\. \|$", row), f"{name}.{column[1]} has no sentence"


def test_notes_are_of_tables_and_columns_that_exist() -> None:
    with sample() as connection:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")}
        columns = {(table, row[1]) for table in tables for row in connection.execute(f"PRAGMA table_info({table})")}
    assert set(TABLE_NOTES) <= tables
    for name in COLUMN_NOTES:
        table, dot, column = name.partition(".")
        assert (table, column) in columns if dot else name in {known for _, known in columns}, name


def test_every_query_of_the_database_document_runs_and_finds_something() -> None:
    found = queries((ROOT / "docs/database.md").read_text(encoding="utf-8"))
    assert len(found) >= 10
    with sample() as connection:
        for sql in found:
            assert connection.execute(sql).fetchall(), sql


def test_making_the_database_document_leaves_the_database_of_the_process_alone() -> None:
    before = current.obj
    document("database")
    assert current.obj is before


def test_a_new_command_and_its_flags_show_in_the_protocol_document() -> None:
    known = dict(COMMANDS)
    known["ROUTE_PAUSE"] = dataclasses.replace(
        COMMANDS["ROUTE_REMOVE"], name="ROUTE_PAUSE", help="Stage a pause.", repeatable=True, scope="pauses")
    text = protocol.text(known)
    part = text.partition("\n### ROUTE_PAUSE\n")[2].partition("\n##")[0]
    assert "Stage a pause." in part
    assert "\nScope: `pauses`.\n" in part
    assert "\nRepeatable: " in part
    assert "[ROUTE_PAUSE](#route_pause)" in text
    assert "Repeatable: " not in text.partition("\n### ROUTE_REMOVE\n")[2].partition("\n##")[0]
