"""What the commands about live state make of a route's row."""

from __future__ import annotations

import dataclasses

import pytest

from proxyd.config.options import OPTIONS
from proxyd.registry.commands.live import _told_of


def test_the_timeout_of_a_route_that_sets_none_is_the_declared_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIONS, "timeout", dataclasses.replace(OPTIONS["timeout"], default="7250ms"))
    assert _told_of({}) == {"upstream_timeout_seconds": 7.25, "notes": []}


def test_a_route_is_told_its_own_timeout_and_what_has_no_effect() -> None:
    told = _told_of({"timeout": "3s", "http2": "true", "http3": "true"})
    assert told["upstream_timeout_seconds"] == 3.0
    assert len(told["notes"]) == 1
    assert "http3" in told["notes"][0]
