"""Says which answers were illegal. It is asked when all is over, so that it knows what became of everything that was under way."""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.chaos.excuses import Excuses
from tests.chaos.history import History, Window
from tests.chaos.invariants import INVARIANTS

#: Longest time (seconds) that an answer may take: the invariant `prompt` names it.
PROMPT = 10.0
#: What the proxy says of a backend that it does not ask, because it failed before. What it says of one that it asked is 502 or 504.
NOT_ASKED = frozenset({"circuit_open", "upstream_down"})
#: Seconds within which what a leader says is read from its log.
_SAID = 0.5
#: Seconds in which a host that was named as late has caught up, if nothing keeps it from that.
_CATCHES_UP = 4.0
#: Seconds for which one that was named as late may know that it is, while changes come all the time; and those that a leader may be behind
#: with the word, on a machine that is too busy.
_RECENT, _SAYS = 8.0, 2.0
#: An answer of a backend: its name, and the path it was asked for, in which service, version and route are.
ANSWER = re.compile(r"(\S+) /(\w+)/v(\d+)/(main|extra)(?:/\S*)?(?: \d+)?\n")


@dataclass(frozen=True, slots=True)
class Sample:
    """A request and what came of it. `status` is 0 where no answer came, `error` says then why not; `config` is the header that each
    version sets; `host` was asked, where there are several."""

    service: str
    extra: bool
    begin: float
    end: float
    status: int = 0
    reason: str = ""
    text: str = ""
    config: str = ""
    error: str = ""
    host: str = ""


@dataclass(frozen=True, slots=True)
class Breach:
    """An invariant that did not hold."""

    at: float
    invariant: str
    what: str
    faults: tuple[str, ...] = ()


