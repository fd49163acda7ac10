"""scripts/mutants on a package of two modules: what a test notices, what none does, and what has no test."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GATE = "def let_in(age: int) -> bool:\n    return age >= 18\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A package `shop` with a module in a room, and no tests yet."""
    for directory in ("shop/door", "tests/door"):
        (tmp_path / directory).mkdir(parents=True)
    for package in ("shop", "shop/door", "tests", "tests/door"):
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "shop/door/gate.py").write_text(GATE)
    return tmp_path


def write_test(tree: Path, name: str, *ages: int) -> None:
    """A test of the gate that tries these ages."""
    lines = "".join(f"    assert let_in({age}) is {age >= 18}\n" for age in ages)
    (tree / name).write_text(f"from shop.door.gate import let_in\n\n\ndef test_it():\n{lines}")


def mutants(tree: Path, *arguments: str) -> str:
    done = subprocess.run([ROOT / "scripts" / "mutants", "--root", tree, *arguments], capture_output=True, text=True, timeout=100,
                          env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_no_test_notices_is_shown_with_file_line_and_change(tree: Path) -> None:
    write_test(tree, "tests/door/test_gate.py", 3, 30)
    output = mutants(tree, "shop/door/gate.py")
    assert "\nsurvived: shop/door/gate.py:2: moved boundary\n-    return age >= 18\n+    return (age > 18)\n" in output
    assert "negated comparison" not in output and "returns None" not in output
    assert "5 mutants tried" in output and ": 2 killed, 3 survived" in output
    assert (tree / "shop/door/gate.py").read_text() == GATE


def test_a_boundary_that_is_tested_leaves_no_survivor_and_a_test_elsewhere_counts_by_its_import(tree: Path) -> None:
    write_test(tree, "tests/test_far.py", 17, 18)
    assert ": 3 killed" in mutants(tree, "--sample", "3", "shop.door.gate")


def test_without_tests_every_mutant_is_told_as_untested(tree: Path) -> None:
    output = mutants(tree, "--sample", "2", "--seed", "5", "shop")
    assert output.startswith("5 mutants in 3 modules; seed 5\n")
    assert output.count("\nuntested: shop/door/gate.py:2: ") == 2 and "2 mutants tried" in output
    assert mutants(tree, "--sample", "2", "--seed", "5", "shop").splitlines()[:-1] == output.splitlines()[:-1]


def test_a_mutant_that_never_ends_is_ended_and_counts_as_noticed(tree: Path) -> None:
    (tree / "shop/door/gate.py").write_text("def let_in(age):\n    while age < 18:\n        age += 18\n    return True\n")
    (tree / "tests/door/test_gate.py").write_text("from shop.door.gate import let_in\n\n\ndef test_it():\n    assert let_in(3)\n")
    output = mutants(tree, "--slack", "0", "shop")
    assert " 1 stuck" in output and "survived: shop/door/gate.py:3: augassign is gone" not in output


def test_tests_that_fail_anyway_are_left_out(tree: Path) -> None:
    (tree / "tests/door/test_gate.py").write_text("def test_it():\n    assert False\n")
    output = mutants(tree, "--sample", "1", "shop")
    assert "left out, since they fail without any change: tests/door/test_gate.py" in output and ": 1 untested" in output


def test_a_module_that_is_not_there_is_named(tree: Path) -> None:
    done = subprocess.run([ROOT / "scripts" / "mutants", "--root", tree, "shop.window"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1 and "no module shop.window below" in done.stderr
