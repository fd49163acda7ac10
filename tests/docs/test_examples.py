"""`proxyd docs`: what it lists and prints, in a checkout and from a wheel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from proxyd.cli.main import main
from proxyd.docs import NAMES, examples
from tests.support.system import ROOT


def test_docs_lists_the_documents_and_every_file_of_conf(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["docs"]) == 0
    listed = capsys.readouterr().out.split()
    files = {path.relative_to(ROOT / "conf").as_posix() for path in (ROOT / "conf").rglob("*") if path.is_file()}
    assert set(listed) == set(NAMES) | files - {"sites-enabled/.gitkeep"}
    assert "systemd/proxyd.service" in listed


@pytest.mark.parametrize("name", examples.names())
def test_docs_prints_an_example_as_it_is(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main(["docs", name]) == 0
    assert capsys.readouterr().out == (ROOT / "conf" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["nonsense", "../setup.py", "systemd", "sites-enabled/.gitkeep"])
def test_docs_of_another_name_is_wrong_usage_and_says_where_the_names_are(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main(["docs", name]) == 2
    seen = capsys.readouterr()
    assert seen.out == "" and f'"{name}"' in seen.err and "proxyd docs" in seen.err


def test_docs_needs_no_sound_configuration(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXYD_PROXY_BIND", "nonsense")
    assert main(["docs", "systemd/proxyd.socket"]) == 0


def test_a_build_carries_the_examples_and_what_the_admin_page_needs(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "setup.py", "-q", "egg_info", "-e", str(tmp_path), "build", "-b", str(tmp_path / "build")],
                   cwd=ROOT, check=True, capture_output=True, timeout=60)
    (built,) = (tmp_path / "build").glob("lib*")
    for name in examples.names():
        assert (built / "proxyd/docs/conf" / name).read_bytes() == (ROOT / "conf" / name).read_bytes()
    for name in ("admin/page.html", "admin/page.js", "admin/page.css", "py.typed"):
        assert (built / "proxyd" / name).is_file(), name
    # The same call lists what an sdist has: all that its tests read.
    (listed,) = tmp_path.glob("*.egg-info/SOURCES.txt")
    sources = set(listed.read_text(encoding="utf-8").split("\n"))
    there = {path.relative_to(ROOT).as_posix() for room in ("proxyd", "tests", "conf", "docs", "scripts", ".ci")
             for path in (ROOT / room).rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert there - sources == set()
    assert {"constraints.txt", "pyproject.toml", "gunicorn.conf.py", "CONTRIBUTING.md", ".pre-commit-config.yaml"} <= sources