@dataclass
class Judge:
    """The verdict on all that happened."""

    histories: dict[str, History]
    excuses: Excuses
    breaches: list[Breach] = field(default_factory=list)
    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    #: When a host was named as one that gives no sign of life, until it is back; and the instants at which one was named as late.
    gone: list[tuple[Window, str]] = field(default_factory=list)
    named: list[tuple[float, str]] = field(default_factory=list)

    def breach(self, invariant: str, at: float, what: str) -> None:
        """Note that an invariant did not hold."""
        assert invariant in INVARIANTS, invariant
        self.counts[invariant] += 1
        self.breaches.append(Breach(at, invariant, what, tuple(self.excuses.under_way(at))))

    def samples(self, samples: Sequence[Sample]) -> None:
        """Judge all requests."""
        for sample in samples:
            self.sample(sample)

    def sample(self, sample: Sample) -> None:
        """Judge one request: what was answered, and when."""
        if sample.error:
            self.broken(sample)
        elif sample.status == 200:
            self.answer(sample)
        else:
            self.status(sample)
        if sample.end - sample.begin > PROMPT and not self._excused(sample, "slow"):
            self.breach("prompt", sample.begin, f"{_name(sample)} took {sample.end - sample.begin:.1f} s")

    def answer(self, sample: Sample) -> None:
        """An answer of a backend: by which version?"""
        history = self.histories[sample.service]
        found = ANSWER.fullmatch(sample.text)
        if found is None:
            self.breach("declared", sample.begin, f"{_name(sample)}: not the answer of a backend: {sample.text[:80]!r}")
            return
        backend, service, version, route = found[1], found[2], int(found[3]), found[4]
        told = f"{_name(sample)}: by {backend} for {service} v{version} {route}"
        config = history.configs.get(version)
        legal = history.legal(sample.begin, sample.end)
        if (service != sample.service or (route == "extra") != sample.extra or config is None or config.backend != backend
                or not config.has(sample.extra)):
            self.breach("declared", sample.begin, f"{told}, which was not declared ({config})")
        elif version not in legal:
            if version < max(legal) and self._late(sample, lambda begin: version in history.legal(begin, sample.end)):
                self.counts["late"] += 1
            elif version < max(legal):
                last = max((attempt.ended for attempt in history.attempts if attempt.outcome == "ok" and attempt.ended <= sample.begin),
                           default=-math.inf)
                self.breach("fresh", sample.begin, f"{told}; legal: {sorted(legal)}, by an OK {sample.begin - last:.2f} s before")
            else:
                self.breach("declared", sample.begin, f"{told}, whose apply was refused or not sent; legal: {sorted(legal)}")
        elif sample.config != f"v{version}":
            self.breach("whole", sample.begin, f"{told}, with the header of {sample.config or 'none'}")

    def status(self, sample: Sample) -> None:
        """Any other answer: may it be?"""
        history = self.histories[sample.service]
        if sample.reason in ("unknown_host", "no_route") and history.may_lack(sample.extra, sample.begin, sample.end):
            return
        if sample.reason == "route_disabled" and (history.may_be_away(sample.begin, sample.end)
                                                  or self.excuses.holds("away", sample.begin, sample.end)):
            return
        of_backend = not sample.reason or sample.status in (502, 504) or sample.reason in NOT_ASKED
        if of_backend and self._backend_excused(sample):
            return
        if sample.status == 503 and self._excused(sample, "down"):
            return
        if (sample.reason == "stale_table" and (self._excused(sample, "late") or self._named(sample))
                or sample.reason in ("unknown_host", "no_route")
                and self._late(sample, lambda begin: history.may_lack(sample.extra, begin, sample.end))
                or sample.reason == "route_disabled" and self._late(sample, lambda begin: history.may_be_away(begin, sample.end))):
            self.counts["late"] += 1
            return
        self.breach("served", sample.begin, f"{_name(sample)}: {sample.status} {sample.reason or sample.text[:60]!r}")

    def broken(self, sample: Sample) -> None:
        """A connection that ended, or could not be made."""
        if self._excused(sample, "cut") or self._excused(sample, "down") or self._backend_excused(sample):
            return
        self.breach("unbroken", sample.begin, f"{_name(sample)}: {sample.error} after {sample.end - sample.begin:.2f} s")

    def refused(self, service: str, begin: float, end: float, line: str, answer: str, host: str = "") -> None:
        """A registry command that was answered with an error, by a host."""
        if "internal error" in answer or not self.excuses.holds("refused", begin, end, host=host):
            self.breach("answered", begin, f"{service}: {line} -> {answer}")

    def forgotten(self, service: str, begin: float, end: float) -> None:
        """A RECONNECT that was answered REREGISTER. `begin`: when the session was last known to be there."""
        if not self.excuses.holds("forgotten", begin, end):
            self.breach("kept", begin, f"{service}: RECONNECT was answered REREGISTER")

    def lost(self, service: str, begin: float, end: float, error: str, host: str = "") -> None:
        """A registry connection to a host that ended, or on which no answer came in time."""
        if not (self.excuses.holds("master", begin, end, host=host) or self.excuses.holds("down", begin, end, host=host)):
            self.breach("connected", begin, f"{service}: {error}{host and f' ({host})'}")

    def _excused(self, sample: Sample, kind: str) -> bool:
        return self.excuses.holds(kind, sample.begin, sample.end, host=sample.host)

    def _late(self, sample: Sample, legal: Callable[[float], bool]) -> bool:
        """Whether the host may answer by an older table: it has been named as late, which says that an OK did not wait any longer; or
        something keeps it from newer ones, and it has been named as gone. `legal` says whether the answer was, at any instant from another
        one until its end."""
        named = [at for at, host in self.named if host == sample.host and at <= sample.end + _SAID]
        if named and legal(sample.begin - _CATCHES_UP) and max(named) >= sample.begin - _CATCHES_UP:
            return True
        gone = any(host == sample.host and window.overlaps(sample.begin - _CATCHES_UP, sample.end + _SAID) for window, host in self.gone)
        return (gone or bool(named)) and any(legal(sample.begin - excuse.by) for excuse in self.excuses.found(
            "late", sample.begin, sample.end, host=sample.host))

    def _named(self, sample: Sample) -> bool:
        """Whether a leader has lately said that the host is late: whoever has known of a newer table for `stale_after` is."""
        return any(host == sample.host and sample.begin - _RECENT <= at <= sample.end + _SAYS for at, host in self.named)

    def _backend_excused(self, sample: Sample) -> bool:
        history = self.histories[sample.service]
        return any(self.excuses.holds("backend", sample.begin, sample.end, history.configs[version].backend)
                   for version in history.legal(sample.begin, sample.end))


def _name(sample: Sample) -> str:
    return f"{sample.service} {'extra' if sample.extra else 'main'}{sample.host and f' of {sample.host}'}"
