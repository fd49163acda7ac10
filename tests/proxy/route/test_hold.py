"""The order of those who wait for a member that is ready."""

from __future__ import annotations

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from proxyd.proxy.route.hold import put


@given(st.lists(st.integers(0, 9)))
def test_first_come_first_served_also_for_those_who_come_back(instants: list[int]) -> None:
    queue: OrderedDict[int, float] = OrderedDict()
    for number, came in enumerate(instants):
        put(queue, number, float(came))
    assert list(queue) == sorted(range(len(instants)), key=lambda number: instants[number]), "at one instant, in the order of their coming"
