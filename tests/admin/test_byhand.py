"""Routes by hand over the admin API, in one master without traffic."""

from __future__ import annotations

from typing import Any

from proxyd.store.sql.models import Route, RouteHistory, Session
from proxyd.store.sql.query import dicts
from tests.admin.harness import Master

ROUTES = "/api/v1/routes"
SHOP = {"domains": ["Shop.example.com", "www.example.com"], "backend": "http://127.0.0.1:3000", "path": "/api", "priority": 3,
        "options": {"timeout": "30s"}, "headers": {"x-frame-options": "DENY"}, "request_headers": {"X-Tier": "gold"},
        "rate_limit": "100/minute; 5/10s"}


def row(master: Master, route_id: str) -> dict[str, Any]:
    found: dict[str, Any] = master.run(lambda: master.store.read(lambda: dicts(Route.select().where(Route.route_id == route_id))))[0]
    return found


def add(master: Master, **more: Any) -> str:
    answer = master.act("POST", ROUTES, {**SHOP, **more})
    assert answer.status_code == 200, answer.text
    route_id: str = answer.json()["route_id"]
    return route_id


def test_one_is_added_changed_and_removed_and_the_history_says_by_whom(master: Master) -> None:
    route_id = add(master)
    shown = master.get(f"{ROUTES}/{route_id}").json()
    assert (shown["source"], shown["service"], shown["instance"]) == ("hand", "shop.example.com", "hand")
    assert (shown["domains"], shown["path"], shown["priority"]) == (["shop.example.com", "www.example.com"], "/api", 3)
    assert shown["options"] == {"timeout": "30s"}
    before = row(master, route_id)
    assert (before["headers"], before["rate_limits"]) == ('{"X-Frame-Options": "DENY"}', "[[100, 60.0], [5, 10.0]]")

    changed = master.act("PATCH", f"{ROUTES}/{route_id}", {"backend": "http://127.0.0.1:3001", "options": {"retry": "yes"},
                                                           "rate_limit": ""})
    assert changed.status_code == 200, changed.text
    after = row(master, route_id)
    assert (after["backend_url"], after["options"], after["rate_limits"]) == ("http://127.0.0.1:3001", '{"retry": "yes"}', "[]")
    assert (after["headers"], after["request_headers"], after["path"]) == (before["headers"], '{"X-Tier": "gold"}', "/api")

    assert master.act("DELETE", f"{ROUTES}/{route_id}").status_code == 200
    assert master.get(f"{ROUTES}/{route_id}").status_code == 404
    assert master.act("DELETE", f"{ROUTES}/{route_id}").status_code == 404
    history, = master.run(lambda: master.store.read(lambda: dicts(RouteHistory.select().where(RouteHistory.route_id == route_id))))
    assert history["added_by"].startswith("admin token") and history["removed_by"].startswith("admin token")
    assert history["removed_why"] == "removed by hand"
    assert master.run(lambda: f"hand:{route_id}" not in master.registry.sessions)


def test_what_can_not_be_is_refused_and_leaves_nothing_behind(master: Master) -> None:
    for wrong, words in (({"domains": ["a b"]}, "domains:"), ({"backend": "ftp://x"}, "backend:"), ({"path": "x"}, "path:"),
                         ({"options": {"tiemout": "1s"}}, "timeout"), ({"options": {"timeout": "soon"}}, "timeout"),
                         ({"headers": {"Date": "now"}}, "headers:"), ({"rate_limit": "many"}, "rate_limit:"),
                         ({"service": "a b"}, "service:"), ({"options": {"retry": "yes", "retry_max_delay": "1ms"}}, "retry_max_delay")):
        answer = master.act("POST", ROUTES, {**SHOP, **wrong})
        assert answer.status_code == 400 and words in answer.json()["detail"], (wrong, answer.text)
    taken = master.act("POST", ROUTES, {"domains": ["shop.example"], "backend": "http://127.0.0.1:3000"})
    assert taken.status_code == 409 and "is held by service shop" in taken.json()["detail"]
    for method in ("PATCH", "DELETE"):
        other = master.act(method, f"{ROUTES}/r1", {})
        assert other.status_code == 409 and "is not one by hand: shop/a declares it" in other.json()["detail"]
    assert master.act("POST", ROUTES, SHOP, token="").status_code == 401
    count = master.run(lambda: master.store.read(lambda: Session.select().count()))
    assert count == 1, "a refused route leaves no session"


def test_one_that_is_refused_a_change_stays_as_it_was(master: Master) -> None:
    route_id = add(master)
    before = row(master, route_id)
    assert master.act("PATCH", f"{ROUTES}/{route_id}", {"domains": ["shop.example"], "path": "/", "priority": 0}).status_code == 409
    assert master.act("PATCH", f"{ROUTES}/{route_id}", {"options": {"tls_verify": "no", "tls_ca": "/nosuch"}}).status_code == 400
    assert row(master, route_id) == before
    assert master.act("PATCH", f"{ROUTES}/{route_id}", {}).status_code == 200
    assert row(master, route_id) == before


def test_two_of_one_service_are_replicas_and_a_service_of_the_registry_can_get_one(master: Master) -> None:
    first, second = add(master), add(master, backend="http://127.0.0.1:3001")
    assert {row(master, name)["service_name"] for name in (first, second)} == {"shop.example.com"}
    joined = add(master, domains=["shop.example"], path="/", priority=0, service="shop")
    assert row(master, joined)["session"] == f"hand:{joined}"


def test_they_outlive_the_master_and_nobody_can_take_their_session(master: Master) -> None:
    route_id = add(master)
    master.run(master.registry.sessions.clear)
    master.load()
    session = master.run(lambda: master.registry.sessions[f"hand:{route_id}"])
    assert (session.expires, list(session.routes)) == (0.0, [route_id])
    master.run(lambda: master.registry.register("shop.example.com", "hand", 0, {}, "127.0.0.1:1", None, session.grant))
    assert master.get(f"{ROUTES}/{route_id}").json()["enabled"] is True
    assert master.act("PATCH", f"{ROUTES}/{route_id}", {"priority": 4}).status_code == 200
    assert row(master, route_id)["options"] == '{"timeout": "30s"}'


def test_its_options_are_those_of_the_row_where_the_settings_are_lost(master: Master) -> None:
    # As after a start with the kept table and a new database.
    route_id = add(master)
    master.run(master.registry.sessions[f"hand:{route_id}"].settings.clear)
    assert master.act("PATCH", f"{ROUTES}/{route_id}", {"priority": 4}).status_code == 200
    after = row(master, route_id)
    assert (after["options"], after["request_headers"], after["priority"]) == ('{"timeout": "30s"}', '{"X-Tier": "gold"}', 4)
