"""docs/rewriting.md: its variables are those that there are, and its recipe does what it says."""

from __future__ import annotations

import re
from pathlib import Path

from proxyd.base.errorpages import PAGE_VARIABLES
from proxyd.base.variables import MAX_VARIABLES, VARIABLES
from proxyd.sites.sitefile import parse_site
from tests.edge.wire import Recorder, Wire, get
from tests.support.system import System

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs/rewriting.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", DOCUMENT, re.DOTALL)


def test_the_table_has_every_variable() -> None:
    parts = DOCUMENT.split("## Error pages")
    of_fields, of_pages = (dict(re.findall(r"^\| `\{([\w.]+)\}` \| (.*) \|$", part, re.MULTILINE)) for part in parts)
    assert (of_fields, of_pages) == (VARIABLES, PAGE_VARIABLES)
    assert f"up to {MAX_VARIABLES} variables" in DOCUMENT


def test_the_recipe_works_and_is_the_same_by_site_file_and_registry(tmp_path: Path) -> None:
    (content,) = (text for kind, text in BLOCKS if kind == "ini" and "X-Tenant" in text)
    (lines,) = (text.splitlines() for kind, text in BLOCKS if not kind)
    site, problems = parse_site(content, "x.ini", "x")
    assert problems == []
    told: dict[str, dict[str, str]] = {"REQUEST_HEADERS_SET": {}, "HEADERS_SET": {}}
    for command, _, _, name, value in (line.split("|") for line in lines):
        told[command][name] = value
    route = site.routes["shop"]
    assert (told["REQUEST_HEADERS_SET"], told["HEADERS_SET"]) == (route.request_headers, route.headers)
    recorder = Recorder(b"HTTP/1.1 200 OK\r\nX-Powered-By: secret\r\nContent-Length: 2\r\n\r\nok")
    system = System(tmp_path, workers=1)
    try:
        client = system.client("recipe", "one")
        route_id = client.route("shop.example.com", recorder.url, apply=False)
        for line in lines:
            client.ok(line.replace("|sid|", "|SID|"))
        client.apply()
        with Wire(system.proxy_port) as wire:
            response = wire.send(get("shop.example.com", "/cart?x", "X-Tenant: red", "Authorization: Bearer mine")).response()
        (got,) = recorder.requests()
        assert (got.all("x-tenant"), got.all("authorization"), got.get("x-original")) == (
            ["blue"], ["Basic cHJveHk6c2VjcmV0"], "http://shop.example.com/cart")
        assert (response.get("x-powered-by"), response.get("x-served-by")) == (None, route_id)
    finally:
        system.stop()
        recorder.stop()
