"""A service that registers again: its old routes serve until the new ones take their place in one step."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter

from tests.support.backends import Backend
from tests.support.system import MakeSystem, System
from tests.support.waiting import wait_for


def test_a_service_that_registers_again_and_applies_later_fails_no_request(system: System, backend: Backend) -> None:
    first = system.client("again")
    old = first.route("again.test", backend.url)
    seen: list[tuple[int, str | None]] = []
    ending = threading.Event()

    def load() -> None:
        while not ending.is_set():
            answer = system.get("/", "again.test")
            seen.append((answer.status, answer.headers["X-Proxyd-Reason"]))

    thread = threading.Thread(target=load)
    thread.start()
    second = system.client("again")
    assert first.command("PING|SID") == "ERROR|invalid session"
    assert system.connect().command(f"RECONNECT|{first.session_id}") == "REREGISTER"
    count = len(seen)
    new = second.route("again.test", backend.url, apply=False)
    wait_for(lambda: len(seen) > count + 20)
    second.apply()
    count = len(seen)
    wait_for(lambda: len(seen) > count + 20)
    ending.set()
    thread.join()
    assert Counter(seen).keys() == {(200, None)}
    assert system.sql("SELECT route_id FROM routes WHERE service_name = 'again'") == [(new,)] and new != old


def test_a_service_that_was_lost_serves_again_once_it_has_registered_and_shutdown_ends_all(system: System, backend: Backend) -> None:
    first = system.client("crashed")
    first.route("crashed.test", backend.url)
    first.close()
    answer = wait_for(lambda: (got := system.get("/", "crashed.test")).status == 503 and got)
    assert answer.headers["X-Proxyd-Reason"] == "route_disabled" and answer.headers["Retry-After"]
    system.client("crashed").close()
    third = system.client("crashed")
    assert system.get("/", "crashed.test").status == 200, "what had been applied serves, not what registered in between"
    third.ok("CLIENT_SHUTDOWN|SID")
    assert system.get("/", "crashed.test").status == 404


def test_what_was_replaced_ends_with_the_grace_also_over_a_restart_of_the_master(new_system: MakeSystem, backend: Backend) -> None:
    system = new_system(workers=1, registry__replace_grace="3s")
    first = system.client("slow")
    first.route("slow.test", backend.url)
    begun = time.monotonic()
    system.client("slow")
    os.kill(system.master_pid(), signal.SIGKILL)
    assert system.get("/", "slow.test").status == 200
    wait_for(system.ready)
    # Looked at first, the clock would say nothing of the moment in which the answer was made.
    assert system.get("/", "slow.test").status == 200 or time.monotonic() - begun > 2.5
    assert system.connect().command(f"RECONNECT|{first.session_id}") == "REREGISTER"
    wait_for(lambda: system.get("/", "slow.test").status == 404, 10)
    assert time.monotonic() - begun > 2.5
    assert system.sql("SELECT count(*) FROM sessions WHERE service_name = 'slow' AND state = 'ended'") == [(1,)]
