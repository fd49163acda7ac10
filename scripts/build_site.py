"""Puts the documents together for MkDocs, and has it build the site. The README is the first page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BESIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
#: The pages by what a reader wants; what is not named comes behind.
PARTS = {
    "Begin": ("index", "coming-from", "recipes", "https", "clients"),
    "Use": ("configuration", "traffic", "health", "backends", "access", "rewriting", "deploys", "gates", "protocol"),
    "Operate": ("operations", "proxyctl", "hosts", "metrics", "alerts", "accesslog", "tracing", "database", "api", "reasons",
                "reliability"),
}


def main(target: Path) -> int:
    """Build the site into a directory. Returns mkdocs' exit status."""
    with tempfile.TemporaryDirectory() as folder:
        pages = Path(folder) / "docs"
        shutil.copytree(ROOT / "docs", pages)
        for name in ("README.md", *BESIDE):
            text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
            (pages / ("index.md" if name == "README.md" else name)).write_text(text, encoding="utf-8")
        for page in pages.glob("*.md"):
            text = page.read_text(encoding="utf-8").replace("](../README.md", "](index.md").replace("](../", "](").replace(
                "](README.md", "](index.md")
            page.write_text(_listed(text), encoding="utf-8")
        config = Path(folder) / "mkdocs.yml"
        # JSON is YAML, too.
        config.write_text(json.dumps({
            "site_name": "proxyd", "site_url": "", "docs_dir": str(pages), "site_dir": str(target.resolve()), "theme": {
                "name": "readthedocs", "highlightjs": False, "include_homepage_in_sidebar": False}, "use_directory_urls": False,
            "markdown_extensions": ["tables", "fenced_code", "toc"], "plugins": ["search"], "nav": _nav(pages),
            "validation": {"links": {"not_found": "warn", "anchors": "warn", "unrecognized_links": "warn"}}}), encoding="utf-8")
        return subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", str(config)]).returncode


def _listed(text: str) -> str:
    """A list right behind a line of text is one for GitHub; Markdown's first form wants an empty line before it. Outside of fences."""
    parts = re.split(r"(?ms)(^```.*?^```$)", text)
    return "".join([part if part.startswith("```") else re.sub(r"(?m)^((?![-*|#>\d ]).+)\n(?=[-*] |\d+\. )", r"\1\n\n", part)
                    for part in parts])


def _nav(pages: Path) -> list[dict[str, object]]:
    """The table of contents: titles are the pages' own."""
    named = {name for names in PARTS.values() for name in names}
    rest = sorted(page.stem for page in pages.glob("*.md") if page.stem not in named)
    return [{part: [{_title(pages / f"{name}.md"): f"{name}.md"} for name in names]} for part, names in (*PARTS.items(), ("More", rest))]


def _title(page: Path) -> str:
    found = re.search(r"(?m)^# (.+)$", page.read_text(encoding="utf-8"))
    return found[1].replace("`", "") if found else page.stem


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
