"""The table of reasons and the source agree: no code that is not declared, none declared that nothing uses."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyd.base.lean import uncollected
from proxyd.base.reasons import GROUPS, REASONS, STATUS_FAMILY, reason_of

ROOT = Path(__file__).resolve().parents[2]
#: Calls that say why: the place of the status (where there is one), and those of codes, among their arguments.
CALLS: dict[str, tuple[int | None, tuple[int, ...]]] = {
    "ProtocolError": (0, (1,)), "UpstreamError": (1, (2,)), "Refusal": (0, (1,)), "ResponseCut": (None, (0,)), "refuse": (None, (0,)),
    "Phase": (None, (1,)), "_answer": (1, (2,)), "respond": (1, (2,)), "_keep_line": (None, (3, 4)), "end": (None, (0,))}
#: Variables and attributes that hold a code.
NAMES = {"failure", "code", "reason"}
#: How the log says that a WebSocket ended as it should.
NO_REASON = "closed"
#: Rules of HTTP that hold for both sides: 502 where a backend breaks them; an Upgrade that is no list is the client's mistake.
OTHERWISE = {502: set(REASONS), 400: {"bad_upgrade"}}


def sources(source: str = "") -> Iterator[ast.Module]:
    """The modules that can refuse a request, and `source` as one more."""
    texts = [path.read_text(encoding="utf-8") for room in ("http1", "proxy") for path in sorted((ROOT / "proxyd" / room).rglob("*.py"))]
    # A collection in the middle of ast.parse may switch greenlets, which Python 3.11 takes for a fault of its own (SystemError).
    with uncollected():
        modules = [ast.parse(text) for text in (*texts, source)]
    yield from modules


def constants(node: ast.expr) -> list[str]:
    """What an expression can come to, as far as that is written as constants."""
    if isinstance(node, ast.IfExp):
        return constants(node.body) + constants(node.orelse)
    if isinstance(node, ast.BoolOp):
        return [code for part in node.values for code in constants(part)]
    code = node.value if isinstance(node, ast.Constant) else None
    return [code] if isinstance(code, str) and re.fullmatch(r"[a-z]+_?[a-z0-9_]*", code) and code != NO_REASON else []


def used(source: str = "") -> Iterator[tuple[str, int | None]]:
    """Code and status, as far as they are written as constants."""
    for module in sources(source):
        for node in ast.walk(module):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                status_at, places = CALLS.get(name, (None, ()))
                status = node.args[status_at] if status_at is not None and len(node.args) > status_at else None
                number = status.value if isinstance(status, ast.Constant) and isinstance(status.value, int) else None
                for place in places:
                    if len(node.args) > place:
                        yield from ((code, number) for code in constants(node.args[place]))
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    if getattr(target, "id", getattr(target, "attr", "")) in NAMES:
                        yield from ((code, None) for code in constants(node.value))


def undeclared(source: str = "") -> set[str]:
    return {code for code, _ in used(source)} - set(REASONS)


def test_every_code_in_the_source_is_declared() -> None:
    assert len({code for code, _ in used()}) > 60
    assert undeclared() == set()


@pytest.mark.parametrize("line", [
    'raise ProtocolError(400, "made_up", "detail")', 'ex.failure = "made_up"', 'return refuse("made_up", "detail")',
    'raise UpstreamError("other", 502, "made_up" if x else "timeout", "detail")'])
def test_a_code_that_is_not_declared_is_found(line: str) -> None:
    assert undeclared(line) == {"made_up"}


def test_a_status_in_the_source_is_the_declared_one() -> None:
    other = {(code, status) for code, status in used() if status is not None and status != REASONS[code].status}
    assert {(code, status) for code, status in other if code not in OTHERWISE.get(status, set())} == set()


def test_no_reason_is_declared_that_nothing_uses() -> None:
    words = {part.value for module in sources() for part in ast.walk(module) if isinstance(part, ast.Constant)}
    assert set(REASONS) - words - {STATUS_FAMILY.code} == set()


def test_codes_are_unique_and_said_in_whole_sentences() -> None:
    assert len(REASONS) == sum(len(group) for _, group in GROUPS)
    for reason in REASONS.values():
        assert 20 < len(reason.sentence) < 240 and reason.sentence[0] in f"`{reason.sentence[0].upper()}" and reason.sentence[-1] != "."


def test_a_backends_own_status_has_one_reason_for_all() -> None:
    assert reason_of("upstream_503") is reason_of("upstream_500") is STATUS_FAMILY
    assert reason_of("upstream_down").status == 503
    with pytest.raises(KeyError):
        reason_of("upstream_5030")
