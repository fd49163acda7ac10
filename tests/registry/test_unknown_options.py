"""Options that proxyd does not know: an error, or with [registry] unknown_options = note an answer as for others, and a note."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.backends import Backend
from tests.support.system import System


def test_an_unknown_option_is_an_error_by_default(system: System) -> None:
    client = system.client("strict")
    assert client.command("OPTIONS_SET|SID|ALL|frobnicate|true").startswith('ERROR|key: unknown option "frobnicate"')
    assert client.command("OPTIONS_REMOVE|SID|ALL|frobnicate").startswith('ERROR|key: unknown option "frobnicate"')
    assert "did you mean" in client.command("OPTIONS_SET|SID|ALL|timeuot|3s")


def test_a_client_that_stops_at_the_first_error_gets_its_routes_live(new_system: Callable[..., System], backend: Backend) -> None:
    system = new_system(workers=1, registry__unknown_options="note")
    client = system.client("replay")
    route = client.ok(f"ROUTE_ADD|SID|replay.test|/|{backend.url}|0")
    replay = ("OPTIONS_SET|SID|ALL|frobnicate|a|b", f"OPTIONS_SET|SID|{route}|frobnicate|", "OPTIONS_SET|SID|ALL|timeout|7s",
              "OPTIONS_REMOVE|SID|ALL|quux", "CONFIG_APPLY|SID")
    assert [client.command(line) for line in replay] == ["OPTIONS_OK"] * 4 + ["OK"]
    status = client.json(f"ROUTE_STATUS|SID|{route}")
    assert status["upstream_timeout_seconds"] == 7.0
    assert status["notes"] == ['unknown option "frobnicate" has no effect', 'unknown option "quux" has no effect']
    assert client.json("CONFIG_DIFF|SID")["options"] == {"added": 0, "removed": 0, "modified": 0}
    assert system.get(host="replay.test").status == 200
    assert system.log().count('unknown option "frobnicate"') == 1
    # What is known is checked as before, and so is the target.
    assert client.command("OPTIONS_SET|SID|ALL|timeout|soon").startswith("ERROR|timeout: ")
    assert client.command("OPTIONS_SET|SID|r999|frobnicate|x").startswith("ERROR|target: ")
    assert [client.command(f"OPTIONS_SET|SID|ALL|x{number}|1") for number in range(100)] == ["OPTIONS_OK"] * 100
    assert len(client.json(f"ROUTE_STATUS|SID|{route}")["notes"]) == 32
