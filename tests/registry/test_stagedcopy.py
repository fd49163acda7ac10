"""What a session has staged: the same as a plain dict of its changes, with sizes and routes that are right after every change."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxyd.registry.configuration import RouteSpec, Staged
from proxyd.registry.stagedcopy import StagedCopy, entry_size
from proxyd.store.sql.changes import SettingKey

R1 = RouteSpec("r1", ("a.example",), "/", "http://127.0.0.1:1", 0).to_json()
ROUTES = st.tuples(st.just("routes"), st.sampled_from(["r1", "r2", "r3"]), st.just(""))
SETTINGS = st.tuples(st.sampled_from(["options", "headers"]), st.sampled_from(["ALL", "r1", "r2"]), st.sampled_from(["x", "long-name"]))
CHANGES = st.one_of(
    st.dictionaries(ROUTES, st.sampled_from([R1, None])),
    st.dictionaries(SETTINGS, st.sampled_from(["", "value", None])),
    st.lists(st.one_of(ROUTES, SETTINGS)))


@given(st.lists(CHANGES))
def test_after_any_changes_it_says_what_a_plain_dict_of_them_says(steps: list[Staged | list[SettingKey]]) -> None:
    staged = StagedCopy()
    plain: Staged = {}
    for step in steps:
        if isinstance(step, dict):
            expected = {**plain, **step}
            assert staged.size_with(step) == sum(entry_size(key, value) for key, value in expected.items())
            staged.put(step)
            plain = expected
        else:
            staged.drop(step)
            plain = {key: value for key, value in plain.items() if key not in step}
    assert dict(staged) == plain and list(staged) == list(plain) and len(staged) == len(plain) and bool(staged) == bool(plain)
    assert staged.size == sum(entry_size(key, value) for key, value in plain.items())
    assert {route_id: spec and spec.to_json() for route_id, spec in staged.routes.items()} == {
        key[1]: value for key, value in plain.items() if key[0] == "routes"}
    for target in ("ALL", "r1", "r2", "r3"):
        assert set(staged.settings_of(target)) == {key for key in plain if key[0] != "routes" and key[1] == target}
