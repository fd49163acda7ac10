"""What a rollout's guard objects to, and what is too little to tell."""

from __future__ import annotations

import pytest

from proxyd.base.histogram import bucket_of
from proxyd.registry.rolloutguard import Figures, objection, since
from proxyd.registry.rollouts import parse_steps
from proxyd.store.sql.rollouts import Counted


def figures(requests: int, errors: int = 0, seconds: float = 0.01) -> Figures:
    return Figures(requests, errors, {bucket_of(seconds): requests})


@pytest.mark.parametrize(("ours", "others", "at_end", "said"), [
    (figures(100), figures(900), True, ""),
    (figures(100, 12), figures(900, 9), False, "12 of its 100 requests failed (12.0 %), 9 of the others' 900 (1.0 %)"),
    (figures(100, 12), figures(900, 108), False, ""),
    (figures(5, 2), figures(900), True, ""),
    (figures(5, 3), figures(900), False, "3 of its 5"),
    (figures(100, 0, 0.05), figures(900), True, "its p95 was 5"),
    (figures(100, 0, 0.05), figures(900), False, ""),
    (figures(100, 0, 0.05), figures(900, 0, 0.03), True, ""),
    (figures(39, 0, 0.05), figures(900), True, ""),
    (figures(100, 0, 0.05), figures(39), True, ""),
    (figures(100, 0, 0.004), figures(900, 0, 0.001), True, "")])
def test_the_guard_objects_to_what_is_worse_by_more_than_it_may(ours: Figures, others: Figures, at_end: bool, said: str) -> None:
    found = objection(ours, others, 1.0, 2.0, at_end)
    assert said in found and bool(found) is bool(said)


def test_what_a_step_counted_is_the_difference_and_a_new_route_has_none_before() -> None:
    before = {"r1": figures(10, 1), "r3": figures(5)}
    now = {"r1": Counted(30, 2, {bucket_of(0.01): 25, bucket_of(0.5): 5}), "r2": Counted(4, 0, {bucket_of(0.01): 4})}
    found = since(["r1", "r2", "r3"], now, before)
    assert found == Figures(24, 1, {bucket_of(0.01): 19, bucket_of(0.5): 5})
    assert Figures.from_json(found.to_json()) == found


@pytest.mark.parametrize("text", ["", "x", "5,x,100", "0,100", "5,5,100", "50,5,100", "5,50", "5,101", "-5,100", "²,100",
                                  ",".join(["1"] * 200)])
def test_steps_must_grow_and_end_with_all(text: str) -> None:
    with pytest.raises(ValueError, match="^steps: "):
        parse_steps(text)
    assert parse_steps("5, 25%,100") == (5, 25, 100)
