"""A seed is a run: the same faults at the same times with the same choices."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from tests.chaos.faults import FAULTS, Fault
from tests.chaos.hosts.world import HOST_FAULTS
from tests.chaos.plan import planned


def test_a_seed_gives_one_plan_and_another_seed_another() -> None:
    faults = list(FAULTS.values())
    plan = planned(7, 600.0, 2.0, faults)
    assert plan == planned(7, 600.0, 2.0, faults)
    assert plan != planned(8, 600.0, 2.0, faults)
    assert random.Random(plan[0].seed).random() == random.Random(planned(7, 600.0, 2.0, faults)[0].seed).random()


@pytest.mark.parametrize("faults", [FAULTS, HOST_FAULTS], ids=["one host", "three hosts"])
def test_a_plan_has_about_as_many_faults_as_asked_for_and_none_at_the_end(faults: dict[str, Fault]) -> None:
    plan = planned(7, 600.0, 2.0, list(faults.values()))
    assert 240 < len(plan) < 360
    assert max(entry.at for entry in plan) < 598.0
    assert {entry.fault.name for entry in plan} == set(faults)


def test_the_command_lists_faults_and_refuses_one_that_is_not_there() -> None:
    listed = subprocess.run([sys.executable, "-m", "tests.chaos", "--list"], capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in listed.splitlines()] == list(FAULTS)
    wrong = subprocess.run([sys.executable, "-m", "tests.chaos", "--faults", "kill_wrker"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 1
    assert "no fault kill_wrker; there are kill_backend, " in wrong.stderr
