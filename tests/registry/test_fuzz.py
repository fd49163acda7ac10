"""Noise and nonsense against a live master: always one answer a line, in order, never an internal error, and nobody else suffers."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable

import pytest

from proxyd.config.options import OPTIONS
from proxyd.registry import commands
from proxyd.registry.protocol import COMMANDS, Command
from tests.support.backends import Backend
from tests.support.registry import RegistryClient
from tests.support.system import System

assert commands.__all__, "importing the handlers fills the command table"
#: Those that end the session, wait for backends, or answer with more than one line.
LEFT_OUT = {"CLIENT_SHUTDOWN", "BACKEND_TEST", "MAINT_ENTER", "MAINT_EXIT", "SUBSCRIBE"}
NAMES = sorted(set(COMMANDS) - LEFT_OUT)
ODD = [
    "", "0", "-1", "1", "9" * 20, "1e9", "NaN", "ALL", "all", "r0", "r00000001", "r999999999999999", "r1,r2", "null", "true", "{}", "[]",
    '{"a":NaN}', '{"a":1e999}', '"\\ud800"', "*", "*.a.test", "A.TEST.", "xn--", "xn--a", "\u00fc.test", "\u0130.test", "[::1]", "1.2.3.4",
    "a" * 300, "//", "/a/../b", "/%2e%2e/x", "/a b", "http://[::1", "http://[::1]:1/x", "ws://h", "http://h?x", "http://u@h", "http://h:99999",
    "http://\u2100", "http://h\\x", "tcp://", "tcp://x", "1ns", "0.1us", ".5s", "1.s", "\u00b5s", "1\u00b5s", "+5s", "5 s", "2540400h",
    "compressed", "headers,routes", "routes,,", "txn-", "txn-1", "\x7f", "\x80", "\u2028",
    "\ud7ff", "\U0001f600", "%s%n", "'\";--", "Content-Length",
    "Set-Cookie", "\u00e9", "\t", " x ", "site:x", "txn-1|txn-2", "\r", "\r\r", "\ufeff", "\u0000"]
GOOD = {
    "service": ["fuzz"], "instance": ["i1"], "maintenance_port": ["0"], "metadata": ["null", "{}"],
    "domains": ["a.test", "b.test,*.c.test"], "path": ["/", "/x"], "priority": ["0", "5", "-3"], "key": list(OPTIONS),
    "value": ["5", "5s", "true", "200-299", "a.test", "/x", "v|w"],
    "interval": ["10s"], "timeout": ["1s"], "window": ["1m"], "requests": ["100"], "threshold": ["5"], "half_open_requests": ["1"],
    "duration": ["5s"], "field": ["backend_url", "priority", "domains", "path"], "name": ["X-A", "x-b"], "type": ["all"],
    "scopes": ["routes", "headers,options"], "compressed": ["", "compressed"]}
PLAIN = ["domains", "path", "backend_url", "priority"]


class Fuzz:
    """Lines for one session, the same for the same seed; it learns the ids of the routes it made."""

    def __init__(self, seed: int, client: RegistryClient, url: str) -> None:
        self.random = random.Random(seed)
        self.client = client
        self.url = url
        self.ids: list[str] = ["r1"]

    def line(self) -> bytes:
        rare = self.random.random()
        if rare < 0.08:
            made = bytes(self.random.randrange(256) for _ in range(self.random.randrange(1, 80)))
        elif rare < 0.12:
            made = "|".join(self.random.choices(ODD, k=self.random.randrange(1, 6))).encode("utf-8", "surrogatepass")
        else:
            made = self._command(COMMANDS[self.random.choice(NAMES)]).encode("utf-8", "surrogatepass")
        return made.replace(b"\n", b"")[:16384] or b"?"

    def _command(self, command: Command) -> str:
        fields = [self._field(field.name) for field in command.fields]
        if self.random.random() < 0.05:
            fields = fields[:self.random.randrange(len(fields) + 1)]
        if self.random.random() < 0.1:
            fields.insert(1, f"txn-{self.random.randrange(99)}")
        if self.random.random() < 0.05:
            fields.append(self.random.choice(ODD))
        return "|".join([command.name, *fields])

    def _field(self, name: str) -> str:
        if name == "session_id":
            return self.client.session_id if self.random.random() < 0.97 else self.random.choice(ODD)
        if self.random.random() < 0.2:
            return self.random.choice(ODD)
        if name == "routes":
            return json.dumps([self._route() for _ in range(self.random.randrange(4))], ensure_ascii=self.random.random() < 0.5)
        if name in ("route_id", "target"):
            return self.random.choice([*self.ids[-8:], "ALL"])
        return self.random.choice(GOOD.get(name, [self.url]))

    def _route(self) -> dict[str, object]:
        made = {name: self._field(name) if self.random.random() < 0.9 else self._nonsense(3) for name in PLAIN}
        return {name: value for name, value in made.items() if self.random.random() < 0.95}

    def _nonsense(self, depth: int) -> object:
        kind = self.random.randrange(7 if depth else 5)
        if kind < 5:
            return [None, True, 1.5, 10**30, self.random.choice(ODD)][kind]
        inner = [self._nonsense(depth - 1) for _ in range(self.random.randrange(4))]
        return inner if kind == 5 else {str(index): value for index, value in enumerate(inner)}


def check_answer(line: bytes, answer: str) -> None:
    """One well-formed answer."""
    assert re.match(r"[A-Z_]+(\||$)", answer), (line, answer)
    assert "internal error" not in answer, (line, answer)
    if answer.startswith("ERROR|"):
        assert len(answer) > len("ERROR|") + 8, (line, answer)
    elif "_OK|" in answer and answer.rpartition("|")[2][:1] in "[{":
        json.loads(answer.rpartition("|")[2], parse_constant=lambda word: pytest.fail(f"{line!r}: {word} in {answer}"))


@pytest.mark.parametrize("seed", range(4))
def test_every_line_has_one_answer_and_nothing_breaks(
        system: System, backend: Backend, new_backend: Callable[..., Backend], seed: int) -> None:
    witness = system.client("witness", f"i{seed}")
    witness.route(f"witness{seed}.test", new_backend("witness").url)
    workers, master, told = system.worker_pids(), system.master_pid(), len(system.log())
    client = system.client("fuzz", f"s{seed}")
    fuzz = Fuzz(seed, client, backend.url)
    for batch in range(25):
        lines = [fuzz.line() for _ in range(20)]
        marks = [f"PONG|txn-m{batch}-{number}" for number in range(len(lines))]
        sent = b"".join(line + f"\nPING|{client.session_id}|{mark[5:]}\n".encode() for line, mark in zip(lines, marks, strict=True))
        while sent:
            cut = fuzz.random.randrange(1, 2000)
            client.socket.sendall(sent[:cut])
            sent = sent[cut:]
        for line, mark in zip(lines, marks, strict=True):
            answer = client.line()
            if line != b"\r":  # an empty line has no answer
                check_answer(line, answer)
                if answer.startswith("ROUTE_OK|"):
                    fuzz.ids += re.findall(r"r\d+$", answer)
                answer = client.line()
            assert answer == mark, line
    assert witness.command("PING|SID") == "PONG"
    assert {system.get("/", f"witness{seed}.test").text for _ in range(6)} == {"witness /\n"}
    assert (system.worker_pids(), system.master_pid()) == (workers, master)
    assert "Traceback" not in system.log()[told:]
    assert client.command("CLIENT_SHUTDOWN|SID") == "SHUTDOWN_OK"


@pytest.mark.parametrize("seed", range(3))
def test_noise_before_a_session_is_answered_and_begins_none(system: System, seed: int) -> None:
    noise = random.Random(seed)
    before = system.sql("SELECT count(*) FROM sessions")
    client = system.connect()
    for _ in range(100):
        line = bytes(noise.randrange(256) for _ in range(noise.randrange(1, 200))).replace(b"\n", b"").removesuffix(b"\r") or b"?"
        client.socket.sendall(line + b"\n")
        answer = client.line()
        assert answer.startswith("ERROR|"), line
        # Who sends noise before a session speaks another protocol: nothing after it is read.
        assert client.line() == ""
        client.close()
        client = system.connect()
    assert system.sql("SELECT count(*) FROM sessions") == before
