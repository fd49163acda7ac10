"""Objects of which there are many: who changes one is told by the type checker."""

from __future__ import annotations

import pytest

from proxyd.base.values import value


@value
class Place:
    name: str
    number: int = 1


def test_an_object_is_itself_and_has_no_room_for_more() -> None:
    place = Place("here")
    assert (place.name, place.number) == ("here", 1)
    assert place != Place("here")
    assert {place: 1}[place] == 1
    with pytest.raises(AttributeError):
        place.other = 2  # type: ignore[attr-defined]


def test_the_type_checker_lets_nobody_change_one() -> None:
    # The suite of types fails if this is allowed: the remark would be one too many.
    Place("here").number = 2  # type: ignore[misc]
