"""What must hold, whatever happens: each with the name that the checker, its verdict and docs/reliability.md use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Invariant:
    """One promise, and the module and function that find a breach of it."""

    name: str
    promise: str
    module: str
    function: str


INVARIANTS = {invariant.name: invariant for invariant in (
    Invariant("fresh", "An answer to a request that began after the OK of an apply is by that configuration or a newer one.",
              "judge.py", "Judge.answer"),
    Invariant("declared", "An answer comes from a backend, version and route that its service declared, and never from a configuration "
              "whose apply was refused.", "judge.py", "Judge.answer"),
    Invariant("whole", "An apply is seen whole: the backend and the headers of one answer are from the same version.",
              "judge.py", "Judge.answer"),
    Invariant("served", "A request to an acknowledged route of a connected service with a healthy backend gets the backend's answer, and "
              "no error of the proxy.", "judge.py", "Judge.status"),
    Invariant("unbroken", "No connection of a client is refused or cut, except those in flight on a process that is killed.",
              "judge.py", "Judge.broken"),
    Invariant("prompt", "No answer takes longer than 10 s, except while the process that has the request is stopped.",
              "judge.py", "Judge.sample"),
    Invariant("durable", "What was acknowledged is what the registry shows after a reconnect, and what was staged is still staged.",
              "services.py", "Service.compare"),
    Invariant("kept", "RECONNECT within the grace finds the session.", "judge.py", "Judge.forgotten"),
    Invariant("answered", "A registry command is refused only while the database can't be written, and never with an internal error.",
              "judge.py", "Judge.refused"),
    Invariant("connected", "A registry connection ends only with the master or by its client.", "judge.py", "Judge.lost"),
    Invariant("reachable", "The admin HTTP answers whatever the registry's connections do.", "faults/host.py", "few_descriptors"),
    Invariant("alive", "No process ends that nobody killed, and the arbiter never.", "settle.py", "ended_by_themselves"),
    Invariant("told", "What happens to a file, and what can't be done, is in the log within a second or two.", "stage.py", "Stage.expect"),
    Invariant("settled", "When all is repaired, the proxy is ready, every service can apply, and every worker serves what was applied "
              "last.",
              "settle.py", "settle"),
    Invariant("quiet", "The log has no traceback.", "settle.py", "tracebacks"),
)}
