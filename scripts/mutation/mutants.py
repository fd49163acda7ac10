"""Mutants of a module: one small change each, made in the source text, so that the rest of a line stays as it was written."""

from __future__ import annotations

import ast
import copy
import difflib
from collections.abc import Iterator
from dataclasses import dataclass

NEGATED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In}
BOUNDARY: dict[type[ast.cmpop], type[ast.cmpop]] = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult}
Node = ast.stmt | ast.expr
#: Calls on these say something to a person; a test that notices each of them would be a test of words.
LOGS = frozenset({"log", "_log", "logger", "_logger", "logging", "warnings"})


@dataclass(frozen=True, slots=True)
class Mutant:
    """A changed module: its path, the line and what became of it, and the whole changed source."""

    path: str
    line: int
    what: str
    source: str

    def diff(self, original: str) -> str:
        """The changed lines as a unified diff without context, and without its header."""
        lines = list(difflib.unified_diff(original.splitlines(), self.source.splitlines(), n=0, lineterm=""))
        return "\n".join(line for line in lines[2:] if not line.startswith("@@"))


def mutants_of(path: str, source: str) -> list[Mutant]:
    """Every mutant of a module, in the order of its lines. A change that gives no valid program, or the same one, is left out."""
    tree = ast.parse(source)
    same = ast.dump(tree)
    offsets = _line_offsets(source)
    raw = source.encode()
    found: dict[str, Mutant] = {}
    for node in _nodes(tree):
        for what, first, last, text in _changes(node):
            begin = offsets[first.lineno - 1] + first.col_offset
            end = offsets[(last.end_lineno or 1) - 1] + (last.end_col_offset or 0)
            changed = (raw[:begin] + text.encode() + raw[end:]).decode()
            try:
                if ast.dump(ast.parse(changed)) == same:
                    continue
                compile(changed, path, "exec", dont_inherit=True)
            except (SyntaxError, ValueError):
                continue
            found.setdefault(changed, Mutant(path, first.lineno, what, changed))
    return sorted(found.values(), key=lambda mutant: mutant.line)


def _line_offsets(source: str) -> list[int]:
    """Where each line begins, in bytes: columns of the syntax tree are bytes."""
    offsets = [0]
    for line in source.encode().splitlines(keepends=True):
        offsets.append(offsets[-1] + len(line))
    return offsets


def _nodes(node: ast.AST) -> Iterator[Node]:
    """The statements and expressions that run: no annotations, nothing for type checkers alone, no parts of f-strings."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "type_params", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr) or _for_types_alone(child):
                continue
            if isinstance(child, ast.stmt | ast.expr):
                yield child
            yield from _nodes(child)


def _for_types_alone(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _changes(node: Node) -> Iterator[tuple[str, Node, Node, str]]:
    """What may become of a node: a name for the change, the first and the last node that are replaced, and the text in their
    place."""
    if isinstance(node, ast.Dict) and len(node.values) > 1:
        for key, value in zip(node.keys, node.values, strict=True):
            if key is not None:
                yield "an entry is gone", key, value, "**{}"
    for what, replaced, text in _replacements(node):
        yield what, replaced, replaced, text


def _replacements(node: Node) -> Iterator[tuple[str, Node, str]]:
    match node:
        case ast.Compare():
            for what, text in _comparisons(node):
                yield what, node, text
        case ast.BoolOp(op=ast.And()):
            yield "and becomes or", node, f"({ast.unparse(ast.BoolOp(ast.Or(), node.values))})"
        case ast.BoolOp():
            yield "or becomes and", node, f"({ast.unparse(ast.BoolOp(ast.And(), node.values))})"
        case ast.UnaryOp(op=ast.Not()):
            yield "not is gone", node, f"({ast.unparse(node.operand)})"
        case ast.BinOp() if type(node.op) in ARITHMETIC and not _text(node):
            yield "another operator", node, f"({ast.unparse(ast.BinOp(node.left, ARITHMETIC[type(node.op)](), node.right))})"
        case ast.Constant(value=bool()):
            yield "the other truth", node, str(not node.value)
        case ast.Constant(value=int() | float()):
            yield "one more", node, f"({node.value!r} + 1)"
            yield "one less", node, f"({node.value!r} - 1)"
        case ast.If() | ast.While() | ast.IfExp() if not isinstance(node.test, ast.Compare | ast.UnaryOp | ast.Constant):
            # A comparison has its own negation, and a constant its other truth.
            yield "negated condition", node.test, f"(not ({ast.unparse(node.test)}))"
        case ast.Return() if node.value is not None and ast.unparse(node.value) != "None":
            yield "returns None", node, "return None"
        case ast.Expr(value=ast.Call() | ast.Await()) if not _is_log(node.value):
            yield "a call is gone", node, "pass"
        case ast.AugAssign() | ast.Delete() | ast.Raise() | ast.Break() | ast.Continue():
            yield f"{type(node).__name__.lower()} is gone", node, "pass"
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield "an assignment is gone", node, "pass"
        case _:
            return


def _comparisons(node: ast.Compare) -> Iterator[tuple[str, str]]:
    for what, table in (("negated comparison", NEGATED), ("moved boundary", BOUNDARY)):
        for place, operator in enumerate(node.ops):
            if type(operator) in table:
                changed = copy.copy(node)
                changed.ops = [*node.ops[:place], table[type(operator)](), *node.ops[place + 1 :]]
                yield what, f"({ast.unparse(changed)})"


def _text(node: ast.BinOp) -> bool:
    """Whether an operation joins or formats text: with another operator it would only fail."""
    return any(isinstance(part, ast.JoinedStr) or (isinstance(part, ast.Constant) and isinstance(part.value, str | bytes))
               for part in ast.walk(node))


def _is_log(call: ast.expr) -> bool:
    inner: ast.AST = call
    while isinstance(inner, ast.Attribute | ast.Call):
        inner = inner.func if isinstance(inner, ast.Call) else inner.value
        if isinstance(inner, ast.Attribute) and inner.attr in LOGS:
            return True
    return isinstance(inner, ast.Name) and inner.id in LOGS
