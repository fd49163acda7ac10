"""A session's id is a secret of its client: everything else that can be read has the session's public number."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxyd.base.text import hash_of
from tests.support.backends import Backend
from tests.support.registry import RegistryClient
from tests.support.system import System
from tests.support.waiting import wait_for

TOKEN = "a-token-for-the-api"


@dataclass(frozen=True)
class Used:
    system: System
    client: RegistryClient


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Used]:
    directory = tmp_path_factory.mktemp("ids")
    (directory / "token").write_text(f"{TOKEN}\n")
    (directory / "token").chmod(0o600)
    system = System(directory / "system", workers=1, admin__token_file=directory / "token")
    with_backend = Backend()
    client = system.client("shop", "shop-1")
    route = client.route("shop.test", with_backend.url)
    client.ok(f"HEALTH_SET|SID|{route}|/healthz|1s|500ms")
    client.apply()
    client.ok("OPTIONS_SET|SID|ALL|timeout|20s")
    client.ok("MAINT_ENTER|SID|ALL|")
    assert client.line() == "MAINT_OK|ALL"
    client.ok("DRAIN_START|SID|60s")
    system.get("/", "shop.test")
    client.command(f"RECONNECT|{client.session_id}")
    system.connect().command(f"PING|{client.session_id}")
    wait_for(lambda: system.sql("SELECT 1 FROM events WHERE type = 'drain_started'"))
    yield Used(system, client)
    system.stop()
    with_backend.stop()


def test_no_answer_of_the_admin_http_has_it(used: Used) -> None:
    paths = ("status", "routes", "sessions", "events?limit=1000", "stats", "health", "circuits", "openapi.json")
    for path in ("/metrics", "/", "/readyz", *(f"/api/v1/{name}" for name in paths)):
        for answer in (used.system.admin(path), used.system.admin(path, Authorization=f"Bearer {TOKEN}")):
            assert answer.status == 200 and used.client.session_id not in answer.text, path


def test_no_table_file_or_log_has_it(used: Used) -> None:
    secret = used.client.session_id
    for path in used.system.directory.rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path
    (name, kept), = used.system.sql("SELECT session_id, secret_hash FROM sessions")
    assert (name, kept) == ("s1", hash_of(secret))
    assert used.system.sql("SELECT DISTINCT session_id FROM routes") == [("s1",)]
    assert ("s1",) in used.system.sql("SELECT session_id FROM events")


def test_an_operator_drains_by_the_number(used: Used) -> None:
    shown = used.system.admin("/api/v1/sessions").json()["sessions"][0]
    assert (shown["session_id"], shown["service_name"]) == ("s1", "shop")
    for name in ("s1", used.client.session_id):
        answer = used.system.admin(f"/api/v1/sessions/{name}/drain", "DELETE", Authorization=f"Bearer {TOKEN}")
        assert answer.json() == {"done": "drain of session s1 cancelled"}
        used.client.ok("DRAIN_START|SID|60s")
    assert used.system.admin("/api/v1/sessions/s2/drain", "DELETE", Authorization=f"Bearer {TOKEN}").status == 404


def test_the_number_or_the_hash_is_no_id(used: Used) -> None:
    for name in ("s1", hash_of(used.client.session_id), hash_of(used.client.session_id).partition(":")[2]):
        assert used.system.connect().command(f"RECONNECT|{name}") == "REREGISTER"
        assert used.client.command(f"PING|{name}") == "ERROR|invalid session"
    assert used.client.command("PING|SID") == "PONG"
    assert used.client.json("SESSION_INFO|SID")["session_id"] == used.client.session_id


# -- a database of a version that stored the ids themselves


def as_before(path: str, session_id: str) -> None:
    """Make the database what a proxyd of the schema version before would have left, with this id in it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA secure_delete = OFF")
        columns = [row[1] for row in other.execute("PRAGMA table_info(sessions)") if row[1] not in ("session_id", "secret_hash")]
        names = ", ".join(columns)
        other.execute(f"INSERT INTO sessions (session_id, secret_hash, {names}) SELECT ?, '', {names} FROM sessions "
                      "WHERE session_id = 's1'", (session_id,))
        for table in ("routes", "session_settings", "staged_changes", "events"):
            other.execute(f"UPDATE {table} SET session_id = ? WHERE session_id = 's1'", (session_id,))
        other.execute("INSERT INTO events (at, type, session_id, actor, detail) "
                      "VALUES ('2026-01-01T00:00:00.000Z', 'drain_started', ?, '', '{}')", ("f" * 32,))
        other.execute("DELETE FROM sessions WHERE session_id = 's1'")
        other.execute("ALTER TABLE sessions DROP COLUMN secret_hash")
        other.execute("DELETE FROM counters WHERE name = 'next_session_number'")
        other.execute("DELETE FROM schema_version WHERE version >= "
                      "(SELECT version FROM schema_version WHERE description = 'session ids stored as hashes')")


def test_a_client_from_before_the_upgrade_reconnects_and_its_id_is_gone_from_the_file(tmp_path: Path) -> None:
    backend = Backend()
    system = System(tmp_path, workers=1)
    client = system.client("old", "old-1")
    client.route("old.test", backend.url)
    client.ok("ROUTE_ADD|SID|staged.test|/|http://127.0.0.1:9|0")
    system.stop()
    client.session_id = "0123456789abcdef" * 2
    as_before(system.database, client.session_id)
    assert client.session_id.encode() in Path(system.database).read_bytes()
    try:
        system.start()
        names = [row[0] for row in system.sql("SELECT session_id FROM sessions UNION SELECT session_id FROM routes UNION "
                                              "SELECT session_id FROM staged_changes")]
        assert names == ["s1"]
        for path in tmp_path.glob("proxyd.db*"):
            assert client.session_id.encode() not in path.read_bytes() and b"f" * 32 not in path.read_bytes(), path
        back = system.connect()
        assert back.command(f"RECONNECT|{client.session_id}") == "OK"
        back.session_id = client.session_id
        assert system.get("/", "old.test").status == 200
        back.apply()
        assert {route["status"] for route in back.json("ROUTE_LIST|SID")} == {"active"}
        assert len(back.json("ROUTE_LIST|SID")) == 2
        later = system.client("new", "new-1")
        assert later.session_id and system.sql("SELECT session_id FROM sessions ORDER BY session_id") == [("s1",), ("s2",)]
    finally:
        system.stop()
        backend.stop()
