"""docs/api.md: each call in it can be pasted, and each endpoint and shape is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import requests

from proxyd.admin.endpoints import ENDPOINTS
from proxyd.docs.api import text
from tests.admin.harness import SESSION, TOKEN, Master, second_instance
from tests.support.scratch import Scratch

CALLS = re.findall(r"^curl -s .*$", text(), re.MULTILINE)


def call(master: Master, line: str) -> requests.Response:
    """What a curl command of the document gets from this master."""
    words = iter(shlex.split(line.replace("$TOKEN", TOKEN).replace("/SESSION/", f"/{SESSION}/"))[2:])
    method, url, body, headers = "GET", "", None, {}
    for word in words:
        if word == "-X":
            method = next(words)
        elif word == "-H":
            name, _, value = next(words).partition(": ")
            headers[name] = value
        elif word == "-d":
            body = next(words)
        else:
            url = word.replace("http://127.0.0.1:8282", master.url)
    return requests.request(method, url, data=body, headers=headers, timeout=10)


def test_there_is_a_call_for_each_endpoint() -> None:
    assert len(CALLS) == sum(not endpoint.hidden for endpoint in ENDPOINTS) > 15


@pytest.mark.parametrize("line", CALLS, ids=lambda line: line.rpartition(" ")[0][8:30] + line.rpartition("8282")[2])
def test_a_call_can_be_pasted(master: Master, line: str) -> None:
    if "-X DELETE" in line and line.endswith("SESSION/drain"):
        # There must be a drain to cancel.
        call(master, next(other for other in CALLS if "-X POST" in other and other.endswith("/drain")))
    if "-X PATCH" in line or ("-X DELETE" in line and line.endswith("/routes/r1")):
        # Of a route by hand.
        added = call(master, next(other for other in CALLS if "-X POST" in other and other.endswith("/routes"))).json()
        line = line.replace("/routes/r1", f"/routes/{added['route_id']}")
    if "/rollout" in line:
        second_instance(master)
        if "/rollout/clear" not in line and not line.startswith("curl -s -X POST"):
            # There must be one to show, or to abort.
            call(master, next(other for other in CALLS if "-X POST" in other and other.endswith("/rollout")))
    found = call(master, line)
    # No worker runs here, and readyz says so; nor is there a CA.
    # Nor another host.
    expected = 503 if line.endswith("/readyz") else 409 if ("/certificates" in line and "-X " in line) or "/hosts/" in line else 200
    assert found.status_code == expected, found.text


def test_shapes_that_are_named_are_described() -> None:
    written = text()
    named = set(re.findall(r"\*([A-Z]\w+)\*", written))
    assert {"Route", "Problem", "Done"} <= named <= set(re.findall(r"^## (\w+)$", written, re.MULTILINE))


def test_a_line_in_the_table_is_an_endpoint_with_its_documents(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    scratch.insert("proxyd/admin/endpoints.py", '    Endpoint("POST", "/login"',
                   '    Endpoint("GET", "/api/v1/smoke", document, "Where smoke was seen.", "Done"),')
    script = """
from proxyd.admin.endpoints import ENDPOINTS
from proxyd.admin.table import find, openapi
from proxyd.docs import document
print(find(ENDPOINTS, "GET", "/api/v1/smoke")[0].summary)
print("/api/v1/smoke" in openapi(ENDPOINTS)["paths"], "## GET /api/v1/smoke" in document("api"))
"""
    assert scratch.run(script).splitlines() == ["Where smoke was seen.", "True True"]
