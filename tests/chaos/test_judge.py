"""The checker itself: what is legal passes, and each breach is found under its name."""

from __future__ import annotations

import dataclasses
import math

import pytest

from tests.chaos.excuses import Excuses
from tests.chaos.history import Config, History, Window
from tests.chaos.judge import Judge, Sample

#: A good answer by version 2, from 4.5 to 4.6 (see `judge`).
GOOD = Sample("shop", False, 4.5, 4.6, 200, text="b1 /shop/v2/main/\n", config="v2")


@pytest.fixture
def judge() -> Judge:
    """A service that applied version 1 at 1 to 2 and version 2 at 3 to 4, whose version 3 was refused and whose version 4 is unknown."""
    history = History("shop")
    for version, backend, begin, outcome in ((1, "b0", 1.0, "ok"), (2, "b1", 3.0, "ok"), (3, "b2", 5.0, "refused"), (4, "b2", 7.0, "")):
        history.declare(Config(version, backend, extra=version == 1))
        attempt = history.send(version, begin)
        if outcome:
            attempt.end(outcome, begin + 1.0)  # type: ignore[arg-type]
    history.declare(Config(9, "b0"))
    return Judge({"shop": history}, Excuses())


def broken(judge: Judge, **changed: object) -> list[str]:
    """The invariants that the good answer breaks with these changes."""
    judge.sample(dataclasses.replace(GOOD, **changed))  # type: ignore[arg-type]
    return [breach.invariant for breach in judge.breaches]


ERROR = {"text": "", "config": ""}
OLD = {"text": "b0 /shop/v1/main/\n", "config": "v1"}
REFUSED = {"text": "b2 /shop/v3/main/\n", "config": "v3"}
UNKNOWN = {"text": "b2 /shop/v4/main/\n", "config": "v4"}


@pytest.mark.parametrize("changed", [
    {},
    {"text": "b1 /shop/v2/main/x?y 400\n"},
    {**OLD, "begin": 3.9},
    {**UNKNOWN, "begin": 6.5, "end": 7.5},
    {"begin": 8.0, "end": 9.0},
    {**ERROR, "extra": True, "status": 404, "reason": "unknown_host"},
])
def test_what_may_be_is_no_breach(judge: Judge, changed: dict[str, object]) -> None:
    assert broken(judge, **changed) == []


@pytest.mark.parametrize(("invariant", "changed"), [
    ("fresh", OLD),
    ("fresh", {**OLD, "extra": True, "text": "b0 /shop/v1/extra\n"}),
    ("declared", {**REFUSED, "begin": 6.5, "end": 6.6}),
    ("declared", {**REFUSED, "begin": 5.5, "end": 5.6}),
    ("declared", UNKNOWN),
    ("declared", {"text": "b0 /shop/v2/main/\n"}),
    ("declared", {"text": "b1 /cart/v2/main/\n"}),
    ("declared", {"extra": True}),
    ("declared", {"text": "b0 /shop/v9/main/\n", "config": "v9"}),
    ("declared", {"text": "b0 /shop/v10/main/\n", "config": "v10"}),
    ("declared", {"text": "<html>\n"}),
    ("whole", {"config": "v1"}),
    ("whole", {"config": ""}),
    ("served", {**ERROR, "status": 503, "reason": "no_table"}),
    ("served", {**ERROR, "status": 503, "reason": "route_disabled"}),
    ("served", {**ERROR, "status": 404, "reason": "unknown_host"}),
    ("served", {**ERROR, "status": 502, "reason": "upstream_closed"}),
    ("served", {**ERROR, "status": 500}),
    ("unbroken", {**ERROR, "status": 0, "error": "ConnectionResetError"}),
    ("prompt", {"end": 15.0}),
])
def test_a_breach_is_found_under_its_name(judge: Judge, invariant: str, changed: dict[str, object]) -> None:
    assert broken(judge, **changed) == [invariant]


@pytest.mark.parametrize(("kind", "backend", "changed"), [
    ("cut", "", {**ERROR, "status": 0, "error": "ConnectionResetError"}),
    ("down", "", {**ERROR, "status": 0, "error": "ConnectionRefusedError"}),
    ("slow", "", {"end": 15.0}),
    ("backend", "b1", {**ERROR, "status": 502, "reason": "upstream_closed"}),
    ("backend", "b1", {**ERROR, "status": 503, "reason": "circuit_open"}),
    ("backend", "b1", {**ERROR, "status": 500}),
])
def test_a_fault_excuses_what_it_says_and_only_for_its_time(judge: Judge, kind: str, backend: str, changed: dict[str, object]) -> None:
    excuse = judge.excuses.begin(kind, "the fault", 4.55, backend)
    excuse.end = 4.58
    assert broken(judge, **changed) == []
    excuse.begin = excuse.end = 4.4
    assert len(broken(judge, **changed)) == 1


