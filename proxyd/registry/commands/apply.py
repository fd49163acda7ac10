"""Commands that show the staged copy, and make it the active configuration."""

from __future__ import annotations

from proxyd.base import clock
from proxyd.base.text import route_number
from proxyd.registry import configuration, fields, staging
from proxyd.registry.caller import Caller
from proxyd.registry.fields import SCOPES, Field
from proxyd.registry.framing import compressed, to_json
from proxyd.registry.protocol import CommandError, command

TOPIC = "Applying"
#: Seconds between two events about refused applies of a session: of another reason, and of the same one.
_LEAST_PAUSE, _TOLD_AGAIN = 1.0, 60.0
_MAX_REASON = 500


@command("ROUTE_LIST", TOPIC,
         Field("compressed", fields.compressed, "`compressed`: base64(gzip(json)).", True, False),
         answer='`ROUTE_LIST_OK|[{"route_id","id","domains","path","backend","priority","status"}]`, status `active`, `staged` or '
                '`pending_removal`',
         help="The session's routes, staged ones included. `id` repeats `route_id`.", repeatable=True)
def route_list(caller: Caller, compress: bool) -> str:
    session = caller.session
    staged = configuration.staged_routes(session.staged)
    listed = []
    for route_id in sorted({*session.routes, *staged}, key=route_number):
        change = staged.get(route_id)
        spec = change or session.routes[route_id]
        status = "active" if route_id not in staged else "staged" if change is not None else "pending_removal"
        listed.append({"route_id": route_id, "id": route_id, "domains": list(spec.domains), "path": spec.path,
                       "backend": spec.backend_url, "priority": spec.priority, "status": status})
    text = to_json(listed)
    return "ROUTE_LIST_OK|" + (compressed(text) if compress else text)


@command("CONFIG_VALIDATE", TOPIC, answer="`OK` or `ERROR|route r2: ...`",
         help="Check the staged copy together with what is active, and with other services' routes.", repeatable=True)
def config_validate(caller: Caller) -> str:
    problem = staging.validate(caller.registry, caller.session)
    if problem:
        raise CommandError(problem)
    return "OK"


@command("CONFIG_DIFF", TOPIC,
         answer='`DIFF_OK|{"routes":{"added":[ids],"removed":[ids],"modified":[ids]},"headers":{"added":n,"removed":n,"modified":n},'
                '"request_headers":{..},"options":{..},"health":{..},"ratelimit":{..},"circuit_breaker":{..}}`',
         help="Show what an apply would change.", repeatable=True)
def config_diff(caller: Caller) -> str:
    session = caller.session
    return "DIFF_OK|" + to_json(configuration.differences(session.settings, session.routes, session.staged))


@command("CONFIG_APPLY", TOPIC, answer="`OK`, or `ERROR|...` with nothing applied",
         help="Make the staged copy the active one, in one transaction. `OK` means that every live worker routes by it.", repeatable=True)
def config_apply(caller: Caller) -> str:
    _apply(caller, SCOPES)
    return "OK"


@command("CONFIG_APPLY_PARTIAL", TOPIC,
         Field("scopes", fields.scopes, f"Scopes with commas: {', '.join(SCOPES)}."),
         answer="as CONFIG_APPLY", help="Apply those scopes. The rest stays staged, and so do settings of routes that are not "
                                        "applied yet.", repeatable=True)
def config_apply_partial(caller: Caller, scopes: tuple[str, ...]) -> str:
    _apply(caller, scopes)
    return "OK"


@command("CONFIG_ROLLBACK", TOPIC, answer="`OK`", help="Empty the staged copy. Live traffic is not affected.", repeatable=True)
def config_rollback(caller: Caller) -> str:
    staging.rollback(caller.registry, caller.session)
    return "OK"


def _apply(caller: Caller, scopes: tuple[str, ...]) -> None:
    """Apply, and note it where it is refused: the client was told, but perhaps nobody else. A client that tries again and again fills no
    history."""
    session = caller.session
    try:
        staging.apply(caller.registry, session, scopes, caller.actor)
    except staging.StagingError as error:
        now, reason = clock.now(), str(error)[:_MAX_REASON]
        said, at = session.refused
        if reason != said and now - at >= _LEAST_PAUSE or now - at >= _TOLD_AGAIN:
            session.refused = reason, now
            caller.registry.bus.publish("apply_refused", {
                "service": session.service, "instance": session.instance, "reason": reason}, session_id=session.session_id,
                actor=caller.actor)
        raise
    session.refused = "", 0.0
