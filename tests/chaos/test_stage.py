"""What the suite finds beside answers: what does not come, what is not told, tracebacks, and a registry that shows something else."""

from __future__ import annotations

import json
import random
import socket
import threading
from pathlib import Path

import pytest

from tests.chaos.excuses import Excuses
from tests.chaos.history import Config, History
from tests.chaos.judge import Judge
from tests.chaos.services import Service
from tests.chaos.settle import ended_by_themselves, tracebacks
from tests.chaos.stage import Stage
from tests.support.registry import RegistryClient
from tests.support.shift import ShiftedSystem

TRACEBACK = """error proxyd.proxy[7] a request failed
Traceback (most recent call last):
  File "x.py", line 1, in <module>
ValueError: wrong
"""


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """That of a system that was never started, whose log says what the test writes into it."""
    system = ShiftedSystem(tmp_path, start=False)
    (tmp_path / "output.log").write_text("info gunicorn[1] worker 7 was ended by SIGBUS\n")
    return Stage(system, [], {}, Judge({}, Excuses()), "folder", print)


def broken(stage: Stage) -> list[str]:
    return [breach.invariant for breach in stage.judge.breaches]


@pytest.mark.parametrize("invariant", ["settled", "reachable"])
def test_what_does_not_come_in_time_is_a_breach(stage: Stage, invariant: str) -> None:
    assert stage.wait(lambda: True, 0.05, "what comes", invariant)
    assert broken(stage) == []
    assert not stage.wait(lambda: False, 0.05, "what does not come", invariant)
    assert broken(stage) == [invariant]


def test_what_is_not_told_is_a_breach(stage: Stage) -> None:
    stage.expect("was ended", 0, 0.05)
    assert broken(stage) == []
    stage.expect("was ended", 30, 0.05)
    assert broken(stage) == ["told"]


def test_a_traceback_is_a_breach(stage: Stage) -> None:
    tracebacks(stage, stage.judge)
    assert broken(stage) == []
    (stage.system.directory / "output.log").write_text(TRACEBACK)
    tracebacks(stage, stage.judge)
    assert broken(stage) == ["quiet"]
    assert "ValueError: wrong" in stage.judge.breaches[0].what


def test_an_end_without_a_reason_is_a_breach_and_so_is_that_of_the_arbiter(stage: Stage) -> None:
    ended_by_themselves(stage, stage.judge)
    assert [breach.what for breach in stage.judge.breaches] == ["worker 7 ended by itself: SIGBUS", "the arbiter has ended: None"]
    assert broken(stage) == ["alive", "alive"]


@pytest.mark.parametrize(("active", "found"), [([2], []), ([1], ["durable"]), ([3], ["durable"]), ([], ["durable"])])
def test_a_registry_that_shows_something_else_than_was_acknowledged_is_a_breach(active: list[int], found: list[str]) -> None:
    listed = [{"backend": f"http://127.0.0.1:1/shop/v{version}/main", "status": "active"} for version in active]

    def answer() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rwb") as stream:
            stream.readline()
            stream.write(f"ROUTE_LIST_OK|{json.dumps(listed)}\n".encode())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        judge = Judge({}, Excuses())
        service = Service("shop", listener.getsockname()[1], {}, judge, random.Random(1), 1.0)
        history: History = service.history
        for version, outcome in ((1, "ok"), (2, "ok"), (3, "refused")):
            history.declare(Config(version, "b0"))
            history.send(version, version).end(outcome, version + 0.5)  # type: ignore[arg-type]
        service._wire = RegistryClient(listener.getsockname()[1])
        service.compare()
        service.close()
        thread.join(5)
    assert [breach.invariant for breach in judge.breaches] == found
