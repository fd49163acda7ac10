"""docs/operations.md: what it tells to type can be typed, and what it says that proxyd says is said somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from proxyd.base.reasons import REASONS
from proxyd.cli.main import _parser
from proxyd.config import settings
from proxyd.ctl.parser import build
from proxyd.store.sql.database import Store
from proxyd.store.sql.migrations import migrate
from tests.support.system import ROOT

DOCUMENT = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
SOURCE = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "proxyd").rglob("*.py")))


def spans() -> list[str]:
    """Everything in back quotes outside of blocks; a | in a table is written with a backslash."""
    return [span.replace("\\|", "|") for span in re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", DOCUMENT, flags=re.M | re.S))]


def commands(program: str) -> list[list[str]]:
    """Arguments of every call of a program, in blocks and in the text, comments and pipes left out."""
    lines = [line for block in BLOCKS for line in block.splitlines()] + spans()
    found = []
    for line in lines:
        for part in re.split(r"\s\|\s|\s&&\s", line.split("  #")[0].removesuffix(" ...")):
            if program not in part:
                continue
            words = shlex.split(part, comments=True)
            if words[:3] == ["runuser", "-u", "proxyd"]:
                words = words[4:]
            if words and words[0].rpartition("/")[2] == program and len(words) > 1:
                found.append(words[1:])
    return found


@pytest.mark.parametrize("arguments", commands("proxyctl"), ids=" ".join)
def test_proxyctl_understands(arguments: list[str]) -> None:
    assert build().parse_args(arguments).name == arguments[0]


@pytest.mark.parametrize("arguments", commands("proxyd"), ids=" ".join)
def test_proxyd_understands(arguments: list[str]) -> None:
    assert _parser().parse_args([word.replace("$PROXYD_CONFIG", "x.ini") for word in arguments]).command == arguments[0]


def test_enough_is_named_to_go_by() -> None:
    rows = DOCUMENT.partition("### Symptom, command, meaning")[2].partition("\n## ")[0].splitlines()
    symptoms = [row for row in rows if row.startswith("| ")][2:]
    assert len(symptoms) >= 25
    assert all(re.fullmatch(r"\| .+ \| .*`.+ \| .+ \|", row) for row in symptoms)
    assert len(commands("proxyctl")) > 15 and len(commands("proxyd")) > 3


def test_every_reason_is_one_that_answers_carry() -> None:
    rows = DOCUMENT.partition("### Answers and their reasons")[2].partition("\n### ")[0].splitlines()
    reasons = {reason for row in rows if row.startswith("| `") for reason in re.findall(r"`([a-z_]+)`", row.split(" | ")[0])}
    assert len(reasons) > 20
    assert reasons - set(REASONS) == set()


@pytest.mark.parametrize("said", [
    "the settings stay as they are", "other changed settings take a restart of the master", "can't listen on", "it is in use",
    "the master can't start:", "starting it again", "another master (pid", "is locked", "is corrupt",
    "token is missing or not known", "may not register as", "too many refused registrations", "is held by service",
    "is committed, but not yet taken by worker", "no socket listens", "actions are off: set [admin] token_file", "wrong_host",
    "was deleted while in use", "the registry goes on without the admin HTTP", "free space on its disk",
    "certificate_expiring", "health_down", "login_refused", "circuit_state_changed"])
def test_what_it_quotes_is_said(said: str) -> None:
    quoted = DOCUMENT.replace("can.t start", "can't start")
    assert said in quoted
    assert said in re.sub(r'"\s*\n\s*f?"', "", SOURCE)


def test_every_setting_that_is_named_exists() -> None:
    for section, key in re.findall(r"\[(\w+)\] ([a-z_]+)\b", DOCUMENT):
        assert section in settings.SECTIONS
        assert key in settings.setting_declarations(section) or key in ("bind",), f"[{section}] {key}"
    for key in re.findall(r"`((?:retain|max)_\w+)`", DOCUMENT):
        assert any(key in settings.setting_declarations(section) for section in settings.SECTIONS) or key in ("max_body_size",), key


def test_the_settings_of_the_install_are_sound_but_for_the_places(tmp_path: Path) -> None:
    block = re.search(r"^```ini\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert block is not None
    file = tmp_path / "proxyd.ini"
    file.write_text(block[1])
    loaded = settings.load(str(file), {})
    assert (loaded.master.spawn, loaded.proxy.bind, loaded.sites.directory) == (False, "0.0.0.0:80", "/etc/proxyd/sites-enabled")
    unit = (ROOT / "conf" / "systemd" / "proxyd.service").read_text()
    assert "PROXYD_CONFIG=/etc/proxyd/proxyd.ini" in unit and "/opt/proxyd/bin/proxyd serve" in unit


def test_the_queries_run(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/p.db")
    store.open()
    migrate(store)
    queries = re.findall(r"sqlite3 -readonly \S+ (['\"])(.*?)\1", DOCUMENT)
    assert len(queries) >= 3
    for _, query in queries:
        store.read(lambda query=query: store._database.execute_sql(query).fetchall())  # type: ignore[union-attr]
    store.close()


def test_the_scripts_and_files_it_names_are_there() -> None:
    for name in set(re.findall(r"\b((?:scripts|conf)/[\w./-]*\w)", DOCUMENT)):
        assert (ROOT / name).exists() or name == "conf/sites-enabled", name
    for target in set(re.findall(r"\]\((\w+\.md)", DOCUMENT)):
        assert (ROOT / "docs" / target).exists(), target
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)$", DOCUMENT, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([\w-]+)\)", DOCUMENT)) <= anchors


def test_the_shell_can_read_every_block() -> None:
    for block in BLOCKS:
        done = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True, timeout=10)
        assert done.stderr == "", block


def test_the_install_asks_for_extras_that_there_are() -> None:
    setup = (ROOT / "setup.py").read_text()
    for extra in ("http2", "redis", "postgresql"):
        assert f'"{extra}":' in setup and extra in DOCUMENT
