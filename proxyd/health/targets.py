"""Finds the target that a route asks to have checked."""

from __future__ import annotations

from proxyd.base import variables
from proxyd.base.urls import ALWAYS, parse_backend, split_grpc_check
from proxyd.config.defaults import beneath, defaults
from proxyd.config.options import RouteOptions, route_options, tls_of
from proxyd.config.sections import HealthSettings
from proxyd.health.probe import STANDARD, Target
from proxyd.store.sql.snapshot import Pairs, RouteRecord


def target_of(record: RouteRecord, settings: HealthSettings) -> tuple[Target, RouteOptions] | None:
    """A route's target and options. None if the route has no check, or if its row can't be read."""
    try:
        options = route_options(record.options)
        path = options.health_check_path or (settings.default_path if settings.default_check else "")
        if not path:
            return None
        backend = parse_backend(record.backend_url)
        if backend.answer is not None:
            return None
        http2, service = backend.spoken(options.http2), None
        place, send_proxy = "", options.send_proxy
        declared = beneath(record.request_headers, defaults().request_headers)
        if path.startswith("tcp://"):
            other = parse_backend("http://" + path.removeprefix("tcp://")) if len(path) > len("tcp://") else backend
            shown = f"[{other.host}]" if ":" in other.host else other.host
            where = f"{shown}:{other.port}" if other.port else other.place
            scheme, host, port, authority, path = "tcp", other.host, other.port, where, ""
            send_proxy = send_proxy if other is backend else "off"
        elif path.startswith("grpc://"):
            where, service = split_grpc_check(path)
            other = parse_backend("http://" + where) if where else backend
            scheme, host, port, authority, place = other.scheme, other.host, other.port, other.authority, other.place
            if other is backend:
                authority = options.upstream_host or authority
            else:
                send_proxy, declared = "off", ()
            http2, path = ALWAYS, "/"
        else:
            scheme, host, port, place = backend.scheme, backend.host, backend.port, backend.place
            authority = options.upstream_host or backend.authority
    except ValueError:
        return None
    fields = _fields(declared, options)
    authority = next((value for name, value in fields if name == "Host"), authority) if path else authority
    return Target(scheme, host, port, authority, path, options.health_check_interval, options.health_check_timeout,
                  options.health_expected_status, options.health_expected_body, options.health_rise, options.health_fall,
                  tls_of(options), options.health_check_keepalive, options.bare_lf, http2, service,
                  "" if place == authority else place, send_proxy, options.health_method,
                  tuple(pair for pair in fields if pair[0] != "Host") if path else STANDARD), options


def _fields(declared: Pairs, options: RouteOptions) -> Pairs:
    """The fields of a check: what the route sets for all its requests, and before that what it says of checks. A value with variables
    speaks of a client, whom a check does not have."""
    found = {name.lower(): (name, value) for name, value in STANDARD}
    for name, value in declared:
        said = variables.parse(value)
        if isinstance(said, str):
            found[name.lower()] = name, said
    found.update({name.lower(): (name, value) for name, value in options.health_headers})
    return tuple((name, value) for name, value in found.values() if value not in ("", "-"))
