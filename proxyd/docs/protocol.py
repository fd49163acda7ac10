"""docs/protocol.md: the wire protocol, with every command as its table declares it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby

from proxyd.base.text import format_duration
from proxyd.config.sections import RegistrySettings
from proxyd.docs.markdown import code, fenced, generated, table
from proxyd.events.types import TYPES
from proxyd.registry import commands
from proxyd.registry.framing import MAX_ANSWER, MAX_COMPRESSED, TRANSACTION
from proxyd.registry.protocol import COMMANDS, Command

assert commands.__all__, "importing the handlers fills the command table"
_DEFAULTS = RegistrySettings()
#: The order of a conversation; topics that are not named here come last.
_TOPICS = ("Sessions", "Staging", "Applying", "Live state", "Drain and maintenance")

_HEAD = """# Registry protocol

A service tells proxyd what it serves by a conversation of lines over TCP: it registers, stages routes and settings,
applies them, and keeps the connection open. As long as it is open, the routes are live.

"""

_EXAMPLE = """> REGISTER|shop|shop-1|0|{"version":"1.4"}
< ACK|4f0c...
> ROUTE_ADD|4f0c...|shop.example.com|/|http://127.0.0.1:3000|0
< ROUTE_OK|r1
> OPTIONS_SET|4f0c...|r1|timeout|10s
< OPTIONS_OK
> HEALTH_SET|4f0c...|r1|/healthz|5s|2s
< HEALTH_OK
> CONFIG_APPLY|4f0c...
< OK"""

_FRAMING = """
From that `OK` on, every worker sends `http://shop.example.com/` to port 3000.

## Framing

- TCP (or TLS, `[registry] tls_certificate`), UTF-8, one message a line, ended by `\\n`; a `\\r` before it is dropped. Fields
  are split by `|`, and the last field of a command takes the rest of the line, so that JSON and header values may hold
  `|`. In JSON that the server sends, `|` is written `\\u007c`: an answer can be split without looking.
- A command line has at most {max_line} bytes (`[registry] max_line`). A longer one is answered
  `ERROR|line too long (max {max_line} bytes)`, and the connection closes: what follows could not be told from the rest of it.
- An answer has at most {max_answer} bytes, its line end included. In the place of a larger one comes
  `ERROR|response too large (N bytes), ask for compressed`; `ROUTE_LIST|sid|compressed` and
  `STATS_GET|sid|target|compressed` answer with base64(gzip(json)) of at most {max_compressed} bytes.
- Empty lines are ignored. Invalid UTF-8 and control characters get an `ERROR`, and the command is not looked at. Before REGISTER or
  RECONNECT the connection closes then, since the client speaks another protocol (TLS, for example).
- Answers come in the order of the commands, one for each; sending several commands before reading is fine. What the
  server sends unasked is `EVENT` (only to a session that sent `SUBSCRIBE`), the second line of `MAINT_ENTER` and
  `MAINT_EXIT`, and `SHUTDOWN` before it stops.
- A client that does not read is cut when {max_output} bytes wait for it (`[registry] max_output`).

### Transaction ids

A field that begins with `{transaction}` directly behind the session id is not one of the command's fields: it comes back
behind the first field of the answer, errors included.

"""

_TRANSACTION_EXAMPLE = """> PING|4f0c...|txn-7
< PONG|txn-7"""

_SESSIONS = """
### Durations

`1h30m`, `1.5s`, `500ms`, `250us`, or a whole number of seconds (`120`). Zero, negative or anything else is an error that
names the field and the value.

### Lost answers

When the connection breaks before the answer, nobody can tell whether the command was carried out. A command marked
*Repeatable* may be sent again after `RECONNECT`. Before any other, look at the state first (`ROUTE_LIST`, `CONFIG_DIFF`).

## Sessions

- `REGISTER` begins a session and answers with its id, which nobody can guess; all later commands carry it. Another id
  than the connection's own gets `ERROR|invalid session`; any before a session, `ERROR|no session`. A connection
  without a session is closed after {register_timeout} (`register_timeout`).
- Registering the same service and instance again replaces the older session: its routes go in the same transaction
  in which the new session appears. Instances of one service that claim the same domain, path and priority are replicas;
  *another* service that does so is refused at `CONFIG_VALIDATE` and `CONFIG_APPLY`, with the holder named.
- When the connection is lost (closed, reset, or no answer to keepalive within a minute), the session's routes take no
  more traffic at once, and are kept for {grace} (`reconnect_grace`). `RECONNECT` on a new connection within that time
  brings them back as they were, staged changes too. After it, the answer is `REREGISTER`, and the same connection may
  then register.
- Sessions, routes and settings are in the database before they are acknowledged, so all of this holds over a restart
  of the master as well, `kill -9` included: clients that come back within the grace find everything.
- `SHUTDOWN` from the server means that it stops, and the session stays: connect again and `RECONNECT`.
- With `[registry] tokens_file`, `REGISTER` must bring `"token"` in its metadata. The token is checked and dropped,
  never stored, logged or shown.

## Staging and applying