def test_trouble_of_another_backend_excuses_nothing(judge: Judge) -> None:
    judge.excuses.begin("backend", "the fault", 4.5, "b0")
    assert broken(judge, **ERROR, status=502, reason="upstream_closed") == ["served"]


def test_a_service_that_is_away_may_be_refused_and_one_that_registers_may_be_missing(judge: Judge) -> None:
    history = judge.histories["shop"]
    history.away.append(Window(4.55, 4.58))
    history.gone.append(Window(4.55, 4.58))
    assert broken(judge, **ERROR, status=503, reason="route_disabled") == []
    assert broken(judge, **ERROR, status=404, reason="unknown_host") == []
    assert broken(judge, **ERROR, begin=4.59, status=404, reason="unknown_host") == ["served"]


def test_after_a_restore_an_older_version_may_hold_until_the_next_apply(judge: Judge) -> None:
    history = judge.histories["shop"]
    history.restored.append((4.2, -math.inf))
    assert broken(judge, **OLD) == []
    assert broken(judge, **ERROR, status=404, reason="unknown_host") == []
    history.send(5, 8.0).end("ok", 9.0)
    assert broken(judge, **OLD, begin=9.5, end=9.6) == ["fresh"]


def test_after_a_loss_a_service_may_be_away_as_it_was_when_the_table_was_kept(judge: Judge) -> None:
    history = judge.histories["shop"]
    history.away.append(Window(3.6, 3.7))
    history.restored.append((4.2, 3.5))
    assert broken(judge, **ERROR, status=503, reason="route_disabled") == []
    history.send(5, 8.0).end("ok", 9.0)
    assert broken(judge, **ERROR, begin=9.5, end=9.6, status=503, reason="route_disabled") == ["served"]
    history.restored[:] = [(4.2, 3.8)]
    assert broken(judge, **ERROR, status=503, reason="route_disabled") == ["served"] * 2


def test_a_loss_brings_back_nothing_older_than_what_was_kept(judge: Judge) -> None:
    history = judge.histories["shop"]
    history.restored.append((4.2, 3.5))
    assert broken(judge, **OLD) == []
    history.restored[:] = [(4.4, 4.1)]
    assert broken(judge, **OLD) == ["fresh"]


def test_a_refused_command_a_lost_connection_and_a_forgotten_session_need_an_excuse(judge: Judge) -> None:
    judge.refused("shop", 1.0, 1.1, "CONFIG_APPLY|SID", "ERROR|the database is locked")
    judge.lost("shop", 1.0, 1.1, "the connection ended")
    judge.forgotten("shop", 1.0, 1.1)
    assert [breach.invariant for breach in judge.breaches] == ["answered", "connected", "kept"]
    for kind in ("refused", "master", "forgotten"):
        judge.excuses.begin(kind, "the fault", 2.0)
    judge.refused("shop", 2.0, 2.1, "CONFIG_APPLY|SID", "ERROR|the database is locked")
    judge.lost("shop", 2.0, 2.1, "the connection ended")
    judge.forgotten("shop", 2.0, 2.1)
    assert len(judge.breaches) == 3
    judge.refused("shop", 2.0, 2.1, "CONFIG_APPLY|SID", "ERROR|internal error (id 7)")
    assert judge.breaches[-1].invariant == "answered"


def test_a_host_may_be_late_where_something_keeps_it_from_newer_tables_and_a_leader_has_named_it(judge: Judge) -> None:
    changed = {**OLD, "host": "web2"}
    assert broken(judge, **changed) == ["fresh"]
    judge.breaches.clear()
    # Named as late within the apply: the OK did not wait for it any longer.
    judge.named.append((3.9, "web2"))
    assert broken(judge, **changed) == []
    # It may know that it is late, and say so.
    assert broken(judge, **changed, status=503, reason="stale_table") == []
    assert broken(judge, **{**changed, "host": "web1"}) == ["fresh"]
    judge.breaches.clear()
    assert broken(judge, **{**changed, "host": "web1", "status": 503, "reason": "stale_table"}) == ["served"]
    judge.breaches.clear()
    judge.named.clear()
    # Named as gone: only with a reason, and only as much older as that allows.
    judge.gone.append((Window(2.0), "web2"))
    assert broken(judge, **changed) == ["fresh"]
    judge.breaches.clear()
    excuse = judge.excuses.begin("late", "the fault", 3.5, host="web2")
    excuse.by = 0.6
    assert broken(judge, **changed) == []
    assert broken(judge, **changed, status=503, reason="stale_table") == []
    excuse.by = 0.4
    assert broken(judge, **changed) == ["fresh"]
