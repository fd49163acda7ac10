"""Names: cached, one query a name, and none that makes others wait. Over a real name server on loopback."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.support.system import ROOT


def run(scenario: str) -> Any:
    """What a scenario of tests.net.patched printed."""
    done = subprocess.run([sys.executable, "-m", "tests.net.patched", scenario], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_forty_dead_names_hold_up_nobody() -> None:
    told = run("dead_names_hold_up_nobody")
    # What the machine's own hosts file says of localhost differs.
    assert told["good"][0] == ["127.0.0.1"]
    assert "127.0.0.1" in told["good"][1]
    assert told["good"][2:] == [["127.0.0.7"], ["::1"]]
    assert told["slowest"] < 0.5
    assert told["dead"] == ["no name server gave an answer within 1 s"]
    assert told["dead_slowest"] < 2.0


def test_many_waiters_share_a_query_and_its_answer_holds_for_its_ttl() -> None:
    told = run("one_query_for_many_waiters_and_the_ttl")
    assert told["found"] == ['["::1", "127.0.0.1"]']
    assert told["asked"] == [1, 1]
    assert told["again"] == 1
    assert told["moved"] == ["::1", "127.0.0.2"]


def test_an_aaaa_that_is_never_answered_costs_a_moment() -> None:
    found, seconds = run("an_aaaa_that_is_never_answered")
    assert found == ["127.0.0.1"]
    assert seconds < 1.0


def test_a_missing_name_is_asked_for_once_in_a_while() -> None:
    told = run("what_fails_is_remembered_shortly")
    assert set(told["said"]) == {"the name has no address"}
    assert told["asked"] == 1


def test_old_addresses_serve_while_no_server_answers() -> None:
    told = run("old_addresses_while_no_server_answers")
    assert told["before"] == ["127.0.0.1"]
    assert told["during"] == [["127.0.0.1"]] * 3
    # Nobody asks again for a while: an answer that does not come is waited for as long as this.
    assert max(told["later_waits"]) < 0.3


def test_old_addresses_serve_while_others_take_all_the_queries() -> None:
    assert run("old_addresses_while_too_much_is_asked") == [["127.0.0.1"], "too many names are being resolved"]


def test_the_hosts_file_and_localhost_are_never_asked_for() -> None:
    told = run("the_hosts_file_comes_first")
    assert told["found"] == {"box.test": ["127.0.0.9", "::1"], "Other.test": ["127.0.0.9"], "localhost": ["127.0.0.1", "::1"],
                             "deep.localhost": ["127.0.0.1", "::1"]}
    assert told["asked"] == 0


def test_the_names_kept_are_bounded() -> None:
    assert run("names_are_bounded") == {"all": True, "kept": 10}


def test_an_address_that_swallows_packets_costs_one_head_start_and_is_tried_last_then() -> None:
    told = run("a_broken_family_costs_one_head_start")
    assert told["peers"] == ["127.0.0.1", "127.0.0.1"]
    assert told["seconds"][0] < 1.0
    assert told["seconds"][1] < 0.2


def test_a_name_whose_addresses_all_refuse_is_refused_at_once() -> None:
    told = run("refused_everywhere")
    assert told["error"] == "ConnectionRefusedError"
    assert told["seconds"] < 1.0
