"""The end of a run: everything is repaired, so everything must be well again, and nothing of what was acknowledged may be lost."""

from __future__ import annotations

import http.client
import re
import sqlite3
import time
from collections.abc import Sequence

from tests.chaos.ends import without_reason
from tests.chaos.judge import Judge, Sample
from tests.chaos.services import Door, Service
from tests.chaos.stage import Stage

#: Longest time (seconds) until all is well again.
RECOVERY = 30.0


def settle(stage: Stage, services: Sequence[Service], judge: Judge) -> list[Sample]:
    """Wait until the proxy is ready and each service has applied once more; then every worker must serve it. Returns what was asked."""
    if not stage.wait(stage.system.ready, RECOVERY, "a ready system"):
        judge.breach("settled", time.monotonic(), f"/readyz: {_readyz(stage)}")
    for service in services:
        name = service.history.service
        if service.trouble is not None:
            judge.breach("settled", time.monotonic(), f"the client of {name} ended: {service.trouble!r}")
        elif stage.wait(lambda service=service: service.attempt(service.apply), RECOVERY, f"an apply of {name}"):  # type: ignore[misc]
            service.attempt(service.compare)
    time.sleep(0.2)
    samples = [ask(Door(stage.system.proxy_port), service.history.service) for service in services for _ in range(12)]
    _sound(stage, judge)
    return samples


def _readyz(stage: Stage) -> str:
    try:
        return stage.system.admin("/readyz").text
    except OSError as error:
        return repr(error)


def ask(door: Door, service: str) -> Sample:
    """A request for the main route of a service on a connection of its own."""
    begin = time.monotonic()
    connection = http.client.HTTPConnection(door.address, door.port, timeout=10)
    try:
        connection.request("GET", "/", headers={"Host": f"{service}.test"})
        answer = connection.getresponse()
        text = answer.read().decode("latin-1")
        return Sample(service, False, begin, time.monotonic(), answer.status, answer.getheader("X-Proxyd-Reason", ""), text[:200],
                      answer.getheader("X-Config", ""), host=door.host)
    except (OSError, http.client.HTTPException) as error:
        return Sample(service, False, begin, time.monotonic(), error=repr(error), host=door.host)
    finally:
        connection.close()


def _sound(stage: Stage, judge: Judge) -> None:
    try:
        result = stage.system.sql("PRAGMA integrity_check")
    except sqlite3.Error as error:
        result = [(str(error),)]
    if result != [("ok",)]:
        judge.breach("settled", time.monotonic(), f"the database: {result}")


def ended_by_themselves(stage: Stage, judge: Judge) -> None:
    """Hold the ends of processes that were logged against those that were asked for."""
    for what in without_reason(stage.system.log(), stage.killed, stage.may_end):
        judge.breach("alive", time.monotonic(), what)
    process = stage.system.process
    if process is None or process.poll() is not None:
        judge.breach("alive", time.monotonic(), f"the arbiter has ended: {process and process.returncode}")


def tracebacks(stage: Stage, judge: Judge) -> None:
    """Every traceback of the log is a breach, the first lines of each are shown."""
    lines = stage.system.log().splitlines()
    for number, line in enumerate(lines):
        if "Traceback (most recent call last)" in line:
            last = next((text for text in lines[number + 1:] if text and not text.lstrip().startswith(("File ", "^"))
                         and re.match(r"\s*[\w.]+(Error|Exception|Warning|Exit|Interrupt|Busy\w*)\b", text)), "")
            judge.breach("quiet", time.monotonic(), f"line {number + 1}: {lines[max(0, number - 1)][:160]} ... {last.strip()[:160]}")
