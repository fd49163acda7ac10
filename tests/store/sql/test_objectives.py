"""What `v_slo` says of few requests."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxyd.base import clock
from proxyd.base.text import rfc3339
from proxyd.store.sql import identity
from proxyd.store.sql.database import Store, database
from proxyd.store.sql.migrations import migrate
from proxyd.store.sql.rollups import Objective, TrafficDay
from tests.support.postgres import Postgres

#: By service: requests of today, how many of them were bad, and what is left of a budget of one in a thousand: requests, and per cent.
TOLD = {"few": (21, 1, -1.0, None), "none": (0, 0, 0.0, None), "some": (1000, 1, 0.0, 0.0), "spent": (1000, 3, -2.0, -200.0),
        "well": (20_000, 5, 15.0, 75.0)}


def tell() -> None:
    now = rfc3339(clock.shown(clock.now()))
    for number, (service, (requests, bad, *_)) in enumerate(TOLD.items()):
        route_id = f"r{number}"
        identity.came([{"route_id": route_id, "session": "s1", "service_name": service, "instance_name": "i1", "domains": '["a.test"]',
                        "path": "/", "backend_url": "http://127.0.0.1:8080", "created_at": now}], "i1@127.0.0.1")
        Objective.create(service_name=service, domain="a.test", path="/", objective="availability", target_percent=99.9)
        sums = {field.column_name: 0 for field in TrafficDay._meta.sorted_fields}
        TrafficDay.insert({**sums, "endpoint_id": identity.endpoints_of([route_id])[route_id], "day": f"{now[:10]}T00:00:00.000Z",
                           "requests": requests, "errors": bad}).execute()


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_of_a_budget_of_less_than_one_request_there_is_no_share(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    server: Postgres | None = request.getfixturevalue("postgres") if engine == "postgresql" else None
    store = Store(server.new_database() if server is not None else f"sqlite:///{tmp_path}/p.db")
    store.open()
    migrate(store)
    store.call(tell)
    found = store.read(lambda: database.execute_sql("SELECT service_name, budget_left, left_percent FROM v_slo").fetchall())
    store.close()
    # As text: zero has no sign.
    assert {name: tuple(None if value is None else str(float(value)) for value in row) for name, *row in found} == {
        name: tuple(None if value is None else str(value) for value in wanted[2:]) for name, wanted in TOLD.items()}
