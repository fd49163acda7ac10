"""The command table: it declares each command once, with fields, answer and help. Checks, errors, `docs/protocol.md` and the
dispatch follow from it. The handlers in `registry/commands/` declare themselves here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from proxyd.base.text import hide_token
from proxyd.registry import fields
from proxyd.registry.fields import Field
from proxyd.registry.framing import TRANSACTION

SESSION_ID = Field("session_id", fields.anything, "The id from the answer to REGISTER.")
TARGET = Field("target", fields.target, "`ALL` (also routes added later) or a route id. A route's own setting overrides `ALL`.",
               routes=True)
ROUTE_ID = Field("route_id", fields.route_id, "A route of the session.", routes=True)

#: What a handler returns: one answer, or several lines that are sent as they come.
Answer = str | Iterator[str]
Handler = Callable[..., Answer]


class CommandError(Exception):
    """A command can't be carried out. The message follows `ERROR|`."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    `session`: it needs a session, whose id is the first field. `repeatable`: twice has the effect of once, so a client that lost
    the answer may send it again. `scope`: the scope that it stages, as CONFIG_APPLY_PARTIAL names it; empty if it stages nothing.
    """

    name: str
    topic: str
    fields: tuple[Field, ...]
    answer: str
    help: str
    handler: Handler
    session: bool = True
    repeatable: bool = False
    scope: str = ""

    @property
    def targets(self) -> bool:
        """Whether the first field behind the session id names routes."""
        own = self.fields[1:] if self.session else self.fields
        return bool(own) and own[0].routes

    @property
    def required(self) -> int:
        """The number of fields that it needs."""
        return sum(not field.optional for field in self.fields)

    def usage(self) -> str:
        """The fields as they are written: `session_id|target[|compressed]`."""
        text = ""
        for index, field in enumerate(self.fields):
            part = f"|{field.name}" if index else field.name
            text += f"[{part}]" if field.optional else part
        return text


COMMANDS: dict[str, Command] = {}


def command(name: str, topic: str, *declared: Field, answer: str, help: str, session: bool = True, repeatable: bool = False,
            scope: str = "") -> Callable[[Handler], Handler]:
    """Declare the decorated function as the handler of a command. Command explains the flags.

    The handler is called with the Caller and the parsed fields (without the session id), and returns the answer.
    """

    def declare(handler: Handler) -> Handler:
        all_fields = (SESSION_ID, *declared) if session else declared
        COMMANDS[name] = Command(name, topic, all_fields, answer, help, handler, session, repeatable, scope)
        return handler

    return declare


@dataclass(frozen=True, slots=True)
class CommandLine:
    """The parts of a line: command, raw fields, transaction id."""

    command: Command
    values: list[str]
    transaction: str

    def parsed(self) -> list[Any]:
        """The checked fields behind the session id. Raises a CommandError that names the field."""
        declared = self.command.fields
        result = []
        for index, field in enumerate(declared):
            if index == 0 and self.command.session:
                continue
            if index >= len(self.values):
                result.append(field.default)
                continue
            try:
                result.append(field.parse(self.values[index]))
            except ValueError as error:
                # A client that confuses the order of the fields may have its token in any of them.
                raise CommandError(f"{field.name}: {hide_token(str(error))}") from None
        return result


def parse(line: str) -> CommandLine:
    """Split a command line into its parts. Raises CommandError for an unknown command, and for too few or too many fields."""
    name, _, rest = line.partition("|")
    known = COMMANDS.get(name)
    raw = rest.split("|") if "|" in line else []
    transaction = ""
    if len(raw) > 1 and raw[1].startswith(TRANSACTION) and (known is None or known.fields[0].name == SESSION_ID.name):
        transaction = raw.pop(1)
    if known is None:
        raise UnknownCommand(transaction, f"unknown command: {name[:64]}")
    count = len(known.fields)
    if len(raw) < known.required:
        plural = "field" if known.required == 1 else "fields"
        raise CommandErrorWith(transaction, f"{name} needs {known.required} {plural}: {known.usage()} (got {len(raw)})")
    if len(raw) > count:
        if count <= 1 and known.fields[0].name == SESSION_ID.name:
            raise CommandErrorWith(transaction, f"{name} takes 1 field: {known.usage()} (got {len(raw)})")
        raw[count - 1:] = ["|".join(raw[count - 1:])]
    return CommandLine(known, raw, transaction)


class CommandErrorWith(CommandError):
    """A CommandError about a line whose transaction id (if any) is known."""

    def __init__(self, transaction: str, message: str) -> None:
        super().__init__(message)
        self.transaction = transaction


class UnknownCommand(CommandErrorWith):
    """A line whose command is unknown."""
