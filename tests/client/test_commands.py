"""The client's own tables of commands against the registry's declarations."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from proxyd.client import commands as table
from proxyd.registry import commands as handlers
from proxyd.registry.protocol import COMMANDS

CLIENT = Path(table.__file__).parent
#: The client registers and reconnects by lines that it puts together itself.
WRITTEN_AS_LINES = {"REGISTER", "RECONNECT", "CLIENT_SHUTDOWN"}

assert handlers.__all__, "importing the handlers fills the command table"


def words_of(path: Path) -> set[str]:
    """Whole texts in a module, those in f-strings up to their first bar."""
    texts = [node.value for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
             if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return {text.partition("|")[0] for text in texts}


def test_the_client_repeats_what_is_declared_repeatable() -> None:
    assert {name for name, command in COMMANDS.items() if command.repeatable} == table.REPEATABLE


def test_the_client_knows_the_declared_scope_of_what_is_staged() -> None:
    assert {name: command.scope for name, command in COMMANDS.items() if command.scope} == table.SCOPES


def test_the_client_translates_route_ids_where_a_command_names_routes() -> None:
    assert {name for name, command in COMMANDS.items() if command.targets} == table.TARGETED


def test_the_client_sends_every_command_there_is() -> None:
    assert set(COMMANDS) <= words_of(CLIENT / "api.py") | words_of(CLIENT / "link.py")


def test_every_command_but_those_of_the_session_itself_has_a_method() -> None:
    assert set(COMMANDS) - WRITTEN_AS_LINES <= words_of(CLIENT / "api.py")


def test_importing_the_client_brings_nothing_else_of_proxyd_along() -> None:
    seen = subprocess.run(
        [sys.executable, "-c", "import sys, proxyd.client; print(*sorted(n for n in sys.modules if n.startswith('proxyd.')))"],
        capture_output=True, text=True, check=True, cwd=CLIENT.parents[1]).stdout.split()
    assert {name for name in seen if not name.startswith("proxyd.client")} == {"proxyd.base", "proxyd.base.text"}
