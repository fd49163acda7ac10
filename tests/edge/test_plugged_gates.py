"""Gates of installed packages: docs/gates.md's example, and gates that do what they should not, over real sockets."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyd.base.gateapi import GateAnswer, GateFields, GateRequest
from tests.edge.conftest import make_route
from tests.edge.wire import Message, Recorder, Wire, get
from tests.support.system import System

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs/gates.md").read_text(encoding="utf-8")
EXAMPLE, = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
#: Beside the example: gates that tell what they see, and that misbehave.
MORE = """
import gevent
from proxyd.base.gateapi import GateAnswer, GateFields

def tell(request):
    if request.path == "/tell":
        seen = (request.method, request.scheme, request.host, request.target, request.client, request.route, request.service,
                request.get("x-a") or "", request.get("none") or "none")
        return GateAnswer(200, "|".join(seen), fields=(("X-By", "gate"),))
    return GateFields(request=(("X-User", "kim"), ("X-Empty", "-")), answer=(("X-Told", "yes"),))

def slow(request):
    gevent.sleep(5)

def broken(request):
    raise KeyError("secret")

def split(request):
    return GateFields(request=(("X-User", "a\\r\\nHost: b"),))

def steers(request):
    return GateFields(request=(("Host", "b"),))

def nonsense(request):
    return "no"

def huge(request):
    return GateAnswer(200, b"x" * (2 << 20))

def status(request):
    return GateAnswer(100)
"""
ENTRIES = """[proxyd.gates]
office-hours = demo_gates:office_hours
unimportable = demo_gates:not_there
""" + "".join(f"{name} = demo_more:{name}\n" for name in ("tell", "slow", "broken", "split", "steers", "nonsense", "huge", "status"))


@pytest.fixture(scope="module")
def plugged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    packages = tmp_path_factory.mktemp("packages")
    (packages / "demo_gates.py").write_text(EXAMPLE)
    (packages / "demo_more.py").write_text(MORE)
    info = packages / "demo_gates-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: demo-gates\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(packages), os.environ.get("PYTHONPATH")))))
        running = System(tmp_path_factory.mktemp("system"), workers=1, proxy__gate_timeout="2s")
        yield running
        running.stop()


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    running = Recorder()
    yield running
    running.stop()


def ask(system: System, host: str, path: str = "/", *fields: str) -> Message:
    with Wire(system.proxy_port) as wire:
        return wire.send(get(host, path, *fields)).response()


def test_the_example_of_the_document_works(plugged: System, recorder: Recorder) -> None:
    scope: dict[str, object] = {}
    exec(compile(EXAMPLE, "example", "exec"), scope)
    gate = scope["office_hours"]
    request = GateRequest("GET", "https", "h", "/", "/", "192.0.2.1", (("x-office-key", "opensesame"),), "id", "r1", "s")
    assert callable(gate) and isinstance(gate(request), GateFields)
    host = make_route(plugged, recorder.url, gates="office-hours")
    answer = ask(plugged, host)
    assert (answer.status, answer.get("x-proxyd-reason"), answer.body) == (403, "gate_refused", b"the office is closed\n")
    assert ask(plugged, host, "/", "X-Office-Key: opensesame", "X-Office: forged").status == 200
    assert recorder.requests()[-1].all("x-office") == ["open"]
    assert isinstance(GateAnswer(403), GateAnswer)


def test_a_gate_sees_the_request_and_may_answer_it(plugged: System, recorder: Recorder) -> None:
    host = make_route(plugged, recorder.url, gates="tell")
    answer = ask(plugged, host, "/tell?x=1", "X-A: 1", "X-A: 2")
    told = answer.body.decode().split("|")
    assert told[:5] == ["GET", "http", host, "/tell?x=1", "127.0.0.1"] and re.fullmatch(r"r\d+", told[5])
    assert told[6:] == [host.removesuffix(".test"), "1", "none"]
    assert (answer.status, answer.get("x-by"), answer.get("x-proxyd-reason")) == (200, "gate", None)
    assert not recorder.requests()


def test_a_gate_sets_fields_that_the_client_can_not_forge(plugged: System, recorder: Recorder) -> None:
    host = make_route(plugged, recorder.url, gates="tell")
    answer = ask(plugged, host, "/", "X-User: root", "x-user: admin", "X-Empty: 1", "X-Kept: 1", "Connection: X-Hop", "X-Hop: 1")
    got = recorder.requests()[-1]
    assert (got.all("x-user"), got.get("x-empty"), got.get("x-kept"), got.get("x-hop")) == (["kim"], None, "1", None)
    assert answer.get("x-told") == "yes"


@pytest.mark.parametrize("name", ["slow", "broken", "split", "steers", "nonsense", "huge", "status", "unimportable"])
def test_a_gate_that_fails_lets_nothing_pass(plugged: System, recorder: Recorder, name: str) -> None:
    host = make_route(plugged, recorder.url, gates=name)
    answer = ask(plugged, host)
    assert (answer.status, answer.get("x-proxyd-reason")) == (500, "gate_failed")
    assert b"secret" not in answer.body and not recorder.requests()


def test_gates_are_asked_in_their_order_until_one_answers(plugged: System, recorder: Recorder) -> None:
    host = make_route(plugged, recorder.url, gates="tell, office-hours")
    assert ask(plugged, host, "/tell").status == 200
    assert ask(plugged, host).status == 403


@pytest.mark.parametrize(("value", "part"), [
    ("nobody", 'no installed package has a gate "nobody" (there are: broken, huge,'), ("tell,tell", "each once"), ("../x", "not the name")])
def test_a_name_that_no_package_has_is_refused(plugged: System, value: str, part: str) -> None:
    answer = plugged.client("nogate").command(f"OPTIONS_SET|SID|ALL|gates|{value}")
    assert answer.startswith("ERROR|gates: ") or "ERROR|" in answer
    assert part in answer
