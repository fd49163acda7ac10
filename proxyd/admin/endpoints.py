"""All endpoints of the admin HTTP."""

from __future__ import annotations

from proxyd.admin import acting, certs, history, page, reading, views
from proxyd.admin.context import Context
from proxyd.admin.http import Request, Response, as_json
from proxyd.admin.schemas import NUMBER, TEXT
from proxyd.admin.table import Endpoint, Parameter, openapi
from proxyd.base.revocation import REASONS
from proxyd.events.types import ALL, NAMES
from proxyd.registry import rollouts
from proxyd.store.sql import errors as grouped
from proxyd.store.sql import places

_LIMIT = Parameter("limit", "Most items.", {"type": "integer", "minimum": 1, "maximum": reading.MAX_LIMIT})
_OFFSET = Parameter("offset", "Items left out; X-Total-Count has the number of all.",
                    {"type": "integer", "minimum": 0, "maximum": reading.MAX_OFFSET})
_SEARCH = Parameter("q", "Text in id, service, domains, path or backend of the route.", {"type": "string", "maxLength": 200})
_UNWELL = Parameter("unwell", "1: only routes that are unwell, worst first.", {"type": "string", "enum": ["0", "1"]})
_VERBOSE = Parameter("verbose", "1, or without a value: say what is unwell, too.", {"type": "string", "enum": ["", "0", "1"]})
_ORDER = Parameter("order", "worst: those that are unwell first.", {"type": "string", "enum": ["name", "worst"], "default": "name"})
_STATE = Parameter("state", "Only routes in this state; lost: whose session is.", {"type": "string", "enum": list(views.STATES)})
_ROUTES = (_SEARCH, _UNWELL, _STATE, _ORDER, _LIMIT, _OFFSET)
_SECONDS = {"type": "object", "properties": {"seconds": {**NUMBER, "exclusiveMinimum": 0, "maximum": acting.MAX_SECONDS, "default": 60}}}
_PAGE_URL = {"type": "object", "dependentRequired": {"at": ["seconds"]}, "properties": {
    "page_url": {**TEXT, "maxLength": 8000, "default": ""},
    "seconds": {**NUMBER, "exclusiveMinimum": 0, "maximum": acting.MAX_SECONDS},
    "at": {**TEXT, "maxLength": 40},
    "reason": {**TEXT, "maxLength": 200, "default": ""}}}
_ROLLOUT = {"type": "object", "required": ["to"], "properties": {
    "to": {**TEXT, "minLength": 1, "maxLength": 200, "examples": ["v2"]},
    "steps": {**TEXT, "maxLength": 400, "default": rollouts.STEPS},
    "every": {**NUMBER, "exclusiveMinimum": 0, "maximum": acting.MAX_SECONDS, "default": rollouts.EVERY},
    "max_errors": {**NUMBER, "exclusiveMinimum": 0, "maximum": 100, "default": rollouts.MAX_ERRORS},
    "max_slower": {**NUMBER, "exclusiveMinimum": 1, "maximum": 1000, "default": rollouts.MAX_SLOWER}}}
_URL = {"type": "object", "required": ["url"], "properties": {
    "url": {**TEXT, "minLength": 1, "maxLength": 8000, "examples": ["http://127.0.0.1:3000"]}}}
_NAMED = {"type": "object", "maxProperties": 200, "additionalProperties": {**TEXT, "maxLength": 8000}}
_CHANGED = {
    "domains": {"type": "array", "minItems": 1, "maxItems": 1000, "items": {**TEXT, "minLength": 1, "maxLength": 300},
                "examples": [["shop.example.com"]]},
    "backend": {**TEXT, "minLength": 1, "maxLength": 8000, "examples": ["http://127.0.0.1:3000"]},
    "path": {**TEXT, "maxLength": 2000, "default": "/"},
    "priority": {"type": "integer", "minimum": -1_000_000, "maximum": 1_000_000, "default": 0},
    "options": {**_NAMED, "examples": [{"timeout": "30s"}]}, "headers": {**_NAMED, "examples": [{"X-Frame-Options": "DENY"}]},
    "request_headers": {**_NAMED, "examples": [{"X-Tier": "gold"}]},
    "rate_limit": {**TEXT, "maxLength": 1000, "examples": ["100/minute; 1000/hour"]}}
