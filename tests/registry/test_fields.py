"""The checks of single fields that take a route or ALL."""

from __future__ import annotations

import pytest

from proxyd.registry.fields import route_id, target

ROUTES = ["r1", "r42", "r" + "9" * 15]
OTHERS = ["", "r", "1", "R1", "r1 ", " r1", "r-1", "r1x", "r" + "9" * 16, "r\u0663", "r\u00b2", "all", "ALL "]


@pytest.mark.parametrize("value", ROUTES)
def test_a_route_id_is_taken_as_it_is(value: str) -> None:
    assert route_id(value) == target(value) == value


@pytest.mark.parametrize("value", OTHERS)
def test_anything_else_is_refused_by_name(value: str) -> None:
    with pytest.raises(ValueError, match="is not a route id"):
        route_id(value)
    with pytest.raises(ValueError, match="is neither ALL nor a route id"):
        target(value)


def test_all_is_a_target_and_no_route() -> None:
    assert target("ALL") == "ALL"
    with pytest.raises(ValueError, match='"ALL" is not a route id'):
        route_id("ALL")
