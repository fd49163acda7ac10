"""The guides for those who come from another proxy, and the recipes: each file and each command in them is one that proxyd takes. And the
site that is built of all documents."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyd.base.urls import parse_backend
from proxyd.config.named import Named, named, use_named
from proxyd.config.settings import load
from proxyd.ctl.parser import build
from proxyd.sites.sitefile import parse_site

ROOT = Path(__file__).resolve().parents[2]
GUIDES = [ROOT / "docs" / name for name in ("coming-from.md", "recipes.md", "alerts.md", "tracing.md")]


def blocks(language: str) -> list[str]:
    return [text for page in GUIDES for text in re.findall(rf"(?ms)^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"))]


@pytest.fixture
def staff() -> Iterator[None]:
    before = named()
    use_named(Named(users=frozenset(("staff",))))
    yield
    use_named(before)


@pytest.mark.parametrize("text", [text for text in blocks("ini") if "[route " in text])
@pytest.mark.usefixtures("staff")
def test_a_site_file_is_sound(text: str) -> None:
    site, problems = parse_site(text, "guide", "guide")
    assert problems == [] and site.routes


@pytest.mark.parametrize("text", [text for text in blocks("ini") if "[route " not in text])
def test_settings_are_sound(text: str, tmp_path: Path) -> None:
    file = tmp_path / "proxyd.ini"
    file.write_text(text)
    assert load(str(file), {}).file == str(file)


@pytest.mark.parametrize("line", [line for text in blocks("sh") for line in text.splitlines() if line.startswith("proxyctl ")])
def test_a_command_is_one_of_proxyctl(line: str) -> None:
    parsed = build().parse_args(shlex.split(line)[1:])
    if parsed.name == "add":
        parse_backend(parsed.url)


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="no mkdocs here (scripts/site installs it)")
def test_the_documents_are_built_as_a_site_without_a_broken_link(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(ROOT / "scripts" / "build_site.py"), str(tmp_path / "site")], capture_output=True, text=True,
                          timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {page.stem for page in (tmp_path / "site").glob("*.html")}
    assert {page.stem for page in (ROOT / "docs").glob("*.md")} <= pages and "index" in pages
    assert "<table" in (tmp_path / "site" / "recipes.html").read_text() or "<pre" in (tmp_path / "site" / "recipes.html").read_text()
