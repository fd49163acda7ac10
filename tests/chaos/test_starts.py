"""A few starts with signals at random instants: scripts/starts does it for longer."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from signal import Signals

import pytest

from tests.chaos import starts
from tests.chaos.signalled import KINDS, KNOWN, Sending, planned, workers_after


def test_every_signal_comes_to_everybody_at_every_time_and_the_seed_says_when() -> None:
    plans = [planned(random.Random(f"{number}")) for number in range(3000)]
    assert plans == [planned(random.Random(f"{number}")) for number in range(3000)]
    for kind in KINDS:
        sent = {(sending.number, sending.whom) for found, sendings in plans if found == kind for sending in sendings}
        missing = {(signal.SIGUSR2, "arbiter")} if kind == "stop" else set()
        assert sent == {(number, whom) for number in KNOWN for whom in ("arbiter", "worker", "master")} - missing


def test_what_ends_the_arbiter_comes_last() -> None:
    for number in range(1000):
        kind, sendings = planned(random.Random(f"{number}"))
        ends = [sending.ends and sending.whom == "arbiter" for sending in sendings]
        assert sendings and (kind == "stop" or not any(ends[:-1]))


@pytest.mark.parametrize(("numbers", "counts"), [
    ([], {2}), ([signal.SIGTTIN], {3}), ([signal.SIGTTIN, signal.SIGTTIN, signal.SIGHUP], {2}), ([signal.SIGTTOU] * 3, {1}),
    ([signal.SIGHUP, signal.SIGTTOU], {1}), ([signal.SIGUSR1], {2})])
def test_how_many_workers_there_are_then(numbers: list[Signals], counts: set[int]) -> None:
    sendings = [Sending(number, "arbiter", 0.0) for number in numbers] + [Sending(signal.SIGTTIN, "worker", 0.0)]
    assert workers_after(sendings, 2, 2, False) == counts
    assert workers_after(sendings, 2, 2, True) >= counts


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_signals_at_random_instants_do_what_docs_say_or_nothing(tmp_path: Path) -> None:
    assert starts.run(tmp_path / "run", 52, [1, 2, 3, 4]) == []