Commands under *Staging* change the session's staged copy and nothing else. `CONFIG_APPLY` makes the copy the active
configuration in one transaction, or refuses with nothing changed; its `OK` means that every live worker already routes by
it. A worker that has not answered after {apply_wait} (`apply_wait`) is named in the log, and the answer is `OK` all the same:
the change is committed, and the worker takes it with the next it sees. Applying nothing is `OK`. Staged changes that
sit untouched for {staged_ttl} (`staged_ttl`) are dropped.

Each field is checked when it is staged, and all together at `CONFIG_VALIDATE` and `CONFIG_APPLY`. Route ids are `r1`,
`r2`, ... and never used twice. For settings, `ALL` means every route of the session, routes added later included; what
is set for a route by its id beats `ALL`. `http3` is accepted for the sake of older clients; `true` is noted once in the log
and in `ROUTE_STATUS`. So are options that proxyd does not know, with `[registry] unknown_options = note`; otherwise they are errors.

## Errors

`ERROR|message`, and nothing has changed. The message names the field, the value and what was expected; an internal error
has an id under which the log has the rest, and the connection lives on.

"""

_ERRORS = (
    ("ERROR|unknown command: X", "no such command; names are in capitals. Before REGISTER or RECONNECT the connection closes, since it "
     "speaks another protocol"),
    ("ERROR|ROUTE_ADD needs 5 fields: session_id|domains|path|backend_url|priority (got 3)", "too few fields"),
    ('ERROR|priority: "ten" is not a whole number', "a field that can't be read"),
    ("ERROR|no session", "before REGISTER or RECONNECT"),
    ("ERROR|invalid session", "not the id of this connection's session, or it was replaced"),
    ("ERROR|route r2: ...", "the staged copy does not fit together, or not with other services' routes"),
    ("ERROR|the database ... is locked by another process; nothing was changed, try again", "try again"),
    ("ERROR|internal error (id ...)", "a bug: report it with the log's lines of that id"),
)

_EVENTS_HEAD = """
## Events

`SUBSCRIBE` with one of these types, several times for several, or with `all` for all of them. A session gets the events of its own
routes, and those of the whole proxy. The line is `EVENT|type|{json}`; each has `at` (RFC 3339, UTC) and, where it is about one route,
`route_id`.

"""


def text(known: Mapping[str, Command] = COMMANDS) -> str:
    """The document, with those commands."""
    values = {
        "max_line": _DEFAULTS.max_line, "max_answer": MAX_ANSWER, "max_compressed": MAX_COMPRESSED,
        "max_output": _DEFAULTS.max_output, "transaction": TRANSACTION,
        "register_timeout": format_duration(_DEFAULTS.register_timeout), "grace": format_duration(_DEFAULTS.reconnect_grace),
        "apply_wait": format_duration(_DEFAULTS.apply_wait), "staged_ttl": format_duration(_DEFAULTS.staged_ttl)}
    parts = [generated("the command table (proxyd/registry/protocol.py and commands/)"), _HEAD, fenced(_EXAMPLE),
             _FRAMING.format(**values), fenced(_TRANSACTION_EXAMPLE), _SESSIONS.format(**values),
             table(("message", "when"), ((code(message), when) for message, when in _ERRORS)),
             _EVENTS_HEAD, table(("type", "`SUBSCRIBE` with", "fields", "when"), (
                 (code(event.name), code(event.subscribed), ", ".join(map(code, event.fields)), event.sentence)
                 for event in TYPES if event.subscribed)),
             "\n## All commands\n\n", _index(known)]
    for topic, group in _by_topic(known):
        parts.append(f"\n## Commands: {topic}\n")
        parts += map(_command, group)
    return "".join(parts)


def _by_topic(known: Mapping[str, Command]) -> Iterator[tuple[str, list[Command]]]:
    """Topics with their commands, in the order in which each topic declares them."""
    rank = {topic: number for number, topic in enumerate(_TOPICS)}
    ordered = sorted(known.values(), key=lambda item: (rank.get(item.topic, len(rank)), item.topic))
    for topic, group in groupby(ordered, lambda item: item.topic):
        yield topic, list(group)


def _index(known: Mapping[str, Command]) -> str:
    return table(("topic", "commands"), (
        (topic, ", ".join(f"[{item.name}](#{item.name.lower()})" for item in group)) for topic, group in _by_topic(known)))


def _command(command: Command) -> str:
    parts = [f"\n### {command.name}\n\n{fenced(f'{command.name}|{command.usage()}' if command.fields else command.name)}\n",
             f"{command.help}\n\nAnswer: {command.answer}\n"]
    if command.scope:
        parts.append(f"\nScope: {code(command.scope)}.\n")
    if command.repeatable:
        parts.append("\nRepeatable: sent twice, it does what it does once.\n")
    own = [field for field in command.fields if not (command.session and field.name == "session_id")]
    if own:
        parts.append("\n" + table(("field", "needed", "what it is"), (
            (code(field.name), "no" if field.optional else "yes", field.help) for field in own)))
    return "".join(parts)
