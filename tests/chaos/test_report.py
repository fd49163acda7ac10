"""The verdict in words: what the first breaches were is said of each, and of the rest how many there were, when, and of which kind."""

from __future__ import annotations

from tests.chaos.excuses import Excuses
from tests.chaos.judge import Judge
from tests.chaos.report import GROUPS, SHOWN, shown
from tests.chaos.world import Verdict


def test_breaches_that_are_not_shown_each_are_told_by_what_they_have_in_common() -> None:
    judge = Judge({}, Excuses())
    for number in range(SHOWN):
        judge.breach("served", 10.0 + number, "s0 main of web1: 503 'stale_table'")
    for at in (40.0, 40.5, 41.0, 60.0):
        judge.breach("served", 5.0 + at, "s1 main of web2: 503 'route_disabled'")
    judge.breach("served", 45.25, "s2 extra of web3: 503 'stale_table'")
    judge.breach("fresh", 50.0, "s1 main of web1: by b0 for s1 v91 main")
    text = shown(Verdict(judge, 5.0, [], [], {}, {}), "again")
    told = [line.split(None, 1)[1].strip() for line in text.splitlines() if line.startswith("BROKEN")]
    assert told[:SHOWN] == [f"{5 + number:.2f} s  served: s0 main of web1: 503 'stale_table'" for number in range(SHOWN)]
    assert told[SHOWN:] == [
        "45.00 s  fresh: s1 main of web1: by b0 for s1 v91 main",
        "40.00 s  served: 3 more until 41.00 s, the first: s1 main of web2: 503 'route_disabled'",
        "40.25 s  served: 1 more until 40.25 s, the first: s2 extra of web3: 503 'stale_table'",
        "60.00 s  served: 1 more until 60.00 s, the first: s1 main of web2: 503 'route_disabled'"]
    assert f"broken      served {SHOWN + 5} times" in text
    for number in range(GROUPS + 5):
        judge.breach("served", 100.0 + 10 * number, "s1 main of web2: 503 'route_disabled'")
    assert shown(Verdict(judge, 5.0, [], [], {}, {}), "again").count("served: ") == SHOWN + GROUPS