_ADDED = {"type": "object", "required": ["domains", "backend"],
          "properties": {**_CHANGED, "service": {**TEXT, "maxLength": 128, "examples": ["shop"]}}}
_PEM = {"type": "object", "required": ["pem"], "properties": {
    "pem": {**TEXT, "minLength": 1, "maxLength": 60_000, "examples": ["-----BEGIN CERTIFICATE-----..."]}}}
_REASON = {"type": "object", "required": ["reason"], "properties": {"reason": {**TEXT, "enum": list(REASONS), "examples": ["superseded"]}}}
_TOKEN = {"type": "object", "properties": {"token": {**TEXT, "maxLength": 8000, "examples": ["..."]}}, "required": ["token"]}


def _why(context: Context, request: Request) -> Response:
    """Which route a url matches, what each gate says, and which member would take the request."""
    # The gates, and what they need in turn, would be a quarter of the master's start: only who asks pays for them.
    from proxyd.admin.why import why

    return why(context, request)


def document(context: Context, request: Request) -> Response:
    """This API, as OpenAPI 3.1."""
    return as_json(openapi(ENDPOINTS))


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("GET", "/livez", reading.livez, "200 while the master runs.", "text/plain", public=True),
    Endpoint("GET", "/readyz", reading.readyz,
             "Whether traffic can be served as configured (503: no), and why not; verbose: all that is unwell.", "Ready",
             (_VERBOSE,), also=(503,), public=True),
    Endpoint("GET", "/metrics", reading.prometheus, "Metrics for Prometheus.", "text/plain application/openmetrics-text"),
    Endpoint("GET", "/api/v1/status", reading.status, "The master, its workers and what is wrong.", "Status"),
    Endpoint("GET", "/api/v1/routes", reading.routes, "Routes with health, circuit, maintenance, drain and traffic.",
             "routes: [Route]", _ROUTES),
    Endpoint("GET", "/api/v1/routes/{route_id}", reading.route, "One route.", "Route"),
    Endpoint("GET", "/api/v1/routes/{route_id}/requests", history.requests,
             "The last slow and failed requests to a route's place, over all its instances and deploys; followed: each request as it ends.",
             "Requests", (Parameter("follow", "1: answer with server-sent events, and go on.", {"type": "string", "enum": ["0", "1"]}),),
             stream=True),
    Endpoint("GET", "/api/v1/routes/{route_id}/history", history.history,
             "Traffic, percentiles, checks, changes of the circuits and deploys of a route's place, over all its instances and deploys.",
             "History", (Parameter("span", "hour: by the minute; day and week: by the hour.",
                                   {"type": "string", "enum": list(places.SPANS), "default": "hour"}),)),
    Endpoint("POST", "/api/v1/routes", acting.add_route, "Add a route by hand. It is kept in the database until it is removed.", "Added",
             body=_ADDED, action=True),
    Endpoint("PATCH", "/api/v1/routes/{route_id}", acting.change_route,
             "Change a route by hand. What is absent stays; options and fields that are there replace all of their kind.", "Done",
             body={"type": "object", "properties": _CHANGED}, action=True),
    Endpoint("DELETE", "/api/v1/routes/{route_id}", acting.remove_route, "Remove a route by hand.", "Done", action=True),
    Endpoint("GET", "/api/v1/sessions", reading.sessions, "Sessions, newest first; ended ones when asked for.",
             "sessions: [Session]", (
        Parameter("state", "Only this state.", {"type": "string", "enum": ["connected", "disconnected", "ended"]}),
        Parameter("service", "Only of this service.", {"type": "string", "maxLength": 200, "examples": ["shop"]}),
        _LIMIT, _OFFSET)),
    Endpoint("GET", "/api/v1/health", reading.health, "The health of the routes that are checked.", "health: [Health]"),
    Endpoint("GET", "/api/v1/circuits", reading.circuits, "The circuits as the workers have them now.", "circuits: [Circuit]",
             _ROUTES),
    Endpoint("GET", "/api/v1/hosts", reading.hosts, "The hosts that share a PostgreSQL database. With SQLite there are none.", "Hosts"),
    Endpoint("GET", "/api/v1/certificates", reading.certificates, "Certificates by [acme] and their orders, and the local CA as PEM.",
             "Certificates"),
    Endpoint("POST", "/api/v1/certificates", certs.take, "Import a certificate with its key, for all its names.", "Done", body=_PEM,
             action=True),
    Endpoint("POST", "/api/v1/certificates/{domain}/renew", certs.renew, "Order the certificates of a name anew.", "Done", action=True),
    Endpoint("POST", "/api/v1/certificates/{domain}/revoke", certs.revoke, "Have the CA revoke the certificates of a name.", "Done",
             body=_REASON, action=True),
    Endpoint("DELETE", "/api/v1/certificates/{domain}", certs.remove, "Show the certificates of a name no more, without a word to the CA.",
             "Done", action=True),
    Endpoint("GET", "/api/v1/events", reading.events,
             "The last events, newest first; followed, or asked for as text/event-stream: events as they happen.",
             "events: [Event]", (
                 _LIMIT, Parameter("type", "Only this type.", {"type": "string", "enum": [ALL, *NAMES]}),
                 Parameter("follow", "1: answer with server-sent events, and go on.", {"type": "string", "enum": ["0", "1"]})),
             stream=True),
    Endpoint("GET", "/api/v1/errors", reading.errors,
             "The errors of the last hours, by service, place, status and reason; those with a status from 500 first.", "errors: [Error]", (
                 Parameter("hours", "How far back.", {"type": "integer", "minimum": 1, "maximum": reading.MAX_HOURS,
                                                      "default": reading.DEFAULT_HOURS}),
                 Parameter("made_by", "Only those that these made.", {"type": "string", "enum": ["backend", "proxy", "client"]}),
                 Parameter("service", "Only of this service.", {"type": "string", "maxLength": 200, "examples": ["shop"]}), _LIMIT,
                 _OFFSET)),
    Endpoint("GET", "/api/v1/unknown-hosts", reading.unknown_hosts, "The hosts that are asked for most and that no route names.",
             "hosts: [UnknownHost]", (
                 Parameter("limit", "Most items.", {"type": "integer", "minimum": 1, "maximum": grouped.HOSTS_KEPT, "default": 100}),)),
    Endpoint("GET", "/api/v1/stats", reading.stats, "Traffic sums of the routes, over all workers.", "stats: [Stats]", _ROUTES),
    Endpoint("GET", "/api/v1/traffic", reading.traffic, "Requests and errors of the last minutes, by route.", "Traffic", (
        *_ROUTES, Parameter("minutes", "How many minutes.", {"type": "integer", "minimum": 1, "maximum": 1440, "default": 30}))),
    Endpoint("GET", "/api/v1/why", _why, "Which route a url matches, what each gate says, and which member would take the request.",
             "Why", (
                 Parameter("url", "The url; without a scheme, http.", {**TEXT, "minLength": 1, "maxLength": 8000,
                                                                           "examples": ["https://shop.example.com/cart"]}, True),
                 Parameter("client", "Address of the client.", {"type": "string", "default": "127.0.0.1", "maxLength": 100}),
                 Parameter("method", "The method.", {"type": "string", "default": "GET", "maxLength": 64}),
                 Parameter("fields", "Request fields, one a line.", {"type": "string", "default": "", "maxLength": 8000,
                                                                     "examples": ["X-Canary: 1"]}))),
    Endpoint("GET", "/api/v1/openapi.json", document, "The API as an OpenAPI 3.1 document.", "application/json"),
    Endpoint("POST", "/api/v1/sessions/{session_id}/drain", acting.start_drain, "Drain a session.", "Done", body=_SECONDS,
             action=True),
    Endpoint("DELETE", "/api/v1/sessions/{session_id}/drain", acting.cancel_drain, "Cancel a drain.", "Done", action=True),
    Endpoint("POST", "/api/v1/routes/{route_id}/maintenance", acting.enter_maintenance, "Put a route into maintenance.", "Done",
             body=_PAGE_URL, action=True),
    Endpoint("DELETE", "/api/v1/routes/{route_id}/maintenance", acting.exit_maintenance, "Take a route out of it.", "Done",
             action=True),
    Endpoint("POST", "/api/v1/routes/{route_id}/hold", acting.hold, "Let a route's requests wait.", "Done", body=_SECONDS, action=True),
    Endpoint("DELETE", "/api/v1/routes/{route_id}/hold", acting.release, "Let them go on.", "Done", action=True),
    Endpoint("POST", "/api/v1/routes/{route_id}/circuit/reset", acting.reset_circuit, "Close a circuit in every worker.", "Done",
             action=True),
    Endpoint("POST", "/api/v1/hosts/{name}/drain", acting.drain_host, "Take a host out of service for an upgrade.", "Done", action=True),
    Endpoint("DELETE", "/api/v1/hosts/{name}/drain", acting.undrain_host, "Let a host serve again.", "Done", action=True),
    Endpoint("GET", "/api/v1/services/{service}/rollout", reading.rollout, "The rollout of a service that goes on, or its last one.",
             "Rollout"),
    Endpoint("POST", "/api/v1/services/{service}/rollout", acting.start_rollout, "Roll a service out to one of its instances.", "Done",
             body=_ROLLOUT, action=True),
    Endpoint("DELETE", "/api/v1/services/{service}/rollout", acting.abort_rollout, "Give its requests back to the others.", "Done",
             action=True),
    Endpoint("POST", "/api/v1/services/{service}/rollout/clear", acting.clear_rollout, "Let all instances share by weight again.", "Done",
             action=True),
    Endpoint("GET", "/api/v1/alerts", reading.alerts, "The webhooks that alerts go to, without their urls.", "Webhooks"),
    Endpoint("POST", "/api/v1/alerts/test", acting.test_alerts, "Send a test message to each webhook, or to the one with a name.",
             "SentAlerts", body={"type": "object", "properties": {"name": {**TEXT, "maxLength": 64, "examples": [""]}}}, action=True),
    Endpoint("POST", "/api/v1/test", acting.test_backend, "Try a backend url.", "Tested", body=_URL, action=True),
    Endpoint("POST", "/login", acting.login, "Trade the token for a session.", "Login", body=_TOKEN, hidden=True, public=True),
    Endpoint("POST", "/logout", acting.logout, "End the session.", "Done", hidden=True, public=True),
    Endpoint("GET", "/", page.page, "The status page.", "text/html", hidden=True, public=True),
    Endpoint("GET", "/page.css", page.style, "Its style.", "text/css", hidden=True, public=True),
    Endpoint("GET", "/route/{route_id}", page.route_page, "The page of a route.", "text/html", hidden=True, public=True),
    Endpoint("GET", "/common.js", page.common, "What the scripts share.", "text/javascript", hidden=True, public=True),
    Endpoint("GET", "/page.js", page.script, "The status page's script.", "text/javascript", hidden=True, public=True),
    Endpoint("GET", "/route.js", page.route_script, "The script of a route's page.", "text/javascript", hidden=True, public=True),
)
